//! Counts instead of asking an issuer: "token 1", "token 2", and so on, each with the lifetime that one wants to see. For demonstrations and tests.

use evertoken_plugin::{Expiry, Failure, Job, Source, Timestamp, Token, clock, jwt, log, state};
use serde::Deserialize;

/// The key of the counter. If the cache is lost, the counter starts anew, which does no harm.
const COUNT: &str = "count";

/// Configuration of the dummy source.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What stands before the number.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// How long each token lives, e.g. 30s, 5m, 1h30m. Without it the expiry is unknown, and the job's default_lifetime applies.
    #[serde(default)]
    #[cfg_attr(
        test,
        schemars(with = "Option<String>", extend("pattern" = "^( *[0-9]+ *[A-Za-zµ]+)+ *$"))
    )]
    pub lifetime: Option<Lifetime>,
    /// What the token looks like.
    #[serde(default)]
    pub shape: Shape,
}

/// What a token looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Prefix and number.
    #[default]
    Opaque,
    /// A JWT without signature whose jti is prefix and number, with iat and, if there is a lifetime, exp.
    Jwt,
}

/// A span of time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime(u64);

impl<'de> Deserialize<'de> for Lifetime {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mistake = || {
            serde::de::Error::custom(format!(
                "{text:?} is no lifetime above zero; write it like 30s, 5m or 1h30m"
            ))
        };
        evertoken_plugin::parse_duration_ms(&text)
            .filter(|millis| *millis > 0)
            .map(Self)
            .ok_or_else(mistake)
    }
}

fn default_prefix() -> String {
    "token ".to_owned()
}

/// The plugin.
#[derive(Debug)]
pub struct Dummy;

impl Source for Dummy {
    type Config = Config;

    fn acquire(job: Job<Config>) -> Result<Token, Failure> {
        let count = count()?;
        let now = clock::now();
        let expires_at = job
            .config
            .lifetime
            .map(|Lifetime(millis)| now.plus_millis(millis));
        let name = format!("{}{count}", job.config.prefix);
        let value = match job.config.shape {
            Shape::Opaque => name,
            Shape::Jwt => as_jwt(&name, now, expires_at),
        };
        Ok(Token::bearer(value).expiring(expires_at.map_or(Expiry::Unknown, Expiry::At)))
    }
}

/// The next number.
fn count() -> Result<u64, Failure> {
    let kept =
        state::get(COUNT)?.and_then(|bytes| String::from_utf8(bytes).ok()?.parse::<u64>().ok());
    let count = kept.unwrap_or(0).saturating_add(1);
    state::set(COUNT, count.to_string().as_bytes())?;
    log::debug(format!("counted to {count}"));
    Ok(count)
}

fn as_jwt(name: &str, now: Timestamp, expires_at: Option<Timestamp>) -> String {
    let times = [("iat", Some(now)), ("exp", expires_at)];
    let times = times
        .into_iter()
        .filter_map(|(name, at)| Some((name, at?.as_unix_seconds().into())));
    jwt::unsigned([("jti", name.into())].into_iter().chain(times))
}

evertoken_plugin::export_source!(Dummy);

#[cfg(test)]
mod tests {
    use evertoken_plugin::testing::{Host, acquire, assert_described};
    use evertoken_plugin::{FailureKind, jwt};
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_900);

    fn host() -> Host {
        let host = Host::new();
        host.set_now(NOW);
        host
    }

    #[test]
    fn tokens_are_counted() {
        let host = host();
        let values: Vec<_> = (0..3)
            .map(|_| acquire::<Dummy>(&json!({})).unwrap().value)
            .collect();
        assert_eq!(values, ["token 1", "token 2", "token 3"]);
        assert_eq!(host.state("count").as_deref(), Some(b"3".as_slice()));
        assert!(host.requests().is_empty());
    }

    #[test]
    fn a_count_that_was_lost_or_spoilt_starts_anew() {
        let host = host();
        host.set_state("count", b"\xff not a number");
        assert_eq!(
            acquire::<Dummy>(&json!({"prefix": "n"})).unwrap().value,
            "n1"
        );
    }

    #[test]
    fn a_token_lives_as_long_as_one_wants() {
        let _host = host();
        for (lifetime, millis) in [
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
        ] {
            let token = acquire::<Dummy>(&json!({"lifetime": lifetime})).unwrap();
            assert_eq!(
                token.expiry,
                Expiry::At(NOW.plus_millis(millis)),
                "{lifetime}"
            );
        }
        assert_eq!(
            acquire::<Dummy>(&json!({})).unwrap().expiry,
            Expiry::Unknown
        );
    }

    #[test]
    fn a_lifetime_that_is_none_is_refused() {
        let _host = host();
        for lifetime in [
            json!("0s"),
            json!("-5s"),
            json!("soon"),
            json!(""),
            json!(30),
        ] {
            let failure = acquire::<Dummy>(&json!({"lifetime": lifetime})).unwrap_err();
            assert_eq!(failure.kind, FailureKind::InvalidConfig);
            assert!(
                failure.message.starts_with("config.lifetime: "),
                "{}",
                failure.message
            );
        }
    }

    #[test]
    fn a_token_can_have_the_shape_of_a_jwt() {
        let _host = host();
        let token = acquire::<Dummy>(&json!({"shape": "jwt", "lifetime": "60s"})).unwrap();
        assert_eq!(
            json!(jwt::claims(&token.value)),
            json!({"jti": "token 1", "iat": 1_700_000_000, "exp": 1_700_000_060})
        );
    }

    #[test]
    fn the_plugin_describes_itself_truly() {
        assert_described(
            ABOUT,
            &schemars::schema_for!(Config),
            env!("CARGO_MANIFEST_DIR"),
        );
    }
}

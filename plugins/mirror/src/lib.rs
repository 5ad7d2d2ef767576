//! Passes on a secret unchanged: a service account token, or a token that another program keeps fresh, into any output.

use evertoken_plugin::{Expiry, Failure, Job, Source, Token, jwt, secrets};
use serde::Deserialize;

/// Configuration of the mirror source.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name of the secret to hand on. The job lists it under secrets and under reveal.
    #[serde(default = "default_secret")]
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub secret: String,
}

fn default_secret() -> String {
    "token".to_owned()
}

/// The plugin.
#[derive(Debug)]
pub struct Mirror;

impl Source for Mirror {
    type Config = Config;

    fn acquire(job: Job<Config>) -> Result<Token, Failure> {
        let name = &job.config.secret;
        let bytes = secrets::open(name)?.reveal()?;
        let text = String::from_utf8(bytes)
            .map_err(|_| unusable(name, "is not UTF-8 text, so it is no token"))?;
        if text.is_empty() {
            return Err(unusable(name, "is empty"));
        }
        let expiry = jwt::expires_at(&text).map_or(Expiry::Unknown, Expiry::At);
        Ok(Token::bearer(text).expiring(expiry))
    }
}

fn unusable(name: &str, what: &str) -> Failure {
    Failure::invalid_config(format!("secret {name} {what}")).with_code("config.secret")
}

evertoken_plugin::export_source!(Mirror, secrets: {
    "token": required (named_by: "secret") "the token to hand on, also listed under reveal; the key secret gives it another name",
});

#[cfg(test)]
mod tests {
    use evertoken_plugin::testing::{Host, acquire, assert_described};
    use evertoken_plugin::{FailureKind, Timestamp};
    use serde_json::json;

    use super::*;

    fn host(name: &str, value: &[u8]) -> Host {
        let host = Host::new();
        host.secret(name, value);
        host.reveal(name);
        host
    }

    #[test]
    fn the_secret_is_handed_on_as_the_host_has_it() {
        for value in ["abc", " a b ", "a\nb"] {
            let _host = host("token", value.as_bytes());
            assert_eq!(
                acquire::<Mirror>(&json!({})).unwrap(),
                Token::bearer(value),
                "{value:?}"
            );
        }
    }

    #[test]
    fn the_expiry_is_that_of_the_jwt() {
        let value = jwt::unsigned([("exp", 1_700_000_000_u64.into())]);
        let _host = host("kubernetes", value.as_bytes());
        let token = acquire::<Mirror>(&json!({"secret": "kubernetes"})).unwrap();
        assert_eq!(
            (token.value, token.expiry),
            (
                value,
                Expiry::At(Timestamp::from_unix_seconds(1_700_000_000))
            )
        );
    }

    #[test]
    fn a_secret_that_is_no_token_is_refused_by_name() {
        for (stored, what) in [(b"".as_slice(), "is empty"), (b"\xff\xfe", "is not UTF-8")] {
            let _host = host("token", stored);
            let failure = acquire::<Mirror>(&json!({})).unwrap_err();
            assert_eq!(failure.kind, FailureKind::InvalidConfig);
            assert!(
                failure.message.starts_with(&format!("secret token {what}")),
                "{}",
                failure.message
            );
        }
    }

    #[test]
    fn a_secret_that_the_job_does_not_reveal_stays_unread() {
        let host = Host::new();
        host.secret("token", "abc");
        assert!(
            acquire::<Mirror>(&json!({}))
                .unwrap_err()
                .has_code("secret.not-revealed")
        );
        assert!(
            acquire::<Mirror>(&json!({"secret": "other"}))
                .unwrap_err()
                .has_code("secret.not-listed")
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

//! Warnings about valid options and jobs of built-in sources that are rarely intended.

use std::sync::Arc;

use serde_json::Value;

use crate::config::{Mistake, Mistakes, Places, PluginUse, SOURCE_PLUGINS};
use crate::json_member::escaped;
use crate::model::Job;
use crate::text;

/// The warnings, each with its place.
pub(super) fn warnings(places: &Places) -> Vec<Mistake> {
    let of_built_in = places
        .plugin_options()
        .filter(|said| said.wanted == PluginUse::Source && SOURCE_PLUGINS.contains(&said.plugin));
    let warnings = of_built_in.flat_map(|said| {
        let mut found = Vec::new();
        gather(&said.config, String::new(), &mut found);
        let tell = move |(pointer, why): (String, &str)| {
            places.mistake(said.place.pointer(&pointer), why, None)
        };
        found.into_iter().map(tell)
    });
    warnings.take(Mistakes::ENOUGH).collect()
}

/// Warnings about valid jobs of built-in sources that are rarely intended.
pub(super) fn of_jobs(jobs: &[Arc<Job>]) -> Vec<String> {
    let kinds = [unauthenticated, not_rotating, not_revealed];
    let of_kind = |why: fn(&Job) -> Option<String>| {
        let told = move |job: &Arc<Job>| Some(format!("job {}: {}", job.id, why(job)?));
        jobs.iter().filter_map(told).take(Mistakes::ENOUGH)
    };
    kinds.into_iter().flat_map(of_kind).collect()
}

/// A client without authentication, although its grant is for clients that authenticate (RFC 6749 §4.4). With an issuer in a
/// private network that may be intended.
fn unauthenticated(job: &Job) -> Option<String> {
    let source = &job.source;
    let option = |name| source.config.get(name).and_then(Value::as_str);
    let has_nothing = source.plugin == "oauth2"
        && option("grant") == Some("client_credentials")
        && option("client_auth").is_none()
        && !source.secrets.contains_key("client_secret")
        && source.tls.cert_file.is_none();
    has_nothing.then(|| {
        "nothing authenticates its client; list its `client_secret`, or name its certificate under `source.tls`; where the issuer wants neither, write `client_auth: none`".to_owned()
    })
}

/// A refresh token whose replacement by the issuer would not be stored (RFC 6749 §6).
fn not_rotating(job: &Job) -> Option<String> {
    let token = job.source.secrets.get("refresh_token");
    let is_lost = job.source.plugin == "oauth2" && token.is_some_and(|token| !token.rotating);
    is_lost.then(|| {
        "its `refresh_token` is not `rotating: true`; an issuer that replaces it at a use, as most do, leaves the job without a login. Where the issuer keeps it, `rotating: true` does no harm".to_owned()
    })
}

/// A `mirror` that may not read the secret that it copies.
fn not_revealed(job: &Job) -> Option<String> {
    let source = &job.source;
    let name = source.config.get("secret").and_then(Value::as_str);
    let name = name.unwrap_or("token");
    let is_hidden = source.plugin == "mirror" && !source.reveal.contains(name);
    is_hidden.then(|| {
        format!(
            "`mirror` hands on the secret `{name}`, which the job does not reveal to it; add `reveal: [{name}]` to `source`"
        )
    })
}

/// The JSON pointers of suspicious texts, with the reasons.
fn gather(value: &Value, pointer: String, found: &mut Vec<(String, &'static str)>) {
    match value {
        Value::String(text) => {
            let why = text::suspicion(text).or_else(|| other_endpoint(&pointer, text));
            found.extend(why.map(|why| (pointer, why)));
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                gather(item, format!("{pointer}/{index}"), found);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                let name = escaped(name);
                gather(member, format!("{pointer}/{name}"), found);
            }
        }
        _ => {}
    }
}

/// Why a token endpoint's URL looks like another endpoint of the issuer.
fn other_endpoint(pointer: &str, url: &str) -> Option<&'static str> {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    if !pointer.ends_with("/token_url") {
        None
    } else if path.contains("/.well-known/") {
        Some(
            "it looks like the issuer's metadata (RFC 8414); write its `token_endpoint`, which stands there",
        )
    } else if path.trim_end_matches('/').ends_with("/authorize") {
        Some(
            "it looks like the endpoint for people in a browser; write the one for tokens, often `…/token`",
        )
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_endpoint_that_looks_like_another_one_is_suspicious() {
        for (pointer, url, expected) in [
            (
                "/token_url",
                "https://idp.test/oauth2/authorize",
                Some("browser"),
            ),
            (
                "/token_url",
                "https://idp.test/authorize/?a=b",
                Some("browser"),
            ),
            (
                "/token_url",
                "https://idp.test/.well-known/openid-configuration",
                Some("metadata"),
            ),
            ("/token_url", "https://idp.test/authorize/token", None),
            ("/token_url", "https://idp.test/token?to=/authorize", None),
            ("/audience", "https://idp.test/authorize", None),
        ] {
            let found = other_endpoint(pointer, url);
            assert_eq!(found.is_some(), expected.is_some(), "{url}");
            assert!(
                found
                    .unwrap_or_default()
                    .contains(expected.unwrap_or_default())
            );
        }
    }

    #[test]
    fn every_text_is_looked_at_and_its_place_is_told() {
        let config = json!({
            "client_id": "'svc'",
            "scope": ["read", " write"],
            "params": {"a/b": "$NAME", "n": 1},
            "audience": "https://api.example.org",
        });
        let mut found = Vec::new();
        gather(&config, String::new(), &mut found);
        let mut places: Vec<&str> = found.iter().map(|(place, _)| place.as_str()).collect();
        places.sort_unstable();
        assert_eq!(places, ["/client_id", "/params/a~1b", "/scope/1"]);
    }
}

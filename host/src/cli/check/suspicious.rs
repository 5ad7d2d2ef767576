//! Texts in the options of built-in sources that an issuer may well get as they stand, and that hardly anybody means.

use std::sync::Arc;

use serde_json::Value;

use crate::config::model::Job;
use crate::config::{Mistake, Mistakes, Places, PluginUse, SOURCE_PLUGINS};
use crate::text;

/// A warning for each, with its place.
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

/// A warning for each job of the built-in plugin whose client nothing authenticates, although its grant is for clients that
/// authenticate (RFC 6749 §4.4). An issuer behind a private network may want it so.
pub(super) fn unauthenticated(jobs: &[Arc<Job>]) -> Vec<String> {
    let option = |job: &Job, name| {
        job.source
            .config
            .get(name)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let has_nothing = |job: &&Arc<Job>| {
        let source = &job.source;
        source.plugin == "oauth2"
            && option(job, "grant").as_deref() == Some("client_credentials")
            && option(job, "client_auth").is_none()
            && !source.secrets.contains_key("client_secret")
            && source.tls.cert_file.is_none()
    };
    let warning = |job: &Arc<Job>| {
        format!(
            "job {}: nothing authenticates its client; list its `client_secret`, or name its certificate under `source.tls`; where the issuer wants neither, write `client_auth: none`",
            job.id
        )
    };
    let jobs = jobs.iter().filter(has_nothing);
    jobs.map(warning).take(Mistakes::ENOUGH).collect()
}

/// A warning for each job of the built-in plugin whose refresh token is not kept if the issuer replaces it (RFC 6749 §6).
pub(super) fn not_rotating(jobs: &[Arc<Job>]) -> Vec<String> {
    let is_lost = |job: &&Arc<Job>| {
        let token = job.source.secrets.get("refresh_token");
        job.source.plugin == "oauth2" && token.is_some_and(|token| !token.rotating)
    };
    let warning = |job: &Arc<Job>| {
        format!(
            "job {}: its `refresh_token` is not `rotating: true`; an issuer that replaces it at a use, as most do, leaves the job without a login. Where the issuer keeps it, `rotating: true` does no harm",
            job.id
        )
    };
    let jobs = jobs.iter().filter(is_lost);
    jobs.map(warning).take(Mistakes::ENOUGH).collect()
}

/// A warning for each job of the built-in `mirror` that may not read what it hands on.
pub(super) fn not_revealed(jobs: &[Arc<Job>]) -> Vec<String> {
    let handed_on = |job: &Arc<Job>| {
        let name = job.source.config.get("secret").and_then(Value::as_str);
        name.unwrap_or("token").to_owned()
    };
    let is_hidden = |job: &&Arc<Job>| {
        let source = &job.source;
        source.plugin == "mirror" && !source.reveal.contains(&handed_on(job))
    };
    let warning = |job: &Arc<Job>| {
        let name = handed_on(job);
        format!(
            "job {}: `mirror` hands on the secret `{name}`, which the job does not reveal to it; add `reveal: [{name}]` to `source`",
            job.id
        )
    };
    let jobs = jobs.iter().filter(is_hidden);
    jobs.map(warning).take(Mistakes::ENOUGH).collect()
}

/// The JSON pointers of suspicious texts, and why they are.
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
                let name = name.replace('~', "~0").replace('/', "~1");
                gather(member, format!("{pointer}/{name}"), found);
            }
        }
        _ => {}
    }
}

/// Why a token endpoint looks like another one of the issuer's.
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

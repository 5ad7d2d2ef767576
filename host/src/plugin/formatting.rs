//! The host's side of formatters: a log that is scrubbed of the tokens, and the checks of artifacts before outputs write them.

use std::collections::BTreeSet;
use std::sync::Arc;

use secrecy::ExposeSecret;

use super::limits;
use crate::capability::Level;
use crate::capability::scrub::{Scrubber, WITHHELD};
use crate::capability::spelling::MIN_SECRET_BYTES;
use crate::model::PluginLimits;
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::model::token::{Artifact, NamedToken};

/// The most jobs that a log line names.
const NAMES: usize = 3;

/// Redacts the tokens of one format call, and their secret fields, in the formatter's messages.
#[derive(Clone)]
pub(super) struct TokenScrubber(Arc<Scrubber>);

impl TokenScrubber {
    pub(super) fn new(tokens: &[NamedToken]) -> Self {
        let mut scrubber = Scrubber::default();
        for NamedToken { token, .. } in tokens {
            scrubber.add(token.value.expose_secret().as_bytes());
            for field in token.fields.iter().filter(|field| !field.public) {
                scrubber.add(field.value.expose_secret().as_bytes());
            }
        }
        Self(Arc::new(scrubber))
    }

    pub(super) fn scrub(&self, text: &str) -> String {
        self.0.scrub(text)
    }
}

/// The log of one format call: scrubbed and limited.
pub(super) struct FormatLog {
    /// The tokens' jobs.
    job: String,
    plugin: String,
    scrubber: TokenScrubber,
    limit: u32,
    lines: u32,
}

impl FormatLog {
    pub(super) fn new(plugin: &str, tokens: &[NamedToken], limits: &PluginLimits) -> Self {
        Self {
            job: names(tokens),
            plugin: plugin.to_owned(),
            scrubber: TokenScrubber::new(tokens),
            limit: limits.log_lines,
            lines: 0,
        }
    }

    /// The scrubber of this call.
    pub(super) fn scrubber(&self) -> TokenScrubber {
        self.scrubber.clone()
    }

    /// Logs one event; nothing more once the call's limit of lines is reached.
    pub(super) fn log(&mut self, level: Level, message: &str) {
        let (job, plugin) = (&self.job, &self.plugin);
        self.lines = self.lines.saturating_add(1);
        if self.lines > self.limit {
            if self.lines == self.limit.saturating_add(1) {
                tracing::warn!(target: "evertoken::plugin", %job, %plugin, "the plugin logged more than {} lines in one call; the rest is dropped", self.limit);
            }
            return;
        }
        let message = self.scrubber.scrub(message);
        match level {
            Level::Debug => {
                tracing::debug!(target: "evertoken::plugin", %job, %plugin, "{message}")
            }
            Level::Info => tracing::info!(target: "evertoken::plugin", %job, %plugin, "{message}"),
            Level::Warn => tracing::warn!(target: "evertoken::plugin", %job, %plugin, "{message}"),
        }
    }
}

/// The names of the tokens' jobs; a shared output may have thousands.
fn names(tokens: &[NamedToken]) -> String {
    let mut shown: Vec<&str> = tokens.iter().take(NAMES).map(|token| &*token.job).collect();
    if tokens.len() > NAMES {
        shown.push("…");
    }
    shown.join(", ")
}

/// Checks the artifacts of a formatter. An empty name means the output's own path, so it must be the only one.
pub(super) fn check_artifacts(
    plugin: &str,
    artifacts: &[Artifact],
    limits: &PluginLimits,
    scrubber: &TokenScrubber,
    tokens: &[NamedToken],
) -> Result<(), Failure> {
    check(artifacts, limits, scrubber, tokens).map_err(|mistake| {
        Failure::new(
            FailureKind::Internal,
            HostCode::PluginInvalidArtifact,
            format!("plugin {plugin} failed: {mistake}"),
        )
    })
}

fn check(
    artifacts: &[Artifact],
    limits: &PluginLimits,
    scrubber: &TokenScrubber,
    tokens: &[NamedToken],
) -> Result<(), String> {
    if artifacts.is_empty() {
        return Err("it made no artifact".to_owned());
    }
    if artifacts.len() > limits::ARTIFACTS {
        return Err(format!(
            "it made {} artifacts and may make {}",
            artifacts.len(),
            limits::ARTIFACTS
        ));
    }
    let bytes: usize = artifacts
        .iter()
        .map(|artifact| artifact.content.expose_secret().len())
        .sum();
    if bytes > limits.artifact_bytes {
        return Err(format!(
            "it made {bytes} bytes and may make {}; `limits.plugin.artifact` is the limit",
            limits.artifact_bytes
        ));
    }
    let mut names = BTreeSet::new();
    for Artifact { name, .. } in artifacts {
        if name.is_empty() && artifacts.len() > 1 {
            return Err("it made several artifacts, and one has no name".to_owned());
        }
        if !name.is_empty() && !is_one_component(name) {
            // The name may be anything, even a token: it is not shown.
            return Err(format!(
                "it named an artifact other than with {} characters or less of `A-Za-z0-9._-`",
                limits::ARTIFACT_NAME_BYTES
            ));
        }
        if contains_a_token(name, scrubber, tokens) {
            // Names appear in directory listings, in messages and in the log.
            return Err("it named an artifact by a token".to_owned());
        }
        if !names.insert(name) {
            return Err("it gave two artifacts the same name".to_owned());
        }
    }
    Ok(())
}

/// Whether a name contains a token, or a secret field of one, in plain text or encoded. Of more tokens than the scrubber searches for
/// only the plain text is looked for.
fn contains_a_token(name: &str, scrubber: &TokenScrubber, tokens: &[NamedToken]) -> bool {
    let shown = scrubber.scrub(name);
    if name.is_empty() || shown != WITHHELD {
        return !name.is_empty() && shown != name;
    }
    let is_in = |secret: &str| secret.len() >= MIN_SECRET_BYTES && name.contains(secret);
    tokens.iter().any(|NamedToken { token, .. }| {
        let secret = token.fields.iter().filter(|field| !field.public);
        let mut secrets = secret.map(|field| &field.value).chain([&token.value]);
        secrets.any(|secret| is_in(secret.expose_secret()))
    })
}

/// Whether a name is one path component that is also a Secret's key, and neither `.` nor `..`.
fn is_one_component(name: &str) -> bool {
    name.len() <= limits::ARTIFACT_NAME_BYTES
        && !matches!(name, "." | "..")
        // Kubernetes refuses keys with this prefix, which its volumes use.
        && !name.starts_with("..")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::defaults::plugin_limits;
    use secrecy::SecretSlice;

    fn named(names: &[&str]) -> Vec<Artifact> {
        names
            .iter()
            .map(|name| Artifact {
                name: (*name).to_owned(),
                content: SecretSlice::from(b"content".to_vec()),
            })
            .collect()
    }

    fn token(value: &str) -> NamedToken {
        NamedToken {
            job: "job".to_owned(),
            token: crate::model::token::Token {
                value: value.into(),
                token_type: "Bearer".to_owned(),
                expiry: crate::model::token::Expiry::Never,
                fields: Vec::new(),
            },
        }
    }

    fn check_for(
        tokens: &[NamedToken],
        names: &[&str],
        limits: &PluginLimits,
    ) -> Result<(), Failure> {
        let scrubber = TokenScrubber::new(tokens);
        check_artifacts("`acme`", &named(names), limits, &scrubber, tokens)
    }

    /// For a format of one token, whose value is also a name.
    fn check(names: &[&str], limits: &PluginLimits) -> Result<(), Failure> {
        check_for(&[token("to.ken-3f0c")], names, limits)
    }

    #[test]
    fn more_tokens_than_are_searched_for_forbid_no_name_but_their_own() {
        let tokens: Vec<_> = (0..1100)
            .map(|n| token(&format!("to.ken-{n:05}")))
            .collect();
        for (name, is_right) in [
            ("", true),
            ("tokens.json", true),
            ("of.to.ken-00007", false),
        ] {
            let checked = check_for(&tokens, &[name], &plugin_limits());
            assert_eq!(checked.is_ok(), is_right, "`{name}`: {checked:?}");
        }
    }

    #[test]
    fn names_are_one_component_each_once_or_one_artifact_has_none() {
        let long = "n".repeat(254);
        for (names, mistake) in [
            (&[""][..], None),
            (&["ca.crt", "tls.key"], None),
            (&[".netrc"], None),
            (&[], Some("no artifact")),
            (&["", "x"], Some("one has no name")),
            (&["x", "x"], Some("same name")),
            (&["../x"], Some("A-Za-z0-9._-")),
            (&["a/b"], Some("A-Za-z0-9._-")),
            (&["."], Some("A-Za-z0-9._-")),
            (&[".."], Some("A-Za-z0-9._-")),
            (&["..data"], Some("A-Za-z0-9._-")),
            (&["a\0b"], Some("A-Za-z0-9._-")),
            (&["schlüssel"], Some("A-Za-z0-9._-")),
            (&["to.ken-3f0c"], Some("by a token")),
            (&["of.to.ken-3f0c.json"], Some("by a token")),
            (&[long.as_str()], Some("253 characters")),
        ] {
            let checked = check(names, &plugin_limits());
            match mistake {
                None => assert_eq!(checked, Ok(()), "{names:?}"),
                Some(mistake) => {
                    let failure = checked.unwrap_err();
                    assert_eq!(failure.code(), Some("plugin.invalid-artifact"));
                    assert!(
                        failure.message.contains(mistake),
                        "{names:?}: {}",
                        failure.message
                    );
                }
            }
        }
    }

    #[test]
    fn all_artifacts_together_are_limited() {
        let limits = PluginLimits {
            artifact_bytes: 13,
            ..plugin_limits()
        };
        assert!(check(&["a"], &limits).is_ok());
        let failure = check(&["a", "b"], &limits).unwrap_err();
        assert!(
            failure.message.contains("14 bytes and may make 13"),
            "{}",
            failure.message
        );
    }
}

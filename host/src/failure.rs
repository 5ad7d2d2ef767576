//! Why an attempt failed, in the classes that the scheduler decides on. Everything that can fail while a job runs (plugin,
//! capability, output) is turned into one of these, so that the refresh rules need to know no other error.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What to do about a failure; the plugin interface has the same four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The job's configuration or a secret is wrong: somebody has to change it.
    InvalidConfig,
    /// The other side understood and refused.
    Denied,
    /// Network, 5xx, rate limit: try again.
    Unavailable,
    /// A bug, or an answer that cannot be understood.
    Internal,
}

impl FailureKind {
    /// The name in logs, metrics and status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidConfig => "invalid-config",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failed attempt. The message is for people and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// What the scheduler decides on.
    pub kind: FailureKind,
    /// Stable, for machines: `invalid_grant`, `http.timeout`, `secret.not-found`.
    pub code: Option<String>,
    /// For people: what failed and with which name, and the mend where there is one.
    pub message: String,
    /// How long the other side asks us to stay away.
    pub retry_after: Option<Duration>,
}

/// What the host's own codes begin with, before the first dot.
const HOSTS_WORDS: [&str; 12] = [
    "chain",
    "crypto",
    "file",
    "host",
    "http",
    "kubernetes",
    "output",
    "plugin",
    "secret",
    "state",
    "tls",
    "token",
];

/// Stands before a code of the host's that only a plugin says.
const PLUGIN_SAID: &str = "plugin-said.";

/// Codes are short words; a longer one is text, and codes become labels.
const MAX_CODE_BYTES: usize = 64;

impl Failure {
    /// The same as a plugin's own failure. Decisions are made by the host's codes (a chain that is dead, an issuer that is not to be asked),
    /// so that a plugin may pass on those that it was told, and no others; what is no code at all is none.
    #[must_use]
    pub fn as_said_by_plugin(self, was_told: impl Fn(&str) -> bool) -> Self {
        let code = self.code.filter(|code| is_code(code)).map(|code| {
            if is_hosts(&code) && !was_told(&code) {
                format!("{PLUGIN_SAID}{code}")
            } else {
                code
            }
        });
        Self { code, ..self }
    }

    /// A failure with a stable code.
    #[must_use]
    pub fn new(kind: FailureKind, code: &str, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: Some(code.to_owned()),
            message: message.into(),
            retry_after: None,
        }
    }
}

/// Printable ASCII without blanks, as the interface says.
fn is_code(text: &str) -> bool {
    (1..=MAX_CODE_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether a code is in the host's words. An issuer's status is not: plugins give it where an issuer gave no code.
pub(crate) fn is_hosts(code: &str) -> bool {
    match code.split_once('.') {
        Some(("http", rest)) if rest.bytes().all(|byte| byte.is_ascii_digit()) => false,
        Some((word, _)) => HOSTS_WORDS.contains(&word),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_speaks_in_the_hosts_words_only_what_it_was_told() {
        let long = "x".repeat(MAX_CODE_BYTES + 1);
        for (code, expected) in [
            ("invalid_grant", Some("invalid_grant")),
            ("answer.no-token", Some("answer.no-token")),
            ("http.503", Some("http.503")),
            ("http.timeout", Some("http.timeout")),
            ("http.tls", Some("plugin-said.http.tls")),
            ("chain.dead", Some("plugin-said.chain.dead")),
            ("plugin.timeout", Some("plugin-said.plugin.timeout")),
            ("state.", Some("plugin-said.state.")),
            ("CHAIN.dead", Some("CHAIN.dead")),
            ("", None),
            ("two words", None),
            ("\u{1b}[31m", None),
            (long.as_str(), None),
        ] {
            let failure = Failure::new(FailureKind::Denied, code, "no");
            let said = failure.as_said_by_plugin(|code| code == "http.timeout");
            assert_eq!(said.code.as_deref(), expected, "{code}");
        }
    }

    /// A code of ours whose word is missing in the list could be said by anybody.
    #[test]
    fn the_words_of_all_codes_that_decide_are_the_hosts() {
        use crate::refresh::restraint::{OURS, TIMEOUTS};
        for code in OURS
            .iter()
            .chain(&TIMEOUTS)
            .chain(&["chain.in-doubt", "plugin.trap"])
        {
            assert!(is_hosts(code), "{code}");
        }
    }
}

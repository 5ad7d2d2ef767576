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

impl Failure {
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

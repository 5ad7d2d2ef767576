//! Failures of a plugin or of a host function, in the four kinds that the scheduler distinguishes.

use std::fmt;

/// The class for the scheduler; for finer distinctions there is [`Failure::code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The job's configuration or one of its secrets is wrong and must be changed.
    InvalidConfig,
    /// The issuer understood the request and refused it.
    Denied,
    /// Network, 5xx, rate limit, consent pending: the same call may succeed later.
    Unavailable,
    /// The answer could not be understood, or a bug.
    Internal,
}

/// A failure of a plugin or of a host function. The host removes secrets from the message and truncates it, but a plugin must not
/// put any there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The class for the scheduler.
    pub kind: FailureKind,
    /// Stable, for machines: "invalid_grant", "http.timeout", "secret.not-found".
    pub code: Option<String>,
    /// For people: what failed, with which name, and the correction if there is one.
    pub message: String,
    /// The issuer's `Retry-After`, in milliseconds.
    pub retry_after_ms: Option<u32>,
}

impl Failure {
    /// A failure of this kind, without code.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: None,
            message: message.into(),
            retry_after_ms: None,
        }
    }

    /// The configuration or a secret is wrong.
    pub fn invalid_config(message: impl Into<String>) -> Self {
        Self::new(FailureKind::InvalidConfig, message)
    }

    /// The issuer refused.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Denied, message)
    }

    /// It may work later.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Unavailable, message)
    }

    /// The answer could not be understood, or a bug.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Internal, message)
    }

    /// The same with a code for machines.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// The same with the issuer's `Retry-After`, if there is one.
    #[must_use]
    pub fn with_retry_after_ms(mut self, retry_after_ms: Option<u32>) -> Self {
        self.retry_after_ms = retry_after_ms;
        self
    }

    /// Whether the code is this one.
    #[must_use]
    pub fn has_code(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

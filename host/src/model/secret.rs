//! A named value for a job's source, and its origin.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::Origin;

/// A named value that a job may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// The place of the value.
    pub origin: SecretOrigin,
    /// Whether it is replaced when it is used.
    pub rotating: bool,
    /// When a request that carried it and got no answer is repeated.
    pub retry_unanswered: RetryUnanswered,
    /// Whether each new value is also written back to the place of the first one.
    pub write_back: bool,
    /// Where it may be sent; none: the endpoints in the plugin's configuration.
    pub to: Option<Vec<Origin>>,
}

/// When a request that carried a rotating secret and got no answer is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetryUnanswered {
    /// At once: most issuers that detect reuse give some seconds of grace.
    #[default]
    AtOnce,
    /// This long after the request.
    After(Duration),
    /// Not at all: an operator decides.
    Never,
}

/// A value that is written in the configuration itself. It can be compared with another one, to notice a change.
#[derive(Debug, Clone)]
pub struct LiteralValue(SecretString);

impl LiteralValue {
    /// The value.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<SecretString> for LiteralValue {
    fn from(value: SecretString) -> Self {
        Self(value)
    }
}

impl PartialEq for LiteralValue {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for LiteralValue {}

/// The place of a secret's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretOrigin {
    /// A file's content.
    File(PathBuf),
    /// A member of the JSON in a file.
    FileMember {
        /// The file.
        path: PathBuf,
        /// A JSON pointer (RFC 6901) into its content.
        pointer: String,
    },
    /// An environment variable.
    Env(String),
    /// A literal value in the configuration.
    Value(LiteralValue),
    /// A key of a Kubernetes Secret.
    KubernetesSecret {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The key in `data`.
        key: String,
        /// A JSON pointer (RFC 6901) into the key's value.
        pointer: Option<String>,
    },
    /// A token of a ServiceAccount, requested by TokenRequest for each call.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The token's audiences; empty: the API server's own.
        audiences: Vec<String>,
        /// The lifetime to ask for; at least 600 s. The server may shorten it.
        lifetime: Duration,
    },
    /// The token of another job.
    Job(String),
}

/// The place of the value, for people: `file /etc/rt at /token`.
impl fmt::Display for SecretOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::FileMember { path, pointer } => {
                write!(f, "file {} at {pointer}", path.display())
            }
            Self::Env(variable) => write!(f, "environment variable {variable}"),
            Self::Value(_) => f.write_str("the configuration itself"),
            Self::KubernetesSecret {
                namespace,
                name,
                key,
                pointer,
            } => {
                write!(f, "key `{key}` of Secret {namespace}/{name}")?;
                match pointer {
                    Some(pointer) => write!(f, " at {pointer}"),
                    None => Ok(()),
                }
            }
            Self::ServiceAccount {
                namespace, name, ..
            } => write!(f, "the token of ServiceAccount {namespace}/{name}"),
            Self::Job(job) => write!(f, "the token of job `{job}`"),
        }
    }
}

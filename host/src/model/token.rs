//! Tokens: the value and the issuer's other statements about it.

pub mod jwt;

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::model::time::Timestamp;
use crate::serde_secret;

/// When a token expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiry {
    /// At this point.
    At(Timestamp),
    /// The issuer stated none.
    Unknown,
    /// The issuer stated that it never does.
    Never,
}

/// A further value of the answer, by the issuer's name for it, e.g. `scope` or `id_token`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Field {
    /// The issuer's name, unique within a token.
    pub name: String,
    /// The value; a secret unless `public`.
    #[serde(with = "serde_secret::text")]
    pub value: SecretString,
    /// Whether the value may be shown.
    pub public: bool,
}

/// A token as a source plugin obtained it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Token {
    /// The value that consumers use.
    #[serde(with = "serde_secret::text")]
    pub value: SecretString,
    /// As written by the issuer, e.g. `Bearer` (RFC 6749 §7.1); empty if it stated none.
    pub token_type: String,
    /// When the first of value and fields expires.
    pub expiry: Expiry,
    /// Further named values.
    pub fields: Vec<Field>,
}

impl Token {
    /// Whether it is the same token as the other one, whatever their expiry.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.value.expose_secret() == other.value.expose_secret()
            && self.token_type == other.token_type
            && self.fields == other.fields
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) && self.expiry == other.expiry
    }
}

impl PartialEq for Field {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
            && self.public == other.public
            && self.value.expose_secret() == other.value.expose_secret()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("token_type", &self.token_type)
            .field("expiry", &self.expiry)
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = if self.public {
            self.value.expose_secret()
        } else {
            "[redacted]"
        };
        f.debug_struct("Field")
            .field("name", &self.name)
            .field("value", &shown)
            .finish()
    }
}

/// A token under the name of the job that obtained it, for formatters.
#[derive(Debug, Clone)]
pub struct NamedToken {
    /// The job's name.
    pub job: String,
    /// Its token.
    pub token: Token,
}

/// The content of one file or one key of a Secret.
#[derive(Clone)]
pub struct Artifact {
    /// A file name or Secret key; empty where the output has just one.
    pub name: String,
    /// The bytes, exactly.
    pub content: secrecy::SecretSlice<u8>,
}

impl Artifact {
    /// The bare token, no newline: the content of an output without a format.
    #[must_use]
    pub fn bare(token: &Token) -> Self {
        let value = token.value.expose_secret().as_bytes().to_vec();
        Self {
            name: String::new(),
            content: value.into(),
        }
    }
}

impl PartialEq for Artifact {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.content.expose_secret() == other.content.expose_secret()
    }
}

impl fmt::Debug for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artifact")
            .field("name", &self.name)
            .field("len", &self.content.expose_secret().len())
            .finish()
    }
}

/// A token with what the host knows about it, as the state store has it and outputs are written from it. The order of the fields
/// is the storage format, here and in its parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptToken {
    /// The token.
    pub token: Token,
    /// When the request that brought it was sent.
    pub obtained_at: Timestamp,
    /// When it expires, by all available information; none: never.
    pub expires_at: Option<Timestamp>,
    /// When the first of the source's rotating secrets expires unless it is used, as known then; none: never, or it is not known.
    pub rotating_expires_at: Option<Timestamp>,
    /// Digest of the source that obtained it: a token of another source does not belong to this job.
    pub source_hash: [u8; 32],
}

impl KeptToken {
    /// The token for formatters: with the expiry that the host determined, where the issuer stated none.
    #[must_use]
    pub fn for_consumers(&self) -> Token {
        let expiry = self.expires_at.map_or(Expiry::Never, Expiry::At);
        Token {
            expiry,
            ..self.token.clone()
        }
    }
}

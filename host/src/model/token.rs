//! A token as the rooms hand it on: the value and whatever the issuer said beside it.

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
    /// The issuer did not say.
    Unknown,
    /// The issuer says that it never does.
    Never,
}

/// A value beside the token, by the issuer's name for it, e.g. `scope` or `id_token`.
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
    /// What consumers present.
    #[serde(with = "serde_secret::text")]
    pub value: SecretString,
    /// As the issuer spells it, e.g. `Bearer` (RFC 6749 §7.1); empty if it did not say.
    pub token_type: String,
    /// When the first of value and fields expires.
    pub expiry: Expiry,
    /// Named values beside the token.
    pub fields: Vec<Field>,
}

impl Token {
    /// Whether it is the other one again, whenever that is said to die.
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

/// A token under the name of the job that obtained it, as formatters get it.
#[derive(Debug, Clone)]
pub struct NamedToken {
    /// The job's name.
    pub job: String,
    /// Its token.
    pub token: Token,
}

/// What a consumer reads: one file or one key of a Secret.
#[derive(Clone)]
pub struct Artifact {
    /// A file name or Secret key; empty where the output has just one.
    pub name: String,
    /// The bytes, exactly.
    pub content: secrecy::SecretSlice<u8>,
}

impl Artifact {
    /// The bare token, no newline: what an output without a format holds.
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

/// A token with what the host knows about it: what the state store keeps and outputs are written from. The order of the fields is on disk,
/// here and in what it is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptToken {
    /// The token.
    pub token: Token,
    /// When the request that brought it was sent.
    pub obtained_at: Timestamp,
    /// When it expires, all sources of that knowledge weighed; none: never.
    pub expires_at: Option<Timestamp>,
    /// When the first of the source's rotating secrets expires unless it is used, as it was known then; none: never, or it is not
    /// known.
    pub rotating_expires_at: Option<Timestamp>,
    /// Digest of the source that obtained it: a token of another source is not this job's.
    pub source_hash: [u8; 32],
}

impl KeptToken {
    /// The token as formatters get it: with the expiry that the host settled on, where the issuer did not say.
    #[must_use]
    pub fn for_consumers(&self) -> Token {
        let expiry = self.expires_at.map_or(Expiry::Never, Expiry::At);
        Token {
            expiry,
            ..self.token.clone()
        }
    }
}

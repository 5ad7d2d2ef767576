//! The data of a plugin's calls: the job of a source, tokens, and the artifacts of a formatter.

use std::fmt;

use crate::Timestamp;

/// The arguments of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job<C> {
    /// The job's name, for messages.
    pub name: String,
    /// The job's `source.config`.
    pub config: C,
    /// 0 for the first try since the last success, then counting up.
    pub attempt: u32,
    /// When the job's current token expires, if it has one.
    pub previous_expires_at: Option<Timestamp>,
}

/// When a token expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// At this time.
    At(Timestamp),
    /// The issuer stated none: the host uses a JWT's `exp`, else the job's `default_lifetime`.
    Unknown,
    /// Never: the token is valid until it is revoked.
    Never,
}

/// A further value of the answer, by the issuer's name for it.
#[derive(Clone, PartialEq, Eq)]
pub struct Field {
    /// The issuer's name, e.g. "scope", "id_token", "instance_url". Unique within a token.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Unless true, the value is treated like the token: never logged or shown.
    pub public: bool,
}

/// A token. Its `Debug` shows neither the value nor fields that are not public.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The token itself, verbatim.
    pub value: String,
    /// As written by the issuer, e.g. "Bearer", "DPoP" (RFC 6749 §7.1).
    pub token_type: String,
    /// When the first of value and fields expires.
    pub expiry: Expiry,
    /// Further values of the answer.
    pub fields: Vec<Field>,
}

impl Token {
    /// A bearer token of unknown expiry, without fields.
    pub fn bearer(value: impl Into<String>) -> Self {
        Self {
            value: value.into(),
            token_type: "Bearer".to_owned(),
            expiry: Expiry::Unknown,
            fields: Vec::new(),
        }
    }

    /// The same token with this expiry.
    #[must_use]
    pub fn expiring(mut self, expiry: Expiry) -> Self {
        self.expiry = expiry;
        self
    }
}

/// A token and its job, for a formatter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedToken {
    /// The job's name.
    pub job: String,
    /// Its token.
    pub token: Token,
}

/// A formatter's result. Its `Debug` shows only the length of the content.
#[derive(Clone, PartialEq, Eq)]
pub struct Artifact {
    /// A file name or Secret key: one path component of `[A-Za-z0-9._-]`; empty where the output has just one.
    pub name: String,
    /// The exact content.
    pub content: Vec<u8>,
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if self.public {
            self.value.as_str()
        } else {
            "…"
        };
        f.debug_struct("Field")
            .field("name", &self.name)
            .field("value", &value)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("value", &"…")
            .field("token_type", &self.token_type)
            .field("expiry", &self.expiry)
            .field("fields", &self.fields)
            .finish()
    }
}

impl fmt::Debug for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artifact")
            .field("name", &self.name)
            .field("bytes", &self.content.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_no_secret() {
        let mut token = Token::bearer("s3cr3t-value");
        token.fields = vec![
            Field {
                name: "id_token".into(),
                value: "s3cr3t-field".into(),
                public: false,
            },
            Field {
                name: "scope".into(),
                value: "read".into(),
                public: true,
            },
        ];
        let artifact = Artifact {
            name: "netrc".into(),
            content: b"s3cr3t-content".to_vec(),
        };
        let shown = format!("{token:?} {artifact:?}");
        assert!(!shown.contains("s3cr3t"), "{shown}");
        assert!(shown.contains("read") && shown.contains("netrc"), "{shown}");
    }
}

//! The host's functions in a component: the only place that converts between the generated types and this crate's.

use crate::bindings::formatter::exports::evertoken::plugin::formatter as formatting;
use crate::bindings::source::evertoken::plugin as wit;
use crate::bindings::source::exports::evertoken::plugin::source as exported;
use crate::crypto::PublicKey;
use crate::http::{Body, Request, Response};
use crate::log::Level;
use crate::secrets::{Encoding, Piece, Value};
use crate::{
    Artifact, Expiry, Failure, FailureKind, Field, Formatter, Job, NamedToken, Source, Timestamp,
    Token,
};

/// A secret of the host.
pub(crate) type Handle = wit::secrets::Secret;

pub(crate) fn open(name: &str) -> Result<Handle, Failure> {
    Ok(wit::secrets::open(name)?)
}

pub(crate) fn join(pieces: &[Piece<'_>]) -> Result<Handle, Failure> {
    let pieces: Vec<_> = pieces
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) => wit::secrets::Piece::Text(text.to_string()),
            Piece::Secret(secret, encoding) => {
                wit::secrets::Piece::Secret((&secret.0, (*encoding).into()))
            }
        })
        .collect();
    Ok(wit::secrets::join(&pieces)?)
}

pub(crate) fn replace(
    name: &str,
    value: &Value<'_>,
    expires_at: Option<Timestamp>,
) -> Result<(), Failure> {
    Ok(wit::secrets::replace(
        name,
        &value.into(),
        expires_at.map(Timestamp::as_unix_millis),
    )?)
}

pub(crate) fn reveal(secret: &Handle) -> Result<Vec<u8>, Failure> {
    Ok(secret.reveal()?)
}

pub(crate) fn part(secret: &Handle, pointer: &str) -> Result<Handle, Failure> {
    Ok(secret.part(pointer)?)
}

pub(crate) fn decode(secret: &Handle, encoding: Encoding) -> Result<Handle, Failure> {
    Ok(secret.decode(encoding.into())?)
}

pub(crate) fn sign(key: &Handle, algorithm: &str, message: &Value<'_>) -> Result<Handle, Failure> {
    Ok(wit::crypto::sign(key, algorithm, &message.into())?)
}

pub(crate) fn public_key(key: &Handle) -> Result<PublicKey, Failure> {
    let wit::crypto::PublicKey {
        jwk,
        spki,
        certificates,
    } = wit::crypto::get_public_key(key)?;
    Ok(PublicKey {
        jwk,
        spki,
        certificates,
    })
}

pub(crate) fn digest(algorithm: &str, message: &Value<'_>) -> Result<Handle, Failure> {
    Ok(wit::crypto::digest(algorithm, &message.into())?)
}

pub(crate) fn random_bytes(len: u32) -> Vec<u8> {
    wit::crypto::get_random_bytes(len)
}

pub(crate) fn send(request: Request<'_>) -> Result<Response, Failure> {
    let request = wit::http::Request {
        method: request.method,
        url: request.url,
        query: pairs(&request.query),
        headers: pairs(&request.headers),
        body: match &request.body {
            Body::Empty => wit::http::Body::Empty,
            Body::Form(fields) => wit::http::Body::Form(pairs(fields)),
            Body::Content(content) => wit::http::Body::Content(content.into()),
        },
    };
    let wit::http::Response {
        status,
        headers,
        body,
        sent_at,
    } = wit::http::send(&request)?;
    Ok(Response {
        status,
        headers,
        body,
        sent_at: Timestamp::from_unix_millis(sent_at),
    })
}

pub(crate) fn state_get(key: &str) -> Result<Option<Vec<u8>>, Failure> {
    Ok(wit::state::get(key)?)
}

pub(crate) fn state_set(key: &str, value: &[u8]) -> Result<(), Failure> {
    Ok(wit::state::set(key, value)?)
}

pub(crate) fn log(level: Level, message: &str) {
    let level = match level {
        Level::Debug => wit::log::Level::Debug,
        Level::Info => wit::log::Level::Info,
        Level::Warn => wit::log::Level::Warn,
    };
    wit::log::log(level, message);
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from_unix_millis(wit::clock::now())
}

/// Implements the exported `acquire` of a source.
///
/// # Errors
///
/// The source's own, or the configuration's.
pub fn acquire<S: Source>(job: exported::Job) -> Result<wit::types::Token, wit::types::Failure> {
    let job = Job {
        name: job.name,
        config: crate::config::parse(&job.config)?,
        attempt: job.attempt,
        previous_expires_at: job.previous_expires_at.map(Timestamp::from_unix_millis),
    };
    Ok(S::acquire(job)?.into())
}

/// Implements the exported `format` of a formatter.
///
/// # Errors
///
/// The formatter's own, or the configuration's.
pub fn format<F: Formatter>(
    tokens: Vec<formatting::NamedToken>,
    config: &str,
) -> Result<Vec<formatting::Artifact>, wit::types::Failure> {
    let tokens = tokens
        .into_iter()
        .map(|named| NamedToken {
            job: named.job,
            token: named.token.into(),
        })
        .collect();
    let artifacts = F::format(tokens, crate::config::parse(config)?)?;
    Ok(artifacts
        .into_iter()
        .map(|Artifact { name, content }| formatting::Artifact { name, content })
        .collect())
}

fn pairs<'a>(pairs: &'a [(String, Value<'_>)]) -> Vec<(String, wit::secrets::Value<'a>)> {
    pairs
        .iter()
        .map(|(name, value)| (name.clone(), value.into()))
        .collect()
}

impl<'a> From<&'a Value<'_>> for wit::secrets::Value<'a> {
    fn from(value: &'a Value<'_>) -> Self {
        match value {
            Value::Text(text) => Self::Text(text.to_string()),
            Value::Bytes(bytes) => Self::Bytes(bytes.to_vec()),
            Value::Secret(secret) => Self::Secret(&secret.0),
        }
    }
}

impl From<Encoding> for wit::secrets::Encoding {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Raw => Self::Raw,
            Encoding::Form => Self::Form,
            Encoding::Percent => Self::Percent,
            Encoding::Json => Self::Json,
            Encoding::Xml => Self::Xml,
            Encoding::Base64 => Self::Base64,
            Encoding::Base64Url => Self::Base64url,
            Encoding::Hex => Self::Hex,
            Encoding::Base32 => Self::Base32,
            Encoding::Quoted => Self::Quoted,
        }
    }
}

impl From<wit::types::Failure> for Failure {
    fn from(failure: wit::types::Failure) -> Self {
        let kind = match failure.kind {
            wit::types::FailureKind::InvalidConfig => FailureKind::InvalidConfig,
            wit::types::FailureKind::Denied => FailureKind::Denied,
            wit::types::FailureKind::Unavailable => FailureKind::Unavailable,
            wit::types::FailureKind::Internal => FailureKind::Internal,
        };
        Self {
            kind,
            code: failure.code,
            message: failure.message,
            retry_after_ms: failure.retry_after_ms,
        }
    }
}

impl From<Failure> for wit::types::Failure {
    fn from(failure: Failure) -> Self {
        let kind = match failure.kind {
            FailureKind::InvalidConfig => wit::types::FailureKind::InvalidConfig,
            FailureKind::Denied => wit::types::FailureKind::Denied,
            FailureKind::Unavailable => wit::types::FailureKind::Unavailable,
            FailureKind::Internal => wit::types::FailureKind::Internal,
        };
        Self {
            kind,
            code: failure.code,
            message: failure.message,
            retry_after_ms: failure.retry_after_ms,
        }
    }
}

impl From<Token> for wit::types::Token {
    fn from(token: Token) -> Self {
        Self {
            value: token.value,
            token_type: token.token_type,
            expiry: match token.expiry {
                Expiry::At(at) => wit::types::Expiry::At(at.as_unix_millis()),
                Expiry::Unknown => wit::types::Expiry::Unknown,
                Expiry::Never => wit::types::Expiry::Never,
            },
            fields: token
                .fields
                .into_iter()
                .map(
                    |Field {
                         name,
                         value,
                         public,
                     }| wit::types::Field {
                        name,
                        value,
                        public,
                    },
                )
                .collect(),
        }
    }
}

impl From<wit::types::Token> for Token {
    fn from(token: wit::types::Token) -> Self {
        Self {
            value: token.value,
            token_type: token.token_type,
            expiry: match token.expiry {
                wit::types::Expiry::At(at) => Expiry::At(Timestamp::from_unix_millis(at)),
                wit::types::Expiry::Unknown => Expiry::Unknown,
                wit::types::Expiry::Never => Expiry::Never,
            },
            fields: token
                .fields
                .into_iter()
                .map(
                    |wit::types::Field {
                         name,
                         value,
                         public,
                     }| Field {
                        name,
                        value,
                        public,
                    },
                )
                .collect(),
        }
    }
}

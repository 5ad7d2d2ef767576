//! The job's secrets, as handles. [`join`] composes values from handles and text, and the host inserts them into requests, so
//! that no value enters the plugin.

use std::borrow::Cow;
use std::fmt;

use crate::{Failure, Timestamp, host};

/// The code of the failure when the job lists no secret of this name.
pub const NOT_LISTED: &str = "secret.not-listed";

/// The code of the failure when a secret is to be replaced that the job does not mark as rotating.
pub const NOT_ROTATING: &str = "secret.not-rotating";

/// A value that can be used but not read.
pub struct Secret(pub(crate) host::Handle);

/// How a secret is encoded in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Raw,
    /// `application/x-www-form-urlencoded`, which RFC 6749 §2.3.1 also requires inside Basic.
    Form,
    /// Percent-encoded, all but the unreserved characters of RFC 3986.
    Percent,
    /// Escaped for the inside of a JSON string.
    Json,
    /// Escaped for XML text and attribute values.
    Xml,
    /// Base64 with padding.
    Base64,
    /// Base64 for URLs, without padding.
    Base64Url,
    /// Hexadecimal in lower case.
    Hex,
    /// Base32 with padding.
    Base32,
    /// Escaped for the inside of a quoted-string of a header.
    Quoted,
}

/// A value in a request: text, bytes, or a secret that the host inserts.
pub enum Value<'a> {
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes.
    Bytes(Cow<'a, [u8]>),
    /// A secret.
    Secret(&'a Secret),
}

/// A part of a composed value.
pub enum Piece<'a> {
    /// Text as it is.
    Text(Cow<'a, str>),
    /// A secret in an encoding.
    Secret(&'a Secret, Encoding),
}

/// The newest value under this name. A handle keeps the value that it was opened with.
///
/// # Errors
///
/// `invalid-config` with code [`NOT_LISTED`] when the job lists no such secret, "secret.not-found" when its place has no value.
pub fn open(name: &str) -> Result<Secret, Failure> {
    host::open(name).map(Secret)
}

/// As [`open`], with nothing for a secret that the job does not list. A listed one that cannot be read is an error.
///
/// # Errors
///
/// As [`open`], but for [`NOT_LISTED`].
pub fn open_if_listed(name: &str) -> Result<Option<Secret>, Failure> {
    match open(name) {
        Ok(secret) => Ok(Some(secret)),
        Err(failure) if failure.has_code(NOT_LISTED) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// A secret made of secrets and text, with their restrictions.
///
/// # Errors
///
/// Whatever the host's limits forbid.
pub fn join(pieces: &[Piece<'_>]) -> Result<Secret, Failure> {
    host::join(pieces).map(Secret)
}

/// A JSON object of texts, for the body of a request: [`crate::http::Request::content`] with `application/json` takes it.
///
/// ```
/// use evertoken_plugin::{http::Request, secrets, testing::Host};
///
/// let host = Host::new();
/// host.secret("password", "p4ss");
/// let password = secrets::open("password").unwrap();
/// let login = secrets::json(&[("user", "jane".into()), ("password", (&password).into())]).unwrap();
/// let request = Request::post("https://idp.example.org/login").content("application/json", &login);
/// # drop(request);
/// ```
///
/// # Errors
///
/// As [`join`]; `invalid-config` where bytes are no UTF-8.
pub fn json(members: &[(&str, Value<'_>)]) -> Result<Secret, Failure> {
    let mut pieces = Vec::with_capacity(4 * members.len() + 2);
    let mut before = "{";
    for (name, value) in members {
        pieces.push(Piece::from(format!("{before}{}:\"", quoted(name))));
        match value {
            Value::Text(text) => pieces.push(inside_quotes(text).into()),
            Value::Bytes(bytes) => {
                let text = std::str::from_utf8(bytes).map_err(|_| {
                    Failure::invalid_config(format!("the member {name} is no UTF-8"))
                })?;
                pieces.push(inside_quotes(text).into());
            }
            Value::Secret(secret) => pieces.push(Piece::Secret(secret, Encoding::Json)),
        }
        pieces.push("\"".into());
        before = ",";
    }
    pieces.push(if members.is_empty() { "{}" } else { "}" }.into());
    join(&pieces)
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn inside_quotes(text: &str) -> String {
    let quoted = quoted(text);
    let inside = quoted
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    inside.unwrap_or_default().to_owned()
}

/// Stores the successor of a rotating secret, or its first value. Durable when it returns.
///
/// # Errors
///
/// `invalid-config` with code [`NOT_ROTATING`] when the job does not mark it `rotating: true`; whatever the store reports.
pub fn replace<'a>(
    name: &str,
    value: impl Into<Value<'a>>,
    expires_at: Option<Timestamp>,
) -> Result<(), Failure> {
    host::replace(name, &value.into(), expires_at)
}

impl Secret {
    /// The value itself.
    ///
    /// # Errors
    ///
    /// `invalid-config` with code "secret.not-revealed" unless the job lists every secret in it under `reveal`.
    pub fn reveal(&self) -> Result<Vec<u8>, Failure> {
        host::reveal(&self.0)
    }

    /// The string at a JSON pointer (RFC 6901), e.g. "/private_key".
    ///
    /// # Errors
    ///
    /// `invalid-config` when the value is not JSON or has no string there; "secret.not-whole" when the plugin composed the value,
    /// or may have, as with a rotating one, and the job does not list all of its secrets under `reveal`.
    pub fn part(&self, pointer: &str) -> Result<Secret, Failure> {
        host::part(&self.0, pointer).map(Secret)
    }

    /// Decoded from base64, base64url, base32 or hex, for keys issued as text.
    ///
    /// # Errors
    ///
    /// `invalid-config` when the value is not in this encoding; "secret.not-whole" as for [`Self::part`].
    pub fn decode(&self, encoding: Encoding) -> Result<Secret, Failure> {
        host::decode(&self.0, encoding).map(Secret)
    }

    /// The value of `Authorization` for this user and this password (RFC 7617), each form-encoded first as RFC 6749 §2.3.1
    /// requires.
    ///
    /// # Errors
    ///
    /// As [`join`].
    pub fn basic<'a>(user: impl Into<Value<'a>>, password: &Secret) -> Result<Secret, Failure> {
        let user = match user.into() {
            Value::Text(text) => {
                let encoded: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
                Piece::Text(encoded.into())
            }
            Value::Bytes(bytes) => {
                let encoded: String = form_urlencoded::byte_serialize(&bytes).collect();
                Piece::Text(encoded.into())
            }
            Value::Secret(secret) => Piece::Secret(secret, Encoding::Form),
        };
        let pair = join(&[user, ":".into(), Piece::Secret(password, Encoding::Form)])?;
        join(&["Basic ".into(), Piece::Secret(&pair, Encoding::Base64)])
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::Secret(secret) => secret.fmt(f),
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text.as_str().into())
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<Vec<u8>> for Value<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl<'a> From<&'a Secret> for Value<'a> {
    fn from(secret: &'a Secret) -> Self {
        Self::Secret(secret)
    }
}

impl<'a> From<&'a str> for Piece<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Piece<'_> {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

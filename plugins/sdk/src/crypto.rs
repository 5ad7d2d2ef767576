//! Keyed operations. Keys never leave the host.

use crate::secrets::{Secret, Value};
use crate::{Failure, host};

/// The public half of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// JWK in the members and order of RFC 7638, so that its SHA-256 is the thumbprint.
    pub jwk: String,
    /// DER SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// DER of the first certificate in the same PEM.
    pub certificate: Option<Vec<u8>>,
}

/// Signs with a private key, or makes a MAC. `algorithm` has its name from RFC 7518, 8037 or 5849, e.g. "RS256", "EdDSA", "HMAC-SHA1".
///
/// # Errors
///
/// `invalid-config` when the key is not one for this algorithm.
pub fn sign<'a>(
    key: &Secret,
    algorithm: &str,
    message: impl Into<Value<'a>>,
) -> Result<Vec<u8>, Failure> {
    host::sign(&key.0, algorithm, &message.into())
}

/// A MAC whose result is the next key and stays in the host, as in AWS Signature Version 4.
///
/// # Errors
///
/// As [`sign`].
pub fn derive<'a>(
    key: &Secret,
    algorithm: &str,
    message: impl Into<Value<'a>>,
) -> Result<Secret, Failure> {
    host::derive(&key.0, algorithm, &message.into()).map(Secret)
}

/// The public half of a private key, a public key or a certificate.
///
/// # Errors
///
/// `invalid-config` when the secret is none of them.
pub fn public_key(key: &Secret) -> Result<PublicKey, Failure> {
    host::public_key(&key.0)
}

/// A digest: "SHA-256", "SHA-384", "SHA-512", "SHA-1" or "MD5".
///
/// # Errors
///
/// `invalid-config` for another name.
pub fn digest<'a>(algorithm: &str, message: impl Into<Value<'a>>) -> Result<Vec<u8>, Failure> {
    host::digest(algorithm, &message.into())
}

/// Random bytes, at most 1024. A language's own generator may repeat itself in every fresh instance.
#[must_use]
pub fn random_bytes(len: u32) -> Vec<u8> {
    host::random_bytes(len)
}

//! Cryptographic operations. Keys never leave the host.

use crate::secrets::{Secret, Value};
use crate::{Failure, host};

/// The public part of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// JWK in the members and order of RFC 7638, so that its SHA-256 is the thumbprint.
    pub jwk: String,
    /// DER SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// DER of the certificates in the same PEM, in its order, the key's own first.
    pub certificates: Vec<Vec<u8>>,
}

/// Signs with a private key, or makes a MAC. `algorithm` has its name from RFC 7518, 8037 or 5849, e.g. "RS256", "EdDSA", "HMAC-SHA1".
///
/// The result is a secret: [`crate::secrets::join`] encodes it for a request, [`crate::jwt::sign`] does so for a JWT, and as the
/// key of the next call it makes the chains of AWS Signature Version 4. The result for plain text and a key that may be read may
/// be read, too.
///
/// # Errors
///
/// `invalid-config` when the key is not one for this algorithm.
pub fn sign<'a>(
    key: &Secret,
    algorithm: &str,
    message: impl Into<Value<'a>>,
) -> Result<Secret, Failure> {
    host::sign(&key.0, algorithm, &message.into()).map(Secret)
}

/// The public part of a private key, a public key or a certificate.
///
/// # Errors
///
/// `invalid-config` when the secret is none of these, or was made by [`crate::secrets::join`].
pub fn public_key(key: &Secret) -> Result<PublicKey, Failure> {
    host::public_key(&key.0)
}

/// A digest: "SHA-256", "SHA-384", "SHA-512", "SHA-1" or "MD5". It is a secret if the message is one; that of plain text may be
/// read, see [`digest_of_text`].
///
/// # Errors
///
/// `invalid-config` for another name.
pub fn digest<'a>(algorithm: &str, message: impl Into<Value<'a>>) -> Result<Secret, Failure> {
    host::digest(algorithm, &message.into()).map(Secret)
}

/// The bytes of a digest of public data: a PKCE challenge, a thumbprint, the hash of a payload.
///
/// # Errors
///
/// As [`digest`].
pub fn digest_of_text(algorithm: &str, message: &str) -> Result<Vec<u8>, Failure> {
    digest(algorithm, message)?.reveal()
}

/// Random bytes, at most 1024. The generator of a programming language may repeat itself in every fresh instance.
#[must_use]
pub fn random_bytes(len: u32) -> Vec<u8> {
    host::random_bytes(len)
}

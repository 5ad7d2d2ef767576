//! Keyed operations for plugins: the key is a handle, its bytes never leave the host.

/// A public key in the spellings that issuers ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// In the members and order of RFC 7638, so that its SHA-256 is the thumbprint.
    pub jwk: String,
    /// DER SubjectPublicKeyInfo (RFC 5280 §4.1).
    pub spki: Vec<u8>,
    /// DER of the first certificate in the same PEM.
    pub certificate: Option<Vec<u8>>,
}

use secrecy::SecretSlice;

use crate::failure::{Failure, FailureKind};

/// The most random bytes that one call returns; nonces and verifiers have 32 to 96.
pub const MAX_RANDOM_BYTES: u32 = 1024;

fn pending() -> Failure {
    Failure::new(FailureKind::Internal, "crypto.algorithm", "not there yet")
}
/// SHA-256.
pub(super) fn sha256(_message: &[u8]) -> [u8; 32] {
    [0; 32]
}
pub(super) fn sign(_key: &[u8], _algorithm: &str, _message: &[u8]) -> Result<Vec<u8>, Failure> {
    Err(pending())
}
pub(super) fn derive(
    _key: &[u8],
    _algorithm: &str,
    _message: &[u8],
) -> Result<SecretSlice<u8>, Failure> {
    Err(pending())
}
pub(super) fn public_key(_key: &[u8]) -> Result<PublicKey, Failure> {
    Err(pending())
}
pub(super) fn digest(_algorithm: &str, _message: &[u8]) -> Result<Vec<u8>, Failure> {
    Err(pending())
}
pub(super) fn random_bytes(_len: u32) -> Result<Vec<u8>, Failure> {
    Err(pending())
}

//! Cryptographic operations for plugins: the key is a handle, its bytes never leave the host. Algorithms have their
//! JOSE names, where they have one.

mod jwk;
mod key;

#[cfg(test)]
mod tests;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaSigningAlgorithm, RsaEncoding, RsaKeyPair};
use aws_lc_rs::{digest as sha, hmac, rand};
use md5::{Digest as _, Md5};

use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::worker;
use key::{CryptoKeyError, Curve, PrivateKey};

/// The most random bytes that one call returns; nonces and verifiers have 32 to 96.
pub const MAX_RANDOM_BYTES: u32 = 1024;

/// The algorithms of [`sign`], for messages. No RSA-SHA1: the library no longer signs with RSA and SHA-1.
const SIGN_ALGORITHMS: &str =
    "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA, HS256, HS384, HS512, HMAC-SHA1";

/// The algorithms of [`digest`], for messages.
const DIGEST_ALGORITHMS: &str = "SHA-256, SHA-384, SHA-512, SHA-1, MD5";

/// A public key in the formats that issuers ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// In the members and order of RFC 7638, so that its SHA-256 is the thumbprint.
    pub jwk: String,
    /// DER SubjectPublicKeyInfo (RFC 5280 §4.1).
    pub spki: Vec<u8>,
    /// DER of the certificates in the same PEM, in its order, the key's own first.
    pub certificates: Vec<Vec<u8>>,
}

/// SHA-256.
#[cfg(test)]
pub(super) fn sha256(message: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    let computed = sha::digest(&sha::SHA256, message);
    for (to, from) in digest.iter_mut().zip(computed.as_ref()) {
        *to = *from;
    }
    digest
}

/// A signature, or a MAC whose key is `key` itself.
///
/// # Errors
/// `crypto.algorithm`, `crypto.key`.
pub(super) fn sign(key: &[u8], algorithm: &str, message: &[u8]) -> Result<Vec<u8>, Failure> {
    if let Some(mac) = mac_algorithm(algorithm) {
        let key = hmac::Key::new(mac, key);
        return Ok(worker::aside_if_large(message.len(), || {
            hmac::sign(&key, message).as_ref().to_vec()
        }));
    }
    let scheme =
        Scheme::of(algorithm).ok_or_else(|| unknown(algorithm, "sign with", SIGN_ALGORITHMS))?;
    // Signing with a large RSA key takes tens of milliseconds, however short the message.
    worker::aside(|| {
        let key = PrivateKey::parse(key).map_err(unusable)?;
        scheme.sign(&key, algorithm, message)
    })
}

/// The cost of signing so many bytes, in bytes: parsing the key first takes as long as any signature.
#[must_use]
pub fn work_to_sign(algorithm: &str, message: usize) -> usize {
    if takes_any_key(algorithm) {
        message
    } else {
        usize::MAX
    }
}

/// Whether any bytes are a valid key for it, as for a MAC.
pub(super) fn takes_any_key(algorithm: &str) -> bool {
    mac_algorithm(algorithm).is_some()
}

/// The public key of a private key, a public key or a certificate.
///
/// # Errors
/// `crypto.key`.
pub(super) fn public_key(key: &[u8]) -> Result<PublicKey, Failure> {
    worker::aside(|| key::public_key(key)).map_err(unusable)
}

/// A digest by its name.
///
/// # Errors
/// `crypto.algorithm`.
pub(super) fn digest(algorithm: &str, message: &[u8]) -> Result<Vec<u8>, Failure> {
    let sha = match algorithm {
        "SHA-256" => Some(&sha::SHA256),
        "SHA-384" => Some(&sha::SHA384),
        "SHA-512" => Some(&sha::SHA512),
        "SHA-1" => Some(&sha::SHA1_FOR_LEGACY_USE_ONLY),
        "MD5" => None,
        other => return Err(unknown(other, "digest with", DIGEST_ALGORITHMS)),
    };
    Ok(worker::aside_if_large(message.len(), || match sha {
        Some(algorithm) => sha::digest(algorithm, message).as_ref().to_vec(),
        None => Md5::digest(message).to_vec(),
    }))
}

/// At most [`MAX_RANDOM_BYTES`] from the system's generator.
///
/// # Errors
/// `crypto.random`.
pub(super) fn random_bytes(len: u32) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; usize::try_from(len.min(MAX_RANDOM_BYTES)).unwrap_or_default()];
    rand::fill(&mut bytes).map_err(|_| {
        Failure::new(
            FailureKind::Internal,
            HostCode::CryptoRandom,
            "the system gave no random bytes",
        )
    })?;
    Ok(bytes)
}

fn mac_algorithm(name: &str) -> Option<hmac::Algorithm> {
    match name {
        "HS256" => Some(hmac::HMAC_SHA256),
        "HS384" => Some(hmac::HMAC_SHA384),
        "HS512" => Some(hmac::HMAC_SHA512),
        "HMAC-SHA1" => Some(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
        _ => None,
    }
}

/// The algorithm of a signature with a private key.
enum Scheme {
    Rsa(&'static dyn RsaEncoding),
    Ec(Curve),
    Ed25519,
}

impl Scheme {
    /// By its name in RFC 7518 §3.1 or RFC 8037 §3.1.
    fn of(algorithm: &str) -> Option<Self> {
        Some(match algorithm {
            "RS256" => Self::Rsa(&signature::RSA_PKCS1_SHA256),
            "RS384" => Self::Rsa(&signature::RSA_PKCS1_SHA384),
            "RS512" => Self::Rsa(&signature::RSA_PKCS1_SHA512),
            "PS256" => Self::Rsa(&signature::RSA_PSS_SHA256),
            "PS384" => Self::Rsa(&signature::RSA_PSS_SHA384),
            "PS512" => Self::Rsa(&signature::RSA_PSS_SHA512),
            "ES256" => Self::Ec(Curve::P256),
            "ES384" => Self::Ec(Curve::P384),
            "EdDSA" => Self::Ed25519,
            _ => return None,
        })
    }

    fn sign(&self, key: &PrivateKey, algorithm: &str, message: &[u8]) -> Result<Vec<u8>, Failure> {
        match (self, key) {
            (Self::Rsa(encoding), PrivateKey::Rsa(key)) => rsa(key, *encoding, message),
            (Self::Ec(wanted), PrivateKey::Ec(curve, key)) if wanted == curve => {
                let signed = key.sign(&SystemRandom::new(), message);
                Ok(signed.map_err(|_| failed())?.as_ref().to_vec())
            }
            (Self::Ed25519, PrivateKey::Ed25519(key)) => {
                let signed = key.try_sign(message);
                Ok(signed.map_err(|_| failed())?.as_ref().to_vec())
            }
            _ => Err(Failure::new(
                FailureKind::InvalidConfig,
                HostCode::CryptoKey,
                format!(
                    "{algorithm} needs {}, and the key is {}",
                    self.key_kind(),
                    key.kind()
                ),
            )),
        }
    }

    fn key_kind(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "an RSA key",
            Self::Ec(curve) => curve.key_kind(),
            Self::Ed25519 => "an Ed25519 key",
        }
    }
}

impl Curve {
    /// A signature is r and s concatenated, as in JOSE (RFC 7518 §3.4).
    fn signing(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            Self::P384 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        }
    }
}

fn rsa(
    key: &RsaKeyPair,
    encoding: &'static dyn RsaEncoding,
    message: &[u8],
) -> Result<Vec<u8>, Failure> {
    let mut signed = vec![0; key.public_modulus_len()];
    key.sign(encoding, &SystemRandom::new(), message, &mut signed)
        .map_err(|_| failed())?;
    Ok(signed)
}

fn failed() -> Failure {
    Failure::new(
        FailureKind::Internal,
        HostCode::CryptoSign,
        "the signature could not be made",
    )
}

fn unknown(algorithm: &str, what: &str, known: &str) -> Failure {
    Failure::new(
        FailureKind::InvalidConfig,
        HostCode::CryptoAlgorithm,
        format!("cannot {what} `{algorithm}`; there are {known}"),
    )
}

fn unusable(error: CryptoKeyError) -> Failure {
    Failure::new(
        FailureKind::InvalidConfig,
        HostCode::CryptoKey,
        format!("the key cannot be used: {error}"),
    )
}

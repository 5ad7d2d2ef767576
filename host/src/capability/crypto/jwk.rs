//! JSON Web Keys (RFC 7517): private ones to sign with, public ones in the form whose SHA-256 is the thumbprint (RFC 7638).

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPairComponents, PublicKeyComponents};
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, ParsedPublicKey, RsaKeyPair};
use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use zeroize::{Zeroize, Zeroizing};

use super::key::{CryptoKeyError, Curve, PrivateKey};

/// The key members of RFC 7518 §6 and RFC 8037 §2; others are ignored.
#[derive(Deserialize)]
pub(super) struct Jwk {
    kty: String,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<String>,
    p: Option<String>,
    q: Option<String>,
    dp: Option<String>,
    dq: Option<String>,
    qi: Option<String>,
}

impl Drop for Jwk {
    fn drop(&mut self) {
        for member in [
            &mut self.d,
            &mut self.p,
            &mut self.q,
            &mut self.dp,
            &mut self.dq,
            &mut self.qi,
        ] {
            member.zeroize();
        }
    }
}

/// A member's bytes.
fn bytes(
    name: &'static str,
    member: Option<&String>,
) -> Result<Zeroizing<Vec<u8>>, CryptoKeyError> {
    member
        .and_then(|text| BASE64URL_NOPAD.decode(text.as_bytes()).ok())
        .map(Zeroizing::new)
        .ok_or(CryptoKeyError::Member(name))
}

/// A member's bytes as a number of `len` bytes: some writers leave out leading zeros.
fn number(
    name: &'static str,
    member: Option<&String>,
    len: usize,
) -> Result<Zeroizing<Vec<u8>>, CryptoKeyError> {
    let bytes = bytes(name, member)?;
    let missing = len
        .checked_sub(bytes.len())
        .ok_or(CryptoKeyError::Member(name))?;
    let mut padded = Zeroizing::new(Vec::with_capacity(len));
    padded.resize(missing, 0);
    padded.extend_from_slice(&bytes);
    Ok(padded)
}

/// The key type that the members say.
enum KeyType {
    Rsa,
    Ec(Curve),
    Ed25519,
}

impl Curve {
    fn bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
        }
    }
}

impl Jwk {
    /// Whether it has private members.
    pub(super) fn is_private(&self) -> bool {
        self.d.is_some()
    }

    fn kind(&self) -> Result<KeyType, CryptoKeyError> {
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Ok(KeyType::Rsa),
            ("EC", Some("P-256")) => Ok(KeyType::Ec(Curve::P256)),
            ("EC", Some("P-384")) => Ok(KeyType::Ec(Curve::P384)),
            ("OKP", Some("Ed25519")) => Ok(KeyType::Ed25519),
            ("EC" | "OKP", _) => Err(CryptoKeyError::Member("crv")),
            _ => Err(CryptoKeyError::Member("kty")),
        }
    }

    /// The signing key.
    pub(super) fn private_key(&self) -> Result<PrivateKey, CryptoKeyError> {
        match self.kind()? {
            KeyType::Rsa => self.rsa().map(PrivateKey::Rsa),
            KeyType::Ec(curve) => {
                let d = number("d", self.d.as_ref(), curve.bytes())?;
                EcdsaKeyPair::from_private_key_and_public_key(
                    curve.signing(),
                    &d,
                    &self.point(curve)?,
                )
                .map(|key| PrivateKey::Ec(curve, key))
                .map_err(|_| CryptoKeyError::Inconsistent)
            }
            KeyType::Ed25519 => {
                let d = bytes("d", self.d.as_ref())?;
                let x = bytes("x", self.x.as_ref())?;
                Ed25519KeyPair::from_seed_and_public_key(&d, &x)
                    .map(PrivateKey::Ed25519)
                    .map_err(|_| CryptoKeyError::Inconsistent)
            }
        }
    }

    fn rsa(&self) -> Result<RsaKeyPair, CryptoKeyError> {
        RsaKeyPair::from_components(&KeyPairComponents {
            public_key: PublicKeyComponents {
                n: bytes("n", self.n.as_ref())?,
                e: bytes("e", self.e.as_ref())?,
            },
            d: bytes("d", self.d.as_ref())?,
            p: bytes("p", self.p.as_ref())?,
            q: bytes("q", self.q.as_ref())?,
            dP: bytes("dp", self.dp.as_ref())?,
            dQ: bytes("dq", self.dq.as_ref())?,
            qInv: bytes("qi", self.qi.as_ref())?,
        })
        .map_err(|_| CryptoKeyError::Inconsistent)
    }

    /// An uncompressed point (SEC 1 §2.3.3).
    fn point(&self, curve: Curve) -> Result<Vec<u8>, CryptoKeyError> {
        let mut point = vec![0x04];
        point.extend_from_slice(&number("x", self.x.as_ref(), curve.bytes())?);
        point.extend_from_slice(&number("y", self.y.as_ref(), curve.bytes())?);
        Ok(point)
    }

    /// The public key as DER SubjectPublicKeyInfo.
    pub(super) fn spki(&self) -> Result<Vec<u8>, CryptoKeyError> {
        let der: Result<PublicKeyX509Der<'_>, _> = match self.kind()? {
            KeyType::Rsa => PublicKeyComponents {
                n: bytes("n", self.n.as_ref())?,
                e: bytes("e", self.e.as_ref())?,
            }
            .as_der(),
            KeyType::Ec(curve) => ParsedPublicKey::new(curve.verification(), self.point(curve)?)
                .map_err(|_| CryptoKeyError::Inconsistent)?
                .as_der(),
            KeyType::Ed25519 => {
                ParsedPublicKey::new(&signature::ED25519, bytes("x", self.x.as_ref())?.as_slice())
                    .map_err(|_| CryptoKeyError::Inconsistent)?
                    .as_der()
            }
        };
        Ok(der
            .map_err(|_| CryptoKeyError::Inconsistent)?
            .as_ref()
            .to_vec())
    }
}

/// Object identifiers in DER: rsaEncryption (RFC 8017), id-ecPublicKey with prime256v1 and secp384r1 (RFC 5480), id-Ed25519
/// (RFC 8410).
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// Tags of DER (X.690).
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// The JWK of a SubjectPublicKeyInfo with its required members in the order of RFC 7638 §3.2; none for kinds that are not
/// supported here.
pub(super) fn of_spki(spki: &[u8]) -> Option<String> {
    let mut outer = Der(Der(spki).value(SEQUENCE)?);
    let mut algorithm = Der(outer.value(SEQUENCE)?);
    let key = outer.value(BIT_STRING)?.strip_prefix(&[0])?;
    match algorithm.value(OBJECT_IDENTIFIER)? {
        RSA => {
            let mut numbers = Der(Der(key).value(SEQUENCE)?);
            let n = spelled(numbers.value(INTEGER)?);
            let e = spelled(numbers.value(INTEGER)?);
            Some(format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#))
        }
        EC => {
            let curve = match algorithm.value(OBJECT_IDENTIFIER)? {
                P256 => Curve::P256,
                P384 => Curve::P384,
                _ => return None,
            };
            let (x, y) = key.strip_prefix(&[0x04])?.split_at_checked(curve.bytes())?;
            let (x, y) = (BASE64URL_NOPAD.encode(x), BASE64URL_NOPAD.encode(y));
            let crv = curve.name();
            Some(format!(
                r#"{{"crv":"{crv}","kty":"EC","x":"{x}","y":"{y}"}}"#
            ))
        }
        ED25519 => {
            let x = BASE64URL_NOPAD.encode(key);
            Some(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#))
        }
        _ => None,
    }
}

/// A positive integer without DER's sign byte (RFC 7518 §6.3.1).
fn spelled(integer: &[u8]) -> String {
    BASE64URL_NOPAD.encode(integer.strip_prefix(&[0]).unwrap_or(integer))
}

/// The unread rest of a DER value. Lengths over 65,535 do not occur in public keys.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next element, if it has this tag.
    fn value(&mut self, tag: u8) -> Option<&'a [u8]> {
        let rest = self.0.strip_prefix(&[tag])?;
        let (len, rest) = match rest {
            [len @ 0..=0x7f, rest @ ..] => (usize::from(*len), rest),
            [0x81, len, rest @ ..] => (usize::from(*len), rest),
            [0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some(value)
    }
}

//! Parsing of keys: PEM (PKCS #8, PKCS #1, SEC 1, SubjectPublicKeyInfo, certificates) and JWK.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, ParsedPublicKey, RsaKeyPair, VerificationAlgorithm,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::SectionKind;
use rustls::server::ParsedCertificate;
use zeroize::Zeroizing;

use super::PublicKey;
use super::jwk::{self, Jwk};
use crate::pem::{self, Damage};

/// Why a value cannot be used as a key. Names the value's form and nothing else of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CryptoKeyError {
    /// Neither form.
    #[error("it is neither PEM nor JWK")]
    Form,
    /// PEM without a private key.
    #[error("the PEM holds no private key (PKCS #8, PKCS #1 or SEC 1, not encrypted){0}")]
    NoPrivateKey(String),
    /// PEM without a public key.
    #[error("the PEM holds neither key nor certificate{0}")]
    NoKey(String),
    /// A block of PEM that cannot be read.
    #[error("{block} is damaged: {damage}")]
    Damaged {
        /// Which one.
        block: String,
        /// Why.
        damage: Damage,
    },
    /// What is wrong with one of several blocks.
    #[error("{block}: {why}")]
    Within {
        /// Which one.
        block: String,
        /// What.
        why: Box<CryptoKeyError>,
    },
    /// Damaged, or of a kind that is not supported.
    #[error(
        "it is damaged or of a kind that is not supported; there are RSA with 2048 to 8192 bits, EC P-256 and P-384, Ed25519"
    )]
    Unsupported,
    /// A certificate that does not parse.
    #[error("the certificate is damaged")]
    Certificate,
    /// The certificate belongs to another key.
    #[error("the first certificate in the PEM is not the key's")]
    OtherCertificate,
    /// A JWK without a member that its kind must have.
    #[error("the JWK has no usable member `{0}`")]
    Member(&'static str),
    /// A JWK whose members contradict each other.
    #[error("the JWK's members are no valid key")]
    Inconsistent,
}

/// The curves of ES256 and ES384.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
}

impl Curve {
    pub(super) const ALL: [Self; 2] = [Self::P256, Self::P384];

    pub(super) fn key_kind(self) -> &'static str {
        match self {
            Self::P256 => "an EC P-256 key",
            Self::P384 => "an EC P-384 key",
        }
    }

    pub(super) fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::P256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::P384 => &signature::ECDSA_P384_SHA384_FIXED,
        }
    }
}

/// A private key that can sign.
pub(super) enum PrivateKey {
    Rsa(RsaKeyPair),
    Ec(Curve, EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl PrivateKey {
    /// From PEM or JWK.
    pub(super) fn parse(text: &[u8]) -> Result<Self, CryptoKeyError> {
        match Form::of(text)? {
            Form::Jwk(jwk) => jwk.private_key(),
            Form::Pem(pem) => {
                let missing = || CryptoKeyError::NoPrivateKey(pem.holds.clone());
                pem.private_key()?.ok_or_else(missing)
            }
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "an RSA key",
            Self::Ec(curve, _) => curve.key_kind(),
            Self::Ed25519(_) => "an Ed25519 key",
        }
    }

    fn spki(&self) -> Result<Vec<u8>, CryptoKeyError> {
        let der: Result<PublicKeyX509Der<'_>, _> = match self {
            Self::Rsa(key) => key.public_key().as_der(),
            Self::Ec(_, key) => key.public_key().as_der(),
            Self::Ed25519(key) => key.public_key().as_der(),
        };
        Ok(der
            .map_err(|_| CryptoKeyError::Unsupported)?
            .as_ref()
            .to_vec())
    }

    fn pkcs8(der: &[u8]) -> Result<Self, CryptoKeyError> {
        if let Ok(key) = RsaKeyPair::from_pkcs8(der) {
            return Ok(Self::Rsa(key));
        }
        for curve in Curve::ALL {
            if let Ok(key) = EcdsaKeyPair::from_pkcs8(curve.signing(), der) {
                return Ok(Self::Ec(curve, key));
            }
        }
        Ed25519KeyPair::from_pkcs8(der)
            .map(Self::Ed25519)
            .map_err(|_| CryptoKeyError::Unsupported)
    }

    fn sec1(der: &[u8]) -> Result<Self, CryptoKeyError> {
        Curve::ALL
            .into_iter()
            .find_map(|curve| {
                let key = EcdsaKeyPair::from_private_key_der(curve.signing(), der).ok()?;
                Some(Self::Ec(curve, key))
            })
            .ok_or(CryptoKeyError::Unsupported)
    }
}

/// The public key of the key or certificate in the value.
pub(super) fn public_key(text: &[u8]) -> Result<PublicKey, CryptoKeyError> {
    match Form::of(text)? {
        Form::Jwk(jwk) => {
            let spki = if jwk.is_private() {
                jwk.private_key()?.spki()?
            } else {
                jwk.spki()?
            };
            Ok(PublicKey {
                jwk: jwk::of_spki(&spki).ok_or(CryptoKeyError::Unsupported)?,
                spki,
                certificates: Vec::new(),
            })
        }
        Form::Pem(pem) => pem.public_key(),
    }
}

/// The format of a key.
enum Form {
    Jwk(Box<Jwk>),
    Pem(Pem),
}

impl Form {
    fn of(text: &[u8]) -> Result<Self, CryptoKeyError> {
        if text.trim_ascii_start().starts_with(b"{") {
            return serde_json::from_slice(text)
                .map(|jwk| Self::Jwk(Box::new(jwk)))
                .map_err(|_| CryptoKeyError::Form);
        }
        Pem::parse(text).map(Self::Pem)
    }
}

/// The blocks of a PEM text.
struct Pem {
    sections: Vec<Section>,
    /// Its contents, for people.
    holds: String,
}

/// A block that could be read and is of a known kind.
struct Section {
    block: String,
    kind: SectionKind,
    der: Zeroizing<Vec<u8>>,
}

impl Section {
    fn within(&self, why: CryptoKeyError) -> CryptoKeyError {
        CryptoKeyError::Within {
            block: self.block.clone(),
            why: Box::new(why),
        }
    }

    /// The private key in it; none: it holds something else.
    fn private_key(&self) -> Option<Result<PrivateKey, CryptoKeyError>> {
        let key = match self.kind {
            SectionKind::PrivateKey => PrivateKey::pkcs8(&self.der),
            SectionKind::EcPrivateKey => PrivateKey::sec1(&self.der),
            SectionKind::RsaPrivateKey => RsaKeyPair::from_der(&self.der)
                .map(PrivateKey::Rsa)
                .map_err(|_| CryptoKeyError::Unsupported),
            _ => return None,
        };
        Some(key.map_err(|why| self.within(why)))
    }
}

impl Pem {
    fn parse(text: &[u8]) -> Result<Self, CryptoKeyError> {
        let mut sections = Vec::new();
        for block in pem::blocks(text) {
            let damaged = |damage| CryptoKeyError::Damaged {
                block: block.to_string(),
                damage,
            };
            if let Some((kind, der)) = block.parse().map_err(damaged)? {
                let block = block.to_string();
                sections.push(Section { block, kind, der });
            }
        }
        let holds = pem::holds(text);
        if holds.is_empty() {
            return Err(CryptoKeyError::Form);
        }
        Ok(Self { sections, holds })
    }

    fn private_key(&self) -> Result<Option<PrivateKey>, CryptoKeyError> {
        self.sections
            .iter()
            .find_map(Section::private_key)
            .transpose()
    }

    fn all(&self, wanted: SectionKind) -> impl Iterator<Item = &Section> {
        self.sections
            .iter()
            .filter(move |section| section.kind == wanted)
    }

    fn first(&self, wanted: SectionKind) -> Option<&[u8]> {
        Some(self.all(wanted).next()?.der.as_slice())
    }

    fn public_key(&self) -> Result<PublicKey, CryptoKeyError> {
        let certificates: Vec<_> = self.all(SectionKind::Certificate).collect();
        // Each block must be a certificate: other content between the PEM markers may not be public.
        let keys: Vec<_> = certificates
            .iter()
            .map(|section| certified(&section.der).map_err(|why| section.within(why)))
            .collect::<Result<_, _>>()?;
        let certified = keys.into_iter().next();
        let own = match (self.private_key()?, self.first(SectionKind::PublicKey)) {
            (Some(key), _) => Some(key.spki()?),
            (None, Some(spki)) => Some(spki.to_vec()),
            (None, None) => None,
        };
        let jwk_of = |spki: &[u8]| valid(spki).then(|| jwk::of_spki(spki)).flatten();
        if let (Some(own), Some(certified)) = (&own, &certified)
            && jwk_of(own) != jwk_of(certified)
        {
            return Err(CryptoKeyError::OtherCertificate);
        }
        let spki = own
            .or(certified)
            .ok_or_else(|| CryptoKeyError::NoKey(self.holds.clone()))?;
        Ok(PublicKey {
            jwk: jwk_of(&spki).ok_or(CryptoKeyError::Unsupported)?,
            spki,
            certificates: certificates
                .into_iter()
                .map(|section| section.der.to_vec())
                .collect(),
        })
    }
}

/// The public key of a certificate.
fn certified(der: &[u8]) -> Result<Vec<u8>, CryptoKeyError> {
    let der = CertificateDer::from(der);
    let certificate = ParsedCertificate::try_from(&der).map_err(|_| CryptoKeyError::Certificate)?;
    Ok(certificate.subject_public_key_info().to_vec())
}

/// Whether it is a public key of a supported kind.
fn valid(spki: &[u8]) -> bool {
    let kinds: [&'static dyn VerificationAlgorithm; 4] = [
        &signature::RSA_PKCS1_2048_8192_SHA256,
        Curve::P256.verification(),
        Curve::P384.verification(),
        &signature::ED25519,
    ];
    kinds
        .into_iter()
        .any(|kind| ParsedPublicKey::new(kind, spki).is_ok())
}

//! A certificate authority for tests: servers with any name, clients, and the TLS set-up of our own servers.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;

use crate::client::CRYPTO;

/// A certificate with its key, P-256.
#[derive(Debug)]
pub struct Identity {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The private key, PKCS #8 PEM.
    pub key_pem: String,
    certificate: rcgen::Certificate,
    key: KeyPair,
}

/// A certificate authority with a fresh key.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Makes an authority.
    ///
    /// # Errors
    ///
    /// When the crypto library cannot make a key.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)
            .context("cannot make an authority")?;
        Ok(Self { issuer })
    }

    /// The authority's certificate, PEM: what a `ca_file` holds.
    #[must_use]
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for a server with these DNS names or IP addresses.
    ///
    /// # Errors
    ///
    /// When a name is not a DNS name.
    pub fn server(&self, names: &[&str]) -> Result<Identity> {
        self.sign(names, ExtendedKeyUsagePurpose::ServerAuth, None)
    }

    /// A certificate for a client.
    ///
    /// # Errors
    ///
    /// When the name is not a DNS name.
    pub fn client(&self, name: &str) -> Result<Identity> {
        self.sign(&[name], ExtendedKeyUsagePurpose::ClientAuth, None)
    }

    /// The same, expired at the end of this year.
    ///
    /// # Errors
    ///
    /// When the name is not a DNS name.
    pub fn expired_client(&self, name: &str, year: i32) -> Result<Identity> {
        self.sign(&[name], ExtendedKeyUsagePurpose::ClientAuth, Some(year))
    }

    fn sign(
        &self,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
        expired: Option<i32>,
    ) -> Result<Identity> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone())
            .with_context(|| format!("bad name among {names:?}"))?;
        params.extended_key_usages = vec![usage];
        if let Some(year) = expired {
            params.not_before = date_time_ymd(year, 1, 1);
            params.not_after = date_time_ymd(year, 12, 31);
        }
        params.use_authority_key_identifier_extension = true;
        if let Some(name) = names.first() {
            params
                .distinguished_name
                .push(DnType::CommonName, name.as_str());
        }
        let key = KeyPair::generate()?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .context("cannot sign a certificate")?;
        Ok(Identity {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            certificate,
            key,
        })
    }
}

/// A fresh P-256 key as PEM: private (PKCS #8), public (SPKI).
///
/// # Errors
///
/// When the crypto library cannot make a key.
pub fn key_pair_pem() -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

/// TLS for a server that shows `identity` and, with `clients`, insists on a client certificate signed by that authority.
///
/// # Errors
///
/// When rustls refuses the certificates.
pub fn server_config(
    identity: &Identity,
    clients: Option<&Authority>,
) -> Result<Arc<rustls::ServerConfig>> {
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&CRYPTO))
        .with_safe_default_protocol_versions()?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.issuer.der().clone())?;
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&CRYPTO))
                    .build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::try_from(identity.key.serialize_der())
        .map_err(|reason| anyhow::anyhow!("bad key: {reason}"))?;
    Ok(Arc::new(builder.with_single_cert(
        vec![identity.certificate.der().clone()],
        key,
    )?))
}

//! A job's TLS files: reading them, building the TLS configuration, and errors that name the faulty part.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::{ClientBuilder, Identity};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use zeroize::Zeroizing;

use super::recipe::{Recipe, Trust};
use crate::file::{self, Unreadable};
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::pem;
use crate::text;

/// Bytes of a PEM file; the largest bundles of public authorities have a quarter of a megabyte.
const MAX_PEM_BYTES: usize = 4 * 1024 * 1024;

/// The protocol offered by ALPN.
const ALPN: &[u8] = b"http/1.1";

/// The one of a job's TLS files that a message is about.
#[derive(Clone, Copy)]
pub(super) enum TlsFile {
    Ca,
    Cert,
    Key,
}

impl TlsFile {
    pub(super) fn failure(self, file: &Path, what: impl fmt::Display) -> Failure {
        let (code, setting) = match self {
            Self::Ca => (HostCode::TlsCaFile, "ca_file"),
            Self::Cert => (HostCode::TlsCertFile, "cert_file"),
            Self::Key => (HostCode::TlsKeyFile, "key_file"),
        };
        Failure::new(
            FailureKind::InvalidConfig,
            code,
            format!("`source.tls.{setting}` {}: {what}", file.display()),
        )
    }

    fn read(self, file: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let bytes = file::read(file, MAX_PEM_BYTES).map_err(|why| match why {
            Unreadable::Missing => {
                self.failure(file, "it does not exist; create it or correct the path")
            }
            why => self.failure(file, why),
        })?;
        let meant = text::meant(&bytes).map_err(|error| self.failure(file, error))?;
        Ok(Zeroizing::new(meant.to_vec()))
    }

    /// The certificates in a file, each with its position; at least one.
    fn certificates(
        self,
        file: &Path,
        text: &[u8],
    ) -> Result<Vec<(String, CertificateDer<'static>)>, Failure> {
        let found = pem::certificates(text).map_err(|why| self.failure(file, why))?;
        for (block, certificate) in &found {
            ParsedCertificate::try_from(certificate).map_err(|error| {
                let what = format_args!("{block} is no certificate that can be used: {error}");
                self.failure(file, what)
            })?;
        }
        Ok(found)
    }

    fn private_key(self, file: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, Failure> {
        let mut keys = pem::blocks(text).filter(|block| block.label.ends_with("PRIVATE KEY"));
        let Some(block) = keys.next() else {
            return Err(self.failure(
                file,
                format_args!("it holds no private key; {KEY_NEEDED}{}", pem::holds(text)),
            ));
        };
        let unusable =
            |what: String| self.failure(file, format_args!("{block} {what}; {KEY_NEEDED}"));
        match block.parse() {
            Ok(Some((kind, der))) => PrivateKeyDer::from_pem(kind, der.to_vec()),
            Ok(None) => None,
            Err(damage) => return Err(unusable(format!("is damaged: {damage}"))),
        }
        .ok_or_else(|| unusable("is none that can be used".to_owned()))
    }
}

const KEY_NEEDED: &str = "an unencrypted PEM file (PKCS #8, PKCS #1 or SEC 1) is needed";

/// Why certificate and key do not match.
pub(super) fn another_key(certificate: &Path) -> String {
    format!("it is not the key of {}", certificate.display())
}

/// The builder with the trust and the client certificate of this recipe.
///
/// # Errors
/// `tls.ca-file`, `tls.cert-file`, `tls.key-file`.
pub(super) fn with_files(
    builder: ClientBuilder,
    recipe: &Recipe,
) -> Result<ClientBuilder, Failure> {
    let builder = match &recipe.trust {
        Trust::System => builder,
        Trust::Nobody => builder.tls_certs_only([]),
        Trust::File(file) => {
            return Ok(builder.tls_backend_preconfigured(config(file, recipe.identity.as_ref())?));
        }
    };
    match &recipe.identity {
        Some((certificate, key)) => Ok(builder.identity(identity(certificate, key)?)),
        None => Ok(builder),
    }
}

fn identity(certificate: &Path, key: &Path) -> Result<Identity, Failure> {
    let certificate_pem = TlsFile::Cert.read(certificate)?;
    let key_pem = TlsFile::Key.read(key)?;
    TlsFile::Cert.certificates(certificate, &certificate_pem)?;
    TlsFile::Key.private_key(key, &key_pem)?;
    let both = Zeroizing::new(
        [pem::separated(&certificate_pem), pem::separated(&key_pem)]
            .each_ref()
            .map(|text| text.as_slice())
            .concat(),
    );
    Identity::from_pem(&both).map_err(|_| TlsFile::Key.failure(key, KEY_NEEDED))
}

/// A TLS configuration that trusts only the certificates in a file.
fn config(ca: &Path, identity: Option<&(PathBuf, PathBuf)>) -> Result<ClientConfig, Failure> {
    let text = TlsFile::Ca.read(ca)?;
    let mut roots = RootCertStore::empty();
    let mut trusted = Vec::new();
    for (block, certificate) in TlsFile::Ca.certificates(ca, &text)? {
        roots.add(certificate.clone()).map_err(|error| {
            TlsFile::Ca.failure(ca, format_args!("{block} cannot be trusted: {error}"))
        })?;
        trusted.push(certificate);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let unusable = |error: &dyn fmt::Display| TlsFile::Ca.failure(ca, error);
    let chains = WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
        .build()
        .map_err(|error| unusable(&error))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(CaFileVerifier { chains, trusted }));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain =
                TlsFile::Cert.certificates(certificate, &TlsFile::Cert.read(certificate)?)?;
            let chain = chain
                .into_iter()
                .map(|(_, certificate)| certificate)
                .collect();
            let private = TlsFile::Key.private_key(key, &TlsFile::Key.read(key)?)?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| match error {
                    rustls::Error::InconsistentKeys(_) => {
                        TlsFile::Key.failure(key, another_key(certificate))
                    }
                    error => TlsFile::Key.failure(key, error),
                })?
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Trusts certificates that an authority in the file has signed, and the file's certificates themselves: a server may present one
/// of them even if it is marked as an authority, as self-signed ones often are. Its name and its dates are checked all the same.
#[derive(Debug)]
struct CaFileVerifier {
    chains: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for CaFileVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.chains.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            // Dates have been checked when this error is found.
            Err(error) if is_authority(&error) && self.trusted.contains(end_entity) => {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&certificate, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Whether the only fault of a server's certificate is that it is marked as an authority's.
fn is_authority(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error else {
        return false;
    };
    other.0.downcast_ref::<webpki::Error>() == Some(&webpki::Error::CaUsedAsEndEntity)
}

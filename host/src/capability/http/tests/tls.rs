//! Certificates: which are trusted, which are not and how to correct that, and where the client's own one is sent.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{OK, code};
use crate::capability::http::Response;
use crate::capability::testing::{Fixture, Server, get};
use crate::model::Origin;
use crate::model::failure::{Failure, FailureKind};

/// A certificate authority.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        Self::named("test authority")
    }

    fn named(name: &str) -> Self {
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        Self {
            certificate: params.self_signed(&key).unwrap(),
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    fn issue(&self, name: &str, until_year: i32) -> (rcgen::Certificate, rcgen::KeyPair) {
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(until_year, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn serves(&self, name: &str, until_year: i32) -> rustls::ServerConfig {
        self.server(name, until_year, false)
    }

    /// The server's configuration; `clients`: it requires client certificates of this authority.
    fn server(&self, name: &str, until_year: i32, clients: bool) -> rustls::ServerConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (certificate, key) = self.issue(name, until_year);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if clients {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.certificate.der().clone()).unwrap();
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .build()
                    .unwrap(),
            )
        } else {
            builder.with_no_client_auth()
        };
        builder
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap()
    }

    fn write(&self, file: &Path) {
        std::fs::write(file, self.certificate.pem()).unwrap();
    }
}

/// A job that reaches this machine by test names and trusts `ca.pem` in a folder.
fn fixture(folder: &Path, endpoints: Vec<Origin>) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.endpoints = endpoints;
    fixture.job.source.allow_addresses =
        vec![ipnet::Ipv4Net::from(std::net::Ipv4Addr::LOCALHOST).into()];
    fixture.job.source.tls.ca_file = Some(folder.join("ca.pem"));
    fixture
}

async fn send(fixture: &Fixture, origin: &Origin) -> Result<Response, Failure> {
    fixture.call().send(get(format!("{origin}/"))).await
}

#[tokio::test]
async fn a_wrong_name_an_unknown_authority_and_an_old_certificate_each_name_the_mend() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.write(&folder.path().join("ca.pem"));
    for (config, mend) in [
        (authority.serves("idp.test", 2100), None),
        (
            authority.serves("other.test", 2100),
            Some("`idp.test` must be among the certificate's names"),
        ),
        (
            Authority::named("another").serves("idp.test", 2100),
            Some("set `source.tls.ca_file` to the certificate of the authority"),
        ),
        (
            Authority::new().serves("idp.test", 2100),
            Some("set `source.tls.ca_file` to the certificate of the authority"),
        ),
        (
            authority.serves("idp.test", 2001),
            Some("the server needs a new certificate, or this machine's clock is wrong"),
        ),
    ] {
        let server = Server::tls(config, OK).await;
        let origin = server.origin_as("idp.test");
        let outcome = send(&fixture(folder.path(), vec![origin.clone()]), &origin).await;
        match mend {
            None => assert_eq!(outcome.unwrap().status, 200),
            Some(mend) => {
                assert_eq!(code(&outcome), "http.tls");
                let failure = outcome.unwrap_err();
                assert_eq!(failure.kind, FailureKind::Unavailable);
                assert!(failure.message.contains(mend), "{failure}");
            }
        }
    }
}

/// A server with one self-signed certificate.
fn self_signed(name: &str, until_year: i32, is_ca: rcgen::IsCa) -> (rustls::ServerConfig, String) {
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(until_year, 1, 1);
    params.is_ca = is_ca;
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    (config, certificate.pem())
}

#[tokio::test]
async fn a_certificate_that_the_file_names_is_trusted_itself_if_name_and_dates_are_right() {
    let ca = || rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let (_, another) = self_signed("idp.test", 2100, ca());
    for (name, until_year, is_ca, trusted, expected) in [
        ("idp.test", 2100, ca(), None, None),
        ("idp.test", 2100, rcgen::IsCa::ExplicitNoCa, None, None),
        (
            "other.test",
            2100,
            ca(),
            None,
            Some("must be among the certificate's names"),
        ),
        (
            "idp.test",
            2001,
            ca(),
            None,
            Some("the server needs a new certificate"),
        ),
        // Same names, another key.
        (
            "idp.test",
            2100,
            ca(),
            Some(another),
            Some("no TLS connection"),
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (config, own) = self_signed(name, until_year, is_ca);
        std::fs::write(folder.path().join("ca.pem"), trusted.unwrap_or(own)).unwrap();
        let server = Server::tls(config, OK).await;
        let origin = server.origin_as("idp.test");
        let outcome = send(&fixture(folder.path(), vec![origin.clone()]), &origin).await;
        match (outcome, expected) {
            (Ok(response), None) => assert_eq!(response.status, 200),
            (Err(failure), Some(part)) => assert!(failure.message.contains(part), "{failure}"),
            (outcome, _) => panic!("{name} {until_year}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn no_common_version_is_not_taken_for_a_missing_client_certificate() {
    let folder = tempfile::tempdir().unwrap();
    Authority::new().write(&folder.path().join("ca.pem"));
    // handshake_failure, protocol_version, certificate_required.
    for (alert, expected, not) in [
        (40, "no cipher suite in common", "client certificate"),
        (
            70,
            "no protocol version or cipher suite in common",
            "client certificate",
        ),
        (116, "asks for a client certificate", "in common"),
    ] {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(&[21, 3, 3, 0, 2, 2, alert]).await;
            }
        });
        let origin = Origin::parse(&format!("https://idp.test:{port}")).unwrap();
        let outcome = send(&fixture(folder.path(), vec![origin.clone()]), &origin).await;
        assert_eq!(code(&outcome), "http.tls");
        let message = outcome.unwrap_err().message;
        assert!(
            message.contains(expected) && !message.contains(not),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_pem_that_cannot_be_used_is_named_by_block_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let good = Authority::new().certificate.pem();
    let lines = good.lines().count();
    let origin = Origin::parse("https://idp.test").unwrap();
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let block = |label: &str, body: &str| {
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    };
    for (content, expected) in [
        (
            format!("# comment\n{good}{}", block("CERTIFICATE", "AAAA")),
            format!("block 2 (CERTIFICATE, line {}) is no certificate that can be used", lines + 2),
        ),
        (
            format!("{good}{}", block("CERTIFICATE", "!!!!")),
            format!("block 2 (CERTIFICATE, line {}) is damaged: what stands in it is not base64", lines + 1),
        ),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n".to_owned(),
            "block 1 (CERTIFICATE, line 1) is damaged: its END line is missing".to_owned(),
        ),
        (
            block("TRUSTED CERTIFICATE", "AAAA"),
            "block 1 (TRUSTED CERTIFICATE, line 1) cannot be used".to_owned(),
        ),
        (key.clone(), "it holds no certificate; a PEM file with BEGIN CERTIFICATE is needed; it holds block 1 (PRIVATE KEY, line 1)".to_owned()),
        (key.replace('\n', "\r"), "it holds no certificate; a PEM file with BEGIN CERTIFICATE is needed; it holds block 1 (PRIVATE KEY, line 1)".to_owned()),
        (key.replace('\n', " "), "it holds no certificate; a PEM file with BEGIN CERTIFICATE is needed; it holds block 1 (PRIVATE KEY, line 1)".to_owned()),
        (good.replace('\n', " "), "block 1 (CERTIFICATE, line 1) is damaged: it has no line ends".to_owned()),
        (good.replace('\n', r"\n"), r"block 1 (CERTIFICATE, line 1) is damaged: its line ends are written as `\n`".to_owned()),
        (
            format!("{}{}", good.trim_end(), block("CERTIFICATE", "AAAA")),
            format!("block 2 (CERTIFICATE, line {lines}) is no certificate that can be used"),
        ),
        (good.encode_utf16().flat_map(u16::to_le_bytes).map(char::from).collect(), "it is UTF-16 text".to_owned()),
    ] {
        std::fs::write(&file, &content).unwrap();
        let outcome = send(&fixture(folder.path(), vec![origin.clone()]), &origin).await;
        assert_eq!(code(&outcome), "tls.ca-file", "{content}");
        let message = outcome.unwrap_err().message;
        assert!(message.contains(&expected), "{expected}: {message}");
        let inner = key.lines().nth(1).unwrap();
        assert!(!message.contains(inner), "{message}");
    }
    // A byte order mark and line ends around it are ignored.
    let authority = Authority::new();
    let server = Server::tls(authority.serves("idp.test", 2100), OK).await;
    let origin = server.origin_as("idp.test");
    let windows = format!(
        "\u{feff}{}",
        authority.certificate.pem().replace('\n', "\r\n")
    );
    let joined = format!("{}{}", good.trim_end(), authority.certificate.pem());
    for content in [windows, joined] {
        std::fs::write(&file, content).unwrap();
        let outcome = send(&fixture(folder.path(), vec![origin.clone()]), &origin).await;
        assert_eq!(outcome.unwrap().status, 200);
    }
}

#[tokio::test]
async fn plain_http_behind_an_https_url_is_a_tls_failure() {
    let folder = tempfile::tempdir().unwrap();
    Authority::new().write(&folder.path().join("ca.pem"));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let origin = Origin::parse(&format!("https://idp.test:{port}")).unwrap();
    let outcome = send(&fixture(folder.path(), vec![origin.clone()]), &origin).await;
    assert_eq!(code(&outcome), "http.tls");
    let failure = outcome.unwrap_err();
    assert!(
        failure.message.ends_with("is that port for plain http?"),
        "{failure}"
    );
}

#[tokio::test]
async fn a_missing_ca_file_is_the_jobs_state_until_it_appears_and_a_new_one_counts_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let authority = Authority::new();
    let server = Server::tls(authority.serves("idp.test", 2100), OK).await;
    let origin = server.origin_as("idp.test");
    let fixture = fixture(folder.path(), vec![origin.clone()]);
    let host = fixture.host();
    let send = async || {
        let call = fixture.call_on(&host);
        call.send(get(format!("{origin}/"))).await
    };

    let outcome = send().await;
    assert_eq!(code(&outcome), "tls.ca-file");
    let failure = outcome.unwrap_err();
    assert_eq!(failure.kind, FailureKind::InvalidConfig);
    assert!(
        failure.message.contains("ca.pem: it does not exist"),
        "{failure}"
    );

    std::fs::write(&file, "not a certificate").unwrap();
    let outcome = send().await;
    assert_eq!(code(&outcome), "tls.ca-file");
    assert!(
        outcome
            .unwrap_err()
            .message
            .contains("it holds no certificate")
    );

    authority.write(&file);
    assert_eq!(send().await.unwrap().status, 200);

    Authority::new().write(&file);
    assert_eq!(code(&send().await), "http.tls");
}

#[tokio::test]
async fn the_client_certificate_goes_to_endpoints_only() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.write(&folder.path().join("ca.pem"));
    let server = Server::tls(authority.server("idp.test", 2100, true), OK).await;
    let origin = server.origin_as("idp.test");
    let (certificate, key) = authority.issue("client.test", 2100);
    std::fs::write(folder.path().join("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
    let mut fixture = fixture(folder.path(), vec![origin.clone()]);
    fixture.job.source.tls.cert_file = Some(folder.path().join("cert.pem"));
    fixture.job.source.tls.key_file = Some(folder.path().join("key.pem"));
    assert_eq!(send(&fixture, &origin).await.unwrap().status, 200);

    fixture.job.source.allow = std::mem::take(&mut fixture.endpoints);
    let outcome = send(&fixture, &origin).await;
    assert_eq!(code(&outcome), "http.tls");
    let failure = outcome.unwrap_err();
    assert!(
        failure.message.contains("set `source.tls.cert_file`"),
        "{failure}"
    );
}

#[tokio::test]
async fn client_certificates_that_cannot_be_used_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.write(&folder.path().join("ca.pem"));
    let origin = Origin::parse("https://idp.test").unwrap();
    let mut fixture = fixture(folder.path(), vec![origin.clone()]);
    let (certificate, key) = authority.issue("client.test", 2100);
    let (_, other_key) = authority.issue("client.test", 2100);
    let files = [
        ("cert.pem", certificate.pem()),
        ("key.pem", key.serialize_pem()),
        ("other.pem", other_key.serialize_pem()),
        ("empty.pem", String::new()),
    ];
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    for (cert_file, key_file, expected, part) in [
        (
            Some("missing.pem"),
            Some("key.pem"),
            "tls.cert-file",
            "it does not exist",
        ),
        (
            Some("empty.pem"),
            Some("key.pem"),
            "tls.cert-file",
            "no certificate",
        ),
        (
            Some("cert.pem"),
            Some("missing.pem"),
            "tls.key-file",
            "it does not exist",
        ),
        (
            Some("cert.pem"),
            Some("empty.pem"),
            "tls.key-file",
            "no private key",
        ),
        (
            Some("cert.pem"),
            Some("other.pem"),
            "tls.key-file",
            "it is not the key of",
        ),
        (Some("cert.pem"), None, "tls.key-file", "no private key"),
        (
            None,
            Some("key.pem"),
            "tls.cert-file",
            "name the certificate too",
        ),
    ] {
        fixture.job.source.tls.cert_file = cert_file.map(|name| folder.path().join(name));
        fixture.job.source.tls.key_file = key_file.map(|name| folder.path().join(name));
        let outcome = send(&fixture, &origin).await;
        assert_eq!(code(&outcome), expected, "{cert_file:?} {key_file:?}");
        let failure = outcome.unwrap_err();
        assert_eq!(failure.kind, FailureKind::InvalidConfig);
        assert!(failure.message.contains(part), "{part}: {failure}");
    }
}

#[tokio::test]
async fn what_came_before_a_wrong_record_is_read_also_if_both_came_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.write(&folder.path().join("ca.pem"));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(authority.serves("localhost", 2100)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    let origin = Origin::parse(&origin).unwrap();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        let (socket, session) = stream.get_mut();
        let body = r#"{"access_token":"abc","refresh_token":"def"}"#;
        let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}");
        session.writer().write_all(answer.as_bytes()).unwrap();
        let mut records = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut records).unwrap();
        }
        records.extend_from_slice(b"\x17\x03\x03\x00\x05wrong");
        socket.write_all(&records).await.unwrap();
    };
    let fixture = fixture(folder.path(), vec![origin.clone()]);
    let (outcome, ()) = tokio::join!(send(&fixture, &origin), server);
    assert!(outcome.unwrap().body.ends_with(b"\"def\"}"));
}

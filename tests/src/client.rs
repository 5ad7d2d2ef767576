//! A small HTTP client for tests: one request, one whole answer, every status an answer, no redirects followed.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use serde_json::Value;
use ureq::http::{HeaderMap, Request};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

/// Creating a realm takes Keycloak four seconds on two idle cores and has taken more than thirty on busy ones.
const TIMEOUT: Duration = Duration::from_secs(180);
/// Far above any real answer, so that only an endless one exceeds it.
const MAX_BODY_BYTES: u64 = 16 << 20;

/// The content type of [`form`].
pub(crate) const FORM: &str = "application/x-www-form-urlencoded";
/// The one crypto provider of the harness, the same as the host's.
pub(crate) static CRYPTO: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body, read to its end.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// When it is none; the message has status and body.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {self}"))
    }

    /// The body as JSON, if the status is a success.
    ///
    /// # Errors
    ///
    /// When the status is 300 or above or the body is not JSON.
    pub fn success(&self) -> Result<Value> {
        if self.status >= 300 {
            return Err(anyhow!("refused: {self}"));
        }
        if self.body.is_empty() {
            Ok(Value::Null)
        } else {
            self.json()
        }
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

/// The client; cheap to clone, keeps connections.
#[derive(Clone, Debug)]
pub struct Client {
    agent: ureq::Agent,
}

impl Client {
    /// Speaks http only.
    #[must_use]
    pub fn plain() -> Self {
        Self::with(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[])))
    }

    /// Trusts only the authorities in `ca_pem`.
    ///
    /// # Errors
    ///
    /// When `ca_pem` holds no certificate.
    pub fn trusting(ca_pem: &str) -> Result<Self> {
        Ok(Self::with(TlsConfig::builder().root_certs(
            RootCerts::new_with_certs(&certificates(ca_pem)?),
        )))
    }

    /// As [`Client::trusting`], with a client certificate.
    ///
    /// # Errors
    ///
    /// When one of the PEM texts does not hold what its name says.
    pub fn identified(ca_pem: &str, certificate_pem: &str, key_pem: &str) -> Result<Self> {
        let key =
            PrivateKey::from_pem(key_pem.as_bytes()).context("no private key in the PEM text")?;
        let identity = ClientCert::new_with_certs(&certificates(certificate_pem)?, key);
        let roots = RootCerts::new_with_certs(&certificates(ca_pem)?);
        Ok(Self::with(
            TlsConfig::builder()
                .root_certs(roots)
                .client_cert(Some(identity)),
        ))
    }

    fn with(tls: ureq::tls::TlsConfigBuilder) -> Self {
        let tls = tls
            .unversioned_rustls_crypto_provider(Arc::clone(&CRYPTO))
            .build();
        let agent = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // All servers are on this machine; a proxy from the environment must not be used.
            .proxy(None)
            .timeout_global(Some(TIMEOUT))
            .build()
            .new_agent();
        Self { agent }
    }

    /// Sends a request and reads the whole answer. An empty `body` sends none unless the method is one that has a body.
    ///
    /// # Errors
    ///
    /// When no whole answer came: connection, TLS, time, size.
    pub fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = if body.is_empty() && !matches!(method, "POST" | "PUT" | "PATCH") {
            self.agent.run(request.body(())?)
        } else {
            self.agent.run(
                self.agent
                    .configure_request(request.body(body)?)
                    .allow_non_standard_methods(true)
                    .build(),
            )
        };
        let (parts, mut body) = answer
            .with_context(|| format!("{method} {url} failed"))?
            .into_parts();
        let body = body.with_config().limit(MAX_BODY_BYTES).read_to_vec();
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.with_context(|| format!("the answer to {method} {url} broke off"))?,
        })
    }

    /// POSTs form fields.
    ///
    /// # Errors
    ///
    /// As [`Client::send`].
    pub fn post_form(&self, url: &str, fields: &[(&str, &str)]) -> Result<Answer> {
        self.send(
            "POST",
            url,
            &[("content-type", FORM)],
            form(fields).as_bytes(),
        )
    }
}

/// The fields as a form body.
pub(crate) fn form(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish()
}

fn certificates(pem: &str) -> Result<Vec<Certificate<'static>>> {
    let mut found = Vec::new();
    for item in parse_pem(pem.as_bytes()) {
        if let PemItem::Certificate(certificate) = item.context("bad PEM")? {
            found.push(certificate);
        }
    }
    anyhow::ensure!(!found.is_empty(), "no certificate in the PEM text");
    Ok(found)
}

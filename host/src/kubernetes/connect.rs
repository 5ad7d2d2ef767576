//! Set-up of the client: the cluster's address, our identity, and messages for when these are not found or the server is
//! unreachable.

use http::Uri;
use http::header::{HeaderValue, USER_AGENT};
use kube::client::AuthError;
use kube::config::KubeconfigError;
use rustls::CertificateError;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::call::ApiCall;
use super::credential::{self, CredentialError};
use super::kubeconfig::{self, NamedContext};
use super::pod::{self, HOST_VARIABLE};
use super::{CONNECT_TIMEOUT, REQUEST_TIMEOUT, proxy};
use crate::capability::http::find_cause;
use crate::model::failure::{Failure, FailureKind, HostCode, with_causes};

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The file that `KUBECONFIG` names.
    #[error("KUBECONFIG is set, but {0}")]
    Variable(String),
    /// This process runs in a Pod.
    #[error(
        "this is a Pod ({HOST_VARIABLE} is set), but {0}; let it mount its service account token"
    )]
    InCluster(String),
    /// No cluster is configured anywhere.
    #[error(
        "no Kubernetes API server is configured: KUBECONFIG is not set, this is not a Pod, and ~/.kube/config names none: {0}"
    )]
    Home(String),
    /// The configuration was read, but the client rejects it.
    #[error("the Kubernetes client cannot be made: {0}")]
    Client(String),
    /// The kubeconfig's credential command failed.
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::new(
            FailureKind::InvalidConfig,
            HostCode::KubernetesConfig,
            error.to_string(),
        )
    }
}

/// A cluster and our identity there. All files have been read.
pub(super) struct FoundCluster {
    pub(super) config: kube::Config,
    /// The context, if it came from a kubeconfig: a running process keeps it if the user switches to another one with `kubectl`.
    pub(super) context: Option<String>,
}

/// The cluster of the environment; of a kubeconfig the context `chosen`, if one has been.
pub(super) async fn from_environment(chosen: Option<String>) -> Result<FoundCluster, ConnectError> {
    let listed = kubeconfig::from_variable();
    if !listed.is_empty() {
        let named = kubeconfig::read(listed, chosen).await;
        return named.and_then(in_context).map_err(ConnectError::Variable);
    }
    if pod::is_here() {
        let config = pod::read().await;
        let config = config.and_then(|config| proxied(config, None));
        return config
            .map(|config| FoundCluster {
                config,
                context: None,
            })
            .map_err(ConnectError::InCluster);
    }
    let at_home = kubeconfig::at_home().into_iter().collect();
    let named = kubeconfig::read(at_home, chosen).await;
    named.and_then(in_context).map_err(ConnectError::Home)
}

fn in_context(named: NamedContext) -> Result<FoundCluster, String> {
    let NamedContext {
        context,
        config,
        proxy,
    } = named;
    Ok(FoundCluster {
        config: proxied(config, proxy)?,
        context: Some(context),
    })
}

/// With the proxy to the cluster: its own, or the environment's.
fn proxied(mut config: kube::Config, own: Option<Uri>) -> Result<kube::Config, String> {
    config.proxy_url = match own {
        Some(own) => Some(own),
        None => proxy::from_environment(&config.cluster_url)?,
    };
    Ok(config)
}

/// Digest of a configuration: equal if the clients would be equal.
pub(super) fn digest(config: &kube::Config) -> [u8; 32] {
    let server = config.cluster_url.to_string();
    let proxy = config.proxy_url.as_ref().map(ToString::to_string);
    let proxy = Zeroizing::new(proxy.unwrap_or_default());
    let user = Zeroizing::new(serde_json::to_vec(&config.auth_info).unwrap_or_default());
    let name = config.tls_server_name.as_deref().unwrap_or_default();
    let trusts_all = [u8::from(config.accept_invalid_certs)];
    let mut parts = vec![
        server.as_bytes(),
        proxy.as_bytes(),
        &user,
        name.as_bytes(),
        &trusts_all,
    ];
    parts.extend(config.root_cert.iter().flatten().map(Vec::as_slice));
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// A client with our user agent and timeouts, and when its credential expires. It does not retry, which is left to the scheduler.
pub(super) async fn client(
    mut config: kube::Config,
) -> Result<(kube::Client, Option<jiff::Timestamp>), ConnectError> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = None;
    config.write_timeout = Some(REQUEST_TIMEOUT);
    config.default_retry = false;
    config.headers.push((
        USER_AGENT,
        HeaderValue::from_static(concat!("evertoken/", env!("CARGO_PKG_VERSION"))),
    ));
    let expires = credential::fill_in(&mut config.auth_info).await?;
    // The remaining kinds of `auth-provider` may run a command here.
    let client = tokio::task::spawn_blocking(move || kube::Client::try_from(config))
        .await
        .map_err(|error| ConnectError::Client(error.to_string()))?
        .map_err(|error| ConnectError::Client(describe(&error)))?;
    Ok((client, expires))
}

/// An API server's address, for messages: without the `/` of an empty path.
pub(super) fn shown(server: &http::Uri) -> String {
    let server = server.to_string();
    server.strip_suffix('/').unwrap_or(&server).to_owned()
}

/// The failure of a request without an answer. `way`: the server and the proxy.
pub(super) fn unreachable(call: &ApiCall<'_>, way: &str, error: &kube::Error) -> Failure {
    let (kind, code) = match error {
        kube::Error::Auth(_) => (FailureKind::InvalidConfig, HostCode::KubernetesConfig),
        _ => (FailureKind::Unavailable, HostCode::KubernetesUnreachable),
    };
    let message = format!("cannot {call}{way}: {}", describe(error));
    Failure::new(kind, code, message)
}

/// Without the parser's message, which quotes the kubeconfig and thus credentials.
pub(super) fn describe_kubeconfig(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(_) => "the file is not a kubeconfig (malformed YAML)".to_owned(),
        other => other.to_string(),
    }
}

/// The error and its causes.
fn describe(error: &kube::Error) -> String {
    match error {
        // The message contains what a command printed.
        kube::Error::Auth(
            AuthError::AuthExec(_)
            | AuthError::AuthExecStart(_)
            | AuthError::AuthExecRun { .. }
            | AuthError::AuthExecParse(_)
            | AuthError::ParseTokenKey(_),
        ) => "the kubeconfig's `auth-provider` gives no credential that can be used; Kubernetes itself has given these up: name a credential command under `exec` instead".to_owned(),
        kube::Error::InferKubeconfig(error) => describe_kubeconfig(error),
        // The library's message for a request says nothing.
        kube::Error::Service(error) => match find_cause(error.as_ref()) {
            Some(rustls::Error::InvalidCertificate(why)) => {
                refused_certificate(why).map_or_else(|| with_causes(error.as_ref()), str::to_owned)
            }
            _ => with_causes(error.as_ref()),
        },
        other => with_causes(other),
    }
}

/// The usual reason for rejecting an API server's certificate, and its correction. The library prints it as code.
const fn refused_certificate(why: &CertificateError) -> Option<&'static str> {
    Some(match why {
        // An authority that was recreated under its old name shows as a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the API server's certificate is not signed by the cluster's authority; correct `certificate-authority` in the kubeconfig, or ask whether it is the API server that answers"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the API server's certificate is for another name; correct the cluster's `server` in the kubeconfig, or set its `tls-server-name`"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the API server's certificate has expired; it needs a new one, or this machine's clock is wrong"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the API server's certificate is not valid yet; this machine's clock is wrong, or the server's"
        }
        _ => return None,
    })
}

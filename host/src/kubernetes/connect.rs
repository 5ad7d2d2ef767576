//! Client set-up: where the cluster is, who we are, and what to say when that cannot be found out or the server not be reached.
//! Token files are read again by the client at least once a minute, CA bundles of Pods too.

use std::error::Error as _;
use std::fmt::Write as _;

use http::header::{HeaderValue, USER_AGENT};
use kube::client::AuthError;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

use super::call::Call;
use super::{CONNECT_TIMEOUT, REQUEST_TIMEOUT, kubeconfig, proxy};
use crate::failure::{Failure, FailureKind};

/// The Pod's variable for the API server's address; set in every Pod.
pub(super) const IN_CLUSTER_VARIABLE: &str = "KUBERNETES_SERVICE_HOST";

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The file that `KUBECONFIG` names.
    #[error("KUBECONFIG is set, but {0}")]
    Variable(String),
    /// We are in a Pod.
    #[error(
        "this is a Pod ({IN_CLUSTER_VARIABLE} is set), but {0}; let it mount its service account token"
    )]
    InCluster(String),
    /// The last place to look.
    #[error(
        "no Kubernetes API server is configured: KUBECONFIG is not set, this is not a Pod, and in ~/.kube/config {0}"
    )]
    Home(String),
    /// The configuration was read, but no client can be made of it.
    #[error("the Kubernetes client cannot be made: {0}")]
    Client(String),
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::new(
            FailureKind::InvalidConfig,
            "kubernetes.config",
            error.to_string(),
        )
    }
}

/// A client for the cluster that the environment names.
pub(super) async fn from_environment() -> Result<kube::Client, ConnectError> {
    let listed = kubeconfig::from_variable();
    let config = if !listed.is_empty() {
        let read = kubeconfig::read(listed).await;
        let kubeconfig = read.map_err(ConnectError::Variable)?;
        named_by(kubeconfig).await.map_err(ConnectError::Variable)?
    } else if std::env::var_os(IN_CLUSTER_VARIABLE).is_some() {
        let looked = kubeconfig::look_at_pod().await;
        looked.map_err(ConnectError::InCluster)?;
        let mut config = kube::Config::incluster()
            .map_err(|error| ConnectError::InCluster(error.to_string()))?;
        let proxy = proxy::from_environment(&config.cluster_url);
        config.proxy_url = proxy.map_err(ConnectError::InCluster)?;
        config
    } else {
        let read = kubeconfig::read(kubeconfig::at_home().into_iter().collect()).await;
        let kubeconfig = read.map_err(ConnectError::Home)?;
        named_by(kubeconfig).await.map_err(ConnectError::Home)?
    };
    from_config(config).await
}

/// The cluster of a kubeconfig's current context. The library would ask `NO_PROXY` about the proxy instead of the API server.
async fn named_by(kubeconfig: Kubeconfig) -> Result<kube::Config, String> {
    let own_proxy = kubeconfig::proxy_url(&kubeconfig);
    let own_proxy = own_proxy.as_deref().map(proxy::parse).transpose()?;
    let options = KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|error| describe_kubeconfig(&error))?;
    config.proxy_url = match own_proxy {
        Some(own) => Some(own),
        None => proxy::from_environment(&config.cluster_url)?,
    };
    Ok(config)
}

/// A client with our user agent and time limits. Retries are the scheduler's, which knows what a retry is worth.
pub(super) async fn from_config(mut config: kube::Config) -> Result<kube::Client, ConnectError> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = None;
    config.write_timeout = Some(REQUEST_TIMEOUT);
    config.default_retry = false;
    config.headers.push((
        USER_AGENT,
        HeaderValue::from_static(concat!("evertoken/", env!("CARGO_PKG_VERSION"))),
    ));
    // A kubeconfig may name a command that prints a token; it runs here.
    tokio::task::spawn_blocking(move || kube::Client::try_from(config))
        .await
        .map_err(|error| ConnectError::Client(error.to_string()))?
        .map_err(|error| ConnectError::Client(describe(&error)))
}

/// Whether the client's certificate, if a command printed one, is still good.
pub(super) fn is_valid(client: &kube::Client) -> bool {
    client
        .valid_until()
        .is_none_or(|until| jiff::Timestamp::now() < until)
}

/// The request got no answer.
pub(super) fn unreachable(call: &Call<'_>, error: &kube::Error) -> Failure {
    let (kind, code) = match error {
        kube::Error::Auth(_) => (FailureKind::InvalidConfig, "kubernetes.config"),
        _ => (FailureKind::Unavailable, "kubernetes.unreachable"),
    };
    Failure::new(kind, code, format!("cannot {call}: {}", describe(error)))
}

/// A kubeconfig holds credentials, and a parser's message quotes it.
pub(super) fn describe_kubeconfig(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(_) => "the file is not a kubeconfig (malformed YAML)".to_owned(),
        // The kubeconfig's own one was looked at before.
        KubeconfigError::ParseProxyUrl(_) => {
            format!("`HTTPS_PROXY` or `https_proxy` {}", proxy::NO_URL)
        }
        KubeconfigError::ParseNoProxy(error) => format!(
            "NO_PROXY has an entry that is neither a host nor an address nor a network: {error}; remove it, and doubled commas"
        ),
        other => other.to_string(),
    }
}

/// The error and its causes, without what a credential command printed.
fn describe(error: &kube::Error) -> String {
    match error {
        // The command comes with its environment, which is a place for credentials too.
        kube::Error::Auth(AuthError::AuthExecRun { out, .. }) => {
            format!(
                "the kubeconfig's credential command failed with {}",
                out.status
            )
        }
        kube::Error::Auth(AuthError::AuthExecParse(_) | AuthError::ParseTokenKey(_)) => {
            "the kubeconfig's credential command printed something else than a credential"
                .to_owned()
        }
        kube::Error::InferKubeconfig(error) => describe_kubeconfig(error),
        other => with_causes(other),
    }
}

fn with_causes(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        // Many errors of the network stack repeat their cause's words in their own.
        if !text.contains(&message) {
            let _ = write!(text, ": {message}");
        }
        cause = error.source();
    }
    text
}

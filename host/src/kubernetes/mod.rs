//! A small Kubernetes client: single requests for Secrets, Leases, Events, TokenRequests and access reviews, no discovery, no caches; and a
//! watch of Secrets' metadata (`watch`). It connects on first need, so that a process that needs nothing of a cluster never looks for
//! one, and again after a failure. Bodies contain secrets, so requests are sent raw: the library's typed calls log answers that they
//! cannot parse.

mod access;
mod call;
mod connect;
mod credential;
mod kubeconfig;
mod pod;
mod provider;
mod proxy;
mod refusal;
mod token;
pub(crate) mod watch;

use std::collections::BTreeMap;
use std::sync::{OnceLock, PoisonError};
use std::time::Duration;

use http::{Method, header};
use kube::client::Body;
use secrecy::SecretSlice;
use serde::Deserialize;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;
use zeroize::Zeroizing;

pub(crate) use self::call::{ApiAnswer, ApiCall, Verb, WipedText};
pub(crate) use self::refusal::ApiError;
pub use self::token::ServiceAccountToken;

use crate::capability::http::read_date;
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::model::time::{Clock as _, SystemClock, Timestamp};
use crate::refresh::clock;

/// The timeout of one request, connection and answer included. The API server itself aborts a request after 60 s; one that takes
/// half of that is overloaded, and the output is tried again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The timeout of the TCP and TLS handshakes: within a cluster they take milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests in flight. The API server's default limit for mutating requests is 200 for all its clients
/// (`--max-mutating-requests-inflight`); one client should take at most a third of it.
const REQUESTS_IN_FLIGHT: usize = 64;

/// How often the files are read again: tokens of Pods and authorities are renewed long before they expire.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The timeout of that; after it the former content is used.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the cluster's address and our identity come from.
enum ConnectionSource {
    /// `KUBECONFIG`, then the Pod's own, then `~/.kube/config`.
    Environment,
    /// Passed in by the caller.
    Config(Box<kube::Config>),
}

/// A client, and what it was made from.
#[derive(Clone)]
struct Connected {
    client: kube::Client,
    /// When its credential expires.
    expires: Option<jiff::Timestamp>,
    made_of: [u8; 32],
    looked: Instant,
    /// The server and proxy, for messages.
    way: String,
}

/// Access to one Kubernetes API server.
pub struct Kubernetes {
    connection: ConnectionSource,
    /// The kubeconfig's context, once it has been read.
    context: OnceLock<String>,
    client: Mutex<Option<Connected>>,
    /// How far the API server's clock is ahead of ours, by its last answer.
    ahead_ms: std::sync::Mutex<Option<i64>>,
    own_writes: std::sync::Mutex<watch::OwnWrites>,
    in_flight: Semaphore,
    request_timeout: Duration,
    look_again: Duration,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kubernetes")
    }
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self::new()
    }
}

impl Kubernetes {
    /// The cluster of the environment: `KUBECONFIG`, else the Pod's service account, else `~/.kube/config`. Nothing is read
    /// before the first request.
    #[must_use]
    pub fn new() -> Self {
        Self::over(ConnectionSource::Environment)
    }

    /// A cluster with a given configuration.
    #[must_use]
    pub fn with_config(config: kube::Config) -> Self {
        Self::over(ConnectionSource::Config(Box::new(config)))
    }

    fn over(connection: ConnectionSource) -> Self {
        Self {
            connection,
            context: OnceLock::new(),
            client: Mutex::new(None),
            ahead_ms: std::sync::Mutex::default(),
            own_writes: std::sync::Mutex::default(),
            in_flight: Semaphore::new(REQUESTS_IN_FLIGHT),
            request_timeout: REQUEST_TIMEOUT,
            look_again: LOOK_AGAIN,
        }
    }

    /// The value of one key of a Secret: one GET.
    ///
    /// # Errors
    /// `kubernetes.not-found` when Secret or key are missing; what the API server refuses, with the verb to grant.
    pub async fn secret_key(
        &self,
        namespace: &str,
        name: &str,
        key: &str,
    ) -> Result<SecretSlice<u8>, Failure> {
        #[derive(Deserialize)]
        struct SecretData {
            #[serde(default)]
            data: BTreeMap<String, WipedText>,
        }
        let call = ApiCall::secret(Verb::Get, namespace, name);
        let answer = self.send(&call).await?;
        let secret: SecretData = answer.parse(&call)?;
        let Some(value) = secret.data.get(key) else {
            let present: Vec<&str> = secret.data.keys().map(String::as_str).collect();
            return Err(Failure::new(
                FailureKind::InvalidConfig,
                HostCode::KubernetesNotFound,
                format!(
                    "secret {namespace}/{name} has no key `{key}`; it has: {}",
                    present.join(", ")
                ),
            ));
        };
        value
            .decode()
            .ok_or_else(|| call.malformed("a value of `data` is not base64"))
    }

    /// How many milliseconds the API server's clock is ahead of this machine's, by its last answer; none: it has not answered.
    #[must_use]
    pub fn ahead_ms(&self) -> Option<i64> {
        *self.ahead_ms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one request and returns the answer if it is successful.
    pub(crate) async fn send(&self, call: &ApiCall<'_>) -> Result<ApiAnswer, ApiError> {
        let _permit = self.in_flight.acquire().await.map_err(|_| {
            Failure::new(
                FailureKind::Unavailable,
                HostCode::KubernetesUnreachable,
                "the Kubernetes client has been closed",
            )
        })?;
        let late = |way: &str, what: &str, limit: Duration| {
            let message = format!("cannot {call}{way}: {what} within {} s", limit.as_secs());
            Failure::new(
                FailureKind::Unavailable,
                HostCode::KubernetesTimeout,
                message,
            )
        };
        // At a terminal, a credential command may wait for the user to log in.
        let limit = self.request_timeout.max(credential::patience());
        let connected = tokio::time::timeout(limit, self.client()).await;
        let connected = connected.map_err(|_| {
            let what = "who it is sent to and as whom was not found out";
            late("", what, limit)
        })??;
        let limit = self.request_timeout;
        let answered = tokio::time::timeout(limit, self.exchange(call, &connected)).await;
        let what = "no answer from the API server";
        answered.unwrap_or_else(|_| Err(late(&connected.way, what, limit).into()))
    }

    async fn exchange(
        &self,
        call: &ApiCall<'_>,
        connected: &Connected,
    ) -> Result<ApiAnswer, ApiError> {
        let Connected { client, way, .. } = connected;
        let sent_at = SystemClock.now().wall;
        let response = client
            .send(call.request()?)
            .await
            .map_err(|error| connect::unreachable(call, way, &error))?;
        if let Some(date) = date(response.headers()) {
            let ahead = clock::ahead_ms(sent_at, SystemClock.now().wall, date);
            *self.ahead_ms.lock().unwrap_or_else(PoisonError::into_inner) = Some(ahead);
        }
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let body = response
            .into_body()
            .collect_bytes()
            .await
            .map_err(|error| connect::unreachable(call, way, &error))?;
        let body = Zeroizing::new(Vec::from(body));
        if status.is_success() {
            return Ok(ApiAnswer { body });
        }
        if status == http::StatusCode::UNAUTHORIZED {
            // A kubeconfig may contain a newer credential by now.
            *self.client.lock().await = None;
        }
        Err(refusal::refusal(call, status, retry_after, &body))
    }

    /// The client, made anew if there is none, its credential expires, or the files have changed.
    async fn client(&self) -> Result<Connected, Failure> {
        let mut current = self.client.lock().await;
        let valid = current
            .as_mut()
            .filter(|held| credential::is_valid(held.expires));
        let Some(held) = valid else {
            let made = make(self.configuration().await?).await?;
            *current = Some(made.clone());
            return Ok(made);
        };
        if held.looked.elapsed() < self.look_again {
            return Ok(held.clone());
        }
        held.looked = Instant::now();
        let held = held.clone();
        // Other requests go on with the current client.
        drop(current);
        let look = tokio::time::timeout(LOOK_TIMEOUT, self.configuration());
        let Ok(Ok(config)) = look.await else {
            return Ok(held);
        };
        if connect::digest(&config) == held.made_of {
            return Ok(held);
        }
        let made = make(config).await?;
        *self.client.lock().await = Some(made.clone());
        Ok(made)
    }

    async fn configuration(&self) -> Result<kube::Config, Failure> {
        match &self.connection {
            ConnectionSource::Environment => {
                let found = connect::from_environment(self.context.get().cloned()).await?;
                if let Some(context) = found.context {
                    // A concurrent request may have set it to the same value.
                    let _ = self.context.set(context);
                }
                Ok(found.config)
            }
            ConnectionSource::Config(config) => Ok(config.as_ref().clone()),
        }
    }
}

async fn make(config: kube::Config) -> Result<Connected, Failure> {
    let made_of = connect::digest(&config);
    let way = format!(
        " at {}{}",
        connect::shown(&config.cluster_url),
        proxy::way(config.proxy_url.as_ref())
    );
    let (client, expires) = connect::client(config).await?;
    Ok(Connected {
        client,
        expires,
        made_of,
        looked: Instant::now(),
        way,
    })
}

fn date(headers: &http::HeaderMap) -> Option<Timestamp> {
    read_date(headers.get(header::DATE)?.to_str().ok()?)
}

fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    // The API server only sends seconds.
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    seconds.parse().ok().map(Duration::from_secs)
}

/// RFC 3339 as Kubernetes writes times.
fn parse_time(text: &str) -> Option<Timestamp> {
    let at: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok().map(Timestamp)
}

impl Verb {
    const fn method(self) -> Method {
        match self {
            Self::Get | Self::List => Method::GET,
            Self::Create => Method::POST,
            Self::Update => Method::PUT,
            Self::Patch => Method::PATCH,
            Self::Delete => Method::DELETE,
        }
    }
}

fn body(bytes: &[u8]) -> Body {
    Body::from(bytes.to_vec())
}

#[cfg(test)]
mod tests;

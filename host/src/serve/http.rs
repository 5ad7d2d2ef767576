//! `/livez`, `/readyz` and `/metrics`, and nothing else. They are about the process: one job's dead issuer must not restart all.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::runner::Handle;
use crate::runner::metrics::Metrics;

/// Connections at once: kubelet and a few scrapers need a handful. More wait in the kernel's queue.
const CONNECTIONS: usize = 32;

/// How long a client may take to send a request's head, also between two requests: longer than any scrape interval's jitter
/// needs, short enough that idle clients give their places back.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a connection may last, so that a client that reads a byte at a time does not keep its place.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(600);

/// How long the runner may take to say where the jobs stand. It answers between two things that it does, so this is a stuck one.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);

/// After a failure to accept (no file descriptors left): long enough not to spin, short enough for a probe to succeed later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The content type that Prometheus negotiates for OpenMetrics text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The address cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve probes and metrics at {address} (`serve.address`)")]
pub struct BindError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Whether the process has what it needs: configuration loaded, store open, not stopping.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// From now on `/readyz` says so.
    pub fn ready(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A server whose address is taken.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

/// Takes the address, so that a mistake in it is known before anything starts.
///
/// # Errors
/// It is in use, or not ours.
pub async fn bind(address: SocketAddr) -> Result<Server, BindError> {
    let listener = TcpListener::bind(address).await.map_err(|source| BindError { address, source })?;
    Ok(Server { listener })
}

#[derive(Clone)]
struct Shared {
    readiness: Readiness,
    handle: Handle,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Server {
    /// Answers until `stop`.
    pub async fn run(self, readiness: Readiness, handle: Handle, metrics: Arc<Metrics>, stop: CancellationToken) {
        let shared = Shared { readiness, handle, metrics, stop: stop.clone() };
        let router = Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics_text))
            .with_state(shared);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = accept(&self.listener, &places) => accepted,
            };
            match accepted {
                Ok((stream, place)) => drop(tokio::spawn(connection(stream, router.clone(), place))),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to probes and metrics");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

async fn connection(stream: TcpStream, router: Router, _place: OwnedSemaphorePermit) {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // How a client's connection ends is the client's matter.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serving).await;
}

async fn livez() -> &'static str {
    "ok"
}

async fn readyz(State(shared): State<Shared>) -> Response {
    if shared.stop.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping").into_response()
    } else if shared.readiness.is_ready() {
        "ok".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting").into_response()
    }
}

async fn metrics_text(State(shared): State<Shared>) -> Response {
    let snapshot = tokio::time::timeout(SNAPSHOT_TIMEOUT, shared.handle.status(Vec::new())).await;
    let text = match snapshot {
        Ok(Ok(snapshot)) => shared.metrics.encode(snapshot).ok(),
        Ok(Err(_)) | Err(_) => None,
    };
    match text {
        Some(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the jobs' state cannot be had").into_response(),
    }
}

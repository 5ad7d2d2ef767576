//! `/livez`, `/readyz` and `/metrics`, for kubelet and Prometheus. Readiness is about the process: a job that fails is no
//! reason to restart it or to take it out of service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::runner::Handle;
use crate::runner::metrics::{self, Metrics};

/// Connections at once; kubelet and a few Prometheus servers need a handful. Further ones wait in the kernel's queue.
const CONNECTIONS: usize = 64;

/// From the first byte of a request to the end of its head, also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The whole of a connection: whoever reads too slowly, or keeps it for long, connects again.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);

/// Bytes of a request's head. Nobody asks for much here.
const HEAD_BYTES: usize = 16 * 1024;

/// For the runner to say where its jobs stand; Prometheus waits as long by default.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// After accepting failed, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// The configuration is not loaded, or the state store not open, yet.
    Starting,
    /// It does its work.
    Ready,
    /// It was told to stop.
    Stopping,
}

/// The phase, as the process sets it and the probe reads it. Clones are the same.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<AtomicU8>);

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(AtomicU8::new(Phase::Starting as u8)))
    }
}

impl Readiness {
    /// The process is now in this phase.
    pub fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    fn get(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Stopping,
        }
    }
}

/// Probes cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (serve.address)")]
pub struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}

/// What the endpoints show.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The process's phase.
    pub readiness: Readiness,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where the jobs' rows come from.
    pub runner: Handle,
}

/// A bound address that is not served yet.
#[derive(Debug)]
pub struct Probes {
    listener: TcpListener,
    address: SocketAddr,
}

impl Probes {
    /// Binds `address`; to be done before anything is started.
    ///
    /// # Errors
    ///
    /// The address is in use, not this machine's, or not permitted.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let named = |source| BindError { address, source };
        let listener = TcpListener::bind(address).await.map_err(named)?;
        let address = listener.local_addr().map_err(named)?;
        Ok(Self { listener, address })
    }

    /// The address, with the port that was chosen if 0 was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`.
    pub async fn serve(self, shown: Shown, stop: CancellationToken) {
        let router = Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/metrics", get(scrape))
            .with_state(shown);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let connection = connection(stream, router.clone(), place, stop.clone());
                        tokio::spawn(connection);
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept a connection for probes");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    router: Router,
    _place: OwnedSemaphorePermit,
    stop: CancellationToken,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::select! {
        () = stop.cancelled() => {}
        end = tokio::time::timeout(CONNECTION_TIMEOUT, connection) => {
            if let Ok(Err(error)) = end {
                debug!(%error, "a connection for probes ended");
            }
        }
    }
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(shown): State<Shown>) -> (StatusCode, &'static str) {
    match shown.readiness.get() {
        Phase::Ready => (StatusCode::OK, "ok\n"),
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Phase::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
    }
}

type Scrape = (StatusCode, [(http::HeaderName, &'static str); 1], String);

async fn scrape(State(shown): State<Shown>) -> Scrape {
    let status = shown.runner.status(Vec::new());
    let text = match tokio::time::timeout(SCRAPE_TIMEOUT, status).await {
        Ok(Ok(snapshot)) => shown.metrics.encode(snapshot).map_err(|e| e.to_string()),
        Ok(Err(stopped)) => Err(stopped.to_string()),
        Err(_) => Err("the runner does not answer".to_owned()),
    };
    match text {
        Ok(text) => (
            StatusCode::OK,
            [(CONTENT_TYPE, metrics::CONTENT_TYPE)],
            text,
        ),
        Err(why) => (
            StatusCode::SERVICE_UNAVAILABLE,
            [(CONTENT_TYPE, "text/plain")],
            why + "\n",
        ),
    }
}

#[cfg(test)]
mod tests;

//! `/livez`, `/readyz` and `/metrics`, for kubelet and Prometheus. Readiness is about the process: a failing job is no reason to
//! restart it or to take it out of service.
//!
//! They are served by a thread of their own, so that probes are answered however busy the job threads are. [`Readiness::beat`] is
//! the heartbeat of the job threads.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::connections::{ConnectionPermit, Connections, affordable};
use crate::runner::Handle;
use crate::runner::metrics::{self, Metrics};

/// Concurrent connections; kubelet and a few Prometheus servers need a handful.
const CONNECTIONS: usize = 64;

/// The timeout for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout of a connection, which is one request: for the scrape, and twice as long again for a client that reads slowly.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a request's head. Nobody asks for much here.
const HEAD_BYTES: usize = 16 * 1024;

/// The timeout for the runner's snapshot; Prometheus waits as long by default.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after accepting failed, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The interval of the heartbeat.
const BEAT: Duration = Duration::from_secs(5);

/// Without a heartbeat for so long the job threads are stuck, and only a restart helps. On a busy machine they may be delayed by
/// a second.
const STUCK: Duration = Duration::from_secs(60);

/// The phase of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ProcessPhase {
    /// The configuration is not loaded, or the state store not open, yet.
    Starting,
    /// It is running.
    Ready,
    /// It was asked to stop.
    Stopping,
}

/// The phase and the heartbeat, set by the process and read by the probes. Clones share them.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Signs>);

#[derive(Debug)]
struct Signs {
    phase: AtomicU8,
    began: Instant,
    /// The time of the last heartbeat, in milliseconds since the start.
    last_beat: AtomicU64,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::since(Instant::now())
    }
}

impl Readiness {
    fn since(began: Instant) -> Self {
        Self(Arc::new(Signs {
            phase: AtomicU8::new(ProcessPhase::Starting as u8),
            began,
            last_beat: AtomicU64::new(0),
        }))
    }

    /// Sets the phase.
    pub fn set(&self, phase: ProcessPhase) {
        self.0.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn get(&self) -> ProcessPhase {
        match self.0.phase.load(Ordering::Relaxed) {
            0 => ProcessPhase::Starting,
            1 => ProcessPhase::Ready,
            _ => ProcessPhase::Stopping,
        }
    }

    /// Sends heartbeats while the threads run that this future is polled by.
    pub async fn beat(self) {
        let mut beats = tokio::time::interval(BEAT);
        loop {
            beats.tick().await;
            self.0.last_beat.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Whether there has been no heartbeat for long.
    fn is_stuck(&self) -> bool {
        let last = self.0.last_beat.load(Ordering::Relaxed);
        Duration::from_millis(self.now().saturating_sub(last)) > STUCK
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Probes cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (serve.address)")]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// The data of the endpoints.
#[derive(Debug, Clone)]
pub struct ProbeState {
    /// The process's phase.
    pub readiness: Readiness,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The source of the status of jobs, once the runner has started.
    pub runner: Arc<OnceLock<Handle>>,
}

/// A bound address that is not served yet.
#[derive(Debug)]
pub struct Probes {
    listener: StdListener,
    address: SocketAddr,
}

impl Probes {
    /// Binds `address`; to be done before anything is started.
    ///
    /// # Errors
    ///
    /// The address is in use, not this machine's, or not permitted.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let named = |source| BindError { address, source };
        let listener = StdListener::bind(address).map_err(named)?;
        listener.set_nonblocking(true).map_err(named)?;
        let address = listener.local_addr().map_err(named)?;
        Ok(Self { listener, address })
    }

    /// The address, with the port that was chosen if 0 was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves from a thread of its own until `stop`.
    ///
    /// # Errors
    ///
    /// The system cannot start a thread, or has no file descriptors for it.
    pub fn serve(self, shown: ProbeState, stop: CancellationToken) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .enable_all()
            .build()?;
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(self.listener)?
        };
        std::thread::Builder::new()
            .name("probes".to_owned())
            .spawn(move || runtime.block_on(serve(listener, shown, stop)))
            .map(drop)
    }
}

async fn serve(listener: TcpListener, shown: ProbeState, stop: CancellationToken) {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(Scraped {
            shown,
            turn: Arc::new(Semaphore::new(1)),
        });
    let connections = Connections::new(affordable(CONNECTIONS));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (router, stop) = (router.clone(), stop.clone());
                    connections.admit(|place| connection(stream, router, place, stop));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection for probes");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn connection(
    stream: TcpStream,
    router: Router,
    place: ConnectionPermit,
    stop: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let answer = service_fn(move |request| {
        place.asked();
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::select! {
        () = stop.cancelled() => {}
        end = tokio::time::timeout(CONNECTION_TIMEOUT, connection) => {
            if let Ok(Err(error)) = end {
                debug!(%error, "a connection for probes ended");
            }
        }
    }
}

/// The state that the endpoints share.
#[derive(Debug, Clone)]
struct Scraped {
    shown: ProbeState,
    /// Only one scrape at a time: each takes a row per job, and many at once would delay the probes.
    turn: Arc<Semaphore>,
}

async fn livez(State(Scraped { shown, .. }): State<Scraped>) -> (StatusCode, &'static str) {
    if shown.readiness.is_stuck() {
        (StatusCode::SERVICE_UNAVAILABLE, "stuck\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn readyz(State(Scraped { shown, .. }): State<Scraped>) -> (StatusCode, &'static str) {
    match shown.readiness.get() {
        ProcessPhase::Ready => (StatusCode::OK, "ok\n"),
        ProcessPhase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        ProcessPhase::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
    }
}

type Scrape = (StatusCode, [(http::HeaderName, &'static str); 1], String);

async fn scrape(State(scraped): State<Scraped>) -> Scrape {
    let text = tokio::time::timeout(SCRAPE_TIMEOUT, text_of_metrics(scraped)).await;
    match text.unwrap_or_else(|_| Err("the runner does not answer".to_owned())) {
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

async fn text_of_metrics(Scraped { shown, turn }: Scraped) -> Result<String, String> {
    let _turn = turn.acquire().await.map_err(|e| e.to_string())?;
    let runner = shown.runner.get().ok_or("starting")?;
    let snapshot = runner.status(Vec::new()).await;
    let snapshot = snapshot.map_err(|stopped| stopped.to_string())?;
    // Encoding ten thousand jobs takes some milliseconds, in which no probe would be answered.
    let encoding = tokio::task::spawn_blocking(move || shown.metrics.encode(snapshot));
    let text = encoding.await.map_err(|e| e.to_string())?;
    text.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;

//! What signals do: two end the process in order, the others that would end it by their default do no harm.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::stderr;

/// Cancels what it returns at the first SIGTERM or SIGINT; the second ends the process at once. SIGHUP, SIGUSR1 and SIGUSR2 are said and
/// do nothing else: they ask other programs to reload, to reopen a log or to show something, and nobody who sends one wants tokens to
/// die.
///
/// # Errors
/// The handlers cannot be installed.
pub(super) fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let terminate = signal(SignalKind::terminate())?;
    let interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(ignore(
        signal(SignalKind::hangup())?,
        signal(SignalKind::user_defined1())?,
        signal(SignalKind::user_defined2())?,
    ));
    let stop = CancellationToken::new();
    tokio::spawn(end(terminate, interrupt, stop.clone()));
    Ok(stop)
}

/// When a process was told to end.
#[derive(Debug)]
pub(super) struct Moment(Arc<OnceLock<Instant>>);

/// The moment in which `stop` is cancelled.
pub(super) fn moment_of(stop: CancellationToken) -> Moment {
    let moment: Arc<OnceLock<Instant>> = Arc::default();
    let known = Arc::clone(&moment);
    tokio::spawn(async move {
        stop.cancelled().await;
        known.get_or_init(Instant::now);
    });
    Moment(moment)
}

impl Moment {
    /// How long ago that was; nothing if it was not yet.
    pub(super) fn passed(&self) -> Duration {
        self.0.get().map_or(Duration::ZERO, Instant::elapsed)
    }
}

async fn end(mut terminate: Signal, mut interrupt: Signal, stop: CancellationToken) {
    for is_first in [true, false] {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        if is_first {
            tracing::info!(
                signal = name,
                "stopping; writes under way are finished first"
            );
            stop.cancel();
        } else {
            tracing::warn!(
                signal = name,
                "ending at once, as asked for again; what is under way is abandoned"
            );
        }
    }
    stderr::finish();
    std::process::exit(1);
}

async fn ignore(mut hangup: Signal, mut user1: Signal, mut user2: Signal) {
    loop {
        tokio::select! {
            _ = hangup.recv() => tracing::warn!(
                signal = "SIGHUP",
                "ignored: the configuration is not reloaded; a restart takes a changed one into use"
            ),
            _ = user1.recv() => tracing::warn!(signal = "SIGUSR1", "ignored"),
            _ = user2.recv() => tracing::warn!(signal = "SIGUSR2", "ignored"),
        }
    }
}

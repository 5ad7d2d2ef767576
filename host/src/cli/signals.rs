//! Signal handling: SIGTERM and SIGINT stop the process gracefully. Signals that ask other programs to reopen a log or to print something, or
//! come from a timer, would end the process by default; they are logged and ignored.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::stderr;

/// The log text for an ignored signal.
const IGNORED: &str = "ignored";

/// Signals that would end the process by default and are only logged. They ask other programs to reopen a log or to
/// print something, or come from a timer: none is meant to stop the refreshing of tokens.
const HARMLESS: [(Number, &str, &str); 7] = [
    (Number::USR1, "SIGUSR1", IGNORED),
    (Number::USR2, "SIGUSR2", IGNORED),
    (Number::ALARM, "SIGALRM", IGNORED),
    (Number::VTALARM, "SIGVTALRM", IGNORED),
    (Number::PROF, "SIGPROF", IGNORED),
    (Number::IO, "SIGIO", IGNORED),
    (Number::STKFLT, "SIGSTKFLT", IGNORED),
];

/// One request to stop may arrive as several signals: `timeout` and some inits signal a process and its group, a terminal and a
/// script each forward an interrupt.
const ONE_WISH: Duration = Duration::from_secs(1);

/// SIGHUP, which asks a process to read its configuration anew.
///
/// # Errors
/// The handler cannot be installed.
pub(super) fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Logs each SIGHUP, and `why` it is ignored.
///
/// # Errors
/// The handler cannot be installed.
pub(super) fn ignore_hangups(why: &'static str) -> std::io::Result<()> {
    tokio::spawn(ignore(hangups()?, "SIGHUP", why));
    Ok(())
}

/// Returns a token that is cancelled at the first SIGTERM or SIGINT; a further one after a second or more ends the process at
/// once. Ignored signals are logged.
///
/// # Errors
/// The handlers cannot be installed.
pub(super) fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let terminate = signal(SignalKind::terminate())?;
    let interrupt = signal(SignalKind::interrupt())?;
    for (number, name, said) in HARMLESS {
        let signal = signal(SignalKind::from_raw(number.as_raw()))?;
        tokio::spawn(ignore(signal, name, said));
    }
    let stop = CancellationToken::new();
    tokio::spawn(end(terminate, interrupt, stop.clone()));
    Ok(stop)
}

/// The time at which a process was asked to stop.
#[derive(Debug)]
pub(super) struct StopRequested(Arc<OnceLock<Instant>>);

/// Records when `stop` is cancelled.
pub(super) fn moment_of(stop: CancellationToken) -> StopRequested {
    let moment: Arc<OnceLock<Instant>> = Arc::default();
    let known = Arc::clone(&moment);
    tokio::spawn(async move {
        stop.cancelled().await;
        known.get_or_init(Instant::now);
    });
    StopRequested(moment)
}

impl StopRequested {
    /// The time since then; zero if it was not cancelled yet.
    pub(super) fn passed(&self) -> Duration {
        self.0.get().map_or(Duration::ZERO, Instant::elapsed)
    }
}

async fn end(mut terminate: Signal, mut interrupt: Signal, stop: CancellationToken) {
    let mut told = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let signal = told().await;
    tracing::info!(signal, "stopping; writes under way are finished first");
    stop.cancel();
    let first = Instant::now();
    let signal = loop {
        let signal = told().await;
        if first.elapsed() >= ONE_WISH {
            break signal;
        }
    };
    tracing::warn!(
        signal,
        "ending at once, as asked for again; what is under way is abandoned"
    );
    stderr::finish();
    std::process::exit(1);
}

async fn ignore(mut signal: Signal, name: &'static str, said: &'static str) {
    while signal.recv().await.is_some() {
        tracing::warn!(signal = name, "{said}");
    }
}

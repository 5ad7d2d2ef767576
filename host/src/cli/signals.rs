//! What signals do: two end the process in order, the others that would end it by their default do no harm.

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

//! Signals that end the process in order.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancels `stop` at the first SIGTERM or SIGINT; the second ends the process at once.
///
/// # Errors
/// The handlers cannot be installed.
pub(super) fn stop_on_signal(stop: &CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = stop.clone();
    tokio::spawn(async move {
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
            }
        }
        std::process::exit(1);
    });
    Ok(())
}

//! The async runtime of a command.

use rustix::fs::Mode;
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use super::Exit;
use crate::file;

/// Threads that run jobs. Their work is waiting for issuers; two keep one slow plugin call from holding up the rest.
const WORKERS: usize = 2;

/// Threads that look names up. One that no server answers for takes one for ten seconds and more, also when nobody waits for it any more: there
/// are twice as many as there are calls at a time, so that others find one.
const LOOKUP_THREADS: usize = 128;

/// Threads for what blocks. Beside those that hang on dead file systems there are some left for looking names up.
const BLOCKING_THREADS: usize = file::THREADS_MAX + LOOKUP_THREADS;

/// A file that may grow no more (`ulimit -f`, `LimitFSIZE=`) is an error of the write to it and not the end of the process. Once there is a
/// handler it stays for good.
fn take_file_limits_as_errors() -> std::io::Result<()> {
    signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).map(drop)
}

/// What evertoken makes for itself, like the state directory, it must be able to use whatever umask it was started with. Bits of group
/// and others stay as that has them.
fn leave_the_owner_its_bits() {
    let closed = Mode::RWXG | Mode::RWXO;
    let umask = rustix::process::umask(closed);
    rustix::process::umask(umask - Mode::RWXU);
}

/// Runs a command to its end; an error is shown and becomes an exit code.
pub(super) fn block_on(command: impl Future<Output = anyhow::Result<Exit>>) -> Exit {
    leave_the_owner_its_bits();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(async {
                take_file_limits_as_errors()?;
                command.await
            });
            // A thread that hangs on a dead disk must not keep the process.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(error.into()),
    };
    ended.unwrap_or_else(|error| {
        super::say(&format!("error: {error:#}"));
        Exit::Failure
    })
}

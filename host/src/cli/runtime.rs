//! The async runtime of a command.

use rustix::fs::Mode;
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use super::Exit;
use crate::file;

/// Threads that run jobs. Jobs mostly wait for issuers; with two, one slow plugin call does not hold up the rest.
const WORKERS: usize = 2;

/// Threads for name resolution. An unanswered lookup takes one for ten seconds and more, even after the caller gave up: there are
/// twice as many as there can be calls, so that others find one.
const LOOKUP_THREADS: usize = 128;

/// Threads for blocking work: those that may hang on file systems, and those for name resolution.
const BLOCKING_THREADS: usize = file::THREADS_MAX + LOOKUP_THREADS;

/// Makes writes beyond a file size limit (`ulimit -f`, `LimitFSIZE=`) fail with an error instead of ending the process. The
/// signal handler stays for good.
fn take_file_limits_as_errors() -> std::io::Result<()> {
    signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).map(drop)
}

/// Clears the owner's bits of the umask, since the process must be able to use what it creates, like the state directory. The
/// bits of group and others stay.
fn leave_the_owner_its_bits() {
    let closed = Mode::RWXG | Mode::RWXO;
    let umask = rustix::process::umask(closed);
    rustix::process::umask(umask - Mode::RWXU);
}

/// Runs a command to its end; an error is printed and becomes an exit code.
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
            // A thread that hangs on a file system must not keep the process from exiting.
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

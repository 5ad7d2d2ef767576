//! Work that takes a runtime's worker for as long as it lasts: other tasks of the process wait meanwhile. What is bounded in
//! milliseconds is done where it stands; the rest goes aside, and where many calls have such work, in turn.

use std::sync::LazyLock;
use std::thread::available_parallelism;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;

/// Work on this many bytes is done where it stands: the slowest of it (spelling secrets, reading JSON) does some 50 MB/s, which makes
/// it a millisecond.
const BYTES_AT_ONCE: usize = 64 << 10;

/// Turns at one time: a core is left to those who have little to do.
static TURNS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = available_parallelism().map_or(1, usize::from);
    Semaphore::new(cores.saturating_sub(1).max(1))
});

/// Does work whose time grows with `bytes`, and large work in turn: beside threads that all compute at once, the runtime's workers would
/// get as little of the processor as each of them.
pub async fn in_turn_if_large<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes > BYTES_AT_ONCE {
        in_turn(work).await
    } else {
        work()
    }
}

/// [`aside`], in turn.
pub async fn in_turn<T>(work: impl FnOnce() -> T) -> T {
    // Nobody closes it.
    let _turn = TURNS.acquire().await;
    aside(work)
}

/// Does work whose time grows with `bytes` so that no other task waits for it. For what has no turn to wait for, or has one already.
pub fn aside_if_large<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes > BYTES_AT_ONCE {
        aside(work)
    } else {
        work()
    }
}

/// Does work that takes milliseconds whatever it is given, e.g. a signature by a large key, so that no other task waits for it: another
/// thread takes over the worker. A runtime with one thread has none that could, nor has a thread without a runtime.
pub fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

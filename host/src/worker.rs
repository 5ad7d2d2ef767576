//! Work that takes a runtime's worker for as long as it lasts: other tasks of the process wait meanwhile. What is bounded in
//! milliseconds is done where it stands; the rest goes aside.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Work on this many bytes is done where it stands: the slowest of it (spelling secrets, reading JSON) does some 50 MB/s, which makes
/// it a millisecond.
const BYTES_AT_ONCE: usize = 64 << 10;

/// Does work whose time grows with `bytes` so that no other task waits for it.
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

//! Work that takes a runtime's worker for as long as it lasts: other tasks of the process wait meanwhile. What is bounded in
//! milliseconds is done where it stands; the rest goes aside, and where many calls have such work, in turn.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::ready;
use std::thread::available_parallelism;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;
use tokio_util::sync::PollSemaphore;

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

/// [`aside`], in turn. Where there are no other workers there is nobody to take turns with, but for other runtimes of the process, whose work
/// is none of this one's: a simulated clock would go on meanwhile.
pub async fn in_turn<T>(work: impl FnOnce() -> T) -> T {
    if !has_workers() {
        return work();
    }
    // Nobody closes it.
    let _turn = TURNS.acquire().await;
    aside(work)
}

fn has_workers() -> bool {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    matches!(flavor, Ok(RuntimeFlavor::MultiThread))
}

/// Turns of steps. Not those above: what waits for one of those in a step would never get it.
static STEPS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(1)));

/// Awaits what from some moment on may take long between two waits: then each such step is done aside, and one at a time.
pub async fn in_steps<F: Future>(work: F, are_long: impl Fn() -> bool) -> F::Output {
    let mut work = pin!(work);
    let mut turns = PollSemaphore::new(Arc::clone(&STEPS));
    poll_fn(|context| {
        if !are_long() || !has_workers() {
            return work.as_mut().poll(context);
        }
        let _turn = ready!(turns.poll_acquire(context));
        aside(|| work.as_mut().poll(context))
    })
    .await
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
    if has_workers() {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn however_many_have_large_work_a_core_is_left_and_small_work_does_not_wait() {
        static AT_ONCE: AtomicUsize = AtomicUsize::new(0);
        let cores = available_parallelism().map_or(1, usize::from);
        let mut large = JoinSet::new();
        for _ in 0..50 {
            large.spawn(in_turn_if_large(BYTES_AT_ONCE + 1, || {
                let at_once = AT_ONCE.fetch_add(1, Ordering::SeqCst) + 1;
                std::thread::sleep(Duration::from_millis(2));
                AT_ONCE.fetch_sub(1, Ordering::SeqCst);
                at_once
            }));
        }
        let done = in_turn_if_large(BYTES_AT_ONCE, || "small").await;
        assert_eq!((done, large.is_empty()), ("small", false));
        let most = large.join_all().await.into_iter().max();
        assert!(most < Some(cores.max(2)), "{most:?} of {cores} cores");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn long_steps_are_done_one_at_a_time_and_may_have_large_work_in_them() {
        static AT_ONCE: AtomicUsize = AtomicUsize::new(0);
        let step = || {
            assert_eq!(AT_ONCE.fetch_add(1, Ordering::SeqCst), 0);
            std::thread::sleep(Duration::from_millis(2));
            AT_ONCE.fetch_sub(1, Ordering::SeqCst);
        };
        let mut calls = JoinSet::new();
        for _ in 0..20 {
            let call = async move {
                step();
                in_turn(|| ()).await;
                tokio::task::yield_now().await;
                step();
            };
            calls.spawn(in_steps(call, || true));
        }
        let all = tokio::time::timeout(Duration::from_secs(60), calls.join_all());
        assert_eq!(all.await.map(|all| all.len()), Ok(20));
    }
}

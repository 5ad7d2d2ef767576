//! Offloading of CPU-heavy work, which would block a worker thread of the runtime and other tasks with it. Work of microseconds
//! runs inline; longer work runs on other threads, and one at a time if many calls have such work.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::ready;
use std::thread::available_parallelism;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;
use tokio_util::sync::PollSemaphore;

/// Work on this many bytes runs inline: the slowest kinds (encoding secrets, parsing JSON) process some 50 MB/s, which makes it a
/// millisecond.
const BYTES_AT_ONCE: usize = 64 << 10;

/// The number of concurrent turns, which leaves one core to tasks with little work.
static TURNS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = available_parallelism().map_or(1, usize::from);
    Semaphore::new(cores.saturating_sub(1).max(1))
});

/// Runs work whose duration grows with `bytes`, in turn if it is large: if many threads computed at once, the runtime's workers
/// would get as little processor time as each of them.
pub async fn in_turn_if_large<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes > BYTES_AT_ONCE {
        in_turn(work).await
    } else {
        work()
    }
}

/// [`aside`], in turn. A runtime without other workers takes no turns: it could only wait for other runtimes of the process, and
/// a simulated clock would go on meanwhile.
pub async fn in_turn<T>(work: impl FnOnce() -> T) -> T {
    if !has_workers() {
        return work();
    }
    // The semaphore is never closed.
    let _turn = TURNS.acquire().await;
    aside(work)
}

fn has_workers() -> bool {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    matches!(flavor, Ok(RuntimeFlavor::MultiThread))
}

/// The turns of steps, separate from those above: a step that waits for one of those would deadlock.
static STEPS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(1)));

/// Awaits a future whose steps may become long: from then on each step runs on another thread, and one at a time.
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

/// Runs work whose duration grows with `bytes` without blocking other tasks, for work that takes no turn, or has one already.
pub fn aside_if_large<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes > BYTES_AT_ONCE {
        aside(work)
    } else {
        work()
    }
}

/// Runs work that takes milliseconds, however small its input, e.g. a signature by a large key, without blocking other tasks:
/// another thread takes over the worker's tasks. That is not possible in a runtime with one thread, nor outside of a runtime.
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

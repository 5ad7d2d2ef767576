//! A connection limit for servers that any client may connect to: a new connection is always served. Above the limit, the
//! connection is closed that has waited longest for its client's request, and if all have made theirs, the oldest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, getrlimit};
use tokio::task::AbortHandle;

/// The part of the process's file descriptors that clients of one server may take, since jobs need them, too.
const SHARE: u64 = 8;

/// `wanted` connections, or as many as there are file descriptors for.
pub(super) fn affordable(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    let share = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit / SHARE).unwrap_or(usize::MAX)
    });
    wanted.min(share).max(1)
}

/// The open connections.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    bound: usize,
    open: Arc<Mutex<Open>>,
}

/// By number, so the oldest first.
#[derive(Debug, Default)]
struct Open {
    last: u64,
    unasked: BTreeMap<u64, AbortHandle>,
    asked: BTreeMap<u64, AbortHandle>,
}

impl Connections {
    /// Without connections; at most `bound`, which is at least 1.
    pub(super) fn new(bound: usize) -> Self {
        Self {
            bound,
            open: Arc::default(),
        }
    }

    /// Serves one more in a task of its own, which keeps its place until it ends.
    pub(super) fn admit<F>(&self, serve: impl FnOnce(ConnectionPermit) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut open = self.lock();
        let evicted = open.evict(self.bound);
        open.last += 1;
        let number = open.last;
        let place = ConnectionPermit {
            number,
            connections: self.clone(),
        };
        // A task that ends at once waits for the lock to free its place.
        let task = tokio::spawn(serve(place));
        open.unasked.insert(number, task.abort_handle());
        drop(open);
        if let Some(evicted) = evicted {
            evicted.abort();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn evict(&mut self, bound: usize) -> Option<AbortHandle> {
        if self.unasked.len() + self.asked.len() < bound {
            return None;
        }
        let oldest = self.unasked.pop_first().or_else(|| self.asked.pop_first());
        oldest.map(|(_, task)| task)
    }
}

/// A connection's place.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    number: u64,
    connections: Connections,
}

impl ConnectionPermit {
    /// Records that its client has made a request.
    pub(super) fn asked(&self) {
        let mut open = self.connections.lock();
        if let Some(task) = open.unasked.remove(&self.number) {
            open.asked.insert(self.number, task);
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        open.unasked.remove(&self.number);
        open.asked.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// A connection that lasts, and a channel that reports its end.
    fn lasting(connections: &Connections, has_asked: bool) -> oneshot::Receiver<()> {
        let (alive, gone) = oneshot::channel();
        connections.admit(|place| async move {
            if has_asked {
                place.asked();
            }
            let _alive: oneshot::Sender<()> = alive;
            std::future::pending().await
        });
        gone
    }

    async fn is_gone(connection: &mut oneshot::Receiver<()>) -> bool {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        connection.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[tokio::test]
    async fn above_the_bound_the_oldest_goes_that_has_asked_nothing_and_then_the_oldest() {
        let connections = Connections::new(3);
        let mut asked = lasting(&connections, true);
        let mut silent = lasting(&connections, false);
        let mut younger = lasting(&connections, false);
        tokio::task::yield_now().await;
        assert!(!is_gone(&mut asked).await && !is_gone(&mut silent).await);

        let mut newcomer = lasting(&connections, true);
        assert!(is_gone(&mut silent).await, "the oldest silent one goes");
        assert!(!is_gone(&mut younger).await && !is_gone(&mut asked).await);

        let _second = lasting(&connections, true);
        assert!(
            is_gone(&mut younger).await,
            "a silent one goes before any other"
        );
        assert!(!is_gone(&mut asked).await);

        let mut third = lasting(&connections, true);
        assert!(is_gone(&mut asked).await, "all have asked: the oldest goes");
        assert!(!is_gone(&mut newcomer).await && !is_gone(&mut third).await);
    }

    #[tokio::test]
    async fn whoever_ends_gives_its_place_back() {
        let connections = Connections::new(1);
        for _ in 0..10 {
            connections.admit(|place| async move { place.asked() });
        }
        let mut last = lasting(&connections, false);
        assert!(!is_gone(&mut last).await);
        let open = connections.lock();
        assert_eq!((open.unasked.len(), open.asked.len()), (1, 0));
    }
}

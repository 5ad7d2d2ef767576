//! A timer queue: one wake-up time per entry, so that thousands of jobs need one timer.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

/// Entries by the point on the boot clock at which they are to be woken.
#[derive(Debug)]
pub(super) struct WakeupQueue<K> {
    order: BTreeSet<(Duration, K)>,
    at: HashMap<K, Duration>,
}

impl<K: Copy + Ord + Hash> WakeupQueue<K> {
    pub(super) fn new() -> Self {
        Self {
            order: BTreeSet::new(),
            at: HashMap::new(),
        }
    }

    /// Sets when `sleeper` is to be woken, replacing its former time; none: not at all.
    pub(super) fn set(&mut self, sleeper: K, at: Option<Duration>) {
        if self.at.get(&sleeper).copied() == at {
            return;
        }
        if let Some(before) = self.at.remove(&sleeper) {
            self.order.remove(&(before, sleeper));
        }
        if let Some(at) = at {
            self.at.insert(sleeper, at);
            self.order.insert((at, sleeper));
        }
    }

    /// Removes and returns the entry whose time was first, if it has come.
    pub(super) fn pop(&mut self, now: Duration) -> Option<K> {
        let (at, sleeper) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.set(sleeper, None);
        Some(sleeper)
    }

    /// When the next entry is to be woken.
    pub(super) fn next(&self) -> Option<Duration> {
        self.order.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleepers_wake_in_the_order_of_their_time_and_only_once() {
        let s = Duration::from_secs;
        let mut queue = WakeupQueue::new();
        for (sleeper, at) in [('a', 3), ('b', 1), ('c', 2), ('d', 9)] {
            queue.set(sleeper, Some(s(at)));
        }
        queue.set('a', Some(s(1)));
        queue.set('c', None);
        queue.set('x', None);
        assert_eq!(queue.next(), Some(s(1)));
        assert_eq!(queue.pop(s(0)), None);
        assert_eq!(queue.pop(s(5)), Some('a'));
        assert_eq!(queue.pop(s(5)), Some('b'));
        assert_eq!(queue.pop(s(5)), None);
        assert_eq!(queue.next(), Some(s(9)));
    }
}

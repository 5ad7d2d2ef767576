//! What is asked before a job does something that others can see: whether its shard is certainly still ours at this moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// For each shard, until when it is certainly ours. Cheap to clone and to ask: nothing is locked.
///
/// What it allows may still take up to 5 s to arrive before another replica can begin (the rest of a Lease's 15 s after the 10 s that
/// it is good for its holder). A request that takes longer, or a process that is suspended between asking and doing, is not stopped
/// by it; what must not happen twice then needs a compare-and-swap where it happens, as the state store has.
#[derive(Debug, Clone)]
pub struct Fence {
    /// Nanoseconds since boot; 0: closed. No memory depends on the order of these.
    until: Arc<[AtomicU64]>,
}

impl Fence {
    pub(super) fn closed(shards: u32) -> Self {
        Self {
            until: (0..shards).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Whether the jobs of a shard may do something at this time since boot ([`crate::model::time::Reading::boot`], read just now). A
    /// machine or process that was suspended finds every fence closed at once: that clock went on.
    #[must_use]
    pub fn holds(&self, shard: u32, now_boot: Duration) -> bool {
        let index = usize::try_from(shard).ok();
        let until = index.and_then(|index| self.until.get(index));
        until.is_some_and(|until| nanos(now_boot) < until.load(Ordering::Acquire))
    }

    pub(super) fn set(&self, until: impl Iterator<Item = Duration>) {
        for (kept, until) in self.until.iter().zip(until) {
            kept.store(nanos(until), Ordering::Release);
        }
    }

    pub(super) fn close(&self) {
        self.set(std::iter::repeat(Duration::ZERO));
    }
}

/// Lasts for 584 years of uptime.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_open_until_its_time_and_nowhere_else() {
        let fence = Fence::closed(2);
        let seconds = Duration::from_secs;
        assert!(!fence.holds(0, Duration::ZERO));
        fence.set([seconds(10), Duration::ZERO].into_iter());
        let last = seconds(10) - Duration::from_nanos(1);
        for (shard, now, expected) in [
            (0, Duration::ZERO, true),
            (0, last, true),
            (0, seconds(10), false),
            (0, seconds(50), false),
            (1, Duration::ZERO, false),
            (2, Duration::ZERO, false),
            (u32::MAX, Duration::ZERO, false),
        ] {
            assert_eq!(fence.holds(shard, now), expected, "{shard} {now:?}");
        }
        fence.clone().close();
        assert!(!fence.holds(0, Duration::ZERO));
    }
}

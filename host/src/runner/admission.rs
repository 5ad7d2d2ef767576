//! Admission of work: work with the same concurrency key waits in one queue, each queue has its limit, and only the heads of
//! queues below theirs compete for the process-wide limit. A thousand jobs behind one hung issuer wait in its queue and delay no
//! others. The fewer places are free, the fewer a queue may have (dynamic thresholds, Choudhury and Hahne 1998): several hung
//! queues leave places too, and a queue without running work gets one. However many queues are slow, all together they leave
//! places to those that are known to be fast, which go first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::ports::ConcurrencyKey;
use crate::model::Limits;

/// A queue with several running pieces of work has at most this many times the free places, whatever its own limit, so that hung
/// work leaves places to the rest.
const PER_FREE_PLACE: usize = 3;

/// Work that held its place for longer makes its queue slow.
const SLOW: Duration = Duration::from_secs(2);

/// A queue stays slow for so many times the duration of that work.
const SLOW_FOR: u32 = 8;

/// The part of all places that queues may have together that are not known to be fast.
const SLOW_PART: (usize, usize) = (3, 4);

/// Limits on concurrent work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AdmissionBounds {
    /// In the whole process, at least 1.
    pub(super) all: usize,
    /// In one queue of work that uses more than this machine, at least 1.
    pub(super) per_key: usize,
}

impl From<&Limits> for AdmissionBounds {
    fn from(limits: &Limits) -> Self {
        Self {
            all: limits.concurrency,
            per_key: limits.in_flight_per_origin,
        }
    }
}

impl AdmissionBounds {
    fn of(self, key: &ConcurrencyKey) -> usize {
        match key {
            ConcurrencyKey::Local => usize::MAX,
            ConcurrencyKey::Remote(_) | ConcurrencyKey::Plugin { .. } => self.per_key.max(1),
        }
    }

    /// The places that queues may have together that are not known to be fast.
    fn of_others(self) -> usize {
        let (numerator, denominator) = SLOW_PART;
        (self.all * numerator / denominator).max(1)
    }

    /// Whether a queue may take one more place, when it has `has` and `taken` of all are taken.
    const fn leave_room(self, has: usize, taken: usize) -> bool {
        let left = self.all.saturating_sub(taken + 1);
        has == 0 || has < left.saturating_mul(PER_FREE_PLACE)
    }
}

/// Waiting and running work. `U` is the urgency, the least first; equally urgent work goes in the order of its arrival.
#[derive(Debug)]
pub(super) struct Admission<U, W> {
    bounds: AdmissionBounds,
    running: usize,
    waiting: usize,
    came: u64,
    queues: BTreeMap<ConcurrencyKey, KeyQueue<U, W>>,
    /// The head of each queue that is below its limit.
    heads: BTreeSet<Head<U>>,
    /// The queues whose pace is known: until when a slow one counts as slow, on the boot clock; none: fast.
    known: BTreeMap<ConcurrencyKey, Option<Duration>>,
    /// The slow queues by that time.
    slow_until: BTreeSet<(Duration, ConcurrencyKey)>,
    /// Running work of queues that are not known to be fast.
    running_others: usize,
    /// Plugins whose queues may begin nothing.
    closed: BTreeSet<Arc<str>>,
}

/// How long work of a queue held its places. The first variant goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pace {
    Quick,
    Unknown,
    Slow,
}

/// The work of a queue that goes first, in the order of heads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Head<U> {
    pace: Pace,
    place: (U, u64),
    key: ConcurrencyKey,
}

#[derive(Debug)]
struct KeyQueue<U, W> {
    running: usize,
    waiting: BTreeMap<(U, u64), W>,
}

impl<U: Copy + Ord, W> Admission<U, W> {
    pub(super) fn new(bounds: AdmissionBounds) -> Self {
        Self {
            bounds,
            running: 0,
            waiting: 0,
            came: 0,
            queues: BTreeMap::new(),
            heads: BTreeSet::new(),
            known: BTreeMap::new(),
            slow_until: BTreeSet::new(),
            running_others: 0,
            closed: BTreeSet::new(),
        }
    }

    /// Changes the bounds. What is running already goes on.
    pub(super) fn set_bounds(&mut self, bounds: AdmissionBounds) {
        let keys: Vec<ConcurrencyKey> = self.queues.keys().cloned().collect();
        // Their heads are added or removed.
        let taken: Vec<_> = keys.iter().map(|key| self.take_out(key)).collect();
        self.bounds = bounds;
        for (key, queue) in keys.iter().zip(taken) {
            self.put_in(key, queue);
        }
    }

    /// Adds `work` to its queue.
    pub(super) fn enqueue(&mut self, key: ConcurrencyKey, urgency: U, work: W) {
        self.came += 1;
        let place = (urgency, self.came);
        self.with_queue(&key, |queue| {
            queue.waiting.insert(place, work);
        });
    }

    /// The most urgent work that may begin at `now`, on the boot clock. The caller frees its place with
    /// [`release`](Self::release).
    pub(super) fn next(&mut self, now: Duration) -> Option<(ConcurrencyKey, W)> {
        self.forget_slow(now);
        if self.running >= self.bounds.all.max(1) {
            return None;
        }
        let has = |key: &ConcurrencyKey| self.queues.get(key).map_or(0, |queue| queue.running);
        let leaves_quick_ones_room = self.running_others < self.bounds.of_others();
        // At most as many heads are skipped as there are queues with running work.
        let may_begin = |head: &&Head<U>| {
            (leaves_quick_ones_room || head.pace == Pace::Quick)
                && self.bounds.leave_room(has(&head.key), self.running)
        };
        let Head { place, key, .. } = self.heads.iter().find(may_begin).cloned()?;
        let work = self.with_queue(&key, |queue| {
            queue.running += 1;
            queue.waiting.remove(&place)
        })?;
        Some((key, work))
    }

    /// Frees a place in `queue` that was held for so long, until `now`, on the boot clock.
    pub(super) fn release(&mut self, key: &ConcurrencyKey, held: Duration, now: Duration) {
        self.hand_back(key);
        let is_slow_until = self.known.get(key).copied().flatten();
        if held > SLOW {
            let until = now.saturating_add(held.saturating_mul(SLOW_FOR));
            self.know(key, Some(Some(until).max(is_slow_until)));
        } else if is_slow_until.is_none() {
            self.know(key, Some(None));
        }
    }

    /// Frees a place in `queue` that was not used.
    pub(super) fn hand_back(&mut self, key: &ConcurrencyKey) {
        self.with_queue(key, |queue| {
            queue.running = queue.running.saturating_sub(1);
        });
    }

    /// Closes the queues of a plugin, so that nothing begins there, or opens them again.
    pub(super) fn close(&mut self, plugin: &Arc<str>, is_closed: bool) {
        let all = self.queues.keys();
        let behind = all.filter(|key| key.plugin() == Some(plugin));
        let behind: Vec<ConcurrencyKey> = behind.cloned().collect();
        // Their heads are added or removed.
        let taken: Vec<_> = behind.iter().map(|key| self.take_out(key)).collect();
        if is_closed {
            self.closed.insert(Arc::clone(plugin));
        } else {
            self.closed.remove(plugin);
        }
        for (key, queue) in behind.iter().zip(taken) {
            self.put_in(key, queue);
        }
    }

    /// Resets queues whose time as slow ones is over to unknown.
    fn forget_slow(&mut self, now: Duration) {
        while let Some((until, key)) = self.slow_until.first().cloned()
            && until <= now
        {
            self.know(&key, None);
        }
    }

    /// Sets what is known of a queue's pace.
    fn know(&mut self, key: &ConcurrencyKey, known: Option<Option<Duration>>) {
        if self.known.get(key).copied() == known {
            return;
        }
        // Its head moves in the order.
        let queue = self.take_out(key);
        if let Some(Some(until)) = self.known.remove(key) {
            self.slow_until.remove(&(until, key.clone()));
        }
        if let Some(until) = known {
            self.known.insert(key.clone(), until);
            self.slow_until
                .extend(until.map(|until| (until, key.clone())));
        }
        self.put_in(key, queue);
    }

    fn pace(&self, key: &ConcurrencyKey) -> Pace {
        match self.known.get(key) {
            Some(Some(_)) => Pace::Slow,
            Some(None) => Pace::Quick,
            None if *key == ConcurrencyKey::Local => Pace::Quick,
            None => Pace::Unknown,
        }
    }

    /// Drops waiting work that is no longer wanted.
    pub(super) fn retain(&mut self, wanted: impl Fn(&W) -> bool) {
        let queues: Vec<ConcurrencyKey> = self.queues.keys().cloned().collect();
        for key in queues {
            self.with_queue(&key, |queue| {
                queue.waiting.retain(|_, work| wanted(work));
            });
        }
    }

    /// Waiting pieces of work.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Running pieces of work.
    pub(super) fn running(&self) -> usize {
        self.running
    }

    /// Changes a queue and keeps `heads` and the counts consistent; an empty queue is dropped.
    fn with_queue<R>(
        &mut self,
        key: &ConcurrencyKey,
        change: impl FnOnce(&mut KeyQueue<U, W>) -> R,
    ) -> R {
        let mut queue = self.take_out(key);
        let result = change(&mut queue);
        self.put_in(key, queue);
        result
    }

    /// The head of a queue that is below its limit.
    fn head(&self, key: &ConcurrencyKey, queue: &KeyQueue<U, W>) -> Option<Head<U>> {
        let is_closed = key.plugin().is_some_and(|it| self.closed.contains(it));
        if is_closed || queue.running >= self.bounds.of(key) {
            return None;
        }
        Some(Head {
            pace: self.pace(key),
            place: *queue.waiting.first_key_value()?.0,
            key: key.clone(),
        })
    }

    fn take_out(&mut self, key: &ConcurrencyKey) -> KeyQueue<U, W> {
        let queue = self.queues.remove(key).unwrap_or_default();
        let is_quick = self.pace(key) == Pace::Quick;
        if let Some(head) = self.head(key, &queue) {
            self.heads.remove(&head);
        }
        self.waiting -= queue.waiting.len();
        self.running -= queue.running;
        self.running_others -= if is_quick { 0 } else { queue.running };
        queue
    }

    fn put_in(&mut self, key: &ConcurrencyKey, queue: KeyQueue<U, W>) {
        let is_quick = self.pace(key) == Pace::Quick;
        if let Some(head) = self.head(key, &queue) {
            self.heads.insert(head);
        }
        self.waiting += queue.waiting.len();
        self.running += queue.running;
        self.running_others += if is_quick { 0 } else { queue.running };
        if queue.running > 0 || !queue.waiting.is_empty() {
            self.queues.insert(key.clone(), queue);
        }
    }
}

impl<U, W> Default for KeyQueue<U, W> {
    fn default() -> Self {
        Self {
            running: 0,
            waiting: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const BOUNDS: AdmissionBounds = AdmissionBounds { all: 8, per_key: 2 };

    const NOW: Duration = Duration::from_secs(1000);

    const QUICK: Duration = Duration::from_millis(50);

    fn remote(name: &str) -> ConcurrencyKey {
        ConcurrencyKey::Remote(name.into())
    }

    fn drain(admission: &mut Admission<u32, u32>) -> Vec<u32> {
        drain_at(admission, NOW)
    }

    fn drain_at(admission: &mut Admission<u32, u32>, now: Duration) -> Vec<u32> {
        std::iter::from_fn(|| admission.next(now).map(|(_, work)| work)).collect()
    }

    #[test]
    fn the_most_urgent_begins_first_and_equals_in_the_order_of_their_coming() {
        let mut admission = Admission::new(BOUNDS);
        for (urgency, work) in [(5, 50), (1, 10), (1, 11), (3, 30)] {
            admission.enqueue(ConcurrencyKey::Local, urgency, work);
        }
        assert_eq!(drain(&mut admission), [10, 11, 30, 50]);
    }

    #[test]
    fn a_hung_queue_with_a_thousand_jobs_delays_nobody_else() {
        let mut admission = Admission::new(BOUNDS);
        for work in 0..1000 {
            admission.enqueue(remote("hung"), 0, work);
        }
        admission.enqueue(remote("well"), 9, 2000);
        assert_eq!(drain(&mut admission), [0, 1, 2000]);
        admission.release(&remote("hung"), QUICK, NOW);
        assert_eq!(drain(&mut admission), [2]);
        assert_eq!((admission.running(), admission.waiting()), (3, 997));
    }

    #[test]
    fn whatever_leans_on_more_than_this_machine_has_a_bound_of_its_own() {
        let issuer = || ConcurrencyKey::Remote("https://issuer".into());
        for (key, most) in [
            (ConcurrencyKey::Local, 6),
            (issuer(), 2),
            (issuer().behind("source"), 2),
            (ConcurrencyKey::Local.behind("source"), 2),
        ] {
            let mut admission = Admission::new(BOUNDS);
            for work in 0..100 {
                admission.enqueue(key.clone(), 0, work);
            }
            assert_eq!(drain(&mut admission).len(), most, "{key:?}");
        }
    }

    #[test]
    fn no_queue_takes_all_places_even_if_its_own_bound_would_let_it() {
        let mut admission = Admission::new(AdmissionBounds {
            all: 8,
            per_key: 64,
        });
        for work in 0..100 {
            admission.enqueue(remote("hung"), 0, work);
            admission.enqueue(ConcurrencyKey::Local, 1, work);
        }
        let begun = std::iter::from_fn(|| admission.next(NOW)).map(|(key, _)| key);
        // One place is left for new queues.
        assert_eq!(begun.filter(|key| *key == ConcurrencyKey::Local).count(), 6);
        assert_eq!(admission.running(), 7);
    }

    /// An admission that knows these queues to be fast.
    fn knowing(
        bounds: AdmissionBounds,
        queues: impl Iterator<Item = ConcurrencyKey>,
    ) -> Admission<u32, u32> {
        let mut admission = Admission::new(bounds);
        for key in queues {
            admission.enqueue(key.clone(), 0, 0);
            assert_eq!(drain(&mut admission), [0]);
            admission.release(&key, QUICK, NOW);
        }
        admission
    }

    fn well(number: u32) -> ConcurrencyKey {
        remote(&format!("well {number}"))
    }

    #[test]
    fn however_many_queues_hang_others_find_places() {
        for (hung, places) in [(1, 16), (2, 10), (4, 4), (10, 1), (62, 16), (1000, 16)] {
            let bounds = AdmissionBounds {
                all: 64,
                per_key: 16,
            };
            let mut admission = knowing(bounds, (0..places).map(well));
            for work in 0..200 {
                for key in 0..hung {
                    let key = match key % 2 {
                        0 => ConcurrencyKey::Local.behind(&key.to_string()),
                        _ => remote(&key.to_string()),
                    };
                    admission.enqueue(key, 0, 1000 + work);
                }
            }
            drain(&mut admission);
            for work in 0..places {
                admission.enqueue(well(work), 9, work);
            }
            let begun = drain(&mut admission);
            assert!(
                (0..places).eq(begun.iter().copied()),
                "{hung} hang: {begun:?}"
            );
        }
    }

    #[test]
    fn the_quick_go_first_then_the_unknown_and_the_slow_last_for_as_long_as_they_are() {
        let mut admission = knowing(BOUNDS, [remote("quick")].into_iter());
        let held = Duration::from_secs(10);
        admission.enqueue(remote("slow"), 0, 1);
        drain(&mut admission);
        admission.release(&remote("slow"), held, NOW);
        // A fast piece of work in between does not change that.
        admission.enqueue(remote("slow"), 0, 1);
        drain(&mut admission);
        admission.release(&remote("slow"), QUICK, NOW);
        let mut come = |now| {
            for (urgency, key) in [(1, "slow"), (2, "unknown"), (3, "quick")] {
                admission.enqueue(remote(key), urgency, urgency);
            }
            let order = drain_at(&mut admission, now);
            for key in ["slow", "unknown", "quick"] {
                admission.hand_back(&remote(key));
            }
            order
        };
        assert_eq!(come(NOW), [3, 2, 1]);
        assert_eq!(come(NOW + held * SLOW_FOR), [3, 1, 2]);
    }

    #[test]
    fn a_bound_of_one_lets_one_at_a_time() {
        let mut admission = Admission::new(AdmissionBounds { all: 1, per_key: 1 });
        admission.enqueue(remote("a"), 0, 1);
        admission.enqueue(remote("b"), 0, 2);
        assert_eq!(drain(&mut admission), [1]);
        admission.release(&remote("a"), QUICK, NOW);
        assert_eq!(drain(&mut admission), [2]);
    }

    #[test]
    fn what_is_behind_a_closed_plugin_waits_and_nothing_else_does() {
        let mut admission = Admission::new(BOUNDS);
        let (remote_behind, behind) = (
            remote("a").behind("slow"),
            ConcurrencyKey::Local.behind("slow"),
        );
        admission.enqueue(behind.clone(), 0, 1);
        admission.close(&"slow".into(), true);
        admission.enqueue(behind, 0, 2);
        admission.enqueue(remote_behind, 1, 3);
        admission.enqueue(remote("a"), 2, 4);
        admission.enqueue(remote("a").behind("other"), 3, 5);
        assert_eq!(drain(&mut admission), [4, 5]);
        assert_eq!(admission.waiting(), 3);
        admission.close(&"slow".into(), false);
        assert_eq!(drain(&mut admission), [1, 2, 3]);
    }

    #[test]
    fn what_is_not_wanted_any_more_is_dropped() {
        let mut admission = Admission::new(BOUNDS);
        for work in 0..6 {
            admission.enqueue(ConcurrencyKey::Local, 0, work);
        }
        admission.retain(|work| work % 2 == 1);
        assert_eq!(drain(&mut admission), [1, 3, 5]);
    }

    proptest! {
        #[test]
        fn bounds_hold_and_everything_begins_once(
            coming in proptest::collection::vec((0_u8..4, 0_u32..5), 1..200), all in 1_usize..9, per_key in 1_usize..9, held_ms in 0_u64..5000,
        ) {
            let (held, mut now) = (Duration::from_millis(held_ms), NOW);
            let bounds = AdmissionBounds { all, per_key };
            let mut admission = Admission::new(bounds);
            let mut running: Vec<ConcurrencyKey> = Vec::new();
            let mut begun = Vec::new();
            let total = coming.len();
            let mut coming = coming.into_iter().enumerate();
            loop {
                for (work, (key, urgency)) in coming.by_ref().take(3) {
                    let key = if key == 0 { ConcurrencyKey::Local } else { remote(&key.to_string()) };
                    admission.enqueue(key, urgency, work);
                }
                while let Some((key, work)) = admission.next(now) {
                    running.push(key);
                    begun.push(work);
                }
                prop_assert!(running.len() <= all);
                let mut by_key = BTreeMap::new();
                for key in &running {
                    *by_key.entry(key.clone()).or_insert(0) += 1;
                }
                prop_assert!(by_key.iter().all(|(key, count)| *count <= bounds.of(key)));
                let Some(key) = running.pop() else { break };
                now += held;
                admission.release(&key, held, now);
            }
            begun.sort_unstable();
            prop_assert_eq!(begun, (0..total).collect::<Vec<_>>());
            prop_assert_eq!((admission.running(), admission.waiting()), (0, 0));
        }
    }
}

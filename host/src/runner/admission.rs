//! Who may begin: work waits in the lane that it leans on, each lane has its bound, and only the heads of lanes with room
//! compete for the process's own bound. A thousand jobs behind one hung issuer wait in its lane and delay nobody else. The fewer places are
//! free, the fewer a lane may have (dynamic thresholds, Choudhury and Hahne 1998): several that hang leave places too, and a lane
//! that has nothing under way finds one. However many lanes are slow, all together they leave places to those that are known to be quick, which
//! go first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::ports::Lane;

/// A lane with several pieces of work under way has at most this many times the places that are left, whatever its own bound says: what
/// hangs leaves room for the rest.
const PER_FREE_PLACE: usize = 3;

/// Work that held its place for longer makes its lane a slow one.
const SLOW: Duration = Duration::from_secs(2);

/// For so many times as long as that work took.
const SLOW_FOR: u32 = 8;

/// Of all places those lanes together have at most this part that are not known to be quick.
const SLOW_PART: (usize, usize) = (3, 4);

/// Bounds on what is under way at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// In the whole process, at least 1.
    pub(super) all: usize,
    /// On one lane that leans on more than this machine, at least 1.
    pub(super) per_lane: usize,
}

impl Bounds {
    fn of(self, lane: &Lane) -> usize {
        match lane {
            Lane::Local => usize::MAX,
            Lane::Remote(_) | Lane::Plugin { .. } => self.per_lane.max(1),
        }
    }

    /// How many places those lanes have together that are not known to be quick.
    fn of_others(self) -> usize {
        let (numerator, denominator) = SLOW_PART;
        (self.all * numerator / denominator).max(1)
    }

    /// Whether a lane may take one more place, when it has some and a number of all is taken.
    const fn leave_room(self, has: usize, taken: usize) -> bool {
        let left = self.all.saturating_sub(taken + 1);
        has == 0 || has < left.saturating_mul(PER_FREE_PLACE)
    }
}

/// Waiting and running work. `U` orders it, the least first; what is equally urgent goes in the order of its coming.
#[derive(Debug)]
pub(super) struct Admission<U, W> {
    bounds: Bounds,
    running: usize,
    waiting: usize,
    came: u64,
    lanes: BTreeMap<Lane, InLane<U, W>>,
    /// The head of each lane that has room.
    heads: BTreeSet<Head<U>>,
    /// The lanes whose pace is known. Until when the slow ones are that, on the boot clock; none: quick.
    known: BTreeMap<Lane, Option<Duration>>,
    /// The slow ones by time.
    slow_until: BTreeSet<(Duration, Lane)>,
    /// What is under way on lanes that are not known to be quick.
    running_others: usize,
    /// Plugins behind which nothing begins.
    closed: BTreeSet<Arc<str>>,
}

/// How long work on a lane held its places. Those that come first go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pace {
    Quick,
    Unknown,
    Slow,
}

/// The work of a lane that goes first, in the order in which heads do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Head<U> {
    pace: Pace,
    place: (U, u64),
    lane: Lane,
}

#[derive(Debug)]
struct InLane<U, W> {
    running: usize,
    waiting: BTreeMap<(U, u64), W>,
}

impl<U: Copy + Ord, W> Admission<U, W> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            running: 0,
            waiting: 0,
            came: 0,
            lanes: BTreeMap::new(),
            heads: BTreeSet::new(),
            known: BTreeMap::new(),
            slow_until: BTreeSet::new(),
            running_others: 0,
            closed: BTreeSet::new(),
        }
    }

    /// Lets `work` wait for its turn.
    pub(super) fn enqueue(&mut self, lane: Lane, urgency: U, work: W) {
        self.came += 1;
        let place = (urgency, self.came);
        self.in_lane(&lane, |in_lane| {
            in_lane.waiting.insert(place, work);
        });
    }

    /// The most urgent work that may begin at `now`, on the boot clock. Whoever takes it gives the place back with [`release`](Self::release).
    pub(super) fn next(&mut self, now: Duration) -> Option<(Lane, W)> {
        self.forget_slow(now);
        if self.running >= self.bounds.all.max(1) {
            return None;
        }
        let has = |lane: &Lane| self.lanes.get(lane).map_or(0, |in_lane| in_lane.running);
        let leaves_quick_ones_room = self.running_others < self.bounds.of_others();
        // No more are passed over than have work under way.
        let may_begin = |head: &&Head<U>| {
            (leaves_quick_ones_room || head.pace == Pace::Quick)
                && self.bounds.leave_room(has(&head.lane), self.running)
        };
        let Head { place, lane, .. } = self.heads.iter().find(may_begin).cloned()?;
        let work = self.in_lane(&lane, |in_lane| {
            in_lane.running += 1;
            in_lane.waiting.remove(&place)
        })?;
        Some((lane, work))
    }

    /// Gives back a place in `lane` that was held for so long, until `now`, on the boot clock.
    pub(super) fn release(&mut self, lane: &Lane, held: Duration, now: Duration) {
        self.hand_back(lane);
        let is_slow_until = self.known.get(lane).copied().flatten();
        if held > SLOW {
            let until = now.saturating_add(held.saturating_mul(SLOW_FOR));
            self.know(lane, Some(Some(until).max(is_slow_until)));
        } else if is_slow_until.is_none() {
            self.know(lane, Some(None));
        }
    }

    /// Gives back a place in `lane` that was not used.
    pub(super) fn hand_back(&mut self, lane: &Lane) {
        self.in_lane(lane, |in_lane| {
            in_lane.running = in_lane.running.saturating_sub(1);
        });
    }

    /// Lets nothing begin any more in the lanes behind a plugin, or lets it begin again.
    pub(super) fn close(&mut self, plugin: &Arc<str>, is_closed: bool) {
        let all = self.lanes.keys();
        let behind = all.filter(|lane| lane.plugin() == Some(plugin));
        let behind: Vec<Lane> = behind.cloned().collect();
        // Their heads come or go.
        let taken: Vec<_> = behind.iter().map(|lane| self.take_out(lane)).collect();
        if is_closed {
            self.closed.insert(Arc::clone(plugin));
        } else {
            self.closed.remove(plugin);
        }
        for (lane, in_lane) in behind.iter().zip(taken) {
            self.put_in(lane, in_lane);
        }
    }

    /// Lets lanes be as unknown ones again whose time as slow ones is over.
    fn forget_slow(&mut self, now: Duration) {
        while let Some((until, lane)) = self.slow_until.first().cloned()
            && until <= now
        {
            self.know(&lane, None);
        }
    }

    /// From now on this is known of a lane's pace.
    fn know(&mut self, lane: &Lane, known: Option<Option<Duration>>) {
        if self.known.get(lane).copied() == known {
            return;
        }
        // Its head changes its place.
        let in_lane = self.take_out(lane);
        if let Some(Some(until)) = self.known.remove(lane) {
            self.slow_until.remove(&(until, lane.clone()));
        }
        if let Some(until) = known {
            self.known.insert(lane.clone(), until);
            self.slow_until
                .extend(until.map(|until| (until, lane.clone())));
        }
        self.put_in(lane, in_lane);
    }

    fn pace(&self, lane: &Lane) -> Pace {
        match self.known.get(lane) {
            Some(Some(_)) => Pace::Slow,
            Some(None) => Pace::Quick,
            None if *lane == Lane::Local => Pace::Quick,
            None => Pace::Unknown,
        }
    }

    /// Drops waiting work that is not wanted any more.
    pub(super) fn retain(&mut self, wanted: impl Fn(&W) -> bool) {
        let lanes: Vec<Lane> = self.lanes.keys().cloned().collect();
        for lane in lanes {
            self.in_lane(&lane, |in_lane| {
                in_lane.waiting.retain(|_, work| wanted(work));
            });
        }
    }

    /// How much waits.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How much runs.
    pub(super) fn running(&self) -> usize {
        self.running
    }

    /// Changes a lane and keeps `heads` and what is counted right; an empty lane is forgotten.
    fn in_lane<R>(&mut self, lane: &Lane, change: impl FnOnce(&mut InLane<U, W>) -> R) -> R {
        let mut in_lane = self.take_out(lane);
        let result = change(&mut in_lane);
        self.put_in(lane, in_lane);
        result
    }

    /// Of a lane that has room.
    fn head(&self, lane: &Lane, in_lane: &InLane<U, W>) -> Option<Head<U>> {
        let is_closed = lane.plugin().is_some_and(|it| self.closed.contains(it));
        if is_closed || in_lane.running >= self.bounds.of(lane) {
            return None;
        }
        Some(Head {
            pace: self.pace(lane),
            place: *in_lane.waiting.first_key_value()?.0,
            lane: lane.clone(),
        })
    }

    fn take_out(&mut self, lane: &Lane) -> InLane<U, W> {
        let in_lane = self.lanes.remove(lane).unwrap_or_default();
        let is_quick = self.pace(lane) == Pace::Quick;
        if let Some(head) = self.head(lane, &in_lane) {
            self.heads.remove(&head);
        }
        self.waiting -= in_lane.waiting.len();
        self.running -= in_lane.running;
        self.running_others -= if is_quick { 0 } else { in_lane.running };
        in_lane
    }

    fn put_in(&mut self, lane: &Lane, in_lane: InLane<U, W>) {
        let is_quick = self.pace(lane) == Pace::Quick;
        if let Some(head) = self.head(lane, &in_lane) {
            self.heads.insert(head);
        }
        self.waiting += in_lane.waiting.len();
        self.running += in_lane.running;
        self.running_others += if is_quick { 0 } else { in_lane.running };
        if in_lane.running > 0 || !in_lane.waiting.is_empty() {
            self.lanes.insert(lane.clone(), in_lane);
        }
    }
}

impl<U, W> Default for InLane<U, W> {
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

    const BOUNDS: Bounds = Bounds {
        all: 8,
        per_lane: 2,
    };

    const NOW: Duration = Duration::from_secs(1000);

    const QUICK: Duration = Duration::from_millis(50);

    fn remote(name: &str) -> Lane {
        Lane::Remote(name.into())
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
            admission.enqueue(Lane::Local, urgency, work);
        }
        assert_eq!(drain(&mut admission), [10, 11, 30, 50]);
    }

    #[test]
    fn a_hung_lane_with_a_thousand_jobs_delays_nobody_else() {
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
        let issuer = || Lane::Remote("https://issuer".into());
        for (lane, most) in [
            (Lane::Local, 6),
            (issuer(), 2),
            (issuer().behind("source"), 2),
            (Lane::Local.behind("source"), 2),
        ] {
            let mut admission = Admission::new(BOUNDS);
            for work in 0..100 {
                admission.enqueue(lane.clone(), 0, work);
            }
            assert_eq!(drain(&mut admission).len(), most, "{lane:?}");
        }
    }

    #[test]
    fn no_lane_takes_all_places_even_if_its_own_bound_would_let_it() {
        let mut admission = Admission::new(Bounds {
            all: 8,
            per_lane: 64,
        });
        for work in 0..100 {
            admission.enqueue(remote("hung"), 0, work);
            admission.enqueue(Lane::Local, 1, work);
        }
        let begun = std::iter::from_fn(|| admission.next(NOW)).map(|(lane, _)| lane);
        // One is left for whoever comes next.
        assert_eq!(begun.filter(|lane| *lane == Lane::Local).count(), 6);
        assert_eq!(admission.running(), 7);
    }

    /// An admission that knows these lanes to be quick.
    fn knowing(bounds: Bounds, lanes: impl Iterator<Item = Lane>) -> Admission<u32, u32> {
        let mut admission = Admission::new(bounds);
        for lane in lanes {
            admission.enqueue(lane.clone(), 0, 0);
            assert_eq!(drain(&mut admission), [0]);
            admission.release(&lane, QUICK, NOW);
        }
        admission
    }

    fn well(number: u32) -> Lane {
        remote(&format!("well {number}"))
    }

    #[test]
    fn however_many_lanes_hang_others_find_places() {
        for (hung, places) in [(1, 16), (2, 10), (4, 4), (10, 1), (62, 16), (1000, 16)] {
            let bounds = Bounds {
                all: 64,
                per_lane: 16,
            };
            let mut admission = knowing(bounds, (0..places).map(well));
            for work in 0..200 {
                for lane in 0..hung {
                    let lane = match lane % 2 {
                        0 => Lane::Local.behind(&lane.to_string()),
                        _ => remote(&lane.to_string()),
                    };
                    admission.enqueue(lane, 0, 1000 + work);
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
        // That it was quick once in between says nothing.
        admission.enqueue(remote("slow"), 0, 1);
        drain(&mut admission);
        admission.release(&remote("slow"), QUICK, NOW);
        let mut come = |now| {
            for (urgency, lane) in [(1, "slow"), (2, "unknown"), (3, "quick")] {
                admission.enqueue(remote(lane), urgency, urgency);
            }
            let order = drain_at(&mut admission, now);
            for lane in ["slow", "unknown", "quick"] {
                admission.hand_back(&remote(lane));
            }
            order
        };
        assert_eq!(come(NOW), [3, 2, 1]);
        assert_eq!(come(NOW + held * SLOW_FOR), [3, 1, 2]);
    }

    #[test]
    fn a_bound_of_one_lets_one_at_a_time() {
        let mut admission = Admission::new(Bounds {
            all: 1,
            per_lane: 1,
        });
        admission.enqueue(remote("a"), 0, 1);
        admission.enqueue(remote("b"), 0, 2);
        assert_eq!(drain(&mut admission), [1]);
        admission.release(&remote("a"), QUICK, NOW);
        assert_eq!(drain(&mut admission), [2]);
    }

    #[test]
    fn what_is_behind_a_closed_plugin_waits_and_nothing_else_does() {
        let mut admission = Admission::new(BOUNDS);
        let (remote_behind, behind) = (remote("a").behind("slow"), Lane::Local.behind("slow"));
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
            admission.enqueue(Lane::Local, 0, work);
        }
        admission.retain(|work| work % 2 == 1);
        assert_eq!(drain(&mut admission), [1, 3, 5]);
    }

    proptest! {
        #[test]
        fn bounds_hold_and_everything_begins_once(
            coming in proptest::collection::vec((0_u8..4, 0_u32..5), 1..200), all in 1_usize..9, per_lane in 1_usize..9, held_ms in 0_u64..5000,
        ) {
            let (held, mut now) = (Duration::from_millis(held_ms), NOW);
            let bounds = Bounds { all, per_lane };
            let mut admission = Admission::new(bounds);
            let mut running: Vec<Lane> = Vec::new();
            let mut begun = Vec::new();
            let total = coming.len();
            let mut coming = coming.into_iter().enumerate();
            loop {
                for (work, (lane, urgency)) in coming.by_ref().take(3) {
                    let lane = if lane == 0 { Lane::Local } else { remote(&lane.to_string()) };
                    admission.enqueue(lane, urgency, work);
                }
                while let Some((lane, work)) = admission.next(now) {
                    running.push(lane);
                    begun.push(work);
                }
                prop_assert!(running.len() <= all);
                let mut of_lane = BTreeMap::new();
                for lane in &running {
                    *of_lane.entry(lane.clone()).or_insert(0) += 1;
                }
                prop_assert!(of_lane.iter().all(|(lane, count)| *count <= bounds.of(lane)));
                let Some(lane) = running.pop() else { break };
                now += held;
                admission.release(&lane, held, now);
            }
            begun.sort_unstable();
            prop_assert_eq!(begun, (0..total).collect::<Vec<_>>());
            prop_assert_eq!((admission.running(), admission.waiting()), (0, 0));
        }
    }
}

//! Who may begin: work waits in the lane that it leans on, each lane has its bound, and only the heads of lanes with room
//! compete for the process's own bound. A thousand jobs behind one hung issuer wait in its lane and delay nobody else. The fewer places are
//! free, the fewer a lane may have (dynamic thresholds, Choudhury and Hahne 1998): several that hang leave places too, and a lane
//! that has nothing under way finds one.

use std::collections::{BTreeMap, BTreeSet};

use super::ports::Lane;

/// A lane with several pieces of work under way has at most this many times the places that are left, whatever its own bound says: what
/// hangs leaves room for the rest.
const PER_FREE_PLACE: usize = 3;

/// Bounds on what is under way at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// In the whole process, at least 1.
    pub(super) all: usize,
    /// On one remote lane, at least 1.
    pub(super) per_remote: usize,
}

impl Bounds {
    fn of(self, lane: &Lane) -> usize {
        if lane.is_remote() {
            self.per_remote.max(1)
        } else {
            usize::MAX
        }
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
    heads: BTreeSet<((U, u64), Lane)>,
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

    /// The most urgent work that may begin. Whoever takes it gives the place back with [`release`](Self::release).
    pub(super) fn next(&mut self) -> Option<(Lane, W)> {
        if self.running >= self.bounds.all.max(1) {
            return None;
        }
        let has = |lane: &Lane| self.lanes.get(lane).map_or(0, |in_lane| in_lane.running);
        // No more are passed over than have work under way.
        let may_begin = |(_, lane): &&(_, Lane)| self.bounds.leave_room(has(lane), self.running);
        let (place, lane) = self.heads.iter().find(may_begin).cloned()?;
        let work = self.in_lane(&lane, |in_lane| {
            in_lane.running += 1;
            in_lane.waiting.remove(&place)
        })?;
        self.running += 1;
        Some((lane, work))
    }

    /// Gives back a place in `lane`.
    pub(super) fn release(&mut self, lane: &Lane) {
        self.running = self.running.saturating_sub(1);
        self.in_lane(lane, |in_lane| {
            in_lane.running = in_lane.running.saturating_sub(1);
        });
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

    /// Changes a lane and keeps `heads` right; an empty lane is forgotten.
    fn in_lane<R>(&mut self, lane: &Lane, change: impl FnOnce(&mut InLane<U, W>) -> R) -> R {
        let room = self.bounds.of(lane);
        let in_lane = self.lanes.entry(lane.clone()).or_insert_with(|| InLane {
            running: 0,
            waiting: BTreeMap::new(),
        });
        if let Some(head) = in_lane.head(room) {
            self.heads.remove(&(head, lane.clone()));
        }
        self.waiting -= in_lane.waiting.len();
        let result = change(in_lane);
        self.waiting += in_lane.waiting.len();
        if let Some(head) = in_lane.head(room) {
            self.heads.insert((head, lane.clone()));
        }
        if in_lane.running == 0 && in_lane.waiting.is_empty() {
            self.lanes.remove(lane);
        }
        result
    }
}

impl<U: Copy + Ord, W> InLane<U, W> {
    fn head(&self, room: usize) -> Option<(U, u64)> {
        if self.running >= room {
            return None;
        }
        self.waiting.first_key_value().map(|(place, _)| *place)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        all: 8,
        per_remote: 2,
    };

    fn remote(name: &str) -> Lane {
        Lane::Remote(name.into())
    }

    fn drain(admission: &mut Admission<u32, u32>) -> Vec<u32> {
        std::iter::from_fn(|| admission.next().map(|(_, work)| work)).collect()
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
        admission.release(&remote("hung"));
        assert_eq!(drain(&mut admission), [2]);
        assert_eq!((admission.running(), admission.waiting()), (3, 997));
    }

    #[test]
    fn no_lane_takes_all_places_even_if_its_own_bound_would_let_it() {
        let mut admission = Admission::new(Bounds {
            all: 8,
            per_remote: 64,
        });
        for work in 0..100 {
            admission.enqueue(remote("hung"), 0, work);
            admission.enqueue(Lane::Local, 1, work);
        }
        let begun = std::iter::from_fn(|| admission.next()).map(|(lane, _)| lane);
        // One is left for whoever comes next.
        assert_eq!(begun.filter(|lane| *lane == Lane::Local).count(), 1);
        assert_eq!(admission.running(), 7);
    }

    #[test]
    fn however_many_lanes_hang_others_find_places() {
        for (hung, places) in [(1, 16), (2, 10), (4, 4), (10, 1), (62, 1)] {
            let mut admission = Admission::new(Bounds {
                all: 64,
                per_remote: 16,
            });
            for work in 0..200 {
                for lane in 0..hung {
                    let lane = match lane % 2 {
                        0 => Lane::Local.behind(&lane.to_string()),
                        _ => remote(&lane.to_string()),
                    };
                    admission.enqueue(lane, 0, work);
                }
            }
            drain(&mut admission);
            let well = 1000..1000 + places;
            for work in well.clone() {
                admission.enqueue(remote(&format!("well {work}")), 9, work);
            }
            let begun = drain(&mut admission);
            assert!(well.eq(begun.iter().copied()), "{hung} hang: {begun:?}");
        }
    }

    #[test]
    fn a_bound_of_one_lets_one_at_a_time() {
        let mut admission = Admission::new(Bounds {
            all: 1,
            per_remote: 1,
        });
        admission.enqueue(remote("a"), 0, 1);
        admission.enqueue(remote("b"), 0, 2);
        assert_eq!(drain(&mut admission), [1]);
        admission.release(&remote("a"));
        assert_eq!(drain(&mut admission), [2]);
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
            coming in proptest::collection::vec((0_u8..4, 0_u32..5), 1..200), all in 1_usize..9, per_remote in 1_usize..9,
        ) {
            let bounds = Bounds { all, per_remote };
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
                while let Some((lane, work)) = admission.next() {
                    running.push(lane);
                    begun.push(work);
                }
                prop_assert!(running.len() <= all);
                let mut per_lane = BTreeMap::new();
                for lane in &running {
                    *per_lane.entry(lane.clone()).or_insert(0) += 1;
                }
                prop_assert!(per_lane.iter().all(|(lane, count)| *count <= bounds.of(lane)));
                let Some(lane) = running.pop() else { break };
                admission.release(&lane);
            }
            begun.sort_unstable();
            prop_assert_eq!(begun, (0..total).collect::<Vec<_>>());
            prop_assert_eq!((admission.running(), admission.waiting()), (0, 0));
        }
    }
}

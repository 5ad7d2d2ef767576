//! One replica among the others: what it knows of all their Leases, which requests it makes, and until when each of its shards is
//! certainly its own. It is told the time and every answer, and does nothing by itself, so that tests can put it into a world of
//! their own.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use super::election::{
    DEADLINE, DURATION, Decision, Jobs, NEVER, Own, Place, RENEW_EVERY, Record, Seen, Situation,
};
use super::shards::replica_of;

/// How often all Leases are read. What a replica gives up is taken within 2 s: this, and the time of two requests.
pub(super) const LIST_EVERY: Duration = Duration::from_millis(1500);

/// The least time between two readings, after a write that met a change.
const LIST_AGAIN: Duration = Duration::from_millis(200);

/// After this time without a reading, or without a Lease of our own that others see renewed, the others' silence proves nothing: an
/// API server that was away has let nobody renew. They get their time once more, so that its return does not turn all shards over.
const SIGHT: Duration = RENEW_EVERY;

/// The pause after a write that failed: with it, an API server that refuses at once is asked as often as it would be read.
const RETRY: Duration = Duration::from_secs(1);

/// For how long the jobs of a shard that another should have may finish what they began. A stop of the whole process has 22 s for
/// that (`crate::stop`), so it is only reached where something hangs.
pub(super) const WIND_DOWN: Duration = Duration::from_secs(30);

/// When the Lease of a replica that is gone is deleted: every start of a process makes one. A replica that was only suspended makes
/// itself a new one, so this need not be long; it lets people see for a while who was there.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Which Lease.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LeaseId {
    /// Who holds it runs the jobs of this shard.
    Shard(u32),
    /// The replica with this identity lives.
    Replica(String),
}

/// A request to make. Each is told back by [`Member::answered`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// Read all Leases.
    List,
    /// Write this record over the one with that revision, or create the Lease if that is none.
    Write {
        lease: LeaseId,
        over: Option<String>,
        record: Record,
    },
    /// Delete the Lease if it still has this revision.
    Delete { lease: LeaseId, revision: String },
    /// Label a Lease that stands in the place of one of ours, so that a reading shows it.
    Adopt { lease: LeaseId },
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// All Leases.
    Listed(BTreeMap<LeaseId, Record>),
    /// The record that was written, with its revision.
    Written(Record),
    /// It is deleted, or was not there.
    Deleted,
    /// Nothing was written: the Lease has changed, is gone, or is there already.
    Changed,
    /// No answer, or a refusal. What was asked for may have been done, or may still be.
    Failed,
}

/// The writer of one Lease.
#[derive(Debug, Clone, Copy, Default)]
struct Pen {
    /// A write is under way.
    is_busy: bool,
    /// The last one met a change; the Lease must be read first.
    must_read: bool,
    /// That was a Lease where readings show none.
    is_hidden: bool,
    /// When the last one ended. Readings that were sent before may be older than it.
    ended: Duration,
    not_before: Duration,
}

impl Pen {
    fn is_ready(&self, now: Duration) -> bool {
        !self.is_busy && !self.must_read && now >= self.not_before
    }
}

/// A shard, on our side.
#[derive(Debug, Clone, Copy)]
struct Shard {
    own: Option<Own>,
    jobs: Jobs,
    /// When jobs that stop are cut.
    stop_by: Duration,
    pen: Pen,
}

/// What the jobs of a shard are to do. A shard without an order has none that run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// They are to run.
    Run,
    /// They are to stop, so that another replica can have them. What they began they may finish, for up to 30 s.
    Finish,
    /// They are to stop at once: their fence is closed.
    Stop,
}

/// How far the end of the process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// Jobs stop; shards stay ours.
    Stopping,
    /// All jobs have stopped.
    Leaving,
}

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Member {
    us: String,
    count: NonZeroU32,
    seen: BTreeMap<LeaseId, Seen>,
    shards: Vec<Shard>,
    /// How many takes there were.
    takes: u64,
    /// Our own Lease: when it was last renewed.
    renewed: Option<Duration>,
    pen: Pen,
    /// The writers of gone replicas' Leases.
    undertaker: BTreeMap<LeaseId, Pen>,
    /// When the last reading that succeeded was sent.
    listed: Option<Duration>,
    list_sent: Duration,
    list_due: Duration,
    is_listing: bool,
    /// Since when no change could escape us; none: not yet.
    sight: Option<Duration>,
    /// Since when others can see us.
    shown: Duration,
    ending: Ending,
    now: Duration,
    wake: Duration,
}

impl Member {
    /// `us`: an identity that no other process has or had.
    pub(super) fn new(us: String, count: NonZeroU32) -> Self {
        let shard = Shard {
            own: None,
            jobs: Jobs::Stopped,
            stop_by: NEVER,
            pen: Pen::default(),
        };
        Self {
            us,
            count,
            seen: BTreeMap::new(),
            shards: (0..count.get()).map(|_| shard).collect(),
            takes: 0,
            renewed: None,
            pen: Pen::default(),
            undertaker: BTreeMap::new(),
            listed: None,
            list_sent: Duration::ZERO,
            list_due: Duration::ZERO,
            is_listing: false,
            sight: None,
            shown: NEVER,
            ending: Ending::No,
            now: Duration::ZERO,
            wake: NEVER,
        }
    }

    /// What the jobs of each shard are to do.
    pub(super) fn orders(&self) -> BTreeMap<u32, Order> {
        let order = |(index, shard): (u32, &Shard)| match shard.jobs {
            Jobs::Running => Some((index, Order::Run)),
            Jobs::Stopping => Some((index, Order::Finish)),
            Jobs::Cut => Some((index, Order::Stop)),
            Jobs::Stopped => None,
        };
        (0..).zip(&self.shards).filter_map(order).collect()
    }

    /// For each shard, until when its jobs may do something.
    pub(super) fn fences(&self) -> impl Iterator<Item = Duration> {
        self.shards.iter().map(|shard| match shard.jobs {
            Jobs::Running | Jobs::Stopping => {
                shard.own.map_or(Duration::ZERO, |own| own.valid_until())
            }
            Jobs::Stopped | Jobs::Cut => Duration::ZERO,
        })
    }

    /// When [`Self::poll`] is next to be called, if nothing happens before.
    pub(super) const fn wake(&self) -> Duration {
        self.wake
    }

    /// The jobs of a shard that was to stop have stopped.
    pub(super) fn jobs_stopped(&mut self, shard: u32) {
        let shard = usize::try_from(shard).ok();
        if let Some(shard) = shard.and_then(|index| self.shards.get_mut(index))
            && shard.jobs != Jobs::Running
        {
            shard.jobs = Jobs::Stopped;
        }
    }

    /// The process is about to end: all jobs are to stop, and the other replicas are told not to count on us.
    pub(super) fn begin_release(&mut self) {
        if self.ending == Ending::No {
            self.ending = Ending::Stopping;
        }
    }

    /// All jobs have stopped: every shard is to be given up.
    pub(super) fn release(&mut self) {
        self.ending = Ending::Leaving;
        for shard in &mut self.shards {
            shard.jobs = Jobs::Stopped;
        }
    }

    /// Whether nothing in the cluster is ours any more, as far as we know.
    pub(super) fn is_released(&self) -> bool {
        let is_left = |(index, shard): (u32, &Shard)| {
            let Pen {
                is_busy, must_read, ..
            } = shard.pen;
            !is_busy && !must_read && !self.is_ours(index, shard)
        };
        self.ending == Ending::Leaving
            && !self.pen.is_busy
            && !self.seen.contains_key(&self.own_lease())
            && (0..).zip(&self.shards).all(is_left)
    }

    /// Decides on everything, and gives the requests to make. The fences are to be set before these are sent.
    pub(super) fn poll(&mut self, now: Duration) -> Vec<Request> {
        self.now = now;
        self.wake = NEVER;
        let mut requests = Vec::new();
        if !self.is_listing {
            if now >= self.list_due {
                self.is_listing = true;
                self.list_sent = now;
                requests.push(Request::List);
            } else {
                self.wake_at(self.list_due);
            }
        }
        requests.extend(self.poll_own(now));
        let others = self.others(now);
        for index in 0..self.count.get() {
            requests.extend(self.poll_shard(index, &others, now));
        }
        requests.extend(self.bury(&others, now));
        requests
    }

    /// Takes in an answer. `sent_at`: before the request was sent.
    pub(super) fn answered(
        &mut self,
        request: &Request,
        answer: Answer,
        sent_at: Duration,
        now: Duration,
    ) {
        let (lease, over) = match request {
            Request::List => return self.listed(answer, sent_at, now),
            Request::Write { lease, over, .. } => (lease, over.as_deref()),
            Request::Delete { lease, revision } => (lease, Some(revision.as_str())),
            Request::Adopt { lease } => {
                self.end_write(lease, now, now.saturating_add(RETRY));
                return self.read_first(lease, false);
            }
        };
        let written = match answer {
            // The API server drops a write that changes nothing; nobody else would see it.
            Answer::Written(record) if record.revision.as_deref() != over => Some(record),
            Answer::Deleted => Some(Record::ABSENT),
            Answer::Changed => {
                self.end_write(lease, now, now);
                return self.read_first(lease, over.is_none());
            }
            Answer::Written(_) | Answer::Listed(_) | Answer::Failed => None,
        };
        let Some(record) = written else {
            self.end_write(lease, now, now.saturating_add(RETRY));
            return;
        };
        self.end_write(lease, now, now);
        self.note(lease.clone(), record, sent_at, now);
        if matches!(request, Request::Write { record, .. } if record.holder.is_some()) {
            self.renewed(lease, sent_at, now);
        }
    }

    // Our own Lease.

    fn own_lease(&self) -> LeaseId {
        LeaseId::Replica(self.us.clone())
    }

    fn poll_own(&mut self, now: Duration) -> Option<Request> {
        let lease = self.own_lease();
        let found = self.seen.get(&lease).map(|seen| seen.record.clone());
        if self.ending != Ending::No {
            let revision = found?.revision?;
            return self.write_own(now, Request::Delete { lease, revision });
        }
        // Whatever stands there: nobody else has this name. What we have not read yet may be there all the same.
        let is_missing = found.as_ref().is_none_or(Record::is_absent);
        let due = match self.renewed {
            Some(renewed) if !is_missing => renewed.saturating_add(RENEW_EVERY),
            _ => now,
        };
        if now < due {
            self.wake_at(due);
            return None;
        }
        if is_missing && self.pen.is_hidden {
            return self.write_own(now, Request::Adopt { lease });
        }
        let found = found.unwrap_or(Record::ABSENT);
        let record = self.record(self.us.clone(), found.term, found.acquired);
        let over = found.revision;
        let request = Request::Write {
            lease,
            over,
            record,
        };
        self.write_own(now, request)
    }

    fn write_own(&mut self, now: Duration, request: Request) -> Option<Request> {
        if self.pen.is_ready(now) {
            self.pen.is_busy = true;
            return Some(request);
        }
        self.wake_at(self.pen.not_before);
        None
    }

    /// Whether others can see that we live.
    fn is_seen(&self, now: Duration) -> bool {
        self.renewed
            .is_some_and(|renewed| now < renewed.saturating_add(DEADLINE))
    }

    // Who lives, and who should have what.

    fn others(&self, now: Duration) -> Others {
        // A reading after we could be seen: of two replicas that start together, one at least sees the other.
        let has_read = self
            .listed
            .is_some_and(|listed| now < listed.saturating_add(SIGHT) && listed >= self.shown);
        let Some(sight) = self.sight.filter(|_| has_read && self.is_seen(now)) else {
            return Others::Unknown;
        };
        let mut living = BTreeSet::from([self.us.clone()]);
        let mut is_mixed = false;
        for (lease, seen) in &self.seen {
            if seen.record.is_absent() || seen.is_over(sight) {
                continue;
            }
            // Also where it does not say.
            let is_foreign = seen.record.shards != Some(self.count.get());
            match lease {
                LeaseId::Replica(identity) if !is_foreign => {
                    living.insert(identity.clone());
                }
                LeaseId::Replica(_) => is_mixed = true,
                LeaseId::Shard(_) => is_mixed |= is_foreign && seen.record.holder.is_some(),
            }
        }
        Others::Living {
            living,
            is_mixed,
            sight,
        }
    }

    fn place(&self, index: u32, jobs: Jobs, others: &Others) -> Place {
        if self.ending != Ending::No {
            return Place::Leaving;
        }
        match others {
            // Those who divide the jobs otherwise may run the same ones. Who runs some already goes on, as the others see; nobody begins.
            Others::Living { is_mixed: true, .. } if jobs == Jobs::Stopped && !self.runs_some() => {
                Place::Unknown
            }
            Others::Living { living, .. } => {
                let right = replica_of(index, living.iter().map(String::as_str));
                if right == Some(&self.us) {
                    Place::Ours
                } else {
                    Place::Others
                }
            }
            Others::Unknown => Place::Unknown,
        }
    }

    fn runs_some(&self) -> bool {
        let is_held = |own: Own| self.now < own.valid_until();
        let runs = |shard: &Shard| shard.jobs == Jobs::Running && shard.own.is_some_and(is_held);
        self.shards.iter().any(runs)
    }

    // The shards.

    fn poll_shard(&mut self, index: u32, others: &Others, now: Duration) -> Option<Request> {
        let position = usize::try_from(index).ok()?;
        let mut shard = *self.shards.get(position)?;
        if shard.jobs == Jobs::Stopping && now >= shard.stop_by {
            shard.jobs = Jobs::Cut;
        }
        let mut request = None;
        // Twice: what follows from a change of what the jobs do.
        for _ in 0..2 {
            match self.decide(index, &shard, others, now) {
                Decision::Lost => shard.jobs = Jobs::Cut,
                Decision::Run => shard.jobs = Jobs::Running,
                Decision::Stop => {
                    shard.jobs = Jobs::Stopping;
                    shard.stop_by = match self.ending {
                        Ending::No => now.saturating_add(WIND_DOWN),
                        // The process' end has limits of its own.
                        _ => NEVER,
                    };
                }
                Decision::Wait(until) => {
                    self.wake_at(until);
                    break;
                }
                decision => {
                    request = self.write_shard(index, &mut shard, decision, now);
                    break;
                }
            }
        }
        if let (Jobs::Running | Jobs::Stopping, Some(own)) = (shard.jobs, shard.own) {
            self.wake_at(own.valid_until());
        }
        if shard.jobs == Jobs::Stopping {
            self.wake_at(shard.stop_by);
        }
        if let Some(kept) = self.shards.get_mut(position) {
            *kept = shard;
        }
        request
    }

    fn decide(&self, index: u32, shard: &Shard, others: &Others, now: Duration) -> Decision {
        let Some(seen) = self.seen.get(&LeaseId::Shard(index)) else {
            // Not read yet.
            return Decision::Wait(NEVER);
        };
        let situation = Situation {
            us: &self.us,
            seen,
            own: shard.own,
            jobs: shard.jobs,
            place: self.place(index, shard.jobs, others),
            sight: match others {
                Others::Living { sight, .. } => *sight,
                Others::Unknown => NEVER,
            },
        };
        situation.decide(now)
    }

    fn write_shard(
        &mut self,
        index: u32,
        shard: &mut Shard,
        decision: Decision,
        now: Duration,
    ) -> Option<Request> {
        if !shard.pen.is_ready(now) {
            self.wake_at(shard.pen.not_before);
            return None;
        }
        let lease = LeaseId::Shard(index);
        let found = self.seen.get(&lease)?.record.clone();
        shard.pen.is_busy = true;
        if found.is_absent() && shard.pen.is_hidden {
            return Some(Request::Adopt { lease });
        }
        let record = match decision {
            Decision::Make => Record {
                duration: Some(DURATION),
                shards: Some(self.count.get()),
                ..Record::ABSENT
            },
            Decision::Take => {
                let own = Own {
                    take: self.take(shard),
                    term: found.next_term(),
                    renewed: None,
                };
                shard.own = Some(own);
                self.record(own.holder(&self.us), own.term, None)
            }
            Decision::Release => Record {
                revision: None,
                term: found.term,
                shards: Some(self.count.get()),
                ..Record::ABSENT
            },
            _ => {
                let own = shard.own?;
                self.record(own.holder(&self.us), own.term, found.acquired)
            }
        };
        Some(Request::Write {
            lease,
            over: found.revision,
            record,
        })
    }

    /// The number of a take. One whose answer is not known may still arrive, and is tried again under its number.
    fn take(&mut self, shard: &Shard) -> u64 {
        if let Some(Own {
            take,
            renewed: None,
            ..
        }) = shard.own
        {
            return take;
        }
        self.takes = self.takes.saturating_add(1);
        self.takes
    }

    fn record(&self, holder: String, term: i32, acquired: Option<String>) -> Record {
        Record {
            revision: None,
            holder: Some(holder),
            duration: Some(DURATION),
            term,
            acquired,
            shards: Some(self.count.get()),
        }
    }

    // Answers.

    fn listed(&mut self, answer: Answer, sent_at: Duration, now: Duration) {
        self.is_listing = false;
        self.list_due = sent_at
            .saturating_add(LIST_EVERY)
            .max(now.saturating_add(LIST_AGAIN));
        let Answer::Listed(mut found) = answer else {
            return;
        };
        let is_without_gap = self
            .listed
            .is_some_and(|last| sent_at < last.saturating_add(SIGHT));
        if !is_without_gap {
            self.sight = Some(now);
        }
        self.listed = Some(sent_at);
        // What is not there is told by its absence.
        let ours = (0..self.count.get()).map(LeaseId::Shard);
        let ours = ours.chain([self.own_lease()]);
        let known: Vec<LeaseId> = self.seen.keys().cloned().chain(ours).collect();
        for lease in known {
            found.entry(lease).or_insert(Record::ABSENT);
        }
        for (lease, record) in found {
            if let Some(pen) = self.pen(&lease) {
                if pen.is_busy || sent_at < pen.ended {
                    continue;
                }
                pen.must_read = false;
                pen.is_hidden &= record.is_absent();
            }
            self.note(lease, record, sent_at, now);
        }
        let shards = self.shards.iter().map(|shard| shard.pen);
        if shards.chain([self.pen]).any(|pen| pen.must_read) {
            // This reading was sent too early for it.
            self.list_due = now.saturating_add(LIST_AGAIN);
        }
    }

    /// Remembers what a Lease is, and since when.
    fn note(&mut self, lease: LeaseId, record: Record, sent_at: Duration, now: Duration) {
        if record.is_absent() && matches!(lease, LeaseId::Replica(_)) {
            self.seen.remove(&lease);
            self.undertaker.remove(&lease);
            return;
        }
        match self.seen.get_mut(&lease) {
            Some(seen) if seen.record.revision == record.revision => seen.confirmed_at = sent_at,
            _ => {
                let seen = Seen {
                    record,
                    changed_at: now,
                    confirmed_at: sent_at,
                };
                self.seen.insert(lease, seen);
            }
        }
    }

    fn is_ours(&self, index: u32, shard: &Shard) -> bool {
        let seen = self.seen.get(&LeaseId::Shard(index));
        seen.is_some_and(|seen| seen.record.is_take(&self.us, shard.own))
    }

    /// A write of ours has succeeded.
    fn renewed(&mut self, lease: &LeaseId, sent_at: Duration, now: Duration) {
        let LeaseId::Shard(index) = lease else {
            if !self.is_seen(now) {
                // Nobody could see us; perhaps nobody could write.
                self.sight = self.sight.map(|_| now);
                self.shown = now;
            }
            self.renewed = Some(sent_at);
            return;
        };
        let position = usize::try_from(*index).ok();
        let shard = position.and_then(|index| self.shards.get_mut(index));
        if let Some(own) = shard.and_then(|shard| shard.own.as_mut()) {
            own.renewed = Some(sent_at);
        }
    }

    /// The pen of a Lease that we write.
    fn pen(&mut self, lease: &LeaseId) -> Option<&mut Pen> {
        match lease {
            LeaseId::Shard(index) => {
                let index = usize::try_from(*index).ok()?;
                self.shards.get_mut(index).map(|shard| &mut shard.pen)
            }
            LeaseId::Replica(identity) if *identity == self.us => Some(&mut self.pen),
            LeaseId::Replica(_) => self.undertaker.get_mut(lease),
        }
    }

    fn end_write(&mut self, lease: &LeaseId, now: Duration, not_before: Duration) {
        if let Some(pen) = self.pen(lease) {
            pen.is_busy = false;
            pen.ended = now;
            pen.not_before = not_before;
        }
    }

    /// A write met a change. `is_hidden`: it was to create what is there.
    fn read_first(&mut self, lease: &LeaseId, is_hidden: bool) {
        if let Some(pen) = self.pen(lease) {
            pen.must_read = true;
            pen.is_hidden = is_hidden;
        }
        self.list_due = self.list_sent.saturating_add(LIST_AGAIN);
    }

    // The Leases of the dead.

    fn bury(&mut self, others: &Others, now: Duration) -> Vec<Request> {
        let Others::Living { sight, .. } = others else {
            return Vec::new();
        };
        let is_gone = |(lease, seen): &(&LeaseId, &Seen)| {
            matches!(lease, LeaseId::Replica(identity) if *identity != self.us)
                && seen.confirmed_at >= seen.over_at(*sight).saturating_add(REMEMBERED)
        };
        let gone: Vec<_> = self.seen.iter().filter(is_gone).collect();
        let gone = gone.into_iter().filter_map(|(lease, seen)| {
            Some(Request::Delete {
                lease: lease.clone(),
                revision: seen.record.revision.clone()?,
            })
        });
        let mut requests: Vec<Request> = gone.collect();
        requests.retain(|request| {
            let Request::Delete { lease, .. } = request else {
                return false;
            };
            let pen = self.undertaker.entry(lease.clone()).or_default();
            let is_ready = pen.is_ready(now);
            pen.is_busy |= is_ready;
            is_ready
        });
        requests
    }

    /// What is due already waits for something else: an answer, or a reading.
    fn wake_at(&mut self, at: Duration) {
        if at > self.now {
            self.wake = self.wake.min(at);
        }
    }
}

/// The other replicas, as far as we can tell.
enum Others {
    /// Their silence proves nothing now.
    Unknown,
    Living {
        /// Those who divide the jobs as we do, and we.
        living: BTreeSet<String>,
        /// Whether there are some who do not.
        is_mixed: bool,
        sight: Duration,
    },
}

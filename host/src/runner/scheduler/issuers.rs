//! Circuit breakers, one per issuer and client: while one is open, calls of sources wait instead of failing one by one at an
//! issuer that is unavailable or refuses the client, and all go on with its first answer. [`crate::refresh::circuit_breaker`]
//! decides which job may probe, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::{Class, EntryKey, Scheduler, Wakeup, Work};
use crate::model::failure::Failure;
use crate::model::time::{Reading, Timestamp};
use crate::refresh::circuit_breaker::{Cause, CircuitBreaker, Sign, is_refusal, sign};
use crate::refresh::clock;
use crate::refresh::job::JobEvent;
use crate::runner::ports::Issuer;
use crate::runner::status::{FailureStatus, HeldBack};

/// The open circuit breakers, and the calls under way.
#[derive(Debug, Default)]
pub(super) struct Issuers {
    open: BTreeMap<EntryKey, OpenBreaker>,
    keys: BTreeMap<Issuer, EntryKey>,
    /// Calls under way, by job.
    calls: BTreeMap<EntryKey, UnderWay>,
    /// Origins whose clock differs from ours.
    off: BTreeSet<Arc<str>>,
}

#[derive(Debug)]
struct OpenBreaker {
    issuer: Issuer,
    breaker: CircuitBreaker<EntryKey>,
    since: Timestamp,
    why: FailureStatus,
}

#[derive(Debug)]
struct UnderWay {
    issuer: Issuer,
    /// Whether the issuer has answered another call since this one began: then its failure says nothing new.
    is_old: bool,
}

impl Issuers {
    fn breaker(&mut self, issuer: Option<&Issuer>) -> Option<(EntryKey, &mut OpenBreaker)> {
        let key = *self.keys.get(issuer?)?;
        Some((key, self.open.get_mut(&key)?))
    }

    /// The open breaker of this issuer.
    fn of(&self, issuer: Option<&Issuer>) -> Option<&OpenBreaker> {
        self.open.get(self.keys.get(issuer?)?)
    }
}

impl Scheduler {
    /// Queues a call of a job's source.
    pub(super) fn enqueue_acquire(&mut self, key: EntryKey) {
        self.change_issuer(key);
        let Some(entry) = self.jobs.get(&key) else {
            return;
        };
        let concurrency_key = self.world.ports.acquirer.concurrency_key(&entry.config);
        let turn = entry.turn(self.world.now());
        self.enqueue(concurrency_key, (Class::Refresh, turn), Work::Acquire(key));
    }

    /// Whether a call that could begin has to wait because its issuer's breaker is open; then the job joins its queue.
    pub(super) fn holds_back(&mut self, key: EntryKey) -> bool {
        let now = self.world.now();
        let Some(entry) = self.jobs.get(&key) else {
            return false;
        };
        let expires_at = entry.expires_at_boot(now);
        let Some((id, open)) = self.issuers.breaker(entry.issuer.as_ref()) else {
            return false;
        };
        if open.breaker.is_probe(key) {
            return false;
        }
        open.breaker.wait(key, expires_at);
        self.set_probe(id);
        self.update(key);
        true
    }

    /// Records that a job's source is being called.
    pub(super) fn call_began(&mut self, key: EntryKey) {
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        entry.machine.begun();
        if let Some(issuer) = entry.issuer.clone() {
            let is_old = false;
            let call = UnderWay { issuer, is_old };
            self.issuers.calls.insert(key, call);
        }
    }

    /// Records how a call ended. `asked`: whether it asked for a request, if that is known. `was_well`: the job had not failed before.
    pub(super) fn call_ended(
        &mut self,
        key: EntryKey,
        failure: Option<Failure>,
        asked: Option<bool>,
        was_well: bool,
    ) {
        let Some(call) = self.issuers.calls.remove(&key) else {
            return;
        };
        let was_served = self
            .jobs
            .get(&key)
            .is_some_and(|entry| entry.machine.was_served());
        let sign = match &failure {
            None => Sign::Answered,
            Some(_) if asked == Some(false) => Sign::Unsent,
            Some(failure) => sign(failure, was_served),
        };
        if sign != Sign::Unsent {
            let kind = failure.as_ref().map(|failure| failure.kind);
            self.world.metrics.issuer_asked(&call.issuer.origin, kind);
        }
        if sign == Sign::Answered {
            let others = self.issuers.calls.values_mut();
            for other in others.filter(|other| other.issuer == call.issuer) {
                other.is_old = true;
            }
        }
        let entry = self.jobs.get(&key);
        let is_its_issuer = entry.is_some_and(|e| e.issuer.as_ref() == Some(&call.issuer));
        if self.issuers.keys.contains_key(&call.issuer) {
            self.tell_breaker(key, &call.issuer, sign, failure, was_well);
            if !is_its_issuer {
                self.forget(key, &call.issuer);
            }
        } else if let (Sign::Trouble { cause, retry_after }, Some(failure)) = (sign, failure)
            && is_its_issuer
            && (retry_after.is_some() || !call.is_old)
        {
            let (now, sample) = (self.world.now(), self.world.sample());
            let breaker = CircuitBreaker::open(key, cause, retry_after, was_well, now, sample);
            self.open_breaker(key, call.issuer, breaker, failure);
        }
    }

    /// Compares the clock of a job's issuer, as its answer stated it, with ours.
    pub(super) fn clock_compared(&mut self, key: EntryKey, ahead_ms: Option<i64>) {
        let call = self.issuers.calls.get(&key);
        let (Some(call), Some(ahead_ms)) = (call, ahead_ms) else {
            return;
        };
        let origin = Arc::clone(&call.issuer.origin);
        self.world.metrics.issuer_clock(&origin, ahead_ms);
        let was_off = self.issuers.off.contains(&origin);
        let ahead_seconds = ahead_ms / 1000;
        match (was_off, clock::is_off(ahead_ms, was_off)) {
            (false, true) => {
                warn!(%origin, ahead_seconds, "the issuer's clock and this machine's differ by more than a minute; tokens may be refused or expire early");
                self.issuers.off.insert(origin);
            }
            (true, false) => {
                info!(%origin, ahead_seconds, "the issuer's clock and this machine's agree again");
                self.issuers.off.remove(&origin);
            }
            _ => {}
        }
    }

    /// `key`: the job whose call failed.
    fn open_breaker(
        &mut self,
        key: EntryKey,
        issuer: Issuer,
        breaker: CircuitBreaker<EntryKey>,
        failure: Failure,
    ) {
        self.restrained(key, &issuer, breaker.cause(), &failure);
        let (id, since) = (self.next_key(), self.world.now().wall);
        self.issuers.keys.insert(issuer.clone(), id);
        let why = FailureStatus::new(failure, since);
        let open = OpenBreaker {
            issuer,
            breaker,
            since,
            why,
        };
        self.issuers.open.insert(id, open);
    }

    /// Logs that the client of this job is held back from now on.
    fn restrained(&self, key: EntryKey, issuer: &Issuer, cause: Cause, failure: &Failure) {
        let (origin, code, error) = (&issuer.origin, failure.code(), &failure.message);
        let job = self.jobs.get(&key).map(|entry| &entry.config.id);
        let job = job.map(tracing::field::display);
        match cause {
            Cause::IssuerInTrouble => {
                warn!(%origin, job, code, error, "the issuer is in trouble; one job at a time of this one's client tries it until it answers");
            }
            Cause::ClientRefused if is_refusal(failure.code.as_ref()) => {
                warn!(%origin, job, code, error, "the issuer refuses the client of this job; one of its jobs at a time tries until it is accepted");
            }
            Cause::ClientRefused => {
                warn!(%origin, job, code, error, "no token endpoint answers the client of this job; one of its jobs at a time tries until one does");
            }
        }
        self.world.metrics.client_restrained(origin, cause, true);
    }

    fn tell_breaker(
        &mut self,
        key: EntryKey,
        issuer: &Issuer,
        sign: Sign,
        failure: Option<Failure>,
        was_well: bool,
    ) {
        let (now, sample) = (self.world.now(), self.world.sample());
        let Some((id, open)) = self.issuers.breaker(Some(issuer)) else {
            return;
        };
        let before = open.breaker.cause();
        if open.breaker.ended(key, sign, was_well, now, sample) {
            self.close_breaker(id);
            return;
        }
        let cause = open.breaker.cause();
        let failure = failure.filter(|_| matches!(sign, Sign::Trouble { .. }));
        if let Some(failure) = &failure {
            open.why = FailureStatus::new(failure.clone(), now.wall);
        }
        if let (true, Some(failure)) = (cause != before, failure) {
            open.since = now.wall;
            let waiting: Vec<EntryKey> = open.breaker.waiting().collect();
            let metrics = &self.world.metrics;
            metrics.client_restrained(&issuer.origin, before, false);
            self.restrained(key, issuer, cause, &failure);
            for key in waiting {
                self.update(key);
            }
        }
        self.set_probe(id);
    }

    /// Releases the jobs that waited, and those that failed only because of the issuer.
    fn close_breaker(&mut self, id: EntryKey) {
        let Some(open) = self.take_breaker(id) else {
            return;
        };
        let origin = &open.issuer.origin;
        let seconds = self.world.now().wall.since(open.since).as_secs();
        let cause = open.breaker.cause();
        let closed = open.breaker.close();
        let waited = closed.waiting.len();
        match cause {
            Cause::IssuerInTrouble => info!(%origin, seconds, waited, "the issuer answers again"),
            Cause::ClientRefused => {
                info!(%origin, seconds, waited, "the issuer accepts the client again")
            }
        }
        for key in closed.waiting {
            self.enqueue_acquire(key);
            self.update(key);
        }
        for key in closed.affected {
            self.tell(key, JobEvent::IssuerAnswered);
        }
    }

    fn take_breaker(&mut self, id: EntryKey) -> Option<OpenBreaker> {
        let open = self.issuers.open.remove(&id)?;
        self.issuers.keys.remove(&open.issuer);
        self.queue.set(Wakeup::Issuer(id), None);
        let (origin, cause) = (&open.issuer.origin, open.breaker.cause());
        self.world.metrics.client_restrained(origin, cause, false);
        Some(open)
    }

    /// Lets the next job probe, if it is time.
    pub(super) fn probe(&mut self, id: EntryKey) {
        let now = self.world.now();
        let Some(open) = self.issuers.open.get_mut(&id) else {
            return;
        };
        let probe = open.breaker.take_probe(now);
        self.set_probe(id);
        if let Some(key) = probe {
            self.enqueue_acquire(key);
            self.update(key);
        }
    }

    fn set_probe(&mut self, id: EntryKey) {
        if let Some(open) = self.issuers.open.get(&id) {
            let at = open.breaker.probes_at();
            self.queue.set(Wakeup::Issuer(id), at);
        }
    }

    /// Removes a job that goes, or asks another issuer from now on. Returns whether it waited to probe this one.
    pub(super) fn leave_issuer(&mut self, key: EntryKey) -> bool {
        let Some(issuer) = self.jobs.get(&key).and_then(|entry| entry.issuer.clone()) else {
            return false;
        };
        let open = self.issuers.of(Some(&issuer));
        let was_waiting = open.is_some_and(|open| open.breaker.is_waiting(key));
        // A probe under way remains one until it ends.
        if !self.issuers.calls.contains_key(&key) {
            self.forget(key, &issuer);
        }
        was_waiting
    }

    /// Drops this job's failures at this issuer, and the breaker if no job is left.
    fn forget(&mut self, key: EntryKey, issuer: &Issuer) {
        let Some((id, open)) = self.issuers.breaker(Some(issuer)) else {
            return;
        };
        open.breaker.forget(key);
        if open.breaker.is_deserted() {
            self.take_breaker(id);
        } else {
            self.set_probe(id);
        }
    }

    /// Updates a job's issuer, since its configuration may have changed, or its plugin may be loaded now. Returns whether it
    /// waited to probe another.
    pub(super) fn change_issuer(&mut self, key: EntryKey) -> bool {
        let Some(entry) = self.jobs.get(&key) else {
            return false;
        };
        let issuer = self.world.ports.acquirer.issuer(&entry.config);
        if entry.issuer == issuer {
            return false;
        }
        let was_waiting = self.leave_issuer(key);
        if let Some(entry) = self.jobs.get_mut(&key) {
            entry.issuer = issuer;
        }
        was_waiting
    }

    /// Lets the next probe go at once: an operator asked for a token of this job.
    pub(super) fn hurry_issuer(&mut self, key: EntryKey) {
        let now = self.world.now();
        let issuer = self.jobs.get(&key).and_then(|entry| entry.issuer.as_ref());
        if let Some((id, open)) = self.issuers.breaker(issuer) {
            open.breaker.hurry(now);
            self.set_probe(id);
        }
    }

    /// A change here may be the correction for a refused client.
    pub(super) fn client_changed(&mut self, key: EntryKey) {
        let issuer = self.jobs.get(&key).and_then(|entry| entry.issuer.as_ref());
        let open = self.issuers.of(issuer);
        if open.is_some_and(|open| open.breaker.cause() == Cause::ClientRefused) {
            self.hurry_issuer(key);
        }
    }

    /// Why a job waits for its issuer; none: it does not.
    pub(super) fn held_back(&self, key: EntryKey) -> Option<HeldBack> {
        let open = self.issuers.of(self.jobs.get(&key)?.issuer.as_ref())?;
        if !open.breaker.is_waiting(key) {
            return None;
        }
        Some(HeldBack {
            issuer: open.issuer.origin.to_string(),
            cause: open.breaker.cause(),
            since: open.since,
            failure: open.why.clone(),
        })
    }

    /// When a job's source is asked next; while its issuer's breaker is open, when one of the waiting jobs may probe. None: it is
    /// being asked, or another job probes right now.
    pub(super) fn next_refresh(&self, key: EntryKey, now: Reading) -> Option<Timestamp> {
        let entry = self.jobs.get(&key)?;
        let on_wall_clock = |at: Duration| now.wall.after(at.saturating_sub(now.boot));
        let open = self.issuers.of(entry.issuer.as_ref());
        let Some(OpenBreaker { breaker, .. }) = open.filter(|it| !it.breaker.is_probe(key)) else {
            return entry.machine.next_refresh(now);
        };
        if breaker.is_waiting(key) {
            return breaker.probes_at().map(on_wall_clock);
        }
        let by_itself = entry.machine.next_refresh(now)?;
        Some(by_itself.max(on_wall_clock(
            breaker.takes_from(key, entry.expires_at_boot(now)),
        )))
    }

    /// Whether a job waits for its issuer until a correction is made.
    pub(super) fn is_held_for_people(&self, key: EntryKey) -> bool {
        let entry = self.jobs.get(&key);
        let open = self
            .issuers
            .of(entry.and_then(|entry| entry.issuer.as_ref()));
        open.is_some_and(|open| {
            open.breaker.is_waiting(key) && open.breaker.cause() == Cause::ClientRefused
        })
    }
}

//! Restraint per issuer and client: calls of sources wait behind a closed circuit instead of failing one by one at an issuer that
//! is away, and all go on with its first answer. Who may try when is [`crate::refresh::restraint`]'s to say.

use std::collections::BTreeMap;

use tracing::{info, warn};

use super::{Class, Key, Scheduler, Sleeper, Work};
use crate::failure::{Failure, FailureKind};
use crate::refresh::job::Event;
use crate::refresh::restraint::{Circuit, Sign, sign};
use crate::runner::ports::Issuer;
use crate::runner::status::{FailureStatus, HeldBack};
use crate::time::Timestamp;

/// Issuers that are in trouble, and whoever is being asked.
#[derive(Debug, Default)]
pub(super) struct Issuers {
    closed: BTreeMap<Key, Closed>,
    keys: BTreeMap<Issuer, Key>,
    /// Calls under way, by job.
    calls: BTreeMap<Key, UnderWay>,
}

#[derive(Debug)]
struct Closed {
    issuer: Issuer,
    circuit: Circuit<Key>,
    since: Timestamp,
    why: FailureStatus,
}

#[derive(Debug)]
struct UnderWay {
    issuer: Issuer,
    /// Whether the issuer has answered somebody since this call began: then its failure is no news.
    is_old: bool,
}

impl Issuers {
    fn circuit(&mut self, issuer: Option<&Issuer>) -> Option<(Key, &mut Closed)> {
        let key = *self.keys.get(issuer?)?;
        Some((key, self.closed.get_mut(&key)?))
    }

    /// The closed circuit of this issuer.
    fn of(&self, issuer: Option<&Issuer>) -> Option<&Closed> {
        self.closed.get(self.keys.get(issuer?)?)
    }
}

impl Scheduler {
    /// Puts in line that a job's source is asked.
    pub(super) fn enqueue_acquire(&mut self, key: Key) {
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        let acquirer = &self.world.ports.acquirer;
        entry.issuer = acquirer.issuer(&entry.config);
        let lane = acquirer.lane(&entry.config);
        let urgency = entry.urgency();
        self.enqueue(lane, (Class::Refresh, urgency), Work::Acquire(key));
    }

    /// Whether a call that could begin has to wait because its issuer is in trouble; then it waits from now on.
    pub(super) fn holds_back(&mut self, key: Key) -> bool {
        let Some(entry) = self.jobs.get(&key) else {
            return false;
        };
        let urgency = entry.urgency();
        let Some((id, closed)) = self.issuers.circuit(entry.issuer.as_ref()) else {
            return false;
        };
        if closed.circuit.is_probe(key) {
            return false;
        }
        closed.circuit.wait(key, urgency);
        self.set_probe(id);
        self.update(key);
        true
    }

    /// Takes note that a job's source is being asked.
    pub(super) fn call_began(&mut self, key: Key) {
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

    /// Takes note of how a call ended. `was_well`: the job had not failed before.
    pub(super) fn call_ended(&mut self, key: Key, failure: Option<Failure>, was_well: bool) {
        let Some(call) = self.issuers.calls.remove(&key) else {
            return;
        };
        let kind = failure.as_ref().map(|failure| failure.kind);
        self.world.metrics.issuer_asked(&call.issuer.origin, kind);
        let sign = failure.as_ref().map_or(Sign::Answered, sign);
        if sign == Sign::Answered {
            let others = self.issuers.calls.values_mut();
            for other in others.filter(|other| other.issuer == call.issuer) {
                other.is_old = true;
            }
        }
        if self.issuers.keys.contains_key(&call.issuer) {
            self.tell_circuit(key, &call.issuer, sign, failure, was_well);
        } else if let (Sign::Trouble { kind, retry_after }, Some(failure)) = (sign, failure)
            && (retry_after.is_some() || !call.is_old)
        {
            let (now, sample) = (self.world.now(), self.world.sample());
            let circuit = Circuit::close(key, kind, retry_after, was_well, now, sample);
            self.close(call.issuer, circuit, failure);
        }
    }

    /// Takes note of what a job's issuer said about its clock.
    pub(super) fn clock_compared(&self, key: Key, ahead_ms: Option<i64>) {
        let call = self.issuers.calls.get(&key);
        if let (Some(call), Some(ahead_ms)) = (call, ahead_ms) {
            let metrics = &self.world.metrics;
            metrics.issuer_clock(&call.issuer.origin, ahead_ms);
        }
    }

    fn close(&mut self, issuer: Issuer, circuit: Circuit<Key>, failure: Failure) {
        let (origin, code) = (&issuer.origin, failure.code.as_deref());
        warn!(%origin, code, error = failure.message, "the issuer is in trouble; one job at a time tries it until it answers");
        self.world.metrics.issuer_restrained(origin, true);
        let (id, since) = (self.next_key(), self.world.now().wall);
        self.issuers.keys.insert(issuer.clone(), id);
        let why = FailureStatus::new(failure, since);
        let closed = Closed {
            issuer,
            circuit,
            since,
            why,
        };
        self.issuers.closed.insert(id, closed);
    }

    fn tell_circuit(
        &mut self,
        key: Key,
        issuer: &Issuer,
        sign: Sign,
        failure: Option<Failure>,
        was_well: bool,
    ) {
        let (now, sample) = (self.world.now(), self.world.sample());
        let Some((id, closed)) = self.issuers.circuit(Some(issuer)) else {
            return;
        };
        let before = closed.circuit.kind();
        if closed.circuit.ended(key, sign, was_well, now, sample) {
            self.open(id);
            return;
        }
        if let (Sign::Trouble { .. }, Some(failure)) = (sign, failure) {
            closed.why = FailureStatus::new(failure, now.wall);
        }
        let has_changed = closed.circuit.kind() != before;
        let waiting: Vec<Key> = closed.circuit.waiting().filter(|_| has_changed).collect();
        for key in waiting {
            self.update(key);
        }
        self.set_probe(id);
    }

    /// All go on: those that waited, and those that failed for nothing but the issuer's trouble.
    fn open(&mut self, id: Key) {
        let Some(closed) = self.issuers.closed.remove(&id) else {
            return;
        };
        self.issuers.keys.remove(&closed.issuer);
        self.queue.set(Sleeper::Issuer(id), None);
        let origin = &closed.issuer.origin;
        self.world.metrics.issuer_restrained(origin, false);
        let seconds = self.world.now().wall.since(closed.since).as_secs();
        let opened = closed.circuit.open();
        let waited = opened.waiting.len();
        info!(%origin, seconds, waited, "the issuer answers again");
        for key in opened.waiting {
            self.enqueue_acquire(key);
            self.update(key);
        }
        for key in opened.struck {
            self.tell(key, Event::IssuerAnswered);
        }
    }

    /// Lets the next job try, if it is time.
    pub(super) fn probe(&mut self, id: Key) {
        let now = self.world.now();
        let Some(closed) = self.issuers.closed.get_mut(&id) else {
            return;
        };
        let probe = closed.circuit.take_probe(now);
        self.set_probe(id);
        if let Some(key) = probe {
            self.enqueue_acquire(key);
            self.update(key);
        }
    }

    fn set_probe(&mut self, id: Key) {
        if let Some(closed) = self.issuers.closed.get(&id) {
            let at = closed.circuit.probes_at();
            self.queue.set(Sleeper::Issuer(id), at);
        }
    }

    /// A job does not wait for its issuer any more, or not for this one. Whether it waited for its turn to try.
    pub(super) fn leave_issuer(&mut self, key: Key) -> bool {
        let issuer = self.jobs.get(&key).and_then(|entry| entry.issuer.as_ref());
        let Some((id, closed)) = self.issuers.circuit(issuer) else {
            return false;
        };
        let was_waiting = closed.circuit.is_waiting(key);
        if was_waiting || closed.circuit.is_probe(key) {
            closed.circuit.leave(key);
            self.set_probe(id);
        }
        was_waiting
    }

    /// The job's source is another: while it waits for its turn it waits for the issuer that it has now.
    pub(super) fn follow_issuer(&mut self, key: Key) {
        let Some(entry) = self.jobs.get(&key) else {
            return;
        };
        let issuer = self.world.ports.acquirer.issuer(&entry.config);
        if !entry.machine.waits_for_turn() || entry.issuer == issuer {
            return;
        }
        let was_waiting = self.leave_issuer(key);
        if was_waiting {
            self.enqueue_acquire(key);
        } else if let Some(entry) = self.jobs.get_mut(&key) {
            entry.issuer = issuer;
        }
    }

    /// Somebody wants to know whether the issuer serves this job now: the next try does not wait.
    pub(super) fn hurry_issuer(&mut self, key: Key) {
        let now = self.world.now();
        let issuer = self.jobs.get(&key).and_then(|entry| entry.issuer.as_ref());
        if let Some((id, closed)) = self.issuers.circuit(issuer) {
            closed.circuit.hurry(now);
            self.set_probe(id);
        }
    }

    /// Something changed that the issuer may have refused the client for.
    pub(super) fn client_changed(&mut self, key: Key) {
        let issuer = self.jobs.get(&key).and_then(|entry| entry.issuer.as_ref());
        let closed = self.issuers.of(issuer);
        if closed.is_some_and(|closed| is_for_people(closed.circuit.kind())) {
            self.hurry_issuer(key);
        }
    }

    /// Why a job waits for its issuer, and when the next job may try; none: it does not wait.
    pub(super) fn held_back(&self, key: Key) -> Option<(HeldBack, Option<Timestamp>)> {
        let now = self.world.now();
        let closed = self.issuers.of(self.jobs.get(&key)?.issuer.as_ref())?;
        if !closed.circuit.is_waiting(key) {
            return None;
        }
        let held_back = HeldBack {
            issuer: closed.issuer.origin.to_string(),
            since: closed.since,
            failure: closed.why.clone(),
        };
        let next = closed.circuit.probes_at();
        let next = next.map(|at| now.wall.after(at.saturating_sub(now.boot)));
        Some((held_back, next))
    }

    /// Whether a job waits for its issuer until somebody mends something.
    pub(super) fn is_held_for_people(&self, key: Key) -> bool {
        let entry = self.jobs.get(&key);
        let closed = self
            .issuers
            .of(entry.and_then(|entry| entry.issuer.as_ref()));
        closed.is_some_and(|closed| {
            closed.circuit.is_waiting(key) && is_for_people(closed.circuit.kind())
        })
    }
}

/// Whether waiting alone will not help.
const fn is_for_people(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::Denied | FailureKind::InvalidConfig)
}

//! The scheduler: the runner's whole state in one place, without waiting. It receives events, knows what is due, and decides what
//! may begin. The end of each piece of work is passed to the job's state machine, whose actions are queued.

mod issuers;
mod plugins;
mod rates;
mod secrets;
mod shared;
mod withdrawals;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::admission::{Admission, AdmissionBounds};
use super::entry::{JobEntry, Pending, SharedEntry, is_same_output};
use super::handle::{JobChange, RefreshAsked, RunnerCommand};
use super::metrics::{Metrics, Refreshed, WriteResult};
use super::ports::{self, ConcurrencyKey, Ports};
use super::queue::WakeupQueue;
use super::source_hash::source_hash;
use super::status::{ChainState, FailureStatus, Snapshot};
use super::work::{Outcome, Task};
use crate::capability::{Acquired, NotAcquired};
use crate::model::failure::Failure;
use crate::model::time::{Reading, Timestamp};
use crate::model::token::KeptToken;
use crate::model::{Destination, Job, JobId, Limits, SharedOutput};
use crate::names;
use crate::refresh::circuit_breaker::{is_local, taken};
use crate::refresh::clock::{self, Jump};
use crate::refresh::job::{Action, JobEvent};
use crate::refresh::output::{self, Purpose};
use crate::refresh::rate::Rates;
use issuers::Issuers;
use plugins::Loading;
use rates::RateKey;
use withdrawals::Withdrawal;

/// The longest sleep: a timer stands still while the machine sleeps, and the wall clock may be set meanwhile.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// The most names in one log line.
const NAMES: usize = 10;

/// The key of a job, shared output, output to be deleted, open circuit breaker or loading plugin in the runner. Never reused, so that work that ends
/// late matches no newer entry.
pub(super) type EntryKey = u64;

/// Who is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Wakeup {
    Job(EntryKey),
    Secrets(EntryKey),
    Shared(EntryKey),
    Withdrawal(EntryKey),
    Issuer(EntryKey),
    Rate(EntryKey),
}

/// Work that is queued or running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Load(EntryKey),
    Acquire(EntryKey),
    Look(EntryKey),
    Keep(EntryKey),
    Write(EntryKey, usize, Purpose),
    WriteShared(EntryKey, Purpose),
    Withdraw(EntryKey),
    LoadPlugin(EntryKey),
}

/// A job that enters the queue goes before those that enter it later by this part of what is left of its token's life, however
/// little is left of theirs. So no job waits behind more urgent ones for longer, and among those that enter together the order is
/// that of their tokens' expiry.
const PATIENCE_PART: u32 = 8;

/// The limit of that time, however long the token lasts.
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);

/// The order when not all can begin: first what handles a token already obtained, then what obtains one, verification last;
/// within each class by [turn](Entry::turn), on the boot clock.
type Urgency = (Class, Duration);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Keep,
    Refresh,
    Verify,
}

/// Which work may begin.
#[derive(Debug)]
enum RunPhase {
    Running,
    /// Only work that completes what was begun before.
    Stopping,
    /// Only such work of the jobs whose exchange is awaited.
    Waiting(BTreeSet<EntryKey>),
}

#[derive(Debug)]
pub(super) struct Scheduler {
    world: Context,
    jobs: BTreeMap<EntryKey, Box<JobEntry>>,
    keys: HashMap<JobId, EntryKey>,
    shared: BTreeMap<EntryKey, SharedEntry>,
    /// Shared outputs by the jobs they are made from.
    shared_of: HashMap<JobId, Vec<EntryKey>>,
    /// Applied once no shared output is being written.
    pending_shared: Option<Vec<Arc<SharedOutput>>>,
    /// Shared outputs to delete then: each with its position and tokens.
    gone_shared: Vec<(Arc<SharedOutput>, usize, Vec<ports::JobToken>)>,
    /// Outputs that are to be deleted.
    withdrawals: BTreeMap<EntryKey, Withdrawal>,
    /// Jobs that a run of `once` still waits for.
    unfinished: BTreeSet<EntryKey>,
    last_key: EntryKey,
    queue: WakeupQueue<Wakeup>,
    issuers: Issuers,
    rates: Rates<RateKey>,
    /// When it may be logged again that a job waits for its rate, on the boot clock.
    told_rate: Option<Duration>,
    loading: BTreeMap<EntryKey, Loading>,
    admission: Admission<Urgency, Work>,
    /// Both clocks when all entries were last evaluated.
    judged: Reading,
    phase: RunPhase,
}

/// What the scheduler reads and reports to, but does not change.
#[derive(Debug)]
struct Context {
    ports: Ports,
    metrics: Arc<Metrics>,
}

impl Context {
    fn now(&self) -> Reading {
        self.ports.clock.now()
    }

    fn sample(&self) -> f64 {
        self.ports.random.sample()
    }
}

impl Scheduler {
    pub(super) fn new(ports: Ports, limits: &Limits, metrics: Arc<Metrics>) -> Self {
        let judged = ports.clock.now();
        Self {
            world: Context { ports, metrics },
            jobs: BTreeMap::new(),
            keys: HashMap::new(),
            shared: BTreeMap::new(),
            shared_of: HashMap::new(),
            pending_shared: None,
            gone_shared: Vec::new(),
            withdrawals: BTreeMap::new(),
            unfinished: BTreeSet::new(),
            last_key: 0,
            queue: WakeupQueue::new(),
            issuers: Issuers::default(),
            rates: Rates::default(),
            told_rate: None,
            loading: BTreeMap::new(),
            admission: Admission::new(AdmissionBounds::from(limits)),
            judged,
            phase: RunPhase::Running,
        }
    }

    // What came from outside.

    pub(super) fn command(&mut self, command: RunnerCommand) {
        // The caller may have gone; then the reply is not needed.
        match command {
            RunnerCommand::Apply(changes, reply) => {
                self.apply(changes);
                let _ = reply.send(());
            }
            RunnerCommand::Refresh(names, reply) => {
                let _ = reply.send(self.refresh(&names));
            }
            RunnerCommand::Status(names, reply) => {
                let _ = reply.send(self.snapshot(&names));
            }
        }
    }

    /// Jobs before shared outputs, which refer to their jobs.
    pub(super) fn apply(&mut self, changes: Vec<JobChange>) {
        let (mut shared, mut plugins) = (None, Vec::new());
        for change in &changes {
            if let JobChange::SharedOutputs(outputs) = change {
                // Before their jobs go, and with them their tokens.
                self.note_gone_shared(outputs);
            }
        }
        for change in changes {
            match change {
                JobChange::Put(job) => self.put(job),
                JobChange::Remove(id) => self.remove(&id),
                JobChange::SharedOutputs(outputs) => shared = Some(outputs),
                JobChange::NewLogin(id) => {
                    if let Some(&key) = self.keys.get(&id) {
                        self.tell(key, JobEvent::SourceChanged);
                        self.client_changed(key);
                    }
                }
                JobChange::Limits(limits) => {
                    self.admission.set_bounds(AdmissionBounds::from(&limits));
                }
                JobChange::Plugins(names) => plugins = names,
            }
        }
        if let Some(outputs) = shared {
            self.pending_shared = Some(outputs);
            self.settle_shared();
        }
        self.plugins_changed(&plugins);
        self.spare_places_in_use();
    }

    fn put(&mut self, job: Arc<Job>) {
        if let Some(&key) = self.keys.get(&job.id) {
            self.settle(key, Pending::Replace(job));
            return;
        }
        self.load_plugins_of(&job);
        let key = self.next_key();
        self.keys.insert(job.id.clone(), key);
        let entry = JobEntry::new(job, self.world.now());
        self.jobs.insert(key, Box::new(entry));
        self.unfinished.insert(key);
        self.enqueue(
            ConcurrencyKey::Local,
            (Class::Refresh, Duration::ZERO),
            Work::Load(key),
        );
    }

    fn remove(&mut self, id: &JobId) {
        if let Some(&key) = self.keys.get(id) {
            self.settle(key, Pending::Remove);
        }
    }

    fn next_key(&mut self) -> EntryKey {
        self.last_key += 1;
        self.last_key
    }

    /// Applies what is pending once no write is under way: the end of an old write must not come after a new one's.
    fn settle(&mut self, key: EntryKey, pending: Pending) {
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        if entry.writes > 0 {
            entry.pending = Some(pending);
            return;
        }
        match pending {
            Pending::Replace(job) => self.replace(key, job),
            Pending::Remove => {
                let (job, token) = (Arc::clone(&entry.config), entry.job_token());
                self.keys.remove(&job.id);
                self.leave_issuer(key);
                self.jobs.remove(&key);
                self.withdraw_outputs(&job, token.as_ref(), None);
                self.unfinished.remove(&key);
                self.queue.set(Wakeup::Job(key), None);
                self.queue.set(Wakeup::Secrets(key), None);
                self.queue.set(Wakeup::Rate(key), None);
            }
        }
    }

    fn replace(&mut self, key: EntryKey, job: Arc<Job>) {
        let (now, sample) = (self.world.now(), self.world.sample());
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        let source_hash = source_hash(&job);
        let token = entry.job_token();
        let old = std::mem::replace(&mut entry.config, Arc::clone(&job));
        let old_hash = std::mem::replace(&mut entry.source_hash, source_hash);
        let mut actions = Vec::new();
        if old.refresh != job.refresh {
            actions.extend(entry.machine.set_policy(job.refresh.clone(), now, sample));
        }
        if old.verify != job.verify || !is_same_outputs(&old, &job) {
            entry.output_failures = vec![None; job.outputs.len()];
            let outputs = job.outputs.len();
            actions.extend(entry.machine.set_outputs(job.verify, outputs, now, sample));
        }
        let is_another_source =
            old_hash != source_hash || !old.source.has_same_literal_values(&job.source);
        if old.source != job.source {
            entry.secrets = None;
            entry.told_failure = None;
            let event = if is_another_source {
                JobEvent::SourceChanged
            } else {
                // The token is the same, and the way to it another: what failed may succeed now.
                JobEvent::SecretsChanged
            };
            actions.extend(entry.machine.step(event, now, sample));
        }
        self.withdraw_outputs(&old, token.as_ref(), Some(&job));
        self.load_plugins_of(&job);
        let waits_for_another = self.change_issuer(key);
        self.carry_out(key, actions, None);
        if waits_for_another {
            self.enqueue_acquire(key);
        }
        if old.source != job.source {
            self.client_changed(key);
        }
    }

    fn refresh(&mut self, names: &[String]) -> RefreshAsked {
        let at = self.world.now().wall;
        let (keys, unknown) = self.named(names);
        if unknown.is_empty() {
            for key in keys {
                self.tell(key, JobEvent::Asked);
                self.hurry_issuer(key);
            }
        }
        RefreshAsked { at, unknown }
    }

    /// The keys of jobs with these names, of all jobs if there are no names, and the names that match no job.
    fn named(&self, names: &[String]) -> (Vec<EntryKey>, Vec<String>) {
        if names.is_empty() {
            return (self.jobs.keys().copied().collect(), Vec::new());
        }
        let wanted: HashSet<&String> = names.iter().collect();
        let mut unknown: BTreeSet<&String> = names.iter().collect();
        let mut keys = Vec::new();
        for (key, entry) in &self.jobs {
            let name = entry.config.id.to_string();
            if wanted.contains(&name) {
                keys.push(*key);
                unknown.remove(&name);
            }
        }
        (keys, unknown.into_iter().cloned().collect())
    }

    pub(super) fn snapshot(&self, names: &[String]) -> Snapshot {
        let now = self.world.now();
        let (keys, _) = self.named(names);
        let status = |key: &EntryKey| {
            let entry = self.jobs.get(key)?;
            let shared = self.shared_states(&entry.config.id);
            let next = self.next_refresh(*key, now);
            let ports = &self.world.ports;
            let waits_for = (self.held_back(*key), self.waits_for_plugin(*key));
            Some(entry.status(now, waits_for, next, &shared, ports))
        };
        let mut jobs: Vec<_> = keys.iter().filter_map(status).collect();
        jobs.sort_by(|a, b| a.id.cmp(&b.id));
        let asked_for = |shared: &&SharedEntry| {
            let mut from = shared.config.from.iter();
            names.is_empty() || from.any(|id| names.contains(&id.to_string()))
        };
        Snapshot {
            at: now.wall,
            jobs,
            shared_outputs: self
                .shared
                .values()
                .filter(asked_for)
                .map(|shared| shared.status(now))
                .collect(),
            withdrawals: self.withdrawals_of(names),
            configuration: None,
        }
    }

    // What time brings.

    /// Begins what is due. After the wall clock was set, all entries are evaluated.
    pub(super) fn wake(&mut self) {
        let now = self.world.now();
        if let Some(jump) = clock::jump(self.judged, now) {
            self.judge_anew(jump, now);
        }
        while let Some(sleeper) = self.queue.pop(now.boot) {
            match sleeper {
                Wakeup::Job(key) => self.tell(key, JobEvent::Woken),
                Wakeup::Secrets(key) => self.look(key),
                Wakeup::Shared(key) => self.write_shared_if_due(key),
                Wakeup::Withdrawal(key) => self.withdraw_if_due(key),
                Wakeup::Issuer(id) => self.probe(id),
                Wakeup::Rate(key) => self.enqueue_acquire(key),
            }
        }
    }

    fn judge_anew(&mut self, jump: Jump, now: Reading) {
        match jump {
            Jump::Forward(by) => warn!(seconds = by.as_secs(), "the wall clock was set forward"),
            Jump::Backward(by) => warn!(seconds = by.as_secs(), "the wall clock was set back"),
        }
        self.judged = now;
        let keys: Vec<EntryKey> = self.jobs.keys().copied().collect();
        for key in keys {
            self.tell(key, JobEvent::Woken);
        }
    }

    /// How long until something is due.
    pub(super) fn wait(&self) -> Duration {
        let now = self.world.now().boot;
        self.queue
            .next()
            .map_or(LONGEST_SLEEP, |at| at.saturating_sub(now))
            .min(LONGEST_SLEEP)
    }

    // What begins and ends.

    /// The next piece of work that may begin, with all that it needs, and its queue if it takes a place in one.
    pub(super) fn begin(&mut self) -> Option<(Work, Option<ConcurrencyKey>, Task)> {
        if let Some((work, task)) = self.begin_loading() {
            return Some((work, None, task));
        }
        loop {
            let now = self.world.now().boot;
            let (concurrency_key, work) = self.admission.next(now)?;
            if let Work::Acquire(key) = work
                && (self.holds_back(key) || self.is_over_rate(key))
            {
                self.admission.hand_back(&concurrency_key);
                continue;
            }
            if let Some(task) = self.task(work) {
                if let Work::Acquire(key) = work {
                    self.call_began(key);
                }
                return Some((work, Some(concurrency_key), task));
            }
            // Its job, or one of those that share the output, has gone.
            self.admission.hand_back(&concurrency_key);
            if let Work::WriteShared(key, _) = work {
                self.shared_gone(key);
            }
        }
    }

    fn task(&self, work: Work) -> Option<Task> {
        match work {
            Work::Load(key) => {
                let job = Arc::clone(&self.jobs.get(&key)?.config);
                Some(Task::Load(job))
            }
            Work::Acquire(key) => self.jobs.get(&key).map(|entry| entry.acquire()),
            Work::Look(key) => {
                let job = Arc::clone(&self.jobs.get(&key)?.config);
                Some(Task::Look(job))
            }
            Work::Keep(key) => self.jobs.get(&key)?.keep(),
            Work::Write(key, index, purpose) => {
                let now = self.world.now();
                self.jobs.get(&key)?.write(index, purpose, now)
            }
            Work::WriteShared(key, purpose) => {
                let shared = self.shared.get(&key)?;
                Some(shared.write(self.tokens(&shared.config)?, purpose))
            }
            Work::Withdraw(key) => Some(self.withdrawals.get(&key)?.task()),
            // It needs no place in a queue.
            Work::LoadPlugin(_) => None,
        }
    }

    /// Frees the place of work that ended or was abandoned.
    pub(super) fn release(&mut self, concurrency_key: &ConcurrencyKey, since: Reading) {
        let now = self.world.now().boot;
        let held = now.saturating_sub(since.boot);
        self.admission.release(concurrency_key, held, now);
    }

    /// Records how work ended.
    pub(super) fn ended(&mut self, work: Work, outcome: Outcome, began: Reading) {
        match (work, outcome) {
            (Work::Load(key), Outcome::Loaded(result)) => self.loaded(key, result),
            (Work::Acquire(key), Outcome::Acquired(result)) => self.answered(key, result, began),
            (Work::Look(key), Outcome::Looked(digest)) => self.looked(key, digest),
            (Work::Keep(key), Outcome::Kept(result)) => self.kept(key, result),
            (Work::Write(key, index, _), Outcome::Written(result)) => {
                self.written(key, index, result);
            }
            (Work::WriteShared(key, _), Outcome::Written(result)) => {
                self.shared_written(key, result);
            }
            (Work::Withdraw(key), Outcome::Withdrawn(result)) => self.withdrawn(key, result),
            (Work::LoadPlugin(key), Outcome::PluginLoaded) => self.plugin_loaded(key),
            (work, outcome) => debug_assert!(false, "{work:?} ended as {outcome:?}"),
        }
    }

    fn loaded(&mut self, key: EntryKey, result: Result<Option<KeptToken>, Failure>) {
        let Some(entry) = self.jobs.get(&key) else {
            return;
        };
        let kept = result.unwrap_or_else(|failure| {
            warn!(job = %entry.config.id, error = %failure, "the token of an earlier run cannot be read");
            None
        });
        let (life, token) = kept.and_then(|kept| entry.own(kept)).unzip();
        let actions = self.step(key, JobEvent::Restored(life));
        self.carry_out(key, actions, token);
        self.tell_chain(key);
        self.look(key);
    }

    /// Logs what an earlier run left of a chain if it needs a person: the next try may be hours away.
    fn tell_chain(&self, key: EntryKey) {
        let Some(entry) = self.jobs.get(&key) else {
            return;
        };
        let chain = entry.chain(&self.world.ports);
        if let Some(chain @ (ChainState::Dead | ChainState::NeedsAttention)) = chain {
            let job = &entry.config.id;
            error!(%job, %chain, "the rotating secret of this job cannot be used since an earlier run; `evertoken state show {job}` has more");
        }
    }

    fn answered(&mut self, key: EntryKey, result: Result<Acquired, NotAcquired>, began: Reading) {
        let now = self.world.now();
        let took = now.boot.saturating_sub(began.boot);
        let entry = self.jobs.get(&key);
        let was_well = entry.is_some_and(|entry| entry.machine.failures() == 0);
        let was_served = entry.is_some_and(|entry| entry.machine.was_served());
        let ahead_ms = match &result {
            Ok(obtained) => obtained.issuer_ahead_ms,
            Err(not) => not.issuer_ahead_ms,
        };
        if clock::jump(began, now).is_none() {
            self.clock_compared(key, ahead_ms);
        }
        match result {
            Ok(obtained) => {
                let refused =
                    self.acquired(key, ports::by_present_clock(obtained, began, now), took);
                self.call_ended(key, None, None, was_well);
                if let Some(refused) = refused {
                    self.tell_failure(key, &refused);
                }
            }
            Err(NotAcquired { failure, asked, .. }) => {
                let failure = taken(failure, was_served);
                let event = JobEvent::Failed {
                    kind: failure.kind,
                    retry_after: failure.retry_after,
                    is_local: is_local(&failure),
                };
                self.tell(key, event);
                self.source_failed(key, failure.clone(), took);
                self.call_ended(key, Some(failure.clone()), asked, was_well);
                self.tell_failure(key, &failure);
            }
        }
    }

    /// Accepts the token that a source returned; the failure, if the token is not usable.
    fn acquired(&mut self, key: EntryKey, obtained: Acquired, took: Duration) -> Option<Failure> {
        let now = self.world.now();
        let entry = self.jobs.get(&key)?;
        let lateness = now.boot.saturating_sub(entry.machine.due().boot);
        let (candidate, token) = entry.weigh(obtained);
        let how = if entry.has_value_of(&token.token) {
            Refreshed::Unchanged
        } else {
            Refreshed::New
        };
        let actions = self.step(key, JobEvent::Acquired(candidate));
        let mut refused = None;
        for action in &actions {
            match action {
                Action::Adopt | Action::Unchanged => self.source_gave(key, how, took, lateness),
                Action::Refuse(failure) => {
                    self.source_failed(key, failure.clone(), took);
                    refused = Some(failure.clone());
                }
                Action::Acquire | Action::Keep | Action::Write(..) => {}
            }
        }
        self.carry_out(key, actions, Some(token));
        refused
    }

    fn source_gave(&mut self, key: EntryKey, how: Refreshed, took: Duration, lateness: Duration) {
        self.world.metrics.refreshed(how, took, lateness);
        let now = self.world.now();
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        entry.last_success = Some(now.wall);
        entry.last_failure = None;
        entry.told_failure = None;
        entry.secrets = None;
        let expires_at = NeverOr(entry.machine.life().and_then(|life| life.expires_at));
        let next = NeverOr(entry.machine.next_refresh(now));
        let job = &entry.config.id;
        match how {
            Refreshed::New => info!(%job, %expires_at, %next, "refreshed token"),
            Refreshed::Unchanged => {
                info!(%job, %expires_at, %next, "the source gave the same token again");
            }
        }
    }

    fn source_failed(&mut self, key: EntryKey, failure: Failure, took: Duration) {
        self.world.metrics.refresh_failed(&failure, took);
        let now = self.world.now();
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        if entry.machine.failures() == 0 {
            // The result belongs to a source that was replaced.
            return;
        }
        entry.last_failure = Some(Box::new(FailureStatus::new(failure, now.wall)));
        self.update(key);
        self.look(key);
    }

    /// Logs that a source failed, once it is known what that means for its issuer, which decides when the source is asked next.
    /// The same failure as before is not logged as new.
    fn tell_failure(&mut self, key: EntryKey, failure: &Failure) {
        let now = self.world.now();
        let next = NeverOr(self.next_refresh(key, now));
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        if entry.machine.failures() == 0 {
            // The result belongs to a source that was replaced.
            return;
        }
        let (job, kind, code) = (&entry.config.id, failure.kind, failure.code());
        let error = &failure.message;
        if is_news(entry.told_failure.as_deref(), failure) {
            warn!(%job, %kind, code, error, %next, "refresh failed");
        } else {
            debug!(%job, %kind, code, error, %next, "refresh failed again");
        }
        entry.told_failure = Some(Box::new(FailureStatus::new(failure.clone(), now.wall)));
    }

    fn kept(&mut self, key: EntryKey, result: Result<(), Failure>) {
        let event = JobEvent::Keep(written_event(result.as_ref().err()));
        let now = self.world.now().wall;
        if let Some(entry) = self.jobs.get_mut(&key) {
            if result.is_ok() && entry.keep_failure.is_some() {
                info!(job = %entry.config.id, "the token is kept for a restart again");
            }
            let before = entry.keep_failure.take();
            entry.keep_failure = result.err().map(|failure| {
                self.world.metrics.keep_failed();
                let job = &entry.config.id;
                if is_news(before.as_deref(), &failure) {
                    warn!(%job, error = %failure, "the token cannot be kept for a restart");
                } else {
                    debug!(%job, error = %failure, "the token still cannot be kept for a restart");
                }
                Box::new(FailureStatus::new(failure, now))
            });
        }
        self.tell(key, event);
    }

    fn written(&mut self, key: EntryKey, index: usize, result: Result<ports::Published, Failure>) {
        let (result, parts) = apart(result);
        let now = self.world.now().wall;
        let event = JobEvent::Output(index, written_event(result.as_ref().err()));
        if let Some(entry) = self.jobs.get_mut(&key) {
            entry.writes = entry.writes.saturating_sub(1);
            let output = entry.config.outputs.get(index);
            if let (Some(output), Some(note)) = (output, entry.output_failures.get_mut(index)) {
                let job = entry.config.id.to_string();
                let before = note.take();
                *note = self
                    .world
                    .note_write(&job, &output.destination, before, result, now);
            }
        }
        self.tell(key, event);
        self.parts_published(parts);
        let pending = self
            .jobs
            .get_mut(&key)
            .and_then(|entry| entry.pending.take());
        if let Some(pending) = pending {
            self.settle(key, pending);
            self.spare_places_in_use();
        }
    }

    /// An output does not hold what it should.
    fn output_changed(&mut self, key: EntryKey, index: usize) {
        self.tell(key, JobEvent::Output(index, output::OutputEvent::Changed));
        self.tell(key, JobEvent::Woken);
    }

    /// The earliest expiry of the parts that consumers were given decides how long a token lasts, if it is still the job's.
    fn parts_published(&mut self, parts: Vec<ports::Part>) {
        for part in parts {
            let Some(&key) = self.keys.get(&part.job) else {
                continue;
            };
            let token = self.jobs.get(&key).and_then(|entry| entry.token.as_ref());
            if token.is_some_and(|token| token.obtained_at == part.obtained_at) {
                self.tell(key, JobEvent::PartExpires(part.expires_at));
            }
        }
    }

    // What the state machines say.

    fn tell(&mut self, key: EntryKey, event: JobEvent) {
        let actions = self.step(key, event);
        self.carry_out(key, actions, None);
    }

    fn step(&mut self, key: EntryKey, event: JobEvent) -> Vec<Action> {
        let (now, sample) = (self.world.now(), self.world.sample());
        let Some(entry) = self.jobs.get_mut(&key) else {
            return Vec::new();
        };
        let actions = entry.machine.step(event, now, sample);
        self.note_published(key, now);
        actions
    }

    /// Queues the actions of a job's state machine; `token` is the one that an action may adopt.
    fn carry_out(&mut self, key: EntryKey, actions: Vec<Action>, token: Option<Arc<KeptToken>>) {
        let is_adopted = actions.contains(&Action::Adopt);
        let now = self.world.now();
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        let of_former_token = entry.turn(now);
        if is_adopted {
            entry.token = token;
        }
        let turn = entry.turn(now);
        for action in actions {
            let Some(entry) = self.jobs.get_mut(&key) else {
                return;
            };
            let ports = &self.world.ports;
            match action {
                Action::Adopt | Action::Unchanged | Action::Refuse(_) => {}
                Action::Acquire => self.enqueue_acquire(key),
                Action::Keep => {
                    self.enqueue(ConcurrencyKey::Local, (Class::Keep, turn), Work::Keep(key))
                }
                Action::Write(index, purpose) => {
                    let Some(output) = entry.config.outputs.get(index) else {
                        continue;
                    };
                    let concurrency_key = ports.publisher.concurrency_key(output);
                    entry.writes += 1;
                    let class = class_of(purpose);
                    let work = Work::Write(key, index, purpose);
                    self.enqueue(concurrency_key, (class, of_former_token), work);
                }
            }
        }
        if is_adopted {
            self.token_changed(key);
        }
        self.update(key);
    }

    /// Updates when the job wakes and whether it is finished.
    fn update(&mut self, key: EntryKey) {
        let now = self.world.now();
        let held_back = self.held_back(key);
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        entry.tell_expiry(now, held_back);
        let expires_at = entry.machine.expires_at_boot(now);
        let wakes_at = entry.machine.wakes_at(now);
        let wakes_at = wakes_at.into_iter().chain(expires_at).min();
        self.queue.set(Wakeup::Job(key), wakes_at);
        let entry = &*entry;
        if entry.is_finished(now) || self.is_held_for_people(key) {
            self.unfinished.remove(&key);
        } else {
            self.unfinished.insert(key);
        }
    }

    fn enqueue(&mut self, concurrency_key: ConcurrencyKey, urgency: Urgency, work: Work) {
        if self.may_begin(&work) {
            self.await_plugin(&concurrency_key);
            self.admission.enqueue(concurrency_key, urgency, work);
        }
    }

    fn may_begin(&self, work: &Work) -> bool {
        match &self.phase {
            RunPhase::Running => true,
            RunPhase::Stopping => ends_something(work),
            RunPhase::Waiting(jobs) => {
                ends_something(work) && self.jobs_of(*work).iter().any(|job| jobs.contains(job))
            }
        }
    }

    /// The jobs that this work is for.
    fn jobs_of(&self, work: Work) -> Vec<EntryKey> {
        match work {
            Work::Load(key)
            | Work::Acquire(key)
            | Work::Look(key)
            | Work::Keep(key)
            | Work::Write(key, ..) => vec![key],
            Work::WriteShared(key, _) => {
                let shared = self.shared.get(&key);
                let from = shared.into_iter().flat_map(|shared| &shared.config.from);
                from.filter_map(|job| self.keys.get(job).copied()).collect()
            }
            Work::Withdraw(_) | Work::LoadPlugin(_) => Vec::new(),
        }
    }

    // The end.

    /// Whether a run of `once` has nothing left to wait for.
    pub(super) fn is_finished(&self) -> bool {
        let has_or_gets_tokens = |shared: &SharedEntry| self.tokens(&shared.config).is_some();
        self.unfinished.is_empty()
            && self
                .shared
                .values()
                .all(|shared| shared.is_finished() || !has_or_gets_tokens(shared))
    }

    /// From now on only work may begin that completes what was begun.
    pub(super) fn stop(&mut self) {
        self.phase = RunPhase::Stopping;
        self.admission.retain(ends_something);
    }

    /// From now on only work may begin that completes these exchanges.
    pub(super) fn wait_for(&mut self, exchanges: impl Iterator<Item = Work>) {
        let jobs = exchanges.flat_map(|work| self.jobs_of(work)).collect();
        self.phase = RunPhase::Waiting(jobs);
        self.admission.retain(|_| false);
    }

    /// Whether stopping may abandon this work without a loss or a half-done change.
    pub(super) fn may_abandon(&self, work: Work) -> bool {
        match work {
            Work::Load(_) | Work::Look(_) | Work::LoadPlugin(_) => true,
            Work::Acquire(key) => self.jobs.get(&key).is_none_or(|entry| !entry.rotates()),
            Work::Keep(_) | Work::Write(..) | Work::WriteShared(..) | Work::Withdraw(_) => false,
        }
    }

    /// The names of the jobs that this work is for, for people.
    pub(super) fn names(&self, works: impl Iterator<Item = Work>) -> String {
        let of_jobs = works.filter_map(|work| match work {
            Work::Load(key)
            | Work::Acquire(key)
            | Work::Look(key)
            | Work::Keep(key)
            | Work::Write(key, ..) => Some(self.jobs.get(&key)?.config.id.to_string()),
            Work::WriteShared(key, _) => {
                let shared = &self.shared.get(&key)?.config;
                Some(shared.output.destination.to_string())
            }
            Work::Withdraw(_) | Work::LoadPlugin(_) => None,
        });
        names::first(&of_jobs.collect(), NAMES)
    }

    /// Sets the metrics of queued and running work.
    pub(super) fn measure(&self) {
        let (running, waiting) = (self.admission.running(), self.admission.waiting());
        let metrics = &self.world.metrics;
        metrics.load(running, waiting, self.loading.len());
    }
}

impl JobEntry {
    /// The turn of a job that enters the queue now, on the boot clock; the least goes first. A job without a valid token takes
    /// its turn at once.
    fn turn(&self, now: Reading) -> Duration {
        let left = self.token.as_ref().map_or(Duration::ZERO, |held| {
            held.expires_at
                .map_or(Duration::MAX, |at| at.since(now.wall))
        });
        now.boot
            .saturating_add((left / PATIENCE_PART).min(LONGEST_PATIENCE))
    }
}

impl Context {
    /// Counts the end of a write, logs it where the result changed, and returns what status shows of it. `before`: how the last
    /// one failed.
    fn note_write(
        &self,
        job: &str,
        destination: &Destination,
        before: Option<Box<FailureStatus>>,
        result: Result<ports::WriteOutcome, Failure>,
        now: Timestamp,
    ) -> Option<Box<FailureStatus>> {
        let output = destination.to_string();
        match result {
            Ok(change) => {
                let result = match change {
                    ports::WriteOutcome::Written | ports::WriteOutcome::PutRight => {
                        WriteResult::Written
                    }
                    ports::WriteOutcome::Unchanged => WriteResult::Unchanged,
                };
                self.metrics.wrote(destination, result);
                if before.is_some() {
                    info!(job, output, "output is written again");
                } else if change == ports::WriteOutcome::PutRight {
                    info!(
                        job,
                        output, "output was changed or removed by somebody else and is put right"
                    );
                } else {
                    debug!(job, output, ?change, "output is right");
                }
                None
            }
            Err(failure) => {
                self.metrics.write_failed(destination, &failure);
                let (kind, code) = (failure.kind, failure.code());
                let error = &failure.message;
                if is_news(before.as_deref(), &failure) {
                    warn!(job, output, %kind, code, error, "output cannot be written");
                } else {
                    debug!(job, output, %kind, code, error, "output still cannot be written");
                }
                Some(Box::new(FailureStatus::new(failure, now)))
            }
        }
    }
}

/// Whether a failure differs from the one before it. Numbers in its message, such as times, are no difference.
fn is_news(before: Option<&FailureStatus>, failure: &Failure) -> bool {
    let words = |message: &'_ str| -> String {
        let is_word = |c: &char| !c.is_ascii_digit();
        message.chars().filter(is_word).collect()
    };
    before.is_none_or(|before| {
        before.code != failure.code || words(&before.message) != words(&failure.message)
    })
}

/// How a write ended, and what of it expires early.
fn apart(
    result: Result<ports::Published, Failure>,
) -> (Result<ports::WriteOutcome, Failure>, Vec<ports::Part>) {
    match result {
        Ok(ports::Published { change, parts }) => (Ok(change), parts),
        Err(failure) => (Err(failure), Vec::new()),
    }
}

fn written_event(failure: Option<&Failure>) -> output::OutputEvent {
    failure.map_or(output::OutputEvent::Written, |failure| {
        output::OutputEvent::Failed {
            kind: failure.kind,
            retry_after: failure.retry_after,
        }
    })
}

const fn class_of(purpose: Purpose) -> Class {
    match purpose {
        Purpose::Publish => Class::Refresh,
        Purpose::Verify => Class::Verify,
    }
}

/// Whether it completes what was begun before: a token already obtained goes to the store and to its outputs.
const fn ends_something(work: &Work) -> bool {
    match work {
        Work::Keep(_) | Work::Withdraw(_) => true,
        Work::Write(_, _, purpose) | Work::WriteShared(_, purpose) => {
            matches!(purpose, Purpose::Publish)
        }
        Work::Load(_) | Work::Acquire(_) | Work::Look(_) | Work::LoadPlugin(_) => false,
    }
}

fn is_same_outputs(a: &Job, b: &Job) -> bool {
    a.outputs.len() == b.outputs.len()
        && a.outputs
            .iter()
            .zip(&b.outputs)
            .all(|(a, b)| is_same_output(a, b))
}

/// A point in time that may never come.
struct NeverOr(Option<Timestamp>);

impl std::fmt::Display for NeverOr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(at) => write!(f, "{at}"),
            None => f.write_str("never"),
        }
    }
}

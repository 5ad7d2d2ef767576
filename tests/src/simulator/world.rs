//! The shared state of a run: issuers, outputs, configured secrets, active faults, and for each job at any moment whether its
//! consumers may be without a valid token, until when, and why. All events are recorded here under one lock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use evertoken::capability::chain::ChainId;
use fastrand::Rng;

use super::issuer::{Effect, Expiry, Issuer, Link};
use super::ledger::{self, Ledger};
use super::pace::Pace;
use super::scenario::{JobPlan, Part, Scenario};
use super::time::Time;
use super::trace::{Show, Trace};
use crate::lock;

/// The longest duration of a call without faults, its write included.
pub const CALL: Duration = Duration::from_secs(8);

/// After its start a process requests missing tokens within this time, since overdue jobs go first.
const START: Duration = Duration::from_secs(15);

/// The longest sleep of the runner, within which a clock that was set or a machine that slept is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// The longest wait before an unanswered request is repeated, or another process's intent has expired.
const DOUBT: Duration = Duration::from_secs(300);

/// The longest duration of a request with a rotating secret before its answer counts as lost.
pub const EXCHANGE: Duration = Duration::from_secs(60);

/// Where tokens expire with the issuer's session, the longest time after the end of a session in which the next one's token is
/// requested.
const SESSION: Duration = Duration::from_secs(1);

/// Within this time after an outage an issuer's clients have new tokens.
const RETURN: Duration = Duration::from_secs(60);

/// How often the secrets of a job that waits for a correction are read.
const LOOK: Duration = Duration::from_secs(30);

/// A violation of the invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When.
    pub at: Duration,
    /// The sentence.
    pub what: String,
}

/// Event counts, by name.
pub type Tally = BTreeMap<&'static str, u64>;

/// The shared state of a run.
#[derive(Debug)]
pub struct World {
    /// The drawn scenario.
    pub scenario: Scenario,
    /// The virtual time.
    pub time: Time,
    facts: Mutex<Facts>,
}

/// The mutable part of the state.
#[derive(Debug)]
pub struct Facts {
    /// Decides random events.
    pub rng: Rng,
    /// The log of events.
    pub trace: Trace,
    /// Event counts.
    pub tally: Tally,
    /// The violations so far.
    pub violations: Vec<Violation>,
    /// The issuers.
    pub issuers: Vec<Issuer>,
    /// The fate of each refresh token.
    pub ledger: Ledger,
    /// The rate of unsuccessful requests.
    pub pace: Pace,
    /// The jobs.
    pub jobs: Vec<Job>,
    /// The logins.
    pub logins: Vec<Login>,
    /// What consumers read, by path.
    pub outputs: BTreeMap<String, String>,
    /// The plugin that is installed.
    pub plugin_version: u32,
    /// Chains that the store did not take when they were last written, and since when.
    pub store_failed: BTreeMap<ChainId, Duration>,
    /// When the store last refused to write.
    pub store_refused: Option<Duration>,
    /// Processes that do not run.
    pub down: BTreeSet<usize>,
    broken: Vec<Broken>,
    lives: ledger::Life,
}

#[derive(Debug)]
struct Broken {
    part: Part,
    chance: f64,
    until: Duration,
}

/// The current state of a job.
#[derive(Debug)]
pub struct Job {
    /// The drawn plan.
    pub plan: JobPlan,
    /// Its client at its issuer.
    pub client: String,
    /// Times that it was renamed.
    pub renamed: u32,
    /// Whether it had a token under its current name: for a job that never had one, a bug is not expected to pass soon.
    pub had_one: bool,
    /// Times that its source was configured anew.
    pub reconfigured: u32,
    /// Whether its tokens are refreshed somewhat earlier.
    pub is_retimed: bool,
    /// Whether its outputs are in the other order.
    pub is_reordered: bool,
    /// Consecutive failures that need a correction.
    pub denials: u32,
    /// The longest life of its tokens.
    pub life: Duration,
    /// How far the wall clock was off when its token was written, in milliseconds.
    clock_off_by: i64,
    excused_until: Duration,
    excuse: &'static str,
    troubled: Duration,
}

/// A login of a person, and the Secret where its refresh token is configured.
#[derive(Debug)]
pub struct Login {
    /// Its issuer.
    pub issuer: usize,
    /// Its client there.
    pub client: String,
    /// The current token family.
    pub family: usize,
    /// Its first refresh token.
    pub first: String,
    /// The value in the Secret.
    pub configured: String,
    /// When a person last changed that value.
    pub changed: Duration,
    /// Whether the issuer's newest answer is unreadable, so that a new login is needed.
    pub is_garbled: bool,
    /// Whether a person has been asked to log in.
    pub is_attended: bool,
}

impl World {
    /// The state at the start. To be called within the runtime.
    #[must_use]
    pub fn new(scenario: Scenario, show: Show) -> Arc<Self> {
        let mut rng = Rng::with_seed(scenario.seed.wrapping_add(0x5eed));
        let mut issuers: Vec<Issuer> = scenario
            .issuers
            .iter()
            .enumerate()
            .map(|(index, manner)| Issuer::new(&format!("i{index}"), manner.clone()))
            .collect();
        let logins = logins(&scenario, &mut issuers);
        let jobs = scenario.jobs.iter().enumerate().map(|(index, plan)| Job {
            plan: plan.clone(),
            client: match plan.login {
                Some(login) => format!("login{login}"),
                None => format!("client{index}"),
            },
            renamed: 0,
            had_one: false,
            reconfigured: 0,
            is_retimed: false,
            is_reordered: false,
            denials: 0,
            life: scenario.life(index),
            clock_off_by: 0,
            excused_until: START,
            excuse: "the beginning",
            troubled: Duration::ZERO,
        });
        let facts = Facts {
            rng: rng.fork(),
            trace: Trace::new(show),
            tally: Tally::new(),
            violations: Vec::new(),
            issuers,
            ledger: Ledger::default(),
            pace: Pace::default(),
            jobs: jobs.collect(),
            logins,
            outputs: BTreeMap::new(),
            plugin_version: 1,
            store_failed: BTreeMap::new(),
            store_refused: None,
            down: BTreeSet::new(),
            broken: Vec::new(),
            lives: 0,
        };
        Arc::new(Self {
            scenario,
            time: Time::begin(),
            facts: Mutex::new(facts),
        })
    }

    /// The mutable state, locked. The lock must not be held across an await.
    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        lock(&self.facts)
    }

    /// Logs an event.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let now = self.time.now();
        self.facts().trace.line(now, what);
    }
}

fn logins(scenario: &Scenario, issuers: &mut [Issuer]) -> Vec<Login> {
    let mut logins: BTreeMap<usize, usize> = BTreeMap::new();
    for job in &scenario.jobs {
        if let Some(login) = job.login {
            logins.insert(login, job.issuer);
        }
    }
    let last = logins.keys().last().map_or(0, |last| last + 1);
    (0..last)
        .map(|login| {
            let issuer = logins.get(&login).copied().unwrap_or_default();
            let client = format!("login{login}");
            let (family, first) = issuers
                .get_mut(issuer)
                .map(|issuer| issuer.log_in(Duration::ZERO, &client))
                .unwrap_or_default();
            Login {
                issuer,
                client,
                family,
                configured: first.clone(),
                first,
                changed: Duration::ZERO,
                is_garbled: false,
                is_attended: false,
            }
        })
        .collect()
}

impl Facts {
    /// Logs an event.
    pub fn note(&mut self, now: Duration, what: fmt::Arguments<'_>) {
        self.trace.line(now, what);
    }

    /// Counts an event.
    pub fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// Records a violation.
    pub fn violated(&mut self, now: Duration, what: String) {
        self.trace.line(now, format_args!("VIOLATION {what}"));
        self.trace.keep();
        self.violations.push(Violation { at: now, what });
    }

    /// The number of the next start of a process.
    pub fn next_life(&mut self) -> ledger::Life {
        self.lives += 1;
        self.lives
    }

    /// Begins a fault.
    pub fn break_down(&mut self, part: Part, chance: f64, until: Duration) {
        self.broken.push(Broken {
            part,
            chance,
            until,
        });
    }

    /// Whether a fault hits this time, and which part it affects.
    pub fn strikes(&mut self, now: Duration, is_meant: impl Fn(Part) -> bool) -> Option<Part> {
        self.broken.retain(|broken| broken.until > now);
        let rng = &mut self.rng;
        let struck = self
            .broken
            .iter()
            .find(|broken| is_meant(broken.part) && rng.f64() < broken.chance)?;
        let part = struck.part;
        self.count(part.name());
        Some(part)
    }

    /// The jobs with this client.
    #[must_use]
    pub fn jobs_of(&self, client: &str) -> Vec<usize> {
        let jobs = self.jobs.iter().enumerate();
        let of_client = jobs.filter(|(_, job)| job.client == client);
        of_client.map(|(index, _)| index).collect()
    }

    /// A job's client has received an answer from its issuer.
    pub fn is_served(&mut self, job: usize) {
        if let Some(job) = self.jobs.get(job) {
            self.pace.succeeded(&(job.plan.issuer, job.client.clone()));
        }
    }

    /// A job's consumers need no valid token before `until`.
    pub fn excuse(&mut self, job: usize, now: Duration, until: Duration, why: &'static str) {
        let Some(job) = self.jobs.get_mut(job) else {
            return;
        };
        job.troubled = now;
        if until > job.excused_until {
            job.excused_until = until;
            job.excuse = why;
        }
    }

    /// A job was blocked until `end`: the next try is expected after the longest back-off, and needs time.
    pub fn hinder(&mut self, job: usize, now: Duration, end: Duration, why: &'static str) {
        let until = end + self.patience(job) + CALL;
        self.excuse(job, now, until, why);
    }

    /// The same for all jobs of this client.
    pub fn hinder_client(&mut self, client: &str, now: Duration, end: Duration, why: &'static str) {
        for job in self.jobs_of(client) {
            self.hinder(job, now, end, why);
        }
    }

    /// The same for all jobs.
    pub fn hinder_all(&mut self, now: Duration, end: Duration, why: &'static str) {
        for job in 0..self.jobs.len() {
            self.hinder(job, now, end, why);
        }
    }

    /// The longest back-off after a failure that passes by itself.
    fn patience(&self, job: usize) -> Duration {
        let Some(job) = self.jobs.get(job) else {
            return DOUBT;
        };
        if job.plan.login.is_some() {
            return DOUBT;
        }
        let (least, most) = (RETURN, Duration::from_secs(300));
        (job.life / 10).clamp(least, most)
    }

    /// A process was started with a clock that is so many milliseconds off.
    pub fn started(&mut self, process: usize, now: Duration, left_open: bool, off_by: i64) {
        self.down.remove(&process);
        self.pace.started(now);
        for job in 0..self.jobs.len() {
            self.misjudged(job, now, off_by);
            let has_login = self
                .jobs
                .get(job)
                .is_some_and(|job| job.plan.login.is_some());
            let until = if has_login && left_open {
                now + EXCHANGE + DOUBT + CALL
            } else {
                now + START + CALL
            };
            self.excuse(job, now, until, "a start");
        }
    }

    /// If the clock was set back since the token was obtained, the token looks younger to a process that only has its times; up
    /// to a minute that cannot be detected.
    fn misjudged(&mut self, job: usize, now: Duration, off_by: i64) {
        let Some(entry) = self.jobs.get(job) else {
            return;
        };
        let set_back = entry.clock_off_by.saturating_sub(off_by);
        let (Ok(set_back), Some(dies)) = (u64::try_from(set_back), self.latest_death(job)) else {
            return;
        };
        if set_back > 0 {
            let end = dies + Duration::from_millis(set_back);
            self.hinder(job, now, end, "a clock that was set back before a start");
        }
    }

    /// When the last of the tokens of a job's consumers expires.
    fn latest_death(&self, job: usize) -> Option<Duration> {
        let entry = self.jobs.get(job)?;
        let issuer = self.issuers.get(entry.plan.issuer)?;
        (0..entry.plan.outputs)
            .filter_map(|output| self.outputs.get(&super::jobs::path(job, output)))
            .filter_map(|value| issuer.issued(value))
            .map(|issued| issued.dies)
            .max()
    }

    /// A token is written to an output by a process whose clock is so many milliseconds off.
    pub fn published(&mut self, job: usize, path: String, value: &str, off_by: i64) {
        if let Some(job) = self.jobs.get_mut(job) {
            job.clock_off_by = off_by;
        }
        self.outputs.insert(path, value.to_owned());
    }

    /// Clocks were set, or all machines slept: each process notices within the longest sleep.
    pub fn jumped(&mut self, now: Duration, why: &'static str) {
        for job in 0..self.jobs.len() {
            self.excuse(job, now, now + LONGEST_SLEEP + CALL, why);
        }
    }

    /// Whether the store has refused to write since then.
    #[must_use]
    pub fn store_refused_since(&self, then: Duration) -> bool {
        self.store_refused.is_some_and(|at| at >= then)
    }

    /// A person logs in and configures the new refresh token.
    pub fn log_in(&mut self, login: usize, now: Duration) {
        let Some(entry) = self.logins.get_mut(login) else {
            return;
        };
        let Some(issuer) = self.issuers.get_mut(entry.issuer) else {
            return;
        };
        (entry.family, entry.first) = issuer.log_in(now, &entry.client);
        entry.configured.clone_from(&entry.first);
        (entry.changed, entry.is_garbled, entry.is_attended) = (now, false, false);
        let (client, family) = (entry.client.clone(), entry.family);
        self.count("logins");
        self.note(
            now,
            format_args!("somebody logs in as {client}: family {family}"),
        );
        for job in self.jobs_of(&client) {
            self.excuse(job, now, now + LOOK + DOUBT + CALL, "a new login");
        }
    }

    /// Whether the issuer would give the job a valid token for a correct request.
    #[must_use]
    pub fn could_have_one(&self, job: usize) -> bool {
        let login = self.jobs.get(job).and_then(|job| job.plan.login);
        let Some(login) = login.and_then(|login| self.logins.get(login)) else {
            return true;
        };
        let issuer = self.issuers.get(login.issuer);
        let family = issuer.and_then(|issuer| issuer.family(login.family));
        !login.is_garbled && family.is_some_and(|family| !family.is_dead)
    }

    /// Whether the job was blocked recently.
    #[must_use]
    pub fn has_reason(&self, job: usize, now: Duration) -> bool {
        let Some(entry) = self.jobs.get(job) else {
            return true;
        };
        !self.could_have_one(job) || now <= entry.troubled.max(entry.excused_until) + DOUBT
    }

    /// The outputs without a valid token, for whatever reason.
    #[must_use]
    pub fn dead_outputs(&self, now: Duration) -> usize {
        let outputs = |index: usize, job: &Job| {
            let issuer = self.issuers.get(job.plan.issuer);
            let paths = (0..job.plan.outputs).map(move |output| super::jobs::path(index, output));
            let is_dead = move |path: &String| {
                let value = self.outputs.get(path);
                value
                    .and_then(|value| issuer?.issued(value))
                    .is_none_or(|issued| issued.dies <= now)
            };
            paths.filter(is_dead).count()
        };
        let jobs = self.jobs.iter().enumerate();
        jobs.map(|(index, job)| outputs(index, job)).sum()
    }

    /// Checks what a consumer reads.
    pub fn read(&mut self, job: usize, path: &str, now: Duration) {
        self.count("reads");
        let Some(entry) = self.jobs.get(job) else {
            return;
        };
        let is_excused =
            now <= entry.excused_until || !self.down.is_empty() || !self.could_have_one(job);
        let value = self.outputs.get(path);
        let issuer = self.issuers.get(entry.plan.issuer);
        let issued = value.and_then(|value| issuer?.issued(value));
        // Until a session ends, the issuer gives no token of the next one.
        let grace = match issuer.map(|issuer| issuer.manner().expiry) {
            Some(Expiry::WithSession(_)) => SESSION + CALL,
            _ => Duration::ZERO,
        };
        let excuse = format!("{}, until {:?}", entry.excuse, entry.excused_until);
        let what = match (value, issued) {
            (None, _) if !is_excused => "has no token at all".to_owned(),
            (Some(value), None) => format!("read a torn or foreign token, {value}"),
            (Some(value), Some(issued)) if issued.client != entry.client => {
                format!("read a token of {}, {value}", issued.client)
            }
            (Some(value), Some(issued)) if issued.dies + grace <= now && !is_excused => {
                let dead_for = now - issued.dies;
                format!("read a token that died {dead_for:?} ago, {value}")
            }
            _ => return,
        };
        self.violated(
            now,
            format!("a consumer of job {job} ({path}) {what}; last excuse: {excuse}"),
        );
    }

    /// The issuer has handled a request: its effect is recorded, and the cause of a revocation is determined.
    pub fn dealt_with(&mut self, now: Duration, issuer: usize, id: ledger::Id, effect: Effect) {
        self.ledger.dealt_with(id, effect);
        match effect {
            Effect::Rotated(_) => self.count("rotations"),
            Effect::Repeated(_) => self.count("repeated within the grace"),
            Effect::Killed(link) => self.died(now, issuer, link),
            Effect::Expired(link) => self.expired(now, issuer, link),
            Effect::None | Effect::Used(_) | Effect::Refused(_) => {}
        }
    }

    /// A refresh token expired unused: checks whether there was a reason.
    fn expired(&mut self, now: Duration, issuer: usize, link: Link) {
        self.count("chains expired at the issuer");
        let issuer = self.issuers.get(issuer);
        let idle = issuer.and_then(|issuer| issuer.manner().idle);
        let client = issuer
            .and_then(|issuer| issuer.family(link.family))
            .map(|family| family.client.clone())
            .unwrap_or_default();
        let since = now.saturating_sub(idle.unwrap_or_default());
        let jobs = self.jobs.iter().filter(|job| job.client == client);
        let was_hindered = jobs
            .into_iter()
            .any(|job| job.troubled.max(job.excused_until) + DOUBT >= since);
        if !was_hindered {
            self.violated(
                now,
                format!("a chain of {client} died by our hand: {link:?} lay unused until it expired, and nothing was in the way"),
            );
        }
    }

    fn died(&mut self, now: Duration, issuer: usize, link: Link) {
        let verdict = self.ledger.judge((issuer, link));
        self.note(
            now,
            format_args!("issuer {issuer} kills family {}: {verdict:?}", link.family),
        );
        match verdict.sentence() {
            None => self.count("chains lost with the only answer"),
            Some(sentence) => {
                self.count("chains lost by our hand");
                self.violated(now, format!("{sentence} (issuer {issuer}, {link:?})"));
            }
        }
    }
}

impl Part {
    /// Its name in the totals.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable(_) => "fault: no connection",
            Self::RequestsLost(_) => "fault: request lost",
            Self::AnswersLost(_) => "fault: answer lost",
            Self::Slow(_) => "fault: slow answer",
            Self::Unwell(_) => "fault: 503",
            Self::Busy(..) => "fault: 429",
            Self::Impostor(_) => "fault: HTML instead",
            Self::ErrorInside200(_) => "fault: error inside 200",
            Self::Truncated(_) => "fault: answer cut off",
            Self::Odd(_) => "fault: odd answer",
            Self::Redirected(_) => "fault: redirect instead",
            Self::Maintenance(_) => "fault: HTML with 200 instead",
            Self::UserInfo(_) => "fault: second request failed",
            Self::Traps(_) => "fault: plugin trapped",
            Self::Hangs(_) => "fault: plugin hung",
            Self::Disk => "fault: store not writable",
            Self::DiskAnswer => "fault: store's answer lost",
            Self::Outputs => "fault: output not writable",
            Self::Secrets => "fault: secret not readable",
        }
    }
}

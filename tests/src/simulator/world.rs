//! The world of a run: issuers, outputs, configured secrets, what is broken just now, and what can be said of each job at any moment:
//! whether its consumers may be without a good token, until when, and why. Everything that happens passes here under one lock.

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

/// What a call takes while all is well, its write included, at most.
pub const CALL: Duration = Duration::from_secs(8);

/// Within so long after its start a process has asked for what is missing (DESIGN §9: overdue jobs go first).
const START: Duration = Duration::from_secs(15);

/// No sleep of the runner is longer, so within it a clock that was set or a machine that slept is noticed (DESIGN §5).
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// The longest wait before a request that went unanswered is repeated, and that of another process's intent (DESIGN §6).
const DOUBT: Duration = Duration::from_secs(300);

/// What a request with a rotating secret takes at most before its answer counts as lost (DESIGN §6.3).
pub const EXCHANGE: Duration = Duration::from_secs(60);

/// No issuer is asked for the next session's token later after the end of the last one (DESIGN §5, same expiry).
const SESSION: Duration = Duration::from_secs(1);

/// Within so long after an issuer is back its clients have what they want (issue 4, an outage of hours).
const RETURN: Duration = Duration::from_secs(60);

/// How often the secrets of a job are looked at that waits for somebody.
const LOOK: Duration = Duration::from_secs(30);

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When.
    pub at: Duration,
    /// The sentence.
    pub what: String,
}

/// Counts, by name.
pub type Tally = BTreeMap<&'static str, u64>;

/// A world; shared by all that happens in it.
#[derive(Debug)]
pub struct World {
    /// What was drawn.
    pub scenario: Scenario,
    /// The time.
    pub time: Time,
    facts: Mutex<Facts>,
}

/// All that is so now.
#[derive(Debug)]
pub struct Facts {
    /// Decides what was left to chance.
    pub rng: Rng,
    /// What happened.
    pub trace: Trace,
    /// How often.
    pub tally: Tally,
    /// What must not be and was.
    pub violations: Vec<Violation>,
    /// The issuers.
    pub issuers: Vec<Issuer>,
    /// What became of refresh tokens.
    pub ledger: Ledger,
    /// How often clients ask in vain.
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

/// A job as it is now.
#[derive(Debug)]
pub struct Job {
    /// What was drawn.
    pub plan: JobPlan,
    /// Who it is at its issuer.
    pub client: String,
    /// Times that it was renamed.
    pub renamed: u32,
    /// Whether it had a token under its name: of one that never had, a bug is not expected to pass soon (DESIGN §5).
    pub had_one: bool,
    /// Times that its source was configured anew.
    pub reconfigured: u32,
    /// Failures in a row that somebody has to mend.
    pub denials: u32,
    /// The life of its tokens, at most.
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
    /// At which issuer.
    pub issuer: usize,
    /// Who it is there.
    pub client: String,
    /// The family under way.
    pub family: usize,
    /// Its first refresh token.
    pub first: String,
    /// What the Secret holds.
    pub configured: String,
    /// When a person last put another value there.
    pub changed: Duration,
    /// Whether its newest answer came from the issuer so that nobody can read it: somebody has to log in anew.
    pub is_garbled: bool,
    /// Whether somebody has been called.
    pub is_attended: bool,
}

impl World {
    /// A world at its beginning. To be called within the runtime.
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

    /// All that is so, locked. Nobody waits for anything while they hold it.
    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        lock(&self.facts)
    }

    /// Notes what happened.
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
    /// Notes what happened.
    pub fn note(&mut self, now: Duration, what: fmt::Arguments<'_>) {
        self.trace.line(now, what);
    }

    /// Counts it.
    pub fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// Notes something that must not be.
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

    /// From now on something does not work.
    pub fn break_down(&mut self, part: Part, chance: f64, until: Duration) {
        self.broken.push(Broken {
            part,
            chance,
            until,
        });
    }

    /// Whether something does not work this time, and what.
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

    /// The jobs that are this client.
    #[must_use]
    pub fn jobs_of(&self, client: &str) -> Vec<usize> {
        let jobs = self.jobs.iter().enumerate();
        let of_client = jobs.filter(|(_, job)| job.client == client);
        of_client.map(|(index, _)| index).collect()
    }

    /// A job's client has an answer from its issuer.
    pub fn is_served(&mut self, job: usize) {
        if let Some(job) = self.jobs.get(job) {
            self.pace.succeeded(&(job.plan.issuer, job.client.clone()));
        }
    }

    /// The consumers of a job need not have a good token before `until`.
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

    /// Something was in a job's way that ends at `end`: the next try comes within what DESIGN §5 and §6 say, and is given time.
    pub fn hinder(&mut self, job: usize, now: Duration, end: Duration, why: &'static str) {
        let until = end + self.patience(job) + CALL;
        self.excuse(job, now, until, why);
    }

    /// The same, for all jobs that are this client.
    pub fn hinder_client(&mut self, client: &str, now: Duration, end: Duration, why: &'static str) {
        for job in self.jobs_of(client) {
            self.hinder(job, now, end, why);
        }
    }

    /// The same, for all jobs.
    pub fn hinder_all(&mut self, now: Duration, end: Duration, why: &'static str) {
        for job in 0..self.jobs.len() {
            self.hinder(job, now, end, why);
        }
    }

    /// The longest wait after a failure that passes by itself.
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

    /// A process was started, by a clock that is so many milliseconds off.
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

    /// A clock that was set back since the token was obtained makes it look younger to a process that only has its times, and up
    /// to a minute nobody can tell (DESIGN §5).
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

    /// When the last of the tokens dies that a job's consumers have.
    fn latest_death(&self, job: usize) -> Option<Duration> {
        let entry = self.jobs.get(job)?;
        let issuer = self.issuers.get(entry.plan.issuer)?;
        (0..entry.plan.outputs)
            .filter_map(|output| self.outputs.get(&super::jobs::path(job, output)))
            .filter_map(|value| issuer.issued(value))
            .map(|issued| issued.dies)
            .max()
    }

    /// A token is put where consumers read it, by a clock that is so many milliseconds off.
    pub fn published(&mut self, job: usize, path: String, value: &str, off_by: i64) {
        if let Some(job) = self.jobs.get_mut(job) {
            job.clock_off_by = off_by;
        }
        self.outputs.insert(path, value.to_owned());
    }

    /// Clocks were set, or all slept: everybody looks again within the longest sleep.
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

    /// Somebody logs in and configures the new refresh token.
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

    /// Whether the issuer could give a job a good token, if it were asked well.
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

    /// Whether something was in a job's way not long ago.
    #[must_use]
    pub fn has_reason(&self, job: usize, now: Duration) -> bool {
        let Some(entry) = self.jobs.get(job) else {
            return true;
        };
        !self.could_have_one(job) || now <= entry.troubled.max(entry.excused_until) + DOUBT
    }

    /// Outputs that have no token, or one that has died, whatever the reason.
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

    /// What a consumer reads is judged.
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
        // Before a session is over, nobody gets a token of the next one.
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

    /// The issuer dealt with a request: its effect is entered, and who is guilty of a death is asked.
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

    /// A refresh token lay unused for too long: was there a reason?
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
    /// In the totals.
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

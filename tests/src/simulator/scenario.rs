//! The scenario of a seed: issuers, jobs, and a schedule of faults. It is drawn completely before the run, so that a run is
//! determined by its scenario. Each seed enables only some kinds of fault, so that the effects of one kind are not masked by
//! others.

use std::time::Duration;

use fastrand::Rng;

use super::issuer::{Expiry, Manner, Rotation};

/// The approximate limit of refreshes in a run, so that ten thousand seeds take ten minutes on two cores.
const REFRESHES: f64 = 75.0;

/// The time without new faults at the end: enough to recover from everything but a wait of an hour.
pub const QUIET: Duration = Duration::from_secs(15 * 60);

/// The time without faults at the start, in which all jobs get their first tokens.
const CALM: Duration = Duration::from_secs(20);

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// The plan of a run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The seed it was drawn from.
    pub seed: u64,
    /// Its duration, including the quiet end.
    pub span: Duration,
    /// Processes that share the store: one with exclusive access, or two.
    pub processes: usize,
    /// Whether the store is encrypted.
    pub is_sealed: bool,
    /// The issuers.
    pub issuers: Vec<Manner>,
    /// The jobs.
    pub jobs: Vec<JobPlan>,
    /// The faults, in the order of time.
    pub weather: Vec<(Duration, Trouble)>,
}

/// The plan of a job.
#[derive(Debug, Clone)]
pub struct JobPlan {
    /// Its issuer.
    pub issuer: usize,
    /// The login that its refresh token comes from; none: client credentials.
    pub login: Option<usize>,
    /// What its source does besides the exchange.
    pub habit: Habit,
    /// Whether the newest refresh token is written back to where the first one is configured.
    pub writes_back: bool,
    /// The number of its outputs.
    pub outputs: usize,
}

/// What a source does besides the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Nothing.
    Plain,
    /// It requests the user's name after the exchange, before it stores the successor.
    AsksMore,
}

/// A fault or an operator's action.
#[derive(Debug, Clone, PartialEq)]
pub enum Trouble {
    /// A process is killed, and started again after `down`.
    Crash {
        /// The process.
        process: usize,
        /// The point at which it is killed.
        aim: Aim,
        /// How long it stays down.
        down: Duration,
        /// How often it is killed again soon after its start.
        again: u32,
        /// An operator's action meanwhile.
        meanwhile: Option<Hand>,
    },
    /// A process is stopped gracefully, and started again.
    Restart {
        /// The process.
        process: usize,
        /// An operator's action meanwhile.
        meanwhile: Option<Hand>,
    },
    /// A part is faulty for a while.
    Broken {
        /// The part.
        part: Part,
        /// The probability, from 0 to 1.
        chance: f64,
        /// The duration.
        lasts: Duration,
    },
    /// A machine's wall clock is set.
    ClockSet {
        /// The process.
        process: usize,
        /// Milliseconds.
        by: i64,
    },
    /// All our machines are suspended.
    Suspend(Duration),
    /// An operator acts while the processes run.
    Hand(Hand),
}

/// An operator's action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hand {
    /// Gives a job another name.
    Rename(usize),
    /// Changes a job's configuration without changing its requests.
    Reconfigure(usize),
    /// Changes when a job's token is refreshed.
    Retime(usize),
    /// Writes a job's outputs in another order.
    Reorder(usize),
    /// Takes a job out of the configuration, and puts it back at once.
    TakeOut(usize),
    /// Installs another version of the plugin.
    Upgrade,
    /// Logs in again and configures the new refresh token.
    LogIn(usize),
    /// Restores the first refresh token of the current login in its Secret.
    Restore(usize),
    /// Revokes the session at the issuer.
    Revoke(usize),
}

/// A part that may be faulty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// No connection to this issuer can be made.
    Unreachable(usize),
    /// Requests to this issuer are lost.
    RequestsLost(usize),
    /// Its answers are lost.
    AnswersLost(usize),
    /// Its answers are delayed by 20 to 50 s.
    Slow(usize),
    /// Its database is down: it answers 503 without an effect.
    Unwell(usize),
    /// It answers 429 to all requests, with a `Retry-After` of so many seconds.
    Busy(usize, u64),
    /// A gateway answers in its place with 502 and HTML, without an effect.
    Impostor(usize),
    /// It answers 200 with an error, without an effect.
    ErrorInside200(usize),
    /// Its answers are truncated at random.
    Truncated(usize),
    /// Its answers are complete but malformed: compressed, doubled, with a wrong length…
    Odd(usize),
    /// A gateway redirects, without an effect.
    Redirected(usize),
    /// A gateway answers 200 with a page for people, without an effect.
    Maintenance(usize),
    /// The endpoint of the source's request after the exchange.
    UserInfo(usize),
    /// The plugin traps after the exchange.
    Traps(usize),
    /// The plugin hangs after the exchange.
    Hangs(usize),
    /// The state store cannot be written.
    Disk,
    /// The state store writes and reports a failure.
    DiskAnswer,
    /// Outputs cannot be written.
    Outputs,
    /// Configured secrets cannot be read.
    Secrets,
}

/// The point at which a process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aim {
    /// The kind of step that is counted.
    pub step: Step,
    /// Its ordinal number.
    pub nth: u32,
    /// Before its effect or after.
    pub edge: Edge,
}

/// An operation of a process at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// It waits.
    Timer,
    /// It reads the store.
    Read,
    /// It writes the store.
    Commit,
    /// It sends a request.
    Send,
    /// It writes an output.
    Publish,
    /// It reads a configured secret.
    Secret,
}

/// A point within a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// Before its effect.
    Before,
    /// In the middle: a request has reached its issuer and the answer is under way; for other steps, after the effect.
    Midway,
    /// After its effect, before the process learns of it.
    After,
}

impl Scenario {
    /// Draws the scenario of `seed`.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let issuers: Vec<Manner> = (0..rng.usize(1..4)).map(|_| manner(&mut rng)).collect();
        let jobs = jobs(&mut rng, &issuers);
        let span = span(&mut rng, &issuers, &jobs);
        let processes = if rng.u32(0..4) == 0 { 2 } else { 1 };
        let mut scenario = Self {
            seed,
            span,
            processes,
            is_sealed: rng.u32(0..8) != 0,
            issuers,
            jobs,
            weather: Vec::new(),
        };
        scenario.weather = Weather::new(&mut rng, &scenario).draw();
        scenario
    }

    /// Three months of a hundred jobs, most with rotating refresh tokens, and occasional crashes.
    #[must_use]
    pub fn season(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let half_a_day = |rotation| Manner {
            expiry: Expiry::After(Duration::from_secs(12 * HOUR)),
            rotation,
            idle: None,
            per_minute: None,
        };
        let grace = Duration::from_secs(10);
        let issuers = vec![
            half_a_day(Rotation::Never),
            half_a_day(Rotation::Always { grace }),
            half_a_day(Rotation::Always {
                grace: Duration::ZERO,
            }),
        ];
        let jobs = (0..100)
            .map(|index| JobPlan {
                issuer: index % 3,
                login: (index % 3 != 0).then_some(index),
                habit: Habit::Plain,
                writes_back: false,
                outputs: 1,
            })
            .collect();
        let span = Duration::from_secs(90 * DAY);
        let days = 1..(span.as_secs() / DAY - 1);
        let weather = days
            .map(|day| {
                let crash = Trouble::Crash {
                    process: 0,
                    aim: aim(&mut rng),
                    down: Duration::from_secs(2),
                    again: 0,
                    meanwhile: None,
                };
                (Duration::from_secs(day * DAY + rng.u64(0..HOUR)), crash)
            })
            .collect();
        Self {
            seed,
            span,
            processes: 1,
            is_sealed: true,
            issuers,
            jobs,
            weather,
        }
    }

    /// The longest life of a job's token.
    #[must_use]
    pub fn life(&self, job: usize) -> Duration {
        let issuer = self.jobs.get(job).map(|job| job.issuer).unwrap_or_default();
        self.issuers
            .get(issuer)
            .map(Manner::life)
            .unwrap_or_default()
    }
}

fn manner(rng: &mut Rng) -> Manner {
    const LIVES: [u64; 9] = [
        10,
        30,
        60,
        5 * MINUTE,
        5 * MINUTE,
        15 * MINUTE,
        HOUR,
        HOUR,
        12 * HOUR,
    ];
    let life = Duration::from_secs(rng.choice(LIVES).unwrap_or(HOUR));
    let grace = |seconds| Rotation::Always {
        grace: Duration::from_secs(seconds),
    };
    Manner {
        expiry: if rng.u32(0..8) == 0 {
            Expiry::WithSession(life.max(Duration::from_secs(60)))
        } else {
            Expiry::After(life)
        },
        rotation: match rng.u32(0..8) {
            0 => Rotation::Never,
            1 | 2 => grace(10),
            3 => grace(60),
            _ => grace(0),
        },
        idle: (rng.u32(0..4) == 0)
            .then(|| rng.choice([30 * MINUTE, 2 * HOUR, DAY]))
            .flatten()
            .map(Duration::from_secs),
        per_minute: (rng.u32(0..6) == 0).then(|| rng.u32(20..60)),
    }
}

fn jobs(rng: &mut Rng, issuers: &[Manner]) -> Vec<JobPlan> {
    let mut logins = 0;
    let mut jobs: Vec<JobPlan> = Vec::new();
    for _ in 0..rng.usize(3..13) {
        let issuer = rng.usize(0..issuers.len());
        let shared = jobs
            .iter()
            .find(|other| other.issuer == issuer)
            .and_then(|other| other.login);
        let login = match rng.u32(0..8) {
            0 | 1 => None,
            2 if shared.is_some() => shared,
            _ => {
                logins += 1;
                Some(logins - 1)
            }
        };
        jobs.push(JobPlan {
            issuer,
            login,
            habit: if rng.u32(0..4) == 0 {
                Habit::AsksMore
            } else {
                Habit::Plain
            },
            writes_back: rng.u32(0..4) == 0,
            outputs: rng.usize(1..3),
        });
    }
    jobs
}

/// The duration: hours to days, shorter where tokens are short-lived.
fn span(rng: &mut Rng, issuers: &[Manner], jobs: &[JobPlan]) -> Duration {
    let lives = jobs.iter().filter_map(|job| issuers.get(job.issuer));
    let per_second: f64 = lives
        .map(|issuer| issuer.life().min(issuer.idle.unwrap_or(Duration::MAX)))
        .map(|between| 1.4 / between.as_secs_f64().max(1.0))
        .sum();
    let longest = Duration::from_secs_f64(REFRESHES / per_second.max(f64::MIN_POSITIVE))
        .min(Duration::from_secs(3 * DAY));
    longest
        .mul_f64(0.5 + rng.f64() / 2.0)
        .max(Duration::from_secs(10 * MINUTE))
        + QUIET
}

fn aim(rng: &mut Rng) -> Aim {
    // Most weight on the steps in which a chain can be lost.
    const STEPS: [Step; 12] = [
        Step::Timer,
        Step::Read,
        Step::Commit,
        Step::Commit,
        Step::Commit,
        Step::Send,
        Step::Send,
        Step::Send,
        Step::Send,
        Step::Send,
        Step::Publish,
        Step::Secret,
    ];
    Aim {
        step: rng.choice(STEPS).unwrap_or(Step::Timer),
        nth: rng.u32(1..6),
        edge: rng
            .choice([Edge::Before, Edge::Midway, Edge::Midway, Edge::After])
            .unwrap_or(Edge::Before),
    }
}

/// Draws the faults.
struct Weather<'a> {
    rng: &'a mut Rng,
    scenario: &'a Scenario,
    /// The kinds of fault that this seed enables.
    kinds: Vec<u32>,
}

/// The number of kinds of fault.
const KINDS: u32 = 27;

impl<'a> Weather<'a> {
    fn new(rng: &'a mut Rng, scenario: &'a Scenario) -> Self {
        let mut kinds: Vec<u32> = (0..KINDS).filter(|_| rng.u32(0..3) == 0).collect();
        if kinds.is_empty() {
            kinds.push(0);
        }
        Self {
            rng,
            scenario,
            kinds,
        }
    }

    fn draw(mut self) -> Vec<(Duration, Trouble)> {
        let end = self.scenario.span.saturating_sub(QUIET);
        let mut troubles = Vec::new();
        for _ in 0..self.rng.usize(4..16) {
            let at = CALM + end.saturating_sub(CALM).mul_f64(self.rng.f64());
            let left = end.saturating_sub(at);
            troubles.push((at, self.trouble(left)));
        }
        troubles.sort_by_key(|(at, _)| *at);
        troubles
    }

    fn trouble(&mut self, left: Duration) -> Trouble {
        let kind = self.rng.choice(self.kinds.iter().copied()).unwrap_or(0);
        let issuer = self.rng.usize(0..self.scenario.issuers.len());
        let job = self.rng.usize(0..self.scenario.jobs.len());
        match kind {
            0..=2 => self.crash(0),
            3 => {
                let again = self.rng.u32(2..8);
                self.crash(again)
            }
            4 => Trouble::Restart {
                process: self.process(),
                meanwhile: self.maybe_hand(),
            },
            5 => self.broken(Part::Unreachable(issuer), left),
            6 => self.broken(Part::RequestsLost(issuer), left),
            7 => self.broken(Part::AnswersLost(issuer), left),
            8 => self.broken(Part::Slow(issuer), left),
            9 => self.broken(Part::Unwell(issuer), left),
            10 => {
                let retry_after = self.rng.choice([1, 10, 60, 300]).unwrap_or(1);
                self.broken(Part::Busy(issuer, retry_after), left)
            }
            11 => self.broken(Part::Impostor(issuer), left),
            12 => self.broken(Part::ErrorInside200(issuer), left),
            13 => self.broken(Part::Truncated(issuer), left),
            14 => self.broken(Part::UserInfo(issuer), left),
            15 => self.broken(Part::Traps(job), left),
            16 => self.broken(Part::Hangs(job), left),
            17 => self.broken(Part::Disk, left),
            18 => self.broken(Part::DiskAnswer, left),
            19 => self.broken(Part::Outputs, left),
            20 => self.broken(Part::Secrets, left),
            21 => self.clock_set(),
            22 => Trouble::Suspend(Duration::from_secs(self.rng.u64(5..4 * HOUR))),
            23 => self.broken(Part::Odd(issuer), left),
            24 => self.broken(Part::Redirected(issuer), left),
            25 => self.broken(Part::Maintenance(issuer), left),
            _ => Trouble::Hand(self.hand()),
        }
    }

    fn process(&mut self) -> usize {
        self.rng.usize(0..self.scenario.processes)
    }

    fn crash(&mut self, again: u32) -> Trouble {
        Trouble::Crash {
            process: self.process(),
            aim: aim(self.rng),
            down: match self.rng.u32(0..4) {
                0 => Duration::ZERO,
                1 => Duration::from_secs(self.rng.u64(10..20 * MINUTE)),
                _ => Duration::from_millis(self.rng.u64(100..5000)),
            },
            again,
            meanwhile: self.maybe_hand(),
        }
    }

    fn maybe_hand(&mut self) -> Option<Hand> {
        (self.rng.u32(0..3) == 0).then(|| self.hand())
    }

    fn hand(&mut self) -> Hand {
        let job = self.rng.usize(0..self.scenario.jobs.len());
        match self.rng.u32(0..9) {
            6 => Hand::Retime(job),
            7 => Hand::Reorder(job),
            8 => Hand::TakeOut(job),
            0 => Hand::Rename(job),
            1 => Hand::Reconfigure(job),
            2 => Hand::Upgrade,
            3 => Hand::LogIn(job),
            4 => Hand::Restore(job),
            _ => Hand::Revoke(job),
        }
    }

    /// The clocks of two processes stay within what the journal tolerates; that of a single one may be set to anything.
    fn clock_set(&mut self) -> Trouble {
        let by = if self.scenario.processes > 1 {
            self.rng.i64(-2000..2000)
        } else {
            let most = self.rng.choice([3_000, 90_000, 7_200_000]).unwrap_or(3_000);
            self.rng.i64(-most..most)
        };
        Trouble::ClockSet {
            process: self.process(),
            by,
        }
    }

    fn broken(&mut self, part: Part, left: Duration) -> Trouble {
        let longest = match self.rng.u32(0..6) {
            0 => 6 * HOUR,
            1 | 2 => 30 * MINUTE,
            _ => 3 * MINUTE,
        };
        let chance = match self.rng.u32(0..3) {
            0 => 0.2,
            1 => 0.6,
            _ => 1.0,
        };
        Trouble::Broken {
            part,
            chance,
            lasts: Duration::from_secs(self.rng.u64(5..longest)).min(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_stands_for_one_scenario_and_another_for_another() {
        let drawn = |seed| format!("{:?}", Scenario::draw(seed));
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }

    #[test]
    fn nothing_goes_wrong_in_the_quiet_end() {
        for seed in 0..500 {
            let scenario = Scenario::draw(seed);
            let end = scenario.span - QUIET;
            for (at, trouble) in scenario.weather {
                assert!(at <= end, "seed {seed}: {trouble:?}");
                if let Trouble::Broken { lasts, .. } = trouble {
                    assert!(at + lasts <= end, "seed {seed}: {trouble:?}");
                }
            }
        }
    }
}

//! A circuit breaker for all jobs that ask one issuer as the same client: it opens when the issuer is unavailable or overloaded,
//! or when the issuer refuses the client itself. While it is open, one job at a time probes the issuer and the others wait, which
//! does not count as a failure of theirs; the first answer closes it, and all go on. A closed breaker has no state, so none is
//! stored.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backoff::{obeyed, scheduled_wait};
use super::scaled;
use crate::model::failure::{Area, Code, Failure, FailureKind, HostCode};
use crate::model::time::Reading;

/// The first wait between two probes is up to this long.
const FIRST: Duration = Duration::from_secs(1);

/// The part of the first wait that jitter never takes away.
const LEAST_PART: u32 = 4;

/// From here on probes are this far apart: a little less than two a minute for as long as an outage lasts, and an issuer that
/// came back is noticed early enough that all jobs are fresh within a minute.
const STEADY: Duration = Duration::from_secs(31);

/// Steady probes are up to this part later, at random, so that many processes do not ask in step.
const STEADY_JITTER: f64 = 0.1;

/// Why no request of this client to the issuer will succeed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The issuer is unavailable or overloaded, which passes by itself.
    IssuerInTrouble,
    /// The issuer works and refuses the client: its credentials have to be changed here or at the issuer.
    ClientRefused,
}

/// What the end of a call says about the issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It answered and knows the client, whatever it said to this job.
    Answered,
    /// No request of this client will succeed now.
    Trouble {
        /// Why.
        cause: Cause,
        /// How long the issuer asks us to stay away.
        retry_after: Option<Duration>,
    },
    /// A request was possibly sent, and the outcome says nothing about the issuer.
    Unclear,
    /// Nothing was sent: something on our own side failed before.
    Unsent,
}

/// OAuth error codes of an issuer that refuses the client (RFC 6749 §5.2), and the statuses of answers without an error code.
const REFUSALS: [&str; 4] = [
    "invalid_client",
    "unauthorized_client",
    "http.401",
    "http.403",
];

/// The OAuth plugins' codes for answers of another kind than token endpoints give.
const OF_ANOTHER_KIND: [&str; 2] = ["answer.unreadable", "answer.no-token"];

/// What a failed call says about the issuer. `was_served`: the job has had a token from there. For a job that never had one, an
/// answer that comes from no token endpoint (a redirect, a page, another object) means that its URL is wrong or the issuer does
/// not know the client; later, that the issuer is under maintenance.
#[must_use]
pub fn sign(failure: &Failure, was_served: bool) -> Sign {
    match &failure.code {
        Some(Code::Host(code)) => sign_of_host(*code, failure),
        Some(Code::Said(word)) => sign_of_word(word, failure, was_served),
        None => sign_of_word("", failure, was_served),
    }
}

fn trouble(cause: Cause, failure: &Failure) -> Sign {
    Sign::Trouble {
        cause,
        retry_after: failure.retry_after,
    }
}

fn sign_of_host(code: HostCode, failure: &Failure) -> Sign {
    use HostCode::{
        ChainInDoubt, HostTimeout, PluginCompile, PluginCompileTimeout, PluginDigestMismatch,
        PluginInvalidConfig, PluginInvalidSchema, PluginInvalidSection, PluginMissingImport,
        PluginNotAComponent, PluginNotFound, PluginRefusedImport, PluginTimeout, PluginTooLarge,
        PluginUnknownVersion, PluginUnreadable, PluginWrongWorld,
    };
    match (code, code.area()) {
        // Calls that ran into their timeout while they waited for an answer.
        (PluginTimeout | HostTimeout, _) if failure.kind == FailureKind::Unavailable => {
            trouble(Cause::IssuerInTrouble, failure)
        }
        // Plugins that did not get to run.
        (
            PluginCompile | PluginCompileTimeout | PluginNotFound | PluginUnreadable
            | PluginDigestMismatch | PluginWrongWorld | PluginMissingImport | PluginTooLarge
            | PluginNotAComponent | PluginUnknownVersion | PluginRefusedImport
            | PluginInvalidSection | PluginInvalidSchema | PluginInvalidConfig,
            _,
        ) => Sign::Unsent,
        (ChainInDoubt, _) | (_, Area::Plugin) => Sign::Unclear,
        // Local failures, before anything is sent: secrets, certificate files, the state store, the API server that keeps
        // secrets, a chain that must not be used.
        (
            _,
            Area::Secret | Area::Tls | Area::State | Area::Kubernetes | Area::Crypto | Area::Chain,
        ) => Sign::Unsent,
        (_, area) => match (failure.kind, area) {
            (FailureKind::Unavailable, _) => trouble(Cause::IssuerInTrouble, failure),
            (FailureKind::Internal, _) => Sign::Unclear,
            (_, Area::Http) => Sign::Unsent,
            _ => Sign::Unclear,
        },
    }
}

/// `word`: the failure code that the plugin reported, its own or its issuer's.
fn sign_of_word(word: &str, failure: &Failure, was_served: bool) -> Sign {
    match failure.kind {
        _ if REFUSALS.contains(&word) => trouble(Cause::ClientRefused, failure),
        FailureKind::Unavailable if !was_served && is_of_another_kind(word) => {
            trouble(Cause::ClientRefused, failure)
        }
        FailureKind::Unavailable => trouble(Cause::IssuerInTrouble, failure),
        FailureKind::Internal => Sign::Unclear,
        FailureKind::Denied | FailureKind::InvalidConfig => match word.split_once('.') {
            _ if status(word).is_some() => Sign::Answered,
            // The OAuth plugins' code for an answer that could be read and lacks what the job needs.
            Some(("answer", _)) => Sign::Answered,
            Some(_) => Sign::Unclear,
            None if word.is_empty() => Sign::Unclear,
            None => Sign::Answered,
        },
    }
}

/// Whether a failure's code says that the issuer refuses the client.
#[must_use]
pub fn is_refusal(code: Option<&Code>) -> bool {
    matches!(code, Some(Code::Said(word)) if REFUSALS.contains(&word.as_str()))
}

fn is_of_another_kind(code: &str) -> bool {
    matches!(status(code), Some(300..400)) || OF_ANOTHER_KIND.contains(&code)
}

/// A failed call with its final classification: a 4xx status without an OAuth error is what a gateway answers that does not find
/// the issuer behind it. That passes by itself where the job `was_served`; for a job that never was, its URL is wrong.
#[must_use]
pub fn taken(failure: Failure, was_served: bool) -> Failure {
    let is_gateways = match &failure.code {
        Some(Code::Said(word)) => matches!(status(word), Some(400..500)),
        _ => false,
    };
    let is_gateways = is_gateways && !is_refusal(failure.code.as_ref());
    if was_served && is_gateways {
        Failure {
            kind: FailureKind::Unavailable,
            ..failure
        }
    } else {
        failure
    }
}

/// The status in the OAuth plugins' code for an answer without an OAuth error.
fn status(code: &str) -> Option<u16> {
    code.strip_prefix("http.")?.parse().ok()
}

/// Whether a failed call sent nothing to an issuer and is about something local that may be corrected at any time: a secret, a
/// permission, a plugin's file, the trusted certificates. Not a chain, which only a new login corrects.
#[must_use]
pub fn is_local(failure: &Failure) -> bool {
    let code = failure.host_code();
    let is_chains = code.is_some_and(|code| code.area() == Area::Chain);
    (sign(failure, true) == Sign::Unsent && !is_chains) || code == Some(HostCode::HttpTls)
}

/// How long after the `nth` failure (from 1) the next probe may go. `sample` is from 0 to 1.
#[must_use]
pub fn spacing(cause: Cause, nth: u32, sample: f64) -> Duration {
    let longest = match cause {
        Cause::ClientRefused => scheduled_wait(nth),
        Cause::IssuerInTrouble => {
            FIRST.saturating_mul(1_u32.checked_shl(nth.saturating_sub(1)).unwrap_or(u32::MAX))
        }
    };
    match cause {
        _ if longest >= STEADY => STEADY + scaled(STEADY, STEADY_JITTER * sample),
        Cause::ClientRefused => longest,
        Cause::IssuerInTrouble => scaled(longest, sample).max(FIRST / LEAST_PART),
    }
}

/// An open breaker and the jobs (`J`) behind it.
#[derive(Debug, Clone)]
pub struct CircuitBreaker<J> {
    /// Why it is open.
    cause: Cause,
    /// Failures so far: the one that opened the breaker, and those of probes.
    failures: u32,
    /// When the next probe may go, on the boot clock.
    next: Duration,
    /// The last `Retry-After` of the issuer.
    rest: Rest,
    /// When the next probe would have gone without an expedited one, on the boot clock: it goes by then, whatever the outcome of
    /// the expedited one.
    otherwise: Option<Duration>,
    probe: Option<J>,
    /// The waiting jobs in the order of their probes: first those that failed least while the breaker was open, so that a job
    /// with a failure of its own does not hold up the others; then those whose tokens expire first.
    line: BTreeSet<(QueuePosition, J)>,
    positions: BTreeMap<J, QueuePosition>,
    affected: BTreeMap<J, Affected>,
    /// How many jobs failed because of the issuer.
    in_trouble: u32,
}

/// A pause that an issuer asked for with `Retry-After`, on the boot clock.
#[derive(Debug, Clone, Copy)]
struct Rest {
    from: Duration,
    until: Duration,
}

/// A job's position in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct QueuePosition {
    failures: u32,
    /// When its token expires, on the boot clock.
    expires_at: Duration,
}

/// A job's failures while the breaker was open.
#[derive(Debug, Clone, Copy)]
struct Affected {
    failures: u32,
    /// Whether it failed because of the issuer.
    in_trouble: bool,
    /// Whether it failed for no other reason.
    by_trouble_alone: bool,
}

/// The jobs that go on when a circuit breaker closes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed<J> {
    /// Those that waited for their turn.
    pub waiting: Vec<J>,
    /// Those that failed only because of the issuer: they need not wait any longer. A job that failed before the outage, or again
    /// after it, keeps its own back-off, since its failure is its own.
    pub affected: Vec<J>,
}

impl<J: Copy + Ord> CircuitBreaker<J> {
    /// A breaker that opens because of a failure of `job`. `was_well`: the job had not failed before.
    #[must_use]
    pub fn open(
        job: J,
        cause: Cause,
        retry_after: Option<Duration>,
        was_well: bool,
        now: Reading,
        sample: f64,
    ) -> Self {
        let mut breaker = Self {
            cause,
            failures: 0,
            next: now.boot,
            rest: Rest {
                from: now.boot,
                until: now.boot,
            },
            otherwise: None,
            probe: None,
            line: BTreeSet::new(),
            positions: BTreeMap::new(),
            affected: BTreeMap::new(),
            in_trouble: 0,
        };
        breaker.record(job, true, was_well);
        breaker.obey(retry_after, now);
        breaker.failed(cause, now, sample);
        breaker
    }

    /// Puts a job into the queue of probes. `expires_at` is when its token expires, on the boot clock; none: never.
    pub fn wait(&mut self, job: J, expires_at: Option<Duration>) {
        self.leave(job);
        let place = QueuePosition {
            failures: self.failures_of(job),
            expires_at: expires_at.unwrap_or(Duration::MAX),
        };
        self.line.insert((place, job));
        self.positions.insert(job, place);
    }

    /// Takes a job out of the queue: it no longer wants to ask, or not as this client.
    pub fn leave(&mut self, job: J) {
        if let Some(place) = self.positions.remove(&job) {
            self.line.remove(&(place, job));
        }
        if self.probe == Some(job) {
            self.probe = None;
        }
    }

    /// Removes a job that no longer asks as this client, with its failures.
    pub fn forget(&mut self, job: J) {
        self.leave(job);
        self.clear(job);
    }

    fn clear(&mut self, job: J) {
        let affected = self.affected.remove(&job);
        self.in_trouble -= u32::from(affected.is_some_and(|affected| affected.in_trouble));
    }

    /// Whether no job is left that failed, waits, or probes.
    #[must_use]
    pub fn is_deserted(&self) -> bool {
        self.affected.is_empty() && self.line.is_empty() && self.probe.is_none()
    }

    /// When the next probe may go, on the boot clock; none: no job waits, or a probe is under way.
    ///
    /// If only one job failed, the cause may be its own: the next job finds out, and need not wait for that.
    #[must_use]
    pub fn probes_at(&self) -> Option<Duration> {
        let (place, _) = self.line.first()?;
        self.probe
            .is_none()
            .then(|| self.probes_from(place.failures, Some(place.expires_at)))
    }

    /// From when on a job that is not in the queue yet may ask if it then comes first, on the boot clock. `expires_at` as for
    /// [`Self::wait`].
    #[must_use]
    pub fn takes_from(&self, job: J, expires_at: Option<Duration>) -> Duration {
        self.probes_from(self.failures_of(job), expires_at)
    }

    fn probes_from(&self, failures: u32, expires_at: Option<Duration>) -> Duration {
        let tells = failures == 0 && self.in_trouble <= 1;
        let at = if tells { Duration::ZERO } else { self.next };
        at.max(self.rests_until(expires_at))
    }

    fn failures_of(&self, job: J) -> u32 {
        self.affected
            .get(&job)
            .map_or(0, |affected| affected.failures)
    }

    /// Until when a job whose token expires at this time respects the issuer's `Retry-After`.
    fn rests_until(&self, expires_at: Option<Duration>) -> Duration {
        let Rest { from, until } = self.rest;
        let left = expires_at.map(|at| at.saturating_sub(from));
        from.saturating_add(obeyed(Some(until.saturating_sub(from)), left))
    }

    /// The job that may ask now, if it is time.
    pub fn take_probe(&mut self, now: Reading) -> Option<J> {
        self.probes_at().filter(|at| *at <= now.boot)?;
        let (_, job) = self.line.pop_first()?;
        self.positions.remove(&job);
        self.probe = Some(job);
        Some(job)
    }

    /// Lets the next probe go at once: something changed, or an operator asked for it.
    pub fn hurry(&mut self, now: Reading) {
        let at = self.next.max(self.rest.until);
        if at > now.boot {
            self.otherwise = Some(at);
        }
        self.next = now.boot;
        self.rest.until = now.boot;
    }

    /// Records how a job's call ended, be it the probe or a call that began before the breaker opened. `was_well`: the job had
    /// not failed before. Returns whether the breaker closes.
    #[must_use]
    pub fn ended(&mut self, job: J, sign: Sign, was_well: bool, now: Reading, sample: f64) -> bool {
        let was_probe = self.probe == Some(job);
        if was_probe {
            self.probe = None;
        }
        match sign {
            Sign::Answered => {
                self.clear(job);
                return was_probe || self.rest.until <= now.boot;
            }
            Sign::Trouble { cause, retry_after } => {
                self.record(job, true, was_well);
                self.obey(retry_after, now);
                if was_probe {
                    self.failed(cause, now, sample);
                }
            }
            Sign::Unclear | Sign::Unsent => {
                self.record(job, false, false);
                if was_probe && sign == Sign::Unclear {
                    self.next = now
                        .boot
                        .saturating_add(spacing(self.cause, self.failures, sample));
                }
            }
        }
        false
    }

    fn failed(&mut self, cause: Cause, now: Reading, sample: f64) {
        self.cause = cause;
        self.failures = self.failures.saturating_add(1);
        self.next = now
            .boot
            .saturating_add(spacing(cause, self.failures, sample));
        self.otherwise = self.otherwise.filter(|at| *at > now.boot);
        if let Some(otherwise) = self.otherwise {
            self.next = self.next.min(otherwise);
        }
    }

    fn obey(&mut self, retry_after: Option<Duration>, now: Reading) {
        if let Some(wait) = retry_after {
            let until = now.boot.saturating_add(obeyed(Some(wait), None));
            self.rest = Rest {
                from: now.boot,
                until: self.rest.until.max(until),
            };
        }
    }

    fn record(&mut self, job: J, in_trouble: bool, by_trouble_alone: bool) {
        let affected = self.affected.entry(job).or_insert(Affected {
            failures: 0,
            in_trouble: false,
            by_trouble_alone,
        });
        affected.failures = affected.failures.saturating_add(1);
        if in_trouble && !affected.in_trouble {
            affected.in_trouble = true;
            self.in_trouble += 1;
        }
    }

    /// Closes it, and returns the jobs that go on.
    #[must_use]
    pub fn close(self) -> Closed<J> {
        let affected = self.affected.into_iter();
        Closed {
            waiting: self.line.into_iter().map(|(_, job)| job).collect(),
            affected: affected
                .filter(|(_, affected)| affected.by_trouble_alone)
                .map(|(job, _)| job)
                .collect(),
        }
    }

    /// Whether this job waits for its turn.
    #[must_use]
    pub fn is_waiting(&self, job: J) -> bool {
        self.positions.contains_key(&job)
    }

    /// Whether it is this job's turn.
    #[must_use]
    pub fn is_probe(&self, job: J) -> bool {
        self.probe == Some(job)
    }

    /// The waiting jobs, unordered.
    pub fn waiting(&self) -> impl Iterator<Item = J> {
        self.positions.keys().copied()
    }

    /// Why it is open.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        self.cause
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::time::Timestamp;

    #[test]
    fn a_probe_that_somebody_asked_for_puts_off_no_other() {
        for cause in [Cause::IssuerInTrouble, Cause::ClientRefused] {
            for (failures, retry_after) in [(0, None), (3, None), (9, None), (0, Some(s(600)))] {
                let mut breaker = CircuitBreaker::open(1, cause, retry_after, true, at(0), 1.0);
                (0..failures).for_each(|_| breaker.failed(cause, at(0), 1.0));
                let by_itself = breaker.next.max(breaker.rest.until);
                let asked_at = Reading {
                    boot: by_itself / 2,
                    ..at(0)
                };
                for _ in 0..2 {
                    breaker.hurry(asked_at);
                    breaker.failed(cause, asked_at, 1.0);
                }
                let next = breaker.next.max(breaker.rest.until);
                assert!(
                    asked_at.boot < next && next <= by_itself,
                    "{cause:?} {failures} {retry_after:?}: {next:?}"
                );
            }
        }
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn on(boot: Duration) -> Reading {
        Reading {
            wall: Timestamp(1_700_000_000_000).after(boot),
            boot,
        }
    }

    fn at(seconds: u64) -> Reading {
        on(s(seconds))
    }

    const AWAY: Sign = Sign::Trouble {
        cause: Cause::IssuerInTrouble,
        retry_after: None,
    };

    /// A breaker that job 0 opened at second 0, and job 100 failed, too; the first probe may go at second 1.
    fn broken() -> CircuitBreaker<u32> {
        let mut breaker = CircuitBreaker::open(0, Cause::IssuerInTrouble, None, true, at(0), 1.0);
        assert!(!breaker.ended(100, AWAY, true, at(0), 1.0));
        breaker
    }

    #[test]
    fn only_trouble_that_all_share_opens_and_any_answer_closes() {
        use FailureKind::{Denied, Internal, InvalidConfig, Unavailable};
        let refused = Sign::Trouble {
            cause: Cause::ClientRefused,
            retry_after: None,
        };
        for (kind, code, expected) in [
            (Unavailable, "http.connect", AWAY),
            (Unavailable, "http.timeout", AWAY),
            (Unavailable, "http.503", AWAY),
            (Unavailable, "http.429", AWAY),
            (Unavailable, "temporarily_unavailable", AWAY),
            (Unavailable, "", AWAY),
            (Unavailable, "plugin.timeout", AWAY),
            (Unavailable, "host.timeout", AWAY),
            (Denied, "invalid_client", refused),
            (InvalidConfig, "invalid_client", refused),
            (Denied, "unauthorized_client", refused),
            (Denied, "http.401", refused),
            (Denied, "http.403", refused),
            (Denied, "invalid_grant", Sign::Answered),
            (InvalidConfig, "invalid_scope", Sign::Answered),
            (InvalidConfig, "http.404", Sign::Answered),
            (Denied, "", Sign::Unclear),
            (Denied, "acme.locked", Sign::Unclear),
            (Internal, "malformed", Sign::Unclear),
            (Internal, "http.too-large", Sign::Unclear),
            (Unavailable, "chain.in-doubt", Sign::Unclear),
            (Denied, "chain.dead", Sign::Unsent),
            (Internal, "chain.needs-attention", Sign::Unsent),
            (InvalidConfig, "secret.not-found", Sign::Unsent),
            (Unavailable, "secret.job-pending", Sign::Unsent),
            (Unavailable, "kubernetes.unreachable", Sign::Unsent),
            (Unavailable, "state.io", Sign::Unsent),
            (Internal, "plugin.trap", Sign::Unclear),
            (Internal, "plugin.timeout", Sign::Unclear),
            (Unavailable, "plugin.compile", Sign::Unsent),
            (Internal, "plugin.compile-timeout", Sign::Unsent),
            (Unavailable, "plugin.idle", Sign::Unclear),
            (InvalidConfig, "http.origin-denied", Sign::Unsent),
            (InvalidConfig, "tls.ca-file", Sign::Unsent),
            (InvalidConfig, "plugin.unreadable", Sign::Unsent),
            (InvalidConfig, "plugin.invalid-config", Sign::Unsent),
        ] {
            let failure = Failure::new(kind, code, "");
            assert_eq!(sign(&failure, true), expected, "{kind} {code}");
        }
        let throttled = Failure {
            retry_after: Some(s(30)),
            ..Failure::new(Unavailable, "http.429", "")
        };
        let expected = Sign::Trouble {
            cause: Cause::IssuerInTrouble,
            retry_after: Some(s(30)),
        };
        assert_eq!(sign(&throttled, true), expected);
    }

    #[test]
    fn what_costs_no_issuer_anything_is_local() {
        use FailureKind::{Denied, Internal, InvalidConfig, Unavailable};
        for (kind, code, expected) in [
            (InvalidConfig, "secret.not-found", true),
            (InvalidConfig, "secret.unreadable", true),
            (Denied, "kubernetes.forbidden", true),
            (Unavailable, "kubernetes.unreachable", true),
            (InvalidConfig, "tls.ca-file", true),
            (Unavailable, "http.tls", true),
            (InvalidConfig, "plugin.unreadable", true),
            (Unavailable, "state.io", true),
            (Denied, "chain.dead", false),
            (Internal, "chain.needs-attention", false),
            (Unavailable, "plugin.compile", true),
            (Internal, "plugin.compile-timeout", true),
            (Internal, "plugin.trap", false),
            (Denied, "invalid_client", false),
            (Denied, "invalid_grant", false),
            (InvalidConfig, "http.404", false),
            (Unavailable, "http.503", false),
            (Unavailable, "http.connect", false),
            (Denied, "", false),
        ] {
            let failure = Failure::new(kind, code, "");
            assert_eq!(is_local(&failure), expected, "{kind} {code}");
        }
    }

    #[test]
    fn probes_are_further_apart_each_time_up_to_just_under_two_a_minute() {
        use Cause::{ClientRefused, IssuerInTrouble};
        for (cause, nth, sample, expected_ms) in [
            (IssuerInTrouble, 1, 0.0, 250),
            (IssuerInTrouble, 1, 1.0, 1000),
            (IssuerInTrouble, 3, 0.5, 2000),
            (IssuerInTrouble, 5, 1.0, 16_000),
            (IssuerInTrouble, 6, 0.0, 31_000),
            (IssuerInTrouble, 6, 1.0, 34_100),
            (IssuerInTrouble, u32::MAX, 0.5, 32_550),
            (ClientRefused, 1, 0.3, 10_000),
            (ClientRefused, 2, 0.0, 31_000),
            (ClientRefused, 9, 0.0, 31_000),
        ] {
            assert_eq!(
                spacing(cause, nth, sample),
                Duration::from_millis(expected_ms),
                "{cause:?} no. {nth}, sample {sample}"
            );
        }
    }

    #[test]
    fn one_at_a_time_tries_and_the_first_answer_lets_all_go() {
        let mut breaker = broken();
        assert_eq!(breaker.probes_at(), None, "nobody waits");
        for (job, expires_at) in [(1, None), (2, Some(s(10))), (3, Some(s(20)))] {
            breaker.wait(job, expires_at);
        }
        assert_eq!(breaker.probes_at(), Some(s(1)));
        assert_eq!(breaker.take_probe(on(Duration::from_millis(999))), None);
        assert_eq!(
            breaker.take_probe(at(1)),
            Some(2),
            "whose token expires first"
        );
        assert_eq!(breaker.take_probe(at(100)), None, "one at a time");
        assert!(!breaker.ended(2, AWAY, true, at(100), 1.0));
        assert_eq!(breaker.probes_at(), Some(s(102)));
        assert_eq!(breaker.take_probe(at(102)), Some(3), "somebody else");
        breaker.wait(2, None);
        assert!(breaker.ended(3, Sign::Answered, true, at(103), 1.0));
        let closed = breaker.close();
        assert_eq!(closed.waiting, [1, 2]);
        assert_eq!(closed.affected, [0, 2, 100]);
    }

    #[test]
    fn a_job_that_fails_for_reasons_of_its_own_keeps_to_its_own_waits() {
        let mut breaker = CircuitBreaker::open(0, Cause::IssuerInTrouble, None, false, at(0), 0.0);
        assert!(!breaker.ended(100, AWAY, false, at(0), 1.0));
        breaker.wait(1, None);
        breaker.wait(2, None);
        assert_eq!(breaker.take_probe(at(1)), Some(1));
        assert!(!breaker.ended(1, Sign::Unsent, true, at(1), 0.0));
        assert_eq!(
            breaker.take_probe(at(1)),
            Some(2),
            "nothing was sent: the next may try at once"
        );
        assert!(!breaker.ended(2, Sign::Unclear, true, at(1), 0.0));
        breaker.wait(3, None);
        assert_eq!(
            breaker.take_probe(at(1)),
            None,
            "something was sent perhaps"
        );
        assert_eq!(breaker.take_probe(at(2)), Some(3));
        assert!(breaker.ended(3, Sign::Answered, true, at(2), 0.0));
        assert!(breaker.close().affected.is_empty());
    }

    #[test]
    fn what_one_job_met_alone_is_not_held_against_the_next() {
        let away = |job| CircuitBreaker::open(job, Cause::IssuerInTrouble, None, true, at(0), 1.0);
        let mut breaker = away(0);
        breaker.wait(0, None);
        assert_eq!(breaker.take_probe(at(0)), None, "it has had its turn");
        breaker.wait(1, None);
        assert_eq!(breaker.take_probe(at(0)), Some(1), "another tells at once");
        assert!(breaker.ended(1, Sign::Answered, true, at(0), 1.0));
        let mut breaker = away(0);
        breaker.wait(1, None);
        breaker.wait(2, None);
        assert_eq!(breaker.take_probe(at(0)), Some(1));
        assert!(!breaker.ended(1, AWAY, true, at(0), 1.0));
        assert_eq!(
            breaker.take_probe(at(0)),
            None,
            "the trouble is not one job's"
        );
        assert_eq!(breaker.probes_at(), Some(s(2)));
    }

    #[test]
    fn retry_after_is_obeyed_up_to_an_hour_by_all() {
        for (retry_after_s, expected_s) in [(100, 100), (86_400, 3600)] {
            let retry_after = Some(s(retry_after_s));
            let cause = Cause::IssuerInTrouble;
            let mut breaker = CircuitBreaker::open(0, cause, retry_after, true, at(0), 1.0);
            breaker.wait(1, None);
            assert_eq!(breaker.probes_at(), Some(s(expected_s)));
            let is_open = breaker.ended(2, Sign::Answered, true, at(1), 1.0);
            assert!(!is_open, "an answer to a question of before");
            breaker.hurry(at(5));
            assert_eq!(breaker.take_probe(at(5)), Some(1), "somebody wants to know");
            assert!(breaker.ended(1, Sign::Answered, true, at(6), 1.0));
        }
    }

    #[test]
    fn retry_after_holds_nobody_back_beyond_what_its_token_bears() {
        for (expires_at, expected, what) in [
            (None, 3600, "it never expires"),
            (Some(100_000), 3600, "it lives for long"),
            (Some(400), 300, "three quarters of what is left"),
            (Some(0), 300, "there is none"),
        ] {
            let (cause, retry_after) = (Cause::IssuerInTrouble, Some(s(99_999_999)));
            let mut breaker = CircuitBreaker::open(0, cause, retry_after, true, at(0), 1.0);
            breaker.wait(1, expires_at.map(s));
            assert_eq!(breaker.probes_at(), Some(s(expected)), "{what}");
            assert_eq!(breaker.take_probe(at(expected)), Some(1), "{what}");
            let again = Sign::Trouble { cause, retry_after };
            assert!(!breaker.ended(1, again, true, at(expected), 1.0));
            breaker.wait(2, Some(s(0)));
            let next = breaker.probes_at();
            assert_eq!(next, Some(s(expected + 300)), "{what}, and then another");
        }
    }

    #[test]
    fn an_answer_from_no_token_endpoint_is_the_jobs_own_mistake_until_it_was_served() {
        use Cause::{ClientRefused, IssuerInTrouble};
        use FailureKind::{InvalidConfig, Unavailable};
        let trouble = |cause| Sign::Trouble {
            cause,
            retry_after: None,
        };
        for (kind, code, at_first, later) in [
            (Unavailable, "http.302", ClientRefused, IssuerInTrouble),
            (Unavailable, "http.308", ClientRefused, IssuerInTrouble),
            (
                Unavailable,
                "answer.unreadable",
                ClientRefused,
                IssuerInTrouble,
            ),
            (
                Unavailable,
                "answer.no-token",
                ClientRefused,
                IssuerInTrouble,
            ),
            (Unavailable, "answer.cut", IssuerInTrouble, IssuerInTrouble),
            (Unavailable, "http.429", IssuerInTrouble, IssuerInTrouble),
            (Unavailable, "http.503", IssuerInTrouble, IssuerInTrouble),
            (
                Unavailable,
                "http.timeout",
                IssuerInTrouble,
                IssuerInTrouble,
            ),
        ] {
            let failure = Failure::new(kind, code, "");
            assert_eq!(sign(&failure, false), trouble(at_first), "{code}");
            assert_eq!(sign(&failure, true), trouble(later), "{code}");
        }
        for code in ["http.404", "http.405", "http.421", "answer.no-token"] {
            let failure = Failure::new(InvalidConfig, code, "");
            for was_served in [false, true] {
                assert_eq!(sign(&failure, was_served), Sign::Answered, "{code}");
            }
        }
    }

    #[test]
    fn what_a_gateway_says_in_the_issuers_place_passes_by_itself_where_the_job_was_served() {
        use FailureKind::{Denied, InvalidConfig, Unavailable};
        for (kind, code, later) in [
            (InvalidConfig, "http.400", Unavailable),
            (InvalidConfig, "http.404", Unavailable),
            (InvalidConfig, "http.410", Unavailable),
            (Denied, "http.409", Unavailable),
            (Denied, "http.421", Unavailable),
            (Denied, "http.401", Denied),
            (Denied, "http.403", Denied),
            (Denied, "http.200", Denied),
            (Denied, "invalid_grant", Denied),
            (InvalidConfig, "invalid_request", InvalidConfig),
            (InvalidConfig, "answer.no-token", InvalidConfig),
            (InvalidConfig, "http.origin-denied", InvalidConfig),
        ] {
            let failure = Failure::new(kind, code, "");
            assert_eq!(taken(failure.clone(), false).kind, kind, "{code}");
            assert_eq!(taken(failure, true).kind, later, "{code}");
        }
    }

    #[test]
    fn a_late_failure_of_an_earlier_call_makes_probes_no_rarer() {
        let mut breaker = broken();
        breaker.wait(9, None);
        for job in 1..8 {
            assert!(!breaker.ended(job, AWAY, true, at(0), 1.0));
        }
        assert_eq!(breaker.probes_at(), Some(s(1)));
        assert!(
            breaker.ended(8, Sign::Answered, true, at(0), 1.0),
            "nor does it take more than one answer"
        );
        assert_eq!(breaker.close().affected.len(), 9);
    }

    #[test]
    fn a_probe_that_is_not_wanted_any_more_leaves_its_turn_to_the_next() {
        let mut breaker = broken();
        breaker.wait(1, None);
        breaker.wait(2, None);
        assert_eq!(breaker.take_probe(at(1)), Some(1));
        breaker.leave(1);
        assert_eq!(breaker.take_probe(at(1)), Some(2));
    }

    #[test]
    fn a_circuit_is_deserted_once_all_have_gone_that_met_the_trouble_or_wait() {
        let mut breaker = broken();
        breaker.wait(1, None);
        for (job, is_deserted) in [(0, false), (100, false), (1, true)] {
            breaker.forget(job);
            assert_eq!(breaker.is_deserted(), is_deserted, "without {job}");
        }
    }

    /// Events: seconds pass, a job joins, a probe ends.
    fn any_happening() -> impl Strategy<Value = (u64, u32, u8)> {
        (0_u64..40_000, 0_u32..20, any::<u8>())
    }

    proptest! {
        #[test]
        fn in_a_long_outage_two_probes_a_minute_at_most_and_never_a_wait_that_misses_the_return(
            takes_ms in 0_u64..40_000, samples in proptest::collection::vec(0.0_f64..=1.0, 60),
        ) {
            let mut breaker = broken();
            let mut now = Duration::ZERO;
            let mut begun = Vec::new();
            for sample in samples {
                breaker.wait(1, None);
                let wait = breaker.probes_at().unwrap().saturating_sub(now);
                prop_assert!(wait <= STEADY.mul_f64(1.0 + STEADY_JITTER));
                now += wait;
                prop_assert_eq!(breaker.take_probe(on(now)), Some(1));
                begun.push(now);
                now += Duration::from_millis(takes_ms);
                prop_assert!(!breaker.ended(1, AWAY, true, on(now), sample));
            }
            let long_since = begun.get(5..).unwrap_or_default();
            for three in long_since.windows(3) {
                prop_assert!(three[2] - three[0] > s(60), "{three:?}");
            }
        }

        #[test]
        fn whatever_happens_one_at_a_time_tries_everybody_gets_a_turn_and_nobody_is_lost(
            happenings in proptest::collection::vec(any_happening(), 1..200), sample in 0.0_f64..=1.0,
        ) {
            let mut breaker = broken();
            let mut now = Duration::ZERO;
            let mut waiting = BTreeSet::new();
            let mut probe = None;
            for (pass_ms, job, choice) in happenings {
                now += Duration::from_millis(pass_ms);
                if probe != Some(job) && choice % 4 != 0 {
                    breaker.wait(job, Some(s(choice.into())));
                    waiting.insert(job);
                }
                if let Some(taken) = breaker.take_probe(on(now)) {
                    prop_assert_eq!(probe, None);
                    prop_assert!(waiting.remove(&taken));
                    probe = Some(taken);
                }
                if let (Some(job), true) = (probe, choice % 3 == 0) {
                    let sign = [AWAY, Sign::Unclear, Sign::Unsent][usize::from(choice) % 3];
                    prop_assert!(!breaker.ended(job, sign, true, on(now), sample));
                    probe = None;
                }
                prop_assert_eq!(breaker.probes_at().is_none(), probe.is_some() || waiting.is_empty());
            }
            // Each waiting job gets a turn before any job gets a second.
            let mut turns = Vec::new();
            if let Some(job) = probe {
                prop_assert!(!breaker.ended(job, AWAY, true, on(now), sample));
            }
            let mut fewest = waiting.clone();
            while !fewest.is_empty() {
                now = now.max(breaker.probes_at().unwrap());
                let job = breaker.take_probe(on(now)).unwrap();
                turns.push(job);
                fewest.remove(&job);
                prop_assert!(!breaker.ended(job, AWAY, true, on(now), sample));
                breaker.wait(job, None);
                prop_assert!(turns.len() <= 20 * 250, "somebody starves");
            }
            let mut left: Vec<_> = breaker.close().waiting;
            left.sort_unstable();
            prop_assert_eq!(left, waiting.into_iter().collect::<Vec<_>>());
        }
    }
}

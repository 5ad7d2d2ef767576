//! What the runner needs of the world, as traits: the program brings the real things, tests and the simulator bring their own
//! and thereby decide about time, random numbers and every failure.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;

use crate::capability::chain::ChainState;
use crate::capability::keep::Keeper;
use crate::capability::{Acquired, NotAcquired};
use crate::model::failure::Failure;
use crate::model::time::{Clock, Reading, SystemClock, Timestamp};
use crate::model::token::{Expiry, KeptToken};
use crate::model::{Job, JobId, Output};
use crate::output::Withdrawn;
use crate::refresh::clock::{self, Jump};
use crate::refresh::due;
use crate::refresh::output::Purpose;

/// The world.
#[derive(Clone)]
pub struct Ports {
    /// Asks sources for tokens.
    pub acquirer: Arc<dyn Acquirer>,
    /// Writes outputs.
    pub publisher: Arc<dyn Publisher>,
    /// Keeps tokens over a restart.
    pub keeper: Arc<dyn Keeper>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Lets time pass.
    pub timer: Arc<dyn Timer>,
    /// Draws random numbers.
    pub random: Arc<dyn RandomSource>,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}

impl Ports {
    /// These ports, with the machine's clocks and random numbers.
    #[must_use]
    pub fn live(
        acquirer: Arc<dyn Acquirer>,
        publisher: Arc<dyn Publisher>,
        keeper: Arc<dyn Keeper>,
    ) -> Self {
        Self {
            acquirer,
            publisher,
            keeper,
            clock: Arc::new(SystemClock),
            timer: Arc::new(TokioTimer),
            random: Arc::new(SystemRandom),
        }
    }
}

/// What an action depends on. Actions with one key wait in one queue and are bounded together, so that a slow dependency delays no others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConcurrencyKey {
    /// This machine.
    Local,
    /// Another one: an issuer's origin, an API server.
    Remote(Arc<str>),
    /// A plugin, which may compute or wait for all of its time, wherever it should ask.
    Plugin {
        /// Its name.
        name: Arc<str>,
        /// The other machine that it asks, or that gets what it made.
        remote: Option<Arc<str>>,
    },
}

impl ConcurrencyKey {
    /// The key of what depends on `plugin` and on `self`: what does not need the plugin does not wait for it.
    #[must_use]
    pub fn behind(self, plugin: &str) -> Self {
        Self::Plugin {
            name: plugin.into(),
            remote: match self {
                Self::Local => None,
                Self::Remote(remote) => Some(remote),
                Self::Plugin { remote, .. } => remote,
            },
        }
    }

    /// The plugin that it is behind; none: it is behind none.
    #[must_use]
    pub const fn plugin(&self) -> Option<&Arc<str>> {
        match self {
            Self::Local | Self::Remote(_) => None,
            Self::Plugin { name, .. } => Some(name),
        }
    }
}

/// The key of the API server: a process talks to one cluster.
#[must_use]
pub fn cluster() -> ConcurrencyKey {
    ConcurrencyKey::Remote("kubernetes".into())
}

/// Whom a source asks, on whose behalf and by which plugin: jobs with the same issuer and client are restrained together when that issuer is in
/// trouble.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Issuer {
    /// Its origin, e.g. `https://idp.example.org`.
    pub origin: Arc<str>,
    /// Digest of what tells one of its clients from another, and the plugins that ask for one.
    pub client: [u8; 32],
}

/// What a source is told beside its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcquireContext {
    /// Failures since the last success.
    pub attempt: u32,
    /// When the held token expires.
    pub previous_expires_at: Option<Timestamp>,
}

/// What a source returned, for a wall clock that was set back while it was asked. Which of its times are on the clock as it was, nobody can
/// tell once several requests were sent, so in doubt the token is taken for older than it is, never for younger. A comparison with a clock
/// that was set says nothing.
#[must_use]
pub fn by_present_clock(acquired: Acquired, began: Reading, now: Reading) -> Acquired {
    let jump = clock::jump(began, now);
    let set_back = match jump {
        Some(Jump::Backward(by)) => by,
        _ => Duration::ZERO,
    };
    let ahead = acquired.obtained_at.since(now.wall);
    let too_late = set_back.max(ahead);
    let mut token = acquired.token;
    if let Expiry::At(at) = token.expiry
        && !too_late.is_zero()
    {
        let shifted = at.before(too_late);
        // It lived when it was given out, so how much of its life is left is not known, not how long that is: it is asked for anew soon.
        let lived = at > acquired.obtained_at;
        let soon = now.wall.after(due::SOONEST);
        token.expiry = Expiry::At(if lived { shifted.max(soon) } else { shifted });
    }
    let was_before = acquired.obtained_at >= began.wall;
    Acquired {
        token,
        obtained_at: acquired
            .obtained_at
            .before(if was_before { too_late } else { ahead }),
        rotating_expires_at: acquired.rotating_expires_at.map(|at| at.before(too_late)),
        issuer_ahead_ms: acquired.issuer_ahead_ms.filter(|_| jump.is_none()),
    }
}

/// Asks sources for tokens.
pub trait Acquirer: Send + Sync {
    /// What a call of this job's source depends on.
    fn concurrency_key(&self, job: &Job) -> ConcurrencyKey;

    /// The issuer that a call of this job's source depends on; none: it is not known, or there is none.
    fn issuer(&self, job: &Job) -> Option<Issuer>;

    /// Whether a plugin, of a source or a format, can be called without loading it first.
    fn is_loaded(&self, plugin: &str) -> bool {
        let _ = plugin;
        true
    }

    /// Whether [`Self::load_plugin`] has read what a job wants of its plugin.
    fn is_judged(&self, job: &Job) -> bool {
        let _ = job;
        true
    }

    /// Loads a plugin, which may take minutes, and reads what `jobs`, those whose source it is, want of it. What cannot be loaded is said by
    /// the calls that need it.
    fn load_plugin<'a>(&'a self, plugin: &'a str, jobs: &'a [Arc<Job>]) -> BoxFuture<'a, ()> {
        let _ = (plugin, jobs);
        Box::pin(async {})
    }

    /// Digest of the secrets that others may change while the process runs, in files and in the cluster, the client certificate
    /// included; a missing one counts by why it is missing. None: they cannot be read now.
    fn secrets<'a>(&'a self, job: &'a Arc<Job>) -> BoxFuture<'a, Option<[u8; 32]>>;

    /// What is known of the chains of the job's rotating secrets; none: nothing so far, or it has none.
    fn chain_state(&self, job: &Job) -> Option<ChainState> {
        let _ = job;
        None
    }

    /// Reads what the store has of these chains, for [`Self::chain_state`].
    fn look_at_chains<'a>(&'a self, job: &'a Arc<Job>) -> BoxFuture<'a, ()> {
        let _ = job;
        Box::pin(async {})
    }

    /// One call of the job's plugin.
    ///
    /// # Errors
    ///
    /// What the plugin, a capability or the plugin's bounds say.
    fn acquire<'a>(
        &'a self,
        job: &'a Arc<Job>,
        call: AcquireContext,
    ) -> BoxFuture<'a, Result<Acquired, NotAcquired>>;
}

/// Whose output it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputOwner {
    /// A job's own.
    Job(JobId),
    /// One that several jobs share.
    Shared,
}

/// A token under its job's name.
#[derive(Debug, Clone)]
pub struct JobToken {
    /// The job.
    pub job: JobId,
    /// Its token.
    pub kept: Arc<KeptToken>,
}

/// All that it takes to write one output.
#[derive(Debug, Clone)]
pub struct Write {
    /// Whose output it is.
    pub owner: OutputOwner,
    /// Which of the owner's outputs, in the order of the configuration.
    pub index: usize,
    /// Whether there is something new, or what should be there is to be looked at.
    pub purpose: Purpose,
    /// Where and how.
    pub output: Output,
    /// When the job's source is asked next; none: it is not known.
    pub next_refresh: Option<Timestamp>,
    /// What: one token, or those of all jobs that share the output, in its order.
    pub tokens: Vec<JobToken>,
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The output holds what it did not hold before.
    Written,
    /// It held that already.
    Unchanged,
    /// It was looked at, and held what somebody else had put there, or was gone.
    PutRight,
}

/// What a write did, and what it gave to consumers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// How it ended.
    pub change: WriteOutcome,
    /// What is in the output and expires before the token that it is a part of.
    pub parts: Vec<Part>,
}

impl From<WriteOutcome> for Published {
    fn from(change: WriteOutcome) -> Self {
        let parts = Vec::new();
        Self { change, parts }
    }
}

/// A part of a token, e.g. an ID token beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Whose token.
    pub job: JobId,
    /// When that was obtained.
    pub obtained_at: Timestamp,
    /// When the part expires.
    pub expires_at: Timestamp,
}

/// Writes outputs.
pub trait Publisher: Send + Sync {
    /// What writing this output depends on.
    fn concurrency_key(&self, output: &Output) -> ConcurrencyKey;

    /// Formats and writes, whole or not at all.
    ///
    /// # Errors
    ///
    /// What the formatter or the destination says. The output then holds what it held before.
    fn publish<'a>(&'a self, write: &'a Write) -> BoxFuture<'a, Result<Published, Failure>>;

    /// Deletes what was published with these tokens, unless somebody else has replaced it since.
    ///
    /// # Errors
    ///
    /// What the formatter or the destination says.
    fn withdraw<'a>(&'a self, write: &'a Write) -> BoxFuture<'a, Result<Withdrawn, Failure>>;
}

/// Lets time pass.
pub trait Timer: Send + Sync {
    /// Is ready after `duration`, or a little later.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Tokio's timer. It stands still while the machine sleeps, so nobody should rely on a long one.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokioTimer;

impl Timer for TokioTimer {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// Draws random numbers.
pub trait RandomSource: Send + Sync {
    /// A number from 0 to 1, all equally likely.
    fn sample(&self) -> f64;
}

/// Random numbers from the operating system's seed. It spreads load; nothing secret comes from it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl RandomSource for SystemRandom {
    fn sample(&self) -> f64 {
        fastrand::f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::token::Token;

    const fn reading(wall_s: u64, boot_s: u64) -> Reading {
        Reading {
            wall: Timestamp(wall_s * 1000),
            boot: Duration::from_secs(boot_s),
        }
    }

    #[test]
    fn a_token_is_not_taken_for_younger_because_the_clock_was_set_back_while_it_was_asked_for() {
        let began = reading(10_000, 100);
        for (sent_s, now, obtained_s, expires_s, what) in [
            (10_001, reading(10_005, 105), 10_001, 10_061, "nothing"),
            (10_001, reading(7_005, 105), 7_001, 7_061, "set back"),
            (10_001, reading(9_995, 105), 9_991, 10_051, "set back a bit"),
            (10_001, reading(20_005, 105), 10_001, 10_061, "set forward"),
            (
                7_003,
                reading(7_005, 105),
                7_003,
                7_006,
                "set back, and the last request was sent after it: the token's may have been before",
            ),
            (
                9_960,
                reading(9_970, 105),
                9_960,
                9_985,
                "set back by less than its life",
            ),
            (
                9_000,
                reading(8_000, 50_000),
                8_000,
                8_060,
                "an answer of an earlier call, from the future",
            ),
        ] {
            // The clock is not what differs in the last case.
            let began = if sent_s == 9_000 {
                reading(7_995, 49_995)
            } else {
                began
            };
            let acquired = Acquired {
                token: Token {
                    value: "t".into(),
                    token_type: "Bearer".to_owned(),
                    expiry: Expiry::At(Timestamp((sent_s + 60) * 1000)),
                    fields: Vec::new(),
                },
                obtained_at: Timestamp(sent_s * 1000),
                rotating_expires_at: None,
                issuer_ahead_ms: None,
            };
            let acquired = by_present_clock(acquired, began, now);
            assert_eq!(acquired.obtained_at, Timestamp(obtained_s * 1000), "{what}");
            let expiry = Expiry::At(Timestamp(expires_s * 1000));
            assert_eq!(acquired.token.expiry, expiry, "{what}");
        }
    }
}

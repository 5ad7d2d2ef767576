//! The runner's entry for one job, and for one output that jobs share.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::ports::{AcquireContext, Issuer, JobToken, OutputOwner, Ports, Write};
use super::source_hash::source_hash;
use super::status::{
    ChainState, Compiling, FailureStatus, HeldBack, JobState, JobStatus, OutputStatus, SharedStatus,
};
use super::work::Task;
use crate::capability::Acquired;
use crate::model::failure::{Code, FailureKind};
use crate::model::time::{Reading, Timestamp};
use crate::model::token::{Expiry, KeptToken, Token, jwt};
use crate::model::{Job, Output, SharedOutput};
use crate::refresh::admit::Candidate;
use crate::refresh::lifetime;
use crate::refresh::output::{OutputLifecycle, OutputState, Purpose};
use crate::refresh::{self, clock, job::Life};

/// A change that waits until no output of the job is being written.
#[derive(Debug)]
pub(super) enum Pending {
    Replace(Arc<Job>),
    Remove,
}

/// A managed job. There is one copy of its token.
#[derive(Debug)]
pub(super) struct JobEntry {
    pub(super) config: Arc<Job>,
    /// A token obtained with another source hash does not belong to this job.
    pub(super) source_hash: [u8; 32],
    pub(super) machine: refresh::job::JobLifecycle,
    pub(super) token: Option<Arc<KeptToken>>,
    /// The issuer of the source, as of the last time the source was to be asked.
    pub(super) issuer: Option<Issuer>,
    /// Waiting and running writes of outputs.
    pub(super) writes: usize,
    pub(super) pending: Option<Pending>,
    pub(super) last_success: Option<Timestamp>,
    pub(super) last_failure: Option<Box<FailureStatus>>,
    /// The source's failure as last logged, until the source returns a valid token.
    pub(super) told_failure: Option<Box<FailureStatus>>,
    /// Digest of the secrets at the last failure that needs a correction.
    pub(super) secrets: Option<Box<[u8; 32]>>,
    pub(super) keep_failure: Option<Box<FailureStatus>>,
    /// By output.
    pub(super) output_failures: Vec<Option<Box<FailureStatus>>>,
    /// When the token expires that every output last had; none: it never does, or there was none.
    published_expires_at: Option<Timestamp>,
    /// Whether the token's expiry has been logged.
    is_expiry_told: bool,
}

/// A token that a source returned, with its times. `said`: its stated expiry; `held`: the job's current token.
pub(crate) fn weigh(
    obtained: Acquired,
    said: Expiry,
    held: Option<&Token>,
    job: &Job,
    source_hash: [u8; 32],
) -> (Candidate, KeptToken) {
    let Acquired {
        mut token,
        obtained_at,
        rotating_expires_at,
        issuer_ahead_ms,
    } = obtained;
    token.expiry = said;
    let claims = jwt::read(token.value.expose_secret());
    let claims = claims.map(|claims| lifetime::by_our_clock(claims, issuer_ahead_ms));
    let claims = claims.as_ref();
    let assumed = job.refresh.default_lifetime;
    let expires_at = lifetime::expires_at(obtained_at, said, claims, assumed);
    let rotating_expires_at = lifetime::rotating_expires_at(obtained_at, rotating_expires_at);
    let candidate = Candidate {
        is_empty: token.value.expose_secret().is_empty(),
        is_held_one: held.is_some_and(|held| held.is_same(&token)),
        obtained_at,
        expires_at,
        not_before: lifetime::not_before(obtained_at, said, claims),
        rotating_expires_at,
    };
    let kept = KeptToken {
        token,
        obtained_at,
        expires_at,
        rotating_expires_at,
        source_hash,
    };
    (candidate, kept)
}

impl JobEntry {
    pub(super) fn new(config: Arc<Job>, now: Reading) -> Self {
        let outputs = config.outputs.len();
        Self {
            source_hash: source_hash(&config),
            machine: refresh::job::JobLifecycle::new(
                config.refresh.clone(),
                config.verify,
                outputs,
                now,
            ),
            config,
            token: None,
            issuer: None,
            writes: 0,
            pending: None,
            last_success: None,
            last_failure: None,
            told_failure: None,
            secrets: None,
            keep_failure: None,
            output_failures: vec![None; outputs],
            published_expires_at: None,
            is_expiry_told: false,
        }
    }

    /// The token from the state store, if it belongs to this job.
    pub(super) fn own(&self, kept: KeptToken) -> Option<(Life, Arc<KeptToken>)> {
        if kept.source_hash != self.source_hash {
            return None;
        }
        let life = Life {
            obtained_at: kept.obtained_at,
            expires_at: kept.expires_at,
            rotating_expires_at: kept.rotating_expires_at,
        };
        Some((life, Arc::new(kept)))
    }

    /// The token that the source returned, with its times.
    pub(super) fn weigh(&self, obtained: Acquired) -> (Candidate, Arc<KeptToken>) {
        let held = self.token.as_ref().map(|held| &held.token);
        let said = self.said(&obtained.token, obtained.obtained_at);
        let (candidate, kept) = weigh(obtained, said, held, &self.config, self.source_hash);
        (candidate, Arc::new(kept))
    }

    /// The stated expiry of a token. If none is stated, an earlier statement for the same value holds: an issuer that returns a
    /// cached token may state "0 seconds" in its last second.
    fn said(&self, token: &Token, obtained_at: Timestamp) -> Expiry {
        match lifetime::said(obtained_at, token.expiry) {
            Expiry::Unknown if self.has_value_of(token) => self
                .token
                .as_ref()
                .map_or(Expiry::Unknown, |held| held.token.expiry),
            said => said,
        }
    }

    /// Whether consumers would use the same value as now.
    pub(super) fn has_value_of(&self, token: &Token) -> bool {
        let held = self.token.as_ref().map(|held| &held.token.value);
        held.is_some_and(|held| held.expose_secret() == token.value.expose_secret())
    }

    pub(super) fn acquire(&self) -> Task {
        let call = AcquireContext {
            attempt: self.machine.failures(),
            previous_expires_at: self.token.as_ref().and_then(|held| held.expires_at),
        };
        Task::Acquire(Arc::clone(&self.config), call)
    }

    pub(super) fn keep(&self) -> Option<Task> {
        let token = Arc::clone(self.token.as_ref()?);
        Some(Task::Keep(self.config.id.clone(), token))
    }

    pub(super) fn write(&self, index: usize, purpose: Purpose, now: Reading) -> Option<Task> {
        let write = Write {
            owner: OutputOwner::Job(self.config.id.clone()),
            index,
            purpose,
            output: self.config.outputs.get(index)?.clone(),
            next_refresh: self.machine.next_refresh(now),
            tokens: vec![self.job_token()?],
        };
        Some(Task::Write(Box::new(write)))
    }

    pub(super) fn job_token(&self) -> Option<JobToken> {
        Some(JobToken {
            job: self.config.id.clone(),
            kept: Arc::clone(self.token.as_ref()?),
        })
    }

    /// Whether abandoning a call of the source could lose a rotated secret.
    pub(super) fn rotates(&self) -> bool {
        self.config
            .source
            .secrets
            .values()
            .any(|secret| secret.rotating)
    }

    /// Whether a run of `once` need not wait for it any more: all is done, or a correction is needed.
    pub(super) fn is_finished(&self, now: Reading) -> bool {
        let needs_mending =
            |failure: &Option<Box<FailureStatus>>| failure.as_ref().is_some_and(|f| is_for_good(f));
        self.machine.is_settled(now)
            || needs_mending(&self.last_failure)
            || (!self.machine.is_acquiring() && self.output_failures.iter().any(needs_mending))
    }

    /// When the token expires, on the boot clock, for an issuer that sent `Retry-After`; none: it never does.
    pub(super) fn expires_at_boot(&self, now: Reading) -> Option<Duration> {
        if self.machine.lives(now) {
            self.machine.expires_at_boot(now)
        } else {
            Some(Duration::ZERO)
        }
    }

    /// Records the expiry of the token that consumers have, if every output has the job's token. `shared`: the states of its
    /// shared outputs.
    pub(super) fn note_published(&mut self, now: Reading, shared: &[OutputState]) {
        if self.is_everywhere(now, shared) {
            self.published_expires_at = self.expires_at(now);
        }
    }

    /// Whether a valid token is in every output. A shared output that waits for another job's token does not count.
    fn is_everywhere(&self, now: Reading, shared: &[OutputState]) -> bool {
        let is_done =
            |state: &OutputState| matches!(state, OutputState::Written | OutputState::Waiting);
        self.machine.is_ready(now) && shared.iter().all(is_done)
    }

    /// Logs once that the token expired before there was another. `held_back`: why the job waits for its issuer, if it does.
    pub(super) fn tell_expiry(&mut self, now: Reading, held_back: Option<HeldBack>) {
        let is_dead = self.token.is_some() && !self.machine.lives(now);
        if is_dead && !self.is_expiry_told {
            let failure = held_back.map(|held_back| held_back.failure);
            let failure = failure.as_ref().or(self.last_failure.as_deref());
            let code = failure.and_then(|failure| failure.code.as_ref());
            let code = code.map(Code::as_str);
            let error = failure.map(|failure| failure.message.as_str());
            let expired_at = self.expires_at(now).map(tracing::field::display);
            tracing::error!(job = %self.config.id, expired_at, code, error, "the token has expired and there is no other yet");
        }
        self.is_expiry_told = is_dead;
    }

    fn state(&self, now: Reading, is_held_back: bool, shared: &[OutputState]) -> JobState {
        let machine = &self.machine;
        let mut outputs = machine.output_states().chain(shared.iter().copied());
        let has_failed = machine.failures() > 0;
        match (&self.token, machine.lives(now)) {
            (None, _) if has_failed => JobState::Failing,
            (None, _) => JobState::Pending,
            (Some(_), false) => JobState::Expired,
            (Some(_), true) if self.is_everywhere(now, shared) => {
                if has_failed || is_held_back {
                    JobState::Retrying
                } else {
                    JobState::Ready
                }
            }
            (Some(_), true) if outputs.any(|state| state == OutputState::Failing) => {
                JobState::Unwritten
            }
            (Some(_), true) => JobState::Publishing,
        }
    }

    /// The stored state of the chain of the job's rotating secrets; none: it has none.
    pub(super) fn chain(&self, ports: &Ports) -> Option<ChainState> {
        let state = || ports.acquirer.chain_state(&self.config);
        self.rotates().then(|| state().unwrap_or(ChainState::Ok))
    }

    /// Whether the job waits for a correction that may be a changed secret.
    pub(super) fn waits_for_secrets(&self, ports: &Ports) -> bool {
        let lasts = |chain| matches!(chain, ChainState::Dead | ChainState::NeedsAttention);
        self.machine.needs_mending() || self.chain(ports).is_some_and(lasts)
    }

    /// `held_back`: why it waits for its issuer, if it does; `compiling`: the plugin that it waits for; `shared`: the states of
    /// its shared outputs.
    pub(super) fn status(
        &self,
        now: Reading,
        (held_back, compiling): (Option<HeldBack>, Option<Compiling>),
        next_refresh: Option<Timestamp>,
        shared: &[OutputState],
        ports: &Ports,
    ) -> JobStatus {
        let outputs = self.config.outputs.iter();
        let states = self.machine.output_states();
        let retries = self.machine.outputs_retry_at(now);
        let failures = self.output_failures.iter().zip(retries);
        let on_wall_clock = |at: Duration| now.wall.after(at.saturating_sub(now.boot));
        JobStatus {
            id: self.config.id.clone(),
            state: self.state(now, held_back.is_some(), shared),
            expires_at: self.expires_at(now),
            published_expires_at: self.published_expires_at,
            next_refresh,
            last_success: self.last_success,
            attempt: self.machine.failures(),
            last_failure: self.last_failure.as_deref().cloned(),
            held_back,
            compiling,
            chain: self.chain(ports),
            keep_failure: self.keep_failure.as_deref().cloned(),
            next_keep: self.machine.keep_retries_at(now).map(on_wall_clock),
            outputs: outputs
                .zip(states)
                .zip(failures)
                .map(|((output, state), (failure, retry))| {
                    let next_try = retry.map(on_wall_clock);
                    output_status(output, state, failure.as_deref(), next_try)
                })
                .collect(),
        }
    }

    /// By the current wall clock, also if it was set since the token was obtained.
    fn expires_at(&self, now: Reading) -> Option<Timestamp> {
        let said = self.machine.life()?.expires_at?;
        if !self.machine.lives(now) {
            return Some(said);
        }
        let by_boot_clock = now.wall.after(self.machine.remaining(now)?);
        let was_set_back = said.since(by_boot_clock) > clock::JUMP;
        Some(if was_set_back { by_boot_clock } else { said })
    }
}

/// An output that jobs share.
#[derive(Debug)]
pub(super) struct SharedEntry {
    pub(super) config: Arc<SharedOutput>,
    pub(super) index: usize,
    pub(super) publication: OutputLifecycle,
    pub(super) failure: Option<Box<FailureStatus>>,
}

impl SharedEntry {
    pub(super) fn new(config: Arc<SharedOutput>, index: usize, verify: Duration) -> Self {
        Self {
            config,
            index,
            publication: OutputLifecycle::new(Some(verify)),
            failure: None,
        }
    }

    pub(super) fn write(&self, tokens: Vec<JobToken>, purpose: Purpose) -> Task {
        Task::Write(Box::new(Write {
            owner: OutputOwner::Shared,
            index: self.index,
            purpose,
            output: self.config.output.clone(),
            next_refresh: None,
            tokens,
        }))
    }

    pub(super) fn is_finished(&self) -> bool {
        !self.publication.is_writing()
            && (self.publication.state() == OutputState::Written
                || self.failure.as_deref().is_some_and(is_for_good))
    }

    pub(super) fn status(&self, now: Reading) -> SharedStatus {
        let state = self.publication.state();
        let retry = self.publication.retries_at();
        let next_try = retry.map(|at| now.wall.after(at.saturating_sub(now.boot)));
        SharedStatus {
            from: self.config.from.clone(),
            output: output_status(
                &self.config.output,
                state,
                self.failure.as_deref(),
                next_try,
            ),
        }
    }
}

/// Whether the failure will not pass by waiting.
const fn is_for_good(failure: &FailureStatus) -> bool {
    matches!(
        failure.kind,
        FailureKind::Denied | FailureKind::InvalidConfig
    )
}

pub(super) fn output_status(
    output: &Output,
    state: OutputState,
    failure: Option<&FailureStatus>,
    next_try: Option<Timestamp>,
) -> OutputStatus {
    OutputStatus {
        destination: output.destination.to_string(),
        state,
        failure: failure.cloned(),
        next_try,
    }
}

/// Whether two outputs have the same destination and format.
pub(super) fn is_same_output(a: &Output, b: &Output) -> bool {
    a.destination == b.destination && a.format == b.format
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Clock as _;
    use crate::runner::tests::world::{World, job, token};

    /// The allocator has size classes of 512 bytes and of 640. Rarely used fields are boxed.
    #[test]
    fn what_there_is_for_each_of_ten_thousand_jobs_is_small() {
        let counts = 2 * size_of::<usize>();
        assert!(size_of::<JobEntry>() <= 512, "{}", size_of::<JobEntry>());
        assert!(size_of::<Job>() + counts <= 512, "{}", size_of::<Job>());
    }

    #[test]
    fn a_life_that_is_over_says_nothing_and_leaves_what_was_said_of_the_same_value() {
        let world = World::default();
        let now = world.time.now();
        let sent = now.wall;
        let at = |seconds: i64| Timestamp(sent.0.saturating_add_signed(seconds * 1000));
        let assumed = sent.after(job("a").refresh.default_lifetime);
        for (held, value, said, expected, what) in [
            (None, "new", at(60), at(60), "it is told"),
            (None, "new", at(0), assumed, "nothing is held"),
            (None, "new", at(-3600), assumed, "long over"),
            (Some(at(9)), "new", at(-1), assumed, "another is held"),
            (Some(at(9)), "held", at(-1), at(9), "the same is held"),
            (Some(at(9)), "held", at(60), at(60), "the same lives on"),
            (
                Some(at(-9)),
                "held",
                at(-1),
                at(-9),
                "the same was to die meanwhile",
            ),
        ] {
            let mut entry = JobEntry::new(Arc::new(job("a")), now);
            entry.token = held.map(|end| {
                Arc::new(KeptToken {
                    token: token("held", Expiry::At(end)),
                    obtained_at: at(-100),
                    expires_at: Some(end),
                    rotating_expires_at: None,
                    source_hash: [0; 32],
                })
            });
            let (candidate, kept) = entry.weigh(Acquired {
                token: token(value, Expiry::At(said)),
                obtained_at: sent,
                rotating_expires_at: Some(said),
                issuer_ahead_ms: None,
            });
            assert_eq!(candidate.expires_at, Some(expected), "{what}");
            assert_eq!(kept.expires_at, Some(expected), "{what}");
            assert_eq!(
                candidate.is_held_one,
                held.is_some() && value == "held",
                "{what}"
            );
            let rotating = Some(said).filter(|said| *said > sent);
            assert_eq!(candidate.rotating_expires_at, rotating, "{what}");
        }
    }
}

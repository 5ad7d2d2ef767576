//! What the runner holds for one job, and for one output that jobs share.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::ports::{Call, Issuer, JobToken, Obtained, Owner, Ports, Write};
use super::status::{
    ChainState, FailureStatus, HeldBack, JobState, JobStatus, OutputState, OutputStatus,
    SharedStatus,
};
use super::work::Task;
use crate::config::model::{Destination, Job, Output, SharedOutput};
use crate::failure::FailureKind;
use crate::refresh::admit::Candidate;
use crate::refresh::lifetime;
use crate::refresh::publication::{Publication, Purpose, State};
use crate::refresh::{self, clock, job::Life};
use crate::time::{Reading, Timestamp};
use crate::token::{KeptToken, jwt};

/// What waits until no output of the job is being written.
#[derive(Debug)]
pub(super) enum Pending {
    Replace(Arc<Job>),
    Remove,
}

/// A job under way. Of its token there is one copy.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) config: Arc<Job>,
    pub(super) source_hash: [u8; 32],
    pub(super) machine: refresh::job::Job,
    pub(super) token: Option<Arc<KeptToken>>,
    /// Whom the source asks, as of when it was last to be asked.
    pub(super) issuer: Option<Issuer>,
    /// Writes of outputs that wait or run.
    pub(super) writes: usize,
    pub(super) pending: Option<Pending>,
    pub(super) last_success: Option<Timestamp>,
    pub(super) last_failure: Option<Box<FailureStatus>>,
    /// Digest of the secrets at the last failure that somebody has to mend.
    pub(super) secrets: Option<[u8; 32]>,
    pub(super) keep_failure: Option<Box<FailureStatus>>,
    /// By output.
    pub(super) output_failures: Vec<Option<Box<FailureStatus>>>,
}

impl Entry {
    pub(super) fn new(config: Arc<Job>, ports: &Ports, now: Reading) -> Self {
        let outputs = config.outputs.len();
        Self {
            source_hash: ports.acquirer.source_hash(&config),
            machine: refresh::job::Job::new(config.refresh.clone(), config.verify, outputs, now),
            config,
            token: None,
            issuer: None,
            writes: 0,
            pending: None,
            last_success: None,
            last_failure: None,
            secrets: None,
            keep_failure: None,
            output_failures: vec![None; outputs],
        }
    }

    /// The token that the state store had, if it may be this job's.
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

    /// The token that the source returned, with what is known about it.
    pub(super) fn weigh(&self, obtained: Obtained) -> (Candidate, Arc<KeptToken>) {
        let Obtained {
            token,
            obtained_at,
            rotating_expires_at,
            issuer_ahead_ms: _,
        } = obtained;
        let claims = jwt::read(token.value.expose_secret());
        let assumed = self.config.refresh.default_lifetime;
        let expires_at = lifetime::expires_at(obtained_at, token.expiry, claims.as_ref(), assumed);
        let candidate = Candidate {
            is_empty: token.value.expose_secret().is_empty(),
            is_held_one: self.token.as_ref().is_some_and(|held| held.token == token),
            obtained_at,
            expires_at,
            not_before: lifetime::not_before(obtained_at, claims.as_ref()),
            rotating_expires_at,
        };
        let kept = KeptToken {
            token,
            obtained_at,
            expires_at,
            rotating_expires_at,
            source_hash: self.source_hash,
        };
        (candidate, Arc::new(kept))
    }

    pub(super) fn acquire(&self) -> Task {
        let call = Call {
            attempt: self.machine.failures(),
            previous_expires_at: self.token.as_ref().and_then(|held| held.expires_at),
        };
        Task::Acquire(Arc::clone(&self.config), call)
    }

    pub(super) fn keep(&self) -> Option<Task> {
        let token = Arc::clone(self.token.as_ref()?);
        Some(Task::Keep(self.config.id.clone(), token))
    }

    pub(super) fn write(&self, index: usize, purpose: Purpose) -> Option<Task> {
        let write = Write {
            owner: Owner::Job(self.config.id.clone()),
            index,
            purpose,
            output: self.config.outputs.get(index)?.clone(),
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

    /// Whether abandoning a call of the source could lose what it replaced.
    pub(super) fn rotates(&self) -> bool {
        self.config
            .source
            .secrets
            .values()
            .any(|secret| secret.rotating)
    }

    /// Whether a run of `once` need not wait for it any more: all is done, or somebody has to mend something.
    pub(super) fn is_finished(&self, now: Reading) -> bool {
        let needs_mending =
            |failure: &Option<Box<FailureStatus>>| failure.as_ref().is_some_and(|f| is_for_good(f));
        self.machine.is_settled(now)
            || needs_mending(&self.last_failure)
            || (!self.machine.is_acquiring() && self.output_failures.iter().any(needs_mending))
    }

    fn state(&self, now: Reading, is_held_back: bool) -> JobState {
        let machine = &self.machine;
        let has_failed = machine.failures() > 0;
        match (&self.token, machine.lives(now)) {
            (None, _) if has_failed => JobState::Failing,
            (None, _) => JobState::Pending,
            (Some(_), false) => JobState::Expired,
            (Some(_), true) if machine.is_ready(now) => {
                if has_failed || is_held_back {
                    JobState::Retrying
                } else {
                    JobState::Ready
                }
            }
            (Some(_), true) if machine.output_states().any(|s| s == State::Failing) => {
                JobState::Unwritten
            }
            (Some(_), true) => JobState::Publishing,
        }
    }

    /// What the chain of the job's rotating secrets is in for; none: it has none.
    fn chain(&self) -> Option<ChainState> {
        let code = self.last_failure.as_deref().and_then(|f| f.code.as_deref());
        self.rotates().then(|| ChainState::of(code))
    }

    /// `held_back`: why it waits for its issuer, if it does, and when the next job may try.
    pub(super) fn status(
        &self,
        now: Reading,
        held_back: Option<(HeldBack, Option<Timestamp>)>,
    ) -> JobStatus {
        let outputs = self.config.outputs.iter();
        let states = self.machine.output_states();
        let failures = self.output_failures.iter();
        JobStatus {
            id: self.config.id.clone(),
            state: self.state(now, held_back.is_some()),
            expires_at: self.expires_at(now),
            next_refresh: match &held_back {
                Some((_, next)) => *next,
                None => self.machine.next_refresh(now),
            },
            last_success: self.last_success,
            attempt: self.machine.failures(),
            last_failure: self.last_failure.as_deref().cloned(),
            held_back: held_back.map(|(held_back, _)| held_back),
            chain: self.chain(),
            keep_failure: self.keep_failure.as_deref().cloned(),
            outputs: outputs
                .zip(states)
                .zip(failures)
                .map(|((output, state), failure)| output_status(output, state, failure.as_deref()))
                .collect(),
        }
    }

    /// By the wall clock as it is now, also if it was set since the token was obtained.
    fn expires_at(&self, now: Reading) -> Option<Timestamp> {
        let said = self.token.as_ref()?.expires_at?;
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
    pub(super) publication: Publication,
    pub(super) failure: Option<Box<FailureStatus>>,
}

impl SharedEntry {
    pub(super) fn new(config: Arc<SharedOutput>, index: usize, verify: Duration) -> Self {
        Self {
            config,
            index,
            publication: Publication::new(Some(verify)),
            failure: None,
        }
    }

    pub(super) fn write(&self, tokens: Vec<JobToken>, purpose: Purpose) -> Task {
        Task::Write(Box::new(Write {
            owner: Owner::Shared,
            index: self.index,
            purpose,
            output: self.config.output.clone(),
            tokens,
        }))
    }

    pub(super) fn is_finished(&self) -> bool {
        !self.publication.is_writing()
            && (self.publication.state() == State::Written
                || self.failure.as_deref().is_some_and(is_for_good))
    }

    pub(super) fn status(&self) -> SharedStatus {
        let state = self.publication.state();
        SharedStatus {
            from: self.config.from.clone(),
            output: output_status(&self.config.output, state, self.failure.as_deref()),
        }
    }
}

/// Whether waiting alone will not help.
const fn is_for_good(failure: &FailureStatus) -> bool {
    matches!(
        failure.kind,
        FailureKind::Denied | FailureKind::InvalidConfig
    )
}

fn output_status(output: &Output, state: State, failure: Option<&FailureStatus>) -> OutputStatus {
    OutputStatus {
        destination: destination(&output.destination),
        state: match state {
            State::Waiting => OutputState::Waiting,
            State::Writing => OutputState::Writing,
            State::Written => OutputState::Written,
            State::Failing => OutputState::Failing,
        },
        failure: failure.cloned(),
    }
}

/// The place, for people.
pub(super) fn destination(destination: &Destination) -> String {
    match destination {
        Destination::File(file) => file.path.display().to_string(),
        Destination::Secret(secret) => {
            format!("{}/{}/{}", secret.namespace, secret.name, secret.key)
        }
    }
}

/// Whether two outputs are the same place and spelling.
pub(super) fn is_same_output(a: &Output, b: &Output) -> bool {
    a.destination == b.destination && a.format == b.format
}

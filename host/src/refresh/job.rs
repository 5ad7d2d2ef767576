//! The lifecycle of a job as a pure state machine: it receives [`JobEvent`]s and returns [`Action`]s. It holds no token, only
//! when it was obtained and when it expires; the caller carries out the actions, holds the token and reports the end of each.

use std::time::Duration;

use super::admit::{self, Candidate, Verdict};
use super::backoff::{self, RetryContext, Streak};
use super::clock::{Moment, is_from_the_future};
use super::due;
use super::output::{self, OutputLifecycle, Purpose};
use crate::model::Policy;
use crate::model::failure::{Failure, FailureKind};
use crate::model::time::{Reading, Timestamp};

/// A token's life by the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When the request that brought it was sent.
    pub obtained_at: Timestamp,
    /// When it expires; none: never.
    pub expires_at: Option<Timestamp>,
    /// When the first of the source's rotating secrets expires unless it is used; none: never, or it is not known.
    pub rotating_expires_at: Option<Timestamp>,
}

impl Life {
    /// Its duration; none: it never expires.
    #[must_use]
    pub fn length(self) -> Option<Duration> {
        self.expires_at.map(|at| at.since(self.obtained_at))
    }
}

/// An event of a job.
#[derive(Debug, Clone, PartialEq)]
pub enum JobEvent {
    /// A time came that the job waits for, or may have come.
    Woken,
    /// The state store was asked for a token of this job's source; always the first event.
    Restored(Option<Life>),
    /// A new token was requested on demand, whatever the held one is.
    Asked,
    /// The source was replaced: its future results are used, a pending result of the former one is not.
    SourceChanged,
    /// The value of a secret differs from that at the last failure.
    SecretsChanged,
    /// The issuer, which was unavailable for all jobs when the source last failed, answers again.
    IssuerAnswered,
    /// The source returned a token.
    Acquired(Candidate),
    /// The source failed.
    Failed {
        /// The kind of the failure.
        kind: FailureKind,
        /// The `Retry-After` of the other side.
        retry_after: Option<Duration>,
        /// Whether the failure was local and sent nothing to an issuer.
        is_local: bool,
    },
    /// An event of the token's copy in the state store.
    Keep(output::OutputEvent),
    /// An event of an output.
    Output(usize, output::OutputEvent),
    /// Consumers were given a part of the held token that expires at this time.
    PartExpires(Timestamp),
}

/// What to do for a job. Several may be under way at once, each at most once: asking the source, keeping, and each output.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Ask the source for a token.
    Acquire,
    /// The token just obtained or restored is the job's token from now on.
    Adopt,
    /// The token just obtained is the held one.
    Unchanged,
    /// The token just obtained is dropped: it is not good.
    Refuse(Failure),
    /// Write the held token to the state store.
    Keep,
    /// Write the held token to this output.
    Write(usize, Purpose),
}

/// A job's life.
#[derive(Debug, Clone)]
pub struct JobLifecycle {
    policy: Policy,
    held: Option<HeldToken>,
    /// Whether an earlier process had left a token that was expired when this one began.
    had_one: bool,
    next: Next,
    /// Since when a new token is due, or when it will be.
    due: Moment,
    /// Until when the source is not asked again after its last answer, on the boot clock.
    rests_until: Duration,
    /// The try that was requested on demand.
    asked: Option<Box<OnDemandTry>>,
    /// Whether what is under way comes from a source that is no longer the job's.
    is_outdated: bool,
    failures: Streak,
    keep: OutputLifecycle,
    outputs: Vec<OutputLifecycle>,
}

/// The token that consumers have, or are about to have.
#[derive(Debug, Clone, Copy)]
struct HeldToken {
    life: Life,
    expires_at: Option<Moment>,
}

impl HeldToken {
    fn lives(&self, now: Reading) -> bool {
        self.expires_at.is_none_or(|at| !at.is_reached(now))
    }
}

/// A try on demand must not delay the scheduled ones.
#[derive(Debug, Clone, Copy)]
struct OnDemandTry {
    /// When the source would have been asked next, on the boot clock: it is asked by then, whatever the outcome of this try.
    otherwise: Duration,
    /// The failures before it: the back-off goes on from there.
    before: Streak,
}

/// The next step of the source.
#[derive(Debug, Clone, Copy)]
enum Next {
    Restored,
    Due,
    /// On the boot clock.
    Retry(Duration),
    /// Its turn, which the issuer's circuit breaker gives.
    Turn,
    Answer,
}

impl JobLifecycle {
    /// A job that waits for [`JobEvent::Restored`].
    #[must_use]
    pub fn new(policy: Policy, verify: Duration, outputs: usize, now: Reading) -> Self {
        Self {
            policy,
            held: None,
            had_one: false,
            next: Next::Restored,
            due: Moment::after(now, Duration::ZERO),
            rests_until: Duration::ZERO,
            asked: None,
            is_outdated: false,
            failures: Streak::default(),
            keep: OutputLifecycle::new(None),
            outputs: vec![OutputLifecycle::new(Some(verify)); outputs],
        }
    }

    /// Handles an event and returns what to do. `sample` is from 0 to 1.
    pub fn step(&mut self, event: JobEvent, now: Reading, sample: f64) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            JobEvent::Woken => {}
            JobEvent::Restored(life) => actions.extend(self.restored(life, now, sample)),
            JobEvent::Asked => {
                if let Some(otherwise) = self.acquires_at(now).filter(|at| *at > now.boot) {
                    let before = self
                        .asked
                        .as_ref()
                        .map_or(self.failures, |asked| asked.before);
                    self.asked = Some(Box::new(OnDemandTry { otherwise, before }));
                }
                self.hurry(now);
            }
            JobEvent::SourceChanged => {
                self.is_outdated = matches!(self.next, Next::Answer);
                self.asked = None;
                self.hurry(now);
            }
            JobEvent::SecretsChanged => {
                if self.needs_mending() {
                    self.failures.changed();
                    self.is_due(now);
                }
            }
            JobEvent::IssuerAnswered => {
                if matches!(self.next, Next::Retry(_)) {
                    self.is_due(now);
                }
            }
            JobEvent::Acquired(candidate) => {
                actions.extend(self.acquired(&candidate, now, sample));
            }
            JobEvent::Failed {
                kind,
                retry_after,
                is_local,
            } => self.failed(kind, retry_after, is_local, now, sample),
            JobEvent::PartExpires(at) => self.part_expires(at, now, sample),
            JobEvent::Keep(event) => self.keep.step(event, now, sample),
            JobEvent::Output(index, event) => {
                if let Some(output) = self.outputs.get_mut(index) {
                    output.step(event, now, sample);
                }
            }
        }
        self.act(now, &mut actions);
        actions
    }

    /// The source is being asked; until then the job waited for its turn.
    pub fn begun(&mut self) {
        if matches!(self.next, Next::Turn) {
            self.next = Next::Answer;
        }
    }

    fn restored(&mut self, life: Option<Life>, now: Reading, sample: f64) -> Option<Action> {
        if !matches!(self.next, Next::Restored) {
            return None;
        }
        self.next = Next::Due;
        let life = life?;
        if life.expires_at.is_some_and(|at| at <= now.wall) {
            self.had_one = true;
            return None;
        }
        if is_from_the_future(life.obtained_at, life.length(), now.wall) {
            self.hold(life, now);
        } else {
            let obtained_at = life.obtained_at.min(now.wall);
            self.hold(
                Life {
                    obtained_at,
                    ..life
                },
                now,
            );
            self.retime(now, sample);
        }
        self.tell_outputs(&output::OutputEvent::Restored, now, sample);
        Some(Action::Adopt)
    }

    fn hurry(&mut self, now: Reading) {
        self.rests_until = Duration::ZERO;
        if matches!(self.next, Next::Due | Next::Retry(_)) {
            self.is_due(now);
        }
    }

    fn acquired(&mut self, candidate: &Candidate, now: Reading, sample: f64) -> Option<Action> {
        if self.drops_answer(now) {
            return None;
        }
        let held_expires_at = self.held.map(|held| held.expires_at);
        let lives_longer = admit::lives_longer(candidate, held_expires_at, now);
        let verdict = match admit::admit(candidate, held_expires_at, now) {
            Ok(verdict) => verdict,
            Err(failure) => {
                self.failed(failure.kind, failure.retry_after, false, now, sample);
                return Some(Action::Refuse(failure));
            }
        };
        self.succeeded(now);
        if verdict == Verdict::Adopt {
            let life = Life {
                obtained_at: candidate.obtained_at.min(now.wall),
                expires_at: candidate.expires_at,
                rotating_expires_at: candidate.rotating_expires_at,
            };
            self.hold(life, now);
            self.keep.step(output::OutputEvent::Changed, now, sample);
            self.tell_outputs(&output::OutputEvent::Changed, now, sample);
        }
        if lives_longer {
            self.retime(now, sample);
        } else {
            self.wait_for_longer_life(candidate, now, sample);
        }
        Some(match verdict {
            Verdict::Adopt => Action::Adopt,
            Verdict::Unchanged => Action::Unchanged,
        })
    }

    /// Due when the issuer may give a longer life, and before the rotating secret that came with the answer expires.
    fn wait_for_longer_life(&mut self, candidate: &Candidate, now: Reading, sample: f64) {
        let remaining = self.remaining(now);
        let wait = remaining.map_or(self.policy.every, admit::wait_for_longer_life);
        let obtained_at = candidate.obtained_at.min(now.wall);
        let rotating = candidate.rotating_expires_at;
        let by_rotating = due::due(&self.policy, obtained_at, None, rotating, sample);
        self.due = Moment::at(now.wall.after(wait).min(by_rotating), now);
    }

    fn failed(
        &mut self,
        kind: FailureKind,
        retry_after: Option<Duration>,
        is_local: bool,
        now: Reading,
        sample: f64,
    ) {
        if self.drops_answer(now) {
            return;
        }
        let retry_context = self.retry_context(kind, now);
        let by_itself = self.asked.take_if(|asked| asked.otherwise <= now.boot);
        if let Some(before) = by_itself.map(|asked| asked.before) {
            self.failures.resume(before);
        }
        let nth = self.failures.failed(kind);
        let wait = if is_local {
            backoff::wait_locally(kind, nth, retry_after, sample)
        } else {
            backoff::wait(kind, nth, retry_after, retry_context, sample)
        };
        self.rest(now);
        let next = now.boot.saturating_add(wait);
        let latest = self.asked.as_ref().map_or(next, |asked| asked.otherwise);
        self.next = Next::Retry(next.min(latest));
    }

    /// The circumstances that decide the back-off. Consumers without any token are no better off than with an expired one; but a
    /// bug that occurs before there ever was a token does not pass while they wait.
    fn retry_context(&self, kind: FailureKind, now: Reading) -> RetryContext {
        match self.held {
            Some(held) => RetryContext {
                life: held.life.length(),
                remaining: self.remaining(now),
            },
            None => RetryContext {
                life: None,
                remaining: (kind != FailureKind::Internal || self.had_one)
                    .then_some(Duration::ZERO),
            },
        }
    }

    /// Whether the answer that just came belongs to a former source; then the source is asked again.
    fn drops_answer(&mut self, now: Reading) -> bool {
        let drops = std::mem::take(&mut self.is_outdated);
        if drops {
            self.is_due(now);
        }
        drops
    }

    fn succeeded(&mut self, now: Reading) {
        self.failures = Streak::default();
        self.rest(now);
        self.asked = None;
        self.next = Next::Due;
    }

    /// Ensures a minimum pause after an answer, whatever it says and whatever else happens.
    fn rest(&mut self, now: Reading) {
        self.rests_until = now.boot.saturating_add(due::SOONEST);
    }

    fn hold(&mut self, life: Life, now: Reading) {
        let expires_at = life.expires_at.map(|at| Moment::at(at, now));
        self.held = Some(HeldToken { life, expires_at });
    }

    /// The held token lasts no longer than the parts of it that consumers were given.
    fn part_expires(&mut self, at: Timestamp, now: Reading, sample: f64) {
        let Some(HeldToken { life, .. }) = self.held else {
            return;
        };
        if life.expires_at.is_some_and(|token| token <= at) {
            return;
        }
        let life = Life {
            expires_at: Some(at),
            ..life
        };
        self.hold(life, now);
        let due = self.due;
        self.retime(now, sample);
        if due.wall < self.due.wall {
            self.due = due;
        }
    }

    /// Due now, or since it was due before: another request does not reset how long the job has waited.
    fn is_due(&mut self, now: Reading) {
        self.next = Next::Due;
        if !self.due.is_reached(now) {
            self.due = Moment::after(now, Duration::ZERO);
        }
    }

    /// Due as the policy says for the held token.
    fn retime(&mut self, now: Reading, sample: f64) {
        if let Some(HeldToken { life, .. }) = self.held {
            let rotating = life.rotating_expires_at;
            let length = life.length();
            let at = due::due(&self.policy, life.obtained_at, length, rotating, sample);
            self.due = Moment::at(at, now);
        }
    }

    fn tell_outputs(&mut self, event: &output::OutputEvent, now: Reading, sample: f64) {
        for output in &mut self.outputs {
            output.step(event.clone(), now, sample);
        }
    }

    /// Begins what is due. An expired token is not written: what consumers have is no worse.
    fn act(&mut self, now: Reading, actions: &mut Vec<Action>) {
        if self.lives(now) {
            if self.keep.take(now).is_some() {
                actions.push(Action::Keep);
            }
            for (index, output) in self.outputs.iter_mut().enumerate() {
                if let Some(purpose) = output.take(now) {
                    actions.push(Action::Write(index, purpose));
                }
            }
        }
        if self.acquires_at(now).is_some_and(|at| at <= now.boot) {
            self.next = Next::Turn;
            actions.push(Action::Acquire);
        }
    }

    fn acquires_at(&self, now: Reading) -> Option<Duration> {
        let at = match self.next {
            Next::Due => self.due.on_boot_clock(now),
            Next::Retry(at) => at,
            Next::Restored | Next::Turn | Next::Answer => return None,
        };
        Some(at.max(self.rests_until))
    }

    /// When the job is to be woken, on the boot clock; none: not until something else happens. It holds until the next event
    /// or until the wall clock is set.
    #[must_use]
    pub fn wakes_at(&self, now: Reading) -> Option<Duration> {
        let writes = self.outputs.iter().chain([&self.keep]);
        let write = writes
            .filter(|_| self.lives(now))
            .filter_map(OutputLifecycle::wakes_at)
            .min();
        [self.acquires_at(now), write].into_iter().flatten().min()
    }

    /// Changes when the token is obtained anew.
    pub fn set_policy(&mut self, policy: Policy, now: Reading, sample: f64) -> Vec<Action> {
        self.policy = policy;
        if matches!(self.next, Next::Due) {
            self.retime(now, sample);
        }
        self.step(JobEvent::Woken, now, sample)
    }

    /// Replaces the outputs; the held token is written to all of them. Not to be called while one [is written](Self::is_writing):
    /// the end of that write would be taken for a new output's.
    pub fn set_outputs(
        &mut self,
        verify: Duration,
        outputs: usize,
        now: Reading,
        sample: f64,
    ) -> Vec<Action> {
        self.outputs = vec![OutputLifecycle::new(Some(verify)); outputs];
        if self.held.is_some() {
            self.tell_outputs(&output::OutputEvent::Changed, now, sample);
        }
        self.step(JobEvent::Woken, now, sample)
    }

    /// Whether an output is being written, or the token kept.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.keep.is_writing() || self.outputs.iter().any(OutputLifecycle::is_writing)
    }

    /// Whether the source is being asked, or waits for its turn to be.
    #[must_use]
    pub fn is_acquiring(&self) -> bool {
        matches!(self.next, Next::Turn | Next::Answer)
    }

    /// Whether the source is to be asked and waits for its turn.
    #[must_use]
    pub fn waits_for_turn(&self) -> bool {
        matches!(self.next, Next::Turn)
    }

    /// Whether the held token is valid.
    #[must_use]
    pub fn lives(&self, now: Reading) -> bool {
        self.held.is_some_and(|held| held.lives(now))
    }

    /// Whether the source has ever returned a token, in this process or before it.
    #[must_use]
    pub const fn was_served(&self) -> bool {
        self.held.is_some() || self.had_one
    }

    /// What is left of the held token's life; none: there is no token, or it never expires.
    #[must_use]
    pub fn remaining(&self, now: Reading) -> Option<Duration> {
        self.held?.expires_at.map(|at| at.remaining(now))
    }

    /// When the held token expires, on the boot clock; none: no token is valid, or it never expires.
    #[must_use]
    pub fn expires_at_boot(&self, now: Reading) -> Option<Duration> {
        let left = self.remaining(now).filter(|left| !left.is_zero())?;
        Some(now.boot.saturating_add(left))
    }

    /// The held token's life.
    #[must_use]
    pub fn life(&self) -> Option<Life> {
        self.held.map(|held| held.life)
    }

    /// Since when a new token is due, or when it will be.
    #[must_use]
    pub fn due(&self) -> Moment {
        self.due
    }

    /// When the source is asked next, on the wall clock; none: it is being asked, or its turn is not known yet.
    #[must_use]
    pub fn next_refresh(&self, now: Reading) -> Option<Timestamp> {
        let at = self.acquires_at(now)?;
        Some(now.wall.after(at.saturating_sub(now.boot)))
    }

    /// Failures of the source since its last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures.all()
    }

    /// Whether the source's next try waits for a failure that a person has to correct.
    #[must_use]
    pub fn needs_mending(&self) -> bool {
        let lasting = matches!(
            self.failures.last(),
            Some(FailureKind::Denied | FailureKind::InvalidConfig)
        );
        lasting && matches!(self.next, Next::Retry(_))
    }

    /// The state of the token's copy in the state store.
    #[must_use]
    pub fn keep_state(&self) -> output::OutputState {
        self.keep.state()
    }

    /// When the token's copy in the state store is written again after that failed, on the boot clock.
    #[must_use]
    pub fn keep_retries_at(&self, now: Reading) -> Option<Duration> {
        self.keep.retries_at().filter(|_| self.lives(now))
    }

    /// When each output is written again after that failed, on the boot clock. An expired token is not written.
    pub fn outputs_retry_at(&self, now: Reading) -> impl Iterator<Item = Option<Duration>> {
        let lives = self.lives(now);
        self.outputs
            .iter()
            .map(move |output| output.retries_at().filter(|_| lives))
    }

    /// The state of each output.
    pub fn output_states(&self) -> impl Iterator<Item = output::OutputState> {
        self.outputs.iter().map(OutputLifecycle::state)
    }

    /// Whether each output has a valid token.
    #[must_use]
    pub fn is_ready(&self, now: Reading) -> bool {
        self.lives(now)
            && self
                .output_states()
                .all(|state| state == output::OutputState::Written)
    }

    /// Whether there is nothing to do until a later time.
    #[must_use]
    pub fn is_settled(&self, now: Reading) -> bool {
        self.is_ready(now)
            && self.keep_state() != output::OutputState::Writing
            && !self.is_writing()
            && matches!(self.next, Next::Due)
            && !self.due.is_reached(now)
    }
}

#[cfg(test)]
mod tests;

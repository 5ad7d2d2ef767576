//! The lifecycle of one output: written when its token changes, retried while that fails, verified periodically. It knows only
//! whether there is a token; a failed write never causes a request to the issuer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backoff::{self, Streak};
use super::scaled;
use crate::model::failure::FailureKind;
use crate::model::time::Reading;

/// Verifications of outputs that were written together drift apart by up to this part of their interval, chosen at random.
const VERIFY_SPREAD: f64 = 0.1;

/// An event of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputEvent {
    /// There is new content for it.
    Changed,
    /// An earlier process wrote its content; whether that is still there is unknown.
    Restored,
    /// The content is no longer available; the next change brings new content.
    Gone,
    /// A write succeeded.
    Written,
    /// A write failed.
    Failed {
        /// What kind of failure.
        kind: FailureKind,
        /// The `Retry-After` of the other side.
        retry_after: Option<Duration>,
    },
}

/// Why an output is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Its content is new, or was never written successfully.
    Publish,
    /// Its content should be right; an external change or deletion is corrected.
    Verify,
}

/// An output's state, as in status and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutputState {
    /// There is no token to write yet.
    Waiting,
    /// The newest content is being written.
    Writing,
    /// It holds the newest content.
    Written,
    /// The last write failed; the former content is in place.
    Failing,
}

/// The lifecycle of an output.
#[derive(Debug, Clone)]
pub struct OutputLifecycle {
    /// How often it is verified; none: never.
    verify: Option<Duration>,
    phase: OutputPhase,
    /// Whether its content changed while it was being written.
    is_outdated: bool,
    /// Whether the newest content was written and no write failed since.
    is_current: bool,
    failures: Streak,
}

/// Points in time are on the boot clock.
#[derive(Debug, Clone, Copy)]
enum OutputPhase {
    Empty,
    Wanted,
    Writing,
    Resting { verify_at: Option<Duration> },
    Failed { retry_at: Duration },
}

impl OutputLifecycle {
    /// An output without content.
    #[must_use]
    pub fn new(verify: Option<Duration>) -> Self {
        Self {
            verify,
            phase: OutputPhase::Empty,
            is_outdated: false,
            is_current: false,
            failures: Streak::default(),
        }
    }

    /// Handles an event. `sample` is from 0 to 1.
    pub fn step(&mut self, event: OutputEvent, now: Reading, sample: f64) {
        match event {
            OutputEvent::Changed => self.changed(),
            OutputEvent::Restored => {
                let verify_at = Some(now.boot);
                self.phase = OutputPhase::Resting { verify_at };
            }
            OutputEvent::Gone => {
                self.phase = OutputPhase::Empty;
                self.is_outdated = false;
                self.is_current = false;
            }
            OutputEvent::Written => self.written(now, sample),
            OutputEvent::Failed { kind, retry_after } => {
                self.failed(kind, retry_after, now, sample)
            }
        }
    }

    fn changed(&mut self) {
        self.is_current = false;
        if matches!(self.phase, OutputPhase::Writing) {
            self.is_outdated = true;
        } else {
            self.phase = OutputPhase::Wanted;
        }
    }

    fn written(&mut self, now: Reading, sample: f64) {
        self.failures = Streak::default();
        if std::mem::take(&mut self.is_outdated) {
            self.phase = OutputPhase::Wanted;
            return;
        }
        self.is_current = true;
        let verify_at = self.verify.map(|verify| {
            let earlier = scaled(verify, VERIFY_SPREAD * sample);
            now.boot.saturating_add(verify.saturating_sub(earlier))
        });
        self.phase = OutputPhase::Resting { verify_at };
    }

    fn failed(
        &mut self,
        kind: FailureKind,
        retry_after: Option<Duration>,
        now: Reading,
        sample: f64,
    ) {
        self.is_current = false;
        let nth = self.failures.failed(kind);
        if std::mem::take(&mut self.is_outdated) {
            self.phase = OutputPhase::Wanted;
            return;
        }
        let wait = backoff::wait_locally(kind, nth, retry_after, sample)
            .min(self.verify.unwrap_or(Duration::MAX));
        self.phase = OutputPhase::Failed {
            retry_at: now.boot.saturating_add(wait),
        };
    }

    /// Begins a write if one is due, and returns its purpose.
    pub fn take(&mut self, now: Reading) -> Option<Purpose> {
        if self.wakes_at()? > now.boot {
            return None;
        }
        let purpose = match self.phase {
            OutputPhase::Resting { .. } => Purpose::Verify,
            _ => Purpose::Publish,
        };
        self.phase = OutputPhase::Writing;
        Some(purpose)
    }

    /// When it is to be written, on the boot clock; none: not before the next event.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Duration> {
        match self.phase {
            OutputPhase::Empty | OutputPhase::Writing => None,
            OutputPhase::Wanted => Some(Duration::ZERO),
            OutputPhase::Resting { verify_at } => verify_at,
            OutputPhase::Failed { retry_at } => Some(retry_at),
        }
    }

    /// When a failed write is tried again, on the boot clock; none: the last one did not fail.
    #[must_use]
    pub fn retries_at(&self) -> Option<Duration> {
        match self.phase {
            OutputPhase::Failed { retry_at } => Some(retry_at),
            _ => None,
        }
    }

    /// Whether a write is under way.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        matches!(self.phase, OutputPhase::Writing)
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> OutputState {
        match self.phase {
            _ if self.is_current => OutputState::Written,
            OutputPhase::Empty => OutputState::Waiting,
            _ if self.failures.all() > 0 => OutputState::Failing,
            _ => OutputState::Writing,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::time::Timestamp;

    const VERIFY: Duration = Duration::from_secs(600);

    fn at(s: u64) -> Reading {
        Reading {
            wall: Timestamp(1_700_000_000_000 + s * 1000),
            boot: Duration::from_secs(s),
        }
    }

    fn failure(kind: FailureKind) -> OutputEvent {
        OutputEvent::Failed {
            kind,
            retry_after: None,
        }
    }

    #[test]
    fn an_output_is_written_once_for_each_change_and_then_verified() {
        let mut output = OutputLifecycle::new(Some(VERIFY));
        assert_eq!(output.state(), OutputState::Waiting);
        assert_eq!(output.take(at(0)), None, "nothing to write yet");
        output.step(OutputEvent::Changed, at(1), 0.0);
        assert_eq!(output.take(at(1)), Some(Purpose::Publish));
        assert_eq!(output.state(), OutputState::Writing);
        assert_eq!(output.take(at(1)), None, "one write at a time");
        output.step(OutputEvent::Written, at(2), 0.0);
        assert_eq!(output.state(), OutputState::Written);
        assert_eq!(output.take(at(601)), None);
        assert_eq!(output.take(at(602)), Some(Purpose::Verify));
        assert_eq!(
            output.state(),
            OutputState::Written,
            "also while it is verified"
        );
    }

    #[test]
    fn verifications_drift_apart_by_up_to_a_tenth() {
        for (sample, expected_s) in [(0.0, 600), (0.5, 570), (1.0, 540)] {
            let mut output = OutputLifecycle::new(Some(VERIFY));
            output.step(OutputEvent::Changed, at(0), sample);
            output.take(at(0));
            output.step(OutputEvent::Written, at(0), sample);
            assert_eq!(output.wakes_at(), Some(Duration::from_secs(expected_s)));
        }
    }

    #[test]
    fn a_change_during_a_write_is_written_after_it() {
        let mut output = OutputLifecycle::new(None);
        output.step(OutputEvent::Changed, at(0), 0.0);
        output.take(at(0));
        output.step(OutputEvent::Changed, at(1), 0.0);
        assert_eq!(output.take(at(1)), None, "the first write is under way");
        output.step(OutputEvent::Written, at(2), 0.0);
        assert_eq!(
            output.state(),
            OutputState::Writing,
            "what was written is old"
        );
        assert_eq!(output.take(at(2)), Some(Purpose::Publish));
        output.step(OutputEvent::Written, at(3), 0.0);
        assert_eq!(output.state(), OutputState::Written);
        assert_eq!(output.wakes_at(), None, "never verified");
    }

    #[test]
    fn a_failed_write_is_tried_again_within_half_a_minute_and_as_often_as_it_is_verified() {
        for (verify_s, waits) in [
            (Some(600), [10, 25, 25]),
            (None, [10, 25, 25]),
            (Some(5), [5; 3]),
        ] {
            let mut output = OutputLifecycle::new(verify_s.map(Duration::from_secs));
            output.step(OutputEvent::Changed, at(0), 0.0);
            let mut now = 0;
            for expected_wait in waits {
                assert_eq!(output.take(at(now)), Some(Purpose::Publish));
                assert_eq!(output.retries_at(), None, "it is being written");
                output.step(failure(FailureKind::Denied), at(now), 0.0);
                assert_eq!(output.state(), OutputState::Failing);
                now += expected_wait;
                assert_eq!(output.wakes_at(), Some(Duration::from_secs(now)));
                assert_eq!(output.retries_at(), output.wakes_at());
            }
        }
    }

    #[test]
    fn a_new_token_does_not_wait_for_an_old_failure() {
        let mut output = OutputLifecycle::new(Some(VERIFY));
        output.step(OutputEvent::Changed, at(0), 0.0);
        output.take(at(0));
        output.step(failure(FailureKind::Denied), at(0), 0.0);
        output.step(OutputEvent::Changed, at(1), 0.0);
        assert_eq!(output.take(at(1)), Some(Purpose::Publish));
        output.step(OutputEvent::Changed, at(2), 0.0);
        output.step(failure(FailureKind::Denied), at(3), 0.0);
        assert_eq!(
            output.take(at(3)),
            Some(Purpose::Publish),
            "it came while the old one failed"
        );
    }

    proptest! {
        #[test]
        fn whatever_happens_one_write_at_a_time_and_the_newest_content_is_written_in_the_end(
            happenings in proptest::collection::vec((0_u64..1000, any::<u8>()), 1..80), sample in 0.0_f64..=1.0,
        ) {
            let mut output = OutputLifecycle::new(Some(VERIFY));
            let (mut now_s, mut newest, mut written, mut writing) = (0, 0, 0, None);
            for (pass_s, choice) in happenings {
                now_s += pass_s;
                match (choice % 4, writing) {
                    (0, _) => {
                        newest += 1;
                        output.step(OutputEvent::Changed, at(now_s), sample);
                    }
                    (1, Some(content)) => {
                        (written, writing) = (content, None);
                        output.step(OutputEvent::Written, at(now_s), sample);
                    }
                    (2, Some(_)) => {
                        writing = None;
                        output.step(failure(FailureKind::Denied), at(now_s), sample);
                    }
                    _ => {}
                }
                if output.take(at(now_s)).is_some() {
                    prop_assert_eq!(writing.replace(newest), None, "two writes at a time");
                }
                prop_assert_eq!(writing.is_some(), output.is_writing());
                if output.state() == OutputState::Written {
                    prop_assert_eq!(written, newest);
                }
                if newest > 0 && writing.is_none() {
                    let wait = output.wakes_at().map(|at| at.saturating_sub(Duration::from_secs(now_s)));
                    prop_assert!(wait.is_some_and(|wait| wait <= VERIFY), "it is never right again: {wait:?}");
                }
            }
        }
    }
}

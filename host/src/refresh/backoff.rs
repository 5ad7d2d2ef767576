//! Back-off after failures. Failures that may pass by themselves are tried again soon and then less often, with full jitter so
//! that jobs do not retry in step; failures that need a correction are tried again on a fixed schedule.

use std::time::Duration;

use super::due::SOONEST;
use super::scaled;
use crate::model::failure::FailureKind;

/// The first wait after `unavailable`.
const UNAVAILABLE_FIRST: Duration = Duration::from_secs(1);

/// The first wait after `internal` is up to this long: a bug does not pass within a second.
const INTERNAL_FIRST: Duration = Duration::from_secs(30);

/// The shortest wait after `internal`: full jitter alone may choose next to nothing.
const INTERNAL_LEAST: Duration = Duration::from_millis(7500);

/// The longest wait for failures that may pass by themselves: an issuer that is back is noticed within five minutes.
const LONGEST: Duration = Duration::from_secs(300);

/// The bound by a token's life is at least this; it is also the bound once consumers hold an expired token.
const LONGEST_AT_LEAST: Duration = Duration::from_secs(30);

/// Waits are bounded by this part of the token's life.
const LIFE_PART: u32 = 10;

/// Towards the end of the published token's life, waits are bounded by this part of what is left of it.
const REMAINING_PART: u32 = 4;

/// `Retry-After` is respected up to this; a longer one is taken for an error of the issuer.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The waits for failures that need a correction; the last one repeats.
const BACKOFF_SCHEDULE: [Duration; 5] = [
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(15 * 60),
    Duration::from_secs(60 * 60),
];

/// The longest wait for failures that send nothing to an issuer, so that a corrected folder, permission or file takes effect
/// within half a minute, the try itself included.
const LONGEST_LOCAL: Duration = Duration::from_secs(25);

/// These waits are up to this part shorter, at random.
const LOCAL_JITTER: f64 = 0.2;

/// What a wait depends on: the token that consumers hold meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetryContext {
    /// The held token's whole life; none: there is no token, or it never expires.
    pub life: Option<Duration>,
    /// What is left of it, nothing if there is no token; none: it never expires.
    pub remaining: Option<Duration>,
}

/// How long to wait after the `nth` failure of this kind in a row (from 1). `sample` (0 to 1) chooses within the jitter.
#[must_use]
pub fn wait(
    kind: FailureKind,
    nth: u32,
    retry_after: Option<Duration>,
    context: RetryContext,
    sample: f64,
) -> Duration {
    let own = match kind {
        FailureKind::Unavailable => {
            exponential(UNAVAILABLE_FIRST, nth, context, sample).max(SOONEST)
        }
        FailureKind::Internal => {
            exponential(INTERNAL_FIRST, nth, context, sample).max(INTERNAL_LEAST)
        }
        FailureKind::Denied | FailureKind::InvalidConfig => scheduled_wait(nth),
    };
    own.max(obeyed(retry_after, context.remaining))
}

/// How long a `Retry-After` is respected, at most an hour. A valid token (`remaining`) does not expire during it without another
/// try, unless its expiry is near; without a valid token, a try is made every few minutes.
pub(super) fn obeyed(retry_after: Option<Duration>, remaining: Option<Duration>) -> Duration {
    let longest = remaining.map_or(LONGEST_RETRY_AFTER, |left| {
        let before_its_end = left - left / REMAINING_PART;
        if before_its_end < LONGEST_AT_LEAST {
            LONGEST
        } else {
            before_its_end.min(LONGEST_RETRY_AFTER)
        }
    });
    retry_after.unwrap_or_default().min(longest)
}

/// The same for failures that send nothing to an issuer: a write, or a call that failed locally.
#[must_use]
pub fn wait_locally(
    kind: FailureKind,
    nth: u32,
    retry_after: Option<Duration>,
    sample: f64,
) -> Duration {
    let longest = LONGEST_LOCAL - scaled(LONGEST_LOCAL, LOCAL_JITTER * sample);
    wait(kind, nth, None, RetryContext::default(), sample)
        .min(longest)
        .max(obeyed(retry_after, Some(Duration::ZERO)))
}

fn exponential(first: Duration, nth: u32, context: RetryContext, sample: f64) -> Duration {
    let doubled =
        first.saturating_mul(1_u32.checked_shl(nth.saturating_sub(1)).unwrap_or(u32::MAX));
    scaled(doubled.min(cap(context)), sample)
}

/// The longest wait: five minutes, less for short-lived tokens, and less and less as the published token's expiry comes near.
fn cap(context: RetryContext) -> Duration {
    let by_life = context.life.map_or(LONGEST, |life| life / LIFE_PART);
    let by_remaining = context
        .remaining
        .map_or(LONGEST, |left| left / REMAINING_PART);
    by_life.min(by_remaining).clamp(LONGEST_AT_LEAST, LONGEST)
}

/// The `nth` wait (from 1) for a failure that needs a correction.
pub(super) fn scheduled_wait(nth: u32) -> Duration {
    let [.., last] = BACKOFF_SCHEDULE;
    let step = usize::try_from(nth.saturating_sub(1)).unwrap_or(usize::MAX);
    BACKOFF_SCHEDULE.get(step).copied().unwrap_or(last)
}

/// Failures in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streak {
    last: Option<FailureKind>,
    of_last_kind: u32,
    all: u32,
}

impl Streak {
    /// Counts a failure and returns its number among those of its kind in a row. A failure of another kind starts its own waits:
    /// an issuer that was unavailable for an hour and then refuses has refused once.
    pub fn failed(&mut self, kind: FailureKind) -> u32 {
        if self.last != Some(kind) {
            self.of_last_kind = 0;
        }
        self.last = Some(kind);
        self.of_last_kind = self.of_last_kind.saturating_add(1);
        self.all = self.all.saturating_add(1);
        self.of_last_kind
    }

    /// Continues the waits `before` a try on demand; the failures since then count.
    pub fn resume(&mut self, before: Self) {
        self.last = before.last;
        self.of_last_kind = before.of_last_kind;
    }

    /// The kind of the last failure; none: there was none since the last success.
    #[must_use]
    pub const fn last(&self) -> Option<FailureKind> {
        self.last
    }

    /// Restarts the waits, since something changed that may have caused the failures.
    pub fn changed(&mut self) {
        self.of_last_kind = 0;
    }

    /// Failures of any kind since the last success.
    #[must_use]
    pub const fn all(&self) -> u32 {
        self.all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn longest(kind: FailureKind, nth: u32, context: RetryContext) -> Duration {
        wait(kind, nth, None, context, 1.0)
    }

    #[test]
    fn what_may_pass_by_itself_waits_up_to_twice_as_long_each_time() {
        let day = RetryContext {
            life: Some(s(86_400)),
            remaining: Some(s(17_000)),
        };
        for (kind, waits) in [
            (
                FailureKind::Unavailable,
                [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300],
            ),
            (
                FailureKind::Internal,
                [30, 60, 120, 240, 300, 300, 300, 300, 300, 300, 300],
            ),
        ] {
            for (nth, expected) in (1..).zip(waits) {
                assert_eq!(longest(kind, nth, day), s(expected), "{kind} no. {nth}");
            }
            assert_eq!(longest(kind, u32::MAX, day), s(300), "{kind} for ever");
        }
    }

    #[test]
    fn full_jitter_chooses_from_a_second_to_the_whole_wait() {
        let context = RetryContext::default();
        for (sample, expected_ms) in [(0.0, 1000), (0.25, 4000), (0.5, 8000), (1.0, 16_000)] {
            assert_eq!(
                wait(FailureKind::Unavailable, 5, None, context, sample),
                Duration::from_millis(expected_ms),
                "sample {sample}"
            );
        }
    }

    #[test]
    fn the_longest_wait_shrinks_with_the_life_and_towards_its_end() {
        for (life_s, remaining_s, expected_s, what) in [
            (None, None, 300, "a token that never expires"),
            (None, Some(0), 30, "no token at all"),
            (Some(300), Some(90), 30, "a life of five minutes"),
            (Some(1200), Some(600), 120, "a tenth of the life"),
            (Some(86_400), Some(17_280), 300, "a long life"),
            (Some(86_400), Some(600), 150, "a quarter of what is left"),
            (Some(86_400), Some(60), 30, "near the end"),
            (Some(86_400), Some(0), 30, "the published token is dead"),
        ] {
            let context = RetryContext {
                life: life_s.map(s),
                remaining: remaining_s.map(s),
            };
            assert_eq!(
                longest(FailureKind::Unavailable, 30, context),
                s(expected_s),
                "{what}"
            );
        }
    }

    #[test]
    fn what_somebody_has_to_mend_is_tried_on_a_schedule_up_to_hourly() {
        for kind in [FailureKind::Denied, FailureKind::InvalidConfig] {
            let waits: Vec<_> = (1..=7)
                .map(|nth| wait(kind, nth, None, RetryContext::default(), 0.3).as_secs())
                .collect();
            assert_eq!(waits, [10, 60, 300, 900, 3600, 3600, 3600], "{kind}");
        }
    }

    #[test]
    fn what_is_mended_here_is_noticed_within_half_a_minute() {
        for (kind, waits) in [
            (FailureKind::Denied, [10, 25, 25, 25, 25, 25]),
            (FailureKind::InvalidConfig, [10, 25, 25, 25, 25, 25]),
            (FailureKind::Internal, [7, 7, 7, 7, 7, 7]),
            (FailureKind::Unavailable, [1, 1, 1, 1, 1, 1]),
        ] {
            for (nth, expected) in (1..).zip(waits) {
                let wait = wait_locally(kind, nth, None, 0.0);
                assert_eq!(wait.as_secs(), expected, "{kind} no. {nth}");
            }
            let longest = wait_locally(kind, 100, None, 1.0);
            assert_eq!(longest, s(20), "{kind}: not all in step");
        }
        let asked = wait_locally(FailureKind::Unavailable, 1, Some(s(90)), 0.0);
        assert_eq!(asked, s(90), "an API server may ask for rest");
    }

    #[test]
    fn retry_after_lets_no_token_die_without_another_try_and_nobody_wait_for_long_without_one() {
        for (left_s, expected_s, what) in [
            (None, 3600, "it never expires"),
            (Some(86_400), 3600, "it lives for long"),
            (Some(4000), 3000, "three quarters of what is left"),
            (Some(60), 45, "of a short life too"),
            (Some(40), 30, "the last time"),
            (Some(39), 300, "its end is near: no more tries before it"),
            (Some(0), 300, "it is dead, or there is none"),
        ] {
            for (asked_s, expected_s) in [(99_999_999, expected_s), (7, 7)] {
                let obeyed = obeyed(Some(s(asked_s)), left_s.map(s));
                assert_eq!(obeyed, s(expected_s), "{what}, Retry-After: {asked_s}");
            }
        }
        assert_eq!(obeyed(None, None), Duration::ZERO);
    }

    #[test]
    fn retry_after_is_obeyed_up_to_an_hour_and_never_shortens_a_wait() {
        for (kind, nth, retry_after_s, expected_s) in [
            (FailureKind::Unavailable, 1, 120, 120),
            (FailureKind::Unavailable, 1, 86_400, 3600),
            (FailureKind::Unavailable, 5, 2, 16),
            (FailureKind::Denied, 1, 30, 30),
            (FailureKind::Denied, 5, 30, 3600),
        ] {
            assert_eq!(
                wait(
                    kind,
                    nth,
                    Some(s(retry_after_s)),
                    RetryContext::default(),
                    1.0
                ),
                s(expected_s),
                "{kind} no. {nth}, Retry-After: {retry_after_s}"
            );
        }
    }

    #[test]
    fn a_failure_of_another_kind_starts_its_own_waits() {
        let mut streak = Streak::default();
        let kinds = [
            (FailureKind::Unavailable, 1),
            (FailureKind::Unavailable, 2),
            (FailureKind::Denied, 1),
            (FailureKind::Denied, 2),
            (FailureKind::Unavailable, 1),
        ];
        for (kind, expected) in kinds {
            assert_eq!(streak.failed(kind), expected, "{kind}");
        }
        assert_eq!(streak.all(), 5);
    }

    fn any_kind() -> impl Strategy<Value = FailureKind> {
        prop_oneof![
            Just(FailureKind::Unavailable),
            Just(FailureKind::Internal),
            Just(FailureKind::Denied),
            Just(FailureKind::InvalidConfig),
        ]
    }

    proptest! {
        #[test]
        fn retries_get_denser_towards_the_end_of_the_published_token_and_never_a_hammer(
            kind in any_kind(), nth in 1_u32..40, life_s in 1_u64..10_000_000, parts in (0.0_f64..=1.0, 0.0_f64..=1.0),
            sample in 0.0_f64..=1.0,
        ) {
            let (sooner, later) = (parts.0.min(parts.1), parts.0.max(parts.1));
            let with_left = |part| {
                let context = RetryContext { life: Some(s(life_s)), remaining: Some(scaled(s(life_s), part)) };
                wait(kind, nth, None, context, sample)
            };
            prop_assert!(with_left(sooner) <= with_left(later));
            prop_assert!(with_left(0.0) >= SOONEST);
        }

        #[test]
        fn a_streak_counts_all_failures_and_of_the_last_kind_those_in_a_row(
            kinds in proptest::collection::vec(any_kind(), 1..50),
        ) {
            let mut streak = Streak::default();
            let nth = kinds.iter().map(|kind| streak.failed(*kind)).last();
            let in_a_row = kinds.iter().rev().take_while(|kind| Some(**kind) == streak.last()).count();
            prop_assert_eq!(nth.map(|nth| nth as usize), Some(in_a_row));
            prop_assert_eq!(streak.all() as usize, kinds.len());
        }

        #[test]
        fn no_wait_is_a_hammer_and_none_is_longer_than_an_hour(
            kind in any_kind(), nth in any::<u32>(), retry_ms in proptest::option::of(any::<u64>()),
            life_ms in proptest::option::of(any::<u64>()), remaining_ms in proptest::option::of(any::<u64>()),
            sample in 0.0_f64..=1.0,
        ) {
            let context = RetryContext {
                life: life_ms.map(Duration::from_millis),
                remaining: remaining_ms.map(Duration::from_millis),
            };
            let wait = wait(kind, nth, retry_ms.map(Duration::from_millis), context, sample);
            prop_assert!(wait >= SOONEST);
            prop_assert!(wait <= LONGEST_RETRY_AFTER);
        }
    }
}

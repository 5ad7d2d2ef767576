//! Time for the rules: points on both clocks, so that neither a wall clock that is set nor a machine that sleeps makes a job
//! late, and detection of a wall clock that was set.

use std::time::Duration;

use crate::model::time::{Reading, Timestamp};

/// The wall clock counts as set once it moved against the boot clock by more than this. Slewing by NTP (at most 500 ppm)
/// gets here in half an hour and is then judged like a jump, so it never adds up.
pub const JUMP: Duration = Duration::from_secs(1);

/// A token obtained "later than now" shows that the clock was set back only beyond this; less is ordinary skew between hosts that
/// share a store.
const FUTURE_TOLERANCE: Duration = Duration::from_secs(60);

/// For long-lived tokens the tolerance grows: this part of their life.
const FUTURE_TOLERANCE_OF_LIFE: u32 = 20;

/// Issuers commonly tolerate a minute's difference and refuse what is beyond it.
pub const OFF_BEYOND: Duration = Duration::from_secs(60);

/// A clock that was off counts as right again below this.
const BACK_BELOW: Duration = Duration::from_secs(50);

/// The average of what a `Date` in whole seconds cuts off.
const HALF_A_SECOND: Duration = Duration::from_millis(500);

/// A point on both clocks. It is reached as soon as either clock says so: too early costs one request, too late leaves consumers
/// with an expired token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// On the wall clock.
    pub wall: Timestamp,
    /// On the boot clock.
    pub boot: Duration,
}

impl Moment {
    /// The point `wait` after `now`.
    #[must_use]
    pub fn after(now: Reading, wait: Duration) -> Self {
        Self {
            wall: now.wall.after(wait),
            boot: now.boot.saturating_add(wait),
        }
    }

    /// The point at which a wall clock that is not set shows `wall`; a point in the past is `now` on the boot clock.
    #[must_use]
    pub fn at(wall: Timestamp, now: Reading) -> Self {
        Self {
            wall,
            boot: now.boot.saturating_add(wall.since(now.wall)),
        }
    }

    /// How long until then, by the clock that is further on; zero once it is reached.
    #[must_use]
    pub fn remaining(self, now: Reading) -> Duration {
        self.wall
            .since(now.wall)
            .min(self.boot.saturating_sub(now.boot))
    }

    /// Whether it is reached.
    #[must_use]
    pub fn is_reached(self, now: Reading) -> bool {
        self.remaining(now).is_zero()
    }

    /// The point on the boot clock at which it will be reached, if the wall clock is not set until then.
    #[must_use]
    pub fn on_boot_clock(self, now: Reading) -> Duration {
        now.boot.saturating_add(self.remaining(now))
    }
}

/// How far the wall clock was set between two readings, if it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jump {
    /// It shows this much more than the time that passed.
    Forward(Duration),
    /// It shows this much less.
    Backward(Duration),
}

/// Detects whether the wall clock was set since `reference`; sleep of the machine moves both clocks and does not count.
#[must_use]
pub fn jump(reference: Reading, now: Reading) -> Option<Jump> {
    let expected = reference
        .wall
        .after(now.boot.saturating_sub(reference.boot));
    let (ahead, behind) = (now.wall.since(expected), expected.since(now.wall));
    if ahead > JUMP {
        Some(Jump::Forward(ahead))
    } else if behind > JUMP {
        Some(Jump::Backward(behind))
    } else {
        None
    }
}

/// Whether a token obtained at `obtained_at` with this life (none: it never expires) shows that the clock was set back since:
/// then nothing that was computed from its times is valid.
#[must_use]
pub fn is_from_the_future(obtained_at: Timestamp, life: Option<Duration>, now: Timestamp) -> bool {
    let of_life = life.unwrap_or_default() / FUTURE_TOLERANCE_OF_LIFE;
    obtained_at.since(now) > FUTURE_TOLERANCE.max(of_life)
}

/// How many milliseconds an issuer's clock is ahead of ours, less than zero if it is behind: its answer's `Date` (RFC 9110
/// §6.6.1, whole seconds) minus the middle of the exchange. Accurate to half a second and half of the exchange's duration.
#[must_use]
pub fn ahead_ms(sent_at: Timestamp, answered_at: Timestamp, date: Timestamp) -> i64 {
    let middle = sent_at.after(answered_at.since(sent_at) / 2);
    let theirs = date.after(HALF_A_SECOND);
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    signed(theirs.0).saturating_sub(signed(middle.0))
}

/// Whether an issuer's clock counts as off from ours; `was_off`: it did before, so that a difference at the bound is not reported
/// over and over.
#[must_use]
pub const fn is_off(ahead_ms: i64, was_off: bool) -> bool {
    let bound = if was_off { BACK_BELOW } else { OFF_BEYOND };
    Duration::from_millis(ahead_ms.unsigned_abs()).as_millis() > bound.as_millis()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn reading(wall_s: u64, boot_s: u64) -> Reading {
        Reading {
            wall: Timestamp(wall_s * 1000),
            boot: Duration::from_secs(boot_s),
        }
    }

    #[test]
    fn a_clock_is_off_beyond_a_minute_and_right_again_well_below() {
        for (ahead_s, was_off, expected) in [
            (0, false, false),
            (60, false, false),
            (61, false, true),
            (-61, false, true),
            (-60, false, false),
            (55, true, true),
            (-55, true, true),
            (50, true, false),
            (i64::MIN / 1000, false, true),
        ] {
            assert_eq!(is_off(ahead_s * 1000, was_off), expected, "{ahead_s} s");
        }
    }

    #[test]
    fn a_moment_is_there_when_either_clock_says_so() {
        let moment = Moment::after(reading(1000, 10), Duration::from_secs(100));
        for (now, remaining, what) in [
            (reading(1000, 10), 100, "nothing passed"),
            (reading(1060, 70), 40, "time passed"),
            (reading(1100, 110), 0, "both are there"),
            (reading(5000, 11), 0, "the wall clock was set forward"),
            (reading(200, 60), 50, "the wall clock was set back"),
            (reading(200, 110), 0, "set back, and the time is over"),
            (reading(9000, 8010), 0, "the machine slept"),
        ] {
            assert_eq!(
                moment.remaining(now),
                Duration::from_secs(remaining),
                "{what}"
            );
            assert_eq!(moment.is_reached(now), remaining == 0, "{what}");
        }
    }

    #[test]
    fn only_a_wall_clock_that_moved_alone_has_jumped() {
        let reference = reading(1_000_000, 50);
        for (now, expected, what) in [
            (reading(1_000_000, 50), None, "nothing passed"),
            (reading(1_000_030, 80), None, "time passed"),
            (reading(1_090_000, 90_050), None, "the machine slept a day"),
            (reading(1_000_031, 80), None, "one second of slew"),
            (
                reading(1_000_032, 80),
                Some(Jump::Forward(Duration::from_secs(2))),
                "two seconds ahead",
            ),
            (
                reading(996_430, 80),
                Some(Jump::Backward(Duration::from_secs(3600))),
                "an hour back",
            ),
        ] {
            assert_eq!(jump(reference, now), expected, "{what}");
        }
    }

    #[test]
    fn a_token_from_the_future_counts_only_beyond_a_minute_or_a_twentieth_of_its_life() {
        let now = Timestamp(10_000_000);
        for (ahead_s, life_s, expected) in [
            (0, Some(300), false),
            (60, Some(300), false),
            (61, Some(300), true),
            (61, None, true),
            (100, Some(3600), false),
            (180, Some(3600), false),
            (181, Some(3600), true),
        ] {
            let obtained_at = now.after(Duration::from_secs(ahead_s));
            let life = life_s.map(Duration::from_secs);
            assert_eq!(
                is_from_the_future(obtained_at, life, now),
                expected,
                "{ahead_s} s ahead, life {life_s:?}"
            );
        }
    }

    #[test]
    fn an_issuers_clock_is_measured_against_the_middle_of_the_exchange() {
        let at = |ms: u64| Timestamp(1_700_000_000_000 + ms);
        for (sent_ms, answered_ms, date_s, expected_ms, what) in [
            (500, 500, 0, 0, "the same second"),
            (0, 1000, 0, 0, "in the middle of the exchange"),
            (0, 100, 60, 60_450, "a minute ahead"),
            (120_000, 120_100, 60, -59_550, "a minute behind"),
            (1000, 900, 1, 500, "our clock was set back meanwhile"),
        ] {
            let ahead = ahead_ms(at(sent_ms), at(answered_ms), at(date_s * 1000));
            assert_eq!(ahead, expected_ms, "{what}");
        }
    }

    proptest! {
        #[test]
        fn an_issuer_whose_clock_is_right_is_never_far_ahead_or_behind(
            sent in 0_u64..4_000_000_000_000, there_ms in 0_u64..60_000, back_ms in 0_u64..60_000,
        ) {
            let answered_there = sent + there_ms;
            let date = Timestamp(answered_there / 1000 * 1000);
            let ahead = ahead_ms(Timestamp(sent), Timestamp(answered_there + back_ms), date);
            let bound = i64::try_from(u64::midpoint(there_ms, back_ms) + 501).unwrap();
            prop_assert!(ahead.abs() <= bound, "{ahead} ms");
        }

        #[test]
        fn a_clock_that_nobody_set_has_not_jumped_however_long_the_machine_slept(
            passed_ms in 0_u64..10_000_000_000, slewed_ms in -1000_i64..=1000,
        ) {
            let reference = reading(1_700_000_000, 1000);
            let now = Reading {
                wall: Timestamp((reference.wall.0 + passed_ms).saturating_add_signed(slewed_ms)),
                boot: reference.boot + Duration::from_millis(passed_ms),
            };
            prop_assert_eq!(jump(reference, now), None);
        }

        #[test]
        fn a_token_from_the_future_is_one_beyond_the_tolerance_and_a_longer_life_tolerates_more(
            ahead_ms in 0_u64..1_000_000_000, a_s in 0_u64..100_000_000, b_s in 0_u64..100_000_000,
        ) {
            let now = Timestamp(1_700_000_000_000);
            let obtained_at = Timestamp(now.0 + ahead_ms);
            let is_from_it = |s: u64| is_from_the_future(obtained_at, Some(Duration::from_secs(s)), now);
            prop_assert!(is_from_it(a_s.min(b_s)) || !is_from_it(a_s.max(b_s)));
            prop_assert_eq!(is_from_it(a_s), ahead_ms > 60_000.max(a_s * 50));
            prop_assert_eq!(is_from_the_future(obtained_at, None, now), ahead_ms > 60_000);
        }

        #[test]
        fn no_jump_ever_makes_a_moment_later_than_the_boot_clock_says(
            wait_ms in 0_u64..100_000_000, wall in 0_u64..u64::MAX, passed_ms in 0_u64..200_000_000,
        ) {
            let start = reading(1_700_000_000, 1000);
            let moment = Moment::after(start, Duration::from_millis(wait_ms));
            let now = Reading {
                wall: Timestamp(wall),
                boot: start.boot + Duration::from_millis(passed_ms),
            };
            prop_assert!(moment.on_boot_clock(now) <= moment.boot.max(now.boot));
            if passed_ms >= wait_ms {
                prop_assert!(moment.is_reached(now));
            }
        }
    }
}

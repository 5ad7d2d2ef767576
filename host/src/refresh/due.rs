//! When a token is refreshed while there are no failures.
//!
//! With `L` the token's life, `before(L) = min(before_expiry, L/2)` and `jitter(L) = uniform(0, min(jitter, L/10, every/10))`:
//! `in_life(L) = max(min(at·L, L − before(L)) − jitter(L), L/4)`, and
//! `due = o + max(min(in_life(L), every − jitter(L), in_life(R)), 1 s)`, where `o` is when the token was obtained and `R` the
//! life of the rotating secret that came with it, if the issuer stated it. A quarter of the life is the bound for `at` and
//! `before_expiry`; it does not bound `every`, which otherwise would have no effect on a token that lasts longer than four times
//! `every`. Nor does it bound the rotating secret's expiry: a chain that expires unused is lost until a new login.

use std::time::Duration;

use super::scaled;
use crate::model::Policy;
use crate::model::time::Timestamp;

/// The least time between two refreshes, whatever the policy or an answer says, to limit the load on the issuer.
pub const SOONEST: Duration = Duration::from_secs(1);

/// The largest part of a life and of `every` that the jitter may take away.
const JITTER_PART: u32 = 10;

/// When a token that was obtained at `obtained_at` is refreshed. `life` is none for a token that never expires;
/// `rotating_expires_at` is when the first of the source's rotating secrets expires unless it is used, where that is known;
/// `sample` (0 to 1) chooses within the jitter. For one policy and sample the result grows with both lives.
#[must_use]
pub fn due(
    policy: &Policy,
    obtained_at: Timestamp,
    life: Option<Duration>,
    rotating_expires_at: Option<Timestamp>,
    sample: f64,
) -> Timestamp {
    let life = life.unwrap_or(Duration::MAX);
    let rotating_life = rotating_expires_at.map(|at| at.since(obtained_at));
    obtained_at.after(wait(policy, life, rotating_life, sample))
}

fn wait(policy: &Policy, life: Duration, rotating_life: Option<Duration>, sample: f64) -> Duration {
    let by_every = policy.every.saturating_sub(jitter(policy, life, sample));
    let by_rotating = rotating_life.map_or(Duration::MAX, |life| in_life(policy, life, sample));
    in_life(policy, life, sample)
        .min(by_every)
        .min(by_rotating)
        .max(SOONEST)
}

/// When a token or secret with this life is replaced: in time before it expires, and not before a quarter of its life is over.
fn in_life(policy: &Policy, life: Duration, sample: f64) -> Duration {
    let before = policy.before_expiry.min(life / 2);
    scaled(life, policy.at)
        .min(life.saturating_sub(before))
        .saturating_sub(jitter(policy, life, sample))
        .max(life / 4)
}

fn jitter(policy: &Policy, life: Duration, sample: f64) -> Duration {
    let most = policy
        .jitter
        .min(life / JITTER_PART)
        .min(policy.every / JITTER_PART);
    scaled(most, sample)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: u64 = 60;
    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;

    fn policy() -> Policy {
        Policy {
            at: 0.8,
            before_expiry: Duration::from_secs(90),
            every: Duration::from_secs(DAY),
            jitter: Duration::from_secs(10),
            default_lifetime: Duration::from_secs(HOUR),
        }
    }

    #[test]
    fn a_token_is_due_at_its_fraction_before_its_end_and_at_the_latest_after_every() {
        let o = Timestamp(1_000_000);
        for (life_ms, sample, expected_ms, what) in [
            (1000, 0.0, 1000, "one second: never more than once a second"),
            (2000, 0.0, 1000, "two seconds: half of it"),
            (10_000, 0.0, 5000, "before_expiry is at most half the life"),
            (10_000, 1.0, 4000, "jitter is at most a tenth of the life"),
            (60_000, 0.0, 30_000, "a minute"),
            (180_000, 0.0, 90_000, "three minutes: 90 s before the end"),
            (300_000, 0.0, 210_000, "five minutes: 90 s before the end"),
            (300_000, 1.0, 200_000, "and up to 10 s earlier"),
            (300_000, 0.5, 205_000, "in between"),
            (HOUR * 1000, 0.0, 2_880_000, "an hour: 80 %"),
            (10 * DAY * 1000, 0.0, DAY * 1000, "ten days: every 24 h"),
            (365 * DAY * 1000, 0.0, DAY * 1000, "a year: every 24 h"),
        ] {
            assert_eq!(
                due(
                    &policy(),
                    o,
                    Some(Duration::from_millis(life_ms)),
                    None,
                    sample
                ),
                o.after(Duration::from_millis(expected_ms)),
                "{what}"
            );
        }
    }

    #[test]
    fn a_token_that_never_dies_is_due_after_every() {
        let o = Timestamp(1_000_000);
        assert_eq!(due(&policy(), o, None, None, 0.0), o.after(policy().every));
        assert_eq!(
            due(&policy(), o, None, None, 1.0),
            o.after(policy().every - policy().jitter)
        );
    }

    #[test]
    fn at_and_before_expiry_ask_the_issuer_at_most_four_times_in_a_life_and_every_as_often_as_it_says()
     {
        let o = Timestamp(0);
        let hour = Some(Duration::from_secs(HOUR));
        let impatient = Policy {
            at: 0.01,
            ..policy()
        };
        assert_eq!(
            due(&impatient, o, hour, None, 1.0),
            Timestamp(15 * MINUTE * 1000),
            "at: 1%"
        );
        let often = Policy {
            every: Duration::from_secs(5),
            jitter: Duration::ZERO,
            ..policy()
        };
        assert_eq!(
            due(&often, o, hour, None, 0.0),
            Timestamp(5000),
            "every: 5s"
        );
    }

    #[test]
    fn a_rotating_secret_is_used_before_it_dies_however_long_the_token_lives() {
        let o = Timestamp(1_000_000);
        for (life_s, rotating_s, expected_s, what) in [
            (300, None, 210, "it says nothing"),
            (300, Some(DAY), 210, "it lives longer than the token"),
            (DAY, Some(1800), 1440, "idle for half an hour at most: 80 %"),
            (DAY, Some(300), 210, "90 s before its end"),
            (DAY, Some(60), 30, "at most half of its life before its end"),
            (
                300,
                Some(40),
                20,
                "sooner than a quarter of the token's life",
            ),
            (
                300,
                Some(0),
                1,
                "it is dead already: never more than once a second",
            ),
        ] {
            let rotating_expires_at = rotating_s.map(|s| o.after(Duration::from_secs(s)));
            let life = Some(Duration::from_secs(life_s));
            assert_eq!(
                due(&policy(), o, life, rotating_expires_at, 0.0),
                o.after(Duration::from_secs(expected_s)),
                "{what}"
            );
        }
        let idle = Some(o.after(Duration::from_secs(1800)));
        assert_eq!(
            due(&policy(), o, None, idle, 1.0),
            o.after(Duration::from_secs(1430)),
            "also for a token that never expires, and with jitter"
        );
    }

    fn any_policy() -> impl Strategy<Value = Policy> {
        (
            0.001_f64..0.999,
            0_u64..10_000_000,
            1_u64..10_000_000_000,
            0_u64..10_000_000,
        )
            .prop_map(|(at, before_ms, every_ms, jitter_ms)| Policy {
                at,
                before_expiry: Duration::from_millis(before_ms),
                every: Duration::from_millis(every_ms),
                jitter: Duration::from_millis(jitter_ms),
                default_lifetime: Duration::from_secs(HOUR),
            })
    }

    /// From one second to a year, short and long ones equally often.
    fn any_life() -> impl Strategy<Value = Duration> {
        (0.0_f64..=1.0)
            .prop_map(|exponent| Duration::from_secs_f64((365.0 * 86_400.0_f64).powf(exponent)))
    }

    proptest! {
        #[test]
        fn a_longer_life_is_never_due_earlier(
            policy in any_policy(), a in any_life(), b in any_life(), sample in 0.0_f64..=1.0,
        ) {
            let (short, long) = (a.min(b), a.max(b));
            // Fractions of a life are rounded in floating point, so differences of nanoseconds do not count.
            let slack = Duration::from_millis(1);
            prop_assert!(wait(&policy, short, None, sample) <= wait(&policy, long, None, sample) + slack);
            prop_assert!(wait(&policy, long, None, sample) <= wait(&policy, Duration::MAX, None, sample) + slack);
        }

        #[test]
        fn a_token_is_due_while_it_lives_and_never_in_a_hurry(
            policy in any_policy(), life in any_life(), sample in 0.0_f64..=1.0,
        ) {
            let wait = wait(&policy, life, None, sample);
            prop_assert!(wait >= SOONEST);
            prop_assert!(wait <= life.max(SOONEST));
            prop_assert!(wait <= policy.every.max(SOONEST));
            let floor = (life / 4).min(policy.every - policy.every / JITTER_PART);
            prop_assert!(wait >= floor);
        }

        #[test]
        fn a_rotating_secret_only_makes_a_token_due_earlier_and_always_before_its_own_end(
            policy in any_policy(), life in any_life(), a in any_life(), b in any_life(), sample in 0.0_f64..=1.0,
        ) {
            let (short, long) = (a.min(b), a.max(b));
            let slack = Duration::from_millis(1);
            let by_short = wait(&policy, life, Some(short), sample);
            prop_assert!(by_short <= wait(&policy, life, None, sample));
            prop_assert!(by_short <= wait(&policy, life, Some(long), sample) + slack);
            prop_assert!(by_short >= SOONEST);
            let margin = policy.before_expiry.min(short / 2);
            prop_assert!(by_short <= (short - margin).max(SOONEST));
        }
    }
}

//! When a token is obtained anew while all goes well.
//!
//! With `L` the token's life, `before = min(before_expiry, L/2)` and `jitter' = uniform(0, min(jitter, L/10, every/10))`:
//! `due = max(min(max(min(o + at·L, e − before) − jitter', o + L/4), o + every − jitter'), o + 1 s)`.
//! The quarter of the life bounds what `at` and `before_expiry` may ask of the issuer; `every` is asked for by name and is not
//! bounded by it, else it would mean nothing to a token that lives longer than four times `every`.

use std::time::Duration;

use super::{Policy, scaled};
use crate::time::Timestamp;

/// Whatever the policy says, no token is asked for anew sooner: a policy is no reason to hammer an issuer.
pub const SOONEST: Duration = Duration::from_secs(1);

/// Of what the jitter may take away, the largest part of life and of `every`.
const JITTER_PART: u32 = 10;

/// When a token that was obtained at `obtained_at` is obtained anew. `life` is none for a token that never dies; `sample`
/// (0 to 1) chooses within the jitter. For one policy and sample the result grows with the life.
#[must_use]
pub fn due(
    policy: &Policy,
    obtained_at: Timestamp,
    life: Option<Duration>,
    sample: f64,
) -> Timestamp {
    obtained_at.after(wait(policy, life.unwrap_or(Duration::MAX), sample))
}

fn wait(policy: &Policy, life: Duration, sample: f64) -> Duration {
    let before = policy.before_expiry.min(life / 2);
    let most_jitter = policy
        .jitter
        .min(life / JITTER_PART)
        .min(policy.every / JITTER_PART);
    let jitter = scaled(most_jitter, sample);
    let by_life = scaled(life, policy.at)
        .min(life.saturating_sub(before))
        .saturating_sub(jitter)
        .max(life / 4);
    by_life
        .min(policy.every.saturating_sub(jitter))
        .max(SOONEST)
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
                due(&policy(), o, Some(Duration::from_millis(life_ms)), sample),
                o.after(Duration::from_millis(expected_ms)),
                "{what}"
            );
        }
    }

    #[test]
    fn a_token_that_never_dies_is_due_after_every() {
        let o = Timestamp(1_000_000);
        assert_eq!(due(&policy(), o, None, 0.0), o.after(policy().every));
        assert_eq!(
            due(&policy(), o, None, 1.0),
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
            due(&impatient, o, hour, 1.0),
            Timestamp(15 * MINUTE * 1000),
            "at: 1%"
        );
        let often = Policy {
            every: Duration::from_secs(5),
            jitter: Duration::ZERO,
            ..policy()
        };
        assert_eq!(due(&often, o, hour, 0.0), Timestamp(5000), "every: 5s");
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
            // Fractions of a life are rounded in floating point; a nanosecond is no order.
            let slack = Duration::from_millis(1);
            prop_assert!(wait(&policy, short, sample) <= wait(&policy, long, sample) + slack);
            prop_assert!(wait(&policy, long, sample) <= wait(&policy, Duration::MAX, sample) + slack);
        }

        #[test]
        fn a_token_is_due_while_it_lives_and_never_in_a_hurry(
            policy in any_policy(), life in any_life(), sample in 0.0_f64..=1.0,
        ) {
            let wait = wait(&policy, life, sample);
            prop_assert!(wait >= SOONEST);
            prop_assert!(wait <= life.max(SOONEST));
            prop_assert!(wait <= policy.every.max(SOONEST));
            let floor = (life / 4).min(policy.every - policy.every / JITTER_PART);
            prop_assert!(wait >= floor);
        }
    }
}

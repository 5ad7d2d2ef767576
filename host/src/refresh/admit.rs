//! Admission of an obtained token: whether it is a token at all, valid now, different from the held one, and whether its life is
//! longer.

use std::time::Duration;

use super::clock::Moment;
use super::due::SOONEST;
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::model::time::{Reading, Timestamp};

/// An `nbf` by a clock slightly ahead of ours is no reason to refuse a token; RFC 7519 §4.1.5 allows "no more than a few
/// minutes".
const NOT_BEFORE_LEEWAY: Duration = Duration::from_secs(60);

/// Two expiries closer than this are the same: `expires_in` counts whole seconds.
const SAME_EXPIRY: Duration = Duration::from_secs(1);

/// The least wait before an issuer that gave no longer life is asked again, if the token lasts so long.
const NO_LONGER_LIFE_WAIT: Duration = Duration::from_secs(10);

/// The facts about an obtained token that admission depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Whether its value is empty.
    pub is_empty: bool,
    /// Whether it is the held token again: the same value, type and fields.
    pub is_held_one: bool,
    /// When the request that brought it was sent.
    pub obtained_at: Timestamp,
    /// When it expires; none: never.
    pub expires_at: Option<Timestamp>,
    /// From when it is valid; none: at once.
    pub not_before: Option<Timestamp>,
    /// When the first of the source's rotating secrets expires unless it is used; none: never, or it is not known.
    pub rotating_expires_at: Option<Timestamp>,
}

/// What to do with a valid token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It replaces the held one, also if it expires earlier: the issuer may have revoked the one before.
    Adopt,
    /// It is the held one, with the same expiry.
    Unchanged,
}

/// Decides about a token. `held_expires_at` is when the held token expires: `None` if none is held, `Some(None)` if it never
/// expires.
///
/// # Errors
///
/// The token is empty, expired, or not yet valid.
pub fn admit(
    candidate: &Candidate,
    held_expires_at: Option<Option<Moment>>,
    now: Reading,
) -> Result<Verdict, Failure> {
    usable(candidate, now)?;
    let has_same_end = match (candidate.expires_at, held_expires_at) {
        (Some(at), Some(Some(held))) => {
            at.since(now.wall).abs_diff(held.remaining(now)) <= SAME_EXPIRY
        }
        (None, Some(None)) => true,
        _ => false,
    };
    Ok(if candidate.is_held_one && has_same_end {
        Verdict::Unchanged
    } else {
        Verdict::Adopt
    })
}

fn usable(candidate: &Candidate, now: Reading) -> Result<(), Failure> {
    let refuse = |kind, code, message: String| Err(Failure::new(kind, code, message));
    if candidate.is_empty {
        return refuse(
            FailureKind::Internal,
            HostCode::TokenEmpty,
            "the source returned an empty token".to_owned(),
        );
    }
    if let Some(at) = candidate.expires_at.filter(|at| *at <= now.wall) {
        return refuse(
            FailureKind::Unavailable,
            HostCode::TokenExpired,
            format!(
                "the token that the source returned expired at {at} and it is {}; is this machine's clock right?",
                now.wall
            ),
        );
    }
    let latest = now.wall.after(NOT_BEFORE_LEEWAY);
    if let Some(at) = candidate.not_before.filter(|at| *at > latest) {
        return refuse(
            FailureKind::Unavailable,
            HostCode::TokenNotYetValid,
            format!(
                "the token that the source returned is not valid before {at} and it is {}; is this machine's clock right?",
                now.wall
            ),
        );
    }
    Ok(())
}

/// Whether a token lasts longer than the held one, so that asking for it gained something. `held_expires_at` as for [`admit`].
#[must_use]
pub fn lives_longer(
    candidate: &Candidate,
    held_expires_at: Option<Option<Moment>>,
    now: Reading,
) -> bool {
    match (candidate.expires_at, held_expires_at) {
        (_, None) => true,
        (Some(at), Some(Some(held))) => {
            at.since(now.wall) > held.remaining(now).saturating_add(SAME_EXPIRY)
        }
        (None, Some(Some(_))) => true,
        (Some(_), Some(None)) => false,
        // If neither expires, another value is a gain.
        (None, Some(None)) => !candidate.is_held_one,
    }
}

/// How long to wait after an issuer gave a token that lasts no longer than the one before; `remaining` is what is left of its
/// life.
///
/// Half of what is left, so that a change is noticed in time, and no less than ten seconds, to limit the load on the issuer;
/// three quarters of it for a token that does not last so long, so that its consumers have the next one before it expires.
#[must_use]
pub fn wait_for_longer_life(remaining: Duration) -> Duration {
    let at_least = NO_LONGER_LIFE_WAIT.min(remaining - remaining / 4);
    (remaining / 2).max(at_least).max(SOONEST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Reading = Reading {
        wall: Timestamp(1_700_000_000_000),
        boot: Duration::from_secs(1000),
    };

    fn in_s(seconds: i64) -> Timestamp {
        Timestamp(NOW.wall.0.saturating_add_signed(seconds * 1000))
    }

    fn candidate(expires_in_s: Option<i64>) -> Candidate {
        Candidate {
            is_empty: false,
            is_held_one: false,
            obtained_at: NOW.wall,
            expires_at: expires_in_s.map(in_s),
            not_before: None,
            rotating_expires_at: None,
        }
    }

    #[test]
    fn a_token_is_refused_if_it_is_empty_dead_or_not_yet_good() {
        let good = candidate(Some(300));
        for (candidate, expected) in [
            (good, Ok(Verdict::Adopt)),
            (candidate(None), Ok(Verdict::Adopt)),
            (
                Candidate {
                    is_empty: true,
                    ..good
                },
                Err("token.empty"),
            ),
            (candidate(Some(0)), Err("token.expired")),
            (candidate(Some(-10)), Err("token.expired")),
            (candidate(Some(1)), Ok(Verdict::Adopt)),
            (
                Candidate {
                    not_before: Some(in_s(-5)),
                    ..good
                },
                Ok(Verdict::Adopt),
            ),
            (
                Candidate {
                    not_before: Some(in_s(60)),
                    ..good
                },
                Ok(Verdict::Adopt),
            ),
            (
                Candidate {
                    not_before: Some(in_s(61)),
                    ..good
                },
                Err("token.not-yet-valid"),
            ),
        ] {
            let verdict = admit(&candidate, None, NOW);
            assert_eq!(
                verdict.as_ref().map_err(|f| f.code().unwrap()),
                expected.as_ref().map_err(|code| *code),
                "{candidate:?}"
            );
        }
    }

    #[test]
    fn the_newest_token_is_held_and_the_same_again_changes_nothing() {
        let held = |s: i64| Some(Some(Moment::at(in_s(s), NOW)));
        let same = |s| Candidate {
            is_held_one: true,
            ..candidate(s)
        };
        for (candidate, held_expires_at, expected, longer, what) in [
            (
                candidate(Some(300)),
                None,
                Verdict::Adopt,
                true,
                "none is held",
            ),
            (
                candidate(Some(300)),
                held(60),
                Verdict::Adopt,
                true,
                "it lives longer",
            ),
            (
                candidate(Some(30)),
                held(60),
                Verdict::Adopt,
                false,
                "it expires earlier",
            ),
            (
                candidate(Some(60)),
                held(60),
                Verdict::Adopt,
                false,
                "a session's cap",
            ),
            (
                candidate(Some(61)),
                held(60),
                Verdict::Adopt,
                false,
                "the same cap, rounded",
            ),
            (
                candidate(Some(62)),
                held(60),
                Verdict::Adopt,
                true,
                "two seconds more are more",
            ),
            (
                candidate(Some(30)),
                held(-1),
                Verdict::Adopt,
                true,
                "the held one is dead",
            ),
            (
                candidate(Some(30)),
                Some(None),
                Verdict::Adopt,
                false,
                "the held one never expires",
            ),
            (
                candidate(None),
                held(60),
                Verdict::Adopt,
                true,
                "the new one never expires",
            ),
            (
                candidate(None),
                Some(None),
                Verdict::Adopt,
                true,
                "both never die",
            ),
            (
                same(Some(60)),
                held(60),
                Verdict::Unchanged,
                false,
                "the same again",
            ),
            (
                same(Some(61)),
                held(60),
                Verdict::Unchanged,
                false,
                "the same again, rounded",
            ),
            (
                same(Some(3600)),
                held(60),
                Verdict::Adopt,
                true,
                "the same, known to live on",
            ),
            (
                same(Some(30)),
                held(60),
                Verdict::Adopt,
                false,
                "the same, known to die earlier",
            ),
            (
                same(None),
                Some(None),
                Verdict::Unchanged,
                false,
                "the same, for ever",
            ),
        ] {
            assert_eq!(
                admit(&candidate, held_expires_at, NOW),
                Ok(expected),
                "{what}"
            );
            assert_eq!(
                lives_longer(&candidate, held_expires_at, NOW),
                longer,
                "{what}"
            );
        }
    }

    #[test]
    fn a_held_token_is_measured_by_both_clocks() {
        let held = Moment::at(in_s(300), NOW);
        let set_back_a_day = Reading {
            wall: Timestamp(NOW.wall.0 - 86_400_000),
            boot: NOW.boot + Duration::from_secs(240),
        };
        let candidate = Candidate {
            expires_at: Some(set_back_a_day.wall.after(Duration::from_secs(300))),
            ..candidate(None)
        };
        assert!(lives_longer(&candidate, Some(Some(held)), set_back_a_day));
    }

    #[test]
    fn an_issuer_that_does_not_advance_is_asked_again_after_half_of_what_is_left() {
        for (remaining_ms, expected_ms) in [
            (3_600_000, 1_800_000),
            (40_000, 20_000),
            (20_000, 10_000),
            (15_000, 10_000),
            (12_000, 9_000),
            (4_000, 3_000),
            (1_000, 1_000),
            (0, 1_000),
        ] {
            assert_eq!(
                wait_for_longer_life(Duration::from_millis(remaining_ms)),
                Duration::from_millis(expected_ms),
                "{remaining_ms} ms are left"
            );
        }
    }

    proptest! {
        #[test]
        fn waiting_for_a_longer_life_ends_before_the_token_does_and_never_hammers(ms in 0_u64..100_000_000_000) {
            let remaining = Duration::from_millis(ms);
            let wait = wait_for_longer_life(remaining);
            prop_assert!(wait >= Duration::from_secs(1));
            prop_assert!(wait < remaining || remaining <= Duration::from_secs(1));
            prop_assert!(wait >= Duration::from_secs(10) || remaining < Duration::from_secs(14));
        }
    }
}

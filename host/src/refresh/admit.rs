//! Whether a token that was obtained is taken: is it one at all, is it good now, and is it better than the one held?

use std::time::Duration;

use super::clock::Moment;
use crate::failure::{Failure, FailureKind};
use crate::time::{Reading, Timestamp};

/// `nbf` that an issuer set by a clock slightly ahead of ours is no reason to refuse a token; RFC 7519 §4.1.5 speaks of "no
/// more than a few minutes".
const NOT_BEFORE_LEEWAY: Duration = Duration::from_secs(60);

/// Two expiries closer than this are the same: `expires_in` counts whole seconds.
const SAME_EXPIRY: Duration = Duration::from_secs(1);

/// After an issuer gave the same expiry again, it is left alone for at least this long.
const UNCHANGED_WAIT: Duration = Duration::from_secs(10);

/// A token that was obtained, as far as the rules need to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Whether its value is empty.
    pub is_empty: bool,
    /// Whether it is the held token, field for field.
    pub is_held_one: bool,
    /// When the request that brought it was sent.
    pub obtained_at: Timestamp,
    /// When it dies; none: never.
    pub expires_at: Option<Timestamp>,
    /// From when it is good; none: at once.
    pub not_before: Option<Timestamp>,
    /// When the first of the source's rotating secrets dies unless it is used; none: never, or it is not known.
    pub rotating_expires_at: Option<Timestamp>,
}

/// What becomes of a token that is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It takes the place of the held one.
    Adopt,
    /// The held one lives at least as long and stays.
    Unchanged,
}

/// Judges a token. `held_dies` is the end of the held token's life: `None` if there is no held token that counts (none at
/// all, from another source, or a new one was asked for whatever the held one is), `Some(None)` if it never dies.
///
/// # Errors
///
/// The token is empty, dead, or not yet good.
pub fn admit(
    candidate: &Candidate,
    held_dies: Option<Option<Moment>>,
    now: Reading,
) -> Result<Verdict, Failure> {
    usable(candidate, now)?;
    let Some(held_dies) = held_dies.filter(|dies| dies.is_none_or(|at| !at.is_reached(now))) else {
        return Ok(Verdict::Adopt);
    };
    Ok(if lives_longer(candidate, held_dies, now) {
        Verdict::Adopt
    } else {
        Verdict::Unchanged
    })
}

fn usable(candidate: &Candidate, now: Reading) -> Result<(), Failure> {
    let refuse = |kind, code, message: String| Err(Failure::new(kind, code, message));
    if candidate.is_empty {
        return refuse(
            FailureKind::Internal,
            "token.empty",
            "the source returned an empty token".to_owned(),
        );
    }
    if let Some(at) = candidate.expires_at.filter(|at| *at <= now.wall) {
        return refuse(
            FailureKind::Unavailable,
            "token.expired",
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
            "token.not-yet-valid",
            format!(
                "the token that the source returned is not valid before {at} and it is {}; is this machine's clock right?",
                now.wall
            ),
        );
    }
    Ok(())
}

fn lives_longer(candidate: &Candidate, held_dies: Option<Moment>, now: Reading) -> bool {
    match (candidate.expires_at, held_dies) {
        (Some(candidate), Some(held)) => {
            candidate.since(now.wall) > held.remaining(now).saturating_add(SAME_EXPIRY)
        }
        (None, Some(_)) => true,
        (Some(_), None) => false,
        // Of two that never die, the later one is what its issuer now holds for right.
        (None, None) => !candidate.is_held_one,
    }
}

/// How long to wait after an issuer gave the same expiry again; `remaining` is what is left of the held token's life.
///
/// Half of what is left, so that a change is seen in time, and no less than ten seconds, so that the issuer is not hammered;
/// but not beyond the end, when the issuer may have a new token at last.
#[must_use]
pub fn wait_when_unchanged(remaining: Duration) -> Duration {
    (remaining / 2).max(UNCHANGED_WAIT.min(remaining.max(super::due::SOONEST)))
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
                verdict.as_ref().map_err(|f| f.code.as_deref().unwrap()),
                expected.as_ref().map_err(|code| *code),
                "{candidate:?}"
            );
        }
    }

    #[test]
    fn of_two_good_tokens_the_one_that_lives_longer_is_held() {
        let held = |s: i64| Some(Some(Moment::at(in_s(s), NOW)));
        let same = |s| Candidate {
            is_held_one: true,
            ..candidate(s)
        };
        for (candidate, held_dies, expected, what) in [
            (candidate(Some(300)), None, Verdict::Adopt, "none is held"),
            (
                candidate(Some(300)),
                held(60),
                Verdict::Adopt,
                "it lives longer",
            ),
            (
                candidate(Some(60)),
                held(60),
                Verdict::Unchanged,
                "same end: a session's cap",
            ),
            (
                candidate(Some(61)),
                held(60),
                Verdict::Unchanged,
                "same end, rounded",
            ),
            (
                candidate(Some(62)),
                held(60),
                Verdict::Adopt,
                "two seconds more are more",
            ),
            (
                same(Some(3600)),
                held(60),
                Verdict::Adopt,
                "the same value, known to live on",
            ),
            (
                candidate(Some(30)),
                held(60),
                Verdict::Unchanged,
                "it dies earlier",
            ),
            (
                candidate(Some(30)),
                held(-1),
                Verdict::Adopt,
                "the held one is dead",
            ),
            (
                candidate(Some(30)),
                Some(None),
                Verdict::Unchanged,
                "the held one never dies",
            ),
            (
                candidate(None),
                held(60),
                Verdict::Adopt,
                "the new one never dies",
            ),
            (
                candidate(None),
                Some(None),
                Verdict::Adopt,
                "both never die: the newer",
            ),
            (
                same(None),
                Some(None),
                Verdict::Unchanged,
                "both never die and are one",
            ),
        ] {
            assert_eq!(admit(&candidate, held_dies, NOW), Ok(expected), "{what}");
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
        assert_eq!(
            admit(&candidate, Some(Some(held)), set_back_a_day),
            Ok(Verdict::Adopt)
        );
    }

    #[test]
    fn an_issuer_that_does_not_advance_is_asked_again_after_half_of_what_is_left() {
        for (remaining_s, expected_s) in [
            (3600, 1800),
            (40, 20),
            (20, 10),
            (15, 10),
            (10, 10),
            (6, 6),
            (0, 1),
        ] {
            assert_eq!(
                wait_when_unchanged(Duration::from_secs(remaining_s)),
                Duration::from_secs(expected_s),
                "{remaining_s} s are left"
            );
        }
    }

    proptest! {
        #[test]
        fn a_good_held_token_is_never_given_up_for_one_that_dies_earlier(
            held_s in 1_i64..1_000_000, candidate_s in -1_000_000_i64..1_000_000,
        ) {
            let held = Some(Some(Moment::at(in_s(held_s), NOW)));
            if let Ok(Verdict::Adopt) = admit(&candidate(Some(candidate_s)), held, NOW) {
                prop_assert!(candidate_s > held_s);
            }
        }

        #[test]
        fn waiting_on_an_unchanged_expiry_ends_before_the_token_does_and_never_hammers(ms in 0_u64..100_000_000_000) {
            let remaining = Duration::from_millis(ms);
            let wait = wait_when_unchanged(remaining);
            prop_assert!(wait >= Duration::from_secs(1));
            prop_assert!(wait <= remaining.max(Duration::from_secs(1)));
        }
    }
}

//! The life of a token, from the plugin's statement, the JWT's claims and the job's default.

use std::time::Duration;

use crate::model::time::Timestamp;
use crate::model::token::Expiry;
use crate::model::token::jwt::Claims;

/// Beyond this an issuer's clock counts as off from ours; less may be due to the exchange's duration, since a comparison of
/// clocks may be wrong by half of it.
const SKEW_NOTICED: Duration = Duration::from_secs(10);

/// The expiry that a plugin states, if it is plausible: no issuer returns an expired token, so a life that was over when the
/// token was requested counts as not stated.
#[must_use]
pub fn said(obtained_at: Timestamp, expiry: Expiry) -> Expiry {
    match expiry {
        Expiry::At(at) if at <= obtained_at => Expiry::Unknown,
        expiry => expiry,
    }
}

/// When the first of the rotating secrets expires, as far as that is known. For a secret that was replaced just now, the expiry
/// stated for the former value does not count.
#[must_use]
pub fn rotating_expires_at(obtained_at: Timestamp, said: Option<Timestamp>) -> Option<Timestamp> {
    said.filter(|at| *at > obtained_at)
}

/// A JWT's times converted to our clock, if it is known how many milliseconds the issuer's is ahead of it.
#[must_use]
pub fn by_our_clock(claims: Claims, issuer_ahead_ms: Option<i64>) -> Claims {
    let ahead_ms = issuer_ahead_ms.unwrap_or_default();
    if u128::from(ahead_ms.unsigned_abs()) <= SKEW_NOTICED.as_millis() {
        return claims;
    }
    let ours = |at: Timestamp| Timestamp(at.0.saturating_add_signed(ahead_ms.saturating_neg()));
    Claims {
        expires_at: claims.expires_at.map(ours),
        issued_at: claims.issued_at.map(ours),
        not_before: claims.not_before.map(ours),
    }
}

/// When a token expires by our clock: the earlier of what is [`said`] and the JWT's expiry; none: never.
///
/// A JWT's life is `exp − iat`, both by the issuer's clock, counted from `obtained_at`, so that its clock need not agree with
/// ours. The absolute `exp` counts too only where nothing is stated, because then nothing else distinguishes a new token from one
/// that came out of a cache. A JWT without `iat` that seems expired although a life was stated only shows that the clocks
/// disagree: `expires_in` counts (RFC 6749 §5.1). Without any statement the token is assumed to last for `default_lifetime`.
#[must_use]
pub fn expires_at(
    obtained_at: Timestamp,
    said: Expiry,
    claims: Option<&Claims>,
    default_lifetime: Duration,
) -> Option<Timestamp> {
    let claimed = claims.and_then(|claims| claimed_expiry(obtained_at, said, claims));
    match (said, claimed) {
        (Expiry::At(at), Some(claimed)) => Some(at.min(claimed)),
        (Expiry::At(at), None) => Some(at),
        (Expiry::Unknown | Expiry::Never, Some(claimed)) => Some(claimed),
        (Expiry::Unknown, None) => Some(obtained_at.after(default_lifetime)),
        (Expiry::Never, None) => None,
    }
}

/// When a JWT that came with the token expires by our clock, e.g. an ID token; none: it has no expiry. As for the token, but no
/// life is stated elsewhere, so `exp` counts unless it is over already, as it may seem by the issuer's clock.
#[must_use]
pub fn part_expires_at(obtained_at: Timestamp, claims: &Claims) -> Option<Timestamp> {
    let exp = claims.expires_at?;
    let by_issuers_clock = claimed_expiry(obtained_at, Expiry::At(exp), claims);
    let by_our_clock = Some(exp).filter(|exp| *exp > obtained_at);
    by_issuers_clock.into_iter().chain(by_our_clock).min()
}

fn claimed_expiry(obtained_at: Timestamp, said: Expiry, claims: &Claims) -> Option<Timestamp> {
    let exp = claims.expires_at?;
    let by_issuers_clock = claims
        .issued_at
        .filter(|iat| *iat < exp)
        .map(|iat| obtained_at.after(exp.since(iat)));
    match (said, by_issuers_clock) {
        (Expiry::At(_), Some(at)) => Some(at),
        (Expiry::At(_), None) => (exp > obtained_at).then_some(exp),
        (Expiry::Unknown | Expiry::Never, at) => Some(at.unwrap_or(exp).min(exp)),
    }
}

/// From when a token is valid by our clock, counted like its expiry; none: at once. A stated life begins with the answer.
#[must_use]
pub fn not_before(
    obtained_at: Timestamp,
    said: Expiry,
    claims: Option<&Claims>,
) -> Option<Timestamp> {
    let claims = claims?;
    let nbf = claims.not_before?;
    match (claims.issued_at, said) {
        (Some(iat), _) => Some(obtained_at.after(nbf.since(iat))),
        (None, Expiry::At(_)) => None,
        (None, Expiry::Unknown | Expiry::Never) => Some(nbf),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const O: u64 = 1_700_000_000;
    const DEFAULT: Duration = Duration::from_secs(3600);

    const fn s(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1000)
    }

    fn claims(exp: Option<u64>, iat: Option<u64>, nbf: Option<u64>) -> Claims {
        Claims {
            expires_at: exp.map(s),
            issued_at: iat.map(s),
            not_before: nbf.map(s),
        }
    }

    #[test]
    fn the_earlier_word_counts_and_the_issuers_clock_need_not_be_ours() {
        use Expiry::{At, Never, Unknown};
        let jwt = |exp, iat| Some(claims(Some(exp), iat, None));
        for (said, claims, expected, what) in [
            (At(s(O + 300)), None, Some(O + 300), "only the plugin"),
            (Unknown, None, Some(O + 3600), "nobody: the default"),
            (Never, None, None, "never"),
            (
                At(s(O + 300)),
                jwt(O + 200, None),
                Some(O + 200),
                "exp is earlier",
            ),
            (
                At(s(O + 300)),
                jwt(O + 400, None),
                Some(O + 300),
                "the plugin is earlier",
            ),
            (
                At(s(O + 300)),
                jwt(O - 3300, Some(O - 3600)),
                Some(O + 300),
                "the issuer's clock is an hour behind",
            ),
            (
                At(s(O + 300)),
                jwt(O + 3900, Some(O + 3600)),
                Some(O + 300),
                "the issuer's clock is an hour ahead",
            ),
            (
                At(s(O + 9999)),
                jwt(O + 3900, Some(O + 3600)),
                Some(O + 300),
                "ahead, and the plugin is wrong",
            ),
            (
                At(s(O + 60)),
                jwt(O + 60, Some(O - 240)),
                Some(O + 60),
                "from the issuer's cache",
            ),
            (
                Unknown,
                jwt(O + 60, Some(O - 240)),
                Some(O + 60),
                "from a cache without a word",
            ),
            (
                Unknown,
                jwt(O + 3900, Some(O + 3600)),
                Some(O + 300),
                "ahead without a word",
            ),
            (
                Unknown,
                jwt(O - 60, Some(O - 360)),
                Some(O - 60),
                "a mirrored token that is dead",
            ),
            (
                Never,
                jwt(O + 60, None),
                Some(O + 60),
                "the token knows better than never",
            ),
            (
                Unknown,
                jwt(O + 60, Some(O + 90)),
                Some(O + 60),
                "an iat after exp is no iat",
            ),
            (
                Unknown,
                Some(claims(None, Some(O), None)),
                Some(O + 3600),
                "a JWT without exp",
            ),
        ] {
            assert_eq!(
                expires_at(s(O), said, claims.as_ref(), DEFAULT),
                expected.map(s),
                "{what}"
            );
        }
    }

    #[test]
    fn what_comes_beside_the_token_dies_by_its_own_word() {
        for (exp, iat, expected, what) in [
            (Some(O + 12), Some(O), Some(O + 12), "clocks agree"),
            (Some(O + 12), None, Some(O + 12), "no iat"),
            (Some(O + 12), Some(O - 3588), Some(O + 12), "from a cache"),
            (
                Some(O + 7212),
                Some(O + 7200),
                Some(O + 12),
                "the issuer is ahead",
            ),
            (
                Some(O - 7188),
                Some(O - 7200),
                Some(O + 12),
                "the issuer is behind",
            ),
            (Some(O - 7188), None, None, "behind, and no iat"),
            (None, Some(O), None, "it does not say"),
        ] {
            let at = part_expires_at(s(O), &claims(exp, iat, None));
            assert_eq!(at, expected.map(s), "{what}");
        }
    }

    #[test]
    fn a_life_that_is_over_says_nothing() {
        for (told, expected) in [
            (Expiry::At(s(O + 1)), Expiry::At(s(O + 1))),
            (Expiry::At(s(O)), Expiry::Unknown),
            (Expiry::At(s(O - 3600)), Expiry::Unknown),
            (Expiry::At(s(0)), Expiry::Unknown),
            (Expiry::Never, Expiry::Never),
            (Expiry::Unknown, Expiry::Unknown),
        ] {
            assert_eq!(said(s(O), told), expected, "{told:?}");
        }
        for (told, expected) in [
            (None, None),
            (Some(O + 1), Some(O + 1)),
            (Some(O), None),
            (Some(0), None),
        ] {
            let at = rotating_expires_at(s(O), told.map(s));
            assert_eq!(at, expected.map(s), "{told:?}");
        }
    }

    #[test]
    fn a_clock_that_is_off_by_hours_changes_no_life_that_is_told() {
        const LIFE: u64 = 300;
        const HOUR: i64 = 3600;
        let life = Some(O + LIFE);
        let assumed = Some(O + DEFAULT.as_secs());
        for ahead_s in [-24 * HOUR, -2 * HOUR, -60, 0, 60, 2 * HOUR, 24 * HOUR] {
            let at_issuer = |ours: u64| ours.saturating_add_signed(ahead_s);
            let now = at_issuer(O);
            let with_iat = Some(claims(Some(now + LIFE), Some(now), Some(now)));
            let without = Some(claims(Some(now + LIFE), None, Some(now)));
            let expires_in = Expiry::At(s(O + LIFE));
            // An opaque token has no times to compare.
            let rows = [
                (None, expires_in, life, life, "opaque, expires_in"),
                (None, Expiry::Unknown, assumed, assumed, "opaque, none"),
                (with_iat, expires_in, life, life, "iat, expires_in"),
                (with_iat, Expiry::Unknown, life, None, "iat, none"),
                (without, expires_in, life, None, "no iat, expires_in"),
                (without, Expiry::Unknown, life, None, "no iat, none"),
            ];
            for (claims, said, with_date, without_date, what) in rows {
                let what = format!("{what}, the issuer is {ahead_s} s ahead");
                let ours = claims.map(|c| by_our_clock(c, Some(ahead_s * 1000)));
                let end = expires_at(s(O), said, ours.as_ref(), DEFAULT);
                assert_eq!(end, with_date.map(s), "{what}, and said so");
                let good_from = not_before(s(O), said, ours.as_ref());
                assert!(good_from.is_none_or(|at| at <= s(O)), "{what}");
                let end = expires_at(s(O), said, claims.as_ref(), DEFAULT);
                let lives = end.is_some_and(|at| at > s(O));
                if let Some(expected) = without_date {
                    assert_eq!(end, Some(s(expected)), "{what}");
                } else if said != Expiry::Unknown {
                    assert!(lives, "{what}: {end:?}");
                    let is_off_by_hours = ahead_s.abs() >= HOUR;
                    assert!(!is_off_by_hours || end == life.map(s), "{what}: {end:?}");
                    assert_eq!(not_before(s(O), said, claims.as_ref()), None, "{what}");
                }
            }
        }
    }

    #[test]
    fn not_before_is_counted_by_the_issuers_clock_where_there_is_one() {
        for (nbf, iat, expected) in [
            (None, Some(O), None),
            (Some(O + 5), None, Some(O + 5)),
            (Some(O + 3600), Some(O + 3600), Some(O)),
            (Some(O + 3595), Some(O + 3600), Some(O)),
            (Some(O + 3630), Some(O + 3600), Some(O + 30)),
        ] {
            let claims = claims(Some(O + 9999), iat, nbf);
            assert_eq!(
                not_before(s(O), Expiry::Unknown, Some(&claims)),
                expected.map(s),
                "nbf {nbf:?}, iat {iat:?}"
            );
        }
        assert_eq!(not_before(s(O), Expiry::Unknown, None), None);
    }

    proptest! {
        #[test]
        fn no_word_ever_makes_a_token_live_longer_than_another_word_allows(
            at in proptest::option::of(0_u64..2 * O), exp in proptest::option::of(0_u64..2 * O), iat in proptest::option::of(0_u64..2 * O),
        ) {
            let told = said(s(O), at.map_or(Expiry::Never, |at| Expiry::At(s(at))));
            let claims = claims(exp, iat, None);
            let expires = expires_at(s(O), told, Some(&claims), DEFAULT);
            prop_assert_eq!(expires.is_none(), at.is_none() && exp.is_none());
            if let (Some(expires), Expiry::At(at)) = (expires, told) {
                prop_assert!(s(O) < expires && expires <= at, "nobody gives out a dead token");
            }
        }
    }
}

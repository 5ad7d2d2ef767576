//! How long a token lives: the plugin's word, the JWT's word and the job's assumption, weighed.

use std::time::Duration;

use crate::time::Timestamp;
use crate::token::Expiry;
use crate::token::jwt::Claims;

/// When a token dies by our clock: the earlier of what the plugin says and what the JWT says; none: never.
///
/// A JWT's life is `exp − iat`, both by the issuer's clock, counted from `obtained_at`: so its clock need not agree with ours.
/// Only where the plugin says nothing does the absolute `exp` count too, because then nothing else would tell a new token
/// from one that came out of a cache. Without any word the token is assumed to live for `default_lifetime`.
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

fn claimed_expiry(obtained_at: Timestamp, said: Expiry, claims: &Claims) -> Option<Timestamp> {
    let exp = claims.expires_at?;
    let Some(iat) = claims.issued_at.filter(|iat| *iat < exp) else {
        return Some(exp);
    };
    let by_issuers_clock = obtained_at.after(exp.since(iat));
    Some(match said {
        Expiry::At(_) => by_issuers_clock,
        Expiry::Unknown | Expiry::Never => by_issuers_clock.min(exp),
    })
}

/// From when a token is good by our clock, counted like its expiry; none: at once.
#[must_use]
pub fn not_before(obtained_at: Timestamp, claims: Option<&Claims>) -> Option<Timestamp> {
    let claims = claims?;
    let nbf = claims.not_before?;
    Some(match claims.issued_at {
        Some(iat) => obtained_at.after(nbf.since(iat)),
        None => nbf,
    })
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
                not_before(s(O), Some(&claims)),
                expected.map(s),
                "nbf {nbf:?}, iat {iat:?}"
            );
        }
        assert_eq!(not_before(s(O), None), None);
    }

    proptest! {
        #[test]
        fn no_word_ever_makes_a_token_live_longer_than_another_word_allows(
            at in proptest::option::of(0_u64..2 * O), exp in proptest::option::of(0_u64..2 * O), iat in proptest::option::of(0_u64..2 * O),
        ) {
            let said = at.map_or(Expiry::Never, |at| Expiry::At(s(at)));
            let claims = claims(exp, iat, None);
            let expires = expires_at(s(O), said, Some(&claims), DEFAULT);
            prop_assert_eq!(expires.is_none(), at.is_none() && exp.is_none());
            if let (Some(expires), Some(at)) = (expires, at) {
                prop_assert!(expires <= s(at));
            }
        }
    }
}

//! The times of a token that is a JWT (RFC 7519 §4.1). Nothing is verified: the token came from its issuer over TLS, and its
//! times only decide when to refresh it. A token that cannot be parsed is not a JWT, which is no error.

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::model::time::Timestamp;

/// Larger payloads are not parsed; a JWT has to fit into an HTTP header, whose usual limit of 8 to 16 KiB is far below this.
const PAYLOAD_LIMIT: usize = 256 * 1024;

/// The times of a JWT, by its issuer's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Claims {
    /// `exp`: it expires then.
    pub expires_at: Option<Timestamp>,
    /// `iat`: it was issued then.
    pub issued_at: Option<Timestamp>,
    /// `nbf`: it is valid from then on.
    pub not_before: Option<Timestamp>,
}

/// The claims as in the payload: a NumericDate may be a fraction, and some issuers write text.
#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    exp: Value,
    #[serde(default)]
    iat: Value,
    #[serde(default)]
    nbf: Value,
}

/// Reads the times of a signed JWT in compact form; none if the token is something else.
#[must_use]
pub fn read(token: &str) -> Option<Claims> {
    let mut parts = token.trim().split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || payload.len() > PAYLOAD_LIMIT {
        return None;
    }
    let json = Zeroizing::new(
        BASE64URL_NOPAD
            .decode(payload.trim_end_matches('=').as_bytes())
            .ok()?,
    );
    // Serde would take an array for a struct, too.
    if !json.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let payload: Payload = serde_json::from_slice(&json).ok()?;
    Some(Claims {
        expires_at: numeric_date(&payload.exp),
        issued_at: numeric_date(&payload.iat),
        not_before: numeric_date(&payload.nbf),
    })
}

/// Seconds since the epoch (RFC 7519 §2), to the millisecond; taken for milliseconds if as seconds they would be out of range,
/// and for no date if even as milliseconds.
fn numeric_date(value: &Value) -> Option<Timestamp> {
    /// The end of the year 9999: a later date means "never" or nothing.
    const LATEST_S: f64 = 253_402_300_799.0;
    let number: f64 = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.parse().ok()?,
        _ => return None,
    };
    let seconds = if number > LATEST_S {
        number / 1000.0
    } else {
        number
    };
    if !(0.0..=LATEST_S).contains(&seconds) {
        return None;
    }
    let millis = std::time::Duration::try_from_secs_f64(seconds)
        .ok()?
        .as_millis();
    u64::try_from(millis).ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn jwt(payload: &str) -> String {
        format!(
            "eyJhbGciOiJub25lIn0.{}.c2ln",
            BASE64URL_NOPAD.encode(payload.as_bytes())
        )
    }

    #[test]
    fn times_are_read_however_the_issuer_spells_them() {
        let at = |ms| Some(Timestamp(ms));
        for (payload, expires_at, issued_at, not_before) in [
            (
                r#"{"exp":1700000300,"iat":1700000000,"nbf":1699999999}"#,
                at(1_700_000_300_000),
                at(1_700_000_000_000),
                at(1_699_999_999_000),
            ),
            (r#"{"exp":1700000300.5}"#, at(1_700_000_300_500), None, None),
            (r#"{"exp":1.7e9}"#, at(1_700_000_000_000), None, None),
            (
                r#"{"exp":1700000300000,"iat":"1700000000000"}"#,
                at(1_700_000_300_000),
                at(1_700_000_000_000),
                None,
            ),
            (r#"{"exp":"1700000300"}"#, at(1_700_000_300_000), None, None),
            (r#"{"exp":null,"iat":true,"nbf":[1]}"#, None, None, None),
            (r#"{"exp":-1,"iat":1e300,"nbf":"soon"}"#, None, None, None),
            (r#"{"sub":"nobody"}"#, None, None, None),
        ] {
            assert_eq!(
                read(&jwt(payload)),
                Some(Claims {
                    expires_at,
                    issued_at,
                    not_before
                }),
                "{payload}"
            );
        }
    }

    #[test]
    fn what_is_no_signed_jwt_has_no_times() {
        for token in [
            "",
            "ya29.opaque",
            "a.b.c",
            "a..c",
            "e30.e30",
            "e30.e30.e30.e30.e30",
            &jwt("[1]"),
            &jwt("{"),
            &format!("e30.{}.x", "A".repeat(PAYLOAD_LIMIT + 1)),
        ] {
            assert_eq!(read(token), None, "{}", token.get(..20).unwrap_or(token));
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_plugin_returns_makes_it_panic(token in "\\PC*", payload in any::<Vec<u8>>()) {
            let _ = read(&token);
            let _ = read(&format!("a.{}.c", BASE64URL_NOPAD.encode(&payload)));
        }

        #[test]
        fn every_date_within_time_is_read_to_the_millisecond(ms in 0_u64..253_402_300_799_000) {
            #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
            let seconds = ms as f64 / 1000.0;
            let claims = read(&jwt(&format!(r#"{{"exp":{seconds}}}"#)));
            let read = claims.and_then(|c| c.expires_at).map_or(0, |t| t.0);
            prop_assert!(read.abs_diff(ms) <= 1);
        }
    }
}

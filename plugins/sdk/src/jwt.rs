//! Reading a JWT's claims without verification, since a plugin only needs the expiry, and making JWTs that the host signs.

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

use crate::secrets::{Encoding, Piece, Secret, join};
use crate::{Failure, Timestamp, crypto};

/// The claims of a JWS in compact form (RFC 7519), or nothing when the text is not one.
#[must_use]
pub fn claims(token: &str) -> Option<Map<String, Value>> {
    let mut parts = token.split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let payload = BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?;
    serde_json::from_slice(&payload).ok()
}

/// The `exp` claim, in seconds since the Unix epoch, possibly with a fraction (RFC 7519 §2 NumericDate).
#[must_use]
pub fn expires_at(token: &str) -> Option<Timestamp> {
    let seconds = claims(token)?.get("exp")?.as_f64()?;
    (seconds.is_finite() && seconds >= 0.0)
        .then(|| Timestamp::from_unix_millis((seconds * 1000.0) as u64))
}

/// The value of a claim.
pub type Claim = Value;

/// A JWT without signature (`alg` "none", RFC 7519 §6), for plugins that simulate an issuer.
#[must_use]
pub fn unsigned<'a>(claims: impl IntoIterator<Item = (&'a str, Claim)>) -> String {
    let claims: Map<String, Value> = claims
        .into_iter()
        .map(|(name, claim)| (name.to_owned(), claim))
        .collect();
    let encode = |json: &[u8]| BASE64URL_NOPAD.encode(json);
    let payload = Value::Object(claims).to_string();
    format!(
        "{}.{}.",
        encode(br#"{"alg":"none","typ":"JWT"}"#),
        encode(payload.as_bytes())
    )
}

/// A JWT signed by [`crypto::sign`], e.g. a client assertion (RFC 7523): a secret, for a form's field or a header. Its header has
/// `alg` and the members of `header`, such as `kid` and `typ`.
///
/// # Errors
///
/// As [`crypto::sign`].
pub fn sign(
    key: &Secret,
    algorithm: &str,
    mut header: Map<String, Value>,
    claims: Map<String, Value>,
) -> Result<Secret, Failure> {
    header.insert("alg".to_owned(), algorithm.into());
    let part = |members| BASE64URL_NOPAD.encode(Value::Object(members).to_string().as_bytes());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = crypto::sign(key, algorithm, signed.as_str())?;
    join(&[
        signed.into(),
        ".".into(),
        Piece::Secret(&signature, Encoding::Base64Url),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_expiry_of_a_jwt_is_its_exp() {
        for (exp, expected) in [
            (json!(1_700_000_000), Some(1_700_000_000_000)),
            (json!(1_700_000_000.5), Some(1_700_000_000_500)),
            (json!("1700000000"), None),
            (json!(-1), None),
            (json!(null), None),
        ] {
            let token = unsigned([("iss", "x".into()), ("exp", exp.clone())]);
            assert_eq!(
                expires_at(&token),
                expected.map(Timestamp::from_unix_millis),
                "{exp}"
            );
        }
    }

    #[test]
    fn what_is_no_jwt_has_no_claims() {
        for text in ["", "opaque", "a.b", "a.b.c", "a.e30.c.d", "a.bnVsbA.c"] {
            assert_eq!(claims(text), None, "{text}");
        }
    }
}

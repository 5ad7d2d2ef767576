//! What a consumer can check in a JWT without the issuer's key: its claims, its completeness, its expiry.

use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;

use crate::reader::Sight;

/// The claims of a whole JWT in compact form (RFC 7519): three parts, and a signature as long as its algorithm makes it.
///
/// # Errors
///
/// When it is not whole, or its algorithm is neither RS256 (with a key of 2048 bits) nor ES256.
pub fn claims(token: &str) -> Result<Value> {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else {
        anyhow::bail!("a JWT has three parts, this has {}", parts.len());
    };
    let header = object(header).context("bad header")?;
    let expected_bytes = match header.get("alg").and_then(Value::as_str) {
        Some("RS256") => 256,
        Some("ES256") => 64,
        other => anyhow::bail!("unexpected algorithm {other:?}"),
    };
    let signature_bytes = BASE64URL_NOPAD
        .decode(signature.as_bytes())
        .context("bad signature")?
        .len();
    ensure!(
        signature_bytes == expected_bytes,
        "the signature has {signature_bytes} bytes instead of {expected_bytes}"
    );
    object(payload).context("bad claims")
}

/// A JWT with these claims and a signature that cannot be verified.
#[must_use]
pub fn unchecked(claims: &Value) -> String {
    let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let (header, payload) = (br#"{"alg":"ES256"}"#, claims.to_string());
    format!(
        "{}.{}.{}",
        encode(header),
        encode(payload.as_bytes()),
        encode(&[7; 64])
    )
}

fn object(part: &str) -> Result<Value> {
    Ok(serde_json::from_slice(
        &BASE64URL_NOPAD.decode(part.as_bytes())?,
    )?)
}

/// Judges the content of a file that should contain a bare JWT, for [`crate::reader::PollReader`].
#[must_use]
pub fn judge(content: &[u8]) -> Sight {
    let claims = std::str::from_utf8(content)
        .ok()
        .and_then(|token| claims(token).ok());
    let Some(expiry) = claims
        .as_ref()
        .and_then(|claims| claims.get("exp")?.as_u64())
    else {
        return Sight::Partial;
    };
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    if now < expiry {
        Sight::Good
    } else {
        Sight::Expired
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;

    use super::judge;
    use crate::reader::Sight;

    fn token(claims: &str, signature_bytes: usize) -> String {
        let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        format!(
            "{}.{}.{}",
            encode(br#"{"alg":"ES256"}"#),
            encode(claims.as_bytes()),
            encode(&vec![7; signature_bytes])
        )
    }

    #[test]
    fn a_token_is_good_while_it_is_whole_and_lives() {
        let living = token(r#"{"exp":99999999999}"#, 64);
        for (content, sight) in [
            (living.clone(), Sight::Good),
            (living[..living.len() - 1].to_owned(), Sight::Partial),
            (format!("{living}\n"), Sight::Partial),
            (String::new(), Sight::Partial),
            (token("{}", 64), Sight::Partial),
            (token(r#"{"exp":99999999999}"#, 63), Sight::Partial),
            (token(r#"{"exp":1}"#, 64), Sight::Expired),
        ] {
            assert_eq!(judge(content.as_bytes()), sight, "{content}");
        }
    }
}

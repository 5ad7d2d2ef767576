//! The encodings of a secret ([`Encoding`]), as in the host.

use data_encoding::{BASE32, BASE32_NOPAD, BASE64, BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use crate::Failure;
use crate::secrets::Encoding;

/// All but the unreserved characters of RFC 3986 §2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

pub(super) fn encode(value: &[u8], encoding: Encoding) -> Vec<u8> {
    let text = String::from_utf8_lossy(value);
    match encoding {
        Encoding::Raw => return value.to_vec(),
        Encoding::Form => form_urlencoded::byte_serialize(value).collect(),
        Encoding::Percent => percent_encode(value, RESERVED).to_string(),
        Encoding::Json => inside_json_string(&text),
        Encoding::Xml => text
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&quot;")
            .replace('\'', "&apos;"),
        Encoding::Base64 => BASE64.encode(value),
        Encoding::Base64Url => BASE64URL_NOPAD.encode(value),
        Encoding::Hex => HEXLOWER.encode(value),
        Encoding::Base32 => BASE32.encode(value),
        Encoding::Quoted => text.replace('\\', "\\\\").replace('"', "\\\""),
    }
    .into_bytes()
}

fn inside_json_string(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(&quoted)
        .to_owned()
}

pub(super) fn decode(value: &[u8], encoding: Encoding) -> Result<Vec<u8>, Failure> {
    let value = value.trim_ascii();
    let decoded = match encoding {
        Encoding::Base64 => BASE64.decode(value),
        Encoding::Base64Url => BASE64URL_NOPAD.decode(value.strip_suffix(b"=").unwrap_or(value)),
        Encoding::Hex => HEXLOWER_PERMISSIVE.decode(value),
        Encoding::Base32 => {
            let unpadded = value.split(|byte| *byte == b'=').next().unwrap_or_default();
            BASE32_NOPAD.decode(&unpadded.to_ascii_uppercase())
        }
        other => {
            return Err(Failure::invalid_config(format!(
                "a secret cannot be decoded from {other:?}"
            ))
            .with_code("secret.encoding"));
        }
    };
    decoded.map_err(|_| {
        Failure::invalid_config(format!("the secret is not {encoding:?}"))
            .with_code("secret.encoding")
    })
}

/// How the encoding is shown in a recorded request.
pub(super) fn show(shown: &str, encoding: Encoding) -> String {
    match encoding {
        Encoding::Raw => shown.to_owned(),
        other => format!("{}({shown})", format!("{other:?}").to_ascii_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_spelled_as_its_place_demands() {
        for (encoding, value, expected) in [
            (Encoding::Raw, "a b&c", "a b&c"),
            (Encoding::Form, "a b&c~", "a+b%26c%7E"),
            (Encoding::Percent, "a b&c~", "a%20b%26c~"),
            (Encoding::Json, "\"a\\\n\"", "\\\"a\\\\\\n\\\""),
            (Encoding::Xml, "<a & 'b'>", "&lt;a &amp; &apos;b&apos;&gt;"),
            (Encoding::Base64, "a?>", "YT8+"),
            (Encoding::Base64Url, "a?>>", "YT8-Pg"),
            (Encoding::Hex, "a\u{ff}", "61c3bf"),
            (Encoding::Base32, "foob", "MZXW6YQ="),
            (Encoding::Quoted, "a \"\\", "a \\\"\\\\"),
        ] {
            assert_eq!(
                encode(value.as_bytes(), encoding),
                expected.as_bytes(),
                "{encoding:?}"
            );
        }
    }

    #[test]
    fn a_key_handed_out_as_text_is_decoded() {
        for (encoding, text) in [
            (Encoding::Base64, "a2V5\n"),
            (Encoding::Base64Url, "a2V5"),
            (Encoding::Hex, "6B6579"),
            (Encoding::Base32, "nnsxs"),
        ] {
            assert_eq!(
                decode(text.as_bytes(), encoding).unwrap(),
                b"key",
                "{encoding:?}"
            );
        }
        assert!(
            decode(b"???", Encoding::Base64)
                .unwrap_err()
                .has_code("secret.encoding")
        );
        assert!(
            decode(b"key", Encoding::Xml)
                .unwrap_err()
                .has_code("secret.encoding")
        );
    }
}

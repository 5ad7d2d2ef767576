//! Encodings of secrets in requests, and decoding of keys that are issued as text.

use data_encoding::{
    BASE32, BASE32_NOPAD, BASE64, BASE64_MIME_PERMISSIVE, BASE64URL_NOPAD, HEXLOWER,
    HEXLOWER_PERMISSIVE,
};
use percent_encoding::percent_encode;
use secrecy::SecretSlice;
use zeroize::Zeroizing;

use crate::text::RESERVED;

/// An encoding of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As they are.
    Raw,
    /// `application/x-www-form-urlencoded`, as RFC 6749 §2.3.1 requires.
    Form,
    /// All but the unreserved characters of RFC 3986 §2.3.
    Percent,
    /// Escaped for the inside of a JSON string (RFC 8259 §7).
    Json,
    /// Escaped for XML text and attribute values.
    Xml,
    /// RFC 4648 §4, padded.
    Base64,
    /// RFC 4648 §5, not padded.
    Base64Url,
    /// RFC 4648 §8, in lower case.
    Hex,
    /// RFC 4648 §6, padded.
    Base32,
    /// Escaped for the inside of a quoted-string (RFC 9110 §5.6.4).
    Quoted,
}

/// Why a value cannot be encoded. Reveals nothing of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodingError {
    /// Binary data inside a JSON or XML string.
    #[error("it is not UTF-8 text")]
    NotText,
    /// XML 1.0 cannot represent most control characters.
    #[error("it holds a character that XML cannot carry")]
    NotXml,
    /// A quoted-string cannot represent control characters.
    #[error("it holds a control character, which a quoted string cannot carry")]
    NotQuotable,
    /// The text is not in this encoding.
    #[error("it is not {0}")]
    Malformed(&'static str),
    /// Decoding is for keys issued as text.
    #[error("only base64, base64url, base32 and hex can be decoded")]
    NotDecodable,
}

impl Encoding {
    /// Whether it changes every character.
    pub(super) const fn hides(self) -> bool {
        matches!(
            self,
            Self::Base64 | Self::Base64Url | Self::Hex | Self::Base32
        )
    }

    /// The encoded `bytes`.
    ///
    /// # Errors
    /// JSON and XML take text only, quoted strings no control characters.
    pub fn encode(self, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, EncodingError> {
        let text = match self {
            Self::Raw => return Ok(Zeroizing::new(bytes.to_vec())),
            Self::Form => form_urlencoded::byte_serialize(bytes).collect(),
            Self::Percent => percent_encode(bytes, RESERVED).to_string(),
            Self::Json => json(utf8(bytes)?)?,
            Self::Xml => xml(utf8(bytes)?)?,
            Self::Base64 => BASE64.encode(bytes),
            Self::Base64Url => BASE64URL_NOPAD.encode(bytes),
            Self::Hex => HEXLOWER.encode(bytes),
            Self::Base32 => BASE32.encode(bytes),
            Self::Quoted => return quoted(bytes),
        };
        Ok(Zeroizing::new(text.into_bytes()))
    }

    /// Whether only some values can be encoded.
    #[must_use]
    pub const fn is_partial(self) -> bool {
        matches!(self, Self::Json | Self::Xml | Self::Quoted)
    }

    /// The greatest length of `len` encoded bytes.
    #[must_use]
    pub const fn longest(self, len: usize) -> usize {
        match self {
            Self::Raw => len,
            Self::Form | Self::Percent => len.saturating_mul(3),
            // `\u0000`, `&quot;`.
            Self::Json | Self::Xml => len.saturating_mul(6),
            Self::Base64 | Self::Base64Url => len.div_ceil(3).saturating_mul(4),
            Self::Hex | Self::Quoted => len.saturating_mul(2),
            Self::Base32 => len.div_ceil(5).saturating_mul(8),
        }
    }

    /// The decoded `text`. White space is ignored, as keys are often wrapped.
    ///
    /// # Errors
    /// The text is not in this encoding, or the encoding is not one for keys.
    pub fn decode(self, text: &[u8]) -> Result<SecretSlice<u8>, EncodingError> {
        // With room for padding: growing would leave an unwiped copy behind.
        let mut bare = Zeroizing::new(Vec::with_capacity(text.len() + 3));
        bare.extend(text.iter().filter(|byte| !byte.is_ascii_whitespace()));
        let decoded = match self {
            Self::Base64 => base64(&mut bare).ok_or(EncodingError::Malformed("base64")),
            Self::Base64Url => {
                for byte in &mut *bare {
                    *byte = match *byte {
                        b'-' => b'+',
                        b'_' => b'/',
                        // Characters of the other alphabet belong to neither.
                        b'+' | b'/' => b'*',
                        other => other,
                    };
                }
                base64(&mut bare).ok_or(EncodingError::Malformed("base64url"))
            }
            Self::Hex => HEXLOWER_PERMISSIVE
                .decode(&bare)
                .map_err(|_| EncodingError::Malformed("hex")),
            Self::Base32 => {
                bare.make_ascii_uppercase();
                let unpadded = bare.split(|byte| *byte == b'=').next().unwrap_or_default();
                BASE32_NOPAD
                    .decode(unpadded)
                    .map_err(|_| EncodingError::Malformed("base32"))
            }
            Self::Raw | Self::Form | Self::Percent | Self::Json | Self::Xml | Self::Quoted => {
                Err(EncodingError::NotDecodable)
            }
        };
        decoded.map(SecretSlice::from)
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, EncodingError> {
    std::str::from_utf8(bytes).map_err(|_| EncodingError::NotText)
}

fn quoted(bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, EncodingError> {
    let mut escaped = Zeroizing::new(Vec::with_capacity(2 * bytes.len()));
    for byte in bytes {
        match byte {
            b'"' | b'\\' => escaped.extend([b'\\', *byte]),
            b'\t' => escaped.push(*byte),
            byte if byte.is_ascii_control() => return Err(EncodingError::NotQuotable),
            byte => escaped.push(*byte),
        }
    }
    Ok(escaped)
}

fn json(text: &str) -> Result<String, EncodingError> {
    let mut quoted = serde_json::to_string(text).map_err(|_| EncodingError::NotText)?;
    quoted.pop();
    quoted.remove(0);
    Ok(quoted)
}

fn xml(text: &str) -> Result<String, EncodingError> {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            // A parser would turn them into spaces inside an attribute.
            '\t' => escaped.push_str("&#x9;"),
            '\n' => escaped.push_str("&#xA;"),
            '\r' => escaped.push_str("&#xD;"),
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => return Err(EncodingError::NotXml),
            other => escaped.push(other),
        }
    }
    Ok(escaped)
}

/// Decodes base64 with padding or without, as keys come in both forms.
fn base64(text: &mut Vec<u8>) -> Option<Vec<u8>> {
    while text.last() == Some(&b'=') {
        text.pop();
    }
    if text.contains(&b'=') {
        return None;
    }
    text.resize(text.len().next_multiple_of(4), b'=');
    BASE64_MIME_PERMISSIVE.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    fn encoded(encoding: Encoding, bytes: &[u8]) -> String {
        String::from_utf8(encoding.encode(bytes).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn every_encoding_spells_as_its_specification_says() {
        let value = "a b+c/&=\"<é>'\n~-._";
        for (encoding, expected) in [
            (Encoding::Raw, value),
            (
                Encoding::Form,
                "a+b%2Bc%2F%26%3D%22%3C%C3%A9%3E%27%0A%7E-._",
            ),
            (
                Encoding::Percent,
                "a%20b%2Bc%2F%26%3D%22%3C%C3%A9%3E%27%0A~-._",
            ),
            (Encoding::Json, "a b+c/&=\\\"<é>'\\n~-._"),
            (Encoding::Xml, "a b+c/&amp;=&quot;&lt;é&gt;&apos;&#xA;~-._"),
        ] {
            assert_eq!(
                encoded(encoding, value.as_bytes()),
                expected,
                "{encoding:?}"
            );
        }
        // RFC 4648 §10, and bytes on which the two alphabets differ.
        for (encoding, bytes, expected) in [
            (Encoding::Base64, &b"foob"[..], "Zm9vYg=="),
            (Encoding::Base64Url, b"foob", "Zm9vYg"),
            (Encoding::Base64, b"\xfb\xff", "+/8="),
            (Encoding::Base64Url, b"\xfb\xff", "-_8"),
            (Encoding::Hex, b"\x00\xffA", "00ff41"),
            (Encoding::Base32, b"foob", "MZXW6YQ="),
            (Encoding::Quoted, b"a\t\"b\\c", "a\t\\\"b\\\\c"),
        ] {
            assert_eq!(encoded(encoding, bytes), expected, "{encoding:?}");
        }
    }

    #[test]
    fn text_encodings_refuse_what_they_cannot_carry() {
        assert_eq!(
            Encoding::Json.encode(b"\xff").unwrap_err(),
            EncodingError::NotText
        );
        assert_eq!(
            Encoding::Xml.encode(b"\x01").unwrap_err(),
            EncodingError::NotXml
        );
        assert_eq!(
            Encoding::Quoted.encode(b"a\n").unwrap_err(),
            EncodingError::NotQuotable
        );
    }

    #[test]
    fn keys_are_decoded_padded_wrapped_and_in_either_case() {
        for (encoding, text, expected) in [
            (Encoding::Base64, "Zm9v\nYg==\n", &b"foob"[..]),
            (Encoding::Base64, "Zm9vYg", b"foob"),
            (Encoding::Base64, "Zm9vYh==", b"foob"),
            (Encoding::Base64Url, "-_9", b"\xfb\xff"),
            (Encoding::Base64Url, "-_8=", b"\xfb\xff"),
            (Encoding::Hex, "00FF 41", b"\x00\xffA"),
            (Encoding::Base32, "mzxw 6yq", b"foob"),
            (Encoding::Base32, "MZXW6YQ=", b"foob"),
        ] {
            let decoded = encoding.decode(text.as_bytes()).unwrap();
            assert_eq!(decoded.expose_secret(), expected, "{text}");
        }
        for (encoding, text) in [
            (Encoding::Base64, "-_8="),
            (Encoding::Base64Url, "+/8="),
            (Encoding::Base64, "Zm9vY"),
            (Encoding::Base64, "Zm=9vYg"),
            (Encoding::Base64, "Zm9vYg==Zm9vYg=="),
            (Encoding::Hex, "0"),
            (Encoding::Base32, "1"),
            (Encoding::Form, "a"),
        ] {
            assert!(
                encoding.decode(text.as_bytes()).is_err(),
                "{encoding:?} {text}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes_to_itself(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for encoding in [Encoding::Base64, Encoding::Base64Url, Encoding::Hex, Encoding::Base32] {
                let text = encoding.encode(&bytes).unwrap();
                let decoded = encoding.decode(&text).unwrap();
                prop_assert_eq!(decoded.expose_secret(), &bytes[..]);
            }
            let percent = encoded(Encoding::Percent, &bytes);
            let decoded: Vec<u8> = percent_encoding::percent_decode_str(&percent).collect();
            prop_assert_eq!(&decoded, &bytes);
        }

        #[test]
        fn no_spelling_is_longer_than_said(bytes in proptest::collection::vec(any::<u8>(), 0..50), text in any::<String>()) {
            for encoding in [
                Encoding::Raw, Encoding::Form, Encoding::Percent, Encoding::Json, Encoding::Xml, Encoding::Base64,
                Encoding::Base64Url, Encoding::Hex, Encoding::Base32, Encoding::Quoted,
            ] {
                for value in [&bytes[..], text.as_bytes()] {
                    if let Ok(spelling) = encoding.encode(value) {
                        prop_assert!(spelling.len() <= encoding.longest(value.len()), "{encoding:?} {value:?}");
                    } else {
                        prop_assert!(encoding.is_partial());
                    }
                }
            }
        }

        #[test]
        fn text_survives_form_and_json(text in any::<String>()) {
            let form = format!("k={}", encoded(Encoding::Form, text.as_bytes()));
            let pairs: Vec<_> = form_urlencoded::parse(form.as_bytes()).collect();
            prop_assert_eq!(&pairs[0].1, &text);
            let json = format!("\"{}\"", encoded(Encoding::Json, text.as_bytes()));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}

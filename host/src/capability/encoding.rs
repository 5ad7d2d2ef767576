//! How a secret is spelled where it lands, and back from the spellings in which keys are handed out.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use secrecy::SecretSlice;
use zeroize::Zeroizing;

/// A spelling of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As they are.
    Raw,
    /// `application/x-www-form-urlencoded`, also what RFC 6749 §2.3.1 asks for.
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
}

/// Why a value has no such spelling. Never says anything of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodingError {
    /// Binary data inside a JSON or XML string.
    #[error("it is not UTF-8 text")]
    NotText,
    /// XML 1.0 has no spelling for most control characters.
    #[error("it holds a character that XML cannot carry")]
    NotXml,
    /// The text is not in this encoding.
    #[error("it is not {0}")]
    Malformed(&'static str),
    /// Decoding is for keys handed out as text.
    #[error("only base64, base64url and hex can be decoded")]
    NotDecodable,
}

/// All bytes but the unreserved characters of RFC 3986 §2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Decoders that take the text with padding or without, as keys come in both.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const BASE64URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

impl Encoding {
    /// The spelling of `bytes`.
    ///
    /// # Errors
    /// JSON and XML take text only.
    pub fn encode(self, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, EncodingError> {
        let text = match self {
            Self::Raw => return Ok(Zeroizing::new(bytes.to_vec())),
            Self::Form => form_urlencoded::byte_serialize(bytes).collect(),
            Self::Percent => percent_encode(bytes, RESERVED).to_string(),
            Self::Json => json(utf8(bytes)?)?,
            Self::Xml => xml(utf8(bytes)?)?,
            Self::Base64 => STANDARD.encode(bytes),
            Self::Base64Url => URL_SAFE_NO_PAD.encode(bytes),
            Self::Hex => HEXLOWER.encode(bytes),
        };
        Ok(Zeroizing::new(text.into_bytes()))
    }

    /// The bytes that `text` spells. White space counts for nothing, as keys are often wrapped.
    ///
    /// # Errors
    /// The text is not in this encoding, or the encoding is not one for keys.
    pub fn decode(self, text: &[u8]) -> Result<SecretSlice<u8>, EncodingError> {
        let mut bare = Zeroizing::new(Vec::with_capacity(text.len()));
        bare.extend(text.iter().filter(|byte| !byte.is_ascii_whitespace()));
        let decoded = match self {
            Self::Base64 => BASE64
                .decode(&*bare)
                .map_err(|_| EncodingError::Malformed("base64")),
            Self::Base64Url => BASE64URL
                .decode(&*bare)
                .map_err(|_| EncodingError::Malformed("base64url")),
            Self::Hex => HEXLOWER_PERMISSIVE
                .decode(&bare)
                .map_err(|_| EncodingError::Malformed("hex")),
            Self::Raw | Self::Form | Self::Percent | Self::Json | Self::Xml => {
                Err(EncodingError::NotDecodable)
            }
        };
        decoded.map(SecretSlice::from)
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, EncodingError> {
    std::str::from_utf8(bytes).map_err(|_| EncodingError::NotText)
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
    }

    #[test]
    fn keys_are_decoded_padded_wrapped_and_in_either_case() {
        for (encoding, text, expected) in [
            (Encoding::Base64, "Zm9v\nYg==\n", &b"foob"[..]),
            (Encoding::Base64, "Zm9vYg", b"foob"),
            (Encoding::Base64Url, "-_8=", b"\xfb\xff"),
            (Encoding::Hex, "00FF 41", b"\x00\xffA"),
        ] {
            let decoded = encoding.decode(text.as_bytes()).unwrap();
            assert_eq!(decoded.expose_secret(), expected, "{text}");
        }
        for (encoding, text) in [
            (Encoding::Base64, "-_8="),
            (Encoding::Base64Url, "+/8="),
            (Encoding::Hex, "0"),
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
            for encoding in [Encoding::Base64, Encoding::Base64Url, Encoding::Hex] {
                let text = encoding.encode(&bytes).unwrap();
                let decoded = encoding.decode(&text).unwrap();
                prop_assert_eq!(decoded.expose_secret(), &bytes[..]);
            }
            let percent = encoded(Encoding::Percent, &bytes);
            let decoded: Vec<u8> = percent_encoding::percent_decode_str(&percent).collect();
            prop_assert_eq!(&decoded, &bytes);
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

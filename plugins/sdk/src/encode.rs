//! Base64 for values that plugins may read.

use data_encoding::{BASE64, BASE64_MIME_PERMISSIVE};

/// Base64 with padding (RFC 4648 §4).
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// The decoded base64 or base64url (RFC 4648 §§4, 5), with or without padding and white space; nothing for other texts.
#[must_use]
pub fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let standard = |byte: u8| match byte {
        b'-' => b'+',
        b'_' => b'/',
        byte => byte,
    };
    let mut plain: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(standard)
        .collect();
    while plain.last() == Some(&b'=') {
        plain.pop();
    }
    if plain.contains(&b'=') {
        return None;
    }
    plain.resize(plain.len().next_multiple_of(4), b'=');
    BASE64_MIME_PERMISSIVE.decode(&plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_in_all_its_spellings() {
        for (text, expected) in [
            ("", Some(&b""[..])),
            ("YQ==", Some(b"a")),
            ("YQ", Some(b"a")),
            ("YR", Some(b"a")),
            (" Y\nQ==\r\n", Some(b"a")),
            ("+/8=", Some(b"\xfb\xff")),
            ("-_8", Some(b"\xfb\xff")),
            ("Y", None),
            ("Y*==", None),
            ("YQ==YQ==", None),
            ("\u{e4}", None),
        ] {
            assert_eq!(base64_decode(text).as_deref(), expected, "{text:?}");
        }
    }
}

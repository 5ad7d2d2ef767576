//! Decodes bytes to text.

use std::borrow::Cow;

/// A body as text: UTF-8, UTF-16 or UTF-32 if a byte order mark or zero bytes show it, else ISO 8859-1. Without the mark.
#[must_use]
pub fn decoded(body: &[u8]) -> Cow<'_, str> {
    match body {
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest),
        [0xff, 0xfe, 0, 0, rest @ ..] => utf32(rest, u32::from_le_bytes),
        [0, 0, 0xfe, 0xff, rest @ ..] => utf32(rest, u32::from_be_bytes),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [1..=255, 0, 0, 0, 1..=255, 0, 0, 0, ..] => utf32(body, u32::from_le_bytes),
        [0, 0, 0, 1..=255, 0, 0, 0, 1..=255, ..] => utf32(body, u32::from_be_bytes),
        [1..=255, 0, 1..=255, 0, ..] => utf16(body, u16::from_le_bytes),
        [0, 1..=255, 0, 1..=255, ..] => utf16(body, u16::from_be_bytes),
        _ => utf8(body),
    }
}

fn utf8(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        // Truncated within a character.
        Err(error) if error.error_len().is_none() => String::from_utf8_lossy(bytes),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Cow<'static, str> {
    let (units, _) = bytes.as_chunks();
    char::decode_utf16(units.iter().copied().map(unit))
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

fn utf32(bytes: &[u8], unit: fn([u8; 4]) -> u32) -> Cow<'static, str> {
    let (units, _) = bytes.as_chunks();
    let units = units.iter().copied().map(unit);
    units
        .map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

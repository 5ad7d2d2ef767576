//! Makes untrusted text safe for a line of a log or a terminal.

use std::borrow::Cow;

use serde::{Deserialize as _, Deserializer};

/// `text` on one line: line ends and tabs become spaces; other control characters (ECMA-48: C0, C1 and DEL), and characters that
/// are invisible or reorder text, are removed. The result can neither control a terminal nor look like something else.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| (b' '..0x7f).contains(&byte)) {
        return Cow::Borrowed(text);
    }
    text.chars()
        .filter_map(|character| match character {
            '\n' | '\r' | '\t' => Some(' '),
            other if steers(other) => None,
            other => Some(other),
        })
        .collect::<String>()
        .into()
}

/// Deserializes a text with [`printable`] applied.
///
/// # Errors
/// It is not a text.
pub fn deserialize<'de, D: Deserializer<'de>>(text: D) -> Result<String, D::Error> {
    Ok(printable(&String::deserialize(text)?).into_owned())
}

/// JSON text made safe for a terminal: the same values, with control characters escaped (RFC 8259 §7). Line ends and spaces
/// between values stay.
#[must_use]
pub fn printable_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        // Outside of strings JSON is ASCII, and serializers escape characters below U+0020 in strings.
        if character == '\n' || !steers(character) {
            shown.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            shown.push_str(&format!("\\u{unit:04x}"));
        }
    }
    shown
}

/// Whether a character controls a terminal or affects other characters instead of being visible.
fn steers(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            // Default_Ignorable_Code_Point of Unicode, and line and paragraph separators. Soft hyphen; grapheme joiner; Arabic letter mark.
            '\u{ad}' | '\u{34f}' | '\u{61c}'
            // Fillers of Hangul, full and half width; vowels of Khmer that are not shown; Mongolian variation selectors and vowel separator.
            | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            // Zero-width spaces and joiners, direction marks.
            | '\u{200b}'..='\u{200f}'
            // Line and paragraph separators, embeddings and overrides.
            | '\u{2028}'..='\u{202e}'
            // Word joiner, invisible operators, isolates, deprecated format characters.
            | '\u{2060}'..='\u{206f}'
            // Variation selectors; byte order mark; reserved; interlinear annotations; shorthand and music; tags and more variation selectors.
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hostile texts, and their safe forms.
    const TEXTS: [(&str, &str); 13] = [
        ("plain", "plain"),
        ("schlüssel 鍵", "schlüssel 鍵"),
        ("a\r\nb\tc", "a  b c"),
        ("\u{1b}[31mred\u{1b}[0m", "[31mred[0m"),
        ("\u{9b}31mred", "31mred"),
        ("\u{1b}]0;title\u{7}", "]0;title"),
        (
            "\u{1b}]8;;https://evil\u{1b}\\here",
            "]8;;https://evil\\here",
        ),
        ("gone\u{8}\u{7f}", "gone"),
        ("a\u{202e}b\u{2066}c\u{200f}", "abc"),
        ("a\u{200b}b\u{2060}c\u{feff}d\u{ad}", "abcd"),
        ("\u{e0041}\u{fff9}x", "x"),
        ("\0", ""),
        (
            "a\u{3164}b\u{115f}c\u{fe0f}d\u{e0100}e\u{34f}f\u{1d173}",
            "abcdef",
        ),
    ];

    #[test]
    fn nothing_that_steers_a_terminal_is_left() {
        for (text, expected) in TEXTS {
            assert_eq!(printable(text), expected, "{text:?}");
            assert!(!printable(text).chars().any(steers), "{text:?}");
        }
    }

    #[test]
    fn json_keeps_its_values() {
        for (text, _) in TEXTS {
            let value = serde_json::json!({"text": text, text: ["x"]});
            let shown = printable_json(&serde_json::to_string_pretty(&value).unwrap());
            assert!(!shown.chars().any(|c| c != '\n' && steers(c)), "{shown:?}");
            let read: serde_json::Value = serde_json::from_str(&shown).unwrap();
            assert_eq!(read, value);
        }
    }
}

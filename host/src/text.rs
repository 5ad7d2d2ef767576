//! Checks of texts that people write into files, variables, Secrets and configurations: unintended characters around them, and
//! characters that they cannot contain. Messages name place and kind of such a character, never the text, since it may be a
//! secret.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

/// All bytes but the unreserved characters of RFC 3986 §2.3.
pub(crate) const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The UTF-8 byte order mark, which Windows editors write.
pub(crate) const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";
/// The byte order marks of UTF-16, little endian and big endian.
const UTF16_MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// A text in UTF-16, which consumers of secrets do not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is UTF-16 text; save it as UTF-8, e.g. with `iconv -f UTF-16 -t UTF-8`")]
pub(crate) struct Utf16;

/// The content of a file, variable or key without unintended parts: a byte order mark before it, and one line end after it.
///
/// # Errors
/// It is UTF-16 text.
pub(crate) fn meant(bytes: &[u8]) -> Result<&[u8], Utf16> {
    if is_utf16(bytes) {
        return Err(Utf16);
    }
    let (mark, end) = around(bytes);
    Ok(bytes
        .get(mark.len()..bytes.len() - end.len())
        .unwrap_or_default())
}

/// The byte order mark and the line end around the content; empty where there is none.
pub(crate) fn around(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (mark, rest) = match bytes.strip_prefix(UTF8_MARK) {
        Some(rest) => (UTF8_MARK, rest),
        None => (&b""[..], bytes),
    };
    let end: &[u8] = if rest.ends_with(b"\r\n") {
        b"\r\n"
    } else if rest.ends_with(b"\n") {
        b"\n"
    } else {
        b""
    };
    (mark, end)
}

/// Whether these are ASCII characters of two bytes each. A random key is not, whatever its first bytes.
fn is_utf16(bytes: &[u8]) -> bool {
    let (marked, text) = UTF16_MARKS
        .iter()
        .find_map(|mark| bytes.strip_prefix(*mark))
        .map_or((false, bytes), |text| (true, text));
    let (pairs, rest) = text.as_chunks::<2>();
    // Without a byte order mark, two such characters could be a key by chance.
    let enough = if marked { 1 } else { 4 };
    let ascii = |byte: u8| byte != 0 && byte.is_ascii();
    rest.is_empty()
        && pairs.len() >= enough
        && (pairs.iter().all(|[low, high]| *high == 0 && ascii(*low))
            || pairs.iter().all(|[high, low]| *high == 0 && ascii(*low)))
}

/// Which characters a text may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alphabet {
    /// Visible ASCII characters and blanks: VSCHAR of RFC 6749, appendix A.
    Visible,
    /// Any but control characters: a user name or password of RFC 6749, or a text on one line.
    OneLine,
}

/// The first character that a text may not contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Odd {
    /// From 1.
    byte: usize,
    of: usize,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Control(char),
    /// Invisible in an editor, usually copied along with the text.
    Invisible(char),
    /// Looks like a blank.
    NoBreakSpace,
    /// Not named: it is part of a secret.
    Other,
    NotText,
}

impl Alphabet {
    /// The first character in `bytes` that this alphabet does not contain.
    pub(crate) fn odd(self, bytes: &[u8]) -> Option<Odd> {
        let (text, broken) = match std::str::from_utf8(bytes) {
            Ok(text) => (text, None),
            Err(error) => {
                let (valid, _) = bytes.split_at_checked(error.valid_up_to())?;
                (std::str::from_utf8(valid).ok()?, Some(valid.len()))
            }
        };
        let odd = |at: usize, what| Odd {
            byte: at + 1,
            of: bytes.len(),
            what,
        };
        text.char_indices()
            .find_map(|(at, c)| Some(odd(at, self.forbids(c)?)))
            .or_else(|| broken.map(|at| odd(at, What::NotText)))
    }

    fn forbids(self, c: char) -> Option<What> {
        match self {
            _ if c.is_control() => Some(What::Control(c)),
            Self::Visible if !c.is_ascii() => Some(unseen(c).unwrap_or(What::Other)),
            Self::Visible | Self::OneLine => None,
        }
    }
}

impl Odd {
    /// The kind of character without its position, which would reveal the length of a secret.
    pub(crate) fn kind(&self) -> String {
        self.what.to_string()
    }

    /// How to correct it, in a text written by hand.
    pub(crate) const fn mend(self) -> &'static str {
        match self.what {
            What::Control('\n' | '\r') => "write it on one line",
            What::Invisible(_) => "write the text anew instead of copying it",
            What::NoBreakSpace => "write a blank, or nothing",
            What::Control(_) | What::Other | What::NotText => "write it without",
        }
    }
}

/// Characters that are invisible or look like others. Joiners (U+200C, U+200D) are a part of words in some scripts.
const fn unseen(c: char) -> Option<What> {
    match c {
        '\u{a0}' => Some(What::NoBreakSpace),
        '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{e0000}'..='\u{e007f}' => Some(What::Invisible(c)),
        _ => None,
    }
}

/// The first character of a text that is invisible or looks like another.
pub(crate) fn first_unseen(text: &str) -> Option<Odd> {
    text.char_indices().find_map(|(at, c)| {
        Some(Odd {
            byte: at + 1,
            of: text.len(),
            what: unseen(c)?,
        })
    })
}

const ASSIGNMENT: &str = "it looks like a line `NAME=value`; write the value alone";

/// A part that a text may contain and that is rarely intended, with its correction.
pub(crate) fn suspicion(text: &str) -> Option<&'static str> {
    let quoted = |quote: char| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
    let is_assignment = text.split_once('=').is_some_and(|(name, value)| {
        let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        name.starts_with(|c: char| c.is_ascii_uppercase())
            && name.contains('_')
            && name.chars().all(is_name)
            && !value.is_empty()
            && !value.starts_with('=')
    });
    if quoted('\'') || quoted('"') {
        Some("it stands in quotes, and they are sent with it; leave them out if they are not meant")
    } else if has_variable(text) || is_bare_variable(text) {
        Some("it looks like a variable, and nothing here puts one in; write the value itself")
    } else if text
        .split_once("{{")
        .is_some_and(|(_, rest)| rest.contains("}}"))
    {
        Some("it has a template's braces, and nothing here fills them in; write the value itself")
    } else if text.len() > 2 && text.starts_with('<') && text.ends_with('>') && !text.contains("</")
    {
        Some("it looks like a placeholder of an example; write the value itself")
    } else if text.starts_with(' ') || text.ends_with(' ') {
        Some(
            "it begins or ends with a blank, which is sent with it; leave it out if it is not meant",
        )
    } else if is_assignment {
        Some(ASSIGNMENT)
    } else if text.starts_with("{\"") && text.ends_with('}') {
        Some("it looks like a JSON object; `pointer` takes one member out of it")
    } else if first_unseen(text).is_some() {
        Some("it has a character that nobody sees; write it anew instead of copying it")
    } else {
        None
    }
}

/// `$NAME`, and nothing else.
pub(crate) fn is_bare_variable(text: &str) -> bool {
    text.strip_prefix('$').is_some_and(|name| {
        name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
            && name
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    })
}

/// The same for a secret, if its name is one that an issuer knows: others may hold anything.
pub(crate) fn secret_suspicion(name: &str, value: &[u8]) -> Option<&'static str> {
    alphabet_of(name)?;
    let text = std::str::from_utf8(value).ok()?;
    let is_own_name = |left: &str| left.trim().eq_ignore_ascii_case(name);
    if text
        .split_once('=')
        .is_some_and(|(left, _)| is_own_name(left))
    {
        return Some(ASSIGNMENT);
    }
    suspicion(text)
}

/// E.g. `a line end (U+000A) at byte 7 of 7`.
impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {} of {}", self.what, self.byte, self.of)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control(c @ ('\n' | '\r')) => write!(f, "a line end (U+{:04X})", u32::from(*c)),
            Self::Control('\t') => write!(f, "a tab (U+0009)"),
            Self::Control(c) => write!(f, "a control character (U+{:04X})", u32::from(*c)),
            Self::Invisible(c) => write!(f, "an invisible character (U+{:04X})", u32::from(*c)),
            Self::NoBreakSpace => write!(f, "a no-break space (U+00A0)"),
            Self::Other => write!(f, "a character other than ASCII"),
            Self::NotText => write!(f, "something that is not UTF-8"),
        }
    }
}

/// The correction of an [`oddity`].
pub(crate) const STORE_WITHOUT: &str = "store it without, e.g. with `printf %s`";

/// The character in a value that the secret of this name cannot contain, with its position, for the owner of the value.
pub(crate) fn oddity(name: &str, value: &[u8]) -> Option<String> {
    odd_as(name, value).map(|odd| format!("it has {odd}, {}", no_such(name)))
}

/// As [`oddity`], for readers who must not learn how long the value is.
pub(crate) fn kind_of_oddity(name: &str, value: &[u8]) -> Option<String> {
    odd_as(name, value).map(|odd| format!("it has {}, {}", odd.kind(), no_such(name)))
}

fn no_such(name: &str) -> String {
    format!("which no `{name}` can have (RFC 6749, appendix A)")
}

fn odd_as(name: &str, value: &[u8]) -> Option<Odd> {
    alphabet_of(name)?.odd(value)
}

/// The alphabet that OAuth 2.0 defines for the value of this name (RFC 6749, appendix A); others are any bytes.
fn alphabet_of(name: &str) -> Option<Alphabet> {
    match name {
        "client_id" | "client_secret" | "code" | "access_token" | "refresh_token" => {
            Some(Alphabet::Visible)
        }
        "username" | "password" => Some(Alphabet::OneLine),
        _ => None,
    }
}

/// A URL with a user or password before its host.
pub(crate) fn has_userinfo(text: &str) -> bool {
    text.split_once("://").is_some_and(|(_, rest)| {
        rest.split(['/', '?', '#'])
            .next()
            .is_some_and(|authority| authority.contains('@'))
    })
}

/// Whether `text` contains something like a variable reference: `${NAME}`, `${NAME:-default}`, `$(NAME)`. References are not
/// expanded here.
pub(crate) fn has_variable(text: &str) -> bool {
    text.match_indices('$').any(|(at, _)| {
        let rest = text.get(at + 1..).unwrap_or_default();
        let Some(name) = rest.strip_prefix(['{', '(']) else {
            return false;
        };
        let length = name
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(name.len());
        let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        starts
            && name
                .get(length..)
                .is_some_and(|rest| rest.starts_with(['}', ')', ':']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_before_and_one_line_end_behind_are_not_meant() {
        for (bytes, expected) in [
            (&b"abc"[..], &b"abc"[..]),
            (b"abc\n", b"abc"),
            (b"abc\r\n", b"abc"),
            (b"\xef\xbb\xbfabc\r\n", b"abc"),
            (b"\xef\xbb\xbf", b""),
            (b"abc\n\n", b"abc\n"),
            (b"\nabc\n", b"\nabc"),
            (b"abc\r", b"abc\r"),
            (b" abc ", b" abc "),
            (b"\n", b""),
            (b"", b""),
            // Random keys.
            (b"\xff\xfe\x01\x02", b"\xff\xfe\x01\x02"),
            (b"\xff\xfea\0\0\0", b"\xff\xfea\0\0\0"),
            (b"\0\x01\0\x02", b"\0\x01\0\x02"),
        ] {
            assert_eq!(meant(bytes), Ok(expected), "{}", bytes.escape_ascii());
        }
        for bytes in [
            &b"\xff\xfea\0b\0\n\0"[..],
            b"\xfe\xff\0a\0b",
            b"a\0b\0c\0d\0",
            b"\0a\0b\0c\0\n",
        ] {
            assert_eq!(meant(bytes), Err(Utf16), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_cannot_be_in_a_text_is_named_and_its_characters_are_not() {
        use Alphabet::{OneLine, Visible};
        for (alphabet, bytes, expected) in [
            (Visible, &b"s3cret with a blank ~"[..], None),
            (
                Visible,
                b"abc\n",
                Some("a line end (U+000A) at byte 4 of 4"),
            ),
            (
                Visible,
                b"\rabc",
                Some("a line end (U+000D) at byte 1 of 4"),
            ),
            (Visible, b"a\tb", Some("a tab (U+0009) at byte 2 of 3")),
            (
                Visible,
                b"ab\0",
                Some("a control character (U+0000) at byte 3 of 3"),
            ),
            (
                Visible,
                b"a\x7f",
                Some("a control character (U+007F) at byte 2 of 2"),
            ),
            (
                Visible,
                "abc\u{e4}".as_bytes(),
                Some("a character other than ASCII at byte 4 of 5"),
            ),
            (
                Visible,
                "abc\u{200b}".as_bytes(),
                Some("an invisible character (U+200B) at byte 4 of 6"),
            ),
            (
                Visible,
                "abc\u{a0}".as_bytes(),
                Some("a no-break space (U+00A0) at byte 4 of 5"),
            ),
            (
                Visible,
                "\u{85}".as_bytes(),
                Some("a control character (U+0085) at byte 1 of 2"),
            ),
            (
                Visible,
                b"ab\xff",
                Some("something that is not UTF-8 at byte 3 of 3"),
            ),
            (OneLine, "p\u{e4}ss w\u{f6}rd".as_bytes(), None),
            (OneLine, b"a\nb", Some("a line end (U+000A) at byte 2 of 3")),
        ] {
            let odd = alphabet.odd(bytes).map(|odd| odd.to_string());
            assert_eq!(odd.as_deref(), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_hardly_anybody_means_is_suspicious_and_what_issuers_hand_out_is_not() {
        for (text, expected) in [
            ("'abc'", Some("quotes")),
            ("\"abc\"", Some("quotes")),
            ("${SECRET}", Some("variable")),
            ("$(SECRET)", Some("variable")),
            ("$SECRET", Some("variable")),
            ("{{ .Values.secret }}", Some("braces")),
            ("{{secret}}", Some("braces")),
            ("<client-id>", Some("placeholder")),
            (" abc", Some("blank")),
            ("abc ", Some("blank")),
            ("CLIENT_SECRET=abc", Some("NAME=value")),
            ("{\"client_secret\":\"abc\"}", Some("JSON")),
            ("ab\u{2060}c", Some("nobody sees")),
            ("\u{202e}abc", Some("nobody sees")),
            ("abc", None),
            ("a b", None),
            ("<a>b</a>", None),
            ("<>", None),
            ("a<b>", None),
            ("it's \"so\"", None),
            ("'", None),
            ("a$b", None),
            ("$2b$12$abc", None),
            ("$ecret", None),
            ("S3CR3T==", None),
            ("AB_C=", None),
            ("a_b=c", None),
            ("}}{{", None),
            ("{abc}", None),
            (
                "\u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}",
                None,
            ),
        ] {
            let found = suspicion(text);
            assert_eq!(found.is_some(), expected.is_some(), "{text}: {found:?}");
            if let (Some(found), Some(expected)) = (found, expected) {
                assert!(found.contains(expected), "{text}: {found}");
            }
        }
        assert!(secret_suspicion("client_secret", b"'abc'").is_some());
        assert_eq!(
            secret_suspicion("client_secret", b"client_secret=\"abc\""),
            Some(ASSIGNMENT)
        );
        assert_eq!(secret_suspicion("client_secret", b"ab=\"c"), None);
        assert_eq!(secret_suspicion("private_key", b"'abc'"), None);
        assert_eq!(secret_suspicion("client_secret", b"'\xff'"), None);
    }

    #[test]
    fn a_variable_is_seen_wherever_it_stands() {
        for (text, expected) in [
            ("${X}", true),
            ("https://${HOST}/token", true),
            ("${X:-default}", true),
            ("$(CLIENT_ID)", true),
            ("$X", false),
            ("a$", false),
            ("${", false),
            ("${}", false),
            ("${a b}", false),
            ("$2b$12$abc", false),
            ("{{ token }}", false),
        ] {
            assert_eq!(has_variable(text), expected, "{text}");
        }
    }
}

//! Redacts secrets in text from plugins: log lines, failure messages and panics.
//!
//! A secret is found in plain text and in the encodings in which requests carry it. This protects against mistakes of plugins,
//! not against hostile ones: a plugin that may read a value can encode it in a way that is not searched for. Against those,
//! values stay in handles.

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

use zeroize::Zeroizing;

use super::spelling::{MIN_SECRET_BYTES, Spellings, spell};
use crate::printable::printable;
use crate::worker;

/// The replacement of a secret.
pub const REDACTED: &str = "[redacted]";

/// The replacement of a text when there were too many secrets to search for.
pub const WITHHELD: &str =
    "(not shown: this call saw more secrets than could be taken out of its text)";

/// The longest text that is kept, in bytes: a screenful. More is of no use and fills logs and status.
pub const MAX_TEXT_BYTES: usize = 4096;

/// How much of a text is searched: the part that is kept, and some more, so that a secret that is cut at the end of the part is
/// found.
const WINDOW_BYTES: usize = MAX_TEXT_BYTES + 64;

/// Secrets, and lines of key files, that are searched for. A call that opens all it can has 256, a key file of 4096 bits some 50
/// lines.
pub const MAX_SECRETS: usize = 1024;

/// Bytes of these. Their encodings have ten times as many, and take some milliseconds to make.
const MAX_SECRETS_BYTES: usize = 128 << 10;

/// Lines of a key file are searched for one by one from this length on; a shorter line is of no use to an attacker.
const MIN_LINE_BYTES: usize = 16;

/// The secrets to redact. Wiped when dropped, but for the first bytes of each encoding.
#[derive(Default)]
pub struct Scrubber {
    secrets: HashSet<SecretPattern>,
    bytes: usize,
    /// Whether there are too many secrets to search for: then no text is shown, since it may contain any of them.
    overflowed: bool,
    /// Made when the first text is scrubbed: most calls log nothing.
    spellings: OnceLock<Spellings>,
}

/// A secret, or the beginning of one that is longer than any text; or a line of a key file.
#[derive(PartialEq, Eq)]
struct SecretPattern {
    bytes: Zeroizing<Vec<u8>>,
    is_line: bool,
}

impl Hash for SecretPattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
        self.is_line.hash(state);
    }
}

/// Shows how many secrets there are, and none of them.
impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrubber")
            .field("secrets", &self.secrets.len())
            .finish()
    }
}

impl Scrubber {
    /// Searches for `secret` from now on: plain, base64 (also inside a longer text), base64url, hex, form- and percent-encoded,
    /// JSON- and XML-escaped, and for the long lines of a multi-line one. Beyond [`MAX_SECRETS`] no text is shown any more.
    pub fn add(&mut self, secret: &[u8]) {
        self.look_for(secret, false);
        worker::aside_if_large(secret.len(), || self.look_for_lines(secret));
    }

    fn look_for_lines(&mut self, secret: &[u8]) {
        if secret.contains(&b'\n') {
            let lines = secret.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            for line in lines.filter(|line| is_telling(line)) {
                self.look_for(line, true);
            }
        }
    }

    fn look_for(&mut self, bytes: &[u8], is_line: bool) {
        if self.overflowed || bytes.len() < MIN_SECRET_BYTES {
            return;
        }
        // A secret longer than the window is found because it reaches the window's end.
        let bytes = bytes.get(..=WINDOW_BYTES).map_or(bytes, whole_characters);
        let piece = SecretPattern {
            bytes: Zeroizing::new(bytes.to_vec()),
            is_line,
        };
        if !self.secrets.insert(piece) {
            return;
        }
        self.bytes += bytes.len();
        self.spellings = OnceLock::new();
        if self.secrets.len() > MAX_SECRETS || self.bytes > MAX_SECRETS_BYTES {
            self.overflowed = true;
            self.secrets = HashSet::new();
        }
    }

    /// `text` without secrets and control characters, cut to [`MAX_TEXT_BYTES`].
    #[must_use]
    pub fn scrub(&self, text: &str) -> String {
        if self.overflowed {
            return WITHHELD.to_owned();
        }
        if text.is_empty() {
            // Most artifacts have no name, and need no encodings.
            return String::new();
        }
        let window = text
            .get(..text.floor_char_boundary(WINDOW_BYTES))
            .unwrap_or(text);
        let is_cut = window.len() < text.len();
        // Done before the search: a secret may be interrupted by control characters.
        let window = printable(window);
        let spellings = self.spellings.get_or_init(|| self.spelled());
        let scrubbed = match is_cut {
            true => spellings.replace_in_cut(&window, REDACTED).into(),
            false => spellings.replace(window.as_bytes(), REDACTED),
        };
        // Encodings of text are text, so the text around them stays valid.
        truncated(String::from_utf8_lossy(&scrubbed).into_owned(), is_cut)
    }

    /// All encodings as they are in printable text.
    fn spelled(&self) -> Spellings {
        worker::aside_if_large(self.bytes, || {
            let mut spellings = Vec::new();
            let mut add = |spelling: Zeroizing<Vec<u8>>| {
                if let Ok(text) = std::str::from_utf8(&spelling) {
                    let text = printable(text).into_owned();
                    spellings.push(Zeroizing::new(text.into_bytes()));
                }
            };
            for SecretPattern { bytes, is_line } in &self.secrets {
                match is_line {
                    true => add(bytes.clone()),
                    false => spell(bytes, &mut add),
                }
            }
            Spellings::exactly(spellings)
        })
    }
}

/// Without an incomplete character at the end.
fn whole_characters(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => {
            bytes.get(..error.valid_up_to()).unwrap_or(bytes)
        }
        _ => bytes,
    }
}

/// Whether a line of a key file is secret by itself; PEM's markers are the same in all of them.
fn is_telling(line: &[u8]) -> bool {
    line.len() >= MIN_LINE_BYTES && !line.starts_with(b"-----")
}

fn truncated(mut text: String, was_cut: bool) -> String {
    const ELLIPSIS: char = '…';
    let room = MAX_TEXT_BYTES - ELLIPSIS.len_utf8();
    if was_cut || text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(room));
        text.push(ELLIPSIS);
    }
    text
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64_NOPAD;
    use proptest::prelude::*;

    use super::*;
    use crate::capability::encoding::Encoding;

    fn scrubber(secret: &str) -> Scrubber {
        let mut scrubber = Scrubber::default();
        scrubber.add(secret.as_bytes());
        scrubber
    }

    #[test]
    fn a_secret_is_taken_out_in_every_spelling() {
        let secret = "s3cr&t \"va+lue\"";
        let scrubber = scrubber(secret);
        for text in [
            "s3cr&t \"va+lue\"".to_owned(),
            "s3cr%26t+%22va%2Blue%22".to_owned(),
            "s3cr%26t%20%22va%2Blue%22".to_owned(),
            "s3cr&t \\\"va+lue\\\"".to_owned(),
            "s3cr&amp;t &quot;va+lue&quot;".to_owned(),
            data_encoding::HEXLOWER.encode(secret.as_bytes()),
            data_encoding::HEXUPPER.encode(secret.as_bytes()),
        ] {
            assert_eq!(
                scrubber.scrub(&format!("<{text}>")),
                "<[redacted]>",
                "{text}"
            );
        }
    }

    #[test]
    fn a_secret_inside_a_longer_base64_text_leaves_only_its_edges() {
        let secret = "correct horse battery";
        let scrubber = scrubber(secret);
        for prefix in ["", "a", "ab", "abc", "client:"] {
            for suffix in ["", ":", "zz"] {
                let text = BASE64_NOPAD.encode(format!("{prefix}{secret}{suffix}").as_bytes());
                let scrubbed = scrubber.scrub(&text);
                assert!(scrubbed.contains(REDACTED), "{prefix}|{suffix}: {scrubbed}");
                assert!(
                    scrubbed.len() - REDACTED.len() <= text.len() - secret.len() * 8 / 6 + 2,
                    "{prefix}|{suffix}: {scrubbed}"
                );
            }
        }
    }

    #[test]
    fn a_key_file_is_taken_out_line_by_line() {
        let pem = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEG\nAgEBBG0wawIBAQQgxAoefnZL\n-----END PRIVATE KEY-----\n";
        let scrubber = scrubber(pem);
        for text in [
            format!("{pem:?}"),
            pem.replace('\n', " "),
            "MIGHAgEAMBMGByqGSM49AgEG".to_owned(),
        ] {
            let scrubbed = scrubber.scrub(&text);
            assert!(
                !scrubbed.contains("MIGH") && !scrubbed.contains("AgEBB"),
                "{scrubbed}"
            );
        }
    }

    #[test]
    fn a_secret_interrupted_by_control_characters_is_taken_out() {
        assert_eq!(
            scrubber("hunter22").scrub("is hun\u{7}ter\u{200e}22!"),
            "is [redacted]!"
        );
    }

    #[test]
    fn one_line_stays_one_line_and_long_text_is_cut_at_a_character() {
        let scrubber = Scrubber::default();
        assert_eq!(scrubber.scrub("a\r\nb\u{1b}[31m\tc\u{202e}"), "a  b[31m c");
        let cut = scrubber.scrub(&"é".repeat(MAX_TEXT_BYTES));
        assert!(
            cut.len() <= MAX_TEXT_BYTES && cut.ends_with("é…"),
            "{}",
            cut.len()
        );
    }

    #[test]
    fn a_cut_lets_no_beginning_of_a_secret_through() {
        for secret in [
            "tiny!".to_owned(),
            "twelve-bytes".to_owned(),
            "a key of é, and more".repeat(5),
            (0..2000).map(|n| n.to_string()).collect(),
        ] {
            let scrubber = scrubber(&secret);
            let most = WINDOW_BYTES + 16;
            for before in most.saturating_sub(secret.len().min(200) + 200)..most {
                let text = format!("{}{secret}{}", "x".repeat(before), "y".repeat(most));
                let scrubbed = scrubber.scrub(&text);
                let left = scrubbed.trim_start_matches('x');
                assert!(
                    REDACTED.starts_with(left.trim_end_matches('…')) || left.starts_with(REDACTED),
                    "{before} bytes, then {} bytes of secret: {left}",
                    secret.len()
                );
                assert!(scrubbed.len() <= MAX_TEXT_BYTES);
            }
        }
    }

    #[test]
    fn a_secret_that_is_longer_than_any_text_is_taken_out_as_far_as_it_goes() {
        let secret: String = (0..3000).map(|n| format!("{n:x}/")).collect();
        let scrubber = scrubber(&secret);
        for text in [
            format!("it is {secret}"),
            format!("it is {secret} and {secret}"),
        ] {
            assert_eq!(scrubber.scrub(&text), "it is …");
        }
    }

    #[test]
    fn beyond_the_bounds_no_text_is_shown() {
        let many = |count: usize, length: usize| {
            let mut scrubber = Scrubber::default();
            for n in 0..count {
                scrubber.add(format!("{n}{}", "s".repeat(length)).as_bytes());
            }
            scrubber
        };
        assert_eq!(many(MAX_SECRETS, 16).scrub("a text"), "a text");
        assert_eq!(many(MAX_SECRETS + 1, 16).scrub("a text"), WITHHELD);
        assert_eq!(many(32, 1 << 20).scrub("a text"), WITHHELD);
        // Adding the same secret again changes nothing.
        let mut repeated = Scrubber::default();
        for _ in 0..=MAX_SECRETS {
            repeated.add(b"the same one");
        }
        assert_eq!(repeated.scrub("is the same one"), "is [redacted]");
    }

    #[test]
    fn very_short_values_are_left_alone() {
        assert_eq!(scrubber("abc").scrub("abcdef"), "abcdef");
    }

    proptest! {
        #[test]
        fn no_secret_is_left(
            secrets in proptest::collection::vec("[ -~äöü&\"\\\\]{4,40}", 1..4),
            noise in "[a-z \\n]{0,20}",
        ) {
            let mut scrubber = Scrubber::default();
            let mut text = noise.clone();
            for secret in &secrets {
                scrubber.add(secret.as_bytes());
                for encoding in [Encoding::Raw, Encoding::Form, Encoding::Percent, Encoding::Json, Encoding::Base64, Encoding::Base64Url, Encoding::Hex] {
                    let spelled = encoding.encode(secret.as_bytes()).unwrap();
                    text.push_str(std::str::from_utf8(&spelled).unwrap());
                    text.push_str(&noise);
                }
            }
            let scrubbed = scrubber.scrub(&text).replace(REDACTED, "\u{1}");
            for secret in &secrets {
                prop_assert!(!scrubbed.contains(secret.as_str()), "{secret:?} in {scrubbed:?}");
                for encoding in [Encoding::Form, Encoding::Percent, Encoding::Json, Encoding::Hex] {
                    let spelled = encoding.encode(secret.as_bytes()).unwrap();
                    let spelled = std::str::from_utf8(&spelled).unwrap();
                    prop_assert!(!scrubbed.contains(spelled), "{spelled:?} in {scrubbed:?}");
                }
            }
        }
    }
}

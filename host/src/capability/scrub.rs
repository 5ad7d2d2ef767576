//! Takes secrets out of text that somebody else wrote: log lines, failure messages and panics of plugins.
//!
//! A secret is looked for as it is and in the spellings in which requests carry it. This is a net under careful plugins, not a
//! wall against hostile ones: whoever may read a value can spell it in a way that nobody looks for. The wall is that values
//! stay in handles.

use std::fmt;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::encoding::Encoding;

/// What stands where a secret stood.
pub const REDACTED: &str = "[redacted]";

/// The longest text that is kept, in bytes: a screenful. More helps nobody and fills logs and status.
pub const MAX_TEXT_BYTES: usize = 4096;

/// Shorter values are not looked for: they are in any text by chance, and taking them out would tell where.
pub const MIN_SECRET_BYTES: usize = 4;

/// Lines of a key file are looked for one by one from this length on; a shorter line is no use to a thief.
const MIN_LINE_BYTES: usize = 16;

/// The secrets to take out. Wiped when dropped.
#[derive(Clone, Default)]
pub struct Scrubber {
    secrets: Vec<Zeroizing<Vec<u8>>>,
    /// Spelled when there is a first text to scrub: most calls say nothing.
    spellings: OnceLock<Spellings>,
}

/// How many secrets it knows, none of them.
impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrubber")
            .field("secrets", &self.secrets.len())
            .finish()
    }
}

impl Scrubber {
    /// Looks for `secret` from now on: plain, base64 (also inside a longer text), base64url, hex, form- and percent-encoded,
    /// JSON- and XML-escaped, and the long lines of one with several.
    pub fn add(&mut self, secret: &[u8]) {
        if secret.len() >= MIN_SECRET_BYTES && !self.secrets.iter().any(|known| **known == secret) {
            self.secrets.push(Zeroizing::new(secret.to_vec()));
            self.spellings = OnceLock::new();
        }
    }

    /// `text` without secrets and control characters, cut to [`MAX_TEXT_BYTES`].
    #[must_use]
    pub fn scrub(&self, text: &str) -> String {
        let spellings = self.spellings.get_or_init(|| Spellings::of(&self.secrets));
        let without_secrets = spellings.redact(text);
        let printable = printable(&without_secrets);
        truncated(if printable == without_secrets {
            printable
        } else {
            // A secret may have been interrupted by control characters, so that it is whole only now.
            spellings.redact(&printable)
        })
    }
}

/// What is looked for.
#[derive(Clone, Default)]
struct Spellings(Vec<Zeroizing<String>>);

impl Spellings {
    fn of(secrets: &[Zeroizing<Vec<u8>>]) -> Self {
        let mut spellings = Self::default();
        for secret in secrets {
            spellings.add(secret);
        }
        spellings
    }

    fn add(&mut self, secret: &[u8]) {
        for encoding in [
            Encoding::Raw,
            Encoding::Form,
            Encoding::Percent,
            Encoding::Json,
            Encoding::Xml,
            Encoding::Hex,
        ] {
            // A value without such a spelling cannot appear in it.
            if let Ok(spelling) = encoding.encode(secret) {
                self.look_for(&spelling);
            }
        }
        self.look_for(Zeroizing::new(data_encoding::HEXUPPER.encode(secret)).as_bytes());
        for offset in 0..3 {
            let (standard, url) = inside_base64(secret, offset);
            self.look_for(standard.as_bytes());
            self.look_for(url.as_bytes());
        }
        if secret.contains(&b'\n') {
            let lines = secret.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            for line in lines.filter(|line| is_telling(line)) {
                self.look_for(line);
            }
        }
    }

    fn look_for(&mut self, spelling: &[u8]) {
        let Ok(text) = std::str::from_utf8(spelling) else {
            return;
        };
        if text.len() >= MIN_SECRET_BYTES && !self.0.iter().any(|known| **known == text) {
            self.0.push(Zeroizing::new(text.to_owned()));
        }
    }

    fn redact(&self, text: &str) -> String {
        let mut hits: Vec<(usize, usize)> = self
            .0
            .iter()
            // Getting ready to look for a long one costs more than looking.
            .filter(|spelling| spelling.len() <= text.len())
            .flat_map(|spelling| text.match_indices(spelling.as_str()))
            .map(|(start, hit)| (start, start + hit.len()))
            .collect();
        hits.sort_unstable();
        let mut kept = String::with_capacity(text.len());
        let mut end = 0;
        for (start, stop) in hits {
            if start >= end {
                kept.push_str(text.get(end..start).unwrap_or_default());
                kept.push_str(REDACTED);
            }
            end = end.max(stop);
        }
        kept.push_str(text.get(end..).unwrap_or_default());
        kept
    }
}

/// The characters that `secret` alone decides when it stands `offset` bytes into a group of three: whatever stands before and
/// after it, these are in the text.
fn inside_base64(secret: &[u8], offset: usize) -> (Zeroizing<String>, Zeroizing<String>) {
    let mut padded = Zeroizing::new(vec![0; offset]);
    padded.extend_from_slice(secret);
    let first = (offset * 8).div_ceil(6);
    let last = padded.len() * 8 / 6;
    let inside = |text: String| {
        let text = Zeroizing::new(text);
        Zeroizing::new(text.get(first..last).unwrap_or_default().to_owned())
    };
    (
        inside(STANDARD_NO_PAD.encode(&*padded)),
        inside(URL_SAFE_NO_PAD.encode(&*padded)),
    )
}

/// Whether a line of a key file is worth hiding by itself; the armour of PEM is the same in all of them.
fn is_telling(line: &[u8]) -> bool {
    line.len() >= MIN_LINE_BYTES && !line.starts_with(b"-----")
}

/// Line ends and tabs become spaces, so that a line stays a line; other control characters, and those that reorder text,
/// go.
fn printable(text: &str) -> String {
    text.chars()
        .filter_map(|character| match character {
            '\n' | '\r' | '\t' => Some(' '),
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => None,
            other if other.is_control() => None,
            other => Some(other),
        })
        .collect()
}

fn truncated(mut text: String) -> String {
    const ELLIPSIS: char = '…';
    if text.len() > MAX_TEXT_BYTES {
        let room = MAX_TEXT_BYTES - ELLIPSIS.len_utf8();
        let cut = (0..=room)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or_default();
        text.truncate(cut);
        text.push(ELLIPSIS);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
                let text = STANDARD_NO_PAD.encode(format!("{prefix}{secret}{suffix}"));
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

//! Finds secrets in untrusted text, in all the encodings in which requests and answers carry them, in time that grows with the
//! text and not with the secrets.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD};
use memchr::memmem;
use zeroize::Zeroizing;

use super::encoding::Encoding;
use crate::worker;

/// Shorter values are not searched for: they are in any text by chance, and redacting them would reveal them.
pub const MIN_SECRET_BYTES: usize = 4;

/// The automaton searches for this many bytes of each encoding; the rest of a match is compared. Few, because a small automaton
/// is built quickly, and because it cannot be wiped when it is dropped, unlike the encodings.
const HEAD_BYTES: usize = 8;

/// Comparing a match is so many times as fast as other work on bytes.
const COMPARING_IS_FASTER: usize = 8;

/// The values to search for. Wiped when dropped, but for the first bytes of each encoding.
pub struct Spellings {
    /// Sorted and unique, so that those with the same head are adjacent.
    spellings: Vec<Zeroizing<Vec<u8>>>,
    /// Per pattern of the automaton.
    groups: Vec<Range<usize>>,
    /// Finds heads; none: there are too many patterns for an automaton, and everything counts as found.
    heads: Option<AhoCorasick>,
}

/// The occurrences in a text.
struct Occurrences {
    /// Sorted and disjoint.
    places: Vec<Range<usize>>,
    /// The first place where an encoding begins that would continue beyond the end of the text.
    cut_short: Option<usize>,
}

/// The heads found in a text.
#[derive(Default)]
struct Begun {
    /// Occurrences of encodings that are no longer than a head.
    places: Vec<Range<usize>>,
    /// The first place of each pattern's head.
    first_heads: BTreeMap<usize, usize>,
    cut_short: Option<usize>,
}

impl Spellings {
    /// Searches for exactly these bytes.
    pub(super) fn exactly(mut spellings: Vec<Zeroizing<Vec<u8>>>) -> Self {
        spellings.retain(|spelling| spelling.len() >= MIN_SECRET_BYTES);
        spellings.sort_unstable_by(|one, other| one.as_slice().cmp(other));
        spellings.dedup();
        let mut groups: Vec<Range<usize>> = Vec::new();
        let mut known: Option<&[u8]> = None;
        for (index, spelling) in spellings.iter().enumerate() {
            let head = head(spelling);
            match groups.last_mut() {
                Some(group) if known == Some(head) => group.end = index + 1,
                _ => groups.push(index..index + 1),
            }
            known = Some(head);
        }
        let heads = groups
            .iter()
            .filter_map(|group| spellings.get(group.start))
            .map(|spelling| head(spelling));
        // The other kinds of automaton take longer to build than to use for one text.
        let heads = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::NoncontiguousNFA))
            .prefilter(false)
            .build(heads)
            .ok();
        Self {
            spellings,
            groups,
            heads,
        }
    }

    /// `text` with `marker` in place of each occurrence.
    #[must_use]
    pub fn replace<'t>(&self, text: &'t [u8], marker: &str) -> Cow<'t, [u8]> {
        let places = self.find(text).places;
        if places.is_empty() {
            return Cow::Borrowed(text);
        }
        Cow::Owned(replaced(text, &places, marker))
    }

    /// The same for a text that was cut at its end: also removes the part of a secret that was cut.
    pub(super) fn replace_in_cut(&self, text: &str, marker: &str) -> Vec<u8> {
        let Occurrences { places, cut_short } = self.find(text.as_bytes());
        // A beginning that is shorter than a head is not found by it.
        let edge = text.len().saturating_sub(HEAD_BYTES);
        let end = text.floor_char_boundary(cut_short.map_or(edge, |at| at.min(edge)));
        let before = places.partition_point(|place| place.end <= end);
        let (whole, beyond) = places.split_at(before);
        let end = beyond.first().map_or(end, |place| place.start.min(end));
        replaced(
            text.as_bytes().get(..end).unwrap_or_default(),
            whole,
            marker,
        )
    }

    /// The places of all occurrences, sorted; overlapping ones are merged.
    pub(super) fn places(&self, text: &[u8]) -> Vec<Range<usize>> {
        self.find(text).places
    }

    /// All occurrences; overlapping ones are merged.
    fn find(&self, text: &[u8]) -> Occurrences {
        let Some(heads) = &self.heads else {
            return Occurrences {
                places: Vec::from_iter((!text.is_empty()).then_some(0..text.len())),
                cut_short: None,
            };
        };
        let mut found = worker::aside_if_large(text.len(), || self.begun(heads, text));
        let whole = &mut found.places;
        let work: usize = found
            .first_heads
            .iter()
            .map(|(pattern, at)| self.group(*pattern).len() * (text.len() - at))
            .sum();
        worker::aside_if_large(work / COMPARING_IS_FASTER, || {
            for (pattern, at) in found.first_heads {
                self.compare(pattern, at, text, whole);
            }
        });
        Occurrences {
            places: joined(found.places),
            cut_short: found.cut_short,
        }
    }

    /// Finds heads.
    fn begun(&self, heads: &AhoCorasick, text: &[u8]) -> Begun {
        let mut begun = Begun::default();
        for hit in heads.find_overlapping_iter(text) {
            if hit.len() < HEAD_BYTES {
                begun.places.push(hit.range());
                continue;
            }
            let (pattern, at) = (hit.pattern().as_usize(), hit.start());
            let goes_on = |spelling: &Zeroizing<Vec<u8>>| at + spelling.len() > text.len();
            if begun.cut_short.is_none() && self.group(pattern).iter().any(goes_on) {
                begun.cut_short = Some(at);
            }
            begun.first_heads.entry(pattern).or_insert(at);
        }
        begun
    }

    /// Finds the encodings of a group whose head is in `text`, for the first time at `from`.
    fn compare(&self, pattern: usize, from: usize, text: &[u8], places: &mut Vec<Range<usize>>) {
        let rest = text.get(from..).unwrap_or_default();
        // Preparing the search for a long one costs more than the search itself.
        for spelling in self.group(pattern).iter().filter(|s| s.len() <= rest.len()) {
            let found = memmem::find_iter(rest, spelling.as_slice());
            places.extend(found.map(|at| from + at..from + at + spelling.len()));
        }
    }

    fn group(&self, pattern: usize) -> &[Zeroizing<Vec<u8>>] {
        self.groups
            .get(pattern)
            .and_then(|group| self.spellings.get(group.clone()))
            .unwrap_or_default()
    }
}

fn head(spelling: &[u8]) -> &[u8] {
    spelling.get(..HEAD_BYTES).unwrap_or(spelling)
}

fn replaced(text: &[u8], places: &[Range<usize>], marker: &str) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(text.len());
    let mut end = 0;
    for place in places {
        replaced.extend_from_slice(text.get(end..place.start).unwrap_or_default());
        replaced.extend_from_slice(marker.as_bytes());
        end = place.end;
    }
    replaced.extend_from_slice(text.get(end..).unwrap_or_default());
    replaced
}

fn joined(mut places: Vec<Range<usize>>) -> Vec<Range<usize>> {
    places.sort_unstable_by_key(|place| place.start);
    places.dedup_by(|next, before| {
        let overlap = next.start < before.end;
        if overlap {
            before.end = before.end.max(next.end);
        }
        overlap
    });
    places
}

/// Passes every encoding of `secret` to `found`.
pub(super) fn spell(secret: &[u8], found: &mut dyn FnMut(Zeroizing<Vec<u8>>)) {
    for encoding in [
        Encoding::Raw,
        Encoding::Form,
        Encoding::Percent,
        Encoding::Json,
        Encoding::Xml,
        Encoding::Hex,
    ] {
        // A value that cannot be encoded cannot appear in this encoding.
        let Ok(spelling) = encoding.encode(secret) else {
            continue;
        };
        if matches!(encoding, Encoding::Form | Encoding::Percent) {
            // RFC 3986 §2.1 has upper case for writing, and both for reading.
            found(lower_case_escapes(&spelling));
        }
        found(spelling);
    }
    let upper = data_encoding::HEXUPPER.encode(secret);
    found(Zeroizing::new(upper.into_bytes()));
    for offset in 0..3 {
        let (standard, url) = inside_base64(secret, offset);
        found(standard);
        found(url);
    }
}

fn lower_case_escapes(spelling: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut lower = Zeroizing::new(spelling.to_vec());
    let mut digits = 0;
    for byte in lower.iter_mut() {
        if *byte == b'%' {
            digits = 2;
        } else if digits > 0 {
            byte.make_ascii_lowercase();
            digits -= 1;
        }
    }
    lower
}

/// The base64 characters that are determined by `secret` alone when it begins `offset` bytes into a group of three: they are in
/// the text whatever is before and after it.
pub(super) fn inside_base64(
    secret: &[u8],
    offset: usize,
) -> (Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>) {
    let mut padded = Zeroizing::new(vec![0; offset]);
    padded.extend_from_slice(secret);
    let first = (offset * 8).div_ceil(6);
    let last = padded.len() * 8 / 6;
    let inside = |text: String| {
        let text = Zeroizing::new(text);
        let inside = text.as_bytes().get(first..last).unwrap_or_default();
        Zeroizing::new(inside.to_vec())
    };
    (
        inside(BASE64_NOPAD.encode(&padded)),
        inside(BASE64URL_NOPAD.encode(&padded)),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spellings_of(secrets: &[&[u8]]) -> Spellings {
        let mut spellings = Vec::new();
        for secret in secrets {
            spell(secret, &mut |spelling| spellings.push(spelling));
        }
        Spellings::exactly(spellings)
    }

    fn replaced(secrets: &[&str], text: &str) -> String {
        let secrets: Vec<&[u8]> = secrets.iter().map(|secret| secret.as_bytes()).collect();
        let spellings = spellings_of(&secrets);
        String::from_utf8(spellings.replace(text.as_bytes(), "#").into_owned()).unwrap()
    }

    #[test]
    fn each_occurrence_is_replaced_whole() {
        let long = "a-secret-of-some-length";
        for (secrets, text, expected) in [
            (&[long][..], "x a-secret-of-some-length y", "x # y"),
            (
                &[long],
                "a-secret-of-some-lengtha-secret-of-some-length",
                "##",
            ),
            // A head alone is not an occurrence.
            (&[long], "a-secret-of-some-other", "a-secret-of-some-other"),
            (
                &[long, "a-secret-of"],
                "a-secret-of-some-other",
                "#-some-other",
            ),
            // One that begins within another.
            (&["abcdefghij", "ghijklmnop"], "<abcdefghijklmnop>", "<#>"),
            (&["1234"], "0123456789", "0#56789"),
            (&["123"], "0123456789", "0123456789"),
            (&[], "anything", "anything"),
            (&["s/e+c r"], "s%2fe%2bc%20r s%2Fe%2Bc+r", "# #"),
        ] {
            assert_eq!(replaced(secrets, text), expected, "{secrets:?} in {text:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_found_too() {
        let secret = b"\xff\x00\xfe binary secret";
        let spellings = spellings_of(&[&secret[..]]);
        let text = [b"<", &secret[..], b">\xff"].concat();
        assert_eq!(*spellings.replace(&text, "#"), *b"<#>\xff");
        let hex = data_encoding::HEXLOWER.encode(secret);
        assert_eq!(*spellings.replace(hex.as_bytes(), "#"), *b"#");
    }

    proptest! {
        /// The result is that of searching for each encoding at each place.
        #[test]
        fn what_is_found_is_what_is_there(
            secrets in proptest::collection::vec("[ab%]{4,12}", 0..4),
            text in "[ab%]{0,60}",
        ) {
            let spellings: Vec<_> = secrets.iter().map(|secret| Zeroizing::new(secret.clone().into_bytes())).collect();
            let mut there = vec![false; text.len()];
            for secret in &secrets {
                // Up to the first, from there to the next, and so on.
                for (at, _) in text.match_indices(secret.as_str()) {
                    there[at..at + secret.len()].fill(true);
                }
            }
            let mut found = vec![false; text.len()];
            for place in Spellings::exactly(spellings).find(text.as_bytes()).places {
                found[place].fill(true);
            }
            for (at, there) in there.iter().enumerate() {
                prop_assert!(!there || found[at], "byte {at} of {text:?} with {secrets:?}");
            }
        }
    }
}

//! Answers that repeat what the host put into a request. The plugin reads a marker in place of each secret that it may not read.
//! A marker that the plugin passes back acts as a handle in text: in a request, a join or a successor it stands for the value
//! that it replaced, with that value's restrictions, because an issuer may legitimately send a value twice. Only the plugin's
//! view of an answer is changed, never what the journal keeps.
//!
//! A secret is found in plain text and in the usual encodings. An issuer that encodes it otherwise, or splits it, is not
//! detected.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;
use std::ops::Range;

use data_encoding::{BASE32_NOPAD, HEXUPPER};
use memchr::memmem;
use secrecy::SecretSlice;
use zeroize::Zeroizing;

use super::crypto;
use super::encoding::Encoding;
use super::http::{Request, Response};
use super::scrub::REDACTED;
use super::secrets::{MAX_SECRET_BYTES, Piece, SecretHandle, Value};
use super::spelling::{Spellings, inside_base64};
use crate::model::Origin;
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::worker;

/// Different values that one call may send. A request has one to three, and each is searched for in each answer.
pub(super) const MAX_SENT: usize = 64;

/// Bytes of these values together. Each is encoded, and searched for, for each answer.
const MAX_SENT_BYTES: usize = 2 * MAX_SECRET_BYTES;

/// A longer value is searched for in fewer encodings.
const MAX_SPELLED_BYTES: usize = 4096;

/// The encodings of a value have about so many times its bytes.
const SPELLED: usize = 16;

/// Markers of one call that stand for something.
const MAX_MARKERS: usize = 1000;

/// Bytes of the plugin's own texts of one call. Requests have some hundred bytes of them.
const MAX_WORDED_BYTES: usize = MAX_SECRET_BYTES;

/// The most markers that a token of an issuer has.
const MAX_MARKERS_IN_TOKEN: usize = 16;

/// The replacement of a secret once there are no more markers.
const WITHHELD: &str = "withheld";

/// The prefix of a marker's number, unless digits alone were replaced: a number in JSON stays one.
const PREFIX: &str = "secret-";

/// Digits of a marker that distinguish it from those of other calls, and from anything that an issuer could write.
const CALL_DIGITS: usize = 39;

/// Digits that distinguish the markers of one call.
const MARKER_DIGITS: usize = 4;

/// The values that a call has sent, and what its markers stand for.
#[derive(Default)]
pub(super) struct Echoes {
    sent: Vec<SecretHandle>,
    /// Drawn with the first marker.
    call_digits: String,
    replaced: Vec<Masked>,
    /// Tokens in answers that have markers in them.
    tokens: Vec<String>,
    /// The plugin's own texts in requests.
    worded: Vec<Vec<u8>>,
    /// Whether there were more of these than are kept.
    is_wordy: bool,
}

/// What a marker stands for.
struct Masked {
    secret: SecretHandle,
    /// Whether it has no value that the plugin composed.
    is_own: bool,
}

/// Shows how many there are and no value.
impl fmt::Debug for Echoes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Echoes")
            .field("sent", &self.sent.len())
            .field("replaced", &self.replaced.len())
            .finish_non_exhaustive()
    }
}

impl Echoes {
    /// Searches for `secret`, and for the values it was composed of, in all answers from now on.
    ///
    /// # Errors
    /// `secret.too-many`.
    pub(super) fn note_sent(&mut self, secret: &SecretHandle) -> Result<(), Failure> {
        for value in secret.ingredients() {
            let is_known = || self.sent.iter().any(|known| known.is_same(value));
            if value.lineage().revealable() || is_known() {
                continue;
            }
            let bytes: usize = self.sent.iter().map(SecretHandle::size).sum();
            if self.sent.len() == MAX_SENT || bytes + value.size() > MAX_SENT_BYTES {
                return Err(Failure::new(
                    FailureKind::Internal,
                    HostCode::SecretTooMany,
                    format!(
                        "the plugin sent more than {MAX_SENT} different secrets, or more than {MAX_SENT_BYTES} bytes of them, in one call"
                    ),
                ));
            }
            self.sent.push(value.clone());
        }
        Ok(())
    }

    /// Records the plugin's own texts in a request, for [`Echoes::published`].
    pub(super) fn note_worded(&mut self, request: &Request) {
        let known = self.worded.iter().map(Vec::len).sum::<usize>();
        let bytes = request.texts().map(<[u8]>::len).sum::<usize>();
        self.is_wordy |= known + bytes > MAX_WORDED_BYTES;
        if !self.is_wordy {
            self.worded.extend(request.texts().map(<[u8]>::to_vec));
        }
    }

    /// Whether an answer of `origin` is searched. A secret that may not be sent there cannot come from there, and searching for
    /// it would only confirm or refute a guess of the plugin's.
    pub(super) fn concern(&self, origin: &Origin) -> bool {
        self.sent_to(origin).next().is_some()
    }

    fn sent_to(&self, origin: &Origin) -> impl Iterator<Item = &SecretHandle> {
        let origin = origin.clone();
        self.sent
            .iter()
            .filter(move |secret| secret.lineage().reach().allows(&origin))
    }

    /// The cost of searching an answer, in bytes.
    pub(super) fn work(&self, response: &Response) -> usize {
        let sent = self.sent.iter();
        let spelled: usize = sent.map(|secret| SPELLED * secret.expose().len()).sum();
        response.size() + spelled
    }

    /// The answer as the plugin reads it.
    pub(super) fn marked(&mut self, origin: &Origin, mut response: Response) -> Response {
        let len = response.body.len();
        let headers = response.headers.iter().map(|(_, value)| value.len());
        let longest = headers.fold(len, usize::max);
        let sought: Vec<_> = self.sent_to(origin).cloned().collect();
        let sought = Sought::new(&sought, longest);
        if let Some(body) = self.without(&response.body, &sought) {
            self.note_tokens(&body);
            response.body = body;
        }
        let is_changed = response.body.len() != len;
        for (name, value) in &mut response.headers {
            for text in [&mut *name, value] {
                if let Some(marked) = self.without(text.as_bytes(), &sought) {
                    *text = String::from_utf8_lossy(&marked).into_owned();
                }
            }
            if is_changed && name == "content-length" {
                // The difference would reveal the secret's length.
                *value = response.body.len().to_string();
            }
        }
        response
    }

    /// A failure as the plugin reads it. Only a failure whose text may come from the other side gets markers: others have the
    /// plugin's own text, and a marker there would confirm that it is a secret's value.
    pub(super) fn marked_failure(&mut self, origin: &Origin, failure: Failure) -> Failure {
        if failure.kind != FailureKind::Unavailable {
            return failure;
        }
        let sought: Vec<_> = self.sent_to(origin).cloned().collect();
        let message = failure.message.as_bytes();
        let marked = self.without(message, &Sought::new(&sought, message.len()));
        let marked = marked.map(|marked| String::from_utf8_lossy(&marked).into_owned());
        Failure {
            message: marked.unwrap_or(failure.message),
            ..failure
        }
    }

    /// `text` with markers in place of the searched values, in plain text or decoded; none: there are none.
    fn without(&mut self, text: &[u8], sought: &Sought<'_>) -> Option<Vec<u8>> {
        let views = View::all(text);
        let hits = joined(text, views.flat_map(|view| sought.hits(&view)).collect());
        if hits.is_empty() {
            return None;
        }
        let mut replaced = Vec::with_capacity(text.len());
        let mut end = 0;
        for hit in hits {
            replaced.extend_from_slice(text.get(end..hit.place.start).unwrap_or_default());
            end = hit.place.end;
            replaced.extend_from_slice(self.marker(&hit, sought).as_bytes());
        }
        replaced.extend_from_slice(text.get(end..).unwrap_or_default());
        Some(replaced)
    }

    /// Each place gets a marker of its own: the same one for equal values would reveal that they are equal.
    fn marker(&mut self, hit: &Hit, sought: &Sought<'_>) -> String {
        let number = self.replaced.len();
        if number == MAX_MARKERS || !self.draw_call_digits() {
            return WITHHELD.to_owned();
        }
        let found = &hit.found;
        let owners = sought.owners(hit);
        let secret = match owners.as_slice() {
            [only] if only.expose() == found.as_slice() => (*only).clone(),
            owners => {
                SecretHandle::answered(SecretSlice::from(found.to_vec()), owners.iter().copied())
            }
        };
        let is_own = owners.iter().all(|owner| owner.is_own());
        self.replaced.push(Masked { secret, is_own });
        let prefix = if found.iter().all(u8::is_ascii_digit) {
            ""
        } else {
            PREFIX
        };
        format!("{prefix}{}{number:0MARKER_DIGITS$}", self.call_digits)
    }

    fn draw_call_digits(&mut self) -> bool {
        if self.call_digits.is_empty()
            && let Ok(random) = crypto::random_bytes(16)
            && let Ok(random) = <[u8; 16]>::try_from(random)
        {
            // A number in JSON must not begin with a zero.
            let digits = u128::from_be_bytes(random) % 10_u128.pow(38);
            self.call_digits = format!("1{digits:038}");
        }
        !self.call_digits.is_empty()
    }

    fn note_tokens(&mut self, body: &[u8]) {
        let mut found = Vec::new();
        if let Some(json) = evertoken_answer::json(body) {
            tokens_in("", &json, &mut found);
        } else {
            let fields = form_urlencoded::parse(body).filter(|(name, _)| is_token(name));
            found.extend(fields.map(|(_, value)| value.into_owned()));
        }
        found.retain(|text| self.has_marker(text));
        self.tokens.extend(found);
    }

    /// A text of the plugin's as it is published.
    ///
    /// A token is published as its issuer made it, also if it contains a secret: many tokens contain names of clients and users.
    /// A value that only came back from a request is not the issuer's: the plugin chose its place and its name, and formatters
    /// and other jobs read what is published.
    ///
    /// # Errors
    /// `secret.not-revealed`.
    pub(super) fn published(&self, text: &str) -> Result<String, Failure> {
        let Some(pieces) = self.pieces(text) else {
            return Ok(text.to_owned());
        };
        let token = SecretHandle::join(&pieces)?;
        let is_called_token = self.tokens.iter().any(|known| known == text);
        let is_made_by_issuer = is_called_token
            && self.may_be_issuers(text)
            && !self.is_repeated(token.expose(), &places(&pieces));
        match std::str::from_utf8(token.expose()) {
            Ok(text) if is_made_by_issuer => Ok(text.to_owned()),
            _ => Err(not_revealed(&token)),
        }
    }

    /// Whether an issuer may have made this text with markers in it: a token that contains secrets, but is not just one of them,
    /// alone or beside the plugin's own text, nor something that the plugin composed.
    pub(super) fn may_be_issuers(&self, text: &str) -> bool {
        let Some(pieces) = self.pieces(text) else {
            return true;
        };
        let of_token = |piece: &Piece| match piece {
            Piece::Text(text) => is_of_token(text.as_bytes()),
            Piece::Secret(secret, _) => is_of_token(secret.expose()),
        };
        pieces.iter().all(of_token)
            && self.has_text_of_anothers(&pieces)
            && self.markers(text).count() <= MAX_MARKERS_IN_TOKEN
            && self.markers(text).all(|marker| marker.is_own)
    }

    /// Whether the text beside the secrets has a part that the plugin did not send.
    fn has_text_of_anothers(&self, pieces: &[Piece]) -> bool {
        if self.is_wordy {
            return false;
        }
        let bytes = self.worded.iter().map(Vec::len);
        let work = pieces.len() * Escapes::READINGS.len() * bytes.sum::<usize>();
        let is_worded = |text: &str| {
            let text = memmem::Finder::new(text);
            let has_it = |view: View<'_>| text.find(&view.bytes).is_some();
            let mut worded = self.worded.iter();
            worded.any(|worded| View::all(worded).any(has_it))
        };
        let is_anothers = |piece: &Piece| match piece {
            Piece::Text(text) => {
                let text = text.trim_matches(|c: char| !c.is_ascii_alphanumeric());
                !text.is_empty() && !is_worded(text)
            }
            Piece::Secret(..) => false,
        };
        worker::aside_if_large(work, || pieces.iter().any(is_anothers))
    }

    /// A text of the plugin's that may be shown, because it contains no value that the plugin may not read.
    ///
    /// # Errors
    /// `secret.not-revealed`.
    pub(super) fn shown(&self, text: &str) -> Result<String, Failure> {
        match self.pieces(text) {
            None => Ok(text.to_owned()),
            Some(pieces) => Err(not_revealed(&SecretHandle::join(&pieces)?)),
        }
    }

    /// Whether a request had the value at one of these places of a token beside the same character, in plain text or with its
    /// escapes decoded.
    fn is_repeated(&self, token: &[u8], places: &[Range<usize>]) -> bool {
        // The plugin did not choose the values that the job lists: a refresh token may have the same claims as the access token.
        let worded = || self.sent.iter().filter(|sent| !sent.is_own());
        let bytes = worded().map(|sent| sent.expose().len());
        let work = places.len() * Escapes::READINGS.len() * bytes.sum::<usize>();
        let has_one = |view: View<'_>| {
            places
                .iter()
                .any(|place| is_beside_the_same(token, place, &view.bytes))
        };
        worker::aside_if_large(work, || {
            let mut worded = worded();
            worded.any(|sent| View::all(sent.expose()).any(has_one))
        })
    }

    /// The value with its markers replaced by the values that they stand for.
    ///
    /// # Errors
    /// `secret.too-large`.
    pub(super) fn put_back(&self, value: Value) -> Result<Value, Failure> {
        let text = match &value {
            Value::Text(text) => Some(text.as_str()),
            Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            Value::Secret(_) => None,
        };
        match text.and_then(|text| self.pieces(text)).as_deref() {
            None => Ok(value),
            Some([Piece::Secret(secret, _)]) => Ok(Value::Secret(secret.clone())),
            Some(pieces) => SecretHandle::join(pieces).map(Value::Secret),
        }
    }

    /// Whether the text has markers in it.
    pub(super) fn has_marker(&self, text: &str) -> bool {
        self.markers(text).next().is_some()
    }

    /// The pieces of `text` with its markers replaced by the values that they stand for; none: it has no markers.
    pub(super) fn pieces(&self, text: &str) -> Option<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(Marker {
            before,
            stands_for,
            after,
        }) = self.first_marker(rest)
        {
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Secret(stands_for.secret.clone(), Encoding::Raw));
            rest = after;
        }
        if pieces.is_empty() {
            return None;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        pieces.retain(|piece| !matches!(piece, Piece::Text(text) if text.is_empty()));
        Some(pieces)
    }

    /// A text as people read it: without markers, which mean nothing to them.
    pub(super) fn redacted(&self, text: String) -> String {
        let Some(pieces) = self.pieces(&text) else {
            return text;
        };
        let pieces = pieces.iter().map(|piece| match piece {
            Piece::Text(text) => text,
            Piece::Secret(..) => REDACTED,
        });
        pieces.collect()
    }

    /// What the markers in the text stand for, in order.
    fn markers<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a Masked> {
        let first = self.first_marker(text);
        let markers = std::iter::successors(first, |marker| self.first_marker(marker.after));
        markers.map(|marker| marker.stands_for)
    }

    fn first_marker<'a>(&'a self, text: &'a str) -> Option<Marker<'a>> {
        if self.call_digits.is_empty() {
            return None;
        }
        text.match_indices(&*self.call_digits).find_map(|(at, _)| {
            let (before, marker) = text.split_at(at);
            let (_, number) = marker.split_at_checked(CALL_DIGITS)?;
            let (number, after) = number.split_at_checked(MARKER_DIGITS)?;
            Some(Marker {
                before: before.strip_suffix(PREFIX).unwrap_or(before),
                stands_for: self.replaced.get(number.parse::<usize>().ok()?)?,
                after,
            })
        })
    }
}

/// A text's first marker, and the text around it.
struct Marker<'a> {
    before: &'a str,
    stands_for: &'a Masked,
    after: &'a str,
}

fn tokens_in(name: &str, json: &serde_json::Value, found: &mut Vec<String>) {
    match json {
        serde_json::Value::String(text) if is_token(name) => found.push(text.clone()),
        serde_json::Value::Array(items) => {
            items.iter().for_each(|item| tokens_in(name, item, found));
        }
        serde_json::Value::Object(members) => {
            members
                .iter()
                .for_each(|(name, member)| tokens_in(name, member, found));
        }
        _ => {}
    }
}

/// Where the secrets are in the concatenated pieces.
fn places(pieces: &[Piece]) -> Vec<Range<usize>> {
    let mut places = Vec::new();
    let mut end = 0;
    for piece in pieces {
        let start = end;
        match piece {
            Piece::Text(text) => end += text.len(),
            Piece::Secret(secret, _) => {
                end += secret.expose().len();
                places.push(start..end);
            }
        }
    }
    places
}

/// Whether the value at this place of the token is in the text too, with the same character before it or after it.
fn is_beside_the_same(token: &[u8], place: &Range<usize>, text: &[u8]) -> bool {
    let before = |text: &[u8], start: usize| text.get(start.checked_sub(1)?).copied();
    let after = |text: &[u8], end: usize| text.get(end).copied();
    let is_same = |one: Option<u8>, other: Option<u8>| {
        let pair = one.zip(other);
        pair.is_some_and(|(one, other)| one.eq_ignore_ascii_case(&other))
    };
    let secret = token.get(place.clone()).unwrap_or_default();
    let mut starts = memmem::find_iter(text, secret);
    starts.any(|start| {
        is_same(before(token, place.start), before(text, start))
            || is_same(after(token, place.end), after(text, start + secret.len()))
    })
}

fn not_revealed(token: &SecretHandle) -> Failure {
    let names = token.lineage().quoted();
    Failure::new(
        FailureKind::InvalidConfig,
        HostCode::SecretNotRevealed,
        format!(
            "what the plugin returned to be published repeats {names}, as an answer did; if whoever reads the token may read that, list it under `reveal`"
        ),
    )
}

/// Whether these are characters of a token as it is sent (RFC 6750 §2.1), or blanks. Other characters separate texts that were
/// concatenated: a repeated header field becomes one value with both texts in it and a comma between them (RFC 9110 §5.3).
fn is_of_token(text: &[u8]) -> bool {
    let is_one = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/= ".contains(byte);
    text.iter().all(is_one)
}

/// `access_token`, `idToken`.
fn is_token(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with("token")
}

/// Values in the encodings in which they are searched for.
struct Sought<'a> {
    all: Spellings,
    /// Each value by itself, for places where something was found: which value it is decides how the place may be used.
    each: Vec<(&'a SecretHandle, OnceCell<Spellings>)>,
}

/// A place where a searched value was found.
struct Hit {
    /// In the text.
    place: Range<usize>,
    /// The decoded text of that place.
    found: Zeroizing<Vec<u8>>,
    /// Other values that were found in the same place.
    inside: Vec<Zeroizing<Vec<u8>>>,
}

impl<'a> Sought<'a> {
    /// Those that fit into a text of `longest` bytes.
    fn new(secrets: &'a [SecretHandle], longest: usize) -> Self {
        let fit = |secret: &&SecretHandle| secret.expose().trim_ascii().len() <= longest;
        let each: Vec<_> = secrets.iter().filter(fit).collect();
        let all = each.iter().flat_map(|secret| spellings(secret.expose()));
        Self {
            all: Spellings::exactly(all.collect()),
            each: each
                .into_iter()
                .map(|secret| (secret, OnceCell::new()))
                .collect(),
        }
    }

    fn hits(&self, view: &View<'_>) -> Vec<Hit> {
        let places = self.all.places(&view.bytes).into_iter();
        let hits = places.map(|range| {
            let spelling = view.bytes.get(range.clone()).unwrap_or_default();
            Hit {
                place: view.place(&range),
                found: Zeroizing::new(view.found(&range).to_vec()),
                inside: vec![Zeroizing::new(spelling.to_vec())],
            }
        });
        hits.collect()
    }

    /// The secrets whose values were found there.
    fn owners(&self, hit: &Hit) -> Vec<&'a SecretHandle> {
        let is_in = |(secret, own): &&(&SecretHandle, OnceCell<Spellings>)| {
            let own = own.get_or_init(|| Spellings::exactly(spellings(secret.expose())));
            let mut found = std::iter::once(&hit.found).chain(&hit.inside);
            found.any(|found| !own.places(found).is_empty())
        };
        let owners = self.each.iter().filter(is_in);
        let owners: Vec<_> = owners.map(|(secret, _)| *secret).collect();
        if owners.is_empty() {
            // A match that belongs to no single secret counts as one of all.
            return self.each.iter().map(|(secret, _)| *secret).collect();
        }
        owners
    }
}

/// Sorted, with overlapping hits merged: a value may be found inside a larger one.
fn joined(text: &[u8], mut hits: Vec<Hit>) -> Vec<Hit> {
    hits.sort_by_key(|hit| (hit.place.start, std::cmp::Reverse(hit.place.end)));
    let mut joined: Vec<Hit> = Vec::new();
    for hit in hits {
        match joined.last_mut() {
            Some(last) if hit.place.start < last.place.end => {
                // Most often this is the same place in another view.
                if hit.found != last.found && last.inside.last() != Some(&hit.found) {
                    last.inside.push(hit.found);
                }
                if hit.place.end > last.place.end {
                    last.place.end = hit.place.end;
                    let found = text.get(last.place.clone()).unwrap_or_default();
                    let before = std::mem::replace(&mut last.found, Zeroizing::new(found.to_vec()));
                    last.inside.push(before);
                }
            }
            _ => joined.push(hit),
        }
    }
    joined
}

/// The encodings of a value in which no character is kept as it is: of the value, and of its encoding in a form or a query. Other
/// encodings are decoded before a text is searched.
fn spellings(secret: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let sent: &[Encoding] = if secret.len() <= MAX_SPELLED_BYTES {
        &[
            Encoding::Raw,
            Encoding::Form,
            Encoding::Percent,
            Encoding::Json,
        ]
    } else {
        &[Encoding::Raw]
    };
    // Blanks around a header's value are not part of it (RFC 9110 §5.5).
    let mut spellings = [secret, secret.trim_ascii()]
        .map(|value| Zeroizing::new(value.to_vec()))
        .to_vec();
    let mut values: Vec<_> = sent
        .iter()
        .filter_map(|sent| sent.encode(secret).ok())
        .collect();
    // Most values have no character that any of them escapes.
    values.dedup();
    for value in values {
        let whole = [
            Encoding::Hex,
            Encoding::Base32,
            Encoding::Base64,
            Encoding::Base64Url,
        ];
        spellings.extend(whole.iter().filter_map(|whole| whole.encode(&value).ok()));
        let upper = HEXUPPER.encode(&value);
        spellings.push(Zeroizing::new(upper.into_bytes()));
        for offset in 0..3 {
            let (standard, url) = inside_base64(&value, offset);
            spellings.extend([standard, url]);
        }
        for offset in 0..5 {
            let upper = inside_base32(&value, offset);
            spellings.push(Zeroizing::new(upper.to_ascii_lowercase()));
            spellings.push(upper);
        }
    }
    spellings
}

/// As [`inside_base64`], with groups of five.
fn inside_base32(secret: &[u8], offset: usize) -> Zeroizing<Vec<u8>> {
    let mut padded = Zeroizing::new(vec![0; offset]);
    padded.extend_from_slice(secret);
    let text = Zeroizing::new(BASE32_NOPAD.encode(&padded));
    let (first, last) = ((offset * 8).div_ceil(5), padded.len() * 8 / 5);
    let inside = text.as_bytes().get(first..last).unwrap_or_default();
    Zeroizing::new(inside.to_vec())
}

/// Encodings that are decoded before a text is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escapes {
    Json,
    Percent,
    Form,
    Xml,
    /// Any mix of JSON, percent and XML escapes.
    Any,
    /// Hexadecimal digits in either case.
    HexCase,
    /// Base64 with line breaks, perhaps indented (RFC 2045 §6.8, RFC 7468 §2).
    Lines,
}

impl Escapes {
    /// The sequences of decodings in which a text is searched. Two deep, as texts are embedded in others.
    const READINGS: [&[Self]; 13] = [
        &[],
        &[Self::Json],
        &[Self::Percent],
        &[Self::Form],
        &[Self::Xml],
        &[Self::HexCase],
        &[Self::Lines],
        &[Self::Json, Self::Json],
        &[Self::Percent, Self::Percent],
        &[Self::Any, Self::Any],
        &[Self::Json, Self::Lines],
        &[Self::Percent, Self::Lines],
        &[Self::HexCase, Self::Lines],
    ];

    /// Whether only a part of the text may be encoded.
    fn is_loose(self) -> bool {
        matches!(self, Self::HexCase | Self::Lines)
    }

    /// Decodes the escape that `text` begins with into `to`, and returns its length; none: it begins with no escape.
    fn read(self, text: &[u8], to: &mut Vec<u8>) -> Option<usize> {
        match (self, text) {
            (Self::Form, [b'+', ..]) => {
                to.push(b' ');
                Some(1)
            }
            (Self::Any, [b'\\', ..]) => Self::Json.read(text, to),
            (Self::Any, [b'%', ..]) => Self::Percent.read(text, to),
            (Self::Any, [b'&', ..]) => Self::Xml.read(text, to),
            (Self::HexCase, [digit @ b'A'..=b'F', ..]) => {
                to.push(digit.to_ascii_lowercase());
                Some(1)
            }
            (Self::Lines, [b'\r' | b'\n', rest @ ..]) => {
                let is_indented = |byte: &&u8| matches!(byte, b' ' | b'\t');
                Some(1 + rest.iter().take_while(is_indented).count())
            }
            (Self::Form | Self::Percent, [b'%', high, low, ..]) => {
                to.push(u8::try_from(hex(&[*high, *low])?).ok()?);
                Some(3)
            }
            (Self::Json, [b'\\', b'u', rest @ ..]) => {
                let (unit, rest) = rest.split_at_checked(4)?;
                let unit = u16::try_from(hex(unit)?).ok()?;
                let low = rest
                    .strip_prefix(b"\\u")
                    .and_then(|low| u16::try_from(hex(low.get(..4)?)?).ok());
                let units = [unit, low.unwrap_or_default()];
                let is_pair = (0xd800..0xdc00).contains(&unit);
                let units = if is_pair { &units[..] } else { units.get(..1)? };
                let text = String::from_utf16(units).ok()?;
                to.extend_from_slice(text.as_bytes());
                Some(6 * units.len())
            }
            (Self::Json, [b'\\', escaped, ..]) => {
                to.push(match escaped {
                    b'b' => 0x08,
                    b'f' => 0x0c,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => *other,
                });
                Some(2)
            }
            (Self::Xml, [b'&', rest @ ..]) => {
                let end = rest.iter().take(10).position(|byte| *byte == b';')?;
                let character = match rest.get(..end)? {
                    b"amp" => '&',
                    b"lt" => '<',
                    b"gt" => '>',
                    b"quot" => '"',
                    b"apos" => '\'',
                    [b'#', b'x' | b'X', digits @ ..] => char::from_u32(hex(digits)?)?,
                    [b'#', digits @ ..] => {
                        char::from_u32(std::str::from_utf8(digits).ok()?.parse().ok()?)?
                    }
                    _ => return None,
                };
                to.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                Some(end + 2)
            }
            _ => None,
        }
    }

    /// Whether the text may have such escapes.
    fn are_in(self, text: &[u8]) -> bool {
        let has = |byte| memchr::memchr(byte, text).is_some();
        match self {
            Self::Any => memchr::memchr3(b'\\', b'%', b'&', text).is_some(),
            Self::HexCase => text.iter().any(|byte| matches!(byte, b'A'..=b'F')),
            Self::Lines => memchr::memchr2(b'\r', b'\n', text).is_some(),
            Self::Json => has(b'\\'),
            Self::Percent => has(b'%'),
            Self::Form => has(b'+'),
            Self::Xml => has(b'&'),
        }
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    // What parses as a number with a sign is no escape.
    let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits).ok()?;
    u32::from_str_radix(digits, 16).ok().filter(|_| is_hex)
}

/// A text with its escapes decoded.
struct View<'a> {
    bytes: Cow<'a, [u8]>,
    of: Option<Box<Undone<'a>>>,
}

/// How a view was decoded.
struct Undone<'a> {
    view: View<'a>,
    escapes: Escapes,
    /// Where each byte came from, escapes whole.
    places: Vec<Range<usize>>,
}

impl<'a> View<'a> {
    /// The text in each way in which it may be decoded differently.
    fn all(text: &'a [u8]) -> impl Iterator<Item = Self> {
        let whole = || Self {
            bytes: Cow::Borrowed(text),
            of: None,
        };
        let readings = Escapes::READINGS.iter();
        readings.filter_map(move |reading| {
            let mut escapes = reading.iter();
            escapes.try_fold(whole(), |view, escapes| view.without(*escapes))
        })
    }

    /// None: it has no such escapes.
    fn without(self, escapes: Escapes) -> Option<Self> {
        if !escapes.are_in(&self.bytes) {
            return None;
        }
        let mut bytes = Vec::with_capacity(self.bytes.len());
        let mut places = Vec::with_capacity(self.bytes.len());
        let mut at = 0;
        while let Some(rest @ [first, ..]) = self.bytes.get(at..) {
            let read = escapes.read(rest, &mut bytes).unwrap_or_else(|| {
                bytes.push(*first);
                1
            });
            places.resize(bytes.len(), at..at + read);
            at += read;
        }
        Some(Self {
            bytes: Cow::Owned(bytes),
            of: Some(Box::new(Undone {
                view: self,
                escapes,
                places,
            })),
        })
    }

    /// Where a range of the bytes stands in the text.
    fn place(&self, range: &Range<usize>) -> Range<usize> {
        match &self.of {
            Some(of) => of.view.place(&of.place(range)),
            None => range.clone(),
        }
    }

    /// The decoded text of that range. Case and line ends are part of it.
    fn found(&self, range: &Range<usize>) -> &[u8] {
        match &self.of {
            Some(of) if of.escapes.is_loose() => of.view.found(&of.place(range)),
            _ => self.bytes.get(range.clone()).unwrap_or_default(),
        }
    }
}

impl Undone<'_> {
    fn place(&self, range: &Range<usize>) -> Range<usize> {
        let at = |index: usize| self.places.get(index).cloned().unwrap_or_default();
        at(range.start).start..at(range.end.saturating_sub(1)).end
    }
}

#[cfg(test)]
mod tests;

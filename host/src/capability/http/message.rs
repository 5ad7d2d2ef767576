//! A lenient HTTP/1.1 parser (RFC 9112) for a complete answer in memory. The connection carries only this answer, so request
//! smuggling is no concern: an unreadable part is skipped, and the rest is used.

use std::ops::Range;

/// Interim answers (RFC 9110 §15.2). Servers send one or two.
const MAX_INTERIM: u32 = 32;

/// Why reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadEnd {
    /// By its framing the answer is not complete.
    MoreToCome,
    /// By its framing the answer is complete.
    AtEnd,
    /// Interim answers do not end.
    OnlyInterim,
}

/// The state of parsing an answer while it arrives.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Whether the answer has no body whatever its headers say, as for HEAD.
    has_no_body: bool,
    /// Where the search for the end of the head continues.
    searched: usize,
    interim: u32,
    /// Bytes discarded from the middle.
    left_out: usize,
    /// Where the body begins, and its framing.
    body: Option<(usize, Framing)>,
}

/// How a body ends (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    /// The next chunk begins here.
    Chunked(usize),
    UntilClosed,
}

impl Progress {
    /// An answer to a request with this method.
    pub(super) fn to(method: &str) -> Self {
        Self {
            has_no_body: method.eq_ignore_ascii_case("HEAD"),
            ..Self::default()
        }
    }

    /// Whether the answer ends when the connection is closed.
    pub(super) fn ends_with_connection(&self) -> bool {
        matches!(self.body, Some((_, Framing::UntilClosed)))
    }

    /// Bytes discarded from the middle.
    pub(super) const fn left_out(&self) -> usize {
        self.left_out
    }

    /// Shortens an answer that is longer than `limit`: its beginning and its end stay. Tokens are usually in one of them; and of
    /// text, a list or blanks that fill the middle a part is as good as the whole.
    pub(super) fn leave_out_the_middle(&mut self, bytes: &mut Vec<u8>, limit: usize) {
        let beginning = limit / 2;
        let end = bytes.len().saturating_sub(limit / 4).max(beginning);
        self.left_out += bytes.drain(beginning..end).len();
        self.searched = bytes.len().saturating_sub(3);
    }

    /// Parses the bytes that have arrived and removes interim answers from them.
    pub(super) fn look(&mut self, bytes: &mut Vec<u8>) -> ReadEnd {
        while self.body.is_none() {
            // Some servers send an extra line end after their answers, also after interim ones.
            let blanks = bytes
                .iter()
                .take_while(|byte| matches!(byte, b'\r' | b'\n'));
            let blanks = blanks.count();
            bytes.drain(..blanks);
            let Some(end) = head_end(bytes, self.searched) else {
                self.searched = bytes.len().saturating_sub(3);
                return ReadEnd::MoreToCome;
            };
            let head = MessageHead::read(bytes.get(..end).unwrap_or_default());
            if head.as_ref().is_some_and(MessageHead::is_interim) {
                bytes.drain(..end);
                self.searched = 0;
                self.interim += 1;
                if self.interim > MAX_INTERIM {
                    return ReadEnd::OnlyInterim;
                }
                continue;
            }
            let framing = head.map_or(Framing::UntilClosed, |head| {
                head.framing(self.has_no_body, end)
            });
            self.body = Some((end, framing));
        }
        match &mut self.body {
            Some((begin, Framing::Length(length))) => {
                if bytes.len() + self.left_out - *begin >= *length {
                    ReadEnd::AtEnd
                } else {
                    ReadEnd::MoreToCome
                }
            }
            // The position of the next chunk is not known any more.
            Some((_, Framing::Chunked(_))) if self.left_out > 0 => ReadEnd::MoreToCome,
            Some((_, Framing::Chunked(at))) => loop {
                match chunk(bytes, *at) {
                    Chunk::Data { next, .. } => *at = next,
                    Chunk::Last => return ReadEnd::AtEnd,
                    Chunk::Unfinished(_) | Chunk::Damaged => return ReadEnd::MoreToCome,
                }
            },
            Some((_, Framing::UntilClosed)) | None => ReadEnd::MoreToCome,
        }
    }
}

/// An answer in its parts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) status: u16,
    /// Names in lower case; repeated ones apart.
    pub(super) headers: Vec<(String, String)>,
    /// Possible bodies, the likeliest first: by the framing, then all bytes that arrived whatever the framing says. At least one.
    pub(super) bodies: Vec<MessageBody>,
}

/// A body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MessageBody {
    pub(super) bytes: Vec<u8>,
    /// Whether it is complete by its framing.
    pub(super) is_whole: bool,
    /// Whether it is truncated by its framing; an answer that ends with the connection is neither.
    pub(super) is_cut: bool,
}

impl Message {
    /// Parses an answer to a request with this method, after which nothing more arrives. `is_closed`: the other side closed the
    /// connection properly. None: there is no status.
    pub(super) fn read(arrived: &[u8], method: &str, is_closed: bool) -> Option<Self> {
        let mut bytes = arrived.to_vec();
        let mut progress = Progress::to(method);
        progress.look(&mut bytes);
        let Some((begin, framing)) = progress.body else {
            return Self::without_an_end_of_the_head(&bytes, is_closed);
        };
        let head = MessageHead::read(bytes.get(..begin)?)?;
        let rest = bytes.get(begin..)?;
        Some(Self {
            status: head.status,
            headers: head.headers,
            bodies: match framing {
                Framing::Length(length) => with_length(rest, length),
                Framing::Chunked(_) => chunked(rest),
                Framing::UntilClosed => vec![so_far(rest, is_closed)],
            },
        })
    }

    /// A body may follow its head without a blank line between, or there may be no head (HTTP/0.9).
    fn without_an_end_of_the_head(bytes: &[u8], is_closed: bool) -> Option<Self> {
        if bytes.trim_ascii_start().starts_with(b"{") {
            return Some(Self {
                status: 200,
                headers: Vec::new(),
                bodies: vec![so_far(bytes, is_closed)],
            });
        }
        let begin = bytes.windows(2).position(|pair| pair == b"\n{")? + 1;
        let head = MessageHead::read(bytes.get(..begin)?)?;
        Some(Self {
            status: head.status,
            headers: head.headers,
            bodies: vec![so_far(bytes.get(begin..)?, is_closed)],
        })
    }
}

fn so_far(bytes: &[u8], is_whole: bool) -> MessageBody {
    MessageBody {
        bytes: bytes.to_vec(),
        is_whole,
        is_cut: false,
    }
}

fn cut(bytes: Vec<u8>) -> MessageBody {
    MessageBody {
        bytes,
        is_whole: false,
        is_cut: true,
    }
}

fn with_length(rest: &[u8], length: usize) -> Vec<MessageBody> {
    match rest.get(..length) {
        Some(body) if body.len() == rest.len() => vec![so_far(body, true)],
        Some(body) => vec![so_far(body, true), so_far(rest, true)],
        None => vec![cut(rest.to_vec())],
    }
}

/// The chunks as far as they are valid; and if one is damaged, also all bytes without the lines that look like sizes.
fn chunked(rest: &[u8]) -> Vec<MessageBody> {
    let mut bytes = Vec::with_capacity(rest.len());
    let mut at = 0;
    let is_whole = loop {
        match chunk(rest, at) {
            Chunk::Data { data, next } => {
                bytes.extend_from_slice(rest.get(data).unwrap_or_default());
                at = next;
            }
            Chunk::Last => break true,
            Chunk::Unfinished(data) => {
                bytes.extend_from_slice(rest.get(data).unwrap_or_default());
                break false;
            }
            Chunk::Damaged => break false,
        }
    };
    let bytes_are_missing = bytes.is_empty();
    let mut bodies = vec![MessageBody {
        bytes,
        is_whole,
        is_cut: !is_whole,
    }];
    if !is_whole || bytes_are_missing {
        bodies.push(cut(without_sizes(rest)));
    }
    bodies
}

/// A chunk (RFC 9112 §7.1).
enum Chunk {
    Data {
        data: Range<usize>,
        next: usize,
    },
    Last,
    /// Truncated.
    Unfinished(Range<usize>),
    /// Its size is invalid, or it continues beyond that size.
    Damaged,
}

fn chunk(bytes: &[u8], at: usize) -> Chunk {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(line) = rest.iter().position(|byte| *byte == b'\n') else {
        return Chunk::Unfinished(at..at);
    };
    let Some(size) = rest.get(..line).and_then(size) else {
        return Chunk::Damaged;
    };
    if size == 0 {
        return Chunk::Last;
    }
    let begin = at + line + 1;
    let end = begin.saturating_add(size);
    match bytes.get(end..) {
        None | Some([] | [b'\r']) => Chunk::Unfinished(begin..end.min(bytes.len())),
        Some([b'\r', b'\n', ..]) => Chunk::Data {
            data: begin..end,
            next: end + 2,
        },
        Some([b'\n', ..]) => Chunk::Data {
            data: begin..end,
            next: end + 1,
        },
        Some(_) => Chunk::Damaged,
    }
}

/// The size in a chunk's first line, ignoring anything else there.
fn size(line: &[u8]) -> Option<usize> {
    let digits = line.split(|byte| *byte == b';').next()?;
    let digits = std::str::from_utf8(digits).ok()?.trim();
    let is_size = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_size.then(|| usize::from_str_radix(digits, 16).unwrap_or(usize::MAX))
}

fn without_sizes(rest: &[u8]) -> Vec<u8> {
    let lines = rest.split_inclusive(|byte| *byte == b'\n');
    let mut content: Vec<u8> = Vec::with_capacity(rest.len());
    for line in lines.filter(|line| size(line).is_none()) {
        content.extend_from_slice(line.trim_ascii_end());
    }
    content
}

/// The end of the head: after the first blank line.
fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut ends = (from..bytes.len()).filter(|at| bytes.get(*at) == Some(&b'\n'));
    ends.find_map(|at| match bytes.get(at + 1..) {
        Some([b'\n', ..]) => Some(at + 2),
        Some([b'\r', b'\n', ..]) => Some(at + 3),
        _ => None,
    })
}

struct MessageHead {
    status: u16,
    headers: Vec<(String, String)>,
}

impl MessageHead {
    /// The status line and the readable header lines. A line that begins with a blank continues the one before (RFC 9112 §5.2).
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut lines = bytes
            .split(|byte| *byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let status = lines
            .by_ref()
            .find(|line| !line.is_empty())
            .and_then(status)?;
        let mut headers: Vec<(String, String)> = Vec::new();
        for line in lines {
            let is_folded = line
                .first()
                .is_some_and(|byte| matches!(byte, b' ' | b'\t'));
            match headers.last_mut() {
                Some((_, value)) if is_folded => {
                    value.push(' ');
                    value.push_str(&text(line.trim_ascii()));
                }
                _ => headers.extend(header(line)),
            }
        }
        Some(Self { status, headers })
    }

    /// 101 is final: no request asks for another protocol.
    fn is_interim(&self) -> bool {
        matches!(self.status, 100 | 102..200)
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.headers.iter().filter(move |(have, _)| have == name);
        named.flat_map(|(_, value)| value.split(',').map(str::trim))
    }

    /// The framing of the body that begins at `begin`. Invalid or contradictory lengths are ignored.
    fn framing(&self, has_no_body: bool, begin: usize) -> Framing {
        if has_no_body || matches!(self.status, 204 | 304) {
            return Framing::Length(0);
        }
        let is = |coding: &str, name: &str| coding.eq_ignore_ascii_case(name);
        let mut codings = self
            .values("transfer-encoding")
            .filter(|coding| !is(coding, "identity"));
        if let Some(coding) = codings.next() {
            let is_chunked = is(coding, "chunked") || codings.any(|coding| is(coding, "chunked"));
            return if is_chunked {
                Framing::Chunked(begin)
            } else {
                Framing::UntilClosed
            };
        }
        let mut lengths = self
            .values("content-length")
            .map(|length| length.parse().ok());
        match lengths.next() {
            Some(Some(length)) if lengths.all(|other| other == Some(length)) => {
                Framing::Length(length)
            }
            _ => Framing::UntilClosed,
        }
    }
}

/// The code in `HTTP/1.1 200 OK`, also without the blanks after it.
fn status(line: &[u8]) -> Option<u16> {
    let line = text(line).to_ascii_uppercase();
    let mut words = line.split_ascii_whitespace();
    words.next().filter(|version| version.starts_with("HTTP"))?;
    let (code, reason) = words.next()?.split_at_checked(3)?;
    let is_longer = reason.starts_with(|c: char| c.is_ascii_digit());
    code.parse().ok().filter(|code| *code >= 100 && !is_longer)
}

fn header(line: &[u8]) -> Option<(String, String)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = line.get(..colon)?.trim_ascii();
    let is_name = !name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic());
    let value = line.get(colon + 1..)?.trim_ascii();
    is_name.then(|| (text(name).to_ascii_lowercase(), text(value)))
}

/// Without control characters, which mean nothing in a header.
fn text(bytes: &[u8]) -> String {
    let text = evertoken_answer::decoded(bytes);
    text.chars()
        .filter(|c| !c.is_control() || *c == '\t')
        .collect()
}

//! Answers as bytes: correct, malformed as by real servers, or truncated. The host parses them with its real parser.

use std::fmt::Write as _;
use std::io::Write as _;

use fastrand::Rng;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::issuer::Reply;
use super::ledger::Id;
use super::source::REFRESH_TOKEN;

/// A header that names the exchange in its answer, so that the source's model knows which one it received, also from the journal.
pub const EXCHANGE_HEADER: &str = "x-exchange";

/// What is malformed in an answer, which is otherwise complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// Nothing.
    None,
    /// A header that continues in the next line.
    FoldedHeader,
    /// More headers than HTTP libraries accept.
    ManyHeaders,
    /// It is compressed.
    Gzip,
    /// It is sent twice.
    Doubled,
    /// A member is not in UTF-8.
    Latin1,
    /// Its stated length is too long.
    LengthTooLong,
    /// Its stated length is too short.
    LengthTooShort,
    /// It ends in an invalid chunk.
    DamagedChunk,
}

impl Oddity {
    /// Any but none.
    pub fn draw(rng: &mut Rng) -> Self {
        let odd = [
            Self::FoldedHeader,
            Self::ManyHeaders,
            Self::Gzip,
            Self::Doubled,
            Self::Latin1,
            Self::LengthTooLong,
            Self::LengthTooShort,
            Self::DamagedChunk,
        ];
        rng.choice(odd).unwrap_or(Self::None)
    }
}

/// An answer under way.
#[derive(Debug)]
pub struct Sent {
    /// The status.
    pub status: u16,
    /// The bytes that arrive.
    pub bytes: Vec<u8>,
    /// Whether the connection ends where the answer does, by its framing.
    pub ends_well: bool,
    /// Whether the issuer's answer had a refresh token that is missing in the bytes.
    pub lost_the_successor: bool,
}

impl Sent {
    /// The bytes of a reply.
    #[must_use]
    pub fn new(reply: &Reply, id: Option<Id>, oddity: Oddity) -> Self {
        let mut headers = "content-type: application/json\r\n".to_owned();
        if let Some(seconds) = reply.retry_after {
            let _ = write!(headers, "retry-after: {seconds}\r\n");
        }
        if let Some(id) = id {
            let _ = write!(headers, "{EXCHANGE_HEADER}: {id}\r\n");
        }
        let mut body = reply.body.clone().into_bytes();
        let mut length = None;
        match oddity {
            Oddity::None => {}
            Oddity::FoldedHeader => headers.insert_str(0, "x-policy: a;\r\n  b\r\n\tc\r\n"),
            Oddity::ManyHeaders => {
                for n in 0..130 {
                    let _ = write!(headers, "x-{n}: {n}\r\n");
                }
            }
            Oddity::Gzip => {
                headers.push_str("content-encoding: gzip\r\n");
                body = gzip(&body);
            }
            Oddity::Doubled => body = body.repeat(2),
            Oddity::Latin1 => {
                if let Some(rest) = body.strip_prefix(b"{") {
                    body = [b"{\"name\":\"Z\xfcrich\",", rest].concat();
                }
            }
            Oddity::LengthTooLong => length = Some(body.len() + 99),
            Oddity::LengthTooShort => length = Some(body.len() / 2),
            Oddity::DamagedChunk => {
                headers.push_str("transfer-encoding: chunked\r\n");
                let size = format!("{:x}\r\n", body.len());
                body = [size.as_bytes(), &body, b"\r\nzz\r\n"].concat();
            }
        }
        let length = length.unwrap_or(body.len());
        let head = format!(
            "HTTP/1.1 {} -\r\n{headers}content-length: {length}\r\n\r\n",
            reply.status
        );
        Self {
            status: reply.status,
            bytes: [head.as_bytes(), &body].concat(),
            ends_well: !matches!(oddity, Oddity::LengthTooLong | Oddity::DamagedChunk),
            lost_the_successor: false,
        }
    }

    /// The same truncated: `at` is from 0 to 1.
    #[must_use]
    pub fn cut(mut self, reply: &Reply, at: f64) -> Self {
        let last = self.bytes.len().saturating_sub(1);
        // As a fraction of its length: precise enough for a position in some hundred bytes.
        let end = (last as f64 * at) as usize;
        self.bytes.truncate(end);
        self.ends_well = false;
        self.lost_the_successor = successor(reply).is_some_and(|member| {
            let mut windows = self.bytes.windows(member.len());
            !windows.any(|window| window == member.as_bytes())
        });
        self
    }
}

/// The member of a reply with the refresh token, as it is encoded.
fn successor(reply: &Reply) -> Option<String> {
    let body: serde_json::Value = serde_json::from_str(&reply.body).ok()?;
    let value = body.get(REFRESH_TOKEN)?;
    Some(format!("\"{REFRESH_TOKEN}\":{value}"))
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Into memory: it does not fail.
    let _ = encoder.write_all(content);
    encoder.finish().unwrap_or_default()
}

//! Requests as a token endpoint sees them, and reading them from a connection.

use std::io::Read;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};

/// More than any token request needs; a client that sends more is broken and is cut off.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// As many header fields as one request may have.
const MAX_HEADERS: usize = 64;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method, in capitals.
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The query without `?`; empty if there is none.
    pub query: String,
    /// The header fields in their order, as they were spelt.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// When the last byte of the request had arrived, by the wall clock.
    pub time: SystemTime,
    /// The same moment by the monotonic clock.
    pub instant: Instant,
    /// Which connection it came on; requests with one number shared one.
    pub connection: u64,
}

impl Request {
    /// The first header field of that name, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as form fields, in their order.
    #[must_use]
    pub fn form(&self) -> Vec<(String, String)> {
        form_urlencoded::parse(&self.body).into_owned().collect()
    }

    /// The first form field of that name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<String> {
        self.form()
            .into_iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }

    /// User and password of HTTP Basic authentication, both form-decoded as RFC 6749 §2.3.1 has them encoded.
    #[must_use]
    pub fn basic_auth(&self) -> Option<(String, String)> {
        let encoded = self.header("authorization")?.strip_prefix("Basic ")?;
        let decoded = data_encoding::BASE64
            .decode(encoded.trim().as_bytes())
            .ok()?;
        let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        Some((form_decode(user), form_decode(password)))
    }

    /// The OAuth client that sent it: `client_id` of the form, else the Basic user.
    #[must_use]
    pub fn client_id(&self) -> Option<String> {
        self.field("client_id")
            .or_else(|| self.basic_auth().map(|(user, _)| user))
    }
}

fn form_decode(text: &str) -> String {
    form_urlencoded::parse(text.as_bytes())
        .next()
        .map(|(key, _)| key.into_owned())
        .unwrap_or_default()
}

/// The next request, or none when the client is done. `buffer` holds what was read beyond the last one.
pub(super) fn read_request(
    stream: &mut impl Read,
    buffer: &mut Vec<u8>,
    connection: u64,
) -> Result<Option<Request>> {
    loop {
        if let Some((mut request, head_bytes, body_bytes)) = parse_head(buffer, connection)? {
            while buffer.len() < head_bytes + body_bytes {
                ensure!(fill(stream, buffer)?, "the request's body broke off");
            }
            let rest = buffer.split_off(head_bytes + body_bytes);
            request.body = buffer.split_off(head_bytes);
            *buffer = rest;
            (request.time, request.instant) = (SystemTime::now(), Instant::now());
            return Ok(Some(request));
        }
        ensure!(
            buffer.len() < MAX_HEAD_BYTES,
            "the request's head is too long"
        );
        if !fill(stream, buffer)? {
            return Ok(None);
        }
    }
}

fn fill(stream: &mut impl Read, buffer: &mut Vec<u8>) -> Result<bool> {
    let mut block = [0; 8 << 10];
    let count = stream.read(&mut block)?;
    buffer.extend_from_slice(block.get(..count).unwrap_or_default());
    Ok(count > 0)
}

/// The request without its body, the length of its head, the length of its body.
fn parse_head(buffer: &[u8], connection: u64) -> Result<Option<(Request, usize, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(head_bytes) = parsed.parse(buffer)? else {
        return Ok(None);
    };
    let target = parsed.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: parsed
            .headers
            .iter()
            .map(|field| {
                (
                    field.name.to_owned(),
                    String::from_utf8_lossy(field.value).into_owned(),
                )
            })
            .collect(),
        body: Vec::new(),
        time: SystemTime::now(),
        instant: Instant::now(),
        connection,
    };
    ensure!(
        request.header("transfer-encoding").is_none(),
        "this server reads only bodies with a content-length"
    );
    let body_bytes = request
        .header("content-length")
        .map_or(Ok(0), str::parse)
        .context("bad content-length")?;
    Ok(Some((request, head_bytes, body_bytes)))
}

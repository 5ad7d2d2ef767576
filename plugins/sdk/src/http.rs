//! HTTP requests. TLS, proxy, allow-list, limits and journal are the host's; redirects are not followed.

use std::fmt;

use serde::de::DeserializeOwned;

use crate::secrets::Value;
use crate::{Failure, Timestamp, host};

/// The content of a request.
#[derive(Debug)]
pub enum Body<'a> {
    /// Nothing.
    Empty,
    /// `application/x-www-form-urlencoded`; the host encodes it and sets the content type.
    Form(Vec<(String, Value<'a>)>),
    /// Anything else; its content type is among the headers.
    Content(Value<'a>),
}

/// A request under construction.
#[derive(Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request<'a> {
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) query: Vec<(String, Value<'a>)>,
    pub(crate) headers: Vec<(String, Value<'a>)>,
    pub(crate) body: Body<'a>,
}

impl<'a> Request<'a> {
    /// A request with any method.
    pub fn new(method: &str, url: &str) -> Self {
        Self {
            method: method.to_owned(),
            url: url.to_owned(),
            query: Vec::new(),
            headers: Vec::new(),
            body: Body::Empty,
        }
    }

    /// A GET request.
    pub fn get(url: &str) -> Self {
        Self::new("GET", url)
    }

    /// A POST request.
    pub fn post(url: &str) -> Self {
        Self::new("POST", url)
    }

    /// Adds a parameter to the URL's own; the host percent-encodes it.
    pub fn query(mut self, name: &str, value: impl Into<Value<'a>>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl Into<Value<'a>>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Adds a field to the form of the request. Any other body is discarded.
    pub fn field(mut self, name: &str, value: impl Into<Value<'a>>) -> Self {
        let field = (name.to_owned(), value.into());
        match &mut self.body {
            Body::Form(fields) => fields.push(field),
            Body::Empty | Body::Content(_) => self.body = Body::Form(vec![field]),
        }
        self
    }

    /// Sets this content. A form is discarded.
    pub fn content(mut self, content_type: &str, content: impl Into<Value<'a>>) -> Self {
        self.body = Body::Content(content.into());
        self.header("content-type", content_type.to_owned())
    }

    /// Sends it.
    ///
    /// # Errors
    ///
    /// When there is no answer: `unavailable` for the network's faults, `invalid-config` for what the job does not allow. An
    /// answer with an error status is not an error here.
    pub fn send(self) -> Result<Response, Failure> {
        host::send(self)
    }
}

/// An answer. Its `Debug` shows no body, which may contain tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case; repeated ones apart.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
    /// When the request was sent: count `expires_in` from here, since the answer may be slow, or come from the journal.
    pub sent_at: Timestamp,
}

impl Response {
    /// The first header of this name, whatever its case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(have, _)| have.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Whether the status is 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON, read as leniently as browsers do, and more.
    ///
    /// # Errors
    ///
    /// `internal`, with code "answer.not-json" for a body that is not JSON, "answer.other-json" where a member is missing or of
    /// another type; the message has its path, and no value.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let strictly: Result<serde_json::Value, _> = serde_json::from_slice(&self.body);
        let value = strictly.or_else(|error| evertoken_answer::json(&self.body).ok_or(error));
        let value = value.map_err(|error| {
            let message = format!(
                "the answer ({}) is no JSON: line {}, column {}",
                self.summary(),
                error.line(),
                error.column()
            );
            Failure::internal(message).with_code("answer.not-json")
        })?;
        serde_path_to_error::deserialize(value).map_err(|error| {
            let message = format!(
                "the answer ({}) is not the JSON expected: {}",
                self.summary(),
                mistake(&error)
            );
            Failure::internal(message).with_code("answer.other-json")
        })
    }

    /// The issuer's `Retry-After` (RFC 9110 §10.2.3), in milliseconds. A date counts from the answer's own `Date`, so that the
    /// issuer's clock may be wrong; without one, from the sending.
    #[must_use]
    pub fn retry_after_ms(&self) -> Option<u32> {
        let value = self.header("retry-after")?.trim();
        // Parsed as JSON, which excludes NaN and infinity: some issuers send fractions.
        let millis = match serde_json::from_str::<f64>(value) {
            Ok(seconds) if seconds < 0.0 => return None,
            Ok(seconds) => (seconds * 1000.0) as u64,
            Err(_) => {
                let from = self
                    .header("date")
                    .and_then(Timestamp::parse_http_date)
                    .unwrap_or(self.sent_at);
                let until = Timestamp::parse_http_date(value)?.as_unix_millis();
                until.saturating_sub(from.as_unix_millis())
            }
        };
        Some(u32::try_from(millis).unwrap_or(u32::MAX))
    }

    /// Status, content type and length, for messages.
    pub(crate) fn summary(&self) -> String {
        let content_type = self.header("content-type").unwrap_or("no content type");
        format!(
            "status {}, {content_type}, {} bytes",
            self.status,
            self.body.len()
        )
    }
}

/// Where and why an answer differs from the expected one. Only serde's messages that name an expected member are used: others
/// repeat values.
fn mistake(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let place = match error.path().to_string().as_str() {
        "." => String::new(),
        path => format!("{path}: "),
    };
    let said = error.inner().to_string();
    let what = match said.strip_prefix("missing field ") {
        Some(name) => format!("there is no {name}"),
        None => "it is of another type".to_owned(),
    };
    format!("{place}{what}")
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Response({})", self.summary())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(headers: &[(&str, &str)]) -> Response {
        Response {
            status: 429,
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            body: b"s3cr3t".to_vec(),
            sent_at: Timestamp::from_unix_seconds(784_111_777),
        }
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_as_date() {
        for (headers, expected) in [
            (vec![], None),
            (vec![("retry-after", "120")], Some(120_000)),
            (vec![("retry-after", " 0 ")], Some(0)),
            (vec![("Retry-After", "99999999999999")], Some(u32::MAX)),
            // 30 s after the sending, which was at 08:49:37.
            (
                vec![("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT")],
                Some(30_000),
            ),
            (
                vec![("retry-after", "Sunday, 06-Nov-94 08:50:07 GMT")],
                Some(30_000),
            ),
            (
                vec![("retry-after", "Sun Nov  6 08:50:07 1994")],
                Some(30_000),
            ),
            // The issuer's clock is an hour ahead, as its own Date shows.
            (
                vec![
                    ("date", "Sun, 06 Nov 1994 09:49:37 GMT"),
                    ("retry-after", "Sun, 06 Nov 1994 09:49:47 GMT"),
                ],
                Some(10_000),
            ),
            (
                vec![("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")],
                Some(0),
            ),
            (vec![("retry-after", "1.5")], Some(1500)),
            (
                vec![("retry-after", "Sat, 06 Nov 2094 08:50:07 GMT")],
                Some(u32::MAX),
            ),
            (vec![("retry-after", "soon")], None),
            (vec![("retry-after", "")], None),
            (vec![("retry-after", "-5")], None),
            (vec![("retry-after", "-0.5")], None),
            (vec![("retry-after", "NaN")], None),
            (vec![("retry-after", "1, 2")], None),
        ] {
            assert_eq!(answer(&headers).retry_after_ms(), expected, "{headers:?}");
        }
    }

    #[test]
    fn neither_debug_nor_errors_show_the_body() {
        let answer = answer(&[("content-type", "text/html")]);
        let failure = answer.json::<serde_json::Value>().unwrap_err();
        let shown = format!("{answer:?} {failure:?}");
        assert!(!shown.contains("s3cr3t"), "{shown}");
        assert!(shown.contains("text/html"), "{shown}");
    }
}

//! The behaviours of a server: answers, malformed answers, and none at all.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::{Shared, Stream};

/// What the server does with one request.
#[derive(Clone, Debug)]
pub struct Behaviour {
    pub(super) delay: Duration,
    pub(super) action: Action,
}

#[derive(Clone, Debug)]
pub(super) enum Action {
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    Drip {
        body: Vec<u8>,
        interval: Duration,
    },
    Endless {
        bytes: u64,
    },
    Raw(Vec<u8>),
    Pieces {
        pieces: Vec<Vec<u8>>,
        pause: Duration,
        end: End,
    },
    Truncated {
        body: Vec<u8>,
        missing: usize,
    },
    Close,
    Reset,
    Hang,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Properly.
    Close,
    /// It is reset (TCP RST).
    Reset,
    /// Not while the server runs: nothing more is sent.
    Stall,
}

impl Behaviour {
    /// A body with a status; `content-length` is added, `content-type` is the caller's.
    #[must_use]
    pub fn answer(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Action::Answer {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
        .into()
    }

    /// A JSON body with its content type.
    #[must_use]
    pub fn json(status: u16, body: &Value) -> Self {
        Self::answer(status, body.to_string()).header("content-type", "application/json")
    }

    /// A token answer of RFC 6749 §5.1 with `access_token`, `token_type` and `expires_in` (seconds).
    #[must_use]
    pub fn token(access_token: &str, expires_in: u64) -> Self {
        Self::json(
            200,
            &serde_json::json!({"access_token": access_token, "token_type": "Bearer", "expires_in": expires_in}),
        )
    }

    /// An OAuth error answer of RFC 6749 §5.2.
    #[must_use]
    pub fn oauth_error(status: u16, error: &str) -> Self {
        Self::json(status, &serde_json::json!({"error": error}))
    }

    /// A redirect (302) to `location`.
    #[must_use]
    pub fn redirect(location: &str) -> Self {
        Self::answer(302, "").header("location", location)
    }

    /// 429 with `Retry-After`, in seconds or as a date.
    #[must_use]
    pub fn too_many_requests(retry_after: &str) -> Self {
        Self::answer(429, "").header("retry-after", retry_after)
    }

    /// A JSON answer whose head comes at once and whose body comes one byte per `interval`.
    #[must_use]
    pub fn drip(body: &Value, interval: Duration) -> Self {
        Action::Drip {
            body: body.to_string().into_bytes(),
            interval,
        }
        .into()
    }

    /// 200 and a body of `bytes` bytes without a declared length, as fast as the client reads.
    #[must_use]
    pub fn endless(bytes: u64) -> Self {
        Action::Endless { bytes }.into()
    }

    /// These bytes and nothing else, then the end: an answer that is not HTTP.
    #[must_use]
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Action::Raw(bytes.into()).into()
    }

    /// These bytes, with a pause after each piece, and then this end.
    #[must_use]
    pub fn pieces<T: Into<Vec<u8>>>(
        pieces: impl IntoIterator<Item = T>,
        pause: Duration,
        end: End,
    ) -> Self {
        Action::Pieces {
            pieces: pieces.into_iter().map(Into::into).collect(),
            pause,
            end,
        }
        .into()
    }

    /// An answer that declares `missing` bytes more than it sends, then the end.
    #[must_use]
    pub fn truncated(body: impl Into<Vec<u8>>, missing: usize) -> Self {
        Action::Truncated {
            body: body.into(),
            missing,
        }
        .into()
    }

    /// Reads the request and closes the connection: a lost answer.
    #[must_use]
    pub fn close() -> Self {
        Action::Close.into()
    }

    /// Reads the request and resets the connection (TCP RST).
    #[must_use]
    pub fn reset() -> Self {
        Action::Reset.into()
    }

    /// Reads the request and never answers while the server runs.
    #[must_use]
    pub fn hang() -> Self {
        Action::Hang.into()
    }

    /// Adds a header field to an answer; other behaviours stay as they are.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Action::Answer { headers, .. } = &mut self.action {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// The same after a delay.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

impl From<Action> for Behaviour {
    fn from(action: Action) -> Self {
        Self {
            delay: Duration::ZERO,
            action,
        }
    }
}

/// Carries the action out; true if the connection can be used again.
pub(super) fn perform(action: Action, stream: &mut Stream, shared: &Shared) -> Result<bool> {
    match action {
        Action::Answer {
            status,
            headers,
            body,
        } => {
            let mut message = head(status, &headers, Some(body.len()));
            message.extend_from_slice(&body);
            stream.write_all(&message)?;
            stream.flush()?;
            return Ok(true);
        }
        Action::Drip { body, interval } => {
            let json = [("content-type".to_owned(), "application/json".to_owned())];
            stream.write_all(&head(200, &json, Some(body.len())))?;
            for byte in body {
                shared.rest(interval);
                stream.write_all(&[byte])?;
                stream.flush()?;
            }
            return Ok(true);
        }
        Action::Endless { bytes } => {
            stream.write_all(&head(200, &[], None))?;
            let block = [b'x'; 64 << 10];
            let mut left = bytes;
            while left > 0 && !shared.is_stopped() {
                let size = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
                stream.write_all(block.get(..size).unwrap_or_default())?;
                left -= size as u64;
            }
        }
        Action::Raw(bytes) => stream.write_all(&bytes)?,
        Action::Pieces { pieces, pause, end } => {
            for piece in pieces {
                stream.write_all(&piece)?;
                stream.flush()?;
                shared.rest(pause);
            }
            match end {
                End::Close => {}
                End::Reset => reset_at_end(stream)?,
                End::Stall => shared.rest(Duration::MAX),
            }
        }
        Action::Truncated { body, missing } => {
            let mut message = head(200, &[], Some(body.len() + missing));
            message.extend_from_slice(&body);
            stream.write_all(&message)?;
        }
        Action::Close => {}
        Action::Reset => reset_at_end(stream)?,
        Action::Hang => shared.rest(Duration::MAX),
    }
    Ok(false)
}

/// Has the connection reset when it is closed.
fn reset_at_end(stream: &Stream) -> Result<()> {
    rustix::net::sockopt::set_socket_linger(stream.socket(), Some(Duration::ZERO))?;
    Ok(())
}

fn head(status: u16, headers: &[(String, String)], length: Option<usize>) -> Vec<u8> {
    let reason = ureq::http::StatusCode::from_u16(status)
        .ok()
        .and_then(|code| code.canonical_reason())
        .unwrap_or("");
    let mut text = format!("HTTP/1.1 {status} {reason}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    match length {
        Some(length) => text.push_str(&format!("content-length: {length}\r\n\r\n")),
        None => text.push_str("connection: close\r\n\r\n"),
    }
    text.into_bytes()
}

//! One request and its answer: what a plugin asks for, what it gets, and the one place (`exchange`) where anything is sent.

use super::secrets::Value;
use crate::time::Timestamp;

/// What a request carries.
#[derive(Debug, Clone)]
pub enum Body {
    /// Nothing.
    Empty,
    /// `application/x-www-form-urlencoded`, spliced and encoded by the host.
    Form(Vec<(String, Value)>),
    /// Anything else; its `Content-Type` is among the headers.
    Content(Value),
}

/// A request as a plugin words it.
#[derive(Debug, Clone)]
pub struct Request {
    /// A method of RFC 9110, e.g. `POST`.
    pub method: String,
    /// Absolute.
    pub url: String,
    /// Added to the URL's own query, percent-encoded.
    pub query: Vec<(String, Value)>,
    /// Fields beside those that the host sets.
    pub headers: Vec<(String, Value)>,
    /// The content.
    pub body: Body,
}

/// An answer, read whole.
#[derive(Clone)]
pub struct Response {
    /// The status code, a 3xx like any other.
    pub status: u16,
    /// Names in lower case; repeated ones apart.
    pub headers: Vec<(String, String)>,
    /// The content.
    pub body: Vec<u8>,
    /// The moment before the request was sent: `expires_in` counts from here.
    pub sent_at: Timestamp,
}

use super::call::Call;
use super::host::Environment;
use crate::failure::{Failure, FailureKind};

/// Clients by what they were made from.
#[derive(Debug, Default)]
pub(super) struct Clients;

/// Which requests go through a proxy.
pub(super) struct ProxyRules;

impl ProxyRules {
    pub(super) fn from_environment(_environment: &Environment) -> Self {
        Self
    }
}

pub(super) async fn send(_call: &Call, _request: Request) -> Result<Response, Failure> {
    Err(Failure::new(
        FailureKind::Internal,
        "http.protocol",
        "not there yet",
    ))
}

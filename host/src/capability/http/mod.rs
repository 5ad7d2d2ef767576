//! Requests of plugins: what one looks like, and its way through the egress rules to an answer. What is sent is sent in
//! `exchange`, and nowhere else.

mod answer;
mod client;
mod coding;
mod connect;
mod egress;
mod error;
mod exchange;
mod message;
mod no_proxy;
mod proxy;
mod reading;
mod request;
mod resolve;
mod tls;
mod transport;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use percent_encoding::percent_decode_str;
use tokio::time::{Instant, timeout_at};

use super::call::Call;
use super::journal;
use super::secrets::Value;
use crate::config::origin::Origin;
use crate::failure::{Area, Failure, FailureKind, HostCode};
use crate::time::Timestamp;
use crate::worker;

pub use client::CONNECT_TIMEOUT;
pub use egress::{AddressKind, kind_of};
pub use request::{MAX_HEADERS, MAX_REQUEST_BYTES};
pub use transport::{Arrived, Arriving, Network, NoAnswer, Outgoing, Transport};

#[cfg(test)]
pub(super) use client::Clients;
pub(crate) use error::find as find_cause;
pub(crate) use proxy::{ProxyRules, userinfo_escaped};
pub(super) use reading::{Meaning, Reading, refusal};

use client::{Recipe, Trust};
use egress::Written;
use proxy::Proxy;
use request::Target;
use transport::Way;

/// Targets of the libraries that carry requests. At DEBUG and TRACE they describe frames and connections, some with what is in
/// them: a log set-up keeps them at WARN, whatever else it shows.
pub const QUIET_TARGETS: [&str; 8] = [
    "h2",
    "hyper",
    "hyper_rustls",
    "hyper_util",
    "reqwest",
    "rustls",
    "rustls_platform_verifier",
    "tower",
];

/// Where the audit events appear: one for each request, also for a refused one.
pub const AUDIT_TARGET: &str = "evertoken::audit";

/// Requests, and reading secrets, must end in this part of the call's time, so that the plugin is left with time to say what failed.
pub(super) const REQUEST_SHARE: f64 = 0.9;

/// A header, a field or a part of a query takes as long as spelling so many bytes, however short it is.
const BYTES_PER_PAIR: usize = 64;

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

impl Request {
    /// Every value in it, wherever it stands.
    pub(super) fn values(&self) -> impl Iterator<Item = &Value> {
        let (fields, content): (&[(String, Value)], _) = match &self.body {
            Body::Empty => (&[], None),
            Body::Form(fields) => (fields, None),
            Body::Content(value) => (&[], Some(value)),
        };
        self.query
            .iter()
            .chain(&self.headers)
            .chain(fields)
            .map(|(_, value)| value)
            .chain(content)
    }

    /// Every text in it that is no secret's, names included.
    pub(super) fn texts(&self) -> impl Iterator<Item = &[u8]> {
        let fields: &[(String, Value)] = match &self.body {
            Body::Form(fields) => fields,
            Body::Empty | Body::Content(_) => &[],
        };
        let names = self.query.iter().chain(&self.headers).chain(fields);
        let names = names.map(|(name, _)| name.as_bytes());
        let own = self.values().filter(|value| value.secret().is_none());
        names
            .chain(own.map(Value::expose))
            .chain([self.url.as_bytes()])
    }

    /// The same with other values.
    pub(super) fn try_map<E>(self, map: impl Fn(Value) -> Result<Value, E>) -> Result<Self, E> {
        let pairs = |pairs: Vec<(String, Value)>| {
            let pairs = pairs.into_iter();
            pairs
                .map(|(name, value)| Ok((name, map(value)?)))
                .collect::<Result<_, E>>()
        };
        Ok(Self {
            query: pairs(self.query)?,
            headers: pairs(self.headers)?,
            body: match self.body {
                Body::Empty => Body::Empty,
                Body::Form(fields) => Body::Form(pairs(fields)?),
                Body::Content(value) => Body::Content(map(value)?),
            },
            ..self
        })
    }

    /// Where it goes, if it can be sent anywhere.
    pub(super) fn origin(&self) -> Option<Origin> {
        Target::of(self).ok().map(|target| target.origin)
    }
}

/// An answer, read whole.
#[derive(Clone, PartialEq, Eq)]
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

impl Response {
    /// Bytes of its headers and its content.
    pub(super) fn size(&self) -> usize {
        let headers = self.headers.iter();
        let in_headers: usize = headers.map(|(name, value)| name.len() + value.len()).sum();
        in_headers + self.body.len()
    }

    /// What the other side's clock showed, by its `Date` header (RFC 9110 §6.6.1).
    #[must_use]
    pub fn date(&self) -> Option<Timestamp> {
        let (_, date) = self.headers.iter().find(|(name, _)| name == "date")?;
        read_date(date)
    }
}

/// A date as HTTP writes it (RFC 9110 §5.6.7).
pub(crate) fn read_date(text: &str) -> Option<Timestamp> {
    let date = DateTime::strptime("%a, %d %b %Y %H:%M:%S GMT", text).ok()?;
    let date = date.to_zoned(TimeZone::UTC).ok()?.timestamp();
    Some(Timestamp(u64::try_from(date.as_millisecond()).ok()?))
}

/// Neither headers nor body: there are tokens in them.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("bytes", &self.body.len())
            .field("sent_at", &self.sent_at)
            .finish_non_exhaustive()
    }
}

/// Sends a plugin's request, if it may be sent, and reads the answer whole.
pub(super) async fn send(call: &Call, request: Request) -> Result<Response, Failure> {
    let began = Instant::now();
    let read_url = || Target::of(&request);
    let target = worker::in_turn_if_large(request.url.len(), read_url).await?;
    let timeout = call.0.job.source.timeout.mul_f64(REQUEST_SHARE);
    let outcome = timeout_at(call.0.began + timeout, answered(call, &target, &request))
        .await
        .unwrap_or_else(|_| Err(error::timed_out(&target, timeout)));
    audit(call, &target, began.elapsed(), &outcome).await;
    if let Ok(response) = &outcome {
        let look = || answer::secrets_in(response, &mut |secret| call.remember(secret.as_bytes()));
        worker::in_turn_if_large(response.size(), look).await;
    }
    outcome
}

async fn answered(call: &Call, target: &Target, request: &Request) -> Result<Response, Failure> {
    let source = &call.0.job.source;
    let job = call.0.job.id.to_string();
    egress::check_origin(&target.origin, &job, &call.0.endpoints, &source.allow)?;
    check_literal(
        call,
        "the URL's host",
        target.origin.host(),
        Written::Literal,
    )?;
    let prepare = || request::prepare(target, request);
    let prepared = worker::in_turn_if_large(bytes_of(request), prepare).await?;
    let host = &call.0.host;
    let proxy = host.proxies.proxy_for(&target.url, source.proxy.as_ref())?;
    if let Some(address) = proxy.as_ref().and_then(|proxy| proxy.uri.host()) {
        check_literal(call, "the proxy", address, Written::Proxy)?;
    }
    let through = proxy.as_ref().map(|proxy| proxy.uri.to_string());
    let recipe = recipe(call, target, proxy)?;
    let outgoing = Outgoing {
        method: prepared.method,
        url: prepared.url,
        headers: prepared.headers,
        body: prepared.body,
        way: Way {
            target: target.clone(),
            through,
            recipe,
            limit: call.0.limits.response_bytes,
            is_rotating: !prepared.rotating.is_empty(),
        },
    };
    call.note_request(!prepared.rotating.is_empty());
    let may_leave = check_open(call, &target.origin, request);
    if prepared.rotating.is_empty() {
        may_leave?;
        let question = outgoing.question();
        let arriving = Arriving::new(Arrived::nothing_yet(host.clock.now().wall));
        let outcome = host.transport.exchange(outgoing, &arriving).await;
        let arrived = arriving.borrow().clone();
        return question
            .answered_by(&arrived, outcome)
            .await
            .map(|reading| reading.response)
            .map_err(|none| none.failure);
    }
    let flights = call.flights(&prepared.rotating)?;
    journal::send(call, flights, outgoing, may_leave).await
}

/// Whether a request that the journal has no answer to may leave: where a job's endpoint was taken out, nothing goes any more.
fn check_open(call: &Call, origin: &Origin, request: &Request) -> Result<(), Failure> {
    let source = &call.0.job.source;
    let names = request.values().filter_map(Value::secret);
    let mut names = names.flat_map(|secret| secret.lineage().names());
    let is_open = call.0.open_endpoints.contains(origin)
        || source.allow.contains(origin)
            && names.all(|name| {
                source
                    .secrets
                    .get(name)
                    .is_some_and(|secret| secret.to.is_some())
            });
    if is_open {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::InvalidConfig,
        HostCode::HttpOriginDenied,
        format!(
            "the plugin asked to send a request to {origin}, an endpoint of the configuration that the answer it reads was asked for with; the present one has it no more"
        ),
    ))
}

/// What there is to spell.
fn bytes_of(request: &Request) -> usize {
    let of_pairs = |pairs: &[(String, Value)]| -> usize {
        let each = pairs
            .iter()
            .map(|(name, value)| name.len() + value.expose().len() + BYTES_PER_PAIR);
        each.sum()
    };
    let content = match &request.body {
        Body::Empty => 0,
        Body::Form(fields) => of_pairs(fields),
        Body::Content(content) => content.expose().len(),
    };
    of_pairs(&request.query) + of_pairs(&request.headers) + content
}

/// An address that is written as such does not pass the resolver.
fn check_literal(call: &Call, what: &str, host: &str, written: Written) -> Result<(), Failure> {
    let Some(address) = egress::literal(host) else {
        return Ok(());
    };
    let exceptions = call.0.job.source.allow_addresses.iter().copied().collect();
    egress::check_address(address, written, &exceptions)
        .map_err(|kind| error::address_denied(what, address, kind))
}

fn recipe(call: &Call, target: &Target, proxy: Option<Proxy>) -> Result<Recipe, Failure> {
    let source = &call.0.job.source;
    let https = target.origin.scheme() == "https";
    let https_proxy = proxy
        .as_ref()
        .is_some_and(|proxy| proxy.uri.scheme_str() == Some("https"));
    let trust = match &source.tls.ca_file {
        _ if !https && !https_proxy => Trust::Nobody,
        Some(file) => Trust::File(file.clone()),
        None => Trust::System,
    };
    // The client certificate is a credential: it goes where the secrets go.
    let identity = match (&source.tls.cert_file, &source.tls.key_file) {
        _ if !https || !call.0.open_endpoints.contains(&target.origin) => None,
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (Some(both), None) => Some((both.clone(), both.clone())),
        (None, None) => None,
        (None, Some(_)) => {
            return Err(Failure::new(
                FailureKind::InvalidConfig,
                HostCode::TlsCertFile,
                "`source.tls.key_file` without `cert_file`; name the certificate too",
            ));
        }
    };
    Ok(Recipe {
        trust,
        identity,
        proxy,
        allow_addresses: source.allow_addresses.iter().copied().collect(),
    })
}

/// One event for each request: what was asked of whom and how it went, never a query, a header or a body.
async fn audit(call: &Call, target: &Target, took: Duration, outcome: &Result<Response, Failure>) {
    if !tracing::enabled!(target: AUDIT_TARGET, tracing::Level::INFO) {
        return;
    }
    let job = &call.0.job.id;
    let plugin = &call.0.job.source.plugin;
    let method = call.scrub(target.method.as_str());
    let origin = call.scrub(&target.origin.to_string());
    let show = || path_shown(call, &target.url);
    let path = worker::in_turn_if_large(target.url.as_str().len(), show).await;
    let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Ok(Response { status, body, .. }) => tracing::info!(
            target: AUDIT_TARGET, %job, %plugin, method, origin, path, status, bytes = body.len(), duration_ms, "request"
        ),
        Err(failure) if is_of_exchange(failure) => tracing::info!(
            target: AUDIT_TARGET, %job, %plugin, method, origin, path, code = failure.code(), duration_ms, "request without answer"
        ),
        Err(failure) => tracing::info!(
            target: AUDIT_TARGET, %job, %plugin, method, origin, path, code = failure.code(), "request not sent"
        ),
    }
}

/// Whether the other side, or the way to it, had a part in a failure. Else nothing has left.
fn is_of_exchange(failure: &Failure) -> bool {
    let area = failure.host_code().map(HostCode::area);
    failure.kind != FailureKind::InvalidConfig && area == Some(Area::Http)
}

/// The path as it was asked for, unless there is a secret in it in whatever mix of spellings: then decoded and without it.
fn path_shown(call: &Call, url: &url::Url) -> String {
    let decoded = percent_decode_str(url.path()).decode_utf8_lossy();
    let scrubbed = call.scrub(&decoded);
    if scrubbed == decoded {
        call.scrub(url.path())
    } else {
        scrubbed
    }
}

//! A plugin's request, from the egress rules to its answer.

use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio::time::{Instant, timeout_at};

use super::Call;
use crate::capability::http::egress::Provenance;
use crate::capability::http::proxy::Proxy;
use crate::capability::http::recipe::{Recipe, Trust};
use crate::capability::http::request::RequestTarget;
use crate::capability::http::transport::Route;
use crate::capability::http::{
    Arrived, Arriving, Body, Outgoing, Request, RequestFacts, Response, answer, egress, error,
    request,
};
use crate::capability::journal::{self, ExchangeContext};
use crate::capability::secrets::Value;
use crate::model::Origin;
use crate::model::failure::{Area, Failure, FailureKind, HostCode};
use crate::worker;

/// The log target of audit events: one for each request, also for a refused one.
const AUDIT_TARGET: &str = "evertoken::audit";

/// Requests, and reading secrets, must end in this part of the call's timeout, so that the plugin has time left to report the
/// failure.
pub(super) const REQUEST_SHARE: f64 = 0.9;

/// Encoding a header, a field or a part of a query takes as long as so many bytes, however short it is.
const BYTES_PER_PAIR: usize = 64;

/// Sends a plugin's request, if it may be sent, and reads the answer whole.
pub(super) async fn send(call: &Call, request: Request) -> Result<Response, Failure> {
    let began = Instant::now();
    let read_url = || RequestTarget::of(&request);
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

async fn answered(
    call: &Call,
    target: &RequestTarget,
    request: &Request,
) -> Result<Response, Failure> {
    let source = &call.0.job.source;
    let job = call.0.job.id.to_string();
    egress::check_origin(&target.origin, &job, &call.0.endpoints, &source.allow)?;
    check_literal(
        call,
        "the URL's host",
        target.origin.host(),
        Provenance::Literal,
    )?;
    let prepare = || request::prepare(target, request);
    let prepared = worker::in_turn_if_large(bytes_of(request), prepare).await?;
    let host = &call.0.host;
    let proxy = host
        .proxies
        .proxy_for(&target.url, source.proxy.as_deref())?;
    if let Some(address) = proxy.as_ref().and_then(|proxy| proxy.uri.host()) {
        check_literal(call, "the proxy", address, Provenance::Proxy)?;
    }
    let through = proxy.as_ref().map(|proxy| proxy.uri.to_string());
    let recipe = recipe(call, target, proxy)?;
    let outgoing = Outgoing {
        method: prepared.method,
        url: prepared.url,
        headers: prepared.headers,
        body: prepared.body,
        way: Route {
            target: target.clone(),
            through,
            recipe,
            limit: host.ports.limits.load().response_bytes,
            is_rotating: !prepared.rotating.is_empty(),
        },
    };
    call.note_request(!prepared.rotating.is_empty());
    let may_leave = check_open(call, &target.origin, request);
    if prepared.rotating.is_empty() {
        may_leave?;
        let question = RequestFacts::of(&outgoing);
        let arriving = Arriving::new(Arrived::nothing_yet(host.ports.clock.now().wall));
        let outcome = host.ports.transport.exchange(outgoing, &arriving).await;
        let arrived = arriving.borrow().clone();
        return question
            .answered_by(&arrived, outcome)
            .await
            .map(|reading| reading.response)
            .map_err(|none| none.failure);
    }
    let guards = call.guards(&prepared.rotating)?;
    let scrubbing = call.clone();
    let asked = ExchangeContext {
        journal: Arc::clone(&host.journal),
        job: Arc::clone(&call.0.job),
        plugin: call.held().plugin().clone(),
        scrub: Box::new(move |text| scrubbing.scrub(text)),
    };
    journal::send(asked, guards, outgoing, may_leave).await
}

/// Whether a request without a stored answer may be sent: not if the job's endpoint was removed from the configuration.
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

/// Bytes to encode.
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

/// A literal address does not pass the resolver.
fn check_literal(call: &Call, what: &str, host: &str, written: Provenance) -> Result<(), Failure> {
    let Some(address) = egress::literal(host) else {
        return Ok(());
    };
    let exceptions = call.0.job.source.allow_addresses.iter().copied().collect();
    egress::check_address(address, written, &exceptions)
        .map_err(|kind| error::address_denied(what, address, kind))
}

fn recipe(call: &Call, target: &RequestTarget, proxy: Option<Proxy>) -> Result<Recipe, Failure> {
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
    // The client certificate is a credential: it is only used where secrets may be sent.
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

/// One event for each request: its target and its result, never a query, a header or a body.
async fn audit(
    call: &Call,
    target: &RequestTarget,
    took: Duration,
    outcome: &Result<Response, Failure>,
) {
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

/// Whether the other side, or the network, had a part in a failure. Otherwise nothing was sent.
fn is_of_exchange(failure: &Failure) -> bool {
    let area = failure.host_code().map(HostCode::area);
    failure.kind != FailureKind::InvalidConfig && area == Some(Area::Http)
}

/// The requested path, unless it contains a secret in any mix of encodings: then decoded and without the secret.
fn path_shown(call: &Call, url: &url::Url) -> String {
    let decoded = percent_decode_str(url.path()).decode_utf8_lossy();
    let scrubbed = call.scrub(&decoded);
    if scrubbed == decoded {
        call.scrub(url.path())
    } else {
        scrubbed
    }
}

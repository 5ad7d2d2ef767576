//! The exchange: the one place where a request leaves the process and its answer is read. It happens once: nothing is repeated
//! here.

use reqwest::{Client, Request, Response as Answer};

use super::Response;
use super::error;
use super::request::Target;
use super::transport::{NoAnswer, Outgoing};
use crate::failure::Failure;
use crate::time::Timestamp;

/// Bytes that a header takes beside name and value.
const HEADER_OVERHEAD: usize = 4;

/// Sends the request and reads its answer within the limit on headers and body together.
pub(super) async fn exchange(
    client: &Client,
    outgoing: Outgoing,
    sent_at: Timestamp,
) -> Result<Response, NoAnswer> {
    let way = outgoing.way;
    let mut request = Request::new(outgoing.method, outgoing.url);
    *request.headers_mut() = outgoing.headers;
    if !outgoing.body.is_empty() {
        *request.body_mut() = Some(outgoing.body.into());
    }
    let answer = client
        .execute(request)
        .await
        .map_err(|error| no_answer(&way.target, way.through.as_deref(), error))?;
    read(answer, &way.target, sent_at, way.limit)
        .await
        .map_err(NoAnswer::after_sending)
}

/// Only what fails while resolving, connecting or shaking hands has sent nothing. A refusal of the client certificate comes after
/// the request in TLS 1.3.
fn no_answer(target: &Target, through: Option<&str>, error: reqwest::Error) -> NoAnswer {
    let was_sent = !error.is_connect();
    NoAnswer {
        failure: error::no_answer(target, through, &error.without_url()),
        was_sent,
    }
}

async fn read(
    mut answer: Answer,
    target: &Target,
    sent_at: Timestamp,
    limit: usize,
) -> Result<Response, Failure> {
    let headers: Vec<(String, String)> = answer
        .headers()
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect();
    let mut room = headers
        .iter()
        .map(|(name, value)| name.len() + value.len() + HEADER_OVERHEAD)
        .try_fold(limit, usize::checked_sub)
        .ok_or_else(|| error::too_large(target, limit))?;
    let status = answer.status().as_u16();
    let mut body = Vec::new();
    // Content-Length is the server's word; what counts is what comes.
    while let Some(chunk) = answer
        .chunk()
        .await
        .map_err(|error| error::broken_off(target, &error.without_url()))?
    {
        room = room
            .checked_sub(chunk.len())
            .ok_or_else(|| error::too_large(target, limit))?;
        body.extend_from_slice(&chunk);
    }
    Ok(Response {
        status,
        headers,
        body,
        sent_at,
    })
}

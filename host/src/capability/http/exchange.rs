//! The exchange: the one place where a request leaves the process and its answer is read. A journal of rotating secrets goes
//! around this function.

use reqwest::{Client, Request, Response as Answer};

use super::Response;
use super::error;
use super::request::{Prepared, Target};
use crate::failure::Failure;
use crate::time::Timestamp;

/// Bytes that a header takes beside name and value.
const HEADER_OVERHEAD: usize = 4;

/// Sends `prepared` and reads at most `limit` bytes of headers and body together.
pub(super) async fn exchange(
    client: &Client,
    target: &Target,
    through: Option<&str>,
    prepared: Prepared,
    sent_at: Timestamp,
    limit: usize,
) -> Result<Response, Failure> {
    let mut request = Request::new(prepared.method, prepared.url);
    *request.headers_mut() = prepared.headers;
    if !prepared.body.is_empty() {
        *request.body_mut() = Some(prepared.body.into());
    }
    let answer = client
        .execute(request)
        .await
        .map_err(|error| error::no_answer(target, through, &error.without_url()))?;
    read(answer, target, sent_at, limit).await
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

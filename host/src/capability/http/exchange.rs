//! The exchange: the one place where a request leaves the process and its answer arrives. Each uses a connection of its own:
//! nothing is retried here, and no idle connection is reused that the other side may be closing.

use std::io;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use url::Position;
use zeroize::Zeroizing;

use super::connect::{Connection, connect};
use super::error;
use super::message::{Progress, ReadEnd};
use super::reading::ReadAnswer;
use super::recipe::USER_AGENT;
use super::transport::{Arriving, NoAnswer, Outgoing, Route};

/// After this pause an answer counts as complete that is not so by its framing, if its body is a whole object with a token in it:
/// nothing that matters follows, and waiting for the rest of a wrong length would delay the token.
const LULL: Duration = Duration::from_millis(100);

/// After this pause an answer counts as complete if only its framing or only its content says so; and so does an empty one that
/// should have had the next value of a rotating secret.
const LONG_LULL: Duration = Duration::from_secs(2);

/// Longer than any timeout.
const FOR_EVER: Duration = Duration::from_secs(86_400);

/// If an answer that may have the next value of a rotating secret is larger than the limit, its middle is discarded, up to so
/// many times the limit.
const MOST_LEFT_OUT: usize = 16;

/// Bytes per read.
const READ: usize = 16 * 1024;

/// Sends the request and reads its answer, byte for byte, until it ends or exceeds the limit.
pub(super) async fn exchange(
    client: &Client,
    outgoing: Outgoing,
    arriving: &Arriving,
) -> Result<(), NoAnswer> {
    let mut connection = connect(client, &outgoing.way)
        .await
        .map_err(NoAnswer::before_sending)?;
    let written = write(&mut connection, &outgoing).await;
    // A server may answer before it has read the whole request, and refuse the rest.
    let read = read(&mut connection, &outgoing, arriving).await;
    match written {
        Err(error) if arriving.borrow().bytes.is_empty() => Err(broken_off(&outgoing.way, &error)),
        _ => read,
    }
}

fn broken_off(way: &Route, error: &io::Error) -> NoAnswer {
    NoAnswer::after_sending(error::broken_off(
        &way.target,
        way.through.as_deref(),
        error,
    ))
}

async fn write(connection: &mut Connection, outgoing: &Outgoing) -> io::Result<()> {
    connection.write_all(&spelled(outgoing)).await?;
    connection.write_all(&outgoing.body).await?;
    connection.flush().await
}

/// The request's head (RFC 9112 §3).
fn spelled(outgoing: &Outgoing) -> Zeroizing<Vec<u8>> {
    let Outgoing {
        method,
        url,
        headers,
        body,
        way,
    } = outgoing;
    let plain_proxy = way.recipe.proxy.as_ref().filter(|_| url.scheme() == "http");
    let target = if plain_proxy.is_some() {
        &url[..Position::AfterQuery]
    } else {
        &url[Position::BeforePath..Position::AfterQuery]
    };
    let host = &url[Position::BeforeHost..Position::AfterPort];
    let mut head = Zeroizing::new(Vec::with_capacity(1024 + target.len()));
    for part in [
        method.as_str(),
        " ",
        target,
        " HTTP/1.1\r\nhost: ",
        host,
        "\r\n",
    ] {
        head.extend_from_slice(part.as_bytes());
    }
    let mut own = HeaderMap::new();
    let mut add = |name: HeaderName, value: HeaderValue| {
        if !headers.contains_key(&name) {
            own.insert(name, value);
        }
    };
    add(header::CONNECTION, HeaderValue::from_static("close"));
    add(header::ACCEPT, HeaderValue::from_static("*/*"));
    add(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    add(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    if !body.is_empty() || !method.is_safe() {
        add(header::CONTENT_LENGTH, body.len().into());
    }
    if let Some(authorization) = plain_proxy.and_then(|proxy| proxy.authorization.clone()) {
        add(header::PROXY_AUTHORIZATION, authorization);
    }
    for (name, value) in own.iter().chain(headers) {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Reads available data, also before an error: of TLS records that arrived together the library first reports that one of them is
/// wrong, and only then returns those before it.
async fn read_piece(connection: &mut Connection, buffer: &mut [u8]) -> io::Result<usize> {
    let error = match connection.read(buffer).await {
        Err(error) => error,
        read => return read,
    };
    match timeout(Duration::ZERO, connection.read(buffer)).await {
        Ok(Ok(read)) if read > 0 => Ok(read),
        _ => Err(error),
    }
}

async fn read(
    connection: &mut Connection,
    outgoing: &Outgoing,
    arriving: &Arriving,
) -> Result<(), NoAnswer> {
    let way = &outgoing.way;
    let method = outgoing.method.as_str();
    let expects_a_body = way.is_rotating && outgoing.method != Method::HEAD;
    let so_far = async || {
        let arrived = arriving.borrow().clone();
        let reading = ReadAnswer::of(&arrived, method, false, way.limit).await;
        reading.filter(|reading| reading.is_whole && !(expects_a_body && reading.is_bare()))
    };
    let mut progress = Progress::to(method);
    let mut buffer = Zeroizing::new(vec![0; READ]);
    let mut last_came = Instant::now();
    // The pause after which to decide whether the answer is complete; none: not before more has arrived.
    let mut lull: Option<Duration> = None;
    let mut is_at_end = false;
    loop {
        let until = last_came + lull.unwrap_or(FOR_EVER);
        let read = match timeout_at(until, read_piece(connection, &mut buffer)).await {
            Ok(Ok(0)) if is_at_end || progress.ends_with_connection() => return Ok(()),
            Ok(Ok(0)) => return Err(broken_off(way, &io::ErrorKind::UnexpectedEof.into())),
            Ok(Ok(read)) => read,
            Ok(Err(_)) if is_at_end => return Ok(()),
            Ok(Err(error)) => return Err(broken_off(way, &error)),
            Err(_) if lull == Some(LONG_LULL) => return Ok(()),
            Err(_) => match so_far().await {
                Some(reading) if reading.has_token => return Ok(()),
                whole => {
                    lull = (is_at_end || whole.is_some()).then_some(LONG_LULL);
                    continue;
                }
            },
        };
        last_came = Instant::now();
        lull = Some(LULL);
        let mut look = ReadEnd::MoreToCome;
        let mut is_too_large = false;
        arriving.send_modify(|arrived| {
            let piece = buffer.get(..read).unwrap_or_default();
            arrived.bytes.extend_from_slice(piece);
            look = progress.look(&mut arrived.bytes);
            if arrived.bytes.len() > way.limit && way.is_rotating {
                progress.leave_out_the_middle(&mut arrived.bytes, way.limit);
                is_too_large = progress.left_out() > MOST_LEFT_OUT.saturating_mul(way.limit);
            } else if arrived.bytes.len() > way.limit {
                arrived.bytes.truncate(way.limit);
                is_too_large = true;
            }
        });
        if is_too_large {
            return Err(NoAnswer::after_sending(error::too_large(
                &way.target,
                way.limit,
            )));
        }
        match look {
            ReadEnd::MoreToCome => {}
            ReadEnd::OnlyInterim => {
                return Err(NoAnswer::after_sending(error::only_interim(&way.target)));
            }
            ReadEnd::AtEnd if is_at_end => {}
            ReadEnd::AtEnd if so_far().await.is_some() => return Ok(()),
            ReadEnd::AtEnd => is_at_end = true,
        }
    }
}

//! A small HTTP/1.1 server that records every request and answers, or fails to answer, exactly as told.
//! Written on plain sockets because most of what it must do is what a well-kept server library prevents: drip, break off, talk garbage,
//! never end. Head and body of an answer go out in one write, so that no measurement contains Nagle's delay.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::{POLL, lock};

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
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(encoded.trim())
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

/// What the server does with one request.
#[derive(Clone, Debug)]
pub struct Behaviour {
    delay: Duration,
    action: Action,
}

#[derive(Clone, Debug)]
enum Action {
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
    Truncated {
        body: Vec<u8>,
        missing: usize,
    },
    Close,
    Reset,
    Hang,
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

    /// 200 and a body of `bytes` bytes without a declared length, as fast as it is taken.
    #[must_use]
    pub fn endless(bytes: u64) -> Self {
        Action::Endless { bytes }.into()
    }

    /// These bytes and nothing else, then the end: what is no HTTP.
    #[must_use]
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Action::Raw(bytes.into()).into()
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

    /// Reads the request and never answers while the server lives.
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

/// Decides what happens to a request.
pub type Handler = dyn Fn(&Request) -> Behaviour + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    tls: Option<Arc<ServerConfig>>,
    requests: Mutex<Vec<Request>>,
    connections: Mutex<HashMap<u64, TcpStream>>,
    next_connection: AtomicU64,
    /// Ends the accepting thread and every behaviour that waits.
    stopped: AtomicBool,
}

/// The server, on a port of 127.0.0.1; gone on drop.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Starts on a free port.
    ///
    /// # Errors
    ///
    /// When no port can be bound.
    pub fn start(tls: Option<Arc<ServerConfig>>, handler: Box<Handler>) -> Result<Self> {
        let port = crate::workdir::free_port()?;
        let shared = Shared {
            handler,
            tls,
            requests: Mutex::default(),
            connections: Mutex::default(),
            next_connection: AtomicU64::new(1),
            stopped: AtomicBool::new(true),
        };
        let server = Self {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            shared: Arc::new(shared),
            accepting: Mutex::new(None),
        };
        server.up()?;
        Ok(server)
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Whether it speaks TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.shared.tls.is_some()
    }

    /// Every request so far, in the order of their arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// Connections accepted so far; those that never sent a request count as well.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.next_connection.load(Ordering::SeqCst) - 1
    }

    /// Closes the port and every connection: from now on connecting is refused.
    pub fn down(&self) {
        if self.shared.stopped.swap(true, Ordering::SeqCst) {
            return;
        }
        // The accepting thread looks at the flag after each connection; this one wakes it.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = lock(&self.accepting).take() {
            let _ = thread.join();
        }
        for (_, stream) in lock(&self.shared.connections).drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Listens again on the same port.
    ///
    /// # Errors
    ///
    /// When somebody else took the port meanwhile.
    pub fn up(&self) -> Result<()> {
        let mut accepting = lock(&self.accepting);
        if accepting.is_some() {
            return Ok(());
        }
        let listener = TcpListener::bind(self.address)
            .with_context(|| format!("cannot listen on {}", self.address))?;
        self.shared.stopped.store(false, Ordering::SeqCst);
        let shared = Arc::clone(&self.shared);
        *accepting = Some(std::thread::spawn(move || accept(&listener, &shared)));
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.down();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let Ok(twin) = stream.try_clone() else {
            continue;
        };
        let number = shared.next_connection.fetch_add(1, Ordering::SeqCst);
        lock(&shared.connections).insert(number, twin);
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            // A client that hangs up, or refuses our certificate, is what many tests are about: no reason to stop.
            let _ = converse(stream, number, &shared);
            lock(&shared.connections).remove(&number);
        });
    }
}

/// One connection: requests are served until one side ends it.
fn converse(stream: TcpStream, number: u64, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = match &shared.tls {
        None => Stream::Plain(stream),
        Some(config) => Stream::Tls(Box::new(StreamOwned::new(
            ServerConnection::new(Arc::clone(config))?,
            stream,
        ))),
    };
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer, number)? {
        lock(&shared.requests).push(request.clone());
        let behaviour = (shared.handler)(&request);
        rest(behaviour.delay, shared);
        if !perform(behaviour.action, &mut stream, shared)? {
            break;
        }
    }
    stream.finish();
    Ok(())
}

/// Carries the action out; true if the connection can be used again.
fn perform(action: Action, stream: &mut Stream, shared: &Shared) -> Result<bool> {
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
                rest(interval, shared);
                stream.write_all(&[byte])?;
                stream.flush()?;
            }
        }
        Action::Endless { bytes } => {
            stream.write_all(&head(200, &[], None))?;
            let block = [b'x'; 64 << 10];
            let mut left = bytes;
            while left > 0 && !shared.stopped.load(Ordering::SeqCst) {
                let size = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
                stream.write_all(block.get(..size).unwrap_or_default())?;
                left -= size as u64;
            }
        }
        Action::Raw(bytes) => stream.write_all(&bytes)?,
        Action::Truncated { body, missing } => {
            let mut message = head(200, &[], Some(body.len() + missing));
            message.extend_from_slice(&body);
            stream.write_all(&message)?;
        }
        Action::Close => {}
        Action::Reset => {
            rustix::net::sockopt::set_socket_linger(stream.socket(), Some(Duration::ZERO))?
        }
        Action::Hang => rest(Duration::MAX, shared),
    }
    Ok(false)
}

/// Sleeps, but not beyond the server's end.
fn rest(duration: Duration, shared: &Shared) {
    let start = Instant::now();
    while !shared.stopped.load(Ordering::SeqCst) {
        let left = duration.saturating_sub(start.elapsed());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(POLL));
    }
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

/// The next request, or none when the client is done. `buffer` holds what was read beyond the last one.
fn read_request(
    stream: &mut Stream,
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

fn fill(stream: &mut Stream, buffer: &mut Vec<u8>) -> Result<bool> {
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

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        }
    }

    /// Says goodbye in TLS, so that a body that ends with the connection ends well.
    fn finish(&mut self) {
        if let Self::Tls(stream) = self {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

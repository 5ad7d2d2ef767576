//! A small HTTP/1.1 server that records every request and answers, or fails to answer, exactly as scripted.
//! Written on plain sockets because server libraries prevent most of what it must do: drip, break off, send garbage, never end.
//! Head and body of an answer are sent in one write, so that no measurement contains Nagle's delay.

mod behaviour;
mod request;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

pub use behaviour::{Behaviour, End};
pub use request::Request;

use crate::{POLL, lock};
use behaviour::perform;
use request::read_request;

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

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Sleeps, but not beyond the server's end.
    fn rest(&self, duration: Duration) {
        let start = Instant::now();
        while !self.is_stopped() {
            let left = duration.saturating_sub(start.elapsed());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(POLL));
        }
    }
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
    /// When another process took the port meanwhile.
    pub fn up(&self) -> Result<()> {
        let mut accepting = lock(&self.accepting);
        if accepting.is_some() {
            return Ok(());
        }
        let listener =
            listen(self.address).with_context(|| format!("cannot listen on {}", self.address))?;
        self.shared.stopped.store(false, Ordering::SeqCst);
        let shared = Arc::clone(&self.shared);
        *accepting = Some(std::thread::spawn(move || accept(&listener, &shared)));
        Ok(())
    }
}

/// A child that another test is starting has our closed sockets, too, until it becomes another program: a port that was just given
/// back is taken for a moment.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let until = Instant::now() + Duration::from_secs(2);
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            bound => return bound,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.down();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.is_stopped() {
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
            // A client that hangs up, or refuses our certificate, is expected by many tests: no reason to stop.
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
        shared.rest(behaviour.delay);
        if !perform(behaviour.action, &mut stream, shared)? {
            break;
        }
    }
    stream.finish();
    Ok(())
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

    /// Closes TLS properly, so that a body that ends with the connection is complete.
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

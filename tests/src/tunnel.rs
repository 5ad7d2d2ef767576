//! A forward proxy like those of companies: it reaches what its clients cannot, by HTTP `CONNECT` or by SOCKS5, and records their
//! targets.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use data_encoding::BASE64;

use crate::lock;

/// The protocol of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP `CONNECT`.
    Connect,
    /// SOCKS5 without authentication.
    Socks5,
}

/// The proxy, on a port of 127.0.0.1; accepts no more connections once dropped.
#[derive(Debug)]
pub struct Tunnel {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    protocol: Protocol,
    leads_to: SocketAddr,
    credentials: Option<String>,
    targets: Mutex<Vec<String>>,
    stopped: AtomicBool,
}

impl Tunnel {
    /// A proxy that connects all clients to `leads_to`, whatever target they name. With `credentials` (`user:password`), an HTTP
    /// proxy refuses clients without them.
    ///
    /// # Errors
    ///
    /// When no port can be bound.
    pub fn start(
        protocol: Protocol,
        leads_to: SocketAddr,
        credentials: Option<&str>,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            protocol,
            leads_to,
            credentials: credentials
                .map(|text| format!("Basic {}", BASE64.encode(text.as_bytes()))),
            targets: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { return };
                let shared = Arc::clone(&accepting);
                // A client that breaks off is no failure of the proxy.
                std::thread::spawn(move || shared.serve(&client));
            }
        });
        Ok(Self { address, shared })
    }

    /// Host and port.
    #[must_use]
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// The targets that clients asked for and were connected instead of, as `host:port`, in the order of their arrival.
    #[must_use]
    pub fn targets(&self) -> Vec<String> {
        lock(&self.shared.targets).clone()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn serve(&self, client: &TcpStream) -> Result<()> {
        let target = match self.protocol {
            Protocol::Connect => self.connect(client)?,
            Protocol::Socks5 => socks5(client)?,
        };
        lock(&self.targets).push(target);
        let upstream = TcpStream::connect(self.leads_to)?;
        let (from, to) = (client.try_clone()?, upstream.try_clone()?);
        let there = std::thread::spawn(move || pump(&from, &to));
        pump(&upstream, client);
        let _ = there.join();
        Ok(())
    }

    fn connect(&self, mut client: &TcpStream) -> Result<String> {
        // Nothing follows the head before it is answered, so nothing is lost in the buffer.
        let mut lines = BufReader::new(client).lines();
        let first = lines.next().context("no request")??;
        let mut authorization = None;
        for line in lines {
            let line = line?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("proxy-authorization")
            {
                authorization = Some(value.trim().to_owned());
            }
        }
        if self.credentials.is_some() && authorization != self.credentials {
            client.write_all(
                b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
            )?;
            anyhow::bail!("not authorized");
        }
        let mut words = first.split(' ');
        ensure!(words.next() == Some("CONNECT"), "not a CONNECT: {first}");
        let target = words.next().context("no target")?.to_owned();
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
        Ok(target)
    }
}

/// The handshake of RFC 1928.
fn socks5(mut client: &TcpStream) -> Result<String> {
    let from = client;
    let read = move |length: usize| -> Result<Vec<u8>> {
        let (mut bytes, mut from) = (vec![0; length], from);
        from.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let hello = read(2)?;
    read(usize::from(hello.get(1).copied().unwrap_or_default()))?;
    client.write_all(&[5, 0])?;
    let request = read(4)?;
    let host = match request.get(3) {
        Some(1) => <[u8; 4]>::try_from(read(4)?)
            .map(|address| std::net::Ipv4Addr::from(address).to_string())
            .unwrap_or_default(),
        Some(3) => {
            let length = read(1)?.first().copied().unwrap_or_default();
            String::from_utf8(read(length.into())?)?
        }
        kind => anyhow::bail!("an address of kind {kind:?}"),
    };
    let port = <[u8; 2]>::try_from(read(2)?).map(u16::from_be_bytes);
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    Ok(format!("{host}:{}", port.unwrap_or_default()))
}

/// Copies bytes in one direction until the end.
fn pump(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

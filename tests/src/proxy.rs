//! A reverse proxy before a real issuer: it counts what arrives, can lose an answer that the issuer has given, and can be taken down.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;

use crate::client::{Answer, Client};
use crate::server::{Behaviour, Request, Server};

/// Fields of one connection, not of the message (RFC 9110 §7.6.1), and the length, which both sides compute anew.
const PER_CONNECTION: [&str; 6] = [
    "connection",
    "keep-alive",
    "te",
    "transfer-encoding",
    "upgrade",
    "content-length",
];

/// The proxy; gone on drop.
#[derive(Debug)]
pub struct Proxy {
    server: Server,
    losses: Arc<AtomicUsize>,
}

impl Proxy {
    /// Starts a proxy before `upstream`, an http origin. The `Host` field is passed on, so that a real issuer names the proxy as itself.
    ///
    /// # Errors
    ///
    /// When no port can be bound.
    pub fn start(upstream: &str) -> Result<Self> {
        let (client, upstream) = (Client::plain(), upstream.trim_end_matches('/').to_owned());
        let losses = Arc::new(AtomicUsize::new(0));
        let due = Arc::clone(&losses);
        let server = Server::start(
            None,
            Box::new(move |request| match forward(&client, &upstream, request) {
                Err(error) => Behaviour::answer(502, format!("{error:#}")),
                Ok(_) if take(&due) => Behaviour::close(),
                Ok(answer) => pass_on(&answer),
            }),
        )?;
        Ok(Self { server, losses })
    }

    /// The origin to use instead of the upstream's.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("http://{}", self.authority())
    }

    /// Host and port: the `Host` field of those who use the proxy.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }

    /// The next `count` requests reach the issuer and are carried out, but their answers are lost: the connection just closes.
    pub fn lose_answers(&self, count: usize) {
        self.losses.store(count, Ordering::SeqCst);
    }

    /// Every request so far, in the order of their arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.server.requests()
    }

    /// The server below: taking it [`Server::down`] and [`Server::up`].
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }
}

fn take(count: &AtomicUsize) -> bool {
    count
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        })
        .is_ok()
}

fn forward(client: &Client, upstream: &str, request: &Request) -> Result<Answer> {
    let mut url = format!("{upstream}{}", request.path);
    if !request.query.is_empty() {
        url.push('?');
        url.push_str(&request.query);
    }
    let headers: Vec<(&str, &str)> = request
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, _)| !is_per_connection(name))
        .collect();
    client.send(&request.method, &url, &headers, &request.body)
}

fn pass_on(answer: &Answer) -> Behaviour {
    answer
        .headers
        .iter()
        .filter(|(name, _)| !is_per_connection(name.as_str()))
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
        .fold(
            Behaviour::answer(answer.status, answer.body.clone()),
            |behaviour, (name, value)| behaviour.header(name, value),
        )
}

fn is_per_connection(name: &str) -> bool {
    PER_CONNECTION
        .iter()
        .any(|field| field.eq_ignore_ascii_case(name))
}

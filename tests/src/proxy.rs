//! A reverse proxy before a real issuer: it counts requests and the issuer's answers, can lose a request or an answer, and can be
//! taken down.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;

use crate::client::{Answer, Client};
use crate::lock;
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
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    lose_requests: AtomicUsize,
    lose_answers: AtomicUsize,
    carried_out: Mutex<Vec<CarriedOut>>,
}

/// A request that reached the issuer and was answered.
#[derive(Clone, Debug)]
pub struct CarriedOut {
    /// The request.
    pub request: Request,
    /// The status of its answer.
    pub status: u16,
    /// Whether the answer was lost here instead of being passed on.
    pub was_lost: bool,
}

impl Proxy {
    /// Starts a proxy before `upstream`, an http origin. The `Host` field is passed on, so that a real issuer names the proxy as itself.
    ///
    /// # Errors
    ///
    /// When no port can be bound.
    pub fn start(upstream: &str) -> Result<Self> {
        let (client, upstream) = (Client::plain(), upstream.trim_end_matches('/').to_owned());
        let state = Arc::new(State::default());
        let seen = Arc::clone(&state);
        let server = Server::start(
            None,
            Box::new(move |request| {
                if take(&seen.lose_requests) {
                    return Behaviour::close();
                }
                match forward(&client, &upstream, request) {
                    Err(error) => Behaviour::answer(502, format!("{error:#}")),
                    Ok(answer) => seen.answered(request, &answer),
                }
            }),
        )?;
        Ok(Self { server, state })
    }

    /// The origin to use instead of the upstream's.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("http://{}", self.authority())
    }

    /// Host and port: the `Host` field of its clients.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }

    /// The issuer answers the next `count` requests, but the answers are lost: the connection just closes.
    pub fn lose_answers(&self, count: usize) {
        self.state.lose_answers.store(count, Ordering::SeqCst);
    }

    /// The next `count` requests never reach the issuer: the connection just closes.
    pub fn lose_requests(&self, count: usize) {
        self.state.lose_requests.store(count, Ordering::SeqCst);
    }

    /// The requests that the issuer has answered, in the order of its answers.
    #[must_use]
    pub fn carried_out(&self) -> Vec<CarriedOut> {
        lock(&self.state.carried_out).clone()
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

impl State {
    fn answered(&self, request: &Request, answer: &Answer) -> Behaviour {
        let was_lost = take(&self.lose_answers);
        lock(&self.carried_out).push(CarriedOut {
            request: request.clone(),
            status: answer.status,
            was_lost,
        });
        if was_lost {
            Behaviour::close()
        } else {
            pass_on(answer)
        }
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

//! The seam between what may be sent and the network: the process brings the real one, the simulator plays issuers behind it.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Method};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use url::Url;

use super::client::{Clients, Recipe};
use super::exchange::exchange;
use super::reading::Question;
use super::request::Target;
use crate::capability::keep::BoxFuture;
use crate::failure::Failure;
use crate::time::{Clock, Timestamp};

/// A request that passed every rule, with the secrets in it: no Debug of its content.
pub struct Outgoing {
    /// The method.
    pub method: Method,
    /// With the secrets in its query.
    pub url: Url,
    /// With the secrets in them.
    pub headers: HeaderMap,
    /// With the secrets in it.
    pub body: Vec<u8>,
    /// How the network is to carry it.
    pub(super) way: Way,
}

/// How a request is carried.
pub(super) struct Way {
    pub(super) target: Target,
    /// The proxy, for messages.
    pub(super) through: Option<String>,
    pub(super) recipe: Recipe,
    /// Bytes that the answer may have.
    pub(super) limit: usize,
    /// Whether it carries a value that its use replaces: then the answer may hold the only copy of the next one.
    pub(super) is_rotating: bool,
}

impl Outgoing {
    /// What its answer is read with.
    pub(in crate::capability) fn question(&self) -> Question {
        Question {
            method: self.method.to_string(),
            target: self.way.target.clone(),
            through: self.way.through.clone(),
            limit: self.way.limit,
        }
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("method", &self.method)
            .field("origin", &self.way.target.origin)
            .finish_non_exhaustive()
    }
}

/// There is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAnswer {
    /// Why.
    pub failure: Failure,
    /// Whether any of the request may have left this machine.
    pub was_sent: bool,
}

impl NoAnswer {
    /// Nothing left this machine.
    #[must_use]
    pub const fn before_sending(failure: Failure) -> Self {
        Self {
            failure,
            was_sent: false,
        }
    }

    /// The other side may have got the request.
    #[must_use]
    pub const fn after_sending(failure: Failure) -> Self {
        Self {
            failure,
            was_sent: true,
        }
    }
}

/// An answer as it arrives.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrived {
    /// The moment before the request was sent: `expires_in` counts from here.
    pub sent_at: Timestamp,
    /// What came, byte for byte, but for interim answers.
    pub bytes: Vec<u8>,
}

impl Arrived {
    /// Nothing of it is there.
    #[must_use]
    pub const fn nothing_yet(now: Timestamp) -> Self {
        Self {
            sent_at: now,
            bytes: Vec::new(),
        }
    }

    /// What it takes to read it, in bytes. What is no text may be coded, and as large as it may be once it is decoded.
    pub(super) fn work(&self, limit: usize) -> usize {
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => text.len(),
            Err(_) => limit.max(self.bytes.len()),
        }
    }
}

/// An answer that is arriving, for whoever keeps what came of it while the rest is missing.
pub type Arriving = watch::Sender<Arrived>;

/// Not even its length: there are tokens in it.
impl fmt::Debug for Arrived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrived")
            .field("sent_at", &self.sent_at)
            .finish_non_exhaustive()
    }
}

/// Carries requests.
pub trait Transport: Send + Sync {
    /// Sends a request once. Its answer comes into `arriving` piece by piece, so that what came is there while the rest is waited for, and
    /// when the wait is given up.
    ///
    /// # Errors
    /// The answer did not come to its end.
    fn exchange<'a>(
        &'a self,
        outgoing: Outgoing,
        arriving: &'a Arriving,
    ) -> BoxFuture<'a, Result<(), NoAnswer>>;
}

/// The network.
pub struct Network {
    clients: Clients,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

impl Network {
    /// The machine's network; answers are dated by `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_clients(Clients::default(), clock)
    }

    pub(in crate::capability) fn with_clients(clients: Clients, clock: Arc<dyn Clock>) -> Self {
        Self { clients, clock }
    }
}

impl Transport for Network {
    fn exchange<'a>(
        &'a self,
        outgoing: Outgoing,
        arriving: &'a Arriving,
    ) -> BoxFuture<'a, Result<(), NoAnswer>> {
        Box::pin(async move {
            let client = self.clients.get(&outgoing.way.recipe).await;
            let client = client.map_err(NoAnswer::before_sending)?;
            let sent_at = self.clock.now().wall;
            arriving.send_modify(|arrived| arrived.sent_at = sent_at);
            exchange(&client, outgoing, arriving).await
        })
    }
}

//! The port to the network: the process uses the real one, the simulator models issuers behind it.

use std::fmt;

use futures_core::future::BoxFuture;
use http::{HeaderMap, Method};
use tokio::sync::watch;
use url::Url;

use super::recipe::Recipe;
use super::request::RequestTarget;
use crate::capability::arrived::Arrived;
use crate::model::failure::Failure;

/// A request that passed all rules, with the secrets in it: no Debug of its content.
pub struct Outgoing {
    /// The method.
    pub method: Method,
    /// Its query may contain secrets.
    pub url: Url,
    /// Their values may contain secrets.
    pub headers: HeaderMap,
    /// It may contain secrets.
    pub body: Vec<u8>,
    /// How it is carried.
    pub(in crate::capability) way: Route,
}

/// How a request is carried.
pub(in crate::capability) struct Route {
    pub(in crate::capability) target: RequestTarget,
    /// The proxy, for messages.
    pub(in crate::capability) through: Option<String>,
    pub(in crate::capability) recipe: Recipe,
    /// The size limit of the answer.
    pub(in crate::capability) limit: usize,
    /// Whether it carries a value that is replaced by its use: then the answer may be the only copy of the next one.
    pub(in crate::capability) is_rotating: bool,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("method", &self.method)
            .field("origin", &self.way.target.origin)
            .finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAnswer {
    /// The failure.
    pub failure: Failure,
    /// Whether any of the request may have left this machine.
    pub was_sent: bool,
}

impl NoAnswer {
    /// A failure before anything was sent.
    #[must_use]
    pub const fn before_sending(failure: Failure) -> Self {
        Self {
            failure,
            was_sent: false,
        }
    }

    /// A failure after which the other side may have received the request.
    #[must_use]
    pub const fn after_sending(failure: Failure) -> Self {
        Self {
            failure,
            was_sent: true,
        }
    }
}

/// An answer that is arriving, readable while the rest is missing.
pub type Arriving = watch::Sender<Arrived>;

/// Carries requests.
pub trait Transport: Send + Sync {
    /// Sends a request once. The answer is published in `arriving` piece by piece, so that a part is available while the rest is
    /// awaited, and after a timeout.
    ///
    /// # Errors
    /// The answer was not complete.
    fn exchange<'a>(
        &'a self,
        outgoing: Outgoing,
        arriving: &'a Arriving,
    ) -> BoxFuture<'a, Result<(), NoAnswer>>;
}

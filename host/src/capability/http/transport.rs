//! The seam between what may be sent and the network: the process brings the real one, the simulator plays issuers behind it.

use std::fmt;

use futures_core::future::BoxFuture;
use http::{HeaderMap, Method};
use tokio::sync::watch;
use url::Url;

use super::recipe::Recipe;
use super::request::RequestTarget;
use crate::capability::arrived::Arrived;
use crate::model::failure::Failure;

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
    pub(in crate::capability) way: Route,
}

/// How a request is carried.
pub(in crate::capability) struct Route {
    pub(in crate::capability) target: RequestTarget,
    /// The proxy, for messages.
    pub(in crate::capability) through: Option<String>,
    pub(in crate::capability) recipe: Recipe,
    /// Bytes that the answer may have.
    pub(in crate::capability) limit: usize,
    /// Whether it carries a value that its use replaces: then the answer may hold the only copy of the next one.
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

/// An answer that is arriving, for whoever keeps what came of it while the rest is missing.
pub type Arriving = watch::Sender<Arrived>;

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

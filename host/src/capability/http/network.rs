//! The real transport: requests over the machine's network.

use std::fmt;
use std::sync::Arc;

use futures_core::future::BoxFuture;

use super::client::Clients;
use super::exchange::exchange;
use super::transport::{Arriving, NoAnswer, Outgoing, Transport};
use crate::model::time::Clock;

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

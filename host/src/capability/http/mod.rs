//! HTTP for plugins: requests and answers, the rules for them, and their transport. Requests are sent in `exchange` and nowhere
//! else.

pub(super) mod answer;
mod client;
mod coding;
mod connect;
pub(super) mod egress;
pub(super) mod error;
mod exchange;
mod message;
mod network;
mod no_proxy;
pub(super) mod proxy;
mod reading;
pub(super) mod recipe;
pub(super) mod request;
mod resolve;
mod response;
mod tls;
pub(super) mod transport;

#[cfg(test)]
mod tests;

pub use super::arrived::Arrived;
pub use network::Network;
pub use request::{Body, MAX_REQUEST_BYTES, Request};
pub use response::Response;
pub use transport::{Arriving, NoAnswer, Outgoing, Transport};

#[cfg(test)]
pub(super) use client::Clients;
pub(crate) use error::find as find_cause;
pub(crate) use proxy::{ProxyRules, userinfo_escaped};
pub(super) use reading::{Meaning, ReadAnswer, RequestFacts, refusal};
pub(crate) use response::read_date;

//! What others may ask the process: probes and metrics over HTTP, which change nothing, and the control socket for whoever runs
//! the process.

pub mod control;
mod http;

pub use http::{BindError, Readiness, Server, bind};
//! What the process shows of itself: probes and metrics over HTTP, status and verbs over a Unix socket. Over HTTP nothing can
//! be changed.
pub mod probes;

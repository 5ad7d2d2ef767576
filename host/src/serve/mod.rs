//! What the process shows of itself: probes and metrics over HTTP, status and verbs over a Unix socket. Over HTTP nothing can
//! be changed.

mod connections;
pub mod control;
pub mod probes;

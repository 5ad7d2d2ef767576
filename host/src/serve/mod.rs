//! The process's interfaces: probes and metrics over HTTP, status and commands over a Unix socket. Nothing can be changed over
//! HTTP.

mod connections;
pub mod control;
pub mod probes;

//! The functions that a plugin may call, independent of wasmtime: requests within egress rules, secrets as handles, cryptography,
//! a small cache, log and clock. `plugin/v0_1.rs` maps the generated bindings to them.

pub mod acquire;
mod arrived;
pub mod call;
pub mod chain;
pub mod crypto;
mod echo;
pub mod encoding;
pub mod environment;
pub mod host;
pub mod http;
mod journal;
pub mod keep;
pub mod ports;
pub mod scrub;
pub mod secrets;
mod shared;
pub mod spelling;
#[cfg(test)]
pub(crate) mod testing;

pub use acquire::{Acquired, NotAcquired, TokenSource, Unsuccessful};
pub use call::{Call, Level};
pub use crypto::PublicKey;
pub use encoding::Encoding;
pub use environment::{Environment, process_environment};
pub use host::Host;
pub use http::{Body, Network, Request, Response};
pub use ports::Settings;
pub use secrets::{ClusterSecrets, Piece, SecretHandle, Value, WriteBack};

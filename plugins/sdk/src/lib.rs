//! SDK for evertoken plugins in Rust. A source implements [`Source`] and obtains a token; a formatter implements [`Formatter`]
//! and turns tokens into the content of an output. The configuration is typed, secrets are handles whose values stay in the host,
//! and all host functions are plain functions here: [`http`], [`secrets`], [`crypto`], [`state`], [`log`], [`clock`]. The
//! bindings to `wit/v0.1` are private.
//!
//! A whole source:
//!
//! ```
//! use evertoken_plugin::{Failure, Job, Source, Token, http, oauth, secrets};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     token_url: String,
//!     account: String,
//! }
//!
//! struct Acme;
//!
//! impl Source for Acme {
//!     type Config = Config;
//!
//!     fn acquire(job: Job<Config>) -> Result<Token, Failure> {
//!         let key = secrets::open("api_key")?;
//!         let response = http::Request::post(&job.config.token_url)
//!             .header("accept", "application/json")
//!             .field("account", job.config.account.as_str())
//!             .field("key", &key)
//!             .send()?;
//!         oauth::Answer::read(&response)?.token()
//!     }
//! }
//! # fn main() {}
//! ```
//!
//! A plugin's crate ends with `evertoken_plugin::export_source!(Acme, secrets: { "api_key": required "the account's API key"
//! });`, and the same code runs natively in tests, where [`testing`] simulates the host.
#![deny(missing_docs)]

/// The plugin in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

mod config;
mod encode;
mod export;
mod failure;
mod text;
mod time;
mod token;

pub mod clock;
pub mod crypto;
pub mod http;
pub mod jwt;
pub mod log;
pub mod oauth;
pub mod secrets;
pub mod state;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

#[cfg(target_family = "wasm")]
mod wasm;

// The implementation of the host functions: the host's interfaces in a component, the test double everywhere else. Both offer the
// same functions.
#[cfg(not(target_family = "wasm"))]
use testing::double as host;
#[cfg(target_family = "wasm")]
use wasm as host;

#[doc(hidden)]
pub mod __private;
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod bindings;

pub use encode::{base64, base64_decode};
pub use failure::{Failure, FailureKind};
pub use text::OneOrMany;
pub use time::{Timestamp, parse_duration_ms};
pub use token::{Artifact, Expiry, Field, Job, NamedToken, Token};

/// A plugin that obtains tokens: world `token-source` of the interface.
pub trait Source {
    /// The job's `source.config`. Every struct in it refuses unknown fields (`#[serde(deny_unknown_fields)]`).
    type Config: serde::de::DeserializeOwned;

    /// Obtains one token. Every call runs in a fresh instance; after a crash it runs again from the start.
    ///
    /// # Errors
    ///
    /// A [`Failure`] whose kind tells the scheduler when to try again.
    fn acquire(job: Job<Self::Config>) -> Result<Token, Failure>;
}

/// A plugin that turns tokens into the content of an output: world `output-formatter` of the interface. Only [`log`] works in it.
pub trait Formatter {
    /// The `config` of the output's `format`. Every struct in it refuses unknown fields (`#[serde(deny_unknown_fields)]`).
    type Config: serde::de::DeserializeOwned;

    /// Formats the tokens of one output, in the order in which the configuration lists their jobs.
    ///
    /// # Errors
    ///
    /// A [`Failure`]; the output keeps its former content.
    fn format(tokens: Vec<NamedToken>, config: Self::Config) -> Result<Vec<Artifact>, Failure>;
}

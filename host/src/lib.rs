//! evertoken keeps short-lived tokens fresh in the places where unmodified programs read them.
//!
//! Each module is one room of the house; who may know whom goes downwards only:
//! [`cli`] → [`runner`], [`serve`] → [`plugin`], [`state`], [`output`] → [`capability`] → the types of [`config`].
//! [`file`] is below them all. [`refresh`] knows none of them: it decides, without clock or I/O.

pub mod capability;
pub mod cli;
pub mod config;
pub mod failure;
mod file;
mod json_member;
pub mod kubernetes;
pub mod output;
mod pem;
pub mod plugin;
pub mod printable;
pub mod refresh;
pub mod runner;
mod serde_secret;
pub mod serve;
pub mod state;
pub mod stop;
#[cfg(test)]
mod test_support;
mod text;
pub mod time;
pub mod token;
pub mod worker;

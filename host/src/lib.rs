//! evertoken keeps short-lived tokens fresh in the places where unmodified programs read them.
//!
//! Each module is one room; who may know whom goes downwards only:
//! [`cli`] → [`config`], [`runner`], [`serve`] → [`plugin`], [`state`], [`output`] → [`kubernetes`] → [`capability`] → [`model`].
//! [`refresh`] knows only [`model`]: it decides, without clock or I/O. The small modules beside the rooms serve several of them and know none.

pub mod capability;
pub mod cli;
pub mod config;
mod file;
mod form;
mod json_member;
pub mod kubernetes;
pub mod model;
mod names;
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
pub mod worker;

//! evertoken keeps short-lived tokens fresh in the places where unmodified programs read them.
//!
//! Dependencies between the modules only go in this direction:
//! [`cli`] → [`config`], [`serve`], [`tenants`] → [`reload`] → [`runner`] → [`plugin`], [`state`], [`output`] → [`kubernetes`] →
//! [`capability`] → [`refresh`] → [`model`]. [`replicas`] is over [`kubernetes`]; of [`tenants`], what is pure is under [`config`] and
//! [`output`]. [`refresh`] decides, without clock or I/O. The small modules beside these are shared by several and only
//! depend on each other.

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
pub mod reload;
pub mod replicas;
pub mod runner;
mod serde_secret;
pub mod serve;
pub mod state;
pub mod stop;
pub mod tenants;
#[cfg(test)]
mod test_support;
mod text;
pub mod worker;

//! Another configuration while the process runs: what it changes ([`plan`]), when its files have changed (`watch`), and how the other
//! tasks of the process ask for it ([`handle`]).

pub mod handle;
pub mod plan;
pub(crate) mod watch;

pub use handle::{Refusal, ReloadAnswer, ReloadHandle};
pub use plan::{Plan, Reload, compare};

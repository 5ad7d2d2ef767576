//! The simulator: the host's own refresh rules, runner, journal and state store under virtual time, against model issuers and with
//! faults that a seed decides. A seed stands for a run; running it again gives the same run, to the line.
//!
//! The invariant: no consumer sees an expired, torn or foreign token while the issuer could give a valid one, and no chain is
//! lost through evertoken's fault. The exact conditions are in [`world`] for consumers and in [`ledger`] for chains.
//!
//! Real: `refresh`, `runner`, `capability` with the journal, `state` over a memory that outlives the process. Models: the plugin, the
//! network, issuers, outputs, clocks.

pub mod disk;
pub mod issuer;
pub mod jobs;
pub mod lax;
pub mod ledger;
pub mod life;
pub mod network;
pub mod operator;
pub mod pace;
pub mod ports;
pub mod process;
pub mod run;
pub mod scenario;
pub mod source;
pub mod sweep;
pub mod time;
pub mod trace;
pub mod wire;
pub mod world;

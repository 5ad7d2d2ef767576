//! The runner under virtual time with test ports.

mod changes;
mod compiling;
mod fairness;
mod freshness;
mod log;
mod outages;
mod scale;
mod stopping;
mod virtual_time;
pub(crate) mod world;

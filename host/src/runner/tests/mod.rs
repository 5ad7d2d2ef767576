//! The runner under virtual time against a small world of its own.

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

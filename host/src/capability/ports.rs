//! The dependencies of capabilities, which tests and the simulator replace.

use std::sync::Arc;

use super::environment::Environment;
use super::http::Transport;
use super::keep::Keeper;
use super::secrets::{ClusterSecrets, WriteBack};
use crate::model::CurrentLimits;
use crate::model::time::Clock;

/// The dependencies of a [`Host`](super::Host), shared by all its calls.
pub struct Settings {
    /// The limits of one call.
    pub limits: CurrentLimits,
    /// The storage of plugins' cached values and rotating secrets.
    pub keeper: Arc<dyn Keeper>,
    /// The cluster that secrets may come from; none: such secrets fail with `secret.no-cluster`.
    pub kubernetes: Option<Arc<dyn ClusterSecrets>>,
    /// Writes the newest values of rotating secrets to where jobs configure them, beside the keeper; none: not possible.
    pub write_back: Option<Arc<dyn WriteBack>>,
    /// The transport of requests.
    pub transport: Arc<dyn Transport>,
    /// The clock that plugins see.
    pub clock: Arc<dyn Clock>,
    /// The environment of the process, see [`process_environment`](super::process_environment).
    pub environment: Environment,
}

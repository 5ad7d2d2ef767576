//! What capabilities stand on: the process brings the real ones, tests and the simulator bring theirs.

use std::sync::Arc;

use super::environment::Environment;
use super::http::Transport;
use super::keep::Keeper;
use super::secrets::{ClusterSecrets, WriteBack};
use crate::model::PluginLimits;
use crate::model::time::Clock;

/// What a [`Host`](super::Host) is made of, shared by all its calls.
pub struct Settings {
    /// What one call may use.
    pub limits: PluginLimits,
    /// Where state and rotating secrets are kept.
    pub keeper: Arc<dyn Keeper>,
    /// The cluster that secrets may come from; none: such secrets fail with `secret.no-cluster`.
    pub kubernetes: Option<Arc<dyn ClusterSecrets>>,
    /// Where the newest values of rotating secrets are put, beside the keeper, for jobs that want it; none: nowhere.
    pub write_back: Option<Arc<dyn WriteBack>>,
    /// What carries requests.
    pub transport: Arc<dyn Transport>,
    /// The clock that plugins see.
    pub clock: Arc<dyn Clock>,
    /// The environment of the process, see [`process_environment`](super::process_environment).
    pub environment: Environment,
}

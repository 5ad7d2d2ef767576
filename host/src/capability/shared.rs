//! The state that all calls of a process share.

use std::sync::Arc;

use super::http::ProxyRules;
use super::journal::Journal;
use super::ports::Settings;

/// The inside of a [`Host`](super::Host).
pub(super) struct HostInner {
    pub(super) ports: Arc<Settings>,
    pub(super) proxies: ProxyRules,
    pub(super) journal: Arc<Journal>,
}

//! Limits on concurrent work, and on one call of a plugin.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

/// Limits on concurrent work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Attempts in flight in the whole process.
    pub concurrency: usize,
    /// Attempts in flight to one origin.
    pub in_flight_per_origin: usize,
    /// The limits of a plugin call.
    pub plugin: PluginLimits,
}

/// The limits of plugin calls as of now; a reload changes them for all who hold this.
pub type CurrentLimits = Arc<ArcSwap<PluginLimits>>;

/// The limits of one plugin call. Defaults and their reasons are constants in [`defaults`](super::defaults).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginLimits {
    /// Bytes of linear memory, all memories together.
    pub memory_bytes: usize,
    /// HTTP requests per call.
    pub requests: u32,
    /// Bytes of one HTTP answer, headers and body.
    pub response_bytes: usize,
    /// Bytes of all artifacts of one format call.
    pub artifact_bytes: usize,
    /// Log lines per call.
    pub log_lines: u32,
    /// The timeout of compiling a plugin, outside of any call.
    pub compile_time: Duration,
}

impl PluginLimits {
    /// These limits, until they are changed.
    #[must_use]
    pub fn current(self) -> CurrentLimits {
        Arc::new(ArcSwap::from_pointee(self))
    }
}

//! Bounds on what is done at once, and on what one call of a plugin may use.

use std::time::Duration;

/// Bounds on what is done at once.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Attempts in flight in the whole process.
    pub concurrency: usize,
    /// Attempts in flight to one origin.
    pub in_flight_per_origin: usize,
    /// What a plugin call may use.
    pub plugin: PluginLimits,
}

/// What one plugin call may use. Defaults and their reasons are constants in [`defaults`](super::defaults).
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
    /// How long compiling a plugin may take, outside of any call.
    pub compile_time: Duration,
}

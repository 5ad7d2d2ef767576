//! A job's life as a pure state machine: when to obtain a token anew, what to do next. No clock, no I/O, no await.

use std::time::Duration;

/// When a job's token is obtained anew. Defaults: DESIGN's `refresh` key.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// At this fraction of the token's life, `0 < at < 1`.
    pub at: f64,
    /// At the latest this long before expiry.
    pub before_expiry: Duration,
    /// At the latest this long after it was obtained.
    pub every: Duration,
    /// Up to this much earlier, at random.
    pub jitter: Duration,
    /// The life to assume when neither issuer nor token says one.
    pub default_lifetime: Duration,
}

//! A job's life as a pure state machine: when to obtain a token anew, what to do next. No clock, no I/O, no await; what
//! chance there is comes in as a sample. Each rule is one function in a file of its own; [`job::Job`] puts them together.

pub mod admit;
pub mod backoff;
pub mod clock;
pub mod due;
pub mod job;
pub mod lifetime;
pub mod publication;
pub mod restraint;

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

/// `duration · fraction`, without a panic for what a caller may get wrong.
fn scaled(duration: Duration, fraction: f64) -> Duration {
    Duration::try_from_secs_f64(duration.as_secs_f64() * fraction.clamp(0.0, 1.0))
        .unwrap_or(duration)
}

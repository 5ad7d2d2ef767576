//! When a token is refreshed.

use std::time::Duration;

/// When a job's token is refreshed. Defaults and their reasons: [`defaults`](super::defaults).
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
    /// The life to assume when neither issuer nor token states one.
    pub default_lifetime: Duration,
}

//! The refresh rules as a pure state machine: when to refresh a token, what to do next. No clock, no I/O, no await; random
//! numbers are passed in as samples. Each rule is one function in a file of its own; [`job::JobLifecycle`] combines them.
//!
//! | rule | function |
//! | --- | --- |
//! | when a token is due, also for a rotating secret's expiry | [`due::due`] |
//! | when a token expires, and from when it is valid | [`lifetime::expires_at`], [`lifetime::not_before`] |
//! | which stated lifetimes are implausible | [`lifetime::said`], [`lifetime::rotating_expires_at`] |
//! | whether a token is admitted | [`admit::admit`] |
//! | when an issuer that gave no longer life is asked again | [`admit::wait_for_longer_life`] |
//! | the least pause after any answer | [`due::SOONEST`] |
//! | how long a job waits after a failure, `Retry-After` included | [`backoff::wait`], [`backoff::Streak`] |
//! | what a failure says about the issuer | [`circuit_breaker::sign`] |
//! | which job may probe a failing issuer, and when | [`circuit_breaker::CircuitBreaker`], [`circuit_breaker::spacing`] |
//! | when an output is written, verified, retried | [`output::OutputLifecycle`] |
//! | whether a clock was set, whether a point in time is reached | [`clock::jump`], [`clock::Moment`] |
//! | whether a stored token shows that the clock was set back | [`clock::is_from_the_future`] |

pub mod admit;
pub mod backoff;
pub mod circuit_breaker;
pub mod clock;
pub mod due;
pub mod job;
pub mod lifetime;
pub mod output;
pub mod rate;

use std::time::Duration;

/// `duration · fraction`, without a panic for any fraction.
fn scaled(duration: Duration, fraction: f64) -> Duration {
    Duration::try_from_secs_f64(duration.as_secs_f64() * fraction.clamp(0.0, 1.0))
        .unwrap_or(duration)
}

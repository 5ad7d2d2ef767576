//! A job's life as a pure state machine: when to obtain a token anew, what to do next. No clock, no I/O, no await; what
//! randomness there is comes in as a sample. Each rule is one function in a file of its own; [`job::JobLifecycle`] puts them together.
//!
//! | rule | who decides |
//! | --- | --- |
//! | when a token is due, a rotating secret's end included | [`due::due`] |
//! | when a token expires, and from when it is good | [`lifetime::expires_at`], [`lifetime::not_before`] |
//! | which lifetimes say nothing | [`lifetime::said`], [`lifetime::rotating_expires_at`] |
//! | whether a token is taken | [`admit::admit`] |
//! | when an issuer is asked again that gave no longer life | [`admit::wait_for_longer_life`] |
//! | how long a source is left alone after any answer | [`due::SOONEST`] |
//! | how long a job waits after a failure, `Retry-After` included | [`backoff::wait`], [`backoff::Streak`] |
//! | what a failure says about the issuer | [`circuit_breaker::sign`] |
//! | who may try an issuer in trouble, and when | [`circuit_breaker::CircuitBreaker`], [`circuit_breaker::spacing`] |
//! | when an output is written, verified, tried again | [`output::OutputLifecycle`] |
//! | whether a clock was set, whether a point in time is there | [`clock::jump`], [`clock::Moment`] |
//! | whether a stored token shows that the clock was set back | [`clock::is_from_the_future`] |

pub mod admit;
pub mod backoff;
pub mod circuit_breaker;
pub mod clock;
pub mod due;
pub mod job;
pub mod lifetime;
pub mod output;

use std::time::Duration;

/// `duration · fraction`, without a panic for what a caller may get wrong.
fn scaled(duration: Duration, fraction: f64) -> Duration {
    Duration::try_from_secs_f64(duration.as_secs_f64() * fraction.clamp(0.0, 1.0))
        .unwrap_or(duration)
}

//! Why a call ended without a result, and the failure that the job reports. Messages name the plugin, the limit and its
//! configuration key, never the plugin's data; the plugin's last output goes through the call's scrubber.

use std::time::Duration;

use wasmtime::Trap;
use wasmtime::component::ResourceTableError;
use wasmtime_wasi::I32Exit;

use super::engine::BoxError;
use super::limits;
use super::store::{Guest, StopReason};
use crate::model::PluginLimits;
use crate::model::failure::{Failure, FailureKind, HostCode, with_causes};

/// Why a call ended without a result of the plugin's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// It computed until its timeout.
    #[error("it ran for {} without coming to an end, and was stopped; `source.timeout` is the limit", seconds(*limit))]
    Spinning {
        /// The timeout.
        limit: Duration,
    },
    /// It waited for the host until its timeout.
    #[error("it waited for an answer until its {} were over; `source.timeout` is the limit", seconds(*limit))]
    Timeout {
        /// The timeout.
        limit: Duration,
    },
    /// It slept until its timeout, without having sent a request.
    #[error("it waited until its {} were over and sent no request; `source.timeout` is the limit", seconds(*limit))]
    Idle {
        /// The timeout.
        limit: Duration,
    },
    /// It was still computing when the process had to end.
    #[error("it was stopped with the process")]
    Stopped,
    /// It wanted more memory than its limit.
    #[error(
        "it wanted {wanted} bytes of memory and may have {limit}; `limits.plugin.memory` is the limit"
    )]
    OutOfMemory {
        /// Bytes that it wanted.
        wanted: usize,
        /// Bytes that it may have.
        limit: usize,
    },
    /// It passed more data to the host at once than it may.
    #[error("it passed more than {limit} bytes to the host at once")]
    TooMuchData {
        /// Bytes that one call may pass.
        limit: usize,
    },
    /// It held more handles than it may.
    #[error("it kept more than {limit} handles open")]
    TooManyHandles {
        /// Handles that it may have.
        limit: usize,
    },
    /// It panicked or trapped.
    #[error("it stopped with `{code}`{}", said(last_words))]
    Trap {
        /// wasmtime's name of the trap.
        code: String,
        /// What it wrote to standard error, scrubbed.
        last_words: String,
    },
    /// It exited instead of returning.
    #[error("it ended its process instead of returning{}", said(last_words))]
    Exit {
        /// What it wrote to standard error, scrubbed.
        last_words: String,
    },
    /// The host could not run it.
    #[error("the host could not run it")]
    Host(#[source] BoxError),
}

impl CallError {
    /// The stable code of the failure that a job gets.
    #[must_use]
    pub const fn code(&self) -> HostCode {
        match self {
            Self::Spinning { .. } | Self::Timeout { .. } => HostCode::PluginTimeout,
            Self::Idle { .. } => HostCode::PluginIdle,
            Self::Stopped => HostCode::PluginStopped,
            Self::OutOfMemory { .. } => HostCode::PluginOutOfMemory,
            Self::TooMuchData { .. } => HostCode::PluginTooMuchData,
            Self::TooManyHandles { .. } => HostCode::PluginTooManyHandles,
            Self::Trap { .. } => HostCode::PluginTrap,
            Self::Exit { .. } => HostCode::PluginExit,
            Self::Host(_) => HostCode::PluginHost,
        }
    }

    /// The failure that the job reports. A plugin that waited may have a slow issuer, which passes; everything else is a bug.
    pub(super) fn into_failure(self, plugin: &str) -> Failure {
        let kind = match self {
            Self::Timeout { .. } | Self::Idle { .. } | Self::Stopped => FailureKind::Unavailable,
            _ => FailureKind::Internal,
        };
        let code = self.code();
        Failure::new(
            kind,
            code,
            format!("plugin {plugin} failed: {}", with_causes(&self)),
        )
    }
}

/// The reason why a call ended, by wasmtime's error and by what the store recorded. A refused allocation looks like a panic to
/// wasmtime and to the guest; only the limiter knows it.
pub(super) fn classify<H>(
    error: wasmtime::Error,
    guest: &Guest<H>,
    limits: &PluginLimits,
    timeout: Duration,
    scrub: &dyn Fn(&str) -> String,
) -> CallError {
    match error.downcast_ref::<StopReason>() {
        Some(StopReason::AtDeadline) => return CallError::Spinning { limit: timeout },
        Some(StopReason::WithTheProcess) => return CallError::Stopped,
        None => {}
    }
    if let Some(wanted) = guest.memory.refused() {
        return CallError::OutOfMemory {
            wanted,
            limit: limits.memory_bytes,
        };
    }
    let last_words = || scrub(String::from_utf8_lossy(&guest.stderr.contents()).trim());
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return CallError::Trap {
            code: trap.to_string(),
            last_words: last_words(),
        };
    }
    // WASI reports only whether a status is 0.
    if error.is::<I32Exit>() {
        return CallError::Exit {
            last_words: last_words(),
        };
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref::<ResourceTableError>() {
        return CallError::TooManyHandles {
            limit: limits::RESOURCES,
        };
    }
    // wasmtime does not export the types of these.
    let cause = error.root_cause().to_string();
    if cause.contains("fuel allocated for hostcalls") {
        return CallError::TooMuchData {
            limit: super::store::call_bytes(limits),
        };
    }
    if cause.contains("handle limit exceeded") {
        return CallError::TooManyHandles {
            limit: limits::HANDLES,
        };
    }
    CallError::Host(error.into())
}

fn said(last_words: &str) -> String {
    match last_words {
        "" => String::new(),
        words => format!(", saying: {words}"),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_told_the_plugin_the_limit_and_its_key() {
        for (error, kind, code, message) in [
            (
                CallError::Spinning {
                    limit: Duration::from_millis(1500),
                },
                FailureKind::Internal,
                "plugin.timeout",
                "plugin `acme` failed: it ran for 1.5 s without coming to an end, and was stopped; `source.timeout` is the limit",
            ),
            (
                CallError::Timeout {
                    limit: Duration::from_secs(30),
                },
                FailureKind::Unavailable,
                "plugin.timeout",
                "plugin `acme` failed: it waited for an answer until its 30 s were over; `source.timeout` is the limit",
            ),
            (
                CallError::Idle {
                    limit: Duration::from_secs(30),
                },
                FailureKind::Unavailable,
                "plugin.idle",
                "plugin `acme` failed: it waited until its 30 s were over and sent no request; `source.timeout` is the limit",
            ),
            (
                CallError::OutOfMemory {
                    wanted: 100,
                    limit: 64,
                },
                FailureKind::Internal,
                "plugin.out-of-memory",
                "plugin `acme` failed: it wanted 100 bytes of memory and may have 64; `limits.plugin.memory` is the limit",
            ),
            (
                CallError::Trap {
                    code: "unreachable".to_owned(),
                    last_words: "panicked at x".to_owned(),
                },
                FailureKind::Internal,
                "plugin.trap",
                "plugin `acme` failed: it stopped with `unreachable`, saying: panicked at x",
            ),
        ] {
            let failure = error.into_failure("`acme`");
            assert_eq!((failure.kind, failure.code()), (kind, Some(code)));
            assert_eq!(failure.message, message);
        }
    }
}

//! The defaults of the configuration, each with its reason.

use std::time::Duration;

use super::profile::ProfileLimits;
use super::{PluginLimits, Policy};

/// The kubelet's own rule for projected tokens: a fifth of the life is left for retries.
pub const AT: f64 = 0.8;
/// Longer than a Kubernetes Secret needs to reach a mounted volume (kubelet's sync of 60 s and the watch's delay).
pub const BEFORE_EXPIRY: Duration = Duration::from_secs(90);
/// The kubelet's limit: a credential that lasts for weeks is still tested daily, and a revoked one noticed.
pub const EVERY: Duration = Duration::from_secs(24 * 3600);
/// Enough that a fleet started together does not ask its issuer in one second.
pub const JITTER: Duration = Duration::from_secs(10);
/// The life of most issuers' tokens when they state none (RFC 6749 §5.1 leaves it to documentation).
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(3600);
/// A deleted or overwritten output is corrected within this time, at one request or file read each.
pub const VERIFY: Duration = Duration::from_secs(600);
/// Three times what a slow issuer needs for discovery, a token and a retry of its own.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// With an issuer of 50 ms, a thousand overdue jobs are done in a second, and memory stays bounded.
pub const CONCURRENCY: u32 = 64;
/// A quarter of all: four hanging issuers cannot stop the rest, and one issuer is not flooded.
pub const IN_FLIGHT_PER_ORIGIN: u32 = 16;
/// Only the owner can read a token unless the configuration permits others.
pub const FILE_MODE: u32 = 0o600;
/// The key that kube-token-refresher's users know.
pub const SECRET_KEY: &str = "token";
/// The prefix of the names of the state store's Secrets.
pub const STATE_PREFIX: &str = "evertoken-state";
/// With the state store in Secrets: the answer to a request with a rotating secret must fit into one, in base64 and with its chain.
pub const PLUGIN_RESPONSE_BYTES_IN_SECRETS: usize = 512 << 10;
/// The usual lifetime of a projected token.
pub const SERVICE_ACCOUNT_LIFETIME: Duration = Duration::from_secs(3600);
/// The API server refuses to issue tokens with a shorter lifetime (TokenRequest, `expirationSeconds`).
pub const SERVICE_ACCOUNT_LIFETIME_MIN: Duration = Duration::from_secs(600);

/// A team's own tokens, and ten thousand jobs in one process. A thousand tokens of a minute and a restart with all of them fit into the
/// calls of a minute, and a tenant that has its tokens refreshed without need takes a tenth.
pub const PROFILE_LIMITS: ProfileLimits = ProfileLimits {
    jobs: 10_000,
    jobs_per_namespace: 100,
    calls_per_minute: 6000,
    calls_per_minute_per_namespace: 600,
};

/// A plugin that parses an answer of the largest size several times over fits.
pub const PLUGIN_MEMORY_BYTES: usize = 64 << 20;
/// Discovery, keys, a token, an exchange and their retries fit; a loop is stopped soon.
pub const PLUGIN_REQUESTS: u32 = 16;
/// A token answer has a few KiB; the largest key sets some 100 KiB.
pub const PLUGIN_RESPONSE_BYTES: usize = 1 << 20;
/// The size limit of a Kubernetes Secret.
pub const PLUGIN_ARTIFACT_BYTES: usize = 1 << 20;
/// Enough to follow one call at the finest level, too few to bury the log.
pub const PLUGIN_LOG_LINES: u32 = 100;
/// A component with an interpreter takes 15 s of a core: two minutes and a half where the process has a tenth of one.
pub const PLUGIN_COMPILE_TIME: Duration = Duration::from_secs(600);

/// The default refresh policy of a job.
#[must_use]
pub const fn policy() -> Policy {
    Policy {
        at: AT,
        before_expiry: BEFORE_EXPIRY,
        every: EVERY,
        jitter: JITTER,
        default_lifetime: DEFAULT_LIFETIME,
    }
}

/// The defaults of `limits.plugin`.
#[must_use]
pub const fn plugin_limits() -> PluginLimits {
    PluginLimits {
        memory_bytes: PLUGIN_MEMORY_BYTES,
        requests: PLUGIN_REQUESTS,
        response_bytes: PLUGIN_RESPONSE_BYTES,
        artifact_bytes: PLUGIN_ARTIFACT_BYTES,
        log_lines: PLUGIN_LOG_LINES,
        compile_time: PLUGIN_COMPILE_TIME,
    }
}

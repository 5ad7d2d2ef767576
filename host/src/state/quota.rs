//! How much a plugin may keep.

use super::error::StateError;

/// Bytes of one plugin value. A cache of discovery documents and nonces needs a few KiB; larger ones would make every
/// commit, and so every other job's rotation, slower.
pub const PLUGIN_VALUE_MAX_BYTES: usize = 64 * 1024;

/// Bytes of a plugin value's key, which is a name and no second value.
pub const PLUGIN_KEY_MAX_BYTES: usize = 256;

/// Plugin values per job, so that a plugin which makes up a new key on every call fills 4 MiB at most.
pub const PLUGIN_VALUES_PER_JOB: usize = 64;

/// Refuses a value beyond the limits. A job has one call of its plugin at a time, so nothing is added between the count of
/// what it has and the write.
pub(super) fn admit(
    key: &str,
    value: &[u8],
    held: usize,
    replaces: bool,
) -> Result<(), StateError> {
    let (what, limit) = if value.len() > PLUGIN_VALUE_MAX_BYTES {
        ("bytes of one value", PLUGIN_VALUE_MAX_BYTES)
    } else if key.len() > PLUGIN_KEY_MAX_BYTES {
        ("bytes of one key", PLUGIN_KEY_MAX_BYTES)
    } else if !replaces && held >= PLUGIN_VALUES_PER_JOB {
        ("values of one job", PLUGIN_VALUES_PER_JOB)
    } else {
        return Ok(());
    };
    Err(StateError::Quota { what, limit })
}

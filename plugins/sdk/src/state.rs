//! A small cache per job that may be lost at any time, e.g. for a discovery document. What must not be lost is a secret: [`crate::secrets::replace`].

use crate::{Failure, host};

/// What was kept under this key.
///
/// # Errors
///
/// Whatever the host's store reports.
pub fn get(key: &str) -> Result<Option<Vec<u8>>, Failure> {
    host::state_get(key)
}

/// Keeps a value under this key.
///
/// # Errors
///
/// "state.too-large" or "state.too-many" beyond the host's limits, or whatever its store reports.
pub fn set(key: &str, value: &[u8]) -> Result<(), Failure> {
    host::state_set(key, value)
}

//! A small cache per job that may be lost at any time, e.g. for a discovery document. Values that must not be lost are secrets:
//! [`crate::secrets::replace`].

use crate::{Failure, host};

/// The cached value of this key.
///
/// # Errors
///
/// The host's store failed.
pub fn get(key: &str) -> Result<Option<Vec<u8>>, Failure> {
    host::state_get(key)
}

/// Caches a value under this key.
///
/// # Errors
///
/// "state.too-large" or "state.too-many" beyond the host's limits, or the store's failure.
pub fn set(key: &str, value: &[u8]) -> Result<(), Failure> {
    host::state_set(key, value)
}

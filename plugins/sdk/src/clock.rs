//! The host's clock, which tests can set.

use crate::{Timestamp, host};

/// The time now.
#[must_use]
pub fn now() -> Timestamp {
    host::now()
}

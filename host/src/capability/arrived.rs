//! An answer as bytes: what the journal stores of it, independent of its meaning.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::time::Timestamp;

/// An answer as it arrives.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrived {
    /// The moment before the request was sent: `expires_in` counts from here.
    pub sent_at: Timestamp,
    /// The received bytes, without interim answers.
    pub bytes: Vec<u8>,
}

impl Arrived {
    /// An answer of which nothing has arrived.
    #[must_use]
    pub const fn nothing_yet(now: Timestamp) -> Self {
        Self {
            sent_at: now,
            bytes: Vec::new(),
        }
    }

    /// The cost of reading it, in bytes. A body that is not text may be compressed, and as large as the limit once it is decoded.
    pub(in crate::capability) fn work(&self, limit: usize) -> usize {
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => text.len(),
            Err(_) => limit.max(self.bytes.len()),
        }
    }
}

/// Not even its length is shown: the bytes hold tokens.
impl fmt::Debug for Arrived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrived")
            .field("sent_at", &self.sent_at)
            .finish_non_exhaustive()
    }
}

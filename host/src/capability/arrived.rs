//! An answer as bytes: what the journal keeps of it, whatever it means.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::time::Timestamp;

/// An answer as it arrives.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrived {
    /// The moment before the request was sent: `expires_in` counts from here.
    pub sent_at: Timestamp,
    /// What came, byte for byte, but for interim answers.
    pub bytes: Vec<u8>,
}

impl Arrived {
    /// Nothing of it is there.
    #[must_use]
    pub const fn nothing_yet(now: Timestamp) -> Self {
        Self {
            sent_at: now,
            bytes: Vec::new(),
        }
    }

    /// What it takes to read it, in bytes. What is no text may be coded, and as large as it may be once it is decoded.
    pub(in crate::capability) fn work(&self, limit: usize) -> usize {
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => text.len(),
            Err(_) => limit.max(self.bytes.len()),
        }
    }
}

/// Not even its length: there are tokens in it.
impl fmt::Debug for Arrived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrived")
            .field("sent_at", &self.sent_at)
            .finish_non_exhaustive()
    }
}

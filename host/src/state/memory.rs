//! Records in memory, for processes without a state directory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

type Records = BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>;

/// A map with the order of the database.
#[derive(Default)]
pub(super) struct Memory(Mutex<Records>);

impl Memory {
    pub(super) fn get(&self, key: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.records().get(key).cloned()
    }

    pub(super) fn put(&self, key: Vec<u8>, value: Zeroizing<Vec<u8>>) {
        self.records().insert(key, value);
    }

    /// The keys that begin with `prefix`.
    pub(super) fn scan(&self, prefix: &[u8]) -> Vec<Vec<u8>> {
        self.records()
            .range(prefix.to_vec()..)
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(prefix))
            .cloned()
            .collect()
    }

    pub(super) fn remove_prefix(&self, prefix: &[u8]) {
        self.records().retain(|key, _| !key.starts_with(prefix));
    }

    /// Every operation leaves the map whole, so a panic elsewhere does not spoil it.
    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

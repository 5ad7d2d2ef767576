//! Records in memory, for processes without a state directory, and for simulated ones: there the memory outlives the process, is
//! slow, fails, and may apply a write that it reports as failed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_core::future::BoxFuture;
use zeroize::Zeroizing;

use super::Opened;
use super::error::StateError;
use super::fingerprint::{Fingerprints, KEY_LEN};
use super::key::RecordKey;
use super::known::KnownRecords;
use super::opening::{self, Examination};
use super::record::Own;
use super::records::{Expected, RecordBytes, Records, StoredRecord, WrittenRecord};
use super::seal::Keyring;
use crate::capability::keep::Revision;
use crate::model::failure::Failure;

/// A write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryWrite {
    /// A record.
    Put(RecordKey),
    /// The deletion of a record.
    Delete(RecordKey),
}

/// Faults of a memory. Each method is awaited at the point that its name says: it may delay, or never return, as with a process
/// that crashes there.
pub trait Faults: Send + Sync {
    /// Before a read; with an error, it does not happen.
    fn read(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }

    /// Before a write; with an error, it does not happen.
    fn before<'a>(&'a self, write: &'a MemoryWrite) -> BoxFuture<'a, Result<(), Failure>> {
        let _ = write;
        Box::pin(async { Ok(()) })
    }

    /// After a write, which has happened; with an error, its writer takes it for failed. `applied`: whether the record was as
    /// expected.
    fn after<'a>(
        &'a self,
        write: &'a MemoryWrite,
        applied: bool,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let _ = (write, applied);
        Box::pin(async { Ok(()) })
    }
}

/// The memory of a store that outlives it. Clones share the memory, for one process after another or for several at a time; the
/// settings below belong to the clone.
///
/// ```
/// # use evertoken::state::{MemoryState, StateError, Store};
/// # fn main() -> Result<(), StateError> {
/// let memory = MemoryState::new([7; 32]);
/// let before = Store::in_memory(memory.clone(), Vec::new())?;
/// drop(before); // A crash.
/// let after = Store::in_memory(memory, Vec::new())?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryState {
    table: Arc<Mutex<Table>>,
    fingerprint_key: Arc<Zeroizing<[u8; KEY_LEN]>>,
    faults: Option<Arc<dyn Faults>>,
    exclusive: bool,
    /// Whether the memory remains available when the process that uses it has ended.
    outlives_process: bool,
}

impl fmt::Debug for MemoryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryState")
            .field("exclusive", &self.exclusive)
            .finish_non_exhaustive()
    }
}

/// Records, and the number of changes: a record's revision is the number of the change that made it.
#[derive(Default)]
struct Table {
    records: BTreeMap<RecordKey, (Revision, RecordBytes)>,
    changes: u64,
}

impl Table {
    fn get(&self, key: &RecordKey) -> Option<StoredRecord> {
        let (revision, value) = self.records.get(key)?;
        Some(stored(revision, value))
    }

    fn is(&self, key: &RecordKey, expected: &Expected) -> bool {
        expected.is(self.records.get(key).map(|(revision, _)| revision))
    }

    fn put(&mut self, key: RecordKey, value: RecordBytes) -> Revision {
        self.changes += 1;
        let revision = Revision(self.changes.to_string());
        self.records.insert(key, (revision.clone(), value));
        revision
    }
}

fn stored(revision: &Revision, value: &RecordBytes) -> StoredRecord {
    StoredRecord {
        revision: revision.clone(),
        uid: String::new(),
        is_copy: false,
        value: value.clone(),
    }
}

impl MemoryState {
    /// An empty memory whose chain ids are computed with this key, deterministic for key and values.
    #[must_use]
    pub fn new(fingerprint_key: [u8; 32]) -> Self {
        Self {
            table: Arc::default(),
            fingerprint_key: Arc::new(Zeroizing::new(fingerprint_key)),
            faults: None,
            exclusive: true,
            outlives_process: true,
        }
    }

    /// An empty memory that ends with the process.
    pub(super) fn of_process() -> Result<Self, StateError> {
        Ok(Self {
            outlives_process: false,
            ..Self::new(*Fingerprints::random_key()?)
        })
    }

    /// Sets the faults of stores made with this clone.
    #[must_use]
    pub fn with_faults(mut self, faults: Arc<dyn Faults>) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Stores made with this clone share the memory with other processes, as with a store in a cluster.
    #[must_use]
    pub fn shared_by_processes(mut self) -> Self {
        self.exclusive = false;
        self
    }

    /// Whether it contains these bytes in plain text, which encryption should prevent.
    #[must_use]
    pub fn holds(&self, bytes: &[u8]) -> bool {
        let table = self.table();
        let mut values = table.records.values();
        values.any(|(_, value)| {
            value
                .windows(bytes.len().max(1))
                .any(|window| window == bytes)
        })
    }

    /// Examines all records, and encrypts those again that need it.
    pub(super) fn open(&self, keys: &Keyring) -> Result<Opened, StateError> {
        let mut table = self.table();
        if table.get(&RecordKey::Own).is_none() {
            let own = Own::new(Zeroizing::clone(&self.fingerprint_key));
            table.put(RecordKey::Own, opening::seal_own(keys, &own)?);
        }
        let own = table.get(&RecordKey::Own).map(|own| own.value);
        let mut examination = Examination::new(keys, own.as_ref().map(|own| own.as_slice()), false);
        for (key, (_, value)) in &table.records {
            examination.see(key, value);
        }
        let examined = examination.end("memory", |reason| self.damaged(reason))?;
        for key in examined.outdated {
            if let Some(stored) = table.get(&key) {
                let value = keys.reseal(&key, &stored.value)?;
                table.put(key, value);
            }
        }
        let mut known = KnownRecords::default();
        known.refused = examined.refused;
        for (key, (revision, value)) in &table.records {
            let stored = stored(revision, value);
            opening::learn(&mut known, keys, key.clone(), stored, !self.exclusive);
        }
        Ok(Opened {
            fingerprint_key: Zeroizing::clone(&self.fingerprint_key),
            known,
        })
    }

    async fn reading(&self) -> Result<(), Failure> {
        match &self.faults {
            Some(faults) => faults.read().await,
            None => Ok(()),
        }
    }

    /// Returns whether the write was applied.
    async fn writing<T>(
        &self,
        write: MemoryWrite,
        happens: impl FnOnce(&mut Table) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        if let Some(faults) = &self.faults {
            faults.before(&write).await?;
        }
        let written = happens(&mut self.table());
        if let Some(faults) = &self.faults {
            faults.after(&write, written.is_some()).await?;
        }
        Ok(written)
    }

    /// Every operation leaves the map consistent, so a panic elsewhere does not damage it.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Records for MemoryState {
    fn get<'a>(
        &'a self,
        key: &'a RecordKey,
    ) -> BoxFuture<'a, Result<Option<StoredRecord>, Failure>> {
        Box::pin(async move {
            self.reading().await?;
            Ok(self.table().get(key))
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(RecordKey, StoredRecord)>, Failure>> {
        Box::pin(async move {
            self.reading().await?;
            let table = self.table();
            let records = table.records.iter();
            Ok(records
                .map(|(key, (revision, value))| (key.clone(), stored(revision, value)))
                .collect())
        })
    }

    fn put_if<'a>(
        &'a self,
        key: &'a RecordKey,
        expected: Expected,
        value: RecordBytes,
    ) -> BoxFuture<'a, Result<Option<WrittenRecord>, Failure>> {
        Box::pin(self.writing(MemoryWrite::Put(key.clone()), move |table| {
            table.is(key, &expected).then(|| WrittenRecord {
                revision: table.put(key.clone(), value),
                uid: String::new(),
            })
        }))
    }

    fn delete_if<'a>(
        &'a self,
        key: &'a RecordKey,
        expected: Expected,
    ) -> BoxFuture<'a, Result<bool, Failure>> {
        Box::pin(async move {
            let delete = |table: &mut Table| {
                let is_gone = !table.records.contains_key(key);
                (is_gone || table.is(key, &expected)).then(|| table.records.remove(key))
            };
            let deleted = self
                .writing(MemoryWrite::Delete(key.clone()), delete)
                .await?;
            Ok(deleted.is_some())
        })
    }

    fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    fn outlives_process(&self) -> bool {
        self.outlives_process
    }

    fn damaged(&self, reason: String) -> StateError {
        StateError::DamagedSecrets {
            store: "the records in memory".to_owned(),
            reason,
        }
    }
}

//! The port to the place of records: to read them, and to change one of them if it is as expected. A record is bytes here,
//! encrypted already if there is a key.

use futures_core::future::BoxFuture;
use zeroize::Zeroizing;

use super::error::StateError;
use super::key::RecordKey;
use crate::capability::chain::ChainId;
use crate::capability::keep::Revision;
use crate::model::failure::Failure;

/// A record's bytes.
pub(super) type RecordBytes = Zeroizing<Vec<u8>>;

/// A record as it was read.
#[derive(Debug, Clone)]
pub(super) struct StoredRecord {
    /// Its revision, new after each change.
    pub(super) revision: Revision,
    /// Unique for each object that is created, whatever its name; empty where records are no objects.
    pub(super) uid: String,
    /// Whether another writer than evertoken put it there, e.g. from a backup.
    pub(super) is_copy: bool,
    /// The bytes.
    pub(super) value: RecordBytes,
}

/// A record after a write.
#[derive(Debug, Clone, Default)]
pub(super) struct WrittenRecord {
    /// Its revision.
    pub(super) revision: Revision,
    /// See [`StoredRecord::uid`].
    pub(super) uid: String,
}

/// The condition for a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    /// None.
    Anything,
    /// There is no record.
    Nothing,
    /// The record has this revision.
    At(Revision),
}

impl Expected {
    /// Whether the record found fulfils it.
    pub(super) fn is(&self, found: Option<&Revision>) -> bool {
        match self {
            Self::Anything => true,
            Self::Nothing => found.is_none(),
            Self::At(revision) => found == Some(revision),
        }
    }
}

/// A place for records. A write is durable when its future completes; if that is dropped, or fails as unavailable, the write may
/// have happened.
pub(super) trait Records: Send + Sync {
    /// Reads a record.
    fn get<'a>(
        &'a self,
        key: &'a RecordKey,
    ) -> BoxFuture<'a, Result<Option<StoredRecord>, Failure>>;

    /// Reads all records.
    fn list(&self) -> BoxFuture<'_, Result<Vec<(RecordKey, StoredRecord)>, Failure>>;

    /// The keys of all records.
    fn keys(&self) -> BoxFuture<'_, Result<Vec<RecordKey>, Failure>> {
        Box::pin(async move {
            let all = self.list().await?;
            Ok(all.into_iter().map(|(key, _)| key).collect())
        })
    }

    /// Writes a record. None: the expectation failed.
    fn put_if<'a>(
        &'a self,
        key: &'a RecordKey,
        expected: Expected,
        value: RecordBytes,
    ) -> BoxFuture<'a, Result<Option<WrittenRecord>, Failure>>;

    /// Removes a record. False: the expectation failed. A record that is gone already counts as removed.
    fn delete_if<'a>(
        &'a self,
        key: &'a RecordKey,
        expected: Expected,
    ) -> BoxFuture<'a, Result<bool, Failure>>;

    /// Whether no other process can change it while this one has it open.
    fn is_exclusive(&self) -> bool {
        true
    }

    /// Whether it outlives this process.
    fn outlives_process(&self) -> bool {
        true
    }

    /// Whether a chain was begun that a restored copy lacks.
    fn has_lost(&self, chain: ChainId) -> bool {
        let _ = chain;
        false
    }

    /// The largest record; none: no limit but space.
    fn max_bytes(&self) -> Option<usize> {
        None
    }

    /// Where a record is, for messages about it; empty: all are in the same place.
    fn whereabouts(&self, key: &RecordKey) -> String {
        let _ = key;
        String::new()
    }

    /// The error that the records are not a usable store, with the reason.
    fn damaged(&self, reason: String) -> StateError;
}

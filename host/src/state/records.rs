//! What the store needs of the place where its records are: to read them, and to change one of them if it is as it was. A record is bytes
//! here, encrypted already where there is a key.

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
    /// Its state; another one after each change.
    pub(super) revision: Revision,
    /// Another one for each object that is created, whatever its name; empty where records are no objects.
    pub(super) uid: String,
    /// Whether somebody put it there who is no process of ours, e.g. from a backup.
    pub(super) is_copy: bool,
    /// The bytes.
    pub(super) value: RecordBytes,
}

/// A record after a write.
#[derive(Debug, Clone, Default)]
pub(super) struct WrittenRecord {
    /// Its state.
    pub(super) revision: Revision,
    /// See [`StoredRecord::uid`].
    pub(super) uid: String,
}

/// What must be there for a write to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    /// Whatever.
    Anything,
    /// Nothing.
    Nothing,
    /// The record in this state.
    At(Revision),
}

impl Expected {
    /// Whether what is there is it.
    pub(super) fn is(&self, found: Option<&Revision>) -> bool {
        match self {
            Self::Anything => true,
            Self::Nothing => found.is_none(),
            Self::At(revision) => found == Some(revision),
        }
    }
}

/// A place for records. A write is durable when its future is ready; if that is dropped, or fails as unavailable, it may have happened.
pub(super) trait Records: Send + Sync {
    /// Reads one.
    fn get<'a>(
        &'a self,
        key: &'a RecordKey,
    ) -> BoxFuture<'a, Result<Option<StoredRecord>, Failure>>;

    /// Reads all.
    fn list(&self) -> BoxFuture<'_, Result<Vec<(RecordKey, StoredRecord)>, Failure>>;

    /// The keys of all.
    fn keys(&self) -> BoxFuture<'_, Result<Vec<RecordKey>, Failure>> {
        Box::pin(async move {
            let all = self.list().await?;
            Ok(all.into_iter().map(|(key, _)| key).collect())
        })
    }

    /// Writes one. None: what is there is not what was expected.
    fn put_if<'a>(
        &'a self,
        key: &'a RecordKey,
        expected: Expected,
        value: RecordBytes,
    ) -> BoxFuture<'a, Result<Option<WrittenRecord>, Failure>>;

    /// Removes one. False: what is there is not what was expected. One that is gone already is removed.
    fn delete_if<'a>(
        &'a self,
        key: &'a RecordKey,
        expected: Expected,
    ) -> BoxFuture<'a, Result<bool, Failure>>;

    /// Whether no other process can change it while this one has it.
    fn is_exclusive(&self) -> bool {
        true
    }

    /// Whether it is there after this process.
    fn outlives_process(&self) -> bool {
        true
    }

    /// Whether a chain was begun of which a copy that was put back knows nothing.
    fn has_lost(&self, chain: ChainId) -> bool {
        let _ = chain;
        false
    }

    /// Bytes that one record may have; none: as many as there is room for.
    fn max_bytes(&self) -> Option<usize> {
        None
    }

    /// Where a record is, for messages about it; empty: where all are.
    fn whereabouts(&self, key: &RecordKey) -> String {
        let _ = key;
        String::new()
    }

    /// That the records are no store, and why.
    fn damaged(&self, reason: String) -> StateError;
}

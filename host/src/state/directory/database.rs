//! The database in the directory: its tables, and the operations on them, each in one transaction.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};
use zeroize::Zeroizing;

use super::folder::Folder;
use crate::capability::chain::ChainId;
use crate::capability::keep::Revision;
use crate::state::error::StateError;
use crate::state::key::RecordKey;
use crate::state::records::{Expected, RecordBytes, StoredRecord};

/// The database's name in the directory.
pub(super) const DATABASE_FILE: &str = "state.redb";

/// The layout of tables and keys of this version. It is stored in the database since the first version.
pub(super) const SCHEMA: u64 = 2;

/// Memory for database pages. Tokens are only read at start, so a larger cache (redb's default is 1 GiB) would not be used.
const CACHE_BYTES: usize = 1024 * 1024;

/// From keys to the number of the change that made the record, in eight bytes, and its value.
pub(super) const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const META_SCHEMA: &str = "schema";
/// The number of changes of records.
const META_CHANGES: &str = "changes";
/// The number of changes of chains.
const META_GENERATION: &str = "generation";
/// Chains of a restored copy, and those that were begun after it was made: their values may be spent.
pub(super) const RESTORED: TableDefinition<'_, &[u8; 16], ()> = TableDefinition::new("restored");

/// A change of one record, on the condition of an expectation.
pub(super) struct RecordChange {
    pub(super) key: RecordKey,
    expected: Expected,
    /// None: the record is removed.
    value: Option<RecordBytes>,
}

impl RecordChange {
    /// Writes the record.
    pub(super) fn put(key: &RecordKey, expected: Expected, value: RecordBytes) -> Self {
        Self {
            key: key.clone(),
            expected,
            value: Some(value),
        }
    }

    /// Removes the record.
    pub(super) fn delete(key: &RecordKey, expected: Expected) -> Self {
        Self {
            key: key.clone(),
            expected,
            value: None,
        }
    }

    /// Whether the record can be obtained again: a token from its issuer, a cached value from its plugin.
    pub(super) fn is_ordinary(&self) -> bool {
        self.value.is_some() && self.key.job().is_some()
    }

    /// The chain that it changes.
    pub(super) fn written_chain(&self) -> Option<ChainId> {
        match &self.key {
            RecordKey::Chain(id) if self.value.is_some() => Some(*id),
            _ => None,
        }
    }
}

/// A record in the form of the table.
fn packed(change: u64, value: &[u8]) -> RecordBytes {
    let mut packed = Zeroizing::new(Vec::with_capacity(8 + value.len()));
    packed.extend_from_slice(&change.to_be_bytes());
    packed.extend_from_slice(value);
    packed
}

/// The inverse of [`packed`]. A value that is too short is an empty record.
fn unpacked(packed: &[u8]) -> StoredRecord {
    let (change, value) = packed.split_first_chunk().unwrap_or((&[0; 8], &[]));
    StoredRecord {
        revision: Revision(u64::from_be_bytes(*change).to_string()),
        uid: String::new(),
        is_copy: false,
        value: Zeroizing::new(value.to_vec()),
    }
}

pub(super) fn get(
    database: &Database,
    key: &RecordKey,
) -> Result<Option<StoredRecord>, redb::Error> {
    let table = database.begin_read()?.open_table(RECORDS)?;
    let found = table.get(&key.to_bytes()[..])?;
    Ok(found.map(|record| unpacked(record.value())))
}

/// Iterates over all records in the order of their keys, without those whose key this version does not know.
pub(super) fn for_each(
    database: &Database,
    mut visit: impl FnMut(RecordKey, StoredRecord),
) -> Result<(), redb::Error> {
    let table = database.begin_read()?.open_table(RECORDS)?;
    for entry in table.iter()? {
        let (key, record) = entry?;
        if let Some(key) = RecordKey::from_bytes(key.value()) {
            visit(key, unpacked(record.value()));
        }
    }
    Ok(())
}

pub(super) fn list(database: &Database) -> Result<Vec<(RecordKey, StoredRecord)>, redb::Error> {
    let mut all = Vec::new();
    for_each(database, |key, stored| all.push((key, stored)))?;
    Ok(all)
}

pub(super) fn keys(database: &Database) -> Result<Vec<RecordKey>, redb::Error> {
    let table = database.begin_read()?.open_table(RECORDS)?;
    let mut keys = Vec::new();
    for entry in table.iter()? {
        keys.extend(RecordKey::from_bytes(entry?.0.value()));
    }
    Ok(keys)
}

/// One commit: each change sees those before it, and one whose expectation fails does not affect the others. Returns which were
/// applied, with the record's revision.
pub(super) fn apply<'a>(
    database: &Database,
    changes: impl Iterator<Item = &'a RecordChange>,
) -> Result<Vec<Option<Revision>>, redb::Error> {
    let transaction = database.begin_write()?;
    let mut applied = Vec::new();
    let mut chains_have_changed = false;
    let has_changed;
    {
        let mut records = transaction.open_table(RECORDS)?;
        let mut restored = transaction.open_table(RESTORED)?;
        let mut meta = transaction.open_table(META)?;
        let before = meta.get(META_CHANGES)?.map_or(0, |found| found.value());
        let mut number = before;
        for change in changes {
            let key = change.key.to_bytes();
            let found = records.get(&key[..])?;
            let found = found.map(|record| unpacked(record.value()).revision);
            let is_gone = change.value.is_none() && found.is_none();
            if is_gone || !change.expected.is(found.as_ref()) {
                applied.push(is_gone.then(Revision::default));
                continue;
            }
            number += 1;
            match &change.value {
                Some(value) => drop(records.insert(&key[..], &packed(number, value)[..])?),
                None => drop(records.remove(&key[..])?),
            }
            if let RecordKey::Chain(id) = &change.key {
                restored.remove(&id.0)?;
            }
            chains_have_changed |= change.written_chain().is_some();
            applied.push(Some(Revision(number.to_string())));
        }
        has_changed = number > before;
        meta.insert(META_CHANGES, number)?;
        if chains_have_changed {
            let before = meta.get(META_GENERATION)?.map_or(0, |found| found.value());
            meta.insert(META_GENERATION, before + 1)?;
        }
    }
    if has_changed {
        transaction.commit()?;
    } else {
        transaction.abort()?;
    }
    Ok(applied)
}

/// Replaces records by other encryptions of the same content, in one commit.
pub(super) fn reseal(database: &Database, changes: &[RecordChange]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut records = transaction.open_table(RECORDS)?;
        for change in changes {
            let (key, value) = (change.key.to_bytes(), change.value.as_ref());
            let found = records.get(&key[..])?;
            let revision = found.map(|record| unpacked(record.value()).revision);
            let number = revision.and_then(|revision| revision.0.parse().ok());
            if let (Some(number), Some(value)) = (number, value) {
                records.insert(&key[..], &packed(number, value)[..])?;
            }
        }
    }
    Ok(transaction.commit()?)
}

/// The number of changes of chains.
pub(super) fn generation(database: &Database) -> Result<u64, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    Ok(meta.get(META_GENERATION)?.map_or(0, |found| found.value()))
}

/// Stores the chains whose values may be spent.
pub(super) fn mark_restored(
    database: &Database,
    chains: &BTreeSet<ChainId>,
    generation: u64,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut restored = transaction.open_table(RESTORED)?;
        for chain in chains {
            restored.insert(&chain.0, ())?;
        }
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_GENERATION, generation)?;
    }
    Ok(transaction.commit()?)
}

/// The chains of [`mark_restored`] that have not been changed since.
pub(super) fn marked_restored(database: &Database) -> Result<BTreeSet<ChainId>, redb::Error> {
    let table = database.begin_read()?.open_table(RESTORED)?;
    let mut chains = BTreeSet::new();
    for entry in table.iter()? {
        chains.insert(ChainId(*entry?.0.value()));
    }
    Ok(chains)
}

/// Used bytes of the database's file.
pub(super) fn used_bytes(database: &Database) -> Result<u64, redb::Error> {
    // Removed pages are free after the next commit.
    database.begin_write()?.commit()?;
    let transaction = database.begin_write()?;
    let stats = transaction.stats()?;
    transaction.abort()?;
    Ok(stats.allocated_pages() * stats.page_size() as u64)
}

/// Opens or creates the file, checks the schema, creates the tables.
pub(super) fn open(folder: &Folder) -> Result<Database, StateError> {
    let path = folder.path().join(DATABASE_FILE);
    let damaged = |error: redb::Error| match error {
        redb::Error::Io(error) if error.kind() != io::ErrorKind::InvalidData => StateError::Open {
            path: path.clone(),
            why: Arc::new(error),
            mend: "let this process read and write it",
        },
        other => StateError::Damaged {
            path: path.clone(),
            reason: other.to_string(),
        },
    };
    let database = build(folder.file(DATABASE_FILE)?).map_err(damaged)?;
    match check_schema(&database).map_err(damaged)? {
        SCHEMA => Ok(database),
        found if found < SCHEMA => Err(StateError::OlderForm {
            store: path.display().to_string(),
        }),
        found => Err(StateError::NewerSchema {
            path,
            found,
            known: SCHEMA,
        }),
    }
}

pub(super) fn reopen(folder: &Folder) -> Result<Database, redb::Error> {
    let file = folder.file(DATABASE_FILE);
    build(file.map_err(|error| redb::Error::Io(io::Error::other(error)))?)
}

pub(super) fn build(file: File) -> Result<Database, redb::Error> {
    Ok(Builder::new()
        .set_cache_size(CACHE_BYTES)
        // Without it, redb trusts the file and panics on one that a failing disk or a person has altered.
        .set_check_integrity_on_open(true)
        .create_with_backend(FileBackend::new(file)?)?)
}

/// The schema of the database; a new one gets ours. An existing schema is not overwritten.
fn check_schema(database: &Database) -> Result<u64, redb::Error> {
    match database.begin_read()?.open_table(META) {
        Ok(meta) => {
            if let Some(schema) = meta.get(META_SCHEMA)? {
                return Ok(schema.value());
            }
        }
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert(META_SCHEMA, SCHEMA)?;
    transaction.open_table(RECORDS)?;
    transaction.open_table(RESTORED)?;
    transaction.commit()?;
    Ok(SCHEMA)
}

/// The database's error as the store's.
pub(super) fn storage(operation: &'static str, error: redb::Error) -> StateError {
    StateError::Storage {
        operation,
        source: Arc::new(error),
    }
}

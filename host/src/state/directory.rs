//! Records in a directory: a redb database owned by one thread, because the database blocks and because the thread can commit
//! everything that is waiting at once. A write is durable when its future completes; a thousand writers share one fsync.

mod database;
mod folder;
mod lock;
mod removed;
mod reserve;
mod witness;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use futures_core::future::BoxFuture;
use redb::Database;
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use self::database::{DATABASE_FILE, RecordChange, storage};
use self::folder::Folder;
pub(super) use self::folder::look;
use self::lock::DirectoryLock;
use self::reserve::Reserve;
use self::witness::{Testimony, Witness};
use super::Opened;
use super::error::StateError;
use super::fingerprint::Fingerprints;
use super::key::RecordKey;
use super::known::KnownRecords;
use super::opening::{self, Examination};
use super::record::{self, Own};
use super::records::{Expected, RecordBytes, Records, StoredRecord, WrittenRecord};
use super::seal::Keyring;
use crate::capability::chain::ChainId;
use crate::capability::keep::Revision;
use crate::model::failure::{Failure, HostCode};

/// The file beside the database with a copy of the store's own record.
const OWN_FILE: &str = "fingerprints";

/// The most bytes that are read of it: it has a hundred.
const MAX_OWN_BYTES: u64 = 4096;

/// The unit in which `stat` counts a file's blocks.
const BLOCK_BYTES: u64 = 512;

/// Operations that wait for the thread; further callers wait. One for each attempt in flight is plenty.
const QUEUE: usize = 1024;

/// Operations in one commit: enough to share the cost of fsync, few enough that the first does not wait long for the last.
const BATCH: usize = 512;

type Reply<T> = oneshot::Sender<Result<T, StateError>>;

/// A change, and the channel for its result: the record's revision, or none if the expectation failed.
type Waiting = (RecordChange, Reply<Option<Revision>>);

enum Operation {
    Get(RecordKey, Reply<Option<StoredRecord>>),
    List(Reply<Vec<(RecordKey, StoredRecord)>>),
    Keys(Reply<Vec<RecordKey>>),
    Write(RecordChange, Reply<Option<Revision>>),
}

/// A directory locked by this process. Dropping it waits for the commit in flight and releases the directory.
pub(super) struct DirectoryRecords {
    operations: Option<mpsc::Sender<Operation>>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
    restored: Restored,
}

/// Chains of a restored copy, until they get another value, and those that it lacks.
#[derive(Clone, Default)]
struct Restored(Arc<Mutex<BTreeSet<ChainId>>>);

impl Restored {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<ChainId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, key: &RecordKey) -> bool {
        matches!(key, RecordKey::Chain(id) if self.lock().contains(id))
    }
}

/// Locks the directory, opens the database and brings all records under the first key. Blocks.
pub(super) fn open(path: &Path, keys: &Keyring) -> Result<(DirectoryRecords, Opened), StateError> {
    let folder = Folder::open(path)?;
    let lock = DirectoryLock::acquire(&folder)?;
    let mut witness = Witness::open(&folder)?;
    let reserve = Reserve::open(&folder)?;
    let database = database::open(&folder)?;
    let file = path.join(DATABASE_FILE);
    let examined = examine(&database, &file, keys, witness.last().encrypted)?;
    let own = own_record(&database, &folder, keys)?;
    let restored = Restored::default();
    *restored.lock() = restored_chains(&database, &witness)?;
    let mut known = KnownRecords::default();
    known.refused = examined.refused;
    let mut chains = BTreeSet::new();
    database::for_each(&database, |key, mut stored| {
        if let RecordKey::Chain(id) = key {
            chains.insert(id);
            stored.is_copy = restored.has(&key);
            opening::learn(&mut known, keys, key, stored, false);
        }
    })
    .map_err(|error| storage("reading", error))?;
    witness.keep_only(&chains | &*restored.lock());
    let now = Testimony {
        generation: database::generation(&database).map_err(|error| storage("reading", error))?,
        encrypted: witness.last().encrypted || !keys.is_empty(),
    };
    witness
        .testify(now)
        .map_err(|error| storage("writing", error.into()))?;
    let owner = WriterThread {
        file: folder.file(DATABASE_FILE)?,
        folder,
        database: Some(database),
        restored: restored.clone(),
        witness,
        reserve,
        lock,
    };
    let (operations, queue) = mpsc::channel(QUEUE);
    let thread = std::thread::Builder::new()
        .name("evertoken-state".to_owned())
        .spawn(move || owner.run(queue))
        .map_err(|source| StateError::Open {
            path: path.to_owned(),
            why: Arc::new(source),
            mend: "allow this process one more thread",
        })?;
    let directory = DirectoryRecords {
        operations: Some(operations),
        thread: Some(thread),
        path: file,
        restored,
    };
    let opened = Opened {
        fingerprint_key: own.fingerprint_key,
        known,
    };
    Ok((directory, opened))
}

impl DirectoryRecords {
    async fn ask<T>(&self, operation: impl FnOnce(Reply<T>) -> Operation) -> Result<T, Failure> {
        let (answer, answered) = oneshot::channel();
        self.operations
            .as_ref()
            .ok_or(StateError::Closed)?
            .send(operation(answer))
            .await
            .map_err(|_| StateError::Closed)?;
        Ok(answered.await.map_err(|_| StateError::Closed)??)
    }
}

impl Records for DirectoryRecords {
    fn get<'a>(
        &'a self,
        key: &'a RecordKey,
    ) -> BoxFuture<'a, Result<Option<StoredRecord>, Failure>> {
        Box::pin(self.ask(|answer| Operation::Get(key.clone(), answer)))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(RecordKey, StoredRecord)>, Failure>> {
        Box::pin(self.ask(Operation::List))
    }

    fn keys(&self) -> BoxFuture<'_, Result<Vec<RecordKey>, Failure>> {
        Box::pin(self.ask(Operation::Keys))
    }

    fn put_if<'a>(
        &'a self,
        key: &'a RecordKey,
        expected: Expected,
        value: RecordBytes,
    ) -> BoxFuture<'a, Result<Option<WrittenRecord>, Failure>> {
        let change = RecordChange::put(key, expected, value);
        Box::pin(async move {
            let revision = self.ask(|answer| Operation::Write(change, answer)).await?;
            Ok(revision.map(|revision| WrittenRecord {
                revision,
                uid: String::new(),
            }))
        })
    }

    fn delete_if<'a>(
        &'a self,
        key: &'a RecordKey,
        expected: Expected,
    ) -> BoxFuture<'a, Result<bool, Failure>> {
        let change = RecordChange::delete(key, expected);
        Box::pin(async move {
            let revision = self.ask(|answer| Operation::Write(change, answer)).await?;
            Ok(revision.is_some())
        })
    }

    fn has_lost(&self, chain: ChainId) -> bool {
        self.restored.lock().contains(&chain)
    }

    fn damaged(&self, reason: String) -> StateError {
        StateError::Damaged {
            path: self.path.clone(),
            reason,
        }
    }
}

impl Drop for DirectoryRecords {
    fn drop(&mut self) {
        self.operations = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has no commit in flight.
            let _ = thread.join();
        }
    }
}

/// The state of the thread.
struct WriterThread {
    folder: Folder,
    /// The database's file, to see whether it is still in a directory.
    file: File,
    /// None after an I/O error, after which redb must be opened anew.
    database: Option<Database>,
    restored: Restored,
    witness: Witness,
    reserve: Reserve,
    lock: DirectoryLock,
}

impl WriterThread {
    fn run(mut self, mut queue: mpsc::Receiver<Operation>) {
        let mut waiting = Vec::with_capacity(BATCH);
        while queue.blocking_recv_many(&mut waiting, BATCH) > 0 {
            let mut changes = Vec::new();
            for operation in waiting.drain(..) {
                match operation {
                    Operation::Get(key, answer) => {
                        let stored = self.reading(|database| database::get(database, &key));
                        let _ = answer.send(stored.map(|stored| self.marked(&key, stored)));
                    }
                    Operation::List(answer) => {
                        let _ = answer.send(self.reading(database::list));
                    }
                    Operation::Keys(answer) => {
                        let _ = answer.send(self.reading(database::keys));
                    }
                    Operation::Write(change, answer) => changes.push((change, answer)),
                }
            }
            self.commit(changes);
        }
    }

    fn marked(&self, key: &RecordKey, stored: Option<StoredRecord>) -> Option<StoredRecord> {
        stored.map(|stored| StoredRecord {
            is_copy: self.restored.has(key),
            ..stored
        })
    }

    fn commit(&mut self, mut changes: Vec<Waiting>) {
        if let Err(error) = self.stay() {
            for (_, answer) in changes {
                let _ = answer.send(Err(error.clone()));
            }
            return;
        }
        if changes.iter().any(|(change, _)| change.is_ordinary()) && !self.has_room() {
            refuse_ordinary(&mut changes, &storage("writing", full_disk()));
        }
        if changes.is_empty() {
            return;
        }
        let result = match self.apply(&changes) {
            Err(error) if is_disk_full(&error) => {
                refuse_ordinary(&mut changes, &error);
                self.apply_with_reserve(&changes)
            }
            result => result,
        };
        match result {
            Err(error) => {
                for (_, answer) in changes {
                    let _ = answer.send(Err(error.clone()));
                }
            }
            Ok(applied) => self.answer(changes, applied),
        }
    }

    /// Whether there is space for writes that must not fail: the reserve is complete, or as much is free in the database's own
    /// file.
    fn has_room(&mut self) -> bool {
        if self.reserve.is_whole() {
            return true;
        }
        let file = self.folder.file(DATABASE_FILE);
        let Some(held) = file.ok().and_then(|file| file.metadata().ok()) else {
            return false;
        };
        let used = self.with_database(database::used_bytes);
        used.is_ok_and(|used| {
            (held.blocks() * BLOCK_BYTES).saturating_sub(used) >= self.reserve.bytes()
        })
    }

    /// Tries it once more, and then without the reserve.
    fn apply_with_reserve(
        &mut self,
        changes: &[Waiting],
    ) -> Result<Vec<Option<Revision>>, StateError> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        match self.apply(changes) {
            Err(error) if is_disk_full(&error) && self.reserve.release() => {
                tracing::warn!(
                    directory = %self.folder.path().display(),
                    "the disk is full: the state store uses what it has kept for rotating secrets; make room"
                );
                self.apply(changes)
            }
            result => result,
        }
    }

    fn apply(&mut self, changes: &[Waiting]) -> Result<Vec<Option<Revision>>, StateError> {
        self.with_database(|database| {
            database::apply(database, changes.iter().map(|(change, _)| change))
        })
        .map_err(|error| storage("writing", error))
    }

    /// Reports the results of changes. A chain's change counts when the witness file has recorded it too: nothing is sent before.
    fn answer(&mut self, changes: Vec<Waiting>, applied: Vec<Option<Revision>>) {
        let changed = changes.iter().zip(&applied);
        let changed = changed.filter(|(_, applied)| applied.is_some());
        let chains = changed.filter_map(|((change, _), _)| change.written_chain());
        let chains: Vec<ChainId> = chains.collect();
        self.witness.begin(chains.iter().copied());
        let known = if chains.is_empty() {
            Ok(())
        } else {
            self.testify()
        };
        for ((change, answer), applied) in changes.into_iter().zip(applied) {
            if let (RecordKey::Chain(id), Some(_)) = (&change.key, &applied) {
                self.restored.lock().remove(id);
            }
            let result = match &known {
                Err(error) if change.written_chain().is_some() => Err(error.clone()),
                _ => Ok(applied),
            };
            // The caller may have gone; the write counts all the same.
            let _ = answer.send(result);
        }
    }

    fn testify(&mut self) -> Result<(), StateError> {
        let generation = self.reading(database::generation)?;
        let now = Testimony {
            generation,
            ..self.witness.last()
        };
        self.witness
            .testify(now)
            .map_err(|error| storage("writing", error.into()))
    }

    fn reading<T>(
        &mut self,
        operation: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StateError> {
        self.with_database(operation)
            .map_err(|error| storage("reading", error))
    }

    /// Runs an operation on the database, opened anew after an I/O error, so that a disk that was full does not need a restart.
    fn with_database<T>(
        &mut self,
        operation: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => database::reopen(&self.folder)?,
        };
        let result = operation(&database);
        if !matches!(result, Err(redb::Error::Io(_) | redb::Error::PreviousIo)) {
            self.database = Some(database);
        }
        result
    }
}

fn refuse_ordinary(changes: &mut Vec<Waiting>, error: &StateError) {
    let all = std::mem::take(changes);
    for (change, answer) in all {
        if change.is_ordinary() {
            let _ = answer.send(Err(error.clone()));
        } else {
            changes.push((change, answer));
        }
    }
}

fn full_disk() -> redb::Error {
    io::Error::from(io::ErrorKind::StorageFull).into()
}

fn is_disk_full(error: &StateError) -> bool {
    error.code() == HostCode::StateDiskFull
}

/// Examines all records and encrypts those again that need it, in one commit: a store is encrypted as a whole or not at all.
/// Until redb reuses their pages, old versions remain in the file.
fn examine(
    database: &Database,
    file: &Path,
    keys: &Keyring,
    were_encrypted: bool,
) -> Result<opening::Examined, StateError> {
    let reading = |error| storage("reading", error);
    let own = database::get(database, &RecordKey::Own).map_err(reading)?;
    let own = own.as_ref().map(|own| own.value.as_slice());
    let mut examination = Examination::new(keys, own, were_encrypted);
    database::for_each(database, |key, stored| examination.see(&key, &stored.value))
        .map_err(reading)?;
    let damaged = |reason| StateError::Damaged {
        path: file.to_owned(),
        reason,
    };
    let examined = examination.end(&file.display().to_string(), damaged)?;
    if examined.outdated.is_empty() {
        return Ok(examined);
    }
    tracing::info!(
        records = examined.outdated.len(),
        "encrypting records anew with the first state key"
    );
    let mut changes = Vec::with_capacity(examined.outdated.len());
    for key in &examined.outdated {
        if let Some(stored) = database::get(database, key).map_err(reading)? {
            let value = keys.reseal(key, &stored.value)?;
            changes.push(RecordChange::put(key, Expected::Anything, value));
        }
    }
    database::reseal(database, &changes).map_err(|error| storage("writing", error))?;
    Ok(examined)
}

/// The chains of a copy that was restored now or before, and those that it lacks; a copy is recognised by the witness file's
/// record of later changes.
fn restored_chains(
    database: &Database,
    witness: &Witness,
) -> Result<BTreeSet<ChainId>, StateError> {
    let reading = |error| storage("reading", error);
    let witnessed = witness.last().generation;
    if database::generation(database).map_err(reading)? < witnessed {
        let keys = database::keys(database).map_err(reading)?;
        let chains = keys.iter().filter_map(|key| match key {
            RecordKey::Chain(id) => Some(*id),
            _ => None,
        });
        let chains = chains.chain(witness.begun().iter().copied()).collect();
        tell_restored(&chains);
        database::mark_restored(database, &chains, witnessed)
            .map_err(|error| storage("writing", error))?;
    }
    database::marked_restored(database).map_err(reading)
}

fn tell_restored(chains: &BTreeSet<ChainId>) {
    if !chains.is_empty() {
        tracing::error!(
            chains = chains.len(),
            "the state directory holds an older copy of its database, or a new one: values of rotating secrets in it may be spent, so none is sent before somebody gives a new one with `evertoken state set` or logs in again"
        );
    }
}

/// The store's own record, created with the store. Without it no chain is found by its values, so a store in which it is damaged
/// is not used. For a database that was lost, it is read from the copy beside it: with it the former values of chains are
/// recognised as spent.
fn own_record(database: &Database, folder: &Folder, keys: &Keyring) -> Result<Own, StateError> {
    let beside = OwnFile::open(folder)?;
    let stored =
        database::get(database, &RecordKey::Own).map_err(|error| storage("reading", error))?;
    if let Some(StoredRecord { value, .. }) = stored {
        let own = opened_own(&value, &folder.path().join(DATABASE_FILE), keys)?;
        beside.keep(&value);
        return Ok(own);
    }
    let (own, value) = if beside.content.is_empty() {
        let own = Own::new(Fingerprints::random_key()?);
        let value = opening::seal_own(keys, &own)?;
        (own, value)
    } else {
        let own = opened_own(&beside.content, &beside.path, keys)?;
        (own, beside.content.clone())
    };
    let change = RecordChange::put(&RecordKey::Own, Expected::Nothing, value.clone());
    database::apply(database, [&change].into_iter()).map_err(|error| storage("writing", error))?;
    beside.keep(&value);
    Ok(own)
}

fn opened_own(stored: &[u8], file: &Path, keys: &Keyring) -> Result<Own, StateError> {
    let damaged = |reason: &str| StateError::Damaged {
        path: file.to_owned(),
        reason: format!("its fingerprint key {reason}"),
    };
    let bytes = keys
        .open(&RecordKey::Own, stored)
        .map_err(|error| match error {
            StateError::Plaintext { .. } => {
                damaged("is not encrypted although the store was: somebody else has put it there")
            }
            _ => damaged("cannot be decrypted"),
        })?;
    record::decode("fingerprint key", &bytes).map_err(|_| damaged("cannot be read"))
}

/// The copy of the store's own record beside the database, in the same form.
struct OwnFile {
    file: File,
    path: PathBuf,
    content: RecordBytes,
}

impl OwnFile {
    fn open(folder: &Folder) -> Result<Self, StateError> {
        let file = folder.file(OWN_FILE)?;
        let mut content = Zeroizing::new(Vec::new());
        // If it cannot be read, it is written anew.
        let _ = (&file).take(MAX_OWN_BYTES).read_to_end(&mut content);
        Ok(Self {
            file,
            path: folder.path().join(OWN_FILE),
            content,
        })
    }

    fn keep(&self, stored: &[u8]) {
        if self.content.as_slice() == stored {
            return;
        }
        let written = self.file.write_all_at(stored, 0);
        let cut = written.and_then(|()| self.file.set_len(stored.len() as u64));
        if let Err(error) = cut.and_then(|()| self.file.sync_data()) {
            tracing::warn!(
                file = %self.path.display(), %error,
                "a part of the state cannot be kept a second time; if the database is lost, spent values of rotating secrets are not known for such"
            );
        }
    }
}

#[cfg(test)]
mod tests;

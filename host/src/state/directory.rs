//! Records in a directory: a redb database that one thread owns, because the database blocks and because the thread can commit
//! everything that is waiting at once. A write is durable when its future is ready; a thousand writers share one fsync.

mod folder;
mod lock;
mod removed;
mod reserve;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use redb::backends::FileBackend;
use redb::{
    Builder, Database, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction,
};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use self::folder::Folder;
pub(super) use self::folder::look;
use self::lock::DirectoryLock;
use self::reserve::Reserve;
use self::witness::{Testimony, Witness};
use super::change::{Change, Tables, Value};
use super::error::StateError;
use super::fingerprint::{Fingerprint, Fingerprints, KEY_LEN, Link, chain_of};
use super::record::{self, Name};
use super::seal::{Condition, Keyring};
use crate::capability::chain::ChainId;

/// The database's name in the directory.
const DATABASE_FILE: &str = "state.redb";

/// The file with the fingerprint key beside the database.
const FINGERPRINT_FILE: &str = "fingerprints";

/// Bytes that are read of it: it has a hundred.
const MAX_FINGERPRINT_BYTES: u64 = 4096;

/// The newest layout of tables and keys that this version knows. It is in the database since the first version.
const SCHEMA: u64 = 1;

/// Memory for database pages. Tokens are read at start and written from then on, so a larger cache (redb's default is
/// 1 GiB) would only hold what nobody asks for again.
const CACHE_BYTES: usize = 1024 * 1024;

/// What `stat` counts the bytes on a disk in.
const BLOCK_BYTES: u64 = 512;

/// Operations that wait for the thread; more make their callers wait. One for each attempt in flight is plenty.
const QUEUE: usize = 1024;

/// Operations in one commit: enough that fsync no longer counts, few enough that the first does not wait for the last.
const BATCH: usize = 512;

const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
/// From each value that a chain ever had to the chain. Apart from the records, because there are many and none is secret.
const LINKS: TableDefinition<'_, &[u8; 16], &[u8; 32]> = TableDefinition::new("links");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const META_SCHEMA: &str = "schema";
/// How often chains have been changed.
const META_GENERATION: &str = "generation";
/// Chains of a copy that was put back, and those that were begun after it was made: their values may be spent.
const RESTORED: TableDefinition<'_, &[u8; 16], ()> = TableDefinition::new("restored");

type Answer<T> = oneshot::Sender<Result<T, StateError>>;

enum Operation {
    Get(Vec<u8>, Answer<Option<Value>>),
    Scan(Vec<u8>, Answer<Vec<Vec<u8>>>),
    Link(Fingerprint, Answer<Option<Link>>),
    Write(Change, Answer<bool>),
}

/// A directory held by this process. Dropping it waits for the commit in flight and gives the directory back.
pub(super) struct Directory {
    operations: Option<mpsc::Sender<Operation>>,
    thread: Option<JoinHandle<()>>,
    restored: Restored,
}

/// Chains of a copy that was put back, until they get another value, and those that it lacks.
#[derive(Clone, Default)]
struct Restored(Arc<Mutex<BTreeSet<ChainId>>>);

impl Restored {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<ChainId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory {
    /// Locks the directory, opens the database and brings all records under the first key. The store's fingerprint key comes
    /// with it. Blocks.
    pub(super) fn open(
        path: &Path,
        keys: &Keyring,
    ) -> Result<(Self, Zeroizing<[u8; KEY_LEN]>), StateError> {
        let folder = Folder::open(path)?;
        let lock = DirectoryLock::acquire(&folder)?;
        let mut witness = Witness::open(&folder)?;
        let reserve = Reserve::open(&folder)?;
        let file = path.join(DATABASE_FILE);
        let database = open_database(&folder)?;
        let found = examine(&database, &file, keys, witness.last().encrypted)?;
        for error in found.refused.values() {
            tracing::error!("{error}");
        }
        reseal(&database, keys, &found.outdated)?;
        let fingerprint_key = fingerprint_key(&database, &folder, keys)?;
        let restored = Restored::default();
        *restored.lock() = restored_chains(&database, &witness)?;
        let known = all_chains(&database).map_err(|error| storage("reading", error))?;
        witness.keep_only(&known | &*restored.lock());
        let now = Testimony {
            generation: generation(&database).map_err(|error| storage("reading", error))?,
            encrypted: witness.last().encrypted || !keys.is_empty(),
        };
        witness
            .testify(now)
            .map_err(|error| storage("writing", error.into()))?;
        let owner = Owner {
            file: folder.file(DATABASE_FILE)?,
            folder,
            database: Some(database),
            refused: found.refused,
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
        let directory = Self {
            operations: Some(operations),
            thread: Some(thread),
            restored,
        };
        Ok((directory, fingerprint_key))
    }

    /// Whether the chain is of a copy that was put back, so that its value may be spent.
    pub(super) fn is_restored(&self, chain: ChainId) -> bool {
        self.restored.lock().contains(&chain)
    }

    pub(super) async fn get(&self, key: Vec<u8>) -> Result<Option<Value>, StateError> {
        self.ask(|answer| Operation::Get(key, answer)).await
    }

    /// The keys that begin with `prefix`.
    pub(super) async fn scan(&self, prefix: Vec<u8>) -> Result<Vec<Vec<u8>>, StateError> {
        self.ask(|answer| Operation::Scan(prefix, answer)).await
    }

    pub(super) async fn link(&self, fingerprint: Fingerprint) -> Result<Option<Link>, StateError> {
        self.ask(|answer| Operation::Link(fingerprint, answer))
            .await
    }

    /// Whether everything was as expected; nothing changed else.
    pub(super) async fn commit(&self, change: Change) -> Result<bool, StateError> {
        self.ask(|answer| Operation::Write(change, answer)).await
    }

    async fn ask<T>(
        &self,
        operation: impl FnOnce(Answer<T>) -> Operation,
    ) -> Result<T, StateError> {
        let (answer, answered) = oneshot::channel();
        self.operations
            .as_ref()
            .ok_or(StateError::Closed)?
            .send(operation(answer))
            .await
            .map_err(|_| StateError::Closed)?;
        answered.await.map_err(|_| StateError::Closed)?
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.operations = None;
        if let Some(thread) = self.thread.take() {
            // A panicked thread has nothing left to wait for.
            let _ = thread.join();
        }
    }
}

/// The thread's side.
struct Owner {
    folder: Folder,
    /// The database's, to see whether it is still in some directory.
    file: File,
    /// None after an I/O error: redb wants to be opened anew then.
    database: Option<Database>,
    /// Records that are never overwritten, only forgotten, and why.
    refused: BTreeMap<Vec<u8>, StateError>,
    restored: Restored,
    witness: Witness,
    reserve: Reserve,
    lock: DirectoryLock,
}

impl Owner {
    fn run(mut self, mut queue: mpsc::Receiver<Operation>) {
        let mut waiting = Vec::with_capacity(BATCH);
        while queue.blocking_recv_many(&mut waiting, BATCH) > 0 {
            let mut changes = Vec::new();
            for operation in waiting.drain(..) {
                match operation {
                    Operation::Get(key, answer) => {
                        let _ = answer.send(self.reading(|database| get(database, &key)));
                    }
                    Operation::Scan(prefix, answer) => {
                        let _ = answer.send(self.reading(|database| scan(database, &prefix)));
                    }
                    Operation::Link(fingerprint, answer) => {
                        let _ = answer.send(self.reading(|database| link(database, fingerprint)));
                    }
                    Operation::Write(change, answer) => match self.admit(&change) {
                        Ok(()) => changes.push((change, answer)),
                        Err(error) => {
                            let _ = answer.send(Err(error));
                        }
                    },
                }
            }
            self.commit(changes);
        }
    }

    /// What could not be decrypted may be someone's only copy of a chain: nothing but an explicit `forget` removes it.
    fn admit(&self, change: &Change) -> Result<(), StateError> {
        let refused = change
            .overwrites()
            .into_iter()
            .find_map(|key| self.refused.get(&key));
        match refused {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    fn commit(&mut self, mut changes: Vec<(Change, Answer<bool>)>) {
        if let Err(error) = self.stay() {
            for (_, answer) in changes {
                let _ = answer.send(Err(error.clone()));
            }
            return;
        }
        if changes.iter().any(|(change, _)| is_ordinary(change)) && !self.has_room() {
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

    /// Whether what must not fail finds room: the reserve is there, or as much is free in the database's own file.
    fn has_room(&mut self) -> bool {
        if self.reserve.is_whole() {
            return true;
        }
        let file = self.folder.file(DATABASE_FILE);
        let Some(held) = file.ok().and_then(|file| file.metadata().ok()) else {
            return false;
        };
        let used = self.with_database(used_bytes);
        used.is_ok_and(|used| {
            (held.blocks() * BLOCK_BYTES).saturating_sub(used) >= self.reserve.bytes()
        })
    }

    /// Tries it once more, and then without the reserve.
    fn apply_with_reserve(
        &mut self,
        changes: &[(Change, Answer<bool>)],
    ) -> Result<Vec<bool>, StateError> {
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

    fn apply(&mut self, changes: &[(Change, Answer<bool>)]) -> Result<Vec<bool>, StateError> {
        self.with_database(|database| apply(database, changes.iter().map(|(change, _)| change)))
            .map_err(|error| storage("writing", error))
    }

    /// Says what became of changes. A chain's change counts when the witness knows of it too: nothing is sent before.
    fn answer(&mut self, changes: Vec<(Change, Answer<bool>)>, applied: Vec<bool>) {
        let changed_chains = changes
            .iter()
            .zip(&applied)
            .any(|((change, _), applied)| *applied && matches!(change, Change::Swap(_)));
        self.witness.begin(
            changes
                .iter()
                .zip(&applied)
                .filter_map(|((change, _), applied)| match change {
                    Change::Swap(swap) if *applied && swap.expected.is_none() => Some(swap.chain),
                    _ => None,
                }),
        );
        let known = if changed_chains {
            self.testify()
        } else {
            Ok(())
        };
        for ((change, answer), applied) in changes.into_iter().zip(applied) {
            if applied {
                self.refused.retain(|key, _| !change.removes(key));
                let mut restored = self.restored.lock();
                for chain in change.chains() {
                    restored.remove(&chain);
                }
            }
            let result = match &known {
                Err(error) if matches!(change, Change::Swap(_)) => Err(error.clone()),
                _ => Ok(applied),
            };
            // The asker may have given up; the write counts all the same.
            let _ = answer.send(result);
        }
    }

    fn testify(&mut self) -> Result<(), StateError> {
        let generation = self.reading(generation)?;
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

    /// Runs an operation on the database, opened anew if the last one broke it, so that a disk that was full does not
    /// need a restart.
    fn with_database<T>(
        &mut self,
        operation: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => reopen(&self.folder)?,
        };
        let result = operation(&database);
        if !matches!(result, Err(redb::Error::Io(_) | redb::Error::PreviousIo)) {
            self.database = Some(database);
        }
        result
    }
}

/// Bytes of the database's file that hold something.
fn used_bytes(database: &Database) -> Result<u64, redb::Error> {
    // What was removed is free after the next commit.
    database.begin_write()?.commit()?;
    let transaction = database.begin_write()?;
    let stats = transaction.stats()?;
    transaction.abort()?;
    Ok(stats.allocated_pages() * stats.page_size() as u64)
}

/// What can be had again: an issuer gives another token, a plugin asks once more.
const fn is_ordinary(change: &Change) -> bool {
    matches!(change, Change::Put(..))
}

fn refuse_ordinary(changes: &mut Vec<(Change, Answer<bool>)>, error: &StateError) {
    let all = std::mem::take(changes);
    for (change, answer) in all {
        if is_ordinary(&change) {
            let _ = answer.send(Err(error.clone()));
        } else {
            changes.push((change, answer));
        }
    }
}

fn full_disk() -> redb::Error {
    io::Error::from(io::ErrorKind::StorageFull).into()
}

fn get(database: &Database, key: &[u8]) -> Result<Option<Value>, redb::Error> {
    let table = database.begin_read()?.open_table(RECORDS)?;
    Ok(table
        .get(key)?
        .map(|value| Zeroizing::new(value.value().to_vec())))
}

fn scan(database: &Database, prefix: &[u8]) -> Result<Vec<Vec<u8>>, redb::Error> {
    let table = database.begin_read()?.open_table(RECORDS)?;
    keys_with_prefix(&table, prefix)
}

fn keys_with_prefix(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    prefix: &[u8],
) -> Result<Vec<Vec<u8>>, redb::Error> {
    let mut keys = Vec::new();
    for entry in table.range(prefix..)? {
        let key = entry?.0.value().to_vec();
        if !key.starts_with(prefix) {
            break;
        }
        keys.push(key);
    }
    Ok(keys)
}

fn link(database: &Database, fingerprint: Fingerprint) -> Result<Option<Link>, redb::Error> {
    let table = database.begin_read()?.open_table(LINKS)?;
    Ok(table.get(&fingerprint.0)?.map(|link| *link.value()))
}

/// One commit: each change sees those before it, and one whose expectation fails leaves the others be. Says which happened.
fn apply<'a>(
    database: &Database,
    changes: impl Iterator<Item = &'a Change>,
) -> Result<Vec<bool>, redb::Error> {
    let transaction = database.begin_write()?;
    let mut tables = Open::of(&transaction)?;
    let mut applied = Vec::new();
    let mut changed = BTreeSet::new();
    let mut chains_have_changed = false;
    for change in changes {
        let is_applied = change.apply(&mut tables)?;
        if is_applied {
            changed.extend(change.chains());
            chains_have_changed |= matches!(change, Change::Swap(_));
        }
        applied.push(is_applied);
    }
    drop(tables);
    if chains_have_changed {
        let mut meta = transaction.open_table(META)?;
        let before = meta.get(META_GENERATION)?.map_or(0, |found| found.value());
        meta.insert(META_GENERATION, before + 1)?;
    }
    if !changed.is_empty() {
        let mut restored = transaction.open_table(RESTORED)?;
        for chain in changed {
            restored.remove(&chain.0)?;
        }
    }
    transaction.commit()?;
    Ok(applied)
}

/// How often chains have been changed.
fn generation(database: &Database) -> Result<u64, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    Ok(meta.get(META_GENERATION)?.map_or(0, |found| found.value()))
}

/// The chains of a copy that was put back, now or before, and those that it lacks; a copy is known by the witness of later changes.
fn restored_chains(
    database: &Database,
    witness: &Witness,
) -> Result<BTreeSet<ChainId>, StateError> {
    let reading = |error| storage("reading", error);
    let witnessed = witness.last().generation;
    if generation(database).map_err(reading)? < witnessed {
        let chains = &all_chains(database).map_err(reading)? | witness.begun();
        if !chains.is_empty() {
            tracing::error!(
                chains = chains.len(),
                "the state directory holds an older copy of its database, or a new one: values of rotating secrets in it may be spent, so none is sent before somebody gives a new one with `evertoken state set` or logs in again"
            );
        }
        mark_restored(database, &chains, witnessed).map_err(|error| storage("writing", error))?;
    }
    marked_restored(database).map_err(reading)
}

fn all_chains(database: &Database) -> Result<BTreeSet<ChainId>, redb::Error> {
    let mut chains = BTreeSet::new();
    for_each(database, |key, _| {
        if let Ok(Name::Chain(id)) = record::decode_key(key) {
            chains.insert(id);
        }
    })?;
    Ok(chains)
}

fn mark_restored(
    database: &Database,
    chains: &BTreeSet<ChainId>,
    generation: u64,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    let mut restored = transaction.open_table(RESTORED)?;
    for chain in chains {
        restored.insert(&chain.0, ())?;
    }
    drop(restored);
    transaction
        .open_table(META)?
        .insert(META_GENERATION, generation)?;
    transaction.commit()?;
    Ok(())
}

fn marked_restored(database: &Database) -> Result<BTreeSet<ChainId>, redb::Error> {
    let table = match database.begin_read()?.open_table(RESTORED) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(BTreeSet::new()),
        Err(error) => return Err(error.into()),
    };
    let mut chains = BTreeSet::new();
    for entry in table.iter()? {
        chains.insert(ChainId(*entry?.0.value()));
    }
    Ok(chains)
}

/// The tables in a transaction.
struct Open<'a> {
    records: Table<'a, &'static [u8], &'static [u8]>,
    links: Table<'a, &'static [u8; 16], &'static [u8; 32]>,
}

impl<'a> Open<'a> {
    fn of(transaction: &'a WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            records: transaction.open_table(RECORDS)?,
            links: transaction.open_table(LINKS)?,
        })
    }
}

impl Tables for Open<'_> {
    type Error = redb::Error;

    fn get(&self, key: &[u8]) -> Result<Option<Value>, redb::Error> {
        let found = self.records.get(key)?;
        Ok(found.map(|value| Zeroizing::new(value.value().to_vec())))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), redb::Error> {
        self.records.insert(key, value)?;
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), redb::Error> {
        self.records.remove(key)?;
        Ok(())
    }

    fn remove_prefix(&mut self, prefix: &[u8]) -> Result<(), redb::Error> {
        for key in keys_with_prefix(&self.records, prefix)? {
            self.records.remove(&key[..])?;
        }
        Ok(())
    }

    fn link(&mut self, fingerprint: Fingerprint, link: &Link) -> Result<(), redb::Error> {
        self.links.insert(&fingerprint.0, link)?;
        Ok(())
    }

    fn unlink(&mut self, chains: &[ChainId]) -> Result<(), redb::Error> {
        self.links
            .retain(|_, link| !chains.contains(&chain_of(link)))?;
        Ok(())
    }
}

/// Opens or creates the file, checks the schema, creates the tables.
fn open_database(folder: &Folder) -> Result<Database, StateError> {
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
        found => Err(StateError::NewerSchema {
            path,
            found,
            known: SCHEMA,
        }),
    }
}

fn reopen(folder: &Folder) -> Result<Database, redb::Error> {
    let file = folder.file(DATABASE_FILE);
    build(file.map_err(|error| redb::Error::Io(io::Error::other(error)))?)
}

fn build(file: File) -> Result<Database, redb::Error> {
    Ok(Builder::new()
        .set_cache_size(CACHE_BYTES)
        // Without it, redb trusts the file and panics over one that a failing disk or a hand has altered.
        .set_check_integrity_on_open(true)
        .create_with_backend(FileBackend::new(file)?)?)
}

/// The schema of the database; a new one gets ours. Nothing is written to a database that has one.
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
    transaction.open_table(LINKS)?;
    transaction.commit()?;
    Ok(SCHEMA)
}

/// What there is to do about the records of a database.
#[derive(Default)]
struct Examined {
    /// Those that are not used, and why.
    refused: BTreeMap<Vec<u8>, StateError>,
    /// Those that the first key should encrypt anew.
    outdated: Vec<Vec<u8>>,
}

/// Looks at all records. A key that is missing altogether is a mistake in the configuration, not damage: the store is refused before
/// anything is written to it. Records are taken over unencrypted once: where one is encrypted, or all were, others must be.
fn examine(
    database: &Database,
    file: &Path,
    keys: &Keyring,
    were_encrypted: bool,
) -> Result<Examined, StateError> {
    let mut found = Examined::default();
    let mut plain = Vec::new();
    let mut encrypted = were_encrypted;
    let mut missing: BTreeMap<String, usize> = BTreeMap::new();
    for_each(database, |key, value| {
        let condition = keys.examine(key, value);
        encrypted |= !keys.is_empty() && condition != Condition::Plain;
        match condition {
            Condition::Current => {}
            Condition::Outdated => found.outdated.push(key.to_vec()),
            Condition::Plain => plain.push(key.to_vec()),
            Condition::Undecryptable => {
                let record = record::describe(key);
                let why = StateError::Undecryptable { record };
                found.refused.insert(key.to_vec(), why);
            }
            Condition::KeyMissing(id) => *missing.entry(id).or_default() += 1,
        }
    })
    .map_err(|error| storage("reading", error))?;
    if let Some((key_id, records)) = missing.pop_first() {
        return Err(StateError::KeyMissing {
            store: file.display().to_string(),
            key_id,
            records,
        });
    }
    if encrypted {
        found.refused.extend(plain.into_iter().map(|key| {
            let record = record::describe(&key);
            (key, StateError::Plaintext { record })
        }));
    } else {
        found.outdated.append(&mut plain);
    }
    Ok(found)
}

fn for_each(database: &Database, mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), redb::Error> {
    let table = database.begin_read()?.open_table(RECORDS)?;
    for entry in table.iter()? {
        let (key, value) = entry?;
        visit(key.value(), value.value());
    }
    Ok(())
}

/// Encrypts records anew with the first key, all in one commit: a store is encrypted or it is not. Until redb uses their pages again,
/// old forms stay in the file.
fn reseal(database: &Database, keys: &Keyring, outdated: &[Vec<u8>]) -> Result<(), StateError> {
    if outdated.is_empty() {
        return Ok(());
    }
    tracing::info!(
        records = outdated.len(),
        "encrypting records anew with the first state key"
    );
    let changes = outdated
        .iter()
        .map(|key| {
            let stored = get(database, key)
                .map_err(|error| storage("reading", error))?
                .unwrap_or_default();
            Ok(Change::Put(key.clone(), keys.reseal(key, &stored)?))
        })
        .collect::<Result<Vec<_>, StateError>>()?;
    apply(database, changes.iter())
        .map(drop)
        .map_err(|error| storage("writing", error))
}

/// The key of fingerprints, made with the store. Without it no chain is found by its values, so a store in which it is damaged
/// is not used. A database that was lost has it from the file beside it: by it the seeds of its chains are known for spent.
fn fingerprint_key(
    database: &Database,
    folder: &Folder,
    keys: &Keyring,
) -> Result<Zeroizing<[u8; KEY_LEN]>, StateError> {
    let name = record::fingerprint_key_key();
    let beside = FingerprintFile::open(folder)?;
    let stored = get(database, &name).map_err(|error| storage("reading", error))?;
    if let Some(stored) = stored {
        let key = opened_fingerprint_key(&stored, &folder.path().join(DATABASE_FILE), keys)?;
        beside.keep(&stored);
        return Ok(key);
    }
    let (key, stored) = if beside.content.is_empty() {
        let key = Fingerprints::random_key()?;
        let sealed = keys.seal(&name, &*key)?;
        (key, sealed)
    } else {
        let key = opened_fingerprint_key(&beside.content, &beside.path, keys)?;
        (key, beside.content.clone())
    };
    apply(database, [Change::Put(name, stored.clone())].iter())
        .map_err(|error| storage("writing", error))?;
    beside.keep(&stored);
    Ok(key)
}

fn opened_fingerprint_key(
    stored: &[u8],
    file: &Path,
    keys: &Keyring,
) -> Result<Zeroizing<[u8; KEY_LEN]>, StateError> {
    let damaged = |reason: &str| StateError::Damaged {
        path: file.to_owned(),
        reason: format!("its fingerprint key {reason}"),
    };
    let key = keys.open(&record::fingerprint_key_key(), stored);
    let key = key.map_err(|error| match error {
        StateError::Plaintext { .. } => {
            damaged("is not encrypted although the store was: somebody else has put it there")
        }
        _ => damaged("cannot be decrypted"),
    })?;
    let key = key.as_slice().try_into();
    key.map(Zeroizing::new)
        .map_err(|_| damaged("has the wrong length"))
}

/// The fingerprint key beside the database, as it is in there.
struct FingerprintFile {
    file: File,
    path: PathBuf,
    content: Value,
}

impl FingerprintFile {
    fn open(folder: &Folder) -> Result<Self, StateError> {
        let file = folder.file(FINGERPRINT_FILE)?;
        let mut content = Zeroizing::new(Vec::new());
        // What cannot be read is written anew.
        let _ = (&file)
            .take(MAX_FINGERPRINT_BYTES)
            .read_to_end(&mut content);
        Ok(Self {
            file,
            path: folder.path().join(FINGERPRINT_FILE),
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

fn is_disk_full(error: &StateError) -> bool {
    error.code() == super::error::DISK_FULL
}

fn storage(operation: &'static str, error: redb::Error) -> StateError {
    StateError::Storage {
        operation,
        source: Arc::new(error),
    }
}

#[cfg(test)]
mod tests;

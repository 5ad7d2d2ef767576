//! Records in a directory: a redb database that one thread owns, because the database blocks and because the thread can commit
//! everything that is waiting at once. A write is durable when its future is ready; a thousand writers share one fsync.

mod lock;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use redb::backends::FileBackend;
use redb::{
    Builder, Database, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction,
};
use rustix::fs::{Access, AtFlags, CWD};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use self::lock::DirectoryLock;
use super::change::{Change, Tables, Value};
use super::error::StateError;
use super::fingerprint::{Fingerprint, Fingerprints, KEY_LEN, Link, chain_of};
use super::record;
use super::seal::{Condition, Keyring};
use crate::capability::chain::ChainId;

/// The database's name in the directory.
const DATABASE_FILE: &str = "state.redb";

/// The newest layout of tables and keys that this version knows. It is in the database since the first version.
const SCHEMA: u64 = 1;

/// Memory for database pages. Tokens are read at start and written from then on, so a larger cache (redb's default is
/// 1 GiB) would only hold what nobody asks for again.
const CACHE_BYTES: usize = 1024 * 1024;

/// The mends of a directory that cannot be opened.
const MAKE_PARENT: &str = "create its parent directory and let this process write there";
const LET_US_WRITE: &str = "let this process write in the state directory";

/// Operations that wait for the thread; more make their callers wait. One for each attempt in flight is plenty.
const QUEUE: usize = 1024;

/// Operations in one commit: enough that fsync no longer counts, few enough that the first does not wait for the last.
const BATCH: usize = 512;

const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
/// From each value that a chain ever had to the chain. Apart from the records, because there are many and none is secret.
const LINKS: TableDefinition<'_, &[u8; 16], &[u8; 32]> = TableDefinition::new("links");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const META_SCHEMA: &str = "schema";

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
}

impl Directory {
    /// Locks the directory, opens the database and brings all records under the first key. The store's fingerprint key comes
    /// with it. Blocks.
    pub(super) fn open(
        path: &Path,
        keys: &Keyring,
    ) -> Result<(Self, Zeroizing<[u8; KEY_LEN]>), StateError> {
        create_directory(path)?;
        let lock = DirectoryLock::acquire(path)?;
        let file = path.join(DATABASE_FILE);
        let database = open_database(&file)?;
        let (undecryptable, outdated) = examine(&database, &file, keys)?;
        for key in &undecryptable {
            tracing::error!(
                record = record::describe(key),
                "a record cannot be decrypted; it is left as it is"
            );
        }
        reseal(&database, keys, outdated)?;
        let fingerprint_key = fingerprint_key(&database, &file, keys)?;
        let owner = Owner {
            file,
            database: Some(database),
            undecryptable,
            _lock: lock,
        };
        let (operations, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("evertoken-state".to_owned())
            .spawn(move || owner.run(queue))
            .map_err(|source| StateError::Open {
                path: path.to_owned(),
                source: Arc::new(source),
                mend: "allow this process one more thread",
            })?;
        let directory = Self {
            operations: Some(operations),
            thread: Some(thread),
        };
        Ok((directory, fingerprint_key))
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
    file: PathBuf,
    /// None after an I/O error: redb wants to be opened anew then.
    database: Option<Database>,
    /// Records that are never overwritten, only forgotten.
    undecryptable: Vec<Vec<u8>>,
    _lock: DirectoryLock,
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
        if self.undecryptable.is_empty() {
            return Ok(());
        }
        let overwritten = change.overwrites();
        match overwritten
            .iter()
            .find(|key| self.undecryptable.contains(key))
        {
            None => Ok(()),
            Some(key) => Err(StateError::Undecryptable {
                record: record::describe(key),
            }),
        }
    }

    fn commit(&mut self, changes: Vec<(Change, Answer<bool>)>) {
        if changes.is_empty() {
            return;
        }
        let result = self
            .with_database(|database| apply(database, changes.iter().map(|(change, _)| change)))
            .map_err(|error| storage("writing", error));
        match result {
            Err(error) => {
                for (_, answer) in changes {
                    let _ = answer.send(Err(error.clone()));
                }
            }
            Ok(applied) => {
                for ((change, answer), applied) in changes.into_iter().zip(applied) {
                    if applied {
                        self.undecryptable.retain(|key| !change.removes(key));
                    }
                    // The asker may have given up; the write counts all the same.
                    let _ = answer.send(Ok(applied));
                }
            }
        }
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
            None => build(&self.file)?,
        };
        let result = operation(&database);
        if !matches!(result, Err(redb::Error::Io(_) | redb::Error::PreviousIo)) {
            self.database = Some(database);
        }
        result
    }
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
    let applied = changes
        .map(|change| change.apply(&mut tables))
        .collect::<Result<_, _>>()?;
    drop(tables);
    transaction.commit()?;
    Ok(applied)
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

/// Whether the directory could be opened, as far as that shows beside a process that holds it.
pub(super) fn look(path: &Path) -> Result<(), StateError> {
    let failed = |source: io::Error, mend| StateError::Open {
        path: path.to_owned(),
        source: Arc::new(source),
        mend,
    };
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            may_write_in(path).map_err(|error| failed(error, LET_US_WRITE))
        }
        Ok(_) => Err(failed(
            io::ErrorKind::NotADirectory.into(),
            "it must be a directory",
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            may_write_in(path.parent().unwrap_or(path)).map_err(|error| failed(error, MAKE_PARENT))
        }
        Err(error) => Err(failed(error, MAKE_PARENT)),
    }
}

fn may_write_in(directory: &Path) -> io::Result<()> {
    let enter_and_create = Access::WRITE_OK | Access::EXEC_OK;
    Ok(rustix::fs::accessat(
        CWD,
        directory,
        enter_and_create,
        AtFlags::EACCESS,
    )?)
}

/// Creates the directory for us alone. Its parent is the user's to make.
fn create_directory(path: &Path) -> Result<(), StateError> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(StateError::Open {
            path: path.to_owned(),
            source: Arc::new(source),
            mend: MAKE_PARENT,
        }),
    }
}

/// Opens or creates the file, checks the schema, creates the tables.
fn open_database(file: &Path) -> Result<Database, StateError> {
    let damaged = |error: redb::Error| match error {
        redb::Error::Io(error) if error.kind() != io::ErrorKind::InvalidData => StateError::Open {
            path: file.to_owned(),
            source: Arc::new(error),
            mend: "it must be a regular file that this process may read and write",
        },
        other => StateError::Damaged {
            path: file.to_owned(),
            reason: other.to_string(),
        },
    };
    let database = build(file).map_err(damaged)?;
    match check_schema(&database).map_err(damaged)? {
        SCHEMA => Ok(database),
        found => Err(StateError::NewerSchema {
            path: file.to_owned(),
            found,
            known: SCHEMA,
        }),
    }
}

fn build(file: &Path) -> Result<Database, redb::Error> {
    let handle = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default())
        .open(file)?;
    if handle.metadata()?.permissions().mode() & 0o077 != 0 {
        handle.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(Builder::new()
        .set_cache_size(CACHE_BYTES)
        // Without it, redb trusts the file and panics over one that a failing disk or a hand has altered.
        .set_check_integrity_on_open(true)
        .create_with_backend(FileBackend::new(handle)?)?)
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

type Keys = Vec<Vec<u8>>;

/// The records that do not decrypt, and those that the first key should encrypt anew. A key that is missing altogether is a
/// mistake in the configuration, not damage: the store is refused before anything is written to it.
fn examine(database: &Database, file: &Path, keys: &Keyring) -> Result<(Keys, Keys), StateError> {
    let failed = |error| storage("reading", error);
    let mut undecryptable = Vec::new();
    let mut outdated = Vec::new();
    let mut missing: BTreeMap<String, usize> = BTreeMap::new();
    for_each(database, |key, value| match keys.examine(key, value) {
        Condition::Current => {}
        Condition::Outdated => outdated.push(key.to_vec()),
        Condition::Undecryptable => undecryptable.push(key.to_vec()),
        Condition::KeyMissing(id) => *missing.entry(id).or_default() += 1,
    })
    .map_err(failed)?;
    match missing.pop_first() {
        None => Ok((undecryptable, outdated)),
        Some((key_id, records)) => Err(StateError::KeyMissing {
            store: file.display().to_string(),
            key_id,
            records,
        }),
    }
}

fn for_each(database: &Database, mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), redb::Error> {
    let table = database.begin_read()?.open_table(RECORDS)?;
    for entry in table.iter()? {
        let (key, value) = entry?;
        visit(key.value(), value.value());
    }
    Ok(())
}

/// Encrypts records anew with the first key, a batch a commit. Until redb uses their pages again, old forms stay in the file.
fn reseal(database: &Database, keys: &Keyring, outdated: Keys) -> Result<(), StateError> {
    if outdated.is_empty() {
        return Ok(());
    }
    tracing::info!(
        records = outdated.len(),
        "encrypting records anew with the first state key"
    );
    for batch in outdated.chunks(BATCH) {
        let changes = batch
            .iter()
            .map(|key| {
                let stored = get(database, key)
                    .map_err(|error| storage("reading", error))?
                    .unwrap_or_default();
                let value = keys.open(key, &stored)?;
                Ok(Change::Put(key.clone(), keys.seal(key, &value)?))
            })
            .collect::<Result<Vec<_>, StateError>>()?;
        apply(database, changes.iter()).map_err(|error| storage("writing", error))?;
    }
    Ok(())
}

/// The key of fingerprints, made with the store. Without it no chain is found by its values, so a store in which it is damaged
/// is not used.
fn fingerprint_key(
    database: &Database,
    file: &Path,
    keys: &Keyring,
) -> Result<Zeroizing<[u8; KEY_LEN]>, StateError> {
    let name = record::fingerprint_key_key();
    let stored = get(database, &name).map_err(|error| storage("reading", error))?;
    if let Some(stored) = stored {
        return keys
            .open(&name, &stored)
            .ok()
            .and_then(|key| Some(Zeroizing::new(key.as_slice().try_into().ok()?)))
            .ok_or_else(|| StateError::Damaged {
                path: file.to_owned(),
                reason: "its fingerprint key cannot be decrypted".to_owned(),
            });
    }
    let key = Fingerprints::random_key()?;
    let put = Change::Put(name.clone(), keys.seal(&name, &*key)?);
    apply(database, [put].iter()).map_err(|error| storage("writing", error))?;
    Ok(key)
}

fn storage(operation: &'static str, error: redb::Error) -> StateError {
    StateError::Storage {
        operation,
        source: Arc::new(error),
    }
}

#[cfg(test)]
mod tests;

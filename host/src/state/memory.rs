//! Records in memory, for processes without a state directory, and for simulated ones: there the memory outlives the process,
//! is slow, fails, and keeps what its writer believes to have failed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use super::change::{Change, Tables, Value};
use super::error::StateError;
use super::fingerprint::{Fingerprint, Fingerprints, KEY_LEN, Link, chain_of};
use crate::capability::chain::ChainId;
use crate::capability::keep::BoxFuture;
use crate::config::model::JobId;
use crate::failure::Failure;

/// What is being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// A chain, with what leads to it.
    Chain(ChainId),
    /// A job's token.
    Token(JobId),
    /// A value that a job's plugin caches.
    PluginValue(JobId),
    /// All of a job is forgotten.
    Forget(JobId),
}

/// What goes wrong with a memory. Each of these is awaited where its name says: it may take its time, or never end, as with a
/// process that crashes there.
pub trait Faults: Send + Sync {
    /// Before something is read; an error, and it is not.
    fn read(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }

    /// Before a write happens; an error, and it does not.
    fn before<'a>(&'a self, write: &'a Write) -> BoxFuture<'a, Result<(), Failure>> {
        let _ = write;
        Box::pin(async { Ok(()) })
    }

    /// After a write happened, which stands; an error, and its writer believes that it failed. `applied`: whether the chain
    /// was as expected.
    fn after<'a>(&'a self, write: &'a Write, applied: bool) -> BoxFuture<'a, Result<(), Failure>> {
        let _ = (write, applied);
        Box::pin(async { Ok(()) })
    }
}

/// The memory of a store that outlives it. Clones are the same memory, for one process after another or for several at a time;
/// what is set with the methods below belongs to the clone.
///
/// ```
/// # use evertoken::state::{MemoryState, Store};
/// let memory = MemoryState::new([7; 32]);
/// let before = Store::in_memory(memory.clone());
/// drop(before); // A crash.
/// let after = Store::in_memory(memory);
/// ```
#[derive(Clone)]
pub struct MemoryState {
    records: Arc<Mutex<Records>>,
    fingerprint_key: Arc<Zeroizing<[u8; KEY_LEN]>>,
    faults: Option<Arc<dyn Faults>>,
    exclusive: bool,
    /// Whether somebody has it when the process that uses it has ended.
    outlives_process: bool,
}

impl fmt::Debug for MemoryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryState")
            .field("exclusive", &self.exclusive)
            .finish_non_exhaustive()
    }
}

impl MemoryState {
    /// An empty memory whose chain ids are made with this key: the same for the same key and values.
    #[must_use]
    pub fn new(fingerprint_key: [u8; 32]) -> Self {
        Self {
            records: Arc::default(),
            fingerprint_key: Arc::new(Zeroizing::new(fingerprint_key)),
            faults: None,
            exclusive: true,
            outlives_process: true,
        }
    }

    /// An empty memory that is gone with the process.
    pub(super) fn of_process() -> Result<Self, StateError> {
        Ok(Self {
            outlives_process: false,
            ..Self::new(*Fingerprints::random_key()?)
        })
    }

    /// What goes wrong for stores made with this clone.
    #[must_use]
    pub fn with_faults(mut self, faults: Arc<dyn Faults>) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Stores made with this clone know that others may use the memory at the same time, as with a store in a cluster.
    #[must_use]
    pub fn shared_by_processes(mut self) -> Self {
        self.exclusive = false;
        self
    }

    /// Whether these bytes are anywhere in it, as they are: what a key should see to that they are not.
    #[must_use]
    pub fn holds(&self, bytes: &[u8]) -> bool {
        let records = self.records();
        let holds = |record: &[u8]| {
            record
                .windows(bytes.len().max(1))
                .any(|window| window == bytes)
        };
        let mut values = records.values.iter();
        values.any(|(key, value)| holds(key) || holds(value))
    }

    pub(super) const fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    pub(super) const fn outlives_process(&self) -> bool {
        self.outlives_process
    }

    pub(super) fn fingerprint_key(&self) -> &[u8; KEY_LEN] {
        &self.fingerprint_key
    }

    pub(super) async fn get(&self, key: &[u8]) -> Result<Option<Value>, Failure> {
        self.reading().await?;
        Ok(self.records().values.get(key).cloned())
    }

    /// The keys that begin with `prefix`.
    pub(super) async fn scan(&self, prefix: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
        self.reading().await?;
        Ok(self.records().keys_with_prefix(prefix))
    }

    pub(super) async fn link(&self, fingerprint: Fingerprint) -> Result<Option<Link>, Failure> {
        self.reading().await?;
        Ok(self.records().links.get(&fingerprint).copied())
    }

    /// Whether everything was as expected; nothing changed else.
    pub(super) async fn commit(&self, write: &Write, change: &Change) -> Result<bool, Failure> {
        if let Some(faults) = &self.faults {
            faults.before(write).await?;
        }
        let Ok(applied) = change.apply(&mut *self.records());
        if let Some(faults) = &self.faults {
            faults.after(write, applied).await?;
        }
        Ok(applied)
    }

    async fn reading(&self) -> Result<(), Failure> {
        match &self.faults {
            Some(faults) => faults.read().await,
            None => Ok(()),
        }
    }

    /// Every operation leaves the maps whole, so a panic elsewhere does not spoil them.
    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maps with the order of the database.
#[derive(Default)]
struct Records {
    values: BTreeMap<Vec<u8>, Value>,
    links: BTreeMap<Fingerprint, Link>,
}

impl Records {
    fn keys_with_prefix(&self, prefix: &[u8]) -> Vec<Vec<u8>> {
        self.values
            .range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded))
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(prefix))
            .cloned()
            .collect()
    }
}

impl Tables for Records {
    type Error = Infallible;

    fn get(&self, key: &[u8]) -> Result<Option<Value>, Infallible> {
        Ok(self.values.get(key).cloned())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Infallible> {
        self.values
            .insert(key.to_vec(), Zeroizing::new(value.to_vec()));
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), Infallible> {
        self.values.remove(key);
        Ok(())
    }

    fn remove_prefix(&mut self, prefix: &[u8]) -> Result<(), Infallible> {
        for key in self.keys_with_prefix(prefix) {
            self.values.remove(&key);
        }
        Ok(())
    }

    fn link(&mut self, fingerprint: Fingerprint, link: &Link) -> Result<(), Infallible> {
        self.links.insert(fingerprint, *link);
        Ok(())
    }

    fn unlink(&mut self, chains: &[ChainId]) -> Result<(), Infallible> {
        self.links
            .retain(|_, link| !chains.contains(&chain_of(link)));
        Ok(())
    }
}

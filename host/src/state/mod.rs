//! The state store: what survives a crash. Chains, tokens and plugins' cached values are records, encrypted if there is a key.
//! The store finds and changes them here; the three places for records only read, list, and compare and swap: a directory
//! (durable), Secrets of a cluster (shared with other processes), memory (gone with the process).

mod chains;
mod directory;
mod error;
mod fingerprint;
mod kept;
mod key;
mod known;
pub mod manual;
mod memory;
mod opening;
mod record;
mod records;
mod seal;
mod secrets;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use futures_core::future::BoxFuture;
use tokio::sync::Mutex as AsyncMutex;
use zeroize::Zeroizing;

pub use self::error::StateError;
pub use self::key::RecordKey;
pub use self::memory::{Faults, MemoryState, MemoryWrite};
pub use self::seal::{StateKey, StateKeyError};
pub use self::secrets::ClusterPlace;

use self::fingerprint::{Fingerprints, KEY_LEN};
use self::known::KnownRecords;
use self::opening::Examination;
use self::records::Records;
use self::seal::Keyring;
use crate::capability::chain::ChainId;
use crate::capability::keep::{ChainChange, FoundChain, Keeper, Revision, StoredChain};
use crate::kubernetes::Kubernetes;
use crate::model::JobId;
use crate::model::failure::Failure;
use crate::model::token::KeptToken;

/// Random bytes.
fn random<const N: usize>() -> Result<[u8; N], StateError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| StateError::Crypto("drawing random bytes"))?;
    Ok(bytes)
}

/// The state store of one process.
pub struct Store {
    records: Box<dyn Records>,
    keys: ArcSwap<Keyring>,
    fingerprints: Fingerprints,
    /// The key of the fingerprints.
    fingerprint_key: Zeroizing<[u8; KEY_LEN]>,
    known: Mutex<KnownRecords>,
    /// Held while all records are listed.
    listing: AsyncMutex<()>,
}

/// A place for records, after all of them were examined.
struct Opened {
    fingerprint_key: Zeroizing<[u8; KEY_LEN]>,
    known: KnownRecords,
}

/// The result of checking a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// It contains a store.
    Store,
    /// It contains none, or does not exist yet.
    NoStore,
}

/// The chain of a job's secret.
#[derive(Debug)]
pub struct HeldChain {
    /// The secret's name.
    pub secret: String,
    /// Its chain; none: there is no record of it any more.
    pub chain: Result<Option<StoredChain>, Failure>,
    /// Whether the configured value, as it was when the chain was last changed, is an earlier one of the chain and so spent.
    pub configured_is_spent: bool,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("keys", &*self.keys.load())
            .finish_non_exhaustive()
    }
}

impl Store {
    fn new(records: impl Records + 'static, keys: Keyring, opened: Opened) -> Self {
        let mut known = opened.known;
        let store = Self {
            records: Box::new(records),
            keys: ArcSwap::from_pointee(keys),
            fingerprints: Fingerprints::new(&opened.fingerprint_key),
            fingerprint_key: opened.fingerprint_key,
            known: Mutex::default(),
            listing: AsyncMutex::default(),
        };
        store.tell_refused(&mut known);
        *store.known() = known;
        store
    }

    /// A store that ends with the process.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn memory() -> Result<Self, StateError> {
        Self::in_memory(MemoryState::of_process()?, Vec::new())
    }

    /// A store in a memory that may outlive it. The first key encrypts, all decrypt.
    ///
    /// # Errors
    /// The memory has records that are damaged, or need a key that is not in `keys`.
    pub fn in_memory(memory: MemoryState, keys: Vec<StateKey>) -> Result<Self, StateError> {
        let keys = Keyring::new(keys);
        let opened = memory.open(&keys)?;
        Ok(Self::new(memory, keys, opened))
    }

    /// Opens or creates the store in a directory. The first key encrypts, all decrypt; records that are not encrypted with the
    /// first key are encrypted again with it. Blocks: locking, a repair after a crash and that re-encryption happen here.
    ///
    /// # Errors
    /// The directory is locked by another process, cannot be written, was written by another version, or needs a key that is not
    /// in `keys`. Nothing is overwritten then.
    pub fn open(directory: &Path, keys: Vec<StateKey>) -> Result<Self, StateError> {
        let keys = Keyring::new(keys);
        let (records, opened) = directory::open(directory, &keys)?;
        if keys.is_empty() {
            tracing::warn!(
                directory = %directory.display(),
                "state is kept unencrypted in a file of mode 0600; set `state.key` to encrypt it"
            );
        }
        Ok(Self::new(records, keys, opened))
    }

    /// Opens or creates the store in Secrets of a cluster, which other processes may use at the same time. Keys as with
    /// [`Self::open`]. An unavailable API server is retried for a minute.
    ///
    /// # Errors
    /// The Secrets cannot be read or written, or need a key that is not in `keys`. Nothing is overwritten then.
    pub async fn in_cluster(
        kubernetes: Arc<Kubernetes>,
        place: ClusterPlace,
        keys: Vec<StateKey>,
    ) -> Result<Self, Failure> {
        let keys = Keyring::new(keys);
        let shown = place.to_string();
        let (records, opened) = secrets::open(kubernetes, place, &keys).await?;
        if keys.is_empty() {
            tracing::warn!(
                store = shown,
                "state is kept unencrypted in Secrets: whoever may read them has the rotating secrets; set `state.key` to encrypt it"
            );
        }
        Ok(Self::new(records, keys, opened))
    }

    /// Takes other keys into use, which must open every record: the first encrypts what is written from now on. What is there is
    /// encrypted anew at the next start. False: only that can begin or end the encryption of the store, and nothing has changed.
    ///
    /// # Errors
    /// Records need a key that is not in `keys`, or the store cannot be read. Then the former keys stay in use.
    pub async fn set_keys(&self, keys: Vec<StateKey>) -> Result<bool, Failure> {
        let keys = Keyring::new(keys);
        let former = self.keys.load_full();
        if keys.is_same(&former) {
            return Ok(true);
        }
        if keys.is_empty() != former.is_empty() {
            return Ok(false);
        }
        let all = self.records.list().await?;
        let own = all.iter().find(|(key, _)| *key == RecordKey::Own);
        let own = own.map(|(_, own)| own.value.as_slice());
        let mut examination = Examination::new(&keys, own, true);
        for (key, stored) in &all {
            examination.see(key, &stored.value);
        }
        examination.end("the state store", |reason| self.records.damaged(reason))?;
        self.keys.store(Arc::new(keys));
        Ok(true)
    }

    /// Checks that a process could write in a directory, or create it, without opening the store, which another process may have
    /// open. Blocks.
    ///
    /// # Errors
    /// The directory does not exist and cannot be created, this process may not write in it, or its disk is full.
    pub fn look(directory: &Path) -> Result<Looked, StateError> {
        directory::look(directory)
    }

    /// Checks that the store in Secrets of a cluster could be read and written, with these keys if they are known, by requests
    /// that change nothing.
    ///
    /// # Errors
    /// The API server is unavailable, or refuses, or the Secrets need a key that is not in `keys`.
    pub async fn look_in_cluster(
        kubernetes: Arc<Kubernetes>,
        place: ClusterPlace,
        keys: Option<Vec<StateKey>>,
    ) -> Result<(), Failure> {
        secrets::look(kubernetes, place, keys.map(Keyring::new).as_ref()).await
    }

    /// Every job that has a record.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn jobs(&self) -> Result<Vec<JobId>, Failure> {
        self.list_anew().await?;
        let keys = if self.records.is_exclusive() {
            self.records.keys().await?
        } else {
            self.known().kept.keys().cloned().collect()
        };
        let known = self.known();
        let refused = known.refused.keys();
        let kept = keys.iter().chain(refused).filter_map(RecordKey::job);
        let jobs: BTreeSet<&JobId> = known.jobs().chain(kept).collect();
        Ok(jobs.into_iter().cloned().collect())
    }

    /// Logs once for each unusable record why it is not used.
    fn tell_refused(&self, known: &mut KnownRecords) {
        let refused: Vec<String> = known
            .refused
            .iter()
            .map(|(key, error)| error.clone().of_record(self.name_of(key)).to_string())
            .collect();
        for error in refused {
            if known.told.insert(error.clone()) {
                tracing::error!("{error}");
            }
        }
    }

    /// Every change leaves it consistent, so a panic elsewhere does not damage it.
    fn known(&self) -> MutexGuard<'_, KnownRecords> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper for Store {
    fn plugin_value<'a>(
        &'a self,
        job: &'a JobId,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, Failure>> {
        Box::pin(async move {
            let value = self.cached(job).await?.remove(key);
            Ok(value.map(|mut value| std::mem::take(&mut *value)))
        })
    }

    fn set_plugin_value<'a>(
        &'a self,
        job: &'a JobId,
        key: &'a str,
        value: &'a [u8],
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.cache(job, key, value))
    }

    fn is_exclusive(&self) -> bool {
        self.records.is_exclusive()
    }

    fn outlives_process(&self) -> bool {
        self.records.outlives_process()
    }

    fn chain_id(&self, job: &JobId, first_value: &[u8]) -> ChainId {
        self.fingerprints.chain_id(job, first_value)
    }

    fn find_chain<'a>(
        &'a self,
        job: &'a JobId,
        secret: &'a str,
        seed: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<Option<FoundChain>, Failure>> {
        Box::pin(self.find_usable(job, secret, seed))
    }

    fn chain_of<'a>(
        &'a self,
        job: &'a JobId,
        secret: &'a str,
        seed: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<Option<ChainId>, Failure>> {
        Box::pin(async move {
            let found = self.lead(job, secret, seed).await?;
            Ok(found.map(|(id, _)| id))
        })
    }

    fn chain(&self, id: ChainId) -> BoxFuture<'_, Result<Option<StoredChain>, Failure>> {
        Box::pin(self.read_chain(id))
    }

    fn swap_chain<'a>(
        &'a self,
        change: ChainChange<'a>,
    ) -> BoxFuture<'a, Result<Option<Revision>, Failure>> {
        Box::pin(self.swap(change))
    }

    fn token<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<KeptToken>, Failure>> {
        Box::pin(self.kept_token(job))
    }

    fn keep_token<'a>(
        &'a self,
        job: &'a JobId,
        token: &'a KeptToken,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.put_token(job, token))
    }
}

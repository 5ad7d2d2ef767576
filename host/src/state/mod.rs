//! The state store: what survives a crash. It turns chains, tokens and plugin values into records, encrypts them when there is
//! a key, and keeps them in a directory (durable), in Secrets of a cluster, or in memory (gone with the process).

mod change;
mod cluster;
mod directory;
mod error;
mod fingerprint;
mod local;
pub mod manual;
mod memory;
mod quota;
mod record;
mod seal;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

pub use self::cluster::ClusterPlace;
pub use self::error::StateError;
pub use self::memory::{Faults, MemoryState, Write};
pub use self::quota::{PLUGIN_KEY_MAX_BYTES, PLUGIN_VALUE_MAX_BYTES, PLUGIN_VALUES_PER_JOB};
pub use self::seal::{KeyError, StateKey};

use self::cluster::Cluster;
use self::directory::Directory;
use self::fingerprint::Fingerprints;
use self::local::{Backend, Local};
use self::seal::Keyring;
use crate::capability::chain::ChainId;
use crate::capability::keep::{BoxFuture, ChainChange, FoundChain, Keeper, Revision, StoredChain};
use crate::config::model::JobId;
use crate::failure::Failure;
use crate::kubernetes::Kubernetes;
use crate::token::KeptToken;

/// Random bytes.
fn random<const N: usize>() -> Result<[u8; N], StateError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| StateError::Crypto("drawing random bytes"))?;
    Ok(bytes)
}

/// The state store of one process.
pub struct Store(Place);

/// Where it is.
enum Place {
    Here(Box<Local>),
    Cluster(Box<Cluster>),
}

/// What a look at a directory found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// It has a store in it.
    Store,
    /// It has none, or is not there yet.
    NoStore,
}

/// What a job's secret stands for.
#[derive(Debug)]
pub struct HeldChain {
    /// The secret's name.
    pub secret: String,
    /// Its chain; none: there is no record of it any more.
    pub chain: Result<Option<StoredChain>, Failure>,
    /// Whether the configured value, as it was when the chain was last changed, is an earlier one of the chain: it is spent.
    pub configured_is_spent: bool,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("keys", self.keys())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// A store that is gone with the process.
    ///
    /// # Errors
    /// The machine has no random bytes.
    pub fn memory() -> Result<Self, StateError> {
        Ok(Self::in_memory(MemoryState::of_process()?))
    }

    /// A store in a memory that may outlive it.
    #[must_use]
    pub fn in_memory(memory: MemoryState) -> Self {
        Self::in_sealed_memory(memory, Vec::new())
    }

    /// The same with keys: the first encrypts, all decrypt.
    #[must_use]
    pub fn in_sealed_memory(memory: MemoryState, keys: Vec<StateKey>) -> Self {
        Self(Place::Here(Box::new(Local {
            keys: Keyring::new(keys),
            fingerprints: Fingerprints::new(memory.fingerprint_key()),
            backend: Backend::Memory(memory),
        })))
    }

    /// Opens or creates the store in a directory. The first key encrypts, all decrypt; records that another key or none
    /// encrypted are encrypted anew with the first. Blocks: the lock, a repair after a crash and that re-encryption happen here.
    ///
    /// # Errors
    /// The directory is held by another process, cannot be written, was written by a newer version, or needs a key that
    /// `keys` does not have. Nothing is overwritten then.
    pub fn open(directory: &Path, keys: Vec<StateKey>) -> Result<Self, StateError> {
        let keys = Keyring::new(keys);
        let (opened, fingerprint_key) = Directory::open(directory, &keys)?;
        if keys.is_empty() {
            tracing::warn!(
                directory = %directory.display(),
                "state is kept unencrypted in a file of mode 0600; set `state.key` to encrypt it"
            );
        }
        Ok(Self(Place::Here(Box::new(Local {
            backend: Backend::Directory(opened),
            keys,
            fingerprints: Fingerprints::new(&fingerprint_key),
        }))))
    }

    /// Opens or creates the store in Secrets of a cluster, which other processes may use at the same time. Keys as with
    /// [`Self::open`]. An API server that is away is waited for, for a minute.
    ///
    /// # Errors
    /// The Secrets cannot be read or written, or need a key that `keys` does not have. Nothing is overwritten then.
    pub async fn in_cluster(
        kubernetes: Arc<Kubernetes>,
        place: ClusterPlace,
        keys: Vec<StateKey>,
    ) -> Result<Self, Failure> {
        let keys = Keyring::new(keys);
        let (is_plain, shown) = (keys.is_empty(), place.to_string());
        let cluster = Cluster::open(kubernetes, place, keys).await?;
        if is_plain {
            tracing::warn!(
                store = shown,
                "state is kept unencrypted in Secrets: whoever may read them has the rotating secrets; set `state.key` to encrypt it"
            );
        }
        Ok(Self(Place::Cluster(Box::new(cluster))))
    }

    fn keys(&self) -> &Keyring {
        match &self.0 {
            Place::Here(local) => &local.keys,
            Place::Cluster(cluster) => &cluster.keys,
        }
    }

    fn keeper(&self) -> &dyn Keeper {
        match &self.0 {
            Place::Here(local) => &**local,
            Place::Cluster(cluster) => &**cluster,
        }
    }

    /// Proves that a process could write in a directory, or make it, without opening the store: another process may have it. Blocks.
    ///
    /// # Errors
    /// The directory is not there and cannot be made, this process may not write in it, or its disk is full.
    pub fn look(directory: &Path) -> Result<Looked, StateError> {
        directory::look(directory)
    }

    /// Proves that the store in Secrets of a cluster could be read and written, with these keys if they are known: requests that write
    /// nothing.
    ///
    /// # Errors
    /// The API server is away, or refuses, or the Secrets need a key that `keys` does not have.
    pub async fn look_in_cluster(
        kubernetes: &Kubernetes,
        place: &ClusterPlace,
        keys: Option<Vec<StateKey>>,
    ) -> Result<(), Failure> {
        let keys = keys.map(Keyring::new);
        cluster::look(kubernetes, place, keys.as_ref()).await
    }

    /// Every job that something is kept for.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn jobs(&self) -> Result<Vec<JobId>, Failure> {
        match &self.0 {
            Place::Here(local) => local.jobs().await,
            Place::Cluster(cluster) => cluster.jobs().await,
        }
    }

    /// The chains that the job's secrets stand for now.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn chains(&self, job: &JobId) -> Result<Vec<HeldChain>, Failure> {
        match &self.0 {
            Place::Here(local) => local.chains(job).await,
            Place::Cluster(cluster) => Ok(cluster.chains(job)),
        }
    }

    /// The chain that a person may give another value: also one whose own must not be sent.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn find_chain_to_replace(
        &self,
        job: &JobId,
        secret: &str,
        seed: Option<&[u8]>,
    ) -> Result<Option<FoundChain>, Failure> {
        match &self.0 {
            Place::Here(local) => local.find(job, secret, seed).await,
            Place::Cluster(cluster) => cluster.find(job, secret, seed).await,
        }
    }

    /// Whether a chain is of a copy of the store that was put back, so that its value may be spent.
    #[must_use]
    pub fn is_restored(&self, chain: ChainId) -> bool {
        match &self.0 {
            Place::Here(local) => local.is_restored(chain),
            Place::Cluster(cluster) => cluster.is_restored(chain),
        }
    }

    /// Forgets all that is kept for a job, also what cannot be decrypted: its token, what its plugin cached, and the chains
    /// that no other job's secret stands or stood for. `may_go` is asked about each of these that can be read.
    ///
    /// # Errors
    /// The store cannot be written, or one of the chains may not go; nothing is forgotten then.
    pub async fn forget(
        &self,
        job: &JobId,
        may_go: &(dyn Fn(&StoredChain) -> Result<(), Failure> + Sync),
    ) -> Result<(), Failure> {
        // A chain that changed meanwhile is looked at again: a request may be under way now.
        loop {
            let forgotten = match &self.0 {
                Place::Here(local) => local.forget(job, may_go).await?,
                Place::Cluster(cluster) => cluster.forget(job, may_go).await?,
            };
            if forgotten {
                return Ok(());
            }
        }
    }
}

impl Keeper for Store {
    fn plugin_value<'a>(
        &'a self,
        job: &'a JobId,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, Failure>> {
        self.keeper().plugin_value(job, key)
    }

    fn set_plugin_value<'a>(
        &'a self,
        job: &'a JobId,
        key: &'a str,
        value: &'a [u8],
    ) -> BoxFuture<'a, Result<(), Failure>> {
        self.keeper().set_plugin_value(job, key, value)
    }

    fn is_exclusive(&self) -> bool {
        self.keeper().is_exclusive()
    }

    fn outlives_process(&self) -> bool {
        self.keeper().outlives_process()
    }

    fn chain_id(&self, first_value: &[u8]) -> ChainId {
        self.keeper().chain_id(first_value)
    }

    fn find_chain<'a>(
        &'a self,
        job: &'a JobId,
        secret: &'a str,
        seed: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<Option<FoundChain>, Failure>> {
        self.keeper().find_chain(job, secret, seed)
    }

    fn chain(&self, id: ChainId) -> BoxFuture<'_, Result<Option<StoredChain>, Failure>> {
        self.keeper().chain(id)
    }

    fn swap_chain<'a>(
        &'a self,
        change: ChainChange<'a>,
    ) -> BoxFuture<'a, Result<Option<Revision>, Failure>> {
        self.keeper().swap_chain(change)
    }

    fn token<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<KeptToken>, Failure>> {
        self.keeper().token(job)
    }

    fn keep_token<'a>(
        &'a self,
        job: &'a JobId,
        token: &'a KeptToken,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        self.keeper().keep_token(job, token)
    }
}

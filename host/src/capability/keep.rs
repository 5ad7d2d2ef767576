//! The storage port of capabilities, which the state store implements.

use futures_core::future::BoxFuture;

use super::chain::{Chain, ChainId};
use crate::model::JobId;
use crate::model::failure::Failure;
use crate::model::token::KeptToken;

/// Bytes of a cached value's key, which is a name and no second value.
pub const PLUGIN_KEY_MAX_BYTES: usize = 128;

/// Values that a job's plugin may have cached at one time.
pub const PLUGIN_VALUES_MAX: usize = 64;

/// Bytes of all of them with their keys, which are written together into one Secret: a discovery document or a JWKS has a tenth
/// of it.
pub const PLUGIN_VALUES_MAX_BYTES: usize = 256 * 1024;

/// A revision of a chain in the store, new after each change and opaque to callers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revision(pub String);

/// A chain as the store has it.
#[derive(Debug, Clone)]
pub struct StoredChain {
    /// The chain.
    pub chain: Chain,
    /// Its revision.
    pub revision: Revision,
}

/// How a configured value relates to the chain that was found by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seed {
    /// The chain's newest value.
    Newest,
    /// An earlier value, unchanged in its place since the chain was last changed.
    Unchanged,
    /// An earlier value that was put there since, e.g. from a backup: it is spent.
    Restored,
    /// It could not be read; the chain was found by the secret's name.
    Unread,
}

/// A chain that was found.
#[derive(Debug, Clone)]
pub struct FoundChain {
    /// The chain.
    pub stored: StoredChain,
    /// How the configured value relates to it.
    pub seed: Seed,
}

/// A change of a chain, stored atomically.
#[derive(Debug)]
pub struct ChainChange<'a> {
    /// The job that uses it.
    pub job: &'a JobId,
    /// The secret's name.
    pub secret: &'a str,
    /// Whether the secret stands for this chain from now on. The later writes of a call do not move it back: its value may have been
    /// replaced by a new login meanwhile.
    pub binds: bool,
    /// The configured value, where it could be read: from now on the store finds the chain by it.
    pub seed: Option<&'a [u8]>,
    /// The new chain; from now on the store finds it by its newest value.
    pub next: &'a Chain,
    /// The revision that the store must have for the change to happen; none: the chain must not exist.
    pub expected: Option<&'a Revision>,
}

/// The durable storage of capabilities. A write is durable when its future completes.
pub trait Keeper: Send + Sync {
    /// A value that the job's plugin cached.
    fn plugin_value<'a>(
        &'a self,
        job: &'a JobId,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, Failure>>;

    /// Caches a value for the job's plugin.
    fn set_plugin_value<'a>(
        &'a self,
        job: &'a JobId,
        key: &'a str,
        value: &'a [u8],
    ) -> BoxFuture<'a, Result<(), Failure>>;

    /// Whether no other process can change this store while this one has it.
    fn is_exclusive(&self) -> bool;

    /// Whether the stored state outlives this process.
    fn outlives_process(&self) -> bool;

    /// The id of a chain that begins with this value: a keyed fingerprint, the same for all processes on one store.
    fn chain_id(&self, job: &JobId, first_value: &[u8]) -> ChainId;

    /// The chain that `seed` is a value of, whichever job it came from; without a seed, the chain of the job's secret when it was
    /// last used. None: the seed is the first value of a chain that is not stored yet.
    fn find_chain<'a>(
        &'a self,
        job: &'a JobId,
        secret: &'a str,
        seed: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<Option<FoundChain>, Failure>>;

    /// The id of the chain that [`Self::find_chain`] finds, without reading the chain where the id is known.
    fn chain_of<'a>(
        &'a self,
        job: &'a JobId,
        secret: &'a str,
        seed: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<Option<ChainId>, Failure>> {
        Box::pin(async move {
            let found = self.find_chain(job, secret, seed).await?;
            Ok(found.map(|found| found.stored.chain.id))
        })
    }

    /// A chain by its id.
    fn chain(&self, id: ChainId) -> BoxFuture<'_, Result<Option<StoredChain>, Failure>>;

    /// Stores a chain if the store has the expected revision, and returns the new one. None: it was changed meanwhile.
    fn swap_chain<'a>(
        &'a self,
        change: ChainChange<'a>,
    ) -> BoxFuture<'a, Result<Option<Revision>, Failure>>;

    /// The stored token of a job, for secrets that are another job's token and for restarts.
    fn token<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<KeptToken>, Failure>>;

    /// Stores a job's token.
    fn keep_token<'a>(
        &'a self,
        job: &'a JobId,
        token: &'a KeptToken,
    ) -> BoxFuture<'a, Result<(), Failure>>;
}

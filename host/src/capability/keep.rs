//! What capabilities need to have kept for them. The state store implements it; here are only the words.

use futures_core::future::BoxFuture;

use super::chain::{Chain, ChainId};
use crate::model::JobId;
use crate::model::failure::Failure;
use crate::model::token::KeptToken;

/// Bytes of a cached value's key, which is a name and no second value.
pub const PLUGIN_KEY_MAX_BYTES: usize = 128;

/// Values that a job's plugin may have cached at one time.
pub const PLUGIN_VALUES_MAX: usize = 64;

/// Bytes of all of them with their keys: a discovery document or a JWKS has a tenth of it, and a Secret holds it. They are written together.
pub const PLUGIN_VALUES_MAX_BYTES: usize = 256 * 1024;

/// A state of a chain in the store; another one after each change. Only the store knows what is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revision(pub String);

/// A chain as the store has it.
#[derive(Debug, Clone)]
pub struct StoredChain {
    /// The chain.
    pub chain: Chain,
    /// Its state.
    pub revision: Revision,
}

/// What a configured value is to the chain that was found by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seed {
    /// The chain's newest value.
    Newest,
    /// An earlier value, and what this job's secret was when the chain was last changed: nobody touched it.
    Unchanged,
    /// An earlier value that somebody has put there since, e.g. from a backup: it is spent.
    Restored,
    /// It could not be read; the chain was found by the secret's name.
    Unread,
}

/// A chain that was found.
#[derive(Debug, Clone)]
pub struct FoundChain {
    /// The chain.
    pub stored: StoredChain,
    /// What the configured value is to it.
    pub seed: Seed,
}

/// A change of a chain, stored whole or not at all.
#[derive(Debug)]
pub struct ChainChange<'a> {
    /// The job that uses it: its secret of the name below stands for this chain from now on.
    pub job: &'a JobId,
    /// The secret's name.
    pub secret: &'a str,
    /// The configured value, where it could be read: it is known as one of the chain's.
    pub seed: Option<&'a [u8]>,
    /// The chain as it shall be; its newest value is known as one of the chain's from now on.
    pub next: &'a Chain,
    /// What the store must have for the change to happen; none: it has no such chain.
    pub expected: Option<&'a Revision>,
}

/// The durable side of capabilities. A write is durable when its future is ready.
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

    /// Whether what is kept is there after this process.
    fn outlives_process(&self) -> bool;

    /// The id of a chain that begins with this value: a keyed fingerprint, the same for all processes on one store.
    fn chain_id(&self, first_value: &[u8]) -> ChainId;

    /// The chain that `seed` is a value of, whichever job brought it; without a seed, the chain that the job's secret stood for
    /// last. None: the seed is the first value of a chain that is not kept yet.
    fn find_chain<'a>(
        &'a self,
        job: &'a JobId,
        secret: &'a str,
        seed: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<Option<FoundChain>, Failure>>;

    /// Which chain [`Self::find_chain`] finds, without reading it where that is known.
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

    /// Stores a chain if the store has what is expected, and says what state it is in then. None: somebody else changed it.
    fn swap_chain<'a>(
        &'a self,
        change: ChainChange<'a>,
    ) -> BoxFuture<'a, Result<Option<Revision>, Failure>>;

    /// The token kept for a job, for secrets that are another job's token and for restarts.
    fn token<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<KeptToken>, Failure>>;

    /// Keeps a job's token.
    fn keep_token<'a>(
        &'a self,
        job: &'a JobId,
        token: &'a KeptToken,
    ) -> BoxFuture<'a, Result<(), Failure>>;
}

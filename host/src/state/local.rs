//! Keeping on one machine: chains, tokens and plugin values as records in a directory or in memory.

use std::collections::BTreeSet;

use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::change::{Change, Forget, Swap, Value, revision};
use super::directory::Directory;
use super::error::{StateError, chain_of};
use super::fingerprint::{Fingerprint, Fingerprints, Link};
use super::memory::{MemoryState, Write};
use super::record::{self, Binding, Kind, Name};
use super::seal::Keyring;
use super::{HeldChain, quota, random};
use crate::capability::chain::{Chain, ChainId};
use crate::capability::keep::{
    BoxFuture, ChainChange, FoundChain, Keeper, Revision, Seed, StoredChain,
};
use crate::config::model::JobId;
use crate::failure::Failure;
use crate::token::KeptToken;
use crate::worker;

/// Where records are. Implementations are equal in all but durability.
pub(super) enum Backend {
    Memory(MemoryState),
    Directory(Directory),
}

impl Backend {
    async fn get(&self, key: &[u8]) -> Result<Option<Value>, Failure> {
        Ok(match self {
            Self::Memory(memory) => memory.get(key).await?,
            Self::Directory(directory) => directory.get(key.to_vec()).await?,
        })
    }

    async fn scan(&self, prefix: Vec<u8>) -> Result<Vec<Vec<u8>>, Failure> {
        Ok(match self {
            Self::Memory(memory) => memory.scan(&prefix).await?,
            Self::Directory(directory) => directory.scan(prefix).await?,
        })
    }

    async fn link(&self, fingerprint: Fingerprint) -> Result<Option<Link>, Failure> {
        Ok(match self {
            Self::Memory(memory) => memory.link(fingerprint).await?,
            Self::Directory(directory) => directory.link(fingerprint).await?,
        })
    }

    async fn commit(&self, write: Write, change: Change) -> Result<bool, Failure> {
        Ok(match self {
            Self::Memory(memory) => memory.commit(&write, &change).await?,
            Self::Directory(directory) => directory.commit(change).await?,
        })
    }
}

/// A store on one machine.
pub(super) struct Local {
    pub(super) backend: Backend,
    pub(super) keys: Keyring,
    pub(super) fingerprints: Fingerprints,
}

impl Local {
    pub(super) async fn jobs(&self) -> Result<Vec<JobId>, Failure> {
        let mut jobs = BTreeSet::new();
        for key in self.backend.scan(Vec::new()).await? {
            if let Name::OfJob(job, _, _) = record::decode_key(&key)? {
                jobs.insert(job);
            }
        }
        Ok(jobs.into_iter().collect())
    }

    /// The chains that the job's secrets stand for now.
    pub(super) async fn chains(&self, job: &JobId) -> Result<Vec<HeldChain>, Failure> {
        let mut held = Vec::new();
        for (secret, key) in self.binding_keys(job).await? {
            let (chain, seed) = match self.binding_at(&key).await {
                Ok(Some(binding)) => (self.stored(binding.chain).await, binding.seed),
                Ok(None) => continue,
                Err(failure) => (Err(failure), None),
            };
            let newest = match &chain {
                Ok(Some(stored)) => Some(self.fingerprints.of(stored.chain.value.expose_secret())),
                Ok(None) | Err(_) => None,
            };
            held.push(HeldChain {
                secret,
                chain,
                configured_is_spent: seed.is_some() && newest.is_some() && seed != newest,
            });
        }
        Ok(held)
    }

    /// What is forgotten with a job: its chains, if no other job's secret stands or stood for them. False: one of them was
    /// changed since it was read; nothing is forgotten then.
    pub(super) async fn forget(
        &self,
        job: &JobId,
        may_go: &(dyn Fn(&StoredChain) -> Result<(), Failure> + Sync),
    ) -> Result<bool, Failure> {
        let mut chains = Vec::new();
        for id in self.chains_of_this_job_alone(job).await? {
            let stored = self.backend.get(&record::chain_key(id)).await?;
            if let Some(stored) = &stored
                && let Ok(chain) = self.decrypted(id, stored)
            {
                may_go(&StoredChain {
                    chain,
                    revision: revision(stored),
                })?;
            }
            chains.push((id, stored.as_ref().map(|stored| revision(stored))));
        }
        let forget = Forget {
            prefix: record::job_prefix(job),
            chains,
        };
        self.backend
            .commit(Write::Forget(job.clone()), Change::Forget(forget))
            .await
    }

    async fn chains_of_this_job_alone(&self, job: &JobId) -> Result<BTreeSet<ChainId>, Failure> {
        let (mut ours, mut others) = (BTreeSet::new(), BTreeSet::new());
        for (owner, binding) in self.bindings().await? {
            let set = if owner == *job {
                &mut ours
            } else {
                &mut others
            };
            set.extend(binding.chains());
        }
        Ok(&ours - &others)
    }

    /// All bindings that can be read. One that cannot binds nothing: else a chain that cannot be read could never be forgotten.
    async fn bindings(&self) -> Result<Vec<(JobId, Binding)>, Failure> {
        let mut bindings = Vec::new();
        for key in self.backend.scan(Vec::new()).await? {
            if let Ok(Name::OfJob(job, Kind::Binding, _)) = record::decode_key(&key)
                && let Ok(Some(binding)) = self.binding_at(&key).await
            {
                bindings.push((job, binding));
            }
        }
        Ok(bindings)
    }

    async fn binding_keys(&self, job: &JobId) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        let keys = self
            .backend
            .scan(record::kind_prefix(job, Kind::Binding))
            .await?;
        Ok(keys
            .into_iter()
            .filter_map(|key| match record::decode_key(&key) {
                Ok(Name::OfJob(_, _, secret)) => Some((secret, key)),
                _ => None,
            })
            .collect())
    }

    async fn binding_at(&self, key: &[u8]) -> Result<Option<Binding>, Failure> {
        match self.backend.get(key).await? {
            Some(stored) => Ok(Some(Binding::decode(&self.keys.open(key, &stored)?)?)),
            None => Ok(None),
        }
    }

    async fn stored(&self, id: ChainId) -> Result<Option<StoredChain>, Failure> {
        let Some(stored) = self.backend.get(&record::chain_key(id)).await? else {
            return Ok(None);
        };
        Ok(Some(StoredChain {
            chain: self.read_in_turn(id, &stored).await?,
            revision: revision(&stored),
        }))
    }

    async fn read_in_turn(&self, id: ChainId, stored: &[u8]) -> Result<Chain, StateError> {
        let read = || self.decrypted(id, stored);
        worker::in_turn_if_large(stored.len(), read).await
    }

    fn decrypted(&self, id: ChainId, stored: &[u8]) -> Result<Chain, StateError> {
        record::decode_chain(id, &self.keys.open(&record::chain_key(id), stored)?)
    }

    /// A chain whose value may be sent.
    async fn find_usable(
        &self,
        job: &JobId,
        secret: &str,
        seed: Option<&[u8]>,
    ) -> Result<Option<FoundChain>, Failure> {
        let found = self.find(job, secret, seed).await?;
        let (id, doubt): (ChainId, fn(&JobId, &str) -> StateError) = match (&found, seed) {
            (Some(found), _) => (found.stored.chain.id, StateError::restored),
            (None, Some(seed)) => (self.chain_id(seed), StateError::lost),
            (None, None) => return Ok(None),
        };
        if self.is_restored(id) {
            return Err(doubt(job, secret).into());
        }
        Ok(found)
    }

    /// Whether the chain is of a copy that was put back, so that its value may be spent.
    pub(super) fn is_restored(&self, chain: ChainId) -> bool {
        match &self.backend {
            Backend::Memory(_) => false,
            Backend::Directory(directory) => directory.is_restored(chain),
        }
    }

    pub(super) async fn find(
        &self,
        job: &JobId,
        secret: &str,
        seed: Option<&[u8]>,
    ) -> Result<Option<FoundChain>, Failure> {
        let binding_key = record::key(job, Kind::Binding, secret);
        let Some(value) = seed else {
            let Some(binding) = self.binding_at(&binding_key).await? else {
                return Ok(None);
            };
            let stored = self.stored_for(binding.chain, job, secret).await?;
            return Ok(stored.map(|stored| FoundChain {
                stored,
                seed: Seed::Unread,
            }));
        };
        let fingerprint = self.fingerprints.of(value);
        let id = match self.backend.link(fingerprint).await? {
            Some(link) => self.fingerprints.follow(fingerprint, &link)?,
            // Its first value leads to it even if another chain, since forgotten, had that value too.
            None => ChainId(fingerprint.0),
        };
        let Some(stored) = self.stored_for(id, job, secret).await? else {
            return Ok(None);
        };
        let seed = if stored.chain.has_newest(value) {
            Seed::Newest
        } else if self.is_untouched(&binding_key, id, fingerprint).await? {
            Seed::Unchanged
        } else {
            Seed::Restored
        };
        Ok(Some(FoundChain { stored, seed }))
    }

    /// A chain that a job needs; if it cannot be read, the message says whose it is.
    async fn stored_for(
        &self,
        id: ChainId,
        job: &JobId,
        secret: &str,
    ) -> Result<Option<StoredChain>, Failure> {
        let Some(stored) = self.backend.get(&record::chain_key(id)).await? else {
            return Ok(None);
        };
        match self.read_in_turn(id, &stored).await {
            Ok(chain) => Ok(Some(StoredChain {
                chain,
                revision: revision(&stored),
            })),
            Err(StateError::Undecryptable { .. }) => Err(StateError::Undecryptable {
                record: chain_of(job, secret),
            }
            .into()),
            Err(StateError::Plaintext { .. }) => Err(StateError::Plaintext {
                record: chain_of(job, secret),
            }
            .into()),
            Err(other) => Err(other.into()),
        }
    }

    /// Whether a spent value is where it was when the chain was last changed. A job that is new to the chain, a renamed one
    /// say, is asked for what the others know.
    async fn is_untouched(
        &self,
        binding_key: &[u8],
        chain: ChainId,
        seed: Fingerprint,
    ) -> Result<bool, Failure> {
        if let Some(binding) = self.binding_at(binding_key).await? {
            return Ok(binding.seed == Some(seed));
        }
        let bindings = self.bindings().await?;
        Ok(bindings
            .iter()
            .any(|(_, binding)| binding.chain == chain && binding.seed == Some(seed)))
    }

    async fn swap(&self, change: ChainChange<'_>) -> Result<Option<Revision>, Failure> {
        let id = change.next.id;
        let seed = change
            .seed
            .filter(|seed| !seed.is_empty())
            .map(|seed| self.fingerprints.of(seed));
        // The empty value is no value: many chains begin with it.
        let newest = change.next.value.expose_secret();
        let newest = (!newest.is_empty()).then(|| self.fingerprints.of(newest));
        let seal = || self.sealed_chain(change.next);
        let next = worker::in_turn_if_large(change.next.size(), seal).await?;
        let revision = revision(&next);
        let swap = Swap {
            chain: id,
            expected: change.expected.cloned(),
            next,
            binding: self
                .changed_binding(change.job, change.secret, id, seed)
                .await?,
            links: seed
                .into_iter()
                .chain(newest)
                .map(|fingerprint| (fingerprint, self.fingerprints.link(fingerprint, id)))
                .collect(),
        };
        let applied = self
            .backend
            .commit(Write::Chain(id), Change::Swap(swap))
            .await?;
        Ok(applied.then_some(revision))
    }

    fn sealed_chain(&self, chain: &Chain) -> Result<Value, StateError> {
        let value = record::encode_chain(chain, random()?)?;
        self.keys.seal(&record::chain_key(chain.id), &value)
    }

    /// The record of what a job's secret stands for after a change; none: it is already so. A job changes its chains one at a
    /// time, so nobody writes it meanwhile.
    async fn changed_binding(
        &self,
        job: &JobId,
        secret: &str,
        chain: ChainId,
        seed: Option<Fingerprint>,
    ) -> Result<Option<(Vec<u8>, Value)>, Failure> {
        let key = record::key(job, Kind::Binding, secret);
        let before = self.binding_at(&key).await?;
        let after = Binding::after(before.as_ref(), chain, seed);
        if before.as_ref() == Some(&after) {
            return Ok(None);
        }
        let sealed = self.keys.seal(&key, &after.encode()?)?;
        Ok(Some((key, sealed)))
    }

    async fn read(
        &self,
        job: &JobId,
        kind: Kind,
        name: &str,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        let key = record::key(job, kind, name);
        match self.backend.get(&key).await? {
            Some(stored) => Ok(Some(self.keys.open(&key, &stored)?)),
            None => Ok(None),
        }
    }

    async fn write(&self, write: Write, key: Vec<u8>, value: &[u8]) -> Result<(), Failure> {
        let sealed = self.keys.seal(&key, value)?;
        self.backend.commit(write, Change::Put(key, sealed)).await?;
        Ok(())
    }

    async fn cache(&self, job: &JobId, name: &str, value: &[u8]) -> Result<(), Failure> {
        let held = self
            .backend
            .scan(record::kind_prefix(job, Kind::PluginValue))
            .await?;
        let key = record::key(job, Kind::PluginValue, name);
        quota::admit(name, value, held.len(), held.contains(&key))?;
        self.write(Write::PluginValue(job.clone()), key, value)
            .await
    }
}

impl Keeper for Local {
    fn plugin_value<'a>(
        &'a self,
        job: &'a JobId,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, Failure>> {
        Box::pin(async move {
            let value = self.read(job, Kind::PluginValue, key).await?;
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
        match &self.backend {
            Backend::Memory(memory) => memory.is_exclusive(),
            Backend::Directory(_) => true,
        }
    }

    fn outlives_process(&self) -> bool {
        match &self.backend {
            Backend::Memory(memory) => memory.outlives_process(),
            Backend::Directory(_) => true,
        }
    }

    fn chain_id(&self, first_value: &[u8]) -> ChainId {
        self.fingerprints.chain_id(first_value)
    }

    fn find_chain<'a>(
        &'a self,
        job: &'a JobId,
        secret: &'a str,
        seed: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<Option<FoundChain>, Failure>> {
        Box::pin(self.find_usable(job, secret, seed))
    }

    fn chain(&self, id: ChainId) -> BoxFuture<'_, Result<Option<StoredChain>, Failure>> {
        Box::pin(self.stored(id))
    }

    fn swap_chain<'a>(
        &'a self,
        change: ChainChange<'a>,
    ) -> BoxFuture<'a, Result<Option<Revision>, Failure>> {
        Box::pin(self.swap(change))
    }

    fn token<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<KeptToken>, Failure>> {
        Box::pin(async move {
            match self.read(job, Kind::Token, "").await? {
                Some(bytes) => Ok(Some(record::decode_token(&bytes)?)),
                None => Ok(None),
            }
        })
    }

    fn keep_token<'a>(
        &'a self,
        job: &'a JobId,
        token: &'a KeptToken,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let bytes = record::encode_token(token)?;
            let key = record::key(job, Kind::Token, "");
            self.write(Write::Token(job.clone()), key, &bytes).await
        })
    }
}

//! Chains in the store: found by value, changed by compare-and-swap, deleted with the last job that they are stored for.

use std::collections::BTreeSet;

use secrecy::ExposeSecret as _;

use super::error::{StateError, chain_of};
use super::fingerprint::Fingerprint;
use super::key::RecordKey;
use super::known::{KnownChain, KnownRecords};
use super::opening;
use super::record;
use super::records::{Expected, RecordBytes, StoredRecord};
use super::{HeldChain, Store};
use crate::capability::chain::{Chain, ChainId};
use crate::capability::keep::{ChainChange, FoundChain, Revision, Seed, StoredChain};
use crate::model::JobId;
use crate::model::defaults::PLUGIN_RESPONSE_BYTES_IN_SECRETS;
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::worker;

/// Space kept free in a record of limited size before a request is sent: for the largest answer and its metadata.
const RESERVE_BYTES: usize = PLUGIN_RESPONSE_BYTES_IN_SECRETS + 4096;

impl Store {
    /// The current chains of the job's secrets.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn chains(&self, job: &JobId) -> Result<Vec<HeldChain>, Failure> {
        let secrets: Vec<(String, ChainId, bool)> = {
            let known = self.known();
            let secrets = known.secrets_of(job).into_iter();
            let facts = secrets.map(|(secret, (id, chain, binding))| {
                let is_spent =
                    binding.seed.is_some() && binding.seed.as_ref() != chain.fingerprints.last();
                (secret.to_owned(), id, is_spent)
            });
            facts.collect()
        };
        let mut held = Vec::with_capacity(secrets.len());
        for (secret, id, configured_is_spent) in secrets {
            held.push(HeldChain {
                secret,
                chain: self.held_or_read(id).await.map_err(Into::into),
                configured_is_spent,
            });
        }
        Ok(held)
    }

    /// Whether a chain is from a restored copy of the store, so that its value may be spent.
    #[must_use]
    pub fn is_restored(&self, chain: ChainId) -> bool {
        let known = self.known();
        known.get(chain).is_some_and(|known| known.is_restored)
    }

    /// The chain that a person may give another value: also one whose current value must not be sent.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn find_chain_to_replace(
        &self,
        job: &JobId,
        secret: &str,
        seed: Option<&[u8]>,
    ) -> Result<Option<FoundChain>, Failure> {
        let Some((id, seed)) = self.lead(job, secret, seed).await? else {
            return Ok(None);
        };
        let stored = self.held_or_read(id).await.map_err(|unread| match unread {
            Unread::Refused(error) => self.of_secret(error, id, job, secret).into(),
            Unread::Failed(failure) => failure,
        });
        Ok(stored?.map(|stored| FoundChain { stored, seed }))
    }

    /// The chain that a value belongs to, and the value's role in it.
    pub(super) async fn lead(
        &self,
        job: &JobId,
        secret: &str,
        value: Option<&[u8]>,
    ) -> Result<Option<(ChainId, Seed)>, Failure> {
        let seed = value.map(|value| {
            let first = self.fingerprints.chain_id(job, value);
            (first, Fingerprint::of_first(first))
        });
        let find = || self.known().find(job, secret, seed);
        let mut found = find();
        if let Some((id, _)) = found
            && self.known().uncertain.contains(&id)
        {
            self.read_anew(id).await?;
            found = find();
        }
        if found.is_none() && !self.records.is_exclusive() {
            // Another process may have begun the chain, or rotated it to this value.
            self.list_anew().await?;
            found = find();
        }
        if let (None, Some((first, _))) = (found, seed) {
            let refused = self.admit(&RecordKey::Chain(first));
            refused.map_err(|error| self.of_secret(error, first, job, secret))?;
        }
        Ok(found)
    }

    /// A chain whose value may be sent.
    pub(super) async fn find_usable(
        &self,
        job: &JobId,
        secret: &str,
        seed: Option<&[u8]>,
    ) -> Result<Option<FoundChain>, Failure> {
        let found = self.find_chain_to_replace(job, secret, seed).await?;
        match (&found, seed) {
            (Some(found), _) if self.is_restored(found.stored.chain.id) => {
                Err(StateError::restored(job, secret).into())
            }
            (None, Some(seed)) if self.records.has_lost(self.fingerprints.chain_id(job, seed)) => {
                Err(StateError::lost(job, secret).into())
            }
            _ => Ok(found),
        }
    }

    /// The stored chain of an id that was found in memory.
    async fn held_or_read(&self, id: ChainId) -> Result<Option<StoredChain>, Unread> {
        let held = self.known().get(id).and_then(KnownChain::stored);
        match held {
            Some(stored) => Ok(Some(stored)),
            None => self.read(id).await,
        }
    }

    /// Reads a chain from the store.
    pub(super) async fn read_chain(&self, id: ChainId) -> Result<Option<StoredChain>, Failure> {
        if !self.records.is_exclusive() {
            self.read_anew(id).await?;
            return Ok(self.known().get(id).and_then(KnownChain::stored));
        }
        self.read(id).await.map_err(Into::into)
    }

    async fn read(&self, id: ChainId) -> Result<Option<StoredChain>, Unread> {
        let key = RecordKey::Chain(id);
        let Some(stored) = self.records.get(&key).await.map_err(Unread::Failed)? else {
            return Ok(None);
        };
        let read = || opening::read_chain(&self.keys.load(), &key, &stored.value);
        let record = worker::in_turn_if_large(stored.value.len(), read).await;
        Ok(Some(StoredChain {
            chain: record.map_err(Unread::Refused)?.chain,
            revision: stored.revision,
        }))
    }

    /// Reads a chain and updates the memory. What this process has written meanwhile is newer.
    async fn read_anew(&self, id: ChainId) -> Result<(), Failure> {
        let held = |known: &KnownRecords| known.get(id).and_then(|known| known.revision.clone());
        let before = held(&self.known());
        let key = RecordKey::Chain(id);
        let stored = self.records.get(&key).await?;
        let record = match &stored {
            Some(stored) => {
                let read = || opening::read_chain(&self.keys.load(), &key, &stored.value);
                Some(worker::in_turn_if_large(stored.value.len(), read).await)
            }
            None => None,
        };
        if record.is_none() && !self.records.is_exclusive() {
            self.learn_what_was_forgotten().await?;
        }
        let mut known = self.known();
        let is_present = held(&known) == before;
        match (stored, record) {
            (Some(stored), Some(Ok(record))) => {
                known.refused.remove(&key);
                let (mut read, chain) = KnownChain::read(&stored, record);
                read.held = (!self.records.is_exclusive()).then_some(chain);
                if is_present {
                    known.learn_present(id, read);
                } else {
                    known.learn(id, read);
                }
            }
            (Some(_), Some(Err(error))) => {
                let error = error.of_record(self.name_of(&key));
                known.refused.insert(key, error.clone());
                return Err(error.into());
            }
            _ if is_present => self.miss(&mut known, id),
            _ => {}
        }
        known.uncertain.remove(&id);
        Ok(())
    }

    /// Records that a chain's record is missing.
    pub(super) fn miss(&self, known: &mut KnownRecords, id: ChainId) {
        if known.miss(id) {
            tracing::warn!(chain = %id, "a chain's record{} is gone; what this process knows of it is written anew with its next use", self.records.whereabouts(&RecordKey::Chain(id)));
        }
    }

    /// Stores a chain if the store has the expected revision.
    pub(super) async fn swap(&self, change: ChainChange<'_>) -> Result<Option<Revision>, Failure> {
        let id = change.next.id;
        self.admit(&RecordKey::Chain(id))?;
        if !self.is_as_expected(id, change.expected) {
            self.read_anew(id).await?;
            if !self.is_as_expected(id, change.expected) {
                return Ok(None);
            }
        }
        let next = {
            let fingerprint = |value: &[u8]| self.fingerprints.of(change.job, value);
            self.known().after(
                id,
                (change.job, change.secret, change.binds),
                change.seed.and_then(fingerprint),
                fingerprint(change.next.value.expose_secret()),
            )
        };
        let value = self.sealed(&next, change.next).await?;
        if opens(change.next) {
            self.has_room(id, &value)?;
        }
        if change.expected.is_some() && next.revision.is_none() {
            self.keep_own_record().await?;
        }
        self.write_chain(id, next, change.next, value).await
    }

    /// Whether the known revision of a chain is the expected one.
    fn is_as_expected(&self, id: ChainId, expected: Option<&Revision>) -> bool {
        let known = self.known();
        if known.uncertain.contains(&id) {
            return false;
        }
        // A chain whose record is gone has the empty revision.
        let revision = |known: &KnownChain| known.revision.clone().unwrap_or_default();
        known.get(id).map(revision).as_ref() == expected
    }

    async fn sealed(&self, known: &KnownChain, chain: &Chain) -> Result<RecordBytes, Failure> {
        let seal = || {
            let bytes = record::encode("chain", &known.record(chain.clone()))?;
            self.keys.load().seal(&RecordKey::Chain(chain.id), &bytes)
        };
        Ok(worker::in_turn_if_large(chain.size(), seal).await?)
    }

    /// Writes a chain and records the result. None: it has changed.
    async fn write_chain(
        &self,
        id: ChainId,
        mut next: KnownChain,
        chain: &Chain,
        value: RecordBytes,
    ) -> Result<Option<Revision>, Failure> {
        // Until the answer arrives, or if this future is dropped, the outcome is unknown.
        self.known().uncertain.insert(id);
        let expected = next
            .revision
            .clone()
            .map_or(Expected::Nothing, Expected::At);
        let written = self
            .records
            .put_if(&RecordKey::Chain(id), expected, value)
            .await;
        match written {
            Ok(Some(written)) => {
                let revision = written.revision.clone();
                next.written(written);
                next.held = (!self.records.is_exclusive()).then(|| chain.clone());
                let mut known = self.known();
                known.learn(id, next);
                known.uncertain.remove(&id);
                Ok(Some(revision))
            }
            Ok(None) => {
                self.read_anew(id).await?;
                Ok(None)
            }
            Err(failure) => {
                if failure.kind != FailureKind::Unavailable {
                    self.known().uncertain.remove(&id);
                }
                Err(failure)
            }
        }
    }

    /// Checks that the answer can be stored when it arrives.
    fn has_room(&self, id: ChainId, value: &RecordBytes) -> Result<(), Failure> {
        let held = value.len();
        match self.records.max_bytes() {
            Some(most) if held + RESERVE_BYTES > most => Err(Failure::new(
                FailureKind::InvalidConfig,
                HostCode::StateNoRoom,
                format!(
                    "the record of chain {id} has {held} bytes and could not take the issuer's answer as well (a Secret holds {most}), so no request is sent; make the source's configuration smaller"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Deletes all that is stored for a job: its token, its plugin's cached values, and the chains that no other job's secret
    /// uses or used. `may_go` is asked about each of these.
    ///
    /// # Errors
    /// The store cannot be written; one of the chains may not be deleted, and nothing is deleted then; or one of them was changed
    /// meanwhile (`state.changed`).
    pub async fn forget(
        &self,
        job: &JobId,
        may_go: &(dyn Fn(&StoredChain) -> Result<(), Failure> + Sync),
    ) -> Result<(), Failure> {
        self.list_anew().await?;
        for id in self.uncertain_chains_of(job) {
            self.read_anew(id).await?;
        }
        let bound: Vec<(ChainId, KnownChain)> = {
            let known = self.known();
            let chains = known.chains_of(job);
            chains.map(|(id, chain)| (id, chain.clone())).collect()
        };
        let (ours, shared): (Vec<_>, Vec<_>) = bound
            .into_iter()
            .partition(|(_, chain)| chain.bindings.iter().all(|binding| binding.job == *job));
        for (id, _) in &ours {
            match self.held_or_read(*id).await {
                Ok(Some(stored)) => may_go(&stored)?,
                Ok(None) | Err(Unread::Refused(_)) => {}
                Err(Unread::Failed(failure)) => return Err(failure),
            }
        }
        let uids: BTreeSet<&str> = ours.iter().map(|(_, chain)| chain.uid.as_str()).collect();
        self.note_forgotten(&uids).await?;
        for (id, chain) in ours {
            if let Some(revision) = &chain.revision {
                self.delete(&RecordKey::Chain(id), Expected::At(revision.clone()))
                    .await?;
            }
            self.known().drop_chain(id);
        }
        for (id, mut chain) in shared {
            chain.bindings.retain(|binding| binding.job != *job);
            self.rewrite(id, chain).await?;
        }
        for key in [
            RecordKey::Token(job.clone()),
            RecordKey::Values(job.clone()),
        ] {
            self.delete(&key, Expected::Anything).await?;
            let mut known = self.known();
            known.kept.remove(&key);
            known.refused.remove(&key);
        }
        Ok(())
    }

    fn uncertain_chains_of(&self, job: &JobId) -> Vec<ChainId> {
        let known = self.known();
        let chains = known.chains_of(job).map(|(id, _)| id);
        chains.filter(|id| known.uncertain.contains(id)).collect()
    }

    /// Whether the chain with this id, hexadecimal, exists and cannot be read, so that its job is unknown.
    #[must_use]
    pub fn is_unreadable_chain(&self, id: &str) -> bool {
        self.unreadable(id).is_some()
    }

    fn unreadable(&self, id: &str) -> Option<RecordKey> {
        let known = self.known();
        let mut keys = known.refused.keys();
        keys.find(|key| matches!(key, RecordKey::Chain(chain) if chain.to_string() == id))
            .cloned()
    }

    /// Deletes such a chain.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn forget_unreadable(&self, id: &str) -> Result<(), Failure> {
        let Some(key) = self.unreadable(id) else {
            return Ok(());
        };
        self.delete(&key, Expected::Anything).await?;
        let mut known = self.known();
        known.refused.remove(&key);
        if let RecordKey::Chain(id) = key {
            known.drop_chain(id);
        }
        Ok(())
    }

    /// Writes a chain unchanged with other bindings.
    async fn rewrite(&self, id: ChainId, next: KnownChain) -> Result<(), Failure> {
        let Some(StoredChain { chain, revision }) = self.held_or_read(id).await? else {
            return Ok(());
        };
        if next.revision.as_ref() != Some(&revision) {
            return Err(changed());
        }
        let value = self.sealed(&next, &chain).await?;
        let written = self.write_chain(id, next, &chain, value).await?;
        written.map(drop).ok_or_else(changed)
    }

    async fn delete(&self, key: &RecordKey, expected: Expected) -> Result<(), Failure> {
        if self.records.delete_if(key, expected).await? {
            return Ok(());
        }
        if let RecordKey::Chain(id) = key {
            self.known().uncertain.insert(*id);
        }
        Err(changed())
    }

    /// An unreadable record may be the only copy of a chain: only an explicit `forget` deletes it.
    pub(super) fn admit(&self, key: &RecordKey) -> Result<(), StateError> {
        match self.known().refused.get(key) {
            None => Ok(()),
            Some(error) => Err(error.clone().of_record(self.name_of(key))),
        }
    }

    /// The record's name in messages, with its place.
    pub(super) fn name_of(&self, key: &RecordKey) -> String {
        format!("{key}{}", self.records.whereabouts(key))
    }

    fn of_secret(&self, error: StateError, id: ChainId, job: &JobId, secret: &str) -> StateError {
        let place = self.records.whereabouts(&RecordKey::Chain(id));
        error.of_record(format!("{}{place}", chain_of(job, secret)))
    }

    /// Adds a listed record to the memory.
    pub(super) fn learn(&self, known: &mut KnownRecords, key: RecordKey, stored: StoredRecord) {
        opening::learn(
            known,
            &self.keys.load(),
            key,
            stored,
            !self.records.is_exclusive(),
        );
    }
}

/// Why a chain was not read.
enum Unread {
    /// Its record exists and cannot be used.
    Refused(StateError),
    /// The store failed.
    Failed(Failure),
}

impl From<Unread> for Failure {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Refused(error) => error.into(),
            Unread::Failed(failure) => failure,
        }
    }
}

/// Another process changed at the same time what was to be deleted.
pub(super) fn changed() -> Failure {
    Failure::new(
        FailureKind::Unavailable,
        HostCode::StateChanged,
        "what is to be forgotten was changed at the same moment; try again",
    )
}

/// Whether the change records the intent of a request.
fn opens(chain: &Chain) -> bool {
    let exchange = chain.exchange.as_ref();
    exchange.is_some_and(|exchange| exchange.answer.is_none() && exchange.arriving.is_none())
}

//! Keeping in a cluster: one Secret per chain, changed by compare-and-swap on its resourceVersion, so that two processes cannot
//! spend one refresh token; and one per job for its token and what its plugin cached. What was read is held in memory: a
//! rotation costs its writes and no reads. A write whose answer was lost is never repeated here; whoever made it compares.

mod known;
mod object;
mod own;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Mutex as AsyncMutex;
use zeroize::Zeroizing;

use self::known::{Chains, FINGERPRINTS_MAX, GONE, Known, is_newer};
use self::object::{
    CHAIN, Data, JOB, MANAGER, Object, Place, RawList, SECRET_MAX_BYTES, STORE, STORE_LABEL,
};
use self::own::FingerprintKey;
use super::error::StateError;
use super::fingerprint::{Fingerprint, Fingerprints};
use super::record::{self, Kind, Name};
use super::seal::{Condition, Keyring};
use super::{HeldChain, quota, random};
use crate::capability::chain::ChainId;
use crate::capability::keep::{
    BoxFuture, ChainChange, FoundChain, Keeper, Revision, Seed, StoredChain,
};
use crate::config::defaults::PLUGIN_RESPONSE_BYTES_IN_SECRETS;
use crate::config::model::JobId;
use crate::failure::{Failure, FailureKind};
use crate::kubernetes::{Answer, CONFLICT, Call, Kubernetes, NOT_FOUND, Verb};
use crate::token::KeptToken;
use crate::worker;

/// What is kept free in a chain's Secret before a request is sent: the largest answer in base64, and what else its record says.
const RESERVE_BYTES: usize = PLUGIN_RESPONSE_BYTES_IN_SECRETS / 3 * 4 + 4096;

/// Objects in one answer to a list, kubectl's own number.
const PAGE: usize = 500;

/// Tries to read the store at start, a pause apart: an API server that restarts is back within a minute, and where it is not, the
/// Pod's restart tries further.
const START_TRIES: u32 = 12;
const START_PAUSE: Duration = Duration::from_secs(5);

/// Rounds of reading and writing a job's Secret when another process writes it at the same moment.
const CONFLICTS_MAX: usize = 4;

/// Keys of `data`.
const CHAIN_KEY: &str = "chain";
const BINDINGS_KEY: &str = "bindings";
const FINGERPRINTS_KEY: &str = "fingerprints";
const HOME_KEY: &str = "home";
const ID_KEY: &str = "id";
const TOKEN_KEY: &str = "token";
const VALUES_KEY: &str = "values";

/// The Secret that a chain was written into: found in another one, it was copied from there.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Home {
    /// The Secret's uid; empty: it was being created, and had none yet.
    #[serde(default)]
    uid: String,
    /// Whether the chain was of a copy already then.
    #[serde(default)]
    restored: bool,
}

impl Home {
    /// Whether a chain in this object was put there from a copy: in another object than it was written into, or by somebody else.
    fn is_restored_in(&self, object: &Object) -> bool {
        let is_elsewhere = !self.uid.is_empty() && self.uid != object.uid;
        self.restored || is_elsewhere || object.foreign.contains(CHAIN_KEY)
    }
}

/// Where a store in a cluster is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPlace {
    /// The namespace of all its Secrets.
    pub namespace: String,
    /// What their names begin with.
    pub prefix: String,
}

impl std::fmt::Display for ClusterPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "secrets {}/{}-*", self.namespace, self.prefix)
    }
}

/// A store in a cluster.
pub(super) struct Cluster {
    kubernetes: Arc<Kubernetes>,
    place: ClusterPlace,
    pub(super) keys: Keyring,
    fingerprints: Fingerprints,
    /// What the fingerprints are made with.
    fingerprint_key: FingerprintKey,
    known: Mutex<State>,
    /// Held while all is listed.
    listing: AsyncMutex<()>,
}

#[derive(Default)]
struct State {
    chains: Chains,
    jobs: HashMap<JobId, KnownJob>,
    /// Chains whose last write may have happened.
    uncertain: BTreeSet<ChainId>,
    /// Chains that are there and cannot be read.
    unreadable: BTreeSet<ChainId>,
    /// Secrets of chains that were forgotten, by their uid.
    forgotten: BTreeSet<String>,
    /// What was said about Secrets that cannot be read: once each, not at every list.
    told: BTreeSet<String>,
    /// Lists that have begun, and the last of them that succeeded.
    lists_begun: u64,
    list_done: u64,
}

/// A job's Secret as it was last seen.
#[derive(Clone)]
struct KnownJob {
    revision: String,
    data: Data,
}

impl Cluster {
    /// Reads the store, or makes it.
    pub(super) async fn open(
        kubernetes: Arc<Kubernetes>,
        place: ClusterPlace,
        keys: Keyring,
    ) -> Result<Self, Failure> {
        let mut tries = 1;
        let fingerprint_key = loop {
            match own::fingerprint_key(&kubernetes, &place, &keys).await {
                Err(failure) if failure.kind == FailureKind::Unavailable && tries < START_TRIES => {
                    tracing::warn!(error = %failure, "the state store cannot be read yet; it is tried again");
                    tries += 1;
                    tokio::time::sleep(START_PAUSE).await;
                }
                result => break result?,
            }
        };
        let cluster = Self {
            kubernetes,
            place,
            keys,
            fingerprints: Fingerprints::new(&fingerprint_key),
            fingerprint_key,
            known: Mutex::default(),
            listing: AsyncMutex::default(),
        };
        let mut objects = cluster.list().await?;
        examine(&cluster.place, &cluster.keys, &objects)?;
        let encrypted = cluster.is_encrypted(&objects)?;
        // Its own Secret last: that it is encrypted says that all are.
        objects.sort_by_key(|object| object.kind == STORE);
        for object in objects {
            cluster.take_over(object, encrypted).await?;
        }
        Ok(cluster)
    }

    /// Whether the store has been encrypted, so that what is not encrypted was put there by somebody without the key. If its own
    /// Secret says that it was not, a chain that is encrypted proves the fingerprint key there: else a foreign one would open the
    /// store to foreign chains.
    fn is_encrypted(&self, objects: &[Object]) -> Result<bool, StateError> {
        let is_plain = |object: &Object, key: &String, value: &[u8]| {
            let name = self.sealed_under(object, key).unwrap_or_default();
            self.keys.examine(&name, value) == Condition::Plain
        };
        let store = objects.iter().find(|object| object.kind == STORE);
        if !store.is_some_and(|store| store.data.iter().any(|(key, v)| is_plain(store, key, v))) {
            return Ok(true);
        }
        let chains = objects.iter().filter(|object| object.kind == CHAIN);
        for known in chains.filter_map(|object| {
            let id = object::id_of(&self.place.prefix, CHAIN, &object.name)?;
            self.chain_in(ChainId(id), object).ok()
        }) {
            let newest = known.chain.value.expose_secret();
            if !newest.is_empty() && !known.fingerprints.contains(&self.fingerprints.of(newest)) {
                return Err(StateError::DamagedSecrets {
                    store: self.place.to_string(),
                    reason: "their fingerprint key is not the one that they were written with"
                        .to_owned(),
                });
            }
        }
        Ok(false)
    }

    /// Learns an object, encrypted with the first key from now on.
    async fn take_over(&self, mut object: Object, encrypted: bool) -> Result<(), Failure> {
        let mut outdated = false;
        for key in object.data.keys().cloned().collect::<Vec<_>>() {
            let (Some(name), Some(value)) =
                (self.sealed_under(&object, &key), object.data.get(&key))
            else {
                continue;
            };
            match self.keys.examine(&name, value) {
                Condition::Plain if encrypted => {
                    tracing::error!(secret = %object.name, key, "a record of the state store is not encrypted although the store is: somebody without the key has put it there; it is not used and left as it is");
                    let _ = self.learn(&object);
                    return Ok(());
                }
                Condition::Outdated | Condition::Plain => {
                    object.data.insert(key, self.keys.reseal(&name, value)?);
                    outdated = true;
                }
                Condition::Current => {}
                Condition::Undecryptable | Condition::KeyMissing(_) => {
                    tracing::error!(secret = %object.name, key, "a record of the state store cannot be decrypted; it is left as it is");
                    // A chain is remembered as unreadable.
                    let _ = self.learn(&object);
                    return Ok(());
                }
            }
        }
        // The mark of a writer goes with the next write; that the chain is a copy's must not.
        if outdated
            && object.foreign.contains(CHAIN_KEY)
            && let Some(id) = object::id_of(&self.place.prefix, CHAIN, &object.name)
            && let Ok(known) = self.chain_in(ChainId(id), &object)
        {
            object.data = self.data_of(&known)?;
        }
        if outdated {
            let written = self
                .write(
                    &object.kind,
                    &object.name,
                    Some(&object.revision),
                    &object.data,
                )
                .await;
            match written {
                Ok(Written { revision, .. }) => object.revision = revision,
                // Another process is at work on it, and has the new key too or will.
                Err(failure) if has_code(&failure, CONFLICT) => {}
                Err(failure) => return Err(failure),
            }
        }
        self.learn(&object)?;
        Ok(())
    }

    fn sealed_under(&self, object: &Object, key: &str) -> Option<Vec<u8>> {
        sealed_under(&self.place.prefix, &object.kind, &object.name, key)
    }

    /// Adds what was read to what is known. What cannot be decrypted is not known.
    fn learn(&self, object: &Object) -> Result<(), Failure> {
        match object.kind.as_str() {
            CHAIN => {
                if let Some(id) = object::id_of(&self.place.prefix, CHAIN, &object.name) {
                    let id = ChainId(id);
                    self.know(id, self.chain_in(id, object), Chains::learn)?;
                }
            }
            JOB => {
                if let Some(job) = self.job_in(object)? {
                    let mut state = self.state();
                    let held = state.jobs.get(&job).map(|held| held.revision.as_str());
                    if held.is_none_or(|held| !is_newer(held, &object.revision)) {
                        let known = KnownJob {
                            revision: object.revision.clone(),
                            data: object.data.clone(),
                        };
                        state.jobs.insert(job, known);
                    }
                }
            }
            STORE => {
                let forgotten = own::forgotten(&self.place, &self.keys, object)?;
                self.state().forgotten = forgotten.into_iter().collect();
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes note of what was read of a chain, if it could be.
    fn know(
        &self,
        id: ChainId,
        read: Result<Known, StateError>,
        learn: impl FnOnce(&mut Chains, Known),
    ) -> Result<(), Failure> {
        let mut state = self.state();
        match read {
            Ok(known) => {
                state.unreadable.remove(&id);
                learn(&mut state.chains, known);
                Ok(())
            }
            Err(error) => {
                state.unreadable.insert(id);
                Err(error.into())
            }
        }
    }

    /// Takes note that a chain's Secret is gone: forgotten, or lost.
    fn miss(&self, id: ChainId) {
        let mut state = self.state();
        let Some(held) = state.chains.get(id) else {
            return;
        };
        let was_missing = held.is_missing();
        if state.forgotten.contains(&held.uid) {
            state.chains.drop_chain(id);
            return;
        }
        if state.chains.miss(id) && !was_missing {
            let name = object::name(&self.place.prefix, CHAIN, &id.0);
            let namespace = &self.place.namespace;
            tracing::warn!(%namespace, secret = name, "the Secret of a chain is gone; what this process knows of it is written anew with its next use");
        }
    }

    /// The job that a Secret is of; none: it names none that this version knows.
    fn job_in(&self, object: &Object) -> Result<Option<JobId>, StateError> {
        let (Some(name), Some(sealed)) =
            (self.sealed_under(object, ID_KEY), object.data.get(ID_KEY))
        else {
            return Ok(None);
        };
        let id = self.keys.open(&name, sealed).map_err(|error| {
            let place = format!("job in secret {}/{}", self.place.namespace, object.name);
            named(error, place)
        })?;
        Ok(match record::decode_key(&id) {
            Ok(Name::OfJob(job, ..)) => Some(job),
            _ => None,
        })
    }

    fn chain_in(&self, id: ChainId, object: &Object) -> Result<Known, StateError> {
        let opened = |key: &str| {
            let record = || {
                let Self { place, .. } = self;
                format!("chain {id} (secret {}/{})", place.namespace, object.name)
            };
            let undecryptable = || StateError::Undecryptable { record: record() };
            let value = object.data.get(key).ok_or_else(undecryptable)?;
            let name = self.sealed_under(object, key).ok_or_else(undecryptable)?;
            let opened = self.keys.open(&name, value);
            opened.map_err(|error| named(error, record()))
        };
        let home = match object.data.get(HOME_KEY) {
            Some(_) => serde_json::from_slice(&opened(HOME_KEY)?).unwrap_or_default(),
            // As an earlier version wrote it.
            None => Home::default(),
        };
        Ok(Known {
            revision: object.revision.clone(),
            uid: object.uid.clone(),
            is_restored: home.is_restored_in(object),
            chain: record::decode_chain(id, &opened(CHAIN_KEY)?)?,
            bindings: record::decode_bindings(&opened(BINDINGS_KEY)?)?,
            fingerprints: opened(FINGERPRINTS_KEY)?
                .chunks_exact(16)
                .filter_map(|chunk| Some(Fingerprint(chunk.try_into().ok()?)))
                .collect(),
        })
    }

    pub(super) async fn jobs(&self) -> Result<Vec<JobId>, Failure> {
        self.list_anew().await?;
        let state = self.state();
        let jobs: BTreeSet<&JobId> = state.jobs.keys().chain(state.chains.jobs()).collect();
        Ok(jobs.into_iter().cloned().collect())
    }

    /// The chains that the job's secrets stand for, as they were when all was last listed.
    pub(super) fn chains(&self, job: &JobId) -> Vec<HeldChain> {
        let state = self.state();
        let secrets: BTreeSet<&str> = state
            .chains
            .bindings_of(job)
            .map(|(_, binding)| binding.secret.as_str())
            .collect();
        secrets
            .into_iter()
            .filter_map(|secret| {
                let (known, binding) = state.chains.binding(job, secret)?;
                let newest = known.fingerprints.last();
                Some(HeldChain {
                    secret: secret.to_owned(),
                    chain: Ok(Some(stored(known))),
                    configured_is_spent: binding.seed.is_some() && binding.seed.as_ref() != newest,
                })
            })
            .collect()
    }

    /// Forgets a job's Secret and the chains that no other job is bound to. False: one of them was changed since it was read.
    pub(super) async fn forget(
        &self,
        job: &JobId,
        may_go: &(dyn Fn(&StoredChain) -> Result<(), Failure> + Sync),
    ) -> Result<bool, Failure> {
        self.list_anew().await?;
        let (ours, shared, kept) = {
            let state = self.state();
            let mut seen = BTreeSet::new();
            let bound: Vec<Known> = state
                .chains
                .bindings_of(job)
                .filter(|(known, _)| seen.insert(known.chain.id))
                .map(|(known, _)| known.clone())
                .collect();
            let (ours, shared): (Vec<_>, Vec<_>) = bound
                .into_iter()
                .partition(|known| known.bindings.iter().all(|binding| binding.job == *job));
            (ours, shared, state.jobs.get(job).cloned())
        };
        for known in &ours {
            may_go(&stored(known))?;
        }
        if !self.note_forgotten(&ours).await? {
            return Ok(false);
        }
        for known in ours.iter().filter(|known| !known.is_missing()) {
            let name = object::name(&self.place.prefix, CHAIN, &known.chain.id.0);
            if !self.delete(&name, &known.revision).await? {
                return Ok(false);
            }
        }
        for known in &ours {
            self.state().chains.drop_chain(known.chain.id);
        }
        for known in shared {
            if !self.unbind(known, job).await? {
                return Ok(false);
            }
        }
        if let Some(kept) = kept {
            if !self.delete(&self.job_name(job), &kept.revision).await? {
                return Ok(false);
            }
            self.state().jobs.remove(job);
        }
        Ok(true)
    }

    /// Tells other processes that these chains are not lost. False: the store's own Secret was changed at the same moment.
    async fn note_forgotten(&self, chains: &[Known]) -> Result<bool, Failure> {
        if chains.is_empty() {
            return Ok(true);
        }
        let name = own::name(&self.place);
        let Some(object) = self.get(&name).await? else {
            return Ok(false);
        };
        let uids = chains.iter().map(|known| known.uid.as_str());
        let data = own::with_forgotten(&self.place, &self.keys, &object, uids)?;
        let written = self.write(STORE, &name, Some(&object.revision), &data);
        match written.await {
            Ok(_) => Ok(true),
            Err(failure) if has_code(&failure, CONFLICT) || has_code(&failure, NOT_FOUND) => {
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }

    async fn unbind(&self, mut known: Known, job: &JobId) -> Result<bool, Failure> {
        known.bindings.retain(|binding| binding.job != *job);
        let expected = known.revision.clone();
        let make = || self.data_of(&known);
        let data = worker::in_turn_if_large(known.chain.size(), make).await?;
        match self.write_chain(&mut known, Some(&expected), &data).await {
            Ok(()) => Ok(true),
            Err(failure) if has_code(&failure, CONFLICT) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// A chain whose value may be sent.
    async fn find_usable(
        &self,
        job: &JobId,
        secret: &str,
        seed: Option<&[u8]>,
    ) -> Result<Option<FoundChain>, Failure> {
        let found = self.find(job, secret, seed).await?;
        match found {
            Some(found) if self.is_restored(found.stored.chain.id) => {
                Err(StateError::restored(job, secret).into())
            }
            found => Ok(found),
        }
    }

    /// Whether the chain is of a copy that was put back, so that its value may be spent.
    pub(super) fn is_restored(&self, chain: ChainId) -> bool {
        let state = self.state();
        state
            .chains
            .get(chain)
            .is_some_and(|known| known.is_restored)
    }

    pub(super) async fn find(
        &self,
        job: &JobId,
        secret: &str,
        seed: Option<&[u8]>,
    ) -> Result<Option<FoundChain>, Failure> {
        let seed = seed.map(|value| (value, self.fingerprints.of(value)));
        let uncertain = {
            let state = self.state();
            let found = state.find(job, secret, seed);
            let id = found.map(|found| found.stored.chain.id);
            id.filter(|id| state.uncertain.contains(id))
        };
        if let Some(id) = uncertain {
            self.read_chain(id).await?;
        }
        if let Some(found) = self.state().find(job, secret, seed) {
            return Ok(Some(found));
        }
        // Another process may have begun the chain, or rotated it to this value.
        self.list_anew().await?;
        let unreadable = {
            let state = self.state();
            if let Some(found) = state.find(job, secret, seed) {
                return Ok(Some(found));
            }
            let first = seed.map(|(_, fingerprint)| ChainId(fingerprint.0));
            first.filter(|id| state.unreadable.contains(id))
        };
        if let Some(id) = unreadable {
            // It says why; nothing is begun in its place.
            self.read_chain(id).await?;
        }
        Ok(None)
    }

    async fn swap(&self, change: ChainChange<'_>) -> Result<Option<Revision>, Failure> {
        let id = change.next.id;
        let expected = change.expected.map(|revision| revision.0.as_str());
        let is_known = |state: &State| {
            let known = state.chains.get(id).map(|known| known.revision.as_str());
            known == expected
        };
        if !is_known(&self.state()) {
            self.read_chain(id).await?;
            if !is_known(&self.state()) {
                return Ok(None);
            }
        }
        let mut next = self.next(&change);
        let make = || self.data_of(&next);
        let data = worker::in_turn_if_large(next.chain.size(), make).await?;
        if opens(&change) {
            has_room(id, &data)?;
        }
        if expected == Some(GONE) {
            self.keep_fingerprint_key().await?;
        }
        match self.write_chain(&mut next, expected, &data).await {
            Ok(()) => Ok(Some(Revision(next.revision))),
            Err(failure) if has_code(&failure, CONFLICT) || has_code(&failure, NOT_FOUND) => {
                self.read_chain(id).await?;
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// The chain as it is to be written; its revision is not known yet.
    fn next(&self, change: &ChainChange<'_>) -> Known {
        let fingerprint = |value: &[u8]| (!value.is_empty()).then(|| self.fingerprints.of(value));
        let state = self.state();
        let before = state.chains.get(change.next.id);
        let (bindings, fingerprints) = state.chains.after(
            before,
            (change.job, change.secret),
            change.seed.and_then(fingerprint),
            fingerprint(change.next.value.expose_secret()),
        );
        Known {
            revision: String::new(),
            uid: before
                .filter(|before| !before.is_missing())
                .map_or_else(String::new, |before| before.uid.clone()),
            is_restored: false,
            chain: change.next.clone(),
            bindings,
            fingerprints,
        }
    }

    fn data_of(&self, known: &Known) -> Result<Data, Failure> {
        let name = object::name(&self.place.prefix, CHAIN, &known.chain.id.0);
        let mut packed = Zeroizing::new(Vec::with_capacity(16 * FINGERPRINTS_MAX));
        for fingerprint in &known.fingerprints {
            packed.extend_from_slice(&fingerprint.0);
        }
        let home = Home {
            uid: known.uid.clone(),
            restored: known.is_restored,
        };
        // Text and a truth value cannot fail to become JSON.
        let home = Zeroizing::new(serde_json::to_vec(&home).unwrap_or_default());
        let mut data = Data::new();
        for (key, value) in [
            (HOME_KEY, home),
            (CHAIN_KEY, record::encode_chain(&known.chain, random()?)?),
            (BINDINGS_KEY, record::encode_bindings(&known.bindings)?),
            (FINGERPRINTS_KEY, packed),
        ] {
            let sealed_under = sealed_under(&self.place.prefix, CHAIN, &name, key);
            let sealed = self.keys.seal(&sealed_under.unwrap_or_default(), &value)?;
            data.insert(key.to_owned(), sealed);
        }
        Ok(data)
    }

    /// Writes a chain and learns what came of it.
    async fn write_chain(
        &self,
        known: &mut Known,
        expected: Option<&str>,
        data: &Data,
    ) -> Result<(), Failure> {
        let id = known.chain.id;
        let name = object::name(&self.place.prefix, CHAIN, &id.0);
        // Until the answer is there, or if this future is dropped, nobody knows whether it happened.
        self.state().uncertain.insert(id);
        let expected = expected.filter(|revision| *revision != GONE);
        let written = self.write(CHAIN, &name, expected, data).await;
        let is_refused = |failure: &Failure| failure.kind != FailureKind::Unavailable;
        let mut state = self.state();
        match written {
            Ok(Written { revision, uid }) => {
                known.revision = revision;
                known.uid = uid;
                state.chains.learn(known.clone());
                state.uncertain.remove(&id);
                Ok(())
            }
            Err(failure) => {
                if is_refused(&failure) {
                    state.uncertain.remove(&id);
                }
                Err(failure)
            }
        }
    }

    /// Reads a chain anew.
    async fn read_chain(&self, id: ChainId) -> Result<Option<StoredChain>, Failure> {
        let name = object::name(&self.place.prefix, CHAIN, &id.0);
        let held = |state: &State| state.chains.get(id).map(|known| known.revision.clone());
        let before = held(&self.state());
        let object = self.get(&name).await?;
        // What this process has written meanwhile is newer.
        let is_present = held(&self.state()) == before;
        match &object {
            Some(object) if is_present => {
                let read = self.chain_in(id, object);
                self.know(id, read, Chains::learn_present)?;
            }
            Some(object) => self.learn(object)?,
            None if is_present => {
                if let Some(own) = self.get(&own::name(&self.place)).await? {
                    self.learn(&own)?;
                }
                self.miss(id);
            }
            None => {}
        }
        let mut state = self.state();
        state.uncertain.remove(&id);
        Ok(state.chains.get(id).map(stored))
    }

    /// That the key of the fingerprints is there for whoever reads the store next: without it none of them leads to a chain.
    async fn keep_fingerprint_key(&self) -> Result<(), Failure> {
        let (place, keys) = (&self.place, &self.keys);
        let there = match own::stored_key(&self.kubernetes, place, keys).await? {
            Some(key) => key,
            None => {
                own::write_key(&self.kubernetes, place, keys, self.fingerprint_key.clone()).await?
            }
        };
        if there == self.fingerprint_key {
            return Ok(());
        }
        Err(StateError::DamagedSecrets {
            store: place.to_string(),
            reason: format!(
                "the fingerprint key in {} is not the one that this process began with; restart it",
                own::name(place)
            ),
        }
        .into())
    }

    fn job_name(&self, job: &JobId) -> String {
        let id = self.fingerprints.of(&record::job_prefix(job));
        object::name(&self.place.prefix, JOB, &id.0)
    }

    /// A sealed value of a job.
    fn job_value(&self, job: &JobId, key: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        let value = {
            let state = self.state();
            let known = state.jobs.get(job);
            known.and_then(|known| known.data.get(key).cloned())
        };
        let name = sealed_under(&self.place.prefix, JOB, &self.job_name(job), key);
        value
            .map(|value| self.keys.open(&name.unwrap_or_default(), &value))
            .transpose()
            .map_err(|error| named(error, format!("{key} of job {job}")))
    }

    /// Changes one value of a job's Secret. Another process's change of another value is kept.
    async fn set_job_value(&self, job: &JobId, key: &str, value: &[u8]) -> Result<(), Failure> {
        // What cannot be decrypted is not overwritten.
        self.job_value(job, key)?;
        let name = self.job_name(job);
        let sealed = |key: &str, value: &[u8]| {
            let name = sealed_under(&self.place.prefix, JOB, &name, key).unwrap_or_default();
            self.keys.seal(&name, value)
        };
        let id = sealed(ID_KEY, &record::key(job, Kind::Token, ""))?;
        let value = sealed(key, value)?;
        let mut attempt = 1;
        loop {
            let known = self.state().jobs.get(job).cloned();
            let (revision, mut data) = match known {
                Some(known) => (Some(known.revision), known.data),
                None => (None, Data::from([(ID_KEY.to_owned(), id.clone())])),
            };
            data.insert(key.to_owned(), value.clone());
            match self.write(JOB, &name, revision.as_deref(), &data).await {
                Ok(Written { revision, .. }) => {
                    let known = KnownJob { revision, data };
                    self.state().jobs.insert(job.clone(), known);
                    return Ok(());
                }
                Err(failure)
                    if (has_code(&failure, CONFLICT) || has_code(&failure, NOT_FOUND))
                        && attempt < CONFLICTS_MAX =>
                {
                    attempt += 1;
                    self.state().jobs.remove(job);
                    if let Some(object) = self.get(&name).await? {
                        self.learn(&object)?;
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn cache(&self, job: &JobId, name: &str, value: &[u8]) -> Result<(), Failure> {
        let mut values = self.cached(job)?;
        quota::admit(name, value, values.len(), values.contains_key(name))?;
        values.insert(name.to_owned(), Zeroizing::new(value.to_vec()));
        let bytes = record::encode_values(&values)?;
        self.set_job_value(job, VALUES_KEY, &bytes).await
    }

    fn cached(&self, job: &JobId) -> Result<record::Values, StateError> {
        match self.job_value(job, VALUES_KEY)? {
            Some(bytes) => record::decode_values(&bytes),
            None => Ok(record::Values::new()),
        }
    }

    /// Lists all chains and jobs. Whoever waits while another list begins takes part in that one.
    async fn list_anew(&self) -> Result<(), Failure> {
        let arrival = self.state().lists_begun;
        let _turn = self.listing.lock().await;
        let (chains, jobs, list) = {
            let mut state = self.state();
            if state.list_done > arrival {
                return Ok(());
            }
            state.lists_begun += 1;
            let jobs: Vec<JobId> = state.jobs.keys().cloned().collect();
            (state.chains.ids(), jobs, state.lists_begun)
        };
        let objects = self.list().await?;
        if !objects.iter().any(|object| object.kind == STORE) {
            self.keep_fingerprint_key().await?;
        }
        for object in &objects {
            if let Err(failure) = self.learn(object)
                && self.state().told.insert(failure.message.clone())
            {
                tracing::error!(error = %failure, "a Secret of the state store is left as it is");
            }
        }
        // What was known before and is not listed is gone.
        let names: BTreeSet<&str> = objects.iter().map(|object| object.name.as_str()).collect();
        for id in chains {
            let name = object::name(&self.place.prefix, CHAIN, &id.0);
            if !names.contains(name.as_str()) {
                self.miss(id);
            }
        }
        let mut state = self.state();
        for job in jobs {
            if !names.contains(self.job_name(&job).as_str()) {
                state.jobs.remove(&job);
            }
        }
        state.list_done = list;
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Object>, Failure> {
        list(&self.kubernetes, &self.place).await
    }

    async fn get(&self, name: &str) -> Result<Option<Object>, Failure> {
        get(&self.kubernetes, &self.place, name).await
    }

    async fn write(
        &self,
        kind: &str,
        name: &str,
        revision: Option<&str>,
        data: &Data,
    ) -> Result<Written, Failure> {
        write(&self.kubernetes, &self.place, (kind, name), revision, data).await
    }

    /// False: it has changed since.
    async fn delete(&self, name: &str, revision: &str) -> Result<bool, Failure> {
        let mut call = Call::secret(Verb::Delete, &self.place.namespace, name);
        let precondition = json!({"preconditions": {"resourceVersion": revision}});
        call.body = Zeroizing::new(precondition.to_string().into_bytes());
        match self.send(&call).await {
            Ok(_) => Ok(true),
            Err(failure) if has_code(&failure, NOT_FOUND) => Ok(true),
            Err(failure) if has_code(&failure, CONFLICT) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    async fn send(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        send(&self.kubernetes, call).await
    }

    /// Every change leaves it whole, so a panic elsewhere does not spoil it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(
        &self,
        job: &JobId,
        secret: &str,
        seed: Option<(&[u8], Fingerprint)>,
    ) -> Option<FoundChain> {
        let bound = self.chains.binding(job, secret);
        let Some((value, fingerprint)) = seed else {
            return Some(FoundChain {
                stored: stored(bound?.0),
                seed: Seed::Unread,
            });
        };
        let known = self.chains.led_to(fingerprint)?;
        let is_untouched = match bound {
            Some((_, binding)) => binding.seed == Some(fingerprint),
            None => known
                .bindings
                .iter()
                .any(|binding| binding.seed == Some(fingerprint)),
        };
        let seed = if known.chain.has_newest(value) {
            Seed::Newest
        } else if is_untouched {
            Seed::Unchanged
        } else {
            Seed::Restored
        };
        Some(FoundChain {
            stored: stored(known),
            seed,
        })
    }
}

/// The same error about what people know.
fn named(error: StateError, record: String) -> StateError {
    match error {
        StateError::Undecryptable { .. } => StateError::Undecryptable { record },
        StateError::Plaintext { .. } => StateError::Plaintext { record },
        other => other,
    }
}

fn stored(known: &Known) -> StoredChain {
    StoredChain {
        chain: known.chain.clone(),
        revision: Revision(known.revision.clone()),
    }
}

/// Whether a request is about to be sent.
fn opens(change: &ChainChange<'_>) -> bool {
    let exchange = change.next.exchange.as_ref();
    exchange.is_some_and(|exchange| exchange.answer.is_none() && exchange.arriving.is_none())
}

/// That the answer can be kept when it comes.
fn has_room(id: ChainId, data: &Data) -> Result<(), Failure> {
    let held = object::size(data);
    if held + RESERVE_BYTES <= SECRET_MAX_BYTES {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::InvalidConfig,
        "state.no-room",
        format!(
            "the Secret of chain {id} holds {held} bytes and could not take the issuer's answer as well (a Secret holds {SECRET_MAX_BYTES}), so no request is sent; make the source's configuration smaller"
        ),
    ))
}

/// The name that a value of a Secret is sealed under, so that it cannot be moved; none: it is none of ours.
fn sealed_under(prefix: &str, kind: &str, name: &str, key: &str) -> Option<Vec<u8>> {
    let mut sealed_under = match kind {
        CHAIN => record::chain_key(ChainId(object::id_of(prefix, CHAIN, name)?)),
        JOB => name.as_bytes().to_vec(),
        STORE => record::fingerprint_key_key(),
        _ => return None,
    };
    sealed_under.push(0);
    sealed_under.extend_from_slice(key.as_bytes());
    Some(sealed_under)
}

/// Lists the store's Secrets and sees whether these keys can open them, and asks whether all that is done with them is allowed.
pub(super) async fn look(
    kubernetes: &Kubernetes,
    place: &ClusterPlace,
    keys: Option<&Keyring>,
) -> Result<(), Failure> {
    let objects = list(kubernetes, place).await?;
    for verb in [Verb::Get, Verb::Create, Verb::Update] {
        let name = own::name(place);
        let request = Call::secret(verb, &place.namespace, &name);
        kubernetes.require_access(&request).await?;
    }
    if let Some(keys) = keys {
        examine(place, keys, &objects)?;
        match objects.iter().find(|object| object.kind == STORE) {
            Some(object) => drop(own::opened_key(place, keys, object)?),
            None => own::require_none(place, &objects)?,
        }
    }
    Ok(())
}

/// A key that is missing altogether is a mistake in the configuration: nothing is read or written then.
fn examine(place: &ClusterPlace, keys: &Keyring, objects: &[Object]) -> Result<(), StateError> {
    let mut missing: BTreeMap<String, usize> = BTreeMap::new();
    for object in objects {
        for (key, value) in &object.data {
            if let Some(name) = sealed_under(&place.prefix, &object.kind, &object.name, key)
                && let Condition::KeyMissing(id) = keys.examine(&name, value)
            {
                *missing.entry(id).or_default() += 1;
            }
        }
    }
    match missing.pop_first() {
        None => Ok(()),
        Some((key_id, records)) => Err(StateError::KeyMissing {
            store: place.to_string(),
            key_id,
            records,
        }),
    }
}

/// All Secrets of a store.
async fn list(kubernetes: &Kubernetes, place: &ClusterPlace) -> Result<Vec<Object>, Failure> {
    let selector = format!("{STORE_LABEL}={}", place.prefix);
    let mut objects = Vec::new();
    let mut next = String::new();
    loop {
        let mut call = Call::secret(Verb::List, &place.namespace, "");
        call.query.push(("labelSelector", selector.clone()));
        call.query.push(("limit", PAGE.to_string()));
        if !next.is_empty() {
            call.query.push(("continue", next));
        }
        let page: RawList = send(kubernetes, &call).await?.parse(&call)?;
        for raw in page.items {
            objects.push(Object::of(raw).ok_or_else(|| call.malformed("no base64"))?);
        }
        next = page.metadata.next;
        if next.is_empty() {
            return Ok(objects);
        }
    }
}

async fn get(
    kubernetes: &Kubernetes,
    place: &ClusterPlace,
    name: &str,
) -> Result<Option<Object>, Failure> {
    let call = Call::secret(Verb::Get, &place.namespace, name);
    match send(kubernetes, &call).await {
        Ok(answer) => {
            let object = Object::of(answer.parse(&call)?);
            object.map(Some).ok_or_else(|| call.malformed("no base64"))
        }
        Err(failure) if has_code(&failure, NOT_FOUND) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// An object after a write.
struct Written {
    revision: String,
    uid: String,
}

/// Creates an object, or changes the one that has this revision.
async fn write(
    kubernetes: &Kubernetes,
    place: &ClusterPlace,
    (kind, name): (&str, &str),
    revision: Option<&str>,
    data: &Data,
) -> Result<Written, Failure> {
    #[derive(Deserialize)]
    struct Answered {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        resource_version: String,
        #[serde(default)]
        uid: String,
    }
    let verb = if revision.is_some() {
        Verb::Update
    } else {
        Verb::Create
    };
    let mut call = Call::secret(verb, &place.namespace, name);
    call.metadata_only = true;
    call.query.push(("fieldManager", MANAGER.to_owned()));
    let place = Place {
        namespace: &place.namespace,
        prefix: &place.prefix,
        name,
        kind,
    };
    call.body = object::body(&place, revision, data);
    let Answered { metadata } = send(kubernetes, &call).await?.parse(&call)?;
    Ok(Written {
        revision: metadata.resource_version,
        uid: metadata.uid,
    })
}

async fn send(kubernetes: &Kubernetes, call: &Call<'_>) -> Result<Answer, Failure> {
    let answered = kubernetes.send(call).await;
    answered.map_err(|failure| worded(failure, call))
}

/// What the store's owner can do about a refusal; the client's own words are about outputs.
fn worded(failure: Failure, call: &Call<'_>) -> Failure {
    let namespace = call.namespace;
    let mend = match failure.code.as_deref() {
        Some("kubernetes.forbidden") => format!(
            "RBAC does not allow it; grant the verbs get, list, create and update (and delete, for `evertoken state forget`) on resource `secrets` in namespace `{namespace}`: deploy/kubernetes/optional/rbac-state.yaml has the Role"
        ),
        Some("kubernetes.terminating") => format!(
            "namespace {namespace} is being deleted; name another one in `state.secret.namespace`"
        ),
        Some("kubernetes.too-large") => "a Secret holds at most 1 MiB".to_owned(),
        _ => {
            return Failure {
                message: format!("state store: {}", failure.message),
                ..failure
            };
        }
    };
    Failure {
        message: format!("state store: cannot {call}: {mend}"),
        ..failure
    }
}

fn has_code(failure: &Failure, code: &str) -> bool {
    failure.code.as_deref() == Some(code)
}

impl Keeper for Cluster {
    fn plugin_value<'a>(
        &'a self,
        job: &'a JobId,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, Failure>> {
        Box::pin(async move {
            let value = self.cached(job)?.remove(key);
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
        false
    }

    fn outlives_process(&self) -> bool {
        true
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
        Box::pin(self.read_chain(id))
    }

    fn swap_chain<'a>(
        &'a self,
        change: ChainChange<'a>,
    ) -> BoxFuture<'a, Result<Option<Revision>, Failure>> {
        Box::pin(self.swap(change))
    }

    fn token<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<KeptToken>, Failure>> {
        Box::pin(async move {
            match self.job_value(job, TOKEN_KEY)? {
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
            self.set_job_value(job, TOKEN_KEY, &bytes).await
        })
    }
}

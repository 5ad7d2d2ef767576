//! Records in Secrets of a cluster, one in each, changed by compare-and-swap on the Secret's resourceVersion, so that two
//! processes cannot spend one refresh token. A write whose answer was lost is not repeated here; its caller compares.

mod object;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use serde_json::json;
use zeroize::Zeroizing;

pub(super) use self::object::SECRET_MAX_BYTES;
use self::object::{MANAGER, Raw, RawList, RecordObject, STORE_LABEL};
use super::Opened;
use super::error::StateError;
use super::fingerprint::Fingerprints;
use super::key::RecordKey;
use super::known::{KnownChain, KnownRecords};
use super::opening::{self, Examination, read_chain, read_own};
use super::record::{self, Own};
use super::records::{Expected, RecordBytes, Records, StoredRecord, WrittenRecord};
use super::seal::Keyring;
use crate::kubernetes::{ApiAnswer, ApiCall, ApiError, Kubernetes, Verb};
use crate::model::failure::{Failure, FailureKind, HostCode};

/// Objects per page of a list, kubectl's own number.
const PAGE: usize = 500;

/// Tries to read the store at start, with pauses: an API server that restarts is back within a minute, and otherwise the Pod's
/// restart tries further.
const START_TRIES: u32 = 12;
const START_PAUSE: Duration = Duration::from_secs(5);

/// The place of a store in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPlace {
    /// The namespace of all its Secrets.
    pub namespace: String,
    /// The prefix of their names.
    pub prefix: String,
}

impl std::fmt::Display for ClusterPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "secrets {}/{}-*", self.namespace, self.prefix)
    }
}

/// The Secrets of a store.
pub(super) struct SecretRecords {
    kubernetes: Arc<Kubernetes>,
    place: ClusterPlace,
    /// Computes the names of jobs' Secrets.
    names: Fingerprints,
}

/// Reads the store, or creates it, and encrypts all records with the first key.
pub(super) async fn open(
    kubernetes: Arc<Kubernetes>,
    place: ClusterPlace,
    keys: &Keyring,
) -> Result<(SecretRecords, Opened), Failure> {
    let mut tries = 1;
    let own = loop {
        match own_record(&kubernetes, &place, keys).await {
            Err(failure) if failure.kind == FailureKind::Unavailable && tries < START_TRIES => {
                tracing::warn!(error = %failure, "the state store cannot be read yet; it is tried again");
                tries += 1;
                tokio::time::sleep(START_PAUSE).await;
            }
            result => break result?,
        }
    };
    let secrets = SecretRecords {
        names: Fingerprints::new(&own.fingerprint_key),
        kubernetes,
        place,
    };
    let mut known = KnownRecords::default();
    known.forgotten = own.forgotten.into_iter().collect();
    let all = secrets.list().await?;
    let examined = secrets.examine(keys, &all)?;
    known.refused = examined.refused;
    let mut current: BTreeMap<RecordKey, StoredRecord> = all.into_iter().collect();
    let outdated = examined.outdated.iter();
    let outdated: Vec<_> = outdated
        .filter_map(|key| current.remove_entry(key))
        .collect();
    for (key, stored) in current {
        opening::learn(&mut known, keys, key, stored, true);
    }
    for (key, stored) in outdated {
        secrets.take_over(&mut known, keys, key, stored).await?;
    }
    let opened = Opened {
        fingerprint_key: own.fingerprint_key,
        known,
    };
    Ok((secrets, opened))
}

/// Lists the store's Secrets and checks that these keys open them, and that all requests of the store would be allowed.
pub(super) async fn look(
    kubernetes: Arc<Kubernetes>,
    place: ClusterPlace,
    keys: Option<&Keyring>,
) -> Result<(), Failure> {
    let objects = list(&kubernetes, &place).await?;
    for verb in [Verb::Get, Verb::Create, Verb::Update] {
        let name = own_name(&place);
        let request = ApiCall::secret(verb, &place.namespace, &name);
        kubernetes.require_access(&request).await?;
    }
    let Some(keys) = keys else {
        return Ok(());
    };
    let Some(own) = objects.iter().find(|object| object.is_own()) else {
        return Ok(require_none(&place, &objects)?);
    };
    let own = read_own_object(&place, keys, own)?;
    let secrets = SecretRecords {
        names: Fingerprints::new(&own.fingerprint_key),
        kubernetes,
        place,
    };
    secrets.examine(keys, &secrets.records(objects))?;
    Ok(())
}

impl SecretRecords {
    fn examine(
        &self,
        keys: &Keyring,
        all: &[(RecordKey, StoredRecord)],
    ) -> Result<opening::Examined, StateError> {
        let own = all.iter().find(|(key, _)| *key == RecordKey::Own);
        let own = own.map(|(_, own)| own.value.as_slice());
        let mut examination = Examination::new(keys, own, false);
        for (key, stored) in all {
            examination.see(key, &stored.value);
        }
        examination.end(&self.place.to_string(), |reason| self.damaged(reason))
    }

    /// Encrypts a record again with the first key and adds it to the memory. That changes its writer, so that it is a copy must
    /// be recorded.
    async fn take_over(
        &self,
        known: &mut KnownRecords,
        keys: &Keyring,
        key: RecordKey,
        stored: StoredRecord,
    ) -> Result<(), Failure> {
        let mut value = keys.reseal(&key, &stored.value)?;
        if let RecordKey::Chain(_) = key
            && let Ok(record) = read_chain(keys, &key, &value)
        {
            let (read, chain) = KnownChain::read(&stored, record);
            value = keys.seal(&key, &record::encode("chain", &read.record(chain))?)?;
        }
        let expected = Expected::At(stored.revision.clone());
        let written = self.put_if(&key, expected, value.clone()).await?;
        let stored = match written {
            Some(WrittenRecord { revision, uid }) => StoredRecord {
                revision,
                uid,
                is_copy: false,
                value,
            },
            // Another process is writing it, and has the new key too or will.
            None => stored,
        };
        opening::learn(known, keys, key, stored, true);
        Ok(())
    }

    /// The records in Secrets, without those that are not this store's.
    fn records(&self, objects: Vec<RecordObject>) -> Vec<(RecordKey, StoredRecord)> {
        let records = objects.into_iter().filter_map(|object| {
            let (key, name, stored) = object.into_record()?;
            (self.name(&key) == name).then_some((key, stored))
        });
        records.collect()
    }

    /// The name of the Secret with this record. Those of chains and jobs reveal nothing without the store's key.
    fn name(&self, key: &RecordKey) -> String {
        match key {
            RecordKey::Own => own_name(&self.place),
            RecordKey::Chain(id) => object::name(&self.place, key, &id.0),
            RecordKey::Token(_) | RecordKey::Values(_) => {
                object::name(&self.place, key, &self.names.record_id(&key.to_bytes()))
            }
        }
    }

    async fn write(
        &self,
        verb: Verb,
        key: &RecordKey,
        revision: Option<&str>,
        value: &RecordBytes,
    ) -> Result<Option<WrittenRecord>, Failure> {
        let name = self.name(key);
        let body = object::body(&self.place, &name, key, revision, value);
        write(&self.kubernetes, &self.place, verb, &name, body).await
    }
}

impl Records for SecretRecords {
    fn get<'a>(
        &'a self,
        key: &'a RecordKey,
    ) -> BoxFuture<'a, Result<Option<StoredRecord>, Failure>> {
        Box::pin(async move {
            let name = self.name(key);
            let object = get(&self.kubernetes, &self.place, &name).await?;
            let record = object.and_then(RecordObject::into_record);
            Ok(record.and_then(|(found, _, stored)| (found == *key).then_some(stored)))
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(RecordKey, StoredRecord)>, Failure>> {
        Box::pin(async move { Ok(self.records(list(&self.kubernetes, &self.place).await?)) })
    }

    fn put_if<'a>(
        &'a self,
        key: &'a RecordKey,
        expected: Expected,
        value: RecordBytes,
    ) -> BoxFuture<'a, Result<Option<WrittenRecord>, Failure>> {
        Box::pin(async move {
            match expected {
                Expected::At(revision) => {
                    self.write(Verb::Update, key, Some(&revision.0), &value)
                        .await
                }
                Expected::Nothing => self.write(Verb::Create, key, None, &value).await,
                Expected::Anything => match self.write(Verb::Update, key, None, &value).await? {
                    Some(written) => Ok(Some(written)),
                    None => self.write(Verb::Create, key, None, &value).await,
                },
            }
        })
    }

    fn delete_if<'a>(
        &'a self,
        key: &'a RecordKey,
        expected: Expected,
    ) -> BoxFuture<'a, Result<bool, Failure>> {
        Box::pin(async move {
            let name = self.name(key);
            let mut call = ApiCall::secret(Verb::Delete, &self.place.namespace, &name);
            if let Expected::At(revision) = expected {
                let precondition = json!({"preconditions": {"resourceVersion": revision.0}});
                call.body = Zeroizing::new(precondition.to_string().into_bytes());
            }
            match send(&self.kubernetes, &call).await {
                Ok(_) => Ok(true),
                Err(ApiError::NotFound(_)) => Ok(true),
                Err(ApiError::Conflict(_)) => Ok(false),
                Err(refusal) => Err(refusal.into()),
            }
        })
    }

    fn is_exclusive(&self) -> bool {
        false
    }

    fn max_bytes(&self) -> Option<usize> {
        Some(SECRET_MAX_BYTES)
    }

    fn whereabouts(&self, key: &RecordKey) -> String {
        format!(" (secret {}/{})", self.place.namespace, self.name(key))
    }

    fn damaged(&self, reason: String) -> StateError {
        damaged(&self.place, reason)
    }
}

fn damaged(place: &ClusterPlace, reason: String) -> StateError {
    StateError::DamagedSecrets {
        store: place.to_string(),
        reason,
    }
}

/// The store's own record: the existing one, or a new one if ours is the first.
async fn own_record(
    kubernetes: &Kubernetes,
    place: &ClusterPlace,
    keys: &Keyring,
) -> Result<Own, Failure> {
    if let Some(own) = stored_own(kubernetes, place, keys).await? {
        return Ok(own);
    }
    if let Err(gone) = require_none(place, &list(kubernetes, place).await?) {
        // Another process may have created it, and the chains, meanwhile.
        let own = stored_own(kubernetes, place, keys).await?;
        return own.ok_or_else(|| gone.into());
    }
    let own = Own::new(Fingerprints::random_key()?);
    let value = opening::seal_own(keys, &own)?;
    let name = own_name(place);
    let body = object::body(place, &name, &RecordKey::Own, None, &value);
    match write(kubernetes, place, Verb::Create, &name, body).await? {
        Some(_) => Ok(own),
        None => {
            let own = stored_own(kubernetes, place, keys).await?;
            own.ok_or_else(|| {
                ApiCall::secret(Verb::Create, &place.namespace, &name).malformed("conflict")
            })
        }
    }
}

async fn stored_own(
    kubernetes: &Kubernetes,
    place: &ClusterPlace,
    keys: &Keyring,
) -> Result<Option<Own>, Failure> {
    let object = get(kubernetes, place, &own_name(place)).await?;
    let own = object.map(|object| read_own_object(place, keys, &object));
    Ok(own.transpose()?)
}

fn read_own_object(
    place: &ClusterPlace,
    keys: &Keyring,
    object: &RecordObject,
) -> Result<Own, StateError> {
    let Some(value) = object.value() else {
        return Err(if object.is_of_older_form() {
            StateError::OlderForm {
                store: place.to_string(),
            }
        } else {
            damaged(place, format!("there is no record in {}", object.name))
        });
    };
    read_own(keys, value).map_err(|error| match error {
        StateError::KeyMissing {
            key_id, records, ..
        } => StateError::KeyMissing {
            store: place.to_string(),
            key_id,
            records,
        },
        _ => damaged(
            place,
            format!("the fingerprint key in {} cannot be decrypted", object.name),
        ),
    })
}

/// Without the key of the fingerprints, chains would look as if they never had the configured values.
fn require_none(place: &ClusterPlace, objects: &[RecordObject]) -> Result<(), StateError> {
    let chains = objects.iter().filter(|object| object.is_chain()).count();
    if chains == 0 {
        return Ok(());
    }
    let name = own_name(place);
    Err(damaged(
        place,
        format!(
            "Secret {name} with their fingerprint key is gone, and without it nobody can tell which values of the {chains} chain(s) were spent; put it back, or delete these Secrets and log in again"
        ),
    ))
}

/// The name of the Secret with the store's own record.
fn own_name(place: &ClusterPlace) -> String {
    format!("{}-store", place.prefix)
}

/// All Secrets of a store.
async fn list(kubernetes: &Kubernetes, place: &ClusterPlace) -> Result<Vec<RecordObject>, Failure> {
    let selector = format!("{STORE_LABEL}={}", place.prefix);
    let mut objects = Vec::new();
    let mut next = String::new();
    loop {
        let mut call = ApiCall::secret(Verb::List, &place.namespace, "");
        call.query.push(("labelSelector", selector.clone()));
        call.query.push(("limit", PAGE.to_string()));
        if !next.is_empty() {
            call.query.push(("continue", next));
        }
        let page: RawList = send(kubernetes, &call).await?.parse(&call)?;
        for raw in page.items {
            objects.push(RecordObject::of(raw).ok_or_else(|| call.malformed("no base64"))?);
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
) -> Result<Option<RecordObject>, Failure> {
    let call = ApiCall::secret(Verb::Get, &place.namespace, name);
    match send(kubernetes, &call).await {
        Ok(answer) => {
            let object = RecordObject::of(answer.parse::<Raw>(&call)?);
            object.map(Some).ok_or_else(|| call.malformed("no base64"))
        }
        Err(ApiError::NotFound(_)) => Ok(None),
        Err(refusal) => Err(refusal.into()),
    }
}

/// Creates a Secret, or changes the one that the body names. None: it exists already, or is missing, or has changed.
async fn write(
    kubernetes: &Kubernetes,
    place: &ClusterPlace,
    verb: Verb,
    name: &str,
    body: Zeroizing<Vec<u8>>,
) -> Result<Option<WrittenRecord>, Failure> {
    let mut call = ApiCall::secret(verb, &place.namespace, name);
    call.metadata_only = true;
    call.query.push(("fieldManager", MANAGER.to_owned()));
    call.body = body;
    match send(kubernetes, &call).await {
        Ok(answer) => Ok(Some(object::written(answer.parse(&call)?))),
        Err(ApiError::Conflict(_) | ApiError::NotFound(_)) => Ok(None),
        Err(refusal) => Err(refusal.into()),
    }
}

async fn send(kubernetes: &Kubernetes, call: &ApiCall<'_>) -> Result<ApiAnswer, ApiError> {
    let answered = kubernetes.send(call).await;
    answered.map_err(|refusal| refusal.map(|failure| worded(failure, call)))
}

/// The correction of a refusal for the store; the client's own message is about outputs.
fn worded(failure: Failure, call: &ApiCall<'_>) -> Failure {
    let namespace = call.namespace;
    let mend = match failure.host_code() {
        Some(HostCode::KubernetesForbidden) => format!(
            "RBAC does not allow it; grant the verbs get, list, create and update (and delete, for `evertoken state forget`) on resource `secrets` in namespace `{namespace}`: deploy/kubernetes/optional/rbac-state.yaml has the Role"
        ),
        Some(HostCode::KubernetesTerminating) => format!(
            "namespace {namespace} is being deleted; name another one in `state.secret.namespace`"
        ),
        Some(HostCode::KubernetesTooLarge) => "a Secret holds at most 1 MiB".to_owned(),
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

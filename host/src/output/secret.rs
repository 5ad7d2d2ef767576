//! The Secret sink: one PATCH per publication. Each output is a field manager of its own, so that keys of several jobs and of
//! other writers can share one Secret; with server-side apply, a key that an output no longer writes is removed. The job of
//! kube-token-refresher, whose Role grants no `patch`, uses GET and PUT.

mod member;
mod names;
mod object;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{CurrentPlaces, Publication, Withdrawn, Written, taken};
use crate::kubernetes::{ApiCall, ApiError, Kubernetes, Verb};
use crate::model::failure::Failure;
use crate::model::{SecretDestination, SecretWrite};

/// Rounds of GET and PUT while others write the same Secret; each round succeeds for one writer, and the scheduler tries again
/// later anyway.
const CONFLICTS_MAX: usize = 4;

/// The Secret sink.
#[derive(Debug)]
pub(super) struct SecretOutputs {
    kubernetes: Arc<Kubernetes>,
    named: CurrentPlaces,
    written: Mutex<HashMap<SecretShare, LastWrite>>,
}

/// The part of a Secret that an output owns.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SecretShare {
    namespace: String,
    name: String,
    manager: String,
}

impl SecretShare {
    fn of(destination: &SecretDestination, publication: &Publication<'_>) -> Self {
        Self {
            namespace: destination.namespace.clone(),
            name: destination.name.clone(),
            manager: names::field_manager(publication.job, publication.output_index),
        }
    }

    /// The query parameters of every write.
    fn query(&self, effect: Effect) -> Vec<(&'static str, String)> {
        let mut query = vec![("fieldManager", self.manager.clone())];
        if effect == Effect::DryRun {
            query.push(("dryRun", "All".to_owned()));
        }
        query
    }
}

/// The effect of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Lasting,
    /// The API server does everything but store it.
    DryRun,
}

/// The last write of this process to a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LastWrite {
    /// SHA-256 of the last request's body.
    digest: [u8; 32],
    /// The Secret's resourceVersion after it.
    resource_version: String,
}

impl SecretOutputs {
    pub(super) fn new(kubernetes: Arc<Kubernetes>, named: CurrentPlaces) -> Self {
        Self {
            kubernetes,
            named,
            written: Mutex::default(),
        }
    }

    /// Writes a publication. With `verify` also if this process wrote the same before.
    pub(super) async fn write(
        &self,
        destination: &SecretDestination,
        publication: &Publication<'_>,
        verify: bool,
    ) -> Result<Written, Failure> {
        if let Some(member) = &destination.member {
            let written = member::write(&self.kubernetes, destination, member, publication);
            return Ok(written.await?);
        }
        self.keeps_to_its_keys(destination, publication)?;
        let place = SecretShare::of(destination, publication);
        let body = object::desired(destination, publication);
        let digest: [u8; 32] = Sha256::digest(&body).into();
        let known = self.known(&place);
        if !verify && known.as_ref().is_some_and(|known| known.digest == digest) {
            return Ok(Written::Unchanged);
        }
        match self
            .send_write(destination, &place, body, Effect::Lasting)
            .await
        {
            Ok((resource_version, changed)) => {
                let same = known.is_some_and(|known| known.resource_version == resource_version);
                self.remember(place, digest, resource_version);
                Ok(if same || !changed {
                    Written::Unchanged
                } else {
                    Written::Changed
                })
            }
            Err(error) => {
                // The request may have succeeded, so the Secret's content is unknown.
                self.forget(&place);
                Err(error.into())
            }
        }
    }

    /// Takes a publication's keys away, and deletes a Secret of our own that is empty then. A Secret that this process may not delete
    /// stays, empty.
    pub(super) async fn withdraw(
        &self,
        destination: &SecretDestination,
        publication: &Publication<'_>,
    ) -> Result<Withdrawn, Failure> {
        if publication.artifacts.is_empty() {
            return Ok(Withdrawn::Foreign);
        }
        self.keeps_to_its_keys(destination, publication)?;
        let place = SecretShare::of(destination, publication);
        self.forget(&place);
        let (namespace, name) = (&place.namespace, &place.name);
        let mut call = ApiCall::secret(Verb::Patch, namespace, name);
        call.query = place.query(Effect::Lasting);
        call.content_type = "application/merge-patch+json";
        call.body = object::without(destination, publication);
        let left: object::Remainder = match self.kubernetes.send(&call).await {
            Ok(answer) => answer.parse(&call)?,
            Err(ApiError::NotFound(_)) => return Ok(Withdrawn::Gone),
            Err(refusal) => return Err(refusal.into()),
        };
        if let Some(deletion) = left.deletion().filter(|_| destination.create) {
            let mut call = ApiCall::secret(Verb::Delete, namespace, name);
            call.body = deletion;
            if let Err(refusal) = self.kubernetes.send(&call).await {
                let error = Failure::from(refusal);
                tracing::info!(namespace, name, %error, "the Secret has no key left and stays");
            }
        }
        Ok(Withdrawn::Deleted)
    }

    /// Checks that a publication could be written, by the same request as a dry run. Where an admission webhook does not support
    /// dry runs, the API server is asked whether it would allow the request.
    pub(super) async fn prove(
        &self,
        destination: &SecretDestination,
        publication: &Publication<'_>,
    ) -> Result<(), Failure> {
        self.keeps_to_its_keys(destination, publication)?;
        let place = SecretShare::of(destination, publication);
        let body = object::desired(destination, publication);
        match self
            .send_write(destination, &place, body, Effect::DryRun)
            .await
        {
            Err(ApiError::NoDryRun(_)) => {
                let verb = match destination.write {
                    SecretWrite::Patch => Verb::Patch,
                    SecretWrite::GetAndPut => Verb::Update,
                };
                let write = ApiCall::secret(verb, &place.namespace, &place.name);
                self.kubernetes.require_access(&write).await
            }
            Err(refusal) => Err(refusal.into()),
            Ok(_) => Ok(()),
        }
    }

    /// An apply takes ownership of its fields from all other managers.
    fn keeps_to_its_keys(
        &self,
        destination: &SecretDestination,
        publication: &Publication<'_>,
    ) -> Result<(), Failure> {
        let SecretDestination {
            namespace,
            name,
            key,
            ..
        } = destination;
        let mut others = publication
            .artifacts
            .iter()
            .map(|artifact| &artifact.name)
            .filter(|artifact| !artifact.is_empty() && *artifact != key);
        let named = self.named.load();
        let is_named = |artifact: &&String| {
            let place = (namespace.clone(), name.clone(), (*artifact).clone());
            named.keys.contains(&place)
        };
        match others.find(is_named) {
            Some(artifact) => {
                let place = format!("this key of the Secret `{namespace}/{name}`");
                Err(taken(artifact, &place))
            }
            None => Ok(()),
        }
    }

    /// The Secret's resourceVersion after the write, and whether anything may have changed.
    async fn send_write(
        &self,
        destination: &SecretDestination,
        place: &SecretShare,
        body: Zeroizing<Vec<u8>>,
        effect: Effect,
    ) -> Result<(String, bool), ApiError> {
        match destination.write {
            SecretWrite::Patch => self.patch(destination, place, body, effect).await,
            SecretWrite::GetAndPut => self.get_and_put(destination, place, &body, effect).await,
        }
    }

    /// With `create` a server-side apply, which creates a missing Secret; else a merge patch, which does not.
    async fn patch(
        &self,
        destination: &SecretDestination,
        place: &SecretShare,
        body: Zeroizing<Vec<u8>>,
        effect: Effect,
    ) -> Result<(String, bool), ApiError> {
        let mut call = ApiCall::secret(Verb::Patch, &place.namespace, &place.name);
        call.query = place.query(effect);
        if destination.create {
            call.query.push(("force", "true".to_owned()));
            call.content_type = "application/apply-patch+yaml";
        } else {
            call.content_type = "application/merge-patch+json";
        }
        call.body = body;
        // Only the former resourceVersion could show that the patch changed nothing.
        Ok((self.send(call, effect).await?, true))
    }

    /// GET, then PUT with the resourceVersion that was read, or POST if the Secret is missing. No PUT if nothing would change.
    async fn get_and_put(
        &self,
        destination: &SecretDestination,
        place: &SecretShare,
        desired: &[u8],
        effect: Effect,
    ) -> Result<(String, bool), ApiError> {
        let mut attempt = 1;
        loop {
            match self
                .get_and_put_once(destination, place, desired, effect)
                .await
            {
                Err(ApiError::Conflict(_)) if attempt < CONFLICTS_MAX => {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn get_and_put_once(
        &self,
        destination: &SecretDestination,
        place: &SecretShare,
        desired: &[u8],
        effect: Effect,
    ) -> Result<(String, bool), ApiError> {
        let get = ApiCall::secret(Verb::Get, &place.namespace, &place.name);
        let found: object::FoundSecret = match self.kubernetes.send(&get).await {
            Ok(answer) => answer.parse(&get)?,
            Err(ApiError::NotFound(_)) if destination.create => {
                let body = object::to_create(desired).ok_or_else(|| get.malformed("own object"))?;
                return Ok((self.put(Verb::Create, place, body, effect).await?, true));
            }
            Err(refusal) => return Err(refusal),
        };
        match object::merged(found, desired) {
            None => Err(get.malformed("it is no Secret").into()),
            Some(object::Merged::Same { resource_version }) => Ok((resource_version, false)),
            Some(object::Merged::Changed(body)) => {
                Ok((self.put(Verb::Update, place, body, effect).await?, true))
            }
        }
    }

    async fn put(
        &self,
        verb: Verb,
        place: &SecretShare,
        body: Zeroizing<Vec<u8>>,
        effect: Effect,
    ) -> Result<String, ApiError> {
        let mut call = ApiCall::secret(verb, &place.namespace, &place.name);
        call.query = place.query(effect);
        call.body = body;
        self.send(call, effect).await
    }

    /// Sends a write and returns the Secret's resourceVersion after it; an object created in a dry run has none.
    async fn send(&self, mut call: ApiCall<'_>, effect: Effect) -> Result<String, ApiError> {
        #[derive(Deserialize)]
        struct WrittenObject {
            metadata: WrittenMetadata,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct WrittenMetadata {
            resource_version: Option<String>,
        }
        call.metadata_only = true;
        let object: WrittenObject = self.kubernetes.send(&call).await?.parse(&call)?;
        match (object.metadata.resource_version, effect) {
            (Some(version), _) => Ok(version),
            (None, Effect::DryRun) => Ok(String::new()),
            (None, Effect::Lasting) => Err(call.malformed("it has no resourceVersion").into()),
        }
    }

    fn known(&self, place: &SecretShare) -> Option<LastWrite> {
        self.lock().get(place).cloned()
    }

    fn remember(&self, place: SecretShare, digest: [u8; 32], resource_version: String) {
        let state = LastWrite {
            digest,
            resource_version,
        };
        self.lock().insert(place, state);
    }

    fn forget(&self, place: &SecretShare) {
        self.lock().remove(place);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SecretShare, LastWrite>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arc_swap::ArcSwap;

    use super::*;
    use crate::model::token::Artifact;
    use crate::model::{JobId, NamedPlaces};

    #[test]
    fn a_format_takes_no_key_of_a_secret_that_has_another_use() {
        let place = |name: &str, key: &str| ("ns".to_owned(), name.to_owned(), key.to_owned());
        let named = NamedPlaces {
            keys: [place("s", "own"), place("s", "theirs"), place("t", "free")].into(),
            ..NamedPlaces::default()
        };
        let secrets = SecretOutputs::new(
            Arc::new(Kubernetes::new()),
            Arc::new(ArcSwap::from_pointee(named)),
        );
        let destination = SecretDestination {
            namespace: "ns".to_owned(),
            name: "s".to_owned(),
            key: "own".to_owned(),
            create: true,
            secret_type: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            write: SecretWrite::Patch,
            member: None,
        };
        for (key, is_taken) in [
            ("", false),
            ("own", false),
            ("free", false),
            ("theirs", true),
        ] {
            let artifact = Artifact {
                name: key.to_owned(),
                content: b"x".to_vec().into(),
            };
            let publication = Publication {
                job: &JobId::file("a"),
                output_index: 0,
                artifacts: &[artifact],
                expires_at: None,
                next_refresh: None,
            };
            let kept = secrets.keeps_to_its_keys(&destination, &publication);
            assert_eq!(kept.is_err(), is_taken, "{key}: {kept:?}");
        }
    }
}

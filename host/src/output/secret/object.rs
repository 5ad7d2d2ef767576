//! The desired Secret of an output: the body of its PATCH, or merged into the result of a GET. Pure and deterministic: the same
//! publication makes the same bytes, so applying it again changes nothing.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use secrecy::ExposeSecret;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use zeroize::{Zeroize, Zeroizing};

use super::names;
use crate::model::{SecretDestination, SecretWrite};
use crate::output::Publication;

/// The recommended label for the manager of an object.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "evertoken");

/// The type of a Secret that is created without one.
const OPAQUE: &str = "Opaque";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DesiredSecret {
    api_version: String,
    kind: String,
    metadata: DesiredMetadata,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none", default)]
    secret_type: Option<String>,
    data: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct DesiredMetadata {
    name: String,
    namespace: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    labels: BTreeMap<String, String>,
    /// Null values are removed by a merge patch.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    annotations: BTreeMap<String, Option<String>>,
}

impl Drop for DesiredSecret {
    fn drop(&mut self) {
        self.data.values_mut().for_each(Zeroize::zeroize);
    }
}

/// The fields that the output owns, and no others.
pub(super) fn desired(
    destination: &SecretDestination,
    publication: &Publication<'_>,
) -> Zeroizing<Vec<u8>> {
    let object = DesiredSecret {
        api_version: "v1".to_owned(),
        kind: "Secret".to_owned(),
        metadata: DesiredMetadata {
            name: destination.name.clone(),
            namespace: destination.namespace.clone(),
            labels: labels(destination),
            annotations: annotations(destination, publication),
        },
        secret_type: destination.secret_type.clone(),
        data: data(destination, publication),
    };
    to_bytes(&object)
}

fn labels(destination: &SecretDestination) -> BTreeMap<String, String> {
    let mut labels = destination.labels.clone();
    if destination.create && destination.write == SecretWrite::Patch {
        let (name, value) = MANAGED_BY;
        labels
            .entry(name.to_owned())
            .or_insert_with(|| value.to_owned());
    }
    labels
}

/// Outputs with the layout of kube-token-refresher have no annotations, as it wrote none.
fn annotations(
    destination: &SecretDestination,
    publication: &Publication<'_>,
) -> BTreeMap<String, Option<String>> {
    let mut annotations: BTreeMap<String, Option<String>> = destination
        .annotations
        .iter()
        .map(|(name, value)| (name.clone(), Some(value.clone())))
        .collect();
    if destination.write == SecretWrite::Patch {
        let expiry = publication.expires_at.map(|at| at.to_string());
        if expiry.is_some() || !destination.create {
            annotations.insert(names::expiry_annotation(publication.job), expiry);
        }
    }
    annotations
}

fn data(
    destination: &SecretDestination,
    publication: &Publication<'_>,
) -> BTreeMap<String, String> {
    publication
        .artifacts
        .iter()
        .map(|artifact| {
            let key = if artifact.name.is_empty() {
                &destination.key
            } else {
                &artifact.name
            };
            (key.clone(), BASE64.encode(artifact.content.expose_secret()))
        })
        .collect()
}

/// A merge patch that takes the output's keys away, and the expiry of its token.
pub(super) fn without(
    destination: &SecretDestination,
    publication: &Publication<'_>,
) -> Zeroizing<Vec<u8>> {
    let keys = data(destination, publication).into_keys();
    let keys: BTreeMap<String, Value> = keys.map(|key| (key, Value::Null)).collect();
    let expiry = names::expiry_annotation(publication.job);
    to_bytes(&json!({"data": keys, "metadata": {"annotations": {expiry: null}}}))
}

/// What is left of a Secret after its output's keys were taken away.
#[derive(Deserialize)]
pub(super) struct Remainder {
    metadata: RemainderMetadata,
    #[serde(default)]
    data: Option<BTreeMap<String, IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RemainderMetadata {
    uid: String,
    resource_version: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

impl Remainder {
    /// The body of the request that deletes the Secret, if evertoken made it and it is empty: only as it is now.
    pub(super) fn deletion(&self) -> Option<Zeroizing<Vec<u8>>> {
        let (label, value) = MANAGED_BY;
        let is_ours = self
            .metadata
            .labels
            .get(label)
            .is_some_and(|by| by == value);
        let is_empty = self.data.as_ref().is_none_or(BTreeMap::is_empty);
        let RemainderMetadata {
            uid,
            resource_version,
            ..
        } = &self.metadata;
        (is_ours && is_empty).then(|| {
            to_bytes(&json!({"preconditions": {"uid": uid, "resourceVersion": resource_version}}))
        })
    }
}

/// The desired object with a type, for a POST.
pub(super) fn to_create(desired: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut object: DesiredSecret = serde_json::from_slice(desired).ok()?;
    object.secret_type.get_or_insert_with(|| OPAQUE.to_owned());
    Some(to_bytes(&object))
}

/// The result of merging the desired fields into a found Secret.
pub(super) enum Merged {
    /// Nothing would change.
    Same {
        /// The resourceVersion of the found Secret.
        resource_version: String,
    },
    /// The body of a PUT: the found Secret, with its resourceVersion and all foreign fields, and the desired fields.
    Changed(Zeroizing<Vec<u8>>),
}

/// None if either is not a Secret.
pub(super) fn merged(found: FoundSecret, desired: &[u8]) -> Option<Merged> {
    let desired: DesiredSecret = serde_json::from_slice(desired).ok()?;
    let mut secret = FoundSecret(found.0.clone());
    let object = secret.0.as_object_mut()?;
    let resource_version = object
        .get("metadata")?
        .get("resourceVersion")?
        .as_str()?
        .to_owned();
    set_all(object, "data", &desired.data);
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    set_all(metadata, "labels", &desired.metadata.labels);
    let annotations = desired
        .metadata
        .annotations
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), value.clone()?)))
        .collect();
    set_all(metadata, "annotations", &annotations);
    if let Some(secret_type) = &desired.secret_type {
        object.insert("type".to_owned(), Value::from(secret_type.clone()));
    }
    Some(if secret.0 == found.0 {
        Merged::Same { resource_version }
    } else {
        Merged::Changed(to_bytes(&secret.0))
    })
}

fn set_all(object: &mut Map<String, Value>, member: &str, entries: &BTreeMap<String, String>) {
    if entries.is_empty() {
        return;
    }
    let map = object
        .entry(member)
        .or_insert_with(|| Value::Object(Map::new()));
    // The API server may write an absent map as null.
    if map.is_null() {
        *map = Value::Object(Map::new());
    }
    if let Some(map) = map.as_object_mut() {
        for (name, value) in entries {
            map.insert(name.clone(), Value::from(value.clone()));
        }
    }
}

/// A Secret from the API server, wiped when dropped.
#[derive(Deserialize)]
pub(super) struct FoundSecret(Value);

impl Drop for FoundSecret {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(members) => members.values_mut().for_each(wipe),
        _ => {}
    }
}

/// Strings and maps with string keys always serialize.
fn to_bytes(value: &impl Serialize) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(serde_json::to_vec(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::JobId;
    use crate::model::time::Timestamp;
    use crate::model::token::Artifact;

    fn destination() -> SecretDestination {
        SecretDestination {
            namespace: "apps".into(),
            name: "db".into(),
            key: "token".into(),
            create: true,
            secret_type: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            write: SecretWrite::Patch,
            member: None,
        }
    }

    fn artifact(name: &str, content: &str) -> Artifact {
        Artifact {
            name: name.into(),
            content: content.as_bytes().to_vec().into(),
        }
    }

    fn body(
        destination: &SecretDestination,
        artifacts: &[Artifact],
        expires: Option<u64>,
    ) -> Value {
        let publication = Publication {
            job: &JobId::file("job"),
            output_index: 0,
            artifacts,
            expires_at: expires.map(Timestamp),
            next_refresh: None,
        };
        serde_json::from_slice(&desired(destination, &publication)).unwrap()
    }

    #[test]
    fn an_apply_names_what_the_output_owns_and_nothing_else() {
        assert_eq!(
            body(
                &destination(),
                &[artifact("", "t")],
                Some(1_700_000_000_999)
            ),
            json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {
                    "name": "db", "namespace": "apps",
                    "labels": {"app.kubernetes.io/managed-by": "evertoken"},
                    "annotations": {"expires-at.evertoken.dev/job": "2023-11-14T22:13:20Z"},
                },
                "data": {"token": "dA=="},
            })
        );
        assert_eq!(
            body(
                &destination(),
                &[artifact("a", "1"), artifact("b", "2")],
                None
            ),
            json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {
                    "name": "db", "namespace": "apps",
                    "labels": {"app.kubernetes.io/managed-by": "evertoken"},
                },
                "data": {"a": "MQ==", "b": "Mg=="},
            })
        );
    }

    #[test]
    fn a_merge_patch_sets_no_label_of_ours_and_removes_an_expiry_that_is_not_known() {
        let destination = SecretDestination {
            create: false,
            secret_type: Some("kubernetes.io/tls".into()),
            labels: [("team".to_owned(), "a".to_owned())].into(),
            annotations: [("note".to_owned(), "n".to_owned())].into(),
            ..destination()
        };
        assert_eq!(
            body(&destination, &[artifact("", "t")], None),
            json!({
                "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
                "metadata": {
                    "name": "db", "namespace": "apps",
                    "labels": {"team": "a"},
                    "annotations": {"note": "n", "expires-at.evertoken.dev/job": null},
                },
                "data": {"token": "dA=="},
            })
        );
    }

    #[test]
    fn a_put_keeps_everything_foreign_and_is_not_sent_for_nothing() {
        let destination = SecretDestination {
            write: SecretWrite::GetAndPut,
            member: None,
            labels: [("ktr.appuio.ch/managed".to_owned(), "true".to_owned())].into(),
            ..destination()
        };
        let wanted = to_bytes(&body(&destination, &[artifact("", "t")], Some(1)));
        let found = json!({
            "kind": "Secret", "type": "custom", "immutable": null, "unknown": [1],
            "metadata": {"resourceVersion": "7", "labels": {"a": "b"}},
            "data": {"other": "eA=="},
        });
        let Some(Merged::Changed(put)) = merged(FoundSecret(found), &wanted) else {
            panic!("nothing to put");
        };
        let put: Value = serde_json::from_slice(&put).unwrap();
        assert_eq!(
            put,
            json!({
                "kind": "Secret", "type": "custom", "immutable": null, "unknown": [1],
                "metadata": {"resourceVersion": "7", "labels": {"a": "b", "ktr.appuio.ch/managed": "true"}},
                "data": {"other": "eA==", "token": "dA=="},
            })
        );
        assert!(matches!(
            merged(FoundSecret(put), &wanted),
            Some(Merged::Same { resource_version }) if resource_version == "7"
        ));
        let bare = json!({"metadata": {"resourceVersion": "1"}, "data": null});
        assert!(matches!(
            merged(FoundSecret(bare), &wanted),
            Some(Merged::Changed(_))
        ));
        assert!(merged(FoundSecret(json!([])), &wanted).is_none());
        let created: Value = serde_json::from_slice(&to_create(&wanted).unwrap()).unwrap();
        assert_eq!(created["type"], "Opaque");
        assert_eq!(created["metadata"].get("annotations"), None);
    }
}

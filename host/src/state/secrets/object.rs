//! Secrets of the store as objects: names, labels, annotations, keys of `data`. Pure.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::{BASE64, HEXLOWER};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use zeroize::Zeroizing;

use super::ClusterPlace;
use crate::capability::chain::ChainId;
use crate::capability::keep::Revision;
use crate::kubernetes::WipedText;
use crate::model::JobId;
use crate::state::key::RecordKey;
use crate::state::records::{RecordBytes, StoredRecord, WrittenRecord};

/// The label with a Secret's store, by its prefix.
pub(super) const STORE_LABEL: &str = "state.evertoken.dev/store";
/// The label with the kind of its record; the value is under a key of that name.
const KIND_LABEL: &str = "state.evertoken.dev/kind";
/// The annotation with the job of a record.
const JOB_ANNOTATION: &str = "state.evertoken.dev/job";

/// The key of the store's own record in an earlier version.
const OLDER_KEY: &str = "fingerprint-key";

/// The limit for all values of a Secret's `data` together, decoded (kube-apiserver's `MaxSecretSize`).
pub(in crate::state) const SECRET_MAX_BYTES: usize = 1024 * 1024;

/// The field manager of the store's objects.
pub(super) const MANAGER: &str = "evertoken-state";
/// The API server's names for writers that it does not track: those before the last ten that changed an object, and those before
/// it tracked writers at all.
const NOBODY_KNOWN: [&str; 2] = ["ancient-changes", "before-first-apply"];

/// Kinds of records, as in labels and keys of `data`.
const STORE: &str = "store";
const CHAIN: &str = "chain";
const TOKEN: &str = "token";
const VALUES: &str = "values";

/// The kind of a record.
const fn kind_of(key: &RecordKey) -> &'static str {
    match key {
        RecordKey::Own => STORE,
        RecordKey::Chain(_) => CHAIN,
        RecordKey::Token(_) => TOKEN,
        RecordKey::Values(_) => VALUES,
    }
}

/// A Secret that was read.
pub(super) struct RecordObject {
    pub(super) name: String,
    kind: String,
    /// The job in its annotation.
    job: Option<String>,
    revision: String,
    /// Unique for each object that is created, whatever its name: a restored copy has another.
    uid: String,
    /// Keys whose value another writer wrote last.
    foreign: BTreeSet<String>,
    data: BTreeMap<String, RecordBytes>,
}

/// The object in the form of the API server.
#[derive(Deserialize)]
pub(super) struct Raw {
    metadata: RawMetadata,
    #[serde(default)]
    data: BTreeMap<String, WipedText>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMetadata {
    name: String,
    resource_version: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    managed_fields: Vec<Managed>,
}

/// The fields that a writer wrote last (FieldsV1), as the API server tracks them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Managed {
    #[serde(default)]
    manager: String,
    #[serde(default)]
    fields_v1: Json,
}

impl Managed {
    /// The keys of `data` among them.
    fn keys(&self) -> impl Iterator<Item = &str> {
        let data = self.fields_v1.get("f:data").and_then(Json::as_object);
        let fields = data.into_iter().flat_map(serde_json::Map::keys);
        fields.filter_map(|field| field.strip_prefix("f:"))
    }
}

/// The keys that other writers wrote last.
fn foreign(managed: &[Managed]) -> BTreeSet<String> {
    let may_be_ours = |managed: &&Managed| {
        managed.manager == MANAGER || NOBODY_KNOWN.contains(&&*managed.manager)
    };
    let (ours, others): (Vec<_>, Vec<_>) = managed.iter().partition(may_be_ours);
    let ours: BTreeSet<&str> = ours.into_iter().flat_map(Managed::keys).collect();
    let others = others.into_iter().flat_map(Managed::keys);
    others
        .filter(|key| !ours.contains(key))
        .map(str::to_owned)
        .collect()
}

/// A page of a list.
#[derive(Deserialize)]
pub(super) struct RawList {
    pub(super) metadata: RawListMetadata,
    #[serde(default)]
    pub(super) items: Vec<Raw>,
}

#[derive(Deserialize)]
pub(super) struct RawListMetadata {
    /// The token of the next page; empty at the end.
    #[serde(rename = "continue", default)]
    pub(super) next: String,
}

impl RecordObject {
    /// None: a value is not base64, which no API server returns.
    pub(super) fn of(raw: Raw) -> Option<Self> {
        let mut metadata = raw.metadata;
        let data = raw
            .data
            .into_iter()
            .map(|(key, text)| {
                let value = text.decode()?;
                Some((key, Zeroizing::new(value.expose_secret().to_vec())))
            })
            .collect::<Option<_>>()?;
        Some(Self {
            kind: metadata.labels.remove(KIND_LABEL).unwrap_or_default(),
            job: metadata.annotations.remove(JOB_ANNOTATION),
            name: metadata.name,
            revision: metadata.resource_version,
            uid: metadata.uid,
            foreign: foreign(&metadata.managed_fields),
            data,
        })
    }

    /// Whether it holds the store's own record.
    pub(super) fn is_own(&self) -> bool {
        self.kind == STORE
    }

    /// Whether it holds a chain.
    pub(super) fn is_chain(&self) -> bool {
        self.kind == CHAIN
    }

    /// The record's bytes; none: their key is missing.
    pub(super) fn value(&self) -> Option<&RecordBytes> {
        self.data.get(&self.kind)
    }

    /// Whether it is the store's own record in the form of an earlier version.
    pub(super) fn is_of_older_form(&self) -> bool {
        self.data.contains_key(OLDER_KEY)
    }

    /// Its record, and its name, which must match the key in a Secret of the store; none: it has no record that this version
    /// knows.
    pub(super) fn into_record(mut self) -> Option<(RecordKey, String, StoredRecord)> {
        let job = || serde_json::from_str::<JobId>(self.job.as_deref()?).ok();
        let key = match &*self.kind {
            STORE => RecordKey::Own,
            CHAIN => RecordKey::Chain(ChainId(id_in(&self.name)?)),
            TOKEN => RecordKey::Token(job()?),
            VALUES => RecordKey::Values(job()?),
            _ => return None,
        };
        let stored = StoredRecord {
            revision: Revision(self.revision),
            uid: self.uid,
            is_copy: self.foreign.contains(&self.kind),
            // A value that was removed counts as an empty one, which cannot be read.
            value: self.data.remove(&self.kind).unwrap_or_default(),
        };
        Some((key, self.name, stored))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Out<'a> {
    api_version: &'a str,
    kind: &'a str,
    r#type: &'a str,
    metadata: OutMetadata<'a>,
    data: BTreeMap<&'a str, Binary<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OutMetadata<'a> {
    namespace: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_version: Option<&'a str>,
    labels: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'a str, String>,
}

struct Binary<'a>(&'a [u8]);

impl Serialize for Binary<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&BASE64.encode_display(self.0))
    }
}

/// The body of a write: with `revision` it is only valid for an object that is unchanged since.
pub(super) fn body(
    place: &ClusterPlace,
    name: &str,
    key: &RecordKey,
    revision: Option<&str>,
    value: &RecordBytes,
) -> Zeroizing<Vec<u8>> {
    let kind = kind_of(key);
    // Serializing text cannot fail.
    let job = key.job().and_then(|job| serde_json::to_string(job).ok());
    let out = Out {
        api_version: "v1",
        kind: "Secret",
        r#type: "Opaque",
        metadata: OutMetadata {
            namespace: &place.namespace,
            name,
            resource_version: revision,
            labels: BTreeMap::from([
                ("app.kubernetes.io/managed-by", "evertoken"),
                (STORE_LABEL, place.prefix.as_str()),
                (KIND_LABEL, kind),
            ]),
            annotations: job.map(|job| (JOB_ANNOTATION, job)).into_iter().collect(),
        },
        data: BTreeMap::from([(kind, Binary(value))]),
    };
    // With room for all of it, so that the buffer does not grow and leave copies behind: base64, and names.
    let mut body = Zeroizing::new(Vec::with_capacity(value.len() / 3 * 4 + 4096));
    // Serializing bytes cannot fail either.
    let _ = serde_json::to_writer(&mut *body, &out);
    body
}

/// The needed part of the answer to a write.
#[derive(Deserialize)]
pub(super) struct WriteAnswer {
    metadata: AnsweredMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnsweredMetadata {
    resource_version: String,
    #[serde(default)]
    uid: String,
}

/// A record after a write.
pub(super) fn written(WriteAnswer { metadata }: WriteAnswer) -> WrittenRecord {
    WrittenRecord {
        revision: Revision(metadata.resource_version),
        uid: metadata.uid,
    }
}

/// `prefix-chain-0f…`.
pub(super) fn name(place: &ClusterPlace, key: &RecordKey, id: &[u8; 16]) -> String {
    format!("{}-{}-{}", place.prefix, kind_of(key), HEXLOWER.encode(id))
}

/// The id at the end of a name; none: it is not a name of ours.
fn id_in(name: &str) -> Option<[u8; 16]> {
    let (_, id) = name.rsplit_once('-')?;
    HEXLOWER.decode(id.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_wrote_last_is_foreign() {
        let wrote = |manager: &str, keys: &[&str]| {
            let fields: BTreeMap<String, Json> = keys
                .iter()
                .map(|key| (format!("f:{key}"), Json::Object(serde_json::Map::new())))
                .collect();
            Managed {
                manager: manager.to_owned(),
                fields_v1: serde_json::json!({"f:data": fields, "f:metadata": {"f:labels": {}}}),
            }
        };
        for (managed, expected) in [
            (vec![], &[][..]),
            (vec![wrote(MANAGER, &[".", "chain", "home"])], &[]),
            (
                vec![
                    wrote(MANAGER, &["home"]),
                    wrote("kubectl-replace", &["chain"]),
                ],
                &["chain"],
            ),
            (
                vec![wrote("velero-server", &["chain", "home"])],
                &["chain", "home"],
            ),
            (
                vec![wrote(MANAGER, &["chain"]), wrote("kubectl", &["chain"])],
                &[],
            ),
            (vec![wrote(MANAGER, &["chain"]), wrote("argocd", &[])], &[]),
            (
                vec![wrote(NOBODY_KNOWN[0], &["chain"]), wrote("argocd", &[])],
                &[],
            ),
            (vec![wrote(NOBODY_KNOWN[1], &["chain"])], &[]),
        ] {
            let found = foreign(&managed);
            assert!(found.iter().eq(expected.iter()), "{found:?} {expected:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let place = ClusterPlace {
            namespace: "ns".to_owned(),
            prefix: "p".to_owned(),
        };
        let job = JobId {
            namespace: Some("shop".to_owned()),
            ..JobId::file("a \"job\"")
        };
        for (key, expected) in [
            (RecordKey::Own, "p-store".to_owned()),
            (
                RecordKey::Chain(ChainId([0xab; 16])),
                format!("p-chain-{}", "ab".repeat(16)),
            ),
            (
                RecordKey::Token(job.clone()),
                format!("p-token-{}", "ab".repeat(16)),
            ),
            (
                RecordKey::Values(job),
                format!("p-values-{}", "ab".repeat(16)),
            ),
        ] {
            let name = match key {
                RecordKey::Own => "p-store".to_owned(),
                _ => name(&place, &key, &[0xab; 16]),
            };
            assert_eq!(name, expected);
            let value = Zeroizing::new(vec![0, 255, 7]);
            let body = body(&place, &name, &key, Some("42"), &value);
            let object = RecordObject::of(serde_json::from_slice(&body).unwrap()).unwrap();
            assert_eq!(object.is_own(), key == RecordKey::Own);
            assert_eq!(object.is_chain(), matches!(key, RecordKey::Chain(_)));
            assert_eq!(object.kind, kind_of(&key));
            let (found, name, stored) = object.into_record().unwrap();
            assert_eq!((found, name), (key, expected));
            assert_eq!((&*stored.revision.0, &stored.value), ("42", &value));
            assert!(!stored.is_copy);
        }
    }
}

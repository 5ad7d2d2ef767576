//! Secrets of the store as objects: names, labels, what is under which key of `data`. Pure, but for encryption.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::{BASE64, HEXLOWER};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::kubernetes::SecretText;

/// Which store a Secret belongs to, by its prefix.
pub(super) const STORE_LABEL: &str = "state.evertoken.dev/store";
/// What a Secret of a store holds: [`CHAIN`], [`JOB`] or [`STORE`].
pub(super) const KIND_LABEL: &str = "state.evertoken.dev/kind";
pub(super) const CHAIN: &str = "chain";
pub(super) const JOB: &str = "job";
pub(super) const STORE: &str = "store";

/// What all keys of a Secret's `data` may hold together, decoded (kube-apiserver's `MaxSecretSize`).
pub(super) const SECRET_MAX_BYTES: usize = 1024 * 1024;

/// How the API server calls the writer of the store's objects.
pub(super) const MANAGER: &str = "evertoken-state";
/// What it calls those of whom it keeps no count: who wrote before the last ten that changed an object, and before it kept count at all.
const NOBODY_KNOWN: [&str; 2] = ["ancient-changes", "before-first-apply"];

/// Values by the key that they are under; encrypted already.
pub(super) type Data = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// A Secret as it is read.
pub(super) struct Object {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) revision: String,
    /// Another one for each object that is created, whatever its name: a copy that is put back has another.
    pub(super) uid: String,
    /// Keys whose value somebody else wrote last.
    pub(super) foreign: BTreeSet<String>,
    pub(super) data: Data,
}

/// As the API server writes it.
#[derive(Deserialize)]
pub(super) struct Raw {
    metadata: RawMetadata,
    #[serde(default)]
    data: BTreeMap<String, SecretText>,
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
    managed_fields: Vec<Managed>,
}

/// Which fields a writer wrote last (FieldsV1): the API server keeps count of that by itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Managed {
    #[serde(default)]
    manager: String,
    #[serde(default)]
    fields_v1: Value,
}

impl Managed {
    /// The keys of `data` among them.
    fn keys(&self) -> impl Iterator<Item = &str> {
        let data = self.fields_v1.get("f:data").and_then(Value::as_object);
        let fields = data.into_iter().flat_map(serde_json::Map::keys);
        fields.filter_map(|field| field.strip_prefix("f:"))
    }
}

/// The keys that others wrote last.
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
    /// Where the next page begins; empty at the end.
    #[serde(rename = "continue", default)]
    pub(super) next: String,
}

impl Object {
    /// None: a value is not base64, which no API server answers.
    pub(super) fn of(raw: Raw) -> Option<Self> {
        let mut metadata = raw.metadata;
        let data = raw
            .data
            .into_iter()
            .map(|(key, text)| {
                let value = text.decode()?;
                Some((key, Zeroizing::new(value.expose_secret().to_vec())))
            })
            .collect::<Option<Data>>()?;
        Some(Self {
            kind: metadata.labels.remove(KIND_LABEL).unwrap_or_default(),
            name: metadata.name,
            revision: metadata.resource_version,
            uid: metadata.uid,
            foreign: foreign(&metadata.managed_fields),
            data,
        })
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
}

struct Binary<'a>(&'a [u8]);

impl Serialize for Binary<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&BASE64.encode_display(self.0))
    }
}

/// What a write is about.
pub(super) struct Place<'a> {
    pub(super) namespace: &'a str,
    pub(super) prefix: &'a str,
    pub(super) name: &'a str,
    pub(super) kind: &'a str,
}

/// The body of a write: with `revision` it holds only for an object that is still as it was then.
pub(super) fn body(place: &Place<'_>, revision: Option<&str>, data: &Data) -> Zeroizing<Vec<u8>> {
    let out = Out {
        api_version: "v1",
        kind: "Secret",
        r#type: "Opaque",
        metadata: OutMetadata {
            namespace: place.namespace,
            name: place.name,
            resource_version: revision,
            labels: BTreeMap::from([
                ("app.kubernetes.io/managed-by", "evertoken"),
                (STORE_LABEL, place.prefix),
                (KIND_LABEL, place.kind),
            ]),
        },
        data: data
            .iter()
            .map(|(key, value)| (key.as_str(), Binary(value)))
            .collect(),
    };
    // Room for all of it, so that the buffer does not grow and leave copies behind: base64, and names.
    let values: usize = data.values().map(|value| value.len() / 3 * 4 + 8).sum();
    let mut body = Zeroizing::new(Vec::with_capacity(values + 2048));
    // Text, numbers and bytes cannot fail to become JSON.
    let _ = serde_json::to_writer(&mut *body, &out);
    body
}

/// The size that counts for the API server's limit.
pub(super) fn size(data: &Data) -> usize {
    data.values().map(|value| value.len()).sum()
}

/// `prefix-chain-0f…`: the id is random to everybody without the store's key.
pub(super) fn name(prefix: &str, kind: &str, id: &[u8; 16]) -> String {
    format!("{prefix}-{kind}-{}", HEXLOWER.encode(id))
}

/// The id in a name; none: it is not named by us.
pub(super) fn id_of(prefix: &str, kind: &str, name: &str) -> Option<[u8; 16]> {
    let id = name
        .strip_prefix(prefix)?
        .strip_prefix('-')?
        .strip_prefix(kind)?
        .strip_prefix('-')?;
    HEXLOWER.decode(id.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_id_to_its_own_store() {
        let name = name("evertoken", CHAIN, &[0xab; 16]);
        assert_eq!(name, format!("evertoken-chain-{}", "ab".repeat(16)));
        assert_eq!(id_of("evertoken", CHAIN, &name), Some([0xab; 16]));
        assert_eq!(id_of("evertoken", JOB, &name), None);
        assert_eq!(id_of("ever", CHAIN, &name), None);
        assert_eq!(id_of("evertoken", CHAIN, "evertoken-chain-ab"), None);
    }

    #[test]
    fn what_somebody_else_wrote_last_is_foreign() {
        let wrote = |manager: &str, keys: &[&str]| {
            let fields: BTreeMap<String, Value> = keys
                .iter()
                .map(|key| (format!("f:{key}"), Value::Object(serde_json::Map::new())))
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
        let data = Data::from([("chain".to_owned(), Zeroizing::new(vec![0, 255, 7]))]);
        let place = Place {
            namespace: "ns",
            prefix: "p",
            name: "p-chain-1",
            kind: CHAIN,
        };
        let body = body(&place, Some("42"), &data);
        let object = Object::of(serde_json::from_slice(&body).unwrap()).unwrap();
        assert_eq!(
            (object.name.as_str(), object.kind.as_str()),
            ("p-chain-1", CHAIN)
        );
        assert_eq!((object.revision.as_str(), &object.data), ("42", &data));
    }
}

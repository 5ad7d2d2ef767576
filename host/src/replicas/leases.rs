//! The requests: Leases (coordination.k8s.io/v1) of one namespace, found by a label, each written by compare-and-swap on its
//! resourceVersion. A write replaces the whole object; what others annotated on it is lost with the next renewal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::election::Record;
use super::member::{Answer, LeaseId, Request};
use crate::kubernetes::{ApiAnswer, ApiCall, ApiError, Kubernetes, Verb};
use crate::model::failure::{Failure, HostCode};
use crate::model::time::Timestamp;

/// The label of all Leases of one evertoken; its value is their prefix.
const LABEL: &str = "replicas.evertoken.dev/of";
/// The annotation with the number of shards by which a Lease's writer divides the jobs.
const SHARDS: &str = "replicas.evertoken.dev/shards";

/// The field manager.
const MANAGER: &str = "evertoken-replicas";

/// The Leases of one evertoken.
pub(super) struct Leases {
    pub(super) kubernetes: Arc<Kubernetes>,
    pub(super) namespace: String,
    pub(super) prefix: String,
}

#[derive(Deserialize)]
struct RawList {
    items: Vec<Raw>,
}

#[derive(Deserialize)]
struct Raw {
    metadata: RawMetadata,
    #[serde(default)]
    spec: RawSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMetadata {
    name: String,
    resource_version: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    holder_identity: Option<String>,
    lease_duration_seconds: Option<i64>,
    acquire_time: Option<String>,
    lease_transitions: Option<i32>,
}

/// The answer to a write.
#[derive(Deserialize)]
struct Written {
    metadata: WrittenMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenMetadata {
    resource_version: String,
}

impl Leases {
    /// Makes a request. `now`: for the times that people read in a Lease.
    pub(super) async fn perform(
        &self,
        request: &Request,
        now: Timestamp,
    ) -> Result<Answer, Failure> {
        match request {
            Request::List => self.list().await,
            Request::Write {
                lease,
                over,
                record,
            } => self.write(lease, over.as_deref(), record, now).await,
            Request::Delete { lease, revision } => self.delete(lease, revision).await,
            Request::Adopt { lease } => self.adopt(lease).await,
        }
    }

    async fn list(&self) -> Result<Answer, Failure> {
        let mut call = ApiCall::lease(Verb::List, &self.namespace, "");
        call.query
            .push(("labelSelector", format!("{LABEL}={}", self.prefix)));
        let list: RawList = self.send(&call).await?.parse(&call)?;
        let leases = list.items.into_iter().filter_map(|raw| {
            let lease = self.parse(&raw.metadata.name)?;
            Some((lease, record(raw)))
        });
        Ok(Answer::Listed(leases.collect()))
    }

    async fn write(
        &self,
        lease: &LeaseId,
        over: Option<&str>,
        record: &Record,
        now: Timestamp,
    ) -> Result<Answer, Failure> {
        let verb = if over.is_some() {
            Verb::Update
        } else {
            Verb::Create
        };
        let name = self.name(lease);
        let mut call = ApiCall::lease(verb, &self.namespace, &name);
        call.metadata_only = true;
        call.query.push(("fieldManager", MANAGER.to_owned()));
        let now = micro_time(now);
        let acquired = record.holder.as_ref().map(|_| {
            let kept = record.acquired.clone();
            kept.unwrap_or_else(|| now.clone())
        });
        let record = Record {
            acquired,
            ..record.clone()
        };
        let body = self.body(&name, over, &record, &now);
        call.body = Zeroizing::new(body.to_string().into_bytes());
        let answered = self.send(&call).await;
        written(answered, |answer| {
            let Written { metadata } = answer.parse(&call)?;
            Ok(Answer::Written(Record {
                revision: Some(metadata.resource_version),
                ..record
            }))
        })
    }

    async fn delete(&self, lease: &LeaseId, revision: &str) -> Result<Answer, Failure> {
        let name = self.name(lease);
        let mut call = ApiCall::lease(Verb::Delete, &self.namespace, &name);
        let precondition = json!({"preconditions": {"resourceVersion": revision}});
        call.body = Zeroizing::new(precondition.to_string().into_bytes());
        match self.send(&call).await {
            Err(ApiError::NotFound(_)) => Ok(Answer::Deleted),
            answered => written(answered, |_| Ok(Answer::Deleted)),
        }
    }

    /// Somebody created it without our label, or took that away: two requests.
    async fn adopt(&self, lease: &LeaseId) -> Result<Answer, Failure> {
        let name = self.name(lease);
        let mut call = ApiCall::lease(Verb::Get, &self.namespace, &name);
        let answered = self.send(&call).await;
        let found = answered.and_then(|answer| Ok(answer.parse::<Value>(&call)?));
        let mut object = match found {
            Ok(object) => object,
            Err(refusal) => return written(Err(refusal), |_| Ok(Answer::Changed)),
        };
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
        let metadata = metadata.ok_or_else(|| call.malformed("it has no metadata"))?;
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert(LABEL.to_owned(), json!(self.prefix));
        }
        call.verb = Verb::Update;
        call.metadata_only = true;
        call.query.push(("fieldManager", MANAGER.to_owned()));
        call.body = Zeroizing::new(object.to_string().into_bytes());
        written(self.send(&call).await, |_| Ok(Answer::Changed))
    }

    async fn send(&self, call: &ApiCall<'_>) -> Result<ApiAnswer, ApiError> {
        let answered = self.kubernetes.send(call).await;
        answered.map_err(|refusal| refusal.map(|failure| worded(failure, call)))
    }

    fn name(&self, lease: &LeaseId) -> String {
        match lease {
            LeaseId::Shard(index) => format!("{}-shard-{index}", self.prefix),
            LeaseId::Replica(identity) => format!("{}-replica-{identity}", self.prefix),
        }
    }

    /// The inverse of [`Self::name`]; none: it is not one of ours.
    fn parse(&self, name: &str) -> Option<LeaseId> {
        let rest = name.strip_prefix(&self.prefix)?;
        if let Some(index) = rest.strip_prefix("-shard-") {
            let lease = LeaseId::Shard(index.parse().ok()?);
            return (self.name(&lease) == name).then_some(lease);
        }
        let identity = rest.strip_prefix("-replica-")?;
        Some(LeaseId::Replica(identity.to_owned()))
    }

    fn body(&self, name: &str, over: Option<&str>, record: &Record, now: &str) -> Value {
        let mut object = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": name,
                "namespace": self.namespace,
                "labels": {LABEL: self.prefix},
                "annotations": {SHARDS: record.shards.unwrap_or_default().to_string()},
            },
            "spec": {
                "holderIdentity": record.holder,
                "leaseDurationSeconds": record.duration.as_ref().map(Duration::as_secs),
                "acquireTime": record.acquired,
                "renewTime": record.holder.as_ref().map(|_| now),
                "leaseTransitions": record.term,
            },
        });
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
        if let (Some(metadata), Some(over)) = (metadata, over) {
            metadata.insert("resourceVersion".to_owned(), json!(over));
        }
        object
    }
}

fn record(raw: Raw) -> Record {
    let Raw { metadata, spec } = raw;
    // What is no length of time was not written by us.
    let seconds = spec.lease_duration_seconds;
    let seconds = seconds.map(|seconds| u64::try_from(seconds).unwrap_or_default());
    Record {
        revision: Some(metadata.resource_version),
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        duration: seconds.map(Duration::from_secs),
        term: spec.lease_transitions.unwrap_or_default(),
        acquired: spec.acquire_time,
        shards: metadata
            .annotations
            .get(SHARDS)
            .and_then(|text| text.parse().ok()),
    }
}

/// The answer to a compare-and-swap.
fn written(
    answered: Result<ApiAnswer, ApiError>,
    read: impl FnOnce(ApiAnswer) -> Result<Answer, Failure>,
) -> Result<Answer, Failure> {
    match answered {
        Ok(answer) => read(answer),
        Err(ApiError::Conflict(_) | ApiError::NotFound(_)) => Ok(Answer::Changed),
        Err(refusal) => Err(refusal.into()),
    }
}

/// `metav1.MicroTime`, which wants all six digits.
fn micro_time(at: Timestamp) -> String {
    let at = i64::try_from(at.0).ok();
    let at = at.and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    format!("{:.6}", at.unwrap_or_default())
}

/// The correction of a refusal for Leases; the client's own message is about outputs.
fn worded(failure: Failure, call: &ApiCall<'_>) -> Failure {
    let namespace = call.namespace;
    let mend = match failure.host_code() {
        Some(HostCode::KubernetesForbidden) => format!(
            "RBAC does not allow it; grant the verbs get, list, create, update and delete on resource `leases` of API group `coordination.k8s.io` in namespace `{namespace}`"
        ),
        Some(HostCode::KubernetesTerminating) => {
            format!("namespace {namespace} is being deleted; the replicas need another one")
        }
        _ => {
            return Failure {
                message: format!("replicas: {}", failure.message),
                ..failure
            };
        }
    };
    Failure {
        message: format!("replicas: cannot {call}: {mend}"),
        ..failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases() -> Leases {
        Leases {
            kubernetes: Arc::new(Kubernetes::new()),
            namespace: "ns".to_owned(),
            prefix: "ever".to_owned(),
        }
    }

    #[test]
    fn a_name_tells_which_lease_it_is() {
        let shard = |index| Some(LeaseId::Shard(index));
        for (name, expected) in [
            ("ever-shard-0", shard(0)),
            ("ever-shard-17", shard(17)),
            ("ever-shard-017", None),
            ("ever-shard-+1", None),
            ("ever-shard-", None),
            (
                "ever-replica-pod-0-ab",
                Some(LeaseId::Replica("pod-0-ab".to_owned())),
            ),
            ("ever-leader", None),
            ("never-shard-0", None),
        ] {
            assert_eq!(leases().parse(name), expected, "{name}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let held = Record {
            revision: Some("7".to_owned()),
            holder: Some("pod-0-ab".to_owned()),
            duration: Some(Duration::from_secs(15)),
            term: 3,
            acquired: Some("2026-01-01T00:00:00.000000Z".to_owned()),
            shards: Some(8),
        };
        let given_up = Record {
            revision: Some("8".to_owned()),
            term: 3,
            shards: Some(8),
            ..Record::ABSENT
        };
        assert!(given_up.is_given_up());
        for expected in [held, given_up] {
            let over = expected.revision.as_deref();
            let body = leases().body("ever-shard-1", over, &expected, "now");
            let raw: Raw = serde_json::from_value(body).unwrap();
            assert_eq!(record(raw), expected);
        }
    }

    #[test]
    fn what_a_hand_wrote_is_read_with_care() {
        for (spec, holder, duration) in [
            (json!({}), None, None),
            (json!({"holderIdentity": ""}), None, None),
            (
                json!({"holderIdentity": "x", "leaseDurationSeconds": -5}),
                Some("x"),
                Some(0),
            ),
            (json!({"leaseDurationSeconds": 15}), None, Some(15)),
        ] {
            let object = json!({"metadata": {"name": "n", "resourceVersion": "1", "annotations": {SHARDS: "many"}}, "spec": spec});
            let found = record(serde_json::from_value(object).unwrap());
            assert_eq!(found.holder.as_deref(), holder, "{spec}");
            assert_eq!(found.duration, duration.map(Duration::from_secs), "{spec}");
            assert_eq!(found.shards, None);
        }
    }

    #[test]
    fn times_have_six_digits() {
        let at = Timestamp(1_700_000_000_120);
        assert_eq!(micro_time(at), "2023-11-14T22:13:20.120000Z");
    }
}

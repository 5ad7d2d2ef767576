//! The state store in Secrets of a real API server: what two processes on one store may do to each other's chains, what survives
//! a restart, what it takes in requests, and what is said when it is refused.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail in the plain way too"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use evertoken::capability::chain::{Chain, Holder, Intent, PluginId};
use evertoken::capability::http::Arrived;
use evertoken::capability::keep::{ChainChange, FoundChain, Keeper, Revision, Seed};
use evertoken::kubernetes::Kubernetes;
use evertoken::model::JobId;
use evertoken::model::failure::{Failure, FailureKind};
use evertoken::model::time::Timestamp;
use evertoken::model::token::{Expiry, KeptToken, Token};
use evertoken::state::{ClusterPlace, StateKey, Store};
use evertoken_tests::kubernetes::{ApiServer, ServiceAccount};
use kube::config::{KubeConfigOptions, Kubeconfig};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

const SECRET: &str = "refresh_token";
const PREFIX: &str = "ever";

/// What deploy/kubernetes/rbac-state.yaml grants, but for the namespace.
fn rules(verbs: &[&str]) -> Value {
    json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": verbs}])
}

const ALL: [&str; 5] = ["get", "list", "create", "update", "delete"];

struct Scene {
    server: &'static ApiServer,
    namespace: String,
    account: ServiceAccount,
}

impl Scene {
    /// None where Kubernetes is switched off by name.
    fn new(name: &str, verbs: &[&str]) -> Option<Self> {
        let server = ApiServer::shared().unwrap()?;
        let namespace = server.namespace(name).unwrap();
        let account = server
            .service_account(&namespace, "evertoken", &rules(verbs))
            .unwrap();
        Some(Self {
            server,
            namespace,
            account,
        })
    }

    async fn kubernetes(&self) -> Kubernetes {
        let kubeconfig = Kubeconfig::read_from(&self.account.kubeconfig).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
        Kubernetes::with_config(config.unwrap())
    }

    fn place(&self) -> ClusterPlace {
        ClusterPlace {
            namespace: self.namespace.clone(),
            prefix: PREFIX.to_owned(),
        }
    }

    /// The store of another process.
    async fn open(&self, keys: &[u8]) -> Result<Store, Failure> {
        let keys = keys
            .iter()
            .map(|byte| StateKey::parse(&[*byte; 32]).unwrap());
        Store::in_cluster(
            Arc::new(self.kubernetes().await),
            self.place(),
            keys.collect(),
        )
        .await
    }

    async fn store(&self) -> Store {
        self.open(&[1]).await.unwrap()
    }

    fn secrets(&self) -> Vec<Value> {
        let path = format!("/api/v1/namespaces/{}/secrets", self.namespace);
        let list = self.server.admin().get(&path).unwrap().unwrap();
        list["items"].as_array().unwrap().clone()
    }

    /// The Secret of the chain that begins with this value.
    fn secret_of(&self, store: &Store, first_value: &[u8]) -> Value {
        let id = store.chain_id(&JobId::file("job"), first_value).to_string();
        let ends = |secret: &Value| secret["metadata"]["name"].as_str().unwrap().ends_with(&id);
        self.secrets().into_iter().find(ends).unwrap()
    }

    /// How often each verb was used on Secrets so far.
    fn requests(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for event in self
            .server
            .audit_events_of_user(&self.account.username)
            .unwrap()
        {
            if event.resource == "secrets" {
                *counts.entry(event.verb).or_insert(0) += 1;
            }
        }
        counts
    }
}

fn job(name: &str) -> JobId {
    JobId::file(name)
}

fn kept(value: &str) -> KeptToken {
    KeptToken {
        token: Token {
            value: value.into(),
            token_type: "Bearer".into(),
            expiry: Expiry::At(Timestamp(2)),
            fields: Vec::new(),
        },
        obtained_at: Timestamp(1),
        expires_at: Some(Timestamp(2)),
        source_hash: [3; 32],
        rotating_expires_at: None,
    }
}

fn intent(config: Value) -> Intent {
    Intent {
        holder: Holder([1; 16]),
        written_at: Timestamp(1),
        not_after: Timestamp(2),
        method: "POST".to_owned(),
        url: "https://idp.test/token".to_owned(),
        job: job("a"),
        plugin: PluginId::default(),
        config,
    }
}

async fn swap(
    store: &Store,
    job: &JobId,
    seed: Option<&str>,
    next: &Chain,
    expected: Option<&Revision>,
) -> Result<Option<Revision>, Failure> {
    let change = ChainChange {
        job,
        secret: SECRET,
        binds: true,
        seed: seed.map(str::as_bytes),
        next,
        expected,
    };
    store.swap_chain(change).await
}

fn first(store: &Store, value: &str) -> Chain {
    let value = value.as_bytes();
    Chain::new(
        store.chain_id(&JobId::file("job"), value),
        value.to_vec().into(),
    )
}

async fn find(store: &Store, job: &JobId, seed: Option<&str>) -> Option<FoundChain> {
    store
        .find_chain(job, SECRET, seed.map(str::as_bytes))
        .await
        .unwrap()
}

async fn found(store: &Store, job: &JobId, seed: Option<&str>) -> Option<(String, Seed)> {
    let found = find(store, job, seed).await?;
    let value = found.stored.chain.value.expose_secret().to_vec();
    Some((String::from_utf8(value).unwrap(), found.seed))
}

/// The next value, if nobody was faster.
async fn rotate(store: &Store, job: &JobId, seed: &str, value: &str) -> bool {
    let (chain, revision) = match find(store, job, Some(seed)).await {
        Some(found) => (found.stored.chain, Some(found.stored.revision)),
        None => (first(store, seed), None),
    };
    let next = chain.succeeded_by(value.as_bytes().to_vec().into(), None);
    let swapped = swap(store, job, Some(seed), &next, revision.as_ref()).await;
    swapped.unwrap().is_some()
}

fn some(value: &str, seed: Seed) -> Option<(String, Seed)> {
    Some((value.to_owned(), seed))
}

fn refused(failure: &Failure, kind: FailureKind, code: &str, words: &[&str]) {
    assert_eq!(failure.code(), Some(code), "{failure}");
    assert_eq!(failure.kind, kind, "{failure}");
    for word in words {
        assert!(failure.message.contains(word), "{word}: {failure}");
    }
}

#[tokio::test]
async fn a_chain_is_found_by_all_its_values_in_this_process_another_and_the_next() {
    let Some(scene) = Scene::new("state-found", &ALL) else {
        return;
    };
    let (a, renamed) = (job("a"), job("renamed"));
    let (store, other) = (scene.store().await, scene.store().await);
    assert!(!store.is_exclusive());
    assert_eq!(found(&store, &a, Some("v0")).await, None);
    for value in ["v1", "v2"] {
        assert!(rotate(&store, &a, "v0", value).await);
    }
    let next = scene.store().await;
    for store in [&store, &other, &next] {
        for (job, seed, expected) in [
            (&a, Some("v0"), some("v2", Seed::Unchanged)),
            (&a, Some("v1"), some("v2", Seed::Restored)),
            (&a, Some("v2"), some("v2", Seed::Newest)),
            (&a, Some("login"), None),
            (&a, None, some("v2", Seed::Unread)),
            (&renamed, Some("v0"), some("v2", Seed::Unchanged)),
            (&renamed, None, None),
        ] {
            assert_eq!(found(store, job, seed).await, expected, "{job} {seed:?}");
        }
    }
    // What another process made of it is found by its value, though nobody told.
    assert!(rotate(&other, &a, "v0", "v3").await);
    assert_eq!(
        found(&store, &a, Some("v3")).await,
        some("v3", Seed::Newest)
    );
    assert!(rotate(&store, &a, "login", "login-1").await);
    assert_eq!(found(&store, &a, None).await, some("login-1", Seed::Unread));
    assert_eq!(
        found(&store, &a, Some("v0")).await,
        some("v3", Seed::Restored)
    );
}

#[tokio::test]
async fn of_two_processes_that_use_a_chain_in_one_state_one_does() {
    const ROUNDS: usize = 30;
    let Some(scene) = Scene::new("state-contention", &ALL) else {
        return;
    };
    let a = job("a");
    let stores = [scene.store().await, scene.store().await];
    assert_eq!(
        stores[0].chain_id(&JobId::file("job"), b"v0"),
        stores[1].chain_id(&JobId::file("job"), b"v0")
    );
    let chain = first(&stores[0], "v0");
    let (left, right) = tokio::join!(
        swap(&stores[0], &a, Some("v0"), &chain, None),
        swap(&stores[1], &a, Some("v0"), &chain, None)
    );
    let mut current = match (left.unwrap(), right.unwrap()) {
        (Some(revision), None) | (None, Some(revision)) => revision,
        other => panic!("{other:?}"),
    };
    for round in 0..ROUNDS {
        let next = |who: &str| {
            let value = format!("{who} {round}").into_bytes();
            chain.succeeded_by(value.into(), None)
        };
        let (one, two) = (next("one"), next("two"));
        let (left, right) = tokio::join!(
            swap(&stores[0], &a, Some("v0"), &one, Some(&current)),
            swap(&stores[1], &a, Some("v0"), &two, Some(&current))
        );
        let (winner, revision) = match (left.unwrap(), right.unwrap()) {
            (Some(revision), None) => (&one, revision),
            (None, Some(revision)) => (&two, revision),
            other => panic!("{other:?}"),
        };
        for store in &stores {
            let stored = store.chain(chain.id).await.unwrap().unwrap();
            assert_eq!(stored.revision, revision);
            assert!(stored.chain.has_newest(winner.value.expose_secret()));
        }
        current = revision;
    }
}

#[tokio::test]
async fn processes_that_start_together_share_one_store() {
    let Some(scene) = Scene::new("state-start", &ALL) else {
        return;
    };
    let stores = tokio::join!(scene.store(), scene.store(), scene.store());
    let id = stores.0.chain_id(&JobId::file("job"), b"value");
    assert_eq!(
        (
            stores.1.chain_id(&JobId::file("job"), b"value"),
            stores.2.chain_id(&JobId::file("job"), b"value")
        ),
        (id, id)
    );
}

#[tokio::test]
async fn a_rotation_takes_three_requests_and_a_token_one() {
    let Some(scene) = Scene::new("state-requests", &ALL) else {
        return;
    };
    let a = job("a");
    let store = scene.store().await;
    assert!(rotate(&store, &a, "v0", "v1").await);
    store.keep_token(&a, &kept("t0")).await.unwrap();
    let before = scene.requests();
    let answer = Arrived {
        sent_at: Timestamp(1),
        bytes: b"{}".to_vec(),
    };
    let found = find(&store, &a, Some("v0")).await.unwrap().stored;
    let open = found.chain.intending(intent(json!({})));
    let revision = swap(&store, &a, Some("v0"), &open, Some(&found.revision)).await;
    let answered = open.answered(answer);
    let revision = swap(
        &store,
        &a,
        Some("v0"),
        &answered,
        revision.unwrap().as_ref(),
    )
    .await;
    let next = answered.succeeded_by(b"v2".to_vec().into(), None);
    let revision = swap(&store, &a, Some("v0"), &next, revision.unwrap().as_ref()).await;
    assert!(revision.unwrap().is_some());
    store.keep_token(&a, &kept("t1")).await.unwrap();
    assert_eq!(found_value(&store, &a).await, "v2");
    let mut after = scene.requests();
    for (verb, count) in before {
        *after.get_mut(&verb).unwrap() -= count;
    }
    after.retain(|_, count| *count > 0);
    assert_eq!(after, BTreeMap::from([("update".to_owned(), 4)]));
}

/// What a rotation writes, however old its chain is: the bodies of its three requests are as long as the Secrets that they make. With an
/// opaque refresh token, as most issuers have them, and an answer of 600 bytes.
#[tokio::test]
async fn a_rotation_writes_as_much_as_the_one_a_hundred_before() {
    let Some(scene) = Scene::new("state-bytes", &ALL) else {
        return;
    };
    let a = job("a");
    let store = scene.store().await;
    let value = |n: u64| format!("{n:08}{}", "r".repeat(92)).into_bytes();
    let answer = Arrived {
        sent_at: Timestamp(1),
        bytes: vec![b'x'; 600],
    };
    let mut chain = Chain::new(
        store.chain_id(&JobId::file("job"), &value(0)),
        value(0).into(),
    );
    let mut revision = None;
    let mut written = Vec::new();
    for n in 1..=420 {
        let open = chain.intending(intent(json!({"scope": "read"})));
        let answered = open.answered(answer.clone());
        let next = answered.succeeded_by(value(n).into(), None);
        let mut bytes = 0;
        for step in [&open, &answered, &next] {
            let swapped = swap(&store, &a, None, step, revision.as_ref()).await;
            revision = swapped.unwrap();
            assert!(revision.is_some());
            if n == 320 || n == 420 {
                let mut secret = scene.secret_of(&store, &value(0));
                let metadata = secret["metadata"].as_object_mut().unwrap();
                metadata.remove("managedFields");
                bytes += secret.to_string().len();
            }
        }
        chain = next;
        if n == 320 || n == 420 {
            written.push(bytes);
        }
    }
    println!("bytes of a rotation: {written:?}");
    assert!(written[1] <= written[0] + 16, "{written:?}");
    assert!(written[1] < 8 * 1024, "{written:?}");
}

async fn found_value(store: &Store, job: &JobId) -> String {
    found(store, job, Some("v0")).await.unwrap().0
}

#[tokio::test]
async fn a_write_that_was_given_up_is_looked_for_before_its_chain_is_used() {
    let Some(scene) = Scene::new("state-given-up", &ALL) else {
        return;
    };
    let a = job("a");
    let store = scene.store().await;
    assert!(rotate(&store, &a, "v0", "v1").await);
    let mut happened = 0;
    for n in 0..40_u64 {
        let found = find(&store, &a, Some("v0")).await.unwrap().stored;
        let on_server = scene
            .store()
            .await
            .chain(found.chain.id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(found.revision, on_server.revision, "round {n}");
        let next = Chain {
            change: [u8::try_from(n).unwrap(); 16],
            ..found
                .chain
                .succeeded_by(n.to_string().into_bytes().into(), None)
        };
        let swapping = swap(&store, &a, Some("v0"), &next, Some(&found.revision));
        let patience = Duration::from_micros(200 * n);
        if tokio::time::timeout(patience, swapping).await.is_err() {
            // The request may still be under way to the server.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let stored = store.chain(found.chain.id).await.unwrap().unwrap();
            happened += usize::from(stored.chain.change == next.change);
        }
    }
    println!("{happened} writes happened after they were given up");
}

#[tokio::test]
async fn tokens_and_plugin_values_survive_a_restart_and_two_writers() {
    let Some(scene) = Scene::new("state-tokens", &ALL) else {
        return;
    };
    let a = job("a");
    let (store, other) = (scene.store().await, scene.store().await);
    store.keep_token(&a, &kept("one")).await.unwrap();
    other.set_plugin_value(&a, "k", b"v").await.unwrap();
    store.keep_token(&a, &kept("two")).await.unwrap();
    let next = scene.store().await;
    assert_eq!(next.token(&a).await.unwrap(), Some(kept("two")));
    assert_eq!(
        next.plugin_value(&a, "k").await.unwrap().as_deref(),
        Some(&b"v"[..])
    );
    assert_eq!(next.plugin_value(&a, "other").await.unwrap(), None);
    let large = vec![0; evertoken::capability::keep::PLUGIN_VALUES_MAX_BYTES];
    let failure = next.set_plugin_value(&a, "k", &large).await.unwrap_err();
    assert_eq!(failure.code(), Some("state.too-large"));
}

#[tokio::test]
async fn with_a_key_nothing_is_readable_and_a_new_first_key_takes_over() {
    let Some(scene) = Scene::new("state-keys", &ALL) else {
        return;
    };
    let a = job("a");
    let id = {
        let store = scene.open(&[]).await.unwrap();
        assert!(rotate(&store, &a, "plain-v0", "plain-v1").await);
        store.keep_token(&a, &kept("plain-token")).await.unwrap();
        store.chain_id(&JobId::file("job"), b"plain-v0")
    };
    let texts = || {
        let values = scene.secrets().into_iter().flat_map(|secret| {
            let data = secret["data"].as_object().cloned().unwrap_or_default();
            data.into_iter().map(|(_, value)| value)
        });
        let decoded = values.map(|value| {
            let text = value.as_str().unwrap();
            let bytes = data_encoding::BASE64.decode(text.as_bytes()).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        });
        decoded.collect::<Vec<_>>().concat()
    };
    assert!(
        texts().contains("plain-token"),
        "without a key it is as it is"
    );
    for keys in [&[1][..], &[2, 1], &[2]] {
        let store = scene.open(keys).await.unwrap();
        assert_eq!(
            store.chain_id(&JobId::file("job"), b"plain-v0"),
            id,
            "{keys:?}"
        );
        assert_eq!(
            found(&store, &a, Some("plain-v0")).await,
            some("plain-v1", Seed::Unchanged)
        );
        assert_eq!(store.token(&a).await.unwrap(), Some(kept("plain-token")));
        for text in ["plain-", "Bearer", "refresh_token"] {
            assert!(!texts().contains(text), "{keys:?} {text}");
        }
    }
    for keys in [&[][..], &[1]] {
        let failure = scene.open(keys).await.unwrap_err();
        refused(
            &failure,
            FailureKind::InvalidConfig,
            "state.key-missing",
            &[&scene.namespace, "add it, behind the first"],
        );
    }
}

#[tokio::test]
async fn what_cannot_be_decrypted_is_said_and_never_overwritten() {
    let Some(scene) = Scene::new("state-damaged", &ALL) else {
        return;
    };
    let a = job("a");
    let store = scene.store().await;
    assert!(rotate(&store, &a, "v0", "v1").await);
    let name = format!(
        "{PREFIX}-chain-{}",
        store.chain_id(&JobId::file("job"), b"v0")
    );
    let admin = scene.server.admin();
    let mut value = admin
        .secret_value(&scene.namespace, &name, "chain")
        .unwrap()
        .unwrap();
    *value.last_mut().unwrap() ^= 1;
    let damaged = data_encoding::BASE64.encode(&value);
    let patch = json!({"data": {"chain": damaged}});
    let damaged = admin.patch_secret(&scene.namespace, &name, &patch).unwrap();

    let store = scene.store().await;
    let found = store.find_chain(&a, SECRET, Some(b"v0")).await.unwrap_err();
    let read = store
        .chain(store.chain_id(&JobId::file("job"), b"v0"))
        .await
        .unwrap_err();
    let begun = swap(&store, &a, Some("v0"), &first(&store, "v0"), None)
        .await
        .unwrap_err();
    for failure in [found, read, begun] {
        refused(
            &failure,
            FailureKind::InvalidConfig,
            "state.undecryptable",
            &[&name],
        );
    }
    let there = admin.secret(&scene.namespace, &name).unwrap().unwrap();
    assert_eq!(there, damaged);
}

#[tokio::test]
async fn a_token_that_cannot_be_decrypted_stays_until_its_job_is_forgotten() {
    let Some(scene) = Scene::new("state-damaged-token", &ALL) else {
        return;
    };
    let a = job("a");
    scene
        .store()
        .await
        .keep_token(&a, &kept("one"))
        .await
        .unwrap();
    let secrets = scene.secrets();
    let names = secrets
        .iter()
        .map(|secret| secret["metadata"]["name"].as_str().unwrap());
    let name = names.clone().find(|name| name.contains("-token-")).unwrap();
    let patch = json!({"data": {"token": "AQAA"}});
    let admin = scene.server.admin();
    admin.patch_secret(&scene.namespace, name, &patch).unwrap();
    let store = scene.store().await;
    for failure in [
        store.token(&a).await.unwrap_err(),
        store.keep_token(&a, &kept("two")).await.unwrap_err(),
    ] {
        refused(
            &failure,
            FailureKind::InvalidConfig,
            "state.undecryptable",
            &["token of job a", "evertoken state forget"],
        );
    }
    store.forget(&a, &|_| Ok(())).await.unwrap();
    store.keep_token(&a, &kept("two")).await.unwrap();
    assert_eq!(
        scene.store().await.token(&a).await.unwrap(),
        Some(kept("two"))
    );
}

#[tokio::test]
async fn a_request_whose_answer_would_find_no_room_is_not_begun() {
    let Some(scene) = Scene::new("state-room", &ALL) else {
        return;
    };
    let a = job("a");
    let store = scene.store().await;
    let chain = first(&store, "v0");
    let large = chain.intending(intent(json!({"padding": "x".repeat(600 * 1024)})));
    let failure = swap(&store, &a, Some("v0"), &large, None)
        .await
        .unwrap_err();
    refused(
        &failure,
        FailureKind::InvalidConfig,
        "state.no-room",
        &["no request is sent"],
    );

    // The largest answer fits beside all that a chain can have.
    let open = chain.intending(intent(json!({"padding": "x".repeat(400 * 1024)})));
    let revision = swap(&store, &a, Some("v0"), &open, None).await.unwrap();
    let answered = open.answered(Arrived {
        sent_at: Timestamp(1),
        bytes: vec![b'x'; 512 * 1024],
    });
    let written = swap(&store, &a, Some("v0"), &answered, revision.as_ref()).await;
    assert!(written.unwrap().is_some());
    let stored = scene.store().await.chain(chain.id).await.unwrap().unwrap();
    assert!(stored.chain.answer() == answered.answer());
}

#[tokio::test]
async fn a_job_is_forgotten_with_the_chains_that_no_other_has() {
    let Some(scene) = Scene::new("state-forget", &ALL) else {
        return;
    };
    let (a, b) = (job("a"), job("b"));
    let store = scene.store().await;
    assert!(rotate(&store, &a, "own", "own-1").await);
    assert!(rotate(&store, &a, "v0", "v1").await);
    assert!(rotate(&store, &b, "v0", "v2").await);
    store.keep_token(&a, &kept("t")).await.unwrap();
    store.keep_token(&b, &kept("t")).await.unwrap();
    let other = scene.store().await;
    assert_eq!(other.jobs().await.unwrap(), [a.clone(), b.clone()]);
    store.forget(&a, &|_| Ok(())).await.unwrap();
    for store in [&store, &other] {
        assert_eq!(store.jobs().await.unwrap(), std::slice::from_ref(&b));
        assert_eq!(found(store, &a, None).await, None);
        assert_eq!(found(store, &a, Some("own")).await, None);
        assert_eq!(
            found(store, &a, Some("v0")).await,
            some("v2", Seed::Unchanged)
        );
    }
    store.forget(&b, &|_| Ok(())).await.unwrap();
    let names: Vec<_> = scene
        .secrets()
        .iter()
        .map(|secret| secret["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, [format!("{PREFIX}-store")]);
}

#[tokio::test]
async fn what_rbac_forbids_is_said_with_the_verbs_to_grant() {
    let Some(scene) = Scene::new("state-forbidden", &["get", "list", "create"]) else {
        return;
    };
    let a = job("a");
    let words = [
        "state store: ",
        "get, list, create and update",
        "rbac-state.yaml",
        &scene.namespace,
    ];
    let store = scene.store().await;
    let chain = first(&store, "v0");
    let revision = swap(&store, &a, Some("v0"), &chain, None).await.unwrap();
    let failure = swap(&store, &a, Some("v0"), &chain, revision.as_ref())
        .await
        .unwrap_err();
    refused(
        &failure,
        FailureKind::Denied,
        "kubernetes.forbidden",
        &words,
    );
    for verbs in [&["get"][..], &["create"], &["get", "create"]] {
        let Some(scene) = Scene::new("state-forbidden", verbs) else {
            return;
        };
        let looked = Store::look_in_cluster(
            Arc::new(scene.kubernetes().await),
            scene.place(),
            Some(Vec::new()),
        )
        .await;
        for failure in [scene.open(&[1]).await.unwrap_err(), looked.unwrap_err()] {
            refused(
                &failure,
                FailureKind::Denied,
                "kubernetes.forbidden",
                &["rbac-state.yaml"],
            );
        }
    }
}

#[tokio::test]
async fn a_namespace_that_is_being_deleted_takes_no_chain() {
    let Some(scene) = Scene::new("state-terminating", &ALL) else {
        return;
    };
    let store = scene.store().await;
    scene
        .server
        .admin()
        .delete_namespace(&scene.namespace)
        .unwrap();
    let chain = first(&store, "v0");
    let failure = swap(&store, &job("a"), Some("v0"), &chain, None)
        .await
        .unwrap_err();
    refused(
        &failure,
        FailureKind::Denied,
        "kubernetes.terminating",
        &["is being deleted", "state.secret.namespace"],
    );
}

#[tokio::test]
async fn a_chain_that_somebody_deleted_is_written_anew_by_who_knows_it() {
    let Some(scene) = Scene::new("state-deleted", &ALL) else {
        return;
    };
    let (a, admin) = (job("a"), scene.server.admin());
    let store = scene.store().await;
    assert!(rotate(&store, &a, "v0", "v1").await);
    for secret in scene.secrets() {
        let name = secret["metadata"]["name"].as_str().unwrap();
        admin.delete_secret(&scene.namespace, name).unwrap();
    }
    // The first try finds the Secret gone.
    assert!(!rotate(&store, &a, "v0", "v2").await);
    assert!(rotate(&store, &a, "v0", "v2").await);
    for store in [&store, &scene.store().await] {
        assert_eq!(
            found(store, &a, Some("v0")).await,
            some("v2", Seed::Unchanged)
        );
    }
    // One who never knew it begins anew.
    let id = store.chain_id(&JobId::file("job"), b"v0");
    let name = format!("{PREFIX}-chain-{id}");
    admin.delete_secret(&scene.namespace, &name).unwrap();
    assert_eq!(found(&scene.store().await, &a, Some("v0")).await, None);
}

#[tokio::test]
async fn chains_without_the_key_of_their_fingerprints_are_no_store() {
    let Some(scene) = Scene::new("state-keyless", &ALL) else {
        return;
    };
    let (a, admin) = (job("a"), scene.server.admin());
    assert!(rotate(&scene.store().await, &a, "v0", "v1").await);
    let name = format!("{PREFIX}-store");
    admin.delete_secret(&scene.namespace, &name).unwrap();
    let keys = vec![StateKey::parse(&[1; 32]).unwrap()];
    let looked = Store::look_in_cluster(
        Arc::new(scene.kubernetes().await),
        scene.place(),
        Some(keys),
    )
    .await;
    for failure in [looked.unwrap_err(), scene.open(&[1]).await.err().unwrap()] {
        let words = [&*name, "is gone", "1 chain(s)", "put it back"];
        refused(
            &failure,
            FailureKind::InvalidConfig,
            "state.damaged",
            &words,
        );
    }
    assert_eq!(scene.secrets().len(), 1, "nothing is made");
}

#[tokio::test]
async fn whether_the_keys_open_the_store_is_known_without_opening_it() {
    let Some(scene) = Scene::new("state-look", &ALL) else {
        return;
    };
    assert!(rotate(&scene.store().await, &job("a"), "v0", "v1").await);
    let kubernetes = Arc::new(scene.kubernetes().await);
    for (keys, is_right) in [
        (&[1][..], true),
        (&[2, 1], true),
        (&[2], false),
        (&[], false),
    ] {
        let keys = keys.iter().map(|key| StateKey::parse(&[*key; 32]).unwrap());
        let keys = Some(keys.collect());
        let looked = Store::look_in_cluster(Arc::clone(&kubernetes), scene.place(), keys).await;
        assert_eq!(looked.is_ok(), is_right, "{looked:?}");
    }
}

/// A Secret as a backup has it, or as somebody's file: without what only the API server says.
fn copied(secret: &Value) -> Value {
    let mut copy = secret.clone();
    copy["apiVersion"] = "v1".into();
    copy["kind"] = "Secret".into();
    let metadata = copy["metadata"].as_object_mut().unwrap();
    metadata.retain(|key, _| matches!(key.as_str(), "name" | "namespace" | "labels"));
    copy
}

#[tokio::test]
async fn an_older_copy_of_a_chain_that_is_put_back_is_noticed_and_its_value_is_not_sent() {
    let Some(scene) = Scene::new("state-restored", &ALL) else {
        return;
    };
    let admin = scene.server.admin();
    let namespace = &scene.namespace;
    let collection = format!("/api/v1/namespaces/{namespace}/secrets");
    let name_of = |secret: &Value| secret["metadata"]["name"].as_str().unwrap().to_owned();
    let jobs = ["created-anew", "overwritten", "patched"].map(job);
    {
        let store = scene.store().await;
        for job in &jobs {
            // The first write knows no uid yet, all later ones do.
            assert!(rotate(&store, job, &format!("{job} 0"), &format!("{job} 1")).await);
            assert!(rotate(&store, job, &format!("{job} 0"), &format!("{job} 2")).await);
        }
    }
    let copies = scene.secrets();
    {
        let store = scene.store().await;
        for job in &jobs {
            assert!(rotate(&store, job, &format!("{job} 0"), &format!("{job} 3")).await);
        }
    }
    let ids: Vec<String> = {
        let store = scene.store().await;
        let id = |job: &JobId| {
            store
                .chain_id(&JobId::file("job"), format!("{job} 0").as_bytes())
                .to_string()
        };
        jobs.iter().map(id).collect()
    };
    let copy = |nth: usize| {
        let secret = copies
            .iter()
            .find(|copy| name_of(copy).ends_with(&ids[nth]));
        copied(secret.unwrap())
    };
    // What a backup tool does, `kubectl replace`, and a patch of the chain alone.
    let (created, overwritten, patched) = (copy(0), copy(1), copy(2));
    admin.delete_secret(namespace, &name_of(&created)).unwrap();
    admin.create(&collection, &created).unwrap();
    admin
        .replace_secret(namespace, &name_of(&overwritten), &overwritten)
        .unwrap();
    let chain = json!({"data": {"chain": patched["data"]["chain"]}});
    admin
        .patch_secret(namespace, &name_of(&patched), &chain)
        .unwrap();

    // Also after the store was encrypted anew.
    for keys in [&[1][..], &[2, 1], &[2]] {
        let store = scene.open(keys).await.unwrap();
        for job in &jobs {
            for seed in [None, Some(format!("{job} 0"))] {
                let seed = seed.as_ref().map(String::as_bytes);
                let failure = store.find_chain(job, SECRET, seed).await.unwrap_err();
                let words = [SECRET, "a copy of the state store", "evertoken state set"];
                refused(&failure, FailureKind::Denied, "chain.restored", &words);
            }
            let chains = store.chains(job).await.unwrap();
            let held = chains[0].chain.as_ref().unwrap().as_ref().unwrap();
            assert!(store.is_restored(held.chain.id), "{job}");
            // A new login is a chain of its own.
            let login = store.find_chain(job, SECRET, Some(b"a new login")).await;
            assert!(login.unwrap().is_none());
        }
    }
    // Somebody gives the value that counts, and it does.
    let store = Arc::new(scene.open(&[2]).await.unwrap());
    let clock = Arc::new(evertoken::model::time::SystemClock);
    let manual = evertoken::state::manual::Manual::new(Arc::clone(&store), None, clock);
    let [moved, others @ ..] = &jobs;
    for job in others {
        let value = format!("{job} 4");
        manual
            .set(&job.to_string(), SECRET, value.as_bytes())
            .await
            .unwrap();
    }
    // Or knows that the copy's value was not used.
    manual.set_kept(&moved.to_string(), SECRET).await.unwrap();
    for store in [store, Arc::new(scene.open(&[2]).await.unwrap())] {
        for job in &jobs {
            let seed = format!("{job} 0");
            let value = if job == moved { 2 } else { 4 };
            let expected = some(&format!("{job} {value}"), Seed::Unchanged);
            assert_eq!(found(&store, job, Some(&seed)).await, expected);
        }
    }
}

#[tokio::test]
async fn what_others_write_beside_a_chain_is_no_reason_to_doubt_it() {
    let Some(scene) = Scene::new("state-beside", &ALL) else {
        return;
    };
    let (a, admin) = (job("a"), scene.server.admin());
    let store = scene.store().await;
    assert!(rotate(&store, &a, "v0", "v1").await);
    let secret = scene.secret_of(&store, b"v0");
    let name = secret["metadata"]["name"].as_str().unwrap();
    let namespace = &scene.namespace;
    // A label, an annotation, and all of it as it is: so Secrets are encrypted anew in etcd.
    let label = json!({"metadata": {"labels": {"team": "shop"}, "annotations": {"seen": "yes"}}});
    admin.patch_secret(namespace, name, &label).unwrap();
    let mut whole = admin.secret(namespace, name).unwrap().unwrap();
    admin.replace_secret(namespace, name, &whole).unwrap();
    whole["data"]["note"] = "bm90ZQ==".into();
    let metadata = whole["metadata"].as_object_mut().unwrap();
    metadata.remove("resourceVersion");
    admin.replace_secret(namespace, name, &whole).unwrap();
    let expected = some("v1", Seed::Unchanged);
    for store in [store, scene.store().await] {
        assert_eq!(found(&store, &a, Some("v0")).await, expected);
        // A process that was there before finds the Secret changed at its first try.
        let first = rotate(&store, &a, "v0", "v1").await;
        assert!(first || rotate(&store, &a, "v0", "v1").await);
    }
}

#[tokio::test]
async fn a_process_that_has_the_newest_value_is_not_set_back_by_an_older_copy() {
    let Some(scene) = Scene::new("state-set-back", &ALL) else {
        return;
    };
    let (a, admin) = (job("a"), scene.server.admin());
    let store = scene.store().await;
    assert!(rotate(&store, &a, "v0", "v1").await);
    let copy = copied(&scene.secret_of(&store, b"v0"));
    assert!(rotate(&store, &a, "v0", "v2").await);
    let name = copy["metadata"]["name"].as_str().unwrap();
    admin.replace_secret(&scene.namespace, name, &copy).unwrap();
    // The first try finds the Secret changed.
    assert!(!rotate(&store, &a, "v0", "v3").await);
    assert!(rotate(&store, &a, "v0", "v3").await);
    let next = scene.store().await;
    assert_eq!(
        found(&next, &a, Some("v2")).await,
        some("v3", Seed::Restored)
    );
    assert_eq!(
        found(&next, &a, Some("v0")).await,
        some("v3", Seed::Unchanged)
    );
}

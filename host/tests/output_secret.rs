//! Kubernetes Secrets on the real API server: what is written, what is left alone, what is said when it is refused, and how
//! many requests it takes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail in the plain way too"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use evertoken::capability::{self, WriteBack as _};
use evertoken::kubernetes::Kubernetes;
use evertoken::model::failure::{Failure, FailureKind};
use evertoken::model::time::Timestamp;
use evertoken::model::token::Artifact;
use evertoken::model::{Destination, JobId, SecretDestination, SecretOrigin, SecretWrite};
use evertoken::output::{Outputs, Publication, Withdrawn, WriteBackTargets, Written};
use evertoken_tests::kubernetes::{ApiServer, ServiceAccount};
use kube::config::{KubeConfigOptions, Kubeconfig};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

/// Everything that outputs may need, in one namespace.
fn all_verbs() -> Value {
    json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create", "update", "patch"]}])
}

/// A process with its own namespace and ServiceAccount.
struct Scene {
    server: &'static ApiServer,
    namespace: String,
    account: ServiceAccount,
    kubernetes: Arc<Kubernetes>,
    outputs: Outputs,
}

impl Scene {
    /// None where Kubernetes is switched off by name.
    async fn new(prefix: &str, rules: Value) -> Option<Self> {
        let server = ApiServer::shared().unwrap()?;
        let namespace = server.namespace(prefix).unwrap();
        let account = server
            .service_account(&namespace, "evertoken", &rules)
            .unwrap();
        let kubernetes = Arc::new(connect(&account).await);
        Some(Self {
            server,
            namespace,
            outputs: Outputs::new(Arc::clone(&kubernetes), Arc::default()),
            account,
            kubernetes,
        })
    }

    fn destination(&self, name: &str, key: &str) -> SecretDestination {
        SecretDestination {
            namespace: self.namespace.clone(),
            name: name.to_owned(),
            key: key.to_owned(),
            create: true,
            secret_type: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            write: SecretWrite::Patch,
            member: None,
        }
    }

    async fn publish(
        &self,
        job: &str,
        destination: &SecretDestination,
        content: &str,
    ) -> Result<Written, Failure> {
        self.write(job, 0, destination, &[("", content)], false)
            .await
    }

    async fn verify(
        &self,
        job: &str,
        destination: &SecretDestination,
        content: &str,
    ) -> Result<Written, Failure> {
        self.write(job, 0, destination, &[("", content)], true)
            .await
    }

    async fn write(
        &self,
        job: &str,
        output_index: usize,
        destination: &SecretDestination,
        artifacts: &[(&str, &str)],
        verify: bool,
    ) -> Result<Written, Failure> {
        let artifacts: Vec<Artifact> = artifacts
            .iter()
            .map(|(name, content)| Artifact {
                name: (*name).to_owned(),
                content: content.as_bytes().to_vec().into(),
            })
            .collect();
        let publication = Publication {
            job: &JobId::file(job),
            output_index,
            artifacts: &artifacts,
            expires_at: Some(Timestamp(1_900_000_000_000)),
            next_refresh: None,
        };
        let destination = Destination::Secret(destination.clone());
        let written = self.outputs.write(&destination, &publication, verify);
        written.await
    }

    fn secret(&self, name: &str) -> Value {
        self.server
            .admin()
            .secret(&self.namespace, name)
            .unwrap()
            .unwrap()
    }

    fn value(&self, name: &str, key: &str) -> Option<String> {
        let value = self
            .server
            .admin()
            .secret_value(&self.namespace, name, key)
            .unwrap()?;
        Some(String::from_utf8(value).unwrap())
    }

    /// Verb and status of each request so far.
    fn requests(&self) -> Vec<(String, u16)> {
        self.server
            .audit_events_of_user(&self.account.username)
            .unwrap()
            .into_iter()
            .map(|event| {
                let agent = concat!("evertoken/", env!("CARGO_PKG_VERSION"));
                assert_eq!(event.user_agent, agent);
                (event.verb, event.code)
            })
            .collect()
    }
}

async fn connect(account: &ServiceAccount) -> Kubernetes {
    let kubeconfig = Kubeconfig::read_from(&account.kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    Kubernetes::with_config(config)
}

/// Has an output of the job `job` deleted that holds "x".
async fn withdraw(scene: &Scene, target: &SecretDestination) -> Result<Withdrawn, Failure> {
    let artifact = Artifact {
        name: String::new(),
        content: b"x".to_vec().into(),
    };
    let publication = Publication {
        job: &JobId::file("job"),
        output_index: 0,
        artifacts: &[artifact],
        expires_at: None,
        next_refresh: None,
    };
    let destination = Destination::Secret(target.clone());
    scene.outputs.withdraw(&destination, &publication).await
}

fn refused(result: Result<Written, Failure>, kind: FailureKind, code: &str, words: &[&str]) {
    let failure = result.unwrap_err();
    assert_eq!(failure.code(), Some(code), "{failure}");
    assert_eq!(failure.kind, kind, "{failure}");
    for word in words {
        assert!(failure.message.contains(word), "{failure}");
    }
    assert!(!failure.message.contains("secret-content"), "{failure}");
}

fn requests(expected: &[(&str, u16)]) -> Vec<(String, u16)> {
    expected
        .iter()
        .map(|(verb, code)| ((*verb).to_owned(), *code))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_is_created_renewed_and_verified_with_one_patch_each() {
    let Some(scene) = Scene::new("apply", all_verbs()).await else {
        return;
    };
    let target = scene.destination("warehouse", "token");
    assert_eq!(
        scene.publish("job", &target, "one").await.unwrap(),
        Written::Changed
    );
    let created = scene.secret("warehouse");
    assert_eq!(created["data"], json!({"token": "b25l"}));
    assert_eq!(created["type"], "Opaque");
    assert_eq!(
        created["metadata"]["labels"],
        json!({"app.kubernetes.io/managed-by": "evertoken"})
    );
    assert_eq!(
        created["metadata"]["annotations"],
        json!({"expires-at.evertoken.dev/job": "2030-03-17T17:46:40Z"})
    );
    assert_eq!(
        created["metadata"]["managedFields"][0]["manager"],
        "evertoken/job"
    );

    // What this process wrote it need not write again; what it verifies leaves the resourceVersion alone.
    assert_eq!(
        scene.publish("job", &target, "one").await.unwrap(),
        Written::Unchanged
    );
    assert_eq!(
        scene.verify("job", &target, "one").await.unwrap(),
        Written::Unchanged
    );
    assert_eq!(
        scene.secret("warehouse")["metadata"]["resourceVersion"],
        created["metadata"]["resourceVersion"]
    );
    let restarted = Outputs::new(Arc::new(connect(&scene.account).await), Arc::default());
    let scene = Scene {
        outputs: restarted,
        ..scene
    };
    scene.verify("job", &target, "one").await.unwrap();
    assert_eq!(
        scene.secret("warehouse")["metadata"]["resourceVersion"],
        created["metadata"]["resourceVersion"]
    );

    assert_eq!(
        scene.publish("job", &target, "two").await.unwrap(),
        Written::Changed
    );
    assert_eq!(scene.value("warehouse", "token").as_deref(), Some("two"));
    assert_eq!(
        scene.requests(),
        requests(&[
            ("patch", 201),
            ("patch", 200),
            ("patch", 200),
            ("patch", 200)
        ])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_finds_what_a_write_would_meet_and_leaves_nothing_behind() {
    let Some(scene) = Scene::new("prove", all_verbs()).await else {
        return;
    };
    let admin = scene.server.admin();
    let prove = async |scene: &Scene, destination: &SecretDestination| {
        let artifact = Artifact {
            name: String::new(),
            content: b"secret-content".to_vec().into(),
        };
        let publication = Publication {
            job: &JobId::file("job"),
            output_index: 0,
            artifacts: &[artifact],
            expires_at: None,
            next_refresh: None,
        };
        let destination = Destination::Secret(destination.clone());
        let proved = scene.outputs.prove(&destination, &publication).await;
        proved.map(|()| Written::Unchanged)
    };

    let new = scene.destination("new", "token");
    prove(&scene, &new).await.unwrap();
    assert!(admin.secret(&scene.namespace, "new").unwrap().is_none());

    scene.publish("job", &new, "one").await.unwrap();
    let before = scene.secret("new");
    prove(&scene, &new).await.unwrap();
    for write in [SecretWrite::Patch, SecretWrite::GetAndPut] {
        let existing = SecretDestination {
            create: false,
            write,
            ..new.clone()
        };
        prove(&scene, &existing).await.unwrap();
    }
    assert_eq!(scene.secret("new"), before);

    let absent = SecretDestination {
        create: false,
        ..scene.destination("absent", "token")
    };
    refused(
        prove(&scene, &absent).await,
        FailureKind::InvalidConfig,
        "kubernetes.not-found",
        &["create: true"],
    );
    let immutable = json!({"immutable": true, "data": {"token": "eA=="}});
    admin
        .create_secret(&scene.namespace, "fixed", immutable)
        .unwrap();
    refused(
        prove(&scene, &scene.destination("fixed", "token")).await,
        FailureKind::InvalidConfig,
        "kubernetes.immutable",
        &["immutable: true"],
    );

    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["new", "fixed"], "verbs": ["patch"]}]);
    let Some(narrow) = Scene::new("prove-narrow", rules).await else {
        return;
    };
    let nowhere = narrow.destination("new", "token");
    refused(
        prove(&narrow, &nowhere).await,
        FailureKind::Denied,
        "kubernetes.forbidden",
        &["`create`"],
    );
    let other = narrow.destination("other", "token");
    refused(
        prove(&narrow, &other).await,
        FailureKind::Denied,
        "kubernetes.forbidden",
        &["`patch`", "[other]"],
    );

    // Where the newest value of a rotating secret goes back to.
    let origin = |name: &str| SecretOrigin::KubernetesSecret {
        namespace: narrow.namespace.clone(),
        name: name.to_owned(),
        key: "k".to_owned(),
        pointer: None,
    };
    let write_backs = WriteBackTargets::new(Arc::clone(&narrow.kubernetes));
    let narrows = narrow.server.admin();
    for (name, immutable) in [("new", false), ("fixed", true)] {
        let held = json!({"immutable": immutable, "data": {"k": "eA=="}});
        narrows
            .create_secret(&narrow.namespace, name, held)
            .unwrap();
    }
    write_backs.prove(&origin("new")).await.unwrap();
    assert_eq!(narrow.secret("new")["data"]["k"], "eA==", "it was a trial");
    refused(
        write_backs
            .prove(&origin("fixed"))
            .await
            .map(|()| Written::Unchanged),
        FailureKind::InvalidConfig,
        "kubernetes.immutable",
        &["immutable: true"],
    );
    refused(
        write_backs
            .prove(&origin("other"))
            .await
            .map(|()| Written::Unchanged),
        FailureKind::Denied,
        "kubernetes.forbidden",
        &["`patch`", "[other]"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_value_and_a_deleted_secret_are_put_right() {
    let Some(scene) = Scene::new("verify", all_verbs()).await else {
        return;
    };
    let admin = scene.server.admin();
    let target = scene.destination("s", "token");
    scene.publish("job", &target, "one").await.unwrap();
    admin
        .patch_secret(
            &scene.namespace,
            "s",
            &json!({"data": {"token": "Zm9yZWlnbg=="}}),
        )
        .unwrap();
    assert_eq!(
        scene.verify("job", &target, "one").await.unwrap(),
        Written::Changed
    );
    assert_eq!(scene.value("s", "token").as_deref(), Some("one"));
    admin.delete_secret(&scene.namespace, "s").unwrap();
    assert_eq!(
        scene.verify("job", &target, "one").await.unwrap(),
        Written::Changed
    );
    assert_eq!(scene.value("s", "token").as_deref(), Some("one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_outputs_and_people_share_a_secret_without_touching_each_other() {
    let Some(scene) = Scene::new("share", all_verbs()).await else {
        return;
    };
    scene
        .server
        .admin()
        .create_secret(
            &scene.namespace,
            "s",
            json!({"metadata": {"labels": {"theirs": "x"}}, "type": "custom/type", "data": {"theirs": "eA=="}}),
        )
        .unwrap();
    let (a, b, c) = (
        scene.destination("s", "a"),
        scene.destination("s", "b"),
        scene.destination("s", "c"),
    );
    for round in ["1", "2"] {
        scene.publish("one", &a, round).await.unwrap();
        scene
            .write("one", 1, &b, &[("", round)], false)
            .await
            .unwrap();
        scene.publish("two", &c, round).await.unwrap();
    }
    let secret = scene.secret("s");
    assert_eq!(
        secret["data"],
        json!({"theirs": "eA==", "a": "Mg==", "b": "Mg==", "c": "Mg=="})
    );
    assert_eq!(secret["type"], "custom/type");
    assert_eq!(secret["metadata"]["labels"]["theirs"], "x");
    assert_eq!(
        secret["metadata"]["annotations"].as_object().unwrap().len(),
        2
    );

    // An output that writes other keys takes its old ones with it, and nobody else's.
    scene
        .write("one", 1, &b, &[("b1", "x"), ("b2", "y")], false)
        .await
        .unwrap();
    assert_eq!(
        scene.secret("s")["data"],
        json!({"theirs": "eA==", "a": "Mg==", "b1": "eA==", "b2": "eQ==", "c": "Mg=="})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_output_leaves_what_is_not_its_own_and_no_empty_secret_of_ours() {
    let verbs = ["create", "patch", "delete"];
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": verbs}]);
    let Some(scene) = Scene::new("withdraw", rules).await else {
        return;
    };
    let admin = scene.server.admin();
    let exists = |name: &str| admin.secret(&scene.namespace, name).unwrap().is_some();

    let own = scene.destination("own", "token");
    scene.publish("job", &own, "x").await.unwrap();
    assert_eq!(withdraw(&scene, &own).await.unwrap(), Withdrawn::Deleted);
    assert!(!exists("own"), "nothing is left in it");
    assert_eq!(withdraw(&scene, &own).await.unwrap(), Withdrawn::Gone);

    let mine = scene.destination("both", "mine");
    let theirs = scene.destination("both", "theirs");
    scene.publish("job", &mine, "x").await.unwrap();
    scene.publish("other", &theirs, "y").await.unwrap();
    assert_eq!(withdraw(&scene, &mine).await.unwrap(), Withdrawn::Deleted);
    assert_eq!(scene.value("both", "mine"), None);
    assert_eq!(scene.value("both", "theirs").as_deref(), Some("y"));
    let annotations = &scene.secret("both")["metadata"]["annotations"];
    assert_eq!(annotations["expires-at.evertoken.dev/job"], Value::Null);
    assert_ne!(annotations["expires-at.evertoken.dev/other"], Value::Null);

    admin
        .create_secret(&scene.namespace, "people", json!({}))
        .unwrap();
    let of_people = SecretDestination {
        create: false,
        ..scene.destination("people", "token")
    };
    scene.publish("job", &of_people, "x").await.unwrap();
    assert_eq!(
        withdraw(&scene, &of_people).await.unwrap(),
        Withdrawn::Deleted
    );
    assert_eq!(scene.value("people", "token"), None);
    assert!(exists("people"), "it is not ours to delete");

    // What is written again afterwards is there.
    scene.publish("job", &own, "x").await.unwrap();
    assert_eq!(scene.value("own", "token").as_deref(), Some("x"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_may_not_be_deleted_stays_without_its_keys() {
    let rules =
        json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "patch"]}]);
    let Some(scene) = Scene::new("withdraw-denied", rules).await else {
        return;
    };
    let own = scene.destination("own", "token");
    scene.publish("job", &own, "x").await.unwrap();
    assert_eq!(withdraw(&scene, &own).await.unwrap(), Withdrawn::Deleted);
    assert_eq!(scene.value("own", "token"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_create_only_an_existing_secret_is_written_and_patch_on_its_name_is_enough() {
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["patch"], "resourceNames": ["s"]}]);
    let Some(scene) = Scene::new("merge", rules).await else {
        return;
    };
    let target = SecretDestination {
        create: false,
        ..scene.destination("s", "token")
    };
    refused(
        scene.publish("job", &target, "secret-content").await,
        FailureKind::InvalidConfig,
        "kubernetes.not-found",
        &["cannot patch secret", "/s: ", "create: true"],
    );
    scene
        .server
        .admin()
        .create_secret(&scene.namespace, "s", json!({"data": {"theirs": "eA=="}}))
        .unwrap();
    assert_eq!(
        scene.publish("job", &target, "one").await.unwrap(),
        Written::Changed
    );
    let secret = scene.secret("s");
    assert_eq!(secret["data"], json!({"theirs": "eA==", "token": "b25l"}));
    assert_eq!(secret["metadata"].get("labels"), None);
    assert_eq!(
        scene.verify("job", &target, "one").await.unwrap(),
        Written::Unchanged
    );
    assert_eq!(
        scene.secret("s")["metadata"]["resourceVersion"],
        secret["metadata"]["resourceVersion"]
    );

    // An apply of something that does not exist needs `create` as well, which no rule with a name can give.
    let missing = SecretDestination {
        create: true,
        ..target
    };
    scene
        .server
        .admin()
        .delete_secret(&scene.namespace, "s")
        .unwrap();
    refused(
        scene.publish("job", &missing, "secret-content").await,
        FailureKind::Denied,
        "kubernetes.forbidden",
        &["grant verb `create`", "without resourceNames"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_of_the_api_server_has_its_own_code_and_mend() {
    let Some(scene) = Scene::new("refuse", all_verbs()).await else {
        return;
    };
    let admin = scene.server.admin();
    let namespace = &scene.namespace;
    admin
        .create_secret(
            namespace,
            "frozen",
            json!({"immutable": true, "data": {"token": "eA=="}}),
        )
        .unwrap();
    for write in [SecretWrite::Patch, SecretWrite::GetAndPut] {
        let frozen = SecretDestination {
            write,
            ..scene.destination("frozen", "token")
        };
        refused(
            scene.publish("job", &frozen, "secret-content").await,
            FailureKind::InvalidConfig,
            "kubernetes.immutable",
            &["secret ", "/frozen: it is immutable", "delete it"],
        );
    }

    admin
        .create_secret(namespace, "typed", json!({"type": "a/b"}))
        .unwrap();
    let typed = SecretDestination {
        secret_type: Some("c/d".into()),
        ..scene.destination("typed", "token")
    };
    refused(
        scene.publish("job", &typed, "secret-content").await,
        FailureKind::InvalidConfig,
        "kubernetes.type",
        &["drop `type`"],
    );

    let huge = scene.destination("huge", "token");
    refused(
        scene.publish("job", &huge, &"x".repeat(1_048_577)).await,
        FailureKind::InvalidConfig,
        "kubernetes.too-large",
        &["1 MiB"],
    );
    refused(
        scene.publish("job", &huge, &"x".repeat(4_000_000)).await,
        FailureKind::InvalidConfig,
        "kubernetes.too-large",
        &["1 MiB"],
    );

    let elsewhere = SecretDestination {
        namespace: "kube-system".into(),
        ..scene.destination("s", "token")
    };
    refused(
        scene.publish("job", &elsewhere, "secret-content").await,
        FailureKind::Denied,
        "kubernetes.forbidden",
        &["grant verb `patch` on resource `secrets` in namespace `kube-system`"],
    );

    let invalid = SecretDestination {
        labels: [("team".to_owned(), "not a label".to_owned())].into(),
        ..scene.destination("s", "token")
    };
    refused(
        scene.publish("job", &invalid, "secret-content").await,
        FailureKind::InvalidConfig,
        "kubernetes.invalid",
        &["not a label"],
    );
    let traversal = scene.destination("../../../../nodes", "token");
    assert!(scene.publish("job", &traversal, "x").await.is_err());

    scene
        .publish("job", &scene.destination("s", "token"), "one")
        .await
        .unwrap();
    admin.delete_namespace(namespace).unwrap();
    refused(
        scene
            .publish("job", &scene.destination("new", "token"), "secret-content")
            .await,
        FailureKind::Denied,
        "kubernetes.terminating",
        &["is being deleted"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_does_not_exist_is_named() {
    let Some(server) = ApiServer::shared().unwrap() else {
        return;
    };
    let kubeconfig = Kubeconfig::read_from(server.admin_kubeconfig("default").unwrap()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    let outputs = Outputs::new(Arc::new(Kubernetes::with_config(config)), Arc::default());
    let artifacts = [Artifact {
        name: String::new(),
        content: b"x".to_vec().into(),
    }];
    for write in [SecretWrite::Patch, SecretWrite::GetAndPut] {
        let destination = Destination::Secret(SecretDestination {
            namespace: "nowhere".into(),
            name: "s".into(),
            key: "token".into(),
            create: true,
            secret_type: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            write,
            member: None,
        });
        let publication = Publication {
            job: &JobId::file("job"),
            output_index: 0,
            artifacts: &artifacts,
            expires_at: None,
            next_refresh: None,
        };
        refused(
            outputs.write(&destination, &publication, false).await,
            FailureKind::InvalidConfig,
            "kubernetes.namespace-not-found",
            &["namespace nowhere does not exist"],
        );
    }
}

/// The Role that kube-token-refresher's documentation prints.
fn documented_role(secret: &str) -> Value {
    json!([
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "update"], "resourceNames": [secret]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn get_and_put_do_with_the_documented_role_what_kube_token_refresher_did() {
    let Some(scene) = Scene::new("ktr", documented_role("s")).await else {
        return;
    };
    let target = SecretDestination {
        write: SecretWrite::GetAndPut,
        member: None,
        labels: [("ktr.appuio.ch/managed".to_owned(), "true".to_owned())].into(),
        ..scene.destination("s", "token")
    };
    assert_eq!(
        scene.publish("ktr", &target, "one").await.unwrap(),
        Written::Changed
    );
    let created = scene.secret("s");
    assert_eq!(created["type"], "Opaque");
    assert_eq!(created["data"], json!({"token": "b25l"}));
    assert_eq!(
        created["metadata"]["labels"],
        json!({"ktr.appuio.ch/managed": "true"})
    );
    assert_eq!(created["metadata"].get("annotations"), None);

    scene
        .server
        .admin()
        .patch_secret(
            &scene.namespace,
            "s",
            &json!({"metadata": {"labels": {"theirs": "x"}}, "data": {"theirs": "eA=="}}),
        )
        .unwrap();
    assert_eq!(
        scene.publish("ktr", &target, "two").await.unwrap(),
        Written::Changed
    );
    let renewed = scene.secret("s");
    assert_eq!(renewed["data"], json!({"theirs": "eA==", "token": "dHdv"}));
    assert_eq!(renewed["metadata"]["labels"]["theirs"], "x");

    assert_eq!(
        scene.publish("ktr", &target, "two").await.unwrap(),
        Written::Unchanged
    );
    assert_eq!(
        scene.verify("ktr", &target, "two").await.unwrap(),
        Written::Unchanged
    );
    assert_eq!(
        scene.requests(),
        requests(&[
            ("get", 404),
            ("create", 201),
            ("get", 200),
            ("update", 200),
            ("get", 200),
        ])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn put_loses_no_write_of_anybody_in_a_conflict() {
    let Some(scene) = Scene::new("conflict", all_verbs()).await else {
        return;
    };
    let scene = Arc::new(scene);
    scene
        .server
        .admin()
        .create_secret(&scene.namespace, "s", json!({}))
        .unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..4 {
        let scene = Arc::clone(&scene);
        tasks.spawn(async move {
            let target = SecretDestination {
                write: SecretWrite::GetAndPut,
                member: None,
                ..scene.destination("s", &format!("key-{n}"))
            };
            scene.publish(&format!("job-{n}"), &target, "x").await
        });
    }
    while let Some(result) = tasks.join_next().await {
        assert_eq!(result.unwrap().unwrap(), Written::Changed);
    }
    let data = scene.secret("s")["data"].clone();
    assert_eq!(data.as_object().unwrap().len(), 4, "{data}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_unreachable_and_back_without_a_restart() {
    let Some(_) = ApiServer::shared().unwrap() else {
        return;
    };
    let server: &'static ApiServer = Box::leak(Box::new(ApiServer::start().unwrap()));
    let namespace = server.namespace("away").unwrap();
    let account = server
        .service_account(&namespace, "evertoken", &all_verbs())
        .unwrap();
    let kubernetes = Arc::new(connect(&account).await);
    let scene = Scene {
        server,
        namespace,
        outputs: Outputs::new(Arc::clone(&kubernetes), Arc::default()),
        account,
        kubernetes,
    };
    let target = scene.destination("s", "token");
    server.down();
    refused(
        scene.publish("job", &target, "secret-content").await,
        FailureKind::Unavailable,
        "kubernetes.unreachable",
        &["cannot patch secret", "onnection refused"],
    );
    server.up().unwrap();
    scene.publish("job", &target, "one").await.unwrap();
    assert_eq!(scene.value("s", "token").as_deref(), Some("one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_jobs_come_from_secrets_and_token_requests() {
    let rules = json!([
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["s", "missing"]},
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"], "resourceNames": ["evertoken"]},
    ]);
    let Some(scene) = Scene::new("provide", rules).await else {
        return;
    };
    let namespace = scene.namespace.as_str();
    scene
        .server
        .admin()
        .create_secret(namespace, "s", json!({"data": {"a": "AP8=", "b": "eA=="}}))
        .unwrap();
    let cluster: &dyn capability::ClusterSecrets = &*scene.kubernetes;
    let value = cluster.get_secret_key(namespace, "s", "a").await.unwrap();
    assert_eq!(value.expose_secret(), [0, 255]);
    for (name, key, code, words) in [
        ("s", "c", "kubernetes.not-found", "it has: a, b"),
        ("missing", "a", "kubernetes.not-found", "does not exist"),
        ("other", "a", "kubernetes.forbidden", "grant verb `get`"),
    ] {
        let failure = cluster
            .get_secret_key(namespace, name, key)
            .await
            .unwrap_err();
        assert_eq!(failure.code(), Some(code), "{failure}");
        assert!(failure.message.contains(words), "{failure}");
    }

    let audiences = ["https://issuer.example.org".to_owned()];
    for (asked, granted) in [(600, 600), (3607, 3606)] {
        let lifetime = Duration::from_secs(asked);
        let token = scene
            .kubernetes
            .service_account_token(namespace, "evertoken", &audiences, lifetime)
            .await
            .unwrap();
        let claims = claims(token.value.expose_secret());
        assert_eq!(claims["aud"], json!(audiences));
        let (issued, expires) = (
            claims["iat"].as_u64().unwrap(),
            claims["exp"].as_u64().unwrap(),
        );
        assert_eq!(expires - issued, granted);
        assert_eq!(token.expires_at, Timestamp(expires * 1000));
    }
    let failure = cluster
        .request_token(namespace, "default", &[], Duration::from_secs(600))
        .await
        .unwrap_err();
    assert_eq!(failure.code(), Some("kubernetes.forbidden"));
    assert!(
        failure
            .message
            .contains("grant verb `create` on resource `serviceaccounts/token`"),
        "{failure}"
    );
}

fn claims(jwt: &str) -> Value {
    let payload = jwt.split('.').nth(1).unwrap();
    let bytes = data_encoding::BASE64URL_NOPAD
        .decode(payload.as_bytes())
        .unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// A Secret that a person made, with the seed of a chain among other things.
fn login(scene: &Scene, document: &str) {
    let body = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "login", "labels": {"owner": "a-person"}},
        "stringData": {"oauth.json": document, "plain": "spent", "other": "untouched"},
    });
    let path = format!("/api/v1/namespaces/{}/secrets", scene.namespace);
    scene.server.admin().create(&path, &body).unwrap();
}

fn place(scene: &Scene, key: &str, pointer: Option<&str>) -> SecretOrigin {
    SecretOrigin::KubernetesSecret {
        namespace: scene.namespace.clone(),
        name: "login".to_owned(),
        key: key.to_owned(),
        pointer: pointer.map(str::to_owned),
    }
}

#[tokio::test]
async fn a_newest_value_is_written_back_to_its_key_while_the_spent_one_is_there() {
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["login"], "verbs": ["get", "patch"]}]);
    let Some(scene) = Scene::new("home", rules).await else {
        return;
    };
    login(&scene, r#"{"client":"desktop","refresh_token":"spent"}"#);
    let write_backs = WriteBackTargets::new(Arc::clone(&scene.kubernetes));
    let value = async |key: &str| {
        let value = scene
            .kubernetes
            .secret_key(&scene.namespace, "login", key)
            .await;
        String::from_utf8(value.unwrap().expose_secret().to_vec()).unwrap()
    };
    for (key, pointer, expected) in [
        ("plain", None, "next"),
        (
            "oauth.json",
            Some("/refresh_token"),
            r#"{"client":"desktop","refresh_token":"next"}"#,
        ),
    ] {
        let place = place(&scene, key, pointer);
        assert_eq!(
            write_backs.replace(&place, b"spent", b"next").await,
            Ok(true)
        );
        assert_eq!(value(key).await, expected);
        // What stands there now is no longer the spent value.
        assert_eq!(
            write_backs.replace(&place, b"spent", b"lost").await,
            Ok(false)
        );
        assert_eq!(value(key).await, expected);
    }
    assert_eq!(value("other").await, "untouched");
}

#[tokio::test]
async fn a_value_that_may_not_be_written_back_is_said_with_the_verb() {
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]);
    let Some(scene) = Scene::new("home-denied", rules).await else {
        return;
    };
    login(&scene, "{}");
    let write_backs = WriteBackTargets::new(Arc::clone(&scene.kubernetes));
    let place = place(&scene, "plain", None);
    let failure = write_backs
        .replace(&place, b"spent", b"next")
        .await
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Denied, "{failure}");
    assert!(failure.message.contains("patch"), "{failure}");
}

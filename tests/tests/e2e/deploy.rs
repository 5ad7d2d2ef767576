//! The manifests of `deploy/kubernetes` on a real API server: they apply as they stand, their configuration does its job under their
//! permissions, and each of these permissions is exactly what `deploy/README.md` says.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evertoken_tests::client::Client;
use evertoken_tests::issuer::Issuer;
use evertoken_tests::kubernetes::{ApiServer, ServiceAccount};
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;
use evertoken_tests::workdir::{free_port, workspace};
use serde_json::{Value, json};

use crate::scene::{PATIENCE, Scene};

/// The namespaces that the manifests name: tests that apply them take turns.
static TURN: Mutex<()> = Mutex::new(());

/// How long RBAC's caches may lag behind.
const RBAC_PATIENCE: Duration = Duration::from_secs(20);

const ACCOUNT: &str = "system:serviceaccount:evertoken:evertoken";

/// A permission: verb, resource, subresource, namespace, name.
type Right = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

/// What the README's table says of each file, for the names in the manifests. No name: of any object.
const RIGHTS: [(&str, Right); 14] = [
    (
        "rbac-write-named.yaml",
        ("patch", "secrets", "", "shop", "warehouse-token"),
    ),
    ("rbac-create.yaml", ("create", "secrets", "", "shop", "")),
    (
        "rbac-read-client.yaml",
        ("get", "secrets", "", "evertoken", "warehouse-client"),
    ),
    (
        "optional/rbac-tokenrequest.yaml",
        ("create", "serviceaccounts", "token", "shop", "warehouse"),
    ),
    (
        "optional/rbac-state.yaml",
        ("get", "secrets", "", "evertoken-state", ""),
    ),
    (
        "optional/rbac-state.yaml",
        ("list", "secrets", "", "evertoken-state", ""),
    ),
    (
        "optional/rbac-state.yaml",
        ("create", "secrets", "", "evertoken-state", ""),
    ),
    (
        "optional/rbac-state.yaml",
        ("update", "secrets", "", "evertoken-state", ""),
    ),
    (
        "optional/rbac-state.yaml",
        ("delete", "secrets", "", "evertoken-state", ""),
    ),
    (
        "optional/rbac-annotated-secrets.yaml",
        ("get", "secrets", "", "team", ""),
    ),
    (
        "optional/rbac-annotated-secrets.yaml",
        ("list", "secrets", "", "team", ""),
    ),
    (
        "optional/rbac-annotated-secrets.yaml",
        ("watch", "secrets", "", "team", ""),
    ),
    (
        "optional/rbac-annotated-secrets.yaml",
        ("patch", "secrets", "", "team", ""),
    ),
    (
        "optional/rbac-annotated-secrets.yaml",
        ("create", "events", "", "team", ""),
    ),
];

/// The objects of a manifest.
fn manifest(file: &str) -> Vec<Value> {
    let path = workspace().unwrap().join("deploy/kubernetes").join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The manifests that `kubectl apply -f FOLDER` takes, in its order.
fn files_in(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(workspace().unwrap().join("deploy/kubernetes").join(folder));
    let mut files: Vec<String> = entries
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| {
            entry
                .path()
                .extension()
                .is_some_and(|ending| ending == "yaml")
        })
        .map(|entry| entry.file_name().into_string().unwrap())
        .map(|name| {
            if folder.is_empty() {
                name
            } else {
                format!("{folder}/{name}")
            }
        })
        .collect();
    files.sort();
    files
}

/// The first commands of the README, word by word.
fn first_commands() -> Vec<Vec<String>> {
    let page = std::fs::read_to_string(workspace().unwrap().join("deploy/README.md")).unwrap();
    let block = page.split("```console\n").nth(1).unwrap();
    let block = block.split("```").next().unwrap();
    let commands = block.lines().map(|line| line.strip_prefix("$ ").unwrap());
    commands
        .map(|command| command.split(' ').map(str::to_owned).collect())
        .collect()
}

/// Where objects of this kind are created.
fn collection(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let version = text("/apiVersion").unwrap();
    let group = if version == "v1" { "api" } else { "apis" };
    let kind = format!("{}s", text("/kind").unwrap().to_lowercase());
    match text("/metadata/namespace") {
        Some(namespace) => format!("/{group}/{version}/namespaces/{namespace}/{kind}"),
        None => format!("/{group}/{version}/{kind}"),
    }
}

/// The objects that `kubectl apply -f PATH` takes.
fn applied(path: &str) -> Vec<Value> {
    let path = path.strip_prefix("deploy/kubernetes/").unwrap();
    let files = if path.is_empty() {
        files_in("")
    } else {
        vec![path.to_owned()]
    };
    files.iter().flat_map(|file| manifest(file)).collect()
}

/// The cluster with the namespaces of the manifests, empty of what an earlier test put there.
struct Cluster {
    api: &'static ApiServer,
    scene: Scene,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    fn new(name: &str) -> Option<Self> {
        let Some(api) = ApiServer::shared().unwrap() else {
            println!("skipped: needs Kubernetes");
            return None;
        };
        let cluster = Self {
            api,
            scene: Scene::new(name).unwrap(),
            _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner),
        };
        for namespace in ["evertoken", "evertoken-state", "shop", "team"] {
            cluster.clear(namespace);
        }
        // The one whose tokens the README's files are about; it is its owner's.
        cluster.create(
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
        );
        Some(cluster)
    }

    fn clear(&self, namespace: &str) {
        const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
        for (group, kind) in [
            (RBAC, "rolebindings"),
            (RBAC, "roles"),
            ("/api/v1", "secrets"),
            ("/api/v1", "configmaps"),
            ("/api/v1", "serviceaccounts"),
            ("/apis/apps/v1", "deployments"),
        ] {
            let path = format!("{group}/namespaces/{namespace}/{kind}");
            let answer = self
                .api
                .admin()
                .request("DELETE", &path, "application/json", None);
            assert!(answer.unwrap().status < 300, "{path}");
        }
    }

    /// POSTs an object, unknown fields refused; a namespace may be there.
    fn create(&self, object: &Value) {
        let path = format!("{}?fieldValidation=Strict", collection(object));
        let answer = self
            .api
            .admin()
            .request("POST", &path, "application/json", Some(object))
            .unwrap();
        let exists = answer.status == 409 && object["kind"] == "Namespace";
        assert!(answer.status < 300 || exists, "{path}: {answer}");
    }

    fn apply(&self, files: &[&str]) {
        for object in files.iter().flat_map(|file| manifest(file)) {
            self.create(&object);
        }
    }

    /// Does what the README's first commands do, as far as nothing is missing that they do not make themselves.
    fn follow_the_readme(&self) {
        let mut namespaces = BTreeSet::new();
        for command in first_commands() {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let objects = match words[..] {
                ["kubectl", "apply", "-f", path] => applied(path),
                ["kubectl", "create", "namespace", name] => {
                    vec![
                        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
                    ]
                }
                [
                    "kubectl",
                    "create",
                    "secret",
                    "generic",
                    name,
                    "-n",
                    namespace,
                    literal,
                ] => {
                    let pair = literal.strip_prefix("--from-literal=").unwrap();
                    let (key, _) = pair.split_once('=').unwrap();
                    vec![json!({
                        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace},
                        "stringData": {(key): "warehouse-secret-1"},
                    })]
                }
                _ => panic!("what does {words:?} do?"),
            };
            for object in objects {
                let metadata = &object["metadata"];
                if object["kind"] == "Namespace" {
                    namespaces.insert(metadata["name"].clone().to_string());
                }
                let namespace = &metadata["namespace"];
                assert!(
                    namespace.is_null() || namespaces.contains(&namespace.to_string()),
                    "{words:?}: nobody has made the namespace {namespace}"
                );
                self.create(&object);
            }
        }
    }

    /// The account with the rights of these files, once they and no others are in force.
    fn account(&self, rbac: &[&str]) -> ServiceAccount {
        self.apply(&["namespace.yaml", "serviceaccount.yaml"]);
        self.apply(rbac);
        self.wait_for_rights(rbac);
        self.api.login("evertoken", "evertoken").unwrap()
    }

    fn wait_for_rights(&self, rbac: &[&str]) {
        for (file, right) in RIGHTS {
            let expected = rbac.contains(&file);
            wait_until(
                &format!("{right:?} to be {expected}"),
                RBAC_PATIENCE,
                || (self.may(right) == expected).then_some(()),
            )
            .unwrap();
        }
    }

    /// The authorizer's word.
    fn may(&self, (verb, resource, subresource, namespace, name): Right) -> bool {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": ACCOUNT, "groups": ["system:serviceaccounts", "system:serviceaccounts:evertoken", "system:authenticated"],
                "resourceAttributes": {"namespace": namespace, "verb": verb, "resource": resource, "subresource": subresource, "name": name}},
        });
        let answer = self.api.admin().create(
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            &review,
        );
        answer.unwrap()["status"]["allowed"] == true
    }

    fn client_secret(&self, value: &str) {
        let secret = json!({"stringData": {"secret": value}});
        let admin = self.api.admin();
        admin
            .create_secret("evertoken", "warehouse-client", secret)
            .unwrap();
    }

    /// The configuration in the ConfigMap, with what only the cluster has replaced by what the test has.
    fn configuration(&self, token_url: &str, port: u16) -> PathBuf {
        let config_map = manifest("configmap.yaml").remove(0);
        let mut text = config_map["data"]["evertoken.yaml"]
            .as_str()
            .unwrap()
            .to_owned();
        for (theirs, ours) in [
            (
                "https://idp.example.org/realms/main/protocol/openid-connect/token",
                token_url,
            ),
            ("0.0.0.0:8080", &format!("127.0.0.1:{port}")),
            (
                "/var/lib/evertoken",
                &self.scene.path("state").display().to_string(),
            ),
        ] {
            assert!(
                text.contains(theirs),
                "the ConfigMap has no {theirs}:\n{text}"
            );
            text = text.replace(theirs, ours);
        }
        self.scene.config(&text).unwrap()
    }

    fn token(&self) -> Option<Vec<u8>> {
        let admin = self.api.admin();
        admin
            .secret_value("shop", "warehouse-token", "token")
            .unwrap()
    }

    /// `evertoken once`, as the account.
    fn once(
        &self,
        account: &ServiceAccount,
        config: &std::path::Path,
    ) -> evertoken_tests::evertoken::Finished {
        let launch = self.scene.launch().unwrap();
        launch
            .env("KUBECONFIG", &account.kubeconfig)
            .args(["once", "--timeout", "3s", "--config"])
            .args([config])
            .finish(PATIENCE)
            .unwrap()
    }
}

fn issuer() -> Issuer {
    let issuer = Issuer::start().unwrap();
    issuer.respond_with("/token", |request| match request.basic_auth() {
        Some((id, secret)) if id == "warehouse" && secret == "warehouse-secret-1" => {
            Behaviour::token("a-token-of-the-warehouse", 3600)
        }
        _ => Behaviour::oauth_error(401, "invalid_client"),
    });
    issuer
}

#[test]
fn the_manifests_apply_as_they_stand_and_their_configuration_does_its_job() {
    let Some(cluster) = Cluster::new("deploy") else {
        return;
    };
    cluster.follow_the_readme();
    let is_rbac = |file: &&String| file.rsplit('/').next().unwrap().starts_with("rbac-");
    let (applied, optional) = (files_in(""), files_in("optional"));
    let rbac: Vec<&str> = applied.iter().filter(is_rbac).map(String::as_str).collect();
    let with_rights: BTreeSet<&str> = RIGHTS.iter().map(|(file, _)| *file).collect();
    let all = applied.iter().chain(&optional).filter(is_rbac);
    let all: BTreeSet<&str> = all.map(String::as_str).collect();
    assert_eq!(all, with_rights, "each RBAC file has its rights");
    // No rights but those of the files that were applied.
    cluster.wait_for_rights(&rbac);
    let account = cluster.api.login("evertoken", "evertoken").unwrap();
    let (issuer, port) = (issuer(), free_port().unwrap());
    let config = cluster.configuration(&issuer.url("/token"), port);
    let before = asked(&cluster, &account).len();

    let launch = cluster.scene.launch().unwrap();
    let process = launch
        .env("KUBECONFIG", &account.kubeconfig)
        .args(container_args(&config))
        .spawn()
        .unwrap();
    wait_until("the token in shop/warehouse-token", PATIENCE, || {
        cluster.token()
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    assert_eq!(cluster.token().unwrap(), b"a-token-of-the-warehouse");
    assert_eq!(issuer.requests().len(), 1);

    for probe in ["livez", "readyz"] {
        let url = format!("http://127.0.0.1:{port}/{probe}");
        let answer = Client::plain().send("GET", &url, &[], &[]).unwrap();
        assert_eq!(answer.status, 200, "{probe}: {answer}");
    }
    let row = cluster
        .scene
        .row(&config, "warehouse")
        .expect("`evertoken status` finds the process");
    assert_eq!(row["state"], "ready", "{row}");
    let asked = asked(&cluster, &account);
    assert_eq!(
        asked[before..],
        [
            ("get".to_owned(), "evertoken/warehouse-client".to_owned()),
            ("patch".to_owned(), "shop/warehouse-token".to_owned())
        ],
        "nothing but what the README's table lists"
    );
}

#[test]
fn the_sidecars_configuration_is_right_and_its_containers_mount_what_it_names() {
    let scene = Scene::new("sidecar").unwrap();
    let [config_map, pod] = <[Value; 2]>::try_from(manifest("optional/sidecar.yaml")).unwrap();
    let yaml = config_map["data"]["evertoken.yaml"].as_str().unwrap();
    let config = scene.config(yaml).unwrap();
    let checked = scene.command(&["check"], &config).unwrap();
    let all = format!("{}{}", checked.stdout, checked.stderr);
    assert_eq!(checked.code(), Some(0), "{all}");
    assert!(
        all.contains("1 job, 0 shared outputs: all right\n"),
        "{all}"
    );
    let names = |list: &Value| -> BTreeSet<String> {
        let items = list.as_array().unwrap().iter();
        items
            .map(|item| item["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let volumes = names(&pod["spec"]["volumes"]);
    for container in pod["spec"]["initContainers"].as_array().unwrap() {
        assert_eq!(names(&container["volumeMounts"]), volumes);
        let paths: Vec<&str> = container["volumeMounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| mount["mountPath"].as_str().unwrap())
            .collect();
        for named in [
            "/etc/warehouse-client/secret",
            "/var/lib/evertoken",
            "/tokens/warehouse",
        ] {
            assert!(
                yaml.contains(named) && paths.iter().any(|path| named.starts_with(path)),
                "{named}"
            );
        }
    }
}

/// What the Deployment starts the binary with.
fn container_args(config: &std::path::Path) -> Vec<String> {
    let deployment = manifest("deployment.yaml").remove(0);
    let args = deployment
        .pointer("/spec/template/spec/containers/0/args")
        .and_then(Value::as_array)
        .unwrap();
    let args = args.iter().map(|arg| arg.as_str().unwrap());
    let ours = config.display().to_string();
    args.map(|arg| arg.replace("/etc/evertoken/evertoken.yaml", &ours))
        .collect()
}

/// What the account asked the API server for so far: verbs and objects.
fn asked(cluster: &Cluster, account: &ServiceAccount) -> Vec<(String, String)> {
    let events = cluster.api.audit_events_of_user(&account.username).unwrap();
    events
        .into_iter()
        .map(|event| (event.verb, format!("{}/{}", event.namespace, event.name)))
        .collect()
}

#[test]
fn each_rbac_file_alone_grants_what_the_readme_says_and_nothing_else() {
    let Some(cluster) = Cluster::new("rbac") else {
        return;
    };
    let files: BTreeSet<&str> = RIGHTS.iter().map(|(file, _)| *file).collect();
    for file in files {
        let granted = || RIGHTS.iter().filter(move |(of, _)| *of == file);
        cluster.account(&[file]);
        let may: Vec<Right> = every_right()
            .into_iter()
            .filter(|right| cluster.may(*right))
            .collect();
        let expected: Vec<Right> = every_right()
            .into_iter()
            .filter(|right| granted().any(|(_, granted)| covers(*granted, *right)))
            .collect();
        assert!(!expected.is_empty(), "{file}");
        assert_eq!(may, expected, "{file}");
        for namespace in ["evertoken", "evertoken-state", "shop", "team"] {
            cluster.clear(namespace);
        }
    }
}

/// A right without a name is one to every name.
fn covers(granted: Right, right: Right) -> bool {
    (granted.0, granted.1, granted.2, granted.3) == (right.0, right.1, right.2, right.3)
        && (granted.4.is_empty() || granted.4 == right.4)
}

/// Each verb on each object that the manifests could be about.
fn every_right() -> Vec<Right> {
    let verbs = [
        "get",
        "list",
        "watch",
        "create",
        "update",
        "patch",
        "delete",
        "deletecollection",
    ];
    let objects = [
        ("secrets", "", "warehouse-token"),
        ("secrets", "", "warehouse-client"),
        ("secrets", "", "another"),
        ("secrets", "", ""),
        ("serviceaccounts", "", "warehouse"),
        ("serviceaccounts", "token", "warehouse"),
        ("serviceaccounts", "token", "another"),
        ("configmaps", "", "evertoken"),
        ("events", "", ""),
    ];
    let mut rights = Vec::new();
    for namespace in ["evertoken", "evertoken-state", "shop", "team"] {
        for (resource, subresource, name) in objects {
            for verb in verbs {
                rights.push((verb, resource, subresource, namespace, name));
            }
        }
    }
    rights
}

#[test]
fn without_the_file_for_create_the_missing_verb_is_said_and_an_existing_secret_is_written() {
    let Some(cluster) = Cluster::new("no-create") else {
        return;
    };
    let account = cluster.account(&["rbac-write-named.yaml", "rbac-read-client.yaml"]);
    cluster.client_secret("warehouse-secret-1");
    let issuer = issuer();
    let config = cluster.configuration(&issuer.url("/token"), free_port().unwrap());

    let refused = cluster.once(&account, &config);
    assert_eq!(refused.code(), Some(1), "{}", refused.stderr);
    let said = "grant verb `create` on resource `secrets` in namespace `shop`";
    assert!(refused.stderr.contains(said), "{}", refused.stderr);
    assert_eq!(cluster.token(), None);

    let admin = cluster.api.admin();
    admin
        .create_secret("shop", "warehouse-token", json!({}))
        .unwrap();
    let written = cluster.once(&account, &config);
    assert_eq!(written.code(), Some(0), "{}", written.stderr);
    assert_eq!(cluster.token().unwrap(), b"a-token-of-the-warehouse");
    assert_eq!(
        issuer.requests().len(),
        1,
        "the token of the failed run is kept"
    );
}

#[test]
fn without_the_file_for_reading_the_missing_verb_is_said_and_the_issuer_is_not_asked() {
    let Some(cluster) = Cluster::new("no-read") else {
        return;
    };
    let account = cluster.account(&["rbac-write-named.yaml", "rbac-create.yaml"]);
    cluster.client_secret("warehouse-secret-1");
    let issuer = issuer();
    let config = cluster.configuration(&issuer.url("/token"), free_port().unwrap());
    let refused = cluster.once(&account, &config);
    assert_eq!(refused.code(), Some(1), "{}", refused.stderr);
    let said = "grant verb `get` on resource `secrets` in namespace `evertoken` (resourceNames: [warehouse-client] is enough)";
    assert!(refused.stderr.contains(said), "{}", refused.stderr);
    assert!(issuer.requests().is_empty());
}

#[test]
fn a_requested_service_account_token_reaches_a_file_and_is_good_for_its_audience_alone() {
    let Some(cluster) = Cluster::new("token-request") else {
        return;
    };
    let account = cluster.account(&["optional/rbac-tokenrequest.yaml"]);
    cluster.create(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "warehouse", "namespace": "shop"}}));
    let config = cluster
        .scene
        .config(
            r#"
jobs:
- name: workload
  source:
    plugin: mirror
    secrets:
      token: {service_account: {namespace: shop, name: warehouse, audiences: [vault.example.org], lifetime: 600s}}
    reveal: [token]
  outputs:
  - file: {path: "{out}/token"}
"#,
        )
        .unwrap();
    let finished = cluster.once(&account, &config);
    assert_eq!(finished.code(), Some(0), "{}", finished.stderr);
    let token = std::fs::read_to_string(cluster.scene.out("token")).unwrap();
    let review = |audience: &str| {
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        });
        let admin = cluster.api.admin();
        let answer = admin.create("/apis/authentication.k8s.io/v1/tokenreviews", &body);
        answer.unwrap()["status"].clone()
    };
    let accepted = review("vault.example.org");
    assert_eq!(accepted["authenticated"], true, "{accepted}");
    assert_eq!(
        accepted["user"]["username"],
        "system:serviceaccount:shop:warehouse"
    );
    assert_eq!(accepted["audiences"], json!(["vault.example.org"]));
    assert_ne!(
        review("https://kubernetes.default.svc")["authenticated"],
        true
    );
}

#[test]
fn the_pod_passes_the_restricted_pod_security_standard() {
    let Some(cluster) = Cluster::new("pod") else {
        return;
    };
    cluster.apply(&["namespace.yaml", "serviceaccount.yaml"]);
    let deployment = manifest("deployment.yaml").remove(0);
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "trial", "namespace": "evertoken"},
        "spec": deployment["spec"]["template"]["spec"],
    });
    let trial = |pod: &Value| {
        let path = "/api/v1/namespaces/evertoken/pods?dryRun=All&fieldValidation=Strict";
        let admin = cluster.api.admin();
        admin
            .request("POST", path, "application/json", Some(pod))
            .unwrap()
    };
    let admitted = trial(&pod);
    assert_eq!(admitted.status, 201, "{admitted}");
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(pod["spec"]["securityContext"]["runAsUser"], 65532);

    pod["spec"]["containers"][0]["securityContext"] = json!({});
    let refused = trial(&pod);
    assert_eq!(refused.status, 403, "admission is on: {refused}");
    assert!(refused.to_string().contains("restricted"), "{refused}");
}

#[test]
fn every_configuration_in_the_pages_on_deployment_passes_check() {
    let scene = Scene::new("pages").unwrap();
    let folder = workspace().unwrap().join("deploy");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let page = std::fs::read_to_string(&path).unwrap();
        let blocks = page.split("```yaml\n").skip(1);
        for block in blocks.filter_map(|rest| rest.split("```").next()) {
            seen += 1;
            let config = scene.config(block).unwrap();
            let finished = scene.command(&["check"], &config).unwrap();
            assert_eq!(
                finished.code(),
                Some(0),
                "{}: {}",
                path.display(),
                finished.stderr
            );
        }
    }
    assert!(seen >= 1, "the example has moved");
}

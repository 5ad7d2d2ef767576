//! The state store in Secrets of a real cluster, with a real issuer that refuses every reuse of a refresh token: several processes on
//! one store spend none twice, and one that follows another goes on where that was.

use std::path::PathBuf;
use std::time::Duration;

use data_encoding::BASE64;
use evertoken_tests::evertoken::Evertoken;
use evertoken_tests::keycloak::Keycloak;
use evertoken_tests::keycloak::realm::{ClientSpec, Realm, RealmSpec};
use evertoken_tests::kubernetes::{ApiServer, ServiceAccount};
use evertoken_tests::wait_until;

use crate::scene::{PATIENCE, Scene};

const CLIENT: (&str, &str) = ("desktop", "desktop-secret-1");
const PASSWORD: &str = "password-1";
/// Each has a login of its own.
const JOBS: [&str; 4] = ["anna", "bert", "cleo", "dora"];
/// With `every: 1s` a token of this life is refreshed after a quarter of it.
const LIFESPAN_SECONDS: u32 = 6;
/// Uses of the chains that two processes share in the test, all together. The long form is the same test with
/// `EVERTOKEN_ROTATIONS=1000`.
const USES: (&str, usize) = ("EVERTOKEN_ROTATIONS", 60);
/// Some seconds per use if the processes wait for each other's clocks; this machine may be busy.
const PATIENCE_PER_USE: Duration = Duration::from_secs(5);

struct Stage {
    scene: Scene,
    realm: Realm,
    account: ServiceAccount,
    api: &'static ApiServer,
    namespace: String,
    config: PathBuf,
}

impl Stage {
    fn new(name: &str) -> Option<Self> {
        let (Some(api), Some(keycloak)) =
            (ApiServer::shared().unwrap(), Keycloak::shared().unwrap())
        else {
            println!("skipped: needs Kubernetes and Keycloak");
            return None;
        };
        let client = ClientSpec::new(CLIENT.0, CLIENT.1)
            .lifespan(LIFESPAN_SECONDS)
            .direct_grants();
        let spec = RealmSpec::new(name).rotating(0).client(client);
        let spec = JOBS.iter().fold(spec, |spec, job| spec.user(job, PASSWORD));
        let realm = keycloak.realm(&spec).unwrap();
        let namespace = api.namespace(name).unwrap();
        let rules = serde_json::json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "create", "update"]}]);
        let account = api
            .service_account(&namespace, "evertoken", &rules)
            .unwrap();
        let scene = Scene::new(name).unwrap();
        scene.write("client-secret", CLIENT.1).unwrap();
        scene.write("key", &"5a".repeat(32)).unwrap();
        let mut yaml = format!(
            "state: {{secret: {{namespace: {namespace}}}, key: {{file: \"{{here}}/key\"}}}}\njobs:\n"
        );
        for job in JOBS {
            let login = realm.refresh_token(CLIENT, (job, PASSWORD), "openid offline_access");
            scene.write(job, &login.unwrap()).unwrap();
            yaml.push_str(&format!(
                r#"
- name: {job}
  source:
    plugin: oauth2
    config: {{grant: refresh_token, token_url: "{}", client_id: {}}}
    secrets:
      client_secret: {{file: "{{here}}/client-secret"}}
      refresh_token: {{file: "{{here}}/{job}", rotating: true}}
  refresh: {{every: 1s, jitter: 1s}}
  outputs:
  - file: {{path: "{{out}}/{job}"}}
"#,
                realm.token_url(),
                CLIENT.0
            ));
        }
        let config = scene.config(&yaml).unwrap();
        Some(Self {
            scene,
            realm,
            account,
            api,
            namespace,
            config,
        })
    }

    fn run(&self) -> Evertoken {
        let launch = self.scene.launch().unwrap();
        launch
            .env("KUBECONFIG", &self.account.kubeconfig)
            .args(["run", "--config"])
            .args([&self.config])
            .spawn()
            .unwrap()
    }

    /// `evertoken state …` beside whatever runs.
    fn state(&self, arguments: &[&str]) -> String {
        let launch = self.scene.launch().unwrap();
        let finished = launch
            .env("KUBECONFIG", &self.account.kubeconfig)
            .args(["state"])
            .args(arguments)
            .args(["--config"])
            .args([&self.config])
            .finish(PATIENCE)
            .unwrap();
        assert_eq!(finished.code(), Some(0), "{}", finished.stderr);
        finished.stdout
    }

    /// The refresh tokens that Keycloak was sent, in their order.
    fn sent(&self) -> Vec<String> {
        let requests = self.realm.token_requests(CLIENT.0);
        requests
            .iter()
            .map(|request| request.field("refresh_token").unwrap())
            .collect()
    }

    fn wait_for_uses(&self, uses: usize, processes: &[&Evertoken]) {
        let sent = self.sent().len();
        let wanted = u32::try_from(uses.saturating_sub(sent)).unwrap();
        let patience = PATIENCE + PATIENCE_PER_USE * wanted;
        let waited = wait_until("uses of the refresh tokens", patience, || {
            (self.sent().len() >= uses).then_some(())
        });
        waited.unwrap_or_else(|error| {
            let logs: Vec<String> = processes.iter().map(|process| process.stderr()).collect();
            panic!("{error:#}\n{}", logs.join("\n--\n"))
        });
    }

    /// No start succeeds, for this reason, and `check --online` knew before.
    fn assert_refused(&self, reason: &str) {
        for command in [&["run"][..], &["check", "--online"]] {
            let launch = self.scene.launch().unwrap();
            let finished = launch
                .env("KUBECONFIG", &self.account.kubeconfig)
                .args(command)
                .args(["--config"])
                .args([&self.config])
                .finish(PATIENCE)
                .unwrap();
            let said = format!("{}{}", finished.stdout, finished.stderr);
            assert_eq!(finished.code(), Some(1), "{said}");
            assert!(said.contains(reason), "{said}");
        }
    }

    fn assert_none_was_sent_twice(&self) {
        let mut sent = self.sent();
        let all = sent.len();
        sent.sort();
        sent.dedup();
        assert_eq!(sent.len(), all, "a spent refresh token was sent again");
    }
}

#[test]
fn two_processes_on_one_store_spend_no_refresh_token_twice() {
    let Some(stage) = Stage::new("state-two") else {
        return;
    };
    let uses = std::env::var(USES.0).map_or(USES.1, |uses| uses.parse().unwrap());
    let (one, other) = (stage.run(), stage.run());
    stage.wait_for_uses(uses, &[&one, &other]);
    let shown = stage.state(&["show", JOBS[0]]);
    assert!(shown.contains("refresh_token: "), "{shown}");
    for process in [&one, &other] {
        process.terminate(PATIENCE).unwrap();
    }
    stage.assert_none_was_sent_twice();
    // A process that comes after them goes on with their chain, although its configuration still has the seed.
    let uses = stage.sent().len();
    let next = stage.run();
    stage.wait_for_uses(uses + 2, &[&next]);
    next.terminate(PATIENCE).unwrap();
    stage.assert_none_was_sent_twice();
    stage.scene.write("key", &"5b".repeat(32)).unwrap();
    stage.assert_refused("which `state.key` does not have");
    let chains = format!(
        "/api/v1/namespaces/{}/secrets?labelSelector=state.evertoken.dev%2Fkind%3Dchain",
        stage.namespace
    );
    let list = stage.api.admin().get(&chains).unwrap().unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), JOBS.len());
}

#[test]
fn a_process_whose_store_is_deleted_goes_on_with_what_it_knows() {
    let Some(stage) = Stage::new("state-gone") else {
        return;
    };
    let process = stage.run();
    stage.wait_for_uses(3 * JOBS.len(), &[&process]);
    let secrets = format!("/api/v1/namespaces/{}/secrets", stage.namespace);
    let admin = stage.api.admin();
    let list = admin.get(&secrets).unwrap().unwrap();
    for item in list["items"].as_array().unwrap() {
        let name = item["metadata"]["name"].as_str().unwrap();
        admin.delete_secret(&stage.namespace, name).unwrap();
    }
    let uses = stage.sent().len();
    stage.wait_for_uses(uses + 4 * JOBS.len(), &[&process]);
    process.terminate(PATIENCE).unwrap();
    // It is all there again for whoever comes next.
    let uses = stage.sent().len();
    let next = stage.run();
    stage.wait_for_uses(uses + JOBS.len(), &[&next]);
    next.terminate(PATIENCE).unwrap();
    stage.assert_none_was_sent_twice();
    // Without its key the store does not tell what was spent, so nothing is sent.
    admin
        .delete_secret(&stage.namespace, "evertoken-state-store")
        .unwrap();
    stage.assert_refused("Secret evertoken-state-store with their fingerprint key is gone");
    stage.assert_none_was_sent_twice();
}

#[test]
fn a_store_is_taken_over_unencrypted_once_and_what_is_put_there_later_is_not_believed() {
    let Some(api) = ApiServer::shared().unwrap() else {
        println!("skipped: needs Kubernetes");
        return;
    };
    let namespace = api.namespace("state-key").unwrap();
    let rules = serde_json::json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "create", "update"]}]);
    let account = api
        .service_account(&namespace, "evertoken", &rules)
        .unwrap();
    let scene = Scene::new("state-key").unwrap();
    scene.write("key", &"5a".repeat(32)).unwrap();
    let once = |key: &str| {
        let config = scene.config(&format!(
            "state: {{secret: {{namespace: {namespace}}}{key}}}\njobs:\n- name: a\n  source: {{plugin: dummy, config: {{lifetime: 1h}}}}\n  outputs: [{{file: {{path: \"{{out}}/a\"}}}}]\n"
        ));
        let launch = scene.launch().unwrap();
        launch
            .env("KUBECONFIG", &account.kubeconfig)
            .args(["once", "--timeout", "20s", "--config"])
            .args([config.unwrap()])
            .finish(PATIENCE)
            .unwrap()
    };
    let with_key = ", key: {file: \"{here}/key\"}";
    let all =
        format!("/api/v1/namespaces/{namespace}/secrets?labelSelector=state.evertoken.dev%2Fstore");
    // Every record by its Secret's name and its key.
    let records = || {
        let list = api.admin().get(&all).unwrap().unwrap();
        let mut records = Vec::new();
        for secret in list["items"].as_array().unwrap() {
            for (key, value) in secret["data"].as_object().unwrap() {
                let name = secret["metadata"]["name"].as_str().unwrap().to_owned();
                records.push((name, key.clone(), value.as_str().unwrap().to_owned()));
            }
        }
        records
    };
    // The first byte says whether a record is encrypted.
    let is_encrypted = |value: &str| BASE64.decode(value.as_bytes()).unwrap().first() == Some(&1);
    assert_eq!(once("").code(), Some(0));
    let plain = records();
    assert!(!plain.iter().any(|(.., value)| is_encrypted(value)));
    for _ in 0..2 {
        let finished = once(with_key);
        assert_eq!(finished.code(), Some(0), "{}", finished.stderr);
        assert!(
            !finished.stderr.contains("not encrypted"),
            "{}",
            finished.stderr
        );
        let taken = records();
        assert_eq!(taken.len(), plain.len());
        for (name, key, value) in taken {
            assert!(is_encrypted(&value), "{name}: {key}");
        }
    }
    for (name, key, value) in plain.iter().filter(|(_, key, _)| key == "token") {
        let patch = serde_json::json!({"data": {key: value}});
        api.admin().patch_secret(&namespace, name, &patch).unwrap();
        let finished = once(with_key);
        assert!(
            finished.stderr.contains("is not encrypted") && finished.stderr.contains(name),
            "{}",
            finished.stderr
        );
        let left = api.admin().secret(&namespace, name).unwrap().unwrap();
        assert_eq!(left["data"][key], **value, "it is left as it is");
    }
}

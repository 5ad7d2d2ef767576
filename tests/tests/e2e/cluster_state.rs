//! The state store in Secrets of a real cluster, with a real issuer that refuses every reuse of a refresh token: several processes on
//! one store spend none twice, and one that follows another goes on where that was.

use std::path::PathBuf;
use std::time::Duration;

use evertoken_tests::evertoken::Evertoken;
use evertoken_tests::keycloak::Keycloak;
use evertoken_tests::keycloak::realm::{ClientSpec, Realm, RealmSpec};
use evertoken_tests::kubernetes::{ApiServer, ServiceAccount};
use evertoken_tests::wait_until;

use crate::scene::{PATIENCE, Scene};

const CLIENT: (&str, &str) = ("desktop", "desktop-secret-1");
const USER: (&str, &str) = ("alice", "alice-password-1");
/// With `every: 1s` a token of this life is refreshed after a quarter of it.
const LIFESPAN_SECONDS: u32 = 6;
/// Uses of the chain that two processes share in the test.
const USES: usize = 40;
/// Some seconds per use if the processes wait for each other's clocks; this machine may be busy.
const USES_PATIENCE: Duration = Duration::from_secs(240);

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
        let spec = RealmSpec::new(name)
            .rotating(0)
            .client(client)
            .user(USER.0, USER.1);
        let realm = keycloak.realm(&spec).unwrap();
        let seed = realm
            .refresh_token(CLIENT, USER, "openid offline_access")
            .unwrap();
        let namespace = api.namespace(name).unwrap();
        let rules = serde_json::json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "create", "update"]}]);
        let account = api
            .service_account(&namespace, "evertoken", &rules)
            .unwrap();
        let scene = Scene::new(name).unwrap();
        scene.write("client-secret", CLIENT.1).unwrap();
        scene.write("refresh-token", &seed).unwrap();
        scene.write("key", &"5a".repeat(32)).unwrap();
        let config = scene
            .config(&format!(
                r#"
state: {{secret: {{namespace: {namespace}}}, key: {{file: "{{here}}/key"}}}}
jobs:
- name: desktop
  source:
    plugin: oauth2
    config: {{grant: refresh_token, token_url: "{}", client_id: {}}}
    secrets:
      client_secret: {{file: "{{here}}/client-secret"}}
      refresh_token: {{file: "{{here}}/refresh-token", rotating: true}}
  refresh: {{every: 1s, jitter: 1s}}
  outputs:
  - file: {{path: "{{out}}/token"}}
"#,
                realm.token_url(),
                CLIENT.0
            ))
            .unwrap();
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
        let waited = wait_until("uses of the refresh token", USES_PATIENCE, || {
            (self.sent().len() >= uses).then_some(())
        });
        waited.unwrap_or_else(|error| {
            let logs: Vec<String> = processes.iter().map(|process| process.stderr()).collect();
            panic!("{error:#}\n{}", logs.join("\n--\n"))
        });
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
    let (one, other) = (stage.run(), stage.run());
    stage.wait_for_uses(USES, &[&one, &other]);
    let shown = stage.state(&["show", "desktop"]);
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
    let chains = format!(
        "/api/v1/namespaces/{}/secrets?labelSelector=state.evertoken.dev%2Fkind%3Dchain",
        stage.namespace
    );
    let list = stage.api.admin().get(&chains).unwrap().unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}

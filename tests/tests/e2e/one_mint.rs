//! The main job: one token of a real issuer in a file and in a Secret of a real API server, renewed in time, at the price of one
//! request to the issuer and one to the API server.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evertoken_tests::evertoken::Evertoken;
use evertoken_tests::keycloak::Keycloak;
use evertoken_tests::keycloak::realm::{ClientSpec, Realm, RealmSpec};
use evertoken_tests::kubernetes::audit::AuditEvent;
use evertoken_tests::kubernetes::{ApiServer, ServiceAccount};
use evertoken_tests::reader::{PollReader, Sight};
use evertoken_tests::wait_until;
use serde_json::{Value, json};

use crate::scene::{PATIENCE, Scene};

/// How long the short form watches. The long one is the same test with `EVERTOKEN_WATCH_SECONDS=600`.
const WATCH: Duration = Duration::from_secs(40);

/// Tokens of this test live this long: short enough to see several renewals, long enough for the rule's margins to mean something.
const LIFESPAN_SECONDS: u32 = 15;

fn watch() -> (Duration, u32) {
    match std::env::var("EVERTOKEN_WATCH_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
    {
        Some(seconds) => (Duration::from_secs(seconds), 60),
        None => (WATCH, LIFESPAN_SECONDS),
    }
}

/// A JWT is whole if its three parts are there and its claims parse; what is torn has not both.
fn judge(content: &[u8]) -> Sight {
    let Some(claims) = claims(content) else {
        return Sight::Partial;
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    if claims["exp"].as_u64().is_some_and(|exp| exp > now) {
        Sight::Good
    } else {
        Sight::Expired
    }
}

fn claims(token: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(token).ok()?;
    let [_, payload, signature] =
        <[&str; 3]>::try_from(text.split('.').collect::<Vec<_>>()).ok()?;
    if signature.is_empty() {
        return None;
    }
    serde_json::from_slice(
        &data_encoding::BASE64URL_NOPAD
            .decode(payload.as_bytes())
            .ok()?,
    )
    .ok()
}

struct Stage {
    scene: Scene,
    config: PathBuf,
    realm: Realm,
    cluster: &'static ApiServer,
    account: ServiceAccount,
    namespace: String,
}

impl Stage {
    /// A client of Keycloak whose token goes to a file and a Secret; none if a real part is switched off.
    fn new(name: &str, lifespan_seconds: u32) -> Option<Self> {
        let (Some(keycloak), Some(cluster)) =
            (Keycloak::shared().unwrap(), ApiServer::shared().unwrap())
        else {
            println!("skipped: needs Keycloak and Kubernetes");
            return None;
        };
        let client = ClientSpec::new("warehouse", "warehouse-secret-1").lifespan(lifespan_seconds);
        let realm = keycloak
            .realm(&RealmSpec::new(name).client(client))
            .unwrap();
        let namespace = cluster.namespace(name).unwrap();
        let rules = json!([
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["warehouse-token"], "verbs": ["patch"]},
        ]);
        let account = cluster
            .service_account(&namespace, "evertoken", &rules)
            .unwrap();
        let scene = Scene::new(name).unwrap();
        scene
            .write("client-secret", "warehouse-secret-1\n")
            .unwrap();
        let config = scene
            .config(&format!(
                r#"
state: {{dir: "{{here}}/state"}}
jobs:
- name: warehouse
  source:
    plugin: oauth2
    config: {{grant: client_credentials, token_url: "{}", client_id: warehouse}}
    secrets:
      client_secret: {{file: "{{here}}/client-secret"}}
  outputs:
  - file: {{path: "{{out}}/token", mode: "0400"}}
  - secret: {{namespace: {namespace}, name: warehouse-token, key: token, create: true}}
"#,
                realm.token_url()
            ))
            .unwrap();
        Some(Self {
            scene,
            config,
            realm,
            cluster,
            account,
            namespace,
        })
    }

    fn start(&self) -> Evertoken {
        let launch = self
            .scene
            .launch()
            .unwrap()
            .env("KUBECONFIG", &self.account.kubeconfig);
        launch
            .args(["run", "-v", "--config"])
            .args([&self.config])
            .spawn()
            .unwrap()
    }

    fn file(&self) -> PathBuf {
        self.scene.out("token")
    }

    fn in_cluster(&self) -> Option<Vec<u8>> {
        self.cluster
            .admin()
            .secret_value(&self.namespace, "warehouse-token", "token")
            .unwrap()
    }

    fn resource_version(&self) -> String {
        let secret = self
            .cluster
            .admin()
            .secret(&self.namespace, "warehouse-token")
            .unwrap()
            .unwrap();
        secret["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// What evertoken asked the API server for, discovery and all.
    fn api_requests(&self) -> Vec<AuditEvent> {
        self.cluster
            .audit_events_of_user(&self.account.username)
            .unwrap()
            .into_iter()
            .filter(|event| event.user_agent.starts_with("evertoken/"))
            .collect()
    }

    fn minted(&self) -> usize {
        self.realm.token_requests("warehouse").len()
    }

    fn wait_for_both_outputs(&self, process: &Evertoken) {
        let written = wait_until("both outputs", PATIENCE, || {
            let file = std::fs::read(self.file()).ok()?;
            (self.in_cluster()? == file).then_some(())
        });
        written.unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    }
}

#[test]
fn one_mint_reaches_a_file_and_a_secret_and_is_renewed_before_it_dies() {
    let (watch, lifespan_seconds) = watch();
    let Some(stage) = Stage::new("mint", lifespan_seconds) else {
        return;
    };
    let process = stage.start();
    stage.wait_for_both_outputs(&process);
    assert_eq!(
        std::fs::metadata(stage.file()).unwrap().mode() & 0o7777,
        0o400
    );

    let reader = PollReader::start(&stage.file(), judge);
    std::thread::sleep(watch);
    let seen = reader.stop().unwrap();
    assert!(
        seen.is_good(),
        "{:?}\n{}",
        seen.faults.first(),
        process.stderr()
    );
    assert!(
        seen.contents.len() >= 3,
        "renewed {} times within {watch:?}",
        seen.contents.len() - 1
    );

    assert_eq!(
        process.terminate(Duration::from_secs(5)).unwrap().code(),
        Some(0)
    );
    assert_eq!(
        stage.in_cluster().unwrap(),
        std::fs::read(stage.file()).unwrap()
    );
    let requests = stage.api_requests();
    assert_eq!(
        requests.len(),
        stage.minted(),
        "one PATCH for each token and nothing else: {requests:#?}"
    );
    assert!(
        requests
            .iter()
            .all(|event| event.verb == "patch" && event.code < 300),
        "{requests:#?}"
    );
}

#[test]
fn a_restart_with_a_good_token_asks_the_issuer_for_nothing_and_changes_no_resource_version() {
    let Some(stage) = Stage::new("restart", 300) else {
        return;
    };
    let process = stage.start();
    stage.wait_for_both_outputs(&process);
    assert_eq!(
        process.terminate(Duration::from_secs(5)).unwrap().code(),
        Some(0)
    );
    let (version, modified) = (
        stage.resource_version(),
        std::fs::metadata(stage.file()).unwrap().modified().unwrap(),
    );
    assert_eq!((stage.minted(), stage.api_requests().len()), (1, 1));

    let process = stage.start();
    wait_until("the Secret to be verified", PATIENCE, || {
        (stage.api_requests().len() > 1).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    assert_eq!(
        process.terminate(Duration::from_secs(5)).unwrap().code(),
        Some(0)
    );
    let requests = stage.api_requests();
    assert_eq!(requests.len(), 2, "{requests:#?}");
    assert_eq!(requests[1].verb, "patch");
    assert_eq!(stage.resource_version(), version);
    assert_eq!(
        std::fs::metadata(stage.file()).unwrap().modified().unwrap(),
        modified
    );
    assert_eq!(stage.minted(), 1, "the issuer was asked at restart");
}

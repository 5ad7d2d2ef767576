//! Secrets of jobs that live in the cluster: a member of JSON in a key, what is missing, what appears later, what is rotated.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use evertoken_tests::issuer::Issuer;
use evertoken_tests::kubernetes::{ApiServer, ServiceAccount};
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;
use serde_json::{Value, json};

use crate::scene::{PATIENCE, Scene};

/// An issuer that says which client secret it was given, and a Secret that holds it.
struct Stage {
    scene: Scene,
    cluster: &'static ApiServer,
    namespace: String,
    account: ServiceAccount,
    issuer: Issuer,
}

impl Stage {
    fn new(name: &str) -> Option<Self> {
        let Some(cluster) = ApiServer::shared().unwrap() else {
            println!("skipped: needs Kubernetes");
            return None;
        };
        let namespace = cluster.namespace(name).unwrap();
        let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["client"], "verbs": ["get"]}]);
        let account = cluster
            .service_account(&namespace, "evertoken", &rules)
            .unwrap();
        let issuer = Issuer::start().unwrap();
        issuer.respond_with("/token", |request| match request.basic_auth() {
            Some((_, secret)) => Behaviour::token(&format!("token for {secret}"), 4),
            None => Behaviour::oauth_error(401, "invalid_client"),
        });
        Some(Self {
            scene: Scene::new(name).unwrap(),
            cluster,
            namespace,
            account,
            issuer,
        })
    }

    /// A job whose client secret is at `part` of the Secret `client`, e.g. `key: secret`.
    fn config(&self, part: &str) -> PathBuf {
        let (namespace, token_url) = (&self.namespace, self.issuer.url("/token"));
        self.scene
            .config(&format!(
                r#"
state: {{dir: "{{here}}/state"}}
jobs:
- name: svc
  source:
    plugin: oauth2
    config: {{grant: client_credentials, token_url: "{token_url}", client_id: svc}}
    secrets:
      client_secret: {{secret: {{namespace: {namespace}, name: client, {part}}}}}
  outputs:
  - file: {{path: "{{out}}/token"}}
"#
            ))
            .unwrap()
    }

    fn create(&self, data: Value) {
        let admin = self.cluster.admin();
        admin
            .create_secret(&self.namespace, "client", json!({"stringData": data}))
            .unwrap();
    }

    fn start(&self, config: &PathBuf) -> evertoken_tests::evertoken::Evertoken {
        let launch = self.scene.launch().unwrap();
        launch
            .env("KUBECONFIG", &self.account.kubeconfig)
            .args(["run", "-v", "--config"])
            .args([config])
            .spawn()
            .unwrap()
    }

    fn wait_for(&self, token: &str, process: &evertoken_tests::evertoken::Evertoken) {
        wait_until(token, PATIENCE, || {
            (std::fs::read_to_string(self.scene.out("token")).ok()? == token).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    }
}

#[test]
fn a_json_pointer_picks_the_client_secret_out_of_a_key() {
    let Some(stage) = Stage::new("pointer") else {
        return;
    };
    stage.create(json!({"credentials.json": r#"{"web": {"id": "svc", "the/secret": "in-json"}}"#}));
    let config = stage.config("key: credentials.json, pointer: /web/the~1secret");
    let process = stage.start(&config);
    stage.wait_for("token for in-json", &process);
}

#[test]
fn what_a_secret_lacks_is_said_by_its_name_and_the_issuer_is_not_asked() {
    let Some(stage) = Stage::new("lacking") else {
        return;
    };
    stage.create(json!({"secret": "hidden-1", "list": "[\"hidden-2\"]"}));
    for (part, code, words) in [
        ("key: secert", "kubernetes.not-found", "secert"),
        (
            "key: secret, pointer: /web",
            "secret.no-such-part",
            "is not JSON",
        ),
        (
            "key: list, pointer: /1",
            "secret.no-such-part",
            "has nothing there",
        ),
    ] {
        let config = stage.config(part);
        let process = stage.start(&config);
        let failure = stage.scene.failure(&config, &process, "svc", PATIENCE);
        assert_eq!(failure.code, code, "{part}: {failure:?}");
        assert_eq!(failure.kind, "invalid-config", "{part}: {failure:?}");
        assert!(failure.message.contains(words), "{part}: {failure:?}");
        assert!(
            failure
                .message
                .contains(&format!("{}/client", stage.namespace)),
            "{part}: {failure:?}"
        );
        assert!(
            !process.stderr().contains("hidden-"),
            "{}",
            process.stderr()
        );
    }
    assert!(stage.issuer.requests().is_empty());
}

#[test]
fn a_secret_that_appears_later_is_used_without_a_restart_and_before_the_next_try_is_due() {
    let Some(stage) = Stage::new("later") else {
        return;
    };
    let config = stage.config("key: secret");
    let process = stage.start(&config);
    let failure = stage.scene.failure(&config, &process, "svc", PATIENCE);
    assert_eq!(failure.code, "kubernetes.not-found", "{failure:?}");
    // The second try is ten seconds after the first, the third a minute after the second.
    wait_until("the second failure", PATIENCE, || {
        let row = stage.scene.row(&config, "svc")?;
        (row["attempt"] == 2).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    let second = Instant::now();
    stage.create(json!({"secret": "late"}));
    stage.wait_for("token for late", &process);
    let took = second.elapsed();
    assert!(took < Duration::from_secs(50), "{took:?}");
}

#[test]
fn a_rotated_client_secret_is_used_at_the_next_refresh() {
    let Some(stage) = Stage::new("rotated") else {
        return;
    };
    stage.create(json!({"secret": "before"}));
    let config = stage.config("key: secret");
    let process = stage.start(&config);
    stage.wait_for("token for before", &process);
    let patch = json!({"stringData": {"secret": "after"}});
    let admin = stage.cluster.admin();
    admin
        .patch_secret(&stage.namespace, "client", &patch)
        .unwrap();
    stage.wait_for("token for after", &process);
}

#[test]
fn a_home_that_cannot_be_written_is_one_line_and_one_when_it_can() {
    let Some(stage) = Stage::new("home") else {
        return;
    };
    stage.create(json!({"login": "rt-0"}));
    let used = Arc::new(AtomicUsize::new(0));
    let uses = Arc::clone(&used);
    stage.issuer.respond_with("/token", move |_| {
        let nth = uses.fetch_add(1, Ordering::SeqCst) + 1;
        Behaviour::json(
            200,
            &json!({"access_token": format!("at-{nth}"), "token_type": "Bearer", "expires_in": 4,
                "refresh_token": format!("rt-{nth}")}),
        )
    });
    let (namespace, token_url) = (&stage.namespace, stage.issuer.url("/token"));
    let config = stage
        .scene
        .config(&format!(
            r#"
state: {{dir: "{{here}}/state"}}
jobs:
- name: svc
  source:
    plugin: oauth2
    config: {{grant: refresh_token, token_url: "{token_url}", client_id: svc}}
    secrets:
      refresh_token: {{secret: {{namespace: {namespace}, name: client, key: login}}, rotating: true, write_back: true}}
  refresh: {{every: 1s, jitter: 1s}}
  outputs:
  - file: {{path: "{{out}}/token"}}
"#
        ))
        .unwrap();
    let process = stage.start(&config);
    let wait_for_uses = |count: usize| {
        wait_until("refreshes", PATIENCE, || {
            (used.load(Ordering::SeqCst) >= count).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    };
    wait_for_uses(4);
    let said = |words: &str| {
        let lines = process.stderr();
        lines.lines().filter(|line| line.contains(words)).count()
    };
    assert_eq!(said("WARN the newest value cannot be written back"), 1);
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["client"], "verbs": ["patch"]}]);
    let user = &stage.account.username;
    stage
        .cluster
        .grant(namespace, "late", user, &rules)
        .unwrap();
    wait_until("the newest value in its home", PATIENCE, || {
        let admin = stage.cluster.admin();
        let held = admin.secret_value(namespace, "client", "login").ok()??;
        (held != b"rt-0").then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    wait_for_uses(used.load(Ordering::SeqCst) + 2);
    assert_eq!(
        said("INFO the newest value is written back again"),
        1,
        "{}",
        process.stderr()
    );
    assert_eq!(said("WARN the newest value cannot be written back"), 1);
}

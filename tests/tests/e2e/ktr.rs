//! kube-token-refresher's job, from its own settings, under exactly the Role that its installation page prints.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use evertoken_tests::evertoken::{Evertoken, Launch};
use evertoken_tests::issuer::Issuer;
use evertoken_tests::kubernetes::{ApiServer, ServiceAccount};
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;
use serde_json::{Value, json};

use crate::scene::{PATIENCE, Scene};

/// A cluster with the Role of the page, an issuer, and the Secret to keep fresh.
struct Stage {
    scene: Scene,
    cluster: &'static ApiServer,
    namespace: String,
    account: ServiceAccount,
    issuer: Issuer,
}

impl Stage {
    fn new(verbs: &[&str]) -> Option<Self> {
        let Some(cluster) = ApiServer::shared().unwrap() else {
            println!("skipped: needs Kubernetes");
            return None;
        };
        let namespace = cluster.namespace("ktr").unwrap();
        let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": verbs}]);
        let account = cluster
            .service_account(&namespace, "kube-token-refresher", &rules)
            .unwrap();
        let issuer = Issuer::start().unwrap();
        let serial = AtomicU64::new(0);
        issuer.respond_with("/token", move |_| {
            Behaviour::token(
                &format!("token-{}", serial.fetch_add(1, Ordering::SeqCst)),
                3600,
            )
        });
        Some(Self {
            scene: Scene::new("ktr").unwrap(),
            cluster,
            namespace,
            account,
            issuer,
        })
    }

    /// The Secret as a user has it before: another key, another label, its own type.
    fn prepare_secret(&self) {
        let secret = json!({
            "metadata": {"labels": {"owner": "broker"}},
            "type": "example.org/broker",
            "stringData": {"token": "stale", "username": "broker"},
        });
        self.cluster
            .admin()
            .create_secret(&self.namespace, "bearer-creds", secret)
            .unwrap();
    }

    fn secret(&self) -> Option<Value> {
        self.cluster
            .admin()
            .secret(&self.namespace, "bearer-creds")
            .unwrap()
    }

    fn token(&self) -> Option<String> {
        let encoded = self.secret()?["data"]["token"].as_str()?.to_owned();
        String::from_utf8(BASE64.decode(encoded.as_bytes()).ok()?).ok()
    }

    /// Writes an annotation and sees a moment later that it was not taken back.
    fn write_and_expect(&self, annotation: &str, value: &str) {
        let patch = json!({"metadata": {"annotations": {annotation: value}}});
        self.cluster
            .admin()
            .patch_secret(&self.namespace, "bearer-creds", &patch)
            .unwrap();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(
            self.secret().unwrap()["metadata"]["annotations"][annotation],
            value,
            "a write of somebody else was lost"
        );
    }

    /// A command line called `ktr`, as the image's is.
    fn ktr(&self) -> Launch {
        let link = self.scene.path("ktr");
        if !link.exists() {
            std::os::unix::fs::symlink(evertoken_tests::evertoken::binary().unwrap(), &link)
                .unwrap();
        }
        let cache = evertoken_tests::workdir::parts().unwrap().join("cache");
        std::fs::create_dir_all(&cache).unwrap();
        Launch::of(&link)
            .env("XDG_CACHE_HOME", cache)
            .env("KUBECONFIG", &self.account.kubeconfig)
    }

    /// The variables of the installation page.
    fn documented(&self, launch: Launch) -> Launch {
        launch
            .env("KTR_SECRET_NAME", "bearer-creds")
            .env("KTR_SECRET_NAMESPACE", &self.namespace)
            .env("KTR_INTERVAL", "500")
            .env("KTR_OIDC_TOKENURL", self.issuer.url("/token"))
            .env("KTR_OIDC_CLIENTID", "broker")
            .env("KTR_OIDC_CLIENTSECRET", "broker-secret-1")
    }

    fn wait_for_token(&self, process: &Evertoken) -> String {
        wait_until("the token in the Secret", PATIENCE, || {
            self.token().filter(|token| token.starts_with("token-"))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()))
    }
}

#[test]
fn the_installation_page_works_unchanged_and_sigterm_ends_it_within_a_second() {
    let Some(stage) = Stage::new(&["get", "update"]) else {
        return;
    };
    stage.prepare_secret();
    let process = stage.documented(stage.ktr()).spawn().unwrap();
    assert_eq!(stage.wait_for_token(&process), "token-0");

    let secret = stage.secret().unwrap();
    assert_eq!(secret["type"], "example.org/broker");
    assert_eq!(
        secret["data"]["username"],
        BASE64.encode("broker".as_bytes()),
        "other keys are untouched"
    );
    assert_eq!(
        secret["metadata"]["labels"],
        json!({"owner": "broker", "ktr.appuio.ch/managed": "true"})
    );

    let asked = stage.issuer.requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0].field("grant_type").as_deref(),
        Some("client_credentials")
    );
    assert_eq!(asked[0].field("client_id").as_deref(), Some("broker"));
    assert_eq!(
        asked[0].field("client_secret").as_deref(),
        Some("broker-secret-1"),
        "credentials in the body, as before"
    );
    assert_eq!(asked[0].header("authorization"), None);

    let verbs: Vec<_> = stage
        .cluster
        .audit_events_of_user(&stage.account.username)
        .unwrap()
        .into_iter()
        .filter(|event| event.user_agent.starts_with("evertoken/"))
        .map(|event| (event.verb, event.code))
        .collect();
    assert_eq!(verbs, [("get".to_owned(), 200), ("update".to_owned(), 200)]);

    let before = Instant::now();
    assert_eq!(
        process.terminate(Duration::from_secs(1)).unwrap().code(),
        Some(0)
    );
    assert!(before.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_missing_secret_is_made_where_the_role_has_create() {
    let Some(stage) = Stage::new(&["get", "update", "create"]) else {
        return;
    };
    let process = stage.documented(stage.ktr()).spawn().unwrap();
    stage.wait_for_token(&process);
    let secret = stage.secret().unwrap();
    assert_eq!(secret["type"], "Opaque");
    assert_eq!(
        secret["metadata"]["labels"],
        json!({"ktr.appuio.ch/managed": "true"})
    );
    assert_eq!(secret["data"].as_object().unwrap().len(), 1);
}

#[test]
fn a_missing_create_in_the_role_is_said_with_the_verb_and_the_token_waits() {
    let Some(stage) = Stage::new(&["get", "update"]) else {
        return;
    };
    let process = stage.documented(stage.ktr()).spawn().unwrap();
    process
        .wait_for("the missing verb", PATIENCE, |process| {
            process.stderr().contains("create")
        })
        .unwrap();
    stage.prepare_secret();
    assert_eq!(
        stage.wait_for_token(&process),
        "token-0",
        "the issuer is not asked again for a failed write"
    );
    assert_eq!(stage.issuer.requests().len(), 1);
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let Some(stage) = Stage::new(&["get", "update"]) else {
        return;
    };
    stage.prepare_secret();
    let file = stage
        .scene
        .write(
            "ktr.yaml",
            &format!(
                "secret:\n  name: from-file\n  namespace: {}\n  key: token\ninterval: 500\nlog:\n  level: debug\n  format: json\noidc:\n  tokenurl: {}\n  clientid: from-file\n  clientsecret: broker-secret-1\n",
                stage.namespace,
                stage.issuer.url("/token")
            ),
        )
        .unwrap();
    let process = stage
        .ktr()
        .env("KTR_SECRET_NAME", "from-env")
        .env("KTR_OIDC_CLIENTID", "from-env")
        .args(["--config"])
        .args([&file])
        .args(["--secret.name=bearer-creds"])
        .spawn()
        .unwrap();
    stage.wait_for_token(&process);
    assert_eq!(
        stage.issuer.requests()[0].field("client_id").as_deref(),
        Some("from-env")
    );
    process
        .wait_for("JSON log lines", PATIENCE, |process| {
            process.stderr().lines().any(|line| line.starts_with('{'))
        })
        .unwrap();
}

#[test]
fn the_dummy_provider_counts_and_the_interval_is_obeyed() {
    let Some(stage) = Stage::new(&["get", "update"]) else {
        return;
    };
    stage.prepare_secret();
    let process = stage
        .ktr()
        .env("KTR_DUMMYPROVIDER", "true")
        .env("KTR_SECRET_NAME", "bearer-creds")
        .env("KTR_SECRET_NAMESPACE", &stage.namespace)
        .env("KTR_INTERVAL", "2")
        .spawn()
        .unwrap();
    for expected in ["token 1", "token 2", "token 3"] {
        wait_until(expected, Duration::from_secs(20), || {
            stage.token().filter(|token| token == expected)
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    }
}

/// Get and put is not atomic; resourceVersion makes it so. Whoever writes the Secret meanwhile makes a 409 of the put.
#[test]
fn in_a_conflict_nobodys_write_is_lost_and_the_token_arrives() {
    let Some(stage) = Stage::new(&["get", "update"]) else {
        return;
    };
    stage.prepare_secret();
    let process = stage
        .ktr()
        .env("KTR_DUMMYPROVIDER", "true")
        .env("KTR_SECRET_NAME", "bearer-creds")
        .env("KTR_SECRET_NAMESPACE", &stage.namespace)
        .env("KTR_INTERVAL", "1")
        .spawn()
        .unwrap();
    let writes = AtomicU64::new(0);
    let is_over = AtomicBool::new(false);
    let conflicts = || {
        let events = stage
            .cluster
            .audit_events_of_user(&stage.account.username)
            .unwrap();
        events
            .iter()
            .filter(|event| event.verb == "update" && event.code == 409)
            .count()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                let number = writes.fetch_add(1, Ordering::SeqCst).to_string();
                stage.write_and_expect("somebody", &number);
            }
        });
        let found = wait_until("a conflict", PATIENCE, || {
            std::thread::sleep(Duration::from_millis(500));
            (conflicts() > 0).then_some(())
        });
        is_over.store(true, Ordering::SeqCst);
        found.unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    });
    let before = stage.token();
    wait_until("the next token", PATIENCE, || {
        (stage.token() != before).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    let last = (writes.load(Ordering::SeqCst) - 1).to_string();
    assert_eq!(
        stage.secret().unwrap()["metadata"]["annotations"]["somebody"],
        last
    );
}

#[test]
fn a_wrong_setting_is_an_error_before_anything_starts() {
    let scene = Scene::new("ktr-usage").unwrap();
    let complete = |launch: Launch| {
        launch
            .env("KTR_SECRET_NAME", "a")
            .env("KTR_SECRET_NAMESPACE", "b")
            .env("KTR_OIDC_TOKENURL", "https://idp.example.org/token")
            .env("KTR_OIDC_CLIENTID", "c")
            .env("KTR_OIDC_CLIENTSECRET", "d")
    };
    for (arguments, interval, said) in [
        (vec!["--intervall", "3"], "500", "--intervall"),
        (vec![], "0", "interval"),
        (vec![], "500s", "500s"),
    ] {
        let mut command = vec!["ktr"];
        command.extend(&arguments);
        let finished = complete(scene.launch().unwrap())
            .env("KTR_INTERVAL", interval)
            .args(command)
            .finish(PATIENCE)
            .unwrap();
        assert_eq!(
            finished.code(),
            Some(64),
            "{arguments:?} {interval}: {}",
            finished.stderr
        );
        assert!(finished.stderr.contains(said), "{}", finished.stderr);
    }
}

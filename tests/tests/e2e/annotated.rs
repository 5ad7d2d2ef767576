//! Annotated Secrets, as CERN's oauth2-refresh-controller served them: the token in the Secret lives, its JSON keeps every member, and
//! what is wrong with one is told once and concerns no other.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use data_encoding::{BASE64, BASE64URL_NOPAD};
use evertoken_tests::evertoken::Evertoken;
use evertoken_tests::issuer::Issuer;
use evertoken_tests::keycloak::Keycloak;
use evertoken_tests::keycloak::realm::{ClientSpec, RealmSpec};
use evertoken_tests::kubernetes::{ApiServer, ServiceAccount};
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;
use serde_json::{Value, json};

use crate::scene::{PATIENCE, Scene};

const IS_TOKEN: &str = "oauth2-refresh-controller.cern.ch/is-token";
const CLIENT: (&str, &str) = ("my-app", "my-app-client-secret");
const USER: (&str, &str) = ("alice", "alice-password-1");

/// What the controller needs in a namespace that it serves.
fn rules() -> Value {
    json!([
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    ])
}

/// A namespace, and a controller that serves it.
struct Stage {
    scene: Scene,
    cluster: &'static ApiServer,
    namespace: String,
    account: ServiceAccount,
    config: PathBuf,
}

impl Stage {
    fn new(name: &str, token_url: &str, parameters: &str) -> Option<Self> {
        let Some(cluster) = ApiServer::shared().unwrap() else {
            println!("skipped: needs Kubernetes");
            return None;
        };
        Some(Self::of(cluster, name, token_url, parameters))
    }

    fn of(cluster: &'static ApiServer, name: &str, token_url: &str, parameters: &str) -> Self {
        let namespace = cluster.namespace(name).unwrap();
        let account = cluster
            .service_account(&namespace, "evertoken", &rules())
            .unwrap();
        let scene = Scene::new(name).unwrap();
        let config = scene
            .config(&format!(
                r#"
state: {{dir: "{{here}}/state"}}
annotated_secrets: {{default_profile: idp, namespaces: [{namespace}]}}
profiles:
  idp:
    plugin: oauth2
    config: {{grant: refresh_token, token_url: "{token_url}", client_id: "{{client_id}}"}}
    parameters: {{client_id: {{}}{parameters}}}
    tenant_secrets:
      client_secret: {{optional: true}}
      refresh_token: {{rotating: true, write_back: true}}
    limits: {{jobs_per_namespace: 20}}
"#
            ))
            .unwrap();
        Self {
            scene,
            cluster,
            namespace,
            account,
            config,
        }
    }

    fn start(&self) -> Evertoken {
        let launch = self.scene.launch().unwrap();
        launch
            .env("KUBECONFIG", &self.account.kubeconfig)
            .args(["run", "-v", "--config"])
            .args([&self.config])
            .spawn()
            .unwrap()
    }

    fn create(&self, name: &str, data: Value, annotations: Value) -> Value {
        let secret = json!({"metadata": {"annotations": annotations}, "stringData": data});
        let admin = self.cluster.admin();
        admin.create_secret(&self.namespace, name, secret).unwrap()
    }

    fn value(&self, name: &str, key: &str) -> Option<String> {
        let admin = self.cluster.admin();
        let value = admin.secret_value(&self.namespace, name, key).unwrap()?;
        Some(String::from_utf8(value).unwrap())
    }

    fn annotation(&self, name: &str, annotation: &str) -> Option<String> {
        let secret = self
            .cluster
            .admin()
            .secret(&self.namespace, name)
            .unwrap()?;
        let value = secret["metadata"]["annotations"][annotation].as_str()?;
        Some(value.to_owned())
    }

    fn annotate(&self, name: &str, annotation: &str, value: &str) {
        let patch = json!({"metadata": {"annotations": {annotation: value}}});
        let admin = self.cluster.admin();
        admin.patch_secret(&self.namespace, name, &patch).unwrap();
    }

    fn wait_for(&self, process: &Evertoken, what: &str, holds: impl Fn() -> bool) {
        wait_until(what, PATIENCE, || holds().then_some(()))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    }

    fn reason_is(&self, process: &Evertoken, name: &str, reason: &str) {
        self.wait_for(process, &format!("{name} to be {reason}"), || {
            self.annotation(name, "evertoken.dev/reason").as_deref() == Some(reason)
        });
    }

    /// The messages of the Events about a Secret with this reason.
    fn events(&self, name: &str, reason: &str) -> Vec<String> {
        let path = format!("/api/v1/namespaces/{}/events", self.namespace);
        let events = self.cluster.admin().get(&path).unwrap().unwrap();
        let items = events["items"].as_array().cloned().unwrap_or_default();
        let of_it = items
            .iter()
            .filter(|event| event["involvedObject"]["name"] == name && event["reason"] == reason);
        of_it
            .filter_map(|event| Some(event["message"].as_str()?.to_owned()))
            .collect()
    }
}

/// When a JWT expires, in seconds since 1970.
fn expiry(token: &str) -> u64 {
    let payload = token.split('.').nth(1).unwrap();
    let claims: Value =
        serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap()).unwrap();
    claims["exp"].as_u64().unwrap()
}

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs()
}

/// Members of the announcement's answer around the two tokens.
fn answer(access_token: &str, refresh_token: &str) -> String {
    format!(
        r#"{{"access_token": "{access_token}","expires_in":1199,"refresh_expires_in":0,"refresh_token":"{refresh_token}","token_type":"Bearer","not-before-policy":1643110683,"session_state":"5d5e8bc2-6557-4453-9ba2-8ed99be6c898","scope":"offline_access profile email"}}"#
    )
}

/// What a reader of the Secret must never see.
fn fault(secret: &Value, is_served: bool) -> Option<String> {
    let data = |key: &str| {
        let text = secret["data"][key].as_str()?;
        String::from_utf8(BASE64.decode(text.as_bytes()).ok()?).ok()
    };
    let held = data("oauth")?;
    let Ok(json) = serde_json::from_str::<Value>(&held) else {
        return Some(format!("no JSON: {held}"));
    };
    let (access, refresh) = (
        json["access_token"].as_str()?,
        json["refresh_token"].as_str()?,
    );
    if held != answer(access, refresh) {
        return Some(format!("a member was lost or changed: {held}"));
    }
    if is_served && expiry(access) < now_s() {
        return Some(format!(
            "a token that died {} s ago",
            now_s() - expiry(access)
        ));
    }
    let plain = data("access_token")?;
    (plain != access).then(|| "the plain key has another token".to_owned())
}

/// `EVERTOKEN_LIFETIMES=10 EVERTOKEN_LIFESPAN=60` is what a release is tried with.
fn number(variable: &str, usual: u32) -> u32 {
    let given = std::env::var(variable).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn the_announcements_secret_lives_through_rotations_and_kills_and_its_json_keeps_every_member() {
    let Some(keycloak) = Keycloak::shared().unwrap() else {
        println!("skipped: needs Keycloak");
        return;
    };
    let (lifetimes, lifespan) = (
        number("EVERTOKEN_LIFETIMES", 5),
        number("EVERTOKEN_LIFESPAN", 8),
    );
    let client = ClientSpec::new(CLIENT.0, CLIENT.1)
        .lifespan(lifespan)
        .direct_grants();
    let spec = RealmSpec::new("annotated")
        .rotating(0)
        .client(client)
        .user(USER.0, USER.1);
    let realm = keycloak.realm(&spec).unwrap();
    let Some(stage) = Stage::new("annotated", &realm.token_url(), "") else {
        return;
    };
    let seed = realm
        .refresh_token(CLIENT, USER, "openid offline_access")
        .unwrap();
    let data =
        json!({"oauth": answer("eyJhb", &seed), "clientID": CLIENT.0, "clientSecret": CLIENT.1});
    stage.create("hello-token", data, json!({IS_TOKEN: "true"}));
    let mut process = stage.start();
    stage.wait_for(&process, "the first token", || {
        stage.value("hello-token", "access_token").is_some()
    });

    let stop = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (stop, namespace) = (Arc::clone(&stop), stage.namespace.clone());
        let cluster = stage.cluster;
        move || {
            let (mut reads, mut faults) = (0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let secret = cluster
                    .admin()
                    .secret(&namespace, "hello-token")
                    .unwrap()
                    .unwrap();
                faults.extend(fault(&secret, true));
                reads += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            (reads, faults)
        }
    });
    for _ in 0..lifetimes {
        std::thread::sleep(Duration::from_secs(u64::from(lifespan)));
        process.kill();
        process = stage.start();
    }
    std::thread::sleep(Duration::from_secs(u64::from(lifespan)));
    stop.store(true, Ordering::Relaxed);
    let (reads, faults) = reader.join().unwrap();
    assert_eq!(
        faults,
        Vec::<String>::new(),
        "{reads} reads\n{}",
        process.stderr()
    );

    let sent: Vec<String> = realm
        .token_requests(CLIENT.0)
        .iter()
        .map(|request| request.field("refresh_token").unwrap())
        .collect();
    let mut distinct = sent.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(
        distinct.len(),
        sent.len(),
        "a spent refresh token was sent again"
    );
    assert!(sent.len() >= lifetimes as usize, "{} rotations", sent.len());
    println!(
        "{lifetimes} lifetimes and kills, {} rotations, {reads} reads",
        sent.len()
    );
    stage.reason_is(&process, "hello-token", "Ready");
    assert!(
        stage
            .annotation("hello-token", "evertoken.dev/expires-at")
            .is_some()
    );
    assert!(
        stage
            .annotation("hello-token", "evertoken.dev/next-refresh")
            .is_some()
    );
}

/// An issuer that rotates, and counts what it is asked.
fn rotating_issuer() -> (Issuer, Arc<AtomicUsize>) {
    let issuer = Issuer::start().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    for path in ["/main/token", "/shop/token"] {
        let counted = Arc::clone(&counted);
        issuer.respond_with(path, move |request| {
            let nth = counted.fetch_add(1, Ordering::Relaxed);
            let sent = request.field("refresh_token").unwrap_or_default();
            if sent.starts_with("dead") {
                return Behaviour::oauth_error(400, "invalid_grant");
            }
            let answer = json!({
                "access_token": format!("token-{nth}-of-{sent}"),
                "token_type": "Bearer",
                "expires_in": 3600,
                "refresh_token": format!("next-{nth}"),
            });
            Behaviour::json(200, &answer)
        });
    }
    (issuer, count)
}

fn good(refresh_token: &str) -> Value {
    json!({"oauth2": answer("old", refresh_token), "clientID": "svc"})
}

#[test]
fn what_is_wrong_with_a_secret_is_told_once_and_concerns_no_other() {
    let (issuer, _) = rotating_issuer();
    let url = format!("{}/{{realm}}/token", issuer.origin());
    let Some(stage) = Stage::new("annotated-hostile", &url, ", realm: {default: main}") else {
        return;
    };
    let marked = || json!({IS_TOKEN: "true"});
    let with = |name: &str, value: &str| json!({IS_TOKEN: "true", name: value});
    let realm = "parameters.evertoken.dev/realm";
    let steering = json!({
        "oauth": r#"{"access_token": "a", "refresh_token": "r", "token_url": "https://evil.example", "token_endpoint": "https://evil.example"}"#,
        "clientID": "svc",
        "token_url": "https://evil.example",
    });
    let table = [
        (
            "not-json",
            json!({"oauth": format!("{}}}", answer("a", "r")), "clientID": "svc"}),
            marked(),
            "InvalidSecret",
        ),
        (
            "no-json",
            json!({"clientID": "svc"}),
            marked(),
            "InvalidSecret",
        ),
        (
            "large",
            json!({"oauth": "[".repeat(900_000), "clientID": "svc"}),
            marked(),
            "InvalidSecret",
        ),
        (
            "no-client",
            json!({"oauth": answer("a", "r")}),
            marked(),
            "InvalidParameters",
        ),
        (
            "client-crlf",
            json!({"oauth": answer("a", "r"), "clientID": "a\r\nb"}),
            marked(),
            "InvalidParameters",
        ),
        ("dots", good("r1"), with(realm, ".."), "InvalidParameters"),
        (
            "percent",
            good("r2"),
            with(realm, "%2f"),
            "InvalidParameters",
        ),
        (
            "braces",
            good("r3"),
            with(realm, "{client_id}"),
            "InvalidParameters",
        ),
        (
            "slash",
            good("r4"),
            with(realm, "a/../b"),
            "InvalidParameters",
        ),
        (
            "look-alike",
            good("r5"),
            with(realm, "shоp"),
            "InvalidParameters",
        ),
        (
            "unknown-parameter",
            good("r6"),
            with("parameters.evertoken.dev/url", "x"),
            "InvalidParameters",
        ),
        (
            "other-profile",
            good("r7"),
            json!({"evertoken.dev/profile": "none-such"}),
            "UnknownProfile",
        ),
        (
            "key",
            good("r8"),
            with("evertoken.dev/access-token-key", "oauth2"),
            "InvalidAnnotation",
        ),
        (
            "suspended",
            good("r9"),
            with("evertoken.dev/suspend", "true"),
            "Suspended",
        ),
        ("dead", good("dead-1"), marked(), "LoginRequired"),
        ("steering", steering, marked(), "Ready"),
        ("shop", good("fresh-1"), with(realm, "shop"), "Ready"),
        ("well", good("fresh-2"), marked(), "Ready"),
    ];
    for (name, data, annotations, _) in &table {
        stage.create(name, data.clone(), annotations.clone());
    }
    let immutable =
        json!({"metadata": {"annotations": marked()}, "stringData": good("r0"), "immutable": true});
    stage
        .cluster
        .admin()
        .create_secret(&stage.namespace, "immutable", immutable)
        .unwrap();
    stage.create("unmarked", good("r"), json!({IS_TOKEN: "false"}));

    let process = stage.start();
    for (name, _, _, reason) in &table {
        stage.reason_is(&process, name, reason);
    }
    // Its annotations can change although its data cannot.
    stage.reason_is(&process, "immutable", "Immutable");
    std::thread::sleep(Duration::from_secs(5));
    for (name, _, _, reason) in &table {
        assert_eq!(
            stage.events(name, reason).len(),
            1,
            "{name}\n{}",
            process.stderr()
        );
    }
    let said = stage.events("not-json", "InvalidSecret").remove(0);
    let byte = answer("a", "r").len() + 1;
    assert!(said.contains(&format!("from byte {byte} on")), "{said}");
    assert_eq!(stage.annotation("unmarked", "evertoken.dev/reason"), None);

    // Only what may be asked was asked.
    let paths: Vec<String> = issuer
        .requests()
        .iter()
        .map(|request| request.path.clone())
        .collect();
    assert!(
        paths
            .iter()
            .all(|path| path == "/main/token" || path == "/shop/token"),
        "{paths:?}"
    );
    assert_eq!(issuer.requests_to("/shop/token").len(), 1);
    for bad in ["r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9"] {
        let sent = issuer
            .requests()
            .iter()
            .any(|request| request.field("refresh_token").as_deref() == Some(bad));
        assert!(!sent, "{bad}");
    }
    let json: Value = serde_json::from_str(&stage.value("well", "oauth2").unwrap()).unwrap();
    let token = stage.value("well", "access_token").unwrap();
    assert_eq!(json["access_token"], token.as_str());
    assert!(token.ends_with("-of-fresh-2"), "{token}");
    assert!(json["refresh_token"].as_str().unwrap().starts_with("next-"));
}

#[test]
fn a_secret_is_mended_refreshed_suspended_logged_in_anew_and_deleted_while_it_is_watched() {
    let (issuer, count) = rotating_issuer();
    let url = format!("{}/main/token", issuer.origin());
    let Some(stage) = Stage::new("annotated-life", &url, "") else {
        return;
    };
    let broken = json!({"oauth2": "{", "clientID": "svc"});
    let process = stage.start();
    stage.create("life", broken, json!({IS_TOKEN: "true"}));
    stage.reason_is(&process, "life", "InvalidSecret");
    let put = |oauth2: &str| {
        let patch = json!({"stringData": {"oauth2": oauth2}});
        stage
            .cluster
            .admin()
            .patch_secret(&stage.namespace, "life", &patch)
            .unwrap();
    };
    let token = || stage.value("life", "access_token").unwrap_or_default();
    put(&answer("x", "first"));
    stage.reason_is(&process, "life", "Ready");
    assert!(token().ends_with("-of-first"), "{}", token());

    stage.annotate("life", "evertoken.dev/refresh", "now");
    stage.wait_for(&process, "the refresh that was asked for", || {
        token().contains("-of-next-")
    });

    put(&answer("y", "second"));
    stage.wait_for(&process, "the new login", || {
        token().ends_with("-of-second")
    });

    stage.annotate("life", "evertoken.dev/suspend", "true");
    stage.reason_is(&process, "life", "Suspended");
    let asked = count.load(Ordering::Relaxed);
    stage.annotate("life", "evertoken.dev/refresh", "again");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(count.load(Ordering::Relaxed), asked);
    stage.annotate("life", "evertoken.dev/suspend", "false");
    stage.reason_is(&process, "life", "Ready");

    stage
        .cluster
        .admin()
        .delete_secret(&stage.namespace, "life")
        .unwrap();
    stage.wait_for(&process, "the end of the job", || {
        stage
            .scene
            .status(&stage.config)
            .is_ok_and(|rows| rows.is_empty())
    });
    stage.create("life", good("third"), json!({IS_TOKEN: "true"}));
    stage.wait_for(&process, "the job of another Secret of that name", || {
        token().ends_with("-of-third")
    });
}

/// `EVERTOKEN_SECRETS=1000` tells what a thousand cost.
#[test]
fn many_secrets_cost_one_list_and_one_watch_and_two_writes_for_each_rotation() {
    let (issuer, count) = rotating_issuer();
    let url = format!("{}/main/token", issuer.origin());
    let Some(stage) = Stage::new("annotated-many", &url, "") else {
        return;
    };
    let many = number("EVERTOKEN_SECRETS", 15) as usize;
    let text = std::fs::read_to_string(&stage.config).unwrap();
    let wide = format!(
        "jobs_per_namespace: {many}, calls_per_minute_per_namespace: 100000, calls_per_minute: 100000"
    );
    std::fs::write(&stage.config, text.replace("jobs_per_namespace: 20", &wide)).unwrap();
    for nth in 0..many {
        stage.create(
            &format!("s{nth}"),
            good(&format!("login-{nth}")),
            json!({IS_TOKEN: "true"}),
        );
    }
    // Others concern nobody.
    for nth in 0..5 {
        stage.create(&format!("other-{nth}"), json!({"x": "y"}), json!({}));
    }
    let began = std::time::Instant::now();
    let process = stage.start();
    let ready = || {
        let rows = stage.scene.status(&stage.config).unwrap_or_default();
        rows.iter().filter(|row| row["state"] == "ready").count()
    };
    wait_until("all tokens", 10 * PATIENCE, || {
        (ready() == many).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    println!(
        "{many} Secrets ready after {:?}, {} MiB",
        began.elapsed(),
        process.rss_bytes().unwrap() >> 20
    );
    let audited = || {
        stage
            .cluster
            .audit_events_of_user(&stage.account.username)
            .unwrap()
    };
    stage.wait_for(&process, "one Event for each that became ready", || {
        let events = audited();
        let told = events
            .iter()
            .filter(|event| event.verb == "create" && event.resource == "events");
        told.count() == many
    });
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(count.load(Ordering::Relaxed), many, "one request each");
    let events = audited();
    let asked = |verb: &str, resource: &str| {
        let of_it = events
            .iter()
            .filter(|event| event.verb == verb && event.resource == resource);
        of_it.count()
    };
    for verb in ["list", "watch", "get", "patch"] {
        println!("{verb}: {}", asked(verb, "secrets"));
    }
    assert_eq!(
        (asked("list", "secrets"), asked("watch", "secrets")),
        (1, 1)
    );
    assert!(
        asked("patch", "secrets") <= 2 * many,
        "{}",
        asked("patch", "secrets")
    );
    assert_eq!(
        asked("create", "events"),
        many,
        "one Event for each that became ready"
    );
}

#[test]
fn a_changed_profile_an_api_server_that_goes_and_rights_that_are_taken_stop_no_service_for_good() {
    let (issuer, _) = rotating_issuer();
    let url = format!("{}/main/token", issuer.origin());
    let Some(_) = ApiServer::shared().unwrap() else {
        return;
    };
    // Of its own, since it is stopped.
    let cluster: &'static ApiServer = Box::leak(Box::new(ApiServer::start().unwrap()));
    let stage = Stage::of(cluster, "annotated-trouble", &url, "");
    stage.create("early", good("early"), json!({IS_TOKEN: "true"}));
    let process = stage.start();
    stage.reason_is(&process, "early", "Ready");

    cluster.down();
    std::thread::sleep(Duration::from_secs(5));
    cluster.up().unwrap();
    stage.create("late", good("late"), json!({IS_TOKEN: "true"}));
    stage.reason_is(&process, "late", "Ready");

    let role = format!(
        "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles/evertoken",
        stage.namespace
    );
    let taken = cluster.admin().get(&role).unwrap().unwrap();
    let put = |rules: Value| {
        let mut role_object = cluster.admin().get(&role).unwrap().unwrap();
        role_object["rules"] = rules;
        let answer = cluster
            .admin()
            .request("PUT", &role, "application/json", Some(&role_object));
        assert_eq!(answer.unwrap().status, 200);
    };
    put(json!([]));
    stage.create("without", good("without"), json!({IS_TOKEN: "true"}));
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(stage.value("without", "access_token"), None);
    put(taken["rules"].clone());
    // What could not be read is read again after half a minute.
    stage.reason_is(&process, "without", "Ready");

    let text = std::fs::read_to_string(&stage.config).unwrap();
    std::fs::write(
        &stage.config,
        text.replace("jobs_per_namespace: 20", "jobs_per_namespace: 3"),
    )
    .unwrap();
    stage.wait_for(&process, "the reload", || {
        process
            .stderr()
            .contains("the changed configuration is in use")
    });
    stage.create("too-many", good("too-many"), json!({IS_TOKEN: "true"}));
    stage.reason_is(&process, "too-many", "TooManyJobs");
    stage
        .cluster
        .admin()
        .delete_secret(&stage.namespace, "early")
        .unwrap();
    stage.reason_is(&process, "too-many", "Ready");

    let text = std::fs::read_to_string(&stage.config).unwrap();
    std::fs::write(
        &stage.config,
        text.replace("  idp:", "  other:")
            .replace("default_profile: idp, ", ""),
    )
    .unwrap();
    stage.reason_is(&process, "late", "NoProfile");
    stage.annotate("late", "evertoken.dev/profile", "other");
    stage.reason_is(&process, "late", "Ready");

    let text = std::fs::read_to_string(&stage.config).unwrap();
    let elsewhere = text.replace(
        &format!("namespaces: [{}]", stage.namespace),
        "namespaces: [elsewhere]",
    );
    assert_ne!(elsewhere, text);
    std::fs::write(&stage.config, elsewhere).unwrap();
    stage.wait_for(&process, "the end of all jobs here", || {
        stage
            .scene
            .status(&stage.config)
            .is_ok_and(|rows| rows.is_empty())
    });
}

/// `EVERTOKEN_SECRETS=1000` makes as many as one tenant may make and delete within a minute.
#[test]
fn secrets_that_come_and_go_and_one_that_is_edited_without_end_delay_no_other() {
    let (issuer, count) = rotating_issuer();
    let url = format!("{}/main/token", issuer.origin());
    let Some(stage) = Stage::new("annotated-churn", &url, "") else {
        return;
    };
    let process = stage.start();
    let many = number("EVERTOKEN_SECRETS", 100);
    stage.create("edited", good("edited"), json!({IS_TOKEN: "true"}));
    let stop = Arc::new(AtomicBool::new(false));
    let editor = std::thread::spawn({
        let (stop, namespace, cluster) =
            (Arc::clone(&stop), stage.namespace.clone(), stage.cluster);
        move || {
            for nth in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return nth;
                }
                let patch = json!({"metadata": {"annotations": {"evertoken.dev/access-token-key": format!("key-{}", nth % 2)}}});
                cluster
                    .admin()
                    .patch_secret(&namespace, "edited", &patch)
                    .unwrap();
                std::thread::sleep(Duration::from_millis(100));
            }
            0
        }
    });
    for nth in 0..many {
        let name = format!("churn-{nth}");
        stage.create(
            &name,
            good(&format!("churn-{nth}")),
            json!({IS_TOKEN: "true"}),
        );
        if nth % 2 == 0 {
            stage
                .cluster
                .admin()
                .delete_secret(&stage.namespace, &name)
                .unwrap();
        }
        if nth == many / 2 {
            let began = std::time::Instant::now();
            stage.create("well", good("well"), json!({IS_TOKEN: "true"}));
            stage.wait_for(&process, "the one in between", || {
                stage.value("well", "access_token").is_some()
            });
            println!(
                "the one in between had its token after {:?}",
                began.elapsed()
            );
        }
        if nth % 2 == 1 {
            stage
                .cluster
                .admin()
                .delete_secret(&stage.namespace, &name)
                .unwrap();
        }
    }
    stop.store(true, Ordering::Relaxed);
    let edits = editor.join().unwrap();
    stage.wait_for(&process, "the jobs of what is there alone", || {
        let rows = stage.scene.status(&stage.config).unwrap_or_default();
        let names: Vec<&str> = rows
            .iter()
            .filter_map(|row| row["id"]["name"].as_str())
            .collect();
        names == ["edited", "well"]
    });
    let asked_for_edited = issuer
        .requests()
        .into_iter()
        .filter(|request| request.field("refresh_token").as_deref() == Some("edited"));
    assert_eq!(asked_for_edited.count(), 1, "{edits} edits of no login");
    println!(
        "{many} came and went, {} requests",
        count.load(Ordering::Relaxed)
    );
    let last = stage
        .annotation("edited", "evertoken.dev/access-token-key")
        .unwrap();
    stage.wait_for(&process, "the token in the key of the last edit", || {
        stage.value("edited", &last).is_some()
    });
}

//! Proves that the parts are what the other tests take them for: real, countable, breakable on demand, and gone afterwards.

// For clippy: helper functions here are test code too.
#![cfg(test)]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use evertoken_tests::client::{Answer, Client};
use evertoken_tests::evertoken::Launch;
use evertoken_tests::issuer::Issuer;
use evertoken_tests::jwt::claims;
use evertoken_tests::keycloak::Keycloak;
use evertoken_tests::keycloak::realm::{ClientSpec, Realm, RealmSpec};
use evertoken_tests::kubernetes::ApiServer;
use evertoken_tests::kubernetes::client::USER_AGENT;
use evertoken_tests::pki::{Authority, server_config};
use evertoken_tests::process::{Process, tied};
use evertoken_tests::reader::{PollReader, Sight};
use evertoken_tests::server::Behaviour;
use evertoken_tests::switch::Part;
use evertoken_tests::wait_until;
use evertoken_tests::workdir::RunDir;
use rustix::process::Signal;
use serde_json::{Value, json};

const SHORT: Duration = Duration::from_secs(10);

// --- the API server ---------------------------------------------------------------------------------------------------------------------

#[test]
fn a_service_account_may_do_what_its_role_says_and_nothing_else() {
    let Some(api) = ApiServer::shared().unwrap() else {
        return;
    };
    let namespace = api.namespace("rbac").unwrap();
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"], "verbs": ["get", "patch"]}]);
    let account = api.service_account(&namespace, "limited", &rules).unwrap();
    for name in ["mine", "other"] {
        api.admin()
            .create_secret(&namespace, name, json!({"stringData": {"token": "first"}}))
            .unwrap();
    }

    account
        .client
        .patch_secret(
            &namespace,
            "mine",
            &json!({"stringData": {"token": "second"}}),
        )
        .unwrap();
    assert_eq!(
        account
            .client
            .secret_value(&namespace, "mine", "token")
            .unwrap()
            .unwrap(),
        b"second"
    );

    let other = format!("/api/v1/namespaces/{namespace}/secrets/other");
    let mine = format!("/api/v1/namespaces/{namespace}/secrets/mine");
    assert_eq!(
        account
            .client
            .request("GET", &other, "application/json", None)
            .unwrap()
            .status,
        403
    );
    assert_eq!(
        account
            .client
            .request("DELETE", &mine, "application/json", None)
            .unwrap()
            .status,
        403
    );
}

#[test]
fn the_audit_log_counts_the_requests_of_one_user() {
    let Some(api) = ApiServer::shared().unwrap() else {
        return;
    };
    let namespace = api.namespace("audit").unwrap();
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create"]}]);
    let account = api.service_account(&namespace, "counted", &rules).unwrap();
    account
        .client
        .create_secret(&namespace, "one", json!({"stringData": {"token": "hush"}}))
        .unwrap();
    account.client.secret(&namespace, "one").unwrap();
    account.client.delete_secret(&namespace, "one").unwrap_err();

    let events = api.audit_events_of_user(&account.username).unwrap();
    let seen: Vec<_> = events
        .iter()
        .map(|event| (event.verb.as_str(), event.name.as_str(), event.code))
        .collect();
    assert_eq!(
        seen,
        [
            ("create", "one", 201),
            ("get", "one", 200),
            ("delete", "one", 403)
        ]
    );
    assert!(
        events
            .iter()
            .all(|event| event.resource == "secrets" && event.namespace == namespace)
    );
    let by_agent = api.audit_events_of_agent(USER_AGENT).unwrap();
    assert!(events.iter().all(|event| by_agent.contains(event)));
}

#[test]
fn a_deleted_namespace_stays_terminating_and_refuses_new_secrets() {
    let Some(api) = ApiServer::shared().unwrap() else {
        return;
    };
    let namespace = api.namespace("dying").unwrap();
    api.admin().delete_namespace(&namespace).unwrap();
    let refusal = wait_until("the refusal", SHORT, || {
        api.admin()
            .create_secret(&namespace, "late", json!({"stringData": {"token": "t"}}))
            .err()
    });
    assert!(refusal.unwrap().to_string().contains("being terminated"));
}

#[test]
fn kubectl_understands_the_kubeconfig_of_a_service_account() {
    let Some(api) = ApiServer::shared().unwrap() else {
        return;
    };
    let namespace = api.namespace("kubeconfig").unwrap();
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]);
    let account = api.service_account(&namespace, "lister", &rules).unwrap();
    let config: Value =
        serde_json::from_slice(&std::fs::read(&account.kubeconfig).unwrap()).unwrap();
    assert_eq!(config["clusters"][0]["cluster"]["server"], api.url());
    assert_eq!(config["contexts"][0]["context"]["namespace"], namespace);
    // The field's own client reads it where it is installed; nothing of the tests needs it.
    if let Ok(output) = Command::new("kubectl")
        .args(["get", "secrets", "--kubeconfig"])
        .arg(&account.kubeconfig)
        .output()
    {
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn an_api_server_that_was_paused_or_down_comes_back_with_its_data() {
    if Part::Kubernetes.is_skipped() {
        return;
    }
    let api = ApiServer::start().unwrap();
    let namespace = api.namespace("kept").unwrap();
    api.admin()
        .create_secret(&namespace, "kept", json!({"stringData": {"token": "kept"}}))
        .unwrap();

    api.pause().unwrap();
    let url = format!("{}/readyz", api.url());
    let held = std::thread::scope(|scope| {
        let client = Client::trusting(api.ca_pem()).unwrap();
        let request = scope.spawn(move || {
            client
                .send("GET", &url, &[], &[])
                .map(|answer| answer.status)
        });
        std::thread::sleep(Duration::from_millis(300));
        let held = !request.is_finished();
        api.resume().unwrap();
        request.join().unwrap().unwrap();
        held
    });
    assert!(held, "a paused server answered");

    api.down();
    api.admin().secret(&namespace, "kept").unwrap_err();
    api.up().unwrap();
    assert_eq!(
        api.admin()
            .secret_value(&namespace, "kept", "token")
            .unwrap()
            .unwrap(),
        b"kept"
    );
}

// --- Keycloak ---------------------------------------------------------------------------------------------------------------------------

#[test]
fn keycloak_issues_a_client_credentials_token_with_lifespan_and_audience_and_counts_it() {
    let Some(keycloak) = Keycloak::shared().unwrap() else {
        return;
    };
    let spec = RealmSpec::new("machines").client(
        ClientSpec::new("svc", "s3cret")
            .lifespan(60)
            .audience("warehouse"),
    );
    let realm = keycloak.realm(&spec).unwrap();
    let fields = [
        ("grant_type", "client_credentials"),
        ("client_id", "svc"),
        ("client_secret", "s3cret"),
    ];
    let answer = realm.token_request(&fields).unwrap().success().unwrap();
    let claims = claims(answer["access_token"].as_str().unwrap()).unwrap();
    // Keycloak counts `expires_in` down while it signs; on busy cores it says 59.
    assert_eq!(
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(),
        60
    );
    assert_eq!(claims["iss"], realm.issuer());
    assert!(
        claims["aud"] == "warehouse"
            || claims["aud"]
                .as_array()
                .unwrap()
                .contains(&json!("warehouse")),
        "{claims}"
    );

    let wrong = [
        ("grant_type", "client_credentials"),
        ("client_id", "svc"),
        ("client_secret", "wrong"),
    ];
    let refusal = realm.token_request(&wrong).unwrap();
    assert_eq!(
        (refusal.status, &refusal.json().unwrap()["error"]),
        (401, &json!("unauthorized_client"))
    );
    assert_eq!(realm.token_requests("svc").len(), 2);
    assert_eq!(realm.token_requests("nobody").len(), 0);
}

#[test]
fn keycloak_rotates_a_refresh_token_and_refuses_its_second_use() {
    let Some(keycloak) = Keycloak::shared().unwrap() else {
        return;
    };
    let realm = keycloak.realm(&people()).unwrap();
    for scope in ["openid", "openid offline_access"] {
        let first = realm
            .refresh_token(("app", "s3cret"), ("alice", "wonder"), scope)
            .unwrap();
        let answer = refresh(&realm, &first).unwrap().success().unwrap();
        assert_ne!(answer["refresh_token"], first.as_str());
        assert_is_refused_as_spent(&refresh(&realm, &first).unwrap());
    }
    assert_eq!(
        realm.token_requests("app").len(),
        4,
        "logins of the harness are not counted"
    );
}

#[test]
fn a_lost_answer_has_spent_the_refresh_token_at_keycloak() {
    let Some(keycloak) = Keycloak::shared().unwrap() else {
        return;
    };
    let realm = keycloak.realm(&people()).unwrap();
    let first = realm
        .refresh_token(("app", "s3cret"), ("alice", "wonder"), "openid")
        .unwrap();
    realm.proxy().lose_answers(1);
    refresh(&realm, &first).unwrap_err();
    assert_is_refused_as_spent(&refresh(&realm, &first).unwrap());
}

#[test]
fn a_realm_can_be_down_for_one_test_alone() {
    let Some(keycloak) = Keycloak::shared().unwrap() else {
        return;
    };
    let (down, other) = (
        keycloak.realm(&people()).unwrap(),
        keycloak.realm(&people()).unwrap(),
    );
    let login = |realm: &Realm| {
        realm
            .refresh_token(("app", "s3cret"), ("alice", "wonder"), "openid")
            .unwrap()
    };
    let (kept, its) = (login(&down), login(&other));
    down.proxy().server().down();
    refresh(&down, &kept).unwrap_err();
    refresh(&other, &its).unwrap().success().unwrap();
    down.proxy().server().up().unwrap();
    refresh(&down, &kept).unwrap().success().unwrap();
}

fn assert_is_refused_as_spent(answer: &Answer) {
    let body = answer.json().unwrap();
    assert_eq!(
        (answer.status, &body["error"]),
        (400, &json!("invalid_grant")),
        "{body}"
    );
    assert_eq!(
        body["error_description"],
        "Maximum allowed refresh token reuse exceeded"
    );
}

fn people() -> RealmSpec {
    RealmSpec::new("people")
        .rotating(0)
        .client(ClientSpec::new("app", "s3cret").direct_grants())
        .user("alice", "wonder")
}

fn refresh(realm: &Realm, token: &str) -> anyhow::Result<Answer> {
    let fields = [
        ("grant_type", "refresh_token"),
        ("client_id", "app"),
        ("client_secret", "s3cret"),
        ("refresh_token", token),
    ];
    realm.token_request(&fields)
}

// --- the scripted issuer ----------------------------------------------------------------------------------------------------------------

#[test]
fn the_issuer_follows_its_script_and_records_each_request() {
    let issuer = Issuer::start().unwrap();
    issuer.always("/token", Behaviour::token("steady", 60));
    issuer.once("/token", Behaviour::too_many_requests("7"));
    issuer.once("/token", Behaviour::oauth_error(400, "invalid_scope"));
    let client = Client::plain();
    let ask = || {
        client
            .post_form(
                &issuer.url("/token"),
                &[("client_id", "a b"), ("scope", "x&y")],
            )
            .unwrap()
    };

    let limited = ask();
    assert_eq!(
        (
            limited.status,
            limited.headers["retry-after"].to_str().unwrap()
        ),
        (429, "7")
    );
    assert_eq!(ask().json().unwrap(), json!({"error": "invalid_scope"}));
    for _ in 0..2 {
        assert_eq!(ask().success().unwrap()["access_token"], "steady");
    }
    assert_eq!(
        client
            .send("GET", &issuer.url("/other?q=1"), &[], &[])
            .unwrap()
            .status,
        404
    );

    let requests = issuer.requests();
    assert_eq!(requests.len(), 5);
    assert_eq!(requests[0].client_id().as_deref(), Some("a b"));
    assert_eq!(
        requests[0].form()[1],
        ("scope".to_owned(), "x&y".to_owned())
    );
    assert_eq!(
        (
            requests[4].method.as_str(),
            requests[4].path.as_str(),
            requests[4].query.as_str()
        ),
        ("GET", "/other", "q=1")
    );
    assert_eq!(issuer.server().connections(), 1, "connections are kept");
}

#[test]
fn basic_authentication_is_read_as_oauth_encodes_it() {
    let issuer = Issuer::start().unwrap();
    let encoded = { data_encoding::BASE64.encode("svc%3A1:p%26+w".as_bytes()) };
    Client::plain()
        .send(
            "POST",
            &issuer.url("/"),
            &[("authorization", &format!("Basic {encoded}"))],
            b"",
        )
        .unwrap();
    assert_eq!(
        issuer.requests()[0].basic_auth(),
        Some(("svc:1".to_owned(), "p& w".to_owned()))
    );
}

#[test]
fn the_issuer_misbehaves_as_told() {
    let issuer = Issuer::start().unwrap();
    let client = Client::plain();
    let ask = |behaviour: Behaviour| {
        issuer.once("/token", behaviour);
        let start = Instant::now();
        (
            client.post_form(&issuer.url("/token"), &[]),
            start.elapsed(),
        )
    };

    let (answer, took) = ask(Behaviour::token("late", 60).after(Duration::from_millis(200)));
    assert!(answer.unwrap().status == 200 && took >= Duration::from_millis(200));
    let (answer, took) = ask(Behaviour::drip(&json!({"a": 1}), Duration::from_millis(30)));
    assert!(
        answer.unwrap().json().unwrap()["a"] == 1 && took >= Duration::from_millis(7 * 30),
        "{took:?}"
    );
    let (answer, _) = ask(Behaviour::redirect("http://127.0.0.1:1/stolen"));
    let answer = answer.unwrap();
    assert_eq!(
        (answer.status, answer.headers["location"].to_str().unwrap()),
        (302, "http://127.0.0.1:1/stolen")
    );
    let (answer, _) = ask(Behaviour::answer(200, "<html>"));
    assert!(answer.unwrap().json().is_err());
    for (broken, name) in [
        (Behaviour::endless(100 << 20), "endless"),
        (Behaviour::raw("what?\r\n\r\n"), "garbage"),
        (Behaviour::truncated("{\"acc", 100), "truncated"),
        (Behaviour::close(), "close"),
        (Behaviour::reset(), "reset"),
    ] {
        let (answer, took) = ask(broken);
        assert!(answer.is_err(), "{name}: {answer:?}");
        assert!(took < SHORT, "{name} took {took:?}");
    }
}

#[test]
fn an_issuer_that_hangs_answers_nobody_and_still_stops() {
    let issuer = Issuer::start().unwrap();
    issuer.always("/token", Behaviour::hang());
    let url = issuer.url("/token");
    let waiting = std::thread::spawn(move || Client::plain().post_form(&url, &[]));
    wait_until("the request", SHORT, || {
        (!issuer.requests().is_empty()).then_some(())
    })
    .unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(!waiting.is_finished());
    drop(issuer);
    waiting.join().unwrap().unwrap_err();
}

#[test]
fn an_issuer_that_is_down_refuses_and_comes_back_on_its_port() {
    let issuer = Issuer::start().unwrap();
    issuer.always("/token", Behaviour::token("back", 60));
    let (client, url) = (Client::plain(), issuer.url("/token"));
    client.post_form(&url, &[]).unwrap();
    issuer.server().down();
    client.post_form(&url, &[]).unwrap_err();
    issuer.server().up().unwrap();
    assert_eq!(client.post_form(&url, &[]).unwrap().status, 200);
    assert_eq!(issuer.requests().len(), 2);
}

#[test]
fn a_tls_issuer_is_trusted_by_its_own_authority_under_its_own_name_only() {
    let (authority, stranger) = (
        Authority::new("ours").unwrap(),
        Authority::new("theirs").unwrap(),
    );
    let good = Issuer::start_tls(
        "localhost",
        server_config(&authority.server(&["localhost"]).unwrap(), None).unwrap(),
    )
    .unwrap();
    let misnamed = Issuer::start_tls(
        "localhost",
        server_config(&authority.server(&["issuer.test"]).unwrap(), None).unwrap(),
    )
    .unwrap();
    for issuer in [&good, &misnamed] {
        issuer.always("/token", Behaviour::token("t", 60));
    }
    let ours = Client::trusting(&authority.pem()).unwrap();
    assert_eq!(
        ours.post_form(&good.url("/token"), &[]).unwrap().status,
        200
    );
    ours.post_form(&misnamed.url("/token"), &[]).unwrap_err();
    Client::trusting(&stranger.pem())
        .unwrap()
        .post_form(&good.url("/token"), &[])
        .unwrap_err();
    assert_eq!(
        (good.requests().len(), misnamed.requests().len()),
        (1, 0),
        "no request without trust"
    );
}

#[test]
fn an_issuer_can_insist_on_a_client_certificate() {
    let (authority, stranger) = (
        Authority::new("ours").unwrap(),
        Authority::new("theirs").unwrap(),
    );
    let config =
        server_config(&authority.server(&["localhost"]).unwrap(), Some(&authority)).unwrap();
    let issuer = Issuer::start_tls("localhost", config).unwrap();
    issuer.always("/token", Behaviour::token("t", 60));
    let ask = |signer: &Authority| {
        let identity = signer.client("svc").unwrap();
        let client = Client::identified(
            &authority.pem(),
            &identity.certificate_pem,
            &identity.key_pem,
        )
        .unwrap();
        client.post_form(&issuer.url("/token"), &[])
    };
    assert_eq!(ask(&authority).unwrap().status, 200);
    ask(&stranger).unwrap_err();
    Client::trusting(&authority.pem())
        .unwrap()
        .post_form(&issuer.url("/token"), &[])
        .unwrap_err();
    assert_eq!(issuer.requests().len(), 1);
}

// --- processes and files ----------------------------------------------------------------------------------------------------------------

#[test]
fn a_process_is_heard_signalled_measured_and_gone_on_drop() {
    let run = RunDir::new("process").unwrap();
    let mut command = tied("sh");
    command.args([
        "-c",
        "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done",
    ]);
    let process = Process::spawn("shell", command, run.path()).unwrap();
    process
        .wait_for("its greeting", SHORT, || {
            process.stdout().contains("ready").then_some(())
        })
        .unwrap();
    assert!(process.rss_bytes().unwrap() > 100_000);
    process.signal(Signal::TERM).unwrap();
    assert_eq!(process.wait(SHORT).unwrap().code(), Some(7));
    assert!(process.stdout().ends_with("bye\n"));
    process.signal(Signal::TERM).unwrap_err();

    let mut command = tied("sleep");
    command.arg("1000");
    let sleeper = Process::spawn("sleep", command, run.path()).unwrap();
    let proc = format!("/proc/{}", sleeper.pid());
    assert!(Path::new(&proc).exists());
    drop(sleeper);
    assert!(!Path::new(&proc).exists());
}

#[test]
fn children_outlive_the_thread_that_asked_for_them() {
    let run = RunDir::new("threads").unwrap();
    let path = run.path().to_path_buf();
    let sleeper = std::thread::spawn(move || {
        let mut command = tied("sleep");
        command.arg("1000");
        Process::spawn("sleep", command, &path).unwrap()
    });
    let sleeper = sleeper.join().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(sleeper.try_wait().unwrap().is_none());
}

/// Runs this very test program again, with a test that starts a child and kills its own process.
#[test]
fn children_die_with_a_test_process_that_is_killed() {
    if std::env::var_os("EVERTOKEN_TESTS_DIE").is_some() {
        let run = RunDir::new("killed").unwrap();
        let mut command = tied("sleep");
        command.arg("1000");
        let child = Process::spawn("sleep", command, run.path()).unwrap();
        // setpriv must have become sleep, else nothing is proved about the signal it sets.
        wait_until("sleep", SHORT, || {
            std::fs::read_to_string(format!("/proc/{}/comm", child.pid()))
                .is_ok_and(|comm| comm == "sleep\n")
                .then_some(())
        })
        .unwrap();
        std::fs::write(
            std::env::var_os("EVERTOKEN_TESTS_DIE").unwrap(),
            child.pid().to_string(),
        )
        .unwrap();
        rustix::process::kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("pid");
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "children_die_with_a_test_process_that_is_killed"])
        .env("EVERTOKEN_TESTS_DIE", &note)
        .output()
        .unwrap()
        .status;
    assert!(!status.success());
    let pid = std::fs::read_to_string(&note).unwrap();
    wait_until("the child's end", SHORT, || is_gone(&pid).then_some(())).unwrap();
}

/// Gone, or a zombie that an init of the container's has not reaped.
fn is_gone(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn the_built_evertoken_runs() {
    let finished = Launch::new()
        .unwrap()
        .args(["--version"])
        .finish(SHORT)
        .unwrap();
    assert_eq!(finished.code(), Some(0), "{finished:?}");
}

#[test]
fn a_launch_hands_down_no_variable_that_could_decide_a_test() {
    let finished = Launch::of(Path::new("env"))
        .env("KTR_CONFIG", "given")
        .finish(SHORT)
        .unwrap();
    let names: Vec<_> = finished
        .stdout
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .collect();
    let known = ["KTR_CONFIG", "PATH", "TMPDIR", "LANG", "RUST_BACKTRACE"];
    assert!(
        names.contains(&"KTR_CONFIG") && names.contains(&"PATH"),
        "{names:?}"
    );
    assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
}

#[test]
fn the_reader_sees_every_moment_at_which_a_consumer_could_not_have_worked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let judge = |content: &[u8]| match content {
        b"dead" => Sight::Expired,
        content if content.ends_with(b".") => Sight::Good,
        _ => Sight::Partial,
    };
    std::fs::write(&path, "one.").unwrap();
    let calm = PollReader::start(&path, judge);
    std::thread::sleep(Duration::from_millis(100));
    let seen = calm.stop().unwrap();
    assert!(seen.is_good() && seen.readings >= 5, "{seen:?}");

    let reader = PollReader::start(&path, judge);
    for content in [Some("tw"), Some("dead"), None, Some("two.")] {
        match content {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        std::thread::sleep(Duration::from_millis(150));
    }
    let seen = reader.stop().unwrap();
    assert!(
        !seen.is_good() && seen.partial > 0 && seen.expired > 0 && seen.absent > 0,
        "{seen:?}"
    );
    assert_eq!(seen.contents.last().unwrap().1, b"two.");
}

#[test]
fn what_a_killed_process_left_behind_is_swept_and_what_lives_is_kept() {
    let kept = RunDir::new("kept").unwrap();
    let all = kept.path().parent().unwrap();
    let abandoned = all.join("abandoned");
    std::fs::create_dir_all(&abandoned).unwrap();
    std::fs::write(abandoned.join(".alive"), "").unwrap();
    let _next = RunDir::new("next").unwrap();
    assert!(kept.path().exists() && !abandoned.exists());
}

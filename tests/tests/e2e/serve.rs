//! Probes, metrics, status, and the commands that talk to a running process.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use evertoken_tests::client::Client;
use evertoken_tests::evertoken::Launch;
use evertoken_tests::issuer::Issuer;
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;
use evertoken_tests::workdir::free_port;
use rustix::process::Signal;

use crate::scene::{PATIENCE, Scene, failure_in};

const JOBS: &str = r#"
jobs:
- name: good
  source: {plugin: dummy, config: {lifetime: 1h}}
  outputs: [{file: {path: "{out}/good"}}]
- name: bad
  source: {plugin: mirror, secrets: {token: {file: "{here}/missing"}}, reveal: [token]}
  outputs: [{file: {path: "{out}/bad"}}]
"#;

#[test]
fn probes_are_about_the_process_and_metrics_about_the_jobs() {
    let scene = Scene::new("serve").unwrap();
    let port = free_port().unwrap();
    let config = scene
        .config(&format!(
            "state: {{dir: \"{{here}}/state\"}}\nserve: {{address: 127.0.0.1:{port}}}\n{JOBS}"
        ))
        .unwrap();
    let process = scene.run(&config).unwrap();
    let client = Client::plain();
    let get = |path: &str| client.send("GET", &format!("http://127.0.0.1:{port}{path}"), &[], &[]);
    wait_until("the first token", PATIENCE, || {
        scene.out("good").exists().then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    for (path, status) in [
        ("/livez", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/", 404),
        ("/status", 404),
    ] {
        assert_eq!(get(path).unwrap().status, status, "{path}");
    }
    let metrics = wait_until("both jobs in the metrics", PATIENCE, || {
        let text = String::from_utf8(get("/metrics").ok()?.body).ok()?;
        (text.contains("evertoken_job_ready{name=\"good\",namespace=\"\"} 1")
            && text.contains("evertoken_job_ready{name=\"bad\",namespace=\"\"} 0"))
        .then_some(text)
    })
    .unwrap();
    for name in [
        "evertoken_job_expiration_timestamp_seconds{name=\"good\",namespace=\"\"} 1",
        "evertoken_job_expiration_timestamp_seconds{name=\"bad\",namespace=\"\"} 0.0",
        "evertoken_log_lines_lost_total 0",
        "evertoken_job_next_refresh_timestamp_seconds",
        "evertoken_refresh_total",
        "evertoken_refresh_lateness_seconds",
        "evertoken_build_info",
    ] {
        assert!(metrics.contains(name), "{name} is missing:\n{metrics}");
    }
}

/// The kubelet would kill it, again and again, while the API server is away that has its state.
#[test]
fn a_process_that_waits_for_its_store_lives_is_not_ready_and_ends_when_told() {
    let scene = Scene::new("serve-starting").unwrap();
    let (port, nobody) = (free_port().unwrap(), free_port().unwrap());
    let kubeconfig = serde_json::json!({
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{nobody}")}}],
        "users": [{"name": "u", "user": {"token": "anybody"}}],
    });
    let kubeconfig = scene.write("kubeconfig", &kubeconfig.to_string()).unwrap();
    let scene = scene.env("KUBECONFIG", kubeconfig);
    let config = scene
        .config(&format!(
            "state: {{secret: {{namespace: ns}}}}\nserve: {{address: 127.0.0.1:{port}}}\n{JOBS}"
        ))
        .unwrap();
    let process = scene.run(&config).unwrap();
    process
        .wait_for("a try at the store", PATIENCE, |process| {
            process.stderr().contains("it is tried again")
        })
        .unwrap();
    let client = Client::plain();
    for (path, status) in [("/livez", 200), ("/readyz", 503), ("/metrics", 503)] {
        let url = format!("http://127.0.0.1:{port}{path}");
        let answer = client.send("GET", &url, &[], &[]).unwrap();
        assert_eq!(answer.status, status, "{path}");
        let said = String::from_utf8(answer.body).unwrap();
        assert_eq!(said, if status == 200 { "ok\n" } else { "starting\n" });
    }
    let told = Instant::now();
    let ended = process.terminate(PATIENCE).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", process.stderr());
    assert!(told.elapsed() < Duration::from_secs(2));
    let begun = Instant::now();
    let once = scene
        .command(&["once", "--timeout", "1s"], &config)
        .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "the time is up");
    assert_eq!(once.code(), Some(1), "{}", once.stderr);
    assert!(
        once.stderr.contains("could be opened within 1s"),
        "{}",
        once.stderr
    );
}

#[test]
fn status_is_a_table_for_people_and_json_for_programs() {
    let scene = Scene::new("status").unwrap();
    let config = scene
        .config(&format!("state: {{dir: \"{{here}}/state\"}}\n{JOBS}"))
        .unwrap();
    let process = scene.run(&config).unwrap();
    wait_until("both jobs to have been tried", PATIENCE, || {
        let rows = scene.status(&config).ok()?;
        (scene.out("good").exists() && rows.iter().any(|row| failure_in(row).is_some()))
            .then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    let table = scene.command(&["status"], &config).unwrap();
    assert_eq!(table.code(), Some(0));
    for expected in [
        "JOB",
        "STATE",
        "EXPIRES",
        "NEXT",
        "good",
        "bad",
        "secret.not-found",
    ] {
        assert!(
            table.stdout.contains(expected),
            "{expected} is missing:\n{}",
            table.stdout
        );
    }
    // One job's row alone; a name that is no job's is an error, in either form.
    let one = scene.command(&["status", "good"], &config).unwrap();
    assert_eq!(one.code(), Some(0), "{}", one.stderr);
    assert!(!one.stdout.contains("bad"), "{}", one.stdout);
    for form in ["table", "json"] {
        let unknown = scene
            .command(&["status", "good", "nobody", "-o", form], &config)
            .unwrap();
        assert_eq!(unknown.code(), Some(64));
        assert!(unknown.stdout.contains("good"), "{}", unknown.stdout);
        assert_eq!(unknown.stderr, "error: no such job: nobody\n");
    }
    let sockets: Vec<_> = std::fs::read_dir(scene.path("evertoken"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let [socket] = &sockets[..] else {
        panic!("{sockets:?}")
    };
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(socket), 0o600);
    assert_eq!(mode(socket.parent().unwrap()), 0o700);

    // Two processes on one state directory: the second says who has it.
    let second = scene.command(&["run"], &config).unwrap();
    assert_eq!(second.code(), Some(1));
    assert!(
        second.stderr.contains(&process.pid().to_string()),
        "{}",
        second.stderr
    );

    assert_eq!(
        process.terminate(Duration::from_secs(5)).unwrap().code(),
        Some(0)
    );
    let gone = scene.command(&["status"], &config).unwrap();
    assert_eq!(gone.code(), Some(1));
    let said = format!("listens on {}", socket.display());
    assert!(gone.stderr.contains(&said), "{}", gone.stderr);
}

#[test]
fn once_writes_every_job_and_says_which_it_could_not() {
    let scene = Scene::new("once").unwrap();
    let config = scene.config(JOBS).unwrap();
    let named = scene
        .launch()
        .unwrap()
        .args(["once", "good", "--config"])
        .args([&config])
        .finish(PATIENCE)
        .unwrap();
    assert_eq!(named.code(), Some(0), "{}", named.stderr);
    assert_eq!(
        std::fs::read_to_string(scene.out("good")).unwrap(),
        "token 1"
    );

    let all = scene
        .launch()
        .unwrap()
        .args(["once", "--timeout", "3s", "--config"])
        .args([&config])
        .finish(PATIENCE)
        .unwrap();
    assert_eq!(all.code(), Some(1));
    assert!(
        all.stderr.contains("bad") && all.stderr.contains("missing"),
        "{}",
        all.stderr
    );

    let unknown = scene
        .launch()
        .unwrap()
        .args(["once", "nobody", "--config"])
        .args([&config])
        .finish(PATIENCE)
        .unwrap();
    assert_eq!(unknown.code(), Some(64), "{}", unknown.stderr);
    assert!(unknown.stderr.contains("nobody"));
}

#[test]
fn once_that_a_signal_ends_says_so() {
    let scene = Scene::new("once-signal").unwrap();
    let issuer = Issuer::start().unwrap();
    issuer.always("/token", Behaviour::hang());
    let config = scene
        .config(&format!(
            r#"jobs: [{{name: a, source: {{plugin: oauth2, config: {{grant: client_credentials, token_url: "{}", client_id: a, client_auth: none}}}}, outputs: [{{file: {{path: "{{out}}/a"}}}}]}}]"#,
            issuer.url("/token")
        ))
        .unwrap();
    let launch = scene.launch().unwrap().args(["once", "--config"]);
    let process = launch.args([&config]).spawn().unwrap();
    process
        .wait_for("the request", PATIENCE, |_| {
            !issuer.requests_to("/token").is_empty()
        })
        .unwrap();
    process.signal(Signal::TERM).unwrap();
    let ended = process.wait(PATIENCE).unwrap();
    assert_eq!(ended.code(), Some(1));
    let said = process.stderr();
    assert!(
        said.ends_with("a: not written: pending; stopped by a signal\n"),
        "{said}"
    );
}

#[test]
fn once_shows_its_progress_on_a_terminal_and_only_there() {
    let scene = Scene::new("progress").unwrap();
    let config = scene.config(JOBS).unwrap();
    let arguments = ["once", "good", "--config"];
    let piped = scene
        .launch()
        .unwrap()
        .args(arguments)
        .args([&config])
        .finish(PATIENCE)
        .unwrap();
    assert_eq!(piped.code(), Some(0));
    assert_eq!(piped.stderr, "good: written\n");

    // `script` gives a command a terminal.
    let program = evertoken_tests::evertoken::binary().unwrap();
    let line = format!(
        "{} {} {}",
        program.display(),
        arguments.join(" "),
        config.display()
    );
    let shown = Launch::of(Path::new("script"))
        .args(["-qec", &line, "/dev/null"])
        .env("TERM", "xterm")
        .folder(&scene.path(""))
        .finish(PATIENCE)
        .unwrap();
    if shown.code() == Some(127) {
        println!("skipped: needs script (util-linux)");
        return;
    }
    assert_eq!(shown.code(), Some(0), "{}", shown.stdout);
    assert!(
        shown.stdout.contains("of 1 jobs written"),
        "{}",
        shown.stdout
    );
    assert!(
        shown.stdout.ends_with("\r\u{1b}[Kgood: written\r\n"),
        "{:?}",
        shown.stdout
    );
}

#[test]
fn check_online_finds_what_check_cannot_know() {
    let scene = Scene::new("check").unwrap();
    let shared = r#"outputs:
- {from: [good], file: {path: "{here}/nowhere/all"}, format: {plugin: template, config: {template: "{{ token }}"}}}
"#;
    let config = scene.config(&format!("{JOBS}{shared}")).unwrap();
    assert_eq!(scene.command(&["check"], &config).unwrap().code(), Some(0));
    let online = scene.command(&["check", "--online"], &config).unwrap();
    assert_eq!(online.code(), Some(1), "{}", online.stderr);
    for said in ["job bad:", "missing", "output of good:", "nowhere"] {
        assert!(online.stderr.contains(said), "{}", online.stderr);
    }
    scene.write("missing", "now it is there").unwrap();
    std::fs::create_dir(scene.path("nowhere")).unwrap();
    assert_eq!(
        scene
            .command(&["check", "--online"], &config)
            .unwrap()
            .code(),
        Some(0)
    );
}

#[test]
fn an_issuer_that_is_away_is_an_error_of_check_online_but_not_of_a_strict_start() {
    let scene = Scene::new("issuer-away").unwrap();
    let config = scene
        .config(&format!(
            r#"jobs:
- name: away
  source: {{plugin: oauth2, config: {{grant: client_credentials, token_url: "http://127.0.0.1:{}/token", client_id: c}}, secrets: {{client_secret: {{value: s}}}}}}
  outputs: [{{file: {{path: "{{out}}/away"}}}}]
- name: here
  source: {{plugin: dummy, config: {{lifetime: 1h}}}}
  outputs: [{{file: {{path: "{{out}}/here"}}}}]
"#,
            free_port().unwrap()
        ))
        .unwrap();
    let online = scene.command(&["check", "--online"], &config).unwrap();
    assert_eq!(online.code(), Some(1), "{}", online.stderr);
    for said in ["job away:", "connection refused"] {
        assert!(online.stderr.contains(said), "{}", online.stderr);
    }
    assert!(!online.stderr.contains("job here:"), "{}", online.stderr);

    let process = scene
        .launch()
        .unwrap()
        .args(["run", "--strict", "--config"])
        .args([&config])
        .spawn()
        .unwrap();
    wait_until("the job whose source is here", PATIENCE, || {
        scene.out("here").exists().then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
}

//! What the machine lacks when the process starts, seen by a user who is not root: each is its job's state, the others run, the jobs
//! recover when it is there, and `check --online` and `run --strict` make it an error.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use evertoken_tests::disk::SmallDisk;
use evertoken_tests::evertoken::{Launch, binary};
use evertoken_tests::issuer::Issuer;
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;

use crate::scene::{PATIENCE, RECOVERY, Scene, failure_in};

/// Nobody's uid and gid, where the test runs as root; otherwise it is not root anyway.
const SOMEBODY: u32 = 12_345;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes a folder that the user may use who runs evertoken.
fn folder(path: &Path) {
    std::fs::create_dir_all(path).unwrap();
    if is_root() {
        chown(path, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    }
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// A command line as that user, with a cache of their own.
fn launch(scene: &Scene) -> Launch {
    let launch = scene
        .launch()
        .unwrap()
        .env("XDG_CACHE_HOME", scene.path("cache"));
    if is_root() {
        launch.user(SOMEBODY, SOMEBODY)
    } else {
        launch
    }
}

/// Whether there is a user for these tests; says so if not.
pub(crate) fn can_be_somebody() -> bool {
    let runnable = binary().unwrap().ancestors().all(|path| {
        path.metadata()
            .is_ok_and(|found| found.permissions().mode() & 0o001 != 0)
    });
    if is_root() && !runnable {
        println!("skipped: another user cannot run the program where it was built");
        return false;
    }
    true
}

#[test]
fn a_state_store_that_cannot_be_opened_ends_a_start_and_check_online_knows_before() {
    if !can_be_somebody() {
        return;
    }
    let scene = Scene::new("state").unwrap();
    for name in ["cache", "out", "closed", "held"] {
        folder(&scene.path(name));
    }
    mode(&scene.path("closed"), 0o555);
    scene.write("file", "").unwrap();
    scene.write("bad-key", "too short").unwrap();
    let job = r#"jobs: [{name: a, source: {plugin: dummy}, outputs: [{file: {path: "{out}/a"}}]}]"#;
    for (state, said) in [
        (r#"dir: "{here}/closed""#, "closed"),
        (r#"dir: "{here}/closed/state""#, "closed/state"),
        (r#"dir: "{here}/nowhere/state""#, "nowhere/state"),
        (r#"dir: "{here}/file""#, "file"),
        (
            r#"dir: "{here}/held", key: {file: "{here}/no-key"}"#,
            "no-key",
        ),
        (
            r#"dir: "{here}/held", key: {file: "{here}/bad-key"}"#,
            "bad-key",
        ),
    ] {
        let config = scene
            .config(&format!("state: {{{state}}}\n{job}\n"))
            .unwrap();
        let said = scene.path(said).display().to_string();
        for command in [
            &["check", "--online"][..],
            &["run", "--strict"],
            &["run"],
            &["once"],
        ] {
            let finished = launch(&scene)
                .args(command)
                .args(["--config"])
                .args([&config])
                .finish(PATIENCE)
                .unwrap();
            assert_eq!(finished.code(), Some(1), "{command:?}: {}", finished.stderr);
            assert!(
                finished.stderr.contains(&said),
                "{command:?} says nothing of {said}: {}",
                finished.stderr
            );
            let told = finished.stderr.matches("os error").count();
            assert!(told <= 1, "{command:?} says it twice: {}", finished.stderr);
            assert!(!scene.out("a").exists(), "{command:?} started something");
        }
    }
    let config = scene
        .config(&format!("state: {{dir: \"{{here}}/held/state\"}}\n{job}\n"))
        .unwrap();
    let finished = launch(&scene)
        .args(["check", "--online", "--config"])
        .args([&config])
        .finish(PATIENCE)
        .unwrap();
    assert_eq!(finished.code(), Some(0), "{}", finished.stderr);
    assert!(!scene.path("held/state").exists(), "it only looks");
}

/// Without a state store the file that a login came from is the only place for its successors.
#[test]
fn a_login_is_not_spent_while_its_only_home_cannot_be_written() {
    if !can_be_somebody() {
        return;
    }
    let scene = Scene::new("home").unwrap();
    for name in ["cache", "out", "home"] {
        folder(&scene.path(name));
    }
    let home = scene.write("home/login", "login-0").unwrap();
    if is_root() {
        chown(&home, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    }
    let issuer = Issuer::start().unwrap();
    let (issued, closes) = (AtomicUsize::new(1), Arc::new(AtomicBool::new(false)));
    let (folder, is_told_to) = (scene.path("home"), Arc::clone(&closes));
    issuer.respond_with("/token", move |_| {
        if is_told_to.swap(false, Ordering::Relaxed) {
            mode(&folder, 0o555);
        }
        let n = issued.fetch_add(1, Ordering::Relaxed);
        Behaviour::json(
            200,
            &serde_json::json!({
                "access_token": format!("token-{n}"), "token_type": "Bearer", "expires_in": 4, "refresh_token": format!("login-{n}"),
            }),
        )
    });
    let config = scene
        .config(&format!(
            r#"
control: {{socket: "{{here}}/out/socket"}}
jobs:
- name: a
  source:
    plugin: oauth2
    config: {{grant: refresh_token, token_url: "{}", client_id: a, client_auth: none}}
    secrets: {{refresh_token: {{file: "{{here}}/home/login", rotating: true, write_back: true}}}}
  outputs: [{{file: {{path: "{{out}}/a"}}}}]
"#,
            issuer.url("/token")
        ))
        .unwrap();
    let command = |name: &str| {
        let launch = launch(&scene).args([name, "--config"]);
        launch.args([&config])
    };
    let held = || std::fs::read_to_string(&home).unwrap();
    mode(&scene.path("home"), 0o555);
    let refused = command("once").finish(PATIENCE).unwrap();
    assert_eq!(refused.code(), Some(1), "{}", refused.stderr);
    let why = "rotating secret `refresh_token` of job `a` is not used";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
    assert_eq!(issuer.requests().len(), 0);

    mode(&scene.path("home"), 0o755);
    let process = command("run").spawn().unwrap();
    wait_until("a successor in its home", PATIENCE, || {
        (held() != "login-0").then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    // Nor does a process go on that has spent some.
    mode(&scene.path("home"), 0o555);
    let failure = scene.failure(&config, &process, "a", PATIENCE);
    assert_eq!(failure.code, "secret.no-write-back", "{failure:?}");
    let before = (held(), issuer.requests().len());
    mode(&scene.path("home"), 0o755);
    wait_until("another successor in its home", RECOVERY, || {
        (held() != before.0).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    assert_eq!(issuer.requests().len(), before.1 + 1);
    // What was spent before that could be known is gone on from, and said.
    closes.store(true, Ordering::Relaxed);
    let said = "no state store has it";
    wait_until("the line of the turn", PATIENCE, || {
        process.stderr().contains(said).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    let shown = scene.status(&config).unwrap();
    assert_eq!(shown[0]["chain"], "needs-attention", "{shown:?}");
    let (before, requests) = (held(), issuer.requests().len());
    wait_until("further tokens", PATIENCE, || {
        (issuer.requests().len() > requests + 2).then_some(())
    })
    .unwrap();
    assert_eq!(held(), before);
    mode(&scene.path("home"), 0o755);
    wait_until("the newest in its home", PATIENCE, || {
        (held() != before).then_some(())
    })
    .unwrap();
    process.terminate(PATIENCE).unwrap();
    assert_eq!(process.stderr().matches(said).count(), 1, "once a turn");
    let next = command("once").finish(PATIENCE).unwrap();
    assert_eq!(next.code(), Some(0), "{}", next.stderr);
    let sent = issuer.requests();
    let mut sent: Vec<_> = sent
        .iter()
        .map(|request| request.field("refresh_token").unwrap())
        .collect();
    let all = sent.len();
    sent.sort();
    sent.dedup();
    assert_eq!(sent.len(), all, "a spent login was sent again");
}

/// A collector that reads lines of JSON must not lose the line that says why there is no process.
#[test]
fn whatever_ends_a_run_is_said_in_the_form_of_its_log() {
    let scene = Scene::new("json").unwrap();
    scene.write("file", "").unwrap();
    let job = r#"jobs: [{name: a, source: {plugin: dummy}, outputs: [{file: {path: "{out}/a"}}]}]"#;
    for (yaml, code, words) in [
        ("jobs: [{nam: a}]".to_owned(), 64, "nam"),
        (
            format!("state: {{dir: \"{{here}}/file\"}}\n{job}\n"),
            1,
            "cannot open the state store",
        ),
    ] {
        let config = scene.config(&yaml).unwrap();
        let finished = scene
            .command(&["run", "--log-format", "json"], &config)
            .unwrap();
        assert_eq!(finished.code(), Some(code), "{}", finished.stderr);
        let lines = finished.stderr.lines();
        let lines: Vec<serde_json::Value> = lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
            .collect();
        let says = |line: &serde_json::Value| {
            line["level"] == "ERROR" && line["message"].as_str().unwrap().contains(words)
        };
        assert!(lines.iter().any(says), "{lines:?}");
    }
}

#[test]
fn a_cache_without_room_costs_time_and_no_token() {
    let scene = Scene::new("full-cache").unwrap();
    let config = scene
        .config("jobs: [{name: a, source: {plugin: dummy, config: {lifetime: 1h}}, outputs: [{file: {path: \"{out}/a\"}}]}]\n")
        .unwrap();
    std::fs::create_dir(scene.path("disk")).unwrap();
    let Some(disk) = SmallDisk::mount(&scene.path("disk"), "64k") else {
        return;
    };
    std::fs::create_dir(scene.path("disk/evertoken")).unwrap();
    mode(&scene.path("disk/evertoken"), 0o700);
    let once = || {
        let launch = scene.launch().unwrap();
        let launch = launch.env("XDG_CACHE_HOME", scene.path("disk"));
        let launch = launch.args(["once", "--config"]).args([&config]);
        launch.finish(PATIENCE).unwrap()
    };
    for (what, fills) in [("no room for the whole", false), ("no room at all", true)] {
        if fills {
            disk.fill().unwrap();
        }
        let finished = once();
        assert_eq!(finished.code(), Some(0), "{what}: {}", finished.stderr);
        let warning = "compiled plugins cannot be kept, so each start compiles them anew: No space left on device";
        assert!(
            finished.stderr.contains(warning),
            "{what}: {}",
            finished.stderr
        );
        assert!(
            finished.stderr.ends_with("a: written\n"),
            "{what}: {}",
            finished.stderr
        );
        let left: Vec<_> = scene.path("disk/evertoken").read_dir().unwrap().collect();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

#[test]
fn what_the_machine_lacks_is_one_jobs_state_and_an_error_only_when_asked() {
    if !can_be_somebody() {
        return;
    }
    let scene = Scene::new("machine").unwrap();
    for name in ["state", "cache", "out", "closed"] {
        folder(&scene.path(name));
    }
    mode(&scene.path("closed"), 0o555);
    scene.write("unreadable", "a-secret-token").unwrap();
    mode(&scene.path("unreadable"), 0o000);
    let mirror =
        |secret: &str| format!("{{plugin: mirror, secrets: {{token: {secret}}}, reveal: [token]}}");
    let (dummy, out) = (
        "{plugin: dummy, config: {lifetime: 1h}}".to_owned(),
        "{out}/",
    );
    let table = [
        (
            "unreadable-secret",
            mirror("{file: \"{here}/unreadable\"}"),
            out,
            "",
            "secret.unreadable",
        ),
        (
            "missing-secret",
            mirror("{file: \"{here}/missing\"}"),
            out,
            "",
            "secret.not-found",
        ),
        (
            "missing-variable",
            mirror("{env: NO_SUCH_VARIABLE}"),
            out,
            "",
            "secret.not-found",
        ),
        (
            "unwritable-folder",
            dummy.clone(),
            "{here}/closed/",
            "",
            "file.permission",
        ),
        (
            "missing-folder",
            dummy.clone(),
            "{here}/nowhere/",
            "",
            "file.no-directory",
        ),
        (
            "foreign-owner",
            dummy.clone(),
            out,
            ", owner: 0",
            "file.owner",
        ),
        (
            "foreign-group",
            dummy.clone(),
            out,
            ", group: 0",
            "file.owner",
        ),
    ];
    let mut yaml = String::from("state: {dir: \"{here}/state\"}\njobs:\n");
    for (name, source, place, owner, _) in &table {
        yaml.push_str(&format!(
            "- {{name: {name}, source: {source}, outputs: [{{file: {{path: \"{place}{name}\"{owner}}}}}]}}\n"
        ));
    }
    yaml.push_str(&format!(
        "- {{name: healthy, source: {{plugin: dummy, config: {{lifetime: 4s}}}}, outputs: [{{file: {{path: \"{out}healthy\"}}}}]}}\n"
    ));
    let config = scene.config(&yaml).unwrap();

    for command in [&["check", "--online"][..], &["run", "--strict"]] {
        let finished = launch(&scene)
            .args(command)
            .args(["--config"])
            .args([&config])
            .finish(PATIENCE)
            .unwrap();
        assert_eq!(finished.code(), Some(1), "{command:?}: {}", finished.stderr);
        for (name, ..) in &table {
            assert!(
                finished.stderr.contains(&format!("job {name}:")),
                "{command:?} says nothing of {name}: {}",
                finished.stderr
            );
        }
        assert!(!finished.stderr.contains("healthy"), "{}", finished.stderr);
        assert!(
            !scene.out("healthy").exists(),
            "{command:?} started something"
        );
    }

    let process = launch(&scene)
        .args(["run", "--config"])
        .args([&config])
        .spawn()
        .unwrap();
    wait_until("the healthy job", PATIENCE, || {
        scene.out("healthy").exists().then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    let status = scene.status(&config).unwrap();
    for (name, _, _, _, expected) in &table {
        let row = status.iter().find(|row| row["id"]["name"] == *name);
        let failure = row.and_then(failure_in);
        // What a look at the machine finds comes in milliseconds, so all have failed by now; on a busy machine nearly all.
        let failure = failure.unwrap_or_else(|| scene.failure(&config, &process, name, PATIENCE));
        assert_eq!(failure.code, *expected, "{name}: {failure:?}");
    }
    let healthy = || std::fs::read(scene.out("healthy")).unwrap();
    let before = healthy();
    wait_until("the healthy job to go on", PATIENCE, || {
        (healthy() != before).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));

    // Somebody mends it; nothing is restarted.
    scene.write("missing", "it-came").unwrap();
    mode(&scene.path("unreadable"), 0o444);
    mode(&scene.path("closed"), 0o755);
    folder(&scene.path("nowhere"));
    for path in [
        "out/unreadable-secret",
        "out/missing-secret",
        "closed/unwritable-folder",
        "nowhere/missing-folder",
    ] {
        wait_until(path, RECOVERY, || scene.path(path).exists().then_some(()))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    }
}

//! Plugins that misbehave, as real components named in a configuration: each is stopped by its own limit with its own error
//! within the limit's time, and the other jobs go on.

use std::time::{Duration, Instant};

use evertoken_tests::guests::build;
use evertoken_tests::issuer::Issuer;
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;
use sha2::{Digest as _, Sha256};

use crate::scene::{PATIENCE, Scene};

/// The call limit of these jobs, and what a stop may take beyond it on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(3);
const SLACK: Duration = Duration::from_secs(5);

/// The `plugins` entry of a guest.
fn plugin(name: &str, file: &str) -> String {
    let path = build().unwrap().join(file);
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(std::fs::read(&path).unwrap()));
    format!(
        "  {name}: {{path: \"{}\", sha256: {digest}}}\n",
        path.display()
    )
}

fn job(name: &str, plugin: &str, config: &str) -> String {
    format!(
        r#"
- name: {name}
  source:
    plugin: {plugin}
    timeout: {}s
    config: {config}
    secrets: {{mine: {{value: "my-own-secret-value"}}}}
    reveal: [mine]
  refresh: {{default_lifetime: 1h}}
  outputs: [{{file: {{path: "{{out}}/{name}"}}}}]
"#,
        TIMEOUT.as_secs()
    )
}

#[test]
fn a_plugin_that_misbehaves_is_stopped_by_its_own_limit_with_its_own_error() {
    let scene = Scene::new("guests").unwrap();
    let issuer = Issuer::start().unwrap();
    issuer.always("/", Behaviour::answer(200, "hello"));
    let url = issuer.url("/");
    let allowed = format!("{{mode: many-requests, url: \"{url}\"}}");
    let denied = format!("{{mode: one-request, url: \"{url}\"}}");
    let table = [
        ("spins", "{mode: spin}", "plugin.timeout"),
        ("parks", "{mode: park}", "plugin.timeout"),
        (
            "allocates-at-once",
            "{mode: allocate-at-once}",
            "plugin.out-of-memory",
        ),
        (
            "allocates-slowly",
            "{mode: allocate-slowly}",
            "plugin.out-of-memory",
        ),
        ("recurses", "{mode: recurse}", "plugin.trap"),
        ("panics", "{mode: panic, secret: mine}", "plugin.trap"),
        (
            "asks-for-a-foreign-secret",
            "{mode: open-secret, secret: someone-elses}",
            "secret.not-listed",
        ),
        (
            "asks-for-a-foreign-origin",
            denied.as_str(),
            "http.origin-denied",
        ),
        (
            "sends-a-hundred-requests",
            allowed.as_str(),
            "http.too-many-requests",
        ),
    ];
    let mut yaml = format!(
        "state: {{dir: \"{{here}}/state\"}}\nplugins:\n{}jobs:",
        plugin("guest", "guest_source.wasm")
    );
    for (name, config, _) in &table {
        let job = job(name, "guest", config);
        let open = *name == "sends-a-hundred-requests";
        yaml.push_str(&if open {
            job.replace(
                "    reveal:",
                &format!("    allow: [\"{}\"]\n    reveal:", issuer.origin()),
            )
        } else {
            job
        });
    }
    yaml.push_str(&job("floods-the-log", "guest", "{mode: flood-log}"));
    yaml.push_str(&job("is-good", "guest", "{mode: good}"));
    let config = scene.config(&yaml).unwrap();
    let process = scene.run(&config).unwrap();
    wait_until("the good job", PATIENCE, || {
        scene.out("is-good").exists().then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));

    let begun = Instant::now();
    for (name, _, expected) in &table {
        let failure = scene.failure(&config, &process, name, TIMEOUT + SLACK);
        assert_eq!(failure.code, *expected, "{name}: {failure:?}");
    }
    assert!(
        begun.elapsed() < (TIMEOUT + SLACK) * 2,
        "limits held up each other"
    );

    // A flood of log lines is cut off and costs the job nothing else.
    wait_until("the job that floods the log", PATIENCE, || {
        scene.out("floods-the-log").exists().then_some(())
    })
    .unwrap();
    let lines = process
        .stderr()
        .lines()
        .filter(|line| line.contains("floods-the-log"))
        .count();
    assert!((1..2000).contains(&lines), "{lines} lines of one call");
    assert!(
        !process.stderr().contains("my-own-secret-value"),
        "a panic message showed a secret"
    );
    assert_eq!(
        issuer.requests().len(),
        issuer
            .requests()
            .iter()
            .filter(|request| request.path == "/")
            .count()
    );
    assert_eq!(
        process.terminate(Duration::from_secs(5)).unwrap().code(),
        Some(0)
    );
}

#[test]
fn a_plugin_that_cannot_be_used_disables_its_job_and_recovers_by_itself() {
    let scene = Scene::new("unusable").unwrap();
    let good = std::fs::read(build().unwrap().join("guest_source.wasm")).unwrap();
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(&good));
    let late = scene.path("late.wasm");
    scene.write("torn.wasm", "not wasm at all").unwrap();
    let torn = data_encoding::HEXLOWER.encode(&Sha256::digest(b"not wasm at all"));
    let mut yaml = String::from("state: {dir: \"{here}/state\"}\nplugins:\n");
    yaml.push_str(&plugin("a-formatter", "guest_formatter.wasm"));
    yaml.push_str(&plugin("ambient", "guest_ambient.wasm"));
    yaml.push_str(&format!(
        "  late: {{path: \"{}\", sha256: {digest}}}\n",
        late.display()
    ));
    yaml.push_str(&format!(
        "  torn: {{path: \"{{here}}/torn.wasm\", sha256: {torn}}}\n"
    ));
    yaml.push_str(&format!(
        "  forged: {{path: \"{{here}}/torn.wasm\", sha256: {digest}}}\n"
    ));
    yaml.push_str("jobs:");
    let table = [
        ("wrong-world", "a-formatter", "plugin.wrong-world"),
        ("wants-the-world", "ambient", "plugin.refused-import"),
        ("not-there-yet", "late", "plugin.unreadable"),
        ("not-wasm", "torn", "plugin.not-a-component"),
        ("wrong-digest", "forged", "plugin.digest-mismatch"),
    ];
    for (name, plugin, _) in &table {
        yaml.push_str(&job(name, plugin, "{mode: good}"));
    }
    yaml.push_str(&job("healthy", "dummy", "{lifetime: 1h}").replace("    reveal: [mine]\n", ""));
    let config = scene.config(&yaml).unwrap();
    let process = scene.run(&config).unwrap();
    wait_until("the healthy job", PATIENCE, || {
        scene.out("healthy").exists().then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    for (name, _, expected) in &table {
        let failure = scene.failure(&config, &process, name, PATIENCE);
        assert_eq!(failure.code, *expected, "{name}: {failure:?}");
    }
    std::fs::write(&late, &good).unwrap();
    wait_until("the plugin that came late", PATIENCE, || {
        scene.out("not-there-yet").exists().then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));

    let strict = scene.command(&["run", "--strict"], &config).unwrap();
    assert_eq!(strict.code(), Some(1), "{}", strict.stderr);
    assert!(strict.stderr.contains("forged"), "{}", strict.stderr);
}

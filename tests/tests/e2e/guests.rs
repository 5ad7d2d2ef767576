//! Plugins that misbehave, as real components named in a configuration: each is stopped by its own limit with its own error
//! within the limit's time, and the other jobs go on.

use std::path::Path;
use std::time::{Duration, Instant};

use evertoken_tests::guests::build;
use evertoken_tests::issuer::Issuer;
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;
use sha2::{Digest as _, Sha256};

use crate::scene::{PATIENCE, RECOVERY, Scene, failure_in};

/// The call limit of these jobs, and what a stop may take beyond it on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(3);
const SLACK: Duration = Duration::from_secs(5);

/// For a call that must come as far as its limit on requests, however busy the machine.
const LONG_TIMEOUT: Duration = Duration::from_secs(40);

/// What one call may send unless the configuration says otherwise.
const REQUESTS: u64 = 16;

pub(crate) fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

/// The `plugins` entry of a guest.
pub(crate) fn plugin(name: &str, file: &str) -> String {
    entry(name, &build().unwrap().join(file))
}

/// The `plugins` entry of a component.
pub(crate) fn entry(name: &str, path: &Path) -> String {
    let digest = sha256(&std::fs::read(path).unwrap());
    format!(
        "  {name}: {{path: \"{}\", sha256: {digest}}}\n",
        path.display()
    )
}

/// A component as it would be with another spelling of a name in it, of the same length: names stand in it with their length.
fn respelled(component: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = component.to_vec();
    let mut found = 0;
    while let Some(at) = bytes
        .windows(from.len())
        .position(|window| window == from.as_bytes())
    {
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        found += 1;
    }
    assert!(found > 0, "`{from}` is not in the component");
    bytes
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
        ("parks", "{mode: park}", "plugin.idle"),
        (
            "allocates-at-once",
            "{mode: allocate, mib: 1024}",
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
    ];
    let mut yaml = format!(
        "state: {{dir: \"{{here}}/state\"}}\nplugins:\n{}jobs:",
        plugin("guest", "guest_source.wasm")
    );
    for (name, config, _) in &table {
        yaml.push_str(&job(name, "guest", config));
    }
    let timeout = |time: Duration| format!("timeout: {}s", time.as_secs());
    let allow = format!("    allow: [\"{}\"]\n    reveal:", issuer.origin());
    yaml.push_str(
        &job("sends-a-hundred-requests", "guest", &allowed)
            .replace(&timeout(TIMEOUT), &timeout(LONG_TIMEOUT))
            .replace("    reveal:", &allow),
    );
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
    let failure = scene.failure(&config, &process, "sends-a-hundred-requests", LONG_TIMEOUT);
    assert_eq!(failure.code, "http.too-many-requests", "{failure:?}");

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
    let attempts = scene.row(&config, "sends-a-hundred-requests").unwrap()["attempt"]
        .as_u64()
        .unwrap();
    let sent = issuer.requests().len() as u64;
    // A call may have begun since.
    assert!(
        (REQUESTS..=REQUESTS * (attempts + 1)).contains(&sent),
        "{sent} requests in {attempts} calls"
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
    let (late, forged) = (scene.path("late.wasm"), scene.path("forged.wasm"));
    // Plugins of one digest are loaded once, so these two differ: by an empty custom section called `x`.
    let another_good = [&good[..], &[0, 2, 1, b'x']].concat();
    std::fs::write(&forged, "not what the digest says").unwrap();
    let torn = scene.write("torn.wasm", "not wasm at all").unwrap();
    // The same component as a kit for a later interface would have made it, and one that needs what no host of this interface has.
    let newer = scene.path("newer.wasm");
    let of_another_time = respelled(
        &good,
        "evertoken:plugin/source@0.1.0",
        "evertoken:plugin/source@0.7.0",
    );
    std::fs::write(&newer, of_another_time).unwrap();
    let needy = scene.path("needy.wasm");
    std::fs::write(
        &needy,
        respelled(&good, "evertoken:plugin/http@", "evertoken:plugin/smtp@"),
    )
    .unwrap();
    let sender = scene.path("sender.wasm");
    let own_requests = respelled(
        &good,
        "evertoken:plugin/http@0.1.0",
        "wasi:http/outgoing-handler@",
    );
    std::fs::write(&sender, own_requests).unwrap();
    let mut yaml = String::from("state: {dir: \"{here}/state\"}\nplugins:\n");
    yaml.push_str(&plugin("a-formatter", "guest_formatter.wasm"));
    yaml.push_str(&entry("sender", &sender));
    yaml.push_str(&entry("torn", &torn));
    yaml.push_str(&entry("newer", &newer));
    yaml.push_str(&entry("needy", &needy));
    for (name, right) in [("late", &good), ("forged", &another_good)] {
        yaml.push_str(&format!(
            "  {name}: {{path: \"{{here}}/{name}.wasm\", sha256: {}}}\n",
            sha256(right)
        ));
    }
    yaml.push_str("jobs:");
    let table = [
        ("wrong-world", "a-formatter", "plugin.wrong-world"),
        (
            "wants-requests-of-its-own",
            "sender",
            "plugin.refused-import",
        ),
        ("missing-import", "needy", "plugin.missing-import"),
        ("unknown-version", "newer", "plugin.unknown-version"),
        ("not-wasm", "torn", "plugin.not-a-component"),
        ("not-there-yet", "late", "plugin.unreadable"),
        ("wrong-digest", "forged", "plugin.digest-mismatch"),
    ];
    for (name, plugin, _) in &table {
        yaml.push_str(&job(name, plugin, "{mode: good}"));
    }
    yaml.push_str(&job("healthy", "dummy", "{lifetime: 1h}"));
    yaml.push_str(&job("unformatted", "dummy", "{lifetime: 1h}").replace(
        "unformatted\"}}]",
        "unformatted\"}, format: {plugin: torn}}]",
    ));
    let config = scene.config(&yaml).unwrap();
    let process = scene.run(&config).unwrap();
    wait_until("the healthy job", PATIENCE, || {
        scene.out("healthy").exists().then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    let status = scene.status(&config).unwrap();
    for (name, _, expected) in &table {
        let row = status.iter().find(|row| row["id"]["name"] == *name);
        let failure = row.and_then(failure_in);
        // Loading begins with the process, so most have failed by now.
        let failure = failure.unwrap_or_else(|| scene.failure(&config, &process, name, PATIENCE));
        assert_eq!(failure.code, *expected, "{name}: {failure:?}");
        assert!(!scene.out(name).exists());
    }
    let failure = scene.failure(&config, &process, "unformatted", PATIENCE);
    assert_eq!(failure.code, "plugin.not-a-component", "{failure:?}");
    assert!(!scene.out("unformatted").exists());

    // The right files are there: the jobs recover without a restart.
    std::fs::write(&late, &good).unwrap();
    std::fs::write(&forged, &another_good).unwrap();
    for job in ["not-there-yet", "wrong-digest"] {
        wait_until(job, RECOVERY, || scene.out(job).exists().then_some(()))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    }

    for command in [&["run", "--strict"][..], &["check", "--online"]] {
        let finished = scene.command(command, &config).unwrap();
        assert_eq!(finished.code(), Some(1), "{command:?}: {}", finished.stderr);
        let names = table.iter().map(|(name, _, _)| *name);
        for name in names.chain(["unformatted", "healthy"]) {
            let is_mended = scene.out(name).exists();
            assert_eq!(
                finished.stderr.contains(&format!("job {name}:")),
                !is_mended,
                "{command:?}, {name}: {}",
                finished.stderr
            );
        }
    }
}

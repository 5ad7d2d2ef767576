//! Several jobs' tokens in one place: written once all are there, and again when one of them changes.

use std::path::PathBuf;

use evertoken_tests::evertoken::Evertoken;
use evertoken_tests::issuer::Issuer;
use evertoken_tests::kubernetes::ApiServer;
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;
use serde_json::json;

use crate::scene::{PATIENCE, Scene};

/// Two jobs, `a` and `b`, whose issuers are at `/a` and `/b`, and an output that both share.
fn config(scene: &Scene, issuer: &Issuer, output: &str) -> PathBuf {
    let job = |name: &str| {
        format!(
            r#"
- name: {name}
  source:
    plugin: oauth2
    config: {{grant: client_credentials, token_url: "{}", client_id: {name}, client_auth: none}}
  outputs: [{{file: {{path: "{{out}}/{name}"}}}}]"#,
            issuer.url(&format!("/{name}"))
        )
    };
    let yaml = format!(
        r#"
state: {{dir: "{{here}}/state"}}
jobs:{}{}
outputs:
- from: [a, b]
  {output}
  format: {{plugin: template, config: {{template: "{{{{ tokens.a.value }}}} {{{{ tokens.b.value }}}}\n"}}}}
"#,
        job("a"),
        job("b")
    );
    scene.config(&yaml).unwrap()
}

/// `a` lives for an hour until it is asked anew; `b` is not to be had.
fn issuer() -> Issuer {
    let issuer = Issuer::start().unwrap();
    issuer.always("/a", Behaviour::token("a-1", 3600));
    issuer.always("/b", Behaviour::answer(503, ""));
    issuer
}

/// Tells the running process to refresh a job now.
fn refresh(scene: &Scene, config: &std::path::Path, job: &str) {
    let finished = scene.command(&["refresh", job], config).unwrap();
    assert_eq!(finished.code(), Some(0), "{}", finished.stderr);
}

/// Lets the tokens come and change, and sees what the output holds at each step.
fn watch(
    scene: &Scene,
    config: &std::path::Path,
    issuer: &Issuer,
    process: &Evertoken,
    held: impl Fn() -> Option<String>,
) {
    wait_until("the token of a, and b to fail", PATIENCE, || {
        std::fs::read(scene.out("a")).ok()?;
        (!issuer.requests_to("/b").is_empty()).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    assert_eq!(held(), None, "half of the tokens is not written");

    issuer.always("/b", Behaviour::token("b-1", 3600));
    refresh(scene, config, "b");
    wait(process, &held, "a-1 b-1\n");
    issuer.always("/a", Behaviour::token("a-2", 3600));
    refresh(scene, config, "a");
    wait(process, &held, "a-2 b-1\n");
    issuer.always("/b", Behaviour::token("b-2", 3600));
    refresh(scene, config, "b");
    wait(process, &held, "a-2 b-2\n");
}

fn wait(process: &Evertoken, held: &impl Fn() -> Option<String>, expected: &str) {
    wait_until(expected.trim_end(), PATIENCE, || {
        (held()? == expected).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}, but {:?}\n{}", held(), process.stderr()));
}

#[test]
fn two_jobs_tokens_share_a_file_that_is_written_when_both_are_there_and_when_either_changes() {
    let (scene, issuer) = (Scene::new("shared-file").unwrap(), issuer());
    let config = config(&scene, &issuer, r#"file: {path: "{out}/both"}"#);
    let process = scene.run(&config).unwrap();
    let path = scene.out("both");
    watch(&scene, &config, &issuer, &process, || {
        std::fs::read_to_string(&path).ok()
    });
}

#[test]
fn an_output_that_jobs_share_and_that_cannot_be_written_is_told_of_each_of_them() {
    let (scene, issuer) = (Scene::new("shared-unwritten").unwrap(), issuer());
    issuer.always("/b", Behaviour::token("b-1", 3600));
    let config = config(&scene, &issuer, r#"file: {path: "{here}/nowhere/both"}"#);
    let once = scene.command(&["once"], &config).unwrap();
    assert_eq!(once.code(), Some(1));
    for job in ["a", "b"] {
        let said = |line: &str| {
            line.starts_with(&format!("{job}: not written: ")) && line.contains("nowhere/both")
        };
        assert!(once.stderr.lines().any(said), "{job}: {}", once.stderr);
    }

    let process = scene.run(&config).unwrap();
    let failing = process.wait_for("the failure", PATIENCE, |_| {
        scene
            .row(&config, "b")
            .is_some_and(|row| row["state"] == "unwritten")
    });
    failing.unwrap();
    let table = scene.command(&["status"], &config).unwrap().stdout;
    for row in table.lines().skip(1) {
        assert!(
            row.contains("unwritten") && row.contains("file.no-directory: "),
            "{table}"
        );
        assert!(row.contains("; next try "), "{table}");
    }
    let refused = scene.command(&["refresh", "a"], &config).unwrap();
    assert_eq!(refused.code(), Some(1));
    assert!(
        refused.stderr.contains(" (tried again at 2"),
        "{}",
        refused.stderr
    );

    std::fs::create_dir(scene.path("nowhere")).unwrap();
    wait_until("both to be ready", PATIENCE, || {
        let states: Vec<_> = scene.status(&config).ok()?;
        let is_ready = |row: &serde_json::Value| row["state"] == "ready";
        states.iter().all(is_ready).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
}

#[test]
fn two_jobs_tokens_share_a_secret_and_each_change_costs_one_patch() {
    let Some(cluster) = ApiServer::shared().unwrap() else {
        println!("skipped: needs Kubernetes");
        return;
    };
    let namespace = cluster.namespace("shared").unwrap();
    let rules = json!([
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["both"], "verbs": ["patch"]},
    ]);
    let account = cluster
        .service_account(&namespace, "evertoken", &rules)
        .unwrap();
    let (scene, issuer) = (Scene::new("shared-secret").unwrap(), issuer());
    let output = format!("secret: {{namespace: {namespace}, name: both, key: pair, create: true}}");
    let config = config(&scene, &issuer, &output);
    let process = scene
        .launch()
        .unwrap()
        .env("KUBECONFIG", &account.kubeconfig)
        .args(["run", "-v", "--config"])
        .args([&config])
        .spawn()
        .unwrap();
    let admin = cluster.admin();
    watch(&scene, &config, &issuer, &process, || {
        let value = admin.secret_value(&namespace, "both", "pair").unwrap();
        String::from_utf8(value?).ok()
    });
    let writes: Vec<_> = cluster
        .audit_events_of_user(&account.username)
        .unwrap()
        .into_iter()
        .filter(|event| event.user_agent.starts_with("evertoken/"))
        .map(|event| event.verb)
        .collect();
    assert_eq!(writes, ["patch", "patch", "patch"]);
}

//! `evertoken state`: a person looks at a rotating secret, gives it another value and forgets it, with and without a running process.

use std::path::PathBuf;

use evertoken_tests::issuer::Issuer;
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;
use serde_json::{Value, json};

use crate::scene::{PATIENCE, Scene};

const SECRETS: [&str; 3] = ["the-first-value", "the-issuers-value", "the-value-by-hand"];

struct Stage {
    scene: Scene,
    issuer: Issuer,
    config: PathBuf,
}

impl Stage {
    /// An issuer that replaces the first value, and never answers a request with another one.
    fn new(name: &str) -> Self {
        let issuer = Issuer::start().unwrap();
        issuer.respond_with("/token", |request| {
            if request.field("refresh_token").as_deref() == Some(SECRETS[0]) {
                Behaviour::json(
                    200,
                    &json!({"access_token": "at", "token_type": "Bearer", "expires_in": 3600, "refresh_token": SECRETS[1]}),
                )
            } else {
                Behaviour::hang()
            }
        });
        let scene = Scene::new(name).unwrap();
        scene.write("refresh-token", SECRETS[0]).unwrap();
        scene
            .write("by-hand", &format!("{}\n", SECRETS[2]))
            .unwrap();
        let config = scene
            .config(&format!(
                r#"
state: {{dir: "{{here}}/state"}}
jobs:
- name: desktop
  source:
    plugin: oauth2
    config: {{grant: refresh_token, token_url: "{}", client_id: svc, client_auth: none}}
    secrets:
      refresh_token: {{file: "{{here}}/refresh-token", rotating: true}}
  outputs:
  - file: {{path: "{{out}}/token"}}
"#,
                issuer.url("/token")
            ))
            .unwrap();
        Self {
            scene,
            issuer,
            config,
        }
    }

    /// Runs `evertoken state …` and returns its exit code and all that it printed, in which no secret is.
    fn state(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let arguments = [&["state"], arguments].concat();
        let finished = self.scene.command(&arguments, &self.config).unwrap();
        let text = format!("{}{}", finished.stdout, finished.stderr);
        for secret in SECRETS {
            assert!(!text.contains(secret), "{arguments:?}: {text}");
        }
        (finished.code(), text)
    }

    fn chain(&self) -> Value {
        let (code, text) = self.state(&["show", "desktop", "-o", "json"]);
        assert_eq!(code, Some(0), "{text}");
        let jobs: Value = serde_json::from_str(&text).unwrap();
        jobs[0]["chains"][0].clone()
    }
}

#[test]
fn a_rotating_secret_is_shown_set_and_forgotten_by_the_running_process_and_without_one() {
    let stage = Stage::new("state");
    let (code, text) = stage.state(&["show"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("there is no state directory"), "{text}");

    let process = stage.scene.run(&stage.config).unwrap();
    process
        .wait_for("a token", PATIENCE, |_| stage.scene.out("token").exists())
        .unwrap();
    let chain = wait_until("the successor", PATIENCE, || {
        Some(stage.chain()).filter(|chain| chain["chain"]["generation"] == 1)
    })
    .unwrap();
    assert_eq!(
        (&chain["secret"], &chain["state"]),
        (&json!("refresh_token"), &json!("ok"))
    );

    let by_hand = stage.scene.path("by-hand").display().to_string();
    let seed = stage.scene.path("refresh-token").display().to_string();
    let (code, text) = stage.state(&["set", "desktop", "refresh_token", "--file", &seed]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("earlier value"), "{text}");
    let (code, text) = stage.state(&["set", "desktop", "refresh_token", "--file", &by_hand]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("generation 2"), "{text}");

    // It is tried at once, and the issuer does not answer.
    wait_until("a request with the value", PATIENCE, || {
        let requests = stage.issuer.requests_to("/token");
        requests
            .iter()
            .any(|request| request.field("refresh_token").as_deref() == Some(SECRETS[2]))
            .then_some(())
    })
    .unwrap();
    let chain = stage.chain();
    assert_eq!(chain["state"], "under-way", "{chain}");
    assert_eq!(
        chain["chain"]["exchange"]["url"],
        stage.issuer.url("/token")
    );
    assert_eq!(chain["chain"]["exchange"]["is_ours"], true);
    for arguments in [
        &["forget", "desktop", "--yes"][..],
        &["set", "desktop", "refresh_token", "--file", &by_hand],
        &["set", "desktop", "refresh_token", "--kept"],
    ] {
        let (code, text) = stage.state(arguments);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("is under way"), "{text}");
    }

    process.kill();
    let (code, text) = stage.state(&["show"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("refresh_token: in doubt"), "{text}");
    assert!(text.contains("unanswered  1"), "{text}");
    let warning = "the configured value of refresh_token was spent";
    let (code, text) = stage.state(&["forget", "desktop"]);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("--yes") && text.contains(warning), "{text}");
    let (code, text) = stage.state(&["forget", "desktop", "--yes"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(warning), "{text}");
    assert!(
        text.contains("evertoken state set desktop refresh_token"),
        "{text}"
    );
    let (code, text) = stage.state(&["show"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("nothing is kept\n"), "{text}");
    let (code, text) = stage.state(&["forget", "desktop", "--yes"]);
    assert_eq!(code, Some(64));
    assert!(
        text.contains("nothing is kept of a job `desktop`"),
        "{text}"
    );
}

/// The token lives for an hour yet: nothing fails before that, and somebody should know long before.
#[test]
fn a_dead_chain_is_told_at_once_for_each_of_its_jobs_and_after_a_restart_until_somebody_logs_in() {
    let stage = Stage::new("dead-chain");
    let yaml = std::fs::read_to_string(&stage.config).unwrap();
    let (head, desktop) = yaml.split_once("- name").unwrap();
    let other = desktop
        .replace("desktop", "other")
        .replace("/token\"}", "/other\"}")
        .replace("client_auth: none", "client_auth: none, scope: [other]");
    stage
        .issuer
        .respond_with("/token", |request| match request.field("refresh_token") {
            Some(value) if value.contains(SECRETS[1]) => {
                Behaviour::oauth_error(400, "invalid_grant")
            }
            _ => Behaviour::token("at", 3600),
        });
    stage.scene.write("refresh-token", SECRETS[0]).unwrap();
    let config = stage
        .scene
        .config(&format!("{head}- name{desktop}- name{other}"))
        .unwrap();
    let states = |wanted: [&str; 2]| {
        wait_until("the states of both chains", PATIENCE, || {
            let rows = stage.scene.status(&config).ok()?;
            let states: Vec<_> = rows.iter().map(|row| row["chain"].clone()).collect();
            let is_written = |row: &Value| row["state"] == "ready" || row["state"] == "retrying";
            (states == wanted && rows.iter().all(is_written)).then_some(rows)
        })
        .unwrap()
    };
    let process = stage.scene.run(&config).unwrap();
    states(["ok", "ok"]);
    let by_hand = stage
        .scene
        .write("dead", &format!("'{}'", SECRETS[1]))
        .unwrap();
    let (code, text) = stage.state(&[
        "set",
        "desktop",
        "refresh_token",
        "--file",
        by_hand.to_str().unwrap(),
    ]);
    assert_eq!(code, Some(0), "{text}");
    let warning = "warning: the value: it stands in quotes";
    assert!(text.contains(warning), "{text}");
    let rows = states(["dead", "dead"]);
    assert_eq!(
        rows[1]["state"], "ready",
        "it was not asked since: {rows:?}"
    );
    process.terminate(PATIENCE).unwrap();

    let process = stage.scene.run(&config).unwrap();
    let rows = states(["dead", "dead"]);
    for row in &rows {
        assert_eq!(
            (&row["state"], &row["attempt"]),
            (&json!("ready"), &json!(0))
        );
    }
    let told = process.stderr();
    let lines = told.lines().filter(|line| line.contains("chain=dead"));
    assert_eq!(lines.count(), 2, "{told}");
    let table = stage.scene.command(&["status"], &config).unwrap().stdout;
    assert!(table.contains("ready, chain dead"), "{table}");
    stage.scene.write("refresh-token", "another-login").unwrap();
    states(["ok", "ok"]);
    process.terminate(PATIENCE).unwrap();
}

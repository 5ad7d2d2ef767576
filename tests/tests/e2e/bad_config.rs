//! Mistakes in a configuration: all at once, each with its place, its value and the mend; exit code 64 and nothing started.

use crate::scene::{PATIENCE, Scene};

/// Each line of the table is a part of a file, what the message must say, and the line it must name.
const MISTAKES: &str = r#"state: {dir: "{here}/state"}
serve: {adress: 127.0.0.1:9}
limits: {concurrency: many}
jobs:
- name: twice
  source: {plugin: dummy, config: {lifetime: 1h}}
  outputs: [{file: {path: "{out}/same"}}]
- name: twice
  source: {plugin: dummy, config: {lifetime: 1h}}
  outputs: [{file: {path: "{out}/same"}}]
- name: no-unit
  source: {plugin: dummy, timeout: 30}
  refresh: {at: 800%}
  outputs: [{secret: {namespace: ns, name: Not_A_Name, key: k}}]
- name: nobody-knows
  source: {plugin: oauth}
  outputs: [{file: {path: "{out}/mode", mode: 0400}}]
- name: one-key-a
  source: {plugin: dummy}
  outputs: [{secret: {namespace: ns, name: shared, key: token}}]
- name: one-key-b
  source: {plugin: dummy}
  outputs: [{secret: {namespace: ns, name: shared, key: token}}]
- name: options
  source: {plugin: oauth2, config: {grant: client_credential}}
  outputs: [{file: {path: "{out}/options"}, format: {plugin: template, config: {templat: x}}}]
"#;

#[test]
fn every_mistake_is_shown_at_once_with_its_line_and_nothing_is_started() {
    let scene = Scene::new("mistakes").unwrap();
    let config = scene.config(MISTAKES).unwrap();
    for command in [
        vec!["check"],
        vec!["run"],
        vec!["once"],
        vec!["state", "show"],
    ] {
        let finished = scene.command(&command, &config).unwrap();
        assert_eq!(
            finished.code(),
            Some(64),
            "{command:?}: {}",
            finished.stderr
        );
        for (line, said) in [
            (2, "adress"),
            (3, "many"),
            (8, "twice"),
            (10, "same"),
            (12, "30s"),
            (13, "800%"),
            (14, "Not_A_Name"),
            (16, "oauth2"),
            (17, "0400"),
            (23, "shared"),
            (25, "client_credentials"),
            (26, "template"),
        ] {
            let place = format!("evertoken.yaml:{line}:");
            let found = finished
                .stderr
                .lines()
                .any(|shown| shown.contains(&place) && shown.contains(said));
            assert!(
                found,
                "{command:?}: nothing about `{said}` in line {line}:\n{}",
                finished.stderr
            );
        }
        assert!(
            !scene.path("state").exists() && !scene.out("same").exists(),
            "{command:?} started something"
        );
    }
}

#[test]
fn a_plugins_own_options_are_checked_against_its_schema_without_network() {
    let scene = Scene::new("options").unwrap();
    let config = scene
        .config(
            r#"state: {dir: "{here}/state"}
jobs:
- name: a
  source:
    plugin: oauth2
    config:
      grant: client_credential
      token_url: https://idp.example.org/token
      client_id: a
      scpoe: read
  outputs:
  - file: {path: "{out}/a"}
    format: {plugin: template, config: {templat: "{{ token }}"}}
- name: b
  source: {plugin: oauth2, config: {grant: client_credentials, client_id: 7}}
  outputs: [{file: {path: "{out}/b"}}]
"#,
        )
        .unwrap();
    for command in ["check", "run", "once"] {
        let finished = scene.command(&[command], &config).unwrap();
        assert_eq!(finished.code(), Some(64), "{}", finished.stderr);
        for (line, said) in [
            (7, "client_credentials"),
            (10, "scope"),
            (13, "template"),
            (15, "token_url"),
        ] {
            let place = format!("evertoken.yaml:{line}:");
            let found = finished
                .stderr
                .lines()
                .any(|shown| shown.contains(&place) && shown.contains(said));
            assert!(
                found,
                "{command}: nothing about `{said}` in line {line}:\n{}",
                finished.stderr
            );
        }
        assert!(
            !scene.path("state").exists() && !scene.out("b").exists(),
            "{command} started something"
        );
    }
}

/// What the form allows and the issuer would refuse, or nobody would ever open.
#[test]
fn what_would_fail_at_the_issuer_is_found_before_anything_runs() {
    let scene = Scene::new("slips").unwrap();
    let config = scene
        .config(
            r#"jobs:
- name: a
  source:
    plugin: oauth2
    config:
      grant: client_credentials
      token_url: "https://idp.example.org/token\n"
      client_id: "a\n"
      scope: [read, "write\r"]
      headers: {X-Tenant: "t\n", "X Tenant": t}
      audience: ${AUDIENCE}
      client_auth: client_secret_post
    secrets:
      client_sercet: {value: s}
  outputs: [{file: {path: "{out}/a"}}]
- name: b
  source:
    plugin: oauth2
    config: {grant: refresh_token, token_url: "https://user:hush@idp.example.org/token", client_id: b}
    secrets: {client_secret: {value: s}}
  outputs: [{file: {path: "{out}/b"}}]
- name: c
  source:
    plugin: oauth2
    config: {grant: refresh_token, token_url: "https://idp.example.org/token", client_id: b}
    secrets:
      refresh_token: {value: s, rotating: true}
  outputs: [{file: {path: "{out}/c"}}]
- name: d
  source: {plugin: mirror, config: {secret: mine}, secrets: {token: {value: s}}, reveal: [token]}
  outputs: [{file: {path: "{out}/d"}}]
- name: e
  source: {plugin: oauth2, config: {grant: client_credentials, token_url: "https://idp.example.org/token"}, secrets: {client_secret: {value: s}}}
  outputs: [{file: {path: "{out}/e"}}]
- name: f
  source: {plugin: oauth2, config: {grant: client_credentials, token_url: "https://idp.example.org/token", client_id: f}, secrets: {client_id: {value: s}}}
  outputs: [{file: {path: "{out}/f"}}]
"#,
        )
        .unwrap();
    for command in ["check", "once"] {
        let finished = scene.command(&[command], &config).unwrap();
        assert_eq!(finished.code(), Some(64), "{}", finished.stderr);
        for (line, said) in [
            (7, "the URL has a line end"),
            (8, "a line end (U+000A) at byte 2 of 2"),
            (9, "a line end (U+000D) at byte 6 of 6"),
            (10, "a line end (U+000A) at byte 2 of 2"),
            (10, "X Tenant"),
            (11, "variables like `${NAME}` are not put in"),
            (14, "did you mean `client_secret`?"),
            (14, "the secret `client_secret`"),
            (19, "a user or password before its host"),
            (
                20,
                "`refresh_token` (the refresh token, needed for grant refresh_token",
            ),
            (27, "the rotating secret `refresh_token` would be lost"),
            (30, "it knows no secret `token`"),
            (30, "the secret `mine`"),
            (33, "or set the option `client_id`"),
            (36, "the option `client_id`, which is set, too"),
        ] {
            let place = format!("evertoken.yaml:{line}:");
            let found = finished
                .stderr
                .lines()
                .any(|shown| shown.contains(&place) && shown.contains(said));
            assert!(
                found,
                "{command}: nothing about `{said}` in line {line}:\n{}",
                finished.stderr
            );
        }
        assert!(!finished.stderr.contains("hush"), "{}", finished.stderr);
    }
}

#[test]
fn a_configuration_may_come_from_standard_input() {
    let scene = Scene::new("stdin").unwrap();
    let text = |job: &str| {
        format!(
            "jobs:\n- {{name: {job}, source: {{plugin: dummy}}, outputs: [{{file: {{path: \"{{out}}/stdin\"}}}}]}}\n"
        )
    };
    for (job, command, code, said) in [
        ("a", "check", 0, ""),
        ("a", "once", 0, ""),
        (
            "a, b: c",
            "check",
            64,
            "standard input:2:13: unknown key `b`",
        ),
    ] {
        let file = scene.config(&text(job)).unwrap();
        let finished = std::process::Command::new(evertoken_tests::evertoken::binary().unwrap())
            .args([command, "--config", "-"])
            .env(
                "XDG_CACHE_HOME",
                evertoken_tests::workdir::parts().unwrap().join("cache"),
            )
            .stdin(std::fs::File::open(&file).unwrap())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&finished.stderr);
        assert_eq!(finished.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
    assert!(scene.out("stdin").exists());
}

#[test]
fn a_secret_in_the_configuration_is_not_shown_beside_a_mistake() {
    let scene = Scene::new("painted").unwrap();
    let config = scene
        .config("jobs:\n- {name: a, source: {plugin: dummy, secrets: {s: {value: hush-hush-value, rotate: yes}}}, outputs: [{file: {path: relative}}]}\n")
        .unwrap();
    let finished = scene.command(&["check"], &config).unwrap();
    assert_eq!(finished.code(), Some(64));
    assert!(
        !finished.stderr.contains("hush-hush-value"),
        "{}",
        finished.stderr
    );
}

#[test]
fn a_file_that_is_missing_or_no_yaml_is_said_with_its_name() {
    let scene = Scene::new("no-yaml").unwrap();
    for (name, content) in [
        ("tab.yaml", Some("jobs:\n\t- name: a\n")),
        ("empty.yaml", Some("")),
        ("missing.yaml", None),
    ] {
        let path = scene.path(name);
        if let Some(content) = content {
            scene.write(name, content).unwrap();
        }
        let finished = scene.command(&["check"], &path).unwrap();
        assert_eq!(finished.code(), Some(64), "{name}: {}", finished.stderr);
        assert!(finished.stderr.contains(name), "{}", finished.stderr);
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error_and_help_is_an_answer() {
    let scene = Scene::new("usage").unwrap();
    for (arguments, code) in [
        (vec!["--help"], 0),
        (vec!["--version"], 0),
        (vec!["run", "--help"], 0),
        (vec!["runn"], 64),
        (vec!["run", "--no-such"], 64),
        (vec![], 64),
    ] {
        let finished = scene
            .launch()
            .unwrap()
            .args(&arguments)
            .finish(PATIENCE)
            .unwrap();
        assert_eq!(
            finished.code(),
            Some(code),
            "{arguments:?}: {}",
            finished.stderr
        );
    }
}

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
    for command in [vec!["check"], vec!["run"], vec!["once"]] {
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

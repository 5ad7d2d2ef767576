//! What stands where a configuration names a file or a directory: pipes, devices, links, what others own. Nothing waits for it, nothing
//! takes it for a value, and the message says what it is.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evertoken_tests::issuer::Issuer;
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::scene::{PATIENCE, Scene, failure_in};

/// What a process may take that was to read what has no end.
const MEMORY_BYTES: u64 = 400 << 20;

/// A command that reads one of these is done at once, or it is not done at all.
const AT_ONCE: Duration = Duration::from_secs(30);

/// What is no file to read, by a word for it, with what is said of it.
struct Hostile {
    path: PathBuf,
    said: &'static str,
    _socket: Option<(TempDir, UnixListener)>,
}

fn hostile_things(scene: &Scene) -> Vec<(&'static str, Hostile)> {
    let at = |name: &str| scene.path(name);
    let made = std::process::Command::new("mkfifo")
        .arg(at("pipe"))
        .status();
    assert!(made.unwrap().success());
    symlink("nowhere", at("dangling")).unwrap();
    std::fs::create_dir(at("directory")).unwrap();
    let sparse = std::fs::File::create(at("endless")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    // A socket's path has at most 108 bytes.
    let short = tempfile::tempdir().unwrap();
    let socket = short.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let thing = |path: PathBuf, said| Hostile {
        path,
        said,
        _socket: None,
    };
    vec![
        ("pipe", thing(at("pipe"), "pipe")),
        ("device", thing(PathBuf::from("/dev/zero"), "device")),
        ("directory", thing(at("directory"), "directory")),
        ("dangling", thing(at("dangling"), "nowhere")),
        ("endless", thing(at("endless"), "")),
        (
            "socket",
            Hostile {
                path: socket,
                said: "socket",
                _socket: Some((short, listener)),
            },
        ),
    ]
}

/// Every key of a job that names a file to read, with `{path}` for the path.
const KEYS: [(&str, &str); 5] = [
    ("secret", "secrets: {client_secret: {file: \"{path}\"}}"),
    (
        "rotating",
        "secrets: {client_secret: {file: \"{path}\", rotating: true, write_back: true}}",
    ),
    ("ca", "tls: {ca_file: \"{path}\"}"),
    (
        "cert",
        "tls: {cert_file: \"{path}\", key_file: \"{here}/evertoken.yaml\"}",
    ),
    (
        "key",
        "tls: {cert_file: \"{here}/evertoken.yaml\", key_file: \"{path}\"}",
    ),
];

fn job(name: &str, plugin: &str, source: &str) -> String {
    let comma = if source.is_empty() { "" } else { ", " };
    format!(
        "- name: {name}\n  source: {{plugin: {plugin}, config: {{grant: client_credentials, token_url: \"https://127.0.0.1:9/token\", client_id: c, client_auth: {}}}{comma}{source}}}\n  outputs: [{{file: {{path: \"{{out}}/{name}\"}}}}]\n",
        if source.contains("client_secret") {
            "client_secret_basic"
        } else {
            "none"
        },
    )
}

#[test]
fn no_key_that_names_a_file_waits_for_what_stands_there_and_each_job_says_what_it_is() {
    let scene = Scene::new("paths").unwrap();
    let things = hostile_things(&scene);
    let mut yaml = String::from("state: {dir: \"{here}/state\"}\nplugins:\n");
    let mut jobs = String::from(
        "jobs:\n- name: innocent\n  source: {plugin: dummy, config: {lifetime: 4s}}\n  outputs: [{file: {path: \"{out}/innocent\"}}]\n",
    );
    let mut expected = Vec::new();
    for (thing, hostile) in &things {
        let path = hostile.path.display().to_string();
        for (key, source) in KEYS {
            let name = format!("{key}-{thing}");
            jobs += &job(&name, "oauth2", &source.replace("{path}", &path));
            expected.push((name, path.clone(), hostile.said));
        }
        yaml += &format!(
            "  p-{thing}: {{path: \"{path}\", sha256: {}}}\n",
            "0".repeat(64)
        );
        let name = format!("plugin-{thing}");
        jobs += &format!(
            "- name: {name}\n  source: {{plugin: p-{thing}}}\n  outputs: [{{file: {{path: \"{{out}}/{name}\"}}}}]\n"
        );
        expected.push((name, path, hostile.said));
    }
    let config = scene.config(&(yaml + &jobs)).unwrap();
    let process = scene.run(&config).unwrap();
    wait_until("every job's failure", PATIENCE, || {
        let rows = scene.status(&config).ok()?;
        expected
            .iter()
            .all(|(name, path, said)| {
                let row = rows.iter().find(|row| row["id"]["name"] == **name);
                let failure = row.and_then(failure_in);
                failure.is_some_and(|failure| {
                    failure.message.contains(path) && failure.message.contains(said)
                })
            })
            .then_some(())
    })
    .unwrap_or_else(|error| {
        panic!(
            "{error:#}\n{:#?}\n{}",
            scene.status(&config),
            process.stderr()
        )
    });
    let token = |last: Option<&String>| {
        wait_until("the innocent job's next token", PATIENCE, || {
            let token = std::fs::read_to_string(scene.out("innocent")).ok()?;
            (Some(&token) != last).then_some(token)
        })
        .unwrap()
    };
    let first = token(None);
    token(Some(&first));
    let memory = process.rss_bytes().unwrap();
    assert!(memory < MEMORY_BYTES, "{memory} bytes");
    process.terminate(Duration::from_secs(10)).unwrap();
}

#[test]
fn no_command_waits_for_what_stands_in_the_place_of_a_file_that_it_is_given() {
    let scene = Scene::new("commands").unwrap();
    let job = "jobs:\n- name: a\n  source: {plugin: dummy, config: {lifetime: 1h}}\n";
    let file = "  outputs: [{file: {path: \"{out}/a\"}}]\n";
    let secret = "  outputs: [{secret: {namespace: ns, name: a}}]\n";
    let plain = scene.config(&format!("state: {{dir: \"{{here}}/state\"}}\n{job}{file}"));
    let plain = plain.unwrap();
    let made = scene.command(&["once"], &plain).unwrap();
    assert_eq!(made.code(), Some(0), "{}", made.stderr);
    let outputs = scene
        .write("secret.yaml", &format!("{job}{secret}"))
        .unwrap();
    for (thing, hostile) in hostile_things(&scene) {
        let path = hostile.path.display().to_string();
        let key =
            format!("state: {{dir: \"{{here}}/state\", key: {{file: \"{path}\"}}}}\n{job}{file}");
        let key = key
            .replace("{here}", &scene.path("").display().to_string())
            .replace("{out}", &scene.out("").display().to_string());
        let key = scene.write(&format!("key-{thing}.yaml"), &key).unwrap();
        let include = format!("include: [\"{path}\"]\n");
        let include = scene.write(&format!("include-{thing}.yaml"), &include);
        let include = include.unwrap().display().to_string();
        let (plain, key) = (plain.display().to_string(), key.display().to_string());
        let outputs = outputs.display().to_string();
        let commands: [(&[&str], Option<&str>); 8] = [
            (&["once", "--config", &key], None),
            (&["check", "--online", "--config", &key], None),
            (&["check", "--config", &path], None),
            (&["check", "--config", &include], None),
            (&["ktr", "--config", &path], None),
            (&["plugin", "inspect", &path], None),
            (
                &[
                    "state", "set", "a", "s", "--file", &path, "--config", &plain,
                ],
                None,
            ),
            (
                &["once", "--timeout", "2s", "--config", &outputs],
                Some(&path),
            ),
        ];
        for (arguments, kubeconfig) in commands {
            let mut launch = scene.launch().unwrap().args(arguments);
            if let Some(kubeconfig) = kubeconfig {
                launch = launch.env("KUBECONFIG", kubeconfig);
            }
            let finished = launch.finish(AT_ONCE).unwrap();
            let said = &finished.stderr;
            assert!(
                finished.code().is_some_and(|code| code != 0),
                "{thing} {arguments:?}: {said}"
            );
            // Long lines are broken where a person reads them.
            let squeezed: String = said.split_whitespace().collect();
            for word in [&path, hostile.said] {
                assert!(squeezed.contains(word), "{thing} {arguments:?}: {said}");
            }
        }
    }
}

/// A job whose refresh token each use replaces; every token dies soon, so that each `once` asks for another.
fn rotating(scene: &Scene, issuer: &Issuer, state: &Path) -> PathBuf {
    scene.write("refresh-token", "rt-0").unwrap();
    scene
        .config(&format!(
            r#"
state: {{dir: "{}"}}
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
            state.display(),
            issuer.url("/token")
        ))
        .unwrap()
}

/// An issuer that takes each value once and gives `rt-N+1` for `rt-N`.
fn issuer() -> Issuer {
    let issuer = Issuer::start().unwrap();
    issuer.respond_with("/token", |request| {
        let spent = request.field("refresh_token").unwrap_or_default();
        let number: u32 = spent
            .strip_prefix("rt-")
            .and_then(|number| number.parse().ok())
            .unwrap_or(100);
        Behaviour::json(
            200,
            &json!({"access_token": format!("at-{number}"), "token_type": "Bearer", "expires_in": 1, "refresh_token": format!("rt-{}", number + 1)}),
        )
    });
    issuer
}

fn sent(issuer: &Issuer) -> Vec<String> {
    let requests = issuer.requests_to("/token");
    let values = requests
        .iter()
        .map(|request| request.field("refresh_token"));
    values.flatten().collect()
}

#[test]
fn a_state_directory_that_others_can_write_is_refused_before_anything_is_sent() {
    let scene = Scene::new("exposed").unwrap();
    let issuer = issuer();
    let state = scene.path("way/state");
    std::fs::create_dir_all(&state).unwrap();
    let config = rotating(&scene, &issuer, &state);
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    mode(&state, 0o700);
    for (place, good) in [("way/state", 0o700), ("way", 0o755)] {
        mode(&scene.path(place), 0o777);
        for command in [
            &["once"][..],
            &["run"],
            &["check", "--online"],
            &["state", "show"],
        ] {
            let finished = scene.command(command, &config).unwrap();
            assert_eq!(finished.code(), Some(1), "{command:?}: {}", finished.stderr);
            let mend = format!("chmod go-w {}", scene.path(place).display());
            assert!(
                finished.stderr.contains(&mend),
                "{command:?}: {}",
                finished.stderr
            );
        }
        mode(&scene.path(place), good);
    }
    assert!(sent(&issuer).is_empty());
    let finished = scene.command(&["once"], &config).unwrap();
    assert_eq!(finished.code(), Some(0), "{}", finished.stderr);
}

#[test]
fn a_value_of_an_older_copy_of_the_store_is_not_sent_and_the_way_out_is_said() {
    let scene = Scene::new("restored").unwrap();
    let issuer = issuer();
    // A user's own link to another disk leads to the state and to the output.
    std::fs::create_dir(scene.path("disk")).unwrap();
    symlink(scene.path("disk"), scene.path("link")).unwrap();
    let state = scene.path("link/state");
    let config = rotating(&scene, &issuer, &state);
    let once = || {
        // The token of before dies after a second.
        std::thread::sleep(Duration::from_millis(1100));
        scene
            .command(&["once", "--timeout", "20s"], &config)
            .unwrap()
    };
    let (database, copy) = (state.join("state.redb"), scene.path("copy"));
    assert_eq!(once().code(), Some(0));
    std::fs::copy(&database, &copy).unwrap();
    assert_eq!(once().code(), Some(0));
    std::fs::copy(&copy, &database).unwrap();
    for _ in 0..2 {
        let finished = once();
        assert_eq!(finished.code(), Some(1), "{}", finished.stderr);
        assert!(finished.stderr.contains("state set"), "{}", finished.stderr);
    }
    assert_eq!(sent(&issuer), ["rt-0", "rt-1"]);
    let shown = scene
        .command(&["state", "show", "-o", "json"], &config)
        .unwrap();
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown[0]["chains"][0]["state"], "restored", "{shown}");
    let value = scene.write("value", "rt-50\n").unwrap();
    let value = value.display().to_string();
    let set = scene.command(
        &["state", "set", "desktop", "refresh_token", "--file", &value],
        &config,
    );
    let set = set.unwrap();
    assert_eq!(set.code(), Some(0), "{}", set.stderr);
    assert_eq!(once().code(), Some(0));
    assert_eq!(sent(&issuer), ["rt-0", "rt-1", "rt-50"]);
}

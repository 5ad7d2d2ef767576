//! Runs everything at the finest log level and looks for every secret, in every usual spelling, wherever it could have got to: log
//! lines, status, metrics, failure messages, state on disk.

use std::path::Path;

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD};
use evertoken_tests::client::Client;
use evertoken_tests::issuer::Issuer;
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;
use evertoken_tests::workdir::free_port;
use serde_json::json;

use crate::scene::{PATIENCE, Scene, failure_in};

/// Values with characters that each encoding spells differently.
const SECRETS: [&str; 7] = [
    "client+secret/with=every&kind of%character\"1",
    "access+token/with=every&kind of%character\"2",
    "refresh+token/with=every&kind of%character\"3",
    "successor+token/with=every&kind of%character\"4",
    "id+token/with=every&kind of%character\"5",
    "mirrored+token/with=every&kind of%character\"6",
    "other+refresh+token/with=every&kind of%character\"7",
];

/// How a secret may be spelled. Base64 is searched for at the three offsets at which it can stand inside a longer text.
fn spellings(secret: &str) -> Vec<String> {
    let mut found = vec![
        secret.to_owned(),
        form_urlencoded::byte_serialize(secret.as_bytes()).collect(),
        percent_encoding::utf8_percent_encode(secret, percent_encoding::NON_ALPHANUMERIC)
            .to_string(),
        json!(secret).to_string().trim_matches('"').to_owned(),
        data_encoding::HEXLOWER.encode(secret.as_bytes()),
    ];
    for shift in 0..3 {
        let shifted = [&b"xx"[..shift], secret.as_bytes()].concat();
        for engine in [&BASE64_NOPAD, &BASE64URL_NOPAD] {
            let encoded = engine.encode(&shifted);
            // The first and last characters also spell what stands beside the secret.
            found.push(encoded[4..encoded.len() - 4].to_owned());
        }
    }
    found
}

fn assert_clean(place: &str, content: &[u8]) {
    for (number, secret) in SECRETS.iter().enumerate() {
        for spelling in spellings(secret) {
            let hit = content
                .windows(spelling.len())
                .any(|window| window == spelling.as_bytes());
            assert!(!hit, "secret {number} is in {place}, spelled {spelling}");
        }
    }
}

fn assert_clean_folder(folder: &Path) -> usize {
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files += assert_clean_folder(&path);
        } else if path.is_file() {
            assert_clean(&path.display().to_string(), &std::fs::read(&path).unwrap());
            files += 1;
        }
    }
    files
}

#[test]
fn the_search_finds_a_secret_in_every_spelling() {
    for spelling in spellings(SECRETS[0]) {
        let text = format!("before {spelling} after");
        assert!(
            std::panic::catch_unwind(|| assert_clean("a test", text.as_bytes())).is_err(),
            "{spelling}"
        );
    }
    let basic = BASE64_NOPAD.encode(format!("client:{}", SECRETS[0]).as_bytes());
    assert!(std::panic::catch_unwind(|| assert_clean("a test", basic.as_bytes())).is_err());
}

#[test]
fn no_secret_is_in_logs_status_metrics_failures_or_state() {
    let scene = Scene::new("leak").unwrap();
    let issuer = Issuer::start().unwrap();
    let [
        client_secret,
        access_token,
        refresh_token,
        successor,
        id_token,
        mirrored,
        other_refresh_token,
    ] = SECRETS;
    issuer.always(
        "/good",
        Behaviour::json(200, &json!({"access_token": access_token, "token_type": "Bearer", "expires_in": 4, "refresh_token": successor, "id_token": id_token})),
    );
    // Issuers that repeat what they were sent in their errors.
    issuer.always("/echo", Behaviour::json(400, &json!({"error": "invalid_grant", "error_description": format!("{other_refresh_token} and {client_secret} are wrong")})));
    issuer.always(
        "/echo-raw",
        Behaviour::answer(500, format!("{client_secret} {access_token}")),
    );
    issuer.always(
        "/garbage",
        Behaviour::answer(200, format!("{{\"access_token\": [\"{access_token}")),
    );
    for (name, secret) in [
        ("client-secret", client_secret),
        ("refresh-token", refresh_token),
        ("other-refresh-token", other_refresh_token),
        ("mirrored", mirrored),
    ] {
        scene.write(name, secret).unwrap();
    }
    scene
        .write("key", &data_encoding::BASE64.encode(&[7; 32]))
        .unwrap();
    let port = free_port().unwrap();
    let job = |name: &str, path: &str, refresh_token: Option<&str>| {
        let (grant, rotating) = match refresh_token {
            None => ("client_credentials", String::new()),
            Some(file) => (
                "refresh_token",
                format!(r#"refresh_token: {{file: "{{here}}/{file}", rotating: true}}"#),
            ),
        };
        format!(
            r#"
- name: {name}
  source:
    plugin: oauth2
    config: {{grant: {grant}, token_url: "{}", client_id: client}}
    secrets:
      client_secret: {{file: "{{here}}/client-secret"}}
      {rotating}
  outputs:
  - file: {{path: "{{out}}/{name}"}}
  - file: {{path: "{{out}}/{name}-typo"}}
    format: {{plugin: template, config: {{template: "{{{{ tokn }}}}"}}}}
"#,
            issuer.url(path)
        )
    };
    let config = scene
        .config(&format!(
            r#"
state: {{dir: "{{here}}/state", key: {{file: "{{here}}/key"}}}}
serve: {{address: "127.0.0.1:{port}"}}
jobs:{}{}{}{}
- name: mirror
  source: {{plugin: mirror, secrets: {{token: {{file: "{{here}}/mirrored"}}}}, reveal: [token]}}
  outputs: [{{file: {{path: "{{out}}/mirror"}}}}, {{file: {{path: "{{out}}/no-such-folder/mirror"}}}}]
"#,
            job("good", "/good", Some("refresh-token")),
            job("echo", "/echo", Some("other-refresh-token")),
            job("echo-raw", "/echo-raw", None),
            job("garbage", "/garbage", None),
        ))
        .unwrap();
    let process = scene
        .launch()
        .unwrap()
        .args(["run", "-vv", "--config"])
        .args([&config])
        .spawn()
        .unwrap();

    wait_until(
        "every job to have been written or to have failed",
        PATIENCE,
        || {
            let rows = scene.status(&config).ok()?;
            let failed = rows.iter().filter(|row| failure_in(row).is_some()).count();
            let written = scene.out("good").exists() && scene.out("mirror").exists();
            (written && failed >= 3 && issuer.requests().len() >= 6).then_some(())
        },
    )
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    assert_eq!(
        std::fs::read_to_string(scene.out("good")).unwrap(),
        access_token,
        "the test would find nothing"
    );

    for arguments in [vec!["status"], vec!["status", "-o", "json"]] {
        let finished = scene.command(&arguments, &config).unwrap();
        assert_eq!(finished.code(), Some(0), "{}", finished.stderr);
        assert_clean("status", finished.stdout.as_bytes());
        assert_clean("status's log", finished.stderr.as_bytes());
    }
    let metrics = Client::plain()
        .send("GET", &format!("http://127.0.0.1:{port}/metrics"), &[], &[])
        .unwrap();
    assert_clean("the metrics", &metrics.body);
    process.kill();
    let log = process.stderr();
    assert!(
        log.contains("TRACE") || log.contains("DEBUG"),
        "not at the finest level"
    );
    assert_clean("the log", log.as_bytes());
    assert!(
        assert_clean_folder(&scene.path("state")) > 0,
        "no state on disk"
    );
}

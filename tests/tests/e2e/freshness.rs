//! How long tokens live, whatever their issuers say about it, and how soon what somebody mends is noticed.

use std::time::{Duration, SystemTime};

use evertoken_tests::issuer::Issuer;
use evertoken_tests::pki::{Authority, server_config};
use evertoken_tests::server::Behaviour;
use evertoken_tests::{jwt, wait_until};
use serde_json::{Value, json};

use crate::scene::{PATIENCE, Scene};

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs()
}

/// A job that asks the path of its name.
fn job(issuer: &Issuer, name: &str, secret: &str, output: &str) -> String {
    format!(
        r#"
- name: {name}
  source:
    plugin: oauth2
    config: {{grant: client_credentials, token_url: "{}", client_id: svc}}
    secrets: {{client_secret: {secret}}}
  outputs:
  - file: {{path: "{{out}}/{output}"}}
"#,
        issuer.url(&format!("/{name}"))
    )
}

fn answer(members: Value) -> Behaviour {
    let mut answer = json!({"token_type": "Bearer"});
    let all = answer.as_object_mut().unwrap();
    all.extend(members.as_object().unwrap().clone());
    Behaviour::json(200, &answer)
}

/// An ID token of six seconds beside an access token of an hour.
fn with_id_token() -> Behaviour {
    let now = now_s();
    let id_token = jwt::unchecked(&json!({"iat": now, "exp": now + 6}));
    answer(json!({"access_token": "a", "expires_in": 3600, "id_token": id_token}))
}

#[test]
fn a_token_lives_as_long_as_its_consumers_can_use_it_whatever_is_said_of_it() {
    let scene = Scene::new("lifetimes").unwrap();
    let issuer = Issuer::start().unwrap();
    let dead_by_our_clock = jwt::unchecked(&json!({"exp": now_s() - 7200}));
    let not_good_yet = jwt::unchecked(&json!({"exp": now_s() + 9000, "nbf": now_s() + 7200}));
    // Each is asked for once: nothing that is said makes it worth asking again so soon.
    let once = [
        ("minus-one", json!({"access_token": "t", "expires_in": -1})),
        ("zero", json!({"access_token": "t", "expires_in": "0"})),
        ("nothing", json!({"access_token": "t", "expires_in": null})),
        ("text", json!({"access_token": "t", "expires_in": "3600.5"})),
        ("huge", json!({"access_token": "t", "expires_in": 9e300})),
        ("long-ago", json!({"access_token": "t", "expires_at": 1})),
        (
            "behind",
            json!({"access_token": dead_by_our_clock, "expires_in": 3600}),
        ),
        (
            "ahead",
            json!({"access_token": not_good_yet, "expires_in": 3600}),
        ),
    ];
    let mut yaml = "state: {dir: \"{here}/state\"}\njobs:".to_owned();
    for (name, members) in &once {
        issuer.always(&format!("/{name}"), answer(members.clone()));
        yaml.push_str(&job(&issuer, name, "{value: s}", name));
    }
    for (access_token, expires_in) in [("long", 20), ("revokes the one before", 8)] {
        issuer.once("/shorter", Behaviour::token(access_token, expires_in));
    }
    issuer.always("/shorter", Behaviour::token("the last", 3600));
    yaml.push_str(&job(&issuer, "shorter", "{value: s}", "shorter"));
    issuer.respond_with("/id-token", |_| with_id_token());
    issuer.respond_with("/id-token-unused", |_| with_id_token());
    yaml.push_str(&job(
        &issuer,
        "id-token-unused",
        "{value: s}",
        "id-token-unused",
    ));
    yaml.push_str(&job(&issuer, "id-token", "{value: s}", "id-token"));
    yaml.push_str(
        "    format: {plugin: template, config: {template: \"{{ fields.id_token }}\"}}\n",
    );
    let config = scene.config(&yaml).unwrap();
    let process = scene.run(&config).unwrap();

    let shorter = |expected: &str| {
        wait_until(expected, PATIENCE, || {
            (std::fs::read_to_string(scene.out("shorter")).ok()? == expected).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    };
    shorter("revokes the one before");
    shorter("the last");
    wait_until("two more ID tokens", PATIENCE, || {
        (issuer.requests_to("/id-token").len() >= 3).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    let published = std::fs::read_to_string(scene.out("id-token")).unwrap();
    let dies = jwt::claims(&published).unwrap()["exp"].as_u64().unwrap();
    assert!(dies >= now_s(), "a dead ID token is published");
    for name in once
        .iter()
        .map(|(name, _)| *name)
        .chain(["id-token-unused"])
    {
        assert!(scene.out(name).exists(), "{name}\n{}", process.stderr());
        let requests = issuer.requests_to(&format!("/{name}")).len();
        assert_eq!(requests, 1, "{name}\n{}", process.stderr());
    }
}

#[test]
fn what_somebody_mends_is_noticed_within_half_a_minute() {
    let scene = Scene::new("mended").unwrap();
    let issuer = Issuer::start().unwrap();
    let authority = Authority::new("test").unwrap();
    let tls = server_config(&authority.server(&["localhost"]).unwrap(), None).unwrap();
    let secure = Issuer::start_tls("localhost", tls).unwrap();
    let mut yaml = "state: {dir: \"{here}/state\"}\njobs:".to_owned();
    for (name, secret, output) in [
        ("no-folder", "{value: s}", "folder/no-folder"),
        ("no-secret", "{file: \"{here}/secret\"}", "no-secret"),
        ("no-ca", "{value: s}", "no-ca"),
        ("refused", "{file: \"{here}/wrong\"}", "refused"),
    ] {
        let issuer = if name == "no-ca" { &secure } else { &issuer };
        issuer.always(&format!("/{name}"), Behaviour::token(name, 36_000));
        yaml.push_str(&job(issuer, name, secret, output));
    }
    let with_ca = "no-ca\n  source:\n    tls: {ca_file: \"{here}/ca.pem\"}";
    let yaml = yaml.replace("no-ca\n  source:", with_ca);
    scene.write("wrong", "wrong").unwrap();
    issuer.respond_with("/refused", |request| {
        let is_right = request.header("authorization") == Some("Basic c3ZjOnJpZ2h0");
        if is_right {
            Behaviour::token("refused", 36_000)
        } else {
            Behaviour::oauth_error(401, "invalid_client")
        }
    });
    let config = scene.config(&yaml).unwrap();
    let process = scene.run(&config).unwrap();
    let names = ["no-folder", "no-secret", "no-ca", "refused"];
    for name in names {
        scene.failure(&config, &process, name, PATIENCE);
    }
    let row = scene.row(&config, "no-folder").unwrap();
    assert!(row["outputs"][0]["next_try"].is_string(), "{row}");
    // By then the waits are as long as they get.
    wait_until("a third failure", PATIENCE, || {
        let attempts = scene.row(&config, "no-secret")?["attempt"].as_u64()?;
        (attempts >= 3).then_some(())
    })
    .unwrap();
    scene.write("ca.pem", &authority.pem()).unwrap();
    scene.write("secret", "s").unwrap();
    scene.write("wrong", "right").unwrap();
    std::fs::create_dir(scene.out("folder")).unwrap();
    // Half a minute, and what a busy machine takes.
    for output in ["folder/no-folder", "no-secret", "no-ca", "refused"] {
        wait_until(output, Duration::from_secs(40), || {
            scene.out(output).exists().then_some(())
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    }
    let log = process.stderr();
    assert!(
        log.contains("the issuer refuses the client of this job"),
        "{log}"
    );
    assert!(!log.contains("the issuer is in trouble"), "{log}");
}

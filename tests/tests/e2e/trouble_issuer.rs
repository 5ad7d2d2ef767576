//! Issuers that are down, slow or lie: the job keeps its last good output, says why, and the other jobs go on.

use std::time::Duration;

use evertoken_tests::client::Client;
use evertoken_tests::issuer::Issuer;
use evertoken_tests::pki::{Authority, server_config};
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;
use evertoken_tests::workdir::free_port;
use serde_json::json;

use crate::scene::{PATIENCE, Scene};

/// One way to be in trouble, and how status names it.
struct Trouble {
    name: &'static str,
    behaviour: Behaviour,
    kind: &'static str,
    codes: &'static [&'static str],
}

fn troubles() -> Vec<Trouble> {
    let dripping =
        json!({"access_token": "never-whole", "token_type": "Bearer", "expires_in": 3600});
    let row = |name, behaviour, kind, codes| Trouble {
        name,
        behaviour,
        kind,
        codes,
    };
    vec![
        row(
            "hanging",
            Behaviour::hang(),
            "unavailable",
            &["http.timeout", "plugin.timeout"],
        ),
        row(
            "dripping",
            Behaviour::drip(&dripping, Duration::from_secs(1)),
            "unavailable",
            &["http.timeout", "plugin.timeout"],
        ),
        row(
            "garbage",
            Behaviour::answer(200, "\u{1}\u{2}<html>no token</html>"),
            "unavailable",
            &["answer.unreadable"],
        ),
        row(
            "no-http",
            Behaviour::raw("SSH-2.0-OpenSSH_9.2\r\n"),
            "unavailable",
            &["http.protocol"],
        ),
        row(
            "redirect",
            Behaviour::redirect("http://169.254.169.254/latest"),
            "unavailable",
            &["http.302"],
        ),
        row(
            "endless",
            Behaviour::endless(100 << 20),
            "internal",
            &["http.too-large"],
        ),
        row(
            "lost-answer",
            Behaviour::close(),
            "unavailable",
            &["http.protocol", "http.connect"],
        ),
        row(
            "truncated",
            Behaviour::truncated("{\"access_token\":\"half", 40),
            "unavailable",
            &["http.protocol"],
        ),
        row(
            "broken",
            Behaviour::answer(500, "boom"),
            "unavailable",
            &["http.500"],
        ),
        row(
            "rate-limited",
            Behaviour::too_many_requests("120"),
            "unavailable",
            &["http.429"],
        ),
        row(
            "refusing",
            Behaviour::oauth_error(401, "invalid_client"),
            "denied",
            &["invalid_client"],
        ),
    ]
}

fn job(name: &str, token_url: &str) -> String {
    format!(
        r#"
- name: {name}
  source:
    plugin: oauth2
    timeout: 2s
    config: {{grant: client_credentials, token_url: "{token_url}", client_id: {name}}}
    secrets: {{client_secret: {{value: "s3cret-of-{name}"}}}}
  outputs:
  - file: {{path: "{{out}}/{name}"}}
"#
    )
}

#[test]
fn a_job_in_trouble_keeps_its_last_good_output_and_says_why_while_others_go_on() {
    let scene = Scene::new("issuer").unwrap();
    let troubles = troubles();
    // An issuer each: trouble with one origin is not another's.
    let issuers: Vec<Issuer> = troubles.iter().map(|_| Issuer::start().unwrap()).collect();
    let healthy = Issuer::start().unwrap();
    let serial = std::sync::atomic::AtomicU64::new(0);
    healthy.respond_with("/token", move |_| {
        Behaviour::token(
            &format!(
                "healthy-{}",
                serial.fetch_add(1, std::sync::atomic::Ordering::SeqCst)
            ),
            4,
        )
    });
    let port = free_port().unwrap();
    let mut yaml = format!(
        "state: {{dir: \"{{here}}/state\"}}\nserve: {{address: 127.0.0.1:{port}}}\njobs:{}",
        job("healthy", &healthy.url("/token"))
    );
    for (trouble, issuer) in troubles.iter().zip(&issuers) {
        issuer.once(
            "/token",
            Behaviour::token(&format!("good-{}", trouble.name), 5),
        );
        issuer.always("/token", trouble.behaviour.clone());
        yaml.push_str(&job(trouble.name, &issuer.url("/token")));
    }
    let config = scene.config(&yaml).unwrap();
    let process = scene.run(&config).unwrap();

    for trouble in &troubles {
        let failure = scene.failure(&config, &process, trouble.name, PATIENCE);
        assert_eq!(failure.kind, trouble.kind, "{}: {failure:?}", trouble.name);
        assert!(
            trouble.codes.contains(&failure.code.as_str()),
            "{}: {failure:?}",
            trouble.name
        );
        let kept = std::fs::read_to_string(scene.out(trouble.name)).unwrap();
        assert_eq!(kept, format!("good-{}", trouble.name));
        let counted = format!(
            "evertoken_source_failures_total{{kind=\"{}\",code=\"{}\"}}",
            failure.kind, failure.code
        );
        let metrics = Client::plain()
            .send("GET", &format!("http://127.0.0.1:{port}/metrics"), &[], &[])
            .unwrap();
        let metrics = String::from_utf8(metrics.body).unwrap();
        assert!(metrics.contains(&counted), "no {counted} in\n{metrics}");
    }
    let before = std::fs::read_to_string(scene.out("healthy")).unwrap();
    wait_until("the healthy job to go on", Duration::from_secs(10), || {
        (std::fs::read_to_string(scene.out("healthy")).ok()? != before).then_some(())
    })
    .unwrap();
}

#[test]
fn an_issuer_that_is_down_is_asked_again_until_it_is_back() {
    let scene = Scene::new("down").unwrap();
    let issuer = Issuer::start().unwrap();
    issuer.always("/token", Behaviour::token("at last", 3600));
    issuer.server().down();
    let config = scene
        .config(&format!(
            "state: {{dir: \"{{here}}/state\"}}\njobs:{}",
            job("down", &issuer.url("/token"))
        ))
        .unwrap();
    let process = scene.run(&config).unwrap();
    let failure = scene.failure(&config, &process, "down", PATIENCE);
    assert_eq!(
        (failure.kind.as_str(), failure.code.as_str()),
        ("unavailable", "http.connect")
    );
    assert!(!scene.out("down").exists());

    issuer.server().up().unwrap();
    wait_until("the token", PATIENCE, || {
        (std::fs::read_to_string(scene.out("down")).ok()? == "at last").then_some(())
    })
    .unwrap();
}

#[test]
fn a_certificate_for_another_name_and_an_unknown_authority_are_told_apart_and_secrets_stay_here() {
    let scene = Scene::new("tls").unwrap();
    let authority = Authority::new("test").unwrap();
    let wrong_name = Issuer::start_tls(
        "localhost",
        server_config(&authority.server(&["idp.example.org"]).unwrap(), None).unwrap(),
    )
    .unwrap();
    let right_name = Issuer::start_tls(
        "localhost",
        server_config(&authority.server(&["localhost"]).unwrap(), None).unwrap(),
    )
    .unwrap();
    for issuer in [&wrong_name, &right_name] {
        issuer.always("/token", Behaviour::token("over tls", 3600));
    }
    scene.write("ca.pem", &authority.pem()).unwrap();
    // Reading the system's roots takes its time on a busy machine.
    let patient = |yaml: String| yaml.replace("timeout: 2s", "timeout: 20s");
    let trusting = |yaml: String| {
        patient(yaml).replace(
            "timeout: 20s",
            "timeout: 20s\n    tls: {ca_file: \"{here}/ca.pem\"}",
        )
    };
    let yaml = format!(
        "state: {{dir: \"{{here}}/state\"}}\njobs:{}{}{}",
        trusting(job("wrong-name", &wrong_name.url("/token"))),
        patient(job("unknown-authority", &right_name.url("/token"))),
        trusting(job("right", &right_name.url("/token"))),
    );
    let config = scene.config(&yaml).unwrap();
    let process = scene.run(&config).unwrap();
    for name in ["wrong-name", "unknown-authority"] {
        let failure = scene.failure(&config, &process, name, PATIENCE);
        assert_eq!(failure.code, "http.tls", "{name}: {failure:?}");
    }
    wait_until("the job with the right name", PATIENCE, || {
        scene.out("right").exists().then_some(())
    })
    .unwrap();
    assert!(wrong_name.requests().is_empty());
}

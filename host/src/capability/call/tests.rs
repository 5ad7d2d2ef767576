//! Secrets, state and log lines of a plugin's call.

mod hostile;
mod tells;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_core::future::BoxFuture;
use secrecy::{SecretSlice, SecretString};

use super::*;
use crate::capability::keep::Keeper;
use crate::capability::keep::PLUGIN_VALUES_MAX_BYTES;
use crate::capability::secrets::ClusterSecrets;
use crate::capability::testing::{Fixture, Logs, NOW};
use crate::model::token::{Expiry, KeptToken, Token};
use crate::model::{JobId, SecretOrigin};
use crate::test_support::make_fifo;

fn code(failure: &Failure) -> &str {
    failure.code().unwrap()
}

fn origin(text: &str) -> Origin {
    Origin::parse(text).unwrap()
}

fn from_file(path: impl Into<PathBuf>) -> SecretOrigin {
    SecretOrigin::File(path.into())
}

async fn opened(fixture: &Fixture, name: &str) -> Result<String, Failure> {
    let secret = fixture.call().open(name).await?;
    Ok(String::from_utf8(secret.expose().to_vec()).unwrap())
}

#[tokio::test]
async fn a_file_is_read_anew_for_each_call_without_its_last_newline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let mut fixture = Fixture::new();
    fixture.secret("s", "").origin = from_file(&path);

    let missing = opened(&fixture, "s").await.unwrap_err();
    assert_eq!(
        (code(&missing), missing.kind),
        ("secret.not-found", FailureKind::InvalidConfig)
    );
    for part in [
        "`s` of job `warehouse`",
        path.to_str().unwrap(),
        "`source.secrets.s.file`",
    ] {
        assert!(missing.message.contains(part), "{missing}");
    }
    for (content, expected) in [
        ("one", "one"),
        ("two\n", "two"),
        ("three\r\n", "three"),
        ("four\n\n", "four\n"),
        (" five ", " five "),
    ] {
        std::fs::write(&path, content).unwrap();
        assert_eq!(opened(&fixture, "s").await.unwrap(), expected);
    }
    std::fs::write(&path, "\n").unwrap();
    assert_eq!(
        code(&opened(&fixture, "s").await.unwrap_err()),
        "secret.empty"
    );
    std::fs::write(&path, "a".repeat(MAX_SECRET_BYTES)).unwrap();
    assert_eq!(opened(&fixture, "s").await.unwrap().len(), MAX_SECRET_BYTES);
    std::fs::write(&path, "a".repeat(MAX_SECRET_BYTES + 1)).unwrap();
    assert_eq!(
        code(&opened(&fixture, "s").await.unwrap_err()),
        "secret.too-large"
    );
}

#[tokio::test]
async fn what_is_no_readable_file_says_so_and_does_not_block() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    make_fifo(&fifo);
    let locked = folder.path().join("locked");
    std::fs::write(&locked, "value").unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o000)).unwrap();
    let mut cases = vec![folder.path().to_owned(), fifo];
    if !rustix::process::geteuid().is_root() {
        cases.push(locked);
    }
    for path in cases {
        let mut fixture = Fixture::new();
        fixture.secret("s", "").origin = from_file(&path);
        let failure = opened(&fixture, "s").await.unwrap_err();
        assert_eq!(code(&failure), "secret.unreadable", "{failure}");
        assert!(
            failure.message.contains(path.to_str().unwrap()),
            "{failure}"
        );
    }
}

#[tokio::test]
async fn environment_and_configuration_are_secrets_too() {
    let mut fixture = Fixture::new();
    fixture
        .environment
        .insert("TOKEN".to_owned(), "from env\n".into());
    fixture.secret("env", "").origin = SecretOrigin::Env("TOKEN".to_owned());
    fixture.secret("unset", "").origin = SecretOrigin::Env("UNSET".to_owned());
    fixture.secret("value", "from config");
    assert_eq!(opened(&fixture, "env").await.unwrap(), "from env");
    assert_eq!(opened(&fixture, "value").await.unwrap(), "from config");
    let failure = opened(&fixture, "unset").await.unwrap_err();
    assert_eq!(code(&failure), "secret.not-found");
    assert!(failure.message.contains("UNSET is not set"), "{failure}");
    let failure = opened(&fixture, "other").await.unwrap_err();
    assert_eq!(code(&failure), "secret.not-listed");
    assert!(
        failure
            .message
            .contains("`other: {file: …}` under `source.secrets`"),
        "{failure}"
    );
}

/// For every origin of a secret, a byte order mark and a trailing line end are removed, and invalid characters are named instead
/// of sent.
#[tokio::test]
async fn one_rule_holds_for_what_stands_around_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = |key: &str, pointer: Option<&str>| SecretOrigin::KubernetesSecret {
        namespace: "default".to_owned(),
        name: "idp".to_owned(),
        key: key.to_owned(),
        pointer: pointer.map(str::to_owned),
    };
    let blank_line =
        "it has a line end (U+000A), which no `client_secret` can have (RFC 6749, appendix A)";
    let utf16 = "it is UTF-16 text; save it as UTF-8";
    let written = |content: &str, expected: Result<&'static str, &'static str>| {
        let path = folder.path().join(fastrand::u64(..).to_string());
        std::fs::write(&path, content).unwrap();
        let value = SecretString::from(content);
        [
            (from_file(path), content.to_owned(), expected),
            (
                SecretOrigin::Value(value.into()),
                content.to_owned(),
                expected,
            ),
            (
                SecretOrigin::Env("S".to_owned()),
                content.to_owned(),
                expected,
            ),
        ]
    };
    let mut cases = vec![
        (cluster("plain", None), String::new(), Ok("value")),
        (cluster("windows", None), String::new(), Ok("value")),
        (cluster("blank line", None), String::new(), Err(blank_line)),
        (cluster("utf-16", None), String::new(), Err(utf16)),
        (
            cluster("json with line ends", Some("/a")),
            String::new(),
            Ok("value"),
        ),
    ];
    cases.extend(written("value", Ok("value")));
    cases.extend(written("\u{feff}value\r\n", Ok("value")));
    cases.extend(written(" value ", Ok(" value ")));
    cases.extend(written("value\n\n", Err(blank_line)));
    cases.extend(written("\nvalue", Err("it has a line end (U+000A), which")));
    cases.extend(written("va\tlue", Err("it has a tab (U+0009), which")));
    cases.extend(written(
        "valu\u{e9}",
        Err("it has a character other than ASCII, which"),
    ));
    cases.extend(written("\u{feff}\n", Err("it is empty")));
    for (origin, in_environment, expected) in cases {
        let mut fixture = Fixture::new();
        fixture.kubernetes = Some(Arc::new(Cluster::default()));
        fixture
            .environment
            .insert("S".to_owned(), in_environment.into());
        fixture.secret("client_secret", "").origin = origin.clone();
        let outcome = opened(&fixture, "client_secret").await;
        match (outcome, expected) {
            (Ok(value), Ok(expected)) => assert_eq!(value, expected, "{origin:?}"),
            (Err(failure), Err(expected)) => {
                assert!(failure.message.contains(expected), "{origin:?} {failure}");
                let place = match &origin {
                    SecretOrigin::File(path) => format!("file {}", path.display()),
                    SecretOrigin::Env(_) => "environment variable S".to_owned(),
                    SecretOrigin::KubernetesSecret { key, .. } => {
                        format!("key `{key}` of Secret default/idp")
                    }
                    _ => "the configuration itself".to_owned(),
                };
                assert!(
                    failure.message.contains(&format!(": {place}: ")),
                    "{failure}"
                );
                assert_eq!(failure.kind, FailureKind::InvalidConfig);
                assert!(!failure.message.contains("valu"), "{failure}");
            }
            (outcome, _) => panic!("{origin:?} {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn only_what_has_an_alphabet_is_held_to_it() {
    for (name, value, good) in [
        ("refresh_token", "a b~!", true),
        ("refresh_token", "a\nb", false),
        ("client_id", "\u{e4}", false),
        ("password", "p\u{e4}ss", true),
        ("password", "p\nss", false),
        ("key", "-----BEGIN\n\nPRIVATE KEY-----", true),
        ("assertion", "<a>\n</a>", true),
    ] {
        let mut fixture = Fixture::new();
        fixture.secret(name, value);
        let outcome = opened(&fixture, name).await;
        assert_eq!(outcome.is_ok(), good, "{name} {value:?}");
        if let Err(failure) = outcome {
            assert_eq!(code(&failure), "secret.malformed", "{failure}");
        }
    }
}

#[tokio::test]
async fn a_secret_is_given_anew_by_somebody_and_not_by_its_own_use() {
    let mut fixture = Fixture::new();
    fixture.secret("fixed", "one");
    fixture.secret("rt", "login-1").rotating = true;
    let call = fixture.holding_call().await;
    let given = [call.given("fixed").await, call.given("rt").await].map(Result::unwrap);
    call.open("rt").await.unwrap();
    call.replace("rt", Value::Text("rt-2".to_owned()), None)
        .await
        .unwrap();
    drop(call);
    let call = fixture.call();
    let now = [call.given("fixed").await, call.given("rt").await].map(Result::unwrap);
    assert_eq!(now, given);
    fixture.job.source.secrets.clear();
    fixture.secret("fixed", "two");
    fixture.secret("rt", "login-2").rotating = true;
    let call = fixture.call();
    assert_ne!(call.given("fixed").await.unwrap(), given[0]);
    assert_ne!(call.given("rt").await.unwrap(), given[1]);
}

#[tokio::test]
async fn a_plugin_that_takes_anothers_place_does_not_read_what_that_one_cached() {
    let mut fixture = Fixture::new();
    let host = fixture.host();
    let mut call_of = |plugin: &str| {
        fixture.job.source.plugin = plugin.to_owned();
        fixture.call_on(&host)
    };
    call_of("oauth2").state_set("k", b"one").await.unwrap();
    for other in ["oauth", "oauth2x", "other"] {
        assert_eq!(call_of(other).state_get("k").await.unwrap(), None);
    }
    let kept = call_of("oauth2").state_get("k").await.unwrap();
    assert_eq!(kept.as_deref(), Some(&b"one"[..]));
    call_of("other").state_set("k", b"\0two").await.unwrap();
    assert_eq!(call_of("oauth2").state_get("k").await.unwrap(), None);
    let kept = call_of("other").state_get("k").await.unwrap();
    assert_eq!(kept.as_deref(), Some(&b"\0two"[..]));
}

/// A cluster with one Secret, which records the requested tokens.
#[derive(Default)]
struct Cluster {
    requested: Mutex<Vec<(String, Vec<String>, Duration)>>,
}

impl ClusterSecrets for Cluster {
    fn get_secret_key<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<SecretSlice<u8>, Failure>> {
        Box::pin(async move {
            if key == "no answer" {
                std::future::pending::<()>().await;
            }
            let keys = BTreeMap::from([
                ("plain", "value"),
                ("windows", "\u{feff}value\r\n"),
                ("blank line", "value\n\n"),
                ("utf-16", "v\0a\0l\0u\0e\0\n\0"),
                ("json with line ends", "\u{feff}{\"a\": \"value\\n\"}\n"),
                ("json", r#"{"a":{"b/c":"deep"},"n":1}"#),
            ]);
            match (namespace, name, keys.get(key)) {
                ("default", "idp", Some(value)) => Ok(SecretSlice::from(value.as_bytes().to_vec())),
                _ => Err(Failure::new(
                    FailureKind::InvalidConfig,
                    "secret.not-found",
                    "no",
                )),
            }
        })
    }

    fn request_token<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        audiences: &'a [String],
        lifetime: Duration,
    ) -> BoxFuture<'a, Result<SecretString, Failure>> {
        Box::pin(async move {
            let asked = (format!("{namespace}/{name}"), audiences.to_vec(), lifetime);
            self.requested.lock().unwrap().push(asked);
            Ok(SecretString::from("requested token"))
        })
    }
}

#[tokio::test]
async fn a_secret_that_is_not_read_in_time_is_said_while_the_plugin_can_still_hand_it_on() {
    let mut fixture = Fixture::new();
    fixture.job.source.timeout = Duration::from_millis(200);
    fixture.kubernetes = Some(Arc::new(Cluster::default()));
    fixture.secret("late", "").origin = SecretOrigin::KubernetesSecret {
        namespace: "default".to_owned(),
        name: "idp".to_owned(),
        key: "no answer".to_owned(),
        pointer: None,
    };
    let began = std::time::Instant::now();
    let failure = opened(&fixture, "late").await.unwrap_err();
    assert!(began.elapsed() < fixture.job.source.timeout);
    assert_eq!(code(&failure), "secret.timeout");
    assert_eq!(failure.kind, FailureKind::Unavailable);
    assert!(failure.message.contains("`late`"), "{failure}");
    assert!(failure.message.contains("0.18 s"), "{failure}");
}

#[tokio::test]
async fn a_clusters_secrets_and_service_account_tokens_are_opened_by_name() {
    let mut fixture = Fixture::new();
    let key = |key: &str, pointer: Option<&str>| SecretOrigin::KubernetesSecret {
        namespace: "default".to_owned(),
        name: "idp".to_owned(),
        key: key.to_owned(),
        pointer: pointer.map(str::to_owned),
    };
    let account = |seconds| SecretOrigin::ServiceAccount {
        namespace: "default".to_owned(),
        name: "deployer".to_owned(),
        audiences: vec!["https://sts.test".to_owned()],
        lifetime: Duration::from_secs(seconds),
    };
    fixture.secret("plain", "").origin = key("plain", None);
    assert_eq!(
        code(&opened(&fixture, "plain").await.unwrap_err()),
        "secret.no-cluster"
    );

    let cluster = Arc::new(Cluster::default());
    fixture.kubernetes = Some(cluster.clone());
    fixture.secret("part", "").origin = key("json", Some("/a/b~1c"));
    fixture.secret("number", "").origin = key("json", Some("/n"));
    fixture.secret("no-json", "").origin = key("plain", Some("/n"));
    fixture.secret("absent", "").origin = key("absent", None);
    fixture.secret("token", "").origin = account(600);
    fixture.secret("short", "").origin = account(599);
    for (name, expected) in [
        ("plain", Ok("value")),
        ("part", Ok("deep")),
        ("number", Err("secret.no-such-part")),
        ("no-json", Err("secret.no-such-part")),
        ("absent", Err("secret.not-found")),
        ("token", Ok("requested token")),
        ("short", Err("secret.lifetime")),
    ] {
        let outcome = opened(&fixture, name).await;
        assert_eq!(outcome.as_deref().map_err(code), expected, "{name}");
    }
    let asked = cluster.requested.lock().unwrap().clone();
    let audiences = vec!["https://sts.test".to_owned()];
    assert_eq!(
        asked,
        [(
            "default/deployer".to_owned(),
            audiences,
            Duration::from_secs(600)
        )]
    );
}

#[tokio::test]
async fn another_jobs_token_is_a_secret_while_it_lives() {
    let mut fixture = Fixture::new();
    fixture.secret("token", "").origin = SecretOrigin::Job("login".to_owned());
    let pending = opened(&fixture, "token").await.unwrap_err();
    assert_eq!(
        (code(&pending), pending.kind),
        ("secret.job-pending", FailureKind::Unavailable)
    );
    for (expires_at, expected) in [
        (Some(NOW.after(Duration::from_secs(1))), Ok("other token")),
        (None, Ok("other token")),
        (Some(NOW), Err("secret.job-pending")),
    ] {
        let kept = KeptToken {
            token: Token {
                value: SecretString::from("other token"),
                token_type: "Bearer".to_owned(),
                expiry: Expiry::Unknown,
                fields: Vec::new(),
            },
            obtained_at: NOW,
            expires_at,
            rotating_expires_at: None,
            source_hash: [0; 32],
        };
        fixture
            .keeper
            .keep_token(&JobId::file("login"), &kept)
            .await
            .unwrap();
        let outcome = opened(&fixture, "token").await;
        assert_eq!(outcome.as_deref().map_err(code), expected);
    }
}

/// With a default lifetime consumers would hold a token for an hour that expires in a minute.
#[tokio::test]
async fn another_jobs_token_that_is_handed_on_dies_when_that_job_says() {
    let mut fixture = Fixture::new();
    fixture.secret("token", "").origin = SecretOrigin::Job("login".to_owned());
    let token = |value: &str, expiry| Token {
        value: value.into(),
        token_type: "Bearer".to_owned(),
        expiry,
        fields: Vec::new(),
    };
    let (soon, later) = (
        NOW.after(Duration::from_secs(60)),
        NOW.after(Duration::from_secs(90)),
    );
    for (expires_at, value, said, expected) in [
        (Some(soon), "theirs", Expiry::Unknown, Expiry::At(soon)),
        (Some(soon), "theirs", Expiry::At(later), Expiry::At(later)),
        (Some(soon), "theirs", Expiry::Never, Expiry::Never),
        (Some(soon), "another", Expiry::Unknown, Expiry::Unknown),
        (None, "theirs", Expiry::Unknown, Expiry::Unknown),
    ] {
        let kept = KeptToken {
            token: token("theirs", Expiry::Unknown),
            obtained_at: NOW,
            expires_at,
            rotating_expires_at: None,
            source_hash: [0; 32],
        };
        let login = JobId::file("login");
        fixture.keeper.keep_token(&login, &kept).await.unwrap();
        let call = fixture.call();
        let unknown = call.ending_as_its_job_knows(token(value, said));
        assert_eq!(unknown.expiry, said, "it was not opened");
        call.open("token").await.unwrap();
        let unknown = call.ending_as_its_job_knows(token(value, said));
        assert_eq!(unknown.expiry, said, "it could be guessed");
        let mut revealing = fixture.job.clone();
        revealing.source.reveal.insert("token".to_owned());
        let job = std::mem::replace(&mut fixture.job, revealing);
        let call = fixture.call();
        fixture.job = job;
        call.open("token").await.unwrap();
        let known = call.ending_as_its_job_knows(token(value, said));
        assert_eq!(known.expiry, expected, "{expires_at:?} {value} {said:?}");
    }
}

#[tokio::test]
async fn a_chain_goes_on_from_its_newest_value_until_another_seed_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rt");
    std::fs::write(&path, "seed-1\n").unwrap();
    let mut fixture = Fixture::new();
    let secret = fixture.secret("rt", "");
    secret.origin = from_file(&path);
    secret.rotating = true;

    let call = fixture.holding_call().await;
    assert_eq!(call.open("rt").await.unwrap().expose(), b"seed-1");
    let next = Value::Text("generation-2".to_owned());
    call.replace("rt", next, Some(NOW)).await.unwrap();
    assert!(!call.scrub("got generation-2").contains("generation-2"));
    assert_eq!(opened(&fixture, "rt").await.unwrap(), "generation-2");

    // The seed is gone: the chain remains, and its successor belongs to it.
    std::fs::remove_file(&path).unwrap();
    let call = fixture.holding_call().await;
    assert_eq!(call.open("rt").await.unwrap().expose(), b"generation-2");
    let next = Value::Text("generation-3".to_owned());
    call.replace("rt", next, None).await.unwrap();
    std::fs::write(&path, "seed-1").unwrap();
    assert_eq!(opened(&fixture, "rt").await.unwrap(), "generation-3");

    // A new login is another chain.
    std::fs::write(&path, "seed-2").unwrap();
    assert_eq!(opened(&fixture, "rt").await.unwrap(), "seed-2");
}

#[tokio::test]
async fn a_chain_may_begin_without_a_seed() {
    let mut fixture = Fixture::new();
    let secret = fixture.secret("rt", "");
    secret.origin = from_file("/nonexistent/rt");
    secret.rotating = true;
    assert_eq!(
        code(&opened(&fixture, "rt").await.unwrap_err()),
        "secret.not-found"
    );
    let first = Value::Text("first".to_owned());
    let call = fixture.holding_call().await;
    call.replace("rt", first, None).await.unwrap();
    assert_eq!(opened(&fixture, "rt").await.unwrap(), "first");
}

#[tokio::test]
async fn a_call_replaces_a_secret_a_handful_of_times_and_what_it_had_stored_stays() {
    let mut fixture = Fixture::new();
    fixture.secret("rt", "seed").rotating = true;
    fixture.secret("other", "its seed").rotating = true;
    let call = fixture.holding_call().await;
    for number in 1..=MAX_REPLACEMENTS {
        let value = Value::Text(format!("value-{number}"));
        call.replace("rt", value, None).await.unwrap();
    }
    for _ in 0..3 {
        let one_more = Value::Text("one more".to_owned());
        let failure = call.replace("rt", one_more, None).await.unwrap_err();
        assert_eq!(code(&failure), "secret.too-many");
        assert!(
            failure.message.contains("`rt` more than 4 times"),
            "{failure}"
        );
    }
    let value = Value::Text("of another".to_owned());
    call.replace("other", value, None).await.unwrap();
    let last = format!("value-{MAX_REPLACEMENTS}");
    assert_eq!(opened(&fixture, "rt").await.unwrap(), last);
}

#[tokio::test]
async fn only_a_rotating_secret_is_replaced_and_only_by_what_may_do_as_much() {
    let mut fixture = Fixture::new();
    fixture.endpoints = vec![origin("https://idp.test")];
    fixture.secret("rt", "seed").rotating = true;
    fixture.secret("fixed", "fixed-value");
    fixture.secret("narrow", "narrow-value").to = Some(vec![origin("https://other.test")]);
    fixture.job.source.reveal.insert("rt".to_owned());
    let call = fixture.holding_call().await;
    let failure = call
        .replace("fixed", Value::Text("x".to_owned()), None)
        .await
        .unwrap_err();
    assert_eq!(
        (code(&failure), failure.kind),
        ("secret.not-rotating", FailureKind::InvalidConfig)
    );
    assert!(
        failure
            .message
            .contains("`rotating: true` to `source.secrets.fixed`"),
        "{failure}"
    );
    for (name, expected) in [("fixed", "secret.mixed"), ("narrow", "secret.mixed")] {
        let value = Value::Secret(call.open(name).await.unwrap());
        let failure = call.replace("rt", value, None).await.unwrap_err();
        assert_eq!(code(&failure), expected, "{name}");
    }
    for value in [String::new(), "a".repeat(MAX_SECRET_BYTES + 1)] {
        let failure = call
            .replace("rt", Value::Text(value), None)
            .await
            .unwrap_err();
        assert_eq!(code(&failure), "secret.invalid-successor");
    }
    let own = call.open("rt").await.unwrap();
    call.replace("rt", Value::Secret(own), None).await.unwrap();
    fixture.job.source.reveal.insert("fixed".to_owned());
    let call = fixture.holding_call().await;
    let revealed = call.open("fixed").await.unwrap();
    call.replace("rt", Value::Secret(revealed), None)
        .await
        .unwrap();
    // Their permissions are equal, but other jobs and the file of the write-back may have only one of them.
    fixture.job.source.reveal.clear();
    let call = fixture.holding_call().await;
    let own = call.open("rt").await.unwrap();
    let fixed = call.open("fixed").await.unwrap();
    let both = [&own, &fixed].map(|secret| Piece::Secret(secret.clone(), Encoding::Base64));
    for value in [fixed, call.join(&both).unwrap()] {
        let failure = call
            .replace("rt", Value::Secret(value), None)
            .await
            .unwrap_err();
        assert_eq!(code(&failure), "secret.mixed");
    }
    call.replace("rt", Value::Secret(own), None).await.unwrap();
}

#[tokio::test]
async fn a_value_is_read_only_if_everything_in_it_is_listed_under_reveal() {
    let mut fixture = Fixture::new();
    fixture.secret("open", "open-value");
    fixture.secret("shut", r#"{"key":"c2h1dA==","odd":"!"}"#);
    fixture.job.source.reveal.insert("open".to_owned());
    let call = fixture.call();
    let open = call.open("open").await.unwrap();
    let shut = call.open("shut").await.unwrap();
    let text = call.join(&[Piece::Text("text".to_owned())]).unwrap();
    let both = call
        .join(&[
            Piece::Secret(open.clone(), Encoding::Raw),
            Piece::Secret(shut.clone(), Encoding::Base64),
        ])
        .unwrap();
    let part = call.part(&shut, "/key").unwrap();
    let decoded = call.decode(&part, Encoding::Base64).unwrap();
    assert_eq!(decoded.expose(), b"shut");
    for (secret, expected) in [
        (&open, Some("open-value")),
        (&text, Some("text")),
        (&shut, None),
        (&both, None),
        (&part, None),
        (&decoded, None),
    ] {
        match (call.reveal(secret), expected) {
            (Ok(value), Some(expected)) => assert_eq!(value, expected.as_bytes()),
            (Err(failure), None) => {
                assert_eq!(code(&failure), "secret.not-revealed");
                assert!(failure.message.contains("`reveal: ["), "{failure}");
            }
            (outcome, _) => panic!("{secret:?}: {}", outcome.is_ok()),
        }
    }
    let failure = call.reveal(&both).unwrap_err();
    assert!(
        failure.message.contains("`reveal: [open, shut]`"),
        "{failure}"
    );
    for pointer in ["/none", "none", ""] {
        let failure = call.part(&shut, pointer).unwrap_err();
        assert_eq!(code(&failure), "secret.no-such-part");
        assert!(!failure.message.contains("c2h1dA"), "{failure}");
    }
    let odd = call.part(&shut, "/odd").unwrap();
    let failure = call.decode(&odd, Encoding::Hex).unwrap_err();
    assert_eq!(code(&failure), "secret.encoding");
}

#[tokio::test]
async fn what_a_call_opened_or_made_is_scrubbed_from_its_text() {
    let mut fixture = Fixture::new();
    fixture.secret("s", "hunter2!");
    let call = fixture.call();
    assert_eq!(call.scrub("id:hunter2!"), "id:hunter2!");
    let secret = call.open("s").await.unwrap();
    let made = call
        .join(&[
            Piece::Text("id:".to_owned()),
            Piece::Secret(secret.clone(), Encoding::Percent),
        ])
        .unwrap();
    call.remember(b"token-value");
    let basic = Encoding::Base64.encode(made.expose()).unwrap();
    let basic = std::str::from_utf8(&basic).unwrap();
    let failure = Failure {
        kind: FailureKind::Denied,
        code: None,
        message: format!("hunter2! {basic} token-value\nend"),
        retry_after: None,
    };
    let failure = call.said(Some("hunter2!".to_owned()), failure);
    assert_eq!(failure.code(), Some("[redacted]"));
    assert!(
        failure.message.starts_with("[redacted] [redacted]"),
        "{}",
        failure.message
    );
    assert!(
        failure.message.ends_with(" [redacted] end"),
        "{}",
        failure.message
    );
    let shown = format!("{secret:?} {made:?} {:?}", Value::Secret(made.clone()));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn a_plugins_lines_are_logged_up_to_its_limit_each_on_one_line() {
    let mut fixture = Fixture::new();
    fixture.limits.log_lines = 3;
    let logs = Logs::default();
    logs.during(async {
        let call = fixture.call();
        for (level, message) in [
            (Level::Debug, "first\nsecond"),
            (Level::Info, "\u{1b}[2Jthird"),
            (Level::Warn, "fourth"),
            (Level::Warn, "fifth"),
            (Level::Warn, "sixth"),
        ] {
            call.log(level, message);
        }
    })
    .await;
    let text = logs.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    for (line, level, message) in [
        (lines[0], "DEBUG", "first second"),
        (lines[1], "INFO", ": [2Jthird"),
        (lines[2], "WARN", "fourth"),
        (lines[3], "WARN", "more than 3 lines in one call"),
    ] {
        assert!(line.contains(level) && line.contains(message), "{line}");
        assert!(line.contains("evertoken::plugin: "), "{line}");
        assert!(line.ends_with("job=warehouse plugin=oauth2"), "{line}");
    }
}

#[tokio::test]
async fn a_call_makes_a_bounded_number_and_size_of_secrets() {
    let fixture = Fixture::new();
    let call = fixture.call();
    for _ in 0..MAX_HANDLES {
        call.join(&[]).unwrap();
    }
    assert_eq!(code(&call.join(&[]).unwrap_err()), "secret.too-many");

    let call = fixture.call();
    let large = [Piece::Text("a".repeat(MAX_SECRET_BYTES))];
    for _ in 0..MAX_HELD_BYTES / MAX_SECRET_BYTES {
        call.join(&large).unwrap();
    }
    assert_eq!(code(&call.join(&large).unwrap_err()), "secret.too-many");
    let too_large = [Piece::Text("a".repeat(MAX_SECRET_BYTES + 1))];
    assert_eq!(
        code(&fixture.call().join(&too_large).unwrap_err()),
        "secret.too-large"
    );
}

#[tokio::test]
async fn a_jobs_cache_is_its_own_and_bounded() {
    let mut fixture = Fixture::new();
    let call = fixture.call();
    assert_eq!(call.state_get("key").await.unwrap(), None);
    call.state_set("key", b"value").await.unwrap();
    assert_eq!(
        fixture.call().state_get("key").await.unwrap().unwrap(),
        b"value"
    );
    let large = vec![0; PLUGIN_VALUES_MAX_BYTES];
    assert_eq!(
        code(&call.state_set("key", &large).await.unwrap_err()),
        "state.too-large"
    );
    for key in [String::new(), "k".repeat(PLUGIN_KEY_MAX_BYTES + 1)] {
        assert_eq!(code(&call.state_get(&key).await.unwrap_err()), "state.key");
        assert_eq!(
            code(&call.state_set(&key, b"").await.unwrap_err()),
            "state.key"
        );
    }
    let call = fixture.call();
    for _ in 0..MAX_STATE_WRITES {
        call.state_set("key", b"value").await.unwrap();
    }
    assert_eq!(
        code(&call.state_set("key", b"value").await.unwrap_err()),
        "state.too-many"
    );
    fixture.job.id = JobId::file("other");
    assert_eq!(fixture.call().state_get("key").await.unwrap(), None);
}

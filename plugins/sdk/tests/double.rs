//! The double behaves like the real host: secrets stay handles, and what the job does not allow is refused.

use evertoken_plugin::testing::{Answer, Host};
use evertoken_plugin::{Failure, Timestamp};
use evertoken_plugin::{clock, crypto, http, jwt, log, secrets, state};
use secrets::{Encoding, Piece, Secret};

#[test]
fn requests_show_secrets_as_placeholders_wherever_they_stand() {
    let host = Host::new();
    host.secret("key", r#"{"id":"i","private_key":"p"}"#);
    host.answer(Answer::json(200, "{}").header("X-Id", "1"));
    let key = secrets::open("key").unwrap();
    let part = key.part("/private_key").unwrap();
    let body = secrets::join(&[
        "<k>".into(),
        Piece::Secret(&part, Encoding::Xml),
        "</k>".into(),
    ])
    .unwrap();
    let response = http::Request::new("PUT", "https://x.example/t")
        .query("k", &key)
        .header("authorization", &Secret::basic("svc", &key).unwrap())
        .content("application/xml", &body)
        .send()
        .unwrap();
    assert_eq!((response.status, response.header("x-id")), (200, Some("1")));

    let [request] = host.requests().try_into().unwrap();
    assert_eq!(
        (request.method.as_str(), request.query),
        ("PUT", vec![("k".into(), "{key}".into())])
    );
    assert_eq!(
        request.content.as_deref(),
        Some("<k>xml({key}#/private_key)</k>")
    );
    let headers = [
        ("authorization", "Basic base64(svc:form({key}))"),
        ("content-type", "application/xml"),
    ];
    assert_eq!(
        request.headers,
        headers.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[test]
fn a_value_is_read_only_if_every_secret_in_it_is_revealed() {
    let host = Host::new();
    host.secret("a", "1");
    host.secret("b", "2");
    host.reveal("a");
    let (a, b) = (secrets::open("a").unwrap(), secrets::open("b").unwrap());
    assert_eq!(a.reveal().unwrap(), b"1");
    let both = secrets::join(&[
        Piece::Secret(&a, Encoding::Raw),
        Piece::Secret(&b, Encoding::Raw),
    ])
    .unwrap();
    assert!(both.reveal().unwrap_err().has_code("secret.not-revealed"));
    host.reveal("b");
    assert_eq!(both.reveal().unwrap(), b"12");
    assert_eq!(
        secrets::join(&["text".into()]).unwrap().reveal().unwrap(),
        b"text"
    );
}

#[test]
fn a_handle_keeps_its_value_and_only_rotating_secrets_are_replaced() {
    let host = Host::new();
    host.rotating_secret("refresh_token", "old");
    host.secret("fixed", "f");
    host.reveal("refresh_token");
    let before = secrets::open("refresh_token").unwrap();
    secrets::replace(
        "refresh_token",
        "new",
        Some(Timestamp::from_unix_seconds(5)),
    )
    .unwrap();
    assert_eq!(before.reveal().unwrap(), b"old");
    assert_eq!(
        secrets::open("refresh_token").unwrap().reveal().unwrap(),
        b"new"
    );
    assert_eq!(host.replaced()[0].value, "new");
    assert!(
        secrets::replace("fixed", "g", None)
            .unwrap_err()
            .has_code(secrets::NOT_ROTATING)
    );
}

#[test]
fn an_optional_secret_is_told_from_one_that_is_missing() {
    let host = Host::new();
    host.missing_secret("lost");
    assert!(secrets::open_if_listed("unlisted").unwrap().is_none());
    assert!(
        secrets::open_if_listed("lost")
            .unwrap_err()
            .has_code("secret.not-found")
    );
}

#[test]
fn what_the_test_did_not_prepare_fails_instead_of_making_something_up() {
    let _host = Host::new();
    let key = secrets::join(&["key".into()]).unwrap();
    let failures: [Failure; 4] = [
        http::Request::get("https://x.example").send().unwrap_err(),
        crypto::sign(&key, "RS256", "m").unwrap_err(),
        crypto::digest("MD5", "m").unwrap_err(),
        crypto::public_key(&key).unwrap_err(),
    ];
    assert!(
        failures
            .iter()
            .all(|failure| failure.has_code("test.unprepared"))
    );
}

#[test]
fn clock_cache_log_and_randomness_are_the_tests() {
    let host = Host::new();
    host.set_now(Timestamp::from_unix_seconds(7));
    host.signature(b"sig");
    log::warn("careful");
    state::set("k", b"v").unwrap();
    let key = secrets::join(&["key".into()]).unwrap();
    let signature = crypto::sign(&key, "HS256", "m").unwrap();
    assert_eq!(signature.reveal().unwrap(), b"sig");
    assert_eq!(clock::now(), Timestamp::from_unix_seconds(7));
    assert_eq!(
        (state::get("k").unwrap(), state::get("other").unwrap()),
        (Some(b"v".to_vec()), None)
    );
    assert_eq!(host.logged(), [(log::Level::Warn, "careful".to_owned())]);
    assert_ne!(crypto::random_bytes(4), crypto::random_bytes(4));
}

#[test]
fn what_is_computed_over_a_secret_is_one_and_is_sent_spelled() {
    let host = Host::new();
    host.secret("key", "k");
    host.signature(b"s\xff");
    host.digest(b"d");
    host.digest(b"d");
    host.answer(Answer::json(200, "{}"));
    let key = secrets::open("key").unwrap();
    assert_eq!(crypto::digest_of_text("SHA-256", "text").unwrap(), b"d");
    let digest = crypto::digest("SHA-256", &key).unwrap();
    assert!(digest.reveal().unwrap_err().has_code("secret.not-revealed"));

    let claims = serde_json::json!({"iss": "client"});
    let assertion = jwt::sign(
        &key,
        "RS256",
        serde_json::Map::new(),
        claims.as_object().unwrap().clone(),
    )
    .unwrap();
    http::Request::post("https://x.example/t")
        .field("client_assertion", &assertion)
        .send()
        .unwrap();
    let request = host.requests().remove(0);
    let sent = request.field("client_assertion").unwrap();
    assert_eq!(
        jwt::claims(sent).unwrap(),
        claims.as_object().unwrap().clone()
    );
    assert!(sent.ends_with(".base64url(signed({key}))"), "{sent}");
}

#[test]
fn nothing_looks_into_a_secret_that_the_plugin_made_unless_it_may_be_read() {
    let host = Host::new();
    host.secret("key", r#"{"n":"aa"}"#);
    host.rotating_secret("rotating", r#"{"n":"aa"}"#);
    let rotating = secrets::open("rotating").unwrap();
    assert!(
        rotating
            .part("/n")
            .unwrap_err()
            .has_code("secret.not-whole")
    );
    let key = secrets::open("key").unwrap();
    let made = secrets::join(&[Piece::Secret(&key, Encoding::Raw)]).unwrap();
    for failure in [
        made.part("/n").unwrap_err(),
        made.decode(Encoding::Hex).unwrap_err(),
        crypto::public_key(&made).unwrap_err(),
        crypto::sign(&made, "ES256", "m").unwrap_err(),
    ] {
        assert!(failure.has_code("secret.not-whole"), "{failure:?}");
    }
    let part = key.part("/n").unwrap().decode(Encoding::Hex).unwrap();
    host.reveal("key");
    assert_eq!(part.reveal().unwrap(), b"\xaa");
    assert_eq!(made.part("/n").unwrap().reveal().unwrap(), b"aa");
}

#[test]
fn a_json_body_has_texts_and_secrets_in_their_quotes() {
    let host = Host::new();
    host.secret("password", "p4ss");
    let password = secrets::open("password").unwrap();
    let odd = "quote \" slash \\ line\n \u{1} ü".to_owned();
    for (members, expected) in [
        (&[][..], "{}"),
        (
            &[("user", (&odd).into()), ("password", (&password).into())],
            "{\"user\":\"quote \\\" slash \\\\ line\\n \\u0001 ü\",\"password\":\"json({password})\"}",
        ),
        (&[("a\"b", b"bytes"[..].into())], "{\"a\\\"b\":\"bytes\"}"),
    ] {
        host.answer(Answer::json(200, "{}"));
        let body = secrets::json(members).unwrap();
        let request = http::Request::post("https://x.example/login");
        request.content("application/json", &body).send().unwrap();
        let content = host.requests().last().unwrap().content.clone();
        assert_eq!(content.as_deref(), Some(expected));
    }
    let no_text = secrets::json(&[("a", b"\xff"[..].into())]);
    assert_eq!(no_text.err().unwrap().message, "the member a is no UTF-8");
}

#[test]
fn json_of_another_shape_is_told_by_its_path_and_without_values() {
    #[derive(Debug, serde::Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Session {
        data: Data,
    }
    #[derive(Debug, serde::Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Data {
        session: String,
        expires: u64,
    }
    let host = Host::new();
    for (body, code, said) in [
        ("<html>", "answer.not-json", "is no JSON: line 1, column 1"),
        (
            r#"{"access_token":"s3cr3t"}"#,
            "answer.other-json",
            "is not the JSON expected: there is no `data`",
        ),
        (
            r#"{"data":{"session":"s3cr3t"}}"#,
            "answer.other-json",
            "data: there is no `expires`",
        ),
        (
            r#"{"data":{"session":"s3cr3t","expires":"s3cr3t"}}"#,
            "answer.other-json",
            "data.expires: it is of another type",
        ),
    ] {
        host.answer(Answer::json(200, body));
        let response = http::Request::get("https://x.example/").send().unwrap();
        let failure = response.json::<Session>().unwrap_err();
        assert!(failure.has_code(code), "{failure:?}");
        let message = &failure.message;
        assert!(message.ends_with(said), "{message}");
        assert!(!message.contains("s3cr3t"), "{message}");
    }
}

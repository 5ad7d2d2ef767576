//! Real answers deviate from RFC 6749 in known ways; each is a line here.

use evertoken_plugin::{Expiry, FailureKind, Field};
use proptest::prelude::*;

use super::*;

const NEVER: Expiry = Expiry::Never;
const UNKNOWN: Expiry = Expiry::Unknown;

fn after(seconds: f64) -> Expiry {
    Expiry::At(SENT_AT.plus_millis((seconds * 1000.0) as u64))
}

#[test]
fn the_expiry_is_read_in_every_spelling() {
    for (members, expected) in [
        (r#""expires_in":3599"#, after(3599.0)),
        (r#""expires_in":3599.5"#, after(3599.5)),
        (r#""expires_in":3.6e3"#, after(3600.0)),
        (r#""expires_in":"3599""#, after(3599.0)),
        (r#""expires_in":" 3599.0 ""#, after(3599.0)),
        (r#""expires_in":"3599.5""#, after(3599.5)),
        (r#""expires_in":0"#, UNKNOWN),
        (r#""expires_in":-0.0"#, UNKNOWN),
        (r#""expires_in":"0""#, UNKNOWN),
        (r#""expires_in":-1"#, UNKNOWN),
        (r#""expires_in":"-3600""#, UNKNOWN),
        (r#""expires_in":-9223372036854775809"#, UNKNOWN),
        (r#""expires_in":9e99"#, NEVER),
        (r#""expires_in":18446744073709551616"#, NEVER),
        (r#""expires_in":[3600]"#, UNKNOWN),
        (r#""expires_in":null"#, UNKNOWN),
        (r#""expires_in":"an hour""#, UNKNOWN),
        (r#""expires_in":"NaN""#, UNKNOWN),
        (r#""expires_in":true"#, UNKNOWN),
        (r#""scope":"a""#, UNKNOWN),
        (r#""expires_at":"2023-11-14T23:13:20Z""#, after(3600.0)),
        (r#""expires_at":1700003600"#, after(3600.0)),
        (r#""expires_on":"1700003600""#, after(3600.0)),
        (r#""expires_at":1700003600123"#, after(3600.123)),
        (r#""expires_at":"tomorrow""#, UNKNOWN),
        (r#""expires_at":0"#, UNKNOWN),
        (r#""expires_at":1700000000"#, UNKNOWN),
        (r#""expires_at":"2023-11-14T21:00:00Z""#, UNKNOWN),
        (r#""expires_at":1e30"#, NEVER),
        (
            r#""expires_at":"tomorrow","expires_on":"1700003600""#,
            after(3600.0),
        ),
        (
            r#""expires_in":-1,"expires_on":"1700003600""#,
            after(3600.0),
        ),
        (
            r#""expires_in":"60","expires_on":"1700003600""#,
            after(60.0),
        ),
        (
            r#""expires_in":"soon","expires_on":"1700003600""#,
            after(3600.0),
        ),
        (r#""expires_in":"+3600""#, after(3600.0)),
        (r#""expires_in":"03600""#, after(3600.0)),
        (r#""expiresIn":3600"#, after(3600.0)),
        (r#""ExpiresIn":"3600""#, after(3600.0)),
        (r#""EXPIRES_IN":3600"#, after(3600.0)),
        (r#""expires-in":3600"#, after(3600.0)),
        (r#""expiresIn":60,"expires_in":3600"#, after(3600.0)),
        (r#""expiresIn":3600,"expires_in":null"#, after(3600.0)),
        (r#""expiresAt":1700003600"#, after(3600.0)),
        // Facebook's former one.
        (r#""expires":3600"#, after(3600.0)),
        (r#""expires":"3600""#, after(3600.0)),
        (r#""expires":60,"expires_in":3600"#, after(3600.0)),
        // A point in time in place of the lifetime.
        (r#""expires_in":1700003600"#, after(3600.0)),
        (r#""expires_in":1700003600000"#, after(3600.0)),
        (r#""expires_in":"2023-11-14T23:13:20Z""#, after(3600.0)),
        (r#""expires_in":1600000000"#, UNKNOWN),
        (r#""expires":1700003600"#, after(3600.0)),
        (
            r#"".expires":"Tue, 14 Nov 2023 23:13:20 GMT""#,
            after(3600.0),
        ),
        (
            r#""expires_at":"Tue, 14 Nov 2023 23:13:20 GMT""#,
            after(3600.0),
        ),
    ] {
        let token = answered(Answer::json(
            200,
            format!(r#"{{"access_token":"abc",{members}}}"#),
        ))
        .unwrap();
        assert_eq!(token.expiry, expected, "{members}");
    }
}

#[test]
fn an_expiry_that_cannot_be_read_is_told() {
    let host = Host::new();
    host.answer(Answer::json(
        200,
        r#"{"access_token":"abc","expires_in":"s3cr3t"}"#,
    ));
    acquire::<OAuth2>(&config("client_credentials", json!({}))).unwrap();
    let [(_, line)] = host.logged().try_into().unwrap();
    assert!(
        line.contains("expires_in") && !line.contains("s3cr3t"),
        "{line}"
    );
}

#[test]
fn the_type_is_the_issuers_or_bearer() {
    for (members, expected) in [
        (r#""token_type":"DPoP""#, "DPoP"),
        (r#""token_type":"bearer""#, "bearer"),
        (
            r#""token_type":"Application Access Token""#,
            "Application Access Token",
        ),
        (r#""token_type":null"#, "Bearer"),
        (r#""token_type":"""#, "Bearer"),
        (r#""tokenType":"DPoP""#, "DPoP"),
        (r#""x":1"#, "Bearer"),
    ] {
        let token = answered(Answer::json(
            200,
            format!(r#"{{"access_token":"abc",{members}}}"#),
        ))
        .unwrap();
        assert_eq!(token.token_type, expected, "{members}");
    }
}

#[test]
fn every_success_is_one_whatever_its_status_and_form() {
    for answer in [
        Answer::json(200, r#"{"access_token":"abc"}"#),
        Answer::json(201, r#"{"access_token":"abc"}"#),
        Answer::new(
            200,
            "text/html",
            "\u{feff} \r\n{\"access_token\":\"abc\"}\n",
        ),
        Answer::json(
            200,
            r#"{"access_token":"abc","error":null,"error_description":""}"#,
        ),
        Answer::new(
            200,
            "application/x-www-form-urlencoded; charset=utf-8",
            "access_token=abc&scope=repo%2Cgist",
        ),
        Answer::new(200, "text/plain", "access_token=abc&expires=5183999"),
        Answer::json(200, r#"{"access_token":"abc","error":"none"}"#),
        Answer::json(
            200,
            r#"{"access_token":"abc","errors":[{"errorType":"deprecated"}]}"#,
        ),
        Answer::json(
            200,
            r#"{"access_token":"abc","error":{"code":0,"message":"ok"}}"#,
        ),
        Answer::json(200, r#"{"data":{"access_token":"abc"}}"#),
        Answer::json(200, r#"[{"access_token":"abc"}]"#),
        Answer::new(
            200,
            "text/html",
            "<b>Warning</b>: x<br />{\"access_token\":\"abc\"}",
        ),
        Answer::json(307, r#"{"access_token":"abc","refresh_token":"r"}"#),
        Answer::json(500, r#"{"access_token":"abc","refresh_token":"r"}"#),
    ] {
        assert_eq!(answered(answer.clone()).unwrap().value, "abc", "{answer:?}");
    }
    let form = answered(Answer::new(
        200,
        "application/x-www-form-urlencoded",
        "access_token=a%2Bb+c&expires_in=60&token_type=x",
    ))
    .unwrap();
    assert_eq!(
        (form.value.as_str(), form.expiry, form.token_type.as_str()),
        ("a+b c", after(60.0), "x")
    );
}

#[test]
fn another_member_may_be_the_token_and_an_id_token_tells_its_lifetime_itself() {
    let body =
        r#"{"access_token":"abc","id_token":"ey","expires_in":60,"refresh_token":"r","jwt":"j"}"#;
    for (member, value, expiry, fields) in [
        ("access_token", "abc", after(60.0), ["id_token", "jwt"]),
        ("id_token", "ey", Expiry::Unknown, ["access_token", "jwt"]),
        ("jwt", "j", after(60.0), ["access_token", "id_token"]),
    ] {
        let host = Host::new();
        host.answer(Answer::json(200, body));
        let config = config("client_credentials", json!({"token_field": member}));
        let token = acquire::<OAuth2>(&config).unwrap();
        assert_eq!((token.value.as_str(), token.expiry), (value, expiry));
        let names: Vec<&str> = token.fields.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, fields, "{member}");
        assert!(token.fields.iter().all(|field| !field.public), "{member}");
    }
    let host = Host::new();
    host.answer(Answer::json(200, r#"{"access_token":"abc"}"#));
    let config = config("client_credentials", json!({"token_field": "id_token"}));
    let failure = acquire::<OAuth2>(&config).unwrap_err();
    assert!(failure.has_code("answer.no-token"), "{failure:?}");
    assert_eq!(
        failure.message,
        "the issuer's answer has no id_token; it has: access_token; an ID token takes the scope openid"
    );
}

/// An answer with another token than the configured one is a mistake of the configuration; a page without meaning may be an
/// outage.
#[test]
fn a_token_that_is_not_in_an_answer_with_another_one_is_the_configurations_mistake() {
    for (body, member, kind) in [
        (
            r#"{"access_token":"abc"}"#,
            "id_token",
            FailureKind::InvalidConfig,
        ),
        (
            r#"{"access_token":"abc"}"#,
            "jwt",
            FailureKind::InvalidConfig,
        ),
        (
            r#"{"accessToken":"abc"}"#,
            "jwt",
            FailureKind::InvalidConfig,
        ),
        (
            r#"{"message":"back soon"}"#,
            "id_token",
            FailureKind::Unavailable,
        ),
        (
            r#"{"message":"back soon"}"#,
            "access_token",
            FailureKind::Unavailable,
        ),
    ] {
        let host = Host::new();
        host.answer(Answer::json(200, body));
        let config = config("client_credentials", json!({"token_field": member}));
        let failure = acquire::<OAuth2>(&config).unwrap_err();
        assert_eq!(failure.kind, kind, "{body} {member}");
        assert!(failure.has_code("answer.no-token"), "{failure:?}");
    }
}

#[test]
fn a_token_that_is_there_and_is_none_is_not_said_to_be_missing() {
    for body in [
        r#"{"access_token":"","a":1}"#,
        r#"{"access_token":5,"a":1}"#,
    ] {
        let host = Host::new();
        host.answer(Answer::json(200, body));
        let failure = acquire::<OAuth2>(&config("client_credentials", json!({}))).unwrap_err();
        assert_eq!(
            failure.message,
            "the issuer's answer has no usable access_token; it has: a, access_token",
            "{body}"
        );
    }
}

#[test]
fn what_came_with_the_token_becomes_fields_and_only_the_harmless_are_public() {
    let body = r#"{"access_token":"abc","token_type":"Bearer","expires_in":60,"refresh_token":"r","refreshToken":"r","scope":["a","b"],
        "id_token":"ey","instance_url":"https://x.example","not-before-policy":0,"issued_at":"1700000000000","nested":{"a":1},"list":["a"],
        "ok":true,"nothing":null,"issued_token_type":"urn:x"}"#;
    let token = answered(Answer::json(200, body)).unwrap();
    let field = |name: &str, value: &str, public| Field {
        name: name.into(),
        value: value.into(),
        public,
    };
    let expected = [
        field("id_token", "ey", false),
        field("instance_url", "https://x.example", true),
        field("issued_at", "1700000000000", false),
        field("issued_token_type", "urn:x", true),
        field("not-before-policy", "0", false),
        field("scope", "a b", true),
    ];
    assert_eq!(
        token
            .fields
            .iter()
            .map(|f| (&f.name, &f.value, f.public))
            .collect::<Vec<_>>(),
        expected
            .iter()
            .map(|f| (&f.name, &f.value, f.public))
            .collect::<Vec<_>>()
    );
}

#[test]
fn a_scope_is_text_list_or_nothing() {
    for (scope, expected) in [
        (r#""a b""#, Some("a b")),
        (r#""a,b""#, Some("a,b")),
        (r#"["a","b"]"#, Some("a b")),
        ("null", None),
        (r#""""#, Some("")),
    ] {
        let token = answered(Answer::json(
            200,
            format!(r#"{{"access_token":"abc","scope":{scope}}}"#),
        ))
        .unwrap();
        assert_eq!(
            token.fields.first().map(|field| field.value.as_str()),
            expected,
            "{scope}"
        );
    }
}

#[test]
fn a_refusal_is_a_failure_of_its_kind_with_the_issuers_code() {
    for (answer, kind, code, retry_after_ms) in [
        (
            Answer::json(401, r#"{"error":"invalid_client"}"#),
            FailureKind::Denied,
            "invalid_client",
            None,
        ),
        (
            Answer::json(400, r#"{"error":"invalid_scope"}"#),
            FailureKind::InvalidConfig,
            "invalid_scope",
            None,
        ),
        (
            Answer::json(200, r#"{"error":"bad_verification_code"}"#),
            FailureKind::Denied,
            "bad_verification_code",
            None,
        ),
        (
            Answer::json(200, r#"{"ok":false,"error":"invalid_auth"}"#),
            FailureKind::Denied,
            "invalid_auth",
            None,
        ),
        (
            Answer::new(
                200,
                "application/x-www-form-urlencoded",
                "error=incorrect_client_credentials",
            ),
            FailureKind::Denied,
            "incorrect_client_credentials",
            None,
        ),
        (
            Answer::json(403, r#"{"error":"invalid_grant"}"#),
            FailureKind::Denied,
            "invalid_grant",
            None,
        ),
        (
            Answer::json(503, "").header("Retry-After", "7"),
            FailureKind::Unavailable,
            "http.503",
            Some(7000),
        ),
        (
            Answer::json(429, r#"{"error":"slow_down"}"#)
                .header("Retry-After", "Tue, 14 Nov 2023 22:13:50 GMT"),
            FailureKind::Unavailable,
            "slow_down",
            Some(30_000),
        ),
        (
            Answer::json(204, ""),
            FailureKind::Unavailable,
            "answer.unreadable",
            None,
        ),
        (
            Answer::new(200, "text/html", "<a href='?x=s3cr3t'>"),
            FailureKind::Unavailable,
            "answer.unreadable",
            None,
        ),
        (
            Answer::new(200, "text/plain", "s3cr3t=s3cr3t"),
            FailureKind::Unavailable,
            "answer.unreadable",
            None,
        ),
        (
            Answer::json(200, r#"{"access_token":"s3cr3t""#),
            FailureKind::Unavailable,
            "answer.cut",
            None,
        ),
        (
            Answer::json(200, r#"["s3cr3t"]"#),
            FailureKind::Unavailable,
            "answer.unreadable",
            None,
        ),
        (
            Answer::json(200, r#"{"token":"s3cr3t"}"#),
            FailureKind::Unavailable,
            "answer.no-token",
            None,
        ),
        (
            Answer::json(200, r#"{"access_token":"","a":"s3cr3t"}"#),
            FailureKind::Unavailable,
            "answer.no-token",
            None,
        ),
        (
            Answer::json(200, r#"{"access_token":5}"#),
            FailureKind::Unavailable,
            "answer.no-token",
            None,
        ),
        (
            Answer::json(302, "").header("Location", "https://x.example/?code=s3cr3t"),
            FailureKind::Unavailable,
            "http.302",
            None,
        ),
    ] {
        let failure = answered(answer.clone()).unwrap_err();
        assert_eq!(
            (
                failure.kind,
                failure.code.as_deref(),
                failure.retry_after_ms
            ),
            (kind, Some(code), retry_after_ms),
            "{answer:?}"
        );
        assert!(!failure.message.contains("s3cr3t"), "{failure}");
    }
}

#[test]
fn a_new_refresh_token_is_stored_with_its_expiry_once_the_answer_is_there() {
    for (members, expires_at) in [
        (r#""x":1"#, None),
        (
            r#""refresh_expires_in":1800"#,
            Some(SENT_AT.plus_millis(1_800_000)),
        ),
        (r#""refresh_expires_in":0"#, None),
        (r#""refresh_token_expires_in":"0""#, None),
        (
            r#""refresh_token_expires_in":"60""#,
            Some(SENT_AT.plus_millis(60_000)),
        ),
        (
            r#""x_refresh_token_expires_in":8726400"#,
            Some(SENT_AT.plus_millis(8_726_400_000)),
        ),
        (r#""refresh_expires_in":"never""#, None),
        (r#""refresh_expires_in":null"#, None),
        (r#""refresh_expires_in":-1"#, None),
        (r#""refresh_token_expires_in":"-1""#, None),
        (r#""refresh_expires_in":9e99"#, None),
        (
            r#""refreshTokenExpiresIn":60"#,
            Some(SENT_AT.plus_millis(60_000)),
        ),
        (
            r#""refresh_expires_in":1700000060"#,
            Some(SENT_AT.plus_millis(60_000)),
        ),
        (r#""refresh_expires_in":1600000000"#, None),
    ] {
        let host = Host::new();
        host.rotating_secret("refresh_token", "old");
        host.answer(Answer::json(
            200,
            format!(r#"{{"access_token":"abc","refresh_token":"new",{members}}}"#),
        ));
        let token = acquire::<OAuth2>(&config("refresh_token", json!({}))).unwrap();
        assert!(token.fields.iter().all(|field| field.value != "new"));
        let [replaced] = host.replaced().try_into().unwrap();
        assert_eq!(
            (
                replaced.name.as_str(),
                replaced.value.as_str(),
                replaced.expires_at
            ),
            ("refresh_token", "new", expires_at),
            "{members}"
        );
        assert_eq!(replaced.after_requests, 1);
    }
}

#[test]
fn a_refresh_token_is_kept_when_the_answer_has_none_or_refuses() {
    for (status, body) in [
        (200, r#"{"access_token":"abc"}"#),
        (200, r#"{"access_token":"abc","refresh_token":null}"#),
        (200, r#"{"access_token":"abc","refresh_token":""}"#),
        (400, r#"{"error":"invalid_grant","refresh_token":"new"}"#),
        (
            200,
            r#"{"error":"bad_refresh_token","refresh_token":"new"}"#,
        ),
    ] {
        let host = Host::new();
        host.rotating_secret("refresh_token", "old");
        host.answer(Answer::json(status, body));
        let _either = acquire::<OAuth2>(&config("refresh_token", json!({})));
        assert!(host.replaced().is_empty(), "{body}");
    }
}

#[test]
fn a_new_refresh_token_is_kept_whatever_is_odd_around_it() {
    for (status, body) in [
        (200, r#"{"access_token":"abc","refreshToken":"new"}"#),
        (200, r#"{"accessToken":"abc","refreshToken":"new"}"#),
        (200, r#"{"Access_Token":"abc","Refresh_Token":"new"}"#),
        (
            200,
            r#"{"access_token":"abc","refresh_token":"new","error":"success"}"#,
        ),
        (
            200,
            r#"{"data":{"access_token":"abc","refresh_token":"new"}}"#,
        ),
        (307, r#"{"access_token":"abc","refresh_token":"new"}"#),
        (502, r#"{"access_token":"abc","refresh_token":"new"}"#),
    ] {
        let host = Host::new();
        host.rotating_secret("refresh_token", "old");
        host.answer(Answer::json(status, body));
        let _either = acquire::<OAuth2>(&config("refresh_token", json!({})));
        let replaced = host.replaced();
        assert_eq!(replaced.len(), 1, "{body}");
        assert_eq!(replaced[0].value, "new", "{body}");
    }
}

#[test]
fn a_new_refresh_token_is_stored_even_when_the_rest_of_the_answer_is_of_no_use() {
    let host = Host::new();
    host.rotating_secret("refresh_token", "old");
    host.answer(Answer::json(200, r#"{"refresh_token":"new"}"#));
    assert!(
        acquire::<OAuth2>(&config("refresh_token", json!({})))
            .unwrap_err()
            .has_code("answer.no-token")
    );
    assert_eq!(host.replaced().len(), 1);
}

#[test]
fn of_an_answer_that_was_cut_the_refresh_token_is_kept_and_another_token_is_asked_for() {
    let body = r#"{"access_token":"abc","expires_in":60,"refresh_token":"new","id_token":"ey"}"#;
    for end in 1..body.len() {
        let host = Host::new();
        host.rotating_secret("refresh_token", "old");
        host.answer(Answer::json(200, &body[..end]));
        let failure = acquire::<OAuth2>(&config("refresh_token", json!({}))).unwrap_err();
        assert_eq!(
            (failure.kind, failure.code.as_deref()),
            (FailureKind::Unavailable, Some("answer.cut")),
            "{end}"
        );
        let is_there = body[..end].contains(r#":"new""#);
        assert_eq!(host.replaced().len(), usize::from(is_there), "{end}");
    }
}

#[test]
fn odd_texts_beside_the_tokens_do_not_hide_them() {
    for body in [
        &b"{\"access_token\":\"abc\",\"organisation\":\"Z\xfcrich\",\"refresh_token\":\"new\"}"[..],
        b"{\"access_token\":\"abc\",\"motd\":\"one\ntwo\",\"refresh_token\":\"new\"}",
        b")]}'\n{\"access_token\":\"abc\",\"refresh_token\":\"new\",\"n\":1e999}",
        b"access_token=abc&refresh_token=new&organisation=Z%FCrich",
    ] {
        let host = Host::new();
        host.rotating_secret("refresh_token", "old");
        host.answer(Answer::new(200, "text/html", body));
        let token = acquire::<OAuth2>(&config("refresh_token", json!({}))).unwrap();
        assert_eq!((token.value.as_str(), host.replaced().len()), ("abc", 1));
    }
}

#[test]
fn a_new_refresh_token_that_the_job_cannot_keep_is_told_and_the_token_is_used() {
    let host = Host::new();
    host.secret("refresh_token", "old");
    host.answer(Answer::json(
        200,
        r#"{"access_token":"abc","refresh_token":"new"}"#,
    ));
    assert_eq!(
        acquire::<OAuth2>(&config("refresh_token", json!({})))
            .unwrap()
            .value,
        "abc"
    );
    let [(_, line)] = host.logged().try_into().unwrap();
    assert!(
        line.contains("rotating: true") && !line.contains("new"),
        "{line}"
    );
}

#[test]
fn a_refresh_token_that_nobody_asked_for_is_not_stored() {
    let host = Host::new();
    host.answer(Answer::json(
        200,
        r#"{"access_token":"abc","refresh_token":"new"}"#,
    ));
    assert!(acquire::<OAuth2>(&config("client_credentials", json!({}))).is_ok());
    assert!(host.replaced().is_empty());
}

proptest! {
    #[test]
    fn no_answer_makes_the_parser_panic(status in 100u16..600, content_type in ".*", body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _either = answered(Answer::new(status, &content_type, body));
    }

    #[test]
    fn no_json_of_the_right_shape_makes_the_parser_panic(name in "access_token|expires_in|error|errors|scope|refresh_token|expires_at", value in json_value()) {
        let body = json!({"access_token": "abc", name: value});
        let _either = answered(Answer::json(200, body.to_string()));
    }

    #[test]
    fn the_token_is_taken_verbatim(value in ".+") {
        let json = answered(Answer::json(200, json!({"access_token": value}).to_string())).unwrap();
        prop_assert_eq!(&json.value, &value);
        let form = form_encoded(&value);
        let form = answered(Answer::new(200, "application/x-www-form-urlencoded", format!("access_token={form}"))).unwrap();
        prop_assert_eq!(&form.value, &value);
    }
}

fn form_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
        "[0-9+:TZ.e-]{1,30}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("code|status|message|errorType|x", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

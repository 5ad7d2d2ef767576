//! Client authentication, grants and parameters, and what of the configuration is refused.

use evertoken_plugin::FailureKind;
use evertoken_plugin::testing::RecordedRequest;

use super::*;

/// The request that this configuration makes when the job lists these secrets.
fn request(config: &Value, secrets: &[&str]) -> RecordedRequest {
    let host = Host::new();
    for name in secrets {
        host.secret(name, "s3cr3t");
    }
    host.answer(Answer::json(200, r#"{"access_token":"abc"}"#));
    acquire::<OAuth2>(config).unwrap();
    let [request] = host.requests().try_into().unwrap();
    request
}

fn form(request: &RecordedRequest) -> Vec<(&str, &str)> {
    request
        .form
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

#[test]
fn the_scheme_of_an_address_may_be_written_in_capitals() {
    let mut config = config("client_credentials", json!({}));
    for url in ["HTTPS://idp.example.org/token", "Http://127.0.0.1/token"] {
        config["token_url"] = json!(url);
        assert_eq!(request(&config, &["client_secret"]).url, url);
    }
}

#[test]
fn a_client_with_a_secret_authenticates_by_basic_with_both_parts_form_encoded() {
    let mut config = config("client_credentials", json!({}));
    config["client_id"] = json!("a b:c");
    for auth in [Value::Null, json!("client_secret_basic")] {
        config["client_auth"] = auth;
        let request = request(&config, &["client_secret"]);
        assert_eq!(
            (request.method.as_str(), request.url.as_str()),
            ("POST", "https://idp.example.org/token")
        );
        assert_eq!(
            request.header("authorization"),
            Some("Basic base64(a+b%3Ac:form({client_secret}))")
        );
        assert_eq!(request.header("accept"), Some("application/json"));
        assert_eq!(form(&request), [("grant_type", "client_credentials")]);
    }
}

#[test]
fn a_client_can_put_its_secret_into_the_form() {
    let request = request(
        &config(
            "client_credentials",
            json!({"client_auth": "client_secret_post"}),
        ),
        &["client_secret"],
    );
    assert_eq!(
        form(&request),
        [
            ("grant_type", "client_credentials"),
            ("client_id", "svc"),
            ("client_secret", "{client_secret}")
        ]
    );
    assert_eq!(request.header("authorization"), None);
}

#[test]
fn a_client_without_a_secret_sends_its_identifier_alone() {
    for (auth, secrets) in [
        (Value::Null, [].as_slice()),
        (json!("none"), &["client_secret"]),
    ] {
        let request = request(
            &config("client_credentials", json!({"client_auth": auth})),
            secrets,
        );
        assert_eq!(
            form(&request),
            [("grant_type", "client_credentials"), ("client_id", "svc")]
        );
        assert_eq!(request.header("authorization"), None);
    }
}

#[test]
fn the_identifier_may_be_a_secret_and_goes_wherever_it_would_go_unread() {
    for (auth, authorization, fields) in [
        (
            "client_secret_basic",
            Some("Basic base64(form({client_id}):form({client_secret}))"),
            [].as_slice(),
        ),
        (
            "client_secret_post",
            None,
            &[
                ("client_id", "{client_id}"),
                ("client_secret", "{client_secret}"),
            ],
        ),
        ("none", None, &[("client_id", "{client_id}")]),
    ] {
        let more = json!({"client_id": null, "client_auth": auth});
        let request = request(
            &config("client_credentials", more),
            &["client_id", "client_secret"],
        );
        assert_eq!(request.header("authorization"), authorization);
        assert_eq!(form(&request).get(1..), Some(fields), "{auth}");
    }
}

#[test]
fn the_refresh_token_goes_into_the_form_unread() {
    let request = request(&config("refresh_token", json!({})), &["refresh_token"]);
    assert_eq!(
        form(&request),
        [
            ("grant_type", "refresh_token"),
            ("refresh_token", "{refresh_token}"),
            ("client_id", "svc")
        ]
    );
}

#[test]
fn scope_audience_and_resource_are_one_or_many() {
    let more = json!({"scope": ["read", "write"], "audience": "a", "resource": ["https://x.example", "https://y.example"]});
    let request = request(&config("client_credentials", more), &[]);
    let expected = [
        ("scope", "read write"),
        ("audience", "a"),
        ("resource", "https://x.example"),
        ("resource", "https://y.example"),
    ];
    assert_eq!(form(&request).get(2..), Some(expected.as_slice()));
    for nothing in [json!(""), json!([]), json!([""])] {
        let request = self::request(
            &config("client_credentials", json!({"scope": nothing})),
            &[],
        );
        assert_eq!(request.field("scope"), None);
    }
}

#[test]
fn params_are_added_and_take_the_place_of_the_plugins_own() {
    let more = json!({"params": {"grant_type": "account_credentials", "account_id": "7"}});
    let request = request(&config("client_credentials", more), &[]);
    assert_eq!(
        form(&request),
        [
            ("client_id", "svc"),
            ("account_id", "7"),
            ("grant_type", "account_credentials")
        ]
    );
}

#[test]
fn headers_are_added_and_accept_may_be_another() {
    let request = request(
        &config(
            "client_credentials",
            json!({"headers": {"ACCEPT": "text/plain", "WM_SVC.NAME": "x"}}),
        ),
        &[],
    );
    assert_eq!(
        (request.header("accept"), request.header("wm_svc.name")),
        (Some("text/plain"), Some("x"))
    );
    assert_eq!(request.headers.len(), 2);
}

#[test]
fn a_configuration_that_cannot_work_is_refused_before_anything_is_sent() {
    for (more, secrets, message) in [
        (
            json!({"grant": "password"}),
            [].as_slice(),
            "config.grant: unknown variant `password`",
        ),
        (
            json!({"token_url": 3}),
            &[],
            "config.token_url: invalid type: integer `3`, expected a string",
        ),
        (
            json!({"token_url": "idp.example.org/token"}),
            &[],
            "config.token_url: \"idp.example.org/token\" is no address",
        ),
        (
            json!({"tokenurl": "x"}),
            &[],
            "config.tokenurl: unknown field `tokenurl`",
        ),
        (
            json!({"scope": {"a": "b"}}),
            &[],
            "config.scope: invalid type: map, expected a string or a list of strings",
        ),
        (
            json!({"scope": ["a", 1]}),
            &[],
            "config.scope[1]: invalid type: integer `1`",
        ),
        (
            json!({"params": {"n": 1}}),
            &[],
            "config.params.n: invalid type: integer `1`, expected a string",
        ),
        (
            json!({"params": {"client_secret": "x"}}),
            &[],
            "config.params.client_secret: a secret does not belong here",
        ),
        (
            json!({"params": {"refresh_token": "x"}}),
            &[],
            "config.params.refresh_token: a secret does not belong here",
        ),
        (
            json!({"headers": {"Content-Type": "x"}}),
            &[],
            "config.headers.Content-Type: this header is set for you",
        ),
        (
            json!({"headers": {"authorization": "x"}}),
            &["client_secret"],
            "config.headers.authorization: client_secret_basic sets this header",
        ),
        (
            json!({"client_id": null}),
            &["client_secret"],
            "config.client_id: needed",
        ),
        (
            json!({}),
            &["client_id"],
            "config.client_id: the job lists a secret client_id, too",
        ),
        (
            json!({"token_field": "refresh_token"}),
            &[],
            "config.token_field: a refresh token is no token to give away",
        ),
        (
            json!({"client_auth": "client_secret_post"}),
            &[],
            "the job lists no secret client_secret",
        ),
        (
            json!({"grant": "refresh_token"}),
            &[],
            "the job lists no secret refresh_token",
        ),
    ] {
        let host = Host::new();
        for name in secrets {
            host.secret(name, "s3cr3t");
        }
        let failure = acquire::<OAuth2>(&config("client_credentials", more)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::InvalidConfig, "{failure}");
        assert!(failure.message.starts_with(message), "{failure}");
        assert!(host.requests().is_empty());
    }
}

#[test]
fn a_secret_that_is_listed_but_not_there_is_not_left_out() {
    let host = Host::new();
    host.missing_secret("client_secret");
    let failure = acquire::<OAuth2>(&config("client_credentials", json!({}))).unwrap_err();
    assert!(failure.has_code("secret.not-found"), "{failure:?}");
    assert!(host.requests().is_empty());
}

#[test]
fn a_failure_of_the_network_is_passed_on_as_it_is() {
    let host = Host::new();
    let down = Failure::unavailable("no route")
        .with_code("http.connect")
        .with_retry_after_ms(Some(5));
    host.no_answer(down.clone());
    assert_eq!(
        acquire::<OAuth2>(&config("client_credentials", json!({}))),
        Err(down)
    );
}

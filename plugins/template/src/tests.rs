//! What a user writes, and what the consumer reads.

use evertoken_plugin::testing::{self, assert_described};
use evertoken_plugin::{Expiry, Failure, FailureKind, Field, NamedToken, Timestamp, Token};
use serde_json::{Value, json};

use super::*;

fn token(job: &str, value: &str) -> NamedToken {
    NamedToken {
        job: job.into(),
        token: Token::bearer(value)
            .expiring(Expiry::At(Timestamp::from_unix_millis(1_700_000_000_900))),
    }
}

fn one() -> Vec<NamedToken> {
    let mut named = token("warehouse", "ey.J&<\"'>");
    named.token.fields = vec![
        Field {
            name: "scope".into(),
            value: "read write".into(),
            public: true,
        },
        Field {
            name: "id_token".into(),
            value: "ey.I".into(),
            public: false,
        },
        Field {
            name: "not-before-policy".into(),
            value: "0".into(),
            public: false,
        },
    ];
    vec![named]
}

fn two() -> Vec<NamedToken> {
    vec![token("warehouse", "W"), token("my-registry", "R")]
}

fn rendered(tokens: Vec<NamedToken>, template: &str) -> Result<String, Failure> {
    let artifacts = testing::format::<Template>(tokens, &json!({ "template": template }))?;
    let [artifact] = artifacts.as_slice() else {
        panic!("{} artifacts", artifacts.len())
    };
    assert_eq!(artifact.name, "");
    Ok(String::from_utf8(artifact.content.clone()).unwrap())
}

fn failure(tokens: Vec<NamedToken>, config: Value) -> Failure {
    let failure = testing::format::<Template>(tokens, &config).unwrap_err();
    assert_eq!(failure.kind, FailureKind::InvalidConfig, "{failure}");
    assert!(!failure.message.contains("ey.J"), "{failure}");
    failure
}

#[test]
fn the_eos_line_is_right_to_the_byte_in_both_notations() {
    for template in [
        "oauth2:$(ACCESS_TOKEN):auth.example.org/userinfo",
        "oauth2:{{ token }}:auth.example.org/userinfo",
    ] {
        let text = rendered(vec![token("eos", "eyJhbGciOiJub25lIn0.e30.")], template).unwrap();
        assert_eq!(
            text,
            "oauth2:eyJhbGciOiJub25lIn0.e30.:auth.example.org/userinfo"
        );
    }
}

#[test]
fn nothing_is_escaped_and_no_newline_is_added_or_eaten() {
    for (template, expected) in [
        ("{{ token }}", "ey.J&<\"'>"),
        ("{{ token }}\n", "ey.J&<\"'>\n"),
        ("\n{{ token }}\r\n\n", "\ney.J&<\"'>\r\n\n"),
        ("$(OTHER) $(ACCESS_TOKEN", "$(OTHER) $(ACCESS_TOKEN"),
        ("", ""),
    ] {
        assert_eq!(rendered(one(), template).unwrap(), expected, "{template:?}");
    }
}

#[test]
fn one_token_has_its_parts_at_the_top() {
    for (template, expected) in [
        ("{{ job }} {{ token_type }}", "warehouse Bearer"),
        (
            "{{ expires_at }} {{ expires_at_unix }} {{ expires_at_unix_ms }}",
            "2023-11-14T22:13:20Z 1700000000 1700000000900",
        ),
        (
            "{{ fields.scope }} {{ fields.id_token }} {{ fields['not-before-policy'] }}",
            "read write ey.I 0",
        ),
        ("{{ fields.nothing | default('none') }}", "none"),
        (
            "{% for name in fields %}{{ name }};{% endfor %}",
            "id_token;not-before-policy;scope;",
        ),
    ] {
        assert_eq!(rendered(one(), template).unwrap(), expected, "{template}");
    }
}

#[test]
fn several_tokens_are_named_by_their_jobs() {
    let template = "{{ tokens.warehouse.value }} {{ tokens['my-registry'].value }} {{ tokens.warehouse.expires_at_unix }} {{ tokens.warehouse.job }}";
    assert_eq!(
        rendered(two(), template).unwrap(),
        "W R 1700000000 warehouse"
    );
    assert_eq!(
        rendered(one(), "{{ tokens.warehouse.fields.scope }}").unwrap(),
        "read write"
    );
}

#[test]
fn filters_spell_values_for_their_places() {
    let tokens = || vec![token("t", "a+b/c d\"ü")];
    for (template, expected) in [
        ("{{ token | b64encode }}", "YStiL2MgZCLDvA=="),
        ("{{ (job ~ ':' ~ token) | b64encode }}", "dDphK2IvYyBkIsO8"),
        ("{{ token | urlencode }}", "a%2Bb/c%20d%22%C3%BC"),
        (
            "{\"token\":{{ token | tojson }}}",
            "{\"token\":\"a+b/c d\\\"ü\"}",
        ),
    ] {
        assert_eq!(
            rendered(tokens(), template).unwrap(),
            expected,
            "{template}"
        );
    }
}

#[test]
fn an_unknown_name_is_refused_with_the_known_ones() {
    let (always, of_this_token) = ("config.template", "template.undefined");
    for (tokens, template, code, unknown, known) in [
        (
            one(),
            "a\n{{ tokn }}",
            always,
            "config.template line 2: tokn is not known",
            "token, token_type",
        ),
        (
            one(),
            "{{ fields.nothing }}",
            of_this_token,
            "fields.nothing is not known",
            "fields.scope",
        ),
        (
            one(),
            "{{ fields.nothing }}{{ tokn }}",
            always,
            "fields.nothing, tokn is not known",
            "fields.scope",
        ),
        (
            one(),
            "{{ claims.sub }}",
            of_this_token,
            "claims.sub is not known here (the token is no JWT, so it has no claims); known are: ",
            "token, token_type",
        ),
        (
            one(),
            "{{ tokens.warehose.value }}",
            always,
            "tokens.warehose.value is not known",
            "tokens.warehouse.value",
        ),
        (
            one(),
            "{{ tokens.warehouse.valeu }}",
            always,
            "tokens.warehouse.valeu is not known",
            "tokens.warehouse.value",
        ),
        (
            one(),
            "{{ tokens.warehouse.fields.nothing }}",
            of_this_token,
            "tokens.warehouse.fields.nothing is not known",
            "tokens.warehouse.value",
        ),
        (
            one(),
            "{% if tokn %}{% endif %}",
            always,
            "tokn is not known",
            "fields[\"not-before-policy\"]",
        ),
        (
            two(),
            "{{ token }}",
            always,
            "token is not known",
            "tokens[\"my-registry\"].value",
        ),
        (
            two(),
            "$(ACCESS_TOKEN)",
            always,
            "token is not known",
            "tokens.warehouse.value",
        ),
        (
            one(),
            // What is computed in a template is not seen without the values.
            "{{ tokens['x'].value }}",
            of_this_token,
            "is not known",
            "tokens.warehouse.value",
        ),
    ] {
        let failure = failure(tokens, json!({ "template": template }));
        assert!(failure.has_code(code), "{template}: {failure:?}");
        assert!(
            failure.message.contains(unknown) && failure.message.contains(known),
            "{failure}"
        );
    }
}

#[test]
fn values_are_opened() {
    let jwt = evertoken_plugin::jwt::unsigned([
        ("sub", "svc".into()),
        ("groups", json!(["a", "b"])),
        ("realm_access", json!({"roles": ["r"]})),
        ("exp", 1_700_000_000.into()),
    ]);
    let tokens = || {
        let mut named = token("t", &jwt);
        let field = |name: &str, value: &str| Field {
            name: name.into(),
            value: value.into(),
            public: false,
        };
        named.token.fields = vec![
            field("id_token", &jwt),
            field("packed", "eyJrIjogeyJhIjogWzEsIDJdfX0="),
            field("packed_for_urls", "aMO8Pz8_"),
        ];
        vec![named]
    };
    for (template, expected) in [
        ("{{ claims.sub }} {{ tokens.t.claims.sub }}", "svc svc"),
        ("{{ (token | claims).sub }}", "svc"),
        ("{{ (fields.id_token | claims).exp }}", "1700000000"),
        ("{{ claims.groups | join(',') }}", "a,b"),
        ("{{ claims.realm_access.roles | first }}", "r"),
        ("{{ claims['groups'] | tojson }}", "[\"a\", \"b\"]"),
        ("{{ claims.nothing | default('none') }}", "none"),
        (
            "{{ fields.packed | b64decode }}",
            "{\"k\": {\"a\": [1, 2]}}",
        ),
        ("{{ (fields.packed | b64decode | json).k.a | last }}", "2"),
        ("{{ fields.packed_for_urls | b64decode }}", "h\u{fc}???"),
        (
            "{% for name, value in (fields.packed | b64decode | json) | items %}{{ name }}{% endfor %}",
            "k",
        ),
    ] {
        assert_eq!(
            rendered(tokens(), template).unwrap(),
            expected,
            "{template}"
        );
    }
}

#[test]
fn what_cannot_be_opened_fails_without_being_quoted_however_large_it_is() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let large = format!("\"{}\"", "s3cr3t".repeat(100_000));
    let wide = format!("[{}0]", "0,".repeat(300_000));
    for (value, template, words) in [
        ("s3cr3t!", "{{ token | b64decode }}", "no text in base64"),
        ("gICA", "{{ token | b64decode }}", "no text in base64"),
        ("{\"s3cr3t\": ", "{{ token | json }}", "no JSON"),
        ("s3cr3t", "{{ token | claims }}", "no JWT"),
        ("a.s3cr3t.c", "{{ (token | claims).sub }}", "no JWT"),
        (&deep, "{{ token | json }}", "no JSON"),
        (&large, "{{ token | json }}", "256 KiB"),
        (&wide, "{{ token | json }}", "256 KiB"),
        (&large, "{{ token | b64decode }}", "256 KiB"),
        (&large, "{{ token | claims }}", "no JWT"),
        (&large, "{{ claims.sub }}", "claims.sub is not known"),
    ] {
        let failure = failure(vec![token("t", value)], json!({ "template": template }));
        assert!(failure.message.contains(words), "{template}: {failure}");
        assert!(!failure.message.contains("s3cr3t"), "{failure}");
        assert!(!failure.has_code("config.template"), "{failure:?}");
    }
}

#[test]
fn no_filter_takes_an_unknown_name_for_an_empty_value() {
    for filter in [
        "b64encode",
        "b64decode",
        "claims",
        "json",
        "urlencode",
        "tojson",
        "first",
        "items",
        "join(',')",
        "last",
        "length",
        "lower",
        "replace('a', 'b')",
        "split(',')",
        "trim",
        "upper",
    ] {
        let template = format!("{{{{ tokn | {filter} }}}}");
        let failure = failure(one(), json!({ "template": template }));
        assert!(
            failure.message.contains("tokn is not known"),
            "{template}: {failure}"
        );
    }
}

#[test]
fn lists_and_texts_can_be_cut_and_joined() {
    for (template, expected) in [
        ("{{ fields.scope | split(' ') | join(',') }}", "read,write"),
        ("{{ fields.scope | split(' ') | first | upper }}", "READ"),
        (
            "{{ fields.scope | split(' ') | last | replace('w', 'W') }}",
            "Write",
        ),
        ("{{ ' A ' | trim | lower }} {{ fields | length }}", "a 3"),
        (
            "{% for name, value in fields | items %}{{ name }}={{ value }};{% endfor %}",
            "id_token=ey.I;not-before-policy=0;scope=read write;",
        ),
        (
            "{% if fields.nothing is defined %}a{% elif token is undefined %}b{% else %}c{% endif %}",
            "c",
        ),
        (
            "{{ expires_at_unix | tojson }} {{ expires_at_unix | b64encode }} {{ fields | tojson }}",
            "1700000000 MTcwMDAwMDAwMA== {\"id_token\": \"ey.I\", \"not-before-policy\": \"0\", \"scope\": \"read write\"}",
        ),
    ] {
        assert_eq!(rendered(one(), template).unwrap(), expected, "{template}");
    }
}

#[test]
fn a_list_or_a_mapping_is_not_written_in_the_spelling_of_another_language() {
    for (template, what) in [
        ("{{ fields }}", "a mapping"),
        ("{{ tokens }}", "a mapping"),
        ("{{ '{\"a\":[1]}' | json }}", "a mapping"),
        ("{{ ('{\"a\":[1]}' | json).a }}", "a list"),
        ("{{ fields.scope | split(' ') }}", "a list"),
    ] {
        let failure = failure(one(), json!({ "template": template }));
        let expected = format!(
            "config.template line 1: invalid operation: {what} is no text; name one of its members, or spell it with tojson or join"
        );
        assert_eq!(failure.message, expected, "{template}");
    }
}

#[test]
fn an_expiry_that_is_not_known_has_no_name() {
    for expiry in [Expiry::Unknown, Expiry::Never] {
        let mut tokens = one();
        tokens[0].token.expiry = expiry;
        assert!(
            failure(tokens, json!({"template": "{{ expires_at }}"}))
                .message
                .contains("expires_at is not known")
        );
    }
}

#[test]
fn a_mistake_in_the_template_is_reported_with_its_line() {
    for (template, code, message) in [
        (
            "a\nb {{ token",
            "config.template",
            "config.template line 2: syntax error",
        ),
        (
            "{% if %}",
            "config.template",
            "config.template line 1: syntax error",
        ),
        (
            "{% for x in fields %}",
            "config.template",
            "config.template line 1: syntax error",
        ),
        (
            "{{ token | nope }}",
            "config.template",
            "config.template line 1: unknown filter",
        ),
        (
            "{{ token() }}",
            "template.failed",
            "config.template line 1: ",
        ),
        (
            "{% include 'x' %}",
            "config.template",
            "config.template line 1: ",
        ),
        (
            "{{ token | replace('a') }}",
            "config.template",
            "config.template line 1: ",
        ),
        (
            "{{ token is nope }}",
            "config.template",
            "config.template line 1: ",
        ),
        (
            "{{ nope() }}",
            "config.template",
            "config.template line 1: ",
        ),
    ] {
        let failure = failure(one(), json!({ "template": template }));
        assert!(
            failure.code.as_deref().unwrap().starts_with(code),
            "{failure:?}"
        );
        assert!(failure.message.starts_with(message), "{failure}");
    }
}

#[test]
fn several_files_come_from_one_formatter() {
    let config =
        json!({"files": {"user": "{{ job }}", "auth.json": "{\"a\":{{ token | tojson }}}"}});
    let artifacts = testing::format::<Template>(vec![token("t", "<v>")], &config).unwrap();
    let written: Vec<_> = artifacts
        .iter()
        .map(|a| (a.name.as_str(), std::str::from_utf8(&a.content).unwrap()))
        .collect();
    assert_eq!(written.len(), 2);
    assert_eq!(written[1], ("user", "t"));
    assert_eq!(
        serde_json::from_str::<Value>(written[0].1).unwrap(),
        json!({"a": "<v>"})
    );
    assert_eq!(written[0].0, "auth.json");
}

#[test]
fn exactly_one_of_template_and_files_is_wanted() {
    for config in [
        json!({}),
        json!({"files": {}}),
        json!({"template": "x", "files": {"a": "b"}}),
    ] {
        assert!(
            failure(one(), config.clone()).has_code("config.invalid"),
            "{config}"
        );
    }
    assert!(
        failure(one(), json!({"files": {"a": "{{ x }}"}}))
            .message
            .starts_with("config.files.a line 1: x is not known")
    );
}

#[test]
fn the_plugin_describes_itself_truly() {
    assert_described(
        ABOUT,
        &schemars::schema_for!(Config),
        env!("CARGO_MANIFEST_DIR"),
    );
}

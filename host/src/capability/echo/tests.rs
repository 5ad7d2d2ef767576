//! Answers that repeat a secret, in every encoding and place.

use data_encoding::{BASE64, BASE64URL_NOPAD};
use proptest::prelude::*;

use super::*;
use crate::capability::testing::Fixture;
use crate::capability::{Call, Encoding};
use crate::model::time::Timestamp;

const SECRET: &str = "p&ss \"wörd\"/+<1>";

fn origin(text: &str) -> Origin {
    Origin::parse(text).unwrap()
}

fn issuer() -> Origin {
    origin("https://idp.test")
}

fn answer(body: impl AsRef<[u8]>) -> Response {
    Response {
        status: 200,
        headers: vec![("content-length".to_owned(), body.as_ref().len().to_string())],
        body: body.as_ref().to_vec(),
        sent_at: Timestamp(0),
    }
}

/// A call with secrets of these values, by the names `s0`, `s1`, …
fn call(values: &[&str]) -> Call {
    let mut fixture = Fixture::new();
    fixture.endpoints = vec![issuer()];
    for (index, value) in values.iter().enumerate() {
        fixture.secret(&format!("s{index}"), value);
    }
    fixture.call()
}

async fn sent(values: &[&str]) -> Echoes {
    let call = call(values);
    let mut echoes = Echoes::default();
    for index in 0..values.len() {
        let secret = call.open(&format!("s{index}")).await.unwrap();
        echoes.note_sent(&secret).unwrap();
    }
    echoes
}

fn seen(echoes: &mut Echoes, body: impl AsRef<[u8]>) -> String {
    String::from_utf8(echoes.marked(&issuer(), answer(body)).body).unwrap()
}

/// The value as it was before the plugin saw the text.
fn put_back(echoes: &Echoes, text: &str) -> String {
    let value = echoes.put_back(Value::Text(text.to_owned())).unwrap();
    String::from_utf8(value.expose().to_vec()).unwrap()
}

fn in_lines(text: &str, end: &str) -> String {
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(8)
        .map(String::from_utf8_lossy)
        .collect();
    lines.join(end)
}

#[tokio::test]
async fn a_secret_that_comes_back_is_a_marker_in_every_spelling() {
    let raw = SECRET;
    let cases = [
        raw.to_owned(),
        "p%26ss%20%22w%C3%B6rd%22%2F%2B%3C1%3E".to_owned(),
        "p%26ss%20%22w%c3%b6rd%22%2f%2b%3c1%3e".to_owned(),
        "p%26ss+%22w%C3%B6rd%22%2F%2B%3C1%3E".to_owned(),
        // As escaped by serde, Go, PHP and Gson.
        r#"p&ss \"wörd\"/+<1>"#.to_owned(),
        r#"p\u0026ss \"wörd\"/+\u003c1\u003e"#.to_owned(),
        r#"p&ss \"w\u00f6rd\"\/+<1>"#.to_owned(),
        r#"\u0070\u0026ss\u0020\u0022w\u00F6rd\u0022/\u002b<1>"#.to_owned(),
        "p&amp;ss &quot;wörd&quot;/+&lt;1&gt;".to_owned(),
        "p&#38;ss &#x22;w&#246;rd&#x22;/+<1>".to_owned(),
        BASE64.encode(raw.as_bytes()),
        BASE64.encode(format!("client:{raw}:").as_bytes()),
        BASE64.encode(format!("a{raw}bc").as_bytes()),
        BASE64.encode(format!("ab{raw}c").as_bytes()),
        BASE64URL_NOPAD.encode(format!("{raw}\u{ff}").as_bytes()),
        data_encoding::HEXLOWER.encode(raw.as_bytes()),
        data_encoding::HEXUPPER.encode(raw.as_bytes()),
        data_encoding::BASE32.encode(raw.as_bytes()),
        data_encoding::BASE32.encode(format!("{raw}.").as_bytes()),
        data_encoding::BASE32.encode(format!("abc{raw}d").as_bytes()),
        data_encoding::BASE32.encode(raw.as_bytes()).to_lowercase(),
        BASE64.encode(r#"{"password":"p&ss \"wörd\"/+<1>","more":1}"#.as_bytes()),
        // Twice.
        r#"p&ss \\\"wörd\\\"/+<1>"#.to_owned(),
        r#"p\\u0026ss \\\"wörd\\\"/+\\u003c1\\u003e"#.to_owned(),
        "p%2526ss%2520%2522w%25C3%25B6rd%2522%252F%252B%253C1%253E".to_owned(),
        r"p%26ss%20%22w%C3%B6rd%22\/%2B%3C1\u00253E".to_owned(),
        "p\\u0026amp;ss \\u0026quot;wörd\\u0026quot;/+\\u0026lt;1\\u0026gt;".to_owned(),
        "p&amp;amp;ss &amp;quot;wörd&amp;quot;/+&amp;lt;1&amp;gt;".to_owned(),
        // Hex in both cases, base64 with line breaks.
        data_encoding::HEXLOWER
            .encode(raw.as_bytes())
            .replace("c3b6", "C3b6"),
        in_lines(&BASE64.encode(raw.as_bytes()), "\r\n"),
        in_lines(&BASE64.encode(format!("client:{raw}:").as_bytes()), "\n"),
        in_lines(&BASE64.encode(raw.as_bytes()), "\\n"),
        in_lines(&BASE64.encode(raw.as_bytes()), "\n    "),
        in_lines(&BASE64.encode(raw.as_bytes()), "%0d%0a"),
        in_lines(
            &data_encoding::HEXLOWER
                .encode(raw.as_bytes())
                .replace("c3b6", "C3b6"),
            "\n\t",
        ),
    ];
    for spelling in cases {
        let mut echoes = sent(&[raw]).await;
        let body = format!("<{spelling}>");
        let mut answer = answer(&body);
        answer.headers.push(("x-echo".to_owned(), body.clone()));
        let marked = echoes.marked(&issuer(), answer);
        assert_eq!(
            marked.headers[0].1,
            marked.body.len().to_string(),
            "{spelling}"
        );
        for text in [
            String::from_utf8(marked.body).unwrap(),
            marked.headers[1].1.clone(),
        ] {
            assert!(echoes.has_marker(&text), "{spelling}: {text}");
            // What remains are the edges of a longer text in base64.
            let left = text.len() - PREFIX.len() - CALL_DIGITS - MARKER_DIGITS;
            assert!(left <= body.len() - raw.len() + 2, "{spelling}: {text}");
            assert!(!text.contains(raw), "{text}");
        }
    }
}

#[tokio::test]
async fn what_the_plugin_may_read_or_never_sent_there_is_left_alone() {
    let mut fixture = Fixture::new();
    fixture.endpoints = vec![issuer()];
    for name in ["unsent", "revealed", "elsewhere"] {
        fixture.secret(name, &format!("value-of-{name}"));
    }
    fixture.job.source.reveal.insert("revealed".to_owned());
    fixture.secret("elsewhere", "").to = Some(vec![origin("https://other.test")]);
    let call = fixture.call();
    let mut echoes = Echoes::default();
    let text = "value-of-unsent value-of-revealed value-of-elsewhere";
    call.open("unsent").await.unwrap();
    for name in ["revealed", "elsewhere"] {
        echoes.note_sent(&call.open(name).await.unwrap()).unwrap();
    }
    assert!(!echoes.concern(&issuer()));
    assert_eq!(seen(&mut echoes, text), text);
    assert!(echoes.concern(&origin("https://other.test")));
    let marked = echoes.marked(&origin("https://other.test"), answer(text));
    assert!(
        !String::from_utf8(marked.body)
            .unwrap()
            .contains("elsewhere")
    );
}

#[tokio::test]
async fn everything_in_a_joined_value_is_looked_for() {
    let call = call(&["pass&word"]);
    let secret = call.open("s0").await.unwrap();
    let pair = call
        .join(&[
            Piece::Text("client:".to_owned()),
            Piece::Secret(secret, Encoding::Form),
        ])
        .unwrap();
    let basic = call
        .join(&[
            Piece::Text("Basic ".to_owned()),
            Piece::Secret(pair, Encoding::Base64),
        ])
        .unwrap();
    let mut echoes = Echoes::default();
    echoes.note_sent(&basic).unwrap();
    let pair = BASE64.encode("client:pass%26word".as_bytes());
    for echo in [
        "pass&word".to_owned(),
        format!("Basic {pair}"),
        pair,
        "client:pass%26word".to_owned(),
    ] {
        let text = seen(&mut echoes, &echo);
        assert!(echoes.has_marker(&text), "{echo}: {text}");
        assert!(!text.contains("word"), "{text}");
    }
}

#[tokio::test]
async fn a_value_is_found_whole_also_where_a_part_of_it_was_sent() {
    let whole = r#"{"id":"x","key":"the-inner-part"}"#;
    let call = call(&[whole]);
    let secret = call.open("s0").await.unwrap();
    let mut echoes = Echoes::default();
    echoes.note_sent(&secret).unwrap();
    echoes
        .note_sent(&call.part(&secret, "/key").unwrap())
        .unwrap();
    let escaped = serde_json::to_string(whole).unwrap();
    for text in [whole, &escaped, &format!(" {whole} ")] {
        let seen = seen(&mut echoes, text);
        assert!(!seen.contains("id") && !seen.contains("inner"), "{seen}");
        let json = seen.trim_matches('"');
        assert_eq!(put_back(&echoes, json).trim(), whole);
    }
    // A header's value is repeated without the blanks around it.
    let mut echoes = sent(&[" padded "]).await;
    assert!(!seen(&mut echoes, "padded").contains("padded"));
}

#[tokio::test]
async fn places_of_equal_values_cannot_be_told_from_places_of_different_ones() {
    for values in [["equal-value", "equal-value"], ["one-value", "other-value"]] {
        let mut echoes = sent(&values).await;
        let text = seen(&mut echoes, format!("{} {}", values[0], values[1]));
        let (one, other) = text.split_once(' ').unwrap();
        assert_ne!(one, other);
        assert_eq!(one.len(), other.len());
    }
    // Nor does a marker reveal the value's length.
    let mut echoes = sent(&["shor", &"long".repeat(100)]).await;
    let (short, long) = (
        seen(&mut echoes, "shor"),
        seen(&mut echoes, "long".repeat(100)),
    );
    assert_eq!(short.len(), long.len());
}

#[tokio::test]
async fn markers_of_two_calls_differ_and_mean_nothing_in_the_other() {
    let (mut one, mut other) = (sent(&["value"]).await, sent(&["value"]).await);
    let (first, second) = (seen(&mut one, "value"), seen(&mut other, "value"));
    assert_ne!(first, second);
    assert_eq!(put_back(&one, &first), "value");
    assert_eq!(put_back(&one, &second), second);
    let unknown = first.replace("0000", "0001");
    assert_eq!(put_back(&one, &unknown), unknown);
}

#[tokio::test]
async fn people_read_no_markers() {
    let mut echoes = sent(&["value-1"]).await;
    let text = seen(&mut echoes, "reuse of value-1 (value-1) detected");
    let redacted = echoes.redacted(text);
    assert_eq!(redacted, "reuse of [redacted] ([redacted]) detected");
    assert_eq!(echoes.redacted("no marker".to_owned()), "no marker");
}

#[tokio::test]
async fn a_number_in_json_stays_a_number() {
    let mut echoes = sent(&["123456"]).await;
    let text = seen(
        &mut echoes,
        r#"{"pin":123456,"text":"123456","longer":91234560}"#,
    );
    assert!(!text.contains("123456"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(
        json["pin"].is_number() && json["longer"].is_number(),
        "{text}"
    );
    let digits = json["text"].as_str().unwrap();
    assert_eq!(put_back(&echoes, digits), "123456");
}

#[tokio::test]
async fn a_value_that_is_passed_on_is_what_the_issuer_sent_with_its_restrictions() {
    let mut echoes = sent(&["old \"value\"", "other-value"]).await;
    let json = seen(
        &mut echoes,
        r#"{"same":"old \"value\"","longer":"old \u0022value\u0022-2","two":"other-value/old \"value\""}"#,
    );
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    for (member, expected, names) in [
        ("same", "old \"value\"", vec!["s0"]),
        ("longer", "old \"value\"-2", vec!["s0"]),
        ("two", "other-value/old \"value\"", vec!["s0", "s1"]),
    ] {
        let text = json[member].as_str().unwrap();
        for value in [
            Value::Text(text.to_owned()),
            Value::Bytes(text.as_bytes().to_vec()),
        ] {
            let value = echoes.put_back(value).unwrap();
            assert_eq!(value.expose(), expected.as_bytes());
            let lineage = value.secret().unwrap().lineage().clone();
            assert_eq!(lineage.names().iter().collect::<Vec<_>>(), names);
            assert!(!lineage.revealable() && lineage.reach().allows(&issuer()));
        }
    }
    let plain = Value::Text("nothing in it".to_owned());
    assert!(echoes.put_back(plain).unwrap().secret().is_none());
}

#[tokio::test]
async fn what_was_computed_stays_so_in_an_answer() {
    let call = call(&["value-1"]);
    let secret = call.open("s0").await.unwrap();
    let digest = call.digest("MD5", Value::Secret(secret)).unwrap();
    let hex = data_encoding::HEXLOWER.encode(digest.expose());
    let mut echoes = Echoes::default();
    echoes.note_sent(&digest).unwrap();
    let text = seen(&mut echoes, format!("<{hex}>"));
    let value = echoes.put_back(Value::Text(text)).unwrap();
    assert_eq!(value.expose(), format!("<{hex}>").as_bytes());
    assert!(value.secret().unwrap().lineage().is_computed());
}

#[tokio::test]
async fn a_token_is_published_as_the_issuer_made_it_only_if_the_issuer_called_it_one() {
    for (body, token, published) in [
        (
            r#"{"access_token":"for-value-1"}"#,
            "access_token",
            Some("for-value-1"),
        ),
        (
            r#"{"id_token":"x.value-1.y"}"#,
            "id_token",
            Some("x.value-1.y"),
        ),
        (r#"{"access_token":"value-1"}"#, "access_token", None),
        (r#"{"data":[{"accessToken":"for-value-1"}]}"#, "", None),
        (r#"{"echo":"for-value-1"}"#, "echo", None),
    ] {
        let mut echoes = sent(&["value-1"]).await;
        let marked = seen(&mut echoes, body);
        let json: serde_json::Value = serde_json::from_str(&marked).unwrap();
        // A plugin that returns all it has seen as a token.
        let text = json[token].as_str().unwrap_or(&marked);
        assert_eq!(echoes.published(text).ok().as_deref(), published, "{body}");
        assert!(echoes.published(&format!("x{text}")).is_err());
        assert!(echoes.shown(text).is_err());
    }
    let mut echoes = sent(&["value-1"]).await;
    let form = seen(&mut echoes, "access_token=value-1-0&token_type=bearer");
    let token = form_urlencoded::parse(form.as_bytes()).next().unwrap().1;
    assert_eq!(echoes.published(&token).unwrap(), "value-1-0");
    assert_eq!(
        echoes.published("no marker in it").unwrap(),
        "no marker in it"
    );
}

/// Published unchanged although it contains a secret.
fn assert_is_published(echoes: &mut Echoes, token: &str) {
    let marked = seen(echoes, format!(r#"{{"access_token":"{token}"}}"#));
    let json: serde_json::Value = serde_json::from_str(&marked).unwrap();
    let text = json["access_token"].as_str().unwrap();
    assert!(echoes.has_marker(text), "{text}");
    assert_eq!(echoes.published(text).unwrap(), token);
}

#[tokio::test]
async fn a_token_with_the_claims_of_the_refresh_token_before_it_is_the_issuers() {
    let jwt = |id: &str| {
        let claims =
            BASE64URL_NOPAD.encode(format!(r#"{{"azp":"client-1","jti":"{id}"}}"#).as_bytes());
        format!("e30.{claims}.c2ln")
    };
    let mut echoes = sent(&["client-1", &jwt("1")]).await;
    assert_is_published(&mut echoes, &jwt("2"));
}

#[tokio::test]
async fn what_is_published_keeps_its_case() {
    for token in ["00BEEF11", "x-62656566-62656546"] {
        assert_is_published(&mut sent(&["beef"]).await, token);
    }
}

#[tokio::test]
async fn a_call_sends_a_bounded_number_of_secrets_and_marks_any_number_of_places() {
    let values: Vec<_> = (0..=MAX_SENT)
        .map(|index| format!("value-{index:03}"))
        .collect();
    let values: Vec<_> = values.iter().map(String::as_str).collect();
    let call = call(&values);
    let mut echoes = Echoes::default();
    for index in 0..MAX_SENT {
        let secret = call.open(&format!("s{index}")).await.unwrap();
        echoes.note_sent(&secret).unwrap();
        echoes
            .note_sent(&call.open(&format!("s{index}")).await.unwrap())
            .unwrap();
    }
    let last = call.open(&format!("s{MAX_SENT}")).await.unwrap();
    let failure = echoes.note_sent(&last).unwrap_err();
    assert_eq!(failure.code(), Some("secret.too-many"));
    let text = seen(&mut echoes, "value-000 ".repeat(2 * MAX_MARKERS));
    assert!(!text.contains("value"), "{text}");
    assert_eq!(text.matches(PREFIX).count(), MAX_MARKERS);
    assert_eq!(text.matches(WITHHELD).count(), MAX_MARKERS);
}

#[tokio::test]
async fn only_a_failure_in_which_the_other_side_had_a_word_is_marked() {
    let mut echoes = sent(&["value-1"]).await;
    for (kind, is_marked) in [
        (FailureKind::Unavailable, true),
        (FailureKind::InvalidConfig, false),
        (FailureKind::Internal, false),
    ] {
        let failure = Failure::new(kind, "http.protocol", "it says value-1".to_owned());
        let marked = echoes.marked_failure(&issuer(), failure);
        assert_eq!(echoes.has_marker(&marked.message), is_marked);
    }
}

proptest! {
    #[test]
    fn no_text_breaks_the_search_and_all_of_it_is_put_back(
        secret in "[ -~é]{4,12}",
        before in "[ -~é%\\\\&+;#u0-9]{0,20}",
        after in "[ -~é%\\\\&+;#u0-9]{0,20}",
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut echoes = runtime.block_on(sent(&[&secret]));
        let text = format!("{before}{secret}{after}");
        let marked = seen(&mut echoes, &text);
        prop_assert!(!marked.contains(&secret));
        prop_assert!(echoes.has_marker(&marked));
        if !text.contains(['%', '\\', '&', '+']) {
            prop_assert_eq!(put_back(&echoes, &marked), text);
        }
    }
}

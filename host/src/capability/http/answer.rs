//! Secrets in an answer that must not appear in a log: plugins read answers, and a careless one may log them.

use evertoken_answer::{Content, Members};
use serde_json::Value;

use super::response::Response;
use crate::names::{is_telling, looks_like_jwt};

/// Passes the strings in an answer to `found` that are secrets by their name or their form.
pub(in crate::capability) fn secrets_in(response: &Response, found: &mut dyn FnMut(&str)) {
    for (name, value) in &response.headers {
        collect(name, value, found);
    }
    // Read as plugins read it, so that what a plugin may log is found.
    let content = evertoken_answer::read(None, &response.body);
    match &content {
        Content::Members(members) => collect_members(members, found),
        Content::Json(json) if !json.is_string() => collect_json("", json, found),
        _ => {}
    }
    if matches!(&content, Content::Members(members) if members.has_both_tokens()) {
        return;
    }
    match evertoken_answer::read_wrapped(None, &response.body) {
        same if same == content
            && !matches!(same, Content::Html | Content::Form(_) | Content::Other) => {}
        Content::Members(members) | Content::Form(members) => collect_members(&members, found),
        _ => {
            let text = evertoken_answer::decoded(&response.body);
            for (name, value) in form_urlencoded::parse(text.as_bytes()) {
                collect(&name, &value, found);
            }
        }
    }
}

fn collect_members(members: &Members, found: &mut dyn FnMut(&str)) {
    for (name, member) in &members.members {
        collect_json(name, member, found);
    }
}

fn collect_json(name: &str, json: &Value, found: &mut dyn FnMut(&str)) {
    match json {
        Value::String(text) => collect(name, text, found),
        Value::Array(items) => {
            for item in items {
                collect_json(name, item, found);
            }
        }
        Value::Object(members) => {
            for (inner, member) in members {
                // An object may describe a token, named by the member that holds the object.
                let name = if inner == "value" { name } else { inner };
                collect_json(name, member, found);
            }
        }
        _ => {}
    }
}

fn collect(name: &str, value: &str, found: &mut dyn FnMut(&str)) {
    if is_telling(name) || looks_like_jwt(value) {
        found(value);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::capability::scrub::Scrubber;
    use crate::model::time::Timestamp;

    fn answer(body: &str) -> Response {
        Response {
            status: 200,
            headers: vec![
                ("content-type".to_owned(), "application/json".to_owned()),
                ("x-subject-token".to_owned(), "subject".to_owned()),
            ],
            body: body.as_bytes().to_vec(),
            sent_at: Timestamp(0),
        }
    }

    fn found(body: &str) -> Vec<String> {
        let mut found = Vec::new();
        secrets_in(&answer(body), &mut |secret| found.push(secret.to_owned()));
        found
    }

    #[test]
    fn tokens_in_answers_are_found_by_name_and_look() {
        for (body, expected) in [
            (
                r#"{"access_token":"a-1","token_type":"Bearer","expires_in":300,"refresh_token":"r-1","scope":"read"}"#,
                vec!["subject", "a-1", "r-1"],
            ),
            (
                r#"{"Credentials":{"AccessKeyId":"AKIA","SecretAccessKey":"sak","SessionToken":"st","Expiration":"2026"}}"#,
                vec!["subject", "AKIA", "sak", "st"],
            ),
            (
                r#"{"SecurityToken":"t-1","passphrase":"p-1","private":"k-1","Authorization":"b-1"}"#,
                vec!["subject", "b-1", "t-1", "p-1", "k-1"],
            ),
            (
                r#"{"token_endpoint":"https://idp.example.org/token","issuer":"https://idp.example.org"}"#,
                vec!["subject"],
            ),
            (
                r#"{"jwt":"eyJhbGciOiJub25lIn0.e30.sig"}"#,
                vec!["subject", "eyJhbGciOiJub25lIn0.e30.sig"],
            ),
            (
                "access_token=a%2B1&token_type=bearer",
                vec!["subject", "a+1"],
            ),
            ("<html>no</html>", vec!["subject"]),
            (
                r#"{"refresh_token":{"value":"r-1","expires_in":60},"access_token":["a-1"]}"#,
                vec!["subject", "a-1", "r-1"],
            ),
            (
                r#"{"statusCode":200,"body":"{\"access_token\":\"a-1\",\"refresh_token\":\"r-1\"}"}"#,
                vec!["subject", "a-1", "r-1"],
            ),
            (
                "<r><access_token>a-0123456789abcdef</access_token><refresh_token>r-0123456789abcdef</refresh_token></r>",
                vec!["subject", "a-0123456789abcdef", "r-0123456789abcdef"],
            ),
            (
                "<b>Warning</b>: line 5<br>{\"access_token\":\"a-1\",\"client_secret\":\"c-1\"}",
                vec!["subject", "a-1", "c-1"],
            ),
        ] {
            assert_eq!(found(body), expected, "{body}");
        }
    }

    /// Processor time of this thread, since other processes may load the machine.
    fn processor_time() -> Duration {
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::try_from(used).unwrap()
    }

    /// As many short tokens as fit into an answer, and a plugin that repeats them in a log line. Comparing each with all others would take
    /// minutes.
    #[test]
    fn an_answer_full_of_short_tokens_is_read_and_scrubbed_in_time_that_grows_with_it() {
        let tokens: Vec<String> = (0..50_000).map(|n| format!("t{n:06}")).collect();
        let text = tokens.join(" ");
        let body = serde_json::json!({"tokens": tokens}).to_string();
        let began = processor_time();
        let mut scrubber = Scrubber::default();
        secrets_in(&answer(&body), &mut |secret| {
            scrubber.add(secret.as_bytes())
        });
        for _ in 0..10 {
            let scrubbed = scrubber.scrub(&text);
            assert!(!scrubbed.contains("t000"), "{scrubbed}");
        }
        let took = processor_time().saturating_sub(began);
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

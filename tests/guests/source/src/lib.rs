//! A source plugin that misbehaves in the way that the `mode` in its configuration says.

mod burgle;
mod flood;

use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

wit_bindgen::generate!({ path: "../../../wit/v0.1", world: "token-source" });

use evertoken::plugin::http::{Body, Request};
use evertoken::plugin::secrets::{Encoding, Piece, Secret};
use evertoken::plugin::types::{Expiry, Failure, FailureKind, Token};
use evertoken::plugin::{clock, http, log, secrets, state};
use exports::evertoken::plugin::source::{Guest, Job};

struct Misbehaving;

export!(Misbehaving);

impl Guest for Misbehaving {
    fn acquire(job: Job) -> Result<Token, Failure> {
        let config: Value =
            serde_json::from_str(&job.config).map_err(|e| failed(&e.to_string()))?;
        match text(&config, "mode") {
            "good" => Ok(token("a-good-token".to_owned())),
            "job" => Ok(token(format!(
                "{} {} {:?}",
                job.name, job.attempt, job.previous_expires_at
            ))),
            "fail" => Err(denied(text(&config, "message"))),
            "fail-as" => Err(Failure {
                kind: match text(&config, "kind") {
                    "unavailable" => FailureKind::Unavailable,
                    _ => FailureKind::Denied,
                },
                code: Some(text(&config, "code").to_owned()),
                ..denied("in the words of the host")
            }),
            "spin" => spin(),
            "park" => park(),
            "allocate" => allocate(&config),
            "allocate-slowly" => allocate_slowly(),
            "fill-memory" => fill_memory(),
            "recurse" => Ok(token(recurse(1).to_string())),
            "panic" => panic!(
                "boom, and the secret is {}",
                revealed(text(&config, "secret"))?
            ),
            "exit" => std::process::exit(3),
            "flood" => flood::without_end(&config),
            "flood-log" => flood_log(),
            "flood-stderr" => flood_stderr(),
            "long-log-line" => long_log_line(),
            "many-requests" => many_requests(text(&config, "url")),
            "one-request" => one_request(text(&config, "url")),
            "watch-clocks" => Ok(token(smallest_steps())),
            "burgle" => Ok(token(burgle::everything(&config))),
            "open-secret" => open_secret(text(&config, "secret")),
            "read-secret" => revealed(text(&config, "secret")).map(token),
            "hoard-handles" => hoard_handles(text(&config, "secret")),
            "lend-handles" => lend_handles(text(&config, "secret")),
            "huge-token" => Ok(token("t".repeat(16 << 20))),
            "huge-argument" => huge_argument(),
            "huge-state" => huge_state(),
            "garbage-expiry" => Ok(Token {
                expiry: Expiry::At(0),
                ..token("expired".to_owned())
            }),
            "state" => remember(),
            "leave-marks" => leave_marks(),
            "leave-marks-and-trap" => {
                leave_marks()?;
                std::process::abort()
            }
            "find-marks" => Ok(token(find_marks().to_string())),
            "leave-and-find-marks" => {
                leave_marks()?;
                Ok(token(find_marks().to_string()))
            }
            other => Err(failed(&format!("no such mode: `{other}`"))),
        }
    }
}

fn spin() -> Result<Token, Failure> {
    loop {
        std::hint::black_box(0);
    }
}

/// The smallest steps in nanoseconds that the monotonic and the wall clock make in some milliseconds.
fn smallest_steps() -> String {
    let began = Instant::now();
    let monotonic = smallest_step(|| began.elapsed());
    let wall = smallest_step(|| SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default());
    format!("{} {}", monotonic.as_nanos(), wall.as_nanos())
}

fn smallest_step(now: impl Fn() -> Duration) -> Duration {
    let (mut before, mut smallest) = (now(), Duration::MAX);
    for _ in 0..5 {
        let next = loop {
            let next = now();
            if next != before {
                break next;
            }
        };
        smallest = smallest.min(next.saturating_sub(before));
        before = next;
    }
    smallest
}

/// Waits in a host call: the guest itself does not run.
fn park() -> Result<Token, Failure> {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn allocate(config: &Value) -> Result<Token, Failure> {
    let mib = config.get("mib").and_then(Value::as_u64);
    let bytes = mib.and_then(|mib| usize::try_from(mib << 20).ok());
    let bytes = bytes.ok_or_else(|| failed("`mib` must say how much"))?;
    let bytes = std::hint::black_box(vec![1_u8; bytes]);
    Ok(token(bytes.len().to_string()))
}

fn allocate_slowly() -> Result<Token, Failure> {
    let mut kept = Vec::new();
    loop {
        kept.push(std::hint::black_box(vec![1_u8; 1 << 16]));
    }
}

/// Fills and copies most of what it may have, again and again.
fn fill_memory() -> Result<Token, Failure> {
    let mut bytes = vec![0_u8; 48 << 20];
    loop {
        bytes.fill(std::hint::black_box(1));
        bytes.copy_within(1.., 0);
        std::hint::black_box(&bytes);
    }
}

#[allow(unconditional_recursion, reason = "that is the point")]
fn recurse(depth: u64) -> u64 {
    // Little of the stack that the language keeps in memory, so that WebAssembly's own ends first.
    std::hint::black_box(recurse(depth + 1)) + depth
}

fn flood_log() -> Result<Token, Failure> {
    for line in 0..100_000 {
        log::log(log::Level::Warn, &format!("line {line}"));
    }
    Ok(token("flooded".to_owned()))
}

fn long_log_line() -> Result<Token, Failure> {
    log::log(log::Level::Warn, &"long ".repeat(100_000));
    Ok(token("logged".to_owned()))
}

fn flood_stderr() -> Result<Token, Failure> {
    for line in 0..100_000 {
        eprintln!("line {line}");
    }
    Ok(token("flooded".to_owned()))
}

fn many_requests(url: &str) -> Result<Token, Failure> {
    let mut last = Ok(token("all answered".to_owned()));
    for _ in 0..100 {
        if let Err(failure) = http::send(&request(url)) {
            last = Err(failure);
        }
    }
    last
}

fn one_request(url: &str) -> Result<Token, Failure> {
    http::send(&request(url)).map(|response| token(response.status.to_string()))
}

fn open_secret(name: &str) -> Result<Token, Failure> {
    secrets::open(name).map(|_| token("opened".to_owned()))
}

fn revealed(name: &str) -> Result<String, Failure> {
    let bytes = secrets::open(name)?.reveal()?;
    String::from_utf8(bytes).map_err(|e| failed(&e.to_string()))
}

fn hoard_handles(name: &str) -> Result<Token, Failure> {
    let mut kept: Vec<Secret> = Vec::new();
    loop {
        kept.push(secrets::open(name)?);
    }
}

/// Lends one handle more often than a call may have handles.
fn lend_handles(name: &str) -> Result<Token, Failure> {
    let secret = secrets::open(name)?;
    let pieces: Vec<Piece> = (0..2000)
        .map(|_| Piece::Secret((&secret, Encoding::Raw)))
        .collect();
    secrets::join(&pieces).map(|_| token("joined".to_owned()))
}

fn huge_argument() -> Result<Token, Failure> {
    log::log(log::Level::Warn, &"x".repeat(32 << 20));
    Ok(token("passed".to_owned()))
}

fn huge_state() -> Result<Token, Failure> {
    state::set("huge", &vec![0_u8; 1 << 20]).map(|()| token("kept".to_owned()))
}

fn remember() -> Result<Token, Failure> {
    let seen = state::get("seen")?.unwrap_or_default();
    state::set("seen", b"yes")?;
    Ok(Token {
        expiry: Expiry::At(clock::now() + 60_000),
        ..token(if seen == b"yes" { "again" } else { "first" }.to_owned())
    })
}

/// A page of a pattern that is in no program's data.
type Mark = [u8; 4096];

const MARK: Mark = [0xA7; 4096];

/// Leaves marks all over the memory: far beyond the bytes that a host might clear by hand, where it ends after growing, and on the stack.
fn leave_marks() -> Result<Token, Failure> {
    let on_the_stack = std::hint::black_box([MARK; 16]);
    for _ in 0..4 {
        std::mem::forget(std::hint::black_box(vec![MARK; 512]));
    }
    Ok(token(on_the_stack.len().to_string()))
}

/// How many marks are in the memory, all of it, and in as much as it can grow by 16 MiB.
fn find_marks() -> usize {
    core::arch::wasm32::memory_grow::<0>(256);
    let bytes = core::arch::wasm32::memory_size::<0>() << 16;
    let address = std::hint::black_box(4096_usize);
    // SAFETY: linear memory is readable from its beginning to its end, and nothing writes to it while this looks.
    let memory = unsafe { std::slice::from_raw_parts(address as *const u8, bytes - address) };
    memory
        .chunks_exact(64)
        .filter(|piece| **piece == MARK[..64])
        .count()
        / 64
}

fn request(url: &str) -> Request<'_> {
    Request {
        method: "GET".to_owned(),
        url: url.to_owned(),
        query: Vec::new(),
        headers: Vec::new(),
        body: Body::Empty,
    }
}

fn token(value: String) -> Token {
    Token {
        value,
        token_type: "Bearer".to_owned(),
        expiry: Expiry::Unknown,
        fields: Vec::new(),
    }
}

fn text<'a>(config: &'a Value, key: &str) -> &'a str {
    config.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn failed(message: &str) -> Failure {
    Failure {
        kind: FailureKind::Internal,
        code: None,
        message: message.to_owned(),
        retry_after_ms: None,
    }
}

fn denied(message: &str) -> Failure {
    Failure {
        kind: FailureKind::Denied,
        code: Some("invalid_grant".to_owned()),
        message: message.to_owned(),
        retry_after_ms: Some(7_000),
    }
}

//! Real components against the real host: the functions of honest plugins, and the limits of each kind of misbehaviour.

mod guests;
mod lateness;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use data_encoding::HEXLOWER;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::capability::testing::{Fixture, Server};
use crate::model::defaults::plugin_limits;
use crate::model::failure::FailureKind;
use crate::model::token::Expiry;
use guests::{built_in_process, component, file, guest, logged};

/// Allowance for a busy machine.
const SLACK: Duration = Duration::from_secs(2);

const SECRET: &str = "a-secret-that-nobody-may-see";

struct Bench {
    plugins: Plugins,
    fixture: Fixture,
}

impl Bench {
    fn new() -> Self {
        Self::with_limits(plugin_limits())
    }

    fn with_limits(limits: PluginLimits) -> Self {
        let files = BTreeMap::from([
            ("misbehaving".to_owned(), guest("guest_source")),
            ("formatting".to_owned(), guest("guest_formatter")),
        ]);
        let mut fixture = Fixture::new();
        fixture.limits = limits.clone();
        fixture.job.source.plugin = "misbehaving".to_owned();
        fixture.job.source.timeout = Duration::from_secs(20);
        fixture.secret("mine", SECRET);
        Self {
            plugins: Plugins::new(&files, limits, guests::cache()).unwrap(),
            fixture,
        }
    }

    async fn acquire(&mut self, config: Value) -> Result<Token, Failure> {
        self.fixture.job.source.config = config;
        let call = self.fixture.holding_call().await;
        acquire(&self.plugins, &self.fixture.job, &call, 0, None)
            .await
            .map_err(|unsuccessful| unsuccessful.failure().clone())
    }

    async fn format(&self, config: Value) -> Result<Vec<Artifact>, Failure> {
        self.plugins
            .format("formatting", &[named(SECRET)], &config)
            .await
    }
}

/// One call of the job's source, whose plugin is looked up before as the runner does.
async fn acquire(
    plugins: &Plugins,
    job: &Job,
    call: &Call,
    attempt: u32,
    previous_expires_at: Option<Timestamp>,
) -> Result<Token, Unsuccessful> {
    let _ = plugins.prepare(&job.source.plugin).await;
    let source = plugins.source(&job.source.plugin).await;
    let source = source.map_err(Unsuccessful::Broke)?;
    source
        .acquire(job, call, attempt, previous_expires_at)
        .await
}

fn named(value: &str) -> NamedToken {
    NamedToken {
        job: "warehouse".to_owned(),
        token: Token {
            value: SecretString::from(value),
            token_type: "Bearer".to_owned(),
            expiry: Expiry::Unknown,
            fields: Vec::new(),
        },
    }
}

fn value(token: &Token) -> &str {
    token.value.expose_secret()
}

fn code(failure: &Failure) -> &str {
    failure.code().unwrap_or_default()
}

fn file_named(path: &Path) -> BTreeMap<String, PluginFile> {
    BTreeMap::from([("acme".to_owned(), file(path))])
}

#[tokio::test]
async fn a_source_gets_the_job_and_the_host_gets_the_token() {
    let mut bench = Bench::new();
    let token = bench.acquire(json!({"mode": "good"})).await.unwrap();
    assert_eq!(value(&token), "a-good-token");
    assert_eq!(
        (token.token_type.as_str(), token.expiry),
        ("Bearer", Expiry::Unknown)
    );

    bench.fixture.job.source.config = json!({"mode": "job"});
    let call = bench.fixture.call();
    let (job, expiry) = (&bench.fixture.job, Some(Timestamp(42)));
    let token = acquire(&bench.plugins, job, &call, 3, expiry)
        .await
        .unwrap();
    assert_eq!(
        value(&token),
        format!("{} 3 Some(42)", bench.fixture.job.id.name)
    );
}

#[tokio::test]
async fn each_call_has_an_instance_of_its_own_and_shares_only_the_jobs_state() {
    let mut bench = Bench::new();
    assert_eq!(
        value(&bench.acquire(json!({"mode": "state"})).await.unwrap()),
        "first"
    );
    assert_eq!(
        value(&bench.acquire(json!({"mode": "state"})).await.unwrap()),
        "again"
    );
}

#[tokio::test]
async fn nothing_in_a_calls_memory_is_seen_by_the_next_call() {
    let mut bench = Bench::new();
    let found = bench.acquire(json!({"mode": "leave-and-find-marks"})).await;
    let found: usize = value(&found.unwrap()).parse().unwrap();
    assert!(found > 2000, "{found}");
    for leaving in [
        "leave-marks",
        "leave-marks-and-trap",
        "leave-and-find-marks",
    ] {
        let left = bench.acquire(json!({"mode": leaving})).await;
        assert_eq!(left.is_err(), leaving.ends_with("trap"));
        let found = bench.acquire(json!({"mode": "find-marks"})).await.unwrap();
        assert_eq!(value(&found), "0", "after {leaving}");
    }
}

#[tokio::test]
async fn calls_that_wait_keep_no_other_from_running_and_a_call_has_the_memory_that_it_may_use() {
    let mut bench = Bench::new();
    bench.fixture.job.source.config = json!({"mode": "park"});
    let parked: Vec<_> = (0..16)
        .map(|_| {
            let (plugins, job) = (bench.plugins.clone(), bench.fixture.job.clone());
            let call = bench.fixture.call();
            tokio::spawn(async move { acquire(&plugins, &job, &call, 0, None).await })
        })
        .collect();
    while bench.plugins.0.ticker.calls_in_flight() < parked.len() {
        tokio::task::yield_now().await;
    }
    let token = bench.acquire(json!({"mode": "good"})).await.unwrap();
    assert_eq!(value(&token), "a-good-token");
    parked.iter().for_each(tokio::task::JoinHandle::abort);

    let mut large = plugin_limits();
    large.memory_bytes = 3 << 26;
    let mut bench = Bench::with_limits(large);
    let found = bench.acquire(json!({"mode": "allocate", "mib": 100})).await;
    assert_eq!(value(&found.unwrap()), (100 << 20).to_string());
}

#[tokio::test]
async fn a_plugins_own_failure_is_handed_on_without_secrets() {
    let mut bench = Bench::new();
    let failure = bench
        .acquire(json!({"mode": "fail", "message": "the issuer said no"}))
        .await
        .unwrap_err();
    assert_eq!(
        (
            failure.kind,
            code(&failure),
            failure.message.as_str(),
            failure.retry_after
        ),
        (
            FailureKind::Denied,
            "invalid_grant",
            "the issuer said no",
            Some(Duration::from_secs(7))
        )
    );
}

#[tokio::test]
async fn each_limit_stops_the_guest_with_its_own_error_in_time() {
    let mut bench = Bench::new();
    bench.fixture.job.source.reveal.insert("mine".to_owned());
    for (config, timeout_ms, kind, expected, part) in [
        (
            json!({"mode": "spin"}),
            300,
            FailureKind::Internal,
            "plugin.timeout",
            "ran for 0.3 s without coming to an end",
        ),
        (
            json!({"mode": "park"}),
            300,
            FailureKind::Unavailable,
            "plugin.idle",
            "waited until its 0.3 s were over and sent no request",
        ),
        (
            json!({"mode": "allocate", "mib": 1024}),
            5000,
            FailureKind::Internal,
            "plugin.out-of-memory",
            "may have 67108864",
        ),
        (
            json!({"mode": "allocate-slowly"}),
            5000,
            FailureKind::Internal,
            "plugin.out-of-memory",
            "`limits.plugin.memory` is the limit",
        ),
        (
            json!({"mode": "recurse"}),
            5000,
            FailureKind::Internal,
            "plugin.trap",
            "call stack exhausted",
        ),
        (
            json!({"mode": "panic", "secret": "mine"}),
            5000,
            FailureKind::Internal,
            "plugin.trap",
            "boom, and the secret is [redacted]",
        ),
        (
            json!({"mode": "exit"}),
            5000,
            FailureKind::Internal,
            "plugin.exit",
            "ended its process instead of returning",
        ),
        (
            json!({"mode": "huge-argument"}),
            5000,
            FailureKind::Internal,
            "plugin.too-much-data",
            "bytes to the host at once",
        ),
        (
            json!({"mode": "huge-token"}),
            5000,
            FailureKind::Internal,
            "plugin.too-much-data",
            "bytes to the host at once",
        ),
        (
            json!({"mode": "hoard-handles", "secret": "mine"}),
            5000,
            FailureKind::Internal,
            "secret.too-many",
            "more than 256 secrets",
        ),
        (
            json!({"mode": "lend-handles", "secret": "mine"}),
            5000,
            FailureKind::Internal,
            "plugin.too-many-handles",
            "more than 1024 handles",
        ),
        (
            json!({"mode": "huge-state"}),
            5000,
            FailureKind::Internal,
            "state.too-large",
            "keeps too much",
        ),
    ] {
        bench.fixture.job.source.timeout = Duration::from_millis(timeout_ms);
        // Loaded before, so that only the call is measured.
        bench.plugins.prepare("misbehaving").await.unwrap();
        let began = Instant::now();
        let failure = bench.acquire(config.clone()).await.unwrap_err();
        assert_eq!(
            (failure.kind, code(&failure)),
            (kind, expected),
            "{config}: {failure}"
        );
        assert!(failure.message.contains(part), "{config}: {failure}");
        assert!(!failure.message.contains(SECRET), "{config}: {failure}");
        assert!(
            began.elapsed() < Duration::from_millis(timeout_ms) + SLACK,
            "{config} took {:?}",
            began.elapsed()
        );
    }
}

/// The real host, an issuer that repeats what it receives, and every known attack.
#[tokio::test]
async fn a_guest_that_tries_everything_gets_no_secret() {
    let key = r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let private = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
    let modulus = BASE64URL_NOPAD.encode(&[0xc1; 256]);
    let pin = "4938170265";
    let server = Server::echoing().await;
    let mut bench = Bench::new();
    bench.fixture.endpoints = vec![server.origin()];
    bench.fixture.limits.requests = 100;
    for (name, value) in [("pin", pin), ("key", key), ("modulus", &modulus)] {
        bench.fixture.secret(name, value);
    }
    let rotating = "one-refresh-token-of-the-issuers";
    bench.fixture.secret("rt", rotating).rotating = true;
    let config = json!({
        "mode": "burgle",
        "url": server.url("/echo"),
        "secrets": ["mine", "pin", "key", "modulus"],
        "rotating": "rt",
    });
    let (token, log) = logged(bench.acquire(config)).await;
    let token = token.unwrap();
    let loot = value(&token);
    // It got as far as it could.
    assert!(
        loot.contains("echo: ([(") && loot.contains("secret-"),
        "{loot}"
    );
    assert!(
        loot.contains("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"),
        "{loot}"
    );
    assert_eq!(loot.matches("replaced: ()").count(), 4, "{loot}");
    assert_eq!(loot.matches("opened again: no").count(), 28, "{loot}");
    for secret in [SECRET, pin, key, private, &modulus, rotating] {
        for bytes in [
            secret.as_bytes(),
            Sha256::digest(secret.as_bytes()).as_slice(),
        ] {
            let decimal = bytes
                .iter()
                .map(u8::to_string)
                .collect::<Vec<_>>()
                .join(", ");
            for spelled in [
                String::from_utf8_lossy(bytes).into_owned(),
                HEXLOWER.encode(bytes),
                BASE64URL_NOPAD.encode(bytes),
                decimal,
            ] {
                assert!(!loot.contains(&spelled), "{spelled} in {loot}");
                assert!(!log.contains(&spelled), "{spelled} in {log}");
            }
        }
    }
}

#[tokio::test]
async fn the_clocks_of_guests_show_milliseconds() {
    let token = Bench::new().acquire(json!({"mode": "watch-clocks"})).await;
    let token = token.unwrap();
    for step in value(&token).split(' ') {
        let nanoseconds: u64 = step.parse().unwrap();
        assert!(nanoseconds > 0, "{step}");
        assert_eq!(nanoseconds % 1_000_000, 0, "{step}");
    }
}

#[tokio::test]
async fn what_is_not_the_jobs_own_is_refused_by_name() {
    let mut bench = Bench::new();
    for (config, expected, part) in [
        (
            json!({"mode": "open-secret", "secret": "somebody-elses"}),
            "secret.not-listed",
            "`somebody-elses`",
        ),
        (
            json!({"mode": "read-secret", "secret": "mine"}),
            "secret.not-revealed",
            "mine",
        ),
        (
            json!({"mode": "one-request", "url": "https://idp.test/token"}),
            "http.origin-denied",
            "https://idp.test",
        ),
    ] {
        let failure = bench.acquire(config.clone()).await.unwrap_err();
        assert_eq!(code(&failure), expected, "{config}: {failure}");
        assert!(failure.message.contains(part), "{config}: {failure}");
        assert!(!failure.message.contains(SECRET), "{config}: {failure}");
    }
}

#[tokio::test]
async fn the_seventeenth_request_of_a_call_is_refused() {
    let mut bench = Bench::new();
    let failure = bench
        .acquire(json!({"mode": "many-requests", "url": "https://idp.test/token"}))
        .await
        .unwrap_err();
    assert_eq!(code(&failure), "http.too-many-requests", "{failure}");
    assert!(
        failure.message.contains("more than 16 requests"),
        "{failure}"
    );
}

#[tokio::test]
async fn a_flood_of_log_lines_is_cut_with_one_warning() {
    let (result, log) = logged(async {
        let mut bench = Bench::new();
        bench.acquire(json!({"mode": "flood-log"})).await
    })
    .await;
    assert_eq!(value(&result.unwrap()), "flooded");
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("evertoken::plugin: "))
        .collect();
    assert_eq!(lines.len(), 101);
    assert!(lines[99].contains("line 99"), "{}", lines[99]);
    assert!(
        lines[100].contains("more than 100 lines in one call; the rest is dropped"),
        "{}",
        lines[100]
    );
}

#[tokio::test]
async fn a_formatters_flood_of_log_lines_is_cut_too() {
    let (result, log) =
        logged(async { Bench::new().format(json!({"mode": "flood-log"})).await }).await;
    assert!(result.is_ok());
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("evertoken::plugin: "))
        .collect();
    assert_eq!(lines.len(), 101);
    assert!(
        lines[100].contains("more than 100 lines in one call; the rest is dropped"),
        "{}",
        lines[100]
    );
}

#[tokio::test]
async fn a_long_log_line_is_cut() {
    let (result, log) = logged(async {
        let mut bench = Bench::new();
        bench.acquire(json!({"mode": "long-log-line"})).await
    })
    .await;
    assert!(result.is_ok());
    let line = log.lines().find(|line| line.contains("long long")).unwrap();
    assert!(line.len() < 6000, "{}", line.len());
}

#[tokio::test]
async fn a_flood_on_standard_error_stays_in_bounds() {
    let mut bench = Bench::new();
    if let Err(failure) = bench.acquire(json!({"mode": "flood-stderr"})).await {
        assert_eq!(code(&failure), "plugin.trap", "{failure}");
        assert!(failure.message.len() < 6000, "{}", failure.message.len());
    }
}

#[tokio::test]
async fn a_spinning_guest_does_not_hold_up_others() {
    let mut spinning = Bench::new();
    spinning.fixture.job.source.timeout = Duration::from_secs(3);
    spinning.plugins.prepare("misbehaving").await.unwrap();
    let mut good = Bench::new();
    good.plugins = spinning.plugins.clone();
    let began = Instant::now();
    // One thread for both: the plugin in a loop must yield it.
    let (spun, done_after) = tokio::join!(spinning.acquire(json!({"mode": "spin"})), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        good.acquire(json!({"mode": "good"})).await.unwrap();
        began.elapsed()
    });
    assert_eq!(code(&spun.unwrap_err()), "plugin.timeout");
    assert!(done_after < Duration::from_secs(2), "{done_after:?}");
}

#[tokio::test]
async fn guests_that_wait_for_their_turn_are_not_taken_for_ones_that_wait_for_an_answer() {
    let mut bench = Bench::new();
    bench.fixture.job.source.config = json!({"mode": "spin"});
    bench.fixture.job.source.timeout = Duration::from_millis(500);
    bench.plugins.prepare("misbehaving").await.unwrap();
    let mut spinning = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (plugins, job) = (bench.plugins.clone(), bench.fixture.job.clone());
        let call = bench.fixture.call();
        spinning.spawn(async move { acquire(&plugins, &job, &call, 0, None).await });
    }
    while let Some(ended) = spinning.join_next().await {
        let unsuccessful = ended.unwrap().unwrap_err();
        let failure = unsuccessful.failure();
        assert_eq!(failure.kind, FailureKind::Internal, "{failure}");
    }
}

#[tokio::test]
async fn compiling_does_not_count_against_the_calls_time() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::new();
    let files = BTreeMap::from([("misbehaving".to_owned(), guest("guest_source"))]);
    bench.plugins =
        Plugins::new(&files, plugin_limits(), built_in_process(directory.path())).unwrap();
    bench.fixture.job.source.timeout = Duration::from_millis(30);
    let began = Instant::now();
    bench.acquire(json!({"mode": "good"})).await.unwrap();
    assert!(
        began.elapsed() > bench.fixture.job.source.timeout,
        "compiling was too fast to show anything: {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_nothing_running() {
    let mut bench = Bench::new();
    bench.plugins.prepare("misbehaving").await.unwrap();
    let plugins = bench.plugins.clone();
    let given_up = tokio::time::timeout(
        Duration::from_millis(50),
        bench.acquire(json!({"mode": "park"})),
    );
    assert!(given_up.await.is_err());
    assert_eq!(plugins.0.ticker.calls_in_flight(), 0);
}

#[tokio::test]
async fn an_unknown_plugin_is_told_with_the_nearest_name() {
    let bench = Bench::new();
    let error = bench.plugins.info("oath2").await.unwrap_err();
    assert_eq!(error.code().as_str(), "plugin.not-found");
    assert!(
        error
            .to_string()
            .starts_with("there is no plugin `oath2`; did you mean `oauth2`?"),
        "{error}"
    );
}

#[tokio::test]
async fn another_digest_is_refused_until_the_right_file_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("acme.wasm");
    let right = guest("guest_source");
    std::fs::write(&path, b"\0asm but another").unwrap();
    let files = BTreeMap::from([(
        "acme".to_owned(),
        PluginFile {
            path: path.clone(),
            sha256: right.sha256,
        },
    )]);
    let mut bench = Bench::new();
    bench.plugins = Plugins::new(&files, plugin_limits(), guests::cache()).unwrap();
    bench.fixture.job.source.plugin = "acme".to_owned();

    let failure = bench.acquire(json!({"mode": "good"})).await.unwrap_err();
    assert_eq!(
        (failure.kind, code(&failure)),
        (FailureKind::InvalidConfig, "plugin.digest-mismatch")
    );
    assert!(
        failure.message.contains(&Digest(right.sha256).to_string()),
        "{failure}"
    );
    assert!(
        failure.message.contains("`plugins.acme.sha256`"),
        "{failure}"
    );
    let again = bench.acquire(json!({"mode": "good"})).await.unwrap_err();
    assert_eq!(again, failure);

    std::fs::remove_file(&path).unwrap();
    let missing = bench.acquire(json!({"mode": "good"})).await.unwrap_err();
    assert_eq!(code(&missing), "plugin.unreadable");
    assert!(missing.message.contains("does not exist"), "{missing}");

    std::fs::copy(&right.path, &path).unwrap();
    bench.acquire(json!({"mode": "good"})).await.unwrap();
}

#[tokio::test]
async fn a_plugin_of_the_other_world_is_refused_with_its_place() {
    let mut bench = Bench::new();
    bench.fixture.job.source.plugin = "formatting".to_owned();
    let failure = bench.acquire(json!({})).await.unwrap_err();
    assert_eq!(code(&failure), "plugin.wrong-world");
    assert!(
        failure
            .message
            .contains("is a formatter and cannot be used as a source"),
        "{failure}"
    );
    let failure = bench
        .plugins
        .format("misbehaving", &[named("x")], &json!({}))
        .await
        .unwrap_err();
    assert_eq!(code(&failure), "plugin.wrong-world");
    assert!(failure.message.contains("`source.plugin`"), "{failure}");
}

/// Standard libraries of languages import all of WASI, which is present and gives access to nothing.
#[tokio::test]
async fn a_plugin_finds_no_files_no_network_and_no_environment() {
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("there");
    std::fs::write(&there, "what is in a file").unwrap();
    let at = |path: &Path| path.display().to_string();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    let mut bench = Bench::new();
    let files = file_named(&guest("guest_ambient").path);
    bench.plugins = Plugins::new(&files, plugin_limits(), guests::cache()).unwrap();
    bench.fixture.job.source.plugin = "acme".to_owned();
    let mut found = async |what: &str, at: &str| bench.acquire(json!({"do": what, "at": at})).await;
    for (what, at) in [
        ("read", at(&there)),
        ("read", "/etc/passwd".to_owned()),
        ("read", "/proc/self/environ".to_owned()),
        ("read", "../../../../etc/passwd".to_owned()),
        ("write", at(&folder.path().join("new"))),
        ("list", "/".to_owned()),
        ("list", ".".to_owned()),
        ("connect", address.clone()),
        ("listen", "127.0.0.1:0".to_owned()),
        ("listen", "[::]:0".to_owned()),
        ("send", address),
        ("resolve", "localhost:80".to_owned()),
        ("resolve", "example.org:443".to_owned()),
    ] {
        let failure = found(what, &at).await.unwrap_err();
        assert_eq!(
            failure.kind,
            FailureKind::Internal,
            "{what} {at}: {failure}"
        );
        // The language's own library reports it, without a trap.
        assert_eq!(failure.code, None, "{what} {at}: {failure}");
    }
    let nothing = "0 variables, 0 arguments, 0 bytes of input";
    assert_eq!(value(&found("environment", "").await.unwrap()), nothing);
    let failure = found("throw", "acquire").await.unwrap_err();
    assert_eq!(code(&failure), "plugin.trap");
    let thrown = "TypeError: acquire is not a function";
    assert!(failure.message.contains(thrown), "{failure}");
    assert!(!folder.path().join("new").exists());
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err(), "nobody came");
}

#[tokio::test]
async fn components_that_do_not_fit_are_refused_before_they_run() {
    let directory = tempfile::tempdir().unwrap();
    for (body, expected, part) in [
        (
            r#"(instance $i) (export "evertoken:plugin/source@0.2.0" (instance $i))"#,
            "plugin.unknown-version",
            "upgrade evertoken",
        ),
        (
            r#"(import "wasi:http/outgoing-handler@0.2.0" (instance)) (instance $i) (export "evertoken:plugin/source@0.1.0" (instance $i))"#,
            "plugin.refused-import",
            "evertoken:plugin/http",
        ),
        // Inspection accepts it, the linker finds that the host's `log` has no such function.
        (
            r#"(import "evertoken:plugin/log@0.1.0" (instance (export "shout" (func)))) (instance $i) (export "evertoken:plugin/source@0.1.0" (instance $i))"#,
            "plugin.missing-import",
            "shout",
        ),
        // It has the interface, but not the function.
        (
            r#"(instance $i) (export "evertoken:plugin/source@0.1.0" (instance $i))"#,
            "plugin.missing-import",
            "acquire",
        ),
    ] {
        let path = directory.path().join("acme.wasm");
        std::fs::write(&path, component(body)).unwrap();
        let plugins = Plugins::new(&file_named(&path), plugin_limits(), guests::cache()).unwrap();
        let error = plugins.prepare("acme").await.unwrap_err();
        let failure = error.to_failure();
        assert_eq!(code(&failure), expected, "{failure}");
        assert!(failure.message.contains(part), "{failure}");
    }
}

#[tokio::test]
async fn a_formatters_artifacts_reach_the_host() {
    let bench = Bench::new();
    let artifacts = bench.format(json!({"mode": "good"})).await.unwrap();
    assert_eq!(artifacts.len(), 1);
    assert_eq!(artifacts[0].name, "");
    assert_eq!(artifacts[0].content.expose_secret(), SECRET.as_bytes());
    let artifacts = bench
        .format(json!({"mode": "named", "names": ["tls.key", "ca.crt"]}))
        .await
        .unwrap();
    assert_eq!(
        artifacts
            .iter()
            .map(|a| a.name.as_str())
            .collect::<Vec<_>>(),
        ["tls.key", "ca.crt"]
    );
}

#[tokio::test]
async fn a_formatter_is_stopped_and_its_artifacts_are_checked() {
    let bench = Bench::new();
    for (config, expected, part) in [
        (
            json!({"mode": "huge"}),
            "plugin.invalid-artifact",
            "`limits.plugin.artifact` is the limit",
        ),
        (
            json!({"mode": "many"}),
            "plugin.invalid-artifact",
            "1000 artifacts",
        ),
        (
            json!({"mode": "nothing"}),
            "plugin.invalid-artifact",
            "no artifact",
        ),
        (
            json!({"mode": "named", "names": ["../escape"]}),
            "plugin.invalid-artifact",
            "A-Za-z0-9._-",
        ),
        (
            json!({"mode": "named", "names": ["a", "a"]}),
            "plugin.invalid-artifact",
            "same name",
        ),
        (
            json!({"mode": "panic"}),
            "plugin.trap",
            "the token is [redacted]",
        ),
        (json!({"mode": "fail"}), "", "cannot format [redacted]"),
        (json!({"mode": "spin"}), "plugin.timeout", "ran for 5 s"),
    ] {
        let failure = bench.format(config.clone()).await.unwrap_err();
        assert_eq!(code(&failure), expected, "{config}: {failure}");
        assert!(failure.message.contains(part), "{config}: {failure}");
        assert!(!failure.message.contains(SECRET), "{config}: {failure}");
    }
}

#[tokio::test]
async fn a_formatters_log_lines_hold_no_token() {
    let (result, log) = logged(async { Bench::new().format(json!({"mode": "log"})).await }).await;
    assert!(result.is_ok());
    assert!(log.contains("the token is [redacted]"), "{log}");
    assert!(!log.contains(SECRET), "{log}");
}

#[tokio::test]
async fn the_built_in_dummy_and_template_work_together() {
    let mut bench = Bench::new();
    bench.fixture.job.source.plugin = "dummy".to_owned();
    let token = bench.acquire(json!({"prefix": "demo-"})).await.unwrap();
    let artifacts = bench
        .plugins
        .format(
            "template",
            &[NamedToken {
                job: "demo".to_owned(),
                token,
            }],
            &json!({"template": "oauth2:{{ token }}:auth.example.org/userinfo"}),
        )
        .await
        .unwrap();
    assert_eq!(
        artifacts[0].content.expose_secret(),
        b"oauth2:demo-1:auth.example.org/userinfo"
    );
}

#[tokio::test]
async fn the_endpoints_of_an_oauth2_job_are_its_token_url_alone() {
    let plugins = Plugins::new(&BTreeMap::new(), plugin_limits(), guests::cache()).unwrap();
    let config = json!({
        "grant": "client_credentials",
        "token_url": "https://idp.example.org/token",
        "client_id": "svc",
        "audience": "https://api.example.org",
    });
    let origins = plugins.endpoints("oauth2", &config).await.unwrap();
    assert_eq!(
        origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["https://idp.example.org"]
    );
    let mistakes = plugins
        .check_config("oauth2", PluginWorld::Source, &config)
        .await
        .unwrap();
    assert!(mistakes.is_empty(), "{mistakes:?}");
}

#[tokio::test]
async fn options_that_are_wrong_are_a_failure_of_their_own_that_quotes_nothing() {
    let plugins = Plugins::new(&BTreeMap::new(), plugin_limits(), guests::cache()).unwrap();
    let config = json!({"grant": "hunter2", "token_url": "https://hunter2:idp", "hunter2": 1});
    // The first time by judging, then from memory.
    for _ in 0..2 {
        let failure = plugins.endpoints("oauth2", &config).await.unwrap_err();
        assert_eq!(
            (failure.kind, failure.code()),
            (FailureKind::InvalidConfig, Some("plugin.invalid-config"))
        );
        let message = &failure.message;
        assert!(message.contains("`evertoken check`"), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
        assert_eq!(plugins.endpoints_at_hand("oauth2", &config), None);
        assert!(plugins.is_judged("oauth2", &config));
    }
}

#[tokio::test]
async fn the_list_has_built_in_and_configured_plugins() {
    let bench = Bench::new();
    let list = bench.plugins.list().await;
    let names: Vec<(&str, bool)> = list.iter().map(|l| (l.name.as_str(), l.built_in)).collect();
    assert_eq!(
        names,
        [
            ("dummy", true),
            ("formatting", false),
            ("mirror", true),
            ("misbehaving", false),
            ("oauth2", true),
            ("template", true)
        ]
    );
    assert!(list.iter().all(|listed| listed.info.is_ok()));
}

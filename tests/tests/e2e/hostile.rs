//! Every hostile plugin, schema and issuer beside an innocent job and a probe: no token of the innocent one dies, the probe is answered,
//! and the process ends when it is told to.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use evertoken_tests::client::Client;
use evertoken_tests::evertoken::{Evertoken, Finished};
use evertoken_tests::guests::guest;
use evertoken_tests::issuer::Issuer;
use evertoken_tests::reader::{PollReader, Sight};
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;
use evertoken_tests::workdir::free_port;
use rustix::process::Signal;
use serde_json::json;

use crate::guests::{entry, plugin};
use crate::scene::{PATIENCE, Scene, failure_in};

/// How long each token of the innocent job lives; it is renewed after half of it.
const LIFETIME: Duration = Duration::from_secs(4);

/// How long the hostile ones have.
const WATCHED: Duration = Duration::from_secs(10);

/// Within this time a probe is answered, and the process ends.
const PROBE: Duration = Duration::from_millis(100);
const END: Duration = Duration::from_secs(2);

/// How long the process waits for answers that may have the only successor of a rotating secret in them (deploy/threats.md).
const DRAIN: Duration = Duration::from_secs(20);

/// Each takes both cores: one at a time, so that a test measures its own guests.
static TURN: Mutex<()> = Mutex::new(());

fn unix_ms() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis()
}

/// An issuer whose tokens say when they die.
fn good_issuer() -> Issuer {
    let issuer = Issuer::start().unwrap();
    issuer.respond_with("/token", |_| {
        let token = format!("innocent.{}", unix_ms() + LIFETIME.as_millis());
        Behaviour::token(&token, LIFETIME.as_secs())
    });
    issuer
}

fn judge(content: &[u8]) -> Sight {
    let text = String::from_utf8_lossy(content);
    let expiry = text
        .strip_prefix("innocent.")
        .and_then(|at| at.parse::<u128>().ok());
    match expiry {
        None => Sight::Partial,
        Some(at) if at < unix_ms() => Sight::Expired,
        Some(_) => Sight::Good,
    }
}

/// Runs the hostile jobs beside the innocent one, and ends the process. What is given is YAML: entries of `plugins`, and jobs.
fn beside_an_innocent_job(name: &str, plugins: &str, hostile: &str, end: Duration) {
    let _turn = TURN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let scene = Scene::new(name).unwrap();
    let process = beset(name, &scene, plugins, hostile);
    ends_within(end, name, &process);
}

/// Runs the hostile jobs beside the innocent one, which must not suffer, and returns the process.
fn beset(name: &str, scene: &Scene, plugins: &str, hostile: &str) -> Evertoken {
    let issuer = good_issuer();
    let (process, port) = start(scene, &issuer, plugins, hostile);
    let reader = PollReader::start(&scene.out("innocent"), judge);
    let took = probe(port);
    let seen = reader.stop().unwrap();
    println!("{name}: /livez {took:?}");
    assert!(
        seen.is_good(),
        "{name}: of {} readings {} were absent, {} partial, {} expired",
        seen.readings,
        seen.absent,
        seen.partial,
        seen.expired
    );
    assert!(took <= PROBE, "{name}: /livez took {took:?}");
    process
}

/// Ends the process by SIGTERM.
fn ends_within(bound: Duration, name: &str, process: &Evertoken) {
    let told = Instant::now();
    process.terminate(PATIENCE).unwrap();
    let took = told.elapsed();
    println!("{name}: SIGTERM {took:?}");
    assert!(took <= bound, "{name}: SIGTERM took {took:?}");
}

/// A process with the innocent job, which has its first token, and others; and the port of its probes.
fn start(scene: &Scene, issuer: &Issuer, plugins: &str, others: &str) -> (Evertoken, u16) {
    let port = free_port().unwrap();
    let config = scene
        .config(&format!(
            r#"
state: {{dir: "{{here}}/state"}}
serve: {{address: "127.0.0.1:{port}"}}
plugins:
{plugins}
jobs:
- name: innocent
  source:
    plugin: oauth2
    config: {{grant: client_credentials, token_url: "{}", client_id: innocent}}
    secrets: {{client_secret: {{value: innocent-secret}}}}
  outputs: [{{file: {{path: "{{out}}/innocent"}}}}]
{others}"#,
            issuer.url("/token")
        ))
        .unwrap();
    let process = scene.run(&config).unwrap();
    wait_until("the innocent job", PATIENCE, || {
        scene.out("innocent").exists().then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    (process, port)
}

/// Asks all the time for as long as is watched. What 98 of 100 probes took at most: some may meet a moment in which the machine does
/// something else.
fn probe(port: u16) -> Duration {
    let client = Client::plain();
    let began = Instant::now();
    let mut took = Vec::new();
    while began.elapsed() < WATCHED {
        let asked = Instant::now();
        let url = format!("http://127.0.0.1:{port}/livez");
        let answer = client.send("GET", &url, &[], &[]);
        assert_eq!(answer.unwrap().status, 200);
        took.push(asked.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    took.sort_unstable();
    took[took.len() * 98 / 100]
}

/// A job of a guest with these options, which has more time than it is watched.
fn guest_job(name: &str, options: &str, rest: &str) -> String {
    format!(
        r#"
- name: {name}
  source:
    plugin: guest
    timeout: 60s
    config: {options}
{rest}
  outputs: [{{file: {{path: "{{out}}/{name}"}}}}]"#
    )
}

/// A secret that has all that a call asks of one: text, JSON, base64.
const SECRET: &str = r#"    secrets: {mine: {value: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}}
    reveal: [mine]"#;

#[test]
fn plugins_that_compute_or_call_the_host_without_end() {
    let issuer = Issuer::start().unwrap();
    issuer.always("/", Behaviour::answer(200, "hello"));
    let url = issuer.url("/");
    let mut hostile = String::new();
    for mode in [
        "spin",
        "allocate-slowly",
        "fill-memory",
        "recurse",
        "flood-log",
        "flood-stderr",
        "huge-argument",
        "hoard-handles",
    ] {
        hostile += &guest_job(mode, &format!("{{mode: {mode}, secret: mine}}"), SECRET);
    }
    for call in [
        "digest",
        "sign",
        "public-key",
        "reveal",
        "part",
        "decode",
        "join",
        "state",
        "random",
        "log",
        "panic",
    ] {
        let options = format!("{{mode: flood, call: {call}, secret: mine}}");
        hostile += &guest_job(&format!("floods-{call}"), &options, SECRET);
    }
    for call in ["headers", "send"] {
        let options = format!("{{mode: flood, call: {call}, url: \"{url}\"}}");
        let allow = format!("    allow: [\"{}\"]", issuer.origin());
        hostile += &guest_job(&format!("floods-{call}"), &options, &allow);
    }
    let rotating = r#"    secrets: {mine: {value: "a rotating secret", rotating: true}}"#;
    hostile += &guest_job(
        "floods-replace",
        "{mode: flood, call: replace, secret: mine}",
        rotating,
    );
    let plugins = plugin("guest", "guest_source.wasm");
    beside_an_innocent_job("hostile-guests", &plugins, &hostile, END);
}

/// What a plugin replaces fills the store that all jobs share, and each call may replace again.
#[test]
fn plugins_that_replace_their_secret_in_each_call() {
    let _turn = TURN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let issuer = good_issuer();
    let scene = Scene::new("hostile-replacements").unwrap();
    let rotating = r#"    secrets: {mine: {value: "a rotating secret", rotating: true}}"#;
    let options = "{mode: flood, call: replace, secret: mine}";
    let flooder = guest_job("flooder", options, rotating).replace("timeout: 60s", "timeout: 1s");
    let plugins = plugin("guest", "guest_source.wasm");
    // The second process finds what the first one leaves.
    for _ in 0..2 {
        let (process, _) = start(&scene, &issuer, &plugins, &flooder);
        let reader = PollReader::start(&scene.out("innocent"), judge);
        std::thread::sleep(2 * LIFETIME);
        let seen = reader.stop().unwrap();
        assert!(seen.is_good(), "{} expired", seen.expired);
        process.terminate(PATIENCE).unwrap();
        std::fs::remove_file(scene.out("innocent")).unwrap();
    }

    let (process, _) = start(&scene, &issuer, &plugins, &flooder);
    let config = scene.path("evertoken.yaml");
    // Not in the middle of a call.
    let forget = ["state", "forget", "flooder", "--yes"];
    wait_until("forgetting", PATIENCE, || {
        let forgotten = scene.command(&forget, &config).unwrap();
        (forgotten.code() == Some(0)).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
}

#[test]
fn formatters_that_compute_log_or_write_without_end() {
    let mut hostile = String::new();
    for mode in [
        "spin",
        "allocate",
        "log-without-end",
        "flood-log",
        "huger",
        "many",
        "huge-names",
        "escapes",
        "panic",
    ] {
        // Several of each, since a format that failed is not tried again at once.
        for n in 0..4 {
            let _ = write!(
                hostile,
                r#"
- name: {mode}-{n}
  source: {{plugin: guest, config: {{mode: good}}}}
  refresh: {{every: 1s}}
  outputs:
  - file: {{path: "{{out}}/{mode}-{n}"}}
    format: {{plugin: shaper, config: {{mode: {mode}}}}}"#
            );
        }
    }
    let plugins = plugin("guest", "guest_source.wasm") + &plugin("shaper", "guest_formatter.wasm");
    beside_an_innocent_job("hostile-formatters", &plugins, &hostile, END);
}

/// More of them than the process does at once.
#[test]
fn plugins_formatters_and_issuers_that_take_their_time_in_many_jobs() {
    let issuers: Vec<Issuer> = (0..4).map(|_| Issuer::start().unwrap()).collect();
    let mut hostile = String::new();
    for n in 0..100 {
        hostile += &guest_job(&format!("parks-{n}"), "{mode: park}", "");
        let _ = write!(
            hostile,
            r#"
- name: spins-{n}
  source: {{plugin: guest, config: {{mode: good}}}}
  refresh: {{every: 1s}}
  outputs:
  - file: {{path: "{{out}}/spins-{n}"}}
    format: {{plugin: shaper, config: {{mode: spin}}}}"#
        );
    }
    for (issuer, at) in issuers.iter().zip(0..) {
        issuer.always("/silent", Behaviour::hang());
        for n in 0..20 {
            let url = issuer.url("/silent");
            hostile += &oauth2_job(&format!("waits-{at}-{n}"), &url, false);
        }
    }
    let plugins = plugin("guest", "guest_source.wasm") + &plugin("shaper", "guest_formatter.wasm");
    beside_an_innocent_job("hostile-crowds", &plugins, &hostile, END);
}

/// Its requests go where its jobs allow: that is what the host knows of its issuer.
#[test]
fn a_plugin_without_an_endpoint_whose_issuer_hangs_in_more_jobs_than_run_at_once() {
    let _turn = TURN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let scene = Scene::new("hostile-no-endpoint").unwrap();
    let (innocent, silent) = (good_issuer(), Issuer::start().unwrap());
    silent.always("/silent", Behaviour::hang());
    let options = format!("{{mode: one-request, url: \"{}\"}}", silent.url("/silent"));
    let allow = format!("    allow: [\"{}\"]", silent.origin());
    let mut others = String::new();
    for n in 0..100 {
        others += &guest_job(&format!("waits-{n}"), &options, &allow)
            .replace("timeout: 60s", "timeout: 2s");
    }
    others += &guest_job("good", "{mode: good}", "");
    let plugins = plugin("guest", "guest_source.wasm");
    let (process, _) = start(&scene, &innocent, &plugins, &others);
    let config = scene.path("evertoken.yaml");
    for job in ["waits-0", "waits-99"] {
        wait_until(job, PATIENCE, || {
            let row = scene.row(&config, job)?;
            (row["held_back"]["issuer"] == silent.origin()).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    }
    let log = process.stderr();
    assert!(log.contains("the issuer is in trouble"), "{log}");
    assert!(scene.out("good").exists(), "{log}");
    let asked = silent.requests().len();
    assert!(asked <= 20, "{asked} requests; 16 may be under way at once");
    ends_within(END, "hostile-no-endpoint", &process);
}

/// Each with one job: none of them takes more than its share.
#[test]
fn more_issuers_that_take_their_time_than_the_process_asks_at_once() {
    let issuer = Issuer::start().unwrap();
    issuer.always("/silent", Behaviour::hang());
    let url = issuer.url("/silent");
    let mut hostile = String::new();
    for n in 0..200 {
        let url = url.replace("127.0.0.1", &format!("issuer-{n}.localhost"));
        hostile += &oauth2_job(&format!("waits-{n}"), &url, false);
    }
    beside_an_innocent_job("hostile-origins", "  {}", &hostile, END);
}

/// What it says of an issuer, and how long it takes, is its own affair.
#[test]
fn plugins_whose_jobs_name_the_innocent_jobs_issuer_and_client() {
    let _turn = TURN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let scene = Scene::new("hostile-clients").unwrap();
    let issuer = good_issuer();
    let schema = json!({"properties": {"token_url": {"x-evertoken-endpoint": true}}}).to_string();
    let guest = guest("guest-source").unwrap();
    let path = scene.path("guest.wasm");
    let section = "evertoken:config-schema";
    std::fs::write(&path, with_section(&guest, section, schema.as_bytes())).unwrap();
    let secret = "    secrets: {client_secret: {value: innocent-secret}}";
    let mut hostile = String::new();
    for (mode, count) in [
        ("mode: fail-as, kind: denied, code: invalid_client", 3),
        ("mode: fail-as, kind: unavailable, code: http.timeout", 3),
        ("mode: park", 40),
    ] {
        for n in 0..count {
            let options = format!(
                "{{{mode}, token_url: \"{}\", client_id: innocent}}",
                issuer.url("/token")
            );
            let name = format!("{}-{n}", mode.replace([':', ' ', ',', '_'], ""));
            hostile += &guest_job(&name, &options, secret);
        }
    }
    let (process, port) = start(&scene, &issuer, &entry("guest", &path), &hostile);
    let reader = PollReader::start(&scene.out("innocent"), judge);
    let took = probe(port);
    let seen = reader.stop().unwrap();
    assert!(
        seen.is_good(),
        "{} expired\n{}",
        seen.expired,
        process.stderr()
    );
    assert!(took <= PROBE, "/livez took {took:?}");
    ends_within(END, "hostile-clients", &process);
}

#[test]
fn a_format_writes_over_nothing_that_the_configuration_names() {
    let scene = Scene::new("hostile-names").unwrap();
    let mut yaml = format!(
        "plugins:\n{}{}jobs:",
        plugin("guest", "guest_source.wasm"),
        plugin("shaper", "guest_formatter.wasm")
    );
    yaml += &guest_job("victim", "{mode: good}", "");
    let thief = |directory: &str, name: &str| {
        format!(
            r#"
- name: thief-of-{name}
  source: {{plugin: guest, config: {{mode: good}}}}
  outputs:
  - file: {{path: "{directory}/"}}
    format: {{plugin: shaper, config: {{mode: named, names: ["first", "{name}"]}}}}"#
        )
    };
    yaml += &thief("{out}", "victim");
    yaml += &thief("{here}", "evertoken.yaml");
    let config = scene.config(&yaml).unwrap();
    let before = std::fs::read(&config).unwrap();
    let process = scene.run(&config).unwrap();
    for name in ["victim", "evertoken.yaml"] {
        wait_until(name, PATIENCE, || {
            let lines = process.stderr();
            let refused = |line: &str| line.contains("output.taken") && line.contains(name);
            lines.lines().any(refused).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    }
    wait_until("the victim", PATIENCE, || {
        scene.out("victim").exists().then_some(())
    })
    .unwrap();
    let token = std::fs::read_to_string(scene.out("victim")).unwrap();
    assert_eq!(token, "a-good-token");
    assert_eq!(std::fs::read(&config).unwrap(), before);
    assert!(!scene.out("first").exists());
}

/// Their answers are kept byte for byte and read by everybody in turn.
#[test]
fn issuers_whose_answers_are_as_large_as_they_may_be() {
    let issuer = Issuer::start().unwrap();
    let tokens: Vec<_> = (0..50_000)
        .map(|n| json!({"token": format!("t{n:06}")}))
        .collect();
    let large =
        json!({"access_token": "one", "expires_in": 4, "refresh_token": "two", "more": tokens});
    issuer.always("/large", Behaviour::json(200, &large));
    for (name, rotating, end) in [
        ("large-answers", false, END),
        ("large-answers-with-successors", true, DRAIN + END),
    ] {
        let jobs = 0..50;
        let job = |n| oauth2_job(&format!("large-{n}"), &issuer.url("/large"), rotating);
        let hostile: String = jobs.map(job).collect();
        beside_an_innocent_job(name, "  {}", &hostile, end);
    }
}

/// What the process waits for at its end is the answer that may have the successor in it.
#[test]
fn issuers_that_do_not_come_to_the_end_of_an_answer_with_a_successor() {
    let _turn = TURN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let issuer = Issuer::start().unwrap();
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    let drip = json!({"access_token": "x".repeat(1000), "refresh_token": "next"});
    let mut hostile = String::new();
    for (name, answer) in [
        ("silent", Behaviour::hang()),
        ("interim", Behaviour::raw(interim.repeat(100_000))),
        ("drip", Behaviour::drip(&drip, Duration::from_millis(50))),
        ("endless", Behaviour::endless(1 << 30)),
    ] {
        let path = format!("/{name}");
        issuer.always(&path, answer);
        for n in 0..3 {
            hostile += &oauth2_job(&format!("{name}-{n}"), &issuer.url(&path), true);
        }
    }
    let name = "rotating-secrets";
    let scene = Scene::new(name).unwrap();
    let process = beset(name, &scene, "  {}", &hostile);
    ends_within(DRAIN + END, name, &process);

    // Whoever will not wait says so again.
    let process = scene.run(&scene.path("evertoken.yaml")).unwrap();
    let asked = issuer.requests().len();
    wait_until("requests", PATIENCE, || {
        (issuer.requests().len() > asked).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    // `timeout` tells the process and its group: one wish.
    for _ in 0..2 {
        process.signal(Signal::TERM).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(END);
    assert_eq!(process.try_wait().unwrap(), None, "{}", process.stderr());
    ends_within(END, name, &process);
}

/// A job of the built-in plugin, which is a client of its own, so that it is not held back for others.
fn oauth2_job(name: &str, url: &str, rotating: bool) -> String {
    let (grant, secret) = match rotating {
        false => ("client_credentials", String::new()),
        true => (
            "refresh_token",
            format!(r#", refresh_token: {{value: "seed of {name}", rotating: true}}"#),
        ),
    };
    format!(
        r#"
- name: {name}
  source:
    plugin: oauth2
    config: {{grant: {grant}, token_url: "{url}", client_id: {name}}}
    secrets: {{client_secret: {{value: "secret of {name}"}}{secret}}}
  outputs: [{{file: {{path: "{{out}}/{name}"}}}}]"#
    )
}

#[test]
fn issuers_that_answer_too_much_or_without_end() {
    let issuer = Issuer::start().unwrap();
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    let many_headers: String = (0..5000).map(|n| format!("x-{n}: y\r\n")).collect();
    let tokens = |count: usize| {
        let tokens: Vec<_> = (0..count)
            .map(|n| json!({"token": format!("t{n:06}")}))
            .collect();
        Behaviour::json(200, &json!({"access_token": "one", "tokens": tokens}))
    };
    let drip = json!({"access_token": "x".repeat(1000)});
    let answers = [
        ("many-tokens", tokens(3000)),
        ("most-tokens", tokens(40_000)),
        ("interim", Behaviour::raw(interim.repeat(100_000))),
        ("drip", Behaviour::drip(&drip, Duration::from_millis(50))),
        (
            "headers",
            Behaviour::raw(format!("HTTP/1.1 200 OK\r\n{many_headers}\r\n{{}}")),
        ),
        (
            "long-header",
            Behaviour::raw(format!(
                "HTTP/1.1 200 OK\r\nx: {}\r\n\r\n",
                "y".repeat(4 << 20)
            )),
        ),
        ("endless", Behaviour::endless(1 << 30)),
        (
            "deep",
            Behaviour::answer(200, "[".repeat(1 << 20)).header("content-type", "application/json"),
        ),
        ("members", Behaviour::answer(200, "a=b&".repeat(200_000))),
        (
            "compressed",
            Behaviour::answer(200, vec![0x1f; 1 << 20]).header("content-encoding", "gzip"),
        ),
        ("redirected", Behaviour::redirect("/redirected")),
        ("silent", Behaviour::hang()),
    ];
    let mut hostile = String::new();
    for (name, answer) in answers {
        let path = format!("/{name}");
        issuer.always(&path, answer);
        let url = issuer.url(&path);
        // And one that repeats what it got in its log.
        hostile += &oauth2_job(name, &url, false);
        hostile += &guest_job(
            &format!("logs-{name}"),
            &format!("{{mode: flood, call: log-answer, url: \"{url}\"}}"),
            &format!("    allow: [\"{}\"]", issuer.origin()),
        );
    }
    let plugins = plugin("guest", "guest_source.wasm");
    beside_an_innocent_job("hostile-issuers", &plugins, &hostile, END);
}

/// Neither is a request with a rotating secret: nothing of them is waited for.
#[test]
fn an_api_server_and_a_credential_command_that_do_not_answer() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", silent.local_addr().unwrap());
    let token = json!({"token": "anybody"});
    let command = json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "command": "sleep", "args": ["1000"],
    }});
    for (name, user) in [
        ("silent-api-server", token),
        ("silent-credential-command", command),
    ] {
        let kubeconfig = json!({
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": user}],
        });
        let scene = Scene::new(name).unwrap();
        let path = scene.write("kubeconfig", &kubeconfig.to_string()).unwrap();
        let scene = scene.env("KUBECONFIG", path);
        let hostile: String = (0..100)
            .map(|n| {
                format!(
                    r#"
- name: written-{n}
  source: {{plugin: dummy, config: {{lifetime: 60s}}}}
  outputs: [{{secret: {{namespace: ns, name: written-{n}, key: token}}}}]
- name: read-{n}
  source:
    plugin: mirror
    secrets: {{token: {{secret: {{namespace: ns, name: read-{n}, key: token}}}}}}
  outputs: [{{file: {{path: "{{out}}/read-{n}"}}}}]"#
                )
            })
            .collect();
        let _turn = TURN
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let process = beset(name, &scene, "  {}", &hostile);
        ends_within(END, name, &process);
    }
}

/// A component with another section at its end.
fn with_section(component: &[u8], name: &str, data: &[u8]) -> Vec<u8> {
    fn leb128(mut number: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number > 0x7f {
            bytes.push(0x80 | (number & 0x7f) as u8);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    }
    let content = [&leb128(name.len()), name.as_bytes(), data].concat();
    [component, &[0], &leb128(content.len()), &content].concat()
}

/// A schema in which each of forty definitions is twice the next one.
fn doubling(keyword: &str) -> String {
    let mut definitions = serde_json::Map::new();
    for n in 0..40 {
        let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
        let level = match keyword {
            "properties" => json!({"properties": {"mode": next, "a": next}}),
            keyword => json!({keyword: [next, next]}),
        };
        definitions.insert(format!("d{n}"), level);
    }
    // What nothing is, so that every way is gone to its end.
    definitions.insert("d40".to_owned(), json!({"type": "null"}));
    json!({"$ref": "#/$defs/d0", "$defs": definitions}).to_string()
}

/// What a command may compute for one plugin, its children included: the child that judges may take half of it.
const CHECK: Duration = Duration::from_secs(1);

/// How a command about a file ended, and the processor time that it took.
fn timed(scene: &Scene, command: &[&str], file: &Path) -> (Finished, Duration) {
    let script = r#"file="$1"; shift; "$0" "$@" "$file"; code=$?; times >&2; exit $code"#;
    let launch = scene.shell(script).unwrap();
    let finished = launch.args([file]).args(command).finish(PATIENCE).unwrap();
    // The last line is about children, e.g. `0m0.41s 0m0.05s`.
    let times = finished.stderr.lines().last().unwrap();
    let seconds = |text: &str| -> f64 {
        let (minutes, seconds) = text.trim_end_matches('s').split_once('m').unwrap();
        minutes.parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap()
    };
    let took = times.split_whitespace().map(seconds).sum();
    (finished, Duration::from_secs_f64(took))
}

#[test]
fn schemas_that_are_wrong_or_cost_too_much() {
    let good = guest("guest-source").unwrap();
    let scene = Scene::new("hostile-schema-files").unwrap();
    let (schema, about) = ("evertoken:config-schema", "evertoken:about");
    let large = vec![b' '; 10 << 20];
    let table = [
        ("all-of", schema, doubling("allOf"), "plugin.invalid-schema"),
        ("any-of", schema, doubling("anyOf"), "plugin.invalid-schema"),
        ("one-of", schema, doubling("oneOf"), "plugin.invalid-schema"),
        (
            "wrong",
            schema,
            json!({"type": 7}).to_string(),
            "plugin.invalid-schema",
        ),
        (
            "nowhere",
            schema,
            json!({"$ref": "#/$defs/Nowhere"}).to_string(),
            "plugin.invalid-schema",
        ),
        (
            "remote",
            schema,
            json!({"$ref": "https://example.org/s"}).to_string(),
            "plugin.invalid-schema",
        ),
        ("list", schema, "[]".to_owned(), "plugin.invalid-schema"),
        (
            "looks-ahead",
            schema,
            json!({"properties": {"mode": {"pattern": "^(a+)+(?=b)"}}}).to_string(),
            "plugin.invalid-schema",
        ),
        ("no-json", schema, "{".to_owned(), "plugin.invalid-section"),
        (
            "nested",
            schema,
            "[".repeat(100_000),
            "plugin.invalid-section",
        ),
        (
            "large",
            schema,
            String::from_utf8(large).unwrap(),
            "plugin.invalid-section",
        ),
        ("no-about", about, "[]".to_owned(), "plugin.invalid-section"),
    ];
    // What says nothing, but that in a circle.
    let harmless = [
        ("itself", json!({"$ref": "#"})),
        (
            "itself-twice",
            json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        ),
        (
            "dynamic",
            json!({"$dynamicAnchor": "a", "allOf": [{"$dynamicRef": "#a"}]}),
        ),
    ];
    let (mut plugins, mut hostile) = (String::new(), String::new());
    let refused = table
        .iter()
        .map(|(name, section, data, _)| (*name, *section, data.clone()));
    let harmless_too = harmless
        .iter()
        .map(|(name, data)| (*name, schema, data.to_string()));
    for (name, section, data) in refused.chain(harmless_too) {
        let path = scene.path(&format!("{name}.wasm"));
        std::fs::write(&path, with_section(&good, section, data.as_bytes())).unwrap();
        plugins += &entry(name, &path);
        hostile += &guest_job(name, "{mode: good}", "")
            .replace("plugin: guest", &format!("plugin: {name}"));
    }

    // What is told of each, and that it is told soon, by the processor time that it takes: a busy machine lets everything last longer.
    let config = scene
        .config(&format!(
            "state: {{dir: \"{{here}}/state\"}}\nplugins:\n{plugins}jobs:{hostile}"
        ))
        .unwrap();
    let (checked, took) = timed(&scene, &["check", "--config"], &config);
    println!("hostile-schemas: check of {} took {took:?}", table.len());
    assert_eq!(checked.code(), Some(1), "{}", checked.stderr);
    // Three of them take all that they may.
    assert!(took < 4 * CHECK, "{took:?}");
    for (name, ..) in &table {
        assert!(
            checked
                .stderr
                .contains(&format!("plugin `{name}` cannot be used")),
            "{name}: {}",
            checked.stderr
        );
        let file = scene.path(&format!("{name}.wasm"));
        let (inspected, took) = timed(&scene, &["plugin", "inspect"], &file);
        println!("hostile-schemas: inspect {name} took {took:?}");
        assert!(took < CHECK, "{name}: {took:?}");
        // Some cost nothing until there is a configuration to judge.
        assert!(
            inspected.code() == Some(0) && name.ends_with("-of")
                || inspected.stderr.contains("cannot be used"),
            "{name}: {} {}",
            inspected.stdout,
            inspected.stderr
        );
    }
    let process = scene.run(&config).unwrap();
    for (name, _, _, code) in &table {
        let failure = scene.failure(&config, &process, name, PATIENCE);
        assert_eq!(failure.code, *code, "{name}: {failure:?}");
        assert_eq!(failure.kind, "invalid-config", "{name}: {failure:?}");
    }
    for (name, _) in harmless {
        wait_until(name, PATIENCE, || scene.out(name).exists().then_some(()))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    }
    drop(process);
    beside_an_innocent_job("hostile-schemas", &plugins, &hostile, END);
}

#[test]
fn a_plugin_does_not_speak_in_the_hosts_words() {
    let scene = Scene::new("words").unwrap();
    let mut yaml = format!(
        "state: {{dir: \"{{here}}/state\"}}\nplugins:\n{}jobs:",
        plugin("guest", "guest_source.wasm")
    );
    let rotating = r#"    secrets: {mine: {value: "a rotating secret", rotating: true}}"#;
    for (n, code) in ["chain.dead", "plugin.timeout", "invalid_scope"]
        .iter()
        .enumerate()
    {
        yaml += &guest_job(
            &format!("job-{n}"),
            &format!("{{mode: fail-as, code: {code}}}"),
            rotating,
        );
    }
    let config = scene.config(&yaml).unwrap();
    let process = scene.run(&config).unwrap();
    for (n, code) in [
        "plugin-said.chain.dead",
        "plugin-said.plugin.timeout",
        "invalid_scope",
    ]
    .iter()
    .enumerate()
    {
        let job = format!("job-{n}");
        let row = wait_until("the failure", PATIENCE, || {
            scene
                .row(&config, &job)
                .filter(|row| failure_in(row).is_some())
        });
        let row = row.unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
        assert_eq!(failure_in(&row).unwrap().code, *code);
        assert_eq!(row["chain"], "ok", "{row}");
    }
}

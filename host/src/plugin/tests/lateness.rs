//! The delay of a task of the process beside each kind of hostile plugin and issuer, with as few workers as a small machine has.

use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::*;
use crate::capability::secrets::MAX_SECRET_BYTES;
use crate::capability::testing::{Server, get};
use crate::capability::{Host, Level};
use crate::model::Source;

/// The workers of a small machine.
const WORKERS: u32 = 2;

/// Of each kind, so that each worker has one and others wait.
const GUESTS: usize = 3;

/// The bound of the delay at the 99th percentile. A program that was built without optimisation copies and wipes bytes ten times
/// as slowly.
const LATE: Duration = Duration::from_millis(if cfg!(debug_assertions) { 80 } else { 10 });

/// The sampling interval.
const MOMENT: Duration = Duration::from_millis(1);
const MOMENTS: usize = 1000;

/// Other tests of this process keep the workers busy, too: the best of some tries counts.
const TRIES: usize = 3;

/// Longer than a plugin computes without waiting for its turn, and short enough that calls end and begin meanwhile.
const CALL: Duration = Duration::from_millis(400);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS as usize)
        .enable_all()
        .build()
        .unwrap()
}

/// The 99th percentile of a task's delay. A stall counts for each sample in it.
struct Lateness {
    /// By the wall clock, which goes on while the machine does other work.
    wall: Duration,
    /// By the processor time of this process, as if it had the workers' cores to itself.
    own: Duration,
}

impl Lateness {
    fn print(&self, beside: &str) {
        let Self { wall, own } = self;
        println!("beside {beside}: {wall:?} late, {own:?} by its own time");
    }
}

async fn lateness() -> Lateness {
    let ticking = tokio::spawn(async {
        let mut ticks = tokio::time::interval(MOMENT);
        let (mut wall, mut own) = (Vec::new(), Vec::new());
        let now = (Instant::now(), processor_time());
        // The last sample, and the last one before the current stall.
        let (mut last, mut before) = (now, now);
        while wall.len() < MOMENTS {
            let due = ticks.tick().await.into_std();
            let now = (Instant::now(), processor_time());
            let late = now.0.duration_since(due);
            if due > last.0 {
                before = last;
            }
            last = now;
            // Processor time is assumed to be used evenly.
            let since = now.0.duration_since(before.0).max(late);
            let share = late.as_secs_f64() / since.as_secs_f64().max(f64::MIN_POSITIVE);
            let used = now.1.saturating_sub(before.1).mul_f64(share);
            wall.push(late);
            own.push(late.min(used / WORKERS));
        }
        (wall, own)
    });
    let (wall, own) = ticking.await.unwrap();
    let nearly_worst = |mut late: Vec<Duration>| {
        late.sort_unstable();
        late[MOMENTS * 99 / 100]
    };
    Lateness {
        wall: nearly_worst(wall),
        own: nearly_worst(own),
    }
}

/// Processor time of all threads of this process.
fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(used).unwrap()
}

/// Tasks that keep the workers busy until they are dropped.
type Hostile = JoinSet<()>;

/// Whether a task is late beside what `start` starts, each time anew.
async fn is_late_beside(name: &str, start: impl AsyncFn() -> Hostile) -> bool {
    for _ in 0..TRIES {
        let mut hostile = start().await;
        let late = lateness().await;
        let ended = hostile.try_join_next();
        assert!(ended.is_none(), "{name} ended by itself: {ended:?}");
        hostile.shutdown().await;
        late.print(name);
        if late.own <= LATE {
            return false;
        }
    }
    true
}

/// Plugins with this configuration, called again and again.
async fn guests(bench: &Bench, config: &Value, server: Option<&Server>) -> Hostile {
    bench.plugins.prepare("misbehaving").await.unwrap();
    let mut hostile = JoinSet::new();
    for _ in 0..GUESTS {
        let plugins = bench.plugins.clone();
        let mut fixture = Fixture::new();
        fixture.limits = plugin_limits();
        fixture.endpoints = server.map(Server::origin).into_iter().collect();
        fixture.secret("mine", &secret(config));
        fixture.job.source = Source {
            plugin: "misbehaving".to_owned(),
            config: config.clone(),
            timeout: CALL,
            reveal: ["mine".to_owned()].into(),
            ..fixture.job.source
        };
        let host = fixture.host();
        hostile.spawn(async move {
            loop {
                let call = fixture.call_on(&host);
                let _ = acquire(&plugins, &fixture.job, &call, 0, None).await;
                tokio::task::yield_now().await;
            }
        });
    }
    hostile
}

/// As large as a secret may be, and large enough to fill each call.
fn secret(config: &Value) -> String {
    let text = |bytes| "QUJD".repeat(bytes / 4 - 8);
    match config["call"].as_str() {
        Some("part") => json!({"a": {"b": text(MAX_SECRET_BYTES)}}).to_string(),
        // Encoded, it may be six times as long, and there is text beside it.
        Some("join") => text(MAX_SECRET_BYTES / 8),
        _ => text(MAX_SECRET_BYTES),
    }
}

#[test]
fn no_task_is_late_beside_guests_that_compute_or_call_the_host_without_end() {
    runtime().block_on(async {
        lateness().await.print("nobody");
        let bench = Bench::new();
        let mut configs: Vec<_> = [
            "spin",
            "allocate-slowly",
            "fill-memory",
            "recurse",
            "flood-log",
            "flood-stderr",
            "long-log-line",
            "huge-argument",
            "huge-token",
            "hoard-handles",
        ]
        .map(|mode| json!({"mode": mode, "secret": "mine"}))
        .into();
        configs.extend(
            [
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
            ]
            .map(|call| json!({"mode": "flood", "call": call, "secret": "mine"})),
        );
        let mut late = Vec::new();
        for config in configs {
            let start = async || guests(&bench, &config, None).await;
            if is_late_beside(&config.to_string(), start).await {
                late.push(config);
            }
        }
        assert!(late.is_empty(), "a task is late beside {late:?}");
    });
}

#[test]
fn no_task_is_late_beside_issuers_that_answer_with_many_tokens() {
    runtime().block_on(async {
        let bench = Bench::new();
        let tokens: Vec<String> = (0..60_000).map(|n| format!("t{n:06}")).collect();
        let body = json!({"access_token": "one", "tokens": tokens}).to_string();
        let server = Server::answering(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
        let url = server.url("/");

        let mut late = Vec::new();
        for call in ["headers", "send", "log-answer"] {
            let config = json!({"mode": "flood", "call": call, "url": url});
            let start = async || guests(&bench, &config, Some(&server)).await;
            if is_late_beside(&config.to_string(), start).await {
                late.push(config);
            }
        }
        // Like a plugin that sends one request and logs the answer.
        let start = async || {
            let mut hostile = JoinSet::new();
            for _ in 0..GUESTS {
                let mut fixture = Fixture::reaching(&server);
                fixture.limits = plugin_limits();
                let host = fixture.host();
                let (url, body) = (url.clone(), body.clone());
                hostile.spawn(async move {
                    loop {
                        asks_and_logs(&fixture, &host, &url, &body).await;
                    }
                });
            }
            hostile
        };
        let name = "an answer of many tokens";
        if is_late_beside(name, start).await {
            late.push(json!(name));
        }
        assert!(late.is_empty(), "a task is late beside {late:?}");
    });
}

async fn asks_and_logs(fixture: &Fixture, host: &Host, url: &str, body: &str) {
    let call = fixture.call_on(host);
    call.send(get(url)).await.unwrap();
    for _ in 0..10 {
        call.log(Level::Warn, body);
    }
}

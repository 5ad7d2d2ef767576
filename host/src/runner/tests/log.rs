//! The log: one line per refresh, one per failure, and never a token.

use std::io;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use super::world::{Plan, SECOND, World, failure, job, output, rotating};
use crate::model::failure::{Failure, FailureKind};
use crate::model::time::Clock as _;
use crate::model::{JobId, OnRemove, SharedOutput};
use crate::runner::JobChange;
use crate::runner::status::ChainState;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The log lines at INFO and above during this, without the prefix of the message.
fn told(world: &World, during: impl AsyncFnOnce()) -> Vec<String> {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .without_time()
        .finish();
    tracing::subscriber::with_default(subscriber, || world.time.run(during()));
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    text.lines()
        .map(|line| line.trim_start().split_once(": ").unwrap())
        .map(|(place, message)| {
            let level = place.split_once(' ').unwrap().0;
            format!("{level} {message}")
        })
        .collect()
}

/// The lines that hold this.
fn with<'a>(lines: &'a [String], text: &str) -> Vec<&'a str> {
    let lines = lines.iter().filter(|line| line.contains(text));
    lines.map(String::as_str).collect()
}

#[test]
fn a_line_names_few_of_the_many_jobs_that_share_an_output() {
    let world = World::default();
    let lines = told(&world, async || {
        let denied = Failure::new(FailureKind::Denied, "forbidden", "not yours");
        world.facts().write_fails.insert("netrc".to_owned(), denied);
        let names: Vec<String> = (10..30).map(|number| format!("job-{number}")).collect();
        let started = world
            .start(names.iter().map(|name| job(name)).collect())
            .await;
        let shared = SharedOutput {
            from: names.iter().map(JobId::file).collect(),
            output: output("netrc"),
            on_remove: OnRemove::Keep,
        };
        let change = JobChange::SharedOutputs(vec![Arc::new(shared)]);
        started.handle.apply(vec![change]).await.unwrap();
        world.time.wait(600 * SECOND).await;
        started.stop().await;
    });
    let of_shared = with(&lines, "output=\"netrc\"");
    assert_eq!(of_shared.len(), 1, "{lines:?}");
    assert!(of_shared[0].contains("job-19, 10 more\""), "{of_shared:?}");
}

#[test]
fn an_output_that_fails_is_a_line_for_each_reason_and_one_when_it_works_again() {
    let world = World::default();
    let reason =
        |code: &'static str, message: &str| Failure::new(FailureKind::Denied, code, message);
    let lines = told(&world, async || {
        let fails = |failure| world.facts().write_fails.insert("a".to_owned(), failure);
        fails(reason("full", "no room"));
        let started = world.start(vec![job("a")]).await;
        world.time.wait(600 * SECOND).await;
        fails(reason("full", "no room for inodes"));
        world.time.wait(600 * SECOND).await;
        fails(reason("forbidden", "not yours"));
        world.time.wait(600 * SECOND).await;
        world.facts().write_fails.clear();
        // Verified many times since.
        world.time.wait(3600 * SECOND).await;
        fails(reason("forbidden", "not yours"));
        world.time.wait(600 * SECOND).await;
        started.stop().await;
    });
    let of = |code: &str, error: &str| {
        format!(
            "WARN output cannot be written job=\"a\" output=\"a\" kind=denied code=\"{code}\" error=\"{error}\""
        )
    };
    assert_eq!(
        with(&lines, "output"),
        [
            &*of("full", "no room"),
            &of("full", "no room for inodes"),
            &of("forbidden", "not yours"),
            "INFO output is written again job=\"a\" output=\"a\"",
            &of("forbidden", "not yours"),
        ]
    );
}

#[test]
fn a_source_that_fails_is_a_line_for_each_reason_and_one_when_it_works_again() {
    let reasons = [
        (
            10,
            FailureKind::InvalidConfig,
            "secret.not-found",
            "no file",
        ),
        (20, FailureKind::Denied, "invalid_client", "wrong secret"),
        (30, FailureKind::Unavailable, "http.503", "away"),
        (40, FailureKind::Unavailable, "http.503", "still away"),
    ];
    let world = World::default();
    let fails = move |nth: u64| {
        let reason = reasons.iter().find(|(until, ..)| nth % 41 < *until);
        reason.map(|(_, kind, code, message)| {
            // A different time in the message is no new failure.
            Failure::new(*kind, *code, format!("{message}, {nth}.5 s after"))
        })
    };
    let plan = Plan {
        fails: Arc::new(fails),
        ..Plan::default()
    };
    world.plan("a", plan);
    let lines = told(&world, async || {
        let started = world.start(vec![job("a")]).await;
        while world.asked("a").len() < 2 * 41 {
            world.time.wait(10 * SECOND).await;
        }
        started.stop().await;
    });
    let of_source: Vec<_> = lines.iter().filter(|line| line.contains("job=a")).collect();
    let mut expected = Vec::new();
    for _ in 0..2 {
        for (_, kind, code, message) in reasons {
            expected.push(format!(
                "WARN refresh failed job=a kind={kind} code=\"{code}\" error=\"{message}, "
            ));
        }
        expected.push("INFO refreshed token job=a".to_owned());
    }
    let of_source = of_source
        .iter()
        .filter(|line| line.contains("refresh") && !line.contains("expired and"));
    let of_source: Vec<_> = of_source.collect();
    assert_eq!(of_source.len(), expected.len(), "{of_source:#?}");
    for (line, expected) in of_source.iter().zip(&expected) {
        assert!(line.starts_with(expected), "{line} {expected}");
    }
}

#[test]
fn a_store_that_fails_is_one_line_and_one_when_it_works_again() {
    let world = World::default();
    let lines = told(&world, async || {
        world.facts().store_fails = true;
        let started = world.start(vec![job("a")]).await;
        world.time.wait(600 * SECOND).await;
        world.facts().store_fails = false;
        world.time.wait(3600 * SECOND).await;
        started.stop().await;
    });
    let kept = with(&lines, "kept");
    assert_eq!(kept.len(), 2, "{lines:#?}");
    assert!(kept[0].starts_with("WARN the token cannot be kept for a restart job=a"));
    assert_eq!(kept[1], "INFO the token is kept for a restart again job=a");
}

#[test]
fn a_token_that_dies_without_another_is_one_line_each_time() {
    let world = World::default();
    let lines = told(&world, async || {
        let fails = |nth| (nth % 20 != 0).then(|| failure(FailureKind::Unavailable));
        world.plan(
            "a",
            Plan {
                fails: Arc::new(fails),
                ..Plan::default()
            },
        );
        let started = world.start(vec![job("a"), job("well")]).await;
        world.time.wait(4000 * SECOND).await;
        started.stop().await;
    });
    let refreshed = with(&lines, "refreshed token job=a").len();
    let died = with(
        &lines,
        "ERROR the token has expired and there is no other yet job=a",
    );
    assert!(refreshed > 2, "{lines:#?}");
    assert!(
        died.len() == refreshed || died.len() == refreshed - 1,
        "{lines:#?}"
    );
    let expired = "expired_at=2023-11-14T22:18:20Z code=\"model\" error=\"the model fails\"";
    assert!(died[0].ends_with(expired), "{}", died[0]);
    assert!(
        with(&lines, "expired")
            .iter()
            .all(|line| !line.contains("well"))
    );
}

#[test]
fn when_a_source_is_asked_next_is_what_log_and_status_said_also_in_an_outage() {
    for (what, kind, code) in [
        ("in trouble", FailureKind::Unavailable, "http.503"),
        ("refused", FailureKind::Denied, "invalid_client"),
        ("its own fault", FailureKind::Denied, "invalid_scope"),
    ] {
        let world = World::default();
        let why = |nth: u64| "no".repeat(nth as usize);
        let fails = move |nth| Some(Failure::new(kind, code, why(nth)));
        let plan = Plan {
            fails: Arc::new(fails),
            ..Plan::default()
        };
        world.plan("a", plan);
        let start = world.time.now();
        let mut said = Vec::new();
        let lines = told(&world, async || {
            let started = world.start(vec![job("a")]).await;
            while said.len() < 8 {
                world.time.wait(SECOND / 10).await;
                let row = started.handle.status(vec![]).await.unwrap().jobs.remove(0);
                if row.attempt as usize > said.len() {
                    said.push(row.next_refresh.unwrap());
                }
            }
            started.stop().await;
        });
        let failed = with(&lines, "refresh failed");
        let asked = world.asked("a");
        for ((nth, said), line) in said.iter().enumerate().zip(&failed) {
            assert!(line.ends_with(&format!("next={said}")), "{what}: {line}");
            let Some(next) = asked.get(nth + 1) else {
                continue;
            };
            let next = start.wall.after(*next - start.boot);
            assert!(next.0.abs_diff(said.0) <= 50, "{what} {nth}: {said} {next}");
        }
    }
}

#[test]
fn a_clock_that_is_off_is_one_line_and_one_when_it_is_right_again() {
    let world = World::default();
    let lines = told(&world, async || {
        let started = world.start(vec![job("a")]).await;
        for ahead_s in [250, 250, 55, -250, 0, 40] {
            world.facts().ahead_ms = ahead_s * 1000;
            world.time.wait(300 * SECOND).await;
        }
        started.stop().await;
    });
    let off = with(&lines, "differ by more than a minute");
    assert_eq!(off.len(), 1, "{lines:#?}");
    assert!(
        off[0].starts_with("WARN") && off[0].contains("origin=https://issuer ahead_seconds=250")
    );
    assert_eq!(with(&lines, "agree again").len(), 1);
}

#[test]
fn a_refusal_tells_of_the_clock_as_a_token_does() {
    let world = World::default();
    let plan = Plan {
        fails: Arc::new(|_| Some(failure(FailureKind::Denied))),
        ..Plan::default()
    };
    world.plan("a", plan);
    let lines = told(&world, async || {
        world.facts().ahead_ms = -250_000;
        let started = world.start(vec![job("a")]).await;
        world.time.wait(10_800 * SECOND).await;
        started.stop().await;
    });
    assert!(world.asked("a").len() > 2);
    let off = with(&lines, "differ by more than a minute");
    assert_eq!(off.len(), 1, "{lines:#?}");
}

#[test]
fn a_chain_that_is_dead_since_an_earlier_run_is_one_line_at_the_start() {
    let world = World::default();
    world
        .facts()
        .chains
        .insert("a".to_owned(), ChainState::Dead);
    let lines = told(&world, async || {
        let started = world.start(vec![rotating("a"), job("b")]).await;
        world.time.wait(200 * SECOND).await;
        started.stop().await;
    });
    let dead = with(&lines, "rotating secret");
    assert_eq!(dead.len(), 1, "{lines:#?}");
    assert!(
        dead[0].starts_with("ERROR") && dead[0].contains("job=a chain=dead"),
        "{dead:?}"
    );
}

#[test]
fn requests_that_a_stop_abandons_are_one_line() {
    let world = World::default();
    let slow = Plan {
        takes: 20 * SECOND,
        ..Plan::default()
    };
    for name in ["a", "b"] {
        world.plan(name, slow.clone());
    }
    let lines = told(&world, async || {
        let started = world.start(vec![job("a"), job("b"), job("c")]).await;
        world.time.wait(SECOND).await;
        started.stop().await;
    });
    let expected = "WARN stopping: requests under way are abandoned, and the next start asks again jobs=\"a, b\"";
    assert_eq!(with(&lines, "stopping"), [expected]);
}

#[test]
fn a_refresh_is_one_line_a_failure_another_and_no_line_holds_a_token() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .without_time()
        .finish();
    let world = World::default();
    let fails = |nth| (nth == 0).then(|| failure(FailureKind::Denied));
    world.plan(
        "warehouse",
        Plan {
            fails: Arc::new(fails),
            ..Plan::default()
        },
    );
    tracing::subscriber::with_default(subscriber, || {
        world.time.run(async {
            let started = world.start(vec![job("warehouse")]).await;
            world.time.wait(20 * SECOND).await;
            started.stop().await;
        });
    });
    assert_eq!(world.written("warehouse"), ["warehouse.1"]);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let told: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with(" INFO") || line.starts_with(" WARN"))
        .map(|line| line.split_once("scheduler: ").unwrap().1)
        .collect();
    assert_eq!(
        told,
        [
            "refresh failed job=warehouse kind=denied code=\"model\" \
             error=\"the model fails\" next=2023-11-14T22:13:30Z",
            "refreshed token job=warehouse expires_at=2023-11-14T22:18:30Z next=2023-11-14T22:16:55Z",
        ]
    );
    assert!(!text.contains("warehouse.1"), "{text}");
}

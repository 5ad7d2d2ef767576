//! Tokens are fresh in time, whatever the issuer, the clocks and the outputs do.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;

use super::virtual_time::EPOCH;
use super::world::{Plan, SECOND, World, failure, job, kept, limits};
use crate::model::failure::{Code, Failure, FailureKind};
use crate::model::{JobId, OnRemove, SharedOutput};
use crate::runner::JobChange;
use crate::runner::status::{JobState, OutputState};

#[test]
fn a_token_is_obtained_published_kept_and_obtained_anew_before_it_dies() {
    let world = World::default();
    world.time.run(async {
        let started = world.start(vec![job("a")]).await;
        world.time.wait(600 * SECOND).await;
        let asked = world.asked("a");
        assert_eq!(asked.len(), 3, "{asked:?}");
        for pair in asked.windows(2) {
            let wait = pair[1] - pair[0];
            assert!(200 * SECOND <= wait && wait <= 210 * SECOND, "{wait:?}");
        }
        assert_eq!(world.written("a"), ["a.0", "a.1", "a.2"]);
        assert!(world.facts().store.contains_key(&JobId::file("a")));
        let status = started.handle.status(vec![]).await.unwrap();
        assert_eq!(status.jobs[0].state, JobState::Ready);
        started.stop().await;
    });
}

#[test]
fn the_newest_token_is_everywhere_also_if_it_dies_before_the_one_it_replaces() {
    let world = World::default();
    let shared = SharedOutput {
        from: vec![JobId::file("a")],
        output: super::world::output("shared"),
        on_remove: OnRemove::Keep,
    };
    world.time.run(async {
        let started = world.start(vec![job("a")]).await;
        let shared = vec![Arc::new(shared)];
        let change = JobChange::SharedOutputs(shared);
        started.handle.apply(vec![change]).await.unwrap();
        world.time.wait(150 * SECOND).await;
        let short = Plan {
            life: 40 * SECOND,
            ..Plan::default()
        };
        world.plan("a", short);
        world.time.wait(61 * SECOND).await;
        for path in ["a", "shared"] {
            assert_eq!(world.written(path), ["a.0", "a.1"], "{path}");
        }
        let kept = world.facts().store[&JobId::file("a")].clone();
        assert_eq!(kept.token.value.expose_secret(), "a.1");
        let status = started.handle.status(vec![]).await.unwrap();
        assert!(status.jobs[0].expires_at.unwrap() < status.at.after(40 * SECOND));
        world.time.wait(600 * SECOND).await;
        assert_no_dead_token(&world, "a", "short lives");
        started.stop().await;
    });
}

#[test]
fn a_restart_asks_for_no_good_token_and_verifies_its_outputs() {
    let world = World::default();
    let now = EPOCH.after(1000 * SECOND);
    for (name, obtained_ago, life) in [("good", 100, 300), ("due", 250, 300), ("dead", 400, 300)] {
        let obtained_at = now.before(obtained_ago * SECOND);
        let token = kept(name, obtained_at, obtained_at.after(life * SECOND));
        world.facts().store.insert(JobId::file(name), token);
    }
    let other = kept("other", now, now.after(300 * SECOND));
    world.facts().store.insert(JobId::file("changed"), other);
    world.time.run(async {
        world.time.wait(1000 * SECOND).await;
        let mut changed = job("changed");
        changed.source.config = serde_json::json!({"scope": "new"});
        let jobs = vec![job("good"), job("due"), job("dead"), changed];
        let started = world.start(jobs).await;
        world.time.wait(SECOND).await;
        for (name, asked, written) in [
            ("good", 0, vec!["good"]),
            ("due", 1, vec!["due", "due.0"]),
            ("dead", 1, vec!["dead.0"]),
            ("changed", 1, vec!["changed.0"]),
        ] {
            assert_eq!(world.asked(name).len(), asked, "{name}");
            assert_eq!(world.written(name), written, "{name}");
        }
        started.stop().await;
    });
}

#[test]
fn a_store_that_fails_costs_a_request_and_no_token() {
    let world = World::default();
    world.facts().store_fails = true;
    world.time.run(async {
        let started = world.start(vec![job("a")]).await;
        world.time.wait(SECOND).await;
        assert_eq!(world.written("a"), ["a.0"]);
        let status = started.handle.status(vec![]).await.unwrap();
        assert_eq!(status.jobs[0].state, JobState::Ready);
        assert!(status.jobs[0].keep_failure.is_some());
        world.facts().store_fails = false;
        world.time.wait(60 * SECOND).await;
        let status = started.handle.status(vec![]).await.unwrap();
        assert_eq!(status.jobs[0].keep_failure, None, "kept at a later try");
        assert_eq!(world.asked("a").len(), 1);
        started.stop().await;
    });
}

#[test]
fn an_output_that_cannot_be_written_is_tried_again_and_the_issuer_is_left_alone() {
    let world = World::default();
    let mut two = job("a");
    two.outputs.push(super::world::output("b"));
    two.refresh.at = 0.99;
    world.plan(
        "a",
        Plan {
            life: 36_000 * SECOND,
            ..Plan::default()
        },
    );
    world
        .facts()
        .write_fails
        .insert("a".to_owned(), failure(FailureKind::Denied));
    world.time.run(async {
        let started = world.start(vec![two]).await;
        world.time.wait(SECOND).await;
        assert_eq!(world.written("b"), ["a.0"], "the other output is written");
        let status = started.handle.status(vec![]).await.unwrap();
        assert_eq!(status.jobs[0].state, JobState::Unwritten);
        assert_eq!(status.jobs[0].published_expires_at, None);
        assert_eq!(status.jobs[0].outputs[0].state, OutputState::Failing);
        assert!(status.jobs[0].outputs[0].failure.is_some());
        assert_eq!(status.jobs[0].outputs[1].state, OutputState::Written);
        world.time.wait(3600 * SECOND).await;
        let status = started.handle.status(vec![]).await.unwrap();
        let next_try = status.jobs[0].outputs[0].next_try.unwrap();
        assert!(next_try > status.at && next_try <= status.at.after(25 * SECOND));
        assert_eq!(status.jobs[0].outputs[1].next_try, None);
        world.facts().write_fails.clear();
        world.time.wait(30 * SECOND).await;
        assert_eq!(world.written("a"), ["a.0"]);
        assert_eq!(world.asked("a").len(), 1);
        let status = started.handle.status(vec![]).await.unwrap();
        assert_eq!(status.jobs[0].state, JobState::Ready);
        assert_eq!(
            status.jobs[0].published_expires_at,
            status.jobs[0].expires_at
        );
        assert_eq!(status.jobs[0].outputs[0].failure, None);
        assert_eq!(status.jobs[0].outputs[0].next_try, None);
        started.stop().await;
    });
}

#[test]
fn what_somebody_mends_on_this_side_is_noticed_within_half_a_minute_and_the_issuer_is_not_asked_more()
 {
    for (kind, code, is_noticed) in [
        (FailureKind::InvalidConfig, "secret.not-found", true),
        (FailureKind::Denied, "kubernetes.forbidden", true),
        (FailureKind::InvalidConfig, "tls.ca-file", true),
        (FailureKind::InvalidConfig, "plugin.unreadable", true),
        (FailureKind::Denied, "invalid_grant", false),
        (FailureKind::InvalidConfig, "http.404", false),
    ] {
        let world = World::default();
        let time = world.time.clone();
        let fails = move |_| {
            let is_mended = time.passed() >= 3600 * SECOND;
            (!is_mended).then(|| Failure::new(kind, code, "the model fails"))
        };
        world.plan(
            "a",
            Plan {
                fails: Arc::new(fails),
                ..Plan::default()
            },
        );
        world.time.run(async {
            let started = world.start(vec![job("a")]).await;
            world.time.wait(3600 * SECOND).await;
            let asked = world.asked("a").len();
            assert_eq!(asked > 10, is_noticed, "{code}: {asked} times in an hour");
            let status = started.handle.status(vec![]).await.unwrap();
            let text = started.metrics.encode(status).unwrap();
            let counted = text.contains("evertoken_issuer_requests_total{");
            assert_eq!(counted, !is_noticed, "{code}: only what asked the issuer");
            world.time.wait(30 * SECOND).await;
            assert_eq!(world.written("a").len() == 1, is_noticed, "{code}");
            started.stop().await;
        });
    }
}

#[test]
fn a_source_that_fails_before_it_asks_anybody_says_nothing_of_its_issuer() {
    for (asked, is_held_back) in [(None, true), (Some(true), true), (Some(false), false)] {
        let world = World::default();
        let fails = |_| {
            let code = "vendor.unavailable";
            Some(Failure::new(
                FailureKind::Unavailable,
                code,
                "the model fails",
            ))
        };
        for name in ["a", "b"] {
            world.plan(
                name,
                Plan {
                    fails: Arc::new(fails),
                    client: Some(1),
                    asked,
                    ..Plan::default()
                },
            );
        }
        world.time.run(async {
            let started = world.start(vec![job("a"), job("b")]).await;
            world.time.wait(60 * SECOND).await;
            let status = started.handle.status(vec![]).await.unwrap();
            let held_back = status.jobs.iter().any(|job| job.held_back.is_some());
            assert_eq!(held_back, is_held_back, "{asked:?}");
            let text = started.metrics.encode(status).unwrap();
            let counted = text.contains("evertoken_issuer_requests_total{");
            assert_eq!(counted, is_held_back, "{asked:?}");
            started.stop().await;
        });
    }
}

#[test]
fn a_foreign_value_in_an_output_is_put_right_at_the_next_verification() {
    let world = World::default();
    world.plan(
        "a",
        Plan {
            life: 36_000 * SECOND,
            ..Plan::default()
        },
    );
    world.time.run(async {
        let started = world.start(vec![job("a")]).await;
        world.time.wait(SECOND).await;
        let foreign = super::world::Held {
            value: "foreign".to_owned(),
            since: world.time.passed(),
        };
        world.facts().written.get_mut("a").unwrap().push(foreign);
        world.time.wait(600 * SECOND).await;
        assert_eq!(world.written("a"), ["a.0", "foreign", "a.0"]);
        started.stop().await;
    });
}

#[test]
fn neither_a_clock_that_is_set_nor_sleep_shows_a_dead_token_to_consumers() {
    type Trouble = fn(&World);
    let troubles: [(&str, Trouble); 5] = [
        ("set back an hour", |w| w.time.set_wall_clock_by(-3600)),
        ("set forward an hour", |w| w.time.set_wall_clock_by(3600)),
        ("set back a day", |w| w.time.set_wall_clock_by(-86_400)),
        ("set forward a day", |w| w.time.set_wall_clock_by(86_400)),
        ("slept for 3 minutes", |w| w.time.suspend(180 * SECOND)),
    ];
    for (what, trouble) in troubles {
        let world = World::default();
        world.time.run(async {
            let started = world.start(vec![job("a")]).await;
            world.time.wait(60 * SECOND).await;
            trouble(&world);
            world.time.wait(1200 * SECOND).await;
            assert_no_dead_token(&world, "a", what);
            let asked = world.asked("a").len();
            assert!((6..=9).contains(&asked), "{what}: asked {asked} times");
            started.stop().await;
        });
    }
}

#[test]
fn a_machine_that_slept_for_an_hour_has_fresh_tokens_within_seconds_and_asks_once_for_each() {
    let world = World::default();
    let names: Vec<String> = (0..500).map(|n| format!("job-{n}")).collect();
    world.time.run(async {
        let started = world
            .start(names.iter().map(|name| job(name)).collect())
            .await;
        world.time.wait(60 * SECOND).await;
        world.time.suspend(3600 * SECOND);
        world.time.wait(33 * SECOND).await;
        let status = started.handle.status(vec![]).await.unwrap();
        for job in &status.jobs {
            assert_eq!(job.state, JobState::Ready, "{job:?}");
            assert!(
                job.expires_at.unwrap() > status.at.after(200 * SECOND),
                "{job:?}"
            );
        }
        assert_eq!(
            world.facts().asked.len(),
            1000,
            "once before it and once after"
        );
        assert_eq!(world.facts().most_in_flight, 16);
        let text = started.metrics.encode(status).unwrap();
        let in_time = "evertoken_refresh_lateness_seconds_bucket{le=\"900.0\"} 500";
        assert!(text.contains(in_time), "sleep makes late:\n{text}");
        started.stop().await;
    });
}

#[test]
fn a_clock_that_is_set_by_a_day_asks_at_most_once_for_each_of_many_jobs() {
    for seconds in [-86_400, 86_400] {
        let world = World::default();
        let names: Vec<String> = (0..500).map(|n| format!("job-{n}")).collect();
        world.time.run(async {
            let started = world
                .start(names.iter().map(|name| job(name)).collect())
                .await;
            world.time.wait(60 * SECOND).await;
            world.time.set_wall_clock_by(seconds);
            world.time.wait(60 * SECOND).await;
            for name in &names {
                assert_no_dead_token(&world, name, name);
            }
            let asked = world.facts().asked.len();
            let expected = if seconds > 0 { 1000 } else { 500 };
            assert_eq!(asked, expected, "set by {seconds} s");
            let status = started.handle.status(vec![]).await.unwrap();
            for job in &status.jobs {
                assert_eq!(job.state, JobState::Ready, "{job:?}");
                assert!(
                    job.expires_at.unwrap() > status.at.after(100 * SECOND),
                    "{job:?}"
                );
            }
            started.stop().await;
        });
    }
}

/// Asserts that no consumer of this output ever saw an expired token.
fn assert_no_dead_token(world: &World, path: &str, what: &str) {
    let facts = world.facts();
    let history = &facts.written[path];
    let until = history
        .iter()
        .skip(1)
        .map(|held| held.since)
        .chain([world.time.passed()]);
    for (held, until) in history.iter().zip(until) {
        let expires_at = facts.deaths[&held.value];
        assert!(
            until <= expires_at,
            "{what}: {} died at {expires_at:?} and was there until {until:?}",
            held.value
        );
    }
}

#[test]
fn with_a_thousand_jobs_and_an_issuer_that_fails_at_random_no_consumer_sees_a_dead_token() {
    for seed in 0..2 {
        let world = World::default();
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut jobs = Vec::new();
        for n in 0..1000 {
            let name = format!("job-{n}");
            let life = Duration::from_secs_f64(30.0 * 20.0_f64.powf(dice.f64()));
            let salt = dice.u64(..);
            // Never more than two failures in a row, so that the issuer could always have given one in time.
            let fails = move |nth: u64| {
                let roll = fastrand::Rng::with_seed(salt ^ nth).u8(0..10);
                (nth % 3 != 2 && roll < 4).then(|| failure(FailureKind::Unavailable))
            };
            let plan = Plan {
                life,
                takes: Duration::from_millis(dice.u64(1..200)),
                fails: Arc::new(fails),
                ..Plan::default()
            };
            world.plan(&name, plan);
            jobs.push(job(&name));
        }
        world.time.run(async {
            let started = world.start(jobs).await;
            world.time.wait(300 * SECOND).await;
            for n in 0..1000 {
                assert_no_dead_token(&world, &format!("job-{n}"), &format!("seed {seed}"));
            }
            started.stop().await;
        });
        assert!(world.facts().most_in_flight <= 16, "one origin's bound");
    }
}

#[test]
fn a_thousand_jobs_due_every_thirty_seconds_are_late_by_less_than_a_second() {
    let world = World::default();
    let mut jobs = Vec::new();
    for n in 0..1000 {
        let name = format!("job-{n}");
        world.plan(
            &name,
            Plan {
                life: 60 * SECOND,
                ..Plan::default()
            },
        );
        jobs.push(job(&name));
    }
    world.time.run(async {
        let started = world.start_within(&limits(64, 64), jobs).await;
        world.time.wait(120 * SECOND).await;
        let status = started.handle.status(vec![]).await.unwrap();
        let text = started.metrics.encode(status).unwrap();
        let count = |line: &str| -> f64 {
            let line = text.lines().find(|l| l.starts_with(line)).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        let all = count("evertoken_refresh_lateness_seconds_count");
        let in_time = count("evertoken_refresh_lateness_seconds_bucket{le=\"1.0\"}");
        assert!(all > 4_000.0, "{all}");
        assert!(in_time / all >= 0.99, "{in_time} of {all}");
        started.stop().await;
    });
}

#[test]
fn what_an_issuer_refuses_is_said_in_status_and_goes_on_by_itself() {
    let world = World::default();
    let fails = |nth| (nth < 3).then(|| failure(FailureKind::Denied));
    world.plan(
        "a",
        Plan {
            fails: Arc::new(fails),
            ..Plan::default()
        },
    );
    world.time.run(async {
        let started = world.start(vec![job("a")]).await;
        world.time.wait(SECOND).await;
        let status = started.handle.status(vec![]).await.unwrap();
        let row = &status.jobs[0];
        assert_eq!((row.state, row.attempt), (JobState::Failing, 1));
        let said = row.last_failure.as_ref().unwrap();
        assert_eq!(said.code.as_ref().map(Code::as_str), Some("model"));
        assert_eq!(
            row.next_refresh,
            Some(EPOCH.after(Duration::from_millis(10_050)))
        );
        world.time.wait(400 * SECOND).await;
        let waits: Vec<_> = world.asked("a").iter().map(Duration::as_secs).collect();
        assert_eq!(waits, [0, 10, 70, 370]);
        let attempts: Vec<_> = world.facts().asked.iter().map(|a| a.call.attempt).collect();
        assert_eq!(attempts, [0, 1, 2, 3]);
        let status = started.handle.status(vec![]).await.unwrap();
        assert_eq!(status.jobs[0].state, JobState::Ready);
        assert_eq!(status.jobs[0].last_failure, None);
        started.stop().await;
    });
}

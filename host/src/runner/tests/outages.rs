//! Outages: a failing issuer is not flooded and its recovery is noticed; waiting jobs report it, and other jobs are not delayed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::world::{Plan, SECOND, World, failure, job, limits, put, rotating};
use crate::model::failure::{Code, Failure, FailureKind};
use crate::model::{Job, RetryUnanswered, Secret, SecretOrigin};
use crate::refresh::circuit_breaker::Cause;
use crate::runner::status::{ChainState, JobState, Snapshot};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// An issuer that fails like this from `begins` to `ends`.
fn away(world: &World, begins: Duration, ends: Duration, how: &Failure) -> Plan {
    let (time, how) = (world.time.clone(), how.clone());
    let fails = move |_| {
        let now = time.passed();
        (begins <= now && now < ends).then(|| how.clone())
    };
    Plan {
        client: Some(1),
        fails: Arc::new(fails),
        ..Plan::default()
    }
}

fn code(kind: FailureKind, code: &str) -> Failure {
    Failure::new(kind, code, "the model fails")
}

fn with_secret(name: &str) -> Job {
    let mut job = job(name);
    let secret = Secret {
        origin: SecretOrigin::File("/secret".into()),
        rotating: false,
        retry_unanswered: RetryUnanswered::default(),
        write_back: false,
        to: None,
    };
    job.source
        .secrets
        .insert("client_secret".to_owned(), secret);
    job
}

/// The requests of each client in a span of time.
fn asked_by_client(
    world: &World,
    from: Duration,
    to: Duration,
) -> BTreeMap<Option<u8>, Vec<Duration>> {
    let facts = world.facts();
    let mut by_client: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for asked in facts.asked.iter().filter(|a| from <= a.at && a.at < to) {
        let client = facts.plans.get(&asked.job).and_then(|plan| plan.client);
        by_client.entry(client).or_default().push(asked.at);
    }
    by_client
}

fn assert_all_fresh(snapshot: &Snapshot, what: &str) {
    for job in &snapshot.jobs {
        let is_fresh = job.state == JobState::Ready && job.attempt == 0 && job.held_back.is_none();
        assert!(is_fresh, "{what}: {job:?}");
        assert!(
            job.expires_at.unwrap() > snapshot.at.after(MINUTE),
            "{what}: {job:?}"
        );
    }
}

#[test]
fn an_issuer_that_was_away_for_six_hours_is_left_alone_and_all_are_fresh_within_a_minute_of_its_return()
 {
    let (begins, ends) = (HOUR, 7 * HOUR);
    let throttled = Failure {
        retry_after: Some(20 * SECOND),
        ..code(FailureKind::Unavailable, "http.429")
    };
    for (how, takes) in [
        (
            code(FailureKind::Unavailable, "http.connect"),
            Duration::ZERO,
        ),
        (
            code(FailureKind::Unavailable, "http.503"),
            Duration::from_millis(300),
        ),
        (code(FailureKind::Unavailable, "http.timeout"), 10 * SECOND),
        (throttled, Duration::from_millis(50)),
        // A gateway's answer for an issuer that it does not find.
        (
            code(FailureKind::InvalidConfig, "http.404"),
            Duration::from_millis(50),
        ),
    ] {
        let what = how.code().unwrap().to_owned();
        let world = World::default();
        let mut jobs = Vec::new();
        for n in 0..200_u8 {
            let name = format!("job-{n}");
            let time = world.time.clone();
            let plan = Plan {
                client: Some(n % 4),
                life: if n % 2 == 0 { 300 * SECOND } else { 8 * HOUR },
                takes: Duration::from_millis(50),
                slow: Arc::new(move || {
                    let now = time.passed();
                    (begins <= now && now < ends).then_some(takes)
                }),
                ..away(&world, begins, ends, &how)
            };
            world.plan(&name, plan);
            jobs.push(job(&name));
        }
        world.time.run(async {
            let started = world.start(jobs).await;
            world.time.wait(ends).await;
            let status = started.handle.status(vec![]).await.unwrap();
            for job in &status.jobs {
                let n: u8 = job.id.name.trim_start_matches("job-").parse().unwrap();
                let name = &job.id.name;
                if n % 2 == 1 {
                    assert!(
                        job.state.is_ready(),
                        "{what}: {name} lives and is {}",
                        job.state
                    );
                    assert_eq!(world.written(name).len(), 1, "{what}: {name}");
                }
            }
            let held = status.jobs.iter().filter(|job| job.held_back.is_some());
            let held = held.count();
            assert!(held > 180, "{what}: {held} say why they wait");
            let at_the_end = asked_by_client(&world, begins, ends);
            assert_eq!(at_the_end.len(), 4);
            for (client, asked) in &at_the_end {
                assert!(
                    asked.len() < 720,
                    "{what}: client {client:?}: {}",
                    asked.len()
                );
                let is_short_lived = client.is_some_and(|client| client % 2 == 0);
                assert!(
                    !is_short_lived || asked.len() > 300,
                    "{what}: client {client:?}: {}",
                    asked.len()
                );
                let later: Vec<_> = asked
                    .iter()
                    .filter(|at| **at > asked[0] + 5 * MINUTE)
                    .collect();
                for three in later.windows(3) {
                    assert!(*three[2] - *three[0] >= MINUTE, "{what}: {three:?}");
                }
            }
            world.time.wait(MINUTE).await;
            let status = started.handle.status(vec![]).await.unwrap();
            assert_all_fresh(&status, &what);
            assert!(
                world.facts().most_in_flight <= 16,
                "{what}: one origin's bound"
            );
            started.stop().await;
        });
    }
}

#[test]
fn jobs_that_wait_for_their_issuer_have_not_failed_and_are_late() {
    let world = World::default();
    let how = code(FailureKind::Unavailable, "http.connect");
    let names: Vec<String> = (0..100).map(|n| format!("job-{n}")).collect();
    for name in &names {
        world.plan(name, away(&world, Duration::ZERO, 10 * MINUTE, &how));
    }
    world.facts().ahead_ms = 250;
    world.time.run(async {
        let started = world
            .start(names.iter().map(|name| job(name)).collect())
            .await;
        world.time.wait(5 * MINUTE).await;
        let status = started.handle.status(vec![]).await.unwrap();
        let waiting: Vec<_> = status
            .jobs
            .iter()
            .filter(|job| job.held_back.is_some())
            .collect();
        assert!(waiting.len() >= 95, "{}", waiting.len());
        let never_failed = waiting.iter().filter(|job| job.attempt == 0).count();
        assert!(never_failed > 60, "{never_failed}");
        for job in &waiting {
            let held_back = job.held_back.as_ref().unwrap();
            assert_eq!(held_back.issuer, "https://issuer");
            assert_eq!(
                held_back.failure.code.as_ref().map(Code::as_str),
                Some("http.connect")
            );
            assert!(
                job.next_refresh
                    .is_some_and(|next| next <= status.at.after(35 * SECOND))
            );
        }
        let text = started.metrics.encode(status).unwrap();
        assert!(
            text.contains("evertoken_issuer_restrained{origin=\"https://issuer\"} 1"),
            "{text}"
        );
        world.time.wait(6 * MINUTE).await;
        let status = started.handle.status(vec![]).await.unwrap();
        let text = started.metrics.encode(status).unwrap();
        for line in [
            "evertoken_issuer_restrained{origin=\"https://issuer\"} 0",
            "evertoken_issuer_clock_skew_seconds{origin=\"https://issuer\"} 0.25",
            "evertoken_refresh_lateness_seconds_bucket{le=\"300.0\"} 0",
            "evertoken_refresh_lateness_seconds_bucket{le=\"900.0\"} 100",
        ] {
            assert!(text.contains(line), "{line}:\n{text}");
        }
        started.stop().await;
    });
}

#[test]
fn one_job_that_always_fails_at_its_issuer_keeps_nobody_waiting_for_long() {
    let world = World::default();
    let broken = Plan {
        client: Some(1),
        fails: Arc::new(|_| Some(code(FailureKind::Unavailable, "http.500"))),
        ..Plan::default()
    };
    world.plan("broken", broken);
    let mut jobs = vec![job("broken")];
    for n in 0..100 {
        let name = format!("well-{n}");
        let plan = Plan {
            client: Some(1),
            ..Plan::default()
        };
        world.plan(&name, plan);
        jobs.push(job(&name));
    }
    world.time.run(async {
        let started = world.start(jobs).await;
        world.time.wait(HOUR).await;
        let asked = world.asked("broken").len();
        assert!((100..=250).contains(&asked), "{asked} in an hour");
        let all = lateness(&started.metrics, &started.handle).await;
        assert!(all.within_one_second >= 0.98, "{all:?}");
        started.stop().await;
    });
}

#[derive(Debug)]
struct Lateness {
    within_one_second: f64,
}

async fn lateness(
    metrics: &crate::runner::metrics::Metrics,
    handle: &crate::runner::Handle,
) -> Lateness {
    let text = metrics
        .encode(handle.status(vec![]).await.unwrap())
        .unwrap();
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let all = value("evertoken_refresh_lateness_seconds_count");
    let in_time = value("evertoken_refresh_lateness_seconds_bucket{le=\"1.0\"}");
    Lateness {
        within_one_second: in_time / all,
    }
}

#[test]
fn a_client_that_is_refused_is_one_clients_trouble_and_ends_with_its_secret_changed() {
    let world = World::default();
    world.facts().secrets = Some([1; 32]);
    let how = code(FailureKind::Denied, "invalid_client");
    let mut jobs = Vec::new();
    for n in 0..200_u8 {
        let name = format!("job-{n}");
        let plan = Plan {
            client: Some(n % 2),
            ..if n % 2 == 0 {
                away(&world, Duration::ZERO, HOUR, &how)
            } else {
                Plan::default()
            }
        };
        world.plan(&name, plan);
        jobs.push(with_secret(&name));
    }
    world.time.run(async {
        let started = world.start(jobs).await;
        world.time.wait(HOUR).await;
        let refused = &asked_by_client(&world, Duration::ZERO, HOUR)[&Some(0)];
        assert!(
            (50..=120).contains(&refused.len()),
            "{} in an hour",
            refused.len()
        );
        let status = started
            .handle
            .status(vec!["job-1".to_owned()])
            .await
            .unwrap();
        assert_eq!(status.jobs[0].state, JobState::Ready, "the other client's");
        world.facts().secrets = Some([2; 32]);
        world.time.wait(MINUTE).await;
        let status = started.handle.status(vec![]).await.unwrap();
        assert_all_fresh(&status, "after the secret was changed");
        started.stop().await;
    });
}

#[test]
fn a_refused_client_and_an_issuer_in_trouble_are_told_apart_in_status_and_metrics() {
    let world = World::default();
    world.facts().secrets = Some([1; 32]);
    let refused = code(FailureKind::Denied, "unauthorized_client");
    let away_too = code(FailureKind::Unavailable, "http.503");
    let mut names = Vec::new();
    for n in 0..60 {
        names.extend([format!("refused-{n}"), format!("well-{n}")]);
        let plan = Plan {
            client: Some(2),
            ..away(&world, HOUR / 2, HOUR, &away_too)
        };
        world.plan(&format!("well-{n}"), plan);
        let plan = away(&world, Duration::ZERO, HOUR, &refused);
        world.plan(&format!("refused-{n}"), plan);
    }
    world.time.run(async {
        let started = world
            .start(names.iter().map(|name| with_secret(name)).collect())
            .await;
        for (pass, restrained, refused, causes) in [
            (10 * MINUTE, "0", "1", vec![Cause::ClientRefused]),
            (
                30 * MINUTE,
                "1",
                "1",
                vec![Cause::IssuerInTrouble, Cause::ClientRefused],
            ),
            (25 * MINUTE, "0", "0", vec![]),
        ] {
            world.time.wait(pass).await;
            let status = started.handle.status(vec![]).await.unwrap();
            let held_back = status.jobs.iter().filter_map(|job| job.held_back.as_ref());
            let seen: std::collections::BTreeSet<_> = held_back.map(|held| held.cause).collect();
            assert_eq!(seen.into_iter().collect::<Vec<_>>(), causes, "{pass:?}");
            let text = started.metrics.encode(status).unwrap();
            for (gauge, value) in [
                ("evertoken_issuer_restrained", restrained),
                ("evertoken_issuer_clients_refused", refused),
            ] {
                let line = format!("{gauge}{{origin=\"https://issuer\"}}");
                let found = text.lines().find(|found| found.starts_with(&line));
                let found = found.and_then(|found| found.rsplit(' ').next());
                assert_eq!(found.unwrap_or("0"), value, "{gauge} after {pass:?}");
            }
            if refused == "1" && restrained == "0" {
                for n in 0..60 {
                    assert_eq!(world.written(&format!("well-{n}")).len(), 3, "others go on");
                }
            }
        }
        started.stop().await;
    });
}

#[test]
fn what_is_wrong_on_our_own_side_keeps_nobody_else_waiting() {
    for how in [
        code(FailureKind::InvalidConfig, "secret.not-found"),
        code(FailureKind::Unavailable, "kubernetes.unreachable"),
        code(FailureKind::Internal, "plugin.trap"),
        code(FailureKind::Denied, "invalid_grant"),
    ] {
        let world = World::default();
        world.plan("broken", away(&world, Duration::ZERO, HOUR, &how));
        let plan = Plan {
            client: Some(1),
            ..Plan::default()
        };
        world.plan("well", plan);
        world.time.run(async {
            let started = world.start(vec![job("broken"), job("well")]).await;
            world.time.wait(SECOND).await;
            assert_eq!(world.written("well").len(), 1, "{how:?}");
            world.time.wait(HOUR / 2).await;
            let all = lateness(&started.metrics, &started.handle).await;
            assert!(all.within_one_second >= 1.0, "{how:?}: {all:?}");
            started.stop().await;
        });
    }
}

#[test]
fn whoever_asks_by_name_gets_a_try_at_an_issuer_in_trouble() {
    let world = World::default();
    let how = Failure {
        retry_after: Some(HOUR),
        ..code(FailureKind::Unavailable, "http.503")
    };
    for name in ["a", "b"] {
        world.plan(name, away(&world, Duration::ZERO, 3 * MINUTE, &how));
    }
    world.time.run(async {
        let started = world.start(vec![job("a"), job("b")]).await;
        world.time.wait(4 * MINUTE).await;
        assert_eq!(
            world.facts().asked.len(),
            2,
            "the issuer asked for an hour's rest"
        );
        started.handle.refresh(vec!["b".to_owned()]).await.unwrap();
        world.time.wait(SECOND).await;
        for name in ["a", "b"] {
            assert_eq!(
                world.written(name).len(),
                1,
                "{name}: one answer opens it for all"
            );
        }
        started.stop().await;
    });
}

/// No correction of the issuer is needed for that.
#[test]
fn a_job_at_a_wrong_address_is_no_trouble_of_the_issuers_and_keeps_no_other_waiting() {
    for (kind, wrong, refused) in [
        (FailureKind::Unavailable, "http.302", "1"),
        (FailureKind::Unavailable, "answer.unreadable", "1"),
        (FailureKind::Unavailable, "answer.no-token", "1"),
        (FailureKind::InvalidConfig, "answer.no-token", "0"),
        (FailureKind::InvalidConfig, "http.404", "0"),
    ] {
        let world = World::default();
        let how = code(kind, wrong);
        world.plan("wrong", away(&world, Duration::ZERO, HOUR, &how));
        let later = away(&world, HOUR / 2, HOUR / 2, &how);
        world.plan("right", later);
        world.time.run(async {
            let started = world.start(vec![job("wrong")]).await;
            world.time.wait(MINUTE).await;
            let status = started.handle.status(vec![]).await.unwrap();
            let text = started.metrics.encode(status).unwrap();
            for (gauge, value) in [
                ("evertoken_issuer_restrained", "0"),
                ("evertoken_issuer_clients_refused", refused),
            ] {
                let line = format!("{gauge}{{origin=\"https://issuer\"}}");
                let found = text.lines().find(|found| found.starts_with(&line));
                let found = found.and_then(|found| found.rsplit(' ').next());
                assert_eq!(found.unwrap_or("0"), value, "{gauge} for {kind} {wrong}");
            }
            started.handle.apply(put(vec![job("right")])).await.unwrap();
            world.time.wait(SECOND).await;
            assert_eq!(world.written("right").len(), 1, "{wrong}");
            started.stop().await;
        });
    }
}

/// A `Retry-After` of an hour is too long for a token of a minute and for a job without a token.
#[test]
fn an_issuer_that_asks_for_a_long_rest_is_tried_before_tokens_die_and_every_few_minutes_then() {
    let world = World::default();
    let how = Failure {
        retry_after: Some(1000 * HOUR),
        ..code(FailureKind::Unavailable, "http.429")
    };
    let plan = |life| Plan {
        life,
        ..away(&world, MINUTE, HOUR, &how)
    };
    for (name, life) in [("short", 2 * MINUTE), ("long", 20 * MINUTE)] {
        world.plan(name, plan(life));
    }
    world.time.run(async {
        let started = world.start(vec![job("short"), job("long")]).await;
        world.time.wait(HOUR - SECOND).await;
        let tries = asked_by_client(&world, MINUTE, HOUR)[&Some(1)].len();
        assert!((8..=20).contains(&tries), "{tries} tries in an hour");
        let short = world.asked("short");
        let [.., last_well] = short.iter().filter(|at| **at < MINUTE).collect::<Vec<_>>()[..]
        else {
            panic!("{short:?}");
        };
        let life = MINUTE..*last_well + 2 * MINUTE;
        let tries = short.iter().filter(|at| life.contains(*at)).count();
        assert!(tries >= 2, "{short:?}");
        world.time.wait(6 * MINUTE).await;
        for name in ["short", "long"] {
            assert!(world.written(name).len() >= 2, "{name}");
        }
        started.stop().await;
    });
}

#[test]
fn a_job_that_gets_another_client_or_is_removed_while_it_waits_waits_for_the_old_one_no_more() {
    let world = World::default();
    let how = Failure {
        retry_after: Some(HOUR),
        ..code(FailureKind::Unavailable, "http.503")
    };
    for name in ["first", "moves", "goes"] {
        world.plan(name, away(&world, Duration::ZERO, 10 * HOUR, &how));
    }
    world.time.run(async {
        let started = world
            .start_within(&limits(1, 1), vec![job("first"), job("moves"), job("goes")])
            .await;
        world.time.wait(MINUTE).await;
        assert_eq!(world.facts().asked.len(), 1);
        world.plan(
            "moves",
            Plan {
                client: Some(2),
                ..Plan::default()
            },
        );
        let mut moved = job("moves");
        moved.source.config = serde_json::json!({"client_id": "other"});
        started.handle.apply(put(vec![moved])).await.unwrap();
        let gone = crate::model::JobId::file("goes");
        started
            .handle
            .apply(vec![crate::runner::JobChange::Remove(gone)])
            .await
            .unwrap();
        world.time.wait(SECOND).await;
        assert_eq!(
            world.written("moves"),
            ["moves.0"],
            "asked once, as the new client"
        );
        world.time.wait(2 * HOUR).await;
        assert_eq!(world.asked("goes").len(), 0);
        started.stop().await;
    });
}

#[test]
fn an_issuer_that_nobody_asks_any_more_is_in_trouble_no_more() {
    let world = World::default();
    let how = code(FailureKind::Unavailable, "http.503");
    for name in ["moves", "goes", "is-asked-while-it-goes"] {
        world.plan(name, away(&world, Duration::ZERO, 10 * HOUR, &how));
    }
    world.time.run(async {
        let jobs = ["moves", "goes", "is-asked-while-it-goes"].map(job).into();
        let started = world.start(jobs).await;
        world.time.wait(MINUTE).await;
        let restrained = async || {
            let text = started
                .metrics
                .encode(started.handle.status(vec![]).await.unwrap());
            let text = text.unwrap();
            let line = text
                .lines()
                .find(|l| l.starts_with("evertoken_issuer_restrained{"))
                .unwrap();
            line.rsplit(' ').next().unwrap().to_owned()
        };
        assert_eq!(restrained().await, "1");
        world.plan("moves", Plan::default());
        let mut moved = job("moves");
        moved.source.config = serde_json::json!({"client_id": "other"});
        let names = vec!["is-asked-while-it-goes".to_owned()];
        started.handle.refresh(names).await.unwrap();
        let mut changes = put(vec![moved]);
        for name in ["goes", "is-asked-while-it-goes"] {
            let id = crate::model::JobId::file(name);
            changes.push(crate::runner::JobChange::Remove(id));
        }
        started.handle.apply(changes).await.unwrap();
        world.time.wait(SECOND).await;
        assert_eq!(restrained().await, "0");
        assert_eq!(world.written("moves").len(), 1);
        started.stop().await;
    });
}

#[test]
fn a_single_run_does_not_wait_for_a_client_that_is_refused() {
    let world = World::default();
    let how = code(FailureKind::Denied, "invalid_client");
    let names: Vec<String> = (0..50).map(|n| format!("job-{n}")).collect();
    for name in &names {
        world.plan(name, away(&world, Duration::ZERO, HOUR, &how));
    }
    let changes = put(names.iter().map(|name| job(name)).collect());
    world.time.run(async {
        let (runner, _handle, _) = world.runner(&limits(64, 16));
        let stop = CancellationToken::new();
        let snapshot = runner.once(changes, Some(HOUR), stop).await;
        assert!(world.time.passed() < MINUTE, "{:?}", world.time.passed());
        assert!(
            snapshot
                .jobs
                .iter()
                .all(|job| job.last_failure.is_some() || job.held_back.is_some())
        );
    });
}

/// A chain's record says more than the last failure: another job's refusal, or one before a restart.
#[test]
fn what_the_record_of_a_chain_says_is_said_at_once_while_the_token_lives() {
    let world = World::default();
    world.time.run(async {
        let started = world.start(vec![rotating("a"), job("b")]).await;
        world.time.wait(SECOND).await;
        for chain in [
            ChainState::Dead,
            ChainState::InDoubt,
            ChainState::NeedsAttention,
            ChainState::Ok,
        ] {
            world.facts().chains.insert("a".to_owned(), chain);
            let status = started.handle.status(vec![]).await.unwrap();
            let job = &status.jobs[0];
            assert_eq!((job.chain, job.state), (Some(chain), JobState::Ready));
            assert_eq!(status.jobs[1].chain, None, "it has no rotating secret");
            let text = started.metrics.encode(status).unwrap();
            let line =
                format!("evertoken_chain_state{{name=\"a\",namespace=\"\",state=\"{chain}\"}} 1");
            assert!(text.contains(&line), "{line}:\n{text}");
        }
        started.stop().await;
    });
}

#[test]
fn a_rotating_secret_that_dies_unused_is_used_in_time_also_after_a_restart() {
    let world = World::default();
    let plan = Plan {
        life: 24 * HOUR,
        rotating_life: Some(30 * MINUTE),
        ..Plan::default()
    };
    world.plan("a", plan);
    world.time.run(async {
        for _ in 0..3 {
            let started = world.start(vec![job("a")]).await;
            world.time.wait(20 * MINUTE).await;
            started.stop().await;
        }
        let asked = world.asked("a");
        assert_eq!(asked.len(), 3, "{asked:?}");
        for pair in asked.windows(2) {
            assert!(pair[1] - pair[0] < 25 * MINUTE, "{asked:?}");
        }
    });
}

#[test]
fn an_outage_and_its_end_are_the_same_in_every_run() {
    let run = || {
        let world = World::default();
        let how = failure(FailureKind::Unavailable);
        let names: Vec<String> = (0..50).map(|n| format!("job-{n}")).collect();
        for name in &names {
            world.plan(name, away(&world, 5 * MINUTE, 30 * MINUTE, &how));
        }
        world.time.run(async {
            let started = world
                .start(names.iter().map(|name| job(name)).collect())
                .await;
            world.time.wait(HOUR).await;
            started.stop().await;
        });
        let facts = world.facts();
        facts
            .asked
            .iter()
            .map(|asked| (asked.job.clone(), asked.at))
            .collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

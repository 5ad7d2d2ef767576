//! A stop is prompt and leaves nothing half done; a single run ends when nothing is left to wait for.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::world::{Plan, SECOND, World, failure, job, limits, output, put, rotating};
use crate::model::failure::FailureKind;
use crate::model::{Job, JobId, OnRemove, SharedOutput};
use crate::runner::JobChange;
use crate::runner::status::JobState;
use crate::stop;

fn slow_for(takes: Duration) -> Plan {
    Plan {
        takes,
        ..Plan::default()
    }
}

#[test]
fn a_stop_does_not_wait_for_an_issuer() {
    let world = World::default();
    world.plan("a", slow_for(20 * SECOND));
    world.time.run(async {
        let started = world.start(vec![job("a"), job("b")]).await;
        world.time.wait(SECOND).await;
        let before = world.time.passed();
        started.stop().await;
        assert_eq!(world.time.passed(), before);
        assert_eq!(world.facts().in_flight, 0);
    });
}

#[test]
fn a_stop_waits_for_a_write_under_way() {
    let world = World::default();
    world
        .facts()
        .write_takes
        .insert("a".to_owned(), SECOND + SECOND);
    world.time.run(async {
        let started = world.start(vec![job("a")]).await;
        world.time.wait(SECOND).await;
        started.stop().await;
        assert_eq!(world.written("a"), ["a.0"]);
        assert!(world.time.passed() < 3 * SECOND);
    });
}

#[test]
fn a_stop_waits_for_an_exchange_that_must_not_be_lost_and_keeps_its_token() {
    let world = World::default();
    world.plan("a", slow_for(5 * SECOND));
    world.time.run(async {
        let started = world.start(vec![rotating("a")]).await;
        world.time.wait(SECOND).await;
        started.stop().await;
        assert!(world.facts().store.contains_key(&JobId::file("a")));
        assert_eq!(world.written("a"), ["a.0"]);
    });
}

#[test]
fn a_stop_ends_even_if_a_write_does_not() {
    let world = World::default();
    world
        .facts()
        .write_takes
        .insert("a".to_owned(), 100_000 * SECOND);
    world.time.run(async {
        let started = world.start(vec![job("a")]).await;
        world.time.wait(SECOND).await;
        let before = world.time.passed();
        started.stop().await;
        assert_eq!(world.time.passed() - before, stop::WRITES);
    });
}

#[test]
fn a_stop_begins_no_further_writes_to_a_destination_that_does_not_answer() {
    let world = World::default();
    let jobs: Vec<Job> = (0..500).map(|n| job(&format!("j{n}"))).collect();
    for job in &jobs {
        let name = job.id.name.clone();
        world.facts().write_takes.insert(name, 100_000 * SECOND);
    }
    world.time.run(async {
        let started = world.start(jobs).await;
        world.time.wait(SECOND).await;
        let before = world.time.passed();
        started.stop().await;
        assert_eq!(world.time.passed() - before, stop::WRITES);
    });
}

#[test]
fn what_an_exchange_under_way_brings_is_written_as_long_as_the_stop_lasts() {
    for (takes, is_written) in [(4, true), (100_000, false)] {
        let world = World::default();
        world.plan("a", slow_for(5 * SECOND));
        let write_takes = takes * SECOND;
        world
            .facts()
            .write_takes
            .insert("a".to_owned(), write_takes);
        world.time.run(async {
            let started = world.start(vec![rotating("a")]).await;
            world.time.wait(SECOND).await;
            let before = world.time.passed();
            started.stop().await;
            assert_eq!(world.written("a").len(), usize::from(is_written));
            let took = world.time.passed() - before;
            assert_eq!(
                took,
                if is_written {
                    8 * SECOND
                } else {
                    stop::EXCHANGES
                }
            );
        });
    }
}

#[test]
fn whoever_talks_to_a_runner_that_ended_is_told() {
    let world = World::default();
    world.time.run(async {
        let started = world.start(vec![job("a")]).await;
        let handle = started.handle.clone();
        started.stop().await;
        assert!(handle.status(vec![]).await.is_err());
        assert!(handle.apply(put(vec![job("b")])).await.is_err());
    });
}

/// Runs once; the states of the jobs by name, and how long it took.
fn once(world: &World, changes: Vec<JobChange>, patience: Duration) -> (Vec<JobState>, Duration) {
    world.time.run(async {
        let (runner, _handle, _) = world.runner(&limits(64, 16));
        let stop = CancellationToken::new();
        let snapshot = runner.once(changes, Some(patience), stop).await;
        let states = snapshot.jobs.iter().map(|job| job.state).collect();
        (states, world.time.passed())
    })
}

#[test]
fn a_single_run_ends_when_all_is_written_and_kept() {
    let world = World::default();
    let shared = SharedOutput {
        from: vec![JobId::file("a"), JobId::file("b")],
        output: output("both"),
        on_remove: OnRemove::Keep,
    };
    world.facts().write_takes.insert("both".to_owned(), SECOND);
    let mut changes = put(vec![job("a"), job("b")]);
    changes.push(JobChange::SharedOutputs(vec![Arc::new(shared)]));
    let (states, took) = once(&world, changes, 60 * SECOND);
    assert_eq!(states, [JobState::Ready, JobState::Ready]);
    assert_eq!(world.written("both"), ["a.0,b.0"]);
    assert_eq!(world.facts().store.len(), 2);
    assert!(took < 2 * SECOND, "{took:?}");
}

#[test]
fn a_single_run_waits_for_what_passes_and_not_for_what_somebody_has_to_mend() {
    let world = World::default();
    let passes = |nth| (nth < 4).then(|| failure(FailureKind::Unavailable));
    let denied = |_| Some(failure(FailureKind::Denied));
    world.plan(
        "passes",
        Plan {
            fails: Arc::new(passes),
            ..Plan::default()
        },
    );
    world.plan(
        "refused",
        Plan {
            fails: Arc::new(denied),
            ..Plan::default()
        },
    );
    world
        .facts()
        .write_fails
        .insert("unwritable".to_owned(), failure(FailureKind::InvalidConfig));
    let jobs = vec![job("passes"), job("refused"), job("unwritable")];
    let (states, took) = once(&world, put(jobs), 3600 * SECOND);
    assert_eq!(
        states,
        [JobState::Ready, JobState::Failing, JobState::Unwritten]
    );
    assert!(took < 60 * SECOND, "{took:?}");
}

#[test]
fn a_single_runs_patience_has_an_end() {
    let world = World::default();
    let fails = |_| Some(failure(FailureKind::Unavailable));
    world.plan(
        "a",
        Plan {
            fails: Arc::new(fails),
            ..Plan::default()
        },
    );
    let (states, took) = once(&world, put(vec![job("a"), job("b")]), 30 * SECOND);
    assert_eq!(states, [JobState::Failing, JobState::Ready]);
    assert_eq!(took, 30 * SECOND);
}

#[test]
fn a_single_run_of_nothing_ends_at_once() {
    let (states, took) = once(&World::default(), Vec::new(), SECOND);
    assert_eq!((states.len(), took), (0, Duration::ZERO));
}

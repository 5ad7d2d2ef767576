//! Work that needs a plugin that is being compiled waits for it: no call begins, nothing fails, no other work is delayed, and all
//! continues at once afterwards.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::world::{Plan, SECOND, World, failure, job, limits, output, put, rotating};
use crate::model::failure::FailureKind;
use crate::model::{Format, Job, JobId, OnRemove, SharedOutput};
use crate::runner::JobChange;
use crate::runner::status::{JobState, JobStatus};

const MINUTE: Duration = Duration::from_secs(60);

/// A world in which this plugin takes five minutes to compile: longer than any call's or write's timeout.
fn compiling(plugin: &str) -> World {
    let world = World::default();
    let (takes, succeeds) = (5 * MINUTE, true);
    let to_load = (plugin.to_owned(), (takes, succeeds));
    world.facts().to_load.extend([to_load]);
    world
}

fn of(plugin: &str, name: &str) -> Job {
    let mut job = job(name);
    job.source.plugin = plugin.to_owned();
    job
}

fn formatted(name: &str) -> Job {
    let mut job = job(name);
    job.outputs = vec![formatted_output(name)];
    job
}

fn formatted_output(path: &str) -> crate::model::Output {
    let mut output = output(path);
    output.format = Some(Format {
        plugin: "large".to_owned(),
        config: serde_json::Value::Null,
    });
    output
}

fn is_untouched(job: &JobStatus, state: JobState) -> bool {
    job.state == state
        && (job.attempt, job.last_failure.is_none()) == (0, true)
        && job.held_back.is_none()
        && job.outputs.iter().all(|output| output.failure.is_none())
}

#[test]
fn jobs_wait_for_their_plugin_without_an_attempt_or_a_place_and_go_on_at_once() {
    let world = compiling("large");
    world.time.run(async {
        let jobs = (0..100).map(|n| of("large", &format!("l{n}")));
        let jobs = jobs.chain([job("other")]).collect();
        // With two places, which would be taken for five minutes.
        let started = world.start_within(&limits(2, 2), jobs).await;
        world.time.wait(MINUTE).await;
        assert_eq!(world.written("other"), ["other.0"]);
        assert!(world.asked("other")[0] < SECOND);
        // A job that is added meanwhile waits for the same plugin.
        let late = put(vec![of("large", "late")]);
        started.handle.apply(late).await.unwrap();
        world.time.wait(MINUTE).await;
        let status = started.handle.status(vec![]).await.unwrap();
        for job in status.jobs.iter().filter(|job| job.id.name != "other") {
            assert!(is_untouched(job, JobState::Pending), "{job:?}");
            let compiling = job.compiling.as_ref().unwrap();
            assert_eq!(compiling.plugin, "large");
            assert_eq!(status.at.since(compiling.since), 2 * MINUTE);
        }
        let text = started.metrics.encode(status).unwrap();
        for line in [
            "evertoken_plugins_compiling 1",
            "evertoken_actions_in_flight 0",
            "evertoken_actions_waiting 101",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
        world.time.wait(3 * MINUTE + 10 * SECOND).await;
        let status = started.handle.status(vec![]).await.unwrap();
        for job in &status.jobs {
            assert!(is_untouched(job, JobState::Ready), "{job:?}");
            assert_eq!(job.compiling, None);
        }
        assert_eq!(world.asked("l0")[0], 5 * MINUTE);
        assert_eq!(world.facts().loads, ["large"]);
        let text = started.metrics.encode(status).unwrap();
        assert!(!text.contains(r#"result="failed""#), "{text}");
        started.stop().await;
    });
}

#[test]
fn options_of_a_job_that_comes_later_are_judged_before_its_first_call() {
    let world = World::default();
    world.time.run(async {
        let started = world.start(vec![job("a")]).await;
        world.time.wait(SECOND).await;
        assert!(world.facts().loads.is_empty());
        world.facts().unjudged.insert("late".to_owned());
        let late = job("late");
        let plugin = late.source.plugin.clone();
        started.handle.apply(put(vec![late])).await.unwrap();
        world.time.wait(SECOND).await;
        assert_eq!(world.facts().loads, [plugin]);
        assert!(world.facts().unjudged.is_empty());
        assert_eq!(world.written("late"), ["late.0"]);
        started.stop().await;
    });
}

#[test]
fn a_token_waits_for_its_format_and_is_kept_meanwhile() {
    let world = compiling("large");
    world.time.run(async {
        let shared = SharedOutput {
            from: vec![JobId::file("b")],
            output: formatted_output("shared"),
            on_remove: OnRemove::Keep,
        };
        let (runner, handle, _) = world.runner(&limits(64, 16));
        let stop = CancellationToken::new();
        let task = tokio::spawn(runner.run(stop.clone()));
        let changes = put(vec![formatted("a"), job("b")]);
        let shared = JobChange::SharedOutputs(vec![shared.into()]);
        handle
            .apply(changes.into_iter().chain([shared]).collect())
            .await
            .unwrap();
        world.time.wait(2 * MINUTE).await;
        let status = handle.status(vec![]).await.unwrap();
        for job in &status.jobs {
            assert!(is_untouched(job, JobState::Publishing), "{job:?}");
            assert_eq!(job.compiling.as_ref().unwrap().plugin, "large");
            assert!(world.facts().store.contains_key(&job.id));
        }
        assert_eq!(world.written("b"), ["b.0"]);
        world.time.wait(3 * MINUTE + SECOND).await;
        for path in ["a", "shared"] {
            assert_eq!(world.written(path).len(), 1, "{path}");
        }
        stop.cancel();
        task.await.unwrap();
    });
}

#[test]
fn after_a_restart_a_plugin_is_compiled_while_the_kept_token_lives() {
    let world = World::default();
    world.plan(
        "a",
        Plan {
            life: 10 * MINUTE,
            ..Plan::default()
        },
    );
    world.time.run(async {
        let started = world.start(vec![of("large", "a")]).await;
        world.time.wait(SECOND).await;
        started.stop().await;
        let until_due = Duration::from_secs(480);
        world
            .facts()
            .to_load
            .insert("large".to_owned(), (5 * MINUTE, true));
        let started = world.start(vec![of("large", "a")]).await;
        world.time.wait(until_due + SECOND).await;
        let asked = world.asked("a");
        assert_eq!(asked.len(), 2, "{asked:?}");
        assert!(
            asked[1] < until_due + 5 * SECOND,
            "no later for the compiler: {asked:?}"
        );
        started.stop().await;
    });
}

#[test]
fn a_plugin_that_cannot_be_loaded_is_asked_for_again_by_each_try_and_only_then() {
    let world = World::default();
    world
        .facts()
        .to_load
        .insert("torn".to_owned(), (MINUTE, false));
    world.plan(
        "a",
        Plan {
            fails: std::sync::Arc::new(|nth| (nth < 2).then(|| failure(FailureKind::Internal))),
            ..Plan::default()
        },
    );
    world.time.run(async {
        let started = world.start(vec![of("torn", "a"), of("torn", "b")]).await;
        world.time.wait(MINUTE + SECOND).await;
        // Both had the result of the compilation, each by itself.
        assert_eq!(world.asked("a")[0], MINUTE);
        assert_eq!(world.asked("b")[0], MINUTE);
        assert_eq!(world.facts().loads.len(), 1);
        world.time.wait(30 * MINUTE).await;
        let tries = world.asked("a").len();
        assert!(tries >= 3, "{tries}");
        let all_tries = tries + world.asked("b").len();
        assert!(world.facts().loads.len() <= all_tries);
        started.stop().await;
    });
}

#[test]
fn a_stop_waits_for_no_compiler_and_a_single_run_says_what_it_waited_for() {
    let world = compiling("large");
    world.time.run(async {
        let started = world.start(vec![of("large", "a"), formatted("b")]).await;
        world.time.wait(MINUTE).await;
        let before = world.time.passed();
        started.stop().await;
        assert_eq!(world.time.passed(), before);

        let (runner, _, _) = world.runner(&limits(64, 16));
        let jobs = put(vec![of("large", "a"), formatted("b")]);
        let stop = CancellationToken::new();
        let snapshot = runner.once(jobs, Some(2 * MINUTE), stop).await;
        for job in &snapshot.jobs {
            assert_eq!(job.compiling.as_ref().unwrap().plugin, "large", "{job:?}");
        }
        assert_eq!(world.time.passed(), before + 2 * MINUTE);
    });
}

#[test]
fn a_token_that_comes_while_the_process_stops_is_kept_and_waits_for_no_compiler() {
    let world = compiling("large");
    let takes = 5 * SECOND;
    world.plan(
        "a",
        Plan {
            takes,
            ..Plan::default()
        },
    );
    world.time.run(async {
        let mut job = rotating("a");
        job.outputs = vec![output("plain"), formatted_output("formatted")];
        let started = world.start(vec![job]).await;
        world.time.wait(SECOND).await;
        started.stop().await;
        assert!(world.facts().store.contains_key(&JobId::file("a")));
        assert_eq!(world.written("plain"), ["a.0"]);
        assert!(world.written("formatted").is_empty());
        assert!(world.time.passed() < takes + SECOND);
    });
}

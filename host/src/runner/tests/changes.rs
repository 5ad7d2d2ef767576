//! Changes of jobs while the runner runs; unchanged parts go on.

use std::sync::Arc;
use std::time::Duration;

use super::world::{DELETED, Plan, SECOND, World, failure, job, limits, output, put};
use crate::model::failure::FailureKind;
use crate::model::time::Clock as _;
use crate::model::{Job, JobId, OnRemove, RetryUnanswered, Secret, SecretOrigin, SharedOutput};
use crate::runner::status::JobState;
use crate::runner::{JobChange, RefreshAsked};

fn shared_output(from: &[&str], path: &str, on_remove: OnRemove) -> Arc<SharedOutput> {
    Arc::new(SharedOutput {
        from: from.iter().map(|name| JobId::file(*name)).collect(),
        output: output(path),
        on_remove,
    })
}

fn shared(from: &[&str], path: &str) -> JobChange {
    JobChange::SharedOutputs(vec![shared_output(from, path, OnRemove::Keep)])
}

/// A job whose outputs, at these paths, are deleted when the configuration has them no more.
fn tidy(name: &str, paths: &[&str]) -> Job {
    Job {
        outputs: paths.iter().map(|path| output(path)).collect(),
        on_remove: OnRemove::Delete,
        ..job(name)
    }
}

fn remove(name: &str) -> JobChange {
    JobChange::Remove(JobId::file(name))
}

#[test]
fn changed_outputs_get_the_held_token_and_the_issuer_is_not_asked() {
    let world = World::default();
    world.time.run(async {
        let started = world.start(vec![job("a")]).await;
        world.time.wait(SECOND).await;
        let mut changed = job("a");
        changed.outputs = vec![output("b"), output("c")];
        started.handle.apply(put(vec![changed])).await.unwrap();
        world.time.wait(SECOND).await;
        assert_eq!(world.written("b"), ["a.0"]);
        assert_eq!(world.written("c"), ["a.0"]);
        assert_eq!(world.asked("a").len(), 1);
        started.stop().await;
    });
}

#[test]
fn a_changed_policy_only_changes_the_time() {
    let world = World::default();
    world.time.run(async {
        let started = world.start(vec![job("a")]).await;
        world.time.wait(SECOND).await;
        let mut changed = job("a");
        changed.refresh.every = 100 * SECOND;
        started.handle.apply(put(vec![changed])).await.unwrap();
        world.time.wait(SECOND).await;
        assert_eq!((world.asked("a").len(), world.facts().write_calls), (1, 1));
        world.time.wait(100 * SECOND).await;
        assert_eq!(world.asked("a").len(), 2);
        started.stop().await;
    });
}

#[test]
fn a_changed_source_is_asked_at_once_and_its_predecessors_answer_is_dropped() {
    let world = World::default();
    world.plan(
        "a",
        Plan {
            takes: 5 * SECOND,
            ..Plan::default()
        },
    );
    let changed = |scope| {
        let mut job = job("a");
        job.source.config = serde_json::json!({ "scope": scope });
        put(vec![job])
    };
    world.time.run(async {
        let started = world.start(vec![job("a")]).await;
        world.time.wait(10 * SECOND).await;
        assert_eq!(world.written("a"), ["a.0"]);
        started.handle.apply(changed("one")).await.unwrap();
        world.time.wait(2 * SECOND).await;
        started.handle.apply(changed("two")).await.unwrap();
        world.time.wait(10 * SECOND).await;
        assert_eq!(world.written("a"), ["a.0", "a.2"]);
        started.stop().await;
    });
}

#[test]
fn the_same_job_again_changes_nothing() {
    let world = World::default();
    world.time.run(async {
        let started = world.start(vec![job("a")]).await;
        world.time.wait(SECOND).await;
        started.handle.apply(put(vec![job("a")])).await.unwrap();
        world.time.wait(SECOND).await;
        assert_eq!((world.asked("a").len(), world.facts().write_calls), (1, 1));
        started.stop().await;
    });
}

#[test]
fn a_removed_job_ends_its_write_and_is_asked_for_no_more() {
    let world = World::default();
    world.facts().write_takes.insert("a".to_owned(), 5 * SECOND);
    world.time.run(async {
        let started = world.start(vec![job("a"), job("b")]).await;
        world.time.wait(SECOND).await;
        let remove = JobChange::Remove(JobId::file("a"));
        started.handle.apply(vec![remove]).await.unwrap();
        world.time.wait(3600 * SECOND).await;
        assert_eq!(world.written("a"), ["a.0"]);
        assert_eq!(world.asked("a").len(), 1);
        let status = started.handle.status(vec![]).await.unwrap();
        let names: Vec<_> = status.jobs.iter().map(|job| job.id.to_string()).collect();
        assert_eq!(names, ["b"]);
        started.stop().await;
    });
}

#[test]
fn a_job_that_changes_while_it_is_written_is_written_in_order() {
    let world = World::default();
    world.facts().write_takes.insert("a".to_owned(), 5 * SECOND);
    world.time.run(async {
        let started = world.start(vec![job("a")]).await;
        world.time.wait(SECOND).await;
        for path in ["b", "c"] {
            let mut changed = job("a");
            changed.outputs = vec![output(path)];
            started.handle.apply(put(vec![changed])).await.unwrap();
        }
        world.time.wait(SECOND).await;
        assert_eq!(world.written("c").len(), 0, "the old write is under way");
        world.time.wait(5 * SECOND).await;
        assert_eq!(world.written("a"), ["a.0"]);
        assert_eq!(world.written("b").len(), 0, "never in use");
        assert_eq!(world.written("c"), ["a.0"]);
        started.stop().await;
    });
}

#[test]
fn a_shared_output_is_written_once_all_its_jobs_have_a_token_and_whenever_one_changes() {
    let world = World::default();
    world.plan(
        "slow",
        Plan {
            takes: 10 * SECOND,
            life: 36_000 * SECOND,
            ..Plan::default()
        },
    );
    world.time.run(async {
        let started = world.start(vec![job("a"), job("slow")]).await;
        let change = vec![shared(&["a", "slow"], "netrc")];
        started.handle.apply(change).await.unwrap();
        world.time.wait(5 * SECOND).await;
        assert_eq!(world.written("netrc").len(), 0);
        let status = started.handle.status(vec![]).await.unwrap();
        assert_eq!(status.shared_outputs.len(), 1);
        world.time.wait(295 * SECOND).await;
        assert_eq!(world.written("netrc"), ["a.0,slow.0", "a.1,slow.0"]);
        let again = vec![shared(&["slow"], "other")];
        started.handle.apply(again).await.unwrap();
        world.time.wait(300 * SECOND).await;
        assert_eq!(world.written("other"), ["slow.0"]);
        assert_eq!(world.written("netrc").len(), 2, "not shared any more");
        started.stop().await;
    });
}

#[test]
fn what_several_jobs_share_is_an_output_of_each_of_them() {
    let world = World::default();
    let cannot = |is_so: bool| match is_so {
        true => {
            let why = failure(FailureKind::InvalidConfig);
            world.facts().write_fails.insert("netrc".to_owned(), why);
        }
        false => world.facts().write_fails.clear(),
    };
    world.plan(
        "away",
        Plan {
            fails: Arc::new(|_| Some(failure(FailureKind::Unavailable))),
            origin: "https://another",
            ..Plan::default()
        },
    );
    world.time.run(async {
        cannot(true);
        let started = world.start(vec![job("a"), job("b"), job("away")]).await;
        let change = vec![shared(&["a", "b"], "netrc")];
        started.handle.apply(change).await.unwrap();
        for (what, mends, expected, is_published) in [
            ("never written", None, JobState::Unwritten, false),
            ("written", Some(false), JobState::Ready, true),
            ("still written", None, JobState::Ready, true),
            ("not the next one", Some(true), JobState::Unwritten, false),
        ] {
            if let Some(fails) = mends {
                cannot(fails);
            }
            // At least one of the tokens, which last five minutes, is replaced meanwhile.
            world.time.wait(250 * SECOND).await;
            for row in started.handle.status(vec![]).await.unwrap().jobs {
                let expected = match row.id.name.as_str() {
                    "away" => JobState::Failing,
                    _ => expected,
                };
                assert_eq!(row.state, expected, "{what}: {}", row.id);
                let published = row.published_expires_at;
                let is_newest = published.is_some() && published == row.expires_at;
                let of_shared = row.id.name != "away";
                assert_eq!(is_newest, of_shared && is_published, "{what}: {}", row.id);
            }
        }
        cannot(false);
        // Another job's missing token does not count as this job's failure.
        let change = vec![shared(&["a", "away"], "other")];
        started.handle.apply(change).await.unwrap();
        world.time.wait(150 * SECOND).await;
        let rows = started.handle.status(vec!["a".to_owned()]).await.unwrap();
        assert_eq!(rows.jobs[0].state, JobState::Ready);
        started.stop().await;
    });
}

#[test]
fn a_shared_output_rests_without_one_of_its_jobs_and_comes_back_with_it() {
    let world = World::default();
    world.time.run(async {
        let started = world.start(vec![job("a"), job("b")]).await;
        let change = vec![shared(&["a", "b"], "netrc")];
        started.handle.apply(change).await.unwrap();
        world.time.wait(SECOND).await;
        let remove = JobChange::Remove(JobId::file("b"));
        started.handle.apply(vec![remove]).await.unwrap();
        world.time.wait(3600 * SECOND).await;
        assert_eq!(world.written("netrc"), ["a.0,b.0"]);
        started.handle.apply(put(vec![job("b")])).await.unwrap();
        world.time.wait(SECOND).await;
        assert_eq!(world.written("netrc").len(), 2, "it is there again");
        let change = vec![shared(&["a"], "other")];
        started.handle.apply(change).await.unwrap();
        world.time.wait(SECOND).await;
        assert_eq!(world.written("other").len(), 1, "and can be replaced");
        started.stop().await;
    });
}

#[test]
fn whoever_asks_for_a_refresh_gets_one_and_learns_of_names_that_are_no_jobs() {
    let world = World::default();
    world.time.run(async {
        let started = world.start(vec![job("a"), job("b")]).await;
        world.time.wait(SECOND).await;
        let names = vec!["a".to_owned(), "nobody".to_owned()];
        let asked = started.handle.refresh(names).await.unwrap();
        let expected = RefreshAsked {
            at: world.time.now().wall,
            unknown: vec!["nobody".to_owned()],
        };
        assert_eq!(asked, expected);
        world.time.wait(SECOND).await;
        assert_eq!(world.written("a"), ["a.0"], "none is asked then");
        let asked = started.handle.refresh(vec!["a".to_owned()]).await.unwrap();
        assert_eq!(asked.unknown, Vec::<String>::new());
        world.time.wait(SECOND).await;
        assert_eq!(world.written("a"), ["a.0", "a.1"]);
        assert_eq!(world.written("b"), ["b.0"]);
        let one = started.handle.status(vec!["b".to_owned()]).await.unwrap();
        assert_eq!(one.jobs.len(), 1);
        started.stop().await;
    });
}

#[test]
fn ten_thousand_jobs_come_at_once_and_all_are_served() {
    let world = World::default();
    let jobs = (0..10_000)
        .map(|n| {
            let name = format!("job-{n}");
            let takes = Duration::from_millis(10);
            world.plan(
                &name,
                Plan {
                    takes,
                    ..Plan::default()
                },
            );
            job(&name)
        })
        .collect();
    world.time.run(async {
        let started = world.start(jobs).await;
        world.time.wait(15 * SECOND).await;
        assert_eq!(world.facts().written.len(), 10_000);
        started.stop().await;
    });
}

#[test]
fn a_job_that_waits_for_somebody_is_tried_again_once_its_secret_is_another() {
    let world = World::default();
    world.facts().secrets = Some([1; 32]);
    let mended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    let plan = Plan {
        fails: Arc::new(move |_| {
            let mended = is_mended.load(std::sync::atomic::Ordering::SeqCst);
            (!mended).then(|| failure(FailureKind::Denied))
        }),
        ..Plan::default()
    };
    world.plan("a", plan);
    let mut a = job("a");
    let secret = Secret {
        origin: SecretOrigin::File("/secret".into()),
        rotating: false,
        retry_unanswered: RetryUnanswered::default(),
        write_back: false,
        to: None,
    };
    a.source.secrets.insert("client_secret".to_owned(), secret);
    world.time.run(async {
        let started = world.start(vec![a]).await;
        world.time.wait(2 * 3600 * SECOND).await;
        let scheduled = world.asked("a").len();
        assert!((5..=7).contains(&scheduled), "{:?}", world.asked("a"));
        world.facts().secrets = None;
        world.time.wait(60 * SECOND).await;
        assert_eq!(
            world.asked("a").len(),
            scheduled,
            "what cannot be read has not changed"
        );
        mended.store(true, std::sync::atomic::Ordering::SeqCst);
        world.facts().secrets = Some([2; 32]);
        world.time.wait(31 * SECOND).await;
        assert_eq!(world.written("a").len(), 1, "{:?}", world.asked("a"));
        started.stop().await;
    });
}

#[test]
fn outputs_stay_or_go_as_their_job_says_when_the_configuration_has_them_no_more() {
    let taken_out = |paths: &[&str]| put(vec![tidy("a", paths)]);
    for (on_remove, changes, expected, what) in [
        (OnRemove::Keep, vec![remove("a")], ["a.0", "a.0"], "the job"),
        (
            OnRemove::Delete,
            vec![remove("a")],
            [DELETED, DELETED],
            "the job",
        ),
        (OnRemove::Delete, taken_out(&["x"]), ["a.0", DELETED], "one"),
        (
            OnRemove::Delete,
            taken_out(&["y", "x"]),
            ["a.0", "a.0"],
            "none",
        ),
        (OnRemove::Delete, taken_out(&["z"]), [DELETED; 2], "both"),
    ] {
        let world = World::default();
        world.time.run(async {
            let job = Job {
                on_remove,
                ..tidy("a", &["x", "y"])
            };
            let started = world.start(vec![job]).await;
            world.time.wait(SECOND).await;
            started.handle.apply(changes).await.unwrap();
            world.time.wait(SECOND).await;
            for (path, expected) in ["x", "y"].into_iter().zip(expected) {
                let written = world.written(path);
                assert_eq!(
                    written.last().map(String::as_str),
                    Some(expected),
                    "{what}: {path}"
                );
            }
            let status = started.handle.status(vec![]).await.unwrap();
            assert_eq!(status.withdrawals, []);
            started.stop().await;
        });
    }
}

#[test]
fn an_output_that_another_job_writes_from_now_on_is_not_deleted() {
    let world = World::default();
    world.time.run(async {
        let started = world.start(vec![tidy("a", &["x"])]).await;
        world.time.wait(SECOND).await;
        let mut changes = vec![remove("a")];
        changes.extend(put(vec![tidy("b", &["x"])]));
        started.handle.apply(changes).await.unwrap();
        world.time.wait(SECOND).await;
        assert_eq!(world.written("x"), ["a.0", "b.0"]);
        started.stop().await;
    });
}

#[test]
fn what_is_written_to_a_place_while_it_is_being_deleted_is_written_again() {
    let world = World::default();
    world.time.run(async {
        let started = world.start(vec![tidy("a", &["x"])]).await;
        world.time.wait(SECOND).await;
        world.facts().write_takes.insert("x".to_owned(), 5 * SECOND);
        started.handle.apply(vec![remove("a")]).await.unwrap();
        world.time.wait(SECOND).await;
        let put = put(vec![tidy("b", &["x"])]);
        started.handle.apply(put).await.unwrap();
        world.time.wait(30 * SECOND).await;
        assert_eq!(world.written("x").last().unwrap(), "b.0");
        started.stop().await;
    });
}

#[test]
fn a_deletion_that_fails_is_tried_again_and_shown_meanwhile() {
    let world = World::default();
    world.time.run(async {
        let started = world.start(vec![tidy("a", &["x"])]).await;
        world.time.wait(SECOND).await;
        let fails = failure(FailureKind::Unavailable);
        world.facts().write_fails.insert("x".to_owned(), fails);
        started.handle.apply(vec![remove("a")]).await.unwrap();
        world.time.wait(SECOND).await;
        let status = started.handle.status(vec![]).await.unwrap();
        let shown: Vec<_> = status
            .withdrawals
            .iter()
            .map(|it| &it.destination)
            .collect();
        assert_eq!(shown, ["x"]);
        assert!(status.withdrawals.iter().all(|it| it.failure.is_some()));
        world.facts().write_fails.clear();
        world.time.wait(600 * SECOND).await;
        assert_eq!(world.written("x"), ["a.0", DELETED]);
        started.stop().await;
    });
}

#[test]
fn a_shared_output_that_stays_is_not_touched_and_one_that_goes_is_deleted_with_its_jobs() {
    let world = World::default();
    world.time.run(async {
        let started = world.start(vec![job("a"), job("b")]).await;
        let kept = || shared_output(&["a"], "kept", OnRemove::Delete);
        let gone = shared_output(&["a", "b"], "gone", OnRemove::Delete);
        let both = JobChange::SharedOutputs(vec![kept(), gone]);
        started.handle.apply(vec![both]).await.unwrap();
        world.time.wait(SECOND).await;
        let before = world.facts().write_calls;
        let one = JobChange::SharedOutputs(vec![kept()]);
        started.handle.apply(vec![remove("b"), one]).await.unwrap();
        world.time.wait(SECOND).await;
        assert_eq!(world.facts().write_calls, before);
        assert_eq!(world.written("kept"), ["a.0"]);
        assert_eq!(world.written("gone"), ["a.0,b.0", DELETED]);
        started.stop().await;
    });
}

#[test]
fn another_way_to_the_same_token_is_taken_at_once_only_if_the_last_one_failed() {
    for (fails, asked) in [(false, 1), (true, 2)] {
        let world = World::default();
        world.plan(
            "a",
            Plan {
                fails: std::sync::Arc::new(move |nth| {
                    (fails && nth == 0).then(|| failure(FailureKind::Denied))
                }),
                ..Plan::default()
            },
        );
        world.time.run(async {
            let started = world.start(vec![job("a")]).await;
            world.time.wait(SECOND).await;
            let mut changed = job("a");
            changed.source.tls.ca_file = Some("/etc/ca.pem".into());
            started.handle.apply(put(vec![changed])).await.unwrap();
            world.time.wait(SECOND).await;
            assert_eq!(world.asked("a").len(), asked, "{fails}");
            started.stop().await;
        });
    }
}

#[test]
fn another_value_in_the_configuration_itself_is_another_source() {
    let world = World::default();
    let with = |value: &str| {
        let mut job = job("a");
        let secret = Secret {
            origin: SecretOrigin::Value(secrecy::SecretString::from(value).into()),
            rotating: false,
            retry_unanswered: RetryUnanswered::default(),
            write_back: false,
            to: None,
        };
        job.source
            .secrets
            .insert("client_secret".to_owned(), secret);
        job
    };
    world.time.run(async {
        let started = world.start(vec![with("old")]).await;
        world.time.wait(SECOND).await;
        for (value, asked) in [("old", 1), ("new", 2)] {
            started.handle.apply(put(vec![with(value)])).await.unwrap();
            world.time.wait(SECOND).await;
            assert_eq!(world.asked("a").len(), asked, "{value}");
        }
        started.stop().await;
    });
}

#[test]
fn changed_limits_count_for_what_begins_from_then_on() {
    let world = World::default();
    for name in ["a", "b", "c", "d"] {
        let takes = 10 * SECOND;
        world.plan(
            name,
            Plan {
                takes,
                ..Plan::default()
            },
        );
    }
    world.time.run(async {
        let jobs = ["a", "b", "c", "d"].map(job).to_vec();
        let started = world.start_within(&limits(64, 1), jobs).await;
        world.time.wait(SECOND).await;
        assert_eq!(world.facts().in_flight, 1);
        let wider = JobChange::Limits(limits(64, 3));
        started.handle.apply(vec![wider]).await.unwrap();
        world.time.wait(SECOND).await;
        assert_eq!(world.facts().in_flight, 3);
        started.stop().await;
    });
}

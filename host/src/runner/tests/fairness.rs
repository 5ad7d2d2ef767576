//! Limits hold, and a job that hangs, floods or fails only harms itself.

use std::sync::Arc;

use super::virtual_time::EPOCH;
use super::world::{Plan, SECOND, World, failure, job, kept, limits, put};
use crate::model::JobId;
use crate::model::failure::{Code, FailureKind};
use crate::runner::status::JobState;

fn hung() -> Plan {
    Plan {
        origin: "https://hung",
        takes: 100_000 * SECOND,
        ..Plan::default()
    }
}

#[test]
fn a_hung_issuer_with_a_thousand_jobs_delays_nobody_else() {
    let world = World::default();
    let mut jobs = Vec::new();
    for n in 0..1000 {
        let name = format!("hung-{n}");
        world.plan(&name, hung());
        jobs.push(job(&name));
    }
    jobs.extend((0..100).map(|n| job(&format!("well-{n}"))));
    world.time.run(async {
        let started = world.start(jobs).await;
        world.time.wait(SECOND).await;
        for n in 0..100 {
            assert_eq!(world.written(&format!("well-{n}")).len(), 1, "well-{n}");
        }
        world.time.wait(1200 * SECOND).await;
        for n in 0..100 {
            assert!(world.written(&format!("well-{n}")).len() >= 6, "well-{n}");
        }
        started.stop().await;
    });
}

#[test]
fn a_hung_issuer_with_a_thousand_jobs_changes_nothing_for_the_others() {
    let asked = |hung_jobs: usize| {
        let world = World::default();
        let steady = |name: &str| {
            let mut job = job(name);
            job.refresh.jitter = std::time::Duration::ZERO;
            job
        };
        let mut jobs = Vec::new();
        for n in 0..hung_jobs {
            let name = format!("hung-{n}");
            world.plan(&name, hung());
            jobs.push(steady(&name));
        }
        jobs.extend((0..300).map(|n| steady(&format!("well-{n}"))));
        world.time.run(async {
            let started = world.start(jobs).await;
            world.time.wait(3600 * SECOND).await;
            started.stop().await;
        });
        let facts = world.facts();
        let well = facts.asked.iter().filter(|a| a.job.starts_with("well"));
        well.map(|a| (a.job.clone(), a.at)).collect::<Vec<_>>()
    };
    let without = asked(0);
    assert!(without.len() > 300 * 16, "{}", without.len());
    assert_eq!(asked(1000), without);
}

#[test]
fn a_hung_plugin_without_an_endpoint_leaves_places_to_jobs_that_nobody_knows_yet() {
    let world = World::default();
    let mut jobs = Vec::new();
    for n in 0..1000 {
        let name = format!("hung-{n}");
        let plugin = Some("hung");
        world.plan(&name, Plan { plugin, ..hung() });
        jobs.push(job(&name));
    }
    world.time.run(async {
        let started = world.start(jobs).await;
        world.time.wait(SECOND).await;
        let names: Vec<String> = (0..10).map(|n| format!("well-{n}")).collect();
        for name in &names {
            let plugin = Some("well");
            world.plan(
                name,
                Plan {
                    plugin,
                    ..Plan::default()
                },
            );
        }
        let jobs = names.iter().map(|name| job(name)).collect();
        started.handle.apply(put(jobs)).await.unwrap();
        world.time.wait(SECOND).await;
        for name in &names {
            assert_eq!(world.written(name).len(), 1, "{name}");
        }
        assert_eq!(world.facts().in_flight, 16);
        started.stop().await;
    });
}

#[test]
fn a_call_that_never_ends_is_given_up_and_is_the_jobs_failure() {
    let world = World::default();
    world.plan("a", hung());
    world.time.run(async {
        let started = world.start(vec![job("a")]).await;
        world.time.wait(41 * SECOND).await;
        let status = started.handle.status(vec![]).await.unwrap();
        let said = status.jobs[0].last_failure.clone().unwrap();
        assert_eq!(said.code.as_ref().map(Code::as_str), Some("host.timeout"));
        started.stop().await;
    });
}

#[test]
fn no_more_is_under_way_than_the_bounds_allow() {
    for (all, per_origin, expected) in [(64, 16, 16), (8, 100, 6), (1, 1, 1)] {
        let world = World::default();
        let jobs = (0..100).map(|n| job(&format!("job-{n}"))).collect();
        world.time.run(async {
            let started = world.start_within(&limits(all, per_origin), jobs).await;
            world.time.wait(10 * SECOND).await;
            assert_eq!(world.facts().most_in_flight, expected);
            assert_eq!(world.facts().written.len(), 100, "all got theirs");
            started.stop().await;
        });
    }
}

#[test]
fn of_the_overdue_those_go_first_whose_consumers_see_the_end_first() {
    let world = World::default();
    let now = EPOCH.after(10_000 * SECOND);
    for (name, left) in [("a", 30), ("b", 10), ("c", 20)] {
        let expires_at = now.after(left * SECOND);
        let token = kept(name, expires_at.before(300 * SECOND), expires_at);
        world.facts().store.insert(JobId::file(name), token);
    }
    world.time.run(async {
        world.time.wait(10_000 * SECOND).await;
        let jobs = ["a", "b", "c", "none"].map(job).into();
        let started = world.start_within(&limits(1, 1), jobs).await;
        world.time.wait(SECOND).await;
        let order: Vec<_> = world
            .facts()
            .asked
            .iter()
            .map(|asked| asked.job.clone())
            .collect();
        assert_eq!(order, ["none", "b", "c", "a"]);
        started.stop().await;
    });
}

#[test]
fn a_panic_is_one_jobs_failure() {
    let world = World::default();
    let fails = |nth| match nth {
        0 => panic!("a bug in the host"),
        _ => None,
    };
    world.plan(
        "a",
        Plan {
            fails: Arc::new(fails),
            ..Plan::default()
        },
    );
    world.time.run(async {
        let started = world.start(vec![job("a"), job("b")]).await;
        world.time.wait(SECOND).await;
        let status = started.handle.status(vec![]).await.unwrap();
        assert_eq!(status.jobs[0].state, JobState::Failing);
        let said = status.jobs[0].last_failure.clone().unwrap();
        assert_eq!(said.kind, FailureKind::Internal);
        assert_eq!(said.code.as_ref().map(Code::as_str), Some("host.panic"));
        assert_eq!(status.jobs[1].state, JobState::Ready);
        world.time.wait(60 * SECOND).await;
        assert_eq!(world.written("a"), ["a.1"], "and it recovers");
        started.stop().await;
    });
}

#[test]
fn one_jobs_failures_are_nobody_elses() {
    let world = World::default();
    let fails = |_| Some(failure(FailureKind::Internal));
    world.plan(
        "a",
        Plan {
            fails: Arc::new(fails),
            ..Plan::default()
        },
    );
    world.time.run(async {
        let started = world.start(vec![job("a"), job("b")]).await;
        world.time.wait(3600 * SECOND).await;
        assert!(world.written("b").len() > 15);
        assert_eq!(world.written("a").len(), 0);
        // Without a token the longest wait is 30 s, of which jitter leaves at least a quarter.
        let asked = world.asked("a").len();
        assert!(asked <= 480, "{asked} calls in an hour");
        started.stop().await;
    });
}

/// A job of a tenant.
fn of_tenant(
    namespace: &str,
    name: &str,
    calls_per_minute_per_namespace: u32,
) -> crate::model::Job {
    let mut job = job(name);
    job.id.namespace = Some(namespace.to_owned());
    job.profile = Some(Arc::new(crate::model::ProfileUse {
        profile: "idp".to_owned(),
        limits: crate::model::profile::ProfileLimits {
            calls_per_minute_per_namespace,
            ..crate::model::defaults::PROFILE_LIMITS
        },
    }));
    job
}

#[test]
fn a_tenant_that_asks_without_end_waits_and_delays_no_other() {
    let world = World::default();
    world.time.run(async {
        let jobs = vec![of_tenant("loud", "a", 6), of_tenant("calm", "b", 6)];
        let started = world.start(jobs).await;
        world.time.wait(SECOND).await;
        for _ in 0..30 {
            let asked = vec!["loud/a".to_owned()];
            started.handle.refresh(asked).await.unwrap();
            world.time.wait(SECOND).await;
        }
        // A minute's worth at once, and then one each ten seconds.
        let calls = world.asked("a").len();
        assert!((6..=10).contains(&calls), "{calls}");
        started
            .handle
            .refresh(vec!["calm/b".to_owned()])
            .await
            .unwrap();
        world.time.wait(SECOND).await;
        assert_eq!(world.asked("b").len(), 2);
        world.time.wait(60 * SECOND).await;
        assert!(world.asked("a").len() > calls - 1, "what waits is not lost");
        started.stop().await;
    });
}

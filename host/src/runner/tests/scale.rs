//! Ten thousand jobs under a long load.

use std::time::{Duration, Instant};

use super::world::{Plan, SECOND, Started, World, job, limits};

/// The number of refreshes, and of those no later than a second.
async fn lateness(started: &Started) -> (f64, f64) {
    let status = started.handle.status(vec![]).await.unwrap();
    let text = started.metrics.encode(status).unwrap();
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    (
        value("evertoken_refresh_lateness_seconds_count"),
        value("evertoken_refresh_lateness_seconds_bucket{le=\"1.0\"}"),
    )
}

/// A run's length in minutes of virtual time. Waves of refreshes come every three and a half minutes and are alike; an hour of them
/// takes an unoptimised program a minute of processor time.
const MINUTES: u32 = 15;

/// Sets another length.
const VARIABLE: &str = "EVERTOKEN_SCALE_MINUTES";

fn minutes() -> u32 {
    let said = std::env::var(VARIABLE).ok();
    said.map_or(MINUTES, |said| said.parse().expect(VARIABLE))
}

#[test]
fn ten_thousand_jobs_of_five_minutes_are_late_by_less_than_a_second() {
    let world = World::forgetful();
    let minutes = minutes();
    let jobs = (0..10_000).map(|n| job(&format!("job-{n}"))).collect();
    let began = Instant::now();
    world.time.run(async {
        let started = world.start_within(&limits(64, 64), jobs).await;
        world.time.wait(60 * SECOND).await;
        let (first, first_in_time) = lateness(&started).await;
        assert!((first - 10_000.0).abs() < 0.5, "all have their first token");
        world.time.wait(minutes * 60 * SECOND).await;
        let (all, in_time) = lateness(&started).await;
        let (refreshes, in_time) = (all - first, in_time - first_in_time);
        let took = began.elapsed();
        println!("{minutes} minutes, {refreshes} refreshes, {in_time} of them within a second, in {took:?}");
        assert!(refreshes > 2600.0 * f64::from(minutes), "{refreshes}");
        assert!(in_time >= 0.99 * refreshes, "{in_time} of {refreshes}");
        started.stop().await;
    });
}

/// Each wave of refreshes keeps such an issuer busy from its beginning to its end, and jitter puts many jobs into the queue
/// before those whose tokens expire sooner.
#[test]
fn at_an_issuer_that_just_keeps_up_nobody_waits_for_all_who_come_later() {
    let world = World::forgetful();
    let names: Vec<_> = (0..4500).map(|n| format!("job-{n}")).collect();
    for name in &names {
        let plan = Plan {
            takes: Duration::from_millis(256),
            ..Plan::default()
        };
        world.plan(name, plan);
    }
    let jobs = names.iter().map(|name| job(name)).collect();
    world.time.run(async {
        let started = world.start_within(&limits(64, 64), jobs).await;
        world.time.wait(60 * SECOND).await;
        let (first, first_in_time) = lateness(&started).await;
        world.time.wait(600 * SECOND).await;
        let (all, in_time) = lateness(&started).await;
        let (refreshes, in_time) = (all - first, in_time - first_in_time);
        assert!(refreshes > 2.5 * 4500.0, "{refreshes}");
        assert!(in_time >= 0.99 * refreshes, "{in_time} of {refreshes}");
        started.stop().await;
    });
}

#[test]
fn a_start_with_a_thousand_good_and_a_thousand_overdue_tokens_asks_for_the_overdue_by_their_end() {
    use super::virtual_time::EPOCH;
    use super::world::kept;
    use crate::model::JobId;

    let world = World::default();
    let now = EPOCH.after(10_000 * SECOND);
    let mut dice = fastrand::Rng::with_seed(1);
    let mut jobs = Vec::new();
    for n in 0..1000 {
        let good = kept("good", now, now.after(300 * SECOND));
        let left = Duration::from_millis(dice.u64(20_000..60_000));
        let overdue = kept(
            "overdue",
            now.after(left).before(300 * SECOND),
            now.after(left),
        );
        for (what, token) in [("good", good), ("overdue", overdue)] {
            let name = format!("{what}-{n}");
            world
                .facts()
                .store
                .insert(JobId::file(name.as_str()), token);
            world.plan(
                &name,
                Plan {
                    client: Some(1),
                    ..Plan::default()
                },
            );
            jobs.push(job(&name));
        }
    }
    world.time.run(async {
        world.time.wait(10_000 * SECOND).await;
        let started = world.start(jobs).await;
        world.time.wait(10 * SECOND).await;
        started.stop().await;
    });
    let facts = world.facts();
    assert_eq!(facts.asked.len(), 1000);
    assert!(
        facts
            .asked
            .iter()
            .all(|asked| asked.job.starts_with("overdue"))
    );
    assert_eq!(facts.most_in_flight, 16);
    // While the store is still being read, jobs that are known already begin, up to the limit per origin.
    let later = facts.asked.iter().skip(16);
    let ends = later.map(|asked| asked.call.previous_expires_at.unwrap());
    assert!(ends.is_sorted(), "by what consumers see end first");
    let last = facts.asked.last().unwrap().at;
    assert!(last < 10_004 * SECOND, "{last:?}");
}

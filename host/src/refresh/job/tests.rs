//! The lifecycle of a job: the actions that follow each event, and rules that hold for all sequences of events.

use proptest::prelude::*;

use super::*;
use crate::refresh::output::OutputState;

const EPOCH_MS: u64 = 1_700_000_000_000;
const VERIFY: Duration = Duration::from_secs(600);

fn policy() -> Policy {
    Policy {
        at: 0.8,
        before_expiry: Duration::from_secs(90),
        every: Duration::from_secs(86_400),
        jitter: Duration::ZERO,
        default_lifetime: Duration::from_secs(3600),
    }
}

fn wall(s: u64) -> Timestamp {
    Timestamp(EPOCH_MS + s * 1000)
}

fn at(s: u64) -> Reading {
    Reading {
        wall: wall(s),
        boot: Duration::from_secs(s),
    }
}

fn token(obtained_s: u64, life_s: u64) -> JobEvent {
    JobEvent::Acquired(Candidate {
        is_empty: false,
        is_held_one: false,
        obtained_at: wall(obtained_s),
        expires_at: Some(wall(obtained_s + life_s)),
        not_before: None,
        rotating_expires_at: None,
    })
}

/// The held token again, with this life.
fn same_token(obtained_s: u64, life_s: u64) -> JobEvent {
    let JobEvent::Acquired(candidate) = token(obtained_s, life_s) else {
        unreachable!()
    };
    JobEvent::Acquired(Candidate {
        is_held_one: true,
        ..candidate
    })
}

/// A token whose source has a rotating secret that expires unless it is used.
fn token_with_rotating(obtained_s: u64, life_s: u64, rotating_life_s: u64) -> JobEvent {
    let JobEvent::Acquired(candidate) = token(obtained_s, life_s) else {
        unreachable!()
    };
    JobEvent::Acquired(Candidate {
        rotating_expires_at: Some(wall(obtained_s + rotating_life_s)),
        ..candidate
    })
}

const fn failure(kind: FailureKind) -> JobEvent {
    JobEvent::Failed {
        kind,
        retry_after: None,
        is_local: false,
    }
}

const WRITTEN: output::OutputEvent = output::OutputEvent::Written;

/// A job with one output, at second 0, with nothing in the store.
fn started() -> JobLifecycle {
    let mut job = JobLifecycle::new(policy(), VERIFY, 1, at(0));
    assert_eq!(
        job.step(JobEvent::Restored(None), at(0), 0.0),
        [Action::Acquire]
    );
    job
}

/// A job that got a token of five minutes at second 0 and wrote it everywhere.
fn fresh() -> JobLifecycle {
    let mut job = started();
    job.step(token(0, 300), at(0), 0.0);
    job.step(JobEvent::Keep(WRITTEN), at(0), 0.0);
    job.step(JobEvent::Output(0, WRITTEN), at(0), 0.0);
    assert!(job.is_settled(at(0)));
    job
}

#[test]
fn a_job_asks_adopts_keeps_publishes_and_rests_until_it_is_due() {
    let mut job = started();
    assert_eq!(
        job.step(token(1, 300), at(2), 0.0),
        [
            Action::Adopt,
            Action::Keep,
            Action::Write(0, Purpose::Publish)
        ]
    );
    assert!(!job.is_ready(at(2)), "nothing is written yet");
    assert_eq!(job.step(JobEvent::Output(0, WRITTEN), at(3), 0.0), []);
    assert!(job.is_ready(at(3)));
    assert!(!job.is_settled(at(3)), "it is not kept yet");
    assert_eq!(job.step(JobEvent::Keep(WRITTEN), at(3), 0.0), []);
    assert!(job.is_settled(at(3)));
    assert_eq!(job.wakes_at(at(3)), Some(Duration::from_secs(1 + 210)));
    assert_eq!(job.next_refresh(at(3)), Some(wall(211)));
    assert_eq!(job.step(JobEvent::Woken, at(210), 0.0), []);
    assert_eq!(job.step(JobEvent::Woken, at(211), 0.0), [Action::Acquire]);
    assert_eq!(
        job.step(JobEvent::Woken, at(212), 0.0),
        [],
        "asked only once"
    );
}

#[test]
fn nothing_is_asked_before_the_store_was() {
    let mut job = JobLifecycle::new(policy(), VERIFY, 1, at(0));
    assert_eq!(job.wakes_at(at(0)), None);
    assert_eq!(job.step(JobEvent::Woken, at(100), 0.0), []);
    assert_eq!(job.step(JobEvent::Asked, at(100), 0.0), []);
    assert_eq!(
        job.step(JobEvent::Restored(None), at(100), 0.0),
        [Action::Acquire]
    );
}

#[test]
fn a_restored_token_is_verified_in_its_outputs_and_asked_for_only_when_due() {
    let verified = [Action::Adopt, Action::Write(0, Purpose::Verify)];
    let and_asked = [
        Action::Adopt,
        Action::Write(0, Purpose::Verify),
        Action::Acquire,
    ];
    let now = at(100_000);
    let restored = |obtained_s: u64, life_s: u64| {
        let life = Life {
            obtained_at: wall(obtained_s),
            expires_at: Some(wall(obtained_s + life_s)),
            rotating_expires_at: None,
        };
        let mut job = JobLifecycle::new(policy(), VERIFY, 1, now);
        (job.step(JobEvent::Restored(Some(life)), now, 0.0), job)
    };
    for (obtained_s, expected, what) in [
        (99_900, verified.as_slice(), "it is fresh"),
        (99_750, and_asked.as_slice(), "it lives and is overdue"),
        (99_700, &[Action::Acquire], "it is dead"),
        (100_030, &verified, "it is a little ahead"),
        (100_100, &and_asked, "the clock was set back"),
    ] {
        assert_eq!(restored(obtained_s, 300).0, expected, "{what}");
    }
    let (_, mut job) = restored(200_000, 300);
    let actions = job.step(token(100_000, 300), at(100_001), 0.0);
    assert_eq!(
        actions.first(),
        Some(&Action::Adopt),
        "after the clock was set back, the end of the restored token means nothing"
    );
}

#[test]
fn a_failed_write_is_tried_again_without_asking_the_issuer() {
    let mut job = started();
    job.step(token(0, 300), at(0), 0.0);
    job.step(JobEvent::Keep(WRITTEN), at(0), 0.0);
    let failed = output::OutputEvent::Failed {
        kind: FailureKind::Denied,
        retry_after: None,
    };
    assert_eq!(job.step(JobEvent::Output(0, failed), at(0), 0.0), []);
    assert_eq!(job.wakes_at(at(0)), Some(Duration::from_secs(10)));
    assert_eq!(
        job.step(JobEvent::Woken, at(10), 0.0),
        [Action::Write(0, Purpose::Publish)]
    );
    assert_eq!(job.failures(), 0, "the source has not failed");
}

#[test]
fn outputs_are_verified_until_the_token_dies_and_a_dead_one_is_written_nowhere() {
    let mut job = started();
    job.step(token(0, 1000), at(0), 0.0);
    job.step(JobEvent::Keep(WRITTEN), at(0), 0.0);
    job.step(JobEvent::Output(0, WRITTEN), at(0), 0.0);
    assert_eq!(
        job.step(JobEvent::Woken, at(600), 0.0),
        [Action::Write(0, Purpose::Verify)]
    );
    job.step(JobEvent::Output(0, WRITTEN), at(600), 0.0);
    assert_eq!(job.step(JobEvent::Woken, at(800), 0.0), [Action::Acquire]);
    job.step(failure(FailureKind::Denied), at(800), 0.0);
    job.step(JobEvent::Woken, at(810), 0.0);
    assert_eq!(job.step(JobEvent::Woken, at(1300), 0.0), [], "it is dead");
    assert_eq!(job.wakes_at(at(1300)), None, "the source is being asked");
    assert_eq!(
        job.step(token(1300, 1000), at(1301), 0.0),
        [
            Action::Adopt,
            Action::Keep,
            Action::Write(0, Purpose::Publish)
        ]
    );
}

#[test]
fn the_issuer_is_asked_again_after_a_failure_as_its_kind_says() {
    let mut job = started();
    for (kind, now_s, expected_s) in [
        (FailureKind::Unavailable, 0, 1),
        (FailureKind::Unavailable, 1, 3),
        (FailureKind::Denied, 3, 13),
        (FailureKind::Denied, 13, 73),
    ] {
        job.step(JobEvent::Woken, at(now_s), 1.0);
        assert_eq!(job.step(failure(kind), at(now_s), 1.0), []);
        assert_eq!(
            job.wakes_at(at(now_s)),
            Some(Duration::from_secs(expected_s)),
            "{kind} at {now_s}"
        );
    }
    assert_eq!(job.failures(), 4);
    job.step(JobEvent::Woken, at(73), 0.0);
    job.step(token(73, 300), at(73), 0.0);
    assert_eq!(job.failures(), 0);
}

#[test]
fn a_token_lives_no_longer_than_the_part_of_it_that_consumers_have() {
    let mut job = started();
    job.step(token(0, 3600), at(0), 0.0);
    job.step(JobEvent::Keep(WRITTEN), at(0), 0.0);
    job.step(JobEvent::Output(0, WRITTEN), at(0), 0.0);
    assert_eq!(job.due().wall, wall(2880));
    job.step(JobEvent::PartExpires(wall(7200)), at(1), 0.0);
    assert_eq!(job.due().wall, wall(2880), "it outlives the token");
    job.step(JobEvent::PartExpires(wall(12)), at(1), 0.0);
    assert_eq!(job.due().wall, wall(6));
    assert_eq!(job.remaining(at(1)), Some(Duration::from_secs(11)));
    assert_eq!(job.step(JobEvent::Woken, at(6), 0.0), [Action::Acquire]);
    let actions = job.step(token(6, 3600), at(6), 0.0);
    assert_eq!(actions.first(), Some(&Action::Adopt));
    assert_eq!(
        job.due().wall,
        wall(6 + 2880),
        "its parts are not known yet"
    );
    let mut none = started();
    assert_eq!(none.step(JobEvent::PartExpires(wall(12)), at(0), 0.0), []);
}

#[test]
fn what_failed_on_our_own_side_is_tried_again_within_half_a_minute() {
    for kind in [FailureKind::Denied, FailureKind::InvalidConfig] {
        for (is_local, waits) in [(true, [10, 25, 25, 25]), (false, [10, 60, 300, 900])] {
            let mut job = started();
            let mut now = 0;
            for wait in waits {
                let failed = JobEvent::Failed {
                    kind,
                    retry_after: None,
                    is_local,
                };
                job.step(failed, at(now), 0.0);
                now += wait;
                let expected = Some(Duration::from_secs(now));
                assert_eq!(job.wakes_at(at(now)), expected, "{kind} {is_local}");
                job.step(JobEvent::Woken, at(now), 0.0);
            }
        }
    }
}

#[test]
fn a_token_that_is_no_good_is_a_failure() {
    let mut job = started();
    let actions = job.step(token(0, 0), at(1), 0.0);
    assert!(
        matches!(actions.as_slice(), [Action::Refuse(_)]),
        "{actions:?}"
    );
    assert_eq!(job.failures(), 1);
    assert!(!job.lives(at(1)));
}

#[test]
fn the_same_token_again_is_a_success_that_changes_nothing() {
    let mut job = fresh();
    assert_eq!(job.step(JobEvent::Woken, at(210), 0.0), [Action::Acquire]);
    let actions = job.step(same_token(211, 89), at(211), 0.0);
    assert_eq!(actions, [Action::Unchanged]);
    assert_eq!(job.failures(), 0);
    let half_of_89 = Duration::from_millis(211_000 + 44_500);
    assert_eq!(job.wakes_at(at(211)), Some(half_of_89));
    assert!(job.is_ready(at(211)));
}

#[test]
fn a_token_that_dies_earlier_is_published_and_only_makes_the_next_try_later() {
    let published = [
        Action::Adopt,
        Action::Keep,
        Action::Write(0, Purpose::Publish),
    ];
    for (answer, next_s, what) in [
        (token(211, 40), 211 + 20, "it expires earlier"),
        (
            token(211, 89),
            211 + 44,
            "at the same time: a session's cap",
        ),
        (token(211, 16), 211 + 10, "ten seconds are the least"),
        (token(211, 300), 211 + 210, "it lives longer"),
        (
            same_token(211, 300),
            211 + 210,
            "the same one, known to live on",
        ),
        (
            same_token(211, 40),
            211 + 20,
            "the same one, known to die earlier",
        ),
    ] {
        let mut job = fresh();
        job.step(JobEvent::Woken, at(210), 0.0);
        assert_eq!(job.step(answer, at(211), 0.0), published, "{what}");
        job.step(JobEvent::Keep(WRITTEN), at(211), 0.0);
        job.step(JobEvent::Output(0, WRITTEN), at(211), 0.0);
        let next = job.wakes_at(at(211)).unwrap();
        assert_eq!(next.as_secs(), next_s, "{what}");
    }
}

#[test]
fn whoever_asks_gets_a_new_token_even_if_it_dies_earlier() {
    let mut job = fresh();
    assert_eq!(job.step(JobEvent::Asked, at(10), 0.0), [Action::Acquire]);
    assert_eq!(
        job.step(JobEvent::Asked, at(11), 0.0),
        [],
        "it is being asked"
    );
    let actions = job.step(token(11, 60), at(11), 0.0);
    assert_eq!(actions.first(), Some(&Action::Adopt));
    job.step(JobEvent::Asked, at(12), 0.0);
    assert_eq!(
        job.step(failure(FailureKind::Denied), at(12), 0.0),
        [],
        "a failed wish"
    );
    assert_eq!(
        job.step(JobEvent::Asked, at(13), 0.0),
        [Action::Acquire],
        "asking again does not wait for the schedule"
    );
}

/// Asks the source at `now` and fails.
fn fail(job: &mut JobLifecycle, kind: FailureKind, retry_after: Option<Duration>, now: Reading) {
    job.step(JobEvent::Woken, now, 1.0);
    job.begun();
    let failed = JobEvent::Failed {
        kind,
        retry_after,
        is_local: false,
    };
    job.step(failed, now, 1.0);
}

fn next(job: &JobLifecycle, now: Reading) -> u64 {
    let next = job.acquires_at(now).expect("it is not being asked");
    next.as_secs_f64().ceil() as u64
}

#[test]
fn whoever_asks_makes_no_later_try_later() {
    use FailureKind::{Denied, Internal, InvalidConfig, Unavailable};
    for kind in [Unavailable, Internal, Denied, InvalidConfig] {
        for (failures, times) in (0..7).flat_map(|failures| [(failures, 1), (failures, 3)]) {
            let what = format!("{kind} after {failures} failures, asked {times} times");
            let mut without = fresh();
            let mut now = 0;
            for _ in 0..failures {
                now = next(&without, at(now));
                fail(&mut without, kind, None, at(now));
            }
            let by_itself = next(&without, at(now));
            let mut job = without.clone();
            let asked_at = now + (by_itself - now) / 2;
            for _ in 0..times {
                job.step(JobEvent::Asked, at(asked_at), 1.0);
                fail(
                    &mut job,
                    kind,
                    Some(Duration::from_secs(3600)),
                    at(asked_at),
                );
            }
            let mut now = asked_at;
            assert!(next(&job, at(now)) <= by_itself, "{what}");
            while next(&job, at(now)) < by_itself {
                now = next(&job, at(now));
                fail(&mut job, kind, None, at(now));
            }
            // Scheduled refreshes are made at their times, and so are those that follow.
            for _ in 0..3 {
                let expected = next(&without, at(now));
                assert_eq!(next(&job, at(now)), expected, "{what}");
                now = expected;
                fail(&mut without, kind, None, at(now));
                fail(&mut job, kind, None, at(now));
            }
        }
    }
}

#[test]
fn what_another_source_is_about_to_return_is_dropped() {
    for answer in [token(12, 300), failure(FailureKind::Denied)] {
        let mut job = fresh();
        job.step(JobEvent::Asked, at(10), 0.0);
        job.begun();
        assert_eq!(job.step(JobEvent::SourceChanged, at(11), 0.0), []);
        assert_eq!(job.step(answer, at(12), 0.0), [Action::Acquire]);
        assert_eq!(job.failures(), 0);
        let actions = job.step(token(13, 30), at(13), 0.0);
        assert_eq!(
            actions.first(),
            Some(&Action::Adopt),
            "even if it expires earlier"
        );
    }
}

#[test]
fn a_changed_policy_only_changes_the_time() {
    let mut job = fresh();
    let early = Policy {
        at: 0.5,
        ..policy()
    };
    assert_eq!(job.set_policy(early, at(10), 0.0), []);
    assert_eq!(job.wakes_at(at(10)), Some(Duration::from_secs(150)));
}

#[test]
fn changed_outputs_get_the_held_token() {
    let mut job = fresh();
    assert_eq!(
        job.set_outputs(VERIFY, 2, at(10), 0.0),
        [
            Action::Write(0, Purpose::Publish),
            Action::Write(1, Purpose::Publish)
        ]
    );
    let mut job = started();
    assert_eq!(job.set_outputs(VERIFY, 2, at(10), 0.0), [], "none is held");
}

#[test]
fn neither_a_jump_nor_sleep_makes_a_job_late() {
    let set = |wall_s: u64, boot_s: u64| Reading {
        wall: wall(wall_s),
        boot: Duration::from_secs(boot_s),
    };
    for (now, what) in [
        (set(5000, 20), "the wall clock was set forward"),
        (set(0, 210), "the wall clock was set back"),
        (at(90_000), "the machine slept"),
    ] {
        assert_eq!(
            fresh().step(JobEvent::Woken, now, 0.0),
            [Action::Acquire],
            "{what}"
        );
    }
}

/// The end of a source's call, with arbitrary lifetimes.
#[derive(Debug, Clone)]
struct AnyAnswer {
    takes_ms: u64,
    /// Of token, rotating secret and `nbf`, relative to the request.
    ends_s: (Option<i64>, Option<i64>, Option<i64>),
    is_empty: bool,
    is_held_one: bool,
    fails: Option<(FailureKind, Option<u64>)>,
    /// The event right after it.
    then: u8,
    clock_set_ms: i64,
}

fn any_answer() -> impl Strategy<Value = AnyAnswer> {
    let kind = prop_oneof![
        Just(FailureKind::Unavailable),
        Just(FailureKind::Internal),
        Just(FailureKind::Denied),
        Just(FailureKind::InvalidConfig),
    ];
    let end = || {
        proptest::option::of(prop_oneof![
            -5_i64..20,
            -100_000_i64..100_000,
            Just(i64::MIN / 1000),
            Just(i64::MAX / 1000),
        ])
    };
    (
        0_u64..60_000,
        (end(), end(), end()),
        proptest::bool::weighted(0.05),
        any::<bool>(),
        proptest::option::weighted(
            0.3,
            (
                kind,
                proptest::option::of(prop_oneof![0_u64..600, any::<u64>()]),
            ),
        ),
        any::<u8>(),
        prop_oneof![3 => Just(0), 1 => -100_000_000_i64..100_000_000],
    )
        .prop_map(
            |(takes_ms, ends_s, is_empty, is_held_one, fails, then, clock_set_ms)| AnyAnswer {
                clock_set_ms,
                takes_ms,
                ends_s,
                is_empty,
                is_held_one,
                fails,
                then,
            },
        )
}

impl AnyAnswer {
    fn event(&self, sent: Timestamp) -> JobEvent {
        let point = |s: i64| Timestamp(sent.0.saturating_add_signed(s.saturating_mul(1000)));
        if let Some((kind, retry_after_s)) = self.fails {
            let retry_after = retry_after_s.map(Duration::from_secs);
            return JobEvent::Failed {
                kind,
                retry_after,
                is_local: self.is_held_one,
            };
        }
        let (token, rotating, not_before) = self.ends_s;
        JobEvent::Acquired(Candidate {
            is_empty: self.is_empty,
            is_held_one: self.is_held_one,
            obtained_at: sent,
            expires_at: token.map(point),
            not_before: not_before.map(point),
            rotating_expires_at: rotating.map(point),
        })
    }
}

fn any_policy() -> impl Strategy<Value = Policy> {
    (
        0.01_f64..0.99,
        0_u64..100_000,
        0_u64..100_000,
        0_u64..100_000,
    )
        .prop_map(|(at, before_s, every_s, jitter_s)| Policy {
            at,
            before_expiry: Duration::from_secs(before_s),
            every: Duration::from_secs(every_s),
            jitter: Duration::from_secs(jitter_s),
            ..policy()
        })
}

/// Lets time pass until the source is asked; returns that time.
fn until_asked(job: &mut JobLifecycle, mut now: Reading, sample: f64) -> Reading {
    while !job.is_acquiring() {
        let wait = job.wakes_at(now).unwrap().saturating_sub(now.boot);
        now = Reading {
            wall: now.wall.after(wait),
            boot: now.boot + wait,
        };
        job.step(JobEvent::Woken, now, sample);
    }
    now
}

/// The next event, with the seconds that pass before it.
fn any_happening() -> impl Strategy<Value = (u64, u8, u64)> {
    (0_u64..400, any::<u8>(), 0_u64..700)
}

proptest! {
    #[test]
    fn whatever_answers_say_no_source_is_asked_more_often_than_its_floor(
        policy in any_policy(), answers in proptest::collection::vec(any_answer(), 1..60), sample in 0.0_f64..=1.0,
    ) {
        let mut job = JobLifecycle::new(policy.clone(), VERIFY, 0, at(0));
        job.step(JobEvent::Restored(None), at(0), sample);
        let mut now = at(0);
        for answer in answers {
            now = until_asked(&mut job, now, sample);
            let sent = now.wall;
            let takes = Duration::from_millis(answer.takes_ms);
            now = Reading { wall: now.wall.after(takes), boot: now.boot + takes };
            let (held, answered) = (job.remaining(now), now);
            let was_endless = job.life().is_some_and(|life| life.expires_at.is_none());
            let actions = job.step(answer.event(sent), now, sample);
            let is_taken = actions.iter().any(|a| matches!(a, Action::Adopt | Action::Unchanged));
            job.step(JobEvent::Keep(WRITTEN), now, sample);
            match answer.then % 4 {
                0 => { job.step(JobEvent::IssuerAnswered, now, sample); }
                1 => { job.step(JobEvent::SecretsChanged, now, sample); }
                2 => { job.step(JobEvent::Woken, now, sample); }
                _ => {}
            }
            prop_assert!(!job.is_acquiring(), "asked again at once");
            let left = job.remaining(now);
            // Either clock may be set meanwhile, or the machine sleep.
            let slept = Duration::from_secs(u64::from(answer.then / 64));
            now = Reading {
                wall: Timestamp(now.wall.0.saturating_add_signed(answer.clock_set_ms)),
                boot: now.boot + slept,
            };
            job.step(JobEvent::Woken, now, sample);
            now = until_asked(&mut job, now, sample);
            let waited = now.boot - answered.boot;
            prop_assert!(waited >= Duration::from_secs(1), "{waited:?}");
            let is_left_alone = matches!(answer.then % 4, 2 | 3);
            if let (Some((kind, retry_after_s)), true) = (answer.fails, is_left_alone) {
                let is_local = answer.is_held_one;
                let own = match kind {
                    FailureKind::Unavailable => 1000,
                    FailureKind::Internal => 7500,
                    FailureKind::Denied | FailureKind::InvalidConfig => 10_000,
                };
                // `Retry-After` is respected as far as every token's life allows.
                let asked = retry_after_s.unwrap_or_default().saturating_mul(1000).min(30_000);
                let floor = Duration::from_millis(own.max(asked));
                prop_assert!(waited >= floor, "{waited:?} after {kind}, asked for {retry_after_s:?}");
                let longest = if is_local { 300 } else { 3600 };
                prop_assert!(waited <= slept + Duration::from_secs(longest), "{waited:?} after {kind}");
            }
            // Setting a clock changes when a token is due, and nothing else.
            if answer.clock_set_ms != 0 {
                continue;
            }
            // For a token that lasts no longer than the one before, there is no reason to refresh sooner, unless the user
            // configured it.
            let lives_no_longer = match (left, held) {
                (Some(left), Some(held)) => left <= held,
                (Some(_), None) => was_endless,
                (None, _) => false,
            };
            if let (true, true, (_, None, _), Some(left)) = (is_taken, lives_no_longer, answer.ends_s, left) {
                let by_user = (policy.every - policy.every / 10).saturating_sub(takes);
                let floor = Duration::from_secs(10).min(left - left / 4).min(by_user);
                prop_assert!(waited + Duration::from_millis(1) >= floor, "{waited:?} of {left:?}");
            }
        }
    }

    #[test]
    fn whatever_happens_each_thing_is_under_way_at_most_once_and_the_job_always_goes_on(
        happenings in proptest::collection::vec(any_happening(), 1..80), sample in 0.0_f64..=1.0,
    ) {
        let mut job = JobLifecycle::new(policy(), VERIFY, 2, at(0));
        let (mut now_s, mut acquiring, mut keeping, mut writing) = (0, false, false, [false; 2]);
        let mut actions = job.step(JobEvent::Restored(None), at(0), sample);
        for (pass, choice, life) in happenings {
            for action in actions {
                match action {
                    Action::Acquire => {
                        prop_assert!(!std::mem::replace(&mut acquiring, true));
                    }
                    Action::Keep => prop_assert!(!std::mem::replace(&mut keeping, true)),
                    Action::Write(index, _) => {
                        prop_assert!(!std::mem::replace(&mut writing[index], true));
                        prop_assert!(job.lives(at(now_s)), "a dead token is written");
                    }
                    Action::Adopt | Action::Unchanged | Action::Refuse(_) => {}
                }
            }
            prop_assert!(acquiring || job.wakes_at(at(now_s)).is_some(), "the job sleeps for ever");
            prop_assert_eq!(acquiring, job.is_acquiring());
            now_s += pass;
            let failed = |kind| output::OutputEvent::Failed { kind, retry_after: None };
            let event = match choice % 12 {
                0 if acquiring => { acquiring = false; token(now_s, life) }
                1 if acquiring => { acquiring = false; failure(FailureKind::Unavailable) }
                2 if writing[0] => { writing[0] = false; JobEvent::Output(0, WRITTEN) }
                3 if writing[1] => { writing[1] = false; JobEvent::Output(1, failed(FailureKind::Denied)) }
                4 if keeping => { keeping = false; JobEvent::Keep(WRITTEN) }
                5 => JobEvent::Asked,
                6 => JobEvent::SourceChanged,
                7 => JobEvent::IssuerAnswered,
                8 => { job.begun(); JobEvent::Woken }
                9 => JobEvent::SecretsChanged,
                _ => JobEvent::Woken,
            };
            actions = job.step(event, at(now_s), sample);
        }
    }

    #[test]
    fn a_job_whose_issuer_answers_never_holds_a_dead_token(
        lives in proptest::collection::vec(5_u64..100_000, 1..50), sample in 0.0_f64..=1.0,
    ) {
        let mut job = JobLifecycle::new(policy(), VERIFY, 0, at(0));
        let mut now = at(0);
        job.step(JobEvent::Restored(None), now, sample);
        for life in lives {
            job.step(JobEvent::Acquired(Candidate {
                is_empty: false,
                is_held_one: false,
                obtained_at: now.wall,
                expires_at: Some(now.wall.after(Duration::from_secs(life))),
                not_before: None,
                rotating_expires_at: None,
            }), now, sample);
            job.step(JobEvent::Keep(WRITTEN), now, sample);
            while !job.is_acquiring() {
                prop_assert!(job.lives(now));
                let wait = job.wakes_at(now).unwrap() - now.boot;
                prop_assert!(wait > Duration::ZERO);
                now = Reading { wall: now.wall.after(wait), boot: now.boot + wait };
                job.step(JobEvent::Woken, now, sample);
            }
        }
    }
}

#[test]
fn states_say_where_each_output_stands() {
    let mut job = started();
    assert_eq!(
        job.output_states().collect::<Vec<_>>(),
        [OutputState::Waiting]
    );
    job.step(token(0, 300), at(0), 0.0);
    assert_eq!(
        job.output_states().collect::<Vec<_>>(),
        [OutputState::Writing]
    );
    job.step(JobEvent::Output(0, WRITTEN), at(0), 0.0);
    assert_eq!(
        job.output_states().collect::<Vec<_>>(),
        [OutputState::Written]
    );
}

#[test]
fn whoever_starts_with_a_dead_token_does_not_wait_as_if_there_never_had_been_one() {
    let dead = Life {
        obtained_at: wall(0),
        expires_at: Some(wall(50)),
        rotating_expires_at: None,
    };
    let lives_of_another_source = None;
    for (kind, restored, longest_s) in [
        (FailureKind::Internal, Some(dead), 30),
        (FailureKind::Internal, lives_of_another_source, 300),
        (FailureKind::Unavailable, Some(dead), 30),
        (FailureKind::Unavailable, lives_of_another_source, 30),
    ] {
        let mut job = JobLifecycle::new(policy(), VERIFY, 1, at(100));
        job.step(JobEvent::Restored(restored), at(100), 0.0);
        let mut now = 100;
        for _ in 0..10 {
            fail(&mut job, kind, None, at(now));
            now = next(&job, at(now));
        }
        fail(&mut job, kind, None, at(now));
        let wait = job.wakes_at(at(now)).unwrap() - at(now).boot;
        assert_eq!(wait, Duration::from_secs(longest_s), "{kind} {restored:?}");
    }
}

#[test]
fn a_changed_secret_ends_the_wait_for_somebody_and_no_other_wait() {
    for (kind, is_tried) in [
        (FailureKind::Denied, true),
        (FailureKind::InvalidConfig, true),
        (FailureKind::Unavailable, false),
        (FailureKind::Internal, false),
    ] {
        let mut job = started();
        job.step(failure(kind), at(1), 1.0);
        job.step(failure(kind), at(1), 1.0);
        let actions = job.step(JobEvent::SecretsChanged, at(2), 1.0);
        assert_eq!(actions == [Action::Acquire], is_tried, "{kind:?}");
    }
    assert_eq!(fresh().step(JobEvent::SecretsChanged, at(10), 0.0), []);
}

#[test]
fn after_a_changed_secret_the_waits_for_somebody_start_anew() {
    let mut job = started();
    for second in [1, 11, 71, 371] {
        fail(&mut job, FailureKind::Denied, None, at(second));
    }
    assert_eq!(job.wakes_at(at(371)), Some(Duration::from_secs(371 + 900)));
    job.step(JobEvent::SecretsChanged, at(400), 0.0);
    fail(&mut job, FailureKind::Denied, None, at(400));
    assert_eq!(job.wakes_at(at(400)), Some(Duration::from_secs(410)));
    assert_eq!(job.failures(), 5);
}

#[test]
fn a_source_that_changes_before_its_turn_is_asked_once() {
    let mut job = fresh();
    assert_eq!(job.step(JobEvent::Asked, at(10), 0.0), [Action::Acquire]);
    assert!(job.waits_for_turn());
    assert_eq!(job.step(JobEvent::SourceChanged, at(11), 0.0), []);
    job.begun();
    assert!(job.is_acquiring() && !job.waits_for_turn());
    let actions = job.step(token(12, 30), at(13), 0.0);
    assert_eq!(actions.first(), Some(&Action::Adopt));
}

#[test]
fn a_rotating_secret_is_used_before_it_dies_whatever_became_of_the_token() {
    let day = 86_400;
    let mut adopted = started();
    adopted.step(token_with_rotating(0, day, 1800), at(0), 0.0);
    assert_eq!(adopted.due().wall, wall(1440));
    let mut no_longer = started();
    no_longer.step(token(0, day), at(0), 0.0);
    let actions = no_longer.step(token_with_rotating(100, day - 100, 1800), at(100), 0.0);
    assert_eq!(actions.first(), Some(&Action::Adopt));
    assert_eq!(no_longer.due().wall, wall(100 + 1440));
    let life = Life {
        obtained_at: wall(0),
        expires_at: Some(wall(day)),
        rotating_expires_at: Some(wall(1800)),
    };
    let mut restored = JobLifecycle::new(policy(), VERIFY, 0, at(100));
    restored.step(JobEvent::Restored(Some(life)), at(100), 0.0);
    assert_eq!(restored.due().wall, wall(1440));
}

#[test]
fn a_job_counts_as_late_since_it_was_first_due_whatever_was_tried_since() {
    let mut job = fresh();
    let due = job.due();
    assert_eq!(job.step(JobEvent::Woken, at(210), 0.0), [Action::Acquire]);
    job.step(failure(FailureKind::Denied), at(211), 0.0);
    assert_eq!(job.due(), due, "after a failure");
    for (again, what) in [
        (JobEvent::SecretsChanged, "a changed secret"),
        (JobEvent::Asked, "a wish"),
        (JobEvent::SourceChanged, "another source"),
        (JobEvent::IssuerAnswered, "an issuer that is back"),
    ] {
        job.step(again, at(220), 0.0);
        assert_eq!(job.due(), due, "{what}");
        job.step(failure(FailureKind::Denied), at(221), 0.0);
    }
    let mut job = fresh();
    job.step(JobEvent::Asked, at(10), 0.0);
    assert_eq!(
        job.due().boot,
        Duration::from_secs(10),
        "wanted before it was due"
    );
}

#[test]
fn an_issuer_that_answers_again_ends_the_wait_after_a_failure_and_no_other_wait() {
    for kind in [FailureKind::Unavailable, FailureKind::Denied] {
        let mut job = started();
        job.step(failure(kind), at(1), 1.0);
        job.step(failure(kind), at(1), 1.0);
        assert_eq!(
            job.step(JobEvent::IssuerAnswered, at(2), 1.0),
            [Action::Acquire]
        );
        assert_eq!(job.failures(), 2, "it has not succeeded yet");
    }
    assert_eq!(fresh().step(JobEvent::IssuerAnswered, at(10), 0.0), []);
    assert_eq!(started().step(JobEvent::IssuerAnswered, at(10), 0.0), []);
}

#[test]
fn a_job_without_any_token_tries_as_often_as_one_whose_token_is_dead() {
    let mut without = started();
    let mut dead = fresh();
    dead.step(JobEvent::Woken, at(210), 0.0);
    for nth in 0..20 {
        for job in [&mut without, &mut dead] {
            job.step(failure(FailureKind::Unavailable), at(1000 + nth), 1.0);
            job.step(JobEvent::Asked, at(1000 + nth), 0.0);
        }
    }
    for job in [&mut without, &mut dead] {
        job.step(failure(FailureKind::Unavailable), at(2000), 1.0);
        assert_eq!(job.wakes_at(at(2000)), Some(Duration::from_secs(2030)));
    }
}

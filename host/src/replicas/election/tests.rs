use super::*;

const US: &str = "pod-0-ab";
const OTHER: &str = "pod-1-cd";

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn held(by: &str, take: u64) -> Record {
    Record {
        revision: Some("1".to_owned()),
        holder: Some(format!("{by}/{take}")),
        duration: Some(DURATION),
        term: 4,
        acquired: None,
        shards: None,
    }
}

fn given_up() -> Record {
    Record {
        revision: Some("1".to_owned()),
        term: 4,
        ..Record::ABSENT
    }
}

/// Cleared by hand: `kubectl edit`, with the duration left in.
fn cleared() -> Record {
    Record {
        holder: None,
        ..held("", 4)
    }
}

fn own(take: u64, renewed: Option<u64>) -> Option<Own> {
    Some(Own {
        take,
        term: 1,
        renewed: renewed.map(s),
    })
}

/// Changed at 100 s, confirmed and decided on at the given times.
fn decide(
    record: &Record,
    own: Option<Own>,
    jobs: Jobs,
    place: Place,
    confirmed_at: Duration,
    now: Duration,
) -> Decision {
    let seen = Seen {
        record: record.clone(),
        changed_at: s(100),
        confirmed_at,
    };
    let situation = Situation {
        us: US,
        seen: &seen,
        own,
        jobs,
        place,
        sight: s(50),
    };
    situation.decide(now)
}

#[test]
fn a_lease_that_we_do_not_hold_is_taken_when_it_is_given_up_or_over_and_only_by_the_right_replica()
{
    use Decision::{Make, Take, Wait};
    use Place::{Leaving, Others, Ours, Unknown};
    let hurried = Record {
        duration: Some(s(1)),
        ..held(OTHER, 4)
    };
    let patient = Record {
        duration: Some(s(60)),
        ..held(OTHER, 4)
    };
    let just = s(115) - ms(1);
    for (record, place, confirmed_at, expected, why) in [
        (given_up(), Ours, s(100), Take, "given up in order"),
        (given_up(), Others, s(200), Wait(NEVER), "for another"),
        (
            given_up(),
            Unknown,
            s(200),
            Wait(NEVER),
            "who knows for whom",
        ),
        (held(OTHER, 4), Ours, just, Wait(s(115)), "still another's"),
        (held(OTHER, 4), Ours, s(115), Take, "unchanged for 15 s"),
        (
            held(OTHER, 4),
            Others,
            s(200),
            Wait(NEVER),
            "over, for another",
        ),
        (
            held(OTHER, 4),
            Unknown,
            s(200),
            Wait(NEVER),
            "over, for whom?",
        ),
        (hurried, Ours, just, Wait(s(115)), "a hand wrote 1 s"),
        (
            patient.clone(),
            Ours,
            s(159),
            Wait(s(160)),
            "another release's 60 s",
        ),
        (patient, Ours, s(160), Take, "over"),
        (
            cleared(),
            Ours,
            just,
            Wait(s(115)),
            "the holder may not know",
        ),
        (cleared(), Ours, s(115), Take, "now it does"),
        (
            Record::ABSENT,
            Ours,
            s(100),
            Make,
            "there may have been one",
        ),
        (Record::ABSENT, Ours, s(200), Make, "also after long"),
        (
            Record::ABSENT,
            Others,
            s(200),
            Make,
            "its time should begin",
        ),
        (Record::ABSENT, Leaving, s(200), Wait(NEVER), "for nobody"),
        (given_up(), Leaving, s(200), Wait(NEVER), "for another"),
        (Record::ABSENT, Unknown, s(200), Wait(NEVER), "for whom?"),
    ] {
        let now = s(1000);
        let found = decide(&record, None, Jobs::Stopped, place, confirmed_at, now);
        assert_eq!(found, expected, "{why}: {record:?}");
    }
}

#[test]
fn time_that_passed_without_a_reading_ends_nobodys_lease() {
    let asleep = s(100_000);
    let found = decide(
        &held(OTHER, 4),
        None,
        Jobs::Stopped,
        Place::Ours,
        s(101),
        asleep,
    );
    assert_eq!(found, Decision::Wait(s(115)));
}

#[test]
fn nobodys_lease_is_over_before_we_have_seen_all_its_changes_for_its_duration() {
    let seen = Seen {
        record: held(OTHER, 1),
        changed_at: s(100),
        confirmed_at: s(120),
    };
    for (sight, expected) in [
        (s(0), true),
        (s(105), true),
        (s(106), false),
        (s(119), false),
        (NEVER, false),
    ] {
        assert_eq!(seen.is_over(sight), expected, "{sight:?}");
    }
}

#[test]
fn what_we_hold_is_renewed_in_time_and_lost_the_moment_it_is_not_certain() {
    use Decision::{Lost, Renew, Stop, Wait};
    use Place::{Leaving, Others, Ours, Unknown};
    let ours = held(US, 4);
    let renewed = own(4, Some(200));
    let last = s(210) - ms(1);
    for (record, own, place, now, running, stopping) in [
        (&ours, renewed, Ours, s(204), Wait(s(205)), Wait(s(205))),
        (&ours, renewed, Ours, s(205), Renew, Renew),
        (&ours, renewed, Ours, last, Renew, Renew),
        (&ours, renewed, Ours, s(210), Lost, Lost),
        (&ours, renewed, Ours, s(240), Lost, Lost),
        (&ours, renewed, Others, s(204), Stop, Wait(s(205))),
        (&ours, renewed, Others, s(206), Stop, Renew),
        (&ours, renewed, Others, s(210), Lost, Lost),
        (&ours, renewed, Leaving, s(204), Stop, Wait(s(205))),
        (&ours, renewed, Unknown, s(204), Wait(s(205)), Wait(s(205))),
        (&ours, renewed, Unknown, s(205), Renew, Renew),
        // Deleted or cleared under us: nobody else can have had it.
        (&Record::ABSENT, renewed, Ours, s(201), Renew, Renew),
        (&Record::ABSENT, renewed, Ours, s(210), Lost, Lost),
        // Overwritten by hand, taken by another.
        (&held(OTHER, 5), renewed, Ours, s(201), Lost, Lost),
        (&held(OTHER, 4), renewed, Ours, s(201), Lost, Lost),
        (&held(US, 5), renewed, Ours, s(201), Lost, Lost),
        (&given_up(), renewed, Ours, s(201), Lost, Lost),
        (&cleared(), renewed, Ours, s(201), Renew, Renew),
        (&cleared(), renewed, Ours, s(210), Lost, Lost),
    ] {
        for (jobs, expected) in [(Jobs::Running, running), (Jobs::Stopping, stopping)] {
            let found = decide(record, own, jobs, place, s(200), now);
            assert_eq!(found, expected, "{record:?} {jobs:?} {place:?} {now:?}");
        }
    }
}

#[test]
fn what_was_ours_is_taken_up_again_or_given_up_once_the_jobs_have_stopped() {
    use Decision::{Release, Renew, Run, Wait};
    use Place::{Leaving, Others, Ours, Unknown};
    for (jobs, place, renewed, expected) in [
        (Jobs::Stopped, Ours, Some(299), Run),
        (Jobs::Stopped, Ours, Some(290), Renew),
        // The answer to our take is not known, but here it is.
        (Jobs::Stopped, Ours, None, Renew),
        (Jobs::Stopped, Others, Some(299), Release),
        (Jobs::Stopped, Others, Some(10), Release),
        (Jobs::Stopped, Others, None, Release),
        (Jobs::Stopped, Leaving, Some(299), Release),
        (Jobs::Stopped, Leaving, None, Release),
        (Jobs::Cut, Leaving, Some(10), Release),
        (Jobs::Stopped, Unknown, Some(299), Wait(NEVER)),
        // The fence is closed for good: giving up may come before they know, taking up not.
        (Jobs::Cut, Ours, Some(299), Wait(NEVER)),
        (Jobs::Cut, Others, Some(10), Release),
        (Jobs::Cut, Unknown, Some(10), Wait(NEVER)),
    ] {
        let found = decide(&held(US, 4), own(4, renewed), jobs, place, s(101), s(300));
        assert_eq!(found, expected, "{jobs:?} {place:?} {renewed:?}");
    }
}

#[test]
fn our_name_in_a_lease_that_we_did_not_take_is_anybodys() {
    let ours = held(US, 4);
    let by_name = Record {
        holder: Some(US.to_owned()),
        ..ours.clone()
    };
    for (ours, own, why) in [
        (&ours, None, "we never took it"),
        (&ours, own(3, Some(299)), "our take was another"),
        (&by_name, own(3, Some(299)), "nobody takes without a number"),
    ] {
        let found = decide(ours, own, Jobs::Stopped, Place::Ours, s(101), s(300));
        assert_eq!(found, Decision::Wait(s(115)), "{why}");
        let found = decide(ours, own, Jobs::Stopped, Place::Ours, s(115), s(300));
        assert_eq!(found, Decision::Take, "{why}");
        let found = decide(ours, own, Jobs::Stopped, Place::Others, s(101), s(300));
        assert_eq!(found, Decision::Wait(NEVER), "{why}");
    }
}

#[test]
fn terms_count_on_and_stay_positive() {
    for (term, expected) in [(0, 1), (1, 2), (i32::MAX, 1), (-7, 1)] {
        let record = Record {
            term,
            ..held(OTHER, 1)
        };
        assert_eq!(record.next_term(), expected);
    }
}

/// What the others wait for must be longer than what we rely on, in whatever way the answers are late.
#[test]
fn the_times_leave_room_for_each_other() {
    let slowest_clock = 3; // of 2
    assert!(DEADLINE * slowest_clock <= DURATION * 2);
    assert!(RENEW_EVERY + crate::replicas::REQUEST_TIMEOUT * 2 <= DEADLINE);
}

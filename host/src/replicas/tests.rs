//! A world of some replicas, one API server and what may go wrong between them; and the wording of identities.

mod world;

use super::election::{DEADLINE, DURATION};
use super::member::LeaseId;
use super::*;

/// Answers every request at once, but writes of the shard only after a delay; says until when the fence was open then.
fn taken_after(delay: Duration) -> (Duration, Duration) {
    let (mut member, mut leases) = (
        Member::new("pod".to_owned(), NonZeroU32::MIN),
        BTreeMap::new(),
    );
    let (mut now, mut revision) = (Duration::from_secs(1000), 0);
    for _ in 0..1000 {
        let requests = member.poll(now);
        if requests.is_empty() {
            now = now.max(member.wake());
        }
        for request in requests {
            let sent_at = now;
            let answer = match &request {
                Request::Write { lease, record, .. } => {
                    revision += 1;
                    let record = election::Record {
                        revision: Some(revision.to_string()),
                        ..record.clone()
                    };
                    leases.insert(lease.clone(), record.clone());
                    if *lease == LeaseId::Shard(0) && record.holder.is_some() {
                        now += delay;
                    }
                    Answer::Written(record)
                }
                _ => Answer::Listed(leases.clone()),
            };
            member.answered(&request, answer, sent_at, now);
            if now > sent_at {
                member.poll(now);
                return (sent_at, member.fences().next().unwrap());
            }
        }
    }
    panic!("it was never taken")
}

#[test]
fn a_fence_is_open_for_a_time_that_counts_from_before_the_request_was_sent() {
    for (delay, expected) in [
        (Duration::from_millis(1), DEADLINE),
        (REQUEST_TIMEOUT, DEADLINE),
        (DEADLINE, Duration::ZERO),
        (Duration::from_secs(40), Duration::ZERO),
    ] {
        let (sent_at, until) = taken_after(delay);
        let open = until.saturating_sub(sent_at);
        assert_eq!(open, expected, "{delay:?}");
        // It was made, seen, and then waited for.
        assert!(sent_at >= Duration::from_secs(1000) + DURATION);
    }
}

#[test]
fn an_identity_is_a_part_of_an_objects_name_and_never_the_same() {
    for (host, expected) in [
        ("evertoken-7d9f-x2x4z", "evertoken-7d9f-x2x4z-00ff"),
        ("Laptop.local", "laptop-local-00ff"),
        ("-", "replica-00ff"),
        ("", "replica-00ff"),
        ("ß_1_", "1-00ff"),
    ] {
        assert_eq!(Identity::with(host, &[0, 255]).to_string(), expected);
    }
    let long = Identity::with(&"a".repeat(300), &[0]);
    assert_eq!(long.to_string().len(), HOST_NAME_MAX + 3);
    assert_ne!(Identity::new("a").unwrap(), Identity::new("a").unwrap());
}

//! Which shard a job belongs to, and which replica should have a shard: rendezvous hashing (highest random weight, Thaler and
//! Ravishankar), so that all replicas agree without talking, a replica that goes moves only its own shards, and another number of
//! shards moves few jobs. The hash is part of what releases agree on: replicas of two releases run side by side while one is rolled
//! out. Pure.

use std::num::NonZeroU32;

use sha2::{Digest as _, Sha256};

use crate::model::JobId;

/// Keeps the two uses of the hash apart, and these from any other use.
const OF_JOB: &str = "evertoken/shard-of-job/1";
const OF_SHARD: &str = "evertoken/replica-of-shard/1";

/// The shard of a job, from 0 to `shards` - 1.
#[must_use]
pub fn shard_of(job: &JobId, shards: NonZeroU32) -> u32 {
    let key = job_key(job);
    let weighed = (0..shards.get()).map(|shard| (weight(&key, &shard.to_be_bytes()), shard));
    highest(weighed).unwrap_or_default()
}

/// The replica that should have a shard; none: no replica lives.
pub fn replica_of<'a>(shard: u32, living: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let key = prefix(OF_SHARD).chain_update(shard.to_be_bytes());
    let living = living.into_iter();
    highest(living.map(|replica| (weight(&key, replica.as_bytes()), replica)))
}

/// The candidate of the highest weight. Of two that weigh the same it is the first in their order, whatever order they came in.
fn highest<T: Ord>(weighed: impl Iterator<Item = (u64, T)>) -> Option<T> {
    let first = weighed.min_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.cmp(y)));
    first.map(|(_, candidate)| candidate)
}

fn weight(key: &Sha256, candidate: &[u8]) -> u64 {
    let digest = key.clone().chain_update(candidate).finalize();
    let (first, _) = digest.split_first_chunk().unwrap_or((&[0; 8], &[]));
    u64::from_be_bytes(*first)
}

/// Every part is preceded by its length, so that no two jobs have one key.
fn job_key(job: &JobId) -> Sha256 {
    let mut key = prefix(OF_JOB).chain_update([job.provider.number()]);
    for part in [&job.namespace, &Some(job.name.clone()), &job.uid] {
        key.update([u8::from(part.is_some())]);
        let text = part.as_deref().unwrap_or_default();
        key.update(length(text));
        key.update(text);
    }
    key
}

fn prefix(usage: &str) -> Sha256 {
    Sha256::new_with_prefix(length(usage)).chain_update(usage)
}

/// In 64 bits, on every machine.
fn length(text: &str) -> [u8; 8] {
    u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::model::Provider;

    fn number(shards: u32) -> NonZeroU32 {
        NonZeroU32::new(shards).unwrap()
    }

    fn jobs(count: usize) -> Vec<JobId> {
        let name = |index| JobId::file(format!("team-{}/job-{index}", index % 7));
        (0..count).map(name).collect()
    }

    /// These must never change: see the head of the file. They were computed by another implementation, in Python.
    #[test]
    fn the_hash_is_the_same_in_every_release() {
        let tenant = JobId {
            provider: Provider::Ktr,
            namespace: Some("apps".to_owned()),
            name: "warehouse".to_owned(),
            uid: Some("4f1c".to_owned()),
        };
        for (job, shards, expected) in [
            (JobId::file("warehouse"), 1, 0),
            (JobId::file("warehouse"), 4, 0),
            (JobId::file("warehouse"), 16, 0),
            (JobId::file("billing"), 4, 2),
            (JobId::file("billing"), 16, 14),
            (tenant.clone(), 4, 1),
            (tenant, 16, 10),
        ] {
            assert_eq!(shard_of(&job, number(shards)), expected, "{job} {shards}");
        }
        let found: Vec<_> = (0..8)
            .map(|shard| replica_of(shard, ["a-1", "b-2", "c-3"]).unwrap())
            .collect();
        assert_eq!(
            found,
            ["a-1", "b-2", "c-3", "c-3", "b-2", "a-1", "c-3", "b-2"]
        );
    }

    #[test]
    fn parts_of_a_jobs_name_do_not_run_into_each_other() {
        let of = |namespace: Option<&str>, name: &str, uid: Option<&str>| {
            let job = JobId {
                provider: Provider::File,
                namespace: namespace.map(str::to_owned),
                name: name.to_owned(),
                uid: uid.map(str::to_owned),
            };
            job_key(&job).finalize()
        };
        let keys = [
            of(None, "ab", None),
            of(Some(""), "ab", None),
            of(Some("a"), "b", None),
            of(None, "a", Some("b")),
            of(None, "ab", Some("")),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{index}");
        }
    }

    #[test]
    fn no_replica_has_a_shard_where_none_lives() {
        assert_eq!(replica_of(0, []), None);
    }

    #[test]
    fn jobs_spread_evenly() {
        for shards in [2, 5, 16] {
            let mut counts = BTreeMap::new();
            let all = jobs(4000);
            for job in &all {
                *counts.entry(shard_of(job, number(shards))).or_insert(0_u32) += 1;
            }
            assert_eq!(counts.len(), shards as usize);
            let mean = 4000 / shards;
            for (shard, count) in counts {
                assert!(count.abs_diff(mean) < mean / 3, "{shards} {shard}: {count}");
            }
        }
    }

    #[test]
    fn one_more_shard_moves_only_the_jobs_that_it_gets() {
        let all = jobs(4000);
        for shards in [1, 3, 8] {
            let (mut moved, more) = (0, number(shards + 1));
            for job in &all {
                let (before, after) = (shard_of(job, number(shards)), shard_of(job, more));
                if before != after {
                    assert_eq!(after, shards, "{job} moved between old shards");
                    moved += 1;
                }
            }
            let expected = 4000 / more.get();
            assert!(expected.abs_diff(moved) < expected / 4, "{shards}: {moved}");
        }
    }

    proptest! {
        #[test]
        fn all_replicas_agree_in_whatever_order_they_see_each_other(
            living in prop::collection::btree_set("[a-z0-9-]{1,12}", 1..6),
            shard in 0_u32..64,
        ) {
            let forwards = replica_of(shard, living.iter().map(String::as_str));
            let backwards = replica_of(shard, living.iter().rev().map(String::as_str));
            prop_assert_eq!(forwards, backwards);
            prop_assert!(living.contains(forwards.unwrap()));
        }

        #[test]
        fn a_replica_that_goes_moves_its_own_shards_and_no_other(
            living in prop::collection::btree_set("[a-z0-9-]{1,12}", 2..6),
            gone in any::<prop::sample::Index>(),
        ) {
            let gone = gone.get(&living.iter().cloned().collect::<Vec<_>>()).clone();
            let rest: BTreeSet<_> = living.iter().filter(|one| **one != gone).cloned().collect();
            for shard in 0..32 {
                let before = replica_of(shard, living.iter().map(String::as_str));
                let after = replica_of(shard, rest.iter().map(String::as_str));
                if before != Some(gone.as_str()) {
                    prop_assert_eq!(before, after);
                }
            }
        }

        #[test]
        fn a_shard_is_one_of_those_there_are(name in ".{0,40}", shards in 1_u32..64) {
            prop_assert!(shard_of(&JobId::file(name), number(shards)) < shards);
        }
    }
}

//! The store's index in memory: the chains of secrets, the values by which they are found, and unreadable records. Where other
//! processes may change the store, also the chains and tokens themselves as they were last read or written: a rotation there
//! costs its writes and no reads, and a stale copy fails by its revision. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::error::StateError;
use super::fingerprint::{Fingerprint, Shortened};
use super::key::RecordKey;
use super::record::{Binding, ChainRecord, WrittenInto};
use super::records::{RecordBytes, StoredRecord, WrittenRecord};
use crate::capability::chain::{Chain, ChainId};
use crate::capability::keep::{Revision, Seed, StoredChain};
use crate::model::JobId;

/// The newest values by which a chain is found from any job.
const FINGERPRINTS_MAX: usize = 8;

/// The values before them by which it is found from jobs whose secrets use or used it: enough for a backup of yesterday, at a
/// rotation every five minutes. A job's configured value and the chain's first one are known beyond that; an older value begins a
/// new chain. Each takes three bytes of each write.
const EARLIER_MAX: usize = 300;

/// A chain as it was last seen.
#[derive(Debug, Clone)]
pub(super) struct KnownChain {
    /// Its record's revision; none: there is no record any more.
    pub(super) revision: Option<Revision>,
    /// The record's uid, or that of its last one; empty: not known yet.
    pub(super) uid: String,
    /// Whether it is a restored older copy, so that its value may be spent.
    pub(super) is_restored: bool,
    pub(super) bindings: Vec<Binding>,
    /// Fingerprints of its last values, the newest at the end.
    pub(super) fingerprints: Vec<Fingerprint>,
    /// Those of the values before them, the latest at the end.
    pub(super) earlier: Vec<Shortened>,
    /// The chain itself, where others may change the store.
    pub(super) held: Option<Chain>,
}

impl KnownChain {
    /// A record that was read. It is a copy if it is in another record than it was written into, or if another writer wrote it.
    pub(super) fn read(stored: &StoredRecord, record: ChainRecord) -> (Self, Chain) {
        let ChainRecord {
            chain,
            bindings,
            fingerprints,
            earlier,
            written_into: WrittenInto { uid, restored },
        } = record;
        let is_elsewhere = !uid.is_empty() && uid != stored.uid;
        let known = Self {
            revision: Some(stored.revision.clone()),
            uid: stored.uid.clone(),
            is_restored: restored || is_elsewhere || stored.is_copy,
            bindings,
            fingerprints,
            earlier,
            held: None,
        };
        (known, chain)
    }

    /// The record to store for it.
    pub(super) fn record(&self, chain: Chain) -> ChainRecord {
        let has_record = self.revision.is_some();
        ChainRecord {
            chain,
            bindings: self.bindings.clone(),
            fingerprints: self.fingerprints.clone(),
            earlier: self.earlier.clone(),
            written_into: WrittenInto {
                uid: if has_record {
                    self.uid.clone()
                } else {
                    String::new()
                },
                restored: self.is_restored,
            },
        }
    }

    /// Records that it was written.
    pub(super) fn written(&mut self, written: WrittenRecord) {
        self.revision = Some(written.revision);
        self.uid = written.uid;
    }

    /// The chain with its revision, if it is held.
    pub(super) fn stored(&self) -> Option<StoredChain> {
        Some(StoredChain {
            chain: self.held.clone()?,
            revision: self.revision.clone().unwrap_or_default(),
        })
    }

    /// Whether the held chain may be the only copy of a valid value: it was used, and is neither rejected nor a restored copy.
    fn is_worth_keeping(&self) -> bool {
        self.held.as_ref().is_some_and(|chain| {
            let was_used = chain.generation > 0 || chain.exchange.is_some();
            was_used && !self.is_restored && chain.dead_since.is_none()
        })
    }

    fn generation(&self) -> Option<u64> {
        self.held.as_ref().map(|chain| chain.generation)
    }

    fn leads_from(&self, id: ChainId, value: Fingerprint) -> bool {
        Fingerprint::of_first(id) == value
            || self.fingerprints.contains(&value)
            || self.has_seed(value)
    }

    /// The same for the secret that uses it.
    fn led_from(&self, id: ChainId, value: Fingerprint) -> bool {
        self.leads_from(id, value) || self.earlier.contains(&value.shortened())
    }

    fn has_seed(&self, value: Fingerprint) -> bool {
        self.bindings
            .iter()
            .any(|binding| binding.seed == Some(value))
    }

    fn binding(&self, job: &JobId, secret: &str) -> Option<&Binding> {
        self.bindings
            .iter()
            .find(|binding| binding.job == *job && binding.secret == secret)
    }
}

/// Whether the held copy is newer than the one read: a list that began before our last write must not bring back older content.
/// Where revisions are not numbers, which no server does, the one read counts.
fn is_newer(held: &Revision, read: &Revision) -> bool {
    let number = |revision: &Revision| revision.0.parse::<u64>().ok();
    number(held)
        .zip(number(read))
        .is_some_and(|(held, read)| held > read)
}

/// What this process knows of the store.
#[derive(Default)]
pub(super) struct KnownRecords {
    chains: HashMap<ChainId, KnownChain>,
    /// The chains that a job's secrets use or used.
    by_job: HashMap<JobId, Vec<ChainId>>,
    /// Records of jobs as they were last read, where others may change the store.
    pub(super) kept: HashMap<RecordKey, (Revision, RecordBytes)>,
    /// Records that cannot be read, and why: never overwritten, only deleted by `forget`.
    pub(super) refused: BTreeMap<RecordKey, StateError>,
    /// Chains whose last write has an unknown outcome.
    pub(super) uncertain: BTreeSet<ChainId>,
    /// Chains that were deleted last, by the uid of their record.
    pub(super) forgotten: BTreeSet<String>,
    /// Messages already logged about unreadable records: once each, not at every list.
    pub(super) told: BTreeSet<String>,
    /// Lists that have begun, and the last of them that succeeded.
    pub(super) lists_begun: u64,
    pub(super) list_done: u64,
}

impl KnownRecords {
    pub(super) fn get(&self, id: ChainId) -> Option<&KnownChain> {
        self.chains.get(&id)
    }

    pub(super) fn chains(&self) -> impl Iterator<Item = (ChainId, &KnownChain)> {
        self.chains.iter().map(|(id, known)| (*id, known))
    }

    pub(super) fn jobs(&self) -> impl Iterator<Item = &JobId> {
        self.by_job.keys()
    }

    /// The chains that a job's secrets use or used, each once.
    pub(super) fn chains_of(&self, job: &JobId) -> impl Iterator<Item = (ChainId, &KnownChain)> {
        let ids = self.by_job.get(job).into_iter().flatten();
        ids.filter_map(|id| Some((*id, self.chains.get(id)?)))
    }

    /// The secrets of a job, each with its chain and the configured value as it was when that was last changed.
    pub(super) fn secrets_of(
        &self,
        job: &JobId,
    ) -> BTreeMap<&str, (ChainId, &KnownChain, &Binding)> {
        let mut secrets: BTreeMap<&str, (ChainId, &KnownChain, &Binding)> = BTreeMap::new();
        for (id, known) in self.chains_of(job) {
            for binding in known.bindings.iter().filter(|binding| binding.job == *job) {
                let counts = secrets
                    .get(&*binding.secret)
                    .is_none_or(|(.., other)| other.serial < binding.serial);
                if counts {
                    secrets.insert(&binding.secret, (id, known, binding));
                }
            }
        }
        secrets
    }

    /// The current binding of a secret, with its chain.
    fn binding(&self, job: &JobId, secret: &str) -> Option<(ChainId, &Binding)> {
        self.chains_of(job)
            .filter_map(|(id, known)| Some((id, known.binding(job, secret)?)))
            .max_by_key(|(_, binding)| binding.serial)
    }

    /// The chain that a value belongs to, and the value's role in it; without a value, the chain that the secret used last.
    /// `first`: the id of a chain that begins with it.
    pub(super) fn find(
        &self,
        job: &JobId,
        secret: &str,
        seed: Option<(ChainId, Fingerprint)>,
    ) -> Option<(ChainId, Seed)> {
        let bound = self.binding(job, secret);
        let Some((first, value)) = seed else {
            return Some((bound?.0, Seed::Unread));
        };
        let (id, known) = self.led_to(job, first, value)?;
        let is_untouched = match bound {
            Some((_, binding)) => binding.seed == Some(value),
            None => known.has_seed(value),
        };
        let seed = if known.fingerprints.last() == Some(&value) {
            Seed::Newest
        } else if is_untouched {
            Seed::Unchanged
        } else {
            Seed::Restored
        };
        Some((id, seed))
    }

    /// Most values belong to a chain that a secret of the job uses or used: only a new login is looked up in all.
    fn led_to(
        &self,
        job: &JobId,
        first: ChainId,
        value: Fingerprint,
    ) -> Option<(ChainId, &KnownChain)> {
        // No issuer issues a value twice; if one does, the result is the same each time.
        let own = self.chains_of(job);
        let own = own.filter(|(id, known)| known.led_from(*id, value));
        own.min_by_key(|(id, _)| *id)
            .or_else(|| Some((first, self.chains.get(&first)?)))
            .or_else(|| {
                let all = self.chains();
                all.filter(|(id, known)| known.leads_from(*id, value))
                    .min_by_key(|(id, _)| *id)
            })
    }

    /// A chain after a change by the job's secret, which stands for it from now on if the change `binds`. Its record is not written yet.
    pub(super) fn after(
        &self,
        id: ChainId,
        (job, secret, binds): (&JobId, &str, bool),
        seed: Option<Fingerprint>,
        newest: Option<Fingerprint>,
    ) -> KnownChain {
        let own = self.get(id).and_then(|known| known.binding(job, secret));
        let last_seed = own.and_then(|binding| binding.seed);
        let serial = match self.binding(job, secret) {
            Some((chain, binding)) if chain != id && binds => binding.serial + 1,
            Some(_) => own.map_or(0, |binding| binding.serial),
            None => 1,
        };
        let mut next = self.get(id).cloned().unwrap_or_else(|| KnownChain {
            revision: None,
            uid: String::new(),
            is_restored: false,
            bindings: Vec::new(),
            fingerprints: Vec::new(),
            earlier: Vec::new(),
            held: None,
        });
        next.is_restored = false;
        next.bindings
            .retain(|binding| binding.job != *job || binding.secret != secret);
        next.bindings.push(Binding {
            job: job.clone(),
            secret: secret.to_owned(),
            seed: seed.or(last_seed),
            serial,
        });
        if let Some(newest) = newest {
            next.fingerprints.retain(|known| *known != newest);
            next.fingerprints.push(newest);
            let surplus = next.fingerprints.len().saturating_sub(FINGERPRINTS_MAX);
            let surplus = next.fingerprints.drain(..surplus);
            next.earlier.extend(surplus.map(Fingerprint::shortened));
            let surplus = next.earlier.len().saturating_sub(EARLIER_MAX);
            next.earlier.drain(..surplus);
        }
        next
    }

    /// Adds a chain that was listed or written, unless a newer one is known.
    pub(super) fn learn(&mut self, id: ChainId, known: KnownChain) {
        let held = self.chains.get(&id).and_then(|held| held.revision.as_ref());
        let is_older = held
            .zip(known.revision.as_ref())
            .is_some_and(|(held, read)| is_newer(held, read));
        if !is_older {
            self.learn_present(id, known);
        }
    }

    /// Adds the current record of a chain. Its revision may be a smaller number than the held one's: then the whole cluster was
    /// restored.
    ///
    /// A record whose chain is older than the held one, or is a copy of it, does not have the newest value: the held chain is
    /// written over it at the next change.
    pub(super) fn learn_present(&mut self, id: ChainId, known: KnownChain) {
        if let Some(held) = self.chains.get_mut(&id)
            && held.generation() > known.generation()
            && (held.revision.is_none() || known.is_restored || held.uid == known.uid)
        {
            held.revision = known.revision;
            held.uid = known.uid;
            return;
        }
        self.unlink(id);
        for binding in &known.bindings {
            let chains = self.by_job.entry(binding.job.clone()).or_default();
            if !chains.contains(&id) {
                chains.push(id);
            }
        }
        self.chains.insert(id, known);
    }

    /// Records that a chain's record is gone, deleted or lost. The held chain may be the only copy of a valid value, while the
    /// configured value is spent: it is kept, to be written again at the next change. Returns whether it is kept, and had a
    /// record before.
    pub(super) fn miss(&mut self, id: ChainId) -> bool {
        let forgotten = &self.forgotten;
        match self.chains.get_mut(&id) {
            Some(held) if held.is_worth_keeping() && !forgotten.contains(&held.uid) => {
                held.revision.take().is_some()
            }
            _ => {
                self.drop_chain(id);
                false
            }
        }
    }

    /// Removes a deleted chain.
    pub(super) fn drop_chain(&mut self, id: ChainId) {
        self.unlink(id);
        self.chains.remove(&id);
    }

    fn unlink(&mut self, id: ChainId) {
        let Some(known) = self.chains.get(&id) else {
            return;
        };
        for binding in &known.bindings {
            if let Some(chains) = self.by_job.get_mut(&binding.job) {
                chains.retain(|chain| *chain != id);
                if chains.is_empty() {
                    self.by_job.remove(&binding.job);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: ChainId = ChainId([100; 16]);
    const Y: ChainId = ChainId([200; 16]);

    fn revision(text: &str) -> Revision {
        Revision(text.to_owned())
    }

    fn of(uid: &str, number: &str, generation: u64) -> KnownChain {
        let chain = Chain {
            generation,
            ..Chain::new(X, b"value".to_vec().into())
        };
        KnownChain {
            revision: Some(revision(number)),
            uid: uid.to_owned(),
            is_restored: false,
            bindings: Vec::new(),
            fingerprints: Vec::new(),
            earlier: Vec::new(),
            held: Some(chain),
        }
    }

    fn held(known: &KnownRecords) -> Option<(String, String, u64)> {
        let chain = known.get(X)?;
        let revision = chain.revision.clone().unwrap_or_default();
        Some((revision.0, chain.uid.clone(), chain.generation()?))
    }

    fn expected(revision: &str, uid: &str, generation: u64) -> Option<(String, String, u64)> {
        Some((revision.to_owned(), uid.to_owned(), generation))
    }

    fn fingerprint(number: u64) -> Fingerprint {
        // Its first bytes are distinct, too.
        Fingerprint(number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes())
    }

    /// The chain of a job with this configured value.
    fn found(known: &KnownRecords, job: &str, value: u64) -> Option<(ChainId, Seed)> {
        let nobodys = ChainId([0xff; 16]);
        known.find(&JobId::file(job), "rt", Some((nobodys, fingerprint(value))))
    }

    /// Changes a chain of the job's secret `rt`.
    fn change(known: &mut KnownRecords, id: ChainId, job: &str, seed: u64, newest: u64) {
        let next = known.after(
            id,
            (&JobId::file(job), "rt", true),
            Some(fingerprint(seed)),
            Some(fingerprint(newest)),
        );
        known.learn(id, next);
    }

    #[test]
    fn what_was_read_late_brings_nothing_back() {
        let mut known = KnownRecords::default();
        for (number, held) in [("9", "9"), ("10", "10"), ("9", "10"), ("11", "11")] {
            known.learn(X, of("u", number, 0));
            let seen = known.get(X).and_then(|chain| chain.revision.clone());
            assert_eq!(seen, Some(revision(held)));
        }
    }

    #[test]
    fn an_older_copy_that_is_put_back_over_a_chain_does_not_take_its_place() {
        let mut known = KnownRecords::default();
        for (read, then) in [
            (of("u1", "10", 5), expected("10", "u1", 5)),
            (of("u1", "11", 3), expected("11", "u1", 5)),
            (of("u1", "12", 6), expected("12", "u1", 6)),
            // It was deleted, and begun anew.
            (of("u2", "13", 1), expected("13", "u2", 1)),
        ] {
            known.learn(X, read);
            assert_eq!(held(&known), then);
        }
    }

    #[test]
    fn what_this_process_knows_outlives_a_record_that_is_deleted_and_a_cluster_that_is_put_back() {
        let mut known = KnownRecords::default();
        known.learn(X, of("u1", "100", 5));
        // A restored etcd snapshot: the versions go back, too.
        known.learn_present(X, of("u1", "60", 3));
        assert_eq!(held(&known), expected("60", "u1", 5));
        known.learn(X, of("u1", "61", 6));
        assert!(known.miss(X), "that is news");
        assert!(!known.miss(X), "and is told once");
        assert_eq!(held(&known), expected("", "u1", 6));
        // A copy was restored, or another process wrote its older state.
        known.learn_present(
            X,
            KnownChain {
                is_restored: true,
                ..of("u2", "70", 4)
            },
        );
        assert_eq!(held(&known), expected("70", "u2", 6));
        known.learn_present(X, of("u2", "71", 7));
        assert_eq!(held(&known), expected("71", "u2", 7));
        // The configured value is the newest, or none is usable any more.
        let dead = of("u3", "80", 9);
        let died = dead
            .held
            .clone()
            .map(|chain| chain.died(crate::model::time::Timestamp(1), None));
        for worthless in [
            of("u3", "80", 0),
            KnownChain {
                is_restored: true,
                ..of("u3", "80", 9)
            },
            KnownChain { held: died, ..dead },
        ] {
            known.drop_chain(X);
            known.learn(X, worthless);
            assert!(!known.miss(X));
            assert_eq!(held(&known), None);
        }
        known.learn(X, of("u4", "90", 9));
        known.forgotten.insert("u4".to_owned());
        assert!(!known.miss(X));
        assert_eq!(held(&known), None);
    }

    #[test]
    fn of_a_secrets_bindings_the_last_that_was_made_counts() {
        let mut known = KnownRecords::default();
        let stands_for =
            |known: &KnownRecords, job: &str| known.find(&JobId::file(job), "rt", None);
        change(&mut known, X, "a", 1, 2);
        change(&mut known, X, "b", 1, 3);
        assert_eq!(stands_for(&known, "a"), Some((X, Seed::Unread)));
        change(&mut known, Y, "a", 5, 6);
        assert_eq!(stands_for(&known, "a"), Some((Y, Seed::Unread)));
        change(&mut known, X, "a", 1, 4);
        change(&mut known, X, "a", 1, 7);
        assert_eq!(stands_for(&known, "a"), Some((X, Seed::Unread)));
        for (value, expected) in [
            (1, Some((X, Seed::Unchanged))),
            (2, Some((X, Seed::Restored))),
            (7, Some((X, Seed::Newest))),
            (6, Some((Y, Seed::Newest))),
            (8, None),
        ] {
            assert_eq!(found(&known, "a", value), expected, "{value}");
        }
        let (a, b) = (JobId::file("a"), JobId::file("b"));
        assert_eq!(known.chains_of(&a).count(), 2);
        known.drop_chain(X);
        assert_eq!(stands_for(&known, "b"), None);
        assert_eq!(found(&known, "b", 2), None);
        assert_eq!(known.jobs().collect::<Vec<_>>(), [&a]);
        assert_eq!(known.chains_of(&b).count(), 0);
    }

    #[test]
    fn a_late_write_of_an_earlier_logins_chain_does_not_take_the_secret_back() {
        for late_seed in [Some(fingerprint(1)), None] {
            let mut known = KnownRecords::default();
            change(&mut known, X, "a", 1, 1);
            // Somebody logged in while a request with the old value was under way. The chain found first must not be the old one.
            change(&mut known, Y, "a", 5, 5);
            let late = (&JobId::file("a"), "rt", false);
            let next = known.after(X, late, late_seed, Some(fingerprint(2)));
            known.learn(X, next);
            let stands_for = known.find(&JobId::file("a"), "rt", None);
            assert_eq!(stands_for, Some((Y, Seed::Unread)));
            assert_eq!(found(&known, "a", 5), Some((Y, Seed::Newest)));
            change(&mut known, Y, "a", 5, 6);
            for (value, expected) in [
                (5, Some((Y, Seed::Unchanged))),
                (6, Some((Y, Seed::Newest))),
                (2, Some((X, Seed::Newest))),
                (1, Some((X, Seed::Restored))),
            ] {
                assert_eq!(found(&known, "a", value), expected, "{late_seed:?} {value}");
            }
        }
    }

    #[test]
    fn a_chain_knows_its_last_values_and_what_its_jobs_are_configured_with_however_old_it_is() {
        let mut known = KnownRecords::default();
        for n in 1..=2000 {
            change(&mut known, X, "a", 0, n);
        }
        let chain = known.get(X).unwrap();
        let lengths = (
            chain.fingerprints.len(),
            chain.earlier.len(),
            chain.bindings.len(),
        );
        assert_eq!(lengths, (FINGERPRINTS_MAX, EARLIER_MAX, 1));
        let (whole, all) = (
            FINGERPRINTS_MAX as u64,
            (FINGERPRINTS_MAX + EARLIER_MAX) as u64,
        );
        for (value, by_its_own, by_another) in [
            (0, true, true),
            (2000, true, true),
            (2000 - whole + 1, true, true),
            (2000 - whole, true, false),
            (2000 - all + 1, true, false),
            (2000 - all, false, false),
        ] {
            assert_eq!(found(&known, "a", value).is_some(), by_its_own, "{value}");
            assert_eq!(found(&known, "b", value).is_some(), by_another, "{value}");
        }
    }
}

//! What this process knows of the chains in the cluster: each as it was last read or written, and which value leads to which.
//! Another process may have changed any of them since; the API server has the last word, by resourceVersion. Pure.

use std::collections::HashMap;

use super::super::fingerprint::Fingerprint;
use super::super::record::BindingInChain as Binding;
use crate::capability::chain::{Chain, ChainId};
use crate::config::model::JobId;

/// Fingerprints in one chain's Secret: two weeks of rotations every five minutes, in 64 KiB. The values that jobs are configured
/// with are known beyond that.
pub(super) const FINGERPRINTS_MAX: usize = 4096;

/// The resourceVersion of a Secret that is gone.
pub(super) const GONE: &str = "";

/// A chain as it was last seen.
#[derive(Clone)]
pub(super) struct Known {
    /// The Secret's resourceVersion; [`GONE`]: there is none any more.
    pub(super) revision: String,
    /// The Secret's uid, of the last one if it is gone; empty: it is not known yet.
    pub(super) uid: String,
    /// Whether it is an older copy that was put back, so that its value may be spent.
    pub(super) is_restored: bool,
    pub(super) chain: Chain,
    pub(super) bindings: Vec<Binding>,
    /// Of the values that it had, the newest last.
    pub(super) fingerprints: Vec<Fingerprint>,
}

impl Known {
    /// Whether its Secret is gone.
    pub(super) fn is_missing(&self) -> bool {
        self.revision == GONE
    }

    /// Whether nothing else leads to a value that can be used.
    fn is_worth_keeping(&self) -> bool {
        let was_used = self.chain.generation > 0 || self.chain.exchange.is_some();
        was_used && !self.is_restored && self.chain.dead_since.is_none()
    }
}

/// Whether what is held is newer than what was read: a list that began before our last write must not bring back what was before it.
/// Where versions are no numbers, which no server's are, what is read counts.
pub(super) fn is_newer(held: &str, read: &str) -> bool {
    let number = |version: &str| version.parse::<u64>().ok();
    number(held)
        .zip(number(read))
        .is_some_and(|(held, read)| held > read)
}

/// All chains that were seen.
#[derive(Default)]
pub(super) struct Chains {
    by_id: HashMap<ChainId, Known>,
    leads: HashMap<Fingerprint, ChainId>,
}

impl Chains {
    pub(super) fn get(&self, id: ChainId) -> Option<&Known> {
        self.by_id.get(&id)
    }

    /// The chain that a value leads to.
    pub(super) fn led_to(&self, value: Fingerprint) -> Option<&Known> {
        let first = ChainId(value.0);
        self.by_id.get(self.leads.get(&value).unwrap_or(&first))
    }

    /// The binding of a secret that counts, with its chain.
    pub(super) fn binding(&self, job: &JobId, secret: &str) -> Option<(&Known, &Binding)> {
        self.bindings_of(job)
            .filter(|(_, binding)| binding.secret == secret)
            .max_by_key(|(_, binding)| binding.serial)
    }

    /// All bindings of a job, also those that count no more.
    pub(super) fn bindings_of(&self, job: &JobId) -> impl Iterator<Item = (&Known, &Binding)> {
        self.by_id.values().flat_map(move |known| {
            let bindings = known.bindings.iter();
            bindings
                .filter(move |binding| binding.job == *job)
                .map(move |binding| (known, binding))
        })
    }

    pub(super) fn jobs(&self) -> impl Iterator<Item = &JobId> {
        let bindings = self.by_id.values().flat_map(|known| &known.bindings);
        bindings.map(|binding| &binding.job)
    }

    /// What was listed or written, unless something newer is known.
    pub(super) fn learn(&mut self, known: Known) {
        let held = self.by_id.get(&known.chain.id);
        if !held.is_some_and(|held| is_newer(&held.revision, &known.revision)) {
            self.learn_present(known);
        }
    }

    /// What is there now. Its version may be a smaller number than the one that is held: then the whole cluster was put back.
    ///
    /// A Secret whose chain has gone back, or is a copy of what this process has gone on from, does not tell what the newest value is: what is
    /// held is written over it at the next change.
    pub(super) fn learn_present(&mut self, known: Known) {
        if let Some(held) = self.by_id.get_mut(&known.chain.id)
            && held.chain.generation > known.chain.generation
            && (held.is_missing() || known.is_restored || held.uid == known.uid)
        {
            held.revision = known.revision;
            held.uid = known.uid;
            return;
        }
        let id = known.chain.id;
        for fingerprint in known
            .fingerprints
            .iter()
            .copied()
            .chain(known.bindings.iter().filter_map(|binding| binding.seed))
        {
            self.leads.insert(fingerprint, id);
        }
        self.by_id.insert(id, known);
    }

    /// Its Secret is gone. What is held may be the only copy of a value that the issuer still takes, and the configured value is spent then: it is
    /// kept, to be written anew at the next change. Whether it is.
    pub(super) fn miss(&mut self, id: ChainId) -> bool {
        match self.by_id.get_mut(&id) {
            Some(held) if held.is_worth_keeping() => {
                held.revision = GONE.to_owned();
                true
            }
            _ => {
                self.drop_chain(id);
                false
            }
        }
    }

    /// It is forgotten.
    pub(super) fn drop_chain(&mut self, id: ChainId) {
        if self.by_id.remove(&id).is_some() {
            self.leads.retain(|_, chain| *chain != id);
        }
    }

    pub(super) fn ids(&self) -> Vec<ChainId> {
        self.by_id.keys().copied().collect()
    }

    /// Bindings and fingerprints after a change of a chain that was `before`.
    pub(super) fn after(
        &self,
        before: Option<&Known>,
        (job, secret): (&JobId, &str),
        seed: Option<Fingerprint>,
        newest: Option<Fingerprint>,
    ) -> (Vec<Binding>, Vec<Fingerprint>) {
        let current = self.binding(job, secret);
        let last_seed = current.and_then(|(_, binding)| binding.seed);
        let mut serial = current.map_or(0, |(_, binding)| binding.serial);
        let is_here = |(known, _): &(&Known, &Binding)| {
            before.is_some_and(|before| before.chain.id == known.chain.id)
        };
        if !current.as_ref().is_some_and(is_here) {
            serial += 1;
        }
        let mut bindings = before.map_or_else(Vec::new, |before| before.bindings.clone());
        bindings.retain(|binding| binding.job != *job || binding.secret != secret);
        bindings.push(Binding {
            job: job.clone(),
            secret: secret.to_owned(),
            seed: seed.or(last_seed),
            serial,
        });
        let mut fingerprints = before.map_or_else(Vec::new, |before| before.fingerprints.clone());
        for known in seed.into_iter().chain(newest) {
            if !fingerprints.contains(&known) {
                fingerprints.push(known);
            }
        }
        let surplus = fingerprints.len().saturating_sub(FINGERPRINTS_MAX);
        fingerprints.drain(..surplus);
        (bindings, fingerprints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: ChainId = ChainId([100; 16]);
    const Y: ChainId = ChainId([200; 16]);

    fn known(id: ChainId, revision: &str) -> Known {
        Known {
            revision: revision.to_owned(),
            uid: String::new(),
            is_restored: false,
            chain: Chain::new(id, b"value".to_vec().into()),
            bindings: Vec::new(),
            fingerprints: Vec::new(),
        }
    }

    fn fingerprint(byte: u8) -> Option<Fingerprint> {
        Some(Fingerprint([byte; 16]))
    }

    /// Changes a chain of the job's secret `rt`.
    fn change(chains: &mut Chains, id: ChainId, job: &str, seed: u8, newest: u8) {
        let job = JobId::file(job);
        let (bindings, fingerprints) = chains.after(
            chains.get(id),
            (&job, "rt"),
            fingerprint(seed),
            fingerprint(newest),
        );
        let next = Known {
            bindings,
            fingerprints,
            ..known(id, "")
        };
        chains.learn(next);
    }

    #[test]
    fn what_was_read_late_brings_nothing_back() {
        let mut chains = Chains::default();
        for (revision, expected) in [("9", "9"), ("10", "10"), ("9", "10"), ("11", "11")] {
            chains.learn(known(X, revision));
            assert_eq!(
                chains.get(X).map(|known| known.revision.as_str()),
                Some(expected)
            );
        }
    }

    #[test]
    fn an_older_copy_that_is_put_back_over_a_chain_does_not_take_its_place() {
        let of = |uid: &str, revision: &str, generation: u64| {
            let mut known = known(X, revision);
            known.uid = uid.to_owned();
            known.chain.generation = generation;
            known
        };
        let mut chains = Chains::default();
        for (read, held) in [
            (of("u1", "10", 5), ("10", 5)),
            (of("u1", "11", 3), ("11", 5)),
            (of("u1", "12", 6), ("12", 6)),
            // It was forgotten, and begun anew.
            (of("u2", "13", 1), ("13", 1)),
        ] {
            chains.learn(read);
            let known = chains.get(X).unwrap();
            assert_eq!((known.revision.as_str(), known.chain.generation), held);
        }
    }

    #[test]
    fn what_this_process_knows_outlives_a_secret_that_is_deleted_and_a_cluster_that_is_put_back() {
        let of = |uid: &str, revision: &str, generation: u64| {
            let mut known = known(X, revision);
            known.uid = uid.to_owned();
            known.chain.generation = generation;
            known
        };
        let held = |chains: &Chains| {
            let known = chains.get(X)?;
            Some((
                known.revision.clone(),
                known.uid.clone(),
                known.chain.generation,
            ))
        };
        let expected = |revision: &str, uid: &str, generation| {
            Some((revision.to_owned(), uid.to_owned(), generation))
        };
        let mut chains = Chains::default();
        chains.learn(of("u1", "100", 5));
        // etcd from a snapshot: the versions go back, too.
        chains.learn_present(of("u1", "60", 3));
        assert_eq!(held(&chains), expected("60", "u1", 5));
        chains.learn(of("u1", "61", 6));
        assert!(chains.miss(X));
        assert_eq!(held(&chains), expected(GONE, "u1", 6));
        // Somebody put a copy there, or another process wrote what it knew.
        chains.learn_present(Known {
            is_restored: true,
            ..of("u2", "70", 4)
        });
        assert_eq!(held(&chains), expected("70", "u2", 6));
        chains.learn_present(of("u2", "71", 7));
        assert_eq!(held(&chains), expected("71", "u2", 7));
        // The configured value is the newest, or none is of use any more.
        for worthless in [
            of("u3", "80", 0),
            Known {
                is_restored: true,
                ..of("u3", "80", 9)
            },
            Known {
                chain: of("", "", 9).chain.died(crate::time::Timestamp(1), None),
                ..of("u3", "80", 9)
            },
        ] {
            chains.drop_chain(X);
            chains.learn(worthless);
            assert!(!chains.miss(X));
            assert_eq!(held(&chains), None);
        }
    }

    #[test]
    fn of_a_secrets_bindings_the_last_that_was_made_counts() {
        let mut chains = Chains::default();
        let bound = |chains: &Chains, job: &str| {
            let (known, binding) = chains.binding(&JobId::file(job), "rt")?;
            Some((known.chain.id, binding.seed))
        };
        change(&mut chains, X, "a", 1, 2);
        change(&mut chains, X, "b", 1, 3);
        assert_eq!(bound(&chains, "a"), Some((X, fingerprint(1))));
        change(&mut chains, Y, "a", 5, 6);
        assert_eq!(bound(&chains, "a"), Some((Y, fingerprint(5))));
        change(&mut chains, X, "a", 1, 4);
        change(&mut chains, X, "a", 1, 7);
        assert_eq!(bound(&chains, "a"), Some((X, fingerprint(1))));
        assert_eq!(bound(&chains, "b"), Some((X, fingerprint(1))));
        for (value, chain) in [(1, X), (2, X), (7, X), (6, Y)] {
            let led_to = chains.led_to(Fingerprint([value; 16]));
            assert_eq!(led_to.map(|known| known.chain.id), Some(chain), "{value}");
        }
        chains.drop_chain(X);
        assert_eq!(bound(&chains, "b"), None);
        assert!(chains.led_to(Fingerprint([2; 16])).is_none());
    }

    #[test]
    fn a_chain_knows_its_newest_values_and_those_that_jobs_are_configured_with() {
        let mut chains = Chains::default();
        let job = JobId::file("a");
        let value = |n: usize| {
            let mut bytes = [9; 16];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            Some(Fingerprint(bytes))
        };
        let mut held = known(X, "");
        for n in 1..=FINGERPRINTS_MAX + 10 {
            (held.bindings, held.fingerprints) =
                chains.after(Some(&held), (&job, "rt"), value(0), value(n));
        }
        assert_eq!(held.fingerprints.len(), FINGERPRINTS_MAX);
        assert_eq!(
            held.fingerprints.last().copied(),
            value(FINGERPRINTS_MAX + 10)
        );
        chains.learn(held);
        let leads = |n| chains.led_to(value(n).unwrap()).is_some();
        assert!(leads(0) && leads(FINGERPRINTS_MAX) && !leads(1));
    }
}

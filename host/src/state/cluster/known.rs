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

/// A chain as it was last seen.
#[derive(Clone)]
pub(super) struct Known {
    /// The Secret's resourceVersion.
    pub(super) revision: String,
    pub(super) chain: Chain,
    pub(super) bindings: Vec<Binding>,
    /// Of the values that it had, the newest last.
    pub(super) fingerprints: Vec<Fingerprint>,
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

    /// What was read: a list that began before our last write must not bring back what was before it. Versions are numbers for
    /// all servers that there are, and comparable by their documentation.
    pub(super) fn learn(&mut self, known: Known) {
        let version = |known: &Known| known.revision.parse::<u64>().ok();
        if let Some(held) = self.by_id.get(&known.chain.id)
            && version(held) > version(&known)
        {
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

    /// It is gone.
    pub(super) fn drop_chain(&mut self, id: ChainId) {
        if self.by_id.remove(&id).is_some() {
            self.leads.retain(|_, chain| *chain != id);
        }
    }

    /// Those that a complete list did not have are gone.
    pub(super) fn keep_only(&mut self, listed: &[ChainId], before: &[ChainId]) {
        for id in before {
            if !listed.contains(id) {
                self.drop_chain(*id);
            }
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

//! What happens to records in one step, whole or not at all, written once for all that can hold records.

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use data_encoding::HEXLOWER;

use super::fingerprint::{Fingerprint, Link};
use super::record;
use crate::capability::chain::ChainId;
use crate::capability::keep::Revision;

/// A record's value as it is stored.
pub(super) type Value = Zeroizing<Vec<u8>>;

/// Bytes of a stored value's digest that tell it from all others.
const REVISION_BYTES: usize = 16;

/// One step.
pub(super) enum Change {
    /// A record, whatever there was.
    Put(Vec<u8>, Value),
    /// A chain and what leads to it, if the chain is as expected.
    Swap(Swap),
    /// A job's records and chains, if the chains are as expected.
    Forget(Forget),
}

pub(super) struct Swap {
    pub(super) chain: ChainId,
    pub(super) expected: Option<Revision>,
    pub(super) next: Value,
    /// What a job's secret stands for, where that changes.
    pub(super) binding: Option<(Vec<u8>, Value)>,
    /// Where values lead to.
    pub(super) links: Vec<(Fingerprint, Link)>,
}

pub(super) struct Forget {
    /// What all keys of the job begin with.
    pub(super) prefix: Vec<u8>,
    pub(super) chains: Vec<(ChainId, Option<Revision>)>,
}

/// What holds records.
pub(super) trait Tables {
    type Error;

    fn get(&self, key: &[u8]) -> Result<Option<Value>, Self::Error>;
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Self::Error>;
    fn remove(&mut self, key: &[u8]) -> Result<(), Self::Error>;
    fn remove_prefix(&mut self, prefix: &[u8]) -> Result<(), Self::Error>;
    fn link(&mut self, fingerprint: Fingerprint, link: &Link) -> Result<(), Self::Error>;
    /// Drops all links to these chains.
    fn unlink(&mut self, chains: &[ChainId]) -> Result<(), Self::Error>;
}

impl Change {
    /// Does it; false, and nothing done, if something is not as expected.
    pub(super) fn apply<T: Tables>(&self, tables: &mut T) -> Result<bool, T::Error> {
        match self {
            Self::Put(key, value) => tables.put(key, value)?,
            Self::Swap(swap) => {
                if !is_at(tables, swap.chain, swap.expected.as_ref())? {
                    return Ok(false);
                }
                tables.put(&record::chain_key(swap.chain), &swap.next)?;
                if let Some((key, value)) = &swap.binding {
                    tables.put(key, value)?;
                }
                for (fingerprint, link) in &swap.links {
                    tables.link(*fingerprint, link)?;
                }
            }
            Self::Forget(forget) => {
                for (chain, expected) in &forget.chains {
                    if !is_at(tables, *chain, expected.as_ref())? {
                        return Ok(false);
                    }
                }
                tables.remove_prefix(&forget.prefix)?;
                let mut chains = Vec::with_capacity(forget.chains.len());
                for (chain, _) in &forget.chains {
                    tables.remove(&record::chain_key(*chain))?;
                    chains.push(*chain);
                }
                if !chains.is_empty() {
                    tables.unlink(&chains)?;
                }
            }
        }
        Ok(true)
    }

    /// The keys of the records that it overwrites.
    pub(super) fn overwrites(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Put(key, _) => vec![key.clone()],
            Self::Swap(swap) => {
                let binding = swap.binding.as_ref().map(|(key, _)| key.clone());
                binding
                    .into_iter()
                    .chain([record::chain_key(swap.chain)])
                    .collect()
            }
            Self::Forget(_) => Vec::new(),
        }
    }

    /// The chains that it gives another state, or removes.
    pub(super) fn chains(&self) -> Vec<ChainId> {
        match self {
            Self::Put(..) => Vec::new(),
            Self::Swap(swap) => vec![swap.chain],
            Self::Forget(forget) => forget.chains.iter().map(|(chain, _)| *chain).collect(),
        }
    }

    /// Whether a record is gone after it.
    pub(super) fn removes(&self, key: &[u8]) -> bool {
        match self {
            Self::Put(..) | Self::Swap(_) => false,
            Self::Forget(forget) => {
                key.starts_with(&forget.prefix)
                    || forget
                        .chains
                        .iter()
                        .any(|(chain, _)| record::chain_key(*chain) == key)
            }
        }
    }
}

fn is_at<T: Tables>(
    tables: &T,
    chain: ChainId,
    expected: Option<&Revision>,
) -> Result<bool, T::Error> {
    let found = tables.get(&record::chain_key(chain))?;
    Ok(found.map(|stored| revision(&stored)).as_ref() == expected)
}

/// Which state of a chain a stored value is. Values are never the same twice, so neither are these.
pub(super) fn revision(stored: &[u8]) -> Revision {
    let digest = Sha256::digest(stored);
    Revision(HEXLOWER.encode(digest.get(..REVISION_BYTES).unwrap_or_default()))
}

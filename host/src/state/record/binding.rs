//! What a job's secret stands for: its chain, the chains before it, and the configured value as it was last seen.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use data_encoding::BASE64;

use super::super::error::StateError;
use super::super::fingerprint::Fingerprint;
use super::{VALUE_VERSION, fixed, from_json, to_json};
use crate::capability::chain::ChainId;

/// Chains before the newest that a secret is known to have stood for, so that forgetting the job forgets them. Each begins
/// with somebody's new login; of one that is dropped from the list, the store goes on knowing the values.
const FORMER_CHAINS: usize = 64;

/// What a job's secret stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::state) struct Binding {
    /// Its chain.
    pub chain: ChainId,
    /// The configured value when the chain was last changed; none: it could never be read.
    pub seed: Option<Fingerprint>,
    /// The chains that it stood for before, the latest last.
    pub former: Vec<ChainId>,
}

impl Binding {
    /// The binding after a change of `chain`, made with the configured value `seed` where it could be read.
    pub(in crate::state) fn after(
        before: Option<&Self>,
        chain: ChainId,
        seed: Option<Fingerprint>,
    ) -> Self {
        let Some(before) = before else {
            return Self {
                chain,
                seed,
                former: Vec::new(),
            };
        };
        let mut former = before.former.clone();
        if before.chain != chain {
            former.retain(|id| *id != chain && *id != before.chain);
            former.push(before.chain);
            let surplus = former.len().saturating_sub(FORMER_CHAINS);
            former.drain(..surplus);
        }
        Self {
            chain,
            seed: seed.or(before.seed),
            former,
        }
    }

    /// Every chain that it stands or stood for.
    pub(in crate::state) fn chains(&self) -> impl Iterator<Item = ChainId> + '_ {
        self.former.iter().copied().chain([self.chain])
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    v: u32,
    chain: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    seed: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    former: Vec<String>,
}

const RECORD: &str = "rotating secret";

impl Binding {
    /// Its value in a record.
    pub(in crate::state) fn encode(&self) -> Result<Zeroizing<Vec<u8>>, StateError> {
        to_json(
            RECORD,
            &Stored {
                v: VALUE_VERSION,
                chain: BASE64.encode(&self.chain.0),
                seed: self.seed.map(|seed| BASE64.encode(&seed.0)),
                former: self.former.iter().map(|id| BASE64.encode(&id.0)).collect(),
            },
        )
    }

    /// The inverse of [`Self::encode`].
    pub(in crate::state) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let stored: Stored = from_json(RECORD, bytes)?;
        let seed = stored.seed.map(|seed| fixed(RECORD, &seed)).transpose()?;
        Ok(Self {
            chain: ChainId(fixed(RECORD, &stored.chain)?),
            seed: seed.map(Fingerprint),
            former: stored
                .former
                .iter()
                .map(|id| fixed(RECORD, id).map(ChainId))
                .collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const X: ChainId = ChainId([1; 16]);
    const Y: ChainId = ChainId([2; 16]);

    #[test]
    fn a_binding_remembers_the_last_seed_that_was_read_and_the_chains_before() {
        let seed = Some(Fingerprint([7; 16]));
        let first = Binding::after(None, X, seed);
        let unread = Binding::after(Some(&first), X, None);
        assert_eq!(unread, first);
        let other = Binding::after(Some(&unread), Y, Some(Fingerprint([8; 16])));
        assert_eq!(other.former, [X]);
        let back = Binding::after(Some(&other), X, seed);
        assert_eq!((back.chain, &back.former[..]), (X, &[Y][..]));
    }

    #[test]
    fn a_secret_with_a_new_login_every_day_keeps_no_more_than_the_latest_chains() {
        let mut binding = Binding::after(None, ChainId([0; 16]), None);
        for day in 1..=100_u8 {
            binding = Binding::after(Some(&binding), ChainId([day; 16]), None);
        }
        assert_eq!(binding.former.len(), FORMER_CHAINS);
        assert_eq!(binding.former.last(), Some(&ChainId([99; 16])));
    }

    proptest! {
        #[test]
        fn a_binding_is_read_as_it_was_written(
            chain in any::<[u8; 16]>(),
            seed in proptest::option::of(any::<[u8; 16]>()),
            former in proptest::collection::vec(any::<[u8; 16]>(), 0..4),
        ) {
            let binding = Binding {
                chain: ChainId(chain),
                seed: seed.map(Fingerprint),
                former: former.into_iter().map(ChainId).collect(),
            };
            prop_assert_eq!(Binding::decode(&binding.encode().unwrap()).unwrap(), binding);
        }
    }
}

//! Fingerprints of the values of chains: by them a chain is found, whoever brings the value, and no value can be had from
//! them. HMAC-SHA256 (RFC 2104), cut to 16 bytes, with a key that belongs to the store and does not change with the state key.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::error::StateError;
use super::random;
use crate::capability::chain::ChainId;

/// Bytes of a fingerprint. Two of 2^32 values share one with a probability of 2^-64.
const LEN: usize = 16;

/// Bytes of the key, as many as the hash has.
pub(super) const KEY_LEN: usize = 32;

/// What is hashed under the key: a value.
const VALUE: u8 = 1;
/// What is hashed under the key: that a fingerprint belongs to a chain.
const LINK: u8 = 2;

/// A value's fingerprint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Fingerprint(pub(super) [u8; LEN]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

/// That a fingerprint belongs to a chain: its id and a proof. Without the proof, whoever can write the store, but has no state
/// key, could make one job send another's secret. With it, a month of rotations needs no encryption of its own.
pub(super) type Link = [u8; 2 * LEN];

/// Makes fingerprints and links.
pub(super) struct Fingerprints(hmac::Key);

impl Fingerprints {
    pub(super) fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// A key for a new store.
    pub(super) fn random_key() -> Result<Zeroizing<[u8; KEY_LEN]>, StateError> {
        random().map(Zeroizing::new)
    }

    pub(super) fn of(&self, value: &[u8]) -> Fingerprint {
        Fingerprint(self.hash(VALUE, &[value]))
    }

    /// The id of a chain that begins with this value.
    pub(super) fn chain_id(&self, first_value: &[u8]) -> ChainId {
        ChainId(self.of(first_value).0)
    }

    pub(super) fn link(&self, fingerprint: Fingerprint, chain: ChainId) -> Link {
        let mut link = [0; 2 * LEN];
        let (id, proof) = link.split_at_mut(LEN);
        id.copy_from_slice(&chain.0);
        proof.copy_from_slice(&self.hash(LINK, &[&fingerprint.0, &chain.0]));
        link
    }

    /// The chain that a link leads to.
    pub(super) fn follow(
        &self,
        fingerprint: Fingerprint,
        link: &Link,
    ) -> Result<ChainId, StateError> {
        let chain = chain_of(link);
        let expected = self.link(fingerprint, chain);
        verify_slices_are_equal(link, &expected).map_err(|_| StateError::Undecryptable {
            record: format!("fingerprint of a value of chain {chain}"),
        })?;
        Ok(chain)
    }

    fn hash(&self, what: u8, parts: &[&[u8]]) -> [u8; LEN] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&[what]);
        for part in parts {
            context.update(part);
        }
        let mut short = [0; LEN];
        for (short, byte) in short.iter_mut().zip(context.sign().as_ref()) {
            *short = *byte;
        }
        short
    }
}

/// The chain that a link names, whether it does so rightly or not.
pub(super) fn chain_of(link: &Link) -> ChainId {
    let mut id = [0; LEN];
    for (id, byte) in id.iter_mut().zip(link) {
        *id = *byte;
    }
    ChainId(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_depends_on_the_value_and_the_key_alone() {
        let one = Fingerprints::new(&[1; 32]);
        assert_eq!(one.of(b"value"), Fingerprints::new(&[1; 32]).of(b"value"));
        assert_ne!(one.of(b"value"), one.of(b"valuf"));
        assert_ne!(one.of(b"value"), Fingerprints::new(&[2; 32]).of(b"value"));
        assert_eq!(one.chain_id(b"value").0, one.of(b"value").0);
        // On disk: it must not change.
        assert_eq!(
            format!("{:?}", one.of(b"value")),
            "1f4b04a21263d1f93c5fbf7845e4f7ab"
        );
    }

    #[test]
    fn a_link_that_was_altered_or_made_without_the_key_leads_nowhere() {
        let (ours, foreign) = (Fingerprints::new(&[1; 32]), Fingerprints::new(&[2; 32]));
        let (value, other) = (ours.of(b"value"), ours.of(b"other"));
        let chain = ChainId([7; LEN]);
        let link = ours.link(value, chain);
        assert_eq!(ours.follow(value, &link).unwrap(), chain);
        assert!(ours.follow(other, &link).is_err(), "moved");
        assert!(ours.follow(value, &foreign.link(value, chain)).is_err());
        for index in 0..link.len() {
            let mut altered = link;
            altered[index] ^= 1;
            let error = ours.follow(value, &altered).unwrap_err();
            assert_eq!(error.code(), "state.undecryptable", "byte {index}");
        }
    }
}

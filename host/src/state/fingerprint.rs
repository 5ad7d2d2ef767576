//! Fingerprints of the values of chains: a chain is found by them, whichever job has the value, and they do not reveal the value.
//! HMAC-SHA256 (RFC 2104), truncated, with a key that belongs to the store and does not change with the state key.

use std::fmt;

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::StateError;
use super::random;
use crate::capability::chain::ChainId;

/// Bytes of a fingerprint. A store of ten thousand chains has less than 2^20 of them: two collide with a probability of 2^-25.
const LEN: usize = 8;

/// Bytes of the key, as many as the hash has.
pub(super) const KEY_LEN: usize = 32;

/// A value's fingerprint.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fingerprint(pub(super) [u8; LEN]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

/// The prefix of a fingerprint, for the many older values of a chain. It is compared only for chains of the same job, so that a
/// new login is taken for one of 300 earlier values with a probability of 1 in 50,000.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Shortened(pub(super) [u8; 3]);

impl Fingerprint {
    /// Its prefix.
    pub(super) const fn shortened(self) -> Shortened {
        let [a, b, c, ..] = self.0;
        Shortened([a, b, c])
    }

    /// The fingerprint of a chain's first value.
    pub(super) fn of_first(chain: ChainId) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = chain.0;
        Self([a, b, c, d, e, f, g, h])
    }
}

/// Computes fingerprints.
pub(super) struct Fingerprints(hmac::Key);

impl Fingerprints {
    pub(super) fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// A key for a new store.
    pub(super) fn random_key() -> Result<Zeroizing<[u8; KEY_LEN]>, StateError> {
        random().map(Zeroizing::new)
    }

    /// None: the empty value does not identify a chain, as many chains begin with it.
    pub(super) fn of(&self, value: &[u8]) -> Option<Fingerprint> {
        (!value.is_empty()).then(|| Fingerprint::of_first(self.chain_id(value)))
    }

    /// The id of a chain that begins with this value.
    pub(super) fn chain_id(&self, first_value: &[u8]) -> ChainId {
        ChainId(self.digest(1, first_value))
    }

    /// The id of the record under this key, for places where keys cannot be used as names.
    pub(super) fn record_id(&self, key: &[u8]) -> [u8; 16] {
        self.digest(2, key)
    }

    fn digest(&self, what: u8, bytes: &[u8]) -> [u8; 16] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&[what]);
        context.update(bytes);
        let mut short = [0; 16];
        for (short, byte) in short.iter_mut().zip(context.sign().as_ref()) {
            *short = *byte;
        }
        short
    }
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
        assert_eq!(one.of(b""), None);
        let chain = one.chain_id(b"value");
        assert_eq!(one.of(b"value"), Some(Fingerprint::of_first(chain)));
        assert_ne!(one.record_id(b"value"), chain.0);
        // Part of the storage format: it must not change.
        assert_eq!(chain.to_string(), "1f4b04a21263d1f93c5fbf7845e4f7ab");
    }
}

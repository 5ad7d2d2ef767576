//! Fingerprints of the values of chains: a chain is found by them, whichever job of the administrator or of the same tenant has the value,
//! and they do not reveal the value. A tenant's value leads to no other tenant's chain: whoever has a spent value, of an old backup,
//! must not get the live token.
//! HMAC-SHA256 (RFC 2104), truncated, with a key that belongs to the store and does not change with the state key.

use std::fmt;

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::StateError;
use super::random;
use crate::capability::chain::ChainId;
use crate::model::JobId;

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

    /// The fingerprint of a value of this job's. None: the empty value does not identify a chain, as many chains begin with it.
    pub(super) fn of(&self, job: &JobId, value: &[u8]) -> Option<Fingerprint> {
        (!value.is_empty()).then(|| Fingerprint::of_first(self.chain_id(job, value)))
    }

    /// The id of a chain of this job's that begins with this value.
    pub(super) fn chain_id(&self, job: &JobId, first_value: &[u8]) -> ChainId {
        let Some(namespace) = &job.namespace else {
            return ChainId(self.digest(1, first_value));
        };
        // No namespace has a NUL.
        let scoped = [namespace.as_bytes(), b"\0", first_value].concat();
        ChainId(self.digest(3, &Zeroizing::new(scoped)))
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
        let (one, job) = (Fingerprints::new(&[1; 32]), JobId::file("job"));
        assert_eq!(
            one.of(&job, b"value"),
            Fingerprints::new(&[1; 32]).of(&job, b"value")
        );
        assert_ne!(one.of(&job, b"value"), one.of(&job, b"valuf"));
        assert_ne!(
            one.of(&job, b"value"),
            Fingerprints::new(&[2; 32]).of(&job, b"value")
        );
        assert_eq!(one.of(&job, b""), None);
        let chain = one.chain_id(&job, b"value");
        assert_eq!(one.of(&job, b"value"), Some(Fingerprint::of_first(chain)));
        assert_ne!(one.record_id(b"value"), chain.0);
        // Part of the storage format: it must not change.
        assert_eq!(chain.to_string(), "1f4b04a21263d1f93c5fbf7845e4f7ab");
    }

    #[test]
    fn the_same_value_is_another_one_in_another_namespace() {
        let one = Fingerprints::new(&[1; 32]);
        let of = |namespace: Option<&str>| JobId {
            namespace: namespace.map(str::to_owned),
            ..JobId::file("job")
        };
        let (a, b) = (of(Some("a")), of(Some("b")));
        assert_eq!(one.of(&a, b"value"), one.of(&a, b"value"));
        assert_ne!(one.of(&a, b"value"), one.of(&b, b"value"));
        assert_ne!(one.of(&a, b"value"), one.of(&of(None), b"value"));
        // Part of the storage format: it must not change.
        assert_eq!(
            one.chain_id(&a, b"value").to_string(),
            "697f13086704a53a1e0273a7d1566e3a"
        );
    }
}

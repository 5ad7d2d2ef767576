//! The examination of a store before it is used: whether these keys open its records, which of them must be encrypted again,
//! which are refused, and their content. Pure.

use std::collections::BTreeMap;

use secrecy::ExposeSecret as _;

use super::error::StateError;
use super::fingerprint::Fingerprints;
use super::key::RecordKey;
use super::known::{KnownChain, KnownRecords};
use super::record::{self, ChainRecord, Own};
use super::records::{RecordBytes, StoredRecord};
use super::seal::{Condition, Keyring};

/// What to do about the records of a store.
#[derive(Default)]
pub(super) struct Examined {
    /// Those that are refused, and why.
    pub(super) refused: BTreeMap<RecordKey, StateError>,
    /// Those to encrypt again with the first key; the store's own last.
    pub(super) outdated: Vec<RecordKey>,
}

/// An examination of all records.
pub(super) struct Examination<'a> {
    keys: &'a Keyring,
    /// Whether a record in plain text must have been written without the key, as an attack or by mistake.
    encrypted: bool,
    /// Made from the store's own record while that is not encrypted, so that only chains can confirm its key.
    unproven: Option<Fingerprints>,
    is_of_other_key: bool,
    found: Examined,
    missing: BTreeMap<String, usize>,
}

impl<'a> Examination<'a> {
    /// `own`: the store's own record, encrypted together with all others and last: while it is not, records in plain text are
    /// accepted. `were_encrypted`: they are known to have been encrypted before.
    pub(super) fn new(keys: &'a Keyring, own: Option<&[u8]>, were_encrypted: bool) -> Self {
        let is_sealed =
            own.is_some_and(|own| keys.examine(&RecordKey::Own, own) != Condition::Plain);
        let encrypted = !keys.is_empty() && (were_encrypted || is_sealed);
        let unproven = own.filter(|_| !encrypted && !keys.is_empty());
        let unproven = unproven.and_then(|own| read_own(keys, own).ok());
        Self {
            keys,
            encrypted,
            unproven: unproven.map(|own| Fingerprints::new(&own.fingerprint_key)),
            is_of_other_key: false,
            found: Examined::default(),
            missing: BTreeMap::new(),
        }
    }

    /// Examines one record.
    pub(super) fn see(&mut self, key: &RecordKey, stored: &[u8]) {
        if let (Some(fingerprints), RecordKey::Chain(_)) = (&self.unproven, key)
            && let Ok(record) = read_chain(self.keys, key, stored)
        {
            self.is_of_other_key |= is_of_other_key(&record, fingerprints);
        }
        match self.keys.examine(key, stored) {
            Condition::Current => {}
            Condition::Plain if self.encrypted => {
                let why = StateError::plaintext(key);
                self.found.refused.insert(key.clone(), why);
            }
            Condition::Outdated | Condition::Plain => self.found.outdated.push(key.clone()),
            Condition::Undecryptable => {
                let why = StateError::undecryptable(key);
                self.found.refused.insert(key.clone(), why);
            }
            Condition::KeyMissing(id) => *self.missing.entry(id).or_default() += 1,
        }
    }

    /// # Errors
    /// A key is missing altogether, which is a mistake in the configuration and no damage, so nothing is written then; or
    /// encrypted chains were written with another fingerprint key.
    pub(super) fn end(
        mut self,
        store: &str,
        damaged: impl Fn(String) -> StateError,
    ) -> Result<Examined, StateError> {
        if let Some((key_id, records)) = self.missing.pop_first() {
            return Err(StateError::KeyMissing {
                store: store.to_owned(),
                key_id,
                records,
            });
        }
        if self.is_of_other_key {
            return Err(damaged(
                "the fingerprint key is not the one that its chains were written with".to_owned(),
            ));
        }
        self.found
            .outdated
            .sort_by_key(|key| *key == RecordKey::Own);
        Ok(self.found)
    }
}

/// Reads the store's own record, whoever wrote it.
///
/// # Errors
/// Why it cannot be read.
pub(super) fn read_own(keys: &Keyring, stored: &[u8]) -> Result<Own, StateError> {
    if let Condition::KeyMissing(key_id) = keys.examine(&RecordKey::Own, stored) {
        return Err(StateError::KeyMissing {
            store: "the state store".to_owned(),
            key_id,
            records: 1,
        });
    }
    record::decode(
        "fingerprint key",
        &keys.open_unproven(&RecordKey::Own, stored)?,
    )
}

/// The store's own record as [`read_own`] reads it.
///
/// # Errors
/// The cryptographic library failed.
pub(super) fn seal_own(keys: &Keyring, own: &Own) -> Result<RecordBytes, StateError> {
    keys.seal(&RecordKey::Own, &record::encode("fingerprint key", own)?)
}

/// Reads a chain's record.
///
/// # Errors
/// Why it cannot be read.
pub(super) fn read_chain(
    keys: &Keyring,
    key: &RecordKey,
    stored: &[u8],
) -> Result<ChainRecord, StateError> {
    record::decode("chain", &keys.open(key, stored)?)
}

/// Adds a record's content to the memory. `holds`: chains and records of jobs are held.
pub(super) fn learn(
    known: &mut KnownRecords,
    keys: &Keyring,
    key: RecordKey,
    stored: StoredRecord,
    holds: bool,
) {
    match &key {
        RecordKey::Own => {}
        RecordKey::Chain(id) => match read_chain(keys, &key, &stored.value) {
            Ok(record) => {
                let (mut read, chain) = KnownChain::read(&stored, record);
                read.held = holds.then_some(chain);
                known.learn(*id, read);
                known.refused.remove(&key);
            }
            Err(error) => {
                known.refused.insert(key, error);
            }
        },
        RecordKey::Token(_) | RecordKey::Values(_) if !holds => {}
        RecordKey::Token(_) | RecordKey::Values(_) => match keys.open(&key, &stored.value) {
            Ok(_) => {
                known.refused.remove(&key);
                known.kept.insert(key, (stored.revision, stored.value));
            }
            Err(error) => {
                known.refused.insert(key, error);
            }
        },
    }
}

/// Whether a chain was written with another fingerprint key than this: then that key may have been put there to have the store
/// accept other chains.
fn is_of_other_key(record: &ChainRecord, fingerprints: &Fingerprints) -> bool {
    // All of its jobs are the administrator's, or of one namespace.
    let Some(binding) = record.bindings.first() else {
        return false;
    };
    let newest = fingerprints.of(&binding.job, record.chain.value.expose_secret());
    newest.is_some_and(|newest| !record.fingerprints.contains(&newest))
}

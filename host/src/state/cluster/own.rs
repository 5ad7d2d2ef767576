//! The store's own Secret: the key of its fingerprints, and which chains were forgotten last.

use zeroize::Zeroizing;

use super::super::error::StateError;
use super::super::fingerprint::{Fingerprints, KEY_LEN};
use super::super::seal::{Condition, Keyring};
use super::object::{CHAIN, Data, Object, STORE};
use super::{ClusterPlace, get, has_code, list, sealed_under, write};
use crate::failure::Failure;
use crate::kubernetes::{CONFLICT, Kubernetes};

/// Keys of `data`.
const FINGERPRINT_KEY_KEY: &str = "fingerprint-key";
const FORGOTTEN_KEY: &str = "forgotten";

/// Chains that are remembered as forgotten: more than a person forgets while another process is without a look at the store.
const FORGOTTEN_MAX: usize = 256;

pub(super) type FingerprintKey = Zeroizing<[u8; KEY_LEN]>;

/// The key of fingerprints: the one that is there, or a new one if ours is the first.
pub(super) async fn fingerprint_key(
    kubernetes: &Kubernetes,
    place: &ClusterPlace,
    keys: &Keyring,
) -> Result<FingerprintKey, Failure> {
    if let Some(key) = stored_key(kubernetes, place, keys).await? {
        return Ok(key);
    }
    if let Err(gone) = require_none(place, &list(kubernetes, place).await?) {
        // Another process may have made the key, and the chains, meanwhile.
        let key = stored_key(kubernetes, place, keys).await?;
        return key.ok_or_else(|| gone.into());
    }
    write_key(kubernetes, place, keys, Fingerprints::random_key()?).await
}

/// Chains without the key of fingerprints would be taken for chains that never had the configured values.
pub(super) fn require_none(place: &ClusterPlace, objects: &[Object]) -> Result<(), StateError> {
    let chains = objects.iter().filter(|object| object.kind == CHAIN).count();
    if chains == 0 {
        return Ok(());
    }
    Err(StateError::DamagedSecrets {
        store: place.to_string(),
        reason: format!(
            "Secret {} with their fingerprint key is gone, and without it nobody can tell which values of the {chains} chain(s) were spent; put it back, or delete these Secrets and log in again",
            name(place)
        ),
    })
}

/// Its name.
pub(super) fn name(place: &ClusterPlace) -> String {
    format!("{}-{STORE}", place.prefix)
}

/// The key of fingerprints that is there.
pub(super) async fn stored_key(
    kubernetes: &Kubernetes,
    place: &ClusterPlace,
    keys: &Keyring,
) -> Result<Option<FingerprintKey>, Failure> {
    let object = get(kubernetes, place, &name(place)).await?;
    object
        .map(|object| opened_key(place, keys, &object))
        .transpose()
}

/// Creates the Secret with the key of fingerprints. The key that is there afterwards: another process may have been first.
pub(super) async fn write_key(
    kubernetes: &Kubernetes,
    place: &ClusterPlace,
    keys: &Keyring,
    key: FingerprintKey,
) -> Result<FingerprintKey, Failure> {
    let name = name(place);
    let sealed = keys.seal(&sealed_name(place, FINGERPRINT_KEY_KEY), &*key)?;
    let data = Data::from([(FINGERPRINT_KEY_KEY.to_owned(), sealed)]);
    match write(kubernetes, place, (STORE, &name), None, &data).await {
        Ok(_) => Ok(key),
        Err(failure) if has_code(&failure, CONFLICT) => {
            stored_key(kubernetes, place, keys).await?.ok_or(failure)
        }
        Err(failure) => Err(failure),
    }
}

/// The name that one of its values is sealed under.
fn sealed_name(place: &ClusterPlace, key: &str) -> Vec<u8> {
    sealed_under(&place.prefix, STORE, &name(place), key).unwrap_or_default()
}

pub(super) fn opened_key(
    place: &ClusterPlace,
    keys: &Keyring,
    object: &Object,
) -> Result<FingerprintKey, Failure> {
    let sealed_under = &*sealed_name(place, FINGERPRINT_KEY_KEY);
    let damaged = || StateError::DamagedSecrets {
        store: place.to_string(),
        reason: format!("the fingerprint key in {} cannot be decrypted", object.name),
    };
    let stored = object.data.get(FINGERPRINT_KEY_KEY).ok_or_else(damaged)?;
    if let Condition::KeyMissing(key_id) = keys.examine(sealed_under, stored) {
        return Err(StateError::KeyMissing {
            store: place.to_string(),
            key_id,
            records: 1,
        }
        .into());
    }
    // In a store that is encrypted for the first time it is as it is.
    let key = keys
        .open_unproven(sealed_under, stored)
        .map_err(|_| damaged())?;
    let key: [u8; KEY_LEN] = key.as_slice().try_into().map_err(|_| damaged())?;
    Ok(Zeroizing::new(key))
}

/// The Secrets of chains that were forgotten last, by their uid: that such a one is gone is no loss.
pub(super) fn forgotten(
    place: &ClusterPlace,
    keys: &Keyring,
    object: &Object,
) -> Result<Vec<String>, StateError> {
    let Some(sealed) = object.data.get(FORGOTTEN_KEY) else {
        return Ok(Vec::new());
    };
    let bytes = keys.open(&sealed_name(place, FORGOTTEN_KEY), sealed)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().map(str::to_owned).collect())
}

/// The Secret's data with these uids among the forgotten.
pub(super) fn with_forgotten<'a>(
    place: &ClusterPlace,
    keys: &Keyring,
    object: &Object,
    uids: impl Iterator<Item = &'a str>,
) -> Result<Data, StateError> {
    let mut all = forgotten(place, keys, object)?;
    all.extend(uids.map(str::to_owned));
    let newest = all.split_off(all.len().saturating_sub(FORGOTTEN_MAX));
    let sealed = keys.seal(
        &sealed_name(place, FORGOTTEN_KEY),
        newest.join("\n").as_bytes(),
    )?;
    let mut data = object.data.clone();
    data.insert(FORGOTTEN_KEY.to_owned(), sealed);
    Ok(data)
}

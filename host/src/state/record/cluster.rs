//! Values of Secrets that have no record in a directory: the bindings of one chain, and all that a job's plugin cached.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::super::error::StateError;
use super::super::fingerprint::Fingerprint;
use super::chain::{Binary, StoredJob, binary, job_in, job_out};
use super::{SecretText, VALUE_VERSION, fixed, from_json, to_json};
use crate::config::model::JobId;

const BINDINGS: &str = "bindings of a chain";
const VALUES: &str = "plugin values";

/// What a plugin cached, by key.
pub(in crate::state) type Values = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// That a job's secret stands or stood for a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::state) struct BindingInChain {
    pub job: JobId,
    pub secret: String,
    /// The configured value when the job last changed the chain; none: it could never be read.
    pub seed: Option<Fingerprint>,
    /// Of a secret's bindings, in all chains, the one with the highest number counts.
    pub serial: u64,
}

#[derive(Serialize, Deserialize)]
struct Bindings {
    v: u32,
    bindings: Vec<StoredBinding>,
}

#[derive(Serialize, Deserialize)]
struct StoredBinding {
    job: StoredJob,
    secret: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    seed: Option<String>,
    serial: u64,
}

/// The bindings of a chain.
pub(in crate::state) fn encode_bindings(
    bindings: &[BindingInChain],
) -> Result<Zeroizing<Vec<u8>>, StateError> {
    let bindings = bindings
        .iter()
        .map(|binding| StoredBinding {
            job: job_out(&binding.job),
            secret: binding.secret.clone(),
            seed: binding.seed.map(|seed| BASE64.encode(&seed.0)),
            serial: binding.serial,
        })
        .collect();
    to_json(
        BINDINGS,
        &Bindings {
            v: VALUE_VERSION,
            bindings,
        },
    )
}

/// The inverse of [`encode_bindings`].
pub(in crate::state) fn decode_bindings(bytes: &[u8]) -> Result<Vec<BindingInChain>, StateError> {
    let stored: Bindings = from_json(BINDINGS, bytes)?;
    let bindings = stored.bindings.into_iter();
    bindings
        .map(|stored| {
            let seed = stored.seed.map(|seed| fixed(BINDINGS, &seed)).transpose()?;
            Ok(BindingInChain {
                job: job_in(BINDINGS, stored.job)?,
                secret: stored.secret,
                seed: seed.map(Fingerprint),
                serial: stored.serial,
            })
        })
        .collect()
}

#[derive(Serialize)]
struct ValuesOut<'a> {
    v: u32,
    values: BTreeMap<&'a str, Binary<'a>>,
}

#[derive(Deserialize)]
struct ValuesIn {
    values: BTreeMap<String, SecretText>,
}

/// What a plugin cached.
pub(in crate::state) fn encode_values(values: &Values) -> Result<Zeroizing<Vec<u8>>, StateError> {
    let values = values.iter();
    to_json(
        VALUES,
        &ValuesOut {
            v: VALUE_VERSION,
            values: values
                .map(|(key, value)| (key.as_str(), Binary(value)))
                .collect(),
        },
    )
}

/// The inverse of [`encode_values`].
pub(in crate::state) fn decode_values(bytes: &[u8]) -> Result<Values, StateError> {
    let stored: ValuesIn = from_json(VALUES, bytes)?;
    let values = stored.values.into_iter();
    values
        .map(|(key, text)| Ok((key, Zeroizing::new(binary(VALUES, &text)?))))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::any_job;
    use super::*;

    proptest! {
        #[test]
        fn bindings_are_read_as_they_were_written(
            bindings in proptest::collection::vec((any_job(), ".{0,10}", proptest::option::of(any::<[u8; 16]>()), any::<u64>()), 0..4)
        ) {
            let bindings: Vec<_> = bindings
                .into_iter()
                .map(|(job, secret, seed, serial)| BindingInChain { job, secret, seed: seed.map(Fingerprint), serial })
                .collect();
            prop_assert_eq!(decode_bindings(&encode_bindings(&bindings).unwrap()).unwrap(), bindings);
        }

        #[test]
        fn values_are_read_as_they_were_written(values in proptest::collection::btree_map(".{0,10}", any::<Vec<u8>>(), 0..4)) {
            let values: Values = values.into_iter().map(|(key, value)| (key, Zeroizing::new(value))).collect();
            prop_assert_eq!(decode_values(&encode_values(&values).unwrap()).unwrap(), values);
        }
    }
}

//! Keys of records and their encoding in bytes. Pure.

use crate::capability::chain::ChainId;
use crate::model::{JobId, Provider};

/// The key of a record. Its order is the order of the records.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    /// The store's own record, with the key of its fingerprints.
    Own,
    /// A chain, which several jobs may share.
    Chain(ChainId),
    /// The stored token of a job.
    Token(JobId),
    /// The values that a job's plugin cached.
    Values(JobId),
}

/// The first byte of a key. The numbers are part of the storage format.
const OWN: u8 = 0;
const CHAIN: u8 = 1;
const TOKEN: u8 = 2;
const VALUES: u8 = 3;

impl RecordKey {
    /// The job of the record.
    pub(super) const fn job(&self) -> Option<&JobId> {
        match self {
            Self::Token(job) | Self::Values(job) => Some(job),
            Self::Own | Self::Chain(_) => None,
        }
    }

    /// The encoded key. Every part is preceded by its length, so no two keys are ambiguous.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Own => vec![OWN],
            Self::Chain(id) => [&[CHAIN][..], &id.0].concat(),
            Self::Token(job) => of_job(TOKEN, job),
            Self::Values(job) => of_job(VALUES, job),
        }
    }

    /// The inverse of [`Self::to_bytes`]; none: this version does not know such a key.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, mut rest) = bytes.split_first()?;
        let key = match *kind {
            OWN => Self::Own,
            CHAIN => return Some(Self::Chain(ChainId(rest.try_into().ok()?))),
            TOKEN => Self::Token(take_job(&mut rest)?),
            VALUES => Self::Values(take_job(&mut rest)?),
            _ => return None,
        };
        rest.is_empty().then_some(key)
    }
}

/// For messages.
impl std::fmt::Display for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own => f.write_str("fingerprint key"),
            Self::Chain(id) => write!(f, "chain {id}"),
            Self::Token(job) => write!(f, "kept token of job {job}"),
            Self::Values(job) => write!(f, "values that the plugin of job {job} cached"),
        }
    }
}

fn of_job(kind: u8, job: &JobId) -> Vec<u8> {
    let mut key = vec![kind, job.provider.number()];
    push_optional(&mut key, job.namespace.as_deref());
    push_text(&mut key, &job.name);
    push_optional(&mut key, job.uid.as_deref());
    key
}

fn take_job(rest: &mut &[u8]) -> Option<JobId> {
    let number = take_byte(rest)?;
    Some(JobId {
        provider: Provider::ALL
            .into_iter()
            .find(|provider| provider.number() == number)?,
        namespace: take_optional(rest)?,
        name: take_text(rest)?,
        uid: take_optional(rest)?,
    })
}

fn push_optional(key: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => key.push(0),
        Some(text) => {
            key.push(1);
            push_text(key, text);
        }
    }
}

fn push_text(key: &mut Vec<u8>, text: &str) {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    key.extend_from_slice(&length.to_be_bytes());
    key.extend_from_slice(text.as_bytes());
}

fn take_byte(rest: &mut &[u8]) -> Option<u8> {
    let (first, tail) = rest.split_first()?;
    *rest = tail;
    Some(*first)
}

fn take_optional(rest: &mut &[u8]) -> Option<Option<String>> {
    match take_byte(rest)? {
        0 => Some(None),
        1 => take_text(rest).map(Some),
        _ => None,
    }
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let (length, tail) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (text, tail) = tail.split_at_checked(length)?;
    *rest = tail;
    Some(std::str::from_utf8(text).ok()?.to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::state) fn any_job() -> impl Strategy<Value = JobId> {
        (
            proptest::sample::select(&Provider::ALL[..]),
            proptest::option::of(".{0,20}"),
            ".{0,20}",
            proptest::option::of(".{0,20}"),
        )
            .prop_map(|(provider, namespace, name, uid)| JobId {
                provider,
                namespace,
                name,
                uid,
            })
    }

    fn any_key() -> impl Strategy<Value = RecordKey> {
        prop_oneof![
            Just(RecordKey::Own),
            any::<[u8; 16]>().prop_map(|id| RecordKey::Chain(ChainId(id))),
            any_job().prop_map(RecordKey::Token),
            any_job().prop_map(RecordKey::Values),
        ]
    }

    proptest! {
        #[test]
        fn a_key_is_read_as_it_was_written_and_no_two_are_one(one in any_key(), other in any_key()) {
            prop_assert_eq!(RecordKey::from_bytes(&one.to_bytes()), Some(one.clone()));
            prop_assert_eq!(one.to_bytes() == other.to_bytes(), one == other);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in any::<Vec<u8>>()) {
            if let Some(key) = RecordKey::from_bytes(&bytes) {
                prop_assert_eq!(key.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn the_key_on_disk_does_not_change() {
        let job = JobId {
            namespace: Some("ns".into()),
            ..JobId::file("job")
        };
        for (key, bytes) in [
            (RecordKey::Own, &b"\0"[..]),
            (
                RecordKey::Chain(ChainId(*b"0123456789abcdef")),
                b"\x010123456789abcdef",
            ),
            (
                RecordKey::Token(job.clone()),
                b"\x02\x01\x01\0\0\0\x02ns\0\0\0\x03job\0",
            ),
            (
                RecordKey::Values(job),
                b"\x03\x01\x01\0\0\0\x02ns\0\0\0\x03job\0",
            ),
        ] {
            assert_eq!(key.to_bytes(), bytes, "{key}");
        }
    }
}

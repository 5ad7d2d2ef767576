//! How records look: a key that names job, kind and name, or a chain, in a stable binary form, and a value in versioned JSON.
//! Pure.

mod binding;
mod chain;
mod cluster;

use data_encoding::BASE64;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::StateError;
use crate::capability::chain::ChainId;
use crate::config::model::{JobId, Provider};
use crate::time::Timestamp;
use crate::token::{Expiry, Field, KeptToken, Token};
use crate::worker;

pub(super) use self::binding::Binding;
pub(super) use self::chain::{decode_chain, encode_chain};
pub(super) use self::cluster::{
    BindingInChain, Values, decode_bindings, decode_values, encode_bindings, encode_values,
};

/// The form of values that this version writes, and the newest that it reads.
const VALUE_VERSION: u32 = 1;

/// What a record of a job is. The numbers are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Token = 1,
    Binding = 2,
    PluginValue = 3,
}

impl Kind {
    const fn describe(self) -> &'static str {
        match self {
            Self::Token => "kept token",
            Self::Binding => "rotating secret",
            Self::PluginValue => "plugin value",
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Token),
            2 => Some(Self::Binding),
            3 => Some(Self::PluginValue),
            _ => None,
        }
    }
}

/// What keys of no job begin with; those of jobs begin with their provider.
const OF_NO_JOB: u8 = 0;
const FINGERPRINT_KEY: u8 = 1;
const CHAIN: u8 = 2;

/// What a key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// A record of a job.
    OfJob(JobId, Kind, String),
    /// A chain, which several jobs may share.
    Chain(ChainId),
    /// The key that fingerprints are made with.
    FingerprintKey,
}

/// What all keys of a job begin with, and no key of another job. Every part has a length in front: no two ids run together.
pub(super) fn job_prefix(job: &JobId) -> Vec<u8> {
    let mut key = vec![provider_number(job.provider)];
    push_optional(&mut key, job.namespace.as_deref());
    push_text(&mut key, &job.name);
    push_optional(&mut key, job.uid.as_deref());
    key
}

/// What all keys of a job's records of one kind begin with.
pub(super) fn kind_prefix(job: &JobId, kind: Kind) -> Vec<u8> {
    let mut key = job_prefix(job);
    key.push(kind as u8);
    key
}

/// The key of a job's record.
pub(super) fn key(job: &JobId, kind: Kind, name: &str) -> Vec<u8> {
    let mut key = kind_prefix(job, kind);
    key.extend_from_slice(name.as_bytes());
    key
}

/// The key of a chain.
pub(super) fn chain_key(id: ChainId) -> Vec<u8> {
    let mut key = vec![OF_NO_JOB, CHAIN];
    key.extend_from_slice(&id.0);
    key
}

/// The key of the fingerprint key.
pub(super) fn fingerprint_key_key() -> Vec<u8> {
    vec![OF_NO_JOB, FINGERPRINT_KEY]
}

/// What a key names: the inverse of the functions above.
pub(super) fn decode_key(key: &[u8]) -> Result<Name, StateError> {
    parse_key(key).ok_or_else(|| StateError::Unreadable {
        record: "record key",
        reason: "it names nothing that this version knows".to_owned(),
    })
}

/// What a record is, for messages.
pub(super) fn describe(key: &[u8]) -> String {
    match parse_key(key) {
        Some(Name::OfJob(job, kind, name)) if name.is_empty() => {
            format!("{} of job {job}", kind.describe())
        }
        Some(Name::OfJob(job, kind, name)) => {
            format!("{} `{name}` of job {job}", kind.describe())
        }
        Some(Name::Chain(id)) => format!("chain {id}"),
        Some(Name::FingerprintKey) => "fingerprint key".to_owned(),
        None => "record".to_owned(),
    }
}

fn parse_key(mut rest: &[u8]) -> Option<Name> {
    let first = take_byte(&mut rest)?;
    if first == OF_NO_JOB {
        return match take_byte(&mut rest)? {
            FINGERPRINT_KEY if rest.is_empty() => Some(Name::FingerprintKey),
            CHAIN => Some(Name::Chain(ChainId(rest.try_into().ok()?))),
            _ => None,
        };
    }
    let job = JobId {
        provider: provider_of(first)?,
        namespace: take_optional(&mut rest)?,
        name: take_text(&mut rest)?,
        uid: take_optional(&mut rest)?,
    };
    let kind = Kind::from_byte(take_byte(&mut rest)?)?;
    let name = std::str::from_utf8(rest).ok()?.to_owned();
    Some(Name::OfJob(job, kind, name))
}

/// The number that is on disk.
const fn provider_number(provider: Provider) -> u8 {
    match provider {
        Provider::File => 1,
        Provider::Ktr => 2,
    }
}

const fn provider_of(number: u8) -> Option<Provider> {
    match number {
        1 => Some(Provider::File),
        2 => Some(Provider::Ktr),
        _ => None,
    }
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

#[derive(Serialize)]
struct TokenOut<'a> {
    v: u32,
    value: &'a str,
    token_type: &'a str,
    expiry: StoredExpiry,
    fields: Vec<FieldOut<'a>>,
    obtained_at: Timestamp,
    expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotating_expires_at: Option<Timestamp>,
    source_hash: String,
}

#[derive(Serialize)]
struct FieldOut<'a> {
    name: &'a str,
    value: &'a str,
    public: bool,
}

/// Text that is wiped when it is no longer needed.
#[derive(Deserialize)]
#[serde(from = "String")]
struct SecretText(SecretString);

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

#[derive(Deserialize)]
struct TokenIn {
    value: SecretText,
    token_type: String,
    expiry: StoredExpiry,
    fields: Vec<FieldIn>,
    obtained_at: Timestamp,
    expires_at: Option<Timestamp>,
    #[serde(default)]
    rotating_expires_at: Option<Timestamp>,
    source_hash: String,
}

#[derive(Deserialize)]
struct FieldIn {
    name: String,
    value: SecretText,
    public: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredExpiry {
    At(Timestamp),
    Unknown,
    Never,
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

/// A kept token's value.
pub(super) fn encode_token(kept: &KeptToken) -> Result<Zeroizing<Vec<u8>>, StateError> {
    let token = &kept.token;
    to_json(
        "kept token",
        &TokenOut {
            v: VALUE_VERSION,
            value: token.value.expose_secret(),
            token_type: &token.token_type,
            expiry: match token.expiry {
                Expiry::At(at) => StoredExpiry::At(at),
                Expiry::Unknown => StoredExpiry::Unknown,
                Expiry::Never => StoredExpiry::Never,
            },
            fields: token
                .fields
                .iter()
                .map(|field| FieldOut {
                    name: &field.name,
                    value: field.value.expose_secret(),
                    public: field.public,
                })
                .collect(),
            obtained_at: kept.obtained_at,
            expires_at: kept.expires_at,
            rotating_expires_at: kept.rotating_expires_at,
            source_hash: BASE64.encode(&kept.source_hash),
        },
    )
}

/// The inverse of [`encode_token`].
pub(super) fn decode_token(bytes: &[u8]) -> Result<KeptToken, StateError> {
    let stored: TokenIn = from_json("kept token", bytes)?;
    Ok(KeptToken {
        token: Token {
            value: stored.value.0,
            token_type: stored.token_type,
            expiry: match stored.expiry {
                StoredExpiry::At(at) => Expiry::At(at),
                StoredExpiry::Unknown => Expiry::Unknown,
                StoredExpiry::Never => Expiry::Never,
            },
            fields: stored
                .fields
                .into_iter()
                .map(|field| Field {
                    name: field.name,
                    value: field.value.0,
                    public: field.public,
                })
                .collect(),
        },
        obtained_at: stored.obtained_at,
        expires_at: stored.expires_at,
        rotating_expires_at: stored.rotating_expires_at,
        source_hash: fixed("kept token", &stored.source_hash)?,
    })
}

/// Bytes of a fixed number that are kept in base64.
fn fixed<const N: usize>(record: &'static str, text: &str) -> Result<[u8; N], StateError> {
    BASE64
        .decode(text.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| StateError::Unreadable {
            record,
            reason: format!("a part of it is not {N} bytes of base64"),
        })
}

/// Counts first and writes then, because a buffer that grows leaves copies of the secret behind.
fn to_json(record: &'static str, value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, StateError> {
    let unreadable = |error: serde_json::Error| StateError::Unreadable {
        record,
        reason: error.to_string(),
    };
    let mut length = Length(0);
    serde_json::to_writer(&mut length, value).map_err(unreadable)?;
    worker::aside_if_large(length.0, || {
        let mut bytes = Zeroizing::new(Vec::with_capacity(length.0));
        serde_json::to_writer(&mut *bytes, value).map_err(unreadable)?;
        Ok(bytes)
    })
}

/// The message of a JSON error can quote the value, so only its place is told.
fn from_json<'a, T: Deserialize<'a>>(
    record: &'static str,
    bytes: &'a [u8],
) -> Result<T, StateError> {
    let unreadable = |error: serde_json::Error| StateError::Unreadable {
        record,
        reason: format!("malformed at byte {}", error.column()),
    };
    worker::aside_if_large(bytes.len(), || {
        let Version { v } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if v > VALUE_VERSION {
            return Err(StateError::Unreadable {
                record,
                reason: format!("it has form {v}, this version knows {VALUE_VERSION}"),
            });
        }
        serde_json::from_slice(bytes).map_err(unreadable)
    })
}

struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(super) fn any_job() -> impl Strategy<Value = JobId> {
        (
            prop_oneof![Just(Provider::File), Just(Provider::Ktr)],
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

    fn any_token() -> impl Strategy<Value = KeptToken> {
        let expiry = prop_oneof![
            any::<u64>().prop_map(|ms| Expiry::At(Timestamp(ms))),
            Just(Expiry::Unknown),
            Just(Expiry::Never)
        ];
        let field = (".{0,10}", ".{0,40}", any::<bool>()).prop_map(|(name, value, public)| Field {
            name,
            value: value.into(),
            public,
        });
        (
            ".{0,100}",
            ".{0,10}",
            expiry,
            proptest::collection::vec(field, 0..4),
            any::<u64>(),
            proptest::option::of(any::<u64>()),
            any::<[u8; 32]>(),
        )
            .prop_map(
                |(value, token_type, expiry, fields, obtained, expires, source_hash)| KeptToken {
                    token: Token {
                        value: value.into(),
                        token_type,
                        expiry,
                        fields,
                    },
                    obtained_at: Timestamp(obtained),
                    expires_at: expires.map(Timestamp),
                    rotating_expires_at: expires.map(|at| Timestamp(at / 2)),
                    source_hash,
                },
            )
    }

    proptest! {
        #[test]
        fn a_token_is_read_as_it_was_written(kept in any_token()) {
            let bytes = encode_token(&kept).unwrap();
            prop_assert_eq!(decode_token(&bytes).unwrap(), kept);
        }

        #[test]
        fn a_key_names_its_job_kind_and_name(job in any_job(), name in ".{0,30}", id in any::<[u8; 16]>()) {
            for kind in [Kind::Token, Kind::Binding, Kind::PluginValue] {
                prop_assert_eq!(
                    decode_key(&key(&job, kind, &name)).unwrap(),
                    Name::OfJob(job.clone(), kind, name.clone())
                );
            }
            prop_assert_eq!(decode_key(&chain_key(ChainId(id))).unwrap(), Name::Chain(ChainId(id)));
            prop_assert!(!chain_key(ChainId(id)).starts_with(&job_prefix(&job)));
        }

        #[test]
        fn no_job_shares_a_prefix_with_another(one in any_job(), other in any_job()) {
            prop_assume!(one != other);
            prop_assert!(!key(&other, Kind::Token, "x").starts_with(&job_prefix(&one)));
        }

        #[test]
        fn no_bytes_make_the_key_parser_panic(bytes in any::<Vec<u8>>()) {
            let _ = decode_key(&bytes);
            let _ = describe(&bytes);
        }
    }

    #[test]
    fn the_key_on_disk_does_not_change() {
        let job = JobId {
            provider: Provider::File,
            namespace: Some("ns".into()),
            name: "job".into(),
            uid: None,
        };
        assert_eq!(
            key(&job, Kind::Binding, "refresh_token"),
            b"\x01\x01\0\0\0\x02ns\0\0\0\x03job\0\x02refresh_token"
        );
        assert_eq!(
            chain_key(ChainId(*b"0123456789abcdef")),
            b"\0\x020123456789abcdef"
        );
        assert_eq!(fingerprint_key_key(), b"\0\x01");
    }

    #[test]
    fn a_value_of_a_later_form_is_refused_and_a_malformed_one_is_not_quoted() {
        let later = decode_token(br#"{"v":2}"#).unwrap_err().to_string();
        assert!(later.contains("form 2"), "{later}");
        let malformed = decode_token(br#"{"v":1,"value":12345}"#)
            .unwrap_err()
            .to_string();
        assert!(!malformed.contains("12345"), "{malformed}");
    }
}

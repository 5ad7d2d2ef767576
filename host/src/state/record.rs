//! The format of records: serde in postcard, which stores neither names nor padding, after a byte with the version of the format.
//! Pure.

use std::collections::BTreeMap;

use postcard::ser_flavors;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::StateError;
use super::fingerprint::{Fingerprint, Shortened};
use super::records::RecordBytes;
use crate::capability::chain::Chain;
use crate::model::JobId;
use crate::worker;

/// The format that this version writes, and the only one that it reads.
const FORM: u8 = 1;

/// The store's own record.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Own {
    /// The key of the fingerprints.
    pub(super) fingerprint_key: Zeroizing<[u8; 32]>,
    /// Chains that were deleted last, by the uid of their record: their absence is no loss.
    pub(super) forgotten: Vec<String>,
}

impl Own {
    /// For a store in which nothing was deleted.
    pub(super) const fn new(fingerprint_key: Zeroizing<[u8; 32]>) -> Self {
        Self {
            fingerprint_key,
            forgotten: Vec::new(),
        }
    }
}

/// A chain with its open exchange, and the data by which it is found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ChainRecord {
    /// The chain.
    pub(super) chain: Chain,
    /// The jobs' secrets that use or used it.
    pub(super) bindings: Vec<Binding>,
    /// Fingerprints of its last values, the newest at the end.
    pub(super) fingerprints: Vec<Fingerprint>,
    /// Those of the values before them, the latest at the end.
    pub(super) earlier: Vec<Shortened>,
    /// The record that it was written into: in any other one, it is a copy.
    pub(super) written_into: WrittenInto,
}

/// The use of a chain by a job's secret, current or former.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Binding {
    /// The job.
    pub(super) job: JobId,
    /// The secret's name.
    pub(super) secret: String,
    /// The configured value when the job last changed the chain; none: it could never be read.
    pub(super) seed: Option<Fingerprint>,
    /// Of a secret's bindings, in all chains, the one with the highest number is current.
    pub(super) serial: u64,
}

/// The record that a chain was written into.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WrittenInto {
    /// Its uid; empty: it was being created and had none yet, or records have none.
    pub(super) uid: String,
    /// Whether the chain was from a copy already then.
    pub(super) restored: bool,
}

/// What a plugin cached, by key.
pub(super) type Values = BTreeMap<String, RecordBytes>;

/// The encoded record. Its length is computed first, because a buffer that grows leaves copies of the secret behind.
pub(super) fn encode(
    what: &'static str,
    value: &impl Serialize,
) -> Result<RecordBytes, StateError> {
    let unwritable = |error: postcard::Error| StateError::Unreadable {
        record: what,
        reason: error.to_string(),
    };
    let size = postcard::serialize_with_flavor(value, ser_flavors::Size::default());
    let size = size.map_err(unwritable)?;
    worker::aside_if_large(size, || {
        let mut bytes = Zeroizing::new(vec![0; 1 + size]);
        if let Some((form, body)) = bytes.split_first_mut() {
            *form = FORM;
            postcard::to_slice(value, body).map_err(unwritable)?;
        }
        Ok(bytes)
    })
}

/// The inverse of [`encode`].
pub(super) fn decode<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, StateError> {
    let unreadable = |reason: String| StateError::Unreadable {
        record: what,
        reason,
    };
    match bytes.split_first() {
        Some((&FORM, body)) => {
            worker::aside_if_large(body.len(), || match postcard::take_from_bytes(body) {
                Ok((value, [])) => Ok(value),
                Ok((_, rest)) => Err(unreadable(format!("{} bytes too many", rest.len()))),
                Err(error) => Err(unreadable(error.to_string())),
            })
        }
        Some((form, _)) => Err(unreadable(format!(
            "it has form {form}, this version knows {FORM}"
        ))),
        None => Err(unreadable("it is empty".to_owned())),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;

    use super::super::key::tests::any_job;
    use super::*;
    use crate::capability::chain::{ChainId, Exchange, Holder, Intent, PluginId};
    use crate::capability::http::Arrived;
    use crate::model::time::Timestamp;
    use crate::model::token::{Expiry, Field, KeptToken, Token};

    fn any_time() -> impl Strategy<Value = Option<Timestamp>> {
        proptest::option::of(any::<u64>().prop_map(Timestamp))
    }

    fn any_answer() -> impl Strategy<Value = Arrived> {
        any::<(u64, Vec<u8>)>().prop_map(|(sent_at, bytes)| Arrived {
            sent_at: Timestamp(sent_at),
            bytes,
        })
    }

    fn any_exchange() -> impl Strategy<Value = Exchange> {
        (
            any::<([u8; 16], u64, u64, [u8; 32], u32)>(),
            (".{0,8}", ".{0,30}", ".{0,8}", ".{0,8}", ".{0,20}"),
            any_job(),
            proptest::option::of(any_answer()),
            proptest::option::of(any_answer()),
        )
            .prop_map(
                |(
                    (holder, written_at, not_after, digest, failed_replays),
                    (method, url, name, interface, config),
                    job,
                    arriving,
                    answer,
                )| Exchange {
                    intent: Intent {
                        holder: Holder(holder),
                        written_at: Timestamp(written_at),
                        not_after: Timestamp(not_after),
                        method,
                        url,
                        job,
                        plugin: PluginId {
                            name,
                            digest,
                            interface,
                        },
                        config: serde_json::json!({"text": config, "list": [1, null, 0.5]}),
                    },
                    arriving,
                    answer,
                    failed_replays,
                },
            )
    }

    fn any_chain() -> impl Strategy<Value = Chain> {
        (
            any::<([u8; 16], u64, Vec<u8>, u32, [u8; 16])>(),
            (any_time(), any_time(), any_time()),
            proptest::option::of(".*"),
            proptest::option::of(any_exchange()),
            proptest::option::of(any_exchange()),
        )
            .prop_map(
                |(
                    (id, generation, value, unanswered, change),
                    (expires_at, dead_since, last_sent),
                    dead_reason,
                    exchange,
                    unread,
                )| Chain {
                    id: ChainId(id),
                    generation,
                    value: value.into(),
                    expires_at,
                    dead_since,
                    dead_reason,
                    unanswered,
                    last_sent,
                    exchange,
                    unread,
                    change,
                },
            )
    }

    fn any_binding() -> impl Strategy<Value = Binding> {
        let seed = proptest::option::of(any::<[u8; 8]>().prop_map(Fingerprint));
        (any_job(), ".{0,10}", seed, any::<u64>()).prop_map(|(job, secret, seed, serial)| Binding {
            job,
            secret,
            seed,
            serial,
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
            (".{0,100}", ".{0,10}", expiry),
            proptest::collection::vec(field, 0..4),
            any::<u64>(),
            (any_time(), any_time()),
            any::<[u8; 32]>(),
        )
            .prop_map(
                |(
                    (value, token_type, expiry),
                    fields,
                    obtained,
                    (expires_at, rotating_expires_at),
                    source_hash,
                )| KeptToken {
                    token: Token {
                        value: value.into(),
                        token_type,
                        expiry,
                        fields,
                    },
                    obtained_at: Timestamp(obtained),
                    expires_at,
                    rotating_expires_at,
                    source_hash,
                },
            )
    }

    /// Decodes the encoded value, and compares its encoding.
    fn again<T: Serialize + DeserializeOwned>(value: &T) -> (T, bool) {
        let bytes = encode("test", value).unwrap();
        let read: T = decode("test", &bytes).unwrap();
        let is_same = encode("test", &read).unwrap() == bytes;
        (read, is_same)
    }

    proptest! {
        #[test]
        fn a_chain_is_read_as_it_was_written(
            chain in any_chain(),
            bindings in proptest::collection::vec(any_binding(), 0..3),
            fingerprints in proptest::collection::vec(any::<[u8; 8]>().prop_map(Fingerprint), 0..4),
            earlier in proptest::collection::vec(any::<[u8; 3]>().prop_map(Shortened), 0..4),
            written_into in (".{0,36}", any::<bool>()),
        ) {
            let record = ChainRecord {
                chain,
                bindings,
                fingerprints,
                earlier,
                written_into: WrittenInto { uid: written_into.0, restored: written_into.1 },
            };
            let (read, is_same) = again(&record);
            prop_assert!(is_same);
            prop_assert_eq!(format!("{read:?}"), format!("{record:?}"));
            prop_assert_eq!(read.chain.value.expose_secret(), record.chain.value.expose_secret());
            let came = |exchange: Option<Exchange>| exchange.map(|exchange| (exchange.arriving, exchange.answer));
            prop_assert!(came(read.chain.exchange) == came(record.chain.exchange));
        }

        #[test]
        fn a_token_is_read_as_it_was_written(kept in any_token()) {
            let (read, _) = again(&kept);
            prop_assert_eq!(read, kept);
        }

        #[test]
        fn what_a_plugin_cached_is_read_as_it_was_written(
            values in proptest::collection::btree_map(".{0,10}", any::<Vec<u8>>(), 0..4)
        ) {
            let values: Values = values.into_iter().map(|(key, value)| (key, Zeroizing::new(value))).collect();
            let (read, _) = again(&values);
            prop_assert_eq!(read, values);
        }

        #[test]
        fn no_bytes_make_the_reader_panic_or_quote_them(bytes in any::<Vec<u8>>()) {
            let bytes = [&[FORM][..], &bytes, b"hunter2"].concat();
            let read = [
                decode::<ChainRecord>("chain", &bytes).err(),
                decode::<KeptToken>("token", &bytes).err(),
                decode::<Values>("values", &bytes).err(),
                decode::<Own>("own", &bytes).err(),
            ];
            for error in read.into_iter().flatten() {
                prop_assert_eq!(error.code().as_str(), "state.unreadable");
                prop_assert!(!error.to_string().contains("hunter2"));
            }
        }
    }

    #[test]
    fn the_form_on_disk_does_not_change() {
        let chain = Chain {
            generation: 300,
            expires_at: Some(Timestamp(5)),
            unanswered: 1,
            exchange: Some(Exchange {
                intent: Intent {
                    holder: Holder([2; 16]),
                    written_at: Timestamp(6),
                    not_after: Timestamp(7),
                    method: "POST".to_owned(),
                    url: "u".to_owned(),
                    job: JobId::file("j"),
                    plugin: PluginId {
                        name: "p".to_owned(),
                        digest: [3; 32],
                        interface: "0.1".to_owned(),
                    },
                    config: serde_json::json!({"a": 1}),
                },
                arriving: None,
                answer: Some(Arrived {
                    sent_at: Timestamp(8),
                    bytes: b"HTTP".to_vec(),
                }),
                failed_replays: 2,
            }),
            ..Chain::new(ChainId([1; 16]), b"rt".to_vec().into())
        };
        let record = ChainRecord {
            chain,
            bindings: vec![Binding {
                job: JobId::file("j"),
                secret: "s".to_owned(),
                seed: Some(Fingerprint([4; 8])),
                serial: 9,
            }],
            fingerprints: vec![Fingerprint([5; 8])],
            earlier: vec![Shortened([7; 3])],
            written_into: WrittenInto {
                uid: "u".to_owned(),
                restored: true,
            },
        };
        let kept = KeptToken {
            token: Token {
                value: "at".into(),
                token_type: "Bearer".to_owned(),
                expiry: Expiry::At(Timestamp(1)),
                fields: vec![Field {
                    name: "f".to_owned(),
                    value: "v".into(),
                    public: true,
                }],
            },
            obtained_at: Timestamp(2),
            expires_at: Some(Timestamp(3)),
            rotating_expires_at: None,
            source_hash: [6; 32],
        };
        let hex = |bytes: RecordBytes| HEXLOWER.encode(&bytes);
        assert_eq!(
            hex(encode("chain", &record).unwrap()),
            "0101010101010101010101010101010101ac020272740105000001000102020202020202020202020202020202060704504f535401750000016a000170030303030303030303030303030303030303030303030303030303030303030303302e31077b2261223a317d0001080448545450020000000000000000000000000000000000010000016a0001730104040404040404040901050505050505050501070707017501"
        );
        assert_eq!(
            hex(encode("token", &kept).unwrap()),
            "01026174064265617265720001010166017601020103000606060606060606060606060606060606060606060606060606060606060606"
        );
    }

    #[test]
    fn a_later_form_is_refused() {
        let error = decode::<KeptToken>("kept token", &[FORM + 1, 0]).unwrap_err();
        assert!(error.to_string().contains("it has form 2"), "{error}");
    }
}

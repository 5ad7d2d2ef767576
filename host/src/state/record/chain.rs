//! A chain's record: one, whole, with whatever is open.

use data_encoding::BASE64;
use secrecy::{ExposeSecret, SecretSlice};
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

use super::super::error::StateError;
use super::{SecretText, VALUE_VERSION, fixed, from_json, provider_number, provider_of, to_json};
use crate::capability::chain::{Chain, ChainId, Exchange, Holder, Intent, Plugin};
use crate::capability::http::Arrived;
use crate::config::model::JobId;
use crate::time::Timestamp;

const RECORD: &str = "chain";

/// Random bytes in each record, so that no two writes of a chain have the same bytes, encrypted or not.
type Stamp = [u8; 16];

/// Bytes that become base64 without a copy that would have to be wiped.
pub(super) struct Binary<'a>(pub(super) &'a [u8]);

impl Serialize for Binary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&BASE64.encode_display(self.0))
    }
}

#[derive(Serialize)]
struct ChainOut<'a> {
    v: u32,
    stamp: String,
    generation: u64,
    value: Binary<'a>,
    expires_at: Option<Timestamp>,
    dead_since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_reason: Option<&'a str>,
    unanswered: u32,
    last_sent: Option<Timestamp>,
    change: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exchange: Option<ExchangeOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<ExchangeOut<'a>>,
}

#[derive(Serialize)]
struct ExchangeOut<'a> {
    holder: String,
    written_at: Timestamp,
    not_after: Timestamp,
    method: &'a str,
    url: &'a str,
    job: StoredJob,
    plugin: StoredPlugin,
    config: &'a serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    arriving: Option<AnswerOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<AnswerOut<'a>>,
    failed_replays: u32,
}

#[derive(Serialize)]
struct AnswerOut<'a> {
    sent_at: Timestamp,
    bytes: Binary<'a>,
}

/// A job's id.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredJob {
    provider: u8,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    namespace: Option<String>,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    uid: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct StoredPlugin {
    name: String,
    digest: String,
    interface: String,
}

#[derive(Deserialize)]
struct ChainIn {
    generation: u64,
    value: SecretText,
    expires_at: Option<Timestamp>,
    dead_since: Option<Timestamp>,
    #[serde(default)]
    dead_reason: Option<String>,
    unanswered: u32,
    last_sent: Option<Timestamp>,
    change: String,
    #[serde(default)]
    exchange: Option<ExchangeIn>,
    #[serde(default)]
    unread: Option<ExchangeIn>,
}

#[derive(Deserialize)]
struct ExchangeIn {
    holder: String,
    written_at: Timestamp,
    not_after: Timestamp,
    method: String,
    url: String,
    job: StoredJob,
    plugin: StoredPlugin,
    config: serde_json::Value,
    #[serde(default)]
    arriving: Option<AnswerIn>,
    #[serde(default)]
    answer: Option<AnswerIn>,
    failed_replays: u32,
}

#[derive(Deserialize)]
struct AnswerIn {
    sent_at: Timestamp,
    bytes: SecretText,
}

/// A chain's value in a record.
pub(in crate::state) fn encode_chain(
    chain: &Chain,
    stamp: Stamp,
) -> Result<Zeroizing<Vec<u8>>, StateError> {
    to_json(
        RECORD,
        &ChainOut {
            v: VALUE_VERSION,
            stamp: BASE64.encode(&stamp),
            generation: chain.generation,
            value: Binary(chain.value.expose_secret()),
            expires_at: chain.expires_at,
            dead_since: chain.dead_since,
            dead_reason: chain.dead_reason.as_deref(),
            unanswered: chain.unanswered,
            last_sent: chain.last_sent,
            change: BASE64.encode(&chain.change),
            exchange: chain.exchange.as_ref().map(exchange_out),
            unread: chain.unread.as_ref().map(exchange_out),
        },
    )
}

fn exchange_out(exchange: &Exchange) -> ExchangeOut<'_> {
    let intent = &exchange.intent;
    ExchangeOut {
        holder: BASE64.encode(&intent.holder.0),
        written_at: intent.written_at,
        not_after: intent.not_after,
        method: &intent.method,
        url: &intent.url,
        job: job_out(&intent.job),
        plugin: StoredPlugin {
            name: intent.plugin.name.clone(),
            digest: BASE64.encode(&intent.plugin.digest),
            interface: intent.plugin.interface.clone(),
        },
        config: &intent.config,
        arriving: exchange.arriving.as_ref().map(answer_out),
        answer: exchange.answer.as_ref().map(answer_out),
        failed_replays: exchange.failed_replays,
    }
}

fn answer_out(answer: &Arrived) -> AnswerOut<'_> {
    AnswerOut {
        sent_at: answer.sent_at,
        bytes: Binary(&answer.bytes),
    }
}

/// The inverse of [`encode_chain`].
pub(in crate::state) fn decode_chain(id: ChainId, bytes: &[u8]) -> Result<Chain, StateError> {
    let stored: ChainIn = from_json(RECORD, bytes)?;
    Ok(Chain {
        id,
        generation: stored.generation,
        value: SecretSlice::from(binary(RECORD, &stored.value)?),
        expires_at: stored.expires_at,
        dead_since: stored.dead_since,
        dead_reason: stored.dead_reason,
        unanswered: stored.unanswered,
        last_sent: stored.last_sent,
        exchange: stored.exchange.map(exchange_in).transpose()?,
        unread: stored.unread.map(exchange_in).transpose()?,
        change: fixed(RECORD, &stored.change)?,
    })
}

fn exchange_in(stored: ExchangeIn) -> Result<Exchange, StateError> {
    Ok(Exchange {
        intent: Intent {
            holder: Holder(fixed(RECORD, &stored.holder)?),
            written_at: stored.written_at,
            not_after: stored.not_after,
            method: stored.method,
            url: stored.url,
            job: job_in(RECORD, stored.job)?,
            plugin: Plugin {
                name: stored.plugin.name,
                digest: fixed(RECORD, &stored.plugin.digest)?,
                interface: stored.plugin.interface,
            },
            config: stored.config,
        },
        arriving: stored.arriving.map(answer_in).transpose()?,
        answer: stored.answer.map(answer_in).transpose()?,
        failed_replays: stored.failed_replays,
    })
}

pub(super) fn job_out(job: &JobId) -> StoredJob {
    StoredJob {
        provider: provider_number(job.provider),
        namespace: job.namespace.clone(),
        name: job.name.clone(),
        uid: job.uid.clone(),
    }
}

pub(super) fn job_in(record: &'static str, stored: StoredJob) -> Result<JobId, StateError> {
    let provider = provider_of(stored.provider).ok_or_else(|| StateError::Unreadable {
        record,
        reason: "it names a job of a kind that this version does not know".to_owned(),
    })?;
    Ok(JobId {
        provider,
        namespace: stored.namespace,
        name: stored.name,
        uid: stored.uid,
    })
}

fn answer_in(stored: AnswerIn) -> Result<Arrived, StateError> {
    Ok(Arrived {
        sent_at: stored.sent_at,
        bytes: binary(RECORD, &stored.bytes)?,
    })
}

pub(super) fn binary(record: &'static str, text: &SecretText) -> Result<Vec<u8>, StateError> {
    BASE64
        .decode(text.0.expose_secret().as_bytes())
        .map_err(|_| StateError::Unreadable {
            record,
            reason: "a part of it is not base64".to_owned(),
        })
}

#[cfg(test)]
pub(in crate::state) mod tests {
    use proptest::prelude::*;

    use super::super::tests::any_job;
    use super::*;

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
                        plugin: Plugin {
                            name,
                            digest,
                            interface,
                        },
                        config: serde_json::json!({"text": config, "list": [1, null]}),
                    },
                    arriving,
                    answer,
                    failed_replays,
                },
            )
    }

    /// Any chain.
    pub(in crate::state) fn any_chain() -> impl Strategy<Value = Chain> {
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
                )| {
                    Chain {
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
                    }
                },
            )
    }

    /// All of a chain, for comparisons.
    pub(in crate::state) fn all_of(chain: &Chain) -> (ChainId, Vec<u8>) {
        (chain.id, encode_chain(chain, [0; 16]).unwrap().to_vec())
    }

    proptest! {
        #[test]
        fn a_chain_is_read_as_it_was_written(chain in any_chain()) {
            let read = decode_chain(chain.id, &encode_chain(&chain, [9; 16]).unwrap()).unwrap();
            prop_assert_eq!(all_of(&read), all_of(&chain));
            prop_assert_eq!(read.value.expose_secret(), chain.value.expose_secret());
            let (read, chain) = (read.exchange, chain.exchange);
            prop_assert_eq!(format!("{read:?}"), format!("{chain:?}"));
            let came = |exchange: Option<Exchange>| exchange.map(|exchange| (exchange.arriving, exchange.answer));
            prop_assert!(came(read) == came(chain));
        }
    }

    #[test]
    fn a_malformed_chain_is_refused_without_a_word_of_it() {
        for bytes in [
            &br#"{"v":1,"value":"hunter2"}"#[..],
            br#"{"v":1,"generation":0,"value":"hunter2!","expires_at":null,"dead_since":null,"unanswered":0,"last_sent":null,"change":"AAAAAAAAAAAAAAAAAAAAAA=="}"#,
        ] {
            let error = decode_chain(ChainId([0; 16]), bytes).unwrap_err();
            assert_eq!(error.code(), "state.unreadable");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}

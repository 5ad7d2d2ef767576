//! The bindings of plugin interface 0.1: the only place that converts between the generated types and ours. Generated types print
//! all their fields, secrets included, so none of them is ever formatted, and none leaves this file.

use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretSlice, SecretString};
use tokio_util::sync::CancellationToken;
use wasmtime::component::{Component, HasSelf, Linker, Resource, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2;

use super::engine::{BoxError, Ticker};
use super::error::{self, CallError};
use super::formatting::FormatLog;
use super::inspect::PluginWorld;
use super::store::{self, Deadline, Guest};
use crate::capability::{self, Call, SecretHandle};
use crate::model::PluginLimits;
use crate::model::failure::{Code, Failure, FailureKind};
use crate::model::time::Timestamp;
use crate::model::token::{Artifact, Expiry, Field, NamedToken, Token};
use crate::worker;

#[allow(
    missing_docs,
    unreachable_pub,
    reason = "generated; the documentation is in the interface's files"
)]
mod source_world {
    wasmtime::component::bindgen!({
        path: "../wit/v0.1",
        world: "token-source",
        imports: { default: async | trappable },
        exports: { default: async },
        with: { "evertoken:plugin/secrets.secret": crate::capability::SecretHandle },
    });
}

#[allow(
    missing_docs,
    unreachable_pub,
    reason = "generated; the documentation is in the interface's files"
)]
mod formatter_world {
    wasmtime::component::bindgen!({
        path: "../wit/v0.1",
        world: "output-formatter",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "evertoken:plugin/types": super::source_world::evertoken::plugin::types,
            "evertoken:plugin/log": super::source_world::evertoken::plugin::log,
        },
    });
}

use formatter_world::exports::evertoken::plugin::formatter as wit_formatter;
use formatter_world::{OutputFormatter, OutputFormatterPre};
use source_world::evertoken::plugin::{clock, crypto, http, log, secrets, state, types};
use source_world::exports::evertoken::plugin::source as wit_source;
use source_world::{TokenSource, TokenSourcePre};

/// The store data of a source plugin.
type SourceGuest = Guest<Call>;

/// The store data of a formatter plugin.
type FormatterGuest = Guest<FormatLog>;

/// The imports of each world. A formatter gets no capability but the log. WASI has all that the standard libraries of languages
/// import, without access to anything: see [`store`].
pub(super) struct Linkers {
    source: Linker<SourceGuest>,
    formatter: Linker<FormatterGuest>,
}

impl Linkers {
    pub(super) fn new(engine: &Engine) -> Result<Self, BoxError> {
        let mut source = Linker::new(engine);
        p2::add_to_linker_async(&mut source)?;
        TokenSource::add_to_linker::<_, HasSelf<_>>(&mut source, |guest: &mut SourceGuest| guest)?;
        let mut formatter = Linker::new(engine);
        p2::add_to_linker_async(&mut formatter)?;
        OutputFormatter::add_to_linker::<_, HasSelf<_>>(
            &mut formatter,
            |guest: &mut FormatterGuest| guest,
        )?;
        Ok(Self { source, formatter })
    }

    /// Resolves a component's imports once, for all later calls.
    pub(super) fn prepare(
        &self,
        component: &Component,
        world: PluginWorld,
    ) -> Result<Prepared, BoxError> {
        Ok(match world {
            PluginWorld::Source => Prepared::Source(TokenSourcePre::new(
                self.source.instantiate_pre(component)?,
            )?),
            PluginWorld::Formatter => Prepared::Formatter(OutputFormatterPre::new(
                self.formatter.instantiate_pre(component)?,
            )?),
        })
    }
}

/// A component with its imports resolved.
pub(super) enum Prepared {
    /// A source.
    Source(TokenSourcePre<SourceGuest>),
    /// A formatter.
    Formatter(OutputFormatterPre<FormatterGuest>),
}

/// The arguments of a source's call.
pub(super) struct Acquire<'a> {
    /// The job's name.
    pub(super) job: &'a str,
    /// The job's `source.config`.
    pub(super) config: &'a serde_json::Value,
    /// 0 for the first try since the last success.
    pub(super) attempt: u32,
    /// When the token that it will replace expires.
    pub(super) previous_expires_at: Option<Timestamp>,
}

/// The limits of a call.
pub(super) struct CallBounds<'a> {
    pub(super) ticker: &'a Ticker,
    pub(super) limits: &'a PluginLimits,
    pub(super) timeout: Duration,
    pub(super) stop: Option<&'a CancellationToken>,
}

impl CallBounds<'_> {
    fn store<H: Send + 'static>(&self, engine: &Engine, host: H) -> Store<Guest<H>> {
        let end = Deadline {
            deadline: Instant::now() + self.timeout,
            stop: self.stop.cloned(),
        };
        store::new_store(engine, self.ticker.hold(), host, self.limits, end)
    }

    /// Frees a call's memory. For a large one that takes as long as filling it.
    fn close<H>(store: Store<Guest<H>>) {
        if store.data().memory.is_large()() {
            worker::aside(|| drop(store));
        }
    }

    /// Runs a call within its time limit, and classifies its end.
    async fn run<H, T>(
        &self,
        store: &mut Store<Guest<H>>,
        scrub: &(dyn Fn(&str) -> String + Sync),
        call: impl AsyncFnOnce(&mut Store<Guest<H>>) -> wasmtime::Result<T>,
    ) -> Result<T, CallError> {
        let is_large = store.data().memory.is_large();
        let call = worker::in_steps(call(store), is_large);
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error::classify(
                error,
                store.data(),
                self.limits,
                self.timeout,
                scrub,
            )),
            Err(_) if store.data().computes() => Err(CallError::Spinning {
                limit: self.timeout,
            }),
            Err(_) => Err(CallError::Timeout {
                limit: self.timeout,
            }),
        }
    }
}

/// Calls a source: instantiates it, runs it, drops it.
///
/// The outer error is the call's, the inner one the plugin's own, scrubbed.
pub(super) async fn acquire(
    source: &TokenSourcePre<SourceGuest>,
    bounds: &CallBounds<'_>,
    call: &Call,
    request: &Acquire<'_>,
) -> Result<Result<Token, Failure>, CallError> {
    let job = wit_source::Job {
        name: request.job.to_owned(),
        config: request.config.to_string(),
        attempt: request.attempt,
        previous_expires_at: request.previous_expires_at.map(|at| at.0),
    };
    let mut store = bounds.store(source.engine(), call.clone());
    let answer = bounds
        .run(&mut store, &|text| call.scrub(text), async |store| {
            let instance = source.instantiate_async(&mut *store).await?;
            instance
                .evertoken_plugin_source()
                .call_acquire(&mut *store, &job)
                .await
        })
        .await;
    CallBounds::close(store);
    let answer = answer.map_err(|error| match error {
        CallError::Timeout { limit } if !call.has_asked() => CallError::Idle { limit },
        error => error,
    });
    Ok(match answer? {
        Ok(token) => {
            let token = token_from(token);
            remember(call, &token);
            Ok(token)
        }
        Err(mut failure) => {
            let code = failure.code.take();
            Err(call.said(code, failure_from(failure)))
        }
    })
}

/// Calls a formatter: instantiates it, runs it, drops it. Errors as [`acquire`]'s.
pub(super) async fn format(
    formatter: &OutputFormatterPre<FormatterGuest>,
    bounds: &CallBounds<'_>,
    log: FormatLog,
    tokens: &[NamedToken],
    config: &serde_json::Value,
) -> Result<Result<Vec<Artifact>, Failure>, CallError> {
    let tokens: Vec<_> = tokens.iter().map(named_token_to).collect();
    let config = config.to_string();
    let scrubber = log.scrubber();
    let scrub = |text: &str| scrubber.scrub(text);
    let mut store = bounds.store(formatter.engine(), log);
    let answer = bounds
        .run(&mut store, &scrub, async |store| {
            let instance = formatter.instantiate_async(&mut *store).await?;
            instance
                .evertoken_plugin_formatter()
                .call_format(&mut *store, &tokens, &config)
                .await
        })
        .await;
    CallBounds::close(store);
    Ok(match answer? {
        Ok(artifacts) => Ok(artifacts.into_iter().map(artifact_from).collect()),
        Err(failure) => {
            // A formatter calls no host functions that can fail.
            let code = failure.code.as_deref().map(&scrub);
            let code = code.and_then(|code| Code::said(code, |_| false));
            let failure = failure_from(failure);
            Err(Failure {
                message: scrub(&failure.message),
                code,
                ..failure
            })
        }
    })
}

/// What the plugin returned is a secret from here on: no later text of this call may contain it.
fn remember(call: &Call, token: &Token) {
    call.remember(token.value.expose_secret().as_bytes());
    for field in token.fields.iter().filter(|field| !field.public) {
        call.remember(field.value.expose_secret().as_bytes());
    }
}

fn token_from(token: types::Token) -> Token {
    Token {
        value: SecretString::from(token.value),
        token_type: token.token_type,
        expiry: match token.expiry {
            types::Expiry::At(at) => Expiry::At(Timestamp(at)),
            types::Expiry::Unknown => Expiry::Unknown,
            types::Expiry::Never => Expiry::Never,
        },
        fields: token
            .fields
            .into_iter()
            .map(|field| Field {
                name: field.name,
                value: SecretString::from(field.value),
                public: field.public,
            })
            .collect(),
    }
}

fn named_token_to(named: &NamedToken) -> wit_formatter::NamedToken {
    wit_formatter::NamedToken {
        job: named.job.clone(),
        token: types::Token {
            value: named.token.value.expose_secret().to_owned(),
            token_type: named.token.token_type.clone(),
            expiry: match named.token.expiry {
                Expiry::At(at) => types::Expiry::At(at.0),
                Expiry::Unknown => types::Expiry::Unknown,
                Expiry::Never => types::Expiry::Never,
            },
            fields: named
                .token
                .fields
                .iter()
                .map(|field| types::Field {
                    name: field.name.clone(),
                    value: field.value.expose_secret().to_owned(),
                    public: field.public,
                })
                .collect(),
        },
    }
}

fn artifact_from(artifact: wit_formatter::Artifact) -> Artifact {
    Artifact {
        name: artifact.name,
        content: SecretSlice::from(artifact.content),
    }
}

/// Without its code, which is the plugin's own.
fn failure_from(failure: types::Failure) -> Failure {
    Failure {
        kind: match failure.kind {
            types::FailureKind::InvalidConfig => FailureKind::InvalidConfig,
            types::FailureKind::Denied => FailureKind::Denied,
            types::FailureKind::Unavailable => FailureKind::Unavailable,
            types::FailureKind::Internal => FailureKind::Internal,
        },
        code: None,
        message: match failure.message.trim() {
            "" => "the plugin gave no reason".to_owned(),
            _ => failure.message,
        },
        retry_after: failure
            .retry_after_ms
            .map(|ms| Duration::from_millis(u64::from(ms))),
    }
}

/// A host's failure as the plugin receives it, who may pass it on.
fn failure_to(call: &Call, failure: Failure) -> types::Failure {
    call.told(&failure);
    types::Failure {
        kind: match failure.kind {
            FailureKind::InvalidConfig => types::FailureKind::InvalidConfig,
            FailureKind::Denied => types::FailureKind::Denied,
            FailureKind::Unavailable => types::FailureKind::Unavailable,
            FailureKind::Internal => types::FailureKind::Internal,
        },
        code: failure.code.map(String::from),
        message: failure.message,
        retry_after_ms: failure
            .retry_after
            .map(|after| u32::try_from(after.as_millis()).unwrap_or(u32::MAX)),
    }
}

fn encoding_from(encoding: secrets::Encoding) -> capability::Encoding {
    match encoding {
        secrets::Encoding::Raw => capability::Encoding::Raw,
        secrets::Encoding::Form => capability::Encoding::Form,
        secrets::Encoding::Percent => capability::Encoding::Percent,
        secrets::Encoding::Json => capability::Encoding::Json,
        secrets::Encoding::Xml => capability::Encoding::Xml,
        secrets::Encoding::Base64 => capability::Encoding::Base64,
        secrets::Encoding::Base64url => capability::Encoding::Base64Url,
        secrets::Encoding::Hex => capability::Encoding::Hex,
        secrets::Encoding::Base32 => capability::Encoding::Base32,
        secrets::Encoding::Quoted => capability::Encoding::Quoted,
    }
}

fn level_from(level: log::Level) -> capability::Level {
    match level {
        log::Level::Debug => capability::Level::Debug,
        log::Level::Info => capability::Level::Info,
        log::Level::Warn => capability::Level::Warn,
    }
}

fn value_from(table: &ResourceTable, value: secrets::Value) -> wasmtime::Result<capability::Value> {
    Ok(match value {
        secrets::Value::Text(text) => capability::Value::Text(text),
        secrets::Value::Bytes(bytes) => capability::Value::Bytes(bytes),
        secrets::Value::Secret(secret) => capability::Value::Secret(table.get(&secret)?.clone()),
    })
}

fn values_from(
    table: &ResourceTable,
    pairs: Vec<(String, secrets::Value)>,
) -> wasmtime::Result<Vec<(String, capability::Value)>> {
    pairs
        .into_iter()
        .map(|(name, value)| Ok((name, value_from(table, value)?)))
        .collect()
}

fn request_from(
    table: &ResourceTable,
    request: http::Request,
) -> wasmtime::Result<capability::Request> {
    Ok(capability::Request {
        method: request.method,
        url: request.url,
        query: values_from(table, request.query)?,
        headers: values_from(table, request.headers)?,
        body: match request.body {
            http::Body::Empty => capability::Body::Empty,
            http::Body::Form(fields) => capability::Body::Form(values_from(table, fields)?),
            http::Body::Content(content) => capability::Body::Content(value_from(table, content)?),
        },
    })
}

impl SourceGuest {
    /// The plugin's handle for a secret; the secret stays here.
    fn handed(
        &mut self,
        secret: Result<SecretHandle, Failure>,
    ) -> wasmtime::Result<Result<Resource<SecretHandle>, types::Failure>> {
        Ok(match secret {
            Ok(secret) => Ok(self.table.push(secret)?),
            Err(failure) => Err(failure_to(&self.host, failure)),
        })
    }
}

impl types::Host for SourceGuest {}

impl types::Host for FormatterGuest {}

impl secrets::HostSecret for SourceGuest {
    async fn reveal(
        &mut self,
        secret: Resource<SecretHandle>,
    ) -> wasmtime::Result<Result<Vec<u8>, types::Failure>> {
        let secret = self.table.get(&secret)?;
        Ok(self
            .host
            .reveal(secret)
            .map(<[u8]>::to_vec)
            .map_err(|failure| failure_to(&self.host, failure)))
    }

    async fn part(
        &mut self,
        secret: Resource<SecretHandle>,
        pointer: String,
    ) -> wasmtime::Result<Result<Resource<SecretHandle>, types::Failure>> {
        let secret = self.table.get(&secret)?.clone();
        let take = || self.host.part(&secret, &pointer);
        let part = worker::in_turn_if_large(secret.size(), take).await;
        self.handed(part)
    }

    async fn decode(
        &mut self,
        secret: Resource<SecretHandle>,
        encoding: secrets::Encoding,
    ) -> wasmtime::Result<Result<Resource<SecretHandle>, types::Failure>> {
        let secret = self.table.get(&secret)?.clone();
        let decode = || self.host.decode(&secret, encoding_from(encoding));
        let decoded = worker::in_turn_if_large(secret.size(), decode).await;
        self.handed(decoded)
    }

    async fn drop(&mut self, secret: Resource<SecretHandle>) -> wasmtime::Result<()> {
        self.table.delete(secret)?;
        Ok(())
    }
}

impl secrets::Host for SourceGuest {
    async fn open(
        &mut self,
        name: String,
    ) -> wasmtime::Result<Result<Resource<SecretHandle>, types::Failure>> {
        let secret = self.host.open(&name).await;
        self.handed(secret)
    }

    async fn join(
        &mut self,
        pieces: Vec<secrets::Piece>,
    ) -> wasmtime::Result<Result<Resource<SecretHandle>, types::Failure>> {
        let pieces = pieces
            .into_iter()
            .map(|piece| {
                Ok(match piece {
                    secrets::Piece::Text(text) => capability::Piece::Text(text),
                    secrets::Piece::Secret((secret, encoding)) => capability::Piece::Secret(
                        self.table.get(&secret)?.clone(),
                        encoding_from(encoding),
                    ),
                })
            })
            .collect::<wasmtime::Result<Vec<_>>>()?;
        let work = pieces.iter().map(capability::Piece::work);
        let work = work.fold(0, usize::saturating_add);
        let join = || self.host.join(&pieces);
        let joined = worker::in_turn_if_large(work, join).await;
        self.handed(joined)
    }

    async fn replace(
        &mut self,
        name: String,
        value: secrets::Value,
        expires_at: Option<u64>,
    ) -> wasmtime::Result<Result<(), types::Failure>> {
        let value = value_from(&self.table, value)?;
        let replaced = self
            .host
            .replace(&name, value, expires_at.map(Timestamp))
            .await;
        Ok(replaced.map_err(|failure| failure_to(&self.host, failure)))
    }
}

impl crypto::Host for SourceGuest {
    async fn sign(
        &mut self,
        key: Resource<SecretHandle>,
        algorithm: String,
        message: secrets::Value,
    ) -> wasmtime::Result<Result<Resource<SecretHandle>, types::Failure>> {
        let message = value_from(&self.table, message)?;
        let key = self.table.get(&key)?.clone();
        let work = capability::crypto::work_to_sign(&algorithm, message.size());
        let sign = || self.host.sign(&key, &algorithm, message);
        let signed = worker::in_turn_if_large(work, sign).await;
        self.handed(signed)
    }

    async fn get_public_key(
        &mut self,
        key: Resource<SecretHandle>,
    ) -> wasmtime::Result<Result<crypto::PublicKey, types::Failure>> {
        let key = self.table.get(&key)?.clone();
        let key = worker::in_turn(|| self.host.get_public_key(&key)).await;
        Ok(key
            .map(|key| crypto::PublicKey {
                jwk: key.jwk,
                spki: key.spki,
                certificates: key.certificates,
            })
            .map_err(|failure| failure_to(&self.host, failure)))
    }

    async fn digest(
        &mut self,
        algorithm: String,
        message: secrets::Value,
    ) -> wasmtime::Result<Result<Resource<SecretHandle>, types::Failure>> {
        let message = value_from(&self.table, message)?;
        let work = message.size();
        let digest = || self.host.digest(&algorithm, message);
        let digest = worker::in_turn_if_large(work, digest).await;
        self.handed(digest)
    }

    /// The interface has no error for this: a system without random numbers ends the call.
    async fn get_random_bytes(&mut self, len: u32) -> wasmtime::Result<Vec<u8>> {
        Ok(self.host.get_random_bytes(len)?)
    }
}

impl http::Host for SourceGuest {
    async fn send(
        &mut self,
        request: http::Request,
    ) -> wasmtime::Result<Result<http::Response, types::Failure>> {
        let request = request_from(&self.table, request)?;
        let answer = self.host.send(request).await;
        Ok(answer
            .map(|response| http::Response {
                status: response.status,
                headers: response.headers,
                body: response.body,
                sent_at: response.sent_at.0,
            })
            .map_err(|failure| failure_to(&self.host, failure)))
    }
}

impl state::Host for SourceGuest {
    async fn get(
        &mut self,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, types::Failure>> {
        Ok(self
            .host
            .state_get(&key)
            .await
            .map_err(|failure| failure_to(&self.host, failure)))
    }

    async fn set(
        &mut self,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), types::Failure>> {
        Ok(self
            .host
            .state_set(&key, &value)
            .await
            .map_err(|failure| failure_to(&self.host, failure)))
    }
}

impl log::Host for SourceGuest {
    async fn log(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        self.host.log(level_from(level), &message);
        Ok(())
    }
}

impl log::Host for FormatterGuest {
    async fn log(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        self.host.log(level_from(level), &message);
        Ok(())
    }
}

impl clock::Host for SourceGuest {
    async fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.host.now().0)
    }
}

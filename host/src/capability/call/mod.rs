//! One call of a plugin: what it has opened, what it has used of its limits, and the functions of the plugin interface as
//! methods.

mod send;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretSlice};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout_at};

use crate::capability::crypto::{self, PublicKey};
use crate::capability::echo::Echoes;
use crate::capability::encoding::Encoding;
use crate::capability::http::{Request, Response};
use crate::capability::journal::{self, ChainGuard, Held};
use crate::capability::keep::PLUGIN_KEY_MAX_BYTES;
use crate::capability::scrub::Scrubber;
use crate::capability::secrets::{self, MAX_SECRET_BYTES, Piece, Providers, SecretHandle, Value};
use crate::capability::shared::HostInner;
use crate::model::Origin;
use crate::model::failure::{Code, Failure, FailureKind, HostCode};
use crate::model::time::Timestamp;
use crate::model::token::{Expiry, Field, KeptToken, Token};
use crate::model::{Job, Secret, SecretOrigin};
use crate::printable::printable;
use crate::refresh::clock;
use crate::text::secret_suspicion;
use crate::worker;

/// Handles that one call may make. A signed AWS request takes about ten; hundreds mean a loop.
pub const MAX_HANDLES: usize = 256;

/// Bytes of secret values that one call may hold: two of the largest, and what is made of them.
pub const MAX_HELD_BYTES: usize = 4 * MAX_SECRET_BYTES;

/// Values that one call may cache; each is a durable write.
pub const MAX_STATE_WRITES: usize = 16;

/// Successors of one secret that a call may have stored. An answer brings one, and a call that refreshes again after a refusal
/// has two answers; each further one would stay in the store for good.
pub const MAX_REPLACEMENTS: usize = 4;

/// The level of a plugin's log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For the plugin's author.
    Debug,
    /// For the operator.
    Info,
    /// Something unexpected.
    Warn,
}

/// Terminates a plugin's name, which cannot contain it.
const PLUGIN_ENDS: &[u8] = b"\0";

/// One call of a job's plugin. Cheap to clone: the clones are one call and share its limits.
#[derive(Clone)]
pub struct Call(pub(in crate::capability) Arc<Inner>);

/// The inside of a [`Call`].
pub(in crate::capability) struct Inner {
    pub(in crate::capability) host: Arc<HostInner>,
    pub(in crate::capability) job: Arc<Job>,
    pub(in crate::capability) endpoints: BTreeSet<Origin>,
    /// The endpoints that requests may go to. While an answer from the journal is read, `endpoints` are those of the
    /// configuration with which the request was sent, and some may have been removed since.
    pub(in crate::capability) open_endpoints: BTreeSet<Origin>,
    pub(in crate::capability) began: Instant,
    pub(in crate::capability) held: Held,
    used: Mutex<Used>,
}

/// What a call has used so far.
#[derive(Default)]
struct Used {
    scrubber: Scrubber,
    /// Codes of the failures that the host returned to the plugin.
    told: BTreeSet<HostCode>,
    echoes: Echoes,
    handles: usize,
    held_bytes: usize,
    requests: u32,
    state_writes: usize,
    /// By the secret's name.
    replacements: BTreeMap<String, usize>,
    log_lines: u32,
    /// Other jobs' tokens that were opened and may be read, and when they expire.
    others_tokens: Vec<(SecretSlice<u8>, Timestamp)>,
    first_sent_at: Option<Timestamp>,
    issuer_ahead_ms: Option<i64>,
    /// Whether a request without rotating secrets followed one with them: then a failure may be about the later request.
    asked_others_since: bool,
    exchanged: bool,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("job", &self.0.job.id)
            .finish_non_exhaustive()
    }
}

impl Call {
    pub(in crate::capability) fn begin(
        host: Arc<HostInner>,
        job: Arc<Job>,
        endpoints: &[Origin],
        present: &[Origin],
        held: Held,
    ) -> Self {
        let open = endpoints.iter().filter(|origin| present.contains(origin));
        Self(Arc::new(Inner {
            host,
            job,
            open_endpoints: open.cloned().collect(),
            endpoints: endpoints.iter().cloned().collect(),
            began: Instant::now(),
            held,
            used: Mutex::default(),
        }))
    }

    /// `secrets.open`: the newest value under `name`.
    ///
    /// # Errors
    /// `secret.not-listed`, and what hinders reading it: `secret.not-found`, `secret.unreadable`, `secret.empty`, `secret.timeout`…
    pub async fn open(&self, name: &str) -> Result<SecretHandle, Failure> {
        let secret = self.listed(name)?;
        let read = async {
            if secret.rotating {
                self.newest(name, secret).await
            } else {
                Ok((self.configured(name, secret).await?, 0))
            }
        };
        let limit = self.0.job.source.timeout.mul_f64(send::REQUEST_SHARE);
        let (value, generation) = timeout_at(self.0.began + limit, read)
            .await
            .unwrap_or_else(|_| Err(self.not_read_in_time(name, limit)))?;
        self.hold(self.handle(name, secret, value, generation))
    }

    fn not_read_in_time(&self, name: &str, limit: Duration) -> Failure {
        Failure::new(
            FailureKind::Unavailable,
            HostCode::SecretTimeout,
            format!(
                "secret `{name}` of job `{}` was not read {} s after the call began; `source.timeout` bounds the whole call",
                self.0.job.id,
                limit.as_secs_f64()
            ),
        )
    }

    /// A digest that changes when the secret `name` is given another value; not to be shown. For the host, not part of the plugin
    /// interface.
    ///
    /// # Errors
    /// As [`Call::open`].
    pub async fn given(&self, name: &str) -> Result<[u8; 32], Failure> {
        let secret = self.listed(name)?;
        let Inner { host, job, .. } = &*self.0;
        if secret.rotating {
            journal::given(&host.journal, job, name, secret).await
        } else {
            let value = self.configured(name, secret).await?;
            Ok(Sha256::digest(value.expose_secret()).into())
        }
    }

    /// A likely mistake in the secret `name`, for an operator who checks it before it is used. For the host, not part of the
    /// plugin interface.
    #[must_use]
    pub fn suspicion(name: &str, secret: &SecretHandle) -> Option<&'static str> {
        secret_suspicion(name, secret.expose())
    }

    /// `secret.reveal`.
    ///
    /// # Errors
    /// `secret.not-revealed`, unless every secret in it is listed under `reveal`.
    pub fn reveal<'a>(&self, secret: &'a SecretHandle) -> Result<&'a [u8], Failure> {
        secret.reveal()
    }

    /// `secret.part`: the string at a JSON pointer (RFC 6901).
    ///
    /// # Errors
    /// `secret.no-such-part`, `secret.not-whole`.
    pub fn part(&self, secret: &SecretHandle, pointer: &str) -> Result<SecretHandle, Failure> {
        self.hold(secret.part(pointer)?)
    }

    /// `secret.decode`: from base64, base64url, base32 or hex.
    ///
    /// # Errors
    /// `secret.encoding`, `secret.not-whole`.
    pub fn decode(
        &self,
        secret: &SecretHandle,
        encoding: Encoding,
    ) -> Result<SecretHandle, Failure> {
        self.hold(secret.decode(encoding)?)
    }

    /// `secrets.join`.
    ///
    /// # Errors
    /// `secret.encoding`, `secret.too-large`.
    pub fn join(&self, pieces: &[Piece]) -> Result<SecretHandle, Failure> {
        let mut joined = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match piece {
                Piece::Text(text) => match self.used().echoes.pieces(text) {
                    Some(put_back) => joined.extend(put_back),
                    None => joined.push(piece.clone()),
                },
                Piece::Secret(..) => joined.push(piece.clone()),
            }
        }
        self.hold(SecretHandle::join(&joined)?)
    }

    /// `secrets.replace`: stores the successor of a rotating secret, or its first value. Durable when it returns.
    ///
    /// # Errors
    /// `secret.not-listed`, `secret.not-rotating`, `secret.mixed` for a value made of secrets that may do less, `secret.too-many`
    /// after the call's last one, and the keeper's.
    pub async fn replace(
        &self,
        name: &str,
        value: Value,
        expires_at: Option<Timestamp>,
    ) -> Result<(), Failure> {
        let secret = self.listed(name)?;
        if !secret.rotating {
            return Err(self.not_rotating(name));
        }
        let may_be_issuers = self.may_be_issuers(&value);
        let value = self.put_back(value)?;
        let bytes = value.expose();
        if bytes.is_empty() || value.size() > MAX_SECRET_BYTES {
            return Err(self.invalid_successor(name));
        }
        let target = self.handle(name, secret, SecretSlice::from(bytes.to_vec()), 0);
        let may_become = |made: &SecretHandle| {
            made.may_become(&target) && (may_be_issuers || self.has_no_other(made, name))
        };
        if value.secret().is_some_and(|made| !may_become(made)) {
            return Err(self.mixed(name));
        }
        if self.count_replacement(name) > MAX_REPLACEMENTS {
            return Err(Failure::new(
                FailureKind::Internal,
                HostCode::SecretTooMany,
                format!(
                    "the plugin replaced secret `{name}` more than {MAX_REPLACEMENTS} times in one call"
                ),
            ));
        }
        // From here on it is a secret, whatever the outcome of the write.
        self.remember(bytes);
        let guard = self.0.held.guard(name).ok_or_else(|| not_held(name))?;
        guard
            .succeed(SecretSlice::from(bytes.to_vec()), expires_at)
            .await
    }

    /// `http.send`.
    ///
    /// # Errors
    /// There is no answer: `http.*`; or a secret may not go there: `secret.origin-denied`.
    pub async fn send(&self, request: Request) -> Result<Response, Failure> {
        self.count_request()?;
        self.used().echoes.note_worded(&request);
        let request = request.try_map(|value| self.put_back(value))?;
        for secret in request.values().filter_map(Value::secret) {
            self.used().echoes.note_sent(secret)?;
        }
        let origin = request.origin();
        let outcome = self.exchanged(request).await;
        let concerns = |origin: &Origin| self.used().echoes.concern(origin);
        let Some(origin) = origin.filter(concerns) else {
            return outcome;
        };
        match outcome {
            Ok(response) => {
                let work = self.used().echoes.work(&response);
                let mark = || self.used().echoes.marked(&origin, response);
                Ok(worker::in_turn_if_large(work, mark).await)
            }
            Err(failure) => Err(self.used().echoes.marked_failure(&origin, failure)),
        }
    }

    /// A request of the host's own, not counted against the plugin's limits.
    ///
    /// # Errors
    /// As [`Call::send`].
    pub async fn probe(&self, request: Request) -> Result<Response, Failure> {
        let outcome = self.exchanged(request).await;
        outcome.map_err(|failure| self.scrub_failure(failure))
    }

    async fn exchanged(&self, request: Request) -> Result<Response, Failure> {
        let response = send::send(self, request).await?;
        let answered_at = self.0.host.ports.clock.now().wall;
        let mut used = self.used();
        used.first_sent_at.get_or_insert(response.sent_at);
        used.issuer_ahead_ms = response
            .date()
            .map(|date| clock::ahead_ms(response.sent_at, answered_at, date));
        drop(used);
        Ok(response)
    }

    /// How many milliseconds the other side's clock was ahead of ours by its last answer, less than zero if it was behind; none:
    /// the answer had no time.
    #[must_use]
    pub fn issuer_ahead_ms(&self) -> Option<i64> {
        self.used().issuer_ahead_ms
    }

    /// When the first request that was answered was sent. The token is no older than that, whichever answer it came from, so its
    /// life counts from there. None without requests.
    #[must_use]
    pub fn first_sent_at(&self) -> Option<Timestamp> {
        self.used().first_sent_at
    }

    /// `state.get`.
    ///
    /// # Errors
    /// `state.key`, and the keeper's.
    pub async fn state_get(&self, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        check_state_key(key)?;
        let Inner { host, job, .. } = &*self.0;
        let kept = host.ports.keeper.plugin_value(&job.id, key).await?;
        Ok(kept.and_then(|kept| kept_by(&job.source.plugin, kept)))
    }

    /// `state.set`.
    ///
    /// # Errors
    /// `state.key`, `state.too-many`, and the keeper's.
    pub async fn state_set(&self, key: &str, value: &[u8]) -> Result<(), Failure> {
        check_state_key(key)?;
        if self.count_state_write() > MAX_STATE_WRITES {
            return Err(Failure::new(
                FailureKind::Internal,
                HostCode::StateTooMany,
                format!("the plugin cached more than {MAX_STATE_WRITES} values in one call"),
            ));
        }
        let Inner { host, job, .. } = &*self.0;
        let kept = kept_for(&job.source.plugin, value);
        host.ports
            .keeper
            .set_plugin_value(&job.id, key, &kept)
            .await
    }

    /// `log.log`: one event at target `evertoken::plugin`, scrubbed; nothing more once the call's lines are used up.
    pub fn log(&self, level: Level, message: &str) {
        let limit = self.0.host.ports.limits.load().log_lines;
        let lines = {
            let mut used = self.used();
            used.log_lines = used.log_lines.saturating_add(1);
            used.log_lines
        };
        let Job {
            id: job, source, ..
        } = &*self.0.job;
        let plugin = &source.plugin;
        if lines > limit {
            if lines == limit.saturating_add(1) {
                tracing::warn!(target: LOG_TARGET, %job, %plugin, "the plugin logged more than {limit} lines in one call; the rest is dropped");
            }
            return;
        }
        let message = self.scrub(message);
        match level {
            Level::Debug => tracing::debug!(target: LOG_TARGET, %job, %plugin, "{message}"),
            Level::Info => tracing::info!(target: LOG_TARGET, %job, %plugin, "{message}"),
            Level::Warn => tracing::warn!(target: LOG_TARGET, %job, %plugin, "{message}"),
        }
    }

    /// `clock.now`.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.host.ports.clock.now().wall
    }

    /// `crypto.sign`: a signature or a MAC, with the restrictions of key and message.
    ///
    /// # Errors
    /// `crypto.algorithm`, `crypto.key`, `secret.not-whole`, `secret.rotating-key`.
    pub fn sign(
        &self,
        key: &SecretHandle,
        algorithm: &str,
        message: Value,
    ) -> Result<SecretHandle, Failure> {
        refuse_rotating_key(key)?;
        if !crypto::takes_any_key(algorithm) {
            key.must_be_whole("used it as a private key")?;
        }
        let message = self.put_back(message)?;
        let signed = crypto::sign(key.expose(), algorithm, message.expose())
            .map_err(|failure| key.named(failure))?;
        let of = std::iter::once(key).chain(message.secret());
        self.hold(SecretHandle::computed(SecretSlice::from(signed), of))
    }

    /// `crypto.get-public-key`, of a private key, a public key or a certificate that the plugin did not make.
    ///
    /// # Errors
    /// `crypto.key`, `secret.not-whole`.
    pub fn get_public_key(&self, key: &SecretHandle) -> Result<PublicKey, Failure> {
        key.must_be_whole("asked for its public key")?;
        crypto::public_key(key.expose()).map_err(|failure| key.named(failure))
    }

    /// `crypto.digest`, with the restrictions of the message.
    ///
    /// # Errors
    /// `crypto.algorithm`.
    pub fn digest(&self, algorithm: &str, message: Value) -> Result<SecretHandle, Failure> {
        let message = self.put_back(message)?;
        let digest = crypto::digest(algorithm, message.expose())?;
        let digest = SecretSlice::from(digest);
        self.hold(SecretHandle::computed(digest, message.secret()))
    }

    /// `crypto.get-random-bytes`, at most [`crypto::MAX_RANDOM_BYTES`].
    ///
    /// # Errors
    /// `crypto.random` if the system has none. The interface cannot say so: the call must end.
    pub fn get_random_bytes(&self, len: u32) -> Result<Vec<u8>, Failure> {
        crypto::random_bytes(len)
    }

    /// Text of the plugin's without the secrets that this call has opened, made or been answered with, on one line, cut to
    /// [`crate::capability::scrub::MAX_TEXT_BYTES`]. For all output of a plugin: log lines, failure messages, panics.
    #[must_use]
    pub fn scrub(&self, text: &str) -> String {
        let used = self.used();
        used.echoes.redacted(used.scrubber.scrub(text))
    }

    /// The token as it is published: byte for byte as an issuer made it, also if it contains a secret. Any other field that
    /// repeats a secret is left out.
    ///
    /// # Errors
    /// `secret.not-revealed` for such a token.
    pub(in crate::capability) fn published(&self, mut token: Token) -> Result<Token, Failure> {
        let used = self.used();
        let echoes = &used.echoes;
        token.value = echoes.published(token.value.expose_secret())?.into();
        let mut fields = Vec::with_capacity(token.fields.len());
        for field in token.fields {
            let text = field.value.expose_secret();
            let published = match field.public {
                true => echoes.shown(text),
                false => echoes.published(text),
            };
            match published {
                Ok(value) => fields.push(Field {
                    value: value.into(),
                    ..field
                }),
                Err(failure) => tracing::warn!(
                    job = %self.0.job.id,
                    field = %printable(&field.name),
                    error = %failure,
                    "a field beside the token is left out"
                ),
            }
        }
        drop(used);
        Ok(Token { fields, ..token })
    }

    /// The token with the expiry that another job knows, if it is that job's token passed on and does not state its expiry
    /// itself.
    #[must_use]
    pub(in crate::capability) fn ending_as_its_job_knows(&self, token: Token) -> Token {
        let used = self.used();
        let mut others = used.others_tokens.iter();
        let value = token.value.expose_secret().as_bytes();
        match others.find(|(other, _)| other.expose_secret() == value) {
            Some((_, at)) if token.expiry == Expiry::Unknown => Token {
                expiry: Expiry::At(*at),
                ..token
            },
            _ => token,
        }
    }

    /// Has [`Call::scrub`] look for `secret` too, e.g. the token and the fields that the call returned.
    pub fn remember(&self, secret: &[u8]) {
        self.used().scrubber.add(secret);
    }

    /// Records a failure that the host returns to the plugin, which may pass it on in the host's words.
    pub fn told(&self, failure: &Failure) {
        self.used().told.extend(failure.host_code());
    }

    /// A plugin's own failure with its code, scrubbed. Words of the host are kept only if the host returned them to the plugin.
    #[must_use]
    pub fn said(&self, code: Option<String>, failure: Failure) -> Failure {
        let code = code.map(|code| self.scrub(&code));
        let used = self.used();
        let code = code.and_then(|code| Code::said(code, |code| used.told.contains(&code)));
        drop(used);
        Failure {
            code,
            ..self.scrub_failure(failure)
        }
    }

    /// A failure with text of a plugin's in it, scrubbed.
    #[must_use]
    pub fn scrub_failure(&self, failure: Failure) -> Failure {
        Failure {
            message: self.scrub(&failure.message),
            ..failure
        }
    }

    /// Whether a plugin may have read this in an answer that did not just repeat the plugin's own text.
    fn may_be_issuers(&self, value: &Value) -> bool {
        match value {
            Value::Text(text) => self.used().echoes.may_be_issuers(text),
            Value::Bytes(bytes) => {
                let text = std::str::from_utf8(bytes).ok();
                text.is_none_or(|text| self.used().echoes.may_be_issuers(text))
            }
            Value::Secret(_) => false,
        }
    }

    /// Whether the value contains no other secret than this one, but those that may be read. Each secret has readers of its own
    /// (other jobs, readers of the file that it is written back to), who must not get another.
    fn has_no_other(&self, value: &SecretHandle, name: &str) -> bool {
        let mut names = value.lineage().names().iter();
        names.all(|other| other == name || self.0.job.source.reveal.contains(other))
    }

    /// A value from the plugin, with its markers replaced by the values that they stand for.
    fn put_back(&self, value: Value) -> Result<Value, Failure> {
        self.used().echoes.put_back(value)
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the plugin asked for a request, whatever its outcome.
    #[must_use]
    pub fn has_asked(&self) -> bool {
        self.used().requests > 0
    }

    fn count_request(&self) -> Result<(), Failure> {
        let limit = self.0.host.ports.limits.load().requests;
        let mut used = self.used();
        used.requests = used.requests.saturating_add(1);
        if used.requests <= limit {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::Internal,
            HostCode::HttpTooManyRequests,
            format!(
                "the plugin sent more than {limit} requests in one call; `limits.plugin.requests` is the limit"
            ),
        ))
    }

    fn count_state_write(&self) -> usize {
        let mut used = self.used();
        used.state_writes = used.state_writes.saturating_add(1);
        used.state_writes
    }

    fn count_replacement(&self, name: &str) -> usize {
        let mut used = self.used();
        let count = used.replacements.entry(name.to_owned()).or_default();
        *count = count.saturating_add(1);
        *count
    }

    /// Counts a handle against the call's limits and has its value scrubbed from now on.
    fn hold(&self, secret: SecretHandle) -> Result<SecretHandle, Failure> {
        let mut used = self.used();
        used.handles += 1;
        used.held_bytes = used.held_bytes.saturating_add(secret.size());
        if used.handles > MAX_HANDLES || used.held_bytes > MAX_HELD_BYTES {
            return Err(Failure::new(
                FailureKind::Internal,
                HostCode::SecretTooMany,
                format!(
                    "the plugin made more than {MAX_HANDLES} secrets, or more than {MAX_HELD_BYTES} bytes of them, in one call"
                ),
            ));
        }
        if !secret.lineage().names().is_empty() {
            used.scrubber.add(secret.expose());
        }
        Ok(secret)
    }

    fn handle(
        &self,
        name: &str,
        secret: &Secret,
        value: SecretSlice<u8>,
        generation: u64,
    ) -> SecretHandle {
        let Inner { job, endpoints, .. } = &*self.0;
        SecretHandle::opened(value, job, name, secret, generation, endpoints)
    }

    /// The chains that a request carries, each with the generation of its value.
    pub(in crate::capability) fn guards(
        &self,
        rotating: &BTreeMap<String, u64>,
    ) -> Result<Vec<(Arc<ChainGuard>, u64)>, Failure> {
        let guard = |(name, generation): (&String, &u64)| {
            let guard = self.0.held.guard(name).ok_or_else(|| not_held(name))?;
            Ok((Arc::clone(guard), *generation))
        };
        rotating.iter().map(guard).collect()
    }

    /// The chains that the call holds.
    pub(in crate::capability) fn held(&self) -> &Held {
        &self.0.held
    }

    /// Notes a request on its way, for [`Self::asked_others_since`].
    pub(in crate::capability) fn note_request(&self, is_exchange: bool) {
        let mut used = self.used();
        used.asked_others_since = !is_exchange && used.exchanged;
        used.exchanged |= is_exchange;
    }

    /// Whether the last request carried no rotating secret, and one before it did.
    pub(in crate::capability) fn asked_others_since(&self) -> bool {
        self.used().asked_others_since
    }

    fn listed(&self, name: &str) -> Result<&Secret, Failure> {
        let secret = self.0.job.source.secrets.get(name);
        secret.ok_or_else(|| {
            // Not scrubbed: a scrubbed text would confirm to the plugin that its own text is a secret's value.
            Failure::new(
                FailureKind::InvalidConfig,
                HostCode::SecretNotListed,
                format!(
                    "job `{}` has no secret `{name}`, which the plugin asked for; add `{name}: {{file: …}}` under `source.secrets`; if `check` knows no such secret, the plugin's description lacks it, which its author has to mend",
                    self.0.job.id
                ),
            )
        })
    }

    async fn configured(&self, name: &str, secret: &Secret) -> Result<SecretSlice<u8>, Failure> {
        let host = &self.0.host;
        let providers = Providers {
            environment: &host.ports.environment,
            keeper: &*host.ports.keeper,
            kubernetes: host.ports.kubernetes.as_deref(),
            now: host.ports.clock.now().wall,
        };
        let value = secrets::fetch(&providers, &self.0.job, name, &secret.origin).await?;
        // What may not be read is not passed on, and the expiry would confirm or refute a guess.
        let is_revealed = self.0.job.source.reveal.contains(name);
        if let SecretOrigin::Job(other) = &secret.origin
            && is_revealed
        {
            let other = secrets::beside(&self.0.job.id, other);
            let kept = host.ports.keeper.token(&other).await.ok().flatten();
            let is_it = |kept: &KeptToken| {
                kept.token.value.expose_secret().as_bytes() == value.expose_secret()
            };
            if let Some(expires_at) = kept.filter(is_it).and_then(|kept| kept.expires_at) {
                self.used().others_tokens.push((value.clone(), expires_at));
            }
        }
        Ok(value)
    }

    /// The newest value of a chain, as this call holds it, or as it is stored if the call only reads.
    async fn newest(&self, name: &str, secret: &Secret) -> Result<(SecretSlice<u8>, u64), Failure> {
        let Inner {
            host, job, held, ..
        } = &*self.0;
        let Some(guard) = held.guard(name) else {
            return journal::newest(&host.journal, job, name, secret).await;
        };
        // An issuer may repeat an earlier value, too.
        if let Some(configured) = guard.configured() {
            self.remember(configured.expose_secret());
        }
        match guard.newest().await {
            Some(newest) => Ok(newest),
            None => Err(journal::why_there_is_none(&host.journal, job, name, secret).await),
        }
    }

    fn not_rotating(&self, name: &str) -> Failure {
        Failure::new(
            FailureKind::InvalidConfig,
            HostCode::SecretNotRotating,
            format!(
                "the issuer replaced secret `{name}` of job `{}`, which is not marked as rotating, so its successor cannot be kept; add `rotating: true` to `source.secrets.{name}`",
                self.0.job.id
            ),
        )
    }

    fn invalid_successor(&self, name: &str) -> Failure {
        Failure::new(
            FailureKind::Internal,
            HostCode::SecretInvalidSuccessor,
            format!(
                "the plugin replaced secret `{name}` with an empty value or with more than {MAX_SECRET_BYTES} bytes"
            ),
        )
    }

    fn mixed(&self, name: &str) -> Failure {
        Failure::new(
            FailureKind::InvalidConfig,
            HostCode::SecretMixed,
            format!(
                "the plugin replaced secret `{name}` with one that may be sent to fewer origins or may not be read, with another secret, or with the bytes of a digest, signature or MAC; a value must not gain rights by another name. Where the issuer repeats another secret as the successor, list that one under `reveal`"
            ),
        )
    }
}

/// A call that only reads a job's secrets neither spends nor replaces them.
fn not_held(name: &str) -> Failure {
    Failure::new(
        FailureKind::Internal,
        HostCode::ChainNotHeld,
        format!("rotating secret `{name}` is only looked at in this call"),
    )
}

/// The log target of plugins' log lines.
const LOG_TARGET: &str = "evertoken::plugin";

/// A cached value with the name of its plugin, so that another plugin in its place in a job does not read the value.
fn kept_for(plugin: &str, value: &[u8]) -> Vec<u8> {
    [plugin.as_bytes(), PLUGIN_ENDS, value].concat()
}

/// The value, if it is this plugin's.
fn kept_by(plugin: &str, kept: Vec<u8>) -> Option<Vec<u8>> {
    let own = kept.strip_prefix(plugin.as_bytes())?;
    Some(own.strip_prefix(PLUGIN_ENDS)?.to_vec())
}

fn check_state_key(key: &str) -> Result<(), Failure> {
    if !key.is_empty() && key.len() <= PLUGIN_KEY_MAX_BYTES {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::Internal,
        HostCode::StateKey,
        format!(
            "the plugin used a cache key that is empty or longer than {PLUGIN_KEY_MAX_BYTES} bytes"
        ),
    ))
}

/// A key that its use replaces could not be distinguished from a spent one.
fn refuse_rotating_key(key: &SecretHandle) -> Result<(), Failure> {
    if key.lineage().rotating().is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::InvalidConfig,
        HostCode::SecretRotatingKey,
        "the plugin used a rotating secret as a key; a key is listed without `rotating: true`",
    ))
}

//! The journal of rotating secrets, a write-ahead log that keeps chains intact between an exchange and its save. Before a source
//! is called, its chains are locked and settled; while it runs, each request that carries one is stored before it is sent, and
//! its answer before the source reads it; afterwards open exchanges are closed. What may be done with a chain is decided in
//! `chain`.

mod exchange;
mod guard;
#[cfg(test)]
mod tests;
mod write_back;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretSlice};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::chain::{
    ATTEMPTS_AT_ONCE, Chain, ChainId, ChainState, Exchange, Holder, OVERTAKEN_WITHIN, PluginId,
    Settlement,
};
use super::crypto;
use super::keep::{FoundChain, Seed};
use super::ports::Settings;
use super::secrets::{self, Providers};
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::model::time::{Reading, Timestamp};
use crate::model::{Job, JobId, RetryUnanswered, Secret};
use crate::stop;

pub(super) use exchange::{ExchangeContext, send};
pub(super) use guard::ChainGuard;
pub(super) use write_back::{put_all_at_the_end, write_back};

/// The longest wait before a chain that another process uses is read again: most exchanges end within a second.
const IN_USE_LOOK: Duration = Duration::from_secs(5);

/// How long an expired intent of another process must have been seen before its chain is taken over. When a machine wakes from
/// sleep, or all its processes are resumed, the answer may have arrived already and is stored within that time.
const TAKEOVER_WAIT: Duration = Duration::from_secs(5);

/// The journal of a process.
pub(super) struct Journal {
    ports: Arc<Settings>,
    holder: Holder,
    locks: Mutex<HashMap<ChainId, Weak<AsyncMutex<()>>>>,
    /// Intents that may be in the store although nothing was sent, by the id of their change.
    unsent: Mutex<Vec<[u8; 16]>>,
    /// Chains that another process left open: the id of the change, and when its intent was first seen to be expired, on the boot
    /// clock.
    left_open: Mutex<HashMap<ChainId, ([u8; 16], Duration)>>,
    exchanges: TaskTracker,
    known: Mutex<Known>,
    pending: write_back::PendingWriteBacks,
}

/// The states of chains as they were last read or written.
#[derive(Default)]
struct Known {
    chains: HashMap<ChainId, ChainState>,
    /// By job and secret.
    secrets: HashMap<JobId, BTreeMap<String, Stands>>,
}

/// What is known of the chain behind a job's rotating secret.
enum Stands {
    For(ChainId),
    /// The chain must not be used, and its id is unknown.
    Unusable(ChainState),
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").finish_non_exhaustive()
    }
}

impl Journal {
    pub(super) fn new(ports: Arc<Settings>) -> Self {
        Self {
            ports,
            holder: Holder(stamp()),
            locks: Mutex::default(),
            unsent: Mutex::default(),
            left_open: Mutex::default(),
            exchanges: TaskTracker::new(),
            known: Mutex::default(),
            pending: write_back::PendingWriteBacks::default(),
        }
    }

    /// This process.
    pub(super) const fn holder(&self) -> Holder {
        self.holder
    }

    /// Waits for the exchanges under way for a limited time, of which `passed` is over.
    pub(super) async fn drain(&self, passed: Duration) {
        self.exchanges.close();
        let left = stop::ANSWERS.saturating_sub(passed);
        if timeout(left, self.exchanges.wait()).await.is_err() {
            tracing::error!(
                exchanges = self.exchanges.len(),
                "stopping although answers to requests with rotating secrets are missing; the next start settles them"
            );
        }
    }

    /// The lock of a chain in this process: one call at a time uses it.
    fn lock(&self, id: ChainId) -> Arc<AsyncMutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(&id).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(AsyncMutex::new(()));
        locks.insert(id, Arc::downgrade(&lock));
        lock
    }

    /// Records the state of a chain.
    fn note(&self, job: &JobId, secret: &str, chain: ChainId, state: ChainState) {
        self.stands(job, secret, Stands::For(chain));
        self.known().chains.insert(chain, state);
    }

    fn stands(&self, job: &JobId, secret: &str, stands: Stands) {
        let mut known = self.known();
        if !known.secrets.contains_key(job) {
            known.secrets.insert(job.clone(), BTreeMap::new());
        }
        if let Some(secrets) = known.secrets.get_mut(job) {
            secrets.insert(secret.to_owned(), stands);
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worst state of a job's chains; none: none was read so far.
    pub(super) fn state_of(&self, job: &JobId) -> Option<ChainState> {
        if self.pending.has_the_only_copy(job) {
            return Some(ChainState::NeedsAttention);
        }
        let known = self.known();
        let states = known.secrets.get(job)?.values().map(|stands| match stands {
            Stands::For(chain) => known.chains.get(chain).copied(),
            Stands::Unusable(state) => Some(*state),
        });
        states.flatten().max()
    }

    fn was_not_sent(&self, change: [u8; 16]) {
        let mut unsent = self.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        unsent.push(change);
    }

    /// How long a chain that another process left open is still reserved for it. `is_over`: it left the chain open, and its
    /// intent has expired.
    fn left_to_another(&self, chain: &Chain, is_over: bool, now: Duration) -> Duration {
        let left_open = self.left_open.lock();
        let mut left_open = left_open.unwrap_or_else(PoisonError::into_inner);
        if !is_over {
            left_open.remove(&chain.id);
            return Duration::ZERO;
        }
        let seen = left_open.entry(chain.id).or_insert((chain.change, now));
        if seen.0 != chain.change {
            *seen = (chain.change, now);
        }
        TAKEOVER_WAIT.saturating_sub(now.saturating_sub(seen.1))
    }

    /// Whether nothing was sent on this intent; asking removes the entry.
    fn take_unsent(&self, change: [u8; 16]) -> bool {
        let mut unsent = self.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        let place = unsent.iter().position(|known| *known == change);
        place.map(|place| unsent.swap_remove(place)).is_some()
    }
}

/// A random id for a change. Without random bytes from the system, the clock must do: changes of one chain are never made at
/// once.
fn stamp() -> [u8; 16] {
    crypto::random_bytes(16)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .unwrap_or_else(|| {
            let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            let mut stamp = [0; 16];
            let (seconds, nanoseconds) = stamp.split_at_mut(8);
            seconds.copy_from_slice(&boot.tv_sec.to_be_bytes());
            nanoseconds.copy_from_slice(&boot.tv_nsec.to_be_bytes());
            stamp
        })
}

/// The chains of one call, held until the call and its exchanges have ended.
#[derive(Default)]
pub(super) struct Held {
    /// The component that is called.
    plugin: PluginId,
    /// By the secret's name.
    guards: BTreeMap<String, Arc<ChainGuard>>,
}

impl Held {
    /// The chain of a secret; none: it is not held, or does not rotate.
    pub(super) fn guard(&self, secret: &str) -> Option<&Arc<ChainGuard>> {
        self.guards.get(secret)
    }

    /// The component that is called.
    pub(super) fn plugin(&self) -> &PluginId {
        &self.plugin
    }

    pub(super) fn guards(&self) -> impl Iterator<Item = &Arc<ChainGuard>> {
        self.guards.values()
    }
}

/// The result of settling, with which a source is called.
pub(super) struct Settled {
    pub(super) held: Held,
    /// The exchange whose answer waits for the source.
    pub(super) replayed: Option<Exchange>,
}

/// Locks the job's chains and does what must be done before its source is called.
///
/// # Errors
/// A chain must not be used now: `chain.dead`, `chain.in-use`, `chain.in-doubt`, `chain.needs-attention`; or it cannot be read.
pub(super) async fn settle(
    journal: &Arc<Journal>,
    job: &Arc<Job>,
    plugin: PluginId,
) -> Result<Settled, Failure> {
    write_back::require(journal, job).await?;
    let mut chains = BTreeMap::new();
    for (name, secret) in rotating(job) {
        let configured = configured(journal, job, name, secret).await.ok();
        let id = stands_for(journal, job, name, configured.as_ref()).await?;
        chains.insert((id, name.clone()), (secret, configured));
    }
    let mut held = Held {
        plugin,
        guards: BTreeMap::new(),
    };
    let mut replayed = None;
    let mut last: Option<(ChainId, Arc<ChainGuard>)> = None;
    // In the order of their ids, so that two calls with two common chains do not deadlock.
    for ((id, name), (secret, mut configured)) in chains {
        if let Some((_, guard)) = last.as_ref().filter(|(last, _)| *last == id) {
            held.guards.insert(name, Arc::clone(guard));
            continue;
        }
        let lock = journal.lock(id);
        let lock = match Arc::clone(&lock).try_lock_owned() {
            Ok(lock) => lock,
            Err(_) => {
                let lock = lock.lock_owned().await;
                // A person may have configured another value while another call held the chain.
                configured = self::configured(journal, job, &name, secret).await.ok();
                lock
            }
        };
        let found = found(journal, job, &name, secret, configured).await?;
        if found.chain.id != id {
            return Err(changed(job, &name));
        }
        if found.seed == Some(Seed::Restored) {
            tell_earlier(job, &name, secret, &found.chain);
        }
        let guard = Arc::new(ChainGuard::new(journal, job, &name, found, lock));
        guard.reread().await;
        if let Some(exchange) = settle_one(journal, secret, &guard).await? {
            replayed = Some(exchange);
        }
        last = Some((id, Arc::clone(&guard)));
        held.guards.insert(name, guard);
    }
    Ok(Settled { held, replayed })
}

/// Logs that the configured value is an earlier one. If the newest value is written back, that also happens after `evertoken
/// state set`, and the write-back corrects it.
fn tell_earlier(job: &Job, name: &str, secret: &Secret, chain: &Chain) {
    if secret.write_back {
        tracing::info!(
            job = %job.id, secret = name, chain = %chain.id,
            "where the newest value is written back there is an earlier one; it is not used, and is replaced after the next refresh"
        );
    } else {
        tracing::warn!(
            job = %job.id, secret = name, chain = %chain.id,
            "the configured value was spent long ago (a backup?); it is not used, the chain goes on from its newest value"
        );
    }
}

fn rotating(job: &Job) -> impl Iterator<Item = (&String, &Secret)> {
    let secrets = job.source.secrets.iter();
    secrets.filter(|(_, secret)| secret.rotating)
}

/// Settles one chain; returns the exchange whose answer waits for the source.
async fn settle_one(
    journal: &Journal,
    secret: &Secret,
    guard: &ChainGuard,
) -> Result<Option<Exchange>, Failure> {
    guard.goes_on_without_the_source().await?;
    let chain = guard.chain().await;
    if chain.exchange.is_some() && journal.take_unsent(chain.change) {
        guard.unsent().await;
        return Ok(None);
    }
    let Reading { wall: now, boot } = journal.ports.clock.now();
    let alone = journal.ports.keeper.is_exclusive();
    let settlement =
        |chain: &Chain| chain.settlement(journal.holder, alone, secret.retry_unanswered, now);
    let is_over = chain.is_left_open_by_another(journal.holder, alone)
        && !matches!(settlement(&chain), Settlement::InUse { .. });
    let left = journal.left_to_another(&chain, is_over, boot);
    if !left.is_zero() {
        return Err(in_use(guard, left));
    }
    guard.judge_what_came().await?;
    let chain = guard.chain().await;
    match settlement(&chain) {
        Settlement::InUse { until } => Err(in_use(guard, until.since(now))),
        Settlement::Free => Ok(None),
        Settlement::Replay => Ok(chain.exchange),
        Settlement::InDoubt { until } if until.since(now) <= OVERTAKEN_WITHIN => {
            sleep(until.since(now)).await;
            Ok(None)
        }
        Settlement::InDoubt { until } => Err(Failure {
            retry_after: Some(until.since(now)),
            ..guard.failure(
                FailureKind::Unavailable,
                HostCode::ChainInDoubt,
                &format!(
                    "{} requests with it were not answered, so whether it is spent is not known; the next follows at {until}",
                    chain.unanswered
                ),
            )
        }),
        Settlement::NeedsAttention => Err(guard.failure(
            FailureKind::Denied,
            HostCode::ChainNeedsAttention,
            "a request with it was not answered, and `retry_unanswered: never` forbids another; log in again and configure the new value, or let it be tried with `evertoken state set`",
        )),
        Settlement::Dead => Err(dead(guard, &chain)),
    }
}

fn in_use(guard: &ChainGuard, left: Duration) -> Failure {
    Failure {
        retry_after: Some(left.min(IN_USE_LOOK)),
        ..guard.failure(
            FailureKind::Unavailable,
            HostCode::ChainInUse,
            "another process has sent a request with it and may still get the answer",
        )
    }
}

fn dead(guard: &ChainGuard, chain: &Chain) -> Failure {
    let said = chain.dead_reason.as_ref();
    let said = said.map_or_else(String::new, |reason| format!(" ({reason})"));
    let place = guard.origin().map(|origin| format!(": {origin}"));
    guard.failure(
        FailureKind::Denied,
        HostCode::ChainDead,
        &format!(
            "the issuer no longer takes it{said}; log in again and configure the new value{}",
            place.unwrap_or_default()
        ),
    )
}

/// A chain as it was read before it is locked.
pub(super) struct Found {
    chain: Chain,
    /// None: the chain is not stored yet.
    stored: Option<super::keep::Revision>,
    /// None: its first value is the configured one.
    seed: Option<Seed>,
    /// The configured value, where it can be read.
    configured: Option<SecretSlice<u8>>,
}

/// Records the states of the job's chains. The configured value is read only if a chain has a problem, since it may be a new
/// login.
pub(super) async fn look(journal: &Journal, job: &Job) {
    for (name, secret) in rotating(job) {
        let found = journal.ports.keeper.find_chain(&job.id, name, None).await;
        match found {
            Ok(Some(found)) => note(journal, job, name, &found.stored.chain, secret),
            Ok(None) => continue,
            Err(failure) => note_unusable(journal, job, name, &failure),
        }
        if journal.state_of(&job.id) != Some(ChainState::Ok) {
            // The states that are found are recorded.
            let _ = find(journal, job, name, secret).await;
        }
    }
}

fn note(journal: &Journal, job: &Job, name: &str, chain: &Chain, secret: &Secret) {
    let state = state_of(journal, chain, secret);
    journal.note(&job.id, name, chain.id, state);
}

fn state_of(journal: &Journal, chain: &Chain, secret: &Secret) -> ChainState {
    let now = journal.ports.clock.now().wall;
    let alone = journal.ports.keeper.is_exclusive();
    chain.state(journal.holder, alone, secret.retry_unanswered, now)
}

fn note_unusable(journal: &Journal, job: &Job, name: &str, failure: &Failure) {
    let state = ChainState::of(failure.host_code());
    if state != ChainState::Ok {
        journal.stands(&job.id, name, Stands::Unusable(state));
    }
}

/// Which chain a secret of the job stands for.
async fn stands_for(
    journal: &Journal,
    job: &Job,
    name: &str,
    configured: Option<&SecretSlice<u8>>,
) -> Result<ChainId, Failure> {
    let seed = configured.map(ExposeSecret::expose_secret);
    let id = journal.ports.keeper.chain_of(&job.id, name, seed).await;
    let id = id.inspect_err(|failure| note_unusable(journal, job, name, failure))?;
    Ok(id.unwrap_or_else(|| first_id(journal, job, name, configured)))
}

/// The id of a chain that begins with the configured value. A chain without any value yet begins with the empty one, which is
/// never sent.
fn first_id(
    journal: &Journal,
    job: &Job,
    name: &str,
    configured: Option<&SecretSlice<u8>>,
) -> ChainId {
    match configured.map(ExposeSecret::expose_secret) {
        None | Some([]) => journal
            .ports
            .keeper
            .chain_id(&job.id, format!("{}\n{name}", job.id).as_bytes()),
        Some(value) => journal.ports.keeper.chain_id(&job.id, value),
    }
}

/// The chain of a secret of the job.
async fn find(journal: &Journal, job: &Job, name: &str, secret: &Secret) -> Result<Found, Failure> {
    let configured = configured(journal, job, name, secret).await.ok();
    found(journal, job, name, secret, configured).await
}

async fn found(
    journal: &Journal,
    job: &Job,
    name: &str,
    secret: &Secret,
    configured: Option<SecretSlice<u8>>,
) -> Result<Found, Failure> {
    let seed = configured.as_ref().map(ExposeSecret::expose_secret);
    let found = journal.ports.keeper.find_chain(&job.id, name, seed).await;
    let found = match found.inspect_err(|failure| note_unusable(journal, job, name, failure))? {
        Some(FoundChain { stored, seed }) => Found {
            chain: stored.chain,
            stored: Some(stored.revision),
            seed: Some(seed),
            configured,
        },
        None => Found {
            chain: Chain::new(
                first_id(journal, job, name, configured.as_ref()),
                configured.clone().unwrap_or_else(|| Vec::new().into()),
            ),
            stored: None,
            seed: None,
            configured,
        },
    };
    note(journal, job, name, &found.chain, secret);
    Ok(found)
}

/// The newest value of a chain, for reading only, with its generation.
///
/// # Errors
/// It has none, and the configured one cannot be read: `secret.*`; or the store cannot be read.
pub(super) async fn newest(
    journal: &Journal,
    job: &Job,
    name: &str,
    secret: &Secret,
) -> Result<(SecretSlice<u8>, u64), Failure> {
    let found = find(journal, job, name, secret).await?;
    if found.chain.value.expose_secret().is_empty() {
        return Err(why_there_is_none(journal, job, name, secret).await);
    }
    Ok((found.chain.value, found.chain.generation))
}

/// A fingerprint that changes when a rotating secret is given another value, and not when it rotates.
///
/// # Errors
/// As [`newest`].
pub(super) async fn given(
    journal: &Journal,
    job: &Job,
    name: &str,
    secret: &Secret,
) -> Result<[u8; 32], Failure> {
    let chain = find(journal, job, name, secret).await?.chain;
    if chain.value.expose_secret().is_empty() {
        return Err(why_there_is_none(journal, job, name, secret).await);
    }
    // The chain is not in use then, so a person has given it another generation.
    let rests = matches!(
        state_of(journal, &chain, secret),
        ChainState::Dead | ChainState::NeedsAttention
    );
    let generation = if rests { chain.generation } else { 0 };
    let given = [&chain.id.0[..], &generation.to_be_bytes()].concat();
    Ok(Sha256::digest(given).into())
}

/// Why a chain has no value. A value that can be read by now may belong to another chain, and be spent there: it is not used
/// before that was looked up.
pub(super) async fn why_there_is_none(
    journal: &Journal,
    job: &Job,
    name: &str,
    secret: &Secret,
) -> Failure {
    match configured(journal, job, name, secret).await {
        Ok(_) => changed(job, name),
        Err(failure) => failure,
    }
}

fn changed(job: &Job, name: &str) -> Failure {
    Failure::new(
        FailureKind::Unavailable,
        HostCode::ChainChanged,
        format!(
            "the configured value of rotating secret `{name}` of job `{}` changed, or became readable, just now; it is looked for anew",
            job.id
        ),
    )
}

async fn configured(
    journal: &Journal,
    job: &Job,
    name: &str,
    secret: &Secret,
) -> Result<SecretSlice<u8>, Failure> {
    let providers = Providers {
        environment: &journal.ports.environment,
        keeper: &*journal.ports.keeper,
        kubernetes: journal.ports.kubernetes.as_deref(),
        now: journal.ports.clock.now().wall,
    };
    secrets::fetch(&providers, job, name, &secret.origin).await
}

/// How a source's call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It returned a token.
    Ok,
    /// The source reported that the issuer refused, and it has sent no other request since.
    Refused,
    /// Anything else: the source crashed, timed out, could not read the answer, or failed after it.
    Open,
}

/// Closes the exchanges that a call left open. Returns whether an answer still waits.
///
/// # Errors
/// The store cannot be written; then the answer stays and is settled before the next call.
pub(super) async fn close(held: &Held, ending: Ending, replayed: bool) -> Result<bool, Failure> {
    let mut waits = false;
    for guard in held.guards() {
        if guard.chain().await.answer().is_none() {
            continue;
        }
        let ending = match ending {
            // A source that reports this without a readable answer cannot have read it.
            Ending::Refused if !guard.answer_is_legible().await => Ending::Open,
            ending => ending,
        };
        match ending {
            _ if guard.keeps_answer() => waits = true,
            // Without a successor the issuer does not rotate, and the value stays (RFC 6749 §6).
            Ending::Ok | Ending::Refused => guard.unspent().await?,
            Ending::Open => {
                waits = true;
                if replayed {
                    guard.unread().await?;
                }
            }
        }
    }
    Ok(waits)
}

/// When the first of these chains' newest values expires, where its issuer said so.
pub(super) async fn expires_at(held: &Held) -> Option<Timestamp> {
    let mut first = None;
    for guard in held.guards() {
        let expires_at = guard.chain().await.expires_at;
        first = [first, expires_at].into_iter().flatten().min();
    }
    first
}

/// Whether a request of this call went unanswered for the first time, so that it may be repeated at once: issuers that detect
/// reuse give seconds of grace, too few to wait for the job's next turn.
pub(super) async fn repeats_at_once(job: &Job, held: &Held) -> bool {
    for (name, secret) in rotating(job) {
        if let Some(guard) = held.guard(name)
            && secret.retry_unanswered == RetryUnanswered::AtOnce
            && guard.lost_its_answer()
            && guard.chain().await.unanswered < ATTEMPTS_AT_ONCE
        {
            return true;
        }
    }
    false
}

/// Whether a chain that was refused has a newer value by now, or another value was configured.
pub(super) async fn has_news(journal: &Journal, job: &Job, held: &Held) -> bool {
    for (name, secret) in rotating(job) {
        let Some(guard) = held.guard(name) else {
            continue;
        };
        let known = guard.chain().await;
        match find(journal, job, name, secret).await {
            Ok(found) if found.chain.id != known.id => return true,
            Ok(found) if found.chain.generation > known.generation => return true,
            Ok(_) | Err(_) => {}
        }
    }
    false
}

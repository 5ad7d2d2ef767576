//! A chain while one call holds it: a cached copy of its stored state, and each change written through with compare-and-swap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use secrecy::{ExposeSecret, SecretSlice};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::exchange::said;
use super::{Found, Journal, note, stamp};
use crate::capability::chain::{Chain, Exchange, Intent, as_old_as_it_may_be};
use crate::capability::http::{Arrived, Meaning, ReadAnswer, Response};
use crate::capability::keep::{ChainChange, Revision};
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::model::time::Timestamp;
use crate::model::{Job, JobId, SecretOrigin};

/// The code of a change that was not stored because another process had changed the chain.
const CHANGED: HostCode = HostCode::ChainChanged;

/// A chain held by one call and its exchanges.
pub(in crate::capability) struct ChainGuard {
    journal: Arc<Journal>,
    job: Arc<Job>,
    secret: String,
    configured: Option<SecretSlice<u8>>,
    state: Mutex<GuardedRecord>,
    /// The successor could not be stored: the answer must stay as its only copy.
    keeps_answer: AtomicBool,
    /// The source has received the answer: a second request with the same value gets none.
    is_handed_out: AtomicBool,
    /// The last request was sent and got no answer.
    lost_its_answer: AtomicBool,
    _lock: OwnedMutexGuard<()>,
}

struct GuardedRecord {
    chain: Chain,
    /// None: the chain is not stored yet.
    revision: Option<Revision>,
    /// Whether the secret was made to stand for the chain when this call first wrote it.
    is_bound: bool,
}

impl ChainGuard {
    pub(super) fn new(
        journal: &Arc<Journal>,
        job: &Arc<Job>,
        secret: &str,
        found: Found,
        lock: OwnedMutexGuard<()>,
    ) -> Self {
        Self {
            journal: Arc::clone(journal),
            job: Arc::clone(job),
            secret: secret.to_owned(),
            configured: found.configured,
            state: Mutex::new(GuardedRecord {
                chain: found.chain,
                revision: found.stored,
                is_bound: false,
            }),
            keeps_answer: AtomicBool::new(false),
            is_handed_out: AtomicBool::new(false),
            lost_its_answer: AtomicBool::new(false),
            _lock: lock,
        }
    }

    /// The chain as this call knows it.
    pub(in crate::capability) async fn chain(&self) -> Chain {
        self.state.lock().await.chain.clone()
    }

    /// The newest value and its generation; none: the chain has no value yet.
    pub(in crate::capability) async fn newest(&self) -> Option<(SecretSlice<u8>, u64)> {
        let state = self.state.lock().await;
        let chain = &state.chain;
        let has_value = !chain.value.expose_secret().is_empty();
        has_value.then(|| (chain.value.clone(), chain.generation))
    }

    /// The configured value as it was when the call began.
    pub(in crate::capability) fn configured(&self) -> Option<&SecretSlice<u8>> {
        self.configured.as_ref()
    }

    /// Where the configured value is; none: the job has no such secret any more.
    pub(super) fn origin(&self) -> Option<&SecretOrigin> {
        let secret = self.job.source.secrets.get(&self.secret)?;
        Some(&secret.origin)
    }

    /// Whether the last request got no answer.
    pub(super) fn lost_its_answer(&self) -> bool {
        self.lost_its_answer.load(Ordering::Relaxed)
    }

    /// Records that the last request got no answer.
    pub(super) fn loses_its_answer(&self) {
        self.lost_its_answer.store(true, Ordering::Relaxed);
    }

    /// Whether an answer must outlive the call whatever the source reports.
    pub(super) fn keeps_answer(&self) -> bool {
        self.keeps_answer.load(Ordering::Relaxed)
    }

    /// The answer that waits for a request with this generation, once.
    ///
    /// # Errors
    /// `chain.spent`: the value's answer was already returned; `chain.needs-attention`: the answer is another request's.
    pub(super) async fn take_answer(
        &self,
        method: &str,
        url: &str,
        generation: u64,
    ) -> Result<Option<Response>, Failure> {
        let state = self.state.lock().await;
        let chain = &state.chain;
        if generation != chain.generation {
            return Err(self.spent());
        }
        let waiting = chain.exchange.as_ref().zip(chain.answer());
        let Some((exchange, answer)) = waiting else {
            return Ok(None);
        };
        let intent = &exchange.intent;
        let needs_attention = |why: &str| {
            let why = format!("the answer to {} {} {why}", intent.method, intent.url);
            self.failure(FailureKind::Internal, HostCode::ChainNeedsAttention, &why)
        };
        if intent.method != method || intent.url != url {
            return Err(needs_attention(&format!(
                "waits for the plugin, which asks {method} {url} instead"
            )));
        }
        if self.is_handed_out.swap(true, Ordering::Relaxed) {
            return Err(self.spent());
        }
        let answer = as_old_as_it_may_be(answer.clone(), self.journal.ports.clock.now().wall);
        let limit = self.journal.ports.limits.load().response_bytes;
        match ReadAnswer::of(&answer, method, true, limit).await {
            Some(reading) => Ok(Some(reading.response)),
            None => Err(needs_attention("is not understood by this version")),
        }
    }

    /// Whether the waiting answer can be read here, and so by the source.
    pub(super) async fn answer_is_legible(&self) -> bool {
        let chain = self.chain().await;
        let Some((exchange, answer)) = chain.exchange.as_ref().zip(chain.answer()) else {
            return true;
        };
        let limit = self.journal.ports.limits.load().response_bytes;
        let reading = ReadAnswer::of(answer, &exchange.intent.method, true, limit).await;
        reading.is_some_and(|reading| reading.is_legible)
    }

    /// Interprets a partial answer that no request waits for any more, because its process ended before the rest arrived. If the
    /// part says nothing, the value stays in doubt.
    ///
    /// # Errors
    /// The result cannot be stored; then nothing must be sent.
    pub(super) async fn judge_what_came(&self) -> Result<(), Failure> {
        let chain = self.chain().await;
        let (us, alone) = (
            self.journal.holder(),
            self.journal.ports.keeper.is_exclusive(),
        );
        let Some((intent, came)) =
            chain.left_behind(us, alone, self.journal.ports.clock.now().wall)
        else {
            return Ok(());
        };
        let limit = self.journal.ports.limits.load().response_bytes;
        let reading = ReadAnswer::of_what_came(came, &intent.method, limit).await;
        let meaning = reading.map_or(Meaning::Unknown, |reading| reading.meaning);
        self.change(|chain| match meaning {
            Meaning::Taken => chain.answered(came.clone()),
            // A value that is rejected will be rejected again without harm.
            Meaning::Unspent | Meaning::Dead => chain.unspent(),
            Meaning::Unknown => chain.in_doubt(came.clone()),
        })
        .await
    }

    /// Uses the answer that could not be read when it came, if it can be read now.
    pub(super) async fn reread(&self) {
        let chain = self.chain().await;
        let Some(Exchange {
            intent,
            answer: Some(answer),
            failed_replays: 0,
            ..
        }) = &chain.unread
        else {
            return;
        };
        let limit = self.journal.ports.limits.load().response_bytes;
        let reading = ReadAnswer::of(answer, &intent.method, false, limit).await;
        if chain.answer().is_none()
            && reading.is_some_and(|reading| reading.meaning == Meaning::Taken)
        {
            said(self, self.change(Chain::understood).await);
        }
    }

    /// The successor that the host finds in an answer which the source could not use in all its tries becomes the newest value.
    ///
    /// # Errors
    /// It cannot be stored; then nothing must be sent.
    pub(super) async fn goes_on_without_the_source(&self) -> Result<(), Failure> {
        let chain = self.chain().await;
        let Some((exchange, answer)) = chain
            .exchange
            .as_ref()
            .and_then(|exchange| Some((exchange, exchange.given_up()?)))
        else {
            return Ok(());
        };
        let limit = self.journal.ports.limits.load().response_bytes;
        let reading = ReadAnswer::of(answer, &exchange.intent.method, true, limit).await;
        let Some(successor) = reading.and_then(|reading| reading.successor) else {
            return Ok(());
        };
        tracing::warn!(
            job = %self.job.id, secret = self.secret,
            "the plugin cannot read the issuer's answer; the refresh token in it is kept, and another answer is asked for"
        );
        let value = SecretSlice::from(successor.expose_secret().as_bytes().to_vec());
        self.succeed(value, None).await
    }

    /// Stores the intent of a request with the newest value.
    pub(super) async fn intend(&self, intent: Intent) -> Result<(), Failure> {
        let mut state = self.state.lock().await;
        let next = fresh(state.chain.intending(intent));
        let change = next.change;
        let stored = self.store(&mut state, next).await;
        if stored.is_err() {
            // The store may have written it in spite of the error.
            self.journal.was_not_sent(change);
        }
        stored
    }

    /// Nothing was sent. If that cannot be stored, it is kept in memory.
    pub(super) async fn unsent(&self) {
        if let Err(failure) = self.change(Chain::unsent).await {
            tracing::warn!(job = %self.job.id, secret = self.secret, error = %failure, "the end of a request that was not sent cannot be written down");
            let state = self.state.lock().await;
            self.journal.was_not_sent(state.chain.change);
        }
    }

    /// Stores the part of the answer that has arrived.
    pub(super) async fn keep_what_came(&self, so_far: &Arrived) -> Result<(), Failure> {
        self.change(|chain| chain.arriving(so_far.clone())).await
    }

    /// The chain with this answer, ready to be stored; storing it repeatedly changes nothing.
    pub(super) async fn with_answer(&self, answer: &Arrived) -> Chain {
        let state = self.state.lock().await;
        self.is_handed_out.store(true, Ordering::Relaxed);
        fresh(state.chain.answered(answer.clone()))
    }

    /// Stores the chain from [`Self::with_answer`]. If another process took the chain over meanwhile, the answer is applied to
    /// that process's state.
    ///
    /// # Errors
    /// The store's, which may pass; `chain.changed`: another process, or a person, has gone on without this answer.
    pub(super) async fn keep_answer(&self, next: &mut Chain) -> Result<(), Failure> {
        let mut state = self.state.lock().await;
        let Err(failure) = self.store(&mut state, next.clone()).await else {
            return Ok(());
        };
        // A store whose acknowledgements are lost may have this write, or another process's.
        let Ok(Some(stored)) = self.journal.ports.keeper.chain(next.id).await else {
            return Err(failure);
        };
        if stored.chain.change == next.change {
            *state = GuardedRecord {
                chain: next.clone(),
                revision: Some(stored.revision),
                is_bound: true,
            };
            return Ok(());
        }
        if state.revision.as_ref() == Some(&stored.revision) {
            return Err(failure);
        }
        let theirs = next.answering(&stored.chain);
        *next = fresh(theirs.ok_or_else(|| self.changed_by_another())?);
        state.revision = Some(stored.revision);
        self.store(&mut state, next.clone()).await
    }

    pub(super) async fn unspent(&self) -> Result<(), Failure> {
        self.change(Chain::unspent).await
    }

    pub(super) async fn in_doubt(&self, answer: &Arrived) -> Result<(), Failure> {
        self.change(|chain| chain.in_doubt(answer.clone())).await
    }

    pub(super) async fn unread(&self) -> Result<(), Failure> {
        let now = self.journal.ports.clock.now().wall;
        self.change(|chain| chain.unread(now)).await
    }

    pub(super) async fn died(&self, reason: Option<String>) -> Result<(), Failure> {
        let now = self.journal.ports.clock.now().wall;
        self.change(|chain| chain.died(now, reason.clone())).await
    }

    /// Stores the successor. Durable when it returns; on failure the answer, which has it too, is kept.
    pub(in crate::capability) async fn succeed(
        &self,
        value: SecretSlice<u8>,
        expires_at: Option<Timestamp>,
    ) -> Result<(), Failure> {
        let result = self
            .change(|chain| chain.succeeded_by(value.clone(), expires_at))
            .await;
        self.keeps_answer.store(result.is_err(), Ordering::Relaxed);
        if result.is_ok() {
            self.is_handed_out.store(false, Ordering::Relaxed);
        }
        result
    }

    /// Whether the store has another state of the chain than this call.
    pub(super) async fn has_moved_on(&self) -> Result<bool, Failure> {
        let state = self.state.lock().await;
        let stored = self.journal.ports.keeper.chain(state.chain.id).await?;
        Ok(stored.map(|stored| stored.revision) != state.revision)
    }

    async fn change(&self, change: impl Fn(&Chain) -> Chain) -> Result<(), Failure> {
        let mut state = self.state.lock().await;
        let next = fresh(change(&state.chain));
        self.store(&mut state, next).await
    }

    /// Compare-and-swap. A swap that the store refuses may repeat a write of our own whose acknowledgement was lost.
    async fn store(&self, state: &mut GuardedRecord, next: Chain) -> Result<(), Failure> {
        let keeper = &self.journal.ports.keeper;
        let change = ChainChange {
            job: &self.job.id,
            secret: &self.secret,
            binds: !state.is_bound,
            seed: self.configured.as_ref().map(ExposeSecret::expose_secret),
            next: &next,
            expected: state.revision.as_ref(),
        };
        let revision = match keeper.swap_chain(change).await? {
            Some(revision) => revision,
            None => match keeper.chain(next.id).await? {
                Some(stored) if stored.chain.change == next.change => stored.revision,
                _ => return Err(self.changed_by_another()),
            },
        };
        if let Some(secret) = self.job.source.secrets.get(&self.secret) {
            note(&self.journal, &self.job, &self.secret, &next, secret);
        }
        *state = GuardedRecord {
            chain: next,
            revision: Some(revision),
            is_bound: true,
        };
        Ok(())
    }

    fn changed_by_another(&self) -> Failure {
        self.failure(
            FailureKind::Unavailable,
            CHANGED,
            "another process or a person changed it meanwhile",
        )
    }

    fn spent(&self) -> Failure {
        self.failure(
            FailureKind::Internal,
            HostCode::ChainSpent,
            "the plugin asks again with a value that has had its answer; a value is sent once",
        )
    }

    /// A failure about this chain.
    pub(super) fn failure(&self, kind: FailureKind, code: HostCode, why: &str) -> Failure {
        let (secret, job) = (&self.secret, &self.job.id);
        Failure::new(
            kind,
            code,
            format!(
                "rotating secret `{secret}` of job `{job}` is not used: {why}; `evertoken state show {job}` has more"
            ),
        )
    }

    /// The job that holds it.
    pub(super) fn job(&self) -> &JobId {
        &self.job.id
    }

    /// The secret's name.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }
}

/// Whether a chain was not stored because another process or a person had changed it.
pub(super) fn is_changed(failure: &Failure) -> bool {
    failure.is(CHANGED)
}

fn fresh(chain: Chain) -> Chain {
    Chain {
        change: stamp(),
        ..chain
    }
}

//! One token from a job's source: chains are settled, the source is called, what it left open is closed. A call that only settled
//! an older exchange is followed by another one, for the token that is wanted now.

use std::sync::Arc;

use futures_core::future::BoxFuture;
use secrecy::ExposeSecret;
use tokio::time::timeout;

use super::call::Call;
use super::chain::{Exchange, PluginId};
use super::host::Host;
use super::journal::{self, Ending, Settled};
use crate::model::Job;
use crate::model::Origin;
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::model::time::Timestamp;
use crate::model::token::{Token, jwt};
use crate::refresh::lifetime;

/// Calls for one token: the answer of another job or of an earlier run, the repetition of a request that went unanswered, a login
/// that came meanwhile, and the one that is wanted.
const MAX_CALLS: u32 = 4;

/// What words a job's requests and reads their answers: a component, or the simulator's model of one.
pub trait TokenSource: Send + Sync {
    /// Which one it is.
    fn plugin(&self) -> PluginId;

    /// The origins that this configuration names as endpoints.
    ///
    /// # Errors
    /// Nobody can say.
    fn endpoints<'a>(
        &'a self,
        config: &'a serde_json::Value,
    ) -> BoxFuture<'a, Result<Arc<[Origin]>, Failure>>;

    /// Asks for a token.
    ///
    /// # Errors
    /// What the source says, or what stopped it.
    fn acquire<'a>(
        &'a self,
        job: &'a Job,
        call: &'a Call,
    ) -> BoxFuture<'a, Result<Token, Unsuccessful>>;
}

/// Why a source returned no token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsuccessful {
    /// It says so.
    Said(Failure),
    /// It was stopped, or broke.
    Broke(Failure),
}

impl Unsuccessful {
    /// What went wrong.
    #[must_use]
    pub const fn failure(&self) -> &Failure {
        match self {
            Self::Said(failure) | Self::Broke(failure) => failure,
        }
    }
}

/// What a source returned.
#[derive(Debug, Clone, PartialEq)]
pub struct Acquired {
    /// The token.
    pub token: Token,
    /// When the request that brought it was sent; without requests, when the call began.
    pub obtained_at: Timestamp,
    /// When the first of the source's rotating secrets expires unless it is used; none: never, or it is not known.
    pub rotating_expires_at: Option<Timestamp>,
    /// How many milliseconds the issuer's clock is ahead of ours, less than zero if it is behind; none: it did not say.
    pub issuer_ahead_ms: Option<i64>,
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq)]
pub struct NotAcquired {
    /// What went wrong.
    pub failure: Failure,
    /// How many milliseconds the issuer's clock is ahead of ours, less than zero if it is behind; none: it did not say.
    pub issuer_ahead_ms: Option<i64>,
}

impl From<Failure> for NotAcquired {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            issuer_ahead_ms: None,
        }
    }
}

/// How one call ended.
enum Round {
    Done(Acquired),
    /// It settled what was open, or its request may be repeated; the token is still to be had.
    Again,
}

impl Host {
    /// Asks a job's source for a token.
    ///
    /// # Errors
    /// The source's, with its code; `chain.*` when a rotating secret must not be used now; the store's.
    pub async fn acquire(
        &self,
        job: &Arc<Job>,
        source: &dyn TokenSource,
    ) -> Result<Acquired, NotAcquired> {
        for _ in 0..MAX_CALLS {
            if let Round::Done(acquired) = self.round(job, source).await? {
                return Ok(acquired);
            }
        }
        Err(Failure::new(
            FailureKind::Unavailable,
            HostCode::ChainBusy,
            "the job's rotating secrets are used by others all the time",
        )
        .into())
    }

    async fn round(&self, job: &Arc<Job>, source: &dyn TokenSource) -> Result<Round, NotAcquired> {
        let present = source.endpoints(&job.source.config).await?;
        let settling = journal::settle(&self.0.journal, job, source.plugin());
        let Settled { held, replayed } = timeout(job.source.timeout, settling)
            .await
            .unwrap_or_else(|_| Err(busy(job)))?;
        let called = with_config(job, replayed.as_ref());
        let endpoints = match Arc::ptr_eq(&called, job) {
            true => Arc::clone(&present),
            false => source
                .endpoints(&called.source.config)
                .await
                .unwrap_or_default(),
        };
        let call = self.call_holding(&called, &endpoints, &present, held);
        let began = call.now();
        let result = source.acquire(&called, &call).await;
        let ending = ending(&result, &call);
        let result = result.and_then(|token| {
            let published = call.published(token).map_err(Unsuccessful::Said)?;
            Ok(call.ending_as_its_job_knows(published))
        });
        let left_open = journal::close(call.held(), ending, replayed.is_some());
        let left_open = left_open.await.unwrap_or_else(|failure| {
            tracing::warn!(job = %job.id, error = %failure, "what a call left open cannot be closed; it is settled before the next call");
            false
        });
        journal::write_back(&self.0.journal, job, call.held()).await;
        // An answer from the journal tells nothing of the clocks now.
        let issuer_ahead_ms = call.issuer_ahead_ms().filter(|_| replayed.is_none());
        let not_acquired = |failure| NotAcquired {
            failure,
            issuer_ahead_ms,
        };
        match result {
            Ok(token) => {
                let acquired = Acquired {
                    obtained_at: call.first_sent_at().unwrap_or(began),
                    rotating_expires_at: journal::expires_at(call.held()).await,
                    issuer_ahead_ms,
                    token,
                };
                let is_wanted = replayed
                    .is_none_or(|exchange| is_wanted(job, &called, &exchange, &acquired, self));
                Ok(if is_wanted {
                    Round::Done(acquired)
                } else {
                    Round::Again
                })
            }
            Err(_) if journal::repeats_at_once(job, call.held()).await => Ok(Round::Again),
            Err(unsuccessful) if unsuccessful.failure().kind == FailureKind::Denied => {
                if journal::has_news(&self.0.journal, job, call.held()).await {
                    Ok(Round::Again)
                } else {
                    Err(not_acquired(said(unsuccessful, left_open, job)))
                }
            }
            Err(unsuccessful) => Err(not_acquired(said(unsuccessful, left_open, job))),
        }
    }
}

/// The job with the configuration that its waiting answer was asked for with. If that did not help, the present one has its turn:
/// somebody may have mended it.
fn with_config(job: &Arc<Job>, replayed: Option<&Exchange>) -> Arc<Job> {
    match replayed {
        Some(exchange)
            if exchange.failed_replays.is_multiple_of(2)
                && exchange.intent.config != job.source.config =>
        {
            let mut called = Job::clone(job);
            called.source.config = exchange.intent.config.clone();
            Arc::new(called)
        }
        _ => Arc::clone(job),
    }
}

/// Whether a replayed answer's token is what the job wants now: asked for by this job as it is configured, and alive.
fn is_wanted(
    job: &Job,
    called: &Job,
    exchange: &Exchange,
    acquired: &Acquired,
    host: &Host,
) -> bool {
    let claims = jwt::read(acquired.token.value.expose_secret());
    let expires_at = lifetime::expires_at(
        acquired.obtained_at,
        lifetime::said(acquired.obtained_at, acquired.token.expiry),
        claims.as_ref(),
        job.refresh.default_lifetime,
    );
    exchange.intent.job == job.id
        && called.source.config == job.source.config
        && expires_at.is_none_or(|at| at > host.0.ports.clock.now().wall)
}

/// `denied` or `unavailable`, said of an answer after which nobody else was asked, is about that answer: it brought nothing. After
/// anything else the answer may have the successor in it.
fn ending(result: &Result<Token, Unsuccessful>, call: &Call) -> Ending {
    match result {
        Ok(_) => Ending::Ok,
        Err(Unsuccessful::Said(failure))
            if matches!(failure.kind, FailureKind::Denied | FailureKind::Unavailable)
                && !call.asked_others_since() =>
        {
            Ending::Refused
        }
        Err(_) => Ending::Open,
    }
}

/// The failure as it is shown; while an answer waits, that is what somebody has to look at.
fn said(unsuccessful: Unsuccessful, answer_waits: bool, job: &Job) -> Failure {
    let (Unsuccessful::Said(failure) | Unsuccessful::Broke(failure)) = unsuccessful;
    let for_good = matches!(
        failure.kind,
        FailureKind::Internal | FailureKind::InvalidConfig
    );
    if !(answer_waits && for_good) {
        return failure;
    }
    let id = &job.id;
    Failure {
        code: Some(HostCode::ChainNeedsAttention.into()),
        message: format!(
            "{} (the issuer's answer is kept and tried again, also when the plugin or the configuration changes; if nothing helps, another one is asked for; `evertoken state show {id}` has more)",
            failure.message
        ),
        ..failure
    }
}

fn busy(job: &Job) -> Failure {
    Failure::new(
        FailureKind::Unavailable,
        HostCode::ChainInUse,
        format!(
            "a rotating secret of job `{}` is in use: an earlier request is not answered yet, or its answer cannot be written to the state store",
            job.id
        ),
    )
}

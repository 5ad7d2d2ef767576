//! Obtaining one token from a job's source: its chains are settled, the source is called, and open exchanges are closed. A call
//! that only settled an older exchange is followed by another one for a current token.

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

/// Calls for one token: one with another job's or an earlier run's answer, one that repeats an unanswered request, one after a
/// login that came meanwhile, and the intended one.
const MAX_CALLS: u32 = 4;

/// Composes a job's requests and reads their answers: a plugin, or the simulator's model of one.
pub trait TokenSource: Send + Sync {
    /// The id of its component.
    fn plugin(&self) -> PluginId;

    /// The origins that this configuration names as endpoints.
    ///
    /// # Errors
    /// The endpoints cannot be determined.
    fn endpoints<'a>(
        &'a self,
        config: &'a serde_json::Value,
    ) -> BoxFuture<'a, Result<Arc<[Origin]>, Failure>>;

    /// Asks for a token.
    ///
    /// # Errors
    /// The failure that the source reports, or the reason why it was stopped.
    fn acquire<'a>(
        &'a self,
        job: &'a Job,
        call: &'a Call,
    ) -> BoxFuture<'a, Result<Token, Unsuccessful>>;
}

/// Why a source returned no token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsuccessful {
    /// The source reported it.
    Said(Failure),
    /// The source was stopped, or crashed.
    Broke(Failure),
}

impl Unsuccessful {
    /// The failure.
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
    /// Whether the source asked for a request before that; none: it is not known.
    pub asked: Option<bool>,
    /// How many milliseconds the issuer's clock is ahead of ours, less than zero if it is behind; none: it did not say.
    pub issuer_ahead_ms: Option<i64>,
}

impl From<Failure> for NotAcquired {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            asked: None,
            issuer_ahead_ms: None,
        }
    }
}

/// The result of one call.
enum Round {
    Done(Acquired),
    /// It only settled an open exchange, or its request may be repeated; a token is still needed.
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
        // A replayed answer says nothing about the clocks now.
        let issuer_ahead_ms = call.issuer_ahead_ms().filter(|_| replayed.is_none());
        let not_acquired = |failure| NotAcquired {
            failure,
            asked: Some(call.has_asked()),
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

/// The job with the configuration with which the request of the waiting answer was sent. If that did not help, the current one is
/// used: it may have been corrected.
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

/// Whether a replayed answer's token is usable: requested by this job with its current configuration, and valid.
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

/// The meaning of the call's end for its chains. `denied` or `unavailable` without a further request after the answer is about
/// that answer: it brought nothing. After anything else the answer may have the successor in it.
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

/// The failure as it is reported; a waiting answer needs an operator first, so that is said instead.
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

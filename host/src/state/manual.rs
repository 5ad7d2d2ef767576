//! The state store's operations for people: show what is stored of a job, give a chain another value, delete a job's state. No
//! secret is shown. While a request is under way, its value is neither set again nor deleted.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use secrecy::{ExposeSecret as _, SecretSlice};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{HeldChain, Store, random};
use crate::capability::chain::{CLOCK_SKEW, Chain, Exchange, Holder, Intent};
use crate::capability::keep::{ChainChange, FoundChain, Keeper, Seed, StoredChain};
use crate::model::JobId;
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::model::time::{Clock, Timestamp, rfc3339};

/// How long a person waits for the end of a request under way. Most are answered within a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the request is checked.
const LOOK: Duration = Duration::from_millis(200);

/// The stored state of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptJob {
    /// Which job.
    pub id: JobId,
    /// Its token; none: none is stored, or it cannot be read.
    pub token: Option<TokenTimes>,
    /// The chains of its rotating secrets.
    pub chains: Vec<KeptChain>,
}

/// When a kept token was obtained, and when it expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenTimes {
    /// When the request that brought it was sent.
    #[serde(with = "rfc3339")]
    pub obtained_at: Timestamp,
    /// When it expires; none: never.
    #[serde(default, with = "rfc3339::optional")]
    pub expires_at: Option<Timestamp>,
}

/// A chain, without its values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptChain {
    /// The secret's name.
    pub secret: String,
    /// Its state as one word.
    pub state: StoredChainState,
    /// The chain; none: it cannot be read.
    pub chain: Option<ChainFacts>,
    /// Why it cannot be read.
    pub error: Option<String>,
    /// Whether the configured value, as it was when the chain was last changed, is an earlier one of the chain and so spent.
    #[serde(default)]
    pub configured_is_spent: bool,
}

/// The state of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoredChainState {
    /// Its newest value can be sent.
    Ok,
    /// A request with the newest value was sent or is about to be, and its answer may still come.
    UnderWay,
    /// Requests with the newest value went unanswered: whether it is spent is not known.
    InDoubt,
    /// The issuer's answer is stored and waits for the source to read it.
    AnswerWaiting,
    /// The issuer rejects all of its values.
    Dead,
    /// It comes from a restored copy of the store, so its value may be spent and is not sent.
    Restored,
    /// It cannot be read.
    Unreadable,
}

impl fmt::Display for StoredChainState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::UnderWay => "under way",
            Self::InDoubt => "in doubt",
            Self::AnswerWaiting => "answer waiting",
            Self::Dead => "dead",
            Self::Restored => "restored copy",
            Self::Unreadable => "unreadable",
        })
    }
}

/// A chain's record without its values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainFacts {
    /// The chain's id, hexadecimal.
    pub id: String,
    /// Counts the values, from 0.
    pub generation: u64,
    /// When the newest value expires, where the issuer said so.
    #[serde(default, with = "rfc3339::optional")]
    pub expires_at: Option<Timestamp>,
    /// Since when the issuer rejects all of its values.
    #[serde(default, with = "rfc3339::optional")]
    pub dead_since: Option<Timestamp>,
    /// The issuer's reason.
    #[serde(default)]
    pub dead_reason: Option<String>,
    /// Requests with the newest value whose answer is unknown.
    pub unanswered: u32,
    /// When the last of these was about to be sent.
    #[serde(default, with = "rfc3339::optional")]
    pub last_sent: Option<Timestamp>,
    /// The open exchange.
    pub exchange: Option<ExchangeFacts>,
    /// Bytes of the last answer that could not be read; they are kept for a later version to read.
    pub unread_bytes: Option<usize>,
}

/// A recorded request and its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeFacts {
    /// Its method.
    pub method: String,
    /// Its URL without the query.
    pub url: String,
    /// The job whose source sends it.
    pub job: JobId,
    /// The plugin that composes it.
    pub plugin: String,
    /// When it was recorded.
    #[serde(with = "rfc3339")]
    pub written_at: Timestamp,
    /// When its holder gives it up.
    #[serde(with = "rfc3339")]
    pub not_after: Timestamp,
    /// The process that recorded it, hexadecimal; new at each start.
    pub holder: String,
    /// Whether that is this process.
    pub is_ours: bool,
    /// Bytes of the answer that had arrived when the rest was late.
    #[serde(default)]
    pub arriving_bytes: Option<usize>,
    /// Whether the answer is stored.
    pub is_answered: bool,
    /// How often the source was called with the answer and could not use it.
    pub failed_replays: u32,
}

/// A chain after a person gave it another value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplacedChain {
    /// The job.
    pub job: JobId,
    /// The chain's id, hexadecimal.
    pub chain: String,
    /// The value's number.
    pub generation: u64,
}

/// Handles these operations in the process that holds the store.
#[derive(Clone)]
pub struct Manual {
    store: Arc<Store>,
    /// The process, if it sends requests itself.
    us: Option<Holder>,
    clock: Arc<dyn Clock>,
    patience: Duration,
}

impl fmt::Debug for Manual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manual").finish_non_exhaustive()
    }
}

impl Manual {
    /// `us`: this process as the journal knows it; none: it sends no requests.
    #[must_use]
    pub fn new(store: Arc<Store>, us: Option<Holder>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            us,
            clock,
            patience: PATIENCE,
        }
    }

    /// The stored state of these jobs, by name or `namespace/name`; no names: of all. A chain that cannot be read has no known
    /// job; its id stands for it, which [`Self::forget`] takes as a name.
    ///
    /// # Errors
    /// The store cannot be read, or nothing is kept of one of them: `state.no-such-job`.
    pub async fn show(&self, names: &[String]) -> Result<Vec<KeptJob>, Failure> {
        let mut jobs = self.store.jobs().await?;
        if let Some(name) = names
            .iter()
            .filter(|name| !self.store.is_unreadable_chain(name))
            .find(|name| !jobs.iter().any(|job| job.to_string() == **name))
        {
            return Err(no_such_job(name));
        }
        if !names.is_empty() {
            jobs.retain(|job| names.contains(&job.to_string()));
        }
        let mut kept = Vec::with_capacity(jobs.len());
        for id in jobs {
            let token = self.store.token(&id).await.ok().flatten();
            let chains = self.store.chains(&id).await?;
            kept.push(KeptJob {
                token: token.map(|kept| TokenTimes {
                    obtained_at: kept.obtained_at,
                    expires_at: kept.expires_at,
                }),
                chains: chains
                    .into_iter()
                    .map(|held| self.kept_chain(held))
                    .collect(),
                id,
            });
        }
        Ok(kept)
    }

    /// Makes `value` the next value of the chain of the job's secret, and closes the chain's open exchange. A new value is taken
    /// at once, whatever the chain's state: a later answer to an earlier value is ignored. The newest value may be tried again,
    /// but not while it is under way.
    ///
    /// # Errors
    /// There is no such job or chain (`state.no-such-job`, `state.no-such-chain`), the newest value is under way
    /// (`state.in-use`), the value is known to be spent or another chain's (`state.spent`), or other processes keep changing the
    /// chain (`state.changed`).
    pub async fn set(
        &self,
        name: &str,
        secret: &str,
        value: &[u8],
    ) -> Result<ReplacedChain, Failure> {
        self.set_or_keep(name, secret, Some(value)).await
    }

    /// The same with the chain's current value, for an operator who knows that it is not spent, as in a store that was moved
    /// while nothing ran.
    ///
    /// # Errors
    /// As [`Self::set`]; the chain has no value yet (`state.no-such-chain`).
    pub async fn set_kept(&self, name: &str, secret: &str) -> Result<ReplacedChain, Failure> {
        self.set_or_keep(name, secret, None).await
    }

    async fn set_or_keep(
        &self,
        name: &str,
        secret: &str,
        value: Option<&[u8]>,
    ) -> Result<ReplacedChain, Failure> {
        let job = self.job(name).await?;
        let began = Instant::now();
        loop {
            let result = self.try_to_set(&job, secret, value).await;
            if !self.passes(&result, began).await {
                return result;
            }
        }
    }

    async fn try_to_set(
        &self,
        job: &JobId,
        secret: &str,
        value: Option<&[u8]>,
    ) -> Result<ReplacedChain, Failure> {
        let Some(FoundChain { stored, .. }) =
            self.store.find_chain_to_replace(job, secret, None).await?
        else {
            return Err(self.no_such_chain(job, secret).await);
        };
        let kept = stored.chain.value.expose_secret();
        let value = value.unwrap_or(kept);
        if value.is_empty() {
            return Err(self.no_such_chain(job, secret).await);
        }
        self.is_unspent(job, secret, &stored.chain, value).await?;
        if stored.chain.has_newest(value) {
            self.is_free(&stored)?;
        }
        let next = Chain {
            change: random()?,
            ..stored
                .chain
                .succeeded_by(SecretSlice::from(value.to_vec()), None)
        };
        let change = ChainChange {
            job,
            secret,
            binds: true,
            seed: None,
            next: &next,
            expected: Some(&stored.revision),
        };
        if self.store.swap_chain(change).await?.is_none() {
            return Err(Failure::new(
                FailureKind::Unavailable,
                HostCode::StateChanged,
                format!(
                    "the chain of secret `{secret}` of job `{job}` was changed at the same moment; try again"
                ),
            ));
        }
        Ok(ReplacedChain {
            job: job.clone(),
            chain: next.id.to_string(),
            generation: next.generation,
        })
    }

    /// Deletes the stored state of a job: its chains begin anew from the configured values. Or a chain that cannot be read, by
    /// its id.
    ///
    /// # Errors
    /// Nothing is stored of it, or a request with one of its chains is under way (`state.in-use`).
    pub async fn forget(&self, name: &str) -> Result<(), Failure> {
        if self.store.is_unreadable_chain(name) {
            return self.store.forget_unreadable(name).await;
        }
        let job = self.job(name).await?;
        let began = Instant::now();
        let is_free = |stored: &StoredChain| self.is_free(stored);
        loop {
            let result = self.store.forget(&job, &is_free).await;
            if !self.passes(&result, began).await {
                return result;
            }
        }
    }

    /// Waits a little if another process changed the chain, unless the time for that is over. Returns whether to try again.
    async fn passes<T>(&self, result: &Result<T, Failure>, began: Instant) -> bool {
        let code = result.as_ref().err().and_then(Failure::host_code);
        let passes = matches!(code, Some(HostCode::StateInUse | HostCode::StateChanged))
            && began.elapsed() < self.patience;
        if passes {
            sleep(LOOK).await;
        }
        passes
    }

    async fn job(&self, name: &str) -> Result<JobId, Failure> {
        let jobs = self.store.jobs().await?;
        jobs.into_iter()
            .find(|job| job.to_string() == name)
            .ok_or_else(|| no_such_job(name))
    }

    async fn no_such_chain(&self, job: &JobId, secret: &str) -> Failure {
        let held = self.store.chains(job).await.unwrap_or_default();
        let names: Vec<String> = held
            .iter()
            .map(|held| format!("`{}`", held.secret))
            .collect();
        let known = if names.is_empty() {
            "no chain is kept of this job".to_owned()
        } else {
            format!("chains are kept of {}", names.join(", "))
        };
        Failure::new(
            FailureKind::InvalidConfig,
            HostCode::StateNoSuchChain,
            format!(
                "no chain is kept of secret `{secret}` of job `{job}` ({known}); a first value goes where the configuration reads it"
            ),
        )
    }

    /// Prevents a value that was sent before from being sent again by mistake. The newest one may be tried again.
    async fn is_unspent(
        &self,
        job: &JobId,
        secret: &str,
        chain: &Chain,
        value: &[u8],
    ) -> Result<(), Failure> {
        let Some(known) = self
            .store
            .find_chain_to_replace(job, secret, Some(value))
            .await?
        else {
            return Ok(());
        };
        let why = if known.stored.chain.id != chain.id {
            format!("it is a value of another chain, {}", known.stored.chain.id)
        } else if known.seed != Seed::Newest {
            "it is an earlier value of this chain, and issuers may revoke all of a chain when they see one again".to_owned()
        } else {
            return Ok(());
        };
        Err(Failure::new(
            FailureKind::Denied,
            HostCode::StateSpent,
            format!(
                "this value of secret `{secret}` of job `{job}` is not taken: {why}; log in again and give the new value, or, if no request has ever carried it, put it where the configuration reads it and run `evertoken state forget`"
            ),
        ))
    }

    fn is_free(&self, stored: &StoredChain) -> Result<(), Failure> {
        let Some(exchange) = &stored.chain.exchange else {
            return Ok(());
        };
        if exchange.answer.is_some() || !self.is_under_way(&exchange.intent) {
            return Ok(());
        }
        let intent = &exchange.intent;
        Err(Failure::new(
            FailureKind::Unavailable,
            HostCode::StateInUse,
            format!(
                "a request with chain {} is under way ({} {} for job `{}`), and its answer may bring the next value; try again after {}",
                stored.chain.id,
                intent.method,
                intent.url,
                intent.job,
                self.over_at(intent)
            ),
        ))
    }

    /// Whether the process that recorded the intent may still get an answer. In a store that one process has to itself, an
    /// earlier process's intent is over.
    fn is_under_way(&self, intent: &Intent) -> bool {
        let may_live = self.us == Some(intent.holder) || !self.store.is_exclusive();
        may_live && self.clock.now().wall < self.over_at(intent)
    }

    fn over_at(&self, intent: &Intent) -> Timestamp {
        if self.us == Some(intent.holder) {
            intent.not_after
        } else {
            intent.not_after.after(CLOCK_SKEW)
        }
    }

    fn kept_chain(&self, held: HeldChain) -> KeptChain {
        let HeldChain {
            secret,
            chain,
            configured_is_spent,
        } = held;
        let unreadable = |error: String| KeptChain {
            secret: secret.clone(),
            state: StoredChainState::Unreadable,
            chain: None,
            error: Some(error),
            configured_is_spent,
        };
        match chain {
            Ok(Some(StoredChain { chain, .. })) => KeptChain {
                secret,
                state: self.state_of(&chain),
                chain: Some(self.facts(&chain)),
                error: None,
                configured_is_spent,
            },
            Ok(None) => unreadable("there is no record of it".to_owned()),
            Err(failure) => unreadable(failure.message),
        }
    }

    fn state_of(&self, chain: &Chain) -> StoredChainState {
        match &chain.exchange {
            _ if chain.dead_since.is_some() => StoredChainState::Dead,
            _ if self.store.is_restored(chain.id) => StoredChainState::Restored,
            Some(exchange) if exchange.waits_for_the_source() => StoredChainState::AnswerWaiting,
            Some(exchange) if self.is_under_way(&exchange.intent) => StoredChainState::UnderWay,
            _ if chain.unanswered > 0 => StoredChainState::InDoubt,
            _ => StoredChainState::Ok,
        }
    }

    fn facts(&self, chain: &Chain) -> ChainFacts {
        ChainFacts {
            id: chain.id.to_string(),
            generation: chain.generation,
            expires_at: chain.expires_at,
            dead_since: chain.dead_since,
            dead_reason: chain.dead_reason.clone(),
            unanswered: chain.unanswered,
            last_sent: chain.last_sent,
            exchange: chain
                .exchange
                .as_ref()
                .map(|exchange| self.exchange_facts(exchange)),
            unread_bytes: chain
                .unread
                .as_ref()
                .and_then(|unread| Some(unread.answer.as_ref()?.bytes.len())),
        }
    }

    fn exchange_facts(&self, exchange: &Exchange) -> ExchangeFacts {
        let intent = &exchange.intent;
        ExchangeFacts {
            method: intent.method.clone(),
            url: intent.url.clone(),
            job: intent.job.clone(),
            plugin: intent.plugin.name.clone(),
            written_at: intent.written_at,
            not_after: intent.not_after,
            holder: HEXLOWER.encode(&intent.holder.0),
            is_ours: self.us == Some(intent.holder),
            arriving_bytes: exchange.arriving.as_ref().map(|came| came.bytes.len()),
            is_answered: exchange.answer.is_some(),
            failed_replays: exchange.failed_replays,
        }
    }
}

fn no_such_job(name: &str) -> Failure {
    Failure::new(
        FailureKind::InvalidConfig,
        HostCode::StateNoSuchJob,
        format!(
            "nothing is kept of a job `{name}`; `evertoken state show` lists all jobs that something is kept of"
        ),
    )
}

#[cfg(test)]
mod tests;

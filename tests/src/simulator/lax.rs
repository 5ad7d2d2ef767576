//! A store that breaks the guarantees on which the journal relies, to test that the simulator detects it. Switched off, it
//! acknowledges intents and answers and keeps them in memory only; reversed, it acknowledges everything and writes it later,
//! after the action that it should precede.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evertoken::capability::chain::{Chain, ChainId};
use evertoken::capability::keep::{ChainChange, FoundChain, Keeper, Revision, Seed, StoredChain};
use evertoken::model::JobId;
use evertoken::model::failure::Failure;
use evertoken::model::token::KeptToken;
use futures_core::future::BoxFuture;
use tokio::sync::mpsc;

use crate::lock;

/// The delay of a reversed journal's writes: about the duration of an exchange.
const LAG: Duration = Duration::from_millis(500);

/// The mode of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Journal {
    /// The real one.
    #[default]
    On,
    /// Intents and answers are kept in memory only.
    Off,
    /// Everything is written after the action.
    Reversed,
}

/// The store of one start of a process, with broken guarantees.
pub struct Lax {
    inner: Arc<dyn Keeper>,
    journal: Journal,
    held: Mutex<BTreeMap<ChainId, Held>>,
    later: mpsc::UnboundedSender<Late>,
}

/// A chain as the process believes it to be stored.
#[derive(Clone)]
struct Held {
    chain: Chain,
    /// The acknowledged revision.
    told: Revision,
    /// The stored revision; none: not stored.
    stored: Option<Revision>,
}

/// A delayed write.
struct Late {
    job: JobId,
    secret: String,
    seed: Option<Vec<u8>>,
    next: Chain,
    stored: Option<Revision>,
}

impl Lax {
    /// Wraps a store.
    #[must_use]
    pub fn new(inner: Arc<dyn Keeper>, journal: Journal) -> Self {
        let (later, queue) = mpsc::unbounded_channel();
        tokio::spawn(write_late(Arc::clone(&inner), queue));
        Self {
            inner,
            journal,
            held: Mutex::default(),
            later,
        }
    }

    fn held(&self, id: ChainId) -> Option<StoredChain> {
        let held = lock(&self.held).get(&id).cloned()?;
        Some(StoredChain {
            chain: held.chain,
            revision: held.told,
        })
    }

    async fn swap(&self, change: ChainChange<'_>) -> Result<Option<Revision>, Failure> {
        let id = change.next.id;
        let before = lock(&self.held).get(&id).cloned();
        let stored = match &before {
            Some(held) => held.stored.clone(),
            None => change.expected.cloned(),
        };
        if before.is_some_and(|held| Some(&held.told) != change.expected) {
            return Ok(None);
        }
        if self.journal == Journal::Off && change.next.exchange.is_none() {
            let expected = stored.as_ref();
            let written = self
                .inner
                .swap_chain(ChainChange { expected, ..change })
                .await?;
            lock(&self.held).remove(&id);
            return Ok(written);
        }
        if self.journal == Journal::Reversed {
            // Not needed once the process was killed.
            let _ = self.later.send(Late {
                job: change.job.clone(),
                secret: change.secret.to_owned(),
                seed: change.seed.map(<[u8]>::to_vec),
                next: change.next.clone(),
                stored: stored.clone(),
            });
        }
        let told = Revision(format!("{:?}", change.next.change));
        let held = Held {
            chain: change.next.clone(),
            told: told.clone(),
            stored,
        };
        lock(&self.held).insert(id, held);
        Ok(Some(told))
    }

    async fn find(
        &self,
        job: &JobId,
        secret: &str,
        seed: Option<&[u8]>,
    ) -> Result<Option<FoundChain>, Failure> {
        let found = self.inner.find_chain(job, secret, seed).await?;
        let id = match (&found, seed) {
            (Some(found), _) => found.stored.chain.id,
            (None, Some(seed)) => self.inner.chain_id(job, seed),
            (None, None) => return Ok(None),
        };
        let Some(stored) = self.held(id) else {
            return Ok(found);
        };
        let seed = found.map_or(Seed::Newest, |found| found.seed);
        Ok(Some(FoundChain { stored, seed }))
    }
}

/// Writes in order, each after a delay.
async fn write_late(inner: Arc<dyn Keeper>, mut queue: mpsc::UnboundedReceiver<Late>) {
    let mut stored: BTreeMap<ChainId, Option<Revision>> = BTreeMap::new();
    while let Some(late) = queue.recv().await {
        tokio::time::sleep(LAG).await;
        let expected = stored.entry(late.next.id).or_insert(late.stored);
        let change = ChainChange {
            job: &late.job,
            secret: &late.secret,
            binds: true,
            seed: late.seed.as_deref(),
            next: &late.next,
            expected: expected.as_ref(),
        };
        if let Ok(Some(revision)) = inner.swap_chain(change).await {
            *expected = Some(revision);
        }
    }
}

impl Keeper for Lax {
    fn plugin_value<'a>(
        &'a self,
        job: &'a JobId,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, Failure>> {
        self.inner.plugin_value(job, key)
    }

    fn set_plugin_value<'a>(
        &'a self,
        job: &'a JobId,
        key: &'a str,
        value: &'a [u8],
    ) -> BoxFuture<'a, Result<(), Failure>> {
        self.inner.set_plugin_value(job, key, value)
    }

    fn is_exclusive(&self) -> bool {
        self.inner.is_exclusive()
    }

    fn outlives_process(&self) -> bool {
        self.inner.outlives_process()
    }

    fn chain_id(&self, job: &JobId, first_value: &[u8]) -> ChainId {
        self.inner.chain_id(job, first_value)
    }

    fn find_chain<'a>(
        &'a self,
        job: &'a JobId,
        secret: &'a str,
        seed: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<Option<FoundChain>, Failure>> {
        Box::pin(self.find(job, secret, seed))
    }

    fn chain(&self, id: ChainId) -> BoxFuture<'_, Result<Option<StoredChain>, Failure>> {
        match self.held(id) {
            Some(stored) => Box::pin(async { Ok(Some(stored)) }),
            None => self.inner.chain(id),
        }
    }

    fn swap_chain<'a>(
        &'a self,
        change: ChainChange<'a>,
    ) -> BoxFuture<'a, Result<Option<Revision>, Failure>> {
        Box::pin(self.swap(change))
    }

    fn token<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<KeptToken>, Failure>> {
        self.inner.token(job)
    }

    fn keep_token<'a>(
        &'a self,
        job: &'a JobId,
        token: &'a KeptToken,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        self.inner.keep_token(job, token)
    }
}

//! Puts the newest values of rotating secrets where jobs want them: beside the store, or in its place where it ends with the process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretSlice};
use tokio::time::{sleep, timeout};

use super::{Held, Journal, rotating};
use crate::capability::chain::ChainId;
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::model::{Job, JobId, SecretOrigin};
use crate::stop;

/// Writing a value back must not keep the token from its outputs: it is tried again.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// What no store has is tried again so often: whoever mends a folder or a permission sees its effect within half a minute.
const TRIES_APART: Duration = Duration::from_secs(20);

/// Newest values that could not be put where jobs want them, by job and secret.
#[derive(Default)]
pub(super) struct PendingWriteBacks {
    values: Mutex<HashMap<(JobId, String), NotThere>>,
    is_tried_again: AtomicBool,
}

/// A newest value that is not where its job wants it.
#[derive(Clone)]
struct NotThere {
    chain: ChainId,
    origin: SecretOrigin,
    /// What stands there in its place.
    spent: SecretSlice<u8>,
    /// Why, the last time.
    why: String,
    /// Whether it is nowhere but in this process.
    is_the_only_copy: bool,
}

impl PendingWriteBacks {
    fn values(&self) -> MutexGuard<'_, HashMap<(JobId, String), NotThere>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a newest value of this job is nowhere but in this process.
    pub(super) fn has_the_only_copy(&self, job: &JobId) -> bool {
        let values = self.values();
        let mut of_job = values.iter().filter(|((of, _), _)| of == job);
        of_job.any(|(_, value)| value.is_the_only_copy)
    }

    /// Whether it was pending.
    fn remove(&self, place: &(JobId, String)) -> bool {
        self.values().remove(place).is_some()
    }
}

/// Where the store ends with the process, a value is only spent if the next one can be put back. One that could not be is spent already.
///
/// # Errors
/// `secret.no-write-back`: it cannot, and nothing has been sent.
pub(super) async fn require(journal: &Journal, job: &Job) -> Result<(), Failure> {
    let Some(target) = &journal.ports.write_back else {
        return Ok(());
    };
    if journal.ports.keeper.outlives_process() || journal.pending.has_the_only_copy(&job.id) {
        return Ok(());
    }
    for (name, secret) in rotating(job).filter(|(_, secret)| secret.write_back) {
        let proved = timeout(TIME_LIMIT, target.prove(&secret.origin)).await;
        proved.unwrap_or_else(|_| Err(too_slow())).map_err(|failure| Failure {
            code: Some(HostCode::SecretNoWriteBack.into()),
            message: format!(
                "rotating secret `{name}` of job `{}` is not used: its next value could not be put back, and there is no `state` that would have it: {}",
                job.id, failure.message
            ),
            ..failure
        })?;
    }
    Ok(())
}

/// Puts newest values where jobs want them. What fails is tried again after the next call, and what no store has before that, too.
pub(in crate::capability) async fn write_back(journal: &Arc<Journal>, job: &Job, held: &Held) {
    for (name, secret) in rotating(job).filter(|(_, secret)| secret.write_back) {
        let (Some(guard), Some(_)) = (held.guard(name), &journal.ports.write_back) else {
            continue;
        };
        let (Some(configured), Some((newest, _))) = (guard.configured(), guard.newest().await)
        else {
            continue;
        };
        if configured.expose_secret() == newest.expose_secret() {
            continue;
        }
        let value = NotThere {
            chain: guard.chain().await.id,
            origin: secret.origin.clone(),
            spent: configured.clone(),
            why: String::new(),
            is_the_only_copy: !journal.ports.keeper.outlives_process(),
        };
        put(journal, (job.id.clone(), name.clone()), value, &newest).await;
    }
}

async fn put(
    journal: &Arc<Journal>,
    place: (JobId, String),
    mut value: NotThere,
    newest: &SecretSlice<u8>,
) {
    let Some(target) = &journal.ports.write_back else {
        return;
    };
    let (spent, next) = (value.spent.expose_secret(), newest.expose_secret());
    let replaced = timeout(TIME_LIMIT, target.replace(&value.origin, spent, next)).await;
    let (job, secret) = &place;
    match replaced.unwrap_or_else(|_| Err(too_slow())) {
        Ok(true) => {
            if journal.pending.remove(&place) {
                tracing::info!(%job, secret, "the newest value is written back again");
            }
        }
        Ok(false) => {
            journal.pending.remove(&place);
            tracing::info!(%job, secret, "the newest value is not written back: another one has been put there");
        }
        Err(failure) => {
            value.why.clone_from(&failure.message);
            let is_the_only_copy = value.is_the_only_copy;
            let before = journal.pending.values().insert(place.clone(), value);
            if before.is_some_and(|before| before.why == failure.message) {
                tracing::debug!(%job, secret, error = %failure, "the newest value still cannot be written back");
            } else if is_the_only_copy {
                tracing::error!(%job, secret, error = %failure, "the newest value cannot be written back, and no state store has it: it is lost if this process ends before it can");
            } else {
                tracing::warn!(%job, secret, error = %failure, "the newest value cannot be written back; the state store has it");
            }
            if is_the_only_copy {
                try_again(journal);
            }
        }
    }
}

/// Sees to it that what no store has is tried again until it is where it belongs.
fn try_again(journal: &Arc<Journal>) {
    let pending = &journal.pending;
    if pending.is_tried_again.swap(true, Ordering::AcqRel) {
        return;
    }
    let journal = Arc::clone(journal);
    tokio::spawn(async move {
        loop {
            sleep(TRIES_APART).await;
            put_all(&journal).await;
            let pending = &journal.pending;
            let values = pending.values();
            if !values.values().any(|value| value.is_the_only_copy) {
                pending.is_tried_again.store(false, Ordering::Release);
                return;
            }
        }
    });
}

/// Puts all that no store has where it belongs, but for what a call has in its hands: that puts it back at its end.
async fn put_all(journal: &Arc<Journal>) {
    let values = journal.pending.values().clone();
    for (place, value) in values {
        let lock = journal.lock(value.chain);
        let Ok(_held) = lock.try_lock() else {
            continue;
        };
        if !value.is_the_only_copy || !journal.pending.values().contains_key(&place) {
            continue;
        }
        if let Ok(Some(stored)) = journal.ports.keeper.chain(value.chain).await {
            put(journal, place, value, &stored.chain.value).await;
        }
    }
}

/// The last try of a process that ends.
pub(in crate::capability) async fn put_all_at_the_end(journal: &Arc<Journal>) {
    if journal.pending.values().is_empty() {
        return;
    }
    let _ = timeout(stop::WRITING_BACK, put_all(journal)).await;
    for ((job, secret), value) in &*journal.pending.values() {
        if value.is_the_only_copy {
            tracing::error!(%job, secret, why = value.why, "the newest value is lost with this process: it could not be written back, and no state store has it; somebody has to log in again");
        }
    }
}

fn too_slow() -> Failure {
    Failure::new(
        FailureKind::Unavailable,
        HostCode::HostTimeout,
        format!("it took more than {} s", TIME_LIMIT.as_secs()),
    )
}

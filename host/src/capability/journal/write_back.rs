//! Write-back: puts the newest values of rotating secrets where jobs configure them, beside the store or, where the store ends
//! with the process, in place of it.

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

/// Writing a value back must not delay the token's outputs: it is tried again.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The retry interval for values that no store has, so that a corrected folder or permission takes effect within half a minute.
const TRIES_APART: Duration = Duration::from_secs(20);

/// Newest values that could not be written back, by job and secret.
#[derive(Default)]
pub(super) struct PendingWriteBacks {
    values: Mutex<HashMap<(JobId, String), NotThere>>,
    is_tried_again: AtomicBool,
}

/// A newest value that is not written back.
#[derive(Clone)]
struct NotThere {
    chain: ChainId,
    origin: SecretOrigin,
    /// The value in its place.
    spent: SecretSlice<u8>,
    /// The last error.
    why: String,
    /// Whether only this process has it.
    is_the_only_copy: bool,
}

impl PendingWriteBacks {
    fn values(&self) -> MutexGuard<'_, HashMap<(JobId, String), NotThere>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether only this process has a newest value of this job.
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

/// Where the store ends with the process, a value may only be spent if the next one can be written back.
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

/// Writes newest values back. A failure is tried again after the next call; for a value that no store has, also before that.
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

/// Ensures that values that no store has are retried until they are written back.
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

/// Writes back all values that no store has, but not those that a call holds, which does so at its end.
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

/// The last try when the process ends.
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

//! Detection of changed secrets: a job that waits for a correction is tried again within half a minute after one of its secrets in a
//! file or in the cluster changes, so that a corrected client secret need not wait for the next step of the backoff schedule, which
//! may be an hour away.

use std::time::Duration;

use super::{Class, ConcurrencyKey, EntryKey, Scheduler, Wakeup, Work};
use crate::model::{Job, SecretOrigin};
use crate::refresh::job::JobEvent;
use crate::runner::ports;

/// How often the secrets of a job that waits for a correction are read. That is about as long as an operator waits before looking
/// for the effect of a change, and a thousand such jobs cost the API server some forty reads a second.
const LOOK_EVERY: Duration = Duration::from_secs(25);

impl Scheduler {
    /// Reads the secrets of a job, if it waits for a correction and has secrets that may be changed from outside.
    pub(super) fn look(&mut self, key: EntryKey) {
        let waiting = self
            .jobs
            .get(&key)
            .filter(|entry| entry.waits_for_secrets(&self.world.ports));
        if let Some(concurrency_key) =
            waiting.and_then(|entry| concurrency_key_of_secrets(&entry.config))
        {
            self.enqueue(
                concurrency_key,
                (Class::Verify, Duration::ZERO),
                Work::Look(key),
            );
        }
    }

    /// Compares the digest with the former one.
    pub(super) fn looked(&mut self, key: EntryKey, digest: Option<[u8; 32]>) {
        let now = self.world.now();
        let Some(entry) = self.jobs.get_mut(&key) else {
            return;
        };
        if !entry.waits_for_secrets(&self.world.ports) {
            return;
        }
        let next = now.boot.saturating_add(LOOK_EVERY);
        self.queue.set(Wakeup::Secrets(key), Some(next));
        let Some(digest) = digest else {
            return;
        };
        let before = entry.secrets.replace(Box::new(digest));
        let is_another = before.is_some_and(|before| *before != digest);
        if is_another && entry.machine.needs_mending() {
            tracing::info!(job = %entry.config.id, "a secret has changed; the source is tried again");
            self.tell(key, JobEvent::SecretsChanged);
            self.client_changed(key);
        }
    }
}

/// The concurrency key of reading a job's secrets; none: they cannot be changed from outside.
fn concurrency_key_of_secrets(job: &Job) -> Option<ConcurrencyKey> {
    let origins = || job.source.secrets.values().map(|secret| &secret.origin);
    if origins().any(|origin| matches!(origin, SecretOrigin::KubernetesSecret { .. })) {
        return Some(ports::cluster());
    }
    let is_file = |origin: &SecretOrigin| {
        matches!(
            origin,
            SecretOrigin::File(_) | SecretOrigin::FileMember { .. }
        )
    };
    let has_file = origins().any(is_file);
    let has_certificate = job.source.tls.cert_file.is_some();
    (has_file || has_certificate).then_some(ConcurrencyKey::Local)
}

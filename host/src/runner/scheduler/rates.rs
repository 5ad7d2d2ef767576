//! How often the sources of a profile's jobs may be called: a tenant whose tokens are refreshed without need delays no other.

use tracing::warn;

use super::{EntryKey, Scheduler, Wakeup};

/// What a rate is of: a profile, or one namespace that uses it.
pub(super) type RateKey = (String, Option<String>);

impl Scheduler {
    /// Whether a call that could begin has to wait because its profile or namespace had too many; then it is queued again when it may.
    pub(super) fn is_over_rate(&mut self, key: EntryKey) -> bool {
        let now = self.world.now().boot;
        let Some(entry) = self.jobs.get(&key) else {
            return false;
        };
        let Some(used) = &entry.config.profile else {
            return false;
        };
        let limits = used.limits;
        let of_profile = (used.profile.clone(), None);
        let of_namespace = (used.profile.clone(), entry.config.id.namespace.clone());
        let taken = self.rates.take(
            [
                (of_profile, limits.calls_per_minute),
                (of_namespace, limits.calls_per_minute_per_namespace),
            ],
            now,
        );
        let Err(wait) = taken else {
            return false;
        };
        let (job, profile) = (&entry.config.id, &used.profile);
        if self.told_rate.is_none_or(|at| now >= at) {
            warn!(%job, profile, seconds = wait.as_secs(), "a job waits: `calls_per_minute` or `calls_per_minute_per_namespace` of its profile is reached");
            self.told_rate = Some(now.saturating_add(TELL_EVERY));
        }
        self.queue
            .set(Wakeup::Rate(key), Some(now.saturating_add(wait)));
        true
    }
}

/// How often it is logged that somebody waits.
const TELL_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

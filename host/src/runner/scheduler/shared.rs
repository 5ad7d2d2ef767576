//! Outputs that several jobs share: written once all of their jobs have a token, and whenever one of them gets another.

use std::sync::Arc;
use std::time::Duration;

use super::{EntryKey, NAMES, Scheduler, Wakeup, Work, apart, class_of, written_event};
use crate::model::failure::Failure;
use crate::model::time::Reading;
use crate::model::{JobId, OnRemove, SharedOutput};
use crate::names;
use crate::refresh::output;
use crate::runner::entry::SharedEntry;
use crate::runner::ports::{self, OutputOwner};

/// How often a shared output is verified when none of its jobs says so.
const SHARED_VERIFY: Duration = Duration::from_secs(600);

impl Scheduler {
    pub(super) fn settle_shared(&mut self) {
        if self.shared.values().any(|s| s.publication.is_writing()) {
            return;
        }
        let Some(outputs) = self.pending_shared.take() else {
            return;
        };
        let mut former = std::mem::take(&mut self.shared);
        self.shared_of.clear();
        for (index, config) in outputs.into_iter().enumerate() {
            // Its position is part of what makes a key of a Secret its own.
            let is_same = |entry: &SharedEntry| entry.index == index && entry.config == config;
            let same = former.extract_if(.., |_, entry| is_same(entry)).next();
            let (key, is_new) = match &same {
                Some((key, _)) => (*key, false),
                None => (self.next_key(), true),
            };
            for id in &config.from {
                self.shared_of.entry(id.clone()).or_default().push(key);
            }
            let verify = self.shared_verify(&config);
            let entry = same.map(|(_, entry)| entry);
            let entry = entry.unwrap_or_else(|| SharedEntry::new(config, index, verify));
            self.shared.insert(key, entry);
            if is_new {
                self.shared_changed(key);
            }
        }
        for key in former.into_keys() {
            self.queue.set(Wakeup::Shared(key), None);
        }
        for (config, index, tokens) in std::mem::take(&mut self.gone_shared) {
            self.withdraw(OutputOwner::Shared, index, &config.output, tokens);
        }
        self.spare_places_in_use();
    }

    /// Notes those shared outputs that are to be deleted because they are not among `next`, with the tokens of their jobs.
    pub(super) fn note_gone_shared(&mut self, next: &[Arc<SharedOutput>]) {
        let is_gone = |shared: &&SharedEntry| {
            let place = shared.config.output.destination.to_string();
            let mut kept = next.iter();
            shared.config.on_remove == OnRemove::Delete
                && !kept.any(|next| next.output.destination.to_string() == place)
        };
        let gone = self.shared.values().filter(is_gone);
        let gone = gone.map(|shared| (Arc::clone(&shared.config), shared.index));
        for (config, index) in gone.collect::<Vec<_>>() {
            let tokens = self.tokens(&config).unwrap_or_default();
            self.gone_shared.push((config, index, tokens));
        }
    }

    /// The shortest interval of its jobs.
    fn shared_verify(&self, shared: &SharedOutput) -> Duration {
        let keys = shared.from.iter().filter_map(|id| self.keys.get(id));
        keys.filter_map(|key| Some(self.jobs.get(key)?.config.verify))
            .min()
            .unwrap_or(SHARED_VERIFY)
    }

    pub(super) fn token_changed(&mut self, job: EntryKey) {
        let Some(entry) = self.jobs.get(&job) else {
            return;
        };
        let shared = self.shared_of.get(&entry.config.id);
        for key in shared.cloned().unwrap_or_default() {
            self.shared_changed(key);
        }
    }

    pub(super) fn shared_changed(&mut self, key: EntryKey) {
        let (now, sample) = (self.world.now(), self.world.sample());
        let Some(shared) = self.shared.get(&key) else {
            return;
        };
        if self.tokens(&shared.config).is_none() {
            return;
        }
        if let Some(shared) = self.shared.get_mut(&key) {
            shared
                .publication
                .step(output::OutputEvent::Changed, now, sample);
        }
        self.write_shared_if_due(key);
    }

    pub(super) fn write_shared_if_due(&mut self, key: EntryKey) {
        let now = self.world.now();
        let Some(shared) = self.shared.get_mut(&key) else {
            return;
        };
        let purpose = shared.publication.take(now);
        self.queue
            .set(Wakeup::Shared(key), shared.publication.wakes_at());
        if let Some(purpose) = purpose {
            let concurrency_key = self
                .world
                .ports
                .publisher
                .concurrency_key(&shared.config.output);
            let work = Work::WriteShared(key, purpose);
            self.enqueue(concurrency_key, (class_of(purpose), Duration::ZERO), work);
        }
    }

    /// One of the jobs was removed before the write began.
    pub(super) fn shared_gone(&mut self, key: EntryKey) {
        let (now, sample) = (self.world.now(), self.world.sample());
        if let Some(shared) = self.shared.get_mut(&key) {
            shared
                .publication
                .step(output::OutputEvent::Gone, now, sample);
        }
        self.settle_shared();
    }

    /// The tokens of all jobs that share an output, once all have one.
    pub(super) fn tokens(&self, shared: &SharedOutput) -> Option<Vec<ports::JobToken>> {
        let token = |id| self.jobs.get(self.keys.get(id)?)?.job_token();
        shared.from.iter().map(token).collect()
    }

    pub(super) fn shared_written(
        &mut self,
        key: EntryKey,
        result: Result<ports::Published, Failure>,
    ) {
        let (result, parts) = apart(result);
        let (now, sample) = (self.world.now(), self.world.sample());
        if let Some(shared) = self.shared.get_mut(&key) {
            let event = written_event(result.as_ref().err());
            shared.publication.step(event, now, sample);
            let from = shared.config.from.iter().map(ToString::to_string).collect();
            let destination = &shared.config.output.destination;
            let wall = now.wall;
            let before = shared.failure.take();
            shared.failure = self.world.note_write(
                &names::first(&from, NAMES),
                destination,
                before,
                result,
                wall,
            );
        }
        let from = self
            .shared
            .get(&key)
            .map(|shared| shared.config.from.clone());
        for job in from.unwrap_or_default() {
            if let Some(&job) = self.keys.get(&job) {
                self.note_published(job, now);
            }
        }
        self.parts_published(parts);
        self.write_shared_if_due(key);
        self.settle_shared();
    }

    /// The states of a job's shared outputs.
    pub(super) fn shared_states(&self, job: &JobId) -> Vec<output::OutputState> {
        let keys = self.shared_of.get(job).into_iter().flatten();
        let shared = keys.filter_map(|key| self.shared.get(key));
        shared.map(|shared| shared.publication.state()).collect()
    }

    /// Records the token that a job's consumers have.
    pub(super) fn note_published(&mut self, job: EntryKey, now: Reading) {
        let Some(entry) = self.jobs.get(&job) else {
            return;
        };
        let shared = self.shared_states(&entry.config.id);
        if let Some(entry) = self.jobs.get_mut(&job) {
            entry.note_published(now, &shared);
        }
    }
}

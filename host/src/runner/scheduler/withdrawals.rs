//! Outputs that the configuration has no more and that are to be deleted: each is tried until its destination has answered, and left
//! alone if another output writes to the same place by then.

use std::collections::HashSet;

use tracing::{debug, info, warn};

use super::{Class, EntryKey, Scheduler, Wakeup, Work, class_of, is_news, written_event};
use crate::model::failure::Failure;
use crate::model::time::Reading;
use crate::model::{Destination, Job, JobId, OnRemove, Output};
use crate::output::Withdrawn;
use crate::refresh::output::{OutputEvent, OutputLifecycle, Purpose};
use crate::runner::entry::output_status;
use crate::runner::ports::{JobToken, OutputOwner, Write};
use crate::runner::status::{FailureStatus, OutputStatus};
use crate::runner::work::Task;

/// An output that is to be deleted.
#[derive(Debug)]
pub(super) struct Withdrawal {
    write: Write,
    /// The deletion takes the place of the write.
    lifecycle: OutputLifecycle,
    failure: Option<Box<FailureStatus>>,
}

impl Withdrawal {
    pub(super) fn task(&self) -> Task {
        Task::Withdraw(Box::new(self.write.clone()))
    }

    pub(super) fn status(&self, now: Reading) -> OutputStatus {
        let retry = self.lifecycle.retries_at();
        let next_try = retry.map(|at| now.wall.after(at.saturating_sub(now.boot)));
        let state = self.lifecycle.state();
        output_status(&self.write.output, state, self.failure.as_deref(), next_try)
    }
}

impl Scheduler {
    /// Has those of a job's outputs deleted that `next`, the job as it is from now on, does not have; none: it is removed.
    pub(super) fn withdraw_outputs(
        &mut self,
        job: &Job,
        token: Option<&JobToken>,
        next: Option<&Job>,
    ) {
        if job.on_remove == OnRemove::Keep {
            return;
        }
        for (index, output) in job.outputs.iter().enumerate() {
            let mut kept = next.into_iter().flat_map(|next| &next.outputs);
            if kept.any(|kept| is_same_place(&kept.destination, &output.destination)) {
                continue;
            }
            let owner = OutputOwner::Job(job.id.clone());
            self.withdraw(owner, index, output, token.cloned().into_iter().collect());
        }
    }

    /// Has an output deleted.
    pub(super) fn withdraw(
        &mut self,
        owner: OutputOwner,
        index: usize,
        output: &Output,
        tokens: Vec<JobToken>,
    ) {
        let (now, sample) = (self.world.now(), self.world.sample());
        let mut lifecycle = OutputLifecycle::new(None);
        lifecycle.step(OutputEvent::Changed, now, sample);
        let write = Write {
            owner,
            index,
            purpose: Purpose::Publish,
            output: output.clone(),
            next_refresh: None,
            tokens,
        };
        let withdrawal = Withdrawal {
            write,
            lifecycle,
            failure: None,
        };
        let key = self.next_key();
        self.withdrawals.insert(key, withdrawal);
        self.queue.set(Wakeup::Withdrawal(key), Some(now.boot));
    }

    pub(super) fn withdraw_if_due(&mut self, key: EntryKey) {
        let now = self.world.now();
        let Some(withdrawal) = self.withdrawals.get_mut(&key) else {
            return;
        };
        let purpose = withdrawal.lifecycle.take(now);
        let wakes_at = withdrawal.lifecycle.wakes_at();
        self.queue.set(Wakeup::Withdrawal(key), wakes_at);
        if let Some(purpose) = purpose {
            let publisher = &self.world.ports.publisher;
            let concurrency_key = publisher.concurrency_key(&withdrawal.write.output);
            let urgency = (class_of(purpose).min(Class::Refresh), now.boot);
            self.enqueue(concurrency_key, urgency, Work::Withdraw(key));
        }
    }

    /// Leaves alone what another output writes to from now on. The end of a deletion under way is followed by another write there.
    pub(super) fn spare_places_in_use(&mut self) {
        if self.withdrawals.is_empty() {
            return;
        }
        let jobs = self.jobs.values().flat_map(|entry| &entry.config.outputs);
        let shared = self.shared.values().map(|shared| &shared.config.output);
        let used = jobs
            .chain(shared)
            .map(|output| output.destination.to_string());
        let used: HashSet<String> = used.collect();
        let is_free = |withdrawal: &Withdrawal| {
            withdrawal.lifecycle.is_writing()
                || !used.contains(&withdrawal.write.output.destination.to_string())
        };
        let spared = self.withdrawals.iter();
        let spared = spared.filter(|(_, withdrawal)| !is_free(withdrawal));
        let spared: Vec<EntryKey> = spared.map(|(key, _)| *key).collect();
        for key in spared {
            self.forget_withdrawal(key);
        }
    }

    fn forget_withdrawal(&mut self, key: EntryKey) -> Option<Withdrawal> {
        self.queue.set(Wakeup::Withdrawal(key), None);
        self.withdrawals.remove(&key)
    }

    pub(super) fn withdrawn(&mut self, key: EntryKey, result: Result<Withdrawn, Failure>) {
        let (now, sample) = (self.world.now(), self.world.sample());
        let Some(withdrawal) = self.withdrawals.get_mut(&key) else {
            return;
        };
        let output = withdrawal.write.output.destination.to_string();
        let event = written_event(result.as_ref().err());
        withdrawal.lifecycle.step(event, now, sample);
        match result {
            Ok(withdrawn) => {
                match withdrawn {
                    Withdrawn::Deleted => info!(
                        output,
                        "output is deleted: the configuration has it no more"
                    ),
                    Withdrawn::Gone => debug!(
                        output,
                        "an output that the configuration has no more had gone already"
                    ),
                    Withdrawn::Foreign => warn!(
                        output,
                        "output stays although the configuration has it no more: what is there is not the token that this process wrote"
                    ),
                }
                self.forget_withdrawal(key);
                self.write_again(&output);
            }
            Err(failure) => {
                let (kind, code) = (failure.kind, failure.code());
                let error = &failure.message;
                if is_news(withdrawal.failure.as_deref(), &failure) {
                    warn!(output, %kind, code, error, "output cannot be deleted");
                } else {
                    debug!(output, %kind, code, error, "output still cannot be deleted");
                }
                withdrawal.failure = Some(Box::new(FailureStatus::new(failure, now.wall)));
                let wakes_at = withdrawal.lifecycle.wakes_at();
                self.queue.set(Wakeup::Withdrawal(key), wakes_at);
                self.spare_places_in_use();
            }
        }
    }

    /// An output at a place where something was deleted meanwhile.
    fn write_again(&mut self, place: &str) {
        let is_there = |output: &Output| output.destination.to_string() == place;
        let jobs = self.jobs.iter().flat_map(|(key, entry)| {
            let outputs = entry.config.outputs.iter().enumerate();
            let there = outputs.filter(|(_, output)| is_there(output));
            there.map(|(index, _)| (*key, index))
        });
        let shared = self.shared.iter();
        let shared = shared.filter(|(_, shared)| is_there(&shared.config.output));
        let shared: Vec<EntryKey> = shared.map(|(key, _)| *key).collect();
        for (key, index) in jobs.collect::<Vec<_>>() {
            self.output_changed(key, index);
        }
        for key in shared {
            self.shared_changed(key);
        }
    }

    /// The outputs that are to be deleted, at most those of these jobs; no names: all.
    pub(super) fn withdrawals_of(&self, names: &[String]) -> Vec<OutputStatus> {
        let now = self.world.now();
        let is_asked_for = |id: &JobId| names.is_empty() || names.contains(&id.to_string());
        let wanted = self
            .withdrawals
            .values()
            .filter(|withdrawal| match &withdrawal.write.owner {
                OutputOwner::Job(id) => is_asked_for(id),
                OutputOwner::Shared => names.is_empty(),
            });
        wanted.map(|withdrawal| withdrawal.status(now)).collect()
    }
}

/// Whether both are the same file, or the same key of a Secret.
fn is_same_place(one: &Destination, other: &Destination) -> bool {
    match (one, other) {
        (Destination::File(one), Destination::File(other)) => one.path == other.path,
        (Destination::Secret(one), Destination::Secret(other)) => {
            (&one.namespace, &one.name, &one.key) == (&other.namespace, &other.name, &other.key)
        }
        _ => false,
    }
}

//! The runner carries out what [`crate::refresh`] decides. One task owns all jobs: it wakes those that are due, admits their work
//! within the limits, and passes the result of the work to the job. Only running work has a task of its own, so ten thousand idle
//! jobs cost only the memory of their configuration and their tokens.

mod admission;
mod entry;
mod handle;
pub mod live;
pub mod metrics;
pub mod ports;
mod queue;
mod scheduler;
mod source_hash;
pub mod status;
mod work;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

pub(crate) use entry::weigh;
use handle::RunnerCommand;
pub use handle::{Handle, JobChange, RefreshAsked, RunnerStopped};
use metrics::Metrics;
use ports::{ConcurrencyKey, Ports};
use scheduler::{LONGEST_SLEEP, Scheduler, Work};
pub(crate) use source_hash::source_hash;
use status::Snapshot;
use work::{Outcome, panicked};

use crate::model::Limits;
use crate::model::time::Reading;
use crate::stop;

/// The runner.
#[derive(Debug)]
pub struct Runner {
    ports: Ports,
    scheduler: Scheduler,
    commands: mpsc::Receiver<RunnerCommand>,
    tasks: JoinSet<Outcome>,
    running: HashMap<Id, Running>,
}

/// Work that has a task.
#[derive(Debug)]
struct Running {
    work: Work,
    /// The queue in which it has a place, if it needs one.
    concurrency_key: Option<ConcurrencyKey>,
    since: Reading,
    abort: AbortHandle,
}

impl Runner {
    /// A runner without jobs, and its handle.
    #[must_use]
    pub fn new(ports: Ports, limits: &Limits, metrics: Arc<Metrics>) -> (Self, Handle) {
        let (handle, commands) = Handle::new();
        let runner = Self {
            scheduler: Scheduler::new(ports.clone(), limits, metrics),
            ports,
            commands,
            tasks: JoinSet::new(),
            running: HashMap::new(),
        };
        (runner, handle)
    }

    /// Runs until `stop`. Then running writes are completed, within [`stop::WRITES`], and exchanges of rotating secrets, within
    /// [`stop::EXCHANGES`]; other calls of sources are abandoned.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.turn(&stop, LONGEST_SLEEP).await;
        }
        self.wind_down().await;
    }

    /// Applies `changes` and runs until every job is written or has a failure that will not pass by waiting; at most for
    /// `patience`. Returns the status of each job at the end.
    pub async fn once(
        mut self,
        changes: Vec<JobChange>,
        patience: Option<Duration>,
        stop: CancellationToken,
    ) -> Snapshot {
        self.scheduler.apply(changes);
        let began = self.ports.clock.now().boot;
        while !stop.is_cancelled() && !self.scheduler.is_finished() {
            let passed = self.ports.clock.now().boot.saturating_sub(began);
            let left = patience.map_or(LONGEST_SLEEP, |patience| patience.saturating_sub(passed));
            if left.is_zero() {
                break;
            }
            self.turn(&stop, left).await;
        }
        self.wind_down().await;
        self.scheduler.snapshot(&[])
    }

    /// Begins all that is due, then waits for one event, at most for `longest`.
    async fn turn(&mut self, stop: &CancellationToken, longest: Duration) {
        self.scheduler.wake();
        self.begin();
        self.scheduler.measure();
        let timer = self.ports.timer.sleep(self.scheduler.wait().min(longest));
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            Some(end) = self.tasks.join_next_with_id() => {
                self.ended(end);
                while let Some(end) = self.tasks.try_join_next_with_id() {
                    self.ended(end);
                }
            }
            Some(command) = self.commands.recv() => self.scheduler.command(command),
            () = timer => {}
        }
    }

    fn begin(&mut self) {
        while let Some((work, concurrency_key, task)) = self.scheduler.begin() {
            let abort = self.tasks.spawn(task.run(self.ports.clone()));
            let since = self.ports.clock.now();
            let running = Running {
                work,
                concurrency_key,
                since,
                abort,
            };
            self.running.insert(running.abort.id(), running);
        }
    }

    fn ended(&mut self, end: Result<(Id, Outcome), JoinError>) {
        let id = match &end {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some(running) = self.running.remove(&id) else {
            return;
        };
        if let Some(concurrency_key) = &running.concurrency_key {
            self.scheduler.release(concurrency_key, running.since);
        }
        let outcome = match end {
            Ok((_, outcome)) => outcome,
            Err(error) if error.is_panic() => {
                error!(work = ?running.work, "a task panicked");
                failed(running.work)
            }
            Err(_abandoned) => return,
        };
        self.scheduler.ended(running.work, outcome, running.since);
    }

    async fn wind_down(&mut self) {
        self.scheduler.stop();
        let running = self.running.values();
        let abandoned: Vec<&Running> = running
            .filter(|running| self.scheduler.may_abandon(running.work))
            .collect();
        for running in &abandoned {
            running.abort.abort();
        }
        let calls = abandoned.iter().map(|running| running.work);
        let jobs = self
            .scheduler
            .names(calls.filter(|work| matches!(work, Work::Acquire(_))));
        if !jobs.is_empty() {
            warn!(
                jobs,
                "stopping: requests under way are abandoned, and the next start asks again"
            );
        }
        let mut writes_grace = Some(self.ports.timer.sleep(stop::WRITES));
        let mut grace = self.ports.timer.sleep(stop::EXCHANGES);
        loop {
            self.begin();
            let writes_over = async {
                match &mut writes_grace {
                    Some(sleep) => sleep.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                end = self.tasks.join_next_with_id() => match end {
                    Some(end) => self.ended(end),
                    None => break,
                },
                () = writes_over => {
                    writes_grace = None;
                    let (exchanges, writes): (Vec<&Running>, Vec<&Running>) = self
                        .running
                        .values()
                        .partition(|running| matches!(running.work, Work::Acquire(_)));
                    self.give_up(writes.into_iter());
                    self.scheduler.wait_for(exchanges.into_iter().map(|running| running.work));
                }
                () = &mut grace => {
                    self.give_up(self.running.values());
                    break;
                }
            }
        }
        self.tasks.shutdown().await;
        self.scheduler.measure();
    }

    /// Aborts this work, and logs it.
    fn give_up<'a>(&self, running: impl Iterator<Item = &'a Running>) {
        let works: Vec<Work> = running
            .inspect(|running| running.abort.abort())
            .map(|running| running.work)
            .collect();
        if !works.is_empty() {
            let (tasks, jobs) = (works.len(), self.scheduler.names(works.into_iter()));
            warn!(
                tasks,
                jobs, "stopping although something did not end in time"
            );
        }
    }
}

fn failed(work: Work) -> Outcome {
    match work {
        Work::Load(_) => Outcome::Loaded(Err(panicked())),
        Work::Acquire(_) => Outcome::Acquired(Err(panicked().into())),
        Work::Look(_) => Outcome::Looked(None),
        Work::Keep(_) => Outcome::Kept(Err(panicked())),
        Work::Write(..) | Work::WriteShared(..) => Outcome::Written(Err(panicked())),
        Work::Withdraw(_) => Outcome::Withdrawn(Err(panicked())),
        Work::LoadPlugin(_) => Outcome::PluginLoaded,
    }
}

#[cfg(test)]
pub(crate) mod tests;

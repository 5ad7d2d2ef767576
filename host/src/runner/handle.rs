//! The handle of a running runner: providers change its jobs with it, the control socket and the metrics query it.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::status::Snapshot;
use crate::model::time::Timestamp;
use crate::model::{Job, JobId, Limits, SharedOutput};

/// Commands that wait while the runner is busy; further senders wait.
const COMMANDS: usize = 64;

/// A change to what the runner does.
#[derive(Debug, Clone)]
pub enum JobChange {
    /// Adds the job, or replaces the one with its id. Unchanged parts go on: another source is asked at once, another policy only
    /// changes the time of the next refresh, other outputs get the held token.
    Put(Arc<Job>),
    /// Stops the job. Work under way ends first; then its outputs stay or go, as [`Job::on_remove`] says.
    Remove(JobId),
    /// Replaces all outputs that jobs share. Unchanged ones go on.
    SharedOutputs(Vec<Arc<SharedOutput>>),
    /// Somebody put another login where the job reads its own: what comes of the one before is dropped, and the source is asked at once.
    NewLogin(JobId),
    /// Changes how much may be done at once.
    Limits(Limits),
    /// Other plugins are behind these names: they are loaded, what failed is tried again, and outputs are formatted anew.
    Plugins(Vec<String>),
}

impl JobChange {
    /// The job that it puts.
    #[must_use]
    pub const fn put(&self) -> Option<&Arc<Job>> {
        match self {
            Self::Put(job) => Some(job),
            _ => None,
        }
    }
}

/// The result of a request for new tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshAsked {
    /// When it was made; tokens that a job's source returns from here on are answers to it.
    pub at: Timestamp,
    /// Names that match no job. If there are any, no job was asked.
    pub unknown: Vec<String>,
}

/// The runner has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the process is stopping")]
pub struct RunnerStopped;

#[derive(Debug)]
pub(super) enum RunnerCommand {
    Apply(Vec<JobChange>, oneshot::Sender<()>),
    Refresh(Vec<String>, oneshot::Sender<RefreshAsked>),
    Status(Vec<String>, oneshot::Sender<Snapshot>),
}

/// Sends commands to a runner. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<RunnerCommand>,
}

impl Handle {
    pub(super) fn new() -> (Self, mpsc::Receiver<RunnerCommand>) {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        (Self { commands }, receiver)
    }

    /// Applies all these changes in one step.
    ///
    /// # Errors
    ///
    /// The runner has ended.
    pub async fn apply(&self, changes: Vec<JobChange>) -> Result<(), RunnerStopped> {
        self.ask(|reply| RunnerCommand::Apply(changes, reply)).await
    }

    /// Asks the sources of these jobs, by name or `namespace/name`, for new tokens now; no names: of all jobs. If one of the
    /// names matches no job, none is asked.
    ///
    /// # Errors
    ///
    /// The runner has ended.
    pub async fn refresh(&self, jobs: Vec<String>) -> Result<RefreshAsked, RunnerStopped> {
        self.ask(|reply| RunnerCommand::Refresh(jobs, reply)).await
    }

    /// The status of these jobs, by name or `namespace/name`; no names: of all jobs.
    ///
    /// # Errors
    ///
    /// The runner has ended.
    pub async fn status(&self, jobs: Vec<String>) -> Result<Snapshot, RunnerStopped> {
        self.ask(|reply| RunnerCommand::Status(jobs, reply)).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> RunnerCommand,
    ) -> Result<T, RunnerStopped> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| RunnerStopped)?;
        answer.await.map_err(|_| RunnerStopped)
    }
}

//! How others talk to a running runner: providers change its jobs, the control socket and the metrics ask it.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::status::Snapshot;
use crate::model::time::Timestamp;
use crate::model::{Job, JobId, SharedOutput};

/// Commands that wait while the runner is busy; whoever sends more waits.
const COMMANDS: usize = 64;

/// A change to what the runner does.
#[derive(Debug, Clone)]
pub enum JobChange {
    /// Adds the job, or replaces the one with its id. What did not change goes on: another source asks at once, another
    /// policy only re-times, other outputs get the held token.
    Put(Arc<Job>),
    /// Stops the job. What it wrote stays; what is under way ends first.
    Remove(JobId),
    /// Replaces all outputs that jobs share.
    SharedOutputs(Vec<Arc<SharedOutput>>),
}

/// What became of a wish for new tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshAsked {
    /// When; whatever a job's source gives from here on is an answer to the wish.
    pub at: Timestamp,
    /// Names that are no job's. If there are any, no job was asked.
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

/// Talks to a runner. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<RunnerCommand>,
}

impl Handle {
    pub(super) fn new() -> (Self, mpsc::Receiver<RunnerCommand>) {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        (Self { commands }, receiver)
    }

    /// Makes all these changes before anything else happens.
    ///
    /// # Errors
    ///
    /// The runner has ended.
    pub async fn apply(&self, changes: Vec<JobChange>) -> Result<(), RunnerStopped> {
        self.ask(|reply| RunnerCommand::Apply(changes, reply)).await
    }

    /// Asks the sources of these jobs, by name or `namespace/name`, for new tokens now; no names: of all jobs. If one of the names is no
    /// job's, none is asked.
    ///
    /// # Errors
    ///
    /// The runner has ended.
    pub async fn refresh(&self, jobs: Vec<String>) -> Result<RefreshAsked, RunnerStopped> {
        self.ask(|reply| RunnerCommand::Refresh(jobs, reply)).await
    }

    /// Where these jobs stand, by name or `namespace/name`; no names: all jobs.
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

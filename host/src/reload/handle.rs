//! How other tasks ask for a reload, and what became of the last one.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::Plan;
use crate::config::Mistakes;
use crate::model::time::Timestamp;
use crate::runner::RunnerStopped;
use crate::runner::status::ConfigurationStatus;

/// Requests that wait while a configuration is read; further senders wait.
const REQUESTS: usize = 8;

/// What a configuration would change or has changed, or why it cannot be taken into use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReloadAnswer {
    /// What changes.
    Plan(Plan),
    /// It is not taken into use, and the former one goes on.
    Refused(Refusal),
}

/// Why a configuration is refused, as `evertoken check` shows it. Contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// One line for each reason.
    pub lines: String,
    /// The same drawn into the text of the files, for a terminal with line-drawing characters; empty: there is no such text.
    pub drawn: String,
    /// The same for a terminal without.
    pub drawn_in_ascii: String,
    /// Whether the configuration is wrong; else something that it needs could not be read.
    pub is_mistaken: bool,
}

impl From<&Mistakes> for Refusal {
    fn from(mistakes: &Mistakes) -> Self {
        Self {
            lines: mistakes.to_string(),
            drawn: mistakes.drawn(true),
            drawn_in_ascii: mistakes.drawn(false),
            is_mistaken: true,
        }
    }
}

impl Refusal {
    /// Something that the configuration needs could not be read.
    #[must_use]
    pub fn unreadable(message: String) -> Self {
        Self {
            lines: message,
            drawn: String::new(),
            drawn_in_ascii: String::new(),
            is_mistaken: false,
        }
    }
}

/// A request to the task that reloads.
#[derive(Debug)]
pub enum ReloadRequest {
    /// Read the configuration anew and take it into use.
    Reload(oneshot::Sender<ReloadAnswer>),
    /// Compare the configuration in use with this file; none: with its own.
    Compare(Option<PathBuf>, oneshot::Sender<ReloadAnswer>),
}

/// Asks the task that reloads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ReloadHandle {
    requests: mpsc::Sender<ReloadRequest>,
    last: Arc<Mutex<ConfigurationStatus>>,
}

impl ReloadHandle {
    /// A handle, and the requests made with it.
    #[must_use]
    pub fn new(loaded_at: Timestamp) -> (Self, mpsc::Receiver<ReloadRequest>) {
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let last = ConfigurationStatus {
            loaded_at,
            refused: None,
            needs_restart: Vec::new(),
        };
        let handle = Self {
            requests,
            last: Arc::new(Mutex::new(last)),
        };
        (handle, receiver)
    }

    /// Reads the configuration anew and takes it into use.
    ///
    /// # Errors
    /// The process is stopping.
    pub async fn reload(&self) -> Result<ReloadAnswer, RunnerStopped> {
        self.ask(ReloadRequest::Reload).await
    }

    /// Compares the configuration in use with this file, or with its own.
    ///
    /// # Errors
    /// The process is stopping.
    pub async fn compare(&self, path: Option<PathBuf>) -> Result<ReloadAnswer, RunnerStopped> {
        self.ask(|reply| ReloadRequest::Compare(path, reply)).await
    }

    async fn ask(
        &self,
        request: impl FnOnce(oneshot::Sender<ReloadAnswer>) -> ReloadRequest,
    ) -> Result<ReloadAnswer, RunnerStopped> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(request(reply)).await;
        sent.map_err(|_| RunnerStopped)?;
        answer.await.map_err(|_| RunnerStopped)
    }

    /// What became of the last reload.
    #[must_use]
    pub fn status(&self) -> ConfigurationStatus {
        self.last().clone()
    }

    /// Changes what [`Self::status`] says.
    pub fn note(&self, change: impl FnOnce(&mut ConfigurationStatus)) {
        change(&mut self.last());
    }

    fn last(&self) -> MutexGuard<'_, ConfigurationStatus> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

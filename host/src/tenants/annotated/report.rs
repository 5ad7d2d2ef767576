//! What is told of an annotated Secret: a reason in an annotation, and one Event with a message that says what to do.

use serde_json::json;
use zeroize::Zeroizing;

use super::secret::{Problem, READY, REASON};
use crate::kubernetes::watch::ObjectMetadata;
use crate::kubernetes::{ApiCall, Kubernetes, Verb};
use crate::model::failure::Failure;
use crate::model::time::{Clock as _, SystemClock};
use crate::runner::status::{ChainState, FailureStatus, JobState, JobStatus};

/// Bytes of an Event's message: the API server refuses more.
const MESSAGE_MAX_BYTES: usize = 1024;

/// The state of a Secret, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    /// In the form of Kubernetes' conditions.
    pub(super) reason: &'static str,
    message: String,
    is_warning: bool,
}

impl Report {
    /// Of a Secret without a job.
    pub(super) fn of(problem: &Problem) -> Self {
        Self {
            reason: problem.reason(),
            message: problem.to_string(),
            is_warning: *problem != Problem::Suspended,
        }
    }

    /// Writes the annotation, and sends an Event unless one was sent just now.
    ///
    /// # Errors
    /// The annotation cannot be written. An Event that is refused is left out.
    pub(super) async fn send(
        &self,
        kubernetes: &Kubernetes,
        metadata: &ObjectMetadata,
        with_event: bool,
    ) -> Result<(), Failure> {
        let (namespace, name) = &metadata.key;
        // With the token comes its reason.
        let is_written = self.reason == READY
            || metadata.annotations.get(REASON).map(String::as_str) == Some(self.reason);
        if !is_written {
            let mut patch = ApiCall::secret(Verb::Patch, namespace, name);
            patch.content_type = "application/merge-patch+json";
            patch.metadata_only = true;
            patch.query.push(("fieldManager", "evertoken".to_owned()));
            let body =
                json!({"metadata": {"uid": metadata.uid, "annotations": {REASON: self.reason}}});
            patch.body = Zeroizing::new(body.to_string().into_bytes());
            let answer = kubernetes.send(&patch).await?;
            kubernetes.note_own_write(&patch.resource_version(answer)?);
        }
        if with_event {
            let mut call = ApiCall::event(namespace);
            call.body = Zeroizing::new(self.event(metadata).into_bytes());
            if let Err(refusal) = kubernetes.send(&call).await {
                tracing::debug!(error = %Failure::from(refusal), "an Event cannot be created");
            }
        }
        Ok(())
    }

    /// An Event of the core group.
    fn event(&self, metadata: &ObjectMetadata) -> String {
        let (namespace, name) = &metadata.key;
        let now = SystemClock.now().wall.to_string();
        let mut message = self.message.clone();
        message.truncate(message.floor_char_boundary(MESSAGE_MAX_BYTES));
        let kind = if self.is_warning { "Warning" } else { "Normal" };
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": "evertoken-", "namespace": namespace},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Secret",
                "namespace": namespace,
                "name": name,
                "uid": metadata.uid,
                "resourceVersion": metadata.resource_version,
            },
            "reason": self.reason,
            "message": message,
            "type": kind,
            "source": {"component": "evertoken"},
            "reportingComponent": "evertoken",
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        })
        .to_string()
    }
}

/// Of a job; none: nothing is known yet.
pub(super) fn of_status(job: &JobStatus) -> Option<Report> {
    let failure = |failure: Option<&FailureStatus>| {
        let said = failure.map(|failure| failure.message.clone());
        said.unwrap_or_else(|| "the last attempt failed".to_owned())
    };
    let held_back = job.held_back.as_ref().map(|held_back| &held_back.failure);
    let of_source = failure(job.last_failure.as_ref().or(held_back));
    let mut outputs = job
        .outputs
        .iter()
        .filter_map(|output| output.failure.as_ref());
    let (reason, message, is_warning) = match (job.chain, job.state) {
        (Some(ChainState::Dead), _) => (
            "LoginRequired",
            format!(
                "the refresh token is refused; log in again and put the new answer into the Secret. {of_source}"
            ),
            true,
        ),
        (Some(ChainState::NeedsAttention), _) => ("NeedsAttention", of_source, true),
        (_, JobState::Ready | JobState::Retrying) => {
            (READY, "the token is kept fresh".to_owned(), false)
        }
        (_, JobState::Pending | JobState::Publishing) => return None,
        (_, JobState::Failing) => ("RefreshFailed", of_source, true),
        (_, JobState::Unwritten) => ("WriteFailed", failure(outputs.next()), true),
        (_, JobState::Expired) => ("Expired", of_source, true),
    };
    Some(Report {
        reason,
        message,
        is_warning,
    })
}

//! Refreshing on demand: the result reports whether the new tokens are in their outputs, not only that they were requested.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::time::Timestamp;
use crate::runner::status::{JobStatus, OutputState, OutputStatus, Snapshot};
use crate::runner::{Handle, RunnerStopped};

/// How often the status of the jobs is checked.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The result of a request for new tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefreshResult {
    /// Names that match no job. If there are any, no job was asked.
    pub unknown: Vec<String>,
    /// The results by job.
    pub jobs: Vec<RefreshedJob>,
    /// The status of all jobs now.
    pub now: Snapshot,
}

/// The result for a job, whose row has the same position in [`RefreshResult::now`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefreshedJob {
    /// The source returned a valid token, and it is in every output.
    Done,
    /// The source failed, its issuer's circuit breaker is open, or an output cannot be written.
    Failed,
    /// The time was over before either.
    Pending,
}

/// Requests new tokens and waits for at most so long.
pub(super) async fn refresh(
    runner: &Handle,
    jobs: Vec<String>,
    wait: Duration,
) -> Result<RefreshResult, RunnerStopped> {
    let asked = runner.refresh(jobs.clone()).await?;
    let begun = tokio::time::Instant::now();
    loop {
        let now = runner.status(jobs.clone()).await?;
        let results: Vec<RefreshedJob> = now
            .jobs
            .iter()
            .map(|job| result(job, &now, asked.at))
            .collect();
        let is_over = !results.contains(&RefreshedJob::Pending) || begun.elapsed() >= wait;
        if is_over || !asked.unknown.is_empty() {
            return Ok(RefreshResult {
                unknown: asked.unknown,
                jobs: results,
                now,
            });
        }
        tokio::time::sleep(LOOK_EVERY.min(wait)).await;
    }
}

/// The result of a request made at `asked_at` for this job.
fn result(job: &JobStatus, now: &Snapshot, asked_at: Timestamp) -> RefreshedJob {
    let is_since = |at: Timestamp| at >= asked_at;
    let mut outputs = now.outputs_of(job);
    if job
        .last_failure
        .as_ref()
        .is_some_and(|failure| is_since(failure.at))
    {
        RefreshedJob::Failed
    } else if job.last_success.is_some_and(is_since) {
        result_of_outputs(&mut outputs)
    } else if job
        .held_back
        .as_ref()
        .is_some_and(|held| is_since(held.failure.at))
    {
        // Another job probed in its place.
        RefreshedJob::Failed
    } else {
        RefreshedJob::Pending
    }
}

fn result_of_outputs(outputs: &mut dyn Iterator<Item = &OutputStatus>) -> RefreshedJob {
    let mut result = RefreshedJob::Done;
    for output in outputs {
        match output.state {
            OutputState::Failing => return RefreshedJob::Failed,
            OutputState::Writing => result = RefreshedJob::Pending,
            // A shared output waits for another job's token.
            OutputState::Waiting | OutputState::Written => {}
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::JobId;
    use crate::model::failure::FailureKind;
    use crate::refresh::circuit_breaker::Cause;
    use crate::runner::status::{FailureStatus, HeldBack, JobState, SharedStatus};

    const ASKED_AT: Timestamp = Timestamp(1_000_000);

    fn job() -> JobStatus {
        JobStatus {
            id: JobId::file("a"),
            state: JobState::Ready,
            expires_at: None,
            published_expires_at: None,
            next_refresh: None,
            last_success: None,
            attempt: 0,
            last_failure: None,
            held_back: None,
            chain: None,
            compiling: None,
            keep_failure: None,
            next_keep: None,
            outputs: Vec::new(),
        }
    }

    fn failure(at: u64) -> FailureStatus {
        FailureStatus {
            at: Timestamp(at),
            kind: FailureKind::Denied,
            code: None,
            message: "no".to_owned(),
        }
    }

    fn output(state: OutputState) -> OutputStatus {
        OutputStatus {
            destination: "/run/token".to_owned(),
            state,
            failure: None,
            next_try: None,
        }
    }

    #[test]
    fn only_what_came_after_the_wish_is_its_result() {
        use OutputState::{Failing, Waiting, Writing, Written};
        use RefreshedJob::{Done, Failed, Pending};
        let (before, after) = (999_999, 1_000_001);
        let succeeded = |at, outputs: &[OutputState]| JobStatus {
            last_success: Some(Timestamp(at)),
            outputs: outputs.iter().copied().map(output).collect(),
            ..job()
        };
        let failed = |at| JobStatus {
            last_failure: Some(failure(at)),
            last_success: Some(Timestamp(before)),
            ..job()
        };
        let held_back = |at| JobStatus {
            held_back: Some(HeldBack {
                issuer: "https://idp.example.org".to_owned(),
                cause: Cause::IssuerInTrouble,
                since: Timestamp(before),
                failure: failure(at),
            }),
            ..job()
        };
        for (what, job, expected) in [
            ("nothing yet", job(), Pending),
            ("an older token", succeeded(before, &[Written]), Pending),
            ("an older failure", failed(before), Pending),
            ("a failure", failed(after), Failed),
            ("one in the same millisecond", failed(ASKED_AT.0), Failed),
            ("a token", succeeded(after, &[Written, Written]), Done),
            ("a token without outputs", succeeded(after, &[]), Done),
            ("on its way", succeeded(after, &[Written, Writing]), Pending),
            ("not written", succeeded(after, &[Writing, Failing]), Failed),
            (
                "waits for others",
                succeeded(after, &[Written, Waiting]),
                Done,
            ),
            ("issuer in trouble before", held_back(before), Pending),
            ("issuer in trouble now", held_back(after), Failed),
        ] {
            let mut now = Snapshot {
                at: Timestamp(after),
                jobs: Vec::new(),
                shared_outputs: Vec::new(),
                withdrawals: Vec::new(),
                configuration: None,
            };
            assert_eq!(result(&job, &now, ASKED_AT), expected, "{what}");
            if expected != Done {
                continue;
            }
            // A shared output counts for each of its jobs, and for no others.
            for (from, expected) in [("a", Failed), ("b", Done)] {
                now.shared_outputs = vec![SharedStatus {
                    from: vec![JobId::file(from)],
                    output: output(Failing),
                }];
                assert_eq!(result(&job, &now, ASKED_AT), expected, "{what}, shared");
            }
        }
    }
}

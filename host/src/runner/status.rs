//! The status of jobs at a moment, for `evertoken status`, the control socket and the metrics. It contains no secret.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use crate::capability::chain::ChainState;
use crate::model::JobId;
use crate::model::failure::{Code, Failure, FailureKind};
use crate::model::time::{Timestamp, rfc3339};
use crate::refresh::circuit_breaker::{Cause, is_refusal};
pub use crate::refresh::output::OutputState;

/// The status of all jobs at a moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was taken.
    #[serde(with = "rfc3339")]
    pub at: Timestamp,
    /// The jobs, by id.
    pub jobs: Vec<JobStatus>,
    /// Outputs that several jobs share.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_outputs: Vec<SharedStatus>,
    /// Outputs that the configuration has no more and that are being deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withdrawals: Vec<OutputStatus>,
    /// The configuration; none: it cannot change while the process runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConfigurationStatus>,
}

/// The configuration in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// When it was read.
    #[serde(with = "rfc3339")]
    pub loaded_at: Timestamp,
    /// Why a later one was not taken into use; none: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedConfiguration>,
    /// The keys of the file that take effect when the process is started again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs_restart: Vec<String>,
}

/// A configuration that was not taken into use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedConfiguration {
    /// When it was read.
    #[serde(with = "rfc3339")]
    pub at: Timestamp,
    /// One line for each reason.
    pub message: String,
}

impl Snapshot {
    /// The outputs of a job, those that it shares last.
    pub fn outputs_of<'a>(&'a self, job: &'a JobStatus) -> impl Iterator<Item = &'a OutputStatus> {
        let shared = self.shared_outputs.iter();
        let shared = shared.filter(|shared| shared.from.contains(&job.id));
        job.outputs
            .iter()
            .chain(shared.map(|shared| &shared.output))
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its identity.
    pub id: JobId,
    /// Its state.
    pub state: JobState,
    /// When the token that the job holds expires; none: it never does, or there is no token.
    #[serde(
        default,
        with = "rfc3339::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires_at: Option<Timestamp>,
    /// When the token expires that every output last had; none: it never does, or there was none.
    #[serde(
        default,
        with = "rfc3339::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub published_expires_at: Option<Timestamp>,
    /// When its source is asked next; while it is held back, when one of the waiting jobs may probe. None: it is being asked, or
    /// another job probes right now.
    #[serde(
        default,
        with = "rfc3339::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub next_refresh: Option<Timestamp>,
    /// When its source last returned a valid token, also an unchanged one.
    #[serde(
        default,
        with = "rfc3339::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub last_success: Option<Timestamp>,
    /// Failures of the source since then.
    pub attempt: u32,
    /// The source's last failure, until it succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<FailureStatus>,
    /// Why its source is not asked although a refresh is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<HeldBack>,
    /// The plugin that its source or an output waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiling: Option<Compiling>,
    /// The state of the chain of its rotating secrets; none: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<ChainState>,
    /// Why the token could not be stored for a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_failure: Option<FailureStatus>,
    /// When storing it is tried again.
    #[serde(
        default,
        with = "rfc3339::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub next_keep: Option<Timestamp>,
    /// Its outputs, in the order of the configuration.
    pub outputs: Vec<OutputStatus>,
}

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// It waits for its first token.
    Pending,
    /// It has no token yet, and the source fails.
    Failing,
    /// The token is valid and is being written to its outputs.
    Publishing,
    /// The token is valid, but an output, own or shared, cannot be written.
    Unwritten,
    /// The token is valid and in every output.
    Ready,
    /// The same, but the source failed when it was asked for the next one, or waits for its issuer's circuit breaker.
    Retrying,
    /// The token has expired and there is no other yet.
    Expired,
}

impl JobState {
    /// Whether each output has a valid token.
    #[must_use]
    pub const fn is_ready(self) -> bool {
        matches!(self, Self::Ready | Self::Retrying)
    }

    /// Its name in status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Failing => "failing",
            Self::Publishing => "publishing",
            Self::Unwritten => "unwritten",
            Self::Ready => "ready",
            Self::Retrying => "retrying",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An open circuit breaker: of the jobs that ask this issuer as one client, one at a time probes, and the others wait for its
/// answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBack {
    /// The issuer's origin.
    pub issuer: String,
    /// Why it is open.
    pub cause: Cause,
    /// Since when.
    #[serde(with = "rfc3339")]
    pub since: Timestamp,
    /// The last failure, of whichever job.
    pub failure: FailureStatus,
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            Cause::IssuerInTrouble => write!(f, "waits for {}", self.issuer),
            Cause::ClientRefused if is_refusal(self.failure.code.as_ref()) => {
                write!(f, "client refused by {}", self.issuer)
            }
            Cause::ClientRefused => write!(f, "no token endpoint at {}", self.issuer),
        }
    }
}

/// A plugin that is being loaded and, unless it is cached, compiled. Its jobs wait, and nothing has failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compiling {
    /// Its name.
    pub plugin: String,
    /// Since when.
    #[serde(with = "rfc3339")]
    pub since: Timestamp,
}

impl fmt::Display for Compiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plugin, since } = self;
        write!(f, "plugin `{plugin}` is being compiled since {since}")
    }
}

/// A failure and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureStatus {
    /// When.
    #[serde(with = "rfc3339")]
    pub at: Timestamp,
    /// Its kind.
    pub kind: FailureKind,
    /// Stable, for machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// For people.
    pub message: String,
}

impl FailureStatus {
    pub(crate) fn new(failure: Failure, at: Timestamp) -> Self {
        Self {
            at,
            kind: failure.kind,
            code: failure.code,
            message: failure.message,
        }
    }
}

/// An output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputStatus {
    /// The file's path, or `namespace/name/key` of the Secret.
    pub destination: String,
    /// Its state.
    pub state: OutputState,
    /// The last write's failure, until one succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureStatus>,
    /// When the failed write is tried again.
    #[serde(
        default,
        with = "rfc3339::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub next_try: Option<Timestamp>,
}

/// An output that several jobs share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SharedStatus {
    /// The jobs.
    pub from: Vec<JobId>,
    /// The output.
    #[serde(flatten)]
    pub output: OutputStatus,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job_status() -> JobStatus {
        JobStatus {
            id: JobId::file("warehouse"),
            state: JobState::Retrying,
            expires_at: Some(Timestamp(1_700_000_300_000)),
            published_expires_at: None,
            next_refresh: None,
            last_success: Some(Timestamp(1_700_000_000_000)),
            attempt: 2,
            last_failure: Some(FailureStatus::new(
                Failure::new(FailureKind::Denied, "invalid_client", "the issuer refused"),
                Timestamp(1_700_000_001_000),
            )),
            held_back: Some(HeldBack {
                issuer: "https://idp.example.org".to_owned(),
                cause: Cause::IssuerInTrouble,
                since: Timestamp(1_700_000_001_000),
                failure: FailureStatus::new(
                    Failure::new(FailureKind::Unavailable, "http.503", "no"),
                    Timestamp(1_700_000_002_000),
                ),
            }),
            chain: Some(ChainState::InDoubt),
            compiling: None,
            keep_failure: None,
            next_keep: None,
            outputs: vec![OutputStatus {
                destination: "/run/tokens/eos".to_owned(),
                state: OutputState::Written,
                failure: None,
                next_try: None,
            }],
        }
    }

    #[test]
    fn a_snapshot_is_json_that_people_and_machines_read_and_comes_back_the_same() {
        let snapshot = Snapshot {
            at: Timestamp(1_700_000_000_000),
            jobs: vec![job_status()],
            shared_outputs: Vec::new(),
            withdrawals: Vec::new(),
            configuration: None,
        };
        let json = serde_json::to_value(&snapshot).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "at": "2023-11-14T22:13:20Z",
                "jobs": [{
                    "id": {"provider": "file", "namespace": null, "name": "warehouse", "uid": null},
                    "state": "retrying",
                    "expires_at": "2023-11-14T22:18:20Z",
                    "last_success": "2023-11-14T22:13:20Z",
                    "attempt": 2,
                    "last_failure": {
                        "at": "2023-11-14T22:13:21Z",
                        "kind": "denied",
                        "code": "invalid_client",
                        "message": "the issuer refused",
                    },
                    "held_back": {
                        "issuer": "https://idp.example.org",
                        "cause": "issuer-in-trouble",
                        "since": "2023-11-14T22:13:21Z",
                        "failure": {
                            "at": "2023-11-14T22:13:22Z",
                            "kind": "unavailable",
                            "code": "http.503",
                            "message": "no",
                        },
                    },
                    "chain": "in-doubt",
                    "outputs": [{"destination": "/run/tokens/eos", "state": "written"}],
                }],
            })
        );
        assert_eq!(serde_json::from_value::<Snapshot>(json).unwrap(), snapshot);
    }

    /// A plugin, a JWT or a damaged record may contain any number.
    #[test]
    fn a_time_behind_the_last_year_breaks_nobodys_status() {
        for at in [253_402_300_800_000, i64::MAX as u64, u64::MAX] {
            let job = JobStatus {
                expires_at: Some(Timestamp(at)),
                next_refresh: Some(Timestamp(at)),
                ..job_status()
            };
            let json = serde_json::to_string(&job).unwrap();
            let read: JobStatus = serde_json::from_str(&json).unwrap();
            assert!(
                read.expires_at > Some(Timestamp(253_402_000_000_000)),
                "{json}"
            );
        }
    }
}

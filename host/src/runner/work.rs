//! One piece of work, independent of its scheduling: its inputs are collected when it begins, its end is an outcome. All but the
//! loading of plugins, which has limits of its own, has a time limit here, whatever the called component does.

use std::sync::Arc;
use std::time::Duration;

use super::ports::{AcquireContext, Ports, Published, Write};
use crate::capability::{Acquired, NotAcquired};
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::model::token::KeptToken;
use crate::model::{Job, JobId};
use crate::output::Withdrawn;

/// A call of a source is limited by the job's `timeout` where it is made; this much later it is abandoned here, in case that
/// limit failed.
const ACQUIRE_MARGIN: Duration = Duration::from_secs(10);

/// Formatting and writing one output. An API server under load answers within its own 60 s or never.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Reading a job's secrets, each within the 30 s of one request to the API server; they are read again later anyway.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// One read or write of the state store.
const STORE_TIMEOUT: Duration = Duration::from_secs(30);

/// Work with all its inputs.
#[derive(Debug)]
pub(super) enum Task {
    Load(Arc<Job>),
    Acquire(Arc<Job>, AcquireContext),
    Look(Arc<Job>),
    Keep(JobId, Arc<KeptToken>),
    Write(Box<Write>),
    Withdraw(Box<Write>),
    /// Limited by the compiler's own timeout.
    LoadPlugin(Arc<str>, Vec<Arc<Job>>),
}

/// How work ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Loaded(Result<Option<KeptToken>, Failure>),
    Acquired(Result<Acquired, NotAcquired>),
    Looked(Option<[u8; 32]>),
    Kept(Result<(), Failure>),
    Written(Result<Published, Failure>),
    Withdrawn(Result<Withdrawn, Failure>),
    PluginLoaded,
}

impl Task {
    pub(super) async fn run(self, ports: Ports) -> Outcome {
        match self {
            Self::Load(job) => {
                let load = async {
                    ports.acquirer.look_at_chains(&job).await;
                    ports.keeper.token(&job.id).await
                };
                Outcome::Loaded(
                    bounded(&ports, STORE_TIMEOUT, "reading the state store", load).await,
                )
            }
            Self::Acquire(job, call) => {
                let limit = job.source.timeout.saturating_add(ACQUIRE_MARGIN);
                let acquire = ports.acquirer.acquire(&job, call);
                Outcome::Acquired(bounded(&ports, limit, "the call of the source", acquire).await)
            }
            Self::Look(job) => {
                let look = async { Ok::<_, Failure>(ports.acquirer.secrets(&job).await) };
                let looked = bounded(&ports, LOOK_TIMEOUT, "reading secrets", look).await;
                Outcome::Looked(looked.unwrap_or_default())
            }
            Self::Keep(job, token) => {
                let keep = ports.keeper.keep_token(&job, &token);
                Outcome::Kept(bounded(&ports, STORE_TIMEOUT, "writing the state store", keep).await)
            }
            Self::Write(write) => {
                let publish = ports.publisher.publish(&write);
                Outcome::Written(
                    bounded(&ports, WRITE_TIMEOUT, "writing the output", publish).await,
                )
            }
            Self::Withdraw(write) => {
                let withdraw = ports.publisher.withdraw(&write);
                Outcome::Withdrawn(
                    bounded(&ports, WRITE_TIMEOUT, "deleting the output", withdraw).await,
                )
            }
            Self::LoadPlugin(plugin, jobs) => {
                ports.acquirer.load_plugin(&plugin, &jobs).await;
                Outcome::PluginLoaded
            }
        }
    }
}

async fn bounded<T, E: From<Failure>>(
    ports: &Ports,
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::select! {
        biased;
        result = work => result,
        () = ports.timer.sleep(limit) => Err(Failure::new(
            FailureKind::Unavailable,
            HostCode::HostTimeout,
            format!("{what} did not end within {} s", limit.as_secs()),
        )
        .into()),
    }
}

/// The failure of a panic: a bug of ours is one job's failure and must not end the process.
pub(super) fn panicked() -> Failure {
    Failure::new(
        FailureKind::Internal,
        HostCode::HostPanic,
        "a bug in evertoken stopped this piece of work; the log has more, please report it",
    )
}

//! The host's side of the plugin interface: one [`Host`] per process begins the calls.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::call::Call;
use super::chain::{ChainState, Holder};
use super::http::ProxyRules;
use super::journal::{self, Held, Journal};
use super::ports::Settings;
use super::shared::HostInner;
use crate::model::Origin;
use crate::model::failure::FailureKind;
use crate::model::{Job, JobId, SecretOrigin};

/// One per process, shared by all calls; cheap to clone.
#[derive(Clone)]
pub struct Host(pub(super) Arc<HostInner>);

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

impl Host {
    /// Reads the proxy variables of the environment, once.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let ports = Arc::new(settings);
        Self(Arc::new(HostInner {
            proxies: ProxyRules::from_environment(&ports.environment),
            journal: Arc::new(Journal::new(Arc::clone(&ports))),
            ports,
        }))
    }

    /// Begins a call that uses the job's secrets read-only and sends no rotating secret. `endpoints` are the origins of the
    /// fields that the plugin's schema marks as endpoints: requests may go there besides `allow`, and secrets may be sent there
    /// unless they have a `to`.
    #[must_use]
    pub fn call(&self, job: &Arc<Job>, endpoints: &[Origin]) -> Call {
        self.call_holding(job, endpoints, endpoints, Held::default())
    }

    /// Begins a call that holds chains. Requests go to those of the endpoints only that are `present` ones too.
    pub(super) fn call_holding(
        &self,
        job: &Arc<Job>,
        endpoints: &[Origin],
        present: &[Origin],
        held: Held,
    ) -> Call {
        Call::begin(
            Arc::clone(&self.0),
            Arc::clone(job),
            endpoints,
            present,
            held,
        )
    }

    /// Digest of the job's secrets that may change while the process runs; a missing one counts by the reason why it is missing.
    /// None: they cannot be read now.
    pub async fn given_secrets(&self, job: &Arc<Job>) -> Option<[u8; 32]> {
        let call = self.call(job, &[]);
        let mut hash = Sha256::new();
        for (name, secret) in &job.source.secrets {
            if !may_change(&secret.origin) {
                continue;
            }
            match call.given(name).await {
                Ok(digest) => hash.update(digest),
                Err(failure) if failure.kind == FailureKind::Unavailable => return None,
                Err(failure) => hash.update(Sha256::digest(failure.code().unwrap_or_default())),
            }
        }
        Some(hash.finalize().into())
    }

    /// This process as intents name it.
    #[must_use]
    pub fn holder(&self) -> Holder {
        self.0.journal.holder()
    }

    /// The worst state of the chains of a job's rotating secrets; none: none was read so far, or the job has none.
    #[must_use]
    pub fn chain_state(&self, job: &JobId) -> Option<ChainState> {
        self.0.journal.state_of(job)
    }

    /// Reads the states of the chains of a job's rotating secrets, for [`Self::chain_state`].
    pub async fn look_at_chains(&self, job: &Job) {
        journal::look(&self.0.journal, job).await;
    }

    /// Waits for requests with rotating secrets that are under way, for a limited time of which `passed` is over. No call should
    /// begin any more.
    pub async fn drain(&self, passed: Duration) {
        self.0.journal.drain(passed).await;
        journal::put_all_at_the_end(&self.0.journal).await;
    }
}

/// Whether the value may be changed from outside while this process runs. A requested token is new each time, and a change of
/// another job's token is reported separately.
const fn may_change(origin: &SecretOrigin) -> bool {
    matches!(
        origin,
        SecretOrigin::File(_)
            | SecretOrigin::FileMember { .. }
            | SecretOrigin::KubernetesSecret { .. }
    )
}

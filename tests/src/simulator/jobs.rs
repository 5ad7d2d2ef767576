//! The jobs of a run in the form of a configuration.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use evertoken::model::Policy;
use evertoken::model::{
    Destination, FileDestination, Job, JobId, Limits, OnRemove, Output, PluginLimits,
    RetryUnanswered, Secret, SecretOrigin, Source, Tls,
};
use serde_json::{Value as Json, json};

use super::source::{CLIENT_SECRET, REFRESH_TOKEN};
use super::world::Facts;

/// The defaults of `limits`.
pub const LIMITS: Limits = Limits {
    concurrency: 64,
    in_flight_per_origin: 16,
    plugin: PluginLimits {
        memory_bytes: 16 << 20,
        requests: 16,
        response_bytes: 1 << 20,
        artifact_bytes: 1 << 20,
        log_lines: 100,
        compile_time: Duration::from_secs(600),
    },
};

/// The shortest interval at which outputs are verified, and the interval for short-lived tokens: long runs would do little else.
const VERIFY_LEAST: Duration = Duration::from_secs(600);

/// All jobs with their current configuration.
#[must_use]
pub fn all(facts: &Facts) -> Vec<Arc<Job>> {
    (0..facts.jobs.len())
        .filter_map(|index| one(facts, index))
        .map(Arc::new)
        .collect()
}

/// How often the outputs of a job are verified.
pub fn verify(job: &super::world::Job) -> Duration {
    (job.life / 2).max(VERIFY_LEAST)
}

/// A job with its current configuration.
#[must_use]
pub fn one(facts: &Facts, index: usize) -> Option<Job> {
    let job = facts.jobs.get(index)?;
    let issuer = job.plan.issuer;
    let (name, secret) = match job.plan.login {
        Some(login) => (
            REFRESH_TOKEN,
            secret(format!("login-{login}"), true, job.plan.writes_back),
        ),
        None => (
            CLIENT_SECRET,
            secret(format!("client-{index}"), false, false),
        ),
    };
    let outputs = (0..job.plan.outputs).map(|output| self::output(&path(index, output)));
    let mut outputs: Vec<Output> = outputs.collect();
    if job.is_reordered {
        outputs.reverse();
    }
    Some(Job {
        id: id(index, job.renamed),
        source: Source {
            plugin: "oauth2".to_owned(),
            config: json!({
                "token_url": format!("https://i{issuer}.example/token"),
                "user_url": format!("https://i{issuer}.example/userinfo"),
                "client_id": job.client,
                "scope": format!("read-{}", job.reconfigured),
                "job": index,
            }),
            secrets: [(name.to_owned(), secret)].into_iter().collect(),
            allow: Vec::new(),
            allow_addresses: Vec::new(),
            reveal: BTreeSet::new(),
            tls: Tls::default(),
            proxy: None,
            timeout: Duration::from_secs(30),
        },
        refresh: Policy {
            at: if job.is_retimed { 0.75 } else { 0.8 },
            before_expiry: Duration::from_secs(90),
            every: Duration::from_secs(86_400),
            jitter: Duration::from_secs(10),
            default_lifetime: Duration::from_secs(3600),
        },
        verify: verify(job),
        outputs,
        on_remove: OnRemove::Delete,
        profile: None,
    })
}

/// A job's identity after so many renamings.
#[must_use]
pub fn id(index: usize, renamed: u32) -> JobId {
    JobId::file(format!("job{index}-{renamed}"))
}

fn secret(name: String, rotating: bool, write_back: bool) -> Secret {
    Secret {
        origin: SecretOrigin::KubernetesSecret {
            namespace: "default".to_owned(),
            name,
            key: "value".to_owned(),
            pointer: None,
        },
        rotating,
        retry_unanswered: RetryUnanswered::AtOnce,
        write_back,
        to: None,
    }
}

fn output(path: &str) -> Output {
    Output {
        destination: Destination::File(FileDestination {
            path: path.into(),
            mode: 0o400,
            owner: None,
            group: None,
            replace: Default::default(),
        }),
        format: None,
    }
}

/// The path of a job's output.
#[must_use]
pub fn path(index: usize, output: usize) -> String {
    format!("/job/{index}/{output}")
}

/// The job of an output.
#[must_use]
pub fn index_of_path(path: &str) -> usize {
    let index = path.split('/').nth(2).and_then(|index| index.parse().ok());
    index.unwrap_or_default()
}

/// The index of a job, whatever its name.
#[must_use]
pub fn index(job: &Job) -> usize {
    let index = job.source.config.get("job").and_then(Json::as_u64);
    index
        .and_then(|index| usize::try_from(index).ok())
        .unwrap_or_default()
}

//! The ports of a process besides disk and network: the source of its tokens, outputs, configured secrets, time, random numbers.
//! Each operation passes the process's [`Life`], where it may be killed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use evertoken::capability::chain::ChainState;
use evertoken::capability::secrets::WriteBack;
use evertoken::capability::{Acquired, ClusterSecrets, NotAcquired, TokenSource};
use evertoken::model::failure::{Failure, FailureKind};
use evertoken::model::token::{Artifact, NamedToken};
use evertoken::model::{Destination, Format, Job, Origin, SecretOrigin};
use evertoken::output::{Publication, Withdrawn, Written};
use evertoken::runner::live::{Components, Live, Sinks};
use evertoken::runner::ports::{
    AcquireContext, Acquirer, ConcurrencyKey, Issuer, RandomSource, Timer,
};
use fastrand::Rng;
use futures_core::future::BoxFuture;
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use serde_json::Value as Json;

use super::jobs;
use super::life::Life;
use super::operator;
use super::scenario::{Part, Step};
use super::source::{self, OAuth2};
use super::time::MachineClock;
use super::world::World;
use crate::lock;

/// The longest duration of writing an output in milliseconds.
const WRITE_MS: u64 = 50;

/// The back-off after failures that need a correction.
const LADDER_S: [u64; 5] = [10, 60, 300, 900, 3600];

/// The longest back-off after a bug in a job that never had a token.
const LONGEST_BUG: Duration = Duration::from_secs(300);

/// The plugin, as [`OAuth2`] models it. No output has a format here.
#[derive(Debug)]
pub struct Models(pub Arc<World>);

impl Components for Models {
    fn is_loaded(&self, _: &str) -> bool {
        true
    }

    fn is_judged(&self, _: &str, _: &Json) -> bool {
        true
    }

    fn load<'a>(&'a self, _: &'a str, _: Vec<&'a Json>) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn endpoints(&self, _: &str, config: &Json) -> Option<Arc<[Origin]>> {
        Some(source::endpoints(config))
    }

    fn source<'a>(
        &'a self,
        job: &'a Job,
        _: AcquireContext,
    ) -> BoxFuture<'a, Result<Box<dyn TokenSource + 'a>, Failure>> {
        let source = OAuth2 {
            world: Arc::clone(&self.0),
            job: jobs::index(job),
        };
        Box::pin(async { Ok(Box::new(source) as Box<dyn TokenSource>) })
    }

    fn format<'a>(
        &'a self,
        format: &'a Format,
        _: &'a [NamedToken],
    ) -> BoxFuture<'a, Result<Vec<Artifact>, Failure>> {
        let why = format!("there is no model of the formatter `{}`", format.plugin);
        Box::pin(async { Err(Failure::new(FailureKind::Internal, "plugin.model", why)) })
    }
}

/// Calls sources as the host does, and records the results.
pub struct Sources {
    /// The state of the run.
    pub world: Arc<World>,
    /// The host.
    pub live: Arc<Live>,
}

impl Acquirer for Sources {
    fn concurrency_key(&self, job: &Job) -> ConcurrencyKey {
        Acquirer::concurrency_key(&*self.live, job)
    }

    fn issuer(&self, job: &Job) -> Option<Issuer> {
        self.live.issuer(job)
    }

    fn secrets<'a>(&'a self, job: &'a Arc<Job>) -> BoxFuture<'a, Option<[u8; 32]>> {
        self.live.secrets(job)
    }

    fn chain_state(&self, job: &Job) -> Option<ChainState> {
        self.live.chain_state(job)
    }

    fn look_at_chains<'a>(&'a self, job: &'a Arc<Job>) -> BoxFuture<'a, ()> {
        self.live.look_at_chains(job)
    }

    fn acquire<'a>(
        &'a self,
        job: &'a Arc<Job>,
        context: AcquireContext,
    ) -> BoxFuture<'a, Result<Acquired, NotAcquired>> {
        Box::pin(async move {
            let index = jobs::index(job);
            let result = self.live.acquire(job, context).await;
            match &result {
                Ok(_) => self.succeeded(index),
                Err(not) => self.failed(index, &not.failure),
            }
            result
        })
    }
}

impl Sources {
    fn succeeded(&self, index: usize) {
        let now = self.world.time.now();
        let mut facts = self.world.facts();
        facts.count("refreshes");
        facts.note(now, format_args!("job {index} has a token"));
        facts.is_served(index);
        if let Some(job) = facts.jobs.get_mut(index) {
            job.denials = 0;
            job.had_one = true;
            if let Some(login) = job.plan.login
                && let Some(login) = facts.logins.get_mut(login)
            {
                login.is_garbled = false;
            }
        }
    }

    /// The back-off that follows is excused; the failure must have a reason.
    fn failed(&self, index: usize, failure: &Failure) {
        let now = self.world.time.now();
        let mut facts = self.world.facts();
        let code = failure.code().unwrap_or_default();
        facts.count("failures");
        facts.note(
            now,
            format_args!(
                "job {index} failed: {} {code}: {}",
                failure.kind, failure.message
            ),
        );
        let is_shared = self.world.scenario.processes > 1
            && matches!(code, "chain.in-use" | "chain.changed" | "chain.busy");
        if !is_shared && !facts.has_reason(index, now) {
            facts.violated(
                now,
                format!("job {index} failed with {code} although nothing was in its way"),
            );
        }
        if failure.kind == FailureKind::Internal {
            // An issuer with unreadable answers is not unavailable.
            facts.is_served(index);
        }
        let wait = match failure.kind {
            FailureKind::Denied | FailureKind::InvalidConfig => {
                let denials = facts.jobs.get_mut(index).map_or(0, |job| {
                    job.denials += 1;
                    job.denials
                });
                scheduled_wait(denials)
            }
            FailureKind::Internal if facts.jobs.get(index).is_some_and(|job| !job.had_one) => {
                LONGEST_BUG
            }
            _ => Duration::ZERO,
        };
        let wait = wait.max(failure.retry_after.unwrap_or_default());
        if facts.has_reason(index, now) {
            facts.hinder(index, now, now + wait, "a failure");
        }
        if !facts.could_have_one(index) {
            operator::call(&self.world, &mut facts, index);
        }
    }
}

/// The back-off after so many consecutive failures that need a correction.
fn scheduled_wait(denials: u32) -> Duration {
    let rung = usize::try_from(denials.saturating_sub(1)).unwrap_or(usize::MAX);
    let [.., last] = LADDER_S;
    Duration::from_secs(LADDER_S.get(rung).copied().unwrap_or(last))
}

/// Writes outputs atomically.
#[derive(Debug)]
pub struct Outputs {
    /// The state of the run.
    pub world: Arc<World>,
    /// The process that writes.
    pub life: Arc<Life>,
    /// The writer's clock.
    pub clock: Arc<MachineClock>,
}

impl Sinks for Outputs {
    fn write<'a>(
        &'a self,
        destination: &'a Destination,
        publication: Publication<'a>,
        _: bool,
    ) -> BoxFuture<'a, Result<Written, Failure>> {
        Box::pin(self.life.step(Step::Publish, async move {
            let milliseconds = self.world.facts().rng.u64(1..WRITE_MS);
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            // If the process is killed meanwhile, the output is unchanged.
            self.life
                .at(super::life::Taken::default(), super::scenario::Edge::Before)
                .await;
            self.put(destination, &publication)
        }))
    }

    fn withdraw<'a>(
        &'a self,
        destination: &'a Destination,
        publication: Publication<'a>,
    ) -> BoxFuture<'a, Result<Withdrawn, Failure>> {
        Box::pin(self.life.step(Step::Publish, async move {
            let milliseconds = self.world.facts().rng.u64(1..WRITE_MS);
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            Ok(self.delete(destination, &publication))
        }))
    }
}

impl Outputs {
    fn delete(&self, destination: &Destination, publication: &Publication<'_>) -> Withdrawn {
        let now = self.world.time.now();
        let mut facts = self.world.facts();
        let path = destination.to_string();
        let is_ours = |held: &String| {
            let mut artifacts = publication.artifacts.iter();
            artifacts.any(|artifact| artifact.content.expose_secret() == held.as_bytes())
        };
        match facts.outputs.get(&path).map(is_ours) {
            None => return Withdrawn::Gone,
            Some(false) => return Withdrawn::Foreign,
            Some(true) => {}
        }
        facts.count("outputs deleted");
        facts.note(now, format_args!("start {} deletes {path}", self.life.id));
        facts.outputs.remove(&path);
        Withdrawn::Deleted
    }

    fn put(
        &self,
        destination: &Destination,
        publication: &Publication<'_>,
    ) -> Result<Written, Failure> {
        let now = self.world.time.now();
        let mut facts = self.world.facts();
        let path = destination.to_string();
        let index = jobs::index_of_path(&path);
        if facts.strikes(now, |part| part == Part::Outputs).is_some() {
            facts.excuse(
                index,
                now,
                now + Duration::from_secs(310),
                "an output that could not be written",
            );
            return Err(failure("kubernetes.unavailable"));
        }
        let [artifact] = publication.artifacts else {
            return Ok(Written::Unchanged);
        };
        let value = String::from_utf8_lossy(artifact.content.expose_secret());
        if facts.outputs.get(&path).is_some_and(|held| *held == value) {
            return Ok(Written::Unchanged);
        }
        facts.count("writes");
        facts.note(
            now,
            format_args!("start {} writes {value} to {path}", self.life.id),
        );
        facts.published(index, path, &value, self.clock.off_by());
        Ok(Written::Changed)
    }
}

/// The Secrets where refresh tokens and client secrets are configured.
#[derive(Debug)]
pub struct Secrets {
    /// The state of the run.
    pub world: Arc<World>,
    /// The process that reads.
    pub life: Arc<Life>,
}

impl ClusterSecrets for Secrets {
    fn get_secret_key<'a>(
        &'a self,
        _: &'a str,
        name: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<SecretSlice<u8>, Failure>> {
        Box::pin(self.life.step(Step::Secret, async move {
            let now = self.world.time.now();
            let mut facts = self.world.facts();
            if facts.strikes(now, |part| part == Part::Secrets).is_some() {
                facts.hinder_all(now, now, "a secret that could not be read");
                return Err(failure("kubernetes.unavailable"));
            }
            let value = match login(name).and_then(|login| facts.logins.get(login)) {
                Some(login) => login.configured.clone(),
                None => "a client's secret".to_owned(),
            };
            Ok(value.into_bytes().into())
        }))
    }

    fn request_token<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: &'a [String],
        _: Duration,
    ) -> BoxFuture<'a, Result<SecretString, Failure>> {
        Box::pin(async { Err(failure("kubernetes.model")) })
    }
}

impl WriteBack for Secrets {
    fn prove<'a>(&'a self, _: &'a SecretOrigin) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }

    fn replace<'a>(
        &'a self,
        origin: &'a SecretOrigin,
        spent: &'a [u8],
        next: &'a [u8],
    ) -> BoxFuture<'a, Result<bool, Failure>> {
        Box::pin(self.life.step(Step::Secret, async move {
            let now = self.world.time.now();
            let mut facts = self.world.facts();
            if facts.strikes(now, |part| part == Part::Secrets).is_some() {
                return Err(failure("kubernetes.unavailable"));
            }
            let SecretOrigin::KubernetesSecret { name, .. } = origin else {
                return Ok(false);
            };
            let Some(login) = login(name).and_then(|login| facts.logins.get_mut(login)) else {
                return Ok(false);
            };
            let is_there = login.configured.as_bytes() == spent;
            if is_there {
                login.configured = String::from_utf8_lossy(next).into_owned();
                facts.note(now, format_args!("the newest value of {name} is put back"));
            }
            Ok(is_there)
        }))
    }
}

/// The login of a Secret.
fn login(secret: &str) -> Option<usize> {
    secret.strip_prefix("login-")?.parse().ok()
}

fn failure(code: &str) -> Failure {
    Failure::new(FailureKind::Unavailable, code, "the model's cluster fails")
}

/// Tokio's timer, which is virtual here; a killed process never wakes.
#[derive(Debug)]
pub struct Sleeps(pub Arc<Life>);

impl Timer for Sleeps {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let life = Arc::clone(&self.0);
        Box::pin(async move {
            let taken = life.before(Step::Timer).await;
            tokio::time::sleep(duration).await;
            life.at(taken, super::scenario::Edge::Midway).await;
            life.at(taken, super::scenario::Edge::After).await;
        })
    }
}

/// Deterministic random numbers.
#[derive(Debug)]
pub struct Dice(pub Mutex<Rng>);

impl RandomSource for Dice {
    fn sample(&self) -> f64 {
        lock(&self.0).f64()
    }
}

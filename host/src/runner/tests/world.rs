//! Test ports for the runner: an issuer with a plan per job, outputs that record what consumers saw, a store.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_core::future::BoxFuture;
use litemap::LiteMap;
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use super::virtual_time::VirtualTime;
use crate::capability::chain::{ChainId, ChainState};
use crate::capability::keep::{ChainChange, FoundChain, Keeper, Revision, StoredChain};
use crate::capability::{Acquired, NotAcquired};
use crate::model::Policy;
use crate::model::failure::{Failure, FailureKind};
use crate::model::time::{Clock, Timestamp};
use crate::model::token::{Expiry, KeptToken, Token};
use crate::model::{
    Destination, FileDestination, Job, JobId, Limits, OnRemove, Output, PluginLimits,
    RetryUnanswered, Secret, SecretOrigin, Source, Tls,
};
use crate::output::Withdrawn;
use crate::runner::metrics::Metrics;
use crate::runner::ports::{
    AcquireContext, Acquirer, ConcurrencyKey, Issuer, Ports, Published, Publisher, RandomSource,
    Write, WriteOutcome as Wrote,
};
use crate::runner::{Handle, JobChange, Runner, source_hash};

/// What a path holds after its output was deleted.
pub(crate) const DELETED: &str = "(deleted)";

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The issuer's behaviour for a job.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) origin: &'static str,
    /// The plugin that requests it; none: one without a concurrency key of its own, so that only the origin counts.
    pub(crate) plugin: Option<&'static str>,
    /// The job's client at its issuer; none: one of its own.
    pub(crate) client: Option<u8>,
    pub(crate) life: Duration,
    pub(crate) takes: Duration,
    /// Another duration of calls, as of now.
    pub(crate) slow: Arc<dyn Fn() -> Option<Duration> + Send + Sync>,
    /// The life of the rotating secret that comes with each token.
    pub(crate) rotating_life: Option<Duration>,
    /// Whether a call that fails asked for a request.
    pub(crate) asked: Option<bool>,
    /// The failure of the nth call (from 0).
    pub(crate) fails: Arc<dyn Fn(u64) -> Option<Failure> + Send + Sync>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            origin: "https://issuer",
            plugin: None,
            client: None,
            life: Duration::from_secs(300),
            takes: Duration::from_millis(50),
            slow: Arc::new(|| None),
            rotating_life: None,
            asked: None,
            fails: Arc::new(|_| None),
        }
    }
}

/// A call of the issuer.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) job: String,
    pub(crate) at: Duration,
    pub(crate) call: AcquireContext,
}

/// The content of an output, and since when.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Held {
    pub(crate) value: String,
    pub(crate) since: Duration,
}

#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) plans: HashMap<String, Plan>,
    pub(crate) asked: Vec<Asked>,
    /// The number of calls, by job.
    calls: HashMap<String, u64>,
    pub(crate) in_flight: usize,
    pub(crate) most_in_flight: usize,
    /// By path; the newest last.
    pub(crate) written: BTreeMap<String, Vec<Held>>,
    pub(crate) write_calls: usize,
    /// How long a write to this path takes.
    pub(crate) write_takes: HashMap<String, Duration>,
    /// The failure of writes to this path.
    pub(crate) write_fails: HashMap<String, Failure>,
    /// The digest of all jobs' secrets; none: they cannot be read.
    pub(crate) secrets: Option<[u8; 32]>,
    /// The stored states of chains, by job.
    pub(crate) chains: HashMap<String, ChainState>,
    /// Plugins that must be loaded: how long that takes, and whether it succeeds. All others are loaded.
    pub(crate) to_load: HashMap<String, (Duration, bool)>,
    /// Jobs whose plugin did not read yet what they want of it.
    pub(crate) unjudged: HashSet<String>,
    /// Plugins that were loaded or failed to, in the order in which that began.
    pub(crate) loads: Vec<String>,
    /// Tokens in the store.
    pub(crate) store: HashMap<JobId, KeptToken>,
    pub(crate) store_fails: bool,
    /// How far all issuers' clocks are ahead.
    pub(crate) ahead_ms: i64,
    /// By token value: when it really expires.
    pub(crate) deaths: HashMap<String, Duration>,
    /// Whether only the last call and write of each are recorded, for long runs.
    is_forgetful: bool,
}

#[derive(Clone, Default)]
pub(crate) struct World {
    pub(crate) time: VirtualTime,
    facts: Arc<Mutex<Facts>>,
}

impl World {
    /// A world that records no history.
    pub(crate) fn forgetful() -> Self {
        let world = Self::default();
        world.facts().is_forgetful = true;
        world
    }

    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap()
    }

    pub(crate) fn plan(&self, job: &str, plan: Plan) {
        self.facts().plans.insert(job.to_owned(), plan);
    }

    fn plan_of(&self, job: &str) -> Plan {
        self.facts().plans.get(job).cloned().unwrap_or_default()
    }

    /// When the issuer was asked for this job.
    pub(crate) fn asked(&self, job: &str) -> Vec<Duration> {
        let facts = self.facts();
        let asked = facts.asked.iter().filter(|asked| asked.job == job);
        asked.map(|asked| asked.at).collect()
    }

    /// What was written to a path, in its order.
    pub(crate) fn written(&self, path: &str) -> Vec<String> {
        let facts = self.facts();
        let held = facts.written.get(path).into_iter().flatten();
        held.map(|held| held.value.clone()).collect()
    }

    pub(crate) fn ports(&self) -> Ports {
        Ports {
            acquirer: Arc::new(self.clone()),
            publisher: Arc::new(self.clone()),
            keeper: Arc::new(self.clone()),
            clock: Arc::new(self.time.clone()),
            timer: Arc::new(self.time.clone()),
            random: Arc::new(Seeded(Mutex::new(fastrand::Rng::with_seed(7)))),
        }
    }

    pub(crate) fn runner(&self, limits: &Limits) -> (Runner, Handle, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        let (runner, handle) = Runner::new(self.ports(), limits, Arc::clone(&metrics));
        (runner, handle, metrics)
    }

    /// Starts a runner with these jobs.
    pub(crate) async fn start(&self, jobs: Vec<Job>) -> Started {
        self.start_within(&limits(64, 16), jobs).await
    }

    pub(crate) async fn start_within(&self, limits: &Limits, jobs: Vec<Job>) -> Started {
        let (runner, handle, metrics) = self.runner(limits);
        let stop = CancellationToken::new();
        let task = tokio::spawn(runner.run(stop.clone()));
        handle.apply(put(jobs)).await.unwrap();
        Started {
            handle,
            stop,
            task,
            metrics,
        }
    }
}

pub(crate) struct Started {
    pub(crate) handle: Handle,
    pub(crate) stop: CancellationToken,
    pub(crate) task: tokio::task::JoinHandle<()>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Started {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

pub(crate) fn put(jobs: Vec<Job>) -> Vec<JobChange> {
    jobs.into_iter()
        .map(|job| JobChange::Put(Arc::new(job)))
        .collect()
}

pub(crate) const fn limits(concurrency: usize, in_flight_per_origin: usize) -> Limits {
    Limits {
        concurrency,
        in_flight_per_origin,
        plugin: PluginLimits {
            memory_bytes: 0,
            requests: 0,
            response_bytes: 0,
            artifact_bytes: 0,
            log_lines: 0,
            compile_time: Duration::ZERO,
        },
    }
}

/// A job with one output, the file of its name.
pub(crate) fn job(name: &str) -> Job {
    Job {
        id: JobId::file(name),
        source: Source {
            plugin: "model".to_owned(),
            config: serde_json::Value::Null,
            secrets: LiteMap::new(),
            allow: Vec::new(),
            allow_addresses: Vec::new(),
            reveal: std::collections::BTreeSet::new(),
            tls: Tls::default(),
            proxy: None,
            timeout: Duration::from_secs(30),
        },
        refresh: Policy {
            at: 0.8,
            before_expiry: Duration::from_secs(90),
            every: Duration::from_secs(86_400),
            jitter: Duration::from_secs(10),
            default_lifetime: Duration::from_secs(3600),
        },
        verify: Duration::from_secs(600),
        outputs: vec![output(name)],
        on_remove: OnRemove::Keep,
        profile: None,
    }
}

pub(crate) fn output(path: &str) -> Output {
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

/// A job with a rotating secret.
pub(crate) fn rotating(name: &str) -> Job {
    let mut job = job(name);
    let secret = Secret {
        origin: SecretOrigin::Env("RT".to_owned()),
        rotating: true,
        retry_unanswered: RetryUnanswered::default(),
        write_back: false,
        to: None,
    };
    let secrets = &mut job.source.secrets;
    secrets.insert("rt".to_owned(), secret);
    job
}

pub(crate) fn failure(kind: FailureKind) -> Failure {
    Failure::new(kind, "model", "the model fails")
}

pub(crate) fn path(output: &Output) -> String {
    match &output.destination {
        Destination::File(file) => file.path.display().to_string(),
        Destination::Secret(_) => unreachable!("the model writes files"),
    }
}

impl Acquirer for World {
    fn concurrency_key(&self, job: &Job) -> ConcurrencyKey {
        let Plan { origin, plugin, .. } = self.plan_of(&job.id.name);
        plugin.map_or_else(
            || ConcurrencyKey::Remote(origin.into()).behind(&job.source.plugin),
            |plugin| ConcurrencyKey::Local.behind(plugin),
        )
    }

    fn is_loaded(&self, plugin: &str) -> bool {
        !self.facts().to_load.contains_key(plugin)
    }

    fn is_judged(&self, job: &Job) -> bool {
        !self.facts().unjudged.contains(&job.id.name)
    }

    fn load_plugin<'a>(&'a self, plugin: &'a str, jobs: &'a [Arc<Job>]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.facts().loads.push(plugin.to_owned());
            let (takes, succeeds) = self
                .facts()
                .to_load
                .get(plugin)
                .copied()
                .unwrap_or_default();
            self.time.wait(takes).await;
            if succeeds {
                self.facts().to_load.remove(plugin);
            }
            for job in jobs {
                assert_eq!(job.source.plugin, plugin);
                self.facts().unjudged.remove(&job.id.name);
            }
        })
    }

    fn issuer(&self, job: &Job) -> Option<Issuer> {
        let plan = self.plan_of(&job.id.name);
        let mut client = [plan.client.unwrap_or_default(); 32];
        if plan.client.is_none() {
            for (to, from) in client.iter_mut().zip(job.id.name.bytes()) {
                *to = from;
            }
        }
        Some(Issuer {
            origin: plan.origin.into(),
            client,
        })
    }

    fn chain_state(&self, job: &Job) -> Option<ChainState> {
        self.facts().chains.get(&job.id.name).copied()
    }

    fn secrets<'a>(&'a self, _: &'a Arc<Job>) -> BoxFuture<'a, Option<[u8; 32]>> {
        Box::pin(async { self.facts().secrets })
    }

    fn acquire<'a>(
        &'a self,
        job: &'a Arc<Job>,
        call: AcquireContext,
    ) -> BoxFuture<'a, Result<Acquired, NotAcquired>> {
        let name = job.id.name.clone();
        Box::pin(async move {
            let (plan, nth) = {
                let mut facts = self.facts();
                let calls = facts.calls.entry(name.clone()).or_default();
                let nth = *calls;
                *calls += 1;
                if facts.is_forgetful {
                    facts.asked.clear();
                    facts.deaths.clear();
                }
                facts.asked.push(Asked {
                    job: name.clone(),
                    at: self.time.passed(),
                    call,
                });
                facts.in_flight += 1;
                facts.most_in_flight = facts.most_in_flight.max(facts.in_flight);
                (facts.plans.get(&name).cloned().unwrap_or_default(), nth)
            };
            let guard = InFlight(self.clone());
            let sent = self.time.now().wall;
            let takes = (plan.slow)().unwrap_or(plan.takes);
            self.time.wait(takes).await;
            drop(guard);
            if let Some(failure) = (plan.fails)(nth) {
                return Err(NotAcquired {
                    failure,
                    asked: plan.asked,
                    issuer_ahead_ms: Some(self.facts().ahead_ms),
                });
            }
            let value = format!("{name}.{nth}");
            let expires_at = self.time.passed() + plan.life;
            self.facts().deaths.insert(value.clone(), expires_at);
            Ok(Acquired {
                token: token(&value, Expiry::At(sent.after(plan.life))),
                obtained_at: sent,
                rotating_expires_at: plan.rotating_life.map(|life| sent.after(life)),
                issuer_ahead_ms: Some(self.facts().ahead_ms),
            })
        })
    }
}

struct InFlight(World);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.facts().in_flight -= 1;
    }
}

pub(crate) fn token(value: &str, expiry: Expiry) -> Token {
    Token {
        value: value.into(),
        token_type: "Bearer".to_owned(),
        expiry,
        fields: Vec::new(),
    }
}

pub(crate) fn kept(value: &str, obtained_at: Timestamp, expires_at: Timestamp) -> KeptToken {
    KeptToken {
        token: token(value, Expiry::At(expires_at)),
        obtained_at,
        expires_at: Some(expires_at),
        rotating_expires_at: None,
        source_hash: source_hash(&job(value)),
    }
}

impl Publisher for World {
    fn concurrency_key(&self, output: &Output) -> ConcurrencyKey {
        match &output.format {
            Some(format) => ConcurrencyKey::Local.behind(&format.plugin),
            None => ConcurrencyKey::Local,
        }
    }

    fn publish<'a>(&'a self, write: &'a Write) -> BoxFuture<'a, Result<Published, Failure>> {
        let path = path(&write.output);
        let values: Vec<_> = write
            .tokens
            .iter()
            .map(|token| token.kept.token.value.expose_secret().to_owned())
            .collect();
        Box::pin(async move {
            self.facts().write_calls += 1;
            let takes = self.facts().write_takes.get(&path).copied();
            self.time.wait(takes.unwrap_or_default()).await;
            let mut facts = self.facts();
            if let Some(failure) = facts.write_fails.get(&path) {
                return Err(failure.clone());
            }
            let held = Held {
                value: values.join(","),
                since: self.time.passed(),
            };
            let is_forgetful = facts.is_forgetful;
            let history = facts.written.entry(path).or_default();
            if history.last().is_some_and(|last| last.value == held.value) {
                return Ok(Wrote::Unchanged.into());
            }
            if is_forgetful {
                history.clear();
            }
            history.push(held);
            Ok(Wrote::Written.into())
        })
    }

    fn withdraw<'a>(&'a self, write: &'a Write) -> BoxFuture<'a, Result<Withdrawn, Failure>> {
        let path = path(&write.output);
        Box::pin(async move {
            let takes = self.facts().write_takes.get(&path).copied();
            self.time.wait(takes.unwrap_or_default()).await;
            let since = self.time.passed();
            let mut facts = self.facts();
            if let Some(failure) = facts.write_fails.get(&path) {
                return Err(failure.clone());
            }
            let Some(history) = facts.written.get_mut(&path) else {
                return Ok(Withdrawn::Gone);
            };
            let value = DELETED.to_owned();
            history.push(Held { value, since });
            Ok(Withdrawn::Deleted)
        })
    }
}

impl Keeper for World {
    fn plugin_value<'a>(
        &'a self,
        _: &'a JobId,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, Failure>> {
        unreachable!("the runner caches nothing for plugins")
    }

    fn set_plugin_value<'a>(
        &'a self,
        _: &'a JobId,
        _: &'a str,
        _: &'a [u8],
    ) -> BoxFuture<'a, Result<(), Failure>> {
        unreachable!("the runner caches nothing for plugins")
    }

    fn is_exclusive(&self) -> bool {
        true
    }

    fn outlives_process(&self) -> bool {
        true
    }

    fn chain_id(&self, _: &JobId, _: &[u8]) -> ChainId {
        unreachable!("the runner knows no rotating secrets")
    }

    fn find_chain<'a>(
        &'a self,
        _: &'a JobId,
        _: &'a str,
        _: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<Option<FoundChain>, Failure>> {
        unreachable!("the runner knows no rotating secrets")
    }

    fn chain(&self, _: ChainId) -> BoxFuture<'_, Result<Option<StoredChain>, Failure>> {
        unreachable!("the runner knows no rotating secrets")
    }

    fn swap_chain<'a>(
        &'a self,
        _: ChainChange<'a>,
    ) -> BoxFuture<'a, Result<Option<Revision>, Failure>> {
        unreachable!("the runner knows no rotating secrets")
    }

    fn token<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<KeptToken>, Failure>> {
        Box::pin(async {
            let facts = self.facts();
            if facts.store_fails {
                return Err(failure(FailureKind::Unavailable));
            }
            Ok(facts.store.get(job).cloned())
        })
    }

    fn keep_token<'a>(
        &'a self,
        job: &'a JobId,
        token: &'a KeptToken,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async {
            let mut facts = self.facts();
            if facts.store_fails {
                return Err(failure(FailureKind::Unavailable));
            }
            facts.store.insert(job.clone(), token.clone());
            Ok(())
        })
    }
}

struct Seeded(Mutex<fastrand::Rng>);

impl RandomSource for Seeded {
    fn sample(&self) -> f64 {
        self.0.lock().unwrap().f64()
    }
}

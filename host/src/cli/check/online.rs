//! `check --online`: checks against the real systems. Each tries what a run would do, as far as that spends nothing and leaves
//! nothing behind.

use std::collections::{BTreeSet, HashMap};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::formats;
use super::mint::{self, Minted};
use super::probe::{self, ProbeVerdict, Probed};
use super::report::Report;
use crate::capability::Call;
use crate::cli::app::{self, App};
use crate::cli::say;
use crate::kubernetes::Kubernetes;
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::model::token::Artifact;
use crate::model::{Config, Format, Job, JobId, Output, Secret, SecretOrigin, StateLocation};
use crate::output::{Outputs, Publication, WriteBackTargets, proved_by, shared_owner};
use crate::plugin::{PluginWorld, Plugins};
use crate::refresh::clock::OFF_BEYOND;
use crate::serve::control::{ControlSocket, Proved};

/// The scope of the checks.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Wanted {
    /// What is required of issuers.
    pub(in crate::cli) issuers: IssuerProof,
    /// Whether tokens are requested.
    pub(in crate::cli) mint: bool,
}

/// What is required of issuers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum IssuerProof {
    /// Each of them answers now, without an error.
    MustAnswer,
    /// An issuer may be unavailable, which will pass; only mistakes on our side count.
    MayBeAway,
}

/// Tries the state store, and for each job its plugins, secrets, issuers and outputs.
///
/// # Errors
/// The application cannot be assembled.
pub(in crate::cli) async fn prove(
    config: &Config,
    plugins: Plugins,
    wanted: Wanted,
) -> Result<Report> {
    // A running process holds the state store; the checks here do not need it.
    let app = App::open(
        &Config {
            state: StateLocation::Memory,
            ..config.clone()
        },
        plugins,
        &CancellationToken::new(),
    )
    .await?;
    let kubernetes = Arc::new(Kubernetes::new());
    let prover = Arc::new(Prover {
        outputs: Outputs::new(Arc::clone(&kubernetes), Arc::clone(&config.named)),
        write_backs: WriteBackTargets::new(Arc::clone(&kubernetes)),
        app,
        wanted,
        probed: Mutex::default(),
        told: Mutex::default(),
    });
    let mut report = Report::default();
    state(&config.state, &mut report).await;
    if let Some(socket) = &config.control {
        control(socket, &mut report).await;
    }
    if let Some(address) = config.serve {
        serve(address, &mut report);
    }
    for of_job in prover.jobs(&config.jobs).await? {
        report.append(of_job);
    }
    let owner = shared_owner();
    for (index, shared) in config.shared_outputs.iter().enumerate() {
        let from: Vec<String> = shared.from.iter().map(ToString::to_string).collect();
        let who = format!("output of {}", from.join(", "));
        let output = &shared.output;
        let of_output = prover.output(&who, &owner, index, output, &from, &mut report);
        of_output.await;
    }
    if let Some(ahead_ms) = kubernetes.ahead_ms() {
        clock("cluster", "the API server", ahead_ms, &mut report);
    }
    if wanted.mint {
        let minted = mint::all(&prover.app, &config.jobs, &mut report).await?;
        for shared in &config.shared_outputs {
            let jobs: Vec<&JobId> = shared.from.iter().collect();
            let tried = prover.minted_output(&minted, &jobs, &shared.output, &mut report);
            tried.await;
        }
        for job in &config.jobs {
            for output in &job.outputs {
                let of_job = [&job.id];
                let tried = prover.minted_output(&minted, &of_job, output, &mut report);
                tried.await;
            }
        }
    }
    Ok(report)
}

async fn state(location: &StateLocation, report: &mut Report) {
    match app::prove_store(location).await {
        Ok(how) => report.proved("state", how),
        Err(missing) => {
            for what in missing {
                report.failed("state", what);
            }
        }
    }
}

/// Checked only if the configuration names a socket: a run does not depend on any other.
async fn control(socket: &Path, report: &mut Report) {
    let shown = socket.display();
    match ControlSocket::prove(socket).await {
        Ok(Proved::Free) => report.proved("control", format!("socket {shown} can be made")),
        Ok(Proved::InUse) => report.proved("control", format!("a process listens on {shown}")),
        Err(why) => report.failed("control", format!("{:#}", anyhow::Error::from(why))),
    }
}

/// An address in use may be the running process's own.
fn serve(address: SocketAddr, report: &mut Report) {
    match TcpListener::bind(address) {
        Ok(_) => report.proved("serve", format!("{address} can be listened on")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => report.not_tried(
            "serve",
            format!("a process listens on {address} already; a second one cannot"),
        ),
        Err(error) => report.failed("serve", format!("cannot listen on {address}: {error}")),
    }
}

/// Jobs checked concurrently: most wait for an issuer or the API server, and a hung one does not hold up others.
const AT_ONCE: usize = 16;

/// A plugin that is not loaded by then is being compiled.
const SOON: Duration = Duration::from_secs(2);

/// Runs these tasks, at most [`AT_ONCE`] at the same time. Their results are in the order of the tasks.
pub(super) async fn at_once<F>(tasks: impl Iterator<Item = F>) -> Result<Vec<F::Output>>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for (index, task) in tasks.enumerate() {
        let place = Arc::clone(&places).acquire_owned().await?;
        running.spawn(async move {
            let _place = place;
            (index, task.await)
        });
    }
    let mut results = Vec::with_capacity(running.len());
    while let Some(result) = running.join_next().await {
        results.push(result?);
    }
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

struct Prover {
    app: App,
    outputs: Outputs,
    write_backs: WriteBackTargets,
    wanted: Wanted,
    /// The issuers' answers: each is asked once, however many jobs it has.
    probed: Mutex<HashMap<String, Arc<OnceCell<Probed>>>>,
    /// Plugins whose compilation has been reported.
    told: Mutex<BTreeSet<String>>,
}

impl Prover {
    /// The reports of all jobs, in their order.
    async fn jobs(self: &Arc<Self>, jobs: &[Arc<Job>]) -> Result<Vec<Report>> {
        at_once(jobs.iter().map(|job| {
            let (prover, job) = (Arc::clone(self), Arc::clone(job));
            async move { prover.job(&job).await }
        }))
        .await
    }

    async fn job(&self, job: &Arc<Job>) -> Report {
        let mut report = Report::default();
        let who = format!("job {}", job.id);
        let source = &job.source;
        let (plugin, config) = (&source.plugin, &source.config);
        self.plugin(&who, plugin, PluginWorld::Source, config, &mut report)
            .await;
        // A plugin that cannot be read has been reported.
        let endpoints = self
            .app
            .plugins
            .endpoints(&source.plugin, &source.config)
            .await
            .unwrap_or_default();
        let call = self.app.capabilities.call(job, &endpoints);
        for (name, secret) in &source.secrets {
            self.secret(&who, &call, name, secret, &mut report).await;
        }
        for ask in probe::asks(source, &endpoints) {
            let probed = self.probed(ask.key(source));
            // A call's timeout is for one request, so each request gets a call of its own, unaffected by earlier ones and by
            // waiting for other jobs.
            let asking = || async {
                let call = self.app.capabilities.call(job, &endpoints);
                probe::probe(&call, &ask).await
            };
            let probed = probed.get_or_init(asking).await;
            self.issuer(&who, &ask.origin(), probed, &mut report);
        }
        let names = [job.id.to_string()];
        for (index, output) in job.outputs.iter().enumerate() {
            self.output(&who, &job.id, index, output, &names, &mut report)
                .await;
        }
        report
    }

    fn probed(&self, key: String) -> Arc<OnceCell<Probed>> {
        let mut probed = self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(probed.entry(key).or_default())
    }

    /// Reports once that a plugin is being compiled.
    fn tell_compiling(&self, plugin: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(plugin.to_owned()) {
            say(&format!(
                "plugin {plugin} is being compiled, which is done once and may take minutes"
            ));
        }
    }

    /// Checks that a plugin can be used for this.
    async fn plugin(
        &self,
        who: &str,
        plugin: &str,
        world: PluginWorld,
        config: &serde_json::Value,
        report: &mut Report,
    ) {
        let plugins = &self.app.plugins;
        let ready = match tokio::time::timeout(SOON, plugins.prepare(plugin)).await {
            Ok(ready) => ready,
            Err(_) => {
                self.tell_compiling(plugin);
                plugins.prepare(plugin).await
            }
        };
        let fits = plugins.check_config(plugin, world, config).await;
        let result = ready.err().or(fits.err());
        let result = result.map_or(Ok(()), |error| Err(error.to_failure()));
        report.tried(who, format!("plugin {plugin} can be loaded"), result);
    }

    async fn secret(
        &self,
        who: &str,
        call: &Call,
        name: &str,
        secret: &Secret,
        report: &mut Report,
    ) {
        // Another job's token exists only once that job has run.
        if let SecretOrigin::Job(other) = &secret.origin {
            let why = format!("secret {name} is the token of job {other}");
            return report.not_tried(who, why);
        }
        let opened = call.open(name).await;
        if let Ok(value) = &opened
            && let Some(suspicion) = Call::suspicion(name, value)
        {
            report.doubtful(who, format!("secret {name}: {suspicion}"));
        }
        let may_be_filled = matches!(&opened, Err(failure) if is_to_be_filled(secret, failure));
        let is_right = opened.is_ok() || may_be_filled;
        match opened {
            Err(failure) if may_be_filled => {
                let unless = "a request needs a value there, unless the plugin brings the first one itself (`secrets.replace`), as at a login";
                report.doubtful(who, format!("{}; {unless}", failure.message));
            }
            opened => report.tried(who, format!("secret {name} can be read"), opened.map(drop)),
        }
        if secret.write_back && is_right {
            let proved = self.write_backs.prove(&secret.origin).await;
            let what = format!("secret {name} can be written back");
            report.tried(who, what, proved);
        }
    }

    fn issuer(&self, who: &str, origin: &str, probed: &Probed, report: &mut Report) {
        let must_answer = self.wanted.issuers == IssuerProof::MustAnswer;
        match probed {
            Probed::NoAnswer(failure) => {
                if must_answer || failure.kind == FailureKind::InvalidConfig {
                    report.failed(who, &failure.message);
                }
            }
            Probed::Answered(answered) if must_answer => {
                let said = format!("{origin} {}", answered.words);
                match answered.verdict {
                    ProbeVerdict::Good => report.proved(who, said),
                    ProbeVerdict::Doubtful => report.doubtful(who, said),
                    ProbeVerdict::Bad => report.failed(who, said),
                }
                if let Some(ahead_ms) = answered.ahead_ms {
                    clock(who, origin, ahead_ms, report);
                }
            }
            Probed::Answered(_) => {}
        }
    }

    async fn output(
        &self,
        who: &str,
        owner: &JobId,
        index: usize,
        output: &Output,
        jobs: &[String],
        report: &mut Report,
    ) {
        let made = match &output.format {
            None => Some(formats::bare()),
            Some(format) => self.format(who, format, jobs, report).await,
        };
        let publication = Publication {
            job: owner,
            output_index: index,
            artifacts: made.as_deref().unwrap_or_default(),
            expires_at: None,
            next_refresh: None,
        };
        let proved = self.outputs.prove(&output.destination, &publication).await;
        report.tried(who, proved_by(&output.destination), proved);
    }

    /// The artifacts of the format for a made-up token; none: unknown.
    async fn format(
        &self,
        who: &str,
        format: &Format,
        jobs: &[String],
        report: &mut Report,
    ) -> Option<Vec<Artifact>> {
        let Format { plugin, config } = format;
        self.plugin(who, plugin, PluginWorld::Formatter, config, report)
            .await;
        let plugins = &self.app.plugins;
        plugins.prepare(plugin).await.ok()?;
        match formats::artifacts(plugins, format, jobs).await {
            Ok(artifacts) => Some(artifacts),
            Err(failure) if formats::is_about_config(&failure) => {
                report.failed(who, failure.message);
                None
            }
            Err(_) => {
                let why = format!("what {plugin} makes of a token depends on the token");
                report.not_tried(who, why);
                None
            }
        }
    }

    /// Checks the format with real tokens; nothing is written.
    async fn minted_output(
        &self,
        minted: &Minted,
        jobs: &[&JobId],
        output: &Output,
        report: &mut Report,
    ) {
        let Some(format) = &output.format else {
            return;
        };
        let tokens: Option<Vec<_>> = jobs.iter().map(|job| minted.get(job)).collect();
        let Some(tokens) = tokens else {
            return;
        };
        let formatted: Result<Vec<Artifact>, Failure> = self
            .app
            .plugins
            .format(&format.plugin, &tokens, &format.config)
            .await;
        let who: Vec<String> = jobs.iter().map(ToString::to_string).collect();
        let who = format!("job {}", who.join(", "));
        let what = format!("{} takes the token", format.plugin);
        report.tried(&who, what, formatted.map(drop));
    }
}

/// Whether a secret's place exists without a value, which the first call may store.
fn is_to_be_filled(secret: &Secret, failure: &Failure) -> bool {
    secret.rotating && failure.is(HostCode::SecretEmpty)
}

fn clock(who: &str, origin: &str, ahead_ms: i64, report: &mut Report) {
    let seconds = ahead_ms.unsigned_abs() / 1000;
    if seconds <= OFF_BEYOND.as_secs() {
        let what = format!("the clock of {origin} is within {seconds} s of ours");
        return report.proved(who, what);
    }
    let which = if ahead_ms > 0 { "ahead of" } else { "behind" };
    report.failed(
        who,
        format!(
            "the clock of {origin} is {seconds} s {which} this machine's: tokens and signed requests may count as expired, or as not yet valid; set the wrong one right (NTP)"
        ),
    );
}

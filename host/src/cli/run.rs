//! `evertoken run`: keeps the tokens of all jobs fresh until stopped.

use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::app::{self, App};
use super::check::{self, IssuerProof, Wanted};
use super::configuration::ConfigArguments;
use super::reloader::{ConfigOrigin, Reloader};
use super::{Exit, plain_text, plugin_options, runtime, signals, socket, stderr};
use crate::config::Loaded;
use crate::model::Config;
use crate::model::time::{Clock as _, SystemClock};
use crate::plugin::Plugins;
use crate::reload::ReloadHandle;
use crate::runner::metrics::Metrics;
use crate::runner::{JobChange, Runner};
use crate::serve::control::Rooms;
use crate::serve::probes::{ProbeState, Probes, ProcessPhase, Readiness};
use crate::tenants::annotated::controller::{Controller, Served};

/// Keep the tokens of all jobs fresh until stopped (SIGTERM, SIGINT).
///
/// If the configuration has a mistake, it ends at once with exit code 64, and nothing is started. When the configuration's files change, it
/// takes them into use, all or, if there is a mistake, nothing. A missing secret, CA file or plugin is a
/// failure of its job only: `evertoken status` shows it, and it is tried again.
#[derive(Debug, Args)]
pub(super) struct RunArguments {
    #[command(flatten)]
    pub(super) config: ConfigArguments,

    /// End with an error if a check of `evertoken check --online` fails at the start, e.g. because a secret, CA file or plugin is missing or a
    /// file cannot be written. Issuers may be unavailable.
    #[arg(long)]
    pub(super) strict: bool,

    /// Take a changed configuration into use only when asked: by `evertoken reload` or SIGHUP, not when its files change.
    #[arg(long)]
    pub(super) no_watch: bool,
}

pub(super) fn run(arguments: &RunArguments) -> Exit {
    runtime::block_on(async {
        // Before anything that takes time: without a handler, signals do not end the first process of a container.
        let stop = signals::stop_on_signal()?;
        let hangups = signals::hangups()?;
        let loaded = match arguments.config.load().await {
            Ok(loaded) => loaded,
            Err(exit) => return Ok(exit),
        };
        let plugins = app::plugins(&loaded.config.plugins, &loaded.config.limits.plugin)?;
        let ready = prepared(&loaded, &plugins, arguments.strict);
        match stop.run_until_cancelled(ready).await {
            Some(Ok(None)) => {}
            Some(Ok(Some(exit))) => return Ok(exit),
            Some(Err(error)) => return Err(error),
            // Stopped before anything was started.
            None => return Ok(Exit::Success),
        }
        let (config, watched) = loaded.into_parts();
        let origin = ConfigOrigin {
            path: arguments.config.config.clone(),
            watched,
            is_watched: !arguments.no_watch,
            hangups,
        };
        keep_fresh(config, Some(origin), plugins, stop).await
    })
}

/// Makes all checks before anything is started; on a failure, which has been shown, returns the exit code.
async fn prepared(
    loaded: &Loaded,
    plugins: &Plugins,
    is_strict: bool,
) -> anyhow::Result<Option<Exit>> {
    if let Err(exit) = plugin_options::require(loaded, plugins).await {
        return Ok(Some(exit));
    }
    if is_strict {
        let wanted = Wanted {
            issuers: IssuerProof::MayBeAway,
            mint: false,
        };
        let report = check::prove(&loaded.config, plugins.clone(), wanted).await?;
        if !report.is_good() {
            report.show_failures();
            return Ok(Some(Exit::Failure));
        }
    }
    Ok(None)
}

/// Runs the jobs of a configuration until `stop`. If it is known where that was read from, the process has a control socket, and
/// takes changes of it into use.
pub(super) async fn keep_fresh(
    config: Config,
    origin: Option<ConfigOrigin>,
    plugins: Plugins,
    stop: CancellationToken,
) -> anyhow::Result<Exit> {
    let metrics = Arc::new(Metrics::new());
    stderr::count_lost(metrics.log_lines_lost());
    let readiness = Readiness::default();
    // Served while the store is opened, which may take long while an API server is unavailable, and until the runner has ended,
    // so that probes can report "starting" and "stopping".
    let served = CancellationToken::new();
    let _end_of_service = served.clone().drop_guard();
    let shown_runner = Arc::default();
    if let Some(address) = config.serve {
        let shown = ProbeState {
            readiness: readiness.clone(),
            metrics: Arc::clone(&metrics),
            runner: Arc::clone(&shown_runner),
        };
        Probes::bind(address)?.serve(shown, served.clone())?;
        tokio::spawn(readiness.clone().beat());
    }
    let opening = async {
        let app = App::open(&config, plugins, &stop).await?;
        let control = match &origin {
            Some(origin) => socket::bind(&config, &origin.path).await?,
            None => None,
        };
        for warning in plain_text::warnings(&config.jobs, &app.plugins).await {
            tracing::warn!("{warning}");
        }
        anyhow::Ok((app, control))
    };
    let Some(opened) = stop.run_until_cancelled(opening).await else {
        return Ok(Exit::Success);
    };
    let (app, control) = opened?;
    let (runner, handle) = Runner::new(app.ports.clone(), &config.limits, Arc::clone(&metrics));
    let _ = shown_runner.set(handle.clone());
    let (reload, requests) = ReloadHandle::new(SystemClock.now().wall);
    metrics.configured(&reload.status());
    let rooms = Rooms {
        runner: handle.clone(),
        state: app.state.clone(),
        reload: reload.clone(),
    };
    let talking = control.map(|control| tokio::spawn(control.serve(rooms, served.clone())));
    let told = signals::moment_of(stop.clone());
    let running = tokio::spawn(runner.run(stop.clone()));
    match handle.apply(changes(&config)).await {
        // Stopped before it applied them.
        Err(_) if stop.is_cancelled() => {}
        applied => applied?,
    }
    readiness.set(ProcessPhase::Ready);
    let ending = stop.clone();
    tokio::spawn(async move {
        stop.cancelled().await;
        readiness.set(ProcessPhase::Stopping);
    });
    tracing::info!(
        jobs = config.jobs.len(),
        version = env!("CARGO_PKG_VERSION"),
        "started"
    );
    let capabilities = app.capabilities.clone();
    let (serve, to_serve) = tokio::sync::watch::channel(served_secrets(&config));
    let controller = Controller::new(
        Arc::clone(&app.kubernetes),
        handle.clone(),
        Arc::clone(&app.store) as _,
        to_serve,
    );
    tokio::spawn(controller.run(ending.clone()));
    if let Some(origin) = origin {
        let reloader = Reloader {
            config,
            app,
            runner: handle,
            metrics,
            handle: reload,
            serve,
        };
        tokio::spawn(reloader.run(origin, requests, ending));
    }
    running.await.context("the runner failed")?;
    capabilities.drain(told.passed()).await;
    served.cancel();
    if let Some(talking) = talking {
        // It removes its socket.
        let _ = talking.await;
    }
    tracing::info!("stopped");
    Ok(Exit::Success)
}

/// What the controller of annotated Secrets serves.
pub(super) fn served_secrets(config: &Config) -> Option<Served> {
    Some(Served {
        secrets: config.annotated_secrets.clone()?,
        profiles: config.profiles.clone(),
    })
}

/// The runner's changes for a configuration.
pub(super) fn changes(config: &Config) -> Vec<JobChange> {
    let jobs = config
        .jobs
        .iter()
        .map(|job| JobChange::Put(Arc::clone(job)));
    jobs.chain([JobChange::SharedOutputs(config.shared_outputs.clone())])
        .collect()
}

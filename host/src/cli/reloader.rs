//! Takes another configuration into use while the process runs: all of it or nothing. It is read when its files have changed, at
//! SIGHUP, and when `evertoken reload` asks for it.

use std::collections::BTreeSet;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::app::{self, App};
use super::{plain_text, plugin_options, run};
use crate::config::{self, Loaded, Mistakes, Refused, Watched};
use crate::model::time::Timestamp;
use crate::model::{Config, Job};
use crate::names;
use crate::plugin::Plugins;
use crate::reload::handle::ReloadRequest;
use crate::reload::plan::Change;
use crate::reload::watch::FileWatch;
use crate::reload::{Plan, Refusal, Reload, ReloadAnswer, ReloadHandle, compare};
use crate::runner::metrics::Metrics;
use crate::runner::status::RefusedConfiguration;
use crate::runner::{Handle, JobChange};
use crate::tenants::annotated::controller::Served;
use crate::worker;

/// The most names of jobs in one log line.
const NAMES: usize = 10;

/// The most reasons in the log why a configuration is refused; `evertoken reload` shows all.
const REASONS: usize = 20;

/// Why the configuration is read anew if nobody asked for it.
const FILES_CHANGED: &str = "its files have changed";

/// Where a configuration was read from.
#[derive(Debug)]
pub(super) struct ConfigOrigin {
    /// The first file.
    pub(super) path: PathBuf,
    /// All of it as it was.
    pub(super) watched: Watched,
    /// Whether changes of the files are taken into use without being asked.
    pub(super) is_watched: bool,
    /// SIGHUP.
    pub(super) hangups: Signal,
}

/// The configuration in use, and what a change of it concerns.
pub(super) struct Reloader {
    pub(super) config: Config,
    pub(super) app: App,
    pub(super) runner: Handle,
    pub(super) metrics: Arc<Metrics>,
    pub(super) handle: ReloadHandle,
    /// Tells the controller of annotated Secrets.
    pub(super) serve: watch::Sender<Option<Served>>,
}

/// A configuration that can be taken into use.
struct Prepared {
    reload: Reload,
    plugins: Plugins,
}

/// Why one cannot, and what was read.
type NotPrepared = (Refusal, Watched);

impl Reloader {
    /// Reloads until `stop`.
    pub(super) async fn run(
        mut self,
        origin: ConfigOrigin,
        mut requests: mpsc::Receiver<ReloadRequest>,
        stop: CancellationToken,
    ) {
        let ConfigOrigin {
            path,
            watched,
            is_watched,
            mut hangups,
        } = origin;
        let is_watched = is_watched && !config::is_standard_input(&path);
        let mut watch = is_watched.then(|| FileWatch::new(watched));
        let work = async {
            loop {
                let changed = async {
                    match &mut watch {
                        Some(watch) => watch.changed().await,
                        None => pending().await,
                    }
                };
                let (reply, why) = tokio::select! {
                    Some(request) = requests.recv() => match request {
                        ReloadRequest::Reload(reply) => (Some(reply), "asked for"),
                        ReloadRequest::Compare(other, reply) => {
                            let _ = reply.send(self.compare(other.as_deref().unwrap_or(&path)).await);
                            continue;
                        }
                    },
                    Some(()) = hangups.recv() => (None, "SIGHUP"),
                    () = changed => (None, FILES_CHANGED),
                };
                let (answer, read) = self.reload(&path, why).await;
                if let Some(watch) = &mut watch {
                    watch.set(read);
                }
                if let Some(reply) = reply {
                    // Who asked may have gone.
                    let _ = reply.send(answer);
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// What another configuration would change.
    async fn compare(&self, path: &Path) -> ReloadAnswer {
        match self.prepare(path).await {
            Ok((prepared, _)) => ReloadAnswer::Plan(prepared.reload.plan),
            Err((refusal, _)) => ReloadAnswer::Refused(refusal),
        }
    }

    /// Reads the configuration, and takes it into use if nothing is wrong with it. Returns what was read, too.
    async fn reload(&mut self, path: &Path, why: &str) -> (ReloadAnswer, Watched) {
        let (prepared, watched) = match self.prepare(path).await {
            Ok(prepared) => prepared,
            Err((refusal, watched)) => {
                self.refused(&refusal);
                return (ReloadAnswer::Refused(refusal), watched);
            }
        };
        let plan = prepared.reload.plan.clone();
        match self.take(prepared).await {
            Ok(()) => {
                self.taken(&plan, why);
                (ReloadAnswer::Plan(plan), watched)
            }
            Err(error) => {
                let refusal = Refusal::unreadable(format!("{error:#}"));
                self.refused(&refusal);
                (ReloadAnswer::Refused(refusal), watched)
            }
        }
    }

    /// Makes all checks; changes nothing.
    async fn prepare(&self, path: &Path) -> Result<(Prepared, Watched), NotPrepared> {
        if config::is_standard_input(path) {
            let message = "the configuration came from standard input and cannot be read again; start the process with a file to have it reloaded";
            let refusal = Refusal::unreadable(message.to_owned());
            return Err((refusal, Watched::new()));
        }
        let loaded = match worker::aside(|| config::load(path)) {
            Ok(loaded) => loaded,
            Err(refused) => return Err(self.mistaken(*refused).await),
        };
        let Loaded { config, places, .. } = &loaded;
        let limits = config.limits.plugin.clone();
        let plugins = self.app.plugins.with(&config.plugins, limits);
        let mistakes = plugin_options::mistakes(places, &plugins).await;
        let (config, watched) = loaded.into_parts();
        if let Some(mistakes) = Mistakes::of(mistakes) {
            return Err((Refusal::from(&mistakes), watched));
        }
        let reload = compare(&self.config, config);
        Ok((Prepared { reload, plugins }, watched))
    }

    /// All mistakes, also those that plugins find in their options.
    async fn mistaken(&self, refused: Refused) -> NotPrepared {
        let limits = self.config.limits.plugin.clone();
        let plugins = self.app.plugins.with(&refused.plugins, limits);
        let more = plugin_options::mistakes(&refused.places, &plugins).await;
        let mistakes = refused.mistakes.and(more);
        (Refusal::from(&mistakes), refused.watched)
    }

    /// Takes a configuration into use.
    ///
    /// # Errors
    /// A key of the state store cannot be read or used; nothing has changed then.
    async fn take(&mut self, prepared: Prepared) -> anyhow::Result<()> {
        let Prepared { reload, plugins } = prepared;
        let Reload {
            plan,
            config,
            mut changes,
        } = reload;
        let keys = config.state.keys();
        if !keys.is_empty() {
            let keys = app::read_keys(keys, &self.app.kubernetes).await?;
            let taken = self.app.store.set_keys(keys).await;
            taken.context("cannot use the keys of `state.key`")?;
        }
        self.app.plugins.adopt(&plugins);
        self.app.outputs.set_named(Arc::clone(&config.named));
        let plugins = plan.changed_plugins();
        if !plugins.is_empty() {
            changes.push(JobChange::Plugins(plugins));
        }
        let jobs: Vec<Arc<Job>> = changes.iter().filter_map(JobChange::put).cloned().collect();
        for warning in plain_text::warnings(&jobs, &self.app.plugins).await {
            warn!("{warning}");
        }
        let served = run::served_secrets(&config);
        self.serve.send_if_modified(|present| {
            let is_another = *present != served;
            *present = served;
            is_another
        });
        self.config = config;
        // The runner has ended if the process stops.
        let _ = self.runner.apply(changes).await;
        Ok(())
    }

    fn taken(&self, plan: &Plan, why: &str) {
        self.handle.note(|status| {
            status.loaded_at = now();
            status.refused = None;
            status.needs_restart.clone_from(&plan.needs_restart);
        });
        self.metrics.configured(&self.handle.status());
        if plan.is_empty() {
            // Whoever asked looks for an answer.
            match why {
                FILES_CHANGED => debug!(why, "the configuration was read anew, and says the same"),
                _ => info!(why, "the configuration was read anew, and says the same"),
            }
            return;
        }
        let named = |wanted: fn(&Change) -> bool| {
            let jobs = plan.jobs.iter().filter(|job| wanted(&job.change));
            let jobs: BTreeSet<String> = jobs.map(|job| job.job.clone()).collect();
            (!jobs.is_empty()).then(|| names::first(&jobs, NAMES))
        };
        let shared: BTreeSet<String> = plan
            .shared_outputs
            .iter()
            .map(|it| it.destination.clone())
            .collect();
        let shared = (!shared.is_empty()).then(|| names::first(&shared, NAMES));
        let settings = (!plan.settings.is_empty()).then(|| plan.settings.join(", "));
        info!(
            why,
            added = named(|change| matches!(change, Change::Added)),
            changed = named(|change| matches!(change, Change::Changed { .. })),
            removed = named(|change| matches!(change, Change::Removed { .. })),
            unchanged = plan.unchanged,
            shared_outputs = shared,
            settings,
            "the changed configuration is in use"
        );
        if !plan.needs_restart.is_empty() {
            let keys = plan.needs_restart.join(", ");
            warn!(
                keys,
                "these keys take effect when the process is started again"
            );
        }
    }

    fn refused(&self, refusal: &Refusal) {
        let message = refusal.lines.clone();
        self.handle.note(|status| {
            let at = now();
            status.refused = Some(RefusedConfiguration { at, message });
        });
        self.metrics.configured(&self.handle.status());
        error!("the changed configuration is refused; the former one stays in use");
        for reason in refusal.lines.lines().take(REASONS) {
            error!("{reason}");
        }
    }
}

fn now() -> Timestamp {
    use crate::model::time::{Clock as _, SystemClock};
    SystemClock.now().wall
}

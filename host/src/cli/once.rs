//! `evertoken once`: writes the tokens of all jobs, or of the named ones, and ends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::time::timeout_at;

use super::app::App;
use super::configuration::ConfigArguments;
use super::status::of_chain;
use super::terminal::TextStyle;
use super::{Exit, plugin_options, runtime, say, signals, stderr};
use crate::model::Config;
use crate::names;
use crate::runner::metrics::Metrics;
use crate::runner::status::{JobStatus, OutputState, Snapshot};
use crate::runner::{Handle, JobChange, Runner};

/// Often enough to show progress, seldom enough to cost nothing.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Names of jobs in a message.
const NAMES: usize = 20;

/// To the line's start, and nothing after it (ECMA-48, EL).
const LINE_START: &str = "\r\x1b[K";

/// Write the tokens of all jobs, or of the named ones, once, then end: for init containers and cron.
///
/// A token in the state store that has not expired is written without a request to its issuer. Failures that may pass by themselves are
/// tried again until the timeout. Exit code 0 means that all tokens are written.
#[derive(Debug, Args)]
pub(super) struct OnceArguments {
    /// The jobs to write. Default: all.
    #[arg(value_name = "JOB")]
    pub(super) jobs: Vec<String>,

    #[command(flatten)]
    pub(super) config: ConfigArguments,

    /// The time limit for everything, including the opening of the state store, with its unit: 30s, 5m.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = crate::config::parse_duration)]
    pub(super) timeout: Duration,
}

pub(super) fn run(arguments: &OnceArguments) -> Exit {
    let deadline = Instant::now() + arguments.timeout;
    runtime::block_on(async {
        let stop = signals::stop_on_signal()?;
        signals::ignore_hangups("ignored: this command reads its configuration at the start")?;
        let loaded = match arguments.config.load().await {
            Ok(loaded) => loaded,
            Err(exit) => return Ok(exit),
        };
        let changes = match selected(&loaded.config, &arguments.jobs) {
            Ok(changes) => changes,
            Err(exit) => return Ok(exit),
        };
        let plugins = super::app::plugins(&loaded.config.plugins, &loaded.config.limits.plugin)?;
        let opening = async {
            if let Err(exit) = plugin_options::require(&loaded, &plugins).await {
                return Ok(Err(exit));
            }
            App::open(&loaded.config, plugins.clone(), &stop)
                .await
                .map(Ok)
        };
        let opened = stop.run_until_cancelled(timeout_at(deadline.into(), opening));
        let app = match opened.await {
            Some(Ok(Ok(Ok(app)))) => app,
            Some(Ok(Ok(Err(exit)))) => return Ok(exit),
            Some(Ok(Err(error))) => return Err(error),
            Some(Err(_)) => {
                say(&format!(
                    "error: the time is up: neither plugins nor state store could be opened within {:?} (`--timeout`)",
                    arguments.timeout
                ));
                return Ok(Exit::Failure);
            }
            None => return Ok(Exit::Failure),
        };
        let (runner, handle) =
            Runner::new(app.ports, &loaded.config.limits, Arc::new(Metrics::new()));
        let progress = (TextStyle::of(&std::io::stderr()) != TextStyle::Plain)
            .then(|| tokio::spawn(show_progress(handle)));
        let told = signals::moment_of(stop.clone());
        let stopped = stop.clone();
        let left = deadline.saturating_duration_since(Instant::now());
        let snapshot = runner.once(changes, Some(left), stop).await;
        let end = match stopped.is_cancelled() {
            true => RunEnd::Signal,
            false => RunEnd::Time,
        };
        if let Some(progress) = progress {
            // It ends with the runner.
            progress.await?;
        }
        app.capabilities.drain(told.passed()).await;
        Ok(report(&snapshot, end))
    })
}

/// Updates a line of the terminal until the runner ends, and then clears it.
async fn show_progress(runner: Handle) {
    while let Ok(snapshot) = runner.status(Vec::new()).await {
        stderr::write(format!("{LINE_START}{}", progress(&snapshot)).as_bytes());
        tokio::time::sleep(PROGRESS_INTERVAL).await;
    }
    stderr::write(LINE_START.as_bytes());
}

fn progress(snapshot: &Snapshot) -> String {
    let written = snapshot.jobs.iter().filter(|job| job.state.is_ready());
    let compiling = snapshot.jobs.iter().find_map(|job| job.compiling.as_ref());
    let compiling = compiling.map_or_else(String::new, |it| format!("; compiling {}", it.plugin));
    format!(
        "{} of {} jobs written{compiling}",
        written.count(),
        snapshot.jobs.len()
    )
}

/// The named jobs, and the shared outputs whose jobs are all among them.
fn selected(config: &Config, names: &[String]) -> Result<Vec<JobChange>, Exit> {
    if names.is_empty() {
        return Ok(super::run::changes(config));
    }
    let known: BTreeSet<String> = config.jobs.iter().map(|job| job.id.to_string()).collect();
    let unknown: Vec<&str> = names
        .iter()
        .filter(|name| !known.contains(*name))
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        say(&format!(
            "error: no such job: {}; the configuration has: {}",
            unknown.join(", "),
            names::first(&known, NAMES)
        ));
        return Err(Exit::Usage);
    }
    let is_selected = |id: &crate::model::JobId| names.contains(&id.to_string());
    let jobs = config
        .jobs
        .iter()
        .filter(|job| is_selected(&job.id))
        .map(|job| JobChange::Put(Arc::clone(job)));
    let shared = config
        .shared_outputs
        .iter()
        .filter(|shared| shared.from.iter().all(is_selected))
        .cloned()
        .collect();
    Ok(jobs.chain([JobChange::SharedOutputs(shared)]).collect())
}

/// Why a run ended before all was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RunEnd {
    Time,
    Signal,
}

fn report(snapshot: &Snapshot, end: RunEnd) -> Exit {
    let mut exit = Exit::Success;
    for job in &snapshot.jobs {
        match why_not(job, snapshot, end) {
            None => say(&format!("{}: {}", job.id, written(job, snapshot))),
            Some(why) => {
                exit = Exit::Failure;
                say(&format!("{}: not written: {why}", job.id));
            }
        }
    }
    exit
}

/// What the outputs of a job have, and what is wrong nevertheless.
fn written(job: &JobStatus, snapshot: &Snapshot) -> String {
    let of_source = job.last_failure.as_ref().map(|failure| {
        let expires_at = job
            .expires_at
            .map_or_else(String::new, |at| format!(", which expires {at}"));
        format!(
            "it is the token of an earlier run{expires_at}; it was not refreshed: {}",
            failure.message
        )
    });
    let mut outputs = snapshot.outputs_of(job);
    let waiting = outputs.find(|output| output.state == OutputState::Waiting);
    let waiting = waiting.map(|output| {
        format!(
            "{} is not: it waits for another job's token",
            output.destination
        )
    });
    match of_source.or_else(|| of_chain(job)).or(waiting) {
        None => "written".to_owned(),
        Some(but) => format!("written, but {but}"),
    }
}

/// Why a job's outputs, own and shared, do not all have its token; none: they do.
fn why_not(job: &JobStatus, snapshot: &Snapshot, end: RunEnd) -> Option<String> {
    if job.state.is_ready() {
        return None;
    }
    let of_outputs = snapshot.outputs_of(job).filter_map(|output| {
        let failure = output.failure.as_ref()?;
        Some(format!("{}: {}", output.destination, failure.message))
    });
    let of_source = job
        .last_failure
        .iter()
        .map(|failure| failure.message.clone());
    let of_issuer = job
        .held_back
        .iter()
        .map(|held_back| format!("{held_back}: {}", held_back.failure.message));
    let of_plugin = job.compiling.iter().map(|compiling| match end {
        RunEnd::Time => format!("{compiling}, and the time is up: the next run begins that anew, so give it more by `--timeout`"),
        RunEnd::Signal => format!("{compiling}; stopped by a signal"),
    });
    let reasons: Vec<String> = of_source
        .chain(of_issuer)
        .chain(of_plugin)
        .chain(of_outputs)
        .collect();
    Some(if reasons.is_empty() {
        match end {
            RunEnd::Time => format!("{}; the time is up", job.state),
            RunEnd::Signal => format!("{}; stopped by a signal", job.state),
        }
    } else {
        reasons.join("; ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::job;
    use crate::model::JobId;
    use crate::model::failure::{Failure, FailureKind};
    use crate::model::time::Timestamp;
    use crate::runner::status::{FailureStatus, JobState, OutputStatus, SharedStatus};

    fn snapshot(shared_outputs: Vec<SharedStatus>) -> Snapshot {
        Snapshot {
            at: Timestamp(0),
            jobs: Vec::new(),
            shared_outputs,
            withdrawals: Vec::new(),
            configuration: None,
        }
    }

    #[test]
    fn a_shared_output_that_waits_is_told_of_each_of_its_jobs() {
        let shared = |state| SharedStatus {
            from: vec![JobId::file("a"), JobId::file("b")],
            output: OutputStatus {
                destination: "/netrc".to_owned(),
                state,
                failure: None,
                next_try: None,
            },
        };
        for (state, expected) in [
            (OutputState::Written, "written"),
            (
                OutputState::Waiting,
                "written, but /netrc is not: it waits for another job's token",
            ),
        ] {
            let job = job("a", JobState::Ready);
            assert_eq!(written(&job, &snapshot(vec![shared(state)])), expected);
        }
    }

    #[test]
    fn a_token_that_was_kept_and_not_refreshed_is_not_called_written_alone() {
        let refused = Failure::new(
            FailureKind::Denied,
            "invalid_client",
            "the client is unknown",
        );
        let refused = FailureStatus::new(refused, Timestamp(1000));
        let until = Some(Timestamp(61_000));
        for (failure, expires_at, expected) in [
            (None, until, "written"),
            (
                Some(refused.clone()),
                until,
                "written, but it is the token of an earlier run, which expires 1970-01-01T00:01:01Z; it was not refreshed: the client is unknown",
            ),
            (
                Some(refused),
                None,
                "written, but it is the token of an earlier run; it was not refreshed: the client is unknown",
            ),
        ] {
            let job = JobStatus {
                last_failure: failure,
                expires_at,
                ..job("a", JobState::Retrying)
            };
            assert_eq!(written(&job, &snapshot(Vec::new())), expected);
        }
    }
}

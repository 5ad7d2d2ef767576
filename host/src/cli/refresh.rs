//! `evertoken refresh`: asks the running process for new tokens now, and prints the results.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;

use super::socket::TargetArguments;
use super::status::described;
use super::stderr::say;
use super::{Exit, print, runtime};
use crate::model::time::Timestamp;
use crate::runner::status::{ChainState, JobStatus, OutputState, OutputStatus};
use crate::serve::control::{self, RefreshResult, RefreshedJob};

/// Ask the running process to refresh jobs now.
///
/// The age of their tokens does not matter, and the command waits until the new tokens are in all outputs. A failed attempt does not delay the next attempt that the process makes by itself.
#[derive(Debug, Args)]
pub(super) struct RefreshArguments {
    /// The jobs to refresh.
    #[arg(value_name = "JOB", required = true)]
    jobs: Vec<String>,

    #[command(flatten)]
    target: TargetArguments,

    /// How long to wait for the result, with its unit: 30s, 5m. Unfinished refreshes go on after that.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = crate::config::parse_duration)]
    timeout: Duration,
}

pub(super) fn run(arguments: &RefreshArguments) -> Exit {
    runtime::block_on(async {
        let socket = match arguments.target.require().await {
            Ok(socket) => socket,
            Err(exit) => return Ok(exit),
        };
        let refreshed =
            control::refresh(&socket, arguments.jobs.clone(), arguments.timeout).await?;
        if !refreshed.unknown.is_empty() {
            for name in &refreshed.unknown {
                say(&format!("error: no such job: {name}"));
            }
            return Ok(Exit::Usage);
        }
        report(&refreshed, arguments.timeout)
    })
}

fn report(refreshed: &RefreshResult, timeout: Duration) -> anyhow::Result<Exit> {
    let mut exit = Exit::Success;
    for (job, result) in refreshed.now.jobs.iter().zip(&refreshed.jobs) {
        let outputs: Vec<&OutputStatus> = refreshed.now.outputs_of(job).collect();
        let why = match result {
            RefreshedJob::Done => {
                print(&format!("{}: {}", job.id, done(job, &outputs)))?;
                continue;
            }
            RefreshedJob::Failed => failed(job, &outputs),
            RefreshedJob::Pending => {
                let compiling = job.compiling.iter().map(|it| format!("{it}, and "));
                format!(
                    "{}nothing came of it within {} s; it goes on, see `evertoken status`",
                    compiling.collect::<String>(),
                    timeout.as_secs_f64()
                )
            }
        };
        exit = Exit::Failure;
        let what = if is_refreshed(job, result) {
            "refreshed, but not in every output"
        } else {
            "not refreshed"
        };
        say(&format!("error: {}: {what}: {why}", job.id));
    }
    Ok(exit)
}

/// Whether there is a new token, and only outputs failed.
const fn is_refreshed(job: &JobStatus, result: &RefreshedJob) -> bool {
    matches!(result, RefreshedJob::Failed) && job.last_failure.is_none() && job.held_back.is_none()
}

fn done(job: &JobStatus, outputs: &[&OutputStatus]) -> String {
    let mut text = "refreshed".to_owned();
    let _ = match job.expires_at {
        Some(at) => write!(text, ", expires {at}"),
        None => write!(text, ", never expires"),
    };
    for output in outputs {
        let _ = match output.state {
            OutputState::Waiting => write!(
                text,
                "; {} waits for another job's token",
                output.destination
            ),
            _ => write!(text, "; written to {}", output.destination),
        };
    }
    text
}

/// The failure, and when the process tries again.
fn failed(job: &JobStatus, outputs: &[&OutputStatus]) -> String {
    let again = |what: &str, at: Option<Timestamp>| {
        at.map_or_else(String::new, |at| format!(" ({what} again at {at})"))
    };
    // The issuer is not asked with a value that it no longer takes.
    let asked_at = job
        .next_refresh
        .filter(|_| job.chain != Some(ChainState::Dead));
    let of_source = job.last_failure.iter().map(described);
    let of_issuer = job.held_back.iter().map(|held_back| {
        let why = described(&held_back.failure);
        format!("{held_back}: {why}")
    });
    let of_source = of_source
        .chain(of_issuer)
        .map(|why| why + &again("asked", asked_at));
    let of_outputs = outputs.iter().filter_map(|output| {
        let why = described(output.failure.as_ref()?);
        let again = again("tried", output.next_try);
        Some(format!("{}: {why}{again}", output.destination))
    });
    of_source.chain(of_outputs).collect::<Vec<_>>().join("; ")
}

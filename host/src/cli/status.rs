//! `evertoken status`: the status of the running process's jobs.

use std::collections::{BTreeSet, HashSet};
use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};

use super::socket::TargetArguments;
use super::stderr::say;
use super::{Exit, print, print_json, runtime};
use crate::model::JobId;
use crate::model::failure::Code;
use crate::model::time::Timestamp;
use crate::names;
use crate::runner::status::{
    ChainState, FailureStatus, JobState, JobStatus, OutputState, OutputStatus, SharedStatus,
    Snapshot,
};
use crate::serve::control;

/// The most names in one line.
const NAMES: usize = 10;

/// Show the jobs of the running process: state, expiry, next refresh, last error.
#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    /// The jobs to show. Default: all.
    #[arg(value_name = "JOB")]
    jobs: Vec<String>,

    #[command(flatten)]
    target: TargetArguments,

    /// The format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: OutputFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

pub(super) fn run(arguments: &StatusArguments) -> Exit {
    runtime::block_on(async {
        let socket = match arguments.target.require().await {
            Ok(socket) => socket,
            Err(exit) => return Ok(exit),
        };
        let snapshot = control::status(&socket, arguments.jobs.clone()).await?;
        match arguments.output {
            OutputFormat::Json => print_json(&snapshot)?,
            // If all names are unknown, there is nothing to print.
            OutputFormat::Table if snapshot.jobs.is_empty() && !arguments.jobs.is_empty() => {}
            OutputFormat::Table => {
                print(&table(&snapshot, std::io::stdout().is_terminal()))?;
                let lines = waiting(&snapshot).into_iter();
                let lines = lines
                    .chain(withdrawn(&snapshot))
                    .chain(configuration(&snapshot));
                for line in lines {
                    print(&line)?;
                }
            }
        }
        let unknown = unknown(&arguments.jobs, &snapshot);
        for name in &unknown {
            say(&format!("error: no such job: {name}"));
        }
        Ok(if unknown.is_empty() {
            Exit::Success
        } else {
            Exit::Usage
        })
    })
}

/// The requested names that match no job.
fn unknown<'a>(names: &'a [String], snapshot: &Snapshot) -> Vec<&'a String> {
    let known: HashSet<String> = snapshot.jobs.iter().map(|job| job.id.to_string()).collect();
    names.iter().filter(|name| !known.contains(*name)).collect()
}

/// The snapshot as a table; columns are as wide as their content, the last error is last because it is the longest.
fn table(snapshot: &Snapshot, for_people: bool) -> String {
    let header = ["JOB", "STATE", "EXPIRES", "NEXT", "LAST ERROR"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(header)
        .chain(
            snapshot
                .jobs
                .iter()
                .map(|job| row(job, snapshot, for_people)),
        )
        .collect();
    let mut widths = [0_usize; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let lines = rows.iter().map(|row| {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A line for each shared output that was never written, because not all of its jobs have a token: a job's row does not show that.
fn waiting(snapshot: &Snapshot) -> Vec<String> {
    let has_none = |job: &&JobStatus| matches!(job.state, JobState::Pending | JobState::Failing);
    let without: HashSet<&JobId> = snapshot
        .jobs
        .iter()
        .filter(has_none)
        .map(|job| &job.id)
        .collect();
    let line = |shared: &SharedStatus| {
        let missing = shared.from.iter().filter(|id| without.contains(id));
        let missing: BTreeSet<String> = missing.map(JobId::to_string).collect();
        let of = match missing.is_empty() {
            // The status of some jobs alone was asked for.
            true => "all of its jobs".to_owned(),
            false => names::first(&missing, NAMES),
        };
        format!(
            "{} is not written: it waits for a token of {of}",
            shared.output.destination
        )
    };
    let shared = snapshot.shared_outputs.iter();
    let waiting = shared.filter(|shared| shared.output.state == OutputState::Waiting);
    waiting.map(line).collect()
}

/// A line for each output that the configuration has no more and that could not be deleted so far.
fn withdrawn(snapshot: &Snapshot) -> Vec<String> {
    let line = |output: &OutputStatus| {
        let place = &output.destination;
        match &output.failure {
            Some(failure) => format!("{place} cannot be deleted: {}", described(failure)),
            None => format!("{place} is being deleted"),
        }
    };
    snapshot.withdrawals.iter().map(line).collect()
}

/// Lines about a configuration that is not in use, or not all of it.
fn configuration(snapshot: &Snapshot) -> Vec<String> {
    let Some(status) = &snapshot.configuration else {
        return Vec::new();
    };
    let refused = status.refused.iter().map(|refused| {
        format!(
            "the configuration of {} is in use, and what was read at {} is refused:\n{}",
            status.loaded_at, refused.at, refused.message
        )
    });
    let needs_restart = match status.needs_restart.as_slice() {
        [] => None,
        keys => Some(format!(
            "changed in the configuration, and in use after a restart: {}",
            keys.join(", ")
        )),
    };
    refused.chain(needs_restart).collect()
}

fn row(job: &JobStatus, snapshot: &Snapshot, for_people: bool) -> [String; 5] {
    let now = snapshot.at;
    let point = |at: Option<Timestamp>| {
        at.map_or_else(
            || "-".to_owned(),
            |at| {
                if for_people {
                    relative(at, now)
                } else {
                    at.to_string()
                }
            },
        )
    };
    [
        job.id.to_string(),
        state(job),
        point(job.expires_at),
        point(job.next_refresh),
        last_error(job, snapshot, point)
            .or_else(|| of_chain(job))
            .unwrap_or_else(|| "-".to_owned()),
    ]
}

/// The job's state, and its chain's unless that is ok.
fn state(job: &JobStatus) -> String {
    match job.chain {
        None | Some(ChainState::Ok) => job.state.to_string(),
        Some(chain) => format!("{}, chain {chain}", job.state),
    }
}

/// Why the job waits for its issuer, the plugin that it waits for, or its newest failure: of the source, an output, or the store;
/// for an unwritten job, of an output. A failed write has the time of its next try; the source's has a column of its own.
fn last_error(
    job: &JobStatus,
    snapshot: &Snapshot,
    point: impl Fn(Option<Timestamp>) -> String,
) -> Option<String> {
    if let Some(held_back) = &job.held_back {
        let why = described(&held_back.failure);
        return Some(format!("{held_back}: {why}"));
    }
    if let Some(compiling) = &job.compiling {
        return Some(compiling.to_string());
    }
    let is_unwritten = job.state == JobState::Unwritten;
    let outputs = snapshot
        .outputs_of(job)
        .map(|output| (&output.failure, output.next_try, is_unwritten));
    let writes = outputs
        .chain([(&job.keep_failure, job.next_keep, false)])
        .filter_map(|(failure, next, first)| Some((first, failure.as_ref()?, next)));
    let source = job
        .last_failure
        .iter()
        .map(|failure| (false, failure, None));
    let all = writes.chain(source);
    let (_, failure, next) = all.max_by_key(|(first, failure, _)| (*first, failure.at))?;
    let said = described(failure);
    Some(match next {
        Some(_) => format!("{said}; next try {}", point(next)),
        None => said,
    })
}

/// The message about a chain with a problem that no call of this process has met: it was met before this process began, or by
/// another job.
pub(super) fn of_chain(job: &JobStatus) -> Option<String> {
    let what = match job.chain? {
        ChainState::Ok => return None,
        ChainState::InDoubt => {
            "a request with its rotating secret was not answered; it is asked again"
        }
        ChainState::NeedsAttention => "its rotating secret must not be sent",
        ChainState::Dead => "its issuer takes its rotating secret no more; log in again",
    };
    Some(format!(
        "{what}; `evertoken state show {}` has more",
        job.id
    ))
}

/// A failure's code and message.
pub(super) fn described(failure: &FailureStatus) -> String {
    let code = failure
        .code
        .as_ref()
        .map_or(failure.kind.as_str(), Code::as_str);
    format!("{code}: {}", failure.message)
}

/// A relative time: "in 4m10s", "12s ago".
fn relative(at: Timestamp, now: Timestamp) -> String {
    if at >= now {
        format!("in {}", rounded(at.since(now).as_secs()))
    } else {
        format!("{} ago", rounded(now.since(at).as_secs()))
    }
}

/// Rounded to two units.
pub(super) fn rounded(seconds: u64) -> String {
    let (days, hours, minutes, rest) = (
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    );
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m{rest}s"),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::failure::{Failure, FailureKind};
    use crate::runner::status::OutputStatus;

    pub(crate) fn job(name: &str, state: JobState) -> JobStatus {
        JobStatus {
            id: JobId::file(name),
            state,
            expires_at: None,
            published_expires_at: None,
            next_refresh: None,
            last_success: None,
            attempt: 0,
            last_failure: None,
            held_back: None,
            compiling: None,
            chain: None,
            keep_failure: None,
            next_keep: None,
            outputs: Vec::new(),
        }
    }

    #[test]
    fn the_newest_failure_is_told_and_of_an_unwritten_job_its_outputs() {
        let failed = |what: &str, at| {
            let failure = Failure::new(FailureKind::Denied, what, what);
            FailureStatus::new(failure, Timestamp(at))
        };
        for (state, output_at, expected) in [
            (JobState::Unwritten, 1000, "output"),
            (JobState::Retrying, 1000, "store"),
            (JobState::Retrying, 9000, "output"),
        ] {
            let job = JobStatus {
                last_failure: Some(failed("source", 1500)),
                keep_failure: Some(failed("store", 2000)),
                outputs: vec![OutputStatus {
                    destination: "/t".to_owned(),
                    state: OutputState::Failing,
                    failure: Some(failed("output", output_at)),
                    next_try: None,
                }],
                ..job("a", state)
            };
            let snapshot = Snapshot {
                at: Timestamp(10_000),
                jobs: Vec::new(),
                shared_outputs: Vec::new(),
                withdrawals: Vec::new(),
                configuration: None,
            };
            let told = last_error(&job, &snapshot, |_| String::new()).unwrap();
            assert!(told.contains(expected), "{state}: {told}");
        }
    }

    #[test]
    fn a_shared_output_that_waits_for_a_token_is_told() {
        let shared = |state| SharedStatus {
            from: vec![JobId::file("a"), JobId::file("b")],
            output: OutputStatus {
                destination: "/netrc".to_owned(),
                state,
                failure: None,
                next_try: None,
            },
        };
        let (a, b) = (|| job("a", JobState::Ready), || job("b", JobState::Failing));
        for (jobs, state, expected) in [
            (
                vec![a(), b()],
                OutputState::Waiting,
                Some("/netrc is not written: it waits for a token of b"),
            ),
            (
                vec![a()],
                OutputState::Waiting,
                Some("/netrc is not written: it waits for a token of all of its jobs"),
            ),
            (vec![a(), b()], OutputState::Written, None),
        ] {
            let snapshot = Snapshot {
                at: Timestamp(10_000),
                jobs,
                shared_outputs: vec![shared(state)],
                withdrawals: Vec::new(),
                configuration: None,
            };
            assert_eq!(waiting(&snapshot), Vec::from_iter(expected), "{state:?}");
        }
    }

    #[test]
    fn a_time_is_told_from_now_in_at_most_two_units() {
        let now = Timestamp(1_000_000_000);
        for (offset_seconds, expected) in [
            (0_i64, "in 0s"),
            (59, "in 59s"),
            (250, "in 4m10s"),
            (7260, "in 2h1m"),
            (90_000, "in 1d1h"),
            (-12, "12s ago"),
        ] {
            let at = Timestamp(now.0.saturating_add_signed(offset_seconds * 1000));
            assert_eq!(relative(at, now), expected);
        }
    }
}

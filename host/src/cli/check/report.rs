//! The report of checks: a line for each.

use crate::cli::{print, say};
use crate::model::failure::Failure;

/// All checks, in the order in which they were made.
#[derive(Debug, Default)]
pub(in crate::cli) struct Report(Vec<Line>);

#[derive(Debug)]
struct Line {
    who: String,
    outcome: CheckOutcome,
}

#[derive(Debug)]
enum CheckOutcome {
    Proved(String),
    NotTried(String),
    Doubtful(String),
    Failed(String),
}

impl Report {
    /// Whether nothing failed.
    pub(in crate::cli) fn is_good(&self) -> bool {
        let failed = |line: &Line| matches!(line.outcome, CheckOutcome::Failed(_));
        !self.0.iter().any(failed)
    }

    /// The number of doubtful lines, which may be right.
    pub(in crate::cli) fn doubts(&self) -> usize {
        let doubtful = |line: &&Line| matches!(line.outcome, CheckOutcome::Doubtful(_));
        self.0.iter().filter(doubtful).count()
    }

    /// Prints every line: failures and doubts to standard error, the rest to standard output.
    ///
    /// # Errors
    /// Writing to standard output failed.
    pub(in crate::cli) fn show(&self) -> std::io::Result<()> {
        for Line { who, outcome } in &self.0 {
            match outcome {
                CheckOutcome::Proved(what) => print(&format!("ok: {who}: {what}"))?,
                CheckOutcome::NotTried(why) => print(&format!("not tried: {who}: {why}"))?,
                CheckOutcome::Doubtful(what) => say(&format!("warning: {who}: {what}")),
                CheckOutcome::Failed(_) => show_failure(who, outcome),
            }
        }
        Ok(())
    }

    /// Prints the failures.
    pub(in crate::cli) fn show_failures(&self) {
        for Line { who, outcome } in &self.0 {
            show_failure(who, outcome);
        }
    }

    /// Removes a job's doubts after a later check succeeded.
    pub(super) fn is_beyond_doubt(&mut self, who: &str) {
        let is_doubt = |line: &Line| matches!(line.outcome, CheckOutcome::Doubtful(_));
        self.0.retain(|line| line.who != who || !is_doubt(line));
    }

    /// Appends the lines of another report.
    pub(super) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    pub(super) fn proved(&mut self, who: &str, what: impl Into<String>) {
        self.add(who, CheckOutcome::Proved(what.into()));
    }

    pub(super) fn not_tried(&mut self, who: &str, why: impl Into<String>) {
        self.add(who, CheckOutcome::NotTried(why.into()));
    }

    pub(super) fn doubtful(&mut self, who: &str, what: impl Into<String>) {
        self.add(who, CheckOutcome::Doubtful(what.into()));
    }

    pub(super) fn failed(&mut self, who: &str, what: impl Into<String>) {
        self.add(who, CheckOutcome::Failed(what.into()));
    }

    /// Adds a success, or the reason of a failure.
    pub(super) fn tried(
        &mut self,
        who: &str,
        what: impl Into<String>,
        result: Result<(), Failure>,
    ) {
        match result {
            Ok(()) => self.proved(who, what),
            Err(failure) => self.failed(who, failure.message),
        }
    }

    fn add(&mut self, who: &str, outcome: CheckOutcome) {
        self.0.push(Line {
            who: who.to_owned(),
            outcome,
        });
    }
}

fn show_failure(who: &str, outcome: &CheckOutcome) {
    if let CheckOutcome::Failed(what) = outcome {
        say(&format!("error: {who}: {what}"));
    }
}

//! What was proved, what was not, and of whom.

use std::io::Write as _;

use crate::cli::say;
use crate::failure::Failure;

/// All proofs, in the order in which they were tried.
#[derive(Debug, Default)]
pub(in crate::cli) struct Report(Vec<Line>);

#[derive(Debug)]
struct Line {
    who: String,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Proved(String),
    NotTried(String),
    Failed(String),
}

impl Report {
    /// Whether nothing failed.
    pub(in crate::cli) fn is_good(&self) -> bool {
        let failed = |line: &Line| matches!(line.outcome, Outcome::Failed(_));
        !self.0.iter().any(failed)
    }

    /// Shows every line: failures on standard error, the rest on standard output.
    pub(in crate::cli) fn show(&self) {
        let mut stdout = std::io::stdout();
        for Line { who, outcome } in &self.0 {
            let _ = match outcome {
                Outcome::Proved(what) => writeln!(stdout, "ok: {who}: {what}"),
                Outcome::NotTried(why) => writeln!(stdout, "not tried: {who}: {why}"),
                Outcome::Failed(_) => stdout.flush(),
            };
            show_failure(who, outcome);
        }
    }

    /// Shows what failed.
    pub(in crate::cli) fn show_failures(&self) {
        for Line { who, outcome } in &self.0 {
            show_failure(who, outcome);
        }
    }

    pub(super) fn proved(&mut self, who: &str, what: impl Into<String>) {
        self.add(who, Outcome::Proved(what.into()));
    }

    pub(super) fn not_tried(&mut self, who: &str, why: impl Into<String>) {
        self.add(who, Outcome::NotTried(why.into()));
    }

    pub(super) fn failed(&mut self, who: &str, what: impl Into<String>) {
        self.add(who, Outcome::Failed(what.into()));
    }

    /// What was proved, or why it was not.
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

    fn add(&mut self, who: &str, outcome: Outcome) {
        self.0.push(Line {
            who: who.to_owned(),
            outcome,
        });
    }
}

fn show_failure(who: &str, outcome: &Outcome) {
    if let Outcome::Failed(what) = outcome {
        say(&format!("error: {who}: {what}"));
    }
}

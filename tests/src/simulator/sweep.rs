//! Runs many seeds on all cores, and sums their results.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::lax::Journal;
use super::run::{Outcome, run};
use super::scenario::Scenario;
use super::trace::Show;
use super::world::Tally;
use crate::lock;

/// Failing runs that are kept; the first few are enough for an analysis.
const KEPT: usize = 10;

/// Violations that are shown of a failing run: one often recurs.
const SHOWN: usize = 5;

/// The sums over all runs of a sweep.
#[derive(Debug, Default)]
pub struct Totals {
    /// Runs.
    pub seeds: u64,
    /// Real time.
    pub took: Duration,
    /// Virtual time.
    pub span: Duration,
    /// Counts of all runs.
    pub tally: Tally,
    /// Runs with violations.
    pub failed: u64,
    /// The first of these.
    pub failures: Vec<Outcome>,
}

/// Runs the seeds from `first` on, on so many threads; `failed` is called for each failing run at once.
///
/// # Errors
///
/// A runtime cannot be built.
pub fn sweep(
    first: u64,
    seeds: u64,
    journal: Journal,
    threads: usize,
    failed: &(dyn Fn(&Outcome) + Sync),
) -> std::io::Result<Totals> {
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let totals = Mutex::new(Totals::default());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1))
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= first.saturating_add(seeds) {
                            return std::io::Result::Ok(());
                        }
                        let outcome = run(Scenario::draw(seed), journal, Show::Last)?;
                        if !outcome.violations.is_empty() {
                            failed(&outcome);
                        }
                        lock(&totals).add(outcome);
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or(Ok(())))
    })?;
    let mut totals = totals
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    totals.took = began.elapsed();
    totals.failures.sort_by_key(|outcome| outcome.seed);
    Ok(totals)
}

impl Totals {
    /// Adds a run.
    pub fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.span += outcome.span;
        for (name, count) in &outcome.tally {
            *self.tally.entry(name).or_default() += count;
        }
        if !outcome.violations.is_empty() {
            self.failed += 1;
            self.failures.push(outcome);
            self.failures.sort_by_key(|outcome| outcome.seed);
            self.failures.truncate(KEPT);
        }
    }

    /// How often something happened.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.tally.get(name).copied().unwrap_or_default()
    }
}

/// The sums, one a line.
impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let years = self.span.as_secs_f64() / (365.25 * 86_400.0);
        let took = self.took.as_secs_f64();
        writeln!(
            f,
            "{} seeds, {} failed; {years:.2} simulated years in {took:.1} s, {:.1} seeds/s",
            self.seeds,
            self.failed,
            self.seeds as f64 / took.max(f64::MIN_POSITIVE),
        )?;
        for (name, count) in &self.tally {
            writeln!(f, "{count:>12} {name}")?;
        }
        Ok(())
    }
}

/// A failing run: its violations, the last lines, and how to reproduce it.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, .. } = self;
        writeln!(f, "seed {seed}:")?;
        for violation in self.violations.iter().take(SHOWN) {
            writeln!(
                f,
                "  {} {}",
                super::trace::Shown(violation.at),
                violation.what
            )?;
        }
        if self.violations.len() > SHOWN {
            writeln!(f, "  and {} more", self.violations.len() - SHOWN)?;
        }
        for line in &self.last {
            writeln!(f, "    {line}")?;
        }
        writeln!(
            f,
            "  again: cargo run --profile bench -p evertoken-tests --bin simulate -- --seed {seed}"
        )
    }
}

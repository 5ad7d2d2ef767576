//! The simulator: a short sweep, the seeds that ever found a fault, and the test of the test. The long sweep is a command:
//! `cargo run --profile simulate -p evertoken-tests --bin simulate -- --seeds 10000`.

use evertoken_tests::simulator::lax::Journal;
use evertoken_tests::simulator::run::{Outcome, run};
use evertoken_tests::simulator::scenario::Scenario;
use evertoken_tests::simulator::sweep::{Totals, sweep};
use evertoken_tests::simulator::trace::Show;

/// Seeds of the short sweep: what takes some seconds without optimisation.
const SEEDS: u64 = 40;

/// Seeds within which a journal that is none loses a chain.
const ENOUGH: u64 = 40;

fn outcome(seed: u64) -> Outcome {
    run(Scenario::draw(seed), Journal::On, Show::Last).unwrap()
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn swept(journal: Journal, seeds: u64) -> Totals {
    sweep(0, seeds, journal, threads(), &|_| ()).unwrap()
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    for seed in [1, 2, 3] {
        assert_eq!(outcome(seed), outcome(seed));
    }
    assert_ne!(outcome(1).hash, outcome(2).hash);
}

#[test]
fn no_consumer_goes_without_and_no_chain_dies_by_our_hand() {
    let totals = swept(Journal::On, SEEDS);
    assert!(totals.failures.is_empty(), "{}", totals.failures[0]);
    for what in [
        "refreshes",
        "rotations",
        "crashes",
        "ends within an exchange",
    ] {
        assert!(totals.count(what) > 0, "no {what} in a sweep:\n{totals}");
    }
}

#[test]
fn without_a_journal_chains_die_by_our_hand() {
    let totals = swept(Journal::Off, ENOUGH);
    assert!(totals.count("chains lost by our hand") > 0, "{totals}");
}

#[test]
fn with_a_journal_that_is_written_after_the_deed_chains_die_by_our_hand() {
    let totals = swept(Journal::Reversed, ENOUGH);
    assert!(totals.count("chains lost by our hand") > 0, "{totals}");
}

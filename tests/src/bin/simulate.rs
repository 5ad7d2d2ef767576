//! Runs the simulator over many seeds, or over one with a log of all its events.
//!
//! ```console
//! $ cargo run --profile bench -p evertoken-tests --bin simulate -- --seeds 10000 [--first 0] [--threads 2] [--journal on|off|reversed]
//! $ cargo run --profile bench -p evertoken-tests --bin simulate -- --seed 42
//! $ cargo run --profile bench -p evertoken-tests --bin simulate -- --season 1
//! ```

#![expect(
    clippy::print_stdout,
    reason = "the totals are what the program is for"
)]

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use evertoken_tests::simulator::lax::Journal;
use evertoken_tests::simulator::run::run;
use evertoken_tests::simulator::scenario::Scenario;
use evertoken_tests::simulator::sweep::{Totals, sweep};
use evertoken_tests::simulator::trace::Show;

/// The command line.
struct Arguments {
    what: What,
    journal: Journal,
}

enum What {
    Sweep {
        first: u64,
        seeds: u64,
        threads: usize,
    },
    One(Scenario, Show),
}

fn main() -> Result<ExitCode> {
    let arguments = arguments()?;
    let totals = match arguments.what {
        What::Sweep {
            first,
            seeds,
            threads,
        } => sweep(first, seeds, arguments.journal, threads, &|failure| {
            println!("{failure}");
        })?,
        What::One(scenario, show) => one(scenario, arguments.journal, show)?,
    };
    print!("{totals}");
    Ok(if totals.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn one(scenario: Scenario, journal: Journal, show: Show) -> Result<Totals> {
    if show == Show::Everything {
        println!("{scenario:#?}");
    }
    let began = Instant::now();
    let mut totals = Totals::default();
    let outcome = run(scenario, journal, show)?;
    if !outcome.violations.is_empty() {
        println!("{outcome}");
    }
    totals.add(outcome);
    totals.took = began.elapsed();
    Ok(totals)
}

fn arguments() -> Result<Arguments> {
    let mut journal = Journal::On;
    let (mut first, mut seeds, mut threads) = (0, 1000, 0);
    let mut one = None;
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let value = given
            .next()
            .with_context(|| format!("{name} wants a value"))?;
        let number = || -> Result<u64> {
            value
                .parse()
                .with_context(|| format!("{name} wants a number, not {value}"))
        };
        match name.as_str() {
            "--seed" => one = Some((Scenario::draw(number()?), Show::Everything)),
            "--season" => one = Some((Scenario::season(number()?), Show::Last)),
            "--seeds" => seeds = number()?,
            "--first" => first = number()?,
            "--threads" => threads = usize::try_from(number()?)?,
            "--journal" => {
                journal = match value.as_str() {
                    "on" => Journal::On,
                    "off" => Journal::Off,
                    "reversed" => Journal::Reversed,
                    _ => bail!("--journal is on, off or reversed, not {value}"),
                }
            }
            _ => bail!(
                "{name} is no option; there are --seeds, --first, --threads, --seed, --season and --journal"
            ),
        }
    }
    if threads == 0 {
        threads = std::thread::available_parallelism().map_or(1, usize::from);
    }
    let what = match one {
        Some((scenario, show)) => What::One(scenario, show),
        None => What::Sweep {
            first,
            seeds,
            threads,
        },
    };
    Ok(Arguments { what, journal })
}

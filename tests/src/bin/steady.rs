//! Measures a process under a steady load for minutes, with many jobs and short-lived tokens: the lateness of refreshes, the
//! processor time and memory that they cost, and whether a consumer ever reads an expired token.
//!
//! ```console
//! $ cargo build --release -p evertoken
//! $ EVERTOKEN_BIN=target/release/evertoken cargo run --release -p evertoken-tests --bin steady -- [--jobs 10000] [--lifetime 300] [--minutes 10] [--hung 0] [--in-flight 64]
//! ```
//!
//! `--hung N` adds so many jobs at an issuer that takes requests and never answers; `--in-flight N` lets no more than so many ask one issuer at
//! a time: with 8 each wave of 9,000 keeps it busy from beginning to end.

#![expect(
    clippy::print_stdout,
    reason = "the numbers are what the program is for"
)]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use evertoken_tests::client::Client;
use evertoken_tests::evertoken::{Evertoken, Launch, binary};
use evertoken_tests::issuer::Issuer;
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;
use evertoken_tests::workdir::{RunDir, free_port, parts};

/// The issuer's time for an answer: a database query and a signature.
const ISSUER_DELAY: Duration = Duration::from_millis(50);

/// The size of tokens with a few groups in them.
const TOKEN_BYTES: usize = 2048;

/// Tokens that are read each second, at random.
const READS_PER_SECOND: usize = 200;

/// The longest time for the first tokens.
const PATIENCE: Duration = Duration::from_secs(600);

struct Arguments {
    jobs: usize,
    hung: usize,
    in_flight: u64,
    lifetime: Duration,
    time: Duration,
}

/// One scrape.
struct Metrics(String);

/// The results of the consumers.
#[derive(Default)]
struct Reads {
    all: usize,
    dead: usize,
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let run = RunDir::new("steady")?;
    std::fs::create_dir(run.path().join("out"))?;
    let (issuer, hung) = (issuer(arguments.lifetime)?, Issuer::start()?);
    hung.always("/token", Behaviour::hang());
    let port = free_port()?;
    let config = run.write(
        "steady.yaml",
        configuration(&arguments, run.path(), port, &issuer, &hung),
    )?;
    let begun = Instant::now();
    let process = Launch::of(binary()?)
        .env("XDG_CACHE_HOME", parts()?.join("cache"))
        .args(["run", "--quiet", "--config"])
        .args([&config])
        .spawn()?;
    wait_until("every job's token", PATIENCE, || {
        let written = std::fs::read_dir(run.path().join("out")).ok()?.count();
        (written >= arguments.jobs).then_some(())
    })
    .with_context(|| process.stderr())?;
    println!("first tokens after {:.1} s", begun.elapsed().as_secs_f64());
    report(&arguments, run.path(), port, &process)
}

fn report(arguments: &Arguments, folder: &Path, port: u16, process: &Evertoken) -> Result<()> {
    let (before, used_before, began) = (scrape(port)?, processor_time(process)?, Instant::now());
    let mut reads = Reads::default();
    let mut most_memory = 0;
    while began.elapsed() < arguments.time {
        let second = Instant::now();
        read_some(arguments.jobs, folder, &mut reads)?;
        most_memory = most_memory.max(process.rss_bytes()?);
        std::thread::sleep(Duration::from_secs(1).saturating_sub(second.elapsed()));
    }
    let (after, used) = (scrape(port)?, processor_time(process)?);
    let seconds = began.elapsed().as_secs_f64();
    let late = Lateness::between(&before, &after);
    println!(
        "jobs: {} and {} at a hung issuer; tokens of {} s; {seconds:.0} s",
        arguments.jobs,
        arguments.hung,
        arguments.lifetime.as_secs()
    );
    println!(
        "refreshes: {} ({:.1}/s)",
        late.all,
        late.all as f64 / seconds
    );
    for quantile in [0.5, 0.9, 0.99, 0.999] {
        println!(
            "lateness p{}: at most {} s",
            quantile * 100.0,
            late.at(quantile)
        );
    }
    println!(
        "processor: {:.1} s, {:.2} % of one core, {:.2} ms a refresh",
        used - used_before,
        (used - used_before) / seconds * 100.0,
        (used - used_before) * 1000.0 / late.all as f64
    );
    println!(
        "resident: {:.1} MiB at most",
        most_memory as f64 / f64::from(1 << 20)
    );
    println!(
        "read by consumers: {}, of which dead: {}",
        reads.all, reads.dead
    );
    Ok(())
}

fn arguments() -> Result<Arguments> {
    let mut parsed = Arguments {
        jobs: 10_000,
        hung: 0,
        in_flight: 64,
        lifetime: Duration::from_secs(300),
        time: Duration::from_secs(600),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{word} needs a value"))?;
        let number: u64 = value.parse().with_context(|| format!("{word} {value}"))?;
        match word.as_str() {
            "--jobs" => parsed.jobs = usize::try_from(number)?,
            "--hung" => parsed.hung = usize::try_from(number)?,
            "--in-flight" => parsed.in_flight = number,
            "--lifetime" => parsed.lifetime = Duration::from_secs(number),
            "--minutes" => parsed.time = Duration::from_secs(60 * number),
            other => bail!("no such option: {other}"),
        }
    }
    Ok(parsed)
}

/// An issuer whose tokens state their expiry.
fn issuer(lifetime: Duration) -> Result<Issuer> {
    let issuer = Issuer::start()?;
    let serial = AtomicU64::new(0);
    issuer.respond_with("/token", move |_| {
        let number = serial.fetch_add(1, Ordering::SeqCst);
        let dies = milliseconds_now() + lifetime.as_millis();
        let token = format!("{dies}.{number:0>TOKEN_BYTES$}");
        Behaviour::token(&token, lifetime.as_secs()).after(ISSUER_DELAY)
    });
    Ok(issuer)
}

fn milliseconds_now() -> u128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_millis()
}

fn configuration(
    arguments: &Arguments,
    folder: &Path,
    port: u16,
    issuer: &Issuer,
    hung: &Issuer,
) -> String {
    let folder = folder.display();
    let mut yaml = format!(
        "state: {{dir: \"{folder}/state\"}}\nserve: {{address: \"127.0.0.1:{port}\"}}\nlimits: {{per_origin: {{in_flight: {}}}, concurrency: 128}}\njobs:\n",
        arguments.in_flight
    );
    let mut job = |name: String, url: &str, output: &str| {
        yaml.push_str(&format!(
            "- {{name: {name}, source: {{plugin: oauth2, config: {{grant: client_credentials, token_url: \"{url}\", client_id: c}}, secrets: {{client_secret: {{value: s}}}}}}, outputs: [{{file: {{path: \"{folder}/{output}/{name}\"}}}}]}}\n",
        ));
    };
    for number in 0..arguments.jobs {
        job(format!("job-{number}"), &issuer.url("/token"), "out");
    }
    for number in 0..arguments.hung {
        job(format!("hung-{number}"), &hung.url("/token"), "hung");
    }
    yaml
}

fn read_some(jobs: usize, folder: &Path, reads: &mut Reads) -> Result<()> {
    for _ in 0..READS_PER_SECOND {
        let path = folder
            .join("out")
            .join(format!("job-{}", fastrand::usize(..jobs)));
        let token = std::fs::read_to_string(&path)?;
        let (dies, _) = token.split_once('.').context("a torn token")?;
        reads.all += 1;
        reads.dead += usize::from(dies.parse::<u128>()? <= milliseconds_now());
    }
    Ok(())
}

fn scrape(port: u16) -> Result<Metrics> {
    let url = format!("http://127.0.0.1:{port}/metrics");
    let answer = Client::plain().send("GET", &url, &[], &[])?;
    Ok(Metrics(String::from_utf8(answer.body)?))
}

impl Metrics {
    /// The buckets of the lateness histogram: upper bounds as they are written, and cumulative counts.
    fn lateness(&self) -> Vec<(String, u64)> {
        let bucket = |line: &str| {
            let rest = line.strip_prefix("evertoken_refresh_lateness_seconds_bucket{le=\"")?;
            let (bound, count) = rest.split_once("\"} ")?;
            Some((bound.to_owned(), count.split(' ').next()?.parse().ok()?))
        };
        self.0.lines().filter_map(bucket).collect()
    }
}

/// The lateness of refreshes between two scrapes.
struct Lateness {
    buckets: Vec<(String, u64)>,
    all: u64,
}

impl Lateness {
    fn between(before: &Metrics, after: &Metrics) -> Self {
        let before = before.lateness();
        let earlier = |bound: &str| {
            let found = before.iter().find(|(known, _)| known == bound);
            found.map_or(0, |(_, count)| *count)
        };
        let buckets: Vec<_> = after
            .lateness()
            .into_iter()
            .map(|(bound, count)| {
                let count = count - earlier(&bound);
                (bound, count)
            })
            .collect();
        let all = buckets.last().map_or(0, |(_, count)| *count);
        Self { buckets, all }
    }

    /// The bound of the bucket that this part of all refreshes is within.
    fn at(&self, quantile: f64) -> &str {
        let wanted = self.all as f64 * quantile;
        let found = self
            .buckets
            .iter()
            .find(|(_, count)| *count as f64 >= wanted);
        found.map_or("none", |(bound, _)| bound)
    }
}

/// Seconds of processor time, from `/proc/PID/stat` (proc(5), fields 14 and 15).
fn processor_time(process: &Evertoken) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid()))?;
    let (_, rest) = stat.rsplit_once(") ").context("no command in stat")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |index: usize| -> Result<f64> {
        Ok(fields.get(index).context("stat is short")?.parse::<f64>()?)
    };
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok((ticks(11)? + ticks(12)?) / per_second)
}

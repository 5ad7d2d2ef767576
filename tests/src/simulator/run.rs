//! One run of one seed, on one thread and in virtual time.

use std::sync::Arc;
use std::time::Duration;

use evertoken::state::MemoryState;
use fastrand::Rng;
use tokio::sync::mpsc;

use super::issuer::MARK;
use super::jobs;
use super::lax::Journal;
use super::operator;
use super::process::{Machine, Order};
use super::scenario::{Part, Scenario, Trouble};
use super::trace::Show;
use super::world::{Tally, Violation, World};

/// The average number of reads of a consumer in the life of a token.
const READS_PER_LIFE: u32 = 2;

/// The shortest interval between reads.
const READ_LEAST: Duration = Duration::from_secs(5);

/// The longest interval between reads.
const READ_MOST: Duration = Duration::from_secs(1200);

/// How often issuers drop tokens that cannot be in use any more.
const FORGET_EVERY: Duration = Duration::from_secs(6 * 3600);

/// How long expired tokens can be distinguished from foreign ones.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// The largest difference between the clocks of two machines, in milliseconds: less than what the journal tolerates.
const MOST_APART_MS: i64 = 8000;

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The virtual time.
    pub span: Duration,
    /// The fingerprint of all events.
    pub hash: u64,
    /// Counts.
    pub tally: Tally,
    /// Outputs without a valid token at the end.
    pub dead_at_end: usize,
    /// The violations.
    pub violations: Vec<Violation>,
    /// The last lines before the first of these, or before the end.
    pub last: Vec<String>,
}

/// Runs a scenario.
///
/// # Errors
///
/// The runtime cannot be built.
pub fn run(scenario: Scenario, journal: Journal, show: Show) -> std::io::Result<Outcome> {
    fastrand::seed(scenario.seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    Ok(runtime.block_on(live(scenario, journal, show)))
}

async fn live(scenario: Scenario, journal: Journal, show: Show) -> Outcome {
    let seed = scenario.seed;
    let world = World::new(scenario, show);
    let mut rng = Rng::with_seed(seed.wrapping_add(0xfeed));
    let mut key = [0; 32];
    rng.fill(&mut key);
    let memory = MemoryState::new(key);
    let mut orders = Vec::new();
    let mut machines = Vec::new();
    for index in 0..world.scenario.processes {
        let machine = Arc::new(Machine::new(&world, index, memory.clone(), journal));
        let (order, ordered) = mpsc::unbounded_channel();
        let running = Arc::clone(&machine);
        tokio::spawn(async move { running.run(ordered).await });
        orders.push(order);
        machines.push(machine);
    }
    for job in 0..world.scenario.jobs.len() {
        tokio::spawn(consume(Arc::clone(&world), job, rng.fork()));
    }
    tokio::spawn(forget(Arc::clone(&world)));
    weather(&world, &machines, &orders).await;
    world.time.until(world.scenario.span).await;
    look_at_disk(&world, &memory);
    conclude(&world)
}

/// Triggers the drawn faults at their times.
async fn weather(
    world: &Arc<World>,
    machines: &[Arc<Machine>],
    orders: &[mpsc::UnboundedSender<Order>],
) {
    for (at, trouble) in world.scenario.weather.clone() {
        world.time.until(at).await;
        world.note(format_args!("weather: {trouble:?}"));
        match trouble {
            Trouble::Crash {
                process,
                aim,
                down,
                again,
                meanwhile,
            } => order(
                orders,
                process,
                Order::Kill {
                    aim,
                    down,
                    again,
                    meanwhile,
                },
            ),
            Trouble::Restart { process, meanwhile } => {
                order(orders, process, Order::Restart(meanwhile));
            }
            Trouble::Broken {
                part,
                chance,
                lasts,
            } => broken(world, part, chance, lasts),
            Trouble::ClockSet { process, by } => clock_set(world, machines, process, by),
            Trouble::Suspend(duration) => suspend(world, duration),
            Trouble::Hand(hand) => {
                let running: Vec<_> = machines.iter().filter_map(|m| m.handle()).collect();
                operator::act(world, hand, &running).await;
            }
        }
    }
}

fn order(orders: &[mpsc::UnboundedSender<Order>], process: usize, order: Order) {
    if let Some(process) = orders.get(process) {
        // A machine ends with its orders, never before.
        let _ = process.send(order);
    }
}

fn broken(world: &Arc<World>, part: Part, chance: f64, lasts: Duration) {
    let until = world.time.now() + lasts;
    world.facts().break_down(part, chance, until);
    if matches!(part, Part::Traps(_) | Part::Hangs(_)) {
        // A plugin stays broken until an operator installs another version.
        let world = Arc::clone(world);
        tokio::spawn(async move {
            world.time.until(until).await;
            operator::act(&world, super::scenario::Hand::Upgrade, &[]).await;
        });
    }
}

fn clock_set(world: &World, machines: &[Arc<Machine>], process: usize, by: i64) {
    if let Some(machine) = machines.get(process) {
        let off_by = machine.clock.off_by();
        // Two machines stay in step, as with NTP.
        let by = if machines.len() > 1 {
            (off_by + by).clamp(-MOST_APART_MS / 2, MOST_APART_MS / 2) - off_by
        } else {
            by
        };
        machine.clock.set_by(by);
    }
    let now = world.time.now();
    let mut facts = world.facts();
    facts.count("fault: clock set");
    facts.jumped(now, "a clock that was set");
}

fn suspend(world: &World, duration: Duration) {
    world.time.suspend(duration);
    let now = world.time.now();
    let mut facts = world.facts();
    facts.count("fault: suspended");
    facts.jumped(now, "a machine that slept");
}

/// Reads a job's outputs at random times and checks them.
async fn consume(world: Arc<World>, job: usize, mut rng: Rng) {
    let life = world.scenario.life(job);
    let mean = (life / READS_PER_LIFE).clamp(READ_LEAST, READ_MOST);
    loop {
        tokio::time::sleep(mean.mul_f64(rng.f64() * 2.0)).await;
        read(&world, job);
    }
}

fn read(world: &World, job: usize) {
    let now = world.time.now();
    let mut facts = world.facts();
    let outputs = world.scenario.jobs.get(job).map_or(0, |plan| plan.outputs);
    for output in 0..outputs {
        facts.read(job, &jobs::path(job, output), now);
    }
}

async fn forget(world: Arc<World>) {
    loop {
        tokio::time::sleep(FORGET_EVERY).await;
        let horizon = world.time.now().saturating_sub(REMEMBERED);
        for issuer in &mut world.facts().issuers {
            issuer.forget_before(horizon);
        }
    }
}

/// In an encrypted store, no token is on disk in plain text.
fn look_at_disk(world: &World, memory: &MemoryState) {
    if world.scenario.is_sealed && memory.holds(MARK.as_bytes()) {
        let now = world.time.now();
        let what = "the state store has a token in the clear although there is a key";
        world.facts().violated(now, what.to_owned());
    }
}

fn conclude(world: &World) -> Outcome {
    for job in 0..world.scenario.jobs.len() {
        read(world, job);
    }
    let facts = world.facts();
    Outcome {
        seed: world.scenario.seed,
        span: world.scenario.span,
        hash: facts.trace.hash(),
        tally: facts.tally.clone(),
        dead_at_end: facts.dead_outputs(world.time.now()),
        violations: facts.violations.clone(),
        last: facts.trace.last(),
    }
}

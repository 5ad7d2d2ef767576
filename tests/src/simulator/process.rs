//! A simulated evertoken process: the real runner, refresh rules, journal and store on simulated ports, from its start to its
//! end, and its restarts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use evertoken::capability::keep::Keeper;
use evertoken::capability::{Host, Settings};
use evertoken::runner::live::Live;
use evertoken::runner::metrics::Metrics;
use evertoken::runner::ports::Ports;
use evertoken::runner::{Handle, JobChange, Runner};
use evertoken::state::{MemoryState, StateKey, Store};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::jobs;
use super::lax::{Journal, Lax};
use super::life::Life;
use super::network::Net;
use super::operator;
use super::ports::{Dice, Models, Outputs, Secrets, Sleeps, Sources};
use super::scenario::{Aim, Edge, Hand, Step};
use super::time::MachineClock;
use super::world::World;
use crate::lock;

/// A process that does not reach the step at which it should be killed is killed after this time.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// The duration of a requested restart.
const RESTART: Duration = Duration::from_millis(800);

/// The key of the state store, if it is encrypted.
const STATE_KEY: [u8; 32] = [200; 32];

/// An order to a process.
#[derive(Debug)]
pub enum Order {
    /// It is killed there, and so many times again soon after its start.
    Kill {
        /// The point.
        aim: Aim,
        /// How long it stays down.
        down: Duration,
        /// How many times again.
        again: u32,
        /// An operator's action meanwhile.
        meanwhile: Option<Hand>,
    },
    /// It is stopped gracefully.
    Restart(Option<Hand>),
}

/// A machine with one process.
pub struct Machine {
    world: Arc<World>,
    index: usize,
    /// Its clocks.
    pub clock: Arc<MachineClock>,
    memory: MemoryState,
    journal: Journal,
    /// The handle of the running process.
    handle: Mutex<Option<Handle>>,
}

/// One start.
struct Started {
    life: Arc<Life>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    host: Host,
}

impl Machine {
    /// A machine without a running process.
    #[must_use]
    pub fn new(world: &Arc<World>, index: usize, memory: MemoryState, journal: Journal) -> Self {
        Self {
            world: Arc::clone(world),
            index,
            clock: Arc::new(MachineClock::new(world.time.clone())),
            memory,
            journal,
            handle: Mutex::default(),
        }
    }

    /// The handle of the running process; none: none runs.
    #[must_use]
    pub fn handle(&self) -> Option<Handle> {
        lock(&self.handle).clone()
    }

    /// Keeps a process running, and carries out orders, until the orders end.
    pub async fn run(&self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut left_open = false;
        let mut shots: Vec<Aim> = Vec::new();
        loop {
            let started = self.start(left_open).await;
            let order = match shots.pop() {
                Some(aim) => Some(Order::Kill {
                    aim,
                    down: Duration::from_millis(200),
                    again: 0,
                    meanwhile: None,
                }),
                None => orders.recv().await,
            };
            match order {
                Some(Order::Kill {
                    aim,
                    down,
                    again,
                    meanwhile,
                }) => {
                    shots.extend((0..again).map(|_| self.aim_anew()));
                    left_open = self.kill(started, aim).await;
                    self.away(down, meanwhile).await;
                }
                Some(Order::Restart(meanwhile)) => {
                    left_open = self.stop(started).await;
                    self.away(RESTART, meanwhile).await;
                }
                None => {
                    started.life.kill();
                    started.task.abort();
                    return;
                }
            }
        }
    }

    fn aim_anew(&self) -> Aim {
        let mut facts = self.world.facts();
        let step = facts
            .rng
            .choice([Step::Commit, Step::Send, Step::Read, Step::Secret])
            .unwrap_or(Step::Commit);
        let edge = facts
            .rng
            .choice([Edge::Before, Edge::Midway, Edge::After])
            .unwrap_or(Edge::After);
        Aim {
            step,
            nth: facts.rng.u32(1..4),
            edge,
        }
    }

    async fn away(&self, down: Duration, meanwhile: Option<Hand>) {
        tokio::time::sleep(down).await;
        if let Some(hand) = meanwhile {
            operator::act(&self.world, hand, &[]).await;
        }
    }

    async fn start(&self, left_open: bool) -> Started {
        let now = self.world.time.now();
        let (life, jobs, rng) = {
            let mut facts = self.world.facts();
            let id = facts.next_life();
            let off_by = self.clock.off_by();
            facts.started(self.index, now, left_open, off_by);
            facts.note(
                now,
                format_args!(
                    "start {id} of process {}, clock off by {off_by} ms",
                    self.index
                ),
            );
            (
                Arc::new(Life::begin(id, self.index)),
                jobs::all(&facts),
                facts.rng.fork(),
            )
        };
        let host = Host::new(self.settings(&life));
        let outputs = Outputs {
            world: Arc::clone(&self.world),
            life: Arc::clone(&life),
            clock: Arc::clone(&self.clock),
        };
        let live = Arc::new(Live::new(
            Arc::new(Models(Arc::clone(&self.world))),
            host.clone(),
            Arc::new(outputs),
        ));
        let ports = Ports {
            acquirer: Arc::new(Sources {
                world: Arc::clone(&self.world),
                live: Arc::clone(&live),
            }),
            publisher: live,
            keeper: self.keeper(&life),
            clock: Arc::clone(&self.clock) as _,
            timer: Arc::new(Sleeps(Arc::clone(&life))),
            random: Arc::new(Dice(Mutex::new(rng))),
        };
        let (runner, handle) = Runner::new(ports, &jobs::LIMITS, Arc::new(Metrics::new()));
        let stop = CancellationToken::new();
        let task = tokio::spawn(runner.run(stop.clone()));
        let changes = jobs.into_iter().map(JobChange::Put).collect();
        // It has just begun; it takes commands.
        let _ = handle.apply(changes).await;
        *lock(&self.handle) = Some(handle);
        Started {
            life,
            stop,
            task,
            host,
        }
    }

    fn settings(&self, life: &Arc<Life>) -> Settings {
        let secrets = Arc::new(Secrets {
            world: Arc::clone(&self.world),
            life: Arc::clone(life),
        });
        Settings {
            limits: jobs::LIMITS.plugin.current(),
            keeper: self.keeper(life),
            kubernetes: Some(Arc::clone(&secrets) as _),
            write_back: Some(secrets),
            transport: Arc::new(Net {
                world: Arc::clone(&self.world),
                life: Arc::clone(life),
                clock: Arc::clone(&self.clock),
            }),
            clock: Arc::clone(&self.clock) as _,
            environment: Arc::new(|_| None),
        }
    }

    /// The store, reopened.
    fn keeper(&self, life: &Arc<Life>) -> Arc<dyn Keeper> {
        let mut memory = self.memory.clone().with_faults(Arc::new(Disk {
            world: Arc::clone(&self.world),
            life: Arc::clone(life),
        }));
        if self.world.scenario.processes > 1 {
            memory = memory.shared_by_processes();
        }
        let keys = if self.world.scenario.is_sealed {
            StateKey::parse(&STATE_KEY).into_iter().collect()
        } else {
            Vec::new()
        };
        #[expect(
            clippy::expect_used,
            reason = "a simulated disk keeps whole what was written, under keys that the process has: if not, the model is wrong, and its run tells nothing"
        )]
        let store = Arc::new(Store::in_memory(memory, keys).expect("a memory that opens"));
        match self.journal {
            Journal::On => store,
            journal => Arc::new(Lax::new(store, journal)),
        }
    }

    /// Returns whether a request was unanswered.
    async fn kill(&self, started: Started, aim: Aim) -> bool {
        started.life.aim(aim);
        let killed = tokio::time::timeout(PATIENCE, started.life.killed()).await;
        if killed.is_err() {
            started.life.kill();
        }
        self.world.facts().count("crashes");
        self.ended(&started, "is killed")
    }

    async fn stop(&self, started: Started) -> bool {
        self.world.facts().count("restarts");
        self.world
            .note(format_args!("start {} is told to end", started.life.id));
        self.world.facts().down.insert(self.index);
        started.stop.cancel();
        let mut task = started.task;
        let _ = (&mut task).await;
        started.host.drain(Duration::ZERO).await;
        started.life.kill();
        self.ended(&Started { task, ..started }, "ends")
    }

    fn ended(&self, started: &Started, how: &str) -> bool {
        started.task.abort();
        *lock(&self.handle) = None;
        let now = self.world.time.now();
        let mut facts = self.world.facts();
        let facts = &mut *facts;
        let open = facts.ledger.open(started.life.id);
        let failing = facts.store_failed.values().min().copied();
        facts.ledger.killed(started.life.id, now, failing);
        facts.down.insert(self.index);
        if open > 0 {
            facts.count("ends within an exchange");
        }
        facts.note(
            now,
            format_args!(
                "start {} {how} with {open} requests unanswered",
                started.life.id
            ),
        );
        open > 0
    }
}

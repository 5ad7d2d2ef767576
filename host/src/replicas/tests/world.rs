//! Replicas in a simulated world: their own decisions and fences against a model of the API server, with clocks that differ in
//! time and speed, slow and lost requests, freezes, deaths, partitions, outages and hands that write into Leases. A seed stands for
//! a run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::num::NonZeroU32;
use std::time::Duration;

use fastrand::Rng;

use crate::model::JobId;
use crate::replicas::election::Record;
use crate::replicas::fence::Fence;
use crate::replicas::member::{Answer, LeaseId, Member, Order, Request};
use crate::replicas::shards::{replica_of, shard_of};
use crate::replicas::{Orders, RELEASE_WITHIN, REQUEST_TIMEOUT};

/// Milliseconds of the world.
type Millis = u64;

const SECOND: Millis = 1000;

/// How long after the last trouble all is as it should be.
const SETTLED: Millis = 20 * SECOND;

/// Jobs that cover the shards.
const JOBS: usize = 24;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Wake(usize),
    Arrive(usize, u64),
    Answer(usize, u64),
    Timeout(usize, u64),
    /// The owner of the jobs looks at its orders.
    Look(usize),
    Stopped(usize, u32),
    Leave(usize),
    Left(usize),
    Gone(usize),
}

struct Flight {
    request: Request,
    sent_at: Duration,
    answer: Option<Answer>,
}

/// One process.
struct Process {
    name: String,
    member: Member,
    fence: Fence,
    /// The shard of each job.
    shards: Vec<u32>,
    /// Of its clock.
    offset: Duration,
    /// In thousandths of the world's.
    speed: u32,
    is_alive: bool,
    frozen_until: Millis,
    cut_off_until: Millis,
    flights: BTreeMap<u64, Flight>,
    orders: Orders,
    /// What the owner of its jobs runs, or stops.
    running: BTreeSet<u32>,
    stopping: BTreeSet<u32>,
    wake: Millis,
}

impl Process {
    fn clock(&self, now: Millis) -> Duration {
        self.offset + Duration::from_micros(now * u64::from(self.speed))
    }
}

#[derive(Default)]
struct Server {
    leases: BTreeMap<LeaseId, Record>,
    hidden: BTreeSet<LeaseId>,
    revision: u64,
    down_until: Millis,
    /// Readings are answered, writes are not.
    read_only_until: Millis,
    /// Writes are answered, readings are not.
    write_only_until: Millis,
}

impl Server {
    fn put(&mut self, lease: &LeaseId, record: Record) -> Record {
        self.revision += 1;
        let record = Record {
            revision: Some(self.revision.to_string()),
            ..record
        };
        self.hidden.remove(lease);
        self.leases.insert(lease.clone(), record.clone());
        record
    }

    fn handle(&mut self, request: &Request, now: Millis) -> Option<Answer> {
        let refuses_until = match request {
            Request::List => self.write_only_until,
            _ => self.read_only_until,
        };
        if now < self.down_until.max(refuses_until) {
            return None;
        }
        let revision = |lease| {
            let record: Option<&Record> = self.leases.get(lease);
            record.and_then(|record| record.revision.clone())
        };
        Some(match request {
            Request::List => {
                let shown = self.leases.iter();
                let shown = shown.filter(|(lease, _)| !self.hidden.contains(*lease));
                Answer::Listed(shown.map(|(l, r)| (l.clone(), r.clone())).collect())
            }
            Request::Write {
                lease,
                over,
                record,
            } => {
                if revision(lease) == *over {
                    Answer::Written(self.put(lease, record.clone()))
                } else {
                    Answer::Changed
                }
            }
            Request::Delete { lease, revision: r } => match revision(lease) {
                None => Answer::Deleted,
                Some(found) if found == *r => {
                    self.leases.remove(lease);
                    Answer::Deleted
                }
                Some(_) => Answer::Changed,
            },
            Request::Adopt { lease } => {
                if let Some(record) = self.leases.get(lease).cloned() {
                    self.put(lease, record);
                }
                Answer::Changed
            }
        })
    }
}

struct World {
    seed: u64,
    rng: Rng,
    now: Millis,
    server: Server,
    processes: Vec<Process>,
    events: BinaryHeap<Reverse<(Millis, u64, Event)>>,
    tickets: u64,
    /// Requests may be slow and lost.
    is_rough: bool,
    requests: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            rng: Rng::with_seed(seed),
            now: 0,
            server: Server::default(),
            processes: Vec::new(),
            events: BinaryHeap::new(),
            tickets: 0,
            is_rough: false,
            requests: 0,
        }
    }

    fn start(&mut self, count: u32) -> usize {
        let index = self.processes.len();
        let name = format!("pod-{index}-{:x}", self.rng.u16(..));
        let count = NonZeroU32::new(count).unwrap();
        self.processes.push(Process {
            member: Member::new(name.clone(), count),
            name,
            fence: Fence::closed(count.get()),
            shards: jobs().map(|job| shard_of(&job, count)).collect(),
            offset: Duration::from_millis(self.rng.u64(..1_000_000_000)),
            speed: self.rng.u32(970..1030),
            is_alive: true,
            frozen_until: 0,
            cut_off_until: 0,
            flights: BTreeMap::new(),
            orders: Orders::new(),
            running: BTreeSet::new(),
            stopping: BTreeSet::new(),
            wake: 0,
        });
        self.poll(index);
        index
    }

    fn after(&mut self, delay: Millis, event: Event) {
        self.tickets += 1;
        let at = self.now + delay;
        self.events.push(Reverse((at, self.tickets, event)));
    }

    fn latency(&mut self) -> Millis {
        match self.rng.u8(..100) {
            0..3 if self.is_rough => self.rng.u64(1000..6000),
            0..10 if self.is_rough => self.rng.u64(100..1500),
            _ => self.rng.u64(1..20),
        }
    }

    /// Lets the process decide, as its task does.
    fn poll(&mut self, index: usize) {
        let now = self.now;
        let process = &mut self.processes[index];
        if !process.is_alive || now < process.frozen_until {
            return;
        }
        let clock = process.clock(now);
        let requests = process.member.poll(clock);
        process.fence.set(process.member.fences());
        let orders = process.member.orders();
        let is_new = orders != process.orders;
        process.orders = orders;
        let sleep = process.member.wake().saturating_sub(clock);
        let sleep = Millis::try_from(sleep.as_millis())
            .unwrap_or(SECOND)
            .min(SECOND)
            + 1;
        process.wake = now + sleep;
        self.after(sleep, Event::Wake(index));
        if is_new {
            let late = match self.rng.u8(..10) {
                0 if self.is_rough => self.rng.u64(..3000),
                _ => self.rng.u64(..5),
            };
            self.after(late, Event::Look(index));
        }
        for request in requests {
            self.send(index, request, clock);
        }
    }

    fn send(&mut self, index: usize, request: Request, sent_at: Duration) {
        self.requests += 1;
        self.tickets += 1;
        let ticket = self.tickets;
        let flight = Flight {
            request,
            sent_at,
            answer: None,
        };
        self.processes[index].flights.insert(ticket, flight);
        let there = self.latency();
        self.after(there, Event::Arrive(index, ticket));
        let timeout = Millis::try_from(REQUEST_TIMEOUT.as_millis()).unwrap();
        self.after(timeout, Event::Timeout(index, ticket));
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Wake(index) => {
                let process = &self.processes[index];
                if self.now < process.frozen_until {
                    let thaw = process.frozen_until - self.now;
                    self.after(thaw, Event::Wake(index));
                } else if self.now >= process.wake {
                    self.poll(index);
                }
            }
            Event::Arrive(index, ticket) => self.arrive(index, ticket),
            Event::Answer(index, ticket) => self.land(index, ticket, true),
            Event::Timeout(index, ticket) => self.land(index, ticket, false),
            Event::Look(index) => self.obey(index),
            Event::Stopped(index, shard) => {
                if self.delay_while_frozen(index, Event::Stopped(index, shard)) {
                    return;
                }
                let process = &mut self.processes[index];
                if process.stopping.remove(&shard) {
                    process.member.jobs_stopped(shard);
                    self.poll(index);
                }
            }
            Event::Leave(index) => {
                if self.delay_while_frozen(index, Event::Leave(index)) {
                    return;
                }
                self.processes[index].member.begin_release();
                self.poll(index);
                let winding_down = self.rng.u64(0..4000);
                self.after(winding_down, Event::Left(index));
            }
            Event::Left(index) => {
                if self.delay_while_frozen(index, Event::Left(index)) {
                    return;
                }
                let process = &mut self.processes[index];
                process.running.clear();
                process.stopping.clear();
                process.member.release();
                self.poll(index);
                let limit = Millis::try_from(RELEASE_WITHIN.as_millis()).unwrap();
                self.after(limit, Event::Gone(index));
            }
            Event::Gone(index) => self.processes[index].is_alive = false,
        }
    }

    fn obey(&mut self, index: usize) {
        if self.delay_while_frozen(index, Event::Look(index)) {
            return;
        }
        let process = &mut self.processes[index];
        let is_told = |shard| process.orders.contains_key(shard);
        assert!(
            process.running.iter().all(is_told),
            "seed {}: jobs run without an order",
            self.seed
        );
        let mut stop = Vec::new();
        for (shard, order) in process.orders.clone() {
            if order == Order::Run {
                process.running.insert(shard);
                assert!(
                    !process.stopping.contains(&shard),
                    "seed {}: shard {shard} is to run before its jobs have stopped",
                    self.seed
                );
            } else if !process.stopping.contains(&shard) {
                process.running.remove(&shard);
                process.stopping.insert(shard);
                stop.push(shard);
            }
        }
        for shard in stop {
            let hangs = self.is_rough && self.rng.u8(..40) == 0;
            let delay = if hangs {
                45 * SECOND
            } else {
                self.rng.u64(0..1500)
            };
            self.after(delay, Event::Stopped(index, shard));
        }
    }

    fn delay_while_frozen(&mut self, index: usize, event: Event) -> bool {
        let thaw = self.processes[index].frozen_until;
        if self.now < thaw {
            self.after(thaw - self.now, event);
        }
        self.now < thaw
    }

    /// A request reaches the server, also when its sender has given it up or has died since.
    fn arrive(&mut self, index: usize, ticket: u64) {
        let process = &self.processes[index];
        let is_cut_off = self.now < process.cut_off_until;
        let Some(flight) = process.flights.get(&ticket) else {
            return;
        };
        let request = flight.request.clone();
        if is_cut_off || (self.is_rough && self.rng.u8(..100) == 0) {
            return;
        }
        let Some(answer) = self.server.handle(&request, self.now) else {
            return;
        };
        if self.is_rough && self.rng.u8(..100) == 0 {
            return;
        }
        if let Some(flight) = self.processes[index].flights.get_mut(&ticket) {
            flight.answer = Some(answer);
        }
        let back = self.latency();
        self.after(back, Event::Answer(index, ticket));
    }

    fn land(&mut self, index: usize, ticket: u64, is_answer: bool) {
        let event = if is_answer {
            Event::Answer(index, ticket)
        } else {
            Event::Timeout(index, ticket)
        };
        if self.delay_while_frozen(index, event) {
            return;
        }
        let now = self.now;
        let process = &mut self.processes[index];
        let is_cut_off = is_answer && now < process.cut_off_until;
        // Given up, it may still be under way to the server.
        let Some(flight) = process.flights.get_mut(&ticket) else {
            return;
        };
        if is_cut_off || flight.sent_at == Duration::MAX {
            return;
        }
        let sent_at = std::mem::replace(&mut flight.sent_at, Duration::MAX);
        let answer = if is_answer {
            flight.answer.take()
        } else {
            None
        };
        let answer = answer.unwrap_or(Answer::Failed);
        let request = flight.request.clone();
        let clock = process.clock(now);
        if process.is_alive {
            process.member.answered(&request, answer, sent_at, clock);
            self.poll(index);
        }
    }

    /// Runs until a time, and looks after every event.
    fn run_until(&mut self, end: Millis) {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at > end {
                self.tickets += 1;
                self.events.push(Reverse((at, self.tickets, event)));
                break;
            }
            self.now = at;
            self.step(event);
            self.look();
        }
        self.now = end;
        self.look();
    }

    /// Runs for some time up to this many seconds.
    fn pass(&mut self, seconds: u64) {
        let end = self.now + self.rng.u64(0..seconds * SECOND);
        self.run_until(end);
    }

    /// Fences open only at events, so this sees every moment.
    fn look(&self) {
        for job in 0..JOBS {
            let mut open = Vec::new();
            for process in self.processes.iter().filter(|process| process.is_alive) {
                if process
                    .fence
                    .holds(process.shards[job], process.clock(self.now))
                {
                    open.push(process.name.as_str());
                }
            }
            assert!(
                open.len() < 2,
                "seed {} at {} ms: job {job} may run at {open:?}",
                self.seed,
                self.now
            );
        }
    }

    /// Where each shard may run.
    fn placement(&self, count: u32) -> BTreeMap<u32, Vec<String>> {
        let of = |shard| {
            let open = self.processes.iter().filter(move |process| {
                process.is_alive
                    && process.running.contains(&shard)
                    && process.fence.holds(shard, process.clock(self.now))
            });
            open.map(|process| process.name.clone()).collect()
        };
        (0..count).map(|shard| (shard, of(shard))).collect()
    }

    /// Whether a shard runs nowhere but at this process.
    fn missing(&self, count: u32, besides: usize) -> bool {
        let name = &self.processes[besides].name;
        let mut placement = self.placement(count).into_values();
        placement.any(|at| at.iter().all(|one| one == name))
    }

    fn right(&self, count: u32) -> BTreeMap<u32, Vec<String>> {
        let living = self.processes.iter().filter(|process| process.is_alive);
        let living: Vec<&str> = living.map(|process| process.name.as_str()).collect();
        let of = |shard| replica_of(shard, living.iter().copied()).map(str::to_owned);
        (0..count)
            .map(|shard| (shard, of(shard).into_iter().collect()))
            .collect()
    }

    fn require_right(&self, count: u32, when: &str) {
        assert_eq!(
            self.placement(count),
            self.right(count),
            "seed {} at {} ms: {when}",
            self.seed,
            self.now
        );
    }

    fn any_living(&mut self) -> Option<usize> {
        let living = self.processes.iter().enumerate();
        let living: Vec<usize> = living
            .filter(|(_, process)| process.is_alive)
            .map(|(index, _)| index)
            .collect();
        self.rng.choice(living)
    }

    /// One thing goes wrong.
    fn trouble(&mut self, count: u32) {
        let Some(index) = self.any_living() else {
            return;
        };
        let length = self.rng.u64(100..40 * SECOND);
        match self.rng.u8(..10) {
            0 => self.processes[index].frozen_until = self.now + length,
            1 => self.processes[index].is_alive = false,
            2 => self.processes[index].cut_off_until = self.now + length,
            3 => self.server.down_until = self.now + length,
            4 => self.server.read_only_until = self.now + length,
            5 => self.after(0, Event::Leave(index)),
            6 => {
                self.start(count);
            }
            _ => self.hand(index, count),
        }
    }

    /// Somebody with kubectl.
    fn hand(&mut self, index: usize, count: u32) {
        let name = self.processes[index].name.clone();
        let lease = LeaseId::Shard(self.rng.u32(..count));
        let Some(found) = self.server.leases.get(&lease).cloned() else {
            return;
        };
        match self.rng.u8(..7) {
            0 => {
                self.server.leases.remove(&lease);
            }
            6 => self.server.leases.clear(),
            1 => {
                self.server.leases.remove(&LeaseId::Replica(name));
            }
            2 => {
                let holder = None;
                self.server.put(&lease, Record { holder, ..found });
            }
            3 => {
                let other = LeaseId::Shard(self.rng.u32(..count));
                let other = self.server.leases.get(&other);
                let holder = match other.and_then(|other| other.holder.clone()) {
                    Some(holder) if self.rng.bool() => Some(holder),
                    _ => Some(name),
                };
                self.server.put(&lease, Record { holder, ..found });
            }
            4 => {
                let holder = Some("nobody".to_owned());
                let duration = Some(Duration::from_secs(self.rng.u64(..15)));
                let record = Record {
                    holder,
                    duration,
                    ..found
                };
                self.server.put(&lease, record);
            }
            _ => {
                self.server.hidden.insert(lease);
            }
        }
    }

    /// From here on nothing is wrong.
    fn calm(&mut self) {
        self.is_rough = false;
        self.server.down_until = 0;
        self.server.read_only_until = 0;
        self.server.write_only_until = 0;
        self.server.hidden.clear();
        for process in &mut self.processes {
            process.frozen_until = process.frozen_until.min(self.now);
            process.cut_off_until = 0;
        }
    }
}

fn jobs() -> impl Iterator<Item = JobId> {
    (0..JOBS).map(|index| JobId::file(format!("job-{index}")))
}

fn seeds() -> u64 {
    let seeds = std::env::var("EVERTOKEN_REPLICA_SEEDS").ok();
    seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(50)
}

#[test]
fn in_a_rough_world_no_shard_is_two_replicas_and_after_20_s_of_calm_each_is_its_right_ones() {
    const COUNT: u32 = 4;
    for seed in 0..seeds() {
        let mut world = World::new(seed);
        for _ in 0..3 {
            world.start(COUNT);
        }
        world.is_rough = true;
        for _ in 0..world.rng.u8(2..12) {
            world.pass(12);
            world.trouble(COUNT);
        }
        // What hangs, what is late and what leaves is over, too.
        world.pass(20);
        world.calm();
        world.run_until(world.now + 46 * SECOND);
        if world.any_living().is_none() {
            world.start(COUNT);
        }
        world.run_until(world.now + SETTLED);
        world.require_right(COUNT, "not settled");
        for _ in 0..20 {
            world.run_until(world.now + SECOND);
            world.require_right(COUNT, "not steady");
        }
    }
}

/// Two replicas with one number of shards are replaced by two with another, in whatever order.
#[test]
fn while_the_number_of_shards_changes_no_job_runs_twice_and_then_all_run() {
    for seed in 0..seeds() {
        let mut world = World::new(seed);
        let (old, new) = if seed % 2 == 0 { (3, 5) } else { (5, 3) };
        let mut leaving = vec![world.start(old), world.start(old)];
        world.pass(30);
        world.is_rough = world.rng.bool();
        for _ in 0..2 {
            world.start(new);
            world.pass(10);
            let index = leaving.swap_remove(world.rng.usize(..leaving.len()));
            if world.rng.u8(..4) == 0 {
                world.processes[index].is_alive = false;
            } else {
                world.after(0, Event::Leave(index));
            }
            world.pass(10);
        }
        world.calm();
        world.run_until(world.now + 46 * SECOND);
        world.run_until(world.now + SETTLED);
        world.require_right(new, "not settled");
    }
}

/// It is found when it is to be created, and then has its time.
#[test]
fn a_lease_without_our_label_is_found_and_its_shard_runs_again() {
    let mut world = World::new(1);
    let first = world.start(4);
    world.run_until(40 * SECOND);
    world.require_right(4, "not settled");
    for shard in 0..4 {
        world.server.hidden.insert(LeaseId::Shard(shard));
    }
    // Its holder's next renewal labels it.
    world.run_until(50 * SECOND);
    world.require_right(4, "disturbed");
    assert!(world.server.hidden.is_empty());
    world.processes[first].is_alive = false;
    world.server.hidden = world.server.leases.keys().cloned().collect();
    world.start(4);
    world.run_until(90 * SECOND);
    world.require_right(4, "not found");
}

#[test]
fn the_lease_of_a_replica_that_is_gone_is_deleted_after_some_minutes_and_one_that_was_frozen_makes_another()
 {
    let mut world = World::new(1);
    let processes = [0; 3].map(|_| world.start(4));
    world.run_until(40 * SECOND);
    let lives = |world: &World, index: usize| {
        let lease = LeaseId::Replica(world.processes[index].name.clone());
        world.server.leases.contains_key(&lease)
    };
    let [stays, dies, freezes] = processes;
    world.processes[dies].is_alive = false;
    world.processes[freezes].frozen_until = 700 * SECOND;
    world.run_until(600 * SECOND);
    assert!(lives(&world, dies) && lives(&world, freezes));
    world.run_until(690 * SECOND);
    assert!(!lives(&world, dies) && !lives(&world, freezes));
    world.run_until(750 * SECOND);
    assert!(lives(&world, stays) && lives(&world, freezes));
    world.require_right(4, "not settled");
}

/// The longest times in worlds where nothing else is wrong.
#[test]
fn what_is_given_up_is_taken_within_2_s_and_what_a_dead_replica_held_within_20_s() {
    for (dies, limit) in [(false, 2 * SECOND), (true, 20 * SECOND)] {
        let mut longest = 0;
        for seed in 0..seeds() {
            let mut world = World::new(seed);
            for _ in 0..3 {
                world.start(4);
            }
            world.run_until(40 * SECOND);
            world.pass(5);
            world.require_right(4, "not settled");
            let index = world.rng.usize(..3);
            if dies {
                world.processes[index].is_alive = false;
            } else {
                // Without any time for the others to prepare.
                world.processes[index].member.begin_release();
                world.step(Event::Left(index));
            }
            let began = world.now;
            while world.missing(4, index) {
                world.run_until(world.now + 10);
                assert!(world.now - began < limit, "seed {seed}");
            }
            longest = longest.max(world.now - began);
        }
        println!(
            "dies: {dies}; the longest gap of {} runs: {longest} ms",
            seeds()
        );
    }
}

/// A replica joins four times a minute: shards that it does not get stay where they are.
#[test]
fn a_replica_that_comes_moves_no_shard_but_its_own_and_those_without_a_gap_of_more_than_4_s() {
    for seed in 0..seeds() {
        let mut world = World::new(seed);
        for _ in 0..2 {
            world.start(4);
        }
        world.run_until(40 * SECOND);
        let before = world.placement(4);
        let index = world.start(4);
        let name = world.processes[index].name.clone();
        let mut gaps = BTreeMap::new();
        for _ in 0..2000 {
            world.run_until(world.now + 10);
            for (shard, at) in world.placement(4) {
                let was = before.get(&shard);
                assert!(
                    at.is_empty() || Some(&at) == was || at == [name.clone()],
                    "seed {seed}: {shard}"
                );
                if at.is_empty() {
                    *gaps.entry(shard).or_insert(0) += 10;
                }
            }
        }
        world.require_right(4, "not settled");
        let longest = gaps.values().max().copied().unwrap_or_default();
        assert!(longest < 4000, "seed {seed}: {gaps:?}");
    }
}

/// An API server that was away lets nobody conclude that the others are dead.
#[test]
fn after_an_outage_every_shard_goes_on_where_it_was() {
    for seed in 0..seeds() {
        let mut world = World::new(seed);
        for _ in 0..3 {
            world.start(4);
        }
        world.run_until(40 * SECOND);
        let before = world.placement(4);
        let end = world.now + world.rng.u64(0..60 * SECOND);
        match seed % 3 {
            0 => world.server.down_until = end,
            1 => world.server.read_only_until = end,
            _ => world.server.write_only_until = end,
        }
        world.run_until(end);
        for _ in 0..1500 {
            world.run_until(world.now + 10);
            for (shard, at) in world.placement(4) {
                assert!(
                    at.is_empty() || before.get(&shard) == Some(&at),
                    "seed {seed}: shard {shard} went to {at:?}"
                );
            }
        }
        assert_eq!(world.placement(4), before, "seed {seed}");
    }
}

/// What the head of the module says of the requests.
#[test]
fn the_requests_of_a_settled_world_are_as_many_as_is_said() {
    let mut world = World::new(1);
    for _ in 0..3 {
        world.start(8);
    }
    world.run_until(60 * SECOND);
    let before = world.requests;
    world.run_until(160 * SECOND);
    let per_second = (world.requests - before) as f64 / 100.0;
    // 3 replicas / 1.5 s, and 3 + 8 Leases / 5 s.
    assert!((3.8..4.3).contains(&per_second), "{per_second}");
}

//! Several replicas of one evertoken share its jobs. Every job belongs to a shard, every shard has a Lease, and who holds that runs
//! the shard's jobs. Every replica has a Lease of its own besides, by which the others see that it lives; from who lives, all compute
//! alike which replica should have which shard. A holder that is not the right one stops the shard's jobs and gives it up; the right
//! one takes what is given up within 2 s, and what a dead replica held within 20 s. A Lease that is new is as one of the dead: the very
//! first replicas begin after 17 s.
//!
//! | file | decides |
//! | --- | --- |
//! | [`shards`] | which shard a job belongs to, and which replica should have a shard |
//! | `election` | what to do about one Lease |
//! | `member` | which requests a replica makes, and what it makes of the answers |
//! | `leases` | nothing: it makes the requests |
//! | `fence` | whether a job may do something now |
//!
//! It takes, per replica, a list of all Leases each 1.5 s, and each 5 s a write for the replica and for each shard that it holds: with
//! 8 shards and 3 replicas 2 lists and 2.2 writes a second in all, of some 1 kB a Lease.

mod election;
mod fence;
mod leases;
mod member;
pub mod shards;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::election::RENEW_EVERY;
pub use self::fence::Fence;
use self::leases::Leases;
pub use self::member::Order;
use self::member::{Answer, Member, Request};
use crate::kubernetes::Kubernetes;
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::model::time::Clock;

/// The timeout of a request. Two fit between the time when a renewal is due and the one when it is too late, the second over another
/// connection; and a take that comes later than this is not believed, so that none is believed which another replica could have
/// missed.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(2500);

/// How long giving up all Leases may take at the end of the process. Those that are not given up by then end by themselves.
const RELEASE_WITHIN: Duration = Duration::from_secs(2);

/// The longest sleep: what is due is due by a clock that goes on while the machine sleeps, and the runtime's stops.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// The longest part of a host's name in an identity, that of a DNS label.
const HOST_NAME_MAX: usize = 63;

/// The name of one run of a replica: no other process has or had it, so that what it finds under it, it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(String);

impl Identity {
    /// A new one that begins with a name for people, the Pod's.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn new(host_name: &str) -> Result<Self, Failure> {
        let mut random = [0; 5];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| {
            Failure::new(
                FailureKind::Internal,
                HostCode::CryptoRandom,
                "replicas: the system gives no random bytes for this replica's identity",
            )
        })?;
        Ok(Self::with(host_name, &random))
    }

    /// In the letters of a Kubernetes object's name.
    fn with(host_name: &str, random: &[u8]) -> Self {
        let letters = host_name.chars().map(|letter| match letter {
            'a'..='z' | '0'..='9' => letter,
            'A'..='Z' => letter.to_ascii_lowercase(),
            _ => '-',
        });
        let name: String = letters.take(HOST_NAME_MAX).collect();
        let name = match name.trim_matches('-') {
            "" => "replica",
            name => name,
        };
        Self(format!("{name}-{}", HEXLOWER.encode(random)))
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the Leases are, and who we are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The namespace of all Leases.
    pub namespace: String,
    /// What their names begin with, and their label's value; at most 63 characters of a DNS label.
    pub prefix: String,
    /// This process.
    pub identity: Identity,
    /// By how many shards the jobs are divided; the same for all replicas. While two numbers are in use, as in a roll-out, the new
    /// replicas begin when the last of the old ones has gone.
    pub shards: NonZeroU32,
}

/// An order for each shard that has one.
pub type Orders = BTreeMap<u32, Order>;

enum Command {
    Stopped(u32),
    BeginRelease,
    Release,
}

/// What the jobs' owner has of [`Replicas`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    orders: watch::Receiver<Orders>,
    fence: Fence,
}

impl Handle {
    /// What the jobs of each shard are to do. To [`Order::Finish`] and [`Order::Stop`], [`Self::stopped`] is the answer, also for a
    /// shard whose jobs never ran: who looks rarely may have missed that they were to. Before the answer, a shard is not to run again.
    #[must_use]
    pub fn orders(&self) -> watch::Receiver<Orders> {
        self.orders.clone()
    }

    /// What to ask before every exchange and every write of a job.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// No job of this shard runs any more.
    pub fn stopped(&self, shard: u32) {
        self.send(Command::Stopped(shard));
    }

    /// The process is about to end: every order to run becomes one to finish, and the other replicas prepare. Shards stay ours, and
    /// fences open, until [`Self::stopped`] or [`Self::released`].
    pub fn begin_release(&self) {
        self.send(Command::BeginRelease);
    }

    /// All jobs have stopped: closes all fences, and gives all shards up, so that others can take them. Returns when this is done, or
    /// after 2 s.
    pub async fn released(&self) {
        self.fence.close();
        self.send(Command::Release);
        let mut orders = self.orders.clone();
        // Until the task has ended.
        while orders.changed().await.is_ok() {}
    }

    fn send(&self, command: Command) {
        // A task that has ended has closed all fences.
        let _ = self.commands.send(command);
    }
}

/// The task that holds this replica's Leases.
pub struct Replicas {
    leases: Arc<Leases>,
    clock: Arc<dyn Clock>,
    member: Member,
    flights: JoinSet<Landed>,
    commands: mpsc::UnboundedReceiver<Command>,
    orders: watch::Sender<Orders>,
    fence: Fence,
    is_reached: bool,
    trouble: Trouble,
}

/// A request and what came of it.
struct Landed {
    request: Request,
    sent_at: Duration,
    outcome: Result<Answer, Failure>,
}

impl Replicas {
    /// `kubernetes`: a client of their own, so that renewals never wait for the jobs' requests.
    #[must_use]
    pub fn new(
        kubernetes: Arc<Kubernetes>,
        settings: Settings,
        clock: Arc<dyn Clock>,
    ) -> (Self, Handle) {
        let Settings {
            namespace,
            prefix,
            identity,
            shards: count,
        } = settings;
        let (commands, received) = mpsc::unbounded_channel();
        let (orders, seen) = watch::channel(Orders::new());
        let fence = Fence::closed(count.get());
        let replicas = Self {
            leases: Arc::new(Leases {
                kubernetes,
                namespace,
                prefix,
            }),
            clock,
            member: Member::new(identity.0, count),
            flights: JoinSet::new(),
            commands: received,
            orders,
            fence: fence.clone(),
            is_reached: false,
            trouble: Trouble::default(),
        };
        let handle = Handle {
            commands,
            orders: seen,
            fence,
        };
        (replicas, handle)
    }

    /// Shares the jobs until [`Handle::released`], or until all handles are dropped, which gives nothing up.
    pub async fn run(mut self) {
        let mut ends_at = None;
        loop {
            let now = self.now();
            let requests = self.member.poll(now);
            self.publish();
            for request in requests {
                self.send(request);
            }
            if ends_at.is_some_and(|end| now >= end) || self.member.is_released() {
                return;
            }
            let sleep = self.member.wake().saturating_sub(now).min(SLEEP_MAX);
            tokio::select! {
                biased;
                // Before anything is decided on: what the jobs' owner has said.
                command = self.commands.recv() => match command {
                    Some(Command::Stopped(shard)) => self.member.jobs_stopped(shard),
                    Some(Command::BeginRelease) => self.member.begin_release(),
                    Some(Command::Release) => {
                        self.member.release();
                        ends_at = Some(self.now().saturating_add(RELEASE_WITHIN));
                    }
                    None => return,
                },
                Some(landed) = self.flights.join_next() => self.land(landed),
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    fn now(&self) -> Duration {
        self.clock.now().boot
    }

    fn send(&mut self, request: Request) {
        let (leases, now) = (Arc::clone(&self.leases), self.clock.now());
        // A cluster that was never reached may first want a login.
        let limit = (self.is_reached || request != Request::List).then_some(REQUEST_TIMEOUT);
        self.flights.spawn(async move {
            let performed = leases.perform(&request, now.wall);
            let outcome = match limit {
                Some(limit) => {
                    let timely = tokio::time::timeout(limit, performed).await;
                    timely.unwrap_or_else(|_| Err(late()))
                }
                None => performed.await,
            };
            Landed {
                request,
                sent_at: now.boot,
                outcome,
            }
        });
    }

    fn land(&mut self, landed: Result<Landed, tokio::task::JoinError>) {
        let Ok(landed) = landed else {
            // It was aborted; then so is this task.
            return;
        };
        let Landed {
            request,
            sent_at,
            outcome,
        } = landed;
        let now = self.now();
        self.trouble.heed(&request, outcome.as_ref().err(), now);
        self.is_reached |= outcome.is_ok();
        let answer = outcome.unwrap_or(Answer::Failed);
        self.member.answered(&request, answer, sent_at, now);
    }

    /// Tells the jobs. A fence opens before they are told to run, and closes before they are told to stop.
    fn publish(&self) {
        self.fence.set(self.member.fences());
        let orders = self.member.orders();
        self.orders.send_if_modified(|shown| {
            if *shown == orders {
                return false;
            }
            for (shard, order) in &orders {
                if shown.get(shard) != Some(order) {
                    log(*shard, *order);
                }
            }
            *shown = orders;
            true
        });
    }
}

/// However it ends.
impl Drop for Replicas {
    fn drop(&mut self) {
        self.fence.close();
    }
}

fn log(shard: u32, order: Order) {
    match order {
        Order::Run => tracing::info!(shard, "this replica runs the shard's jobs"),
        Order::Finish => tracing::info!(shard, "the shard's jobs stop, for another replica"),
        Order::Stop => tracing::warn!(
            shard,
            "the shard's jobs stop at once: its Lease is another's, or was not renewed in time"
        ),
    }
}

fn late() -> Failure {
    Failure::new(
        FailureKind::Unavailable,
        HostCode::KubernetesTimeout,
        format!(
            "replicas: no answer from the API server within {} ms",
            REQUEST_TIMEOUT.as_millis()
        ),
    )
}

/// What goes wrong with readings and with writes, which is told when it begins, changes and ends: when none has failed for as long as
/// all take their turn.
#[derive(Default)]
struct Trouble {
    reading: Option<(HostCode, Duration)>,
    writing: Option<(HostCode, Duration)>,
}

impl Trouble {
    fn heed(&mut self, request: &Request, failure: Option<&Failure>, now: Duration) {
        let (known, what) = match request {
            Request::List => (&mut self.reading, "read"),
            _ => (&mut self.writing, "written"),
        };
        match (failure, *known) {
            (Some(error), before) => {
                let code = error.host_code().unwrap_or(HostCode::KubernetesUnavailable);
                if before.is_none_or(|(before, _)| before != code) {
                    tracing::warn!(%error, "the replicas' Leases cannot be {what}");
                }
                *known = Some((code, now));
            }
            (None, Some((_, last))) if now >= last.saturating_add(RENEW_EVERY) => {
                tracing::info!("the replicas' Leases can be {what} again");
                *known = None;
            }
            (None, _) => {}
        }
    }
}

#[cfg(test)]
mod tests;

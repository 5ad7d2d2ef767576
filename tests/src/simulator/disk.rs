//! The disk: its writes survive the process, take time, are refused for a while, or happen although they are reported as failed.

use std::sync::Arc;
use std::time::Duration;

use evertoken::capability::chain::ChainId;
use evertoken::model::failure::{Failure, FailureKind};
use evertoken::state::{Faults, MemoryWrite, RecordKey};
use futures_core::future::BoxFuture;

use super::life::{Life, Taken};
use super::scenario::{Edge, Part, Step};
use super::world::World;

/// A commit takes up to so many milliseconds before it happens, and as many after.
const COMMIT_MS: u64 = 8;

/// The disk as one process sees it.
#[derive(Debug)]
pub struct Disk {
    /// Where it is.
    pub world: Arc<World>,
    /// The process that writes.
    pub life: Arc<Life>,
}

impl Faults for Disk {
    fn read(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.life.step(Step::Read, async { Ok(()) }))
    }

    fn before<'a>(&'a self, write: &'a MemoryWrite) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let taken = self.life.before(Step::Commit).await;
            self.take_time().await;
            self.life.remember(taken);
            self.refuse_if_full(write)?;
            // Between the time and the write nothing else happens, except that the process may be killed.
            self.life.at(Taken::default(), Edge::Before).await;
            Ok(())
        })
    }

    fn after<'a>(
        &'a self,
        write: &'a MemoryWrite,
        applied: bool,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let taken = self.life.remembered();
            self.wrote(write, applied);
            self.life.at(taken, Edge::Midway).await;
            self.take_time().await;
            self.life.at(taken, Edge::After).await;
            self.lose_the_answer()
        })
    }
}

impl Disk {
    async fn take_time(&self) {
        let milliseconds = self.world.facts().rng.u64(0..COMMIT_MS);
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }

    fn refuse_if_full(&self, write: &MemoryWrite) -> Result<(), Failure> {
        let now = self.world.time.now();
        let mut facts = self.world.facts();
        if facts.strikes(now, |part| part == Part::Disk).is_none() {
            return Ok(());
        }
        facts.store_refused = Some(now);
        if let MemoryWrite::Put(RecordKey::Chain(id)) = write {
            facts.store_failed.entry(*id).or_insert(now);
        }
        facts.hinder_all(now, now, "a full disk");
        facts.note(now, format_args!("the disk refuses {}", Shown(write)));
        Err(failure("state.disk-full"))
    }

    fn wrote(&self, write: &MemoryWrite, applied: bool) {
        let now = self.world.time.now();
        let mut facts = self.world.facts();
        facts.count("commits");
        if let (MemoryWrite::Put(RecordKey::Chain(id)), true) = (write, applied) {
            facts.store_failed.remove(id);
        }
        let what = if applied {
            "writes"
        } else {
            "would have written"
        };
        facts.note(
            now,
            format_args!("start {} {what} {}", self.life.id, Shown(write)),
        );
    }

    fn lose_the_answer(&self) -> Result<(), Failure> {
        let now = self.world.time.now();
        let mut facts = self.world.facts();
        if facts
            .strikes(now, |part| part == Part::DiskAnswer)
            .is_none()
        {
            return Ok(());
        }
        facts.hinder_all(now, now, "a disk whose answer was lost");
        Err(failure("state.io"))
    }
}

fn failure(code: &str) -> Failure {
    Failure::new(FailureKind::Unavailable, code, "the model's disk fails")
}

/// The prefix of a chain's name, which is the same in every run, as the store's key is.
struct Shown<'a>(&'a MemoryWrite);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (key, what) = match self.0 {
            MemoryWrite::Put(key) => (key, ""),
            MemoryWrite::Delete(key) => (key, "the end of "),
        };
        match key {
            RecordKey::Chain(ChainId([a, b, ..])) => write!(f, "{what}chain {a:02x}{b:02x}"),
            key => write!(f, "{what}the {key}"),
        }
    }
}

//! Virtual time: tokio's paused clock, which advances to the next timer whenever all tasks are idle, and a machine's two clocks
//! on top of it, which can be set and can go on while timers stand still.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use evertoken::model::time::{Clock, Reading, Timestamp};
use tokio::time::Instant;

use crate::lock;

/// The start of virtual time on a correct wall clock.
pub const EPOCH: Timestamp = Timestamp(1_700_000_000_000);

/// The true time, for issuers and consumers alike. Clones are the same time.
#[derive(Debug, Clone)]
pub struct Time {
    start: Instant,
    asleep: Arc<Mutex<Duration>>,
}

impl Time {
    /// Begins now. To be called within the runtime.
    #[must_use]
    pub fn begin() -> Self {
        Self {
            start: Instant::now(),
            asleep: Arc::default(),
        }
    }

    /// Since the beginning.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.start.elapsed() + *lock(&self.asleep)
    }

    /// All machines sleep: time passes, timers stand still.
    pub fn suspend(&self, duration: Duration) {
        *lock(&self.asleep) += duration;
    }

    /// Waits until `at`, or until a suspension has carried time beyond it.
    pub async fn until(&self, at: Duration) {
        loop {
            let left = at.saturating_sub(self.now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

/// The clocks of one machine.
#[derive(Debug)]
pub struct MachineClock {
    time: Time,
    /// How far its wall clock is off, in milliseconds.
    off_by: Mutex<i64>,
}

impl MachineClock {
    /// A correct clock.
    #[must_use]
    pub fn new(time: Time) -> Self {
        Self {
            time,
            off_by: Mutex::default(),
        }
    }

    /// Sets the wall clock.
    pub fn set_by(&self, milliseconds: i64) {
        *lock(&self.off_by) += milliseconds;
    }

    /// How far it is off, in milliseconds.
    #[must_use]
    pub fn off_by(&self) -> i64 {
        *lock(&self.off_by)
    }
}

impl Clock for MachineClock {
    fn now(&self) -> Reading {
        let boot = self.time.now();
        let wall = EPOCH.after(boot).0.saturating_add_signed(self.off_by());
        Reading {
            wall: Timestamp(wall),
            boot,
        }
    }
}

//! Virtual time: a runtime that, instead of going idle, advances its clocks to the next timer. An hour takes as long as the work
//! in it, and every run is the same.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::future::BoxFuture;

use crate::model::time::{Clock, Reading, Timestamp};
use crate::runner::ports::Timer;

/// The start of virtual time, on the wall clock.
pub(crate) const EPOCH: Timestamp = Timestamp(1_700_000_000_000);

/// A world's time. Clones are the same time.
#[derive(Clone, Default)]
pub(crate) struct VirtualTime(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The clock of timers.
    running: Duration,
    /// The total time that the machine slept.
    asleep: Duration,
    /// How far the wall clock was set, in milliseconds.
    set_by: i64,
    timers: BTreeMap<(Duration, u64), Option<Waker>>,
    made: u64,
}

impl VirtualTime {
    /// Runs `main` in this time.
    pub(crate) fn run<T>(&self, main: impl Future<Output = T>) -> T {
        let time = self.clone();
        tokio::runtime::Builder::new_current_thread()
            .on_thread_park(move || time.advance())
            .build()
            .unwrap()
            .block_on(main)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn advance(&self) {
        let mut due = Vec::new();
        let mut state = self.state();
        let Some(&(at, _)) = state.timers.keys().next() else {
            panic!("everybody waits, and for nothing that time brings");
        };
        state.running = state.running.max(at);
        for ((when, _), waker) in &mut state.timers {
            if *when > at {
                break;
            }
            due.extend(waker.take());
        }
        drop(state);
        due.into_iter().for_each(Waker::wake);
    }

    /// Sets the wall clock.
    pub(crate) fn set_wall_clock_by(&self, seconds: i64) {
        self.state().set_by += seconds * 1000;
    }

    /// Suspends the machine: both clocks go on, timers stand still.
    pub(crate) fn suspend(&self, duration: Duration) {
        self.state().asleep += duration;
    }

    /// Time since the beginning.
    pub(crate) fn passed(&self) -> Duration {
        let state = self.state();
        state.running + state.asleep
    }

    pub(crate) async fn wait(&self, duration: Duration) {
        self.sleep(duration).await;
    }
}

impl Clock for VirtualTime {
    fn now(&self) -> Reading {
        let boot = self.passed();
        let wall = EPOCH.after(boot).0;
        Reading {
            wall: Timestamp(wall.saturating_add_signed(self.state().set_by)),
            boot,
        }
    }
}

impl Timer for VirtualTime {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut state = self.state();
        state.made += 1;
        let key = (state.running + duration, state.made);
        state.timers.insert(key, None);
        Box::pin(Sleep {
            time: self.clone(),
            key,
        })
    }
}

struct Sleep {
    time: VirtualTime,
    key: (Duration, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.time.state();
        if state.running >= self.key.0 {
            return Poll::Ready(());
        }
        state.timers.insert(self.key, Some(context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.time.state().timers.remove(&self.key);
    }
}

//! One start of a process, from outside: each of its steps into the world passes here, and here it is killed. A killed process does
//! nothing any more: whatever it waits for at a port never comes, and what it had not done by then is not done.

use std::future::pending;
use std::sync::Mutex;

use tokio::sync::Notify;

use super::ledger;
use super::scenario::{Aim, Edge, Step};
use crate::lock;

/// A start of a process.
#[derive(Debug)]
pub struct Life {
    /// Which start; no two of a run are the same.
    pub id: ledger::Life,
    /// Which process.
    pub process: usize,
    state: Mutex<State>,
    killed: Notify,
}

#[derive(Debug)]
struct State {
    is_alive: bool,
    aim: Option<Aim>,
    steps: u64,
    /// A commit under way in which it is to be killed.
    commit: Taken,
}

/// A step under way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Taken {
    /// Whether the process is to be killed in it.
    aimed: Option<Edge>,
}

impl Life {
    /// It begins.
    #[must_use]
    pub fn begin(id: ledger::Life, process: usize) -> Self {
        Self {
            id,
            process,
            state: Mutex::new(State {
                is_alive: true,
                aim: None,
                steps: 0,
                commit: Taken::default(),
            }),
            killed: Notify::new(),
        }
    }

    /// It will be killed there.
    pub fn aim(&self, aim: Aim) {
        lock(&self.state).aim = Some(aim);
    }

    /// Whether a shot is still to come.
    #[must_use]
    pub fn is_aimed_at(&self) -> bool {
        lock(&self.state).aim.is_some()
    }

    /// Whether it lives.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        lock(&self.state).is_alive
    }

    /// How many steps it took.
    #[must_use]
    pub fn steps(&self) -> u64 {
        lock(&self.state).steps
    }

    /// It is killed now.
    pub fn kill(&self) {
        lock(&self.state).is_alive = false;
        self.killed.notify_one();
    }

    /// Waits for its end.
    pub async fn killed(&self) {
        if self.is_alive() {
            self.killed.notified().await;
        }
    }

    /// Takes a step, from before its effect.
    pub async fn before(&self, step: Step) -> Taken {
        let taken = self.take(step);
        self.at(taken, Edge::Before).await;
        taken
    }

    /// The step is at this edge; does not return if the process is dead by then.
    pub async fn at(&self, taken: Taken, edge: Edge) {
        if taken.aimed == Some(edge) && self.is_alive() {
            self.kill();
        }
        if !self.is_alive() {
            pending::<()>().await;
        }
    }

    /// Keeps what a commit began with for its end, which is told apart from it.
    pub fn remember(&self, taken: Taken) {
        if matches!(taken.aimed, Some(Edge::Midway | Edge::After)) {
            lock(&self.state).commit = taken;
        }
    }

    /// What a commit began with.
    #[must_use]
    pub fn remembered(&self) -> Taken {
        std::mem::take(&mut lock(&self.state).commit)
    }

    /// A step with its effect.
    pub async fn step<T>(&self, step: Step, effect: impl Future<Output = T>) -> T {
        let taken = self.before(step).await;
        let result = effect.await;
        self.at(taken, Edge::Midway).await;
        self.at(taken, Edge::After).await;
        result
    }

    fn take(&self, step: Step) -> Taken {
        let mut state = lock(&self.state);
        state.steps += 1;
        let Some(aim) = state.aim.as_mut().filter(|aim| aim.step == step) else {
            return Taken { aimed: None };
        };
        aim.nth = aim.nth.saturating_sub(1);
        if aim.nth > 0 {
            return Taken { aimed: None };
        }
        let aimed = Some(aim.edge);
        state.aim = None;
        Taken { aimed }
    }
}

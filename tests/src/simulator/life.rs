//! One start of a process, as seen from outside: each of its operations at a port passes here, and here it is killed. A killed
//! process stops completely: what it waits for at a port never comes, and unfinished operations do not happen.

use std::future::pending;
use std::sync::Mutex;

use tokio::sync::Notify;

use super::ledger;
use super::scenario::{Aim, Edge, Step};
use crate::lock;

/// A start of a process.
#[derive(Debug)]
pub struct Life {
    /// Its number, unique in a run.
    pub id: ledger::Life,
    /// Its process.
    pub process: usize,
    state: Mutex<State>,
    killed: Notify,
}

#[derive(Debug)]
struct State {
    is_alive: bool,
    aim: Option<Aim>,
    steps: u64,
    /// The commit in progress in which it is to be killed.
    commit: Taken,
}

/// A step in progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct Taken {
    /// Whether the process is to be killed in it.
    aimed: Option<Edge>,
}

impl Life {
    /// A start begins.
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

    /// Sets the point at which it is killed.
    pub fn aim(&self, aim: Aim) {
        lock(&self.state).aim = Some(aim);
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        lock(&self.state).is_alive
    }

    /// The number of its steps.
    #[must_use]
    pub fn steps(&self) -> u64 {
        lock(&self.state).steps
    }

    /// Kills it.
    pub fn kill(&self) {
        lock(&self.state).is_alive = false;
        self.killed.notify_one();
    }

    /// Waits until it is killed.
    pub async fn killed(&self) {
        if self.is_alive() {
            self.killed.notified().await;
        }
    }

    /// Begins a step, before its effect.
    pub async fn before(&self, step: Step) -> Taken {
        let taken = self.take(step);
        self.at(taken, Edge::Before).await;
        taken
    }

    /// The step reaches this point; does not return if the process is dead.
    pub async fn at(&self, taken: Taken, edge: Edge) {
        if taken.aimed == Some(edge) && self.is_alive() {
            self.kill();
        }
        if !self.is_alive() {
            pending::<()>().await;
        }
    }

    /// Keeps the state of a commit's beginning for its end, which is reported separately.
    pub fn remember(&self, taken: Taken) {
        if matches!(taken.aimed, Some(Edge::Midway | Edge::After)) {
            lock(&self.state).commit = taken;
        }
    }

    /// The state of the commit's beginning.
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

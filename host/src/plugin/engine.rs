//! The engine that runs components, each call in memory of its own; the one that compiles them; and the thread that lets running
//! ones be interrupted. It ticks only while a call is in flight, so that an idle process uses no CPU.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::{Config, Engine};

use super::limits;

/// wasmtime's errors as standard errors.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Compiles components for the engine that runs them: both have the same settings.
///
/// # Errors
/// wasmtime does not support this machine.
pub(super) fn new_compiler() -> Result<Engine, BoxError> {
    let mut settings = settings();
    settings.enable_compiler(true);
    Ok(Engine::new(&settings)?)
}

/// Runs compiled components, each call in memory of its own.
///
/// # Errors
/// wasmtime does not support this machine.
pub(super) fn new_engine() -> Result<Engine, BoxError> {
    Ok(Engine::new(&settings())?)
}

/// The settings that both engines share: all that machine code depends on. The running engine has no compiler, whose tables would
/// only take memory.
fn settings() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .memory_reservation(limits::MEMORY_RESERVATION)
        .memory_guard_size(limits::MEMORY_GUARD)
        // Backtraces of plugins are not used: without them compiled plugins are smaller.
        .wasm_backtrace_max_frames(None)
        .native_unwind_info(false)
        .generate_address_map(false)
        .enable_compiler(false);
    config
}

/// A hash of what a compiled component depends on besides the component and the machine: wasmtime's version and our settings.
/// Whether the machine has the required CPU features, wasmtime checks on loading.
pub(super) fn compatibility(engine: &Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

/// A thread that ticks while a call is in flight.
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    calls_in_flight: AtomicUsize,
    stopped: AtomicBool,
    turns: Arc<Turns>,
}

/// A schedule for plugins that compute for long: one after the other, so that however many there are, they use one worker thread
/// and leave the others free.
#[derive(Default)]
pub(super) struct Turns(Mutex<Option<Instant>>);

impl Turns {
    /// When the next free turn begins. It is reserved for as long as the plugin's last turn lasted, within bounds, since part of
    /// that may have been waiting.
    pub(super) fn take(&self, lasted: Duration) -> Instant {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let turn = free.map_or(now, |free| free.max(now));
        *free = Some(turn + lasted.clamp(limits::TICK, limits::LONGEST_TURN));
        turn
    }
}

impl Ticker {
    /// Calls `on_tick` each [`limits::TICK`] while a call is in flight.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub(super) fn start(on_tick: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            calls_in_flight: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            turns: Arc::default(),
        });
        let thread = std::thread::Builder::new()
            .name("plugin-ticker".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || tick(&on_tick, &shared)
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Keeps ticking at least until the guard is dropped.
    pub(super) fn hold(&self) -> TickerGuard {
        if self.shared.calls_in_flight.fetch_add(1, Ordering::SeqCst) == 0
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
        TickerGuard(Arc::clone(&self.shared))
    }

    #[cfg(test)]
    pub(super) fn calls_in_flight(&self) -> usize {
        self.shared.calls_in_flight.load(Ordering::SeqCst)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// A call in flight.
pub(super) struct TickerGuard(Arc<Shared>);

impl TickerGuard {
    /// The schedule that the calls of this ticker share.
    pub(super) fn turns(&self) -> Arc<Turns> {
        Arc::clone(&self.0.turns)
    }
}

impl Drop for TickerGuard {
    fn drop(&mut self) {
        self.0.calls_in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

fn tick(on_tick: &dyn Fn(), shared: &Shared) {
    while !shared.stopped.load(Ordering::SeqCst) {
        if shared.calls_in_flight.load(Ordering::SeqCst) == 0 {
            // An unpark between the check and here is not lost: parking then returns at once.
            std::thread::park();
        } else {
            std::thread::sleep(limits::TICK);
            on_tick();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_turn_begins_when_the_one_before_has_ended() {
        let turns = Turns::default();
        let mut before = turns.take(Duration::ZERO);
        for (lasted, spacing) in [
            (limits::TICK * 2, limits::TICK),
            (Duration::from_secs(9), limits::TICK * 2),
            (Duration::ZERO, limits::LONGEST_TURN),
        ] {
            let turn = turns.take(lasted);
            assert!(turn >= before + spacing, "{spacing:?}");
            before = turn;
        }
    }

    #[test]
    fn the_ticker_ticks_while_a_call_is_in_flight_and_rests_otherwise() {
        let ticks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&ticks);
        let ticker = Ticker::start(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
        std::thread::sleep(5 * limits::TICK);
        assert_eq!(ticks.load(Ordering::SeqCst), 0);

        let (first, second) = (ticker.hold(), ticker.hold());
        drop(first);
        std::thread::sleep(20 * limits::TICK);
        assert!(ticks.load(Ordering::SeqCst) > 2);

        drop(second);
        // The tick that may be in progress.
        std::thread::sleep(5 * limits::TICK);
        let rested = ticks.load(Ordering::SeqCst);
        std::thread::sleep(20 * limits::TICK);
        assert_eq!(ticks.load(Ordering::SeqCst), rested);
    }

    #[test]
    fn two_engines_of_one_process_are_compatible() {
        assert_eq!(
            compatibility(&new_engine().unwrap()),
            compatibility(&new_engine().unwrap())
        );
    }
}

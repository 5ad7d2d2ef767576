//! The only place where wasmtime stores are made, so that no limit can be forgotten. A store is used for one call.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, ResourceLimiterAsync, Store, UpdateDeadline};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::clocks;
use super::engine::TickerGuard;
use super::limits;
use crate::model::PluginLimits;

/// The data of a store: the empty WASI context, the limits, and the host's side of the call.
pub(super) struct Guest<H> {
    /// The host's side: capabilities of a source, the log of a formatter.
    pub(super) host: H,
    /// The resources behind the plugin's handles.
    pub(super) table: ResourceTable,
    /// The plugin's memory use and its limit.
    pub(super) memory: MemoryLimit,
    /// The first bytes of standard error, where a panic writes its message.
    pub(super) stderr: MemoryOutputPipe,
    wasi: WasiCtx,
    /// When its reserved turn begins, for a plugin that computes for long; none: it does not.
    turn: Option<tokio::time::Instant>,
    _ticker: TickerGuard,
}

impl<H> Guest<H> {
    /// Whether it computes, or waits for its turn to.
    pub(super) fn computes(&self) -> bool {
        self.turn
            .is_some_and(|turn| turn.elapsed() < limits::LONGEST_TURN)
    }
}

impl<H: Send> WasiView for Guest<H> {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// Why a running plugin was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum StopReason {
    /// Its time limit.
    #[error("the call's time is over")]
    AtDeadline,
    /// The process is stopping.
    #[error("the process is stopping")]
    WithTheProcess,
}

/// The time limit of a plugin.
pub(super) struct Deadline {
    pub(super) deadline: Instant,
    /// Cancelled when the process is to end.
    pub(super) stop: Option<CancellationToken>,
}

impl Deadline {
    /// Whether a running plugin must stop. `seen_stop` is when it ran for the first time after the process was asked to stop.
    fn reached(&self, seen_stop: &mut Option<Instant>) -> Result<(), StopReason> {
        let now = Instant::now();
        if now >= self.deadline {
            return Err(StopReason::AtDeadline);
        }
        let is_stopping = |stop: &CancellationToken| stop.is_cancelled();
        if self.stop.as_ref().is_some_and(is_stopping)
            && now.duration_since(*seen_stop.get_or_insert(now)) >= limits::TIME_AFTER_STOP
        {
            return Err(StopReason::WithTheProcess);
        }
        Ok(())
    }
}

/// A store with every limit set. The plugin yields at each tick, and is stopped at the first one after its deadline; a plugin
/// that waits in a host call does not tick and is stopped by the caller's timeout.
pub(super) fn new_store<H: Send + 'static>(
    engine: &Engine,
    ticker: TickerGuard,
    host: H,
    limits: &PluginLimits,
    end: Deadline,
) -> Store<Guest<H>> {
    let stderr = MemoryOutputPipe::new(limits::STDERR_BYTES);
    let turns = ticker.turns();
    let mut table = ResourceTable::new();
    table.set_max_capacity(limits::RESOURCES);
    let guest = Guest {
        host,
        table,
        memory: MemoryLimit::new(limits.memory_bytes),
        wasi: empty_wasi(stderr.clone()),
        stderr,
        turn: None,
        _ticker: ticker,
    };
    let mut store = Store::new(engine, guest);
    store.limiter_async(|guest| &mut guest.memory);
    store.set_hostcall_fuel(call_bytes(limits));
    store.set_max_component_handles(limits::HANDLES);
    store.set_epoch_deadline(1);
    let (mut ticks, mut seen_stop) = (0_u32, None);
    store.epoch_deadline_callback(move |mut store| {
        end.reached(&mut seen_stop)?;
        ticks = ticks.saturating_add(1);
        // The process's timers and sockets are served before the plugin goes on.
        let pause: Pin<Box<dyn Future<Output = ()> + Send>> = if ticks > limits::TICKS_AT_WILL {
            let turn = &mut store.data_mut().turn;
            let next = turns.take(turn.map_or(limits::TICK, |turn| turn.elapsed()));
            *turn = Some(next);
            Box::pin(tokio::time::sleep_until(next))
        } else {
            Box::pin(tokio::task::yield_now())
        };
        Ok(UpdateDeadline::YieldCustom(1, pause))
    });
    store
}

/// Bytes that may leave the plugin in one call.
pub(super) fn call_bytes(limits: &PluginLimits) -> usize {
    limits::CALL_BYTES.saturating_add(limits.artifact_bytes)
}

/// No files, no network, no names, no arguments, no environment, input closed, output discarded. The random seed is the same for
/// each call, so that iterating over a hash map is deterministic; secure randomness comes from the crypto capability.
fn empty_wasi(stderr: MemoryOutputPipe) -> WasiCtx {
    WasiCtx::builder()
        .stderr(stderr)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(limits::RANDOM_BYTES)
        .insecure_random_seed(0)
        .monotonic_clock(clocks::Monotonic::new())
        .wall_clock(clocks::Wall)
        .build()
}

/// The return type of the limiter's functions, given by its trait.
type Answer<'a, T> = Pin<Box<dyn Future<Output = wasmtime::Result<T>> + Send + 'a>>;

/// Sums all memories and tables of a store, and records a refusal: to the plugin's allocator it looks like any failed allocation,
/// to the host the abort that follows looks like a panic.
pub(super) struct MemoryLimit {
    limit: usize,
    used: usize,
    last_growth: usize,
    refused: Option<usize>,
    is_large: Arc<AtomicBool>,
}

impl MemoryLimit {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            used: 0,
            last_growth: 0,
            refused: None,
            is_large: Arc::default(),
        }
    }

    /// Whether their sum has ever been [`limits::LARGE_MEMORY`]; usable while the plugin runs.
    pub(super) fn is_large(&self) -> impl Fn() -> bool + use<> {
        let is_large = Arc::clone(&self.is_large);
        move || is_large.load(Ordering::Relaxed)
    }

    /// The sum that the last refused growth would have made.
    pub(super) fn refused(&self) -> Option<usize> {
        self.refused
    }

    /// Whether a memory or table may grow, in bytes.
    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let growth = desired.saturating_sub(current);
        let wanted = self.used.saturating_add(growth);
        if wanted > self.limit {
            self.last_growth = 0;
            self.refused = Some(wanted);
            return false;
        }
        self.last_growth = growth;
        self.used = wanted;
        if wanted >= limits::LARGE_MEMORY {
            self.is_large.store(true, Ordering::Relaxed);
        }
        true
    }
}

impl ResourceLimiterAsync for MemoryLimit {
    fn memory_growing<'life0, 'async_trait>(
        &'life0 mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> Answer<'async_trait, bool>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let is_large = self.is_large();
        let was_large = is_large();
        let may_grow = self.grow(current, desired);
        Box::pin(async move {
            if is_large() && !was_large {
                // The use of so much memory must not be part of this step.
                tokio::task::yield_now().await;
            }
            Ok(may_grow)
        })
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.used = self.used.saturating_sub(self.last_growth);
        self.last_growth = 0;
        Ok(())
    }

    fn table_growing<'life0, 'async_trait>(
        &'life0 mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> Answer<'async_trait, bool>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let bytes = |elements: usize| elements.saturating_mul(limits::TABLE_ELEMENT_BYTES);
        let may_grow =
            desired <= limits::TABLE_ELEMENTS && self.grow(bytes(current), bytes(desired));
        Box::pin(std::future::ready(Ok(may_grow)))
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory_grow_failed(error)
    }

    fn instances(&self) -> usize {
        limits::INSTANCES
    }

    fn tables(&self) -> usize {
        limits::TABLES
    }

    fn memories(&self) -> usize {
        limits::MEMORIES
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_guest_that_runs_on_while_the_process_stops_is_stopped_with_it() {
        let stop = CancellationToken::new();
        let end = Deadline {
            deadline: Instant::now() + Duration::from_secs(3600),
            stop: Some(stop.clone()),
        };
        assert_eq!(end.reached(&mut None), Ok(()));
        stop.cancel();
        let mut seen = None;
        assert_eq!(end.reached(&mut seen), Ok(()));
        assert!(seen.is_some());
        let mut long_ago = Instant::now().checked_sub(limits::TIME_AFTER_STOP);
        assert_eq!(end.reached(&mut long_ago), Err(StopReason::WithTheProcess));
        let over = Deadline {
            deadline: Instant::now(),
            stop: None,
        };
        assert_eq!(over.reached(&mut None), Err(StopReason::AtDeadline));
    }

    #[test]
    fn memories_are_limited_together_and_a_refusal_is_remembered() {
        let mut memory = MemoryLimit::new(100);
        assert!(memory.grow(0, 60));
        assert!(!memory.grow(0, 50));
        assert_eq!(memory.refused(), Some(110));
        assert!(memory.grow(60, 100));
        assert!(!memory.grow(100, 101));
        assert_eq!(memory.refused(), Some(101));
    }

    #[test]
    fn a_growth_that_the_system_refused_is_not_counted() {
        let mut memory = MemoryLimit::new(100);
        assert!(memory.grow(0, 80));
        memory
            .memory_grow_failed(wasmtime::Error::msg("no memory"))
            .unwrap();
        assert!(memory.grow(0, 100));
        assert_eq!(memory.refused(), None);
    }

    #[tokio::test]
    async fn a_table_is_no_larger_than_its_limit() {
        let most = limits::TABLE_ELEMENTS;
        let mut memory = MemoryLimit::new(usize::MAX);
        assert!(memory.table_growing(0, most, None).await.unwrap());
        assert!(!memory.table_growing(most, most + 1, None).await.unwrap());
    }

    #[tokio::test]
    async fn tables_count_as_memory() {
        let mut memory = MemoryLimit::new(100 * limits::TABLE_ELEMENT_BYTES);
        assert!(memory.table_growing(0, 60, None).await.unwrap());
        assert!(!memory.table_growing(0, 50, None).await.unwrap());
        assert!(memory.table_growing(0, 40, None).await.unwrap());
        assert!(!memory.memory_growing(0, 1, None).await.unwrap());
        let refused = 100 * limits::TABLE_ELEMENT_BYTES + 1;
        assert_eq!(memory.refused(), Some(refused));
    }
}

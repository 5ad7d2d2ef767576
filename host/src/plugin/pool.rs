//! Slots: memory, tables and stack for one call, mapped once and used by one call after the other, which halves what a call costs. Slots
//! are few, and fit what ordinary plugins have; whatever finds none, or needs more, runs in memory of its own. So nothing fails for want of
//! a slot.

use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::{Enabled, Engine, PoolingAllocationConfig};

use super::engine::{self, BoxError};
use super::limits;
use crate::config::model::PluginLimits;

/// The slots and who has one.
pub(super) struct Pool {
    engine: Engine,
    free: Semaphore,
}

/// The right to run one call in a slot. It must outlive the call's store, which is what occupies the slot.
pub(super) type Slot<'a> = SemaphorePermit<'a>;

impl Pool {
    /// None where the address space is not to be had.
    pub(super) fn new() -> Option<Self> {
        let engine = new_engine()
            .inspect_err(|error| tracing::debug!("no slots for plugin calls: {error}"))
            .ok()?;
        Some(Self {
            engine,
            free: Semaphore::new(limits::SLOTS as usize),
        })
    }

    /// Runs what [`engine::new_engine`] compiles.
    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// A slot, if one is free and holds what the call may use.
    pub(super) fn take(&self, limits: &PluginLimits) -> Option<Slot<'_>> {
        if limits.memory_bytes > limits::SLOT_MEMORY_BYTES {
            return None;
        }
        self.free.try_acquire().ok()
    }
}

/// What a call leaves behind, wasmtime clears when the call's store is dropped: it writes the first bytes anew (`*_keep_resident`), which
/// is faster than faulting them in again, and gives all others back to the system. Memories and tables always; stacks because
/// `async_stack_zeroing` says so.
fn new_engine() -> Result<Engine, BoxError> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(limits::SLOTS)
        .total_stacks(limits::SLOTS)
        .total_core_instances(limits::SLOTS * limits::SLOT_INSTANCES)
        .total_memories(limits::SLOTS * limits::SLOT_MEMORIES)
        .total_tables(limits::SLOTS * limits::SLOT_TABLES)
        .max_core_instances_per_component(limits::SLOT_INSTANCES)
        .max_memories_per_component(limits::SLOT_MEMORIES)
        .max_tables_per_component(limits::SLOT_TABLES)
        .max_memory_size(limits::SLOT_MEMORY_BYTES)
        .table_elements(limits::TABLE_ELEMENTS)
        // No more memories ever become warm than are in use at one time.
        .max_unused_warm_slots(0)
        .linear_memory_keep_resident(limits::MEMORY_KEPT_BYTES)
        // It would find the written pages, but not those that were swapped out: the next call would read them.
        .pagemap_scan(Enabled::No)
        .async_stack_keep_resident(limits::STACK_KEPT_BYTES)
        .table_keep_resident(limits::TABLE_KEPT_BYTES);
    let mut config = engine::settings();
    config.allocation_strategy(pool).async_stack_zeroing(true);
    Ok(Engine::new(&config)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::defaults::plugin_limits;

    #[test]
    fn the_pools_engine_runs_what_the_other_compiles() {
        assert_eq!(
            engine::compatibility(&engine::new_engine().unwrap()),
            engine::compatibility(Pool::new().unwrap().engine())
        );
    }

    #[test]
    fn a_slot_is_had_once_and_only_for_calls_whose_memory_fits() {
        let pool = Pool::new().unwrap();
        let taken: Vec<_> = (0..limits::SLOTS)
            .map(|_| pool.take(&plugin_limits()).unwrap())
            .collect();
        assert!(pool.take(&plugin_limits()).is_none());
        drop(taken);

        let mut large = plugin_limits();
        large.memory_bytes = limits::SLOT_MEMORY_BYTES + 1;
        assert!(pool.take(&large).is_none());
        large.memory_bytes -= 1;
        assert!(pool.take(&large).is_some());
    }
}

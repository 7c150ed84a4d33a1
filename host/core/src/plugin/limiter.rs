//! What one instance may hold: memory, tables, core instances.

use super::{budget::Lease, no_memory::NoMemory};
use crate::limits;
use std::time::Duration;
use wasmtime::ResourceLimiterAsync;

/// Counts the memory of a store over all its memories, and remembers a refusal, so that the trap
/// which usually follows can be reported as what it is.
pub(super) struct Limiter {
    memory_max: usize,
    memory: usize,
    table_elements: usize,
    refused: Option<String>,
    /// Its part of the node's memory.
    lease: Lease,
}

impl Limiter {
    pub(super) fn new(memory_max: usize, lease: Lease) -> Self {
        Self { memory_max, memory: 0, table_elements: 0, refused: None, lease }
    }
    /// Bytes of linear memory of the instance.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }
    /// What the instance counts for in all.
    pub(super) fn bytes(&self) -> usize {
        self.lease.bytes()
    }
    /// Memory maps that the instance counts for.
    pub(super) fn maps(&self) -> usize {
        self.lease.maps()
    }
    /// The instance is made: from now on it grows within a call.
    pub(super) async fn started(&mut self, timeout: Duration) -> Result<(), NoMemory> {
        self.lease.started(timeout).await
    }
    /// A call begins.
    pub(super) fn renew(&mut self) {
        self.lease.renew();
        self.refused = None;
    }
    /// Whether it waited for memory since this was asked last.
    pub(super) fn take_waited(&mut self) -> bool {
        self.lease.take_waited()
    }
    /// What was refused since the last time that this was asked.
    pub(super) fn take_refusal(&mut self) -> Option<String> {
        self.refused.take()
    }
}

#[async_trait::async_trait]
impl ResourceLimiterAsync for Limiter {
    /// Where the node has none left, this ends the call ([`NoMemory`]) rather than let the guest
    /// see it: what a guest computes may not depend on what else the node runs.
    async fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            // Fails by the memory's own type, whatever this returns: not to be counted.
            return Ok(true);
        }
        let growth = desired.saturating_sub(current);
        let total = self.memory.saturating_add(growth);
        if total > self.memory_max {
            self.refused = Some(format!(
                "memory: an instance may have {} bytes; this one asked for {total}",
                self.memory_max
            ));
            return Ok(false);
        }
        // It is about to be made.
        let maps = if current == 0 { limits::MEMORY_MAPS } else { 0 };
        self.lease.grow(growth, maps).await.map_err(|e: NoMemory| wasmtime::Error::from(e))?;
        // Growth that the system then refuses stays counted: rare, and on the safe side.
        self.memory = total;
        Ok(true)
    }

    async fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(true);
        }
        let total = self.table_elements.saturating_add(desired.saturating_sub(current));
        if total > limits::GUEST_TABLE_ELEMENTS_MAX {
            self.refused = Some(format!(
                "tables: an instance may have {} table elements; this one asked for {total}",
                limits::GUEST_TABLE_ELEMENTS_MAX
            ));
            return Ok(false);
        }
        self.table_elements = total;
        Ok(true)
    }

    fn instances(&self) -> usize {
        limits::GUEST_CORE_INSTANCES_MAX
    }
    fn memories(&self) -> usize {
        limits::GUEST_MEMORIES_MAX
    }
    fn tables(&self) -> usize {
        limits::GUEST_TABLES_MAX
    }
}

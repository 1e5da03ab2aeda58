//! The memory that the databases of a slot share: a cache for their blocks, in which their write buffers are accounted.

use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::{Cache, WriteBufferManager};

use crate::state::rocksdb_options::memory::MemoryBudget;

/// Shared by all databases of a slot; lives as long as any of them.
#[derive(Clone)]
pub struct SlotMemory {
    cache: Cache,
    write_buffers: WriteBufferManager,
}

impl SlotMemory {
    /// None: the budget has no bound.
    pub fn new(budget: &MemoryBudget) -> Option<SlotMemory> {
        let shares = budget.shares()?;
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let cache = Cache::new_lru_cache(size(shares.cache_bytes));
        // RocksDB would stop every writer until others have flushed, for ever if those do not write. See `SlotShare`.
        let write_buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
            size(shares.write_buffer_bytes),
            false,
            cache.clone(),
        );
        Some(SlotMemory { cache, write_buffers })
    }

    pub(super) fn cache(&self) -> &Cache {
        &self.cache
    }

    pub(super) fn write_buffers(&self) -> &WriteBufferManager {
        &self.write_buffers
    }

    /// Whether write buffers take all that they may. RocksDB begins to flush at seven eighths of it.
    fn is_full(&self) -> bool {
        self.write_buffers.get_usage() >= self.write_buffers.get_buffer_size()
    }

    /// Bytes in use: blocks, indexes, filters, and write buffers in steps of 256 KiB.
    pub fn used_bytes(&self) -> u64 {
        self.cache.get_usage() as u64
    }

    /// Bytes that write buffers take of it.
    pub fn write_buffer_bytes(&self) -> u64 {
        self.write_buffers.get_usage() as u64
    }
}

/// One database's part in it: who fills the memory faster than it is flushed has to wait.
pub struct SlotShare {
    memory: SlotMemory,
    /// Bytes written since the memory was last looked at.
    unchecked: AtomicU64,
}

/// The memory is looked at when so much was written. What a slot may exceed its write buffers by, times its databases.
const LOOK_EVERY_BYTES: u64 = 64 << 10;

impl SlotShare {
    pub fn new(memory: SlotMemory) -> SlotShare {
        SlotShare { memory, unchecked: AtomicU64::new(0) }
    }

    /// Whether RocksDB may soon flush on its own account.
    pub fn is_nearly_full(&self) -> bool {
        self.memory.write_buffers.get_usage() >= self.memory.write_buffers.get_buffer_size() / 4 * 3
    }

    /// Counts what was written; true if the writer has to flush before it goes on.
    pub fn wrote(&self, bytes: usize) -> bool {
        let unchecked = self.unchecked.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if unchecked < LOOK_EVERY_BYTES {
            return false;
        }
        self.unchecked.store(0, Ordering::Relaxed);
        self.memory.is_full()
    }

    /// A column family with less in memory is not worth a file.
    pub fn least_flush_bytes(&self) -> u64 {
        self.memory.write_buffers.get_buffer_size() as u64 / 32
    }
}

//! The memory that the databases of a slot share: a cache for their blocks, in which their write buffers are accounted.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rocksdb::{Cache, WriteBufferManager};

use crate::state::rocksdb_options::memory::MemoryBudget;

/// Shared by all databases of a slot; lives as long as any of them.
#[derive(Clone)]
pub struct SlotMemory {
    cache: Cache,
    write_buffers: WriteBufferManager,
    recent: Arc<RecentMemory>,
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
        Some(SlotMemory { cache, write_buffers, recent: RecentMemory::new(shares.recent_bytes) })
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

    /// Bytes in use: blocks, indexes, filters, write buffers in steps of 256 KiB, and recent entries.
    pub fn used_bytes(&self) -> u64 {
        self.cache.get_usage() as u64 + self.recent_bytes()
    }

    /// Bytes that recent entries take of it.
    pub fn recent_bytes(&self) -> u64 {
        self.recent.taken.load(Ordering::Relaxed)
    }

    fn recent_share(&self, most: u64) -> RecentShare {
        RecentShare::new(self.recent.clone(), most)
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

    /// The part of one more state in the memory for recent entries, `most` bytes at most.
    pub fn recent_share(&self, most: u64) -> RecentShare {
        self.memory.recent_share(most)
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

/// What the recent entries of all states may take together.
struct RecentMemory {
    bytes: u64,
    taken: AtomicU64,
    states: AtomicU64,
}

impl RecentMemory {
    fn new(bytes: u64) -> Arc<RecentMemory> {
        Arc::new(RecentMemory { bytes, taken: AtomicU64::new(0), states: AtomicU64::new(0) })
    }
}

/// One state's part in the memory for recent entries: all states have the same, and together never more than there is.
pub struct RecentShare {
    memory: Arc<RecentMemory>,
    most: u64,
    taken: u64,
}

impl RecentShare {
    fn new(memory: Arc<RecentMemory>, most: u64) -> RecentShare {
        memory.states.fetch_add(1, Ordering::Relaxed);
        RecentShare { memory, most, taken: 0 }
    }

    /// Of a state that shares with no other.
    pub fn alone(bytes: u64) -> RecentShare {
        RecentShare::new(RecentMemory::new(bytes), bytes)
    }

    /// So much it may take. It is less when there are more states.
    #[inline]
    pub fn limit(&self) -> u64 {
        self.most.min(self.memory.bytes / self.memory.states.load(Ordering::Relaxed).max(1))
    }

    /// Whether it has more than it may by now.
    pub fn is_over(&self) -> bool {
        self.taken > self.limit()
    }

    /// Takes more bytes, unless that is too much.
    pub fn take(&mut self, bytes: u64) -> bool {
        if self.taken + bytes > self.limit() {
            return false;
        }
        let before = self.memory.taken.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.memory.bytes {
            // Another state has not let go yet of what is this one's.
            self.memory.taken.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.taken += bytes;
        true
    }

    pub fn give_back(&mut self, bytes: u64) {
        self.taken -= bytes;
        self.memory.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for RecentShare {
    fn drop(&mut self) {
        self.give_back(self.taken);
        self.memory.states.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_a_slot_have_equal_parts_and_never_more_than_there_is() {
        let memory = RecentMemory::new(100);
        let mut first = RecentShare::new(memory.clone(), u64::MAX);
        assert_eq!(first.limit(), 100);
        assert!(first.take(90) && !first.take(11));
        let mut second = RecentShare::new(memory.clone(), 40);
        assert_eq!((first.limit(), second.limit()), (50, 40));
        // It may have them, and the first one has them.
        assert!(!second.take(20) && second.take(10));
        assert!(first.is_over() && !first.take(1));
        first.give_back(45);
        assert!(!first.is_over() && second.take(30) && !second.take(1));
        assert_eq!(memory.taken.load(Ordering::Relaxed), 85);
        drop(second);
        assert_eq!((memory.taken.load(Ordering::Relaxed), first.limit()), (45, 100));
    }
}

//! How much memory the databases of a slot may use together: one cache for all of them, in which blocks, index and filter
//! blocks and write buffers are accounted (Flink 1.10's `RocksDBMemoryControllerUtils`; 1.8 has no bound).

use serde::{Deserialize, Serialize};

/// The bound of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryBudget {
    /// In bytes, for all databases of a slot together. None: no bound, every column family has a cache of its own.
    pub per_slot: Option<u64>,
    /// The share that write buffers may take.
    pub write_buffer_ratio: f64,
    /// The share that is kept for index and filter blocks.
    pub high_priority_ratio: f64,
}

impl MemoryBudget {
    pub const DEFAULT_PER_SLOT: u64 = 256 << 20;
}

impl Default for MemoryBudget {
    fn default() -> MemoryBudget {
        MemoryBudget { per_slot: Some(Self::DEFAULT_PER_SLOT), write_buffer_ratio: 0.5, high_priority_ratio: 0.1 }
    }
}

/// How a slot's memory is divided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    /// Capacity of the cache, in bytes. Less than the budget: write buffers may go beyond their limit by a half of it before
    /// RocksDB stops for them, and recent entries are kept outside of it.
    pub cache_bytes: u64,
    /// What write buffers may take, accounted in the cache, in bytes.
    pub write_buffer_bytes: u64,
    /// What entries that were used lately may take in front of the databases, in bytes: a fourth of what is left for blocks.
    pub recent_bytes: u64,
    pub high_priority_ratio: f64,
}

impl MemoryBudget {
    /// None: no bound.
    pub fn shares(&self) -> Option<Shares> {
        let total = self.per_slot? as f64;
        let ratio = self.write_buffer_ratio;
        // As Flink divides it.
        let cache_bytes = ((3.0 - ratio) * total / 3.0) as u64;
        let write_buffer_bytes = (2.0 * total * ratio / 3.0) as u64;
        let recent_bytes = cache_bytes.saturating_sub(write_buffer_bytes) / 4;
        Some(Shares {
            cache_bytes: cache_bytes - recent_bytes,
            write_buffer_bytes,
            recent_bytes,
            high_priority_ratio: self.high_priority_ratio,
        })
    }

    /// # Errors
    /// Why it cannot be.
    pub fn check(&self) -> Result<(), String> {
        if self.write_buffer_ratio + self.high_priority_ratio > 1.0 {
            return Err(format!(
                "state.backend.rocksdb.memory.write-buffer-ratio ({}) and .high-prio-pool-ratio ({}) are more than 1 together",
                self.write_buffer_ratio, self.high_priority_ratio
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_budget_is_divided_as_flink_divides_it() {
        let shares = MemoryBudget { per_slot: Some(300 << 20), ..MemoryBudget::default() }.shares().expect("bounded");
        let (write_buffer_bytes, recent_bytes) = (100 << 20, (250 - 100) << 18);
        let cache_bytes = (250 << 20) - recent_bytes;
        assert_eq!(shares, Shares { cache_bytes, write_buffer_bytes, recent_bytes, high_priority_ratio: 0.1 });
        assert_eq!(MemoryBudget { per_slot: None, ..MemoryBudget::default() }.shares(), None);
        let greedy = MemoryBudget { write_buffer_ratio: 0.95, ..MemoryBudget::default() };
        assert!(greedy.check().expect_err("too much").contains("write-buffer-ratio (0.95)"));
        assert_eq!(MemoryBudget::default().check(), Ok(()));
    }

    proptest! {
        /// R164: cache, recent entries, and the half of the write buffers that the cache may be exceeded by, are never more than the
        /// budget.
        #[test]
        fn the_shares_never_exceed_the_budget(total in 0u64..1 << 50, ratio in 0.0..=1.0f64) {
            let budget = MemoryBudget { per_slot: Some(total), write_buffer_ratio: ratio, high_priority_ratio: 0.0 };
            let shares = budget.shares().expect("bounded");
            prop_assert!(shares.cache_bytes + shares.recent_bytes + shares.write_buffer_bytes / 2 <= total + 1);
            prop_assert!(shares.write_buffer_bytes <= shares.cache_bytes + 1);
        }
    }
}

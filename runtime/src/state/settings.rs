//! Which store the state of a job is kept in, and how it is written.

use serde::{Deserialize, Serialize};

use super::rocksdb_options::{
    host::DatabaseHost, memory::MemoryBudget, metrics::NativeMetrics, options::RocksDbOptions,
};

/// Where working state lives, and where its snapshots go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendKind {
    /// Heap; snapshots travel inside the acknowledgement and lie in the checkpoint's metadata.
    Memory,
    /// Heap; snapshots are files in primary storage.
    #[default]
    Filesystem,
    /// A RocksDB database per keyed operator of a subtask, in a native directory of the local disk; snapshots are files in
    /// primary storage.
    RocksDb,
}

impl std::fmt::Display for BackendKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BackendKind::Memory => "memory",
            BackendKind::Filesystem => "filesystem",
            BackendKind::RocksDb => "rocksdb",
        })
    }
}

/// Where timers are kept. On the heap, unless the keyed state is in RocksDB and they are to be there too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimersPlace {
    #[default]
    Heap,
    RocksDb,
}

/// The state backend of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendSettings {
    pub kind: BackendKind,
    /// A checkpoint writes only what the last confirmed one does not have: RocksDB's new files, or parts of heap state that
    /// have changed.
    pub incremental: bool,
    /// State is encoded and written while the stream goes on.
    pub async_snapshots: bool,
    pub timers: TimersPlace,
    /// `state.backend.fs.memory-threshold`: a piece of state of at most so many bytes is kept in the checkpoint's metadata instead
    /// of a file of its own. 0: none is.
    pub small_state_threshold: u64,
    /// Memory: the largest state of one operator in one subtask, in bytes.
    pub max_memory_state_size: u64,
    /// Key groups of full snapshots are compressed with Snappy.
    pub compression: bool,
    /// A full snapshot of the keyed state of an operator in a subtask is written in so many parts at most, each a range of its
    /// key groups: what is encoded, stored, copied locally and restored on its own. 0 is 1.
    pub parts_per_snapshot: u32,
    pub rocksdb: RocksDbSettings,
}

impl Default for BackendSettings {
    fn default() -> BackendSettings {
        BackendSettings {
            kind: BackendKind::default(),
            incremental: false,
            async_snapshots: true,
            timers: TimersPlace::default(),
            small_state_threshold: 1024,
            max_memory_state_size: 5 << 20,
            compression: false,
            parts_per_snapshot: 4,
            rocksdb: RocksDbSettings::default(),
        }
    }
}

impl BackendSettings {
    /// Whether snapshots may refer to what earlier ones wrote. State that travels with the acknowledgement has nothing to refer to.
    pub fn is_incremental(&self) -> bool {
        self.incremental && self.kind != BackendKind::Memory
    }

    /// Whether a piece of state of this length travels with the acknowledgement.
    pub fn is_inline(&self, length: u64) -> bool {
        self.kind == BackendKind::Memory || (length <= self.small_state_threshold && self.small_state_threshold > 0)
    }
}

/// What is particular to the RocksDB backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RocksDbSettings {
    /// The largest key or value, in bytes; a larger one is refused when it is written. RocksDB itself ends at 2^31 - 1.
    pub max_entry_bytes: u64,
    /// Files are compacted in the background, whenever RocksDB sees fit. Off, they are compacted at snapshots only, when an
    /// operator has written enough of them: the same in every run.
    pub auto_compaction: bool,
    /// Compaction drops expired entries of states that have a time to live.
    pub ttl_compaction_filter: bool,
    /// A column family is flushed when it holds so many bytes in memory.
    pub write_buffer_bytes: u64,
    /// Each state keeps entries that were used lately in front of its database, in so many bytes at most; 0: none. None: as many as
    /// the memory of the slot gives it.
    pub recent_bytes: Option<u64>,
    /// Files that are uploaded or downloaded at the same time.
    pub transfer_threads: u32,
    /// Of each database, after predefined options and the options factory.
    pub options: RocksDbOptions,
    /// Of all databases of a slot.
    pub memory: MemoryBudget,
    /// Properties that are reported for each state, at each snapshot.
    pub metrics: NativeMetrics,
    /// Not a setting, but what the process gives to its databases.
    #[serde(skip)]
    pub host: DatabaseHost,
}

impl RocksDbSettings {
    pub const MAX_ENTRY_BYTES: u64 = i32::MAX as u64;
}

impl Default for RocksDbSettings {
    fn default() -> RocksDbSettings {
        RocksDbSettings {
            max_entry_bytes: Self::MAX_ENTRY_BYTES,
            auto_compaction: true,
            ttl_compaction_filter: false,
            write_buffer_bytes: 64 << 20,
            recent_bytes: None,
            transfer_threads: 1,
            options: RocksDbOptions::default(),
            memory: MemoryBudget::default(),
            metrics: NativeMetrics::default(),
            host: DatabaseHost::default(),
        }
    }
}

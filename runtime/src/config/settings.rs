//! What a configuration sets.

use super::backend::Storage;
use crate::{
    cluster::config::ClusterConfig,
    state::rocksdb_options::{
        factory::ConfigurableOptions, memory::MemoryBudget, metrics::NativeMetrics, predefined::PredefinedOptions,
    },
};

/// Everything that the keys can set, with Weir's defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    pub cluster: ClusterConfig,
    pub state: StateConfig,
    pub job: JobDefaults,
    pub restart: RestartConfig,
}

/// What jobs have that do not say it themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobDefaults {
    pub parallelism: Option<u32>,
    pub max_parallelism: Option<u16>,
}

/// `restart-strategy` and what belongs to it; becomes a part of [`ClusterConfig`] when all is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestartConfig {
    pub strategy: Option<RestartStrategy>,
    pub attempts: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartStrategy {
    None,
    FixedDelay,
}

/// Where working state lives and how it is written, as the cluster's configuration has it. A job may say otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct StateConfig {
    /// `state.backend`, as it stands.
    pub backend: Option<String>,
    pub storage: Option<Storage>,
    pub async_snapshots: bool,
    pub incremental: bool,
    /// A path.
    pub checkpoint_directory: Option<String>,
    /// A path.
    pub savepoint_directory: Option<String>,
    /// In bytes.
    pub small_state_threshold: u64,
    pub compression: bool,
    /// Write local copies …
    pub local_backup: bool,
    /// … and use them.
    pub restore_from_local: bool,
    pub local_roots: Vec<String>,
    /// Local copies are kept in memory, so many bytes at most on each TaskManager. None: they are files.
    pub local_memory: Option<u64>,
    pub rocksdb: RocksDbConfig,
}

impl Default for StateConfig {
    fn default() -> StateConfig {
        StateConfig {
            backend: None,
            storage: None,
            async_snapshots: true,
            incremental: false,
            checkpoint_directory: None,
            savepoint_directory: None,
            small_state_threshold: 1024,
            compression: false,
            local_backup: false,
            restore_from_local: false,
            local_roots: Vec::new(),
            local_memory: None,
            rocksdb: RocksDbConfig::default(),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct RocksDbConfig {
    pub local_directories: Vec<String>,
    pub timers_in_rocksdb: bool,
    pub transfer_threads: u32,
    pub ttl_compaction_filter: bool,
    pub predefined: PredefinedOptions,
    /// The name of an options factory. None: Flink's default one.
    pub options_factory: Option<String>,
    /// What the default factory applies.
    pub options: ConfigurableOptions,
    pub metrics: NativeMetrics,
    /// Whether the databases of a slot have a bound in common.
    pub memory_managed: bool,
    pub memory_per_slot: Option<u64>,
    pub memory: MemoryBudget,
    /// What each state may keep in front of its database. None: what the memory of the slot gives it.
    pub recent_bytes: Option<u64>,
}

impl Default for RocksDbConfig {
    fn default() -> RocksDbConfig {
        RocksDbConfig {
            local_directories: Vec::new(),
            timers_in_rocksdb: false,
            transfer_threads: 1,
            ttl_compaction_filter: false,
            predefined: PredefinedOptions::Default,
            options_factory: None,
            options: ConfigurableOptions::default(),
            metrics: NativeMetrics::default(),
            memory_managed: true,
            memory_per_slot: None,
            memory: MemoryBudget::default(),
            recent_bytes: None,
        }
    }
}

//! What a job says in its own code about its state; it wins over the cluster's configuration, each option for itself.

use std::{fmt, sync::Arc};

use crate::state::{
    BackendKind,
    rocksdb_options::{factory::OptionsFactory, predefined::PredefinedOptions},
};

/// A state backend, chosen in code.
#[derive(Clone)]
pub struct StateBackend {
    pub(super) kind: BackendKind,
    /// As it was written: a path or a URL.
    pub(super) directory: Option<String>,
    pub(super) async_snapshots: Option<bool>,
    pub(super) incremental: Option<bool>,
    pub(super) max_memory_state_size: Option<u64>,
    pub(super) timers_in_rocksdb: Option<bool>,
    pub(super) ttl_compaction_filter: Option<bool>,
    pub(super) predefined: Option<PredefinedOptions>,
    pub(super) options_factory: Option<Arc<dyn OptionsFactory>>,
}

impl StateBackend {
    fn of(kind: BackendKind, directory: Option<String>) -> StateBackend {
        StateBackend {
            kind,
            directory,
            async_snapshots: None,
            incremental: None,
            max_memory_state_size: None,
            timers_in_rocksdb: None,
            ttl_compaction_filter: None,
            predefined: None,
            options_factory: None,
        }
    }

    /// On the heap, snapshots inside the acknowledgement (Flink `MemoryStateBackend`).
    pub fn memory() -> StateBackend {
        StateBackend::of(BackendKind::Memory, None)
    }

    /// On the heap, snapshots in files below `directory` (Flink `FsStateBackend`).
    pub fn filesystem(directory: impl Into<String>) -> StateBackend {
        StateBackend::of(BackendKind::Filesystem, Some(directory.into()))
    }

    /// In RocksDB, snapshots in files below `directory` (Flink `RocksDBStateBackend`).
    pub fn rocksdb(directory: impl Into<String>) -> StateBackend {
        StateBackend::of(BackendKind::RocksDb, Some(directory.into()))
    }

    /// In RocksDB, snapshots where `checkpoints` puts them (Flink `RocksDBStateBackend(filebackend, incremental)`).
    pub fn rocksdb_over(checkpoints: StateBackend, incremental: bool) -> StateBackend {
        StateBackend { kind: BackendKind::RocksDb, ..checkpoints }.incremental(incremental)
    }

    /// Write snapshots of heap state while the stream goes on, or not.
    #[must_use]
    pub fn asynchronous(self, on: bool) -> StateBackend {
        StateBackend { async_snapshots: Some(on), ..self }
    }

    /// RocksDB: write only what the last confirmed checkpoint does not have.
    #[must_use]
    pub fn incremental(self, on: bool) -> StateBackend {
        StateBackend { incremental: Some(on), ..self }
    }

    /// Memory: the largest single state, in bytes; 5 MiB unless said otherwise. The longest message bounds it in any case.
    #[must_use]
    pub fn max_state_size(self, bytes: u64) -> StateBackend {
        StateBackend { max_memory_state_size: Some(bytes), ..self }
    }

    /// RocksDB: keep timers in the database, or on the heap.
    #[must_use]
    pub fn timers_in_rocksdb(self, on: bool) -> StateBackend {
        StateBackend { timers_in_rocksdb: Some(on), ..self }
    }

    /// RocksDB: compaction drops expired entries.
    #[must_use]
    pub fn ttl_compaction_filter(self, on: bool) -> StateBackend {
        StateBackend { ttl_compaction_filter: Some(on), ..self }
    }

    /// RocksDB: the options to begin with (Flink `setPredefinedOptions`).
    #[must_use]
    pub fn predefined_options(self, options: PredefinedOptions) -> StateBackend {
        StateBackend { predefined: Some(options), ..self }
    }

    /// RocksDB: who changes them (Flink `setOptions`).
    #[must_use]
    pub fn options(self, factory: impl OptionsFactory + 'static) -> StateBackend {
        StateBackend { options_factory: Some(Arc::new(factory)), ..self }
    }
}

impl fmt::Debug for StateBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateBackend")
            .field("kind", &self.kind)
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// All that a job says of its state.
#[derive(Clone, Debug, Default)]
pub struct JobState {
    pub backend: Option<StateBackend>,
    /// Compress full snapshots (Flink `ExecutionConfig.setUseSnapshotCompression`).
    pub compression: Option<bool>,
}

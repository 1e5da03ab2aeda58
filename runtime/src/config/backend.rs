//! Which backend a job gets: what its code says, else what the configuration says, else the heap of the JobManager.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    job::{JobState, StateBackend},
    key::place,
    settings::StateConfig,
};
use crate::state::{
    BackendKind, BackendSettings, RocksDbSettings, TimersPlace,
    rocksdb_options::{
        factory::{self, OptionsFactory, Say, ValueOf},
        memory::MemoryBudget,
        options::RocksDbOptions,
    },
};

/// Where heap state puts its snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    JobManager,
    Filesystem,
}

/// Makes a backend that a configuration names (Flink `StateBackendFactory`).
pub trait BackendFactory: Send + Sync {
    /// # Errors
    /// What is wrong with a value, naming its key.
    fn backend(&self, value_of: ValueOf<'_>) -> Result<StateBackend, String>;
}

/// Factories that a configuration can name.
#[derive(Clone, Default)]
pub struct Registry {
    backends: BTreeMap<String, Arc<dyn BackendFactory>>,
    options: BTreeMap<String, Arc<dyn OptionsFactory>>,
}

impl Registry {
    /// `state.backend` may be `name`. Names that are built in cannot be replaced.
    #[must_use]
    pub fn backend(mut self, name: impl Into<String>, factory: impl BackendFactory + 'static) -> Registry {
        self.backends.insert(name.into(), Arc::new(factory));
        self
    }

    /// `state.backend.rocksdb.options-factory` may be `name`.
    #[must_use]
    pub fn options_factory(mut self, name: impl Into<String>, factory: impl OptionsFactory + 'static) -> Registry {
        self.options.insert(name.into(), Arc::new(factory));
        self
    }
}

/// The state backend of a job, with everything decided.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedState {
    pub backend: BackendSettings,
    pub local_recovery: bool,
    /// The path of primary storage, if somebody named it.
    pub directory: Option<String>,
    /// What has to be said about it.
    pub notices: Vec<String>,
}

/// Of one state, in bytes (Flink `MemoryStateBackend.DEFAULT_MAX_STATE_SIZE`).
const DEFAULT_MAX_STATE_SIZE: u64 = 5 << 20;

/// What is wrong: the key, its value if it has one, and what would be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub key: &'static str,
    pub value: Option<String>,
    pub accepted: String,
}

/// The built-in backend of a name: Flink's, today's, or a class of Flink.
fn built_in(name: &str) -> Option<BuiltIn> {
    const CLASSES: &[(&str, BuiltIn)] = &[
        ("org.apache.flink.runtime.state.memory.MemoryStateBackendFactory", BuiltIn::Memory),
        ("org.apache.flink.runtime.state.filesystem.FsStateBackendFactory", BuiltIn::Filesystem),
        ("org.apache.flink.runtime.state.hashmap.HashMapStateBackendFactory", BuiltIn::Hashmap),
        ("org.apache.flink.contrib.streaming.state.RocksDBStateBackendFactory", BuiltIn::RocksDb),
        ("org.apache.flink.contrib.streaming.state.EmbeddedRocksDBStateBackendFactory", BuiltIn::RocksDb),
        ("org.apache.flink.state.rocksdb.EmbeddedRocksDBStateBackendFactory", BuiltIn::RocksDb),
    ];
    match name.to_ascii_lowercase().as_str() {
        "jobmanager" => Some(BuiltIn::Memory),
        "filesystem" => Some(BuiltIn::Filesystem),
        "hashmap" => Some(BuiltIn::Hashmap),
        "rocksdb" => Some(BuiltIn::RocksDb),
        _ => CLASSES.iter().find(|(class, _)| *class == name).map(|(_, backend)| *backend),
    }
}

#[derive(Clone, Copy)]
enum BuiltIn {
    Memory,
    Filesystem,
    Hashmap,
    RocksDb,
}

const BACKEND: &str = "state.backend";
const FACTORY: &str = "state.backend.rocksdb.options-factory";

/// Decides everything.
///
/// # Errors
/// [`Wrong`].
pub fn resolve(
    config: &StateConfig,
    job: &JobState,
    registry: &Registry,
    value_of: ValueOf<'_>,
) -> Result<ResolvedState, Wrong> {
    let mut notices = Vec::new();
    let from_factory;
    let code = match &job.backend {
        Some(backend) => Some(backend),
        None => {
            from_factory = registered(config, registry, value_of)?;
            from_factory.as_ref()
        }
    };
    let kind = match code {
        Some(backend) => backend.kind,
        None => configured_kind(config, registry, &mut notices)?,
    };
    if kind == BackendKind::RocksDb && job.backend.is_none() && config.storage == Some(Storage::JobManager) {
        return Err(Wrong {
            key: "execution.checkpointing.storage",
            value: Some("jobmanager".to_string()),
            accepted: "filesystem with rocksdb, whose files cannot travel in an acknowledgement".to_string(),
        });
    }
    if kind == BackendKind::RocksDb && !cfg!(feature = "rocksdb") {
        return Err(without_rocksdb());
    }
    let directory = match code.and_then(|backend| backend.directory.as_deref()) {
        None => config.checkpoint_directory.clone(),
        Some(said) => Some(place(said).map_err(|accepted| Wrong {
            key: "the directory of the job's state backend",
            value: Some(said.to_string()),
            accepted,
        })?),
    };
    let heap = kind != BackendKind::RocksDb;
    let mut async_snapshots = code.and_then(|backend| backend.async_snapshots).unwrap_or(config.async_snapshots);
    if !async_snapshots && heap {
        notices.push(
            "state.backend.async is false: the stream stops for every snapshot; this is for debugging".to_string(),
        );
    } else if !async_snapshots {
        notices.push(
            "state.backend.async is false, and RocksDB ignores it: its snapshots are always asynchronous".to_string(),
        );
        async_snapshots = true;
    }
    let mut incremental = code.and_then(|backend| backend.incremental).unwrap_or(config.incremental);
    if incremental && heap {
        notices.push(format!(
            "incremental checkpoints are RocksDB's alone: the backend {} ignores it and writes full ones",
            shown(kind)
        ));
        incremental = false;
    }
    let rocksdb = match heap {
        true => RocksDbOptions::default(),
        false => rocksdb_options(config, code, registry, value_of)?,
    };
    let memory = memory(config);
    if !heap {
        memory.check().map_err(|accepted| Wrong {
            key: "state.backend.rocksdb.memory.write-buffer-ratio",
            value: Some(memory.write_buffer_ratio.to_string()),
            accepted,
        })?;
        if memory.per_slot.is_some() && config.rocksdb.options.block_cache_size.is_some() {
            notices.push(
                "state.backend.rocksdb.block.cache-size is without effect: the memory of a slot is bounded and has one \
                 cache (state.backend.rocksdb.memory.managed: false gives every state its own)"
                    .to_string(),
            );
        }
    }
    let settings = &config.rocksdb;
    let code_or = |said: fn(&StateBackend) -> Option<bool>, configured| code.and_then(said).unwrap_or(configured);
    let in_rocksdb = !heap && code_or(|b| b.timers_in_rocksdb, settings.timers_in_rocksdb);
    let backend = BackendSettings {
        kind,
        incremental,
        async_snapshots,
        timers: if in_rocksdb { TimersPlace::RocksDb } else { TimersPlace::Heap },
        small_state_threshold: config.small_state_threshold,
        max_memory_state_size: code.and_then(|b| b.max_memory_state_size).unwrap_or(DEFAULT_MAX_STATE_SIZE),
        compression: job.compression.unwrap_or(config.compression),
        parts_per_snapshot: BackendSettings::default().parts_per_snapshot,
        rocksdb: RocksDbSettings {
            ttl_compaction_filter: !heap && code_or(|b| b.ttl_compaction_filter, settings.ttl_compaction_filter),
            transfer_threads: settings.transfer_threads,
            options: rocksdb,
            memory,
            metrics: settings.metrics.clone(),
            recent_bytes: settings.recent_bytes,
            ..RocksDbSettings::default()
        },
    };
    let local_recovery = local_recovery(config, kind, &mut notices);
    Ok(ResolvedState { backend, local_recovery, directory, notices })
}

/// What a program says in which there is no RocksDB, when it is asked for.
pub(super) fn without_rocksdb() -> Wrong {
    Wrong {
        key: BACKEND,
        value: Some("rocksdb".to_string()),
        accepted: "jobmanager, filesystem, hashmap; this program was built without RocksDB: build it with the feature `rocksdb` of \
                   the crate runtime (on by default; with --no-default-features, add --features rocksdb)"
            .to_string(),
    }
}

/// The backend of a factory that the configuration names; None: it names none, or one that is built in.
fn registered(config: &StateConfig, registry: &Registry, value_of: ValueOf<'_>) -> Result<Option<StateBackend>, Wrong> {
    let Some(name) = config.backend.as_deref().filter(|name| built_in(name).is_none()) else { return Ok(None) };
    let Some(factory) = registry.backends.get(name) else { return Ok(None) };
    let made = factory.backend(value_of);
    made.map(Some).map_err(|accepted| Wrong { key: BACKEND, value: Some(name.to_string()), accepted })
}

fn configured_kind(config: &StateConfig, registry: &Registry, notices: &mut Vec<String>) -> Result<BackendKind, Wrong> {
    let by_storage = |storage: Option<Storage>| match storage {
        Some(Storage::JobManager) => BackendKind::Memory,
        Some(Storage::Filesystem) => BackendKind::Filesystem,
        None if config.checkpoint_directory.is_some() => BackendKind::Filesystem,
        None => BackendKind::Memory,
    };
    let Some(name) = config.backend.as_deref() else {
        let kind = if config.storage.is_some() { by_storage(config.storage) } else { BackendKind::Memory };
        notices.push(format!("state.backend is not configured: the backend is {}", shown(kind)));
        return Ok(kind);
    };
    match built_in(name) {
        Some(BuiltIn::Memory) => Ok(BackendKind::Memory),
        Some(BuiltIn::Filesystem) => Ok(BackendKind::Filesystem),
        Some(BuiltIn::Hashmap) => Ok(by_storage(config.storage)),
        Some(BuiltIn::RocksDb) => Ok(BackendKind::RocksDb),
        None => {
            let mut accepted = "jobmanager, filesystem, rocksdb, hashmap".to_string();
            for name in registry.backends.keys() {
                accepted.push_str(", ");
                accepted.push_str(name);
            }
            if name.eq_ignore_ascii_case("forst") {
                accepted.push_str(" (forst is Flink's; Weir does not have it)");
            }
            Err(Wrong { key: BACKEND, value: Some(name.to_string()), accepted })
        }
    }
}

/// As it is written in a configuration.
pub(super) fn shown(kind: BackendKind) -> &'static str {
    match kind {
        BackendKind::Memory => "jobmanager",
        BackendKind::Filesystem => "filesystem",
        BackendKind::RocksDb => "rocksdb",
    }
}

fn rocksdb_options(
    config: &StateConfig,
    code: Option<&StateBackend>,
    registry: &Registry,
    value_of: ValueOf<'_>,
) -> Result<RocksDbOptions, Wrong> {
    let named: Arc<dyn OptionsFactory> = match config.rocksdb.options_factory.as_deref() {
        None | Some(factory::DEFAULT_FACTORY) => Arc::new(config.rocksdb.options.clone()),
        Some(name) => {
            let wrong = |accepted| Wrong { key: FACTORY, value: Some(name.to_string()), accepted };
            let known = registry.options.get(name).ok_or_else(|| {
                let names: Vec<&str> = registry.options.keys().map(String::as_str).collect();
                let names = if names.is_empty() { "none is registered".to_string() } else { names.join(", ") };
                wrong(format!("{}, or the name of a registered factory ({names})", factory::DEFAULT_FACTORY))
            })?;
            known.configured(value_of).map_err(wrong)?
        }
    };
    Ok(Say {
        predefined_in_code: code.and_then(|backend| backend.predefined),
        predefined_configured: config.rocksdb.predefined,
        factory_in_code: code.and_then(|backend| backend.options_factory.as_deref()),
        factory_configured: named.as_ref(),
    }
    .options())
}

fn memory(config: &StateConfig) -> MemoryBudget {
    let managed = config.rocksdb.memory_managed.then_some(MemoryBudget::DEFAULT_PER_SLOT);
    MemoryBudget { per_slot: config.rocksdb.memory_per_slot.or(managed), ..config.rocksdb.memory }
}

fn local_recovery(config: &StateConfig, kind: BackendKind, notices: &mut Vec<String>) -> bool {
    match (config.local_backup, config.restore_from_local) {
        (false, false) => return false,
        (true, true) => {}
        (true, false) => {
            notices.push(
                "execution.state-recovery.from-local is false, so no local copies are written: nobody would read them"
                    .to_string(),
            );
            return false;
        }
        (false, true) => {
            notices.push(
                "execution.checkpointing.local-backup.enabled is false, so there is no local copy to restore from"
                    .to_string(),
            );
            return false;
        }
    }
    if kind == BackendKind::Memory {
        notices.push("local recovery is ignored: the backend jobmanager has no files to keep copies of".to_string());
        return false;
    }
    true
}

//! Which backend a job gets, and with which options.

use std::{collections::BTreeSet, sync::Arc};

use super::{super::*, good};
use crate::state::{
    BackendKind, TimersPlace,
    rocksdb_options::{
        factory::{OptionsFactory, ValueOf},
        memory::MemoryBudget,
        options::{ColumnFamilyOptions, CompactionStyle, DatabaseOptions},
        predefined::PredefinedOptions,
    },
};

fn state(text: &str) -> Result<ResolvedState, String> {
    for_job(text, &JobState::default())
}

fn for_job(text: &str, job: &JobState) -> Result<ResolvedState, String> {
    good(text).state(job, &registry()).map_err(|refusal| refusal.to_string())
}

fn with(backend: StateBackend) -> JobState {
    JobState { backend: Some(backend), ..JobState::default() }
}

/// A backend of a user.
struct Cautious;

impl BackendFactory for Cautious {
    fn backend(&self, value_of: ValueOf<'_>) -> Result<StateBackend, String> {
        match value_of("cautious.timers").as_deref() {
            None | Some("database") => Ok(StateBackend::rocksdb("/cautious").timers_in_rocksdb(true).incremental(true)),
            Some(_) => Err("cautious.timers: database".to_string()),
        }
    }
}

fn registry() -> Registry {
    Registry::default().backend("cautious", Cautious).options_factory("MyOptionsFactory", MyOptionsFactory::default())
}

/// R77, R111, R112.
#[test]
fn a_backend_is_chosen_by_any_of_its_names() {
    for (names, kind) in [
        (
            &["jobmanager", "JobManager", "org.apache.flink.runtime.state.memory.MemoryStateBackendFactory"][..],
            BackendKind::Memory,
        ),
        (&["filesystem", "org.apache.flink.runtime.state.filesystem.FsStateBackendFactory"], BackendKind::Filesystem),
        (
            &[
                "rocksdb",
                "ROCKSDB",
                "org.apache.flink.contrib.streaming.state.RocksDBStateBackendFactory",
                "org.apache.flink.contrib.streaming.state.EmbeddedRocksDBStateBackendFactory",
                "org.apache.flink.state.rocksdb.EmbeddedRocksDBStateBackendFactory",
            ],
            BackendKind::RocksDb,
        ),
    ] {
        for name in names {
            for key in ["state.backend", "state.backend.type"] {
                let resolved = state(&format!("{key}: {name}\n")).expect(name);
                assert_eq!((resolved.backend.kind, resolved.notices.len()), (kind, 0), "{key}: {name}");
            }
        }
    }
    let nothing = state("").expect("the default");
    assert_eq!(nothing.backend.kind, BackendKind::Memory);
    assert_eq!(nothing.notices, ["state.backend is not configured: the backend is jobmanager"]);
    insta::assert_snapshot!(
        state("\nstate.backend: rocksbd\n").expect_err("misspelt"),
        @r#"flink-conf.yaml:2: state.backend: "rocksbd" is refused; accepted: jobmanager, filesystem, rocksdb, hashmap, cautious"#
    );
    insta::assert_snapshot!(
        state("state.backend.type: forst\n").expect_err("Flink's"),
        @r#"flink-conf.yaml:1: state.backend.type: "forst" is refused; accepted: jobmanager, filesystem, rocksdb, hashmap, cautious (forst is Flink's; Weir does not have it)"#
    );
}

/// R110: without RocksDB in the program, choosing it is an error that says how to build it in. (That a program so built says this, and has
/// nothing of the C++ library, is a step of `.ci/run`.)
#[test]
fn a_program_without_rocksdb_says_how_to_build_it_in() {
    let wrong = backend::without_rocksdb();
    assert_eq!((wrong.key, wrong.value.as_deref()), ("state.backend", Some("rocksdb")));
    for part in
        ["jobmanager, filesystem, hashmap;", "built without RocksDB", "the feature `rocksdb`", "--features rocksdb"]
    {
        assert!(wrong.accepted.contains(part), "{}", wrong.accepted);
    }
    assert_eq!(state("state.backend: rocksdb\n").is_ok(), cfg!(feature = "rocksdb"));
}

/// R111: own backends plug in by name, and get the configuration.
#[test]
fn a_registered_factory_is_chosen_by_its_name() {
    let resolved = state("state.backend: cautious\n").expect("registered");
    assert_eq!(
        (resolved.backend.kind, resolved.backend.incremental, resolved.backend.timers),
        (BackendKind::RocksDb, true, TimersPlace::RocksDb)
    );
    assert_eq!(resolved.directory.as_deref(), Some("/cautious"));
    assert_eq!(
        state("state.backend: cautious\ncautious.timers: moon\n"),
        Err("flink-conf.yaml:1: state.backend: \"cautious\" is refused; accepted: cautious.timers: database"
            .to_string())
    );
}

#[test]
fn hashmap_goes_where_the_storage_says() {
    for (text, kind) in [
        ("", BackendKind::Memory),
        ("state.checkpoints.dir: /x\n", BackendKind::Filesystem),
        ("state.checkpoint-storage: filesystem\n", BackendKind::Filesystem),
        ("state.checkpoint-storage: jobmanager\nstate.checkpoints.dir: /x\n", BackendKind::Memory),
        ("execution.checkpointing.storage: filesystem\n", BackendKind::Filesystem),
    ] {
        assert_eq!(state(&format!("state.backend: hashmap\n{text}")).expect(text).backend.kind, kind, "{text}");
    }
    // 1.8's names say both.
    assert_eq!(
        state("state.backend: jobmanager\nstate.checkpoints.dir: /x\n").expect("memory").backend.kind,
        BackendKind::Memory
    );
    insta::assert_snapshot!(
        state("state.backend: rocksdb\nstate.checkpoint-storage: jobmanager\n").expect_err("no files in messages"),
        @r#"flink-conf.yaml:2: state.checkpoint-storage: "jobmanager" is refused; accepted: filesystem with rocksdb, whose files cannot travel in an acknowledgement"#
    );
}

/// R10, R108, R109, R177: the document's three samples; what the job says wins, each option for itself, compression of snapshots too.
#[test]
fn a_jobs_own_backend_wins_over_the_configuration() {
    let cluster = "state.backend: filesystem\nstate.checkpoints.dir: hdfs-less/../x\n".replace("hdfs-less/..", "");
    let samples = [
        (StateBackend::filesystem("file:///flink/checkpoints"), BackendKind::Filesystem, "/flink/checkpoints", false),
        (StateBackend::rocksdb("file:///checkpoints-data/"), BackendKind::RocksDb, "/checkpoints-data", false),
        (
            StateBackend::rocksdb_over(StateBackend::filesystem("file:///flink/checkpoints"), true),
            BackendKind::RocksDb,
            "/flink/checkpoints",
            true,
        ),
    ];
    for (backend, kind, directory, incremental) in samples {
        let resolved = for_job(&cluster, &with(backend)).expect("accepted");
        assert_eq!(
            (resolved.backend.kind, resolved.directory.as_deref(), resolved.backend.incremental),
            (kind, Some(directory), incremental)
        );
    }
    // What the job does not say is the cluster's.
    let memory = for_job(&cluster, &with(StateBackend::memory().max_state_size(1 << 20))).expect("accepted");
    assert_eq!((memory.backend.kind, memory.backend.max_memory_state_size), (BackendKind::Memory, 1 << 20));
    assert_eq!(memory.directory.as_deref(), Some("/x"));
    assert_eq!(state(&cluster).expect("accepted").backend.max_memory_state_size, 5_242_880);
    let compressed = JobState { compression: Some(true), ..JobState::default() };
    assert!(for_job(&cluster, &compressed).expect("accepted").backend.compression);
    assert!(!state(&cluster).expect("accepted").backend.compression);
}

/// R89: refused when the job is put together.
#[test]
fn a_jobs_bad_directory_is_refused() {
    for bad in ["hdfs://namenode:40010/flink", "checkpoints", "file://", ""] {
        let refused = for_job("", &with(StateBackend::filesystem(bad))).expect_err(bad);
        assert!(
            refused.starts_with(&format!("the directory of the job's state backend: {bad:?} is refused")),
            "{refused}"
        );
    }
}

/// R82, R83, R94, R98.
#[test]
fn synchronous_snapshots_are_for_debugging_and_not_for_rocksdb() {
    for backend in ["jobmanager", "filesystem"] {
        assert!(state(&format!("state.backend: {backend}\n")).expect("accepted").backend.async_snapshots);
        let off = state(&format!("state.backend: {backend}\nstate.backend.async: false\n")).expect("accepted");
        assert!(!off.backend.async_snapshots && off.notices[0].contains("for debugging"), "{:?}", off.notices);
    }
    let rocksdb = state("state.backend: rocksdb\nstate.backend.async: false\n").expect("accepted");
    assert!(
        rocksdb.backend.async_snapshots && rocksdb.notices[0].contains("RocksDB ignores it"),
        "{:?}",
        rocksdb.notices
    );
    let code = for_job("", &with(StateBackend::memory().asynchronous(false))).expect("accepted");
    assert!(!code.backend.async_snapshots);
}

/// R105, R154: code x configuration.
#[test]
fn incremental_is_rocksdbs_alone_and_code_wins() {
    for (configured, in_code, incremental) in [
        (None, None, false),
        (Some(true), None, true),
        (Some(false), None, false),
        (None, Some(true), true),
        (Some(true), Some(false), false),
        (Some(false), Some(true), true),
    ] {
        let text = configured.map(|on| format!("state.backend.incremental: {on}\n")).unwrap_or_default();
        let backend = StateBackend::rocksdb("/x");
        let backend = match in_code {
            Some(on) => backend.incremental(on),
            None => backend,
        };
        assert_eq!(
            for_job(&text, &with(backend)).expect("accepted").backend.incremental,
            incremental,
            "{configured:?} {in_code:?}"
        );
    }
    let heap = state("state.backend: filesystem\nstate.backend.incremental: true\n").expect("accepted");
    assert!(!heap.backend.incremental);
    assert_eq!(
        heap.notices,
        ["incremental checkpoints are RocksDB's alone: the backend filesystem ignores it and writes full ones"]
    );
}

/// R209, R210, R211.
#[test]
fn local_recovery_is_one_old_key_or_two_new_ones() {
    let on = |text: &str| {
        let resolved = state(&format!("state.backend: filesystem\n{text}")).expect(text);
        (resolved.local_recovery, resolved.notices.len())
    };
    assert_eq!(on(""), (false, 0));
    assert_eq!(on("state.backend.local-recovery: true\n"), (true, 0));
    assert_eq!(on("state.backend.local-recovery: false\n"), (false, 0));
    let (write, read) = ("execution.checkpointing.local-backup.enabled", "execution.state-recovery.from-local");
    assert_eq!(on(&format!("{write}: true\n{read}: true\n")), (true, 0));
    assert_eq!(on(&format!("{write}: true\n")), (false, 1));
    assert_eq!(on(&format!("{read}: true\n")), (false, 1));
    let memory = state("state.backend: jobmanager\nstate.backend.local-recovery: true\n").expect("accepted");
    assert!(!memory.local_recovery);
    assert_eq!(memory.notices, ["local recovery is ignored: the backend jobmanager has no files to keep copies of"]);
}

/// R118, R159, by value: `RX/PredefinedOptions.java`.
#[test]
fn predefined_options_have_flinks_values() {
    let names: BTreeSet<&str> = PredefinedOptions::ALL.iter().map(|options| options.name()).collect();
    let documented = ["DEFAULT", "SPINNING_DISK_OPTIMIZED", "SPINNING_DISK_OPTIMIZED_HIGH_MEM", "FLASH_SSD_OPTIMIZED"];
    assert_eq!(names, BTreeSet::from(documented));
    for options in PredefinedOptions::ALL {
        let text = format!("state.backend: rocksdb\nstate.backend.rocksdb.predefined-options: {}\n", options.name());
        assert_eq!(state(&text).expect("accepted").backend.rocksdb.options, options.options());
    }
    insta::assert_snapshot!(
        serde_json::to_string_pretty(&PredefinedOptions::ALL.map(|o| (o, o.options()))).expect("JSON")
    );
}

/// The document's sample, one to one.
#[derive(Clone)]
struct MyOptionsFactory {
    block_cache_size: u64,
}

impl Default for MyOptionsFactory {
    fn default() -> MyOptionsFactory {
        MyOptionsFactory { block_cache_size: 256 << 20 }
    }
}

impl OptionsFactory for MyOptionsFactory {
    fn configured(&self, value_of: ValueOf<'_>) -> Result<Arc<dyn OptionsFactory>, String> {
        let key = "my.custom.rocksdb.block.cache.size";
        let Some(text) = value_of(key) else { return Ok(Arc::new(self.clone())) };
        let block_cache_size = syntax::size(&text).map_err(|accepted| format!("{key}: {accepted}"))?;
        Ok(Arc::new(MyOptionsFactory { block_cache_size }))
    }

    fn database(&self, current: DatabaseOptions) -> DatabaseOptions {
        DatabaseOptions { parallelism: Some(4), use_fsync: false, ..current }
    }

    fn column_family(&self, mut current: ColumnFamilyOptions) -> ColumnFamilyOptions {
        if let Some(table) = current.blocks() {
            table.block_cache_size = Some(self.block_cache_size);
            table.block_size = Some(128 << 10);
        }
        current
    }
}

/// R117, R162.
#[test]
fn the_documents_own_factory_can_be_written_one_to_one() {
    let text = "state.backend: rocksdb\nstate.backend.rocksdb.options-factory: MyOptionsFactory\n";
    let table = |resolved: &ResolvedState| {
        resolved.backend.rocksdb.options.column_family.clone().blocks().cloned().expect("block-based")
    };
    let usual = state(text).expect("registered");
    assert_eq!(usual.backend.rocksdb.options.database.parallelism, Some(4));
    assert_eq!((table(&usual).block_cache_size, table(&usual).block_size), (Some(256 << 20), Some(128 << 10)));
    let own = state(&format!("{text}my.custom.rocksdb.block.cache.size: 1 mb\n")).expect("registered");
    assert_eq!(table(&own).block_cache_size, Some(1 << 20));
    assert!(
        state(&format!("{text}my.custom.rocksdb.block.cache.size: lots\n")).expect_err("no size").contains("my.custom")
    );
    let default = "org.apache.flink.contrib.streaming.state.DefaultConfigurableOptionsFactory";
    let named = state(&format!("state.backend: rocksdb\nstate.backend.rocksdb.options-factory: {default}\n"));
    assert_eq!(named.expect("known").backend.rocksdb.options, PredefinedOptions::Default.options());
    let unknown = state("state.backend: rocksdb\nstate.backend.rocksdb.options-factory: Other\n").expect_err("unknown");
    assert!(unknown.contains("flink-conf.yaml:2") && unknown.contains("(MyOptionsFactory)"), "{unknown}");
}

/// A factory that asks for a number of threads.
struct Threads(u32);

impl OptionsFactory for Threads {
    fn configured(&self, _value_of: ValueOf<'_>) -> Result<Arc<dyn OptionsFactory>, String> {
        Ok(Arc::new(Threads(self.0)))
    }

    fn database(&self, current: DatabaseOptions) -> DatabaseOptions {
        DatabaseOptions { parallelism: Some(self.0), ..current }
    }
}

/// R160, R163: code beats configuration, for the predefined options and for the factory; the factory is applied on top, whichever
/// way each was set.
#[test]
fn code_beats_configuration_and_the_factory_beats_predefined_options() {
    for predefined_configured in [None, Some("FLASH_SSD_OPTIMIZED")] {
        for predefined_in_code in [None, Some(PredefinedOptions::SpinningDiskOptimized)] {
            for configured in [None, Some(3)] {
                for in_code in [None, Some(9)] {
                    let mut text = String::new();
                    if let Some(name) = predefined_configured {
                        text.push_str(&format!("state.backend.rocksdb.predefined-options: {name}\n"));
                    }
                    if let Some(threads) = configured {
                        text.push_str(&format!("state.backend.rocksdb.thread.num: {threads}\n"));
                    }
                    let mut backend = StateBackend::rocksdb("/x");
                    if let Some(options) = predefined_in_code {
                        backend = backend.predefined_options(options);
                    }
                    if let Some(threads) = in_code {
                        backend = backend.options(Threads(threads));
                    }
                    let options = for_job(&text, &with(backend)).expect("accepted").backend.rocksdb.options;
                    let predefined = predefined_configured.is_some() || predefined_in_code.is_some();
                    // With a factory in code, the one of the configuration is not asked.
                    let threads = in_code.or(configured).or(predefined.then_some(4));
                    assert_eq!(options.database.parallelism, threads, "{text} {predefined_in_code:?} {in_code:?}");
                    assert_eq!(options.database.max_open_files, predefined.then_some(-1));
                    assert_eq!(
                        options.column_family.compaction_style,
                        predefined_in_code.map(|_| CompactionStyle::Level),
                        "{text} {predefined_in_code:?}"
                    );
                }
            }
        }
    }
}

/// R164.
#[test]
fn memory_is_bounded_unless_it_is_switched_off() {
    let bound =
        |text: &str| state(&format!("state.backend: rocksdb\n{text}")).expect(text).backend.rocksdb.memory.per_slot;
    assert_eq!(bound(""), Some(MemoryBudget::DEFAULT_PER_SLOT));
    assert_eq!(bound("state.backend.rocksdb.memory.fixed-per-slot: 64 mb\n"), Some(64 << 20));
    assert_eq!(bound("state.backend.rocksdb.memory.managed: false\n"), None);
    let both = "state.backend.rocksdb.memory.managed: false\nstate.backend.rocksdb.memory.fixed-per-slot: 64 mb\n";
    assert_eq!(bound(both), Some(64 << 20));
    let cache = "state.backend: rocksdb\nstate.backend.rocksdb.block.cache-size: 1 mb\n";
    assert!(state(cache).expect("accepted").notices[0].contains("block.cache-size is without effect"));
    let own = format!("{cache}state.backend.rocksdb.memory.managed: false\n");
    assert!(state(&own).expect("accepted").notices.is_empty());
    let greedy = "state.backend: rocksdb\nstate.backend.rocksdb.memory.write-buffer-ratio: 0.95\n";
    insta::assert_snapshot!(
        state(greedy).expect_err("more than there is"),
        @r#"flink-conf.yaml:2: state.backend.rocksdb.memory.write-buffer-ratio: "0.95" is refused; accepted: state.backend.rocksdb.memory.write-buffer-ratio (0.95) and .high-prio-pool-ratio (0.1) are more than 1 together"#
    );
}

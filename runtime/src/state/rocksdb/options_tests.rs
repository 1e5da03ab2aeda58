//! What was configured arrives in the database: read back from the files in which RocksDB writes down its options.
#![allow(clippy::disallowed_methods, reason = "looks at the files of a database")]

use std::{collections::BTreeMap, path::Path};

use super::{
    database::{Database, WORKING, family_of},
    expiry::Expiring,
    slot_memory::SlotMemory,
};
use crate::{
    config::{JobState, Registry, configure, flat},
    journal::{Event, Journal},
    state::{
        BackendKind, BackendSettings, RocksDbSettings,
        rocksdb_options::{host::DatabaseHost, memory::MemoryBudget, metrics, predefined::PredefinedOptions},
        tests::{Change, Operator, Parts, all_groups, directory},
    },
};

const STATE: &str = "counts";

pub(super) fn configured(text: &str) -> RocksDbSettings {
    let configured = configure(vec![flat("f", &format!("state.backend: rocksdb\n{text}"))]).expect("allowed");
    configured.state(&JobState::default(), &Registry::default()).expect("allowed").backend.rocksdb
}

/// Options of a database and of the column family of [`STATE`] by name, as RocksDB has written them down, and what it
/// writes down nowhere: the bytes that its block cache may have.
struct Written {
    options: BTreeMap<String, String>,
    cache: Option<u64>,
}

fn written(settings: &RocksDbSettings) -> Written {
    let directory = directory();
    let path = directory.path().join(WORKING);
    let database =
        Database::open(directory, WORKING, settings, vec![family_of(STATE)], &Expiring::default()).expect("it opens");
    let family = database.family(STATE).expect("declared");
    let cache = database.rocksdb().property_int_value_cf(family, "rocksdb.block-cache-capacity").expect("a property");
    let names = std::fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("readable").path());
    let file =
        names.filter(|path| name_of(path).starts_with("OPTIONS-")).max().expect("RocksDB has written its options");
    let text = std::fs::read_to_string(file).expect("text");
    let mut options = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_string();
        } else if let Some((key, value)) = line.split_once('=')
            && (section == "DBOptions" || section.contains(STATE))
        {
            options.insert(key.to_string(), value.to_string());
        }
    }
    Written { options, cache }
}

fn name_of(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

impl Written {
    fn assert(&self, expected: &[(&str, &str)]) {
        for (key, value) in expected {
            assert_eq!(self.options.get(*key).map(String::as_str), Some(*value), "{key}");
        }
    }
}

/// R161: each key of `RocksDBConfigurableOptions`, with a value that neither RocksDB nor Weir has by itself.
#[test]
fn every_option_arrives_in_the_database() {
    for (key, value, option, expected) in [
        ("thread.num", "5", "max_background_jobs", "5"),
        ("files.open", "321", "max_open_files", "321"),
        ("compaction.style", "universal", "compaction_style", "kCompactionStyleUniversal"),
        ("compaction.level.use-dynamic-size", "false", "level_compaction_dynamic_level_bytes", "false"),
        ("compaction.level.target-file-size-base", "3 mb", "target_file_size_base", "3145728"),
        ("compaction.level.max-size-level-base", "17 mb", "max_bytes_for_level_base", "17825792"),
        ("writebuffer.size", "5 mb", "write_buffer_size", "5242880"),
        ("writebuffer.count", "7", "max_write_buffer_number", "7"),
        // RocksDB takes less than there may be.
        (
            "writebuffer.number-to-merge",
            "2\nstate.backend.rocksdb.writebuffer.count: 3",
            "min_write_buffer_number_to_merge",
            "2",
        ),
        ("block.blocksize", "12 kb", "block_size", "12288"),
    ] {
        let usual = written(&configured(""));
        assert_ne!(usual.options.get(option).map(String::as_str), Some(expected), "{option} shows nothing");
        written(&configured(&format!("state.backend.rocksdb.{key}: {value}\n"))).assert(&[(option, expected)]);
    }
    let own = written(&configured(
        "state.backend.rocksdb.block.cache-size: 3 mb\nstate.backend.rocksdb.memory.managed: false\n",
    ));
    assert_eq!(own.cache, Some(3 << 20));
    let slow = written(&configured("state.backend.rocksdb.compaction.style: level\n"));
    slow.assert(&[("compaction_style", "kCompactionStyleLevel")]);
}

/// R118, R159, R160: Flink's values, read back key by key.
#[test]
fn predefined_options_arrive_in_the_database() {
    let of = |options: PredefinedOptions| {
        let name = options.name();
        let text =
            format!("state.backend.rocksdb.predefined-options: {name}\nstate.backend.rocksdb.memory.managed: false\n");
        written(&configured(&text))
    };
    let threads_and_files = [("max_background_jobs", "4"), ("use_fsync", "false"), ("max_open_files", "-1")];
    of(PredefinedOptions::Default).assert(&[("use_fsync", "false"), ("max_background_jobs", "2")]);
    of(PredefinedOptions::FlashSsdOptimized).assert(&threads_and_files);
    let spinning = [("compaction_style", "kCompactionStyleLevel"), ("level_compaction_dynamic_level_bytes", "true")];
    let disk = of(PredefinedOptions::SpinningDiskOptimized);
    disk.assert(&threads_and_files);
    disk.assert(&spinning);
    let memory = of(PredefinedOptions::SpinningDiskOptimizedHighMem);
    memory.assert(&threads_and_files);
    memory.assert(&spinning);
    memory.assert(&[
        ("target_file_size_base", "268435456"),
        ("max_bytes_for_level_base", "1073741824"),
        ("write_buffer_size", "67108864"),
        ("min_write_buffer_number_to_merge", "3"),
        ("max_write_buffer_number", "4"),
        ("block_size", "131072"),
        // Its bits per key are not written down.
        ("filter_policy", "bloomfilter"),
    ]);
    assert_eq!(memory.cache, Some(256 << 20));
}

/// R164: two databases of a slot have one cache, their write buffers count in it, and what exceeds the bound is flushed and
/// dropped.
#[test]
fn databases_of_a_slot_share_their_memory() {
    let bound = 12 << 20;
    let budget = MemoryBudget { per_slot: Some(bound), ..MemoryBudget::default() };
    let memory = SlotMemory::new(&budget).expect("bounded");
    let host = DatabaseHost { memory: Some(memory.clone()), ..DatabaseHost::default() };
    let bounded = RocksDbSettings { memory: budget, host, ..RocksDbSettings::default() };
    let shown = written(&bounded);
    // Write buffers may take four of ten, and a fourth of the others is for what is kept in front of the databases.
    assert_eq!(shown.cache, Some((10 << 20) - (3 << 19)));
    shown.assert(&[("cache_index_and_filter_blocks", "true"), ("pin_l0_filter_and_index_blocks_in_cache", "true")]);
    let value = [7; 3 << 10];
    let open = |settings| {
        Database::open(directory(), WORKING, settings, vec![family_of(STATE)], &Expiring::default()).expect("it opens")
    };
    // Together twice as much as the slot may have; gives the most that was in use.
    let fill = |databases: [&Database; 2]| {
        let mut most = 0;
        for number in 0u32..4096 {
            for database in databases {
                database.put(STATE, &number.to_be_bytes(), &value).expect("it is written");
            }
            most = most.max(memory.used_bytes());
        }
        most
    };
    let flushed = |database: &Database| {
        let family = database.family(STATE).expect("declared");
        let of = |name| database.rocksdb().property_int_value_cf(family, name).expect("a property").unwrap_or(0);
        // What is on its way to a file is still in memory.
        while of("rocksdb.num-running-flushes") + of("rocksdb.mem-table-flush-pending") > 0 {
            std::hint::spin_loop();
        }
        of("rocksdb.total-sst-files-size")
    };
    let (first, second) = (open(&bounded), open(&bounded));
    let most = fill([&first, &second]);
    assert!(memory.write_buffer_bytes() > 0, "write buffers are counted");
    assert!(most <= bound, "{most} bytes were in use, {bound} are allowed");
    assert!(flushed(&first) > 0 && flushed(&second) > 0, "they are flushed long before they are full");
    for database in [&first, &second] {
        for number in 0u32..4096 {
            let read = database.get(STATE, &number.to_be_bytes(), |read| Ok(read == value)).expect("it is read");
            assert_eq!(read, Some(true));
        }
    }
    assert!(memory.used_bytes() <= bound, "{} bytes are in use", memory.used_bytes());

    // Without a bound nothing is: 24 MiB stay in memory.
    assert!(SlotMemory::new(&MemoryBudget { per_slot: None, ..budget }).is_none());
    let free = RocksDbSettings::default();
    let (first, second) = (open(&free), open(&free));
    fill([&first, &second]);
    assert_eq!((flushed(&first), flushed(&second)), (0, 0));
}

/// R106: all are off by default; each that is on is read for each state, and reported with each snapshot.
#[test]
fn native_metrics_are_properties_of_the_database() {
    assert!(configured("").metrics.is_empty());
    let all: String =
        metrics::NAMES.iter().map(|name| format!("state.backend.rocksdb.metrics.{name}: true\n")).collect();
    let mut settings = configured(&all);
    assert_eq!(settings.metrics.properties().count(), 21);
    let journal = Journal::new("tm-1", 10_000, None);
    settings.host.journal = Some(journal.clone());
    let database = Database::open(directory(), WORKING, &settings, vec![family_of(STATE)], &Expiring::default())
        .expect("it opens");
    database.put(STATE, b"key", b"value").expect("it is written");
    let read = database.metrics(&[STATE], &settings.metrics);
    assert_eq!(read.iter().map(|(_, name, _)| name.as_str()).collect::<Vec<_>>(), metrics::NAMES, "each has a value");
    let value = |name: &str| read.iter().find(|(_, metric, _)| metric == name).map(|(_, _, value)| *value);
    assert_eq!(value("num-entries-active-mem-table"), Some(1));
    assert_eq!(value("estimate-num-keys"), Some(1));
    assert_eq!(value("background-errors"), Some(0));

    let backend = BackendSettings { kind: BackendKind::RocksDb, rocksdb: settings, ..BackendSettings::default() };
    let mut operator = Operator::open_in(&backend, &Parts::new(), all_groups()).expect("it opens");
    assert_eq!(reported(&journal, "num-entries-active-mem-table"), []);
    operator.apply(&"a".to_string(), &Change::Set(1));
    let _ = operator.backend.snapshot().expect("a snapshot");
    let reported = reported(&journal, "num-entries-active-mem-table");
    assert!(reported.iter().any(|(_, value)| *value > 0), "{reported:?}");
}

/// State and value of each report of a metric.
fn reported(journal: &Journal, wanted: &str) -> Vec<(String, u64)> {
    let events = journal.recent();
    let found = events.into_iter().filter_map(|event| match event {
        Event::DatabaseMetric { state, metric, value, .. } if metric == wanted => Some((state, value)),
        _ => None,
    });
    found.collect()
}

/// What everybody else set stays, whatever was configured.
#[test]
fn no_option_switches_off_what_the_store_relies_on() {
    let settings = configured("state.backend.rocksdb.predefined-options: SPINNING_DISK_OPTIMIZED_HIGH_MEM\n");
    let host = DatabaseHost { memory: SlotMemory::new(&settings.memory), ..DatabaseHost::default() };
    let settings = RocksDbSettings { auto_compaction: false, host, ..settings };
    let shown = written(&settings);
    shown.assert(&[
        ("disable_auto_compactions", "true"),
        ("avoid_flush_during_shutdown", "true"),
        ("db_host_id", "weir"),
    ]);
}

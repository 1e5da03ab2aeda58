//! Keys of the RocksDB backend (Flink `RocksDBOptions`).

use crate::{
    config::key::{Choice, Key, Kind, Means, Standing},
    state::rocksdb_options::predefined::PredefinedOptions,
};

pub(super) const KEYS: &[Key] = &[
    Key {
        name: "state.backend.rocksdb.localdir",
        older: &["state.backend.rocksdb.checkpointdir"],
        default: None,
        meaning: "directories for the databases, used in turn by the TaskManagers; one that cannot be used is skipped with a \
                  warning; without it they are on the TaskManager's own disk",
        kind: Kind::Directories(|settings, found| settings.state.rocksdb.local_directories = found),
        standing: Standing::Works,
        test: "local_directories_are_used_in_turn_and_bad_ones_skipped",
    },
    Key {
        name: "state.backend.rocksdb.timer-service.factory",
        older: &[],
        default: Some("HEAP"),
        meaning: "where timers are kept: on the heap, or in the database, which may be larger than memory",
        kind: Kind::Choice(&[
            Choice {
                value: "HEAP",
                also: &[],
                means: Means::Sets(|settings| settings.state.rocksdb.timers_in_rocksdb = false),
            },
            Choice {
                value: "ROCKSDB",
                also: &[],
                means: Means::Sets(|settings| settings.state.rocksdb.timers_in_rocksdb = true),
            },
        ]),
        standing: Standing::Works,
        test: "timers_in_a_database_are_those_of_the_heap",
    },
    Key {
        name: "state.backend.rocksdb.checkpoint.transfer.thread.num",
        older: &[],
        default: Some("1"),
        meaning: "files that are uploaded or downloaded at the same time, per backend",
        kind: Kind::Integer {
            at_least: 1,
            at_most: 1024,
            set: |settings, threads| settings.state.rocksdb.transfer_threads = u32::try_from(threads).unwrap_or(1),
        },
        standing: Standing::Works,
        test: "as_many_files_are_transferred_at_once_as_configured",
    },
    Key {
        name: "state.backend.rocksdb.ttl.compaction.filter.enabled",
        older: &[],
        default: Some("false"),
        meaning: "compaction drops expired entries of states whose time to live asks for it",
        kind: Kind::Boolean(|settings, on| settings.state.rocksdb.ttl_compaction_filter = on),
        standing: Standing::Works,
        test: "compaction_drops_what_has_expired_where_key_and_state_say_so",
    },
    Key {
        name: "state.backend.rocksdb.predefined-options",
        older: &[],
        default: Some("DEFAULT"),
        meaning: "a set of options that fits the device; an options factory is applied on top",
        kind: Kind::Choice(&[
            Choice {
                value: "DEFAULT",
                also: &[],
                means: Means::Sets(|settings| settings.state.rocksdb.predefined = PredefinedOptions::Default),
            },
            Choice {
                value: "SPINNING_DISK_OPTIMIZED",
                also: &[],
                means: Means::Sets(|settings| {
                    settings.state.rocksdb.predefined = PredefinedOptions::SpinningDiskOptimized;
                }),
            },
            Choice {
                value: "SPINNING_DISK_OPTIMIZED_HIGH_MEM",
                also: &[],
                means: Means::Sets(|settings| {
                    settings.state.rocksdb.predefined = PredefinedOptions::SpinningDiskOptimizedHighMem;
                }),
            },
            Choice {
                value: "FLASH_SSD_OPTIMIZED",
                also: &[],
                means: Means::Sets(|settings| settings.state.rocksdb.predefined = PredefinedOptions::FlashSsdOptimized),
            },
        ]),
        standing: Standing::Works,
        test: "predefined_options_have_flinks_values",
    },
    Key {
        name: "state.backend.rocksdb.options-factory",
        older: &[],
        default: Some("org.apache.flink.contrib.streaming.state.DefaultConfigurableOptionsFactory"),
        meaning: "who makes the options of databases and column families: the default factory, which applies the keys of the \
                  next table, or one that was registered under this name",
        kind: Kind::Text {
            of: "the name of a registered options factory",
            set: |settings, name| settings.state.rocksdb.options_factory = Some(name),
        },
        standing: Standing::Works,
        test: "the_documents_own_factory_can_be_written_one_to_one",
    },
    Key {
        name: "state.backend.rocksdb.memory.managed",
        older: &[],
        default: Some("true"),
        meaning: "the databases of a slot share one cache, in which blocks, indexes, filters and write buffers are accounted; \
                  false: each column family has a cache of its own, without a common bound, as in 1.8",
        kind: Kind::Boolean(|settings, on| settings.state.rocksdb.memory_managed = on),
        standing: Standing::Works,
        test: "memory_is_bounded_unless_it_is_switched_off",
    },
    Key {
        name: "state.backend.rocksdb.memory.fixed-per-slot",
        older: &[],
        default: Some("256 mb"),
        meaning: "the bound of a slot; holds also where memory.managed is false",
        kind: Kind::Size {
            at_least: 1 << 20,
            at_most: u64::MAX,
            set: |settings, bytes| settings.state.rocksdb.memory_per_slot = Some(bytes),
        },
        standing: Standing::Works,
        test: "memory_is_bounded_unless_it_is_switched_off",
    },
    Key {
        name: "state.backend.rocksdb.memory.write-buffer-ratio",
        older: &[],
        default: Some("0.5"),
        meaning: "the share of the bound that write buffers may take",
        kind: Kind::Fraction(|settings, ratio| settings.state.rocksdb.memory.write_buffer_ratio = ratio),
        standing: Standing::Works,
        test: "the_budget_is_divided_as_flink_divides_it",
    },
    Key {
        name: "state.backend.rocksdb.memory.high-prio-pool-ratio",
        older: &[],
        default: Some("0.1"),
        meaning: "the share of the bound that is kept for index and filter blocks",
        kind: Kind::Fraction(|settings, ratio| settings.state.rocksdb.memory.high_priority_ratio = ratio),
        standing: Standing::NotYet("RocksDB's own share is used, a half: its bindings have no call for it"),
        test: "the_budget_is_divided_as_flink_divides_it",
    },
    Key {
        name: "state.backend.rocksdb.recent-entries.size",
        older: &[],
        default: None,
        meaning: "Weir's own: so much memory each state has for entries that were used lately, in front of its database; 0 b: none; \
                  without it, and never more than, its part of a fourth of what the bound of the slot leaves for blocks",
        kind: Kind::Size {
            at_least: 0,
            at_most: u64::MAX,
            set: |settings, bytes| settings.state.rocksdb.recent_bytes = Some(bytes),
        },
        standing: Standing::Works,
        test: "recent_entries_are_bounded_and_can_be_switched_off",
    },
];

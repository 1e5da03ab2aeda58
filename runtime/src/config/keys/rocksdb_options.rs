//! Single options of RocksDB (Flink `RocksDBConfigurableOptions`). None has a default: what is not given stays as the predefined
//! options have it, or RocksDB itself.

use crate::{
    config::{
        key::{Choice, Key, Kind, Means, Standing},
        settings::Settings,
    },
    state::rocksdb_options::{factory::ConfigurableOptions, options::CompactionStyle},
};

fn options(settings: &mut Settings) -> &mut ConfigurableOptions {
    &mut settings.state.rocksdb.options
}

/// In range by the table.
fn number(value: i64) -> Option<u32> {
    u32::try_from(value).ok()
}

/// `int`, as in RocksDB.
const INT_MAX: i64 = i32::MAX as i64;

macro_rules! option {
    ($name:literal, $meaning:literal, $kind:expr) => {
        Key {
            name: concat!("state.backend.rocksdb.", $name),
            older: &[],
            default: None,
            meaning: $meaning,
            kind: $kind,
            standing: Standing::Works,
            test: "every_option_arrives_in_the_database",
        }
    };
}

pub(super) const KEYS: &[Key] = &[
    option!(
        "thread.num",
        "background threads for flushes and compactions",
        Kind::Integer { at_least: 1, at_most: INT_MAX, set: |s, n| options(s).parallelism = number(n) }
    ),
    option!(
        "files.open",
        "files that stay open; -1: all",
        Kind::Integer { at_least: -1, at_most: INT_MAX, set: |s, n| options(s).max_open_files = i32::try_from(n).ok() }
    ),
    option!(
        "compaction.style",
        "how files are put together",
        Kind::Choice(&[
            Choice {
                value: "LEVEL",
                also: &[],
                means: Means::Sets(|s| options(s).compaction_style = Some(CompactionStyle::Level)),
            },
            Choice {
                value: "UNIVERSAL",
                also: &[],
                means: Means::Sets(|s| options(s).compaction_style = Some(CompactionStyle::Universal)),
            },
            Choice {
                value: "FIFO",
                also: &[],
                means: Means::Refused("RocksDB would drop the oldest state when a size is reached"),
            },
        ])
    ),
    option!(
        "compaction.level.use-dynamic-size",
        "the target sizes of levels follow from the size of the last one",
        Kind::Boolean(|s, on| options(s).level_compaction_dynamic_level_bytes = Some(on))
    ),
    option!(
        "compaction.level.target-file-size-base",
        "the size of a file of level 1",
        Kind::Size { at_least: 1, at_most: u64::MAX, set: |s, bytes| options(s).target_file_size_base = Some(bytes) }
    ),
    option!(
        "compaction.level.max-size-level-base",
        "the size of level 1",
        Kind::Size {
            at_least: 1,
            at_most: u64::MAX,
            set: |s, bytes| options(s).max_bytes_for_level_base = Some(bytes)
        }
    ),
    option!(
        "writebuffer.size",
        "the size of a write buffer, one per state",
        Kind::Size { at_least: 1, at_most: 1 << 40, set: |s, bytes| options(s).write_buffer_size = Some(bytes) }
    ),
    option!(
        "writebuffer.count",
        "write buffers of a state, the one that is written to included",
        Kind::Integer { at_least: 1, at_most: INT_MAX, set: |s, n| options(s).max_write_buffer_number = number(n) }
    ),
    option!(
        "writebuffer.number-to-merge",
        "write buffers that are put together before they are written",
        Kind::Integer {
            at_least: 1,
            at_most: INT_MAX,
            set: |s, n| options(s).min_write_buffer_number_to_merge = number(n)
        }
    ),
    option!(
        "block.blocksize",
        "the size of a block, before compression",
        Kind::Size { at_least: 1, at_most: 4 << 30, set: |s, bytes| options(s).block_size = Some(bytes) }
    ),
    option!(
        "block.cache-size",
        "the size of a state's block cache; without effect while the memory of a slot is bounded",
        Kind::Size { at_least: 1, at_most: 1 << 50, set: |s, bytes| options(s).block_cache_size = Some(bytes) }
    ),
];

//! Options of a database, from the settings of the backend.

use rocksdb::{BlockBasedOptions, Cache, DBCompactionStyle, InfoLogger, LogLevel, MergeOperands, Options};

use super::{layout::join_lists, slot_memory::SlotMemory};
use crate::state::{
    rocksdb_options::options::{BlockBasedTable, ColumnFamilyOptions, CompactionStyle, DatabaseOptions, TableFormat},
    settings::RocksDbSettings,
};

/// Background jobs unless somebody asks for more: a flush of one database is one thread's work.
const BACKGROUND_JOBS: i32 = 2;

/// A manifest that will not grow.
const FLEETING_MANIFEST_BYTES: usize = 4 << 10;

/// Memory that a memtable takes at a time, where it will hold little and there are many of them.
const FLEETING_ARENA_BLOCK_BYTES: usize = 32 << 10;

/// Options of the database and of each of its column families. `slot` is the memory that it shares with others; without it the
/// column families have caches of their own, and those of fleeting databases, which hold little, none.
///
/// # Errors
/// If this RocksDB does not know one of them.
pub fn options_for(settings: &RocksDbSettings, slot: Option<&SlotMemory>) -> Result<Options, rocksdb::Error> {
    let mut options = without_log(settings, slot)?;
    if settings.host.fleeting {
        // Without a file of its own, and silent unless it cannot go on.
        options.set_info_logger(InfoLogger::new_stderr_logger(LogLevel::Fatal, None::<&str>));
    } else {
        options.set_log_level(LogLevel::Header);
        options.set_keep_log_file_num(1);
    }
    Ok(options)
}

/// Options of a database that is only read, and of each of its column families. RocksDB makes no log by itself for one that it
/// does not write to; with one it would put together all its options as text each time, to throw the text away.
///
/// # Errors
/// As [`options_for`].
pub fn options_to_read(settings: &RocksDbSettings) -> Result<Options, rocksdb::Error> {
    without_log(settings, None)
}

/// All options but those of the log.
fn without_log(settings: &RocksDbSettings, slot: Option<&SlotMemory>) -> Result<Options, rocksdb::Error> {
    let fleeting = settings.host.fleeting;
    let mut options = base(fleeting)?;
    if fleeting {
        options.set_manifest_preallocation_size(FLEETING_MANIFEST_BYTES);
        options.set_skip_stats_update_on_db_open(true);
        // Otherwise 15 threads are started for each column family of each database that is opened, however few files it has.
        options.set_max_file_opening_threads(1);
        options.set_arena_block_size(FLEETING_ARENA_BLOCK_BYTES);
        // One table of open files, not 64 that are made and removed with each database: few threads look at few files.
        options.set_table_cache_num_shard_bits(0);
    }
    // Whatever a factory says, as in Flink.
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_merge_operator_associative("weir.append", append);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_disable_auto_compactions(!settings.auto_compaction);
    database(&settings.options.database, &mut options);
    column_family(&settings.options.column_family, settings.write_buffer_bytes, &mut options);
    match &settings.options.column_family.table {
        TableFormat::BlockBased(table) => options.set_block_based_table_factory(&blocks(table, slot, fleeting)),
        // Its own defaults are for fixed-length keys in memory; what RocksDB offers for prefixes does not fit here.
        TableFormat::Plain => options.set_plain_table_factory(&rocksdb::PlainTableFactoryOptions {
            user_key_length: 0,
            bloom_bits_per_key: 10,
            hash_table_ratio: 0.0,
            index_sparseness: 16,
            huge_page_tlb_size: 0,
            encoding_type: rocksdb::KeyEncodingType::Plain,
            full_scan_mode: false,
            store_index_in_file: false,
        }),
    }
    if let Some(slot) = slot {
        options.set_write_buffer_manager(slot.write_buffers());
    }
    Ok(options)
}

/// What the C interface has no call for, and is given as a text. A closing database would write out what nobody reads again; and
/// the name of the machine does not belong into files. The text is read once: that is dear, and databases are opened often.
#[allow(clippy::disallowed_types, reason = "the same options for everybody: nothing hangs on who makes them first")]
fn base(fleeting: bool) -> Result<Options, rocksdb::Error> {
    use std::sync::OnceLock;
    static LASTING: OnceLock<Options> = OnceLock::new();
    static FLEETING: OnceLock<Options> = OnceLock::new();
    let known = if fleeting { &FLEETING } else { &LASTING };
    if let Some(options) = known.get() {
        return Ok(options.clone());
    }
    let text = format!("avoid_flush_during_shutdown=true;db_host_id=weir;allow_fallocate={}", !fleeting);
    let options = Options::default().get_options_from_string(text)?;
    Ok(known.get_or_init(|| options).clone())
}

fn database(said: &DatabaseOptions, options: &mut Options) {
    options.set_use_fsync(said.use_fsync);
    match said.parallelism {
        Some(threads) => options.increase_parallelism(int(threads)),
        None => options.set_max_background_jobs(BACKGROUND_JOBS),
    }
    // Files are opened once and are few.
    options.set_max_open_files(said.max_open_files.unwrap_or(-1));
}

fn column_family(said: &ColumnFamilyOptions, write_buffer_bytes: u64, options: &mut Options) {
    options.set_write_buffer_size(size(said.write_buffer_size.unwrap_or(write_buffer_bytes)));
    if let Some(style) = said.compaction_style {
        options.set_compaction_style(match style {
            CompactionStyle::Level => DBCompactionStyle::Level,
            CompactionStyle::Universal => DBCompactionStyle::Universal,
            CompactionStyle::Fifo => DBCompactionStyle::Fifo,
        });
    }
    if let Some(on) = said.level_compaction_dynamic_level_bytes {
        options.set_level_compaction_dynamic_level_bytes(on);
    }
    if let Some(bytes) = said.target_file_size_base {
        options.set_target_file_size_base(bytes);
    }
    if let Some(bytes) = said.max_bytes_for_level_base {
        options.set_max_bytes_for_level_base(bytes);
    }
    if let Some(number) = said.max_write_buffer_number {
        options.set_max_write_buffer_number(int(number));
    }
    if let Some(number) = said.min_write_buffer_number_to_merge {
        options.set_min_write_buffer_number_to_merge(int(number));
    }
}

fn blocks(said: &BlockBasedTable, slot: Option<&SlotMemory>, fleeting: bool) -> BlockBasedOptions {
    let mut blocks = BlockBasedOptions::default();
    if let Some(bytes) = said.block_size {
        blocks.set_block_size(size(bytes));
    }
    if let Some(bits) = said.bloom_filter_bits {
        blocks.set_bloom_filter(bits, false);
    }
    match slot {
        Some(slot) => {
            blocks.set_block_cache(slot.cache());
            // Outside of the cache nobody would count them.
            blocks.set_cache_index_and_filter_blocks(true);
            blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
            blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
        }
        None => match said.block_cache_size {
            Some(bytes) => blocks.set_block_cache(&Cache::new_lru_cache(size(bytes))),
            // The cache that RocksDB would make costs more than reading so little again.
            None if fleeting => blocks.disable_cache(),
            None => {}
        },
    }
    blocks
}

fn int(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Lists are appended to by merging; nothing else is merged.
fn append(_key: &[u8], list: Option<&[u8]>, more: &MergeOperands) -> Option<Vec<u8>> {
    join_lists(list.into_iter().chain(more))
}

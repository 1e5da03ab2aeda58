//! Options of a database, from the settings of the backend.

use rocksdb::{BlockBasedOptions, LogLevel, MergeOperands, Options};

use super::layout::join_lists;
use crate::state::settings::RocksDbSettings;

/// Options of the database and of each of its column families.
///
/// # Errors
/// If this RocksDB does not know one of them.
pub fn options_for(settings: &RocksDbSettings) -> Result<Options, rocksdb::Error> {
    // What the C interface has no call for. A closing database would write out what nobody reads again; and the name of the
    // machine does not belong into files.
    let mut options = Options::default().get_options_from_string("avoid_flush_during_shutdown=true;db_host_id=weir")?;
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_merge_operator_associative("weir.append", append);
    options.set_log_level(LogLevel::Header);
    options.set_keep_log_file_num(1);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    // Files are opened once and are few; a flush of one database is one thread's work.
    options.set_max_open_files(-1);
    options.set_max_background_jobs(2);
    options.set_disable_auto_compactions(!settings.auto_compaction);
    options.set_write_buffer_size(settings.write_buffer_bytes.try_into().unwrap_or(usize::MAX));
    options.set_block_based_table_factory(&BlockBasedOptions::default());
    Ok(options)
}

/// Lists are appended to by merging; nothing else is merged.
fn append(_key: &[u8], list: Option<&[u8]>, more: &MergeOperands) -> Option<Vec<u8>> {
    join_lists(list.into_iter().chain(more))
}

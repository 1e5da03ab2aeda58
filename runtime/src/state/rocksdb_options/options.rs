//! Options of a database, as plain data: what Flink's keys, predefined options and options factories can say. None: RocksDB's
//! own default.

use serde::{Deserialize, Serialize};

/// Options of the database as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatabaseOptions {
    /// `fsync` where RocksDB would call `fdatasync`. Flink never does: durable are checkpoints, not the working files.
    pub use_fsync: bool,
    /// RocksDB's `IncreaseParallelism(n)`: n background jobs, n threads of low priority, one of high priority.
    pub parallelism: Option<u32>,
    /// -1: all files stay open.
    pub max_open_files: Option<i32>,
}

/// Options of each column family, and so of each state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ColumnFamilyOptions {
    pub compaction_style: Option<CompactionStyle>,
    pub level_compaction_dynamic_level_bytes: Option<bool>,
    /// In bytes.
    pub target_file_size_base: Option<u64>,
    /// In bytes.
    pub max_bytes_for_level_base: Option<u64>,
    /// In bytes.
    pub write_buffer_size: Option<u64>,
    pub max_write_buffer_number: Option<u32>,
    pub min_write_buffer_number_to_merge: Option<u32>,
    pub table: TableFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CompactionStyle {
    Level,
    Universal,
    Fifo,
}

/// How the files are laid out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableFormat {
    BlockBased(BlockBasedTable),
    /// Has no blocks: what is said of them is passed over.
    Plain,
}

impl Default for TableFormat {
    fn default() -> TableFormat {
        TableFormat::BlockBased(BlockBasedTable::default())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockBasedTable {
    /// In bytes.
    pub block_size: Option<u64>,
    /// In bytes. Without effect where memory is bounded per slot: the slot's cache is used.
    pub block_cache_size: Option<u64>,
    /// A bloom filter with so many bits per key.
    pub bloom_filter_bits: Option<f64>,
}

impl ColumnFamilyOptions {
    /// The block-based table, if the files have that format.
    pub fn blocks(&mut self) -> Option<&mut BlockBasedTable> {
        match &mut self.table {
            TableFormat::BlockBased(table) => Some(table),
            TableFormat::Plain => None,
        }
    }
}

/// The options of a database and its column families, after everybody who has a say in it was asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RocksDbOptions {
    pub database: DatabaseOptions,
    pub column_family: ColumnFamilyOptions,
}

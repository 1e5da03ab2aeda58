//! Flink's predefined options (`RX/PredefinedOptions.java`, unchanged from 1.8 to 2.1).

use serde::{Deserialize, Serialize};

use super::options::{
    BlockBasedTable, ColumnFamilyOptions, CompactionStyle, DatabaseOptions, RocksDbOptions, TableFormat,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PredefinedOptions {
    /// RocksDB's own, which are made for SSDs.
    #[default]
    Default,
    /// For rotating disks.
    SpinningDiskOptimized,
    /// For rotating disks, with more memory: larger files, buffers and blocks, bloom filters.
    SpinningDiskOptimizedHighMem,
    FlashSsdOptimized,
}

const MIB: u64 = 1 << 20;

impl PredefinedOptions {
    pub const ALL: [PredefinedOptions; 4] = [
        PredefinedOptions::Default,
        PredefinedOptions::SpinningDiskOptimized,
        PredefinedOptions::SpinningDiskOptimizedHighMem,
        PredefinedOptions::FlashSsdOptimized,
    ];

    /// As it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            PredefinedOptions::Default => "DEFAULT",
            PredefinedOptions::SpinningDiskOptimized => "SPINNING_DISK_OPTIMIZED",
            PredefinedOptions::SpinningDiskOptimizedHighMem => "SPINNING_DISK_OPTIMIZED_HIGH_MEM",
            PredefinedOptions::FlashSsdOptimized => "FLASH_SSD_OPTIMIZED",
        }
    }

    /// What it stands for.
    pub fn options(self) -> RocksDbOptions {
        let database = match self {
            PredefinedOptions::Default => DatabaseOptions::default(),
            _ => DatabaseOptions { use_fsync: false, parallelism: Some(4), max_open_files: Some(-1) },
        };
        let spinning = ColumnFamilyOptions {
            compaction_style: Some(CompactionStyle::Level),
            level_compaction_dynamic_level_bytes: Some(true),
            ..ColumnFamilyOptions::default()
        };
        let column_family = match self {
            PredefinedOptions::Default | PredefinedOptions::FlashSsdOptimized => ColumnFamilyOptions::default(),
            PredefinedOptions::SpinningDiskOptimized => spinning,
            PredefinedOptions::SpinningDiskOptimizedHighMem => ColumnFamilyOptions {
                target_file_size_base: Some(256 * MIB),
                max_bytes_for_level_base: Some(4 * 256 * MIB),
                write_buffer_size: Some(64 * MIB),
                min_write_buffer_number_to_merge: Some(3),
                max_write_buffer_number: Some(4),
                table: TableFormat::BlockBased(BlockBasedTable {
                    block_size: Some(128 << 10),
                    block_cache_size: Some(256 * MIB),
                    bloom_filter_bits: Some(10.0),
                }),
                ..spinning
            },
        };
        RocksDbOptions { database, column_family }
    }
}

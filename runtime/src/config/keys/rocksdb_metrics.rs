//! RocksDB's native metrics (Flink `RocksDBNativeMetricOptions`), each a property that is read per state. All are off by default.

use crate::config::key::{Key, Kind, Standing};

macro_rules! metric {
    ($name:literal, $meaning:literal) => {
        Key {
            name: concat!("state.backend.rocksdb.metrics.", $name),
            older: &[],
            default: Some("false"),
            meaning: $meaning,
            kind: Kind::Boolean(|settings, on| settings.state.rocksdb.metrics.switch($name, on)),
            standing: Standing::Works,
            test: "native_metrics_are_properties_of_the_database",
        }
    };
}

pub(super) const KEYS: &[Key] = &[
    metric!("actual-delayed-write-rate", "bytes per second that delayed writes may have; 0: none is delayed"),
    metric!("background-errors", "errors in the background so far"),
    metric!("compaction-pending", "1 if a compaction waits"),
    metric!("cur-size-active-mem-table", "bytes in the write buffer that is written to"),
    metric!("cur-size-all-mem-tables", "bytes in all write buffers that are not written yet"),
    metric!("estimate-live-data-size", "bytes of live data, estimated"),
    metric!("estimate-num-keys", "keys, estimated"),
    metric!("estimate-pending-compaction-bytes", "bytes that compactions have to rewrite, estimated"),
    metric!("estimate-table-readers-mem", "bytes of indexes and filters outside of the cache, estimated"),
    metric!("mem-table-flush-pending", "1 if a write buffer waits to be written"),
    metric!("num-deletes-active-mem-table", "deletions in the write buffer that is written to"),
    metric!("num-deletes-imm-mem-tables", "deletions in full write buffers"),
    metric!("num-entries-active-mem-table", "entries in the write buffer that is written to"),
    metric!("num-entries-imm-mem-tables", "entries in full write buffers"),
    metric!("num-immutable-mem-table", "write buffers that are full and not written yet"),
    metric!("num-live-versions", "versions of the set of files that are held"),
    metric!("num-running-compactions", "compactions that run"),
    metric!("num-running-flushes", "flushes that run"),
    metric!("num-snapshots", "snapshots that are held"),
    metric!("size-all-mem-tables", "the same with those that readers pin"),
    metric!("total-sst-files-size", "bytes of all files"),
];

//! RocksDB's native metrics: properties of each column family, and so of each state (`RX/RocksDBNativeMetricOptions.java`).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What `state.backend.rocksdb.metrics.<name>` switches on: the property `rocksdb.<name>`.
pub const NAMES: [&str; 21] = [
    "actual-delayed-write-rate",
    "background-errors",
    "compaction-pending",
    "cur-size-active-mem-table",
    "cur-size-all-mem-tables",
    "estimate-live-data-size",
    "estimate-num-keys",
    "estimate-pending-compaction-bytes",
    "estimate-table-readers-mem",
    "mem-table-flush-pending",
    "num-deletes-active-mem-table",
    "num-deletes-imm-mem-tables",
    "num-entries-active-mem-table",
    "num-entries-imm-mem-tables",
    "num-immutable-mem-table",
    "num-live-versions",
    "num-running-compactions",
    "num-running-flushes",
    "num-snapshots",
    "size-all-mem-tables",
    "total-sst-files-size",
];

/// The metrics that are switched on; none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NativeMetrics {
    names: BTreeSet<String>,
}

impl NativeMetrics {
    /// Does nothing for a name that RocksDB does not have.
    pub fn switch(&mut self, name: &str, on: bool) {
        if on && NAMES.contains(&name) {
            self.names.insert(name.to_string());
        } else {
            self.names.remove(name);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Names of the metrics and of the properties that they are read from, in order.
    pub fn properties(&self) -> impl Iterator<Item = (&str, String)> {
        self.names.iter().map(|name| (name.as_str(), format!("rocksdb.{name}")))
    }
}

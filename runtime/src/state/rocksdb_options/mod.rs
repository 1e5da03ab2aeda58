//! Options of RocksDB as plain data, which every build knows: what Flink's keys, predefined options and options factories can
//! say. The store itself is in `state::rocksdb`, which turns them into RocksDB's own.

pub mod factory;
pub mod host;
pub mod memory;
pub mod metrics;
pub mod options;
pub mod predefined;

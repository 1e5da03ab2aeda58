//! The tables of all keys, by subject.

mod checkpointing;
mod cluster;
mod foreign;
mod rocksdb;
mod rocksdb_metrics;
mod rocksdb_options;
mod state;

pub use foreign::{FAMILIES, Family, family_of};

use super::key::Key;

/// A part of the configuration.
pub struct Section {
    pub title: &'static str,
    pub keys: &'static [Key],
}

/// All keys, in the order in which they are shown.
pub const SECTIONS: &[Section] = &[
    Section { title: "State backends", keys: state::KEYS },
    Section { title: "RocksDB", keys: rocksdb::KEYS },
    Section { title: "RocksDB options (applied by the default options factory)", keys: rocksdb_options::KEYS },
    Section { title: "RocksDB native metrics", keys: rocksdb_metrics::KEYS },
    Section { title: "Checkpoints and recovery", keys: checkpointing::KEYS },
    Section { title: "Cluster", keys: cluster::KEYS },
];

pub fn all() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().flat_map(|section| section.keys)
}

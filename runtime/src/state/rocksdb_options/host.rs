//! What a process gives to the databases in it. It is filled in by the TaskManager when a subtask is deployed.

use std::fmt;

use crate::journal::Journal;
#[cfg(feature = "rocksdb")]
use crate::state::rocksdb::SlotMemory;

/// The surroundings of a database: no setting, never part of a message, equal to any other.
#[derive(Clone, Default)]
pub struct DatabaseHost {
    /// What the databases of the slot share. None: there is no bound.
    #[cfg(feature = "rocksdb")]
    pub memory: Option<SlotMemory>,
    /// Where native metrics are reported.
    pub journal: Option<Journal>,
    /// The databases are small, in memory, and gone in a moment: they write no log, keep no room for what their files may
    /// become, and count nothing when they open. Nothing of it shows in what they hold.
    pub fleeting: bool,
}

impl PartialEq for DatabaseHost {
    fn eq(&self, _: &DatabaseHost) -> bool {
        true
    }
}

impl fmt::Debug for DatabaseHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseHost")
    }
}

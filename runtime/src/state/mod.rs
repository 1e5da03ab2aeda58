//! Keyed state: key groups, heap tables with copy-on-write snapshots, and the snapshot format.
//!
//! State belongs to one operator of one subtask and is touched by that subtask's thread only. A snapshot shares the tables
//! of the key groups with the stream; whoever writes to a shared table first copies it, so the stream never waits for an
//! encoding and an encoding never sees a later write.

mod backend;
mod error;
mod format;
mod handles;
mod key;
mod key_group;
mod table;

pub use backend::{HeapBackend, KeyedContext, OpenContext};
pub use error::{Record, UserError};
pub use format::{EntryRef, FormatError, PartHeader, PartReader, StateHeader, StateKind, StateSection};
#[cfg(feature = "sabotage")]
pub use format::{without_key_group, without_one_key_group};
pub use handles::{ListState, MapState, ValueState};
pub use key::StateKey;
pub use key_group::{
    MAX_MAX_PARALLELISM, default_max_parallelism, key_group_of, key_group_range, split_range, subtask_of,
};
pub use table::StateValue;

#[cfg(test)]
mod tests;

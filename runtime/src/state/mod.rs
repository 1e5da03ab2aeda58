//! Keyed state: key groups, heap tables with copy-on-write snapshots, and the snapshot format.
//!
//! State belongs to one operator of one subtask and is touched by that subtask's thread only. A snapshot shares the tables
//! of the key groups with the stream; whoever writes to a shared table first copies it, so the stream never waits for an
//! encoding and an encoding never sees a later write.

mod backend;
mod combining;
mod context;
mod declare;
mod error;
mod format;
mod handles;
mod heap;
mod key;
mod key_group;
mod keyed_snapshot;
mod keyed_time;
mod operator;
mod operator_contents;
mod operator_format;
mod operator_handles;
mod operator_restore;
mod redistribution;
mod restored;
#[cfg(feature = "rocksdb")]
mod rocksdb;
pub mod rocksdb_options;
pub mod settings;
mod shape;
mod table;
mod timer_rows;
mod timers;
mod ttl;
mod ttl_encoded;
mod ttl_handles;

pub use backend::KeyedBackend;
pub(crate) use backend::plain_name;
pub use combining::{Aggregate, AggregatingState, ReducingState};
pub use context::KeyedContext;
pub use declare::OpenContext;
pub use error::{Record, StateError, StateProblem, UserError};
pub use format::{EntryRef, FormatError, PartHeader, PartReader, StateHeader, StateKind, StateSection, StateStructure};
#[cfg(feature = "sabotage")]
pub use format::{without_key_group, without_one_key_group, without_timers};
pub use handles::{ListState, MapState, ValueState};
pub use key::StateKey;
pub use key_group::{
    MAX_MAX_PARALLELISM, default_max_parallelism, key_group_of, key_group_range, split_range, subtask_of,
};
pub use keyed_time::{ProcessingClock, TimerService, Timers};
pub use operator::{OperatorBackend, SubtaskPlace};
#[cfg(feature = "sabotage")]
pub use operator_format::with_entries_changed;
pub use operator_format::{OperatorPart, OperatorPartHeader, OperatorStateHeader, OperatorStateMode};
pub use operator_handles::{
    BroadcastState, OperatorContext, OperatorListState, OperatorOpenContext, OperatorReadContext, ReadsOperatorState,
};
pub use redistribution::{broadcast_copy, split_share};
#[cfg(feature = "rocksdb")]
pub use rocksdb::{SlotMemory, part_of_database};
pub use settings::{BackendKind, BackendSettings, RocksDbSettings, TimersPlace};
pub use shape::{Named, Shape, ShapeError};
pub use table::{StateNamespace, StateValue};
pub use timers::{TimeDomain, Timer};
pub use ttl::{Expiring, Ttl, TtlUpdate, TtlVisibility};
pub use ttl_encoded::is_expired_encoded;
pub use ttl_handles::{TtlAggregatingState, TtlListState, TtlMapState, TtlReducingState, TtlValueState};

#[cfg(test)]
mod tests;

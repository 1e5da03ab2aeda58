//! Configuration: the keys of Flink that mean something in Weir, under today's names and those of 1.8, in one declarative table
//! ([`keys`]), and what they set.
//!
//! Everything here is pure. Reading files is the command line's business.

mod backend;
mod document;
mod job;
mod key;
pub mod keys;
mod read;
mod resolve;
mod settings;
pub mod syntax;

pub use backend::{BackendFactory, Registry, ResolvedState, Storage};
pub use document::{BACKENDS, BackendRow, backends, listing, markdown};
pub use job::{JobState, StateBackend};
pub use key::{Key, Kind, Standing, place};
pub use read::{Entry, Layer, Origin, Unreadable, define, flat, nested};
pub use resolve::{Configured, Refusal, configure};
pub use settings::{JobDefaults, RestartConfig, RestartStrategy, RocksDbConfig, Settings, StateConfig};

#[cfg(test)]
mod tests;

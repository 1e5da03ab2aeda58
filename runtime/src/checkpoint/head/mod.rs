//! The head log: every decision of a job's coordinator, in order, each one object created at the next sequence number.
//!
//! Safety rests on create-if-absent alone, never on a clock: of two leaders that write the same sequence number one loses,
//! sees the other's entry and steps down. What the entries mean is the pure fold [`HeadState`]; [`HeadLog`] does the I/O.
//!
//! A savepoint is in the log like a checkpoint, with source positions, digests and manifests, because it commits output like one: a
//! failure right behind it restores the savepoint, and if its owner has taken it away by then, an older checkpoint, from where
//! the epochs up to the savepoint are replayed. What differs is who owns the files. The log says of a savepoint where it lies
//! before anything is written there (so that what a dead leader left half-written can be swept), and never that its files may go.

mod entry;
mod log;
#[cfg(feature = "sabotage")]
mod planted;
mod state;

pub use entry::{HeadEntry, HeadRecord};
pub use log::{HeadError, HeadLog, probe};
pub use state::{HeadState, Import, JobEnd, RetainedCheckpoint};

/// So many checkpoint ids are granted with one entry.
pub const ID_BLOCK: u64 = 8;

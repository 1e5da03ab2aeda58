//! The head log: every decision of a job's coordinator, in order, each one object created at the next sequence number.
//!
//! Safety rests on create-if-absent alone, never on a clock: of two leaders that write the same sequence number one loses,
//! sees the other's entry and steps down. What the entries mean is the pure fold [`HeadState`]; [`HeadLog`] does the I/O.

mod entry;
mod log;
#[cfg(feature = "sabotage")]
mod planted;
mod state;

pub use entry::{HeadEntry, HeadRecord};
pub use log::{HeadError, HeadLog, probe};
pub use state::{HeadState, JobEnd, RetainedCheckpoint};

/// So many checkpoint ids are granted with one entry.
pub const ID_BLOCK: u64 = 8;

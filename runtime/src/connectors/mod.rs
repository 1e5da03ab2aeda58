//! Where records come from and where they go.
//!
//! A source is cut into splits, each read in order; a position in a split is a number from which reading can go on after a
//! restore and gives the same records again. Readers never wait: what they need of a file they ask for, and are fed.

use std::ops::Range;

use bytes::Bytes;

use crate::{
    ids::SplitId,
    state::{Record, UserError},
};

mod generator;
mod lines;
mod sink;

pub use generator::GeneratorSource;
pub use lines::{LineAt, LineFileSource, MAX_LINE_BYTES, READ_AHEAD_BYTES};
pub use sink::{LineSink, ROLL_BYTES};

/// What asking a split for records gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SplitPoll {
    /// So many records (at least 1) were appended.
    Records(u32),
    /// These bytes of the file are needed first.
    NeedInput { path: String, range: Range<u64> },
    /// Stays so.
    Exhausted,
}

/// A replayable source. Data only: the same in every process of the cluster.
pub trait Source: Send + Sync + 'static {
    type Out: Record;

    /// Its splits. Names are stable; which subtask reads a split is not the source's business.
    fn splits(&self) -> Vec<SplitId>;

    /// A reader of the split at this position in [`Self::splits`], from `offset` on (0: from the start).
    fn open(&self, split: usize, offset: u64) -> Box<dyn SplitReader<Self::Out>>;

    /// Records per second of all splits together, if limited.
    fn records_per_second(&self) -> Option<f64> {
        None
    }
}

/// Reads one split, on the thread of a subtask.
pub trait SplitReader<T> {
    /// Appends up to `max_records` records.
    ///
    /// # Errors
    /// If the input is not as it must be, or the parser says so; naming the place.
    fn poll(&mut self, max_records: u32, batch: &mut Vec<T>) -> Result<SplitPoll, UserError>;

    /// The bytes asked for; fewer at the end of the file.
    ///
    /// # Errors
    /// If nothing was asked for, or the file is not as it was.
    fn feed(&mut self, bytes: Bytes) -> Result<(), UserError>;

    /// From where to read on. A function of the number of records read so far, and of nothing else.
    fn offset(&self) -> u64;
}

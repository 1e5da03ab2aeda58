//! Input files of replayable sources: read-only, outside of Weir's own storage, reachable from every process.

use std::ops::Range;

use bytes::Bytes;

use super::{Fut, StoreError};

/// Reads the files a job takes as its input. Their content must not change while the job runs.
pub trait InputFiles: Send + Sync {
    /// # Errors
    /// [`StoreError::Absent`] if there is no such file.
    fn length(&self, path: &str) -> Fut<'_, Result<u64, StoreError>>;
    /// The bytes of `range`, cut off at the end of the file.
    fn read(&self, path: &str, range: Range<u64>) -> Fut<'_, Result<Bytes, StoreError>>;
}

//! Objects that are written and read in pieces, so that no more than one piece is in memory, with the checksum taken on the way.

use std::ops::Range;

use bytes::Bytes;

use super::{BadReading, Primary, ReadError, Readings};
use crate::{
    platform::{DiskError, DiskFile, Fut, Held, ObjectName, StoreError, Upload},
    points::Point,
};

/// Why an object could not be written in pieces.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// What was to be written could not be read, or is not as long as was said.
    #[error("{0}")]
    Source(String),
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// Why an object could not be read in pieces into a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PiecesError {
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("{0}")]
    Disk(#[from] DiskError),
}

/// `0..length` in pieces of so many bytes, the last one perhaps shorter.
fn pieces(length: u64, piece_bytes: u64) -> impl Iterator<Item = Range<u64>> + Send {
    let piece_bytes = piece_bytes.max(1);
    (0..length.div_ceil(piece_bytes)).map(move |n| n * piece_bytes..((n + 1) * piece_bytes).min(length))
}

impl Primary {
    /// Creates `name` with the `length` bytes that `read` gives, `piece_bytes` at a time; gives their checksum. `stored` is told
    /// the number of each piece that is in the store. Nothing can be seen before all of it is there. Succeeds as well if the object
    /// exists with exactly these bytes.
    ///
    /// # Errors
    /// [`UploadError`]; of the store as those of [`Self::create`]. What was stored is removed, as far as the store lets itself
    /// be reached; the orphan sweep finds the rest.
    pub async fn upload<'a>(
        &self,
        name: &ObjectName,
        length: u64,
        piece_bytes: u64,
        read: impl Fn(Range<u64>) -> Fut<'a, Result<Bytes, String>> + Send + Sync,
        mut stored: impl FnMut(u32) + Send,
    ) -> Result<u32, UploadError> {
        let begin = |by| self.attempt(by, self.platform.primary.upload(name, by));
        let mut upload = self.retried(name.as_str(), "upload", begin).await?;
        let result = self.send(name, upload.as_mut(), length, piece_bytes, &read, &mut stored).await;
        if let Err(error) = &result
            && *error != UploadError::Store(StoreError::Dead)
        {
            self.platform.journal.reached(Point::UploadGivenUp);
            let by = self.by();
            // What this leaves is swept.
            let _ = self.attempt(by, upload.abort(by)).await;
        }
        result
    }

    async fn send<'a>(
        &self,
        name: &ObjectName,
        upload: &mut dyn Upload,
        length: u64,
        piece_bytes: u64,
        read: &(impl Fn(Range<u64>) -> Fut<'a, Result<Bytes, String>> + Send + Sync),
        stored: &mut (impl FnMut(u32) + Send),
    ) -> Result<u32, UploadError> {
        let mut crc32c = 0;
        for (number, range) in (0_u32..).zip(pieces(length, piece_bytes)) {
            let wanted = range.end - range.start;
            let piece = read(range).await.map_err(UploadError::Source)?;
            let _held = Held::new(&self.platform.memory, wanted);
            if piece.len() as u64 != wanted {
                let problem = format!("{} bytes were read where {wanted} were expected", piece.len());
                return Err(UploadError::Source(problem));
            }
            crc32c = crc32c::crc32c_append(crc32c, &piece);
            self.put(name, upload, number, piece).await?;
            stored(number);
        }
        self.finish(name, upload, length, crc32c, piece_bytes).await?;
        Ok(crc32c)
    }

    async fn put(
        &self,
        name: &ObjectName,
        upload: &mut dyn Upload,
        number: u32,
        piece: Bytes,
    ) -> Result<(), StoreError> {
        let mut attempts = self.attempts(name.as_str(), "upload");
        loop {
            let by = self.by();
            match self.attempt(by, upload.put(number, piece.clone(), by)).await {
                Err(error) if error.is_retryable() => {
                    if !attempts.again(&error).await {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }

    /// As [`Self::create`], of what is in the store already.
    async fn finish(
        &self,
        name: &ObjectName,
        upload: &mut dyn Upload,
        length: u64,
        crc32c: u32,
        piece_bytes: u64,
    ) -> Result<(), StoreError> {
        let mut creation = self.creation(name, length);
        loop {
            let by = self.by();
            let result = self.attempt(by, upload.finish(by)).await;
            if let Some(outcome) = creation.settle(result, self.has_checksum(name, length, crc32c, piece_bytes)).await {
                return outcome;
            }
        }
    }

    /// Whether `name` holds bytes of this length and checksum. That it does not is believed only of two readings that agree.
    async fn has_checksum(
        &self,
        name: &ObjectName,
        length: u64,
        crc32c: u32,
        piece_bytes: u64,
    ) -> Result<bool, StoreError> {
        let mut readings = Readings::new(2);
        loop {
            let found = match self.read_into(name, length, piece_bytes, None).await {
                Ok(found) => found,
                Err(PiecesError::Read(ReadError::Length { .. })) => return Ok(false),
                Err(PiecesError::Read(ReadError::Store(error))) => return Err(error),
                // There is no file.
                Err(PiecesError::Disk(_)) => return Err(StoreError::Ambiguous),
            };
            if found == crc32c {
                return Ok(true);
            }
            match readings.bad_checksum(found, length) {
                BadReading::Again => {}
                BadReading::AtRest => return Ok(false),
                BadReading::OnTheWay => return Err(StoreError::Ambiguous),
            }
        }
    }

    /// Reads an object of exactly `length` bytes, `piece_bytes` at a time, and appends them to `file`, if one is given. Gives the
    /// checksum of what was read; whether it is the right one is for the caller to say.
    ///
    /// # Errors
    /// [`PiecesError`]; of the store as those of [`Self::read_exact`].
    pub async fn read_into(
        &self,
        name: &ObjectName,
        length: u64,
        piece_bytes: u64,
        mut file: Option<&mut dyn DiskFile>,
    ) -> Result<u32, PiecesError> {
        let mut crc32c = 0;
        for range in pieces(length, piece_bytes) {
            let _held = Held::new(&self.platform.memory, range.end - range.start);
            let piece = self.read_range(name, range, length).await?;
            crc32c = crc32c::crc32c_append(crc32c, &piece);
            if let Some(file) = file.as_mut() {
                file.append(piece).await?;
            }
        }
        if length == 0 {
            // That it is there at all.
            self.read_range(name, 0..0, 0).await?;
        }
        Ok(crc32c)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_cover_all_and_are_no_larger_than_asked(length in 0_u64..5_000, piece_bytes in 0_u64..700) {
            let all: Vec<Range<u64>> = pieces(length, piece_bytes).collect();
            let mut at = 0;
            for piece in &all {
                prop_assert_eq!(piece.start, at);
                prop_assert!(piece.end > piece.start && piece.end - piece.start <= piece_bytes.max(1));
                at = piece.end;
            }
            prop_assert_eq!(at, length);
        }
    }
}

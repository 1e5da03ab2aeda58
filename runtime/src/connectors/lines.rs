//! Text files as sources: each file cut into byte ranges, each range a split.
//!
//! A split owns the lines that *begin* in its range, so every line has one owner wherever the cuts fall. Offsets are offsets
//! in the file. Reading goes on, from a restored offset, in the line that begins there; the offset where a split starts is
//! the one exception: there the first line has to be found, whether the split was begun or not.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use super::{Source, SplitPoll, SplitReader};
use crate::{
    ids::SplitId,
    state::{Record, UserError},
};

/// How much of a file is asked for at once.
pub const READ_AHEAD_BYTES: u64 = 64 << 10;
/// A longer line is an error: the file is hardly a text file.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// Where a line comes from.
#[derive(Clone, Copy, Debug)]
pub struct LineAt<'a> {
    pub split: &'a SplitId,
    /// Position of the split among the source's.
    pub split_index: u32,
    /// Of the line's first byte in the file.
    pub offset: u64,
}

type Parse<T> = dyn Fn(LineAt<'_>, &str) -> Result<Option<T>, UserError> + Send + Sync;

#[derive(Clone, Debug)]
struct Split {
    id: SplitId,
    path: Arc<str>,
    range: Range<u64>,
    /// None: not known before it is reached.
    file_length: Option<u64>,
}

/// Lines of text files.
pub struct LineFileSource<T> {
    splits: Vec<Split>,
    parse: Arc<Parse<T>>,
    skip_header: bool,
    records_per_second: Option<f64>,
}

impl<T: Record> LineFileSource<T> {
    /// Whole files, each one split. `parse` gives the record of a line, or None to pass over the line.
    pub fn new<P: Into<String>>(
        paths: impl IntoIterator<Item = P>,
        parse: impl Fn(LineAt<'_>, &str) -> Result<Option<T>, UserError> + Send + Sync + 'static,
    ) -> LineFileSource<T> {
        let splits = paths.into_iter().map(|path| {
            let path: String = path.into();
            Split { id: split_id(&path, 0, 1), path: path.into(), range: 0..u64::MAX, file_length: None }
        });
        LineFileSource::of(splits.collect(), parse)
    }

    /// Files of known lengths, each cut into `splits_per_file` splits.
    pub fn with_lengths<P: AsRef<str>>(
        files: &[(P, u64)],
        splits_per_file: u32,
        parse: impl Fn(LineAt<'_>, &str) -> Result<Option<T>, UserError> + Send + Sync + 'static,
    ) -> LineFileSource<T> {
        let mut splits = Vec::new();
        for (path, length) in files {
            let path: Arc<str> = path.as_ref().into();
            let bound = |i: u32| {
                let exact = u128::from(*length) * u128::from(i) / u128::from(splits_per_file);
                u64::try_from(exact).unwrap_or(*length)
            };
            splits.extend((0..splits_per_file).map(|i| Split {
                id: split_id(&path, i, splits_per_file),
                path: path.clone(),
                range: bound(i)..bound(i + 1),
                file_length: Some(*length),
            }));
        }
        LineFileSource::of(splits, parse)
    }

    fn of(
        splits: Vec<Split>,
        parse: impl Fn(LineAt<'_>, &str) -> Result<Option<T>, UserError> + Send + Sync + 'static,
    ) -> LineFileSource<T> {
        LineFileSource { splits, parse: Arc::new(parse), skip_header: false, records_per_second: None }
    }

    /// Passes over the first line of every file.
    #[must_use]
    pub fn skip_header(mut self) -> Self {
        self.skip_header = true;
        self
    }

    #[must_use]
    pub fn records_per_second(mut self, rate: f64) -> Self {
        self.records_per_second = Some(rate);
        self
    }
}

fn split_id(path: &str, index: u32, of: u32) -> SplitId {
    SplitId(format!("{path}#{index}/{of}"))
}

impl<T: Record> Source for LineFileSource<T> {
    type Out = T;

    fn splits(&self) -> Vec<SplitId> {
        self.splits.iter().map(|split| split.id.clone()).collect()
    }

    fn open(&self, index: usize, offset: u64) -> Box<dyn SplitReader<T>> {
        let split = self.splits[index].clone();
        let offset = offset.max(split.range.start);
        let phase = if offset == split.range.start && offset > 0 {
            Phase::FindFirstLine
        } else if offset == 0 && self.skip_header {
            Phase::SkipHeader
        } else {
            Phase::Lines
        };
        // The newline that ends the line before may be the very last byte before the split.
        let buffer_start = if phase == Phase::FindFirstLine { offset - 1 } else { offset };
        Box::new(LineReader {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            file_length: split.file_length,
            split,
            phase,
            offset,
            buffer: Vec::new(),
            buffer_start,
            line: 0,
            searched: 0,
            asked: None,
            parse: self.parse.clone(),
        })
    }

    fn records_per_second(&self) -> Option<f64> {
        self.records_per_second
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    FindFirstLine,
    SkipHeader,
    Lines,
}

struct LineReader<T> {
    index: u32,
    split: Split,
    file_length: Option<u64>,
    phase: Phase,
    /// After the last record: lines that were passed over since are read again after a restore, so that the offset depends
    /// on nothing but the number of records.
    offset: u64,
    /// Bytes of the file from `buffer_start` on.
    buffer: Vec<u8>,
    buffer_start: u64,
    /// In the buffer: where the next line begins, and up to where no newline was found.
    line: usize,
    searched: usize,
    asked: Option<Range<u64>>,
    parse: Arc<Parse<T>>,
}

/// A line in the buffer.
enum NextLine {
    /// Without its line end; the next line begins at the second number.
    Line(Range<usize>, usize),
    Missing,
    End,
}

impl<T> LineReader<T> {
    fn line_offset(&self) -> u64 {
        self.buffer_start + self.line as u64
    }

    fn next_line(&mut self) -> Result<NextLine, UserError> {
        let line_offset = self.line_offset();
        let at_end = self.file_length.is_some_and(|length| self.buffer_start + self.buffer.len() as u64 >= length);
        if self.phase != Phase::FindFirstLine && line_offset >= self.split.range.end {
            return Ok(NextLine::End);
        }
        let from = self.searched.max(self.line);
        if let Some(found) = memchr::memchr(b'\n', &self.buffer[from..]) {
            let end = from + found;
            self.check_length(end - self.line)?;
            return Ok(NextLine::Line(self.line..end, end + 1));
        }
        self.searched = self.buffer.len();
        self.check_length(self.buffer.len() - self.line)?;
        Ok(match at_end {
            false => NextLine::Missing,
            true if self.line < self.buffer.len() => NextLine::Line(self.line..self.buffer.len(), self.buffer.len()),
            true => NextLine::End,
        })
    }

    fn check_length(&self, length: usize) -> Result<(), UserError> {
        // What precedes the first line of a split belongs to another split, which will complain.
        if length > MAX_LINE_BYTES && self.phase != Phase::FindFirstLine {
            return Err(UserError::new(format!(
                "{}: the line at offset {} is longer than {MAX_LINE_BYTES} bytes",
                self.split.path,
                self.line_offset()
            )));
        }
        Ok(())
    }

    fn need_input(&mut self) -> SplitPoll {
        let start = self.buffer_start + self.buffer.len() as u64;
        let mut end = start.saturating_add(READ_AHEAD_BYTES);
        if let Some(length) = self.file_length {
            end = end.min(length);
        }
        self.asked = Some(start..end);
        SplitPoll::NeedInput { path: self.split.path.to_string(), range: start..end }
    }

    /// One line: Ok(None) if it was passed over.
    fn parse_line(&self, line: Range<usize>) -> Result<Option<T>, UserError> {
        let bytes = &self.buffer[line];
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let at = |problem: String| {
            UserError::new(format!("{}, line at offset {}: {problem}", self.split.path, self.line_offset()))
        };
        let text = std::str::from_utf8(bytes).map_err(|error| at(format!("not UTF-8: {error}")))?;
        let place = LineAt { split: &self.split.id, split_index: self.index, offset: self.line_offset() };
        (self.parse)(place, text).map_err(|error| at(error.into_message()))
    }
}

impl<T> SplitReader<T> for LineReader<T> {
    fn poll(&mut self, max_records: u32, batch: &mut Vec<T>) -> Result<SplitPoll, UserError> {
        let mut records = 0;
        while records < max_records {
            // Lines may begin up to the end of the range, so the search for the first may stop one byte before.
            if self.phase == Phase::FindFirstLine
                && self.buffer_start + self.searched.max(self.line) as u64 + 1 >= self.split.range.end
            {
                return Ok(SplitPoll::Exhausted);
            }
            let (line, next) = match self.next_line()? {
                NextLine::Line(line, next) => (line, next),
                NextLine::Missing if records > 0 => break,
                NextLine::Missing => return Ok(self.need_input()),
                NextLine::End if records > 0 => break,
                NextLine::End => return Ok(SplitPoll::Exhausted),
            };
            let record = match self.phase {
                Phase::Lines => self.parse_line(line)?,
                Phase::FindFirstLine | Phase::SkipHeader => None,
            };
            self.phase = Phase::Lines;
            self.line = next;
            if let Some(record) = record {
                batch.push(record);
                records += 1;
                self.offset = self.line_offset();
            }
        }
        Ok(SplitPoll::Records(records))
    }

    fn feed(&mut self, bytes: Bytes) -> Result<(), UserError> {
        let Some(asked) = self.asked.take() else {
            return Err(UserError::new(format!("{}: bytes that nobody asked for", self.split.path)));
        };
        let got = bytes.len() as u64;
        let wanted = asked.end - asked.start;
        let end = asked.start + got;
        if got > wanted || (got < wanted && self.file_length.is_some()) {
            return Err(UserError::new(format!(
                "{}: {got} bytes at offset {} where {wanted} were asked for; the file has changed",
                self.split.path, asked.start
            )));
        }
        if got < wanted {
            self.file_length = Some(end);
        }
        self.buffer.drain(..self.line);
        self.buffer_start += self.line as u64;
        self.searched = self.searched.saturating_sub(self.line);
        self.line = 0;
        if self.phase == Phase::FindFirstLine {
            // Nothing searched in vain is needed again.
            self.buffer.drain(..self.searched);
            self.buffer_start += self.searched as u64;
            self.searched = 0;
        }
        self.buffer.extend_from_slice(&bytes);
        Ok(())
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;

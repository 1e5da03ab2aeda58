//! A source that computes its records: record `offset` of split `i` is a pure function of both.

use std::sync::Arc;

use bytes::Bytes;

use super::{Source, SplitPoll, SplitReader};
use crate::{
    ids::SplitId,
    state::{Record, UserError},
};

type Generate<T> = dyn Fn(u32, u64) -> Option<T> + Send + Sync;

pub struct GeneratorSource<T> {
    name: String,
    splits: u32,
    generate: Arc<Generate<T>>,
    records_per_second: Option<f64>,
}

impl<T: Record> GeneratorSource<T> {
    /// `generate(split, offset)` gives the record, None at the end of the split.
    pub fn new(
        name: impl Into<String>,
        splits: u32,
        generate: impl Fn(u32, u64) -> Option<T> + Send + Sync + 'static,
    ) -> GeneratorSource<T> {
        GeneratorSource { name: name.into(), splits, generate: Arc::new(generate), records_per_second: None }
    }

    #[must_use]
    pub fn records_per_second(mut self, rate: f64) -> Self {
        self.records_per_second = Some(rate);
        self
    }
}

impl<T: Record> Source for GeneratorSource<T> {
    type Out = T;

    fn splits(&self) -> Vec<SplitId> {
        (0..self.splits).map(|split| SplitId(format!("{}#{split}/{}", self.name, self.splits))).collect()
    }

    fn open(&self, split: usize, offset: u64) -> Box<dyn SplitReader<T>> {
        let split = u32::try_from(split).unwrap_or(u32::MAX);
        Box::new(GeneratorReader { split, offset, generate: self.generate.clone() })
    }

    fn records_per_second(&self) -> Option<f64> {
        self.records_per_second
    }
}

struct GeneratorReader<T> {
    split: u32,
    offset: u64,
    generate: Arc<Generate<T>>,
}

impl<T> SplitReader<T> for GeneratorReader<T> {
    fn poll(&mut self, max_records: u32, batch: &mut Vec<T>) -> Result<SplitPoll, UserError> {
        for read in 0..max_records {
            match (self.generate)(self.split, self.offset) {
                Some(record) => {
                    batch.push(record);
                    self.offset += 1;
                }
                None if read == 0 => return Ok(SplitPoll::Exhausted),
                None => return Ok(SplitPoll::Records(read)),
            }
        }
        Ok(SplitPoll::Records(max_records))
    }

    fn feed(&mut self, _bytes: Bytes) -> Result<(), UserError> {
        Err(UserError::new("a generator reads no file"))
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generator_goes_on_from_any_offset() {
        let source = GeneratorSource::new("numbers", 2, |split, offset| (offset < 5).then_some((split, offset)));
        assert_eq!(source.splits(), [SplitId("numbers#0/2".into()), SplitId("numbers#1/2".into())]);
        let mut reader = source.open(1, 3);
        let mut batch = Vec::new();
        assert_eq!(reader.poll(10, &mut batch).unwrap(), SplitPoll::Records(2));
        assert_eq!(batch, [(1, 3), (1, 4)]);
        assert_eq!(reader.poll(10, &mut batch).unwrap(), SplitPoll::Exhausted);
        assert_eq!(reader.offset(), 5);
    }
}

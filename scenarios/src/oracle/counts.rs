//! The oracle of counting jobs (word counts, flights): every input adds to some keys; each output line tells a key, how many
//! inputs it has seen, and its running values. Which input a line came from is not told, so the oracle works with sets:
//! after each epoch the newest line of every key must be the count over exactly the inputs below the source positions.
//!
//! A line is `key<TAB>count<TAB>values…`. Where the values depend on the order of inputs, only the last line of a
//! finished job is compared.

use std::collections::BTreeMap;

use bytes::Bytes;
use runtime::ids::{CheckpointId, SplitId};

use super::{OutputOracle, Wrong};
use crate::invariants::StateEntry;

/// What one input adds: at `position` of `split` (the position is that of the record's end) one to each of `keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedInput {
    pub split: SplitId,
    /// The input is below a source position p when `end <= p`.
    pub end: u64,
    pub keys: Vec<String>,
}

#[derive(Clone)]
pub struct CountOracle {
    sink: String,
    inputs: std::rc::Rc<Vec<CountedInput>>,
    /// What the last line of a key must say after its count, if the job is done.
    finals: std::rc::Rc<BTreeMap<String, String>>,
    counts: BTreeMap<String, (u64, String)>,
    absorbed: u64,
}

impl CountOracle {
    pub fn new(sink: &str, inputs: Vec<CountedInput>, finals: BTreeMap<String, String>) -> CountOracle {
        CountOracle {
            sink: sink.to_string(),
            inputs: inputs.into(),
            finals: finals.into(),
            counts: BTreeMap::new(),
            absorbed: 0,
        }
    }

    fn expect(&self, below: impl Fn(&CountedInput) -> bool) -> Result<(), Wrong> {
        let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
        for key in self.inputs.iter().filter(|i| below(i)).flat_map(|i| &i.keys) {
            *expected.entry(key).or_default() += 1;
        }
        for (key, want) in &expected {
            let have = self.counts.get(*key).map_or(0, |c| c.0);
            if have != *want {
                let kind = if have < *want { "missing" } else { "early" };
                return Err(Wrong::new(format!("key {key}"), kind, format!("counted {have}, the inputs hold {want}")));
            }
        }
        match self.counts.keys().find(|key| !expected.contains_key(key.as_str())) {
            Some(key) => Err(Wrong::new(format!("key {key}"), "invented", "no input read so far has this key")),
            None => Ok(()),
        }
    }
}

impl OutputOracle for CountOracle {
    fn absorb(&mut self, sink: &str, _epoch: CheckpointId, records: &[Bytes]) -> Result<(), Wrong> {
        if sink != self.sink {
            return Err(Wrong::new(sink, "invented", "the job has no such output"));
        }
        let mut lines = Vec::new();
        for record in records {
            let text = String::from_utf8_lossy(record).into_owned();
            let mut fields = text.splitn(3, '\t');
            let parsed = (|| {
                let key = fields.next()?.to_string();
                let count: u64 = fields.next()?.parse().ok()?;
                Some((key, count, fields.next().unwrap_or_default().to_string()))
            })();
            lines.push(parsed.ok_or_else(|| Wrong::new("output", "garbled", format!("not key and count: {text:?}")))?);
        }
        lines.sort();
        for (key, count, values) in lines {
            let last = self.counts.get(&key).map_or(0, |c| c.0);
            if count != last + 1 {
                let kind = if count <= last { "duplicate" } else { "gap" };
                return Err(Wrong::new(format!("key {key}"), kind, format!("count {count} follows {last}")));
            }
            self.counts.insert(key, (count, values));
            self.absorbed += 1;
        }
        Ok(())
    }

    fn covers(&self, positions: &BTreeMap<SplitId, u64>) -> Result<(), Wrong> {
        self.expect(|input| positions.get(&input.split).is_some_and(|p| input.end <= *p))
    }

    fn complete(&self) -> Result<(), Wrong> {
        self.expect(|_| true)?;
        for (key, want) in self.finals.iter() {
            match self.counts.get(key) {
                Some((_, have)) if have == want => {}
                other => {
                    let message = format!("its last line says {other:?}, an independent count says {want:?}");
                    return Err(Wrong::new(format!("key {key}"), "value", message));
                }
            }
        }
        Ok(())
    }

    fn state(&self, _state: &[StateEntry]) -> Result<(), Wrong> {
        Ok(())
    }

    fn fork(&self) -> Box<dyn OutputOracle> {
        Box::new(self.clone())
    }

    fn records(&self) -> u64 {
        self.absorbed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oracle() -> CountOracle {
        let input = |end, keys: &[&str]| CountedInput {
            split: SplitId("text-0".into()),
            end,
            keys: keys.iter().map(|k| k.to_string()).collect(),
        };
        CountOracle::new("words", vec![input(6, &["to", "be"]), input(12, &["to"])], BTreeMap::new())
    }

    fn at(position: u64) -> BTreeMap<SplitId, u64> {
        [(SplitId("text-0".into()), position)].into()
    }

    /// Counts go up by one per line and are those of the lines read so far.
    #[test]
    fn counts_are_those_of_the_inputs_below_the_positions() {
        let mut oracle = oracle();
        oracle.absorb("words", CheckpointId(1), &["to\t1".into(), "be\t1".into()]).expect("first line");
        oracle.covers(&at(6)).expect("one line");
        assert_eq!(oracle.covers(&at(12)).expect_err("two lines").kind, "missing");
        oracle.absorb("words", CheckpointId(2), &["to\t2".into()]).expect("second line");
        oracle.complete().expect("all");
        assert_eq!(oracle.covers(&at(6)).expect_err("too much").kind, "early");
    }

    /// A count that comes twice, or is left out, is named.
    #[test]
    fn a_count_twice_or_left_out_is_wrong() {
        assert_eq!(oracle().absorb("words", CheckpointId(1), &["to\t2".into()]).expect_err("gap").kind, "gap");
        let twice: [Bytes; 2] = ["to\t1".into(), "to\t1".into()];
        assert_eq!(oracle().absorb("words", CheckpointId(1), &twice).expect_err("twice").kind, "duplicate");
    }
}

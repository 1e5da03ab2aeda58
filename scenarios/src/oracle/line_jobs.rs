//! The oracle of the jobs that read lines (word counts, flights). Their output is one JSON object per line and tells the
//! key, its sequence number and the input it came from (split, offset of the line, position in the line), so that it is
//! judged like the audit job's: each input once, sequences without gap, order per split kept, running figures as
//! counted here from the text itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use bytes::Bytes;
use runtime::ids::{CheckpointId, SplitId};
use serde_json::Value;

use super::{OutputOracle, Wrong};
use crate::invariants::StateEntry;

/// Where an input comes from: split, offset of its line in the file, position in the line.
type Place = (u32, u64, u32);

/// What one input adds to a key's figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineInput {
    /// The key under which each output counts it.
    pub keys: BTreeMap<String, String>,
    pub delayed: u64,
    pub cancelled: u64,
    pub delay: i64,
}

#[derive(Clone, Debug, Default)]
struct Figures {
    rows: u64,
    delayed: u64,
    cancelled: u64,
    delay: i64,
    last: BTreeMap<u32, (u64, u32)>,
}

#[derive(Clone, Default)]
struct Sink {
    seen: BTreeSet<Place>,
    keys: BTreeMap<String, Figures>,
}

#[derive(Clone)]
pub struct LineJobOracle {
    inputs: Rc<BTreeMap<Place, LineInput>>,
    splits: Rc<Vec<SplitId>>,
    /// Each output, and the operator whose state stands behind it.
    operators: Rc<BTreeMap<String, String>>,
    sinks: BTreeMap<String, Sink>,
    absorbed: u64,
}

/// Lines of a text with the split each belongs to: split i of n owns the lines that begin in the i-th n-th of the file.
fn placed_lines(text: &str, splits: u32) -> Vec<(u32, u64, &str)> {
    let length = text.len() as u64;
    let mut found = Vec::new();
    let mut offset = 0u64;
    for line in text.split_inclusive('\n') {
        let owner = (0..splits).rev().find(|i| offset >= length * u64::from(*i) / u64::from(splits)).unwrap_or(0);
        found.push((owner, offset, line.trim_end_matches(['\n', '\r'])));
        offset += line.len() as u64;
    }
    found
}

impl LineJobOracle {
    fn new(inputs: BTreeMap<Place, LineInput>, path: &str, splits: u32, operators: &[(&str, &str)]) -> LineJobOracle {
        let operators: BTreeMap<String, String> =
            operators.iter().map(|(sink, uid)| (sink.to_string(), uid.to_string())).collect();
        LineJobOracle {
            inputs: Rc::new(inputs),
            splits: Rc::new((0..splits).map(|i| SplitId(format!("{path}#{i}/{splits}"))).collect()),
            sinks: operators.keys().map(|sink| (sink.clone(), Sink::default())).collect(),
            operators: Rc::new(operators),
            absorbed: 0,
        }
    }

    /// The words of `text`, which lies at `path` and is read in `splits` splits.
    pub fn words(text: &str, path: &str, splits: u32) -> LineJobOracle {
        let mut inputs = BTreeMap::new();
        for (split, offset, line) in placed_lines(text, splits) {
            let words = line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
            for (position, word) in words.enumerate() {
                let keys = [("words".to_string(), word.to_lowercase())].into();
                inputs.insert((split, offset, position as u32), LineInput { keys, ..LineInput::default() });
            }
        }
        LineJobOracle::new(inputs, path, splits, &[("words", "count")])
    }

    /// The departures of `csv` (with a header), which lies at `path` and is read in `splits` splits.
    pub fn flights(csv: &str, path: &str, splits: u32) -> LineJobOracle {
        let mut inputs = BTreeMap::new();
        for (split, offset, line) in placed_lines(csv, splits).into_iter().skip(1).filter(|l| !l.2.is_empty()) {
            let column = |at: usize| line.split(',').nth(at).unwrap_or_default();
            let delay: Option<i64> = column(5).parse().ok();
            let route = format!("{}-{}", column(12), column(13));
            let keys = [("carriers".to_string(), column(9).to_string()), ("routes".to_string(), route)].into();
            let input = LineInput {
                keys,
                delayed: u64::from(delay.is_some()),
                cancelled: u64::from(column(3).is_empty()),
                delay: delay.unwrap_or_default(),
            };
            inputs.insert((split, offset, 0), input);
        }
        LineJobOracle::new(inputs, path, splits, &[("carriers", "by-carrier"), ("routes", "by-route")])
    }

    /// How many inputs there are.
    pub fn inputs(&self) -> u64 {
        self.inputs.len() as u64
    }

    /// All inputs of which `below` says yes are in `sink`.
    fn missing(&self, sink: &str, below: impl Fn(&Place) -> bool) -> Result<(), Wrong> {
        let seen = &self.sinks[sink].seen;
        match self.inputs.keys().find(|place| below(place) && !seen.contains(place)) {
            Some((split, offset, position)) => {
                let message = format!("its effect is missing in {sink}");
                Err(Wrong::new(format!("input {split}/{offset}/{position}"), "missing", message))
            }
            None => Ok(()),
        }
    }
}

/// One output line.
struct Line {
    key: String,
    sequence: u64,
    place: Place,
    value: Value,
}

fn parse(record: &[u8]) -> Result<Line, Wrong> {
    let text = String::from_utf8_lossy(record).into_owned();
    let bad = || Wrong::new("output", "garbled", format!("not a line of this job: {text:?}"));
    let value: Value = serde_json::from_slice(record).map_err(|_| bad())?;
    let number = |field: &str| value.get(field).and_then(Value::as_u64);
    let word = value.get("word").and_then(Value::as_str);
    let parsed = (|| {
        let split = u32::try_from(number("split")?).ok()?;
        let place = (split, number("offset")?, u32::try_from(number("position").unwrap_or(0)).ok()?);
        match word {
            Some(word) => Some((word.to_string(), number("count")?, place)),
            None => Some((value.get("key")?.as_str()?.to_string(), number("sequence")?, place)),
        }
    })();
    let (key, sequence, place) = parsed.ok_or_else(bad)?;
    Ok(Line { key, sequence, place, value })
}

impl Sink {
    fn take(&mut self, name: &str, line: &Line, inputs: &BTreeMap<Place, LineInput>) -> Result<(), Wrong> {
        let (split, offset, position) = line.place;
        let entity = format!("input {split}/{offset}/{position}");
        let Some(input) = inputs.get(&line.place) else {
            return Err(Wrong::new(
                entity,
                "invented",
                format!("there is no such input, yet {name} has {}", line.value),
            ));
        };
        if input.keys.get(name) != Some(&line.key) {
            return Err(Wrong::new(
                entity,
                "garbled",
                format!("it counts for {:?}, not for {:?}", input.keys, line.key),
            ));
        }
        if !self.seen.insert(line.place) {
            return Err(Wrong::new(entity, "duplicate", format!("its effect is committed twice: {}", line.value)));
        }
        let figures = self.keys.entry(line.key.clone()).or_default();
        let entity = format!("{name} key {}", line.key);
        if line.sequence != figures.rows + 1 {
            let kind = if line.sequence <= figures.rows { "duplicate" } else { "gap" };
            return Err(Wrong::new(entity, kind, format!("sequence {} follows {}", line.sequence, figures.rows)));
        }
        if let Some(last) = figures.last.insert(split, (offset, position))
            && last >= (offset, position)
        {
            return Err(Wrong::new(entity, "order", format!("split {split}: {:?} comes after {last:?}", line.place)));
        }
        figures.rows += 1;
        figures.delayed += input.delayed;
        figures.cancelled += input.cancelled;
        figures.delay += input.delay;
        let told = |field: &str| line.value.get(field).and_then(Value::as_i64);
        if name != "words" {
            let want = (figures.delayed as i64, figures.cancelled as i64, figures.delay);
            let have = (told("count"), told("cancelled"), told("delay_sum"));
            // The mean is told in whole hundredths, rounded down.
            let mean = line.value.get("mean_delay").and_then(Value::as_f64).map(|m| (m * 100.0).round() as i64);
            let want_mean = (figures.delay * 100).checked_div_euclid(figures.delayed as i64);
            if have != (Some(want.0), Some(want.1), Some(want.2)) || mean != want_mean {
                return Err(Wrong::new(
                    entity,
                    "value",
                    format!("counted {want:?} and {want_mean:?}, told {}", line.value),
                ));
            }
        }
        Ok(())
    }
}

impl OutputOracle for LineJobOracle {
    fn absorb(&mut self, sink: &str, _epoch: CheckpointId, records: &[Bytes]) -> Result<(), Wrong> {
        let Some(state) = self.sinks.get_mut(sink) else {
            return Err(Wrong::new(sink, "invented", "the job has no such output"));
        };
        let mut lines = records.iter().map(|record| parse(record)).collect::<Result<Vec<_>, _>>()?;
        lines.sort_by(|a, b| (&a.key, a.sequence).cmp(&(&b.key, b.sequence)));
        for line in &lines {
            state.take(sink, line, &self.inputs)?;
        }
        self.absorbed += lines.len() as u64;
        Ok(())
    }

    fn covers(&self, positions: &BTreeMap<SplitId, u64>) -> Result<(), Wrong> {
        let mut limits = Vec::new();
        for id in self.splits.iter() {
            let position = positions.get(id).copied();
            limits.push(position.ok_or_else(|| {
                Wrong::new(id.0.clone(), "position", format!("no position of it among {positions:?}"))
            })?);
        }
        let below = |place: &Place| limits.get(place.0 as usize).is_some_and(|limit| place.1 < *limit);
        for (name, sink) in &self.sinks {
            self.missing(name, below)?;
            if let Some((split, offset, position)) = sink.seen.iter().find(|place| !below(place)) {
                let message = format!("its effect is in {name} although the sources stood at {limits:?}");
                return Err(Wrong::new(format!("input {split}/{offset}/{position}"), "early", message));
            }
        }
        Ok(())
    }

    fn complete(&self) -> Result<(), Wrong> {
        self.sinks.keys().try_for_each(|sink| self.missing(sink, |_| true))
    }

    fn state(&self, state: &[StateEntry]) -> Result<(), Wrong> {
        for (sink, operator) in self.operators.iter() {
            let mut left: BTreeMap<&str, &Figures> =
                self.sinks[sink].keys.iter().map(|(key, figures)| (key.as_str(), figures)).collect();
            for entry in state.iter().filter(|e| e.operator.0 == *operator) {
                let garbled = |e: postcard::Error| Wrong::new(operator, "state-garbled", e.to_string());
                let key: String = postcard::from_bytes(&entry.key).map_err(garbled)?;
                let entity = format!("{operator} key {key}");
                let Some(want) = left.remove(key.as_str()) else {
                    return Err(Wrong::new(entity, "state-extra", "the state has it, the output up to here has not"));
                };
                let (have, want) = if sink == "words" {
                    let count: u64 = postcard::from_bytes(&entry.value).map_err(garbled)?;
                    ((count, 0, 0, 0), (want.rows, 0, 0, 0))
                } else {
                    let have: (u64, u64, u64, i64) = postcard::from_bytes(&entry.value).map_err(garbled)?;
                    (have, (want.rows, want.delayed, want.cancelled, want.delay))
                };
                if have != want {
                    return Err(Wrong::new(entity, "state-value", format!("state {have:?}, output implies {want:?}")));
                }
            }
            if let Some((key, figures)) = left.first_key_value() {
                let message = format!("the output up to here implies {figures:?}, the state has no entry");
                return Err(Wrong::new(format!("{operator} key {key}"), "state-missing", message));
            }
        }
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

    const TEXT: &str = "To be\nto\n";

    fn line(word: &str, count: u64, offset: u64, position: u32) -> Bytes {
        let value = serde_json::json!({
            "word": word, "count": count, "split": u32::from(offset >= 4), "offset": offset, "position": position
        });
        Bytes::from(value.to_string())
    }

    fn at(first: u64, second: u64) -> BTreeMap<SplitId, u64> {
        [(SplitId("text#0/2".into()), first), (SplitId("text#1/2".into()), second)].into()
    }

    /// Words of the first line belong to the first split, whose range ends in the middle of it.
    #[test]
    fn counts_are_those_of_the_lines_below_the_positions() {
        let mut oracle = LineJobOracle::words(TEXT, "text", 2);
        oracle.absorb("words", CheckpointId(1), &[line("be", 1, 0, 1), line("to", 1, 0, 0)]).expect("the first line");
        oracle.covers(&at(6, 4)).expect("one line");
        assert_eq!(oracle.covers(&at(6, 9)).expect_err("two lines").kind, "missing");
        assert_eq!(oracle.covers(&at(0, 4)).expect_err("no line").kind, "early");
        oracle.absorb("words", CheckpointId(2), &[line("to", 2, 6, 0)]).expect("the second line");
        oracle.complete().expect("all");
    }

    /// A word counted twice and a word that is not there.
    #[test]
    fn a_word_twice_or_invented_is_wrong() {
        let mut oracle = LineJobOracle::words(TEXT, "text", 2);
        let twice = [line("to", 1, 0, 0), line("to", 2, 0, 0)];
        assert_eq!(oracle.absorb("words", CheckpointId(1), &twice).expect_err("twice").kind, "duplicate");
        let mut oracle = LineJobOracle::words(TEXT, "text", 2);
        let invented = [line("not", 1, 0, 2)];
        assert_eq!(oracle.absorb("words", CheckpointId(1), &invented).expect_err("invented").kind, "invented");
    }

    /// Figures of a carrier are added up from the rows themselves.
    #[test]
    fn flights_are_added_up() {
        let csv = "header\n2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,t\n";
        let told = |delay: i64| {
            let value = serde_json::json!({"key": "UA", "sequence": 1, "count": 1, "cancelled": 0, "delay_sum": delay,
                "mean_delay": delay as f64, "split": 0, "offset": 7});
            Bytes::from(value.to_string())
        };
        let mut oracle = LineJobOracle::flights(csv, "f", 1);
        oracle.absorb("carriers", CheckpointId(1), &[told(2)]).expect("as in the row");
        assert_eq!(oracle.complete().expect_err("routes lack").kind, "missing");
        let mut oracle = LineJobOracle::flights(csv, "f", 1);
        assert_eq!(oracle.absorb("carriers", CheckpointId(1), &[told(3)]).expect_err("wrong").kind, "value");
    }
}

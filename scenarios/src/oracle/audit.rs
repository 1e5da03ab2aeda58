//! The oracle of the audit job. Each output line tells which input it came from and what the fold of its key was after it, so
//! that every line can be judged: each input once, sequences 1, 2, 3, … per key, split order kept, fold as computed here.
//!
//! A line has seven fields, separated by tabs: key, sequence, split, offset, value, sum, chain; the two-stage job puts
//! four before them: group, sequence, sum and chain of the group's fold over the first stage's outputs.

use std::collections::BTreeMap;

use bytes::Bytes;
use runtime::ids::{CheckpointId, OperatorUid, SplitId};
use xxhash_rust::xxh3::xxh3_64;

use super::{OutputOracle, Wrong};
use crate::{invariants::StateEntry, workloads::AuditInput};

/// The fold of one key (or one group) after its last line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fold {
    sequence: u64,
    sum: i64,
    chain: u64,
    /// First stage: per split the offset of the last record. Second stage: per key the last sequence.
    last: BTreeMap<u32, u64>,
}

#[derive(Clone, Debug)]
struct Line {
    group: Option<(u32, u64, i64, u64)>,
    key: u32,
    sequence: u64,
    split: u32,
    offset: u64,
    value: i64,
    sum: i64,
    chain: u64,
}

impl Line {
    fn parse(record: &[u8]) -> Result<Line, Wrong> {
        let text = String::from_utf8_lossy(record);
        let bad = || Wrong::new("output", "garbled", format!("not a line of this job: {text:?}"));
        let fields: Vec<&str> = text.split('\t').collect();
        let (group, rest) = match fields.len() {
            7 => (None, &fields[..]),
            11 => {
                let number = |at: usize| fields[at].parse::<u64>().ok();
                let parsed = (|| {
                    Some((
                        u32::try_from(number(0)?).ok()?,
                        number(1)?,
                        fields[2].parse().ok()?,
                        u64::from_str_radix(fields[3], 16).ok()?,
                    ))
                })();
                (Some(parsed.ok_or_else(bad)?), &fields[4..])
            }
            _ => return Err(bad()),
        };
        (|| {
            Some(Line {
                group,
                key: rest[0].parse().ok()?,
                sequence: rest[1].parse().ok()?,
                split: rest[2].parse().ok()?,
                offset: rest[3].parse().ok()?,
                value: rest[4].parse().ok()?,
                sum: rest[5].parse().ok()?,
                chain: u64::from_str_radix(rest[6], 16).ok()?,
            })
        })()
        .ok_or_else(bad)
    }
}

/// The hash chain, as the job defines it: over the chain so far and three numbers, each as 8 little-endian bytes.
fn chain(before: u64, a: u64, b: u64, c: u64) -> u64 {
    let mut bytes = [0; 32];
    for (slot, word) in bytes.chunks_exact_mut(8).zip([before, a, b, c]) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    xxh3_64(&bytes)
}

#[derive(Clone)]
pub struct AuditOracle {
    input: AuditInput,
    sink: String,
    /// Names of the keyed operators, first stage first.
    operators: Vec<String>,
    groups: Option<u32>,
    seen: Vec<Vec<bool>>,
    keys: BTreeMap<u32, Fold>,
    group_folds: BTreeMap<u32, Fold>,
    absorbed: u64,
}

impl AuditOracle {
    /// `groups`: how many groups the second stage has; `None` for the one-stage job.
    pub fn new(input: AuditInput, sink: &str, operators: Vec<String>, groups: Option<u32>) -> AuditOracle {
        let seen = input.splits.iter().map(|length| vec![false; *length as usize]).collect();
        AuditOracle {
            input,
            sink: sink.to_string(),
            operators,
            groups,
            seen,
            keys: BTreeMap::new(),
            group_folds: BTreeMap::new(),
            absorbed: 0,
        }
    }

    /// The line is about an input that exists, as it is, and was not seen before.
    fn check_input(&mut self, line: &Line) -> Result<(), Wrong> {
        let entity = format!("input {}/{}", line.split, line.offset);
        let Some(record) = self.input.record(line.split, line.offset) else {
            return Err(Wrong::new(entity, "invented", "the output names an input that does not exist"));
        };
        if record.key != line.key || record.value != line.value {
            let message = format!("the input has key {} value {}, the output says {line:?}", record.key, record.value);
            return Err(Wrong::new(entity, "garbled", message));
        }
        let seen = &mut self.seen[line.split as usize][line.offset as usize];
        if std::mem::replace(seen, true) {
            return Err(Wrong::new(entity, "duplicate", format!("its effect is committed twice: {line:?}")));
        }
        Ok(())
    }

    fn fold_first(&mut self, line: &Line) -> Result<(), Wrong> {
        let fold = self.keys.entry(line.key).or_default();
        let entity = format!("key {}", line.key);
        if line.sequence != fold.sequence + 1 {
            let kind = if line.sequence <= fold.sequence { "duplicate" } else { "gap" };
            let message = format!("sequence {} follows {}", line.sequence, fold.sequence);
            return Err(Wrong::new(entity, kind, message));
        }
        if let Some(last) = fold.last.insert(line.split, line.offset)
            && last >= line.offset
        {
            let message = format!("split {}: offset {} comes after {last}", line.split, line.offset);
            return Err(Wrong::new(entity, "order", message));
        }
        fold.sequence += 1;
        fold.sum = fold.sum.wrapping_add(line.value);
        fold.chain = chain(fold.chain, u64::from(line.split), line.offset, line.value as u64);
        if (fold.sum, fold.chain) != (line.sum, line.chain) {
            let message = format!(
                "after sequence {} the fold is sum {} chain {:x}; the output says sum {} chain {:x}",
                line.sequence, fold.sum, fold.chain, line.sum, line.chain
            );
            return Err(Wrong::new(entity, "value", message));
        }
        Ok(())
    }

    fn fold_second(&mut self, line: &Line, groups: u32) -> Result<(), Wrong> {
        let Some((group, sequence, sum, hash)) = line.group else {
            return Err(Wrong::new("output", "garbled", format!("no second stage in {line:?}")));
        };
        let entity = format!("group {group}");
        if group != line.key % groups {
            return Err(Wrong::new(entity, "garbled", format!("key {} is not in it", line.key)));
        }
        let fold = self.group_folds.entry(group).or_default();
        if sequence != fold.sequence + 1 {
            let kind = if sequence <= fold.sequence { "duplicate" } else { "gap" };
            return Err(Wrong::new(entity, kind, format!("sequence {sequence} follows {}", fold.sequence)));
        }
        if let Some(last) = fold.last.insert(line.key, line.sequence)
            && last >= line.sequence
        {
            let message = format!("key {}: sequence {} comes after {last}", line.key, line.sequence);
            return Err(Wrong::new(entity, "order", message));
        }
        // The stateless map between the stages triples the sum and adds one.
        let mapped = line.sum.wrapping_mul(3).wrapping_add(1);
        fold.sequence += 1;
        fold.sum = fold.sum.wrapping_add(mapped);
        fold.chain = chain(fold.chain, u64::from(line.key), line.sequence, mapped as u64);
        if (fold.sum, fold.chain) != (sum, hash) {
            let message = format!("after sequence {sequence} the fold is {fold:?}; the output says {line:?}");
            return Err(Wrong::new(entity, "value", message));
        }
        Ok(())
    }
}

impl OutputOracle for AuditOracle {
    fn absorb(&mut self, sink: &str, _epoch: CheckpointId, records: &[Bytes]) -> Result<(), Wrong> {
        if sink != self.sink {
            return Err(Wrong::new(sink, "invented", "the job has no such output"));
        }
        let mut lines = records.iter().map(|r| Line::parse(r)).collect::<Result<Vec<_>, _>>()?;
        for line in &lines {
            self.check_input(line)?;
        }
        lines.sort_by_key(|line| (line.key, line.sequence));
        for line in &lines {
            self.fold_first(line)?;
        }
        if let Some(groups) = self.groups {
            lines.sort_by_key(|line| line.group.map(|(group, sequence, ..)| (group, sequence)));
            for line in &lines {
                self.fold_second(line, groups)?;
            }
        }
        self.absorbed += lines.len() as u64;
        Ok(())
    }

    fn covers(&self, positions: &BTreeMap<SplitId, u64>) -> Result<(), Wrong> {
        for (number, seen) in self.seen.iter().enumerate() {
            let id = self.input.split_id(number as u32);
            let Some(position) = positions.get(&id).copied() else {
                return Err(Wrong::new(id.0, "position", format!("no position of it among {positions:?}")));
            };
            if let Some(missing) = seen.iter().take(position as usize).position(|s| !s) {
                let message = format!("its effect is missing although the source stood at {position}");
                return Err(Wrong::new(format!("input {number}/{missing}"), "missing", message));
            }
            if let Some(early) = seen.iter().skip(position as usize).position(|s| *s) {
                let offset = early as u64 + position;
                let message = format!("its effect is there although the source stood at {position}");
                return Err(Wrong::new(format!("input {number}/{offset}"), "early", message));
            }
        }
        Ok(())
    }

    fn complete(&self) -> Result<(), Wrong> {
        for (split, seen) in self.seen.iter().enumerate() {
            if let Some(offset) = seen.iter().position(|s| !s) {
                let missing = self.input.total() - self.absorbed;
                let message = format!("the job is done, its effect is not in the output ({missing} inputs lack)");
                return Err(Wrong::new(format!("input {split}/{offset}"), "missing", message));
            }
        }
        Ok(())
    }

    fn state(&self, state: &[StateEntry]) -> Result<(), Wrong> {
        for (stage, operator) in self.operators.iter().enumerate() {
            let expected = if stage == 0 { &self.keys } else { &self.group_folds };
            let mut left: BTreeMap<u32, &Fold> = expected.iter().map(|(k, v)| (*k, v)).collect();
            for entry in state.iter().filter(|e| e.operator.0 == *operator) {
                let key: u32 = postcard::from_bytes(&entry.key)
                    .map_err(|e| Wrong::new(operator, "state-garbled", format!("key {:?}: {e}", entry.key)))?;
                let entity = format!("{operator} key {key}");
                let (sequence, count, sum, hash): (u64, u64, i64, u64) = postcard::from_bytes(&entry.value)
                    .map_err(|e| Wrong::new(&entity, "state-garbled", format!("value {:?}: {e}", entry.value)))?;
                let Some(fold) = left.remove(&key) else {
                    return Err(Wrong::new(entity, "state-extra", "the state has it, the output up to here has not"));
                };
                if (sequence, count, sum, hash) != (fold.sequence, fold.sequence, fold.sum, fold.chain) {
                    let message = format!("state {:?}, output implies {fold:?}", (sequence, count, sum, hash));
                    return Err(Wrong::new(entity, "state-value", message));
                }
            }
            if let Some((key, fold)) = left.first_key_value() {
                let message = format!("the output up to here implies {fold:?}, the state has no entry");
                return Err(Wrong::new(format!("{operator} key {key}"), "state-missing", message));
            }
        }
        Ok(())
    }

    fn continues(&self, before: &[StateEntry], after: &[StateEntry]) -> Result<(), Wrong> {
        // A value begins with its sequence, which only rises. What does not decode is `state`'s to judge.
        let sequences = |entries: &[StateEntry]| -> BTreeMap<(OperatorUid, u32), u64> {
            let folds = entries.iter().filter(|e| self.operators.contains(&e.operator.0)).filter_map(|e| {
                let key: u32 = postcard::from_bytes(&e.key).ok()?;
                let (sequence, _) = postcard::take_from_bytes::<u64>(&e.value).ok()?;
                Some(((e.operator.clone(), key), sequence))
            });
            folds.collect()
        };
        let after = sequences(after);
        for ((operator, key), sequence) in sequences(before) {
            let entity = format!("{operator} key {key}");
            match after.get(&(operator, key)) {
                None => {
                    let message =
                        format!("the checkpoint restored had {sequence} records of it, the next one has none");
                    return Err(Wrong::new(entity, "state-gone", message));
                }
                Some(now) if *now < sequence => {
                    let message =
                        format!("the checkpoint restored had {sequence} records of it, the next one has {now}");
                    return Err(Wrong::new(entity, "state-gone", message));
                }
                Some(_) => {}
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
    use crate::workloads::testing::audit_lines;

    fn input() -> AuditInput {
        AuditInput::new(3, 2, 60, 5, 1.5)
    }

    fn positions(a: u64, b: u64) -> BTreeMap<SplitId, u64> {
        [(input().split_id(0), a), (input().split_id(1), b)].into()
    }

    fn oracle(groups: Option<u32>) -> AuditOracle {
        AuditOracle::new(input(), "audit", vec!["fold".into()], groups)
    }

    /// Two epochs of a good job pass, in any order of lines, and cover exactly what the sources had read.
    #[test]
    fn good_output_is_an_exactly_once_prefix() {
        for groups in [None, Some(2)] {
            let all = audit_lines(&input(), &[30, 30], groups);
            let mut oracle = oracle(groups);
            let (first, second) = all.split_at(24);
            let mut shuffled = first.to_vec();
            shuffled.reverse();
            oracle.absorb("audit", CheckpointId(1), &shuffled).expect("a prefix");
            oracle.covers(&positions(12, 12)).expect("exactly these inputs");
            assert_eq!(oracle.covers(&positions(11, 12)).expect_err("one too many").kind, "early");
            assert_eq!(oracle.covers(&positions(13, 12)).expect_err("one too few").kind, "missing");
            assert_eq!(oracle.complete().expect_err("half").kind, "missing");
            oracle.absorb("audit", CheckpointId(2), second).expect("the rest");
            oracle.complete().expect("all of it");
        }
    }

    /// A line twice, a line left out, a line changed: each is named for what it is.
    #[test]
    fn each_way_of_being_wrong_is_told_apart() {
        let all = audit_lines(&input(), &[30, 30], None);
        let mut twice = all.clone();
        twice.push(all[3].clone());
        assert_eq!(oracle(None).absorb("audit", CheckpointId(1), &twice).expect_err("twice").kind, "duplicate");
        let mut lost = all.clone();
        lost.remove(0);
        assert_eq!(oracle(None).absorb("audit", CheckpointId(1), &lost).expect_err("lost").kind, "gap");
        let mut changed = all.clone();
        let text = String::from_utf8_lossy(&changed[5]).into_owned();
        let (head, _) = text.rsplit_once('\t').expect("fields");
        changed[5] = Bytes::from(format!("{head}\tff"));
        assert_eq!(oracle(None).absorb("audit", CheckpointId(1), &changed).expect_err("changed").kind, "value");
        assert_eq!(oracle(None).absorb("audit", CheckpointId(1), &[Bytes::from("?")]).expect_err("?").kind, "garbled");
    }
}

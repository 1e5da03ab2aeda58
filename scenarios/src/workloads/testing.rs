//! A model of the audit job without any runtime: what a perfect run would write, for tests of oracles and invariants.

use std::collections::BTreeMap;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::AuditInput;

/// A fold as the job keeps it: sequence, count, sum, chain.
pub type ModelFold = (u64, u64, i64, u64);

/// A perfect one-subtask job that can be stopped and continued.
#[derive(Clone)]
pub struct Model {
    pub input: AuditInput,
    pub groups: Option<u32>,
    pub positions: Vec<u64>,
    pub keys: BTreeMap<u32, ModelFold>,
    pub group_folds: BTreeMap<u32, ModelFold>,
}

fn step(fold: &mut ModelFold, value: i64, words: [u64; 3]) {
    let mut hash = Xxh3::new();
    hash.update(&fold.3.to_le_bytes());
    words.iter().for_each(|w| hash.update(&w.to_le_bytes()));
    *fold = (fold.0 + 1, fold.1 + 1, fold.2.wrapping_add(value), hash.digest());
}

impl Model {
    pub fn new(input: &AuditInput, groups: Option<u32>) -> Model {
        Model {
            positions: vec![0; input.splits.len()],
            input: input.clone(),
            groups,
            keys: BTreeMap::new(),
            group_folds: BTreeMap::new(),
        }
    }

    /// Reads the next record of `split`, if there is one, and gives its output line.
    pub fn read(&mut self, split: u32) -> Option<Bytes> {
        let offset = self.positions[split as usize];
        let record = self.input.record(split, offset)?;
        self.positions[split as usize] += 1;
        let fold = self.keys.entry(record.key).or_default();
        step(fold, record.value, [u64::from(split), offset, record.value as u64]);
        let tail = format!("{}\t{}\t{split}\t{offset}\t{}\t{}\t{:x}", record.key, fold.0, record.value, fold.2, fold.3);
        let Some(groups) = self.groups else { return Some(Bytes::from(tail)) };
        let mapped = fold.2.wrapping_mul(3).wrapping_add(1);
        let sequence = fold.0;
        let group = record.key % groups;
        let second = self.group_folds.entry(group).or_default();
        step(second, mapped, [u64::from(record.key), sequence, mapped as u64]);
        Some(Bytes::from(format!("{group}\t{}\t{}\t{:x}\t{tail}", second.0, second.2, second.3)))
    }
}

/// Output lines of a perfect run that reads the splits in turn, each up to `positions`.
pub fn audit_lines(input: &AuditInput, positions: &[u64], groups: Option<u32>) -> Vec<Bytes> {
    let mut model = Model::new(input, groups);
    let mut lines = Vec::new();
    while model.positions != positions {
        for split in 0..positions.len() as u32 {
            if model.positions[split as usize] < positions[split as usize] {
                lines.extend(model.read(split));
            }
        }
    }
    lines
}

//! The input of the audit job: records that follow from a seed, a split and an offset alone, so that a source can replay
//! them and an oracle can count them without asking anybody.

use runtime::ids::SplitId;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What the input looks like. Plain data, part of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditInput {
    /// Of the source.
    pub name: String,
    pub seed: u64,
    /// Records of each split; at least two splits.
    pub splits: Vec<u64>,
    pub keys: u32,
    /// 1 spreads records evenly over the keys; the larger, the more of them have the first keys.
    pub skew: f64,
}

/// One input record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    pub split: u32,
    pub offset: u64,
    pub key: u32,
    pub value: i64,
}

impl AuditInput {
    /// `records` spread over `splits` splits, the first ones a little longer.
    pub fn new(seed: u64, splits: u32, records: u64, keys: u32, skew: f64) -> AuditInput {
        AuditInput::named("audit", seed, splits, records, keys, skew)
    }

    /// The same for a source of another name.
    pub fn named(name: &str, seed: u64, splits: u32, records: u64, keys: u32, skew: f64) -> AuditInput {
        let count = u64::from(splits.max(1));
        let lengths = (0..count).map(|i| records / count + u64::from(i < records % count)).collect();
        AuditInput { name: name.to_string(), seed, splits: lengths, keys: keys.max(1), skew }
    }

    /// The record at `offset` of `split`; none at its end.
    pub fn record(&self, split: u32, offset: u64) -> Option<AuditRecord> {
        if offset >= *self.splits.get(split as usize)? {
            return None;
        }
        let mut place = [0; 12];
        place[..4].copy_from_slice(&split.to_le_bytes());
        place[4..].copy_from_slice(&offset.to_le_bytes());
        let bits = xxh3_64_with_seed(&place, self.seed);
        // 2^53 is the last power of two up to which every integer is a double.
        let unit = (bits >> 11) as f64 / (1u64 << 53) as f64;
        let key = (f64::from(self.keys) * unit.powf(self.skew.max(0.01))) as u32;
        let value = (bits & 0x3ff) as i64 - 512;
        Some(AuditRecord { split, offset, key: key.min(self.keys - 1), value })
    }

    pub fn total(&self) -> u64 {
        self.splits.iter().sum()
    }

    /// The stable name of a split, as the generator source makes it.
    pub fn split_id(&self, split: u32) -> SplitId {
        SplitId(format!("{}#{split}/{}", self.name, self.splits.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same seed gives the same records, skew moves them to the first keys, and every split ends.
    #[test]
    fn records_follow_from_the_seed() {
        let even = AuditInput::new(1, 3, 1000, 10, 1.0);
        let skewed = AuditInput::new(1, 3, 1000, 10, 4.0);
        assert_eq!(even.total(), 1000);
        assert_eq!(even.record(2, 5), even.record(2, 5));
        assert_eq!(even.record(0, even.splits[0]), None);
        assert_eq!(even.record(3, 0), None);
        let first = |input: &AuditInput| (0..300).filter(|o| input.record(0, *o).is_some_and(|r| r.key == 0)).count();
        assert!(first(&even) < 60, "{}", first(&even));
        assert!(first(&skewed) > 120, "{}", first(&skewed));
    }
}

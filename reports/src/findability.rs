//! How often a failure is found, and how many clean runs say that it is gone.

use std::collections::BTreeMap;

use crate::record::{RunRecord, Verdict};

/// The two-sided 95 % quantile of the normal distribution.
const Z: f64 = 1.959_964;

/// Wilson's score interval of a rate, at 95 % (Wilson 1927): between which rates `seen` of `runs` is no surprise. Of no runs at all
/// it says nothing: from 0 to 1.
pub fn wilson(seen: u64, runs: u64) -> (f64, f64) {
    if runs == 0 {
        return (0.0, 1.0);
    }
    let (n, p) = (runs as f64, seen.min(runs) as f64 / runs as f64);
    let squared = Z * Z;
    let middle = p + squared / (2.0 * n);
    let spread = Z * (p * (1.0 - p) / n + squared / (4.0 * n * n)).sqrt();
    let scale = 1.0 + squared / n;
    (((middle - spread) / scale).max(0.0), ((middle + spread) / scale).min(1.0))
}

/// Of what was never seen in `runs` runs, the highest rate that is not ruled out at 95 % (the rule of three).
pub fn rule_of_three(runs: u64) -> f64 {
    if runs == 0 { 1.0 } else { (3.0 / runs as f64).min(1.0) }
}

/// How many clean runs in a row make it `confidence` sure that a failure of this rate is gone; at least one. None for a rate of
/// zero: no number is enough.
pub fn clean_runs_needed(rate: f64, confidence: f64) -> Option<u64> {
    if rate <= 0.0 {
        return None;
    }
    if rate >= 1.0 {
        return Some(1);
    }
    let needed = ((1.0 - confidence).ln() / (1.0 - rate).ln()).ceil();
    Some((needed as u64).max(1))
}

/// How sure so many clean runs make it that a failure of this rate is gone.
pub fn confidence(rate: f64, clean_runs: u64) -> f64 {
    1.0 - (1.0 - rate.clamp(0.0, 1.0)).powf(clean_runs as f64)
}

/// All runs of one signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureGroup {
    pub verdict: Verdict,
    pub signature: String,
    /// Ascending.
    pub seeds: Vec<u64>,
    /// The seed whose run has the fewest events, and these: the fastest way to see it again.
    pub fastest: (u64, u64),
}

/// Failed runs by signature, the most frequent first.
pub fn by_signature<'a>(records: impl IntoIterator<Item = &'a RunRecord>) -> Vec<SignatureGroup> {
    let mut groups: BTreeMap<(String, Verdict), SignatureGroup> = BTreeMap::new();
    for record in records.into_iter().filter(|record| record.verdict.is_failure()) {
        let signature = record.signature.clone().unwrap_or_else(|| record.verdict.name().to_string());
        let this = (record.seed, record.counters.events);
        let group = groups.entry((signature.clone(), record.verdict)).or_insert_with(|| SignatureGroup {
            verdict: record.verdict,
            signature,
            seeds: Vec::new(),
            fastest: this,
        });
        group.seeds.push(record.seed);
        if (this.1, this.0) < (group.fastest.1, group.fastest.0) {
            group.fastest = this;
        }
    }
    let mut groups: Vec<SignatureGroup> = groups.into_values().collect();
    for group in &mut groups {
        group.seeds.sort_unstable();
        group.seeds.dedup();
    }
    groups.sort_by(|a, b| b.seeds.len().cmp(&a.seeds.len()).then_with(|| a.signature.cmp(&b.signature)));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, expected: f64) {
        assert!((value - expected).abs() < 0.0006, "{value} is not {expected}");
    }

    /// Values from the literature (Newcombe 1998, method 3).
    #[test]
    fn the_interval_is_wilsons() {
        let (low, high) = wilson(81, 263);
        near(low, 0.255_3);
        near(high, 0.366_2);
        let (low, high) = wilson(0, 20);
        near(low, 0.0);
        near(high, 0.161_1);
        let (low, high) = wilson(29, 29);
        near(low, 0.883_0);
        near(high, 1.0);
        assert_eq!(wilson(0, 0), (0.0, 1.0));
    }

    #[test]
    fn clean_runs_follow_from_the_rate() {
        assert_eq!(clean_runs_needed(0.001, 0.99), Some(4_603));
        assert_eq!(clean_runs_needed(0.5, 0.99), Some(7));
        assert_eq!(clean_runs_needed(1.0, 0.99), Some(1));
        assert_eq!(clean_runs_needed(0.0, 0.99), None);
        for rate in [0.9, 0.2, 0.01, 0.0003] {
            let needed = clean_runs_needed(rate, 0.99).expect("a rate");
            assert!(confidence(rate, needed) >= 0.99 && confidence(rate, needed - 1) < 0.99, "{rate}: {needed}");
        }
        near(rule_of_three(300), 0.01);
        near(confidence(rule_of_three(300), 300), 0.951);
    }

    #[test]
    fn failures_are_grouped_with_the_most_frequent_first() {
        let run = |seed, verdict, signature: &str, events| {
            let mut record = RunRecord::empty(seed, "p", verdict);
            record.signature = Some(signature.into());
            record.counters.events = events;
            record
        };
        let records = [
            run(9, Verdict::Violation, "a/b/c", 500),
            run(1, Verdict::Clean, "a/b/c", 5),
            run(4, Verdict::Violation, "a/b/c", 300),
            run(7, Verdict::Violation, "a/b/c", 300),
            run(2, Verdict::Crash, "crash/x", 30),
        ];
        let groups = by_signature(&records);
        assert_eq!(groups[0].seeds, [4, 7, 9]);
        assert_eq!(groups[0].fastest, (4, 300));
    }
}

//! The closing record of a shard: that it has ended, how, and what it had proved.

use std::collections::BTreeMap;

use reports::{Summary, Verdict, junit::Checked};
use serde::{Deserialize, Serialize};

use super::stored::Stored;

/// How a proof ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProofRecord {
    pub name: String,
    /// Whether the run had to be a violation.
    pub must_fail: bool,
    pub verdict: Verdict,
}

impl ProofRecord {
    /// A violation that was not seen, or a harness that is broken.
    pub fn is_blind(&self) -> bool {
        self.must_fail && self.verdict != Verdict::Violation || self.verdict == Verdict::Harness
    }

    pub fn checked(&self) -> Checked {
        let verdict = self.verdict.name();
        let wrong = if self.must_fail && self.is_blind() {
            Some(format!("the {} must be a violation and was {verdict}", self.name))
        } else if !self.must_fail && self.verdict.is_failure() {
            Some(format!("the {} must be clean and was {verdict}", self.name))
        } else {
            None
        };
        Checked { name: self.name.clone(), wrong }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Closing {
    /// False if only its records were found, and nothing that says that it had ended.
    pub ended: bool,
    /// Whether every seed was run; a budget may have come before.
    pub complete: bool,
    pub runs: u64,
    pub verdicts: BTreeMap<String, u64>,
    pub proofs: Vec<ProofRecord>,
    /// Real time, and how many runs were under way at a time.
    pub elapsed_ms: u64,
    pub jobs: u64,
    pub options: Stored,
}

impl Closing {
    pub fn new(options: Stored, summary: &Summary, proofs: Vec<ProofRecord>) -> Closing {
        Closing {
            ended: true,
            complete: summary.runs == options.seeds(),
            runs: summary.runs,
            verdicts: summary.verdicts.clone(),
            proofs,
            elapsed_ms: summary.elapsed_ms,
            jobs: summary.cores,
            options,
        }
    }

    /// Of a shard that was killed.
    pub fn missing(options: Stored, runs: u64) -> Closing {
        Closing {
            ended: false,
            complete: false,
            runs,
            verdicts: BTreeMap::new(),
            proofs: Vec::new(),
            elapsed_ms: 0,
            jobs: 0,
            options,
        }
    }
}

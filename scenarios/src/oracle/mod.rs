//! Oracles: what a job's output must be, computed anew by code that shares nothing with the runtime.
//!
//! An oracle is fed with committed output, epoch by epoch, and at each step knows whether what it has is an exactly-once
//! prefix. It may not assume any order of records within one epoch.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use runtime::ids::{CheckpointId, SplitId};

use crate::invariants::StateEntry;

mod audit;
mod line_jobs;
mod states;

pub use audit::AuditOracle;
pub use line_jobs::{LineInput, LineJobOracle};
pub use states::StatesOracle;

/// What an oracle found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub entity: String,
    pub kind: &'static str,
    pub message: String,
}

impl Wrong {
    pub fn new(entity: impl Into<String>, kind: &'static str, message: impl Into<String>) -> Wrong {
        Wrong { entity: entity.into(), kind, message: message.into() }
    }
}

/// Judges the committed output of one job.
pub trait OutputOracle {
    /// Takes the records that `sink` committed with `epoch`; all of one epoch at once, epochs in order.
    fn absorb(&mut self, sink: &str, epoch: CheckpointId, records: &[Bytes]) -> Result<(), Wrong>;
    /// All absorbed so far is exactly the effect of the inputs below `positions`.
    fn covers(&self, positions: &BTreeMap<SplitId, u64>) -> Result<(), Wrong>;
    /// All absorbed so far is the effect of the whole input.
    fn complete(&self) -> Result<(), Wrong>;
    /// `state`, all state of one checkpoint, keyed and not, is what the absorbed output implies.
    fn state(&self, state: &[StateEntry]) -> Result<(), Wrong>;
    /// `after`, all keyed state of a checkpoint, can have come from `before`, that of an earlier one. Says nothing of the output.
    fn continues(&self, before: &[StateEntry], after: &[StateEntry]) -> Result<(), Wrong> {
        // No job here ever removes a key.
        let name = |entry: &StateEntry| (entry.operator.clone(), entry.state.clone(), entry.key.clone());
        let there: BTreeSet<_> = after.iter().map(name).collect();
        match before.iter().find(|entry| !there.contains(&name(entry))) {
            Some(gone) => {
                let message = "the checkpoint restored had it, the next one has it no more";
                Err(Wrong::new(format!("{} key {:?}", gone.operator, gone.key), "state-gone", message))
            }
            None => Ok(()),
        }
    }
    /// A copy to look ahead with.
    fn fork(&self) -> Box<dyn OutputOracle>;
    /// Records absorbed.
    fn records(&self) -> u64;
}

/// The records of a data object: lines, each ended by a line feed.
pub fn lines(object: &Bytes) -> Result<Vec<Bytes>, String> {
    if object.is_empty() {
        return Ok(Vec::new());
    }
    if object.last() != Some(&b'\n') {
        return Err("its last record is not ended by a line feed".into());
    }
    let mut records = Vec::new();
    let mut start = 0;
    for (at, byte) in object.iter().enumerate() {
        if *byte == b'\n' {
            records.push(object.slice(start..at));
            start = at + 1;
        }
    }
    Ok(records)
}

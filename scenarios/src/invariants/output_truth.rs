//! The committed output as a reader sees it, and what it implies: the manifests and the objects they name, nothing else.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use runtime::{
    checkpoint::types::{PartKind, StatePart, SubtaskKey},
    ids::{CheckpointId, OperatorUid},
};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    formats::StateEntry,
    ground::{CompletedFact, Ground},
    truth::Truth,
};
use crate::oracle::{OutputOracle, Wrong, lines};

/// Everything committed so far, given to the oracle once.
pub struct CommittedOutput {
    pub oracle: Box<dyn OutputOracle>,
    pub absorbed: BTreeSet<(String, CheckpointId)>,
    /// The output is judged no more: it was found wrong already, destroyed by the plan, or given up by configuration.
    pub quiet: bool,
}

/// The digest of a set of output records, by code of its own: the wrapping sum of a 128-bit hash of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnDigest {
    pub sum: u128,
    pub records: u64,
}

impl OwnDigest {
    pub fn of(records: &[Bytes]) -> OwnDigest {
        records.iter().fold(OwnDigest::default(), |digest, record| OwnDigest {
            sum: digest.sum.wrapping_add(xxh3_128(record)),
            records: digest.records + 1,
        })
    }
}

/// Whether state is in a format of the runtime's own, not in a database's.
fn readable(kind: &PartKind) -> bool {
    matches!(kind, PartKind::Keyed | PartKind::Operator { .. })
}

impl Ground {
    /// The records of the objects named, all together. Err: which object is not what it should be.
    pub fn output_records<'a>(
        &self,
        truth: &dyn Truth,
        objects: impl Iterator<Item = (&'a str, u64, u64)>,
    ) -> Result<Vec<Bytes>, Wrong> {
        let mut records = Vec::new();
        for (name, length, count) in objects {
            let wrong = |message: String| Wrong::new(name, "unreadable", message);
            let bytes = self.intact(truth, name).map_err(wrong)?;
            if bytes.len() as u64 != length {
                return Err(wrong(format!("it has {} bytes, not {length}", bytes.len())));
            }
            let found = lines(&bytes).map_err(wrong)?;
            if found.len() as u64 != count {
                return Err(wrong(format!("it has {} records, not {count}", found.len())));
            }
            records.extend(found);
        }
        Ok(records)
    }

    /// An oracle that has taken all output up to `completed`, visible or only prepared. None: the output cannot be judged
    /// (any more), which invariant 1 reports where it is a fault.
    pub fn oracle_at(&self, truth: &dyn Truth, completed: &CompletedFact) -> Option<Box<dyn OutputOracle>> {
        if self.output.quiet {
            return None;
        }
        // Back to the beginning, by what each ledger entry says it continues; the oracle has some of it already.
        let mut epochs = Vec::new();
        let mut next = Some(completed.completion.checkpoint);
        while let Some(checkpoint) = next {
            let fact = self.head.completed.get(&checkpoint)?;
            epochs.push(fact.clone());
            // A ledger that goes round is wrong, and no reason to go round with it.
            next = fact.completion.ledger.previous.filter(|previous| *previous < checkpoint);
        }
        let mut oracle = self.output.oracle.fork();
        for fact in epochs.iter().rev() {
            for (sink, objects) in &fact.completion.sinks {
                let checkpoint = fact.completion.checkpoint;
                if self.output.absorbed.contains(&(sink.0.clone(), checkpoint)) {
                    continue;
                }
                let named = objects.iter().map(|o| (o.object.as_str(), o.length, o.records));
                let records = self.output_records(truth, named).ok()?;
                oracle.absorb(&sink.0, checkpoint, &records).ok()?;
            }
        }
        Some(oracle)
    }

    /// The whole state of a checkpoint, keyed and not, as it lies in primary. None if some of it is damaged or gone: other
    /// invariants judge that.
    pub fn state_of(&self, truth: &dyn Truth, completed: &CompletedFact) -> Option<Result<Vec<StateEntry>, Wrong>> {
        let mut entries = Vec::new();
        let mut parts: Vec<(&StatePart, Bytes)> = Vec::new();
        for (_, part) in completed.parts().filter(|(_, part)| readable(&part.kind)) {
            parts.push((part, self.part_intact(truth, part).ok()?));
        }
        match self.native_state_of(truth, completed)? {
            Ok(found) => entries.extend(found),
            Err(wrong) => return Some(Err(wrong)),
        }
        for (part, bytes) in parts {
            match self.formats.state(&part.operator, &bytes) {
                Ok(found) => entries.extend(found),
                Err(reason) => return Some(Err(Wrong::new(part.location.to_string(), "state-garbled", reason))),
            }
        }
        Some(Ok(entries))
    }

    /// The state that lies in files of databases. None if one of them is damaged or gone.
    fn native_state_of(&self, truth: &dyn Truth, completed: &CompletedFact) -> Option<Result<Vec<StateEntry>, Wrong>> {
        let mut databases: BTreeMap<(SubtaskKey, OperatorUid), Vec<(String, Bytes)>> = BTreeMap::new();
        let mut names: BTreeMap<(SubtaskKey, OperatorUid), Vec<String>> = BTreeMap::new();
        for (subtask, part) in completed.parts() {
            let (PartKind::Shared { file } | PartKind::Private { file }) = &part.kind else { continue };
            let database = (subtask, part.operator.clone());
            let bytes = self.part_intact(truth, part).ok()?;
            names.entry(database.clone()).or_default().push(format!("{file} {:?}", self.part_hash(part)));
            databases.entry(database).or_default().push((file.clone(), bytes));
        }
        let mut entries = Vec::new();
        for (database, files) in databases {
            let known = names.remove(&database).unwrap_or_default();
            if let Some(found) = self.databases.borrow().get(&known) {
                entries.extend(found.iter().cloned());
                continue;
            }
            let ((vertex, index), operator) = database;
            let wrong = |reason: String| {
                let what = format!("database of {operator} in subtask v{vertex}[{index}]");
                Some(Err(Wrong::new(what, "state-garbled", reason)))
            };
            let Some(read) = self.formats.native_state() else {
                return wrong("there should be no files of databases".to_string());
            };
            let (answer, answered) = std::sync::mpsc::channel();
            let of = operator.clone();
            truth.outside(Box::new(move || {
                // The receiver waits below.
                let _ = answer.send(read(&of, &files));
            }));
            match answered.recv() {
                Ok(Ok(found)) => {
                    entries.extend(found.iter().cloned());
                    self.databases.borrow_mut().insert(known, found);
                }
                Ok(Err(reason)) => return wrong(reason),
                Err(_) => return wrong("reading it panicked".to_string()),
            }
        }
        Some(Ok(entries))
    }

    /// Whether the state in checkpoint `completed` is what the output up to it implies, told by its [`Ground::oracle_at`].
    pub fn state_agrees(
        &self,
        truth: &dyn Truth,
        completed: &CompletedFact,
        oracle: &dyn OutputOracle,
    ) -> Result<(), Wrong> {
        completed.snapshots.as_ref().map_or(Ok(()), |_| match self.state_of(truth, completed) {
            None => Ok(()),
            Some(state) => oracle.state(&state?),
        })
    }
}

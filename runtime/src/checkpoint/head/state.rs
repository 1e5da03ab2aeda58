//! What the head log says, as a pure fold over its entries. Every leader that read the same entries knows the same.

use std::collections::{BTreeMap, BTreeSet};

use super::{HeadEntry, ID_BLOCK};
use crate::{
    checkpoint::types::{LedgerEpoch, PrecommittedObject},
    ids::{AttemptId, CheckpointId, LeaderEpoch, OperatorUid},
    layout::SavepointDirectory,
    platform::ObjectName,
};

/// A completed checkpoint that can be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedCheckpoint {
    pub attempt: AttemptId,
    pub metadata: ObjectName,
    /// All state objects that it refers to, without the metadata; of what is not `owned` they are not known.
    pub objects: Vec<ObjectName>,
    /// Its files are the system's to delete: it is no savepoint, and of no other job.
    pub owned: bool,
    pub exhausted: bool,
    /// Where in the log it was completed.
    pub sequence: u64,
}

impl RetainedCheckpoint {
    /// Everything that belongs to it: metadata first.
    pub fn all_objects(&self) -> impl Iterator<Item = &ObjectName> {
        std::iter::once(&self.metadata).chain(&self.objects)
    }
}

/// How the job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEnd {
    Finished,
    Failed { reason: String },
    Stopped { savepoint: SavepointDirectory },
}

/// What a job began with that another one left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    pub checkpoint: CheckpointId,
    /// Ids up to this one are not the job's.
    pub granted: CheckpointId,
    pub allow_non_restored_state: bool,
}

/// The state of a job's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeadState {
    /// How many entries there are; the sequence number of the next one.
    pub next_sequence: u64,
    /// The latest leader; zero before the first.
    pub leader: LeaderEpoch,
    /// The highest checkpoint id ever granted; zero before the first.
    pub granted: CheckpointId,
    /// The newest checkpoint ever completed, retained or not: the newest one whose output is committed.
    pub newest: Option<CheckpointId>,
    pub retained: BTreeMap<CheckpointId, RetainedCheckpoint>,
    /// The commit ledger, from the oldest retained checkpoint on. An epoch is needed to replay from any retained checkpoint
    /// older than it; that of the oldest one itself only while nothing was dropped yet and a replay from the very beginning
    /// is possible.
    pub ledger: BTreeMap<CheckpointId, LedgerEpoch>,
    /// What the sink manifests of the newest checkpoint must list. The coordinator completes no checkpoint before the
    /// manifests of the previous one exist; so after a change of leader these are the only ones that may be missing.
    pub newest_sinks: BTreeMap<OperatorUid, Vec<PrecommittedObject>>,
    /// Checkpoints found to be lost for good, and why.
    pub condemned: BTreeMap<CheckpointId, String>,
    /// The latest execution that was deployed, and what it was restored from.
    pub restored: Option<(AttemptId, Option<CheckpointId>)>,
    pub end: Option<JobEnd>,
    /// Savepoints begun and not completed: what lies there is of no worth.
    pub unfinished_savepoints: BTreeSet<SavepointDirectory>,
    pub import: Option<Import>,
    /// The newest checkpoint is this savepoint, with which the job ends.
    pub stop_at: Option<SavepointDirectory>,
}

impl HeadState {
    /// Takes in the entry at `sequence`.
    pub fn apply(&mut self, sequence: u64, entry: &HeadEntry) {
        self.next_sequence = sequence + 1;
        match entry {
            HeadEntry::Claimed { leader, .. } => self.leader = *leader,
            HeadEntry::IdBlock { to, .. } => self.granted = self.granted.max(*to),
            HeadEntry::Completed {
                attempt, checkpoint, metadata, objects, ledger, sinks, exhausted, retained, ..
            } => {
                let completed = RetainedCheckpoint {
                    attempt: *attempt,
                    metadata: metadata.clone(),
                    objects: objects.clone(),
                    owned: true,
                    exhausted: *exhausted,
                    sequence,
                };
                self.complete(*checkpoint, completed, ledger, sinks, retained);
            }
            HeadEntry::SavepointBegun { directory } => {
                self.unfinished_savepoints.insert(directory.clone());
            }
            HeadEntry::SavepointCompleted { attempt, checkpoint, directory, ledger, sinks, retained, stop, .. } => {
                self.unfinished_savepoints.remove(directory);
                self.stop_at = stop.then(|| directory.clone());
                let completed = RetainedCheckpoint {
                    attempt: *attempt,
                    metadata: directory.metadata(),
                    objects: Vec::new(),
                    owned: false,
                    exhausted: false,
                    sequence,
                };
                self.complete(*checkpoint, completed, ledger, sinks, retained);
            }
            HeadEntry::SavepointOvertaken { directory, .. } => {
                self.unfinished_savepoints.remove(directory);
            }
            HeadEntry::Imported { checkpoint, metadata, granted, allow_non_restored_state } => {
                self.granted = self.granted.max(*granted).max(*checkpoint);
                self.newest = Some(*checkpoint);
                let imported = RetainedCheckpoint {
                    attempt: AttemptId::default(),
                    metadata: metadata.clone(),
                    objects: Vec::new(),
                    owned: false,
                    exhausted: false,
                    sequence,
                };
                self.retained.insert(*checkpoint, imported);
                self.import = Some(Import {
                    checkpoint: *checkpoint,
                    granted: self.granted,
                    allow_non_restored_state: *allow_non_restored_state,
                });
            }
            HeadEntry::Restored { attempt, checkpoint, condemned } => {
                self.restored = Some((*attempt, *checkpoint));
                self.condemned.extend(condemned.iter().map(|(id, why)| (*id, why.clone())));
            }
            HeadEntry::Finished => self.end = Some(JobEnd::Finished),
            HeadEntry::Failed { reason } => self.end = Some(JobEnd::Failed { reason: reason.clone() }),
            HeadEntry::Stopped { savepoint } => self.end = Some(JobEnd::Stopped { savepoint: savepoint.clone() }),
        }
    }

    fn complete(
        &mut self,
        checkpoint: CheckpointId,
        completed: RetainedCheckpoint,
        ledger: &LedgerEpoch,
        sinks: &BTreeMap<OperatorUid, Vec<PrecommittedObject>>,
        retained: &[CheckpointId],
    ) {
        self.newest = Some(checkpoint);
        self.newest_sinks.clone_from(sinks);
        self.retained.insert(checkpoint, completed);
        self.ledger.insert(checkpoint, ledger.clone());
        self.retained.retain(|id, _| retained.contains(id));
        if let Some(oldest) = self.retained.keys().next().copied() {
            self.ledger.retain(|id, _| *id >= oldest);
            self.condemned.retain(|id, _| *id >= oldest);
        }
    }

    /// Whether nothing has been decided for the job yet but who leads it.
    pub fn is_fresh(&self) -> bool {
        self.newest.is_none() && self.restored.is_none() && self.end.is_none()
    }

    /// The entry that grants the next block of ids, above every id ever granted. The answer to the coordinator's `NeedIds`.
    pub fn next_id_block(&self) -> HeadEntry {
        HeadEntry::IdBlock { from: self.granted.next(), to: CheckpointId(self.granted.0 + ID_BLOCK) }
    }

    /// The newest checkpoint ends the job: all input is in it. A new leader that finds this has only to commit
    /// [`Self::newest_sinks`] and to finish.
    pub fn is_complete(&self) -> bool {
        self.newest.and_then(|id| self.retained.get(&id)).is_some_and(|c| c.exhausted)
    }

    /// Checkpoint ids above `restored` that may have been handed out and did not complete: before `restored` is restored,
    /// each sink gets a void marker for each of them, so that no straggler can commit it later.
    ///
    /// `first_unused` is the first id that was certainly not handed out: `Coordinator::first_unused_id` under a leader that
    /// has a coordinator, else `granted + 1`. An id once voided must never be handed out: a leader may not
    /// use ids below the `first_unused` it voided with.
    pub fn voidable(&self, first_unused: CheckpointId, restored: Option<CheckpointId>) -> Vec<CheckpointId> {
        // What comes from another job brought its ids with it: those below are not this job's to void.
        let imported = self.import.as_ref().map(|import| import.granted);
        let above = restored.max(imported).unwrap_or_default();
        (above.0 + 1..first_unused.0).map(CheckpointId).filter(|id| !self.ledger.contains_key(id)).collect()
    }
}

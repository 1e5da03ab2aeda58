//! One entry of the head log and its bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{
        frame::{self, FrameError},
        types::{LedgerEpoch, PrecommittedObject},
    },
    ids::{AttemptId, CheckpointId, LeaderEpoch, OperatorUid},
    layout::SavepointDirectory,
    platform::ObjectName,
};

const MAGIC: [u8; 4] = *b"WEHD";
const VERSION: u16 = 1;

/// A decision. What it says has happened once it can be read back, and not before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeadEntry {
    /// A process became leader; fences every leader before it.
    Claimed {
        leader: LeaderEpoch,
        process: String,
        nonce: u128,
    },
    /// The checkpoint ids `from..=to` may be handed out by the leader that wrote this, and by nobody else ever.
    IdBlock {
        from: CheckpointId,
        to: CheckpointId,
    },
    /// The commit point of a checkpoint: from here on it can be restored and its output is committed.
    Completed {
        /// The execution that it is a checkpoint of.
        attempt: AttemptId,
        checkpoint: CheckpointId,
        metadata: ObjectName,
        /// All state objects that it refers to, without the metadata.
        objects: Vec<ObjectName>,
        ledger: LedgerEpoch,
        /// What the manifest of each sink must list.
        sinks: BTreeMap<OperatorUid, Vec<PrecommittedObject>>,
        /// All sources had read everything: the job ends with this checkpoint.
        exhausted: bool,
        /// The retained checkpoints from here on, this one included.
        retained: Vec<CheckpointId>,
        /// Those that are retained no longer; their files may be deleted now.
        dropped: Vec<CheckpointId>,
    },
    /// An execution is about to be deployed from this checkpoint (None: from nothing). Written after the void markers.
    Restored {
        attempt: AttemptId,
        checkpoint: Option<CheckpointId>,
        /// Checkpoints found to be lost for good, and why; never to be tried again.
        condemned: BTreeMap<CheckpointId, String>,
    },
    Finished,
    Failed {
        reason: String,
    },
    /// A savepoint is about to be triggered and will lie there. Until it is completed nothing there is of any worth.
    SavepointBegun {
        directory: SavepointDirectory,
    },
    /// The commit point of a savepoint, which counts as a checkpoint: its output is committed, and until a newer one completes it
    /// is what the job is restored from (FLINK-10354, FLINK-6328). But its files belong to whoever asked for it: no entry ever gives
    /// leave to delete them, so they are not listed.
    SavepointCompleted {
        attempt: AttemptId,
        checkpoint: CheckpointId,
        directory: SavepointDirectory,
        ledger: LedgerEpoch,
        sinks: BTreeMap<OperatorUid, Vec<PrecommittedObject>>,
        retained: Vec<CheckpointId>,
        dropped: Vec<CheckpointId>,
        /// The job ends with it. That is decided here and not later: a failure right behind the savepoint must not let the job run on
        /// (FLINK-21030).
        stop: bool,
    },
    /// A savepoint is complete which a later checkpoint had overtaken. That one has committed its output; for this job it is no
    /// restore point any more.
    SavepointOvertaken {
        checkpoint: CheckpointId,
        directory: SavepointDirectory,
    },
    /// The job begins with the state of a savepoint, or of a checkpoint, of another job, which it never changes or deletes.
    Imported {
        checkpoint: CheckpointId,
        metadata: ObjectName,
        /// Ids up to this one may have been used by jobs with the same output.
        granted: CheckpointId,
        /// State of operators that the job does not have is left behind.
        allow_non_restored_state: bool,
    },
    /// The job ended with this savepoint because somebody asked for it.
    Stopped {
        savepoint: SavepointDirectory,
    },
}

impl HeadEntry {
    /// In a few words, for the journal.
    pub fn summary(&self) -> String {
        match self {
            HeadEntry::Claimed { leader, process, .. } => format!("claimed leader={leader} process={process}"),
            HeadEntry::IdBlock { from, to } => format!("id-block {from}..{to}"),
            HeadEntry::Completed { checkpoint, .. } => format!("completed {checkpoint}"),
            HeadEntry::Restored { attempt, checkpoint: Some(c), .. } => format!("restored {c} attempt={attempt}"),
            HeadEntry::Restored { attempt, checkpoint: None, .. } => format!("started attempt={attempt}"),
            HeadEntry::Finished => "finished".to_string(),
            HeadEntry::Failed { .. } => "failed".to_string(),
            HeadEntry::SavepointBegun { directory } => format!("savepoint begun {directory}"),
            HeadEntry::SavepointCompleted { checkpoint, .. } => format!("savepoint completed {checkpoint}"),
            HeadEntry::SavepointOvertaken { checkpoint, .. } => format!("savepoint overtaken {checkpoint}"),
            HeadEntry::Imported { checkpoint, .. } => format!("imported {checkpoint}"),
            HeadEntry::Stopped { .. } => "stopped".to_string(),
        }
    }
}

/// An entry as it is stored. The nonce makes the bytes unique, so that a writer recognises its own entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadRecord {
    pub sequence: u64,
    pub leader: LeaderEpoch,
    pub nonce: u128,
    pub entry: HeadEntry,
}

impl HeadRecord {
    /// # Errors
    /// [`FrameError::Content`] if it cannot be serialized.
    pub fn encode(&self) -> Result<Bytes, FrameError> {
        frame::encode_value(MAGIC, VERSION, self)
    }

    /// # Errors
    /// [`FrameError`] for bytes that are not exactly one record.
    pub fn decode(bytes: &[u8]) -> Result<HeadRecord, FrameError> {
        frame::decode_value(MAGIC, VERSION, bytes)
    }
}

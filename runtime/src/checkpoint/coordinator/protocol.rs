//! What goes into the coordinator and what comes out of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    checkpoint::{
        head::HeadEntry,
        metadata::{CheckpointMetadata, VertexShape},
        types::{CheckpointAck, PrecommittedObject},
    },
    graph::ExecutionGraph,
    ids::{AttemptId, CheckpointId, JobId, OperatorUid, SubtaskId},
    journal::Event,
    layout::SavepointDirectory,
    platform::ObjectName,
    sabotage::SabotageSet,
};

/// Why a checkpoint that is due has to wait.
pub const NO_ROOM: &str = "as many checkpoints as allowed are under way";

#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    pub job: JobId,
    pub job_name: String,
    /// From one periodic trigger to the next.
    pub interval: Duration,
    /// From the last completion to the next periodic trigger, at least.
    pub min_pause: Duration,
    /// A checkpoint that has not all acknowledgements after this time is aborted.
    pub timeout: Duration,
    /// Checkpoints under way at the same time (0 counts as 1).
    pub max_concurrent: u32,
    /// Completed checkpoints to keep (0 counts as 1).
    pub retained: u32,
    /// So many checkpoints may fail in a row; one more fails the job. None: any number.
    pub tolerable_failures: Option<u32>,
    /// State that travels with the acknowledgements of all checkpoints under way may have so many bytes together; one of which more
    /// comes is given up.
    pub inline_state_budget_bytes: u64,
    pub sabotage: SabotageSet,
}

/// The subtasks that take part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Participants {
    /// All of them, with their names.
    pub subtasks: BTreeMap<SubtaskId, String>,
    pub sources: BTreeSet<SubtaskId>,
    /// Each of them has a manifest for each checkpoint, an empty one if need be.
    pub sinks: BTreeSet<OperatorUid>,
    /// As they are described in metadata.
    pub vertices: Vec<VertexShape>,
}

impl Participants {
    pub fn of(graph: &ExecutionGraph) -> Participants {
        Participants {
            subtasks: graph.subtasks().map(|id| (id, graph.subtask_name(id))).collect(),
            sources: graph.subtasks().filter(|id| graph.vertex(id.vertex).splits.is_some()).collect(),
            sinks: graph.vertices.iter().flat_map(|v| v.sinks.iter().cloned()).collect(),
            vertices: VertexShape::all(graph),
        }
    }
}

/// A savepoint that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavepointOrder {
    /// Where it is to lie; nothing is there yet.
    pub directory: SavepointDirectory,
    /// The job ends with it: no checkpoint completes between the two (Flink's `cancel -s`). If it fails the job goes on.
    pub stop: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoordinatorEvent {
    /// All subtasks of `attempt` run, and what had to be replayed is replayed.
    Started {
        attempt: AttemptId,
        /// The checkpoint whose state the execution had when it began anew: `RestoreChoice::continues`.
        continues: Option<CheckpointId>,
        /// Checkpoints known to be lost; they are dropped with the next completion.
        condemned: BTreeSet<CheckpointId>,
    },
    /// A failover begins, or the job ends.
    Stopped,
    /// Time has passed; to be sent at [`Coordinator::next_deadline`].
    Tick,
    Ack(Box<CheckpointAck>),
    Decline {
        subtask: SubtaskId,
        checkpoint: CheckpointId,
        reason: String,
    },
    /// Every source subtask of the current execution has read everything. May come before `Started`.
    AllSourcesExhausted,
    /// Somebody wants a checkpoint now.
    TriggerNow,
    /// Somebody wants a savepoint now; that it begins is in the head log. It is answered by `SavepointCompleted` or
    /// `SavepointFailed`, once.
    TriggerSavepoint(SavepointOrder),
    /// Answers `NeedIds`: the block is in the head log.
    IdsGranted {
        from: CheckpointId,
        to: CheckpointId,
    },
    /// Answers `NeedIds`: not now.
    IdsUnavailable {
        reason: String,
    },
    /// Answers `WriteMetadata`.
    MetadataWritten {
        checkpoint: CheckpointId,
        result: Result<ObjectName, String>,
    },
    /// Answers `AppendCompleted`, also that of a savepoint, with the sequence number of the entry, or the reason why it definitely was not written.
    HeadAppended {
        checkpoint: CheckpointId,
        result: Result<u64, String>,
    },
    /// Answers `CommitSinks`: all manifests exist.
    SinksCommitted {
        checkpoint: CheckpointId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoordinatorCommand {
    /// Append `HeadState::next_id_block`.
    NeedIds,
    /// Tell these source subtasks to take a snapshot and emit the barrier.
    Trigger {
        checkpoint: CheckpointId,
        attempt: AttemptId,
        sources: Vec<SubtaskId>,
    },
    /// Tell all subtasks.
    NotifyAborted {
        checkpoint: CheckpointId,
        reason: String,
    },
    /// As `Trigger`, for a savepoint that is to lie in `directory`.
    TriggerSavepoint {
        checkpoint: CheckpointId,
        attempt: AttemptId,
        sources: Vec<SubtaskId>,
        directory: SavepointDirectory,
    },
    /// `metadata::write`.
    WriteMetadata(Box<CheckpointMetadata>),
    /// `metadata::write_savepoint`. Answered as `WriteMetadata`.
    WriteSavepointMetadata {
        directory: SavepointDirectory,
        metadata: Box<CheckpointMetadata>,
    },
    /// `HeadLog::append`; the entry is a `Completed`.
    AppendCompleted {
        checkpoint: CheckpointId,
        entry: Box<HeadEntry>,
    },
    /// `commit::commit` for each sink, until it succeeds.
    CommitSinks {
        checkpoint: CheckpointId,
        sinks: BTreeMap<OperatorUid, Vec<PrecommittedObject>>,
    },
    /// Tell all subtasks.
    NotifyComplete {
        checkpoint: CheckpointId,
    },
    /// Delete, in the background, best effort.
    Discard {
        checkpoint: CheckpointId,
        objects: Vec<ObjectName>,
    },
    /// Delete everything in the directory of a savepoint that failed, in the background, best effort.
    DiscardSavepoint {
        checkpoint: CheckpointId,
        directory: SavepointDirectory,
    },
    /// It is durable, and its output is committed: tell who asked. With `stop` the job ends with it.
    SavepointCompleted {
        checkpoint: CheckpointId,
        order: SavepointOrder,
    },
    /// Tell who asked. The job goes on.
    SavepointFailed {
        order: SavepointOrder,
        reason: String,
    },
    /// All input is in this checkpoint and its output is committed: the job is finished.
    FinalCompleted {
        checkpoint: CheckpointId,
    },
    /// Too many checkpoints failed in a row.
    FailJob {
        reason: String,
    },
    Journal(Event),
}

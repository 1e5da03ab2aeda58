//! What a TaskManager tells a subtask, and what a subtask tells its TaskManager. Serialized: the same messages travel between
//! JobManager and TaskManager.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::types::{CheckpointAck, OutputDigest, ReplayPlan, RestoreOrder},
    ids::{AllocationId, AttemptId, CheckpointId, EdgeId, JobId, OperatorUid, SubtaskId},
    layout::SavepointDirectory,
    platform::{Address, Connection},
    recovery::{local_shelf::CopyFormat, restore_report::RestoreReport},
    sabotage::SabotageSet,
    state::BackendSettings,
};

/// One output channel: where the consuming subtask lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelTarget {
    pub subtask: SubtaskId,
    /// `count[1]`.
    pub name: String,
    /// The process it runs in.
    pub process: String,
    /// That process's data address.
    pub address: Address,
}

/// Settings of a subtask. Durations and sizes, no policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSettings {
    /// A buffer is sent when it holds so many bytes …
    pub buffer_bytes: u32,
    /// … or when its first record has waited so long.
    pub buffer_timeout: Duration,
    /// Bytes a channel may have in flight (sent and not yet consumed); granted by the consumer as credit.
    pub channel_window_bytes: u32,
    /// Keep a local copy of each snapshot, and use it in recovery.
    pub local_recovery: bool,
    /// How many directories are configured for local copies, which lie in them by turns (`taskmanager.state.local.root-dirs`). 0:
    /// they lie in `localState` on the TaskManager's own disk.
    pub local_roots: u32,
    /// As what local copies are kept.
    pub local_copies: CopyFormat,
    /// One attempt of one primary storage operation.
    pub store_operation_timeout: Duration,
    /// All attempts of one primary storage operation.
    pub store_total_timeout: Duration,
    /// State travels to primary storage and back in pieces of so many bytes at most, of which each transfer thread has one in
    /// memory.
    pub transfer_piece_bytes: u64,
    /// Connecting a channel.
    pub connect_timeout: Duration,
    /// Records a source reads between two looks at its commands.
    pub source_batch_records: u32,
    /// `akka.framesize`: bytes that a message between TaskManager and JobManager may have. What does not fit is an error at the
    /// sender.
    pub frame_bytes: u64,
    /// Where state is kept and how it is written.
    pub backend: BackendSettings,
    /// A source gives a watermark at most so often.
    pub watermark_interval: Duration,
    pub sabotage: SabotageSet,
}

/// More than the 5 MiB that S3 asks of all pieces but the last, and little enough for many transfers at once.
pub const TRANSFER_PIECE_BYTES: u64 = 8 << 20;

impl Default for TaskSettings {
    fn default() -> Self {
        TaskSettings {
            buffer_bytes: 32 << 10,
            buffer_timeout: Duration::from_millis(100),
            channel_window_bytes: 256 << 10,
            local_recovery: false,
            local_roots: 0,
            local_copies: CopyFormat::Files,
            store_operation_timeout: Duration::from_secs(10),
            store_total_timeout: Duration::from_secs(60),
            transfer_piece_bytes: TRANSFER_PIECE_BYTES,
            connect_timeout: Duration::from_secs(10),
            source_batch_records: 1024,
            frame_bytes: 10_485_760,
            backend: BackendSettings::default(),
            watermark_interval: Duration::from_millis(200),
            sabotage: SabotageSet::default(),
        }
    }
}

/// The deployment of one subtask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubtaskSpec {
    pub job: JobId,
    pub subtask: SubtaskId,
    pub attempt: AttemptId,
    pub allocation: AllocationId,
    /// Per output edge of the vertex, in order, its channels in order.
    pub outputs: Vec<Vec<ChannelTarget>>,
    pub restore: Option<RestoreOrder>,
    pub replay: ReplayPlan,
    pub settings: TaskSettings,
}

/// The first frame on a data channel, from producer to consumer (postcard).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelHello {
    pub job: JobId,
    pub attempt: AttemptId,
    pub edge: EdgeId,
    pub from: SubtaskId,
    pub to: SubtaskId,
}

/// An accepted channel whose hello was read.
pub struct InboundChannel {
    pub hello: ChannelHello,
    pub connection: Connection,
}

/// From TaskManager to subtask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubtaskCommand {
    /// Sources only: take a snapshot and emit the barrier.
    TriggerCheckpoint(CheckpointId),
    NotifyComplete(CheckpointId),
    NotifyAborted(CheckpointId),
    /// Stop; no further effects.
    Cancel,
    /// Sources only: as `TriggerCheckpoint`, for a savepoint that is to lie in `directory`.
    TriggerSavepoint {
        checkpoint: CheckpointId,
        directory: SavepointDirectory,
    },
}

/// Why a subtask failed, as far as the JobManager must tell causes apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskFailure {
    /// User code returned an error or panicked, or its data was bad.
    User(String),
    /// A state part is gone or corrupt in primary storage and locally. Definite: the checkpoint cannot be restored.
    StateLost { checkpoint: CheckpointId, part: String, reason: String },
    /// Anything that may pass: network, storage outage, local errors.
    Environment(String),
}

impl fmt::Display for TaskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskFailure::User(message) | TaskFailure::Environment(message) => f.write_str(message),
            TaskFailure::StateLost { checkpoint, part, reason } => {
                write!(f, "state part {part} of checkpoint {checkpoint} is lost: {reason}")
            }
        }
    }
}

/// From subtask to TaskManager and on to the JobManager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubtaskReport {
    /// State restored, all channels connected, records flow.
    Running(Box<RestoreReport>),
    /// A source has read all its splits to their ends.
    Exhausted,
    Ack(Box<CheckpointAck>),
    Decline {
        checkpoint: CheckpointId,
        reason: String,
    },
    /// A sink subtask finished the replay of an epoch with these digests.
    ReplayedEpoch {
        epoch: CheckpointId,
        digests: BTreeMap<OperatorUid, OutputDigest>,
    },
    /// The subtask's whole replay plan is done.
    ReplayFinished,
    Failed(TaskFailure),
    /// Cancelled, nothing runs any more.
    Stopped,
}

//! What travels between subtasks, TaskManagers and the JobManager about a checkpoint.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{AttemptId, BackendId, CheckpointId, KeyGroupRange, OperatorUid, SplitId, SubtaskId},
    platform::ObjectName,
};

/// What a piece of state is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PartKind {
    /// The whole keyed state of a key-group range, in the format of `state::format`: the same from every backend, so that a
    /// full snapshot can be restored into any.
    Keyed,
    /// An immutable file of a native checkpoint (an SST), under its name there. Later checkpoints may refer to it.
    Shared { file: String },
    /// Another file of a native checkpoint (its manifest, its options), under its name there; of this checkpoint alone.
    Private { file: String },
    /// State of an operator without key. Union state, of which every subtask gets all when it is restored, is in a part of
    /// its own.
    Operator { union: bool },
}

/// Where the bytes of a piece of state are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartLocation {
    /// In primary storage.
    Object(ObjectName),
    /// Here: all state of the memory backend, and small state of the others.
    Inline(Bytes),
}

impl std::fmt::Display for PartLocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PartLocation::Object(name) => name.fmt(f),
            PartLocation::Inline(bytes) => write!(f, "{} bytes inline", bytes.len()),
        }
    }
}

/// One durable piece of a subtask's state: an object in primary storage, perhaps with a local copy of the same bytes, or
/// bytes that travel with the acknowledgement. The unit in which a partly lost local copy is completed from primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatePart {
    pub operator: OperatorUid,
    pub key_groups: KeyGroupRange,
    /// Unique within the subtask's snapshot; the name of the local file.
    pub name: String,
    pub kind: PartKind,
    pub location: PartLocation,
    /// Bytes.
    pub length: u64,
    /// Of one length whatever its value: the sizes of messages and files must not depend on what a database puts into its files.
    #[serde(with = "postcard::fixint::le")]
    pub crc32c: u32,
    /// The checkpoint that wrote the object. An earlier one than that which refers to it: it is reused (what Flink's
    /// acknowledgement says with a placeholder).
    pub written_by: CheckpointId,
    /// Of `Shared` and `Private` parts: which working store the file is of.
    pub backend: Option<BackendId>,
}

impl StatePart {
    /// The object in primary storage; None if the bytes are inline.
    pub fn object(&self) -> Option<&ObjectName> {
        match &self.location {
            PartLocation::Object(name) => Some(name),
            PartLocation::Inline(_) => None,
        }
    }
}

impl StatePart {
    /// Whether it is cut by key groups, and so can be given to others by them.
    pub fn is_keyed(&self) -> bool {
        !matches!(self.kind, PartKind::Operator { .. })
    }
}

/// Everything needed to restore one subtask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubtaskSnapshot {
    /// Keyed state in parts.
    pub parts: Vec<StatePart>,
    /// Small operator state carried inline (for a source: its positions, encoded by the operator).
    pub inline: BTreeMap<OperatorUid, Vec<u8>>,
}

impl SubtaskSnapshot {
    /// All objects it refers to, in the order of the parts.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectName> {
        self.parts.iter().filter_map(StatePart::object)
    }

    /// How many bytes of state it carries itself.
    pub fn inline_bytes(&self) -> u64 {
        let parts = self.parts.iter().filter(|part| part.object().is_none()).map(|part| part.length);
        parts.sum::<u64>() + self.inline.values().map(|bytes| bytes.len() as u64).sum::<u64>()
    }

    /// The objects that `checkpoint`, whose snapshot this is, wrote itself. Whoever gives the snapshot up may delete these
    /// and no others.
    pub fn own_objects(&self, checkpoint: CheckpointId) -> impl Iterator<Item = &ObjectName> {
        self.parts.iter().filter(move |part| part.written_by == checkpoint).filter_map(StatePart::object)
    }
}

/// A run of records taken from one input, in the order in which a subtask merged its inputs. `input` counts a subtask's
/// input channels (edges in order, upstream subtasks in order), for a source its splits in the order of their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeRun {
    pub input: u32,
    pub records: u32,
}

/// The two times that operators see, both in milliseconds since 1970. They stand still between the steps of a subtask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Event time: no record before it is expected any more. `i64::MIN` until the first watermark.
    pub watermark: i64,
    /// Processing time; `i64::MIN` until a chain that asks for it was told.
    pub processing: i64,
}

impl Default for Times {
    fn default() -> Times {
        Times { watermark: i64::MIN, processing: i64::MIN }
    }
}

/// A step of a subtask's work, in its order: what a replay must repeat to the letter to get the same output.
///
/// Watermarks and processing time are no part of a snapshot (after a restore they begin anew), but timers, late records
/// and expiry depend on them. So the log holds what they were and where they moved; a replay takes them from there and
/// neither from its inputs nor from the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MergeStep {
    Run(MergeRun),
    /// What the times are here, at the beginning of what a snapshot closes. Without it they are [`Times::default`].
    Resume(Times),
    /// Event time moved on, and timers fired.
    Watermark(i64),
    /// Processing time moved on, and timers fired.
    ProcessingTime(i64),
}

impl From<MergeRun> for MergeStep {
    fn from(run: MergeRun) -> MergeStep {
        MergeStep::Run(run)
    }
}

/// The order-free digest of a multiset of output records: the wrapping sum of a 128-bit hash of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputDigest {
    pub sum: u128,
    pub records: u64,
}

impl OutputDigest {
    pub fn add_record(&mut self, bytes: &[u8]) {
        self.sum = self.sum.wrapping_add(xxhash_rust::xxh3::xxh3_128(bytes));
        self.records += 1;
    }

    pub fn add(&mut self, other: OutputDigest) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.records += other.records;
    }
}

/// A data object that a sink subtask wrote ahead of the commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrecommittedObject {
    pub object: ObjectName,
    pub length: u64,
    pub records: u64,
    /// The snapshot that the object was cut for. A manifest of checkpoint n takes the objects of every snapshot above the
    /// checkpoint completed before n, up to n: an aborted checkpoint's output moves into the next.
    pub snapshot: CheckpointId,
}

/// What a sink operator of one subtask contributes to a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkAck {
    /// Objects of this snapshot and of earlier ones that the subtask does not know to be committed.
    pub objects: Vec<PrecommittedObject>,
    /// Digest of the records since the previous snapshot barrier (aborted or not), per snapshot not known to be completed.
    pub digests: BTreeMap<CheckpointId, OutputDigest>,
}

/// A subtask's acknowledgement of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointAck {
    pub subtask: SubtaskId,
    pub attempt: AttemptId,
    pub checkpoint: CheckpointId,
    pub snapshot: SubtaskSnapshot,
    /// For a source: the offset of the next record to read, per split, at the barrier.
    pub positions: BTreeMap<SplitId, u64>,
    pub sinks: BTreeMap<OperatorUid, SinkAck>,
    /// The order in which inputs were merged, per snapshot not known to be completed (as `SinkAck::digests`).
    pub merges: BTreeMap<CheckpointId, Vec<MergeStep>>,
    /// For a source: all its splits were read to their ends before the barrier.
    pub exhausted: bool,
}

/// What the commit ledger holds about one completed checkpoint, enough to replay its epoch (the records between the
/// previous completed checkpoint and this one) to the letter, muted, and to verify it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEpoch {
    pub checkpoint: CheckpointId,
    /// The checkpoint this epoch continued from; None if it began at the start of the job.
    pub previous: Option<CheckpointId>,
    pub positions: BTreeMap<SplitId, u64>,
    pub digests: BTreeMap<OperatorUid, OutputDigest>,
    pub merges: BTreeMap<SubtaskKey, Vec<MergeStep>>,
}

/// A subtask as a map key that every serde format accepts.
pub type SubtaskKey = (u32, u32);

impl From<SubtaskId> for SubtaskKey {
    fn from(id: SubtaskId) -> SubtaskKey {
        (id.vertex.0, id.index)
    }
}

/// How one subtask replays the epochs behind a commit: in order, each to the letter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayPlan {
    pub epochs: Vec<ReplayEpoch>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayEpoch {
    pub epoch: CheckpointId,
    /// The steps of this subtask in this epoch; the runs add up to the whole epoch.
    pub merges: Vec<MergeStep>,
}

/// A state part as a restoring subtask is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePart {
    /// Index of the subtask that wrote it, among those the operator had then.
    pub from: u32,
    pub part: StatePart,
}

/// Small state as a restoring subtask is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InlineState {
    pub operator: OperatorUid,
    /// Index of the subtask that wrote it, among those the operator had then.
    pub from: u32,
    pub bytes: Vec<u8>,
}

/// What a subtask is told to restore: what it wrote itself, or, when the parallelism has changed, a share of what several
/// subtasks wrote (`recovery::assignment`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreOrder {
    pub checkpoint: CheckpointId,
    pub parts: Vec<RestorePart>,
    pub inline: Vec<InlineState>,
    /// How many subtasks each operator of the chain had. An operator that is not listed is new.
    pub parallelism: BTreeMap<OperatorUid, u32>,
}

impl RestoreOrder {
    /// For a subtask that gets back what it wrote itself.
    pub fn own(checkpoint: CheckpointId, index: u32, snapshot: SubtaskSnapshot) -> RestoreOrder {
        RestoreOrder {
            checkpoint,
            parts: snapshot.parts.into_iter().map(|part| RestorePart { from: index, part }).collect(),
            inline: snapshot
                .inline
                .into_iter()
                .map(|(operator, bytes)| InlineState { operator, from: index, bytes })
                .collect(),
            parallelism: BTreeMap::new(),
        }
    }
}

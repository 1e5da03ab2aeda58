//! What the subtask loop knows of user code: a chain of operators, synchronous, fed with encoded batches.
//!
//! A chain never waits: input bytes are fed to it, output records are appended to [`Outputs`] and carried away by the loop
//! between calls. It lives on the thread of its subtask.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex},
};

use bytes::Bytes;

use super::{event_time::EventTime, outputs::Outputs, task::TaskFailure};
use crate::{
    checkpoint::{
        increments::{Increments, SharedFiles},
        types::{InlineState, OutputDigest, PartKind, StatePart, Times},
    },
    ids::{BackendId, CheckpointId, KeyGroupRange, OperatorUid, SplitId},
    platform::{Mono, NativeDir, NativeOp},
    recovery::restore_report::RestoreReport,
};

/// An error of user code or of its data; fails the attempt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operator}: {message}")]
pub struct ChainError {
    pub operator: String,
    pub message: String,
}

/// What asking a source for records gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourcePoll {
    /// So many records (at least 1) went through the chain.
    Records(u32),
    /// The split needs these bytes of its input file before it can go on; answer with [`Chain::feed`].
    NeedInput { path: String, range: Range<u64> },
    /// The split has ended. Stays so.
    Exhausted,
}

/// How much of a frame was consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumed {
    pub bytes: usize,
    pub records: u32,
}

/// A piece of state to be written: the state as it was at the barrier, encoded later and elsewhere.
pub struct PartSource {
    pub operator: OperatorUid,
    pub key_groups: KeyGroupRange,
    /// Unique within the subtask's snapshot, a plain file name, the same for the same part of every checkpoint.
    pub name: String,
    pub kind: PartKind,
    /// Of native files: which working store they are of.
    pub backend: Option<BackendId>,
    pub data: PartData,
}

/// Where the bytes of a piece of state come from.
pub enum PartData {
    /// Runs as a native call while the stream goes on.
    Encode(Box<dyn FnOnce() -> Bytes + Send>),
    /// As `Encode`, unless the checkpoint that the snapshot is based on has a part of this name with the same content:
    /// equal numbers mean equal bytes, within one execution of the subtask.
    EncodeUnlessKnown { content: u64, encode: Box<dyn FnOnce() -> Bytes + Send> },
    /// Nothing is written: the bytes are those of a checkpoint that was confirmed before, as that described them.
    Reuse(StatePart),
}

impl PartData {
    /// Bytes still to be encoded.
    pub fn encode(encode: impl FnOnce() -> Bytes + Send + 'static) -> PartData {
        PartData::Encode(Box::new(encode))
    }

    /// Bytes still to be encoded, unless they are known to be those of the base.
    pub fn encode_unless_known(content: u64, encode: impl FnOnce() -> Bytes + Send + 'static) -> PartData {
        PartData::EncodeUnlessKnown { content, encode: Box::new(encode) }
    }

    /// The bytes of state that is encoded; None of what comes from elsewhere.
    pub fn encoded(self) -> Option<Bytes> {
        match self {
            PartData::Encode(encode) | PartData::EncodeUnlessKnown { encode, .. } => Some(encode()),
            PartData::Reuse(_) => None,
        }
    }
}

/// When in a chain's life native calls are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeStage {
    /// After [`Chain::open`], before the first record. The state is only then complete.
    Open,
    /// After the last record, as far as the chain ends in order.
    Close,
}

/// Work that a chain wants done away from its thread.
pub struct NativeCall {
    pub operator: OperatorUid,
    pub op: NativeOp,
    /// Why the attempt fails, if it does.
    pub run: Box<dyn FnOnce() -> Result<(), TaskFailure> + Send>,
}

/// A native checkpoint to be taken: files of a working store that hold the state as it was at the barrier.
pub struct NativeSnapshot {
    pub operator: OperatorUid,
    pub key_groups: KeyGroupRange,
    pub backend: BackendId,
    /// Where the files will be.
    pub directory: NativeDir,
    pub subdirectory: String,
    /// Waits until the state is in files. Its error is one of the store itself, which is broken then.
    pub flush: Box<dyn FnOnce() -> Result<(), String> + Send>,
    /// Makes the files of the checkpoint.
    pub take: Box<dyn FnOnce() -> Result<(), String> + Send>,
    /// After that: makes few files of many. Not part of the snapshot. Its error is one of the store itself.
    pub compact: Option<Box<dyn FnOnce() -> Result<(), String> + Send>>,
    /// What need not be written again; as it was at the barrier.
    pub base: SharedFiles,
    /// Hears what was written.
    pub increments: Arc<Mutex<Increments>>,
}

/// A database, and the files it begins with.
#[derive(Clone, Debug)]
pub struct Scratch {
    pub directory: NativeDir,
    /// The database's name, unless it goes on as the one it was.
    pub backend: BackendId,
    /// Native checkpoints whose files are there, each in a subdirectory.
    pub restored: Vec<RestoredNative>,
    /// For negative tests: key groups of others are not removed.
    pub unclipped: bool,
}

/// A native checkpoint that was brought back.
#[derive(Clone, Debug)]
pub struct RestoredNative {
    pub checkpoint: CheckpointId,
    /// Which store wrote it.
    pub backend: BackendId,
    pub key_groups: KeyGroupRange,
    pub subdirectory: String,
    pub shared: SharedFiles,
}

/// How state is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SnapshotFormat {
    /// As the backend takes snapshots: perhaps as files of its own.
    #[default]
    OfBackend,
    /// Whole, and the same from every backend, so that any can restore it. What a savepoint is written in (Flink's canonical format).
    Canonical,
}

/// The synchronous part of a snapshot.
#[derive(Default)]
pub struct ChainSnapshot {
    pub checkpoint: CheckpointId,
    /// Asked for.
    pub format: SnapshotFormat,
    pub parts: Vec<PartSource>,
    pub native: Vec<NativeSnapshot>,
    pub inline: BTreeMap<OperatorUid, Vec<u8>>,
    /// For a source: per split the offset of the next record.
    pub positions: BTreeMap<SplitId, u64>,
}

/// Output that a sink wants written to primary storage.
pub struct SinkData {
    pub sink: OperatorUid,
    pub bytes: Bytes,
    pub records: u64,
}

/// State to start from.
///
/// After a change of parallelism it is more than this subtask's own: an operator takes what falls to it and leaves the rest.
#[derive(Clone, Debug, Default)]
pub struct RestoredState {
    /// Decoded by the operator named; each part covers the key groups given.
    pub parts: Vec<RestoredPart>,
    pub inline: Vec<InlineState>,
    /// How many subtasks each operator had when the state was written, if it is known. Of others nothing is restored.
    pub parallelism: BTreeMap<OperatorUid, u32>,
    /// Where keyed operators may have databases, each a directory of its own.
    pub scratch: BTreeMap<OperatorUid, Scratch>,
    /// Where it all came from.
    pub report: RestoreReport,
}

/// A state part with its bytes, which were verified.
#[derive(Clone, Debug)]
pub struct RestoredPart {
    pub operator: OperatorUid,
    pub key_groups: KeyGroupRange,
    pub kind: PartKind,
    /// Index of the subtask that wrote it.
    pub from: u32,
    pub bytes: Bytes,
}

impl RestoredState {
    /// The inline state of an operator, in the order of the subtasks that wrote it.
    pub fn inline_of(&self, operator: &OperatorUid) -> impl Iterator<Item = &[u8]> {
        self.inline.iter().filter(move |inline| inline.operator == *operator).map(|inline| inline.bytes.as_slice())
    }
}

/// A time that operators see moves on; timers up to it, itself included, fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeMove {
    Watermark(i64),
    /// Milliseconds since 1970.
    Processing(i64),
}

/// Values of a state were of an older structure of their type, and were encoded anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateUpgrade {
    pub operator: OperatorUid,
    pub state: String,
    /// As they lie in the store: of a map in a database, its entries.
    pub values: u64,
}

/// The operators of one subtask.
pub trait Chain {
    /// Called once before any record, with the state of the checkpoint being restored (empty for a fresh start).
    fn open(&mut self, restored: RestoredState) -> Result<(), ChainError>;

    /// What is to be done, in this order, at this stage.
    fn native_calls(&mut self, _stage: NativeStage) -> Vec<NativeCall> {
        Vec::new()
    }

    /// The calls of [`NativeStage::Open`] are done.
    fn natively_opened(&mut self) -> Result<(), ChainError> {
        Ok(())
    }

    /// What was encoded anew of the state that was restored, because it was of older structures of its types.
    fn take_upgrades(&mut self) -> Vec<StateUpgrade> {
        Vec::new()
    }

    /// Source chains: reads up to `max_records` records of one of this subtask's splits (by position among them).
    fn poll_source(&mut self, split: u32, max_records: u32, out: &mut Outputs) -> Result<SourcePoll, ChainError>;

    /// Source chains: the bytes asked for by [`SourcePoll::NeedInput`]; fewer at the end of the file.
    fn feed(&mut self, split: u32, bytes: Bytes) -> Result<(), ChainError>;

    /// Source chains: a limit of the job's own on records per second for the whole subtask, if any.
    fn rate_limit(&self) -> Option<f64> {
        None
    }

    /// Source chains: how far event time is, as far as the source's watermark strategy knows, and when that may change
    /// although nothing is read (a split becomes idle). None: the job has no event time.
    fn source_event_time(&mut self, _now: Mono) -> Option<(EventTime, Option<Mono>)> {
        None
    }

    /// Other chains: decodes and processes up to `max_records` records of a frame that came over input edge `edge` (by
    /// position among this vertex's inputs).
    fn process(
        &mut self,
        edge: u32,
        payload: &Bytes,
        max_records: u32,
        out: &mut Outputs,
    ) -> Result<Consumed, ChainError>;

    /// Sets the times that operators see, and fires nothing. Until then they are [`Times::default`].
    fn resume(&mut self, _times: Times) {}

    /// A time moves on; it never goes back.
    fn advance(&mut self, _time: TimeMove, _out: &mut Outputs) -> Result<(), ChainError> {
        Ok(())
    }

    /// Whether an operator asks for processing time at all.
    fn needs_processing_time(&mut self) -> bool {
        false
    }

    /// When the next timer in processing time is due.
    fn next_processing_timer(&mut self) -> Option<i64> {
        None
    }

    /// Records that windows dropped for being late, since the last call.
    fn take_late_records(&mut self) -> u64 {
        0
    }

    /// The synchronous part of a snapshot. Must be short: it may mark state as shared, never encode it.
    fn snapshot(&mut self, checkpoint: CheckpointId, format: SnapshotFormat) -> Result<ChainSnapshot, ChainError>;

    /// `checkpoint` is complete.
    fn completed(&mut self, _checkpoint: CheckpointId) {}

    /// While muted, sinks drop their output but keep digesting it.
    fn set_muted(&mut self, muted: bool);

    /// Output large enough to be written ahead of the next barrier (`flush` false), or all there is (`flush` true).
    fn take_sink_data(&mut self, flush: bool) -> Vec<SinkData>;

    /// Digests of what each sink took since the last call (muted output included), and starts anew.
    fn take_sink_digests(&mut self) -> BTreeMap<OperatorUid, OutputDigest>;
}

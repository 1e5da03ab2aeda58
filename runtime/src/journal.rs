//! The journal: typed events for every protocol step that matters.
//!
//! Each process owns one. In production it is a bounded ring that can be dumped after a failure; the simulated world
//! attaches a listener, which hashes, merges and times all journals and fires fault triggers *synchronously inside the emit*.
//! An event says that a step was taken; whether its effect is true is for the disks, the store and the output to say.
//! Never emitted per record.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Serialize};

use crate::{
    ids::{AllocationId, AttemptId, CheckpointId, LeaderEpoch, SharedSlot},
    points::{Point, Points},
};

/// Receives every event of a process, synchronously, in order.
pub trait JournalListener: Send + Sync {
    fn on_event(&self, process: &str, event: &Event);
    /// A point of the protocol was passed; see [`crate::points`].
    fn on_point(&self, _process: &str, _point: Point) {}
}

/// One process's journal. Cheap to clone.
#[derive(Clone)]
pub struct Journal(Arc<Inner>);

struct Inner {
    process: Arc<str>,
    listener: Option<Arc<dyn JournalListener>>,
    ring: Mutex<VecDeque<Event>>,
    capacity: usize,
}

impl Journal {
    /// A journal that keeps the last `capacity` events and tells `listener`, if any, about each.
    pub fn new(process: impl Into<Arc<str>>, capacity: usize, listener: Option<Arc<dyn JournalListener>>) -> Journal {
        Journal(Arc::new(Inner { process: process.into(), listener, ring: Mutex::new(VecDeque::new()), capacity }))
    }

    pub fn emit(&self, event: Event) {
        if let Some(listener) = &self.0.listener {
            listener.on_event(&self.0.process, &event);
        }
        if self.0.capacity > 0 {
            let mut ring = self.0.ring.lock().expect("journal ring: a holder panicked");
            if ring.len() == self.0.capacity {
                ring.pop_front();
            }
            ring.push_back(event);
        }
    }

    /// Notes that `point` was passed.
    pub fn reached(&self, point: Point) {
        if let Some(listener) = &self.0.listener {
            listener.on_point(&self.0.process, point);
        }
    }

    /// Notes that `point` was passed, if its condition holds.
    pub fn sometimes(&self, point: Point, holds: bool) {
        if holds {
            self.reached(point);
        }
    }

    /// Notes that `point` was passed. If its condition does not hold, which is a defect of the runtime, that becomes an event.
    pub fn always(&self, point: Point, holds: bool, detail: impl FnOnce() -> String) {
        self.reached(point);
        if !holds {
            self.emit(Event::AssertionBroken { assertion: point.name().to_string(), detail: detail() });
        }
    }

    /// Notes what a state machine has passed.
    pub fn points(&self, points: &Points) {
        if points.is_empty() {
            return;
        }
        for point in points.passed() {
            self.reached(point);
        }
        for (point, detail) in points.broken() {
            self.emit(Event::AssertionBroken { assertion: point.name().to_string(), detail: detail.clone() });
        }
    }

    /// The last events, oldest first.
    pub fn recent(&self) -> Vec<Event> {
        self.0.ring.lock().expect("journal ring: a holder panicked").iter().cloned().collect()
    }
}

macro_rules! events {
    ($($(#[$doc:meta])* $kind:ident { $($field:ident : $ty:ty),* $(,)? } on $entity:ident),* $(,)?) => {
        /// A protocol step. The field named after `on` in the table is the entity it happened to; triggers count per entity.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Event { $($(#[$doc])* $kind { $($field: $ty),* }),* }

        /// The kind of an [`Event`], without its facts. Faults are triggered by it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum EventKind { $($(#[$doc])* $kind),* }

        impl EventKind {
            pub const ALL: &'static [EventKind] = &[$(EventKind::$kind),*];
            pub fn name(self) -> &'static str {
                match self { $(EventKind::$kind => stringify!($kind)),* }
            }
        }

        impl Event {
            pub fn kind(&self) -> EventKind {
                match self { $(Event::$kind { .. } => EventKind::$kind),* }
            }
            /// What it happened to, as text: `count[1]`, `read[0]->count[1]`, `tm-2`, `job`, an object's name, ….
            pub fn entity(&self) -> String {
                match self { $(Event::$kind { $entity, .. } => $entity.to_string()),* }
            }
        }

        impl fmt::Display for Event {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $(Event::$kind { $($field),* } => {
                    f.write_str(stringify!($kind))?;
                    $(write!(f, " {}={}", stringify!($field), Shown($field))?;)*
                    Ok(())
                }),* }
            }
        }
    };
}

/// Strings as they are, everything else as `Debug` without type names where that is short.
struct Shown<'a, T>(&'a T);
impl<T: fmt::Debug> fmt::Display for Shown<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Names inside events: a subtask is `<vertex name>[<index>]`, a channel `<from subtask>-><to subtask>`.
pub type Name = String;

events! {
    // ---- processes and leadership
    ProcessStarted { process: Name } on process,
    LeaderElected { process: Name, leader: LeaderEpoch, entries: u64 } on process,
    LeaderSteppedDown { process: Name, leader: LeaderEpoch, reason: String } on process,
    HeadEntryAppended { sequence: u64, entry: String } on entry,
    // ---- TaskManagers and slots
    TaskManagerRegistered { task_manager: Name, incarnation: u64, leader: LeaderEpoch } on task_manager,
    TaskManagerLost { task_manager: Name, reason: String } on task_manager,
    JobManagerLost { task_manager: Name, reason: String } on task_manager,
    StaleMessageIgnored { process: Name, message: String } on message,
    SlotAllocated { task_manager: Name, slot: u32, allocation: AllocationId, shared: SharedSlot, previous: bool } on task_manager,
    /// A TaskManager has confirmed that nothing of an older attempt runs on it; from here on its slots can be dealt out.
    SlotsOffered { task_manager: Name, slots: u32 } on task_manager,
    SlotReleased { task_manager: Name, slot: u32, allocation: AllocationId } on task_manager,
    // ---- the job and its tasks
    JobStateChanged { job: Name, from: String, to: String, reason: String } on job,
    TaskDeployed { subtask: Name, attempt: AttemptId, task_manager: Name, slot: u32, allocation: AllocationId } on subtask,
    ExecutionRunning { job: Name, attempt: AttemptId } on job,
    TaskStateChanged { subtask: Name, attempt: AttemptId, to: String, reason: String } on subtask,
    ChannelConnected { channel: Name, attempt: AttemptId } on channel,
    SourceExhausted { subtask: Name, attempt: AttemptId } on subtask,
    LateRecordsDropped { subtask: Name, checkpoint: CheckpointId, records: u64 } on subtask,
    WatermarkReached { subtask: Name, watermark: i64 } on subtask,
    // ---- checkpoints: the coordinator
    CheckpointTriggered { checkpoint: CheckpointId, attempt: AttemptId } on checkpoint,
    CheckpointSkipped { job: Name, reason: String } on job,
    CheckpointAcked { subtask: Name, checkpoint: CheckpointId } on subtask,
    CheckpointDeclined { subtask: Name, checkpoint: CheckpointId, reason: String } on subtask,
    LateAckDiscarded { subtask: Name, checkpoint: CheckpointId } on subtask,
    CheckpointExpired { checkpoint: CheckpointId } on checkpoint,
    CheckpointAborted { checkpoint: CheckpointId, reason: String } on checkpoint,
    MetadataWritten { checkpoint: CheckpointId, object: String } on checkpoint,
    CheckpointCompleted { checkpoint: CheckpointId, sequence: u64 } on checkpoint,
    CheckpointSubsumed { checkpoint: CheckpointId } on checkpoint,
    CheckpointDiscarded { checkpoint: CheckpointId, objects: u64 } on checkpoint,
    CheckpointNotified { checkpoint: CheckpointId } on checkpoint,
    // ---- savepoints
    /// Before the trigger of a checkpoint that is a savepoint.
    SavepointTriggered { checkpoint: CheckpointId, directory: String } on checkpoint,
    SavepointCompleted { checkpoint: CheckpointId, directory: String, overtaken: bool } on checkpoint,
    SavepointFailed { checkpoint: CheckpointId, directory: String, reason: String } on checkpoint,
    /// It is no restore point of its job any more, and stays where it is.
    SavepointReleased { checkpoint: CheckpointId } on checkpoint,
    /// A client asked; or was answered, with the path or the reason why there is none.
    SavepointRequested { job: Name, directory: String, stop: bool } on job,
    SavepointAnswered { job: Name, answer: String } on job,
    /// A job begins with what another one left.
    StateImported { job: Name, checkpoint: CheckpointId, metadata: String } on job,
    StateLeftBehind { operator: Name, checkpoint: CheckpointId } on operator,
    // ---- checkpoints: the subtasks
    BarrierEmitted { subtask: Name, checkpoint: CheckpointId, attempt: AttemptId } on subtask,
    BarrierSent { channel: Name, checkpoint: CheckpointId, to: Name } on channel,
    BarrierReceived { channel: Name, checkpoint: CheckpointId } on channel,
    AlignmentStarted { subtask: Name, checkpoint: CheckpointId } on subtask,
    AlignmentEnded { subtask: Name, checkpoint: CheckpointId } on subtask,
    AlignmentAborted { subtask: Name, checkpoint: CheckpointId } on subtask,
    SnapshotSyncDone { subtask: Name, checkpoint: CheckpointId } on subtask,
    SnapshotAsyncStarted { subtask: Name, checkpoint: CheckpointId } on subtask,
    /// One piece of a part that is uploaded in several is in the store. Nobody can see it yet.
    PartPieceUploaded { subtask: Name, checkpoint: CheckpointId, object: String, piece: u32 } on subtask,
    PartUploaded { subtask: Name, checkpoint: CheckpointId, object: String, bytes: u64 } on subtask,
    /// Its files are there, and nothing of them is in primary yet.
    NativeCheckpointTaken { subtask: Name, checkpoint: CheckpointId, operator: Name } on subtask,
    NativeCheckpointWritten { subtask: Name, checkpoint: CheckpointId, files: u32, reused: u32 } on subtask,
    SnapshotAsyncDone { subtask: Name, checkpoint: CheckpointId } on subtask,
    /// A flush or a compaction failed: the task fails with it.
    DatabaseBroken { subtask: Name, reason: String } on subtask,
    SnapshotFailed { subtask: Name, checkpoint: CheckpointId, reason: String } on subtask,
    /// The checkpoint was aborted before its asynchronous part was done: that stops, and deletes what it has stored.
    SnapshotGivenUp { subtask: Name, checkpoint: CheckpointId } on subtask,
    TaskNotifiedComplete { subtask: Name, checkpoint: CheckpointId } on subtask,
    TaskNotifiedAborted { subtask: Name, checkpoint: CheckpointId } on subtask,
    // ---- task-local state
    LocalPartStored { subtask: Name, checkpoint: CheckpointId, part: String, bytes: u64 } on subtask,
    LocalPartFailed { subtask: Name, checkpoint: CheckpointId, part: String, reason: String } on subtask,
    LocalCopyStored { subtask: Name, checkpoint: CheckpointId, parts: u32 } on subtask,
    LocalCopyFailed { subtask: Name, checkpoint: CheckpointId, reason: String } on subtask,
    LocalCopyConfirmed { subtask: Name, checkpoint: CheckpointId } on subtask,
    LocalCopyDiscarded { subtask: Name, checkpoint: CheckpointId, reason: String } on subtask,
    /// Native files could not be linked into the local copies below this root, which is on another device, and were copied. Said
    /// once by each process.
    LocalFilesCopied { task_manager: Name, root: String, bytes: u64 } on task_manager,
    /// So many bytes are kept by the subtask's local copies alone: the newest does not have them.
    LocalCopiesExclusive { subtask: Name, checkpoint: CheckpointId, bytes: u64 } on subtask,
    // ---- recovery
    RestoreChosen { job: Name, checkpoint: Option<CheckpointId>, newest: Option<CheckpointId>, replay_to: Option<CheckpointId>, attempt: AttemptId } on job,
    OperatorRescaled { operator: Name, checkpoint: CheckpointId, from: u32, to: u32 } on operator,
    /// Slots have joined, and the running job is stopped to use them.
    RescaleDecided { job: Name, from: u32, to: u32 } on job,
    RestoreStarted { subtask: Name, checkpoint: CheckpointId, attempt: AttemptId } on subtask,
    PartRestoredLocally { subtask: Name, checkpoint: CheckpointId, part: String, bytes: u64 } on subtask,
    LocalPartRejected { subtask: Name, checkpoint: CheckpointId, part: String, reason: String } on subtask,
    PartRestoredFromPrimary { subtask: Name, checkpoint: CheckpointId, part: String, bytes: u64 } on subtask,
    RestorePartLost { subtask: Name, checkpoint: CheckpointId, part: String, reason: String } on subtask,
    RestoreFinished { subtask: Name, checkpoint: CheckpointId, attempt: AttemptId, local_parts: u32, primary_parts: u32 } on subtask,
    /// The subtask runs. Inline bytes came with its deployment.
    SubtaskRestored { subtask: Name, attempt: AttemptId, local_bytes: u64, primary_bytes: u64, inline_bytes: u64, read_us: u64, open_us: u64, connect_us: u64 } on subtask,
    /// The execution that made a failure good has completed a checkpoint; the phases, in microseconds, sum to the whole.
    RecoveryFinished {
        job: Name, attempt: AttemptId, checkpoint: Option<CheckpointId>, cause: String, failed_attempts: u32, subtasks: u32,
        local_bytes: u64, primary_bytes: u64, inline_bytes: u64, not_local: Vec<(String, u64)>, whole_us: u64,
        detect_us: u64, cancel_us: u64, delay_us: u64, choose_us: u64, schedule_us: u64, read_us: u64, open_us: u64,
        connect_us: u64, catch_up_us: u64,
    } on job,
    DatabaseOpened { subtask: Name, operator: Name, attempt: AttemptId } on subtask,
    /// So many values of a restored state were of an older structure of their type, and were encoded anew.
    StateUpgraded { subtask: Name, operator: Name, state: String, values: u64 } on subtask,
    DatabaseMetric { operator: Name, state: String, metric: String, value: u64 } on operator,
    CheckpointCondemned { checkpoint: CheckpointId, reason: String } on checkpoint,
    RecoveryImpossible { job: Name, tried: String } on job,
    ReplayMarkerEmitted { subtask: Name, epoch: CheckpointId } on subtask,
    ReplayEpochVerified { epoch: CheckpointId } on epoch,
    ReplayMismatch { epoch: CheckpointId, sink: String } on epoch,
    ReplayFinished { job: Name, attempt: AttemptId } on job,
    // ---- sinks and the store
    SinkPrecommitted { subtask: Name, checkpoint: CheckpointId, objects: u32, records: u64 } on subtask,
    SinkCommitted { sink: Name, checkpoint: CheckpointId, objects: u32 } on sink,
    SinkVoided { sink: Name, checkpoint: CheckpointId } on sink,
    ObjectCreated { object: String, bytes: u64 } on object,
    ObjectDeleted { object: String } on object,
    /// What was left of an upload in pieces was removed.
    UploadDiscarded { object: String } on object,
    OrphanSwept { object: String } on object,
    PrimaryRetried { object: String, operation: String, error: String } on object,
    // ---- deliberate faults (`crate::sabotage`)
    /// The wrong code ran, and it made a difference.
    PlantedBugRan { bug: Name } on bug,
    // ---- the runtime's own assertions
    AssertionBroken { assertion: Name, detail: String } on assertion,
}

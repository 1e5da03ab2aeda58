//! Faults as data: what is done, to whom, when, for how long.

use runtime::{journal::EventKind, state::BackendKind};
use serde::{Deserialize, Serialize};

/// The target that stands for the process whose event fired the trigger.
pub const EMITTER: &str = "emitter";
/// The target that stands for the entity of the event that fired the trigger (a channel, for barrier events).
pub const ENTITY: &str = "entity";
/// The target of faults of the primary store.
pub const STORE: &str = "store";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultSpec {
    /// A process (`tm-2`, `jobmanager`, `emitter`), a channel (`read[0]->count[1]`, `entity`), or `store`.
    pub target: String,
    pub trigger: Trigger,
    /// How long it lasts, for faults that last. Everything ends at the plan's `healed_by_ms` at the latest.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub duration_ms: u64,
    pub fault: FaultKind,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Trigger {
    /// At a time after the start of the run.
    AtMs(u64),
    /// At the `ordinal`-th event (from 1) of a kind, counted per entity if one is given, else over all.
    On {
        #[serde(with = "event_kind")]
        event: EventKind,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        entity: Option<String>,
        ordinal: u32,
        /// So much later; zero means synchronously, inside the event.
        #[serde(default, skip_serializing_if = "is_zero")]
        delay_ms: u64,
    },
}

/// One end of a partition cannot hear the other, or neither can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    Both,
    /// What the target sends does not reach the peer.
    TargetToPeer,
    PeerToTarget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Damage {
    Missing,
    /// Cut to half its length.
    Torn,
    /// One byte flipped.
    Corrupt,
    /// Holds what the same file of an older checkpoint holds: a lost write, a restored backup.
    Stale,
    /// Holds what the same file of another subtask holds: a misdirected write, a mixed-up directory.
    Foreign,
    /// Cut to nothing.
    Empty,
    /// The last byte is cut off.
    Truncated,
    /// One bit flipped.
    BitFlipped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskOperation {
    Create,
    Write,
    Sync,
    Read,
    Rename,
    /// Of a file or of a whole directory.
    Remove,
    List,
    SyncDirectory,
    /// Of a file that native code has written, on its way to primary storage.
    NativeRead,
    /// Of a file for native code, on its way back.
    NativeWrite,
    /// Files of a native checkpoint are linked, or copied, into a local copy.
    Adopt,
    DatabaseOpen,
    DatabaseFlush,
    DatabaseCompact,
    DatabaseCheckpoint,
}

impl DiskOperation {
    /// Without it there is no snapshot of a database, or no database.
    pub fn is_native(self) -> bool {
        match self {
            DiskOperation::NativeRead
            | DiskOperation::NativeWrite
            | DiskOperation::DatabaseOpen
            | DiskOperation::DatabaseFlush
            | DiskOperation::DatabaseCompact
            | DiskOperation::DatabaseCheckpoint => true,
            // Adopted files are a local copy's.
            DiskOperation::Adopt
            | DiskOperation::Create
            | DiskOperation::Write
            | DiskOperation::Sync
            | DiskOperation::Read
            | DiskOperation::Rename
            | DiskOperation::Remove
            | DiskOperation::List
            | DiskOperation::SyncDirectory => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskErrorKind {
    InputOutput,
    NoSpace,
    /// Permission denied.
    Denied,
    /// The file disappears while it is being read. Only files of local copies.
    Vanished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreOperation {
    Create,
    /// A piece of an object that is uploaded in pieces, and the beginning of that.
    Upload,
    Read,
    List,
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreErrorKind {
    /// Refused; nothing happened.
    ErrorBefore,
    /// It happened, and the answer is an error.
    ErrorAfter,
    /// No answer, and nothing happened.
    TimeoutBefore,
    /// No answer, but it happened.
    TimeoutAfter,
}

/// What a reader gets instead of the bytes it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadDamage {
    /// Fewer bytes, as a store may always do.
    Short,
    /// One bit is wrong; the object itself is whole.
    Corrupt,
}

/// Which object of a completed checkpoint is destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectChoice {
    /// A state part; the `index`-th of the fault, modulo how many there are.
    Part,
    Metadata,
    /// One that later checkpoints refer to as well, perhaps, and earlier ones. Whatever refers to it is lost with it.
    Shared,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum FaultKind {
    /// A process dies; the files of its machine stay. Without a restart it stays dead.
    Crash {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restart_after_ms: Option<u64>,
    },
    /// The machine of a process goes silent and its disk is gone. With a restart an empty machine takes its place.
    LoseMachine {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restart_after_ms: Option<u64>,
    },
    /// A process stands still for the duration, then goes on as if nothing had been.
    Freeze {},
    /// The power of the machine of a process fails: its processes end without a word, what of its disk was not synced is kept,
    /// lost or torn by chance at that instant, the rest stays. With a restart it boots again.
    PowerLoss {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restart_after_ms: Option<u64>,
    },
    /// A TaskManager is not there from the start but joins so much later, or never. The trigger is `at_ms = 0`.
    JoinLate {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_ms: Option<u64>,
    },
    /// The JobManager stands still for the duration (or, `isolated`, goes on but hears no TaskManager and is heard by none,
    /// while it still reaches the store). So much later a second one is started on a machine of its own, and the service's
    /// address leads new connections to it. When the first one comes back, two contend for the job; after `contend_ms` more
    /// the second is taken away again and the address leads back.
    SecondJobManager { isolated: bool, takeover_after_ms: u64, contend_ms: u64 },
    /// All processes are stopped at once, and started so much later with the job at another parallelism: what somebody does who
    /// scales a job. The target is the JobManager.
    Rescale { parallelism: u32, restart_after_ms: u64 },
    /// Somebody asks for a savepoint: a client connects to the JobManager, which is the target. Not a fault, but it comes when it will.
    Savepoint {},
    /// Somebody asks for a savepoint with which the job is to end. Once the job has ended so, all processes are stopped, and started
    /// so much later with a new job that begins with the savepoint, at this parallelism and, if given, with another backend. If the
    /// savepoint fails the job goes on, and nothing more comes of it.
    StopAndResume {
        parallelism: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        backend: Option<BackendKind>,
        /// What goes on is the next version of the job, in which types of its state have grown; so are all that follow. (Of the
        /// workloads, `states` has one.)
        #[serde(default, skip_serializing_if = "super::model::is_default")]
        next_version: bool,
        restart_after_ms: u64,
    },
    /// A TaskManager may hold only so much more memory than it does at that moment, for the duration. If it needs more (in
    /// state, uploads and what it has not read yet) it is killed, and restarted so much later.
    MemoryLimit { headroom_bytes: u64, restart_after_ms: u64 },
    /// All machines of a rack lose their power at once; their disks keep what was durable, or are gone. The target is the
    /// rack's name, its members are processes.
    LoseRack {
        members: Vec<String>,
        keep_disks: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restart_after_ms: Option<u64>,
    },
    /// All machines of a rack are cut off from all others for the duration; among themselves they talk.
    CutRack { members: Vec<String> },
    /// Every connection between target and peer is reset, once: what was under way is lost, both are told. A firewall
    /// that lost its tables does that.
    ResetConnections { peer: String },
    /// Every connection between target and peer ends for the target alone. The peer believes that it lives; what it sends is
    /// swallowed for the duration and then answered with a reset. Connections made later work.
    HalfOpen { peer: String },
    /// Everything between target and peer takes up to so much longer for the duration, each batch by chance.
    JitterStorm { peer: String, up_to_ms: u64 },
    /// The bandwidth between target and peer is so many times smaller for the duration.
    BandwidthCollapse { peer: String, divided_by: u32 },
    /// The link between target and peer is cut and mended by turns for the duration.
    FlappingLink { peer: String, down_ms: u64, up_ms: u64 },
    /// The next `count` control messages from target to peer, of which one is the JobManager, are delivered twice, the second
    /// time so much later. TCP does not do that: it stands for a relay between the two (a proxy, a sidecar, a message bus)
    /// that passed a message on, missed the acknowledgement and passes it on again. Data channels have no such relay.
    DuplicateMessages { peer: String, count: u32, delay_ms: u64 },
    /// The control connection of a TaskManager delivers nothing for the duration, in neither direction, and then everything:
    /// the messages are late, in order, and the connection never breaks.
    LateMessages {},
    /// Target and peer cannot hear each other for the duration.
    Partition { peer: String, side: Side },
    /// A channel delivers nothing for the duration.
    HoldChannel {},
    /// A channel delivers so much later for the duration.
    SlowChannel { extra_ms: u64 },
    /// Files of local copies on the target's machine are damaged: of the newest checkpoint there, or of all.
    LocalFiles { damage: Damage, files: u32, newest_only: bool },
    /// One file of the newest local copy on the target's machine is damaged, by its name. `copy`: the directory of the subtask
    /// whose copy it is, `vtx_1_sti_0`.
    LocalFile { copy: String, file: String, damage: Damage },
    /// The next `count` operations on what has this in its path fail, on the disk of the target's machine.
    LocalFileErrors { path_contains: String, operation: DiskOperation, error: DiskErrorKind, count: u32 },
    /// Table files (SST) of databases in local copies are damaged, of the newest checkpoint there.
    LocalTables { damage: Damage, files: u32 },
    /// No byte can be added to the disk of the target's machine for the duration.
    DiskFull {},
    /// The next `count` operations on the disk of the target's machine fail.
    DiskErrors { operation: DiskOperation, error: DiskErrorKind, count: u32 },
    /// The next `count` operations of the store on objects whose name contains a text fail.
    StoreErrors { operation: StoreOperation, name_contains: String, error: StoreErrorKind, count: u32 },
    /// The disk of the target's machine takes so many times as long for everything, for the duration.
    SlowDisk { factor: u32 },
    /// The disk of the target's machine finishes nothing that is begun during the duration before its end.
    StalledDisk {},
    /// The local state of the target's machine lies on a device of its own from now on: links and renames do not cross.
    SeparateDevice {},
    /// The next `count` operations of the store are refused: too many requests, come back after so much.
    StoreThrottled { operation: StoreOperation, name_contains: String, retry_after_ms: u64, count: u32 },
    /// The next `count` operations of the store arrive so much later, perhaps after the client has given up.
    StoreSlow { operation: StoreOperation, name_contains: String, delay_ms: u64, count: u32 },
    /// The next `count` reads of the store give something else than was wanted.
    StoreReads { damage: ReadDamage, name_contains: String, count: u32 },
    /// What is deleted during the duration can still be listed and read for so long.
    LingeringDeletes { linger_ms: u64 },
    /// The wall clock of the target's machine jumps by so much, and back at the end of the duration.
    ClockJump { by_ms: i64 },
    /// The wall clock of the target's machine is wrong by so much for the duration, which begins with the run: the trigger is
    /// `at_ms = 0`.
    ClockSkew { by_ms: i64 },
    /// The clocks of the target's machine gain, or lose, so many microseconds in each second of the duration. They never go
    /// backwards.
    ClockDrift { parts_per_million: i64 },
    /// The store refuses everything for the duration.
    StoreOutage {},
    /// An object of the newest completed checkpoint vanishes from the store.
    LoseObject { object: ObjectChoice, index: u32 },
    /// An object of the newest completed checkpoint changes in the store.
    CorruptObject { object: ObjectChoice, index: u32 },
}

/// What the coverage table counts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultClass {
    CrashTaskManager,
    CrashJobManager,
    LoseMachine,
    Freeze,
    PartitionBoth,
    PartitionOneWay,
    HoldChannel,
    SlowChannel,
    LocalMissing,
    LocalTorn,
    LocalCorrupt,
    DiskFull,
    DiskError,
    StoreErrorBefore,
    StoreErrorAfter,
    StoreTimeout,
    StoreOutage,
    LostObject,
    CorruptObject,
    UserPanic,
    UserError,
    StoreThrottled,
    StoreSlow,
    StoreShortRead,
    StoreCorruptRead,
    StoreLingeringDelete,
    LocalStale,
    LocalForeign,
    DiskDenied,
    DiskVanished,
    DiskSlow,
    DiskStall,
    SeparateDevice,
    PowerLoss,
    ConnectionReset,
    HalfOpen,
    JitterStorm,
    BandwidthCollapse,
    FlappingLink,
    DuplicateMessage,
    LateMessage,
    ClockJump,
    ClockSkew,
    ClockDrift,
    FreezeJobManager,
    JoinLate,
    LoseRack,
    CutRack,
    TwoLeaders,
    OutOfMemory,
    Savepoint,
    StopAndResume,
    Rescale,
    UploadError,
    LostShared,
    CorruptShared,
    DatabaseError,
    DatabaseFull,
    NativeFileError,
    LocalTable,
}

impl FaultClass {
    pub const ALL: &'static [FaultClass] = &[
        FaultClass::CrashTaskManager,
        FaultClass::CrashJobManager,
        FaultClass::LoseMachine,
        FaultClass::Freeze,
        FaultClass::PartitionBoth,
        FaultClass::PartitionOneWay,
        FaultClass::HoldChannel,
        FaultClass::SlowChannel,
        FaultClass::LocalMissing,
        FaultClass::LocalTorn,
        FaultClass::LocalCorrupt,
        FaultClass::DiskFull,
        FaultClass::DiskError,
        FaultClass::StoreErrorBefore,
        FaultClass::StoreErrorAfter,
        FaultClass::StoreTimeout,
        FaultClass::StoreOutage,
        FaultClass::LostObject,
        FaultClass::CorruptObject,
        FaultClass::UserPanic,
        FaultClass::UserError,
        FaultClass::StoreThrottled,
        FaultClass::StoreSlow,
        FaultClass::StoreShortRead,
        FaultClass::StoreCorruptRead,
        FaultClass::StoreLingeringDelete,
        FaultClass::LocalStale,
        FaultClass::LocalForeign,
        FaultClass::DiskDenied,
        FaultClass::DiskVanished,
        FaultClass::DiskSlow,
        FaultClass::DiskStall,
        FaultClass::SeparateDevice,
        FaultClass::PowerLoss,
        FaultClass::ConnectionReset,
        FaultClass::HalfOpen,
        FaultClass::JitterStorm,
        FaultClass::BandwidthCollapse,
        FaultClass::FlappingLink,
        FaultClass::DuplicateMessage,
        FaultClass::LateMessage,
        FaultClass::ClockJump,
        FaultClass::ClockSkew,
        FaultClass::ClockDrift,
        FaultClass::FreezeJobManager,
        FaultClass::JoinLate,
        FaultClass::LoseRack,
        FaultClass::CutRack,
        FaultClass::TwoLeaders,
        FaultClass::OutOfMemory,
        FaultClass::Savepoint,
        FaultClass::StopAndResume,
        FaultClass::Rescale,
        FaultClass::UploadError,
        FaultClass::LostShared,
        FaultClass::CorruptShared,
        FaultClass::DatabaseError,
        FaultClass::DatabaseFull,
        FaultClass::NativeFileError,
        FaultClass::LocalTable,
    ];

    /// All but the change of parallelism, and what only databases, shared objects and uploads in pieces meet. An epoch can only be
    /// replayed at the parallelism that recorded it: beside the loss of checkpoints, a change of it makes recoveries impossible that
    /// would be possible without.
    pub const OF_ONE_SHAPE: &'static [FaultClass] = match Self::ALL {
        [
            rest @ ..,
            FaultClass::Rescale,
            FaultClass::UploadError,
            FaultClass::LostShared,
            FaultClass::CorruptShared,
            FaultClass::DatabaseError,
            FaultClass::DatabaseFull,
            FaultClass::NativeFileError,
            FaultClass::LocalTable,
        ] => rest,
        _ => panic!("the classes for few profiles are the last ones"),
    };

    /// Whether it is an act of the job's owner. Those are drawn beside the faults, so that a seed has the same faults with them and
    /// without.
    pub fn is_of_the_owner(self) -> bool {
        matches!(self, FaultClass::Savepoint | FaultClass::StopAndResume)
    }

    pub fn name(self) -> &'static str {
        match self {
            FaultClass::CrashTaskManager => "crash-task-manager",
            FaultClass::CrashJobManager => "crash-job-manager",
            FaultClass::LoseMachine => "lose-machine",
            FaultClass::Freeze => "freeze",
            FaultClass::PartitionBoth => "partition-both",
            FaultClass::PartitionOneWay => "partition-one-way",
            FaultClass::HoldChannel => "hold-channel",
            FaultClass::SlowChannel => "slow-channel",
            FaultClass::LocalMissing => "local-missing",
            FaultClass::LocalTorn => "local-torn",
            FaultClass::LocalCorrupt => "local-corrupt",
            FaultClass::DiskFull => "disk-full",
            FaultClass::DiskError => "disk-error",
            FaultClass::StoreErrorBefore => "store-error-before",
            FaultClass::StoreErrorAfter => "store-error-after",
            FaultClass::StoreTimeout => "store-timeout",
            FaultClass::StoreOutage => "store-outage",
            FaultClass::LostObject => "lost-object",
            FaultClass::CorruptObject => "corrupt-object",
            FaultClass::UserPanic => "user-panic",
            FaultClass::UserError => "user-error",
            FaultClass::StoreThrottled => "store-throttled",
            FaultClass::StoreSlow => "store-slow",
            FaultClass::StoreShortRead => "store-short-read",
            FaultClass::StoreCorruptRead => "store-corrupt-read",
            FaultClass::StoreLingeringDelete => "store-lingering-delete",
            FaultClass::LocalStale => "local-stale",
            FaultClass::LocalForeign => "local-foreign",
            FaultClass::DiskDenied => "disk-denied",
            FaultClass::DiskVanished => "disk-vanished",
            FaultClass::DiskSlow => "disk-slow",
            FaultClass::DiskStall => "disk-stall",
            FaultClass::SeparateDevice => "separate-device",
            FaultClass::PowerLoss => "power-loss",
            FaultClass::ConnectionReset => "connection-reset",
            FaultClass::HalfOpen => "half-open",
            FaultClass::JitterStorm => "jitter-storm",
            FaultClass::BandwidthCollapse => "bandwidth-collapse",
            FaultClass::FlappingLink => "flapping-link",
            FaultClass::DuplicateMessage => "duplicate-message",
            FaultClass::LateMessage => "late-message",
            FaultClass::ClockJump => "clock-jump",
            FaultClass::ClockSkew => "clock-skew",
            FaultClass::ClockDrift => "clock-drift",
            FaultClass::FreezeJobManager => "freeze-job-manager",
            FaultClass::JoinLate => "join-late",
            FaultClass::LoseRack => "lose-rack",
            FaultClass::CutRack => "cut-rack",
            FaultClass::TwoLeaders => "two-leaders",
            FaultClass::OutOfMemory => "out-of-memory",
            FaultClass::Savepoint => "savepoint",
            FaultClass::StopAndResume => "stop-and-resume",
            FaultClass::Rescale => "rescale",
            FaultClass::UploadError => "upload-error",
            FaultClass::LostShared => "lost-shared-object",
            FaultClass::CorruptShared => "corrupt-shared-object",
            FaultClass::DatabaseError => "database-error",
            FaultClass::DatabaseFull => "database-full",
            FaultClass::NativeFileError => "native-file-error",
            FaultClass::LocalTable => "local-table",
        }
    }
}

impl FaultSpec {
    /// The class it counts as. An `emitter` that turns out to be the JobManager is recorded by the nemesis as what it was.
    pub fn class(&self) -> FaultClass {
        match &self.fault {
            FaultKind::Crash { .. } if self.target == super::model::JOB_MANAGER => FaultClass::CrashJobManager,
            FaultKind::Crash { .. } => FaultClass::CrashTaskManager,
            FaultKind::LoseMachine { .. } => FaultClass::LoseMachine,
            FaultKind::Freeze {} if self.target == super::model::JOB_MANAGER => FaultClass::FreezeJobManager,
            FaultKind::Freeze {} => FaultClass::Freeze,
            FaultKind::PowerLoss { .. } => FaultClass::PowerLoss,
            FaultKind::JoinLate { .. } => FaultClass::JoinLate,
            FaultKind::LoseRack { .. } => FaultClass::LoseRack,
            FaultKind::CutRack { .. } => FaultClass::CutRack,
            FaultKind::MemoryLimit { .. } => FaultClass::OutOfMemory,
            FaultKind::SecondJobManager { .. } => FaultClass::TwoLeaders,
            FaultKind::Rescale { .. } => FaultClass::Rescale,
            FaultKind::Savepoint {} => FaultClass::Savepoint,
            FaultKind::StopAndResume { .. } => FaultClass::StopAndResume,
            FaultKind::ResetConnections { .. } => FaultClass::ConnectionReset,
            FaultKind::HalfOpen { .. } => FaultClass::HalfOpen,
            FaultKind::JitterStorm { .. } => FaultClass::JitterStorm,
            FaultKind::BandwidthCollapse { .. } => FaultClass::BandwidthCollapse,
            FaultKind::FlappingLink { .. } => FaultClass::FlappingLink,
            FaultKind::DuplicateMessages { .. } => FaultClass::DuplicateMessage,
            FaultKind::LateMessages {} => FaultClass::LateMessage,
            FaultKind::Partition { side: Side::Both, .. } => FaultClass::PartitionBoth,
            FaultKind::Partition { .. } => FaultClass::PartitionOneWay,
            FaultKind::HoldChannel {} => FaultClass::HoldChannel,
            FaultKind::SlowChannel { .. } => FaultClass::SlowChannel,
            FaultKind::LocalFiles { damage, .. } | FaultKind::LocalFile { damage, .. } => match damage {
                Damage::Missing => FaultClass::LocalMissing,
                Damage::Torn | Damage::Empty | Damage::Truncated => FaultClass::LocalTorn,
                Damage::Corrupt | Damage::BitFlipped => FaultClass::LocalCorrupt,
                Damage::Stale => FaultClass::LocalStale,
                Damage::Foreign => FaultClass::LocalForeign,
            },
            FaultKind::DiskFull {} => FaultClass::DiskFull,
            FaultKind::LocalTables { .. } => FaultClass::LocalTable,
            FaultKind::DiskErrors {
                operation:
                    DiskOperation::DatabaseOpen
                    | DiskOperation::DatabaseFlush
                    | DiskOperation::DatabaseCompact
                    | DiskOperation::DatabaseCheckpoint,
                error,
                ..
            } => match error {
                DiskErrorKind::NoSpace => FaultClass::DatabaseFull,
                _ => FaultClass::DatabaseError,
            },
            FaultKind::DiskErrors {
                operation: DiskOperation::NativeRead | DiskOperation::NativeWrite | DiskOperation::Adopt,
                ..
            } => FaultClass::NativeFileError,
            FaultKind::DiskErrors { error, .. } | FaultKind::LocalFileErrors { error, .. } => match error {
                DiskErrorKind::Denied => FaultClass::DiskDenied,
                DiskErrorKind::Vanished => FaultClass::DiskVanished,
                DiskErrorKind::InputOutput | DiskErrorKind::NoSpace => FaultClass::DiskError,
            },
            FaultKind::SlowDisk { .. } => FaultClass::DiskSlow,
            FaultKind::StalledDisk {} => FaultClass::DiskStall,
            FaultKind::SeparateDevice {} => FaultClass::SeparateDevice,
            FaultKind::StoreThrottled { .. } => FaultClass::StoreThrottled,
            FaultKind::StoreSlow { .. } => FaultClass::StoreSlow,
            FaultKind::StoreReads { damage: ReadDamage::Short, .. } => FaultClass::StoreShortRead,
            FaultKind::StoreReads { damage: ReadDamage::Corrupt, .. } => FaultClass::StoreCorruptRead,
            FaultKind::LingeringDeletes { .. } => FaultClass::StoreLingeringDelete,
            FaultKind::ClockJump { .. } => FaultClass::ClockJump,
            FaultKind::ClockSkew { .. } => FaultClass::ClockSkew,
            FaultKind::ClockDrift { .. } => FaultClass::ClockDrift,
            FaultKind::StoreErrors { operation: StoreOperation::Upload, .. } => FaultClass::UploadError,
            FaultKind::StoreErrors { error: StoreErrorKind::ErrorBefore, .. } => FaultClass::StoreErrorBefore,
            FaultKind::StoreErrors { error: StoreErrorKind::ErrorAfter, .. } => FaultClass::StoreErrorAfter,
            FaultKind::StoreErrors { .. } => FaultClass::StoreTimeout,
            FaultKind::StoreOutage {} => FaultClass::StoreOutage,
            FaultKind::LoseObject { object: ObjectChoice::Shared, .. } => FaultClass::LostShared,
            FaultKind::CorruptObject { object: ObjectChoice::Shared, .. } => FaultClass::CorruptShared,
            FaultKind::LoseObject { .. } => FaultClass::LostObject,
            FaultKind::CorruptObject { .. } => FaultClass::CorruptObject,
        }
    }
}

/// Event kinds by name, with an error that a person can act on instead of a list of seventy names.
pub(crate) mod event_kind {
    use runtime::journal::EventKind;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(kind: &EventKind, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(kind.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EventKind, D::Error> {
        let name = String::deserialize(deserializer)?;
        EventKind::ALL.iter().copied().find(|kind| kind.name() == name).ok_or_else(|| {
            let lower = name.to_lowercase();
            let near = EventKind::ALL.iter().map(|kind| kind.name()).find(|candidate| {
                let candidate = candidate.to_lowercase();
                candidate.starts_with(&lower) || lower.starts_with(&candidate) || candidate.contains(&lower)
            });
            match near.filter(|_| !lower.is_empty()) {
                Some(near) => D::Error::custom(format!("no event kind is called {name:?}; did you mean {near:?}?")),
                None => D::Error::custom(format!("no event kind is called {name:?}")),
            }
        })
    }
}

//! Profiles: which faults and features the swarm may turn on, what a sweep must have reached before it may call itself a
//! sweep, and the floor below which its speed is worth nothing.

use runtime::journal::EventKind::{self, *};

use super::faults::FaultClass::{self, *};

/// Whether a feature is always on, always off, or drawn per seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    Off,
    Drawn,
    On,
}

/// What the runs of a profile must hold, by median.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    pub task_managers: u64,
    pub subtasks: u64,
    pub records: u64,
    pub completed_checkpoints: u64,
    pub fired_faults: u64,
    pub restores: u64,
    /// Of 100 runs, so many restore from an older checkpoint than the newest.
    pub older_restores_percent: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    pub name: &'static str,
    pub about: &'static str,
    pub faults: &'static [FaultClass],
    /// Those of `faults` that are turned on more rarely, so that many kinds of faults do not make runs of nothing but faults.
    pub rare: &'static [FaultClass],
    pub local_recovery: Switch,
    /// From so many runs on, every fault of `faults` fired and every phase was reached, or the sweep is blind.
    pub minimum_seeds: u64,
    pub phases: &'static [EventKind],
    pub floor: Floor,
}

const FULL_FLOOR: Floor = Floor {
    task_managers: 3,
    subtasks: 8,
    records: 1_000,
    completed_checkpoints: 10,
    fired_faults: 3,
    restores: 1,
    older_restores_percent: 5,
};

const NO_FALLBACK_FLOOR: Floor = Floor { older_restores_percent: 0, ..FULL_FLOOR };

/// Reached by every job that runs to its end without a fault.
const QUIET_PHASES: &[EventKind] = &[
    ProcessStarted,
    LeaderElected,
    TaskManagerRegistered,
    SlotAllocated,
    JobStateChanged,
    TaskDeployed,
    TaskStateChanged,
    ChannelConnected,
    SourceExhausted,
    CheckpointTriggered,
    BarrierEmitted,
    BarrierSent,
    BarrierReceived,
    AlignmentStarted,
    AlignmentEnded,
    SnapshotSyncDone,
    SnapshotAsyncStarted,
    PartUploaded,
    SnapshotAsyncDone,
    CheckpointAcked,
    MetadataWritten,
    CheckpointCompleted,
    CheckpointNotified,
    TaskNotifiedComplete,
    CheckpointSubsumed,
    CheckpointDiscarded,
    SinkPrecommitted,
    SinkCommitted,
];

const RECOVERY_PHASES: &[EventKind] = &[
    CheckpointTriggered,
    AlignmentStarted,
    CheckpointCompleted,
    CheckpointAborted,
    TaskManagerLost,
    RestoreChosen,
    RestoreStarted,
    RestoreFinished,
    PartRestoredFromPrimary,
    SinkCommitted,
];

const RESCALE_PHASES: &[EventKind] = &[
    SavepointTriggered,
    SavepointCompleted,
    SavepointFailed,
    SavepointReleased,
    StateImported,
    CheckpointCompleted,
    RestoreChosen,
    OperatorRescaled,
    RestoreStarted,
    PartRestoredFromPrimary,
    RestoreFinished,
    TaskNotifiedComplete,
    SinkCommitted,
];

const REACTIVE_PHASES: &[EventKind] = &[
    CheckpointCompleted,
    TaskManagerLost,
    SlotsOffered,
    RescaleDecided,
    RestoreChosen,
    OperatorRescaled,
    RestoreStarted,
    PartRestoredFromPrimary,
    RestoreFinished,
    TaskNotifiedComplete,
    SinkCommitted,
];

const ROCKSDB_PHASES: &[EventKind] = &[
    DatabaseOpened,
    CheckpointCompleted,
    CheckpointSubsumed,
    CheckpointDiscarded,
    LocalCopyStored,
    RestoreChosen,
    RestoreStarted,
    PartRestoredLocally,
    PartRestoredFromPrimary,
    RestoreFinished,
    TaskNotifiedComplete,
    SinkCommitted,
];

const FALLBACK_PHASES: &[EventKind] = &[
    CheckpointCompleted,
    RestoreChosen,
    RestoreStarted,
    RestoreFinished,
    PartRestoredFromPrimary,
    RestorePartLost,
    CheckpointCondemned,
    ReplayMarkerEmitted,
    ReplayEpochVerified,
    ReplayFinished,
    SinkCommitted,
];

const LOCAL_PHASES: &[EventKind] = &[
    CheckpointCompleted,
    LocalPartStored,
    LocalPartFailed,
    LocalCopyStored,
    LocalCopyFailed,
    LocalCopyConfirmed,
    LocalCopyDiscarded,
    RestoreChosen,
    RestoreStarted,
    PartRestoredLocally,
    LocalPartRejected,
    PartRestoredFromPrimary,
    RestoreFinished,
];

const DEFAULT_PHASES: &[EventKind] = &[
    ProcessStarted,
    LeaderElected,
    TaskManagerRegistered,
    TaskManagerLost,
    SlotAllocated,
    JobStateChanged,
    TaskDeployed,
    TaskStateChanged,
    ChannelConnected,
    SourceExhausted,
    CheckpointTriggered,
    BarrierEmitted,
    BarrierSent,
    BarrierReceived,
    AlignmentStarted,
    AlignmentEnded,
    AlignmentAborted,
    SnapshotSyncDone,
    SnapshotAsyncStarted,
    PartUploaded,
    SnapshotAsyncDone,
    CheckpointAcked,
    MetadataWritten,
    CheckpointCompleted,
    CheckpointAborted,
    CheckpointExpired,
    CheckpointSubsumed,
    CheckpointDiscarded,
    CheckpointNotified,
    TaskNotifiedComplete,
    TaskNotifiedAborted,
    LocalPartStored,
    LocalCopyStored,
    LocalCopyConfirmed,
    LocalCopyDiscarded,
    RestoreChosen,
    RestoreStarted,
    PartRestoredLocally,
    LocalPartRejected,
    PartRestoredFromPrimary,
    RestorePartLost,
    RestoreFinished,
    CheckpointCondemned,
    ReplayMarkerEmitted,
    ReplayEpochVerified,
    ReplayFinished,
    SinkPrecommitted,
    SinkCommitted,
    SinkVoided,
    PrimaryRetried,
];

/// One of these is on in most runs of the default profile, but seldom many.
const RARE: &[FaultClass] = &[
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
];

pub const DEFAULT: Profile = Profile {
    name: "default",
    about: "every fault and every feature, turned on and off per seed",
    faults: FaultClass::OF_ONE_SHAPE,
    rare: RARE,
    local_recovery: Switch::Drawn,
    minimum_seeds: 200,
    phases: DEFAULT_PHASES,
    floor: FULL_FLOOR,
};

pub const ALL: &[Profile] = &[
    DEFAULT,
    Profile {
        name: "quiet",
        about: "no fault at all",
        faults: &[],
        rare: &[],
        local_recovery: Switch::Drawn,
        minimum_seeds: 4,
        phases: QUIET_PHASES,
        floor: Floor { fired_faults: 0, restores: 0, older_restores_percent: 0, ..FULL_FLOOR },
    },
    Profile {
        name: "local-recovery",
        about: "local copies: kept, missing, torn, corrupt, stale, mixed up, refused, denied or delayed by the disk",
        faults: &[
            CrashTaskManager,
            LoseMachine,
            Freeze,
            LocalMissing,
            LocalTorn,
            LocalCorrupt,
            FaultClass::DiskFull,
            DiskError,
            LocalStale,
            LocalForeign,
            DiskDenied,
            DiskVanished,
            DiskSlow,
            DiskStall,
            SeparateDevice,
            PowerLoss,
        ],
        rare: &[DiskSlow, SeparateDevice],
        local_recovery: Switch::On,
        minimum_seeds: 100,
        phases: LOCAL_PHASES,
        floor: NO_FALLBACK_FLOOR,
    },
    Profile {
        name: "fallback",
        about: "objects of completed checkpoints lost and corrupted, so that older checkpoints are restored",
        faults: &[CrashTaskManager, CrashJobManager, LoseMachine, LostObject, FaultClass::CorruptObject],
        rare: &[],
        local_recovery: Switch::Off,
        minimum_seeds: 60,
        phases: FALLBACK_PHASES,
        floor: Floor { older_restores_percent: 40, ..FULL_FLOOR },
    },
    Profile {
        name: "store",
        about: "errors, ambiguous outcomes, timeouts, throttling, bad reads, late deletions and outages of the primary store",
        faults: &[
            CrashTaskManager,
            CrashJobManager,
            StoreErrorBefore,
            StoreErrorAfter,
            StoreTimeout,
            FaultClass::StoreOutage,
            UserError,
            StoreThrottled,
            StoreSlow,
            StoreShortRead,
            StoreCorruptRead,
            StoreLingeringDelete,
        ],
        rare: &[],
        local_recovery: Switch::Drawn,
        minimum_seeds: 80,
        phases: &[
            CheckpointCompleted,
            CheckpointAborted,
            PrimaryRetried,
            RestoreChosen,
            RestoreFinished,
            SinkCommitted,
        ],
        floor: NO_FALLBACK_FLOOR,
    },
    Profile {
        name: "network",
        about: "partitions, flapping, slow and held links, resets, half-open connections, messages twice and late",
        faults: &[
            CrashTaskManager,
            Freeze,
            PartitionBoth,
            PartitionOneWay,
            FaultClass::HoldChannel,
            FaultClass::SlowChannel,
            UserPanic,
            ConnectionReset,
            HalfOpen,
            JitterStorm,
            BandwidthCollapse,
            FlappingLink,
            DuplicateMessage,
            LateMessage,
        ],
        rare: &[],
        local_recovery: Switch::Drawn,
        minimum_seeds: 80,
        phases: RECOVERY_PHASES,
        floor: NO_FALLBACK_FLOOR,
    },
    Profile {
        name: "clocks",
        about: "clocks that jump, differ and drift, beside crashes and freezes that make them matter",
        faults: &[CrashTaskManager, CrashJobManager, Freeze, PartitionBoth, ClockJump, ClockSkew, ClockDrift],
        rare: &[],
        local_recovery: Switch::Drawn,
        minimum_seeds: 80,
        phases: RECOVERY_PHASES,
        floor: NO_FALLBACK_FLOOR,
    },
    Profile {
        name: "processes",
        about: "whole processes, machines and racks: crashed, frozen, without power, late, out of memory, cut off together, two leaders",
        faults: &[
            CrashTaskManager,
            CrashJobManager,
            LoseMachine,
            Freeze,
            FreezeJobManager,
            PowerLoss,
            JoinLate,
            LoseRack,
            CutRack,
            TwoLeaders,
            OutOfMemory,
        ],
        rare: &[],
        local_recovery: Switch::Drawn,
        minimum_seeds: 80,
        phases: RECOVERY_PHASES,
        floor: NO_FALLBACK_FLOOR,
    },
    Profile {
        name: "rescale",
        about: "the job is stopped and started at another parallelism, once or several times, from checkpoints and from savepoints, \
                beside crashes and bad disks",
        faults: &[
            Rescale,
            CrashTaskManager,
            CrashJobManager,
            LoseMachine,
            Freeze,
            PartitionBoth,
            LocalMissing,
            LocalCorrupt,
            StoreErrorBefore,
            StoreErrorAfter,
            StoreTimeout,
            StoreShortRead,
            UserError,
            Savepoint,
            StopAndResume,
        ],
        rare: &[],
        local_recovery: Switch::Drawn,
        minimum_seeds: 80,
        phases: RESCALE_PHASES,
        floor: NO_FALLBACK_FLOOR,
    },
    Profile {
        name: "reactive",
        about: "the job takes what slots there are: TaskManagers join late, leave for good, die and come back",
        faults: &[
            JoinLate,
            LoseMachine,
            CrashTaskManager,
            CrashJobManager,
            Freeze,
            PartitionBoth,
            LocalMissing,
            LocalCorrupt,
            StoreErrorBefore,
            StoreErrorAfter,
            StoreTimeout,
            UserError,
            TwoLeaders,
        ],
        rare: &[TwoLeaders],
        local_recovery: Switch::Drawn,
        minimum_seeds: 100,
        phases: REACTIVE_PHASES,
        floor: Floor { subtasks: 4, ..NO_FALLBACK_FLOOR },
    },
    Profile {
        name: "rocksdb",
        about: "working state in RocksDB, full and incremental snapshots, with crashes, bad local copies and a bad store",
        faults: &[
            CrashTaskManager,
            CrashJobManager,
            LoseMachine,
            LocalMissing,
            LocalTorn,
            LocalCorrupt,
            LostObject,
            FaultClass::CorruptObject,
            FaultClass::DiskFull,
            DiskError,
            SeparateDevice,
            StoreErrorBefore,
            StoreErrorAfter,
            StoreTimeout,
            StoreSlow,
            FaultClass::StoreOutage,
            StoreShortRead,
            UserError,
        ],
        rare: &[DiskError, SeparateDevice, CrashJobManager, LoseMachine, StoreErrorAfter, StoreShortRead, UserError],
        local_recovery: Switch::Drawn,
        minimum_seeds: 150,
        phases: ROCKSDB_PHASES,
        floor: Floor { subtasks: 4, ..NO_FALLBACK_FLOOR },
    },
    Profile {
        name: "incremental",
        about: "checkpoints that refer to what earlier ones wrote, beside crashes, store errors and two leaders",
        faults: &[
            CrashTaskManager,
            CrashJobManager,
            LoseMachine,
            Freeze,
            PartitionBoth,
            FaultClass::HoldChannel,
            StoreErrorBefore,
            StoreErrorAfter,
            StoreTimeout,
            FaultClass::StoreOutage,
            LocalMissing,
            LocalCorrupt,
            UserError,
            TwoLeaders,
        ],
        rare: &[TwoLeaders],
        local_recovery: Switch::Drawn,
        minimum_seeds: 80,
        phases: RECOVERY_PHASES,
        floor: NO_FALLBACK_FLOOR,
    },
];

/// In how many of 100 seeds a class is on.
const USUAL_PERCENT: u64 = 28;
const RARE_PERCENT: u64 = 9;

impl Profile {
    /// In how many of 100 seeds `class` is on.
    pub fn percent(&self, class: FaultClass) -> u64 {
        match class {
            CrashTaskManager => 75,
            Rescale => 95,
            JoinLate | LoseMachine if self.name == "reactive" => 65,
            Savepoint if self.name == "rescale" => 60,
            StopAndResume if self.name == "rescale" => 45,
            Savepoint => 12,
            StopAndResume => 8,
            _ if self.rare.contains(&class) => RARE_PERCENT,
            _ => USUAL_PERCENT,
        }
    }

    /// In how many of 100 seeds working state lives in RocksDB.
    pub fn rocksdb_percent(&self) -> u64 {
        match self.name {
            "rocksdb" => 100,
            "rescale" => 20,
            _ => 0,
        }
    }

    pub fn named(name: &str) -> Option<&'static Profile> {
        ALL.iter().find(|profile| profile.name == name)
    }

    /// All names, for messages.
    pub fn names() -> String {
        ALL.iter().map(|profile| profile.name).collect::<Vec<_>>().join(", ")
    }
}

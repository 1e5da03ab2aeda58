//! Faults as data: what is done, to whom, when, for how long.

use runtime::journal::EventKind;
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskOperation {
    Create,
    Write,
    Sync,
    Read,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskErrorKind {
    InputOutput,
    NoSpace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreOperation {
    Create,
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

/// Which object of a completed checkpoint is destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectChoice {
    /// A state part; the `index`-th of the fault, modulo how many there are.
    Part,
    Metadata,
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
    /// Target and peer cannot hear each other for the duration.
    Partition { peer: String, side: Side },
    /// A channel delivers nothing for the duration.
    HoldChannel {},
    /// A channel delivers so much later for the duration.
    SlowChannel { extra_ms: u64 },
    /// Files of local copies on the target's machine are damaged: of the newest checkpoint there, or of all.
    LocalFiles { damage: Damage, files: u32, newest_only: bool },
    /// No byte can be added to the disk of the target's machine for the duration.
    DiskFull {},
    /// The next `count` operations on the disk of the target's machine fail.
    DiskErrors { operation: DiskOperation, error: DiskErrorKind, count: u32 },
    /// The next `count` operations of the store on objects whose name contains a text fail.
    StoreErrors { operation: StoreOperation, name_contains: String, error: StoreErrorKind, count: u32 },
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
    ];

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
            FaultKind::Freeze {} => FaultClass::Freeze,
            FaultKind::Partition { side: Side::Both, .. } => FaultClass::PartitionBoth,
            FaultKind::Partition { .. } => FaultClass::PartitionOneWay,
            FaultKind::HoldChannel {} => FaultClass::HoldChannel,
            FaultKind::SlowChannel { .. } => FaultClass::SlowChannel,
            FaultKind::LocalFiles { damage: Damage::Missing, .. } => FaultClass::LocalMissing,
            FaultKind::LocalFiles { damage: Damage::Torn, .. } => FaultClass::LocalTorn,
            FaultKind::LocalFiles { damage: Damage::Corrupt, .. } => FaultClass::LocalCorrupt,
            FaultKind::DiskFull {} => FaultClass::DiskFull,
            FaultKind::DiskErrors { .. } => FaultClass::DiskError,
            FaultKind::StoreErrors { error: StoreErrorKind::ErrorBefore, .. } => FaultClass::StoreErrorBefore,
            FaultKind::StoreErrors { error: StoreErrorKind::ErrorAfter, .. } => FaultClass::StoreErrorAfter,
            FaultKind::StoreErrors { .. } => FaultClass::StoreTimeout,
            FaultKind::StoreOutage {} => FaultClass::StoreOutage,
            FaultKind::LoseObject { .. } => FaultClass::LostObject,
            FaultKind::CorruptObject { .. } => FaultClass::CorruptObject,
        }
    }
}

/// Event kinds by name, with an error that a person can act on instead of a list of seventy names.
mod event_kind {
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

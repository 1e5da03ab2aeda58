//! What a plan holds. Every field has a unit in its name and is written out in TOML, so that a plan can be read and edited
//! without this file at hand. No field is optional by accident: a default that quietly means "none" hides a missing fault.

use std::{collections::BTreeMap, time::Duration};

use runtime::{sabotage::Sabotage, state::BackendKind};
use serde::{Deserialize, Serialize};

use super::faults::FaultSpec;

/// The version of the plan format written by this build, and the only one it reads.
pub const PLAN_VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub version: u32,
    /// Seeds the run: the input, what a fault picks, and the schedule. At most 2^63-1, which is TOML's limit.
    pub seed: u64,
    /// Seeds the schedule alone (latencies, jitter, which task goes first, the runtime's own entropy); `seed` if not given. The
    /// same input and the same faults under another schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_seed: Option<u64>,
    pub profile: String,
    /// All faults end here: whatever is still broken is mended, and nothing is broken any more.
    pub healed_by_ms: u64,
    /// The run is stopped here, in simulated time; a job that has not finished by then is stalled.
    pub time_limit_ms: u64,
    /// Deliberate defects of the runtime, by name. Such a run must fail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sabotage: Vec<Sabotage>,
    /// Another schedule from one event on: what was, stays; what comes is drawn anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reseed: Option<Reseed>,
    pub cluster: ClusterShape,
    pub settings: Settings,
    pub network: LinkSettings,
    pub disk: DiskSettings,
    pub store: StoreSettings,
    /// State is so many times as large as it is: reading and writing it takes as long as if it were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modelled: Option<ModelledState>,
    pub workload: WorkloadPlan,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FaultSpec>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reseed {
    /// Up to and including this event (counted from 0) the run is the one without a reseed.
    pub after_event: u64,
    pub seed: u64,
}

impl Plan {
    /// A network, disks and a store without delays worth naming, in the place of those that were drawn.
    pub fn run_on_quick_machines(&mut self) {
        self.network = LinkSettings {
            latency: Span { min_us: 100, max_us: 300 },
            jitter_us: 20,
            bytes_per_second: 100_000_000,
            window_bytes: 65_536,
            dead_peer_timeout_ms: 4_000,
        };
        self.disk = DiskSettings {
            latency: Span { min_us: 50, max_us: 200 },
            bytes_per_second: 100_000_000,
            capacity_bytes: 1 << 30,
        };
        self.store = StoreSettings { latency: Span { min_us: 1_000, max_us: 4_000 }, bytes_per_second: 100_000_000 };
    }

    /// The seed of the schedule.
    pub fn schedule(&self) -> u64 {
        self.schedule_seed.unwrap_or(self.seed)
    }
}

/// Processes are named `jobmanager` and `tm-1`, `tm-2`, …; each runs on a machine of its own, `machine-<process>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterShape {
    pub task_managers: u32,
    pub slots: u32,
}

impl ClusterShape {
    pub fn task_manager_names(&self) -> impl Iterator<Item = String> + use<> {
        (1..=self.task_managers).map(|n| format!("tm-{n}"))
    }

    pub fn process_names(&self) -> impl Iterator<Item = String> + use<> {
        std::iter::once(JOB_MANAGER.to_string()).chain(self.task_manager_names())
    }
}

pub const JOB_MANAGER: &str = "jobmanager";

/// The JobManager that a plan may put beside the first one for a while.
/// Who asks for savepoints.
pub const CLIENT: &str = "client";
pub const SECOND_JOB_MANAGER: &str = "jobmanager-2";

/// The machine a process runs on.
pub fn machine_of(process: &str) -> String {
    format!("machine-{process}")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FallbackBehindCommit {
    Replay,
    Fail,
    Duplicate,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub checkpoint_interval_ms: u64,
    pub checkpoint_timeout_ms: u64,
    pub min_pause_ms: u64,
    pub max_concurrent: u32,
    pub retained: u32,
    /// Consecutive failed checkpoints that are tolerated; none given = any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerable_failures: Option<u32>,
    pub heartbeat_interval_ms: u64,
    pub heartbeat_timeout_ms: u64,
    pub restart_delay_ms: u64,
    /// So many restarts are allowed; none given = any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_attempts: Option<u32>,
    pub fallback_behind_commit: FallbackBehindCommit,
    pub local_recovery: bool,
    /// Local copies lie in so many configured directories by turns. 0: in the usual place.
    #[serde(default, skip_serializing_if = "is_default")]
    pub local_roots: u32,
    /// Local copies are kept in memory, at most so many bytes on each TaskManager. 0: they are files.
    #[serde(default, skip_serializing_if = "is_default")]
    pub local_memory_bytes: u64,
    pub parts_per_snapshot: u32,
    pub buffer_bytes: u32,
    pub buffer_timeout_ms: u64,
    pub channel_window_bytes: u32,
    pub source_batch_records: u32,
    pub store_operation_timeout_ms: u64,
    pub store_total_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    /// Where working state lives.
    #[serde(default, skip_serializing_if = "is_default")]
    pub backend: BackendKind,
    /// A checkpoint writes only what the last confirmed one does not have.
    #[serde(default, skip_serializing_if = "is_default")]
    pub incremental: bool,
    /// Parts of at most so many bytes travel with the acknowledgement. 0: none does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub small_state_threshold_bytes: u64,
    /// State is uploaded and downloaded in pieces of so many bytes. 0: of as many as in production, which none of this is as large as.
    #[serde(default, skip_serializing_if = "is_default")]
    pub transfer_piece_bytes: u64,
    /// Key groups of full snapshots are compressed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compression: bool,
    /// Tasks that have no slot from before go where the least is used; else TaskManagers are filled one after the other.
    #[serde(default, skip_serializing_if = "is_default")]
    pub spread_out_slots: bool,
    /// The job takes what slots there are, and is rescaled when they become more or fewer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reactive: bool,
    /// A reactive job is started, or rescaled, on slots that have been the same for so long.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stabilization_ms: u64,
    /// A running reactive job is not rescaled so soon after it was started.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cooldown_ms: u64,
    /// With working state in RocksDB: timers are there too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timers_in_rocksdb: bool,
    /// With working state in RocksDB: compaction drops what has expired.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ttl_compaction_filter: bool,
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A range of microseconds, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    pub min_us: u64,
    pub max_us: u64,
}

impl Span {
    pub fn minimum(self) -> Duration {
        Duration::from_micros(self.min_us)
    }

    pub fn maximum(self) -> Duration {
        Duration::from_micros(self.max_us)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSettings {
    pub latency: Span,
    pub jitter_us: u64,
    pub bytes_per_second: u64,
    pub window_bytes: u64,
    /// A connection whose peer has been silent for so long while data is unacknowledged is reset.
    pub dead_peer_timeout_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSettings {
    pub latency: Span,
    pub bytes_per_second: u64,
    pub capacity_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSettings {
    pub latency: Span,
    pub bytes_per_second: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelledState {
    pub times: u64,
    /// The link of each process to the store, each way, is shared by its requests. 0: it is not.
    pub link_bytes_per_second: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadPlan {
    pub name: String,
    pub records: u64,
    pub keys: u64,
    pub splits: u32,
    pub parallelism: u32,
    /// Over all source subtasks together.
    pub records_per_second: u64,
    /// Switches of the workload's own, such as `user_panic_at`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, u64>,
}

/// Workload parameter: the user function panics once, at this record (counted over the whole job).
pub const USER_PANIC_AT: &str = "user_panic_at";
/// Workload parameter: the user function returns an error once, at this record.
pub const USER_ERROR_AT: &str = "user_error_at";

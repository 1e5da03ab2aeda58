//! Settings of a cluster. Flink's names and defaults where Flink has the setting.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::elasticity::ElasticityConfig;
use crate::{
    checkpoint::coordinator::CoordinatorConfig, dataflow::task::TaskSettings, ids::JobId,
    recovery::choice::FallbackBehindCommit, sabotage::SabotageSet,
};

/// When checkpoints are taken and how long they are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointConfig {
    /// `execution.checkpointing.interval`.
    pub interval: Duration,
    /// `execution.checkpointing.min-pause`.
    pub min_pause: Duration,
    /// `execution.checkpointing.timeout`.
    pub timeout: Duration,
    /// `execution.checkpointing.max-concurrent-checkpoints`.
    pub max_concurrent: u32,
    /// `execution.checkpointing.num-retained`.
    pub retained: u32,
    /// `execution.checkpointing.tolerable-failed-checkpoints`; None: any number.
    pub tolerable_failures: Option<u32>,
    /// `state.backend.jobmanager.max-total-size`.
    pub inline_state_budget_bytes: u64,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig {
            interval: Duration::from_secs(10),
            min_pause: Duration::ZERO,
            timeout: Duration::from_secs(600),
            max_concurrent: 1,
            retained: 1,
            tolerable_failures: None,
            inline_state_budget_bytes: 1 << 30,
        }
    }
}

impl CheckpointConfig {
    /// The coordinator's own form of it.
    pub fn coordinator(&self, job: JobId, job_name: String, sabotage: SabotageSet) -> CoordinatorConfig {
        CoordinatorConfig {
            job,
            job_name,
            interval: self.interval,
            min_pause: self.min_pause,
            timeout: self.timeout,
            max_concurrent: self.max_concurrent,
            retained: self.retained,
            tolerable_failures: self.tolerable_failures,
            inline_state_budget_bytes: self.inline_state_budget_bytes,
            sabotage,
        }
    }
}

/// Everything a JobManager needs to know; what concerns the subtasks travels with their deployment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// `heartbeat.interval`.
    pub heartbeat_interval: Duration,
    /// `heartbeat.timeout`: a silent peer is given up after it.
    pub heartbeat_timeout: Duration,
    /// `restart-strategy.fixed-delay.delay`.
    pub restart_delay: Duration,
    /// `restart-strategy.fixed-delay.attempts`; None: without limit.
    pub restart_attempts: Option<u32>,
    /// Tasks that do not stop within it cost their TaskManager its registration.
    pub cancellation_timeout: Duration,
    /// `slot.request.timeout`: the job fails if it cannot get its slots within it.
    pub slot_request_timeout: Duration,
    /// `cluster.evenly-spread-out-slots`: tasks without a slot of their own go where the least is used, instead of filling one
    /// TaskManager after the other.
    pub evenly_spread_out_slots: bool,
    /// Whether and when the parallelism follows the slots.
    pub elasticity: ElasticityConfig,
    /// How long a restart waits for TaskManagers that may still hold previous allocations before it takes other slots.
    pub slot_return_grace: Duration,
    /// Pause between attempts to reach the JobManager or to become leader.
    pub reconnect_delay: Duration,
    pub checkpoint: CheckpointConfig,
    /// `execution.checkpointing.savepoint-dir` (`state.savepoints.dir`): where savepoints go for which no target is named. None: one
    /// must be named.
    pub savepoint_directory: Option<String>,
    /// `recovery.fallback-behind-commit`.
    pub fallback_behind_commit: FallbackBehindCommit,
    pub task: TaskSettings,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        ClusterConfig {
            heartbeat_interval: Duration::from_secs(10),
            heartbeat_timeout: Duration::from_secs(50),
            restart_delay: Duration::ZERO,
            restart_attempts: None,
            cancellation_timeout: Duration::from_secs(180),
            slot_request_timeout: Duration::from_secs(300),
            evenly_spread_out_slots: false,
            elasticity: ElasticityConfig::default(),
            slot_return_grace: Duration::from_millis(500),
            reconnect_delay: Duration::from_millis(200),
            checkpoint: CheckpointConfig::default(),
            savepoint_directory: None,
            fallback_behind_commit: FallbackBehindCommit::Replay,
            task: TaskSettings::default(),
        }
    }
}

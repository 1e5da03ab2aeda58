//! The configuration that shrinking goes towards: a small, healthy cluster in which a job without faults ends well and faults show
//! within seconds. Not the runtime's own defaults: with a heartbeat timeout of a minute the same faults would mean something else.

use runtime::state::BackendKind;

use crate::plan::{FallbackBehindCommit, Plan, Profile, Settings, generate};

/// Only its settings, network, disk, store and (absent) parameters of the workload count.
pub fn baseline() -> Plan {
    let mut plan = generate(Profile::named("quiet").unwrap_or(&crate::plan::profile::DEFAULT), 0);
    plan.workload.parameters.clear();
    plan.settings = Settings {
        checkpoint_interval_ms: 500,
        checkpoint_timeout_ms: 3_000,
        min_pause_ms: 0,
        max_concurrent: 1,
        retained: 3,
        tolerable_failures: None,
        heartbeat_interval_ms: 200,
        heartbeat_timeout_ms: 1_500,
        restart_delay_ms: 50,
        restart_attempts: None,
        fallback_behind_commit: FallbackBehindCommit::Replay,
        local_recovery: false,
        local_roots: 0,
        local_memory_bytes: 0,
        parts_per_snapshot: 1,
        buffer_bytes: 256,
        buffer_timeout_ms: 5,
        channel_window_bytes: 1_024,
        source_batch_records: 16,
        store_operation_timeout_ms: 500,
        store_total_timeout_ms: 4_000,
        connect_timeout_ms: 1_000,
        backend: BackendKind::default(),
        incremental: false,
        small_state_threshold_bytes: 0,
        transfer_piece_bytes: 0,
        compression: false,
        spread_out_slots: false,
        reactive: false,
        stabilization_ms: 0,
        cooldown_ms: 0,
        timers_in_rocksdb: false,
        ttl_compaction_filter: false,
    };
    plan.run_on_quick_machines();
    plan
}

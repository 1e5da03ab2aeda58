//! How long a recovery takes with state of a size that nobody has at hand: the state is small, and the store and the disks charge
//! for so many times as much. In simulated time, so that a terabyte is measured in seconds.

use std::sync::{Arc, Mutex};

use reports::RunRecord;
use runtime::{
    journal::{Event, EventKind},
    recovery::restore_report::{RecoveryPhase, RecoveryReport},
};

use crate::{
    exhaust::local_matrix::{Setup, base},
    plan::{ClusterShape, FaultKind, FaultSpec, ModelledState, Plan, Trigger},
    record::{Observer, Story},
    run::run_plan,
};

/// The link to primary storage of each machine: 1 Gbit/s.
pub const LINK_BYTES_PER_SECOND: u64 = 125_000_000;
/// A local disk of today (NVMe).
pub const DISK_BYTES_PER_SECOND: u64 = 3_500_000_000;
/// So many machines share the state.
const MACHINES: u32 = 2;
/// The process that dies is back after this.
const COMEBACK_MS: u64 = 500;

/// One measured recovery.
#[derive(Clone, Debug)]
pub struct Measured {
    pub setup: Setup,
    /// Of all subtasks together.
    pub state_bytes: u64,
    pub report: RecoveryReport,
}

impl Measured {
    /// Seconds from the failure until everything runs again.
    pub fn seconds_until_running(&self) -> f64 {
        (self.report.whole() - self.report.phase(RecoveryPhase::CatchUp)).as_secs_f64()
    }
}

#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Vec<Event>>>);

impl Observer for Listener {
    fn event(&mut self, story: &Story<'_>) {
        let kinds = [EventKind::RecoveryFinished, EventKind::SubtaskRestored];
        if kinds.contains(&story.event.kind())
            && let Ok(mut events) = self.0.lock()
        {
            events.push(story.event.clone());
        }
    }
}

/// Two TaskManagers with half of the state each, of which one process dies after the first checkpoint, and comes back on its
/// disk. `seconds`: how long a transfer of all state takes at most.
fn plan(setup: Setup, times: u64, seconds: u64, local: bool) -> Plan {
    let mut plan = base(7, setup);
    plan.cluster = ClusterShape { task_managers: MACHINES, slots: 1 };
    plan.workload.parallelism = MACHINES;
    plan.workload.splits = MACHINES;
    let day_ms = 86_000_000;
    let settings = &mut plan.settings;
    settings.local_recovery = local;
    settings.checkpoint_interval_ms = 10_000;
    settings.checkpoint_timeout_ms = day_ms;
    settings.store_operation_timeout_ms = day_ms;
    settings.store_total_timeout_ms = day_ms;
    settings.heartbeat_interval_ms = 5_000;
    settings.heartbeat_timeout_ms = 20_000;
    plan.network.dead_peer_timeout_ms = 60_000;
    // The store itself is no bottleneck.
    plan.store.bytes_per_second = 1 << 40;
    plan.disk.bytes_per_second = DISK_BYTES_PER_SECOND;
    plan.modelled = Some(ModelledState { times, link_bytes_per_second: LINK_BYTES_PER_SECOND });
    // There is input until the checkpoint after the recovery is complete.
    plan.workload.records_per_second = 1;
    plan.workload.records = 60 + 4 * seconds;
    let (event, delay_ms) = (EventKind::CheckpointCompleted, 1_000);
    plan.faults = vec![FaultSpec {
        target: "tm-1".to_string(),
        trigger: Trigger::On { event, entity: None, ordinal: 1, delay_ms },
        duration_ms: 0,
        fault: FaultKind::Crash { restart_after_ms: Some(COMEBACK_MS) },
    }];
    plan.healed_by_ms = plan.workload.records * 1_000 + 60_000;
    plan.time_limit_ms = plan.healed_by_ms + 4 * seconds * 1_000 + 120_000;
    plan
}

fn run(plan: &Plan) -> Result<(RunRecord, Vec<Event>), String> {
    let listener = Listener::default();
    let record = run_plan(plan, Box::new(listener.clone())).map_err(|error| error.to_string())?;
    if record.verdict.is_failure() {
        let why = record.message.clone().unwrap_or_else(|| record.verdict.name().to_string());
        return Err(format!("the run is not clean: {why}\n{}", plan.to_toml()));
    }
    let events = listener.0.lock().map(|mut events| std::mem::take(&mut *events)).unwrap_or_default();
    Ok((record, events))
}

/// What all subtasks restored together.
fn restored_bytes(events: &[Event]) -> u64 {
    let bytes = events.iter().filter_map(|event| match event {
        Event::SubtaskRestored { local_bytes, primary_bytes, .. } => Some(local_bytes + primary_bytes),
        _ => None,
    });
    bytes.sum()
}

/// Measures the recovery of about `state_bytes` of state, from local copies or from primary.
///
/// # Errors
/// If a run is not clean, or nothing was recovered in it.
pub fn recovery(setup: Setup, state_bytes: u64, local: bool) -> Result<Measured, String> {
    let (_, events) = run(&plan(setup, 1, 10, local))?;
    let real = restored_bytes(&events);
    if real == 0 {
        return Err("nothing was restored".to_string());
    }
    let times = (state_bytes / real).max(1);
    let seconds = real * times / u64::from(MACHINES) / LINK_BYTES_PER_SECOND * 3 / 2 + 10;
    let (_, events) = run(&plan(setup, times, seconds, local))?;
    let report = events.iter().find_map(RecoveryReport::of_event).ok_or("no recovery was finished")?;
    Ok(Measured { setup, state_bytes: restored_bytes(&events) * times, report })
}

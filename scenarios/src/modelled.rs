//! How long a recovery takes with state of a size that nobody has at hand, and what the second copy costs until then: the state is
//! small, and the store and the disks charge for so many times as much. In simulated time, so that a terabyte is measured in seconds.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use reports::RunRecord;
use runtime::{
    ids::CheckpointId,
    journal::{Event, EventKind},
    recovery::restore_report::{RecoveryPhase, RecoveryReport},
};

use sim::{DiskOperation, World};

use crate::{
    cluster_runner::{Jobs, start_cluster, world_config},
    exhaust::local_matrix::{Setup, base},
    plan::{ClusterShape, FaultKind, FaultSpec, ModelledState, Plan, Trigger, model::machine_of},
    record::{Observer, Story},
    run::run_plan,
    workloads::WorkloadParams,
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

/// What the checkpoints of one run without faults cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    pub checkpoints: u64,
    /// Of a checkpoint, from its trigger until it is complete: the median.
    pub checkpoint_seconds: f64,
    /// Written to primary storage.
    pub primary_bytes: u64,
    /// Written to the local disks, by copies of state and what belongs to them.
    pub local_bytes: u64,
    /// The most that local copies held at any time that nobody else held: what they cost in disk space.
    pub space_bytes: u64,
    /// Records of input per second, to the end of the job.
    pub records_per_second: f64,
}

/// What the events of a run say of its checkpoints.
#[derive(Default)]
struct Checkpoints {
    triggered: BTreeMap<CheckpointId, f64>,
    seconds: Vec<f64>,
    primary_bytes: u64,
    /// By subtask and checkpoint.
    copies: BTreeMap<(String, CheckpointId), u64>,
    /// Of native copies, by subtask: the rest of what they hold is the database's own.
    exclusive: BTreeMap<String, u64>,
    space_bytes: u64,
}

impl Checkpoints {
    fn event(&mut self, setup: Setup, at: f64, event: &Event) {
        match event {
            Event::CheckpointTriggered { checkpoint, .. } => drop(self.triggered.insert(*checkpoint, at)),
            Event::CheckpointCompleted { checkpoint, .. } => {
                self.seconds.extend(self.triggered.get(checkpoint).map(|triggered| at - triggered));
            }
            Event::PartUploaded { bytes, .. } => self.primary_bytes += bytes,
            Event::LocalPartStored { subtask, checkpoint, bytes, .. } if setup != Setup::RocksDbIncremental => {
                *self.copies.entry((subtask.clone(), *checkpoint)).or_default() += bytes;
            }
            Event::LocalCopyDiscarded { subtask, checkpoint, .. } => {
                self.copies.remove(&(subtask.clone(), *checkpoint));
                self.exclusive.remove(subtask);
            }
            Event::LocalCopiesExclusive { subtask, bytes, .. } => drop(self.exclusive.insert(subtask.clone(), *bytes)),
            _ => return,
        }
        let held = match setup {
            Setup::RocksDbIncremental => self.exclusive.values().sum(),
            _ => self.copies.values().sum(),
        };
        self.space_bytes = self.space_bytes.max(held);
    }
}

/// Measures checkpoints of about `state_bytes` of state, with local copies or without.
///
/// # Errors
/// If the run comes to no end, or completes no checkpoint.
pub fn checkpoints(setup: Setup, state_bytes: u64, local: bool) -> Result<Cost, String> {
    let per_checkpoint = |cost: &Cost| cost.primary_bytes / cost.checkpoints.max(1);
    let times = (state_bytes / per_checkpoint(&cost(setup, 1, 0, false)?).max(1)).max(1);
    let seconds = state_bytes / u64::from(MACHINES) / LINK_BYTES_PER_SECOND * 3 / 2;
    cost(setup, times, seconds, local)
}

fn cost(setup: Setup, times: u64, seconds: u64, local: bool) -> Result<Cost, String> {
    let mut plan = plan(setup, times, seconds, local);
    plan.faults.clear();
    let params = WorkloadParams::of_plan(&plan.workload, plan.seed).map_err(|error| error.to_string())?;
    let limit = Duration::from_millis(plan.time_limit_ms);
    let outcome = sim::run(world_config(&plan), move |world| {
        Box::pin(async move { run_to_its_end(&world, &plan, &params, setup, times, limit).await })
    });
    outcome.value.map_err(|error| format!("the world broke: {error:?}"))?
}

async fn run_to_its_end(
    world: &World,
    plan: &Plan,
    params: &WorkloadParams,
    setup: Setup,
    times: u64,
    limit: Duration,
) -> Result<Cost, String> {
    let workload = params.build().map_err(|error| error.to_string())?;
    for (path, bytes) in &workload.inputs {
        world.inputs().put(path, bytes.clone());
    }
    let seen = Rc::new(RefCell::new(Checkpoints::default()));
    let told = Rc::clone(&seen);
    let begun = world.now();
    world.set_listener(Rc::new(move |_, stamped| {
        told.borrow_mut().event(setup, (stamped.at - begun).as_secs_f64(), &stamped.event);
    }));
    let jobs = Jobs::of(plan, params, &workload.job).map_err(|error| error.to_string())?;
    let end = start_cluster(world, plan, &jobs);
    while end.lock().map_err(|_| "the job panicked")?.is_none() {
        if world.now() - begun > limit {
            return Err(format!("no end within {limit:?}"));
        }
        world.sleep(Duration::from_millis(50)).await;
    }
    let seconds = (world.now() - begun).as_secs_f64();
    let disks = (1..=MACHINES).map(|number| world.disk(&machine_of(&format!("tm-{number}"))));
    let written = |disk: sim::SimDisk| disk.moved(DiskOperation::Append) + disk.moved(DiskOperation::Adopt);
    let mut seen = seen.borrow_mut();
    seen.seconds.sort_by(f64::total_cmp);
    let median = seen.seconds.get(seen.seconds.len() / 2).copied().ok_or("no checkpoint has completed")?;
    Ok(Cost {
        checkpoints: seen.seconds.len() as u64,
        checkpoint_seconds: median,
        primary_bytes: seen.primary_bytes * times,
        local_bytes: disks.map(written).sum(),
        space_bytes: seen.space_bytes * times,
        records_per_second: plan.workload.records as f64 / seconds,
    })
}

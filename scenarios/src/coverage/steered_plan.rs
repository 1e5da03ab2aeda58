//! The plan of a steered run: the cluster, settings and input of its seed, with the faults that its goal asks for.

use runtime::journal::EventKind;

use super::{
    Path,
    steer::{Aim, Goal},
};
use crate::{
    cluster_runner::workload_of,
    phase::Phase,
    plan::{
        Damage, FaultClass, FaultKind, FaultSpec, ObjectChoice, Plan, Profile, Trigger,
        draw::Draw,
        faults::STORE,
        generate,
        model::{JOB_MANAGER, USER_ERROR_AT, USER_PANIC_AT},
        singles::{SingleFault, Sites, Strike, Victim, WITNESS_AFTER_MS, later, of_class},
    },
};

/// An event at which a job is in a phase.
struct Moment {
    event: EventKind,
    /// The JobManager emits it, not a TaskManager.
    of_job_manager: bool,
    first: u64,
    last: u64,
}

fn moment(event: EventKind, of_job_manager: bool, first: u64, last: u64) -> Moment {
    Moment { event, of_job_manager, first, last }
}

/// Events that bring a job into `phase`, or that happen in it, with the ordinals to choose from. Those of a checkpoint are
/// chosen from the fourth checkpoint on, so that there is something to go back to.
fn moments(phase: Phase) -> Vec<Moment> {
    let checkpoints = |event, of_job_manager, each: u64| moment(event, of_job_manager, 3 * each + 1, 7 * each);
    match phase {
        Phase::Start => vec![
            moment(EventKind::ProcessStarted, false, 1, 3),
            moment(EventKind::LeaderElected, true, 1, 1),
            moment(EventKind::TaskManagerRegistered, true, 1, 2),
            moment(EventKind::SlotAllocated, true, 1, 2),
        ],
        Phase::Flow => {
            vec![checkpoints(EventKind::CheckpointNotified, true, 1), moment(EventKind::TaskDeployed, false, 1, 4)]
        }
        Phase::Trigger => vec![checkpoints(EventKind::CheckpointTriggered, true, 1)],
        Phase::Align => vec![
            checkpoints(EventKind::BarrierEmitted, false, 2),
            checkpoints(EventKind::BarrierSent, false, 8),
            checkpoints(EventKind::AlignmentStarted, false, 4),
        ],
        Phase::Snapshot => vec![
            checkpoints(EventKind::SnapshotSyncDone, false, 6),
            checkpoints(EventKind::SnapshotAsyncStarted, false, 6),
            checkpoints(EventKind::PartUploaded, false, 8),
        ],
        Phase::Ack => vec![checkpoints(EventKind::CheckpointAcked, true, 6)],
        Phase::Complete => vec![checkpoints(EventKind::MetadataWritten, true, 1)],
        Phase::Commit => vec![checkpoints(EventKind::CheckpointCompleted, true, 1)],
        Phase::Failover => vec![moment(EventKind::TaskManagerLost, true, 1, 1)],
        Phase::Restore => {
            vec![moment(EventKind::RestoreChosen, true, 2, 2), moment(EventKind::RestoreStarted, false, 1, 4)]
        }
        Phase::Replay => vec![
            moment(EventKind::ReplayMarkerEmitted, false, 1, 3),
            moment(EventKind::ReplayEpochVerified, true, 1, 1),
        ],
        Phase::Takeover => vec![moment(EventKind::JobManagerLost, false, 1, 2)],
        // Of a run without a restart: RESTARTING, CREATED, RUNNING, CANCELLING, ENDING, FINISHED.
        Phase::End => vec![moment(EventKind::JobStateChanged, true, 6, 6)],
    }
}

struct Maker {
    plan: Plan,
    draw: Draw,
}

impl Maker {
    fn task_manager(&mut self) -> String {
        format!("tm-{}", self.draw.within(1, u64::from(self.plan.cluster.task_managers)))
    }

    fn at(&self, event: EventKind, ordinal: u64) -> Trigger {
        Trigger::On { event, entity: None, ordinal: u32::try_from(ordinal).unwrap_or(1), delay_ms: 0 }
    }

    fn push(&mut self, target: String, trigger: Trigger, fault: FaultKind) {
        self.plan.faults.push(FaultSpec { target, trigger, duration_ms: 0, fault });
    }

    fn crash(&mut self, target: String, trigger: Trigger) {
        let restart_after_ms = Some(self.draw.within(0, 1_000));
        self.push(target, trigger, FaultKind::Crash { restart_after_ms });
    }

    /// The newest checkpoint is destroyed.
    fn destroy(&mut self, trigger: Trigger, object: ObjectChoice) {
        self.plan.settings.retained = self.plan.settings.retained.max(3);
        self.plan.settings.local_recovery = false;
        let index = u32::try_from(self.draw.within(0, 31)).unwrap_or(0);
        self.push(STORE.to_string(), trigger, FaultKind::LoseObject { object, index });
    }

    /// What must have happened before a job can be in `phase`.
    fn open(&mut self, phase: Phase) {
        let checkpoint = self.draw.within(4, 6);
        let completed = self.at(EventKind::CheckpointCompleted, checkpoint);
        let soon = later(&completed, WITNESS_AFTER_MS);
        match phase {
            Phase::Failover | Phase::Restore => {
                let target = self.task_manager();
                self.crash(target, soon);
            }
            Phase::Replay => {
                self.destroy(completed, ObjectChoice::Part);
                let target = self.task_manager();
                self.crash(target, soon);
            }
            Phase::Takeover => self.crash(JOB_MANAGER.to_string(), soon),
            _ => {}
        }
    }

    /// What makes a job come back by `path` from a fault at `trigger`.
    fn close(&mut self, path: Path, trigger: &Trigger) {
        let soon = later(trigger, WITNESS_AFTER_MS);
        let settings = &mut self.plan.settings;
        match path {
            Path::None | Path::Older | Path::Unsettled => return,
            Path::Start => {}
            Path::Local | Path::PartlyLocal => settings.local_recovery = true,
            Path::Primary | Path::Takeover => settings.local_recovery = false,
            Path::Replay => self.destroy(trigger.clone(), ObjectChoice::Part),
            Path::TakeoverOlder => self.destroy(trigger.clone(), ObjectChoice::Metadata),
        }
        if path == Path::PartlyLocal {
            let target = self.task_manager();
            let fault = FaultKind::LocalFiles { damage: Damage::Missing, files: 1, newest_only: true };
            self.push(target, trigger.clone(), fault);
        }
        let target = match path {
            Path::Takeover | Path::TakeoverOlder => JOB_MANAGER.to_string(),
            _ => self.task_manager(),
        };
        self.crash(target, soon);
    }

    /// The names of the job's data channels.
    fn channel(&mut self) -> Result<String, String> {
        let job = workload_of(&self.plan).map_err(|e| e.to_string())?.build().map_err(|e| e.to_string())?.job;
        let graph = &job.graph;
        let mut channels = Vec::new();
        for from in graph.subtasks() {
            for edge in graph.outputs(from.vertex) {
                for to in graph.downstream(edge, from) {
                    channels.push(format!("{}->{}", graph.subtask_name(from), graph.subtask_name(to)));
                }
            }
        }
        if channels.is_empty() {
            Err("the job has no channel".to_string())
        } else {
            Ok(self.draw.pick(&channels).clone())
        }
    }

    /// Places `single` at `trigger`, which whoever `of_job_manager` says emits.
    fn place(&mut self, single: &SingleFault, trigger: &Trigger, of_job_manager: bool) -> Result<(), String> {
        if let Strike::Parameter(parameter) = single.strike {
            let record = self.draw.within(1, self.plan.workload.records);
            self.plan.workload.parameters.insert(parameter.to_string(), record);
            return Ok(());
        }
        let (victim, other) = (self.task_manager(), self.task_manager());
        let next = |name: &str| if other == *name { None } else { Some(other.clone()) };
        let is_barrier = matches!(trigger, Trigger::On { event: EventKind::BarrierSent, .. });
        let (victim, peer) = match single.victim {
            Victim::Channel if is_barrier => (String::new(), String::new()),
            Victim::Channel => (self.channel()?, String::new()),
            Victim::EmitterAndJobManager(_) | Victim::EmitterAndPeer => (victim, JOB_MANAGER.to_string()),
            Victim::EmitterAndOtherEnd(_) => {
                let peer = next(&victim).unwrap_or_else(|| JOB_MANAGER.to_string());
                (victim, peer)
            }
            _ => (victim, String::new()),
        };
        let beginning = Trigger::AtMs(0);
        let trigger = if single.sites == Sites::Beginning { &beginning } else { trigger };
        let mut specs = single.specs(&self.plan, trigger, &victim, &peer).unwrap_or_default();
        let needs_task_manager = !matches!(single.class, FaultClass::Freeze);
        let emitter_hit = matches!(single.victim, Victim::Emitter | Victim::EmitterAndOtherEnd(_));
        if let Some(first) = specs.first_mut()
            && emitter_hit
            && (of_job_manager || matches!(single.victim, Victim::EmitterAndOtherEnd(_)))
            && needs_task_manager
        {
            first.target = victim;
        }
        self.plan.faults.extend(specs);
        Ok(())
    }
}

/// The plan of `seed`, aimed at `goal`.
///
/// # Errors
/// If the seed's workload makes no job.
pub fn steered(profile: &Profile, seed: u64, goal: Goal) -> Result<Plan, String> {
    let mut plan = generate(profile, seed);
    let given = std::mem::take(&mut plan.faults);
    for parameter in [USER_PANIC_AT, USER_ERROR_AT] {
        plan.workload.parameters.remove(parameter);
    }
    let input_ms = plan.workload.records * 1_000 / plan.workload.records_per_second;
    plan.healed_by_ms = plan.healed_by_ms.max(input_ms + 4_000);
    plan.time_limit_ms = plan.healed_by_ms + 60_000;
    // Copies that nobody keeps cannot be damaged.
    if matches!(goal.class, FaultClass::LocalMissing | FaultClass::LocalTorn | FaultClass::LocalCorrupt) {
        plan.settings.local_recovery = true;
    }
    if matches!(goal.class, FaultClass::LostObject | FaultClass::CorruptObject) {
        plan.settings.retained = plan.settings.retained.max(3);
    }
    let draw = Draw::new(seed, &format!("steer/{goal}"));
    let mut maker = Maker { plan, draw };
    let singles = of_class(goal.class, &maker.plan);
    let single = maker.draw.pick(&singles).clone();
    // One fault of the seed's own besides, now and then.
    let company = maker.draw.chance(30).then(|| given.first().cloned()).flatten();
    match goal.aim {
        Aim::Phase(phase) => {
            maker.open(phase);
            let moments = moments(phase);
            let Moment { event, of_job_manager, first, last } = *maker.draw.pick(&moments);
            let ordinal = maker.draw.within(first, last);
            let trigger = maker.at(event, ordinal);
            maker.place(&single, &trigger, of_job_manager)?;
            if phase != Phase::End {
                maker.plan.faults.extend(company);
            }
        }
        Aim::Path(path) => {
            let trigger = match path {
                Path::Start => maker.at(EventKind::BarrierEmitted, 1),
                _ => {
                    let checkpoint = maker.draw.within(4, 6);
                    maker.at(EventKind::CheckpointCompleted, checkpoint)
                }
            };
            maker.place(&single, &trigger, path != Path::Start)?;
            maker.close(path, &trigger);
        }
    }
    Ok(maker.plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::profile::DEFAULT;

    #[test]
    fn every_goal_gives_a_valid_plan_that_holds_its_fault() {
        for (seed, class) in (0..).zip(FaultClass::ALL) {
            let phases = Phase::ALL.iter().map(|phase| Aim::Phase(*phase));
            for aim in phases.chain(Path::ALL.iter().map(|path| Aim::Path(*path))) {
                let goal = Goal { class: *class, aim };
                let plan = steered(&DEFAULT, seed, goal).expect("a plan");
                assert_eq!(plan.check(), Ok(()), "{goal}");
                assert_eq!(Ok(plan.clone()), steered(&DEFAULT, seed, goal), "{goal}");
                let parameters = &plan.workload.parameters;
                let by_parameter = match class {
                    FaultClass::UserPanic => parameters.contains_key(USER_PANIC_AT),
                    FaultClass::UserError => parameters.contains_key(USER_ERROR_AT),
                    _ => false,
                };
                assert!(by_parameter || plan.faults.iter().any(|fault| fault.class() == *class), "{goal}");
            }
        }
    }
}

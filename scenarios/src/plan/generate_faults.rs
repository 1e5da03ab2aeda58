//! Draws the faults of a plan. Each class has its own stream. Permanent losses never take the last slot the job needs.

use runtime::{journal::EventKind, state::BackendKind};

use super::{
    draw::Draw,
    faults::{
        Damage, DiskErrorKind, DiskOperation, EMITTER, ENTITY, FaultClass, FaultKind, FaultSpec, ObjectChoice, STORE,
        Side, StoreErrorKind, StoreOperation, Trigger,
    },
    generate::Swarm,
    model::{JOB_MANAGER, Plan},
};

/// Events in a TaskManager at which a fault is worth the most, with how often one happens per checkpoint or restart and
/// whether it needs local copies.
const TASK_MANAGER_EVENTS: &[(EventKind, u64, bool)] = &[
    (EventKind::BarrierEmitted, 2, false),
    (EventKind::BarrierReceived, 8, false),
    (EventKind::AlignmentStarted, 4, false),
    (EventKind::AlignmentEnded, 4, false),
    (EventKind::SnapshotSyncDone, 6, false),
    (EventKind::SnapshotAsyncStarted, 6, false),
    (EventKind::PartUploaded, 8, false),
    (EventKind::SnapshotAsyncDone, 6, false),
    (EventKind::SinkPrecommitted, 2, false),
    (EventKind::TaskNotifiedComplete, 6, false),
    (EventKind::LocalPartStored, 8, true),
    (EventKind::LocalCopyStored, 6, true),
    (EventKind::LocalCopyConfirmed, 6, true),
    (EventKind::RestoreStarted, 1, false),
    (EventKind::PartRestoredFromPrimary, 1, false),
    (EventKind::PartRestoredLocally, 1, true),
    (EventKind::RestoreFinished, 1, false),
    (EventKind::ReplayMarkerEmitted, 1, false),
];

/// The same for the JobManager.
const JOB_MANAGER_EVENTS: &[(EventKind, u64)] = &[
    (EventKind::CheckpointTriggered, 1),
    (EventKind::CheckpointAcked, 6),
    (EventKind::MetadataWritten, 1),
    (EventKind::CheckpointCompleted, 1),
    (EventKind::CheckpointSubsumed, 1),
    (EventKind::SinkCommitted, 1),
    (EventKind::CheckpointNotified, 1),
    (EventKind::TaskManagerLost, 1),
    (EventKind::RestoreChosen, 1),
    (EventKind::SinkVoided, 1),
    (EventKind::TaskDeployed, 4),
];

pub(super) struct Maker<'a> {
    pub plan: &'a Plan,
    pub swarm: &'a Swarm,
    pub workload_ms: u64,
    /// TaskManagers that may be lost for good.
    pub expendable: u32,
    faults: Vec<FaultSpec>,
}

pub fn faults(plan: &Plan, swarm: &Swarm, workload_ms: u64) -> Vec<FaultSpec> {
    let needed = plan.workload.parallelism.div_ceil(plan.cluster.slots);
    let spare = plan.cluster.task_managers.saturating_sub(needed);
    let expendable = match plan.settings.reactive {
        // It runs on what is left.
        true => plan.cluster.task_managers - 1,
        // A job that is scaled may come to need all slots there are.
        false if swarm.classes.contains(&FaultClass::Rescale) => 0,
        false => spare,
    };
    let mut maker = Maker { plan, swarm, workload_ms, expendable, faults: Vec::new() };
    for class in &swarm.classes {
        let mut draw = Draw::new(plan.seed, &format!("faults/{}", class.name()));
        // Few classes on: more of each, so that a run always has something to survive.
        let most = match swarm.classes.len() {
            0..=2 => 3,
            3..=4 => 2,
            _ => 1,
        };
        for _ in 0..draw.within(1, most) {
            maker.add(*class, &mut draw);
        }
    }
    for class in &swarm.of_the_owner {
        let mut draw = Draw::new(plan.seed, &format!("faults/{}", class.name()));
        for _ in 0..draw.within(1, 2) {
            maker.add(*class, &mut draw);
        }
    }
    if plan.settings.backend == BackendKind::RocksDb && plan.profile == "rocksdb" {
        maker.add_kill_between_native_steps();
    }
    maker.faults
}

impl Maker<'_> {
    pub fn push(&mut self, target: impl Into<String>, trigger: Trigger, duration_ms: u64, fault: FaultKind) {
        self.faults.push(FaultSpec { target: target.into(), trigger, duration_ms, fault });
    }

    pub fn time(&self, draw: &mut Draw) -> u64 {
        draw.within(600, self.workload_ms * 9 / 10)
    }

    pub fn task_manager(&self, draw: &mut Draw) -> String {
        format!("tm-{}", draw.within(1, u64::from(self.plan.cluster.task_managers)))
    }

    /// A TaskManager and a moment: a time, or an event of whichever process emits it.
    pub fn task_manager_moment(&self, draw: &mut Draw) -> (String, Trigger) {
        let name = self.task_manager(draw);
        let at = self.time(draw);
        let by_event = draw.chance(60);
        let (event, per_checkpoint, needs_local) = *draw.pick(TASK_MANAGER_EVENTS);
        let ordinal = draw.within(1, per_checkpoint * 8);
        if by_event && (self.swarm.local_recovery || !needs_local) {
            (EMITTER.to_string(), on(event, ordinal))
        } else {
            (name, Trigger::AtMs(at))
        }
    }

    pub fn job_manager_moment(&self, draw: &mut Draw) -> Trigger {
        let at = self.time(draw);
        let by_event = draw.chance(70);
        let (event, per_checkpoint) = *draw.pick(JOB_MANAGER_EVENTS);
        let ordinal = draw.within(1, per_checkpoint * 8);
        if by_event { on(event, ordinal) } else { Trigger::AtMs(at) }
    }

    /// When a dead TaskManager comes back; never, where its slots can be spared.
    pub fn comeback(&mut self, draw: &mut Draw) -> Option<u64> {
        let after = *draw.pick(&[0, 50, 300, 1_000, 2_500]);
        let never = draw.chance(25);
        if never && self.expendable > 0 {
            self.expendable -= 1;
            None
        } else {
            Some(after)
        }
    }

    fn add(&mut self, class: FaultClass, draw: &mut Draw) {
        let heartbeat = self.plan.settings.heartbeat_timeout_ms;
        match class {
            FaultClass::CrashTaskManager => {
                let (target, trigger) = self.task_manager_moment(draw);
                let restart_after_ms = self.comeback(draw);
                self.push(target, trigger, 0, FaultKind::Crash { restart_after_ms });
            }
            FaultClass::CrashJobManager => {
                let trigger = self.job_manager_moment(draw);
                let restart_after_ms = Some(draw.within(0, 2_000));
                self.push(JOB_MANAGER, trigger, 0, FaultKind::Crash { restart_after_ms });
            }
            FaultClass::LoseMachine => {
                let (target, trigger) = self.task_manager_moment(draw);
                let restart_after_ms = self.comeback(draw);
                self.push(target, trigger, 0, FaultKind::LoseMachine { restart_after_ms });
            }
            FaultClass::Freeze => {
                let (mut target, mut trigger) = self.task_manager_moment(draw);
                if draw.chance(20) {
                    (target, trigger) = (JOB_MANAGER.to_string(), self.job_manager_moment(draw));
                }
                // Mostly long enough to be taken for dead and to come back as a zombie.
                let short = draw.within(50, heartbeat);
                let long = heartbeat + draw.within(300, 2_500);
                let duration = if draw.chance(25) { short } else { long };
                self.push(target, trigger, duration, FaultKind::Freeze {});
            }
            FaultClass::PartitionBoth | FaultClass::PartitionOneWay => self.partition(class, draw),
            FaultClass::HoldChannel | FaultClass::SlowChannel => {
                // From the moment a barrier enters it.
                let trigger = on(EventKind::BarrierSent, draw.within(1, 60));
                let short = draw.within(100, 1_000);
                let long = self.plan.settings.checkpoint_timeout_ms + draw.within(100, 1_500);
                let duration = if draw.chance(65) { short } else { long };
                let extra_ms = draw.within(20, 600);
                let fault = if class == FaultClass::HoldChannel {
                    FaultKind::HoldChannel {}
                } else {
                    FaultKind::SlowChannel { extra_ms }
                };
                self.push(ENTITY, trigger, duration, fault);
            }
            FaultClass::LocalMissing
            | FaultClass::LocalTorn
            | FaultClass::LocalCorrupt
            | FaultClass::LocalStale
            | FaultClass::LocalForeign => self.local(class, draw),
            FaultClass::DiskFull => {
                let (target, trigger) = self.local_moment(draw);
                let duration = draw.within(300, 3_000);
                self.push(target, trigger, duration, FaultKind::DiskFull {});
            }
            FaultClass::DiskError => {
                let (target, trigger) = self.local_moment(draw);
                let operation = *draw.pick(&[
                    DiskOperation::Create,
                    DiskOperation::Write,
                    DiskOperation::Sync,
                    DiskOperation::Read,
                ]);
                let error = *draw.pick(&[DiskErrorKind::InputOutput, DiskErrorKind::NoSpace]);
                let count = u32::try_from(draw.within(1, 4)).expect("small");
                // Reads only fail with an input/output error.
                let error = if operation == DiskOperation::Read { DiskErrorKind::InputOutput } else { error };
                self.push(target, trigger, 0, FaultKind::DiskErrors { operation, error, count });
            }
            FaultClass::StoreErrorBefore | FaultClass::StoreErrorAfter | FaultClass::StoreTimeout => {
                self.store_errors(class, draw);
            }
            FaultClass::StoreOutage => {
                let trigger = Trigger::AtMs(self.time(draw));
                let duration = draw.within(100, 2_500);
                self.push(STORE, trigger, duration, FaultKind::StoreOutage {});
            }
            FaultClass::LostObject | FaultClass::CorruptObject => self.destroy_and_restore(class, draw),
            // Switches of the workload, not of the world.
            FaultClass::UserPanic | FaultClass::UserError => {}
            FaultClass::UploadError
            | FaultClass::LostShared
            | FaultClass::CorruptShared
            | FaultClass::DatabaseError
            | FaultClass::DatabaseFull
            | FaultClass::NativeFileError
            | FaultClass::LocalTable => self.add_native(class, draw),
            _ => self.add_to_world(class, draw),
        }
    }

    fn partition(&mut self, class: FaultClass, draw: &mut Draw) {
        let (target, trigger) = self.task_manager_moment(draw);
        let first = draw.within(1, u64::from(self.plan.cluster.task_managers));
        let with_job_manager = draw.chance(55);
        let peer = if with_job_manager { JOB_MANAGER.to_string() } else { format!("tm-{first}") };
        // Of two TaskManagers the second is another one; an emitter that meets itself is left out by the nemesis.
        let peer = if peer == target {
            format!("tm-{}", first % u64::from(self.plan.cluster.task_managers) + 1)
        } else {
            peer
        };
        let side = match class {
            FaultClass::PartitionBoth => Side::Both,
            _ => *draw.pick(&[Side::TargetToPeer, Side::PeerToTarget]),
        };
        let duration = draw.within(100, self.plan.settings.heartbeat_timeout_ms + 2_500);
        self.push(target, trigger, duration, FaultKind::Partition { peer, side });
    }

    /// A moment at which a disk is being used for a local copy, or any.
    pub fn local_moment(&self, draw: &mut Draw) -> (String, Trigger) {
        let name = self.task_manager(draw);
        let at = self.time(draw);
        let by_event = draw.chance(60);
        let event = *draw.pick(&[
            EventKind::SnapshotAsyncStarted,
            EventKind::LocalPartStored,
            EventKind::LocalCopyStored,
            EventKind::LocalCopyConfirmed,
            EventKind::RestoreStarted,
        ]);
        let ordinal = draw.within(1, 40);
        if by_event && self.swarm.local_recovery {
            let ordinal = if event == EventKind::RestoreStarted { ordinal % 4 + 1 } else { ordinal };
            (EMITTER.to_string(), on(event, ordinal))
        } else {
            (name, Trigger::AtMs(at))
        }
    }

    /// Damages local copies, and then makes the job restore, so that somebody looks at them.
    fn local(&mut self, class: FaultClass, draw: &mut Draw) {
        let damage = match class {
            FaultClass::LocalMissing => Damage::Missing,
            FaultClass::LocalTorn => Damage::Torn,
            FaultClass::LocalStale => Damage::Stale,
            FaultClass::LocalForeign => Damage::Foreign,
            _ => Damage::Corrupt,
        };
        let files = u32::try_from(*draw.weighted(&[(60, 1u64), (25, 2), (15, 100)])).expect("small");
        let newest_only = draw.chance(70);
        let target = self.task_manager(draw);
        let checkpoint = draw.within(2, 8);
        let victim = self.task_manager(draw);
        let at_completion = draw.chance(50);
        let at = self.time(draw);
        // Of older versions there is one only as long as the copy that the completion makes useless is still there.
        let (damaged, crashed) = if at_completion || damage == Damage::Stale {
            let completed = on(EventKind::CheckpointCompleted, checkpoint);
            (completed.clone(), completed)
        } else {
            (Trigger::AtMs(at), Trigger::AtMs(at + 20))
        };
        self.push(target, damaged, 0, FaultKind::LocalFiles { damage, files, newest_only });
        self.push(victim, crashed, 0, FaultKind::Crash { restart_after_ms: Some(draw.within(0, 500)) });
    }

    fn store_errors(&mut self, class: FaultClass, draw: &mut Draw) {
        let at = self.time(draw);
        let by_event = draw.chance(50);
        let (event, per_checkpoint) = *draw.pick(JOB_MANAGER_EVENTS);
        let ordinal = draw.within(1, per_checkpoint * 8);
        let trigger = if by_event { on(event, ordinal) } else { Trigger::AtMs(at) };
        let operation = *draw.weighted(&[
            (60, StoreOperation::Create),
            (20, StoreOperation::Read),
            (5, StoreOperation::List),
            (15, StoreOperation::Delete),
        ]);
        let name_contains = match operation {
            StoreOperation::Create => *draw.pick(&["", "ha/", "_metadata", "_committed", "/data/", "chk-"]),
            _ => "",
        };
        let after = draw.chance(50);
        let error = match class {
            FaultClass::StoreErrorBefore => StoreErrorKind::ErrorBefore,
            FaultClass::StoreErrorAfter => StoreErrorKind::ErrorAfter,
            _ if after => StoreErrorKind::TimeoutAfter,
            _ => StoreErrorKind::TimeoutBefore,
        };
        let count = u32::try_from(*draw.weighted(&[(60, 1u64), (30, 2), (10, 5)])).expect("small");
        let name_contains = name_contains.to_string();
        self.push(STORE, trigger, 0, FaultKind::StoreErrors { operation, name_contains, error, count });
    }

    /// An object of the newest completed checkpoint is destroyed, and then a TaskManager dies (or, for metadata, the
    /// JobManager, which alone reads it): recovery must find another checkpoint.
    fn destroy_and_restore(&mut self, class: FaultClass, draw: &mut Draw) {
        let index = u32::try_from(draw.within(0, 31)).expect("small");
        let object = *draw.weighted(&[(80, ObjectChoice::Part), (20, ObjectChoice::Metadata)]);
        let checkpoint = draw.within(3, 9);
        let delay_ms = *draw.pick(&[0, 0, 20, 100]);
        let victim = self.task_manager(draw);
        let restart = draw.within(0, 1_000);
        let fault = match class {
            FaultClass::LostObject => FaultKind::LoseObject { object, index },
            _ => FaultKind::CorruptObject { object, index },
        };
        self.push(STORE, on(EventKind::CheckpointCompleted, checkpoint), 0, fault);
        let victim = if object == ObjectChoice::Metadata { JOB_MANAGER.to_string() } else { victim };
        let trigger = Trigger::On {
            event: EventKind::CheckpointCompleted,
            entity: None,
            ordinal: u32::try_from(checkpoint).expect("small"),
            delay_ms,
        };
        self.push(victim, trigger, 0, FaultKind::Crash { restart_after_ms: Some(restart) });
    }
}

pub(super) fn on(event: EventKind, ordinal: u64) -> Trigger {
    Trigger::On { event, entity: None, ordinal: u32::try_from(ordinal).expect("small"), delay_ms: 0 }
}

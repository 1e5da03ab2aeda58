//! Draws the rest of the faults: those that change how the world behaves for a while, and those that hit several machines.

use runtime::{journal::EventKind, state::BackendKind};

use super::{
    draw::Draw,
    faults::{DiskErrorKind, DiskOperation, FaultClass, FaultKind, ReadDamage, STORE, StoreOperation, Trigger},
    generate_faults::{Maker, on},
    model::JOB_MANAGER,
};

/// The highest parallelism that a job is scaled to.
const MOST_RESCALED: u32 = 8;

fn small(draw: &mut Draw, low: u64, high: u64) -> u32 {
    u32::try_from(draw.within(low, high)).expect("small")
}

impl Maker<'_> {
    pub fn add_to_world(&mut self, class: FaultClass, draw: &mut Draw) {
        match class {
            FaultClass::StoreThrottled
            | FaultClass::StoreSlow
            | FaultClass::StoreShortRead
            | FaultClass::StoreCorruptRead
            | FaultClass::StoreLingeringDelete => self.store_trouble(class, draw),
            FaultClass::DiskDenied
            | FaultClass::DiskVanished
            | FaultClass::DiskSlow
            | FaultClass::DiskStall
            | FaultClass::SeparateDevice => self.disk_trouble(class, draw),
            FaultClass::ConnectionReset
            | FaultClass::HalfOpen
            | FaultClass::JitterStorm
            | FaultClass::BandwidthCollapse
            | FaultClass::FlappingLink => self.link_trouble(class, draw),
            FaultClass::DuplicateMessage | FaultClass::LateMessage => self.message_trouble(class, draw),
            FaultClass::ClockJump | FaultClass::ClockSkew | FaultClass::ClockDrift => self.clock_trouble(class, draw),
            FaultClass::PowerLoss => {
                let (target, trigger) = self.task_manager_moment(draw);
                let restart_after_ms = self.comeback(draw);
                self.push(target, trigger, 0, FaultKind::PowerLoss { restart_after_ms });
            }
            FaultClass::FreezeJobManager => {
                let trigger = self.job_manager_moment(draw);
                let heartbeat = self.plan.settings.heartbeat_timeout_ms;
                let (short, long) = (draw.within(50, heartbeat), heartbeat + draw.within(300, 2_500));
                let duration = if draw.chance(30) { short } else { long };
                self.push(JOB_MANAGER, trigger, duration, FaultKind::Freeze {});
            }
            FaultClass::JoinLate => {
                let target = self.task_manager(draw);
                let after = draw.within(500, 5_000);
                let after_ms = self.comeback(draw).map(|_| after);
                self.push(target, Trigger::AtMs(0), 0, FaultKind::JoinLate { after_ms });
            }
            FaultClass::TwoLeaders => {
                let trigger = self.job_manager_moment(draw);
                let heartbeat = self.plan.settings.heartbeat_timeout_ms;
                let duration = draw.within(300, heartbeat + 3_000);
                let (isolated, takeover_after_ms) = (draw.chance(50), draw.within(0, 1_500));
                let contend_ms = draw.within(200, 4_000);
                let fault = FaultKind::SecondJobManager { isolated, takeover_after_ms, contend_ms };
                self.push(JOB_MANAGER, trigger, duration, fault);
            }
            FaultClass::OutOfMemory => {
                let (target, at) = (self.task_manager(draw), self.time(draw));
                let (duration, restart_after_ms) = (draw.within(1_000, 6_000), draw.within(0, 1_500));
                let headroom_bytes = *draw.pick(&[0, 300, 1_500, 6_000]);
                let fault = FaultKind::MemoryLimit { headroom_bytes, restart_after_ms };
                self.push(target, Trigger::AtMs(at), duration, fault);
            }
            FaultClass::LoseRack | FaultClass::CutRack => self.rack(class, draw),
            FaultClass::Savepoint => {
                let (at, by_event) = (self.time(draw), self.job_manager_moment(draw));
                let trigger = if draw.chance(40) { by_event } else { Trigger::AtMs(at) };
                self.push(JOB_MANAGER, trigger, 0, FaultKind::Savepoint {});
            }
            FaultClass::StopAndResume => {
                // Before the end of the input there must be something left to resume.
                let at = draw.within(600, self.workload_ms * 7 / 10);
                let slots = self.plan.cluster.task_managers * self.plan.cluster.slots;
                let drawn = small(draw, 1, u64::from(slots.min(MOST_RESCALED)));
                let backends = [None, None, Some(BackendKind::Memory), Some(BackendKind::Filesystem)];
                let (backend, rocksdb) = (*draw.pick(&backends), draw.chance(10));
                let restart_after_ms = draw.within(0, 1_000);
                // Beside the loss of machines all slots may be gone but those that the job has.
                let rescaled = self.swarm.classes.contains(&FaultClass::Rescale);
                let parallelism = if rescaled { drawn } else { self.plan.workload.parallelism };
                // A database is dear to open.
                let backend = if rocksdb && parallelism <= 2 { Some(BackendKind::RocksDb) } else { backend };
                let backend = backend.filter(|backend| *backend != self.plan.settings.backend);
                let next_version = Draw::new(self.plan.seed, "faults/next-version").chance(40);
                let fault = FaultKind::StopAndResume { parallelism, backend, next_version, restart_after_ms };
                self.push(JOB_MANAGER, Trigger::AtMs(at), 0, fault);
            }
            FaultClass::Rescale => {
                let (at, by_event) = (self.time(draw), self.job_manager_moment(draw));
                let trigger = if draw.chance(50) { by_event } else { Trigger::AtMs(at) };
                let slots = self.plan.cluster.task_managers * self.plan.cluster.slots;
                let parallelism = small(draw, 1, u64::from(slots.min(MOST_RESCALED)));
                let restart_after_ms = draw.within(0, 1_000);
                self.push(JOB_MANAGER, trigger, 0, FaultKind::Rescale { parallelism, restart_after_ms });
            }
            other => unreachable!("{other:?} is drawn elsewhere"),
        }
    }

    fn store_trouble(&mut self, class: FaultClass, draw: &mut Draw) {
        let at = self.time(draw);
        let victim = self.task_manager(draw);
        let restart = draw.within(0, 500);
        let operation = *draw.weighted(&[
            (70, StoreOperation::Create),
            (15, StoreOperation::Read),
            (10, StoreOperation::List),
            (5, StoreOperation::Delete),
        ]);
        let part = *draw.pick(&["", "ha/", "_metadata", "_committed", "/data/", "chk-"]);
        let name_contains = if operation == StoreOperation::Create { part } else { "" }.to_string();
        match class {
            FaultClass::StoreThrottled => {
                let (retry_after_ms, count) = (draw.within(20, 1_500), small(draw, 1, 6));
                let fault = FaultKind::StoreThrottled { operation, name_contains, retry_after_ms, count };
                self.push(STORE, Trigger::AtMs(at), 0, fault);
            }
            FaultClass::StoreSlow => {
                // Often so late that the client has given up, and not only once.
                let (soon, late) = (draw.within(50, 400), draw.within(0, 1_500));
                let timeout = self.plan.settings.store_operation_timeout_ms;
                let delay_ms = if draw.chance(40) { soon } else { timeout + late };
                let count = small(draw, 1, 8);
                let fault = FaultKind::StoreSlow { operation, name_contains, delay_ms, count };
                self.push(STORE, Trigger::AtMs(at), 0, fault);
            }
            FaultClass::StoreLingeringDelete => {
                let (duration, linger_ms) = (draw.within(1_000, 5_000), draw.within(200, 4_000));
                self.push(STORE, Trigger::AtMs(at), duration, FaultKind::LingeringDeletes { linger_ms });
            }
            _ => {
                // Reads happen where somebody restores.
                let damage = if class == FaultClass::StoreShortRead { ReadDamage::Short } else { ReadDamage::Corrupt };
                let count = match damage {
                    ReadDamage::Short => *draw.pick(&[1, 5, 1_000]),
                    ReadDamage::Corrupt => *draw.weighted(&[(60, 1), (25, 2), (15, 4)]),
                };
                let of_job_manager = draw.chance(35);
                let name_contains = String::new();
                self.push(STORE, Trigger::AtMs(at), 0, FaultKind::StoreReads { damage, name_contains, count });
                let victim = if of_job_manager { JOB_MANAGER.to_string() } else { victim };
                let crash = FaultKind::Crash { restart_after_ms: Some(restart) };
                self.push(victim, Trigger::AtMs(at + 20), 0, crash);
            }
        }
    }

    fn disk_trouble(&mut self, class: FaultClass, draw: &mut Draw) {
        let (target, trigger) = self.local_moment(draw);
        match class {
            FaultClass::DiskDenied => {
                let operation = *draw.pick(&[
                    DiskOperation::Create,
                    DiskOperation::Write,
                    DiskOperation::Sync,
                    DiskOperation::Read,
                    DiskOperation::Rename,
                    DiskOperation::Remove,
                    DiskOperation::List,
                    DiskOperation::SyncDirectory,
                ]);
                let count = small(draw, 1, 6);
                let fault = FaultKind::DiskErrors { operation, error: DiskErrorKind::Denied, count };
                self.push(target, trigger, 0, fault);
            }
            FaultClass::DiskVanished => {
                // Of the machine on which somebody restores, so that it is read.
                let (target, at) = (self.task_manager(draw), self.time(draw));
                let (count, restart) = (small(draw, 1, 4), draw.within(0, 500));
                let (operation, error) = (DiskOperation::Read, DiskErrorKind::Vanished);
                self.push(&target, Trigger::AtMs(at), 0, FaultKind::DiskErrors { operation, error, count });
                let crash = FaultKind::Crash { restart_after_ms: Some(restart) };
                self.push(target, Trigger::AtMs(at + 20), 0, crash);
            }
            FaultClass::DiskSlow => {
                let (duration, factor) = (draw.within(300, 3_000), *draw.pick(&[5, 30, 200]));
                self.push(target, trigger, duration, FaultKind::SlowDisk { factor });
            }
            FaultClass::DiskStall => {
                let duration = draw.within(100, 2_500);
                self.push(target, trigger, duration, FaultKind::StalledDisk {});
            }
            _ => {
                let target = self.task_manager(draw);
                self.push(target, Trigger::AtMs(0), 0, FaultKind::SeparateDevice {});
            }
        }
    }

    /// Somebody that is not `target`: the JobManager, or the TaskManager of the number drawn.
    fn peer_of(&self, target: &str, draw: &mut Draw) -> String {
        let number = draw.within(1, u64::from(self.plan.cluster.task_managers));
        if draw.chance(50) {
            return JOB_MANAGER.to_string();
        }
        let peer = format!("tm-{number}");
        if peer == target { format!("tm-{}", number % u64::from(self.plan.cluster.task_managers) + 1) } else { peer }
    }

    fn link_trouble(&mut self, class: FaultClass, draw: &mut Draw) {
        let (target, trigger) = self.task_manager_moment(draw);
        let peer = self.peer_of(&target, draw);
        let heartbeat = self.plan.settings.heartbeat_timeout_ms;
        match class {
            FaultClass::ConnectionReset => self.push(target, trigger, 0, FaultKind::ResetConnections { peer }),
            FaultClass::HalfOpen => {
                let duration = draw.within(100, heartbeat + 2_500);
                self.push(target, trigger, duration, FaultKind::HalfOpen { peer });
            }
            FaultClass::JitterStorm => {
                let (duration, up_to_ms) = (draw.within(300, 4_000), *draw.pick(&[5, 50, 400]));
                self.push(target, trigger, duration, FaultKind::JitterStorm { peer, up_to_ms });
            }
            FaultClass::BandwidthCollapse => {
                let (duration, left) = (draw.within(300, 4_000), *draw.pick(&[2_000, 10_000, 50_000]));
                let divided_by = u32::try_from(self.plan.network.bytes_per_second / left).unwrap_or(u32::MAX).max(2);
                self.push(target, trigger, duration, FaultKind::BandwidthCollapse { peer, divided_by });
            }
            _ => {
                let (duration, down_ms, up_ms) =
                    (draw.within(1_000, 5_000), draw.within(30, 800), draw.within(30, 800));
                self.push(target, trigger, duration, FaultKind::FlappingLink { peer, down_ms, up_ms });
            }
        }
    }

    fn message_trouble(&mut self, class: FaultClass, draw: &mut Draw) {
        let (target, trigger) = self.task_manager_moment(draw);
        let of_job_manager = draw.chance(50);
        let (their_moment, peer) = (self.job_manager_moment(draw), self.task_manager(draw));
        if class == FaultClass::LateMessage {
            let duration = draw.within(100, self.plan.settings.heartbeat_timeout_ms + 1_500);
            return self.push(target, trigger, duration, FaultKind::LateMessages {});
        }
        let (count, delay_ms) = (small(draw, 1, 5), *draw.weighted(&[(40, 0), (30, 50), (20, 500), (10, 3_000)]));
        if of_job_manager {
            self.push(JOB_MANAGER, their_moment, 0, FaultKind::DuplicateMessages { peer, count, delay_ms });
        } else {
            let peer = JOB_MANAGER.to_string();
            self.push(target, trigger, 0, FaultKind::DuplicateMessages { peer, count, delay_ms });
        }
    }

    fn clock_trouble(&mut self, class: FaultClass, draw: &mut Draw) {
        let (task_manager, of_job_manager) = (self.task_manager(draw), draw.chance(35));
        let target = if of_job_manager { JOB_MANAGER.to_string() } else { task_manager };
        let at = self.time(draw);
        let far = i64::try_from(draw.within(100, 4_000_000)).expect("about an hour");
        let by_ms = if draw.chance(50) { far } else { -far };
        match class {
            FaultClass::ClockJump => {
                let duration = draw.within(100, 5_000);
                self.push(target, Trigger::AtMs(at), duration, FaultKind::ClockJump { by_ms });
            }
            FaultClass::ClockSkew => {
                self.push(target, Trigger::AtMs(0), self.workload_ms, FaultKind::ClockSkew { by_ms });
            }
            _ => {
                let duration = draw.within(1_000, 6_000);
                let parts_per_million = *draw.pick(&[500, -500, 50_000, -50_000, 400_000, -300_000, 1_000_000]);
                self.push(target, Trigger::AtMs(at), duration, FaultKind::ClockDrift { parts_per_million });
            }
        }
    }

    fn rack(&mut self, class: FaultClass, draw: &mut Draw) {
        let all = u64::from(self.plan.cluster.task_managers);
        let (first, size) = (draw.within(0, all - 1), draw.within(1, (all - 1).max(1)).max(all.min(2)));
        let with_job_manager = draw.chance(15);
        let mut members: Vec<String> = (0..size).map(|n| format!("tm-{}", (first + n) % all + 1)).collect();
        if with_job_manager {
            members.push(JOB_MANAGER.to_string());
        }
        let at = self.time(draw);
        let (by_event, checkpoint) = (draw.chance(40), draw.within(2, 10));
        let trigger = if by_event { on(EventKind::CheckpointTriggered, checkpoint) } else { Trigger::AtMs(at) };
        if class == FaultClass::LoseRack {
            let (keep_disks, restart_after_ms) = (draw.chance(60), Some(draw.within(0, 2_000)));
            self.push("rack-1", trigger, 0, FaultKind::LoseRack { members, keep_disks, restart_after_ms });
        } else {
            let duration = draw.within(100, self.plan.settings.heartbeat_timeout_ms + 2_500);
            self.push("rack-1", trigger, duration, FaultKind::CutRack { members });
        }
    }
}

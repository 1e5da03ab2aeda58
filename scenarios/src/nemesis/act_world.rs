//! Faults that change how the world behaves for a while, or hit several machines: racks, power, half-broken connections,
//! messages that come twice or late, slow disks, a store that throttles, wrong clocks.

use std::time::Duration;

use super::{Ambush, Condition, Due, Nemesis, Notice, Resume, StoreTrouble, Trouble, act::Done};
use crate::plan::{
    Damage, DiskOperation, FaultKind, StoreOperation,
    draw::Draw,
    faults::STORE,
    model::{JOB_MANAGER, SECOND_JOB_MANAGER, machine_of},
};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The label of the control connection between two processes; None if neither is the JobManager.
fn control_channel(a: &str, b: &str) -> Option<String> {
    match (a == JOB_MANAGER, b == JOB_MANAGER) {
        (true, false) => Some(format!("{b}->{JOB_MANAGER}")),
        (false, true) => Some(format!("{a}->{JOB_MANAGER}")),
        _ => None,
    }
}

impl Nemesis {
    /// Carries out the faults that `act` hands over by name.
    pub(super) fn act_on_world(
        &self,
        fault: &FaultKind,
        target: String,
        for_a_while: u64,
        index: usize,
    ) -> Result<Done, String> {
        let verbs = &self.0.verbs;
        let machine = machine_of(&target);
        let for_a_while = for_a_while.min(self.0.healed_by_ms.saturating_sub(verbs.now_ms()));
        match fault {
            FaultKind::PowerLoss { restart_after_ms } => {
                self.alive(&target)?;
                self.power_fails(&target, false, *restart_after_ms);
                Ok(target.into())
            }
            FaultKind::JoinLate { after_ms } => {
                verbs.notice(Notice::Process { process: target.clone() });
                self.goes_down(&target, *after_ms);
                Ok(target.into())
            }
            FaultKind::SecondJobManager { isolated, takeover_after_ms, contend_ms } => {
                self.alive(&target)?;
                verbs.notice(Notice::Process { process: target.clone() });
                if *isolated {
                    for other in self.0.processes.iter().filter(|other| **other != target) {
                        self.cut_off(&target, other, for_a_while);
                    }
                } else {
                    self.begin(Condition::Frozen(target.clone()), for_a_while);
                }
                let there = for_a_while.saturating_sub(*takeover_after_ms) + contend_ms;
                self.later(*takeover_after_ms, move |nemesis| {
                    if !nemesis.is_healed() {
                        nemesis.0.verbs.notice(Notice::Process { process: SECOND_JOB_MANAGER.to_string() });
                        nemesis.begin(Condition::SecondJobManager, there);
                    }
                });
                Ok(target.into())
            }
            FaultKind::Rescale { parallelism, restart_after_ms } => {
                verbs.rescale(*parallelism);
                self.stop_everything(*restart_after_ms);
                Ok(format!("the job, to parallelism {parallelism}").into())
            }
            FaultKind::Savepoint {} => {
                verbs.ask_for_savepoint(None)?;
                Ok("the job".to_string().into())
            }
            FaultKind::StopAndResume { parallelism, backend, next_version, restart_after_ms } => {
                let (parallelism, backend) = (*parallelism, *backend);
                let (next_version, restart_after_ms) = (*next_version, *restart_after_ms);
                verbs.ask_for_savepoint(Some(Resume { parallelism, backend, next_version, restart_after_ms }))?;
                let version = if next_version { ", in its next version" } else { "" };
                Ok(format!("the job, to parallelism {parallelism}{version}").into())
            }
            FaultKind::MemoryLimit { headroom_bytes, restart_after_ms } => {
                self.alive(&target)?;
                let number = index as u64;
                self.begin(Condition::ShortOfMemory(target.clone()), for_a_while);
                let (nemesis, victim, after) = (self.clone(), target.clone(), *restart_after_ms);
                let killed = move || {
                    nemesis.0.state.borrow_mut().killed.insert(number);
                    nemesis.0.verbs.notice(Notice::Process { process: victim.clone() });
                    nemesis.goes_down(&victim, Some(after));
                };
                verbs.limit_memory(&target, *headroom_bytes, Box::new(killed));
                Ok(Done { target, armed: Some((Ambush::Memory, number)) })
            }
            FaultKind::LoseRack { members, keep_disks, restart_after_ms } => {
                let alive: Vec<&String> = members.iter().filter(|member| verbs.is_alive(member)).collect();
                if alive.is_empty() {
                    return Err("nothing in the rack was alive".to_string());
                }
                for member in alive {
                    self.power_fails(member, !keep_disks, *restart_after_ms);
                }
                Ok(target.into())
            }
            FaultKind::CutRack { members } => {
                let outside: Vec<&String> = self.0.processes.iter().filter(|p| !members.contains(p)).collect();
                if outside.is_empty() {
                    return Err("nothing is outside of the rack".to_string());
                }
                for inside in members {
                    for other in &outside {
                        self.cut_off(inside, other, for_a_while);
                    }
                }
                Ok(target.into())
            }
            FaultKind::ResetConnections { peer } => {
                self.connected(&target, peer)?;
                self.both_are_disturbed(&target, peer);
                verbs.reset_connections(&target, peer);
                Ok(format!("{target} and {peer}").into())
            }
            FaultKind::HalfOpen { peer } => {
                self.connected(&target, peer)?;
                self.both_are_disturbed(&target, peer);
                let trouble = Trouble::HalfOpen { lost: target.clone(), believing: peer.clone() };
                self.begin(Condition::Troubled(trouble), for_a_while);
                Ok(format!("{target} and {peer}").into())
            }
            FaultKind::JitterStorm { peer, up_to_ms } => {
                self.two(&target, peer)?;
                self.both_are_disturbed(&target, peer);
                let trouble = Trouble::Jitter { a: target.clone(), b: peer.clone(), up_to_ms: *up_to_ms };
                self.begin(Condition::Troubled(trouble), for_a_while);
                Ok(format!("{target} and {peer}").into())
            }
            FaultKind::BandwidthCollapse { peer, divided_by } => {
                self.two(&target, peer)?;
                self.both_are_disturbed(&target, peer);
                let trouble = Trouble::Choked { a: target.clone(), b: peer.clone(), divided_by: *divided_by };
                self.begin(Condition::Troubled(trouble), for_a_while);
                Ok(format!("{target} and {peer}").into())
            }
            FaultKind::FlappingLink { peer, down_ms, up_ms } => {
                self.two(&target, peer)?;
                self.flap(&target, peer, (*down_ms, *up_ms), verbs.now_ms() + for_a_while);
                Ok(format!("{target} and {peer}").into())
            }
            FaultKind::DuplicateMessages { peer, count, delay_ms } => {
                let channel = control_channel(&target, peer).ok_or("neither is the JobManager")?;
                self.both_are_disturbed(&target, peer);
                let number = verbs.arm_messages(&target, peer, &channel, *count, ms(*delay_ms));
                Ok(Done { target: format!("{target} to {peer}"), armed: Some((Ambush::Network, number)) })
            }
            FaultKind::LateMessages {} => {
                let channel = control_channel(&target, JOB_MANAGER).ok_or("the JobManager has no such connection")?;
                self.both_are_disturbed(&target, JOB_MANAGER);
                self.begin(Condition::Held(channel), for_a_while);
                Ok(target.into())
            }
            FaultKind::SlowDisk { factor } => {
                verbs.notice(Notice::Disk { machine: machine.clone() });
                self.begin(Condition::Troubled(Trouble::SlowDisk { machine, factor: *factor }), for_a_while);
                Ok(target.into())
            }
            FaultKind::StalledDisk {} => {
                verbs.notice(Notice::Disk { machine: machine.clone() });
                verbs.stall_disk(&machine, ms(for_a_while));
                Ok(target.into())
            }
            FaultKind::SeparateDevice {} => {
                verbs.separate_device(&machine);
                Ok(target.into())
            }
            FaultKind::StoreThrottled { operation, name_contains, retry_after_ms, count } => {
                let trouble = StoreTrouble::Throttled { retry_after_ms: *retry_after_ms };
                Ok(self.trouble_store(target, *operation, name_contains, trouble, *count))
            }
            FaultKind::StoreSlow { operation, name_contains, delay_ms, count } => {
                let trouble = StoreTrouble::Slow { delay_ms: *delay_ms };
                Ok(self.trouble_store(target, *operation, name_contains, trouble, *count))
            }
            FaultKind::StoreReads { damage, name_contains, count } => {
                let trouble = StoreTrouble::Read(*damage);
                Ok(self.trouble_store(target, StoreOperation::Read, name_contains, trouble, *count))
            }
            FaultKind::LingeringDeletes { linger_ms } => {
                verbs.notice(Notice::Environment { what: STORE.to_string() });
                let trouble = Trouble::LingeringDeletes { linger_ms: *linger_ms };
                self.begin(Condition::Troubled(trouble), for_a_while);
                Ok(target.into())
            }
            FaultKind::ClockJump { by_ms } | FaultKind::ClockSkew { by_ms } => {
                // No notice: what the wall clock says excuses nothing.
                self.begin(Condition::Troubled(Trouble::WallClock { machine, by_ms: *by_ms }), for_a_while);
                Ok(target.into())
            }
            FaultKind::ClockDrift { parts_per_million } => {
                let (process, parts_per_million) = (target.clone(), *parts_per_million);
                let trouble = Trouble::Drift { machine, process, parts_per_million };
                self.begin(Condition::Troubled(trouble), for_a_while);
                Ok(target.into())
            }
            other => unreachable!("{other:?} is carried out by `act` itself"),
        }
    }

    /// All processes are stopped at once, and started so much later. Who is down already comes back, if at all, as part of the new
    /// job.
    pub(crate) fn stop_everything(&self, restart_after_ms: u64) {
        let verbs = &self.0.verbs;
        for process in self.0.processes.iter().filter(|process| verbs.is_alive(process)) {
            verbs.notice(Notice::Process { process: process.clone() });
            self.goes_down(process, Some(restart_after_ms));
            verbs.crash(process);
        }
        // One that would go on leading the job as it was.
        if self.0.faults.iter().any(|f| matches!(f.fault, FaultKind::SecondJobManager { .. })) {
            verbs.crash(SECOND_JOB_MANAGER);
        }
    }

    /// The job has ended with a savepoint, and its processes with it; all of them are started so much later.
    pub fn resume_everything(&self, restart_after_ms: u64) {
        self.stop_everything(restart_after_ms);
        // The one that ended by itself. Whoever else is dead is so by a fault, which says when he comes back.
        self.goes_down(JOB_MANAGER, Some(restart_after_ms));
    }

    fn two(&self, target: &str, peer: &str) -> Result<(), String> {
        if target == peer { Err("the process that emitted is the peer itself".to_string()) } else { Ok(()) }
    }

    fn connected(&self, target: &str, peer: &str) -> Result<(), String> {
        self.two(target, peer)?;
        match self.0.verbs.connections(target, peer) {
            0 => Err("no connection between the two".to_string()),
            _ => Ok(()),
        }
    }

    fn both_are_disturbed(&self, a: &str, b: &str) {
        for process in [a, b] {
            self.0.verbs.notice(Notice::Process { process: process.to_string() });
        }
    }

    fn cut_off(&self, a: &str, b: &str, duration_ms: u64) {
        self.both_are_disturbed(a, b);
        for (from, to) in [(a, b), (b, a)] {
            self.begin(Condition::Cut { from: from.to_string(), to: to.to_string() }, duration_ms);
        }
    }

    /// Cuts the link, mends it, and so on until `until_ms`.
    fn flap(&self, a: &str, b: &str, (down_ms, up_ms): (u64, u64), until_ms: u64) {
        let left = until_ms.saturating_sub(self.0.verbs.now_ms());
        if left == 0 || self.is_healed() {
            return;
        }
        self.cut_off(a, b, down_ms.min(left));
        let (a, b) = (a.to_string(), b.to_string());
        self.later(down_ms + up_ms, move |nemesis| nemesis.flap(&a, &b, (down_ms, up_ms), until_ms));
    }

    fn power_fails(&self, process: &str, wipe: bool, restart_after_ms: Option<u64>) {
        let (verbs, machine) = (&self.0.verbs, machine_of(process));
        verbs.notice(Notice::Disk { machine: machine.clone() });
        verbs.notice(Notice::Process { process: process.to_string() });
        self.goes_down(process, restart_after_ms);
        if wipe { verbs.lose_machine(&machine) } else { verbs.power_loss(&machine) }
    }

    fn trouble_store(
        &self,
        target: String,
        operation: StoreOperation,
        contains: &str,
        trouble: StoreTrouble,
        count: u32,
    ) -> Done {
        self.0.verbs.notice(Notice::Environment { what: STORE.to_string() });
        let number = self.0.verbs.arm_store_trouble(operation, contains, trouble, count);
        Done { target, armed: Some((Ambush::Store, number)) }
    }

    /// Gives files of local copies the bytes of others: of the same file in an older checkpoint, or of the same file of
    /// another subtask.
    pub(super) fn swap_files(
        &self,
        target: &str,
        damage: Damage,
        files: u32,
        newest_only: bool,
        due: &Due,
    ) -> Result<Done, String> {
        let (verbs, machine) = (&self.0.verbs, machine_of(target));
        let mut victims = self.local_victims(&machine, newest_only);
        let all = self.local_victims(&machine, false);
        let mut draw = Draw::new(self.0.seed, &format!("nemesis/{}", due.index));
        let mut hit = 0;
        while hit < files && !victims.is_empty() {
            let chosen = usize::try_from(draw.within(0, victims.len() as u64 - 1)).expect("an index");
            let path = victims.swap_remove(chosen);
            let others: Vec<&String> = all.iter().filter(|other| stands_in(other, &path, damage)).collect();
            if others.is_empty() {
                continue;
            }
            let other = draw.pick(&others);
            if verbs.put_in_place(&machine, &path, other) {
                verbs.notice(Notice::LocalFile { machine: machine.clone(), path });
                hit += 1;
            }
        }
        if hit == 0 {
            return Err("no file there that another could stand in for".to_string());
        }
        Ok(target.to_string().into())
    }
}

impl Nemesis {
    /// Damages the file of this name in the newest local copy of a subtask.
    pub(super) fn damage_one_file(
        &self,
        target: String,
        copy: &str,
        file: &str,
        damage: Damage,
    ) -> Result<Done, String> {
        let (verbs, machine) = (&self.0.verbs, machine_of(&target));
        let (of_copy, name) = (format!("/{copy}/"), format!("/{file}"));
        let mut files = self.local_victims(&machine, true);
        files.retain(|path| path.contains(&of_copy) && path.ends_with(&name));
        let Some(path) = files.pop() else { return Err("no such file in a local copy there".to_string()) };
        let changed = match damage {
            Damage::Stale | Damage::Foreign => {
                let all = self.local_victims(&machine, false);
                let mut others = all.iter().filter(|other| stands_in(other, &path, damage));
                others.any(|other| verbs.put_in_place(&machine, &path, other))
            }
            _ => verbs.damage_file(&machine, &path, damage),
        };
        if !changed {
            return Err("nothing there by which the file would become another".to_string());
        }
        verbs.notice(Notice::LocalFile { machine: machine.clone(), path: path.clone() });
        // It took effect once somebody has come across it.
        let number = verbs.watch_file(&machine, &path);
        Ok(Done { target, armed: Some((Ambush::Disk(machine), number)) })
    }

    /// Tells of what operations may fail on: the files that are there, or, where some are still to be made, the disk.
    pub(super) fn note_files(&self, machine: &str, contains: &str, operation: DiskOperation) {
        if operation != DiskOperation::Read {
            return self.0.verbs.notice(Notice::Disk { machine: machine.to_string() });
        }
        for path in self.0.verbs.files(machine).into_iter().filter(|path| path.contains(contains)) {
            self.0.verbs.notice(Notice::LocalFile { machine: machine.to_string(), path });
        }
    }
}

/// Whether `other` is what `damage` puts in the place of `path`.
fn stands_in(other: &str, path: &str, damage: Damage) -> bool {
    let parts = |path: &str| -> Option<(String, u64, String)> {
        let (owner, rest) = path.split_once("/chk_")?;
        let (checkpoint, file) = rest.split_once('/')?;
        Some((owner.to_string(), checkpoint.parse().ok()?, file.to_string()))
    };
    let (Some((owner, checkpoint, file)), Some((whose, of, which))) = (parts(path), parts(other)) else { return false };
    match damage {
        Damage::Stale => whose == owner && which == file && of < checkpoint,
        // Names of parts may differ between operators: any part for a part, the manifest for the manifest.
        Damage::Foreign => whose != owner && of == checkpoint && which.starts_with('_') == file.starts_with('_'),
        Damage::Missing | Damage::Torn | Damage::Corrupt | Damage::Empty | Damage::Truncated | Damage::BitFlipped => {
            false
        }
    }
}

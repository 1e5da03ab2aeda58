//! Each kind of fault, carried out. Gives what it hit, or why there was nothing to hit.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Ambush, Condition, Due, Nemesis, Notice};
use crate::plan::{
    Damage, DiskErrorKind, FaultKind, FaultSpec, ObjectChoice, Side,
    draw::Draw,
    faults::{EMITTER, ENTITY, STORE},
    model::{JOB_MANAGER, machine_of},
};

/// A fault that was carried out.
pub(super) struct Done {
    pub target: String,
    /// Errors that wait for an operation: where, and their number.
    pub armed: Option<(Ambush, u64)>,
}

impl From<String> for Done {
    fn from(target: String) -> Done {
        Done { target, armed: None }
    }
}

impl Nemesis {
    pub(super) fn act(&self, spec: &FaultSpec, due: &Due) -> Result<Done, String> {
        let verbs = &self.0.verbs;
        let target = resolve(spec, due)?;
        let for_a_while = spec.duration_ms;
        match &spec.fault {
            FaultKind::Crash { restart_after_ms } => {
                self.alive(&target)?;
                verbs.notice(Notice::Process { process: target.clone() });
                self.goes_down(&target, *restart_after_ms);
                verbs.crash(&target);
                Ok(target.into())
            }
            FaultKind::LoseMachine { restart_after_ms } => {
                self.alive(&target)?;
                let machine = machine_of(&target);
                verbs.notice(Notice::Disk { machine: machine.clone() });
                verbs.notice(Notice::Process { process: target.clone() });
                self.goes_down(&target, *restart_after_ms);
                verbs.lose_machine(&machine);
                Ok(target.into())
            }
            FaultKind::Freeze {} => {
                self.alive(&target)?;
                verbs.notice(Notice::Process { process: target.clone() });
                self.begin(Condition::Frozen(target.clone()), for_a_while);
                Ok(target.into())
            }
            FaultKind::Partition { peer, side } => {
                if *peer == target {
                    return Err("the process that emitted is the peer itself".to_string());
                }
                for process in [&target, peer] {
                    verbs.notice(Notice::Process { process: process.clone() });
                }
                if matches!(side, Side::Both | Side::TargetToPeer) {
                    self.begin(Condition::Cut { from: target.clone(), to: peer.clone() }, for_a_while);
                }
                if matches!(side, Side::Both | Side::PeerToTarget) {
                    self.begin(Condition::Cut { from: peer.clone(), to: target.clone() }, for_a_while);
                }
                Ok(format!("{target} and {peer}").into())
            }
            FaultKind::HoldChannel {} => {
                verbs.notice(Notice::Environment { what: target.clone() });
                self.begin(Condition::Held(target.clone()), for_a_while);
                Ok(target.into())
            }
            FaultKind::SlowChannel { extra_ms } => {
                verbs.notice(Notice::Environment { what: target.clone() });
                verbs.slow_channel(&target, Duration::from_millis(*extra_ms));
                self.begin(Condition::Slowed(target.clone()), for_a_while);
                Ok(target.into())
            }
            FaultKind::LocalFiles { damage: damage @ (Damage::Stale | Damage::Foreign), files, newest_only } => {
                self.swap_files(&target, *damage, *files, *newest_only, due)
            }
            FaultKind::LocalFiles { damage, files, newest_only } => {
                let machine = machine_of(&target);
                let victims = self.local_victims(&machine, *newest_only);
                self.damage_local(victims, &machine, *damage, *files, due)?;
                Ok(target.into())
            }
            FaultKind::LocalTables { damage, files } => {
                let machine = machine_of(&target);
                let mut victims = self.local_victims(&machine, true);
                victims.retain(|path| path.ends_with(".sst"));
                self.damage_local(victims, &machine, *damage, *files, due)?;
                Ok(target.into())
            }
            FaultKind::DiskFull {} => {
                let machine = machine_of(&target);
                verbs.notice(Notice::Disk { machine: machine.clone() });
                if self.0.databases {
                    verbs.notice(Notice::NativeCode { process: target.clone() });
                }
                self.begin(Condition::Full(machine), for_a_while);
                Ok(target.into())
            }
            FaultKind::LocalFile { copy, file, damage } => self.damage_one_file(target, copy, file, *damage),
            FaultKind::LocalFileErrors { path_contains, operation, error, count } => {
                let machine = machine_of(&target);
                self.note_files(&machine, path_contains, *operation);
                let number = verbs.arm_disk_errors(&machine, path_contains, *operation, *error, *count);
                Ok(Done { target, armed: Some((Ambush::Disk(machine), number)) })
            }
            FaultKind::DiskErrors { operation, error, count } => {
                let machine = machine_of(&target);
                verbs.notice(Notice::Disk { machine: machine.clone() });
                if operation.is_native() {
                    verbs.notice(Notice::NativeCode { process: target.clone() });
                }
                // What vanishes are files of local copies.
                let contains = if *error == DiskErrorKind::Vanished { "/chk_" } else { "" };
                let number = verbs.arm_disk_errors(&machine, contains, *operation, *error, *count);
                Ok(Done { target, armed: Some((Ambush::Disk(machine), number)) })
            }
            FaultKind::StoreErrors { operation, name_contains, error, count } => {
                verbs.notice(Notice::Environment { what: STORE.to_string() });
                let number = verbs.arm_store_errors(*operation, name_contains, *error, *count);
                Ok(Done { target, armed: Some((Ambush::Store, number)) })
            }
            FaultKind::StoreOutage {} => {
                let left = self.0.healed_by_ms.saturating_sub(verbs.now_ms());
                verbs.notice(Notice::Environment { what: STORE.to_string() });
                verbs.store_outage(Duration::from_millis(for_a_while.min(left)));
                Ok(target.into())
            }
            FaultKind::LoseObject { object, index } => {
                let name = self.checkpoint_object(*object, *index)?;
                verbs.notice(Notice::Object { name: name.clone() });
                verbs.lose_object(&name);
                Ok(name.into())
            }
            FaultKind::CorruptObject { object, index } => {
                let name = self.checkpoint_object(*object, *index)?;
                verbs.notice(Notice::Object { name: name.clone() });
                verbs.corrupt_object(&name);
                Ok(name.into())
            }
            // Each by name, so that a kind of fault that nobody carries out breaks the build here.
            world @ (FaultKind::PowerLoss { .. }
            | FaultKind::JoinLate { .. }
            | FaultKind::SecondJobManager { .. }
            | FaultKind::Rescale { .. }
            | FaultKind::Savepoint { .. }
            | FaultKind::StopAndResume { .. }
            | FaultKind::MemoryLimit { .. }
            | FaultKind::LoseRack { .. }
            | FaultKind::CutRack { .. }
            | FaultKind::ResetConnections { .. }
            | FaultKind::HalfOpen { .. }
            | FaultKind::JitterStorm { .. }
            | FaultKind::BandwidthCollapse { .. }
            | FaultKind::FlappingLink { .. }
            | FaultKind::DuplicateMessages { .. }
            | FaultKind::LateMessages { .. }
            | FaultKind::SlowDisk { .. }
            | FaultKind::StalledDisk { .. }
            | FaultKind::SeparateDevice { .. }
            | FaultKind::StoreThrottled { .. }
            | FaultKind::StoreSlow { .. }
            | FaultKind::StoreReads { .. }
            | FaultKind::LingeringDeletes { .. }
            | FaultKind::ClockJump { .. }
            | FaultKind::ClockSkew { .. }
            | FaultKind::ClockDrift { .. }) => self.act_on_world(world, target, for_a_while, due.index),
        }
    }

    pub(super) fn alive(&self, process: &str) -> Result<(), String> {
        if self.0.verbs.is_alive(process) { Ok(()) } else { Err("the process was dead already".to_string()) }
    }

    pub(super) fn goes_down(&self, process: &str, restart_after_ms: Option<u64>) {
        // Without a JobManager nothing can ever be judged: it comes back with the healing at the latest.
        let for_good = restart_after_ms.is_none() && process != JOB_MANAGER;
        self.0.state.borrow_mut().down.insert(process.to_string(), for_good);
        if let Some(after) = restart_after_ms {
            let process = process.to_string();
            self.later(after, move |nemesis| nemesis.come_back(&process));
        }
    }

    /// Files of local copies on a machine, of the newest checkpoint there or of all.
    pub(super) fn local_victims(&self, machine: &str, newest_only: bool) -> Vec<String> {
        let checkpoint_of = |path: &str| -> Option<u64> {
            let (_, rest) = path.split_once("/chk_")?;
            rest.split('/').next()?.parse().ok()
        };
        let mut files = self.0.verbs.files(machine);
        files.retain(|path| checkpoint_of(path).is_some());
        if newest_only {
            let newest = files.iter().filter_map(|path| checkpoint_of(path)).max();
            files.retain(|path| checkpoint_of(path) == newest);
        }
        files
    }

    /// Damages up to `files` of `victims`.
    fn damage_local(
        &self,
        mut victims: Vec<String>,
        machine: &str,
        damage: Damage,
        files: u32,
        due: &Due,
    ) -> Result<(), String> {
        if victims.is_empty() {
            return Err("no local copy there".to_string());
        }
        let mut draw = Draw::new(self.0.seed, &format!("nemesis/{}", due.index));
        for _ in 0..files {
            if victims.is_empty() {
                break;
            }
            let last = victims.len() as u64 - 1;
            let chosen = usize::try_from(draw.within(0, last)).expect("an index");
            let path = victims.swap_remove(chosen);
            self.0.verbs.notice(Notice::LocalFile { machine: machine.to_string(), path: path.clone() });
            let _ = self.0.verbs.damage_file(machine, &path, damage);
        }
        Ok(())
    }

    /// A shared object that the newest completed checkpoint refers to, of which the loss leaves a whole checkpoint to go back to.
    /// All that refer to it are ruined.
    fn shared_object(&self, index: u32) -> Result<String, String> {
        let verbs = &self.0.verbs;
        let (retained, ruined) = {
            let state = self.0.state.borrow();
            (state.retained.clone(), state.ruined.clone())
        };
        let newest = *retained.last().ok_or("no completed checkpoint")?;
        let shared = |name: &String| name.contains("/shared/");
        let needed: BTreeMap<u64, BTreeSet<String>> =
            retained.iter().map(|id| (*id, verbs.needed_by(*id).into_iter().filter(shared).collect())).collect();
        let candidates: Vec<&String> = needed[&newest].iter().collect();
        if candidates.is_empty() {
            return Err("the checkpoint has no such object".to_string());
        }
        // From the one asked for on, the first that may go.
        let first = index as usize % candidates.len();
        let ruins = |object: &String| -> BTreeSet<u64> {
            needed.iter().filter(|(_, objects)| objects.contains(object)).map(|(id, _)| *id).collect()
        };
        let chosen = (0..candidates.len()).map(|n| candidates[(first + n) % candidates.len()]).find(|object| {
            let lost = ruins(object);
            retained.iter().any(|id| !ruined.contains(id) && !lost.contains(id))
        });
        let chosen = chosen.ok_or("it would have destroyed the last whole checkpoint")?.clone();
        let mut state = self.0.state.borrow_mut();
        state.ruined.extend(ruins(&chosen));
        state.destroyed_shared.insert(chosen.clone());
        Ok(chosen)
    }

    /// A checkpoint has completed that may refer to shared objects which were destroyed: it is no whole one then. The subtasks cannot
    /// know, and would go on until none is whole any more: before that, the objects are put back.
    pub(super) fn completed_with_damage(&self, completed: u64) {
        let verbs = &self.0.verbs;
        let needed = verbs.needed_by(completed);
        let mut state = self.0.state.borrow_mut();
        let state = &mut *state;
        let lost: Vec<&String> = needed.iter().filter(|name| state.destroyed_shared.contains(*name)).collect();
        if lost.is_empty() {
            return;
        }
        state.ruined.insert(completed);
        if state.retained.iter().all(|id| state.ruined.contains(id)) {
            for name in lost {
                verbs.put_back(name);
                state.destroyed_shared.remove(name);
            }
            state.ruined.remove(&completed);
        }
    }

    /// An object of the newest completed checkpoint, if another whole checkpoint is left to go back to.
    fn checkpoint_object(&self, object: ObjectChoice, index: u32) -> Result<String, String> {
        if object == ObjectChoice::Shared {
            return self.shared_object(index);
        }
        let newest = {
            let state = self.0.state.borrow();
            let newest = *state.retained.last().ok_or("no completed checkpoint")?;
            let whole_besides = state.retained.iter().filter(|c| **c != newest && !state.ruined.contains(c)).count();
            if whole_besides == 0 {
                return Err("it would have destroyed the last whole checkpoint".to_string());
            }
            newest
        };
        let of_newest = format!("/chk-{newest}/");
        let mut objects = self.0.verbs.objects("checkpoints/");
        objects.retain(|name| {
            name.contains(&of_newest) && name.contains("/_metadata") == (object == ObjectChoice::Metadata)
        });
        if objects.is_empty() {
            return Err("the checkpoint has no such object".to_string());
        }
        self.0.state.borrow_mut().ruined.insert(newest);
        let chosen = index as usize % objects.len();
        Ok(objects.swap_remove(chosen))
    }
}

fn resolve(spec: &FaultSpec, due: &Due) -> Result<String, String> {
    match spec.target.as_str() {
        EMITTER => due.emitter.clone().ok_or_else(|| "nobody emitted: its trigger is a time".to_string()),
        ENTITY => {
            let entity = due.entity.clone().ok_or("no entity: its trigger is a time")?;
            if entity.contains("->") { Ok(entity) } else { Err(format!("{entity} is no channel")) }
        }
        name => Ok(name.to_string()),
    }
}

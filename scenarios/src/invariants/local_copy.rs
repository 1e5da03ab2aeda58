//! Invariant 14: a local copy is what it is said to be, and its trouble is nobody else's.
//!
//! Rule: when a copy is said to be stored, it is on that machine's disk, complete, with as many parts as said. When a checkpoint
//! is said to be confirmed, the copy of it that was stored is still there: it is the one that recovery will want. And a
//! snapshot never fails but for primary storage: a local disk that is full, slow or broken costs the copy and nothing else.
//!
//! Truth: the files on the machine's disk at the instant of the event. Why a snapshot failed is known from what the nemesis
//! did to the store.
//!
//! Copies in memory are no files, and there is nothing to look at: only the last rule is for them.
//!
//! Excuse: a disk or a file of that machine that the plan disturbed, for the first two; any fault of the store so far, or
//! one on the process, its clock or what its native code does, for the last: a database that cannot flush has no snapshot.

use std::collections::BTreeMap;

use runtime::{ids::CheckpointId, journal::Event};

use super::{Check, Findings, Look, Seen, formats::local_file};

/// A process and its subtask.
type Keeper = (String, String);

#[derive(Default)]
pub(super) struct LocalCopies {
    /// The copies that each subtask has stored and has not been told to drop, with the incarnation that did.
    stored: BTreeMap<(Keeper, CheckpointId), u64>,
    /// The newest checkpoint that each was told is complete.
    notified: BTreeMap<Keeper, CheckpointId>,
}

/// Parts in the fullest complete copy of the checkpoint on the machine of the process. None: there is no complete copy.
fn parts_on_disk(look: &Look<'_>, machine: &str, subtask: &str, checkpoint: CheckpointId) -> Option<usize> {
    let key = look.config.subtasks.get(subtask)?;
    let files = look.truth.files(machine);
    let complete = look.ground.complete_directories(&files);
    let mut parts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in files.iter().filter_map(|(path, _)| local_file(path, &look.ground.job)) {
        if name.checkpoint == checkpoint && name.subtask == *key && complete.contains(name.directory) {
            let part = !look.ground.formats.is_local_manifest(name.file);
            *parts.entry(name.directory).or_default() += usize::from(part);
        }
    }
    parts.into_values().max()
}

fn is_disturbed(look: &Look<'_>, machine: &str) -> bool {
    let damage = &look.ground.damage;
    damage.disks.contains_key(machine) || damage.files.keys().any(|(at, _)| at == machine)
}

impl LocalCopies {
    fn forget(&mut self, gone: impl Fn(&Keeper) -> bool) {
        self.stored.retain(|(keeper, _), _| !gone(keeper));
    }
}

impl Check for LocalCopies {
    fn name(&self) -> &'static str {
        "local-copy"
    }

    fn on_event(&mut self, look: &Look<'_>, seen: &Seen<'_>, out: &mut Findings<'_>) {
        let keeper = |subtask: &str| (seen.process.to_string(), subtask.to_string());
        match seen.event {
            Event::LocalCopyStored { .. } | Event::LocalCopyConfirmed { .. } if look.config.local_in_memory => {}
            Event::LocalCopyStored { subtask, checkpoint, parts } => {
                let Some(machine) = look.truth.machine_of(seen.process) else { return };
                self.stored.insert((keeper(subtask), *checkpoint), seen.incarnation);
                let found = parts_on_disk(look, &machine, subtask, *checkpoint);
                if found != Some(*parts as usize) && !is_disturbed(look, &machine) {
                    let message =
                        format!("checkpoint {checkpoint} on {machine}: {parts} parts are said, found {found:?}");
                    out.report(subtask, "not-whole", message);
                }
            }
            Event::TaskNotifiedComplete { subtask, checkpoint } => {
                self.notified.insert(keeper(subtask), *checkpoint);
            }
            Event::LocalCopyConfirmed { subtask, checkpoint } => {
                let Some(machine) = look.truth.machine_of(seen.process) else { return };
                let keeper = keeper(subtask);
                // A newer one may have dropped it meanwhile.
                let newest = self.notified.get(&keeper) == Some(checkpoint);
                let kept = self.stored.get(&(keeper, *checkpoint)) == Some(&seen.incarnation);
                if newest
                    && kept
                    && parts_on_disk(look, &machine, subtask, *checkpoint).is_none()
                    && !is_disturbed(look, &machine)
                {
                    let message = format!("{machine} had a copy of checkpoint {checkpoint}, which is gone");
                    out.report(subtask, "confirmed-copy-gone", message);
                }
            }
            Event::TaskNotifiedAborted { subtask, checkpoint }
            | Event::LocalCopyDiscarded { subtask, checkpoint, .. } => {
                self.stored.remove(&(keeper(subtask), *checkpoint));
            }
            // A new attempt keeps only what it restores; what a slot kept goes with its allocation.
            Event::TaskDeployed { subtask, .. } => {
                let deployed = keeper(subtask);
                self.forget(|keeper| *keeper == deployed);
            }
            Event::SlotReleased { task_manager, .. } => self.forget(|(process, _)| process == task_manager),
            Event::SnapshotFailed { subtask, checkpoint, reason } => {
                let damage = &look.ground.damage;
                let hit = damage.native.contains(seen.process)
                    || damage.processes.iter().any(|(_, who)| who == seen.process)
                    || damage.clocks.iter().any(|(who, ..)| who == seen.process);
                if !damage.store_was_hit() && !hit {
                    let message = format!("checkpoint {checkpoint}, though nothing befell the store: {reason}");
                    out.report(subtask, "snapshot-failed-for-nothing", message);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::{
        ids::{AllocationId, CheckpointId},
        journal::Event,
    };

    use crate::invariants::{
        FaultNotice,
        telling::{confirmed, failed, stored},
        testing::Story,
    };

    /// Two copies, one after the other; the older one goes when the newer checkpoint is confirmed.
    #[test]
    fn copies_that_are_there_pass() {
        let mut story = Story::begin();
        for id in [1, 2] {
            story.checkpoint(id, &[10 * id, 10 * id]).local_copy("machine-1", id);
            stored(&mut story, id, 1);
            confirmed(&mut story, id);
        }
        story.drop_local("machine-1", 1);
        story.holds();
    }

    /// A part of the copy, or all of it, was overwritten before it was announced.
    #[test]
    fn a_copy_that_is_not_whole_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).local_copy("machine-1", 1);
        stored(&mut story, 1, 2);
        story.breaks("local-copy", "not-whole");
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]);
        stored(&mut story, 1, 1);
        story.breaks("local-copy", "not-whole");
    }

    /// The confirmation of a checkpoint removes its own copy; unless the plan, an abort or a new deployment may have done it.
    #[test]
    fn a_confirmed_copy_that_is_gone_is_found() {
        let subtask = || "fold[0]".to_string();
        let checkpoint = CheckpointId(1);
        let excuses: [&dyn Fn(&mut Story); 5] = [
            &|_| {},
            &|story| story.fault(&FaultNotice::Disk { machine: "machine-1".into() }),
            &|story| story.event("tm-1", Event::TaskNotifiedAborted { subtask: subtask(), checkpoint }),
            &|story| {
                let (task_manager, allocation) = ("tm-1".to_string(), AllocationId(5));
                story.event("tm-1", Event::SlotReleased { task_manager, slot: 0, allocation });
            },
            &|story| story.incarnation += 1,
        ];
        for (number, excuse) in excuses.iter().enumerate() {
            let mut story = Story::begin();
            story.checkpoint(1, &[10, 10]).local_copy("machine-1", 1);
            stored(&mut story, 1, 1);
            story.drop_local("machine-1", 1);
            excuse(&mut story);
            confirmed(&mut story, 1);
            if number == 0 { story.breaks("local-copy", "confirmed-copy-gone") } else { story.holds() }
        }
    }

    /// The local disk takes a snapshot down; a fault of the store, or on the process, would excuse it, one on a channel not.
    #[test]
    fn a_snapshot_that_fails_for_nothing_is_found() {
        let notices = [
            (None, false),
            (Some(FaultNotice::Environment { what: "store".into() }), true),
            (Some(FaultNotice::Process { process: "tm-1".into() }), true),
            (Some(FaultNotice::Process { process: "tm-2".into() }), false),
            (Some(FaultNotice::NativeCode { process: "tm-1".into() }), true),
            (Some(FaultNotice::NativeCode { process: "tm-2".into() }), false),
            (Some(FaultNotice::Disk { machine: "machine-1".into() }), false),
            (Some(FaultNotice::Environment { what: "read[0]->fold[0]".into() }), false),
        ];
        for (notice, excused) in notices {
            let mut story = Story::begin();
            notice.iter().for_each(|notice| story.fault(notice));
            failed(&mut story);
            if excused { story.holds() } else { story.breaks("local-copy", "snapshot-failed-for-nothing") }
        }
    }
}

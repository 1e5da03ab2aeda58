//! Invariant 3: restored state equals the snapshot, by content, whichever path it came by.
//!
//! Rule, in two parts. (a) Bytes: a part that a subtask takes, from a local copy or from primary, has exactly the bytes
//! that were written when the snapshot was taken. (b) Content: the first checkpoint completed after a restore holds
//! exactly the state that the output up to it implies; as the fold of every key is in the output with its hash chain,
//! any key lost, doubled or changed by the restore shows there, also one that got no record since. And no key has fewer
//! records there than the checkpoint restored had: that holds whatever the output says, which may be wrong for the same cause.
//!
//! Truth: (a) the file on the restoring machine's disk or the object in primary, hashed at the instant it was used, against the
//! hash taken when the object was created; (b) state parts and data objects in primary.
//!
//! Excuse: (a) a fault that hit the very file or object after the subtask began to restore; damage from before is no excuse:
//! it must be noticed and the part refused. A straggler, a TaskManager that was frozen or cut off while it restored and goes
//! on after a later attempt was recorded in the head log, restores what nobody will use; its files may be gone by then, rightly.
//! That it changes nothing is judged by the invariant on leaders. (b) none, beyond parts destroyed by the plan.

use std::{collections::BTreeMap, time::Duration};

use runtime::{
    checkpoint::types::{StatePart, SubtaskKey},
    ids::{AttemptId, CheckpointId},
    journal::Event,
};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Check, Findings, Look, Seen,
    formats::{HeadRecord, local_file},
    ground::{CompletedFact, HeadFact},
};
use crate::oracle::Wrong;

#[derive(Default)]
pub(super) struct Restored {
    /// Restores in progress, by process and subtask: since when, and of which attempt.
    started: BTreeMap<(String, String), (Duration, AttemptId)>,
    last: Option<AttemptId>,
}

impl Restored {
    fn local(
        &self,
        look: &Look<'_>,
        seen: &Seen<'_>,
        subtask: &str,
        (writer, part): (SubtaskKey, &StatePart),
        checkpoint: CheckpointId,
    ) -> Option<String> {
        let hash = look.ground.part_hash(part)?;
        let machine = look.truth.machine_of(seen.process)?;
        let since = self.started.get(&(seen.process.to_string(), subtask.to_string())).map(|(since, _)| *since);
        let mut found = Vec::new();
        for (path, _) in look.truth.files(&machine) {
            let Some(name) = local_file(&path, &look.ground.job) else { continue };
            if name.checkpoint != checkpoint || name.subtask != writer || name.file != part.name {
                continue;
            }
            if look.truth.file(&machine, &path).is_some_and(|bytes| xxh3_64(&bytes) == hash) {
                return None;
            }
            if look.ground.damage.file(&machine, &path).is_some_and(|hit| since.is_none_or(|since| hit >= since)) {
                return None;
            }
            found.push(path);
        }
        // A file removed while it was being read leaves no path to ask about.
        let hit_meanwhile = |(who, _): &(&(String, String), _)| who.0 == machine;
        let excused =
            look.ground.damage.files.iter().filter(hit_meanwhile).any(|(_, at)| since.is_none_or(|s| *at >= s))
                || look.ground.damage.disks.get(&machine).is_some_and(|at| since.is_none_or(|s| *at >= s));
        (!excused).then(|| match found.first() {
            Some(path) => format!("{machine}:{path} has other bytes than were snapshotted"),
            None => format!("{machine} has no such local file of checkpoint {checkpoint}"),
        })
    }
}

fn part_of<'a>(look: &'a Look<'_>, subtask: &str, checkpoint: CheckpointId, part: &str) -> Option<&'a StatePart> {
    let key = look.config.subtasks.get(subtask)?;
    look.ground.head.completed.get(&checkpoint)?.part_for(*key, part).map(|(_, part)| part)
}

/// The parts of this name, of the subtask itself or, where the parallelism was another, of the others of its vertex; with who
/// wrote them.
fn parts_of<'a>(
    look: &'a Look<'_>,
    subtask: &str,
    checkpoint: CheckpointId,
    part: &str,
) -> Vec<(SubtaskKey, &'a StatePart)> {
    let Some(key) = look.config.subtasks.get(subtask) else { return Vec::new() };
    let Some(completed) = look.ground.head.completed.get(&checkpoint) else { return Vec::new() };
    let of_vertex = completed.parts().filter(|(writer, known)| writer.0 == key.0 && known.name == part);
    let (own, others): (Vec<_>, Vec<_>) = of_vertex.partition(|(writer, _)| writer == key);
    // Keyed parts have their range in their name; of state without keys everybody may have a part of one name.
    match own.first() {
        Some((_, known)) if known.is_keyed() => own,
        _ => own.into_iter().chain(others).collect(),
    }
}

impl Restored {
    /// Whether the subtask restores for an attempt that is over.
    fn is_straggler(&self, look: &Look<'_>, seen: &Seen<'_>, subtask: &str) -> bool {
        let started = self.started.get(&(seen.process.to_string(), subtask.to_string()));
        started.is_some_and(|(_, attempt)| look.ground.head.attempt.is_some_and(|latest| *attempt < latest))
    }
}

/// Whether the state in `completed` can have come from the checkpoint restored last.
fn continues(look: &Look<'_>, completed: &CompletedFact) -> Result<(), Wrong> {
    let ground = look.ground;
    let restored = ground.head.restored.flatten().and_then(|id| ground.head.completed.get(&id));
    let Some(before) = restored.and_then(|restored| ground.state_of(look.truth, restored)) else { return Ok(()) };
    let Some(after) = ground.state_of(look.truth, completed) else { return Ok(()) };
    ground.output.oracle.continues(&before?, &after?)
}

impl Check for Restored {
    fn name(&self) -> &'static str {
        "restored-state"
    }

    fn on_event(&mut self, look: &Look<'_>, seen: &Seen<'_>, out: &mut Findings<'_>) {
        match seen.event {
            Event::RestoreStarted { subtask, attempt, .. } => {
                self.started.insert((seen.process.to_string(), subtask.clone()), (seen.at, *attempt));
            }
            Event::PartRestoredLocally { subtask, .. } | Event::PartRestoredFromPrimary { subtask, .. }
                if self.is_straggler(look, seen, subtask) => {}
            Event::PartRestoredLocally { subtask, checkpoint, part, .. } => {
                let known = parts_of(look, subtask, *checkpoint, part);
                if known.is_empty() {
                    let message = format!("checkpoint {checkpoint} has no part {part:?} of this subtask");
                    return out.report(subtask, "foreign-part", message);
                }
                if look.config.local_in_memory {
                    return;
                }
                // Several subtasks may have a part of this name; one of them it is.
                let wrong: Option<Vec<String>> =
                    known.iter().map(|known| self.local(look, seen, subtask, *known, *checkpoint)).collect();
                if let Some(message) = wrong.and_then(|wrong| wrong.into_iter().next()) {
                    out.report(subtask, "wrong-local-bytes", format!("part {part}: {message}"));
                }
            }
            Event::PartRestoredFromPrimary { subtask, checkpoint, part, .. } => {
                let Some(known) = part_of(look, subtask, *checkpoint, part) else {
                    let message = format!("checkpoint {checkpoint} has no part {part:?} of this subtask");
                    return out.report(subtask, "foreign-part", message);
                };
                let since = self.started.get(&(seen.process.to_string(), subtask.clone())).map(|(since, _)| *since);
                let hit = known.object().and_then(|object| look.ground.damage.objects.get(object.as_str())).copied();
                if let Err(reason) = look.ground.part_intact(look.truth, known)
                    && hit.is_none_or(|hit| since.is_some_and(|since| hit < since))
                {
                    out.report(subtask, "wrong-primary-bytes", format!("{}: {reason}", known.location));
                }
            }
            _ => {}
        }
    }

    fn on_head(&mut self, look: &Look<'_>, fact: &HeadFact, out: &mut Findings<'_>) {
        let HeadRecord::Completed(completion) = &fact.record else { return };
        let restored_since = look.ground.head.attempt != self.last && look.ground.head.restored.flatten().is_some();
        self.last = look.ground.head.attempt;
        if !restored_since {
            return;
        }
        let Some(completed) = look.ground.head.completed.get(&completion.checkpoint) else { return };
        let agrees = || match look.ground.oracle_at(look.truth, completed) {
            Some(oracle) => look.ground.state_agrees(look.truth, completed, oracle.as_ref()),
            None => Ok(()),
        };
        if let Err(wrong) = continues(look, completed).and_then(|()| agrees()) {
            let message = format!(
                "{}: {} (checkpoint {}, the first after the restore of {:?})",
                wrong.entity, wrong.message, completion.checkpoint, look.ground.head.restored
            );
            out.report(&wrong.entity, wrong.kind, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::ids::CheckpointId;
    use runtime::journal::Event;

    use crate::invariants::testing::Story;

    fn taken_locally(story: &mut Story) {
        let (subtask, checkpoint, part) = ("fold[0]".to_string(), CheckpointId(1), "part-0".to_string());
        story.event("tm-1", Event::PartRestoredLocally { subtask, checkpoint, part, bytes: 0 });
    }

    /// A restart takes the unharmed local copy, and the next checkpoint goes on from it.
    #[test]
    fn a_faithful_restore_passes() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1).local_copy("machine-1", 1);
        story.restore(Some(1), Some(1));
        taken_locally(&mut story);
        story.checkpoint(2, &[20, 20]).commit(2);
        story.holds();
    }

    /// The local copy rotted, the runtime used it all the same.
    #[test]
    fn a_rotten_local_part_that_was_used_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1).local_copy("machine-1", 1);
        story.rot_local("machine-1", 1);
        story.restore(Some(1), Some(1));
        story.event_restore_started("tm-1", 1);
        taken_locally(&mut story);
        story.breaks("restored-state", "wrong-local-bytes");
    }

    /// One key group was dropped while restoring: the keys' folds start anew. Their state tells, before any output does.
    #[test]
    fn a_key_lost_by_the_restore_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1);
        story.restore(Some(1), Some(1));
        story.model.keys.remove(&0);
        story.checkpoint(2, &[10, 10]);
        story.breaks("restored-state", "state-gone");
    }

    fn taken_from_primary(story: &mut Story, part: &str) {
        let (subtask, checkpoint, part) = ("fold[0]".to_string(), CheckpointId(1), part.to_string());
        story.event("tm-1", Event::PartRestoredFromPrimary { subtask, checkpoint, part, bytes: 0 });
    }

    /// A part that the checkpoint does not have, and one that rotted before the restore began: the plan's rot is no excuse
    /// then, but it is one after.
    #[test]
    fn wrong_parts_from_primary_are_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1);
        taken_from_primary(&mut story, "part-7");
        story.breaks("restored-state", "foreign-part");
        for (hit_first, fine) in [(true, false), (false, true)] {
            let mut story = Story::begin();
            story.checkpoint(1, &[10, 10]).commit(1);
            story.restore(Some(1), Some(1));
            if !hit_first {
                story.event_restore_started("tm-1", 1);
            }
            story.lose_part(1);
            if hit_first {
                story.event_restore_started("tm-1", 1);
            }
            taken_from_primary(&mut story, "part-0");
            if fine { story.holds() } else { story.breaks("restored-state", "wrong-primary-bytes") }
        }
    }
}

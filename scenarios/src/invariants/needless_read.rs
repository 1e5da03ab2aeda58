//! Invariant 15: what is whole on the machine is not read from primary.
//!
//! Rule: while a subtask restores a checkpoint with local recovery on, its process reads no object of primary storage of which
//! a whole copy lies on its machine: in the local copy of whichever subtask and slot, with its manifest, equal by content. So
//! the bytes read from primary never exceed what was missing locally.
//!
//! Truth: the reads as the store saw them, and the files on the machine's disk at that instant, hashed against what was created.
//! Events say only which checkpoint a process restores.
//!
//! Excuse: a disk or a file of that machine that the plan disturbed: a copy in doubt is rightly left alone, and a disk that does
//! not answer is not waited for. A straggler, that restores for an attempt that is over.

use std::collections::BTreeMap;

use runtime::{
    ids::{AttemptId, CheckpointId},
    journal::Event,
};
use xxhash_rust::xxh3::xxh3_64;

use super::{Check, Effect, Findings, Look, Seen};

#[derive(Default)]
pub(super) struct NeedlessReads {
    /// What each process restores, by its subtasks: since its incarnation, which checkpoint, for which attempt.
    restoring: BTreeMap<String, BTreeMap<String, (u64, CheckpointId, AttemptId)>>,
}

impl Check for NeedlessReads {
    fn name(&self) -> &'static str {
        "needless-read"
    }

    fn on_event(&mut self, _look: &Look<'_>, seen: &Seen<'_>, _out: &mut Findings<'_>) {
        match seen.event {
            Event::RestoreStarted { subtask, checkpoint, attempt } => {
                let of_process = self.restoring.entry(seen.process.to_string()).or_default();
                of_process.insert(subtask.clone(), (seen.incarnation, *checkpoint, *attempt));
            }
            Event::RestoreFinished { subtask, .. } | Event::TaskStateChanged { subtask, .. } => {
                if let Some(of_process) = self.restoring.get_mut(seen.process) {
                    of_process.remove(subtask);
                }
            }
            _ => {}
        }
    }

    fn on_read(&mut self, look: &Look<'_>, effect: &Effect<'_>, out: &mut Findings<'_>) {
        let ground = look.ground;
        if !look.config.local_recovery || !effect.object.starts_with(&ground.layout.checkpoints_prefix()) {
            return;
        }
        let Some(restoring) = self.restoring.get(effect.process) else { return };
        let now = ground.head.attempt;
        let restored: Vec<CheckpointId> = restoring
            .values()
            .filter(|(incarnation, _, attempt)| {
                *incarnation == effect.incarnation && now.is_none_or(|now| *attempt >= now)
            })
            .map(|(_, checkpoint, _)| *checkpoint)
            .collect();
        let Some(machine) = look.truth.machine_of(effect.process).filter(|_| !restored.is_empty()) else { return };
        if ground.damage.disks.contains_key(&machine) {
            return;
        }
        let Some(shadow) = ground.shadows.get(effect.object) else { return };
        for checkpoint in restored {
            let Some(completed) = ground.head.completed.get(&checkpoint) else { continue };
            let Some((writer, part)) = completed
                .parts()
                .find(|(_, part)| part.object().is_some_and(|object| object.as_str() == effect.object))
            else {
                continue;
            };
            for (at, path, bytes) in ground.local_copies(look.truth, checkpoint, writer, &part.name) {
                let in_doubt = ground.damage.file(&at, &path).is_some() || ground.manifest_hit(&at, &path);
                if at == machine && !in_doubt && xxh3_64(&bytes) == shadow.hash {
                    let message = format!(
                        "{} read {} ({} bytes) for checkpoint {checkpoint}, and {machine}:{path} has it",
                        effect.process, effect.object, part.length
                    );
                    return out.report(effect.process, "whole-locally", message);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::{
        ids::{AttemptId, CheckpointId},
        journal::Event,
    };

    use crate::invariants::{FaultNotice, testing::Story};

    fn starts(story: &mut Story, attempt: AttemptId) {
        let (subtask, checkpoint) = ("fold[0]".to_string(), CheckpointId(1));
        story.event("tm-1", Event::RestoreStarted { subtask, checkpoint, attempt });
    }

    /// A part that lies there whole is read from primary. Where the copy was hit, the disk disturbed, or the copy is another
    /// machine's, it may be.
    #[test]
    fn a_read_of_what_is_there_is_found() {
        for (machine, harm, fine) in [
            ("machine-1", None, false),
            ("machine-2", None, true),
            ("machine-1", Some("file"), true),
            ("machine-1", Some("disk"), true),
        ] {
            let mut story = Story::begin();
            story.checkpoint(1, &[10, 10]).commit(1).local_copy(machine, 1);
            story.restore(Some(1), Some(1));
            if harm == Some("file") {
                story.rot_local("machine-1", 1);
            } else if harm.is_some() {
                story.fault(&FaultNotice::Disk { machine: "machine-1".into() });
            }
            let attempt = story.attempt;
            starts(&mut story, attempt);
            story.reads("tm-1", 1);
            if fine { story.holds() } else { story.breaks("needless-read", "whole-locally") }
        }
    }

    /// Nothing restores, or for an attempt that is over: what is read then is not judged.
    #[test]
    fn a_straggler_may_read_what_it_likes() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1).local_copy("machine-1", 1);
        story.restore(Some(1), Some(1));
        let old = story.attempt;
        story.reads("tm-1", 1);
        story.restore(Some(1), Some(1));
        starts(&mut story, old);
        story.reads("tm-1", 1);
        story.holds();
    }
}

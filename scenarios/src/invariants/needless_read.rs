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

    use crate::invariants::{FaultNotice, HeadRecord, Truth, testing::Story};

    fn starts(story: &mut Story, attempt: AttemptId) {
        let (subtask, checkpoint) = ("fold[0]".to_string(), CheckpointId(1));
        story.event("tm-1", Event::RestoreStarted { subtask, checkpoint, attempt });
    }

    /// A part that lies there whole is read from primary. Where the copy was hit, or only what belongs to it, the disk disturbed, or
    /// the copy is another machine's, it may be.
    #[test]
    fn a_read_of_what_is_there_is_found() {
        for (machine, harm, fine) in [
            ("machine-1", None, false),
            ("machine-2", None, true),
            ("machine-1", Some("file"), true),
            ("machine-1", Some("part"), true),
            ("machine-1", Some("manifest"), true),
            ("machine-1", Some("disk"), true),
        ] {
            let mut story = Story::begin();
            story.checkpoint(1, &[10, 10]).commit(1).local_copy(machine, 1);
            story.restore(Some(1), Some(1));
            let machine_1 = || "machine-1".to_string();
            let file = |name: &str| {
                let paths = story.truth.files("machine-1").into_iter().map(|(path, _)| path);
                paths.filter(|path| path.ends_with(name)).collect::<Vec<_>>().concat()
            };
            let (part, manifest) = (file("/part-0"), file("/manifest"));
            match harm {
                Some("file") => story.rot_local("machine-1", 1),
                // Hit, and as it was: nobody can know.
                Some("part") => story.fault(&FaultNotice::LocalFile { machine: machine_1(), path: part }),
                Some("manifest") => story.fault(&FaultNotice::LocalFile { machine: machine_1(), path: manifest }),
                Some(_) => story.fault(&FaultNotice::Disk { machine: machine_1() }),
                None => {}
            }
            let attempt = story.attempt;
            starts(&mut story, attempt);
            story.reads("tm-1", 1);
            if fine { story.holds() } else { story.breaks("needless-read", "whole-locally") }
        }
    }

    /// Nothing restores yet, or any more, or for an attempt that is over: what is read then is not judged.
    #[test]
    fn who_does_not_restore_may_read_what_he_likes() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1).local_copy("machine-1", 1);
        story.restore(Some(1), Some(1));
        let old = story.attempt;
        story.reads("tm-1", 1);
        story.restore(Some(1), Some(1));
        starts(&mut story, old);
        story.reads("tm-1", 1);
        let now = story.attempt;
        starts(&mut story, now);
        let (subtask, to, reason) = ("fold[0]".to_string(), "RUNNING".to_string(), String::new());
        story.event("tm-1", Event::TaskStateChanged { subtask, attempt: now, to, reason });
        story.reads("tm-1", 1);
        story.holds();
    }

    /// Without local recovery there are no copies to read, whatever lies there; and a savepoint is read from where it is.
    #[test]
    fn copies_that_are_not_to_be_read_need_not_be() {
        let mut story = Story::configured(|config| config.local_recovery = false);
        story.checkpoint(1, &[10, 10]).commit(1).local_copy("machine-1", 1);
        story.restore(Some(1), Some(1));
        let attempt = story.attempt;
        starts(&mut story, attempt);
        story.reads("tm-1", 1);
        story.holds();
        let mut story = Story::begin();
        let directory = "savepoints/savepoint-000000-0123456789ab";
        story.head(&HeadRecord::SavepointBegun { directory: directory.to_string() });
        story.savepoint(1, &[10, 10], directory).commit(1).local_copy("machine-1", 1);
        story.restore(Some(1), Some(1));
        let attempt = story.attempt;
        starts(&mut story, attempt);
        story.reads("tm-1", 1);
        story.holds();
    }
}

//! Invariant 6 for savepoints: a savepoint is what it should be, all in one place, and stays as it is for ever. (R13, R33, in every run)
//!
//! Rule: when a savepoint completes, its directory holds everything that its metadata names, written by itself; its state is in
//! the canonical format, whatever the backend. (That its content is exactly what the output up to its barrier implies is judged with that
//! of checkpoints, by invariants 8 and 3.) From then on nothing is written there, and nothing there is ever deleted or changed by the system, whatever becomes of the job. In the end nothing is
//! left of savepoints that were begun and did not complete.
//!
//! Truth: the metadata and the parts in primary at the instant of the head entry; the committed output; effects on the store.
//!
//! Excuse: what the plan destroys is not deleted by the system. Leftovers of a job that ended with a savepoint are its own
//! leader's to sweep, who may have been unable to: they are judged for the job that finishes.

use std::collections::BTreeSet;

use runtime::{checkpoint::types::PartKind, ids::CheckpointId};

use super::{
    Check, Effect, End, Findings, Look,
    formats::{HeadRecord, Snapshots},
    ground::HeadFact,
};

#[derive(Default)]
pub(super) struct Savepoints {
    complete: BTreeSet<String>,
    /// Of the job that runs.
    begun: BTreeSet<String>,
    /// Everything that savepoints consist of.
    files: BTreeSet<String>,
}

fn directory_of(object: &str) -> Option<&str> {
    object.rsplit_once('/').map(|(directory, _)| directory)
}

impl Savepoints {
    fn completed(
        &mut self,
        look: &Look<'_>,
        checkpoint: CheckpointId,
        directory: &str,
        snapshots: Result<&Snapshots, String>,
        out: &mut Findings<'_>,
    ) {
        let metadata = format!("{directory}/_metadata");
        self.complete.insert(directory.to_string());
        self.files.insert(metadata.clone());
        if !self.begun.contains(directory) {
            out.report(directory, "never-begun", "the head log does not say that it was begun");
        }
        let snapshots = match snapshots {
            Ok(snapshots) => snapshots,
            Err(reason) => return out.report(directory, "unreadable", format!("{metadata}: {reason}")),
        };
        for (subtask, part) in snapshots.iter().flat_map(|(key, s)| s.parts.iter().map(move |part| (key, part))) {
            let of = || format!("part {} of subtask v{}[{}]", part.name, subtask.0, subtask.1);
            if !matches!(part.kind, PartKind::Keyed | PartKind::Operator { .. }) {
                out.report(directory, "not-canonical", format!("{} is a file of a database", of()));
            }
            if part.written_by != checkpoint {
                let message = format!("{} was written by checkpoint {}", of(), part.written_by);
                out.report(directory, "not-full", message);
            }
            let Some(object) = part.object() else { continue };
            if directory_of(object.as_str()) != Some(directory) {
                out.report(directory, "not-self-contained", format!("{} lies in {object}", of()));
            }
            self.files.insert(object.as_str().to_string());
            if let Err(reason) = look.ground.part_intact(look.truth, part) {
                out.report(directory, "incomplete", format!("{}: {reason}", of()));
            }
        }
    }
}

impl Check for Savepoints {
    fn name(&self) -> &'static str {
        "savepoints"
    }

    fn on_head(&mut self, look: &Look<'_>, fact: &HeadFact, out: &mut Findings<'_>) {
        match &fact.record {
            HeadRecord::SavepointBegun { directory } => {
                if !look.truth.objects(&format!("{directory}/")).is_empty() {
                    out.report(directory, "directory-reused", "something lies there when it is begun");
                }
                self.begun.insert(directory.clone());
            }
            // What is begun from now on is the new job's.
            HeadRecord::Imported { .. } => self.begun.clear(),
            HeadRecord::SavepointOvertaken { checkpoint, directory } => {
                let snapshots = look.ground.snapshots(look.truth, &format!("{directory}/_metadata"), Some(directory));
                self.completed(look, *checkpoint, directory, snapshots.as_ref().map_err(Clone::clone), out);
            }
            HeadRecord::Completed(completion) => {
                let Some(directory) = &completion.savepoint else { return };
                let Some(completed) = look.ground.head.completed.get(&completion.checkpoint) else { return };
                let snapshots = completed.snapshots.as_ref().map_err(Clone::clone);
                self.completed(look, completion.checkpoint, directory, snapshots, out);
            }
            _ => {}
        }
    }

    fn on_created(&mut self, _look: &Look<'_>, effect: &Effect<'_>, out: &mut Findings<'_>) {
        if let Some(directory) = directory_of(effect.object)
            && self.complete.contains(directory)
        {
            out.report(directory, "written-when-complete", format!("{} is new there", effect.object));
        }
    }

    fn on_deleted(&mut self, _look: &Look<'_>, effect: &Effect<'_>, out: &mut Findings<'_>) {
        if self.files.contains(effect.object) {
            let message = format!("{} deleted it; a savepoint is nobody's but its owner's", effect.process);
            out.report(effect.object, "savepoint-deleted", message);
        }
    }

    fn at_end(&mut self, look: &Look<'_>, end: &End, out: &mut Findings<'_>) {
        for object in &self.files {
            if !look.ground.damage.objects.contains_key(object)
                && let Err(reason) = look.ground.intact(look.truth, object)
            {
                out.report(object, "savepoint-changed", reason);
            }
        }
        if !end.swept || end.outcome.is_none() {
            return;
        }
        for directory in self.begun.difference(&self.complete) {
            let left: Vec<_> = look.truth.objects(&format!("{directory}/"));
            if let Some((object, _)) = left.first() {
                let message = format!("{} objects of a savepoint that never completed are left", left.len());
                out.report(object, "left-behind", message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::ids::CheckpointId;

    use crate::invariants::{FaultNotice, HeadRecord, testing::Story};

    const DIRECTORY: &str = "savepoints/savepoint-000000-0123456789ab";

    fn begun(story: &mut Story) {
        story.head(&HeadRecord::SavepointBegun { directory: DIRECTORY.to_string() });
    }

    /// A savepoint between two checkpoints, which stays when the second one takes the place of both.
    #[test]
    fn a_savepoint_that_stays_passes() {
        let mut story = Story::begin();
        story.retain = 1;
        story.checkpoint(1, &[10, 10]).commit(1);
        begun(&mut story);
        story.savepoint(2, &[20, 20], DIRECTORY).commit(2);
        story.checkpoint(3, &[30, 30]).commit(3);
        story.holds();
    }

    /// Its state is not that of the output at its barrier.
    #[test]
    fn a_savepoint_with_other_state_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1);
        begun(&mut story);
        story.model.keys.remove(&0);
        story.savepoint(2, &[10, 10], DIRECTORY);
        story.breaks("barrier-side", "state-missing");
    }

    /// Each part of it is deleted by the system: as the newest, and when a checkpoint has followed.
    #[test]
    fn a_deleted_savepoint_is_found() {
        for (metadata, followed) in [(true, false), (false, false), (false, true)] {
            let mut story = Story::begin();
            begun(&mut story);
            let files = story.savepoint(1, &[10, 10], DIRECTORY).commit(1).files_of_savepoint(DIRECTORY);
            if followed {
                story.retain = 1;
                story.checkpoint(2, &[20, 20]).commit(2);
            }
            let victim = files.iter().find(|file| file.ends_with("/_metadata") == metadata).expect("there is one");
            story.delete(victim);
            story.breaks("savepoints", "savepoint-deleted");
        }
    }

    /// One that a later checkpoint has overtaken is complete, too, and its owner's.
    #[test]
    fn an_overtaken_savepoint_stays_as_well() {
        for is_deleted in [true, false] {
            let mut story = Story::begin();
            begun(&mut story);
            story.checkpoint(2, &[10, 10]).commit(2).overtaken_savepoint(1, &[10, 10], DIRECTORY);
            story.holds();
            let files = story.files_of_savepoint(DIRECTORY);
            assert_eq!(files.len(), 2);
            if is_deleted {
                story.delete(&files[0]);
                story.breaks("savepoints", "savepoint-deleted");
            }
        }
    }

    /// Changed behind the system's back it is found in the end, unless the plan did it.
    #[test]
    fn a_changed_savepoint_is_found_in_the_end() {
        for is_planned in [true, false] {
            let mut story = Story::begin();
            begun(&mut story);
            let files = story.savepoint(1, &[10, 10], DIRECTORY).commit(1).files_of_savepoint(DIRECTORY);
            story.checkpoint(2, &[30, 30]).commit(2);
            story.truth.rot(&files[1]);
            if is_planned {
                story.fault(&FaultNotice::Object { name: files[1].clone() });
            }
            story.end(Some(Err("told so".to_string())));
            let is_found = story.found().iter().any(|(_, kind, _)| *kind == "savepoint-changed");
            assert_eq!(is_found, !is_planned, "{:?}", story.found());
        }
    }

    /// Something is written where a complete savepoint lies; something lies where one is begun.
    #[test]
    fn a_directory_belongs_to_one_savepoint() {
        let mut story = Story::begin();
        begun(&mut story);
        story.savepoint(1, &[10, 10], DIRECTORY).commit(1);
        story.create(&format!("{DIRECTORY}/more"), "bytes");
        story.breaks("savepoints", "written-when-complete");
        let mut story = Story::begin();
        story.create(&format!("{DIRECTORY}/older"), "bytes");
        begun(&mut story);
        story.breaks("savepoints", "directory-reused");
    }

    /// A savepoint failed, and what it had written is still there after the sweep.
    #[test]
    fn leftovers_of_a_failed_savepoint_are_found() {
        for swept in [true, false] {
            let mut story = Story::begin();
            story.checkpoint(1, &[30, 30]).commit(1);
            begun(&mut story);
            story.create(&format!("{DIRECTORY}/part"), "bytes");
            if swept {
                story.delete(&format!("{DIRECTORY}/part"));
            }
            story.sweep_and_end();
            if swept { story.holds() } else { story.breaks("savepoints", "left-behind") }
        }
    }

    /// What nobody has swept yet may be there; and what a job had begun before another one began with its savepoint is not that one's.
    #[test]
    fn leftovers_are_judged_after_the_sweep_of_their_own_job() {
        let mut story = Story::begin();
        story.checkpoint(1, &[30, 30]).commit(1);
        begun(&mut story);
        story.create(&format!("{DIRECTORY}/part"), "bytes");
        story.finish();
        assert!(story.found().iter().all(|(invariant, ..)| *invariant != "savepoints"), "{:?}", story.found());
        let mut story = Story::begin();
        let of_before = format!("{DIRECTORY}-before");
        story.head(&HeadRecord::SavepointBegun { directory: of_before.clone() });
        story.savepoint(1, &[30, 30], &of_before).commit(1);
        begun(&mut story);
        story.create(&format!("{DIRECTORY}/part"), "bytes");
        let metadata = format!("{of_before}/_metadata");
        story.head(&HeadRecord::Imported { checkpoint: CheckpointId(1), metadata });
        story.sweep_and_end();
        assert!(story.found().iter().all(|(invariant, ..)| *invariant != "savepoints"), "{:?}", story.found());
    }
}

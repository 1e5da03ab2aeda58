//! Invariant 6: nothing that is needed is deleted, and in the end nothing that is not needed is left.
//!
//! Rule: an object that a retained checkpoint references, a data object of a commit manifest, a data object that a
//! completed checkpoint still has to commit, a manifest, a head entry: none of these is deleted by the system. What a late
//! acknowledgement names is gone soon after it was heard, without waiting for a sweep. After quiescence and one sweep, every
//! object below the checkpoints and below the sinks' data is referenced, and no upload in pieces is unfinished.
//!
//! Truth: the head log at the instant of the deletion (an entry that drops a checkpoint must be durable before its
//! files go), the metadata as it was when the checkpoint completed, the store's own list.
//!
//! Excuse: for late acknowledgements, any fault of the store so far, one on the JobManager since, its death, or another
//! claim of the leadership since: a leader that steps down leaves what it had still to delete to the sweep of the next one, which
//! may be the same process again. For the rest none. What the plan destroys is not deleted by the system and does not pass here.

use std::{collections::BTreeSet, time::Duration};

use runtime::{
    ids::{LeaderEpoch, SubtaskId, VertexId},
    journal::Event,
};

use super::{Check, Effect, End, Findings, Look, Seen};

/// After this the objects of a late acknowledgement are gone: a deletion each, one after the other.
const SOON: Duration = Duration::from_secs(2);

/// An acknowledgement that the coordinator discarded.
struct Late {
    at: Duration,
    process: String,
    incarnation: u64,
    /// Who led by the head log when it was heard.
    leader: Option<LeaderEpoch>,
    subtask: String,
    /// What the names of its parts begin with, among its own files and among the shared ones.
    prefixes: [String; 2],
}

#[derive(Default)]
pub(super) struct Deletion {
    late: Vec<Late>,
}

impl Check for Deletion {
    fn name(&self) -> &'static str {
        "file-lifetime"
    }

    fn on_event(&mut self, look: &Look<'_>, seen: &Seen<'_>, out: &mut Findings<'_>) {
        match seen.event {
            Event::LateAckDiscarded { subtask, checkpoint } => {
                let Some(&(vertex, index)) = look.config.subtasks.get(subtask) else { return };
                let id = SubtaskId { vertex: VertexId(vertex), index };
                self.late.push(Late {
                    at: seen.at,
                    process: seen.process.to_string(),
                    incarnation: seen.incarnation,
                    leader: look.ground.head.leader,
                    subtask: subtask.clone(),
                    prefixes: [
                        format!("{}{id}-", look.ground.layout.checkpoint_prefix(*checkpoint)),
                        format!("{}{checkpoint}-{id}-", look.ground.layout.shared_prefix()),
                    ],
                });
            }
            // Any later moment of the same JobManager will do.
            Event::CheckpointCompleted { .. } => {
                self.late.retain(|late| {
                    (late.process.as_str(), late.incarnation, late.leader)
                        == (seen.process, seen.incarnation, look.ground.head.leader)
                });
                let damage = &look.ground.damage;
                let (due, early) = self.late.drain(..).partition(|late| late.at + SOON <= seen.at);
                self.late = early;
                let due: Vec<Late> = due;
                for late in due {
                    if damage.store_was_hit() || damage.disturbed(&late.process, late.at, seen.at) {
                        continue;
                    }
                    let left = late.prefixes.iter().flat_map(|prefix| look.truth.objects(prefix));
                    if let Some((object, _)) = left.into_iter().next() {
                        let message = format!("{} acknowledged it too late, {:?} ago", late.subtask, seen.at - late.at);
                        out.report(object, "late-ack-left-behind", message);
                    }
                }
            }
            _ => {}
        }
    }

    fn on_deleted(&mut self, look: &Look<'_>, effect: &Effect<'_>, out: &mut Findings<'_>) {
        let object = effect.object;
        let by = format!("deleted by {} incarnation {}", effect.process, effect.incarnation);
        let ground = look.ground;
        if let Some(rest) = object.strip_prefix(&ground.layout.head_prefix())
            && rest.len() == 19
            && rest.bytes().all(|b| b.is_ascii_digit())
        {
            return out.report(object, "head-entry-deleted", by);
        }
        if let Some(owner) = ground.retained().find(|c| c.needed().any(|needed| needed == object)) {
            let message = format!("retained checkpoint {} references it; {by}", owner.completion.checkpoint);
            return out.report(object, "referenced-by-retained", message);
        }
        if ground.manifest_name(object).is_some() {
            return out.report(object, "manifest-deleted", by);
        }
        if ground.committed_objects.contains(object) {
            return out.report(object, "committed-output-deleted", by);
        }
        for completed in ground.retained() {
            for (sink, objects) in &completed.completion.sinks {
                let open = !ground.manifests.contains_key(&(sink.0.clone(), completed.completion.checkpoint));
                if open && objects.iter().any(|o| o.object.as_str() == object) {
                    let message =
                        format!("checkpoint {} has not committed it yet; {by}", completed.completion.checkpoint);
                    return out.report(object, "deleted-before-commit", message);
                }
            }
        }
    }

    fn at_end(&mut self, look: &Look<'_>, end: &End, out: &mut Findings<'_>) {
        if !end.swept {
            return;
        }
        let ground = look.ground;
        let needed: BTreeSet<&str> = ground.retained().flat_map(|c| c.needed()).collect();
        for (object, _) in look.truth.objects(&ground.layout.checkpoints_prefix()) {
            if !needed.contains(object.as_str()) {
                out.report(object, "left-behind", "no retained checkpoint references it");
            }
        }
        for object in look.truth.unfinished(&ground.layout.checkpoints_prefix()) {
            out.report(object, "upload-left-behind", "nobody finishes this upload any more");
        }
        for sink in &ground.sinks {
            for (object, _) in look.truth.objects(&ground.layout.sink_data_prefix(sink)) {
                if !ground.committed_objects.contains(&object) {
                    out.report(object, "output-left-behind", "no commit manifest names it");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use runtime::{ids::CheckpointId, journal::Event};

    use crate::invariants::{FaultNotice, testing::Story};

    /// Checkpoint 1 is dropped by the entry of checkpoint 2; its files go after it.
    #[test]
    fn files_of_a_subsumed_checkpoint_may_go() {
        let mut story = Story::begin();
        story.retain = 1;
        story.checkpoint(1, &[10, 10]).commit(1).checkpoint(2, &[20, 20]).commit(2);
        story.delete_checkpoint(1);
        story.sweep_and_end();
        story.holds();
    }

    /// They go while the checkpoint is retained.
    #[test]
    fn files_of_a_retained_checkpoint_must_not_go() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1).checkpoint(2, &[20, 20]).commit(2);
        story.delete_checkpoint(1);
        story.breaks("file-lifetime", "referenced-by-retained");
    }

    /// A subtask acknowledges checkpoint 1 after it was aborted: what it uploaded goes soon, or never.
    #[test]
    fn files_of_a_late_acknowledgement_go_soon() {
        let store = FaultNotice::Environment { what: "store".into() };
        for (deleted, fault, holds) in
            [(false, None, false), (true, None, true), (false, Some(&store), true), (false, None, false)]
        {
            let mut story = Story::begin();
            let prepared = story.prepare(1, &[10, 10]);
            let (subtask, checkpoint) = ("fold[0]".to_string(), CheckpointId(1));
            story.event("jobmanager", Event::LateAckDiscarded { subtask, checkpoint });
            if deleted {
                story.truth.remove(&prepared.parts[0]);
            }
            fault.into_iter().for_each(|fault| story.fault(fault));
            let completed = Event::CheckpointCompleted { checkpoint: CheckpointId(2), sequence: 2 };
            story.truth.set_now(Duration::from_millis(1_900));
            story.event("jobmanager", completed.clone());
            story.holds();
            story.truth.set_now(Duration::from_millis(4_000));
            story.event("jobmanager", completed);
            if holds { story.holds() } else { story.breaks("file-lifetime", "late-ack-left-behind") }
        }
    }

    /// A replaced JobManager hears a late acknowledgement, steps down, and is elected again in the same process: what it had still
    /// to delete is its new term's sweep to find.
    #[test]
    fn a_leader_that_steps_down_leaves_late_files_to_the_sweep() {
        let mut story = Story::begin();
        story.prepare(1, &[10, 10]);
        let (subtask, checkpoint) = ("fold[0]".to_string(), CheckpointId(1));
        story.event("jobmanager", Event::LateAckDiscarded { subtask, checkpoint });
        story.claim(2);
        story.truth.set_now(Duration::from_millis(4_000));
        story.event("jobmanager", Event::CheckpointCompleted { checkpoint: CheckpointId(2), sequence: 2 });
        story.holds();
    }

    /// Each thing that must stay is deleted, one story each.
    #[test]
    fn nothing_that_must_stay_may_go() {
        let layout = Story::begin().layout();
        let manifest = layout.sink_commit("audit", CheckpointId(1)).as_str().to_string();
        let entry = layout.head_entry(0).as_str().to_string();
        for (what, kind) in [
            (entry, "head-entry-deleted"),
            (manifest, "manifest-deleted"),
            ("committed".to_string(), "committed-output-deleted"),
            ("uncommitted".to_string(), "deleted-before-commit"),
        ] {
            let mut story = Story::begin();
            story.checkpoint(1, &[10, 10]).commit(1).checkpoint(2, &[20, 20]);
            let object = match what.as_str() {
                "committed" => story.data_of(1),
                "uncommitted" => story.data_of(2),
                _ => what,
            };
            story.delete(&object);
            story.breaks("file-lifetime", kind);
        }
    }

    /// Output that no manifest names is left after the sweep.
    #[test]
    fn output_left_behind_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1).checkpoint(2, &[20, 20]).commit(2);
        let prepared = story.prepare(3, &[20, 20]);
        story.truth.remove(&prepared.parts[0]);
        story.truth.remove(&prepared.metadata_name());
        story.sweep_and_end();
        story.breaks("file-lifetime", "output-left-behind");
    }

    /// A task died in the middle of an upload, and the sweep did not see what it left.
    #[test]
    fn an_upload_left_behind_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1);
        let part = story.layout().checkpoint_prefix(CheckpointId(2)) + "part";
        story.truth.begin_upload(&part);
        story.sweep_and_end();
        story.breaks("file-lifetime", "upload-left-behind");
    }

    /// After the sweep the files of a dropped checkpoint are still there.
    #[test]
    fn files_left_behind_are_found() {
        let mut story = Story::begin();
        story.retain = 1;
        story.checkpoint(1, &[10, 10]).commit(1).checkpoint(2, &[20, 20]).commit(2);
        story.sweep_and_end();
        story.breaks("file-lifetime", "left-behind");
    }
}

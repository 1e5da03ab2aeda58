//! Invariant 6: nothing that is needed is deleted, and in the end nothing that is not needed is left.
//!
//! Rule: an object that a retained checkpoint references, a data object of a commit manifest, a data object that a
//! completed checkpoint still has to commit, a manifest, a head entry: none of these is deleted by the system. After quiescence and
//! one sweep, every object below the checkpoints and below the sinks' data is referenced.
//!
//! Truth: the head log at the instant of the deletion (an entry that drops a checkpoint must be durable before its
//! files go), the metadata as it was when the checkpoint completed, the store's own list.
//!
//! Excuse: none. What the plan destroys is not deleted by the system and does not pass here.

use std::collections::BTreeSet;

use super::{Check, Effect, End, Findings, Look};

pub(super) struct Deletion;

impl Check for Deletion {
    fn name(&self) -> &'static str {
        "file-lifetime"
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
    use crate::invariants::testing::Story;

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

//! Invariant 16: a checkpoint refers only to files of checkpoints that are complete.
//!
//! Rule: an object that a completed checkpoint needs and that an earlier checkpoint has written is one that a checkpoint which
//! completed before needs, too. What was never confirmed may be deleted at any time, by whoever gives it up, so nothing may be
//! built upon it (Flink's base of an incremental checkpoint).
//!
//! Truth: the metadata of completed checkpoints as it lay in primary; checkpoints in object names.

use super::{
    Check, Findings, Look,
    formats::{HeadRecord, checkpoint_in_name},
    ground::{CompletedFact, HeadFact},
};

pub(super) const NAME: &str = "reuse";

pub(super) struct Reuse;

impl Check for Reuse {
    fn name(&self) -> &'static str {
        NAME
    }

    fn on_head(&mut self, look: &Look<'_>, fact: &HeadFact, out: &mut Findings<'_>) {
        let HeadRecord::Completed(completion) = &fact.record else { return };
        let head = &look.ground.head;
        let Some(completed) = head.completed.get(&completion.checkpoint) else { return };
        let prefix = format!("checkpoints/{}/", look.ground.job);
        for (_, part) in completed.parts() {
            let Some(object) = part.object() else { continue };
            let below = object.as_str().strip_prefix(&prefix);
            let Some(writer) = below.and_then(checkpoint_in_name) else { continue };
            let is_known = |before: &CompletedFact| before.needed().any(|needed| needed == object.as_str());
            if writer != completion.checkpoint
                && !head.completed.range(..completion.checkpoint).rev().any(|(_, before)| is_known(before))
            {
                let message =
                    format!("{object} was written for checkpoint {writer}, and no complete checkpoint has it");
                out.report(format!("checkpoint {}", completion.checkpoint), "unconfirmed-base", message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::invariants::testing::Story;

    #[test]
    fn what_is_complete_can_be_referred_to() {
        let mut story = Story::begin();
        let first = story.prepare(1, &[10, 10]);
        story.complete_prepared(&first);
        story.commit(1);
        story.reusing(2, &first);
        // After a restart, too: a file outlives the attempt that wrote it.
        story.commit(2).restore(Some(2), Some(2));
        story.reusing(3, &first);
        story.holds();
    }

    #[test]
    fn a_file_of_an_unconfirmed_checkpoint_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1);
        let given_up = story.prepare(2, &[10, 10]);
        story.reusing(3, &given_up);
        story.breaks("reuse", "unconfirmed-base");
    }
}

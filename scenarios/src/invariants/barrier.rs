//! Invariant 8: every record is on the right side of barrier n.
//!
//! Rule: what was put out up to completed checkpoint n is exactly the effect of the inputs below the source positions that the
//! head log holds for n, and (while no restore came between, else it is invariant 3's) the keyed state in checkpoint n is
//! exactly what that output implies: an input's effect is in neither twice and in none is it missing.
//!
//! Truth: the data objects listed by the head entry, the state parts in primary, the ledger's positions; judged at the
//! instant the head entry is durable, before anybody acts on it.
//!
//! Excuse: parts or data objects that the plan destroyed are not judged.

use runtime::ids::AttemptId;

use super::{Check, Findings, Look, formats::HeadRecord, ground::HeadFact};

#[derive(Default)]
pub(super) struct Barrier {
    last: Option<AttemptId>,
}

impl Check for Barrier {
    fn name(&self) -> &'static str {
        "barrier-side"
    }

    fn on_head(&mut self, look: &Look<'_>, fact: &HeadFact, out: &mut Findings<'_>) {
        let HeadRecord::Completed(completion) = &fact.record else { return };
        let Some(completed) = look.ground.head.completed.get(&completion.checkpoint) else { return };
        let entity = format!("checkpoint {}", completion.checkpoint);
        let oracle = look.ground.oracle_at(look.truth, completed);
        if let Some(oracle) = &oracle
            && let Err(wrong) = oracle.covers(&completion.ledger.positions)
        {
            out.report(&entity, wrong.kind, format!("{}: {}", wrong.entity, wrong.message));
        }
        let restored_since = look.ground.head.attempt != self.last && look.ground.head.restored.flatten().is_some();
        if !restored_since
            && let Some(oracle) = &oracle
            && let Err(wrong) = look.ground.state_agrees(look.truth, completed, oracle.as_ref())
        {
            out.report(&entity, wrong.kind, format!("{}: {}", wrong.entity, wrong.message));
        }
        self.last = look.ground.head.attempt;
    }
}

#[cfg(test)]
mod tests {
    use crate::invariants::testing::Story;

    /// Positions, output and state of each checkpoint belong together.
    #[test]
    fn matching_sides_pass() {
        let mut story = Story::begin();
        story.checkpoint(1, &[5, 9]).commit(1).checkpoint(2, &[7, 20]);
        story.holds();
    }

    /// The sources stood at 5 and 9 when the barrier was emitted, yet a record from behind it was counted before it.
    #[test]
    fn a_record_on_the_wrong_side_is_found() {
        let mut story = Story::begin();
        let mut prepared = story.prepare(1, &[5, 9]);
        prepared.positions[0] = 4;
        story.complete_prepared(&prepared);
        story.breaks("barrier-side", "early");
    }

    /// The state of the snapshot holds a record that is not in the output before the barrier.
    #[test]
    fn state_ahead_of_the_output_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[5, 9]).commit(1);
        let lines = story.model.clone();
        story.model.read(0);
        story.model.positions = lines.positions;
        story.checkpoint(2, &[5, 9]);
        story.breaks("barrier-side", "state-value");
    }
}

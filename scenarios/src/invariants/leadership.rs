//! Invariant 12: one leader's effects per epoch; a zombie changes nothing.
//!
//! Rule: the head log has one claim per leader epoch, epochs rise, and between two claims every entry was created by the very
//! process (and incarnation) that made the first of them and carries its epoch. Executions rise. A completed checkpoint
//! consists of objects of one attempt only, the current one, and of what complete checkpoints before it had already: an
//! acknowledgement of an older attempt never helps to complete. A manifest created by a process that is not the leader says what the head log says or is a void marker of
//! its own time; otherwise it has no business there.
//!
//! Truth: head entries and who created them (from the store, not from the entry); attempts in object names.
//!
//! Excuse: a request of a fenced leader that was already on its way may still land, if it repeats what is decided.

use runtime::ids::{AttemptId, LeaderEpoch, OperatorUid};

use super::{
    Check, Findings, Look, ManifestFact,
    formats::{HeadRecord, attempt_in_name},
    ground::HeadFact,
};

pub(super) const NAME: &str = "one-leader";

#[derive(Default)]
pub(super) struct Leadership {
    claim: Option<(LeaderEpoch, String, u64)>,
    attempt: Option<AttemptId>,
}

impl Leadership {
    fn author(&self, fact: &HeadFact, leader: Option<LeaderEpoch>, out: &mut Findings<'_>) {
        let entity = format!("head entry {}", fact.sequence);
        let Some((epoch, process, incarnation)) = &self.claim else {
            return out.report(entity, "unclaimed", "nobody has claimed the leadership before it");
        };
        if let Some(leader) = leader
            && leader != *epoch
        {
            out.report(&entity, "foreign-epoch", format!("it is of epoch {leader}, the leader's is {epoch}"));
        }
        // An author the store did not report is not known, which is no offence.
        if !fact.process.is_empty() && (&fact.process, fact.incarnation) != (process, *incarnation) {
            let message = format!(
                "created by {} incarnation {}, the leader is {process} incarnation {incarnation}",
                fact.process, fact.incarnation
            );
            out.report(&entity, "foreign-author", message);
        }
    }
}

impl Check for Leadership {
    fn name(&self) -> &'static str {
        NAME
    }

    fn on_head(&mut self, look: &Look<'_>, fact: &HeadFact, out: &mut Findings<'_>) {
        match &fact.record {
            HeadRecord::Claimed { leader } => {
                if let Some((before, ..)) = &self.claim
                    && before >= leader
                {
                    let message = format!("epoch {leader} is claimed after epoch {before}");
                    out.report(format!("head entry {}", fact.sequence), "epoch-reused", message);
                }
                self.claim = Some((*leader, fact.process.clone(), fact.incarnation));
            }
            HeadRecord::Restored { attempt, .. } => {
                self.author(fact, Some(attempt.leader), out);
                if self.attempt.is_some_and(|before| before >= *attempt) {
                    let message = format!("attempt {attempt} follows {:?}", self.attempt);
                    out.report(format!("head entry {}", fact.sequence), "attempt-reused", message);
                }
                self.attempt = Some(*attempt);
            }
            HeadRecord::Completed(completion) => {
                self.author(fact, Some(completion.leader), out);
                let Some(completed) = look.ground.head.completed.get(&completion.checkpoint) else { return };
                let sinks = completion.sinks.values().flatten().map(|o| o.object.as_str());
                let mut seen = self.attempt;
                for object in completed.needed().chain(sinks) {
                    let Some(attempt) = attempt_in_name(object) else { continue };
                    // Without an entry about the current attempt, all must at least agree.
                    let current = *seen.get_or_insert(attempt);
                    // What a checkpoint before had already may be of any attempt before.
                    let before = look.ground.head.completed.range(..completion.checkpoint);
                    let reused = before.rev().any(|(_, before)| before.needed().any(|needed| needed == object));
                    if attempt != current && !reused {
                        let message = format!("{object} is of attempt {attempt}, the current one is {current}");
                        out.report(format!("checkpoint {}", completion.checkpoint), "stale-ack", message);
                    }
                }
            }
            HeadRecord::IdBlock { .. }
            | HeadRecord::Finished
            | HeadRecord::Failed { .. }
            | HeadRecord::SavepointBegun { .. }
            | HeadRecord::SavepointOvertaken { .. }
            | HeadRecord::Imported { .. }
            | HeadRecord::Stopped => self.author(fact, None, out),
        }
    }

    fn on_manifest(&mut self, look: &Look<'_>, fact: &ManifestFact<'_>, out: &mut Findings<'_>) {
        let name = look.ground.layout.sink_commit(fact.sink, fact.epoch);
        let Some(shadow) = look.ground.shadows.get(name.as_str()) else { return };
        let leads = self
            .claim
            .as_ref()
            .is_some_and(|(_, process, incarnation)| (process, *incarnation) == (&shadow.process, shadow.incarnation));
        if leads {
            return;
        }
        if let Ok(manifest) = &fact.manifest
            && manifest.commit
        {
            let decided = look.ground.head.completed.get(&fact.epoch).is_some_and(|completed| {
                let sink = OperatorUid(fact.sink.to_string());
                completed.completion.sinks.get(&sink).map_or(0, Vec::len) == manifest.objects.len()
            });
            if !decided {
                let message = format!("{} incarnation {} does not lead", shadow.process, shadow.incarnation);
                out.report(format!("{} epoch {}", fact.sink, fact.epoch), "zombie-commit", message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::ids::LeaderEpoch;

    use crate::invariants::{HeadRecord, testing::Story};

    /// A second JobManager takes over and goes on under its own epoch.
    #[test]
    fn an_orderly_change_of_leader_passes() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1);
        story.claim(2);
        story.restore(Some(1), Some(1));
        story.checkpoint(2, &[20, 20]).commit(2);
        story.holds();
    }

    /// The first JobManager comes back from a pause and completes a checkpoint although a second one leads.
    #[test]
    fn an_entry_of_a_fenced_leader_is_found() {
        let mut story = Story::begin();
        story.claim(2);
        story.incarnation = 1;
        story.head(&HeadRecord::IdBlock { from: runtime::ids::CheckpointId(1), to: runtime::ids::CheckpointId(9) });
        story.breaks("one-leader", "foreign-author");
    }

    /// Two JobManagers claim the same epoch.
    #[test]
    fn an_epoch_claimed_twice_is_found() {
        let mut story = Story::begin();
        story.head(&HeadRecord::Claimed { leader: LeaderEpoch(1) });
        story.breaks("one-leader", "epoch-reused");
    }

    /// A task of the attempt before acknowledged, and the checkpoint completed with its part.
    #[test]
    fn a_zombies_acknowledgement_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1);
        let stale = story.prepare(2, &[20, 20]);
        story.restore(Some(1), Some(1));
        story.complete_prepared(&stale);
        story.breaks("one-leader", "stale-ack");
    }

    /// An attempt of another epoch than the leader's is recorded; an attempt is recorded twice.
    #[test]
    fn an_attempt_out_of_its_time_is_found() {
        let mut story = Story::begin();
        story.attempt.leader = LeaderEpoch(7);
        story.restore(None, None);
        story.breaks("one-leader", "foreign-epoch");
        let mut story = Story::begin();
        story.restore(None, None);
        let attempt = story.attempt;
        story.head(&HeadRecord::Restored { attempt, checkpoint: None, condemned: Vec::new() });
        story.breaks("one-leader", "attempt-reused");
    }

    /// A JobManager that was replaced makes output visible that nobody decided on.
    #[test]
    fn a_commit_of_a_fenced_leader_is_found() {
        let mut story = Story::begin();
        let prepared = story.prepare(1, &[10, 10]);
        story.claim(2);
        story.incarnation = 1;
        story.commit_prepared(&prepared);
        story.breaks("one-leader", "zombie-commit");
    }

    /// The same request of a replaced JobManager, but what it says was decided before: it may land late.
    #[test]
    fn a_late_commit_of_what_was_decided_passes() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]);
        story.claim(2);
        story.incarnation = 1;
        story.commit(1);
        story.holds();
    }

    /// An entry of the log is no entry.
    #[test]
    fn an_unreadable_entry_is_found() {
        let mut story = Story::begin();
        let name = story.layout().head_entry(1);
        story.create(name.as_str(), "nonsense");
        story.breaks("one-leader", "head-unreadable");
    }
}

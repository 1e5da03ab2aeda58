//! Invariant 4: correct fallback.
//!
//! Rule: the checkpoint chosen is a retained one, never an aborted, expired or dropped one, and every retained one that is
//! newer is truly broken: some part of it is gone or rotten in primary and was not to be had from a local copy on the
//! machine where it was tried. A start from nothing is right only if nothing retained is whole. A part is called lost only when
//! it is. Recovery is called impossible only if nothing retained is whole. (What must be replayed is invariant 5's.)
//!
//! Truth: retained set from the head log, parts in primary hashed against what was created, local files of the machine that
//! tried; at the instant the subtask gives the part up, or the choice is made.
//!
//! Excuse: parts whose reads the plan made to fail (they are named by it), disks it disturbs.

use std::collections::BTreeSet;

use runtime::{ids::CheckpointId, journal::Event};
use xxhash_rust::xxh3::xxh3_64;

use super::{Check, FallbackPolicy, Findings, Look, Seen, ground::CompletedFact};

#[derive(Default)]
pub(super) struct Fallback {
    /// Checkpoints of which a part was rightly given up.
    proven: BTreeSet<CheckpointId>,
}

impl Fallback {
    fn part_lost(
        &mut self,
        look: &Look<'_>,
        seen: &Seen<'_>,
        subtask: &str,
        checkpoint: CheckpointId,
        part: &str,
        out: &mut Findings<'_>,
    ) {
        let ground = look.ground;
        let known = ground.head.completed.get(&checkpoint).and_then(|completed| {
            let key = look.config.subtasks.get(subtask)?;
            completed.part_for(*key, part)
        });
        let Some((key, known)) = known else {
            // Its metadata was unreadable already, or nothing is known of such a part.
            self.proven.insert(checkpoint);
            return;
        };
        let object = &known.location;
        let unreadable = known.object().is_some_and(|object| ground.damage.unreadable(object.as_str()));
        if ground.part_intact(look.truth, known).is_ok() && !unreadable {
            let message = format!("part {part} of checkpoint {checkpoint} was given up; {object} is whole in primary");
            return out.report(subtask, "given-up-though-whole", message);
        }
        if look.config.local_recovery
            && let Some(machine) = look.truth.machine_of(seen.process)
            && let Some(hash) = ground.part_hash(known)
        {
            // Whichever subtask and slot it is of.
            for (at, path, bytes) in ground.local_copies(look.truth, checkpoint, key, &known.name) {
                let usable = at == machine && xxh3_64(&bytes) == hash;
                // A copy whose manifest was hit is dropped as a whole, however good its files look: it is in doubt.
                if usable && ground.damage.file(&machine, &path).is_none() && !ground.manifest_hit(&machine, &path) {
                    let message = format!("part {part} of checkpoint {checkpoint} was given up; {path} has it");
                    return out.report(subtask, "given-up-though-local", message);
                }
            }
        }
        self.proven.insert(checkpoint);
    }

    /// Why `completed` cannot be restored; None if it could be.
    fn why_not(&self, look: &Look<'_>, completed: &CompletedFact) -> Option<String> {
        let checkpoint = completed.completion.checkpoint;
        if self.proven.contains(&checkpoint) {
            return Some("a part was given up rightly".into());
        }
        // An unreadable metadata object is found by the JobManager alone, without a subtask's report.
        if look.ground.damage.unreadable(completed.completion.metadata.as_str()) {
            return Some("the plan damaged its metadata".into());
        }
        look.ground.broken(look.truth, completed, look.config.local_recovery)
    }

    fn chosen(&self, look: &Look<'_>, chosen: Option<CheckpointId>, out: &mut Findings<'_>) {
        let head = &look.ground.head;
        let entity = chosen.map_or_else(|| "a fresh start".to_string(), |id| format!("checkpoint {id}"));
        if let Some(id) = chosen {
            match head.completed.get(&id) {
                None => return out.report(entity, "never-completed", "the head log has no such completed checkpoint"),
                Some(_) if !head.retained.contains(&id) => {
                    let message = format!("it is not retained any more, these are: {:?}", head.retained);
                    return out.report(entity, "not-retained", message);
                }
                Some(_) => {}
            }
        }
        for newer in look.ground.retained().filter(|c| chosen.is_none_or(|id| c.completion.checkpoint > id)) {
            if self.why_not(look, newer).is_none() {
                let message = format!("checkpoint {} is newer, retained and whole", newer.completion.checkpoint);
                return out.report(entity, "not-the-newest-whole", message);
            }
        }
    }
}

impl Check for Fallback {
    fn name(&self) -> &'static str {
        "correct-fallback"
    }

    fn on_event(&mut self, look: &Look<'_>, seen: &Seen<'_>, out: &mut Findings<'_>) {
        match seen.event {
            Event::RestorePartLost { subtask, checkpoint, part, .. } => {
                self.part_lost(look, seen, subtask, *checkpoint, part, out);
            }
            // Whoever leads no more judges by an old log, or hears only now that what it recorded while it led is durable. It cannot
            // record what follows from that.
            Event::RestoreChosen { .. } | Event::RecoveryImpossible { .. }
                if !look.ground.head.is_led_by(seen.process, seen.incarnation) => {}
            Event::RestoreChosen { checkpoint, .. } => self.chosen(look, *checkpoint, out),
            Event::RecoveryImpossible { tried, .. } => {
                let newest = look.ground.head.completed.keys().next_back().copied();
                for completed in look.ground.retained() {
                    // Under `fail` whatever lies behind the newest is no way back.
                    let behind = Some(completed.completion.checkpoint) < newest;
                    if look.config.fallback == FallbackPolicy::Fail && behind {
                        continue;
                    }
                    if self.why_not(look, completed).is_none() {
                        let message =
                            format!("checkpoint {} is whole; tried: {tried}", completed.completion.checkpoint);
                        out.report("job", "impossible-though-whole", message);
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::{ids::CheckpointId, journal::Event};

    use crate::invariants::{FallbackPolicy, testing::Story};

    /// The newest is whole and chosen; after its part is lost, the one before is.
    #[test]
    fn newest_whole_checkpoint_passes() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).checkpoint(2, &[20, 20]);
        story.restore(Some(2), Some(2));
        story.lose_part(2);
        story.restore(Some(1), Some(2));
        story.holds();
    }

    /// The first JobManager comes back after a second one has taken over, knows nothing of the newer checkpoints, and finds
    /// the old ones gone. It says so, and can record nothing of it. The second one may not say that.
    #[test]
    fn a_replaced_leader_may_find_nothing_where_the_leader_may_not() {
        let impossible = || Event::RecoveryImpossible { job: "job".into(), tried: "checkpoint 1: lost".into() };
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]);
        story.claim(2);
        story.checkpoint(2, &[20, 20]);
        story.incarnation -= 1;
        story.event("jobmanager", impossible());
        story.incarnation += 1;
        story.holds();
        story.event("jobmanager", impossible());
        story.breaks("correct-fallback", "impossible-though-whole");
    }

    /// The older one is chosen although the newest is whole.
    #[test]
    fn needless_fallback_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).checkpoint(2, &[20, 20]);
        story.restore(Some(1), Some(2));
        story.breaks("correct-fallback", "not-the-newest-whole");
    }

    /// A part lost in primary is no reason where the local copy has it.
    #[test]
    fn local_copy_makes_a_lost_part_good() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).checkpoint(2, &[20, 20]).local_copy("machine-1", 2);
        story.lose_part(2);
        story.part_lost("tm-1", 2);
        story.breaks("correct-fallback", "given-up-though-local");
    }

    /// A subtask gives a part up that lies in primary unharmed.
    #[test]
    fn a_part_given_up_for_nothing_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]);
        story.part_lost("tm-1", 1);
        story.breaks("correct-fallback", "given-up-though-whole");
    }

    /// A dropped checkpoint is chosen.
    #[test]
    fn a_dropped_checkpoint_is_never_right() {
        let mut story = Story::begin();
        story.retain = 1;
        story.checkpoint(1, &[10, 10]).checkpoint(2, &[20, 20]);
        story.lose_part(2);
        story.restore(Some(1), Some(2));
        story.breaks("correct-fallback", "not-retained");
    }

    fn chosen(story: &mut Story, checkpoint: u64) {
        let (job, attempt, checkpoint) = ("job".to_string(), story.next_attempt(), Some(CheckpointId(checkpoint)));
        let event = Event::RestoreChosen { job, checkpoint, newest: checkpoint, replay_to: None, attempt };
        story.event("jobmanager", event);
    }

    /// A leader was frozen while the log took its choice, and hears of that when its successor has completed checkpoint 2.
    #[test]
    fn a_replaced_leader_hears_late_of_its_choice() {
        for leads in [false, true] {
            let mut story = Story::begin();
            story.checkpoint(1, &[10, 10]).checkpoint(2, &[20, 20]);
            if !leads {
                story.claim(2);
                story.incarnation -= 1;
            }
            chosen(&mut story, 1);
            if leads { story.breaks("correct-fallback", "not-the-newest-whole") } else { story.holds() }
        }
    }

    fn given_up(story: &mut Story) {
        story.event("jobmanager", Event::RecoveryImpossible { job: "job".into(), tried: "everything".into() });
    }

    /// A checkpoint that never completed is chosen.
    #[test]
    fn an_aborted_checkpoint_is_never_right() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]);
        chosen(&mut story, 2);
        story.breaks("correct-fallback", "never-completed");
    }

    /// Recovery is called impossible: of two checkpoints one is lost, both are lost, or the other one may not be used.
    #[test]
    fn giving_up_is_right_only_if_nothing_is_whole() {
        for (lost, policy, right) in [
            (vec![2], FallbackPolicy::Replay, false),
            (vec![1, 2], FallbackPolicy::Replay, true),
            (vec![2], FallbackPolicy::Fail, true),
            (vec![1], FallbackPolicy::Fail, false),
        ] {
            let mut story = Story::configured(|config| config.fallback = policy);
            story.checkpoint(1, &[10, 10]).checkpoint(2, &[20, 20]);
            lost.iter().for_each(|id| story.lose_part(*id));
            given_up(&mut story);
            if right { story.holds() } else { story.breaks("correct-fallback", "impossible-though-whole") }
        }
    }
}

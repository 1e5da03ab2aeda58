//! Invariant 5: fallback behind a commit keeps exactly-once.
//!
//! Rule: the digest that the ledger holds for an epoch is that of the data objects which the epoch committed. When a restore goes
//! back behind visible output, a replay up to the newest committed epoch is ordered (policy `replay`), each epoch in between
//! is verified before the next commit, and no epoch up to there is committed again. The output after it goes on without gap
//! or duplicate, which is invariant 1's oracle to say.
//!
//! Truth: committed data objects, digested by code of this crate; manifests; the head log. That an epoch was verified
//! in time is known from the event alone, which can accuse but never acquit: a replay that went wrong shows in the output.
//!
//! Excuse: policy `duplicate` orders no replay.

use std::collections::BTreeSet;

use runtime::{
    ids::{CheckpointId, OperatorUid},
    journal::Event,
};

use super::{Check, FallbackPolicy, Findings, Look, ManifestFact, Seen};

#[derive(Default)]
pub(super) struct Replay {
    /// Epochs that must be verified before the next commit.
    open: BTreeSet<CheckpointId>,
    /// The newest epoch of the replay ordered last.
    up_to: Option<CheckpointId>,
}

impl Check for Replay {
    fn name(&self) -> &'static str {
        "fallback-behind-commit"
    }

    fn on_event(&mut self, look: &Look<'_>, seen: &Seen<'_>, out: &mut Findings<'_>) {
        match seen.event {
            // Whoever leads no more may hear late of what it recorded while it led; what it orders nobody obeys, and what it has
            // verified is no replay of the leader's.
            Event::RestoreChosen { .. } | Event::ReplayEpochVerified { .. }
                if !look.ground.head.is_led_by(seen.process, seen.incarnation) => {}
            Event::RestoreChosen { checkpoint, replay_to, .. } => {
                self.open.clear();
                self.up_to = None;
                let Some(committed) = look.ground.newest_committed().filter(|c| checkpoint.is_none_or(|r| r < *c))
                else {
                    return;
                };
                let entity = format!("restore of {checkpoint:?}");
                match look.config.fallback {
                    FallbackPolicy::Duplicate => return,
                    FallbackPolicy::Fail => {
                        let message = format!("epoch {committed} is visible, the configuration says fail");
                        return out.report(entity, "went-on-behind-commit", message);
                    }
                    FallbackPolicy::Replay => {}
                }
                if *replay_to < Some(committed) {
                    let message = format!("epoch {committed} is visible, the replay ordered goes to {replay_to:?}");
                    out.report(entity, "replay-too-short", message);
                }
                self.up_to = *replay_to;
                let mut next = *replay_to;
                while let Some(epoch) = next.filter(|epoch| checkpoint.is_none_or(|r| *epoch > r))
                    && self.open.insert(epoch)
                {
                    next = look.ground.head.completed.get(&epoch).and_then(|c| c.completion.ledger.previous);
                }
            }
            Event::ReplayEpochVerified { epoch } => {
                self.open.remove(epoch);
            }
            Event::ReplayMismatch { epoch, sink } => {
                let message = format!("{sink}: the job is deterministic, yet its replay gave other output");
                out.report(format!("epoch {epoch}"), "replay-mismatch", message);
            }
            _ => {}
        }
    }

    fn on_manifest(&mut self, look: &Look<'_>, fact: &ManifestFact<'_>, out: &mut Findings<'_>) {
        let Ok(manifest) = &fact.manifest else { return };
        if !manifest.commit {
            return;
        }
        let entity = format!("{} epoch {}", fact.sink, fact.epoch);
        let Some(completed) = look.ground.head.completed.get(&fact.epoch) else { return };
        if let Some(Ok(own)) = &fact.absorbed {
            let ledger = completed.completion.ledger.digests.get(&OperatorUid(fact.sink.to_string())).copied();
            let ledger = ledger.unwrap_or_default();
            if (own.sum, own.records) != (ledger.sum, ledger.records) {
                let message = format!("the committed objects give {own:?}, the ledger holds {ledger:?}");
                out.report(&entity, "ledger-digest", message);
            }
        }
        if self.up_to.is_some_and(|up_to| fact.epoch > up_to) && !self.open.is_empty() {
            let message = format!("committed while these epochs of the replay are not verified: {:?}", self.open);
            out.report(&entity, "commit-before-verification", message);
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::{ids::CheckpointId, journal::Event};

    use crate::invariants::{FallbackPolicy, testing::Story};

    /// Checkpoint 2 is lost after its commit; the job restores 1, replays epoch 2 muted, and goes on with 3.
    #[test]
    fn a_verified_replay_passes() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1).checkpoint(2, &[20, 20]).commit(2);
        story.lose_part(2);
        story.restore(Some(1), Some(2));
        story.event("jobmanager", Event::ReplayEpochVerified { epoch: CheckpointId(2) });
        story.checkpoint(3, &[30, 30]).commit(3);
        story.finish();
        story.holds();
    }

    /// The next epoch is committed before the replay was verified.
    #[test]
    fn a_commit_before_verification_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1).checkpoint(2, &[20, 20]).commit(2);
        story.lose_part(2);
        story.restore(Some(1), Some(2));
        story.checkpoint(3, &[30, 30]).commit(3);
        story.breaks("fallback-behind-commit", "commit-before-verification");
    }

    /// The ledger's digest is not that of what was committed.
    #[test]
    fn a_wrong_digest_in_the_ledger_is_found() {
        let mut story = Story::begin();
        let mut prepared = story.prepare(1, &[10, 10]);
        prepared.digest.sum ^= 1;
        story.complete_prepared(&prepared);
        story.commit(1);
        story.breaks("fallback-behind-commit", "ledger-digest");
    }

    /// The restore goes behind visible output without a replay.
    #[test]
    fn a_restore_without_replay_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1).checkpoint(2, &[20, 20]).commit(2);
        story.lose_part(2);
        let (checkpoint, newest) = (Some(CheckpointId(1)), Some(CheckpointId(2)));
        let attempt = story.next_attempt();
        let job = "job".to_string();
        story.event("jobmanager", Event::RestoreChosen { job, checkpoint, newest, replay_to: None, attempt });
        story.breaks("fallback-behind-commit", "replay-too-short");
    }

    /// A replaced leader orders a replay, and says that it is verified: neither concerns that of its successor.
    #[test]
    fn the_replay_of_a_replaced_leader_counts_for_nothing() {
        for verified in [None, Some("successor"), Some("jobmanager")] {
            let mut story = Story::begin();
            story.checkpoint(1, &[10, 10]).commit(1).checkpoint(2, &[20, 20]).commit(2);
            story.claim(2);
            let order = |story: &mut Story, checkpoint: u64, replay_to| {
                let (job, attempt, checkpoint) =
                    ("job".to_string(), story.next_attempt(), Some(CheckpointId(checkpoint)));
                let newest = Some(CheckpointId(2));
                story.event("jobmanager", Event::RestoreChosen { job, checkpoint, newest, replay_to, attempt });
            };
            let verify = |story: &mut Story| {
                story.event("jobmanager", Event::ReplayEpochVerified { epoch: CheckpointId(2) });
            };
            if verified.is_some() {
                story.lose_part(2);
                story.restore(Some(1), Some(2));
            } else {
                story.restore(Some(2), Some(2));
            }
            story.incarnation -= 1;
            match verified {
                None => order(&mut story, 1, None),
                Some("jobmanager") => verify(&mut story),
                Some(_) => {}
            }
            story.incarnation += 1;
            if verified == Some("successor") {
                verify(&mut story);
            }
            story.checkpoint(3, &[30, 30]).commit(3);
            if verified == Some("jobmanager") {
                story.breaks("fallback-behind-commit", "commit-before-verification");
            } else {
                story.holds();
            }
        }
    }

    /// The replay gives other output than was committed.
    #[test]
    fn a_replay_with_other_output_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1);
        let (epoch, sink) = (CheckpointId(1), "audit".to_string());
        story.event("jobmanager", Event::ReplayMismatch { epoch, sink });
        story.breaks("fallback-behind-commit", "replay-mismatch");
    }

    /// The job goes back behind visible output under each policy: one forbids it, one does not care.
    #[test]
    fn the_policy_decides_about_going_on() {
        for (policy, right) in [(FallbackPolicy::Fail, false), (FallbackPolicy::Duplicate, true)] {
            let mut story = Story::configured(|config| config.fallback = policy);
            story.checkpoint(1, &[10, 10]).commit(1).checkpoint(2, &[20, 20]).commit(2);
            story.lose_part(2);
            let (checkpoint, newest) = (Some(CheckpointId(1)), Some(CheckpointId(2)));
            let (job, attempt) = ("job".to_string(), story.next_attempt());
            story.event("jobmanager", Event::RestoreChosen { job, checkpoint, newest, replay_to: None, attempt });
            if right { story.holds() } else { story.breaks("fallback-behind-commit", "went-on-behind-commit") }
        }
    }

    /// A restore of the newest checkpoint needs no replay.
    #[test]
    fn the_newest_checkpoint_needs_no_replay() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1).checkpoint(2, &[20, 20]).commit(2);
        story.restore(Some(2), Some(2));
        story.checkpoint(3, &[30, 30]).commit(3);
        story.finish();
        story.holds();
    }
}

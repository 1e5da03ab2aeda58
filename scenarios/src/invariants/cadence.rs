//! Invariant 7: checkpoint ids strictly increase; concurrency, minimum pause and timeout are respected.
//!
//! Rule: ids of completed checkpoints rise in the head log, across restores, fallbacks and leaders; an id belongs to one
//! attempt only, ever; savepoints have ids of the same sequence, and wait neither for room nor for a pause (FLINK-4322), but count
//! as under way. Under one leader ids are triggered in order. No more than the allowed number is under way at once; a
//! checkpoint is triggered only while the job runs, no sooner than the minimum pause after the last one ended (the final one aside) and completes
//! within its timeout.
//!
//! Truth: order of head entries; attempts in the names of objects below `chk-<n>/`. For the timings there is no truth but the
//! events themselves, stamped with simulated time.
//!
//! Excuse: timings that span a fault on the JobManager's process, the network or the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use runtime::{
    ids::{AttemptId, CheckpointId},
    journal::Event,
};

use super::{
    Check, Effect, Findings, Look, Seen,
    formats::{HeadRecord, attempt_in_name, checkpoint_in_name},
    ground::HeadFact,
};

#[derive(Default)]
pub(super) struct Cadence {
    completed: Option<CheckpointId>,
    owner: BTreeMap<CheckpointId, AttemptId>,
    triggered: BTreeMap<CheckpointId, (AttemptId, Duration)>,
    /// Asked for by somebody: they wait for nothing.
    savepoints: BTreeSet<CheckpointId>,
    /// By process and incarnation: a leader that was replaced without knowing goes on for a while, by its own clock.
    leaders: BTreeMap<(String, u64), Leader>,
}

/// What one leader does.
#[derive(Default)]
struct Leader {
    pending: BTreeMap<CheckpointId, Duration>,
    /// The last id triggered.
    last: Option<CheckpointId>,
    ended: Option<Duration>,
    sources_done: bool,
    /// Of the job, as the leader says it.
    state: Option<String>,
}

impl Cadence {
    fn claim(&mut self, checkpoint: CheckpointId, attempt: AttemptId, what: &str, out: &mut Findings<'_>) {
        let owner = *self.owner.entry(checkpoint).or_insert(attempt);
        if owner != attempt {
            let message = format!("{what} of attempt {attempt}; the id belonged to attempt {owner}");
            out.report(format!("checkpoint {checkpoint}"), "id-reused", message);
        }
    }

    fn trigger(
        &mut self,
        look: &Look<'_>,
        seen: &Seen<'_>,
        checkpoint: CheckpointId,
        attempt: AttemptId,
        out: &mut Findings<'_>,
    ) {
        let entity = format!("checkpoint {checkpoint}");
        self.claim(checkpoint, attempt, "triggered", out);
        let leader = self.leaders.entry((seen.process.to_string(), seen.incarnation)).or_default();
        if let Some(last) = leader.last.replace(checkpoint)
            && last >= checkpoint
        {
            out.report(&entity, "id-not-increasing", format!("triggered after checkpoint {last}"));
        }
        // What an older attempt left open is not under way any more.
        let triggered = &self.triggered;
        leader.pending.retain(|id, _| triggered.get(id).is_some_and(|(of, _)| *of == attempt));
        self.triggered.insert(checkpoint, (attempt, seen.at));
        leader.pending.insert(checkpoint, seen.at);
        if let Some(state) = leader.state.as_ref().filter(|state| !state.eq_ignore_ascii_case("running")) {
            out.report(&entity, "triggered-while-not-running", format!("the job is {state}"));
        }
        let timing = look.config.timing;
        if self.savepoints.contains(&checkpoint) {
            return;
        }
        if leader.pending.len() > timing.max_concurrent as usize {
            let message = format!("{:?} are under way at once", leader.pending.keys().collect::<Vec<_>>());
            out.report(&entity, "too-many-concurrent", message);
        }
        if let Some(ended) = leader.ended
            && !leader.sources_done
            && seen.at + timing.tolerance < ended + timing.min_pause
            && !look.ground.damage.disturbed(seen.process, ended, seen.at)
        {
            let message = format!("triggered {:?} after the last one ended", seen.at.saturating_sub(ended));
            out.report(&entity, "pause-too-short", message);
        }
    }
}

impl Check for Cadence {
    fn name(&self) -> &'static str {
        "checkpoint-ids"
    }

    fn on_event(&mut self, look: &Look<'_>, seen: &Seen<'_>, out: &mut Findings<'_>) {
        let leader = || (seen.process.to_string(), seen.incarnation);
        match seen.event {
            Event::SavepointTriggered { checkpoint, .. } => {
                self.savepoints.insert(*checkpoint);
            }
            // Behind a later checkpoint: it ends nobody's pause.
            Event::SavepointCompleted { checkpoint, overtaken: true, .. } => {
                self.leaders.entry(leader()).or_default().pending.remove(checkpoint);
            }
            Event::CheckpointTriggered { checkpoint, attempt } => self.trigger(look, seen, *checkpoint, *attempt, out),
            Event::CheckpointAborted { checkpoint, .. } | Event::CheckpointExpired { checkpoint } => {
                self.leaders.entry(leader()).or_default().pending.remove(checkpoint);
            }
            Event::CheckpointCompleted { checkpoint, .. } => {
                let leader = self.leaders.entry(leader()).or_default();
                leader.pending.remove(checkpoint);
                leader.ended = Some(seen.at);
            }
            Event::SourceExhausted { .. } => self.leaders.entry(leader()).or_default().sources_done = true,
            Event::LeaderElected { .. } => self.leaders.entry(leader()).or_default().state = None,
            Event::JobStateChanged { to, .. } => {
                self.leaders.entry(leader()).or_default().state = Some(to.clone());
            }
            // A new attempt starts with a clean slate.
            Event::RestoreChosen { .. } => {
                let leader = self.leaders.entry(leader()).or_default();
                *leader = Leader { last: leader.last, state: leader.state.take(), ..Leader::default() };
            }
            Event::CheckpointAcked { subtask, checkpoint } => {
                let timing = look.config.timing;
                let Some((_, since)) = self.triggered.get(checkpoint) else { return };
                if seen.at > *since + timing.timeout + timing.tolerance
                    && !look.ground.damage.disturbed(seen.process, *since, seen.at)
                {
                    let message = format!("{subtask} was acknowledged {:?} after the trigger", seen.at - *since);
                    out.report(format!("checkpoint {checkpoint}"), "timeout-ignored", message);
                }
            }
            _ => {}
        }
    }

    fn on_created(&mut self, look: &Look<'_>, effect: &Effect<'_>, out: &mut Findings<'_>) {
        if let Some(below) = effect.object.strip_prefix(&look.ground.layout.checkpoints_prefix())
            && let Some(checkpoint) = checkpoint_in_name(below)
            && let Some(attempt) = attempt_in_name(below)
        {
            self.claim(checkpoint, attempt, effect.object, out);
        }
    }

    fn on_head(&mut self, _look: &Look<'_>, fact: &HeadFact, out: &mut Findings<'_>) {
        if let HeadRecord::Completed(completion) = &fact.record {
            let checkpoint = completion.checkpoint;
            if let Some(before) = self.completed
                && before >= checkpoint
            {
                let message = format!("completed after checkpoint {before}");
                out.report(format!("checkpoint {checkpoint}"), "id-not-increasing", message);
            }
            self.completed = self.completed.max(Some(checkpoint));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use runtime::{
        ids::{CheckpointId, LeaderEpoch},
        journal::Event,
    };

    use crate::invariants::{
        FaultNotice,
        telling::{aborted, changed, completed, triggered},
        testing::Story,
    };

    /// Ids go on rising after a restart; an aborted id is never used again.
    #[test]
    fn rising_ids_pass() {
        let mut story = Story::begin();
        triggered(&mut story, 1, 100);
        story.checkpoint(1, &[10, 10]).commit(1);
        story.restore(Some(1), Some(1));
        triggered(&mut story, 3, 9000);
        story.checkpoint(3, &[20, 20]).commit(3);
        story.holds();
    }

    /// After the restart the ids begin anew.
    #[test]
    fn an_id_used_again_is_found() {
        let mut story = Story::begin();
        triggered(&mut story, 2, 100);
        story.restore(None, None);
        triggered(&mut story, 2, 9000);
        story.breaks("checkpoint-ids", "id-reused");
    }

    /// Two checkpoints under way where one is allowed.
    #[test]
    fn too_many_at_once_are_found() {
        let mut story = Story::begin();
        triggered(&mut story, 1, 100);
        triggered(&mut story, 2, 5000);
        story.breaks("checkpoint-ids", "too-many-concurrent");
    }

    /// The periodic trigger goes on while the job is stopped; under the next leader the state is not known yet.
    #[test]
    fn a_trigger_of_a_stopped_job_is_found() {
        let mut story = Story::begin();
        changed(&mut story, "RUNNING");
        triggered(&mut story, 1, 100);
        changed(&mut story, "FAILING");
        let (process, leader) = ("jobmanager".to_string(), LeaderEpoch(2));
        story.event("jobmanager", Event::LeaderElected { process, leader, entries: 9 });
        changed(&mut story, "RUNNING");
        aborted(&mut story, 1);
        triggered(&mut story, 2, 9_000);
        story.holds();
        aborted(&mut story, 2);
        changed(&mut story, "FAILING");
        triggered(&mut story, 3, 18_000);
        story.breaks("checkpoint-ids", "triggered-while-not-running");
    }

    /// The next one comes at once although a pause is asked for; after a fault on the JobManager that would be excused.
    #[test]
    fn a_pause_too_short_is_found() {
        for excused in [false, true] {
            let mut story = Story::begin();
            triggered(&mut story, 1, 100);
            completed(&mut story, 1, 500);
            if excused {
                story.fault(&FaultNotice::Process { process: "jobmanager".into() });
            }
            triggered(&mut story, 2, 550);
            if excused { story.holds() } else { story.breaks("checkpoint-ids", "pause-too-short") }
        }
    }

    /// A checkpoint completes after one with a higher id.
    #[test]
    fn completed_ids_rise() {
        let mut story = Story::begin();
        story.checkpoint(2, &[10, 10]).checkpoint(1, &[20, 20]);
        story.breaks("checkpoint-ids", "id-not-increasing");
    }

    /// An acknowledgement counts although the checkpoint's time is over; a fault in between excuses it.
    #[test]
    fn an_ignored_timeout_is_found() {
        for (at_ms, fault, right) in [(10_050, false, true), (10_200, false, false), (10_200, true, true)] {
            let mut story = Story::begin();
            triggered(&mut story, 1, 100);
            if fault {
                story.fault(&FaultNotice::Environment { what: "store".into() });
            }
            story.truth.set_now(Duration::from_millis(at_ms));
            let (subtask, checkpoint) = ("fold[0]".to_string(), CheckpointId(1));
            story.event("jobmanager", Event::CheckpointAcked { subtask, checkpoint });
            if right { story.holds() } else { story.breaks("checkpoint-ids", "timeout-ignored") }
        }
    }
}

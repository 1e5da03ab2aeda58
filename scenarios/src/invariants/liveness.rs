//! Invariant 13: after healing, new checkpoints complete and the job finishes within a bound.
//!
//! Rule: the job is finished (in the head log) no later than the bound after the last fault healed, or after the start if
//! there was none. A job that failed or never ended is in the wrong.
//!
//! Truth: the head log; simulated time.
//!
//! Excuse, by proof only: every retained checkpoint is broken in truth (under policy `fail`: or lies behind a newer one), and
//! a start from nothing is impossible too, because the ledger no longer reaches back to the beginning; or the
//! allowed number of restarts was used up.

use std::time::Duration;

use super::{Check, End, FallbackPolicy, Findings, Look, formats::HeadRecord, ground::HeadFact};

#[derive(Default)]
pub(super) struct Liveness {
    finished: Option<Duration>,
    last_completed: Option<Duration>,
}

/// Why the job cannot go on, proven; None if it could.
fn proof(look: &Look<'_>) -> Option<String> {
    let ground = look.ground;
    if let Some(limit) = look.config.restart_limit
        && ground.head.restores > limit
    {
        return Some(format!("{} attempts, {limit} restarts are allowed", ground.head.restores));
    }
    let newest = *ground.head.completed.keys().next_back()?;
    let fail = look.config.fallback == FallbackPolicy::Fail;
    // From nothing everything can be replayed, as long as the ledger reaches back to the beginning.
    if !fail && ground.head.completed.keys().all(|id| ground.head.retained.contains(id)) {
        return None;
    }
    let mut reasons = Vec::new();
    for completed in ground.retained() {
        let checkpoint = completed.completion.checkpoint;
        match ground.broken(look.truth, completed, true) {
            Some(reason) => reasons.push(format!("checkpoint {checkpoint}: {reason}")),
            None if fail && checkpoint < newest => {
                reasons.push(format!("checkpoint {checkpoint} lies behind {newest}"))
            }
            None => return None,
        }
    }
    Some(reasons.join("; "))
}

impl Check for Liveness {
    fn name(&self) -> &'static str {
        "liveness"
    }

    fn on_head(&mut self, _look: &Look<'_>, fact: &HeadFact, _out: &mut Findings<'_>) {
        match fact.record {
            HeadRecord::Completed(_) => self.last_completed = Some(fact.at),
            HeadRecord::Finished => self.finished = Some(fact.at),
            _ => {}
        }
    }

    fn at_end(&mut self, look: &Look<'_>, end: &End, out: &mut Findings<'_>) {
        let from = look.ground.damage.healed.unwrap_or_default();
        match self.finished {
            Some(at) if at > from + look.config.liveness_bound => {
                let message =
                    format!("finished {:?} after healing, {:?} are allowed", at - from, look.config.liveness_bound);
                out.report("job", "too-late", message);
            }
            Some(_) => {}
            None if proof(look).is_some() => {}
            None => {
                let kind = if matches!(end.outcome, Some(Err(_))) { "failed" } else { "stalled" };
                let message = format!(
                    "outcome {:?}; healed at {from:?}, last completed checkpoint at {:?}, now {:?}; nothing proves that it \
                     could not go on",
                    end.outcome,
                    self.last_completed,
                    look.truth.now()
                );
                out.report("job", kind, message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::invariants::{FallbackPolicy, FaultNotice, testing::Story};

    /// The job just stops.
    #[test]
    fn a_stalled_job_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1);
        story.end(None);
        story.breaks("liveness", "stalled");
    }

    /// The job fails after the plan destroyed the last whole copy: excused. A failure without proof is not.
    #[test]
    fn only_proof_excuses_a_failure() {
        for lost in [true, false] {
            let mut story = Story::begin();
            story.retain = 1;
            story.checkpoint(1, &[10, 10]).commit(1).checkpoint(2, &[20, 20]).commit(2);
            if lost {
                story.lose_part(2);
            }
            story.end(Some(Err("nothing to restore".into())));
            if lost { story.holds() } else { story.breaks("liveness", "failed") }
        }
    }

    /// The only checkpoint is lost, but everything can be replayed from the beginning: giving up is wrong.
    #[test]
    fn giving_up_with_the_whole_ledger_at_hand_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1);
        story.lose_part(1);
        story.end(Some(Err("nothing to restore".into())));
        story.breaks("liveness", "failed");
    }

    /// The job finishes, but long after everything healed.
    #[test]
    fn a_job_that_finishes_too_late_is_found() {
        for (at_s, right) in [(69, true), (71, false)] {
            let mut story = Story::begin();
            story.checkpoint(1, &[30, 30]).commit(1);
            story.truth.set_now(Duration::from_secs(10));
            story.fault(&FaultNotice::Healed);
            story.truth.set_now(Duration::from_secs(at_s));
            story.finish();
            if right { story.holds() } else { story.breaks("liveness", "too-late") }
        }
    }

    /// With a limit of restarts a job may fail when it is used up, and not before.
    #[test]
    fn used_up_restarts_excuse_a_failure() {
        for (limit, right) in [(1, true), (2, false)] {
            let mut story = Story::configured(|config| config.restart_limit = Some(limit));
            story.checkpoint(1, &[10, 10]).commit(1);
            story.restore(Some(1), Some(1));
            story.restore(Some(1), Some(1));
            story.end(Some(Err("given up".into())));
            if right { story.holds() } else { story.breaks("liveness", "failed") }
        }
    }

    /// Under the policy `fail` a job may fail once the newest checkpoint is lost; the older one is no way back.
    #[test]
    fn what_lies_behind_a_commit_is_no_way_back_under_fail() {
        for (policy, right) in [(FallbackPolicy::Fail, true), (FallbackPolicy::Replay, false)] {
            let mut story = Story::configured(|config| config.fallback = policy);
            story.checkpoint(1, &[10, 10]).commit(1).checkpoint(2, &[20, 20]).commit(2);
            story.lose_part(2);
            story.end(Some(Err("nothing to restore".into())));
            if right { story.holds() } else { story.breaks("liveness", "failed") }
        }
    }
}

//! How a term follows the slots: a reactive job is given the parallelism that they allow.

use std::sync::Arc;

use super::{Event, Leader, Phase, Then};
use crate::{
    checkpoint::coordinator::Participants,
    cluster::{elasticity::Decision, scheduler::MissingSlots},
    graph::Job,
    recovery::choice::{Impossible, choose},
};

/// The highest parallelism at which a job has work for all its slots.
pub(super) fn highest_parallelism(job: &Job) -> u32 {
    job.graph.vertices.iter().map(|vertex| u32::from(vertex.max_parallelism)).max().unwrap_or(1)
}

impl Leader {
    /// The job is stopped; what it had before may still come back.
    pub(super) fn wait_for_resources(&mut self) {
        let now = self.now();
        self.enter(Phase::Resources, "");
        // The next one is only begun when there is something to begin it with.
        let settled = now + self.return_grace(self.execution.next());
        self.elasticity.wait(now, settled, self.scaled_to);
        self.start_with_what_is_there();
    }

    pub(super) fn start_with_what_is_there(&mut self) {
        match self.decision() {
            Some(Decision::Start(parallelism)) => match self.scale_to(parallelism) {
                Ok(()) => self.prepare(),
                Err(reason) => self.refuse(reason),
            },
            Some(Decision::GiveUp) => {
                let missing = MissingSlots { needed: self.slots_needed_at(1), offered: self.pool.total() };
                let limit = self.config.elasticity.resource_wait_timeout.unwrap_or_default().as_millis();
                self.fail_job(format!(
                    "{missing} after {limit} ms (jobmanager.adaptive-scheduler.resource-wait-timeout): start more TaskManagers"
                ));
            }
            _ => {}
        }
    }

    pub(super) fn use_what_has_joined(&mut self) {
        if !self.elasticity.is_reactive() {
            return;
        }
        if let Some(Decision::Rescale { from, to }) = self.decision() {
            self.emit(Event::RescaleDecided { job: self.job.name.clone(), from, to });
            self.stop_tasks(Then::Rescale, &format!("rescaled from {from} to {to}"));
        }
    }

    fn decision(&mut self) -> Option<Decision> {
        let now = self.now();
        let allowed = self.parallelism_allowed();
        self.elasticity.allows(allowed, now);
        self.elasticity.decide(now)
    }

    /// The highest parallelism for which there are slots enough.
    fn parallelism_allowed(&mut self) -> u32 {
        let slots = self.pool.total();
        if self.allowed.0 != slots {
            let most = u32::try_from(slots).unwrap_or(u32::MAX).min(highest_parallelism(&self.described));
            let fits = |parallelism: &u32| self.slots_needed_at(*parallelism) <= slots;
            self.allowed = (slots, (1..=most).rev().find(fits).unwrap_or(0));
        }
        self.allowed.1
    }

    fn slots_needed_at(&self, parallelism: u32) -> usize {
        // What cannot be scaled needs what it is described with; starting it says why it cannot.
        let scaled = self.described.at_parallelism(parallelism);
        scaled.as_ref().unwrap_or(&self.described).graph.slots_needed() as usize
    }

    /// To be called while nothing runs.
    fn scale_to(&mut self, parallelism: u32) -> Result<(), String> {
        if self.scaled_to != Some(parallelism) {
            self.job = Arc::new(self.described.at_parallelism(parallelism)?);
            self.scaled_to = Some(parallelism);
            self.coordinator.rescaled(Participants::of(&self.job.graph));
        }
        Ok(())
    }

    /// What would have to be replayed was recorded at another parallelism: a reactive job goes there, if the slots allow it. When the
    /// replay is done and a checkpoint complete it is rescaled as ever.
    pub(super) fn goes_to_recorded_parallelism(&mut self, impossible: &Impossible) -> bool {
        if !impossible.at_other_parallelism || !self.elasticity.is_reactive() {
            return false;
        }
        let (state, allowed) = (self.durable.head.state(), self.parallelism_allowed());
        let can_replay_at = |parallelism: &u32| {
            let Ok(job) = self.described.at_parallelism(*parallelism) else { return false };
            choose(&state, &self.condemned, &self.choice_settings(&job.graph)).is_ok()
        };
        let Some(recorded) = (1..=allowed).find(can_replay_at) else { return false };
        if self.scaled_to == Some(recorded) || self.scale_to(recorded).is_err() {
            return false;
        }
        self.prepare();
        true
    }
}

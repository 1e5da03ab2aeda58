//! From a stopped job to a deployed one: choose and prepare the restore, wait for slots, deploy.

use std::{sync::Arc, time::Duration};

use super::{
    Event, ExecutionState, Leader, LeaderEvent, Phase, PrepareError, Prepared, Sabotage, SubtaskId, Then, ToTaskManager,
};
use crate::{
    dataflow::task::{ChannelTarget, SubtaskSpec},
    ids::AllocationId,
    recovery::choice::{ChoiceSettings, replay_plan},
};

impl Leader {
    /// Moves on from a phase that waited for something, if it has come.
    pub(super) fn advance(&mut self) {
        let now = self.now();
        match &self.phase {
            Phase::Stopping { then, .. } if self.peers.stopping().is_empty() && !self.coordinator.is_finalizing() => {
                match then.clone() {
                    then @ (Then::Start | Then::Restart) => {
                        let delay =
                            if matches!(then, Then::Start) { Duration::ZERO } else { self.config.restart_delay };
                        self.enter(Phase::Delay { until: now + delay }, "all tasks stopped");
                        self.advance();
                    }
                    Then::End(outcome) => self.record_end(outcome),
                }
            }
            Phase::Delay { until } if *until <= now => self.prepare(),
            Phase::Slots { .. } => self.try_deploy(),
            _ => {}
        }
    }

    pub(super) fn prepare(&mut self) {
        self.execution = self.execution.next();
        self.enter(Phase::Preparing, "");
        let settings = ChoiceSettings {
            fallback: self.config.fallback_behind_commit,
            sabotage: self.config.task.sabotage.clone(),
        };
        let (durable, attempt) = (self.durable.clone(), self.attempt());
        let (first_unused, condemned) = (self.coordinator.first_unused_id(), self.condemned.clone());
        self.spawn("prepare-restore", async move {
            LeaderEvent::Prepared(durable.prepare_restore(attempt, first_unused, condemned, &settings).await)
        });
    }

    pub(super) fn prepared(&mut self, result: Result<Prepared, PrepareError>) {
        let now = self.now();
        match result {
            Ok(prepared) => {
                self.condemned.clone_from(&prepared.condemned);
                self.emit(Event::RestoreChosen {
                    job: self.job.name.clone(),
                    checkpoint: prepared.choice.checkpoint,
                    newest: prepared.choice.newest,
                    replay_to: prepared.choice.replay_to(),
                    attempt: prepared.attempt,
                });
                let deadline = now + self.config.slot_request_timeout;
                // A job that ran before has slots somewhere. Their TaskManagers get a moment to come back with them: under a
                // new leader as long as it takes them to notice that the old one is gone.
                let ran_before = self.durable.head.state().newest.is_some() || self.execution.0 > 1 || self.epoch.0 > 1;
                let grace = match (ran_before, self.execution.0) {
                    (false, _) => Duration::ZERO,
                    (true, 1) => self.config.heartbeat_timeout,
                    (true, _) => self.config.slot_return_grace,
                };
                self.enter(Phase::Slots { prepared: Box::new(prepared), settled: now + grace, deadline }, "");
            }
            Err(PrepareError::Head(error)) => self.step_down(error.to_string()),
            Err(PrepareError::Unavailable(reason)) => {
                let until = now + self.config.restart_delay.max(self.config.reconnect_delay);
                self.enter(Phase::Delay { until }, &reason);
            }
            Err(PrepareError::Manifest(reason)) => self.fail_job(reason),
            Err(PrepareError::Impossible(tried)) => {
                let tried = tried.to_string();
                self.emit(Event::RecoveryImpossible { job: self.job.name.clone(), tried: tried.clone() });
                self.fail_job(tried);
            }
        }
    }

    pub(super) fn try_deploy(&mut self) {
        let now = self.now();
        let groups = self.job.graph.slots_needed();
        let Phase::Slots { settled, .. } = &self.phase else { return };
        if now < *settled && !self.pool.knows_all(groups) {
            return;
        }
        let attempt = self.attempt();
        let forget = self.config.task.sabotage.is(Sabotage::ForgetAllocations);
        let entropy = Arc::clone(&self.platform.entropy);
        let fresh = || AllocationId(entropy.next_u128("allocation-id"));
        let Some(assigned) = self.pool.assign(groups, attempt, forget, fresh) else { return };
        let before = std::mem::replace(&mut self.phase, Phase::Preparing);
        let Phase::Slots { prepared, .. } = before else { return };
        for (group, here) in &assigned {
            self.emit(Event::SlotAllocated {
                task_manager: here.slot.task_manager.clone(),
                slot: here.slot.index,
                allocation: here.allocation,
                group: *group,
                previous: here.previous,
            });
        }
        let graph = Arc::clone(&self.job.graph);
        let execution = ExecutionState::new(&graph, attempt, assigned, prepared.choice.clone());
        // Consumers first, so that producers find them.
        let subtasks: Vec<_> = execution.subtasks().collect();
        for subtask in subtasks.into_iter().rev() {
            let Some(slot) = execution.slots.get(&subtask.index) else { continue };
            let spec = SubtaskSpec {
                job: self.job.id,
                subtask,
                attempt,
                allocation: slot.allocation,
                outputs: self.targets(&execution, subtask),
                restore: prepared.metadata.as_ref().and_then(|m| m.restore_order(subtask)),
                replay: replay_plan(&prepared.choice, subtask, &self.config.task.sabotage),
                settings: self.config.task.clone(),
            };
            let message = ToTaskManager::Deploy {
                leader: self.epoch,
                slot: slot.slot.index,
                group: subtask.index,
                spec: Box::new(spec),
            };
            self.peers.send(&slot.slot.task_manager, &message);
        }
        self.enter(Phase::Deployed(Box::new(execution)), "all slots assigned");
    }

    pub(super) fn targets(&self, execution: &ExecutionState, subtask: SubtaskId) -> Vec<Vec<ChannelTarget>> {
        let graph = &self.job.graph;
        let target = |to: SubtaskId| {
            let process = execution.task_manager(to)?.to_string();
            let address = self.peers.registered(&process)?.data_address.clone();
            Some(ChannelTarget { subtask: to, name: graph.subtask_name(to), process, address })
        };
        graph
            .outputs(subtask.vertex)
            .map(|edge| graph.downstream(edge, subtask).into_iter().filter_map(target).collect())
            .collect()
    }
}

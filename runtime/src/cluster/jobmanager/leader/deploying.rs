//! From a stopped job to a deployed one: choose and prepare the restore, wait for slots, deploy.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Event, ExecutionState, Leader, LeaderEvent, Phase, PrepareError, Prepared, RecoveryPhase, Sabotage, SubtaskId,
    Then, ToTaskManager,
};
use crate::{
    checkpoint::{
        metadata::CheckpointMetadata,
        types::{ReplayPlan, RestoreOrder, SubtaskKey},
    },
    cluster::{
        rpc,
        scheduler::{SchedulingStrategy, requests},
        slots::Assigned,
    },
    dataflow::task::{ChannelTarget, SubtaskSpec},
    graph::ExecutionGraph,
    ids::{AllocationId, Execution, SharedSlot},
    platform::MAX_FRAME_BYTES,
    points::Point,
    recovery::{
        assignment::assign_as_allowed,
        choice::{ChoiceSettings, RestoreChoice, replay_plan},
    },
    sabotage::SabotageSet,
};

impl Leader {
    /// Moves on from a phase that waited for something, if it has come.
    pub(super) fn advance(&mut self) {
        let now = self.now();
        if matches!(self.phase, Phase::Stopping { .. }) && self.peers.stopping().is_empty() {
            self.platform.journal.sometimes(Point::FailoverWaitsForAppend, self.coordinator.is_finalizing());
        }
        match &self.phase {
            Phase::Stopping { then, .. } if self.peers.stopping().is_empty() && !self.coordinator.is_finalizing() => {
                let then = then.clone();
                if let Err(given_up) = self.decide_whether_it_counts() {
                    return self.fail_job(given_up);
                }
                match then {
                    then @ (Then::Start | Then::Restart | Then::Rescale) => {
                        self.recovery_passes(RecoveryPhase::Cancel);
                        let delay =
                            if matches!(then, Then::Restart) { self.config.restart_delay } else { Duration::ZERO };
                        self.enter(Phase::Delay { until: now + delay }, "all tasks stopped");
                        self.advance();
                    }
                    Then::End(outcome) => self.record_end(outcome),
                }
            }
            Phase::Delay { until } if *until <= now && self.elasticity.is_reactive() => self.wait_for_resources(),
            Phase::Delay { until } if *until <= now => self.prepare(),
            Phase::Resources => self.start_with_what_is_there(),
            Phase::Slots { .. } => self.try_deploy(),
            Phase::Deployed(_) => self.use_what_has_joined(),
            _ => {}
        }
    }

    /// A phase of the recovery, if there is one, is over.
    fn recovery_passes(&mut self, phase: RecoveryPhase) {
        let now = self.now();
        if let Some(recovery) = &mut self.recovery {
            recovery.ends(phase, now);
        }
    }

    /// What is restored must fit the subtasks that the job has.
    pub(super) fn choice_settings(&self, graph: &ExecutionGraph) -> ChoiceSettings {
        ChoiceSettings {
            fallback: self.config.fallback_behind_commit,
            subtasks: Some(graph.subtasks().map(SubtaskKey::from).collect()),
            sabotage: self.config.task.sabotage.clone(),
        }
    }

    /// How long TaskManagers get to come back with the slots that the job had: under a new leader as long as it takes them to
    /// notice that the old one is gone. Without preservation no slot is worth waiting for.
    pub(super) fn return_grace(&self, execution: Execution) -> Duration {
        match execution.0 {
            _ if !self.strategy().preserve_allocations => Duration::ZERO,
            // Also of a job that begins with what another one left: it never had any.
            1 if !self.had_slots => Duration::ZERO,
            1 => self.config.heartbeat_timeout,
            _ => self.config.slot_return_grace,
        }
    }

    pub(super) fn prepare(&mut self) {
        self.recovery_passes(RecoveryPhase::Delay);
        self.execution = self.execution.next();
        self.enter(Phase::Preparing, "");
        let settings = self.choice_settings(&self.job.graph);
        let (durable, attempt) = (self.durable.clone(), self.attempt());
        let (first_unused, condemned) = (self.coordinator.first_unused_id(), self.condemned.clone());
        self.spawn("prepare-restore", async move {
            LeaderEvent::Prepared(durable.prepare_restore(attempt, first_unused, condemned, &settings).await)
        });
    }

    pub(super) fn prepared(&mut self, result: Result<Prepared, PrepareError>) {
        let now = self.now();
        self.recovery_passes(RecoveryPhase::Choose);
        match result {
            Ok(prepared) => {
                let import = self.durable.head.state().import.clone();
                let allowed = |checkpoint| {
                    import.as_ref().is_some_and(|i| i.checkpoint == checkpoint && i.allow_non_restored_state)
                };
                let assigned = |metadata: &CheckpointMetadata| {
                    assign_as_allowed(metadata, &self.job.graph, allowed(metadata.checkpoint))
                };
                let orders = prepared.metadata.as_ref().map(assigned).transpose();
                let orders = match orders {
                    Ok(orders) => self.spoil(orders.unwrap_or_default()),
                    // Nothing is recorded: with a job that fits, it goes on from here.
                    Err(error) => return self.refuse(error.to_string()),
                };
                self.condemned.clone_from(&prepared.condemned);
                self.pass_restore_points(&prepared);
                self.emit(Event::RestoreChosen {
                    job: self.job.name.clone(),
                    checkpoint: prepared.choice.checkpoint,
                    newest: prepared.choice.newest,
                    replay_to: prepared.choice.replay_to(),
                    attempt: prepared.attempt,
                });
                self.say_rescaled(&prepared);
                let deadline = now + self.config.slot_request_timeout;
                // A reactive job has waited already, before it was known at which parallelism it runs.
                let is_reactive = self.elasticity.is_reactive();
                let grace = if is_reactive { Duration::ZERO } else { self.return_grace(self.execution) };
                let choice = Box::new(prepared.choice);
                self.enter(Phase::Slots { choice, orders, settled: now + grace, deadline }, "");
            }
            Err(PrepareError::Head(error)) => self.step_down(error.to_string()),
            Err(PrepareError::Unavailable(reason)) => {
                self.platform.journal.reached(Point::RestorePostponed);
                let until = now + self.config.restart_delay.max(self.config.reconnect_delay);
                self.enter(Phase::Delay { until }, &reason);
            }
            Err(PrepareError::Manifest(reason)) => self.fail_job(reason),
            Err(PrepareError::Impossible(impossible)) if self.goes_to_recorded_parallelism(&impossible) => {}
            Err(PrepareError::Impossible(impossible)) => {
                let tried = impossible.to_string();
                self.emit(Event::RecoveryImpossible { job: self.job.name.clone(), tried: tried.clone() });
                if impossible.at_other_parallelism { self.refuse(tried) } else { self.fail_job(tried) }
            }
        }
    }

    /// A planted bug: positions are not given to the subtasks that have their splits now.
    fn spoil(&self, mut orders: BTreeMap<SubtaskId, RestoreOrder>) -> BTreeMap<SubtaskId, RestoreOrder> {
        if self.config.task.sabotage.is(Sabotage::PositionsStayBehind) {
            let mut spoilt = false;
            for (subtask, order) in &mut orders {
                let before = order.inline.len();
                order.inline.retain(|inline| inline.from == subtask.index);
                spoilt |= order.inline.len() < before;
            }
            if spoilt {
                self.emit(Sabotage::PositionsStayBehind.marker());
            }
        }
        orders
    }

    /// Names the operators that had another parallelism.
    fn say_rescaled(&self, prepared: &Prepared) {
        let Some(metadata) = &prepared.metadata else { return };
        for vertex in &self.job.graph.vertices {
            for operator in &vertex.operators {
                let before = metadata.vertices.iter().find(|shape| shape.operators.contains(operator));
                if let Some(before) = before.filter(|before| before.parallelism != vertex.parallelism) {
                    self.emit(Event::OperatorRescaled {
                        operator: operator.to_string(),
                        checkpoint: metadata.checkpoint,
                        from: before.parallelism,
                        to: vertex.parallelism,
                    });
                }
            }
        }
    }

    pub(super) fn ran_before(&self) -> bool {
        self.durable.head.state().newest.is_some() || self.execution.0 > 1 || self.epoch.0 > 1
    }

    fn pass_restore_points(&self, prepared: &Prepared) {
        let journal = &self.platform.journal;
        let choice = &prepared.choice;
        let retained = &self.durable.head.state().retained;
        let Some(checkpoint) = choice.checkpoint else {
            journal.sometimes(Point::RestoreBeforeCheckpoint, self.ran_before() && choice.newest.is_none());
            journal.sometimes(Point::FallbackToBeginning, !choice.replay.is_empty());
            return;
        };
        let is_whole = retained.contains_key(&checkpoint) && !prepared.condemned.contains_key(&checkpoint);
        journal.always(Point::RestoresRetained, is_whole, || format!("checkpoint {checkpoint}"));
        let passed_over = retained.keys().filter(|id| **id > checkpoint).count();
        journal.sometimes(Point::FallbackByOne, passed_over == 1);
        journal.sometimes(Point::FallbackByMore, passed_over > 1);
        journal.sometimes(Point::ReplayOfOneEpoch, choice.replay.len() == 1);
        journal.sometimes(Point::ReplayOfSeveralEpochs, choice.replay.len() > 1);
        if let Some(end) = choice.replay_to() {
            let newest = choice.newest;
            journal.always(Point::ReplaysToNewest, Some(end) == newest, || format!("to {end}, newest is {newest:?}"));
        }
    }

    fn pass_slot_points(&self, assigned: &BTreeMap<SharedSlot, Assigned>) {
        let journal = &self.platform.journal;
        let unconfirmed = self.peers.stopping();
        let confirmed = assigned.values().all(|a| !unconfirmed.contains(&a.slot.task_manager));
        journal.always(Point::DeploysOnConfirmed, confirmed, || format!("{unconfirmed:?} still stop"));
        if self.ran_before() {
            let previous = assigned.values().filter(|a| a.previous).count();
            journal.reached(match previous {
                0 => Point::NoPreviousSlot,
                n if n == assigned.len() => Point::AllPreviousSlots,
                _ => Point::SomePreviousSlots,
            });
        }
        journal.sometimes(Point::PlacedByState, assigned.values().any(|a| a.local_bytes > 0));
    }

    /// With local recovery tasks go back to the slots that were theirs; without it any slot is as good. (R210, R221)
    pub(super) fn strategy(&self) -> SchedulingStrategy {
        SchedulingStrategy {
            preserve_allocations: self.config.task.local_recovery,
            spread_out: self.config.evenly_spread_out_slots,
        }
    }

    pub(super) fn try_deploy(&mut self) {
        let now = self.now();
        let Phase::Slots { settled, orders, .. } = &self.phase else { return };
        let wanted = self.job.graph.shared_slots();
        if now < *settled && !self.pool.knows_all(&wanted) {
            let enough = self.pool.total() >= wanted.len();
            self.platform.journal.sometimes(Point::PreviousSlotsAwaited, enough);
            return;
        }
        let attempt = self.attempt();
        let sabotage = &self.config.task.sabotage;
        let strategy = self.strategy();
        let requests = requests(&self.job.graph, orders, &self.peers.local_copies());
        #[cfg(feature = "sabotage")]
        let honest = self.pool.clone().assign(&requests, strategy, attempt, &Default::default(), || AllocationId(0));
        let entropy = Arc::clone(&self.platform.entropy);
        let fresh = || AllocationId(entropy.next_u128("allocation-id"));
        let Ok(assigned) = self.pool.assign(&requests, strategy, attempt, sabotage, fresh) else {
            if self.elasticity.is_reactive() {
                // Some have gone since it was decided.
                self.wait_for_resources();
            }
            return;
        };
        #[cfg(feature = "sabotage")]
        for bug in [Sabotage::ForgetAllocations, Sabotage::StealSlots] {
            let same = |(shared, is): (&SharedSlot, &Assigned)| assigned.get(shared).is_some_and(|a| a.slot == is.slot);
            if !honest.iter().flatten().all(same) {
                self.config.task.sabotage.runs(bug, &self.platform.journal);
            }
        }
        self.pass_slot_points(&assigned);
        let before = std::mem::replace(&mut self.phase, Phase::Deploying);
        let Phase::Slots { choice, mut orders, .. } = before else { return };
        for (shared, here) in &assigned {
            self.emit(Event::SlotAllocated {
                task_manager: here.slot.task_manager.clone(),
                slot: here.slot.index,
                allocation: here.allocation,
                shared: *shared,
                previous: here.previous,
            });
        }
        let graph = Arc::clone(&self.job.graph);
        let execution = ExecutionState::new(&graph, attempt, assigned, (*choice).clone());
        // Consumers first, so that producers find them.
        let subtasks: Vec<_> = execution.subtasks().collect();
        let mut too_long = None;
        for subtask in subtasks.into_iter().rev() {
            let Some((shared, slot)) = execution.slot(subtask) else { continue };
            let spec = SubtaskSpec {
                job: self.job.id,
                subtask,
                attempt,
                allocation: slot.allocation,
                outputs: self.targets(&execution, subtask),
                restore: orders.remove(&subtask).filter(|_| self.restores(slot)),
                replay: self.replay_plan(&choice, subtask),
                settings: self.config.task.clone(),
            };
            let message = ToTaskManager::Deploy {
                leader: self.epoch,
                slot: slot.slot.index,
                scaled_to: self.scaled_to,
                shared,
                spec: Box::new(spec),
            };
            match fits_a_message(&message, self.config.task.frame_bytes) {
                Ok(()) => self.peers.send(&slot.slot.task_manager, &message),
                Err(sizes) => {
                    too_long.get_or_insert_with(|| format!("{}: {sizes}", graph.subtask_name(subtask)));
                }
            }
        }
        let (checkpoint, now) = (execution.choice.checkpoint, self.now());
        if let Some(recovery) = &mut self.recovery {
            recovery.deployed(attempt, checkpoint, now);
        }
        self.deployed_at = now;
        self.enter(Phase::Deployed(Box::new(execution)), "all slots assigned");
        self.elasticity.running(self.scaled_to.unwrap_or_default(), now);
        if let Some(reason) = too_long {
            self.fail_over(&reason, super::stopping::Cause::Other, None);
        }
    }

    fn replay_plan(&self, choice: &RestoreChoice, subtask: SubtaskId) -> ReplayPlan {
        let sabotage = &self.config.task.sabotage;
        let plan = replay_plan(choice, subtask, sabotage);
        if sabotage.is(Sabotage::ReplayOutOfOrder) && plan != replay_plan(choice, subtask, &SabotageSet::default()) {
            self.emit(Sabotage::ReplayOutOfOrder.marker());
        }
        plan
    }

    /// Always; unless a planted bug forgets the state of those that move.
    fn restores(&self, slot: &Assigned) -> bool {
        let sabotage = &self.config.task.sabotage;
        slot.previous || !sabotage.runs(Sabotage::RelocatedWithoutState, &self.platform.journal)
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

/// A deployment that no message can carry must not be sent: the connection would not survive it. Only state that travels with it
/// makes one long.
///
/// # Errors
/// Which sizes do not fit together, and what to do.
fn fits_a_message(message: &ToTaskManager, frame_bytes: u64) -> Result<(), String> {
    let ToTaskManager::Deploy { spec, .. } = message else { return Ok(()) };
    let Some(order) = &spec.restore else { return Ok(()) };
    let frame_bytes = frame_bytes.min(MAX_FRAME_BYTES as u64);
    let whole = rpc::encode(message).len() as u64;
    if whole <= frame_bytes {
        return Ok(());
    }
    let of_parts = order.parts.iter().filter(|part| part.part.object().is_none()).map(|part| part.part.length);
    let inline = of_parts.sum::<u64>() + order.inline.iter().map(|state| state.bytes.len() as u64).sum::<u64>();
    Err(format!(
        "its deployment has {whole} bytes, {inline} of them state that it restores, and a message at most {frame_bytes} \
         (akka.framesize): raise that; what keeps state in files (state.backend: filesystem) does not meet this"
    ))
}

//! What TaskManagers and their subtasks say, and what follows from it.

use super::{AttemptId, Cause, Event, Leader, Phase, Registered, Sabotage, SubtaskId, ToTaskManager};
use crate::{
    checkpoint::coordinator::CoordinatorEvent,
    cluster::{rpc::ToJobManager, slots::Stale},
    dataflow::task::{SubtaskReport, TaskFailure},
    points::Point,
    recovery::local_inventory::LocalInventory,
};

impl Leader {
    pub(super) fn on_task_manager(&mut self, number: u64, message: ToJobManager) {
        let now = self.now();
        let Some(peer) = self.peers.get_mut(number) else { return };
        peer.heard_at = now;
        match message {
            ToJobManager::Register { task_manager, obeyed, .. } if obeyed > self.epoch => {
                self.peers.remove(number);
                self.step_down(format!("{task_manager} has obeyed leader {obeyed}"));
            }
            ToJobManager::Register { task_manager, incarnation, job, data_address, slots, .. } => {
                if job != self.job.id {
                    let process = self.platform.process.to_string();
                    let message = format!("{task_manager} registered for job {job}, this one is {}", self.job.id);
                    self.emit(Event::StaleMessageIgnored { process, message });
                    self.peers.remove(number);
                    return;
                }
                let stopping = Some(self.last_deployed());
                let (name, local) = (task_manager.clone(), LocalInventory::default());
                let registered = Registered { name, data_address, slots, stopping, local };
                if let Some(old) = self.peers.register(number, registered) {
                    self.platform.journal.reached(Point::RegisteredAgain);
                    let cause = self.cause_of_loss(old);
                    self.peers.remove(old);
                    self.lost(&task_manager, "registered again", cause, None);
                }
                let leader = self.epoch;
                self.emit(Event::TaskManagerRegistered { task_manager: task_manager.clone(), incarnation, leader });
                self.peers.send(&task_manager, &ToTaskManager::Welcome { leader });
                let attempt = self.last_deployed();
                self.peers.send(&task_manager, &ToTaskManager::Cancel { leader, attempt });
            }
            ToJobManager::Heartbeat => {}
            ToJobManager::Cancelled { attempt, local } => self.cancelled(number, attempt, local),
            ToJobManager::Report { attempt, subtask, report } => self.report(attempt, subtask, report),
            ToJobManager::Client(request) => self.client_asks(number, request),
        }
    }

    pub(super) fn cancelled(&mut self, number: u64, attempt: AttemptId, local: LocalInventory) {
        let wanted = self.job.graph.shared_slots();
        let Some(registered) = self.peers.get_mut(number).and_then(|p| p.registered.as_mut()) else { return };
        if registered.stopping.is_none_or(|waiting_for| attempt < waiting_for) {
            return;
        }
        registered.stopping = None;
        registered.local = local;
        let name = registered.name.clone();
        #[cfg_attr(not(feature = "sabotage"), expect(unused_mut, reason = "only a planted bug changes them"))]
        let mut slots = registered.slots.clone();
        #[cfg(feature = "sabotage")]
        if self.config.task.sabotage.is(Sabotage::ReoffersForgotten) && slots.iter().any(Option::is_some) {
            self.emit(Sabotage::ReoffersForgotten.marker());
            slots.fill(None);
        }
        if self.pool.has(&name) {
            return;
        }
        let count = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        self.emit(Event::SlotsOffered { task_manager: name.clone(), slots: count });
        let stale = self.pool.register(&name, &slots, &wanted);
        self.platform.journal.sometimes(Point::PreviousSlotLeftAlone, !stale.is_empty());
        self.release(stale, true);
    }

    /// `keep_copies`: the local state of the slots may be wanted by others.
    pub(super) fn release(&self, stale: Vec<Stale>, keep_copies: bool) {
        let leader = self.epoch;
        for Stale { slot, allocation } in stale {
            let release = ToTaskManager::ReleaseSlot { leader, slot: slot.index, allocation, keep_copies };
            self.peers.send(&slot.task_manager, &release);
        }
    }

    pub(super) fn report(&mut self, attempt: AttemptId, subtask: SubtaskId, report: SubtaskReport) {
        let now = self.now();
        if let SubtaskReport::Ack(ack) = report {
            // Also from older attempts: the coordinator discards what they uploaded.
            return self.coordinate(CoordinatorEvent::Ack(ack), now);
        }
        if let SubtaskReport::Failed(failure) = &report {
            self.learn_from(attempt, subtask, failure);
        }
        let Phase::Deployed(execution) = &mut self.phase else { return };
        if execution.attempt != attempt {
            self.platform.journal.reached(Point::ReportOfOldAttempt);
            let process = self.platform.process.to_string();
            let message = format!("report of {subtask} for attempt {attempt} during {}", execution.attempt);
            return self.emit(Event::StaleMessageIgnored { process, message });
        }
        match report {
            SubtaskReport::Running(restored) => {
                let ran = execution.runs();
                execution.subtask_running(subtask);
                let all_run = execution.runs() && !ran;
                if let Some(recovery) = &mut self.recovery {
                    recovery.subtask(&restored);
                    if all_run {
                        recovery.all_run(&restored, now);
                    }
                }
                if all_run {
                    self.uncounted = 0;
                    self.emit(Event::ExecutionRunning { job: self.job.name.clone(), attempt });
                }
                self.start_checkpoints_when_up();
            }
            SubtaskReport::ReplayFinished => {
                execution.subtask_replayed(subtask);
                self.start_checkpoints_when_up();
            }
            SubtaskReport::ReplayedEpoch { .. }
                if self.config.task.sabotage.runs(Sabotage::ReplayUnverified, &self.platform.journal) => {}
            SubtaskReport::ReplayedEpoch { epoch, digests } => {
                match execution.verification.report(subtask, epoch, &digests) {
                    Ok(true) => self.emit(Event::ReplayEpochVerified { epoch }),
                    Ok(false) => {}
                    Err(mismatch) => {
                        self.emit(Event::ReplayMismatch { epoch, sink: mismatch.sink.to_string() });
                        self.fail_job(mismatch.to_string());
                    }
                }
            }
            SubtaskReport::Exhausted => {
                let last = execution.source_exhausted(subtask);
                self.emit(Event::SourceExhausted { subtask: self.job.graph.subtask_name(subtask), attempt });
                if last {
                    self.coordinate(CoordinatorEvent::AllSourcesExhausted, now);
                }
            }
            SubtaskReport::Decline { checkpoint, reason } => {
                self.coordinate(CoordinatorEvent::Decline { subtask, checkpoint, reason }, now);
            }
            SubtaskReport::Failed(failure) => {
                let name = self.job.graph.subtask_name(subtask);
                let cause = if matches!(failure, TaskFailure::User(_)) { Cause::UserCode } else { Cause::Other };
                self.fail_over(&format!("{name} failed: {failure}"), cause, None);
            }
            SubtaskReport::Stopped => self.fail_over(&format!("{subtask} stopped by itself"), Cause::Other, None),
            SubtaskReport::Ack(_) => {}
        }
    }

    /// What a failure says beyond the attempt that it ended. It counts in any phase: the task that failed first may be heard
    /// last, after its neighbours, which failed because of it, have started the failover already.
    pub(super) fn learn_from(&mut self, attempt: AttemptId, subtask: SubtaskId, failure: &TaskFailure) {
        match failure {
            TaskFailure::User(_) => {
                self.user_failure = Some(format!("{} failed: {failure}", self.job.graph.subtask_name(subtask)));
            }
            TaskFailure::StateLost { checkpoint, part, reason } => {
                let restored = self.durable.head.state().restored;
                if restored == Some((attempt, Some(*checkpoint))) && !self.condemned.contains_key(checkpoint) {
                    let is_late = !matches!(self.phase, Phase::Deployed(_));
                    self.platform.journal.sometimes(Point::LossHeardLate, is_late);
                    let reason = format!("{part}: {reason}");
                    self.emit(Event::CheckpointCondemned { checkpoint: *checkpoint, reason: reason.clone() });
                    self.condemned.insert(*checkpoint, reason);
                }
            }
            TaskFailure::Environment(_) => {}
        }
    }

    pub(super) fn start_checkpoints_when_up(&mut self) {
        let Phase::Deployed(execution) = &self.phase else { return };
        if !execution.is_up() || self.coordinator.running() == Some(execution.attempt) {
            return;
        }
        let (attempt, continues) = (execution.attempt, execution.choice.continues);
        if !execution.choice.replay.is_empty() {
            self.emit(Event::ReplayFinished { job: self.job.name.clone(), attempt });
        }
        let condemned = self.condemned.keys().copied().collect();
        let now = self.now();
        self.coordinate(CoordinatorEvent::Started { attempt, continues, condemned }, now);
    }
}

//! How a term fails over, gives the job up, or brings it to its end.

use super::{HeadEntry, JobOutcome, Leader, LeaderEvent, Phase, Sabotage, Then, ToTaskManager};
use crate::{checkpoint::coordinator::CoordinatorEvent, points::Point};

impl Leader {
    pub(super) fn fail_over(&mut self, reason: &str) {
        let Phase::Deployed(execution) = &self.phase else { return };
        self.platform.journal.sometimes(Point::RestartDuringRestart, !execution.runs());
        self.platform.journal.sometimes(Point::ReplayInterrupted, execution.runs() && !execution.is_up());
        self.restarts += 1;
        if self.config.restart_attempts.is_some_and(|most| self.restarts > most)
            || self.config.task.sabotage.runs(Sabotage::NeverRestart, &self.platform.journal)
        {
            let cause = self.user_failure.as_deref().unwrap_or(reason);
            return self.fail_job(format!("given up after {} restarts: {cause}", self.restarts - 1));
        }
        self.stop_tasks(Then::Restart, reason);
    }

    pub(super) fn fail_job(&mut self, reason: String) {
        if !matches!(self.phase, Phase::Ending | Phase::Stopping { then: Then::End(_), .. }) {
            self.stop_tasks(Then::End(JobOutcome::Failed { reason: reason.clone() }), &reason);
        }
    }

    pub(super) fn stop_tasks(&mut self, then: Then, reason: &str) {
        let now = self.now();
        self.coordinate(CoordinatorEvent::Stopped, now);
        let (leader, attempt) = (self.epoch, self.attempt());
        for name in self.peers.names() {
            if let Some(registered) = self.peers.registered_mut(&name) {
                registered.stopping = Some(attempt);
            }
        }
        self.peers.send_all(&ToTaskManager::Cancel { leader, attempt });
        let deadline = now + self.config.cancellation_timeout;
        self.enter(Phase::Stopping { deadline, then }, reason);
    }

    pub(super) fn record_end(&mut self, outcome: JobOutcome) {
        let entry = match &outcome {
            JobOutcome::Finished => HeadEntry::Finished,
            JobOutcome::Failed { reason } => HeadEntry::Failed { reason: reason.clone() },
        };
        let leader = self.epoch;
        for slot in self.pool.drain() {
            let (index, allocation) = (slot.slot.index, slot.allocation);
            self.peers.send(&slot.slot.task_manager, &ToTaskManager::ReleaseSlot { leader, slot: index, allocation });
        }
        self.enter(Phase::Ending, "all tasks stopped");
        let durable = self.durable.clone();
        self.spawn("record-end", async move {
            let result = durable.end(entry).await;
            LeaderEvent::EndRecorded(outcome, result)
        });
    }
}

//! How a term fails over, gives the job up, or brings it to its end.

use super::{HeadEntry, JobOutcome, Leader, LeaderEvent, Mono, Phase, RecoveryWatch, Sabotage, Then, ToTaskManager};
use crate::{checkpoint::coordinator::CoordinatorEvent, layout::SavepointDirectory, points::Point};

/// What made an execution fail, as far as it matters for the number of restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    UserCode,
    /// A TaskManager was lost of which nothing was heard since it was deployed to: it was gone before, as far as anybody knows.
    Gone,
    Other,
}

/// So many failures in a row use up no restart. A job that kills each process that it comes to looks the same from outside,
/// and must be given up in the end.
const MOST_UNCOUNTED: u32 = 10;

/// A failure of which it is not known yet whether it uses up a restart: it does not if a TaskManager that was deployed to was
/// gone already.
pub(super) struct Undecided {
    /// TaskManagers of which nothing was heard since they were deployed to.
    silent: Vec<String>,
    reason: String,
}

impl Leader {
    /// `heard_at`: the last sign of life of what failed, if it is not its failure itself.
    pub(super) fn fail_over(&mut self, reason: &str, cause: Cause, heard_at: Option<Mono>) {
        let now = self.now();
        let Phase::Deployed(execution) = &self.phase else { return };
        match &mut self.recovery {
            Some(recovery) => recovery.failed_again(now),
            None => self.recovery = Some(RecoveryWatch::begin(reason, heard_at.unwrap_or(now), now)),
        }
        self.platform.journal.sometimes(Point::RestartDuringRestart, !execution.runs());
        self.platform.journal.sometimes(Point::ReplayInterrupted, execution.runs() && !execution.is_up());
        // Whoever was not heard of since the deployment was gone before it, perhaps, and all else failed because of that.
        let silent = |name: &String| execution.uses(name) && self.peers.heard_from(name) <= Some(self.deployed_at);
        let silent: Vec<String> = self.peers.names().into_iter().filter(silent).collect();
        match cause {
            Cause::Gone if self.uncounted < MOST_UNCOUNTED => self.do_not_count(),
            Cause::Other if self.uncounted < MOST_UNCOUNTED && !silent.is_empty() => {
                self.undecided = Some(Undecided { silent, reason: reason.to_string() });
            }
            _ => {
                if let Err(given_up) = self.use_up_restart(reason) {
                    return self.fail_job(given_up);
                }
            }
        }
        self.stop_tasks(Then::Restart, reason);
    }

    fn do_not_count(&mut self) {
        self.uncounted += 1;
        self.platform.journal.reached(Point::DeployedToTheDead);
    }

    /// Err: there are no more, and why the job has failed.
    fn use_up_restart(&mut self, reason: &str) -> Result<(), String> {
        self.restarts += 1;
        if self.config.restart_attempts.is_some_and(|most| self.restarts > most)
            || self.config.task.sabotage.runs(Sabotage::NeverRestart, &self.platform.journal)
        {
            let cause = self.user_failure.as_deref().unwrap_or(reason);
            return Err(format!("given up after {} restarts: {cause}", self.restarts - 1));
        }
        Ok(())
    }

    /// All tasks have stopped, and it is known who is still there. If everybody is, the failure counts after all.
    pub(super) fn decide_whether_it_counts(&mut self) -> Result<(), String> {
        let Some(Undecided { silent, reason }) = self.undecided.take() else { return Ok(()) };
        if silent.iter().all(|name| self.peers.registered(name).is_some()) {
            return self.use_up_restart(&reason);
        }
        self.do_not_count();
        Ok(())
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
            JobOutcome::Stopped { savepoint } => {
                HeadEntry::Stopped { savepoint: SavepointDirectory::at(savepoint.clone()) }
            }
        };
        let held = self.pool.drain();
        self.release(held, false);
        self.enter(Phase::Ending, "all tasks stopped");
        let durable = self.durable.clone();
        self.spawn("record-end", async move {
            let result = durable.end(entry).await;
            LeaderEvent::EndRecorded(outcome, result)
        });
    }
}

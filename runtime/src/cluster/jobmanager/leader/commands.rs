//! Executes what the coordinator commands: sends to subtasks, and starts the steps that touch primary storage.

use futures::FutureExt;

use super::{AttemptId, Leader, LeaderEvent, Mono, Phase, SubtaskCommand, SubtaskId, Then, ToTaskManager};
use crate::{
    checkpoint::{
        coordinator::{CoordinatorCommand, CoordinatorEvent},
        metadata,
    },
    cluster::jobmanager::JobOutcome,
};

impl Leader {
    pub(super) fn coordinate(&mut self, event: CoordinatorEvent, now: Mono) {
        let commands = self.coordinator.handle(event, now);
        self.platform.journal.points(&self.coordinator.take_points());
        for command in commands {
            self.execute(command);
        }
    }

    pub(super) fn execute(&mut self, command: CoordinatorCommand) {
        let durable = self.durable.clone();
        match command {
            CoordinatorCommand::Journal(event) => self.emit(event),
            CoordinatorCommand::NeedIds => {
                let entry = durable.head.state().next_id_block();
                self.spawn("grant-ids", async move {
                    let result = durable.head.append(entry.clone()).await;
                    LeaderEvent::IdsAppended(entry, result)
                });
            }
            CoordinatorCommand::Trigger { checkpoint, attempt, sources } => {
                self.command(attempt, Some(sources), &SubtaskCommand::TriggerCheckpoint(checkpoint));
            }
            CoordinatorCommand::TriggerSavepoint { checkpoint, attempt, sources, directory } => {
                let trigger = SubtaskCommand::TriggerSavepoint { checkpoint, directory };
                self.command(attempt, Some(sources), &trigger);
            }
            CoordinatorCommand::NotifyAborted { checkpoint, .. } => {
                self.command(self.attempt(), None, &SubtaskCommand::NotifyAborted(checkpoint));
            }
            CoordinatorCommand::NotifyComplete { checkpoint } => {
                self.recovery_ends();
                self.elasticity.checkpointed();
                let outgrown = self.pool.release_outgrown(&self.job.graph.shared_slots());
                self.release(outgrown, false);
                self.command(self.attempt(), None, &SubtaskCommand::NotifyComplete(checkpoint));
            }
            CoordinatorCommand::WriteMetadata(content) => self.spawn("write-metadata", async move {
                let checkpoint = content.checkpoint;
                let result = metadata::write(&durable.primary, durable.layout, *content).await;
                LeaderEvent::MetadataWritten(checkpoint, result)
            }),
            CoordinatorCommand::AppendCompleted { checkpoint, entry } => self.spawn("append-completed", async move {
                LeaderEvent::HeadAppended(checkpoint, durable.head.append(*entry).await)
            }),
            CoordinatorCommand::CommitSinks { checkpoint, sinks } => self.spawn("commit-sinks", async move {
                LeaderEvent::SinksCommitted(checkpoint, durable.commit_sinks(checkpoint, &sinks).await)
            }),
            CoordinatorCommand::Discard { checkpoint, objects } => {
                let body = async move { durable.discard(checkpoint, &objects).await };
                let task = self.platform.spawner.control("discard", body.boxed());
                self.background.push(task.abort_handle());
            }
            CoordinatorCommand::WriteSavepointMetadata { directory, metadata } => {
                self.spawn("write-savepoint-metadata", async move {
                    let checkpoint = metadata.checkpoint;
                    let result = metadata::write_savepoint(&durable.primary, &directory, *metadata).await;
                    LeaderEvent::MetadataWritten(checkpoint, result)
                });
            }
            CoordinatorCommand::DiscardSavepoint { checkpoint, directory } => {
                let body = async move { durable.discard_savepoint(checkpoint, &directory).await };
                let task = self.platform.spawner.control("discard", body.boxed());
                self.background.push(task.abort_handle());
            }
            CoordinatorCommand::SavepointCompleted { order, .. } => self.savepoint_completed(order),
            CoordinatorCommand::SavepointFailed { order, reason } => self.savepoint_failed(&order, reason),
            CoordinatorCommand::FinalCompleted { .. } => {
                self.stop_tasks(Then::End(JobOutcome::Finished), "all input is processed");
            }
            CoordinatorCommand::FailJob { reason } => self.fail_job(reason),
        }
    }

    /// The execution has a checkpoint of its own: what had failed is made good.
    fn recovery_ends(&mut self) {
        let now = self.now();
        let Phase::Deployed(execution) = &self.phase else { return };
        if execution.runs()
            && let Some(recovery) = self.recovery.take()
        {
            self.emit(recovery.finish(now).event(&self.job.name));
        }
    }

    /// Sends a command to subtasks (None: all) of the deployed execution.
    pub(super) fn command(&self, attempt: AttemptId, subtasks: Option<Vec<SubtaskId>>, command: &SubtaskCommand) {
        let Phase::Deployed(execution) = &self.phase else { return };
        if execution.attempt != attempt {
            return;
        }
        let subtasks = subtasks.unwrap_or_else(|| execution.subtasks().collect());
        let leader = self.epoch;
        for (task_manager, subtasks) in execution.by_task_manager(subtasks) {
            let command = command.clone();
            self.peers.send(&task_manager, &ToTaskManager::Command { leader, attempt, subtasks, command });
        }
    }
}

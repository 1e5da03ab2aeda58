//! Savepoints that clients ask for: where they go, and who is told how they went.

use super::{Event, HeadError, JobOutcome, Leader, LeaderEvent, Then, is_fencing};
use crate::{
    checkpoint::coordinator::{CoordinatorEvent, SavepointOrder},
    cluster::rpc::{ClientRequest, ClientResponse},
    layout::SavepointDirectory,
    platform::ObjectName,
    points::Point,
};

impl Leader {
    pub(super) fn client_asks(&mut self, number: u64, request: ClientRequest) {
        let ClientRequest::Savepoint { job, target, stop } = request;
        if let Some(peer) = self.peers.get_mut(number) {
            peer.is_client = true;
        }
        let target = match job {
            Some(job) if job != self.job.id => {
                Err(format!("there is no job {job} here: this JobManager leads {} ({})", self.job.name, self.job.id))
            }
            _ => self.savepoint_target(target),
        };
        let target = match target {
            // Before anything is recorded: the coordinator would refuse it, too.
            Ok(_) if self.coordinator.running().is_none() => {
                self.platform.journal.reached(Point::SavepointRefused);
                Err(format!("job {} is not running: try again when it is", self.job.name))
            }
            target => target,
        };
        match target {
            Err(reason) => self.answer_savepoint(number, Err(reason)),
            Ok(target) => {
                let durable = self.durable.clone();
                self.spawn("begin-savepoint", async move {
                    LeaderEvent::SavepointBegun { client: number, stop, result: durable.begin_savepoint(&target).await }
                });
            }
        }
    }

    /// Where savepoints go: what the trigger says counts more than the configuration.
    fn savepoint_target(&self, target: Option<String>) -> Result<ObjectName, String> {
        let Some(target) = target.or_else(|| self.config.savepoint_directory.clone()) else {
            return Err(
                "no directory for the savepoint: name one as the target, or set `state.savepoints.dir`".to_string()
            );
        };
        let name = self.platform.primary.locate(&target).map_err(|reason| format!("target {target}: {reason}"))?;
        SavepointDirectory::refuses(&name).map_or(Ok(name), Err)
    }

    pub(super) fn savepoint_begun(&mut self, client: u64, stop: bool, result: Result<SavepointDirectory, BeginError>) {
        match result {
            Ok(directory) => {
                self.clients.insert(directory.clone(), client);
                let (job, name) = (self.job.name.clone(), directory.to_string());
                self.emit(Event::SavepointRequested { job, directory: name, stop });
                let now = self.now();
                self.coordinate(CoordinatorEvent::TriggerSavepoint(SavepointOrder { directory, stop }), now);
            }
            Err(BeginError::Head(error)) if is_fencing(&error) => self.step_down(error.to_string()),
            Err(error) => self.answer_savepoint(client, Err(error.to_string())),
        }
    }

    pub(super) fn savepoint_failed(&mut self, order: &SavepointOrder, reason: String) {
        if let Some(client) = self.clients.remove(&order.directory) {
            let directory = self.platform.primary.describe(order.directory.name());
            self.answer_savepoint(client, Err(format!("savepoint {directory} failed: {reason}")));
        }
    }

    pub(super) fn savepoint_completed(&mut self, order: SavepointOrder) {
        if let Some(client) = self.clients.remove(&order.directory) {
            let path = self.platform.primary.describe(order.directory.name());
            self.answer_savepoint(client, Ok(path));
        }
        if order.stop {
            let reason = format!("stopped with savepoint {}", order.directory);
            self.stop_tasks(Then::End(JobOutcome::Stopped { savepoint: order.directory.name().clone() }), &reason);
        }
    }

    fn answer_savepoint(&self, client: u64, answer: Result<String, String>) {
        let said = match &answer {
            Ok(path) => path.clone(),
            Err(reason) => format!("error: {reason}"),
        };
        self.emit(Event::SavepointAnswered { job: self.job.name.clone(), answer: said });
        self.peers.answer(client, &ClientResponse::Savepoint(answer));
    }
}

/// Why a savepoint was not even begun.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    #[error("the target cannot be used: {0}")]
    Target(String),
    #[error(transparent)]
    Head(#[from] HeadError),
}

//! The subtasks of a TaskManager: how they come to run, how they hear of channels and cancellations, what they report.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use futures::{FutureExt, channel::mpsc, future::AbortHandle};
use tokio::sync::mpsc as task_mpsc;

use super::{
    AttemptId, Event, HeldSlot, Platform, Point, SharedSlot, SubtaskId, SubtaskSpec, TaskManager, TaskManagerConfig,
    TmEvent, ToJobManager,
};
use crate::{
    dataflow::{
        frame::decode_hello,
        subtask::run_subtask,
        task::{InboundChannel, SubtaskCommand, SubtaskReport, TaskFailure},
    },
    platform::{Listener, TaskEnd, recv, timeout},
    recovery::allocations::{self, StoredAllocation},
};

pub(super) struct RunningTask {
    pub attempt: AttemptId,
    pub commands: task_mpsc::UnboundedSender<SubtaskCommand>,
    pub inbound: task_mpsc::UnboundedSender<InboundChannel>,
    /// Waits for the task and forwards its reports.
    pub watchers: Vec<AbortHandle>,
}

impl TaskManager {
    /// The job as the next deployments have it.
    pub(super) fn scale_to(&mut self, scaled_to: Option<u32>) -> Result<(), String> {
        if self.scaled_to != scaled_to {
            let scaled = scaled_to.map(|parallelism| self.described.at_parallelism(parallelism)).transpose()?;
            self.job = Arc::new(scaled.unwrap_or_else(|| self.described.clone()));
            self.scaled_to = scaled_to;
        }
        Ok(())
    }

    pub(super) async fn deploy(&mut self, slot: u32, shared: SharedSlot, mut spec: SubtaskSpec) {
        let (subtask, attempt) = (spec.subtask, spec.attempt);
        if attempt <= self.cancelled_up_to || self.tasks.contains_key(&(subtask, attempt)) {
            self.platform.journal.sometimes(Point::DeploymentCancelled, attempt <= self.cancelled_up_to);
            self.platform.journal.emit(Event::StaleMessageIgnored {
                process: self.platform.process.to_string(),
                message: format!("deployment of {subtask} for attempt {attempt}"),
            });
            return;
        }
        let Some(held) = self.slots.get(slot as usize).copied() else {
            let reason = format!("slot {slot} does not exist, there are {}", self.slots.len());
            return self.report(attempt, subtask, SubtaskReport::Failed(TaskFailure::Environment(reason)));
        };
        if let Some(held) = held
            && held.allocation != spec.allocation
        {
            self.release(slot, held.allocation, true).await;
        }
        let allocation = spec.allocation;
        let holds = HeldSlot { allocation, shared, since: attempt };
        self.slots[slot as usize] = Some(holds);
        if held != Some(holds) && self.config.cluster.task.local_recovery {
            let record = StoredAllocation { allocation, slot, shared, since: attempt };
            // Without the record the slot is merely not recognised after a process restart.
            let _ = allocations::write_slot(&*self.platform.disk, record).await;
        }
        let name = self.job.graph.subtask_name(subtask);
        self.platform.journal.emit(Event::TaskDeployed {
            subtask: name.clone(),
            attempt,
            task_manager: self.platform.process.to_string(),
            slot,
            allocation: spec.allocation,
        });
        let local = self.local_store(&spec);
        spec.settings.backend.rocksdb.host = self.database_host(&spec);
        let (commands, command_queue) = task_mpsc::unbounded_channel();
        let (inbound, inbound_queue) = task_mpsc::unbounded_channel();
        let (reports, mut report_queue) = task_mpsc::unbounded_channel();
        for channel in self.early_channels.remove(&(subtask, attempt)).unwrap_or_default() {
            let _ = inbound.send(channel);
        }
        let (platform, job) = (self.platform.clone(), Arc::clone(&self.job));
        let body = Box::new(move || {
            run_subtask(platform, job, spec, local, inbound_queue, command_queue, reports).boxed_local()
        });
        let task = self.platform.spawner.worker(&format!("{name}@{attempt}"), body);
        let events = self.events.clone();
        let watcher = self.platform.spawner.control(
            &format!("watch-{name}"),
            async move {
                while let Some(report) = report_queue.recv().await {
                    let _ = events.unbounded_send(TmEvent::Report(attempt, subtask, report));
                }
                let end = task.await;
                let _ = events.unbounded_send(TmEvent::TaskEnded(attempt, subtask, end));
            }
            .boxed(),
        );
        let watchers = vec![watcher.abort_handle()];
        self.tasks.insert((subtask, attempt), RunningTask { attempt, commands, inbound, watchers });
    }

    pub(super) fn cancel_tasks(&self, up_to: AttemptId) {
        for task in self.tasks.values().filter(|t| t.attempt <= up_to) {
            let _ = task.commands.send(SubtaskCommand::Cancel);
        }
    }

    pub(super) fn answer_cancellation(&mut self) {
        if let Some(attempt) = self.cancelling
            && !self.tasks.values().any(|t| t.attempt <= attempt)
        {
            self.cancelling = None;
            if let Some(connection) = &self.connection {
                connection.send(&ToJobManager::Cancelled { attempt, local: self.shelf.inventory() });
            }
        }
    }

    pub(super) fn hand_over(&mut self, channel: InboundChannel) {
        let key = (channel.hello.to, channel.hello.attempt);
        if let Some(task) = self.tasks.get(&key) {
            let _ = task.inbound.send(channel);
        } else if channel.hello.attempt > self.cancelled_up_to {
            self.platform.journal.reached(Point::ChannelBeforeSubtask);
            self.early_channels.entry(key).or_default().push(channel);
        }
    }

    pub(super) fn report(&mut self, attempt: AttemptId, subtask: SubtaskId, report: SubtaskReport) {
        let state = match &report {
            SubtaskReport::Running(_) => Some(("RUNNING", String::new())),
            SubtaskReport::Failed(failure) => Some(("FAILED", failure.to_string())),
            SubtaskReport::Stopped => Some(("CANCELED", String::new())),
            _ => None,
        };
        if let Some((to, reason)) = state {
            let subtask = self.job.graph.subtask_name(subtask);
            self.platform.journal.emit(Event::TaskStateChanged { subtask, attempt, to: to.to_string(), reason });
        }
        if let Some(connection) = &self.connection {
            connection.send(&ToJobManager::Report { attempt, subtask, report });
        }
    }

    pub(super) fn task_ended(&mut self, attempt: AttemptId, subtask: SubtaskId, end: TaskEnd) {
        if let Some(task) = self.tasks.remove(&(subtask, attempt)) {
            for watcher in task.watchers {
                watcher.abort();
            }
        }
        if let TaskEnd::Panicked(message) = end {
            let failure = TaskFailure::User(format!("panicked: {message}"));
            self.report(attempt, subtask, SubtaskReport::Failed(failure));
        }
        self.answer_cancellation();
    }
}

/// Accepts data channels and reads their first frame.
pub(super) async fn accept_channels(
    platform: Platform,
    mut listener: Box<dyn Listener>,
    events: mpsc::UnboundedSender<TmEvent>,
    config: TaskManagerConfig,
    accepted: AtomicU32,
) {
    loop {
        let mut connection = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                let _ = events.unbounded_send(TmEvent::ListenerFailed(format!("its data port broke: {error}")));
                return;
            }
        };
        let number = accepted.fetch_add(1, Ordering::Relaxed);
        let (clock, events) = (Arc::clone(&platform.clock), events.clone());
        let patience = config.cluster.task.connect_timeout;
        let body = async move {
            // A peer that says nothing, or nonsense, is dropped.
            let by = clock.now() + patience;
            if let Ok(Ok(frame)) = timeout(&*clock, by, recv(connection.receiver.as_mut())).await
                && let Ok(hello) = decode_hello(&frame)
            {
                let _ = events.unbounded_send(TmEvent::Inbound(InboundChannel { hello, connection }));
            }
        };
        platform.spawner.control(&format!("channel-hello-{number}"), body.boxed());
    }
}

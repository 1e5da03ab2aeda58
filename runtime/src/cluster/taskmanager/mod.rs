//! The TaskManager: offers slots, runs subtasks, keeps local copies of state.
//!
//! An actor: one control task owns all of its state and handles one event at a time; connections, listeners and subtasks
//! send it events. It never runs user code. It obeys the highest leader epoch it has seen and ignores every lower one; it
//! stops its tasks when it has not heard from a leader for the heartbeat timeout, and keeps slots and local copies then,
//! because the next leader will want them.

mod slots;
mod tasks;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU32},
};

use futures::{FutureExt, StreamExt, channel::mpsc, select_biased};
use serde::{Deserialize, Serialize};

use self::{
    slots::recall_slots,
    tasks::{RunningTask, accept_channels},
};
use super::{
    config::ClusterConfig,
    connection::{self, Outbox},
    rpc::{HeldSlot, ToJobManager, ToTaskManager},
};
#[cfg(feature = "rocksdb")]
use crate::state::SlotMemory;
use crate::{
    dataflow::task::{InboundChannel, SubtaskCommand, SubtaskReport, SubtaskSpec, TaskFailure},
    graph::Job,
    ids::{AllocationId, AttemptId, LeaderEpoch, SharedSlot, SubtaskId},
    journal::Event,
    platform::{Address, Connection, Mono, Platform, TaskEnd},
    points::Point,
    recovery::{local_shelf::LocalShelf, local_store::LocalStateStore},
};

/// What a TaskManager needs to know of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskManagerConfig {
    pub job_manager: Address,
    pub data_address: Address,
    pub slots: u32,
    pub cluster: ClusterConfig,
}

/// Why a TaskManager could not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("TaskManager {process}: {reason}")]
pub struct TaskManagerError {
    pub process: String,
    pub reason: String,
}

enum TmEvent {
    Connected(u64, Connection),
    FromJobManager(u64, ToTaskManager),
    ConnectionDown(u64, String),
    Inbound(InboundChannel),
    Report(AttemptId, SubtaskId, SubtaskReport),
    TaskEnded(AttemptId, SubtaskId, TaskEnd),
    ListenerFailed(String),
}

struct TaskManager {
    platform: Platform,
    /// As its author described it.
    described: Job,
    /// As it was deployed last: at another parallelism, perhaps.
    job: Arc<Job>,
    /// The parallelism that `job` was scaled to; None: as described.
    scaled_to: Option<u32>,
    config: TaskManagerConfig,
    incarnation: u64,
    events: mpsc::UnboundedSender<TmEvent>,
    data_address: Address,
    slots: Vec<Option<HeldSlot>>,
    tasks: BTreeMap<(SubtaskId, AttemptId), RunningTask>,
    /// Channels that arrived before the subtask they belong to.
    early_channels: BTreeMap<(SubtaskId, AttemptId), Vec<InboundChannel>>,
    local: BTreeMap<(AllocationId, SubtaskId), Arc<LocalStateStore>>,
    /// All local copies of this TaskManager, those of `local` and those of slots that were given up lately.
    shelf: LocalShelf,
    /// What the databases of each slot share; None: no bound.
    #[cfg(feature = "rocksdb")]
    memories: BTreeMap<AllocationId, Option<SlotMemory>>,
    connection: Option<Outbox>,
    connection_number: u64,
    leader: LeaderEpoch,
    heard_at: Mono,
    cancelled_up_to: AttemptId,
    /// Cancellations that the JobManager waits for.
    cancelling: Option<AttemptId>,
}

/// Runs a TaskManager until its process ends; returns only if it cannot start or loses its listener.
///
/// # Errors
/// [`TaskManagerError`] if the data port cannot be opened or breaks.
pub async fn run(platform: Platform, job: Job, config: TaskManagerConfig) -> Result<(), TaskManagerError> {
    let process = platform.process.to_string();
    let fail = |reason: String| TaskManagerError { process: process.clone(), reason };
    platform.journal.emit(Event::ProcessStarted { process: process.clone() });
    let listener = platform
        .transport
        .listen(&config.data_address)
        .await
        .map_err(|e| fail(format!("cannot listen on {}: {e}", config.data_address)))?;
    let (events, mut inbox) = mpsc::unbounded();
    let data_address = listener.address();
    let accepting = AtomicU32::new(0);
    let accept = accept_channels(platform.clone(), listener, events.clone(), config.clone(), accepting);
    let acceptor = platform.spawner.control("data-listener", accept.boxed());

    let shelf = LocalShelf::new(&platform, job.id, job.program(), config.cluster.task.local_roots);
    let slots = recall_slots(&platform, &config, &shelf).await;
    let incarnation = platform.entropy.next_u64("taskmanager-incarnation");
    let mut tm = TaskManager {
        heard_at: platform.clock.now(),
        platform: platform.clone(),
        job: Arc::new(job.clone()),
        described: job,
        scaled_to: None,
        config,
        incarnation,
        events,
        data_address,
        slots,
        tasks: BTreeMap::new(),
        early_channels: BTreeMap::new(),
        local: BTreeMap::new(),
        shelf,
        #[cfg(feature = "rocksdb")]
        memories: BTreeMap::new(),
        connection: None,
        connection_number: 0,
        leader: LeaderEpoch(0),
        cancelled_up_to: AttemptId::default(),
        cancelling: None,
    };
    tm.connect();
    loop {
        let tick = platform.clock.sleep(tm.config.cluster.heartbeat_interval);
        let mut tick = tick.fuse();
        let reason = loop {
            select_biased! {
                event = inbox.next() => match event {
                    Some(TmEvent::ListenerFailed(reason)) => break Some(reason),
                    Some(event) => tm.handle(event).await,
                    None => break Some("its event queue closed".to_string()),
                },
                () = tick => break None,
            }
        };
        if let Some(reason) = reason {
            acceptor.abort();
            return Err(fail(reason));
        }
        tm.tick();
    }
}

impl TaskManager {
    /// Connects to the JobManager in the background, trying until it succeeds.
    fn connect(&mut self) {
        self.connection = None;
        self.connection_number += 1;
        let number = self.connection_number;
        let platform = self.platform.clone();
        let to = self.config.job_manager.clone();
        let delay = self.config.cluster.reconnect_delay;
        let patience = self.config.cluster.heartbeat_timeout;
        let events = self.events.clone();
        let label = format!("{}->jobmanager", self.platform.process);
        let body = async move {
            loop {
                let by = platform.clock.now() + patience;
                if let Ok(connection) = platform.transport.connect(&to, &label, by).await {
                    let _ = events.unbounded_send(TmEvent::Connected(number, connection));
                    return;
                }
                platform.clock.sleep(delay).await;
            }
        };
        self.platform.spawner.control("jobmanager-connect", body.boxed());
    }

    fn tick(&mut self) {
        if let Some(connection) = &self.connection {
            connection.send(&ToJobManager::Heartbeat);
        }
        let silent = self.platform.clock.now() - self.heard_at;
        if silent > self.config.cluster.heartbeat_timeout {
            self.heard_at = self.platform.clock.now();
            self.platform.journal.emit(Event::JobManagerLost {
                task_manager: self.platform.process.to_string(),
                reason: format!("nothing heard for {} ms", silent.as_millis()),
            });
            self.cancel_tasks(AttemptId { leader: LeaderEpoch(u64::MAX), execution: crate::ids::Execution(u32::MAX) });
            if self.connection.is_some() {
                self.connect();
            }
        }
        if self.tasks.is_empty() && self.shelf.has_forgotten(self.config.cluster.slot_request_timeout) {
            let (shelf, after) = (self.shelf.clone(), self.config.cluster.slot_request_timeout);
            let body = async move { shelf.clear_forgotten(after).await };
            // Detached: nobody waits for it.
            drop(self.platform.spawner.control("clear-forgotten-copies", body.boxed()));
        }
        let known = self.cancelled_up_to;
        self.early_channels.retain(|(_, attempt), _| *attempt > known);
    }

    async fn handle(&mut self, event: TmEvent) {
        match event {
            TmEvent::Connected(number, connection) if number == self.connection_number => self.register(connection),
            TmEvent::FromJobManager(number, message) if number == self.connection_number => self.obey(message).await,
            TmEvent::ConnectionDown(number, reason) if number == self.connection_number => {
                let task_manager = self.platform.process.to_string();
                self.platform.journal.emit(Event::JobManagerLost { task_manager, reason });
                self.connect();
            }
            TmEvent::Connected(..) | TmEvent::FromJobManager(..) | TmEvent::ConnectionDown(..) => {}
            TmEvent::Inbound(channel) => self.hand_over(channel),
            TmEvent::Report(attempt, subtask, report) => self.report(attempt, subtask, report),
            TmEvent::TaskEnded(attempt, subtask, end) => self.task_ended(attempt, subtask, end),
            TmEvent::ListenerFailed(_) => {}
        }
    }

    fn register(&mut self, connection: Connection) {
        let number = self.connection_number;
        let (to_me, down) = (self.events.clone(), self.events.clone());
        let outbox = connection::start(
            &self.platform,
            "jobmanager",
            connection,
            move |message| {
                let _ = to_me.unbounded_send(TmEvent::FromJobManager(number, message));
            },
            move |reason| {
                let _ = down.unbounded_send(TmEvent::ConnectionDown(number, reason));
            },
        );
        outbox.send(&ToJobManager::Register {
            task_manager: self.platform.process.to_string(),
            incarnation: self.incarnation,
            job: self.job.id,
            data_address: self.data_address.clone(),
            obeyed: self.leader,
            slots: self.slots.clone(),
        });
        self.connection = Some(outbox);
    }

    async fn obey(&mut self, message: ToTaskManager) {
        if message.leader() < self.leader {
            self.platform.journal.reached(Point::OrderOfOldLeader);
            self.platform.journal.emit(Event::StaleMessageIgnored {
                process: self.platform.process.to_string(),
                message: format!("order of leader {} under leader {}", message.leader(), self.leader),
            });
            return;
        }
        self.leader = message.leader();
        self.heard_at = self.platform.clock.now();
        match message {
            ToTaskManager::Welcome { .. } | ToTaskManager::Heartbeat { .. } => {}
            ToTaskManager::Deploy { slot, scaled_to, shared, spec, .. } => match self.scale_to(scaled_to) {
                Ok(()) => self.deploy(slot, shared, *spec).await,
                Err(reason) => {
                    let failed = SubtaskReport::Failed(TaskFailure::Environment(reason));
                    self.report(spec.attempt, spec.subtask, failed);
                }
            },
            ToTaskManager::Cancel { attempt, .. } => {
                self.cancelled_up_to = self.cancelled_up_to.max(attempt);
                self.cancelling = Some(attempt);
                self.cancel_tasks(attempt);
                self.answer_cancellation();
            }
            ToTaskManager::Command { attempt, subtasks, command, .. } => {
                if matches!(command, SubtaskCommand::NotifyComplete(_)) {
                    self.clear_retired(attempt);
                }
                for subtask in subtasks {
                    if let Some(task) = self.tasks.get(&(subtask, attempt)) {
                        // A task that has ended reports so by itself.
                        let _ = task.commands.send(command.clone());
                    }
                }
            }
            ToTaskManager::ReleaseSlot { slot, allocation, keep_copies, .. } => {
                self.release(slot, allocation, keep_copies).await;
            }
        }
    }
}

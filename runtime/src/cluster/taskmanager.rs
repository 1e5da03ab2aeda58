//! The TaskManager: offers slots, runs subtasks, keeps local copies of state.
//!
//! An actor: one control task owns all of its state and handles one event at a time; connections, listeners and subtasks
//! send it events. It never runs user code. It obeys the highest leader epoch it has seen and ignores every lower one; it
//! stops its tasks when it has not heard from a leader for the heartbeat timeout, and keeps slots and local copies then,
//! because the next leader will want them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use futures::{FutureExt, StreamExt, channel::mpsc, future::AbortHandle, select_biased};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc as task_mpsc;

use super::{
    config::ClusterConfig,
    connection::{self, Outbox},
    rpc::{HeldSlot, ToJobManager, ToTaskManager},
};
#[cfg(feature = "rocksdb")]
use crate::state::{BackendKind, SlotMemory};
use crate::{
    dataflow::{
        frame::decode_hello,
        subtask::run_subtask,
        task::{InboundChannel, SubtaskCommand, SubtaskReport, SubtaskSpec, TaskFailure},
    },
    graph::Job,
    ids::{AllocationId, AttemptId, LeaderEpoch, SubtaskId},
    journal::Event,
    platform::{Address, Listener, Mono, Platform, TaskEnd, recv, timeout},
    points::Point,
    recovery::{
        allocations::{self, StoredAllocation},
        local_store::LocalStateStore,
    },
    state::rocksdb_options::host::DatabaseHost,
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
    Connected(u64, crate::platform::Connection),
    FromJobManager(u64, ToTaskManager),
    ConnectionDown(u64, String),
    Inbound(InboundChannel),
    Report(AttemptId, SubtaskId, SubtaskReport),
    TaskEnded(AttemptId, SubtaskId, TaskEnd),
    ListenerFailed(String),
}

struct RunningTask {
    attempt: AttemptId,
    commands: task_mpsc::UnboundedSender<SubtaskCommand>,
    inbound: task_mpsc::UnboundedSender<InboundChannel>,
    /// Waits for the task and forwards its reports.
    watchers: Vec<AbortHandle>,
}

struct TaskManager {
    platform: Platform,
    job: Job,
    config: TaskManagerConfig,
    incarnation: u64,
    events: mpsc::UnboundedSender<TmEvent>,
    data_address: Address,
    slots: Vec<Option<HeldSlot>>,
    tasks: BTreeMap<(SubtaskId, AttemptId), RunningTask>,
    /// Channels that arrived before the subtask they belong to.
    early_channels: BTreeMap<(SubtaskId, AttemptId), Vec<InboundChannel>>,
    local: BTreeMap<(AllocationId, SubtaskId), Arc<LocalStateStore>>,
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

    let slots = recall_slots(&platform, &config).await;
    let incarnation = platform.entropy.next_u64("taskmanager-incarnation");
    let mut tm = TaskManager {
        heard_at: platform.clock.now(),
        platform: platform.clone(),
        job,
        config,
        incarnation,
        events,
        data_address,
        slots,
        tasks: BTreeMap::new(),
        early_channels: BTreeMap::new(),
        local: BTreeMap::new(),
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

/// Slots remembered by a former run of this process on the same disk are offered again, with their local copies; what else
/// lies there is removed.
async fn recall_slots(platform: &Platform, config: &TaskManagerConfig) -> Vec<Option<HeldSlot>> {
    let mut slots = vec![None; config.slots as usize];
    // An unreadable disk only means that nothing is remembered.
    let found = allocations::scan(&*platform.disk).await.unwrap_or_default();
    for stored in found.allocations {
        match slots.get_mut(stored.slot as usize) {
            Some(slot @ None) if config.cluster.task.local_recovery => {
                let attempt = AttemptId::default();
                *slot = Some(HeldSlot { allocation: stored.allocation, group: stored.group, attempt });
                platform.journal.reached(Point::SlotsRemembered);
            }
            _ => {
                let _ = allocations::release(&*platform.disk, stored.allocation).await;
            }
        }
    }
    for (directory, _) in found.rejected {
        let _ = platform.disk.remove_tree(&directory).await;
    }
    slots
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

    fn register(&mut self, connection: crate::platform::Connection) {
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
            ToTaskManager::Deploy { slot, group, spec, .. } => self.deploy(slot, group, *spec).await,
            ToTaskManager::Cancel { attempt, .. } => {
                self.cancelled_up_to = self.cancelled_up_to.max(attempt);
                self.cancelling = Some(attempt);
                self.cancel_tasks(attempt);
                self.answer_cancellation();
            }
            ToTaskManager::Command { attempt, subtasks, command, .. } => {
                for subtask in subtasks {
                    if let Some(task) = self.tasks.get(&(subtask, attempt)) {
                        // A task that has ended reports so by itself.
                        let _ = task.commands.send(command.clone());
                    }
                }
            }
            ToTaskManager::ReleaseSlot { slot, allocation, .. } => self.release(slot, allocation).await,
        }
    }

    async fn deploy(&mut self, slot: u32, group: u32, mut spec: SubtaskSpec) {
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
            self.release(slot, held.allocation).await;
        }
        self.slots[slot as usize] = Some(HeldSlot { allocation: spec.allocation, group, attempt });
        if held.is_none_or(|h| h.allocation != spec.allocation) && self.config.cluster.task.local_recovery {
            let record = StoredAllocation { allocation: spec.allocation, slot, group };
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
        let (platform, job) = (self.platform.clone(), Arc::new(self.job.clone()));
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

    /// What databases of a slot have in common.
    #[cfg_attr(not(feature = "rocksdb"), expect(unused_variables, reason = "there are no databases without it"))]
    fn database_host(&mut self, spec: &SubtaskSpec) -> DatabaseHost {
        DatabaseHost {
            #[cfg(feature = "rocksdb")]
            memory: match spec.settings.backend.kind {
                BackendKind::RocksDb => self
                    .memories
                    .entry(spec.allocation)
                    .or_insert_with(|| SlotMemory::new(&spec.settings.backend.rocksdb.memory))
                    .clone(),
                _ => None,
            },
            journal: Some(self.platform.journal.clone()),
        }
    }

    fn local_store(&mut self, spec: &SubtaskSpec) -> Arc<LocalStateStore> {
        let key = (spec.allocation, spec.subtask);
        let store = self.local.entry(key).or_insert_with(|| {
            let name = self.job.graph.subtask_name(spec.subtask);
            let sabotage = spec.settings.sabotage.clone();
            let (allocation, job) = (spec.allocation, spec.job);
            Arc::new(LocalStateStore::sabotaged(&self.platform, allocation, job, spec.subtask, &name, sabotage))
        });
        Arc::clone(store)
    }

    async fn release(&mut self, slot: u32, allocation: AllocationId) {
        let Some(held) = self.slots.get_mut(slot as usize) else { return };
        if held.is_none_or(|h| h.allocation != allocation) {
            return;
        }
        *held = None;
        self.local.retain(|(owner, _), _| *owner != allocation);
        #[cfg(feature = "rocksdb")]
        self.memories.remove(&allocation);
        // What cannot be removed now is found and removed at the next start.
        let _ = allocations::release(&*self.platform.disk, allocation).await;
        self.platform.journal.emit(Event::SlotReleased {
            task_manager: self.platform.process.to_string(),
            slot,
            allocation,
        });
    }

    fn cancel_tasks(&self, up_to: AttemptId) {
        for task in self.tasks.values().filter(|t| t.attempt <= up_to) {
            let _ = task.commands.send(SubtaskCommand::Cancel);
        }
    }

    fn answer_cancellation(&mut self) {
        if let Some(attempt) = self.cancelling
            && !self.tasks.values().any(|t| t.attempt <= attempt)
        {
            self.cancelling = None;
            if let Some(connection) = &self.connection {
                connection.send(&ToJobManager::Cancelled { attempt });
            }
        }
    }

    fn hand_over(&mut self, channel: InboundChannel) {
        let key = (channel.hello.to, channel.hello.attempt);
        if let Some(task) = self.tasks.get(&key) {
            let _ = task.inbound.send(channel);
        } else if channel.hello.attempt > self.cancelled_up_to {
            self.platform.journal.reached(Point::ChannelBeforeSubtask);
            self.early_channels.entry(key).or_default().push(channel);
        }
    }

    fn report(&mut self, attempt: AttemptId, subtask: SubtaskId, report: SubtaskReport) {
        let state = match &report {
            SubtaskReport::Running => Some(("RUNNING", String::new())),
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

    fn task_ended(&mut self, attempt: AttemptId, subtask: SubtaskId, end: TaskEnd) {
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
async fn accept_channels(
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

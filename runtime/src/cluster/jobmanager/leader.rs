//! One term of leadership.
//!
//! The phases of the job under one leader:
//!
//! ```text
//! Committing -> Stopping -> Delay -> Preparing -> Slots -> Deployed -(failure)-> Stopping
//!                                                             |
//!                                                             +-(final checkpoint)-> Ending
//! ```
//!
//! What it must never break: no restore is chosen while an append or a commit is under way; no slot is used before its
//! TaskManager confirmed that older attempts have stopped; after being fenced nothing more is done.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{FutureExt, channel::mpsc, future::AbortHandle};

use super::{
    JobOutcome,
    durable::{Durable, PrepareError, Prepared},
    execution::ExecutionState,
    peers::{Peers, Registered},
};
use crate::{
    checkpoint::{
        coordinator::{Coordinator, CoordinatorCommand, CoordinatorEvent, Participants},
        head::{HeadEntry, HeadError, HeadLog, JobEnd},
        metadata,
        primary::Primary,
    },
    cluster::{
        config::ClusterConfig,
        connection,
        rpc::{ToJobManager, ToTaskManager},
        slots::SlotPool,
    },
    dataflow::task::{ChannelTarget, SubtaskCommand, SubtaskReport, SubtaskSpec, TaskFailure},
    graph::Job,
    ids::{AllocationId, AttemptId, CheckpointId, Execution, LeaderEpoch, SubtaskId},
    journal::Event,
    layout::Layout,
    platform::{Connection, Mono, ObjectName, Platform, Timer},
    recovery::choice::{ChoiceSettings, replay_plan},
    sabotage::Sabotage,
};

/// How a term of leadership ended.
#[derive(Debug)]
pub enum Term {
    Ended(JobOutcome),
    SteppedDown { reason: String },
}

pub enum LeaderEvent {
    FromTaskManager(u64, ToJobManager),
    ConnectionDown(u64, String),
    NewestCommitted(Result<(), String>),
    MetadataWritten(CheckpointId, Result<ObjectName, String>),
    HeadAppended(CheckpointId, Result<u64, HeadError>),
    IdsAppended(HeadEntry, Result<u64, HeadError>),
    SinksCommitted(CheckpointId, Result<(), String>),
    Prepared(Result<Prepared, PrepareError>),
    EndRecorded(JobOutcome, Result<(), HeadError>),
}

enum Phase {
    /// The manifests of the newest checkpoint are made sure of.
    Committing,
    /// Tasks are being cancelled; TaskManagers that do not confirm by the deadline are given up.
    Stopping {
        deadline: Mono,
        then: Then,
    },
    Delay {
        until: Mono,
    },
    Preparing,
    /// A restore is ready and waits for slots. Before `settled`, only a full set of previous allocations will do.
    Slots {
        prepared: Box<Prepared>,
        settled: Mono,
        deadline: Mono,
    },
    Deployed(Box<ExecutionState>),
    Ending,
}

#[derive(Clone)]
enum Then {
    /// The first execution of this term: whatever an earlier leader left running is stopped.
    Start,
    Restart,
    End(JobOutcome),
}

impl Phase {
    /// Flink's name for it (`JobStatus`).
    fn job_status(&self) -> &'static str {
        match self {
            Phase::Committing | Phase::Stopping { then: Then::Start, .. } => "INITIALIZING",
            Phase::Stopping { then: Then::Restart, .. } => "FAILING",
            Phase::Stopping { then: Then::End(_), .. } => "CANCELLING",
            Phase::Delay { .. } | Phase::Preparing => "RESTARTING",
            Phase::Slots { .. } => "CREATED",
            Phase::Deployed(_) => "RUNNING",
            Phase::Ending => "ENDING",
        }
    }
}

pub struct Leader {
    platform: Platform,
    job: Arc<Job>,
    config: Arc<ClusterConfig>,
    epoch: LeaderEpoch,
    durable: Durable,
    coordinator: Coordinator,
    peers: Peers,
    pool: SlotPool,
    phase: Phase,
    execution: Execution,
    condemned: BTreeMap<CheckpointId, String>,
    restarts: u32,
    /// The last failure of user code: what a person wants to know when the job is given up because of what followed from it.
    user_failure: Option<String>,
    events: mpsc::UnboundedSender<LeaderEvent>,
    inbox: Option<mpsc::UnboundedReceiver<LeaderEvent>>,
    /// Background work that dies with the term.
    background: Vec<AbortHandle>,
    end: Option<Term>,
    next_heartbeat: Mono,
}

impl Drop for Leader {
    fn drop(&mut self) {
        for task in &self.background {
            task.abort();
        }
    }
}

impl Leader {
    pub fn new(
        platform: Platform,
        job: Arc<Job>,
        config: Arc<ClusterConfig>,
        head: HeadLog,
        epoch: LeaderEpoch,
    ) -> Leader {
        let now = platform.clock.now();
        let primary = Primary::new(&platform, config.task.store_operation_timeout, config.task.store_total_timeout);
        let participants = Participants::of(&job.graph);
        let sinks = Arc::new(participants.sinks.iter().cloned().collect());
        let coordinator_config = config.checkpoint.coordinator(job.id, job.name.clone(), config.task.sabotage.clone());
        let coordinator = Coordinator::new(coordinator_config, participants, &head.state(), now);
        let (events, inbox) = mpsc::unbounded();
        let durable = Durable { primary, layout: Layout { job: job.id }, head, sinks };
        Leader {
            next_heartbeat: now + config.heartbeat_interval,
            platform,
            job,
            config,
            epoch,
            durable,
            coordinator,
            peers: Peers::default(),
            pool: SlotPool::default(),
            phase: Phase::Committing,
            execution: Execution(0),
            condemned: BTreeMap::new(),
            restarts: 0,
            user_failure: None,
            events,
            inbox: Some(inbox),
            background: Vec::new(),
            end: None,
        }
    }

    /// The queue of this term's events; taken once by whoever feeds them back.
    pub fn take_inbox(&mut self) -> mpsc::UnboundedReceiver<LeaderEvent> {
        self.inbox.take().expect("the inbox is taken once")
    }

    pub fn take_end(&mut self) -> Option<Term> {
        self.end.take()
    }

    /// First makes sure that what the job's last leader completed is committed.
    pub fn start(&mut self) {
        let state = self.durable.head.state();
        if let Some(end) = &state.end {
            let outcome = match end {
                JobEnd::Finished => JobOutcome::Finished,
                JobEnd::Failed { reason } => JobOutcome::Failed { reason: reason.clone() },
            };
            // Nothing to decide any more; what the sweep of the last leader left behind is removed now.
            return self.record_end(outcome);
        }
        let durable = self.durable.clone();
        self.spawn("commit-newest", async move {
            let result = match state.newest {
                Some(newest) => durable.commit_sinks(newest, &state.newest_sinks).await,
                None => Ok(()),
            };
            LeaderEvent::NewestCommitted(result)
        });
    }

    fn now(&self) -> Mono {
        self.platform.clock.now()
    }

    fn emit(&self, event: Event) {
        self.platform.journal.emit(event);
    }

    fn spawn(&mut self, name: &str, body: impl Future<Output = LeaderEvent> + Send + 'static) {
        let events = self.events.clone();
        let task = self.platform.spawner.control(
            name,
            async move {
                // Nobody listens any more when the term is over.
                let _ = events.unbounded_send(body.await);
            }
            .boxed(),
        );
        self.background.retain(|task| !task.is_aborted());
        self.background.push(task.abort_handle());
    }

    fn attempt(&self) -> AttemptId {
        AttemptId { leader: self.epoch, execution: self.execution }
    }

    /// The latest attempt of which tasks may be running anywhere.
    fn last_deployed(&self) -> AttemptId {
        match self.phase {
            Phase::Preparing | Phase::Slots { .. } => {
                AttemptId { leader: self.epoch, execution: Execution(self.execution.0.saturating_sub(1)) }
            }
            _ => self.attempt(),
        }
    }

    fn enter(&mut self, phase: Phase, reason: &str) {
        let (from, to) = (self.phase.job_status(), phase.job_status());
        self.phase = phase;
        if from != to {
            self.emit(Event::JobStateChanged {
                job: self.job.name.clone(),
                from: from.to_string(),
                to: to.to_string(),
                reason: reason.to_string(),
            });
        }
    }

    fn step_down(&mut self, reason: String) {
        self.end.get_or_insert(Term::SteppedDown { reason });
    }

    // ---- events

    pub fn accepted(&mut self, connection: Connection) {
        let number = self.peers.next_number();
        let (to_me, down) = (self.events.clone(), self.events.clone());
        let outbox = connection::start(
            &self.platform,
            "taskmanager",
            connection,
            move |message| {
                let _ = to_me.unbounded_send(LeaderEvent::FromTaskManager(number, message));
            },
            move |reason| {
                let _ = down.unbounded_send(LeaderEvent::ConnectionDown(number, reason));
            },
        );
        self.peers.add(outbox, self.now());
    }

    pub fn handle(&mut self, event: LeaderEvent) {
        let now = self.now();
        match event {
            LeaderEvent::FromTaskManager(number, message) => self.on_task_manager(number, message),
            LeaderEvent::ConnectionDown(number, reason) => self.connection_down(number, &reason),
            LeaderEvent::NewestCommitted(Ok(())) => {
                if self.durable.head.state().is_complete() {
                    self.record_end(JobOutcome::Finished);
                } else {
                    self.stop_tasks(Then::Start, "leadership taken");
                }
            }
            LeaderEvent::NewestCommitted(Err(reason)) => self.fail_job(reason),
            LeaderEvent::MetadataWritten(checkpoint, result) => {
                if let Ok(object) = &result {
                    self.emit(Event::MetadataWritten { checkpoint, object: object.to_string() });
                }
                self.coordinate(CoordinatorEvent::MetadataWritten { checkpoint, result }, now);
            }
            LeaderEvent::HeadAppended(_, Err(error)) if is_fencing(&error) => self.step_down(error.to_string()),
            LeaderEvent::HeadAppended(checkpoint, result) => {
                let result = result.map_err(|e| e.to_string());
                self.coordinate(CoordinatorEvent::HeadAppended { checkpoint, result }, now);
            }
            LeaderEvent::IdsAppended(_, Err(error)) if is_fencing(&error) => self.step_down(error.to_string()),
            LeaderEvent::IdsAppended(HeadEntry::IdBlock { from, to }, Ok(_)) => {
                self.coordinate(CoordinatorEvent::IdsGranted { from, to }, now);
            }
            LeaderEvent::IdsAppended(_, result) => {
                let reason = result.err().map_or_else(|| "no id block".to_string(), |e| e.to_string());
                self.coordinate(CoordinatorEvent::IdsUnavailable { reason }, now);
            }
            LeaderEvent::SinksCommitted(checkpoint, Ok(())) => {
                self.coordinate(CoordinatorEvent::SinksCommitted { checkpoint }, now);
            }
            LeaderEvent::SinksCommitted(_, Err(reason)) => self.fail_job(reason),
            LeaderEvent::Prepared(result) => self.prepared(result),
            LeaderEvent::EndRecorded(_, Err(error)) => self.step_down(error.to_string()),
            LeaderEvent::EndRecorded(outcome, Ok(())) => {
                let to = match &outcome {
                    JobOutcome::Finished => ("FINISHED", String::new()),
                    JobOutcome::Failed { reason } => ("FAILED", reason.clone()),
                };
                self.emit(Event::JobStateChanged {
                    job: self.job.name.clone(),
                    from: self.phase.job_status().to_string(),
                    to: to.0.to_string(),
                    reason: to.1,
                });
                self.end.get_or_insert(Term::Ended(outcome));
            }
        }
        self.advance();
    }

    fn on_task_manager(&mut self, number: u64, message: ToJobManager) {
        let now = self.now();
        let Some(peer) = self.peers.get_mut(number) else { return };
        peer.heard_at = now;
        match message {
            ToJobManager::Register { task_manager, incarnation, job, data_address, slots } => {
                if job != self.job.id {
                    let process = self.platform.process.to_string();
                    let message = format!("{task_manager} registered for job {job}, this one is {}", self.job.id);
                    self.emit(Event::StaleMessageIgnored { process, message });
                    self.peers.remove(number);
                    return;
                }
                let stopping = Some(self.last_deployed());
                let registered = Registered { name: task_manager.clone(), data_address, slots, stopping };
                if let Some(old) = self.peers.register(number, registered) {
                    self.peers.remove(old);
                    self.lost(&task_manager, "registered again");
                }
                let leader = self.epoch;
                self.emit(Event::TaskManagerRegistered { task_manager: task_manager.clone(), incarnation, leader });
                self.peers.send(&task_manager, &ToTaskManager::Welcome { leader });
                let attempt = self.last_deployed();
                self.peers.send(&task_manager, &ToTaskManager::Cancel { leader, attempt });
            }
            ToJobManager::Heartbeat => {}
            ToJobManager::Cancelled { attempt } => self.cancelled(number, attempt),
            ToJobManager::Report { attempt, subtask, report } => self.report(attempt, subtask, report),
        }
    }

    fn cancelled(&mut self, number: u64, attempt: AttemptId) {
        let groups = self.job.graph.slots_needed();
        let Some(registered) = self.peers.get_mut(number).and_then(|p| p.registered.as_mut()) else { return };
        if registered.stopping.is_none_or(|waiting_for| attempt < waiting_for) {
            return;
        }
        registered.stopping = None;
        let name = registered.name.clone();
        let slots = registered.slots.clone();
        if self.pool.has(&name) {
            return;
        }
        for stale in self.pool.register(&name, &slots, groups) {
            let (slot, allocation, leader) = (stale.slot.index, stale.allocation, self.epoch);
            self.peers.send(&stale.slot.task_manager, &ToTaskManager::ReleaseSlot { leader, slot, allocation });
        }
    }

    fn report(&mut self, attempt: AttemptId, subtask: SubtaskId, report: SubtaskReport) {
        let now = self.now();
        let accept_stale = self.config.task.sabotage.is(Sabotage::AcceptStale);
        if let SubtaskReport::Ack(ack) = report {
            // Also from older attempts: the coordinator discards what they uploaded.
            return self.coordinate(CoordinatorEvent::Ack(ack), now);
        }
        if let SubtaskReport::Failed(failure) = &report {
            self.learn_from(attempt, subtask, failure);
        }
        let Phase::Deployed(execution) = &mut self.phase else { return };
        if execution.attempt != attempt && !accept_stale {
            let process = self.platform.process.to_string();
            let message = format!("report of {subtask} for attempt {attempt} during {}", execution.attempt);
            return self.emit(Event::StaleMessageIgnored { process, message });
        }
        match report {
            SubtaskReport::Running => {
                execution.subtask_running(subtask);
                self.start_checkpoints_when_up();
            }
            SubtaskReport::ReplayFinished => {
                execution.subtask_replayed(subtask);
                self.start_checkpoints_when_up();
            }
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
                self.fail_over(&format!("{name} failed: {failure}"));
            }
            SubtaskReport::Stopped => self.fail_over(&format!("{subtask} stopped by itself")),
            SubtaskReport::Ack(_) => {}
        }
    }

    /// What a failure says beyond the attempt that it ended. It counts in any phase: the task that failed first may be heard
    /// last, after its neighbours, which failed because of it, have started the failover already.
    fn learn_from(&mut self, attempt: AttemptId, subtask: SubtaskId, failure: &TaskFailure) {
        match failure {
            TaskFailure::User(_) => {
                self.user_failure = Some(format!("{} failed: {failure}", self.job.graph.subtask_name(subtask)));
            }
            TaskFailure::StateLost { checkpoint, part, reason } => {
                let restored = self.durable.head.state().restored;
                if restored == Some((attempt, Some(*checkpoint))) && !self.condemned.contains_key(checkpoint) {
                    let reason = format!("{part}: {reason}");
                    self.emit(Event::CheckpointCondemned { checkpoint: *checkpoint, reason: reason.clone() });
                    self.condemned.insert(*checkpoint, reason);
                }
            }
            TaskFailure::Environment(_) => {}
        }
    }

    fn start_checkpoints_when_up(&mut self) {
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

    fn connection_down(&mut self, number: u64, reason: &str) {
        if let Some(registered) = self.peers.remove(number) {
            self.lost(&registered.name, reason);
        }
    }

    fn lost(&mut self, task_manager: &str, reason: &str) {
        self.emit(Event::TaskManagerLost { task_manager: task_manager.to_string(), reason: reason.to_string() });
        self.pool.unregister(task_manager);
        if let Phase::Deployed(execution) = &self.phase
            && execution.uses(task_manager)
        {
            self.fail_over(&format!("{task_manager} lost: {reason}"));
        }
    }

    // ---- failing, stopping, ending

    fn fail_over(&mut self, reason: &str) {
        if !matches!(self.phase, Phase::Deployed(_)) {
            return;
        }
        self.restarts += 1;
        if self.config.restart_attempts.is_some_and(|most| self.restarts > most)
            || self.config.task.sabotage.is(Sabotage::NeverRestart)
        {
            let cause = self.user_failure.as_deref().unwrap_or(reason);
            return self.fail_job(format!("given up after {} restarts: {cause}", self.restarts - 1));
        }
        self.stop_tasks(Then::Restart, reason);
    }

    fn fail_job(&mut self, reason: String) {
        if !matches!(self.phase, Phase::Ending | Phase::Stopping { then: Then::End(_), .. }) {
            self.stop_tasks(Then::End(JobOutcome::Failed { reason: reason.clone() }), &reason);
        }
    }

    fn stop_tasks(&mut self, then: Then, reason: &str) {
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

    fn record_end(&mut self, outcome: JobOutcome) {
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

    // ---- restoring and deploying

    /// Moves on from a phase that waited for something, if it has come.
    fn advance(&mut self) {
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

    fn prepare(&mut self) {
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

    fn prepared(&mut self, result: Result<Prepared, PrepareError>) {
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

    fn try_deploy(&mut self) {
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
                replay: replay_plan(&prepared.choice, subtask),
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

    fn targets(&self, execution: &ExecutionState, subtask: SubtaskId) -> Vec<Vec<ChannelTarget>> {
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

    // ---- the coordinator's commands

    fn coordinate(&mut self, event: CoordinatorEvent, now: Mono) {
        for command in self.coordinator.handle(event, now) {
            self.execute(command);
        }
    }

    fn execute(&mut self, command: CoordinatorCommand) {
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
            CoordinatorCommand::NotifyAborted { checkpoint, .. } => {
                self.command(self.attempt(), None, &SubtaskCommand::NotifyAborted(checkpoint));
            }
            CoordinatorCommand::NotifyComplete { checkpoint } => {
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
            CoordinatorCommand::FinalCompleted { .. } => {
                self.stop_tasks(Then::End(JobOutcome::Finished), "all input is processed");
            }
            CoordinatorCommand::FailJob { reason } => self.fail_job(reason),
        }
    }

    /// Sends a command to subtasks (None: all) of the deployed execution.
    fn command(&self, attempt: AttemptId, subtasks: Option<Vec<SubtaskId>>, command: &SubtaskCommand) {
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

    // ---- time

    pub fn next_timer(&self) -> Timer {
        let phase = match &self.phase {
            Phase::Stopping { deadline, .. } => Some(*deadline),
            Phase::Delay { until } => Some(*until),
            Phase::Slots { settled, deadline, .. } => Some(if *settled > self.now() { *settled } else { *deadline }),
            _ => None,
        };
        let wanted = [Some(self.next_heartbeat), phase, self.coordinator.next_deadline()];
        self.platform.clock.sleep_until(wanted.into_iter().flatten().min().unwrap_or(self.next_heartbeat))
    }

    pub fn tick(&mut self) {
        let now = self.now();
        if self.next_heartbeat <= now {
            self.next_heartbeat = now + self.config.heartbeat_interval;
            self.peers.send_all(&ToTaskManager::Heartbeat { leader: self.epoch });
            for number in self.peers.silent(now, self.config.heartbeat_timeout) {
                self.connection_down(number, "heartbeat timed out");
            }
        }
        if self.coordinator.next_deadline().is_some_and(|due| due <= now) {
            self.coordinate(CoordinatorEvent::Tick, now);
        }
        match &self.phase {
            Phase::Stopping { deadline, .. } if *deadline <= now => {
                for name in self.peers.stopping() {
                    if let Some(number) = self.peers.number(&name) {
                        self.connection_down(number, "its tasks did not stop in time");
                    }
                }
            }
            Phase::Slots { deadline, .. } if *deadline <= now => {
                let reason = format!(
                    "{} slots are needed, {} offered within {} ms: start more TaskManagers or lower the parallelism",
                    self.job.graph.slots_needed(),
                    self.pool.total(),
                    self.config.slot_request_timeout.as_millis()
                );
                self.fail_job(reason);
            }
            _ => {}
        }
        self.advance();
    }
}

/// After these a leader knows that it leads no more, or not what the log says.
fn is_fencing(error: &HeadError) -> bool {
    !matches!(error, HeadError::Unavailable(_))
}

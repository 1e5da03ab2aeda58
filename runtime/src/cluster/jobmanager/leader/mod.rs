//! One term of leadership.
//!
//! The phases of the job under one leader:
//!
//! ```text
//! Committing -> Stopping -> Delay -> Preparing -> Slots -> Deployed -(failure, rescale)-> Stopping
//!                             |          |                    |
//!                             +-> Resources (reactive only)   +-(final checkpoint)-> Ending
//! ```
//!
//! What it must never break: no restore is chosen while an append or a commit is under way; no slot is used before its
//! TaskManager confirmed that older attempts have stopped; after being fenced nothing more is done.

mod commands;
mod deploying;
mod elastic;
mod listening;
mod savepoints;
mod stopping;

use std::{collections::BTreeMap, sync::Arc};

pub use savepoints::BeginError;

use futures::{FutureExt, channel::mpsc, future::AbortHandle};

use self::stopping::{Cause, Undecided};
use super::{
    JobOutcome,
    durable::{Durable, PrepareError, Prepared},
    execution::ExecutionState,
    peers::{Peers, Registered},
};
use crate::{
    checkpoint::{
        coordinator::{Coordinator, CoordinatorEvent, Participants},
        head::{HeadEntry, HeadError, HeadLog, JobEnd},
        primary::Primary,
        types::RestoreOrder,
    },
    cluster::{
        config::ClusterConfig,
        connection,
        elasticity::Elasticity,
        rpc::{ToJobManager, ToTaskManager},
        scheduler::MissingSlots,
        slots::SlotPool,
    },
    dataflow::task::SubtaskCommand,
    graph::Job,
    ids::{AttemptId, CheckpointId, Execution, LeaderEpoch, SubtaskId},
    journal::Event,
    layout::{Layout, SavepointDirectory},
    platform::{Connection, Mono, ObjectName, Platform, Timer},
    points::Point,
    recovery::{
        choice::RestoreChoice,
        restore_report::{RecoveryPhase, RecoveryWatch},
    },
    sabotage::Sabotage,
};

/// How a term of leadership ended.
#[derive(Debug)]
pub enum Term {
    Ended(JobOutcome),
    /// The job is not one that can go on from what the head log holds. Nothing is recorded.
    Refused {
        reason: String,
    },
    SteppedDown {
        reason: String,
    },
}

pub enum LeaderEvent {
    FromTaskManager(u64, ToJobManager),
    ConnectionDown(u64, String),
    NewestCommitted(Result<(), String>),
    MetadataWritten(CheckpointId, Result<ObjectName, String>),
    HeadAppended(CheckpointId, Result<u64, HeadError>),
    IdsAppended(HeadEntry, Result<u64, HeadError>),
    SinksCommitted(CheckpointId, Result<(), String>),
    SavepointBegun { client: u64, stop: bool, result: Result<SavepointDirectory, BeginError> },
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
    /// A reactive job waits until it is decided at which parallelism it runs.
    Resources,
    Preparing,
    /// A restore is ready and waits for slots. Before `settled`, only a full set of previous allocations will do.
    Slots {
        choice: Box<RestoreChoice>,
        /// What each subtask restores.
        orders: BTreeMap<SubtaskId, RestoreOrder>,
        settled: Mono,
        deadline: Mono,
    },
    /// For the moment in which the deployments are sent.
    Deploying,
    Deployed(Box<ExecutionState>),
    Ending,
}

#[derive(Clone)]
enum Then {
    /// The first execution of this term: whatever an earlier leader left running is stopped.
    Start,
    Restart,
    /// Nothing has failed: it is to run at another parallelism.
    Rescale,
    End(JobOutcome),
}

impl Phase {
    /// Flink's name for it (`JobStatus`).
    fn job_status(&self) -> &'static str {
        match self {
            Phase::Committing | Phase::Stopping { then: Then::Start, .. } => "INITIALIZING",
            Phase::Stopping { then: Then::Restart, .. } => "FAILING",
            Phase::Stopping { then: Then::Rescale, .. } => "RESTARTING",
            Phase::Stopping { then: Then::End(_), .. } => "CANCELLING",
            Phase::Delay { .. } | Phase::Resources | Phase::Preparing => "RESTARTING",
            Phase::Slots { .. } | Phase::Deploying => "CREATED",
            Phase::Deployed(_) => "RUNNING",
            Phase::Ending => "ENDING",
        }
    }
}

pub struct Leader {
    platform: Platform,
    /// As its author described it.
    described: Arc<Job>,
    /// As it runs: at another parallelism, perhaps.
    job: Arc<Job>,
    /// The parallelism that `job` was scaled to; None: as described.
    scaled_to: Option<u32>,
    elasticity: Elasticity,
    /// The parallelism that so many slots allow, as it was found last.
    allowed: (usize, u32),
    config: Arc<ClusterConfig>,
    epoch: LeaderEpoch,
    durable: Durable,
    coordinator: Coordinator,
    peers: Peers,
    pool: SlotPool,
    phase: Phase,
    execution: Execution,
    /// Another leader has dealt out slots to the job, which may still hold what is its.
    had_slots: bool,
    condemned: BTreeMap<CheckpointId, String>,
    /// Who waits for which savepoint: the number of a connection.
    clients: BTreeMap<SavepointDirectory, u64>,
    /// Restarts that were used up.
    restarts: u32,
    /// Takes the time of a recovery, from a failure until a checkpoint of the execution that makes it good is complete.
    recovery: Option<RecoveryWatch>,
    undecided: Option<Undecided>,
    /// Failures since an execution last ran that used up none.
    uncounted: u32,
    /// When the current execution was deployed.
    deployed_at: Mono,
    /// The last failure of user code: what a person wants to know when the job is given up because of what followed from it.
    user_failure: Option<String>,
    events: mpsc::UnboundedSender<LeaderEvent>,
    inbox: Option<mpsc::UnboundedReceiver<LeaderEvent>>,
    /// Background work that dies with the term.
    background: Vec<AbortHandle>,
    end: Option<Term>,
    began: Mono,
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
        let sabotage = config.task.sabotage.clone();
        let had_slots = head.state().restored.is_some();
        let durable = Durable { primary, layout: Layout { job: job.id }, head, sinks, sabotage };
        Leader {
            began: now,
            next_heartbeat: now + config.heartbeat_interval,
            platform,
            described: Arc::clone(&job),
            scaled_to: None,
            allowed: (0, 0),
            elasticity: Elasticity::new(config.elasticity.clone(), elastic::highest_parallelism(&job), now),
            job,
            config,
            epoch,
            durable,
            coordinator,
            peers: Peers::default(),
            pool: SlotPool::default(),
            phase: Phase::Committing,
            execution: Execution(0),
            had_slots,
            condemned: BTreeMap::new(),
            clients: BTreeMap::new(),
            restarts: 0,
            recovery: None,
            undecided: None,
            uncounted: 0,
            deployed_at: now,
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
                JobEnd::Stopped { savepoint } => JobOutcome::Stopped { savepoint: savepoint.name().clone() },
            };
            // Nothing to decide any more; what the sweep of the last leader left behind is removed now.
            return self.record_end(outcome);
        }
        let durable = self.durable.clone();
        self.spawn("commit-newest", async move {
            let result = match state.newest {
                Some(newest) => {
                    let result = durable.commit_sinks(newest, &state.newest_sinks).await;
                    durable.primary.platform().journal.sometimes(Point::NewLeaderCommits, result.is_ok());
                    result
                }
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
            Phase::Preparing | Phase::Slots { .. } | Phase::Deploying => {
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
        self.platform.journal.sometimes(Point::SteppedDownInCompletion, self.coordinator.is_finalizing());
        self.end.get_or_insert(Term::SteppedDown { reason });
    }

    fn refuse(&mut self, reason: String) {
        self.end.get_or_insert(Term::Refused { reason });
    }

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
                    self.platform.journal.reached(Point::NewLeaderFindsAllInput);
                    self.record_end(JobOutcome::Finished);
                } else if let Some(savepoint) = self.durable.head.state().stop_at.clone() {
                    // It was decided with the savepoint itself: nothing runs on behind it.
                    self.platform.journal.reached(Point::NewLeaderFindsStop);
                    self.record_end(JobOutcome::Stopped { savepoint: savepoint.name().clone() });
                } else {
                    if self.ran_before() {
                        // What the old leader noticed, and when, is not known: counted is from when this one came.
                        self.recovery = Some(RecoveryWatch::begin("a new leader", self.began, now));
                    }
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
            LeaderEvent::SavepointBegun { client, stop, result } => self.savepoint_begun(client, stop, result),
            LeaderEvent::Prepared(result) => self.prepared(result),
            LeaderEvent::EndRecorded(_, Err(error)) => self.step_down(error.to_string()),
            LeaderEvent::EndRecorded(outcome, Ok(())) => {
                let to = match &outcome {
                    JobOutcome::Finished => ("FINISHED", String::new()),
                    JobOutcome::Failed { reason } => ("FAILED", reason.clone()),
                    JobOutcome::Stopped { savepoint } => ("CANCELED", format!("savepoint {savepoint}")),
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

    fn connection_down(&mut self, number: u64, reason: &str) {
        self.disconnected(number, reason, None);
    }

    /// Who says nothing any more is given up; it may have failed right after it was heard last.
    fn silent(&mut self, number: u64, reason: &str) {
        let heard_at = self.peers.heard_at(number);
        self.disconnected(number, reason, heard_at);
    }

    fn disconnected(&mut self, number: u64, reason: &str, heard_at: Option<Mono>) {
        let cause = self.cause_of_loss(number);
        if let Some(registered) = self.peers.remove(number) {
            self.lost(&registered.name, reason, cause, heard_at);
        }
    }

    fn cause_of_loss(&self, number: u64) -> Cause {
        let is_silent = self.peers.heard_at(number).is_some_and(|heard_at| heard_at <= self.deployed_at);
        if is_silent { Cause::Gone } else { Cause::Other }
    }

    /// `heard_at`: its last sign of life, if it is its silence that tells.
    fn lost(&mut self, task_manager: &str, reason: &str, cause: Cause, heard_at: Option<Mono>) {
        self.emit(Event::TaskManagerLost { task_manager: task_manager.to_string(), reason: reason.to_string() });
        self.pool.unregister(task_manager);
        if let Phase::Deployed(execution) = &self.phase
            && execution.uses(task_manager)
        {
            self.fail_over(&format!("{task_manager} lost: {reason}"), cause, heard_at);
        }
    }

    pub fn next_timer(&self) -> Timer {
        let phase = match &self.phase {
            Phase::Stopping { deadline, .. } => Some(*deadline),
            Phase::Delay { until } => Some(*until),
            Phase::Slots { settled, deadline, .. } => Some(if *settled > self.now() { *settled } else { *deadline }),
            _ => None,
        };
        let elastic = self.elasticity.next_deadline(self.now());
        let wanted = [Some(self.next_heartbeat), phase, self.coordinator.next_deadline(), elastic];
        self.platform.clock.sleep_until(wanted.into_iter().flatten().min().unwrap_or(self.next_heartbeat))
    }

    pub fn tick(&mut self) {
        let now = self.now();
        if self.next_heartbeat <= now {
            self.next_heartbeat = now + self.config.heartbeat_interval;
            self.peers.send_all(&ToTaskManager::Heartbeat { leader: self.epoch });
            for number in self.peers.silent(now, self.config.heartbeat_timeout) {
                self.silent(number, "heartbeat timed out");
            }
        }
        if self.coordinator.next_deadline().is_some_and(|due| due <= now) {
            self.coordinate(CoordinatorEvent::Tick, now);
        }
        match &self.phase {
            Phase::Stopping { deadline, .. } if *deadline <= now => {
                for name in self.peers.stopping() {
                    if let Some(number) = self.peers.number(&name) {
                        self.silent(number, "its tasks did not stop in time");
                    }
                }
            }
            Phase::Slots { deadline, .. } if *deadline <= now => {
                let missing =
                    MissingSlots { needed: self.job.graph.slots_needed() as usize, offered: self.pool.total() };
                let reason = format!(
                    "{missing} after {} ms (slot.request.timeout): start more TaskManagers or lower the parallelism",
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

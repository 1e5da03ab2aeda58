//! Who decides when a checkpoint is taken and when it is complete: a plain state machine. An event goes in, commands come out;
//! the caller executes them in order and reports back.
//!
//! The life of a checkpoint: `Trigger` → acknowledgements of all subtasks → `WriteMetadata` → `AppendCompleted` (the head entry is
//! the commit point: before it nothing of the checkpoint counts, after it everything does) → `CommitSinks` and `NotifyComplete`
//! → `Discard` of the checkpoints no longer retained. One checkpoint is finalised at a time and the next one not before the
//! output of the previous is committed, because what belongs to its epoch depends on which one completed before it.
//!
//! What the caller owes:
//! * Each command is answered where an answer exists (`NeedIds`, `WriteMetadata`, `AppendCompleted`, `CommitSinks`).
//! * When an append is fenced the caller steps down at once: no answer, no further command is executed.
//! * On a failover: `Stopped` first; then, **before** the restore choice, wait until [`Coordinator::is_finalizing`] is false,
//!   still delivering answers. An append whose outcome is unknown may still complete its checkpoint; `HeadLog::append`
//!   goes on until the outcome is definite, so waiting for its answer is all that is needed.
//! * Events of older executions must not reach it, except acknowledgements: those are discarded here, with their objects.
//! * Manifests of a completed checkpoint are committed until that succeeds; under a new leader first those of
//!   `HeadState::newest_sinks`.
//!
//! It must never: hand out an id twice or out of order; complete a checkpoint that it aborted or that lacks an acknowledgement;
//! discard an object of a retained checkpoint, or any object before the entry that drops it is durable.
//!
//! A savepoint is a checkpoint with three differences. It is wanted by somebody, who is told how it went. It is never subsumed: one
//! that a later checkpoint overtakes still completes, only that its output is committed already and that it is no restore point.
//! And its files are not the system's: once it is complete nothing here names them for deletion. Its failure is no failure of
//! the job: it is not counted, as in later versions of Flink (`CheckpointFailureManager`).
//!
//! Data objects of sinks are never discarded here: those of an aborted checkpoint belong to the next one's manifest, and what
//! remains after a failover is removed by the orphan sweep.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

mod finalize;
mod protocol;
#[cfg(test)]
mod tests;
mod trigger;

pub use protocol::{CoordinatorCommand, CoordinatorConfig, CoordinatorEvent, NO_ROOM, Participants, SavepointOrder};

use super::{
    head::HeadState,
    shared_registry::SharedRegistry,
    types::{CheckpointAck, PrecommittedObject},
};
use crate::{
    ids::{AttemptId, CheckpointId, OperatorUid, SubtaskId},
    journal::Event,
    layout::Layout,
    platform::{Mono, ObjectName},
    points::{Point, Points},
    sabotage::Sabotage,
};

/// The shortest pause between a failed attempt at something and the next.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Outcomes of so many past checkpoints are remembered, to recognise repeated acknowledgements.
const REMEMBERED: usize = 256;
/// Why there will be no savepoint after the last checkpoint.
const ENDS: &str = "the job has processed all its input and ends";

use CoordinatorCommand as Command;
use CoordinatorEvent as Input;

struct Pending {
    attempt: AttemptId,
    deadline: Mono,
    acks: BTreeMap<SubtaskId, CheckpointAck>,
    /// Triggered after all sources were exhausted.
    last: bool,
    /// It is a savepoint.
    savepoint: Option<SavepointOrder>,
}

impl Pending {
    fn is_savepoint(&self) -> bool {
        self.savepoint.is_some()
    }
}

enum Stage {
    Metadata,
    Append,
    Commit,
}

/// The one checkpoint that has all acknowledgements and is being made durable.
struct Finalizing {
    checkpoint: CheckpointId,
    stage: Stage,
    pending: Pending,
    /// From the stage `Append` on.
    metadata: Option<ObjectName>,
    /// State objects, written by it or by earlier ones.
    objects: Vec<ObjectName>,
    sinks: BTreeMap<OperatorUid, Vec<PrecommittedObject>>,
    retained: Vec<CheckpointId>,
    dropped: Vec<CheckpointId>,
    exhausted: bool,
    /// A savepoint behind which a later checkpoint has completed already.
    overtaken: bool,
}

enum Ids {
    Enough,
    Asked,
    AskAgain(Mono),
}

/// How a past checkpoint ended.
enum Settled {
    Completed,
    /// With the acknowledgements whose objects were discarded.
    Aborted(BTreeSet<(SubtaskId, AttemptId)>),
}

pub struct Coordinator {
    config: CoordinatorConfig,
    participants: Participants,
    running: Option<AttemptId>,
    /// The execution has ended, and a planted bug goes on with its checkpoints.
    overrun: bool,
    next_id: u64,
    /// Ids below this may be handed out.
    ids_end: u64,
    ids: Ids,
    /// When the next periodic checkpoint is due.
    due: Mono,
    /// The due checkpoint could not be triggered, and that was said.
    skipped: bool,
    requested: bool,
    /// Wanted and not triggered yet.
    savepoints: VecDeque<SavepointOrder>,
    /// A savepoint is wanted with which the job ends: nothing else is triggered.
    stopping: bool,
    exhausted: bool,
    /// When the last checkpoint may be tried (again).
    last_at: Mono,
    finished: bool,
    pending: BTreeMap<CheckpointId, Pending>,
    finalizing: Option<Finalizing>,
    last_completion: Option<Mono>,
    failures: u32,
    continues: Option<CheckpointId>,
    newest: Option<CheckpointId>,
    /// Retained checkpoints, and who needs which object.
    registry: SharedRegistry,
    condemned: BTreeSet<CheckpointId>,
    settled: BTreeMap<CheckpointId, Settled>,
    points: Points,
}

impl Coordinator {
    /// A coordinator under the leader that wrote the last claim of `head`. It lives as long as that leader leads.
    pub fn new(config: CoordinatorConfig, participants: Participants, head: &HeadState, now: Mono) -> Coordinator {
        // Ids of blocks granted to earlier leaders may have been used; they are never handed out again.
        let next_id = head.granted.0 + 1;
        let registry = SharedRegistry::rebuilt(Layout { job: config.job }, head);
        Coordinator {
            config,
            participants,
            running: None,
            overrun: false,
            next_id,
            ids_end: next_id,
            ids: Ids::Enough,
            due: now,
            skipped: false,
            requested: false,
            savepoints: VecDeque::new(),
            stopping: false,
            exhausted: false,
            last_at: now,
            finished: false,
            pending: BTreeMap::new(),
            finalizing: None,
            last_completion: None,
            failures: 0,
            continues: head.newest,
            newest: head.newest,
            registry,
            condemned: head.condemned.keys().copied().collect(),
            settled: BTreeMap::new(),
            points: Points::default(),
        }
    }

    /// The points passed since the last call.
    pub fn take_points(&mut self) -> Points {
        self.points.take()
    }

    /// Whether a head append or a sink commit is under way. No restore may be chosen until it is false.
    pub fn is_finalizing(&self) -> bool {
        matches!(&self.finalizing, Some(f) if !matches!(f.stage, Stage::Metadata))
    }

    /// The lowest id that was certainly not handed out, for `HeadState::voidable`.
    pub fn first_unused_id(&self) -> CheckpointId {
        CheckpointId(self.next_id)
    }

    /// The execution being checkpointed.
    pub fn running(&self) -> Option<AttemptId> {
        self.running
    }

    /// The job has other subtasks from the next execution on: it is scaled. To be called while it is stopped.
    pub fn rescaled(&mut self, participants: Participants) {
        self.participants = participants;
    }

    /// Checkpoints triggered and neither completed nor aborted.
    pub fn pending(&self) -> impl Iterator<Item = CheckpointId> {
        let finalizing = self.finalizing.iter().filter(|f| !matches!(f.stage, Stage::Commit)).map(|f| f.checkpoint);
        self.pending.keys().copied().chain(finalizing)
    }

    /// Takes in what happened and says what to do, in order.
    pub fn handle(&mut self, event: CoordinatorEvent, now: Mono) -> Vec<CoordinatorCommand> {
        let mut out = Vec::new();
        match event {
            Input::Started { attempt, continues, condemned } => {
                self.started(attempt, continues, condemned, now, &mut out)
            }
            Input::Stopped => self.stopped(now, &mut out),
            Input::Tick => {}
            Input::Ack(ack) => self.acked(*ack, now, &mut out),
            Input::Decline { subtask, checkpoint, reason } => {
                if let Some(pending) = self.pending.get(&checkpoint) {
                    let acks = pending.acks.len();
                    self.points.sometimes(Point::DeclinedWithAcks, acks > 0);
                    self.points.sometimes(Point::DeclinedDuringAlignment, acks + 1 < self.participants.subtasks.len());
                    let name = self.name(subtask);
                    let event = Event::CheckpointDeclined { subtask: name.clone(), checkpoint, reason: reason.clone() };
                    out.push(Command::Journal(event));
                    self.abort(checkpoint, &format!("declined by {name}: {reason}"), true, now, &mut out);
                }
            }
            Input::AllSourcesExhausted => {
                let is_pending = self.pending().next().is_some();
                self.points.sometimes(Point::ExhaustedWhilePending, is_pending);
                self.exhausted = true;
                self.last_at = now;
            }
            Input::TriggerNow => {
                if self.running.is_some() {
                    self.requested = true;
                } else {
                    self.skip("not all subtasks run", &mut out);
                }
            }
            Input::TriggerSavepoint(order) => self.savepoint_wanted(order, now, &mut out),
            Input::IdsGranted { from, to } => {
                // A block that is not above everything used so far would repeat ids.
                if from.0 >= self.ids_end && to >= from {
                    self.next_id = from.0;
                    self.ids_end = to.0 + 1;
                }
                self.ids = Ids::Enough;
            }
            Input::IdsUnavailable { reason } => {
                self.ids = Ids::AskAgain(now + self.retry_pause());
                self.skip(&format!("no checkpoint ids: {reason}"), &mut out);
            }
            Input::MetadataWritten { checkpoint, result } => self.metadata_written(checkpoint, result, now, &mut out),
            Input::HeadAppended { checkpoint, result } => self.head_appended(checkpoint, result, now, &mut out),
            Input::SinksCommitted { checkpoint } => self.sinks_committed(checkpoint, &mut out),
        }
        self.expire(now, &mut out);
        self.finalize_next(now, &mut out);
        self.trigger(now, &mut out);
        out
    }

    fn name(&self, subtask: SubtaskId) -> String {
        self.participants.subtasks.get(&subtask).cloned().unwrap_or_else(|| subtask.to_string())
    }

    fn retry_pause(&self) -> Duration {
        self.config.interval.min(self.config.min_pause).max(RETRY_PAUSE)
    }

    fn skip(&self, reason: &str, out: &mut Vec<Command>) {
        let job = self.config.job_name.clone();
        out.push(Command::Journal(Event::CheckpointSkipped { job, reason: reason.to_string() }));
    }

    fn started(
        &mut self,
        attempt: AttemptId,
        continues: Option<CheckpointId>,
        condemned: BTreeSet<CheckpointId>,
        now: Mono,
        out: &mut Vec<Command>,
    ) {
        if self.config.sabotage.is(Sabotage::ReuseCheckpointIds)
            && let Some(newest) = self.newest
        {
            out.push(Command::Journal(Sabotage::ReuseCheckpointIds.marker()));
            self.next_id = newest.0;
        }
        self.running = Some(attempt);
        self.overrun = false;
        self.continues = continues;
        self.condemned.extend(condemned);
        self.due = now + self.config.interval;
        self.last_at = now;
        self.skipped = false;
        self.requested = false;
        self.failures = 0;
    }

    fn savepoint_wanted(&mut self, order: SavepointOrder, now: Mono, out: &mut Vec<Command>) {
        let refused = match self.running {
            None => Some("not all subtasks run: try again when the job is running"),
            Some(_) if self.finished => Some(ENDS),
            Some(_) if self.stopping => Some("a savepoint is being taken with which the job ends"),
            Some(_) => None,
        };
        if let Some(reason) = refused {
            self.points.reached(Point::SavepointRefused);
            out.push(Command::SavepointFailed { order, reason: reason.to_string() });
            return;
        }
        if order.stop {
            // Nothing completes between the savepoint and the end (Flink stops the scheduler, which aborts what is pending).
            self.stopping = true;
            let pending = self.pending.iter().filter(|(_, pending)| !pending.is_savepoint());
            for checkpoint in pending.map(|(id, _)| *id).collect::<Vec<_>>() {
                self.abort(checkpoint, "the job is being stopped with a savepoint", false, now, out);
            }
        }
        self.savepoints.push_back(order);
    }

    fn stopped(&mut self, now: Mono, out: &mut Vec<Command>) {
        if self.config.sabotage.is(Sabotage::TriggerAfterStop) {
            self.overrun = self.running.is_some();
        } else {
            self.running = None;
        }
        self.exhausted = false;
        self.requested = false;
        self.stopping = false;
        for order in std::mem::take(&mut self.savepoints) {
            let reason = "the execution was stopped".to_string();
            out.push(Command::SavepointFailed { order, reason });
        }
        if let Some(finalizing) = &self.finalizing {
            self.points.reached(match finalizing.stage {
                Stage::Metadata => Point::StoppedWhileWritingMetadata,
                Stage::Append => Point::StoppedWhileAppending,
                Stage::Commit => Point::StoppedWhileCommitting,
            });
        }
        for checkpoint in self.pending.keys().copied().collect::<Vec<_>>() {
            self.abort(checkpoint, "the execution was stopped", false, now, out);
        }
        if let Some(finalizing) = self.finalizing.take_if(|f| matches!(f.stage, Stage::Metadata)) {
            // Its metadata, when it arrives, belongs to nothing and is discarded then.
            let checkpoint = finalizing.checkpoint;
            self.aborted(checkpoint, finalizing.pending, "the execution was stopped", false, now, out);
        }
    }

    fn acked(&mut self, ack: CheckpointAck, now: Mono, out: &mut Vec<Command>) {
        let known = self.participants.subtasks.contains_key(&ack.subtask);
        let checkpoint = ack.checkpoint;
        let current = |p: &Pending| known && p.attempt == ack.attempt;
        if let Some(finalizing) = &self.finalizing
            && finalizing.checkpoint == checkpoint
            && current(&finalizing.pending)
        {
            return; // a repetition
        }
        match self.pending.get_mut(&checkpoint) {
            Some(pending) if known && pending.attempt == ack.attempt => {
                if !pending.acks.contains_key(&ack.subtask) {
                    let subtask = ack.subtask;
                    let known = match pending.is_savepoint() {
                        // It refers to nothing of others.
                        true => Ok(()),
                        false => self.registry.acknowledged(checkpoint, &ack.snapshot),
                    };
                    pending.acks.insert(subtask, ack);
                    out.push(Command::Journal(Event::CheckpointAcked { subtask: self.name(subtask), checkpoint }));
                    match known {
                        Ok(()) => {
                            if let Some(reason) = self.beyond_budget() {
                                let (subtask, reason_of) = (self.name(subtask), reason.clone());
                                let event = Event::CheckpointDeclined { subtask, checkpoint, reason: reason_of };
                                out.push(Command::Journal(event));
                                self.abort(checkpoint, &reason, true, now, out);
                            }
                        }
                        Err(_) if self.config.sabotage.is(Sabotage::BasedOnUnconfirmed) => {
                            out.push(Command::Journal(Sabotage::BasedOnUnconfirmed.marker()));
                        }
                        Err(bad) => {
                            // Nobody's failure: the subtask has not heard of newer checkpoints yet. The next one will do.
                            self.points.reached(Point::BaseIsGone);
                            let reason = format!("{}: {bad}", self.name(subtask));
                            self.abort(checkpoint, &reason, false, now, out);
                        }
                    }
                }
            }
            _ => self.discard_late(ack, out),
        }
    }

    /// Why the JobManager cannot hold what its checkpoints under way carry, if it cannot: all of it lies in its memory until their
    /// metadata is written.
    fn beyond_budget(&self) -> Option<String> {
        let pending = self.pending.values().chain(self.finalizing.iter().map(|finalizing| &finalizing.pending));
        let sum: u64 = pending.flat_map(|p| p.acks.values()).map(|ack| ack.snapshot.inline_bytes()).sum();
        let budget = self.config.inline_state_budget_bytes;
        (sum > budget).then(|| {
            format!(
                "the state that travels with acknowledgements has {sum} bytes together, and the JobManager takes at most {budget} \
                 (state.backend.jobmanager.max-total-size): raise that, or keep state in files (state.backend: filesystem)"
            )
        })
    }

    /// Discards the objects of an acknowledgement that came too late, from the wrong execution or from nobody we know.
    fn discard_late(&mut self, ack: CheckpointAck, out: &mut Vec<Command>) {
        let (checkpoint, who) = (ack.checkpoint, (ack.subtask, ack.attempt));
        let is_stranger = !self.settled.contains_key(&checkpoint);
        let repeated = match self.settled.get_mut(&checkpoint) {
            Some(Settled::Completed) => true,
            Some(Settled::Aborted(discarded)) => {
                let is_new = discarded.insert(who);
                self.points.sometimes(Point::LateAckAfterAbort, is_new);
                !is_new
            }
            None => {
                self.points.reached(Point::LateAckOfStranger);
                self.settled.insert(checkpoint, Settled::Aborted(BTreeSet::from([who])));
                false
            }
        };
        if repeated {
            return;
        }
        out.push(Command::Journal(Event::LateAckDiscarded { subtask: self.name(ack.subtask), checkpoint }));
        let own = Layout { job: self.config.job }.checkpoints_prefix();
        let was_aborted = matches!(self.settled.get(&checkpoint), Some(Settled::Aborted(_)));
        let unneeded = self.registry.unneeded(checkpoint, &ack.snapshot);
        // Of what lies elsewhere, in a savepoint, only those go of which it is known that they belong to none that is complete.
        let deletable = |object: &&ObjectName| was_aborted && !is_stranger || object.as_str().starts_with(&own);
        let objects: Vec<_> = unneeded.filter(deletable).cloned().collect();
        if !objects.is_empty() && self.config.sabotage.is(Sabotage::LateAckKeepsFiles) {
            return out.push(Command::Journal(Sabotage::LateAckKeepsFiles.marker()));
        }
        self.discard(checkpoint, objects, out);
        self.forget_old();
    }

    fn discard(&self, checkpoint: CheckpointId, objects: Vec<ObjectName>, out: &mut Vec<Command>) {
        if !objects.is_empty() {
            let count = objects.len() as u64;
            out.push(Command::Discard { checkpoint, objects });
            out.push(Command::Journal(Event::CheckpointDiscarded { checkpoint, objects: count }));
        }
    }

    fn forget_old(&mut self) {
        while self.settled.len() > REMEMBERED {
            self.settled.pop_first();
        }
    }

    /// Aborts a pending checkpoint. `failure`: it counts as one.
    fn abort(&mut self, checkpoint: CheckpointId, reason: &str, failure: bool, now: Mono, out: &mut Vec<Command>) {
        if let Some(pending) = self.pending.remove(&checkpoint) {
            self.aborted(checkpoint, pending, reason, failure, now, out);
        }
    }

    fn aborted(
        &mut self,
        checkpoint: CheckpointId,
        pending: Pending,
        reason: &str,
        failure: bool,
        now: Mono,
        out: &mut Vec<Command>,
    ) {
        out.push(Command::Journal(Event::CheckpointAborted { checkpoint, reason: reason.to_string() }));
        if self.running.is_some() {
            out.push(Command::NotifyAborted { checkpoint, reason: reason.to_string() });
        }
        let acked = pending.acks.values().map(|a| (a.subtask, a.attempt)).collect();
        self.settled.insert(checkpoint, Settled::Aborted(acked));
        self.forget_old();
        let objects = self.registry.aborted(checkpoint);
        self.discard(checkpoint, objects, out);
        if let Some(order) = pending.savepoint {
            self.savepoint_failed(checkpoint, order, reason, now, out);
            return;
        }
        if pending.last {
            self.points.sometimes(Point::LastCheckpointRetried, self.running.is_some());
            self.last_at = now + self.retry_pause();
        }
        if failure {
            self.failures = self.failures.saturating_add(1);
            if let Some(tolerable) = self.config.tolerable_failures
                && self.failures > tolerable
                && self.running.is_some()
            {
                let count = self.failures;
                let reason =
                    format!("{count} checkpoints failed in a row, {tolerable} are tolerated; the last: {reason}");
                out.push(Command::FailJob { reason });
            }
        }
    }

    /// Nothing of it is left, and the job goes on as if nothing had been.
    fn savepoint_failed(
        &mut self,
        checkpoint: CheckpointId,
        order: SavepointOrder,
        reason: &str,
        now: Mono,
        out: &mut Vec<Command>,
    ) {
        let directory = order.directory.clone();
        out.push(Command::Journal(Event::SavepointFailed {
            directory: directory.to_string(),
            checkpoint,
            reason: reason.to_string(),
        }));
        out.push(Command::DiscardSavepoint { checkpoint, directory });
        if order.stop && self.running.is_some() {
            self.points.reached(Point::StopRevoked);
            self.stopping = false;
            self.last_at = now;
        }
        out.push(Command::SavepointFailed { order, reason: reason.to_string() });
    }

    fn expire(&mut self, now: Mono, out: &mut Vec<Command>) {
        let all = self.participants.subtasks.len();
        let expired: Vec<_> =
            self.pending.iter().filter(|(_, p)| p.deadline <= now && p.acks.len() < all).map(|(id, _)| *id).collect();
        for checkpoint in expired {
            let missing: Vec<_> = match self.pending.get(&checkpoint) {
                Some(p) => {
                    let point = if p.acks.is_empty() { Point::ExpiredWithoutAck } else { Point::ExpiredWithAcks };
                    self.points.reached(point);
                    self.participants.subtasks.iter().filter(|(id, _)| !p.acks.contains_key(id)).collect()
                }
                None => continue,
            };
            let shown = missing.iter().take(3).map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", ");
            let reason = format!("expired: {} of {all} acknowledgements missing, from {shown}", missing.len());
            out.push(Command::Journal(Event::CheckpointExpired { checkpoint }));
            self.abort(checkpoint, &reason, true, now, out);
        }
    }
}

//! How a subtask takes records in: from its channels in fair turns, from its splits, or in the recorded order of a replay.

use super::{
    channel::Front,
    merge_log::{ReplayCursor, ReplayStep},
    source_driver::SourceTurn,
    subtask::{Subtask, user},
    task::{SubtaskReport, TaskFailure},
    times::TimeLook,
};
use crate::{
    checkpoint::types::{ReplayPlan, Times},
    ids::CheckpointId,
    journal::Event,
    platform::Mono,
    sabotage::Sabotage,
};

/// What a round of work gave.
pub(super) enum Work {
    Done,
    Nothing,
    /// The source's rate limit, or the time of a timer or a watermark.
    NotBefore(Mono),
}

/// A replay going on.
pub(super) struct Replay {
    cursor: ReplayCursor,
    /// Channels whose marker of the current epoch has come.
    marked: Vec<bool>,
}

impl Replay {
    pub(super) fn new(plan: ReplayPlan, inputs: usize) -> Replay {
        Replay { cursor: ReplayCursor::new(plan), marked: vec![false; inputs] }
    }
}

impl Subtask {
    /// One batch.
    pub(super) fn work(&mut self, now: Mono) -> Result<Work, TaskFailure> {
        if let Some(replay) = &self.replay {
            let step = replay.cursor.step();
            return self.replay_step(step);
        }
        let clock = self.look_at_the_clock(now)?;
        let (work, source) = match self.source {
            Some(_) => (self.read_source(now)?, self.look_at_source_time(now)?),
            None => (self.consume_inputs()?, TimeLook::Nothing(None)),
        };
        let (TimeLook::Nothing(clock), TimeLook::Nothing(source)) = (clock, source) else { return Ok(Work::Done) };
        let work_at = match work {
            Work::Done => return Ok(Work::Done),
            Work::Nothing => None,
            Work::NotBefore(then) => Some(then),
        };
        Ok([work_at, clock, source].into_iter().flatten().min().map_or(Work::Nothing, Work::NotBefore))
    }

    fn read_source(&mut self, now: Mono) -> Result<Work, TaskFailure> {
        let Some(source) = &mut self.source else { return Ok(Work::Nothing) };
        let batch = self.spec.settings.source_batch_records.max(1);
        Ok(match source.turn(batch, now, self.chain.as_mut(), &mut self.outputs)? {
            SourceTurn::Read { split, records } => {
                self.merges.record(split, records);
                Work::Done
            }
            SourceTurn::Progress => Work::Done,
            SourceTurn::Waiting => Work::Nothing,
            SourceTurn::NotBefore(then) => Work::NotBefore(then),
            SourceTurn::Exhausted => {
                if !std::mem::replace(&mut self.exhausted_reported, true) {
                    let subtask = self.name.clone();
                    self.platform.journal.emit(Event::SourceExhausted { subtask, attempt: self.spec.attempt });
                    self.report(SubtaskReport::Exhausted);
                }
                Work::Nothing
            }
        })
    }

    /// One frame, or a batch of it, of the channel whose turn it is.
    fn consume_inputs(&mut self) -> Result<Work, TaskFailure> {
        let count = self.inputs.len();
        for step in 0..count {
            let position = (self.next_input + step) % count;
            let input = &mut self.inputs[position];
            if input.blocked {
                continue;
            }
            let Some(front) = input.front() else { continue };
            self.next_input = (position + 1) % count;
            match front {
                Front::Data(records) => {
                    let consumed = self.process(position, records)?;
                    self.merges.record(position as u32, consumed);
                }
                Front::Barrier(checkpoint) => {
                    let savepoint = self.inputs[position].savepoint();
                    self.inputs[position].pop_control();
                    self.barrier_received(position, checkpoint, savepoint)?;
                }
                Front::EventTime(said) => {
                    self.inputs[position].pop_control();
                    self.event_time_heard(position, said)?;
                }
                Front::ReplayMarker(epoch) => {
                    return Err(TaskFailure::Environment(format!(
                        "channel {}: marker of replayed epoch {epoch}, but {} replays nothing",
                        self.inputs[position].name, self.name
                    )));
                }
            }
            return Ok(Work::Done);
        }
        Ok(Work::Nothing)
    }

    /// Processes at most `at_most` records of the data frame at the front of a channel.
    fn process(&mut self, position: usize, at_most: u32) -> Result<u32, TaskFailure> {
        let input = &mut self.inputs[position];
        let at_most = at_most.min(self.spec.settings.source_batch_records.max(1));
        let consumed = self.chain.process(input.edge, &input.payload(), at_most, &mut self.outputs).map_err(user)?;
        let within = if consumed.records > at_most {
            Err(format!("{} records were processed where {at_most} were asked for", consumed.records))
        } else {
            input.consume(consumed.bytes, consumed.records)
        };
        within.map_err(|what| TaskFailure::User(format!("channel {}: {what}", input.name)))?;
        Ok(consumed.records)
    }

    fn replay_step(&mut self, step: ReplayStep) -> Result<Work, TaskFailure> {
        match step {
            ReplayStep::Take { input, at_most } if self.source.is_some() => self.replay_split(input, at_most),
            ReplayStep::Take { input, at_most } => self.replay_channel(input, at_most),
            ReplayStep::Resume(_) | ReplayStep::Watermark(_) | ReplayStep::ProcessingTime(_)
                if self.spec.settings.sabotage.runs(Sabotage::ReplayForgetsTimes, &self.platform.journal) =>
            {
                self.time_replayed()
            }
            ReplayStep::Resume(times) => {
                self.resume_times(times)?;
                self.time_replayed()
            }
            ReplayStep::Watermark(watermark) => {
                self.move_watermark(watermark)?;
                self.time_replayed()
            }
            ReplayStep::ProcessingTime(now) => {
                self.move_processing_time(now)?;
                self.time_replayed()
            }
            ReplayStep::EndOf(epoch) => self.replay_end_of(epoch),
            ReplayStep::Finished => {
                self.replay = None;
                // What runs from here on begins where the last replayed epoch ended, in time too.
                self.merges.resume(self.times);
                self.follow_inputs()?;
                for input in &mut self.inputs {
                    input.end_replay();
                }
                self.report(SubtaskReport::ReplayFinished);
                self.chain.set_muted(false);
                Ok(Work::Done)
            }
        }
    }

    fn time_replayed(&mut self) -> Result<Work, TaskFailure> {
        if let Some(replay) = &mut self.replay {
            replay.cursor.passed();
        }
        Ok(Work::Done)
    }

    fn replay_split(&mut self, split: u32, at_most: u32) -> Result<Work, TaskFailure> {
        let (Some(source), Some(replay)) = (&mut self.source, &mut self.replay) else { return Ok(Work::Nothing) };
        let batch = at_most.min(self.spec.settings.source_batch_records.max(1));
        match source.turn_of(split, batch, self.chain.as_mut(), &mut self.outputs)? {
            SourceTurn::Read { records, .. } if records > batch => Err(TaskFailure::User(format!(
                "{}: the source read {records} records where {batch} were asked for",
                self.name
            ))),
            SourceTurn::Read { records, .. } => {
                replay.cursor.took(records);
                Ok(Work::Done)
            }
            SourceTurn::Progress => Ok(Work::Done),
            SourceTurn::Waiting | SourceTurn::NotBefore(_) => Ok(Work::Nothing),
            SourceTurn::Exhausted => Err(self.diverged(format!(
                "split {split} has ended where {at_most} more records were read before; the input was changed"
            ))),
        }
    }

    fn replay_channel(&mut self, input: u32, at_most: u32) -> Result<Work, TaskFailure> {
        let position = input as usize;
        if position >= self.inputs.len() {
            return Err(self.diverged(format!("the recorded order names input {input} of {}", self.inputs.len())));
        }
        match self.inputs[position].front() {
            None => Ok(Work::Nothing),
            Some(Front::Data(records)) => {
                let consumed = self.process(position, records.min(at_most))?;
                if let Some(replay) = &mut self.replay {
                    replay.cursor.took(consumed);
                }
                Ok(Work::Done)
            }
            Some(Front::EventTime(said)) => {
                self.inputs[position].pop_control();
                self.event_time_heard(position, said)?;
                Ok(Work::Done)
            }
            Some(other) => Err(self.diverged(format!(
                "channel {} brought {other:?} where {at_most} more records came before",
                self.inputs[position].name
            ))),
        }
    }

    /// The records of the epoch are used up: a source says so, everybody else hears it from all channels and says so.
    fn replay_end_of(&mut self, epoch: CheckpointId) -> Result<Work, TaskFailure> {
        let mut any = false;
        for position in 0..self.inputs.len() {
            if self.replay.as_ref().is_none_or(|r| r.marked[position]) {
                continue;
            }
            match self.inputs[position].front() {
                None => {}
                Some(Front::EventTime(said)) => {
                    self.inputs[position].pop_control();
                    self.event_time_heard(position, said)?;
                    any = true;
                }
                Some(Front::ReplayMarker(e)) if e == epoch => {
                    self.inputs[position].pop_control();
                    if let Some(replay) = &mut self.replay {
                        replay.marked[position] = true;
                    }
                    any = true;
                }
                Some(other) => {
                    return Err(self.diverged(format!(
                        "channel {} brought {other:?} where epoch {epoch} ended before",
                        self.inputs[position].name
                    )));
                }
            }
        }
        let Some(replay) = &mut self.replay else { return Ok(Work::Nothing) };
        if replay.marked.contains(&false) {
            return Ok(if any { Work::Done } else { Work::Nothing });
        }
        replay.marked.fill(false);
        replay.cursor.end_epoch();
        let last = replay.cursor.step() == ReplayStep::Finished;
        if self.sinks.has_sinks() {
            let digests = self.chain.take_sink_digests();
            self.report(SubtaskReport::ReplayedEpoch { epoch, digests });
        }
        if !last {
            // The next one says where its times begin, unless it is at their beginning.
            self.reset_times(Times::default());
        }
        self.flush_outputs()?;
        if !self.channels.is_empty() {
            self.platform.journal.emit(Event::ReplayMarkerEmitted { subtask: self.name.clone(), epoch });
            for channel in &mut self.channels {
                channel.push_marker(epoch);
            }
        }
        Ok(Work::Done)
    }

    fn diverged(&self, what: String) -> TaskFailure {
        TaskFailure::User(format!("the replay of {} diverges from what was recorded: {what}", self.name))
    }
}

//! How time passes for the operators of a running subtask: event time by what its inputs say, processing time by the clock.
//!
//! The rule that makes both repeatable: operators see the times of [`Times`], which stand still while records are
//! processed and move between two batches. Each move is a step of the merge log. A replay moves them where the log says
//! so; what its inputs say of event time it only takes note of, and the clock it does not read.

use super::{
    chain::TimeMove,
    event_time::EventTime,
    subtask::{Subtask, user},
    task::TaskFailure,
};
use crate::{
    checkpoint::types::{MergeStep, Times},
    journal::Event,
    platform::Mono,
    sabotage::Sabotage,
};

/// Processing time moves in steps of at least so many milliseconds, except to a timer that is due.
const PROCESSING_TIME_STEP_MILLIS: i64 = 10;

/// What looking at the time gave.
pub(super) enum TimeLook {
    Moved,
    /// Nothing to do before then, or at all.
    Nothing(Option<Mono>),
}

impl Subtask {
    /// Takes in what an input channel says of event time.
    pub(super) fn event_time_heard(&mut self, position: usize, said: EventTime) -> Result<(), TaskFailure> {
        self.input_times.hear(position, said);
        // In a replay the log knows what became of it.
        if self.replay.is_none() { self.follow_event_time(self.input_times.together()) } else { Ok(()) }
    }

    /// A replay has ended: what was only taken note of counts now.
    pub(super) fn follow_inputs(&mut self) -> Result<(), TaskFailure> {
        if self.inputs.is_empty() { Ok(()) } else { self.follow_event_time(self.input_times.together()) }
    }

    fn follow_event_time(&mut self, event_time: EventTime) -> Result<(), TaskFailure> {
        match event_time {
            EventTime::At(watermark) if watermark > self.times.watermark => {
                self.said_idle = false;
                self.merges.time(MergeStep::Watermark(watermark));
                self.move_watermark(watermark)
            }
            EventTime::At(_) => {
                if std::mem::take(&mut self.said_idle) {
                    // Records follow again: those downstream must wait for this subtask again.
                    self.tell_event_time(EventTime::At(self.times.watermark))?;
                }
                Ok(())
            }
            EventTime::Idle => {
                if !std::mem::replace(&mut self.said_idle, true) {
                    self.tell_event_time(EventTime::Idle)?;
                }
                Ok(())
            }
        }
    }

    /// Event time as a source knows it, at most once in an interval; the end of all splits at once.
    pub(super) fn look_at_source_time(&mut self, now: Mono) -> Result<TimeLook, TaskFailure> {
        let Some((event_time, look_again)) = self.chain.source_event_time(now) else {
            return Ok(TimeLook::Nothing(None));
        };
        let before = self.times.watermark;
        if event_time == EventTime::At(i64::MAX)
            && before != i64::MAX
            && self.spec.settings.sabotage.runs(Sabotage::EndWithoutWatermark, &self.platform.journal)
        {
            self.times.watermark = i64::MAX;
            return Ok(TimeLook::Nothing(None));
        }
        let waits = |watermark: i64| watermark > before && watermark != i64::MAX && now < self.next_watermark;
        if matches!(event_time, EventTime::At(watermark) if waits(watermark)) {
            return Ok(TimeLook::Nothing(Some(self.next_watermark)));
        }
        self.follow_event_time(event_time)?;
        if self.times.watermark == before {
            return Ok(TimeLook::Nothing(look_again));
        }
        self.next_watermark = now + self.spec.settings.watermark_interval;
        Ok(TimeLook::Moved)
    }

    /// Moves processing time to what the clock says, if an operator asks for it and it is worth a step.
    pub(super) fn look_at_the_clock(&mut self, now: Mono) -> Result<TimeLook, TaskFailure> {
        if !self.needs_processing_time {
            return Ok(TimeLook::Nothing(None));
        }
        let wall = i64::try_from(self.platform.clock.wall().0).unwrap_or(i64::MAX);
        // A clock that is set back stops time; it never turns it back.
        let reached = wall.max(self.times.processing);
        let timer = self.chain.next_processing_timer();
        let due = timer.is_some_and(|timer| timer <= reached);
        if due || reached.saturating_sub(self.times.processing) >= PROCESSING_TIME_STEP_MILLIS {
            self.merges.time(MergeStep::ProcessingTime(reached));
            self.move_processing_time(reached)?;
            return Ok(TimeLook::Moved);
        }
        let until = |timer: i64| std::time::Duration::from_millis(timer.saturating_sub(wall).max(1).cast_unsigned());
        Ok(TimeLook::Nothing(timer.map(|timer| now + until(timer))))
    }

    /// Lets event time move on: timers fire, and those downstream hear of it behind what came of them.
    pub(super) fn move_watermark(&mut self, watermark: i64) -> Result<(), TaskFailure> {
        self.times.watermark = watermark;
        self.chain.advance(TimeMove::Watermark(watermark), &mut self.outputs).map_err(user)?;
        let subtask = self.name.clone();
        self.platform.journal.emit(Event::WatermarkReached { subtask, watermark });
        self.tell_event_time(EventTime::At(watermark))
    }

    pub(super) fn move_processing_time(&mut self, now: i64) -> Result<(), TaskFailure> {
        self.times.processing = now;
        self.chain.advance(TimeMove::Processing(now), &mut self.outputs).map_err(user)
    }

    /// Sets the times without firing anything, as at a restore.
    pub(super) fn reset_times(&mut self, times: Times) {
        self.times = times;
        self.chain.resume(times);
    }

    /// A replayed epoch begins at these times. Those downstream take note: once the replay is over they hear only of what
    /// moves, and what had come to its end would move no more.
    pub(super) fn resume_times(&mut self, times: Times) -> Result<(), TaskFailure> {
        self.reset_times(times);
        self.tell_event_time(EventTime::At(times.watermark))
    }

    fn tell_event_time(&mut self, event_time: EventTime) -> Result<(), TaskFailure> {
        self.flush_outputs()?;
        for channel in &mut self.channels {
            channel.push_event_time(event_time);
        }
        Ok(())
    }
}

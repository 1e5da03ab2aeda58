//! When the next checkpoint is triggered: periodically, because somebody asked, or because the sources have nothing left.
//!
//! Savepoints wait for nothing but ids: neither for the interval nor for the pause nor for room (Flink 1.8's `forced`,
//! FLINK-4322); they count as under way for the others, and do not put off the next periodic one (FLINK-13904). While one is
//! under way with which the job is to end, no other is triggered.

use super::{Command, Coordinator, ENDS, Ids, NO_ROOM, Pending, SavepointOrder, Stage};
use crate::{
    ids::{AttemptId, CheckpointId},
    journal::Event,
    platform::Mono,
    points::Point,
    sabotage::Sabotage,
};

impl Coordinator {
    /// When the next `Tick` is wanted; None if only another event can change anything.
    pub fn next_deadline(&self) -> Option<Mono> {
        let all = self.participants.subtasks.len();
        let expiry = self.pending.values().filter(|p| p.acks.len() < all).map(|p| p.deadline).min();
        let savepoint = (!self.savepoints.is_empty()).then_some(Mono(0));
        let trigger = savepoint.or_else(|| self.next_trigger().filter(|_| self.has_room()));
        let trigger = trigger.filter(|_| self.running.is_some());
        let trigger = match (trigger, &self.ids) {
            (Some(at), Ids::Enough) => Some(at),
            // They are asked for when the last one is used, so there is none to trigger with.
            (Some(at), Ids::AskAgain(again)) => Some(at.max(*again)),
            (Some(_), Ids::Asked) | (None, _) => None,
        };
        expiry.into_iter().chain(trigger).min()
    }

    /// When a checkpoint is wanted, if there is room for it; None if none is wanted before something else happens.
    fn next_trigger(&self) -> Option<Mono> {
        if self.finished || self.stopping {
            return None;
        }
        if self.requested {
            return Some(Mono(0));
        }
        if self.exhausted {
            // Only the last one is worth the work now; it is tried until it completes.
            let last =
                self.finalizing.as_ref().is_some_and(|f| f.pending.last) || self.pending.values().any(|p| p.last);
            return (!last).then_some(self.last_at);
        }
        let pause_over = self.last_completion.map_or(self.due, |at| at + self.config.min_pause);
        Some(self.due.max(pause_over))
    }

    fn has_room(&self) -> bool {
        let finalizing = self.finalizing.as_ref().is_some_and(|f| !matches!(f.stage, Stage::Commit));
        let under_way = self.pending.len() + usize::from(finalizing);
        under_way < self.config.max_concurrent.max(1) as usize
    }

    /// Triggers what is wanted and possible now.
    pub(super) fn trigger(&mut self, now: Mono, out: &mut Vec<Command>) {
        let Some(attempt) = self.running else { return };
        if self.finished {
            // No more ids are asked for: those that waited for some would wait for ever.
            for order in std::mem::take(&mut self.savepoints) {
                self.points.reached(Point::SavepointRefused);
                out.push(Command::SavepointFailed { order, reason: ENDS.to_string() });
            }
        }
        while self.next_id < self.ids_end
            && let Some(order) = self.savepoints.pop_front()
        {
            self.trigger_savepoint(attempt, order, now, out);
        }
        while self.next_trigger().is_some_and(|at| at <= now) {
            if !self.has_room() {
                // It is made up for as soon as there is room.
                if !self.skipped {
                    self.points.reached(Point::NoRoomForTrigger);
                    self.skipped = true;
                    self.skip(NO_ROOM, out);
                }
                break;
            }
            if self.next_id == self.ids_end {
                break;
            }
            self.trigger_one(attempt, now, out);
        }
        // The next block is asked for before it is needed.
        if self.next_id == self.ids_end && !self.finished {
            match self.ids {
                Ids::AskAgain(at) if at > now => {}
                Ids::Asked => {}
                Ids::Enough | Ids::AskAgain(_) => {
                    self.ids = Ids::Asked;
                    out.push(Command::NeedIds);
                }
            }
        }
    }

    fn trigger_one(&mut self, attempt: AttemptId, now: Mono, out: &mut Vec<Command>) {
        let checkpoint = CheckpointId(self.next_id);
        let end = self.ids_end;
        self.points.always(Point::IdsFromGrantedBlock, checkpoint.0 < end, || format!("{checkpoint}, up to {end}"));
        self.next_id += 1;
        self.due = now + self.config.interval;
        self.requested = false;
        self.skipped = false;
        let pending = Pending {
            attempt,
            deadline: now + self.config.timeout,
            acks: Default::default(),
            last: self.exhausted,
            savepoint: None,
        };
        self.pending.insert(checkpoint, pending);
        self.registry.triggered(checkpoint);
        if self.overrun {
            out.push(Command::Journal(Sabotage::TriggerAfterStop.marker()));
        }
        out.push(Command::Journal(Event::CheckpointTriggered { checkpoint, attempt }));
        let sources = self.participants.sources.iter().copied().collect();
        out.push(Command::Trigger { checkpoint, attempt, sources });
    }

    fn trigger_savepoint(&mut self, attempt: AttemptId, order: SavepointOrder, now: Mono, out: &mut Vec<Command>) {
        let checkpoint = CheckpointId(self.next_id);
        self.next_id += 1;
        let is_beside = self.pending().next().is_some();
        self.points.sometimes(Point::SavepointBesideCheckpoint, is_beside);
        self.points.sometimes(Point::SavepointAtTheEnd, self.exhausted);
        let directory = order.directory.clone();
        let deadline = now + self.config.timeout;
        let pending = Pending { attempt, deadline, acks: Default::default(), last: false, savepoint: Some(order) };
        self.pending.insert(checkpoint, pending);
        let name = directory.to_string();
        out.push(Command::Journal(Event::SavepointTriggered { checkpoint, directory: name }));
        out.push(Command::Journal(Event::CheckpointTriggered { checkpoint, attempt }));
        let sources = self.participants.sources.iter().copied().collect();
        out.push(Command::TriggerSavepoint { checkpoint, attempt, sources, directory });
    }
}

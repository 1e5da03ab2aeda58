//! When the next checkpoint is triggered: periodically, because somebody asked, or because the sources have nothing left.

use super::{Command, Coordinator, Ids, Pending, Stage};
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
        let trigger = self.next_trigger().filter(|_| self.running.is_some() && self.has_room());
        let trigger = match (trigger, &self.ids) {
            (Some(at), Ids::Enough) => Some(at),
            (Some(at), Ids::AskAgain(again)) if self.next_id == self.ids_end => Some(at.max(*again)),
            (Some(at), Ids::Asked | Ids::AskAgain(_)) => (self.next_id < self.ids_end).then_some(at),
            (None, _) => None,
        };
        expiry.into_iter().chain(trigger).min()
    }

    /// When a checkpoint is wanted, if there is room for it; None if none is wanted before something else happens.
    fn next_trigger(&self) -> Option<Mono> {
        if self.finished {
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
        while self.next_trigger().is_some_and(|at| at <= now) {
            if !self.has_room() {
                // It is made up for as soon as there is room.
                if !self.skipped {
                    self.points.reached(Point::NoRoomForTrigger);
                    self.skipped = true;
                    self.skip("as many checkpoints as allowed are under way", out);
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
        let pending =
            Pending { attempt, deadline: now + self.config.timeout, acks: Default::default(), last: self.exhausted };
        self.pending.insert(checkpoint, pending);
        self.registry.triggered(checkpoint);
        if self.overrun {
            out.push(Command::Journal(Sabotage::TriggerAfterStop.marker()));
        }
        out.push(Command::Journal(Event::CheckpointTriggered { checkpoint, attempt }));
        let sources = self.participants.sources.iter().copied().collect();
        out.push(Command::Trigger { checkpoint, attempt, sources });
    }
}

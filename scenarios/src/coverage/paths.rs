//! By which path a job came back from a fault, told from its events. For coverage only: no invariant reads it.
//!
//! A fault is settled by the first checkpoint that was triggered after it and completed, or by the end of the job: by then
//! whoever died of it is missed. Its path is that of the last restore before that moment, if it began after the fault or was
//! not over when the fault fell; without such a restore the job took the fault in its stride.

use std::collections::BTreeMap;

use runtime::{
    ids::{AttemptId, CheckpointId, Execution, LeaderEpoch},
    journal::Event,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// The job went on without a restart.
    None,
    /// No checkpoint had completed: it started over.
    Start,
    /// The newest checkpoint, every part from a local copy.
    Local,
    /// The newest checkpoint, some parts from local copies.
    PartlyLocal,
    /// The newest checkpoint, every part from primary storage.
    Primary,
    /// An older checkpoint, without a replay.
    Older,
    /// An older checkpoint, and a replay up to the newest.
    Replay,
    /// Another leader took over and restored the newest checkpoint, or started over.
    Takeover,
    /// Another leader took over and restored an older checkpoint.
    TakeoverOlder,
    /// The run ended before the recovery did.
    Unsettled,
}

impl Path {
    pub const ALL: &'static [Path] = &[
        Path::None,
        Path::Start,
        Path::Local,
        Path::PartlyLocal,
        Path::Primary,
        Path::Older,
        Path::Replay,
        Path::Takeover,
        Path::TakeoverOlder,
        Path::Unsettled,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Path::None => "none",
            Path::Start => "start",
            Path::Local => "local",
            Path::PartlyLocal => "partly-local",
            Path::Primary => "primary",
            Path::Older => "older",
            Path::Replay => "replay",
            Path::Takeover => "takeover",
            Path::TakeoverOlder => "takeover-older",
            Path::Unsettled => "unsettled",
        }
    }

    pub fn names() -> Vec<&'static str> {
        Path::ALL.iter().map(|path| path.name()).collect()
    }
}

enum Source {
    Start,
    Newest,
    Older,
    Replay,
}

struct Recovery {
    attempt: AttemptId,
    source: Source,
    /// Number of the event that chose it.
    chosen: u64,
    /// Number of the event that ended it: a completed checkpoint, or the end of the job.
    over: Option<u64>,
    local_parts: u64,
    primary_parts: u64,
}

impl Recovery {
    fn is_takeover(&self) -> bool {
        self.attempt.execution == Execution(1) && self.attempt.leader > LeaderEpoch(1)
    }
}

struct Settlement {
    at: u64,
    /// Faults up to this event (exclusive) are settled by it.
    since: u64,
}

/// Folds the events of a run, numbered from 1.
#[derive(Default)]
pub struct PathFold {
    triggered: BTreeMap<CheckpointId, u64>,
    settlements: Vec<Settlement>,
    recoveries: Vec<Recovery>,
}

impl PathFold {
    pub fn on_event(&mut self, number: u64, event: &Event) {
        match event {
            Event::CheckpointTriggered { checkpoint, .. } => {
                self.triggered.insert(*checkpoint, number);
            }
            Event::CheckpointCompleted { checkpoint, .. } => {
                // One that a former leader triggered says nothing of what came since.
                let since = self.triggered.get(checkpoint).copied().unwrap_or(0);
                self.settle(number, since);
            }
            Event::JobStateChanged { to, .. } if matches!(to.as_str(), "FINISHED" | "FAILED") => {
                self.settle(number, number);
            }
            Event::RestoreChosen { checkpoint, newest, replay_to, attempt, .. } => {
                let source = match (checkpoint, replay_to) {
                    (_, Some(_)) => Source::Replay,
                    (None, None) => Source::Start,
                    (Some(_), None) if checkpoint == newest => Source::Newest,
                    (Some(_), None) => Source::Older,
                };
                let is_first_start = *attempt == AttemptId { leader: LeaderEpoch(1), execution: Execution(1) };
                if !is_first_start {
                    self.recoveries.push(Recovery {
                        attempt: *attempt,
                        source,
                        chosen: number,
                        over: None,
                        local_parts: 0,
                        primary_parts: 0,
                    });
                }
            }
            Event::RestoreFinished { attempt, local_parts, primary_parts, .. } => {
                if let Some(recovery) = self.recoveries.last_mut().filter(|r| r.attempt == *attempt) {
                    recovery.local_parts += u64::from(*local_parts);
                    recovery.primary_parts += u64::from(*primary_parts);
                }
            }
            _ => {}
        }
    }

    fn settle(&mut self, at: u64, since: u64) {
        self.settlements.push(Settlement { at, since });
        // Also those that failed: another one followed, and that has succeeded.
        for recovery in self.recoveries.iter_mut().rev().take_while(|r| r.over.is_none()) {
            if recovery.chosen < since {
                recovery.over = Some(at);
            }
        }
    }

    /// The path of a fault that fell at the event with this number.
    pub fn path(&self, fault: u64) -> Path {
        let Some(settled) = self.settlements.iter().find(|s| s.at > fault && s.since > fault) else {
            return Path::Unsettled;
        };
        let concerned = |r: &&Recovery| r.chosen < settled.at && r.over.is_none_or(|over| over > fault);
        let mut concerned = self.recoveries.iter().filter(concerned).rev();
        let Some(last) = concerned.next() else { return Path::None };
        // Restores that failed belong to the same recovery.
        let is_takeover = last.is_takeover() || concerned.any(Recovery::is_takeover);
        match last.source {
            Source::Older | Source::Replay if is_takeover => Path::TakeoverOlder,
            _ if is_takeover => Path::Takeover,
            Source::Start => Path::Start,
            Source::Older => Path::Older,
            Source::Replay => Path::Replay,
            Source::Newest => match (last.local_parts, last.primary_parts) {
                (0, _) => Path::Primary,
                (_, 0) => Path::Local,
                _ => Path::PartlyLocal,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Tale {
        fold: PathFold,
        events: u64,
    }

    impl Tale {
        fn tell(&mut self, event: &Event) -> u64 {
            self.events += 1;
            self.fold.on_event(self.events, event);
            self.events
        }

        fn trigger(&mut self, id: u64) -> u64 {
            let attempt = attempt(1, 1);
            self.tell(&Event::CheckpointTriggered { checkpoint: CheckpointId(id), attempt })
        }

        fn complete(&mut self, id: u64) -> u64 {
            self.tell(&Event::CheckpointCompleted { checkpoint: CheckpointId(id), sequence: 0 })
        }

        fn restore(&mut self, (leader, execution): (u64, u32), chosen: Option<u64>, newest: Option<u64>) -> u64 {
            let replay_to = newest.filter(|newest| chosen != Some(*newest)).map(CheckpointId);
            self.tell(&Event::RestoreChosen {
                job: "job".into(),
                checkpoint: chosen.map(CheckpointId),
                newest: newest.map(CheckpointId),
                replay_to,
                attempt: attempt(leader, execution),
            })
        }

        fn restored(&mut self, (leader, execution): (u64, u32), local_parts: u32, primary_parts: u32) {
            self.tell(&Event::RestoreFinished {
                subtask: "fold[0]".into(),
                checkpoint: CheckpointId(1),
                attempt: attempt(leader, execution),
                local_parts,
                primary_parts,
            });
        }
    }

    fn attempt(leader: u64, execution: u32) -> AttemptId {
        AttemptId { leader: LeaderEpoch(leader), execution: Execution(execution) }
    }

    #[test]
    fn a_fault_that_no_restart_follows_has_no_path() {
        let mut tale = Tale::default();
        let fault = tale.restore((1, 1), None, None);
        tale.trigger(1);
        tale.complete(1);
        assert_eq!(tale.fold.path(fault), Path::None);
    }

    #[test]
    fn a_checkpoint_that_was_under_way_when_the_fault_fell_does_not_settle_it() {
        let mut tale = Tale::default();
        tale.trigger(1);
        tale.complete(1);
        let fault = tale.trigger(2);
        tale.complete(2);
        assert_eq!(tale.fold.path(fault), Path::Unsettled);
        tale.restore((1, 2), Some(2), Some(2));
        tale.restored((1, 2), 4, 0);
        tale.trigger(3);
        tale.complete(3);
        assert_eq!(tale.fold.path(fault), Path::Local);
        assert_eq!(tale.fold.path(0), Path::None, "settled by the first checkpoint, long before");
    }

    #[test]
    fn the_last_of_several_restores_counts() {
        let mut tale = Tale::default();
        tale.trigger(1);
        let fault = tale.complete(1);
        tale.restore((1, 2), Some(1), Some(1));
        tale.restored((1, 2), 0, 4);
        let second = tale.restore((1, 3), None, Some(1));
        tale.trigger(2);
        tale.complete(2);
        assert_eq!(tale.fold.path(fault), Path::Replay);
        assert_eq!(tale.fold.path(second), Path::Replay, "it fell into the recovery");
    }

    #[test]
    fn where_the_parts_come_from_tells_local_from_primary() {
        for (local, primary, path) in [(2, 0, Path::Local), (1, 1, Path::PartlyLocal), (0, 2, Path::Primary)] {
            let mut tale = Tale::default();
            tale.trigger(1);
            let fault = tale.complete(1);
            tale.restore((1, 2), Some(1), Some(1));
            tale.restored((1, 2), local, primary);
            tale.trigger(2);
            tale.complete(2);
            assert_eq!(tale.fold.path(fault), path);
        }
    }

    #[test]
    fn a_new_leader_is_a_path_of_its_own() {
        let mut tale = Tale::default();
        tale.trigger(1);
        let fault = tale.complete(1);
        tale.restore((2, 1), Some(1), Some(1));
        tale.restore((2, 2), Some(1), Some(1));
        tale.trigger(2);
        let later = tale.complete(2);
        assert_eq!(tale.fold.path(fault), Path::Takeover);
        tale.trigger(3);
        tale.complete(3);
        assert_eq!(tale.fold.path(later), Path::None);
    }

    #[test]
    fn the_end_of_the_job_settles_everything() {
        let mut tale = Tale::default();
        let fault = tale.restore((1, 2), None, None);
        tale.tell(&Event::JobStateChanged {
            job: "job".into(),
            from: "RUNNING".into(),
            to: "FINISHED".into(),
            reason: String::new(),
        });
        assert_eq!(tale.fold.path(fault), Path::Start);
    }
}

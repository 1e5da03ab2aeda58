//! Points that no single process can see, told from the events of all of them.

use std::collections::{BTreeMap, BTreeSet};

use runtime::{ids::LeaderEpoch, journal::Event, points::PointKind};

use crate::{phase::Phase, plan::model::JOB_MANAGER};

/// A point of the harness: name, kind, what it means.
pub type Declared = (&'static str, PointKind, &'static str);

const ZOMBIE_SPEAKS: &str = "zombie-speaks";
const TWO_LOST_AT_ONCE: &str = "two-lost-at-once";
const ALL_LOST: &str = "all-task-managers-lost";
const LEADER_DIES_IN_RECOVERY: &str = "leader-dies-in-recovery";
const THREE_RESTORES_IN_A_ROW: &str = "three-restores-in-a-row";
const NEWEST_AFTER_FALLBACK: &str = "newest-after-fallback";
const FINISHED_BY_LATER_LEADER: &str = "finished-by-later-leader";

pub const DECLARED: &[Declared] = &[
    (ZOMBIE_SPEAKS, PointKind::Sometimes, "a TaskManager taken for dead went on working"),
    (TWO_LOST_AT_ONCE, PointKind::Sometimes, "a second TaskManager was lost before the first had come back"),
    (ALL_LOST, PointKind::Sometimes, "no TaskManager was left"),
    (LEADER_DIES_IN_RECOVERY, PointKind::Sometimes, "the JobManager died while the job was recovering"),
    (THREE_RESTORES_IN_A_ROW, PointKind::Sometimes, "three restores without a completed checkpoint between them"),
    (NEWEST_AFTER_FALLBACK, PointKind::Sometimes, "a checkpoint completed after a fallback was restored"),
    (FINISHED_BY_LATER_LEADER, PointKind::Sometimes, "the job was finished by another leader than its first"),
];

/// Folds the events of one run.
#[derive(Default)]
pub struct Watch {
    registered: BTreeSet<String>,
    lost: BTreeSet<String>,
    restores_in_a_row: u32,
    completed_since_fallback: Option<bool>,
    leader: LeaderEpoch,
    finished: bool,
    passed: BTreeMap<&'static str, u64>,
}

impl Watch {
    fn pass(&mut self, point: &'static str, holds: bool) {
        if holds {
            *self.passed.entry(point).or_default() += 1;
        }
    }

    /// `phase` is the job's phase before the event.
    pub fn on_event(&mut self, process: &str, event: &Event, phase: Phase) {
        let works = matches!(
            event,
            Event::PartUploaded { .. } | Event::BarrierReceived { .. } | Event::SnapshotSyncDone { .. }
        );
        self.pass(ZOMBIE_SPEAKS, works && self.lost.contains(process));
        match event {
            Event::TaskManagerRegistered { task_manager, .. } => {
                self.lost.remove(task_manager);
                self.registered.insert(task_manager.clone());
            }
            Event::TaskManagerLost { task_manager, .. } => {
                self.lost.insert(task_manager.clone());
                self.pass(TWO_LOST_AT_ONCE, self.lost.len() > 1);
                self.pass(ALL_LOST, self.lost == self.registered);
            }
            Event::ProcessStarted { process } if process == JOB_MANAGER && self.leader > LeaderEpoch(0) => {
                // What the dead leader knew of its TaskManagers is gone with it.
                self.lost.clear();
                self.registered.clear();
                self.pass(LEADER_DIES_IN_RECOVERY, matches!(phase, Phase::Failover | Phase::Restore | Phase::Replay));
            }
            Event::LeaderElected { leader, .. } => self.leader = *leader,
            Event::CheckpointCompleted { .. } => {
                self.restores_in_a_row = 0;
                self.completed_since_fallback = self.completed_since_fallback.map(|_| true);
            }
            Event::RestoreChosen { checkpoint, newest, .. } => {
                self.restores_in_a_row += 1;
                self.pass(THREE_RESTORES_IN_A_ROW, self.restores_in_a_row == 3);
                if checkpoint == newest {
                    let is_overcome = self.completed_since_fallback.take() == Some(true);
                    self.pass(NEWEST_AFTER_FALLBACK, is_overcome);
                } else {
                    self.completed_since_fallback = Some(false);
                }
            }
            // The first time only: the sweep in quiet after the run finishes it once more.
            Event::JobStateChanged { to, .. } if to == "FINISHED" && !std::mem::replace(&mut self.finished, true) => {
                self.pass(FINISHED_BY_LATER_LEADER, self.leader > LeaderEpoch(1));
            }
            _ => {}
        }
    }

    pub fn passed(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.passed.iter().map(|(name, count)| (*name, *count))
    }
}

#[cfg(test)]
mod tests {
    use runtime::ids::CheckpointId;

    use super::*;

    fn lost(task_manager: &str) -> Event {
        Event::TaskManagerLost { task_manager: task_manager.into(), reason: "test".into() }
    }

    #[test]
    fn a_lost_task_manager_that_works_on_is_a_zombie_until_it_registers_again() {
        let mut watch = Watch::default();
        let works = Event::SnapshotSyncDone { subtask: "fold[0]".into(), checkpoint: CheckpointId(3) };
        watch.on_event("tm-1", &works, Phase::Flow);
        watch.on_event("jobmanager", &lost("tm-1"), Phase::Flow);
        watch.on_event("tm-1", &works, Phase::Failover);
        let again =
            Event::TaskManagerRegistered { task_manager: "tm-1".into(), incarnation: 1, leader: LeaderEpoch(1) };
        watch.on_event("jobmanager", &again, Phase::Failover);
        watch.on_event("tm-1", &works, Phase::Flow);
        let passed: Vec<_> = watch.passed().collect();
        assert_eq!(passed, [(ZOMBIE_SPEAKS, 1)]);
    }

    #[test]
    fn the_newest_checkpoint_is_restored_after_a_fallback_was_overcome() {
        let mut watch = Watch::default();
        let restore = |chosen, newest| Event::RestoreChosen {
            job: "job".into(),
            checkpoint: Some(CheckpointId(chosen)),
            newest: Some(CheckpointId(newest)),
            replay_to: None,
            attempt: runtime::ids::AttemptId::default(),
        };
        watch.on_event("jobmanager", &restore(2, 3), Phase::Failover);
        watch.on_event("jobmanager", &restore(3, 3), Phase::Failover);
        assert_eq!(watch.passed().count(), 0, "nothing completed since the fallback");
        watch.on_event("jobmanager", &restore(2, 3), Phase::Failover);
        watch.on_event(
            "jobmanager",
            &Event::CheckpointCompleted { checkpoint: CheckpointId(4), sequence: 9 },
            Phase::Ack,
        );
        watch.on_event("jobmanager", &restore(4, 4), Phase::Failover);
        assert!(watch.passed().any(|(name, _)| name == NEWEST_AFTER_FALLBACK));
    }
}

//! Invariant 10: a restarted task gets its previous slot where that slot lives; no task takes another's.
//!
//! Rule: at each deployment, if the slot that the subtask had in the attempt before lives, it is deployed there, on the same
//! allocation; and a slot that lives is not given to a subtask of another slot group. (Slot group i holds subtask i of every
//! vertex.)
//!
//! A slot lives while its process runs without interruption (asked of the world), was registered with the JobManager
//! before slots were dealt out for this attempt, was not given up by either side since, and its allocation was not released.
//!
//! Truth: processes from the world. Registrations and deployments are decisions of the JobManager that leave no other
//! trace than its events; a lie there would show as restores from primary only.
//!
//! Excuse: a slot that does not live by this definition, which leans to the runtime's side.

use std::collections::BTreeMap;

use runtime::{
    ids::{AllocationId, AttemptId},
    journal::Event,
};

use super::{Check, Findings, Look, Seen};

type Slot = (String, u32, AllocationId);

#[derive(Default)]
pub(super) struct Slots {
    /// TaskManagers known to the JobManager, with the incarnation registered.
    registered: BTreeMap<String, u64>,
    /// TaskManagers known when slots were dealt out for the current attempt, and their incarnations.
    dealt: Option<BTreeMap<String, u64>>,
    attempt: Option<AttemptId>,
    /// Slot and incarnation by subtask, in the attempt before the current one and in the current one.
    before: BTreeMap<String, (Slot, u64)>,
    now: BTreeMap<String, (Slot, u64)>,
}

/// `count[3]` is of slot group 3.
fn group(subtask: &str) -> Option<u32> {
    subtask.rsplit_once('[')?.1.strip_suffix(']')?.parse().ok()
}

impl Slots {
    fn lives(&self, look: &Look<'_>, slot: &Slot, incarnation: u64) -> bool {
        let (task_manager, ..) = slot;
        let known = self.dealt.as_ref().and_then(|dealt| dealt.get(task_manager)) == Some(&incarnation);
        known && self.registered.get(task_manager) == Some(&incarnation) && look.truth.is_alive(task_manager)
    }

    fn deal(&mut self) {
        if self.dealt.is_none() {
            self.dealt = Some(self.registered.clone());
        }
    }

    /// The JobManager knows nothing of it until it registers again.
    fn unregister(&mut self, task_manager: &str) {
        self.registered.remove(task_manager);
        if let Some(dealt) = &mut self.dealt {
            dealt.remove(task_manager);
        }
    }

    /// These slots live no more; nobody has a claim to them.
    fn forget(&mut self, gone: impl Fn(&Slot) -> bool) {
        self.before.retain(|_, (slot, _)| !gone(slot));
        self.now.retain(|_, (slot, _)| !gone(slot));
    }

    fn deployed(&mut self, look: &Look<'_>, subtask: &str, attempt: AttemptId, slot: Slot, out: &mut Findings<'_>) {
        if self.attempt.is_some_and(|current| attempt < current) {
            // A TaskManager that was frozen or cut off obeys an old order now. The JobManager dealt out slots anew since; what
            // such a straggler may not do is judged by the invariant on leaders.
            return;
        }
        if self.attempt != Some(attempt) {
            // A subtask not deployed in the last attempt keeps its place from before.
            let now = std::mem::take(&mut self.now);
            self.before.extend(now);
            self.attempt = Some(attempt);
        }
        self.deal();
        if let Some((previous, incarnation)) = self.before.get(subtask)
            && *previous != slot
            && self.lives(look, previous, *incarnation)
        {
            let message = format!("deployed to {slot:?}, its previous slot {previous:?} lives");
            out.report(subtask, "previous-slot-not-used", message);
        }
        let taken = self.before.iter().find(|(other, (owned, incarnation))| {
            group(other) != group(subtask)
                && (&owned.0, owned.1) == (&slot.0, slot.1)
                && self.lives(look, owned, *incarnation)
                // Two groups may have held the slot one after the other; the last one owns it.
                && !self.before.iter().any(|(o, (s, _))| group(o) == group(subtask) && (&s.0, s.1) == (&slot.0, slot.1))
        });
        if let Some((other, _)) = taken {
            out.report(subtask, "slot-of-another", format!("deployed to {slot:?}, which is {other}'s and lives"));
        }
        let incarnation = self.registered.get(&slot.0).copied().unwrap_or_default();
        self.now.insert(subtask.to_string(), (slot, incarnation));
    }
}

impl Check for Slots {
    fn name(&self) -> &'static str {
        "previous-slot"
    }

    fn on_event(&mut self, look: &Look<'_>, seen: &Seen<'_>, out: &mut Findings<'_>) {
        match seen.event {
            // What a JobManager believes that leads no more. It deals out no slots: nobody obeys it.
            Event::TaskManagerRegistered { .. }
            | Event::TaskManagerLost { .. }
            | Event::JobStateChanged { .. }
            | Event::SlotAllocated { .. }
            | Event::RestoreChosen { .. }
                if !look.ground.head.is_led_by(seen.process, seen.incarnation) => {}
            Event::TaskManagerRegistered { task_manager, incarnation, .. } => {
                self.registered.insert(task_manager.clone(), *incarnation);
            }
            Event::TaskManagerLost { task_manager, .. } | Event::ProcessStarted { process: task_manager } => {
                self.unregister(task_manager);
                self.forget(|slot| slot.0 == *task_manager);
            }
            // It keeps its slots for the next JobManager, unless it says otherwise.
            Event::JobManagerLost { task_manager, .. } => self.unregister(task_manager),
            // A new leader knows nobody until they register with it.
            Event::LeaderElected { .. } => {
                self.registered.clear();
                self.dealt = None;
            }
            Event::SlotReleased { allocation, .. } => self.forget(|slot| slot.2 == *allocation),
            // Slots for the next attempt are dealt out once the current one has begun to fall.
            Event::JobStateChanged { to, .. } => {
                let to = to.to_ascii_lowercase();
                if ["restart", "fail", "cancel"].iter().any(|falling| to.contains(falling)) {
                    self.dealt = None;
                }
            }
            Event::SlotAllocated { .. } | Event::RestoreChosen { .. } => self.deal(),
            Event::TaskDeployed { subtask, attempt, task_manager, slot, allocation } => {
                let slot = (task_manager.clone(), *slot, *allocation);
                self.deployed(look, subtask, *attempt, slot, out);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::{
        ids::{AllocationId, LeaderEpoch},
        journal::Event,
    };

    use crate::invariants::testing::Story;

    fn register(story: &mut Story, task_manager: &str) {
        let (task_manager, leader) = (task_manager.to_string(), LeaderEpoch(1));
        story.event("jobmanager", Event::TaskManagerRegistered { task_manager, incarnation: 1, leader });
    }

    fn deploy(story: &mut Story, subtask: &str, task_manager: &str, slot: u32) {
        let allocation = AllocationId(u128::from(slot));
        let (subtask, task_manager, attempt) = (subtask.to_string(), task_manager.to_string(), story.attempt);
        story.event("jobmanager", Event::TaskDeployed { subtask, attempt, task_manager, slot, allocation });
    }

    fn restart(story: &mut Story) {
        let change = |to: &str| Event::JobStateChanged {
            job: "job".into(),
            from: String::new(),
            to: to.into(),
            reason: String::new(),
        };
        story.event("jobmanager", change("RUNNING"));
        story.event("jobmanager", change("RESTARTING"));
        story.attempt = story.next_attempt();
    }

    fn two_tasks(story: &mut Story) {
        register(story, "tm-1");
        deploy(story, "fold[0]", "tm-1", 0);
        deploy(story, "fold[1]", "tm-1", 1);
    }

    /// Both tasks come back to their slots.
    #[test]
    fn the_same_slots_again_pass() {
        let mut story = Story::begin();
        two_tasks(&mut story);
        restart(&mut story);
        deploy(&mut story, "fold[0]", "tm-1", 0);
        deploy(&mut story, "fold[1]", "tm-1", 1);
        story.holds();
    }

    /// They change places although both slots live.
    #[test]
    fn slots_dealt_out_anew_are_found() {
        let mut story = Story::begin();
        two_tasks(&mut story);
        restart(&mut story);
        deploy(&mut story, "fold[0]", "tm-1", 1);
        story.breaks("previous-slot", "previous-slot-not-used");
    }

    /// A task without a living slot of its own takes the slot of one that has.
    #[test]
    fn the_slot_of_another_is_not_free() {
        let mut story = Story::begin();
        register(&mut story, "tm-2");
        deploy(&mut story, "fold[2]", "tm-2", 7);
        two_tasks(&mut story);
        story.event("jobmanager", Event::TaskManagerLost { task_manager: "tm-2".into(), reason: String::new() });
        restart(&mut story);
        deploy(&mut story, "fold[2]", "tm-1", 1);
        story.breaks("previous-slot", "slot-of-another");
    }

    /// The TaskManager was lost in between: any slot is right.
    #[test]
    fn a_lost_slot_binds_nobody() {
        let mut story = Story::begin();
        two_tasks(&mut story);
        story.event("jobmanager", Event::TaskManagerLost { task_manager: "tm-1".into(), reason: String::new() });
        restart(&mut story);
        register(&mut story, "tm-1");
        deploy(&mut story, "fold[0]", "tm-1", 1);
        story.holds();
    }
}

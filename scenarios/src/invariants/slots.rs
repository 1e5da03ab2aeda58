//! Invariant 10: a restarted task gets its previous slot where that slot lives; no task takes another's; and no more tasks move
//! than must.
//!
//! Rule, with local recovery: when slots are dealt out for an attempt, whoever has a slot that lives gets it, with its allocation; a
//! slot that lives is not given to anybody else; and as many return as can. Without local
//! recovery only the location counts: whoever was on a TaskManager whose slots the JobManager has is on it again. In both: a subtask
//! is deployed where its slot was dealt out, and nowhere else.
//!
//! A slot lives if its TaskManager runs and has offered its slots to the leader before they are dealt out (also one that was
//! lost in between, whose process was restarted, or that a new leader hears of for the first time), and its disk has the record of
//! what the slot holds. Of two records of the same, the later one counts. What is held for another parallelism is nobody's
//! any more: it may be given to whoever restores from it.
//!
//! Truth: processes from the world; what slots hold from the records on the disks. That slots were offered, dealt out and deployed
//! into are steps that leave no other trace than events; a lie there would show as restores from primary only.
//!
//! Excuse: what the record of a slot does not say, because the plan broke the disk or the file, or because the TaskManager has
//! given the allocation back (or is about to, having heard that it is stale); which leans to the runtime's side.

use std::collections::{BTreeMap, BTreeSet};

use runtime::{
    ids::{AllocationId, AttemptId, SharedSlot},
    journal::Event,
};

use super::{Check, Findings, Look, Seen, formats::SlotRecord};

type Slot = (String, u32, AllocationId);

#[derive(Default)]
pub(super) struct Slots {
    /// TaskManagers whose slots the leader has.
    offered: BTreeSet<String>,
    /// Allocations that were given back, or soon will be: something later holds the same.
    void: BTreeSet<(String, AllocationId)>,
    attempt: Option<AttemptId>,
    deal: Option<Deal>,
    /// On which TaskManager each was, as far as that is known to both sides.
    places: BTreeMap<SharedSlot, String>,
    /// The slot that each was dealt last.
    last: BTreeMap<SharedSlot, Slot>,
    /// Whether the job runs in the slots that were dealt out last.
    runs: bool,
}

/// One distribution of slots.
#[derive(Default)]
struct Deal {
    /// Living slots that hold something, and since when.
    living: BTreeMap<Slot, SlotRecord>,
    given: BTreeMap<SharedSlot, Slot>,
}

impl Deal {
    /// The living slot that is somebody's: the one where it came last.
    fn own(&self, shared: SharedSlot) -> Option<&Slot> {
        let of_it = self.living.iter().filter(|(_, record)| record.shared == shared);
        of_it.max_by_key(|(_, record)| record.since).map(|(slot, _)| slot)
    }

    /// How many can return to a slot that holds what they are. A slot holds one thing, so nobody is in another's way.
    fn most_that_can_return(&self) -> usize {
        self.given.keys().filter(|shared| self.own(**shared).is_some()).count()
    }

    fn returned(&self) -> usize {
        let is_back = |(shared, slot): &(&SharedSlot, &Slot)| {
            self.living.get(*slot).is_some_and(|record| record.shared == **shared)
        };
        self.given.iter().filter(is_back).count()
    }
}

/// `3` of `count[3]`.
fn index(subtask: &str) -> Option<u32> {
    subtask.rsplit_once('[')?.1.strip_suffix(']')?.parse().ok()
}

/// `localState/aid_<allocation>/slot`.
fn allocation_of(path: &str) -> Option<AllocationId> {
    let id = path.strip_prefix("localState/aid_")?.strip_suffix("/slot")?;
    AllocationId::try_from(id.to_string()).ok()
}

impl Slots {
    /// What the slots of one TaskManager hold, by the records on its disk.
    fn held_on(&self, look: &Look<'_>, task_manager: &str) -> BTreeMap<Slot, SlotRecord> {
        let Some(machine) = look.truth.machine_of(task_manager) else { return BTreeMap::new() };
        let damage = &look.ground.damage;
        if !look.truth.is_alive(task_manager) || damage.disks.contains_key(&machine) {
            return BTreeMap::new();
        }
        let mut held = BTreeMap::new();
        for (path, _) in look.truth.files(&machine) {
            let Some(allocation) = allocation_of(&path) else { continue };
            if damage.file(&machine, &path).is_some() || self.void.contains(&(task_manager.to_string(), allocation)) {
                continue;
            }
            let bytes = look.truth.file(&machine, &path).unwrap_or_default();
            // A record that cannot be read binds nobody.
            if let Ok(record) = look.ground.formats.slot(&bytes) {
                held.insert((task_manager.to_string(), record.slot, allocation), record);
            }
        }
        held
    }

    fn living(&self, look: &Look<'_>) -> BTreeMap<Slot, SlotRecord> {
        let mut living: BTreeMap<Slot, SlotRecord> =
            self.offered.iter().flat_map(|task_manager| self.held_on(look, task_manager)).collect();
        // Where the latest record lies on a disk that the plan has touched, an older one elsewhere says nothing: the leader
        // may well know the later one.
        living.retain(|slot, record| {
            self.last.get(&record.shared).is_none_or(|last| last == slot || !self.is_in_doubt(look, last))
        });
        // What the leader itself has dealt it knows, also while the order is under way and the record still tells of an earlier one.
        for (slot, record) in &mut living {
            if self.last.get(&record.shared) == Some(slot) && self.places.get(&record.shared) == Some(&slot.0) {
                record.since = self.attempt.map_or(record.since, |attempt| attempt.max(record.since));
            }
        }
        living
    }

    /// Whether a TaskManager that has offered its slots may have a record that cannot be believed, or none any more.
    fn is_in_doubt(&self, look: &Look<'_>, (task_manager, _, allocation): &Slot) -> bool {
        let Some(machine) = look.truth.machine_of(task_manager) else { return false };
        let damage = &look.ground.damage;
        let is_damaged = |path: &str| allocation_of(path) == Some(*allocation) && damage.file(&machine, path).is_some();
        self.offered.contains(task_manager)
            && (damage.disks.contains_key(&machine)
                || look.truth.files(&machine).iter().any(|(path, _)| is_damaged(path)))
    }

    /// The leader hears at once which of two slots is stale, and sends word.
    fn settle(&mut self, look: &Look<'_>) {
        let living = self.living(look);
        let is_later = |slot: &Slot, record: &SlotRecord, other: (&Slot, &SlotRecord)| {
            other.0 != slot && other.1.shared == record.shared && other.1.since >= record.since
        };
        for (slot, record) in &living {
            if living.iter().any(|other| is_later(slot, record, other)) {
                self.void.insert((slot.0.clone(), slot.2));
            }
        }
    }

    /// The JobManager does not have its slots until it offers them again.
    fn lose(&mut self, task_manager: &str) {
        self.offered.remove(task_manager);
        self.places.retain(|_, place| place != task_manager);
    }

    fn allocated(&mut self, look: &Look<'_>, shared: SharedSlot, slot: Slot, out: &mut Findings<'_>) {
        if self.deal.is_none() {
            let living = if look.config.local_recovery { self.living(look) } else { BTreeMap::new() };
            self.deal = Some(Deal { living, given: BTreeMap::new() });
        }
        let Some(deal) = &mut self.deal else { return };
        let entity = shared.to_string();
        if let Some(previous) = deal.own(shared).filter(|previous| **previous != slot) {
            let message = format!("gets {slot:?}, its previous slot {previous:?} lives");
            out.report(&entity, "previous-slot-not-used", message);
        }
        let is_taken = |(held, record): &(&Slot, &SlotRecord)| {
            (&held.0, held.1) == (&slot.0, slot.1)
                && record.shared != shared
                && (record.shared.group, record.shared.parallelism) == (shared.group, shared.parallelism)
        };
        if let Some((_, record)) = deal.living.iter().find(is_taken) {
            out.report(&entity, "slot-of-another", format!("gets {slot:?}, which is of {} and lives", record.shared));
        }
        if !look.config.local_recovery
            && let Some(place) = self.places.get(&shared).filter(|place| **place != slot.0)
            && self.offered.contains(place)
            && look.truth.is_alive(place)
        {
            out.report(&entity, "left-its-task-manager", format!("gets {slot:?}, it was on {place}, which lives"));
        }
        self.last.insert(shared, slot.clone());
        deal.given.insert(shared, slot);
    }

    fn deployed(&self, subtask: &str, attempt: AttemptId, slot: &Slot, out: &mut Findings<'_>) {
        // A TaskManager that was frozen or cut off may obey an old order now; what such a straggler may not do is judged by
        // the invariant on leaders. A leader that leads no more deals out slots that nobody saw.
        let Some(deal) = self.deal.as_ref().filter(|_| self.attempt == Some(attempt)) else { return };
        let is_its = |(shared, given): (&SharedSlot, &Slot)| Some(shared.index) == index(subtask) && given == slot;
        if !deal.given.iter().any(is_its) {
            out.report(subtask, "deployed-elsewhere", format!("deployed to {slot:?}, where it was given no slot"));
        }
    }

    /// All slots of an attempt are dealt out.
    fn judge_moves(&mut self, out: &mut Findings<'_>) {
        let Some(deal) = &self.deal else { return };
        let (returned, possible, all) = (deal.returned(), deal.most_that_can_return(), deal.given.len());
        if returned < possible {
            let message =
                format!("{returned} of {all} returned to their slots, {possible} could have: {:?}", deal.given);
            out.report("slots", "needless-move", message);
        }
        self.places = deal.given.iter().map(|(shared, slot)| (*shared, slot.0.clone())).collect();
    }
}

impl Check for Slots {
    fn name(&self) -> &'static str {
        "previous-slot"
    }

    fn on_event(&mut self, look: &Look<'_>, seen: &Seen<'_>, out: &mut Findings<'_>) {
        match seen.event {
            // What a JobManager believes that leads no more. It deals out no slots: nobody obeys it.
            Event::SlotsOffered { .. }
            | Event::TaskManagerLost { .. }
            | Event::SlotAllocated { .. }
            | Event::RestoreChosen { .. }
            | Event::JobStateChanged { .. }
                if !look.ground.head.is_led_by(seen.process, seen.incarnation) => {}
            Event::SlotsOffered { task_manager, .. } => {
                self.offered.insert(task_manager.clone());
                if look.config.local_recovery {
                    self.settle(look);
                }
            }
            Event::TaskManagerLost { task_manager, .. } | Event::ProcessStarted { process: task_manager } => {
                self.lose(task_manager);
            }
            // A new leader has no slots until they are offered to it.
            Event::LeaderElected { .. } => {
                self.offered.clear();
                self.places.clear();
            }
            Event::SlotReleased { task_manager, slot, allocation } => {
                let slot = (task_manager.clone(), *slot, *allocation);
                let is_in_use = |deal: &Deal| deal.given.values().any(|given| *given == slot);
                let is_its_place = self.places.values().any(|place| place == task_manager);
                if self.runs && is_its_place && self.deal.as_ref().is_some_and(is_in_use) {
                    out.report("slots", "released-in-use", format!("{slot:?}, in which the job runs, is released"));
                }
                self.void.insert((task_manager.clone(), *allocation));
            }
            Event::RestoreChosen { attempt, .. } => {
                self.deal = None;
                self.attempt = Some(*attempt);
            }
            Event::SlotAllocated { task_manager, slot, allocation, shared, .. } => {
                self.allocated(look, *shared, (task_manager.clone(), *slot, *allocation), out);
            }
            Event::JobStateChanged { to, .. } => {
                self.runs = to == "RUNNING";
                if self.runs {
                    self.judge_moves(out);
                }
            }
            Event::TaskDeployed { subtask, attempt, task_manager, slot, allocation } => {
                self.deployed(subtask, *attempt, &(task_manager.clone(), *slot, *allocation), out);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::{
        ids::{AllocationId, AttemptId, Execution, LeaderEpoch, SharedSlot},
        journal::Event,
    };

    use crate::invariants::{FaultNotice, formats::SlotRecord, testing::Story};

    fn shared(index: u32) -> SharedSlot {
        SharedSlot { group: 0, index, parallelism: 2 }
    }

    fn attempt(execution: u32) -> AttemptId {
        AttemptId { leader: LeaderEpoch(1), execution: Execution(execution) }
    }

    fn offer(story: &mut Story, task_manager: &str) {
        story.event("jobmanager", Event::SlotsOffered { task_manager: task_manager.into(), slots: 2 });
    }

    fn lose(story: &mut Story, task_manager: &str) {
        let (task_manager, reason) = (task_manager.to_string(), String::new());
        story.event("jobmanager", Event::TaskManagerLost { task_manager, reason });
    }

    /// The allocation of slot `slot` on machine `machine`.
    fn allocation(machine: u32, slot: u32) -> AllocationId {
        AllocationId(u128::from(10 * machine + slot))
    }

    /// The record that a TaskManager has on its disk.
    fn record(story: &mut Story, machine: u32, slot: u32, index: u32, since: u32) {
        let record = SlotRecord { slot, shared: shared(index), since: attempt(since) };
        story.slot_record(&format!("machine-{machine}"), allocation(machine, slot), &record);
    }

    fn give(story: &mut Story, index: u32, machine: u32, slot: u32) {
        story.event(
            "jobmanager",
            Event::SlotAllocated {
                task_manager: format!("tm-{machine}"),
                slot,
                allocation: allocation(machine, slot),
                shared: shared(index),
                previous: false,
            },
        );
    }

    fn run(story: &mut Story) {
        let (job, from, to, reason) = ("job".into(), "CREATED".into(), "RUNNING".into(), String::new());
        story.event("jobmanager", Event::JobStateChanged { job, from, to, reason });
    }

    /// Both have a slot on the first TaskManager, and the second TaskManager has two spare ones.
    fn two_with_slots() -> Story {
        let mut story = Story::begin();
        record(&mut story, 1, 0, 0, 1);
        record(&mut story, 1, 1, 1, 1);
        offer(&mut story, "tm-1");
        offer(&mut story, "tm-2");
        story.restore(None, None);
        story
    }

    #[test]
    fn the_same_slots_again_pass() {
        let mut story = two_with_slots();
        give(&mut story, 0, 1, 0);
        give(&mut story, 1, 1, 1);
        run(&mut story);
        story.holds();
    }

    /// It gets a spare slot although its own lives; and so one more has moved than had to.
    #[test]
    fn a_slot_that_is_not_used_is_found() {
        let mut story = two_with_slots();
        give(&mut story, 0, 2, 0);
        story.breaks("previous-slot", "previous-slot-not-used");
        give(&mut story, 1, 1, 1);
        run(&mut story);
        let kinds: Vec<_> = story.found().iter().map(|(_, kind, _)| kind.to_string()).collect();
        assert_eq!(kinds, ["previous-slot-not-used", "needless-move"]);
        story.says("1 of 2 returned to their slots, 2 could have");
    }

    /// A slot that another one later proves stale is given back at once: it does not live again when that one is lost.
    #[test]
    fn a_stale_slot_stays_given_back() {
        let mut story = two_with_slots();
        record(&mut story, 2, 0, 0, 2);
        offer(&mut story, "tm-2");
        lose(&mut story, "tm-2");
        offer(&mut story, "tm-3");
        give(&mut story, 0, 3, 0);
        give(&mut story, 1, 1, 1);
        run(&mut story);
        story.holds();
    }

    /// A new leader knows of no slots until they are offered to it.
    #[test]
    fn a_new_leader_begins_without_slots() {
        let mut story = two_with_slots();
        let (process, leader, entries) = ("jobmanager".to_string(), LeaderEpoch(2), 1);
        story.event("jobmanager", Event::LeaderElected { process, leader, entries });
        offer(&mut story, "tm-2");
        give(&mut story, 0, 2, 0);
        give(&mut story, 1, 2, 1);
        run(&mut story);
        story.holds();
    }

    /// What a leader deals out that leads no more, nobody obeys.
    #[test]
    fn a_deposed_leader_deals_for_nobody() {
        let mut story = two_with_slots();
        let before = story.incarnation;
        story.claim(2);
        let now = std::mem::replace(&mut story.incarnation, before);
        give(&mut story, 0, 2, 0);
        story.holds();
        story.incarnation = now;
        give(&mut story, 0, 2, 0);
        story.breaks("previous-slot", "previous-slot-not-used");
    }

    /// Somebody without a living slot takes the slot of one that has.
    #[test]
    fn the_slot_of_another_is_not_free() {
        let mut story = Story::begin();
        record(&mut story, 1, 1, 1, 1);
        offer(&mut story, "tm-1");
        offer(&mut story, "tm-2");
        story.restore(None, None);
        give(&mut story, 0, 1, 1);
        story.breaks("previous-slot", "slot-of-another");
    }

    /// Lost and found again before slots are dealt out, or found by a new leader: the slot lives.
    #[test]
    fn a_slot_that_was_offered_again_lives() {
        for by_new_leader in [false, true] {
            let mut story = two_with_slots();
            if by_new_leader {
                let (process, leader, entries) = ("jobmanager".to_string(), LeaderEpoch(2), 1);
                story.event("jobmanager", Event::LeaderElected { process, leader, entries });
                offer(&mut story, "tm-2");
            } else {
                lose(&mut story, "tm-1");
            }
            offer(&mut story, "tm-1");
            give(&mut story, 0, 2, 0);
            story.breaks("previous-slot", "previous-slot-not-used");
        }
    }

    /// The copies of a task that runs go with its slot. What was given back because the job runs elsewhere, or not at all, may go.
    #[test]
    fn a_slot_that_is_released_while_in_use_is_found() {
        for (is_in_use, ends) in [(true, false), (true, true), (false, false)] {
            let mut story = two_with_slots();
            give(&mut story, 0, 1, 0);
            give(&mut story, 1, 1, 1);
            run(&mut story);
            if ends {
                let (job, from, to) = ("job".into(), "RUNNING".into(), "RESTARTING".into());
                story.event("jobmanager", Event::JobStateChanged { job, from, to, reason: String::new() });
            }
            let released = if is_in_use { vec![(1, 0)] } else { vec![(2, 0), (1, 2)] };
            for (machine, slot) in released {
                let (task_manager, allocation) = (format!("tm-{machine}"), allocation(machine, slot));
                story.event(&task_manager.clone(), Event::SlotReleased { task_manager, slot, allocation });
            }
            if is_in_use && !ends {
                story.breaks("previous-slot", "released-in-use");
            } else {
                story.holds();
            }
        }
    }

    /// A leader deals a slot whose record tells of an earlier deployment; before the order arrives, somebody comes back who says to
    /// hold the same since later. The leader knows better.
    #[test]
    fn what_was_dealt_last_is_later_than_any_record() {
        let mut story = two_with_slots();
        give(&mut story, 0, 1, 0);
        give(&mut story, 1, 1, 1);
        run(&mut story);
        record(&mut story, 2, 0, 0, 2);
        offer(&mut story, "tm-2");
        story.restore(None, None);
        give(&mut story, 0, 1, 0);
        give(&mut story, 1, 1, 1);
        run(&mut story);
        story.holds();
    }

    /// What a leader has dealt it takes for the latest only as long as the TaskManager was not lost in between: when that one comes
    /// back, its records count, and they tell of an earlier deployment than another's do.
    #[test]
    fn what_was_dealt_to_one_that_was_lost_is_as_late_as_its_record() {
        let mut story = two_with_slots();
        story.restore(None, None);
        give(&mut story, 0, 1, 0);
        give(&mut story, 1, 1, 1);
        run(&mut story);
        lose(&mut story, "tm-1");
        record(&mut story, 2, 0, 0, 2);
        offer(&mut story, "tm-2");
        offer(&mut story, "tm-1");
        story.restore(None, None);
        give(&mut story, 0, 2, 0);
        give(&mut story, 1, 1, 1);
        run(&mut story);
        story.holds();
    }

    /// The slot that was dealt is the latest, not every slot of that TaskManager that holds the same.
    #[test]
    fn an_older_record_beside_the_slot_that_was_dealt_is_no_later() {
        let mut story = two_with_slots();
        give(&mut story, 0, 1, 0);
        give(&mut story, 1, 1, 1);
        run(&mut story);
        record(&mut story, 1, 5, 0, 1);
        story.restore(None, None);
        give(&mut story, 0, 1, 0);
        give(&mut story, 1, 1, 1);
        run(&mut story);
        story.holds();
    }

    /// Lost and not offered again, given back, damaged, or somewhere else since: any slot is right.
    #[test]
    fn a_slot_that_does_not_live_binds_nobody() {
        let cases: [&dyn Fn(&mut Story); 4] = [
            &|story| lose(story, "tm-1"),
            &|story| {
                for slot in 0..2 {
                    let (task_manager, allocation) = ("tm-1".to_string(), allocation(1, slot));
                    story.event("tm-1", Event::SlotReleased { task_manager, slot, allocation });
                }
            },
            &|story| story.fault(&FaultNotice::Disk { machine: "machine-1".into() }),
            &|story| {
                record(story, 2, 0, 0, 2);
                record(story, 2, 1, 1, 2);
                offer(story, "tm-2");
            },
        ];
        for case in cases {
            let mut story = two_with_slots();
            case(&mut story);
            give(&mut story, 0, 2, 0);
            give(&mut story, 1, 2, 1);
            run(&mut story);
            story.holds();
        }
    }

    /// A task was dealt a slot whose record lies on a touched disk; what another TaskManager holds of it since earlier is stale,
    /// as the leader knows, and may be given away.
    #[test]
    fn an_older_record_says_nothing_beside_one_that_cannot_be_read() {
        for is_damaged in [true, false] {
            let mut story = two_with_slots();
            lose(&mut story, "tm-1");
            give(&mut story, 0, 2, 0);
            give(&mut story, 1, 2, 1);
            run(&mut story);
            if is_damaged {
                story.fault(&FaultNotice::Disk { machine: "machine-2".into() });
            }
            offer(&mut story, "tm-1");
            story.restore(None, None);
            give(&mut story, 0, 2, 0);
            give(&mut story, 1, 2, 1);
            run(&mut story);
            if is_damaged {
                story.holds();
            } else {
                // No record was ever written on the second TaskManager: what the first one holds is theirs.
                story.breaks("previous-slot", "previous-slot-not-used");
            }
        }
    }

    /// The later slot was given back, and an intact record of it is still there; or another file of its machine was hit. That casts no
    /// doubt on it: the older slot is its own again. It does if the record itself was hit.
    #[test]
    fn only_damage_to_the_record_casts_doubt_on_it() {
        for (hit, in_doubt) in [(None, false), (Some("localState/elsewhere"), false), (Some("record"), true)] {
            let mut story = two_with_slots();
            lose(&mut story, "tm-1");
            give(&mut story, 0, 2, 0);
            give(&mut story, 1, 2, 1);
            run(&mut story);
            record(&mut story, 2, 0, 0, 2);
            let of_record = format!("localState/aid_{}/slot", allocation(2, 0));
            if let Some(path) = hit {
                story.truth.put_file("machine-2", "localState/elsewhere", b"bytes");
                let path = if path == "record" { of_record } else { path.to_string() };
                story.fault(&FaultNotice::LocalFile { machine: "machine-2".into(), path });
            }
            let (task_manager, allocation) = ("tm-2".to_string(), allocation(2, 0));
            crate::invariants::telling::changed(&mut story, "RESTARTING");
            story.event("tm-2", Event::SlotReleased { task_manager, slot: 0, allocation });
            offer(&mut story, "tm-1");
            story.restore(None, None);
            give(&mut story, 0, 2, 2);
            if in_doubt { story.holds() } else { story.breaks("previous-slot", "previous-slot-not-used") }
        }
    }

    fn deploy(story: &mut Story, execution: u32, machine: u32, slot: u32) {
        let (subtask, task_manager) = ("fold[0]".to_string(), format!("tm-{machine}"));
        let (attempt, allocation) = (attempt(execution), allocation(machine, slot));
        story.event(&task_manager.clone(), Event::TaskDeployed { subtask, attempt, task_manager, slot, allocation });
    }

    /// The JobManager dealt out one slot, and the subtask runs in another, be it that of another subtask. A straggler that obeys
    /// an older order is not judged here.
    #[test]
    fn a_subtask_that_runs_elsewhere_is_found() {
        for (execution, machine, slot, fine) in [(2, 1, 0, true), (2, 1, 1, false), (2, 2, 0, false), (1, 2, 0, true)] {
            let mut story = two_with_slots();
            give(&mut story, 0, 1, 0);
            give(&mut story, 1, 1, 1);
            deploy(&mut story, execution, machine, slot);
            if fine { story.holds() } else { story.breaks("previous-slot", "deployed-elsewhere") }
        }
    }

    /// Without local recovery it may be another slot, but not on another TaskManager, unless the JobManager had lost that one.
    #[test]
    fn without_local_recovery_the_location_counts() {
        for (machine, lost, breaks) in [(1, false, false), (2, false, true), (2, true, false)] {
            let mut story = Story::configured(|config| config.local_recovery = false);
            offer(&mut story, "tm-1");
            offer(&mut story, "tm-2");
            story.restore(None, None);
            give(&mut story, 0, 1, 0);
            run(&mut story);
            if lost {
                lose(&mut story, "tm-1");
                offer(&mut story, "tm-1");
            }
            story.restore(None, None);
            give(&mut story, 0, machine, 1);
            run(&mut story);
            if breaks {
                story.breaks("previous-slot", "left-its-task-manager");
            } else {
                story.holds();
            }
        }
    }
}

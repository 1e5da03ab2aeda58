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

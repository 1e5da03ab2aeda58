//! Which slot runs which group of subtasks. Pure: registrations and losses go in, assignments come out.
//!
//! A slot holds subtask i of every vertex (slot sharing), so what is assigned is the group i. Rules:
//! * a group goes back to the slot that holds its allocation, as long as that slot's TaskManager is registered;
//! * a slot held for one group is never given to another while the pool has any other free slot, and then only after its
//!   allocation was released;
//! * of two slots that claim the same group, the one deployed into last is right, the other is stale and to be released.
//!
//! Flink: `SlotPool`, `PreviousAllocationSlotSelectionStrategy`.

use std::collections::BTreeMap;

use super::rpc::HeldSlot;
use crate::{
    ids::{AllocationId, AttemptId},
    sabotage::{Sabotage, SabotageSet},
};

/// A slot, by TaskManager and index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotAddress {
    pub task_manager: String,
    pub index: u32,
}

/// Where a group runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    pub slot: SlotAddress,
    pub allocation: AllocationId,
    /// The group's previous allocation, still alive.
    pub previous: bool,
}

/// A slot whose allocation nobody wants any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    pub slot: SlotAddress,
    pub allocation: AllocationId,
}

#[derive(Clone, Debug, Default)]
pub struct SlotPool {
    slots: BTreeMap<SlotAddress, Option<HeldSlot>>,
}

impl SlotPool {
    /// A TaskManager offers its slots, with what each is held for. Replaces what was known of it. Returns what it holds in
    /// vain: groups that do not exist, and groups that a later deployment put elsewhere.
    pub fn register(&mut self, task_manager: &str, slots: &[Option<HeldSlot>], groups: u32) -> Vec<Stale> {
        self.unregister(task_manager);
        for (index, held) in slots.iter().enumerate() {
            let index = u32::try_from(index).expect("fewer than 2^32 slots");
            self.slots.insert(SlotAddress { task_manager: task_manager.to_string(), index }, *held);
        }
        self.release_stale(groups)
    }

    pub fn unregister(&mut self, task_manager: &str) {
        self.slots.retain(|slot, _| slot.task_manager != task_manager);
    }

    fn release_stale(&mut self, groups: u32) -> Vec<Stale> {
        let mut latest: BTreeMap<u32, (AttemptId, SlotAddress)> = BTreeMap::new();
        for (slot, held) in &self.slots {
            let Some(held) = held else { continue };
            let newer = latest.get(&held.group).is_none_or(|(attempt, _)| held.attempt > *attempt);
            if held.group < groups && newer {
                latest.insert(held.group, (held.attempt, slot.clone()));
            }
        }
        let mut stale = Vec::new();
        for (slot, held) in &mut self.slots {
            if let Some(h) = *held
                && latest.get(&h.group).is_none_or(|(_, right)| right != slot)
            {
                stale.push(Stale { slot: slot.clone(), allocation: h.allocation });
                *held = None;
            }
        }
        stale
    }

    /// Whether the TaskManager's slots are in the pool.
    pub fn has(&self, task_manager: &str) -> bool {
        self.slots.keys().any(|slot| slot.task_manager == task_manager)
    }

    /// Empties the pool; gives every allocation in it, to be released.
    pub fn drain(&mut self) -> Vec<Stale> {
        let slots = std::mem::take(&mut self.slots);
        slots.into_iter().filter_map(|(slot, held)| Some(Stale { slot, allocation: held?.allocation })).collect()
    }

    pub fn total(&self) -> usize {
        self.slots.len()
    }

    /// Whether each of the groups has a living slot that remembers it.
    pub fn knows_all(&self, groups: u32) -> bool {
        (0..groups).all(|g| self.slots.values().flatten().any(|h| h.group == g))
    }

    /// Assigns every group, or none if there are too few slots. `fresh` makes new allocation ids; `sabotage` is of deliberate
    /// faults. Spare slots are taken where most are free, so that load spreads.
    pub fn assign(
        &mut self,
        groups: u32,
        attempt: AttemptId,
        sabotage: &SabotageSet,
        mut fresh: impl FnMut() -> AllocationId,
    ) -> Option<BTreeMap<u32, Assigned>> {
        if self.slots.len() < groups as usize {
            return None;
        }
        let forget = sabotage.is(Sabotage::ForgetAllocations);
        if forget {
            // Shift everything by one: whoever comes back finds a stranger in its place.
            let held: Vec<_> = self.slots.values().copied().collect();
            let shifted = held.iter().cycle().skip(1).take(held.len());
            for (slot, held) in self.slots.values_mut().zip(shifted) {
                *slot = *held;
            }
        }
        if sabotage.is(Sabotage::StealSlots) {
            self.steal(groups);
        }
        let mut assigned = BTreeMap::new();
        for (slot, held) in &mut self.slots {
            if let Some(held) = held {
                held.attempt = attempt;
                let here = Assigned { slot: slot.clone(), allocation: held.allocation, previous: !forget };
                assigned.insert(held.group, here);
            }
        }
        for group in 0..groups {
            if assigned.contains_key(&group) {
                continue;
            }
            // Every held slot was just assigned to its own group, so groups <= slots leaves a free one for this group.
            let slot = self.freest_slot().expect("as many slots as groups");
            let held = HeldSlot { allocation: fresh(), group, attempt };
            self.slots.insert(slot.clone(), Some(held));
            assigned.insert(group, Assigned { slot, allocation: held.allocation, previous: false });
        }
        Some(assigned)
    }

    /// A planted bug: a group without a slot takes the first one, and whoever had that one loses it.
    fn steal(&mut self, groups: u32) {
        let homeless = (0..groups).find(|g| !self.slots.values().flatten().any(|h| h.group == *g));
        if let Some(group) = homeless
            && let Some(Some(held)) = self.slots.values_mut().find(|held| held.is_some())
        {
            held.group = group;
        }
    }

    fn freest_slot(&self) -> Option<SlotAddress> {
        let mut free: BTreeMap<&str, (usize, &SlotAddress)> = BTreeMap::new();
        for (slot, held) in self.slots.iter().rev() {
            if held.is_none() {
                let entry = free.entry(&slot.task_manager).or_insert((0, slot));
                *entry = (entry.0 + 1, slot);
            }
        }
        // Most free slots first, then by name.
        free.into_iter().max_by(|a, b| a.1.0.cmp(&b.1.0).then(b.0.cmp(a.0))).map(|(_, (_, slot))| slot.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::ids::{Execution, LeaderEpoch};

    fn attempt(n: u32) -> AttemptId {
        AttemptId { leader: LeaderEpoch(1), execution: Execution(n) }
    }

    fn whole() -> SabotageSet {
        SabotageSet::default()
    }

    fn fresh_ids() -> impl FnMut() -> AllocationId {
        let mut next = 0;
        move || {
            next += 1;
            AllocationId(next)
        }
    }

    #[test]
    fn groups_spread_over_task_managers_and_come_back_to_their_slots() {
        let mut pool = SlotPool::default();
        let mut ids = fresh_ids();
        for tm in ["tm-1", "tm-2"] {
            assert!(pool.register(tm, &[None, None], 2).is_empty());
        }
        let first = pool.assign(2, attempt(1), &whole(), &mut ids).expect("enough slots");
        assert_eq!(first[&0].slot.task_manager, "tm-1");
        assert_eq!(first[&1].slot.task_manager, "tm-2");
        assert!(first.values().all(|a| !a.previous));
        let second = pool.assign(2, attempt(2), &whole(), &mut ids).expect("enough slots");
        for group in 0..2 {
            assert_eq!(second[&group].slot, first[&group].slot);
            assert!(second[&group].previous);
        }
    }

    #[test]
    fn a_lost_task_manager_moves_only_its_own_groups() {
        let mut pool = SlotPool::default();
        let mut ids = fresh_ids();
        for tm in ["tm-1", "tm-2", "tm-3"] {
            pool.register(tm, &[None], 2);
        }
        let first = pool.assign(2, attempt(1), &whole(), &mut ids).expect("enough slots");
        pool.unregister("tm-1");
        let second = pool.assign(2, attempt(2), &whole(), &mut ids).expect("enough slots");
        assert_eq!(second[&0].slot.task_manager, "tm-3");
        assert_eq!(second[&1].slot, first[&1].slot);
        // The lost one returns with its old allocation; group 0 lives elsewhere now.
        let old = HeldSlot { allocation: first[&0].allocation, group: 0, attempt: attempt(1) };
        let stale = pool.register("tm-1", &[Some(old)], 2);
        assert_eq!(stale.len(), 1);
        assert_eq!(stale[0].slot.task_manager, "tm-1");
    }

    #[test]
    fn a_new_job_manager_relearns_allocations_from_the_task_managers() {
        let mut pool = SlotPool::default();
        let held = |group, a| Some(HeldSlot { allocation: AllocationId(a), group, attempt: attempt(4) });
        pool.register("tm-2", &[held(1, 11), None], 2);
        assert!(!pool.knows_all(2));
        pool.register("tm-1", &[None, held(0, 10)], 2);
        assert!(pool.knows_all(2));
        let assigned = pool.assign(2, attempt(5), &whole(), fresh_ids()).expect("enough slots");
        assert_eq!(assigned[&0].allocation, AllocationId(10));
        assert_eq!(assigned[&1].allocation, AllocationId(11));
    }

    /// A job that comes back with fewer subtasks: allocations of groups that it has no more are given back, those of its last
    /// group are not; of two that say they held a group, the later one is believed.
    #[test]
    fn allocations_that_nobody_can_want_are_released() {
        let held =
            |group, a, execution| Some(HeldSlot { allocation: AllocationId(a), group, attempt: attempt(execution) });
        let mut pool = SlotPool::default();
        let stale = pool.register("tm-1", &[held(1, 11, 4), held(2, 12, 4), held(3, 13, 9)], 2);
        assert_eq!(stale.iter().map(|stale| stale.allocation.0).collect::<Vec<_>>(), [12, 13]);
        let stale = pool.register("tm-2", &[held(1, 21, 3), held(0, 20, 3)], 2);
        assert_eq!(stale.iter().map(|stale| stale.allocation.0).collect::<Vec<_>>(), [21]);
        let stale = pool.register("tm-3", &[held(0, 30, 5)], 2);
        assert_eq!(stale.iter().map(|stale| stale.allocation.0).collect::<Vec<_>>(), [20]);
    }

    /// What the pool says of itself: whose slots it has, how many, whether everybody's slot is known, and what it gives back.
    #[test]
    fn the_pool_knows_what_it_holds() {
        let held = |group, a| Some(HeldSlot { allocation: AllocationId(a), group, attempt: attempt(1) });
        let mut pool = SlotPool::default();
        assert!(!pool.has("tm-1") && pool.total() == 0 && pool.drain().is_empty());
        pool.register("tm-1", &[held(1, 11), None], 2);
        pool.register("tm-2", &[None], 2);
        assert!(pool.has("tm-1") && pool.has("tm-2") && !pool.has("tm-3"));
        assert_eq!(pool.total(), 3);
        // Two slots know a group each of two, but only one of them is asked for.
        assert!(!pool.knows_all(1) && !pool.knows_all(2));
        pool.register("tm-3", &[held(0, 10)], 2);
        assert!(pool.knows_all(1) && pool.knows_all(2) && !pool.knows_all(3));
        let mut released: Vec<u128> = pool.drain().iter().map(|stale| stale.allocation.0).collect();
        released.sort_unstable();
        assert_eq!(released, [10, 11]);
        assert_eq!(pool.total(), 0);
    }

    /// Two TaskManagers that both say they hold a group for the same attempt cannot be: whoever comes first by name is
    /// believed, the other gives it back.
    #[test]
    fn a_contradiction_is_settled_by_order() {
        let held = |a| Some(HeldSlot { allocation: AllocationId(a), group: 0, attempt: attempt(1) });
        let mut pool = SlotPool::default();
        pool.register("tm-2", &[held(20)], 1);
        let stale = pool.register("tm-1", &[held(10)], 1);
        assert_eq!(stale.iter().map(|stale| stale.allocation.0).collect::<Vec<_>>(), [20]);
    }

    #[test]
    fn too_few_slots_assign_nothing() {
        let mut pool = SlotPool::default();
        pool.register("tm-1", &[None], 2);
        assert_eq!(pool.assign(2, attempt(1), &whole(), fresh_ids()), None);
    }

    proptest! {
        /// Whatever comes and goes: every group gets exactly one slot, no slot two groups, and a group whose slot
        /// lives stays.
        #[test]
        fn assignments_are_injective_and_sticky(
            steps in proptest::collection::vec((0u8..5, any::<bool>()), 1..30), groups in 1u32..6,
        ) {
            let mut pool = SlotPool::default();
            let mut ids = fresh_ids();
            let mut known: BTreeMap<u32, Assigned> = BTreeMap::new();
            let mut alive: BTreeSet<String> = BTreeSet::new();
            let mut execution = 0;
            for (tm, up) in steps {
                let name = format!("tm-{tm}");
                if up && !alive.contains(&name) {
                    pool.register(&name, &[None, None], groups);
                    alive.insert(name);
                } else if !up {
                    pool.unregister(&name);
                    alive.remove(&name);
                }
                execution += 1;
                let before = known.clone();
                if let Some(now) = pool.assign(groups, attempt(execution), &whole(), &mut ids) {
                    prop_assert_eq!(now.len(), groups as usize);
                    let distinct: BTreeSet<_> = now.values().map(|a| a.slot.clone()).collect();
                    prop_assert_eq!(distinct.len(), groups as usize);
                    for (group, was) in &before {
                        if alive.contains(&was.slot.task_manager) && now[group].previous {
                            prop_assert_eq!(&now[group].slot, &was.slot);
                        }
                    }
                    known = now;
                }
            }
        }
    }
}

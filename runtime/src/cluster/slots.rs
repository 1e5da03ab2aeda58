//! The slots that a leader was offered, and what each is held for. Pure: registrations and losses go in, assignments come out.
//!
//! Rules:
//! * of two slots that claim the same [`SharedSlot`], the one where it was deployed later is right, the other is stale and to be
//!   released;
//! * who gets which slot is decided by the [`scheduler`](super::scheduler); a slot keeps its allocation as long as what it holds
//!   stays.
//!
//! Flink: `DeclarativeSlotPool`, `AllocatedSlots`.

use std::collections::BTreeMap;

use super::{
    rpc::HeldSlot,
    scheduler::{MissingSlots, PlacementReason, SchedulingStrategy, SlotRequest, place},
};
use crate::{
    ids::{AllocationId, AttemptId, SharedSlot},
    sabotage::{Sabotage, SabotageSet},
};

/// A slot, by TaskManager and index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotAddress {
    pub task_manager: String,
    pub index: u32,
}

/// Where the subtasks that share a slot run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    pub slot: SlotAddress,
    pub allocation: AllocationId,
    /// On their previous allocation, still alive.
    pub previous: bool,
    /// Bytes of their state in local copies there, if that is why they were put there.
    pub local_bytes: u64,
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
    /// A TaskManager offers its slots, with what each is held for. Replaces what was known of it. Returns what is held in vain:
    /// for a slot sharing group that the job does not have, or for what a later deployment put elsewhere.
    pub fn register(&mut self, task_manager: &str, slots: &[Option<HeldSlot>], wanted: &[SharedSlot]) -> Vec<Stale> {
        self.unregister(task_manager);
        for (index, held) in slots.iter().enumerate() {
            let index = u32::try_from(index).expect("fewer than 2^32 slots");
            self.slots.insert(SlotAddress { task_manager: task_manager.to_string(), index }, *held);
        }
        self.release_stale(wanted)
    }

    pub fn unregister(&mut self, task_manager: &str) {
        self.slots.retain(|slot, _| slot.task_manager != task_manager);
    }

    fn release_stale(&mut self, wanted: &[SharedSlot]) -> Vec<Stale> {
        // What was cut for another parallelism may hold state that is still to be restored.
        let is_wanted = |held: &HeldSlot| {
            wanted.iter().any(|shared| {
                shared.group == held.shared.group
                    && (shared.parallelism != held.shared.parallelism || shared.index == held.shared.index)
            })
        };
        let mut latest: BTreeMap<SharedSlot, (AttemptId, SlotAddress)> = BTreeMap::new();
        for (slot, held) in &self.slots {
            let Some(held) = held else { continue };
            let newer = latest.get(&held.shared).is_none_or(|(since, _)| held.since > *since);
            if newer && is_wanted(held) {
                latest.insert(held.shared, (held.since, slot.clone()));
            }
        }
        self.release(|slot, held| latest.get(&held.shared).is_none_or(|(_, right)| right != slot))
    }

    /// What is held for another parallelism than the job has now. It is of no use once a checkpoint at this one is complete.
    pub fn release_outgrown(&mut self, wanted: &[SharedSlot]) -> Vec<Stale> {
        self.release(|_, held| !wanted.contains(&held.shared))
    }

    fn release(&mut self, is_stale: impl Fn(&SlotAddress, &HeldSlot) -> bool) -> Vec<Stale> {
        let mut stale = Vec::new();
        for (slot, held) in &mut self.slots {
            if let Some(h) = held.filter(|h| is_stale(slot, h)) {
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

    /// Whether everything that is asked for has a living slot that remembers it.
    pub fn knows_all(&self, wanted: &[SharedSlot]) -> bool {
        wanted.iter().all(|shared| self.slots.values().flatten().any(|held| held.shared == *shared))
    }

    /// Assigns everything that is asked for, or nothing if there are too few slots. `fresh` makes new allocation ids;
    /// `sabotage` is of deliberate faults.
    ///
    /// # Errors
    /// [`MissingSlots`].
    pub fn assign(
        &mut self,
        requests: &[SlotRequest],
        strategy: SchedulingStrategy,
        attempt: AttemptId,
        sabotage: &SabotageSet,
        mut fresh: impl FnMut() -> AllocationId,
    ) -> Result<BTreeMap<SharedSlot, Assigned>, MissingSlots> {
        let forget = sabotage.is(Sabotage::ForgetAllocations);
        if forget && self.slots.len() >= requests.len() {
            // Shift everything by one: whoever comes back finds a stranger in its place.
            let held: Vec<_> = self.slots.values().copied().collect();
            let shifted = held.iter().cycle().skip(1).take(held.len());
            for (slot, held) in self.slots.values_mut().zip(shifted) {
                *slot = *held;
            }
        }
        if sabotage.is(Sabotage::StealSlots) && self.slots.len() >= requests.len() {
            self.steal(requests);
        }
        let placed = place(requests, &self.slots, strategy)?;
        let mut assigned = BTreeMap::new();
        for (shared, placement) in placed {
            let before = self.slots.get(&placement.slot).copied().flatten();
            // Who does not return has an allocation of its own; the copies of the one before are kept by the TaskManager for those who
            // restore from them.
            let kept = before.filter(|_| placement.reason == PlacementReason::Previous);
            let held =
                HeldSlot { allocation: kept.map_or_else(&mut fresh, |kept| kept.allocation), shared, since: attempt };
            let allocation = held.allocation;
            self.slots.insert(placement.slot.clone(), Some(held));
            let previous = kept.is_some() && !forget;
            let local_bytes = match placement.reason {
                PlacementReason::State(bytes) => bytes,
                _ => 0,
            };
            assigned.insert(shared, Assigned { slot: placement.slot, allocation, previous, local_bytes });
        }
        // Who moved is held for nowhere else.
        for (slot, held) in &mut self.slots {
            let elsewhere = |h: &HeldSlot| assigned.get(&h.shared).is_some_and(|now| now.slot != *slot);
            if held.as_ref().is_some_and(elsewhere) {
                *held = None;
            }
        }
        Ok(assigned)
    }

    /// A planted bug: who is without a slot takes the first one, and whoever had that one loses it.
    fn steal(&mut self, requests: &[SlotRequest]) {
        let is_held = |shared: SharedSlot| self.slots.values().flatten().any(|held| held.shared == shared);
        let homeless = requests.iter().map(|request| request.shared).find(|shared| !is_held(*shared));
        if let Some(shared) = homeless
            && let Some(Some(held)) = self.slots.values_mut().find(|held| held.is_some())
        {
            held.shared = shared;
        }
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

    fn member(index: u32, parallelism: u32) -> SharedSlot {
        SharedSlot { group: 0, index, parallelism }
    }

    fn wanted(parallelism: u32) -> Vec<SharedSlot> {
        (0..parallelism).map(|index| member(index, parallelism)).collect()
    }

    fn held(index: u32, parallelism: u32, allocation: u128, since: u32) -> Option<HeldSlot> {
        let shared = member(index, parallelism);
        Some(HeldSlot { allocation: AllocationId(allocation), shared, since: attempt(since) })
    }

    fn ids(stale: &[Stale]) -> Vec<u128> {
        stale.iter().map(|stale| stale.allocation.0).collect()
    }

    fn fresh_ids() -> impl FnMut() -> AllocationId {
        let mut next = 0;
        move || {
            next += 1;
            AllocationId(next)
        }
    }

    fn assign(
        pool: &mut SlotPool,
        parallelism: u32,
        execution: u32,
        fresh: impl FnMut() -> AllocationId,
    ) -> Result<BTreeMap<SharedSlot, Assigned>, MissingSlots> {
        let requests: Vec<_> =
            wanted(parallelism).into_iter().map(|shared| SlotRequest { shared, local: BTreeMap::new() }).collect();
        let strategy = SchedulingStrategy { preserve_allocations: true, spread_out: true };
        pool.assign(&requests, strategy, attempt(execution), &SabotageSet::default(), fresh)
    }

    #[test]
    fn what_shares_a_slot_comes_back_to_it() {
        let mut pool = SlotPool::default();
        let mut ids = fresh_ids();
        for tm in ["tm-1", "tm-2"] {
            assert!(pool.register(tm, &[None, None], &wanted(2)).is_empty());
        }
        let first = assign(&mut pool, 2, 1, &mut ids).expect("enough slots");
        assert_eq!(first[&member(0, 2)].slot.task_manager, "tm-1");
        assert_eq!(first[&member(1, 2)].slot.task_manager, "tm-2");
        assert!(first.values().all(|a| !a.previous));
        let second = assign(&mut pool, 2, 2, &mut ids).expect("enough slots");
        for shared in wanted(2) {
            assert_eq!(second[&shared].slot, first[&shared].slot);
            assert_eq!(second[&shared].allocation, first[&shared].allocation);
            assert!(second[&shared].previous);
        }
    }

    #[test]
    fn a_lost_task_manager_moves_only_its_own() {
        let mut pool = SlotPool::default();
        let mut fresh = fresh_ids();
        for tm in ["tm-1", "tm-2", "tm-3"] {
            pool.register(tm, &[None], &wanted(2));
        }
        let first = assign(&mut pool, 2, 1, &mut fresh).expect("enough slots");
        pool.unregister("tm-1");
        let second = assign(&mut pool, 2, 2, &mut fresh).expect("enough slots");
        assert_eq!(second[&member(0, 2)].slot.task_manager, "tm-3");
        assert_eq!(second[&member(1, 2)].slot, first[&member(1, 2)].slot);
        // The lost one returns with its old allocation; what it had lives elsewhere now.
        let old = held(0, 2, first[&member(0, 2)].allocation.0, 1);
        let stale = pool.register("tm-1", &[old], &wanted(2));
        assert_eq!(stale.len(), 1);
        assert_eq!(stale[0].slot.task_manager, "tm-1");
    }

    /// A later attempt than the first ran elsewhere; a new leader then deals the first slot again, because that elsewhere cannot be
    /// had. Who comes back from there does not take the slot of the running job away.
    #[test]
    fn a_slot_that_is_dealt_again_is_held_since_then() {
        let mut pool = SlotPool::default();
        pool.register("tm-1", &[held(0, 2, 10, 2)], &wanted(2));
        pool.register("tm-2", &[held(1, 2, 11, 1)], &wanted(2));
        let assigned = assign(&mut pool, 2, 3, fresh_ids()).expect("enough slots");
        assert_eq!((assigned[&member(1, 2)].allocation, assigned[&member(1, 2)].previous), (AllocationId(11), true));
        assert_eq!(ids(&pool.register("tm-3", &[held(1, 2, 12, 2)], &wanted(2))), [12]);
        assert!(pool.knows_all(&wanted(2)));
    }

    /// R225
    #[test]
    fn a_new_job_manager_relearns_allocations_from_the_task_managers() {
        let mut pool = SlotPool::default();
        pool.register("tm-2", &[held(1, 2, 11, 4), None], &wanted(2));
        assert!(!pool.knows_all(&wanted(2)));
        pool.register("tm-1", &[None, held(0, 2, 10, 4)], &wanted(2));
        assert!(pool.knows_all(&wanted(2)));
        let assigned = assign(&mut pool, 2, 5, fresh_ids()).expect("enough slots");
        assert_eq!(assigned[&member(0, 2)].allocation, AllocationId(10));
        assert_eq!(assigned[&member(1, 2)].allocation, AllocationId(11));
    }

    /// Allocations of what the job does not have are given back; of two slots that say they were given the same, the one where it
    /// came later is right, also if the other was in use for longer, or its process has only just remembered it.
    #[test]
    fn allocations_that_nobody_can_want_are_released() {
        let mut pool = SlotPool::default();
        let other_group = |allocation| {
            let shared = SharedSlot { group: 7, index: 0, parallelism: 2 };
            Some(HeldSlot { allocation: AllocationId(allocation), shared, since: attempt(9) })
        };
        let stale = pool.register("tm-1", &[held(1, 2, 11, 4), other_group(12), held(3, 2, 13, 9)], &wanted(2));
        assert_eq!(ids(&stale), [12, 13]);
        let stale = pool.register("tm-2", &[held(1, 2, 21, 3), held(0, 2, 20, 3)], &wanted(2));
        assert_eq!(ids(&stale), [21]);
        let stale = pool.register("tm-3", &[held(0, 2, 30, 5)], &wanted(2));
        assert_eq!(ids(&stale), [20]);
    }

    /// What was held at another parallelism stays until it is outgrown; whoever restores state that lies on a TaskManager gets a slot
    /// there, one that holds nothing first.
    #[test]
    fn slots_of_another_parallelism_keep_their_state_until_it_is_outgrown() {
        let mut pool = SlotPool::default();
        assert!(pool.register("tm-1", &[None], &wanted(2)).is_empty());
        let all = [held(0, 3, 30, 1), held(1, 3, 31, 1), held(2, 3, 32, 1), None];
        assert!(pool.register("tm-2", &all, &wanted(2)).is_empty());
        assert!(!pool.knows_all(&wanted(2)));
        let mut requests: Vec<_> =
            wanted(2).into_iter().map(|shared| SlotRequest { shared, local: BTreeMap::new() }).collect();
        requests[0].local = [("tm-2".to_string(), 20)].into();
        requests[1].local = [("tm-2".to_string(), 50)].into();
        let strategy = SchedulingStrategy { preserve_allocations: true, spread_out: false };
        let fresh = || AllocationId(99);
        let assigned =
            pool.assign(&requests, strategy, attempt(2), &SabotageSet::default(), fresh).expect("enough slots");
        assert_eq!((assigned[&member(1, 2)].slot.index, assigned[&member(1, 2)].local_bytes), (3, 50));
        assert_eq!((assigned[&member(0, 2)].slot.index, assigned[&member(0, 2)].local_bytes), (0, 20));
        let is_there = |a: &Assigned| a.slot.task_manager == "tm-2" && a.allocation.0 == 99 && !a.previous;
        assert!(assigned.values().all(is_there), "{assigned:?}");
        assert_eq!(ids(&pool.release_outgrown(&wanted(2))), [31, 32]);
        assert!(pool.release_outgrown(&wanted(2)).is_empty() && pool.knows_all(&wanted(2)));
    }

    /// What the pool says of itself: whose slots it has, how many, whether everybody's slot is known, and what it gives back.
    #[test]
    fn the_pool_knows_what_it_holds() {
        let mut pool = SlotPool::default();
        assert!(!pool.has("tm-1") && pool.total() == 0 && pool.drain().is_empty());
        pool.register("tm-1", &[held(1, 2, 11, 1), None], &wanted(2));
        pool.register("tm-2", &[None], &wanted(2));
        assert!(pool.has("tm-1") && pool.has("tm-2") && !pool.has("tm-3"));
        assert_eq!(pool.total(), 3);
        assert!(!pool.knows_all(&wanted(1)) && !pool.knows_all(&wanted(2)));
        pool.register("tm-3", &[held(0, 2, 10, 1)], &wanted(2));
        assert!(!pool.knows_all(&wanted(1)) && pool.knows_all(&wanted(2)) && !pool.knows_all(&wanted(3)));
        let mut released = ids(&pool.drain());
        released.sort_unstable();
        assert_eq!(released, [10, 11]);
        assert_eq!(pool.total(), 0);
    }

    /// Two TaskManagers that both say they were given the same in the same attempt cannot be: whoever comes first by name is
    /// believed, the other gives it back.
    #[test]
    fn a_contradiction_is_settled_by_order() {
        let mut pool = SlotPool::default();
        pool.register("tm-2", &[held(0, 1, 20, 1)], &wanted(1));
        let stale = pool.register("tm-1", &[held(0, 1, 10, 1)], &wanted(1));
        assert_eq!(ids(&stale), [20]);
    }

    #[test]
    fn too_few_slots_assign_nothing() {
        let mut pool = SlotPool::default();
        pool.register("tm-1", &[None], &wanted(2));
        assert_eq!(assign(&mut pool, 2, 1, fresh_ids()), Err(MissingSlots { needed: 2, offered: 1 }));
    }

    /// Without preservation every deployment has an allocation of its own. (R210)
    #[test]
    fn without_preservation_allocations_are_new() {
        let mut pool = SlotPool::default();
        pool.register("tm-1", &[held(0, 1, 10, 1)], &wanted(1));
        let requests = [SlotRequest { shared: member(0, 1), local: BTreeMap::new() }];
        let strategy = SchedulingStrategy::default();
        let assigned =
            pool.assign(&requests, strategy, attempt(2), &SabotageSet::default(), || AllocationId(77)).expect("a slot");
        let only = &assigned[&member(0, 1)];
        assert_eq!((only.allocation, only.previous), (AllocationId(77), false));
    }

    proptest! {
        /// Whatever comes and goes: everybody gets exactly one slot, no slot two, and whose slot lives stays.
        #[test]
        fn assignments_are_injective_and_sticky(
            steps in proptest::collection::vec((0u8..5, any::<bool>()), 1..30), parallelism in 1u32..6,
        ) {
            let mut pool = SlotPool::default();
            let mut ids = fresh_ids();
            let mut known: BTreeMap<SharedSlot, Assigned> = BTreeMap::new();
            let mut alive: BTreeSet<String> = BTreeSet::new();
            let mut execution = 0;
            for (tm, up) in steps {
                let name = format!("tm-{tm}");
                if up && !alive.contains(&name) {
                    pool.register(&name, &[None, None], &wanted(parallelism));
                    // A TaskManager that comes back empty has nothing of what it had.
                    known.retain(|_, was| was.slot.task_manager != name);
                    alive.insert(name);
                } else if !up {
                    pool.unregister(&name);
                    alive.remove(&name);
                }
                execution += 1;
                let before = known.clone();
                if let Ok(now) = assign(&mut pool, parallelism, execution, &mut ids) {
                    prop_assert_eq!(now.len(), parallelism as usize);
                    let distinct: BTreeSet<_> = now.values().map(|a| a.slot.clone()).collect();
                    prop_assert_eq!(distinct.len(), parallelism as usize);
                    for (shared, was) in &before {
                        let lives = alive.contains(&was.slot.task_manager);
                        prop_assert_eq!(now[shared].previous, lives);
                        prop_assert!(!lives || now[shared].slot == was.slot);
                    }
                    known = now;
                }
            }
        }
    }
}

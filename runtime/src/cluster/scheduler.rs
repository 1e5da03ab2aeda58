//! Which slot runs which tasks: pure. What asks for slots and what is offered go in, an assignment comes out.
//!
//! A request is of one [`SharedSlot`]: subtask i of every vertex of a slot sharing group. Rules, in this order:
//! * with allocations preserved, a request gets the slot that was its own, where that slot is offered. So as many as
//!   possible return, and nobody moves because somebody else had to (no cascade);
//! * with allocations preserved, who has no slot to return to (it is gone, or the parallelism has changed) goes to the TaskManager
//!   with the most bytes of what it restores in local copies, as TaskManagers have said; the largest first;
//! * with allocations not preserved, only the location counts: a slot of the same TaskManager as before, if one is free;
//! * the rest takes slots that hold nothing before slots that hold something, packed on few TaskManagers or spread over all.
//!
//! A slot that another request may still want is never taken: whoever wants one and can have it has it before anybody who must
//! look for a new one is served.
//!
//! Flink: `PreviousAllocationSlotSelectionStrategy`, `LocationPreferenceSlotSelectionStrategy`,
//! `LeastUtilizationSlotMatchingStrategy`, `StateLocalitySlotAssignment`.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{rpc::HeldSlot, slots::SlotAddress};
use crate::{
    checkpoint::types::RestoreOrder,
    graph::ExecutionGraph,
    ids::{SharedSlot, SubtaskId},
    recovery::local_inventory::LocalInventory,
};

/// One slot is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRequest {
    pub shared: SharedSlot,
    /// How many bytes of what it restores lie in the local copies of which TaskManager: so many need not be read from primary there.
    pub local: BTreeMap<String, u64>,
}

/// How slots are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulingStrategy {
    /// Tasks go back to the slots that were theirs: on with local recovery.
    pub preserve_allocations: bool,
    /// `cluster.evenly-spread-out-slots`; else TaskManagers are filled one after the other.
    pub spread_out: bool,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub slot: SlotAddress,
    pub reason: PlacementReason,
}

/// Why a request got its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlacementReason {
    /// It was its own.
    Previous,
    /// So many bytes of its state lie in local copies there.
    State(u64),
    /// It is on the TaskManager on which it was before.
    Location,
    /// It was free.
    Free,
}

/// There are fewer slots than requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{needed} slots are needed, {offered} are offered, {} are missing", .needed.saturating_sub(*.offered))]
pub struct MissingSlots {
    pub needed: usize,
    pub offered: usize,
}

/// Gives each request a slot of its own.
///
/// # Errors
/// [`MissingSlots`] if there are too few; then nobody gets one.
pub fn place(
    requests: &[SlotRequest],
    slots: &BTreeMap<SlotAddress, Option<HeldSlot>>,
    strategy: SchedulingStrategy,
) -> Result<BTreeMap<SharedSlot, Placement>, MissingSlots> {
    if slots.len() < requests.len() {
        return Err(MissingSlots { needed: requests.len(), offered: slots.len() });
    }
    let mut placing = Placing { slots, free: slots.keys().collect(), placed: BTreeMap::new() };
    if strategy.preserve_allocations {
        placing.return_to_previous(requests);
        placing.go_where_state_is(requests);
    } else {
        placing.return_to_task_manager(requests);
    }
    for request in requests {
        if !placing.placed.contains_key(&request.shared)
            && let Some(slot) = placing.next_free(strategy.spread_out)
        {
            placing.take(request.shared, slot, PlacementReason::Free);
        }
    }
    Ok(placing.placed)
}

struct Placing<'a> {
    slots: &'a BTreeMap<SlotAddress, Option<HeldSlot>>,
    free: BTreeSet<&'a SlotAddress>,
    placed: BTreeMap<SharedSlot, Placement>,
}

impl<'a> Placing<'a> {
    fn take(&mut self, shared: SharedSlot, slot: &'a SlotAddress, reason: PlacementReason) {
        self.free.remove(slot);
        self.placed.insert(shared, Placement { slot: slot.clone(), reason });
    }

    /// Which slot was whose; of two that say so, the one where it came later.
    fn previous(&self) -> BTreeMap<SharedSlot, &'a SlotAddress> {
        let mut latest: BTreeMap<SharedSlot, (&HeldSlot, &'a SlotAddress)> = BTreeMap::new();
        for (slot, held) in self.slots {
            let Some(held) = held else { continue };
            if latest.get(&held.shared).is_none_or(|(other, _)| held.since > other.since) {
                latest.insert(held.shared, (held, slot));
            }
        }
        latest.into_iter().map(|(shared, (_, slot))| (shared, slot)).collect()
    }

    fn return_to_previous(&mut self, requests: &[SlotRequest]) {
        let previous = self.previous();
        for request in requests {
            if let Some(slot) = previous.get(&request.shared) {
                self.take(request.shared, slot, PlacementReason::Previous);
            }
        }
    }

    fn go_where_state_is(&mut self, requests: &[SlotRequest]) {
        let mut wishes: Vec<(Reverse<u64>, SharedSlot, &str)> = Vec::new();
        for request in requests.iter().filter(|request| !self.placed.contains_key(&request.shared)) {
            let there = request.local.iter().filter(|(_, bytes)| **bytes > 0);
            wishes.extend(there.map(|(task_manager, bytes)| (Reverse(*bytes), request.shared, task_manager.as_str())));
        }
        wishes.sort_unstable();
        for (Reverse(bytes), shared, task_manager) in wishes {
            if !self.placed.contains_key(&shared)
                && let Some(slot) = self.next_free_on(task_manager)
            {
                self.take(shared, slot, PlacementReason::State(bytes));
            }
        }
    }

    /// A TaskManager's copies are at hand in all of its slots: one that holds nothing, if there is one.
    fn next_free_on(&self, task_manager: &str) -> Option<&'a SlotAddress> {
        let there = self.free.iter().copied().filter(|slot| slot.task_manager == task_manager);
        there.min_by_key(|slot| (self.is_held(slot), *slot))
    }

    fn is_held(&self, slot: &SlotAddress) -> bool {
        self.slots.get(slot).is_some_and(Option::is_some)
    }

    fn return_to_task_manager(&mut self, requests: &[SlotRequest]) {
        let previous = self.previous();
        for request in requests {
            let Some(before) = previous.get(&request.shared) else { continue };
            let there = self.free.iter().find(|slot| slot.task_manager == before.task_manager).copied();
            if let Some(slot) = there {
                self.take(request.shared, slot, PlacementReason::Location);
            }
        }
    }

    /// The free slot to take next: one that holds nothing, if there is one; on the TaskManager with the greatest (or, to spread out,
    /// the least) part of its slots in use; the first of those by name.
    fn next_free(&self, spread_out: bool) -> Option<&'a SlotAddress> {
        let mut total: BTreeMap<&str, u64> = BTreeMap::new();
        for slot in self.slots.keys() {
            *total.entry(&slot.task_manager).or_default() += 1;
        }
        let mut used: BTreeMap<&str, u64> = total.keys().map(|name| (*name, 0)).collect();
        for placement in self.placed.values() {
            *used.entry(&placement.slot.task_manager).or_default() += 1;
        }
        // Utilization in millionths, so that it can be ordered.
        let utilization = |slot: &SlotAddress| {
            let name = slot.task_manager.as_str();
            let (used, total) = (used.get(name).copied().unwrap_or(0), total.get(name).copied().unwrap_or(1));
            used * 1_000_000 / total.max(1)
        };
        self.free.iter().copied().min_by_key(|slot| {
            let used = utilization(slot);
            (self.is_held(slot), if spread_out { used } else { 1_000_000 - used }, *slot)
        })
    }
}

/// The slots that a job asks for, and how much of what goes into each lies where: `orders` is what the subtasks restore, `local` what
/// each TaskManager has.
pub fn requests(
    graph: &ExecutionGraph,
    orders: &BTreeMap<SubtaskId, RestoreOrder>,
    local: &BTreeMap<&str, &LocalInventory>,
) -> Vec<SlotRequest> {
    let mut requests: BTreeMap<SharedSlot, SlotRequest> = graph
        .shared_slots()
        .into_iter()
        .map(|shared| (shared, SlotRequest { shared, local: BTreeMap::new() }))
        .collect();
    for (subtask, order) in orders {
        let Some(request) = requests.get_mut(&graph.shared_slot(*subtask)) else { continue };
        for (task_manager, inventory) in local {
            let bytes = inventory.bytes_for(order);
            if bytes > 0 {
                *request.local.entry((*task_manager).to_string()).or_default() += bytes;
            }
        }
    }
    requests.into_values().collect()
}

#[cfg(test)]
mod tests;

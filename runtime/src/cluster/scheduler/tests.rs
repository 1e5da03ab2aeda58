use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    checkpoint::types::{PartKind, PartLocation, RestorePart, StatePart},
    graph::{Edge, Partitioning, Vertex},
    ids::{
        AllocationId, AttemptId, CheckpointId, EdgeId, Execution, KeyGroup, KeyGroupRange, LeaderEpoch, OperatorUid,
        VertexId,
    },
    platform::ObjectName,
    recovery::local_inventory::{HeldCopy, HeldState},
};

const PRESERVING: SchedulingStrategy = SchedulingStrategy { preserve_allocations: true, spread_out: false };
const BY_LOCATION: SchedulingStrategy = SchedulingStrategy { preserve_allocations: false, spread_out: false };

fn attempt(n: u32) -> AttemptId {
    AttemptId { leader: LeaderEpoch(1), execution: Execution(n) }
}

fn member(index: u32, parallelism: u32) -> SharedSlot {
    SharedSlot { group: 0, index, parallelism }
}

fn asked(parallelism: u32) -> Vec<SlotRequest> {
    (0..parallelism).map(|index| SlotRequest { shared: member(index, parallelism), local: BTreeMap::new() }).collect()
}

fn held(shared: SharedSlot, since: u32) -> Option<HeldSlot> {
    let allocation = AllocationId(u128::from(since) << 64 | u128::from(shared.index));
    Some(HeldSlot { allocation, shared, since: attempt(since) })
}

fn slot(task_manager: u32, index: u32) -> SlotAddress {
    SlotAddress { task_manager: format!("tm-{task_manager:02}"), index }
}

type Slots = BTreeMap<SlotAddress, Option<HeldSlot>>;

fn slots(of: &[(u32, &[Option<HeldSlot>])]) -> Slots {
    let mut slots = Slots::new();
    for (task_manager, held) in of {
        for (index, held) in held.iter().enumerate() {
            slots.insert(slot(*task_manager, index as u32), *held);
        }
    }
    slots
}

/// Where everybody is, by TaskManager.
fn task_managers(placed: &BTreeMap<SharedSlot, Placement>) -> Vec<String> {
    placed.values().map(|placement| placement.slot.task_manager.clone()).collect()
}

/// One TaskManager of ten is gone, and there are spare slots: exactly its tasks move, wherever the spare ones come in the order.
/// (R224, R226)
#[test]
fn one_of_ten_is_lost_and_only_its_tasks_move() {
    for lost in 1..=10 {
        for spare in [0, 11] {
            let mut slots = Slots::new();
            for task_manager in (1..=10).filter(|number| *number != lost) {
                for index in 0..2 {
                    slots.insert(slot(task_manager, index), held(member(2 * (task_manager - 1) + index, 20), 1));
                }
            }
            slots.insert(slot(spare, 0), None);
            slots.insert(slot(spare, 1), None);
            let placed = place(&asked(20), &slots, PRESERVING).expect("20 slots");
            for (shared, placement) in &placed {
                let was = shared.index / 2 + 1;
                if was == lost {
                    assert_eq!(placement.slot.task_manager, format!("tm-{spare:02}"), "{shared} goes to a spare slot");
                } else {
                    assert_eq!(placement.slot, slot(was, shared.index % 2), "{shared} stays");
                    assert_eq!(placement.reason, PlacementReason::Previous);
                }
            }
        }
    }
}

/// What cannot be served says how much is missing. (R223)
#[test]
fn too_few_slots_say_how_many_are_missing() {
    let slots = slots(&[(1, &[None]), (2, &[None])]);
    let missing = place(&asked(5), &slots, PRESERVING).expect_err("two slots");
    assert_eq!(missing, MissingSlots { needed: 5, offered: 2 });
    assert_eq!(missing.to_string(), "5 slots are needed, 2 are offered, 3 are missing");
}

/// By default TaskManagers are filled one after the other; `cluster.evenly-spread-out-slots` takes the least used.
#[test]
fn slots_are_packed_or_spread_out() {
    let slots = slots(&[(1, &[None, None]), (2, &[None, None, None, None]), (3, &[None, None])]);
    let packed = place(&asked(4), &slots, PRESERVING).expect("eight slots");
    assert_eq!(task_managers(&packed), ["tm-01", "tm-01", "tm-02", "tm-02"]);
    let spread = SchedulingStrategy { spread_out: true, ..PRESERVING };
    let spread = place(&asked(4), &slots, spread).expect("eight slots");
    // A half of a small one is more than a quarter of a large one.
    assert_eq!(task_managers(&spread), ["tm-01", "tm-02", "tm-03", "tm-02"]);
}

/// Without local recovery the slot is nobody's: a task goes back to its TaskManager, to any slot of it. (R210)
#[test]
fn without_preservation_only_the_location_counts() {
    let slots = slots(&[(1, &[None, held(member(1, 2), 1)]), (2, &[held(member(0, 2), 1), None])]);
    let placed = place(&asked(2), &slots, BY_LOCATION).expect("four slots");
    assert_eq!(placed[&member(0, 2)].slot, slot(2, 0));
    assert_eq!(placed[&member(1, 2)].slot, slot(1, 0), "any slot there is as good");
    assert!(placed.values().all(|placement| placement.reason == PlacementReason::Location));
    let preserved = place(&asked(2), &slots, PRESERVING).expect("four slots");
    assert_eq!(preserved[&member(1, 2)].slot, slot(1, 1));
}

/// Of two slots that are said to hold the same, the one where it was deployed last is its own; if nobody can tell, the first by name.
#[test]
fn the_slot_where_it_came_last_is_its_own() {
    for (first, second, own) in [(1, 2, 2), (2, 1, 1), (2, 2, 1)] {
        let slots = slots(&[(1, &[held(member(0, 1), first)]), (2, &[held(member(0, 1), second)])]);
        for strategy in [PRESERVING, BY_LOCATION] {
            let placed = place(&asked(1), &slots, strategy).expect("two slots");
            assert_eq!(placed[&member(0, 1)].slot, slot(own, 0), "{strategy:?}");
        }
    }
}

/// So many bytes on these TaskManagers.
fn lies_on(shares: &[(u32, u64)]) -> BTreeMap<String, u64> {
    shares.iter().map(|(task_manager, bytes)| (slot(*task_manager, 0).task_manager, *bytes)).collect()
}

/// From three to two: each of the two goes where most of its state lies, not where a slot has its number, and whoever has more to
/// lose goes first. (FLINK-37701)
#[test]
fn after_rescaling_tasks_go_where_their_state_is() {
    let slots = slots(&[
        (1, &[held(member(0, 3), 1)]),
        (2, &[None]),
        (3, &[held(member(1, 3), 1)]),
        (4, &[held(member(2, 3), 1)]),
    ]);
    let mut requests = asked(2);
    requests[0].local = lies_on(&[(1, 100), (3, 900)]);
    requests[1].local = lies_on(&[(3, 1_000), (4, 10)]);
    let placed = place(&requests, &slots, PRESERVING).expect("four slots");
    assert_eq!(placed[&member(1, 2)], Placement { slot: slot(3, 0), reason: PlacementReason::State(1_000) });
    assert_eq!(placed[&member(0, 2)], Placement { slot: slot(1, 0), reason: PlacementReason::State(100) });
}

/// Nobody leaves his slot for state that lies elsewhere. Who has none goes where copies of his state lie, though no slot there was
/// held for him, and to a slot there that holds nothing; where all slots are taken, the next best.
#[test]
fn who_has_no_slot_goes_where_copies_of_his_state_are() {
    let slots = slots(&[
        (1, &[None, None]),
        (2, &[held(member(0, 3), 1), held(member(7, 9), 1), None]),
        (3, &[held(member(5, 9), 1)]),
    ]);
    let mut requests = asked(3);
    requests[0].local = lies_on(&[(3, 900)]);
    requests[1].local = lies_on(&[(2, 10)]);
    requests[2].local = lies_on(&[(3, 20), (9, 1_000)]);
    let placed = place(&requests, &slots, PRESERVING).expect("six slots");
    assert_eq!(placed[&member(0, 3)], Placement { slot: slot(2, 0), reason: PlacementReason::Previous });
    assert_eq!(placed[&member(1, 3)], Placement { slot: slot(2, 2), reason: PlacementReason::State(10) });
    assert_eq!(placed[&member(2, 3)], Placement { slot: slot(3, 0), reason: PlacementReason::State(20) });
    // Without local recovery there is nothing to find anywhere.
    let placed = place(&requests, &slots, BY_LOCATION).expect("six slots");
    assert_eq!(task_managers(&placed), ["tm-02", "tm-02", "tm-01"], "back to its TaskManager, or packed");
}

fn vertex(id: u32, name: &str, parallelism: u32, group: u32) -> Vertex {
    Vertex {
        id: VertexId(id),
        name: name.to_string(),
        parallelism,
        max_parallelism: 8,
        operators: vec![OperatorUid(name.to_string())],
        keyed: vec![OperatorUid(name.to_string())],
        splits: None,
        sinks: Vec::new(),
        slot_sharing_group: group,
    }
}

/// Slot sharing groups ask for slots of their own, as many as their most parallel vertex has subtasks; all vertices of one group
/// share them.
#[test]
fn each_slot_sharing_group_has_its_slots() {
    let edge = Edge { id: EdgeId(0), from: VertexId(0), to: VertexId(1), partitioning: Partitioning::Hash };
    let vertices = vec![vertex(0, "read", 2, 0), vertex(1, "count", 3, 0), vertex(2, "heavy", 2, 1)];
    let graph = ExecutionGraph { vertices, edges: vec![edge] };
    assert_eq!(graph.slots_needed(), 5);
    let of = |group, index, parallelism| SharedSlot { group, index, parallelism };
    let asked: Vec<_> =
        requests(&graph, &BTreeMap::new(), &BTreeMap::new()).into_iter().map(|request| request.shared).collect();
    assert_eq!(asked, [of(0, 0, 3), of(0, 1, 3), of(0, 2, 3), of(1, 0, 2), of(1, 1, 2)]);
    let shared = |vertex, index| graph.shared_slot(SubtaskId { vertex: VertexId(vertex), index });
    assert_eq!(shared(0, 1), shared(1, 1));
    assert_eq!(shared(2, 1), of(1, 1, 2));
}

/// A request knows how much of what it restores lies where: the parts whose key groups overlap its own, and of these what a
/// TaskManager has copies of. Parts are read whole, so they count whole.
#[test]
fn state_is_counted_by_what_is_restored_and_where_copies_are() {
    let graph = ExecutionGraph { vertices: vec![vertex(0, "count", 2, 0)], edges: Vec::new() };
    let range = |first: u16, last: u16| KeyGroupRange { first: KeyGroup(first), last: KeyGroup(last) };
    let part = |from: u32, first: u16, last: u16, length: u64| RestorePart {
        from,
        part: StatePart {
            operator: OperatorUid("count".into()),
            kind: PartKind::Keyed,
            key_groups: range(first, last),
            ..part_template(length)
        },
    };
    let order = |parts| RestoreOrder {
        checkpoint: CheckpointId(4),
        parts,
        inline: Vec::new(),
        parallelism: [(OperatorUid("count".into()), 3)].into(),
    };
    // Two subtasks of 0..3 and 4..7; before there were three of 0..2, 3..5 and 6..7.
    let orders = BTreeMap::from([
        (SubtaskId { vertex: VertexId(0), index: 0 }, order(vec![part(0, 0, 2, 300), part(1, 3, 5, 90)])),
        (SubtaskId { vertex: VertexId(0), index: 1 }, order(vec![part(1, 3, 5, 90), part(2, 6, 7, 20)])),
    ]);
    let copy = |checkpoint: u64, index: u32, first: u16, last: u16, bytes: u64| HeldCopy {
        checkpoint: CheckpointId(checkpoint),
        subtask: (0, index),
        allocation: AllocationId(u128::from(index)),
        state: vec![HeldState { operator: OperatorUid("count".into()), key_groups: range(first, last), bytes }],
    };
    let two = LocalInventory { copies: vec![copy(4, 0, 0, 2, 300), copy(4, 1, 3, 5, 90)] };
    let partly = LocalInventory { copies: vec![copy(4, 2, 6, 7, 5), copy(3, 1, 3, 5, 90)] };
    let nothing = LocalInventory::default();
    let local = BTreeMap::from([("tm-01", &two), ("tm-02", &partly), ("tm-03", &nothing)]);
    let requests = requests(&graph, &orders, &local);
    assert_eq!(requests[0].local, lies_on(&[(1, 390)]));
    assert_eq!(requests[1].local, lies_on(&[(1, 90), (2, 5)]));
}

fn part_template(length: u64) -> StatePart {
    StatePart {
        operator: OperatorUid(String::new()),
        name: "part".into(),
        kind: PartKind::Keyed,
        key_groups: KeyGroupRange { first: KeyGroup(0), last: KeyGroup(0) },
        location: PartLocation::Object(ObjectName::new("chk-4/part").expect("a name")),
        length,
        crc32c: 0,
        written_by: CheckpointId(1),
        backend: None,
    }
}

/// The largest number of requests that can have a slot that is held for them: augmenting paths, written from the textbook, in
/// ignorance of how slots are placed.
fn most_that_can_return(requests: &[SlotRequest], slots: &Slots) -> usize {
    fn augment(request: usize, edges: &[Vec<usize>], seen: &mut Vec<bool>, owner: &mut Vec<Option<usize>>) -> bool {
        for slot in &edges[request] {
            if !std::mem::replace(&mut seen[*slot], true)
                && owner[*slot].is_none_or(|other| augment(other, edges, seen, owner))
            {
                owner[*slot] = Some(request);
                return true;
            }
        }
        false
    }
    let held: Vec<_> = slots.values().collect();
    let wants = |request: &SlotRequest| {
        let is_its = |position: &usize| held[*position].is_some_and(|held| held.shared == request.shared);
        (0..held.len()).filter(is_its).collect::<Vec<_>>()
    };
    let edges: Vec<_> = requests.iter().map(wants).collect();
    let mut owner = vec![None; held.len()];
    (0..requests.len()).filter(|request| augment(*request, &edges, &mut vec![false; held.len()], &mut owner)).count()
}

/// The most bytes of state that any assignment can find in place: all of them are tried.
fn most_state(requests: &[SlotRequest], slots: &[&SlotAddress]) -> u64 {
    let Some((request, rest)) = requests.split_first() else { return 0 };
    let mut best = 0;
    for position in 0..slots.len() {
        let mut others = slots.to_vec();
        let slot = others.remove(position);
        best = best.max(bytes_on(request, slot) + most_state(rest, &others));
    }
    best
}

fn bytes_on(request: &SlotRequest, slot: &SlotAddress) -> u64 {
    request.local.get(&slot.task_manager).copied().unwrap_or(0)
}

/// What each request has on each of seven TaskManagers; mostly nothing.
fn any_state() -> impl Strategy<Value = Vec<Vec<u64>>> {
    let any_bytes = prop_oneof![3 => Just(0), 1 => 1u64..1_000];
    proptest::collection::vec(proptest::collection::vec(any_bytes, 7), 9)
}

fn with_state(mut requests: Vec<SlotRequest>, state: &[Vec<u64>]) -> Vec<SlotRequest> {
    for (request, shares) in requests.iter_mut().zip(state) {
        let shares: Vec<_> = shares.iter().enumerate().map(|(at, bytes)| (at as u32 + 1, *bytes)).collect();
        request.local = lies_on(&shares);
    }
    requests
}

fn any_slots(parallelism: u32) -> impl Strategy<Value = Slots> {
    // Some hold what is asked for, some what another parallelism had, some nothing; several may say the same.
    let any_held = (0u32..10, 0..parallelism, 1u32..6).prop_map(move |(kind, index, since)| match kind {
        0..=5 => held(member(index, parallelism), since),
        6 => held(member(index, parallelism + 1), since),
        _ => None,
    });
    proptest::collection::vec(proptest::collection::vec(any_held, 1..4), 1..8).prop_map(|task_managers| {
        let of = task_managers.iter().enumerate().map(|(number, held)| (number as u32 + 1, held.as_slice()));
        slots(&of.collect::<Vec<_>>())
    })
}

proptest! {
    /// Whatever slots are there, and whoever says that they held what: everybody gets one slot, no slot two; as many return
    /// as can, so that exactly those move who must; and nobody sits where another could have returned to; wherever copies of
    /// their state are. (R222, R224, R226)
    #[test]
    fn only_unavoidable_moves(
        (parallelism, slots) in (1u32..9).prop_flat_map(|parallelism| (Just(parallelism), any_slots(parallelism))),
        state in any_state(),
        spread_out: bool,
    ) {
        let requests = with_state(asked(parallelism), &state);
        let strategy = SchedulingStrategy { spread_out, ..PRESERVING };
        let Ok(placed) = place(&requests, &slots, strategy) else {
            prop_assert!(slots.len() < requests.len());
            return Ok(());
        };
        prop_assert_eq!(placed.len(), requests.len());
        let distinct: BTreeSet<_> = placed.values().map(|placement| &placement.slot).collect();
        prop_assert_eq!(distinct.len(), requests.len());
        let is_own = |(shared, placement): &(&SharedSlot, &Placement)| {
            slots[&placement.slot].is_some_and(|held| held.shared == **shared)
        };
        let returned = placed.iter().filter(is_own).count();
        prop_assert_eq!(returned, most_that_can_return(&requests, &slots));
        for (shared, placement) in &placed {
            prop_assert_eq!(placement.reason == PlacementReason::Previous, is_own(&(shared, placement)));
            let Some(owner) = slots[&placement.slot].map(|held| held.shared).filter(|owner| owner != shared) else {
                continue;
            };
            let displaced = placed.get(&owner).is_some_and(|its| its.reason != PlacementReason::Previous);
            prop_assert!(!displaced, "{shared} took the slot of {owner}, which had to move");
        }
    }

    /// Of those who have no slot to return to, at least half of the state that could be found in place is found there, which is
    /// what taking the largest share first guarantees; and each who is said to be there for his state has so much there.
    #[test]
    fn state_is_found_in_place(parallelism in 1u32..5, sizes in proptest::collection::vec(1u32..3, 2..4), state in any_state()) {
        let mut slots = Slots::new();
        for (task_manager, size) in sizes.iter().enumerate() {
            let of_another = |index| held(member(task_manager as u32, 9), 1).filter(|_| index == 0);
            slots.extend((0..*size).map(|index| (slot(task_manager as u32 + 1, index), of_another(index))));
        }
        let requests = with_state(asked(parallelism), &state);
        let Ok(placed) = place(&requests, &slots, PRESERVING) else { return Ok(()) };
        let found: u64 = requests.iter().map(|request| bytes_on(request, &placed[&request.shared].slot)).sum();
        let best = most_state(&requests, &slots.keys().collect::<Vec<_>>());
        prop_assert!(2 * found >= best, "found {} of {}", found, best);
        for request in &requests {
            if let Placement { slot, reason: PlacementReason::State(bytes) } = &placed[&request.shared] {
                prop_assert_eq!(*bytes, bytes_on(request, slot));
                prop_assert!(*bytes > 0);
            }
        }
    }

    /// By location: who was on a TaskManager that is still there is on it again, while it has slots for all who were.
    #[test]
    fn nobody_changes_machines_without_need(lost in 0u32..5, parallelism in 1u32..9, spare in 0u32..3) {
        let mut slots = Slots::new();
        for index in 0..parallelism {
            slots.insert(slot(index % 4, index / 4), held(member(index, parallelism), 1));
        }
        slots.retain(|slot, _| slot.task_manager != format!("tm-{lost:02}"));
        slots.extend((0..spare).map(|index| (slot(90, index), None)));
        let Ok(placed) = place(&asked(parallelism), &slots, BY_LOCATION) else { return Ok(()) };
        for index in (0..parallelism).filter(|index| index % 4 != lost) {
            let there = &placed[&member(index, parallelism)].slot.task_manager;
            prop_assert_eq!(there, &format!("tm-{:02}", index % 4));
        }
    }
}

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    checkpoint::types::{PartKind, PartLocation},
    graph::{Edge, Partitioning},
    ids::{AttemptId, EdgeId, JobId, KeyGroup, SplitId, VertexId},
    platform::ObjectName,
    state::split_range,
};

fn uid(name: &str) -> OperatorUid {
    OperatorUid(name.to_string())
}

/// A source `numbers` and, behind an exchange, a keyed operator `fold`.
fn graph(source: u32, keyed: u32, max_parallelism: u16) -> ExecutionGraph {
    let vertex = |id: u32, name: &str, parallelism: u32, is_keyed: bool| Vertex {
        id: VertexId(id),
        name: name.to_string(),
        parallelism,
        max_parallelism,
        operators: vec![uid(name)],
        keyed: if is_keyed { vec![uid(name)] } else { Vec::new() },
        splits: (!is_keyed).then(|| (0..4).map(|i| SplitId(format!("split-{i}"))).collect()),
        slot_sharing_group: 0,
        sinks: Vec::new(),
    };
    ExecutionGraph {
        vertices: vec![vertex(0, "numbers", source, false), vertex(1, "fold", keyed, true)],
        edges: vec![Edge { id: EdgeId(0), from: VertexId(0), to: VertexId(1), partitioning: Partitioning::Hash }],
    }
}

/// What the subtasks of `graph` wrote: a byte of position each, and keyed state in parts.
fn checkpoint(graph: &ExecutionGraph, parts: u32) -> CheckpointMetadata {
    let mut subtasks = BTreeMap::new();
    for subtask in graph.subtasks() {
        let vertex = graph.vertex(subtask.vertex);
        let mut snapshot = SubtaskSnapshot::default();
        for operator in &vertex.keyed {
            let own = key_group_range(subtask.index, vertex.parallelism, vertex.max_parallelism);
            for key_groups in split_range(own, parts) {
                let name = format!("{operator}-{key_groups}");
                snapshot.parts.push(StatePart {
                    operator: operator.clone(),
                    key_groups,
                    kind: PartKind::Keyed,
                    location: PartLocation::Object(ObjectName::new(name.clone()).unwrap()),
                    name,
                    length: 1,
                    crc32c: 0,
                    written_by: CheckpointId(3),
                    backend: None,
                });
            }
        }
        if vertex.keyed.is_empty() {
            snapshot.inline.insert(vertex.operators[0].clone(), vec![u8::try_from(subtask.index).unwrap()]);
            snapshot.inline.insert(uid("numbers/rebalance/x"), vec![7]);
        }
        subtasks.insert(subtask.into(), snapshot);
    }
    CheckpointMetadata {
        job: JobId(1),
        job_name: "job".to_string(),
        checkpoint: CheckpointId(3),
        attempt: AttemptId::default(),
        written_at: Default::default(),
        vertices: VertexShape::all(graph),
        subtasks,
    }
}

/// At the parallelism it had, a subtask gets back what it wrote, to the part, and nothing else.
#[test]
fn at_the_same_parallelism_everybody_gets_back_his_own() {
    let graph = graph(2, 3, 12);
    let metadata = checkpoint(&graph, 2);
    for (subtask, order) in assign(&metadata, &graph).unwrap() {
        let wrote = &metadata.subtasks[&subtask.into()];
        assert_eq!(order.checkpoint, CheckpointId(3));
        assert!(order.parts.iter().all(|part| part.from == subtask.index));
        assert_eq!(order.parts.iter().map(|p| &p.part).collect::<Vec<_>>(), wrote.parts.iter().collect::<Vec<_>>());
        let inline: BTreeMap<_, _> = order.inline.into_iter().map(|i| (i.operator, i.bytes)).collect();
        assert_eq!(inline, wrote.inline);
    }
}

proptest! {
    /// At any other parallelism each key group of each subtask is in exactly one part that it is given, no part is given that
    /// holds none of them, and every source subtask hears of all positions. (R175, R180)
    #[test]
    fn every_key_group_finds_its_new_owner(before in 1u32..9, after in 1u32..9, extra in 0u16..20, parts in 1u32..5) {
        let max_parallelism = u16::try_from(before.max(after)).unwrap() + extra;
        let then = graph(before, before, max_parallelism);
        let now = graph(after, after, max_parallelism);
        let orders = assign(&checkpoint(&then, parts), &now).unwrap();
        prop_assert_eq!(orders.len(), 2 * after as usize);
        for (subtask, order) in orders {
            if subtask.vertex == VertexId(0) {
                prop_assert!(order.parts.is_empty());
                let heard: BTreeSet<u32> =
                    order.inline.iter().filter(|i| i.operator == uid("numbers")).map(|i| i.from).collect();
                let own = BTreeSet::from([subtask.index]);
                prop_assert_eq!(heard, if before == after { own } else { (0..before).collect() });
                // Whose turn it is in a round robin means nothing among another number of subtasks.
                prop_assert_eq!(order.inline.iter().any(|i| i.operator == uid("numbers/rebalance/x")), before == after);
                continue;
            }
            prop_assert_eq!(order.parallelism[&uid("fold")], before);
            let own = key_group_range(subtask.index, after, max_parallelism);
            let mut held: Vec<KeyGroup> = Vec::new();
            for part in &order.parts {
                let of_own: Vec<_> = part.part.key_groups.iter().filter(|group| own.contains(*group)).collect();
                prop_assert!(!of_own.is_empty());
                held.extend(of_own);
            }
            held.sort_unstable();
            prop_assert_eq!(held, own.iter().collect::<Vec<_>>());
        }
    }
}

/// R29: state follows the uid, wherever in the graph its operator is now.
#[test]
fn an_operator_keeps_its_state_when_its_vertex_moves() {
    let metadata = checkpoint(&graph(2, 2, 8), 1);
    // A new source comes first: vertex 1 is vertex 2 now.
    let mut now = graph(2, 2, 8);
    now.vertices.insert(0, Vertex { operators: vec![uid("other")], name: "other".into(), ..now.vertices[0].clone() });
    for (position, vertex) in now.vertices.iter_mut().enumerate() {
        vertex.id = VertexId(u32::try_from(position).unwrap());
    }
    let orders = assign(&metadata, &now).unwrap();
    let of = |vertex, index| &orders[&SubtaskId { vertex: VertexId(vertex), index }];
    assert!(of(0, 1).parts.is_empty() && of(0, 1).inline.is_empty(), "a new operator starts with nothing");
    assert_eq!(of(1, 1).inline[0].bytes, [1]);
    assert_eq!(of(2, 1).parts[0].part.key_groups, key_group_range(1, 2, 8));
}

/// R173: the max parallelism is in the checkpoint, and cannot change. Nothing is left behind without a word.
#[test]
fn what_does_not_fit_is_named() {
    let metadata = checkpoint(&graph(2, 2, 8), 1);
    insta::assert_snapshot!(assign(&metadata, &graph(2, 2, 16)).unwrap_err(), @"operator fold has max parallelism 16 in the job and 8 in checkpoint 3; the number of key groups cannot change: set the job's max parallelism to 8");
    let mut without = graph(2, 2, 8);
    without.vertices[1].operators = vec![uid("sum")];
    without.vertices[1].keyed = vec![uid("sum")];
    insta::assert_snapshot!(assign(&metadata, &without).unwrap_err(), @"checkpoint 3 has state of operator fold (id a5e7f1061e2e816ac526188eca6117ee), which the job does not have: give the operator its uid back, or leave its state behind, by --allowNonRestoredState (-n) when the job is started from it");
    let mut strange = metadata.clone();
    strange.vertices.pop();
    insta::assert_snapshot!(assign(&strange, &graph(2, 2, 8)).unwrap_err(), @"the metadata of checkpoint 3 names subtask 0 of vertex 1, which it does not describe");
    // State of an operator that wrote none is not missed.
    let mut empty = metadata;
    for snapshot in empty.subtasks.values_mut() {
        snapshot.parts.clear();
    }
    assert!(assign(&empty, &without).is_ok());
}

/// Operator state of the source `numbers`, by the subtask that wrote it.
fn with_operator_state(metadata: &mut CheckpointMetadata, union: bool) {
    for ((vertex, index), snapshot) in &mut metadata.subtasks {
        if *vertex == 0 {
            let name = format!("numbers-{index}");
            snapshot.parts.push(StatePart {
                operator: uid("numbers"),
                key_groups: key_group_range(0, 1, 8),
                kind: PartKind::Operator { union },
                location: PartLocation::Object(ObjectName::new(name.clone()).unwrap()),
                name,
                length: 1,
                crc32c: 0,
                written_by: CheckpointId(3),
                backend: None,
            });
        }
    }
}

/// Union state goes to everybody, also where nothing has changed; list state goes to everybody where the parallelism has, and
/// each takes its share, and back to its writer where it has not.
#[test]
fn operator_state_goes_to_whom_it_concerns() {
    for (union, after, to_all) in [(true, 2, true), (true, 3, true), (false, 2, false), (false, 3, true)] {
        let mut metadata = checkpoint(&graph(2, 2, 8), 1);
        with_operator_state(&mut metadata, union);
        for (subtask, order) in assign(&metadata, &graph(after, 2, 8)).unwrap() {
            let from: Vec<_> =
                order.parts.iter().filter(|p| p.part.operator == uid("numbers")).map(|p| p.from).collect();
            match subtask.vertex {
                VertexId(0) if to_all => assert_eq!(from, [0, 1]),
                VertexId(0) => assert_eq!(from, [subtask.index]),
                _ => assert!(from.is_empty(), "{subtask} has no such operator"),
            }
        }
    }
}

/// The number of key groups binds only operators whose state is cut by them.
#[test]
fn key_groups_bind_only_keyed_state() {
    let mut metadata = checkpoint(&graph(2, 2, 8), 1);
    metadata.subtasks.retain(|(vertex, _), _| *vertex == 0);
    assert!(assign(&metadata, &graph(2, 2, 16)).is_ok());
}

/// A subtask one beyond the parallelism that the metadata names.
#[test]
fn a_subtask_too_many_is_named() {
    let mut metadata = checkpoint(&graph(2, 2, 8), 1);
    metadata.subtasks.insert((1, 2), SubtaskSnapshot::default());
    let (checkpoint, vertex, index) = (CheckpointId(3), 1, 2);
    assert_eq!(assign(&metadata, &graph(2, 2, 8)), Err(AssignmentError::UnknownSubtask { checkpoint, vertex, index }));
}

/// Whose turn it is in a round robin belongs to the chain as it was; with another operator in it the turn begins anew.
#[test]
fn a_changed_chain_begins_its_round_robin_anew() {
    let metadata = checkpoint(&graph(2, 2, 8), 1);
    let mut now = graph(2, 2, 8);
    now.vertices[0].operators.push(uid("map"));
    for (subtask, order) in assign(&metadata, &now).unwrap() {
        let operators: Vec<_> = order.inline.iter().map(|i| i.operator.clone()).collect();
        assert_eq!(operators, if subtask.vertex == VertexId(0) { vec![uid("numbers")] } else { Vec::new() });
    }
}

/// An operator without state needs none of its old home: neither inline nor in parts is anything of it.
#[test]
fn each_kind_of_state_alone_is_missed() {
    let without = |name: &str| {
        let mut now = graph(2, 2, 8);
        for vertex in &mut now.vertices {
            let renamed = |uids: &[OperatorUid]| {
                uids.iter().map(|u| if *u == uid(name) { uid("renamed") } else { u.clone() }).collect::<Vec<_>>()
            };
            (vertex.operators, vertex.keyed) = (renamed(&vertex.operators), renamed(&vertex.keyed));
        }
        assign(&checkpoint(&graph(2, 2, 8), 1), &now).map(|_| ())
    };
    let unknown = |name: &str| {
        Err(AssignmentError::UnknownOperator {
            checkpoint: CheckpointId(3),
            operator: uid(name),
            id: flink_operator_id(&uid(name)),
        })
    };
    assert_eq!(without("numbers"), unknown("numbers"), "inline alone");
    assert_eq!(without("fold"), unknown("fold"), "parts alone");
    assert_eq!(without("nobody"), Ok(()));
}

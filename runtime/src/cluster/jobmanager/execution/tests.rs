use super::*;
use crate::{
    checkpoint::types::LedgerEpoch,
    cluster::slots::SlotAddress,
    graph::{Edge, Partitioning, Vertex},
    ids::{AllocationId, CheckpointId, EdgeId, Execution, LeaderEpoch, OperatorUid, SplitId, VertexId},
};

/// Sources, operators, and, in slots of their own, sinks; two of each.
fn graph() -> ExecutionGraph {
    let vertex = |id: u32, name: &str| Vertex {
        id: VertexId(id),
        name: name.to_string(),
        parallelism: 2,
        max_parallelism: 8,
        operators: vec![OperatorUid(name.to_string())],
        keyed: Vec::new(),
        splits: (id == 0).then(|| vec![SplitId("split-0".into()), SplitId("split-1".into())]),
        sinks: if id == 2 { vec![OperatorUid("out".into())] } else { Vec::new() },
        slot_sharing_group: u32::from(id == 2),
    };
    let edge = |from: u32| Edge {
        id: EdgeId(from),
        from: VertexId(from),
        to: VertexId(from + 1),
        partitioning: Partitioning::Hash,
    };
    ExecutionGraph {
        vertices: vec![vertex(0, "numbers"), vertex(1, "fold"), vertex(2, "out")],
        edges: vec![edge(0), edge(1)],
    }
}

fn subtask(vertex: u32, index: u32) -> SubtaskId {
    SubtaskId { vertex: VertexId(vertex), index }
}

fn shared(group: u32, index: u32) -> SharedSlot {
    SharedSlot { group, index, parallelism: 2 }
}

/// An execution that replays these epochs. The first group has a TaskManager for each number of subtask, both sinks are on a third.
fn execution(replay: &[u64]) -> ExecutionState {
    let epoch = |id: &u64| LedgerEpoch { checkpoint: CheckpointId(*id), ..LedgerEpoch::default() };
    let newest = replay.last().map(|id| CheckpointId(*id));
    let choice = RestoreChoice {
        checkpoint: None,
        replay: replay.iter().map(epoch).collect(),
        continues: newest,
        newest,
        duplicates: false,
    };
    let slot = |task_manager: &str, index: u32| Assigned {
        slot: SlotAddress { task_manager: task_manager.to_string(), index },
        allocation: AllocationId(index.into()),
        previous: false,
        local_bytes: 0,
    };
    let slots = [
        (shared(0, 0), slot("tm-0", 0)),
        (shared(0, 1), slot("tm-1", 0)),
        (shared(1, 0), slot("tm-2", 0)),
        (shared(1, 1), slot("tm-2", 1)),
    ];
    let attempt = AttemptId { leader: LeaderEpoch(1), execution: Execution(1) };
    ExecutionState::new(&graph(), attempt, slots.into(), choice)
}

/// Checkpoints may be taken once all subtasks run, and, where something is replayed, once all have replayed it.
#[test]
fn an_execution_is_up_when_all_run_and_nothing_is_left_to_replay() {
    for replay in [&[][..], &[4]] {
        let mut execution = execution(replay);
        let subtasks: Vec<_> = execution.subtasks().collect();
        assert_eq!(subtasks.len(), 6);
        for subtask in &subtasks {
            assert!(!execution.runs() && !execution.is_up(), "{subtask} does not run yet");
            execution.subtask_running(*subtask);
            execution.subtask_running(*subtask);
        }
        assert!(execution.runs());
        for subtask in subtasks.iter().filter(|_| !replay.is_empty()) {
            assert!(execution.runs() && !execution.is_up(), "{subtask} replays");
            execution.subtask_replayed(*subtask);
        }
        assert!(execution.is_up());
    }
}

/// The job's input has ended when each source has said so, once; what others say does not count.
#[test]
fn the_last_source_to_run_dry_ends_the_input() {
    let mut execution = execution(&[]);
    assert!(!execution.source_exhausted(subtask(0, 1)));
    assert!(!execution.source_exhausted(subtask(0, 1)), "a repetition");
    assert!(!execution.source_exhausted(subtask(1, 0)), "no source");
    assert!(execution.source_exhausted(subtask(0, 0)));
    assert!(!execution.source_exhausted(subtask(0, 0)), "it was said already");
}

/// A slot has the subtasks of its number, of all vertices of its group.
#[test]
fn subtasks_run_where_their_slot_is() {
    let execution = execution(&[]);
    let (of, assigned) = execution.slot(subtask(2, 1)).expect("assigned");
    assert_eq!((of, assigned.slot.index), (shared(1, 1), 1));
    assert_eq!(execution.task_manager(subtask(1, 1)), Some("tm-1"));
    assert_eq!(execution.task_manager(subtask(1, 7)), None);
    assert!(execution.uses("tm-0") && execution.uses("tm-2") && !execution.uses("tm-3"));
    let some = [subtask(0, 1), subtask(2, 0), subtask(1, 1), subtask(0, 7)];
    let expected = [("tm-1", vec![subtask(0, 1), subtask(1, 1)]), ("tm-2", vec![subtask(2, 0)])];
    assert_eq!(execution.by_task_manager(some), expected.map(|(name, all)| (name.to_string(), all)).into());
}

/// Only those report what they replayed whose vertex has a sink, and each of them must.
#[test]
fn the_subtasks_with_sinks_verify_a_replay() {
    let mut execution = execution(&[4]);
    let nothing = BTreeMap::new();
    let mut report = |vertex, index| execution.verification.report(subtask(vertex, index), CheckpointId(4), &nothing);
    assert_eq!(report(1, 0), Ok(false));
    assert_eq!(report(2, 0), Ok(false));
    assert_eq!(report(2, 1), Ok(true));
    assert!(execution.verification.is_done());
}

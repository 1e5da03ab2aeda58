//! Who restores what: pure. Gives each subtask of a job its share of a checkpoint, also when the parallelism is another than
//! it was (Flink `StateAssignmentOperation`).
//!
//! State is found by the uid of its operator, wherever in the graph the operator is now. At the same parallelism a subtask
//! gets back what it wrote. At another one it gets every part of keyed state that holds one of its key groups, and the
//! operator state and positions of all subtasks, of which the operator takes its share by itself.
//!
//! It must never leave state behind without saying so: an operator that is gone, or a number of key groups that has changed,
//! is an error that names it.

use std::collections::BTreeMap;

use crate::{
    checkpoint::{
        metadata::{CheckpointMetadata, VertexShape, flink_operator_id},
        types::{InlineState, PartKind, RestoreOrder, RestorePart, StatePart, SubtaskSnapshot},
    },
    graph::{ExecutionGraph, Vertex},
    ids::{CheckpointId, KeyGroupRange, OperatorUid, SubtaskId},
    state::key_group_range,
};

/// The job cannot take over the state of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignmentError {
    #[error(
        "checkpoint {checkpoint} has state of operator {operator} (id {id:032x}), which the job does not have: give the operator \
         its uid back, or leave its state behind, by --allowNonRestoredState (-n) when the job is started from it"
    )]
    UnknownOperator { checkpoint: CheckpointId, operator: OperatorUid, id: u128 },
    #[error(
        "operator {operator} has max parallelism {now} in the job and {then} in checkpoint {checkpoint}; the number of key \
         groups cannot change: set the job's max parallelism to {then}"
    )]
    MaxParallelism { checkpoint: CheckpointId, operator: OperatorUid, then: u16, now: u16 },
    #[error(
        "the metadata of checkpoint {checkpoint} names subtask {index} of vertex {vertex}, which it does not describe"
    )]
    UnknownSubtask { checkpoint: CheckpointId, vertex: u32, index: u32 },
}

/// An operator as it was: its vertex, and what its subtasks wrote.
struct Before<'a> {
    shape: &'a VertexShape,
    subtasks: Vec<(u32, &'a SubtaskSnapshot)>,
}

/// What each subtask of `graph` restores of the checkpoint.
///
/// # Errors
/// [`AssignmentError`].
pub fn assign(
    metadata: &CheckpointMetadata,
    graph: &ExecutionGraph,
) -> Result<BTreeMap<SubtaskId, RestoreOrder>, AssignmentError> {
    assign_as_allowed(metadata, graph, false)
}

/// [`assign`]; with `allow_non_restored_state` what no operator of the job takes is left behind: [`left_behind`].
///
/// # Errors
/// [`AssignmentError`].
pub fn assign_as_allowed(
    metadata: &CheckpointMetadata,
    graph: &ExecutionGraph,
    allow_non_restored_state: bool,
) -> Result<BTreeMap<SubtaskId, RestoreOrder>, AssignmentError> {
    let before = operators_before(metadata)?;
    for (operator, then) in &before {
        match check(metadata.checkpoint, operator, then, graph) {
            Err(AssignmentError::UnknownOperator { .. }) if allow_non_restored_state => {}
            other => other?,
        }
    }
    let orders = graph.subtasks().map(|subtask| {
        let vertex = graph.vertex(subtask.vertex);
        let mut order = RestoreOrder { checkpoint: metadata.checkpoint, ..RestoreOrder::default() };
        for operator in &vertex.operators {
            if let Some(then) = before.get(operator) {
                order.parallelism.insert(operator.clone(), then.shape.parallelism);
                add_operator(&mut order, operator, then, vertex, subtask.index);
            }
        }
        add_exchanges(&mut order, metadata, vertex, subtask.index);
        (subtask, order)
    });
    Ok(orders.collect())
}

/// Operators of the checkpoint with state that the job does not have.
///
/// # Errors
/// [`AssignmentError::UnknownSubtask`].
pub fn left_behind(metadata: &CheckpointMetadata, graph: &ExecutionGraph) -> Result<Vec<OperatorUid>, AssignmentError> {
    let before = operators_before(metadata)?;
    let unknown = before.iter().filter(|(operator, then)| {
        let checked = check(metadata.checkpoint, operator, then, graph);
        matches!(checked, Err(AssignmentError::UnknownOperator { .. }))
    });
    Ok(unknown.map(|(operator, _)| (*operator).clone()).collect())
}

fn operators_before(metadata: &CheckpointMetadata) -> Result<BTreeMap<&OperatorUid, Before<'_>>, AssignmentError> {
    let mut subtasks: Vec<Vec<(u32, &SubtaskSnapshot)>> = metadata.vertices.iter().map(|_| Vec::new()).collect();
    for ((vertex, index), snapshot) in &metadata.subtasks {
        let known = metadata.vertices.get(*vertex as usize).is_some_and(|shape| *index < shape.parallelism);
        match subtasks.get_mut(*vertex as usize).filter(|_| known) {
            Some(of_vertex) => of_vertex.push((*index, snapshot)),
            None => {
                let (checkpoint, vertex, index) = (metadata.checkpoint, *vertex, *index);
                return Err(AssignmentError::UnknownSubtask { checkpoint, vertex, index });
            }
        }
    }
    let vertices = metadata.vertices.iter().zip(subtasks);
    Ok(vertices
        .flat_map(|(shape, subtasks)| {
            shape.operators.iter().map(move |uid| (uid, Before { shape, subtasks: subtasks.clone() }))
        })
        .collect())
}

impl Before<'_> {
    fn has_state(&self, operator: &OperatorUid) -> bool {
        self.subtasks.iter().any(|(_, snapshot)| {
            snapshot.inline.contains_key(operator) || snapshot.parts.iter().any(|part| part.operator == *operator)
        })
    }
}

fn check(
    checkpoint: CheckpointId,
    operator: &OperatorUid,
    then: &Before<'_>,
    graph: &ExecutionGraph,
) -> Result<(), AssignmentError> {
    if !then.has_state(operator) {
        return Ok(());
    }
    let operator = operator.clone();
    let Some(vertex) = graph.vertices.iter().find(|vertex| vertex.operators.contains(&operator)) else {
        let id = flink_operator_id(&operator);
        return Err(AssignmentError::UnknownOperator { checkpoint, operator, id });
    };
    // Only keyed state is cut by key groups.
    if vertex.keyed.contains(&operator) && vertex.max_parallelism != then.shape.max_parallelism {
        let (then, now) = (then.shape.max_parallelism, vertex.max_parallelism);
        return Err(AssignmentError::MaxParallelism { checkpoint, operator, then, now });
    }
    Ok(())
}

fn overlap(a: KeyGroupRange, b: KeyGroupRange) -> bool {
    a.first <= b.last && b.first <= a.last
}

/// Adds what subtask `index` of `vertex` needs of one operator's state.
fn add_operator(order: &mut RestoreOrder, operator: &OperatorUid, then: &Before<'_>, vertex: &Vertex, index: u32) {
    let same = then.shape.parallelism == vertex.parallelism;
    let own = key_group_range(index, vertex.parallelism, vertex.max_parallelism);
    for (from, snapshot) in &then.subtasks {
        let needed = |part: &StatePart| match (same, part.is_keyed()) {
            // Of union state everybody gets everything, whatever the parallelism.
            (true, _) => from == &index || part.kind == PartKind::Operator { union: true },
            (false, true) => overlap(part.key_groups, own),
            (false, false) => true,
        };
        let parts = snapshot.parts.iter().filter(|part| part.operator == *operator && needed(part));
        order.parts.extend(parts.map(|part| RestorePart { from: *from, part: part.clone() }));
        if let Some(bytes) = snapshot.inline.get(operator).filter(|_| !same || from == &index) {
            order.inline.push(InlineState { operator: operator.clone(), from: *from, bytes: bytes.clone() });
        }
    }
}

/// Adds the inline state of exchanges between operators (whose turn it is in a round robin). It belongs to a subtask of one
/// shape of the job; under another one it begins anew.
fn add_exchanges(order: &mut RestoreOrder, metadata: &CheckpointMetadata, vertex: &Vertex, index: u32) {
    let same = |shape: &VertexShape| shape.operators == vertex.operators && shape.parallelism == vertex.parallelism;
    let Some(before) = metadata.vertices.get(vertex.id.0 as usize).filter(|shape| same(shape)) else { return };
    let Some(snapshot) = metadata.subtasks.get(&(vertex.id.0, index)) else { return };
    for (operator, bytes) in &snapshot.inline {
        if !before.operators.contains(operator) {
            order.inline.push(InlineState { operator: operator.clone(), from: index, bytes: bytes.clone() });
        }
    }
}

#[cfg(test)]
mod tests;

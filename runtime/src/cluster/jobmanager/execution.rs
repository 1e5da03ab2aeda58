//! One execution of the job: where its subtasks run and how far they have come. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cluster::slots::Assigned,
    graph::ExecutionGraph,
    ids::{AttemptId, SharedSlot, SubtaskId},
    recovery::choice::{ReplayVerification, RestoreChoice},
};

pub struct ExecutionState {
    pub attempt: AttemptId,
    pub slots: BTreeMap<SharedSlot, Assigned>,
    /// With the slot that each shares.
    subtasks: BTreeMap<SubtaskId, SharedSlot>,
    sources: BTreeSet<SubtaskId>,
    running: BTreeSet<SubtaskId>,
    replaying: BTreeSet<SubtaskId>,
    exhausted: BTreeSet<SubtaskId>,
    /// Compares what sinks replay with what was committed.
    pub verification: ReplayVerification,
    pub choice: RestoreChoice,
}

impl ExecutionState {
    pub fn new(
        graph: &ExecutionGraph,
        attempt: AttemptId,
        slots: BTreeMap<SharedSlot, Assigned>,
        choice: RestoreChoice,
    ) -> Self {
        let subtasks: BTreeMap<_, _> = graph.subtasks().map(|id| (id, graph.shared_slot(id))).collect();
        let of = |wanted: fn(&crate::graph::Vertex) -> bool| {
            subtasks.keys().copied().filter(|s| wanted(graph.vertex(s.vertex))).collect::<BTreeSet<_>>()
        };
        let sinks = of(|v| !v.sinks.is_empty());
        ExecutionState {
            attempt,
            slots,
            sources: of(|v| v.splits.is_some()),
            running: BTreeSet::new(),
            replaying: if choice.replay.is_empty() { BTreeSet::new() } else { subtasks.keys().copied().collect() },
            exhausted: BTreeSet::new(),
            verification: ReplayVerification::new(&choice, &sinks),
            choice,
            subtasks,
        }
    }

    /// The slot that `subtask` runs in, and what shares it.
    pub fn slot(&self, subtask: SubtaskId) -> Option<(SharedSlot, &Assigned)> {
        let shared = self.subtasks.get(&subtask)?;
        self.slots.get(shared).map(|assigned| (*shared, assigned))
    }

    /// The TaskManager that runs `subtask`.
    pub fn task_manager(&self, subtask: SubtaskId) -> Option<&str> {
        self.slot(subtask).map(|(_, assigned)| assigned.slot.task_manager.as_str())
    }

    pub fn uses(&self, task_manager: &str) -> bool {
        self.slots.values().any(|a| a.slot.task_manager == task_manager)
    }

    /// Subtasks grouped by the TaskManager that runs them.
    pub fn by_task_manager(&self, subtasks: impl IntoIterator<Item = SubtaskId>) -> BTreeMap<String, Vec<SubtaskId>> {
        let mut grouped: BTreeMap<String, Vec<SubtaskId>> = BTreeMap::new();
        for subtask in subtasks {
            if let Some(task_manager) = self.task_manager(subtask) {
                grouped.entry(task_manager.to_string()).or_default().push(subtask);
            }
        }
        grouped
    }

    pub fn subtasks(&self) -> impl Iterator<Item = SubtaskId> + '_ {
        self.subtasks.keys().copied()
    }

    pub fn subtask_running(&mut self, subtask: SubtaskId) {
        self.running.insert(subtask);
    }

    pub fn subtask_replayed(&mut self, subtask: SubtaskId) {
        self.replaying.remove(&subtask);
    }

    /// All subtasks run; perhaps they replay.
    pub fn runs(&self) -> bool {
        self.running.len() == self.subtasks.len()
    }

    /// All subtasks run and nothing is left to replay: checkpoints may be taken.
    pub fn is_up(&self) -> bool {
        self.runs() && self.replaying.is_empty()
    }

    /// Whether this was the last source to run dry.
    pub fn source_exhausted(&mut self, subtask: SubtaskId) -> bool {
        self.exhausted.insert(subtask) && self.exhausted.is_superset(&self.sources)
    }
}

#[cfg(test)]
mod tests;

//! The figure 'local_recovery' of Flink's documentation, drawn from what a run really did: tasks write all their state to primary
//! storage, and a second time into the local store of the machine they are on; completed checkpoints, which the JobManager knows,
//! refer to files in primary storage only.
//!
//! Journal events go in, in order, with the process that said them; arrows come out, and from these a text or a picture. An arrow
//! stands for files that somebody has written: where from and where to, how many, how many bytes. Nothing is drawn that no event
//! told of. Pure: whoever has the events says where the picture goes.

mod svg;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display},
};

use crate::{ids::CheckpointId, journal::Event};

/// Who writes, and what is written to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    JobManager { process: String },
    Task { task_manager: String, subtask: String },
    Primary,
    LocalStore { task_manager: String },
}

impl Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::JobManager { process } => write!(f, "{process}"),
            Node::Task { task_manager, subtask } => write!(f, "{subtask} on {task_manager}"),
            Node::Primary => write!(f, "primary storage"),
            Node::LocalStore { task_manager } => write!(f, "local store of {task_manager}"),
        }
    }
}

/// Files that were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrow {
    pub from: Node,
    pub to: Node,
    /// Names of objects, or of files in a local copy.
    pub files: Vec<String>,
    pub bytes: u64,
}

/// What became of the second copy of one subtask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum LocalCopy {
    /// Nothing of its state is in files, or local recovery is off.
    #[default]
    None,
    Stored,
    Confirmed,
    Failed(String),
}

/// What one subtask wrote for one checkpoint.
#[derive(Clone, Debug, Default)]
struct Written {
    task_manager: String,
    primary: Vec<(String, u64)>,
    /// Files of an earlier checkpoint that it refers to.
    reused: u32,
    local: Vec<(String, u64)>,
    copy: LocalCopy,
    acknowledged: bool,
}

/// One checkpoint, by what was written for it.
#[derive(Clone, Debug, Default)]
struct Snapshot {
    metadata: Option<(String, String)>,
    written: BTreeMap<String, Written>,
}

/// Collects what the figure shows. What is older than the newest completed checkpoint is forgotten.
#[derive(Clone, Debug, Default)]
pub struct LocalRecoveryFigure {
    job_manager: Option<String>,
    /// The newest that is complete, and those that may become it.
    snapshots: BTreeMap<CheckpointId, Snapshot>,
    shown: Option<CheckpointId>,
    /// Complete, and neither subsumed nor discarded.
    completed: BTreeSet<CheckpointId>,
}

impl LocalRecoveryFigure {
    /// Takes note of an event of `process`.
    pub fn event(&mut self, process: &str, event: &Event) {
        match event {
            Event::PartUploaded { subtask, checkpoint, object, bytes } => {
                if let Some(written) = self.written(process, subtask, *checkpoint) {
                    written.primary.push((object.clone(), *bytes));
                }
            }
            Event::NativeCheckpointWritten { subtask, checkpoint, reused, .. } => {
                if let Some(written) = self.written(process, subtask, *checkpoint) {
                    written.reused += reused;
                }
            }
            Event::LocalPartStored { subtask, checkpoint, part, bytes } => {
                if let Some(written) = self.written(process, subtask, *checkpoint) {
                    written.local.push((part.clone(), *bytes));
                }
            }
            Event::LocalCopyStored { subtask, checkpoint, .. } => {
                self.copy(process, subtask, *checkpoint, LocalCopy::Stored);
            }
            Event::LocalCopyConfirmed { subtask, checkpoint } => {
                // Said of any checkpoint that has completed, also if there is no copy of it.
                let known = self.snapshots.get(checkpoint).and_then(|snapshot| snapshot.written.get(subtask));
                if known.is_some_and(|written| written.copy == LocalCopy::Stored) {
                    self.copy(process, subtask, *checkpoint, LocalCopy::Confirmed);
                }
            }
            Event::LocalCopyFailed { subtask, checkpoint, reason }
            | Event::LocalCopyDiscarded { subtask, checkpoint, reason } => {
                self.copy(process, subtask, *checkpoint, LocalCopy::Failed(reason.clone()));
            }
            Event::CheckpointAcked { subtask, checkpoint } => {
                // Of a task whose state is not in files nothing has been heard yet, not even where it runs.
                if let Some(written) = self.snapshot(*checkpoint).and_then(|it| it.written.get_mut(subtask)) {
                    written.acknowledged = true;
                }
            }
            Event::MetadataWritten { checkpoint, object } => {
                if let Some(snapshot) = self.snapshot(*checkpoint) {
                    snapshot.metadata = Some((process.to_string(), object.clone()));
                }
            }
            Event::CheckpointCompleted { checkpoint, .. } => {
                self.job_manager = Some(process.to_string());
                self.completed.insert(*checkpoint);
                if self.shown.is_none_or(|shown| shown < *checkpoint) && self.snapshots.contains_key(checkpoint) {
                    self.shown = Some(*checkpoint);
                    self.snapshots = self.snapshots.split_off(checkpoint);
                }
            }
            Event::CheckpointSubsumed { checkpoint } | Event::CheckpointDiscarded { checkpoint, .. } => {
                self.completed.remove(checkpoint);
            }
            _ => {}
        }
    }

    /// None: it is older than what is shown.
    fn snapshot(&mut self, checkpoint: CheckpointId) -> Option<&mut Snapshot> {
        let is_old = self.shown.is_some_and(|shown| checkpoint < shown);
        (!is_old).then(|| self.snapshots.entry(checkpoint).or_default())
    }

    fn written(&mut self, task_manager: &str, subtask: &str, checkpoint: CheckpointId) -> Option<&mut Written> {
        let written = self.snapshot(checkpoint)?.written.entry(subtask.to_string()).or_default();
        written.task_manager = task_manager.to_string();
        Some(written)
    }

    fn copy(&mut self, process: &str, subtask: &str, checkpoint: CheckpointId, copy: LocalCopy) {
        // What is discarded later, when it is of no use any more, was there all the same.
        let is_shown = self.shown.is_some_and(|shown| shown >= checkpoint);
        if matches!(copy, LocalCopy::Failed(_)) && (is_shown || !self.snapshots.contains_key(&checkpoint)) {
            return;
        }
        if let Some(written) = self.written(process, subtask, checkpoint) {
            if matches!(copy, LocalCopy::Failed(_)) {
                written.local.clear();
            }
            written.copy = copy;
        }
    }

    /// The checkpoint that is shown: the newest that is complete.
    pub fn checkpoint(&self) -> Option<CheckpointId> {
        self.shown
    }

    /// The completed checkpoints that the JobManager keeps.
    pub fn completed(&self) -> impl Iterator<Item = CheckpointId> + '_ {
        self.completed.iter().copied()
    }

    /// The subtasks whose state is in files and was acknowledged, by TaskManager and name.
    fn tasks(&self) -> BTreeMap<(&str, &str), &Written> {
        let snapshot = self.shown.and_then(|shown| self.snapshots.get(&shown));
        let written = snapshot.into_iter().flat_map(|snapshot| &snapshot.written);
        let acknowledged = written.filter(|(_, written)| written.acknowledged);
        acknowledged.map(|(subtask, written)| ((written.task_manager.as_str(), subtask.as_str()), written)).collect()
    }

    /// Whether each local copy that was stored has been confirmed, too.
    pub fn is_confirmed(&self) -> bool {
        self.shown.is_some() && self.tasks().values().all(|written| written.copy != LocalCopy::Stored)
    }

    /// Who wrote what where for the checkpoint that is shown.
    pub fn arrows(&self) -> Vec<Arrow> {
        let arrow = |from: Node, to: Node, files: &[(String, u64)]| Arrow {
            from,
            to,
            files: files.iter().map(|(name, _)| name.clone()).collect(),
            bytes: files.iter().map(|(_, bytes)| bytes).sum(),
        };
        let mut arrows = Vec::new();
        let snapshot = self.shown.and_then(|shown| self.snapshots.get(&shown));
        if let Some((process, object)) = snapshot.and_then(|snapshot| snapshot.metadata.as_ref()) {
            let from = Node::JobManager { process: process.clone() };
            // How long it is nobody says.
            arrows.push(arrow(from, Node::Primary, &[(object.clone(), 0)]));
        }
        for ((task_manager, subtask), written) in self.tasks() {
            let task_manager = task_manager.to_string();
            let from = Node::Task { task_manager: task_manager.clone(), subtask: subtask.to_string() };
            if !written.primary.is_empty() {
                arrows.push(arrow(from.clone(), Node::Primary, &written.primary));
            }
            if matches!(written.copy, LocalCopy::Stored | LocalCopy::Confirmed) && !written.local.is_empty() {
                arrows.push(arrow(from, Node::LocalStore { task_manager }, &written.local));
            }
        }
        arrows
    }

    /// How many files in primary storage the checkpoint refers to, those of earlier ones included.
    fn referenced(&self) -> usize {
        self.tasks().values().map(|written| written.primary.len() + written.reused as usize).sum()
    }

    /// The figure in words, a line for each arrow.
    pub fn to_text(&self) -> String {
        let Some(shown) = self.shown else { return "no checkpoint with state in files has completed\n".to_string() };
        let kept: Vec<String> = self.completed().map(|id| id.to_string()).collect();
        let mut text = format!(
            "checkpoint {shown}; {} keeps {}, in primary storage only: {} files of this one\n",
            self.job_manager.as_deref().unwrap_or("nobody"),
            kept.join(", "),
            self.referenced()
        );
        for Arrow { from, to, files, bytes } in self.arrows() {
            match from {
                Node::JobManager { .. } => text.push_str(&format!("{from} -> {to}: {}\n", files.join(", "))),
                _ => text.push_str(&format!("{from} -> {to}: {} files, {bytes} bytes\n", files.len())),
            }
        }
        for ((task_manager, subtask), written) in self.tasks() {
            if written.reused > 0 {
                text.push_str(&format!(
                    "{subtask} on {task_manager}: {} files are of earlier checkpoints\n",
                    written.reused
                ));
            }
            if let LocalCopy::Failed(reason) = &written.copy {
                text.push_str(&format!("{subtask} on {task_manager}: no local copy: {reason}\n"));
            }
        }
        text
    }

    /// The figure as a picture.
    pub fn to_svg(&self) -> String {
        svg::draw(self)
    }
}

#[cfg(test)]
mod tests;

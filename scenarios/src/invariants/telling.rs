//! Events that the stories of several test modules tell, in words of one line.

use std::time::Duration;

use runtime::{ids::CheckpointId, journal::Event};

use super::testing::Story;

pub fn triggered(story: &mut Story, id: u64, at_ms: u64) {
    story.truth.set_now(Duration::from_millis(at_ms));
    let attempt = story.attempt;
    story.event("jobmanager", Event::CheckpointTriggered { checkpoint: CheckpointId(id), attempt });
}

pub fn completed(story: &mut Story, id: u64, at_ms: u64) {
    story.truth.set_now(Duration::from_millis(at_ms));
    story.event("jobmanager", Event::CheckpointCompleted { checkpoint: CheckpointId(id), sequence: id });
}

pub fn aborted(story: &mut Story, id: u64) {
    let (checkpoint, reason) = (CheckpointId(id), String::new());
    story.event("jobmanager", Event::CheckpointAborted { checkpoint, reason });
}

/// The job's state.
pub fn changed(story: &mut Story, to: &str) {
    let (job, from, to, reason) = ("job".to_string(), String::new(), to.to_string(), String::new());
    story.event("jobmanager", Event::JobStateChanged { job, from, to, reason });
}

/// The local copy of `fold[0]`.
pub fn stored(story: &mut Story, checkpoint: u64, parts: u32) {
    let (subtask, checkpoint) = ("fold[0]".to_string(), CheckpointId(checkpoint));
    story.event("tm-1", Event::LocalCopyStored { subtask, checkpoint, parts });
}

/// As [`stored`].
pub fn confirmed(story: &mut Story, checkpoint: u64) {
    let (subtask, checkpoint) = ("fold[0]".to_string(), CheckpointId(checkpoint));
    story.event("tm-1", Event::TaskNotifiedComplete { subtask: subtask.clone(), checkpoint });
    story.event("tm-1", Event::LocalCopyConfirmed { subtask, checkpoint });
}

/// The snapshot of `fold[0]` for checkpoint 1.
pub fn failed(story: &mut Story) {
    let (subtask, checkpoint, reason) = ("fold[0]".to_string(), CheckpointId(1), "disk full".to_string());
    story.event("tm-1", Event::SnapshotFailed { subtask, checkpoint, reason });
}

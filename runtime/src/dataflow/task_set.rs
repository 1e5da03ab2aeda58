//! Background tasks of a subtask that must not outlive it.

use futures::FutureExt;

use crate::platform::Task;

/// Tasks that are aborted when the set is stopped or dropped.
#[derive(Default)]
pub struct TaskSet {
    tasks: Vec<Task>,
}

impl TaskSet {
    pub fn add(&mut self, task: Task) {
        // Ended tasks are let go now and then, so that the set stays as small as what runs.
        if self.tasks.len() >= 16 && self.tasks.len().is_power_of_two() {
            self.tasks.retain_mut(|t| t.now_or_never().is_none());
        }
        self.tasks.push(task);
    }

    /// Ends all tasks and waits until none runs any more.
    pub async fn stop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks.drain(..) {
            task.await;
        }
    }
}

impl Drop for TaskSet {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

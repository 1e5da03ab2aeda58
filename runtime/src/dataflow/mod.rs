//! Records in motion: channels with credit, barriers and their alignment, and the loop of one subtask.

pub mod alignment;
mod barriers;
mod bases;
pub mod chain;
pub mod channel;
#[cfg(test)]
mod channel_tests;
pub mod event_time;
pub mod frame;
mod intake;
pub mod merge_log;
pub mod outputs;
mod setup;
mod sink_log;
mod snapshotting;
mod source_driver;
pub mod subtask;
#[cfg(test)]
mod subtask_tests;
pub mod task;
mod task_set;
#[cfg(test)]
mod test_job;
#[cfg(test)]
mod test_world;
mod times;

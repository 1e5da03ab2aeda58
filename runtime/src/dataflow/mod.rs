//! Records in motion: channels with credit, barriers and their alignment, and the loop of one subtask.

pub mod chain;
pub mod outputs;
pub mod task;

//! Processes: one JobManager that decides, TaskManagers that run subtasks, and the protocol between them.

pub mod config;
mod connection;
pub mod jobmanager;
pub mod rpc;
pub mod slots;
pub mod taskmanager;

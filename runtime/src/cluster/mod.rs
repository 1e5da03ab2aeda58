//! Processes: one JobManager that decides, TaskManagers that run subtasks, and the protocol between them.

pub mod client;
pub mod config;
mod connection;
pub mod elasticity;
pub mod jobmanager;
pub mod rpc;
pub mod scheduler;
pub mod slots;
pub mod taskmanager;

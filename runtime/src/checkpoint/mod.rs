//! Checkpoints: who decides that one is complete, where that is recorded, what it consists of.

pub mod types;

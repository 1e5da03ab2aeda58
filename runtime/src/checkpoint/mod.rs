//! Checkpoints: who decides that one is complete, where that is recorded, what it consists of.
//!
//! The decision is the pure state machine [`coordinator`]; the place is the head log ([`head`]), whose `Completed` entry is
//! the one commit point of a checkpoint; [`metadata`] says what it consists of; [`commit`] makes its output visible; [`sweep`]
//! removes what nothing refers to; [`shared_registry`] knows what is still referred to; [`savepoint`] finds what people keep. [`flink`] reads what Apache Flink wrote. All of them reach primary storage through [`primary`].

pub mod commit;
pub mod coordinator;
pub mod flink;
pub mod frame;
pub mod head;
pub mod increments;
pub mod metadata;
mod metadata_format;
pub mod primary;
pub mod savepoint;
pub mod shared_registry;
pub mod statistics;
pub mod sweep;
pub mod types;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod savepoint_tests;
#[cfg(test)]
mod tests;

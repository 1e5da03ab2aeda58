//! Recovery: which checkpoint to go back to, who restores what of it, and how a subtask gets its state from there: from its
//! local copy where that is exactly what is being restored, else from primary storage.

pub mod allocations;
pub mod assignment;
pub mod choice;
pub mod local_store;
pub mod native_io;
#[cfg(feature = "sabotage")]
mod planted_state;
pub mod snapshot_io;

#[cfg(test)]
mod integrity_tests;
#[cfg(test)]
mod tests;

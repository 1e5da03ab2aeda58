//! Recovery: which checkpoint to go back to, who restores what of it, and how a subtask gets its state from there: from its
//! local copy where that is exactly what is being restored, else from primary storage.

pub mod allocations;
pub mod assignment;
pub mod choice;
pub mod import;
pub mod local_copy;
pub mod local_inventory;
pub mod local_manifest;
pub mod local_shelf;
mod local_sources;
pub mod local_store;
pub mod local_writer;
pub mod native_io;
#[cfg(feature = "sabotage")]
mod planted_state;
pub mod restore_report;
pub mod snapshot_reading;
pub mod snapshot_writing;
pub mod transfer;

#[cfg(test)]
mod integrity_tests;
#[cfg(test)]
mod local_tests;
#[cfg(test)]
mod native_integrity_tests;
#[cfg(test)]
mod tests;

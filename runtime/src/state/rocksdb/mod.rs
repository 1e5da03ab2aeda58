//! The RocksDB store: keyed state of one operator of one subtask in a database of its own, with one column family per state.
//!
//! The database lives in a scratch directory, without a write-ahead log: what counts is in checkpoints. It is opened after
//! user code has declared its states, by a native call, and what a full snapshot holds is written into it then. Reads and
//! writes of single entries are calls on the subtask's thread, and mostly end at the entries in front of the database
//! (`recent`); everything else is a native call. What waits there at a barrier is handed over to the call that writes the
//! snapshot (`handover`).

mod collected;
mod contents;
mod database;
mod declared;
mod expiry;
mod front;
mod grow;
mod handover;
mod layout;
mod list_lengths;
mod native;
mod open;
mod options;
mod recent;
mod restore;
mod scan;
mod slot_memory;
mod store;
mod tables;
mod timers;

pub(super) use declared::Declared;
pub use restore::part_of_database;
pub use slot_memory::SlotMemory;
pub(super) use store::RocksStore;

#[cfg(test)]
mod copies_tests;
#[cfg(test)]
mod expiry_tests;
#[cfg(test)]
mod handover_tests;
#[cfg(test)]
mod options_tests;
#[cfg(test)]
mod recent_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod timers_tests;
#[cfg(test)]
mod upgrade_tests;

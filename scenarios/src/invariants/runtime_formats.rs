//! The runtime's own framing, unpacked into the facts of this module.

use bytes::Bytes;
use runtime::{
    checkpoint::{head, metadata::CheckpointMetadata},
    ids::OperatorUid,
    platform::NativeDir,
    recovery::allocations::{self, StoredAllocation},
    state::{OperatorPart, PartReader, part_of_database},
};

use super::formats::{Completion, Formats, HeadRecord, ReadNative, SlotRecord, Snapshots, StateEntry};

pub struct RuntimeFormats;

impl Formats for RuntimeFormats {
    fn head(&self, bytes: &[u8]) -> Result<HeadRecord, String> {
        let record = head::HeadRecord::decode(bytes).map_err(|e| e.to_string())?;
        Ok(match record.entry {
            head::HeadEntry::Claimed { leader, .. } => HeadRecord::Claimed { leader },
            head::HeadEntry::IdBlock { from, to } => HeadRecord::IdBlock { from, to },
            head::HeadEntry::Completed { checkpoint, metadata, ledger, sinks, exhausted, retained, .. } => {
                HeadRecord::Completed(Box::new(Completion {
                    leader: record.leader,
                    checkpoint,
                    metadata: metadata.as_str().to_string(),
                    ledger,
                    sinks,
                    exhausted,
                    retained,
                    savepoint: None,
                }))
            }
            head::HeadEntry::SavepointCompleted { checkpoint, directory, ledger, sinks, retained, .. } => {
                HeadRecord::Completed(Box::new(Completion {
                    leader: record.leader,
                    checkpoint,
                    metadata: format!("{directory}/_metadata"),
                    ledger,
                    sinks,
                    exhausted: false,
                    retained,
                    savepoint: Some(directory.to_string()),
                }))
            }
            head::HeadEntry::SavepointBegun { directory } => {
                HeadRecord::SavepointBegun { directory: directory.to_string() }
            }
            head::HeadEntry::SavepointOvertaken { checkpoint, directory } => {
                HeadRecord::SavepointOvertaken { checkpoint, directory: directory.to_string() }
            }
            head::HeadEntry::Imported { checkpoint, metadata, .. } => {
                HeadRecord::Imported { checkpoint, metadata: metadata.to_string() }
            }
            head::HeadEntry::Stopped { .. } => HeadRecord::Stopped,
            head::HeadEntry::Restored { attempt, checkpoint, condemned } => {
                HeadRecord::Restored { attempt, checkpoint, condemned: condemned.into_keys().collect() }
            }
            head::HeadEntry::Finished => HeadRecord::Finished,
            head::HeadEntry::Failed { reason } => HeadRecord::Failed { reason },
        })
    }

    fn metadata(&self, bytes: &[u8]) -> Result<Snapshots, String> {
        CheckpointMetadata::decode(bytes).map(|metadata| metadata.subtasks).map_err(|e| e.to_string())
    }

    fn slot(&self, bytes: &[u8]) -> Result<SlotRecord, String> {
        let StoredAllocation { slot, shared, since, .. } = allocations::decode(bytes)?;
        Ok(SlotRecord { slot, shared, since })
    }

    fn is_local_manifest(&self, file: &str) -> bool {
        file == "_manifest"
    }

    fn native_state(&self) -> Option<ReadNative> {
        Some(read_native)
    }

    fn state(&self, operator: &OperatorUid, bytes: &[u8]) -> Result<Vec<StateEntry>, String> {
        if bytes.starts_with(b"WOST") {
            return operator_state(operator, bytes);
        }
        let reader = PartReader::new(&Bytes::copy_from_slice(bytes)).map_err(|e| e.to_string())?;
        if reader.header.operator != operator.0 {
            return Err(format!("the part is of operator {:?}, not of {operator}", reader.header.operator));
        }
        let mut entries = Vec::new();
        for section in &reader.sections {
            let state = &reader.header.states[section.state].name;
            section
                .for_each(|entry| {
                    entries.push(StateEntry {
                        operator: operator.clone(),
                        state: state.clone(),
                        key: entry.key.to_vec(),
                        value: entry.value.to_vec(),
                    });
                    Ok(())
                })
                .map_err(|e| e.to_string())?;
        }
        Ok(entries)
    }
}

/// State without keys: each entry under the subtask that had it, how many there were, and its position.
fn operator_state(operator: &OperatorUid, bytes: &[u8]) -> Result<Vec<StateEntry>, String> {
    let part = OperatorPart::read(&Bytes::copy_from_slice(bytes)).map_err(|e| e.to_string())?;
    if part.header.operator != operator.0 {
        return Err(format!("the part is of operator {:?}, not of {operator}", part.header.operator));
    }
    let (index, parallelism) = (part.header.index, part.header.parallelism);
    let mut entries = Vec::new();
    for (header, values) in part.header.states.iter().zip(part.states) {
        for (position, value) in values.iter().enumerate() {
            let key = postcard::to_allocvec(&(index, parallelism, position as u64)).map_err(|e| e.to_string())?;
            let (operator, state) = (operator.clone(), header.name.clone());
            entries.push(StateEntry { operator, state, key, value: value.to_vec() });
        }
    }
    Ok(entries)
}

/// Opens the database somewhere and reads all of it.
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "native code works in real directories")]
fn read_native(operator: &OperatorUid, files: &[(String, Bytes)]) -> Result<Vec<StateEntry>, String> {
    let directory = sim::scratch_directory("weir-judge-").map_err(|e| e.to_string())?;
    let database = directory.path().join("database");
    std::fs::create_dir(&database).map_err(|e| e.to_string())?;
    for (name, bytes) in files {
        std::fs::write(database.join(name), bytes).map_err(|e| e.to_string())?;
    }
    let part = part_of_database(NativeDir(std::sync::Arc::new(directory)), "database")?;
    RuntimeFormats.state(operator, &part)
}

//! Opens a database and fills it with what full snapshots hold of its states.

use std::sync::{Arc, Mutex};

use rocksdb::WriteBatch;

use super::{
    contents::{Contents, write_contents},
    database::{Database, family_of},
    declared::{CheckKey, Declared},
    expiry::Expiring,
    grow::{as_it_is, check_keys, grow},
    layout::{group_length, put_group, put_tail},
    restore::{Restoring, restore_native, split_whole},
    timers::{FoundTimers, HeapQueue, heads, take_rows},
};
use crate::{
    checkpoint::increments::Increments,
    dataflow::chain::Scratch,
    ids::BackendId,
    state::{
        error::{StateError, StateProblem, UserError},
        format::{PartHeader, StateHeader, StateKind},
        restored::Restored,
        settings::RocksDbSettings,
    },
};

/// A state until the database is open.
pub(super) struct Pending {
    pub header: StateHeader,
    /// None: only the snapshot knows it.
    pub declared: Option<Declared>,
    pub restored: Option<Restored>,
}

/// What opening gave.
pub(super) struct Opened {
    pub database: Arc<Database>,
    pub contents: Contents,
    pub backend: BackendId,
    pub increments: Arc<Mutex<Increments>>,
    pub timers: Mutex<FoundTimers>,
    /// By state: values that were encoded anew.
    pub upgrades: Mutex<Vec<(String, u64)>>,
}

pub(super) enum OpenFailure {
    /// It may go better next time.
    Environment(String),
    /// The snapshot and the code do not fit together, or the snapshot is damaged.
    Data(String),
}

impl From<StateError> for OpenFailure {
    fn from(error: StateError) -> OpenFailure {
        match error.problem() {
            StateProblem::Database(_) => OpenFailure::Environment(error.to_string()),
            _ => OpenFailure::Data(error.to_string()),
        }
    }
}

impl From<UserError> for OpenFailure {
    fn from(error: UserError) -> OpenFailure {
        OpenFailure::Data(error.into_message())
    }
}

/// What the operator has declared, and what is carried along.
pub(super) struct Declarations {
    pub pending: Vec<Pending>,
    pub heap_queues: Vec<HeapQueue>,
    pub expiring: Expiring,
    /// Of the keys of the stream.
    pub check_key: CheckKey,
}

/// Opens the database, fills it, makes its values those of the types that are declared, and writes down what it holds.
pub(super) fn open(
    scratch: Scratch,
    settings: &RocksDbSettings,
    mut header: PartHeader,
    declarations: &Declarations,
) -> Result<Opened, OpenFailure> {
    let Declarations { pending, heap_queues, expiring, check_key } = declarations;
    let names = pending.iter().map(|state| family_of(&state.header.name)).collect();
    let Scratch { directory, backend, restored, unclipped } = scratch;
    let Restoring { database, before, adopted, keys_renamed } =
        restore_native(directory, settings, &header, names, expiring, &restored, unclipped)?;
    let length = group_length(header.max_parallelism);
    let Contents { header: PartHeader { states, .. }, mut whole } = before;
    if keys_renamed {
        check_keys(&database, &header, &states, *check_key)?;
    }
    let mut upgrades = Vec::new();
    for state in pending {
        let name = &state.header.name;
        if let Some(stored) = states.iter().find(|stored| stored.name == *name) {
            let is_whole = whole.contains(name);
            let values = grow(&database, stored, state, is_whole, header.key_groups, length)?;
            upgrades.extend((values > 0).then(|| (name.clone(), values)));
            if let (Some(split), true) = (state.declared.and_then(|d| d.split), is_whole) {
                split_whole(&database, name, split, length)?;
                whole.retain(|other| other != name);
            }
        }
        if state.declared.is_none() && state.header.kind == StateKind::Map {
            whole.push(name.clone());
        }
        if let Some(restored) = &state.restored {
            fill(&database, state, restored, length, header.max_parallelism)?;
        }
        header.states.push(state.header.clone());
    }
    let (range, max_parallelism) = (header.key_groups, header.max_parallelism);
    let mut timers = FoundTimers::default();
    for state in pending.iter().filter(|p| p.declared.is_some() && p.header.kind == StateKind::Timers) {
        let name = &state.header.name;
        timers.heads.insert(name.clone(), heads(&database, name, range, length)?);
    }
    for queue in heap_queues {
        let name = &queue.header.name;
        if let Some(stored) = states.iter().find(|stored| stored.name == *name) {
            as_it_is(stored, &queue.header)?;
            timers.moved.insert(name.clone(), take_rows(&database, queue, range, length, max_parallelism)?);
        }
    }
    let undeclared = states.into_iter().filter(|state| {
        pending.iter().all(|p| p.header.name != state.name) && heap_queues.iter().all(|q| q.header.name != state.name)
    });
    header.states.extend(undeclared);
    header.states.sort_by(|a, b| a.name.cmp(&b.name));
    let contents = Contents { header, whole };
    write_contents(&database, &contents)?;
    let (backend, increments) = match adopted {
        Some(native) => (native.backend, Increments::adopted(native.checkpoint, native.shared)),
        None => (backend, Increments::default()),
    };
    let (increments, timers) = (Arc::new(Mutex::new(increments)), Mutex::new(timers));
    let (database, upgrades) = (Arc::new(database), Mutex::new(upgrades));
    Ok(Opened { database, contents, backend, increments, timers, upgrades })
}

/// Bytes of a batch when a state is filled.
pub(super) const BATCH_BYTES: usize = 512 << 10;

/// Writes what a full snapshot has of a state.
fn fill(
    database: &Database,
    state: &Pending,
    restored: &Restored,
    group_length: usize,
    max_parallelism: u16,
) -> Result<(), OpenFailure> {
    let name = &state.header.name;
    let family = database.family(name)?;
    let mut batch = WriteBatch::default();
    let mut longest = 0;
    for (group, section) in &restored.sections {
        let mut failure = None;
        let read = section.for_each(|entry| {
            let mut put = |key: &[u8], value: &[u8]| {
                database.check_size(name, key, value)?;
                longest = longest.max(value.len() as u64);
                batch.put_cf(family, key, value);
                if batch.size_in_bytes() > BATCH_BYTES {
                    database.write(name, std::mem::take(&mut batch))?;
                }
                Ok(())
            };
            let mut key = Vec::with_capacity(entry.key.len() + 16);
            put_group(*group, group_length, &mut key);
            key.extend_from_slice(entry.key);
            let wrong = |what: &str, problem: String| {
                crate::state::FormatError(format!("state {name}: a {what} does not decode: {problem}"))
            };
            let stored = match &state.declared {
                None => put(&key, entry.value),
                Some(declared) => {
                    (declared.check_key)(entry.key, *group, max_parallelism).map_err(|e| wrong("key", e))?;
                    match declared.split {
                        None => {
                            (declared.check_value)(entry.value).map_err(|e| wrong("value", e))?;
                            put(&key, entry.value)
                        }
                        Some(split) => {
                            let mut stored = Ok(());
                            let plain = key.len();
                            split(entry.value, &mut |map_key, value| {
                                key.truncate(plain);
                                key.extend_from_slice(map_key);
                                put_tail(plain - group_length, &mut key);
                                if stored.is_ok() {
                                    stored = put(&key, value);
                                }
                                Ok(())
                            })
                            .map_err(|e| wrong("value", e))?;
                            stored
                        }
                    }
                }
            };
            stored.map_err(|error: StateError| {
                let text = error.to_string();
                failure = Some(error);
                crate::state::FormatError(text)
            })
        });
        match (failure, read) {
            (Some(error), _) => return Err(error.into()),
            (None, Err(error)) => return Err(OpenFailure::Data(error.to_string())),
            (None, Ok(())) => {}
        }
    }
    if state.header.kind == StateKind::List {
        database.note_longest_list(name, longest)?;
    }
    Ok(database.write(name, batch)?)
}

//! Files of a native checkpoint are taken as they are; here what they hold becomes what is declared, before anything reads it.

use rocksdb::WriteBatch;

use super::{
    database::Database,
    declared::CheckKey,
    layout::{group_length, group_of, group_start},
    open::{BATCH_BYTES, OpenFailure, Pending},
    tables::bad_key,
};
use crate::{
    ids::KeyGroupRange,
    state::{
        error::{StateError, StateProblem},
        format::{PartHeader, StateHeader, StateKind, StateStructure},
        restored::{Fit, fit, upgrade},
        shape::Shape,
        timer_rows::TIMESTAMP_BYTES,
    },
};

/// For what neither grows nor may be other than it was.
pub(super) fn as_it_is(stored: &StateHeader, declared: &StateHeader) -> Result<(), OpenFailure> {
    match fit(stored, declared)? {
        Fit::AsItIs => Ok(()),
        Fit::Grown | Fit::Padded => {
            let name = &declared.name;
            Err(OpenFailure::Data(format!("{name:?} is a {stored} in the snapshot, and cannot grow into a {declared}")))
        }
    }
}

/// Encodes the values of a state anew, if those that files of an older program hold are not yet what is declared; before anything
/// else reads them. Lists are read as what their pieces have been merged to, and become one piece. How many values there were.
pub(super) fn grow(
    database: &Database,
    stored: &StateHeader,
    state: &Pending,
    is_whole: bool,
    range: KeyGroupRange,
    group_length: usize,
) -> Result<u64, OpenFailure> {
    let name = &state.header.name;
    let declared = match (fit(stored, &state.header)?, state.declared) {
        (Fit::AsItIs, _) => return Ok(0),
        (_, None) => return as_it_is(stored, &state.header).map(|()| 0),
        (_, Some(declared)) => declared,
    };
    let fit = fit(stored, &state.header)?;
    // What lies in the database of a map are its values.
    let (mut then, mut now) = (stored.clone(), state.header.clone());
    if declared.split.is_some() && !is_whole {
        (then.structure, now.structure) = (of_entries(then.structure), of_entries(now.structure));
    }
    let family = database.family(name)?;
    let start = group_start(u32::from(range.first.0), group_length);
    let end = group_start(u32::from(range.last.0) + 1, group_length);
    let (mut batch, mut values) = (WriteBatch::default(), 0);
    // What is written now the scan does not see.
    database.scan(name, &start, Some(end), |key, value| {
        let grown = upgrade(&then, &now, fit, value, declared.pad)
            .map_err(|detail| StateError::new(name, StateProblem::Decode { what: "value", detail }))?;
        database.check_size(name, key, &grown)?;
        batch.put_cf(family, key, grown);
        values += 1;
        if batch.size_in_bytes() > BATCH_BYTES {
            database.write(name, std::mem::take(&mut batch))?;
        }
        Ok(true)
    })?;
    database.write(name, batch)?;
    Ok(values)
}

/// The structure of the values of a map.
fn of_entries(structure: Option<StateStructure>) -> Option<StateStructure> {
    structure.map(|StateStructure { value, namespace }| {
        let value = if let Shape::Map(_, value) = value { *value } else { value };
        StateStructure { value, namespace }
    })
}

/// Whether all keys are in their key groups: their type has another name than it had, and may have other hashes.
pub(super) fn check_keys(
    database: &Database,
    header: &PartHeader,
    states: &[StateHeader],
    check: CheckKey,
) -> Result<(), OpenFailure> {
    let length = group_length(header.max_parallelism);
    let start = group_start(u32::from(header.key_groups.first.0), length);
    let end = group_start(u32::from(header.key_groups.last.0) + 1, length);
    for StateHeader { name, kind, .. } in states {
        let before_key = length + if *kind == StateKind::Timers { TIMESTAMP_BYTES } else { 0 };
        database.scan(name, &start, Some(end.clone()), |entry, _| {
            let (group, key) = group_of(entry, length).zip(entry.get(before_key..)).ok_or_else(|| bad_key(name))?;
            let checked = check(key, group, header.max_parallelism);
            checked.map_err(|detail| StateError::new(name, StateProblem::Decode { what: "key", detail }))?;
            Ok(true)
        })?;
    }
    Ok(())
}

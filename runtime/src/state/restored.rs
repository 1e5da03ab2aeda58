//! The parts of a snapshot of keyed state, read and sorted by state: what both stores are restored from.

use std::{any::type_name, collections::BTreeMap};

use bytes::Bytes;

use super::{
    error::UserError,
    format::{PartReader, StateHeader, StateSection},
    key::StateKey,
};
use crate::ids::{KeyGroup, KeyGroupRange, OperatorUid};

/// One state of the snapshot.
pub(super) struct Restored {
    pub header: StateHeader,
    pub sections: BTreeMap<KeyGroup, StateSection>,
}

/// Reads parts; none for a fresh start. Parts may cover more key groups than `range` (the operator had another
/// parallelism), what is not of `range` is left out.
///
/// # Errors
/// If a part is not readable, not of this operator, or the parts do not hold each key group of `range` exactly once.
pub(super) fn read_parts<K: StateKey>(
    operator: &OperatorUid,
    range: KeyGroupRange,
    max_parallelism: u16,
    parts: &[(KeyGroupRange, Bytes)],
) -> Result<BTreeMap<String, Restored>, UserError> {
    let mut restored: BTreeMap<String, Restored> = BTreeMap::new();
    let mut covered = vec![false; range.count() as usize];
    for (key_groups, bytes) in parts {
        let of_part = |problem: String| UserError::new(format!("state part for key groups {key_groups}: {problem}"));
        let part = PartReader::new(bytes).map_err(|error| of_part(error.to_string()))?;
        if part.header.operator != operator.0 {
            return Err(of_part(format!("is of operator {}", part.header.operator)));
        }
        if part.header.key_groups != *key_groups {
            return Err(of_part(format!("holds key groups {}", part.header.key_groups)));
        }
        if part.header.max_parallelism != max_parallelism {
            return Err(of_part(format!(
                "was written with max parallelism {}, the job has {max_parallelism}; it cannot be changed",
                part.header.max_parallelism
            )));
        }
        if part.header.key_type != type_name::<K>() {
            return Err(of_part(format!(
                "has keys of type {}, the operator has keys of type {}",
                part.header.key_type,
                type_name::<K>()
            )));
        }
        for group in part.header.key_groups.iter().filter(|group| range.contains(*group)) {
            let seen = &mut covered[usize::from(group.0 - range.first.0)];
            if std::mem::replace(seen, true) {
                return Err(of_part(format!("key group {group} occurs in another part too")));
            }
        }
        for section in part.sections.into_iter().filter(|section| range.contains(section.group)) {
            let header = &part.header.states[section.state];
            let state = restored
                .entry(header.name.clone())
                .or_insert_with(|| Restored { header: header.clone(), sections: BTreeMap::new() });
            if state.header != *header {
                return Err(of_part(format!(
                    "state {:?} is a {header} here and a {} in another part",
                    header.name, state.header
                )));
            }
            state.sections.insert(section.group, section);
        }
    }
    if !parts.is_empty()
        && let Some(missing) = covered.iter().position(|seen| !seen)
    {
        let group = u32::from(range.first.0) + u32::try_from(missing).unwrap_or(u32::MAX);
        return Err(UserError::new(format!("no state part holds key group {group}")));
    }
    Ok(restored)
}

/// Whether what the snapshot has under a name is what the code declares.
///
/// # Errors
/// Names both.
pub(super) fn same_state(snapshot: &StateHeader, declared: &StateHeader) -> Result<(), UserError> {
    if snapshot == declared {
        return Ok(());
    }
    let name = &declared.name;
    Err(UserError::new(format!("state {name:?} is a {snapshot} in the snapshot and a {declared} in the code")))
}

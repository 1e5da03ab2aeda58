//! The parts of a snapshot of keyed state, read and sorted by state: what both stores are restored from.

use std::{any::type_name, collections::BTreeMap};

use bytes::Bytes;

use super::{
    error::UserError,
    format::{FormatError, PartReader, StateHeader, StateSection, put_entry},
    key::StateKey,
    table::{EncodeValue, StateValue},
};
use crate::ids::{KeyGroup, KeyGroupRange, OperatorUid};

/// One state of the snapshot.
pub(super) struct Restored {
    pub header: StateHeader,
    pub sections: BTreeMap<KeyGroup, StateSection>,
}

/// So many bytes may be missing at the end of a value of an older version: fields that were added since. A zero is an absent
/// option, an empty list or text, or the number 0.
const ADDED_BYTES: usize = 64;

impl Restored {
    /// Writes all values anew as those of `header`, a later version of the same state.
    ///
    /// # Errors
    /// If a value is not what an older version of `V` can have written.
    pub(super) fn upgrade<V: StateValue>(
        &mut self,
        header: &StateHeader,
        encode: EncodeValue<V>,
    ) -> Result<(), UserError> {
        let (older, name) = (self.header.clone(), header.name.clone());
        for section in self.sections.values_mut() {
            let mut upgraded = Vec::with_capacity(section.bytes.len());
            section.for_each(|entry| {
                let padded = [entry.value, &[0; ADDED_BYTES]].concat();
                let not_upgraded = |problem: String| {
                    FormatError(format!(
                        "state {name:?}, a {older} in the snapshot, cannot become a {header}: {problem}"
                    ))
                };
                let (value, left) = postcard::take_from_bytes::<V>(&padded).map_err(|e| not_upgraded(e.to_string()))?;
                // All that was written belongs to the value, or fields have gone.
                if left.len() > ADDED_BYTES {
                    return Err(not_upgraded(format!("{} bytes are left over", left.len() - ADDED_BYTES)));
                }
                let bytes = encode(&value, Vec::new()).map_err(|e| not_upgraded(e.to_string()))?;
                put_entry(entry.key, &bytes, &mut upgraded);
                Ok(())
            })?;
            section.bytes = upgraded.into();
        }
        self.header = header.clone();
        Ok(())
    }
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

//! The parts of a snapshot of keyed state, read and sorted by state: what both stores are restored from.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    error::UserError,
    format::{FormatError, PartHeader, PartReader, StateHeader, StateKind, StateSection, put_entry},
    shape::{Added, Change, compare, same, transcode},
    table::{EncodeValue, StateValue},
};
use crate::ids::{KeyGroup, KeyGroupRange};

/// One state of the snapshot.
pub(super) struct Restored {
    pub header: StateHeader,
    pub sections: BTreeMap<KeyGroup, StateSection>,
}

impl Restored {
    /// Makes this the state that `header` declares, whose values are encoded by `encode`. How many values were encoded anew.
    ///
    /// # Errors
    /// If it is another state, or a value is not what it should be.
    pub(super) fn grow_into<V: StateValue>(
        &mut self,
        header: &StateHeader,
        encode: EncodeValue<V>,
    ) -> Result<u64, UserError> {
        let fit = fit(&self.header, header)?;
        let mut values = 0;
        if fit != Fit::AsItIs {
            for section in self.sections.values_mut() {
                let mut upgraded = Vec::with_capacity(section.bytes.len());
                section.for_each(|entry| {
                    let value = upgrade(&self.header, header, fit, entry.value, |old| pad(old, encode));
                    put_entry(entry.key, &value.map_err(FormatError)?, &mut upgraded);
                    values += 1;
                    Ok(())
                })?;
                section.bytes = upgraded.into();
            }
        }
        self.header = header.clone();
        Ok(values)
    }
}

/// How a state of a snapshot becomes the one that is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// Its values are what the code reads.
    AsItIs,
    /// Its values are of an older structure, and are encoded anew.
    Grown,
    /// One of the structures is not known, and the author of the job has raised the version: fields were added to the end of the
    /// type, of which each may be absent. Not all of that shows if it is not so.
    Padded,
}

/// How what the snapshot has under a name becomes what the code declares.
///
/// # Errors
/// If it does not. Names both, and the first difference.
pub(super) fn fit(snapshot: &StateHeader, declared: &StateHeader) -> Result<Fit, UserError> {
    let refused = |why: String| {
        let name = &declared.name;
        UserError::new(format!("state {name:?} is a {snapshot} in the snapshot and a {declared} in the code{why}"))
    };
    if (&snapshot.name, snapshot.kind) != (&declared.name, declared.kind) || snapshot.version > declared.version {
        return Err(refused(String::new()));
    }
    let is_raised = snapshot.version < declared.version;
    let (Some(then), Some(now)) = (&snapshot.structure, &declared.structure) else {
        let single = matches!(declared.kind, StateKind::Value | StateKind::Reducing | StateKind::Aggregating);
        return match snapshot.value_type == declared.value_type {
            true if !is_raised => Ok(Fit::AsItIs),
            true if single => Ok(Fit::Padded),
            _ => Err(refused(String::new())),
        };
    };
    same(&then.namespace, &now.namespace).map_err(|difference| refused(format!(": its namespace: {difference}")))?;
    let added = if is_raised { Added::Zero } else { Added::Optional };
    match compare(&then.value, &now.value, added) {
        Ok(Change::None) => Ok(Fit::AsItIs),
        Ok(Change::Grown) => Ok(Fit::Grown),
        Err(difference) => Err(refused(format!(": {difference}"))),
    }
}

/// A value of the snapshot as one of the declared state; `fit` says how. `pad` is for [`Fit::Padded`].
pub(super) fn upgrade(
    snapshot: &StateHeader,
    declared: &StateHeader,
    fit: Fit,
    value: &[u8],
    pad: impl FnOnce(&[u8]) -> Result<Vec<u8>, String>,
) -> Result<Vec<u8>, String> {
    let upgraded = match (fit, &snapshot.structure, &declared.structure) {
        (Fit::Grown, Some(then), Some(now)) => transcode(&then.value, &now.value, value),
        (Fit::Padded, ..) => pad(value),
        _ => Ok(value.to_vec()),
    };
    upgraded.map_err(|problem| {
        let name = &declared.name;
        format!("state {name:?}, a {snapshot} in the snapshot, cannot become a {declared}: {problem}")
    })
}

/// So many bytes may be missing at the end of a value of an older version: fields that were added since. A zero is an absent
/// option, an empty list or text, or the number 0.
const ADDED_BYTES: usize = 64;

/// Reads a value of an older version of its type, of whose structure nothing is known.
pub(super) fn pad<V: StateValue>(value: &[u8], encode: EncodeValue<V>) -> Result<Vec<u8>, String> {
    let padded = [value, &[0; ADDED_BYTES]].concat();
    let (value, left) = postcard::take_from_bytes::<V>(&padded).map_err(|error| error.to_string())?;
    // All that was written belongs to the value, or fields have gone.
    if left.len() > ADDED_BYTES {
        return Err(format!("{} bytes are left over", left.len() - ADDED_BYTES));
    }
    encode(&value, Vec::new()).map_err(|error| error.to_string())
}

/// Reads parts; none for a fresh start. Parts may cover more key groups than `range` (the operator had another
/// parallelism), what is not of `range` is left out.
///
/// # Errors
/// If a part is not readable, not of this operator, or the parts do not hold each key group of `range` exactly once.
pub(super) fn read_parts(
    own: &PartHeader,
    parts: &[(KeyGroupRange, Bytes)],
) -> Result<BTreeMap<String, Restored>, UserError> {
    let (range, max_parallelism) = (own.key_groups, own.max_parallelism);
    let mut restored: BTreeMap<String, Restored> = BTreeMap::new();
    let mut covered = vec![false; range.count() as usize];
    for (key_groups, bytes) in parts {
        let of_part = |problem: String| UserError::new(format!("state part for key groups {key_groups}: {problem}"));
        let part = PartReader::with_groups(bytes, |group| range.contains(group))
            .map_err(|error| of_part(error.to_string()))?;
        if part.header.operator != own.operator {
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
        part.header.has_keys_of(own).map_err(of_part)?;
        for group in part.header.key_groups.iter().filter(|group| range.contains(*group)) {
            let seen = &mut covered[usize::from(group.0 - range.first.0)];
            if std::mem::replace(seen, true) {
                return Err(of_part(format!("key group {group} occurs in another part too")));
            }
        }
        for section in part.sections {
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

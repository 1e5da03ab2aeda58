//! The share of operator state that falls to a subtask.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    error::UserError,
    operator::SubtaskPlace,
    operator_format::{OperatorPart, OperatorStateHeader, OperatorStateMode},
    redistribution::{broadcast_copy, split_share},
    shape::{Added, Change, Shape, compare, same, transcode},
};

pub(super) struct Restored {
    pub header: OperatorStateHeader,
    pub entries: Vec<Bytes>,
}

impl Restored {
    /// The elements as those of the state that `declared` says; and how many of them were encoded anew.
    ///
    /// # Errors
    /// If it is another state, or its elements cannot become those of the type that is declared. Names both, and the first
    /// difference.
    pub(super) fn grow_into(self, declared: &OperatorStateHeader) -> Result<(Vec<Bytes>, u64), UserError> {
        let Restored { header: then, entries } = self;
        let refused = |why: String| {
            let name = &declared.name;
            UserError::new(format!(
                "operator state {name:?} is a {then} in the snapshot and a {declared} in the code{why}"
            ))
        };
        if then.mode != declared.mode {
            return Err(refused(String::new()));
        }
        let (Some(old), Some(new)) = (&then.structure, &declared.structure) else {
            return if then.value_type == declared.value_type { Ok((entries, 0)) } else { Err(refused(String::new())) };
        };
        // The keys of a broadcast map must stay as they are, as those of every map.
        if let (OperatorStateMode::Broadcast, Shape::Tuple(old), Shape::Tuple(new)) = (then.mode, old, new)
            && let ([old, _], [new, _]) = (old.as_slice(), new.as_slice())
        {
            same(old, new).map_err(|difference| refused(format!(": a key: {difference}")))?;
        }
        match compare(old, new, Added::Optional) {
            Ok(Change::None) => Ok((entries, 0)),
            Ok(Change::Grown) => {
                let grown = |entry: &Bytes| {
                    let damaged = |problem| refused(format!(": an element of the snapshot is damaged: {problem}"));
                    transcode(old, new, entry).map(Bytes::from).map_err(damaged)
                };
                let grown = entries.iter().map(grown).collect::<Result<Vec<Bytes>, _>>()?;
                let count = grown.len() as u64;
                Ok((grown, count))
            }
            Err(difference) => Err(refused(format!(": {difference}"))),
        }
    }
}

/// Adds what falls to a subtask of parts of one kind, which are in the order of their subtasks.
pub(super) fn take_share(
    parts: Vec<OperatorPart>,
    union: bool,
    place: SubtaskPlace,
    restored: &mut BTreeMap<String, Restored>,
) -> Result<(), UserError> {
    let Some(before) = parts.first().map(|part| part.header.parallelism) else { return Ok(()) };
    let same = before == place.parallelism;
    for part in &parts {
        if part.header.parallelism != before {
            let other = part.header.parallelism;
            return Err(UserError::new(format!("operator state was written at parallelism {before} and {other}")));
        }
    }
    let indices: Vec<u32> = parts.iter().map(|part| part.header.index).collect();
    let needed = if same && !union { vec![place.index] } else { (0..before).collect() };
    if let Some(missing) = needed.iter().find(|index| !indices.contains(index)) {
        return Err(UserError::new(format!("there is no operator state of subtask {missing} of {before}")));
    }
    if let Some(pair) = indices.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(UserError::new(format!("the operator state of subtask {} is there twice", pair[0])));
    }
    // By name: each state with what the subtasks that had it wrote, in their order.
    let mut states: BTreeMap<String, (OperatorStateHeader, Vec<Vec<Bytes>>)> = BTreeMap::new();
    for part in parts {
        if same && !union && part.header.index != place.index {
            continue;
        }
        for (header, entries) in part.header.states.into_iter().zip(part.states) {
            let (first, all) = states.entry(header.name.clone()).or_insert_with(|| (header.clone(), Vec::new()));
            if *first != header {
                return Err(UserError::new(format!(
                    "operator state {:?} is a {first} in one subtask and a {header} in another",
                    header.name
                )));
            }
            all.push(entries);
        }
    }
    let mut start = 0;
    for (name, (header, mut written)) in states {
        let entries = match header.mode {
            OperatorStateMode::Union => written.concat(),
            OperatorStateMode::Split if same => written.concat(),
            OperatorStateMode::Split => {
                let all = written.concat();
                let (share, next) = split_share(all.len(), place.parallelism, place.index, start);
                start = next;
                all[share].to_vec()
            }
            OperatorStateMode::Broadcast if same => written.concat(),
            OperatorStateMode::Broadcast => match broadcast_copy(written.len(), place.index) {
                Some(copy) => written.swap_remove(copy),
                None => Vec::new(),
            },
        };
        restored.insert(name, Restored { header, entries });
    }
    Ok(())
}

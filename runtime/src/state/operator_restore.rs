//! The share of operator state that falls to a subtask.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    error::UserError,
    operator::SubtaskPlace,
    operator_format::{OperatorPart, OperatorStateHeader, OperatorStateMode},
    redistribution::{broadcast_copy, split_share},
};

pub(super) struct Restored {
    pub header: OperatorStateHeader,
    pub entries: Vec<Bytes>,
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

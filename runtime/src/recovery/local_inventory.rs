//! What a TaskManager says it has of local state, for whoever decides where tasks go. A hint and no more: a copy is believed
//! only after it was checked, where and when it is restored from; a hint that is wrong costs a slower restore.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::local_manifest::LocalManifest;
use crate::{
    checkpoint::types::{RestoreOrder, SubtaskKey},
    ids::{AllocationId, CheckpointId, KeyGroupRange, OperatorUid},
};

/// State of one operator for one range of key groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldState {
    pub operator: OperatorUid,
    pub key_groups: KeyGroupRange,
    pub bytes: u64,
}

/// One local copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldCopy {
    pub checkpoint: CheckpointId,
    /// Who wrote it.
    pub subtask: SubtaskKey,
    /// The allocation that it belongs to.
    pub allocation: AllocationId,
    /// In order of operators and ranges; a range once.
    pub state: Vec<HeldState>,
}

impl HeldCopy {
    pub(super) fn of(manifest: &LocalManifest) -> HeldCopy {
        let mut state: BTreeMap<(&OperatorUid, KeyGroupRange), u64> = BTreeMap::new();
        for part in &manifest.parts {
            *state.entry((&part.operator, part.key_groups)).or_default() += part.length;
        }
        let held = |((operator, key_groups), bytes): ((&OperatorUid, KeyGroupRange), u64)| HeldState {
            operator: operator.clone(),
            key_groups,
            bytes,
        };
        HeldCopy {
            checkpoint: manifest.checkpoint,
            subtask: manifest.subtask,
            allocation: manifest.allocation,
            state: state.into_iter().map(held).collect(),
        }
    }
}

/// All local copies of a TaskManager, in order of checkpoint, subtask and allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalInventory {
    pub copies: Vec<HeldCopy>,
}

impl LocalInventory {
    /// How many bytes of what `order` asks for lie here. Parts of one operator and range count up to what is held of them, so
    /// that it is never more than the order has.
    pub fn bytes_for(&self, order: &RestoreOrder) -> u64 {
        let mut wanted: BTreeMap<(u32, &OperatorUid, KeyGroupRange), u64> = BTreeMap::new();
        for restored in order.parts.iter().filter(|restored| restored.part.object().is_some()) {
            let part = &restored.part;
            *wanted.entry((restored.from, &part.operator, part.key_groups)).or_default() += part.length;
        }
        wanted
            .into_iter()
            .map(|((from, operator, key_groups), bytes)| {
                let of_subtask = self
                    .copies
                    .iter()
                    .filter(|copy| copy.checkpoint == order.checkpoint && copy.subtask.1 == from)
                    .flat_map(|copy| &copy.state);
                let held = of_subtask
                    .filter(|state| state.operator == *operator && state.key_groups == key_groups)
                    .map(|state| state.bytes)
                    .max();
                held.unwrap_or(0).min(bytes)
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::types::{PartKind, PartLocation, RestorePart, StatePart},
        graph::ProgramId,
        ids::{JobId, KeyGroup},
        platform::ObjectName,
        recovery::local_manifest::LocalPart,
    };

    fn range(first: u16, last: u16) -> KeyGroupRange {
        KeyGroupRange { first: KeyGroup(first), last: KeyGroup(last) }
    }

    fn part(from: u32, key_groups: KeyGroupRange, length: u64, inline: bool) -> RestorePart {
        let object =
            ObjectName::new(format!("checkpoints/{from}-{key_groups:?}").replace([' ', '{', '}'], "")).unwrap();
        let location =
            if inline { PartLocation::Inline(vec![0; length as usize].into()) } else { PartLocation::Object(object) };
        let part = StatePart {
            operator: OperatorUid("fold".into()),
            key_groups,
            name: "p".into(),
            kind: PartKind::Keyed,
            location,
            length,
            crc32c: 0,
            written_by: CheckpointId(3),
            backend: None,
        };
        RestorePart { from, part }
    }

    fn held(checkpoint: u64, index: u32, state: &[(KeyGroupRange, u64)]) -> HeldCopy {
        let state = state.iter().map(|(key_groups, bytes)| HeldState {
            operator: OperatorUid("fold".into()),
            key_groups: *key_groups,
            bytes: *bytes,
        });
        HeldCopy {
            checkpoint: CheckpointId(checkpoint),
            subtask: (1, index),
            allocation: AllocationId(index.into()),
            state: state.collect(),
        }
    }

    /// What is of one operator and range counts together, in however many parts it lies.
    #[test]
    fn a_copy_holds_what_its_manifest_lists() {
        let part = |operator: &str, key_groups, length| LocalPart {
            operator: OperatorUid(operator.into()),
            key_groups,
            name: format!("{operator}-{length}"),
            object: String::new(),
            length,
            crc32c: 0,
        };
        let manifest = LocalManifest {
            job: JobId(1),
            program: ProgramId::default(),
            allocation: AllocationId(9),
            subtask: (1, 0),
            checkpoint: CheckpointId(3),
            parts: vec![
                part("fold", range(0, 9), 70),
                part("fold", range(10, 19), 5),
                part("fold", range(0, 9), 30),
                part("count", range(0, 9), 2),
            ],
        };
        let copy = HeldCopy::of(&manifest);
        assert_eq!((copy.checkpoint, copy.subtask, copy.allocation), (CheckpointId(3), (1, 0), AllocationId(9)));
        let state: Vec<_> = copy.state.iter().map(|s| (s.operator.to_string(), s.key_groups, s.bytes)).collect();
        let expected = [("count", range(0, 9), 2), ("fold", range(0, 9), 100), ("fold", range(10, 19), 5)];
        assert_eq!(state, expected.map(|(operator, key_groups, bytes)| (operator.to_string(), key_groups, bytes)));
    }

    /// What overlaps counts, by checkpoint, writer, operator and range; what comes with the order does not, nor a copy twice.
    #[test]
    fn an_inventory_says_how_much_of_an_order_lies_here() {
        let order = RestoreOrder {
            checkpoint: CheckpointId(3),
            parts: vec![
                part(0, range(0, 9), 100, false),
                part(0, range(10, 19), 50, false),
                part(1, range(20, 29), 30, false),
                part(1, range(30, 39), 7, true),
            ],
            ..RestoreOrder::default()
        };
        let nothing = LocalInventory::default();
        assert_eq!(nothing.bytes_for(&order), 0);
        let all = LocalInventory {
            copies: vec![
                held(3, 0, &[(range(0, 9), 100), (range(10, 19), 50)]),
                held(3, 1, &[(range(20, 29), 30), (range(30, 39), 7)]),
            ],
        };
        assert_eq!(all.bytes_for(&order), 180);
        let of_another = LocalInventory { copies: vec![held(2, 0, &[(range(0, 9), 100)])] };
        assert_eq!(of_another.bytes_for(&order), 0, "another checkpoint");
        let twice =
            LocalInventory { copies: vec![held(3, 1, &[(range(20, 29), 30)]), held(3, 1, &[(range(20, 29), 30)])] };
        assert_eq!(twice.bytes_for(&order), 30);
        let of_other_range = LocalInventory { copies: vec![held(3, 0, &[(range(0, 19), 150)])] };
        assert_eq!(of_other_range.bytes_for(&order), 0, "another range");
    }
}

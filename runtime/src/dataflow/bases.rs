//! What a subtask has written in this execution and which checkpoint it may base the next snapshot on: the last one it was told
//! is complete, never one that is merely written. What of that has not changed since need not be written again.

use std::collections::BTreeMap;

use super::chain::{PartData, PartSource};
use crate::{
    checkpoint::types::StatePart,
    ids::{CheckpointId, OperatorUid},
};

/// Names a part within a subtask.
type PartKey = (OperatorUid, String);

/// A part as a checkpoint has it, and the number of its content.
struct Written {
    content: u64,
    part: StatePart,
}

/// The contents of the parts of one snapshot that can be reused, by name.
#[derive(Default)]
pub struct Contents(BTreeMap<PartKey, u64>);

#[derive(Default)]
pub struct Bases {
    written: BTreeMap<CheckpointId, BTreeMap<PartKey, Written>>,
    confirmed: Option<CheckpointId>,
}

impl Bases {
    /// The checkpoint that the next snapshot is based on.
    pub fn base(&self) -> Option<CheckpointId> {
        self.confirmed
    }

    /// Replaces the parts that the base has already by references to it. Gives what must be remembered with
    /// [`Self::wrote`].
    pub fn resolve(&self, parts: &mut [PartSource]) -> Contents {
        let base = self.confirmed.and_then(|base| self.written.get(&base));
        let mut contents = Contents::default();
        for source in parts {
            let PartData::EncodeUnlessKnown { content, .. } = &source.data else { continue };
            let (content, key) = (*content, (source.operator.clone(), source.name.clone()));
            let known = base.and_then(|base| base.get(&key)).filter(|known| known.content == content);
            if let Some(known) = known.filter(|known| known.part.key_groups == source.key_groups) {
                source.data = PartData::Reuse(known.part.clone());
            }
            contents.0.insert(key, content);
        }
        contents
    }

    /// A snapshot is written, and its parts are these.
    pub fn wrote(&mut self, checkpoint: CheckpointId, contents: &Contents, parts: &[StatePart]) {
        if self.confirmed.is_some_and(|confirmed| checkpoint < confirmed) {
            return;
        }
        let mut written = BTreeMap::new();
        // What is inline is small: it is written anew each time.
        for part in parts.iter().filter(|part| part.object().is_some()) {
            let key = (part.operator.clone(), part.name.clone());
            if let Some(content) = contents.0.get(&key) {
                written.insert(key, Written { content: *content, part: part.clone() });
            }
        }
        self.written.insert(checkpoint, written);
    }

    /// The checkpoint is complete. What is older is no base any more.
    pub fn completed(&mut self, checkpoint: CheckpointId) {
        if self.confirmed.is_none_or(|confirmed| confirmed < checkpoint) {
            self.confirmed = Some(checkpoint);
            self.written = self.written.split_off(&checkpoint);
        }
    }

    /// The checkpoint will never be complete.
    pub fn aborted(&mut self, checkpoint: CheckpointId) {
        if self.confirmed != Some(checkpoint) {
            self.written.remove(&checkpoint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::types::{PartKind, PartLocation},
        ids::{KeyGroup, KeyGroupRange},
        platform::ObjectName,
    };

    fn operator() -> OperatorUid {
        OperatorUid("count".into())
    }

    fn source(content: u64) -> PartSource {
        PartSource {
            operator: operator(),
            key_groups: KeyGroupRange { first: KeyGroup(0), last: KeyGroup(1) },
            name: "part".into(),
            kind: PartKind::Keyed,
            backend: None,
            data: PartData::encode_unless_known(content, bytes::Bytes::new),
        }
    }

    /// Writes a snapshot; gives the checkpoint that wrote its only part.
    fn write(bases: &mut Bases, checkpoint: u64, content: u64) -> u64 {
        let mut parts = vec![source(content)];
        let contents = bases.resolve(&mut parts);
        let PartSource { operator, key_groups, name, kind, backend, data } = parts.remove(0);
        let part = match data {
            PartData::Reuse(part) => part,
            _ => StatePart {
                operator,
                key_groups,
                name,
                kind,
                location: PartLocation::Object(ObjectName::new(format!("o{checkpoint}")).unwrap()),
                length: 0,
                crc32c: 0,
                written_by: CheckpointId(checkpoint),
                backend,
            },
        };
        let by = part.written_by.0;
        bases.wrote(CheckpointId(checkpoint), &contents, &[part]);
        by
    }

    /// Written is not enough, however unchanged the state is: the checkpoint must be complete.
    #[test]
    fn only_what_is_confirmed_is_a_base() {
        let mut bases = Bases::default();
        assert_eq!(write(&mut bases, 1, 7), 1);
        assert_eq!(write(&mut bases, 2, 7), 2, "checkpoint 1 is not confirmed");
        bases.completed(CheckpointId(1));
        assert_eq!(write(&mut bases, 3, 7), 1);
        assert_eq!(write(&mut bases, 4, 8), 4, "it has changed");
        bases.aborted(CheckpointId(3));
        bases.completed(CheckpointId(4));
        assert_eq!(write(&mut bases, 5, 8), 4);
        assert_eq!(bases.base(), Some(CheckpointId(4)));
    }

    /// News that come late, or in another order, do not lead back.
    #[test]
    fn the_base_never_goes_back() {
        let mut bases = Bases::default();
        let _ = (write(&mut bases, 1, 7), write(&mut bases, 2, 7));
        bases.completed(CheckpointId(2));
        bases.completed(CheckpointId(1));
        bases.aborted(CheckpointId(2));
        assert_eq!(write(&mut bases, 3, 7), 2);
    }
}

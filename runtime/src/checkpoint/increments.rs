//! Which files the incremental checkpoints of one working store have written, and which of them the next one may refer to:
//! a pure state machine of the task's side.
//!
//! The base is always the last checkpoint that was confirmed to the task, and one whose files the task has written down:
//! files of an unconfirmed checkpoint may be deleted any time, and a confirmation of something else (a savepoint, say) is no
//! base (FLINK-23949).

use std::collections::BTreeMap;

use super::types::StatePart;
use crate::ids::CheckpointId;

/// The shared files of a checkpoint, by their names in the native checkpoint.
pub type SharedFiles = BTreeMap<String, StatePart>;

#[derive(Debug, Default)]
pub struct Increments {
    confirmed: Option<(CheckpointId, SharedFiles)>,
    /// Written whole, and not confirmed.
    written: BTreeMap<CheckpointId, SharedFiles>,
}

impl Increments {
    /// Goes on from a checkpoint that was restored as it was.
    pub fn adopted(checkpoint: CheckpointId, files: SharedFiles) -> Increments {
        Increments { confirmed: Some((checkpoint, files)), written: BTreeMap::new() }
    }

    /// What the next checkpoint need not write again.
    pub fn base(&self) -> SharedFiles {
        self.confirmed.as_ref().map(|(_, files)| files.clone()).unwrap_or_default()
    }

    /// All files of `checkpoint` are durable.
    pub fn written(&mut self, checkpoint: CheckpointId, files: SharedFiles) {
        // One that was confirmed meanwhile, or overtaken by a newer one, will never be confirmed again.
        if self.confirmed.as_ref().is_none_or(|(confirmed, _)| *confirmed < checkpoint) {
            self.written.insert(checkpoint, files);
        }
    }

    /// The task has heard that `checkpoint` is complete.
    pub fn confirmed(&mut self, checkpoint: CheckpointId) {
        if let Some(files) = self.written.remove(&checkpoint) {
            self.confirmed = Some((checkpoint, files));
            self.written = self.written.split_off(&checkpoint);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        checkpoint::types::{PartKind, PartLocation},
        ids::{KeyGroup, KeyGroupRange, OperatorUid},
    };

    fn files(checkpoint: u64) -> SharedFiles {
        let file = format!("{checkpoint:06}.sst");
        let part = StatePart {
            operator: OperatorUid("count".into()),
            key_groups: KeyGroupRange { first: KeyGroup(0), last: KeyGroup(1) },
            name: file.clone(),
            kind: PartKind::Shared { file: file.clone() },
            location: PartLocation::Inline(bytes::Bytes::new()),
            length: 0,
            crc32c: 0,
            written_by: CheckpointId(checkpoint),
            backend: None,
        };
        [(file, part)].into()
    }

    /// R152.
    #[test]
    fn the_base_is_the_last_confirmed_checkpoint() {
        let mut increments = Increments::default();
        assert!(increments.base().is_empty());
        increments.written(CheckpointId(1), files(1));
        assert!(increments.base().is_empty(), "nothing is confirmed");
        increments.written(CheckpointId(2), files(2));
        increments.confirmed(CheckpointId(1));
        assert_eq!(increments.base(), files(1));
        // An aborted checkpoint is never a base.
        increments.written(CheckpointId(3), files(3));
        increments.confirmed(CheckpointId(3));
        assert_eq!(increments.base(), files(3));
        increments.confirmed(CheckpointId(2));
        assert_eq!(increments.base(), files(3), "a late confirmation changes nothing");
    }

    #[test]
    fn what_was_not_written_here_is_no_base() {
        let mut increments = Increments::adopted(CheckpointId(4), files(4));
        increments.confirmed(CheckpointId(5));
        assert_eq!(increments.base(), files(4));
        increments.written(CheckpointId(3), files(3));
        increments.confirmed(CheckpointId(3));
        assert_eq!(increments.base(), files(4), "older than what is confirmed");
    }

    proptest! {
        #[test]
        fn the_base_is_confirmed_and_never_goes_back(steps in prop::collection::vec((0u64..12, any::<bool>()), 0..40)) {
            let mut increments = Increments::default();
            let mut confirmed: Vec<u64> = Vec::new();
            let mut last = 0;
            for (checkpoint, confirm) in steps {
                if confirm {
                    increments.confirmed(CheckpointId(checkpoint));
                    confirmed.push(checkpoint);
                } else {
                    increments.written(CheckpointId(checkpoint), files(checkpoint));
                }
                if let Some(part) = increments.base().values().next() {
                    prop_assert!(confirmed.contains(&part.written_by.0));
                    prop_assert!(part.written_by.0 >= last);
                    last = part.written_by.0;
                }
            }
        }
    }
}

//! Snapshots of the keyed state of one operator in one subtask: in parts, which any backend reads, or as files of a database.

use super::{
    backend::{KeyedBackend, Store, plain_name},
    error::StateError,
    format::{PartHeader, SectionWriter, StateHeader, encode_part},
    key::StateKey,
    key_group::split_range,
};
use crate::{
    checkpoint::types::PartKind,
    dataflow::chain::{ChainSnapshot, NativeSnapshot, PartData, PartSource, SnapshotFormat},
    ids::{CheckpointId, KeyGroupRange, OperatorUid},
};

/// Of one part, in the order of its states.
type Sections = Vec<Box<dyn SectionWriter>>;

impl<K: StateKey> KeyedBackend<K> {
    /// The state as it is now, as files of a database; None if it is to be written in parts, by [`Self::snapshot`].
    ///
    /// # Errors
    /// If the state of the last key cannot be written back, or the database refuses.
    pub fn native_snapshot(&mut self, checkpoint: CheckpointId) -> Result<Option<NativeSnapshot>, StateError> {
        match &mut self.store {
            Store::Heap(_) => {
                let _ = checkpoint;
                Ok(None)
            }
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => rocks.native_snapshot(&self.operator, self.range, checkpoint),
        }
    }

    /// Adds the state as it is now to a snapshot, in the way the backend takes snapshots or as it was asked for.
    ///
    /// # Errors
    /// As [`Self::snapshot`] and [`Self::native_snapshot`].
    pub fn add_to(&mut self, snapshot: &mut ChainSnapshot) -> Result<(), StateError> {
        let native = match snapshot.format {
            SnapshotFormat::OfBackend => self.native_snapshot(snapshot.checkpoint)?,
            SnapshotFormat::Canonical => None,
        };
        match native {
            Some(native) => {
                snapshot.native.push(native);
                snapshot.parts.extend(self.heap_timers());
            }
            None => snapshot.parts.extend(self.snapshot()?),
        }
        Ok(())
    }

    /// Parts with the timers alone, if there are any queues: beside files of a database, which does not have them.
    fn heap_timers(&mut self) -> Vec<PartSource> {
        let states = self.time.add_headers(Vec::new());
        if states.is_empty() {
            return Vec::new();
        }
        let source = self.part_source();
        let parts = split_range(self.range, self.parts_per_snapshot).into_iter().map(|key_groups| {
            let first = usize::from(key_groups.first.0 - self.range.first.0);
            let groups = first..first + key_groups.count() as usize;
            source(&states, key_groups, None, self.time.add_sections(&[], Vec::new(), &groups))
        });
        parts.collect()
    }

    /// Makes parts of sections.
    fn part_source(&self) -> impl Fn(&[StateHeader], KeyGroupRange, Option<u64>, Sections) -> PartSource + use<K> {
        let (operator, description) = (self.operator.clone(), self.description.clone());
        let compression = self.compression;
        move |states, key_groups, content, sections| {
            let header = PartHeader { key_groups, states: states.to_vec(), ..description.clone() };
            PartSource {
                operator: operator.clone(),
                key_groups,
                name: part_name(&operator, key_groups),
                kind: PartKind::Keyed,
                backend: None,
                data: match content {
                    Some(content) => {
                        PartData::encode_unless_known(content, move || encode_part(&header, compression, &sections))
                    }
                    None => PartData::encode(move || encode_part(&header, compression, &sections)),
                },
            }
        }
    }

    /// The state as it is now, in parts that can be encoded later, on another thread.
    ///
    /// # Errors
    /// If the state of the last key cannot be written back.
    pub fn snapshot(&mut self) -> Result<Vec<PartSource>, StateError> {
        let range = self.range;
        let source = self.part_source();
        let ranges = split_range(range, self.parts_per_snapshot).into_iter();
        let groups = |key_groups: KeyGroupRange| {
            let first = usize::from(key_groups.first.0 - range.first.0);
            first..first + key_groups.count() as usize
        };
        let now = self.time.times().processing;
        let time = &mut self.time;
        match &mut self.store {
            Store::Heap(heap) => {
                let own = heap.headers();
                let states = time.add_headers(own.clone());
                let parts = ranges.map(|key_groups| {
                    let groups = groups(key_groups);
                    let content = heap.content(&groups, time.has_changed(&groups));
                    let sections = time.add_sections(&own, heap.share(&groups, now), &groups);
                    source(&states, key_groups, Some(content), sections)
                });
                Ok(parts.collect())
            }
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => {
                let frozen = rocks.freeze()?;
                let own = rocks.headers()?;
                let states = time.add_headers(own.clone());
                let parts = ranges.map(|key_groups| {
                    let sections = rocks.sections(&frozen, key_groups, now)?;
                    let sections = time.add_sections(&own, sections, &groups(key_groups));
                    Ok(source(&states, key_groups, None, sections))
                });
                parts.collect()
            }
        }
    }
}

/// `<uid>-<first group>-<last group>`: a plain file name.
fn part_name(operator: &OperatorUid, key_groups: KeyGroupRange) -> String {
    format!("{}-{}-{}", plain_name(operator), key_groups.first, key_groups.last)
}

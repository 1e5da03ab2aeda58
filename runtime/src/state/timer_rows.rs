//! The rows of a queue of timers: what keeps them, and the heap that does.
//!
//! Groups are shared with snapshots and copied by whoever writes to one that is still shared, as tables are.

use std::{
    collections::{BTreeSet, btree_set},
    ops::Range,
    sync::Arc,
};

use super::{
    error::StateError,
    format::{SectionWriter, put_entry},
};

/// A timer as bytes: the timestamp with its sign flipped, big-endian; then key and namespace.
pub(super) type Row = Box<[u8]>;

const SIGN: u64 = 1 << 63;

/// The first bytes of a row.
pub(super) fn put_timestamp(timestamp: i64) -> [u8; TIMESTAMP_BYTES] {
    (timestamp.cast_unsigned() ^ SIGN).to_be_bytes()
}

/// How many they are.
pub(super) const TIMESTAMP_BYTES: usize = 8;

/// None: it is too short for a row.
pub(super) fn timestamp_of(row: &[u8]) -> Option<i64> {
    Some((u64::from_be_bytes(*row.first_chunk()?) ^ SIGN).cast_signed())
}

/// Rows by key group, each once, in the order of their bytes within a group. Groups count from the first of the subtask.
pub(super) trait TimerRows {
    /// Adds a row; nothing if it is there.
    ///
    /// # Errors
    /// If it cannot be kept.
    fn insert(&mut self, group: usize, row: Row) -> Result<(), StateError>;

    /// Takes a row out; nothing if it is not there.
    ///
    /// # Errors
    /// If it cannot be taken out.
    fn remove(&mut self, group: usize, row: &[u8]) -> Result<(), StateError>;

    /// When the first row of all is due, and its group: of rows of one instant, that of the first group.
    fn head(&self) -> Option<(i64, usize)>;

    /// Takes the first row of a group out.
    ///
    /// # Errors
    /// As [`Self::remove`].
    fn pop(&mut self, group: usize) -> Result<Option<Row>, StateError>;

    /// Whether any of these groups was written to since it was shared.
    fn has_changed(&self, groups: Range<usize>) -> bool;

    /// Keeps the rows of these groups as they are now. None: they are where the keyed state is, and in its snapshots.
    fn share(&mut self, groups: Range<usize>) -> Option<Box<dyn SectionWriter>>;

    /// # Errors
    /// If they cannot be counted.
    fn count(&self) -> Result<u64, StateError>;

    /// Bytes of the rows that are in memory, without what it costs to find them.
    fn bytes_in_memory(&self) -> u64;

    /// The database is open, if there is one.
    ///
    /// # Errors
    /// If it is not.
    fn opened(&mut self) -> Result<(), StateError>;
}

/// Of each group that is not empty: its first timestamp, and its position.
#[derive(Default)]
pub(super) struct Heads(BTreeSet<(i64, usize)>);

impl Heads {
    /// The head of a group may have changed.
    pub(super) fn update(&mut self, group: usize, before: Option<i64>, after: Option<i64>) {
        if before == after {
            return;
        }
        if let Some(timestamp) = before {
            self.0.remove(&(timestamp, group));
        }
        if let Some(timestamp) = after {
            self.0.insert((timestamp, group));
        }
    }

    pub(super) fn first(&self) -> Option<(i64, usize)> {
        self.0.first().copied()
    }
}

pub(super) fn bytes_of(rows: &BTreeSet<Row>) -> u64 {
    rows.iter().map(|row| row.len() as u64).sum()
}

pub(super) fn first_timestamp(rows: &BTreeSet<Row>) -> Option<i64> {
    rows.first().and_then(|row| timestamp_of(row))
}

/// The rows of a key group.
enum Group {
    Own(BTreeSet<Row>),
    /// A snapshot has them too, at least until it is encoded.
    Shared(Arc<BTreeSet<Row>>),
}

impl Group {
    fn read(&self) -> &BTreeSet<Row> {
        match self {
            Group::Own(rows) => rows,
            Group::Shared(rows) => rows,
        }
    }

    fn write(&mut self) -> &mut BTreeSet<Row> {
        if let Group::Shared(rows) = self {
            // Copied only if the snapshot has not let go of it yet.
            *self = Group::Own(Arc::unwrap_or_clone(std::mem::take(rows)));
        }
        match self {
            Group::Own(rows) => rows,
            Group::Shared(_) => unreachable!("made its own above"),
        }
    }

    fn share(&mut self) -> Arc<BTreeSet<Row>> {
        if let Group::Own(rows) = self {
            *self = Group::Shared(Arc::new(std::mem::take(rows)));
        }
        match self {
            Group::Shared(rows) => rows.clone(),
            Group::Own(_) => unreachable!("shared above"),
        }
    }
}

/// Rows on the heap.
pub(super) struct HeapRows {
    groups: Vec<Group>,
    heads: Heads,
}

impl HeapRows {
    pub(super) fn new(groups: usize) -> HeapRows {
        let groups = (0..groups).map(|_| Group::Own(BTreeSet::new())).collect();
        HeapRows { groups, heads: Heads::default() }
    }

    /// Does something to the rows of a group, and keeps the heads right.
    fn change<R>(&mut self, group: usize, change: impl FnOnce(&mut BTreeSet<Row>) -> R) -> R {
        let rows = self.groups[group].write();
        let before = first_timestamp(rows);
        let result = change(rows);
        let after = first_timestamp(rows);
        self.heads.update(group, before, after);
        result
    }

    pub(super) fn extend(&mut self, group: usize, rows: Vec<Row>) {
        self.change(group, |known| known.extend(rows));
    }
}

impl TimerRows for HeapRows {
    fn insert(&mut self, group: usize, row: Row) -> Result<(), StateError> {
        // A group that has it must not be copied.
        if !self.groups[group].read().contains(&row) {
            self.change(group, |rows| rows.insert(row));
        }
        Ok(())
    }

    fn remove(&mut self, group: usize, row: &[u8]) -> Result<(), StateError> {
        if self.groups[group].read().contains(row) {
            self.change(group, |rows| rows.remove(row));
        }
        Ok(())
    }

    fn head(&self) -> Option<(i64, usize)> {
        self.heads.first()
    }

    fn pop(&mut self, group: usize) -> Result<Option<Row>, StateError> {
        Ok(self.change(group, BTreeSet::pop_first))
    }

    fn has_changed(&self, groups: Range<usize>) -> bool {
        self.groups[groups].iter().any(|group| matches!(group, Group::Own(_)))
    }

    fn share(&mut self, groups: Range<usize>) -> Option<Box<dyn SectionWriter>> {
        Some(Box::new(SharedRows(self.groups[groups].iter_mut().map(Group::share).collect())))
    }

    fn count(&self) -> Result<u64, StateError> {
        Ok(self.groups.iter().map(|group| group.read().len() as u64).sum())
    }

    fn bytes_in_memory(&self) -> u64 {
        self.groups.iter().map(|group| bytes_of(group.read())).sum()
    }

    fn opened(&mut self) -> Result<(), StateError> {
        Ok(())
    }
}

struct SharedRows(Vec<Arc<BTreeSet<Row>>>);

impl SectionWriter for SharedRows {
    fn write(&self, group: usize, out: &mut Vec<u8>) -> u32 {
        let rows: btree_set::Iter<'_, Row> = self.0[group].iter();
        rows.for_each(|row| put_entry(row, &[], out));
        u32::try_from(self.0[group].len()).expect("a key group has fewer than 2^32 timers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_sort_as_numbers_do() {
        let numbers = [i64::MIN, -300, -1, 0, 1, 255, 256, i64::MAX];
        let rows = numbers.map(put_timestamp);
        assert!(rows.is_sorted());
        assert_eq!(rows.map(|row| timestamp_of(&row).unwrap()), numbers);
        assert_eq!(timestamp_of(&[0; 7]), None);
    }
}

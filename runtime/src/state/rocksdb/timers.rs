//! Timers in a database: a column family for each queue, its key the key group and the row, its value empty.
//!
//! Of each key group the first rows are in memory too, so that the next timer is known without a look at the database, and a
//! timer that fires is looked for only once in many (Flink `RocksDBCachingPriorityQueueSet`). Everything is written through.
//! What is in memory of a group is less than all that is not: whoever breaks that loses the order of timers.
#![allow(clippy::disallowed_types, reason = "a OnceLock as a value, no static: see the store")]

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Arc, OnceLock},
};

use super::{
    database::Database,
    declared::CheckKey,
    layout::{group_of, group_start, put_group},
    open::Opened,
    store::not_open,
};
use crate::{
    ids::{KeyGroup, KeyGroupRange},
    state::{
        error::{StateError, StateProblem},
        format::{SectionWriter, StateHeader},
        timer_rows::{Heads, Row, TimerRows, bytes_of, first_timestamp, timestamp_of},
    },
};

type Outcome<T> = Result<T, StateError>;

/// Rows of a key group that are in memory at most, as in Flink; few in tests, so that they meet the others.
const ROWS_IN_MEMORY: usize = if cfg!(test) { 3 } else { 128 };

/// The first rows of a key group.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GroupHead {
    rows: BTreeSet<Row>,
    /// They are all that there are.
    complete: bool,
}

/// What opening a database found of timers, for the queues of its operator.
#[derive(Default)]
pub(super) struct FoundTimers {
    /// Of queues in the database, by name: the heads of all key groups.
    pub heads: BTreeMap<String, Vec<GroupHead>>,
    /// Of queues on the heap, by name: rows that were in the database and are no more, with their key groups.
    pub moved: BTreeMap<String, Vec<(KeyGroup, Row)>>,
}

/// A queue on the heap, whose timers may be in the database that is opened.
pub(super) struct HeapQueue {
    pub header: StateHeader,
    pub check_key: CheckKey,
}

fn no_timer(state: &str) -> StateError {
    StateError::new(
        state,
        StateProblem::Decode { what: "timer", detail: "it is too short for a timestamp".to_string() },
    )
}

/// A key of the database taken apart.
fn row_of<'a>(state: &str, key: &'a [u8], group_length: usize) -> Outcome<(KeyGroup, &'a [u8])> {
    let group = group_of(key, group_length).ok_or_else(|| no_timer(state))?;
    let row = &key[group_length..];
    timestamp_of(row).ok_or_else(|| no_timer(state))?;
    Ok((group, row))
}

/// The keys of some key groups.
fn bounds(groups: KeyGroupRange, group_length: usize) -> (Vec<u8>, Vec<u8>) {
    let end = u32::from(groups.last.0) + 1;
    (group_start(u32::from(groups.first.0), group_length), group_start(end, group_length))
}

/// The heads of a queue's key groups.
pub(super) fn heads(
    database: &Database,
    state: &str,
    range: KeyGroupRange,
    group_length: usize,
) -> Outcome<Vec<GroupHead>> {
    let empty = || GroupHead { rows: BTreeSet::new(), complete: true };
    let mut heads: Vec<GroupHead> = (0..range.count()).map(|_| empty()).collect();
    let mut next = Some(range.first);
    while let Some(first) = next.take().filter(|group| range.contains(*group)) {
        let (start, end) = bounds(KeyGroupRange { first, last: range.last }, group_length);
        database.scan(state, &start, Some(end), |key, _| {
            let (group, row) = row_of(state, key, group_length)?;
            let head = &mut heads[usize::from(group.0 - range.first.0)];
            if head.rows.len() < ROWS_IN_MEMORY {
                head.rows.insert(row.into());
                return Ok(true);
            }
            // The others of this group stay where they are.
            head.complete = false;
            next = Some(KeyGroup(group.0 + 1));
            Ok(false)
        })?;
    }
    Ok(heads)
}

/// Takes all rows of a queue out of the database.
pub(super) fn take_rows(
    database: &Database,
    queue: &HeapQueue,
    range: KeyGroupRange,
    group_length: usize,
    max_parallelism: u16,
) -> Outcome<Vec<(KeyGroup, Row)>> {
    let state = &queue.header.name;
    let (start, end) = bounds(range, group_length);
    let mut rows: Vec<(KeyGroup, Row)> = Vec::new();
    database.scan(state, &start, Some(end), |key, _| {
        let (group, row) = row_of(state, key, group_length)?;
        (queue.check_key)(row, group, max_parallelism)
            .map_err(|detail| StateError::new(state, StateProblem::Decode { what: "timer", detail }))?;
        rows.push((group, row.into()));
        Ok(true)
    })?;
    for (group, row) in &rows {
        database.delete(state, &key_of(*group, row, group_length))?;
    }
    Ok(rows)
}

fn key_of(group: KeyGroup, row: &[u8], group_length: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(group_length + row.len());
    put_group(group, group_length, &mut key);
    key.extend_from_slice(row);
    key
}

/// The rows of a queue in the database.
pub(in crate::state) struct DatabaseRows {
    database: Arc<OnceLock<Opened>>,
    state: String,
    range: KeyGroupRange,
    group_length: usize,
    groups: Vec<GroupHead>,
    heads: Heads,
}

impl DatabaseRows {
    pub(super) fn new(
        database: Arc<OnceLock<Opened>>,
        state: String,
        range: KeyGroupRange,
        group_length: usize,
    ) -> DatabaseRows {
        DatabaseRows { database, state, range, group_length, groups: Vec::new(), heads: Heads::default() }
    }

    fn key(&self, group: usize, row: &[u8]) -> Vec<u8> {
        key_of(self.key_group(group), row, self.group_length)
    }

    fn key_group(&self, group: usize) -> KeyGroup {
        KeyGroup(self.range.first.0 + u16::try_from(group).expect("a position within a range of u16"))
    }

    /// The head of a group is `before` no more, perhaps.
    fn moved(&mut self, group: usize, before: Option<i64>) {
        self.heads.update(group, before, first_timestamp(&self.groups[group].rows));
    }

    /// The first rows of a group are gone from memory; the last of them was `after`: reads those that follow.
    fn refill(&mut self, group: usize, after: &[u8]) -> Outcome<()> {
        let database = &self.database.get().ok_or_else(not_open)?.database;
        let key_group = self.key_group(group);
        let (_, end) = bounds(KeyGroupRange { first: key_group, last: key_group }, self.group_length);
        // Not from the beginning of the group: what has fired lies there, deleted and not yet gone.
        let start = self.key(group, after);
        let (state, group_length) = (&self.state, self.group_length);
        let head = &mut self.groups[group];
        head.complete = true;
        database.scan(state, &start, Some(end), |key, _| {
            if head.rows.len() == ROWS_IN_MEMORY {
                head.complete = false;
                return Ok(false);
            }
            head.rows.insert(row_of(state, key, group_length)?.1.into());
            Ok(true)
        })
    }

    /// A row is in memory no more; deletes it.
    fn delete(&mut self, group: usize, row: &[u8]) -> Outcome<()> {
        let database = &self.database.get().ok_or_else(not_open)?.database;
        database.delete(&self.state, &self.key(group, row))?;
        let head = &self.groups[group];
        if head.rows.is_empty() && !head.complete { self.refill(group, row) } else { Ok(()) }
    }
}

impl TimerRows for DatabaseRows {
    fn insert(&mut self, group: usize, row: Row) -> Outcome<()> {
        let head = &self.groups[group];
        if head.rows.contains(&row) {
            return Ok(());
        }
        let database = &self.database.get().ok_or_else(not_open)?.database;
        // If it is there already nothing becomes of it.
        database.put(&self.state, &self.key(group, &row), &[])?;
        let head = &mut self.groups[group];
        let before = first_timestamp(&head.rows);
        if head.complete || head.rows.last().is_some_and(|last| row < *last) {
            head.rows.insert(row);
            if head.rows.len() > ROWS_IN_MEMORY {
                head.rows.pop_last();
                head.complete = false;
            }
        }
        self.moved(group, before);
        Ok(())
    }

    fn remove(&mut self, group: usize, row: &[u8]) -> Outcome<()> {
        let head = &mut self.groups[group];
        let before = first_timestamp(&head.rows);
        if head.rows.remove(row) || !head.complete {
            self.delete(group, row)?;
        }
        self.moved(group, before);
        Ok(())
    }

    fn head(&self) -> Option<(i64, usize)> {
        self.heads.first()
    }

    fn pop(&mut self, group: usize) -> Outcome<Option<Row>> {
        let head = &mut self.groups[group];
        let before = first_timestamp(&head.rows);
        let Some(row) = head.rows.pop_first() else { return Ok(None) };
        self.delete(group, &row)?;
        self.moved(group, before);
        Ok(Some(row))
    }

    fn has_changed(&self, _groups: Range<usize>) -> bool {
        false
    }

    fn share(&mut self, _groups: Range<usize>) -> Option<Box<dyn SectionWriter>> {
        None
    }

    fn count(&self) -> Outcome<u64> {
        let database = &self.database.get().ok_or_else(not_open)?.database;
        let (start, end) = bounds(self.range, self.group_length);
        let mut count = 0;
        database.scan(&self.state, &start, Some(end), |_, _| {
            count += 1;
            Ok(true)
        })?;
        Ok(count)
    }

    fn bytes_in_memory(&self) -> u64 {
        self.groups.iter().map(|group| bytes_of(&group.rows)).sum()
    }

    fn opened(&mut self) -> Outcome<()> {
        let opened = self.database.get().ok_or_else(not_open)?;
        let mut found = opened.timers.lock().expect("timers: a holder panicked");
        self.groups = found.heads.remove(&self.state).ok_or_else(not_open)?;
        drop(found);
        for group in 0..self.groups.len() {
            self.moved(group, None);
        }
        Ok(())
    }
}

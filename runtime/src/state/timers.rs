//! Timers: (timestamp, key, namespace), each at most once, given back in the order of their timestamps.
//!
//! A queue has its timers by key group. A timer is a row of bytes: the timestamp with its sign flipped, big-endian, so that
//! the order of bytes is that of numbers; then the key and the namespace, as postcard has them. That is the order in which a
//! database has them too, so timers of one instant fire in the same order wherever they are kept and whatever happened
//! before.

use std::{
    any::{Any, type_name},
    marker::PhantomData,
    ops::Range,
};

use super::{
    error::{StateError, StateProblem},
    format::{FormatError, SectionWriter, StateHeader, StateKind, StateSection, StateStructure},
    key::StateKey,
    shape::Shape,
    table::{StateNamespace, decode},
    timer_rows::{HeapRows, Row, TIMESTAMP_BYTES, TimerRows, put_timestamp},
};

/// Which time a timer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimeDomain {
    Event,
    Processing,
}

/// A timer that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer<K, N> {
    /// Milliseconds since 1970.
    pub timestamp: i64,
    pub key: K,
    pub namespace: N,
}

/// Names of queues in a snapshot begin with this, as in Flink.
pub(super) const QUEUE_PREFIX: &str = "_timer_state/";

fn queue_name(domain: TimeDomain, service: &str) -> String {
    match domain {
        TimeDomain::Event => format!("{QUEUE_PREFIX}event_{service}"),
        TimeDomain::Processing => format!("{QUEUE_PREFIX}processing_{service}"),
    }
}

pub(super) fn queue_header<N: StateNamespace>(domain: TimeDomain, service: &str) -> StateHeader {
    let structure = Shape::of::<N>().map(|namespace| StateStructure { value: Shape::Unit, namespace });
    StateHeader {
        name: queue_name(domain, service),
        kind: StateKind::Timers,
        value_type: type_name::<N>().to_string(),
        version: 1,
        structure,
    }
}

/// A queue whatever its namespace.
pub(super) trait AnyTimers<K> {
    fn header(&self) -> &StateHeader;
    /// Whether any of these groups was written to since it was shared.
    fn has_changed(&self, groups: Range<usize>) -> bool;
    /// Keeps the timers of these groups as they are now. None: they are in the snapshots of the keyed state.
    fn share(&mut self, groups: Range<usize>) -> Option<Box<dyn SectionWriter>>;
    /// # Errors
    /// If they cannot be counted.
    fn count(&self) -> Result<u64, StateError>;
    /// Bytes of the timers that are in memory.
    fn bytes_in_memory(&self) -> u64;
    /// The database is open, if there is one.
    ///
    /// # Errors
    /// If it is not.
    fn opened(&mut self) -> Result<(), StateError>;
    /// Adds rows, by group.
    ///
    /// # Errors
    /// If they cannot be kept.
    fn add(&mut self, rows: Vec<(usize, Row)>) -> Result<(), StateError>;
    /// When the first is due.
    fn next(&self) -> Option<i64>;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// The timers of one service in one time domain; groups count from the first key group of the subtask.
pub(super) struct TimerQueue<K, N> {
    header: StateHeader,
    rows: Box<dyn TimerRows>,
    of: PhantomData<fn() -> (K, N)>,
}

impl<K: StateKey, N: StateNamespace> TimerQueue<K, N> {
    pub(super) fn new(header: StateHeader, rows: Box<dyn TimerRows>) -> TimerQueue<K, N> {
        TimerQueue { header, rows, of: PhantomData }
    }

    fn row(&self, timestamp: i64, key: &K, namespace: &N) -> Result<Row, StateError> {
        let row = postcard::to_extend(key, put_timestamp(timestamp).to_vec());
        let row = row.and_then(|row| postcard::to_extend(namespace, row)).map_err(|error| {
            StateError::new(&self.header.name, StateProblem::Encode { what: "timer", detail: error.to_string() })
        })?;
        Ok(row.into_boxed_slice())
    }

    /// Adds a timer; nothing if it is there already.
    ///
    /// # Errors
    /// If key or namespace do not encode, or it cannot be kept.
    pub(super) fn register(&mut self, group: usize, timestamp: i64, key: &K, namespace: &N) -> Result<(), StateError> {
        let row = self.row(timestamp, key, namespace)?;
        self.rows.insert(group, row)
    }

    /// Takes a timer out; nothing if there is none.
    ///
    /// # Errors
    /// If key or namespace do not encode, or it cannot be taken out.
    pub(super) fn delete(&mut self, group: usize, timestamp: i64, key: &K, namespace: &N) -> Result<(), StateError> {
        let row = self.row(timestamp, key, namespace)?;
        self.rows.remove(group, &row)
    }

    /// Takes out the first timer, if its time has come.
    ///
    /// # Errors
    /// If it does not decode, which only bytes from outside can bring about, or cannot be taken out.
    pub(super) fn pop_due(&mut self, now: i64) -> Result<Option<Timer<K, N>>, StateError> {
        let Some((timestamp, group)) = self.rows.head().filter(|(timestamp, _)| *timestamp <= now) else {
            return Ok(None);
        };
        let Some(row) = self.rows.pop(group)? else { return Ok(None) };
        let (key, namespace) = decode(&row[TIMESTAMP_BYTES..], "timer", &self.header.name).map_err(|error| {
            StateError::new(&self.header.name, StateProblem::Decode { what: "timer", detail: error.0 })
        })?;
        Ok(Some(Timer { timestamp, key, namespace }))
    }
}

/// Adds the timers of a section to those on the heap. `belongs` says whether a key is in the section's key group.
///
/// # Errors
/// [`FormatError`] if they are no timers of this queue.
pub(super) fn load<K: StateKey, N: StateNamespace>(
    rows: &mut HeapRows,
    name: &str,
    group: usize,
    section: &StateSection,
    belongs: impl Fn(&K) -> bool,
) -> Result<(), FormatError> {
    let mut read = Vec::new();
    section.for_each(|entry| {
        if entry.key.len() < TIMESTAMP_BYTES || !entry.value.is_empty() {
            return Err(FormatError(format!("{name}: an entry that is no timer")));
        }
        let (key, _): (K, N) = decode(&entry.key[TIMESTAMP_BYTES..], "timer", name)?;
        if !belongs(&key) {
            return Err(FormatError(format!("{name}: a key in key group {} is not of it", section.group)));
        }
        read.push(Row::from(entry.key));
        Ok(())
    })?;
    rows.extend(group, read);
    Ok(())
}

impl<K: StateKey, N: StateNamespace> AnyTimers<K> for TimerQueue<K, N> {
    fn header(&self) -> &StateHeader {
        &self.header
    }

    fn has_changed(&self, groups: Range<usize>) -> bool {
        self.rows.has_changed(groups)
    }

    fn share(&mut self, groups: Range<usize>) -> Option<Box<dyn SectionWriter>> {
        self.rows.share(groups)
    }

    fn count(&self) -> Result<u64, StateError> {
        self.rows.count()
    }

    fn bytes_in_memory(&self) -> u64 {
        self.rows.bytes_in_memory()
    }

    fn opened(&mut self) -> Result<(), StateError> {
        self.rows.opened()
    }

    fn add(&mut self, rows: Vec<(usize, Row)>) -> Result<(), StateError> {
        rows.into_iter().try_for_each(|(group, row)| self.rows.insert(group, row))
    }

    fn next(&self) -> Option<i64> {
        self.rows.head().map(|(timestamp, _)| timestamp)
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::ids::KeyGroup;

    type Queue = TimerQueue<u32, String>;

    const GROUPS: usize = 3;

    fn queue() -> Queue {
        of(HeapRows::new(GROUPS))
    }

    fn of(rows: HeapRows) -> Queue {
        TimerQueue::new(queue_header::<String>(TimeDomain::Event, "windows"), Box::new(rows))
    }

    fn group_of(key: u32) -> usize {
        key as usize % GROUPS
    }

    #[derive(Clone, Debug)]
    enum Step {
        Register(i64, u32, String),
        Delete(i64, u32, String),
        Fire(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let timer = || (prop_oneof![-5..20i64, Just(i64::MAX), Just(i64::MIN)], 0..5u32, "[ab]?");
        prop_oneof![
            4 => timer().prop_map(|(t, k, n)| Step::Register(t, k, n)),
            1 => timer().prop_map(|(t, k, n)| Step::Delete(t, k, n)),
            1 => (-5..20i64).prop_map(Step::Fire),
        ]
    }

    /// What should be there: by time, then group, then the bytes of key and namespace.
    type Model = BTreeSet<(i64, usize, Vec<u8>)>;

    fn modelled(timestamp: i64, key: u32, namespace: &String) -> (i64, usize, Vec<u8>) {
        (timestamp, group_of(key), postcard::to_allocvec(&(key, namespace)).unwrap())
    }

    fn apply(queue: &mut Queue, model: &mut Model, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Register(t, k, n) => {
                    queue.register(group_of(*k), *t, k, n).unwrap();
                    model.insert(modelled(*t, *k, n));
                }
                Step::Delete(t, k, n) => {
                    queue.delete(group_of(*k), *t, k, n).unwrap();
                    model.remove(&modelled(*t, *k, n));
                }
                Step::Fire(now) => fire(queue, model, *now),
            }
        }
    }

    fn fire(queue: &mut Queue, model: &mut Model, now: i64) {
        while let Some(timer) = queue.pop_due(now).unwrap() {
            let expected = model.pop_first().unwrap();
            assert_eq!(modelled(timer.timestamp, timer.key, &timer.namespace), expected);
        }
        assert!(model.first().is_none_or(|first| first.0 > now));
        assert_eq!(queue.next(), model.first().map(|first| first.0));
    }

    fn encoded(writer: &dyn SectionWriter) -> Vec<StateSection> {
        (0..GROUPS)
            .map(|position| {
                let mut bytes = Vec::new();
                let entries = writer.write(position, &mut bytes);
                StateSection { group: KeyGroup(position as u16), state: 0, entries, bytes: Bytes::from(bytes) }
            })
            .collect()
    }

    fn restored(sections: &[StateSection]) -> Queue {
        let mut rows = HeapRows::new(GROUPS);
        for section in sections {
            let group = usize::from(section.group.0);
            load::<u32, String>(&mut rows, "windows", group, section, |key| group_of(*key) == group).unwrap();
        }
        of(rows)
    }

    proptest! {
        /// R: A.11. Each timer once, in order of time; a snapshot is the queue at its barrier, and comes back as a multiset.
        #[test]
        fn a_queue_is_an_ordered_set_and_its_snapshot_is_of_one_instant(
            before in proptest::collection::vec(step(), 0..60),
            after in proptest::collection::vec(step(), 0..60),
        ) {
            let (mut queue, mut then) = (queue(), Model::new());
            apply(&mut queue, &mut then, &before);
            prop_assert_eq!(queue.count().unwrap(), then.len() as u64);
            let waiting = queue.share(0..GROUPS).unwrap();
            prop_assert!(!queue.has_changed(0..GROUPS));
            let mut now = then.clone();
            apply(&mut queue, &mut now, &after);
            prop_assert!(queue.has_changed(0..GROUPS) || now == then);
            let sections = encoded(waiting.as_ref());
            let mut again = restored(&sections);
            prop_assert_eq!(again.count().unwrap(), then.len() as u64);
            let same = encoded(again.share(0..GROUPS).unwrap().as_ref());
            prop_assert!(same.iter().zip(&sections).all(|(a, b)| (a.entries, &a.bytes) == (b.entries, &b.bytes)));
            // What comes after does the same to the restored queue.
            let mut replayed = then.clone();
            apply(&mut again, &mut replayed, &after);
            prop_assert_eq!(&replayed, &now);
            fire(&mut again, &mut replayed, i64::MAX);
            fire(&mut queue, &mut now, i64::MAX);
        }

        #[test]
        fn bytes_that_are_no_timers_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let section = StateSection { group: KeyGroup(0), state: 0, entries: 1, bytes: Bytes::from(bytes) };
            let mut rows = HeapRows::new(1);
            if load::<u32, String>(&mut rows, "windows", 0, &section, |_| true).is_ok() {
                let mut queue = of(rows);
                prop_assert!(queue.pop_due(i64::MAX).unwrap().is_some());
            }
        }
    }

    #[test]
    fn a_timer_that_is_there_is_not_added_twice() {
        let mut queue = queue();
        for _ in 0..3 {
            queue.register(1, 7, &1, &"a".to_string()).unwrap();
        }
        queue.register(1, 7, &1, &"b".to_string()).unwrap();
        let mut fired = BTreeMap::new();
        while let Some(timer) = queue.pop_due(7).unwrap() {
            *fired.entry(timer.namespace).or_insert(0) += 1;
        }
        assert_eq!(fired, BTreeMap::from([("a".to_string(), 1), ("b".to_string(), 1)]));
    }
}

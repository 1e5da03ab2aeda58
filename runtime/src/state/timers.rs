//! Timers: (timestamp, key, namespace), each at most once, given back in the order of their timestamps.
//!
//! A queue has its timers by key group. A timer is a row of bytes: the timestamp with its sign flipped, big-endian, so that
//! the order of bytes is that of numbers; then the key and the namespace, as postcard has them. That is the order in which a
//! database has them too, so timers of one instant fire in the same order wherever they are kept and whatever happened
//! before. Groups are shared with snapshots and copied by whoever writes to one that is still shared, as tables are.

use std::{
    any::{Any, type_name},
    collections::{BTreeSet, btree_set},
    marker::PhantomData,
    ops::Range,
    sync::Arc,
};

use super::{
    error::{StateError, StateProblem},
    format::{FormatError, SectionWriter, StateHeader, StateKind, StateSection, put_entry},
    key::StateKey,
    table::{StateNamespace, decode},
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

type Row = Box<[u8]>;

/// Names of queues in a snapshot begin with this, as in Flink.
pub(super) const QUEUE_PREFIX: &str = "_timer_state/";

fn queue_name(domain: TimeDomain, service: &str) -> String {
    match domain {
        TimeDomain::Event => format!("{QUEUE_PREFIX}event_{service}"),
        TimeDomain::Processing => format!("{QUEUE_PREFIX}processing_{service}"),
    }
}

pub(super) fn queue_header<N: StateNamespace>(domain: TimeDomain, service: &str) -> StateHeader {
    let name = queue_name(domain, service);
    StateHeader { name, kind: StateKind::Timers, value_type: type_name::<N>().to_string(), version: 1 }
}

const SIGN: u64 = 1 << 63;

fn put_timestamp(timestamp: i64) -> [u8; 8] {
    (timestamp.cast_unsigned() ^ SIGN).to_be_bytes()
}

fn timestamp_of(row: &[u8]) -> Option<i64> {
    let first: [u8; 8] = row.get(..8)?.try_into().ok()?;
    Some((u64::from_be_bytes(first) ^ SIGN).cast_signed())
}

/// The timers of a key group.
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

    fn head(&self) -> Option<i64> {
        self.read().first().and_then(|row| timestamp_of(row))
    }
}

/// A queue whatever its namespace.
pub(super) trait AnyTimers<K> {
    fn header(&self) -> &StateHeader;
    /// Whether any of these groups was written to since it was shared.
    fn has_changed(&self, groups: Range<usize>) -> bool;
    /// Keeps the timers of these groups as they are now.
    fn share(&mut self, groups: Range<usize>) -> Box<dyn SectionWriter>;
    fn count(&self) -> u64;
    /// When the first is due.
    fn next(&self) -> Option<i64>;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// The timers of one service in one time domain; groups count from the first key group of the subtask.
pub(super) struct TimerQueue<K, N> {
    header: StateHeader,
    groups: Vec<Group>,
    /// Of each group that is not empty: its first timestamp, and its position.
    heads: BTreeSet<(i64, usize)>,
    of: PhantomData<fn() -> (K, N)>,
}

impl<K: StateKey, N: StateNamespace> TimerQueue<K, N> {
    pub(super) fn new(header: StateHeader, groups: usize) -> TimerQueue<K, N> {
        let groups = (0..groups).map(|_| Group::Own(BTreeSet::new())).collect();
        TimerQueue { header, groups, heads: BTreeSet::new(), of: PhantomData }
    }

    fn row(&self, timestamp: i64, key: &K, namespace: &N) -> Result<Row, StateError> {
        let row = postcard::to_extend(key, put_timestamp(timestamp).to_vec());
        let row = row.and_then(|row| postcard::to_extend(namespace, row)).map_err(|error| {
            StateError::new(&self.header.name, StateProblem::Encode { what: "timer", detail: error.to_string() })
        })?;
        Ok(row.into_boxed_slice())
    }

    /// Does something to a group, and keeps the heads right.
    fn change<R>(&mut self, group: usize, change: impl FnOnce(&mut Group) -> R) -> R {
        let before = self.groups[group].head();
        let result = change(&mut self.groups[group]);
        let after = self.groups[group].head();
        if before != after {
            if let Some(timestamp) = before {
                self.heads.remove(&(timestamp, group));
            }
            if let Some(timestamp) = after {
                self.heads.insert((timestamp, group));
            }
        }
        result
    }

    /// Adds a timer; nothing if it is there already.
    ///
    /// # Errors
    /// If key or namespace do not encode.
    pub(super) fn register(&mut self, group: usize, timestamp: i64, key: &K, namespace: &N) -> Result<(), StateError> {
        let row = self.row(timestamp, key, namespace)?;
        // A group that has it must not be copied.
        if !self.groups[group].read().contains(&row) {
            self.change(group, |group| group.write().insert(row));
        }
        Ok(())
    }

    /// Takes a timer out; nothing if there is none.
    ///
    /// # Errors
    /// If key or namespace do not encode.
    pub(super) fn delete(&mut self, group: usize, timestamp: i64, key: &K, namespace: &N) -> Result<(), StateError> {
        let row = self.row(timestamp, key, namespace)?;
        if self.groups[group].read().contains(&row) {
            self.change(group, |group| group.write().remove(&row));
        }
        Ok(())
    }

    /// Takes out the first timer, if its time has come.
    ///
    /// # Errors
    /// If it does not decode, which only bytes from outside can bring about.
    pub(super) fn pop_due(&mut self, now: i64) -> Result<Option<Timer<K, N>>, StateError> {
        let Some((timestamp, group)) = self.heads.first().copied().filter(|(timestamp, _)| *timestamp <= now) else {
            return Ok(None);
        };
        let Some(row) = self.change(group, |group| group.write().pop_first()) else { return Ok(None) };
        let (key, namespace) = decode(&row[8..], "timer", &self.header.name).map_err(|error| {
            StateError::new(&self.header.name, StateProblem::Decode { what: "timer", detail: error.0 })
        })?;
        Ok(Some(Timer { timestamp, key, namespace }))
    }

    /// Adds the timers of a section. `belongs` says whether a key is in the section's key group.
    ///
    /// # Errors
    /// [`FormatError`] if they are no timers of this queue.
    pub(super) fn load(
        &mut self,
        group: usize,
        section: &StateSection,
        belongs: impl Fn(&K) -> bool,
    ) -> Result<(), FormatError> {
        let name = self.header.name.clone();
        let mut rows = Vec::new();
        section.for_each(|entry| {
            if entry.key.len() < 8 || !entry.value.is_empty() {
                return Err(FormatError(format!("{name}: an entry that is no timer")));
            }
            let (key, _): (K, N) = decode(&entry.key[8..], "timer", &name)?;
            if !belongs(&key) {
                return Err(FormatError(format!("{name}: a key in key group {} is not of it", section.group)));
            }
            rows.push(Row::from(entry.key));
            Ok(())
        })?;
        self.change(group, |group| group.write().extend(rows));
        Ok(())
    }
}

impl<K: StateKey, N: StateNamespace> AnyTimers<K> for TimerQueue<K, N> {
    fn header(&self) -> &StateHeader {
        &self.header
    }

    fn has_changed(&self, groups: Range<usize>) -> bool {
        self.groups[groups].iter().any(|group| matches!(group, Group::Own(_)))
    }

    fn share(&mut self, groups: Range<usize>) -> Box<dyn SectionWriter> {
        Box::new(SharedTimers(self.groups[groups].iter_mut().map(Group::share).collect()))
    }

    fn count(&self) -> u64 {
        self.groups.iter().map(|group| group.read().len() as u64).sum()
    }

    fn next(&self) -> Option<i64> {
        self.heads.first().map(|(timestamp, _)| *timestamp)
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

struct SharedTimers(Vec<Arc<BTreeSet<Row>>>);

impl SectionWriter for SharedTimers {
    fn write(&self, group: usize, out: &mut Vec<u8>) -> u32 {
        let rows: btree_set::Iter<'_, Row> = self.0[group].iter();
        rows.for_each(|row| put_entry(row, &[], out));
        u32::try_from(self.0[group].len()).expect("a key group has fewer than 2^32 timers")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::ids::KeyGroup;

    type Queue = TimerQueue<u32, String>;

    const GROUPS: usize = 3;

    fn queue() -> Queue {
        TimerQueue::new(queue_header::<String>(TimeDomain::Event, "windows"), GROUPS)
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
        let mut queue = queue();
        for section in sections {
            let group = usize::from(section.group.0);
            queue.load(group, section, |key| group_of(*key) == group).unwrap();
        }
        queue
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
            prop_assert_eq!(queue.count(), then.len() as u64);
            let waiting = queue.share(0..GROUPS);
            prop_assert!(!queue.has_changed(0..GROUPS));
            let mut now = then.clone();
            apply(&mut queue, &mut now, &after);
            prop_assert!(queue.has_changed(0..GROUPS) || now == then);
            let sections = encoded(waiting.as_ref());
            let mut again = restored(&sections);
            prop_assert_eq!(again.count(), then.len() as u64);
            let same = encoded(again.share(0..GROUPS).as_ref());
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
            let mut queue = queue();
            if queue.load(0, &section, |_| true).is_ok() {
                prop_assert!(queue.pop_due(i64::MAX).unwrap().is_some());
            }
        }
    }

    #[test]
    fn rows_sort_as_numbers_do() {
        let numbers = [i64::MIN, -300, -1, 0, 1, 255, 256, i64::MAX];
        let rows = numbers.map(put_timestamp);
        assert!(rows.is_sorted());
        assert_eq!(rows.map(|row| timestamp_of(&row).unwrap()), numbers);
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

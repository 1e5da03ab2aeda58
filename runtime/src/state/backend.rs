//! The keyed state of one operator in one subtask: all its named states, for the subtask's key groups.
//!
//! Life: [`HeapBackend::restore`] reads the parts, user code declares its states through [`OpenContext`], which decodes what
//! the parts hold for each, [`HeapBackend::opened`] ends that. From then on state is touched through [`KeyedContext`], one
//! key at a time.

use std::{
    any::{Any, type_name},
    collections::BTreeMap,
};

use bytes::Bytes;

use super::{
    error::UserError,
    format::{PartHeader, PartReader, StateHeader, StateKind, StateSection, encode_part},
    handles::{ListState, MapState, ValueState},
    key::StateKey,
    key_group::{key_group_of, split_range},
    table::{KeyedTable, RawTable, StateValue, Table, hash_of},
};
use crate::{
    checkpoint::types::PartKind,
    dataflow::chain::{PartData, PartSource},
    ids::{KeyGroup, KeyGroupRange, OperatorUid},
};

/// Keyed state of a subtask is written in so many parts at most.
const PARTS: u32 = 4;

struct Restored {
    header: StateHeader,
    sections: BTreeMap<KeyGroup, StateSection>,
}

pub struct HeapBackend<K> {
    operator: OperatorUid,
    range: KeyGroupRange,
    max_parallelism: u16,
    tables: Vec<Box<dyn KeyedTable<K>>>,
    /// Read from the snapshot and not declared yet.
    restored: BTreeMap<String, Restored>,
}

impl<K: StateKey> HeapBackend<K> {
    /// Reads the parts of a snapshot; none for a fresh start. Parts may cover more key groups than `range` (the operator had
    /// another parallelism), what is not of `range` is left out.
    ///
    /// # Errors
    /// If a part is not readable, not of this operator, or the parts do not hold each key group of `range` exactly once.
    pub fn restore(
        operator: OperatorUid,
        range: KeyGroupRange,
        max_parallelism: u16,
        parts: &[(KeyGroupRange, Bytes)],
    ) -> Result<HeapBackend<K>, UserError> {
        let mut restored: BTreeMap<String, Restored> = BTreeMap::new();
        let mut covered = vec![false; range.count() as usize];
        for (key_groups, bytes) in parts {
            let of_part =
                |problem: String| UserError::new(format!("state part for key groups {key_groups}: {problem}"));
            let part = PartReader::new(bytes).map_err(|error| of_part(error.to_string()))?;
            if part.header.operator != operator.0 {
                return Err(of_part(format!("is of operator {}", part.header.operator)));
            }
            if part.header.key_groups != *key_groups {
                return Err(of_part(format!("holds key groups {}", part.header.key_groups)));
            }
            if part.header.max_parallelism != max_parallelism {
                return Err(of_part(format!(
                    "was written with max parallelism {}, the job has {max_parallelism}; it cannot be changed",
                    part.header.max_parallelism
                )));
            }
            if part.header.key_type != type_name::<K>() {
                return Err(of_part(format!(
                    "has keys of type {}, the operator has keys of type {}",
                    part.header.key_type,
                    type_name::<K>()
                )));
            }
            for group in part.header.key_groups.iter().filter(|group| range.contains(*group)) {
                let seen = &mut covered[usize::from(group.0 - range.first.0)];
                if std::mem::replace(seen, true) {
                    return Err(of_part(format!("key group {group} occurs in another part too")));
                }
            }
            for section in part.sections.into_iter().filter(|section| range.contains(section.group)) {
                let header = &part.header.states[section.state];
                let state = restored
                    .entry(header.name.clone())
                    .or_insert_with(|| Restored { header: header.clone(), sections: BTreeMap::new() });
                if state.header != *header {
                    return Err(of_part(format!(
                        "state {:?} is a {header} here and a {} in another part",
                        header.name, state.header
                    )));
                }
                state.sections.insert(section.group, section);
            }
        }
        if !parts.is_empty()
            && let Some(missing) = covered.iter().position(|seen| !seen)
        {
            let group = u32::from(range.first.0) + u32::try_from(missing).unwrap_or(u32::MAX);
            return Err(UserError::new(format!("no state part holds key group {group}")));
        }
        Ok(HeapBackend { operator, range, max_parallelism, tables: Vec::new(), restored })
    }

    /// What user code declares its states through.
    pub fn open_context(&mut self) -> OpenContext<'_, K> {
        OpenContext { backend: self }
    }

    /// All states are declared. What else the snapshot held is carried along.
    pub fn opened(&mut self) {
        for (_, state) in std::mem::take(&mut self.restored) {
            let groups = self
                .range
                .iter()
                .map(|group| state.sections.get(&group).map_or((0, Bytes::new()), |s| (s.entries, s.bytes.clone())))
                .collect();
            self.tables.push(Box::new(RawTable { header: state.header, groups }));
        }
    }

    /// The state of one key; None if the key is in a key group of another subtask.
    #[inline]
    pub fn context<'a>(&'a mut self, key: &'a K) -> Option<KeyedContext<'a, K>> {
        let group = key_group_of(key.java_hash(), self.max_parallelism);
        if !self.range.contains(group) {
            return None;
        }
        let position = usize::from(group.0 - self.range.first.0);
        Some(KeyedContext { hash: hash_of(key), group: position, key, backend: self })
    }

    pub fn key_groups(&self) -> KeyGroupRange {
        self.range
    }

    /// Entries of all states.
    pub fn entries(&self) -> u64 {
        self.tables.iter().map(|table| table.entries()).sum()
    }

    /// The state as it is now, in parts that can be encoded later, on another thread.
    pub fn snapshot(&mut self) -> Vec<PartSource> {
        // By name, so that equal contents give equal bytes in whatever order user code declares.
        let mut tables: Vec<&mut Box<dyn KeyedTable<K>>> = self.tables.iter_mut().collect();
        tables.sort_by(|a, b| a.header().name.cmp(&b.header().name));
        split_range(self.range, PARTS)
            .into_iter()
            .map(|key_groups| {
                let header = PartHeader {
                    operator: self.operator.0.clone(),
                    key_type: type_name::<K>().to_string(),
                    max_parallelism: self.max_parallelism,
                    key_groups,
                    states: tables.iter().map(|table| table.header().clone()).collect(),
                };
                let first = usize::from(key_groups.first.0 - self.range.first.0);
                let groups = first..first + key_groups.count() as usize;
                let states: Vec<_> = tables.iter_mut().map(|table| table.share(groups.clone())).collect();
                PartSource {
                    operator: self.operator.clone(),
                    key_groups,
                    name: part_name(&self.operator, key_groups),
                    kind: PartKind::Keyed,
                    backend: None,
                    data: PartData::encode(move || encode_part(&header, &states)),
                }
            })
            .collect()
    }

    fn declare<V: StateValue>(&mut self, name: &str, kind: StateKind, version: u32) -> Result<usize, UserError> {
        let header = StateHeader { name: name.to_string(), kind, value_type: type_name::<V>().to_string(), version };
        if let Some(position) = self.tables.iter().position(|table| table.header().name == name) {
            let other = self.tables[position].header();
            if *other == header {
                return Ok(position);
            }
            return Err(UserError::new(format!("state {name:?} is declared twice, as a {other} and as a {header}")));
        }
        let mut table: Table<K, V> = Table::new(header.clone(), self.range.count() as usize);
        if let Some(state) = self.restored.remove(name) {
            if state.header != header {
                return Err(UserError::new(format!(
                    "state {name:?} is a {} in the snapshot and a {header} in the code",
                    state.header
                )));
            }
            for (group, section) in &state.sections {
                let max_parallelism = self.max_parallelism;
                table.load(usize::from(group.0 - self.range.first.0), section, |key| {
                    key_group_of(key.java_hash(), max_parallelism) == *group
                })?;
            }
        }
        self.tables.push(Box::new(table));
        Ok(self.tables.len() - 1)
    }
}

/// `<uid>-<first group>-<last group>`: a plain file name.
fn part_name(operator: &OperatorUid, key_groups: KeyGroupRange) -> String {
    let plain: String = operator
        .0
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' })
        .take(100)
        .collect();
    format!("{plain}-{}-{}", key_groups.first, key_groups.last)
}

/// Given to user code before the first record, to declare its states.
pub struct OpenContext<'a, K> {
    backend: &'a mut HeapBackend<K>,
}

impl<K: StateKey> OpenContext<'_, K> {
    /// One value per key.
    ///
    /// # Errors
    /// If the snapshot, or an earlier declaration, has another type under this name.
    pub fn value_state<V: StateValue>(&mut self, name: &str) -> Result<ValueState<V>, UserError> {
        self.value_state_version(name, 1)
    }

    /// As [`Self::value_state`], with a version to raise when the type changes and its name does not.
    ///
    /// # Errors
    /// As [`Self::value_state`].
    pub fn value_state_version<V: StateValue>(&mut self, name: &str, version: u32) -> Result<ValueState<V>, UserError> {
        self.backend.declare::<V>(name, StateKind::Value, version).map(ValueState::at)
    }

    /// A list of values per key.
    ///
    /// # Errors
    /// As [`Self::value_state`].
    pub fn list_state<V: StateValue>(&mut self, name: &str) -> Result<ListState<V>, UserError> {
        self.backend.declare::<Vec<V>>(name, StateKind::List, 1).map(ListState::at)
    }

    /// A sorted map per key.
    ///
    /// # Errors
    /// As [`Self::value_state`].
    pub fn map_state<M: StateValue + Ord, V: StateValue>(&mut self, name: &str) -> Result<MapState<M, V>, UserError> {
        self.backend.declare::<BTreeMap<M, V>>(name, StateKind::Map, 1).map(MapState::at)
    }

    /// The key groups of this subtask.
    pub fn key_groups(&self) -> KeyGroupRange {
        self.backend.range
    }
}

/// The state of the current key.
pub struct KeyedContext<'a, K> {
    backend: &'a mut HeapBackend<K>,
    key: &'a K,
    hash: u64,
    group: usize,
}

impl<K: StateKey> KeyedContext<'_, K> {
    pub fn key(&self) -> &K {
        self.key
    }

    pub fn key_group(&self) -> KeyGroup {
        #[allow(clippy::cast_possible_truncation)] // a position within a range of u16
        KeyGroup(self.backend.range.first.0 + self.group as u16)
    }

    #[inline]
    pub(super) fn get<V: StateValue>(&self, table: usize) -> Option<&V> {
        let table = typed::<K, V>(self.backend.tables.get(table).map(|table| table.as_any()));
        table.get(self.group, self.hash, self.key)
    }

    #[inline]
    pub(super) fn set<V: StateValue>(&mut self, table: usize, value: V) {
        let (group, hash, key) = (self.group, self.hash, self.key);
        self.table_mut::<V>(table).set(group, hash, key, value);
    }

    #[inline]
    pub(super) fn get_or_insert_with<V: StateValue>(&mut self, table: usize, make: impl FnOnce() -> V) -> &mut V {
        let (group, hash, key) = (self.group, self.hash, self.key);
        self.table_mut::<V>(table).get_or_insert_with(group, hash, key, make)
    }

    pub(super) fn get_mut<V: StateValue>(&mut self, table: usize) -> Option<&mut V> {
        let (group, hash, key) = (self.group, self.hash, self.key);
        self.table_mut::<V>(table).get_mut(group, hash, key)
    }

    pub(super) fn remove<V: StateValue>(&mut self, table: usize) -> Option<V> {
        let (group, hash, key) = (self.group, self.hash, self.key);
        self.table_mut::<V>(table).remove(group, hash, key)
    }

    #[inline]
    fn table_mut<V: StateValue>(&mut self, table: usize) -> &mut Table<K, V> {
        let table = self.backend.tables.get_mut(table).map(|table| table.as_any_mut());
        table.and_then(|table| table.downcast_mut()).unwrap_or_else(|| foreign_handle())
    }
}

#[inline]
fn typed<K: StateKey, V: StateValue>(table: Option<&dyn Any>) -> &Table<K, V> {
    table.and_then(|table| table.downcast_ref()).unwrap_or_else(|| foreign_handle())
}

#[cold]
fn foreign_handle() -> ! {
    panic!("a state handle is used that this operator did not declare in `open`")
}

//! The heap store: a hash table per state and key group.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;

use super::{
    error::UserError,
    format::{SectionWriter, StateHeader},
    key::StateKey,
    key_group::key_group_of,
    restored::Restored,
    table::{EncodeValue, KeyedTable, RawTable, StateNamespace, StateValue, Table},
};
use crate::ids::KeyGroupRange;

pub(super) struct HeapStore<K> {
    tables: Vec<Box<dyn KeyedTable<K>>>,
    /// By the first of the groups: how often they had changed when they were shared.
    contents: BTreeMap<usize, u64>,
}

impl<K: StateKey> HeapStore<K> {
    pub(super) fn new() -> HeapStore<K> {
        HeapStore { tables: Vec::new(), contents: BTreeMap::new() }
    }

    /// Adds a table, with what the snapshot has for it.
    pub(super) fn declare<N: StateNamespace, V: StateValue>(
        &mut self,
        header: StateHeader,
        encode: EncodeValue<V>,
        restored: Option<&Restored>,
        range: KeyGroupRange,
        max_parallelism: u16,
    ) -> Result<(), UserError> {
        let mut table: Table<K, N, V> = Table::new(header, encode, range.count() as usize);
        for (group, section) in restored.iter().flat_map(|state| &state.sections) {
            table.load(usize::from(group.0 - range.first.0), section, |key| {
                key_group_of(key.java_hash(), max_parallelism) == *group
            })?;
        }
        self.tables.push(Box::new(table));
        Ok(())
    }

    /// Carries along what is not declared.
    pub(super) fn carry(&mut self, state: Restored, range: KeyGroupRange) {
        let groups = range
            .iter()
            .map(|group| state.sections.get(&group).map_or((0, Bytes::new()), |s| (s.entries, s.bytes.clone())))
            .collect();
        self.tables.push(Box::new(RawTable { header: state.header, groups }));
    }

    pub(super) fn entries(&self) -> u64 {
        self.tables.iter().map(|table| table.entries()).sum()
    }

    /// Headers of all states, by name.
    pub(super) fn headers(&self) -> Vec<StateHeader> {
        let mut headers: Vec<_> = self.tables.iter().map(|table| table.header().clone()).collect();
        headers.sort_by(|a, b| a.name.cmp(&b.name));
        headers
    }

    /// The number of the content of these groups: another one whenever something was written to since they were last kept by
    /// [`Self::share`], which is to follow. `beside`: whether what is written with them has changed.
    pub(super) fn content(&mut self, groups: &Range<usize>, beside: bool) -> u64 {
        let has_changed = beside || self.tables.iter().any(|table| table.has_changed(groups.clone()));
        let content = self.contents.entry(groups.start).or_default();
        *content += u64::from(has_changed);
        *content
    }

    /// Keeps the state of these groups as it is now, in the order of [`Self::headers`].
    pub(super) fn share(&mut self, groups: &Range<usize>, now: i64) -> Vec<Box<dyn SectionWriter>> {
        // By name, so that equal contents give equal bytes in whatever order user code declares.
        let mut tables: Vec<&mut Box<dyn KeyedTable<K>>> = self.tables.iter_mut().collect();
        tables.sort_by(|a, b| a.header().name.cmp(&b.header().name));
        tables.iter_mut().map(|table| table.share(groups.clone(), now)).collect()
    }

    /// Looks at so many entries of a table, and takes away what has expired.
    pub(super) fn clean(&mut self, table: usize, entries: usize, now: i64) {
        if let Some(table) = self.tables.get_mut(table) {
            table.clean(entries, now);
        }
    }

    #[inline]
    pub(super) fn table<N: StateNamespace, V: StateValue>(&self, table: usize) -> &Table<K, N, V> {
        let table = self.tables.get(table).map(|table| table.as_any());
        table.and_then(|table| table.downcast_ref()).unwrap_or_else(|| foreign_handle())
    }

    #[inline]
    pub(super) fn table_mut<N: StateNamespace, V: StateValue>(&mut self, table: usize) -> &mut Table<K, N, V> {
        let table = self.tables.get_mut(table).map(|table| table.as_any_mut());
        table.and_then(|table| table.downcast_mut()).unwrap_or_else(|| foreign_handle())
    }
}

#[cold]
pub(super) fn foreign_handle() -> ! {
    panic!("a state handle is used that this operator did not declare in `open`")
}

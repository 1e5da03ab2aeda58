//! The state of the current key, for handles: one set of operations over both stores, each in a namespace.
//!
//! Tables are named by their numbers. A table of values is used through `value_*` alone, one of lists through `list_*`, one of
//! maps through `map_*`; a number that belongs to another operator or type panics.

use std::collections::BTreeMap;

use super::{
    backend::{KeyedBackend, Store},
    error::StateError,
    key::StateKey,
    table::{Place, StateNamespace, StateValue},
};
use crate::ids::KeyGroup;

/// The state of the current key.
pub struct KeyedContext<'a, K> {
    pub(super) backend: &'a mut KeyedBackend<K>,
    pub(super) key: &'a K,
    pub(super) hash: u64,
    pub(super) group: usize,
}

/// Why an operation failed.
type Result<T> = std::result::Result<T, StateError>;

impl<K: StateKey> KeyedContext<'_, K> {
    pub fn key(&self) -> &K {
        self.key
    }

    pub fn key_group(&self) -> KeyGroup {
        #[allow(clippy::cast_possible_truncation)] // a position within a range of u16
        KeyGroup(self.backend.range.first.0 + self.group as u16)
    }

    #[inline]
    fn place<'p, N>(&'p self, namespace: &'p N) -> Place<'p, K, N> {
        Place { group: self.group, hash: self.hash, key: self.key, namespace }
    }

    #[inline]
    pub(crate) fn value_get<N: StateNamespace, V: StateValue>(
        &self,
        table: usize,
        namespace: &N,
    ) -> Result<Option<&V>> {
        match &self.backend.store {
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => {
                let (table, database, key) = rocks.value::<N, V>(table)?;
                table.get(database, key, namespace)
            }
            Store::Heap(heap) => Ok(heap.table::<N, V>(table).get(&self.place(namespace))),
        }
    }

    #[inline]
    pub(crate) fn value_set<N: StateNamespace, V: StateValue>(
        &mut self,
        table: usize,
        namespace: &N,
        value: V,
    ) -> Result<()> {
        let at = Place { group: self.group, hash: self.hash, key: self.key, namespace };
        match &mut self.backend.store {
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => {
                let (table, database, key) = rocks.value_mut::<N, V>(table)?;
                table.set(database, key, namespace, value)
            }
            Store::Heap(heap) => {
                heap.table_mut::<N, V>(table).set(&at, value);
                Ok(())
            }
        }
    }

    #[inline]
    pub(crate) fn value_get_or_insert_with<N: StateNamespace, V: StateValue>(
        &mut self,
        table: usize,
        namespace: &N,
        make: impl FnOnce() -> V,
    ) -> Result<&mut V> {
        let at = Place { group: self.group, hash: self.hash, key: self.key, namespace };
        match &mut self.backend.store {
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => {
                let (table, database, key) = rocks.value_mut::<N, V>(table)?;
                table.get_or_insert_with(database, key, namespace, make)
            }
            Store::Heap(heap) => Ok(heap.table_mut::<N, V>(table).get_or_insert_with(&at, make)),
        }
    }

    /// Removes without reading.
    pub(crate) fn value_clear<N: StateNamespace, V: StateValue>(&mut self, table: usize, namespace: &N) -> Result<()> {
        let at = Place { group: self.group, hash: self.hash, key: self.key, namespace };
        match &mut self.backend.store {
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => {
                let (table, database, key) = rocks.value_mut::<N, V>(table)?;
                table.clear(database, key, namespace)
            }
            Store::Heap(heap) => {
                heap.table_mut::<N, V>(table).remove(&at);
                Ok(())
            }
        }
    }

    /// Removes and gives what was there.
    pub(crate) fn value_take<N: StateNamespace, V: StateValue>(
        &mut self,
        table: usize,
        namespace: &N,
    ) -> Result<Option<V>> {
        let at = Place { group: self.group, hash: self.hash, key: self.key, namespace };
        match &mut self.backend.store {
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => {
                let (table, database, key) = rocks.value_mut::<N, V>(table)?;
                let value = table.get(database, key, namespace)?.cloned();
                table.clear(database, key, namespace)?;
                Ok(value)
            }
            Store::Heap(heap) => Ok(heap.table_mut::<N, V>(table).remove(&at)),
        }
    }

    pub(crate) fn list_get<N: StateNamespace, V: StateValue>(&self, table: usize, namespace: &N) -> Result<&[V]> {
        match &self.backend.store {
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => {
                let (table, database, key) = rocks.list::<N, V>(table)?;
                table.get(database, key, namespace)
            }
            Store::Heap(heap) => {
                Ok(heap.table::<N, Vec<V>>(table).get(&self.place(namespace)).map_or(&[], Vec::as_slice))
            }
        }
    }

    /// Appends without reading.
    pub(crate) fn list_push<N: StateNamespace, V: StateValue>(
        &mut self,
        table: usize,
        namespace: &N,
        value: V,
    ) -> Result<()> {
        let at = Place { group: self.group, hash: self.hash, key: self.key, namespace };
        match &mut self.backend.store {
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => {
                let (table, database, key) = rocks.list_mut::<N, V>(table)?;
                table.push(database, key, namespace, value)
            }
            Store::Heap(heap) => {
                heap.table_mut::<N, Vec<V>>(table).get_or_insert_with(&at, Vec::new).push(value);
                Ok(())
            }
        }
    }

    pub(crate) fn list_set<N: StateNamespace, V: StateValue>(
        &mut self,
        table: usize,
        namespace: &N,
        values: Vec<V>,
    ) -> Result<()> {
        if values.is_empty() {
            return self.list_clear::<N, V>(table, namespace);
        }
        let at = Place { group: self.group, hash: self.hash, key: self.key, namespace };
        match &mut self.backend.store {
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => {
                let (table, database, key) = rocks.list_mut::<N, V>(table)?;
                table.set(database, key, namespace, values)
            }
            Store::Heap(heap) => {
                heap.table_mut::<N, Vec<V>>(table).set(&at, values);
                Ok(())
            }
        }
    }

    pub(crate) fn list_clear<N: StateNamespace, V: StateValue>(&mut self, table: usize, namespace: &N) -> Result<()> {
        let at = Place { group: self.group, hash: self.hash, key: self.key, namespace };
        match &mut self.backend.store {
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => {
                let (table, database, key) = rocks.list_mut::<N, V>(table)?;
                table.set(database, key, namespace, Vec::new())
            }
            Store::Heap(heap) => {
                heap.table_mut::<N, Vec<V>>(table).remove(&at);
                Ok(())
            }
        }
    }

    pub(crate) fn map_get<N: StateNamespace, M: StateValue + Ord, V: StateValue>(
        &self,
        table: usize,
        namespace: &N,
        map_key: &M,
    ) -> Result<Option<&V>> {
        match &self.backend.store {
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => {
                let (table, database, key) = rocks.map::<N, M, V>(table)?;
                table.get(database, key, namespace, map_key)
            }
            Store::Heap(heap) => {
                let map = heap.table::<N, BTreeMap<M, V>>(table).get(&self.place(namespace));
                Ok(map.and_then(|map| map.get(map_key)))
            }
        }
    }

    /// Writes without reading.
    pub(crate) fn map_insert<N: StateNamespace, M: StateValue + Ord, V: StateValue>(
        &mut self,
        table: usize,
        namespace: &N,
        map_key: M,
        value: V,
    ) -> Result<()> {
        let at = Place { group: self.group, hash: self.hash, key: self.key, namespace };
        match &mut self.backend.store {
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => {
                let (table, database, key) = rocks.map_mut::<N, M, V>(table)?;
                table.insert(database, key, namespace, map_key, value)
            }
            Store::Heap(heap) => {
                let table = heap.table_mut::<N, BTreeMap<M, V>>(table);
                table.get_or_insert_with(&at, BTreeMap::new).insert(map_key, value);
                Ok(())
            }
        }
    }

    /// Removes without reading.
    pub(crate) fn map_remove<N: StateNamespace, M: StateValue + Ord, V: StateValue>(
        &mut self,
        table: usize,
        namespace: &N,
        map_key: &M,
    ) -> Result<()> {
        let at = Place { group: self.group, hash: self.hash, key: self.key, namespace };
        match &mut self.backend.store {
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => {
                let (table, database, key) = rocks.map_mut::<N, M, V>(table)?;
                table.remove(database, key, namespace, map_key)
            }
            Store::Heap(heap) => {
                let table = heap.table_mut::<N, BTreeMap<M, V>>(table);
                if let Some(map) = table.get_mut(&at) {
                    map.remove(map_key);
                    if map.is_empty() {
                        table.remove(&at);
                    }
                }
                Ok(())
            }
        }
    }

    /// Every entry, in the order of the map's keys.
    pub(crate) fn map_for_each<N: StateNamespace, M: StateValue + Ord, V: StateValue>(
        &self,
        table: usize,
        namespace: &N,
        mut each: impl FnMut(&M, &V),
    ) -> Result<()> {
        match &self.backend.store {
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => {
                let (table, database, key) = rocks.map::<N, M, V>(table)?;
                table.for_each(database, key, namespace, each)
            }
            Store::Heap(heap) => {
                let map = heap.table::<N, BTreeMap<M, V>>(table).get(&self.place(namespace));
                map.into_iter().flatten().for_each(|(key, value)| each(key, value));
                Ok(())
            }
        }
    }

    pub(crate) fn map_is_empty<N: StateNamespace, M: StateValue + Ord, V: StateValue>(
        &self,
        table: usize,
        namespace: &N,
    ) -> Result<bool> {
        match &self.backend.store {
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => {
                let (table, database, key) = rocks.map::<N, M, V>(table)?;
                table.is_empty(database, key, namespace)
            }
            Store::Heap(heap) => Ok(heap.table::<N, BTreeMap<M, V>>(table).get(&self.place(namespace)).is_none()),
        }
    }

    pub(crate) fn map_clear<N: StateNamespace, M: StateValue + Ord, V: StateValue>(
        &mut self,
        table: usize,
        namespace: &N,
    ) -> Result<()> {
        let at = Place { group: self.group, hash: self.hash, key: self.key, namespace };
        match &mut self.backend.store {
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => {
                let (table, database, key) = rocks.map_mut::<N, M, V>(table)?;
                table.clear(database, key, namespace)
            }
            Store::Heap(heap) => {
                heap.table_mut::<N, BTreeMap<M, V>>(table).remove(&at);
                Ok(())
            }
        }
    }
}

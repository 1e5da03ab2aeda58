//! The typed side of a state in a database: encoding, decoding, and the values of the current key, which are read once.
//!
//! Everything is written at once, except for a value that is changed in place: that is written when the key is done. Lists are
//! written to the database, values and entries of maps to the recent entries in front of it.

use std::{any::Any, cell::Cell, collections::BTreeMap};

use elsa::{FrozenBTreeMap, FrozenVec};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    database::Database,
    layout::{map_entry, put_count, put_tail},
    list_lengths::{ListLength, ListLengths},
    recent::Recent,
};
use crate::state::{
    error::{StateError, StateProblem},
    table::{StateNamespace, StateValue},
};

type Result<T> = std::result::Result<T, StateError>;

/// A state whatever its types.
pub(super) trait RocksTable: Any {
    /// The key is done: writes back what was changed in place, and forgets the rest.
    fn settle(&mut self, database: &Database, key: &[u8]) -> Result<()>;

    /// The entries in front of the database; None: everything is written to it at once.
    fn recent(&self) -> Option<&Recent> {
        None
    }

    /// A native checkpoint is going to be made: writes down what whoever restores it must know besides.
    fn before_native_checkpoint(&self, _database: &Database) -> Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

macro_rules! as_any {
    () => {
        fn as_any(&self) -> &dyn Any {
            self
        }

        fn as_any_mut(&mut self) -> &mut dyn Any {
            self
        }
    };
}

pub(super) fn encode<T: Serialize>(state: &str, what: &'static str, value: &T, out: Vec<u8>) -> Result<Vec<u8>> {
    postcard::to_extend(value, out)
        .map_err(|error| StateError::new(state, StateProblem::Encode { what, detail: error.to_string() }))
}

pub(super) fn decode<T: DeserializeOwned>(state: &str, what: &'static str, bytes: &[u8]) -> Result<T> {
    let detail = match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => return Ok(value),
        Ok((_, rest)) => format!("{} bytes too many", rest.len()),
        Err(error) => error.to_string(),
    };
    Err(StateError::new(state, StateProblem::Decode { what, detail }))
}

/// `key` (with its key group) in a namespace, in a buffer.
fn in_namespace<N: StateNamespace>(state: &str, key: &[u8], namespace: &N, mut buffer: Vec<u8>) -> Result<Vec<u8>> {
    buffer.extend_from_slice(key);
    encode(state, "namespace", namespace, buffer)
}

/// Empty buffers for a key and a value, which are used again and again.
#[derive(Default)]
struct Buffers {
    key: Cell<Vec<u8>>,
    value: Cell<Vec<u8>>,
}

/// Longer ones are not kept.
const LONGEST_BUFFER_BYTES: usize = 64 << 10;

impl Buffers {
    fn key(&self) -> Vec<u8> {
        self.key.take()
    }

    fn value(&self) -> Vec<u8> {
        self.value.take()
    }

    fn give_back(of: &Cell<Vec<u8>>, mut buffer: Vec<u8>) {
        if buffer.capacity() <= LONGEST_BUFFER_BYTES {
            buffer.clear();
            of.set(buffer);
        }
    }

    fn give_back_key(&self, buffer: Vec<u8>) {
        Buffers::give_back(&self.key, buffer);
    }

    fn give_back_value(&self, buffer: Vec<u8>) {
        Buffers::give_back(&self.value, buffer);
    }
}

/// So many namespaces of one key are remembered at most.
const REMEMBERED: usize = 16;

struct Entry<N, T> {
    namespace: N,
    content: T,
}

type Entries<N, T> = FrozenVec<Box<Entry<N, T>>>;

fn find<'a, N: StateNamespace, T>(entries: &'a Entries<N, T>, namespace: &N) -> Option<&'a T> {
    entries.iter().find(|entry| entry.namespace == *namespace).map(|entry| &entry.content)
}

fn find_mut<'a, N: StateNamespace, T>(entries: &'a mut Entries<N, T>, namespace: &N) -> Option<&'a mut T> {
    entries.as_mut().iter_mut().find(|entry| entry.namespace == *namespace).map(|entry| &mut entry.content)
}

pub(in crate::state) struct ValueTable<N, V> {
    state: String,
    recent: Recent,
    buffers: Buffers,
    entries: Entries<N, Value<V>>,
}

struct Value<V> {
    value: Option<V>,
    /// Changed in place.
    dirty: bool,
}

impl<N: StateNamespace, V: StateValue> ValueTable<N, V> {
    pub(in crate::state) fn new(state: &str) -> Self {
        ValueTable {
            state: state.to_string(),
            recent: Recent::new(state),
            buffers: Buffers::default(),
            entries: FrozenVec::new(),
        }
    }

    fn read(&self, database: &Database, key: &[u8], namespace: &N) -> Result<Option<V>> {
        let at = in_namespace(&self.state, key, namespace, self.buffers.key())?;
        let found = self.recent.get(database, &at, |bytes| decode(&self.state, "value", bytes));
        self.buffers.give_back_key(at);
        found
    }

    fn put(&self, database: &Database, key: &[u8], namespace: &N, value: &V) -> Result<()> {
        let at = in_namespace(&self.state, key, namespace, self.buffers.key())?;
        let bytes = encode(&self.state, "value", value, self.buffers.value())?;
        let put = self.recent.put(database, &at, &bytes);
        self.buffers.give_back_key(at);
        self.buffers.give_back_value(bytes);
        put
    }

    pub(in crate::state) fn get(&self, database: &Database, key: &[u8], namespace: &N) -> Result<Option<&V>> {
        if let Some(found) = find(&self.entries, namespace) {
            return Ok(found.value.as_ref());
        }
        let value = self.read(database, key, namespace)?;
        let entry = Entry { namespace: namespace.clone(), content: Value { value, dirty: false } };
        Ok(self.entries.push_get(Box::new(entry)).content.value.as_ref())
    }

    pub(in crate::state) fn set(&mut self, database: &Database, key: &[u8], namespace: &N, value: V) -> Result<()> {
        self.put(database, key, namespace, &value)?;
        self.remember(database, key, namespace, Value { value: Some(value), dirty: false }).map(drop)
    }

    pub(in crate::state) fn clear(&mut self, database: &Database, key: &[u8], namespace: &N) -> Result<()> {
        let at = in_namespace(&self.state, key, namespace, self.buffers.key())?;
        let deleted = self.recent.delete(database, &at);
        self.buffers.give_back_key(at);
        deleted?;
        self.remember(database, key, namespace, Value { value: None, dirty: false }).map(drop)
    }

    pub(in crate::state) fn get_or_insert_with(
        &mut self,
        database: &Database,
        key: &[u8],
        namespace: &N,
        make: impl FnOnce() -> V,
    ) -> Result<&mut V> {
        if find(&self.entries, namespace).is_none() {
            let value = self.read(database, key, namespace)?;
            self.remember(database, key, namespace, Value { value, dirty: false })?;
        }
        let Some(found) = find_mut(&mut self.entries, namespace) else { unreachable!("remembered above") };
        found.dirty = true;
        Ok(found.value.get_or_insert_with(make))
    }

    fn remember(&mut self, database: &Database, key: &[u8], namespace: &N, value: Value<V>) -> Result<()> {
        if let Some(found) = find_mut(&mut self.entries, namespace) {
            *found = value;
            return Ok(());
        }
        if self.entries.len() >= REMEMBERED {
            self.settle(database, key)?;
        }
        self.entries.push(Box::new(Entry { namespace: namespace.clone(), content: value }));
        Ok(())
    }
}

impl<N: StateNamespace, V: StateValue> RocksTable for ValueTable<N, V> {
    fn settle(&mut self, database: &Database, key: &[u8]) -> Result<()> {
        let mut entries = std::mem::take(self.entries.as_mut());
        for entry in entries.drain(..) {
            if let Value { value: Some(value), dirty: true } = &entry.content {
                self.put(database, key, &entry.namespace, value)?;
            }
        }
        *self.entries.as_mut() = entries;
        Ok(())
    }

    fn recent(&self) -> Option<&Recent> {
        Some(&self.recent)
    }

    as_any!();
}

pub(in crate::state) struct ListTable<N, V> {
    state: String,
    entries: Entries<N, Vec<V>>,
    /// None until something is written.
    lengths: Option<ListLengths>,
}

impl<N: StateNamespace, V: StateValue> ListTable<N, V> {
    pub(in crate::state) fn new(state: &str) -> Self {
        ListTable { state: state.to_string(), entries: FrozenVec::new(), lengths: None }
    }

    pub(in crate::state) fn get(&self, database: &Database, key: &[u8], namespace: &N) -> Result<&[V]> {
        if let Some(found) = find(&self.entries, namespace) {
            return Ok(found);
        }
        let at = in_namespace(&self.state, key, namespace, Vec::new())?;
        let list: Option<Vec<V>> = database.get(&self.state, &at, |bytes| decode(&self.state, "list", bytes))?;
        let entry = Entry { namespace: namespace.clone(), content: list.unwrap_or_default() };
        Ok(&self.entries.push_get(Box::new(entry)).content)
    }

    pub(in crate::state) fn push(&mut self, database: &Database, key: &[u8], namespace: &N, value: V) -> Result<()> {
        let mut list = Vec::new();
        put_count(1, &mut list);
        let list = encode(&self.state, "element", &value, list)?;
        let at = in_namespace(&self.state, key, namespace, Vec::new())?;
        let state = &self.state;
        let read = || {
            let found = database.get(state, &at, |list| Ok(ListLength::of(list)))?;
            Ok::<_, StateError>(found.unwrap_or_default())
        };
        let limit = database.max_entry_bytes();
        if let Err(bytes) = lengths(&mut self.lengths, state, database).append(&at, &list, read)? {
            return Err(StateError::new(state, StateProblem::TooLarge { what: "list", bytes, limit }));
        }
        database.append(state, &at, &list)?;
        if let Some(found) = find_mut(&mut self.entries, namespace) {
            found.push(value);
        }
        Ok(())
    }

    /// An empty list is no list.
    pub(in crate::state) fn set(
        &mut self,
        database: &Database,
        key: &[u8],
        namespace: &N,
        values: Vec<V>,
    ) -> Result<()> {
        let at = in_namespace(&self.state, key, namespace, Vec::new())?;
        let list = (!values.is_empty()).then(|| encode(&self.state, "list", &values, Vec::new())).transpose()?;
        match &list {
            None => database.delete(&self.state, &at)?,
            Some(list) => database.put(&self.state, &at, list)?,
        }
        lengths(&mut self.lengths, &self.state, database).replaced(&at, list.as_deref());
        match find_mut(&mut self.entries, namespace) {
            Some(found) => *found = values,
            None => self.entries.push(Box::new(Entry { namespace: namespace.clone(), content: values })),
        }
        Ok(())
    }
}

fn lengths<'a>(of: &'a mut Option<ListLengths>, state: &str, database: &Database) -> &'a mut ListLengths {
    of.get_or_insert_with(|| ListLengths::new(database.max_entry_bytes(), database.longest_list(state)))
}

impl<N: StateNamespace, V: StateValue> RocksTable for ListTable<N, V> {
    fn settle(&mut self, _database: &Database, _key: &[u8]) -> Result<()> {
        self.entries.as_mut().clear();
        Ok(())
    }

    fn before_native_checkpoint(&self, database: &Database) -> Result<()> {
        let longest = self.lengths.as_ref().map_or(0, ListLengths::longest);
        database.note_longest_list(&self.state, longest)
    }

    as_any!();
}

pub(in crate::state) struct MapTable<N, M, V> {
    state: String,
    group_length: usize,
    recent: Recent,
    buffers: Buffers,
    /// What is known of the maps; None: the map does not have it.
    entries: Entries<N, FrozenBTreeMap<M, Box<Option<V>>>>,
}

impl<N: StateNamespace, M: StateValue + Ord, V: StateValue> MapTable<N, M, V> {
    pub(in crate::state) fn new(state: &str, group_length: usize) -> Self {
        MapTable {
            state: state.to_string(),
            group_length,
            recent: Recent::new(state),
            buffers: Buffers::default(),
            entries: FrozenVec::new(),
        }
    }

    fn at(&self, key: &[u8], namespace: &N, map_key: &M) -> Result<Vec<u8>> {
        let at = in_namespace(&self.state, key, namespace, self.buffers.key())?;
        let length = at.len() - self.group_length;
        let mut at = encode(&self.state, "key of a map", map_key, at)?;
        put_tail(length, &mut at);
        Ok(at)
    }

    pub(in crate::state) fn get(
        &self,
        database: &Database,
        key: &[u8],
        namespace: &N,
        map_key: &M,
    ) -> Result<Option<&V>> {
        let map = match find(&self.entries, namespace) {
            Some(map) => map,
            None => {
                let entry = Entry { namespace: namespace.clone(), content: FrozenBTreeMap::default() };
                &self.entries.push_get(Box::new(entry)).content
            }
        };
        if let Some(known) = map.get(map_key) {
            return Ok(known.as_ref());
        }
        let at = self.at(key, namespace, map_key)?;
        let value = self.recent.get(database, &at, |bytes| decode(&self.state, "value", bytes));
        self.buffers.give_back_key(at);
        Ok(map.insert(map_key.clone(), Box::new(value?)).as_ref())
    }

    pub(in crate::state) fn insert(
        &mut self,
        database: &Database,
        key: &[u8],
        namespace: &N,
        map_key: M,
        value: V,
    ) -> Result<()> {
        let at = self.at(key, namespace, &map_key)?;
        let bytes = encode(&self.state, "value", &value, self.buffers.value())?;
        let put = self.recent.put(database, &at, &bytes);
        self.buffers.give_back_key(at);
        self.buffers.give_back_value(bytes);
        put?;
        if let Some(map) = find_mut(&mut self.entries, namespace) {
            map.as_mut().insert(map_key, Box::new(Some(value)));
        }
        Ok(())
    }

    pub(in crate::state) fn remove(
        &mut self,
        database: &Database,
        key: &[u8],
        namespace: &N,
        map_key: &M,
    ) -> Result<()> {
        let at = self.at(key, namespace, map_key)?;
        let deleted = self.recent.delete(database, &at);
        self.buffers.give_back_key(at);
        deleted?;
        if let Some(map) = find_mut(&mut self.entries, namespace) {
            map.as_mut().insert(map_key.clone(), Box::new(None));
        }
        Ok(())
    }

    /// Calls `each` for the entries as they lie in the database, as long as it says so.
    fn scan(
        &self,
        database: &Database,
        key: &[u8],
        namespace: &N,
        mut each: impl FnMut(&[u8], &[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        self.recent.write_back(database)?;
        let start = in_namespace(&self.state, key, namespace, Vec::new())?;
        database.scan(&self.state, &start, None, |entry, value| {
            if !entry.starts_with(&start) {
                return Ok(false);
            }
            let (_, map_key) = map_entry(entry, self.group_length).ok_or_else(|| bad_key(&self.state))?;
            each(entry, map_key, value)
        })
    }

    /// In the order of the map's keys.
    pub(in crate::state) fn for_each(
        &self,
        database: &Database,
        key: &[u8],
        namespace: &N,
        mut each: impl FnMut(&M, &V),
    ) -> Result<()> {
        let mut entries: BTreeMap<M, V> = BTreeMap::new();
        self.scan(database, key, namespace, |_, map_key, value| {
            let map_key = decode(&self.state, "key of a map", map_key)?;
            entries.insert(map_key, decode(&self.state, "value", value)?);
            Ok(true)
        })?;
        entries.iter().for_each(|(key, value)| each(key, value));
        Ok(())
    }

    pub(in crate::state) fn is_empty(&self, database: &Database, key: &[u8], namespace: &N) -> Result<bool> {
        let mut empty = true;
        self.scan(database, key, namespace, |_, _, _| {
            empty = false;
            Ok(false)
        })?;
        Ok(empty)
    }

    pub(in crate::state) fn clear(&mut self, database: &Database, key: &[u8], namespace: &N) -> Result<()> {
        let mut entries = Vec::new();
        self.scan(database, key, namespace, |entry, _, _| {
            entries.push(entry.to_vec());
            Ok(true)
        })?;
        entries.iter().try_for_each(|entry| self.recent.delete(database, entry))?;
        if let Some(map) = find_mut(&mut self.entries, namespace) {
            *map = FrozenBTreeMap::default();
        }
        Ok(())
    }
}

pub(super) fn bad_key(state: &str) -> StateError {
    let detail = "it is too short for what it says to hold".to_string();
    StateError::new(state, StateProblem::Decode { what: "key of the database", detail })
}

impl<N: StateNamespace, M: StateValue + Ord, V: StateValue> RocksTable for MapTable<N, M, V> {
    fn settle(&mut self, _database: &Database, _key: &[u8]) -> Result<()> {
        self.entries.as_mut().clear();
        Ok(())
    }

    fn recent(&self) -> Option<&Recent> {
        Some(&self.recent)
    }

    as_any!();
}

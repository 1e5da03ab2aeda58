//! The table of one named state: a hash table per key group. A snapshot shares them; a write to a group that is still shared
//! copies that group first. Hash tables have a fixed seed; their order is never visible.

use std::{any::Any, hash::BuildHasher, ops::Range, sync::Arc};

use bytes::Bytes;
use hashbrown::{HashTable, hash_table::Entry};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    format::{FormatError, SectionWriter, StateHeader, StateSection, put_entry},
    key::StateKey,
};

/// What a table may hold.
pub trait StateValue: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}

impl<V: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> StateValue for V {}

#[inline]
pub(super) fn hash_of<K: StateKey>(key: &K) -> u64 {
    foldhash::fast::FixedState::with_seed(0x5765_6972).hash_one(key)
}

/// A table whatever its value type. Groups count from the first key group of the subtask.
pub(super) trait KeyedTable<K> {
    fn header(&self) -> &StateHeader;
    /// Keeps the state of these groups as it is now.
    fn share(&mut self, groups: Range<usize>) -> Box<dyn SectionWriter>;
    fn entries(&self) -> u64;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// The entries of a key group. A write to what is its own costs no atomic operation.
enum Group<K, V> {
    Own(HashTable<(K, V)>),
    /// A snapshot has it too, at least until it is encoded.
    Shared(Arc<HashTable<(K, V)>>),
}

impl<K: Clone, V: Clone> Group<K, V> {
    #[inline]
    fn read(&self) -> &HashTable<(K, V)> {
        match self {
            Group::Own(table) => table,
            Group::Shared(table) => table,
        }
    }

    /// To be written to.
    #[inline]
    fn write(&mut self) -> &mut HashTable<(K, V)> {
        if let Group::Shared(table) = self {
            // Copied only if the snapshot has not let go of it yet.
            *self = Group::Own(Arc::unwrap_or_clone(std::mem::take(table)));
        }
        match self {
            Group::Own(table) => table,
            Group::Shared(_) => unreachable!("made its own above"),
        }
    }

    fn share(&mut self) -> Arc<HashTable<(K, V)>> {
        if let Group::Own(table) = self {
            *self = Group::Shared(Arc::new(std::mem::take(table)));
        }
        match self {
            Group::Shared(table) => table.clone(),
            Group::Own(_) => unreachable!("shared above"),
        }
    }
}

pub(super) struct Table<K, V> {
    header: StateHeader,
    groups: Vec<Group<K, V>>,
}

impl<K: StateKey, V: StateValue> Table<K, V> {
    pub(super) fn new(header: StateHeader, groups: usize) -> Table<K, V> {
        Table { header, groups: (0..groups).map(|_| Group::Own(HashTable::new())).collect() }
    }

    #[inline]
    pub(super) fn get(&self, group: usize, hash: u64, key: &K) -> Option<&V> {
        self.groups[group].read().find(hash, |(k, _)| k == key).map(|(_, value)| value)
    }

    #[inline]
    pub(super) fn set(&mut self, group: usize, hash: u64, key: &K, value: V) {
        match self.groups[group].write().entry(hash, |(k, _)| k == key, |(k, _)| hash_of(k)) {
            Entry::Occupied(mut entry) => entry.get_mut().1 = value,
            Entry::Vacant(entry) => {
                entry.insert((key.clone(), value));
            }
        }
    }

    #[inline]
    pub(super) fn get_or_insert_with(&mut self, group: usize, hash: u64, key: &K, make: impl FnOnce() -> V) -> &mut V {
        let table = self.groups[group].write();
        let entry = table.entry(hash, |(k, _)| k == key, |(k, _)| hash_of(k)).or_insert_with(|| (key.clone(), make()));
        &mut entry.into_mut().1
    }

    pub(super) fn get_mut(&mut self, group: usize, hash: u64, key: &K) -> Option<&mut V> {
        // A group without the key must not be copied.
        self.get(group, hash, key)?;
        self.groups[group].write().find_mut(hash, |(k, _)| k == key).map(|(_, value)| value)
    }

    pub(super) fn remove(&mut self, group: usize, hash: u64, key: &K) -> Option<V> {
        self.get(group, hash, key)?;
        let entry = self.groups[group].write().find_entry(hash, |(k, _)| k == key).ok()?;
        Some(entry.remove().0.1)
    }

    /// Adds the entries of a section. `belongs` says whether a key is in the section's key group.
    pub(super) fn load(
        &mut self,
        group: usize,
        section: &StateSection,
        belongs: impl Fn(&K) -> bool,
    ) -> Result<(), FormatError> {
        let state = self.header.name.clone();
        let table = self.groups[group].write();
        // The count is not to be trusted with an allocation; an entry has at least its two length bytes.
        let plausible = (section.entries as usize).min(section.bytes.len() / 2).min(1 << 16);
        table.reserve(plausible, |(k, _)| hash_of(k));
        section.for_each(|entry| {
            let key: K = decode(entry.key, "key", &state)?;
            let value: V = decode(entry.value, "value", &state)?;
            if !belongs(&key) {
                return Err(FormatError(format!("state {state}: a key in key group {} is not of it", section.group)));
            }
            let hash = hash_of(&key);
            match table.entry(hash, |(k, _)| *k == key, |(k, _)| hash_of(k)) {
                Entry::Occupied(_) => {
                    Err(FormatError(format!("state {state}: a key occurs twice in key group {}", section.group)))
                }
                Entry::Vacant(vacant) => {
                    vacant.insert((key, value));
                    Ok(())
                }
            }
        })
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8], what: &str, state: &str) -> Result<T, FormatError> {
    match postcard::take_from_bytes(bytes) {
        Ok((decoded, [])) => Ok(decoded),
        Ok((_, rest)) => Err(FormatError(format!("state {state}: {} bytes too many in a {what}", rest.len()))),
        Err(error) => Err(FormatError(format!("state {state}: a {what} does not decode: {error}"))),
    }
}

impl<K: StateKey, V: StateValue> KeyedTable<K> for Table<K, V> {
    fn header(&self) -> &StateHeader {
        &self.header
    }

    fn share(&mut self, groups: Range<usize>) -> Box<dyn SectionWriter> {
        let shared = self.groups[groups].iter_mut().map(Group::share).collect();
        Box::new(SharedGroups { state: self.header.name.clone(), groups: shared })
    }

    fn entries(&self) -> u64 {
        self.groups.iter().map(|group| group.read().len() as u64).sum()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

struct SharedGroups<K, V> {
    state: String,
    groups: Vec<Arc<HashTable<(K, V)>>>,
}

impl<K: StateKey, V: StateValue> SectionWriter for SharedGroups<K, V> {
    /// Panics if user data does not encode: the part cannot be written then, and the native call reports the panic.
    fn write(&self, group: usize, out: &mut Vec<u8>) -> u32 {
        let table = &self.groups[group];
        let mut keys = Vec::with_capacity(table.len() * 8);
        let mut order = Vec::with_capacity(table.len());
        for (key, value) in table.iter() {
            let start = keys.len();
            keys = postcard::to_extend(key, keys)
                .unwrap_or_else(|error| panic!("state {}: a key does not encode: {error}", self.state));
            order.push((start..keys.len(), value));
        }
        order.sort_unstable_by(|(a, _), (b, _)| keys[a.clone()].cmp(&keys[b.clone()]));
        let mut encoded = Vec::new();
        for (key, value) in &order {
            encoded.clear();
            encoded = postcard::to_extend(*value, encoded)
                .unwrap_or_else(|error| panic!("state {}: a value does not encode: {error}", self.state));
            put_entry(&keys[key.clone()], &encoded, out);
        }
        u32::try_from(order.len()).expect("a key group has fewer than 2^32 entries")
    }
}

/// State in the snapshot that today's code does not declare: carried along as it is, so that nothing is lost silently.
#[derive(Clone)]
pub(super) struct RawTable {
    pub header: StateHeader,
    pub groups: Vec<(u32, Bytes)>,
}

impl<K> KeyedTable<K> for RawTable {
    fn header(&self) -> &StateHeader {
        &self.header
    }

    fn share(&mut self, groups: Range<usize>) -> Box<dyn SectionWriter> {
        Box::new(RawTable { header: self.header.clone(), groups: self.groups[groups].to_vec() })
    }

    fn entries(&self) -> u64 {
        self.groups.iter().map(|(entries, _)| u64::from(*entries)).sum()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl SectionWriter for RawTable {
    fn write(&self, group: usize, out: &mut Vec<u8>) -> u32 {
        let (entries, bytes) = &self.groups[group];
        out.extend_from_slice(bytes);
        *entries
    }
}

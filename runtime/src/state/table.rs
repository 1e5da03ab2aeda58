//! The table of one named state: a hash table per key group. A snapshot shares them; a write to a group that is still shared
//! copies that group first. Hash tables have a fixed seed; their order is never visible.

use std::{
    any::Any,
    borrow::Cow,
    collections::BTreeMap,
    hash::{BuildHasher, Hash},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use hashbrown::{HashTable, hash_table::Entry};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    format::{FormatError, SectionWriter, StateHeader, StateSection, put_entry},
    key::StateKey,
    ttl::{Kept, Strip, Ttl},
};

/// What a table may hold. It must not change behind a shared reference (an atomic number in an `Arc`, say): what was read and is changed
/// counts once it is written back, and not before. On the heap such a value would be the state itself, in RocksDB a copy of it.
pub trait StateValue: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}

impl<V: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> StateValue for V {}

/// What tells apart the states that one key has under one name (a window, say). States without namespaces have `()`, which
/// takes no room in memory or in a file.
pub trait StateNamespace: Eq + Hash + Clone + Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<N: Eq + Hash + Clone + Serialize + DeserializeOwned + Send + Sync + 'static> StateNamespace for N {}

const HASHER: foldhash::fast::FixedState = foldhash::fast::FixedState::with_seed(0x5765_6972);

#[inline]
pub(super) fn hash_of<K: StateKey>(key: &K) -> u64 {
    HASHER.hash_one(key)
}

/// Of a key in a namespace, from that of the key alone.
#[inline]
fn hash_in<N: StateNamespace>(key_hash: u64, namespace: &N) -> u64 {
    if size_of::<N>() == 0 { key_hash } else { HASHER.hash_one((key_hash, namespace)) }
}

/// Writes one value. Panics never; says what does not encode.
pub(super) type EncodeValue<V> = fn(&V, Vec<u8>) -> Result<Vec<u8>, postcard::Error>;

/// As postcard has it.
pub(super) fn encode_plain<V: StateValue>(value: &V, out: Vec<u8>) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(value, out)
}

/// As postcard has it, in the order of the encoded keys: the order in which a database has them.
pub(super) fn encode_map<M: StateValue + Ord, V: StateValue>(
    map: &BTreeMap<M, V>,
    out: Vec<u8>,
) -> Result<Vec<u8>, postcard::Error> {
    let mut out = postcard::to_extend(&map.len(), out)?;
    let mut entries = Vec::with_capacity(map.len());
    for (key, value) in map {
        entries.push((postcard::to_allocvec(key)?, value));
    }
    entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    for (key, value) in entries {
        out.extend_from_slice(&key);
        out = postcard::to_extend(value, out)?;
    }
    Ok(out)
}

/// A table whatever its value type. Groups count from the first key group of the subtask.
pub(super) trait KeyedTable<K> {
    fn header(&self) -> &StateHeader;
    /// Whether anything in these groups was written to since they were shared.
    fn has_changed(&self, groups: Range<usize>) -> bool;
    /// Keeps the state of these groups as it is now. `now`: processing time, for what expires.
    fn share(&mut self, groups: Range<usize>, now: i64) -> Box<dyn SectionWriter>;
    /// Looks at so many entries, going on where it ended, and takes away what has expired.
    fn clean(&mut self, _entries: usize, _now: i64) {}
    fn entries(&self) -> u64;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// The entries of a key group: key, namespace, value.
type Entries<K, N, V> = HashTable<(K, N, V)>;

/// Cleaning looks at so many places of a hash table for each entry that it may find.
const BUCKETS_PER_ENTRY: usize = 16;

/// A write to what is the group's own costs no atomic operation.
enum Group<K, N, V> {
    Own(Entries<K, N, V>),
    /// A snapshot has it too, at least until it is encoded.
    Shared(Arc<Entries<K, N, V>>),
}

impl<K: Clone, N: Clone, V: Clone> Group<K, N, V> {
    #[inline]
    fn read(&self) -> &Entries<K, N, V> {
        match self {
            Group::Own(table) => table,
            Group::Shared(table) => table,
        }
    }

    /// To be written to.
    #[inline]
    fn write(&mut self) -> &mut Entries<K, N, V> {
        if let Group::Shared(table) = self {
            // Copied only if the snapshot has not let go of it yet.
            *self = Group::Own(Arc::unwrap_or_clone(std::mem::take(table)));
        }
        match self {
            Group::Own(table) => table,
            Group::Shared(_) => unreachable!("made its own above"),
        }
    }

    /// To be cleaned, if no snapshot has it. That is no change which a later snapshot must have: nobody can see what goes.
    fn own(&mut self) -> Option<&mut Entries<K, N, V>> {
        match self {
            Group::Own(table) => Some(table),
            Group::Shared(table) => Arc::get_mut(table),
        }
    }

    fn share(&mut self) -> Arc<Entries<K, N, V>> {
        if let Group::Own(table) = self {
            *self = Group::Shared(Arc::new(std::mem::take(table)));
        }
        match self {
            Group::Shared(table) => table.clone(),
            Group::Own(_) => unreachable!("shared above"),
        }
    }
}

/// Where an entry is or would be.
pub(super) struct Place<'a, K, N> {
    /// Counted from the first key group of the subtask.
    pub group: usize,
    /// Of the key alone.
    pub hash: u64,
    pub key: &'a K,
    pub namespace: &'a N,
}

pub(super) struct Table<K, N, V> {
    header: StateHeader,
    encode: EncodeValue<V>,
    groups: Vec<Group<K, N, V>>,
    expiry: Option<(Ttl, Strip<V>)>,
    /// Where cleaning goes on: a group and a bucket of it.
    cursor: (usize, usize),
}

#[inline]
fn rehash<K: StateKey, N: StateNamespace, V>((key, namespace, _): &(K, N, V)) -> u64 {
    hash_in(hash_of(key), namespace)
}

impl<K: StateKey, N: StateNamespace> Place<'_, K, N> {
    #[inline]
    fn hash(&self) -> u64 {
        hash_in(self.hash, self.namespace)
    }

    #[inline]
    fn is<V>(&self, (key, namespace, _): &(K, N, V)) -> bool {
        key == self.key && namespace == self.namespace
    }
}

impl<K: StateKey, N: StateNamespace, V: StateValue> Table<K, N, V> {
    pub(super) fn new(header: StateHeader, encode: EncodeValue<V>, groups: usize) -> Table<K, N, V> {
        let groups = (0..groups).map(|_| Group::Own(HashTable::new())).collect();
        Table { header, encode, groups, expiry: None, cursor: (0, 0) }
    }

    /// Its values expire.
    pub(super) fn expire(&mut self, ttl: Ttl, strip: Strip<V>) {
        self.expiry = Some((ttl, strip));
    }

    #[inline]
    pub(super) fn get(&self, at: &Place<'_, K, N>) -> Option<&V> {
        self.groups[at.group].read().find(at.hash(), |entry| at.is(entry)).map(|(_, _, value)| value)
    }

    #[inline]
    pub(super) fn set(&mut self, at: &Place<'_, K, N>, value: V) {
        match self.groups[at.group].write().entry(at.hash(), |entry| at.is(entry), rehash) {
            Entry::Occupied(mut entry) => entry.get_mut().2 = value,
            Entry::Vacant(entry) => {
                entry.insert((at.key.clone(), at.namespace.clone(), value));
            }
        }
    }

    #[inline]
    pub(super) fn get_or_insert_with(&mut self, at: &Place<'_, K, N>, make: impl FnOnce() -> V) -> &mut V {
        let table = self.groups[at.group].write();
        let entry = table
            .entry(at.hash(), |entry| at.is(entry), rehash)
            .or_insert_with(|| (at.key.clone(), at.namespace.clone(), make()));
        &mut entry.into_mut().2
    }

    pub(super) fn get_mut(&mut self, at: &Place<'_, K, N>) -> Option<&mut V> {
        // A group without the key must not be copied.
        self.get(at)?;
        self.groups[at.group].write().find_mut(at.hash(), |entry| at.is(entry)).map(|(_, _, value)| value)
    }

    pub(super) fn remove(&mut self, at: &Place<'_, K, N>) -> Option<V> {
        self.get(at)?;
        let entry = self.groups[at.group].write().find_entry(at.hash(), |entry| at.is(entry)).ok()?;
        Some(entry.remove().0.2)
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
        table.reserve(plausible, rehash);
        section.for_each(|entry| {
            let (key, namespace): (K, N) = decode(entry.key, "key", &state)?;
            let value: V = decode(entry.value, "value", &state)?;
            if !belongs(&key) {
                return Err(FormatError(format!("state {state}: a key in key group {} is not of it", section.group)));
            }
            let at = Place { group, hash: hash_of(&key), key: &key, namespace: &namespace };
            match table.entry(at.hash(), |entry| at.is(entry), rehash) {
                Entry::Occupied(_) => {
                    Err(FormatError(format!("state {state}: a key occurs twice in key group {}", section.group)))
                }
                Entry::Vacant(vacant) => {
                    vacant.insert((key, namespace, value));
                    Ok(())
                }
            }
        })
    }
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8], what: &str, state: &str) -> Result<T, FormatError> {
    match postcard::take_from_bytes(bytes) {
        Ok((decoded, [])) => Ok(decoded),
        Ok((_, rest)) => Err(FormatError(format!("state {state}: {} bytes too many in a {what}", rest.len()))),
        Err(error) => Err(FormatError(format!("state {state}: a {what} does not decode: {error}"))),
    }
}

impl<K: StateKey, N: StateNamespace, V: StateValue> KeyedTable<K> for Table<K, N, V> {
    fn header(&self) -> &StateHeader {
        &self.header
    }

    fn has_changed(&self, groups: Range<usize>) -> bool {
        self.groups[groups].iter().any(|group| matches!(group, Group::Own(_)))
    }

    fn share(&mut self, groups: Range<usize>, now: i64) -> Box<dyn SectionWriter> {
        let shared = self.groups[groups].iter_mut().map(Group::share).collect();
        let expiry = self.expiry.filter(|(ttl, _)| ttl.filters_snapshots()).map(|(ttl, strip)| (ttl, strip, now));
        Box::new(SharedGroups { state: self.header.name.clone(), encode: self.encode, groups: shared, expiry })
    }

    fn clean(&mut self, entries: usize, now: i64) {
        let Some((ttl, strip)) = self.expiry else { return };
        let (mut entries, mut buckets) = (entries, entries.saturating_mul(BUCKETS_PER_ENTRY));
        let mut groups = 0;
        while entries > 0 && buckets > 0 && groups <= self.groups.len() {
            let (group, bucket) = self.cursor;
            let Some(table) = self.groups.get_mut(group).and_then(Group::own) else {
                // Past the last group; or a snapshot has it, and cleaning is no reason to copy it.
                self.cursor = if group < self.groups.len() { (group + 1, 0) } else { (0, 0) };
                groups += 1;
                continue;
            };
            if bucket >= table.num_buckets() {
                self.cursor = (group + 1, 0);
                groups += 1;
                continue;
            }
            buckets -= 1;
            self.cursor = (group, bucket + 1);
            let Some(entry) = table.get_bucket_mut(bucket) else { continue };
            entries -= 1;
            match strip(&entry.2, &ttl, now) {
                Kept::Whole => {}
                Kept::Part(part) => entry.2 = part,
                Kept::Nothing => {
                    if let Ok(entry) = table.get_bucket_entry(bucket) {
                        entry.remove();
                    }
                }
            }
        }
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

struct SharedGroups<K, N, V> {
    state: String,
    encode: EncodeValue<V>,
    groups: Vec<Arc<Entries<K, N, V>>>,
    /// What has expired is left out.
    expiry: Option<(Ttl, Strip<V>, i64)>,
}

impl<K: StateKey, N: StateNamespace, V: StateValue> SectionWriter for SharedGroups<K, N, V> {
    /// Panics if user data does not encode: the part cannot be written then, and the native call reports the panic.
    fn write(&self, group: usize, out: &mut Vec<u8>) -> u32 {
        let table = &self.groups[group];
        let mut keys = Vec::with_capacity(table.len() * 8);
        let mut order = Vec::with_capacity(table.len());
        for (key, namespace, value) in table.iter() {
            let kept = match &self.expiry {
                None => Kept::Whole,
                Some((ttl, strip, now)) => strip(value, ttl, *now),
            };
            let value = match kept {
                Kept::Whole => Cow::Borrowed(value),
                Kept::Part(part) => Cow::Owned(part),
                Kept::Nothing => continue,
            };
            let start = keys.len();
            keys = postcard::to_extend(key, keys)
                .and_then(|keys| postcard::to_extend(namespace, keys))
                .unwrap_or_else(|error| panic!("state {}: a key does not encode: {error}", self.state));
            order.push((start..keys.len(), value));
        }
        order.sort_unstable_by(|(a, _), (b, _)| keys[a.clone()].cmp(&keys[b.clone()]));
        let mut encoded = Vec::new();
        for (key, value) in &order {
            encoded.clear();
            encoded = (self.encode)(value, encoded)
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

    fn has_changed(&self, _groups: Range<usize>) -> bool {
        false
    }

    fn share(&mut self, groups: Range<usize>, _now: i64) -> Box<dyn SectionWriter> {
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

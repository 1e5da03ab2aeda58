//! The keyed state of one operator in one subtask: all its named states, for the subtask's key groups, in one of the stores.
//!
//! Life: [`KeyedBackend::restore`] reads the parts, user code declares its states through [`OpenContext`], which decodes what
//! the parts hold for each, [`KeyedBackend::opened`] ends that. From then on state is touched through
//! [`KeyedContext`](super::KeyedContext), one key at a time.

use std::{any::type_name, collections::BTreeMap, marker::PhantomData};

use bytes::Bytes;

#[cfg(feature = "rocksdb")]
use super::rocksdb::{Declared, RocksStore};
use super::{
    context::KeyedContext,
    error::{StateError, UserError},
    format::{PartHeader, SectionWriter, StateHeader, StateKind, encode_part},
    handles::{ListState, MapState, ValueState},
    heap::HeapStore,
    key::StateKey,
    key_group::{key_group_of, split_range},
    keyed_time::KeyedTime,
    restored::{Restored, read_parts, same_state},
    settings::{BackendKind, BackendSettings},
    table::{EncodeValue, StateNamespace, StateValue, encode_map, encode_plain, hash_of},
    timers::QUEUE_PREFIX,
    ttl::{Strip, Ttl},
};
use crate::{
    checkpoint::types::PartKind,
    dataflow::chain::{ChainSnapshot, NativeCall, NativeSnapshot, NativeStage, PartData, PartSource, Scratch},
    ids::{CheckpointId, KeyGroupRange, OperatorUid},
};

/// Keyed state of a subtask is written in so many parts at most.
const PARTS: u32 = 4;

pub struct KeyedBackend<K> {
    operator: OperatorUid,
    pub(super) range: KeyGroupRange,
    pub(super) max_parallelism: u16,
    /// Key groups of snapshots are compressed.
    compression: bool,
    pub(super) store: Store<K>,
    declared: Vec<StateHeader>,
    /// Read from the snapshot and not declared yet.
    restored: BTreeMap<String, Restored>,
    pub(super) time: KeyedTime<K>,
    /// Tables that are cleaned with each record, and how many entries of them.
    cleaned: Vec<(usize, usize)>,
}

/// Of one part, in the order of its states.
type Sections = Vec<Box<dyn SectionWriter>>;

/// Where the working state is.
pub(super) enum Store<K> {
    Heap(HeapStore<K>),
    #[cfg(feature = "rocksdb")]
    RocksDb(Box<RocksStore>),
}

/// A state's types, for the store that needs them.
struct Kind<K, N, V> {
    kind: StateKind,
    encode: EncodeValue<V>,
    #[cfg(feature = "rocksdb")]
    declare: fn(&mut RocksStore, &str),
    #[cfg(feature = "rocksdb")]
    declared: Declared,
    of: PhantomData<fn(&K, &N)>,
}

impl<K: StateKey> KeyedBackend<K> {
    /// Reads the parts of a snapshot; none for a fresh start. Parts may cover more key groups than `range` (the operator had
    /// another parallelism), what is not of `range` is left out. `scratch` is where a database will be.
    ///
    /// # Errors
    /// If a part is not readable, not of this operator, or the parts do not hold each key group of `range` exactly once.
    pub fn restore(
        operator: OperatorUid,
        range: KeyGroupRange,
        max_parallelism: u16,
        parts: &[(KeyGroupRange, Bytes)],
        scratch: Option<Scratch>,
        settings: &BackendSettings,
    ) -> Result<KeyedBackend<K>, UserError> {
        let restored = read_parts::<K>(&operator, range, max_parallelism, parts)?;
        let store = match settings.kind {
            BackendKind::Memory | BackendKind::Filesystem => Store::Heap(HeapStore::new()),
            BackendKind::RocksDb => rocksdb_store(scratch, settings, max_parallelism)?,
        };
        let (declared, time, cleaned) = (Vec::new(), KeyedTime::new(settings), Vec::new());
        let compression = settings.compression;
        Ok(KeyedBackend { operator, range, max_parallelism, compression, store, declared, restored, time, cleaned })
    }

    /// What user code declares its states through.
    pub fn open_context(&mut self) -> OpenContext<'_, K> {
        OpenContext { backend: self }
    }

    /// All states are declared. What else the snapshot held is carried along. Before the first key, run what
    /// [`Self::native_calls`] gives.
    pub fn opened(&mut self) {
        for (_, state) in std::mem::take(&mut self.restored) {
            match &mut self.store {
                Store::Heap(heap) => heap.carry(state, self.range),
                #[cfg(feature = "rocksdb")]
                Store::RocksDb(rocks) => rocks.expect(state.header.clone(), None, Some(state)),
            }
        }
    }

    /// What must be done away from the subtask's thread at this stage of its life.
    pub fn native_calls(&mut self, stage: NativeStage) -> Option<NativeCall> {
        match (&mut self.store, stage) {
            (Store::Heap(_), _) => None,
            #[cfg(feature = "rocksdb")]
            (Store::RocksDb(rocks), NativeStage::Open) => rocks.opening::<K>(&self.operator, self.range),
            #[cfg(feature = "rocksdb")]
            (Store::RocksDb(rocks), NativeStage::Close) => rocks.closing(&self.operator),
        }
    }

    /// The state of one key; None if the key is in a key group of another subtask.
    ///
    /// # Errors
    /// If the state of the key before cannot be written back.
    #[inline]
    pub fn context<'a>(&'a mut self, key: &'a K) -> Result<Option<KeyedContext<'a, K>>, StateError> {
        let group = key_group_of(key.java_hash(), self.max_parallelism);
        if !self.range.contains(group) {
            return Ok(None);
        }
        #[cfg(feature = "rocksdb")]
        if let Store::RocksDb(rocks) = &mut self.store {
            rocks.enter(key, group)?;
        }
        if !self.cleaned.is_empty() {
            self.clean_for_record();
        }
        let position = usize::from(group.0 - self.range.first.0);
        Ok(Some(KeyedContext { hash: hash_of(key), group: position, key, backend: self }))
    }

    /// No more of the current key for now: what was changed in place is written back.
    ///
    /// # Errors
    /// If it cannot be written.
    #[inline]
    pub fn settle(&mut self) -> Result<(), StateError> {
        match &mut self.store {
            Store::Heap(_) => Ok(()),
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => rocks.settle(),
        }
    }

    /// The values of a table expire. A database keeps them until they are met.
    pub(super) fn expire<N: StateNamespace, V: StateValue>(&mut self, table: usize, ttl: Ttl, strip: Strip<V>) {
        match &mut self.store {
            Store::Heap(heap) => heap.table_mut::<N, V>(table).expire(ttl, strip),
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(_) => {}
        }
    }

    /// So many entries of a table are looked at with each record.
    pub(super) fn clean_per_record(&mut self, table: usize, entries: usize) {
        if entries > 0 {
            self.cleaned.push((table, entries));
        }
    }

    /// Looks at some entries of a table, and takes away what has expired.
    pub(super) fn clean(&mut self, table: usize, entries: usize, now: i64) {
        if entries > 0
            && let Store::Heap(heap) = &mut self.store
        {
            heap.clean(table, entries, now);
        }
    }

    #[cold]
    fn clean_for_record(&mut self) {
        let now = self.time.times().processing;
        for (table, entries) in self.cleaned.clone() {
            self.clean(table, entries, now);
        }
    }

    pub fn key_groups(&self) -> KeyGroupRange {
        self.range
    }

    /// Entries of all states.
    ///
    /// # Errors
    /// If they cannot be counted.
    pub fn entries(&mut self) -> Result<u64, StateError> {
        match &mut self.store {
            Store::Heap(heap) => Ok(heap.entries()),
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => rocks.entries(self.range),
        }
    }

    /// The state as it is now, as files of a database; None if it is to be written in parts, by [`Self::snapshot`].
    ///
    /// # Errors
    /// If the state of the last key cannot be written back, or the database refuses.
    pub fn native_snapshot(&mut self, checkpoint: CheckpointId) -> Result<Option<NativeSnapshot>, StateError> {
        match &mut self.store {
            Store::Heap(_) => {
                let _ = checkpoint;
                Ok(None)
            }
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => rocks.native_snapshot(&self.operator, self.range, checkpoint),
        }
    }

    /// Adds the state as it is now to a snapshot, in the way the backend takes snapshots.
    ///
    /// # Errors
    /// As [`Self::snapshot`] and [`Self::native_snapshot`].
    pub fn add_to(&mut self, snapshot: &mut ChainSnapshot) -> Result<(), StateError> {
        match self.native_snapshot(snapshot.checkpoint)? {
            Some(native) => {
                snapshot.native.push(native);
                snapshot.parts.extend(self.heap_timers());
            }
            None => snapshot.parts.extend(self.snapshot()?),
        }
        Ok(())
    }

    /// Parts with the timers alone, if there are any queues: beside files of a database, which does not have them.
    fn heap_timers(&mut self) -> Vec<PartSource> {
        let states = self.time.add_headers(Vec::new());
        if states.is_empty() {
            return Vec::new();
        }
        let source = self.part_source();
        let parts = split_range(self.range, PARTS).into_iter().map(|key_groups| {
            let first = usize::from(key_groups.first.0 - self.range.first.0);
            let groups = first..first + key_groups.count() as usize;
            source(&states, key_groups, None, self.time.add_sections(&[], Vec::new(), &groups))
        });
        parts.collect()
    }

    /// Makes parts of sections.
    fn part_source(&self) -> impl Fn(&[StateHeader], KeyGroupRange, Option<u64>, Sections) -> PartSource + use<K> {
        let (operator, max_parallelism) = (self.operator.clone(), self.max_parallelism);
        let compression = self.compression;
        move |states, key_groups, content, sections| {
            let header = PartHeader {
                operator: operator.0.clone(),
                key_type: type_name::<K>().to_string(),
                max_parallelism,
                key_groups,
                states: states.to_vec(),
            };
            PartSource {
                operator: operator.clone(),
                key_groups,
                name: part_name(&operator, key_groups),
                kind: PartKind::Keyed,
                backend: None,
                data: match content {
                    Some(content) => {
                        PartData::encode_unless_known(content, move || encode_part(&header, compression, &sections))
                    }
                    None => PartData::encode(move || encode_part(&header, compression, &sections)),
                },
            }
        }
    }

    /// `checkpoint` is complete.
    pub fn completed(&mut self, checkpoint: CheckpointId) {
        match &mut self.store {
            Store::Heap(_) => {
                let _ = checkpoint;
            }
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => rocks.completed(checkpoint),
        }
    }

    /// The state as it is now, in parts that can be encoded later, on another thread.
    ///
    /// # Errors
    /// If the state of the last key cannot be written back.
    pub fn snapshot(&mut self) -> Result<Vec<PartSource>, StateError> {
        let range = self.range;
        let source = self.part_source();
        let ranges = split_range(range, PARTS).into_iter();
        let groups = |key_groups: KeyGroupRange| {
            let first = usize::from(key_groups.first.0 - range.first.0);
            first..first + key_groups.count() as usize
        };
        let now = self.time.times().processing;
        let time = &mut self.time;
        match &mut self.store {
            Store::Heap(heap) => {
                let own = heap.headers();
                let states = time.add_headers(own.clone());
                let parts = ranges.map(|key_groups| {
                    let groups = groups(key_groups);
                    let content = heap.content(&groups, time.has_changed(&groups));
                    let sections = time.add_sections(&own, heap.share(&groups, now), &groups);
                    source(&states, key_groups, Some(content), sections)
                });
                Ok(parts.collect())
            }
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => {
                let frozen = rocks.freeze()?;
                let own = rocks.headers()?;
                let states = time.add_headers(own.clone());
                let parts = ranges.map(|key_groups| {
                    let sections = rocks.sections(&frozen, key_groups)?;
                    let sections = time.add_sections(&own, sections, &groups(key_groups));
                    Ok(source(&states, key_groups, None, sections))
                });
                parts.collect()
            }
        }
    }

    /// What the snapshot has for a state that is declared now, in the version that is declared.
    fn take_over<V: StateValue>(
        &mut self,
        header: &StateHeader,
        encode: EncodeValue<V>,
    ) -> Result<Option<Restored>, UserError> {
        match self.restored.remove(&header.name) {
            Some(mut state) if state.header.can_become(header) => {
                state.upgrade::<V>(header, encode)?;
                Ok(Some(state))
            }
            Some(state) => {
                same_state(&state.header, header)?;
                Ok(Some(state))
            }
            None => Ok(None),
        }
    }

    /// What the snapshot has for a state that is declared now.
    pub(super) fn take_restored(&mut self, header: &StateHeader) -> Result<Option<Restored>, UserError> {
        let restored = self.restored.remove(&header.name);
        if let Some(state) = &restored {
            same_state(&state.header, header)?;
        }
        Ok(restored)
    }

    fn declare<N: StateNamespace, V: StateValue>(
        &mut self,
        name: &str,
        version: u32,
        types: &Kind<K, N, V>,
    ) -> Result<usize, UserError> {
        let mut value_type = type_name::<V>().to_string();
        if size_of::<N>() > 0 {
            value_type = format!("{value_type} per {}", type_name::<N>());
        }
        let header = StateHeader { name: name.to_string(), kind: types.kind, value_type, version };
        if let Some(position) = self.declared.iter().position(|other| other.name == name) {
            let other = &self.declared[position];
            if *other == header {
                return Ok(position);
            }
            return Err(UserError::new(format!("state {name:?} is declared twice, as a {other} and as a {header}")));
        }
        if name.starts_with(QUEUE_PREFIX) {
            return Err(UserError::new(format!("no state can be called {name:?}: {QUEUE_PREFIX} is for timers")));
        }
        let restored = self.take_over(&header, types.encode)?;
        self.declared.push(header.clone());
        match &mut self.store {
            Store::Heap(heap) => {
                let (range, max_parallelism) = (self.range, self.max_parallelism);
                heap.declare::<N, V>(header, types.encode, restored.as_ref(), range, max_parallelism)?;
            }
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => {
                (types.declare)(rocks, name);
                rocks.expect(header, Some(types.declared), restored);
            }
        }
        Ok(self.declared.len() - 1)
    }
}

#[cfg(feature = "rocksdb")]
fn rocksdb_store<K>(
    scratch: Option<Scratch>,
    settings: &BackendSettings,
    max_parallelism: u16,
) -> Result<Store<K>, UserError> {
    let scratch = scratch.ok_or_else(|| UserError::new("there is no directory for its database"))?;
    Ok(Store::RocksDb(Box::new(RocksStore::new(settings, scratch, max_parallelism))))
}

#[cfg(not(feature = "rocksdb"))]
fn rocksdb_store<K>(
    _scratch: Option<Scratch>,
    _settings: &BackendSettings,
    _max_parallelism: u16,
) -> Result<Store<K>, UserError> {
    Err(UserError::new(
        "this program was built without RocksDB; build it with the feature `rocksdb` or choose another backend",
    ))
}

/// `<uid>-<first group>-<last group>`: a plain file name.
fn part_name(operator: &OperatorUid, key_groups: KeyGroupRange) -> String {
    format!("{}-{}-{}", plain_name(operator), key_groups.first, key_groups.last)
}

/// The uid as part of a file name.
pub(crate) fn plain_name(operator: &OperatorUid) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    operator.0.chars().map(plain).take(100).collect()
}

/// Given to user code before the first record, to declare its states.
///
/// A state with a namespace (`N`) has one value, list or map per key and namespace; without (`()`), one per key.
pub struct OpenContext<'a, K> {
    pub(super) backend: &'a mut KeyedBackend<K>,
}

impl<K: StateKey> OpenContext<'_, K> {
    /// One value per key.
    ///
    /// # Errors
    /// If the snapshot, or an earlier declaration, has another type under this name.
    pub fn value_state<V: StateValue>(&mut self, name: &str) -> Result<ValueState<V>, UserError> {
        self.value_state_version(name, 1)
    }

    /// As [`Self::value_state`], with a version to raise when fields are added to the end of the type. In state of an older version
    /// they are absent: an empty option, list or text, or 0. What changes otherwise needs another name. State of a newer version
    /// is refused.
    ///
    /// # Errors
    /// As [`Self::value_state`].
    pub fn value_state_version<V: StateValue>(&mut self, name: &str, version: u32) -> Result<ValueState<V>, UserError> {
        self.value_table::<(), V>(name, StateKind::Value, version).map(ValueState::at)
    }

    /// A list of values per key.
    ///
    /// # Errors
    /// As [`Self::value_state`].
    pub fn list_state<V: StateValue>(&mut self, name: &str) -> Result<ListState<V>, UserError> {
        self.list_table::<(), V>(name, 1).map(ListState::at)
    }

    /// A sorted map per key.
    ///
    /// # Errors
    /// As [`Self::value_state`].
    pub fn map_state<M: StateValue + Ord, V: StateValue>(&mut self, name: &str) -> Result<MapState<M, V>, UserError> {
        self.map_table::<(), M, V>(name, 1).map(MapState::at)
    }

    /// The number of a table of values, for handles. `kind`: what the values are to the author.
    pub(crate) fn value_table<N: StateNamespace, V: StateValue>(
        &mut self,
        name: &str,
        kind: StateKind,
        version: u32,
    ) -> Result<usize, UserError> {
        let types = Kind::<K, N, V> {
            kind,
            encode: encode_plain::<V>,
            #[cfg(feature = "rocksdb")]
            declare: RocksStore::declare_value::<N, V>,
            #[cfg(feature = "rocksdb")]
            declared: Declared::plain::<K, N, V>(),
            of: PhantomData,
        };
        self.backend.declare(name, version, &types)
    }

    /// The number of a table of lists, for handles.
    pub(crate) fn list_table<N: StateNamespace, V: StateValue>(
        &mut self,
        name: &str,
        version: u32,
    ) -> Result<usize, UserError> {
        let types = Kind::<K, N, Vec<V>> {
            kind: StateKind::List,
            encode: encode_plain::<Vec<V>>,
            #[cfg(feature = "rocksdb")]
            declare: RocksStore::declare_list::<N, V>,
            #[cfg(feature = "rocksdb")]
            declared: Declared::plain::<K, N, Vec<V>>(),
            of: PhantomData,
        };
        self.backend.declare(name, version, &types)
    }

    /// The number of a table of maps, for handles.
    pub(crate) fn map_table<N: StateNamespace, M: StateValue + Ord, V: StateValue>(
        &mut self,
        name: &str,
        version: u32,
    ) -> Result<usize, UserError> {
        let types = Kind::<K, N, BTreeMap<M, V>> {
            kind: StateKind::Map,
            encode: encode_map::<M, V>,
            #[cfg(feature = "rocksdb")]
            declare: RocksStore::declare_map::<N, M, V>,
            #[cfg(feature = "rocksdb")]
            declared: Declared::map::<K, N, M, V>(),
            of: PhantomData,
        };
        self.backend.declare(name, version, &types)
    }

    /// The key groups of this subtask.
    pub fn key_groups(&self) -> KeyGroupRange {
        self.backend.range
    }
}

//! The keyed state of one operator in one subtask: all its named states, for the subtask's key groups, in one of the stores.
//!
//! Life: [`KeyedBackend::restore`] reads the parts, user code declares its states through [`OpenContext`], which decodes what
//! the parts hold for each, [`KeyedBackend::opened`] ends that. From then on state is touched through
//! [`KeyedContext`](super::KeyedContext), one key at a time.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    context::KeyedContext,
    declare::OpenContext,
    error::{StateError, UserError},
    format::{PartHeader, StateHeader},
    heap::HeapStore,
    key::StateKey,
    key_group::key_group_of,
    keyed_time::KeyedTime,
    restored::{Restored, read_parts},
    settings::{BackendKind, BackendSettings},
    table::{StateNamespace, StateValue, hash_of},
    ttl::{Strip, Ttl},
    ttl_encoded::Lives,
};
#[cfg(feature = "rocksdb")]
use super::{rocksdb::RocksStore, ttl_encoded::Expiry};
use crate::{
    dataflow::chain::{NativeCall, NativeStage, Scratch, StateUpgrade},
    ids::{CheckpointId, KeyGroupRange, OperatorUid},
};

pub struct KeyedBackend<K> {
    pub(super) operator: OperatorUid,
    pub(super) range: KeyGroupRange,
    pub(super) max_parallelism: u16,
    /// What snapshots say of the operator, without its states.
    pub(super) description: PartHeader,
    /// Key groups of snapshots are compressed.
    pub(super) compression: bool,
    /// At least 1.
    pub(super) parts_per_snapshot: u32,
    pub(super) store: Store<K>,
    pub(super) declared: Vec<StateHeader>,
    /// The snapshot has state of this operator.
    pub(super) is_restored: bool,
    /// Read from the snapshot and not declared yet.
    pub(super) restored: BTreeMap<String, Restored>,
    pub(super) time: KeyedTime<K>,
    /// By state: values of an older structure that were encoded anew.
    upgrades: Vec<StateUpgrade>,
    /// Tables that are cleaned with each record, and how many entries of them.
    cleaned: Vec<(usize, usize)>,
}

/// Where the working state is.
pub(super) enum Store<K> {
    Heap(HeapStore<K>),
    #[cfg(feature = "rocksdb")]
    RocksDb(Box<RocksStore>),
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
        let is_restored = !parts.is_empty() || scratch.as_ref().is_some_and(|scratch| !scratch.restored.is_empty());
        let description = PartHeader::of::<K>(&operator, max_parallelism, range);
        let restored = read_parts(&description, parts)?;
        let store = match settings.kind {
            BackendKind::Memory | BackendKind::Filesystem => Store::Heap(HeapStore::new()),
            BackendKind::RocksDb => rocksdb_store(scratch, settings, max_parallelism)?,
        };
        Ok(KeyedBackend {
            operator,
            range,
            max_parallelism,
            description,
            compression: settings.compression,
            parts_per_snapshot: settings.parts_per_snapshot.max(1),
            store,
            declared: Vec::new(),
            is_restored,
            restored,
            time: KeyedTime::new(settings),
            upgrades: Vec::new(),
            cleaned: Vec::new(),
        })
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
            (Store::RocksDb(rocks), NativeStage::Open) => rocks.opening::<K>(&self.description),
            #[cfg(feature = "rocksdb")]
            (Store::RocksDb(rocks), NativeStage::Close) => {
                self.time.close_queues();
                rocks.closing(&self.operator)
            }
        }
    }

    /// What [`Self::native_calls`] gave for [`NativeStage::Open`], if anything, is done.
    ///
    /// # Errors
    /// If a database is not open.
    pub fn natively_opened(&mut self) -> Result<(), StateError> {
        #[cfg(feature = "rocksdb")]
        if let Store::RocksDb(rocks) = &self.store {
            for (state, values) in rocks.take_upgrades()? {
                self.note_upgrade(&state, values);
            }
        }
        self.open_queues()
    }

    pub(super) fn note_upgrade(&mut self, state: &str, values: u64) {
        if values > 0 {
            self.upgrades.push(StateUpgrade { operator: self.operator.clone(), state: state.to_string(), values });
        }
    }

    /// What was encoded anew when the state was opened.
    pub fn take_upgrades(&mut self) -> Vec<StateUpgrade> {
        std::mem::take(&mut self.upgrades)
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

    /// The values of a table expire; in a database, as `lives` says.
    pub(super) fn expire<N: StateNamespace, V: StateValue>(
        &mut self,
        table: usize,
        ttl: Ttl,
        strip: Strip<V>,
        lives: Lives,
    ) {
        match &mut self.store {
            Store::Heap(heap) => {
                let _ = lives;
                heap.table_mut::<N, V>(table).expire(ttl, strip);
            }
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) => rocks.expire(&self.declared[table].name, Expiry { ttl, lives }),
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

/// The uid as part of a file name.
pub(crate) fn plain_name(operator: &OperatorUid) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    operator.0.chars().map(plain).take(100).collect()
}

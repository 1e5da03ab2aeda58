//! How user code declares its keyed states, and gets what the snapshot holds for each.

use std::{any::type_name, collections::BTreeMap, marker::PhantomData};

#[cfg(feature = "rocksdb")]
use super::rocksdb::{Declared, RocksStore};
use super::{
    backend::{KeyedBackend, Store},
    error::UserError,
    format::{StateHeader, StateKind},
    handles::{ListState, MapState, ValueState},
    key::StateKey,
    restored::{Restored, same_state},
    table::{EncodeValue, StateNamespace, StateValue, encode_map, encode_plain},
    timers::QUEUE_PREFIX,
};
use crate::ids::KeyGroupRange;

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

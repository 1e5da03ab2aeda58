//! How user code declares its keyed states, and gets what the snapshot holds for each.

use std::{any::type_name, collections::BTreeMap, marker::PhantomData};

#[cfg(feature = "rocksdb")]
use super::rocksdb::{Declared, RocksStore};
use super::{
    backend::{KeyedBackend, Store},
    error::UserError,
    format::{StateHeader, StateKind, StateStructure},
    handles::{ListState, MapState, ValueState},
    key::StateKey,
    restored::{Fit, Restored, fit},
    shape::Shape,
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
    /// What the snapshot has for a state that is declared now, with its values as they are declared.
    fn take_over<V: StateValue>(
        &mut self,
        header: &StateHeader,
        encode: EncodeValue<V>,
    ) -> Result<Option<Restored>, UserError> {
        let Some(mut state) = self.restored.remove(&header.name) else { return Ok(None) };
        let values = state.grow_into::<V>(header, encode)?;
        self.note_upgrade(&header.name, values);
        Ok(Some(state))
    }

    /// What the snapshot has for a queue of timers that is declared now.
    pub(super) fn take_timers(&mut self, header: &StateHeader) -> Result<Option<Restored>, UserError> {
        let Some(mut timers) = self.restored.remove(&header.name) else { return Ok(None) };
        if fit(&timers.header, header)? != Fit::AsItIs {
            let (then, name) = (&timers.header, &header.name);
            return Err(UserError::new(format!("timers {name:?} were {then} and are {header}: timers do not grow")));
        }
        timers.header = header.clone();
        Ok(Some(timers))
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
        let structure = Shape::of::<V>().zip(Shape::of::<N>());
        let structure = structure.map(|(value, namespace)| StateStructure { value, namespace });
        let header = StateHeader { name: name.to_string(), kind: types.kind, value_type, version, structure };
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
    /// Whether the operator begins with keyed state of a snapshot. An operator that is new in its job, and one whose state was left behind,
    /// begins without (Flink `FunctionInitializationContext.isRestored`).
    pub fn is_restored(&self) -> bool {
        self.backend.is_restored
    }

    /// One value per key. Its type may grow between two versions of the job: fields at the end of a struct, each an option, and
    /// variants at the end of an enum.
    ///
    /// # Errors
    /// If the snapshot has a type under this name whose values cannot become values of this one, or an earlier declaration has
    /// another.
    pub fn value_state<V: StateValue>(&mut self, name: &str) -> Result<ValueState<V>, UserError> {
        self.value_state_version(name, 1)
    }

    /// As [`Self::value_state`], with a version to raise when fields are added to the end of the type, or of a type in it, that are
    /// no options. In state of an older version they are an empty list or text, or 0. (Options need no version.) What changes
    /// otherwise needs another name. State of a newer version is refused.
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

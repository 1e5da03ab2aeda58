//! What user code holds of its states: a small copyable handle, made in `open`, good for every key of the operator.

use std::marker::PhantomData;

use super::{context::KeyedContext, error::StateError, key::StateKey, table::StateValue};

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident<$($arg:ident),*>) => {
        $(#[$doc])*
        ///
        /// The default handle belongs to no state; using it panics.
        pub struct $name<$($arg),*> {
            table: usize,
            of: PhantomData<fn() -> ($($arg,)*)>,
        }

        impl<$($arg),*> $name<$($arg),*> {
            pub(super) fn at(table: usize) -> Self {
                $name { table, of: PhantomData }
            }
        }

        impl<$($arg),*> Default for $name<$($arg),*> {
            fn default() -> Self {
                Self::at(usize::MAX)
            }
        }

        impl<$($arg),*> Clone for $name<$($arg),*> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<$($arg),*> Copy for $name<$($arg),*> {}
    };
}

handle!(
    /// One value per key.
    ValueState<V>
);
handle!(
    /// A list of values per key. An empty list is no list.
    ListState<V>
);
handle!(
    /// A sorted map per key. An empty map is no map.
    MapState<M, V>
);

impl<V: StateValue> ValueState<V> {
    /// # Errors
    /// If it cannot be read.
    #[inline]
    pub fn get<'c, K: StateKey>(&self, ctx: &'c KeyedContext<'_, K>) -> Result<Option<&'c V>, StateError> {
        ctx.value_get(self.table, &())
    }

    /// # Errors
    /// If it cannot be written.
    #[inline]
    pub fn update<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, value: V) -> Result<(), StateError> {
        ctx.value_set(self.table, &(), value)
    }

    /// # Errors
    /// If it cannot be removed.
    pub fn clear<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) -> Result<(), StateError> {
        ctx.value_clear::<(), V>(self.table, &())
    }

    /// Removes the value and gives it.
    ///
    /// # Errors
    /// If it cannot be read or removed.
    pub fn take<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) -> Result<Option<V>, StateError> {
        ctx.value_take(self.table, &())
    }

    /// The value to change in place, after putting the default there if the key has none: one lookup instead of two.
    ///
    /// # Errors
    /// If it cannot be read.
    #[inline]
    pub fn get_or_default_mut<'c, K: StateKey>(&self, ctx: &'c mut KeyedContext<'_, K>) -> Result<&'c mut V, StateError>
    where
        V: Default,
    {
        ctx.value_get_or_insert_with(self.table, &(), V::default)
    }
}

impl<V: StateValue> ListState<V> {
    /// # Errors
    /// If it cannot be read.
    pub fn get<'c, K: StateKey>(&self, ctx: &'c KeyedContext<'_, K>) -> Result<&'c [V], StateError> {
        ctx.list_get(self.table, &())
    }

    /// # Errors
    /// If it cannot be written.
    pub fn push<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, value: V) -> Result<(), StateError> {
        ctx.list_push(self.table, &(), value)
    }

    /// # Errors
    /// If it cannot be written.
    pub fn update<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, values: Vec<V>) -> Result<(), StateError> {
        ctx.list_set(self.table, &(), values)
    }

    /// # Errors
    /// If it cannot be removed.
    pub fn clear<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) -> Result<(), StateError> {
        ctx.list_clear::<(), V>(self.table, &())
    }
}

impl<M: StateValue + Ord, V: StateValue> MapState<M, V> {
    /// # Errors
    /// If it cannot be read.
    pub fn get<'c, K: StateKey>(&self, ctx: &'c KeyedContext<'_, K>, key: &M) -> Result<Option<&'c V>, StateError> {
        ctx.map_get(self.table, &(), key)
    }

    /// # Errors
    /// If it cannot be read.
    pub fn contains<K: StateKey>(&self, ctx: &KeyedContext<'_, K>, key: &M) -> Result<bool, StateError> {
        self.get(ctx, key).map(|value| value.is_some())
    }

    /// Calls `each` for every entry, in the order of the map's keys.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn for_each<K: StateKey>(&self, ctx: &KeyedContext<'_, K>, each: impl FnMut(&M, &V)) -> Result<(), StateError> {
        ctx.map_for_each(self.table, &(), each)
    }

    /// A copy of the whole map.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn entries<K: StateKey>(&self, ctx: &KeyedContext<'_, K>) -> Result<Vec<(M, V)>, StateError> {
        let mut entries = Vec::new();
        self.for_each(ctx, |key, value| entries.push((key.clone(), value.clone())))?;
        Ok(entries)
    }

    /// # Errors
    /// If it cannot be read.
    pub fn is_empty<K: StateKey>(&self, ctx: &KeyedContext<'_, K>) -> Result<bool, StateError> {
        ctx.map_is_empty::<(), M, V>(self.table, &())
    }

    /// # Errors
    /// If it cannot be written.
    pub fn insert<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, key: M, value: V) -> Result<(), StateError> {
        ctx.map_insert(self.table, &(), key, value)
    }

    /// # Errors
    /// If it cannot be removed.
    pub fn remove<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, key: &M) -> Result<(), StateError> {
        ctx.map_remove::<(), M, V>(self.table, &(), key)
    }

    /// # Errors
    /// If it cannot be removed.
    pub fn clear<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) -> Result<(), StateError> {
        ctx.map_clear::<(), M, V>(self.table, &())
    }
}

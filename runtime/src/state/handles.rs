//! What user code holds of its states: a small copyable handle, made in `open`, good for every key of the operator.

use std::{collections::BTreeMap, marker::PhantomData};

use super::{backend::KeyedContext, key::StateKey, table::StateValue};

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
    #[inline]
    pub fn get<'c, K: StateKey>(&self, ctx: &'c KeyedContext<'_, K>) -> Option<&'c V> {
        ctx.get(self.table)
    }

    #[inline]
    pub fn update<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, value: V) {
        ctx.set(self.table, value);
    }

    pub fn clear<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) {
        ctx.remove::<V>(self.table);
    }

    /// The value to change in place, after putting the default there if the key has none: one lookup instead of two.
    #[inline]
    pub fn get_or_default_mut<'c, K: StateKey>(&self, ctx: &'c mut KeyedContext<'_, K>) -> &'c mut V
    where
        V: Default,
    {
        ctx.get_or_insert_with(self.table, V::default)
    }
}

impl<V: StateValue> ListState<V> {
    pub fn get<'c, K: StateKey>(&self, ctx: &'c KeyedContext<'_, K>) -> &'c [V] {
        ctx.get::<Vec<V>>(self.table).map_or(&[], Vec::as_slice)
    }

    pub fn push<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, value: V) {
        ctx.get_or_insert_with::<Vec<V>>(self.table, Vec::new).push(value);
    }

    pub fn update<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, values: Vec<V>) {
        if values.is_empty() {
            self.clear(ctx);
        } else {
            ctx.set(self.table, values);
        }
    }

    pub fn clear<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) {
        ctx.remove::<Vec<V>>(self.table);
    }
}

impl<M: StateValue + Ord, V: StateValue> MapState<M, V> {
    /// The whole map; None if it is empty.
    pub fn map<'c, K: StateKey>(&self, ctx: &'c KeyedContext<'_, K>) -> Option<&'c BTreeMap<M, V>> {
        ctx.get(self.table)
    }

    pub fn get<'c, K: StateKey>(&self, ctx: &'c KeyedContext<'_, K>, key: &M) -> Option<&'c V> {
        self.map(ctx)?.get(key)
    }

    pub fn insert<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, key: M, value: V) {
        ctx.get_or_insert_with::<BTreeMap<M, V>>(self.table, BTreeMap::new).insert(key, value);
    }

    pub fn remove<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, key: &M) -> Option<V> {
        let map = ctx.get_mut::<BTreeMap<M, V>>(self.table)?;
        let removed = map.remove(key);
        if map.is_empty() {
            self.clear(ctx);
        }
        removed
    }

    pub fn clear<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) {
        ctx.remove::<BTreeMap<M, V>>(self.table);
    }
}

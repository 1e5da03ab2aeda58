//! Handles of states with a time to live. Each operation takes away what it meets that has expired; so all need the state
//! to be writable, and reads give copies.

use std::{collections::BTreeMap, marker::PhantomData};

use super::{
    combining::Aggregate,
    context::KeyedContext,
    declare::OpenContext,
    error::{StateError, UserError},
    format::StateKind,
    key::StateKey,
    table::StateValue,
    ttl::{Expiring, Ttl, strip_list, strip_map, strip_value},
    ttl_encoded::{Lives, strip_encoded_list},
};

/// A table and its time to live. The default belongs to no state; using it panics.
#[derive(Clone, Copy)]
struct Living {
    table: usize,
    ttl: Option<Ttl>,
}

impl Default for Living {
    fn default() -> Self {
        Living { table: usize::MAX, ttl: None }
    }
}

impl Living {
    fn ttl(&self) -> Ttl {
        self.ttl.unwrap_or_else(|| super::heap::foreign_handle())
    }

    /// What each access begins with: the time, and a step of cleanup.
    fn begin<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) -> (Ttl, i64) {
        let ttl = self.ttl();
        let now = ctx.backend.times().processing;
        ctx.backend.clean(self.table, ttl.incremental(), now);
        (ttl, now)
    }

    /// The value, if it lives, or if it may be seen all the same.
    fn read<K: StateKey, V: StateValue>(&self, ctx: &mut KeyedContext<'_, K>) -> Result<Option<V>, StateError> {
        let (ttl, now) = self.begin(ctx);
        let Some(found) = ctx.value_get::<(), Expiring<V>>(self.table, &())? else { return Ok(None) };
        let expired = ttl.is_expired(found.last_access, now);
        let value = found.value.clone();
        if expired {
            ctx.value_clear::<(), Expiring<V>>(self.table, &())?;
            return Ok(ttl.returns_expired().then_some(value));
        }
        if ttl.updates_on_read() {
            ctx.value_set(self.table, &(), Expiring { last_access: now, value: value.clone() })?;
        }
        Ok(Some(value))
    }

    fn write<K: StateKey, V: StateValue>(&self, ctx: &mut KeyedContext<'_, K>, value: V) -> Result<(), StateError> {
        let (_, now) = self.begin(ctx);
        ctx.value_set(self.table, &(), Expiring { last_access: now, value })
    }

    /// Changes the value that lives, or a new one.
    fn change<K: StateKey, V: StateValue>(
        &self,
        ctx: &mut KeyedContext<'_, K>,
        change: impl FnOnce(Option<V>) -> V,
    ) -> Result<(), StateError> {
        let (ttl, now) = self.begin(ctx);
        let found = ctx.value_take::<(), Expiring<V>>(self.table, &())?;
        let alive = found.filter(|found| !ttl.is_expired(found.last_access, now)).map(|found| found.value);
        ctx.value_set(self.table, &(), Expiring { last_access: now, value: change(alive) })
    }

    fn clear<K: StateKey, V: StateValue>(&self, ctx: &mut KeyedContext<'_, K>) -> Result<(), StateError> {
        ctx.value_clear::<(), Expiring<V>>(self.table, &())
    }
}

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident<$($arg:ident),*>) => {
        $(#[$doc])*
        ///
        /// The default handle belongs to no state; using it panics.
        pub struct $name<$($arg),*> {
            living: Living,
            of: PhantomData<fn() -> ($($arg,)*)>,
        }

        impl<$($arg),*> Default for $name<$($arg),*> {
            fn default() -> Self {
                $name { living: Living::default(), of: PhantomData }
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
    /// One value per key, which expires.
    TtlValueState<V>
);
handle!(
    /// A list per key, whose elements expire each for itself.
    TtlListState<V>
);
handle!(
    /// A sorted map per key, whose entries expire each for itself.
    TtlMapState<M, V>
);
handle!(
    /// One accumulator per key, which expires as a whole.
    TtlAggregatingState<G>
);

/// One value per key, combined of all that was added, which expires as a whole.
///
/// The default handle belongs to no state; using it panics.
pub struct TtlReducingState<V> {
    living: Living,
    reduce: fn(&mut V, V),
}

impl<V> Default for TtlReducingState<V> {
    fn default() -> Self {
        TtlReducingState { living: Living::default(), reduce: |_, _| super::heap::foreign_handle() }
    }
}

impl<V> Clone for TtlReducingState<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for TtlReducingState<V> {}

impl<V: StateValue> TtlValueState<V> {
    /// # Errors
    /// If it cannot be read or written.
    pub fn get<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) -> Result<Option<V>, StateError> {
        self.living.read(ctx)
    }

    /// # Errors
    /// If it cannot be written.
    pub fn update<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, value: V) -> Result<(), StateError> {
        self.living.write(ctx, value)
    }

    /// # Errors
    /// If it cannot be removed.
    pub fn clear<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) -> Result<(), StateError> {
        self.living.clear::<K, V>(ctx)
    }
}

impl<V: StateValue> TtlReducingState<V> {
    /// # Errors
    /// If it cannot be read or written.
    pub fn get<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) -> Result<Option<V>, StateError> {
        self.living.read(ctx)
    }

    /// # Errors
    /// If it cannot be read or written.
    pub fn add<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, value: V) -> Result<(), StateError> {
        let reduce = self.reduce;
        self.living.change(ctx, |alive| match alive {
            None => value,
            Some(mut whole) => {
                reduce(&mut whole, value);
                whole
            }
        })
    }

    /// # Errors
    /// If it cannot be removed.
    pub fn clear<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) -> Result<(), StateError> {
        self.living.clear::<K, V>(ctx)
    }
}

impl<G: Aggregate> TtlAggregatingState<G> {
    /// # Errors
    /// If it cannot be read or written.
    pub fn get<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) -> Result<Option<G::Out>, StateError> {
        Ok(self.living.read::<K, G::Accumulator>(ctx)?.as_ref().map(G::result))
    }

    /// # Errors
    /// If it cannot be read or written.
    pub fn add<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, value: G::In) -> Result<(), StateError> {
        self.living.change(ctx, |alive| {
            let mut accumulator = alive.unwrap_or_else(G::create);
            G::add(&mut accumulator, value);
            accumulator
        })
    }

    /// # Errors
    /// If it cannot be removed.
    pub fn clear<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) -> Result<(), StateError> {
        self.living.clear::<K, G::Accumulator>(ctx)
    }
}

impl<V: StateValue> TtlListState<V> {
    /// # Errors
    /// If it cannot be read or written.
    pub fn get<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) -> Result<Vec<V>, StateError> {
        let (ttl, now) = self.living.begin(ctx);
        let list = ctx.list_get::<(), Expiring<V>>(self.living.table, &())?.to_vec();
        let before = list.len();
        let (dead, mut alive): (Vec<_>, Vec<_>) =
            list.iter().cloned().partition(|element| ttl.is_expired(element.last_access, now));
        let seen = if ttl.returns_expired() { list } else { alive.clone() };
        if ttl.updates_on_read() {
            alive.iter_mut().for_each(|element| element.last_access = now);
        }
        if !dead.is_empty() || (ttl.updates_on_read() && before > 0) {
            ctx.list_set(self.living.table, &(), alive)?;
        }
        Ok(seen.into_iter().map(|element| element.value).collect())
    }

    /// # Errors
    /// If it cannot be written.
    pub fn push<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, value: V) -> Result<(), StateError> {
        let (_, now) = self.living.begin(ctx);
        ctx.list_push(self.living.table, &(), Expiring { last_access: now, value })
    }

    /// # Errors
    /// If it cannot be written.
    pub fn update<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, values: Vec<V>) -> Result<(), StateError> {
        let (_, now) = self.living.begin(ctx);
        let values = values.into_iter().map(|value| Expiring { last_access: now, value }).collect();
        ctx.list_set(self.living.table, &(), values)
    }

    /// # Errors
    /// If it cannot be removed.
    pub fn clear<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) -> Result<(), StateError> {
        ctx.list_clear::<(), Expiring<V>>(self.living.table, &())
    }
}

impl<M: StateValue + Ord, V: StateValue> TtlMapState<M, V> {
    /// # Errors
    /// If it cannot be read or written.
    pub fn get<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, key: &M) -> Result<Option<V>, StateError> {
        let (ttl, now) = self.living.begin(ctx);
        let Some(found) = ctx.map_get::<(), M, Expiring<V>>(self.living.table, &(), key)?.cloned() else {
            return Ok(None);
        };
        if ttl.is_expired(found.last_access, now) {
            ctx.map_remove::<(), M, Expiring<V>>(self.living.table, &(), key)?;
            return Ok(ttl.returns_expired().then_some(found.value));
        }
        if ttl.updates_on_read() {
            let touched = Expiring { last_access: now, value: found.value.clone() };
            ctx.map_insert(self.living.table, &(), key.clone(), touched)?;
        }
        Ok(Some(found.value))
    }

    /// What can be seen of the whole map, in the order of its keys.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn entries<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) -> Result<Vec<(M, V)>, StateError> {
        let mut keys = Vec::new();
        ctx.map_for_each::<(), M, Expiring<V>>(self.living.table, &(), |key, _| keys.push(key.clone()))?;
        let mut entries = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(value) = self.get(ctx, &key)? {
                entries.push((key, value));
            }
        }
        Ok(entries)
    }

    /// # Errors
    /// If it cannot be written.
    pub fn insert<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, key: M, value: V) -> Result<(), StateError> {
        let (_, now) = self.living.begin(ctx);
        ctx.map_insert(self.living.table, &(), key, Expiring { last_access: now, value })
    }

    /// # Errors
    /// If it cannot be removed.
    pub fn remove<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, key: &M) -> Result<(), StateError> {
        ctx.map_remove::<(), M, Expiring<V>>(self.living.table, &(), key)
    }

    /// # Errors
    /// If it cannot be removed.
    pub fn clear<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) -> Result<(), StateError> {
        ctx.map_clear::<(), M, Expiring<V>>(self.living.table, &())
    }
}

impl<K: StateKey> OpenContext<'_, K> {
    fn living<V: StateValue>(&mut self, name: &str, kind: StateKind, ttl: Ttl) -> Result<Living, UserError> {
        ttl.check()?;
        let table = self.value_table::<(), Expiring<V>>(name, kind, 1)?;
        self.backend.expire::<(), Expiring<V>>(table, ttl, strip_value::<V>, Lives::AsWhole);
        Ok(self.with_ttl(table, ttl))
    }

    fn with_ttl(&mut self, table: usize, ttl: Ttl) -> Living {
        self.backend.time.need_processing_time();
        self.backend.clean_per_record(table, ttl.per_record());
        Living { table, ttl: Some(ttl) }
    }

    /// As a value state, with a time to live. A state cannot be given one, or lose it, while a snapshot has it otherwise.
    ///
    /// # Errors
    /// As for a value state; and if what is asked for cannot be repeated by a replay.
    pub fn ttl_value_state<V: StateValue>(&mut self, name: &str, ttl: Ttl) -> Result<TtlValueState<V>, UserError> {
        Ok(TtlValueState { living: self.living::<V>(name, StateKind::Value, ttl)?, of: PhantomData })
    }

    /// As a reducing state, with a time to live.
    ///
    /// # Errors
    /// As [`Self::ttl_value_state`].
    pub fn ttl_reducing_state<V: StateValue>(
        &mut self,
        name: &str,
        ttl: Ttl,
        reduce: fn(&mut V, V),
    ) -> Result<TtlReducingState<V>, UserError> {
        Ok(TtlReducingState { living: self.living::<V>(name, StateKind::Reducing, ttl)?, reduce })
    }

    /// As an aggregating state, with a time to live.
    ///
    /// # Errors
    /// As [`Self::ttl_value_state`].
    pub fn ttl_aggregating_state<G: Aggregate>(
        &mut self,
        name: &str,
        ttl: Ttl,
    ) -> Result<TtlAggregatingState<G>, UserError> {
        let living = self.living::<G::Accumulator>(name, StateKind::Aggregating, ttl)?;
        Ok(TtlAggregatingState { living, of: PhantomData })
    }

    /// As a list state, with a time to live for each element.
    ///
    /// # Errors
    /// As [`Self::ttl_value_state`].
    pub fn ttl_list_state<V: StateValue>(&mut self, name: &str, ttl: Ttl) -> Result<TtlListState<V>, UserError> {
        ttl.check()?;
        let table = self.list_table::<(), Expiring<V>>(name, 1)?;
        let lives = Lives::ByElement(strip_encoded_list::<V>);
        self.backend.expire::<(), Vec<Expiring<V>>>(table, ttl, strip_list::<V>, lives);
        Ok(TtlListState { living: self.with_ttl(table, ttl), of: PhantomData })
    }

    /// As a map state, with a time to live for each entry.
    ///
    /// # Errors
    /// As [`Self::ttl_value_state`].
    pub fn ttl_map_state<M: StateValue + Ord, V: StateValue>(
        &mut self,
        name: &str,
        ttl: Ttl,
    ) -> Result<TtlMapState<M, V>, UserError> {
        ttl.check()?;
        let table = self.map_table::<(), M, Expiring<V>>(name, 1)?;
        self.backend.expire::<(), BTreeMap<M, Expiring<V>>>(table, ttl, strip_map::<M, V>, Lives::AsWhole);
        Ok(TtlMapState { living: self.with_ttl(table, ttl), of: PhantomData })
    }
}

#[cfg(test)]
#[path = "ttl_tests.rs"]
mod tests;

//! State that combines what is added to it: reducing (values into one of the same type) and aggregating (into an accumulator).

use std::marker::PhantomData;

use super::{
    context::KeyedContext,
    declare::OpenContext,
    error::{StateError, UserError},
    format::StateKind,
    heap::foreign_handle,
    key::StateKey,
    table::StateValue,
};

/// One value per key, combined of all that was added.
///
/// The default handle belongs to no state; using it panics.
pub struct ReducingState<V> {
    table: usize,
    reduce: fn(&mut V, V),
}

impl<V> Clone for ReducingState<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for ReducingState<V> {}

impl<V> Default for ReducingState<V> {
    fn default() -> Self {
        ReducingState { table: usize::MAX, reduce: |_, _| foreign_handle() }
    }
}

impl<V: StateValue> ReducingState<V> {
    /// What was added, combined; None if nothing was.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn get<'c, K: StateKey>(&self, ctx: &'c KeyedContext<'_, K>) -> Result<Option<&'c V>, StateError> {
        ctx.value_get(self.table, &())
    }

    /// # Errors
    /// If it cannot be read or written.
    pub fn add<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, value: V) -> Result<(), StateError> {
        let mut value = Some(value);
        let whole = ctx.value_get_or_insert_with(self.table, &(), || value.take().expect("taken at most once"))?;
        if let Some(value) = value {
            (self.reduce)(whole, value);
        }
        Ok(())
    }

    /// # Errors
    /// If it cannot be removed.
    pub fn clear<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) -> Result<(), StateError> {
        ctx.value_clear::<(), V>(self.table, &())
    }
}

/// How values are combined in an accumulator. Pure functions.
pub trait Aggregate: 'static {
    type In;
    type Accumulator: StateValue;
    type Out;

    fn create() -> Self::Accumulator;
    fn add(accumulator: &mut Self::Accumulator, value: Self::In);
    /// What two accumulators have together, in the first.
    fn merge(accumulator: &mut Self::Accumulator, other: Self::Accumulator);
    fn result(accumulator: &Self::Accumulator) -> Self::Out;
}

/// One accumulator per key.
///
/// The default handle belongs to no state; using it panics.
pub struct AggregatingState<G> {
    table: usize,
    of: PhantomData<fn() -> G>,
}

impl<G> Clone for AggregatingState<G> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<G> Copy for AggregatingState<G> {}

impl<G> Default for AggregatingState<G> {
    fn default() -> Self {
        AggregatingState { table: usize::MAX, of: PhantomData }
    }
}

impl<G: Aggregate> AggregatingState<G> {
    /// What the accumulator gives; None if nothing was added.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn get<K: StateKey>(&self, ctx: &KeyedContext<'_, K>) -> Result<Option<G::Out>, StateError> {
        Ok(ctx.value_get::<(), G::Accumulator>(self.table, &())?.map(G::result))
    }

    /// # Errors
    /// If it cannot be read or written.
    pub fn add<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, value: G::In) -> Result<(), StateError> {
        G::add(ctx.value_get_or_insert_with(self.table, &(), G::create)?, value);
        Ok(())
    }

    /// # Errors
    /// If it cannot be removed.
    pub fn clear<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>) -> Result<(), StateError> {
        ctx.value_clear::<(), G::Accumulator>(self.table, &())
    }
}

impl<K: StateKey> OpenContext<'_, K> {
    /// One value per key, to which others are added by `reduce`.
    ///
    /// # Errors
    /// As for a value state.
    pub fn reducing_state<V: StateValue>(
        &mut self,
        name: &str,
        reduce: fn(&mut V, V),
    ) -> Result<ReducingState<V>, UserError> {
        let table = self.value_table::<(), V>(name, StateKind::Reducing, 1)?;
        Ok(ReducingState { table, reduce })
    }

    /// One accumulator per key.
    ///
    /// # Errors
    /// As for a value state.
    pub fn aggregating_state<G: Aggregate>(&mut self, name: &str) -> Result<AggregatingState<G>, UserError> {
        let table = self.value_table::<(), G::Accumulator>(name, StateKind::Aggregating, 1)?;
        Ok(AggregatingState { table, of: PhantomData })
    }
}

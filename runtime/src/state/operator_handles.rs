//! How user code declares, reads and writes the operator states of a subtask.

use std::{collections::BTreeMap, marker::PhantomData, sync::Arc};

use super::{
    error::UserError,
    operator::{OperatorBackend, SubtaskPlace},
    operator_contents::{ListContents, MapContents},
    operator_format::OperatorStateMode,
    table::StateValue,
};

/// Given to user code before the first record, to declare its operator states. What a snapshot had of a state is in it from
/// its declaration on.
///
/// A replay behind a commit repeats records from a restored checkpoint, which the job had passed without being restored.
/// It gives the same output only if a restore at the same parallelism leaves an operator as if nothing had happened: who
/// uses union state takes here, of all the elements, those that were its own.
pub struct OperatorOpenContext<'a> {
    pub(super) backend: &'a mut OperatorBackend,
}

impl OperatorOpenContext<'_> {
    /// Whether the operator begins with such state of a snapshot. One that is new in its job, and one whose state was left behind, begins
    /// without (Flink `FunctionInitializationContext.isRestored`).
    pub fn is_restored(&self) -> bool {
        self.backend.is_restored
    }

    /// A list of which each subtask of a restored operator gets a share.
    ///
    /// # Errors
    /// If the snapshot, or an earlier declaration, has another type under this name.
    pub fn list_state<V: StateValue>(&mut self, name: &str) -> Result<OperatorListState<V>, UserError> {
        self.backend.list(name, OperatorStateMode::Split)
    }

    /// A list of which each subtask of a restored operator gets all that all subtasks had.
    ///
    /// # Errors
    /// As [`Self::list_state`].
    pub fn union_list_state<V: StateValue>(&mut self, name: &str) -> Result<OperatorListState<V>, UserError> {
        self.backend.list(name, OperatorStateMode::Union)
    }

    /// A sorted map which user code keeps the same in all subtasks.
    ///
    /// # Errors
    /// As [`Self::list_state`].
    pub fn broadcast_state<M: StateValue + Ord, V: StateValue>(
        &mut self,
        name: &str,
    ) -> Result<BroadcastState<M, V>, UserError> {
        self.backend.broadcast(name)
    }

    /// To read and write the states that are declared.
    pub fn states(&mut self) -> OperatorContext<'_> {
        self.backend.context()
    }

    pub fn subtask(&self) -> SubtaskPlace {
        self.backend.place
    }
}

/// The states of an operator, to read and write.
pub struct OperatorContext<'a> {
    pub(super) backend: &'a mut OperatorBackend,
}

/// The states of an operator, to read.
pub struct OperatorReadContext<'a> {
    pub(super) backend: &'a OperatorBackend,
}

/// What handles read through.
pub trait ReadsOperatorState {
    #[doc(hidden)]
    fn backend(&self) -> &OperatorBackend;

    fn subtask(&self) -> SubtaskPlace {
        self.backend().place
    }
}

impl ReadsOperatorState for OperatorContext<'_> {
    fn backend(&self) -> &OperatorBackend {
        self.backend
    }
}

impl ReadsOperatorState for OperatorReadContext<'_> {
    fn backend(&self) -> &OperatorBackend {
        self.backend
    }
}

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident<$($arg:ident),*>) => {
        $(#[$doc])*
        ///
        /// The default handle belongs to no state; using it panics.
        pub struct $name<$($arg),*> {
            position: usize,
            of: PhantomData<fn() -> ($($arg,)*)>,
        }

        impl<$($arg),*> $name<$($arg),*> {
            pub(super) fn at(position: usize) -> Self {
                $name { position, of: PhantomData }
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
    /// A list of one subtask.
    OperatorListState<V>
);
handle!(
    /// A sorted map of one subtask, written from what is broadcast to all of them.
    BroadcastState<M, V>
);

impl<V: StateValue> OperatorListState<V> {
    pub fn get<'c>(&self, ctx: &'c impl ReadsOperatorState) -> &'c [V] {
        &ctx.backend().contents::<ListContents<V>>(self.position).values
    }

    pub fn push(&self, ctx: &mut OperatorContext<'_>, value: V) {
        Arc::make_mut(&mut ctx.backend.contents_mut::<ListContents<V>>(self.position).values).push(value);
    }

    pub fn update(&self, ctx: &mut OperatorContext<'_>, values: Vec<V>) {
        ctx.backend.contents_mut::<ListContents<V>>(self.position).values = Arc::new(values);
    }

    /// The list to change in place.
    pub fn get_mut<'c>(&self, ctx: &'c mut OperatorContext<'_>) -> &'c mut Vec<V> {
        Arc::make_mut(&mut ctx.backend.contents_mut::<ListContents<V>>(self.position).values)
    }

    pub fn clear(&self, ctx: &mut OperatorContext<'_>) {
        self.update(ctx, Vec::new());
    }
}

impl<M: StateValue + Ord, V: StateValue> BroadcastState<M, V> {
    pub fn get<'c>(&self, ctx: &'c impl ReadsOperatorState, key: &M) -> Option<&'c V> {
        self.map(ctx).get(key)
    }

    /// The whole map.
    pub fn map<'c>(&self, ctx: &'c impl ReadsOperatorState) -> &'c BTreeMap<M, V> {
        &ctx.backend().contents::<MapContents<M, V>>(self.position).map
    }

    pub fn insert(&self, ctx: &mut OperatorContext<'_>, key: M, value: V) -> Option<V> {
        Arc::make_mut(&mut ctx.backend.contents_mut::<MapContents<M, V>>(self.position).map).insert(key, value)
    }

    pub fn remove(&self, ctx: &mut OperatorContext<'_>, key: &M) -> Option<V> {
        Arc::make_mut(&mut ctx.backend.contents_mut::<MapContents<M, V>>(self.position).map).remove(key)
    }

    pub fn clear(&self, ctx: &mut OperatorContext<'_>) {
        ctx.backend.contents_mut::<MapContents<M, V>>(self.position).map = Arc::default();
    }
}

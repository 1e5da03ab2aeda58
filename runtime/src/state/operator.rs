//! State of an operator that belongs to no key: lists, whose elements are dealt anew among the subtasks when the operator is
//! restored (split), or given to all of them (union); and broadcast maps.
//!
//! Life: [`OperatorBackend::restore`] reads the parts of all subtasks it is given and takes this subtask's share; user code
//! declares its states through [`OperatorOpenContext`]; from then on it reads and writes them through handles. A snapshot
//! shares the contents; a later write copies first what a snapshot still holds.

use std::{
    any::{Any, type_name},
    collections::BTreeMap,
    marker::PhantomData,
    sync::Arc,
};

use bytes::Bytes;

use super::{
    error::UserError,
    operator_format::{
        EntryWriter, OperatorPart, OperatorPartHeader, OperatorStateHeader, OperatorStateMode, encode_operator_part,
        put_operator_entry,
    },
    redistribution::{broadcast_copy, split_share},
    table::StateValue,
};
use crate::{
    checkpoint::types::PartKind,
    dataflow::chain::{PartData, PartSource},
    ids::{KeyGroup, KeyGroupRange, OperatorUid},
};

/// Which subtask of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubtaskPlace {
    pub index: u32,
    pub parallelism: u32,
}

struct Restored {
    header: OperatorStateHeader,
    entries: Vec<Bytes>,
}

/// The operator state of one operator in one subtask.
pub struct OperatorBackend {
    operator: OperatorUid,
    place: SubtaskPlace,
    states: Vec<Box<dyn AnyState>>,
    /// This subtask's share of what the snapshot has, as far as it is not declared yet.
    restored: BTreeMap<String, Restored>,
}

/// One state whatever its type.
trait AnyState {
    fn header(&self) -> &OperatorStateHeader;
    /// Keeps the contents as they are now.
    fn share(&self) -> Box<dyn EntryWriter>;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

struct ListContents<V> {
    header: OperatorStateHeader,
    values: Arc<Vec<V>>,
}

struct MapContents<M, V> {
    header: OperatorStateHeader,
    map: Arc<BTreeMap<M, V>>,
}

/// State in the snapshot that today's code does not declare: carried along.
struct RawContents {
    header: OperatorStateHeader,
    entries: Arc<Vec<Bytes>>,
}

struct SharedList<V> {
    state: String,
    values: Arc<Vec<V>>,
}

struct SharedMap<M, V> {
    state: String,
    map: Arc<BTreeMap<M, V>>,
}

struct SharedRaw(Arc<Vec<Bytes>>);

/// Panics if user data does not encode: the part cannot be written then, and the native call reports the panic.
fn put_encoded<T: serde::Serialize>(state: &str, entry: &T, out: &mut Vec<u8>) {
    let encoded = postcard::to_allocvec(entry)
        .unwrap_or_else(|error| panic!("operator state {state}: an element does not encode: {error}"));
    put_operator_entry(&encoded, out);
}

fn count(entries: usize) -> u32 {
    u32::try_from(entries).expect("an operator state has fewer than 2^32 elements")
}

impl<V: StateValue> EntryWriter for SharedList<V> {
    fn write(&self, out: &mut Vec<u8>) -> u32 {
        self.values.iter().for_each(|value| put_encoded(&self.state, value, out));
        count(self.values.len())
    }
}

impl<M: StateValue + Ord, V: StateValue> EntryWriter for SharedMap<M, V> {
    fn write(&self, out: &mut Vec<u8>) -> u32 {
        self.map.iter().for_each(|entry| put_encoded(&self.state, &entry, out));
        count(self.map.len())
    }
}

impl EntryWriter for SharedRaw {
    fn write(&self, out: &mut Vec<u8>) -> u32 {
        self.0.iter().for_each(|entry| put_operator_entry(entry, out));
        count(self.0.len())
    }
}

macro_rules! any_state {
    ([$($generics:tt)*] $of:ty, |$this:ident| $share:expr) => {
        impl<$($generics)*> AnyState for $of {
            fn header(&self) -> &OperatorStateHeader {
                &self.header
            }
            fn share(&self) -> Box<dyn EntryWriter> {
                let $this = self;
                Box::new($share)
            }
            fn as_any(&self) -> &dyn Any {
                self
            }
            fn as_any_mut(&mut self) -> &mut dyn Any {
                self
            }
        }
    };
}

any_state!([V: StateValue] ListContents<V>, |this| SharedList {
    state: this.header.name.clone(),
    values: this.values.clone(),
});
any_state!([M: StateValue + Ord, V: StateValue] MapContents<M, V>, |this| SharedMap {
    state: this.header.name.clone(),
    map: this.map.clone(),
});
any_state!([] RawContents, |this| SharedRaw(this.entries.clone()));

impl OperatorBackend {
    /// Takes this subtask's share of the parts of a snapshot; of none for a fresh start. Which parts there must be: all
    /// union parts; of the others this subtask's own if the parallelism is the same, else all.
    ///
    /// # Errors
    /// If a part is not readable, not of this operator, or one is missing or there twice.
    pub fn restore(
        operator: OperatorUid,
        place: SubtaskPlace,
        parts: &[(u32, Bytes)],
    ) -> Result<OperatorBackend, UserError> {
        let mut read = Vec::with_capacity(parts.len());
        for (from, bytes) in parts {
            let of_part = |problem: String| UserError::new(format!("operator state of subtask {from}: {problem}"));
            let part = OperatorPart::read(bytes).map_err(|error| of_part(error.to_string()))?;
            if part.header.operator != operator.0 {
                return Err(of_part(format!("is of operator {}", part.header.operator)));
            }
            if part.header.index != *from {
                return Err(of_part(format!("was written by subtask {}", part.header.index)));
            }
            read.push(part);
        }
        read.sort_by_key(|part| (part.header.union, part.header.index));
        let mut restored = BTreeMap::new();
        for union in [false, true] {
            let parts: Vec<OperatorPart> = read.extract_if(.., |part| part.header.union == union).collect();
            take_share(parts, union, place, &mut restored)?;
        }
        Ok(OperatorBackend { operator, place, states: Vec::new(), restored })
    }

    pub fn open_context(&mut self) -> OperatorOpenContext<'_> {
        OperatorOpenContext { backend: self }
    }

    /// All states are declared. What else the snapshot held is carried along.
    pub fn opened(&mut self) {
        for (_, Restored { header, entries }) in std::mem::take(&mut self.restored) {
            self.states.push(Box::new(RawContents { header, entries: Arc::new(entries) }));
        }
    }

    /// What user code reads and writes its states through.
    pub fn context(&mut self) -> OperatorContext<'_> {
        OperatorContext { backend: self }
    }

    /// What user code only reads its states through.
    pub fn read_context(&self) -> OperatorReadContext<'_> {
        OperatorReadContext { backend: self }
    }

    /// The state as it is now, in parts that can be encoded later, on another thread: one of union states and one of others,
    /// if there are any. Contents of the same kind are in one part, whatever the order of declaration.
    pub fn snapshot(&self) -> Vec<PartSource> {
        let mut states: Vec<&dyn AnyState> = self.states.iter().map(AsRef::as_ref).collect();
        states.sort_by(|a, b| a.header().name.cmp(&b.header().name));
        let mut parts = Vec::new();
        for union in [false, true] {
            let of_kind = states.iter().filter(|state| (state.header().mode == OperatorStateMode::Union) == union);
            let of_kind: Vec<&&dyn AnyState> = of_kind.collect();
            if of_kind.is_empty() {
                continue;
            }
            let header = OperatorPartHeader {
                operator: self.operator.0.clone(),
                index: self.place.index,
                parallelism: self.place.parallelism,
                union,
                states: of_kind.iter().map(|state| state.header().clone()).collect(),
            };
            let contents: Vec<_> = of_kind.iter().map(|state| state.share()).collect();
            let what = if union { "union" } else { "operator" };
            parts.push(PartSource {
                operator: self.operator.clone(),
                // Operator state is in no key group.
                key_groups: KeyGroupRange { first: KeyGroup(0), last: KeyGroup(0) },
                // With the index, for a subtask restores parts of others beside its own.
                name: format!("{}-{what}-{}", super::backend::plain_name(&self.operator), self.place.index),
                kind: PartKind::Operator { union },
                backend: None,
                data: PartData::encode(move || encode_operator_part(&header, &contents)),
            });
        }
        parts
    }

    /// Whether user code declared any state, or the snapshot had any.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    fn take_restored(&mut self, header: &OperatorStateHeader) -> Result<Option<Vec<Bytes>>, UserError> {
        let Some(Restored { header: then, entries }) = self.restored.remove(&header.name) else { return Ok(None) };
        if then != *header {
            return Err(UserError::new(format!(
                "operator state {:?} is a {then} in the snapshot and a {header} in the code",
                header.name
            )));
        }
        Ok(Some(entries))
    }

    /// The position of a state that is declared already.
    fn declared(&self, header: &OperatorStateHeader) -> Result<Option<usize>, UserError> {
        let Some(position) = self.states.iter().position(|state| state.header().name == header.name) else {
            return Ok(None);
        };
        let other = self.states[position].header();
        if other == header {
            return Ok(Some(position));
        }
        Err(UserError::new(format!(
            "operator state {:?} is declared twice, as a {other} and as a {header}",
            header.name
        )))
    }

    fn list<V: StateValue>(&mut self, name: &str, mode: OperatorStateMode) -> Result<OperatorListState<V>, UserError> {
        let header = OperatorStateHeader { name: name.to_string(), mode, value_type: type_name::<V>().to_string() };
        if let Some(position) = self.declared(&header)? {
            return Ok(OperatorListState::at(position));
        }
        let entries = self.take_restored(&header)?.unwrap_or_default();
        let values = entries.iter().map(|entry| decode(name, entry)).collect::<Result<Vec<V>, _>>()?;
        self.states.push(Box::new(ListContents { header, values: Arc::new(values) }));
        Ok(OperatorListState::at(self.states.len() - 1))
    }

    fn broadcast<M: StateValue + Ord, V: StateValue>(&mut self, name: &str) -> Result<BroadcastState<M, V>, UserError> {
        let mode = OperatorStateMode::Broadcast;
        let header =
            OperatorStateHeader { name: name.to_string(), mode, value_type: type_name::<(M, V)>().to_string() };
        if let Some(position) = self.declared(&header)? {
            return Ok(BroadcastState::at(position));
        }
        let entries = self.take_restored(&header)?.unwrap_or_default();
        let mut map = BTreeMap::new();
        for entry in &entries {
            let (key, value) = decode::<(M, V)>(name, entry)?;
            if map.insert(key, value).is_some() {
                return Err(UserError::new(format!("operator state {name}: a key occurs twice")));
            }
        }
        self.states.push(Box::new(MapContents { header, map: Arc::new(map) }));
        Ok(BroadcastState::at(self.states.len() - 1))
    }

    fn contents<S: 'static>(&self, position: usize) -> &S {
        let state = self.states.get(position).map(|state| state.as_any());
        state.and_then(|state| state.downcast_ref()).unwrap_or_else(|| super::heap::foreign_handle())
    }

    fn contents_mut<S: 'static>(&mut self, position: usize) -> &mut S {
        let state = self.states.get_mut(position).map(|state| state.as_any_mut());
        state.and_then(|state| state.downcast_mut()).unwrap_or_else(|| super::heap::foreign_handle())
    }
}

fn decode<T: serde::de::DeserializeOwned>(state: &str, entry: &[u8]) -> Result<T, UserError> {
    match postcard::take_from_bytes(entry) {
        Ok((decoded, [])) => Ok(decoded),
        Ok((_, rest)) => {
            Err(UserError::new(format!("operator state {state}: {} bytes too many in an element", rest.len())))
        }
        Err(error) => Err(UserError::new(format!("operator state {state}: an element does not decode: {error}"))),
    }
}

/// Adds what falls to a subtask of parts of one kind, which are in the order of their subtasks.
fn take_share(
    parts: Vec<OperatorPart>,
    union: bool,
    place: SubtaskPlace,
    restored: &mut BTreeMap<String, Restored>,
) -> Result<(), UserError> {
    let Some(before) = parts.first().map(|part| part.header.parallelism) else { return Ok(()) };
    let same = before == place.parallelism;
    for part in &parts {
        if part.header.parallelism != before {
            let other = part.header.parallelism;
            return Err(UserError::new(format!("operator state was written at parallelism {before} and {other}")));
        }
    }
    let indices: Vec<u32> = parts.iter().map(|part| part.header.index).collect();
    let needed = if same && !union { vec![place.index] } else { (0..before).collect() };
    if let Some(missing) = needed.iter().find(|index| !indices.contains(index)) {
        return Err(UserError::new(format!("there is no operator state of subtask {missing} of {before}")));
    }
    if let Some(pair) = indices.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(UserError::new(format!("the operator state of subtask {} is there twice", pair[0])));
    }
    // By name: each state with what the subtasks that had it wrote, in their order.
    let mut states: BTreeMap<String, (OperatorStateHeader, Vec<Vec<Bytes>>)> = BTreeMap::new();
    for part in parts {
        if same && !union && part.header.index != place.index {
            continue;
        }
        for (header, entries) in part.header.states.into_iter().zip(part.states) {
            let (first, all) = states.entry(header.name.clone()).or_insert_with(|| (header.clone(), Vec::new()));
            if *first != header {
                return Err(UserError::new(format!(
                    "operator state {:?} is a {first} in one subtask and a {header} in another",
                    header.name
                )));
            }
            all.push(entries);
        }
    }
    let mut start = 0;
    for (name, (header, mut written)) in states {
        let entries = match header.mode {
            OperatorStateMode::Union => written.concat(),
            OperatorStateMode::Split if same => written.concat(),
            OperatorStateMode::Split => {
                let all = written.concat();
                let (share, next) = split_share(all.len(), place.parallelism, place.index, start);
                start = next;
                all[share].to_vec()
            }
            OperatorStateMode::Broadcast if same => written.concat(),
            OperatorStateMode::Broadcast => match broadcast_copy(written.len(), place.index) {
                Some(copy) => written.swap_remove(copy),
                None => Vec::new(),
            },
        };
        restored.insert(name, Restored { header, entries });
    }
    Ok(())
}

/// Given to user code before the first record, to declare its operator states. What a snapshot had of a state is in it from
/// its declaration on.
///
/// A replay behind a commit repeats records from a restored checkpoint, which the job had passed without being restored.
/// It gives the same output only if a restore at the same parallelism leaves an operator as if nothing had happened: who
/// uses union state takes here, of all the elements, those that were its own.
pub struct OperatorOpenContext<'a> {
    backend: &'a mut OperatorBackend,
}

impl OperatorOpenContext<'_> {
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
    backend: &'a mut OperatorBackend,
}

/// The states of an operator, to read.
pub struct OperatorReadContext<'a> {
    backend: &'a OperatorBackend,
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
            fn at(position: usize) -> Self {
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

#[cfg(test)]
#[path = "operator_tests.rs"]
mod tests;

//! State of an operator that belongs to no key: lists, whose elements are dealt anew among the subtasks when the operator is
//! restored (split), or given to all of them (union); and broadcast maps.
//!
//! Life: [`OperatorBackend::restore`] reads the parts of all subtasks it is given and takes this subtask's share; user code
//! declares its states through [`OperatorOpenContext`]; from then on it reads and writes them through handles. A snapshot
//! shares the contents; a later write copies first what a snapshot still holds.

use std::{any::type_name, collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    error::UserError,
    operator_contents::{AnyState, ListContents, MapContents, RawContents},
    operator_format::{OperatorPart, OperatorPartHeader, OperatorStateHeader, OperatorStateMode, encode_operator_part},
    operator_handles::{BroadcastState, OperatorContext, OperatorListState, OperatorOpenContext, OperatorReadContext},
    operator_restore::{Restored, take_share},
    shape::Shape,
    table::StateValue,
};
use crate::{
    checkpoint::types::PartKind,
    dataflow::chain::{PartData, PartSource, StateUpgrade},
    ids::{KeyGroup, KeyGroupRange, OperatorUid},
};

/// Which subtask of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubtaskPlace {
    pub index: u32,
    pub parallelism: u32,
}

/// The operator state of one operator in one subtask.
pub struct OperatorBackend {
    operator: OperatorUid,
    pub(super) place: SubtaskPlace,
    states: Vec<Box<dyn AnyState>>,
    /// The snapshot has state of this operator.
    pub(super) is_restored: bool,
    /// This subtask's share of what the snapshot has, as far as it is not declared yet.
    restored: BTreeMap<String, Restored>,
    /// By state: elements of an older structure that were encoded anew.
    upgrades: Vec<StateUpgrade>,
}

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
        let is_restored = !parts.is_empty();
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
        Ok(OperatorBackend { operator, place, states: Vec::new(), is_restored, restored, upgrades: Vec::new() })
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
        let Some(restored) = self.restored.remove(&header.name) else { return Ok(None) };
        let (entries, values) = restored.grow_into(header)?;
        if values > 0 {
            let (operator, state) = (self.operator.clone(), header.name.clone());
            self.upgrades.push(StateUpgrade { operator, state, values });
        }
        Ok(Some(entries))
    }

    /// What was encoded anew when the state was opened.
    pub fn take_upgrades(&mut self) -> Vec<StateUpgrade> {
        std::mem::take(&mut self.upgrades)
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

    pub(super) fn list<V: StateValue>(
        &mut self,
        name: &str,
        mode: OperatorStateMode,
    ) -> Result<OperatorListState<V>, UserError> {
        let header = header_of::<V>(name, mode);
        if let Some(position) = self.declared(&header)? {
            return Ok(OperatorListState::at(position));
        }
        let entries = self.take_restored(&header)?.unwrap_or_default();
        let values = entries.iter().map(|entry| decode(name, entry)).collect::<Result<Vec<V>, _>>()?;
        self.states.push(Box::new(ListContents { header, values: Arc::new(values) }));
        Ok(OperatorListState::at(self.states.len() - 1))
    }

    pub(super) fn broadcast<M: StateValue + Ord, V: StateValue>(
        &mut self,
        name: &str,
    ) -> Result<BroadcastState<M, V>, UserError> {
        let header = header_of::<(M, V)>(name, OperatorStateMode::Broadcast);
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

    pub(super) fn contents<S: 'static>(&self, position: usize) -> &S {
        let state = self.states.get(position).map(|state| state.as_any());
        state.and_then(|state| state.downcast_ref()).unwrap_or_else(|| super::heap::foreign_handle())
    }

    pub(super) fn contents_mut<S: 'static>(&mut self, position: usize) -> &mut S {
        let state = self.states.get_mut(position).map(|state| state.as_any_mut());
        state.and_then(|state| state.downcast_mut()).unwrap_or_else(|| super::heap::foreign_handle())
    }
}

/// `T`: of an element.
fn header_of<T: serde::de::DeserializeOwned>(name: &str, mode: OperatorStateMode) -> OperatorStateHeader {
    let (value_type, structure) = (type_name::<T>().to_string(), Shape::of::<T>());
    OperatorStateHeader { name: name.to_string(), mode, value_type, structure }
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

#[cfg(test)]
#[path = "operator_tests.rs"]
mod tests;

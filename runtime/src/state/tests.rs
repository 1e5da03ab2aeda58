//! Keyed state as an operator sees it, and its snapshots.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    dataflow::chain::{NativeStage, PartData, PartSource, Scratch},
    ids::{BackendId, KeyGroup, KeyGroupRange, OperatorUid},
    platform::NativeDir,
};

pub(super) const MAX_PARALLELISM: u16 = 128;

pub(super) type Parts = Vec<(KeyGroupRange, Bytes)>;

pub(super) fn groups(first: u16, last: u16) -> KeyGroupRange {
    KeyGroupRange { first: KeyGroup(first), last: KeyGroup(last) }
}

pub(super) fn all_groups() -> KeyGroupRange {
    groups(0, MAX_PARALLELISM - 1)
}

pub(super) fn encode(parts: Vec<PartSource>) -> Parts {
    parts.into_iter().map(|part| (part.key_groups, part.data.encoded().expect("state is written anew"))).collect()
}

fn restore_range<K: StateKey>(parts: &Parts, range: KeyGroupRange) -> Result<KeyedBackend<K>, UserError> {
    restore_in(&BackendSettings::default(), parts, range)
}

/// Real directories are for native code; this is where tests make them.
#[allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "native code works in real directories")]
pub(super) fn directory() -> NativeDir {
    NativeDir(std::sync::Arc::new(tempfile::tempdir().unwrap()))
}

pub(super) fn scratch() -> Scratch {
    Scratch { directory: directory(), backend: BackendId(7), restored: Vec::new(), unclipped: false }
}

fn restore_in<K: StateKey>(
    settings: &BackendSettings,
    parts: &Parts,
    range: KeyGroupRange,
) -> Result<KeyedBackend<K>, UserError> {
    restore_from(settings, parts, range, (settings.kind == BackendKind::RocksDb).then(scratch))
}

fn restore_from<K: StateKey>(
    settings: &BackendSettings,
    parts: &Parts,
    range: KeyGroupRange,
    scratch: Option<Scratch>,
) -> Result<KeyedBackend<K>, UserError> {
    KeyedBackend::restore(OperatorUid("count".into()), range, MAX_PARALLELISM, parts, scratch, settings)
}

/// An operator with one state of each kind.
pub(super) struct Operator {
    pub(super) backend: KeyedBackend<String>,
    pub(super) value: ValueState<u64>,
    pub(super) list: ListState<i32>,
    pub(super) map: MapState<u8, String>,
}

impl Operator {
    fn open_range(parts: &Parts, range: KeyGroupRange) -> Result<Operator, UserError> {
        Operator::open_in(&BackendSettings::default(), parts, range)
    }

    pub(super) fn open_in(
        settings: &BackendSettings,
        parts: &Parts,
        range: KeyGroupRange,
    ) -> Result<Operator, UserError> {
        let scratch = (settings.kind == BackendKind::RocksDb).then(scratch);
        Operator::open_from(settings, parts, range, scratch)
    }

    pub(super) fn open_from(
        settings: &BackendSettings,
        parts: &Parts,
        range: KeyGroupRange,
        scratch: Option<Scratch>,
    ) -> Result<Operator, UserError> {
        let mut backend = restore_from(settings, parts, range, scratch)?;
        let mut ctx = backend.open_context();
        let (value, list, map) = (ctx.value_state("value")?, ctx.list_state("list")?, ctx.map_state("map")?);
        backend.opened();
        if let Some(call) = backend.native_calls(NativeStage::Open) {
            (call.run)().map_err(|failure| UserError::new(failure.to_string()))?;
        }
        backend.natively_opened()?;
        Ok(Operator { backend, value, list, map })
    }

    fn open(parts: &Parts) -> Result<Operator, UserError> {
        Operator::open_range(parts, all_groups())
    }

    pub(super) fn apply(&mut self, key: &String, change: &Change) {
        let mut ctx = self.backend.context(key).unwrap().expect("all key groups are here");
        let done = match change {
            Change::Add(n) => self.value.get_or_default_mut(&mut ctx).map(|value| *value += n),
            Change::Set(n) => self.value.update(&mut ctx, *n),
            Change::ClearValue => self.value.clear(&mut ctx),
            Change::Push(n) => self.list.push(&mut ctx, *n),
            Change::SetList(list) => self.list.update(&mut ctx, list.clone()),
            Change::Insert(k, v) => self.map.insert(&mut ctx, *k, v.clone()),
            Change::Remove(k) => self.map.remove(&mut ctx, k),
            Change::ClearMap => self.map.clear(&mut ctx),
            Change::TakeValue => self.value.take(&mut ctx).map(drop),
        };
        done.unwrap();
    }

    pub(super) fn read(&mut self, key: &String) -> Option<Model> {
        let ctx = self.backend.context(key).unwrap()?;
        let map: BTreeMap<u8, String> = self.map.entries(&ctx).unwrap().into_iter().collect();
        for k in 0..4 {
            assert_eq!(self.map.get(&ctx, &k).unwrap(), map.get(&k));
        }
        assert_eq!(self.map.is_empty(&ctx).unwrap(), map.is_empty());
        Some(Model { value: self.value.get(&ctx).unwrap().copied(), list: self.list.get(&ctx).unwrap().to_vec(), map })
    }

    pub(super) fn snapshot(&mut self) -> Parts {
        encode(self.backend.snapshot().unwrap())
    }
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Add(u64),
    Set(u64),
    ClearValue,
    Push(i32),
    SetList(Vec<i32>),
    Insert(u8, String),
    Remove(u8),
    ClearMap,
    TakeValue,
}

/// What the states of a key should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    value: Option<u64>,
    list: Vec<i32>,
    map: BTreeMap<u8, String>,
}

impl Model {
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Add(n) => *self.value.get_or_insert(0) += n,
            Change::Set(n) => self.value = Some(*n),
            Change::ClearValue | Change::TakeValue => self.value = None,
            Change::Push(n) => self.list.push(*n),
            Change::SetList(list) => self.list.clone_from(list),
            Change::Insert(k, v) => drop(self.map.insert(*k, v.clone())),
            Change::Remove(k) => drop(self.map.remove(k)),
            Change::ClearMap => self.map.clear(),
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0u64..1000).prop_map(Change::Add),
        (0u64..1000).prop_map(Change::Set),
        Just(Change::ClearValue),
        any::<i32>().prop_map(Change::Push),
        prop::collection::vec(any::<i32>(), 0..3).prop_map(Change::SetList),
        (0u8..4, "[a-zé]{0,4}").prop_map(|(k, v)| Change::Insert(k, v)),
        (0u8..4).prop_map(Change::Remove),
        Just(Change::ClearMap),
        Just(Change::TakeValue),
    ]
}

pub(super) fn changes() -> impl Strategy<Value = Vec<(String, Change)>> {
    prop::collection::vec(("[a-z]{0,2}", change()), 0..120)
}

pub(super) fn apply_all(operator: &mut Operator, model: &mut BTreeMap<String, Model>, changes: &[(String, Change)]) {
    for (key, change) in changes {
        operator.apply(key, change);
        model.entry(key.clone()).or_default().apply(change);
    }
}

pub(super) fn assert_is(operator: &mut Operator, model: &BTreeMap<String, Model>) {
    for (key, expected) in model {
        assert_eq!(operator.read(key).as_ref(), Some(expected), "key {key:?}");
    }
    let entries: usize = model
        .values()
        .map(|m| usize::from(m.value.is_some()) + usize::from(!m.list.is_empty()) + usize::from(!m.map.is_empty()))
        .sum();
    assert_eq!(operator.backend.entries().unwrap(), entries as u64);
}

mod beside_the_stream;
mod part_bytes;
mod refused;
mod snapshots_of_state;
pub(super) mod upgrade;

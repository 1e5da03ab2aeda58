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

proptest! {
    #[test]
    fn a_snapshot_is_the_state_at_its_barrier_and_comes_back_whole(before in changes(), after in changes()) {
        let mut operator = Operator::open(&Parts::new()).unwrap();
        let mut then = BTreeMap::new();
        apply_all(&mut operator, &mut then, &before);
        assert_is(&mut operator, &then);

        // The stream goes on while the snapshot waits to be encoded.
        let waiting = operator.backend.snapshot().unwrap();
        let mut now = then.clone();
        apply_all(&mut operator, &mut now, &after);
        let parts = encode(waiting);
        assert_is(&mut operator, &now);

        let mut restored = Operator::open(&parts).unwrap();
        assert_is(&mut restored, &then);
        prop_assert_eq!(restored.snapshot(), parts, "equal contents, equal bytes");

        // What comes after has the same effect on the restored state.
        let mut replayed = then.clone();
        apply_all(&mut restored, &mut replayed, &after);
        assert_is(&mut restored, &now);
        prop_assert_eq!(restored.snapshot(), operator.snapshot());
    }

    #[test]
    fn rescaling_moves_every_key_to_its_new_owner(
        before in changes(),
        old in 1u32..6,
        new in 1u32..6,
    ) {
        let mut whole = Operator::open(&Parts::new()).unwrap();
        let mut model = BTreeMap::new();
        apply_all(&mut whole, &mut model, &before);
        let owners = |n: u32, parts: &Parts| -> Vec<Operator> {
            (0..n).map(|i| Operator::open_range(parts, key_group_range(i, n, MAX_PARALLELISM)).unwrap()).collect()
        };
        let parts: Parts = owners(old, &whole.snapshot()).iter_mut().flat_map(Operator::snapshot).collect();
        let mut rescaled = owners(new, &parts);
        for (key, expected) in &model {
            let found: Vec<Model> = rescaled.iter_mut().filter_map(|o| o.read(key)).collect();
            prop_assert_eq!(&found, std::slice::from_ref(expected));
        }
        let back: Parts = rescaled.iter_mut().flat_map(Operator::snapshot).collect();
        prop_assert_eq!(Operator::open(&back).unwrap().snapshot(), whole.snapshot());
    }

    #[test]
    fn damaged_bytes_never_panic(
        before in changes(),
        part in 0usize..4,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut operator = Operator::open(&Parts::new()).unwrap();
        apply_all(&mut operator, &mut BTreeMap::new(), &before);
        let mut parts = operator.snapshot();
        let mut bytes = parts[part].1.to_vec();
        for (at, value) in &damage {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let same = bytes == parts[part].1;
        parts[part].1 = bytes.into();
        let opened = Operator::open(&parts);
        if same {
            prop_assert!(opened.is_ok());
        }
        if cut.is_some() && !same {
            // Damaged values may pass here (the part's checksum is somebody else's task); a cut never does.
            prop_assert!(opened.is_err());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
        let bytes = if magic { [b"WKST\x01\0".as_slice(), &bytes].concat() } else { bytes };
        let _ = PartReader::new(&Bytes::from(bytes.clone()));
        let section =
            StateSection { group: KeyGroup(0), state: 0, entries: u32::MAX, bytes: Bytes::from(bytes) };
        prop_assert!(section.for_each(|_| Ok(())).is_err());
    }
}

#[test]
fn the_order_of_insertion_and_declaration_does_not_show() {
    let keys: Vec<String> = (0..500).map(|n| format!("key {n}")).collect();
    let mut forward = Operator::open(&Parts::new()).unwrap();
    let mut backward = Operator::open(&Parts::new()).unwrap();
    for key in &keys {
        forward.apply(key, &Change::Set(7));
    }
    for key in keys.iter().rev() {
        backward.apply(key, &Change::Set(7));
    }
    assert_eq!(forward.snapshot(), backward.snapshot());
    assert!(forward.snapshot().iter().all(|(_, bytes)| {
        PartReader::new(bytes).unwrap().header.states.windows(2).all(|pair| pair[0].name < pair[1].name)
    }));
}

#[test]
fn a_snapshot_has_four_parts_with_stable_names_even_if_they_are_empty() {
    let mut operator = Operator::open_range(&Parts::new(), groups(64, 127)).unwrap();
    let names: Vec<String> = operator.backend.snapshot().unwrap().into_iter().map(|part| part.name).collect();
    assert_eq!(names, ["count-64-79", "count-80-95", "count-96-111", "count-112-127"]);
    assert!(operator.snapshot().iter().all(|(_, bytes)| bytes.len() < 1024));
    let mut narrow = Operator::open_range(&Parts::new(), groups(5, 6)).unwrap();
    assert_eq!(narrow.snapshot().len(), 2);
    let mut odd: KeyedBackend<u8> = KeyedBackend::restore(
        OperatorUid("per carrier: ü".into()),
        groups(0, 0),
        1,
        &[],
        None,
        &BackendSettings::default(),
    )
    .unwrap();
    assert_eq!(odd.snapshot().unwrap()[0].name, "per_carrier___-0-0");
}

#[test]
fn a_state_of_another_type_is_refused_and_both_types_are_named() {
    let mut operator = Operator::open(&Parts::new()).unwrap();
    operator.apply(&"a".to_string(), &Change::Set(1));
    let parts = operator.snapshot();

    let mut other = restore_range::<String>(&parts, all_groups()).unwrap();
    let error = other.open_context().value_state::<i16>("value").err().unwrap();
    assert!(error.message().contains("u64") && error.message().contains("i16"), "{error}");

    let mut kind = restore_range::<String>(&parts, all_groups()).unwrap();
    let error = kind.open_context().list_state::<u64>("value").err().unwrap();
    assert!(error.message().contains("Value") && error.message().contains("List"), "{error}");

    let mut version = restore_range::<String>(&parts, all_groups()).unwrap();
    let error = version.open_context().value_state_version::<u64>("value", 0).err().unwrap();
    assert!(error.message().contains("version 1") && error.message().contains("version 0"), "{error}");

    let mut twice = restore_range::<String>(&Parts::new(), all_groups()).unwrap();
    let mut ctx = twice.open_context();
    ctx.value_state::<u64>("n").unwrap();
    ctx.value_state::<u64>("n").unwrap();
    let error = ctx.value_state::<bool>("n").err().unwrap();
    assert!(error.message().contains("u64") && error.message().contains("bool"), "{error}");

    let error = restore_range::<u64>(&parts, all_groups()).err().unwrap();
    assert!(error.message().contains("String") && error.message().contains("u64"), "{error}");
}

#[test]
fn parts_that_do_not_fit_together_are_refused() {
    let mut operator = Operator::open(&Parts::new()).unwrap();
    let parts = operator.snapshot();
    let refused = |parts: &Parts| restore_range::<String>(parts, all_groups()).err().map(UserError::into_message);

    let mut missing = parts.clone();
    missing.remove(2);
    assert_eq!(refused(&missing).unwrap(), "no state part holds key group 64");

    let mut twice = parts.clone();
    twice.push(parts[0].clone());
    assert!(refused(&twice).unwrap().contains("occurs in another part"));

    let mut mislabelled = parts.clone();
    mislabelled[0].0 = groups(0, 30);
    assert!(refused(&mislabelled).unwrap().contains("holds key groups 0..31"));

    let error = KeyedBackend::<String>::restore(
        OperatorUid("sum".into()),
        all_groups(),
        MAX_PARALLELISM,
        &parts,
        None,
        &BackendSettings::default(),
    );
    assert!(error.err().unwrap().message().contains("is of operator count"));
    let error = KeyedBackend::<String>::restore(
        OperatorUid("count".into()),
        groups(0, 255),
        256,
        &parts,
        None,
        &BackendSettings::default(),
    );
    assert!(error.err().unwrap().message().contains("max parallelism 128"));
}

#[test]
fn state_that_is_no_longer_declared_is_carried_along() {
    let mut operator = Operator::open(&Parts::new()).unwrap();
    for n in 0..100 {
        operator.apply(&format!("k{n}"), &Change::Set(n));
        operator.apply(&format!("k{n}"), &Change::Push(1));
    }
    let parts = operator.snapshot();
    let mut newer = restore_range::<String>(&parts, all_groups()).unwrap();
    newer.open_context().list_state::<i32>("list").unwrap();
    newer.opened();
    assert_eq!(newer.entries().unwrap(), 200);
    assert_eq!(encode(newer.snapshot().unwrap()), parts);
}

#[test]
fn a_key_of_another_subtask_has_no_context() {
    let mut upper = Operator::open_range(&Parts::new(), groups(64, 127)).unwrap();
    // "hello" is in key group 35.
    assert!(upper.backend.context(&"hello".to_string()).unwrap().is_none());
}

#[test]
#[should_panic(expected = "did not declare")]
fn a_handle_that_was_never_declared_says_so() {
    let mut operator = Operator::open(&Parts::new()).unwrap();
    let key = "a".to_string();
    let ctx = operator.backend.context(&key).unwrap().unwrap();
    let _ = ValueState::<u64>::default().get(&ctx);
}

#[cfg(feature = "sabotage")]
#[test]
fn the_sabotaged_part_restores_without_one_key_group() {
    let mut operator = Operator::open(&Parts::new()).unwrap();
    for n in 0..500 {
        operator.apply(&format!("k{n}"), &Change::Set(n));
    }
    let mut parts = operator.snapshot();
    parts[1].1 = without_one_key_group(&parts[1].1).unwrap();
    let entries = Operator::open(&parts).unwrap().backend.entries().unwrap();
    assert!(entries < 500 && entries > 450, "{entries}");
}

/// The number of a part's content changes with the part, and only then.
#[test]
fn unchanged_parts_keep_their_number() {
    fn numbers(operator: &mut Operator) -> Vec<u64> {
        let number = |part: PartSource| match part.data {
            PartData::EncodeUnlessKnown { content, .. } => content,
            _ => panic!("heap parts are numbered"),
        };
        operator.backend.snapshot().unwrap().into_iter().map(number).collect()
    }
    let mut operator = Operator::open(&Parts::new()).unwrap();
    let first = numbers(&mut operator);
    assert_eq!(numbers(&mut operator), first);
    // "hello" is in key group 35, which is in the second part.
    let changes: [&Change; 3] = [&Change::Set(1), &Change::Push(2), &Change::Set(1)];
    let mut last = first.clone();
    for change in changes {
        operator.apply(&"hello".to_string(), change);
        let now = numbers(&mut operator);
        assert_ne!(now[1], last[1]);
        assert_eq!((now[0], &now[2..]), (first[0], &first[2..]));
        last = now;
    }
    let key = "hello".to_string();
    let context = operator.backend.context(&key).unwrap().unwrap();
    assert_eq!(operator.value.get(&context).unwrap(), Some(&1));
    assert_eq!(numbers(&mut operator), last, "reading changes nothing");
}

/// Compressed parts are restored as plain ones are, by whichever setting, and are smaller where there is something to save.
#[test]
fn compressed_parts_are_restored() {
    let compressed = BackendSettings { compression: true, ..BackendSettings::default() };
    assert!(!BackendSettings::default().compression, "off by default");
    let mut plain = Operator::open(&Parts::new()).unwrap();
    let mut other = Operator::open_in(&compressed, &Parts::new(), all_groups()).unwrap();
    for n in 0..4_000 {
        for operator in [&mut plain, &mut other] {
            operator.apply(&format!("a rather long key, number {n}"), &Change::Push(n));
        }
    }
    let (plain, small) = (plain.snapshot(), other.snapshot());
    let length = |parts: &Parts| parts.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    assert!(length(&small) * 2 < length(&plain), "{} of {} bytes", length(&small), length(&plain));
    assert_eq!(Operator::open(&small).unwrap().snapshot(), plain);
    assert_eq!(Operator::open_in(&compressed, &plain, all_groups()).unwrap().snapshot(), small);
}

/// Whatever byte of a compressed part is altered, it decodes to an error or, where nothing depends on it, to the same.
#[test]
fn damage_to_a_compressed_part_is_data() {
    let compressed = BackendSettings { compression: true, ..BackendSettings::default() };
    let mut operator = Operator::open_in(&compressed, &Parts::new(), all_groups()).unwrap();
    for n in 0..20 {
        operator.apply(&format!("k{n}"), &Change::Set(n));
    }
    let parts = operator.snapshot();
    for at in 0..parts[1].1.len() {
        let (mut bad, mut altered) = (parts[1].1.to_vec(), parts.clone());
        bad[at] ^= 0x40;
        altered[1].1 = bad.into();
        if let Ok(mut restored) = Operator::open_in(&compressed, &altered, all_groups()) {
            // The padding of a frame's checksum, and names of types and states, are not compressed data.
            let _ = restored.snapshot();
        }
    }
}

mod upgrade {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::state::format::{SectionWriter, StateSection, encode_part};

    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Before {
        count: u64,
        name: String,
    }

    /// What became of [`Before`] when its author added fields.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct After {
        count: u64,
        name: String,
        note: Option<String>,
        seen: Option<u64>,
    }

    struct Sections(Vec<StateSection>);

    impl SectionWriter for Sections {
        fn write(&self, group: usize, out: &mut Vec<u8>) -> u32 {
            out.extend_from_slice(&self.0[group].bytes);
            self.0[group].entries
        }
    }

    /// The same parts under other names of types: what a program wrote in which the type was called as it is today.
    fn renamed(parts: &Parts, version: u32) -> Parts {
        let rename = |(groups, bytes): &(KeyGroupRange, Bytes)| {
            let mut reader = PartReader::new(bytes).unwrap();
            reader.header.states[0].value_type = std::any::type_name::<After>().to_string();
            reader.header.states[0].version = version;
            let states: Vec<Box<dyn SectionWriter>> = vec![Box::new(Sections(reader.sections))];
            (*groups, encode_part(&reader.header, false, &states))
        };
        parts.iter().map(rename).collect()
    }

    fn written() -> Parts {
        let mut backend: KeyedBackend<String> = restore_range(&Parts::new(), all_groups()).unwrap();
        let state = backend.open_context().value_state::<Before>("count").unwrap();
        backend.opened();
        let key = "k".to_string();
        let mut context = backend.context(&key).unwrap().unwrap();
        state.update(&mut context, Before { count: 7, name: "seven".into() }).unwrap();
        encode(backend.snapshot().unwrap())
    }

    /// Fields that were added at the end, and may be absent, are absent in what an older version wrote.
    #[test]
    fn an_added_optional_field_is_absent_in_old_state() {
        let mut backend: KeyedBackend<String> = restore_range(&renamed(&written(), 1), all_groups()).unwrap();
        let state = backend.open_context().value_state_version::<After>("count", 2).unwrap();
        backend.opened();
        let key = "k".to_string();
        let context = backend.context(&key).unwrap().unwrap();
        let expected = After { count: 7, name: "seven".into(), note: None, seen: None };
        assert_eq!(state.get(&context).unwrap(), Some(&expected));
        // It is written in the new version, which the old program refuses.
        let parts = encode(backend.snapshot().unwrap());
        let mut older: KeyedBackend<String> = restore_range(&parts, all_groups()).unwrap();
        let error = older.open_context().value_state_version::<After>("count", 1).err().unwrap();
        assert!(error.message().contains("version 2") && error.message().contains("version 1"), "{error}");
    }

    /// Another type is refused, and so is a later version whose type has not only grown; both are named.
    #[test]
    fn other_types_are_refused_with_both_named() {
        let mut backend: KeyedBackend<String> = restore_range(&written(), all_groups()).unwrap();
        let error = backend.open_context().value_state_version::<After>("count", 2).err().unwrap();
        assert!(error.message().contains("Before") && error.message().contains("After"), "{error}");
        // The same name, as far as the snapshot tells, of a type that has lost a field.
        let parts = {
            let rename = |(groups, bytes): &(KeyGroupRange, Bytes)| {
                let mut reader = PartReader::new(bytes).unwrap();
                reader.header.states[0].value_type = "u64".to_string();
                let states: Vec<Box<dyn SectionWriter>> = vec![Box::new(Sections(reader.sections))];
                (*groups, encode_part(&reader.header, false, &states))
            };
            written().iter().map(rename).collect()
        };
        let mut shrunk: KeyedBackend<String> = restore_range(&parts, all_groups()).unwrap();
        let error = shrunk.open_context().value_state_version::<u64>("count", 2).err().unwrap();
        assert!(error.message().contains("left over") && error.message().contains("version 1"), "{error}");
    }
}

/// The bytes are pinned: what one version of Weir writes, the next ones read.
#[test]
fn the_bytes_of_parts_are_pinned() {
    for (name, compression) in [("part", false), ("part-compressed", true)] {
        let settings = BackendSettings { compression, ..BackendSettings::default() };
        let mut operator = Operator::open_in(&settings, &Parts::new(), groups(34, 36)).unwrap();
        for change in [Change::Set(300), Change::Push(-1), Change::Push(70_000), Change::Insert(3, "three".into())] {
            operator.apply(&"hello".to_string(), &change);
        }
        let line = |(groups, bytes): &(KeyGroupRange, Bytes)| {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{groups}: {hex}")
        };
        let parts = operator.snapshot();
        insta::assert_snapshot!(name, parts.iter().map(line).collect::<Vec<_>>().join("\n"));
        assert_eq!(Operator::open_in(&settings, &parts, groups(34, 36)).unwrap().snapshot(), parts);
    }
}

//! State of an older version of a type: what grows, and what is refused.

use std::{fmt::Debug, time::Duration};

use serde::{Deserialize, Serialize};

use super::{super::*, *};
use crate::state::format::{SectionWriter, StateSection, encode_part};

/// A type of a job, in one of its versions.
pub(in crate::state) trait Version: StateValue + PartialEq + Debug {
    /// The same in each version, as far as that has it.
    fn made(number: u64) -> Self;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::state) struct Before {
    count: u64,
    name: String,
}

/// What became of [`Before`] when its author added fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::state) struct After {
    count: u64,
    name: String,
    note: Option<String>,
    seen: Option<u64>,
}

impl Version for Before {
    fn made(count: u64) -> Before {
        Before { count, name: format!("name {count}") }
    }
}

impl Version for After {
    fn made(count: u64) -> After {
        After { count, name: format!("name {count}"), note: None, seen: None }
    }
}

/// A type that has one that grew in it, in the middle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::state) struct Around<V> {
    first: Option<Box<V>>,
    all: Vec<(u8, V)>,
    last: i16,
}

impl<V: Version> Version for Around<V> {
    fn made(number: u64) -> Around<V> {
        let first = number.is_multiple_of(2).then(|| Box::new(V::made(number)));
        Around { first, all: vec![(1, V::made(number + 1)), (2, V::made(2))], last: -7 }
    }
}

struct Last<V>(std::marker::PhantomData<V>);

impl<V: Version> Aggregate for Last<V> {
    type In = u64;
    type Accumulator = Option<V>;
    type Out = Option<V>;

    fn create() -> Option<V> {
        None
    }

    fn add(accumulator: &mut Option<V>, number: u64) {
        *accumulator = Some(V::made(number));
    }

    fn merge(accumulator: &mut Option<V>, other: Option<V>) {
        *accumulator = other.or_else(|| accumulator.take());
    }

    fn result(accumulator: &Option<V>) -> Option<V> {
        accumulator.clone()
    }
}

/// A job that keeps `V` in states of every kind.
pub(in crate::state) struct Job<V: Version> {
    pub backend: KeyedBackend<String>,
    value: ValueState<V>,
    list: ListState<V>,
    map: MapState<String, V>,
    reducing: ReducingState<V>,
    aggregating: AggregatingState<Last<V>>,
    ttl_list: TtlListState<V>,
    ttl_map: TtlMapState<u8, V>,
    timers: Timers,
}

impl<V: Version> Job<V> {
    pub fn open(
        settings: &BackendSettings,
        parts: &Parts,
        range: KeyGroupRange,
        scratch: Option<Scratch>,
    ) -> Result<Job<V>, UserError> {
        let mut backend = restore_from(settings, parts, range, scratch)?;
        let mut ctx = backend.open_context();
        let ttl = Ttl::new(Duration::from_secs(60)).cleanup_in_rocksdb_compact_filter();
        let (value, list, map) = (ctx.value_state("value")?, ctx.list_state("list")?, ctx.map_state("map")?);
        let (reducing, aggregating) =
            (ctx.reducing_state("reducing", |a, b| *a = b)?, ctx.aggregating_state("aggregating")?);
        let (ttl_list, ttl_map) = (ctx.ttl_list_state("ttl list", ttl)?, ctx.ttl_map_state("ttl map", ttl)?);
        let timers = ctx.event_timers()?;
        backend.opened();
        natively_open(&mut backend)?;
        Ok(Job { backend, value, list, map, reducing, aggregating, ttl_list, ttl_map, timers })
    }

    /// Writes to the state of so many keys, as far as they are of the subtask; some are written in several goes.
    pub fn write(&mut self, keys: std::ops::Range<u64>) {
        for round in 0..3 {
            for n in keys.clone() {
                let key = format!("key {n}");
                let Some(mut ctx) = self.backend.context(&key).unwrap() else { continue };
                self.list.push(&mut ctx, V::made(n + round)).unwrap();
                self.ttl_list.push(&mut ctx, V::made(round)).unwrap();
                self.map.insert(&mut ctx, format!("{}", n * round % 5), V::made(round)).unwrap();
                self.ttl_map.insert(&mut ctx, round as u8, V::made(n)).unwrap();
                if n % 3 == round {
                    self.value.update(&mut ctx, V::made(n)).unwrap();
                    self.reducing.add(&mut ctx, V::made(n + 1)).unwrap();
                    self.aggregating.add(&mut ctx, n + 2).unwrap();
                    self.timers.register(&mut ctx, (n * 1_000).cast_signed()).unwrap();
                }
            }
        }
        self.backend.settle().unwrap();
    }

    pub fn snapshot(&mut self) -> Parts {
        encode(self.backend.snapshot().unwrap())
    }

    /// By state.
    pub fn upgraded(&mut self) -> BTreeMap<String, u64> {
        self.backend.take_upgrades().into_iter().map(|upgrade| (upgrade.state, upgrade.values)).collect()
    }
}

pub(in crate::state) fn natively_open<K: StateKey>(backend: &mut KeyedBackend<K>) -> Result<(), UserError> {
    if let Some(call) = backend.native_calls(NativeStage::Open) {
        (call.run)().map_err(|failure| UserError::new(failure.to_string()))?;
    }
    Ok(backend.natively_opened()?)
}

pub(in crate::state) const KEYS: u64 = 40;

/// What a job writes that has never had another version of the type.
pub(in crate::state) fn written<V: Version>(settings: &BackendSettings) -> Parts {
    let scratch = (settings.kind == BackendKind::RocksDb).then(scratch);
    let mut job = Job::<V>::open(settings, &Parts::new(), all_groups(), scratch).unwrap();
    job.write(0..KEYS);
    job.snapshot()
}

/// R20. A full snapshot of the older type, restored into the newer one, is what the newer one would have written itself: of all kinds
/// of state, at any depth.
pub(in crate::state) fn grows<Old: Version, New: Version>(from: &BackendSettings, to: &BackendSettings) {
    let (old, new) = (written::<Old>(from), written::<New>(&BackendSettings::default()));
    assert_ne!(old, new);
    let scratch = || (to.kind == BackendKind::RocksDb).then(scratch);
    let mut job = Job::<New>::open(to, &old, all_groups(), scratch()).unwrap();
    assert_eq!(job.snapshot(), new);
    let upgraded = job.upgraded();
    assert_eq!(upgraded.len(), 7, "{upgraded:?}");
    assert!(upgraded.values().all(|values| *values == KEYS), "{upgraded:?}");
    // Once is enough.
    let mut again = Job::<New>::open(to, &new, all_groups(), scratch()).unwrap();
    assert!(again.upgraded().is_empty());
    assert_eq!(again.snapshot(), new);
    // And there is no way back.
    let error = Job::<Old>::open(to, &new, all_groups(), scratch()).err().unwrap();
    assert!(error.message().contains("is gone"), "{error}");
}

#[test]
fn added_optional_fields_are_absent_in_old_state() {
    let heap = BackendSettings::default();
    grows::<Before, After>(&heap, &heap);
    grows::<Around<Before>, Around<After>>(&heap, &heap);
}

mod moved {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Renamed {
        count: u64,
        name: String,
    }

    impl Version for Renamed {
        fn made(count: u64) -> Renamed {
            Renamed { count, name: format!("name {count}") }
        }
    }
}

/// The Rust name of a type and its place tell nothing.
#[test]
fn a_type_may_be_renamed_and_moved() {
    let heap = BackendSettings::default();
    let mut job =
        Job::<std::sync::Arc<moved::Renamed>>::open(&heap, &written::<Before>(&heap), all_groups(), None).unwrap();
    assert_eq!(job.snapshot(), written::<std::sync::Arc<moved::Renamed>>(&heap));
    assert!(job.upgraded().is_empty());
}

impl Version for std::sync::Arc<moved::Renamed> {
    fn made(count: u64) -> Self {
        std::sync::Arc::new(moved::Renamed::made(count))
    }
}

/// State that has `V` as "count".
fn one<V: StateValue>(value: V, version: u32) -> Parts {
    let mut backend: KeyedBackend<String> = restore_range(&Parts::new(), all_groups()).unwrap();
    let state = backend.open_context().value_state_version::<V>("count", version).unwrap();
    backend.opened();
    let key = "k".to_string();
    state.update(&mut backend.context(&key).unwrap().unwrap(), value).unwrap();
    encode(backend.snapshot().unwrap())
}

fn read<V: StateValue>(parts: &Parts, version: u32) -> Result<V, UserError> {
    let mut backend: KeyedBackend<String> = restore_range(parts, all_groups()).unwrap();
    let state = backend.open_context().value_state_version::<V>("count", version)?;
    backend.opened();
    let key = "k".to_string();
    let value = state.get(&backend.context(&key)?.unwrap())?.cloned();
    Ok(value.expect("it was written"))
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Swapped {
    name: String,
    count: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Retyped {
    count: u64,
    name: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Extended {
    count: u64,
    name: String,
    seen: Vec<u64>,
    rate: f64,
}

/// R20. Both types are named, and the first difference.
#[test]
fn what_is_another_type_is_refused() {
    let parts = one(Before::made(7), 1);
    let path = "runtime::state::tests::upgrade";
    let error = read::<Retyped>(&parts, 1).unwrap_err();
    assert_eq!(
        error.message(),
        format!(
            "state \"count\" is a Value state of {path}::Before (version 1) in the snapshot and a Value state of \
             {path}::Retyped (version 1) in the code: field 2 `name`: was a string and is a u64"
        )
    );
    let error = read::<Swapped>(&parts, 2).unwrap_err();
    assert!(error.message().ends_with("field 1 was `count` and is `name` (if it only has another name now, say so with #[serde(rename = \"count\")])"), "{error}");
    let error = read::<u64>(&parts, 2).unwrap_err();
    assert!(error.message().ends_with("was a struct {count:u64,name:str} and is a u64"), "{error}");
    // The same type under the same name, as before; and what it was for a program that knew names alone.
    assert_eq!(read::<Before>(&parts, 1).unwrap(), Before::made(7));
}

/// The version is a contract beside the structure: state of a newer version is refused, and who raises it stands for what is added.
#[test]
fn versions_are_a_contract_of_their_own() {
    let newer = one(Before::made(7), 2);
    let error = read::<Before>(&newer, 1).unwrap_err();
    assert!(
        error.message().contains("(version 2) in the snapshot") && error.message().contains("(version 1) in the code")
    );
    assert_eq!(read::<Before>(&newer, 2).unwrap(), Before::made(7));
    assert_eq!(read::<Before>(&newer, 3).unwrap(), Before::made(7));
    let error = read::<Extended>(&newer, 2).unwrap_err();
    assert!(
        error
            .message()
            .ends_with("field 3 `seen` was added and is a list [u64], which what was written before does not have"),
        "{error}"
    );
    let Before { count, name } = Before::made(7);
    assert_eq!(read::<Extended>(&newer, 3).unwrap(), Extended { count, name, seen: Vec::new(), rate: 0.0 });
    // Absent fields need no version.
    assert_eq!(read::<After>(&newer, 2).unwrap(), After::made(7));
    assert!(read::<After>(&newer, 1).is_err());
}

struct Sections(Vec<StateSection>);

impl SectionWriter for Sections {
    fn write(&self, group: usize, out: &mut Vec<u8>) -> u32 {
        out.extend_from_slice(&self.0[group].bytes);
        self.0[group].entries
    }
}

/// The same parts as a program wrote them that knew names of types alone, among them this one.
fn unstructured(parts: &Parts, value_type: &str) -> Parts {
    let rename = |(groups, bytes): &(KeyGroupRange, Bytes)| {
        let mut reader = PartReader::new(bytes).unwrap();
        reader.header.key_structure = None;
        reader.header.states[0].value_type = value_type.to_string();
        reader.header.states[0].structure = None;
        let states: Vec<Box<dyn SectionWriter>> = vec![Box::new(Sections(reader.sections))];
        (*groups, encode_part(&reader.header, false, &states))
    };
    parts.iter().map(rename).collect()
}

/// Where a structure is not known, names and versions are believed.
#[test]
fn without_structures_the_author_is_believed() {
    let parts = unstructured(&one(Before::made(7), 1), std::any::type_name::<After>());
    assert_eq!(read::<After>(&parts, 2).unwrap(), After::made(7));
    assert!(read::<After>(&parts, 1).is_err(), "it does not decode");
    let error = read::<Before>(&parts, 2).unwrap_err();
    assert!(error.message().contains("After") && error.message().contains("Before"), "{error}");
    // The same name, as far as the snapshot tells, of a type that has lost a field.
    let shrunk = unstructured(&one(Before::made(7), 1), "u64");
    let error = read::<u64>(&shrunk, 2).unwrap_err();
    assert!(error.message().contains("left over") && error.message().contains("version 1"), "{error}");
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Tree {
    children: Vec<Tree>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Bush {
    children: Vec<Bush>,
}

/// A type that contains itself is kept as any other, and told from others by its name.
#[test]
fn types_without_a_structure_are_known_by_name() {
    let tree = Tree { children: vec![Tree { children: Vec::new() }, Tree { children: Vec::new() }] };
    let parts = one(tree.clone(), 1);
    assert_eq!(read::<Tree>(&parts, 1).unwrap(), tree);
    let error = read::<Bush>(&parts, 1).unwrap_err();
    assert!(error.message().contains("::Tree") && error.message().contains("::Bush"), "{error}");
}

/// A key of the same structure as a string, under another name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in crate::state) struct Name<const SAME: bool>(String);

impl<const SAME: bool> StateKey for Name<SAME> {
    fn java_hash(&self) -> i32 {
        if SAME { self.0.java_hash() } else { self.0.java_hash() / 3 }
    }
}

/// Keys may be renamed if their hashes stay; a key that would be looked for elsewhere is found out.
#[test]
fn keys_may_be_renamed_but_not_have_other_hashes() {
    fn reopened<K: StateKey>(parts: &Parts) -> Result<(), UserError> {
        let mut backend: KeyedBackend<K> = restore_range(parts, all_groups())?;
        backend.open_context().value_state::<Before>("count").map(drop)
    }
    let parts = one(Before::made(7), 1);
    reopened::<Name<true>>(&parts).unwrap();
    let error = reopened::<Name<false>>(&parts).unwrap_err();
    assert!(error.message().contains("is not of it"), "{error}");
    let error = reopened::<u64>(&parts).unwrap_err();
    assert!(error.message().contains("String") && error.message().ends_with("was a string and is a u64"), "{error}");
}

//! The database store against the heap: same changes, same answers, same full snapshots.

#![allow(clippy::disallowed_methods, reason = "native code works in real directories")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::{
    checkpoint::increments::SharedFiles,
    dataflow::chain::{ChainSnapshot, NativeSnapshot, NativeStage, RestoredNative, Scratch, SnapshotFormat},
    ids::{BackendId, CheckpointId, KeyGroupRange, OperatorUid},
    state::{
        BackendKind, BackendSettings, KeyedBackend, MapState, PartReader, RocksDbSettings, StateError, StateKey,
        StateProblem, UserError, key_group_of, key_group_range,
        rocksdb_options::host::DatabaseHost,
        tests::{
            Change, MAX_PARALLELISM, Model, Operator, Parts, all_groups, apply_all, assert_is, changes, encode, groups,
            scratch,
        },
    },
};

pub(super) fn rocksdb() -> BackendSettings {
    let host = DatabaseHost { fleeting: true, ..DatabaseHost::default() };
    // So little that entries come and go in front of the databases.
    let rocksdb = RocksDbSettings { host, recent_bytes: Some(2 << 10), ..RocksDbSettings::default() };
    BackendSettings { kind: BackendKind::RocksDb, rocksdb, ..BackendSettings::default() }
}

fn open(parts: &Parts) -> Operator {
    Operator::open_in(&rocksdb(), parts, all_groups()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// R31: full snapshots have one form, so each store restores what the other wrote.
    #[test]
    fn a_full_snapshot_is_the_same_from_both_stores_and_goes_into_both(before in changes(), after in changes()) {
        let mut heap = Operator::open_in(&BackendSettings::default(), &Parts::new(), all_groups()).unwrap();
        let mut database = open(&Parts::new());
        let mut then = BTreeMap::new();
        apply_all(&mut heap, &mut BTreeMap::new(), &before);
        apply_all(&mut database, &mut then, &before);
        assert_is(&mut database, &then);

        // The stream goes on while the snapshot waits to be encoded.
        let waiting = database.backend.snapshot().unwrap();
        let mut now = then.clone();
        apply_all(&mut database, &mut now, &after);
        let parts = encode(waiting);
        assert_is(&mut database, &now);
        prop_assert_eq!(&parts, &heap.snapshot());

        let mut restored = open(&parts);
        assert_is(&mut restored, &then);
        prop_assert_eq!(&restored.snapshot(), &parts);
        let mut on_the_heap = Operator::open_in(&BackendSettings::default(), &parts, all_groups()).unwrap();
        assert_is(&mut on_the_heap, &then);
        apply_all(&mut restored, &mut then, &after);
        assert_is(&mut restored, &now);
    }

    #[test]
    fn full_snapshots_are_restored_at_another_parallelism(before in changes(), new in 1u32..4) {
        let mut whole = open(&Parts::new());
        let mut model = BTreeMap::new();
        apply_all(&mut whole, &mut model, &before);
        let parts = whole.snapshot();
        let ranges = (0..new).map(|i| key_group_range(i, new, MAX_PARALLELISM));
        let mut owners: Vec<Operator> =
            ranges.map(|range| Operator::open_in(&rocksdb(), &parts, range).unwrap()).collect();
        for (key, expected) in &model {
            let found: Vec<Model> = owners.iter_mut().filter_map(|owner| owner.read(key)).collect();
            prop_assert_eq!(&found, std::slice::from_ref(expected));
        }
    }

    #[test]
    fn damaged_bytes_never_panic(before in changes(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut operator = open(&Parts::new());
        apply_all(&mut operator, &mut BTreeMap::new(), &before);
        let mut parts = operator.snapshot();
        let mut bytes = parts[1].1.to_vec();
        let at = at.index(bytes.len());
        bytes[at] = value;
        parts[1].1 = bytes.into();
        let _ = Operator::open_in(&rocksdb(), &parts, all_groups());
    }
}

/// R99, R100: a key or value above the limit is refused when it is written, with the state, the size and the limit.
#[test]
fn what_is_too_large_is_refused_when_it_is_written() {
    let rocksdb = RocksDbSettings { max_entry_bytes: 100, ..rocksdb().rocksdb };
    let settings = BackendSettings { rocksdb, ..self::rocksdb() };
    let mut operator = Operator::open_in(&settings, &Parts::new(), all_groups()).unwrap();
    let key = "key".to_string();
    let mut ctx = operator.backend.context(&key).unwrap().unwrap();
    operator.map.insert(&mut ctx, 1, "x".repeat(90)).unwrap();
    let error = operator.map.insert(&mut ctx, 1, "x".repeat(100)).unwrap_err();
    assert_eq!(error.to_string(), "state \"map\": a value of 101 bytes, the limit is 100 bytes");
    assert_eq!(operator.map.get(&ctx, &1).unwrap().unwrap().len(), 90);
    let long = "k".repeat(100);
    let mut ctx = operator.backend.context(&long).unwrap().unwrap();
    let error = operator.value.update(&mut ctx, 1).unwrap_err();
    assert!(matches!(error.problem(), StateProblem::TooLarge { what: "key", bytes: 102, limit: 100 }), "{error}");
    assert_eq!(error.state(), "value");
}

/// An element of five bytes.
const ELEMENT: i32 = i32::MIN;

fn push(operator: &mut Operator, key: &str, value: i32) -> Result<(), StateError> {
    let key = key.to_string();
    let mut ctx = operator.backend.context(&key).unwrap().unwrap();
    operator.list.push(&mut ctx, value)
}

fn elements(operator: &mut Operator, key: &str) -> usize {
    let key = key.to_string();
    let ctx = operator.backend.context(&key).unwrap().unwrap();
    operator.list.get(&ctx).unwrap().len()
}

fn limited(settings: &BackendSettings, max_entry_bytes: u64) -> BackendSettings {
    BackendSettings { rocksdb: RocksDbSettings { max_entry_bytes, ..settings.rocksdb.clone() }, ..settings.clone() }
}

/// R101: the append that would take a list past the limit is the one that fails (in Flink the next read does), to the byte, and says
/// so; what is there is read as before, shorter elements still fit, and other lists do not notice. So it is after a restore.
#[test]
fn the_append_that_makes_a_list_too_long_is_refused() {
    let settings = limited(&rocksdb(), 64 << 10);
    let mut operator = Operator::open_in(&settings, &Parts::new(), all_groups()).unwrap();
    // Two bytes of count.
    let most = ((64 << 10) - 2) / 5;
    for _ in 0..most {
        push(&mut operator, "a", ELEMENT).unwrap();
        push(&mut operator, "b", 1).unwrap();
    }
    let refused = |operator: &mut Operator| {
        let error = push(operator, "a", ELEMENT).unwrap_err();
        assert_eq!(error.to_string(), "state \"list\": a list of 65537 bytes, the limit is 65536 bytes");
        assert_eq!((elements(operator, "a"), elements(operator, "b")), (most, most));
    };
    refused(&mut operator);
    refused(&mut operator);
    let parts = operator.snapshot();
    let mut restored = Operator::open_in(&settings, &parts, all_groups()).unwrap();
    refused(&mut restored);
    for operator in [&mut operator, &mut restored] {
        push(operator, "b", ELEMENT).unwrap();
        push(operator, "a", 1).unwrap();
        assert_eq!((elements(operator, "a"), elements(operator, "b")), (most + 1, most + 1));
        operator.apply(&"a".to_string(), &Change::SetList(Vec::new()));
        push(operator, "a", ELEMENT).unwrap();
        assert_eq!(elements(operator, "a"), 1);
    }
}

/// R101: how long the longest list is travels with a native checkpoint: whoever restores it, at another parallelism too, refuses what is
/// too long at once.
#[test]
fn a_restored_database_knows_how_long_its_lists_are() {
    let many = vec![ELEMENT; 2 << 20];
    let bytes = postcard::to_allocvec(&many).unwrap().len() as u64;
    let settings = limited(&incremental(), bytes);
    let halves = [0, 1].map(|half| key_group_range(half, 2, MAX_PARALLELISM));
    let mut checkpoints = Vec::new();
    let mut keys = Vec::new();
    for (range, is_long) in halves.into_iter().zip([false, true]) {
        let mut operator = Operator::open_in(&settings, &Parts::new(), range).unwrap();
        let of_range = |key: &String| range.contains(key_group_of(key.java_hash(), MAX_PARALLELISM));
        let key = (0..).map(|n: u32| format!("k{n}")).find(of_range).unwrap();
        operator.apply(&key, &Change::SetList(if is_long { many.clone() } else { vec![ELEMENT] }));
        if is_long {
            // From a full snapshot, too.
            let parts = operator.snapshot();
            let mut restored = Operator::open_in(&settings, &parts, range).unwrap();
            push(&mut restored, &key, ELEMENT).unwrap_err();
            keys.push(key);
        }
        checkpoints.push(take(barrier(&mut operator, 1)));
    }
    let restore = |from: &[(KeyGroupRange, Files)], range| {
        let scratch = Scratch { unclipped: false, ..brought_back(from) };
        let mut operator = Operator::open_from(&settings, &Parts::new(), range, Some(scratch)).unwrap();
        let [key] = &keys[..] else { panic!("one has a long list") };
        let error = push(&mut operator, key, ELEMENT).unwrap_err();
        assert!(matches!(error.problem(), StateProblem::TooLarge { what: "list", .. }), "{error}");
        operator
    };
    let mut same = restore(&checkpoints[1..], halves[1]);
    // And from there on.
    let again = take(barrier(&mut same, 2));
    restore(&[again], halves[1]);
    // The first of them becomes the database, and has only short ones itself.
    restore(&checkpoints, all_groups());
}

/// As user code does it: some states, in a backend of the given kind.
fn with_map(kind: BackendKind, parts: &Parts, declare: bool) -> Result<KeyedBackend<String>, UserError> {
    let settings = BackendSettings { kind, ..BackendSettings::default() };
    let uid = OperatorUid("count".into());
    let mut backend = KeyedBackend::restore(uid, all_groups(), MAX_PARALLELISM, parts, Some(scratch()), &settings)?;
    if declare {
        let _: MapState<u8, String> = backend.open_context().map_state("map")?;
    }
    backend.opened();
    if let Some(call) = backend.native_calls(NativeStage::Open) {
        (call.run)().map_err(|failure| UserError::new(failure.to_string()))?;
    }
    Ok(backend)
}

#[test]
fn state_that_is_no_longer_declared_is_carried_along() {
    let mut operator = open(&Parts::new());
    for n in 0..50 {
        operator.apply(&format!("k{n}"), &Change::Set(n));
        operator.apply(&format!("k{n}"), &Change::Insert(1, "one".to_string()));
        operator.apply(&format!("k{n}"), &Change::Insert(2, "two".to_string()));
        operator.apply(&format!("k{n}"), &Change::Push(1));
    }
    let parts = operator.snapshot();
    for declare in [true, false] {
        let mut newer = with_map(BackendKind::RocksDb, &parts, declare).unwrap();
        assert_eq!(newer.entries().unwrap(), 150);
        assert_eq!(encode(newer.snapshot().unwrap()), parts);
    }
}

#[test]
fn what_comes_between_opening_and_closing_needs_both() {
    let mut operator = open(&Parts::new());
    operator.apply(&"a".to_string(), &Change::Set(1));
    let waiting = operator.backend.snapshot().unwrap();
    let close = operator.backend.native_calls(NativeStage::Close).unwrap();
    (close.run)().unwrap();
    assert!(operator.backend.native_calls(NativeStage::Close).is_none());
    // A snapshot that was taken keeps what it needs.
    let sections: usize = encode(waiting)
        .iter()
        .map(|(_, bytes)| PartReader::new(bytes).unwrap().sections.iter().filter(|s| s.entries > 0).count())
        .sum();
    assert_eq!(sections, 1);
    let error = operator.backend.snapshot().err().unwrap();
    assert!(error.to_string().contains("not open"), "{error}");
}

#[test]
fn keys_and_values_of_another_type_are_refused() {
    let mut operator = open(&Parts::new());
    operator.apply(&"a".to_string(), &Change::Set(1));
    let parts = operator.snapshot();
    let uid = || OperatorUid("count".into());
    let restored =
        KeyedBackend::<u64>::restore(uid(), all_groups(), MAX_PARALLELISM, &parts, Some(scratch()), &rocksdb());
    let error = restored.err().unwrap();
    assert!(error.message().contains("String") && error.message().contains("u64"), "{error}");
    let mut backend =
        KeyedBackend::<String>::restore(uid(), all_groups(), MAX_PARALLELISM, &parts, Some(scratch()), &rocksdb())
            .unwrap();
    let error = backend.open_context().value_state::<i16>("value").err().unwrap();
    assert!(error.message().contains("u64") && error.message().contains("i16"), "{error}");
}

pub(super) fn incremental() -> BackendSettings {
    let rocksdb = RocksDbSettings { auto_compaction: false, ..rocksdb().rocksdb };
    BackendSettings { incremental: true, rocksdb, ..self::rocksdb() }
}

/// Files of a native checkpoint, outside of any scratch directory.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

pub(super) fn take(native: NativeSnapshot) -> (KeyGroupRange, Files) {
    (native.take)().unwrap();
    let directory = native.directory.path().join(&native.subdirectory);
    let mut files = Files::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with("OPTIONS") {
            files.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    (native.key_groups, files)
}

pub(super) fn barrier(operator: &mut Operator, checkpoint: u64) -> NativeSnapshot {
    operator.backend.native_snapshot(CheckpointId(checkpoint)).unwrap().expect("checkpoints are incremental")
}

/// The files of native checkpoints, brought back.
pub(super) fn brought_back(checkpoints: &[(KeyGroupRange, Files)]) -> Scratch {
    let mut scratch = scratch();
    for (position, (key_groups, files)) in checkpoints.iter().enumerate() {
        let subdirectory = format!("restored-{position}");
        let directory = scratch.directory.path().join(&subdirectory);
        std::fs::create_dir_all(&directory).unwrap();
        for (name, bytes) in files {
            std::fs::write(directory.join(name), bytes).unwrap();
        }
        scratch.restored.push(RestoredNative {
            checkpoint: CheckpointId(1),
            backend: BackendId(1),
            key_groups: *key_groups,
            subdirectory,
            shared: SharedFiles::new(),
        });
    }
    scratch
}

/// A database from the files of others.
pub(super) fn from_files(checkpoints: &[(KeyGroupRange, Files)], range: KeyGroupRange, unclipped: bool) -> Operator {
    let scratch = Scratch { unclipped, ..brought_back(checkpoints) };
    Operator::open_from(&incremental(), &Parts::new(), range, Some(scratch)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// R153: the files hold the state at the barrier, whatever the stream writes before they are made.
    #[test]
    fn a_native_checkpoint_is_the_state_at_its_barrier(before in changes(), after in changes(), later in changes()) {
        let mut operator = Operator::open_in(&incremental(), &Parts::new(), all_groups()).unwrap();
        let mut then = BTreeMap::new();
        apply_all(&mut operator, &mut then, &before);
        let first = barrier(&mut operator, 1);
        let mut now = then.clone();
        apply_all(&mut operator, &mut now, &after);
        // The next barrier may come before the files of the first are made.
        let second = barrier(&mut operator, 2);
        let mut at_second = now.clone();
        apply_all(&mut operator, &mut now, &later);
        let (first, second) = (take(first), take(second));
        assert_is(&mut operator, &now);
        let mut restored = from_files(std::slice::from_ref(&first), all_groups(), false);
        assert_is(&mut restored, &then);
        let mut restored = from_files(std::slice::from_ref(&second), all_groups(), false);
        assert_is(&mut restored, &at_second);
        apply_all(&mut restored, &mut at_second, &later);
        assert_is(&mut restored, &now);
        prop_assert_eq!(restored.snapshot(), operator.snapshot());
    }

    /// R12, R33: an incremental checkpoint is RocksDB's own files, a savepoint of the same barrier is whole and in the parts that any
    /// backend reads. Both hold the same; and the savepoint is what the heap writes.
    #[test]
    fn files_and_parts_of_one_barrier_hold_the_same(before in changes(), after in changes()) {
        let mut heap = Operator::open_in(&BackendSettings::default(), &Parts::new(), all_groups()).unwrap();
        apply_all(&mut heap, &mut BTreeMap::new(), &before);
        let mut operator = Operator::open_in(&incremental(), &Parts::new(), all_groups()).unwrap();
        let mut model = BTreeMap::new();
        apply_all(&mut operator, &mut model, &before);
        let mut taken = |format, checkpoint| {
            let checkpoint = CheckpointId(checkpoint);
            let mut snapshot = ChainSnapshot { checkpoint, format, ..ChainSnapshot::default() };
            operator.backend.add_to(&mut snapshot).unwrap();
            snapshot
        };
        let savepoint = taken(SnapshotFormat::Canonical, 1);
        let mut checkpoint = taken(SnapshotFormat::OfBackend, 2);
        apply_all(&mut operator, &mut BTreeMap::new(), &after);
        prop_assert!(savepoint.native.is_empty() && checkpoint.parts.is_empty());
        let parts = encode(savepoint.parts);
        prop_assert_eq!(&parts, &heap.snapshot());
        let files = take(checkpoint.native.pop().unwrap());
        prop_assert!(files.1.contains_key("CURRENT") && files.1.keys().any(|name| name.starts_with("MANIFEST")));
        let mut restored = from_files(&[files], all_groups(), false);
        assert_is(&mut restored, &model);
        prop_assert_eq!(restored.snapshot(), parts);
    }

    /// R174: at another parallelism, each takes what is of its key groups and nothing else.
    #[test]
    fn native_checkpoints_are_restored_at_another_parallelism(before in changes(), old in 1u32..4, new in 1u32..4) {
        let mut model: BTreeMap<String, Model> = BTreeMap::new();
        let mut checkpoints = Vec::new();
        for i in 0..old {
            let range = key_group_range(i, old, MAX_PARALLELISM);
            let mut operator = Operator::open_in(&incremental(), &Parts::new(), range).unwrap();
            for (key, change) in &before {
                if range.contains(key_group_of(key.java_hash(), MAX_PARALLELISM)) {
                    operator.apply(key, change);
                    model.entry(key.clone()).or_default().apply(change);
                }
            }
            let native = barrier(&mut operator, 1);
            checkpoints.push(take(native));
        }
        let mut entries = 0;
        for i in 0..new {
            let range = key_group_range(i, new, MAX_PARALLELISM);
            let needed: Vec<_> = checkpoints
                .iter()
                .filter(|(of, _)| of.first <= range.last && range.first <= of.last)
                .cloned()
                .collect();
            let mut restored = from_files(&needed, range, false);
            let mine: BTreeMap<String, Model> = model
                .iter()
                .filter(|(key, _)| range.contains(key_group_of(key.java_hash(), MAX_PARALLELISM)))
                .map(|(key, state)| (key.clone(), state.clone()))
                .collect();
            assert_is(&mut restored, &mine);
            entries += restored.backend.entries().unwrap();
        }
        let mut whole = from_files(&checkpoints, all_groups(), false);
        prop_assert_eq!(whole.backend.entries().unwrap(), entries);
        assert_is(&mut whole, &model);
    }
}

/// Whoever fills the memtables before the files are made makes them himself.
#[test]
fn a_stream_that_writes_much_during_the_window_does_not_spoil_the_checkpoint() {
    let rocksdb = RocksDbSettings { auto_compaction: false, write_buffer_bytes: 128 << 10, ..rocksdb().rocksdb };
    let settings = BackendSettings { rocksdb, ..incremental() };
    let mut operator = Operator::open_in(&settings, &Parts::new(), all_groups()).unwrap();
    let text = "x".repeat(1_000);
    let mut model = BTreeMap::new();
    for n in 0..50 {
        let change = Change::Insert(1, format!("{n}{text}"));
        apply_all(&mut operator, &mut model, &[(format!("k{n}"), change)]);
    }
    let native = barrier(&mut operator, 1);
    let mut now = model.clone();
    for n in 0..2_000 {
        let change = Change::Insert(1, format!("{n}-{text}"));
        apply_all(&mut operator, &mut now, &[(format!("k{}", n % 700), change)]);
    }
    let files = take(native);
    assert_is(&mut operator, &now);
    let mut restored = from_files(&[files], all_groups(), false);
    assert_is(&mut restored, &model);
}

/// Old increments fold away: the files that a checkpoint refers to stay few.
#[test]
fn compaction_keeps_the_files_of_a_checkpoint_few() {
    let mut operator = Operator::open_in(&incremental(), &Parts::new(), all_groups()).unwrap();
    let mut most = 0;
    for checkpoint in 1..60 {
        operator.apply(&format!("k{}", checkpoint % 7), &Change::Set(checkpoint));
        let mut native = barrier(&mut operator, checkpoint);
        let compact = native.compact.take().expect("auto compaction is off");
        let (_, files) = take(native);
        most = most.max(files.keys().filter(|name| name.ends_with(".sst")).count());
        compact().unwrap();
        operator.backend.completed(CheckpointId(checkpoint));
    }
    assert!((2..8).contains(&most), "{most} table files");
}

/// R151: where a hundredth of the keys has changed, the new files have less than a tenth of the bytes.
#[test]
fn an_increment_is_as_small_as_what_has_changed() {
    let mut operator = Operator::open_in(&incremental(), &Parts::new(), all_groups()).unwrap();
    for n in 0..20_000 {
        operator.apply(&format!("key {n}"), &Change::Set(n * 7_919));
    }
    let new_bytes = |operator: &mut Operator, checkpoint, known: &Files| {
        let native = barrier(operator, checkpoint);
        let (_, files) = take(native);
        // Files of tables are shared with the base; what else there is, each checkpoint has for itself.
        let new = files.iter().filter(|(name, _)| !(name.ends_with(".sst") && known.contains_key(*name)));
        let bytes: usize = new.map(|(_, bytes)| bytes.len()).sum();
        operator.backend.completed(CheckpointId(checkpoint));
        (bytes, files)
    };
    let (all, files) = new_bytes(&mut operator, 1, &Files::new());
    for n in 0..200 {
        operator.apply(&format!("key {}", n * 100), &Change::Set(1));
    }
    let (changed, _) = new_bytes(&mut operator, 2, &files);
    assert!(changed * 10 < all, "{changed} of {all} bytes");
}

/// R181: the files of an incremental snapshot are compressed by RocksDB itself, whatever is said of snapshots.
#[test]
fn files_are_compressed_whether_snapshots_are_or_not() {
    let bytes = [true, false].map(|compression| {
        let settings = BackendSettings { compression, ..incremental() };
        let mut operator = Operator::open_in(&settings, &Parts::new(), all_groups()).unwrap();
        for n in 0..500 {
            operator.apply(&format!("key {n}"), &Change::Insert(1, "the same again and again ".repeat(8)));
        }
        let native = barrier(&mut operator, 1);
        let tables = take(native).1.into_iter().filter(|(name, _)| name.ends_with(".sst"));
        tables.map(|(_, bytes)| bytes.len()).sum::<usize>()
    });
    assert_eq!(bytes[0], bytes[1]);
    assert!(bytes[0] * 2 < 500 * 25 * 8, "{} bytes", bytes[0]);
}

/// A planted fault: what is not of a subtask's key groups stays in its database, and shows.
#[test]
fn key_groups_of_others_show_if_they_are_not_removed() {
    let mut operator = Operator::open_in(&incremental(), &Parts::new(), all_groups()).unwrap();
    for n in 0..100 {
        operator.apply(&format!("k{n}"), &Change::Set(n));
    }
    let native = barrier(&mut operator, 1);
    let files = [take(native)];
    let count = |unclipped| {
        let mut half = from_files(&files, groups(0, 63), unclipped);
        half.backend.completed(CheckpointId(1));
        let native = barrier(&mut half, 2);
        from_files(&[take(native)], all_groups(), false).backend.entries().unwrap()
    };
    assert!(count(false) < 100);
    assert_eq!(count(true), 100);
}

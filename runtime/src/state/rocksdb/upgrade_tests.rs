//! Files of a database that hold older versions of types: what comes of them is what comes of full snapshots.

#![allow(clippy::disallowed_methods, reason = "native code works in real directories")]

use super::{
    contents::{Contents, has_unstructured, write_unstructured},
    database::Database,
    expiry::Expiring,
    tests::{Files, brought_back, incremental, rocksdb, take},
};
use crate::{
    ids::{CheckpointId, KeyGroupRange, OperatorUid},
    state::{
        BackendSettings, KeyedBackend, MapState, RocksDbSettings, StateKey, UserError, key_group_range,
        tests::{
            MAX_PARALLELISM, Parts, all_groups, scratch,
            upgrade::{After, Around, Before, Job, KEYS, Name, Version, grows, natively_open, written},
        },
    },
};

type Checkpoint = (KeyGroupRange, Files);

/// Compaction drops what has expired.
fn filtered() -> BackendSettings {
    let rocksdb = RocksDbSettings { ttl_compaction_filter: true, ..incremental().rocksdb };
    BackendSettings { rocksdb, ..incremental() }
}

fn checkpoint<V: Version>(job: &mut Job<V>, id: u64) -> (Checkpoint, Parts) {
    let mut snapshot = crate::dataflow::chain::ChainSnapshot { checkpoint: CheckpointId(id), ..Default::default() };
    job.backend.add_to(&mut snapshot).unwrap();
    let native = snapshot.native.pop().expect("checkpoints are incremental");
    // The timers are on the heap, and in parts.
    (take(native), crate::state::tests::encode(snapshot.parts))
}

/// The checkpoint of a subtask with the older type, in several increments, so that lists lie in pieces.
fn old<V: Version>(range: KeyGroupRange) -> (Checkpoint, Parts) {
    let mut job = Job::<V>::open(&filtered(), &Parts::new(), range, Some(scratch())).unwrap();
    job.write(0..KEYS / 2);
    checkpoint(&mut job, 1);
    job.write(KEYS / 2..KEYS);
    checkpoint(&mut job, 2)
}

/// What a job of the newer type writes, in the same order.
fn expected<V: Version>() -> Parts {
    let mut job = Job::<V>::open(&BackendSettings::default(), &Parts::new(), all_groups(), None).unwrap();
    job.write(0..KEYS / 2);
    job.write(KEYS / 2..KEYS);
    job.snapshot()
}

fn opened<V: Version>(checkpoints: &[(Checkpoint, Parts)], range: KeyGroupRange) -> Result<Job<V>, UserError> {
    let files: Vec<Checkpoint> = checkpoints.iter().map(|(files, _)| files.clone()).collect();
    let timers: Parts = checkpoints.iter().flat_map(|(_, timers)| timers.clone()).collect();
    Job::open(&filtered(), &timers, range, Some(brought_back(&files)))
}

#[test]
fn full_snapshots_grow_from_and_into_a_database() {
    let heap = BackendSettings::default();
    grows::<Before, After>(&rocksdb(), &rocksdb());
    grows::<Around<Before>, Around<After>>(&rocksdb(), &heap);
    grows::<Around<Before>, Around<After>>(&heap, &filtered());
    assert_eq!(written::<After>(&rocksdb()), written::<After>(&heap));
}

/// R20. Native files of the older type become what a full snapshot becomes; and go on as increments.
fn files_grow<Old: Version, New: Version>() {
    let before = [old::<Old>(all_groups())];
    let mut job = opened::<New>(&before, all_groups()).unwrap();
    assert_eq!(job.snapshot(), expected::<New>());
    let upgraded = job.upgraded();
    // One value per key, entries of maps one by one; no timers, which are on the heap.
    let single = ["aggregating", "list", "reducing", "ttl list", "value"].map(|state| upgraded.get(state).copied());
    assert_eq!(single, [Some(KEYS); 5], "{upgraded:?}");
    assert_eq!((upgraded["ttl map"], upgraded.len()), (3 * KEYS, 7), "{upgraded:?}");
    // The next checkpoint, an increment on the same files, is of the newer type.
    job.backend.completed(CheckpointId(2));
    let after = [checkpoint(&mut job, 3)];
    let mut again = opened::<New>(&after, all_groups()).unwrap();
    assert!(again.upgraded().is_empty());
    assert_eq!(again.snapshot(), expected::<New>());
    again.write(0..KEYS);
    job.write(0..KEYS);
    assert_eq!(again.snapshot(), job.snapshot());
    let error = opened::<Old>(&after, all_groups()).err().unwrap();
    assert!(error.message().contains("is gone"), "{error}");
    // Compacted, with filters that know the newer type, it is the same.
    let parts = job.snapshot();
    if let crate::state::backend::Store::RocksDb(store) = &job.backend.store {
        store.compact_all().unwrap();
    }
    assert_eq!(job.snapshot(), parts);
}

#[test]
fn files_of_an_older_type_grow() {
    files_grow::<Before, After>();
    files_grow::<Around<Before>, Around<After>>();
}

#[test]
fn files_of_an_older_type_grow_at_another_parallelism() {
    let halves = [key_group_range(0, 2, MAX_PARALLELISM), key_group_range(1, 2, MAX_PARALLELISM)];
    let before = halves.map(old::<Before>);
    let mut whole = opened::<After>(&before, all_groups()).unwrap();
    assert_eq!(whole.snapshot(), expected::<After>());
    let one = [old::<Before>(all_groups())];
    let mut parts = Parts::new();
    for range in halves {
        let mut half = opened::<After>(&one, range).unwrap();
        assert!(half.upgraded().values().sum::<u64>() > 0);
        parts.extend(half.snapshot());
    }
    let mut joined = Job::<After>::open(&BackendSettings::default(), &parts, all_groups(), None).unwrap();
    assert_eq!(joined.snapshot(), expected::<After>());
}

/// A map that a program carried along without knowing of what it is lies in the database as a whole.
#[test]
fn maps_that_were_carried_along_grow() {
    let parts = written::<Before>(&BackendSettings::default());
    let mut backend: KeyedBackend<String> = KeyedBackend::restore(
        OperatorUid("count".into()),
        all_groups(),
        MAX_PARALLELISM,
        &parts,
        Some(scratch()),
        &incremental(),
    )
    .unwrap();
    backend.opened();
    natively_open(&mut backend).unwrap();
    let native = backend.native_snapshot(CheckpointId(1)).unwrap().unwrap();
    let files = [(take(native), Parts::new())];
    let mut job = opened::<After>(&files, all_groups()).unwrap();
    // The timers were in the files, too, as nobody had declared them.
    assert_eq!(job.snapshot(), written::<After>(&BackendSettings::default()));
}

/// What a program wrote that knew no structures is read as it was: by names.
#[test]
fn files_without_structures_are_read_by_the_names_of_types() {
    let ((range, files), timers) = old::<Before>(all_groups());
    let before = brought_back(&[(range, files)]);
    let directory = before.directory.path().join("restored-0");
    {
        let settings = incremental().rocksdb;
        let families = Database::families_of(&before.directory, "restored-0", &settings).unwrap();
        let database =
            Database::open(before.directory.clone(), "restored-0", &settings, families, &Expiring::default()).unwrap();
        let contents = Contents::read(&database).unwrap().unwrap();
        write_unstructured(&database, &contents);
        assert!(
            Contents::read(&database).unwrap().unwrap().header.states.iter().all(|state| state.structure.is_none())
        );
        database.rocksdb().flush().unwrap();
    }
    let mut files = Files::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            files.insert(entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap());
        }
    }
    let files = [((range, files), timers)];
    let mut same = opened::<Before>(&files, all_groups()).unwrap();
    assert_eq!(same.snapshot(), expected::<Before>());
    let error = opened::<After>(&files, all_groups()).err().unwrap();
    assert!(error.message().contains("::Before") && error.message().contains("::After"), "{error}");
    // It is written with structures, and grows from then on; the program of before does not find what it would misread.
    let after = [checkpoint(&mut same, 3)];
    let of_after = brought_back(&[after[0].0.clone()]);
    let settings = incremental().rocksdb;
    let families = Database::families_of(&of_after.directory, "restored-0", &settings).unwrap();
    let database = Database::open_to_read(of_after.directory.clone(), "restored-0", &settings, families).unwrap();
    assert!(!has_unstructured(&database));
    let mut grown = opened::<After>(&after, all_groups()).unwrap();
    assert_eq!(grown.snapshot(), expected::<After>());
}

#[test]
fn keys_of_another_name_are_looked_at_before_they_are_believed() {
    fn reopened<K: StateKey>(files: &Checkpoint) -> Result<u64, UserError> {
        let scratch = brought_back(std::slice::from_ref(files));
        let uid = OperatorUid("count".into());
        let mut backend =
            KeyedBackend::<K>::restore(uid, all_groups(), MAX_PARALLELISM, &[], Some(scratch), &incremental())?;
        let _: MapState<String, Before> = backend.open_context().map_state("map")?;
        backend.opened();
        natively_open(&mut backend)?;
        Ok(backend.entries()?)
    }
    let (files, _) = old::<Before>(all_groups());
    assert_eq!(reopened::<Name<true>>(&files).unwrap(), reopened::<String>(&files).unwrap());
    let error = reopened::<Name<false>>(&files).unwrap_err();
    assert!(error.message().contains("is not of it") && error.message().contains("Name<false>"), "{error}");
    let error = reopened::<u64>(&files).unwrap_err();
    assert!(error.message().ends_with("was a string and is a u64"), "{error}");
}

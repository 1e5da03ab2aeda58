//! What touches state, and when: on the heap it is objects. A snapshot shares them while the stream stands still, and encodes them beside
//! the stream.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    super::*,
    upgrade::{Before, Job, KEYS},
    *,
};
use crate::{
    dataflow::chain::{ChainSnapshot, SnapshotFormat},
    ids::CheckpointId,
};

/// How often a [`Counted`] was encoded, decoded and copied. One test counts.
static TOUCHED: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

const ENCODED: usize = 0;
const DECODED: usize = 1;
const COPIED: usize = 2;

fn touch(what: usize) {
    TOUCHED[what].fetch_add(1, Ordering::Relaxed);
}

/// What was counted since the last call.
fn touched() -> [u64; 3] {
    [ENCODED, DECODED, COPIED].map(|what| TOUCHED[what].swap(0, Ordering::Relaxed))
}

/// A number that counts what is done to it.
#[derive(Debug, Default)]
struct Counted(u64);

impl Clone for Counted {
    fn clone(&self) -> Counted {
        touch(COPIED);
        Counted(self.0)
    }
}

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        touch(ENCODED);
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Counted, D::Error> {
        touch(DECODED);
        u64::deserialize(deserializer).map(Counted)
    }
}

fn kinds() -> impl Iterator<Item = BackendKind> {
    let rocksdb = cfg!(feature = "rocksdb").then_some(BackendKind::RocksDb);
    [BackendKind::Memory, BackendKind::Filesystem].into_iter().chain(rocksdb)
}

fn of_kind(kind: BackendKind) -> BackendSettings {
    BackendSettings { kind, ..BackendSettings::default() }
}

/// Adds up numbers under so many keys, and reads each sum.
fn add_up(backend: &mut KeyedBackend<String>, sums: &ValueState<Counted>, keys: u64) {
    for n in 0..keys * 3 {
        let key = format!("key {}", n % keys);
        let mut ctx = backend.context(&key).unwrap().expect("all key groups are here");
        sums.get_or_default_mut(&mut ctx).unwrap().0 += n;
        assert!(sums.get(&ctx).unwrap().is_some_and(|sum| sum.0 >= n));
    }
}

/// R78: working state is objects in memory: nothing is encoded, decoded or copied by whoever reads and changes it.
/// R144: nor by the part of a snapshot for which the stream stands still, however many entries there are; they are encoded after it, each
/// once.
#[test]
fn state_on_the_heap_is_objects_which_a_snapshot_shares() {
    for kind in [BackendKind::Memory, BackendKind::Filesystem] {
        for keys in [10, 100, 10_000] {
            let mut backend = restore_in::<String>(&of_kind(kind), &Parts::new(), all_groups()).unwrap();
            let sums: ValueState<Counted> = backend.open_context().value_state("sum").unwrap();
            backend.opened();
            // Its structure was looked at.
            touched();
            add_up(&mut backend, &sums, keys);
            assert_eq!(touched(), [0; 3], "{kind}, {keys} keys: encoded, decoded, copied by the stream");
            let waiting = backend.snapshot().unwrap();
            assert_eq!(touched(), [0; 3], "{kind}, {keys} keys: encoded, decoded, copied at the barrier");
            let parts = encode(waiting);
            assert_eq!(touched(), [keys, 0, 0], "{kind}, {keys} keys: encoded, decoded, copied beside the stream");
            drop(backend);
            let mut restored = restore_in::<String>(&of_kind(kind), &parts, all_groups()).unwrap();
            let _: ValueState<Counted> = restored.open_context().value_state("sum").unwrap();
            assert!(touched()[DECODED] >= keys, "{kind}, {keys} keys: decoded by a restore");
        }
    }
}

fn job_on(kind: BackendKind) -> Job<Before> {
    let place = (kind == BackendKind::RocksDb).then(scratch);
    Job::open(&of_kind(kind), &Parts::new(), all_groups(), place).unwrap()
}

/// R146: state of every kind on every backend is written beside the stream: whatever that does to it before it is encoded, the snapshot is
/// what it was at the barrier.
#[test]
fn every_kind_of_state_is_written_beside_the_stream() {
    let mut at_barrier = job_on(BackendKind::Filesystem);
    at_barrier.write(0..KEYS / 2);
    let expected = at_barrier.snapshot();
    for kind in kinds() {
        let mut job = job_on(kind);
        job.write(0..KEYS / 2);
        let waiting = job.backend.snapshot().unwrap();
        job.write(0..KEYS);
        assert!(encode(waiting) == expected, "{kind}: the snapshot is not what the state was at the barrier");
        assert!(job.snapshot() != expected, "{kind}: the stream has gone on");
    }
}

/// R32: a full checkpoint and a savepoint of one barrier are written by the same code: the same parts, byte for byte, on every backend.
#[test]
fn a_full_checkpoint_and_a_savepoint_are_the_same_bytes() {
    let mut of_each_backend = Vec::new();
    for kind in kinds() {
        let mut job = job_on(kind);
        job.write(0..KEYS);
        let mut taken = |format| {
            let checkpoint = CheckpointId(1);
            let mut snapshot = ChainSnapshot { checkpoint, format, ..ChainSnapshot::default() };
            job.backend.add_to(&mut snapshot).unwrap();
            assert!(snapshot.native.is_empty(), "{kind}: {format:?} is files of a database");
            let names: Vec<String> = snapshot.parts.iter().map(|part| part.name.clone()).collect();
            (names, encode(snapshot.parts))
        };
        let checkpoint = taken(SnapshotFormat::OfBackend);
        assert_eq!(checkpoint.0.len(), 4, "{kind}: {:?}", checkpoint.0);
        assert!(taken(SnapshotFormat::Canonical) == checkpoint, "{kind}: the two differ");
        of_each_backend.push(checkpoint);
    }
    assert!(of_each_backend.windows(2).all(|pair| pair[0] == pair[1]), "backends differ");
}

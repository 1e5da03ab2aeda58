//! Expired state under compaction: gone from the files where key and state say so, and no read can tell.

use std::time::Duration;

use proptest::prelude::*;

use super::tests::{incremental, rocksdb, take};
use crate::{
    checkpoint::types::Times,
    dataflow::chain::{NativeStage, Scratch},
    ids::{CheckpointId, KeyGroup, KeyGroupRange, OperatorUid},
    state::{
        BackendKind, BackendSettings, KeyedBackend, RocksDbSettings, Ttl, TtlListState, TtlMapState, TtlReducingState,
        TtlUpdate, TtlValueState, TtlVisibility,
        tests::{Parts, encode, scratch},
    },
};

const GROUPS: u16 = 4;
const TTL_MILLIS: i64 = 10;

fn all() -> KeyGroupRange {
    KeyGroupRange { first: KeyGroup(0), last: KeyGroup(GROUPS - 1) }
}

fn ttl() -> Ttl {
    Ttl::new(Duration::from_millis(TTL_MILLIS.unsigned_abs()))
}

fn filtered(on: bool) -> BackendSettings {
    let settings = incremental();
    let rocksdb = RocksDbSettings { ttl_compaction_filter: on, ..settings.rocksdb.clone() };
    BackendSettings { rocksdb, ..settings }
}

struct Operator {
    backend: KeyedBackend<u32>,
    value: TtlValueState<u32>,
    list: TtlListState<String>,
    map: TtlMapState<u8, u32>,
    sum: TtlReducingState<u32>,
    checkpoint: u64,
}

/// What reads give of a key.
type Seen = (Option<u32>, Vec<String>, Vec<(u8, u32)>, Option<u32>);

impl Operator {
    fn open(settings: &BackendSettings, ttl: Ttl, parts: &Parts) -> Operator {
        Operator::open_from(settings, ttl, parts, scratch())
    }

    fn open_from(settings: &BackendSettings, ttl: Ttl, parts: &Parts, scratch: Scratch) -> Operator {
        let scratch = (settings.kind == BackendKind::RocksDb).then_some(scratch);
        let uid = OperatorUid("op".into());
        let mut backend = KeyedBackend::restore(uid, all(), GROUPS, parts, scratch, settings).unwrap();
        let mut ctx = backend.open_context();
        let value = ctx.ttl_value_state("value", ttl).unwrap();
        let list = ctx.ttl_list_state("list", ttl).unwrap();
        let map = ctx.ttl_map_state("map", ttl).unwrap();
        let sum = ctx.ttl_reducing_state("sum", ttl, |sum, more| *sum += more).unwrap();
        backend.opened();
        if let Some(call) = backend.native_calls(NativeStage::Open) {
            (call.run)().unwrap();
        }
        backend.natively_opened().unwrap();
        Operator { backend, value, list, map, sum, checkpoint: 0 }
    }

    fn at(&mut self, now: i64) {
        self.backend.set_times(Times { processing: now, ..Times::default() });
    }

    fn apply(&mut self, key: u32, change: &Change) {
        let mut ctx = self.backend.context(&key).unwrap().unwrap();
        match change {
            Change::Set(n) => self.value.update(&mut ctx, *n),
            Change::Push(text) => self.list.push(&mut ctx, text.clone()),
            Change::SetList(list) => self.list.update(&mut ctx, list.clone()),
            Change::Insert(k, v) => self.map.insert(&mut ctx, *k, *v),
            Change::Add(n) => self.sum.add(&mut ctx, *n),
        }
        .unwrap();
        self.backend.settle().unwrap();
    }

    fn read(&mut self, key: u32) -> Seen {
        let mut ctx = self.backend.context(&key).unwrap().unwrap();
        let value = self.value.get(&mut ctx).unwrap();
        let list = self.list.get(&mut ctx).unwrap();
        let map = self.map.entries(&mut ctx).unwrap();
        let seen = (value, list, map, self.sum.get(&mut ctx).unwrap());
        self.backend.settle().unwrap();
        seen
    }

    /// Flushes, as a barrier does, and makes one file of all. Twice: what was merged is looked at the next time.
    fn compact(&mut self) {
        for _ in 0..2 {
            self.checkpoint += 1;
            let native = self.backend.native_snapshot(CheckpointId(self.checkpoint)).unwrap().unwrap();
            take(native);
            compact_all(&self.backend);
        }
    }
}

fn compact_all(backend: &KeyedBackend<u32>) {
    let crate::state::backend::Store::RocksDb(rocks) = &backend.store else { panic!("a database") };
    rocks.compact_all().unwrap();
}

#[derive(Clone, Debug)]
enum Change {
    Set(u32),
    Push(String),
    SetList(Vec<String>),
    Insert(u8, u32),
    Add(u32),
}

#[derive(Clone, Debug)]
enum Step {
    Pass(i64),
    Change(u32, Change),
    Read(u32),
    Compact,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = prop_oneof![
        any::<u32>().prop_map(Change::Set),
        "[a-z]{0,3}".prop_map(Change::Push),
        prop::collection::vec("[a-z]{0,3}", 0..4).prop_map(Change::SetList),
        (0..3u8, any::<u32>()).prop_map(|(k, v)| Change::Insert(k, v)),
        (0..1000u32).prop_map(Change::Add),
    ];
    let step = prop_oneof![
        3 => (0..8i64).prop_map(Step::Pass),
        6 => (0..3u32, change).prop_map(|(k, c)| Step::Change(k, c)),
        2 => (0..3u32).prop_map(Step::Read),
        1 => Just(Step::Compact),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// What a time to live shows can be repeated: reads are those of a heap that nobody compacts.
    #[test]
    fn no_read_can_tell_whether_there_was_a_compaction(steps in steps(), on_read in any::<bool>()) {
        let update = if on_read { TtlUpdate::OnReadAndWrite } else { TtlUpdate::OnCreateAndWrite };
        let ttl = ttl().update(update).cleanup_in_rocksdb_compact_filter();
        let mut heap = Operator::open(&BackendSettings::default(), ttl, &Parts::new());
        let mut database = Operator::open(&filtered(true), ttl, &Parts::new());
        let mut now = 0;
        for step in &steps {
            match step {
                Step::Pass(millis) => {
                    now += millis;
                    heap.at(now);
                    database.at(now);
                }
                Step::Change(key, change) => {
                    heap.apply(*key, change);
                    database.apply(*key, change);
                }
                Step::Read(key) => prop_assert_eq!(heap.read(*key), database.read(*key)),
                Step::Compact => database.compact(),
            }
        }
        database.compact();
        for key in 0..3 {
            prop_assert_eq!(heap.read(key), database.read(key));
        }
    }

    /// Full snapshots leave out what has expired, by value, element and entry, from either store.
    #[test]
    fn full_snapshots_leave_out_what_has_expired(steps in steps(), later in 0..12i64) {
        let ttl = ttl().cleanup_in_full_snapshot();
        let mut heap = Operator::open(&BackendSettings::default(), ttl, &Parts::new());
        let mut database = Operator::open(&rocksdb(), ttl, &Parts::new());
        let mut now = 0;
        for step in &steps {
            match step {
                Step::Pass(millis) => now += millis,
                Step::Change(key, change) => {
                    heap.apply(*key, change);
                    database.apply(*key, change);
                }
                Step::Read(_) | Step::Compact => {}
            }
            heap.at(now);
            database.at(now);
        }
        heap.at(now + later);
        database.at(now + later);
        let (of_heap, of_database) = (heap.backend.snapshot().unwrap(), database.backend.snapshot().unwrap());
        prop_assert_eq!(encode(of_heap), encode(of_database));
    }
}

/// The key of each, and what must be gone or there.
fn written(settings: &BackendSettings, ttl: Ttl) -> Operator {
    let mut operator = Operator::open(settings, ttl, &Parts::new());
    operator.at(100);
    for change in [Change::Set(1), Change::SetList(vec!["old".into()]), Change::Insert(1, 1), Change::Add(1)] {
        operator.apply(0, &change);
        operator.apply(1, &change);
    }
    operator.at(105);
    for change in [Change::Push("new".into()), Change::Insert(2, 2)] {
        operator.apply(0, &change);
    }
    operator
}

/// R120: expired entries are gone after compaction only where both the key and the state's own setting say so.
#[test]
fn compaction_drops_what_has_expired_where_key_and_state_say_so() {
    for key in [false, true] {
        for state in [false, true] {
            let ttl = if state { ttl().cleanup_in_rocksdb_compact_filter() } else { ttl() };
            let mut operator = written(&filtered(key), ttl);
            assert_eq!(operator.backend.entries().unwrap(), 8);
            operator.at(109);
            operator.compact();
            assert_eq!(operator.backend.entries().unwrap(), 8, "nothing has expired");
            operator.at(110);
            operator.compact();
            // Of two keys: what is left of the list and the map of the first.
            let left = if key && state { 2 } else { 8 };
            assert_eq!(operator.backend.entries().unwrap(), left, "key {key}, state {state}");
            assert_eq!(operator.read(0), (None, vec!["new".to_string()], vec![(2, 2)], None));
        }
    }
}

/// The time of a filter stands still from a barrier until the files of its snapshot are made: what a record behind the barrier
/// was shown, a replay of it is shown again.
#[test]
fn what_expires_behind_a_barrier_is_in_its_snapshot() {
    let ttl = ttl().cleanup_in_rocksdb_compact_filter();
    let mut operator = written(&filtered(true), ttl);
    operator.at(109);
    operator.compact();
    let native = operator.backend.native_snapshot(CheckpointId(100)).unwrap().unwrap();
    operator.at(200);
    compact_all(&operator.backend);
    let files = take(native);
    let mut restored = Operator::open_from(&filtered(true), ttl, &Parts::new(), super::tests::brought_back(&[files]));
    restored.at(109);
    assert_eq!(restored.backend.entries().unwrap(), 8);
    assert_eq!(restored.read(0), (Some(1), vec!["old".into(), "new".into()], vec![(1, 1), (2, 2)], Some(1)));
    // The same of a full one, for as long as it is written.
    let waiting = operator.backend.snapshot().unwrap();
    operator.at(201);
    compact_all(&operator.backend);
    let mut restored = Operator::open(&filtered(true), ttl, &encode(waiting));
    assert_eq!(restored.backend.entries().unwrap(), 8);
    // Then it goes on.
    operator.at(202);
    operator.compact();
    assert_eq!(operator.backend.entries().unwrap(), 0);
}

/// What may be returned although it has expired must not vanish by itself.
#[test]
fn a_time_to_live_that_returns_expired_state_has_no_filter() {
    let ttl = ttl().visibility(TtlVisibility::ReturnExpiredIfNotCleanedUp).cleanup_in_rocksdb_compact_filter();
    let mut backend: KeyedBackend<u32> =
        KeyedBackend::restore(OperatorUid("op".into()), all(), GROUPS, &[], Some(scratch()), &filtered(true)).unwrap();
    let error = backend.open_context().ttl_value_state::<u32>("value", ttl).err().unwrap();
    assert!(error.message().contains("compaction"), "{error}");
}

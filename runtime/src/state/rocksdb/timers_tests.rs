//! Timers in a database against those on the heap: the same fire, in the same order, whatever they are restored from.

#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "measures how long the stream would wait")]

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::tests::{Files, brought_back, incremental, rocksdb, take};
use crate::{
    dataflow::chain::{ChainSnapshot, NativeStage, Scratch},
    ids::{CheckpointId, KeyGroup, KeyGroupRange, OperatorUid},
    state::{
        BackendKind, BackendSettings, KeyedBackend, PartReader, StateKey, StateKind, TimeDomain, Timer, TimerService,
        TimersPlace, key_group_of, key_group_range,
        tests::{Parts, encode, scratch},
    },
};

const GROUPS: u16 = 8;

fn all() -> KeyGroupRange {
    KeyGroupRange { first: KeyGroup(0), last: KeyGroup(GROUPS - 1) }
}

fn on_heap() -> BackendSettings {
    BackendSettings::default()
}

fn in_database(settings: BackendSettings) -> BackendSettings {
    BackendSettings { timers: TimersPlace::RocksDb, ..settings }
}

struct Operator {
    backend: KeyedBackend<u32>,
    service: TimerService<String>,
}

type Fired = Vec<(i64, u32, String)>;

#[derive(Clone, Debug)]
enum Step {
    Register(i64, u32, String),
    Delete(i64, u32, String),
    Fire(i64),
}

/// Few instants and many keys: timers of one instant, and more of a key group than are in memory.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let timer = || (prop_oneof![-3..12i64, Just(i64::MAX), Just(i64::MIN)], 0..40u32, "[ab]?");
    let step = prop_oneof![
        12 => timer().prop_map(|(t, k, n)| Step::Register(t, k, n)),
        3 => timer().prop_map(|(t, k, n)| Step::Delete(t, k, n)),
        1 => (-3..12i64).prop_map(Step::Fire),
    ];
    prop::collection::vec(step, 0..150)
}

impl Operator {
    fn open(settings: &BackendSettings, parts: &Parts, range: KeyGroupRange, scratch: Scratch) -> Operator {
        let scratch = (settings.kind == BackendKind::RocksDb).then_some(scratch);
        let uid = OperatorUid("op".into());
        let mut backend = KeyedBackend::restore(uid, range, GROUPS, parts, scratch, settings).unwrap();
        let service = backend.open_context().timer_service(TimeDomain::Event, "windows").unwrap();
        backend.opened();
        if let Some(call) = backend.native_calls(NativeStage::Open) {
            (call.run)().unwrap();
        }
        backend.natively_opened().unwrap();
        Operator { backend, service }
    }

    fn fresh(settings: &BackendSettings) -> Operator {
        Operator::open(settings, &Parts::new(), all(), scratch())
    }

    fn fire(&mut self, now: i64) -> Fired {
        let mut fired = Fired::new();
        while let Some(Timer { timestamp, key, namespace }) = self.backend.pop_due(self.service, now).unwrap() {
            fired.push((timestamp, key, namespace));
        }
        fired
    }

    /// Steps for keys of others are left to them.
    fn apply(&mut self, steps: &[Step]) -> Fired {
        let mut fired = Fired::new();
        for step in steps {
            match step {
                Step::Register(t, k, n) => {
                    if let Some(mut ctx) = self.backend.context(k).unwrap() {
                        self.service.register_in(&mut ctx, *t, n).unwrap();
                    }
                }
                Step::Delete(t, k, n) => {
                    if let Some(mut ctx) = self.backend.context(k).unwrap() {
                        self.service.delete_in(&mut ctx, *t, n).unwrap();
                    }
                }
                Step::Fire(now) => fired.extend(self.fire(*now)),
            }
            self.backend.settle().unwrap();
        }
        fired
    }

    fn native(&mut self, checkpoint: u64) -> (Parts, (KeyGroupRange, Files)) {
        let mut snapshot = ChainSnapshot { checkpoint: CheckpointId(checkpoint), ..ChainSnapshot::default() };
        self.backend.add_to(&mut snapshot).unwrap();
        let native = snapshot.native.pop().expect("checkpoints are incremental");
        (encode(snapshot.parts), take(native))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// R119, R155: wherever timers are, the same fire in the same order; a full snapshot has the same bytes, and goes into both.
    #[test]
    fn timers_in_a_database_are_those_of_the_heap(before in steps(), after in steps()) {
        let (mut heap, mut database) = (Operator::fresh(&on_heap()), Operator::fresh(&in_database(rocksdb())));
        prop_assert_eq!(heap.apply(&before), database.apply(&before));
        prop_assert_eq!(heap.backend.timers().unwrap(), database.backend.timers().unwrap());
        let then = heap.backend.timers().unwrap();
        let waiting = (heap.backend.snapshot().unwrap(), database.backend.snapshot().unwrap());
        let fired = heap.apply(&after);
        prop_assert_eq!(&fired, &database.apply(&after));
        let parts = encode(waiting.1);
        prop_assert_eq!(&parts, &encode(waiting.0));
        let mut rest = heap.fire(i64::MAX);
        prop_assert_eq!(&rest, &database.fire(i64::MAX));
        prop_assert_eq!(database.backend.timers().unwrap(), 0);
        rest.splice(0..0, fired);
        for settings in [on_heap(), rocksdb(), in_database(rocksdb())] {
            let mut restored = Operator::open(&settings, &parts, all(), scratch());
            prop_assert_eq!(restored.backend.timers().unwrap(), then);
            let mut fired = restored.apply(&after);
            fired.extend(restored.fire(i64::MAX));
            prop_assert_eq!(&fired, &rest);
        }
    }

    /// R155: timers that are files of a database are restored into either place, at the same parallelism and at another.
    #[test]
    fn timers_in_native_files_go_into_both_places(before in steps(), after in steps(), old in 1u32..4, new in 1u32..4) {
        let mut whole = Operator::fresh(&on_heap());
        whole.apply(&before);
        let mut files = Vec::new();
        for index in 0..old {
            let range = key_group_range(index, old, GROUPS);
            let mut operator = Operator::open(&in_database(incremental()), &Parts::new(), range, scratch());
            operator.apply(&before);
            let (parts, native) = operator.native(1);
            prop_assert!(parts.is_empty(), "timers are in the files alone");
            // What comes after the barrier is not in them.
            operator.apply(&after);
            files.push(native);
        }
        let mut expected = whole.fire(i64::MAX);
        expected.sort();
        for settings in [incremental(), in_database(incremental())] {
            let mut found = Fired::new();
            for index in 0..new {
                let range = key_group_range(index, new, GROUPS);
                let needed: Vec<_> = files
                    .iter()
                    .filter(|(of, _)| of.first <= range.last && range.first <= of.last)
                    .cloned()
                    .collect();
                let mut restored = Operator::open(&settings, &Parts::new(), range, brought_back(&needed));
                let fired = restored.fire(i64::MAX);
                prop_assert!(fired.is_sorted_by_key(|(timestamp, ..)| *timestamp));
                let owned = |key: &u32| range.contains(key_group_of(key.java_hash(), GROUPS));
                prop_assert!(fired.iter().all(|(_, key, _)| owned(key)));
                found.extend(fired);
            }
            found.sort();
            prop_assert_eq!(&found, &expected);
        }
    }

    /// From place to place with each restore, none is lost and none comes back.
    #[test]
    fn timers_move_between_the_places_and_back(first in steps(), second in steps(), third in steps()) {
        let mut model = Operator::fresh(&on_heap());
        let mut operator = Operator::open(&in_database(incremental()), &Parts::new(), all(), scratch());
        for (round, (steps, place)) in
            [(first, TimersPlace::Heap), (second, TimersPlace::RocksDb), (third, TimersPlace::Heap)].into_iter().enumerate()
        {
            prop_assert_eq!(operator.apply(&steps), model.apply(&steps));
            let (parts, files) = operator.native(round as u64 + 1);
            let settings = BackendSettings { timers: place, ..incremental() };
            operator = Operator::open(&settings, &parts, all(), brought_back(&[files]));
            prop_assert_eq!(operator.backend.timers().unwrap(), model.backend.timers().unwrap());
        }
        prop_assert_eq!(operator.fire(i64::MAX), model.fire(i64::MAX));
    }

    /// Whatever the rows of a snapshot are, they are read or refused.
    #[test]
    fn damaged_rows_never_panic(before in steps(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut operator = Operator::fresh(&in_database(rocksdb()));
        operator.apply(&before);
        let mut parts = encode(operator.backend.snapshot().unwrap());
        let mut bytes = parts[1].1.to_vec();
        let at = at.index(bytes.len());
        bytes[at] = value;
        parts[1].1 = bytes.into();
        let settings = in_database(rocksdb());
        let uid = OperatorUid("op".into());
        let restored = KeyedBackend::<u32>::restore(uid, all(), GROUPS, &parts, Some(scratch()), &settings);
        let Ok(mut backend) = restored else { return Ok(()) };
        let Ok(service) = backend.open_context().timer_service::<String>(TimeDomain::Event, "windows") else { return Ok(()) };
        backend.opened();
        let opened = backend.native_calls(NativeStage::Open).is_none_or(|call| (call.run)().is_ok());
        if opened && backend.natively_opened().is_ok() {
            while let Ok(Some(_)) = backend.pop_due(service, i64::MAX) {}
        }
    }
}

/// Timers of a service that the code has no more stay where they are, and are found when it has it again.
#[test]
fn timers_that_nobody_declares_are_carried_along() {
    for settings in [incremental(), in_database(incremental())] {
        let mut operator = Operator::open(&settings, &Parts::new(), all(), scratch());
        for key in 0..20 {
            operator.apply(&[Step::Register(7, key, String::new())]);
        }
        let (parts, files) = operator.native(1);
        let uid = || OperatorUid("op".into());
        let carried = Some(brought_back(&[files]));
        let mut without = KeyedBackend::<u32>::restore(uid(), all(), GROUPS, &parts, carried, &settings).unwrap();
        without.opened();
        (without.native_calls(NativeStage::Open).unwrap().run)().unwrap();
        without.natively_opened().unwrap();
        assert_eq!((without.timers().unwrap(), without.entries().unwrap()), (0, 0));
        let kinds: Vec<StateKind> = crate::state::PartReader::new(&encode(without.snapshot().unwrap())[0].1)
            .unwrap()
            .header
            .states
            .iter()
            .map(|state| state.kind)
            .collect();
        assert_eq!(kinds, [StateKind::Timers]);
        let mut snapshot = ChainSnapshot { checkpoint: CheckpointId(2), ..ChainSnapshot::default() };
        without.add_to(&mut snapshot).unwrap();
        let (parts, files) = (encode(snapshot.parts), take(snapshot.native.pop().unwrap()));
        for settings in [incremental(), in_database(incremental())] {
            let again = brought_back(std::slice::from_ref(&files));
            let mut operator = Operator::open(&settings, &parts, all(), again);
            assert_eq!(operator.fire(7).len(), 20);
        }
    }
}

/// A queue that was closed with its database holds nothing open.
#[test]
fn a_closed_queue_lets_go_of_the_database() {
    let mut operator = Operator::fresh(&in_database(rocksdb()));
    operator.apply(&[Step::Register(7, 1, String::new())]);
    (operator.backend.native_calls(NativeStage::Close).unwrap().run)().unwrap();
    assert_eq!(operator.backend.next_timer(TimeDomain::Event), None);
    assert_eq!(operator.backend.timers().unwrap(), 0);
}

/// R158: timers on the heap beside RocksDB, with full snapshots and with incremental ones (Flink writes them out while the stream waits): the
/// stream waits no longer for a million than for a thousand, and for a small part of the time that they take to write.
#[test]
fn the_stream_does_not_wait_for_the_timers_of_a_snapshot() {
    const FEW: i64 = 1_000;
    const MANY: i64 = 1_000_000;
    for settings in [rocksdb(), incremental()] {
        let mut operator = Operator::open(&settings, &Parts::new(), all(), scratch());
        let mut checkpoint = 0;
        let mut measure = |operator: &mut Operator, expected: i64| {
            let mut best = (Duration::MAX, Duration::MAX);
            for _ in 0..5 {
                checkpoint += 1;
                let mut snapshot = ChainSnapshot { checkpoint: CheckpointId(checkpoint), ..ChainSnapshot::default() };
                let started = Instant::now();
                operator.backend.add_to(&mut snapshot).unwrap();
                let sync = started.elapsed();
                let started = Instant::now();
                let parts = encode(snapshot.parts);
                best = (best.0.min(sync), best.1.min(started.elapsed()));
                snapshot.native.into_iter().for_each(|native| drop(take(native)));
                let sections = parts.iter().flat_map(|(_, bytes)| PartReader::new(bytes).unwrap().sections);
                let written: u32 = sections.map(|section| section.entries).sum();
                assert_eq!(i64::from(written), expected);
            }
            best
        };
        let register = |operator: &mut Operator, instants: std::ops::Range<i64>| {
            for instant in instants {
                let key = u32::try_from(instant % 4_096).unwrap();
                let mut ctx = operator.backend.context(&key).unwrap().unwrap();
                operator.service.register_in(&mut ctx, instant, &String::new()).unwrap();
            }
        };
        register(&mut operator, 0..FEW);
        let few = measure(&mut operator, FEW);
        register(&mut operator, FEW..MANY);
        let many = measure(&mut operator, MANY);
        let what = format!("incremental {}: {few:?} for {FEW}, {many:?} for {MANY}", settings.incremental);
        println!("{what} (sync, beside the stream)");
        assert!(many.0 < few.0 * 20 + Duration::from_millis(2), "{what}");
        assert!(many.0 * 20 < many.1, "{what}");
    }
}

/// R156: timers on the heap take memory with each of them; those in the database spill to its files, and a bounded number of each key group is
/// in memory, however many there are. They fire alike.
#[test]
fn timers_in_the_database_do_not_take_memory_with_their_number() {
    let mut taken = Vec::new();
    for count in [2_000, 20_000] {
        let mut bytes = Vec::new();
        for settings in [rocksdb(), in_database(rocksdb())] {
            let mut operator = Operator::open(&settings, &Parts::new(), all(), scratch());
            for n in 0..count {
                // In no order.
                let step = Step::Register(n * 7_919 % count, u32::try_from(n % 4_096).unwrap(), String::new());
                assert_eq!(operator.apply(&[step]), []);
            }
            let in_memory = operator.backend.timer_bytes_in_memory();
            assert_eq!(operator.backend.timers().unwrap(), count as u64);
            let fired = operator.fire(i64::MAX);
            assert!(fired.is_sorted_by_key(|(timestamp, ..)| *timestamp) && fired.len() == count as usize);
            assert_eq!(operator.backend.timer_bytes_in_memory(), 0);
            bytes.push(in_memory);
        }
        taken.push(bytes);
    }
    let [few, many] = &taken[..] else { panic!() };
    assert!(many[0] > few[0] * 9, "on the heap: {taken:?}");
    // Three of each group, which is what tests keep.
    assert!(many[1] == few[1] && many[1] < u64::from(GROUPS) * 3 * 16, "in the database: {taken:?}");
}

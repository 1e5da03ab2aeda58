//! What waits at a barrier goes into its snapshot and nothing else does, whoever comes to write it, and when.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    collected::Collected,
    database::{Database, FrozenDatabase, WORKING, family_of},
    expiry::Expiring,
    front::{Entry, Front},
    recent::{Recent, WAITING_BYTES},
    tests::{barrier, from_files, incremental, rocksdb, take},
};
use crate::state::{
    BackendSettings, RocksDbSettings, StateProblem,
    rocksdb_options::host::DatabaseHost,
    tests::{Change, Operator, Parts, all_groups, apply_all, assert_is, directory, encode},
};

const STATE: &str = "state";
/// A state that writes to the database at once.
const AT_ONCE: &str = "at-once";

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

fn settings(recent_bytes: Option<u64>) -> RocksDbSettings {
    let host = DatabaseHost { fleeting: true, ..DatabaseHost::default() };
    RocksDbSettings { recent_bytes, host, ..RocksDbSettings::default() }
}

fn database(settings: &RocksDbSettings) -> std::sync::Arc<Database> {
    let families = vec![family_of(STATE), family_of(AT_ONCE)];
    let opened = Database::open(directory(), WORKING, settings, families, &Expiring::default());
    std::sync::Arc::new(opened.expect("it opens"))
}

fn read(recent: &Recent, database: &Database, key: &[u8]) -> Option<Vec<u8>> {
    recent.get(database, key, |value| Ok(value.to_vec())).expect("it is read")
}

/// What a state was at a barrier.
fn contents(frozen: &FrozenDatabase, state: &str) -> Contents {
    let mut found = Contents::new();
    let scanned = frozen.scan(state, &[], vec![u8::MAX; 16], |key, value| {
        found.insert(key.to_vec(), value.to_vec());
        Ok(true)
    });
    scanned.expect("it is read");
    found
}

#[derive(Clone, Debug)]
enum Step {
    Get(u8),
    Put(u8, usize),
    Delete(u8),
    AtOnce(u8),
    WriteBack,
    Barrier,
    /// Whoever writes the snapshot of the last barrier comes to it.
    Read,
    GiveUp,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![4 => 0usize..20, 1 => 20usize..600];
    let step = prop_oneof![
        6 => (0u8..24).prop_map(Step::Get),
        12 => (0u8..24, length).prop_map(|(key, length)| Step::Put(key, length)),
        4 => (0u8..24).prop_map(Step::Delete),
        1 => (0u8..4).prop_map(Step::AtOnce),
        1 => Just(Step::WriteBack),
        3 => Just(Step::Barrier),
        2 => Just(Step::Read),
        1 => Just(Step::GiveUp),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is read, written, let go of or written at once before somebody comes for the snapshot: it holds what was there at
    /// its barrier, and nobody reads anything but what was written last.
    #[test]
    fn a_snapshot_holds_what_was_there_at_its_barrier(limit in 0u64..6_000, steps in steps()) {
        let (database, recent) = (database(&settings(Some(limit))), Recent::new(STATE));
        let (mut model, mut at_once) = (Contents::new(), Contents::new());
        let mut snapshot = None;
        for (number, step) in steps.iter().enumerate() {
            let value = |length| vec![u8::try_from(number).expect("fewer than 200"); length];
            match step {
                Step::Get(key) => prop_assert_eq!(read(&recent, &database, &[*key]), model.get(&[*key][..]).cloned()),
                Step::Put(key, length) => {
                    recent.put(&database, &[*key], &value(*length)).expect("it is written");
                    model.insert(vec![*key], value(*length));
                }
                Step::Delete(key) => {
                    recent.delete(&database, &[*key]).expect("it is deleted");
                    model.remove(&[*key][..]);
                }
                Step::AtOnce(key) => {
                    database.put(AT_ONCE, &[*key], &value(3)).expect("it is written");
                    at_once.insert(vec![*key], value(3));
                }
                Step::WriteBack => recent.write_back(&database).expect("it is written"),
                Step::Barrier => {
                    let frozen = FrozenDatabase::of_the_barrier(&database, [recent.front()]).expect("it is taken");
                    snapshot = Some((frozen, model.clone(), at_once.clone()));
                }
                Step::Read => {
                    if let Some((frozen, model, at_once)) = &snapshot {
                        prop_assert_eq!(&contents(frozen, STATE), model);
                        prop_assert_eq!(&contents(frozen, AT_ONCE), at_once);
                    }
                }
                Step::GiveUp => snapshot = None,
            }
        }
        if let Some((frozen, model, _)) = &snapshot {
            prop_assert_eq!(&contents(frozen, STATE), model);
        }
        recent.write_back(&database).expect("it is written");
        prop_assert_eq!(&contents(&FrozenDatabase::of(&database), STATE), &model);
    }
}

#[derive(Clone, Debug)]
enum OfAFront {
    Write(u8, u8),
    /// Of the barrier, some entries.
    Collect,
    /// Of the era, who has waited longest.
    WriteSome,
    Barrier,
}

proptest! {
    /// Who collects comes and goes between the accesses of the stream, and finds of each entry what it was at the barrier.
    #[test]
    fn entries_are_collected_as_they_were_at_the_barrier(
        steps in prop::collection::vec(
            prop_oneof![
                8 => (0u8..12, any::<u8>()).prop_map(|(key, value)| OfAFront::Write(key, value)),
                3 => Just(OfAFront::Collect),
                1 => Just(OfAFront::WriteSome),
                1 => Just(OfAFront::Barrier),
            ],
            0..120,
        ),
    ) {
        let mut front = Front::default();
        let (mut written, mut expected) = (BTreeMap::new(), None::<BTreeMap<u8, u8>>);
        let mut collected = Collected::default();
        for step in steps {
            match step {
                OfAFront::Write(key, value) => {
                    match front.find(u64::from(key % 4), &[key]) {
                        Some(at) => front.write(at, Some(&[value]), front.entries[at as usize].room),
                        None => {
                            let room = Entry::room_for(&[key], Some(&[value])).expect("two bytes");
                            let at = front.insert(Entry::new(u64::from(key % 4), &[key], Some(&[value]), room));
                            front.changed(at);
                        }
                    }
                    written.insert(key, value);
                }
                OfAFront::Collect => {
                    let Some(then) = &expected else { continue };
                    if !front.collect_some(&mut collected) {
                        // What was written again may be there twice, and is the same.
                        prop_assert_eq!(&pairs(&collected), then);
                        front.settled();
                        (collected, expected) = (Collected::default(), None);
                    }
                }
                OfAFront::WriteSome => {
                    // Nothing of after a barrier is written before what is of before it.
                    if expected.is_none() {
                        let (number, some) = front.longest_waiting(200);
                        for (key, value) in pairs(&some) {
                            prop_assert_eq!(written.remove(&key), Some(value));
                        }
                        front.written(number);
                    }
                }
                OfAFront::Barrier => {
                    if expected.is_none() {
                        prop_assert_eq!(front.hand_over(), !written.is_empty());
                        expected = (!written.is_empty()).then(|| std::mem::take(&mut written));
                    }
                }
            }
            let held: BTreeSet<u8> = (0..12).filter(|key| {
                front.find(u64::from(key % 4), &[*key]).is_some_and(|at| front.is_held(at))
            }).collect();
            let then = expected.iter().flat_map(|then| then.keys()).filter(|key| !written.contains_key(key));
            prop_assert_eq!(held, then.copied().collect::<BTreeSet<_>>());
        }
    }
}

/// Keys with what was collected of them, each once or always the same.
fn pairs(collected: &Collected) -> BTreeMap<u8, u8> {
    let mut found = BTreeMap::new();
    collected.for_each(|key, value| {
        let value = value.expect("nothing was deleted")[0];
        assert!(found.insert(key[0], value).is_none_or(|before| before == value), "{key:?} was {value} and another");
    });
    found
}

/// R144: the barrier itself writes nothing, however much waits; who writes the snapshot does, or who cannot wait for that.
#[test]
fn a_barrier_writes_nothing_and_the_next_write_to_the_database_does() {
    let entries = |database: &Database| {
        let family = database.family(STATE).expect("declared");
        database.rocksdb().property_int_value_cf(family, "rocksdb.num-entries-active-mem-table").unwrap()
    };
    for at_once in [false, true] {
        let (database, recent) = (database(&settings(None)), Recent::new(STATE));
        recent.set_may_wait(WAITING_BYTES);
        for number in 0..10_000u32 {
            recent.put(&database, &number.to_be_bytes(), b"value").expect("it waits");
        }
        let frozen = FrozenDatabase::of_the_barrier(&database, [recent.front()]).expect("it is taken");
        assert_eq!(entries(&database), Some(0));
        assert!(database.handover().is_pending());
        if at_once {
            database.put(AT_ONCE, b"key", b"value").expect("it is written");
        } else {
            assert_eq!(contents(&frozen, STATE).len(), 10_000);
        }
        assert_eq!(entries(&database), Some(10_000));
        assert!(!database.handover().is_pending());
        assert_eq!((contents(&frozen, STATE).len(), contents(&frozen, AT_ONCE).len()), (10_000, 0));
    }
}

/// What cannot be written of what was handed over fails the snapshot and whoever writes next, and is not lost.
#[test]
fn what_was_handed_over_and_cannot_be_written_stays() {
    let directory = directory();
    let families = vec![family_of(STATE)];
    let made = Database::open(directory.clone(), WORKING, &settings(None), families.clone(), &Expiring::default());
    made.expect("it opens").rocksdb().flush().expect("it is empty");
    let database = Database::open_to_read(directory, WORKING, &settings(None), families).expect("it opens");
    let (database, recent) = (std::sync::Arc::new(database), Recent::new(STATE));
    recent.put(&database, b"key", b"value").expect("it waits");
    let frozen = FrozenDatabase::of_the_barrier(&database, [recent.front()]).expect("nothing is written");
    for _ in 0..2 {
        for error in [
            frozen.scan(STATE, &[], vec![u8::MAX], |_, _| Ok(true)).expect_err("it is only read"),
            recent.write_back(&database).expect_err("it is only read"),
            database.put(STATE, b"other", b"value").expect_err("it is only read"),
            FrozenDatabase::of_the_barrier(&database, [recent.front()]).map(drop).expect_err("it is only read"),
        ] {
            assert!(matches!(error.problem(), StateProblem::Database(_)), "{error}");
        }
        assert_eq!(read(&recent, &database, b"key").as_deref(), Some(&b"value"[..]));
    }
}

fn roomy(settings: BackendSettings) -> BackendSettings {
    BackendSettings { rocksdb: RocksDbSettings { recent_bytes: None, ..settings.rocksdb }, ..settings }
}

fn changes(of: &str, count: u64) -> Vec<(String, Change)> {
    let change = |n: u64| match n % 3 {
        0 => Change::Add(n),
        1 => Change::Insert((n % 5) as u8, format!("{of}-{n}")),
        _ => Change::TakeValue,
    };
    (0..count).map(|n| (format!("k{}", n * 7 % 30), change(n))).collect()
}

/// Snapshots of both kinds, one after the other and at the same time: each is what was there at its barrier.
#[test]
fn snapshots_that_overlap_hold_what_was_there_at_their_barriers() {
    let mut operator = Operator::open_in(&roomy(incremental()), &Parts::new(), all_groups()).unwrap();
    let mut model = BTreeMap::new();
    let mut at_barriers = Vec::new();
    // Full while a native one is not made yet, native while a full one is not written yet, and two of a kind.
    for (number, native) in [true, false, true, true, false, false].into_iter().enumerate() {
        apply_all(&mut operator, &mut model, &changes(&format!("{number}"), 60));
        let (mut files, mut parts) = (None, None);
        if native {
            files = Some(barrier(&mut operator, number as u64 + 1));
        } else {
            parts = Some(operator.backend.snapshot().unwrap());
        }
        at_barriers.push((files, parts, model.clone()));
        // Not in it.
        apply_all(&mut operator, &mut model, &changes("after", 10));
    }
    assert_is(&mut operator, &model);
    for (files, parts, then) in at_barriers {
        if let Some(native) = files {
            assert_is(&mut from_files(&[take(native)], all_groups(), false), &then);
        }
        if let Some(parts) = parts {
            let parts = encode(parts);
            assert_is(&mut Operator::open_in(&roomy(rocksdb()), &parts, all_groups()).unwrap(), &then);
        }
    }
}

/// Who was to write a snapshot may be told that nobody needs it: what waited is in the next one.
#[test]
fn what_was_handed_over_to_a_snapshot_that_was_given_up_is_in_the_next() {
    let mut operator = Operator::open_in(&roomy(incremental()), &Parts::new(), all_groups()).unwrap();
    let mut model = BTreeMap::new();
    for number in 1..4 {
        apply_all(&mut operator, &mut model, &changes(&format!("{number}"), 40));
        drop(barrier(&mut operator, number));
        apply_all(&mut operator, &mut model, &changes("full", 20));
        drop(operator.backend.snapshot().unwrap());
    }
    let last = barrier(&mut operator, 4);
    assert_is(&mut operator, &model);
    assert_is(&mut from_files(&[take(last)], all_groups(), false), &model);
}

/// The stream goes on while another thread collects and writes, and each snapshot is what was there at its barrier.
#[test]
#[allow(clippy::disallowed_methods, reason = "snapshots are written on another thread, as they are in a TaskManager")]
fn the_stream_goes_on_while_a_snapshot_is_written() {
    let (database, recent) = (database(&settings(None)), Recent::new(STATE));
    recent.set_may_wait(WAITING_BYTES);
    let mut model = Contents::new();
    for round in 0..20u32 {
        for number in 0..2_000u32 {
            let (key, value) = (number.wrapping_mul(round + 3) % 3_000, number.wrapping_add(round));
            recent.put(&database, &key.to_be_bytes(), &value.to_be_bytes()).expect("it is written");
            model.insert(key.to_be_bytes().to_vec(), value.to_be_bytes().to_vec());
        }
        let frozen = FrozenDatabase::of_the_barrier(&database, [recent.front()]).expect("it is taken");
        let then = model.clone();
        let found = std::thread::scope(|scope| {
            let found = scope.spawn(|| contents(&frozen, STATE));
            for number in 0..2_000u32 {
                let key = number.wrapping_mul(7) % 3_000;
                assert_eq!(
                    read(&recent, &database, &key.to_be_bytes()),
                    model.get(key.to_be_bytes().as_slice()).cloned()
                );
                recent.put(&database, &key.to_be_bytes(), &round.to_be_bytes()).expect("it is written");
                model.insert(key.to_be_bytes().to_vec(), round.to_be_bytes().to_vec());
                if number == 1_000 && round % 4 == 0 {
                    database.put(AT_ONCE, b"key", b"value").expect("it is written");
                }
            }
            found.join().expect("it is read")
        });
        assert!(found == then, "round {round}: another state than at the barrier");
    }
}

//! Recent entries: nobody can tell that they are in front of the database, and they stay within their bounds.

#![allow(clippy::disallowed_methods, reason = "files are made on another thread, as they are in a TaskManager")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    database::{Database, WORKING, family_of},
    expiry::Expiring,
    front::ENTRY_OVERHEAD_BYTES,
    options_tests::configured,
    recent::{Recent, WAITING_BESIDE_OTHERS_BYTES},
    slot_memory::SlotMemory,
    tests::{barrier, from_files, incremental, rocksdb, take},
};
use crate::state::{
    BackendSettings, RocksDbSettings, StateError, StateProblem,
    rocksdb_options::{host::DatabaseHost, memory::MemoryBudget},
    tests::{Change, Operator, Parts, all_groups, apply_all, assert_is, directory, encode},
};

const STATE: &str = "state";

fn database(settings: &RocksDbSettings) -> Database {
    Database::open(directory(), WORKING, settings, vec![family_of(STATE)], &Expiring::default()).expect("it opens")
}

/// What a database holds itself.
fn contents(database: &Database) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut found = BTreeMap::new();
    let scanned = database.scan(STATE, &[], None, |key, value| {
        found.insert(key.to_vec(), value.to_vec());
        Ok(true)
    });
    scanned.expect("it is read");
    found
}

fn read(recent: &Recent, database: &Database, key: &[u8]) -> Option<Vec<u8>> {
    recent.get(database, key, |value| Ok(value.to_vec())).expect("it is read")
}

#[derive(Clone, Debug)]
enum Access {
    Get(u8),
    Put(u8, usize),
    Delete(u8),
    WriteBack,
}

fn accesses() -> impl Strategy<Value = Vec<Access>> {
    // Small enough to be kept, as large as to be written past what is kept, and between: keys grow out of their places.
    let length = prop_oneof![4 => 0usize..20, 1 => 20usize..600];
    let access = prop_oneof![
        6 => (0u8..24).prop_map(Access::Get),
        8 => (0u8..24, length).prop_map(|(key, length)| Access::Put(key, length)),
        3 => (0u8..24).prop_map(Access::Delete),
        1 => Just(Access::WriteBack),
    ];
    prop::collection::vec(access, 0..200)
}

/// Keys of several lengths, some the beginnings of others.
fn key(number: u8) -> Vec<u8> {
    [&[number % 3 + 1; 10][..usize::from(number % 10) + 1], &[number]].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever little there is room for, a read gives what was written last, and what is written back is all there is, and no more;
    /// and the room is never exceeded.
    #[test]
    fn recent_entries_are_what_the_database_would_be(limit in 0u64..4_000, accesses in accesses()) {
        let memory = SlotMemory::new(&MemoryBudget::default()).expect("bounded");
        let host = DatabaseHost { memory: Some(memory.clone()), fleeting: true, ..DatabaseHost::default() };
        let settings = RocksDbSettings { recent_bytes: Some(limit), host, ..RocksDbSettings::default() };
        let (database, recent) = (database(&settings), Recent::new(STATE));
        let mut model = BTreeMap::new();
        for (number, access) in accesses.iter().enumerate() {
            match access {
                Access::Get(of) => {
                    prop_assert_eq!(read(&recent, &database, &key(*of)), model.get(&key(*of)).cloned());
                }
                Access::Put(of, length) => {
                    let value = vec![u8::try_from(number).expect("fewer than 200"); *length];
                    recent.put(&database, &key(*of), &value).expect("it is written");
                    model.insert(key(*of), value);
                }
                Access::Delete(of) => {
                    recent.delete(&database, &key(*of)).expect("it is deleted");
                    model.remove(&key(*of));
                }
                Access::WriteBack => {
                    recent.write_back(&database).expect("it is written");
                    prop_assert_eq!(&contents(&database), &model);
                }
            }
            prop_assert!(memory.recent_bytes() <= limit, "{} of {limit} bytes", memory.recent_bytes());
        }
        recent.write_back(&database).expect("it is written");
        prop_assert_eq!(&contents(&database), &model);
        drop(recent);
        prop_assert_eq!(memory.recent_bytes(), 0);
    }
}

/// One of several states: an access, or it is opened anew.
fn accesses_of_states() -> impl Strategy<Value = Vec<(usize, Option<Access>)>> {
    let access = accesses().prop_map(|of| of.into_iter().map(Some).collect::<Vec<_>>());
    let of_a_state = (0usize..3, access).prop_map(|(state, accesses)| {
        let again = accesses.len() % 3 == 0;
        accesses
            .into_iter()
            .take(30)
            .chain(again.then_some(None))
            .map(move |access| (state, access))
            .collect::<Vec<_>>()
    });
    prop::collection::vec(of_a_state, 0..12).prop_map(|turns| turns.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// States of a slot that come and go share what there is: each is what its database would be, and together they never have more.
    #[test]
    fn states_of_a_slot_share_the_room(accesses in accesses_of_states()) {
        // What is left for recent entries: five kilobytes.
        let budget = MemoryBudget { per_slot: Some(2 << 20), write_buffer_ratio: 0.99, ..MemoryBudget::default() };
        let memory = SlotMemory::new(&budget).expect("bounded");
        let most = {
            let host = DatabaseHost { memory: Some(memory.clone()), fleeting: true, ..DatabaseHost::default() };
            let alone = database(&RocksDbSettings { host, ..RocksDbSettings::default() }).recent_share().limit();
            prop_assert!((4_000..8_000).contains(&alone), "{alone}");
            alone
        };
        let host = DatabaseHost { memory: Some(memory.clone()), fleeting: true, ..DatabaseHost::default() };
        let settings = RocksDbSettings { host, ..RocksDbSettings::default() };
        let mut states = [0, 1, 2].map(|_| (database(&settings), Recent::new(STATE), BTreeMap::new()));
        for (number, (state, access)) in accesses.iter().enumerate() {
            let (database, recent, model) = &mut states[*state];
            match access {
                Some(Access::Get(of)) => {
                    prop_assert_eq!(read(recent, database, &key(*of)), model.get(&key(*of)).cloned());
                }
                Some(Access::Put(of, length)) => {
                    let value = vec![u8::try_from(number % 256).expect("a byte"); *length];
                    recent.put(database, &key(*of), &value).expect("it is written");
                    model.insert(key(*of), value);
                }
                Some(Access::Delete(of)) => {
                    recent.delete(database, &key(*of)).expect("it is deleted");
                    model.remove(&key(*of));
                }
                Some(Access::WriteBack) => recent.write_back(database).expect("it is written"),
                None => {
                    recent.write_back(database).expect("it is written");
                    *recent = Recent::new(STATE);
                }
            }
            prop_assert!(memory.recent_bytes() <= most, "{} of {most} bytes", memory.recent_bytes());
        }
        for (database, recent, model) in &states {
            recent.write_back(database).expect("it is written");
            prop_assert_eq!(&contents(database), model);
        }
    }
}

/// Who had everything lets go of it, and of the places of what is gone, when others come.
#[test]
fn a_state_that_others_join_becomes_small() {
    let memory =
        SlotMemory::new(&MemoryBudget { per_slot: Some(4 << 20), ..MemoryBudget::default() }).expect("bounded");
    let host = DatabaseHost { memory: Some(memory.clone()), fleeting: true, ..DatabaseHost::default() };
    let settings = RocksDbSettings { host, ..RocksDbSettings::default() };
    let states = [(); 8].map(|()| (database(&settings), Recent::new(STATE)));
    let put = |(database, recent): &(Database, Recent), number: u32| {
        recent.put(database, &number.to_be_bytes(), b"value").expect("it is written");
    };
    (0..10_000).for_each(|number| put(&states[0], number));
    let (places, bytes) = (states[0].1.places(), memory.recent_bytes());
    for state in &states[1..] {
        put(state, 1);
    }
    // A write is enough, also of what it has: nobody has to wait for a barrier.
    put(&states[0], 9_999);
    assert!(memory.recent_bytes() < bytes / 6, "{} of {bytes} bytes", memory.recent_bytes());
    let (database, recent) = &states[0];
    recent.write_back(database).expect("it is written");
    assert!(recent.places() < places / 4, "{} of {places} places", recent.places());
    for number in 0..10_000u32 {
        assert_eq!(read(recent, database, &number.to_be_bytes()).as_deref(), Some(&b"value"[..]));
    }
    assert_eq!(contents(database).len(), 10_000);
}

/// Each entry is accounted with its key, its value and what it takes besides, also when its value has become longer or shorter.
#[test]
fn what_is_kept_is_accounted_for() {
    let memory =
        SlotMemory::new(&MemoryBudget { per_slot: Some(64 << 20), ..MemoryBudget::default() }).expect("bounded");
    let host = DatabaseHost { memory: Some(memory.clone()), fleeting: true, ..DatabaseHost::default() };
    let settings = RocksDbSettings { host, ..RocksDbSettings::default() };
    let (database, recent) = (database(&settings), Recent::new(STATE));
    let mut longest = 0;
    for length in [10u64, 1_000, 500, 2_000] {
        for number in 0..100u32 {
            recent.put(&database, &number.to_be_bytes(), &vec![1; length as usize]).expect("it is written");
        }
        longest = length.max(longest);
        // Room that an entry once had stays its own; a length is rounded up to the next eight bytes.
        let least = 100 * (ENTRY_OVERHEAD_BYTES + 4 + longest);
        let accounted = memory.recent_bytes();
        assert!((least..least + 800).contains(&accounted), "{accounted} bytes for {least}");
    }
}

/// Where others write to the database at once they have to wait for what waits here, so it is little, however much was written.
#[test]
fn no_more_waits_than_others_can_bear() {
    let host = DatabaseHost { fleeting: true, ..DatabaseHost::default() };
    let settings = RocksDbSettings { host, ..RocksDbSettings::default() };
    let (database, recent) = (database(&settings), Recent::new(STATE));
    let most = (WAITING_BESIDE_OTHERS_BYTES / ENTRY_OVERHEAD_BYTES) as usize;
    for number in 0..20_000u32 {
        recent.put(&database, &number.to_be_bytes(), b"value").expect("it is written");
        if number % 2_000 == 0 {
            let waiting = number as usize + 1 - contents(&database).len();
            assert!(waiting <= most, "{waiting} entries wait");
        }
    }
    assert!(contents(&database).len() < 20_000, "some do");
    // The same again and again costs the database nothing.
    recent.write_back(&database).expect("it is written");
    let written = || {
        let family = database.family(STATE).expect("declared");
        database.rocksdb().property_int_value_cf(family, "rocksdb.num-entries-active-mem-table").expect("a property")
    };
    let before = written();
    for round in 0..100_000u32 {
        recent.put(&database, &(round % 10).to_be_bytes(), &round.to_be_bytes()).expect("it is written");
    }
    assert_eq!(written(), before);
}

/// Who could write something and did not lose it hears so each time that he looks at the database, and not before.
#[test]
fn what_cannot_be_written_back_stays_and_is_no_secret() {
    let directory = directory();
    let host = DatabaseHost { fleeting: true, ..DatabaseHost::default() };
    let settings = RocksDbSettings { host, ..RocksDbSettings::default() };
    let families = vec![family_of(STATE)];
    let database = Database::open(directory.clone(), WORKING, &settings, families.clone(), &Expiring::default());
    database.expect("it opens").rocksdb().flush().expect("it is empty");
    let database = Database::open_to_read(directory, WORKING, &settings, families).expect("it opens");
    let recent = Recent::new(STATE);
    recent.put(&database, b"key", b"value").expect("it waits");
    for _ in 0..2 {
        let error = recent.write_back(&database).expect_err("the database is only read");
        assert!(matches!(error.problem(), StateProblem::Database(_)), "{error}");
        assert_eq!(read(&recent, &database, b"key").as_deref(), Some(&b"value"[..]));
    }
}

/// R100: what is too large is refused when it is written, not when it is written back; what was there stays.
#[test]
fn what_is_too_large_never_waits() {
    let host = DatabaseHost { fleeting: true, ..DatabaseHost::default() };
    let settings = RocksDbSettings { max_entry_bytes: 10, host, ..RocksDbSettings::default() };
    let (database, recent) = (database(&settings), Recent::new(STATE));
    recent.put(&database, b"key", b"value").expect("it is small");
    let too_large = |result: Result<(), StateError>, what| {
        let error = result.expect_err("too large");
        let found = error.problem();
        assert!(matches!(found, StateProblem::TooLarge { what: w, bytes: 11, .. } if *w == what), "{error}");
    };
    too_large(recent.put(&database, b"key", &[1; 11]), "value");
    too_large(recent.put(&database, &[1; 11], b"value"), "key");
    assert_eq!(read(&recent, &database, b"key").as_deref(), Some(&b"value"[..]));
    recent.write_back(&database).expect("it is written");
    assert_eq!(contents(&database).len(), 1);
}

/// R164: what states keep in front of their databases is part of the slot's memory, and can be configured.
#[test]
fn recent_entries_are_bounded_and_can_be_switched_off() {
    assert_eq!(configured("").recent_bytes, None);
    let budget = MemoryBudget { per_slot: Some(2 << 20), ..MemoryBudget::default() };
    // A fourth of what caches have beside write buffers.
    for (text, most) in [("", 256 << 10), ("state.backend.rocksdb.recent-entries.size: 10 kb\n", 20 << 10), (NONE, 0)] {
        let memory = SlotMemory::new(&budget).expect("bounded");
        let host = DatabaseHost { memory: Some(memory.clone()), fleeting: true, ..DatabaseHost::default() };
        let settings = RocksDbSettings { host, ..configured(text) };
        let states = [0, 1].map(|_| (database(&settings), Recent::new(STATE)));
        for number in 0..8_000u32 {
            for (database, recent) in &states {
                recent.put(database, &number.to_be_bytes(), b"value").expect("it is written");
            }
            assert!(memory.recent_bytes() <= most, "{text:?}: {} bytes", memory.recent_bytes());
        }
        assert!(memory.recent_bytes() >= most / 10 * 9, "{text:?}: {} bytes", memory.recent_bytes());
        for (database, recent) in &states {
            recent.write_back(database).expect("it is written");
            assert_eq!(contents(database).len(), 8_000, "{text:?}");
        }
    }
}

const NONE: &str = "state.backend.rocksdb.recent-entries.size: 0 b\n";

/// With room for all of them nothing is written but at the barrier, where each kind of snapshot needs it.
#[test]
fn snapshots_of_each_kind_have_what_waits() {
    let roomy = |settings: BackendSettings| {
        let rocksdb = RocksDbSettings { recent_bytes: None, ..settings.rocksdb };
        BackendSettings { rocksdb, ..settings }
    };
    let changes: Vec<(String, Change)> = (0..50)
        .flat_map(|n| {
            let key = format!("k{}", n % 20);
            [
                (key.clone(), Change::Add(n)),
                (key.clone(), Change::Insert((n % 4) as u8, format!("{n}"))),
                (key, if n % 7 == 0 { Change::TakeValue } else { Change::Remove(3) }),
            ]
        })
        .collect();
    let mut model = BTreeMap::new();
    let mut operator = Operator::open_in(&roomy(rocksdb()), &Parts::new(), all_groups()).unwrap();
    apply_all(&mut operator, &mut model, &changes);
    let parts = encode(operator.backend.snapshot().unwrap());
    assert_is(&mut Operator::open_in(&roomy(rocksdb()), &parts, all_groups()).unwrap(), &model);

    let mut operator = Operator::open_in(&roomy(incremental()), &Parts::new(), all_groups()).unwrap();
    apply_all(&mut operator, &mut BTreeMap::new(), &changes);
    let native = barrier(&mut operator, 1);
    let then = model.clone();
    // Not in it.
    apply_all(&mut operator, &mut model, &[("k1".to_string(), Change::Set(7)), ("new".to_string(), Change::Set(8))]);
    assert_is(&mut from_files(&[take(native)], all_groups(), false), &then);
    assert_is(&mut operator, &model);
}

/// What waits is written in batches, while another thread makes the files of the barrier before.
#[test]
fn batches_never_get_into_the_files_of_the_barrier_before() {
    let settings = incremental();
    let rocksdb = RocksDbSettings { recent_bytes: None, write_buffer_bytes: 64 << 10, ..settings.rocksdb };
    let settings = BackendSettings { rocksdb, ..settings };
    let mut operator = Operator::open_in(&settings, &Parts::new(), all_groups()).unwrap();
    let changes = |round: usize| -> Vec<(String, Change)> {
        let change =
            |n: usize| (format!("k{}", n % 50), Change::Insert((n % 40) as u8, format!("{round}").repeat(100)));
        (0..2_000).map(change).collect()
    };
    let mut model = BTreeMap::new();
    for round in 0..6 {
        apply_all(&mut operator, &mut model, &changes(round));
        let then = model.clone();
        let native = barrier(&mut operator, round as u64 + 1);
        let files = std::thread::scope(|scope| {
            let files = scope.spawn(|| take(native));
            apply_all(&mut operator, &mut model, &changes(round + 100));
            // Written back, many or few.
            operator.backend.snapshot().unwrap();
            files.join().expect("the files are made")
        });
        assert_is(&mut from_files(&[files], all_groups(), false), &then);
    }
    assert_is(&mut operator, &model);
}

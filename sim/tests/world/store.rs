//! Primary storage and its faults.

use std::{collections::BTreeSet, rc::Rc, time::Duration};

use bytes::Bytes;
use runtime::platform::{Platform, StoreError};
use sim::{Effect, StoreFault, StoreFaultKind, StoreOperation, World};

use crate::support::*;

async fn create(platform: &Platform, name: &str) -> Result<(), StoreError> {
    let parts = vec![Bytes::from_static(b"01234"), Bytes::from_static(b"56789")];
    platform.primary.create(&object(name), parts, platform.clock.now() + secs(1)).await
}

/// Creates each object once and notes what came of it.
fn creator(world: &World, names: &'static [&'static str]) -> Notes {
    let notes = Notes::default();
    let told = notes.clone();
    launch(world, "p", move |platform| {
        let notes = told.clone();
        async move {
            for name in names {
                notes.add(match create(&platform, name).await {
                    Ok(()) => format!("{name} created"),
                    Err(error) => format!("{name} {error}"),
                });
            }
        }
    });
    notes
}

fn fault(kind: StoreFaultKind, name: &str) -> StoreFault {
    StoreFault { operation: Some(StoreOperation::Create), name_contains: name.to_string(), kind, count: 1 }
}

fn names(world: &World) -> Vec<String> {
    world.store().list("").iter().map(|meta| meta.name.to_string()).collect()
}

#[test]
fn objects_are_created_once_read_listed_and_deleted() {
    in_world(1, |world| async move {
        world.inputs().put("in.csv", "a,b,c");
        launch(&world, "p", |platform| async move {
            let by = || platform.clock.now() + secs(1);
            create(&platform, "a/1").await.expect("create");
            assert_eq!(create(&platform, "a/1").await, Err(StoreError::Exists));
            create(&platform, "ab").await.expect("create");
            assert_eq!(platform.primary.read(&object("a/1"), None, by()).await, Ok(Bytes::from_static(b"0123456789")));
            assert_eq!(platform.primary.read(&object("a/1"), Some(8..20), by()).await, Ok(Bytes::from_static(b"89")));
            assert_eq!(platform.primary.read(&object("x"), None, by()).await, Err(StoreError::Absent));
            assert_eq!(platform.primary.list("a/", by()).await.expect("list").len(), 1);
            assert_eq!(platform.primary.list("a", by()).await.expect("list").len(), 2);
            platform.primary.delete(&object("a/1"), by()).await.expect("delete");
            platform.primary.delete(&object("a/1"), by()).await.expect("nothing to delete");
            assert_eq!(platform.inputs.length("in.csv").await, Ok(5));
            assert_eq!(platform.inputs.read("in.csv", 2..100).await, Ok(Bytes::from_static(b"b,c")));
            assert_eq!(platform.inputs.length("nothing").await, Err(StoreError::Absent));
            mark(&platform, "done");
        });
        let seen = Notes::default();
        let told = seen.clone();
        world.store().subscribe(Rc::new(move |world, effect| {
            // Reads are told, but not kept.
            assert!(effect.effect == Effect::Read || world.store().log().last() == Some(effect));
            told.add(format!("{} {:?} by {}#{}", effect.name, effect.effect, effect.process, effect.incarnation));
        }));
        world.sleep(secs(5)).await;
        assert_eq!((world.events(), names(&world)), (1, vec!["ab".to_string()]));
        assert_eq!(
            seen.all(),
            [
                "a/1 Created by p#1",
                "a/1 Refused by p#1",
                "ab Created by p#1",
                "a/1 Read by p#1",
                "a/1 Read by p#1",
                "a/1 Deleted by p#1",
                "a/1 NothingToDelete by p#1"
            ]
        );
    });
}

#[test]
fn each_kind_of_fault_says_what_the_client_can_know() {
    in_world(1, |world| async move {
        let store = world.store();
        let kinds = [
            ("before", StoreFaultKind::ErrorBefore),
            ("after", StoreFaultKind::ErrorAfter),
            ("slow-before", StoreFaultKind::TimeoutBefore),
            ("slow-after", StoreFaultKind::TimeoutAfter),
            ("late", StoreFaultKind::Delayed(secs(2))),
            ("throttled", StoreFaultKind::Throttled(ms(7))),
            ("denied", StoreFaultKind::Denied),
            ("permanent", StoreFaultKind::Permanent),
        ];
        // Each name contains its own fault's name at its end only.
        let ids: Vec<_> = kinds.iter().map(|(name, kind)| store.inject(fault(*kind, &format!("/{name}")))).collect();
        let notes = creator(
            &world,
            &[
                "x/before",
                "x/after",
                "x/slow-before",
                "x/slow-after",
                "x/late",
                "x/throttled",
                "x/denied",
                "x/permanent",
                "x/fine",
            ],
        );
        world.sleep(secs(20)).await;
        assert_eq!(
            notes.all(),
            [
                "x/before storage unavailable: internal error, injected",
                "x/after the outcome of the operation is unknown",
                "x/slow-before the outcome of the operation is unknown",
                "x/slow-after the outcome of the operation is unknown",
                "x/late the outcome of the operation is unknown",
                "x/throttled throttled; retry after 7ms",
                "x/denied access denied",
                "x/permanent storage error: injected",
                "x/fine created",
            ]
        );
        assert_eq!(names(&world), ["x/after", "x/fine", "x/late", "x/slow-after"]);
        assert!(ids.iter().all(|id| store.fired(*id) == 1));
    });
}

#[test]
fn an_outage_ends() {
    in_world(1, |world| async move {
        world.store().outage(ms(1_500));
        let notes = creator(&world, &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"]);
        world.sleep(secs(30)).await;
        let notes = notes.all();
        assert!(notes[0].contains("unavailable") || notes[0].contains("unknown"), "{notes:?}");
        assert_eq!(notes.last().map(String::as_str), Some("l created"));
    });
}

#[test]
fn lost_and_corrupt_objects_and_bad_reads() {
    in_world(1, |world| async move {
        let store = world.store();
        for name in ["lost", "corrupt", "short", "mangled"] {
            store.put(&object(name), "0123456789");
        }
        assert!(store.lose(&object("lost")) && !store.lose(&object("lost")));
        assert!(store.corrupt(&object("corrupt")) && !store.corrupt(&object("lost")));
        for (name, kind) in [("short", StoreFaultKind::ShortRead), ("mangled", StoreFaultKind::CorruptRead)] {
            store.inject(StoreFault { operation: None, ..fault(kind, name) });
        }
        let notes = Notes::default();
        let told = notes.clone();
        launch(&world, "p", move |platform| {
            let notes = told.clone();
            async move {
                for name in ["lost", "corrupt", "short", "short", "mangled", "mangled"] {
                    let bytes = platform.primary.read(&object(name), None, platform.clock.now() + secs(1)).await;
                    let flipped = |bytes: &[u8]| -> u32 {
                        bytes.iter().zip(b"0123456789").map(|(is, was)| (is ^ was).count_ones()).sum()
                    };
                    notes.add(
                        bytes.map_or_else(
                            |e| e.to_string(),
                            |b| format!("{} bytes, {} bits wrong", b.len(), flipped(&b)),
                        ),
                    );
                }
            }
        });
        world.sleep(secs(5)).await;
        let (whole, half) = ("10 bytes, 0 bits wrong", "5 bytes, 0 bits wrong");
        let (rotten, misread) = ("10 bytes, 8 bits wrong", "10 bytes, 1 bits wrong");
        assert_eq!(notes.all(), ["no such object", rotten, half, whole, misread, whole]);
        let effects: Vec<Effect> = store.log().iter().map(|effect| effect.effect).collect();
        assert_eq!(effects, [Effect::Lost, Effect::Corrupted, Effect::Misread]);
    });
}

#[test]
fn a_request_that_was_sent_may_have_its_effect_after_its_process_died() {
    let mut seen = BTreeSet::new();
    for seed in 0..60 {
        let effects = in_world(seed, |world| async move {
            creator(&world, &["zombie"]);
            world.sleep(Duration::from_micros(100)).await;
            let crashed = world.now();
            world.crash("p");
            world.sleep(secs(5)).await;
            let log = world.store().log();
            log.iter().map(|effect| (effect.alive, effect.at.since(crashed) > ms(11))).collect::<Vec<_>>()
        });
        seen.insert(effects);
    }
    // Lost, soon after the death, and long after it.
    assert_eq!(seen, BTreeSet::from([vec![], vec![(false, false)], vec![(false, true)]]));
}

#[test]
fn nobody_waits_for_an_answer_longer_than_agreed() {
    in_world(1, |world| async move {
        world.store().inject(StoreFault { operation: None, ..fault(StoreFaultKind::TimeoutBefore, "a") });
        launch(&world, "p", |platform| async move {
            let start = platform.clock.now();
            let read = platform.primary.read(&object("a"), None, start + ms(300)).await;
            assert_eq!(read, Err(StoreError::Unavailable("no answer in time".to_string())));
            assert_eq!(platform.clock.now().since(start).as_millis(), 300);
            mark(&platform, "done");
        });
        world.sleep(secs(1)).await;
        assert_eq!(world.events(), 1);
    });
}

#[test]
fn a_deleted_object_may_linger_and_then_fades() {
    in_world(1, |world| async move {
        let store = world.store();
        for name in ["a", "b", "c"] {
            store.put(&object(name), "0123456789");
        }
        store.let_deletes_linger(secs(2));
        let notes = Notes::default();
        let told = notes.clone();
        launch(&world, "p", move |platform| {
            let notes = told.clone();
            async move {
                let by = || platform.clock.now() + secs(1);
                for name in ["a", "a", "b"] {
                    platform.primary.delete(&object(name), by()).await.expect("it is answered as if it were gone");
                }
                for wait in [0, 3] {
                    platform.clock.sleep(secs(wait)).await;
                    let listed = platform.primary.list("", by()).await.expect("list");
                    let names: Vec<_> = listed.iter().map(|meta| meta.name.as_str()).collect();
                    let read = platform.primary.read(&object("a"), None, by()).await.is_ok();
                    let made = create(&platform, "a").await;
                    notes.add(format!("{names:?} {read} {made:?}"));
                }
            }
        });
        world.sleep(secs(5)).await;
        assert_eq!(notes.all(), ["[\"a\", \"b\", \"c\"] true Err(Exists)", "[\"c\"] false Ok(())"]);
        let effects: Vec<(String, Effect)> =
            store.log().iter().map(|effect| (effect.name.to_string(), effect.effect)).collect();
        let expected = [
            ("a", Effect::Deleted),
            ("a", Effect::NothingToDelete),
            ("b", Effect::Deleted),
            ("a", Effect::Refused),
            ("a", Effect::Faded),
            ("b", Effect::Faded),
            ("a", Effect::Created),
        ];
        assert_eq!(effects, expected.map(|(name, effect)| (name.to_string(), effect)));
    });
}

#[test]
fn the_healing_lets_what_lingers_fade_at_once() {
    in_world(1, |world| async move {
        let store = world.store();
        store.put(&object("a"), "0123456789");
        store.let_deletes_linger(secs(1_000));
        launch(&world, "p", |platform| async move {
            platform.primary.delete(&object("a"), platform.clock.now() + secs(1)).await.expect("delete");
            platform.clock.sleep(secs(2)).await;
            create(&platform, "b").await.expect("create");
            platform.primary.delete(&object("b"), platform.clock.now() + secs(1)).await.expect("delete");
        });
        world.sleep(secs(1)).await;
        assert_eq!(names(&world), ["a"]);
        store.let_deletes_linger(Duration::ZERO);
        assert_eq!(names(&world), Vec::<String>::new());
        world.sleep(secs(3)).await;
        assert_eq!(names(&world), Vec::<String>::new());
    });
}

//! Disks: what is durable, what a crash and a loss of power leave, and injected faults.

use bytes::Bytes;
use runtime::platform::{AdoptMethod, DeviceId, DiskError, Platform};
use sim::{DiskErrorKind, DiskFault, DiskOperation, World};

use crate::support::*;

async fn write(platform: &Platform, name: &str, bytes: &'static [u8], sync: bool) -> Result<(), DiskError> {
    let mut file = platform.disk.create_new(&path(name)).await?;
    file.append(Bytes::from_static(bytes)).await?;
    if sync {
        file.sync().await?;
    }
    Ok(())
}

fn files(world: &World, process: &str) -> Vec<(String, u64)> {
    world.disk(&machine(process)).list_all().into_iter().map(|(path, length)| (path.to_string(), length)).collect()
}

#[test]
fn files_are_made_read_linked_renamed_listed_and_removed() {
    in_world(1, |world| async move {
        launch(&world, "p", |platform| async move {
            let disk = &platform.disk;
            write(&platform, "a/b/one", b"0123456789", true).await.expect("write");
            assert_eq!(write(&platform, "a/b/one", b"", false).await, Err(DiskError::Exists(path("a/b/one"))));
            assert_eq!(write(&platform, "a/b", b"", false).await, Err(DiskError::Exists(path("a/b"))));
            assert!(matches!(write(&platform, "a/b/one/x", b"", false).await, Err(DiskError::Io { .. })));
            assert_eq!(disk.read(&path("a/b/one"), Some(2..5)).await, Ok(Bytes::from_static(b"234")));
            assert!(matches!(disk.read(&path("a/b/one"), Some(2..11)).await, Err(DiskError::Io { .. })));
            assert_eq!(disk.length(&path("a/b/one")).await, Ok(10));
            assert_eq!(disk.length(&path("a/b/two")).await, Err(DiskError::NotFound(path("a/b/two"))));
            disk.link(&path("a/b/one"), &path("a/two")).await.expect("link");
            disk.rename(&path("a/b/one"), &path("a/b.c/three")).await.expect("rename");
            assert_eq!(disk.list(&path("a")).await, Ok(vec!["b.c".to_string(), "two".to_string()]));
            assert_eq!(disk.list(&path("a/b")).await, Ok(vec![]));
            disk.remove_tree(&path("a/b.c")).await.expect("remove_tree");
            disk.remove_tree(&path("a/b.c")).await.expect("nothing to remove");
            assert_eq!(disk.read(&path("a/two"), None).await, Ok(Bytes::from_static(b"0123456789")));
            disk.remove(&path("a/two")).await.expect("remove");
            assert_eq!(disk.remove(&path("a/two")).await, Err(DiskError::NotFound(path("a/two"))));
            mark(&platform, "done");
            platform.clock.sleep(secs(100)).await;
        });
        world.sleep(secs(1)).await;
        assert_eq!((world.events(), files(&world, "p")), (1, vec![]));
    });
}

#[test]
fn a_crash_of_the_process_keeps_what_was_written_a_loss_of_power_what_was_synced() {
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let (after_crash, after_power_loss) = in_world(seed, |world| async move {
            launch(&world, "p", |platform| async move {
                write(&platform, "d/synced", b"0123456789", true).await.expect("write");
                platform.disk.sync_dir(&path("d")).await.expect("sync_dir");
                let mut half = platform.disk.create_new(&path("d/half")).await.expect("create");
                platform.disk.sync_dir(&path("d")).await.expect("sync_dir");
                half.append(Bytes::from_static(b"01234")).await.expect("append");
                half.sync().await.expect("sync");
                half.append(Bytes::from_static(b"56789")).await.expect("append");
                write(&platform, "d/unnamed", b"0123456789", true).await.expect("write");
                platform.disk.remove(&path("d/synced")).await.expect("remove");
                platform.clock.sleep(secs(100)).await;
            });
            world.sleep(secs(1)).await;
            world.crash("p");
            let after_crash = files(&world, "p");
            world.power_loss(&machine("p"));
            (after_crash, files(&world, "p"))
        });
        assert_eq!(after_crash, [("d/half".to_string(), 10), ("d/unnamed".to_string(), 10)]);
        let length = |name: &str| after_power_loss.iter().find(|(path, _)| path == name).map(|(_, length)| *length);
        assert!(length("d/half").is_some_and(|length| (5..=10).contains(&length)), "{after_power_loss:?}");
        // Names survive in the order in which they were changed.
        assert!(length("d/synced").is_some() || length("d/unnamed").is_some(), "{after_power_loss:?}");
        outcomes.insert((length("d/half"), length("d/synced"), length("d/unnamed")));
    }
    assert!(outcomes.len() > 8, "{outcomes:?}");
    assert!(outcomes.iter().any(|(_, synced, unnamed)| synced.is_some() && unnamed.is_none()), "undone: {outcomes:?}");
    assert!(outcomes.iter().any(|(_, synced, unnamed)| synced.is_none() && unnamed.is_some()), "kept: {outcomes:?}");
}

#[test]
fn an_append_under_way_may_be_torn_by_a_crash() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let length = in_world(seed, |world| async move {
            launch(&world, "p", |platform| async move {
                let mut file = platform.disk.create_new(&path("f")).await.expect("create");
                mark(&platform, "appends");
                file.append(Bytes::from_static(&[7; 1000])).await.expect("append");
                platform.clock.sleep(secs(100)).await;
            });
            world.set_listener(std::rc::Rc::new(|world, _| {
                world.after(std::time::Duration::from_micros(10), |world| {
                    world.crash("p");
                });
            }));
            world.sleep(secs(1)).await;
            files(&world, "p")[0].1
        });
        lengths.insert(length);
    }
    assert!(lengths.contains(&0) && lengths.len() > 10, "{lengths:?}");
}

#[test]
fn a_lost_machine_comes_back_with_an_empty_disk() {
    in_world(1, |world| async move {
        launch(&world, "p", |platform| async move {
            write(&platform, "f", b"x", true).await.expect("the disk is empty at each start");
            platform.disk.sync_dir(&path("f")).await.expect("sync_dir");
            mark(&platform, "written");
            platform.clock.sleep(secs(100)).await;
        });
        world.sleep(secs(1)).await;
        world.lose_machine(&machine("p"));
        assert_eq!(files(&world, "p"), []);
        world.start("p");
        world.sleep(secs(1)).await;
        assert_eq!(world.events(), 2);
    });
}

#[test]
fn injected_errors_and_a_full_disk() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        let told = notes.clone();
        world.add_machine("m");
        let disk = world.disk("m");
        let append = DiskFault {
            operation: Some(DiskOperation::Append),
            path_contains: "bad".to_string(),
            error: DiskErrorKind::Io,
            count: 1,
        };
        let io = disk.inject(append.clone());
        let full = disk.inject(DiskFault {
            operation: Some(DiskOperation::Sync),
            error: DiskErrorKind::NoSpace,
            count: 2,
            ..append
        });
        let entry = program(move |platform| {
            let notes = told.clone();
            async move {
                for name in ["good", "bad-1", "bad-2", "bad-3", "bad-4"] {
                    notes.add(format!("{name} {:?}", write(&platform, name, b"0123456789", true).await));
                }
                platform.clock.sleep(ms(500)).await;
                notes.add(format!("{:?}", write(&platform, "big", &[1; 2_000], true).await));
                notes.add(format!("{:?}", write(&platform, "small", b"", true).await));
            }
        });
        world.add_process("p", "m", entry);
        world.start("p");
        world.sleep(ms(400)).await;
        disk.set_capacity(1_000);
        world.sleep(secs(1)).await;
        assert_eq!((disk.fired(io), disk.fired(full)), (1, 2));
        assert_eq!(
            notes.all(),
            [
                "good Ok(())",
                "bad-1 Err(Io { path: RelPath(\"bad-1\"), detail: \"injected\" })",
                "bad-2 Err(NoSpace(RelPath(\"bad-2\")))",
                "bad-3 Err(NoSpace(RelPath(\"bad-3\")))",
                "bad-4 Ok(())",
                "Err(NoSpace(RelPath(\"big\")))",
                "Ok(())"
            ]
        );
        assert_eq!(disk.used(), 1_000);
        assert!(disk.corrupt(&path("good"), 3) && !disk.corrupt(&path("good"), 10));
        assert_eq!(disk.peek(&path("good")).expect("good"), Bytes::from_static(b"012\xcc456789"));
        assert!(
            disk.truncate(&path("good"), 2) && disk.remove_file(&path("bad-4")) && !disk.remove_file(&path("bad-4"))
        );
        assert_eq!(disk.peek(&path("good")).expect("good"), Bytes::from_static(b"01"));
        disk.wipe();
        assert_eq!(disk.list_all(), []);
    });
}

#[test]
fn native_files_come_under_the_disk_and_back() {
    in_world(1, |world| async move {
        world.add_machine("m");
        let other = world.disk("m").mount(&path("mnt/other"));
        assert_eq!(other, DeviceId(1));
        let entry = program(|platform| async move {
            let disk = &platform.disk;
            let native = disk.native_dir().await.expect("native_dir");
            std::fs::create_dir(native.path().join("cp")).expect("mkdir");
            std::fs::write(native.path().join("cp/1.sst"), b"one").expect("write");
            std::fs::write(native.path().join("cp/2.sst"), b"two!").expect("write");
            let names = ["1.sst".to_string(), "2.sst".to_string()];
            let linked = disk.adopt(&native, "cp", &names, &path("local/7")).await.expect("adopt");
            assert_eq!(
                linked.iter().map(|l| (l.name.as_str(), l.length)).collect::<Vec<_>>(),
                [("1.sst", 3), ("2.sst", 4)]
            );
            assert_eq!(linked[0].method, AdoptMethod::HardLink);
            let copied = disk.adopt(&native, "cp", &names, &path("mnt/other/7")).await.expect("adopt");
            assert_eq!(copied[0].method, AdoptMethod::Copy);
            assert!(matches!(disk.adopt(&native, "cp", &names, &path("local/7")).await, Err(DiskError::Exists(_))));
            assert!(matches!(
                disk.adopt(&native, "cp", &["../x".to_string()], &path("l")).await,
                Err(DiskError::Io { .. })
            ));
            let (here, there) = (path("local/7/1.sst"), path("mnt/other/x"));
            assert_eq!(disk.link(&here, &there).await, Err(DiskError::CrossDevice(there.clone())));
            assert_eq!(disk.rename(&here, &there).await, Err(DiskError::CrossDevice(there.clone())));
            assert_eq!(disk.device_of(&there).await, Ok(DeviceId(1)));
            let again = disk.native_dir().await.expect("native_dir");
            for (from, method) in [("local/7", AdoptMethod::HardLink), ("mnt/other/7", AdoptMethod::Copy)] {
                let back = disk.materialize(&path(from).join("2.sst"), &again, "db", "2.sst").await;
                assert_eq!(back.expect("materialize"), method);
            }
            let not_there = disk.materialize(&path("local/7/9.sst"), &again, "db", "9.sst").await;
            assert!(matches!(not_there, Err(DiskError::NotFound(_))), "{not_there:?}");
            assert_eq!(std::fs::read(again.path().join("db/2.sst")).expect("read"), b"two!");
            mark(&platform, "done");
        });
        world.add_process("p", "m", entry);
        world.start("p");
        world.sleep(secs(1)).await;
        assert_eq!((world.events(), world.status("p")), (1, sim::ProcessStatus::Exited));
        world.power_loss("m");
        assert_eq!(world.disk("m").list_all().len(), 4, "adopted files are durable");
    });
}

#[test]
fn a_file_may_be_denied_or_vanish_while_it_is_being_read() {
    in_world(1, |world| async move {
        let fault = |operation, error, path: &str| DiskFault {
            operation: Some(operation),
            path_contains: path.to_string(),
            error,
            count: 1,
        };
        world.add_machine("m");
        let disk = world.disk("m");
        let denied = disk.inject(fault(DiskOperation::Create, DiskErrorKind::Denied, "f"));
        let vanished = disk.inject(fault(DiskOperation::Read, DiskErrorKind::Vanished, "f"));
        let entry = program(|platform: Platform| async move {
            let file = path("f");
            assert_eq!(write(&platform, "f", b"0123456789", true).await, Err(DiskError::Denied(file.clone())));
            // Nothing is there yet that could vanish.
            assert_eq!(platform.disk.read(&file, None).await, Err(DiskError::NotFound(file.clone())));
            write(&platform, "f", b"0123456789", true).await.expect("write");
            assert_eq!(platform.disk.read(&file, None).await, Err(DiskError::NotFound(file.clone())));
            assert_eq!(platform.disk.list(&path("d")).await, Ok(vec![]));
            write(&platform, "f", b"anew", true).await.expect("the name is free");
            assert_eq!(platform.disk.read(&file, None).await, Ok(Bytes::from_static(b"anew")));
            mark(&platform, "done");
        });
        world.add_process("p", "m", entry);
        world.start("p");
        world.sleep(secs(1)).await;
        assert_eq!((world.events(), disk.fired(denied), disk.fired(vanished)), (1, 1, 1));
    });
}

#[test]
fn a_file_may_hold_the_bytes_of_another() {
    in_world(1, |world| async move {
        launch(&world, "p", |platform| async move {
            write(&platform, "old", b"0123", true).await.expect("write");
            write(&platform, "new", b"0123456789", true).await.expect("write");
            write(&platform, "same", b"0123", true).await.expect("write");
            platform.disk.link(&path("new"), &path("second-name")).await.expect("link");
            platform.clock.sleep(secs(2)).await;
            for name in ["new", "second-name", "old"] {
                assert_eq!(platform.disk.read(&path(name), None).await, Ok(Bytes::from_static(b"0123")), "{name}");
            }
            mark(&platform, "done");
        });
        world.sleep(secs(1)).await;
        let disk = world.disk(&machine("p"));
        assert!(!disk.put_in_place(&path("same"), &path("old")), "equal bytes are no damage");
        assert!(
            !disk.put_in_place(&path("nothing"), &path("old")) && !disk.put_in_place(&path("old"), &path("nothing"))
        );
        assert!(disk.put_in_place(&path("new"), &path("old")));
        world.sleep(secs(2)).await;
        assert_eq!(world.events(), 1);
    });
}

#[test]
fn a_disk_may_be_slow_and_may_stand_still() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        let told = notes.clone();
        launch(&world, "p", move |platform| {
            let notes = told.clone();
            async move {
                for n in 0.. {
                    let start = platform.clock.now();
                    write(&platform, &format!("f{n}"), b"0123456789", true).await.expect("write");
                    notes.add(if platform.clock.now().since(start) < ms(2) { "fast" } else { "slow" });
                    platform.clock.sleep(ms(1)).await;
                }
            }
        });
        let disk = world.disk(&machine("p"));
        let mut seen = Vec::new();
        let mut look = |label: &str| {
            let all = notes.all();
            let news = &all[seen.len()..];
            let slow = news.iter().filter(|note| *note == "slow").count();
            println!("{label}: {slow} slow of {}", news.len());
            let counts = (news.len(), slow);
            seen = all;
            counts
        };
        world.sleep(ms(100)).await;
        assert!(matches!(look("before"), (30.., 0)));
        disk.set_slow(100);
        world.sleep(ms(500)).await;
        let (writes, slow) = look("while slow");
        assert!(slow > 3 && slow + 1 >= writes);
        disk.set_slow(1);
        world.sleep(ms(100)).await;
        look("after the slowness");
        disk.stall(world.now() + secs(2));
        world.sleep(ms(1_990)).await;
        let (writes, _) = look("while it stands still");
        assert!(writes <= 1, "what was under way may still be done");
        world.sleep(ms(100)).await;
        assert!(matches!(look("afterwards"), (10.., 1)));
    });
}

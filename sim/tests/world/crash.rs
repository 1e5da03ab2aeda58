//! A crash is a fence, then a kill: from the triggering event on, nothing the process does has an effect.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use runtime::platform::{
    Connection, DiskError, DiskFile, NativeError, NativeOp, NetError, Platform, StoreError, TaskEnd, send,
};

use crate::support::*;

/// Does everything a process can do, and notes what it was told.
async fn act(platform: Platform, mut file: Box<dyn DiskFile>, mut connection: Connection, notes: Notes, tag: &str) {
    let by = platform.clock.now() + secs(1);
    mark(&platform, &format!("{tag}: alive?"));
    let sent = send(connection.sender.as_mut(), Bytes::from_static(b"zombie")).await;
    notes.add(format!("{tag} send {}", sent == Err(NetError::Dead)));
    let created = platform.primary.create(&object(&format!("zombie-{tag}")), vec![Bytes::new()], by).await;
    notes.add(format!("{tag} create {}", created == Err(StoreError::Dead)));
    let appended = file.append(Bytes::from_static(b"zombie")).await;
    notes.add(format!("{tag} append {}", appended == Err(DiskError::Dead)));
    notes.add(format!("{tag} sync {}", file.sync().await == Err(DiskError::Dead)));
    let made = platform.disk.create_new(&path(&format!("zombie-{tag}"))).await.map(|_| ());
    notes.add(format!("{tag} file {}", made == Err(DiskError::Dead)));
    let removed = platform.disk.remove(&path("kept")).await;
    notes.add(format!("{tag} remove {}", removed == Err(DiskError::Dead)));
    let connected = dial(&platform, "peer/data", "x", secs(1)).await.map(|_| ());
    notes.add(format!("{tag} connect {}", connected == Err(NetError::Dead)));
    let listening = platform.transport.listen(&at("victim/zombie")).await.map(|_| ());
    notes.add(format!("{tag} listen {}", listening == Err(NetError::Dead)));
    let ran = platform.spawner.native(NativeOp::DatabaseFlush, Box::new(|| panic!("native code ran"))).await;
    notes.add(format!("{tag} native {}", ran == Err(NativeError::Dead)));
    let never = notes.clone();
    let task = platform.spawner.control("zombie", async move { never.add("a task ran") }.boxed());
    notes.add(format!("{tag} spawn {}", task.await == TaskEnd::Aborted));
}

/// Acts in its destructor.
struct Dying(Option<(Platform, Box<dyn DiskFile>, Connection, Notes)>);

impl Drop for Dying {
    fn drop(&mut self) {
        if let Some((platform, file, connection, notes)) = self.0.take() {
            let finished = act(platform, file, connection, notes.clone(), "drop").now_or_never();
            notes.add(format!("drop finished {}", finished.is_some()));
        }
    }
}

#[test]
fn nothing_has_an_effect_after_the_triggering_event_not_even_in_drop() {
    in_world(3, |world| async move {
        let (notes, heard, seen) = (Notes::default(), Notes::default(), Notes::default());
        launch(&world, "peer", note_frames(heard.clone()));
        let told = notes.clone();
        launch(&world, "victim", move |platform| {
            let notes = told.clone();
            async move {
                let mut file = platform.disk.create_new(&path("kept")).await.expect("create");
                file.append(Bytes::from_static(b"before")).await.expect("append");
                let other = platform.disk.create_new(&path("other")).await.expect("create");
                let mut first = dial(&platform, "peer/data", "first", secs(1)).await.expect("connect");
                let second = dial(&platform, "peer/data", "second", secs(1)).await.expect("connect");
                say(&mut first, "before").await.expect("send");
                platform.clock.sleep(ms(50)).await;
                let dying = Dying(Some((platform.clone(), other, second, notes.clone())));
                mark(&platform, "trigger");
                act(platform.clone(), file, first, notes.clone(), "poll").await;
                platform.clock.sleep(Duration::ZERO).await;
                notes.add("went on");
                drop(dying);
            }
        });
        let events = seen.clone();
        world.set_listener(Rc::new(move |world, stamped| {
            events.add(stamped.event.entity());
            if is_mark(&stamped.event, "trigger") {
                assert!(world.crash("victim"));
                assert!(!world.crash("victim"), "it is dead already");
            }
        }));
        world.sleep(secs(5)).await;

        let lines = notes.all();
        assert!(lines.iter().all(|line| line.ends_with("true")), "{lines:#?}");
        assert_eq!(lines.len(), 21, "ten acts after the trigger, ten in Drop, which ended: {lines:#?}");
        assert_eq!(seen.all(), ["trigger"]);
        assert!(heard.all().iter().all(|line| line != "zombie"), "{:?}", heard.all());
        let disk = world.disk(&machine("victim"));
        let files: Vec<String> = disk.list_all().iter().map(|(path, length)| format!("{path} {length}")).collect();
        assert_eq!(files, ["kept 6", "other 0"]);
        assert_eq!(world.store().list(""), []);
        assert!(!world.is_alive("victim"));
        assert_eq!(world.status("victim"), sim::ProcessStatus::Crashed);
    });
}

#[test]
fn a_process_may_be_restarted_inside_its_own_emit() {
    in_world(4, |world| async move {
        let notes = Notes::default();
        let told = notes.clone();
        launch(&world, "tm-1", move |platform| {
            let notes = told.clone();
            async move {
                notes.add("started");
                mark(&platform, "up");
                notes.add("after the emit");
                platform.clock.sleep(secs(1)).await;
                notes.add("lived");
            }
        });
        world.set_listener(Rc::new(|world, stamped| {
            if stamped.incarnation == 1 {
                world.restart("tm-1");
            }
        }));
        world.sleep(secs(3)).await;
        assert_eq!(notes.all(), ["started", "after the emit", "started", "after the emit", "lived"]);
        assert_eq!(world.incarnation("tm-1"), 2);
        assert_eq!(world.status("tm-1"), sim::ProcessStatus::Exited);
    });
}

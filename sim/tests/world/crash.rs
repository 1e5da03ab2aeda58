//! A crash is a fence, then a kill: from the triggering event on, nothing the process does has an effect.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use runtime::platform::{Connection, DiskFile, NativeOp, Platform, TaskEnd, recv, send};

use crate::support::*;

/// Does everything a process can do, and notes that none of it ever ends.
fn act(platform: &Platform, mut file: Box<dyn DiskFile>, mut connection: Connection, notes: &Notes, tag: &str) {
    let never = |what: &str, ended: bool| notes.add(format!("{tag} {what} {}", !ended));
    let by = platform.clock.now() + secs(1);
    mark(platform, &format!("{tag}: alive?"));
    let sent = send(connection.sender.as_mut(), Bytes::from_static(b"zombie")).now_or_never();
    never("send", sent.is_some());
    never("receive", recv(connection.receiver.as_mut()).now_or_never().is_some());
    let created = platform.primary.create(&object(&format!("zombie-{tag}")), vec![Bytes::new()], by).now_or_never();
    never("create", created.is_some());
    never("append", file.append(Bytes::from_static(b"zombie")).now_or_never().is_some());
    never("sync", file.sync().now_or_never().is_some());
    never("file", platform.disk.create_new(&path(&format!("zombie-{tag}"))).now_or_never().is_some());
    never("remove", platform.disk.remove(&path("kept")).now_or_never().is_some());
    never("connect", dial(platform, "peer/data", "x", secs(1)).now_or_never().is_some());
    never("listen", platform.transport.listen(&at("victim/zombie")).now_or_never().is_some());
    never("timer", platform.clock.sleep(Duration::ZERO).now_or_never().is_some());
    let ran = platform.spawner.native(NativeOp::DatabaseFlush, Box::new(|| panic!("native code ran"))).now_or_never();
    never("native", ran.is_some());
    let ran = notes.clone();
    let task = platform.spawner.control("zombie", async move { ran.add("a task ran") }.boxed());
    notes.add(format!("{tag} spawn {}", task.now_or_never() == Some(TaskEnd::Aborted)));
}

/// Acts in its destructor.
struct Dying(Option<(Platform, Box<dyn DiskFile>, Connection, Notes)>);

impl Drop for Dying {
    fn drop(&mut self) {
        if let Some((platform, file, connection, notes)) = self.0.take() {
            act(&platform, file, connection, &notes, "drop");
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
                act(&platform, file, first, &notes, "poll");
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
        assert_eq!(lines.len(), 24, "twelve acts after the trigger, twelve in Drop: {lines:#?}");
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

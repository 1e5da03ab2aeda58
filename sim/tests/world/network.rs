//! Links, channels, and their faults.

use std::{collections::VecDeque, future::poll_fn, task::Poll};

use bytes::Bytes;
use runtime::platform::{NetError, recv, send};
use sim::{Direction, LabelPattern, NetworkConfig, Slow, World, WorldConfig};

use crate::support::*;

/// A client that connects to `server/data` and sends a numbered frame each 10 ms; notes when that ends.
fn talk(world: &World, notes: &Notes) {
    let told = notes.clone();
    launch(world, "client", move |platform| {
        let notes = told.clone();
        async move {
            let mut connection = dial(&platform, "server/data", "a[0]->b[1]", secs(1)).await.expect("connect");
            for n in 0..10_000 {
                if let Err(error) = say(&mut connection, &n.to_string()).await {
                    return notes.add(format!("{error}"));
                }
                platform.clock.sleep(ms(10)).await;
            }
        }
    });
}

fn in_order(frames: &[String]) -> bool {
    frames.iter().enumerate().all(|(n, frame)| *frame == n.to_string())
}

#[test]
fn frames_arrive_in_order_and_then_the_end_of_the_stream() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        launch(&world, "server", note_frames(notes.clone()));
        launch(&world, "client", |platform| async move {
            let mut connection = dial(&platform, "server/data", "l", secs(1)).await.expect("connect");
            for n in 0..100 {
                say(&mut connection, &n.to_string()).await.expect("send");
            }
        });
        world.sleep(secs(1)).await;
        let frames = notes.all();
        assert!(in_order(&frames[..100]));
        assert_eq!(frames[100..], ["end: connection closed by peer"]);
        assert!(world.channel_stats()["l"] >= 10);
    });
}

#[test]
fn connecting_fails_as_it_should() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        launch(&world, "server", |platform| async move {
            let taken = platform.transport.listen(&at("server/data")).await.expect("listen");
            let again = platform.transport.listen(&at("server/data")).await.map(|_| ());
            assert_eq!(again, Err(NetError::AddressInUse));
            assert!(matches!(platform.transport.listen(&at("client/x")).await.map(|_| ()), Err(NetError::Io(_))));
            platform.clock.sleep(secs(100)).await;
            drop(taken);
        });
        let told = notes.clone();
        world.add_machine("m");
        world.add_process(
            "client",
            "m",
            program(move |platform| {
                let notes = told.clone();
                async move {
                    for to in ["server/other", "nobody/data", "server/data"] {
                        let start = platform.clock.now();
                        let result = dial(&platform, to, "l", ms(500)).await.map(|_| ());
                        let took = platform.clock.now().since(start).as_millis();
                        notes.add(format!("{to} {} {took}", result.map_or_else(|e| e.to_string(), |()| "fine".into())));
                    }
                }
            }),
        );
        world.start("client");
        world.sleep(secs(1)).await;
        world.partition("server", "client", Direction::AtoB);
        world.restart("client");
        world.sleep(secs(3)).await;
        world.heal("client", "server");
        world.crash("server");
        world.restart("client");
        world.sleep(secs(1)).await;
        world.lose_machine(&machine("server"));
        world.restart("client");
        world.sleep(secs(3)).await;
        let nobody = "nobody/data network error: nobody/data: no such process; addresses are `process/service` 0";
        let silent = |service: &str| format!("server/{service} connection timed out 500");
        assert_eq!(
            notes.all(),
            [
                "server/other connection refused 0".to_string(),
                nobody.to_string(),
                "server/data fine 0".to_string(),
                silent("other"),
                nobody.to_string(),
                silent("data"),
                "server/other connection refused 0".to_string(),
                nobody.to_string(),
                "server/data connection refused 0".to_string(),
                silent("other"),
                nobody.to_string(),
                silent("data"),
            ]
        );
    });
}

#[test]
fn the_window_holds_back_the_sender_of_a_slow_reader() {
    let network = NetworkConfig { window_bytes: 1_000, ..NetworkConfig::default() };
    with_config(WorldConfig { network, ..WorldConfig::default() }, |world| async move {
        let notes = Notes::default();
        let (told, read) = (notes.clone(), notes.clone());
        launch(&world, "server", move |platform| {
            let notes = read.clone();
            async move {
                let mut listener = platform.transport.listen(&at("server/data")).await.expect("listen");
                let mut connection = listener.accept().await.expect("accept");
                platform.clock.sleep(secs(1)).await;
                notes.add("reads");
                for _ in 0..101 {
                    recv(connection.receiver.as_mut()).await.expect("recv");
                }
                notes.add("has read");
            }
        });
        launch(&world, "client", move |platform| {
            let notes = told.clone();
            async move {
                let mut connection = dial(&platform, "server/data", "l", secs(1)).await.expect("connect");
                let mut queue: VecDeque<Bytes> = (0..100).map(|_| Bytes::from(vec![0; 96])).collect();
                poll_fn(|cx| Poll::Ready(connection.sender.poll_send(cx, &mut queue).is_pending())).await;
                notes.add(format!("{} left", queue.len()));
                poll_fn(|cx| connection.sender.poll_send(cx, &mut queue)).await.expect("send");
                send(connection.sender.as_mut(), Bytes::from(vec![0; 5_000])).await.expect("a frame beyond the window");
                notes.add("all sent");
                platform.clock.sleep(secs(1)).await;
            }
        });
        world.sleep(secs(3)).await;
        let order = notes.all();
        assert_eq!(order[..2], ["90 left", "reads"]);
        assert!(order.contains(&"all sent".to_string()) && order.contains(&"has read".to_string()), "{order:?}");
        assert_eq!(world.channel_stats()["l"], 5_000);
    });
}

#[test]
fn a_partition_keeps_what_was_sent_until_it_heals() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        launch(&world, "server", note_frames(notes.clone()));
        talk(&world, &notes);
        world.sleep(ms(100)).await;
        world.partition("client", "server", Direction::AtoB);
        world.sleep(ms(5)).await;
        let before = notes.all().len();
        world.sleep(secs(2)).await;
        assert_eq!(notes.all().len(), before);
        world.heal("client", "server");
        world.sleep(ms(10)).await;
        assert!(notes.all().len() > 200 && in_order(&notes.all()));
    });
}

#[test]
fn a_partition_that_lasts_ends_the_connection_at_both_ends() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        launch(&world, "server", note_frames(notes.clone()));
        talk(&world, &notes);
        world.sleep(ms(100)).await;
        world.partition("client", "server", Direction::Both);
        world.sleep(secs(19)).await;
        world.heal("client", "server");
        world.partition("client", "server", Direction::Both);
        world.sleep(secs(19)).await;
        assert!(notes.all().iter().all(|note| !note.contains("time")), "the clock starts anew with each partition");
        world.sleep(secs(2)).await;
        let mut ends = notes.all().split_off(notes.all().len() - 2);
        ends.sort();
        assert_eq!(ends, ["connection timed out", "end: connection timed out"]);
    });
}

#[test]
fn the_peer_of_a_crashed_process_is_reset_and_that_of_a_lost_machine_hears_nothing() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        launch(&world, "server", note_frames(notes.clone()));
        talk(&world, &Notes::default());
        world.sleep(ms(100)).await;
        world.crash("client");
        world.sleep(ms(10)).await;
        assert_eq!(notes.all().last().map(String::as_str), Some("end: connection reset by peer"));

        world.restart("client");
        world.sleep(ms(100)).await;
        world.lose_machine(&machine("client"));
        let frames = notes.all().len();
        world.sleep(secs(19)).await;
        assert!(notes.all().len() <= frames + 1, "at most what was on the wire");
        world.sleep(secs(2)).await;
        assert_eq!(notes.all().last().map(String::as_str), Some("end: connection timed out"));

        world.restart("client");
        world.sleep(ms(100)).await;
        world.power_loss(&machine("client"));
        world.sleep(secs(5)).await;
        assert!(!notes.all().last().is_some_and(|last| last.starts_with("end")));
        world.start("client");
        world.sleep(ms(5)).await;
        assert!(notes.all().contains(&"end: connection reset by peer".to_string()), "the machine answers again");
    });
}

#[test]
fn a_sender_learns_that_its_peer_crashed() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        launch(&world, "server", note_frames(Notes::default()));
        talk(&world, &notes);
        world.sleep(ms(100)).await;
        world.crash("server");
        world.sleep(ms(50)).await;
        assert_eq!(notes.all(), ["connection reset by peer"]);
    });
}

#[test]
fn channels_can_be_held_and_slowed_by_label() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        launch(&world, "server", note_frames(notes.clone()));
        world.hold_channel(LabelPattern::Exact("a[0]->b[1]".to_string()));
        world.hold_channel("b[7]");
        talk(&world, &notes);
        world.sleep(secs(60)).await;
        assert!(notes.all().is_empty());
        world.release_channel(LabelPattern::Exact("a[0]->b[1]".to_string()));
        world.sleep(ms(10)).await;
        assert!(notes.all().len() > 1_000 && in_order(&notes.all()));
        world.slow_channel("->b", Slow::by(secs(1)));
        world.sleep(ms(5)).await;
        let before = notes.all().len();
        world.sleep(ms(900)).await;
        assert!(notes.all().len() <= before + 1);
        world.sleep(secs(2)).await;
        assert!(notes.all().len() > before + 100 && in_order(&notes.all()));
    });
}

#[test]
fn links_can_be_held_and_slowed() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        launch(&world, "server", note_frames(notes.clone()));
        talk(&world, &notes);
        world.sleep(ms(100)).await;
        world.hold_link("server", "client");
        world.sleep(ms(5)).await;
        let before = notes.all().len();
        world.sleep(secs(60)).await;
        assert_eq!(notes.all().len(), before);
        world.release_link("server", "client");
        world.slow_link("server", "client", Slow::by_factor(1_000));
        world.sleep(secs(2)).await;
        assert!(notes.all().len() > 1_000 && in_order(&notes.all()));
        world.isolate("server");
        world.sleep(ms(5)).await;
        world.heal_network();
        world.sleep(secs(2)).await;
        assert!(in_order(&notes.all()));
    });
}

#[test]
fn half_a_connection_can_be_closed_and_the_other_half_goes_on() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        launch(&world, "server", |platform| async move {
            let mut listener = platform.transport.listen(&at("server/data")).await.expect("listen");
            let mut connection = listener.accept().await.expect("accept");
            assert_eq!(recv(connection.receiver.as_mut()).await, Err(NetError::Closed));
            say(&mut connection, "still here").await.expect("send");
            platform.clock.sleep(secs(1)).await;
        });
        let told = notes.clone();
        launch(&world, "client", move |platform| {
            let notes = told.clone();
            async move {
                let runtime::platform::Connection { sender, mut receiver } =
                    dial(&platform, "server/data", "l", secs(1)).await.expect("connect");
                drop(sender);
                notes.add(format!("{:?}", recv(receiver.as_mut()).await));
                notes.add(format!("{:?}", recv(receiver.as_mut()).await));
            }
        });
        world.sleep(secs(3)).await;
        assert_eq!(notes.all(), ["Ok(b\"still here\")", "Err(Closed)"]);
    });
}

#[test]
fn a_sender_whose_receiver_was_dropped_is_reset() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        launch(&world, "server", |platform| async move {
            let mut listener = platform.transport.listen(&at("server/data")).await.expect("listen");
            drop(listener.accept().await.expect("accept"));
            platform.clock.sleep(secs(10)).await;
        });
        talk(&world, &notes);
        world.sleep(secs(1)).await;
        assert_eq!(notes.all(), ["connection reset by peer"]);
    });
}

/// Prints how many small frames pass per second of real time.
#[test]
fn small_frames_pass_fast() {
    const FRAMES: usize = 200_000;
    let start = std::time::Instant::now();
    let outcome = in_world(1, |world| async move {
        let notes = Notes::default();
        let told = notes.clone();
        launch(&world, "server", move |platform| {
            let notes = told.clone();
            async move {
                let mut listener = platform.transport.listen(&at("server/data")).await.expect("listen");
                let mut connection = listener.accept().await.expect("accept");
                let mut frames = VecDeque::new();
                let mut count = 0;
                while count < FRAMES {
                    count += poll_fn(|cx| connection.receiver.poll_recv(cx, &mut frames, 64)).await.expect("recv");
                    frames.clear();
                }
                notes.add("done");
            }
        });
        launch(&world, "client", |platform| async move {
            let mut connection = dial(&platform, "server/data", "l", secs(1)).await.expect("connect");
            for _ in 0..FRAMES {
                send(connection.sender.as_mut(), Bytes::from_static(&[0; 100])).await.expect("send");
            }
            platform.clock.sleep(secs(1)).await;
        });
        world.sleep(secs(5)).await;
        notes.all()
    });
    assert_eq!(outcome, ["done"]);
    println!("{:.0} frames per second", FRAMES as f64 / start.elapsed().as_secs_f64());
}

/// Prints how many round trips pass per second of real time, one at a time; each is two deliveries and two polls.
#[test]
fn round_trips_pass_fast() {
    const TRIPS: usize = 50_000;
    let start = std::time::Instant::now();
    let simulated = in_world(1, |world| async move {
        launch(&world, "server", move |platform| async move {
            let mut listener = platform.transport.listen(&at("server/data")).await.expect("listen");
            let mut connection = listener.accept().await.expect("accept");
            while let Ok(frame) = recv(connection.receiver.as_mut()).await {
                send(connection.sender.as_mut(), frame).await.expect("send");
            }
        });
        launch(&world, "client", |platform| async move {
            let mut connection = dial(&platform, "server/data", "l", secs(1)).await.expect("connect");
            for _ in 0..TRIPS {
                send(connection.sender.as_mut(), Bytes::from_static(&[0; 100])).await.expect("send");
                recv(connection.receiver.as_mut()).await.expect("recv");
            }
            mark(&platform, "done");
        });
        while world.events() == 0 {
            world.sleep(secs(1)).await;
        }
        world.now()
    });
    println!("{:.0} round trips per second, in {simulated}", TRIPS as f64 / start.elapsed().as_secs_f64());
}

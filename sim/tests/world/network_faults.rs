//! Faults of the network beyond partitions: resets, half-open connections, messages that come twice, storms of jitter, lack of
//! bandwidth, addresses that move.

use runtime::platform::{NetError, recv};
use sim::{Echo, LabelPattern, World};

use crate::support::*;

/// A client that sends a numbered frame each 10 ms, connects anew after each error, and notes the errors.
fn talk(world: &World, notes: &Notes) {
    let notes = notes.clone();
    launch(world, "client", move |platform| {
        let notes = notes.clone();
        async move {
            for connections in 0.. {
                let mut connection = match dial(&platform, "server/data", "talk", secs(1)).await {
                    Ok(connection) => connection,
                    Err(error) => {
                        notes.add(format!("client: cannot connect: {error}"));
                        continue;
                    }
                };
                for n in 0.. {
                    if let Err(error) = say(&mut connection, &format!("{connections}.{n}")).await {
                        notes.add(format!("client: {error}"));
                        break;
                    }
                    platform.clock.sleep(ms(10)).await;
                }
            }
        }
    });
}

fn scene(world: &World) -> Notes {
    let notes = Notes::default();
    launch(world, "server", note_frames(notes.clone()));
    talk(world, &notes);
    notes
}

fn errors(notes: &[String]) -> Vec<&str> {
    notes.iter().filter(|note| note.contains(':')).map(String::as_str).collect()
}

#[test]
fn a_reset_tells_both_ends_and_a_new_connection_works() {
    in_world(1, |world| async move {
        let notes = scene(&world);
        world.sleep(ms(100)).await;
        assert_eq!(world.connections("server", "client"), 1);
        assert_eq!(world.reset_connections("client", "server"), 1);
        assert_eq!(world.reset_connections("client", "server"), 0, "it is over already");
        world.sleep(ms(100)).await;
        let all = notes.all();
        assert_eq!(errors(&all).len(), 2, "{all:?}");
        assert!(errors(&all).contains(&"client: connection reset by peer"));
        assert!(errors(&all).contains(&"end: connection reset by peer"));
        assert!(all.contains(&"1.5".to_string()), "{all:?}");
    });
}

#[test]
fn what_is_under_way_when_a_connection_is_reset_is_lost() {
    in_world(1, |world| async move {
        let notes = scene(&world);
        world.sleep(ms(100)).await;
        world.hold_channel("talk");
        world.sleep(ms(100)).await;
        world.reset_connections("client", "server");
        world.release_channel("talk");
        world.sleep(ms(100)).await;
        let all = notes.all();
        assert!(all.contains(&"0.8".to_string()) && all.contains(&"1.1".to_string()), "{all:?}");
        assert!(!all.contains(&"0.12".to_string()), "{all:?}");
    });
}

#[test]
fn of_a_half_open_connection_one_end_knows_and_the_other_learns_it_late() {
    in_world(1, |world| async move {
        let notes = scene(&world);
        world.sleep(ms(100)).await;
        assert_eq!(world.half_open("server", "client"), 1);
        world.sleep(secs(5)).await;
        let before = notes.all();
        assert_eq!(errors(&before), ["end: connection reset by peer"], "the client goes on sending");
        assert!(!before.contains(&"0.20".to_string()), "nothing arrives: {before:?}");
        world.end_half_open("server", "client");
        world.sleep(ms(100)).await;
        let after = notes.all();
        assert_eq!(errors(&after)[1..], ["client: connection reset by peer"]);
        assert!(after.contains(&"1.5".to_string()), "{after:?}");
    });
}

#[test]
fn a_half_open_connection_times_out_by_itself() {
    in_world(1, |world| async move {
        let notes = scene(&world);
        world.sleep(ms(100)).await;
        world.half_open("client", "server");
        world.sleep(secs(1)).await;
        let before = notes.all();
        assert_eq!(errors(&before), ["client: connection reset by peer"]);
        assert!(before.contains(&"1.5".to_string()), "a new connection works meanwhile: {before:?}");
        world.sleep(secs(25)).await;
        assert_eq!(errors(&notes.all())[1..], ["end: connection timed out"]);
        world.end_half_open("client", "server");
        world.sleep(secs(1)).await;
        assert_eq!(errors(&notes.all()).len(), 2);
    });
}

#[test]
fn a_frame_may_come_twice_the_second_time_late() {
    in_world(1, |world| async move {
        let notes = scene(&world);
        world.sleep(ms(100)).await;
        let label = LabelPattern::Exact("talk".to_string());
        let echo = Echo { from: "client".to_string(), to: "server".to_string(), label, delay: ms(500), count: 2 };
        let other = Echo { label: LabelPattern::Exact("else".to_string()), ..echo.clone() };
        let (fault, other) = (world.echo_frames(echo), world.echo_frames(other));
        world.sleep(secs(2)).await;
        let all = notes.all();
        let twice: Vec<&String> =
            all.iter().filter(|note| all.iter().filter(|other| other == note).count() > 1).collect();
        assert_eq!((twice.len(), world.echoed(fault), world.echoed(other)), (4, 2, 0), "{twice:?}");
        let first = all.iter().position(|note| note == twice[0]).expect("it came");
        let second = all.iter().rposition(|note| note == twice[0]).expect("it came again");
        assert!((40..60).contains(&(second - first)), "{first} and {second}");
        assert_eq!(errors(&all), Vec::<&str>::new());
    });
}

#[test]
fn nothing_comes_twice_after_the_healing() {
    in_world(1, |world| async move {
        scene(&world);
        world.sleep(ms(100)).await;
        let label = LabelPattern::Contains(String::new());
        let (from, to) = ("client".to_string(), "server".to_string());
        let fault = world.echo_frames(Echo { from, to, label, delay: ms(500), count: 90 });
        world.sleep(ms(700)).await;
        let before = world.echoed(fault);
        assert!(before > 5);
        world.end_echoes();
        world.sleep(secs(2)).await;
        assert_eq!(world.echoed(fault), before);
    });
}

#[test]
fn the_second_coming_of_a_frame_dies_with_its_connection() {
    in_world(1, |world| async move {
        let notes = scene(&world);
        world.sleep(ms(100)).await;
        let label = LabelPattern::Exact("talk".to_string());
        let fault = world.echo_frames(Echo {
            from: "client".to_string(),
            to: "server".to_string(),
            label,
            delay: ms(500),
            count: 3,
        });
        world.sleep(ms(100)).await;
        world.reset_connections("client", "server");
        world.sleep(secs(2)).await;
        assert_eq!(world.echoed(fault), 0);
        assert_eq!(notes.all().iter().filter(|note| *note == "0.11").count(), 1);
    });
}

/// How much later than sent each frame arrived, at most and at least, in milliseconds.
fn delays(world: &World) -> Notes {
    let notes = Notes::default();
    let told = notes.clone();
    launch(world, "server", move |platform| {
        let notes = told.clone();
        async move {
            let mut listener = platform.transport.listen(&at("server/data")).await.expect("listen");
            let mut connection = listener.accept().await.expect("accept");
            let mut last: Option<runtime::platform::Mono> = None;
            while recv(connection.receiver.as_mut()).await.is_ok() {
                let now = platform.clock.now();
                if let Some(last) = last.replace(now) {
                    notes.add(format!("{}", now.since(last).as_millis()));
                }
            }
        }
    });
    launch(world, "client", |platform| async move {
        let mut connection = dial(&platform, "server/data", "l", secs(1)).await.expect("connect");
        while say(&mut connection, &"x".repeat(1_000)).await.is_ok() {
            platform.clock.sleep(ms(10)).await;
        }
    });
    notes
}

fn longest(notes: &Notes, from: usize) -> u64 {
    notes.all()[from..].iter().map(|note| note.parse::<u64>().expect("a number")).max().expect("frames arrived")
}

#[test]
fn a_storm_of_jitter_passes() {
    in_world(1, |world| async move {
        let gaps = delays(&world);
        world.sleep(secs(1)).await;
        assert!(longest(&gaps, 0) <= 11);
        world.storm_link("server", "client", ms(400));
        world.sleep(secs(3)).await;
        let stormy = gaps.all().len();
        assert!(longest(&gaps, 90) > 50, "{:?}", gaps.all());
        world.storm_link("server", "client", ms(0));
        world.sleep(secs(2)).await;
        assert!(longest(&gaps, stormy + 60) <= 11, "{:?}", gaps.all());
    });
}

#[test]
fn bandwidth_collapses_and_comes_back() {
    in_world(1, |world| async move {
        let gaps = delays(&world);
        world.sleep(secs(1)).await;
        let before = gaps.all().len();
        // 1,250,000,000 bytes a second divided by this are 10,000: a frame takes a tenth of a second.
        world.choke_link("client", "server", 125_000);
        world.sleep(secs(2)).await;
        let choked = gaps.all().len() - before;
        assert!((18..=21).contains(&choked), "{choked} frames in two seconds");
        world.choke_link("client", "server", 1);
        // What has piled up comes at once.
        world.sleep(ms(10)).await;
        let whole = gaps.all().len();
        world.sleep(secs(1)).await;
        assert!((98..=101).contains(&(gaps.all().len() - whole)));
    });
}

#[test]
fn an_address_moves_for_new_connections_only() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        for name in ["server", "other"] {
            let told = notes.clone();
            launch(&world, name, move |platform| {
                let notes = told.clone();
                async move {
                    let address = at(&format!("{}/data", platform.process));
                    let mut listener = platform.transport.listen(&address).await.expect("listen");
                    let mut open = Vec::new();
                    loop {
                        let mut connection = listener.accept().await.expect("accept");
                        let frame = recv(connection.receiver.as_mut()).await;
                        notes.add(format!("{} {frame:?}", platform.process));
                        open.push(connection);
                    }
                }
            });
        }
        let told = notes.clone();
        launch(&world, "client", move |platform| {
            let notes = told.clone();
            async move {
                let mut first = dial(&platform, "server/data", "l", secs(1)).await.expect("connect");
                platform.clock.sleep(secs(1)).await;
                for n in 0..2 {
                    let mut later = dial(&platform, "server/data", "l", secs(1)).await.expect("connect");
                    say(&mut later, &format!("later {n}")).await.expect("send");
                    platform.clock.sleep(secs(1)).await;
                }
                say(&mut first, "first").await.expect("the old connection is what it was");
                let gone = dial(&platform, "nobody/data", "l", secs(1)).await;
                notes.add(format!("{}", matches!(gone, Err(NetError::Io(_)))));
            }
        });
        world.sleep(ms(500)).await;
        world.route("server", Some("other"));
        world.sleep(secs(1)).await;
        world.route("server", None);
        world.sleep(secs(3)).await;
        let mut all = notes.all();
        all.sort();
        let expected = ["other Ok(b\"later 0\")", "server Ok(b\"first\")", "server Ok(b\"later 1\")", "true"];
        assert_eq!(all, expected);
    });
}

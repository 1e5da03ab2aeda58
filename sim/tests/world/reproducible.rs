//! One seed is one execution: on any thread, in any process.

use std::{process::Command, rc::Rc, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use rand::RngExt;
use runtime::platform::{NativeOp, recv, send};
use sim::{Direction, Outcome, WorldConfig};

use crate::support::*;

const ENVIRONMENT: &str = "WEIR_SIM_PRINT_TRACE_OF_SEED";

/// A small cluster under fire: clients that write to disk and store and talk to a server, crashes by event, partitions.
fn run(seed: u64) -> Outcome<Vec<String>> {
    let config = WorldConfig { seed, ..WorldConfig::default() };
    sim::run(config, |world| {
        async move {
            launch(&world, "server", |platform| async move {
                let mut listener = platform.transport.listen(&at("server/data")).await.expect("listen");
                loop {
                    let mut connection = listener.accept().await.expect("accept");
                    let platform = platform.clone();
                    platform.clone().spawner.control(
                        "echo",
                        async move {
                            while let Ok(frame) = recv(connection.receiver.as_mut()).await {
                                mark(&platform, &String::from_utf8_lossy(&frame));
                                if send(connection.sender.as_mut(), frame).await.is_err() {
                                    return;
                                }
                            }
                        }
                        .boxed(),
                    );
                }
            });
            for client in ["tm-1", "tm-2", "tm-3"] {
                launch(&world, client, |platform| async move {
                    let name = platform.process.clone();
                    let id = platform.entropy.next_u64("name");
                    for n in 0.. {
                        let Ok(mut connection) = dial(&platform, "server/data", "rpc", secs(2)).await else { continue };
                        for k in 0..20 {
                            let text = format!("{name} {id:x} {n} {k}");
                            if send(connection.sender.as_mut(), Bytes::from(text.clone())).await.is_err() {
                                break;
                            }
                            let by = platform.clock.now() + secs(1);
                            let object = object(&format!("{name}/{id:x}/{n}/{k}"));
                            let stored = platform.primary.create(&object, vec![Bytes::from(text)], by).await;
                            mark(&platform, &format!("{stored:?}"));
                            let made = platform.disk.create_new(&path(&format!("d/{id:x}/{n}/{k}"))).await;
                            mark(&platform, &format!("{:?}", made.map(|_| ())));
                            let _ = platform.spawner.native(NativeOp::DatabaseFlush, Box::new(|| ())).await;
                            match recv(connection.receiver.as_mut()).await {
                                Ok(echo) => mark(&platform, &String::from_utf8_lossy(&echo)),
                                Err(error) => {
                                    mark(&platform, &error.to_string());
                                    break;
                                }
                            }
                        }
                    }
                });
            }
            let mut rng = world.rng("nemesis");
            let victim = rng.random_range(50..500_u64);
            world.set_listener(Rc::new(move |world, stamped| {
                if stamped.sequence % victim == victim - 1 {
                    world.restart(&stamped.process.clone());
                }
            }));
            for _ in 0..20 {
                world.sleep(Duration::from_millis(rng.random_range(1..400))).await;
                let tm = format!("tm-{}", rng.random_range(1..=3));
                match rng.random_range(0..4) {
                    0 => world.partition(&tm, "server", Direction::Both),
                    1 => world.heal_network(),
                    2 => {
                        world.lose_machine(&machine(&tm));
                        world.start(&tm);
                    }
                    _ => world.restart(&tm),
                }
            }
            world
                .store()
                .log()
                .iter()
                .map(|effect| format!("{} {} {:?}", effect.at, effect.name, effect.effect))
                .collect()
        }
        .boxed_local()
    })
}

fn fingerprint(seed: u64) -> String {
    let outcome = run(seed);
    let log = outcome.value.clone().expect("the scenario passes");
    format!("{} {} {:016x} {:?}", outcome.end.0, outcome.events, outcome.trace.final_hash, log.last())
}

#[test]
fn the_same_seed_gives_the_same_run_on_two_threads_at_once() {
    for seed in [1, 2, 3, 4] {
        let threads: Vec<_> = (0..2).map(|_| std::thread::spawn(move || run(seed))).collect();
        let mut outcomes = threads.into_iter().map(|thread| thread.join().expect("a thread"));
        let (first, second) = (outcomes.next(), outcomes.next());
        let events = first.as_ref().map_or(0, |outcome| outcome.events);
        assert!(events > 500, "{events} events are not much of a test");
        assert!(first == second, "seed {seed}");
    }
}

#[test]
fn different_seeds_give_different_runs() {
    assert_ne!(run(1).trace, run(2).trace);
}

/// The other side of the next test: prints a fingerprint if asked to.
#[test]
fn prints_its_fingerprint_when_asked() {
    if let Ok(seed) = std::env::var(ENVIRONMENT) {
        println!("fingerprint: {}", fingerprint(seed.parse().expect("a seed")));
    }
}

#[test]
fn the_same_seed_gives_the_same_run_in_two_processes() {
    let here = fingerprint(5);
    for _ in 0..2 {
        let output = Command::new(std::env::current_exe().expect("this test's binary"))
            .args(["--exact", "reproducible::prints_its_fingerprint_when_asked", "--nocapture"])
            .env(ENVIRONMENT, "5")
            .output()
            .expect("running this test's binary");
        let text = String::from_utf8_lossy(&output.stdout).to_string();
        assert!(text.contains(&format!("fingerprint: {here}")), "{here} expected in:\n{text}");
    }
}

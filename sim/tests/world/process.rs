//! Time, tasks, native calls, freezing, and the ends of a run.

use std::{rc::Rc, sync::Arc};

use futures::FutureExt;
use runtime::platform::{Mono, NativeError, NativeOp, TaskEnd, recv, timeout};
use sim::{FailureKind, ProcessStatus, WorldConfig};

use crate::support::*;

#[test]
fn timers_are_exact_to_a_microsecond_and_fire_in_order() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        let told = notes.clone();
        launch(&world, "p", move |platform| {
            let notes = told.clone();
            async move {
                let start = platform.clock.now();
                for micros in [300_u64, 10, 200, 3] {
                    let (clock, notes) = (platform.clock.clone(), notes.clone());
                    platform.spawner.control(
                        "sleeper",
                        async move {
                            clock.sleep_until(start + std::time::Duration::from_micros(micros)).await;
                            let late = clock.now().since(start).as_nanos() as u64 - micros * 1_000;
                            notes.add(format!("{micros} {}", late < 1_000));
                        }
                        .boxed(),
                    );
                }
                let never =
                    timeout(&*platform.clock, start + ms(1), platform.clock.sleep_until(Mono::FAR_FUTURE)).await;
                notes.add(format!("{never:?}"));
            }
        });
        world.sleep(ms(5)).await;
        assert_eq!(notes.all(), ["3 true", "10 true", "200 true", "300 true", "Err(TimedOut)"]);
    });
}

#[test]
fn actions_of_the_harness_come_when_they_should_and_can_be_taken_back() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        for (name, delay) in [("b", 20), ("a", 10), ("c", 30)] {
            let notes = notes.clone();
            let cancel = world.after(ms(delay), move |world| notes.add(format!("{name} {}", world.now())));
            if name == "c" {
                assert!(cancel.cancel());
            }
        }
        world.sleep(ms(50)).await;
        assert_eq!(notes.all(), ["a 0.010000s", "b 0.020000s"]);
    });
}

#[test]
fn a_drifting_clock_keeps_its_own_time() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        let told = notes.clone();
        world.add_machine("fast");
        world.set_clock_drift("fast", 1_000_000);
        world.jump_wall_clock("fast", -5_000);
        world.add_process(
            "p",
            "fast",
            program(move |platform| {
                let notes = told.clone();
                async move {
                    platform.clock.sleep(secs(2)).await;
                    notes.add("woke");
                }
            }),
        );
        world.start("p");
        world.sleep(ms(999)).await;
        assert!(notes.all().is_empty());
        world.sleep(ms(2)).await;
        assert_eq!(notes.all(), ["woke"]);
    });
}

#[test]
fn a_clock_whose_rate_changes_keeps_its_timers_and_never_goes_back() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        let told = notes.clone();
        launch(&world, "p", move |platform| {
            let notes = told.clone();
            async move {
                let (start, mut last) = (platform.clock.now(), platform.clock.now());
                for second in 1..=6 {
                    platform.clock.sleep_until(start + secs(second)).await;
                    assert!(platform.clock.now() >= last);
                    last = platform.clock.now();
                    notes.add(format!("{second}"));
                }
            }
        });
        world.sleep(ms(1_100)).await;
        assert_eq!(notes.all(), ["1"]);
        // The timer that is set already must ring by the new rate: nine tenths of a second are left, at double speed.
        world.set_clock_drift(&machine("p"), 1_000_000);
        world.sleep(ms(440)).await;
        assert_eq!(notes.all().len(), 1);
        world.sleep(ms(20)).await;
        assert_eq!(notes.all().len(), 2);
        world.set_clock_drift(&machine("p"), -500_000);
        world.sleep(ms(1_900)).await;
        assert_eq!(notes.all().len(), 2);
        world.sleep(ms(100)).await;
        assert_eq!(notes.all().len(), 3);
        world.set_clock_drift(&machine("p"), 0);
        world.sleep(ms(2_000)).await;
        assert_eq!(notes.all().len(), 5);
    });
}

#[test]
fn a_wall_clock_jumps_and_the_monotonic_one_does_not() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        let told = notes.clone();
        launch(&world, "p", move |platform| {
            let notes = told.clone();
            async move {
                let (mono, wall) = (platform.clock.now(), platform.clock.wall());
                for _ in 0..3 {
                    platform.clock.sleep(secs(1)).await;
                    let walked = platform.clock.wall().0.wrapping_sub(wall.0).cast_signed();
                    notes.add(format!("{} {walked}", platform.clock.now().since(mono).as_millis()));
                }
            }
        });
        world.sleep(ms(500)).await;
        world.jump_wall_clock(&machine("p"), -60_000);
        world.sleep(secs(1)).await;
        world.jump_wall_clock(&machine("p"), 60_000);
        world.sleep(secs(3)).await;
        assert_eq!(notes.all(), ["1000 -59000", "2000 2000", "3000 3000"]);
    });
}

#[test]
fn panics_stay_inside_of_tasks_and_of_native_calls() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        let told = notes.clone();
        launch(&world, "p", move |platform| {
            let notes = told.clone();
            async move {
                let task = platform.spawner.control("bad", async { panic!("boom") }.boxed());
                notes.add(format!("{:?}", task.await));
                let rc = notes.clone();
                let worker = platform.spawner.worker(
                    "local",
                    Box::new(move || {
                        let not_send = Rc::new(rc);
                        async move { not_send.add("worker ran") }.boxed_local()
                    }),
                );
                assert_eq!(worker.await, TaskEnd::Done);
                for op in [NativeOp::Encode, NativeOp::DatabaseOpen] {
                    let failed = platform.spawner.native(op, Box::new(|| panic!("in native code"))).await;
                    assert_eq!(failed, Err(NativeError::Panicked("in native code".to_string())));
                    let before = platform.clock.now();
                    let name = platform.spawner.native_value(op, || std::thread::current().name().map(String::from));
                    let name = name.await.expect("native call");
                    let cost = platform.clock.now().since(before);
                    notes.add(format!("{op:?} on {} cost {}", name.unwrap_or_default(), !cost.is_zero()));
                }
                let task = platform.spawner.control("endless", futures::future::pending().boxed());
                task.abort();
                assert_eq!(task.await, TaskEnd::Aborted);
                panic!("the program itself");
            }
        });
        world.sleep(secs(1)).await;
        assert_eq!(
            notes.all(),
            ["Panicked(\"boom\")", "worker ran", "Encode on sim-1 cost true", "DatabaseOpen on sim-native cost true"]
        );
        assert_eq!(world.status("p"), ProcessStatus::Panicked("the program itself".to_string()));
    });
}

#[test]
fn a_crash_falls_between_the_start_of_a_native_call_and_its_effect_or_after() {
    let mut ran = [0, 0];
    for seed in 0..40 {
        let happened = in_world(seed, |world| async move {
            let notes = Notes::default();
            let told = notes.clone();
            launch(&world, "p", move |platform| {
                let notes = told.clone();
                async move {
                    let inside = notes.clone();
                    let _ = platform.spawner.native(NativeOp::DatabaseFlush, Box::new(move || inside.add("ran"))).await;
                    notes.add("returned");
                }
            });
            world.sleep(std::time::Duration::from_micros(1_500)).await;
            world.crash("p");
            world.sleep(secs(1)).await;
            notes.all()
        });
        if happened.iter().all(|note| note != "returned") {
            ran[happened.len()] += 1;
        }
    }
    assert!(ran[0] > 0 && ran[1] > 0, "{ran:?}");
}

#[test]
fn a_frozen_process_does_nothing_and_goes_on_after_the_thaw() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        let told = notes.clone();
        launch(&world, "p", move |platform| {
            let notes = told.clone();
            async move {
                for n in 0.. {
                    platform.clock.sleep(ms(100)).await;
                    notes.add(format!("{n}"));
                }
            }
        });
        world.sleep(ms(250)).await;
        assert!(world.freeze("p") && !world.freeze("p"));
        world.sleep(secs(10)).await;
        assert_eq!(notes.all().len(), 2);
        assert!(world.thaw("p") && !world.thaw("p"));
        world.sleep(ms(150)).await;
        assert_eq!(notes.all().len(), 4);
        world.freeze("p");
        world.crash("p");
        world.sleep(secs(1)).await;
        assert_eq!(notes.all().len(), 4);
        world.restart("p");
        world.sleep(ms(150)).await;
        assert_eq!(notes.all().len(), 5);
    });
}

#[test]
fn a_panic_of_the_harness_its_listener_or_its_actions_fails_the_run() {
    let config = WorldConfig::default();
    let harness = sim::run(config.clone(), |_| async { panic!("harness") }.boxed_local());
    let harness: Result<(), _> = harness.value;
    assert_eq!(harness.expect_err("panic").message, "harness");
    let action = sim::run(config.clone(), |world| {
        async move {
            world.after(ms(1), |_| panic!("action"));
            world.sleep(secs(10)).await;
        }
        .boxed_local()
    });
    assert_eq!(action.value.expect_err("panic").message, "action");
    assert!(action.end.elapsed() < ms(2));
    let listener = sim::run(config, |world| {
        async move {
            world.set_listener(Rc::new(|_, _| panic!("invariant")));
            launch(&world, "p", |platform| async move {
                mark(&platform, "x");
                platform.clock.sleep(secs(100)).await;
            });
            world.sleep(secs(10)).await;
        }
        .boxed_local()
    });
    let failure = listener.value.expect_err("panic");
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Panic, "invariant"));
}

#[test]
fn time_is_limited_also_when_nothing_can_happen_any_more() {
    let config = WorldConfig { time_limit: secs(5), ..WorldConfig::default() };
    let outcome = sim::run(config, |_| futures::future::pending::<()>().boxed_local());
    assert_eq!(outcome.value.expect_err("time limit").kind, FailureKind::TimeLimit);
    assert_eq!(outcome.end.elapsed().as_secs(), 5);
}

#[test]
fn nothing_leaks_whether_the_run_ends_well_or_not() {
    for fails in [false, true] {
        let witness = Arc::new(());
        let held = witness.clone();
        let outcome = sim::run(WorldConfig::default(), move |world| {
            async move {
                for name in ["a", "b"] {
                    let held = held.clone();
                    launch(&world, name, move |platform| {
                        let held = held.clone();
                        async move {
                            let mut listener = platform
                                .transport
                                .listen(&at(&format!("{}/x", platform.process)))
                                .await
                                .expect("listen");
                            let mine = held.clone();
                            let forever = async move {
                                futures::future::pending::<()>().await;
                                drop(mine);
                            };
                            platform.spawner.control("forever", forever.boxed());
                            let _ = dial(&platform, "a/x", "l", secs(1)).await;
                            let _ = listener.accept().await;
                            platform.clock.sleep(secs(1000)).await;
                            drop((held, platform));
                        }
                    });
                }
                let (clone, mine) = (world.clone(), held.clone());
                world.set_listener(Rc::new(move |_, _| drop((clone.clone(), mine.clone()))));
                let (clone, mine) = (world.clone(), held.clone());
                world.after(secs(1000), move |_| drop((clone, mine)));
                world.sleep(ms(10)).await;
                world.freeze("b");
                world.sleep(ms(10)).await;
                assert!(!fails, "as wanted");
            }
            .boxed_local()
        });
        assert_eq!(outcome.value.is_err(), fails);
        assert_eq!(Arc::strong_count(&witness), 1);
    }
}

#[test]
fn a_process_that_needs_more_memory_than_it_may_is_killed_at_that_instant() {
    in_world(1, |world| async move {
        let notes = Notes::default();
        let told = notes.clone();
        launch(&world, "p", move |platform| {
            let notes = told.clone();
            async move {
                let mut state = runtime::platform::Held::new(&platform.memory, 100);
                for bytes in [200, 300, 400, 500] {
                    platform.clock.sleep(secs(1)).await;
                    let upload = runtime::platform::Held::new(&platform.memory, 50);
                    state.resize(bytes);
                    drop(upload);
                    mark(&platform, &bytes.to_string());
                }
                platform.clock.sleep(secs(100)).await;
                drop(notes);
            }
        });
        world.sleep(ms(500)).await;
        assert_eq!(world.memory("p"), 100);
        let told = notes.clone();
        let on_kill: sim::OnKill = std::rc::Rc::new(move |world| told.add(format!("alive: {}", world.is_alive("p"))));
        assert!(world.limit_memory("p", 350, on_kill.clone()));
        world.sleep(secs(2)).await;
        // 300 and the upload of 50 are just within it.
        assert_eq!((world.memory("p"), world.events(), notes.all().len()), (300, 2, 0));
        world.sleep(secs(1)).await;
        assert_eq!((world.is_alive("p"), world.events()), (false, 2));
        assert_eq!(notes.all(), ["alive: true"]);
        assert!(!world.limit_memory("p", 1, on_kill), "it does not run");
        // The limit dies with the incarnation, and a lifted one kills nobody.
        world.restart("p");
        world.sleep(ms(100)).await;
        let never: sim::OnKill = std::rc::Rc::new(|_| panic!("it was lifted"));
        world.limit_memory("p", 150, never);
        world.lift_memory_limit("p");
        world.sleep(secs(10)).await;
        assert_eq!((world.is_alive("p"), world.events()), (true, 6));
    });
}

#[test]
fn what_arrives_and_is_not_read_counts_as_memory_too() {
    in_world(1, |world| async move {
        launch(&world, "p", |platform| async move {
            let mut listener = platform.transport.listen(&at("p/data")).await.expect("listen");
            let mut connection = listener.accept().await.expect("accept");
            platform.clock.sleep(secs(10)).await;
            while recv(connection.receiver.as_mut()).await.is_ok() {}
        });
        launch(&world, "client", |platform| async move {
            let mut connection = dial(&platform, "p/data", "l", secs(1)).await.expect("connect");
            while say(&mut connection, &"x".repeat(1_000)).await.is_ok() {
                platform.clock.sleep(ms(100)).await;
            }
        });
        world.sleep(secs(2)).await;
        assert!((18_000..=20_000).contains(&world.memory("p")), "{}", world.memory("p"));
        world.limit_memory("p", 40_000, std::rc::Rc::new(|_| ()));
        world.sleep(secs(1)).await;
        assert!(world.is_alive("p"));
        world.sleep(secs(2)).await;
        assert!(!world.is_alive("p"));
    });
}

//! Clock: time goes forward, timers fire not too early, dropped ones not at all.

use std::{future::pending, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use runtime::platform::{Mono, TimedOut, timeout};

use super::Stage;

pub async fn sleeps_not_less_than_asked(stage: Stage) {
    let clock = &stage.here.clock;
    let wall = clock.wall();
    for millis in [1, 7, 20] {
        let asked = Duration::from_millis(millis);
        let before = clock.now();
        clock.sleep(asked).await;
        assert!(clock.now().since(before) >= asked, "woke up early: {:?} of {asked:?}", clock.now().since(before));
    }
    assert!(clock.wall() >= wall, "the wall clock of a quiet machine went back");
}

pub async fn a_passed_deadline_is_ready(stage: Stage) {
    let clock = &stage.here.clock;
    clock.sleep_until(Mono::default()).await;
    let before = clock.now();
    clock.sleep_until(before).await;
    assert!(clock.now() >= before);
}

pub async fn timers_fire_in_order_of_their_deadlines(stage: Stage) {
    let clock = &stage.here.clock;
    let start = clock.now();
    let mut timers: FuturesUnordered<_> = [90, 10, 50]
        .into_iter()
        .map(|millis| {
            let timer = clock.sleep_until(start + Duration::from_millis(millis));
            async move {
                timer.await;
                millis
            }
        })
        .collect();
    let mut fired = Vec::new();
    while let Some(millis) = timers.next().await {
        fired.push(millis);
    }
    assert_eq!(fired, [10, 50, 90]);
}

pub async fn dropped_and_endless_timers_bother_nobody(stage: Stage) {
    let clock = &stage.here.clock;
    for _ in 0..1_000 {
        drop(clock.sleep(Duration::from_millis(1)));
    }
    // Polled once, then dropped.
    let soon = clock.now() + Duration::from_millis(5);
    assert_eq!(timeout(&**clock, soon, clock.sleep_until(Mono::FAR_FUTURE)).await, Err(TimedOut));
    assert!(clock.now() >= soon);
}

pub async fn timeout_gives_the_result_or_gives_up(stage: Stage) {
    let clock = &*stage.here.clock;
    assert_eq!(timeout(clock, clock.now(), async { 7 }).await, Ok(7), "a ready future wins over a passed deadline");
    assert_eq!(timeout(clock, clock.now() + Duration::from_millis(2), pending::<u8>()).await, Err(TimedOut));
    assert_eq!(timeout(clock, Mono::FAR_FUTURE, clock.sleep(Duration::from_millis(2))).await, Ok(()));
}

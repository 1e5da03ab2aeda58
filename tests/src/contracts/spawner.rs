//! Spawner: every task says how it ended, a panic stays where it happened, an abort takes effect.

use std::{future::pending, rc::Rc, time::Duration};

use futures::channel::{mpsc, oneshot};
use futures::{SinkExt, StreamExt};
use runtime::platform::{NativeError, NativeOp, TaskEnd};

use super::Stage;

pub async fn control_tasks_end_and_say_how(stage: Stage) {
    let spawner = &stage.here.spawner;
    let clock = stage.here.clock.clone();
    let quiet = spawner.control("quiet", Box::pin(async move { clock.sleep(Duration::from_millis(2)).await }));
    assert_eq!(quiet.await, TaskEnd::Done);
    let loud = spawner.control("loud", Box::pin(async { panic!("expected by the test: {}", 7) }));
    assert_eq!(loud.await, TaskEnd::Panicked("expected by the test: 7".to_string()));
    let endless = spawner.control("endless", Box::pin(pending()));
    endless.abort();
    endless.abort();
    assert_eq!(endless.await, TaskEnd::Aborted);
    // The world goes on.
    assert_eq!(spawner.control("after", Box::pin(async {})).await, TaskEnd::Done);
}

pub async fn a_detached_task_goes_on(stage: Stage) {
    let (tx, rx) = oneshot::channel();
    let clock = stage.here.clock.clone();
    drop(stage.here.spawner.control(
        "detached",
        Box::pin(async move {
            clock.sleep(Duration::from_millis(5)).await;
            let _ = tx.send(7);
        }),
    ));
    assert_eq!(rx.await, Ok(7));
}

pub async fn a_worker_runs_a_body_bound_to_its_thread(stage: Stage) {
    let (tx, rx) = oneshot::channel();
    let platform = stage.here.clone();
    let worker = stage.here.spawner.worker(
        "count[0]",
        Box::new(move || {
            let own = Rc::new(7);
            Box::pin(async move {
                for _ in 0..5 {
                    platform.clock.sleep(Duration::from_millis(1)).await;
                }
                let _ = tx.send(*own);
            })
        }),
    );
    assert_eq!(worker.await, TaskEnd::Done);
    assert_eq!(rx.await, Ok(7));
}

pub async fn a_workers_panic_is_its_own(stage: Stage) {
    let spawner = &stage.here.spawner;
    let running = spawner.worker("bad[0]", Box::new(|| Box::pin(async { panic!("expected by the test: running") })));
    assert_eq!(running.await, TaskEnd::Panicked("expected by the test: running".to_string()));
    let starting = spawner.worker("bad[1]", Box::new(|| panic!("expected by the test: starting")));
    assert_eq!(starting.await, TaskEnd::Panicked("expected by the test: starting".to_string()));
    assert_eq!(spawner.worker("good[0]", Box::new(|| Box::pin(async {}))).await, TaskEnd::Done);
}

pub async fn an_aborted_worker_stops_and_is_torn_down(stage: Stage) {
    struct Last(Option<oneshot::Sender<()>>);
    impl Drop for Last {
        fn drop(&mut self) {
            let _ = self.0.take().expect("dropped once").send(());
        }
    }
    let (started_tx, started) = oneshot::channel();
    let (last_tx, last) = oneshot::channel();
    let worker = stage.here.spawner.worker(
        "endless[0]",
        Box::new(move || {
            Box::pin(async move {
                let _last = Last(Some(last_tx));
                let _ = started_tx.send(());
                pending::<()>().await;
            })
        }),
    );
    started.await.expect("the worker runs");
    worker.abort_handle().abort();
    assert_eq!(worker.await, TaskEnd::Aborted);
    assert_eq!(last.await, Ok(()), "what the body held is dropped");
}

pub async fn tasks_wake_each_other(stage: Stage) {
    // A number goes round between a control task and a worker.
    let (mut to_worker, mut from_control) = mpsc::channel::<u32>(0);
    let (mut to_control, mut from_worker) = mpsc::channel::<u32>(0);
    let control = stage.here.spawner.control(
        "ping",
        Box::pin(async move {
            for n in 0..500 {
                to_worker.send(n).await.expect("the worker listens");
                assert_eq!(from_worker.next().await, Some(n));
            }
        }),
    );
    let worker = stage.here.spawner.worker(
        "pong[0]",
        Box::new(move || {
            Box::pin(async move {
                while let Some(n) = from_control.next().await {
                    to_control.send(n).await.expect("control listens");
                }
            })
        }),
    );
    assert_eq!(control.await, TaskEnd::Done);
    assert_eq!(worker.await, TaskEnd::Done);
}

pub async fn native_calls_return_values_and_panics(stage: Stage) {
    let spawner = &stage.here.spawner;
    for op in [NativeOp::Encode, NativeOp::DatabaseFlush] {
        assert_eq!(spawner.native_value(op, || 6 * 7).await, Ok(42));
        assert_eq!(
            spawner.native_value(op, || if true { panic!("expected by the test") } else { 1 }).await,
            Err(NativeError::Panicked("expected by the test".to_string()))
        );
    }
}

//! A run: one world, from its beginning to its end, on a thread of its own.

use std::{
    any::Any,
    cell::RefCell,
    fmt,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    task::Poll,
    time::Duration,
};

use futures::{FutureExt, future::LocalBoxFuture};
use madsim::{runtime::Runtime, time::TimeHandle};
use serde::{Deserialize, Serialize};

use crate::{
    config::WorldConfig, event_queue::Driver, local::LocalFuture, native::Helper, time::SimTime, trace::Trace,
    world::World,
};

/// Why a run gave no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The harness, its listener or one of its actions panicked, or a destructor somewhere in the simulation.
    Panic,
    /// [`WorldConfig::time_limit`] passed, or nothing was left that could ever happen.
    TimeLimit,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunPanic {
    pub kind: FailureKind,
    pub message: String,
}

impl fmt::Display for RunPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RunPanic {}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome<T> {
    pub value: Result<T, RunPanic>,
    /// When it ended.
    pub end: SimTime,
    /// How many events the processes emitted.
    pub events: u64,
    pub trace: Trace,
}

const STACK_BYTES: usize = 16 << 20;

/// Runs `main`, the harness, in a world of its own, on a fresh thread, until it returns, panics, or time is up. Then
/// everything in the world ends, and all of it is dropped before this returns.
///
/// # Panics
/// If a thread cannot be started.
pub fn run<T, F>(config: WorldConfig, main: F) -> Outcome<T>
where
    T: Send + 'static,
    F: FnOnce(World) -> LocalBoxFuture<'static, T> + Send + 'static,
{
    let (helper, helper_thread) = Helper::start().expect("starting the helper thread of a simulation");
    let outcome = std::thread::Builder::new()
        .name(format!("sim-{}", config.seed))
        .stack_size(STACK_BYTES)
        .spawn(move || on_this_thread(config, helper, main))
        .expect("starting the thread of a simulation")
        .join();
    // The helper ends when the simulation's thread has dropped its end; a panic of a job was caught.
    let _ = helper_thread.join();
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn on_this_thread<T: 'static>(
    config: WorldConfig,
    helper: Helper,
    main: impl FnOnce(World) -> LocalBoxFuture<'static, T> + 'static,
) -> Outcome<T> {
    let runtime = Runtime::with_seed_and_config(config.seed, madsim::Config::default());
    let time = runtime.block_on(async { TimeHandle::current() });
    let world = World::new(config, runtime.handle().clone(), time, helper);
    let value: Rc<RefCell<Option<T>>> = Rc::default();

    let ran = catch_unwind(AssertUnwindSafe(|| {
        let driver = runtime.create_node().name("weir-world").build();
        driver.spawn(LocalFuture(Driver(world.clone())));
        let harness = runtime.create_node().name("weir-harness").build();
        let (result, harness_world) = (value.clone(), world.clone());
        let main = AssertUnwindSafe(async move { main(harness_world).await }).catch_unwind();
        let end_world = world.clone();
        *world.inner().own_nodes.borrow_mut() = vec![driver, harness.clone()];
        harness.spawn(LocalFuture(async move {
            match main.await {
                Ok(done) => {
                    *result.borrow_mut() = Some(done);
                    end_world.end();
                }
                Err(panic) => end_world.fail_with_panic(panic.as_ref()),
            }
        }));
        let waiting = world.clone();
        runtime.block_on(poll_fn(move |cx| {
            if waiting.inner().ended.get() {
                return Poll::Ready(());
            }
            *waiting.inner().end_waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        }));
    }));
    if let Err(panic) = ran {
        // A destructor panicked, or madsim itself did.
        let message = panic_message(panic.as_ref());
        world.fail_after_the_fact(message);
    }
    // One tick, in which madsim drops the tasks of the killed nodes.
    let torn_down = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async { madsim::time::sleep(Duration::from_millis(1)).await });
    }));
    if let Err(panic) = torn_down {
        world.fail_after_the_fact(format!("while everything was dropped: {}", panic_message(panic.as_ref())));
    }
    let failure = world.inner().failure.borrow_mut().take();
    let at_end = world.inner().at_end.borrow_mut().take();
    world.dissolve();
    drop(runtime);
    drop(world);
    let (end, events, trace) =
        at_end.map_or((SimTime::ZERO, 0, Trace::default()), |at_end| (at_end.at, at_end.events, at_end.trace));
    let value = match (failure, value.take()) {
        (Some(failure), _) => Err(failure),
        (None, Some(value)) => Ok(value),
        (None, None) => {
            Err(RunPanic { kind: FailureKind::Panic, message: "the simulation ended without a result".to_string() })
        }
    };
    Outcome { value, end, events, trace }
}

/// The text of a panic.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic without a message".to_string())
}

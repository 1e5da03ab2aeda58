//! Tasks and native calls of a process.

use std::{ops::Range, panic::AssertUnwindSafe, rc::Rc, time::Duration};

use futures::future::{BoxFuture, LocalBoxFuture};
use runtime::platform::{Fut, NativeError, NativeOp, Spawner, Task};

use crate::{
    config::draw,
    disk::DiskOperation,
    local::{Local, LocalFuture, boxed},
    process::Incarnation,
    run::panic_message,
};

const fn micros(from: u64, to: u64) -> Range<Duration> {
    Duration::from_micros(from)..Duration::from_micros(to)
}

/// What a call costs in simulated time, before and after its effect; a crash can fall into either.
fn cost(op: NativeOp) -> (Range<Duration>, Range<Duration>) {
    match op {
        NativeOp::Encode => (micros(0, 0), micros(20, 400)),
        NativeOp::DatabaseOpen => (micros(500, 3_000), micros(500, 3_000)),
        NativeOp::DatabaseFlush => (micros(200, 4_000), micros(200, 4_000)),
        NativeOp::DatabaseCompact => (micros(500, 10_000), micros(500, 10_000)),
        NativeOp::DatabaseCheckpoint => (micros(200, 2_000), micros(200, 2_000)),
        NativeOp::DatabaseClose => (micros(100, 1_000), micros(100, 1_000)),
    }
}

/// What a call does to the disk. RocksDB's own files lie in a directory of the real machine, which cannot be made to fail; so the
/// simulated disk is asked in its place, and the call fails without having been made, as RocksDB's would.
fn device_operation(op: NativeOp) -> Option<DiskOperation> {
    match op {
        NativeOp::Encode | NativeOp::DatabaseClose => None,
        NativeOp::DatabaseOpen => Some(DiskOperation::DatabaseOpen),
        NativeOp::DatabaseFlush => Some(DiskOperation::DatabaseFlush),
        NativeOp::DatabaseCompact => Some(DiskOperation::DatabaseCompact),
        NativeOp::DatabaseCheckpoint => Some(DiskOperation::DatabaseCheckpoint),
    }
}

pub(crate) struct SimSpawner(pub Local<Rc<Incarnation>>);

impl SimSpawner {
    fn spawn(&self, body: impl Future<Output = ()> + 'static) -> Task {
        let (task, body) = Task::wrap(body);
        let owner = &*self.0;
        if owner.is_alive() {
            owner.world.count_spawn();
            owner.node.spawn(LocalFuture(body));
        }
        // Else the body is dropped here, and the handle says "aborted".
        task
    }
}

impl Spawner for SimSpawner {
    fn control(&self, _name: &str, body: BoxFuture<'static, ()>) -> Task {
        self.spawn(body)
    }

    fn worker(&self, _name: &str, body: Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>) -> Task {
        self.spawn(async move { body().await })
    }

    fn native(&self, op: NativeOp, call: Box<dyn FnOnce() + Send>) -> Fut<'static, Result<(), NativeError>> {
        let owner = (*self.0).clone();
        let call = HelperCall { call: Some(call), owner: owner.clone() };
        boxed(async move {
            owner.alive_or_never().await;
            let (before, after) = cost(op);
            let (before, after) = {
                let mut rng = owner.native_rng.borrow_mut();
                (draw(&before, &mut *rng), draw(&after, &mut *rng))
            };
            if before > 0 {
                owner.pause(before).await;
            }
            owner.alive_or_never().await;
            if let Some(error) = device_operation(op).and_then(|op| owner.machine.disk.database_error(op)) {
                owner.pause(after).await;
                owner.alive_or_never().await;
                return Err(NativeError::Device(error));
            }
            let result = call.run(op);
            owner.pause(after).await;
            owner.alive_or_never().await;
            result
        })
    }
}

/// A native call that has not run yet. What it holds (open databases, say) must be dropped on the helper thread as well.
struct HelperCall {
    call: Option<Box<dyn FnOnce() + Send>>,
    owner: Rc<Incarnation>,
}

impl HelperCall {
    fn run(mut self, op: NativeOp) -> Result<(), NativeError> {
        let Some(call) = self.call.take() else { return Err(NativeError::Dead) };
        if op == NativeOp::Encode {
            std::panic::catch_unwind(AssertUnwindSafe(call))
                .map_err(|panic| NativeError::Panicked(panic_message(panic.as_ref())))
        } else {
            self.owner.world.inner().helper.run(call)
        }
    }
}

impl Drop for HelperCall {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            // A panicking destructor of a call that never ran concerns nobody.
            let _ = self.owner.world.inner().helper.run(Box::new(move || drop(call)));
        }
    }
}

//! Control tasks on tokio, a thread for each subtask, a pool for blocking calls.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use futures::future::{BoxFuture, LocalBoxFuture};

use super::{
    super::{Fut, NativeError, NativeOp, Spawner, Task, TaskEnd, spawner::panic_message},
    reactor::Reactor,
};

pub(super) struct RealSpawner {
    reactor: Reactor,
}

impl RealSpawner {
    pub(super) fn new(reactor: Reactor) -> RealSpawner {
        RealSpawner { reactor }
    }
}

impl Spawner for RealSpawner {
    fn control(&self, _name: &str, body: BoxFuture<'static, ()>) -> Task {
        let (task, body) = Task::wrap(body);
        self.reactor.handle().spawn(body);
        task
    }

    fn worker(&self, name: &str, body: Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>) -> Task {
        let (task, running) = Task::prepare();
        // Kept aside, so that a thread that cannot be started is reported with its reason.
        let running = Arc::new(Mutex::new(Some(running)));
        let for_thread = running.clone();
        let take = |slot: &Mutex<Option<_>>| slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let started = thread::Builder::new().name(name.to_string()).spawn(move || {
            if let Some(running) = take(&for_thread) {
                // The body is made inside of the future: a panic while making it is the task's, not the thread's.
                block_on(running.wrap(async move { body().await }));
            }
        });
        if let Err(e) = started
            && let Some(running) = take(&running)
        {
            running.end(TaskEnd::Panicked(format!("cannot start a thread for {name}: {e}")));
        }
        task
    }

    fn native(&self, _op: NativeOp, call: Box<dyn FnOnce() + Send>) -> Fut<'static, Result<(), NativeError>> {
        let joined = self.reactor.handle().spawn_blocking(call);
        Box::pin(async move {
            joined.await.map_err(|e| match e.try_into_panic() {
                Ok(panic) => NativeError::Panicked(panic_message(panic.as_ref())),
                Err(_) => NativeError::Dead,
            })
        })
    }
}

/// Wakes a thread. The flag is what counts: code within the future may park and so swallow the thread's own token.
struct ThreadWaker {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // One unpark for many wakes.
        if !self.woken.swap(true, Ordering::Release) {
            self.thread.unpark();
        }
    }
}

/// Runs `future` on this thread, which no runtime need know, and which sleeps while there is nothing to do.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Arc::new(ThreadWaker { thread: thread::current(), woken: AtomicBool::new(false) });
    let task_waker = Waker::from(waker.clone());
    let mut cx = Context::from_waker(&task_waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        while !waker.woken.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }
}

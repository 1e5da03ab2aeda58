//! Tasks, subtask threads, and blocking native calls.

use std::{
    any::Any,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{
    FutureExt,
    channel::oneshot,
    future::{AbortHandle, AbortRegistration, Abortable, BoxFuture, LocalBoxFuture},
};

use super::Fut;

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEnd {
    Done,
    /// The task panicked, with the panic's message. The process goes on.
    Panicked(String),
    /// The task was aborted, or its process died.
    Aborted,
}

/// A spawned task. Dropping the handle detaches the task; [`Task::abort`] ends it at its next suspension point.
/// Awaiting it yields how it ended.
pub struct Task {
    end: oneshot::Receiver<TaskEnd>,
    abort: AbortHandle,
}

impl Task {
    /// Wraps `body` so that a panic is contained and an abort takes effect; both worlds build their tasks with it.
    pub fn wrap<F: Future<Output = ()>>(body: F) -> (Task, impl Future<Output = ()> + use<F>) {
        let (task, wrapper) = Task::prepare();
        (task, wrapper.wrap(body))
    }

    /// A handle now, for a body that will be made elsewhere: a `!Send` body has to be made on the thread that runs it.
    /// Dropping the [`TaskBody`] ends the task as aborted.
    pub fn prepare() -> (Task, TaskBody) {
        let (abort, registration) = AbortHandle::new_pair();
        let (report, end) = oneshot::channel();
        (Task { end, abort }, TaskBody { report, registration })
    }

    /// Ends the task at its next suspension point. Idempotent.
    pub fn abort(&self) {
        self.abort.abort();
    }

    /// A handle that can abort the task after the task itself was moved elsewhere.
    pub fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }
}

/// The running side of a [`Task`].
pub struct TaskBody {
    report: oneshot::Sender<TaskEnd>,
    registration: AbortRegistration,
}

impl TaskBody {
    /// `body`, with panics contained, open to [`Task::abort`], and its end reported.
    pub fn wrap<F: Future<Output = ()>>(self, body: F) -> impl Future<Output = ()> + use<F> {
        let TaskBody { report, registration } = self;
        let body = Abortable::new(AssertUnwindSafe(body).catch_unwind(), registration);
        async move {
            let how = match body.await {
                Ok(Ok(())) => TaskEnd::Done,
                Ok(Err(panic)) => TaskEnd::Panicked(panic_message(panic.as_ref())),
                Err(futures::future::Aborted) => TaskEnd::Aborted,
            };
            // The handle may be detached.
            let _ = report.send(how);
        }
    }

    /// Ends a task that never came to run.
    pub fn end(self, how: TaskEnd) {
        let _ = self.report.send(how);
    }
}

impl Future for Task {
    type Output = TaskEnd;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TaskEnd> {
        // A dropped reporter means that the task was dropped before it ended.
        self.end.poll_unpin(cx).map(|r| r.unwrap_or(TaskEnd::Aborted))
    }
}

/// The text of a panic payload.
pub fn panic_message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_string())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a message".to_string())
}

/// What a blocking call is for; the simulated world gives each its own cost and fault points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NativeOp {
    /// Encoding or decoding state: pure computation, no C++. The simulated world runs it inline.
    Encode,
    DatabaseOpen,
    DatabaseFlush,
    DatabaseCompact,
    DatabaseCheckpoint,
    DatabaseClose,
}

/// Why a native call gave no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NativeError {
    #[error("native call panicked: {0}")]
    Panicked(String),
    #[error("native call was given up because its process died")]
    Dead,
    /// The device under it failed, in the words of the native code. Only the simulated world says so of its own; in the real one the
    /// call itself gives its error.
    #[error("{0}")]
    Device(String),
}

/// Runs things. See the crate documentation for what runs where.
pub trait Spawner: Send + Sync {
    /// A control-plane task. It must never run user code, nor compute for long.
    fn control(&self, name: &str, body: BoxFuture<'static, ()>) -> Task;

    /// A subtask: in the real world it gets a thread of its own, in the simulated one it is a local task. The body may
    /// block its thread in user code; only itself suffers.
    fn worker(&self, name: &str, body: Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>) -> Task;

    /// Runs a blocking call away from the control plane and from the caller.
    ///
    /// # Errors
    /// [`NativeError::Panicked`] if it panicked.
    fn native(&self, op: NativeOp, call: Box<dyn FnOnce() + Send>) -> Fut<'static, Result<(), NativeError>>;
}

impl dyn Spawner {
    /// [`Spawner::native`] with a result.
    ///
    /// # Errors
    /// As [`Spawner::native`].
    pub fn native_value<T: Send + 'static>(
        &self,
        op: NativeOp,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Fut<'static, Result<T, NativeError>> {
        let (tx, rx) = oneshot::channel();
        let done = self.native(
            op,
            Box::new(move || {
                let _ = tx.send(call());
            }),
        );
        Box::pin(async move {
            done.await?;
            rx.await.map_err(|_| NativeError::Dead)
        })
    }
}

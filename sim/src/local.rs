//! Thread-bound values behind traits that ask for `Send`.
//!
//! The seam's traits are `Send + Sync`, because the real world has threads. A simulation has one, and its state is full
//! of `Rc` and `RefCell`. The wrappers here carry such values through those bounds.
//!
//! Why that is sound: a simulation's values are only used on its own thread, which [`Local`] asserts at each use. The one
//! other thread that may hold them is the helper for native calls; while it runs, the simulation's thread is
//! blocked in a channel, so the two never run at once, and the channel orders their memory accesses. When the values
//! leave with the result of a run, the thread has ended.

use std::{
    future::Future,
    ops::Deref,
    pin::Pin,
    task::{Context, Poll},
};

use runtime::platform::Fut;

thread_local!(static MARK: u8 = const { 0 });

fn this_thread() -> usize {
    MARK.with(|mark| std::ptr::from_ref(mark) as usize)
}

/// A value for the simulation's thread only.
pub(crate) struct Local<T> {
    value: T,
    thread: usize,
}

// SAFETY: see the head of this file; `deref` refuses any other thread.
unsafe impl<T> Send for Local<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Local<T> {}

impl<T> Local<T> {
    pub fn new(value: T) -> Local<T> {
        Local { value, thread: this_thread() }
    }
}

impl<T> Deref for Local<T> {
    type Target = T;
    fn deref(&self) -> &T {
        assert!(
            self.thread == this_thread(),
            "a handle of a simulated process was used outside of its simulation's thread"
        );
        &self.value
    }
}

/// A future for the simulation's thread only.
pub(crate) struct LocalFuture<F>(pub F);

// SAFETY: see the head of this file: only the simulation's executor polls it, on the simulation's thread.
unsafe impl<F> Send for LocalFuture<F> {}

impl<F: Future> Future for LocalFuture<F> {
    type Output = F::Output;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: the inner future is never moved out of the pinned wrapper.
        unsafe { self.map_unchecked_mut(|wrapper| &mut wrapper.0) }.poll(cx)
    }
}

/// Boxes a future of the simulation's thread as the seam wants it.
pub(crate) fn boxed<'a, T>(future: impl Future<Output = T> + 'a) -> Fut<'a, T> {
    Box::pin(LocalFuture(future))
}

//! Entering tokio from threads that it does not own.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use tokio::runtime::Handle;

use super::super::Fut;

#[derive(Clone)]
pub(super) struct Reactor {
    handle: Handle,
}

impl Reactor {
    pub(super) fn new(handle: Handle) -> Reactor {
        Reactor { handle }
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// `future`, polled within this runtime's context by whoever polls it. Dropping it cancels it.
    pub(super) fn within<'a, T: 'a>(&self, future: impl Future<Output = T> + Send + 'a) -> Fut<'a, T> {
        Box::pin(Within { handle: self.handle.clone(), future: Box::pin(future) })
    }

    /// Runs a blocking call on the pool. If the caller gives up, the call still goes on to its end.
    pub(super) fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Fut<'static, io::Result<T>> {
        let joined = self.handle.spawn_blocking(call);
        Box::pin(async move {
            match joined.await {
                Ok(result) => result,
                Err(e) => Err(io::Error::other(format!("the call did not end: {e}"))),
            }
        })
    }
}

struct Within<'a, T> {
    handle: Handle,
    future: BoxFuture<'a, T>,
}

impl<T> Future for Within<'_, T> {
    type Output = T;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        let _context = this.handle.enter();
        this.future.as_mut().poll(cx)
    }
}

//! The result of an operation that an event of the queue will complete. The operation belongs to the queue, not to the
//! future that waits for it: dropping the future does not undo or stop the operation.

use std::{
    cell::RefCell,
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
};

pub(crate) struct Completion<T>(Rc<RefCell<State<T>>>);

struct State<T> {
    value: Option<T>,
    done: bool,
    waker: Option<Waker>,
}

impl<T> Clone for Completion<T> {
    fn clone(&self) -> Self {
        Completion(self.0.clone())
    }
}

impl<T> Completion<T> {
    pub fn new() -> Completion<T> {
        Completion(Rc::new(RefCell::new(State { value: None, done: false, waker: None })))
    }

    /// Completes it, unless that has happened: the first result counts. A late `value` is handed back.
    pub fn complete(&self, value: T) -> Result<(), T> {
        let waker = {
            let mut state = self.0.borrow_mut();
            if state.done {
                return Err(value);
            }
            state.done = true;
            state.value = Some(value);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// The result; at most one may wait.
    pub async fn wait(&self) -> T {
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            match state.value.take() {
                Some(value) => Poll::Ready(value),
                None => {
                    state.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

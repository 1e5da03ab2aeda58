//! The one queue of things to come, ordered by (deadline, sequence), and the task that works it off.
//!
//! madsim's own timers cannot be cancelled, sleep for at least a millisecond, and each poll of one adds another entry. So
//! only the driver uses them, and it adds an entry only if none that is pending comes early enough. Everything due at a
//! time is done in order of insertion before any task runs; what tasks then do comes in the order madsim draws.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use madsim::time::TimeHandle;

use crate::{connection::Connection, time::SimTime, world::World};

/// What to do when the time has come.
pub(crate) enum Action {
    Wake(Waker),
    /// Hands over what has arrived on one direction of a connection.
    Deliver(Rc<Connection>, usize),
    Call(Box<dyn FnOnce(&World)>),
}

/// Names an entry of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EventKey {
    at: u64,
    sequence: u64,
}

pub(crate) struct EventQueue {
    events: RefCell<BTreeMap<EventKey, Action>>,
    next_sequence: Cell<u64>,
    time: TimeHandle,
    origin: Instant,
    /// When madsim will wake the driver, all in the future.
    armed: RefCell<BTreeSet<u64>>,
    driver: RefCell<Option<Waker>>,
    /// The driver is at work and will arm itself when it is through.
    working: Cell<bool>,
    stopped: Cell<bool>,
    limit: u64,
}

impl EventQueue {
    pub fn new(time: TimeHandle, limit: SimTime) -> EventQueue {
        let origin = time.now_instant() - time.elapsed();
        EventQueue {
            events: RefCell::default(),
            next_sequence: Cell::new(0),
            time,
            origin,
            armed: RefCell::default(),
            driver: RefCell::default(),
            working: Cell::new(false),
            stopped: Cell::new(false),
            limit: limit.0,
        }
    }

    pub fn now(&self) -> SimTime {
        let elapsed = self.time.elapsed();
        SimTime(elapsed.as_secs() * 1_000_000 + u64::from(elapsed.subsec_nanos()) / 1_000)
    }

    /// Adds an entry; one in the past is due at once.
    pub fn insert(&self, at: SimTime, action: Action) -> EventKey {
        let sequence = self.next_sequence.get();
        self.next_sequence.set(sequence + 1);
        let key = EventKey { at: at.0, sequence };
        if !self.stopped.get() {
            self.events.borrow_mut().insert(key, action);
            if !self.working.get() {
                self.arm(at.0);
            }
        }
        key
    }

    pub fn call(&self, at: SimTime, action: impl FnOnce(&World) + 'static) -> EventKey {
        self.insert(at, Action::Call(Box::new(action)))
    }

    /// Takes an entry out, if it is still to come.
    pub fn cancel(&self, key: EventKey) -> Option<Action> {
        // Dropped by the caller, outside of the borrow.
        self.events.borrow_mut().remove(&key)
    }

    /// Lets a pending entry wake somebody else. False if there is no such entry any more.
    pub fn redirect(&self, key: EventKey, waker: &Waker) -> bool {
        match self.events.borrow_mut().get_mut(&key) {
            Some(Action::Wake(present)) => {
                if !present.will_wake(waker) {
                    present.clone_from(waker);
                }
                true
            }
            _ => false,
        }
    }

    /// Makes everything that only waits for a time look at its clock again.
    pub fn rouse(&self) {
        let sleepers: Vec<Action> = {
            let mut events = self.events.borrow_mut();
            events.extract_if(.., |_, action| matches!(action, Action::Wake(_))).map(|(_, action)| action).collect()
        };
        for sleeper in sleepers {
            if let Action::Wake(waker) = sleeper {
                waker.wake();
            }
        }
    }

    /// No entry comes due any more.
    pub fn stop(&self) {
        self.stopped.set(true);
    }

    /// Takes out everything, for the end of the world.
    pub fn drain(&self) -> BTreeMap<EventKey, Action> {
        self.events.take()
    }

    fn pop_due(&self, now: SimTime) -> Option<Action> {
        let mut events = self.events.borrow_mut();
        let entry = events.first_entry()?;
        (entry.key().at <= now.0).then(|| entry.remove())
    }

    /// Sees to it that the driver is woken by `at`.
    fn arm(&self, at: u64) {
        let driver = self.driver.borrow();
        // Before its first poll the driver is about to run anyway.
        let Some(waker) = driver.as_ref() else { return };
        let at = at.min(self.limit);
        if self.armed.borrow().first().is_some_and(|&earliest| earliest <= at) {
            return;
        }
        let mut sleep = self.time.sleep(Duration::ZERO);
        // Set directly, because the constructor rounds up to a whole millisecond.
        Pin::new(&mut sleep).reset(self.origin + Duration::new(at / 1_000_000, (at % 1_000_000) as u32 * 1_000));
        match Pin::new(&mut sleep).poll(&mut Context::from_waker(waker)) {
            Poll::Ready(()) => waker.wake_by_ref(),
            Poll::Pending => {
                self.armed.borrow_mut().insert(at);
            }
        }
    }
}

/// The driver's future: works off the queue for ever.
pub(crate) struct Driver(pub World);

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let world = &self.0;
        let queue = world.queue();
        if queue.driver.borrow().is_none() {
            *queue.driver.borrow_mut() = Some(cx.waker().clone());
        }
        let now = queue.now();
        {
            let mut armed = queue.armed.borrow_mut();
            while armed.first().is_some_and(|&at| at <= now.0) {
                armed.pop_first();
            }
        }
        queue.working.set(true);
        let worked = catch_unwind(AssertUnwindSafe(|| {
            while !queue.stopped.get()
                && let Some(action) = queue.pop_due(now)
            {
                match action {
                    Action::Wake(waker) => waker.wake(),
                    Action::Deliver(connection, direction) => connection.deliver(world, direction),
                    Action::Call(call) => call(world),
                }
            }
        }));
        queue.working.set(false);
        if let Err(panic) = worked {
            world.fail_with_panic(panic.as_ref());
        }
        if queue.stopped.get() {
            return Poll::Pending;
        }
        let next = queue.events.borrow().first_key_value().map(|(key, _)| key.at);
        if now.0 >= queue.limit {
            world.fail_with_time_limit();
        } else {
            queue.arm(next.unwrap_or(queue.limit));
        }
        Poll::Pending
    }
}

/// A pending [`World::after`]. Dropping it changes nothing.
pub struct Cancel {
    pub(crate) world: World,
    pub(crate) key: EventKey,
}

impl Cancel {
    /// Takes the action back. False if it has happened, or been cancelled, already.
    pub fn cancel(self) -> bool {
        self.world.queue().cancel(self.key).is_some()
    }
}

/// A pause of the harness, or of anything that is no process. Dropping it cancels it.
pub(crate) struct Pause {
    pub world: World,
    pub until: SimTime,
    pub key: Option<EventKey>,
}

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let queue = self.world.queue();
        if queue.now() >= self.until {
            return Poll::Ready(());
        }
        if !self.key.is_some_and(|key| queue.redirect(key, cx.waker())) {
            let key = queue.insert(self.until, Action::Wake(cx.waker().clone()));
            self.key = Some(key);
        }
        Poll::Pending
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            drop(self.world.queue().cancel(key));
        }
    }
}

//! The clocks of machines: each has an origin of its own, may run fast or slow, and its wall clock may jump.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use rand::{Rng, RngExt};
use runtime::platform::{Clock, Mono, Timer, Wall};

use crate::{
    event_queue::{Action, EventKey},
    local::{Local, LocalFuture},
    process::Incarnation,
    time::SimTime,
    world::World,
};

/// 2024-01-01.
const WALL_ORIGIN_MILLIS: u64 = 1_704_067_200_000;
const MILLION: u64 = 1_000_000;

pub(crate) struct MachineClock {
    rate: RefCell<Rate>,
    wall_offset_millis: Cell<i64>,
}

/// The monotonic clock reads `mono` at `at` and then advances `per_million` for each million of simulated time.
#[derive(Clone, Copy)]
struct Rate {
    at: u64,
    mono: u64,
    per_million: u64,
}

impl Rate {
    fn read(&self, now: SimTime) -> u64 {
        self.mono + (u128::from(now.0 - self.at) * u128::from(self.per_million) / u128::from(MILLION)) as u64
    }
}

impl MachineClock {
    pub fn new(rng: &mut impl Rng) -> MachineClock {
        // Some time since the machine was booted, so that readings of two machines cannot be taken for each other.
        let mono = rng.random_range(0..30 * 24 * 3600 * 1_000_000_000_u64);
        MachineClock {
            rate: RefCell::new(Rate { at: 0, mono, per_million: MILLION }),
            wall_offset_millis: Cell::new(0),
        }
    }

    pub fn mono(&self, now: SimTime) -> Mono {
        Mono(self.rate.borrow().read(now))
    }

    /// When the clock will read `deadline`, if its rate stays as it is. [`SimTime::NEVER`] for the far future.
    pub fn when(&self, deadline: Mono) -> SimTime {
        let rate = *self.rate.borrow();
        let ahead = u128::from(deadline.0.saturating_sub(rate.mono));
        let at = u128::from(rate.at) + (ahead * u128::from(MILLION)).div_ceil(u128::from(rate.per_million));
        // A hundred years are for ever; and the driver's arithmetic must not overflow.
        u64::try_from(at).ok().filter(|&at| at < 100 * 365 * 24 * 3600 * 1_000_000_000).map_or(SimTime::NEVER, SimTime)
    }

    fn wall(&self, now: SimTime) -> Wall {
        Wall((WALL_ORIGIN_MILLIS + now.0 / 1_000_000).saturating_add_signed(self.wall_offset_millis.get()))
    }
}

impl World {
    /// Lets a machine's monotonic clock gain (or lose) `parts_per_million` from now on; 0 is true time.
    ///
    /// # Panics
    /// If it would stand still or run backwards.
    pub fn set_clock_drift(&self, machine: &str, parts_per_million: i64) {
        let machine = self.machine(machine);
        let now = self.now();
        let mut rate = machine.clock.rate.borrow_mut();
        let per_million = MILLION.saturating_add_signed(parts_per_million);
        assert!(per_million > 0, "a monotonic clock cannot stand still");
        *rate = Rate { at: now.0, mono: rate.read(now), per_million };
        drop(rate);
        // Timers were set by the old rate.
        self.queue().rouse();
    }

    /// Sets a machine's wall clock forward or back.
    pub fn jump_wall_clock(&self, machine: &str, millis: i64) {
        let offset = &self.machine(machine).clock.wall_offset_millis;
        offset.set(offset.get().saturating_add(millis));
    }
}

pub(crate) struct SimClock(pub Local<Rc<Incarnation>>);

impl Clock for SimClock {
    fn now(&self) -> Mono {
        self.0.machine.clock.mono(self.0.world.now())
    }

    fn wall(&self) -> Wall {
        self.0.machine.clock.wall(self.0.world.now())
    }

    fn sleep_until(&self, deadline: Mono) -> Timer {
        Box::pin(LocalFuture(SimTimer { owner: self.0.clone(), deadline, key: None }))
    }
}

struct SimTimer {
    owner: Rc<Incarnation>,
    deadline: Mono,
    key: Option<EventKey>,
}

impl Future for SimTimer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let owner = self.owner.clone();
        if !owner.is_alive() {
            return Poll::Pending;
        }
        let queue = owner.world.queue();
        if owner.machine.clock.mono(queue.now()) >= self.deadline {
            return Poll::Ready(());
        }
        if !self.key.is_some_and(|key| queue.redirect(key, cx.waker())) {
            let at = owner.machine.clock.when(self.deadline);
            self.key = (at != SimTime::NEVER).then(|| queue.insert(at, Action::Wake(cx.waker().clone())));
        }
        Poll::Pending
    }
}

impl Drop for SimTimer {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            drop(self.owner.world.queue().cancel(key));
        }
    }
}

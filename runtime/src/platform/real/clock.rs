//! The clocks of the machine.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{
    super::{Clock, Mono, Timer, Wall},
    reactor::Reactor,
};

#[derive(Clone)]
pub(super) struct RealClock {
    reactor: Reactor,
    origin: Instant,
}

impl RealClock {
    pub(super) fn new(reactor: Reactor) -> RealClock {
        RealClock { reactor, origin: Instant::now() }
    }

    /// None if the deadline is too far away to be represented: it never comes.
    fn instant(&self, deadline: Mono) -> Option<tokio::time::Instant> {
        self.origin.checked_add(Duration::from_nanos(deadline.0)).map(tokio::time::Instant::from_std)
    }
}

impl Clock for RealClock {
    fn now(&self) -> Mono {
        Mono::default() + self.origin.elapsed()
    }

    fn wall(&self) -> Wall {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Wall(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }

    fn sleep_until(&self, deadline: Mono) -> Timer {
        let Some(instant) = self.instant(deadline).filter(|_| deadline != Mono::FAR_FUTURE) else {
            return Box::pin(std::future::pending());
        };
        // The timer registers with the runtime of its creation and may then be polled anywhere.
        let _context = self.reactor.handle().enter();
        Box::pin(tokio::time::sleep_until(instant))
    }
}

//! Time as a process sees it.

use std::{
    future::Future,
    ops::{Add, Sub},
    pin::Pin,
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// A reading of the monotonic clock, in nanoseconds since an arbitrary origin of this process's machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mono(pub u64);

impl Mono {
    /// The latest instant; a deadline that never comes.
    pub const FAR_FUTURE: Mono = Mono(u64::MAX);

    /// Time since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;
    fn add(self, d: Duration) -> Mono {
        Mono(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Mono> for Mono {
    type Output = Duration;
    fn sub(self, earlier: Mono) -> Duration {
        self.since(earlier)
    }
}

/// Wall-clock time in milliseconds since the Unix epoch. For people and for timestamps in metadata; safety never depends
/// on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Wall(pub u64);

/// A pending wake-up. Dropping it cancels it.
pub type Timer = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The clock of one process.
pub trait Clock: Send + Sync {
    fn now(&self) -> Mono;
    fn wall(&self) -> Wall;
    /// Completes once `now() >= deadline`.
    fn sleep_until(&self, deadline: Mono) -> Timer;

    fn sleep(&self, d: Duration) -> Timer {
        self.sleep_until(self.now() + d)
    }
}

/// The deadline passed before the future completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("deadline passed")]
pub struct TimedOut;

/// Runs `future` until `deadline`; on expiry drops it.
///
/// # Errors
/// [`TimedOut`] when the deadline comes first. If both are ready, the future wins.
pub async fn timeout<F: Future>(clock: &dyn Clock, deadline: Mono, future: F) -> Result<F::Output, TimedOut> {
    let timer = clock.sleep_until(deadline);
    futures::pin_mut!(future);
    match futures::future::select(future, timer).await {
        futures::future::Either::Left((output, _)) => Ok(output),
        futures::future::Either::Right(((), _)) => Err(TimedOut),
    }
}

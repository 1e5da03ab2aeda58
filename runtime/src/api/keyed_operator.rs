//! What the keyed operators have in common: user code's, and those made of it, which have timers of their own.

use super::process::KeyedProcess;
use crate::{
    checkpoint::types::Times,
    dataflow::chain::TimeMove,
    state::{
        KeyedBackend, KeyedContext, OpenContext, Record, StateError, StateKey, StateNamespace, TimeDomain, Timer,
        TimerService, UserError,
    },
};

/// Timers that fire before what came of them is handed on.
pub(super) const FIRED_AT_ONCE: usize = 256;

/// Which timer of a key is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FiredTimer {
    /// What it was registered for, in milliseconds since 1970.
    pub timestamp: i64,
    pub domain: TimeDomain,
}

/// An operator on a keyed stream, as the stage that runs it sees it.
pub(super) trait KeyedOperator: 'static {
    type Key: StateKey;
    type In: Record;
    type Out: Record;

    fn open(&mut self, ctx: &mut OpenContext<'_, Self::Key>) -> Result<(), UserError>;

    fn process(
        &mut self,
        value: Self::In,
        ctx: &mut KeyedContext<'_, Self::Key>,
        out: &mut Vec<Self::Out>,
    ) -> Result<(), UserError>;

    /// A time has moved on: fires up to `at_most` timers that are due. Says whether there may be more.
    fn fire(
        &mut self,
        state: &mut KeyedBackend<Self::Key>,
        time: TimeMove,
        at_most: usize,
        out: &mut Vec<Self::Out>,
    ) -> Result<bool, UserError>;

    /// Records dropped for being late, since the last call.
    fn take_late_records(&mut self) -> u64 {
        0
    }
}

impl<P: KeyedProcess> KeyedOperator for P {
    type Key = P::Key;
    type In = P::In;
    type Out = P::Out;

    fn open(&mut self, ctx: &mut OpenContext<'_, P::Key>) -> Result<(), UserError> {
        KeyedProcess::open(self, ctx)
    }

    #[inline]
    fn process(
        &mut self,
        value: P::In,
        ctx: &mut KeyedContext<'_, P::Key>,
        out: &mut Vec<P::Out>,
    ) -> Result<(), UserError> {
        KeyedProcess::process(self, value, ctx, out)
    }

    fn fire(
        &mut self,
        state: &mut KeyedBackend<P::Key>,
        time: TimeMove,
        at_most: usize,
        out: &mut Vec<P::Out>,
    ) -> Result<bool, UserError> {
        let (domain, now) = domain_of(time);
        let Some(service) = state.user_timers(domain) else { return Ok(false) };
        fire_due(state, service, now, at_most, |timer, ctx| {
            self.on_timer(FiredTimer { timestamp: timer.timestamp, domain }, ctx, out)
        })
    }
}

pub(super) fn domain_of(time: TimeMove) -> (TimeDomain, i64) {
    match time {
        TimeMove::Watermark(watermark) => (TimeDomain::Event, watermark),
        TimeMove::Processing(now) => (TimeDomain::Processing, now),
    }
}

pub(super) fn moved(times: Times, time: TimeMove) -> Times {
    match time {
        TimeMove::Watermark(watermark) => Times { watermark, ..times },
        TimeMove::Processing(processing) => Times { processing, ..times },
    }
}

/// Fires timers of one service, in order, each with the state of its key.
pub(super) fn fire_due<K: StateKey, N: StateNamespace>(
    state: &mut KeyedBackend<K>,
    service: TimerService<N>,
    now: i64,
    at_most: usize,
    mut each: impl FnMut(&Timer<K, N>, &mut KeyedContext<'_, K>) -> Result<(), UserError>,
) -> Result<bool, UserError> {
    for _ in 0..at_most {
        let Some(timer) = state.pop_due(service, now)? else { return Ok(false) };
        let Some(mut ctx) = state.context(&timer.key)? else {
            return Err(foreign_timer(&timer).into());
        };
        each(&timer, &mut ctx)?;
    }
    Ok(true)
}

fn foreign_timer<K, N>(timer: &Timer<K, N>) -> StateError {
    let detail = format!("it is for {} and of a key of another subtask", timer.timestamp);
    StateError::new("timers", crate::state::StateProblem::Decode { what: "timer", detail })
}

//! Windows over keyed streams, in event time: as Flink's `WindowOperator` with its event-time trigger.
//!
//! Each window of a key has an accumulator under the window as its namespace. A window fires when event time passes its
//! last instant; with allowed lateness it stays for so long, and fires again with each late record. Then a timer clears it.
//! A record all of whose windows are gone is late: it is dropped and counted, or handed on as late.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    keyed_operator::{KeyedOperator, domain_of, fire_due},
    stream::{KeyedStream, Stream},
    window_assigner::{TimeWindow, Windows},
};
use crate::{
    dataflow::chain::TimeMove,
    state::{
        Aggregate, KeyedBackend, KeyedContext, OpenContext, Record, StateError, StateKey, StateKind, TimeDomain,
        TimerService, UserError,
    },
};

/// What a window of a key gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowResult<K, O> {
    pub key: K,
    pub window: TimeWindow,
    pub value: O,
}

/// What comes out of windows that hand on late records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Windowed<K, T, O> {
    Fired(WindowResult<K, O>),
    /// Of this record all windows were gone.
    Late(T),
}

type Timestamp<T> = Arc<dyn Fn(&T) -> i64 + Send + Sync>;

/// A keyed stream cut into windows.
pub struct WindowedStream<K, T> {
    stream: KeyedStream<K, T>,
    windows: Windows,
    timestamp: Timestamp<T>,
    lateness: i64,
}

impl<K: StateKey, T: Record> KeyedStream<K, T> {
    /// Cuts the stream into windows by the timestamps of its records (milliseconds since 1970), which should be those that
    /// its source tells event time by.
    pub fn window(
        &self,
        windows: Windows,
        timestamp: impl Fn(&T) -> i64 + Send + Sync + 'static,
    ) -> WindowedStream<K, T> {
        WindowedStream { stream: self.clone(), windows, timestamp: Arc::new(timestamp), lateness: 0 }
    }
}

impl<K: StateKey + Record, T: Record> WindowedStream<K, T> {
    /// How long after its end a window still takes records.
    #[must_use]
    pub fn allowed_lateness(mut self, lateness: Duration) -> Self {
        self.lateness = i64::try_from(lateness.as_millis()).unwrap_or(i64::MAX);
        self
    }

    /// Combines the records of each window; its contents are kept under the uid. Late records are dropped and counted.
    pub fn aggregate<G>(&self, uid: impl Into<String>) -> Stream<WindowResult<K, G::Out>>
    where
        G: Aggregate<In = T>,
        G::Out: Record,
    {
        self.operator::<G>(uid.into(), false).flat_map(|windowed| match windowed {
            Windowed::Fired(result) => Some(result),
            Windowed::Late(_) => None,
        })
    }

    /// As [`Self::aggregate`], and hands on late records.
    pub fn aggregate_with_late<G>(&self, uid: impl Into<String>) -> Stream<Windowed<K, T, G::Out>>
    where
        G: Aggregate<In = T>,
        G::Out: Record,
    {
        self.operator::<G>(uid.into(), true)
    }

    fn operator<G>(&self, uid: String, hand_on_late: bool) -> Stream<Windowed<K, T, G::Out>>
    where
        G: Aggregate<In = T>,
        G::Out: Record,
    {
        let (windows, timestamp, lateness) = (self.windows, self.timestamp.clone(), self.lateness);
        self.stream.operate(uid, move || WindowOperator::<K, T, G> {
            windows,
            timestamp: timestamp.clone(),
            lateness,
            hand_on_late,
            contents: usize::MAX,
            sessions: usize::MAX,
            timers: TimerService::default(),
            late: 0,
            of: PhantomData,
        })
    }
}

struct WindowOperator<K, T, G> {
    windows: Windows,
    timestamp: Timestamp<T>,
    lateness: i64,
    hand_on_late: bool,
    /// Table of accumulators, by window.
    contents: usize,
    /// Table of the windows that a key has, if they merge.
    sessions: usize,
    timers: TimerService<TimeWindow>,
    late: u64,
    of: PhantomData<fn() -> (K, G)>,
}

impl<K, T, G> WindowOperator<K, T, G>
where
    K: StateKey + Record,
    T: Record,
    G: Aggregate<In = T>,
    G::Out: Record,
{
    /// When the contents of a window go.
    fn cleared_at(&self, window: TimeWindow) -> i64 {
        window.max_timestamp().saturating_add(self.lateness)
    }

    fn is_late(&self, window: TimeWindow, watermark: i64) -> bool {
        self.cleared_at(window) <= watermark
    }

    /// Puts the record into one window of its key.
    fn add(
        &self,
        value: T,
        window: TimeWindow,
        ctx: &mut KeyedContext<'_, K>,
        out: &mut Vec<Windowed<K, T, G::Out>>,
    ) -> Result<(), StateError> {
        let accumulator = ctx.value_get_or_insert_with(self.contents, &window, G::create)?;
        G::add(accumulator, value);
        if window.max_timestamp() <= ctx.watermark() {
            self.give(window, ctx, out)?;
        } else {
            self.timers.register_in(ctx, window.max_timestamp(), &window)?;
        }
        self.timers.register_in(ctx, self.cleared_at(window), &window)
    }

    /// The window is complete, as far as is known: puts out what it has.
    fn give(
        &self,
        window: TimeWindow,
        ctx: &KeyedContext<'_, K>,
        out: &mut Vec<Windowed<K, T, G::Out>>,
    ) -> Result<(), StateError> {
        if let Some(accumulator) = ctx.value_get::<TimeWindow, G::Accumulator>(self.contents, &window)? {
            let (key, value) = (ctx.key().clone(), G::result(accumulator));
            out.push(Windowed::Fired(WindowResult { key, window, value }));
        }
        Ok(())
    }

    /// The session that a record makes with those of its key that it meets, as one; None if that is gone already.
    fn merged(&self, window: TimeWindow, ctx: &mut KeyedContext<'_, K>) -> Result<Option<TimeWindow>, StateError> {
        let mut met = Vec::new();
        ctx.map_for_each::<(), TimeWindow, ()>(self.sessions, &(), |session, ()| {
            if session.meets(window) {
                met.push(*session);
            }
        })?;
        let whole = met.iter().fold(window, |whole, session| whole.around(*session));
        if self.is_late(whole, ctx.watermark()) {
            return Ok(None);
        }
        if met == [whole] {
            return Ok(Some(whole));
        }
        let mut together: Option<G::Accumulator> = None;
        for session in met {
            self.timers.delete_in(ctx, session.max_timestamp(), &session)?;
            self.timers.delete_in(ctx, self.cleared_at(session), &session)?;
            ctx.map_remove::<(), TimeWindow, ()>(self.sessions, &(), &session)?;
            let accumulator = ctx.value_take::<TimeWindow, G::Accumulator>(self.contents, &session)?;
            together = match (together, accumulator) {
                (Some(mut together), Some(accumulator)) => {
                    G::merge(&mut together, accumulator);
                    Some(together)
                }
                (one, other) => one.or(other),
            };
        }
        ctx.map_insert(self.sessions, &(), whole, ())?;
        if let Some(together) = together {
            ctx.value_set(self.contents, &whole, together)?;
        }
        Ok(Some(whole))
    }

    fn due(
        &self,
        timestamp: i64,
        window: TimeWindow,
        ctx: &mut KeyedContext<'_, K>,
        out: &mut Vec<Windowed<K, T, G::Out>>,
    ) -> Result<(), StateError> {
        if timestamp == window.max_timestamp() {
            self.give(window, ctx, out)?;
        }
        if timestamp == self.cleared_at(window) {
            ctx.value_clear::<TimeWindow, G::Accumulator>(self.contents, &window)?;
            if self.windows.merge() {
                ctx.map_remove::<(), TimeWindow, ()>(self.sessions, &(), &window)?;
            }
        }
        Ok(())
    }
}

impl<K, T, G> KeyedOperator for WindowOperator<K, T, G>
where
    K: StateKey + Record,
    T: Record,
    G: Aggregate<In = T>,
    G::Out: Record,
{
    type Key = K;
    type In = T;
    type Out = Windowed<K, T, G::Out>;

    fn open(&mut self, ctx: &mut OpenContext<'_, K>) -> Result<(), UserError> {
        self.contents = ctx.value_table::<TimeWindow, G::Accumulator>("window-contents", StateKind::Aggregating, 1)?;
        if self.windows.merge() {
            self.sessions = ctx.map_table::<(), TimeWindow, ()>("window-sessions", 1)?;
        }
        self.timers = ctx.timer_service(TimeDomain::Event, "windows")?;
        Ok(())
    }

    fn process(
        &mut self,
        value: T,
        ctx: &mut KeyedContext<'_, K>,
        out: &mut Vec<Windowed<K, T, G::Out>>,
    ) -> Result<(), UserError> {
        let timestamp = (self.timestamp)(&value);
        let watermark = ctx.watermark();
        let mut taken = false;
        let assigned = self.windows.assign(timestamp);
        for window in &assigned {
            let window = match self.windows.merge() {
                true => self.merged(*window, ctx)?,
                false => Some(*window).filter(|window| !self.is_late(*window, watermark)),
            };
            if let Some(window) = window {
                taken = true;
                self.add(value.clone(), window, ctx, out)?;
            }
        }
        // A record in no window at all (the slide is longer than the windows) is not late.
        if !taken && !assigned.is_empty() {
            self.late += 1;
            if self.hand_on_late {
                out.push(Windowed::Late(value));
            }
        }
        Ok(())
    }

    fn fire(
        &mut self,
        state: &mut KeyedBackend<K>,
        time: TimeMove,
        at_most: usize,
        out: &mut Vec<Windowed<K, T, G::Out>>,
    ) -> Result<bool, UserError> {
        let (domain, now) = domain_of(time);
        if domain != TimeDomain::Event {
            return Ok(false);
        }
        fire_due(state, self.timers, now, at_most, |timer, ctx| {
            self.due(timer.timestamp, timer.namespace, ctx, out).map_err(UserError::from)
        })
    }

    fn take_late_records(&mut self) -> u64 {
        std::mem::take(&mut self.late)
    }
}

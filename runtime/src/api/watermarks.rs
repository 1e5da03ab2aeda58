//! Where event time comes from: the watermark strategy of a source.
//!
//! A watermark w says that no record with a timestamp of w or less follows, unless it is late. Each split has a watermark of
//! its own; the source is as far as the split that is furthest behind. An idle split holds nothing back, nor one that was
//! read to its end; when all have ended, event time ends.

use std::{sync::Arc, time::Duration};

use crate::{
    dataflow::event_time::{EventTime, InputEventTimes},
    platform::Mono,
};

type Timestamp<T> = dyn Fn(&T) -> i64 + Send + Sync;

/// How a source tells event time.
pub struct WatermarkStrategy<T> {
    timestamp: Option<Arc<Timestamp<T>>>,
    out_of_orderness_millis: i64,
    idle_after: Option<Duration>,
}

impl<T> Clone for WatermarkStrategy<T> {
    fn clone(&self) -> Self {
        WatermarkStrategy { timestamp: self.timestamp.clone(), ..*self }
    }
}

impl<T> WatermarkStrategy<T> {
    /// Records are out of order by at most `by`: the watermark is behind the highest timestamp by that and a millisecond.
    /// `timestamp` gives milliseconds since 1970.
    pub fn bounded_out_of_orderness(by: Duration, timestamp: impl Fn(&T) -> i64 + Send + Sync + 'static) -> Self {
        WatermarkStrategy {
            timestamp: Some(Arc::new(timestamp)),
            out_of_orderness_millis: i64::try_from(by.as_millis()).unwrap_or(i64::MAX),
            idle_after: None,
        }
    }

    /// The timestamps of a split never go back.
    pub fn monotonous(timestamp: impl Fn(&T) -> i64 + Send + Sync + 'static) -> Self {
        Self::bounded_out_of_orderness(Duration::ZERO, timestamp)
    }

    /// No watermark before the end of all splits.
    pub fn none() -> Self {
        WatermarkStrategy { timestamp: None, out_of_orderness_millis: 0, idle_after: None }
    }

    /// A split that gave no record for so long holds event time back no longer, until it gives one.
    #[must_use]
    pub fn idle_after(mut self, time: Duration) -> Self {
        self.idle_after = Some(time);
        self
    }
}

/// The event time of the splits of one subtask.
pub(super) struct SourceTimes<T> {
    strategy: WatermarkStrategy<T>,
    splits: Vec<Split>,
    times: InputEventTimes,
}

struct Split {
    highest: Option<i64>,
    /// It gave records since the last look.
    read: bool,
    /// When it last gave some; None before the first look.
    active: Option<Mono>,
    ended: bool,
}

impl<T> SourceTimes<T> {
    pub(super) fn new(strategy: WatermarkStrategy<T>, splits: usize) -> SourceTimes<T> {
        let split = |_| Split { highest: None, read: false, active: None, ended: false };
        SourceTimes { strategy, splits: (0..splits).map(split).collect(), times: InputEventTimes::new(splits) }
    }

    /// A split gave these records.
    pub(super) fn read(&mut self, split: usize, records: &[T]) {
        let (Some(split), Some(timestamp)) = (self.splits.get_mut(split), &self.strategy.timestamp) else { return };
        split.highest = records.iter().map(|record| timestamp(record)).chain(split.highest).max();
        split.read = true;
    }

    pub(super) fn ended(&mut self, split: usize) {
        if let Some(split) = self.splits.get_mut(split) {
            split.ended = true;
        }
    }

    /// How far event time is, and when a split may become idle.
    pub(super) fn look(&mut self, now: Mono) -> (EventTime, Option<Mono>) {
        let mut look_again: Option<Mono> = None;
        for (position, split) in self.splits.iter_mut().enumerate() {
            if std::mem::take(&mut split.read) || split.active.is_none() {
                split.active = Some(now);
            }
            let idle_at = self.strategy.idle_after.zip(split.active).map(|(after, active)| active + after);
            let said = if split.ended {
                EventTime::At(i64::MAX)
            } else if idle_at.is_some_and(|at| at <= now) {
                EventTime::Idle
            } else {
                look_again = look_again.into_iter().chain(idle_at).min();
                let behind = self.strategy.out_of_orderness_millis.saturating_add(1);
                // Only the end of the input is the end of event time.
                let watermark = split.highest.map(|highest| highest.saturating_sub(behind).min(i64::MAX - 1));
                EventTime::At(watermark.unwrap_or(i64::MIN))
            };
            self.times.hear(position, said);
        }
        (self.times.together(), look_again)
    }
}

#[cfg(test)]
mod tests {
    use EventTime::{At, Idle};

    use super::*;

    fn at(millis: u64) -> Mono {
        Mono(millis * 1_000_000)
    }

    fn strategy() -> WatermarkStrategy<i64> {
        WatermarkStrategy::bounded_out_of_orderness(Duration::from_millis(5), |t| *t)
    }

    #[test]
    fn the_watermark_stays_behind_the_highest_timestamp_of_the_slowest_split() {
        let mut times = SourceTimes::new(strategy(), 2);
        assert_eq!(times.look(at(0)), (At(i64::MIN), None));
        times.read(0, &[100, 130, 90]);
        assert_eq!(times.look(at(1)), (At(i64::MIN), None), "split 1 has given nothing");
        times.read(1, &[50]);
        assert_eq!(times.look(at(2)), (At(44), None));
        times.read(1, &[20]);
        assert_eq!(times.look(at(3)), (At(44), None), "never back");
        times.ended(1);
        assert_eq!(times.look(at(4)), (At(124), None), "a split that has ended holds nothing back");
        times.ended(0);
        assert_eq!(times.look(at(5)), (At(i64::MAX), None));
    }

    #[test]
    fn an_idle_split_is_not_waited_for() {
        let mut times = SourceTimes::new(strategy().idle_after(Duration::from_millis(10)), 2);
        times.read(0, &[100]);
        assert_eq!(times.look(at(0)), (At(i64::MIN), Some(at(10))));
        times.read(0, &[200]);
        assert_eq!(times.look(at(10)), (At(194), Some(at(20))), "split 1 gave nothing for 10 ms");
        assert_eq!(times.look(at(20)), (Idle, None));
        times.read(1, &[7]);
        assert_eq!(times.look(at(21)), (At(1), Some(at(31))), "it is waited for again");
    }

    #[test]
    fn without_timestamps_and_without_splits_there_is_only_the_end() {
        let mut none = SourceTimes::new(WatermarkStrategy::none(), 1);
        none.read(0, &[5]);
        assert_eq!(none.look(at(0)), (At(i64::MIN), None));
        none.ended(0);
        assert_eq!(none.look(at(1)), (At(i64::MAX), None));
        assert_eq!(SourceTimes::new(strategy(), 0).look(at(0)), (At(i64::MAX), None));
    }
}

//! Which windows a record is in: pure, as Flink's `TumblingEventTimeWindows`, `SlidingEventTimeWindows` and
//! `EventTimeSessionWindows`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A span of event time, in milliseconds since 1970: from `start` up to, without, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TimeWindow {
    pub start: i64,
    pub end: i64,
}

impl TimeWindow {
    /// The last instant in it.
    pub fn max_timestamp(self) -> i64 {
        self.end.saturating_sub(1)
    }

    /// Whether both have an instant in common, or touch.
    pub fn meets(self, other: TimeWindow) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// The shortest window around both.
    #[must_use]
    pub fn around(self, other: TimeWindow) -> TimeWindow {
        TimeWindow { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// How a stream is cut into windows. All lengths are in milliseconds and at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// Each record is in one window of fixed length; they begin at multiples of it, moved by the offset.
    Tumbling { size: i64, offset: i64 },
    /// Windows of fixed length, one beginning every `slide`; a record may be in several, or in none.
    Sliding { size: i64, slide: i64, offset: i64 },
    /// Records of a key that are closer together than the gap are in one window, which grows and merges.
    Session { gap: i64 },
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1)
}

impl Windows {
    pub fn tumbling(size: Duration) -> Windows {
        Windows::Tumbling { size: millis(size), offset: 0 }
    }

    pub fn sliding(size: Duration, slide: Duration) -> Windows {
        Windows::Sliding { size: millis(size), slide: millis(slide), offset: 0 }
    }

    pub fn session(gap: Duration) -> Windows {
        Windows::Session { gap: millis(gap) }
    }

    /// Whether windows of a key that meet become one.
    pub(super) fn merge(self) -> bool {
        matches!(self, Windows::Session { .. })
    }

    /// The windows of a record, latest first.
    pub fn assign(self, timestamp: i64) -> Vec<TimeWindow> {
        match self {
            Windows::Tumbling { size, offset } => vec![spanning(start_of(timestamp, offset, size), size)],
            Windows::Sliding { size, slide, offset } => {
                let mut windows = Vec::new();
                let mut start = start_of(timestamp, offset, slide);
                while timestamp.saturating_sub(start) < size {
                    windows.push(spanning(start, size));
                    match start.checked_sub(slide) {
                        Some(before) => start = before,
                        None => break,
                    }
                }
                windows
            }
            Windows::Session { gap } => vec![spanning(timestamp, gap)],
        }
    }
}

/// The last beginning at or before a timestamp.
fn start_of(timestamp: i64, offset: i64, step: i64) -> i64 {
    let within = i128::from(timestamp).wrapping_sub(i128::from(offset)).rem_euclid(i128::from(step));
    i64::try_from(i128::from(timestamp) - within).unwrap_or(i64::MIN)
}

fn spanning(start: i64, length: i64) -> TimeWindow {
    TimeWindow { start, end: start.saturating_add(length) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(start: i64, end: i64) -> TimeWindow {
        TimeWindow { start, end }
    }

    #[test]
    fn windows_are_those_of_flink() {
        let tumbling = Windows::Tumbling { size: 10, offset: 0 };
        assert_eq!(tumbling.assign(0), [window(0, 10)]);
        assert_eq!(tumbling.assign(9), [window(0, 10)]);
        assert_eq!(tumbling.assign(-1), [window(-10, 0)]);
        assert_eq!(Windows::Tumbling { size: 10, offset: 3 }.assign(2), [window(-7, 3)]);
        let sliding = Windows::Sliding { size: 10, slide: 4, offset: 0 };
        assert_eq!(sliding.assign(9), [window(8, 18), window(4, 14), window(0, 10)]);
        assert_eq!(sliding.assign(10), [window(8, 18), window(4, 14)]);
        // A slide longer than the window leaves gaps.
        assert_eq!(Windows::Sliding { size: 2, slide: 5, offset: 0 }.assign(3), []);
        assert_eq!(Windows::Session { gap: 7 }.assign(5), [window(5, 12)]);
    }

    proptest! {
        #[test]
        fn a_record_is_in_the_windows_that_span_it(
            timestamp in any::<i64>(),
            size in 1..1_000i64,
            slide in 1..1_000i64,
            offset in -500..500i64,
        ) {
            for window in (Windows::Tumbling { size, offset }).assign(timestamp) {
                prop_assert!(window.start <= timestamp && timestamp <= window.max_timestamp());
            }
            let windows = Windows::Sliding { size, slide, offset }.assign(timestamp);
            prop_assert!(windows.iter().all(|w| w.start <= timestamp && timestamp <= w.max_timestamp()));
            prop_assert!(windows.len() as i64 <= size / slide + 1);
            if timestamp.checked_sub(size + slide).is_some() {
                prop_assert!(windows.len() as i64 >= size / slide);
            }
        }
    }
}

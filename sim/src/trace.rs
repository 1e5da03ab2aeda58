//! The fingerprint of a run: a hash over every event, cut into segments, so that two runs which differ can be compared
//! up to the segment where they part.

use std::fmt::Write;

use runtime::journal::Event;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::time::SimTime;

const EVENTS_PER_SEGMENT: u64 = 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// One hash for each 1,024 events; the last one covers what is left.
    pub segments: Vec<u64>,
    /// Over all segments.
    pub final_hash: u64,
}

#[derive(Default)]
pub(crate) struct Recorder {
    segments: Vec<u64>,
    open: Xxh3,
    events: u64,
    text: String,
}

impl Recorder {
    /// Takes an event in and gives its number, from 0.
    pub fn record(&mut self, at: SimTime, process: &str, incarnation: u64, event: &Event) -> u64 {
        self.text.clear();
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{} {process} {incarnation} {event}", at.0);
        self.open.update(self.text.as_bytes());
        let number = self.events;
        self.events += 1;
        if self.events.is_multiple_of(EVENTS_PER_SEGMENT) {
            self.close_segment();
        }
        number
    }

    fn close_segment(&mut self) {
        self.segments.push(self.open.digest());
        self.open.reset();
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    pub fn trace(&mut self) -> Trace {
        if !self.events.is_multiple_of(EVENTS_PER_SEGMENT) {
            self.close_segment();
        }
        let bytes: Vec<u8> = self.segments.iter().flat_map(|segment| segment.to_le_bytes()).collect();
        Trace { segments: self.segments.clone(), final_hash: xxh3_64(&bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_closes_every_1024_events_and_a_difference_shows_in_its_segment_only() {
        let run = |odd: u64| {
            let mut recorder = Recorder::default();
            for n in 0..2_500 {
                let event = Event::ProcessStarted { process: if n == odd { "odd" } else { "tm-1" }.to_string() };
                assert_eq!(recorder.record(SimTime(n), "tm-1", 1, &event), n);
            }
            recorder.trace()
        };
        let (same, again, differs) = (run(9_999), run(9_999), run(1_500));
        assert_eq!(same, again);
        assert_eq!(same.segments.len(), 3);
        assert_eq!(same.segments[0], differs.segments[0]);
        assert_ne!(same.segments[1], differs.segments[1]);
        assert_eq!(same.segments[2], differs.segments[2]);
        assert_ne!(same.final_hash, differs.final_hash);
    }
}

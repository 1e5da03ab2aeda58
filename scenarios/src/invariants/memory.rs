//! Invariant 11: memory for data in flight stays within its bound.
//!
//! Rule: no data channel ever has more bytes in flight than its window (twice that once there was a replay, which widens it), or
//! one oversized buffer if that is more, plus the framing of what is in flight.
//!
//! Truth: the simulated transport's own maximum per connection.
//!
//! Excuse: none.

use runtime::journal::Event;

use super::{Check, End, Findings, Look, Seen};

#[derive(Default)]
pub(super) struct Memory {
    replayed: bool,
}

impl Memory {
    fn check(&self, look: &Look<'_>, out: &mut Findings<'_>) {
        let window = look.config.channel_window_bytes * if self.replayed { 2 } else { 1 };
        // A buffer is closed when it is full, so it may be larger by what one call of the chain adds; frames of few
        // records carry up to half as much again in headers.
        let payload = window.max(4 * look.config.buffer_bytes);
        let bound = payload + payload / 2 + 4096;
        for (channel, bytes) in look.truth.channels() {
            // Data channels lead from subtask to subtask; control connections carry no records and have no credit.
            let is_data = channel.split_once("->").is_some_and(|(from, to)| from.ends_with(']') && to.ends_with(']'));
            if is_data && bytes > bound {
                let message = format!("{bytes} bytes were in flight; window {window}, bound with framing {bound}");
                out.report(channel, "in-flight", message);
            }
        }
    }
}

impl Check for Memory {
    fn name(&self) -> &'static str {
        "bounded-in-flight"
    }

    fn on_event(&mut self, look: &Look<'_>, seen: &Seen<'_>, out: &mut Findings<'_>) {
        match seen.event {
            Event::RestoreChosen { replay_to: Some(_), .. } => self.replayed = true,
            Event::CheckpointCompleted { .. } => self.check(look, out),
            _ => {}
        }
    }

    fn at_end(&mut self, look: &Look<'_>, _end: &End, out: &mut Findings<'_>) {
        self.check(look, out);
    }
}

#[cfg(test)]
mod tests {
    use crate::invariants::testing::Story;

    /// A channel that was filled to its window, and one that got far more.
    #[test]
    fn the_window_is_the_bound() {
        for (bytes, good) in [(256 << 10, true), (2 << 20, false)] {
            let mut story = Story::begin();
            story.truth.set_channel("read[0]->fold[1]", bytes);
            story.end(None);
            if good { story.holds_but_unfinished() } else { story.breaks("bounded-in-flight", "in-flight") }
        }
    }
}

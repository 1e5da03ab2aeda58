//! What the inputs of a subtask say of event time, and what follows from it. Pure.
//!
//! Event time is as far as the input that is furthest behind. An idle input holds nothing back; nor does one that has ended
//! (it says `i64::MAX`), but it does not push anything on either: only when all have ended does event time end.

/// What one input says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventTime {
    /// No record before this follows, unless it is late.
    At(i64),
    /// Nothing comes for the time being.
    Idle,
}

/// The inputs of one subtask: its channels, or the splits of a source.
#[derive(Clone, Debug)]
pub struct InputEventTimes {
    inputs: Vec<Input>,
}

#[derive(Clone, Copy, Debug)]
struct Input {
    watermark: i64,
    idle: bool,
}

impl InputEventTimes {
    /// None of them has said anything.
    pub fn new(inputs: usize) -> InputEventTimes {
        InputEventTimes { inputs: vec![Input { watermark: i64::MIN, idle: false }; inputs] }
    }

    /// An input says something. Its watermark never goes back, whatever it says.
    pub fn hear(&mut self, input: usize, said: EventTime) {
        let Some(input) = self.inputs.get_mut(input) else { return };
        match said {
            EventTime::At(watermark) => {
                input.watermark = input.watermark.max(watermark);
                input.idle = false;
            }
            EventTime::Idle => input.idle = true,
        }
    }

    /// What all of them say together. Without inputs there is nothing to wait for.
    pub fn together(&self) -> EventTime {
        if self.inputs.iter().all(|input| input.watermark == i64::MAX) {
            return EventTime::At(i64::MAX);
        }
        let holding = self.inputs.iter().filter(|input| !input.idle && input.watermark != i64::MAX);
        holding.map(|input| input.watermark).min().map_or(EventTime::Idle, EventTime::At)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{EventTime::*, *};

    #[test]
    fn the_input_furthest_behind_decides() {
        let mut inputs = InputEventTimes::new(2);
        inputs.hear(0, At(10));
        assert_eq!(inputs.together(), At(i64::MIN), "the other one has said nothing");
        inputs.hear(1, At(7));
        assert_eq!(inputs.together(), At(7));
        inputs.hear(1, At(5));
        assert_eq!(inputs.together(), At(7), "no input goes back");
    }

    #[test]
    fn an_idle_input_holds_nothing_back_until_it_speaks_again() {
        let mut inputs = InputEventTimes::new(2);
        inputs.hear(0, At(10));
        inputs.hear(1, Idle);
        assert_eq!(inputs.together(), At(10));
        inputs.hear(0, Idle);
        assert_eq!(inputs.together(), Idle);
        inputs.hear(1, At(3));
        assert_eq!(inputs.together(), At(3));
    }

    #[test]
    fn an_input_that_has_ended_neither_holds_back_nor_pushes_on() {
        let mut inputs = InputEventTimes::new(3);
        inputs.hear(0, At(i64::MAX));
        inputs.hear(1, At(4));
        inputs.hear(2, Idle);
        assert_eq!(inputs.together(), At(4));
        inputs.hear(1, At(i64::MAX));
        assert_eq!(inputs.together(), Idle, "the idle one may come back with records");
        inputs.hear(2, At(i64::MAX));
        assert_eq!(inputs.together(), At(i64::MAX));
    }

    #[test]
    fn nothing_to_wait_for_is_the_end() {
        assert_eq!(InputEventTimes::new(0).together(), At(i64::MAX));
    }

    proptest! {
        /// Whatever is said in whatever order, event time is behind everything that a speaking input has yet to give.
        #[test]
        fn it_is_never_ahead_of_an_input_that_speaks(
            said in proptest::collection::vec((0..3usize, prop_oneof![(0..50i64).prop_map(At), Just(Idle)]), 0..60),
        ) {
            let mut inputs = InputEventTimes::new(3);
            let mut last = [At(i64::MIN); 3];
            let mut highest = [i64::MIN; 3];
            for (input, what) in said {
                inputs.hear(input, what);
                last[input] = what;
                if let At(watermark) = what {
                    highest[input] = highest[input].max(watermark);
                }
                let expected = (0..3).filter(|i| last[*i] != Idle).map(|i| highest[i]).min();
                prop_assert_eq!(inputs.together(), expected.map_or(Idle, At));
            }
        }
    }
}

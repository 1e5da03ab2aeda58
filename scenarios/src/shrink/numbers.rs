//! Makes numbers smaller, one after the other: the smallest first, then in halves of the distance.

use super::search::Pass;

type Get<C> = Box<dyn Fn(&C) -> Option<u64>>;
type Set<C> = Box<dyn Fn(&C, u64) -> Option<C>>;

/// A number inside of something.
pub struct Number<C> {
    pub least: u64,
    pub get: Get<C>,
    /// Gives None if that makes no sense.
    pub set: Set<C>,
}

/// The pass. Stops on a number when the next step would be less than an eighth of it.
pub struct Numbers<C> {
    numbers: Vec<Number<C>>,
    at: usize,
}

impl<C> Numbers<C> {
    pub fn new(numbers: Vec<Number<C>>) -> Numbers<C> {
        Numbers { numbers, at: 0 }
    }
}

impl<C> Pass<C> for Numbers<C> {
    fn round(&mut self, current: &C) -> Option<Vec<C>> {
        loop {
            let number = self.numbers.get(self.at)?;
            let candidates: Vec<C> = (number.get)(current)
                .map(|value| smaller(value, number.least))
                .unwrap_or_default()
                .into_iter()
                .filter_map(|value| (number.set)(current, value))
                .collect();
            if !candidates.is_empty() {
                return Some(candidates);
            }
            self.at += 1;
        }
    }

    fn settled(&mut self, taken: Option<usize>) {
        if taken.is_none() {
            self.at += 1;
        }
    }
}

/// Values below `value` worth a try, ascending.
fn smaller(value: u64, least: u64) -> Vec<u64> {
    let mut found = Vec::new();
    let mut distance = value.saturating_sub(least);
    let grain = (value / 8).max(1);
    while distance >= grain && distance > 0 {
        found.push(value - distance);
        distance /= 2;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_is_tried_first_and_steps_get_finer() {
        assert_eq!(smaller(100, 4), [4, 52, 76, 88]);
        assert_eq!(smaller(5, 1), [1, 3, 4]);
        assert_eq!(smaller(2, 1), [1]);
        assert_eq!(smaller(1, 1), Vec::<u64>::new());
        assert_eq!(smaller(0, 1), Vec::<u64>::new());
    }
}

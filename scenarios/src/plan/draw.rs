//! Random draws by named stream: a draw added to one section of a plan shifts no other section.
//!
//! The arithmetic from raw numbers to ranges is written here and not taken from a crate, so that the plan of a seed does not
//! change when a crate does.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// One named stream of a seed.
pub struct Draw(ChaCha8Rng);

impl Draw {
    pub fn new(seed: u64, stream: &str) -> Draw {
        let mut key = [0u8; 32];
        key[..16].copy_from_slice(&xxh3_128_with_seed(stream.as_bytes(), seed).to_le_bytes());
        key[16..24].copy_from_slice(&seed.to_le_bytes());
        Draw(ChaCha8Rng::from_seed(key))
    }

    /// Uniform in `low..=high`.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "empty range {low}..={high}");
        let width = u128::from(high - low) + 1;
        // Widening multiplication: the bias is below 2^-40 for every range that a plan uses.
        low + u64::try_from((u128::from(self.0.next_u64()) * width) >> 64).expect("below the width")
    }

    /// True in `percent` of 100 cases. Always draws, so that the stream does not depend on the outcome.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.within(0, 99) < percent
    }

    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let last = choices.len().checked_sub(1).expect("nothing to pick from");
        &choices[usize::try_from(self.within(0, last as u64)).expect("an index")]
    }

    /// Picks by weight.
    pub fn weighted<'a, T>(&mut self, choices: &'a [(u64, T)]) -> &'a T {
        let total: u64 = choices.iter().map(|(weight, _)| weight).sum();
        assert!(total > 0, "no choice has a weight");
        let mut left = self.within(0, total - 1);
        for (weight, choice) in choices {
            if left < *weight {
                return choice;
            }
            left -= weight;
        }
        unreachable!("the draw is below the total weight")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_reproducible_and_independent() {
        let draw = |seed, name| {
            let mut d = Draw::new(seed, name);
            (0..8).map(|_| d.within(0, u64::MAX)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, "faults"), draw(1, "faults"));
        assert_ne!(draw(1, "faults"), draw(1, "network"));
        assert_ne!(draw(1, "faults"), draw(2, "faults"));
    }

    #[test]
    fn ranges_are_reached_to_their_ends() {
        let mut d = Draw::new(7, "ends");
        let seen: std::collections::BTreeSet<u64> = (0..400).map(|_| d.within(3, 6)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6]);
        assert!(!d.chance(0));
        assert!(d.chance(100));
        assert_eq!(*d.weighted(&[(0, 'a'), (5, 'b')]), 'b');
    }
}

//! Randomness by named stream, so that a draw added in one component shifts no other.

/// A source of random numbers. Real world: the operating system. Simulated world: one ChaCha stream per
/// (seed, process, incarnation, stream name).
pub trait Entropy: Send + Sync {
    fn next_u64(&self, stream: &'static str) -> u64;

    fn next_u128(&self, stream: &'static str) -> u128 {
        (u128::from(self.next_u64(stream)) << 64) | u128::from(self.next_u64(stream))
    }
}

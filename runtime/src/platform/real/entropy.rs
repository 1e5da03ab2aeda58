//! Randomness of the operating system.

use super::super::Entropy;

pub(super) struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn next_u64(&self, _stream: &'static str) -> u64 {
        // Without randomness object names could be used twice, so there is no going on.
        getrandom::u64().unwrap_or_else(|e| panic!("the operating system gives no random numbers: {e}"))
    }
}

//! Randomness by name.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use runtime::platform::Entropy;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{local::Local, process::Incarnation};

/// The stream `name` of the simulation `seed`.
pub(crate) fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (n, part) in key.chunks_exact_mut(8).enumerate() {
        let salt = seed ^ (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        part.copy_from_slice(&xxh3_64_with_seed(name.as_bytes(), salt).to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// One stream for each (seed, process, incarnation, name).
pub(crate) struct SimEntropy(pub Local<EntropyStreams>);

pub(crate) struct EntropyStreams {
    pub incarnation: Rc<Incarnation>,
    pub streams: RefCell<BTreeMap<&'static str, ChaCha8Rng>>,
}

impl Entropy for SimEntropy {
    fn next_u64(&self, name: &'static str) -> u64 {
        let owner = &self.0.incarnation;
        let mut streams = self.0.streams.borrow_mut();
        let rng = streams
            .entry(name)
            .or_insert_with(|| owner.world.rng(&format!("process/{}/{}/{name}", owner.process, owner.number)));
        rng.next_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_reproducible_and_independent() {
        let draw = |seed, name| stream(seed, name).next_u64();
        assert_eq!(draw(7, "disk"), draw(7, "disk"));
        assert_ne!(draw(7, "disk"), draw(8, "disk"));
        assert_ne!(draw(7, "disk"), draw(7, "store"));
    }
}

//! Randomness by name.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    convert::Infallible,
    rc::Rc,
};

use rand::{Rng, SeedableRng, TryRng};
use rand_chacha::ChaCha8Rng;
use runtime::platform::Entropy;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{local::Local, process::Incarnation};

/// A named stream of a world's randomness. When the world goes on under another seed, the stream goes on as that seed's stream
/// of the same name, from its beginning.
pub struct Stream {
    rng: ChaCha8Rng,
    name: Box<str>,
    /// The seed that `rng` was made from.
    of: u64,
    seed: Rc<Cell<u64>>,
}

impl Stream {
    /// `seed` is the world's, and may change.
    pub(crate) fn new(seed: &Rc<Cell<u64>>, name: &str) -> Stream {
        Stream { rng: stream(seed.get(), name), name: name.into(), of: seed.get(), seed: seed.clone() }
    }

    fn current(&mut self) -> &mut ChaCha8Rng {
        let seed = self.seed.get();
        if seed != self.of {
            self.rng = stream(seed, &self.name);
            self.of = seed;
        }
        &mut self.rng
    }
}

impl TryRng for Stream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.current().next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.current().next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.current().fill_bytes(bytes);
        Ok(())
    }
}

/// The stream `name` of the simulation `seed`.
fn stream(seed: u64, name: &str) -> ChaCha8Rng {
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
    pub streams: RefCell<BTreeMap<&'static str, Stream>>,
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

    #[test]
    fn a_stream_follows_the_seed_of_its_world() {
        let seed = Rc::new(Cell::new(7));
        let (mut followed, mut spent) = (Stream::new(&seed, "disk"), Stream::new(&seed, "disk"));
        assert_eq!(followed.next_u64(), stream(7, "disk").next_u64());
        spent.fill_bytes(&mut [0; 1_000]);
        seed.set(8);
        let from_the_beginning = stream(8, "disk").next_u64();
        // However much was drawn before: what comes after is the new seed's alone.
        assert_eq!((followed.next_u64(), spent.next_u64()), (from_the_beginning, from_the_beginning));
        assert_ne!(followed.next_u64(), from_the_beginning, "and it goes on from there");
    }
}

//! Keys of keyed state, with the hash that Flink would give them, so that a key lands in the key group it has in Flink.

use std::hash::Hash;

use serde::{Serialize, de::DeserializeOwned};

/// A key. Equal keys must have equal hashes and equal encodings.
pub trait StateKey: Eq + Hash + Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// `hashCode()` of the corresponding Java value. Decides the key group, so it must never change.
    fn java_hash(&self) -> i32;
}

macro_rules! small_integers {
    ($($int:ty),*) => {$(
        impl StateKey for $int {
            #[inline]
            fn java_hash(&self) -> i32 {
                i32::from(*self)
            }
        }
    )*};
}

small_integers!(i8, u8, i16, u16, i32);

/// As `int` with the same bits.
impl StateKey for u32 {
    #[inline]
    fn java_hash(&self) -> i32 {
        self.cast_signed()
    }
}

/// As `long` with the same bits.
impl StateKey for u64 {
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // that is the definition
    fn java_hash(&self) -> i32 {
        ((self ^ (self >> 32)) as u32).cast_signed()
    }
}

impl StateKey for i64 {
    #[inline]
    fn java_hash(&self) -> i32 {
        self.cast_unsigned().java_hash()
    }
}

impl StateKey for bool {
    fn java_hash(&self) -> i32 {
        if *self { 1231 } else { 1237 }
    }
}

impl StateKey for String {
    fn java_hash(&self) -> i32 {
        // Java strings are sequences of UTF-16 units.
        if self.is_ascii() {
            return self.bytes().fold(0i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte)));
        }
        self.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
    }
}

/// As Flink's `Tuple2`.
impl<A: StateKey, B: StateKey> StateKey for (A, B) {
    fn java_hash(&self) -> i32 {
        self.0.java_hash().wrapping_mul(31).wrapping_add(self.1.java_hash())
    }
}

/// As Flink's `Tuple3`.
impl<A: StateKey, B: StateKey, C: StateKey> StateKey for (A, B, C) {
    fn java_hash(&self) -> i32 {
        let first_two = self.0.java_hash().wrapping_mul(31).wrapping_add(self.1.java_hash());
        first_two.wrapping_mul(31).wrapping_add(self.2.java_hash())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_java() {
        assert_eq!("".to_string().java_hash(), 0);
        assert_eq!("hello".to_string().java_hash(), 99_162_322);
        assert_eq!("polygenelubricants".to_string().java_hash(), i32::MIN);
        // "é" is one UTF-16 unit; a character beyond the basic plane is two.
        assert_eq!("é".to_string().java_hash(), 233);
        assert_eq!("😀".to_string().java_hash(), 0xd83d * 31 + 0xde00);
        assert_eq!(1u64.java_hash(), 1);
        assert_eq!((-1i64).java_hash(), 0);
        assert_eq!((1u64 << 32).java_hash(), 1);
        assert_eq!(u32::MAX.java_hash(), -1);
        assert_eq!((-7i32).java_hash(), -7);
        assert_eq!(true.java_hash(), 1231);
        assert_eq!((2i32, "a".to_string()).java_hash(), 2 * 31 + 97);
        assert_eq!((1i32, 2i32, 3i32).java_hash(), (31 + 2) * 31 + 3);
    }
}

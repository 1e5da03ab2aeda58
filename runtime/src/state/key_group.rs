//! Key groups: which group a key is in, which subtask owns a group. As Flink's `KeyGroupRangeAssignment`, to the bit.

use crate::ids::{KeyGroup, KeyGroupRange};

/// The highest max parallelism there is.
pub const MAX_MAX_PARALLELISM: u16 = 1 << 15;

/// Flink's `MathUtils.murmurHash`.
#[inline]
fn murmur(code: i32) -> u32 {
    let mut c = code.cast_unsigned();
    c = c.wrapping_mul(0xcc9e_2d51);
    c = c.rotate_left(15);
    c = c.wrapping_mul(0x1b87_3593);
    c = c.rotate_left(13);
    c = c.wrapping_mul(5).wrapping_add(0xe654_6b64);
    c ^= 4;
    c ^= c >> 16;
    c = c.wrapping_mul(0x85eb_ca6b);
    c ^= c >> 13;
    c = c.wrapping_mul(0xc2b2_ae35);
    c ^= c >> 16;
    // The absolute value; the one number that has none becomes 0.
    let signed = c.cast_signed();
    if signed == i32::MIN { 0 } else { signed.unsigned_abs() }
}

/// The key group of a key with this hash.
#[inline]
pub fn key_group_of(java_hash: i32, max_parallelism: u16) -> KeyGroup {
    let group = murmur(java_hash) % u32::from(max_parallelism);
    #[allow(clippy::cast_possible_truncation)] // less than max_parallelism
    KeyGroup(group as u16)
}

/// The key groups of subtask `index` of `parallelism`. Requires `index < parallelism <= max_parallelism`.
pub fn key_group_range(index: u32, parallelism: u32, max_parallelism: u16) -> KeyGroupRange {
    debug_assert!(index < parallelism && parallelism <= u32::from(max_parallelism));
    let max = u32::from(max_parallelism);
    let first = (index * max).div_ceil(parallelism);
    let last = ((index + 1) * max - 1) / parallelism;
    #[allow(clippy::cast_possible_truncation)] // less than max_parallelism
    KeyGroupRange { first: KeyGroup(first as u16), last: KeyGroup(last as u16) }
}

/// The subtask that owns a key group.
#[inline]
pub fn subtask_of(group: KeyGroup, parallelism: u32, max_parallelism: u16) -> u32 {
    u32::from(group.0) * parallelism / u32::from(max_parallelism)
}

/// What max parallelism an operator has if nobody said: room to grow by half, and at least 128.
pub fn default_max_parallelism(parallelism: u32) -> u16 {
    let wanted = parallelism.saturating_add(parallelism / 2).clamp(128, u32::from(MAX_MAX_PARALLELISM));
    u16::try_from(wanted.next_power_of_two()).unwrap_or(MAX_MAX_PARALLELISM)
}

/// Cuts a range into at most `parts` contiguous pieces of nearly equal size, none of them empty.
pub fn split_range(range: KeyGroupRange, parts: u32) -> Vec<KeyGroupRange> {
    let count = range.count();
    let parts = parts.clamp(1, count);
    (0..parts)
        .map(|part| {
            let first = u32::from(range.first.0) + part * count / parts;
            let last = u32::from(range.first.0) + (part + 1) * count / parts - 1;
            #[allow(clippy::cast_possible_truncation)] // within the range
            KeyGroupRange { first: KeyGroup(first as u16), last: KeyGroup(last as u16) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::StateKey;

    /// R175: Flink's hash and Flink's groups, so that keys lie where Flink has them.
    #[test]
    fn key_groups_are_those_of_flink() {
        // Computed from the formulas by an independent program.
        KNOWN.iter().for_each(|(hash, murmured, group_of_128, group_of_720)| {
            assert_eq!(murmur(*hash), *murmured, "murmur({hash})");
            assert_eq!(key_group_of(*hash, 128).0, *group_of_128);
            assert_eq!(key_group_of(*hash, 720).0, *group_of_720);
        });
        assert_eq!(key_group_of("hello".to_string().java_hash(), 128).0, KNOWN_HELLO_OF_128);
    }

    /// R173: without a number of its own a job has Flink's: half as much again, to the next power of two, within 128 and 32768.
    #[test]
    fn default_max_parallelism_leaves_room() {
        assert_eq!(default_max_parallelism(1), 128);
        assert_eq!(default_max_parallelism(85), 128);
        assert_eq!(default_max_parallelism(86), 256);
        assert_eq!(default_max_parallelism(172), 512);
        assert_eq!(default_max_parallelism(30_000), 32_768);
        assert_eq!(default_max_parallelism(u32::MAX), 32_768);
    }

    proptest! {
        /// R175: there are as many key groups as the max parallelism says; subtasks own disjoint ranges, which cover all.
        #[test]
        fn every_group_has_one_owner_and_ranges_agree_with_it(parallelism in 1u32..200, extra in 0u16..500) {
            let max = u16::try_from(parallelism).unwrap() + extra;
            let mut next = 0u16;
            for index in 0..parallelism {
                let range = key_group_range(index, parallelism, max);
                prop_assert_eq!(range.first.0, next);
                for group in range.iter() {
                    prop_assert_eq!(subtask_of(group, parallelism, max), index);
                }
                next = range.last.0 + 1;
            }
            prop_assert_eq!(next, max);
        }

        #[test]
        fn a_split_range_is_the_range(first in 0u16..1000, count in 1u16..1000, parts in 0u32..20) {
            let range = KeyGroupRange { first: KeyGroup(first), last: KeyGroup(first + count - 1) };
            let pieces = split_range(range, parts);
            prop_assert!(pieces.len() as u32 <= parts.max(1));
            let joined: Vec<KeyGroup> = pieces.iter().flat_map(|p| p.iter()).collect();
            prop_assert_eq!(joined, range.iter().collect::<Vec<_>>());
        }
    }
    const KNOWN: [(i32, u32, u16, u16); 10] = [
        (0, 593689054, 94, 94),
        (1, 68075478, 86, 198),
        (2, 1085422463, 127, 143),
        (42, 1134849565, 29, 685),
        (-1, 1982413648, 80, 208),
        (99162322, 1715862179, 35, 659),
        (i32::MAX, 1653689534, 62, 14),
        (i32::MIN, 1718298732, 108, 12),
        (123456789, 1088346449, 81, 209),
        (-987654321, 1314828554, 10, 554),
    ];
    const KNOWN_HELLO_OF_128: u16 = 35;
}

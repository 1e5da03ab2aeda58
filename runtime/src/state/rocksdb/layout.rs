//! How state lies in a database: pure functions on bytes.
//!
//! A key of the database is the key group (one byte up to 128 key groups, else two, big-endian), the encoded key of the
//! stream and the encoded namespace; of a map state also the encoded key of the map and, at the very end, the length of what
//! comes between key group and map key. Encodings of one type are never prefixes of one another (each can be decoded from its
//! front), so entries are in the order of key group, then key, then map key, and the entries of one map are together. A value
//! of the database is the encoded value; of a list, the number of its elements and the elements, so that lists are joined
//! without knowing what they are of.
//!
//! But for maps this is the canonical form of `state::format`.

use crate::ids::KeyGroup;

/// So many bytes of a key are its key group.
pub fn group_length(max_parallelism: u16) -> usize {
    if max_parallelism <= 128 { 1 } else { 2 }
}

/// Appends the key group.
#[allow(clippy::cast_possible_truncation)] // below 128
pub fn put_group(group: KeyGroup, length: usize, out: &mut Vec<u8>) {
    if length == 1 {
        out.push(group.0 as u8);
    } else {
        out.extend_from_slice(&group.0.to_be_bytes());
    }
}

/// The key group of a key; None: it is too short to have one.
pub fn group_of(key: &[u8], length: usize) -> Option<KeyGroup> {
    let group = key.get(..length)?.iter().fold(0, |number, byte| number << 8 | u16::from(*byte));
    Some(KeyGroup(group))
}

/// Where the keys of a key group begin. That of the group behind the last is where all keys end.
pub fn group_start(group: u32, length: usize) -> Vec<u8> {
    group.to_be_bytes()[4 - length..].to_vec()
}

/// The longest length that fits in the last byte of a key.
const SHORT: usize = 0xfe;

/// Appends the length of key and namespace, to be read from the end.
pub fn put_tail(length: usize, out: &mut Vec<u8>) {
    match u8::try_from(length) {
        Ok(short) if length <= SHORT => out.push(short),
        _ => {
            // A key is refused before it is written if it is larger than 2^31.
            out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
            out.push(0xff);
        }
    }
}

/// Takes the key of a map entry apart: what is before the map's key, without the key group, and the map's key.
pub fn map_entry(key: &[u8], group_length: usize) -> Option<(&[u8], &[u8])> {
    let (tail, rest) = key.split_last()?;
    let (length, rest) = match *tail {
        0xff => {
            let (rest, length) = rest.split_last_chunk::<4>()?;
            (u32::from_be_bytes(*length) as usize, rest)
        }
        short => (usize::from(short), rest),
    };
    rest.get(group_length..)?.split_at_checked(length)
}

/// Appends a count as postcard has it.
pub fn put_count(mut count: u64, out: &mut Vec<u8>) {
    while count >= 0x80 {
        out.push((count & 0x7f) as u8 | 0x80);
        count >>= 7;
    }
    #[allow(clippy::cast_possible_truncation)] // below 128
    out.push(count as u8);
}

/// A count, and what follows it.
pub fn take_count(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut count = 0u64;
    for (position, byte) in bytes.iter().enumerate().take(9) {
        count |= u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            return Some((count, &bytes[position + 1..]));
        }
    }
    None
}

/// Joins encoded lists in their order. None if one of them is no list.
pub fn join_lists<'a>(lists: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut total = 0u64;
    let mut elements = Vec::new();
    for list in lists {
        let (count, rest) = take_count(list)?;
        total = total.checked_add(count)?;
        elements.extend_from_slice(rest);
    }
    let mut joined = Vec::with_capacity(elements.len() + 9);
    put_count(total, &mut joined);
    joined.extend_from_slice(&elements);
    Some(joined)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_key_of_a_map_entry_comes_apart_again(
            group in 0u16..300,
            key in prop::collection::vec(any::<u8>(), 0..600),
            map_key in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            for length in [1, 2] {
                let mut bytes = Vec::new();
                put_group(KeyGroup(group), length, &mut bytes);
                bytes.extend_from_slice(&key);
                bytes.extend_from_slice(&map_key);
                put_tail(key.len(), &mut bytes);
                prop_assert_eq!(map_entry(&bytes, length), Some((&key[..], &map_key[..])));
            }
        }

        #[test]
        fn any_bytes_come_apart_or_not(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = map_entry(&bytes, 2);
            let _ = take_count(&bytes);
        }

        #[test]
        fn joined_lists_are_the_list_of_all(lists in prop::collection::vec(prop::collection::vec(any::<u64>(), 0..200), 0..5)) {
            let encoded: Vec<Vec<u8>> = lists.iter().map(|list| postcard::to_allocvec(list).unwrap()).collect();
            let joined = join_lists(encoded.iter().map(Vec::as_slice)).unwrap();
            prop_assert_eq!(joined, postcard::to_allocvec(&lists.concat()).unwrap());
        }

        /// The entries of a key are together and in the order of the encoded keys, whatever their lengths.
        #[test]
        fn keys_of_a_database_are_in_the_order_of_the_canonical_form(
            entries in prop::collection::btree_set(("[a-c]{0,3}", 0u16..400), 0..40),
        ) {
            let encode = |text: &String| postcard::to_allocvec(text).unwrap();
            let database: BTreeMap<Vec<u8>, (Vec<u8>, Vec<u8>)> = entries
                .iter()
                .map(|(key, map_key)| {
                    let (key, map_key) = (encode(key), postcard::to_allocvec(map_key).unwrap());
                    let mut bytes = vec![7];
                    bytes.extend_from_slice(&key);
                    bytes.extend_from_slice(&map_key);
                    put_tail(key.len(), &mut bytes);
                    (bytes, (key, map_key))
                })
                .collect();
            prop_assert!(database.values().is_sorted());
        }
    }

    #[test]
    fn key_groups_are_bytes_in_their_order() {
        assert_eq!((group_length(128), group_length(129)), (1, 2));
        assert_eq!(group_start(128, 1), [128]);
        assert_eq!(group_start(300, 2), [1, 44]);
        assert_eq!(group_start(0, 2), [0, 0]);
        assert_eq!((group_of(&[7, 9], 1), group_of(&[1, 44, 9], 2)), (Some(KeyGroup(7)), Some(KeyGroup(300))));
        assert_eq!(group_of(&[7], 2), None);
    }
}

//! How long lists are at most, so that the append that would make one too long is refused.
//!
//! An append is a merge: it reads nothing, so nobody knows how long the list is by then. Flink lets it pass, and the next read
//! fails. To read before each append would cost more than the append itself. So there is a bound for each list, which costs a
//! hash and an addition: how long the longest was when the database was opened, and what was appended since to any list
//! whose key has the same hash. Only a list whose bound is past the limit is looked at, and from then on its length is known.
//!
//! The bound of all lists travels in the database itself, so that one that is restored begins with it: see
//! `Database::note_longest`.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use super::layout::take_count;

/// Lists are told apart by so many hashes: it takes some 32 TiB of appends until most bounds are past the limit.
const HASHES: usize = 1 << 14;

/// So many lengths are remembered at most.
const REMEMBERED: usize = 1 << 12;

/// The length of an encoded list: of its elements, and how many they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ListLength {
    count: u64,
    element_bytes: u64,
}

impl ListLength {
    /// Of the encoded list.
    pub fn of(list: &[u8]) -> ListLength {
        let (count, elements) = take_count(list).unwrap_or((0, list));
        ListLength { count, element_bytes: elements.len() as u64 }
    }

    /// With those of another list behind it.
    fn and(self, more: ListLength) -> ListLength {
        ListLength { count: self.count + more.count, element_bytes: self.element_bytes + more.element_bytes }
    }

    /// As it is encoded.
    fn bytes(self) -> u64 {
        let bits = u64::from(u64::BITS - self.count.leading_zeros()).max(1);
        bits.div_ceil(7) + self.element_bytes
    }
}

/// The lengths of all lists of a state.
pub(super) struct ListLengths {
    limit: u64,
    /// No list was longer when the database was opened.
    restored: u64,
    /// By the hash of the key, what was written since.
    written: Vec<u32>,
    most_written: u32,
    /// Of lists whose bound is past the limit. A compaction may have dropped something of them.
    known: BTreeMap<Vec<u8>, ListLength>,
}

impl ListLengths {
    pub fn new(limit: u64, restored: u64) -> ListLengths {
        ListLengths { limit, restored, written: vec![0; HASHES], most_written: 0, known: BTreeMap::new() }
    }

    /// No list is longer, in bytes.
    pub fn longest(&self) -> u64 {
        self.restored + u64::from(self.most_written)
    }

    /// Before `list` is appended to what is under `key`, which `read` reads if it must be known. Gives how long it would be if
    /// that is too long.
    pub fn append<E>(
        &mut self,
        key: &[u8],
        list: &[u8],
        read: impl FnOnce() -> Result<ListLength, E>,
    ) -> Result<Result<(), u64>, E> {
        // Together they are never longer than both for themselves.
        let bound = self.restored + u64::from(self.wrote(key, list.len() as u64));
        if bound <= self.limit {
            return Ok(Ok(()));
        }
        self.look(key, ListLength::of(list), read)
    }

    #[cold]
    fn look<E>(
        &mut self,
        key: &[u8],
        more: ListLength,
        read: impl FnOnce() -> Result<ListLength, E>,
    ) -> Result<Result<(), u64>, E> {
        let fits = |length: &ListLength| length.and(more).bytes() <= self.limit;
        let known = self.known.get(key).copied().filter(fits);
        let length = match known {
            Some(length) => length,
            None => read()?,
        };
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let with_more = length.and(more);
        let is_too_long = with_more.bytes() > self.limit;
        self.known.insert(key.to_vec(), if is_too_long { length } else { with_more });
        Ok(if is_too_long { Err(with_more.bytes()) } else { Ok(()) })
    }

    /// What is under `key` was replaced by `list`; None: removed.
    pub fn replaced(&mut self, key: &[u8], list: Option<&[u8]>) {
        self.wrote(key, list.map_or(0, |list| list.len() as u64));
        if let Some(known) = self.known.get_mut(key) {
            *known = list.map_or_else(ListLength::default, ListLength::of);
        }
    }

    /// Counts what is written; gives what was written so far to lists of this hash.
    fn wrote(&mut self, key: &[u8], bytes: u64) -> u32 {
        #[allow(clippy::cast_possible_truncation)] // only the lower bits count
        let written = &mut self.written[xxh3_64(key) as usize % HASHES];
        *written = written.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.most_written = self.most_written.max(*written);
        *written
    }
}

/// Whoever has no list longer than this need not say so.
const NOTED_FROM_BYTES: u64 = 8 << 20;

/// What a database says of its longest list, by state; rounded up, so that it is seldom written anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Longest(BTreeMap<String, u64>);

impl Longest {
    pub fn of(&self, state: &str) -> u64 {
        self.0.get(state).copied().unwrap_or(NOTED_FROM_BYTES)
    }

    /// Notes that a list has so many bytes; true if that is news.
    pub fn note(&mut self, state: &str, bytes: u64) -> bool {
        if bytes <= self.of(state) {
            return false;
        }
        self.0.insert(state.to_string(), bytes.next_power_of_two());
        true
    }

    /// As long as those of another database as well.
    pub fn merge(&mut self, other: &Longest) {
        for (state, bytes) in &other.0 {
            self.note(state, *bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::state::rocksdb::layout::join_lists;

    fn encode(list: &[String]) -> Vec<u8> {
        postcard::to_allocvec(list).unwrap()
    }

    proptest! {
        /// R101: an append is refused if and only if the list would be longer than the limit, whatever else was written.
        #[test]
        fn what_would_be_too_long_is_refused_and_nothing_else(
            limit in 1u64..400,
            writes in prop::collection::vec((0u8..5, 0u8..10, prop::collection::vec("[a-z]{0,30}", 1..4)), 0..200),
        ) {
            let mut lengths = ListLengths::new(limit, 0);
            let mut lists: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
            for (key, what, list) in &writes {
                let list = encode(list);
                match what {
                    0 if list.len() as u64 <= limit => {
                        lengths.replaced(&[*key], Some(&list));
                        lists.insert(*key, list);
                    }
                    1 => {
                        lengths.replaced(&[*key], None);
                        lists.remove(key);
                    }
                    _ => {
                        let now = lists.get(key).cloned();
                        let joined = join_lists(now.iter().map(Vec::as_slice).chain([&list[..]])).unwrap();
                        let read = || Ok::<_, ()>(now.as_deref().map_or_else(ListLength::default, ListLength::of));
                        let answer = lengths.append(&[*key], &list, read).unwrap();
                        let bytes = joined.len() as u64;
                        prop_assert_eq!(answer, if bytes > limit { Err(bytes) } else { Ok(()) });
                        if answer.is_ok() {
                            lists.insert(*key, joined);
                        }
                    }
                }
                let longest = lists.values().map(Vec::len).max().unwrap_or(0) as u64;
                prop_assert!(longest <= lengths.longest());
            }
        }
    }

    /// Nothing is read as long as the bound says enough; after that, once for each list.
    #[test]
    fn lists_are_looked_at_only_near_the_limit() {
        let (mut lengths, mut read) = (ListLengths::new(1_000, 100), 0);
        let element = encode(&["x".repeat(8)]);
        let mut append = |key: &[u8]| {
            let answer = lengths.append(key, &element, || {
                read += 1;
                Ok::<_, ()>(ListLength { count: 10, element_bytes: 90 })
            });
            assert_eq!(answer, Ok(Ok(())));
            read
        };
        for n in 0..150 {
            assert_eq!(append(b"a"), u32::from(n >= 90), "append {n}");
        }
        // Of another hash.
        assert_eq!(append(b"b"), 1);
    }

    #[test]
    fn the_longest_is_noted_in_steps() {
        let mut longest = Longest::default();
        assert!(!longest.note("a", 8 << 20));
        assert!(longest.note("a", (8 << 20) + 1));
        assert_eq!((longest.of("a"), longest.of("b")), (16 << 20, 8 << 20));
        assert!(!longest.note("a", 16 << 20));
        let mut other = Longest::default();
        other.note("b", 1 << 30);
        longest.merge(&other);
        assert_eq!((longest.of("a"), longest.of("b")), (16 << 20, 1 << 30));
    }
}

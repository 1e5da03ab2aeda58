//! From a database to the canonical form: sections of a full snapshot.

use std::sync::{Arc, Mutex};

use super::{
    database::FrozenDatabase,
    layout::{group_of, group_start, map_entry, put_count},
    tables::bad_key,
};
use crate::{
    ids::KeyGroupRange,
    state::{
        error::StateError,
        format::{SectionWriter, put_entry},
        ttl::Kept,
        ttl_encoded::Expiry,
    },
};

/// Sections are read ahead until they have so many bytes: most key groups have little, and each look at the database is dear.
/// Few in tests, so that they look more than once.
const READ_AHEAD_BYTES: usize = if cfg!(test) { 64 } else { 256 << 10 };

/// One state of a frozen database, in the key groups of a part.
pub struct StateScan {
    database: Arc<FrozenDatabase>,
    state: String,
    key_groups: KeyGroupRange,
    group_length: usize,
    /// The entries of a map are entries of the database.
    split: bool,
    /// What has expired at this time is left out.
    expired: Option<(Expiry, i64)>,
    ahead: Mutex<ReadAhead>,
}

/// Sections of key groups in a row.
#[derive(Default)]
struct ReadAhead {
    first: u32,
    sections: Vec<Section>,
}

#[derive(Default)]
struct Section {
    entries: u32,
    bytes: Vec<u8>,
}

impl SectionWriter for StateScan {
    /// Panics if the database cannot be read: the part cannot be written then, and the native call reports the panic.
    fn write(&self, group: usize, out: &mut Vec<u8>) -> u32 {
        let group =
            u32::from(self.key_groups.first.0) + u32::try_from(group).expect("a position within a range of u16");
        let mut ahead = self.ahead.lock().expect("a section was not read");
        if ahead.get(group).is_none() {
            *ahead = self.read(group).unwrap_or_else(|error| panic!("{error}"));
        }
        let section = ahead.get(group).expect("read above");
        out.extend_from_slice(&section.bytes);
        section.entries
    }
}

impl ReadAhead {
    fn get(&self, group: u32) -> Option<&Section> {
        self.sections.get(group.checked_sub(self.first)? as usize)
    }
}

impl StateScan {
    pub fn new(
        database: Arc<FrozenDatabase>,
        state: String,
        key_groups: KeyGroupRange,
        group_length: usize,
        split: bool,
        expired: Option<(Expiry, i64)>,
    ) -> StateScan {
        StateScan { database, state, key_groups, group_length, split, expired, ahead: Mutex::default() }
    }

    fn left_of(&self, value: &[u8]) -> Kept<Vec<u8>> {
        self.expired.as_ref().map_or(Kept::Whole, |(expiry, now)| expiry.strip(value, *now))
    }

    /// Reads the sections from a key group on: until they are enough, or there are no more in the part.
    fn read(&self, first: u32) -> Result<ReadAhead, StateError> {
        let end = u32::from(self.key_groups.last.0) + 1;
        let mut ahead = ReadAhead { first, sections: vec![Section::default()] };
        let (mut map, mut bytes, mut enough) = (Map::default(), 0, false);
        let bounds = (group_start(first, self.group_length), group_start(end, self.group_length));
        self.database.scan(&self.state, &bounds.0, bounds.1, |key, value| {
            let group = u32::from(group_of(key, self.group_length).ok_or_else(|| bad_key(&self.state))?.0);
            if ahead.get(group).is_none() {
                map.finish(ahead.sections.last_mut());
                if bytes > READ_AHEAD_BYTES {
                    enough = true;
                    return Ok(false);
                }
                ahead.sections.resize_with((group - first) as usize + 1, Section::default);
            }
            bytes += key.len() + value.len();
            if self.split {
                let (of, map_key) = map_entry(key, self.group_length).ok_or_else(|| bad_key(&self.state))?;
                if self.left_of(value) == Kept::Nothing {
                    return Ok(true);
                }
                if map.count == 0 || map.of != of {
                    map.finish(ahead.sections.last_mut());
                    map.of.clear();
                    map.of.extend_from_slice(of);
                }
                map.count += 1;
                map.entries.extend_from_slice(map_key);
                map.entries.extend_from_slice(value);
                return Ok(true);
            }
            let key = &key[self.group_length..];
            match self.left_of(value) {
                Kept::Whole => put(ahead.sections.last_mut(), key, value),
                Kept::Part(left) => put(ahead.sections.last_mut(), key, &left),
                Kept::Nothing => {}
            }
            Ok(true)
        })?;
        map.finish(ahead.sections.last_mut());
        if !enough {
            ahead.sections.resize_with((end - first) as usize, Section::default);
        }
        Ok(ahead)
    }
}

fn put(section: Option<&mut Section>, key: &[u8], value: &[u8]) {
    let section = section.expect("it begins with one");
    put_entry(key, value, &mut section.bytes);
    section.entries = section.entries.checked_add(1).expect("a key group has fewer than 2^32 entries");
}

/// A map that is being put together again.
#[derive(Default)]
struct Map {
    of: Vec<u8>,
    count: u64,
    entries: Vec<u8>,
}

impl Map {
    /// Writes it, if there is one.
    fn finish(&mut self, section: Option<&mut Section>) {
        if self.count == 0 {
            return;
        }
        let mut value = Vec::with_capacity(self.entries.len() + 9);
        put_count(self.count, &mut value);
        value.append(&mut self.entries);
        put(section, &self.of, &value);
        self.count = 0;
    }
}

//! From a database to the canonical form: sections of a full snapshot.

use std::sync::Arc;

use super::{
    database::FrozenDatabase,
    layout::{group_start, map_entry, put_count},
    tables::bad_key,
};
use crate::{
    ids::KeyGroup,
    state::{
        error::StateError,
        format::{SectionWriter, put_entry},
    },
};

/// One state of a frozen database.
pub struct StateScan {
    pub database: Arc<FrozenDatabase>,
    pub state: String,
    /// Of the part's range.
    pub first: KeyGroup,
    pub group_length: usize,
    /// The entries of a map are entries of the database.
    pub split: bool,
}

impl SectionWriter for StateScan {
    /// Panics if the database cannot be read: the part cannot be written then, and the native call reports the panic.
    fn write(&self, group: usize, out: &mut Vec<u8>) -> u32 {
        let group = u32::from(self.first.0) + u32::try_from(group).expect("a position within a range of u16");
        let entries = self.entries_of(group, out).unwrap_or_else(|error| panic!("{error}"));
        u32::try_from(entries).expect("a key group has fewer than 2^32 entries")
    }
}

impl StateScan {
    fn entries_of(&self, group: u32, out: &mut Vec<u8>) -> Result<u64, StateError> {
        let (start, end) = (group_start(group, self.group_length), group_start(group + 1, self.group_length));
        let mut entries = 0;
        if !self.split {
            self.database.scan(&self.state, &start, end, |key, value| {
                put_entry(key.get(self.group_length..).ok_or_else(|| bad_key(&self.state))?, value, out);
                entries += 1;
                Ok(true)
            })?;
            return Ok(entries);
        }
        let mut map = Map::default();
        self.database.scan(&self.state, &start, end, |key, value| {
            let (of, map_key) = map_entry(key, self.group_length).ok_or_else(|| bad_key(&self.state))?;
            if map.count == 0 || map.of != of {
                entries += map.finish(out);
                map.of.clear();
                map.of.extend_from_slice(of);
            }
            map.count += 1;
            map.entries.extend_from_slice(map_key);
            map.entries.extend_from_slice(value);
            Ok(true)
        })?;
        Ok(entries + map.finish(out))
    }
}

/// A map that is being put together again.
#[derive(Default)]
struct Map {
    of: Vec<u8>,
    count: u64,
    entries: Vec<u8>,
}

impl Map {
    /// Writes it, if there is one; says how many were written.
    fn finish(&mut self, out: &mut Vec<u8>) -> u64 {
        if self.count == 0 {
            return 0;
        }
        let mut value = Vec::with_capacity(self.entries.len() + 9);
        put_count(self.count, &mut value);
        value.append(&mut self.entries);
        put_entry(&self.of, &value, out);
        self.count = 0;
        1
    }
}

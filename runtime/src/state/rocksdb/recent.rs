//! Entries of a state that were used lately, in front of its column family. A read finds them here, and a write waits here until
//! there are enough of them, or until somebody looks at the database itself: for a scan, a snapshot, a native checkpoint.
//!
//! A get that goes through memtable and files costs some microseconds, one that ends here a tenth of one; and many writes in the
//! order of their keys are cheaper than each for itself, in its own. Flink has nothing of the kind; it is what Samza and Kafka
//! Streams keep in front of their stores. Nobody can tell that it is here: what is too large is refused when it is written, and
//! what cannot be written back stays, and fails whoever looks at the database next.
//!
//! What is kept is bounded in bytes, see [`RecentShare`], and what waits by [`WAITING_BYTES`]: it has to be written while the
//! stream stands still at a barrier. When something is written back depends on nothing but the accesses to the state and its part of the
//! bound, so it is the same in each simulated run.

use std::cell::RefCell;

use hashbrown::HashTable;
use rocksdb::WriteBatch;
use xxhash_rust::xxh3::xxh3_64;

use super::{database::Database, slot_memory::RecentShare};
use crate::state::error::StateError;

type Result<T> = std::result::Result<T, StateError>;

/// So much may wait to be written, in bytes of memory: some thousand entries. More of it would meet again before they are written,
/// and the stream would wait longer at a barrier: in a state of a million keys three microseconds for each.
pub(super) const WAITING_BYTES: u64 = 256 << 10;

/// Bytes of a batch when they are written. RocksDB looks at the memory of a slot before each.
const BATCH_BYTES: usize = 32 << 10;

/// Memory of an entry beside its key and value, generously: its place, its part of the index, what the allocator needs.
pub(super) const ENTRY_OVERHEAD_BYTES: u64 = 128;

/// An entry that would take more than a fourth of all is not worth the others.
const LARGEST_PART: u64 = 4;

/// The recent entries of one state.
pub(super) struct Recent {
    state: String,
    front: RefCell<Front>,
}

impl Recent {
    pub fn new(state: &str) -> Recent {
        Recent { state: state.to_string(), front: RefCell::default() }
    }

    /// Gives what is there under `key` to `with`.
    ///
    /// # Errors
    /// If it cannot be read, or others cannot be written back.
    pub fn get<T>(&self, database: &Database, key: &[u8], with: impl FnOnce(&[u8]) -> Result<T>) -> Result<Option<T>> {
        let mut front = self.front.borrow_mut();
        let hash = xxh3_64(key);
        if let Some(at) = front.find(hash, key) {
            let entry = &mut front.entries[at as usize];
            entry.used = true;
            return entry.value().map(with).transpose();
        }
        let place = &mut Place { front: &mut front, database, state: &self.state };
        let found = database.get(&self.state, key, |value| {
            place.admit(hash, key, Some(value))?;
            with(value)
        })?;
        if found.is_none() {
            place.admit(hash, key, None)?;
        }
        Ok(found)
    }

    /// # Errors
    /// If key or value is larger than allowed, or something cannot be written.
    pub fn put(&self, database: &Database, key: &[u8], value: &[u8]) -> Result<()> {
        database.check_size(&self.state, key, value)?;
        self.write(database, key, Some(value))
    }

    /// # Errors
    /// If something cannot be written.
    pub fn delete(&self, database: &Database, key: &[u8]) -> Result<()> {
        self.write(database, key, None)
    }

    fn write(&self, database: &Database, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let mut front = self.front.borrow_mut();
        let hash = xxh3_64(key);
        let known = front.find(hash, key);
        let mut place = Place { front: &mut front, database, state: &self.state };
        let at = match known {
            Some(at) => place.replace(at, value)?.then_some(at),
            None => place.admit(hash, key, value)?,
        };
        match (at, value) {
            (Some(at), _) => place.changed(at),
            (None, Some(value)) => database.put(&self.state, key, value),
            (None, None) => database.delete(&self.state, key),
        }
    }

    /// Writes what waits, in the order of the keys: the database is as it would be without this. What waited too long to keep
    /// within the bound is let go of.
    ///
    /// # Errors
    /// If it cannot be written. It waits then as before.
    pub fn write_back(&self, database: &Database) -> Result<()> {
        let mut front = self.front.borrow_mut();
        let mut place = Place { front: &mut front, database, state: &self.state };
        place.write_back()?;
        place.keep_to_the_limit()?;
        front.shrink();
        Ok(())
    }

    /// How many entries there is room for without more memory.
    #[cfg(test)]
    pub fn places(&self) -> usize {
        self.front.borrow().entries.capacity()
    }
}

/// One entry. A place without a key is free.
struct Entry {
    hash: u64,
    /// The key, and after it the value.
    bytes: Vec<u8>,
    key_length: u32,
    /// So many bytes are accounted for key and value.
    room: u32,
    /// There is nothing under this key.
    absent: bool,
    /// Since the hand passed.
    used: bool,
    /// The database does not have it yet.
    waits: bool,
}

impl Entry {
    fn key(&self) -> &[u8] {
        &self.bytes[..self.key_length as usize]
    }

    fn value(&self) -> Option<&[u8]> {
        (!self.absent).then(|| &self.bytes[self.key_length as usize..])
    }

    fn is(&self, hash: u64, key: &[u8]) -> bool {
        self.hash == hash && self.key() == key
    }

    fn is_free(&self) -> bool {
        self.key_length == 0
    }

    fn cost(&self) -> u64 {
        ENTRY_OVERHEAD_BYTES + u64::from(self.room)
    }
}

/// Entries with an index; who has not been used for a round of the hand goes first (CLOCK).
#[derive(Default)]
struct Front {
    index: HashTable<u32>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    hand: usize,
    /// Found last: who reads a value often writes it next.
    last: u32,
    waiting: Vec<u32>,
    waiting_bytes: u64,
    /// None until the database is known.
    share: Option<RecentShare>,
}

impl Front {
    fn find(&mut self, hash: u64, key: &[u8]) -> Option<u32> {
        if self.entries.get(self.last as usize).is_some_and(|entry| entry.is(hash, key)) {
            return Some(self.last);
        }
        let entries = &self.entries;
        let found = self.index.find(hash, |at| entries[*at as usize].is(hash, key)).copied()?;
        self.last = found;
        Some(found)
    }

    fn remove(&mut self, at: u32) {
        let entry = &mut self.entries[at as usize];
        debug_assert!(!entry.waits, "an entry is written back before it goes");
        let (hash, cost) = (entry.hash, entry.cost());
        entry.bytes = Vec::new();
        entry.key_length = 0;
        if let Ok(found) = self.index.find_entry(hash, |other| *other == at) {
            found.remove();
        }
        self.free.push(at);
        if let Some(share) = &mut self.share {
            share.give_back(cost);
        }
    }

    /// Places that are free take memory, too, which nobody accounts for: gives it back if they are most.
    fn shrink(&mut self) {
        if self.free.len() * 2 <= self.entries.len() || !self.waiting.is_empty() {
            return;
        }
        self.entries.retain(|entry| !entry.is_free());
        self.entries.shrink_to_fit();
        (self.free, self.hand, self.last) = (Vec::new(), 0, 0);
        self.index = HashTable::with_capacity(self.entries.len());
        for (at, entry) in (0..).zip(&self.entries) {
            self.index.insert_unique(entry.hash, at, |at| self.entries[*at as usize].hash);
        }
    }
}

/// The entries, and the database behind them.
struct Place<'a> {
    front: &'a mut Front,
    database: &'a Database,
    state: &'a str,
}

/// So that a number may become longer.
fn room_for(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

impl Place<'_> {
    fn share(&mut self) -> &mut RecentShare {
        self.front.share.get_or_insert_with(|| self.database.recent_share())
    }

    /// Takes memory, from other entries if need be; not that of `keep`. False: there is not enough.
    fn take(&mut self, bytes: u64, all_of_it: u64, keep: Option<u32>) -> Result<bool> {
        if all_of_it > self.share().limit() / LARGEST_PART {
            return Ok(false);
        }
        while !self.share().take(bytes) {
            if !self.evict(keep)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A new entry, as the database has it; None: there is no room for it.
    fn admit(&mut self, hash: u64, key: &[u8], value: Option<&[u8]>) -> Result<Option<u32>> {
        let length = key.len() + value.map_or(0, <[u8]>::len);
        let Ok(room) = u32::try_from(room_for(length)) else { return Ok(None) };
        let cost = ENTRY_OVERHEAD_BYTES + u64::from(room);
        if !self.take(cost, cost, None)? {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(room as usize);
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value.unwrap_or_default());
        #[allow(clippy::cast_possible_truncation)] // shorter than its room
        let key_length = key.len() as u32;
        let entry = Entry { hash, bytes, key_length, room, absent: value.is_none(), used: false, waits: false };
        let front = &mut *self.front;
        let at = match front.free.pop() {
            Some(at) => {
                front.entries[at as usize] = entry;
                at
            }
            None => {
                front.entries.push(entry);
                u32::try_from(front.entries.len() - 1).expect("each takes a hundred bytes")
            }
        };
        let entries = &front.entries;
        front.index.insert_unique(hash, at, |at| entries[*at as usize].hash);
        front.last = at;
        Ok(Some(at))
    }

    /// Another value for an entry. False: there is no room for it, and the entry is gone.
    fn replace(&mut self, at: u32, value: Option<&[u8]>) -> Result<bool> {
        let entry = &self.front.entries[at as usize];
        let (key_length, room) = (entry.key_length as usize, entry.room);
        let length = key_length + value.map_or(0, <[u8]>::len);
        if length > room as usize {
            let longer = u32::try_from(room_for(length)).ok();
            let fits = match longer {
                Some(longer) => {
                    self.take(u64::from(longer - room), ENTRY_OVERHEAD_BYTES + u64::from(longer), Some(at))?
                }
                None => false,
            };
            let Some(longer) = longer.filter(|_| fits) else {
                // What is written past it must not be overtaken by what waits here.
                self.write_back()?;
                self.front.remove(at);
                return Ok(false);
            };
            let entry = &mut self.front.entries[at as usize];
            if entry.waits {
                self.front.waiting_bytes += u64::from(longer - room);
            }
            entry.room = longer;
            entry.bytes.truncate(key_length);
            entry.bytes.reserve_exact(longer as usize - key_length);
        }
        let entry = &mut self.front.entries[at as usize];
        entry.bytes.truncate(key_length);
        entry.bytes.extend_from_slice(value.unwrap_or_default());
        entry.absent = value.is_none();
        entry.used = true;
        Ok(true)
    }

    /// The database does not have it yet.
    fn changed(&mut self, at: u32) -> Result<()> {
        let limit = WAITING_BYTES.min(self.share().limit() / 2);
        let entry = &mut self.front.entries[at as usize];
        if !entry.waits {
            entry.waits = true;
            self.front.waiting_bytes += entry.cost();
            self.front.waiting.push(at);
        }
        if self.front.waiting_bytes > limit {
            self.write_back()?;
        }
        self.keep_to_the_limit()
    }

    /// Lets go of an entry. False: there is none, but `keep`.
    fn evict(&mut self, keep: Option<u32>) -> Result<bool> {
        // Twice round at most: the first time takes away what they have been used for.
        for _ in 0..self.front.entries.len() * 2 {
            let at = self.front.hand;
            self.front.hand = if at + 1 < self.front.entries.len() { at + 1 } else { 0 };
            let entry = &mut self.front.entries[at];
            #[allow(clippy::cast_possible_truncation)] // the number of an entry
            let number = at as u32;
            if entry.is_free() || keep == Some(number) {
                continue;
            }
            if std::mem::take(&mut entry.used) {
                continue;
            }
            if entry.waits {
                self.write_back()?;
            }
            self.front.remove(number);
            return Ok(true);
        }
        Ok(false)
    }

    /// There may be more states in the slot by now.
    fn keep_to_the_limit(&mut self) -> Result<()> {
        while self.front.share.as_ref().is_some_and(RecentShare::is_over) && self.evict(None)? {}
        Ok(())
    }

    fn write_back(&mut self) -> Result<()> {
        if self.front.waiting.is_empty() {
            return Ok(());
        }
        let entries = &mut self.front.entries;
        // By the first bytes, which mostly suffice.
        let mut order: Vec<(u64, u32)> =
            self.front.waiting.iter().map(|at| (beginning_of(entries[*at as usize].key()), *at)).collect();
        order.sort_unstable_by(|(a, a_at), (b, b_at)| {
            a.cmp(b).then_with(|| entries[*a_at as usize].key().cmp(entries[*b_at as usize].key()))
        });
        let family = self.database.family(self.state)?;
        let (mut batch, mut bytes) = (WriteBatch::default(), 0);
        for (_, at) in &order {
            let entry = &entries[*at as usize];
            match entry.value() {
                Some(value) => batch.put_cf(family, entry.key(), value),
                None => batch.delete_cf(family, entry.key()),
            }
            bytes += entry.bytes.len();
            if bytes >= BATCH_BYTES {
                self.database.write(self.state, std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        self.database.write(self.state, batch)?;
        // Only now: if one fails all of them still wait.
        for at in self.front.waiting.drain(..) {
            entries[at as usize].waits = false;
        }
        self.front.waiting_bytes = 0;
        Ok(())
    }
}

/// The first bytes of a key as a number that is in the same order.
fn beginning_of(key: &[u8]) -> u64 {
    let mut beginning = [0; 8];
    let length = key.len().min(8);
    beginning[..length].copy_from_slice(&key[..length]);
    u64::from_be_bytes(beginning)
}

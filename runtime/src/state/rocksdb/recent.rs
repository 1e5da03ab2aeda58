//! Entries of a state that were used lately, in front of its column family. A read finds them here, and a write waits here until
//! there are enough of them, until somebody looks at the database itself, or until a barrier hands them over to whoever writes
//! the snapshot.
//!
//! A get that goes through memtable and files costs some microseconds, one that ends here a tenth of one; and many writes in the
//! order of their keys are cheaper than each for itself, in its own. Flink has nothing of the kind; it is what Samza and Kafka
//! Streams keep in front of their stores. Nobody can tell that it is here: what is too large is refused when it is written, and
//! what cannot be written back stays, and fails whoever looks at the database next.
//!
//! What is kept is bounded in bytes, see [`RecentShare`], and what waits by [`WAITING_BYTES`]. When something is written back
//! depends on nothing but the accesses to the state, its part of the bound, and when a snapshot was written, so it is the same in
//! each simulated run.

use std::{cell::Cell, sync::MutexGuard};

use xxhash_rust::xxh3::xxh3_64;

use super::{
    database::Database,
    front::{ENTRY_OVERHEAD_BYTES, Entry, Front, SharedFront},
    slot_memory::RecentShare,
};
use crate::state::error::StateError;

type Result<T> = std::result::Result<T, StateError>;

/// So much may wait to be written, in bytes of memory: a hundred thousand small entries. A barrier hands them over and does not wait for
/// them, and what is written again before that is written once. While a snapshot is written there can be a copy of so much.
pub(super) const WAITING_BYTES: u64 = 16 << 20;

/// So much may wait where other states of the operator write to the database at once: the first such write after a barrier has to
/// wait for all that was handed over, three microseconds for each entry in a state of a million keys.
pub(super) const WAITING_BESIDE_OTHERS_BYTES: u64 = 256 << 10;

/// So much is written back at once when too much waits. The stream stands still for it.
const WRITTEN_BACK_BYTES: u64 = 1 << 20;

/// An entry that would take more than a fourth of all is not worth the others.
const LARGEST_PART: u64 = 4;

/// The recent entries of one state.
pub(super) struct Recent {
    state: String,
    front: SharedFront,
    may_wait_bytes: Cell<u64>,
}

impl Recent {
    pub fn new(state: &str) -> Recent {
        let (front, may_wait_bytes) = (SharedFront::default(), Cell::new(WAITING_BESIDE_OTHERS_BYTES));
        Recent { state: state.to_string(), front, may_wait_bytes }
    }

    /// So much may wait, in bytes of memory.
    pub fn set_may_wait(&self, bytes: u64) {
        self.may_wait_bytes.set(bytes);
    }

    /// The name of the state, and what a barrier hands over.
    pub fn front(&self) -> (&str, &SharedFront) {
        (&self.state, &self.front)
    }

    fn place<'a>(&'a self, database: &'a Database) -> Place<'a> {
        Place { recent: self, front: Some(self.front.lock()), database }
    }

    /// Gives what is there under `key` to `with`.
    ///
    /// # Errors
    /// If it cannot be read, or others cannot be written back.
    pub fn get<T>(&self, database: &Database, key: &[u8], with: impl FnOnce(&[u8]) -> Result<T>) -> Result<Option<T>> {
        let mut place = self.place(database);
        let front = place.front();
        let hash = xxh3_64(key);
        if let Some(at) = front.find(hash, key) {
            let entry = &mut front.entries[at as usize];
            entry.used = true;
            return entry.value().map(with).transpose();
        }
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
        let mut place = self.place(database);
        let hash = xxh3_64(key);
        let written = match place.front().find(hash, key) {
            Some(at) => place.replace(at, value)?,
            None => match place.admit(hash, key, value)? {
                Some(at) => {
                    place.front().changed(at);
                    true
                }
                None => false,
            },
        };
        if written {
            return place.keep_to_the_limits();
        }
        place.settle()?;
        match value {
            Some(value) => database.put(&self.state, key, value),
            None => database.delete(&self.state, key),
        }
    }

    /// Writes what waits, in the order of the keys: the database is as it would be without this. What waited too long to keep
    /// within the bound is let go of.
    ///
    /// # Errors
    /// If it cannot be written. It waits then as before.
    pub fn write_back(&self, database: &Database) -> Result<()> {
        let mut place = self.place(database);
        place.settle()?;
        place.write_back(u64::MAX)?;
        place.keep_to_the_limits()?;
        place.front().shrink();
        Ok(())
    }

    /// How many entries there is room for without more memory.
    #[cfg(test)]
    pub fn places(&self) -> usize {
        self.front.lock().entries.capacity()
    }
}

/// The entries, and the database behind them.
struct Place<'a> {
    recent: &'a Recent,
    /// None only while it waits for others.
    front: Option<MutexGuard<'a, Front>>,
    database: &'a Database,
}

impl Place<'_> {
    fn front(&mut self) -> &mut Front {
        self.front.as_mut().expect("it waits for nobody")
    }

    fn share(&mut self) -> &mut RecentShare {
        let database = self.database;
        self.front().share.get_or_insert_with(|| database.recent_share())
    }

    /// What was handed over is in the database after it. Entries stay where they are meanwhile.
    fn settle(&mut self) -> Result<()> {
        if self.database.handover().is_pending() {
            self.front = None;
            let settled = self.database.settle();
            self.front = Some(self.recent.front.lock());
            settled?;
        }
        Ok(())
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
        let Some(room) = Entry::room_for(key, value) else { return Ok(None) };
        let cost = ENTRY_OVERHEAD_BYTES + u64::from(room);
        if !self.take(cost, cost, None)? {
            return Ok(None);
        }
        Ok(Some(self.front().insert(Entry::new(hash, key, value, room))))
    }

    /// Another value for an entry. False: there is no room for it, and the entry is gone.
    fn replace(&mut self, at: u32, value: Option<&[u8]>) -> Result<bool> {
        let entry = &self.front().entries[at as usize];
        let (room, needed) = (entry.room, Entry::room_for(entry.key(), value));
        let fits = match needed {
            Some(needed) if needed <= room => true,
            Some(needed) => self.take(u64::from(needed - room), ENTRY_OVERHEAD_BYTES + u64::from(needed), Some(at))?,
            None => false,
        };
        if let Some(needed) = needed.filter(|_| fits) {
            self.front().write(at, value, needed.max(room));
            return Ok(true);
        }
        // What is written past it must not be overtaken by what waits here.
        self.settle()?;
        self.write_back(u64::MAX)?;
        self.front().remove(at);
        Ok(false)
    }

    /// Lets go of an entry. False: there is none, but `keep`.
    fn evict(&mut self, keep: Option<u32>) -> Result<bool> {
        // First without those that the database has to be given before.
        for pending in [self.database.handover().is_pending(), false] {
            // Twice round at most: the first time takes away what they have been used for.
            for _ in 0..self.front().entries.len() * 2 {
                let front = self.front();
                let at = front.next_of_the_hand();
                let entry = &mut front.entries[at as usize];
                if entry.is_free() || keep == Some(at) || std::mem::take(&mut entry.used) {
                    continue;
                }
                if front.waits(at) && !pending {
                    self.settle()?;
                    self.write_back(WRITTEN_BACK_BYTES)?;
                }
                let front = self.front();
                if front.waits(at) || front.is_held(at) {
                    continue;
                }
                front.remove(at);
                return Ok(true);
            }
            self.settle()?;
        }
        Ok(false)
    }

    /// No more waits than may wait, and no more is kept than its part: there may be more states in the slot by now.
    fn keep_to_the_limits(&mut self) -> Result<()> {
        let limit = self.recent.may_wait_bytes.get().min(self.share().limit() / 2);
        if self.front().waiting_bytes > limit {
            self.settle()?;
            self.write_back(WRITTEN_BACK_BYTES)?;
        }
        while self.share().is_over() && self.evict(None)? {}
        Ok(())
    }

    /// Writes back who has waited longest, until that is so many bytes. All that was handed over was written before.
    fn write_back(&mut self, bytes: u64) -> Result<()> {
        let (number, mut collected) = self.front().longest_waiting(bytes);
        if number == 0 {
            return Ok(());
        }
        let (database, state) = (self.database, &self.recent.state);
        collected.write(database.family(state)?, |batch| database.write(state, batch))?;
        // Only now: if one fails all of them still wait.
        self.front().written(number);
        Ok(())
    }
}

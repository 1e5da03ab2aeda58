//! The recent entries of one state: an index, who goes when there is no more room, and who is not in the database yet.
//!
//! Between two barriers is an era. What is written in it waits until there is enough of it, or until the barrier. That hands it
//! over, which is a matter of two lists and no more, however much it is: from then on it is *held* until whoever writes the
//! snapshot has collected it and written it to the database, see [`super::handover`]. An entry that is written again before that
//! leaves a copy of what it was at the barrier.

use std::sync::{Arc, Mutex, MutexGuard};

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::{collected::Collected, slot_memory::RecentShare};

/// Memory of an entry beside its key and value, generously: its place, its part of the index, what the allocator needs.
pub(super) const ENTRY_OVERHEAD_BYTES: u64 = 128;

/// So many entries are collected before others may look at them again.
const COLLECTED_AT_A_TIME: usize = if cfg!(test) { 3 } else { 256 };

/// Entries that whoever writes a snapshot may reach, too.
///
/// Who holds it waits for nothing while something of it is handed over: the one who writes that needs it.
#[derive(Clone, Default)]
pub(super) struct SharedFront(Arc<Mutex<Front>>);

impl SharedFront {
    pub fn lock(&self) -> MutexGuard<'_, Front> {
        self.0.lock().expect("recent entries: a holder panicked")
    }

    /// Collects all that was handed over and not collected yet.
    pub fn collect(&self, collected: &mut Collected) {
        while self.lock().collect_some(collected) {}
    }
}

/// One entry. A place without a key is free.
pub(super) struct Entry {
    pub hash: u64,
    /// The key, and after it the value. A short one is looked at without another look at memory.
    bytes: SmallVec<[u8; SHORT_BYTES]>,
    key_length: u32,
    /// So many bytes are accounted for key and value.
    pub room: u32,
    /// There is nothing under this key.
    absent: bool,
    /// Since the hand passed.
    pub used: bool,
    /// The era in which it was written last, [`CLEAN`] if the database has it.
    written_in: u32,
}

/// A key and a number, mostly.
const SHORT_BYTES: usize = 40;

const CLEAN: u32 = 0;
/// So that the era before it is no [`CLEAN`].
const FIRST_ERA: u32 = 2;

/// So that a number may become longer.
fn room_for(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

impl Entry {
    /// What an entry of so many bytes needs; None: more than there ever is.
    pub fn room_for(key: &[u8], value: Option<&[u8]>) -> Option<u32> {
        u32::try_from(room_for(key.len() + value.map_or(0, <[u8]>::len))).ok()
    }

    /// An entry as the database has it. `room` is what [`Self::room_for`] says.
    pub fn new(hash: u64, key: &[u8], value: Option<&[u8]>, room: u32) -> Entry {
        let mut bytes = SmallVec::with_capacity(room as usize);
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value.unwrap_or_default());
        #[allow(clippy::cast_possible_truncation)] // shorter than its room
        let key_length = key.len() as u32;
        Entry { hash, bytes, key_length, room, absent: value.is_none(), used: false, written_in: CLEAN }
    }

    pub fn key(&self) -> &[u8] {
        &self.bytes[..self.key_length as usize]
    }

    pub fn value(&self) -> Option<&[u8]> {
        (!self.absent).then(|| &self.bytes[self.key_length as usize..])
    }

    fn is(&self, hash: u64, key: &[u8]) -> bool {
        self.hash == hash && self.key() == key
    }

    pub fn is_free(&self) -> bool {
        self.key_length == 0
    }

    pub fn cost(&self) -> u64 {
        ENTRY_OVERHEAD_BYTES + u64::from(self.room)
    }
}

/// Entries with an index; who has not been used for a round of the hand goes first (CLOCK).
pub(super) struct Front {
    index: HashTable<u32>,
    pub entries: Vec<Entry>,
    free: Vec<u32>,
    hand: u32,
    /// Found last: who reads a value often writes it next.
    last: u32,
    era: u32,
    /// Written in this era, and not in the database; who has waited longest is first.
    waiting: Vec<u32>,
    pub waiting_bytes: u64,
    /// What was written in the era before is not in the database yet.
    held: bool,
    /// Handed over at the barrier, and not collected yet.
    handed_over: Vec<u32>,
    /// What entries of these were at the barrier, if they are not that any more.
    copies: Collected,
    /// None until the database is known.
    pub share: Option<RecentShare>,
}

impl Default for Front {
    fn default() -> Front {
        Front {
            index: HashTable::new(),
            entries: Vec::new(),
            free: Vec::new(),
            hand: 0,
            last: 0,
            era: FIRST_ERA,
            waiting: Vec::new(),
            waiting_bytes: 0,
            held: false,
            handed_over: Vec::new(),
            copies: Collected::default(),
            share: None,
        }
    }
}

impl Front {
    pub fn find(&mut self, hash: u64, key: &[u8]) -> Option<u32> {
        if self.entries.get(self.last as usize).is_some_and(|entry| entry.is(hash, key)) {
            return Some(self.last);
        }
        let entries = &self.entries;
        let found = self.index.find(hash, |at| entries[*at as usize].is(hash, key)).copied()?;
        self.last = found;
        Some(found)
    }

    pub fn insert(&mut self, entry: Entry) -> u32 {
        let hash = entry.hash;
        let at = match self.free.pop() {
            Some(at) => {
                self.entries[at as usize] = entry;
                at
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).expect("each takes a hundred bytes")
            }
        };
        let entries = &self.entries;
        self.index.insert_unique(hash, at, |at| entries[*at as usize].hash);
        self.last = at;
        at
    }

    /// Another value for an entry, in a room that suffices. It waits to be written from now on.
    pub fn write(&mut self, at: u32, value: Option<&[u8]>, room: u32) {
        if self.is_held(at) && !self.handed_over.is_empty() {
            self.copies.add(&self.entries[at as usize]);
        }
        let entry = &mut self.entries[at as usize];
        let (key_length, longer) = (entry.key_length as usize, room - entry.room);
        entry.bytes.truncate(key_length);
        if longer > 0 {
            entry.room = room;
            entry.bytes.reserve_exact(room as usize - key_length);
        }
        entry.bytes.extend_from_slice(value.unwrap_or_default());
        entry.absent = value.is_none();
        entry.used = true;
        if self.waits(at) {
            self.waiting_bytes += u64::from(longer);
        } else {
            self.changed(at);
        }
    }

    /// The database does not have it yet.
    pub fn changed(&mut self, at: u32) {
        debug_assert!(!self.waits(at), "it is in the list once");
        let entry = &mut self.entries[at as usize];
        entry.written_in = self.era;
        self.waiting_bytes += entry.cost();
        self.waiting.push(at);
    }

    /// It is to be written to the database, in this era.
    pub fn waits(&self, at: u32) -> bool {
        self.entries[at as usize].written_in == self.era
    }

    /// It is of the era before, and not in the database yet.
    pub fn is_held(&self, at: u32) -> bool {
        self.held && self.entries[at as usize].written_in == self.era - 1
    }

    /// The next that the hand points at.
    pub fn next_of_the_hand(&mut self) -> u32 {
        let at = self.hand;
        self.hand = if (at as usize) + 1 < self.entries.len() { at + 1 } else { 0 };
        at
    }

    /// Lets go of an entry that the database has.
    pub fn remove(&mut self, at: u32) {
        debug_assert!(!self.waits(at) && !self.is_held(at), "an entry is written back before it goes");
        let entry = &mut self.entries[at as usize];
        let (hash, cost) = (entry.hash, entry.cost());
        entry.bytes = SmallVec::new();
        entry.key_length = 0;
        if let Ok(found) = self.index.find_entry(hash, |other| *other == at) {
            found.remove();
        }
        self.free.push(at);
        if let Some(share) = &mut self.share {
            share.give_back(cost);
        }
    }

    /// Those that have waited longest, until they take so many bytes of memory, and how many they are. They wait until
    /// [`Self::written`].
    pub fn longest_waiting(&self, bytes: u64) -> (usize, Collected) {
        let (mut collected, mut taken) = (Collected::default(), 0);
        for (number, at) in self.waiting.iter().enumerate() {
            if taken >= bytes {
                return (number, collected);
            }
            let entry = &self.entries[*at as usize];
            collected.add(entry);
            taken += entry.cost();
        }
        (self.waiting.len(), collected)
    }

    /// So many of those that have waited longest are in the database.
    pub fn written(&mut self, number: usize) {
        for at in self.waiting.drain(..number) {
            let entry = &mut self.entries[at as usize];
            entry.written_in = CLEAN;
            self.waiting_bytes -= entry.cost();
        }
    }

    /// A barrier: what waits is handed over. False: there is nothing.
    pub fn hand_over(&mut self) -> bool {
        debug_assert!(!self.held && self.handed_over.is_empty(), "one barrier after the other");
        if self.waiting.is_empty() {
            return false;
        }
        std::mem::swap(&mut self.waiting, &mut self.handed_over);
        self.waiting_bytes = 0;
        self.era += 1;
        self.held = true;
        true
    }

    /// Collects some of what was handed over, as it was then. False: that was all.
    pub fn collect_some(&mut self, collected: &mut Collected) -> bool {
        let rest = self.handed_over.len().saturating_sub(COLLECTED_AT_A_TIME);
        for at in self.handed_over.drain(rest..) {
            let entry = &self.entries[at as usize];
            // The others left a copy.
            if entry.written_in == self.era - 1 {
                collected.add(entry);
            }
        }
        if self.handed_over.is_empty() {
            collected.append(&mut self.copies);
            self.handed_over.shrink_to(self.waiting.capacity());
        }
        !self.handed_over.is_empty()
    }

    /// The database has all that was handed over.
    pub fn settled(&mut self) {
        debug_assert!(self.handed_over.is_empty() && self.copies.is_empty(), "all of it");
        self.held = false;
    }

    /// Places that are free take memory, too, which nobody accounts for: gives it back if they are most.
    pub fn shrink(&mut self) {
        if self.free.len() * 2 <= self.entries.len() || !self.waiting.is_empty() || self.held {
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

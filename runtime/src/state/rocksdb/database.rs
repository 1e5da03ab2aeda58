//! One open database: column families by state, reads and writes of bytes.
#![allow(
    clippy::disallowed_types,
    reason = "a OnceLock as a value, no static: a snapshot is taken in it, later and once"
)]

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBRawIteratorWithThreadMode, Options, ReadOptions,
    SnapshotWithThreadMode, WriteBatch, WriteOptions,
};
use self_cell::self_cell;

use super::{
    expiry::Expiring,
    front::SharedFront,
    handover::Handover,
    list_lengths::Longest,
    native::Window,
    options::{options_for, options_to_read},
    slot_memory::{RecentShare, SlotShare},
    tables::encode,
};
use crate::{
    platform::NativeDir,
    state::{
        error::{StateError, StateProblem},
        rocksdb_options::metrics::NativeMetrics,
        settings::RocksDbSettings,
    },
};

/// Where in its scratch directory a new database works.
pub const WORKING: &str = "db";

/// An open database. It is closed when the last owner lets go of it; [`Database::close`] says where that should be.
pub struct Database {
    // Before the directory it is in.
    open: OpenDatabase,
    reads: ReadOptions,
    writes: WriteOptions,
    max_entry_bytes: u64,
    /// So much may each state keep in front of it. None: what the memory of the slot gives.
    recent_bytes: Option<u64>,
    /// The memory that it shares with other databases; None: no bound.
    share: Option<SlotShare>,
    families: Vec<String>,
    handover: Handover,
    window: Window,
    window_bytes: u64,
    /// What it says of its longest lists.
    longest: Mutex<Longest>,
    /// Kept for as long as the database works in it.
    directory: NativeDir,
}

/// The column families of states by the states' names, in their order: looked up with each access.
type FamiliesByState<'a> = Vec<(String, &'a ColumnFamily)>;

self_cell!(
    struct OpenDatabase {
        owner: DB,
        #[covariant]
        dependent: FamiliesByState,
    }
);

/// What a state keeps in front of a database whose slot has no bound.
const UNBOUNDED_RECENT_BYTES: u64 = 16 << 20;

/// The column family of a state: no name of a state is one of RocksDB's own.
pub fn family_of(state: &str) -> String {
    format!("{FAMILY_OF}{state}")
}

const FAMILY_OF: &str = "state:";

/// Where the database says how long its lists are at most.
const LONGEST: &[u8] = b"longest lists";

fn state_of(family: &str) -> &str {
    family.strip_prefix(FAMILY_OF).unwrap_or(family)
}

impl Database {
    /// The column families of the database in a subdirectory of `directory`. A native call.
    ///
    /// # Errors
    /// What RocksDB says.
    pub fn families_of(
        directory: &NativeDir,
        subdirectory: &str,
        settings: &RocksDbSettings,
    ) -> Result<Vec<String>, rocksdb::Error> {
        DB::list_cf(&options_to_read(settings)?, directory.path().join(subdirectory))
    }

    /// Opens the database in a subdirectory of `directory`, which is made if it is not there, with these column families; it
    /// must not have others. `expiring` is what compaction may drop. A native call.
    ///
    /// # Errors
    /// What RocksDB says.
    pub fn open(
        directory: NativeDir,
        subdirectory: &str,
        settings: &RocksDbSettings,
        mut families: Vec<String>,
        expiring: &Expiring,
    ) -> Result<Database, rocksdb::Error> {
        let options = options_for(settings, settings.host.memory.as_ref())?;
        families.push("default".to_string());
        families.sort_unstable();
        families.dedup();
        let described = families.iter().map(|family| {
            let mut options = options.clone();
            if settings.ttl_compaction_filter {
                expiring.add_filter(state_of(family), &mut options);
            }
            ColumnFamilyDescriptor::new(family, options)
        });
        let db = DB::open_cf_descriptors(&options, directory.path().join(subdirectory), described)?;
        Database::of(db, directory, settings, families)
    }

    /// Opens the database in a subdirectory of `directory` with these of its column families, only to read it: nothing is
    /// written, not even its own description anew. A native call.
    ///
    /// # Errors
    /// What RocksDB says.
    pub fn open_to_read(
        directory: NativeDir,
        subdirectory: &str,
        settings: &RocksDbSettings,
        families: Vec<String>,
    ) -> Result<Database, rocksdb::Error> {
        Database::open_to_read_with(&options_to_read(settings)?, directory, subdirectory, settings, families)
    }

    /// As [`Self::open_to_read`], with all its column families.
    ///
    /// # Errors
    /// What RocksDB says.
    pub fn open_all_to_read(
        directory: NativeDir,
        subdirectory: &str,
        settings: &RocksDbSettings,
    ) -> Result<Database, rocksdb::Error> {
        let options = options_to_read(settings)?;
        let families = DB::list_cf(&options, directory.path().join(subdirectory))?;
        Database::open_to_read_with(&options, directory, subdirectory, settings, families)
    }

    fn open_to_read_with(
        options: &Options,
        directory: NativeDir,
        subdirectory: &str,
        settings: &RocksDbSettings,
        families: Vec<String>,
    ) -> Result<Database, rocksdb::Error> {
        let described = families.iter().map(|family| ColumnFamilyDescriptor::new(family, options.clone()));
        let path = directory.path().join(subdirectory);
        let db = DB::open_cf_descriptors_read_only(options, path, described, false)?;
        Database::of(db, directory, settings, families)
    }

    fn of(
        db: DB,
        directory: NativeDir,
        settings: &RocksDbSettings,
        families: Vec<String>,
    ) -> Result<Database, rocksdb::Error> {
        let mut writes = WriteOptions::default();
        // What is not in a checkpoint is lost with the process, and meant to be.
        writes.disable_wal(true);
        let share = settings.host.memory.clone().map(SlotShare::new);
        let write_buffer_bytes =
            settings.options.column_family.write_buffer_size.unwrap_or(settings.write_buffer_bytes);
        let (max_entry_bytes, window_bytes) = (settings.max_entry_bytes, write_buffer_bytes / 2);
        let window = Window::default();
        // What cannot be read says nothing: it is there to save reads.
        let longest = db.get(LONGEST)?.and_then(|bytes| postcard::from_bytes(&bytes).ok()).unwrap_or_default();
        let longest = Mutex::new(longest);
        let open = OpenDatabase::new(db, |db| {
            let of_states = families.iter().filter_map(|name| name.strip_prefix(FAMILY_OF).map(|state| (name, state)));
            let found = of_states.filter_map(|(name, state)| Some((state.to_string(), db.cf_handle(name)?)));
            let mut found: FamiliesByState<'_> = found.collect();
            found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            found
        });
        Ok(Database {
            open,
            reads: ReadOptions::default(),
            writes,
            max_entry_bytes,
            recent_bytes: settings.recent_bytes,
            share,
            families,
            handover: Handover::default(),
            window,
            window_bytes,
            longest,
            directory,
        })
    }

    pub(super) fn rocksdb(&self) -> &DB {
        self.open.borrow_owner()
    }

    /// The part of one more state in the memory for entries in front of the database.
    pub(super) fn recent_share(&self) -> RecentShare {
        match &self.share {
            Some(share) => share.recent_share(self.recent_bytes.unwrap_or(u64::MAX)),
            None => RecentShare::alone(self.recent_bytes.unwrap_or(UNBOUNDED_RECENT_BYTES)),
        }
    }

    pub fn directory(&self) -> &NativeDir {
        &self.directory
    }

    /// Names of all column families, sorted.
    pub fn families(&self) -> &[String] {
        &self.families
    }

    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    pub(super) fn handover(&self) -> &Handover {
        &self.handover
    }

    fn before_write(&self, entries: u64, bytes: usize) -> Result<(), StateError> {
        self.settle()?;
        if self.window.is_open() {
            // A memory that is nearly full makes RocksDB flush whatever it likes.
            let limit = if self.share.as_ref().is_some_and(SlotShare::is_nearly_full) { 0 } else { self.window_bytes };
            self.window.before_write(entries, bytes, limit);
        }
        Ok(())
    }

    pub(super) fn writes(&self) -> &WriteOptions {
        &self.writes
    }

    /// What RocksDB says of itself: state, name of the metric, value. What it does not know is left out.
    pub fn metrics(&self, states: &[&str], metrics: &NativeMetrics) -> Vec<(String, String, u64)> {
        let mut found = Vec::new();
        for state in states {
            let Ok(family) = self.family(state) else { continue };
            for (name, property) in metrics.properties() {
                let value = self.rocksdb().property_int_value_cf(family, property.as_str()).ok().flatten();
                found.extend(value.map(|value| ((*state).to_string(), name.to_string(), value)));
            }
        }
        found
    }

    /// # Errors
    /// If there is none: a programming error, but none that should take the process with it.
    pub fn family(&self, state: &str) -> Result<&ColumnFamily, StateError> {
        let families = self.open.borrow_dependent();
        let found = families.binary_search_by(|(name, _)| name.as_str().cmp(state));
        found.map(|at| families[at].1).map_err(|_| {
            StateError::new(state, StateProblem::Database("it has no column family of this name".to_string()))
        })
    }

    /// Gives what is there under `key` to `with`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn get<T>(
        &self,
        state: &str,
        key: &[u8],
        with: impl FnOnce(&[u8]) -> Result<T, StateError>,
    ) -> Result<Option<T>, StateError> {
        let found = self
            .rocksdb()
            .get_pinned_cf_opt(self.family(state)?, key, &self.reads)
            .map_err(|e| database_error(state, &e))?;
        found.map(|bytes| with(&bytes)).transpose()
    }

    /// # Errors
    /// If it cannot be written, or key or value is larger than allowed.
    pub fn put(&self, state: &str, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.check_size(state, key, value)?;
        self.before_write(1, key.len() + value.len())?;
        let put = self.rocksdb().put_cf_opt(self.family(state)?, key, value, &self.writes);
        put.and_then(|()| self.wrote(1, key.len() + value.len())).map_err(|e| database_error(state, &e))
    }

    /// Appends an encoded list to what is there.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn append(&self, state: &str, key: &[u8], list: &[u8]) -> Result<(), StateError> {
        self.check_size(state, key, list)?;
        self.before_write(1, key.len() + list.len())?;
        let merged = self.rocksdb().merge_cf_opt(self.family(state)?, key, list, &self.writes);
        merged.and_then(|()| self.wrote(1, key.len() + list.len())).map_err(|e| database_error(state, &e))
    }

    /// So long may a key or a value be, in bytes.
    pub(super) fn max_entry_bytes(&self) -> u64 {
        self.max_entry_bytes
    }

    fn longest(&self) -> MutexGuard<'_, Longest> {
        self.longest.lock().expect("the longest lists: a holder panicked")
    }

    /// No list of the state is longer, in bytes, as far as was noted.
    pub(super) fn longest_list(&self, state: &str) -> u64 {
        self.longest().of(state)
    }

    /// Notes that a list of the state may have so many bytes, in the database itself, for whoever restores it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn note_longest_list(&self, state: &str, bytes: u64) -> Result<(), StateError> {
        let mut longest = self.longest();
        if longest.note(state, bytes) { self.write_longest(&longest) } else { Ok(()) }
    }

    /// Takes over what another database says of its lists, which come into this one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn note_longest_lists_of(&self, other: &Database) -> Result<(), StateError> {
        let (mut longest, other) = (self.longest(), other.longest().clone());
        let before = longest.clone();
        longest.merge(&other);
        if *longest == before { Ok(()) } else { self.write_longest(&longest) }
    }

    fn write_longest(&self, longest: &Longest) -> Result<(), StateError> {
        let bytes = encode("", "description", longest, Vec::new())?;
        let length = LONGEST.len() + bytes.len();
        self.before_write(1, length)?;
        let put = self.rocksdb().put_opt(LONGEST, bytes, &self.writes);
        put.and_then(|()| self.wrote(1, length)).map_err(|e| database_error("", &e))
    }

    /// # Errors
    /// If it cannot be written.
    pub fn delete(&self, state: &str, key: &[u8]) -> Result<(), StateError> {
        self.before_write(1, key.len())?;
        let deleted = self.rocksdb().delete_cf_opt(self.family(state)?, key, &self.writes);
        deleted.and_then(|()| self.wrote(1, key.len())).map_err(|e| database_error(state, &e))
    }

    /// Writes what is in the batch, whose sizes were checked. `state` is for the error.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, state: &str, batch: WriteBatch) -> Result<(), StateError> {
        let (entries, bytes) = (batch.len() as u64, batch.size_in_bytes());
        if entries == 0 {
            return Ok(());
        }
        self.before_write(entries, bytes)?;
        let written = self.rocksdb().write_opt(batch, &self.writes);
        written.and_then(|()| self.wrote(entries, bytes)).map_err(|e| database_error(state, &e))
    }

    /// As [`Self::write`], what belongs before the barrier that is being settled: there is no window yet.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn write_of_before_the_barrier(&self, state: &str, batch: WriteBatch) -> Result<(), StateError> {
        debug_assert!(!self.window.is_open(), "the files of the barrier before were made first");
        let (entries, bytes) = (batch.len() as u64, batch.size_in_bytes());
        if entries == 0 {
            return Ok(());
        }
        let written = self.rocksdb().write_opt(batch, &self.writes);
        written.and_then(|()| self.wrote(entries, bytes)).map_err(|e| database_error(state, &e))
    }

    /// Flushes what this database has in memory if the memory of the slot is used up, and so slows its writer down to what the
    /// disk can take.
    fn wrote(&self, entries: u64, bytes: usize) -> Result<(), rocksdb::Error> {
        self.window.wrote(entries);
        let Some(share) = self.share.as_ref().filter(|share| share.wrote(bytes)) else { return Ok(()) };
        self.window.finish();
        let db = self.rocksdb();
        for family in self.families.iter().filter_map(|name| db.cf_handle(name)) {
            let held = db.property_int_value_cf(family, "rocksdb.cur-size-all-mem-tables")?.unwrap_or(0);
            if held >= share.least_flush_bytes() {
                db.flush_cf(family)?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// [`StateProblem::TooLarge`].
    pub fn check_size(&self, state: &str, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        for (what, bytes) in [("key", key.len() as u64), ("value", value.len() as u64)] {
            if bytes > self.max_entry_bytes {
                let problem = StateProblem::TooLarge { what, bytes, limit: self.max_entry_bytes };
                return Err(StateError::new(state, problem));
            }
        }
        Ok(())
    }

    /// Calls `each` for every entry of a state from `start` on, as long as it says so.
    ///
    /// # Errors
    /// If it cannot be read, or what `each` says.
    pub fn scan(
        &self,
        state: &str,
        start: &[u8],
        end: Option<Vec<u8>>,
        each: impl FnMut(&[u8], &[u8]) -> Result<bool, StateError>,
    ) -> Result<(), StateError> {
        self.scan_family(&family_of(state), start, end, each)
    }

    /// As [`Self::scan`], by the name of the column family.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn scan_family(
        &self,
        family: &str,
        start: &[u8],
        end: Option<Vec<u8>>,
        each: impl FnMut(&[u8], &[u8]) -> Result<bool, StateError>,
    ) -> Result<(), StateError> {
        let state = state_of(family);
        let iterator = self.rocksdb().raw_iterator_cf_opt(self.family(state)?, until(end));
        scan(iterator, state, start, each)
    }
}

fn until(end: Option<Vec<u8>>) -> ReadOptions {
    let mut options = ReadOptions::default();
    if let Some(end) = end {
        options.set_iterate_upper_bound(end);
    }
    options
}

fn scan(
    mut iterator: DBRawIteratorWithThreadMode<'_, DB>,
    state: &str,
    start: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<bool, StateError>,
) -> Result<(), StateError> {
    iterator.seek(start);
    while let Some((key, value)) = iterator.item() {
        if !each(key, value)? {
            return Ok(());
        }
        iterator.next();
    }
    iterator.status().map_err(|error| database_error(state, &error))
}

pub fn database_error(state: &str, error: &rocksdb::Error) -> StateError {
    StateError::new(state, StateProblem::Database(error.to_string()))
}

type Snapshot<'a> = SnapshotWithThreadMode<'a, DB>;

self_cell!(
    /// The contents of a database as they were, for as long as they are needed. Costs nothing to take.
    struct Frozen {
        owner: Arc<Database>,
        #[not_covariant]
        dependent: Snapshot,
    }
);

/// A snapshot of a database that keeps the database open.
pub struct FrozenDatabase {
    database: Arc<Database>,
    /// Empty until the database has all that was handed over.
    frozen: OnceLock<Frozen>,
}

impl FrozenDatabase {
    /// The contents as they are now.
    pub fn of(database: &Arc<Database>) -> FrozenDatabase {
        let frozen = FrozenDatabase { database: database.clone(), frozen: OnceLock::new() };
        frozen.freeze();
        frozen
    }

    /// A barrier: the contents as they will be with what waits in front of these states, and nothing else.
    ///
    /// # Errors
    /// If what was handed over at the barrier before cannot be written.
    pub(super) fn of_the_barrier<'a>(
        database: &Arc<Database>,
        fronts: impl IntoIterator<Item = (&'a str, &'a SharedFront)>,
    ) -> Result<Arc<FrozenDatabase>, StateError> {
        let frozen = Arc::new(FrozenDatabase { database: database.clone(), frozen: OnceLock::new() });
        let to_freeze = Arc::downgrade(&frozen);
        let freeze = move |_: &Database| {
            // Nobody needs it if it was given up.
            if let Some(frozen) = to_freeze.upgrade() {
                frozen.freeze();
            }
            Ok(())
        };
        database.hand_over(fronts, Box::new(freeze))?;
        Ok(frozen)
    }

    fn freeze(&self) {
        self.frozen.get_or_init(|| Frozen::new(self.database.clone(), |database| database.rocksdb().snapshot()));
    }

    /// As [`Database::scan`], of the contents as they were.
    ///
    /// # Errors
    /// As [`Database::scan`].
    pub fn scan(
        &self,
        state: &str,
        start: &[u8],
        end: Vec<u8>,
        each: impl FnMut(&[u8], &[u8]) -> Result<bool, StateError>,
    ) -> Result<(), StateError> {
        self.database.settle()?;
        let frozen = self.frozen.get().ok_or_else(|| {
            let problem = "what was handed over at its barrier was settled without it".to_string();
            StateError::new(state, StateProblem::Database(problem))
        })?;
        frozen.with_dependent(|database, snapshot| {
            let mut options = until(Some(end));
            // A snapshot reads everything once; what the stream reads again and again is to stay in the cache.
            options.fill_cache(false);
            scan(snapshot.raw_iterator_cf_opt(database.family(state)?, options), state, start, each)
        })
    }
}

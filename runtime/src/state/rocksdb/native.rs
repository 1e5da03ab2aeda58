//! Native checkpoints: the files of a database as it was at a barrier, while the stream goes on.
//!
//! Once the database has all of before the barrier, see [`super::handover`], the memtables are closed, which takes no time, and
//! the stream goes on with new ones. Away from the stream the closed ones are flushed, and the files of the database linked into a directory. Between the two, the window, nothing of
//! the new memtables may get into files. They are flushed early only when they are full: before that, whoever fills them
//! makes the native checkpoint himself. There is one window at a time: a barrier that comes while one is open does the same.

use std::sync::{
    Arc, Mutex, MutexGuard, Weak,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use rocksdb::{
    BottommostLevelCompaction, ColumnFamily, CompactOptions, DB, FlushOptions, WaitForCompactOptions,
    checkpoint::Checkpoint, properties,
};

use super::{database::Database, front::SharedFront};
use crate::state::error::StateError;

/// What happened since the barrier of the open window.
#[derive(Default)]
pub(super) struct Window {
    open: AtomicBool,
    bytes: AtomicU64,
    /// Entries whose writing has begun, and entries that were written.
    begun: AtomicU64,
    written: AtomicU64,
    /// Who waits for the files; nobody if it was given up.
    checkpoint: Mutex<Weak<NativeCheckpoint>>,
}

/// So often is looked whether nothing is being written right now.
const LOOKS_FOR_A_PAUSE: usize = 64;

/// Memory of an entry in a memtable beside its bytes, generously.
const ENTRY_OVERHEAD_BYTES: u64 = 128;

impl Window {
    fn checkpoint(&self) -> MutexGuard<'_, Weak<NativeCheckpoint>> {
        self.checkpoint.lock().expect("native checkpoint: a holder panicked")
    }

    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Before so many entries of so many bytes are written while the window is open. `limit`: a memtable may be flushed when it
    /// holds more.
    #[cold]
    pub(super) fn before_write(&self, entries: u64, bytes: usize, limit: u64) {
        let bytes = bytes as u64;
        let before = self.bytes.fetch_add(bytes + ENTRY_OVERHEAD_BYTES * entries, Ordering::Relaxed);
        if before + bytes > limit {
            self.finish();
        }
        self.begun.fetch_add(entries, Ordering::Release);
    }

    /// They were written.
    #[inline]
    pub(super) fn wrote(&self, entries: u64) {
        if self.is_open() {
            // With it goes what the memtables say of themselves.
            self.written.fetch_add(entries, Ordering::Release);
        }
    }

    fn counts(&self) -> (u64, u64) {
        // In this order: what is written has begun.
        let written = self.written.load(Ordering::Acquire);
        (self.begun.load(Ordering::Acquire), written)
    }

    /// Makes the files of an open window now.
    pub(super) fn finish(&self) {
        if !self.is_open() {
            return;
        }
        let waiting = self.checkpoint().upgrade();
        if let Some(checkpoint) = waiting {
            // Who waits for the files hears of the failure.
            let _ = checkpoint.take();
        }
        self.open.store(false, Ordering::Relaxed);
    }
}

/// The native checkpoint of one barrier.
pub struct NativeCheckpoint {
    database: Arc<Database>,
    subdirectory: String,
    taken: Mutex<Option<Result<(), String>>>,
}

impl NativeCheckpoint {
    /// The barrier: what waits in front of these states is in it, and what is written from now on is not.
    ///
    /// # Errors
    /// If what was handed over at the barrier before cannot be written.
    pub fn begin<'a>(
        database: &Arc<Database>,
        fronts: impl IntoIterator<Item = (&'a str, &'a SharedFront)>,
        subdirectory: String,
    ) -> Result<Arc<NativeCheckpoint>, StateError> {
        database.settle()?;
        database.window().finish();
        let taken = Mutex::new(None);
        let checkpoint = Arc::new(NativeCheckpoint { database: database.clone(), subdirectory, taken });
        let waiting = Arc::downgrade(&checkpoint);
        database.hand_over(fronts, Box::new(move |database| close_memtables(database, &waiting)))?;
        Ok(checkpoint)
    }

    /// Makes the files, once; whoever comes later hears how it went.
    ///
    /// # Errors
    /// Why there are none.
    pub fn take(&self) -> Result<(), String> {
        let mut taken = self.taken.lock().expect("native checkpoint: a holder panicked");
        if let Some(result) = &*taken {
            return result.clone();
        }
        let result = self.make_files();
        self.database.window().open.store(false, Ordering::Relaxed);
        *taken = Some(result.clone());
        result
    }

    fn make_files(&self) -> Result<(), String> {
        self.wait_for_flush()?;
        let database = self.database.rocksdb();
        let path = self.database.directory().path().join(&self.subdirectory);
        // So much: the memtables stay as they are.
        let made = Checkpoint::new(database).and_then(|c| c.create_checkpoint_with_log_size(path, u64::MAX));
        made.map_err(|error| format!("native checkpoint: {error}"))?;
        if self.is_apart()? {
            Ok(())
        } else {
            Err("state of after the barrier was flushed into the native checkpoint".to_string())
        }
    }

    /// Whether all that was written since the barrier is still in memory.
    fn is_apart(&self) -> Result<bool, String> {
        let (database, window) = (self.database.rocksdb(), self.database.window());
        for _ in 0..LOOKS_FOR_A_PAUSE {
            let before = window.counts();
            let mut in_memory = 0;
            for family in families(&self.database) {
                in_memory += number(database, family, properties::NUM_ENTRIES_ACTIVE_MEM_TABLE)?;
            }
            let (begun, written) = before;
            if in_memory < written {
                return Ok(false);
            }
            // What is under way may be in memory, not counted yet, and hide as many that are missing.
            if begun == written && window.counts() == before {
                return Ok(true);
            }
        }
        // The stream never paused. Then the last look, which can be wrong by what was under way, must do.
        Ok(true)
    }

    /// Writes what was handed over, unless the stream has done so, and waits until no closed memtable is left.
    ///
    /// # Errors
    /// If the database had an error in the background: it takes no more writes then.
    pub fn wait_for_flush(&self) -> Result<(), String> {
        self.database.settle().map_err(|error| error.to_string())?;
        let database = self.database.rocksdb();
        let mut options = WaitForCompactOptions::default();
        // Compactions may take long, and need not be waited for.
        options.set_timeout(2_000);
        loop {
            let mut closed = 0;
            for family in families(&self.database) {
                closed += number(database, family, properties::NUM_IMMUTABLE_MEM_TABLE)?;
                if number(database, family, properties::BACKGROUND_ERRORS)? > 0 {
                    return Err("it cannot flush: a flush or compaction failed in the background".to_string());
                }
            }
            if closed == 0 {
                return Ok(());
            }
            // Its error is that it took too long; any other shows above.
            let _ = database.wait_for_compact(&options);
        }
    }
}

/// The database has all of before the barrier: the memtables are closed, and the window is open.
fn close_memtables(database: &Database, waiting: &Weak<NativeCheckpoint>) -> Result<(), rocksdb::Error> {
    let mut options = FlushOptions::default();
    options.set_wait(false);
    database.rocksdb().flush_cfs_opt(&families(database), &options)?;
    let window = database.window();
    for count in [&window.bytes, &window.begun, &window.written] {
        count.store(0, Ordering::Relaxed);
    }
    // Together: who compacts looks at both.
    let mut checkpoint = window.checkpoint();
    *checkpoint = waiting.clone();
    window.open.store(true, Ordering::Relaxed);
    Ok(())
}

fn number(database: &DB, family: &ColumnFamily, property: &properties::PropName) -> Result<u64, String> {
    match database.property_int_value_cf(family, property) {
        Ok(Some(number)) => Ok(number),
        Ok(None) => Err(format!("the database does not know {property:?}")),
        Err(error) => Err(error.to_string()),
    }
}

fn families(database: &Database) -> Vec<&ColumnFamily> {
    database.families().iter().filter_map(|name| database.rocksdb().cf_handle(name)).collect()
}

/// Column families with so many files of level 0 are compacted.
pub const MANY_FILES: u64 = 4;

/// Makes one file of many, at least so many of level 0, where auto compaction is off. So the files that checkpoints refer to stay few.
///
/// # Errors
/// What RocksDB says.
pub fn compact(database: &Database, many: u64) -> Result<(), String> {
    // Held: a compaction flushes what is in memory, which no window would bear.
    let waiting = database.window().checkpoint();
    if waiting.upgrade().is_some() && database.window().open.load(Ordering::Relaxed) {
        return Ok(());
    }
    let mut options = CompactOptions::default();
    // Files that do not overlap would only be moved to another level, each as it is.
    options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
    for family in families(database) {
        if number(database.rocksdb(), family, &properties::num_files_at_level(0))? >= many {
            database.rocksdb().compact_range_cf_opt(family, None::<&[u8]>, None::<&[u8]>, &options);
            // The call itself tells of no error.
            if number(database.rocksdb(), family, properties::BACKGROUND_ERRORS)? > 0 {
                return Err("a compaction failed in the background".to_string());
            }
        }
    }
    drop(waiting);
    Ok(())
}

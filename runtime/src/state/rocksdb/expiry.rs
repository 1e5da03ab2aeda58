//! Compaction drops what has expired, where both the backend and the state say so (Flink `FlinkCompactionFilter`).
//!
//! The time that a filter compares with is the operator's own, which a replay repeats, and never that of a clock. It stands
//! still from a barrier until its snapshot is made: whatever is in a snapshot, nothing is missing that a record behind the
//! barrier would be shown. And it never runs ahead of what operators see, so no read can tell whether there was a compaction.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use rocksdb::{
    CompactionDecision, Options,
    compaction_filter::CompactionFilter,
    compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory},
};

use crate::state::{ttl::Kept, ttl_encoded::Expiry};

/// The processing time that filters compare with, in milliseconds since 1970.
#[derive(Clone)]
pub struct FilterTime(Arc<AtomicI64>);

impl Default for FilterTime {
    /// Before anything: nothing has expired.
    fn default() -> FilterTime {
        FilterTime(Arc::new(AtomicI64::new(i64::MIN)))
    }
}

impl FilterTime {
    /// It never goes back, for what was dropped does not return.
    pub fn set(&self, now: i64) {
        self.0.store(now, Ordering::Relaxed);
    }

    fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What expires in a database, by state.
#[derive(Clone, Default)]
pub struct Expiring {
    pub time: FilterTime,
    pub states: BTreeMap<String, Expiry>,
}

impl Expiring {
    /// Whether compaction drops anything.
    pub fn is_filtered(&self) -> bool {
        self.states.values().any(|expiry| expiry.ttl.filters_compactions())
    }

    /// Adds the filter of a state to the options of its column family, if it has one.
    pub fn add_filter(&self, state: &str, options: &mut Options) {
        let Some(expiry) = self.states.get(state).filter(|expiry| expiry.ttl.filters_compactions()) else { return };
        options.set_compaction_filter_factory(Factory { time: self.time.clone(), expiry: *expiry, name: name() });
    }
}

fn name() -> CString {
    c"weir.time-to-live".into()
}

struct Factory {
    time: FilterTime,
    expiry: Expiry,
    name: CString,
}

impl CompactionFilterFactory for Factory {
    type Filter = Filter;

    fn create(&mut self, _context: CompactionFilterContext) -> Filter {
        // One time for all of a compaction.
        Filter { now: self.time.get(), expiry: self.expiry, left: Vec::new(), name: name() }
    }

    fn name(&self) -> &CStr {
        &self.name
    }
}

struct Filter {
    now: i64,
    expiry: Expiry,
    /// Of the last value that was changed.
    left: Vec<u8>,
    name: CString,
}

impl CompactionFilter for Filter {
    fn filter(&mut self, _level: u32, _key: &[u8], value: &[u8]) -> CompactionDecision {
        match self.expiry.strip(value, self.now) {
            Kept::Whole => CompactionDecision::Keep,
            Kept::Nothing => CompactionDecision::Remove,
            Kept::Part(left) => {
                self.left = left;
                let left: *const [u8] = self.left.as_slice();
                // SAFETY: it lives until the next call, and RocksDB has copied it by then: its C interface assigns the new value
                // to a string of its own as soon as this call returns (`rocksdb_compactionfilter_t::Filter`).
                CompactionDecision::Change(unsafe { &*left })
            }
        }
    }

    fn name(&self) -> &CStr {
        &self.name
    }
}

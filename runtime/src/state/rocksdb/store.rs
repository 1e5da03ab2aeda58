//! All states of an operator in one database.
#![allow(
    clippy::disallowed_types,
    reason = "a OnceLock as a value, no static: a native call leaves the open database in it"
)]

use std::sync::{Arc, OnceLock, Weak};

use super::{
    database::{Database, FrozenDatabase},
    declared::{Declared, check_key_alone, check_timer},
    expiry::Expiring,
    front::SharedFront,
    layout::{group_length, put_group},
    native::{MANY_FILES, NativeCheckpoint, compact},
    open::{Declarations, OpenFailure, Opened, Pending, open},
    recent::{Recent, WAITING_BESIDE_OTHERS_BYTES, WAITING_BYTES},
    tables::{ListTable, MapTable, RocksTable, ValueTable, encode},
    timers::{DatabaseRows, HeapQueue},
};
use crate::{
    dataflow::{
        chain::{NativeCall, NativeSnapshot, Scratch},
        task::TaskFailure,
    },
    ids::{CheckpointId, KeyGroup, KeyGroupRange, OperatorUid},
    journal::Event,
    platform::NativeOp,
    state::{
        error::{StateError, StateProblem},
        format::{PartHeader, SectionWriter, StateHeader, StateKind},
        heap::foreign_handle,
        key::StateKey,
        restored::Restored,
        settings::{BackendSettings, RocksDbSettings},
        table::{StateNamespace, StateValue},
        timer_rows::{Row, TimerRows},
        ttl_encoded::Expiry,
    },
};

pub(in crate::state) struct RocksStore {
    settings: RocksDbSettings,
    incremental: bool,
    /// Until the database is open.
    scratch: Option<Scratch>,
    pending: Vec<Pending>,
    heap_queues: Vec<HeapQueue>,
    expiring: Expiring,
    /// Full snapshots that are being written.
    frozen: Vec<Weak<FrozenDatabase>>,
    database: Arc<OnceLock<Opened>>,
    tables: Vec<Box<dyn RocksTable>>,
    group_length: usize,
    /// The current key with its key group; empty: none.
    key: Vec<u8>,
    next_key: Vec<u8>,
}

/// A table, its database, and the current key.
type Reach<'a, T> = (T, &'a Database, &'a [u8]);

type Outcome<T> = Result<T, StateError>;

impl RocksStore {
    pub(in crate::state) fn new(settings: &BackendSettings, scratch: Scratch, max_parallelism: u16) -> RocksStore {
        RocksStore {
            settings: settings.rocksdb.clone(),
            incremental: settings.incremental,
            scratch: Some(scratch),
            pending: Vec::new(),
            heap_queues: Vec::new(),
            expiring: Expiring::default(),
            frozen: Vec::new(),
            database: Arc::new(OnceLock::new()),
            tables: Vec::new(),
            group_length: group_length(max_parallelism),
            key: Vec::new(),
            next_key: Vec::new(),
        }
    }

    pub(in crate::state) fn declare_value<N: StateNamespace, V: StateValue>(&mut self, name: &str) {
        self.tables.push(Box::new(ValueTable::<N, V>::new(name)));
    }

    pub(in crate::state) fn declare_list<N: StateNamespace, V: StateValue>(&mut self, name: &str) {
        self.tables.push(Box::new(ListTable::<N, V>::new(name)));
    }

    pub(in crate::state) fn declare_map<N: StateNamespace, M: StateValue + Ord, V: StateValue>(&mut self, name: &str) {
        self.tables.push(Box::new(MapTable::<N, M, V>::new(name, self.group_length)));
    }

    /// A column family to be, and what it is to begin with.
    pub(in crate::state) fn expect(
        &mut self,
        header: StateHeader,
        declared: Option<Declared>,
        restored: Option<Restored>,
    ) {
        self.pending.push(Pending { header, declared, restored });
    }

    /// The values of a state have a time to live.
    pub(in crate::state) fn expire(&mut self, state: &str, expiry: Expiry) {
        self.expiring.states.insert(state.to_string(), expiry);
    }

    /// The processing time that operators see from now on.
    pub(in crate::state) fn set_processing_time(&mut self, now: i64) {
        if !self.settings.ttl_compaction_filter || !self.expiring.is_filtered() {
            return;
        }
        // Before it is open it is filled, by what knows no times.
        let Some(opened) = self.database.get() else { return };
        self.frozen.retain(|frozen| frozen.strong_count() > 0);
        let database = &opened.database;
        if !database.handover().is_pending() && !database.window().is_open() && self.frozen.is_empty() {
            self.expiring.time.set(now);
        }
    }

    /// The rows of a queue of timers that is a column family.
    pub(in crate::state) fn declare_timers<K: StateKey, N: StateNamespace>(
        &mut self,
        header: &StateHeader,
        range: KeyGroupRange,
        restored: Option<Restored>,
    ) -> Box<dyn TimerRows> {
        self.expect(header.clone(), Some(Declared::timers::<K, N>()), restored);
        Box::new(DatabaseRows::new(self.database.clone(), header.name.clone(), range, self.group_length))
    }

    /// There is such a queue on the heap: timers of it that the database has go there.
    pub(in crate::state) fn timers_on_heap<K: StateKey, N: StateNamespace>(&mut self, header: &StateHeader) {
        self.heap_queues.push(HeapQueue { header: header.clone(), check_key: check_timer::<K, N> });
    }

    /// The timers of a queue on the heap that the database had, by position in `range`.
    pub(in crate::state) fn moved_timers(&self, name: &str, range: KeyGroupRange) -> Outcome<Vec<(usize, Row)>> {
        let mut found = self.opened()?.timers.lock().expect("timers: a holder panicked");
        let moved = found.moved.remove(name).unwrap_or_default();
        Ok(moved.into_iter().map(|(group, row)| (usize::from(group.0 - range.first.0), row)).collect())
    }

    /// The call that opens the database of an operator and fills it.
    pub(in crate::state) fn opening<K: StateKey>(&mut self, description: &PartHeader) -> Option<NativeCall> {
        let scratch = self.scratch.take()?;
        let settings = self.settings.clone();
        let at_once = |pending: &Pending| matches!(pending.header.kind, StateKind::List | StateKind::Timers);
        let others = self.pending.iter().any(at_once);
        let may_wait = if others { WAITING_BESIDE_OTHERS_BYTES } else { WAITING_BYTES };
        self.tables.iter().filter_map(|table| table.recent()).for_each(|recent| recent.set_may_wait(may_wait));
        let states = Declarations {
            pending: std::mem::take(&mut self.pending),
            heap_queues: std::mem::take(&mut self.heap_queues),
            expiring: self.expiring.clone(),
            check_key: check_key_alone::<K>,
        };
        let slot = self.database.clone();
        let header = description.clone();
        let operator = description.operator.clone();
        let uid = OperatorUid(operator.clone());
        let run = move || {
            let opened = open(scratch, &settings, header, &states).map_err(|failure| match failure {
                OpenFailure::Environment(what) => TaskFailure::Environment(format!("{operator}: {what}")),
                OpenFailure::Data(what) => TaskFailure::User(format!("{operator}: {what}")),
            })?;
            // Opened once.
            let _ = slot.set(opened);
            Ok(())
        };
        Some(NativeCall { operator: uid, op: NativeOp::DatabaseOpen, run: Box::new(run) })
    }

    /// By state: values of an older structure that were encoded anew when the database was opened.
    pub(in crate::state) fn take_upgrades(&self) -> Outcome<Vec<(String, u64)>> {
        Ok(std::mem::take(&mut *self.opened()?.upgrades.lock().expect("upgrades: a holder panicked")))
    }

    /// The call that closes the database, as far as nobody else uses it.
    pub(in crate::state) fn closing(&mut self, operator: &OperatorUid) -> Option<NativeCall> {
        self.tables.clear();
        let database = std::mem::take(&mut self.database);
        database.get()?;
        let run = move || {
            drop(database);
            Ok(())
        };
        Some(NativeCall { operator: operator.clone(), op: NativeOp::DatabaseClose, run: Box::new(run) })
    }

    fn opened(&self) -> Outcome<&Opened> {
        self.database.get().ok_or_else(not_open)
    }

    fn database(&self) -> Outcome<&Arc<Database>> {
        self.opened().map(|opened| &opened.database)
    }

    /// Goes to a key. What was changed in place under the one before is written back.
    pub(in crate::state) fn enter<K: StateKey>(&mut self, key: &K, group: KeyGroup) -> Outcome<()> {
        let mut next = std::mem::take(&mut self.next_key);
        next.clear();
        put_group(group, self.group_length, &mut next);
        next = encode("", "key", key, next)?;
        if next == self.key {
            self.next_key = next;
            return Ok(());
        }
        self.settle()?;
        self.next_key = std::mem::replace(&mut self.key, next);
        Ok(())
    }

    /// Writes back what was changed in place.
    pub(in crate::state) fn settle(&mut self) -> Outcome<()> {
        if self.key.is_empty() {
            return Ok(());
        }
        let database = self.database.get().map(|opened| &opened.database).ok_or_else(not_open)?;
        for table in &mut self.tables {
            table.settle(database, &self.key)?;
        }
        self.key.clear();
        Ok(())
    }

    /// What waits in front of the database, by state.
    fn fronts(&self) -> impl Iterator<Item = (&str, &SharedFront)> {
        self.tables.iter().filter_map(|table| table.recent()).map(Recent::front)
    }

    /// Headers of all states, by name.
    pub(in crate::state) fn headers(&self) -> Outcome<Vec<StateHeader>> {
        Ok(self.opened()?.contents.header.states.clone())
    }

    /// The contents as they are now.
    pub(in crate::state) fn freeze(&mut self) -> Outcome<Arc<FrozenDatabase>> {
        self.settle()?;
        self.report_metrics()?;
        let database = self.database()?;
        // What is written while there are no files yet is counted, by whoever writes.
        let frozen = if database.handover().is_pending() || database.window().is_open() {
            self.write_back(database)?;
            Arc::new(FrozenDatabase::of(database))
        } else {
            FrozenDatabase::of_the_barrier(database, self.fronts())?
        };
        self.frozen.retain(|frozen| frozen.strong_count() > 0);
        self.frozen.push(Arc::downgrade(&frozen));
        Ok(frozen)
    }

    /// Writes back all that waits: the database is what operators see.
    fn write_back(&self, database: &Database) -> Outcome<()> {
        self.tables.iter().filter_map(|table| table.recent()).try_for_each(|recent| recent.write_back(database))
    }

    /// Tells the journal the native metrics that are switched on, of all that the state is: who wants them at a barrier waits there
    /// for what would be handed over.
    fn report_metrics(&self) -> Outcome<()> {
        let Some(journal) = self.settings.host.journal.as_ref().filter(|_| !self.settings.metrics.is_empty()) else {
            return Ok(());
        };
        let opened = self.opened()?;
        self.write_back(&opened.database)?;
        let header = &opened.contents.header;
        let states: Vec<&str> = header.states.iter().map(|state| state.name.as_str()).collect();
        for (state, metric, value) in opened.database.metrics(&states, &self.settings.metrics) {
            journal.emit(Event::DatabaseMetric { operator: header.operator.clone(), state, metric, value });
        }
        Ok(())
    }

    /// The sections of a part, in the order of [`Self::headers`], without what has expired `now` where states say so.
    pub(in crate::state) fn sections(
        &self,
        frozen: &Arc<FrozenDatabase>,
        key_groups: KeyGroupRange,
        now: i64,
    ) -> Outcome<Vec<Box<dyn SectionWriter>>> {
        let expired = |state: &str| {
            let expiry = self.expiring.states.get(state).filter(|expiry| expiry.ttl.filters_snapshots())?;
            Some((*expiry, now))
        };
        Ok(self.opened()?.contents.sections(frozen, key_groups, expired))
    }

    /// The barrier of a native checkpoint, if checkpoints are incremental.
    pub(in crate::state) fn native_snapshot(
        &mut self,
        operator: &OperatorUid,
        key_groups: KeyGroupRange,
        checkpoint: CheckpointId,
    ) -> Outcome<Option<NativeSnapshot>> {
        if !self.incremental {
            return Ok(None);
        }
        self.settle()?;
        self.report_metrics()?;
        let Opened { database, backend, increments, .. } = self.opened()?;
        // Before this barrier, and after the one before.
        self.tables.iter().try_for_each(|table| table.before_native_checkpoint(database))?;
        let subdirectory = format!("chk-{checkpoint}");
        let begun = NativeCheckpoint::begin(database, self.fronts(), subdirectory.clone())?;
        let flushed = begun.clone();
        let base = increments.lock().expect("increments: a holder panicked").base();
        let compacted = database.clone();
        let compact = move || compact(&compacted, MANY_FILES);
        Ok(Some(NativeSnapshot {
            operator: operator.clone(),
            key_groups,
            backend: *backend,
            directory: database.directory().clone(),
            subdirectory,
            flush: Box::new(move || flushed.wait_for_flush()),
            take: Box::new(move || begun.take()),
            compact: (!self.settings.auto_compaction).then(|| Box::new(compact) as _),
            base,
            increments: increments.clone(),
        }))
    }

    /// Makes one file of each column family.
    #[cfg(test)]
    pub(in crate::state) fn compact_all(&self) -> Result<(), String> {
        compact(self.database().map_err(|error| error.to_string())?, 0)
    }

    /// A checkpoint is complete: its files may be referred to.
    pub(in crate::state) fn completed(&mut self, checkpoint: CheckpointId) {
        if let Some(opened) = self.database.get() {
            opened.increments.lock().expect("increments: a holder panicked").confirmed(checkpoint);
        }
    }

    /// Counts by reading everything.
    pub(in crate::state) fn entries(&mut self, range: KeyGroupRange) -> Outcome<u64> {
        let frozen = self.freeze()?;
        let headers = self.headers()?;
        let sections = self.sections(&frozen, range, i64::MIN)?;
        let states = headers.iter().zip(&sections).filter(|(header, _)| header.kind != StateKind::Timers);
        let sections: Vec<&Box<dyn SectionWriter>> = states.map(|(_, section)| section).collect();
        let mut unused = Vec::new();
        let mut entries = 0;
        for group in 0..range.count() as usize {
            for section in &sections {
                unused.clear();
                entries += u64::from(section.write(group, &mut unused));
            }
        }
        Ok(entries)
    }

    #[inline]
    fn table<T: RocksTable>(&self, table: usize) -> Outcome<Reach<'_, &T>> {
        let found = self.tables.get(table).and_then(|table| table.as_any().downcast_ref());
        Ok((found.unwrap_or_else(|| foreign_handle()), self.database()?, &self.key))
    }

    #[inline]
    fn table_mut<T: RocksTable>(&mut self, table: usize) -> Outcome<Reach<'_, &mut T>> {
        let database = self.database.get().map(|opened| &opened.database).ok_or_else(not_open)?;
        let found = self.tables.get_mut(table).and_then(|table| table.as_any_mut().downcast_mut());
        Ok((found.unwrap_or_else(|| foreign_handle()), database, &self.key))
    }

    pub(in crate::state) fn value<N: StateNamespace, V: StateValue>(
        &self,
        table: usize,
    ) -> Outcome<Reach<'_, &ValueTable<N, V>>> {
        self.table(table)
    }

    pub(in crate::state) fn value_mut<N: StateNamespace, V: StateValue>(
        &mut self,
        table: usize,
    ) -> Outcome<Reach<'_, &mut ValueTable<N, V>>> {
        self.table_mut(table)
    }

    pub(in crate::state) fn list<N: StateNamespace, V: StateValue>(
        &self,
        table: usize,
    ) -> Outcome<Reach<'_, &ListTable<N, V>>> {
        self.table(table)
    }

    pub(in crate::state) fn list_mut<N: StateNamespace, V: StateValue>(
        &mut self,
        table: usize,
    ) -> Outcome<Reach<'_, &mut ListTable<N, V>>> {
        self.table_mut(table)
    }

    pub(in crate::state) fn map<N: StateNamespace, M: StateValue + Ord, V: StateValue>(
        &self,
        table: usize,
    ) -> Outcome<Reach<'_, &MapTable<N, M, V>>> {
        self.table(table)
    }

    pub(in crate::state) fn map_mut<N: StateNamespace, M: StateValue + Ord, V: StateValue>(
        &mut self,
        table: usize,
    ) -> Outcome<Reach<'_, &mut MapTable<N, M, V>>> {
        self.table_mut(table)
    }
}

pub(super) fn not_open() -> StateError {
    StateError::new("", StateProblem::Database("it is not open".to_string()))
}

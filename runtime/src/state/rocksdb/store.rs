//! All states of an operator in one database.
#![allow(
    clippy::disallowed_types,
    reason = "a OnceLock as a value, no static: a native call leaves the open database in it"
)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock},
};

use rocksdb::WriteBatch;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    database::{Database, FrozenDatabase, database_error, family_of},
    layout::{group_length, put_group, put_tail, take_count},
    native::{NativeCheckpoint, compact},
    restore::{Restoring, restore_native, split_whole},
    scan::StateScan,
    tables::{ListTable, MapTable, RocksTable, ValueTable, encode},
};
use crate::{
    checkpoint::increments::Increments,
    dataflow::{
        chain::{NativeCall, NativeSnapshot, Scratch},
        task::TaskFailure,
    },
    ids::{BackendId, CheckpointId, KeyGroup, KeyGroupRange, OperatorUid},
    journal::Event,
    platform::NativeOp,
    state::{
        error::{StateError, StateProblem, UserError},
        format::{PartHeader, SectionWriter, StateHeader, StateKind},
        heap::foreign_handle,
        key::StateKey,
        key_group::key_group_of,
        restored::{Restored, same_state},
        settings::{BackendSettings, RocksDbSettings},
        table::{StateNamespace, StateValue},
    },
};

/// Where the database says what it holds.
pub(super) const CONTENTS: &[u8] = b"contents";

/// What a database holds; kept in itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contents {
    pub header: PartHeader,
    /// By name: maps that are kept whole, because nobody has declared what they are of.
    pub whole: Vec<String>,
}

/// Checks of what a full snapshot holds, and the way from a whole map to its entries.
#[derive(Clone, Copy)]
pub(in crate::state) struct Declared {
    check_key: fn(&[u8], KeyGroup, u16) -> Result<(), String>,
    check_value: fn(&[u8]) -> Result<(), String>,
    split: Option<Split>,
}

/// Takes a whole map apart.
pub(super) type Split = fn(&[u8], &mut EachEntry<'_>) -> Result<(), String>;
pub(super) type EachEntry<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), StateError> + 'a;

fn whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(format!("{} bytes too many", rest.len())),
        Err(error) => Err(error.to_string()),
    }
}

fn check_key<K: StateKey, N: StateNamespace>(
    bytes: &[u8],
    group: KeyGroup,
    max_parallelism: u16,
) -> Result<(), String> {
    let (key, _): (K, N) = whole(bytes)?;
    if key_group_of(key.java_hash(), max_parallelism) == group {
        Ok(())
    } else {
        Err(format!("a key in key group {group} is not of it"))
    }
}

fn split_map<M: DeserializeOwned, V: DeserializeOwned>(bytes: &[u8], each: &mut EachEntry<'_>) -> Result<(), String> {
    let (count, mut rest) = take_count(bytes).ok_or("the number of its entries is cut off")?;
    for _ in 0..count {
        let (_, after_key) = postcard::take_from_bytes::<M>(rest).map_err(|error| error.to_string())?;
        let (_, after) = postcard::take_from_bytes::<V>(after_key).map_err(|error| error.to_string())?;
        let key = &rest[..rest.len() - after_key.len()];
        let value = &after_key[..after_key.len() - after.len()];
        each(key, value).map_err(|error| error.to_string())?;
        rest = after;
    }
    if rest.is_empty() { Ok(()) } else { Err(format!("{} bytes too many", rest.len())) }
}

impl Declared {
    pub(in crate::state) fn plain<K: StateKey, N: StateNamespace, V: StateValue>() -> Declared {
        let check_value = |bytes: &[u8]| whole::<V>(bytes).map(drop);
        Declared { check_key: check_key::<K, N>, check_value, split: None }
    }

    pub(in crate::state) fn map<K: StateKey, N: StateNamespace, M: StateValue + Ord, V: StateValue>() -> Declared {
        let check_value = |bytes: &[u8]| whole::<BTreeMap<M, V>>(bytes).map(drop);
        Declared { check_key: check_key::<K, N>, check_value, split: Some(split_map::<M, V>) }
    }
}

/// A state until the database is open.
struct Pending {
    header: StateHeader,
    /// None: only the snapshot knows it.
    declared: Option<Declared>,
    restored: Option<Restored>,
}

pub(in crate::state) struct RocksStore {
    settings: RocksDbSettings,
    incremental: bool,
    /// Until the database is open.
    scratch: Option<Scratch>,
    pending: Vec<Pending>,
    database: Arc<OnceLock<Opened>>,
    tables: Vec<Box<dyn RocksTable>>,
    max_parallelism: u16,
    group_length: usize,
    /// The current key with its key group; empty: none.
    key: Vec<u8>,
    next_key: Vec<u8>,
}

/// What opening gave.
struct Opened {
    database: Arc<Database>,
    contents: Contents,
    backend: BackendId,
    increments: Arc<Mutex<Increments>>,
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
            database: Arc::new(OnceLock::new()),
            tables: Vec::new(),
            max_parallelism,
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

    /// The call that opens the database and fills it.
    pub(in crate::state) fn opening<K: StateKey>(
        &mut self,
        operator: &OperatorUid,
        range: KeyGroupRange,
    ) -> Option<NativeCall> {
        let scratch = self.scratch.take()?;
        let (settings, max_parallelism) = (self.settings.clone(), self.max_parallelism);
        let pending = std::mem::take(&mut self.pending);
        let slot = self.database.clone();
        let header = PartHeader {
            operator: operator.0.clone(),
            key_type: std::any::type_name::<K>().to_string(),
            max_parallelism,
            key_groups: range,
            states: Vec::new(),
        };
        let uid = operator.clone();
        let operator = operator.0.clone();
        let run = move || {
            let opened = open(scratch, &settings, header, &pending).map_err(|failure| match failure {
                OpenFailure::Environment(what) => TaskFailure::Environment(format!("{operator}: {what}")),
                OpenFailure::Data(what) => TaskFailure::User(format!("{operator}: {what}")),
            })?;
            // Opened once.
            let _ = slot.set(opened);
            Ok(())
        };
        Some(NativeCall { operator: uid, op: NativeOp::DatabaseOpen, run: Box::new(run) })
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

    /// Headers of all states, by name.
    pub(in crate::state) fn headers(&self) -> Outcome<Vec<StateHeader>> {
        Ok(self.opened()?.contents.header.states.clone())
    }

    /// The contents as they are now.
    pub(in crate::state) fn freeze(&mut self) -> Outcome<Arc<FrozenDatabase>> {
        self.settle()?;
        self.report_metrics()?;
        Ok(Arc::new(FrozenDatabase::of(self.database()?)))
    }

    /// Tells the journal the native metrics that are switched on.
    fn report_metrics(&self) -> Outcome<()> {
        let Some(journal) = self.settings.host.journal.as_ref().filter(|_| !self.settings.metrics.is_empty()) else {
            return Ok(());
        };
        let opened = self.opened()?;
        let header = &opened.contents.header;
        let states: Vec<&str> = header.states.iter().map(|state| state.name.as_str()).collect();
        for (state, metric, value) in opened.database.metrics(&states, &self.settings.metrics) {
            journal.emit(Event::DatabaseMetric { operator: header.operator.clone(), state, metric, value });
        }
        Ok(())
    }

    /// The sections of a part, in the order of [`Self::headers`].
    pub(in crate::state) fn sections(
        &self,
        frozen: &Arc<FrozenDatabase>,
        key_groups: KeyGroupRange,
    ) -> Outcome<Vec<Box<dyn SectionWriter>>> {
        Ok(self.opened()?.contents.sections(frozen, key_groups))
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
        let subdirectory = format!("chk-{checkpoint}");
        let begun = NativeCheckpoint::begin(database, subdirectory.clone()).map_err(|e| database_error("", &e))?;
        let base = increments.lock().expect("increments: a holder panicked").base();
        let compacted = database.clone();
        let compact = move || compact(&compacted);
        Ok(Some(NativeSnapshot {
            operator: operator.clone(),
            key_groups,
            backend: *backend,
            directory: database.directory().clone(),
            subdirectory,
            take: Box::new(move || begun.take()),
            compact: (!self.settings.auto_compaction).then(|| Box::new(compact) as _),
            base,
            increments: increments.clone(),
        }))
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
        let sections = self.sections(&frozen, range)?;
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

fn not_open() -> StateError {
    StateError::new("", StateProblem::Database("it is not open".to_string()))
}

impl Contents {
    /// The sections of a part, in the order of the states.
    pub fn sections(&self, frozen: &Arc<FrozenDatabase>, key_groups: KeyGroupRange) -> Vec<Box<dyn SectionWriter>> {
        let sections = self.header.states.iter().map(|state| {
            Box::new(StateScan {
                database: frozen.clone(),
                state: state.name.clone(),
                first: key_groups.first,
                group_length: group_length(self.header.max_parallelism),
                split: self.is_split(state),
            }) as Box<dyn SectionWriter>
        });
        sections.collect()
    }

    /// Whether the entries of this state's maps are entries of the database.
    fn is_split(&self, state: &StateHeader) -> bool {
        state.kind == StateKind::Map && !self.whole.contains(&state.name)
    }
}

pub(super) enum OpenFailure {
    /// It may go better next time.
    Environment(String),
    /// The snapshot and the code do not fit together, or the snapshot is damaged.
    Data(String),
}

impl From<StateError> for OpenFailure {
    fn from(error: StateError) -> OpenFailure {
        match error.problem() {
            StateProblem::Database(_) => OpenFailure::Environment(error.to_string()),
            _ => OpenFailure::Data(error.to_string()),
        }
    }
}

impl From<UserError> for OpenFailure {
    fn from(error: UserError) -> OpenFailure {
        OpenFailure::Data(error.into_message())
    }
}

/// Opens the database, fills it, and writes down what it holds.
fn open(
    scratch: Scratch,
    settings: &RocksDbSettings,
    mut header: PartHeader,
    pending: &[Pending],
) -> Result<Opened, OpenFailure> {
    let names = pending.iter().map(|state| family_of(&state.header.name)).collect();
    let Scratch { directory, backend, restored, unclipped } = scratch;
    let Restoring { database, before, adopted } =
        restore_native(directory, settings, &header, names, &restored, unclipped)?;
    let length = group_length(header.max_parallelism);
    let Contents { header: PartHeader { states, .. }, mut whole } = before;
    for state in pending {
        let name = &state.header.name;
        if let Some(stored) = states.iter().find(|stored| stored.name == *name) {
            same_state(stored, &state.header)?;
            if let (Some(split), true) = (state.declared.and_then(|d| d.split), whole.contains(name)) {
                split_whole(&database, name, split, length)?;
                whole.retain(|other| other != name);
            }
        }
        if state.declared.is_none() && state.header.kind == StateKind::Map {
            whole.push(name.clone());
        }
        if let Some(restored) = &state.restored {
            fill(&database, state, restored, length, header.max_parallelism)?;
        }
        header.states.push(state.header.clone());
    }
    let undeclared = states.into_iter().filter(|state| pending.iter().all(|p| p.header.name != state.name));
    header.states.extend(undeclared);
    header.states.sort_by(|a, b| a.name.cmp(&b.name));
    let contents = Contents { header, whole };
    write_contents(&database, &contents)?;
    let (backend, increments) = match adopted {
        Some(native) => (native.backend, Increments::adopted(native.checkpoint, native.shared)),
        None => (backend, Increments::default()),
    };
    Ok(Opened { database: Arc::new(database), contents, backend, increments: Arc::new(Mutex::new(increments)) })
}

fn write_contents(database: &Database, contents: &Contents) -> Outcome<()> {
    let bytes = encode("", "description", contents, Vec::new())?;
    let put = database.rocksdb().put_opt(CONTENTS, bytes, database.writes());
    put.map_err(|error| database_error("", &error))
}

/// Bytes of a batch when a state is filled.
pub(super) const BATCH_BYTES: usize = 512 << 10;

/// Writes what a full snapshot has of a state.
fn fill(
    database: &Database,
    state: &Pending,
    restored: &Restored,
    group_length: usize,
    max_parallelism: u16,
) -> Result<(), OpenFailure> {
    let name = &state.header.name;
    let family = database.family(name)?;
    let mut batch = WriteBatch::default();
    for (group, section) in &restored.sections {
        let mut failure = None;
        let read = section.for_each(|entry| {
            let mut put = |key: &[u8], value: &[u8]| {
                database.check_size(name, key, value)?;
                batch.put_cf(family, key, value);
                if batch.size_in_bytes() > BATCH_BYTES {
                    database.write(name, std::mem::take(&mut batch))?;
                }
                Ok(())
            };
            let mut key = Vec::with_capacity(entry.key.len() + 16);
            put_group(*group, group_length, &mut key);
            key.extend_from_slice(entry.key);
            let wrong = |what: &str, problem: String| {
                crate::state::FormatError(format!("state {name}: a {what} does not decode: {problem}"))
            };
            let stored = match &state.declared {
                None => put(&key, entry.value),
                Some(declared) => {
                    (declared.check_key)(entry.key, *group, max_parallelism).map_err(|e| wrong("key", e))?;
                    match declared.split {
                        None => {
                            (declared.check_value)(entry.value).map_err(|e| wrong("value", e))?;
                            put(&key, entry.value)
                        }
                        Some(split) => {
                            let mut stored = Ok(());
                            let plain = key.len();
                            split(entry.value, &mut |map_key, value| {
                                key.truncate(plain);
                                key.extend_from_slice(map_key);
                                put_tail(plain - group_length, &mut key);
                                if stored.is_ok() {
                                    stored = put(&key, value);
                                }
                                Ok(())
                            })
                            .map_err(|e| wrong("value", e))?;
                            stored
                        }
                    }
                }
            };
            stored.map_err(|error: StateError| {
                let text = error.to_string();
                failure = Some(error);
                crate::state::FormatError(text)
            })
        });
        match (failure, read) {
            (Some(error), _) => return Err(error.into()),
            (None, Err(error)) => return Err(OpenFailure::Data(error.to_string())),
            (None, Ok(())) => {}
        }
    }
    Ok(database.write(name, batch)?)
}

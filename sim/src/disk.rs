//! The disk of a machine: contents, names, what of them is durable, and what is under way.
//!
//! * A content is bytes with a durable prefix. Names point at contents; hard links are two names of one content.
//! * A change of names (create, rename, link, remove) is one entry of a log until the directory it concerns is synced. A
//!   loss of power keeps a random prefix of that log, as a journaling file system does, and undoes the rest.
//! * The end of a process does not lose what it had written: the page cache survives it. Only an operation that was under
//!   way may have happened, not happened, or (an append, an adoption) happened in part.
//! * A loss of power settles each file that has unsynced bytes by chance: kept, lost, torn at a random point, or torn with
//!   zeros up to the length it had.
//! * Directories are implied by the names below them; syncing one makes its own name durable too.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use rand::{Rng, RngExt};
use runtime::platform::{DeviceId, DiskError, RelPath};

use crate::{
    completion::Completion,
    config::{DiskConfig, Modelled, draw},
    entropy::Stream,
    event_queue::EventKey,
    process::Incarnation,
    store::FaultId,
    time::{SimTime, in_blocks, transfer_nanos},
    world::World,
};

/// What a disk can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum DiskOperation {
    Create,
    Append,
    Sync,
    Read,
    Length,
    Rename,
    Link,
    Remove,
    RemoveTree,
    SyncDir,
    List,
    NativeDir,
    Adopt,
    Materialize,
    /// Of a file of a native directory.
    NativeRead,
    NativeWrite,
    /// What a database does to the device its scratch directory is on.
    DatabaseOpen,
    DatabaseFlush,
    DatabaseCompact,
    DatabaseCheckpoint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum DiskErrorKind {
    /// EIO. An append that fails so has written a random prefix.
    Io,
    /// ENOSPC. An append that fails so has written a random prefix.
    NoSpace,
    /// EACCES. Nothing has happened.
    Denied,
    /// ENOENT: somebody removed the file, for good, while the operation was under way. Strikes only files that are there.
    Vanished,
    /// None: the operation is counted and goes on.
    Nothing,
}

/// Operations that will fail.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DiskFault {
    /// None for any.
    pub operation: Option<DiskOperation>,
    /// Only on paths that contain this.
    pub path_contains: String,
    pub error: DiskErrorKind,
    /// How often.
    pub count: u32,
}

pub(crate) type ContentId = u64;

#[derive(Default)]
pub(crate) struct Content {
    pub bytes: Vec<u8>,
    pub durable: usize,
    /// Open handles.
    pub open: u32,
}

/// One atomic change of names.
pub(crate) struct NameChange {
    pub directories: BTreeSet<String>,
    /// What each name points at afterwards.
    pub names: Vec<(String, Option<ContentId>)>,
}

/// How an operation under way is settled.
#[derive(Clone, Copy)]
pub(crate) enum Extent {
    Whole,
    /// In part; the number says how much.
    Torn(u64),
}

type Effect = Box<dyn FnOnce(&mut DiskState, Extent)>;

struct UnderWay {
    process: Arc<str>,
    incarnation: u64,
    event: EventKey,
    effect: Effect,
}

struct Armed {
    fault: DiskFault,
    fired: u32,
}

pub(crate) struct DiskState {
    pub config: DiskConfig,
    pub contents: BTreeMap<ContentId, Content>,
    pub names: BTreeMap<String, ContentId>,
    pub durable_names: BTreeMap<String, ContentId>,
    pub pending_names: Vec<NameChange>,
    next_content: ContentId,
    pub rng: Stream,
    faults: Vec<Armed>,
    busy_until: u64,
    last_done: u64,
    pub slow_factor: u32,
    /// What the operations of each kind were charged for, in bytes.
    pub moved: BTreeMap<DiskOperation, u64>,
    /// Where devices other than 0 are mounted.
    pub devices: BTreeMap<String, u64>,
}

pub(crate) struct Disk {
    pub state: RefCell<DiskState>,
    under_way: RefCell<BTreeMap<u64, UnderWay>>,
    next_operation: std::cell::Cell<u64>,
}

pub(crate) fn directory_of(path: &str) -> String {
    path.rsplit_once('/').map_or_else(String::new, |(directory, _)| directory.to_string())
}

impl Disk {
    pub fn new(config: DiskConfig, rng: Stream) -> Rc<Disk> {
        Rc::new(Disk {
            state: RefCell::new(DiskState {
                config,
                contents: BTreeMap::new(),
                names: BTreeMap::new(),
                durable_names: BTreeMap::new(),
                pending_names: Vec::new(),
                next_content: 0,
                rng,
                faults: Vec::new(),
                busy_until: 0,
                last_done: 0,
                slow_factor: 1,
                moved: BTreeMap::new(),
                devices: BTreeMap::new(),
            }),
            under_way: RefCell::default(),
            next_operation: std::cell::Cell::new(0),
        })
    }

    /// Does `effect` after what the operation costs, and gives its result. Operations complete in the order in which they
    /// were begun. Dropping the future does not stop the operation; the end of the process settles it.
    pub async fn operate<T: 'static>(
        self: &Rc<Self>,
        owner: &Rc<Incarnation>,
        operation: DiskOperation,
        path: &RelPath,
        bytes: u64,
        effect: impl FnOnce(&mut DiskState, Extent) -> Result<T, DiskError> + 'static,
    ) -> Result<T, DiskError> {
        owner.alive_or_never().await;
        let world = &owner.world;
        let (at, fault) = {
            let mut state = self.state.borrow_mut();
            let bytes = Modelled::weigh(state.config.modelled.as_ref(), path.as_str(), bytes);
            *state.moved.entry(operation).or_default() += bytes;
            (state.schedule(world.now(), bytes), state.take_fault(operation, path))
        };
        let number = self.next_operation.get();
        self.next_operation.set(number + 1);
        let done = Completion::new();
        let reply = done.clone();
        let path = path.clone();
        let effect: Effect = Box::new(move |state, extent| {
            let result = match fault {
                None | Some(DiskErrorKind::Nothing) => effect(state, extent),
                Some(kind) => {
                    if operation == DiskOperation::Append && matches!(kind, DiskErrorKind::Io | DiskErrorKind::NoSpace)
                    {
                        let torn = state.rng.next_u64();
                        // The fault's error is what the caller gets, whatever the prefix came to.
                        let _ = effect(state, Extent::Torn(torn));
                    }
                    Err(match kind {
                        DiskErrorKind::Io | DiskErrorKind::Nothing => {
                            DiskError::Io { path, detail: "injected".to_string() }
                        }
                        DiskErrorKind::NoSpace => DiskError::NoSpace(path),
                        DiskErrorKind::Denied => DiskError::Denied(path),
                        DiskErrorKind::Vanished => {
                            state.forget(&path);
                            DiskError::NotFound(path)
                        }
                    })
                }
            };
            // Nobody else completes it.
            let _ = reply.complete(result);
        });
        let disk = self.clone();
        let event = world.queue().call(at, move |_| {
            let operation = disk.under_way.borrow_mut().remove(&number);
            if let Some(operation) = operation {
                (operation.effect)(&mut disk.state.borrow_mut(), Extent::Whole);
            }
        });
        self.under_way
            .borrow_mut()
            .insert(number, UnderWay { process: owner.process.clone(), incarnation: owner.number, event, effect });
        let result = done.wait().await;
        owner.alive_or_never().await;
        result
    }

    /// Settles what a process that has just ended had under way.
    pub fn process_ended(&self, world: &World, ended: &Incarnation) {
        let mine: Vec<u64> = self
            .under_way
            .borrow()
            .iter()
            .filter(|(_, o)| o.incarnation == ended.number && o.process == ended.process)
            .map(|(number, _)| *number)
            .collect();
        for number in mine {
            let Some(operation) = self.under_way.borrow_mut().remove(&number) else { continue };
            drop(world.queue().cancel(operation.event));
            let mut state = self.state.borrow_mut();
            if state.rng.random_bool(0.5) {
                let extent = Extent::Torn(state.rng.next_u64());
                (operation.effect)(&mut state, extent);
            }
        }
    }

    /// Settles by chance everything that is not durable.
    pub fn lose_power(&self) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let keep = match state.pending_names.len() {
            0 => 0,
            _ if state.rng.random_bool(0.5) => 0,
            pending => state.rng.random_range(0..=pending),
        };
        let survivors: Vec<NameChange> = state.pending_names.drain(..).take(keep).collect();
        for change in survivors {
            state.make_durable(change);
        }
        state.names = state.durable_names.clone();
        for content in state.contents.values_mut() {
            content.open = 0;
            let length = content.bytes.len();
            if content.durable < length {
                match state.rng.random_range(0..4_u32) {
                    0 => {}
                    1 => content.bytes.truncate(content.durable),
                    2 => content.bytes.truncate(state.rng.random_range(content.durable..=length)),
                    _ => {
                        let torn = state.rng.random_range(content.durable..=length);
                        content.bytes[torn..].fill(0);
                    }
                }
                content.durable = content.bytes.len();
            }
        }
        state.busy_until = 0;
        state.collect();
    }

    /// An empty disk.
    pub fn wipe(&self) {
        let mut state = self.state.borrow_mut();
        state.names.clear();
        state.durable_names.clear();
        state.pending_names.clear();
        state.collect();
    }

    pub fn inject(&self, fault: DiskFault) -> FaultId {
        let mut state = self.state.borrow_mut();
        state.faults.push(Armed { fault, fired: 0 });
        FaultId(state.faults.len() - 1)
    }

    /// Whether a database finds this device broken, or full, as it says it itself. Its files take no room here, since nothing of
    /// them outlives the process; but to a full device it can add nothing either.
    pub fn database_error(&self, operation: DiskOperation) -> Option<String> {
        let mut state = self.state.borrow_mut();
        let is_full = state.used() >= state.config.capacity_bytes;
        let scratch = RelPath::new("native").ok()?;
        match state.take_fault(operation, &scratch) {
            Some(DiskErrorKind::Io | DiskErrorKind::Vanished) => Some("IO error: Input/output error"),
            Some(DiskErrorKind::Denied) => Some("IO error: Permission denied"),
            Some(DiskErrorKind::NoSpace) => Some("IO error: No space left on device"),
            None | Some(DiskErrorKind::Nothing) => is_full.then_some("IO error: No space left on device"),
        }
        .map(|error| {
            error.to_string()
                + match operation {
                    DiskOperation::DatabaseOpen => ": While open a file for appending",
                    DiskOperation::DatabaseFlush | DiskOperation::DatabaseCompact => {
                        ": While appending to a table file"
                    }
                    _ => ": While link file to the native checkpoint",
                }
        })
    }

    pub fn fired(&self, fault: FaultId) -> u32 {
        self.state.borrow().faults.get(fault.0).map_or(0, |armed| armed.fired)
    }

    pub fn clear_faults(&self) {
        for armed in &mut self.state.borrow_mut().faults {
            armed.fault.count = armed.fired;
        }
    }
}

impl DiskState {
    fn schedule(&mut self, now: SimTime, bytes: u64) -> SimTime {
        let factor = u64::from(self.slow_factor);
        let transfer = transfer_nanos(in_blocks(bytes), self.config.bytes_per_second).saturating_mul(factor);
        let latency = draw(&self.config.latency, &mut self.rng).saturating_mul(factor);
        self.busy_until = self.busy_until.max(now.0).saturating_add(transfer);
        self.last_done = self.busy_until.saturating_add(latency).max(self.last_done);
        SimTime(self.last_done)
    }

    fn take_fault(&mut self, operation: DiskOperation, path: &RelPath) -> Option<DiskErrorKind> {
        let names = &self.names;
        let strikes = |armed: &Armed| {
            armed.fired < armed.fault.count
                && armed.fault.operation.is_none_or(|wanted| wanted == operation)
                && path.as_str().contains(&armed.fault.path_contains)
                && (armed.fault.error != DiskErrorKind::Vanished || names.contains_key(path.as_str()))
        };
        let is_watch = |armed: &Armed| armed.fault.error == DiskErrorKind::Nothing;
        for watch in self.faults.iter_mut().filter(|armed| is_watch(armed) && strikes(armed)) {
            watch.fired += 1;
        }
        let armed = self.faults.iter_mut().find(|armed| !is_watch(armed) && strikes(armed))?;
        armed.fired += 1;
        Some(armed.fault.error)
    }

    /// Nothing that is begun from now on is done before `until`.
    pub fn stall(&mut self, until: SimTime) {
        self.busy_until = self.busy_until.max(until.0);
    }

    /// Removes a file, durably. False if there is none.
    pub fn forget(&mut self, path: &RelPath) -> bool {
        for change in &mut self.pending_names {
            change.names.retain(|(name, _)| name != path.as_str());
        }
        self.durable_names.remove(path.as_str());
        let was_there = self.names.remove(path.as_str()).is_some();
        self.collect();
        was_there
    }

    pub fn device_of(&self, path: &str) -> DeviceId {
        let mut mounted = self.devices.iter().filter(|(mount, _)| {
            path.strip_prefix(mount.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        // The longest mount that is a prefix; the table is sorted, so it comes last.
        DeviceId(mounted.next_back().map_or(0, |(_, device)| *device))
    }

    pub fn new_content(&mut self, content: Content) -> ContentId {
        let id = self.next_content;
        self.next_content += 1;
        self.contents.insert(id, content);
        id
    }

    pub fn content_of(&self, path: &RelPath) -> Result<(ContentId, &Content), DiskError> {
        let id = *self.names.get(path.as_str()).ok_or_else(|| DiskError::NotFound(path.clone()))?;
        self.contents.get(&id).map(|content| (id, content)).ok_or_else(|| DiskError::NotFound(path.clone()))
    }

    pub fn is_directory(&self, path: &str) -> bool {
        let below = format!("{path}/");
        self.names.range(below.clone()..).next().is_some_and(|(name, _)| name.starts_with(&below))
    }

    /// Whether a file may be created at `path`.
    pub fn check_free(&self, path: &RelPath) -> Result<(), DiskError> {
        if self.names.contains_key(path.as_str()) || self.is_directory(path.as_str()) {
            return Err(DiskError::Exists(path.clone()));
        }
        let mut above = path.parent();
        while let Some(directory) = above {
            if self.names.contains_key(directory.as_str()) {
                return Err(DiskError::Io { path: path.clone(), detail: format!("{directory} is not a directory") });
            }
            above = directory.parent();
        }
        Ok(())
    }

    /// Changes names, not durably yet.
    pub fn change_names(&mut self, names: Vec<(String, Option<ContentId>)>) {
        let mut directories: BTreeSet<String> = BTreeSet::new();
        for (name, content) in &names {
            directories.insert(directory_of(name));
            match content {
                Some(content) => self.names.insert(name.clone(), *content),
                None => self.names.remove(name),
            };
        }
        self.pending_names.push(NameChange { directories, names });
    }

    pub fn make_durable(&mut self, change: NameChange) {
        for (name, content) in change.names {
            match content {
                Some(content) => self.durable_names.insert(name, content),
                None => self.durable_names.remove(&name),
            };
        }
    }

    /// Bytes that are in use, by names or by open handles.
    pub fn used(&self) -> u64 {
        let named: BTreeSet<ContentId> = self.names.values().copied().collect();
        let counted = self.contents.iter().filter(|(id, content)| content.open > 0 || named.contains(id));
        counted.map(|(_, content)| content.bytes.len() as u64).sum()
    }

    /// Forgets contents that nothing refers to.
    pub fn collect(&mut self) {
        let mut live: BTreeSet<ContentId> = self.names.values().chain(self.durable_names.values()).copied().collect();
        live.extend(self.pending_names.iter().flat_map(|change| &change.names).filter_map(|(_, content)| *content));
        self.contents.retain(|id, content| content.open > 0 || live.contains(id));
    }
}

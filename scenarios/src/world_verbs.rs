//! The simulated world as the nemesis breaks it and as the invariants see it.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use runtime::{
    layout::LocalLayout,
    platform::{ObjectName, RelPath},
};
use sim::{Direction, DiskFault, Echo, FaultId, LabelPattern, SimDisk, Slow, StoreFault, StoreFaultKind, World};

use crate::{
    invariants::{FaultNotice, Formats, RuntimeFormats, Truth},
    nemesis::{Notice, Resume, StoreTrouble, Trouble, Verbs},
    plan::{
        Damage, DiskErrorKind, DiskOperation, ReadDamage, StoreErrorKind, StoreOperation,
        model::{CLIENT, JOB_MANAGER, SECOND_JOB_MANAGER},
    },
};

/// Who is told what was hit.
pub type NoticeListener = Rc<dyn Fn(&World, &FaultNotice)>;

/// The verbs of one world.
pub struct WorldVerbs {
    world: World,
    tell: NoticeListener,
    disk_capacity: u64,
    /// One-way cuts in force; the world mends both ways at once.
    cuts: RefCell<BTreeSet<(String, String)>>,
    armed: RefCell<BTreeMap<u64, FaultId>>,
    next_armed: Cell<u64>,
    /// Objects as they were before they were lost or corrupted.
    destroyed: RefCell<BTreeMap<String, Bytes>>,
    /// Of the job that processes are started with.
    parallelism: Rc<Cell<u32>>,
    wishes: Rc<Wishes>,
}

/// What those want who ask for savepoints.
#[derive(Default)]
pub struct Wishes {
    /// Whether the job is to end with the savepoint that is asked for now.
    pub stop: Cell<bool>,
    /// How the job goes on when it has ended with one. It stays while others are asked for: the JobManager may have heard of the
    /// stop, whatever became of the client.
    pub resume: Cell<Option<Resume>>,
}

impl WorldVerbs {
    /// `parallelism` and `wishes` are what processes look at when they start.
    pub fn new(world: World, tell: NoticeListener, parallelism: Rc<Cell<u32>>, wishes: Rc<Wishes>) -> WorldVerbs {
        let disk_capacity = world.config().disk.capacity_bytes;
        WorldVerbs {
            world,
            tell,
            disk_capacity,
            cuts: RefCell::default(),
            armed: RefCell::default(),
            next_armed: Cell::new(0),
            destroyed: RefCell::default(),
            parallelism,
            wishes,
        }
    }

    fn disk(&self, machine: &str) -> SimDisk {
        self.world.disk(machine)
    }

    /// Begins a trouble, or ends it.
    fn set(&self, trouble: &Trouble, on: bool) {
        let world = &self.world;
        match trouble {
            Trouble::HalfOpen { lost, believing } if on => {
                world.half_open(lost, believing);
            }
            Trouble::HalfOpen { lost, believing } => world.end_half_open(lost, believing),
            Trouble::Jitter { a, b, up_to_ms } => {
                world.storm_link(a, b, Duration::from_millis(if on { *up_to_ms } else { 0 }));
            }
            Trouble::Choked { a, b, divided_by } => world.choke_link(a, b, if on { *divided_by } else { 1 }),
            Trouble::SlowDisk { machine, factor } => self.disk(machine).set_slow(if on { *factor } else { 1 }),
            Trouble::LingeringDeletes { linger_ms } => {
                world.store().let_deletes_linger(Duration::from_millis(if on { *linger_ms } else { 0 }));
            }
            Trouble::WallClock { machine, by_ms } => {
                world.jump_wall_clock(machine, if on { *by_ms } else { by_ms.saturating_neg() });
            }
            Trouble::Drift { machine, parts_per_million, .. } => {
                world.set_clock_drift(machine, if on { *parts_per_million } else { 0 });
            }
        }
    }

    /// Keeps what is about to be destroyed.
    fn remember(&self, name: &str, object: &ObjectName) {
        if let Some(bytes) = self.world.store().peek(object) {
            self.destroyed.borrow_mut().entry(name.to_string()).or_insert(bytes);
        }
    }

    fn arm(&self, fault: FaultId) -> u64 {
        let number = self.next_armed.get();
        self.next_armed.set(number + 1);
        self.armed.borrow_mut().insert(number, fault);
        number
    }
}

fn channel(name: &str) -> LabelPattern {
    LabelPattern::Exact(name.to_string())
}

fn store_operation(operation: StoreOperation) -> sim::StoreOperation {
    match operation {
        StoreOperation::Create => sim::StoreOperation::Create,
        StoreOperation::Upload => sim::StoreOperation::Upload,
        StoreOperation::Read => sim::StoreOperation::Read,
        StoreOperation::List => sim::StoreOperation::List,
        StoreOperation::Delete => sim::StoreOperation::Delete,
    }
}

impl Verbs for WorldVerbs {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.world.now().elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn after(&self, delay: Duration, action: Box<dyn FnOnce()>) {
        // Never cancelled: each action looks itself whether it is still wanted.
        let _ = self.world.after(delay, move |_| action());
    }

    fn notice(&self, notice: Notice) {
        let notice = match notice {
            Notice::Object { name } => FaultNotice::Object { name },
            Notice::LocalFile { machine, path } => FaultNotice::LocalFile { machine, path },
            Notice::Disk { machine } => FaultNotice::Disk { machine },
            Notice::NativeCode { process } => FaultNotice::NativeCode { process },
            Notice::Process { process } => FaultNotice::Process { process },
            Notice::Clock { process, wrong } => FaultNotice::Clock { process, wrong },
            Notice::Environment { what } => FaultNotice::Environment { what },
            Notice::Healed => FaultNotice::Healed,
        };
        (self.tell)(&self.world, &notice);
    }

    fn is_alive(&self, process: &str) -> bool {
        self.world.is_alive(process)
    }

    fn crash(&self, process: &str) {
        self.world.crash(process);
    }

    fn restart(&self, process: &str) {
        self.world.restart(process);
    }

    fn lose_machine(&self, machine: &str) {
        self.world.lose_machine(machine);
    }

    fn freeze(&self, process: &str) {
        self.world.freeze(process);
    }

    fn thaw(&self, process: &str) {
        self.world.thaw(process);
    }

    fn power_loss(&self, machine: &str) {
        self.world.power_loss(machine);
    }

    fn second_job_manager(&self, there: bool) {
        if there {
            self.world.route(JOB_MANAGER, Some(SECOND_JOB_MANAGER));
            self.world.start(SECOND_JOB_MANAGER);
        } else {
            self.world.route(JOB_MANAGER, None);
            self.world.crash(SECOND_JOB_MANAGER);
        }
    }

    fn rescale(&self, parallelism: u32) {
        self.parallelism.set(parallelism);
    }

    fn ask_for_savepoint(&self, resume: Option<Resume>) -> Result<(), String> {
        if self.world.is_alive(CLIENT) {
            return Err("somebody asks for a savepoint already".to_string());
        }
        self.wishes.stop.set(resume.is_some());
        if resume.is_some() {
            self.wishes.resume.set(resume);
        }
        self.world.start(CLIENT);
        Ok(())
    }

    fn limit_memory(&self, process: &str, headroom_bytes: u64, killed: Box<dyn Fn()>) {
        let bytes = self.world.memory(process) + headroom_bytes;
        self.world.limit_memory(process, bytes, Rc::new(move |_| killed()));
    }

    fn lift_memory_limit(&self, process: &str) {
        self.world.lift_memory_limit(process);
    }

    fn begin(&self, trouble: &Trouble) {
        self.set(trouble, true);
    }

    fn end(&self, trouble: &Trouble) {
        self.set(trouble, false);
    }

    fn connections(&self, a: &str, b: &str) -> usize {
        self.world.connections(a, b)
    }

    fn reset_connections(&self, a: &str, b: &str) {
        self.world.reset_connections(a, b);
    }

    fn arm_messages(&self, from: &str, to: &str, label: &str, count: u32, delay: Duration) -> u64 {
        let (from, to) = (from.to_string(), to.to_string());
        let fault = self.world.echo_frames(Echo { from, to, label: channel(label), delay, count });
        self.arm(fault)
    }

    fn messages_met(&self, armed: u64) -> u64 {
        let fault = self.armed.borrow().get(&armed).copied();
        fault.map_or(0, |fault| self.world.echoed(fault).into())
    }

    fn disarm_messages(&self, _armed: u64) {
        self.world.end_echoes();
    }

    fn cut(&self, from: &str, to: &str) {
        self.cuts.borrow_mut().insert((from.to_string(), to.to_string()));
        self.world.partition(from, to, Direction::AtoB);
    }

    fn mend(&self, from: &str, to: &str) {
        let back = (to.to_string(), from.to_string());
        self.cuts.borrow_mut().remove(&(from.to_string(), to.to_string()));
        let still_cut_back = self.cuts.borrow().contains(&back);
        self.world.heal(from, to);
        if still_cut_back {
            self.world.partition(to, from, Direction::AtoB);
        }
    }

    fn hold_channel(&self, name: &str) {
        self.world.hold_channel(channel(name));
    }

    fn slow_channel(&self, name: &str, extra: Duration) {
        self.world.slow_channel(channel(name), Slow::by(extra));
    }

    fn release_channel(&self, name: &str) {
        self.world.release_channel(channel(name));
        self.world.slow_channel(channel(name), Slow::NOT);
    }

    fn files(&self, machine: &str) -> Vec<String> {
        self.disk(machine).list_all().into_iter().map(|(path, _)| path.as_str().to_string()).collect()
    }

    fn damage_file(&self, machine: &str, path: &str, damage: Damage) -> bool {
        let Ok(path) = RelPath::new(path) else { return false };
        let disk = self.disk(machine);
        let length = disk.peek(&path).map_or(0, |bytes| bytes.len() as u64);
        match damage {
            Damage::Missing => disk.remove_file(&path),
            Damage::Torn => disk.truncate(&path, length / 2),
            Damage::Corrupt => disk.corrupt(&path, length / 2),
            // These need another file: `put_in_place`.
            Damage::Stale | Damage::Foreign => false,
            Damage::Empty => disk.truncate(&path, 0),
            Damage::Truncated => disk.truncate(&path, length.saturating_sub(1)),
            Damage::BitFlipped => disk.flip_bit(&path, length / 3),
        }
    }

    fn put_in_place(&self, machine: &str, path: &str, other: &str) -> bool {
        let (Ok(path), Ok(other)) = (RelPath::new(path), RelPath::new(other)) else { return false };
        self.disk(machine).put_in_place(&path, &other)
    }

    fn stall_disk(&self, machine: &str, duration: Duration) {
        self.disk(machine).stall(self.world.now() + duration);
    }

    fn separate_device(&self, machine: &str) {
        let disk = self.disk(machine);
        disk.mount(&LocalLayout::root());
        // Of several directories the first stays where it is: there links go on working.
        for number in 1..MOST_LOCAL_ROOTS {
            disk.mount(&LocalLayout::mount(number));
        }
    }

    fn watch_file(&self, machine: &str, path: &str) -> u64 {
        let operation = Some(sim::DiskOperation::Read);
        let (path_contains, error) = (path.to_string(), sim::DiskErrorKind::Nothing);
        let watch = self.disk(machine).inject(DiskFault { operation, path_contains, error, count: u32::MAX });
        self.arm(watch)
    }

    fn fill_disk(&self, machine: &str, full: bool) {
        let disk = self.disk(machine);
        let capacity = if full { disk.used() } else { self.disk_capacity };
        disk.set_capacity(capacity);
    }

    fn arm_disk_errors(
        &self,
        machine: &str,
        path_contains: &str,
        operation: DiskOperation,
        error: DiskErrorKind,
        count: u32,
    ) -> u64 {
        let operation = match operation {
            DiskOperation::Create => sim::DiskOperation::Create,
            DiskOperation::Write => sim::DiskOperation::Append,
            DiskOperation::Sync => sim::DiskOperation::Sync,
            DiskOperation::Read => sim::DiskOperation::Read,
            DiskOperation::Rename => sim::DiskOperation::Rename,
            DiskOperation::Remove => sim::DiskOperation::RemoveTree,
            DiskOperation::List => sim::DiskOperation::List,
            DiskOperation::SyncDirectory => sim::DiskOperation::SyncDir,
            DiskOperation::NativeRead => sim::DiskOperation::NativeRead,
            DiskOperation::NativeWrite => sim::DiskOperation::NativeWrite,
            DiskOperation::Adopt => sim::DiskOperation::Adopt,
            DiskOperation::DatabaseOpen => sim::DiskOperation::DatabaseOpen,
            DiskOperation::DatabaseFlush => sim::DiskOperation::DatabaseFlush,
            DiskOperation::DatabaseCompact => sim::DiskOperation::DatabaseCompact,
            DiskOperation::DatabaseCheckpoint => sim::DiskOperation::DatabaseCheckpoint,
        };
        let error = match error {
            DiskErrorKind::InputOutput => sim::DiskErrorKind::Io,
            DiskErrorKind::NoSpace => sim::DiskErrorKind::NoSpace,
            DiskErrorKind::Denied => sim::DiskErrorKind::Denied,
            DiskErrorKind::Vanished => sim::DiskErrorKind::Vanished,
        };
        let fault = DiskFault { operation: Some(operation), path_contains: path_contains.to_string(), error, count };
        let fault = self.disk(machine).inject(fault);
        self.arm(fault)
    }

    fn disk_errors_met(&self, machine: &str, armed: u64) -> u64 {
        let fault = self.armed.borrow().get(&armed).copied();
        fault.map_or(0, |fault| self.disk(machine).fired(fault).into())
    }

    fn disarm_disk_errors(&self, machine: &str, _armed: u64) {
        // Only the healing disarms, and it disarms everything.
        self.disk(machine).clear_faults();
    }

    fn objects(&self, prefix: &str) -> Vec<String> {
        self.world.store().list(prefix).into_iter().map(|meta| meta.name.as_str().to_string()).collect()
    }

    fn needed_by(&self, checkpoint: u64) -> Vec<String> {
        let store = self.world.store();
        let suffix = format!("/chk-{checkpoint}/_metadata");
        let metadata = store.list("checkpoints/").into_iter().find(|meta| meta.name.as_str().ends_with(&suffix));
        let Some(bytes) = metadata.as_ref().and_then(|meta| store.peek(&meta.name)) else { return Vec::new() };
        let Ok(snapshots) = RuntimeFormats.metadata(&bytes) else { return Vec::new() };
        let parts = snapshots.values().flat_map(|snapshot| &snapshot.parts);
        parts.filter_map(|part| Some(part.object()?.to_string())).collect()
    }

    fn put_back(&self, name: &str) {
        if let Some(bytes) = self.destroyed.borrow_mut().remove(name)
            && let Ok(name) = ObjectName::new(name)
        {
            self.world.store().put(&name, bytes);
        }
    }

    fn lose_object(&self, name: &str) {
        if let Ok(object) = ObjectName::new(name) {
            self.remember(name, &object);
            self.world.store().lose(&object);
        }
    }

    fn corrupt_object(&self, name: &str) {
        if let Ok(object) = ObjectName::new(name) {
            self.remember(name, &object);
            self.world.store().corrupt(&object);
        }
    }

    fn arm_store_errors(&self, operation: StoreOperation, contains: &str, error: StoreErrorKind, count: u32) -> u64 {
        let operation = store_operation(operation);
        let kind = match error {
            StoreErrorKind::ErrorBefore => StoreFaultKind::ErrorBefore,
            StoreErrorKind::ErrorAfter => StoreFaultKind::ErrorAfter,
            StoreErrorKind::TimeoutBefore => StoreFaultKind::TimeoutBefore,
            StoreErrorKind::TimeoutAfter => StoreFaultKind::TimeoutAfter,
        };
        let fault = StoreFault { operation: Some(operation), name_contains: contains.to_string(), kind, count };
        let fault = self.world.store().inject(fault);
        self.arm(fault)
    }

    fn arm_store_trouble(&self, operation: StoreOperation, contains: &str, trouble: StoreTrouble, count: u32) -> u64 {
        let kind = match trouble {
            StoreTrouble::Throttled { retry_after_ms } => {
                StoreFaultKind::Throttled(Duration::from_millis(retry_after_ms))
            }
            StoreTrouble::Slow { delay_ms } => StoreFaultKind::Delayed(Duration::from_millis(delay_ms)),
            StoreTrouble::Read(ReadDamage::Short) => StoreFaultKind::ShortRead,
            StoreTrouble::Read(ReadDamage::Corrupt) => StoreFaultKind::CorruptRead,
        };
        let (operation, name_contains) = (Some(store_operation(operation)), contains.to_string());
        self.arm(self.world.store().inject(StoreFault { operation, name_contains, kind, count }))
    }

    fn store_errors_met(&self, armed: u64) -> u64 {
        let fault = self.armed.borrow().get(&armed).copied();
        fault.map_or(0, |fault| self.world.store().fired(fault).into())
    }

    fn disarm_store_errors(&self, _armed: u64) {
        self.world.store().clear_faults();
    }

    fn store_outage(&self, duration: Duration) {
        self.world.store().outage(duration);
    }
}

/// Plans have no more directories for local copies.
pub const MOST_LOCAL_ROOTS: u32 = 4;

/// The world as the invariants read it.
pub struct WorldTruth<'a>(pub &'a World);

impl Truth for WorldTruth<'_> {
    fn outside(&self, job: Box<dyn FnOnce() + Send>) {
        // Whoever waits for a result of it sees that there is none.
        let _ = self.0.outside(job);
    }

    fn now(&self) -> Duration {
        self.0.now().elapsed()
    }

    fn objects(&self, prefix: &str) -> Vec<(String, u64)> {
        self.0.store().list(prefix).into_iter().map(|meta| (meta.name.as_str().to_string(), meta.length)).collect()
    }

    fn unfinished(&self, prefix: &str) -> Vec<String> {
        self.0.store().unfinished(prefix).into_iter().map(|name| name.as_str().to_string()).collect()
    }

    fn object(&self, name: &str) -> Option<Bytes> {
        self.0.store().peek(&ObjectName::new(name).ok()?)
    }

    fn machines(&self) -> Vec<String> {
        self.0.machines()
    }

    fn files(&self, machine: &str) -> Vec<(String, u64)> {
        self.0.disk(machine).list_all().into_iter().map(|(path, length)| (path.as_str().to_string(), length)).collect()
    }

    fn file(&self, machine: &str, path: &str) -> Option<Bytes> {
        self.0.disk(machine).peek(&RelPath::new(path).ok()?)
    }

    fn machine_of(&self, process: &str) -> Option<String> {
        let known = self.0.processes().iter().any(|name| name == process);
        known.then(|| self.0.machine_of(process))
    }

    fn is_alive(&self, process: &str) -> bool {
        self.0.is_alive(process)
    }

    fn channels(&self) -> Vec<(String, u64)> {
        self.0.channel_stats().into_iter().collect()
    }
}

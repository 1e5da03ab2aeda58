//! The simulated world as the nemesis breaks it and as the invariants see it.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use runtime::platform::{ObjectName, RelPath};
use sim::{Direction, DiskFault, FaultId, LabelPattern, SimDisk, Slow, StoreFault, StoreFaultKind, World};

use crate::{
    invariants::{FaultNotice, Truth},
    nemesis::{Notice, Verbs},
    plan::{Damage, DiskErrorKind, DiskOperation, StoreErrorKind, StoreOperation},
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
}

impl WorldVerbs {
    pub fn new(world: World, tell: NoticeListener) -> WorldVerbs {
        let disk_capacity = world.config().disk.capacity_bytes;
        WorldVerbs {
            world,
            tell,
            disk_capacity,
            cuts: RefCell::default(),
            armed: RefCell::default(),
            next_armed: Cell::new(0),
        }
    }

    fn disk(&self, machine: &str) -> SimDisk {
        self.world.disk(machine)
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
            Notice::Process { process } => FaultNotice::Process { process },
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

    fn damage_file(&self, machine: &str, path: &str, damage: Damage) {
        let Ok(path) = RelPath::new(path) else { return };
        let disk = self.disk(machine);
        let length = disk.peek(&path).map_or(0, |bytes| bytes.len() as u64);
        match damage {
            Damage::Missing => disk.remove_file(&path),
            Damage::Torn => disk.truncate(&path, length / 2),
            Damage::Corrupt => disk.corrupt(&path, length / 2),
        };
    }

    fn fill_disk(&self, machine: &str, full: bool) {
        let disk = self.disk(machine);
        let capacity = if full { disk.used() } else { self.disk_capacity };
        disk.set_capacity(capacity);
    }

    fn arm_disk_errors(&self, machine: &str, operation: DiskOperation, error: DiskErrorKind, count: u32) -> u64 {
        let operation = match operation {
            DiskOperation::Create => sim::DiskOperation::Create,
            DiskOperation::Write => sim::DiskOperation::Append,
            DiskOperation::Sync => sim::DiskOperation::Sync,
            DiskOperation::Read => sim::DiskOperation::Read,
        };
        let error = match error {
            DiskErrorKind::InputOutput => sim::DiskErrorKind::Io,
            DiskErrorKind::NoSpace => sim::DiskErrorKind::NoSpace,
        };
        let fault = DiskFault { operation: Some(operation), path_contains: String::new(), error, count };
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

    fn lose_object(&self, name: &str) {
        if let Ok(name) = ObjectName::new(name) {
            self.world.store().lose(&name);
        }
    }

    fn corrupt_object(&self, name: &str) {
        if let Ok(name) = ObjectName::new(name) {
            self.world.store().corrupt(&name);
        }
    }

    fn arm_store_errors(&self, operation: StoreOperation, contains: &str, error: StoreErrorKind, count: u32) -> u64 {
        let operation = match operation {
            StoreOperation::Create => sim::StoreOperation::Create,
            StoreOperation::Read => sim::StoreOperation::Read,
            StoreOperation::List => sim::StoreOperation::List,
            StoreOperation::Delete => sim::StoreOperation::Delete,
        };
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

/// The world as the invariants read it.
pub struct WorldTruth<'a>(pub &'a World);

impl Truth for WorldTruth<'_> {
    fn now(&self) -> Duration {
        self.0.now().elapsed()
    }

    fn objects(&self, prefix: &str) -> Vec<(String, u64)> {
        self.0.store().list(prefix).into_iter().map(|meta| (meta.name.as_str().to_string(), meta.length)).collect()
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

//! Machines, processes and their incarnations: starting, crashing, freezing and losing them.
//!
//! A crash is a fence, then a kill. The fence is one flag of the incarnation, which every handle of the process looks at
//! before it does anything. It falls at the instant of the crash, even while a task of that very process is being
//! polled; what that poll still does, and whatever runs in destructors, has no effect, and anything it waits for never
//! comes. Then the world settles what was
//! under way (unfinished writes, requests, connections), and madsim is told to drop the tasks, which it does a little later.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use futures::future::BoxFuture;
use madsim::runtime::NodeHandle;
use runtime::{
    journal::Journal,
    platform::{Platform, Task, TaskEnd},
};

use crate::{
    clock::{MachineClock, SimClock},
    disk::Disk,
    disk_handle::SimLocalDisk,
    entropy::{EntropyStreams, SimEntropy, Stream},
    event_queue::Pause,
    inputs::SimInputFiles,
    journal::SimJournal,
    local::{Local, LocalFuture},
    memory::{MemoryLimit, SimMemory},
    network::Farewell,
    spawner::SimSpawner,
    store_handle::SimPrimary,
    time::SimTime,
    transport::SimTransport,
    world::World,
};

/// The program of a process, called anew for each incarnation.
pub type Entry = Rc<dyn Fn(Platform) -> BoxFuture<'static, ()>>;

/// How many events a process's own journal keeps.
const JOURNAL_CAPACITY: usize = 64;

/// Where a process stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessStatus {
    NeverStarted,
    Running,
    Frozen,
    /// Its program returned.
    Exited,
    /// Its program panicked.
    Panicked(String),
    /// It was crashed, or its machine was.
    Crashed,
}

pub(crate) struct Machine {
    pub name: Arc<str>,
    pub disk: Rc<Disk>,
    pub clock: MachineClock,
    /// False from a loss of power until a process is started on it again.
    pub up: Cell<bool>,
}

pub(crate) struct Process {
    pub name: Arc<str>,
    pub machine: Rc<Machine>,
    pub entry: Entry,
    pub incarnations: Cell<u64>,
    pub current: RefCell<Option<Rc<Incarnation>>>,
    pub status: RefCell<ProcessStatus>,
}

/// One life of a process.
pub(crate) struct Incarnation {
    pub world: World,
    pub process: Arc<str>,
    pub machine: Rc<Machine>,
    pub number: u64,
    alive: Cell<bool>,
    pub node: NodeHandle,
    pub native_rng: RefCell<Stream>,
    pub input_rng: RefCell<Stream>,
    /// What it says it holds, in bytes.
    pub held: Cell<u64>,
    pub limit: RefCell<Option<MemoryLimit>>,
}

impl Incarnation {
    pub fn is_alive(&self) -> bool {
        self.alive.get()
    }

    /// Waits for ever if the process is dead, as its code would in reality: an error would set it retrying, and a loop that
    /// retries without a pause would never end inside the poll in which the fence fell.
    pub async fn alive_or_never(&self) {
        if !self.is_alive() {
            futures::future::pending::<()>().await;
        }
    }

    /// Lets `nanos` pass.
    pub fn pause(&self, nanos: u64) -> Pause {
        let world = self.world.clone();
        Pause { until: SimTime(world.now().0.saturating_add(nanos)), world, key: None }
    }

    fn platform(self: &Rc<Self>) -> Platform {
        Platform {
            process: self.process.clone(),
            clock: Arc::new(SimClock(Local::new(self.clone()))),
            spawner: Arc::new(SimSpawner(Local::new(self.clone()))),
            transport: Arc::new(SimTransport(Local::new(self.clone()))),
            disk: Arc::new(SimLocalDisk(Local::new(self.clone()))),
            primary: Arc::new(SimPrimary(Local::new(self.clone()))),
            inputs: Arc::new(SimInputFiles(Local::new(self.clone()))),
            entropy: Arc::new(SimEntropy(Local::new(EntropyStreams {
                incarnation: self.clone(),
                streams: RefCell::default(),
            }))),
            memory: Arc::new(SimMemory(Local::new(self.clone()))),
            journal: Journal::new(
                self.process.clone(),
                JOURNAL_CAPACITY,
                Some(Arc::new(SimJournal(Local::new(self.clone())))),
            ),
        }
    }
}

impl World {
    /// Adds a machine with an empty disk.
    ///
    /// # Panics
    /// If there is one of that name.
    pub fn add_machine(&self, name: &str) {
        let config = &self.inner().config;
        let machine = Rc::new(Machine {
            name: name.into(),
            disk: Disk::new(config.disk.clone(), self.rng(&format!("disk/{name}"))),
            clock: MachineClock::new(&mut self.rng(&format!("clock/{name}"))),
            up: Cell::new(true),
        });
        let before = self.inner().machines.borrow_mut().insert(name.into(), machine);
        assert!(before.is_none(), "there is a machine {name:?} already");
    }

    /// Adds a process, not started yet. `entry` is its program.
    ///
    /// # Panics
    /// If there is no such machine, or a process of that name already.
    pub fn add_process(&self, name: &str, machine: &str, entry: Entry) {
        let process = Rc::new(Process {
            name: name.into(),
            machine: self.machine(machine),
            entry,
            incarnations: Cell::new(0),
            current: RefCell::default(),
            status: RefCell::new(ProcessStatus::NeverStarted),
        });
        let before = self.inner().processes.borrow_mut().insert(name.into(), process);
        assert!(before.is_none(), "there is a process {name:?} already");
    }

    /// Starts a process as its next incarnation; boots its machine first if that has no power. False if it runs already.
    pub fn start(&self, process: &str) -> bool {
        let process = self.process(process);
        if self.inner().ended.get() || process.current.borrow().is_some() {
            return false;
        }
        if !process.machine.up.replace(true) {
            self.network().machine_came_up(self, &process.machine);
        }
        let number = process.incarnations.get() + 1;
        process.incarnations.set(number);
        let name = &process.name;
        let incarnation = Rc::new(Incarnation {
            world: self.clone(),
            process: name.clone(),
            machine: process.machine.clone(),
            number,
            alive: Cell::new(true),
            node: self.inner().madsim.create_node().name(format!("{name}#{number}")).build(),
            native_rng: RefCell::new(self.rng(&format!("process/{name}/{number}/native"))),
            input_rng: RefCell::new(self.rng(&format!("process/{name}/{number}/inputs"))),
            held: Cell::new(0),
            limit: RefCell::default(),
        });
        *process.current.borrow_mut() = Some(incarnation.clone());
        *process.status.borrow_mut() = ProcessStatus::Running;
        let platform = incarnation.platform();
        let entry = process.entry.clone();
        let (task, body) = Task::wrap(async move { entry(platform).await });
        let main = incarnation.clone();
        incarnation.node.spawn(LocalFuture(async move {
            body.await;
            let (status, farewell) = match task.await {
                TaskEnd::Panicked(message) => (ProcessStatus::Panicked(message), Farewell::Reset),
                TaskEnd::Done | TaskEnd::Aborted => (ProcessStatus::Exited, Farewell::Orderly),
            };
            let world = main.world.clone();
            let process = world.process(&main.process);
            if main.is_alive() {
                world.end_process(&process, status, farewell);
            }
        }));
        true
    }

    /// Ends a process at this instant, as `kill -9` does: its handles go dead, connections are reset, what it had written
    /// stays in the page cache, and an append that was under way may have happened in part. May be called inside an emit
    /// of that very process. False if it is not running.
    pub fn crash(&self, process: &str) -> bool {
        self.end_process(&self.process(process), ProcessStatus::Crashed, Farewell::Reset)
    }

    /// Crashes the process if it runs, and starts its next incarnation.
    pub fn restart(&self, process: &str) {
        self.crash(process);
        self.start(process);
    }

    /// Stops polling a process's tasks, as a long garbage collection or SIGSTOP does. A poll that is under way is
    /// finished. Its kernel goes on: frames arrive until the windows are full, writes and requests under way complete.
    /// False if it does not run.
    pub fn freeze(&self, process: &str) -> bool {
        self.set_frozen(process, ProcessStatus::Running, ProcessStatus::Frozen)
    }

    /// Ends a freeze. False if there is none.
    pub fn thaw(&self, process: &str) -> bool {
        self.set_frozen(process, ProcessStatus::Frozen, ProcessStatus::Running)
    }

    fn set_frozen(&self, process: &str, from: ProcessStatus, to: ProcessStatus) -> bool {
        let process = self.process(process);
        let Some(current) = process.current.borrow().clone() else { return false };
        if *process.status.borrow() != from {
            return false;
        }
        if to == ProcessStatus::Frozen {
            self.inner().madsim.pause(current.node.id());
        } else {
            self.inner().madsim.resume(current.node.id());
        }
        *process.status.borrow_mut() = to;
        true
    }

    /// Cuts a machine's power: its processes end without a word to their peers, what was not synced is kept, lost or torn
    /// by chance, names that were not synced are undone by chance. Starting a process on it boots it again.
    pub fn power_loss(&self, machine: &str) {
        self.lose_power(&self.machine(machine), false);
    }

    /// Loses a machine: as [`World::power_loss`], and its disk is empty afterwards. A process started on it later runs on
    /// a new machine of the same name.
    pub fn lose_machine(&self, machine: &str) {
        self.lose_power(&self.machine(machine), true);
    }

    fn lose_power(&self, machine: &Rc<Machine>, wipe: bool) {
        machine.up.set(false);
        let processes: Vec<Rc<Process>> = self.inner().processes.borrow().values().cloned().collect();
        for process in processes.iter().filter(|process| Rc::ptr_eq(&process.machine, machine)) {
            self.end_process(process, ProcessStatus::Crashed, Farewell::Silence);
        }
        machine.disk.lose_power();
        if wipe {
            machine.disk.wipe();
        }
    }

    pub(crate) fn end_process(&self, process: &Process, status: ProcessStatus, farewell: Farewell) -> bool {
        let Some(incarnation) = process.current.borrow_mut().take() else { return false };
        // The fence. From here on nothing the process does has an effect.
        incarnation.alive.set(false);
        *process.status.borrow_mut() = status;
        incarnation.machine.disk.process_ended(self, &incarnation);
        self.store().process_ended(&incarnation);
        self.network().process_ended(self, &incarnation, farewell);
        // Resumed first, because a paused node would drop its tasks inside of madsim's locks.
        self.inner().madsim.resume(incarnation.node.id());
        self.inner().madsim.kill(incarnation.node.id());
        true
    }

    pub fn is_alive(&self, process: &str) -> bool {
        self.process(process).current.borrow().is_some()
    }

    /// How often the process was started.
    pub fn incarnation(&self, process: &str) -> u64 {
        self.process(process).incarnations.get()
    }

    pub fn status(&self, process: &str) -> ProcessStatus {
        self.process(process).status.borrow().clone()
    }

    /// The machine a process runs on.
    pub fn machine_of(&self, process: &str) -> String {
        self.process(process).machine.name.to_string()
    }

    /// The names of all processes, sorted.
    pub fn processes(&self) -> Vec<String> {
        self.inner().processes.borrow().keys().map(ToString::to_string).collect()
    }

    /// The names of all machines, sorted.
    pub fn machines(&self) -> Vec<String> {
        self.inner().machines.borrow().keys().map(ToString::to_string).collect()
    }

    pub(crate) fn process(&self, name: &str) -> Rc<Process> {
        let found = self.inner().processes.borrow().get(name).cloned();
        found.unwrap_or_else(|| panic!("there is no process {name:?}; there are {:?}", self.processes()))
    }

    pub(crate) fn machine(&self, name: &str) -> Rc<Machine> {
        let found = self.inner().machines.borrow().get(name).cloned();
        found.unwrap_or_else(|| panic!("there is no machine {name:?}; there are {:?}", self.machines()))
    }
}

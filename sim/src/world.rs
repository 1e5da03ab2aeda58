//! [`World`]: the handle through which a harness does everything. Its verbs are spread over the files of their subjects.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::Future,
    rc::Rc,
    sync::Arc,
    task::Waker,
    time::Duration,
};

use madsim::runtime::{Handle, NodeHandle};
use runtime::points::Point;

use crate::{
    config::WorldConfig,
    disk_control::SimDisk,
    entropy::Stream,
    event_queue::{Cancel, EventQueue, Pause},
    inputs::SimInputs,
    journal::Listener,
    native::Helper,
    network::Network,
    process::{Machine, Process, ProcessStatus},
    run::{FailureKind, RunPanic, panic_message},
    store::{SimStore, StoreState},
    time::SimTime,
    trace::{Recorder, Trace},
};

/// A simulated world. Cheap to clone; all clones are the same world.
#[derive(Clone)]
pub struct World(Rc<Inner>);

pub(crate) struct Inner {
    pub config: WorldConfig,
    /// Whence everything is drawn now; see [`crate::Reseed`].
    seed: Rc<Cell<u64>>,
    pub madsim: Handle,
    queue: EventQueue,
    pub machines: RefCell<BTreeMap<Arc<str>, Rc<Machine>>>,
    pub processes: RefCell<BTreeMap<Arc<str>, Rc<Process>>>,
    network: Network,
    store: Rc<RefCell<StoreState>>,
    inputs: SimInputs,
    pub recorder: RefCell<Recorder>,
    pub listener: RefCell<Option<Listener>>,
    /// How often each point was passed, by its place in the table.
    pub points: RefCell<[u64; Point::ALL.len()]>,
    pub helper: Helper,
    spawns: Cell<u64>,
    /// The nodes on which the harness and the driver of the queue run.
    pub own_nodes: RefCell<Vec<NodeHandle>>,
    pub ended: Cell<bool>,
    pub failure: RefCell<Option<RunPanic>>,
    pub at_end: RefCell<Option<AtEnd>>,
    pub end_waker: RefCell<Option<Waker>>,
}

/// What is known at the end of a run.
pub(crate) struct AtEnd {
    pub at: SimTime,
    pub events: u64,
    pub trace: Trace,
}

impl World {
    pub(crate) fn new(config: WorldConfig, madsim: Handle, time: madsim::time::TimeHandle, helper: Helper) -> World {
        let queue = EventQueue::new(time, SimTime::ZERO + config.time_limit);
        let network = Network::new(config.network.clone());
        let seed = Rc::new(Cell::new(config.seed));
        let store = StoreState::new(config.store.clone(), Stream::new(&seed, "store"));
        World(Rc::new(Inner {
            config,
            seed,
            madsim,
            queue,
            machines: RefCell::default(),
            processes: RefCell::default(),
            network,
            store,
            inputs: SimInputs::default(),
            recorder: RefCell::default(),
            listener: RefCell::default(),
            points: RefCell::new([0; Point::ALL.len()]),
            helper,
            spawns: Cell::new(0),
            own_nodes: RefCell::default(),
            ended: Cell::new(false),
            failure: RefCell::default(),
            at_end: RefCell::default(),
            end_waker: RefCell::default(),
        }))
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    pub(crate) fn queue(&self) -> &EventQueue {
        &self.0.queue
    }

    pub(crate) fn network(&self) -> &Network {
        &self.0.network
    }

    /// Runs something outside of the simulation, while time stands still: native code that must see real clocks and randomness.
    ///
    /// # Errors
    /// If it panicked.
    pub fn outside<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
        self.0.helper.value(job).map_err(|error| error.to_string())
    }

    pub fn now(&self) -> SimTime {
        self.0.queue.now()
    }

    pub fn seed(&self) -> u64 {
        self.0.config.seed
    }

    pub fn config(&self) -> &WorldConfig {
        &self.0.config
    }

    /// Lets simulated time pass.
    pub fn sleep(&self, d: Duration) -> impl Future<Output = ()> + 'static {
        self.sleep_until(self.now() + d)
    }

    pub fn sleep_until(&self, at: SimTime) -> impl Future<Output = ()> + 'static {
        Pause { world: self.clone(), until: at, key: None }
    }

    /// Calls `action` once `d` has passed, at least a nanosecond from now.
    pub fn after(&self, d: Duration, action: impl FnOnce(&World) + 'static) -> Cancel {
        let at = self.now() + d.max(Duration::from_nanos(1));
        Cancel { world: self.clone(), key: self.0.queue.call(at, action) }
    }

    /// The random stream `name`, from its beginning: asking twice gives the same numbers twice.
    pub fn rng(&self, name: &str) -> Stream {
        Stream::new(&self.0.seed, name)
    }

    /// Goes on under the other seed if `event` is the last that the configuration gives to the first.
    pub(crate) fn reseed_after(&self, event: u64) {
        let Some(reseed) = self.0.config.reseed.filter(|reseed| reseed.after_event == event) else { return };
        if self.0.seed.replace(reseed.seed) == reseed.seed {
            return;
        }
        // madsim, which picks the next task to run, cannot be seeded again. Somewhere else in its one long stream of
        // numbers is as good.
        for _ in 0..=reseed.seed % 1_021 {
            let _: u64 = madsim::rand::random();
        }
    }

    /// Shows every event of every process to `listener`, in place of the one set before.
    pub fn set_listener(&self, listener: Listener) {
        *self.0.listener.borrow_mut() = Some(listener);
    }

    /// The disk of a machine.
    pub fn disk(&self, machine: &str) -> SimDisk {
        SimDisk(self.machine(machine).disk.clone())
    }

    /// Primary storage.
    pub fn store(&self) -> SimStore {
        SimStore { world: self.clone(), state: self.0.store.clone() }
    }

    /// Input files.
    pub fn inputs(&self) -> SimInputs {
        self.0.inputs.clone()
    }

    /// How many events the processes have emitted so far.
    pub fn events(&self) -> u64 {
        self.0.recorder.borrow().events()
    }

    /// The points that the processes have passed so far, with how often.
    pub fn points(&self) -> BTreeMap<Point, u64> {
        let passed = self.0.points.borrow();
        Point::ALL.iter().copied().zip(*passed).filter(|(_, count)| *count > 0).collect()
    }

    /// madsim keeps a little of every task that ever was, until somebody asks how many there are.
    pub(crate) fn count_spawn(&self) {
        let spawns = self.0.spawns.get() + 1;
        self.0.spawns.set(spawns);
        if spawns.is_multiple_of(8_192) {
            self.0.madsim.metrics().num_tasks();
        }
    }

    pub(crate) fn fail_with_panic(&self, payload: &(dyn Any + Send)) {
        self.fail(FailureKind::Panic, panic_message(payload));
    }

    pub(crate) fn fail_with_time_limit(&self) {
        let limit = self.0.config.time_limit;
        self.fail(FailureKind::TimeLimit, format!("simulated time limit of {limit:?} reached"));
    }

    /// Something broke outside of any task: fails the run, unless it has failed already.
    pub(crate) fn fail_after_the_fact(&self, message: String) {
        self.fail(FailureKind::Panic, message);
    }

    fn fail(&self, kind: FailureKind, message: String) {
        self.0.failure.borrow_mut().get_or_insert(RunPanic { kind, message });
        self.end();
    }

    /// Ends the run at this instant: fences and kills every process, and the harness.
    pub(crate) fn end(&self) {
        if self.0.ended.replace(true) {
            return;
        }
        self.0.queue.stop();
        let mut recorder = self.0.recorder.borrow_mut();
        *self.0.at_end.borrow_mut() =
            Some(AtEnd { at: self.now(), events: recorder.events(), trace: recorder.trace() });
        drop(recorder);
        let processes: Vec<Rc<Process>> = self.0.processes.borrow().values().cloned().collect();
        for process in processes {
            self.end_process(&process, ProcessStatus::Crashed, crate::network::Farewell::Silence);
        }
        for node in self.0.own_nodes.take() {
            self.0.madsim.kill(node.id());
        }
        if let Some(waker) = self.0.end_waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Breaks all the circles of references, once no task is left.
    pub(crate) fn dissolve(&self) {
        self.0.listener.take();
        drop(self.0.queue.drain());
        self.store().dissolve();
        self.0.network.dissolve();
        let processes = self.0.processes.take();
        for process in processes.values() {
            process.current.take();
        }
        drop(processes);
        drop(self.0.machines.take());
    }
}

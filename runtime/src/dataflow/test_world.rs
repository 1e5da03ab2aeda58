//! A small world in memory for the tests of the data plane: one thread, time that moves when nothing else can, pipes for
//! connections, maps for stores. It records how many bytes each connection had in flight.

use std::{
    collections::{BTreeMap, VecDeque},
    future::{Future, poll_fn},
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::AtomicU64, atomic::Ordering::SeqCst},
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use futures::future::{BoxFuture, LocalBoxFuture};
use tokio::sync::mpsc;

use crate::{
    journal::{Event, Journal, JournalListener},
    platform::*,
};

// ---- time and tasks

#[derive(Default)]
pub struct FakeClock {
    now: AtomicU64,
    timers: Mutex<BTreeMap<(u64, u64), Waker>>,
    next_timer: AtomicU64,
}

struct FakeTimer {
    clock: Arc<FakeClock>,
    key: (u64, u64),
}

impl Future for FakeTimer {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.clock.now.load(SeqCst) >= self.key.0 {
            return Poll::Ready(());
        }
        self.clock.timers.lock().unwrap().insert(self.key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for FakeTimer {
    fn drop(&mut self) {
        self.clock.timers.lock().unwrap().remove(&self.key);
    }
}

struct ClockHandle(Arc<FakeClock>);

impl Clock for ClockHandle {
    fn now(&self) -> Mono {
        Mono(self.0.now.load(SeqCst))
    }
    fn wall(&self) -> Wall {
        Wall(self.0.now.load(SeqCst) / 1_000_000)
    }
    fn sleep_until(&self, deadline: Mono) -> Timer {
        let key = (deadline.0, self.0.next_timer.fetch_add(1, SeqCst));
        Box::pin(FakeTimer { clock: self.0.clone(), key })
    }
}

#[derive(Default)]
struct Executor {
    injected: Mutex<Vec<BoxFuture<'static, ()>>>,
    ready: Mutex<VecDeque<usize>>,
}

struct TaskWaker {
    executor: Arc<Executor>,
    task: usize,
    queued: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, SeqCst) {
            self.executor.ready.lock().unwrap().push_back(self.task);
        }
    }
}

struct FakeSpawner(Arc<Executor>);

impl Spawner for FakeSpawner {
    fn control(&self, _name: &str, body: BoxFuture<'static, ()>) -> Task {
        let (task, wrapped) = Task::wrap(body);
        self.0.injected.lock().unwrap().push(Box::pin(wrapped));
        task
    }
    fn worker(&self, _name: &str, _body: Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>) -> Task {
        panic!("tests run subtasks themselves")
    }
    fn native(&self, _op: NativeOp, call: Box<dyn FnOnce() + Send>) -> Fut<'static, Result<(), NativeError>> {
        call();
        Box::pin(async { Ok(()) })
    }
}

// ---- connections

#[derive(Default)]
struct Pipe {
    queue: VecDeque<Bytes>,
    closed: bool,
    reset: bool,
    receiver: Option<Waker>,
    /// Bytes of data payloads in flight now and at most.
    in_flight: usize,
    peak: usize,
}

#[derive(Default)]
pub struct Wire {
    forward: Mutex<Pipe>,
    backward: Mutex<Pipe>,
}

impl Wire {
    pub fn reset(&self) {
        for pipe in [&self.forward, &self.backward] {
            let mut pipe = pipe.lock().unwrap();
            pipe.reset = true;
            if let Some(w) = pipe.receiver.take() {
                w.wake();
            }
        }
    }
    pub fn peak_in_flight(&self) -> usize {
        self.forward.lock().unwrap().peak
    }
}

struct End {
    wire: Arc<Wire>,
    forward: bool,
}

impl End {
    fn pipe(&self) -> &Mutex<Pipe> {
        if self.forward { &self.wire.forward } else { &self.wire.backward }
    }
}

struct PipeSender(End);
struct PipeReceiver(End);

fn payload(frame: &Bytes) -> usize {
    if frame.first() == Some(&0) { frame.len().saturating_sub(5) } else { 0 }
}

impl FrameSender for PipeSender {
    fn poll_send(&mut self, _cx: &mut Context<'_>, queue: &mut VecDeque<Bytes>) -> Poll<Result<usize, NetError>> {
        let mut pipe = self.0.pipe().lock().unwrap();
        if pipe.reset {
            return Poll::Ready(Err(NetError::Reset));
        }
        let count = queue.len();
        for frame in queue.drain(..) {
            pipe.in_flight += payload(&frame);
            pipe.peak = pipe.peak.max(pipe.in_flight);
            pipe.queue.push_back(frame);
        }
        if let Some(w) = pipe.receiver.take() {
            w.wake();
        }
        Poll::Ready(Ok(count))
    }
}

impl Drop for PipeSender {
    fn drop(&mut self) {
        let mut pipe = self.0.pipe().lock().unwrap();
        pipe.closed = true;
        if let Some(w) = pipe.receiver.take() {
            w.wake();
        }
    }
}

impl FrameReceiver for PipeReceiver {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut VecDeque<Bytes>,
        max: usize,
    ) -> Poll<Result<usize, NetError>> {
        let mut pipe = self.0.pipe().lock().unwrap();
        if pipe.reset {
            return Poll::Ready(Err(NetError::Reset));
        }
        let mut count = 0;
        while count < max
            && let Some(frame) = pipe.queue.pop_front()
        {
            pipe.in_flight -= payload(&frame);
            out.push_back(frame);
            count += 1;
        }
        if count > 0 {
            Poll::Ready(Ok(count))
        } else if pipe.closed {
            Poll::Ready(Err(NetError::Closed))
        } else {
            pipe.receiver = Some(cx.waker().clone());
            Poll::Pending
        }
    }
}

/// Both ends of a new connection: the connecting one first.
pub fn pipe() -> (Connection, Connection, Arc<Wire>) {
    let wire = Arc::new(Wire::default());
    let end = |forward| End { wire: wire.clone(), forward };
    let near = Connection { sender: Box::new(PipeSender(end(true))), receiver: Box::new(PipeReceiver(end(false))) };
    let far = Connection { sender: Box::new(PipeSender(end(false))), receiver: Box::new(PipeReceiver(end(true))) };
    (near, far, wire)
}

#[derive(Default)]
pub struct FakeTransport {
    pub listening: Mutex<BTreeMap<Address, mpsc::UnboundedSender<Connection>>>,
    pub wires: Mutex<Vec<(String, Arc<Wire>)>>,
}

impl Transport for FakeTransport {
    fn listen(&self, _at: &Address) -> Fut<'_, Result<Box<dyn Listener>, NetError>> {
        Box::pin(async { Err(NetError::AddressInUse) })
    }
    fn connect(&self, to: &Address, label: &str, _by: Mono) -> Fut<'_, Result<Connection, NetError>> {
        let (near, far, wire) = pipe();
        let listening = self.listening.lock().unwrap().get(to).cloned();
        let accepted = listening.is_some_and(|l| l.send(far).is_ok());
        self.wires.lock().unwrap().push((label.to_string(), wire));
        Box::pin(async move { if accepted { Ok(near) } else { Err(NetError::Refused) } })
    }
}

// ---- stores

#[derive(Default)]
pub struct FakeStore {
    pub objects: Mutex<BTreeMap<ObjectName, Bytes>>,
    /// Creates whose name contains the text fail while the count lasts.
    pub failing: Mutex<Option<(String, u32)>>,
    /// Creates whose name contains the text wait as long as it is there; with those that wait.
    held: Mutex<(Option<String>, Vec<Waker>)>,
}

impl FakeStore {
    pub fn hold(&self, text: Option<&str>) {
        let mut held = self.held.lock().unwrap();
        held.0 = text.map(str::to_string);
        held.1.drain(..).for_each(Waker::wake);
    }

    fn poll_free(&self, name: &ObjectName, cx: &mut Context<'_>) -> Poll<()> {
        let mut held = self.held.lock().unwrap();
        if held.0.as_ref().is_none_or(|text| !name.as_str().contains(text.as_str())) {
            return Poll::Ready(());
        }
        held.1.push(cx.waker().clone());
        Poll::Pending
    }
}

impl PrimaryStorage for FakeStore {
    fn create(&self, name: &ObjectName, parts: Vec<Bytes>, _by: Mono) -> Fut<'_, Result<(), StoreError>> {
        if let Some((text, left)) = &mut *self.failing.lock().unwrap()
            && *left > 0
            && name.as_str().contains(text.as_str())
        {
            *left -= 1;
            return Box::pin(async { Err(StoreError::Permanent("planted".into())) });
        }
        let taken = self.objects.lock().unwrap().insert(name.clone(), Bytes::from(parts.concat())).is_some();
        let name = name.clone();
        Box::pin(async move {
            poll_fn(|cx| self.poll_free(&name, cx)).await;
            if taken { Err(StoreError::Exists) } else { Ok(()) }
        })
    }
    fn upload<'a>(&'a self, name: &ObjectName, _by: Mono) -> Fut<'a, Result<Box<dyn Upload + 'a>, StoreError>> {
        let upload = KeptUpload { store: self, name: name.clone(), pieces: Vec::new() };
        Box::pin(std::future::ready(Ok(Box::new(upload) as Box<dyn Upload + 'a>)))
    }
    fn unfinished(&self, _prefix: &str, _by: Mono) -> Fut<'_, Result<Vec<ObjectName>, StoreError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
    fn discard_unfinished(&self, _name: &ObjectName, _by: Mono) -> Fut<'_, Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn read(&self, name: &ObjectName, _range: Option<Range<u64>>, _by: Mono) -> Fut<'_, Result<Bytes, StoreError>> {
        let found = self.objects.lock().unwrap().get(name).cloned();
        Box::pin(async move { found.ok_or(StoreError::Absent) })
    }
    fn list(&self, _prefix: &str, _by: Mono) -> Fut<'_, Result<Vec<ObjectMeta>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn delete(&self, name: &ObjectName, _by: Mono) -> Fut<'_, Result<(), StoreError>> {
        self.objects.lock().unwrap().remove(name);
        Box::pin(async { Ok(()) })
    }
}

#[derive(Default)]
pub struct FakeInputs {
    pub files: Mutex<BTreeMap<String, Bytes>>,
    /// The next so many reads fail.
    pub failing: AtomicU64,
}

impl InputFiles for FakeInputs {
    fn length(&self, path: &str) -> Fut<'_, Result<u64, StoreError>> {
        let length = self.files.lock().unwrap().get(path).map(|b| b.len() as u64);
        Box::pin(async move { length.ok_or(StoreError::Absent) })
    }
    fn read(&self, path: &str, range: Range<u64>) -> Fut<'_, Result<Bytes, StoreError>> {
        if self.failing.load(SeqCst) > 0 {
            self.failing.fetch_sub(1, SeqCst);
            return Box::pin(async { Err(StoreError::Unavailable("planted".into())) });
        }
        let bytes = self.files.lock().unwrap().get(path).cloned();
        Box::pin(async move {
            let bytes = bytes.ok_or(StoreError::Absent)?;
            let cut = |at: u64| (at as usize).min(bytes.len());
            Ok(bytes.slice(cut(range.start)..cut(range.end)))
        })
    }
}

/// A disk on which nothing can be kept: local copies fail, and must not matter.
struct NoDisk;

impl LocalDisk for NoDisk {
    fn create_new(&self, path: &RelPath) -> Fut<'_, Result<Box<dyn DiskFile>, DiskError>> {
        let error = DiskError::NoSpace(path.clone());
        Box::pin(async { Err(error) })
    }
    fn read(&self, path: &RelPath, _range: Option<Range<u64>>) -> Fut<'_, Result<Bytes, DiskError>> {
        let error = DiskError::NotFound(path.clone());
        Box::pin(async { Err(error) })
    }
    fn length(&self, path: &RelPath) -> Fut<'_, Result<u64, DiskError>> {
        let error = DiskError::NotFound(path.clone());
        Box::pin(async { Err(error) })
    }
    fn rename(&self, from: &RelPath, _to: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        let error = DiskError::NotFound(from.clone());
        Box::pin(async { Err(error) })
    }
    fn link(&self, from: &RelPath, _to: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        let error = DiskError::NotFound(from.clone());
        Box::pin(async { Err(error) })
    }
    fn remove(&self, path: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        let error = DiskError::NotFound(path.clone());
        Box::pin(async { Err(error) })
    }
    fn remove_tree(&self, _path: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        Box::pin(async { Ok(()) })
    }
    fn sync_dir(&self, _path: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        Box::pin(async { Ok(()) })
    }
    fn list(&self, _path: &RelPath) -> Fut<'_, Result<Vec<String>, DiskError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn device_of(&self, _path: &RelPath) -> Fut<'_, Result<DeviceId, DiskError>> {
        Box::pin(async { Ok(DeviceId(0)) })
    }
    fn native_dir(&self) -> Fut<'_, Result<NativeDir, DiskError>> {
        Box::pin(async { Err(DiskError::Dead) })
    }
    fn adopt(
        &self,
        _from: &NativeDir,
        _subdirectory: &str,
        _files: &[String],
        _to: &RelPath,
    ) -> Fut<'_, Result<Vec<Linked>, DiskError>> {
        Box::pin(async { Err(DiskError::Dead) })
    }
    fn materialize(
        &self,
        _from: &RelPath,
        _to: &NativeDir,
        _subdirectory: &str,
        _file: &str,
    ) -> Fut<'_, Result<AdoptMethod, DiskError>> {
        Box::pin(async { Err(DiskError::Dead) })
    }
    fn list_native(&self, _: &NativeDir, _: &str) -> Fut<'_, Result<Vec<String>, DiskError>> {
        Box::pin(async { Err(DiskError::Dead) })
    }
    fn native_length(&self, _: &NativeDir, _: &str, _: &str) -> Fut<'_, Result<u64, DiskError>> {
        Box::pin(async { Err(DiskError::Dead) })
    }
    fn read_native(&self, _: &NativeDir, _: &str, _: &str, _: Range<u64>) -> Fut<'_, Result<Bytes, DiskError>> {
        Box::pin(async { Err(DiskError::Dead) })
    }
    fn create_native(&self, _: &NativeDir, _: &str, _: &str) -> Fut<'_, Result<Box<dyn DiskFile>, DiskError>> {
        Box::pin(async { Err(DiskError::Dead) })
    }
    fn remove_native(&self, _: &NativeDir, _: &str) -> Fut<'_, Result<(), DiskError>> {
        Box::pin(async { Err(DiskError::Dead) })
    }
}

#[derive(Default)]
struct Counter(AtomicU64);

impl Entropy for Counter {
    fn next_u64(&self, _stream: &'static str) -> u64 {
        self.0.fetch_add(1, SeqCst)
    }
}

#[derive(Default)]
struct Listener_(Mutex<Vec<Event>>);

impl JournalListener for Listener_ {
    fn on_event(&self, _process: &str, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

// ---- the world

pub struct TestWorld {
    pub platform: Platform,
    pub transport: Arc<FakeTransport>,
    pub store: Arc<FakeStore>,
    pub inputs: Arc<FakeInputs>,
    clock: Arc<FakeClock>,
    executor: Arc<Executor>,
    tasks: Vec<Option<(LocalBoxFuture<'static, ()>, Arc<TaskWaker>)>>,
    events: Arc<Listener_>,
}

impl TestWorld {
    pub fn new() -> TestWorld {
        let clock = Arc::new(FakeClock::default());
        let executor = Arc::new(Executor::default());
        let transport = Arc::new(FakeTransport::default());
        let store = Arc::new(FakeStore::default());
        let inputs = Arc::new(FakeInputs::default());
        let events = Arc::new(Listener_::default());
        let platform = Platform {
            process: "tm-1".into(),
            clock: Arc::new(ClockHandle(clock.clone())),
            spawner: Arc::new(FakeSpawner(executor.clone())),
            transport: transport.clone(),
            disk: Arc::new(NoDisk),
            primary: store.clone(),
            inputs: inputs.clone(),
            entropy: Arc::new(Counter::default()),
            memory: Arc::new(crate::platform::MemoryMeter::default()),
            journal: Journal::new("tm-1", 0, Some(events.clone())),
        };
        TestWorld { platform, transport, store, inputs, clock, executor, tasks: Vec::new(), events }
    }

    pub fn spawn(&mut self, body: impl Future<Output = ()> + 'static) {
        self.add(Box::pin(body));
    }

    fn add(&mut self, body: LocalBoxFuture<'static, ()>) {
        let task = self.tasks.len();
        let waker = Arc::new(TaskWaker { executor: self.executor.clone(), task, queued: AtomicBool::new(false) });
        waker.clone().wake();
        self.tasks.push(Some((body, waker)));
    }

    /// Polls one task, or moves time. False if neither is possible.
    fn step(&mut self) -> bool {
        let injected = std::mem::take(&mut *self.executor.injected.lock().unwrap());
        for body in injected {
            self.add(body);
        }
        let next = self.executor.ready.lock().unwrap().pop_front();
        if let Some(task) = next {
            if let Some((mut body, waker)) = self.tasks[task].take() {
                waker.queued.store(false, SeqCst);
                if body.as_mut().poll(&mut Context::from_waker(&waker.clone().into())).is_pending() {
                    self.tasks[task] = Some((body, waker));
                }
            }
            return true;
        }
        let timer = self.clock.timers.lock().unwrap().pop_first();
        match timer {
            Some(((at, _), waker)) => {
                self.clock.now.fetch_max(at, SeqCst);
                waker.wake();
                true
            }
            None => false,
        }
    }

    /// Runs until `done`, which is asked after every step. Panics when nothing moves any more, or nothing comes of it.
    pub fn run_until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        for _ in 0..200_000 {
            if done() {
                return;
            }
            assert!(self.step(), "nothing moves any more; waiting for {what}");
        }
        panic!("still waiting for {what}");
    }

    /// Runs so many steps, or until time would have to move.
    pub fn run_at_this_time(&mut self, steps: usize) {
        for _ in 0..steps {
            let waiting =
                self.executor.injected.lock().unwrap().is_empty() && self.executor.ready.lock().unwrap().is_empty();
            if waiting || !self.step() {
                return;
            }
        }
    }

    /// Runs a fixed number of steps, or until nothing moves.
    pub fn run_steps(&mut self, steps: usize) {
        for _ in 0..steps {
            if !self.step() {
                return;
            }
        }
    }

    pub fn now(&self) -> Mono {
        self.platform.clock.now()
    }

    pub fn events(&self) -> Vec<Event> {
        self.events.0.lock().unwrap().clone()
    }

    /// The largest number of payload bytes in flight on any connection.
    pub fn peak_in_flight(&self) -> usize {
        self.transport.wires.lock().unwrap().iter().map(|(_, w)| w.peak_in_flight()).max().unwrap_or(0)
    }
}

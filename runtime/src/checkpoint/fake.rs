//! A small world in memory for the tests of this crate's shells: one thread, virtual time, a store and a disk with faults.
//! Nothing in it is random.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "native code works in real directories")]

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    ops::Range,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures::future::{BoxFuture, LocalBoxFuture};

use crate::{
    journal::{Event, Journal, JournalListener},
    platform::*,
};

/// What goes wrong with a matching operation, `count` times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An error, without the effect.
    Before,
    /// The effect, and then an error that leaves the outcome open.
    After,
    /// Neither effect nor answer for ten seconds, then an open outcome.
    Silent,
    /// Creates only: overwrites what is there.
    Overwrites,
    /// Reads only: half of the bytes.
    Short,
    /// Reads only: one bit differs.
    Flipped,
}

pub struct Fault {
    pub operation: &'static str,
    pub contains: String,
    pub kind: Kind,
    pub count: u32,
}

#[derive(Default)]
struct State {
    now: Mono,
    timers: BTreeMap<(Mono, u64), Waker>,
    tasks: VecDeque<BoxFuture<'static, ()>>,
    objects: BTreeMap<ObjectName, Bytes>,
    files: BTreeMap<RelPath, Vec<u8>>,
    store_faults: Vec<Fault>,
    disk_faults: Vec<Fault>,
    store_latency: Duration,
    disk_latency: Duration,
    events: Vec<Event>,
    operations: Vec<String>,
}

impl State {
    fn fault(faults: &mut [Fault], operation: &str, name: &str) -> Option<Kind> {
        let fault =
            faults.iter_mut().find(|f| f.count > 0 && f.operation == operation && name.contains(&f.contains))?;
        fault.count -= 1;
        Some(fault.kind)
    }
}

#[derive(Clone, Default)]
pub struct World {
    state: Arc<Mutex<State>>,
    numbers: Arc<AtomicU64>,
}

struct Flag(AtomicBool);
impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl World {
    pub fn platform(&self, process: &str) -> Platform {
        Platform {
            process: process.into(),
            clock: Arc::new(self.clone()),
            spawner: Arc::new(self.clone()),
            transport: Arc::new(self.clone()),
            disk: Arc::new(self.clone()),
            primary: Arc::new(self.clone()),
            inputs: Arc::new(self.clone()),
            entropy: Arc::new(self.clone()),
            memory: Arc::new(crate::platform::MemoryMeter::default()),
            journal: Journal::new(process, 0, Some(Arc::new(self.clone()))),
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap())
    }

    /// Runs `main` and everything it spawned until `main` is done and nothing else can go on without time passing.
    pub fn run<T>(&self, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        let mut result = None;
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(flag.clone());
        let mut context = Context::from_waker(&waker);
        loop {
            flag.0.store(false, Ordering::SeqCst);
            if result.is_none()
                && let Poll::Ready(value) = main.as_mut().poll(&mut context)
            {
                result = Some(value);
            }
            for _ in 0..self.with(|s| s.tasks.len()) {
                let Some(mut task) = self.with(|s| s.tasks.pop_front()) else { break };
                if task.as_mut().poll(&mut context).is_pending() {
                    self.with(|s| s.tasks.push_back(task));
                }
            }
            if flag.0.load(Ordering::SeqCst) || (result.is_none() && self.with(|s| s.timers.is_empty())) {
                assert!(flag.0.load(Ordering::SeqCst), "nothing can go on");
                continue;
            }
            if let Some(value) = result.take_if(|_| self.with(|s| s.tasks.is_empty())) {
                return value;
            }
            let woken = self.with(|s| {
                let ((at, _), waker) = s.timers.pop_first()?;
                s.now = s.now.max(at);
                Some(waker)
            });
            match woken {
                Some(waker) => waker.wake(),
                None => return result.expect("nothing can go on"),
            }
        }
    }

    pub fn now(&self) -> Mono {
        self.with(|s| s.now)
    }

    pub fn store_fault(&self, operation: &'static str, contains: &str, kind: Kind, count: u32) {
        let contains = contains.to_string();
        self.with(|s| s.store_faults.push(Fault { operation, contains, kind, count }));
    }

    pub fn disk_fault(&self, operation: &'static str, contains: &str, kind: Kind, count: u32) {
        let contains = contains.to_string();
        self.with(|s| s.disk_faults.push(Fault { operation, contains, kind, count }));
    }

    pub fn heal(&self) {
        self.with(|s| {
            s.store_faults.clear();
            s.disk_faults.clear();
        });
    }

    pub fn set_latency(&self, store: Duration, disk: Duration) {
        self.with(|s| (s.store_latency, s.disk_latency) = (store, disk));
    }

    pub fn objects(&self) -> BTreeMap<ObjectName, Bytes> {
        self.with(|s| s.objects.clone())
    }

    pub fn put_object(&self, name: &ObjectName, bytes: impl Into<Bytes>) {
        self.with(|s| s.objects.insert(name.clone(), bytes.into()));
    }

    pub fn lose_object(&self, name: &ObjectName) {
        self.with(|s| s.objects.remove(name));
    }

    pub fn files(&self) -> BTreeMap<RelPath, Vec<u8>> {
        self.with(|s| s.files.clone())
    }

    pub fn edit_file(&self, contains: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        self.with(|s| {
            let file = s.files.iter_mut().find(|(path, _)| path.as_str().contains(contains));
            edit(file.expect("no such file").1);
        });
    }

    pub fn remove_file(&self, contains: &str) {
        self.with(|s| s.files.retain(|path, _| !path.as_str().contains(contains)));
    }

    pub fn events(&self) -> Vec<Event> {
        self.with(|s| s.events.clone())
    }

    /// Names of the operations on the store, with their objects, so far.
    pub fn operations(&self) -> Vec<String> {
        self.with(|s| s.operations.clone())
    }

    fn sleep_for(&self, d: Duration) -> Timer {
        if d.is_zero() { Box::pin(std::future::ready(())) } else { self.sleep_until(self.now() + d) }
    }

    fn store_operation<T: Send + 'static>(
        &self,
        operation: &'static str,
        name: &str,
        effect: impl FnOnce(&mut State, Option<Kind>) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let world = self.clone();
        let name = name.to_string();
        Box::pin(async move {
            world.sleep_for(world.with(|s| s.store_latency)).await;
            let fault = world.with(|s| {
                s.operations.push(format!("{operation} {name}"));
                State::fault(&mut s.store_faults, operation, &name)
            });
            match fault {
                Some(Kind::Before) => Err(StoreError::Unavailable("injected".into())),
                Some(Kind::Silent) => {
                    world.sleep_for(Duration::from_secs(10)).await;
                    Err(StoreError::Ambiguous)
                }
                Some(Kind::After) => {
                    let _ = world.with(|s| effect(s, None));
                    Err(StoreError::Ambiguous)
                }
                other => world.with(|s| effect(s, other)),
            }
        })
    }

    fn disk_operation<T: Send + 'static>(
        &self,
        operation: &'static str,
        path: &RelPath,
        effect: impl FnOnce(&mut State) -> Result<T, DiskError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, DiskError>> {
        let world = self.clone();
        let path = path.clone();
        Box::pin(async move {
            world.sleep_for(world.with(|s| s.disk_latency)).await;
            match world.with(|s| State::fault(&mut s.disk_faults, operation, path.as_str())) {
                Some(Kind::Silent) => {
                    world.sleep_for(Duration::from_secs(3600)).await;
                    Err(DiskError::Io { path, detail: "injected".into() })
                }
                Some(_) => Err(DiskError::NoSpace(path)),
                None => world.with(effect),
            }
        })
    }
}

impl JournalListener for World {
    fn on_event(&self, _process: &str, event: &Event) {
        self.with(|s| s.events.push(event.clone()));
    }
}

struct Sleep {
    world: World,
    at: Mono,
    key: Option<(Mono, u64)>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.world.now() >= self.at {
            return Poll::Ready(());
        }
        let at = self.at;
        let number = match self.key {
            Some((_, number)) => number,
            None => self.world.numbers.fetch_add(1, Ordering::SeqCst),
        };
        let key = (at, number);
        self.key = Some(key);
        self.world.with(|s| s.timers.insert(key, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.world.with(|s| s.timers.remove(&key));
        }
    }
}

impl Clock for World {
    fn now(&self) -> Mono {
        World::now(self)
    }
    fn wall(&self) -> Wall {
        Wall(World::now(self).0 / 1_000_000)
    }
    fn sleep_until(&self, deadline: Mono) -> Timer {
        Box::pin(Sleep { world: self.clone(), at: deadline, key: None })
    }
}

impl Entropy for World {
    fn next_u64(&self, _stream: &'static str) -> u64 {
        self.numbers.fetch_add(1, Ordering::SeqCst)
    }
}

impl Spawner for World {
    fn control(&self, _name: &str, body: BoxFuture<'static, ()>) -> Task {
        let (task, body) = Task::wrap(body);
        self.with(|s| s.tasks.push_back(Box::pin(body)));
        task
    }
    fn worker(&self, _name: &str, _body: Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>) -> Task {
        unreachable!("no subtasks here")
    }
    fn native(&self, _op: NativeOp, call: Box<dyn FnOnce() + Send>) -> Fut<'static, Result<(), NativeError>> {
        call();
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Transport for World {
    fn listen(&self, _at: &Address) -> Fut<'_, Result<Box<dyn Listener>, NetError>> {
        Box::pin(std::future::ready(Err(NetError::Refused)))
    }
    fn connect(&self, _to: &Address, _label: &str, _by: Mono) -> Fut<'_, Result<Connection, NetError>> {
        Box::pin(std::future::ready(Err(NetError::Refused)))
    }
}

impl InputFiles for World {
    fn length(&self, _path: &str) -> Fut<'_, Result<u64, StoreError>> {
        Box::pin(std::future::ready(Err(StoreError::Absent)))
    }
    fn read(&self, _path: &str, _range: Range<u64>) -> Fut<'_, Result<Bytes, StoreError>> {
        Box::pin(std::future::ready(Err(StoreError::Absent)))
    }
}

impl PrimaryStorage for World {
    fn create(&self, name: &ObjectName, parts: Vec<Bytes>, _by: Mono) -> Fut<'_, Result<(), StoreError>> {
        let object = name.clone();
        self.store_operation("create", name.as_str(), move |s, fault| {
            if s.objects.contains_key(&object) && fault != Some(Kind::Overwrites) {
                return Err(StoreError::Exists);
            }
            s.objects.insert(object, parts.concat().into());
            Ok(())
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
    fn read(&self, name: &ObjectName, range: Option<Range<u64>>, _by: Mono) -> Fut<'_, Result<Bytes, StoreError>> {
        let object = name.clone();
        self.store_operation("read", name.as_str(), move |s, fault| {
            let bytes = s.objects.get(&object).ok_or(StoreError::Absent)?;
            let range = range.unwrap_or(0..u64::MAX);
            let end = (range.end as usize).min(bytes.len());
            let bytes = bytes.slice((range.start as usize).min(end)..end);
            Ok(match fault {
                Some(Kind::Short) => bytes.slice(..bytes.len() / 2),
                Some(Kind::Flipped) => {
                    let mut flipped = bytes.to_vec();
                    if let Some(last) = flipped.last_mut() {
                        *last ^= 1;
                    }
                    flipped.into()
                }
                _ => bytes,
            })
        })
    }
    fn list(&self, prefix: &str, _by: Mono) -> Fut<'_, Result<Vec<ObjectMeta>, StoreError>> {
        let wanted = prefix.to_string();
        self.store_operation("list", prefix, move |s, _| {
            let found = s.objects.iter().filter(|(name, _)| name.as_str().starts_with(&wanted));
            Ok(found.map(|(name, b)| ObjectMeta { name: name.clone(), length: b.len() as u64 }).collect())
        })
    }
    fn delete(&self, name: &ObjectName, _by: Mono) -> Fut<'_, Result<(), StoreError>> {
        let object = name.clone();
        self.store_operation("delete", name.as_str(), move |s, _| {
            s.objects.remove(&object);
            Ok(())
        })
    }
}

struct File {
    world: World,
    path: RelPath,
}

impl DiskFile for File {
    fn append(&mut self, bytes: Bytes) -> Fut<'_, Result<(), DiskError>> {
        let path = self.path.clone();
        self.world.disk_operation("append", &self.path, move |s| {
            s.files.get_mut(&path).ok_or(DiskError::NotFound(path))?.extend_from_slice(&bytes);
            Ok(())
        })
    }
    fn sync(&mut self) -> Fut<'_, Result<(), DiskError>> {
        self.world.disk_operation("sync", &self.path, |_| Ok(()))
    }
}

impl LocalDisk for World {
    fn create_new(&self, path: &RelPath) -> Fut<'_, Result<Box<dyn DiskFile>, DiskError>> {
        let (world, file) = (self.clone(), path.clone());
        self.disk_operation("create", path, move |s| {
            if s.files.contains_key(&file) {
                return Err(DiskError::Exists(file));
            }
            s.files.insert(file.clone(), Vec::new());
            Ok(Box::new(File { world, path: file }) as Box<dyn DiskFile>)
        })
    }
    fn read(&self, path: &RelPath, range: Option<Range<u64>>) -> Fut<'_, Result<Bytes, DiskError>> {
        assert!(range.is_none(), "not needed here");
        let file = path.clone();
        self.disk_operation("read", path, move |s| {
            s.files.get(&file).map(|b| b.clone().into()).ok_or(DiskError::NotFound(file))
        })
    }
    fn length(&self, path: &RelPath) -> Fut<'_, Result<u64, DiskError>> {
        let file = path.clone();
        self.disk_operation("length", path, move |s| {
            s.files.get(&file).map(|b| b.len() as u64).ok_or(DiskError::NotFound(file))
        })
    }
    fn rename(&self, from: &RelPath, to: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        let (old, new) = (from.clone(), to.clone());
        self.disk_operation("rename", from, move |s| {
            let bytes = s.files.remove(&old).ok_or(DiskError::NotFound(old))?;
            s.files.insert(new, bytes);
            Ok(())
        })
    }
    fn link(&self, from: &RelPath, _to: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        self.disk_operation("link", from, |_| Ok(()))
    }
    fn remove(&self, path: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        let file = path.clone();
        self.disk_operation("remove", path, move |s| s.files.remove(&file).map(|_| ()).ok_or(DiskError::NotFound(file)))
    }
    fn remove_tree(&self, path: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        let directory = path.clone();
        self.disk_operation("remove_tree", path, move |s| {
            s.files.retain(|file, _| !file.starts_with(&directory));
            Ok(())
        })
    }
    fn sync_dir(&self, path: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        self.disk_operation("sync_dir", path, |_| Ok(()))
    }
    fn list(&self, path: &RelPath) -> Fut<'_, Result<Vec<String>, DiskError>> {
        let prefix = format!("{path}/");
        self.disk_operation("list", path, move |s| {
            let below = s.files.keys().filter_map(|f| f.as_str().strip_prefix(&prefix));
            let mut names: Vec<_> = below.filter_map(|f| f.split('/').next()).map(String::from).collect();
            names.dedup();
            Ok(names)
        })
    }
    fn device_of(&self, path: &RelPath) -> Fut<'_, Result<DeviceId, DiskError>> {
        self.disk_operation("device", path, |_| Ok(DeviceId(0)))
    }
    fn native_dir(&self) -> Fut<'_, Result<NativeDir, DiskError>> {
        let directory = NativeDir(Arc::new(tempfile::tempdir().unwrap()));
        Box::pin(std::future::ready(Ok(directory)))
    }
    fn adopt(
        &self,
        from: &NativeDir,
        subdirectory: &str,
        files: &[String],
        to: &RelPath,
    ) -> Fut<'_, Result<Vec<Linked>, DiskError>> {
        let source = from.path().join(subdirectory);
        let (files, target) = (files.to_vec(), to.clone());
        self.disk_operation("adopt", to, move |s| {
            let mut linked = Vec::new();
            for name in files {
                let bytes = std::fs::read(source.join(&name)).unwrap();
                let (length, method) = (bytes.len() as u64, AdoptMethod::Copy);
                s.files.insert(target.join(&name), bytes);
                linked.push(Linked { name, length, method });
            }
            Ok(linked)
        })
    }
    fn materialize(
        &self,
        from: &RelPath,
        to: &NativeDir,
        subdirectory: &str,
        file: &str,
    ) -> Fut<'_, Result<AdoptMethod, DiskError>> {
        let (source, directory, file) = (from.clone(), to.path().join(subdirectory), file.to_string());
        self.disk_operation("materialize", from, move |s| {
            let bytes = s.files.get(&source).ok_or(DiskError::NotFound(source))?;
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join(file), bytes).unwrap();
            Ok(AdoptMethod::Copy)
        })
    }
    fn list_native(&self, from: &NativeDir, subdirectory: &str) -> Fut<'_, Result<Vec<String>, DiskError>> {
        let entries = std::fs::read_dir(from.path().join(subdirectory)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        Box::pin(std::future::ready(Ok(names)))
    }
    fn native_length(&self, from: &NativeDir, subdirectory: &str, file: &str) -> Fut<'_, Result<u64, DiskError>> {
        let length = std::fs::metadata(from.path().join(subdirectory).join(file)).unwrap().len();
        Box::pin(std::future::ready(Ok(length)))
    }
    fn read_native(
        &self,
        from: &NativeDir,
        subdirectory: &str,
        file: &str,
        range: Range<u64>,
    ) -> Fut<'_, Result<Bytes, DiskError>> {
        let bytes = Bytes::from(std::fs::read(from.path().join(subdirectory).join(file)).unwrap());
        Box::pin(std::future::ready(Ok(bytes.slice(range.start as usize..range.end as usize))))
    }
    fn create_native(
        &self,
        to: &NativeDir,
        subdirectory: &str,
        file: &str,
    ) -> Fut<'_, Result<Box<dyn DiskFile>, DiskError>> {
        let directory = to.path().join(subdirectory);
        std::fs::create_dir_all(&directory).unwrap();
        let file = std::fs::File::create(directory.join(file)).unwrap();
        Box::pin(std::future::ready(Ok(Box::new(NativeFile(file)) as Box<dyn DiskFile>)))
    }
    fn remove_native(&self, from: &NativeDir, subdirectory: &str) -> Fut<'_, Result<(), DiskError>> {
        // What was never made is gone as well.
        let _ = std::fs::remove_dir_all(from.path().join(subdirectory));
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A file for native code, which is a real one.
struct NativeFile(std::fs::File);

impl DiskFile for NativeFile {
    fn append(&mut self, bytes: Bytes) -> Fut<'_, Result<(), DiskError>> {
        std::io::Write::write_all(&mut self.0, &bytes).unwrap();
        Box::pin(std::future::ready(Ok(())))
    }
    fn sync(&mut self) -> Fut<'_, Result<(), DiskError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

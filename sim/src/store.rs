//! Primary storage: its objects, its log, its faults.
//!
//! A request travels to the store, has its effect there at one instant, and the answer travels back. A client gives up at
//! its deadline and then does not know; the request goes on all the same. When a process ends, each of its requests that
//! change something and have not arrived yet is settled by chance: lost, arriving when it would have, or held up
//! somewhere and arriving up to a second later. So a process can change the store after its death; that is on
//! purpose (a zombie's write), and what the runtime's fencing is for. The log shows all of it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rand::RngExt;
use runtime::platform::{ObjectMeta, ObjectName, StoreError};
use serde::{Deserialize, Serialize};

use crate::{
    config::StoreConfig,
    entropy::Stream,
    event_queue::EventKey,
    process::Incarnation,
    time::{SimTime, nanos, transfer_nanos},
    world::World,
};

/// Names an injected fault of the disk or the store it was injected into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FaultId(pub(crate) usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StoreOperation {
    /// Of an object at once, or of what was uploaded in pieces.
    Create,
    /// Beginning an upload, one piece of it, giving it up.
    Upload,
    /// Of an object's bytes.
    Read,
    /// Also of unfinished uploads.
    List,
    /// Also of unfinished uploads.
    Delete,
}

impl StoreOperation {
    pub(crate) fn changes_something(self) -> bool {
        matches!(self, StoreOperation::Create | StoreOperation::Upload | StoreOperation::Delete)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreFaultKind {
    /// No effect, and the client is told so.
    ErrorBefore,
    /// The effect happens, and the connection breaks before the answer: ambiguous to the client.
    ErrorAfter,
    /// No effect, and no answer until the client gives up.
    TimeoutBefore,
    /// The effect happens, and no answer comes until the client gives up.
    TimeoutAfter,
    /// The request is held up for this long before it has its effect.
    Delayed(Duration),
    /// No effect; come back later.
    Throttled(Duration),
    Denied,
    Permanent,
    /// A read gives fewer bytes than wanted (at least one, if any).
    ShortRead,
    /// A read gives bytes of which one bit is wrong, any; the object itself is whole.
    CorruptRead,
}

/// Requests that will go wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreFault {
    /// None for any.
    pub operation: Option<StoreOperation>,
    /// Only for names (or listed prefixes) that contain this.
    pub name_contains: String,
    pub kind: StoreFaultKind,
    /// How often.
    pub count: u32,
}

/// What a request, or the harness, did to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    Created,
    /// A create found the name taken.
    Refused,
    Deleted,
    /// A delete found nothing.
    NothingToDelete,
    /// The harness lost the object.
    Lost,
    /// The harness corrupted the object.
    Corrupted,
    /// A deleted object that lingered is gone.
    Faded,
    /// A read gave bytes of which one bit was wrong; the object itself is whole.
    Misread,
    /// A read found the object; `length` is what was read of it. Told to subscribers and counted, not logged.
    Read,
}

/// An entry of the store's log. Lists, and reads that give what is there, are not logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreEffect {
    pub at: SimTime,
    pub name: ObjectName,
    pub length: u64,
    /// Who asked for it; empty for the harness.
    pub process: Arc<str>,
    pub incarnation: u64,
    /// Whether that incarnation was alive when it happened.
    pub alive: bool,
    pub effect: Effect,
}

fn no_upload() -> StoreError {
    StoreError::Permanent("there is no such upload: it was given up, or discarded".to_string())
}

type Subscriber = Rc<dyn Fn(&World, &StoreEffect)>;

pub(crate) struct Request {
    pub process: Arc<str>,
    pub incarnation: u64,
    pub operation: StoreOperation,
    pub event: EventKey,
}

struct Armed {
    fault: StoreFault,
    fired: u32,
}

/// An object that is being uploaded in pieces.
struct Unfinished {
    name: ObjectName,
    pieces: Vec<Bytes>,
}

pub(crate) struct StoreState {
    pub config: StoreConfig,
    pub rng: Stream,
    objects: BTreeMap<ObjectName, Bytes>,
    uploads: BTreeMap<u64, Unfinished>,
    next_upload: u64,
    log: Vec<StoreEffect>,
    /// Until when each process's link to the store is taken, in nanoseconds; true: what it sends.
    links: BTreeMap<(Arc<str>, bool), u64>,
    /// Bytes that each process has read of each object.
    reads: BTreeMap<(Arc<str>, ObjectName), u64>,
    faults: Vec<Armed>,
    outage_until: SimTime,
    /// How long a deleted object can still be seen.
    linger: Duration,
    /// Deleted objects that can still be seen.
    lingering: BTreeSet<ObjectName>,
    /// Requests that have not arrived yet.
    pub under_way: BTreeMap<u64, Request>,
    pub next_request: u64,
    subscribers: Vec<Subscriber>,
}

/// Primary storage, seen from outside. Nothing here takes simulated time.
#[derive(Clone)]
pub struct SimStore {
    pub(crate) world: World,
    pub(crate) state: Rc<RefCell<StoreState>>,
}

impl StoreState {
    pub fn new(config: StoreConfig, rng: Stream) -> Rc<RefCell<StoreState>> {
        Rc::new(RefCell::new(StoreState {
            config,
            rng,
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
            next_upload: 0,
            log: Vec::new(),
            links: BTreeMap::new(),
            reads: BTreeMap::new(),
            faults: Vec::new(),
            outage_until: SimTime::ZERO,
            linger: Duration::ZERO,
            lingering: BTreeSet::new(),
            under_way: BTreeMap::new(),
            next_request: 0,
            subscribers: Vec::new(),
        }))
    }
}

impl StoreState {
    /// When `bytes` that are there at `from` have passed the link of `process`.
    pub(crate) fn over_link(&mut self, process: &Arc<str>, sends: bool, from: u64, bytes: u64) -> u64 {
        let rate = self.config.link_bytes_per_second;
        if rate == 0 {
            return from;
        }
        let taken_until = self.links.entry((process.clone(), sends)).or_default();
        *taken_until = (*taken_until).max(from).saturating_add(transfer_nanos(bytes, rate));
        *taken_until
    }
}

impl SimStore {
    /// All objects whose name starts with `prefix`, sorted.
    pub fn list(&self, prefix: &str) -> Vec<ObjectMeta> {
        let state = self.state.borrow();
        let matching = state.objects.iter().filter(|(name, _)| name.as_str().starts_with(prefix));
        matching.map(|(name, bytes)| ObjectMeta { name: name.clone(), length: bytes.len() as u64 }).collect()
    }

    pub fn peek(&self, name: &ObjectName) -> Option<Bytes> {
        self.state.borrow().objects.get(name).cloned()
    }

    /// Names that start with `prefix` of objects that were begun in pieces and neither finished nor given up, sorted, each once.
    pub fn unfinished(&self, prefix: &str) -> Vec<ObjectName> {
        let state = self.state.borrow();
        let names: BTreeSet<_> = state.uploads.values().map(|u| &u.name).collect();
        names.into_iter().filter(|name| name.as_str().starts_with(prefix)).cloned().collect()
    }

    /// Puts an object there, for a set-up; not logged. It replaces what was there.
    pub fn put(&self, name: &ObjectName, bytes: impl Into<Bytes>) {
        self.state.borrow_mut().objects.insert(name.clone(), bytes.into());
    }

    /// Loses an object. False if there is none.
    pub fn lose(&self, name: &ObjectName) -> bool {
        let removed = {
            let mut state = self.state.borrow_mut();
            state.lingering.remove(name);
            state.objects.remove(name)
        };
        let Some(bytes) = removed else { return false };
        self.note(None, name, bytes.len() as u64, Effect::Lost);
        true
    }

    /// Flips the bits of a byte in the middle of an object. False if there is none, or it is empty.
    pub fn corrupt(&self, name: &ObjectName) -> bool {
        let length = {
            let mut state = self.state.borrow_mut();
            let Some(bytes) = state.objects.get_mut(name).filter(|bytes| !bytes.is_empty()) else { return false };
            let mut changed = bytes.to_vec();
            let middle = changed.len() / 2;
            changed[middle] ^= 0xff;
            *bytes = changed.into();
            bytes.len() as u64
        };
        self.note(None, name, length, Effect::Corrupted);
        true
    }

    /// Makes requests go wrong.
    pub fn inject(&self, fault: StoreFault) -> FaultId {
        let mut state = self.state.borrow_mut();
        state.faults.push(Armed { fault, fired: 0 });
        FaultId(state.faults.len() - 1)
    }

    /// How often an injected fault has struck.
    pub fn fired(&self, fault: FaultId) -> u32 {
        self.state.borrow().faults.get(fault.0).map_or(0, |armed| armed.fired)
    }

    /// No injected fault strikes any more, and no outage lasts any longer.
    pub fn clear_faults(&self) {
        let mut state = self.state.borrow_mut();
        state.outage_until = SimTime::ZERO;
        for armed in &mut state.faults {
            armed.fault.count = armed.fired;
        }
    }

    /// Nobody reaches the store for `d` from now on: requests that arrive meanwhile have no effect and are either refused
    /// or never answered, and answers are lost.
    pub fn outage(&self, d: Duration) {
        let until = self.world.now() + d;
        let mut state = self.state.borrow_mut();
        state.outage_until = state.outage_until.max(until);
    }

    /// From now on a deleted object can still be listed and read for `d`, and its name stays taken, as in a store whose
    /// replicas hear of a deletion one after the other. Zero ends it, also for those that linger already.
    pub fn let_deletes_linger(&self, d: Duration) {
        let over = {
            let mut state = self.state.borrow_mut();
            state.linger = d;
            if d.is_zero() { std::mem::take(&mut state.lingering) } else { BTreeSet::new() }
        };
        for name in over {
            self.fade(&name);
        }
    }

    fn fade(&self, name: &ObjectName) {
        let gone = {
            let mut state = self.state.borrow_mut();
            state.lingering.remove(name);
            state.objects.remove(name)
        };
        if let Some(bytes) = gone {
            self.note(None, name, bytes.len() as u64, Effect::Faded);
        }
    }

    pub(crate) fn misread(&self, owner: &Incarnation, name: &ObjectName, length: u64) {
        self.note(Some(owner), name, length, Effect::Misread);
    }

    /// Bytes that a process has read so far of objects whose names start with `prefix`, over all its incarnations.
    pub fn bytes_read(&self, process: &str, prefix: &str) -> u64 {
        let state = self.state.borrow();
        let of_process =
            state.reads.iter().filter(|((who, name), _)| &**who == process && name.as_str().starts_with(prefix));
        of_process.map(|(_, bytes)| bytes).sum()
    }

    /// Everything that happened, oldest first.
    pub fn log(&self) -> Vec<StoreEffect> {
        self.state.borrow().log.clone()
    }

    /// Calls `subscriber` right after each effect, with no internal borrow held.
    pub fn subscribe(&self, subscriber: Subscriber) {
        self.state.borrow_mut().subscribers.push(subscriber);
    }

    pub(crate) fn take_fault(&self, operation: StoreOperation, name: &str) -> Option<StoreFaultKind> {
        let mut state = self.state.borrow_mut();
        let armed = state.faults.iter_mut().find(|armed| {
            let fits = match armed.fault.kind {
                StoreFaultKind::ShortRead | StoreFaultKind::CorruptRead => operation == StoreOperation::Read,
                _ => true,
            };
            fits && armed.fired < armed.fault.count
                && armed.fault.operation.is_none_or(|wanted| wanted == operation)
                && name.contains(&armed.fault.name_contains)
        })?;
        armed.fired += 1;
        Some(armed.fault.kind)
    }

    pub(crate) fn is_out(&self, now: SimTime) -> bool {
        now < self.state.borrow().outage_until
    }

    pub(crate) fn create(&self, owner: &Incarnation, name: &ObjectName, bytes: Bytes) -> Result<(), StoreError> {
        let length = bytes.len() as u64;
        let free = !self.state.borrow().objects.contains_key(name);
        if free {
            self.state.borrow_mut().objects.insert(name.clone(), bytes);
        }
        self.note(Some(owner), name, length, if free { Effect::Created } else { Effect::Refused });
        if free { Ok(()) } else { Err(StoreError::Exists) }
    }

    /// Whether any upload in pieces was ever begun.
    pub(crate) fn has_begun_uploads(&self) -> bool {
        self.state.borrow().next_upload > 0
    }

    pub(crate) fn begin_upload(&self, name: &ObjectName) -> u64 {
        let mut state = self.state.borrow_mut();
        let number = state.next_upload;
        state.next_upload += 1;
        state.uploads.insert(number, Unfinished { name: name.clone(), pieces: Vec::new() });
        number
    }

    /// Stores a piece, in the place of the one that has its number.
    pub(crate) fn put_piece(&self, upload: u64, number: u32, piece: Bytes) -> Result<(), StoreError> {
        let mut state = self.state.borrow_mut();
        let upload = state.uploads.get_mut(&upload).ok_or_else(no_upload)?;
        let number = number as usize;
        let have = upload.pieces.len();
        match upload.pieces.get_mut(number) {
            Some(present) => *present = piece,
            None if number == have => upload.pieces.push(piece),
            None => return Err(StoreError::Permanent(format!("piece {number} comes before piece {have}"))),
        }
        Ok(())
    }

    pub(crate) fn finish_upload(&self, owner: &Incarnation, upload: u64, name: &ObjectName) -> Result<(), StoreError> {
        let bytes = self.state.borrow().uploads.get(&upload).map(|upload| Bytes::from(upload.pieces.concat()));
        let Some(bytes) = bytes else {
            // Finished before, or discarded.
            let taken = self.state.borrow().objects.contains_key(name);
            return Err(if taken { StoreError::Exists } else { no_upload() });
        };
        self.create(owner, name, bytes)?;
        self.abort_upload(upload);
        Ok(())
    }

    pub(crate) fn abort_upload(&self, upload: u64) {
        self.state.borrow_mut().uploads.remove(&upload);
    }

    pub(crate) fn discard_unfinished(&self, name: &ObjectName) {
        self.state.borrow_mut().uploads.retain(|_, upload| upload.name != *name);
    }

    pub(crate) fn delete(&self, owner: &Incarnation, name: &ObjectName) {
        if self.lingers(owner, name) {
            return;
        }
        let removed = self.state.borrow_mut().objects.remove(name);
        let effect = if removed.is_some() { Effect::Deleted } else { Effect::NothingToDelete };
        self.note(Some(owner), name, removed.map_or(0, |bytes| bytes.len() as u64), effect);
    }

    /// Whether the deletion of `name` is one that is not to be seen yet.
    fn lingers(&self, owner: &Incarnation, name: &ObjectName) -> bool {
        let (length, linger, again) = {
            let mut state = self.state.borrow_mut();
            let Some(length) = state.objects.get(name).map(|bytes| bytes.len() as u64) else { return false };
            if state.lingering.contains(name) {
                (0, Duration::ZERO, true)
            } else if state.linger.is_zero() {
                return false;
            } else {
                state.lingering.insert(name.clone());
                (length, state.linger, false)
            }
        };
        if again {
            self.note(Some(owner), name, 0, Effect::NothingToDelete);
            return true;
        }
        let late = name.clone();
        self.world.queue().call(self.world.now() + linger, move |world| {
            let store = world.store();
            let lingers = store.state.borrow().lingering.contains(&late);
            if lingers {
                store.fade(&late);
            }
        });
        self.note(Some(owner), name, length, Effect::Deleted);
        true
    }

    pub(crate) fn read(
        &self,
        owner: &Incarnation,
        name: &ObjectName,
        range: Option<Range<u64>>,
    ) -> Result<Bytes, StoreError> {
        let found = {
            let mut state = self.state.borrow_mut();
            let bytes = state.objects.get(name).ok_or(StoreError::Absent)?;
            let length = bytes.len() as u64;
            let range = range.unwrap_or(0..length);
            let (from, to) = (range.start.min(length), range.end.min(length));
            let found = if from < to { bytes.slice(from as usize..to as usize) } else { Bytes::new() };
            *state.reads.entry((owner.process.clone(), name.clone())).or_default() += found.len() as u64;
            found
        };
        self.note(Some(owner), name, found.len() as u64, Effect::Read);
        Ok(found)
    }

    fn note(&self, owner: Option<&Incarnation>, name: &ObjectName, length: u64, effect: Effect) {
        let noted = StoreEffect {
            at: self.world.now(),
            name: name.clone(),
            length,
            process: owner.map_or_else(|| "".into(), |owner| owner.process.clone()),
            incarnation: owner.map_or(0, |owner| owner.number),
            alive: owner.is_none_or(Incarnation::is_alive),
            effect,
        };
        let subscribers = {
            let mut state = self.state.borrow_mut();
            if effect != Effect::Read {
                state.log.push(noted.clone());
            }
            state.subscribers.clone()
        };
        for subscriber in subscribers {
            subscriber(&self.world, &noted);
        }
    }

    /// Settles the requests that a process which has just ended had on their way.
    pub(crate) fn process_ended(&self, ended: &Incarnation) {
        let queue = self.world.queue();
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let rng = &mut state.rng;
        state.under_way.retain(|_, request| {
            if request.incarnation != ended.number || request.process != ended.process {
                return true;
            }
            let lot = if request.operation.changes_something() { rng.random_range(0..10_u32) } else { 0 };
            match lot {
                0..5 => {
                    drop(queue.cancel(request.event));
                    return false;
                }
                5..8 => {}
                _ => {
                    let delay = rng.random_range(0..nanos(Duration::from_secs(1)));
                    if let Some(action) = queue.cancel(request.event) {
                        request.event = queue.insert(queue.now() + Duration::from_nanos(delay), action);
                    }
                }
            }
            true
        });
    }

    pub(crate) fn dissolve(&self) {
        let mut state = self.state.borrow_mut();
        drop((std::mem::take(&mut state.subscribers), std::mem::take(&mut state.under_way)));
    }
}

//! The network between processes: links, and the faults of links and channels.
//!
//! A *link* is an ordered pair of processes, with a latency of its own, jitter, and a bandwidth that all its connections
//! share. A *channel* is a connection, found by the label its opener gave it; channel faults work on both of its directions.
//! A partition loses nothing by itself: as TCP does, both sides keep what was sent, and it arrives after the partition
//! heals, unless that takes longer than the dead-peer timeout, after which both ends get `TimedOut`.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::{
    config::{NetworkConfig, draw},
    connection::Connection,
    entropy::Stream,
    network_faults::Echoes,
    process::{Incarnation, Machine},
    time::{SimTime, nanos, transfer_nanos},
    transport::{Backlog, Knock},
    world::World,
};

/// Which way a partition cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    Both,
    /// From the first process to the second only.
    AtoB,
}

/// Which channels a fault is aimed at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LabelPattern {
    Exact(String),
    Contains(String),
}

impl LabelPattern {
    pub fn matches(&self, label: &str) -> bool {
        match self {
            LabelPattern::Exact(wanted) => wanted == label,
            LabelPattern::Contains(part) => label.contains(part.as_str()),
        }
    }
}

impl From<&str> for LabelPattern {
    fn from(part: &str) -> Self {
        LabelPattern::Contains(part.to_string())
    }
}

impl From<&String> for LabelPattern {
    fn from(part: &String) -> Self {
        LabelPattern::Contains(part.clone())
    }
}

/// How much slower than normal: latency times `factor` plus `extra`, bandwidth divided by `factor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slow {
    pub factor: u32,
    pub extra: Duration,
}

impl Slow {
    pub const NOT: Slow = Slow { factor: 1, extra: Duration::ZERO };

    pub fn by_factor(factor: u32) -> Slow {
        Slow { factor, extra: Duration::ZERO }
    }

    pub fn by(extra: Duration) -> Slow {
        Slow { factor: 1, extra }
    }

    fn and(self, other: Slow) -> Slow {
        Slow { factor: self.factor.max(1).saturating_mul(other.factor.max(1)), extra: self.extra + other.extra }
    }
}

/// How a process takes its leave of its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// Everything sent arrives, then the end of the stream.
    Orderly,
    /// Some of what was sent arrives, then a reset.
    Reset,
    /// Some of what was sent arrives, then nothing.
    Silence,
}

/// Deliveries are rounded up to multiples of this, as network cards coalesce interrupts.
const COALESCE_NANOS: u64 = 2_000;
const LOOPBACK: std::ops::Range<Duration> = Duration::from_micros(5)..Duration::from_micros(15);

/// The way from one process to another.
pub(crate) struct Link {
    latency: u64,
    jitter: u64,
    bytes_per_second: u64,
    pub partitioned: Cell<bool>,
    pub held: Cell<bool>,
    pub slow: Cell<Slow>,
    /// Besides the usual jitter.
    pub storm: Cell<u64>,
    /// By how much the bandwidth is divided.
    pub choked: Cell<u32>,
    busy_until: Cell<u64>,
    rng: RefCell<Stream>,
}

impl Link {
    fn new(world: &World, config: &NetworkConfig, from: &Arc<str>, to: &Arc<str>) -> Link {
        let mut rng = world.rng(&format!("link/{from}->{to}"));
        let own = from == to;
        let latency = draw(if own { &LOOPBACK } else { &config.latency }, &mut rng);
        Link {
            latency,
            jitter: if own { 2_000 } else { nanos(config.jitter) },
            bytes_per_second: if own { 0 } else { config.bandwidth_bytes_per_second },
            partitioned: Cell::new(false),
            held: Cell::new(false),
            slow: Cell::new(Slow::NOT),
            storm: Cell::new(0),
            choked: Cell::new(1),
            busy_until: Cell::new(0),
            rng: RefCell::new(rng),
        }
    }

    pub fn is_blocked(&self) -> bool {
        self.partitioned.get() || self.held.get()
    }

    /// How long a packet takes now.
    pub fn delay(&self, channel: Slow) -> u64 {
        let slow = self.slow.get().and(channel);
        let most = self.jitter + self.storm.get();
        let jitter = if most > 0 { self.rng.borrow_mut().random_range(0..=most) } else { 0 };
        (self.latency + jitter).saturating_mul(u64::from(slow.factor)).saturating_add(nanos(slow.extra))
    }

    /// When `bytes` handed over now have left, after everything handed over before.
    pub fn transmit(&self, now: SimTime, bytes: u64, channel: Slow) -> u64 {
        let slow = self.slow.get().and(channel);
        let times = u64::from(slow.factor).saturating_mul(u64::from(self.choked.get()));
        let takes = transfer_nanos(bytes, self.bytes_per_second).saturating_mul(times);
        let left = self.busy_until.get().max(now.0).saturating_add(takes);
        self.busy_until.set(left);
        left
    }

    /// What was handed over does not stand in the way any more.
    pub fn clear_backlog(&self, now: SimTime) {
        self.busy_until.set(self.busy_until.get().min(now.0));
    }

    pub fn draw_up_to(&self, most: usize) -> usize {
        self.rng.borrow_mut().random_range(0..=most)
    }
}

pub(crate) fn coalesced(at: u64) -> u64 {
    at.div_ceil(COALESCE_NANOS).saturating_mul(COALESCE_NANOS)
}

/// From, to.
type Pair = (Arc<str>, Arc<str>);

pub(crate) struct Network {
    pub config: NetworkConfig,
    links: RefCell<BTreeMap<Pair, Rc<Link>>>,
    pub connections: RefCell<BTreeMap<u64, Rc<Connection>>>,
    pub next_connection: Cell<u64>,
    pub listeners: RefCell<BTreeMap<String, Rc<Backlog>>>,
    /// Connection attempts that cannot get through for now.
    pub waiting: RefCell<Vec<Rc<Knock>>>,
    held: RefCell<Vec<LabelPattern>>,
    slow: RefCell<Vec<(LabelPattern, Slow)>>,
    in_flight: RefCell<BTreeMap<Arc<str>, Rc<Cell<u64>>>>,
    pub echoes: Echoes,
    /// Where new connections to the services of a process are led instead.
    routes: RefCell<BTreeMap<String, String>>,
}

impl Network {
    pub fn new(config: NetworkConfig) -> Network {
        Network {
            config,
            links: RefCell::default(),
            connections: RefCell::default(),
            next_connection: Cell::new(0),
            listeners: RefCell::default(),
            waiting: RefCell::default(),
            held: RefCell::default(),
            slow: RefCell::default(),
            in_flight: RefCell::default(),
            echoes: Echoes::default(),
            routes: RefCell::default(),
        }
    }

    pub fn link(&self, world: &World, from: &Arc<str>, to: &Arc<str>) -> Rc<Link> {
        let key = (from.clone(), to.clone());
        let mut links = self.links.borrow_mut();
        links.entry(key).or_insert_with(|| Rc::new(Link::new(world, &self.config, from, to))).clone()
    }

    pub fn is_held(&self, label: &str) -> bool {
        self.held.borrow().iter().any(|pattern| pattern.matches(label))
    }

    pub fn slowness(&self, label: &str) -> Slow {
        let slow = self.slow.borrow();
        slow.iter().filter(|(pattern, _)| pattern.matches(label)).fold(Slow::NOT, |all, (_, one)| all.and(*one))
    }

    /// The counter of the most bytes ever in flight under `label`.
    pub fn in_flight(&self, label: &Arc<str>) -> Rc<Cell<u64>> {
        self.in_flight.borrow_mut().entry(label.clone()).or_default().clone()
    }

    /// Where a new connection to `at` ends up.
    pub fn route(&self, at: &str) -> Option<String> {
        let (process, service) = at.split_once('/')?;
        self.routes.borrow().get(process).map(|other| format!("{other}/{service}"))
    }

    pub(crate) fn all(&self) -> Vec<Rc<Connection>> {
        self.connections.borrow().values().cloned().collect()
    }

    /// Payload that was sent to a process and that it has not read.
    pub fn unread(&self, owner: &Incarnation) -> u64 {
        self.connections.borrow().values().map(|connection| connection.unread(owner)).sum()
    }

    /// Leads new connections to the services of `process` to those of `other`, as a load balancer's address does.
    pub(crate) fn set_route(&self, process: &str, other: Option<&str>) {
        let mut routes = self.routes.borrow_mut();
        match other {
            Some(other) => routes.insert(process.to_string(), other.to_string()),
            None => routes.remove(process),
        };
    }

    /// The state of links or channels has changed: whatever can go on does.
    fn refresh(&self, world: &World) {
        for connection in self.all() {
            connection.held.set(self.is_held(&connection.label));
            connection.slow.set(self.slowness(&connection.label));
            connection.refresh(world);
        }
        for knock in self.waiting.take() {
            knock.travel(world);
        }
    }

    /// A fence has fallen: settles the process's listeners, connections and attempts.
    pub fn process_ended(&self, world: &World, ended: &Rc<Incarnation>, farewell: Farewell) {
        let gone: Vec<Rc<Backlog>> = {
            let mut listeners = self.listeners.borrow_mut();
            listeners.extract_if(.., |_, listener| Rc::ptr_eq(&listener.owner, ended)).map(|(_, gone)| gone).collect()
        };
        self.waiting.borrow_mut().retain(|knock| !Rc::ptr_eq(&knock.from, ended));
        for connection in self.all() {
            connection.process_ended(world, ended, farewell);
        }
        drop(gone);
    }

    /// A machine answers again: it knows nothing of its old connections and says so.
    pub fn machine_came_up(&self, world: &World, machine: &Rc<Machine>) {
        for connection in self.all() {
            connection.machine_came_up(world, machine);
        }
        for knock in self.waiting.take() {
            knock.travel(world);
        }
    }

    pub fn dissolve(&self) {
        drop((self.connections.take(), self.listeners.take(), self.waiting.take(), self.links.take()));
    }
}

impl World {
    pub(crate) fn link_of(&self, from: &str, to: &str) -> Rc<Link> {
        self.network().link(self, &self.process(from).name.clone(), &self.process(to).name.clone())
    }

    /// Cuts processes off from each other, silently.
    pub fn partition(&self, a: &str, b: &str, direction: Direction) {
        self.link_of(a, b).partitioned.set(true);
        if direction == Direction::Both {
            self.link_of(b, a).partitioned.set(true);
        }
        for connection in self.network().all() {
            connection.watch_if_cut(self);
        }
    }

    /// Ends every partition between two processes, in both directions.
    pub fn heal(&self, a: &str, b: &str) {
        self.link_of(a, b).partitioned.set(false);
        self.link_of(b, a).partitioned.set(false);
        self.network().refresh(self);
    }

    /// Cuts a process off from all others.
    pub fn isolate(&self, process: &str) {
        for other in self.processes().iter().filter(|other| *other != process) {
            self.partition(process, other, Direction::Both);
        }
    }

    /// Ends all partitions, holds and slowness of the network, and whatever else disturbs it. Routes stay.
    pub fn heal_network(&self) {
        let network = self.network();
        for link in network.links.borrow().values() {
            link.partitioned.set(false);
            link.held.set(false);
            link.slow.set(Slow::NOT);
            link.storm.set(0);
            link.choked.set(1);
        }
        network.held.borrow_mut().clear();
        network.slow.borrow_mut().clear();
        network.echoes.clear();
        for connection in network.all() {
            connection.end_half_open(self);
            connection.hurry(self);
        }
        network.refresh(self);
    }

    /// Holds up what is sent on matching channels, in both directions, also on those opened later. Nothing times out.
    pub fn hold_channel(&self, pattern: impl Into<LabelPattern>) {
        self.network().held.borrow_mut().push(pattern.into());
        self.network().refresh(self);
    }

    /// Ends one hold of exactly this pattern.
    pub fn release_channel(&self, pattern: impl Into<LabelPattern>) {
        let pattern = pattern.into();
        let mut held = self.network().held.borrow_mut();
        if let Some(at) = held.iter().position(|present| *present == pattern) {
            held.remove(at);
        }
        drop(held);
        self.network().refresh(self);
    }

    /// Holds up everything between two processes, in both directions, connection attempts too. Nothing times out by itself.
    pub fn hold_link(&self, a: &str, b: &str) {
        self.link_of(a, b).held.set(true);
        self.link_of(b, a).held.set(true);
    }

    pub fn release_link(&self, a: &str, b: &str) {
        self.link_of(a, b).held.set(false);
        self.link_of(b, a).held.set(false);
        self.network().refresh(self);
    }

    /// Slows the network between two processes, in both directions; [`Slow::NOT`] ends it. What is under way is not slowed.
    pub fn slow_link(&self, a: &str, b: &str, slow: Slow) {
        self.link_of(a, b).slow.set(slow);
        self.link_of(b, a).slow.set(slow);
    }

    /// Slows matching channels, in place of an earlier call with the same pattern; [`Slow::NOT`] ends it.
    pub fn slow_channel(&self, pattern: impl Into<LabelPattern>, slow: Slow) {
        let pattern = pattern.into();
        let mut all = self.network().slow.borrow_mut();
        all.retain(|(present, _)| *present != pattern);
        if slow != Slow::NOT {
            all.push((pattern, slow));
        }
        drop(all);
        self.network().refresh(self);
    }

    /// For each connection label, the most payload bytes that ever were sent and not yet read, in one direction of one
    /// connection.
    pub fn channel_stats(&self) -> BTreeMap<String, u64> {
        self.network().in_flight.borrow().iter().map(|(label, most)| (label.to_string(), most.get())).collect()
    }
}

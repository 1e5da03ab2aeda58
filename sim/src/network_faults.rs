//! Faults of the network beyond cuts and delays of links: resets, half-open connections, messages that come twice, jitter,
//! lack of bandwidth, and addresses that lead elsewhere.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use runtime::platform::NetError;

use crate::{
    connection::{Connection, FRAME_OVERHEAD, Item},
    network::LabelPattern,
    store::FaultId,
    time::nanos,
    world::World,
};

/// Frames that will be delivered twice.
///
/// TCP never does that. What does is a relay that speaks the protocol (a proxy, a message bus, a sidecar): it had passed a
/// message on, did not hear so in time, and passes it on again, on the same connection, behind what was sent since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Who sends the frames.
    pub from: String,
    pub to: String,
    /// Only on connections of this label.
    pub label: LabelPattern,
    /// So much later than the first time.
    pub delay: Duration,
    /// How many frames.
    pub count: u32,
}

struct Armed {
    echo: Echo,
    /// Frames for which a second delivery is due.
    taken: u32,
    /// Those that were delivered twice indeed.
    fired: u32,
    over: bool,
}

#[derive(Default)]
pub(crate) struct Echoes {
    armed: RefCell<Vec<Armed>>,
    /// Whether any frame is still wanted; looked at for every frame.
    pub any: Cell<bool>,
}

impl Echoes {
    pub fn clear(&self) {
        for armed in self.armed.borrow_mut().iter_mut() {
            armed.over = true;
        }
        self.any.set(false);
    }

    /// When a frame is to come a second time, and for which fault.
    fn take(&self, from: &str, to: &str, label: &str) -> Option<(usize, Duration)> {
        let mut armed = self.armed.borrow_mut();
        let found = armed.iter_mut().enumerate().find(|(_, armed)| {
            !armed.over
                && armed.taken < armed.echo.count
                && armed.echo.from == from
                && armed.echo.to == to
                && armed.echo.label.matches(label)
        });
        let (number, first) = found?;
        first.taken += 1;
        let delay = first.echo.delay;
        self.any.set(armed.iter().any(|armed| !armed.over && armed.taken < armed.echo.count));
        Some((number, delay))
    }
}

impl Connection {
    /// A frame was sent on direction `end`: lets it come again, if it is one that will.
    pub(crate) fn echo(self: &Rc<Self>, world: &World, end: usize, from: &Arc<str>, to: &Arc<str>, frame: &Bytes) {
        let Some((number, delay)) = world.network().echoes.take(from, to, &self.label) else { return };
        let (connection, frame) = (self.clone(), frame.clone());
        world.queue().call(world.now() + delay, move |world| {
            let wanted = world.network().echoes.armed.borrow().get(number).is_some_and(|armed| !armed.over);
            let heard = wanted && {
                let mut state = connection.state.borrow_mut();
                let (sender, receiver) = (&state.ends[end], &state.ends[1 - end]);
                let over = sender.dead || sender.sender_gone || receiver.dead || receiver.receiver_gone;
                let heard = !over && sender.error.is_none();
                if heard {
                    state.ways[end].sent += frame.len() as u64 + FRAME_OVERHEAD;
                    state.ways[end].payload += frame.len() as u64;
                }
                heard
            };
            if heard {
                connection.put_and_schedule(world, end, Item::Frame(frame));
                if let Some(armed) = world.network().echoes.armed.borrow_mut().get_mut(number) {
                    armed.fired += 1;
                }
            }
        });
    }

    /// Whether `a` owns one end and `b` the other, both alive and neither told of an error: gives the ends in that order.
    fn ends_of(&self, a: &str, b: &str) -> Option<(usize, usize)> {
        let state = self.state.borrow();
        let end_of = |name: &str| {
            (0..2).find(|&end| {
                let end = &state.ends[end];
                &*end.owner.process == name && !end.dead && end.error.is_none()
            })
        };
        let (a, b) = (end_of(a)?, end_of(b)?);
        (a != b).then_some((a, b))
    }

    /// Breaks the connection for the given ends; nothing that is under way arrives.
    fn break_off(&self, ends: &[usize], error: &NetError) {
        let wake: Vec<_> = {
            let mut state = self.state.borrow_mut();
            for way in &mut state.ways {
                way.network.clear();
            }
            for &end in ends {
                state.ends[end].error.get_or_insert(error.clone());
            }
            let of_end = |end: usize| [(end, true), (1 - end, false)];
            ends.iter()
                .flat_map(|&end| of_end(end))
                .filter_map(|(way, sends)| {
                    let way = &mut state.ways[way];
                    if sends { way.sender.take() } else { way.receiver.take() }
                })
                .collect()
        };
        wake.into_iter().for_each(std::task::Waker::wake);
    }

    pub(crate) fn end_half_open(self: &Rc<Self>, world: &World) {
        if self.half_open.replace(false) {
            // The first packet that gets through is answered with a reset.
            self.break_off(&[0, 1], &NetError::Reset);
            self.refresh(world);
            self.retire(world);
        }
    }
}

impl World {
    /// Resets every connection between two processes at once, as a firewall does that has lost its tables: both ends are
    /// told, what is under way is lost. Gives how many there were.
    pub fn reset_connections(&self, a: &str, b: &str) -> usize {
        let hit: Vec<_> = self.network().all().into_iter().filter(|c| c.ends_of(a, b).is_some()).collect();
        for connection in &hit {
            connection.break_off(&[0, 1], &NetError::Reset);
            connection.retire(self);
        }
        hit.len()
    }

    /// How many connections there are between two processes that neither knows to be broken.
    pub fn connections(&self, a: &str, b: &str) -> usize {
        self.network().all().iter().filter(|connection| connection.ends_of(a, b).is_some()).count()
    }

    /// Lets every connection between two processes end for `lost` alone. `believing` is told nothing, and whatever it sends
    /// is swallowed: it notices by itself, or after the dead-peer timeout, or when [`World::end_half_open`] lets it be
    /// answered with a reset. Connections made later work. Gives how many were hit.
    pub fn half_open(&self, lost: &str, believing: &str) -> usize {
        let mut hit = 0;
        for connection in self.network().all() {
            let Some((end, _)) = connection.ends_of(lost, believing) else { continue };
            hit += 1;
            connection.half_open.set(true);
            connection.break_off(&[end], &NetError::Reset);
            connection.watch_if_cut(self);
        }
        hit
    }

    /// Ends what [`World::half_open`] did to the connections of these two.
    pub fn end_half_open(&self, a: &str, b: &str) {
        for connection in self.network().all() {
            let mine = {
                let state = connection.state.borrow();
                let owners = [&state.ends[0].owner.process, &state.ends[1].owner.process];
                owners.iter().any(|o| &***o == a) && owners.iter().any(|o| &***o == b)
            };
            if mine {
                connection.end_half_open(self);
            }
        }
    }

    /// Lets frames be delivered a second time.
    pub fn echo_frames(&self, echo: Echo) -> FaultId {
        let echoes = &self.network().echoes;
        let mut armed = echoes.armed.borrow_mut();
        armed.push(Armed { echo, taken: 0, fired: 0, over: false });
        echoes.any.set(true);
        FaultId(armed.len() - 1)
    }

    /// How many frames came twice.
    pub fn echoed(&self, fault: FaultId) -> u32 {
        self.network().echoes.armed.borrow().get(fault.0).map_or(0, |armed| armed.fired)
    }

    /// No further frame comes twice.
    pub fn end_echoes(&self) {
        self.network().echoes.clear();
    }

    /// Adds up to `most` of jitter to everything sent between two processes, in both directions; zero ends it. Frames of a
    /// connection stay in order.
    pub fn storm_link(&self, a: &str, b: &str, most: Duration) {
        for (from, to) in [(a, b), (b, a)] {
            self.link_of(from, to).storm.set(nanos(most));
        }
    }

    /// Divides the bandwidth between two processes, in both directions; 1 is normal, and lets what has piled up through.
    pub fn choke_link(&self, a: &str, b: &str, divided_by: u32) {
        for (from, to) in [(a, b), (b, a)] {
            let link = self.link_of(from, to);
            link.choked.set(divided_by.max(1));
            if divided_by <= 1 {
                link.clear_backlog(self.now());
            }
        }
        if divided_by <= 1 {
            for connection in self.network().all() {
                if connection.ends_of(a, b).is_some() {
                    connection.hurry(self);
                }
            }
        }
    }

    /// Leads new connections to the services of `process` to those of `other` from now on; None: to itself again. What is
    /// connected stays connected: so a service's address moves to a new instance.
    pub fn route(&self, process: &str, other: Option<&str>) {
        self.network().set_route(process, other);
    }
}

//! A connection: two directions, each a queue in the network, a queue at the receiver, and a window.
//!
//! End 0 opened the connection, end 1 accepted it. Direction `d` leads from end `d` to end `1 - d`. Frames of a direction
//! stay in order whatever happens to it. The window counts what was sent and, as far as the sender knows, not read yet;
//! the news that something was read travels back with the latency of the link.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use runtime::platform::{MAX_FRAME_BYTES, NetError};

use crate::{
    event_queue::{Action, EventKey},
    network::{Farewell, Link, Slow, coalesced},
    process::{Incarnation, Machine},
    time::{SimTime, nanos},
    world::World,
};

/// What a frame occupies besides its payload.
pub(crate) const FRAME_OVERHEAD: u64 = 4;

pub(crate) enum Item {
    Frame(Bytes),
    Close,
    Reset,
}

#[derive(Default)]
pub(crate) struct Way {
    pub network: VecDeque<(u64, Item)>,
    delivery: Option<EventKey>,
    last_arrival: u64,
    received: VecDeque<Bytes>,
    /// The sender has closed, and everything it sent has arrived.
    closed: bool,
    pub receiver: Option<Waker>,
    pub sender: Option<Waker>,
    /// All three count frames with their overhead, over the life of the connection.
    pub sent: u64,
    read: u64,
    known_read: u64,
    /// Payload sent and not read.
    pub payload: u64,
    news: Option<EventKey>,
    news_held_up: bool,
    /// The receiver refused what was sent.
    refused: bool,
}

pub(crate) struct End {
    pub owner: Rc<Incarnation>,
    pub dead: bool,
    pub error: Option<NetError>,
    pub sender_gone: bool,
    pub receiver_gone: bool,
}

pub(crate) struct State {
    pub ways: [Way; 2],
    pub ends: [End; 2],
}

pub(crate) struct Connection {
    number: u64,
    pub label: Arc<str>,
    links: [Rc<Link>; 2],
    pub held: Cell<bool>,
    pub slow: Cell<Slow>,
    window: u64,
    most_in_flight: Rc<Cell<u64>>,
    /// One end's machine does not answer.
    silent: Cell<bool>,
    /// One end knows nothing of it any more, the other has not noticed, and nothing gets through.
    pub half_open: Cell<bool>,
    /// Counts the times that the connection was whole again after a cut.
    cuts: Cell<u64>,
    watched: Cell<bool>,
    pub state: RefCell<State>,
}

impl Connection {
    pub fn open(
        world: &World,
        label: &Arc<str>,
        opener: &Rc<Incarnation>,
        acceptor: &Rc<Incarnation>,
    ) -> Rc<Connection> {
        let network = world.network();
        let end = |owner: &Rc<Incarnation>| End {
            owner: owner.clone(),
            dead: false,
            error: None,
            sender_gone: false,
            receiver_gone: false,
        };
        let number = network.next_connection.get();
        network.next_connection.set(number + 1);
        let connection = Rc::new(Connection {
            number,
            label: label.clone(),
            links: [
                network.link(world, &opener.process, &acceptor.process),
                network.link(world, &acceptor.process, &opener.process),
            ],
            held: Cell::new(network.is_held(label)),
            slow: Cell::new(network.slowness(label)),
            window: network.config.window_bytes,
            most_in_flight: network.in_flight(label),
            silent: Cell::new(false),
            half_open: Cell::new(false),
            cuts: Cell::new(0),
            watched: Cell::new(false),
            state: RefCell::new(State { ways: Default::default(), ends: [end(opener), end(acceptor)] }),
        });
        network.connections.borrow_mut().insert(number, connection.clone());
        connection
    }

    fn is_blocked(&self, way: usize) -> bool {
        self.held.get() || self.half_open.get() || self.links[way].is_blocked()
    }

    fn is_cut(&self) -> bool {
        self.silent.get() || self.half_open.get() || self.links.iter().any(|link| link.partitioned.get())
    }

    /// Puts an item on its way, behind everything that is.
    fn put(&self, now: SimTime, way: &mut Way, direction: usize, delay: u64, item: Item) {
        let size = if let Item::Frame(bytes) = &item { bytes.len() as u64 + FRAME_OVERHEAD } else { FRAME_OVERHEAD };
        let left = self.links[direction].transmit(now, size, self.slow.get());
        way.last_arrival = coalesced(left.saturating_add(delay)).max(way.last_arrival);
        way.network.push_back((way.last_arrival, item));
    }

    /// Sees to it that the first item of a direction is delivered when it arrives.
    fn schedule(self: &Rc<Self>, world: &World, way: &mut Way, direction: usize) {
        if way.delivery.is_none()
            && let Some((at, _)) = way.network.front()
            && !self.is_blocked(direction)
        {
            let action = Action::Deliver(self.clone(), direction);
            way.delivery = Some(world.queue().insert(SimTime(*at), action));
        }
    }

    pub(crate) fn put_and_schedule(self: &Rc<Self>, world: &World, direction: usize, item: Item) {
        let delay = self.links[direction].delay(self.slow.get());
        let mut state = self.state.borrow_mut();
        let way = &mut state.ways[direction];
        self.put(world.now(), way, direction, delay, item);
        self.schedule(world, way, direction);
    }

    /// Hands over what has arrived.
    pub fn deliver(self: &Rc<Self>, world: &World, direction: usize) {
        let now = world.now();
        let mut wake = [None, None];
        {
            let mut state = self.state.borrow_mut();
            let State { ways, ends } = &mut *state;
            let [forth, back] = if direction == 0 {
                let [a, b] = ways;
                [a, b]
            } else {
                let [a, b] = ways;
                [b, a]
            };
            forth.delivery = None;
            if self.is_blocked(direction) {
                return;
            }
            let end = &mut ends[1 - direction];
            while let Some((at, _)) = forth.network.front()
                && *at <= now.0
            {
                let Some((_, item)) = forth.network.pop_front() else { break };
                match item {
                    Item::Frame(_) if end.dead && self.silent.get() => {}
                    Item::Frame(_) if end.dead || end.receiver_gone => self.refuse(world, forth, direction),
                    Item::Frame(bytes) => forth.received.push_back(bytes),
                    Item::Close => forth.closed = true,
                    Item::Reset => {
                        end.error.get_or_insert(NetError::Reset);
                        wake[1] = back.sender.take();
                    }
                }
            }
            wake[0] = forth.receiver.take();
            self.schedule(world, forth, direction);
        }
        wake.into_iter().flatten().for_each(Waker::wake);
        self.retire(world);
        let receiver = self.state.borrow().ends[1 - direction].owner.clone();
        receiver.keep_within_limit();
    }

    /// Tells the sender of a direction that nobody reads any more what it sends.
    fn refuse(self: &Rc<Self>, world: &World, way: &mut Way, direction: usize) {
        if std::mem::replace(&mut way.refused, true) {
            return;
        }
        let at = world.now() + Duration::from_nanos(self.links[1 - direction].delay(self.slow.get()));
        let connection = self.clone();
        world.queue().call(at, move |_| {
            let waker = {
                let mut state = connection.state.borrow_mut();
                if connection.is_blocked(1 - direction) {
                    // The refusal is lost; the next frame provokes another.
                    state.ways[direction].refused = false;
                    return;
                }
                state.ends[direction].error.get_or_insert(NetError::Reset);
                state.ways[direction].sender.take()
            };
            waker.into_iter().for_each(Waker::wake);
        });
    }

    pub fn poll_send(
        self: &Rc<Self>,
        world: &World,
        end: usize,
        cx: &mut Context<'_>,
        queue: &mut VecDeque<Bytes>,
    ) -> Poll<Result<usize, NetError>> {
        let now = world.now();
        let mut state = self.state.borrow_mut();
        let State { ways, ends } = &mut *state;
        if let Some(error) = &ends[end].error {
            return Poll::Ready(Err(error.clone()));
        }
        let way = &mut ways[end];
        let mut delay = None;
        let mut taken = 0;
        while let Some(frame) = queue.front() {
            if frame.len() > MAX_FRAME_BYTES {
                let error = format!("a frame of {} bytes, at most {MAX_FRAME_BYTES} are allowed", frame.len());
                return Poll::Ready(Err(NetError::Malformed(error)));
            }
            let size = frame.len() as u64 + FRAME_OVERHEAD;
            let outstanding = way.sent - way.known_read;
            if outstanding > 0 && outstanding + size > self.window {
                break;
            }
            let Some(frame) = queue.pop_front() else { break };
            way.sent += size;
            way.payload += frame.len() as u64;
            if way.payload > self.most_in_flight.get() {
                self.most_in_flight.set(way.payload);
            }
            // One draw for all frames that are handed over together.
            let delay = *delay.get_or_insert_with(|| self.links[end].delay(self.slow.get()));
            if world.network().echoes.any.get() {
                self.echo(world, end, &ends[end].owner.process, &ends[1 - end].owner.process, &frame);
            }
            self.put(now, way, end, delay, Item::Frame(frame));
            taken += 1;
        }
        if taken > 0 {
            self.schedule(world, way, end);
        }
        if queue.is_empty() {
            return Poll::Ready(Ok(taken));
        }
        way.sender = Some(cx.waker().clone());
        self.send_news(world, way, end);
        Poll::Pending
    }

    /// Lets the news of what was read travel back to the sender of `direction`, if there is any and none is on its way.
    fn send_news(self: &Rc<Self>, world: &World, way: &mut Way, direction: usize) {
        if way.news.is_some() || way.read == way.known_read {
            return;
        }
        let read = way.read;
        let at = world.now() + Duration::from_nanos(self.links[1 - direction].delay(self.slow.get()));
        let connection = self.clone();
        way.news = Some(world.queue().call(at, move |world| connection.hear_news(world, direction, read)));
    }

    fn hear_news(self: &Rc<Self>, world: &World, direction: usize, read: u64) {
        let waker = {
            let mut state = self.state.borrow_mut();
            let way = &mut state.ways[direction];
            way.news = None;
            if self.is_blocked(1 - direction) {
                way.news_held_up = true;
                return;
            }
            way.known_read = read;
            let waker = way.sender.take();
            if waker.is_some() {
                self.send_news(world, way, direction);
            }
            waker
        };
        waker.into_iter().for_each(Waker::wake);
    }

    pub fn poll_recv(
        self: &Rc<Self>,
        world: &World,
        end: usize,
        cx: &mut Context<'_>,
        out: &mut VecDeque<Bytes>,
        max: usize,
    ) -> Poll<Result<usize, NetError>> {
        let mut state = self.state.borrow_mut();
        let State { ways, ends } = &mut *state;
        let direction = 1 - end;
        let way = &mut ways[direction];
        let count = way.received.len().min(max.max(1));
        if count == 0 {
            if way.closed {
                return Poll::Ready(Err(NetError::Closed));
            }
            if let Some(error) = &ends[end].error {
                return Poll::Ready(Err(error.clone()));
            }
            way.receiver = Some(cx.waker().clone());
            return Poll::Pending;
        }
        for frame in way.received.drain(..count) {
            way.read += frame.len() as u64 + FRAME_OVERHEAD;
            way.payload -= frame.len() as u64;
            out.push_back(frame);
        }
        // News travels once a quarter of the window was read, or when the sender waits for it.
        if way.sender.is_some() || way.read - way.known_read >= self.window / 4 {
            self.send_news(world, way, direction);
        }
        Poll::Ready(Ok(count))
    }

    /// The sending half of `end` was dropped.
    pub fn close_sender(self: &Rc<Self>, world: &World, end: usize) {
        self.state.borrow_mut().ends[end].sender_gone = true;
        self.put_and_schedule(world, end, Item::Close);
        self.retire(world);
    }

    /// The receiving half of `end` was dropped.
    pub fn close_receiver(self: &Rc<Self>, world: &World, end: usize) {
        {
            let mut state = self.state.borrow_mut();
            let State { ways, ends } = &mut *state;
            ends[end].receiver_gone = true;
            let way = &mut ways[1 - end];
            if !way.received.is_empty() {
                way.received.clear();
                self.refuse(world, way, 1 - end);
            }
        }
        self.retire(world);
    }

    /// What has arrived for `owner` and was not read.
    pub fn unread(&self, owner: &Incarnation) -> u64 {
        let state = self.state.borrow();
        let bytes = |end: usize| -> u64 {
            let mine = std::ptr::eq(&*state.ends[end].owner, owner);
            if mine { state.ways[1 - end].received.iter().map(|frame| frame.len() as u64).sum() } else { 0 }
        };
        bytes(0) + bytes(1)
    }

    pub fn process_ended(self: &Rc<Self>, world: &World, ended: &Rc<Incarnation>, farewell: Farewell) {
        for end in 0..2 {
            {
                let mut state = self.state.borrow_mut();
                let State { ways, ends } = &mut *state;
                if !Rc::ptr_eq(&ends[end].owner, ended) || std::mem::replace(&mut ends[end].dead, true) {
                    continue;
                }
                ways[1 - end].received.clear();
                let already_closed = ends[end].sender_gone && ends[end].receiver_gone;
                if already_closed {
                    continue;
                }
                let sent = &mut ways[end].network;
                if farewell != Farewell::Orderly {
                    // What the kernel had not sent yet is lost.
                    let kept = self.links[end].draw_up_to(sent.len());
                    sent.truncate(kept);
                }
            }
            match farewell {
                Farewell::Orderly => self.put_and_schedule(world, end, Item::Close),
                Farewell::Reset => self.put_and_schedule(world, end, Item::Reset),
                Farewell::Silence => {
                    // What is on the wire arrives, as if the cable were cut behind it.
                    self.fall_silent(world);
                }
            }
        }
        self.retire(world);
    }

    fn fall_silent(self: &Rc<Self>, world: &World) {
        self.silent.set(true);
        self.watch_if_cut(world);
    }

    pub fn machine_came_up(self: &Rc<Self>, world: &World, machine: &Rc<Machine>) {
        if !self.silent.get() {
            return;
        }
        let returned = {
            let state = self.state.borrow();
            (0..2).find(|&end| state.ends[end].dead && Rc::ptr_eq(&state.ends[end].owner.machine, machine))
        };
        if let Some(end) = returned {
            self.silent.set(false);
            self.put_and_schedule(world, end, Item::Reset);
            self.refresh(world);
        }
    }

    /// A hold, a cut or a silence may have ended.
    pub fn refresh(self: &Rc<Self>, world: &World) {
        if !self.is_cut() && self.watched.replace(false) {
            self.cuts.set(self.cuts.get() + 1);
        }
        let now = world.now();
        let mut state = self.state.borrow_mut();
        for direction in 0..2 {
            let way = &mut state.ways[direction];
            if way.delivery.is_none()
                && !self.is_blocked(direction)
                && let Some((at, _)) = way.network.front_mut()
            {
                if *at <= now.0 {
                    // Sent anew.
                    *at = coalesced(now.0 + self.links[direction].delay(self.slow.get()));
                    way.last_arrival = way.last_arrival.max(*at);
                }
                self.schedule(world, way, direction);
            }
            if way.news_held_up && !self.is_blocked(1 - direction) {
                way.news_held_up = false;
                self.send_news(world, way, direction);
            }
        }
    }

    /// The way is free again: what was to arrive late, because there was no room for it, arrives after the usual delay.
    pub fn hurry(self: &Rc<Self>, world: &World) {
        let now = world.now();
        let mut state = self.state.borrow_mut();
        for direction in 0..2 {
            let soon = coalesced(now.0 + self.links[direction].delay(self.slow.get()));
            let way = &mut state.ways[direction];
            for (at, _) in &mut way.network {
                *at = soon.min(*at);
            }
            way.last_arrival = way.last_arrival.min(soon);
            if let Some(key) = way.delivery.take() {
                drop(world.queue().cancel(key));
            }
            self.schedule(world, way, direction);
        }
    }

    /// If the connection is cut, sees to it that its ends notice in time.
    pub fn watch_if_cut(self: &Rc<Self>, world: &World) {
        if !self.is_cut() || self.watched.replace(true) {
            return;
        }
        let cut = self.cuts.get();
        let at = world.now() + Duration::from_nanos(nanos(world.network().config.dead_peer_timeout));
        let connection = self.clone();
        world.queue().call(at, move |world| {
            if connection.watched.get() && connection.cuts.get() == cut {
                connection.time_out(world);
            }
        });
    }

    fn time_out(self: &Rc<Self>, world: &World) {
        let mut wake = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            let State { ways, ends } = &mut *state;
            for (way, end) in ways.iter_mut().zip(ends) {
                end.error.get_or_insert(NetError::TimedOut);
                way.network.clear();
                wake.extend(way.sender.take());
                wake.extend(way.receiver.take());
            }
        }
        wake.into_iter().for_each(Waker::wake);
        self.retire(world);
    }

    /// Forgets the connection once nobody holds an end of it and nothing is on its way.
    pub(crate) fn retire(&self, world: &World) {
        let state = self.state.borrow();
        let over = |end: &End| end.dead || (end.sender_gone && end.receiver_gone);
        if state.ends.iter().all(over) && state.ways.iter().all(|way| way.network.is_empty()) {
            drop(state);
            drop(world.network().connections.borrow_mut().remove(&self.number));
        }
    }
}

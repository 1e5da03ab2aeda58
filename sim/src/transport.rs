//! A process's view of the network: listening, connecting, and the halves of connections.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use runtime::platform::{
    Address, Connection as Halves, FrameReceiver, FrameSender, Fut, Listener, Mono, NetError, Transport,
};

use crate::{
    completion::Completion,
    connection::Connection,
    local::{Local, boxed},
    network::Slow,
    process::Incarnation,
    world::World,
};

pub(crate) struct SimTransport(pub Local<Rc<Incarnation>>);

/// What has knocked at a listener and was not accepted yet.
pub(crate) struct Backlog {
    pub owner: Rc<Incarnation>,
    at: Address,
    accepted: RefCell<VecDeque<Halves>>,
    waker: RefCell<Option<Waker>>,
}

/// An attempt to connect.
pub(crate) struct Knock {
    pub from: Rc<Incarnation>,
    to: Arc<str>,
    at: Address,
    label: Arc<str>,
    reply: Completion<Result<Halves, NetError>>,
    given_up: Cell<bool>,
}

impl Knock {
    fn is_blocked(&self, world: &World) -> bool {
        let network = world.network();
        let to = world.process(&self.to);
        // Answers must come back.
        !to.machine.up.get()
            || network.link(world, &self.from.process, &self.to).is_blocked()
            || network.link(world, &self.to, &self.from.process).is_blocked()
    }

    fn delay(&self, world: &World, back: bool) -> Duration {
        let (from, to) = if back { (&self.to, &self.from.process) } else { (&self.from.process, &self.to) };
        Duration::from_nanos(world.network().link(world, from, to).delay(Slow::NOT))
    }

    /// Sets out for the listener; waits in silence if there is no way.
    pub fn travel(self: Rc<Self>, world: &World) {
        if self.given_up.get() || !self.from.is_alive() {
            return;
        }
        if self.is_blocked(world) {
            world.network().waiting.borrow_mut().push(self);
            return;
        }
        let at = world.now() + self.delay(world, false);
        world.queue().call(at, move |world| self.arrive(world));
    }

    fn arrive(self: Rc<Self>, world: &World) {
        if !self.from.is_alive() {
            return;
        }
        if self.is_blocked(world) {
            return self.travel(world);
        }
        let listener = world.network().listeners.borrow().get(&self.at.0).cloned();
        let answer = match listener {
            None => Err(NetError::Refused),
            Some(listener) => {
                let connection = Connection::open(world, &self.label, &self.from, &listener.owner);
                let halves = |end, owner: &Rc<Incarnation>| {
                    let half = || Half { owner: owner.clone(), connection: connection.clone(), end };
                    Halves {
                        sender: Box::new(Sender(Local::new(half()))),
                        receiver: Box::new(Receiver(Local::new(half()))),
                    }
                };
                let accepted = halves(1, &listener.owner);
                listener.accepted.borrow_mut().push_back(accepted);
                let waker = listener.waker.borrow_mut().take();
                waker.into_iter().for_each(Waker::wake);
                Ok(halves(0, &self.from))
            }
        };
        let at = world.now() + self.delay(world, true);
        world.queue().call(at, move |_| {
            // If nobody waits any more, the halves are dropped, which closes the connection.
            drop(self.reply.complete(answer));
        });
    }
}

impl SimTransport {
    async fn open(&self, to: Address, label: String, by: Mono) -> Result<Halves, NetError> {
        let owner = (*self.0).clone();
        owner.alive_or_never().await;
        let world = owner.world.clone();
        let to = world.network().route(&to.0).map_or(to, Address);
        let process = to.0.split_once('/').map(|(process, _)| process);
        let known = process.and_then(|name| world.inner().processes.borrow().get(name).cloned());
        let Some(process) = known else {
            return Err(NetError::Io(format!("{to}: no such process; addresses are `process/service`")));
        };
        let reply = Completion::new();
        let knock = Rc::new(Knock {
            from: owner.clone(),
            to: process.name.clone(),
            at: to,
            label: label.into(),
            reply: reply.clone(),
            given_up: Cell::new(false),
        });
        let patience = knock.clone();
        let timer = world.queue().call(owner.machine.clock.when(by), move |_| {
            patience.given_up.set(true);
            drop(patience.reply.complete(Err(NetError::TimedOut)));
        });
        let attempt = Attempt { knock: knock.clone(), timer, world: world.clone() };
        knock.travel(&world);
        let result = reply.wait().await;
        drop(attempt);
        owner.alive_or_never().await;
        result
    }
}

/// Gives an attempt up when its future is dropped.
struct Attempt {
    knock: Rc<Knock>,
    timer: crate::event_queue::EventKey,
    world: World,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.knock.given_up.set(true);
        // Closes a connection that comes too late.
        drop(self.knock.reply.complete(Err(NetError::TimedOut)));
        drop(self.world.queue().cancel(self.timer));
        self.world.network().waiting.borrow_mut().retain(|waiting| !Rc::ptr_eq(waiting, &self.knock));
    }
}

impl Transport for SimTransport {
    fn listen(&self, at: &Address) -> Fut<'_, Result<Box<dyn Listener>, NetError>> {
        let at = at.clone();
        boxed(async move {
            let owner = &*self.0;
            owner.alive_or_never().await;
            if at.0.split_once('/').is_none_or(|(process, service)| process != &*owner.process || service.is_empty()) {
                let error = format!("{at}: process {} can listen at `{}/<service>` only", owner.process, owner.process);
                return Err(NetError::Io(error));
            }
            let mut listeners = owner.world.network().listeners.borrow_mut();
            if listeners.contains_key(&at.0) {
                return Err(NetError::AddressInUse);
            }
            let backlog = Rc::new(Backlog {
                owner: owner.clone(),
                at: at.clone(),
                accepted: RefCell::default(),
                waker: RefCell::default(),
            });
            listeners.insert(at.0, backlog.clone());
            Ok(Box::new(SimListener(Local::new(backlog))) as Box<dyn Listener>)
        })
    }

    fn connect(&self, to: &Address, label: &str, by: Mono) -> Fut<'_, Result<Halves, NetError>> {
        let (to, label) = (to.clone(), label.to_string());
        boxed(self.open(to, label, by))
    }
}

struct SimListener(Local<Rc<Backlog>>);

impl Listener for SimListener {
    fn accept(&mut self) -> Fut<'_, Result<Halves, NetError>> {
        let backlog = &*self.0;
        boxed(poll_fn(move |cx| {
            if !backlog.owner.is_alive() {
                return Poll::Pending;
            }
            if let Some(halves) = backlog.accepted.borrow_mut().pop_front() {
                return Poll::Ready(Ok(halves));
            }
            *backlog.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        }))
    }

    fn address(&self) -> Address {
        self.0.at.clone()
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let mut listeners = self.0.owner.world.network().listeners.borrow_mut();
        if listeners.get(&self.0.at.0).is_some_and(|present| Rc::ptr_eq(present, &self.0)) {
            let gone = listeners.remove(&self.0.at.0);
            drop(listeners);
            drop(gone);
        }
    }
}

struct Half {
    owner: Rc<Incarnation>,
    connection: Rc<Connection>,
    end: usize,
}

struct Sender(Local<Half>);

impl FrameSender for Sender {
    fn poll_send(&mut self, cx: &mut Context<'_>, queue: &mut VecDeque<Bytes>) -> Poll<Result<usize, NetError>> {
        let half = &*self.0;
        if !half.owner.is_alive() {
            return Poll::Pending;
        }
        half.connection.poll_send(&half.owner.world, half.end, cx, queue)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let half = &*self.0;
        if half.owner.is_alive() {
            half.connection.close_sender(&half.owner.world, half.end);
        }
    }
}

struct Receiver(Local<Half>);

impl FrameReceiver for Receiver {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut VecDeque<Bytes>,
        max: usize,
    ) -> Poll<Result<usize, NetError>> {
        let half = &*self.0;
        if !half.owner.is_alive() {
            return Poll::Pending;
        }
        half.connection.poll_recv(&half.owner.world, half.end, cx, out, max)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let half = &*self.0;
        if half.owner.is_alive() {
            half.connection.close_receiver(&half.owner.world, half.end);
        }
    }
}

//! The TaskManagers that a leader talks to. A connection belongs to nobody until its first message registers it; its slots
//! count once it confirmed that nothing of an older attempt runs on it.

use std::collections::BTreeMap;

use crate::{
    cluster::{
        connection::Outbox,
        rpc::{ClientResponse, HeldSlot, ToTaskManager},
    },
    ids::AttemptId,
    platform::{Address, Mono},
    recovery::local_inventory::LocalInventory,
};

/// One connection.
pub struct Peer {
    outbox: Outbox,
    pub heard_at: Mono,
    pub registered: Option<Registered>,
    /// It is no TaskManager, and waits for an answer; it sends no heartbeats.
    pub is_client: bool,
}

/// What a TaskManager said of itself.
#[derive(Clone, Debug)]
pub struct Registered {
    pub name: String,
    pub data_address: Address,
    pub slots: Vec<Option<HeldSlot>>,
    /// Everything up to this attempt must have stopped before its slots can be used; None: confirmed.
    pub stopping: Option<AttemptId>,
    /// The local copies that it had when it confirmed that.
    pub local: LocalInventory,
}

#[derive(Default)]
pub struct Peers {
    connections: BTreeMap<u64, Peer>,
    by_name: BTreeMap<String, u64>,
    next: u64,
}

impl Peers {
    /// The number that the next connection will have.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    pub fn add(&mut self, outbox: Outbox, now: Mono) {
        self.connections.insert(self.next, Peer { outbox, heard_at: now, registered: None, is_client: false });
        self.next += 1;
    }

    pub fn get_mut(&mut self, number: u64) -> Option<&mut Peer> {
        self.connections.get_mut(&number)
    }

    /// When a connection gave its last sign of life.
    pub fn heard_at(&self, number: u64) -> Option<Mono> {
        self.connections.get(&number).map(|peer| peer.heard_at)
    }

    /// Records a registration and says which earlier connection of the same TaskManager it replaces.
    pub fn register(&mut self, number: u64, registered: Registered) -> Option<u64> {
        let name = registered.name.clone();
        self.connections.get_mut(&number)?.registered = Some(registered);
        self.by_name.insert(name, number).filter(|old| *old != number)
    }

    /// Closes a connection; gives the TaskManager that was registered on it, if that was its current connection.
    pub fn remove(&mut self, number: u64) -> Option<Registered> {
        let registered = self.connections.remove(&number)?.registered?;
        if self.by_name.get(&registered.name) == Some(&number) {
            self.by_name.remove(&registered.name);
            return Some(registered);
        }
        None
    }

    pub fn registered(&self, name: &str) -> Option<&Registered> {
        self.connections.get(self.by_name.get(name)?)?.registered.as_ref()
    }

    pub fn registered_mut(&mut self, name: &str) -> Option<&mut Registered> {
        self.connections.get_mut(self.by_name.get(name)?)?.registered.as_mut()
    }

    /// The local copies of each TaskManager.
    pub fn local_copies(&self) -> BTreeMap<&str, &LocalInventory> {
        let of_one = |name: &'_ String| Some(&self.registered(name)?.local);
        self.by_name.keys().filter_map(|name| Some((name.as_str(), of_one(name)?))).collect()
    }

    /// When a registered TaskManager was heard last.
    pub fn heard_from(&self, name: &str) -> Option<Mono> {
        Some(self.connections.get(self.by_name.get(name)?)?.heard_at)
    }

    /// The current connection of a TaskManager.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.by_name.get(name).copied()
    }

    pub fn names(&self) -> Vec<String> {
        self.by_name.keys().cloned().collect()
    }

    pub fn send(&self, name: &str, message: &ToTaskManager) {
        if let Some(peer) = self.by_name.get(name).and_then(|n| self.connections.get(n)) {
            peer.outbox.send(message);
        }
    }

    /// Answers a client; one that is gone hears nothing.
    pub fn answer(&self, number: u64, response: &ClientResponse) {
        if let Some(peer) = self.connections.get(&number) {
            peer.outbox.send(response);
        }
    }

    pub fn send_all(&self, message: &ToTaskManager) {
        for name in self.by_name.keys() {
            self.send(name, message);
        }
    }

    /// Connections that were silent for longer than `limit`.
    pub fn silent(&self, now: Mono, limit: std::time::Duration) -> Vec<u64> {
        let is_silent = |peer: &Peer| !peer.is_client && now - peer.heard_at > limit;
        self.connections.iter().filter(|(_, peer)| is_silent(peer)).map(|(number, _)| *number).collect()
    }

    /// Whether a registered TaskManager still has tasks to stop.
    pub fn stopping(&self) -> Vec<String> {
        let stopping = |name: &&String| self.registered(name).is_some_and(|r| r.stopping.is_some());
        self.by_name.keys().filter(stopping).cloned().collect()
    }
}

//! The memory of processes, and the killer that comes when one needs too much of it.
//!
//! What counts is what the process says it holds (state, uploads) and what has arrived for it and was not read yet: the
//! buffers of its connections, which the kernel charges to it. A process over its limit is ended as `kill -9` does, at the
//! instant at which it went over.

use std::rc::Rc;

use runtime::platform::Memory;

use crate::{local::Local, process::Incarnation, world::World};

/// Called at the instant of the killing, before it.
pub type OnKill = Rc<dyn Fn(&World)>;

pub(crate) struct MemoryLimit {
    bytes: u64,
    on_kill: OnKill,
}

pub(crate) struct SimMemory(pub Local<Rc<Incarnation>>);

impl Memory for SimMemory {
    fn hold(&self, bytes: u64) {
        let owner = &*self.0;
        owner.held.set(owner.held.get() + bytes);
        owner.keep_within_limit();
    }

    fn release(&self, bytes: u64) {
        let owner = &*self.0;
        owner.held.set(owner.held.get().saturating_sub(bytes));
    }
}

impl Incarnation {
    fn memory(&self) -> u64 {
        self.held.get() + self.world.network().unread(self)
    }

    /// Ends the process if it holds more than it may.
    pub fn keep_within_limit(&self) {
        let Some(limit) = self.limit.borrow().as_ref().map(|limit| limit.bytes) else { return };
        if !self.is_alive() || self.memory() <= limit {
            return;
        }
        if let Some(limit) = self.limit.take() {
            (limit.on_kill)(&self.world);
            self.world.crash(&self.process);
        }
    }
}

impl World {
    /// What a process holds now, in bytes; 0 if it does not run.
    pub fn memory(&self, process: &str) -> u64 {
        self.process(process).current.borrow().as_ref().map_or(0, |current| current.memory())
    }

    /// Lets a process have `bytes` of memory at most, as long as this incarnation of it lives. Once it needs more,
    /// `on_kill` is called and it is killed. False if it does not run.
    pub fn limit_memory(&self, process: &str, bytes: u64, on_kill: OnKill) -> bool {
        let Some(current) = self.process(process).current.borrow().clone() else { return false };
        *current.limit.borrow_mut() = Some(MemoryLimit { bytes, on_kill });
        current.keep_within_limit();
        true
    }

    pub fn lift_memory_limit(&self, process: &str) {
        if let Some(current) = self.process(process).current.borrow().as_ref() {
            drop(current.limit.take());
        }
    }
}

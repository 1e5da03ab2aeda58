//! What a process holds in memory of the things that can grow without bound: the state of its tasks and what is on its way to
//! primary storage. (What lies in connections the transport knows by itself.)
//!
//! The seam knows it so that a limit can be kept: the real world has the operating system for that, which kills whoever
//! exceeds it; the simulated one does the same.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Keeps count. In the simulated world `hold` may be the last thing that a process does.
pub trait Memory: Send + Sync {
    fn hold(&self, bytes: u64);
    fn release(&self, bytes: u64);
}

/// A count without a limit.
#[derive(Debug, Default)]
pub struct MemoryMeter(AtomicU64);

impl MemoryMeter {
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Memory for MemoryMeter {
    fn hold(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn release(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// So many bytes are held; no longer than this lives.
pub struct Held {
    memory: Arc<dyn Memory>,
    bytes: u64,
}

impl Held {
    pub fn new(memory: &Arc<dyn Memory>, bytes: u64) -> Held {
        memory.hold(bytes);
        Held { memory: Arc::clone(memory), bytes }
    }

    /// It has become more, or less.
    pub fn resize(&mut self, bytes: u64) {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.memory.hold(more),
            None => self.memory.release(self.bytes - bytes),
        }
        self.bytes = bytes;
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.bytes).finish()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted_until_it_is_dropped() {
        let meter = Arc::new(crate::platform::MemoryMeter::default());
        let memory: Arc<dyn Memory> = meter.clone();
        let mut state = Held::new(&memory, 10);
        let buffer = Held::new(&memory, 5);
        assert_eq!(meter.bytes(), 15);
        state.resize(30);
        assert_eq!(meter.bytes(), 35);
        state.resize(1);
        drop(buffer);
        assert_eq!(meter.bytes(), 1);
        drop(state);
        assert_eq!(meter.bytes(), 0);
    }
}

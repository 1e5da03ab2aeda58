//! What the harness can see of a disk and do to it, behind the back of the processes.

use std::rc::Rc;

use bytes::Bytes;
use runtime::platform::{DeviceId, RelPath};

use crate::{
    DiskOperation,
    disk::{Disk, DiskFault},
    store::FaultId,
    time::SimTime,
};

/// A machine's disk, seen from outside. Nothing here takes simulated time.
#[derive(Clone)]
pub struct SimDisk(pub(crate) Rc<Disk>);

impl SimDisk {
    /// All files with their lengths, sorted by path, as processes see them now (durable or not).
    pub fn list_all(&self) -> Vec<(RelPath, u64)> {
        let state = self.0.state.borrow();
        let length = |content| state.contents.get(content).map_or(0, |content| content.bytes.len() as u64);
        state
            .names
            .iter()
            .filter_map(|(name, content)| Some((RelPath::new(name.clone()).ok()?, length(content))))
            .collect()
    }

    /// The bytes of a file, as processes see them now.
    pub fn peek(&self, path: &RelPath) -> Option<Bytes> {
        let state = self.0.state.borrow();
        state.content_of(path).ok().map(|(_, content)| Bytes::copy_from_slice(&content.bytes))
    }

    /// Removes a file, durably. False if there is none.
    pub fn remove_file(&self, path: &RelPath) -> bool {
        self.0.state.borrow_mut().forget(path)
    }

    /// Puts the bytes of `other` in the place of those of `path`, durably, under every name `path` has: a stale version, or
    /// the file of somebody else. False if either is not there or they are equal.
    pub fn put_in_place(&self, path: &RelPath, other: &RelPath) -> bool {
        let Some(bytes) = self.peek(other) else { return false };
        let changed = self.change(path, |present| {
            let differs = present[..] != bytes[..];
            if differs {
                *present = bytes.to_vec();
            }
            differs
        });
        if changed {
            let mut state = self.0.state.borrow_mut();
            if let Some(id) = state.names.get(path.as_str()).copied()
                && let Some(content) = state.contents.get_mut(&id)
            {
                content.durable = content.bytes.len();
            }
        }
        changed
    }

    /// Flips the bits of one byte, also under every other name of the same content. False if there is no such byte.
    pub fn corrupt(&self, path: &RelPath, offset: u64) -> bool {
        self.change(path, |bytes| {
            let byte = usize::try_from(offset).ok().and_then(|offset| bytes.get_mut(offset));
            byte.map(|byte| *byte ^= 0xff).is_some()
        })
    }

    /// Flips one bit of one byte, also under every other name of the same content. False if there is no such byte.
    pub fn flip_bit(&self, path: &RelPath, offset: u64) -> bool {
        self.change(path, |bytes| {
            let byte = usize::try_from(offset).ok().and_then(|offset| bytes.get_mut(offset));
            byte.map(|byte| *byte ^= 0x10).is_some()
        })
    }

    /// Cuts a file off, durably, under every name it has. False if it is not longer than `length`.
    pub fn truncate(&self, path: &RelPath, length: u64) -> bool {
        self.change(path, |bytes| {
            let cut = usize::try_from(length).ok().filter(|&length| length < bytes.len());
            cut.map(|length| bytes.truncate(length)).is_some()
        })
    }

    fn change(&self, path: &RelPath, change: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let mut state = self.0.state.borrow_mut();
        let Some(id) = state.names.get(path.as_str()).copied() else { return false };
        let Some(content) = state.contents.get_mut(&id) else { return false };
        let changed = change(&mut content.bytes);
        content.durable = content.durable.min(content.bytes.len());
        changed
    }

    /// Removes everything. Files that are open fail from now on.
    pub fn wipe(&self) {
        let mut state = self.0.state.borrow_mut();
        state.contents.values_mut().for_each(|content| content.open = 0);
        drop(state);
        self.0.wipe();
    }

    /// Makes operations fail.
    pub fn inject(&self, fault: DiskFault) -> FaultId {
        self.0.inject(fault)
    }

    /// How often an injected fault has struck.
    pub fn fired(&self, fault: FaultId) -> u32 {
        self.0.fired(fault)
    }

    /// No injected fault strikes any more.
    pub fn clear_faults(&self) {
        self.0.clear_faults();
    }

    pub fn set_capacity(&self, bytes: u64) {
        self.0.state.borrow_mut().config.capacity_bytes = bytes;
    }

    pub fn used(&self) -> u64 {
        self.0.state.borrow().used()
    }

    /// What the operations of a kind were charged for so far, in bytes (where sizes are modelled, so many times as much).
    pub fn moved(&self, operation: DiskOperation) -> u64 {
        self.0.state.borrow().moved.get(&operation).copied().unwrap_or(0)
    }

    /// Makes every operation take `factor` times as long; 1 is normal.
    pub fn set_slow(&self, factor: u32) {
        self.0.state.borrow_mut().slow_factor = factor.max(1);
    }

    /// Lets nothing that is begun from now on be done before `until`, as a device does that has stopped answering for a while.
    pub fn stall(&self, until: SimTime) {
        self.0.state.borrow_mut().stall(until);
    }

    /// Mounts another device at `path`: hard links and renames do not cross its border. Everything else is on device 0.
    pub fn mount(&self, path: &RelPath) -> DeviceId {
        let mut state = self.0.state.borrow_mut();
        let device = state.devices.len() as u64 + 1;
        DeviceId(*state.devices.entry(path.as_str().to_string()).or_insert(device))
    }
}

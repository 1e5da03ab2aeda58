//! What the nemesis may do to a world. A trait, so that the nemesis itself can be tested without one.

use std::time::Duration;

use crate::plan::{Damage, DiskErrorKind, DiskOperation, StoreErrorKind, StoreOperation};

/// What was hit, told to the invariants: it excuses exactly what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An object of the store was lost or its bytes changed.
    Object { name: String },
    /// A file of a local disk was removed, cut or changed.
    LocalFile { machine: String, path: String },
    /// The disk was wiped, or operations on it may fail.
    Disk { machine: String },
    /// A process was crashed, frozen, cut off or slowed.
    Process { process: String },
    /// The network or the store is slow or unavailable.
    Environment { what: String },
    /// All faults are over, and whoever comes back is back.
    Healed,
}

/// Each verb takes effect at once. Verbs on what is dead or unknown do nothing.
pub trait Verbs {
    fn now_ms(&self) -> u64;
    fn after(&self, delay: Duration, action: Box<dyn FnOnce()>);
    fn notice(&self, notice: Notice);

    fn is_alive(&self, process: &str) -> bool;
    fn crash(&self, process: &str);
    /// Starts a dead process anew.
    fn restart(&self, process: &str);
    fn lose_machine(&self, machine: &str);
    fn freeze(&self, process: &str);
    fn thaw(&self, process: &str);

    /// What `from` sends does not reach `to`.
    fn cut(&self, from: &str, to: &str);
    fn mend(&self, from: &str, to: &str);
    fn hold_channel(&self, channel: &str);
    fn slow_channel(&self, channel: &str, extra: Duration);
    /// Ends both.
    fn release_channel(&self, channel: &str);

    fn files(&self, machine: &str) -> Vec<String>;
    fn damage_file(&self, machine: &str, path: &str, damage: Damage);
    fn fill_disk(&self, machine: &str, full: bool);
    /// Gives a number under which [`Verbs::disk_errors_met`] tells how many operations failed by it.
    fn arm_disk_errors(&self, machine: &str, operation: DiskOperation, error: DiskErrorKind, count: u32) -> u64;
    fn disk_errors_met(&self, machine: &str, armed: u64) -> u64;
    fn disarm_disk_errors(&self, machine: &str, armed: u64);

    fn objects(&self, prefix: &str) -> Vec<String>;
    fn lose_object(&self, name: &str);
    fn corrupt_object(&self, name: &str);
    fn arm_store_errors(&self, operation: StoreOperation, contains: &str, error: StoreErrorKind, count: u32) -> u64;
    fn store_errors_met(&self, armed: u64) -> u64;
    fn disarm_store_errors(&self, armed: u64);
    fn store_outage(&self, duration: Duration);
}

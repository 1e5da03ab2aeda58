//! What the nemesis may do to a world. A trait, so that the nemesis itself can be tested without one.

use std::time::Duration;

use runtime::state::BackendKind;

use crate::plan::{Damage, DiskErrorKind, DiskOperation, ReadDamage, StoreErrorKind, StoreOperation};

/// What was hit, told to the invariants: it excuses exactly what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An object of the store was lost or its bytes changed.
    Object { name: String },
    /// A file of a local disk was removed, cut or changed.
    LocalFile { machine: String, path: String },
    /// The disk was wiped, or operations on it may fail.
    Disk { machine: String },
    /// What a process does with native files may fail, and its databases with it.
    NativeCode { process: String },
    /// A process was crashed, frozen, cut off or slowed.
    Process { process: String },
    /// The monotonic clock of a process runs wrong from now on, or right again.
    Clock { process: String, wrong: bool },
    /// The network or the store is slow or unavailable.
    Environment { what: String },
    /// All faults are over, and whoever comes back is back.
    Healed,
}

/// What is not as it should be for a while. Of two of a kind on the same thing the later one counts, until either ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// The connections that these two had; new ones work.
    HalfOpen {
        lost: String,
        believing: String,
    },
    Jitter {
        a: String,
        b: String,
        up_to_ms: u64,
    },
    Choked {
        a: String,
        b: String,
        divided_by: u32,
    },
    SlowDisk {
        machine: String,
        factor: u32,
    },
    LingeringDeletes {
        linger_ms: u64,
    },
    WallClock {
        machine: String,
        by_ms: i64,
    },
    Drift {
        machine: String,
        process: String,
        parts_per_million: i64,
    },
}

/// What requests to the store meet, beyond errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreTrouble {
    Throttled { retry_after_ms: u64 },
    Slow { delay_ms: u64 },
    Read(ReadDamage),
}

/// How a job that was stopped with a savepoint is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    pub parallelism: u32,
    /// None: as before.
    pub backend: Option<BackendKind>,
    /// In the next version of the job.
    pub next_version: bool,
    pub restart_after_ms: u64,
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
    /// The machine's power fails; its disk keeps what was durable and, by chance, some of the rest.
    fn power_loss(&self, machine: &str);
    /// Starts the second JobManager and leads new connections to it; or takes it away, and leads them back.
    fn second_job_manager(&self, there: bool);
    /// Processes that start from now on have the job at this parallelism.
    fn rescale(&self, parallelism: u32);
    /// A client asks the JobManager for a savepoint; with `resume` the job is to end with it and to be resumed from it.
    ///
    /// # Errors
    /// Why nobody can ask now.
    fn ask_for_savepoint(&self, resume: Option<Resume>) -> Result<(), String>;
    /// Lets a process hold so much more than now; `killed` is called right before it dies of it.
    fn limit_memory(&self, process: &str, headroom_bytes: u64, killed: Box<dyn Fn()>);
    fn lift_memory_limit(&self, process: &str);
    fn freeze(&self, process: &str);
    fn thaw(&self, process: &str);

    /// What `from` sends does not reach `to`.
    fn cut(&self, from: &str, to: &str);
    fn mend(&self, from: &str, to: &str);
    fn hold_channel(&self, channel: &str);
    fn slow_channel(&self, channel: &str, extra: Duration);
    /// Ends both.
    fn release_channel(&self, channel: &str);

    fn begin(&self, trouble: &Trouble);
    fn end(&self, trouble: &Trouble);
    /// How many connections there are between two processes.
    fn connections(&self, a: &str, b: &str) -> usize;
    fn reset_connections(&self, a: &str, b: &str);
    /// Gives a number under which [`Verbs::messages_met`] tells how many frames came twice by it.
    fn arm_messages(&self, from: &str, to: &str, channel: &str, count: u32, delay: Duration) -> u64;
    fn messages_met(&self, armed: u64) -> u64;
    fn disarm_messages(&self, armed: u64);

    fn files(&self, machine: &str) -> Vec<String>;
    /// Puts the bytes of another file of the machine in the place of a file's own. False if that changed nothing.
    fn put_in_place(&self, machine: &str, path: &str, other: &str) -> bool;
    fn stall_disk(&self, machine: &str, duration: Duration);
    fn separate_device(&self, machine: &str);
    /// False if that changed nothing.
    fn damage_file(&self, machine: &str, path: &str, damage: Damage) -> bool;
    /// Gives a number under which [`Verbs::disk_errors_met`] tells how often the file was read, or looked for, since.
    fn watch_file(&self, machine: &str, path: &str) -> u64;
    fn fill_disk(&self, machine: &str, full: bool);
    /// Only operations on paths that contain a text fail. Gives a number under which [`Verbs::disk_errors_met`] tells how many did.
    fn arm_disk_errors(
        &self,
        machine: &str,
        path_contains: &str,
        operation: DiskOperation,
        error: DiskErrorKind,
        count: u32,
    ) -> u64;
    fn disk_errors_met(&self, machine: &str, armed: u64) -> u64;
    fn disarm_disk_errors(&self, machine: &str, armed: u64);

    fn objects(&self, prefix: &str) -> Vec<String>;
    /// All objects that a completed checkpoint refers to; none if its metadata cannot be read.
    fn needed_by(&self, checkpoint: u64) -> Vec<String>;
    /// An object that was lost or corrupted is what it was, as in a store that keeps versions.
    fn put_back(&self, name: &str);
    fn lose_object(&self, name: &str);
    fn corrupt_object(&self, name: &str);
    fn arm_store_errors(&self, operation: StoreOperation, contains: &str, error: StoreErrorKind, count: u32) -> u64;
    fn arm_store_trouble(&self, operation: StoreOperation, contains: &str, trouble: StoreTrouble, count: u32) -> u64;
    fn store_errors_met(&self, armed: u64) -> u64;
    fn disarm_store_errors(&self, armed: u64);
    fn store_outage(&self, duration: Duration);
}

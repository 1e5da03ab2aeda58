//! The world as the invariants see it: what really lies on disks and in the store, and what really happened to it.
//!
//! An implementation must answer from the simulated world itself, never from what the runtime says about it, and answering
//! must have no effect (no event, no draw from a random stream, no time).

use std::time::Duration;

use bytes::Bytes;
use runtime::journal::Event;

/// Reads the simulated world.
pub trait Truth {
    /// Runs native code, to its end, where it sees a world that it understands.
    fn outside(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }

    /// Simulated time since the start of the run.
    fn now(&self) -> Duration;
    /// Objects in primary storage whose names start with `prefix`, with lengths, in order of names.
    fn objects(&self, prefix: &str) -> Vec<(String, u64)>;
    /// Names of objects whose upload in pieces was begun and neither finished nor given up, that start with `prefix`.
    fn unfinished(&self, prefix: &str) -> Vec<String>;
    /// An object's bytes as they lie in the store now (after loss and bit rot).
    fn object(&self, name: &str) -> Option<Bytes>;
    fn machines(&self) -> Vec<String>;
    /// Files on a machine's disk, with lengths, in order of paths.
    fn files(&self, machine: &str) -> Vec<(String, u64)>;
    fn file(&self, machine: &str, path: &str) -> Option<Bytes>;
    /// The machine a process runs on.
    fn machine_of(&self, process: &str) -> Option<String>;
    fn is_alive(&self, process: &str) -> bool;
    /// The most bytes that were ever in flight on each data connection, by its label `<from>-><to>`.
    fn channels(&self) -> Vec<(String, u64)>;
}

/// An event of the runtime, with what the world knows about its sender.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub at: Duration,
    pub process: &'a str,
    pub incarnation: u64,
    pub event: &'a Event,
}

/// What a store operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EffectKind {
    /// The object exists since now.
    Created,
    /// The object is gone since now.
    Deleted,
    /// The object was read, or a part of it.
    Read,
}

/// An effect on primary storage that has just taken place (not: was asked for).
#[derive(Clone, Copy, Debug)]
pub struct Effect<'a> {
    pub at: Duration,
    pub kind: EffectKind,
    pub object: &'a str,
    pub process: &'a str,
    pub incarnation: u64,
}

/// The nemesis tells the suite what it hit. A notice excuses exactly what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultNotice {
    /// An object in primary storage was lost or its bytes changed, or reads of it give wrong bytes.
    Object { name: String },
    /// A file on a local disk was removed, cut or changed.
    LocalFile { machine: String, path: String },
    /// The whole disk of a machine was wiped, or any operation on it may fail.
    Disk { machine: String },
    /// What a process does with native files may fail, and its databases with it: excuses snapshots that fail by that.
    NativeCode { process: String },
    /// A process was crashed, frozen, cut off or slowed, or its clock was moved. Excuses timings and lost slots only.
    Process { process: String },
    /// The monotonic clock of a process runs wrong from now on, or right again. Excuses timings in between.
    Clock { process: String, wrong: bool },
    /// A read of an object gave wrong bytes, the object itself is whole: excuses that it was taken for lost.
    Misread { name: String },
    /// The network or the store was slow or unavailable. Excuses timings only.
    Environment { what: String },
    /// All faults are over and everything that comes back is back.
    Healed,
}

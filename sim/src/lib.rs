//! The simulated world: a deterministic implementation of every trait of [`runtime::platform`], and [`World`], the set of
//! verbs with which a harness builds a cluster, breaks it and looks at what is left.
//!
//! What it may assume: one simulation runs on one fresh thread, and nothing but this crate touches madsim.
//! What it must never break: one seed is one execution, bit for bit, on every thread and in every process. So: ordered
//! maps only, no address, task id, thread id or real time in anything that reaches the trace or a decision, and every
//! random draw comes from a ChaCha stream named after what it is for.
//!
//! Simulated time is madsim's time divided by 1,000, because madsim cannot sleep for less than a millisecond. One queue
//! of events, ordered by (deadline, sequence), drives timers, links, disks and the store; see [`event_queue`].

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    reason = "this crate is the other side of the seam: it holds the simulation's own thread, its helper threads and its scratch \
              directories; what the runtime may touch is judged in the crate `runtime`"
)]

#[cfg(not(madsim))]
compile_error!(
    "the crate `sim` needs the simulator of madsim switched on. Add to .cargo/config.toml:\n\n    \
     [build]\n    rustflags = [\"--cfg\", \"madsim\"]\n\n\
     If the lines are there already, an environment variable RUSTFLAGS replaces them: unset it, or add `--cfg madsim` to it."
);

#[cfg(madsim)]
mod clock;
#[cfg(madsim)]
mod completion;
#[cfg(madsim)]
mod config;
#[cfg(madsim)]
mod connection;
#[cfg(madsim)]
mod disk;
#[cfg(madsim)]
mod disk_control;
#[cfg(madsim)]
mod disk_handle;
#[cfg(madsim)]
mod entropy;
#[cfg(madsim)]
mod event_queue;
#[cfg(madsim)]
mod inputs;
#[cfg(madsim)]
mod journal;
#[cfg(madsim)]
mod local;
#[cfg(madsim)]
mod memory;
#[cfg(madsim)]
mod native;
#[cfg(madsim)]
mod network;
#[cfg(madsim)]
mod network_faults;
#[cfg(madsim)]
mod process;
#[cfg(madsim)]
mod run;
#[cfg(madsim)]
mod scratch;
#[cfg(madsim)]
mod spawner;
#[cfg(madsim)]
mod store;
#[cfg(madsim)]
mod store_handle;
#[cfg(madsim)]
mod time;
#[cfg(madsim)]
mod trace;
#[cfg(madsim)]
mod transport;
#[cfg(madsim)]
mod world;

#[cfg(madsim)]
pub use crate::{
    config::{DiskConfig, Modelled, NetworkConfig, Reseed, StoreConfig, WorldConfig},
    disk::{DiskErrorKind, DiskFault, DiskOperation},
    disk_control::SimDisk,
    entropy::Stream,
    event_queue::Cancel,
    inputs::SimInputs,
    journal::{Listener, Stamped},
    memory::OnKill,
    network::{Direction, LabelPattern, Slow},
    network_faults::Echo,
    process::{Entry, ProcessStatus},
    run::{FailureKind, Outcome, RunPanic, run},
    scratch::{SCRATCH_VARIABLE, scratch_directory},
    store::{Effect, FaultId, SimStore, StoreEffect, StoreFault, StoreFaultKind, StoreOperation},
    time::SimTime,
    trace::Trace,
    world::World,
};

//! The simulated world, verb by verb and fault by fault.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "compares simulated time, disks and threads with real ones"
)]

mod crash;
mod disk;
mod network;
mod network_faults;
mod process;
mod reproducible;
mod store;
mod support;

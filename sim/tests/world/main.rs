//! The simulated world, verb by verb and fault by fault.

mod crash;
mod disk;
mod network;
mod process;
mod reproducible;
mod store;
mod support;

//! The chaos harness: plans drawn from seeds, faults, invariants, and the sweep that runs them by the thousand.
//!
//! `seed -> Plan -> run -> RunRecord`. Nothing in a run may depend on anything but the plan; whatever reads a real clock, starts
//! processes or prints (`sweep`, `audit`, `replay`, `cli`) stays outside of the run.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    reason = "around a run the harness starts processes, reads clocks and files and waits; a run itself goes through `sim`, and \
              that nothing of the outside reaches it is what the audit compares"
)]

pub mod audit;
pub mod blame;
pub mod child;
pub mod cli;
pub mod cluster_runner;
pub mod confirm;
pub mod confirm_fixed;
pub mod coverage;
pub mod exhaust;
pub mod exit;
pub mod explain;
#[cfg(feature = "figures")]
pub mod figures;
pub mod invariants;
pub mod kept;
pub mod modelled;
pub mod nemesis;
pub mod oracle;
pub mod past;
pub mod phase;
pub mod plan;
pub mod power;
pub mod record;
pub mod rehearsal;
pub mod replay;
pub mod run;
pub mod screen;
pub mod shrink;
pub mod sweep;
pub mod trouble;
pub mod violation;
pub mod worker;
pub mod workloads;
pub mod world_verbs;

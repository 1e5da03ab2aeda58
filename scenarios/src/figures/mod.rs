//! Figures: what a machine does with Weir, measured several times over, with the least and the middle of what was seen.
//!
//! A machine is seldom quiet, so every figure comes by the clock and by the processor time that it cost, with the load at its
//! beginning. Only figures of one session are to be compared.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "it measures the real machine; nothing of it reaches a run"
)]

mod chaos;
mod copies;
mod count;
mod local;
mod network;
mod options;
mod recovery;
mod shrink;
mod state;
mod usage;

use std::{
    ffi::OsString,
    fmt::{self, Display},
};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "figures", about = "Measures Weir on this machine", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    figure: Figure,
}

#[derive(Subcommand)]
enum Figure {
    /// Simulated clusters under faults: runs per second and core, simulated seconds per second.
    Chaos(chaos::Options),
    /// The same for every profile, with the medians of what its runs hold.
    Profiles(chaos::Effort),
    /// How long it takes to make the plans of planted bugs small, and how small they become.
    Shrink(shrink::Options),
    /// A keyed running count on a real cluster over loopback: records per second.
    Count(count::Options),
    /// Real processes, one TaskManager killed: seconds until everything runs again.
    Recovery(recovery::Options),
    /// Recovery from local copies against primary storage, for modelled sizes of state, in simulated time.
    Local(local::Options),
    /// What the second copy of state costs, for modelled sizes of state, in simulated time.
    Copies(copies::Options),
    /// Keyed state: operations per second, and what snapshots cost, for each backend.
    State(state::Options),
    /// RocksDB's predefined options and main keys: what each does to updates, reads, files and checkpoints.
    Options(options::Options),
    /// Messages per second through the simulated transport, beside bare madsim.
    Network(network::Options),
}

/// Runs the program. Gives the exit status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is no failure of its own.
            let _ = error.print();
            return if error.use_stderr() { 64 } else { 0 };
        }
    };
    let measured = match cli.figure {
        Figure::Chaos(options) => chaos::measure(&options),
        Figure::Profiles(effort) => chaos::measure_all(effort),
        Figure::Shrink(options) => shrink::measure(&options),
        Figure::Count(options) => count::measure(&options),
        Figure::Recovery(options) => recovery::measure(&options),
        Figure::Local(options) => local::measure(&options),
        Figure::Copies(options) => copies::measure(&options),
        Figure::State(options) => state::measure(&options),
        Figure::Options(options) => options::measure(&options),
        Figure::Network(options) => network::measure(&options),
    };
    match measured {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("weir: {error}");
            20
        }
    }
}

/// What several rounds gave.
#[derive(Default)]
struct Rounds(Vec<f64>);

impl Rounds {
    fn add(&mut self, value: f64) {
        self.0.push(value);
    }
}

impl Rounds {
    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    fn median(&self) -> f64 {
        let sorted = self.sorted();
        sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
    }
}

impl Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sorted = self.sorted();
        let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
        let (least, median, most) = (at(0), self.median(), at(sorted.len().saturating_sub(1)));
        let digits = if median < 100.0 { 2 } else { 0 };
        write!(f, "min {least:.digits$}  median {median:.digits$}  max {most:.digits$}  ({} rounds)", sorted.len())
    }
}

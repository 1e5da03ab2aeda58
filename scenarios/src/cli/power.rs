//! `power`: measures how soon each planted bug is found.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use runtime::sabotage::Sabotage;

use super::arguments::{parse_duration, parse_profile};
use crate::{
    plan::Profile,
    power::{PowerOptions, power},
    sweep::Exit,
};

#[derive(Args)]
pub(super) struct Power {
    /// A planted bug to hunt, by its name; all of them if none is given.
    #[arg(long = "bug", value_name = "NAME", value_parser = parse_bug)]
    bugs: Vec<Sabotage>,
    /// Sweeps per bug, each over seeds of its own.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    sweeps: u64,
    /// Runs per sweep at most.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    limit: u64,
    #[arg(long, value_parser = parse_profile)]
    profile: Option<&'static Profile>,
    /// Worker processes at a time; as many as there are cores if not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    jobs: Option<u32>,
    /// A run that takes longer than this in real time hangs.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    run_limit: Duration,
    /// Write the scoreboard into this file.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Compare with this scoreboard: what it found must still be found, and about as soon.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

fn parse_bug(name: &str) -> Result<Sabotage, String> {
    Sabotage::named(name).ok_or_else(|| {
        let names: Vec<String> = Sabotage::ALL.iter().map(|bug| bug.name()).collect();
        format!("no planted bug is called {name:?}; there are {}", names.join(", "))
    })
}

pub(super) fn run(given: Power) -> Result<Exit, String> {
    let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let options = PowerOptions {
        bugs: given.bugs,
        sweeps: given.sweeps,
        limit: given.limit,
        profile: given.profile,
        jobs: given.jobs.unwrap_or(cores),
        run_limit: given.run_limit,
        out: given.out,
        check: given.check,
    };
    power(&options, &mut std::io::stdout())
}

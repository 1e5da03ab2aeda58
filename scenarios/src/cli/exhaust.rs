//! `exhaust`: every fault at every step of one seed's clean run.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{
    arguments::{Workload, parse_duration, parse_profile, parse_seed},
    ended, usage_error,
};
use crate::{
    confirm::Limits,
    exhaust::{ExhaustOptions, exhaust},
    exit::Exit,
    plan::Profile,
};

#[derive(Args)]
pub(super) struct Exhaust {
    #[arg(long, default_value_t = 7, value_parser = parse_seed)]
    seed: u64,
    #[arg(long, default_value = "default", value_parser = parse_profile)]
    profile: &'static Profile,
    /// A matrix, each cell of which is run, instead of the faults of a profile. `local`: every file of a local copy, harmed in
    /// every way, in all company.
    #[arg(long, value_enum, conflicts_with_all = ["pairs", "profile"])]
    matrix: Option<Matrix>,
    #[command(flatten)]
    workload: Workload,
    /// Worker processes at a time; as many as there are cores if not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    jobs: Option<u32>,
    /// Begin no run after this time: `90s`, `10m`, `2h`. What was not run is said, and the status is 12.
    #[arg(long, value_parser = parse_duration)]
    budget: Option<Duration>,
    /// Besides, so many pairs of faults within one checkpoint.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pairs: u32,
    /// A run that takes longer than this in real time hangs.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    run_limit: Duration,
    /// Runs per worker process.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// Write the records, and the plans of failed runs, into this directory.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Matrix {
    Local,
}

pub(super) fn run(options: Exhaust) -> Result<Exit, String> {
    if let Err(error) = options.workload.check(&options.workload.of_seed(options.seed, options.profile).plan()?) {
        return usage_error(&error);
    }
    let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let options = ExhaustOptions {
        seed: options.seed,
        matrix: matches!(options.matrix, Some(Matrix::Local)),
        profile: options.profile,
        job: options.workload.job,
        parameters: options.workload.parameters,
        jobs: options.jobs.unwrap_or(cores),
        batch: options.batch,
        limits: Limits::from(options.run_limit),
        budget: options.budget,
        pairs: options.pairs,
        out: options.out,
    };
    ended(exhaust(&options, &mut std::io::stdout()))
}

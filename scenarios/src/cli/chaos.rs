//! `chaos`: runs the plans of many seeds and judges them.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    arguments::{Workload, parse_duration, parse_profile, parse_seeds},
    usage_error,
};
use crate::{
    plan::Profile,
    sweep::{Exit, SweepOptions, sweep},
};

#[derive(Args)]
pub(super) struct Chaos {
    /// Seeds to run: `0..1000` (without 1000), or one number.
    #[arg(long, value_parser = parse_seeds)]
    seeds: (u64, u64),
    /// Worker processes at a time; as many as there are cores if not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    jobs: Option<u32>,
    #[arg(long, default_value = "default", value_parser = parse_profile)]
    profile: &'static Profile,
    #[command(flatten)]
    workload: Workload,
    /// Begin no run after this time: `90s`, `10m`, `2h`.
    #[arg(long, value_parser = parse_duration)]
    budget: Option<Duration>,
    /// A run that takes longer than this in real time hangs.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    run_limit: Duration,
    /// Runs per worker process.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// Write records, summary and the plans of failed runs into this directory.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Run each seed in two processes and compare them event by event.
    #[arg(long)]
    audit: bool,
}

pub(super) fn run(chaos: Chaos) -> Result<Exit, String> {
    if let Err(error) = chaos.workload.check(&chaos.workload.of_seed(chaos.seeds.0, chaos.profile).plan()?) {
        return usage_error(&error);
    }
    let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let options = SweepOptions {
        seeds: chaos.seeds,
        jobs: chaos.jobs.unwrap_or(cores),
        profile: chaos.profile,
        job: chaos.workload.job,
        parameters: chaos.workload.parameters,
        budget: chaos.budget,
        run_limit: chaos.run_limit,
        batch: chaos.batch,
        out: chaos.out,
        audit: chaos.audit,
    };
    sweep(&options, &mut std::io::stdout())
}

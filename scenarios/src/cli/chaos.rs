//! `chaos`: runs the plans of many seeds and judges them.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    arguments::{Workload, parse_bytes, parse_duration, parse_profile, parse_seeds, parse_shard},
    ended,
};
use crate::{
    confirm::Limits,
    plan::Profile,
    sweep::{Exit, Output, Shard, SweepOptions, stored_options, sweep},
    trouble::Trouble,
};

const RUN_LIMIT: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(super) struct Chaos {
    /// Seeds to run: `0..1000` (without 1000), or one number.
    #[arg(long, value_parser = parse_seeds, required_unless_present = "resume")]
    seeds: Option<(u64, u64)>,
    /// Worker processes at a time; as many as there are cores if not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    jobs: Option<u32>,
    /// What plans are drawn from [default: default].
    #[arg(long, value_parser = parse_profile)]
    profile: Option<&'static Profile>,
    #[command(flatten)]
    workload: Workload,
    /// Begin no run after this time: `90s`, `10m`, `2h`.
    #[arg(long, value_parser = parse_duration)]
    budget: Option<Duration>,
    /// A run that takes longer than this in real time hangs [default: 30s].
    #[arg(long, value_parser = parse_duration)]
    run_limit: Option<Duration>,
    /// The address space that the process of a run may have: `512MiB`, `4GiB` [default: 4GiB].
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    memory_limit: Option<u64>,
    /// Runs per worker process.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// Run only share I of N: the seeds that leave I when divided by N. Without it JOB_COMPLETION_INDEX says which.
    #[arg(long, value_name = "I/N", value_parser = parse_shard, conflicts_with = "shards")]
    shard: Option<Shard>,
    /// How many shards there are, where JOB_COMPLETION_INDEX says which this is; WEIR_SHARDS says it too.
    #[arg(long, value_name = "N")]
    shards: Option<u64>,
    /// Write records, summary and the plans of failed runs into this directory. It must not hold a sweep yet.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the sweep in this directory: its seeds that have no record are run. With `--out` of the same directory, begin
    /// one if there is none.
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// Run each seed in two processes and compare them event by event.
    #[arg(long)]
    audit: bool,
    /// So many runs more, each aimed at a fault in a phase, or with a path of recovery, that was hit least so far.
    #[arg(long, default_value_t = 0, conflicts_with_all = ["job", "parameters"], value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    steer: u32,
}

pub(super) fn run(chaos: Chaos) -> Result<Exit, String> {
    ended(options(chaos).and_then(|options| sweep(&options, &mut std::io::stdout())))
}

fn options(chaos: Chaos) -> Result<SweepOptions, Trouble> {
    let shard = match chaos.shard {
        Some(shard) => Some(shard),
        None => Shard::of_environment(chaos.shards, &|name| std::env::var(name).ok()).map_err(Trouble::Usage)?,
    };
    let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let mut options = SweepOptions {
        seeds: chaos.seeds.unwrap_or_default(),
        jobs: chaos.jobs.unwrap_or(cores),
        profile: chaos.profile.unwrap_or(Profile::named("default").unwrap_or(&crate::plan::profile::ALL[0])),
        job: chaos.workload.job.clone(),
        parameters: chaos.workload.parameters.clone(),
        budget: chaos.budget,
        limits: Limits {
            run: chaos.run_limit.unwrap_or(RUN_LIMIT),
            memory: chaos.memory_limit.unwrap_or(Limits::MEMORY),
        },
        batch: chaos.batch,
        shard,
        output: chaos.out.clone().map_or(Output::Nowhere, Output::New),
        audit: chaos.audit,
        steer: chaos.steer,
    };
    if let Some(path) = &chaos.resume {
        if chaos.out.as_ref().is_some_and(|out| out != path) {
            return Err(Trouble::Usage("--out and --resume name different directories".to_string()));
        }
        match stored_options(path)? {
            // What was not said is as it was.
            Some(stored) => {
                options.seeds = chaos.seeds.unwrap_or((stored.first_seed, stored.end_seed));
                options.profile = chaos.profile.or(Profile::named(&stored.profile)).unwrap_or(options.profile);
                options.job = chaos.workload.job.clone().or(stored.job);
                if options.parameters.is_empty() {
                    options.parameters = stored.parameters;
                }
                options.shard = shard.or(stored.shard);
                options.audit |= stored.audit;
                options.limits = Limits {
                    run: chaos.run_limit.unwrap_or(Duration::from_millis(stored.run_limit_ms)),
                    memory: chaos.memory_limit.unwrap_or(stored.memory_limit_bytes),
                };
                options.output = Output::Resumed(path.clone());
            }
            None if chaos.out.is_some() && chaos.seeds.is_some() => {}
            None => {
                return Err(Trouble::Usage(format!(
                    "--resume: {} holds no sweep; begin one with --seeds and --out",
                    path.display()
                )));
            }
        }
    }
    let workload = Workload { job: options.job.clone(), parameters: options.parameters.clone() };
    let plan = workload.of_seed(options.seeds.0, options.profile).plan()?;
    workload.check(&plan).map_err(Trouble::Usage)?;
    Ok(options)
}

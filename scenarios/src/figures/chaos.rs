//! Runs of the chaos harness in one worker process after another, as a sweep does them on one core.

use std::time::Duration;

use crate::{
    confirm::Runner,
    plan::Profile,
    sweep::expectation,
    worker::{Request, What},
};
use clap::Args;
use reports::{Summary, Verdict};

use super::{
    Rounds,
    usage::{Meter, load},
};

#[derive(Args)]
pub struct Options {
    #[arg(long, default_value = "default")]
    profile: String,
    /// Seeds of each round, from 0.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Runs per worker process.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
}

pub fn measure(options: &Options) -> Result<(), String> {
    let profile = Profile::named(&options.profile)
        .ok_or_else(|| format!("no profile {:?}; there are {}", options.profile, Profile::names()))?;
    let mut summary = Summary::new(expectation(profile));
    let (mut by_clock, mut by_processor, mut simulated) = (Rounds::default(), Rounds::default(), Rounds::default());
    println!("chaos  profile {}, seeds 0..{}, one process at a time, {}", profile.name, options.seeds, load());
    for _ in 0..options.rounds {
        let meter = Meter::start();
        let mut simulated_ms = 0;
        let mut runner = Runner::new(options.batch, Duration::from_secs(60));
        for seed in 0..options.seeds {
            let what = What::Seed { seed, profile: profile.name.to_string(), job: None, parameters: Vec::new() };
            let record = runner.once(&Request { what, segment: None })?.record;
            if record.verdict == Verdict::Environment {
                return Err(record.message.unwrap_or_else(|| "a worker could not run".to_string()));
            }
            simulated_ms += record.timings.simulated_ms;
            summary.add(&record);
        }
        // The last worker's time counts once it has been waited for.
        drop(runner);
        let used = meter.read();
        let runs = options.seeds as f64;
        by_clock.add(runs / used.wall_seconds);
        by_processor.add(runs / used.processor_seconds.max(0.01));
        simulated.add(simulated_ms as f64 / 1_000.0 / used.wall_seconds);
    }
    println!("  runs/s/core, by the clock          {by_clock}");
    println!("  runs/s/core, by processor time     {by_processor}");
    println!("  simulated seconds per second       {simulated}");
    let verdicts: Vec<String> = summary.verdicts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    println!("  verdicts: {}", verdicts.join(", "));
    let medians: Vec<String> =
        summary.floor_lines().iter().map(|(name, median, _)| format!("{name} {median}")).collect();
    println!("  medians of a run: {}", medians.join(", "));
    Ok(())
}

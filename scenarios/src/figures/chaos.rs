//! Runs of the chaos harness in one worker process after another, as a sweep does them on one core.

use std::time::Duration;

use crate::{
    confirm::Runner,
    plan::{Profile, profile},
    sweep::expectation,
    worker::{Request, What},
};
use clap::Args;
use reports::{Summary, Verdict};

use super::{
    Rounds,
    usage::{Meter, load},
};

/// How it is measured.
#[derive(Args, Clone, Copy)]
pub struct Effort {
    /// Seeds of each round, from 0.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Runs per worker process.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
}

#[derive(Args)]
pub struct Options {
    #[arg(long, default_value = "default")]
    profile: String,
    #[command(flatten)]
    effort: Effort,
}

/// What runs of one profile gave.
pub struct Measured {
    pub by_clock: Rounds,
    pub by_processor: Rounds,
    pub simulated: Rounds,
    pub summary: Summary,
}

pub fn measure_profile(profile: &Profile, effort: Effort) -> Result<Measured, String> {
    let mut summary = Summary::new(expectation(profile));
    let (mut by_clock, mut by_processor, mut simulated) = (Rounds::default(), Rounds::default(), Rounds::default());
    for _ in 0..effort.rounds {
        let meter = Meter::start();
        let mut simulated_ms = 0;
        let mut runner = Runner::new(effort.batch, Duration::from_secs(60));
        for seed in 0..effort.seeds {
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
        let runs = effort.seeds as f64;
        by_clock.add(runs / used.wall_seconds);
        by_processor.add(runs / used.processor_seconds.max(0.01));
        simulated.add(simulated_ms as f64 / 1_000.0 / used.wall_seconds);
    }
    Ok(Measured { by_clock, by_processor, simulated, summary })
}

pub fn measure(options: &Options) -> Result<(), String> {
    let profile = Profile::named(&options.profile)
        .ok_or_else(|| format!("no profile {:?}; there are {}", options.profile, Profile::names()))?;
    println!("chaos  profile {}, seeds 0..{}, one process at a time, {}", profile.name, options.effort.seeds, load());
    let Measured { by_clock, by_processor, simulated, summary } = measure_profile(profile, options.effort)?;
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

/// The same for every profile, a line each.
pub fn measure_all(effort: Effort) -> Result<(), String> {
    println!(
        "profiles  seeds 0..{} of each, {} rounds, one process at a time, medians, {}",
        effort.seeds,
        effort.rounds,
        load()
    );
    let mut is_first = true;
    for profile in profile::ALL {
        let measured = measure_profile(profile, effort)?;
        let floor = measured.summary.floor_lines();
        if std::mem::take(&mut is_first) {
            let names: Vec<&str> = floor.iter().map(|(name, ..)| *name).collect();
            println!("  profile          runs/s/core  by processor  simulated s/s  {}", names.join(" · "));
        }
        let [clock, processor, simulated] =
            [&measured.by_clock, &measured.by_processor, &measured.simulated].map(Rounds::median);
        let medians: Vec<String> = floor.iter().map(|(_, median, _)| median.to_string()).collect();
        println!("  {:<16} {clock:>11.1} {processor:>13.1} {simulated:>14.0}  {}", profile.name, medians.join(" · "));
        for (name, count) in measured.summary.verdicts.iter().filter(|(name, _)| name.as_str() != "clean") {
            println!("    {count} {name}");
        }
    }
    Ok(())
}

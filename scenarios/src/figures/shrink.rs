//! How long a failing plan takes to become small: planted bugs, each at its first failing seeds.

use std::time::Duration;

use clap::Args;
use runtime::sabotage::Sabotage;

use super::{
    Rounds,
    usage::{Meter, load},
};
use crate::{
    confirm::Runner,
    plan::{Plan, Profile, generate},
    shrink::shrink,
    worker::{Request, What},
};

#[derive(Args)]
pub struct Options {
    /// Planted bugs, by name; all if none is given.
    #[arg(long)]
    bug: Vec<String>,
    /// Failing plans of each.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    plans: u32,
    /// Seeds that are tried for them.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Worker processes at a time.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    jobs: u32,
    /// Time for each plan, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    budget_seconds: u64,
}

const RUN_LIMIT: Duration = Duration::from_secs(30);

/// The first failing plans of a bug.
fn failing(bug: Sabotage, options: &Options) -> Result<Vec<Plan>, String> {
    let wanted = bug.defect().profile;
    let profile = Profile::named(wanted).ok_or_else(|| format!("no profile is called {wanted:?}"))?;
    let mut runner = Runner::new(8, RUN_LIMIT);
    let mut found = Vec::new();
    for seed in 0..options.seeds {
        if found.len() >= options.plans as usize {
            break;
        }
        let mut plan = generate(profile, seed);
        plan.sabotage = vec![bug];
        let request = Request { what: What::Plan(plan.to_toml()), segment: None };
        if runner.once(&request)?.record.verdict.is_failure() {
            found.push(plan);
        }
    }
    Ok(found)
}

pub fn measure(options: &Options) -> Result<(), String> {
    let named = |name: &String| Sabotage::named(name).ok_or_else(|| format!("no planted bug is called {name:?}"));
    let bugs: Vec<Sabotage> = match options.bug.as_slice() {
        [] => Sabotage::ALL.to_vec(),
        names => names.iter().map(named).collect::<Result<_, _>>()?,
    };
    println!("shrink  {} jobs, at most {} s each, {}", options.jobs, options.budget_seconds, load());
    let (mut seconds, mut faults) = (Rounds::default(), Rounds::default());
    for bug in bugs {
        for plan in failing(bug, options)? {
            let meter = Meter::start();
            let budget = Duration::from_secs(options.budget_seconds);
            let Ok(shrunk) = shrink(&plan, options.jobs, budget, RUN_LIMIT)? else {
                println!("  {:<28} seed {:<4} does not fail the same way again", bug.name(), plan.seed);
                continue;
            };
            let took = meter.read().wall_seconds;
            println!(
                "  {:<28} seed {:<4} {took:>5.1} s  {:>4} runs  faults {} -> {}  records {} -> {}{}",
                bug.name(),
                plan.seed,
                shrunk.runs,
                plan.faults.len(),
                shrunk.after.faults.len(),
                plan.workload.records,
                shrunk.after.workload.records,
                if shrunk.is_finished { "" } else { "  (out of time)" }
            );
            seconds.add(took);
            faults.add(shrunk.after.faults.len() as f64);
        }
    }
    println!("  seconds      {seconds}");
    println!("  faults left  {faults}");
    Ok(())
}

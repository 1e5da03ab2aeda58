//! The command line. Whatever is wrong with it is one line on standard error and status 64.

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    plan::{Plan, Profile, generate},
    rehearsal, replay, run,
    sweep::{Exit, SweepOptions, sweep},
    worker::{self, What},
};

#[derive(Parser)]
#[command(name = "weir", about = "Puts stream jobs through chaos, deterministically.", version)]
#[command(after_help = "Exit status: 0 clean, 10 violation, 11 nondeterminism, 12 the harness proved blind, \
                        20 the environment failed, 64 usage.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the plans of many seeds and judges them.
    Chaos(Chaos),
    /// Runs one plan and tells its story.
    Replay(Replay),
    /// Prints the plan of a seed as TOML.
    Plan(Chosen),
    /// Lists the profiles.
    Profiles,
    #[command(hide = true)]
    Worker,
}

#[derive(Args)]
struct Chaos {
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

#[derive(Args)]
struct Workload {
    /// The job to run, instead of the profile's.
    #[arg(long, value_parser = parse_job)]
    job: Option<String>,
    /// Sets a parameter of the job.
    #[arg(long = "set", value_name = "NAME=NUMBER", value_parser = parse_parameter)]
    parameters: Vec<(String, u64)>,
}

#[derive(Args)]
struct Chosen {
    #[arg(long, value_parser = parse_seed)]
    seed: u64,
    #[arg(long, default_value = "default", value_parser = parse_profile)]
    profile: &'static Profile,
    #[command(flatten)]
    workload: Workload,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["seed", "plan"]))]
struct Replay {
    #[arg(long, value_parser = parse_seed)]
    seed: Option<u64>,
    /// A plan as TOML.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["profile", "job", "parameters"])]
    plan: Option<PathBuf>,
    #[arg(long, default_value = "default", value_parser = parse_profile)]
    profile: &'static Profile,
    #[command(flatten)]
    workload: Workload,
    /// Neither the plan nor the story, only how it ended.
    #[arg(long)]
    quiet: bool,
}

fn parse_seed(text: &str) -> Result<u64, String> {
    let seed: u64 = text.trim().parse().map_err(|_| format!("{text:?} is no seed; seeds are whole numbers from 0"))?;
    if i64::try_from(seed).is_err() {
        return Err(format!("{seed} is too large; the largest seed is {}", i64::MAX));
    }
    Ok(seed)
}

fn parse_seeds(text: &str) -> Result<(u64, u64), String> {
    let Some((first, end)) = text.split_once("..") else {
        let seed = parse_seed(text)?;
        return Ok((seed, seed + 1));
    };
    let first = parse_seed(first)?;
    let end = match end.strip_prefix('=') {
        Some(last) => parse_seed(last)? + 1,
        None => parse_seed(end)?,
    };
    if first >= end { Err(format!("the range {text} holds no seed")) } else { Ok((first, end)) }
}

fn parse_profile(name: &str) -> Result<&'static Profile, String> {
    Profile::named(name).ok_or_else(|| format!("no profile is called {name:?}; there are {}", Profile::names()))
}

fn parse_job(name: &str) -> Result<String, String> {
    run::check_job(name).map(|()| name.to_string()).map_err(|error| error.to_string())
}

fn parse_parameter(text: &str) -> Result<(String, u64), String> {
    let wrong = || format!("{text:?} is no NAME=NUMBER");
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    let value = value.parse().map_err(|_| wrong())?;
    if name.is_empty() || i64::try_from(value).is_err() { Err(wrong()) } else { Ok((name.to_string(), value)) }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write 500ms, 90s, 10m or 2h");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" | "" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    match milliseconds {
        Some(1..=604_800_000) => Ok(Duration::from_millis(milliseconds.unwrap_or_default())),
        _ => Err(wrong()),
    }
}

/// Runs the program. Gives the exit status.
pub fn main(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> i32 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            // Help and version. A closed pipe is no failure of theirs.
            let _ = error.print();
            return Exit::Clean as i32;
        }
        Err(error) => return usage(&one_line(&error.render().to_string())),
    };
    let result = match cli.command {
        Command::Chaos(chaos) => run_chaos(chaos),
        Command::Replay(options) => run_replay(&options),
        Command::Plan(chosen) => print_plan(&chosen),
        Command::Profiles => print_profiles(),
        Command::Worker => worker::serve(std::io::stdin().lock(), std::io::stdout().lock())
            .map(|()| Exit::Clean)
            .map_err(|error| format!("worker: {error}")),
    };
    match result {
        Ok(exit) => exit as i32,
        Err(message) => {
            eprintln!("weir: {message}");
            Exit::Environment as i32
        }
    }
}

fn usage(message: &str) -> i32 {
    eprintln!("weir: {message}");
    Exit::Usage as i32
}

/// What clap has to say, without its usage text.
fn one_line(text: &str) -> String {
    let first: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let message = first.join(" ");
    if text.trim_start().starts_with("error:") {
        format!("{} (see --help)", message.trim_start_matches("error: "))
    } else {
        "say what to do: chaos, replay, plan or profiles (see --help)".to_string()
    }
}

fn print(text: &str) -> Result<Exit, String> {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => Ok(Exit::Clean),
        // Somebody has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Exit::Clean),
        Err(error) => Err(format!("cannot write to standard output: {error}")),
    }
}

fn usage_error(message: &str) -> Result<Exit, String> {
    usage(message);
    Ok(Exit::Usage)
}

fn run_chaos(chaos: Chaos) -> Result<Exit, String> {
    if let Err(error) = check(&seed_of(chaos.seeds.0, chaos.profile, &chaos.workload).plan()?, &chaos.workload) {
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

fn seed_of(seed: u64, profile: &Profile, workload: &Workload) -> What {
    What::Seed {
        seed,
        profile: profile.name.to_string(),
        job: workload.job.clone(),
        parameters: workload.parameters.clone(),
    }
}

/// Whether a plan's job can be built, before any work is begun; `given` is what of it was said on the command line.
fn check(plan: &Plan, given: &Workload) -> Result<(), String> {
    if plan.workload.name == rehearsal::NAME
        && let Some((unknown, _)) = given.parameters.iter().find(|(n, _)| !rehearsal::PARAMETERS.contains(&n.as_str()))
    {
        let known = rehearsal::PARAMETERS.join(", ");
        return Err(format!("job {} has no parameter {unknown:?}; there are {known}", rehearsal::NAME));
    }
    run::check_plan(plan).map_err(|error| error.to_string())
}

fn print_plan(chosen: &Chosen) -> Result<Exit, String> {
    let plan = seed_of(chosen.seed, chosen.profile, &chosen.workload).plan()?;
    if let Err(error) = check(&plan, &chosen.workload) {
        return usage_error(&error);
    }
    print(plan.to_toml().trim_end())
}

fn run_replay(options: &Replay) -> Result<Exit, String> {
    let (plan, what, file) = match (&options.plan, options.seed) {
        (Some(path), _) => {
            let shown = path.display().to_string();
            let text = match std::fs::read_to_string(path) {
                Ok(text) => text,
                Err(error) => return usage_error(&format!("cannot read {shown}: {error}")),
            };
            match Plan::from_toml(&text) {
                Ok(plan) => (plan, What::Plan(text), Some(shown)),
                Err(error) => return usage_error(&format!("{shown}: {error}")),
            }
        }
        (None, Some(seed)) => {
            let what = seed_of(seed, options.profile, &options.workload);
            (what.plan()?, what, None)
        }
        (None, None) => return usage_error("say --seed or --plan"),
    };
    if let Err(error) = check(&plan, &options.workload) {
        return usage_error(&match &file {
            Some(file) => format!("{file}: {error}"),
            None => error,
        });
    }
    replay::replay(&plan, &what, file.as_deref(), options.quiet, std::io::stdout().is_terminal())
}

fn print_profiles() -> Result<Exit, String> {
    let mut text = String::new();
    for profile in crate::plan::profile::ALL {
        let faults = generate(profile, 0).faults.len();
        text.push_str(&format!(
            "{:<15} {} ({} fault classes, {faults} faults under seed 0, judged from {} seeds on)\n",
            profile.name,
            profile.about,
            profile.faults.len(),
            profile.minimum_seeds
        ));
    }
    text.push_str(&format!("parameters of the job {}: {}", rehearsal::NAME, rehearsal::PARAMETERS.join(", ")));
    print(&text)
}

//! Arguments that commands share, and how their texts are read.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    coverage::steer::{Goal, steered_run},
    plan::{Plan, Profile},
    rehearsal, run,
    sweep::Shard,
    worker::What,
};

#[derive(Args, Clone)]
pub(super) struct Workload {
    /// The job to run, instead of the profile's.
    #[arg(long, value_parser = parse_job)]
    pub(super) job: Option<String>,
    /// Sets a parameter of the job.
    #[arg(long = "set", value_name = "NAME=NUMBER", value_parser = parse_parameter)]
    pub(super) parameters: Vec<(String, u64)>,
}

impl Workload {
    /// The seed's plan with what was said about the workload.
    pub(super) fn of_seed(&self, seed: u64, profile: &Profile) -> What {
        What::Seed {
            seed,
            profile: profile.name.to_string(),
            job: self.job.clone(),
            parameters: self.parameters.clone(),
        }
    }

    /// Whether a plan's job can be built, before any work is begun; `self` is what of it was said on the command line.
    pub(super) fn check(&self, plan: &Plan) -> Result<(), String> {
        if plan.workload.name == rehearsal::NAME
            && let Some((unknown, _)) =
                self.parameters.iter().find(|(n, _)| !rehearsal::PARAMETERS.contains(&n.as_str()))
        {
            let known = rehearsal::PARAMETERS.join(", ");
            return Err(format!("job {} has no parameter {unknown:?}; there are {known}", rehearsal::NAME));
        }
        run::check_plan(plan).map_err(|error| error.to_string())
    }
}

/// How much of the machine a command that runs many plans may use.
#[derive(Args)]
pub(super) struct Effort {
    /// Worker processes at a time; as many as there are cores if not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    jobs: Option<u32>,
    /// A run that takes longer than this in real time hangs.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    pub(super) run_limit: Duration,
}

impl Effort {
    pub(super) fn jobs(&self) -> u32 {
        let cores = || std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        self.jobs.unwrap_or_else(cores)
    }
}

/// A seed, and what is to be drawn from it.
#[derive(Args)]
pub(super) struct Chosen {
    #[arg(long, value_parser = parse_seed)]
    pub(super) seed: u64,
    #[arg(long, default_value = "default", value_parser = parse_profile)]
    pub(super) profile: &'static Profile,
    #[command(flatten)]
    pub(super) workload: Workload,
}

/// One run: of a seed, or of a plan in a file.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["seed", "plan"]))]
pub(super) struct Subject {
    #[arg(long, value_parser = parse_seed)]
    seed: Option<u64>,
    /// A plan as TOML.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["profile", "job", "parameters"])]
    plan: Option<PathBuf>,
    #[arg(long, default_value = "default", value_parser = parse_profile)]
    profile: &'static Profile,
    #[command(flatten)]
    workload: Workload,
    /// The seed's plan, aimed at a cell of the coverage tables: `freeze@phase-align`, `freeze@path-replay`.
    #[arg(long, value_name = "GOAL", requires = "seed", conflicts_with_all = ["plan", "job", "parameters"], value_parser = parse_goal)]
    steer: Option<Goal>,
}

/// A [`Subject`], read and checked.
pub(super) struct Read {
    pub(super) plan: Plan,
    pub(super) what: What,
    /// The name of the plan's file.
    pub(super) file: Option<String>,
}

impl Subject {
    /// # Errors
    /// A line for the user: the file cannot be read, or the plan cannot be run.
    pub(super) fn read(&self) -> Result<Read, String> {
        let read = match (&self.plan, self.seed) {
            (Some(path), _) => {
                let shown = path.display().to_string();
                let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
                let plan = Plan::from_toml(&text).map_err(|error| format!("{shown}: {error}"))?;
                Read { plan, what: What::Plan(text), file: Some(shown) }
            }
            (None, Some(seed)) => {
                let what = match self.steer {
                    Some(goal) => steered_run(seed, self.profile, goal),
                    None => self.workload.of_seed(seed, self.profile),
                };
                Read { plan: what.plan()?, what, file: None }
            }
            (None, None) => return Err("say --seed or --plan".to_string()),
        };
        self.workload.check(&read.plan).map_err(|error| match &read.file {
            Some(file) => format!("{file}: {error}"),
            None => error,
        })?;
        Ok(read)
    }
}

pub(super) fn parse_goal(text: &str) -> Result<Goal, String> {
    text.parse()
}

pub(super) fn parse_seed(text: &str) -> Result<u64, String> {
    let seed: u64 = text.trim().parse().map_err(|_| format!("{text:?} is no seed; seeds are whole numbers from 0"))?;
    if i64::try_from(seed).is_err() {
        return Err(format!("{seed} is too large; the largest seed is {}", i64::MAX));
    }
    Ok(seed)
}

pub(super) fn parse_seeds(text: &str) -> Result<(u64, u64), String> {
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

pub(super) fn parse_shard(text: &str) -> Result<Shard, String> {
    Shard::parse(text)
}

pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no amount of memory; write 512MiB or 4GiB");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let shift = match unit {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(wrong()),
    };
    let bytes = number.checked_mul(1 << shift).ok_or_else(wrong)?;
    // Below this no worker comes to its first line.
    if bytes < 64 << 20 { Err(format!("{text} is too little; the least is 64MiB")) } else { Ok(bytes) }
}

pub(super) fn parse_profile(name: &str) -> Result<&'static Profile, String> {
    Profile::named(name).ok_or_else(|| format!("no profile is called {name:?}; there are {}", Profile::names()))
}

pub(super) fn parse_job(name: &str) -> Result<String, String> {
    run::check_job(name).map(|()| name.to_string()).map_err(|error| error.to_string())
}

pub(super) fn parse_parameter(text: &str) -> Result<(String, u64), String> {
    let wrong = || format!("{text:?} is no NAME=NUMBER");
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    let value = value.parse().map_err(|_| wrong())?;
    if name.is_empty() || i64::try_from(value).is_err() { Err(wrong()) } else { Ok((name.to_string(), value)) }
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
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

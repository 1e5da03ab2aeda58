//! The exhaustive mode: from the clean run of one seed, every kind of fault at every step of the protocol, one run for each.
//! Where a random sweep says "nothing was found", this says what was tried, and that it was all.
//!
//! Two runs give the steps: the seed's plan without its faults, and the same with one TaskManager crashed in its middle, of
//! which the steps of the recovery are taken. Up to its step a run with a fault is the run without it, event by event; so a
//! trigger that never comes is an error of the harness and not a property of the plan.

pub mod local_matrix;
pub mod matrix;
mod placements;
mod statement;
mod steps;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reports::{RunRecord, Verdict, failure_screen};
use runtime::journal::EventKind;

use self::{
    placements::Placement,
    statement::{Outcome, Statement},
    steps::{Step, Tracer},
};
use crate::{
    confirm::{Limits, command},
    exit::Exit,
    plan::{
        FaultKind, FaultSpec, Plan, Profile,
        model::{JOB_MANAGER, USER_ERROR_AT, USER_PANIC_AT},
    },
    run::run_plan,
    sweep::Engine,
    trouble::Trouble,
    worker::{Request, What},
};

pub struct ExhaustOptions {
    pub seed: u64,
    /// The matrix of local copies, in place of the faults of a profile.
    pub matrix: bool,
    pub profile: &'static Profile,
    pub job: Option<String>,
    pub parameters: Vec<(String, u64)>,
    pub jobs: u32,
    pub batch: u32,
    pub limits: Limits,
    /// Begin no run after this time.
    pub budget: Option<Duration>,
    /// So many pairs of faults within one checkpoint, besides.
    pub pairs: u32,
    pub out: Option<PathBuf>,
}

/// How long after the input's end a fault may still begin and show its effect.
const AFTER_THE_INPUT_MS: u64 = 10_000;

/// The seed's plan without its faults, with time for one at its very end.
fn base(options: &ExhaustOptions) -> Result<Plan, String> {
    let what = What::Seed {
        seed: options.seed,
        profile: options.profile.name.to_string(),
        job: options.job.clone(),
        parameters: options.parameters.clone(),
    };
    let mut plan = what.plan()?;
    plan.faults.clear();
    for parameter in [USER_PANIC_AT, USER_ERROR_AT] {
        plan.workload.parameters.remove(parameter);
    }
    let input_ms = plan.workload.records * 1_000 / plan.workload.records_per_second;
    plan.healed_by_ms = input_ms + AFTER_THE_INPUT_MS;
    plan.time_limit_ms = plan.healed_by_ms + 60_000;
    Ok(plan)
}

/// Runs a plan in this process and gives its record and steps.
fn traced(plan: &Plan) -> Result<(RunRecord, Vec<Step>), String> {
    // What comes after the healing is the harness's own doing, and nothing is broken there.
    let tracer = Tracer::until(plan.healed_by_ms);
    let record = run_plan(plan, Box::new(tracer.clone())).map_err(|error| error.to_string())?;
    Ok((record, tracer.steps()))
}

/// The plan with a crash in the middle of the run, and the steps from there to the checkpoint that ends the recovery.
fn recovery(base: &Plan, steps: &[Step]) -> Result<Option<(Plan, RunRecord, Vec<Step>)>, String> {
    let snapshots: Vec<&Step> = placements::middle_checkpoint(steps)
        .iter()
        .filter(|step| step.kind == EventKind::SnapshotSyncDone && step.emitter != JOB_MANAGER)
        .collect();
    let Some(crash) = snapshots.get(snapshots.len() / 2) else { return Ok(None) };
    let mut plan = base.clone();
    plan.faults = vec![FaultSpec {
        target: crash.emitter.clone(),
        trigger: crash.trigger(),
        duration_ms: 0,
        fault: FaultKind::Crash { restart_after_ms: Some(300) },
    }];
    let (record, steps) = traced(&plan)?;
    let after = steps.iter().position(|step| step.number > crash.number).unwrap_or(steps.len());
    let is = |kind: EventKind| move |step: &Step| step.kind == kind;
    let restored = steps[after..].iter().position(is(EventKind::RestoreChosen)).map_or(steps.len(), |n| after + n);
    let end = steps[restored..].iter().position(is(EventKind::CheckpointCompleted));
    let end = end.map_or(steps.len(), |n| restored + n + 1);
    Ok(Some((plan, record, steps[after..end].to_vec())))
}

/// Where plans of failed runs go, and all records if a directory was given.
struct Output {
    directory: PathBuf,
    records: Option<BufWriter<File>>,
}

impl Output {
    fn new(options: &ExhaustOptions) -> Result<Output, String> {
        let Some(directory) = &options.out else {
            let what = if options.matrix { "local-matrix" } else { options.profile.name };
            let name = format!("weir-exhaust-{what}-{}", options.seed);
            return Ok(Output { directory: std::env::temp_dir().join(name), records: None });
        };
        let cannot = |what: &Path, error: std::io::Error| format!("--out: cannot write {}: {error}", what.display());
        std::fs::create_dir_all(directory).map_err(|error| cannot(directory, error))?;
        let path = directory.join("records.jsonl");
        let file = File::create(&path).map_err(|error| cannot(&path, error))?;
        Ok(Output { directory: directory.clone(), records: Some(BufWriter::new(file)) })
    }

    fn add(&mut self, record: &RunRecord) -> Result<(), String> {
        let Some(records) = &mut self.records else { return Ok(()) };
        let text = serde_json::to_string(record).map_err(|error| format!("--out: {error}"))?;
        writeln!(records, "{text}").map_err(|error| format!("--out: cannot write records.jsonl: {error}"))
    }

    /// The plan of a failed run as a file; gives its name.
    fn plan(&self, number: usize, plan: &Plan) -> Result<String, String> {
        let path = self.directory.join(format!("failed-{number}.toml"));
        std::fs::create_dir_all(&self.directory)
            .and_then(|()| std::fs::write(&path, plan.to_toml()))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(path.display().to_string())
    }

    fn finish(mut self) -> Result<Option<PathBuf>, String> {
        let Some(records) = &mut self.records else { return Ok(None) };
        records.flush().map_err(|error| format!("--out: cannot write records.jsonl: {error}"))?;
        Ok(Some(self.directory))
    }
}

/// What there is to say of a failed run; its plan becomes a file.
fn screen(record: &RunRecord, plan: &Plan, number: usize, output: &Output) -> Result<String, String> {
    let file = output.plan(number, plan)?;
    Ok(failure_screen(record, &command(&What::Plan(plan.to_toml()), &plan.profile, Some(&file))))
}

/// Runs everything. What it finds goes to `out`, progress to standard error.
///
/// # Errors
/// A line that says what of the environment failed.
pub fn exhaust(options: &ExhaustOptions, out: &mut dyn Write) -> Result<Exit, Trouble> {
    let say = |out: &mut dyn Write, text: &str| {
        writeln!(out, "{text}").map_err(|error| format!("cannot write to standard output: {error}"))
    };
    if options.matrix {
        return matrix::exhaust_local_matrix(options, out);
    }
    let mut output = Output::new(options)?;
    let base = base(options)?;
    let (clean, steps) = traced(&base)?;
    if clean.verdict.is_failure() {
        say(out, &screen(&clean, &base, 0, &output)?)?;
        return Ok(Exit::Violation);
    }
    let mut placements = placements::singles(&base, &steps, true);
    let in_clean_run = placements.len();
    let recovery = recovery(&base, &steps)?;
    let mut recovery_steps = 0;
    if let Some((plan, record, steps)) = &recovery {
        if record.verdict.is_failure() {
            say(out, &screen(record, plan, 0, &output)?)?;
            return Ok(Exit::Violation);
        }
        recovery_steps = steps.len();
        placements.extend(placements::singles(plan, steps, false));
    }
    let singles = placements.len();
    placements.extend(placements::pairs(&base, &steps, options.pairs));
    let mut statement = Statement {
        profile: options.profile.name.to_string(),
        seed: options.seed,
        shape: shape(&base, &clean),
        clean_steps: steps.len(),
        recovery_steps,
        in_clean_run,
        in_recovery: singles - in_clean_run,
        pairs: placements.len() - singles,
        ..Statement::default()
    };
    say(out, statement.heading().trim_end())?;
    let started = Instant::now();
    let mut screens = Vec::new();
    run_all(options, &placements, singles, &mut |number, record, bar| {
        let placement = &placements[number];
        if record.verdict == Verdict::Environment {
            return Err(record.message.clone().unwrap_or_else(|| "a worker could not run".to_string()));
        }
        output.add(&record)?;
        let outcome = outcome(placement, &record);
        if let Outcome::Failed(signature) = &outcome {
            bar.println(format!("{}: {signature}", placement.name));
            if !statement.failures.contains_key(signature) {
                screens.push(format!("{}\n{}", placement.name, screen(&record, &placement.plan, number + 1, &output)?));
            }
        }
        statement.add(placement, number < singles, outcome);
        Ok(statement.failed())
    })?;
    statement.elapsed = started.elapsed();
    statement.budget = options.budget;
    for screen in &screens {
        say(out, &format!("\n{screen}"))?;
    }
    say(out, &format!("\n{}", statement.text().trim_end()))?;
    if let Some(directory) = output.finish()? {
        say(out, &format!("wrote  {}", directory.display()))?;
    }
    Ok(statement.exit())
}

fn shape(plan: &Plan, clean: &RunRecord) -> String {
    format!(
        "job {}, {} TaskManagers, parallelism {}, {} splits, local recovery {}, {} checkpoints completed",
        plan.workload.name,
        plan.cluster.task_managers,
        plan.workload.parallelism,
        plan.workload.splits,
        if plan.settings.local_recovery { "on" } else { "off" },
        clean.counters.completed_checkpoints
    )
}

/// What became of a placement.
fn outcome(placement: &Placement, record: &RunRecord) -> Outcome {
    if record.verdict.is_failure() {
        let signature = record.signature.clone().unwrap_or_else(|| record.verdict.name().to_string());
        return Outcome::Failed(signature);
    }
    let unfired = |index: &usize| record.coverage.unfired.iter().find(|unfired| unfired.index == Some(*index));
    match placement.placed.iter().find_map(unfired) {
        Some(unfired) => Outcome::NothingToHit(unfired.reason.clone()),
        // Parameters of the workload have no place in the list of faults.
        None => match record.coverage.unfired.iter().find(|u| placement.placed.is_empty() && u.index.is_none()) {
            Some(unfired) => Outcome::NothingToHit(unfired.reason.clone()),
            None => Outcome::Hit,
        },
    }
}

fn run_all(
    options: &ExhaustOptions,
    placements: &[Placement],
    singles: usize,
    take: &mut dyn FnMut(usize, RunRecord, &ProgressBar) -> Result<u64, String>,
) -> Result<(), Trouble> {
    let bar = ProgressBar::with_draw_target(Some(placements.len() as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} placements  {per_sec}  {msg}  {eta} left")
        .map_err(|error| error.to_string())?;
    bar.set_style(style);
    bar.set_message("0 failures");
    let engine = Engine {
        jobs: options.jobs,
        batch: options.batch,
        limits: options.limits,
        budget: options.budget,
        audit: false,
    };
    // Plans differ, so a plan tells its placement. A pair may be drawn twice, or be a single of the recovery; once is enough.
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    for (number, placement) in placements.iter().enumerate() {
        numbers.entry(placement.plan.to_toml()).or_insert(number);
    }
    debug_assert!(numbers.len() >= singles, "singles of a clean run and of a recovery hold different faults");
    let mut requests =
        placements.iter().map(|placement| Request { what: What::Plan(placement.plan.to_toml()), segment: None });
    let outcome = engine.run(&mut requests, &mut |request, record| {
        let What::Plan(text) = &request.what else { return Ok(()) };
        let Some(number) = numbers.get(text) else { return Ok(()) };
        let failures = take(*number, record, &bar)?;
        bar.set_message(format!("{failures} {}", if failures == 1 { "failure" } else { "failures" }));
        bar.inc(1);
        Ok(())
    });
    bar.finish_and_clear();
    outcome
}

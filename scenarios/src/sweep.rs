//! A sweep: many seeds in worker processes, a summary, and the proof that the sweep could have failed.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::channel,
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reports::{Expectation, FloorExpectation, Judgement, RunRecord, Summary, Verdict, failure_screen, tables};
use runtime::{journal::EventKind, sabotage::Sabotage};

use crate::{
    audit,
    confirm::{Runner, command},
    phase::Phase,
    plan::{FaultKind, FaultSpec, Profile, Trigger, generate},
    record::CANARY_AT,
    rehearsal,
    worker::{Request, What},
};

/// How a sweep ends, as the exit status says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Clean = 0,
    Violation = 10,
    Nondeterminism = 11,
    /// The sweep could not have seen a violation, or did not see what its profile declares.
    Blind = 12,
    Environment = 20,
    Usage = 64,
}

pub struct SweepOptions {
    /// First and one past the last.
    pub seeds: (u64, u64),
    pub jobs: u32,
    pub profile: &'static Profile,
    pub job: Option<String>,
    pub parameters: Vec<(String, u64)>,
    pub budget: Option<Duration>,
    pub run_limit: Duration,
    pub batch: u32,
    pub out: Option<PathBuf>,
    pub audit: bool,
}

impl SweepOptions {
    fn request(&self, seed: u64) -> Request {
        let what = What::Seed {
            seed,
            profile: self.profile.name.to_string(),
            job: self.job.clone(),
            parameters: self.parameters.clone(),
        };
        Request { what, segment: None }
    }

    fn is_rehearsal(&self) -> bool {
        self.job.as_deref() == Some(rehearsal::NAME)
    }
}

pub fn expectation(profile: &Profile) -> Expectation {
    let floor = &profile.floor;
    Expectation {
        profile: profile.name.to_string(),
        minimum_seeds: profile.minimum_seeds,
        faults: profile.faults.iter().map(|class| class.name().to_string()).collect(),
        phases: profile.phases.iter().map(|kind| kind.name().to_string()).collect(),
        floor: FloorExpectation {
            task_managers: floor.task_managers,
            subtasks: floor.subtasks,
            records: floor.records,
            completed_checkpoints: floor.completed_checkpoints,
            fired_faults: floor.fired_faults,
            restores: floor.restores,
            older_restores_percent: floor.older_restores_percent,
        },
    }
}

/// Runs that prove that the sweep can tell broken from whole, before anything is believed.
struct Proof {
    name: &'static str,
    must_fail: bool,
    plan: String,
}

fn proofs(options: &SweepOptions) -> Vec<Proof> {
    let quiet = Profile::named("quiet").unwrap_or(options.profile);
    let mut plan = generate(quiet, options.seeds.0);
    if let Some(job) = &options.job {
        plan.workload.name.clone_from(job);
    }
    let whole = plan.clone();
    let mut canary = plan.clone();
    canary.workload.parameters.insert(CANARY_AT.to_string(), 3);
    let mut proofs = vec![
        Proof { name: "fault-free run", must_fail: false, plan: whole.to_toml() },
        Proof { name: "canary", must_fail: true, plan: canary.to_toml() },
    ];
    if !options.is_rehearsal() {
        // A defect of the runtime itself, that only an invariant can notice.
        let mut sabotaged = plan;
        sabotaged.sabotage = vec![Sabotage::NeverRestart];
        sabotaged.faults = vec![FaultSpec {
            // Whoever takes a snapshot runs a task: its death must be followed by a restart, whatever the seed made of the cluster.
            target: "emitter".to_string(),
            trigger: Trigger::On { event: EventKind::SnapshotSyncDone, entity: None, ordinal: 5, delay_ms: 0 },
            duration_ms: 0,
            fault: FaultKind::Crash { restart_after_ms: Some(200) },
        }];
        proofs.push(Proof { name: "sabotaged run (never-restart)", must_fail: true, plan: sabotaged.to_toml() });
    }
    proofs
}

/// Where the records go.
struct Output {
    directory: PathBuf,
    records: BufWriter<File>,
}

impl Output {
    fn create(directory: &Path) -> Result<Output, String> {
        let cannot = |what: &Path, error: std::io::Error| format!("--out: cannot write {}: {error}", what.display());
        std::fs::create_dir_all(directory).map_err(|error| cannot(directory, error))?;
        let records = directory.join("records.jsonl");
        let file = File::create(&records).map_err(|error| cannot(&records, error))?;
        Ok(Output { directory: directory.to_path_buf(), records: BufWriter::new(file) })
    }

    fn add(&mut self, record: &RunRecord) -> Result<(), String> {
        let text = serde_json::to_string(record).map_err(|error| format!("--out: {error}"))?;
        writeln!(self.records, "{text}")
            .and_then(|()| self.records.flush())
            .map_err(|error| format!("--out: cannot write records.jsonl: {error}"))
    }

    fn file(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.directory.join(name);
        std::fs::write(&path, text).map_err(|error| format!("--out: cannot write {}: {error}", path.display()))?;
        Ok(path)
    }
}

/// Runs the sweep. What it finds goes to `out`, progress to standard error.
///
/// # Errors
/// A line that says what of the environment failed.
pub fn sweep(options: &SweepOptions, out: &mut dyn Write) -> Result<Exit, String> {
    let mut output = options.out.as_deref().map(Output::create).transpose()?;
    let say = |out: &mut dyn Write, text: &str| {
        writeln!(out, "{text}").map_err(|error| format!("cannot write to standard output: {error}"))
    };
    let mut blind = Vec::new();
    let mut broken = false;
    let mut shaken = false;
    for proof in proofs(options) {
        let mut runner = Runner::new(1, options.run_limit);
        let request = Request { what: What::Plan(proof.plan.clone()), segment: None };
        let record = runner.confirmed(&request)?;
        if record.verdict == Verdict::Environment {
            return Err(record.message.unwrap_or_else(|| "a worker could not run".to_string()));
        }
        shaken |= record.verdict == Verdict::Nondeterminism;
        let failed = record.verdict.is_failure();
        let verdict = record.verdict.name();
        if proof.must_fail {
            let seen = record.verdict == Verdict::Violation;
            say(out, &format!("proof  {}: {verdict}, {}", proof.name, if seen { "as it must" } else { "NOT SEEN" }))?;
            if !seen {
                blind.push(format!("the {} must be a violation and was {verdict}", proof.name));
            }
        } else {
            say(out, &format!("proof  {}: {verdict}", proof.name))?;
            if failed {
                broken |= record.verdict != Verdict::Nondeterminism;
                let plan = write_plan(output.as_ref(), &record)?;
                say(out, &failure_screen(&record, &command(&request.what, &record.profile, plan.as_deref())))?;
            }
        }
    }
    // A rehearsal has no protocol of its own to cover.
    let declared = if options.is_rehearsal() {
        Expectation { profile: rehearsal::NAME.to_string(), ..Expectation::default() }
    } else {
        expectation(options.profile)
    };
    let mut summary = Summary::new(declared);
    summary.cores = u64::from(options.jobs);
    let started = Instant::now();
    let mut screens = Vec::new();
    run_all(options, started, &mut |record, bar| {
        if record.verdict == Verdict::Environment {
            return Err(record.message.clone().unwrap_or_else(|| "a worker could not run".to_string()));
        }
        let known = summary.failures.len();
        summary.add(&record);
        if let Some(output) = &mut output {
            output.add(&record)?;
        }
        if summary.failures.len() > known {
            let plan = write_plan(output.as_ref(), &record)?;
            let what = options.request(record.seed).what;
            let screen = failure_screen(&record, &command(&what, options.profile.name, plan.as_deref()));
            // At once, where somebody watches; in any case at the end.
            bar.println(format!("seed {}: {}", record.seed, record.signature.as_deref().unwrap_or("failed")));
            screens.push(screen);
        }
        Ok(summary.failed_runs())
    })?;
    summary.elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
    for screen in &screens {
        say(out, &format!("\n{screen}"))?;
    }
    say(out, &format!("\n{}", tables::summary_text(&summary, &Phase::names()).trim_end()))?;
    if let Some(output) = &output {
        let text = serde_json::to_string_pretty(&summary).map_err(|error| format!("--out: {error}"))?;
        output.file("summary.json", &text)?;
        say(out, &format!("wrote  {}", output.directory.display()))?;
    }
    if let Judgement::Blind(missing) = summary.judgement() {
        blind.extend(missing);
    }
    for reason in &blind {
        say(out, &format!("blind  {reason}"))?;
    }
    let violations = summary.failed_runs() - summary.count(Verdict::Nondeterminism);
    Ok(if broken || violations > 0 {
        Exit::Violation
    } else if shaken || summary.count(Verdict::Nondeterminism) > 0 {
        Exit::Nondeterminism
    } else if blind.is_empty() {
        Exit::Clean
    } else {
        Exit::Blind
    })
}

fn write_plan(output: Option<&Output>, record: &RunRecord) -> Result<Option<String>, String> {
    let (Some(output), Some(plan)) = (output, &record.plan) else { return Ok(None) };
    let path = output.file(&format!("failed-{}-{}.toml", record.profile, record.seed), plan)?;
    Ok(Some(path.display().to_string()))
}

/// Runs every seed and hands each record to `take`, which gives the number of failures so far.
fn run_all(
    options: &SweepOptions,
    started: Instant,
    take: &mut dyn FnMut(RunRecord, &ProgressBar) -> Result<u64, String>,
) -> Result<(), String> {
    let (first, end) = options.seeds;
    let bar = ProgressBar::with_draw_target(Some(end - first), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} seeds  {per_sec}  {msg}  {eta} left")
        .map_err(|error| error.to_string())?;
    bar.set_style(style);
    bar.set_message("0 failures");
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let (send, records) = channel::<Result<RunRecord, String>>();
    let send = Mutex::new(send);
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            let send = send.lock().map_or_else(|poisoned| poisoned.into_inner().clone(), |send| send.clone());
            let (next, stop) = (&next, &stop);
            scope.spawn(move || {
                let mut runner = Runner::new(options.batch, options.run_limit);
                loop {
                    let over = options.budget.is_some_and(|budget| started.elapsed() >= budget);
                    if over || stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let request = options.request(seed);
                    let result = if options.audit {
                        audit::audited(&request, options.run_limit).map(|(record, _)| record)
                    } else {
                        runner.confirmed(&request)
                    };
                    let failed = result.is_err();
                    if send.send(result).is_err() || failed {
                        break;
                    }
                }
            });
        }
        // Only the workers hold the sending side now: the loop below ends with the last of them.
        drop(send);
        let mut outcome = Ok(());
        for result in records {
            match result.and_then(|record| take(record, &bar)) {
                Ok(failures) => {
                    bar.set_message(format!("{failures} {}", if failures == 1 { "failure" } else { "failures" }));
                    bar.inc(1);
                }
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    outcome = outcome.and(Err(error));
                }
            }
        }
        bar.finish_and_clear();
        outcome
    })
}

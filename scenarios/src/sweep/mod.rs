//! A sweep: many seeds in worker processes, a summary, and the proof that the sweep could have failed.

mod closing;
mod conclusion;
mod directory;
mod engine;
mod merge;
mod options;
mod proofs;
mod records;
mod shard;
mod steering;
mod stored;

use std::{
    collections::BTreeSet,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reports::{RunRecord, Summary, Verdict, failure_screen};

use self::{
    closing::{Closing, ProofRecord},
    conclusion::{Conclusion, Fold, say},
    directory::Directory,
    options::expectation_of,
    proofs::proofs,
    stored::Stored,
};
pub use self::{
    engine::Engine,
    merge::merge,
    options::{Output, SweepOptions, expectation},
    records::{FILE as RECORDS, read as read_records},
    shard::Shard,
};
pub use crate::exit::Exit;
use crate::{
    confirm::{Runner, command},
    trouble::Trouble,
    worker::{Request, What},
};

/// What was asked of the sweep in `directory`; None if no sweep was begun there.
///
/// # Errors
/// If what is there makes no sense.
pub fn stored_options(directory: &Path) -> Result<Option<Stored>, Trouble> {
    if directory::holds_a_sweep(directory) { directory::stored(directory).map(Some) } else { Ok(None) }
}

/// Runs the sweep. What it finds goes to `out`, progress to standard error.
///
/// # Errors
/// A line that says what was wrong with what was asked, or what of the environment failed.
pub fn sweep(options: &SweepOptions, out: &mut dyn Write) -> Result<Exit, Trouble> {
    let stored = options.stored()?;
    let mut fold = Fold::new(Summary::new(expectation_of(&stored)));
    let mut done = BTreeSet::new();
    // Of earlier sessions only the time of their runs is known: what was killed leaves no clock.
    let mut earlier = Duration::ZERO;
    let mut directory = open(options, &stored, &mut |record| {
        if !done.insert(record.seed) {
            return Err(Trouble::Usage(format!("seed {} has two records", record.seed)));
        }
        earlier = earlier.saturating_add(Duration::from_micros(record.timings.wall_us));
        fold.add(&record, &options.request(record.seed).what, None).map(|_| ())
    })?;
    let proofs = prove(options, directory.as_ref(), out)?;
    if !done.is_empty() {
        say(out, &format!("resumed  {} of {} seeds were run already", done.len(), stored.seeds()))?;
    }
    let started = Instant::now();
    let bar = progress(stored.seeds(), done.len() as u64)?;
    let engine = Engine {
        jobs: options.jobs,
        batch: options.batch,
        limits: options.limits,
        budget: options.budget,
        audit: options.audit,
    };
    let (first, end) = options.seeds;
    let seeds = (first..end).filter(|seed| stored.holds(*seed) && !done.contains(seed));
    let outcome = engine.run(&mut seeds.map(|seed| options.request(seed)), &mut |request, record| {
        if record.verdict == Verdict::Environment {
            return Err(environment(record));
        }
        let is_new = fold.add(&record, &request.what, directory.as_ref())?;
        if let Some(directory) = &mut directory {
            directory.add(&record)?;
        }
        if is_new {
            // At once, where somebody watches; in any case at the end.
            bar.println(format!("seed {}: {}", record.seed, record.signature.as_deref().unwrap_or("failed")));
        }
        let failures = fold.summary.failed_runs();
        bar.set_message(format!("{failures} {}", if failures == 1 { "failure" } else { "failures" }));
        bar.inc(1);
        Ok(())
    });
    bar.finish_and_clear();
    outcome?;
    let elapsed = started.elapsed().saturating_add(earlier / options.jobs.max(1));
    fold.summary.elapsed_ms = stored::milliseconds(elapsed).max(1);
    fold.summary.cores = u64::from(options.jobs);
    let closing = Closing::new(stored, &fold.summary, proofs.clone());
    steering::steer(options, &closing, &mut fold, directory.as_ref())?;
    let conclusion = Conclusion { fold, proofs, complaints: Vec::new() };
    let exit = conclusion.tell(directory.as_ref(), out)?;
    if !closing.complete {
        let (runs, seeds) = (closing.runs, closing.options.seeds());
        let go_on = directory.as_ref().map_or(String::new(), |directory| {
            format!("; go on with ./weir chaos --resume {}", directory.path().display())
        });
        say(out, &format!("budget  {runs} of {seeds} seeds were run{go_on}"))?;
    }
    if let Some(directory) = &directory {
        directory.close(&[closing])?;
    }
    Ok(exit)
}

fn open(
    options: &SweepOptions,
    stored: &Stored,
    each: &mut dyn FnMut(RunRecord) -> Result<(), Trouble>,
) -> Result<Option<Directory>, Trouble> {
    match &options.output {
        Output::Nowhere => Ok(None),
        Output::New(path) => Directory::create(path, stored).map(Some),
        Output::Resumed(path) => {
            if let Some(difference) = directory::stored(path)?.difference(stored) {
                return Err(Trouble::Usage(format!(
                    "--resume: {} is a sweep with other options: {difference}",
                    path.display()
                )));
            }
            Directory::resume(path, stored, each).map(Some)
        }
    }
}

/// Runs the proofs and says how they went.
fn prove(
    options: &SweepOptions,
    directory: Option<&Directory>,
    out: &mut dyn Write,
) -> Result<Vec<ProofRecord>, Trouble> {
    let mut told = Vec::new();
    for proof in proofs(options) {
        let mut runner = Runner::new(1, options.limits);
        let request = Request { what: What::Plan(proof.plan.clone()), segment: None };
        let record = runner.confirmed(&request)?;
        if record.verdict == Verdict::Environment {
            return Err(environment(record));
        }
        let verdict = record.verdict.name();
        let ended = ProofRecord { name: proof.name.to_string(), must_fail: proof.must_fail, verdict: record.verdict };
        if proof.must_fail {
            let seen = if ended.is_blind() { "NOT SEEN" } else { "as it must" };
            say(out, &format!("proof  {}: {verdict}, {seen}", proof.name))?;
        } else {
            say(out, &format!("proof  {}: {verdict}", proof.name))?;
            if record.verdict.is_failure() {
                let plan = directory.map_or(Ok(None), |directory| directory.plan(&record))?;
                say(out, &failure_screen(&record, &command(&request.what, &record.profile, plan.as_deref())))?;
            }
        }
        told.push(ended);
    }
    Ok(told)
}

fn environment(record: RunRecord) -> Trouble {
    Trouble::Environment(record.message.unwrap_or_else(|| "a worker could not run".to_string()))
}

fn progress(seeds: u64, done: u64) -> Result<ProgressBar, String> {
    let bar = ProgressBar::with_draw_target(Some(seeds), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} seeds  {per_sec}  {msg}  {eta} left")
        .map_err(|error| error.to_string())?;
    bar.set_style(style);
    bar.set_position(done);
    bar.reset_eta();
    bar.set_message("0 failures");
    Ok(bar)
}
